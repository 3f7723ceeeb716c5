"""
Which option of a question does a model find likeliest? Letters (MMLU, ARC) or whole endings (CORE).

No sampling is needed. An option is a sequence of ids whose end is scored, and the model chooses the
option whose end has the lowest mean loss; evaluate.py turns that into accuracies. What is fast
about it: all options of a question stand in one row, which holds their common beginning once, and
a batch holds rows of about the same length.

Sizes in shape comments: B rows of the batch, T tokens of a row, S scored places, C channels
(n_embd), H heads, D head size.
"""
import copy
import math
import os

import numpy as np
import torch
import torch.nn.functional as F

from common import CHUNK, linear, rms_norm, rotary_table, rotate

# --------------------------------------------------------------------------------------------------
# Rows, and the losses of what is scored in them

def tree_row(options):
    """Lay the options of a question out in one row, with their common beginning once.

    options: [(ids, start), ...] of which ids[start:] is scored. The row is a tree: branch 0 is the
    common beginning, which all tokens see, and the rest of option i is branch i + 1.
    Returns two int32 arrays: row (3, T) with the id, position and branch of every token, and scored
    (3, n) with, for every scored token, the place in the row of the token before it (which
    predicts it), its own id, and its option.
    """
    # commonprefix works on lists as well as on paths.
    common = len(os.path.commonprefix([ids for ids, _ in options]))
    ids, position, branch, scored = \
        list(options[0][0][:common]), list(range(common)), [0] * common, []
    for i, (its, start) in enumerate(options):
        # How far the earlier options push this one's own tokens to the right.
        moved = len(ids) - common
        scored += [(t - 1 + (moved if t > common else 0), its[t], i)
                   for t in range(start, len(its))]
        # The last token is only predicted, so it needs no place in the row.
        ids += its[common:-1]
        position += range(common, len(its) - 1)
        branch += [i + 1] * (len(ids) - len(branch))
    return np.array([ids, position, branch], dtype=np.int32), np.array(scored, dtype=np.int32).T


def attention_mask(branch, at, dtype):
    """What the tokens at some places see of their rows: earlier tokens of branch 0 and their own.

    branch: (B, T), the branch of every token. at: (B, S), the places.
    Returns (B, 1, S, T), 0 where a token sees and -inf where it does not.
    """
    places, own = \
        torch.arange(branch.size(1), device=at.device), branch.gather(1, at)[:, :, None]
    sees = (places <= at[:, :, None]) & ((branch == 0)[:, None, :] | (branch[:, None, :] == own))
    return torch.zeros(sees.shape, dtype=dtype, device=at.device) \
        .masked_fill_(~sees, -math.inf).unsqueeze(1)


