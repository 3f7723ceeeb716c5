"""
What a layer's heads look at: the attention weights of one text, for the page's picture.
"""
import torch
import torch.nn.functional as F

from common import rms_norm, rotate

# The picture shows so many of the last tokens; more could not be told apart.
MOST_TOKENS = 96


@torch.no_grad()
def attention(model, ids, layer):
    """The attention weights of a layer: (H, T, T) float32, rows that add up to 1.

    [h, t, s] is how much head h at token t takes from token s, which is not behind t.
    model: a GPT. ids: T of them, all of one text. layer: counted from 0.
    """
    ids = torch.tensor(ids)[None]                              # (1, T)
    T = ids.size(1)
    cos, sin = model.rotary(torch.arange(T))
    x = rms_norm(F.embedding(ids, model.embed))
    for block in model.blocks[:layer]:
        x = block(x, cos, sin, None)
    # From here on as in Attention.forward.
    attn = model.blocks[layer].attn
    x = rms_norm(x)
    q = F.linear(x, attn.wq).view(T, attn.n_head, -1)
    k = F.linear(x, attn.wk).view(T, attn.n_kv_head, -1)
    q, k = rotate(rms_norm(q), cos, sin), rotate(rms_norm(k), cos, sin)
    k = k.repeat_interleave(attn.n_head // attn.n_kv_head, dim=1)
    scores = torch.einsum("thd,shd->hts", q, k) / attn.head_size ** 0.5
    is_behind = torch.ones(T, T, dtype=torch.bool).triu(1)
    return scores.masked_fill(is_behind, -torch.inf).softmax(-1)


def attention_picture(model, ids, layer):
    """The JSON object about a layer: the weights among the last tokens, in thousandths.

    "weights" has a list for each head, with a list for each shown token, with a number for each
    shown token that is not behind it. "start" is the place of the first shown token: what a row
    lacks of 1000 went to the tokens before it.
    """
    weights = attention(model, ids, layer)
    start = max(0, len(ids) - MOST_TOKENS)
    rows = (1000 * weights[:, start:, start:]).round().int().tolist()
    return {"object": "attention", "layer": layer, "n_layer": len(model.blocks),
            "n_head": len(rows), "start": start,
            "weights": [[row[:t + 1] for t, row in enumerate(head)] for head in rows]}
