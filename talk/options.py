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
    row_ids = list(options[0][0][:common])
    position = list(range(common))
    branch = [0] * common
    scored = []
    for i, (ids, start) in enumerate(options):
        # How far the earlier options push this one's own tokens to the right.
        moved = len(row_ids) - common
        for t in range(start, len(ids)):
            place = t - 1 if t <= common else t - 1 + moved
            scored.append((place, ids[t], i))
        # The last token is only predicted, so it needs no place in the row.
        own = ids[common:-1]
        row_ids += own
        position += range(common, common + len(own))
        branch += [i + 1] * len(own)
    row = np.array([row_ids, position, branch], dtype=np.int32)
    return row, np.array(scored, dtype=np.int32).T


def attention_mask(branch, at, dtype):
    """What the tokens at some places see of their rows: earlier tokens of branch 0 and their own.

    branch: (B, T), the branch of every token. at: (B, S), the places.
    Returns (B, 1, S, T), 0 where a token sees and -inf where it does not.
    """
    places = torch.arange(branch.size(1), device=at.device)  # (T,)
    own = branch.gather(1, at)[:, :, None]  # (B, S, 1)
    is_earlier = places <= at[:, :, None]  # (B, S, T)
    is_related = (branch == 0)[:, None, :] | (branch[:, None, :] == own)
    mask = torch.zeros(is_earlier.shape, dtype=dtype, device=at.device)
    return mask.masked_fill_(~(is_earlier & is_related), -math.inf).unsqueeze(1)


def block_states(block, x, cos, sin, attn_mask, at=None):
    """Block.forward of common.py on x (B, T, C), with any mask, and if asked for some places only.

    attn_mask: (B, 1, T or S, T), or None for causal attention.
    at: (B, S), places in the row, or None for all. All tokens give keys and values, but only these
    places have queries and go on: the result is (B, S, C).

    torch.compile gets this function and not the whole model, so it compiles once for all blocks.
    The rotary table is an argument because a compiled whole model computed it in every block.
    """
    attn = block.attn
    B, T, C = x.shape
    D = attn.head_size
    normed = rms_norm(x)
    # (B, T, C) -> (B, H_kv, T, D) each
    k, v = linear(normed, attn.wk, attn.wv).view(B, T, -1, D).transpose(1, 2).chunk(2, dim=1)
    k = rotate(rms_norm(k), cos, sin)
    if at is not None:
        S = at.size(1)
        index = at[:, :, None].expand(B, S, C)
        x = x.gather(1, index)  # (B, T, C) -> (B, S, C)
        normed = normed.gather(1, index)
        index = at[:, None, :, None].expand(-1, -1, -1, D // 2)
        cos = cos.gather(2, index)  # (B, 1, T, D / 2) -> (B, 1, S, D / 2)
        sin = sin.gather(2, index)
    # (B, T or S, C) -> (B, H, T or S, D)
    q = linear(normed, attn.wq).view(B, normed.size(1), -1, D).transpose(1, 2)
    q = rotate(rms_norm(q), cos, sin)
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask, is_causal=attn_mask is None,
                                       enable_gqa=attn.n_head != attn.n_kv_head)
    y = y.transpose(1, 2).flatten(2)  # (B, H, T or S, D) -> (B, T or S, C)
    x = x + linear(y, attn.wo)
    return x + block.mlp(rms_norm(x))


@torch.inference_mode()
def score_rows(model, trees, forward=block_states):
    """The losses of the scored tokens of a batch of rows.

    trees: what tree_row returned, (row, scored), for each row.
    Returns for each row the loss (n,) of its scored tokens in nats, and (n,) whether the token was
    the likeliest of the vocabulary. A test compares them with GPT.forward on every option alone.
    """
    device = model.embed.device
    config = model.config
    longest = max(row.shape[1] for row, _ in trees)
    # Attention is up to twice as fast where the length is a multiple of 16.
    T = -(-longest // 16) * 16
    rows = np.zeros((len(trees), 3, T), dtype=np.int64)
    for b, (row, _) in enumerate(trees):
        # No token sees the padding, as it stands after all of them.
        rows[b, :, :row.shape[1]] = row
    ids, position, branch = torch.from_numpy(rows).to(device).unbind(1)  # (B, T) each

    # Several options can score the token after one place: each place gets one row of logits.
    asked = [np.unique(scored[0], return_inverse=True) for _, scored in trees]
    S = max(len(places) for places, _ in asked)
    at = np.zeros((len(trees), S), dtype=np.int64)
    for b, (places, _) in enumerate(asked):
        at[b, :len(places)] = places
    at = torch.from_numpy(at).to(device)
    # Of every scored token in the batch: its place in the flattened `at`, and its id.
    which = np.concatenate([b * S + inverse for b, (_, inverse) in enumerate(asked)])
    target = np.concatenate([scored[1] for _, scored in trees])

    # Without branches attention is plainly causal.
    attn_mask = None
    if rows[:, 2].any():
        everywhere = torch.arange(T, device=device).expand_as(ids)
        attn_mask = attention_mask(branch, everywhere, model.compute_dtype)
    cos, sin = rotary_table(position, config.n_embd // config.n_head, config.rope_theta)
    x = rms_norm(F.embedding(ids, model.embed)).to(model.compute_dtype)
    for block in model.blocks[:-1]:
        x = forward(block, x, cos, sin, attn_mask)
    x = forward(model.blocks[-1], x, cos, sin, attention_mask(branch, at, x.dtype), at)
    x = rms_norm(x).flatten(0, 1)  # (B, S, C) -> (B * S, C)

    losses = np.zeros(len(which), np.float32)
    likeliest = np.zeros(len(which), bool)
    for start in range(0, len(x), CHUNK):
        here = np.flatnonzero((start <= which) & (which < start + CHUNK))
        logits = linear(x[start:start + CHUNK], model.head).float()
        pairs = np.stack([which[here] - start, target[here]]).astype(np.int64)
        place, token = torch.from_numpy(pairs).to(device)
        losses[here] = (logits.logsumexp(-1)[place] - logits[place, token]).cpu()
        # On a CPU argmax would take three times as long as max.
        likeliest[here] = (logits.max(-1).indices[place] == token).cpu()
    ends = np.cumsum([scored.shape[1] for _, scored in trees])[:-1]
    return list(zip(np.split(losses, ends), np.split(likeliest, ends)))


def batches_by_length(trees, batch_tokens):
    """Yield lists of indices of rows of about the same length, so that little is padding.

    The longest come first: a batch that is too large for the memory fails at once.
    """
    lengths = [row.shape[1] for row, _ in trees]
    batch = []
    for i in sorted(range(len(trees)), key=lambda i: -lengths[i]):
        # The first row of the batch is its longest one.
        if batch and (len(batch) + 1) * lengths[batch[0]] > batch_tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def choose(model, questions, batch_tokens=0, forward=block_states, progress=lambda done: None):
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
    trees = [tree_row(options) for options, _ in questions]
    right = [None] * len(questions)
    done = 0
    for batch in batches_by_length(trees, batch_tokens):
        scores = score_rows(model, [trees[i] for i in batch], forward)
        for i, (losses, likeliest) in zip(batch, scores):
            options, gold = questions[i]
            if len(options) == 1:
                right[i] = bool(likeliest.all())
            else:
                _, scored = trees[i]
                option = scored[2]
                mean_losses = np.bincount(option, losses) / np.bincount(option)
                right[i] = bool(mean_losses.argmin() == gold)
        done += len(batch)
        progress(done)
    return right
