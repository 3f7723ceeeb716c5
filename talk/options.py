"""
Which of its options a model finds likeliest: letters of multiple choice (MMLU, ARC), whole endings (CORE).

No sampling is needed. A question is a few sequences of ids with a common beginning; of each the end is scored, and the
model prefers the end of the lowest mean loss. evaluate.py turns that into accuracies. The options of a question share
one row, in which their common beginning stands once, and rows of about one length share a batch.

Sizes in shape comments: B rows of the batch, T tokens, S scored places, C channels (n_embd), H heads, D head size.
"""
import copy
import math
import os

import numpy as np
import torch
import torch.nn.functional as F

from common import CHUNK, linear, rms_norm, rotary_table, rotate

# ---------------------------------------------------------------------------------------------------------------------
# Rows, and the losses of what is scored in them

def tree_row(options):
    """Options [(ids, start), ...] of a question, ids[start:] to be scored -> one row that says what they share once.

    Returns two int32 arrays. row (3, T): ids, their positions, and the branch they are on: 0 is the common beginning,
    which all see; option i goes on as branch i + 1. scored (3, n): of every scored token the place in the row of the
    token before it, the token itself, and its option.
    """
    common = len(os.path.commonprefix([ids for ids, _ in options]))          # works for lists as for paths
    ids, position, branch, scored = list(options[0][0][:common]), list(range(common)), [0] * common, []
    for i, (its, start) in enumerate(options):
        moved = len(ids) - common                                            # of the tokens behind the common beginning
        scored += [(t - 1 + (moved if t > common else 0), its[t], i) for t in range(start, len(its))]
        ids += its[common:-1]                                                # the last one is only predicted
        position += range(common, len(its) - 1)
        branch += [i + 1] * (len(ids) - len(branch))
    return np.array([ids, position, branch], dtype=np.int32), np.array(scored, dtype=np.int32).T


def attention_mask(branch, at, dtype):
    """What the tokens at the places `at` (B, S) see of the rows of branch (B, T): -> (B, 1, S, T), 0 or -inf."""
    places, own = torch.arange(branch.size(1), device=at.device), branch.gather(1, at)[:, :, None]
    sees = (places <= at[:, :, None]) & ((branch == 0)[:, None, :] | (branch[:, None, :] == own))
    return torch.zeros(sees.shape, dtype=dtype, device=at.device).masked_fill_(~sees, -math.inf).unsqueeze(1)