def block_states(block, x, cos, sin, attn_mask, at=None):
    """Block.forward of common.py on x (B, T, C), with any mask, and if asked for some places only.

    attn_mask: (B, 1, T or S, T), or None for causal attention.
    at: (B, S), places in the row, or None for all. All tokens give keys and values, but only these
    places have queries and go on: the result is (B, S, C).

    torch.compile gets this function and not the whole model, so it compiles once for all blocks.
    The rotary table is an argument because a compiled whole model computed it in every block.
    """
    attn, (B, T, C), D = block.attn, x.shape, block.attn.head_size
    normed, q_cos, q_sin = rms_norm(x), cos, sin
    # (B, T, C) -> (B, H_kv, T, D) each
    k, v = linear(normed, attn.wk, attn.wv).view(B, T, -1, D).transpose(1, 2).chunk(2, dim=1)
    if at is not None:
        T = at.size(1)
        x, normed = (rows.gather(1, at[:, :, None].expand(-1, -1, C)) for rows in (x, normed))
        q_cos, q_sin = (table.gather(2, at[:, None, :, None].expand(-1, -1, -1, D // 2))
                        for table in (cos, sin))
    # (B, T or S, C) -> (B, H, T or S, D)
    q = linear(normed, attn.wq).view(B, T, -1, D).transpose(1, 2)
    q, k = rotate(rms_norm(q), q_cos, q_sin), rotate(rms_norm(k), cos, sin)
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask, is_causal=attn_mask is None,
                                       enable_gqa=attn.n_head != attn.n_kv_head)
    x = x + linear(y.transpose(1, 2).reshape(B, T, -1), attn.wo)
    return x + block.mlp(rms_norm(x))


@torch.inference_mode()
def score_rows(model, trees, forward=block_states):
    """The losses of the scored tokens of a batch of rows.

    trees: what tree_row returned, (row, scored), for each row.
    Returns for each row the loss (n,) of its scored tokens in nats, and (n,) whether the token was
    the likeliest of the vocabulary. A test compares them with GPT.forward on every option alone.
    """
    device, config = model.embed.device, model.config
    longest = max(row.shape[1] for row, _ in trees)
    # Attention is up to twice as fast where the length is a multiple of 16.
    rows = np.zeros((len(trees), 3, -(-longest // 16) * 16), dtype=np.int64)
    for b, (row, _) in enumerate(trees):
        # No token sees the padding, as it stands after all of them.
        rows[b, :, :row.shape[1]] = row
    # Several options can score the token after one place: each place gets one row of logits.
    asked = [np.unique(scored[0], return_inverse=True) for _, scored in trees]
    at = np.zeros((len(trees), max(len(places) for places, _ in asked)), dtype=np.int64)
    for b, (places, _) in enumerate(asked):
        at[b, :len(places)] = places
    # For every scored token its place in the flattened `at`.
    which = np.concatenate([b * at.shape[1] + inverse for b, (_, inverse) in enumerate(asked)])
    target = np.concatenate([scored[1] for _, scored in trees])
    ids, position, branch = torch.from_numpy(rows).to(device).unbind(1)  # (B, T) each
    at = torch.from_numpy(at).to(device)

    everywhere = torch.arange(ids.size(1), device=device).expand_as(ids)
    # Without branches attention is plainly causal.
    attn_mask = attention_mask(branch, everywhere, model.compute_dtype) \
        if rows[:, 2].any() else None
    cos, sin = rotary_table(position, config.n_embd // config.n_head, config.rope_theta)
    x = rms_norm(F.embedding(ids, model.embed)).to(model.compute_dtype)
    for block in model.blocks[:-1]:
        x = forward(block, x, cos, sin, attn_mask)
    x = forward(model.blocks[-1], x, cos, sin, attention_mask(branch, at, x.dtype), at)
    x = rms_norm(x).flatten(0, 1)

    losses, likeliest = np.zeros(len(which), np.float32), np.zeros(len(which), bool)
    for start in range(0, len(x), CHUNK):
        here = np.flatnonzero((start <= which) & (which < start + CHUNK))
        logits = linear(x[start:start + CHUNK], model.head).float()
        place, token = torch.from_numpy(
            np.stack([which[here] - start, target[here]]).astype(np.int64)).to(device)
        losses[here] = (logits.logsumexp(-1)[place] - logits[place, token]).cpu()
        # On a CPU argmax would take three times as long as max.
        likeliest[here] = (logits.max(-1).indices[place] == token).cpu()
    ends = np.cumsum([scored.shape[1] for _, scored in trees])[:-1]
    return list(zip(np.split(losses, ends), np.split(likeliest, ends)))


def batches_by_length(trees, batch_tokens):
    """Yield lists of indices of rows of about the same length, so that little is padding.

    The longest come first: a batch that is too large for the memory fails at once.
    """
    batch, order = [], sorted(range(len(trees)), key=lambda i: -trees[i][0].shape[1])
    for i in order:
        if batch and (len(batch) + 1) * trees[batch[0]][0].shape[1] > batch_tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def choose(model, questions, batch_tokens=0, forward=None, progress=lambda done: None):
    """Answer questions by the option of the lowest mean loss per token.

    questions: a list of (options, index of the right one), for options as in tree_row. A single
    option is right if each of its tokens is the likeliest one.
    batch_tokens: tokens per batch; 0 chooses. forward: block_states, or torch.compile of it.
    progress: called with the number of questions answered after each batch.
    Returns for each question whether the answer was right.
    """
    model = copy.deepcopy(model)
    for weight in (*model.blocks.parameters(), model.head):
        # Casting the weights anew in every batch took 6 to 9 % of the time.
        weight.data = weight.data.to(model.compute_dtype)
    batch_tokens = batch_tokens or (65536 if model.embed.is_cuda else 2048)
    trees, right, done = \
        [tree_row(options) for options, _ in questions], [None] * len(questions), 0
    for batch in batches_by_length(trees, batch_tokens):
        for i, (losses, likeliest) in zip(
                batch, score_rows(model, [trees[i] for i in batch], forward or block_states)):
            option, (options, gold) = trees[i][1][2], questions[i]
            mean_losses = np.bincount(option, losses) / np.bincount(option)
            right[i] = bool(likeliest.all() if len(options) == 1 else mean_losses.argmin() == gold)
        done += len(batch)
        progress(done)
    return right