def block_states(block, x, cos, sin, attn_mask, at=None):
    """Block.forward on x (B, T, C); with `at` (B, S) for those places alone: all tokens give keys and values, but only
    these are asked and go on, -> (B, S, C). attn_mask (B, 1, T or S, T), None: causal.

    It is compiled by itself, once for all blocks. The rotary table comes from outside: in a compiled whole model it was
    computed anew in every block.
    """
    attn, (B, T, C), D = block.attn, x.shape, block.attn.head_size
    normed, q_cos, q_sin = rms_norm(x), cos, sin
    k, v = linear(normed, attn.wk, attn.wv).view(B, T, -1, D).transpose(1, 2).chunk(2, dim=1)       # (B, Hkv, T, D)
    if at is not None:
        T = at.size(1)
        x, normed = (rows.gather(1, at[:, :, None].expand(-1, -1, C)) for rows in (x, normed))
        q_cos, q_sin = (table.gather(2, at[:, None, :, None].expand(-1, -1, -1, D // 2)) for table in (cos, sin))
    q = linear(normed, attn.wq).view(B, T, -1, D).transpose(1, 2)                                   # (B, H, T or S, D)
    q, k = rotate(rms_norm(q), q_cos, q_sin), rotate(rms_norm(k), cos, sin)
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask, is_causal=attn_mask is None,
                                       enable_gqa=attn.n_head != attn.n_kv_head)
    x = x + linear(y.transpose(1, 2).reshape(B, T, -1), attn.wo)
    return x + block.mlp(rms_norm(x))


@torch.inference_mode()
def score_rows(model, trees, forward=block_states):
    """trees: pairs (row, scored) of tree_row -> for each the loss in nats (n,) of its scored tokens, and whether each
    was the likeliest of all (n,). A test holds it to GPT.forward on every option alone."""
    device, config = model.embed.device, model.config
    longest = max(row.shape[1] for row, _ in trees)
    rows = np.zeros((len(trees), 3, -(-longest // 16) * 16), dtype=np.int64)  # attention is up to twice as fast then
    for b, (row, _) in enumerate(trees):
        rows[b, :, :row.shape[1]] = row                                      # behind it padding, which no token sees
    asked = [np.unique(scored[0], return_inverse=True) for _, scored in trees]       # each place once, in rising order
    at = np.zeros((len(trees), max(len(places) for places, _ in asked)), dtype=np.int64)
    for b, (places, _) in enumerate(asked):
        at[b, :len(places)] = places
    which = np.concatenate([b * at.shape[1] + inverse for b, (_, inverse) in enumerate(asked)])     # of at.flatten()
    target = np.concatenate([scored[1] for _, scored in trees])
    ids, position, branch = torch.from_numpy(rows).to(device).unbind(1)      # each (B, T)
    at = torch.from_numpy(at).to(device)

    everywhere = torch.arange(ids.size(1), device=device).expand_as(ids)
    attn_mask = attention_mask(branch, everywhere, model.compute_dtype) if rows[:, 2].any() else None    # else causal
    cos, sin = rotary_table(position, config.n_embd // config.n_head, config.rope_theta)
    x = rms_norm(F.embedding(ids, model.embed)).to(model.compute_dtype)
    for block in model.blocks[:-1]:
        x = forward(block, x, cos, sin, attn_mask)
    x = forward(model.blocks[-1], x, cos, sin, attention_mask(branch, at, x.dtype), at)
    x = rms_norm(x).flatten(0, 1)

    losses, likeliest = np.zeros(len(which), np.float32), np.zeros(len(which), bool)
    for start in range(0, len(x), CHUNK):
        here = np.flatnonzero((start <= which) & (which < start + CHUNK))
        logits = linear(x[start:start + CHUNK], model.head).float()          # of each place once, for all its options
        place, token = torch.from_numpy(np.stack([which[here] - start, target[here]]).astype(np.int64)).to(device)
        losses[here] = (logits.logsumexp(-1)[place] - logits[place, token]).cpu()
        likeliest[here] = (logits.max(-1).indices[place] == token).cpu()     # argmax takes thrice as long on a CPU
    ends = np.cumsum([scored.shape[1] for _, scored in trees])[:-1]
    return list(zip(np.split(losses, ends), np.split(likeliest, ends)))


def batches_by_length(trees, batch_tokens):
    """Yield lists of indices of rows of about one length, longest first, so that hardly anything is padding and too
    large a batch shows at once."""
    batch, order = [], sorted(range(len(trees)), key=lambda i: -trees[i][0].shape[1])
    for i in order:
        if batch and (len(batch) + 1) * trees[batch[0]][0].shape[1] > batch_tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def choose(model, questions, batch_tokens=0, forward=None, progress=lambda done: None):
    """questions: a list of (options, index of the right one) -> for each whether it was answered rightly: by the lowest
    mean loss a token, and where there is a single option by every token of it being the likeliest.

    batch_tokens: 0 chooses. forward: block_states, or what torch.compile made of it. progress(done) after each batch.
    """
    model = copy.deepcopy(model)
    for weight in (*model.blocks.parameters(), model.head):
        weight.data = weight.data.to(model.compute_dtype)        # once: in every batch it took 6 to 9 % of the time
    batch_tokens = batch_tokens or (65536 if model.embed.is_cuda else 2048)
    trees, right, done = [tree_row(options) for options, _ in questions], [None] * len(questions), 0
    for batch in batches_by_length(trees, batch_tokens):
        for i, (losses, likeliest) in zip(batch, score_rows(model, [trees[i] for i in batch], forward or block_states)):
            option, (options, gold) = trees[i][1][2], questions[i]
            mean_losses = np.bincount(option, losses) / np.bincount(option)
            right[i] = bool(likeliest.all() if len(options) == 1 else mean_losses.argmin() == gold)
        done += len(batch)
        progress(done)
    return right
