"""
How many texts at once an engine decodes on a GPU, and how many tokens of new prompts it takes in
at once: as many as the free memory holds.

evaluate.py and distill.py know all prompts beforehand. So the cache gets its size once: no copies
while it grows, and no CUDA graphs that are recorded anew. On a CPU nothing changes.
"""
import math

import torch

# In a pass over many prompts, all count as long as the longest of them: so many times as many keys
# as new tokens may be read.
PADDING = 4


def row_bytes(config, dtype, size):
    """Bytes of the keys and values of one text of `size` tokens."""
    head_size = config.n_embd // config.n_head
    return config.n_layer * 2 * config.n_kv_head * head_size * size * dtype.itemsize


def rows_within(free, per_row, n_kept, most):
    """The most rows, `most` or a power of two below it, whose cache takes 3/4 of the free bytes.

    per_row: bytes of a row. The cache also has n_kept finished rows and a spare one. The rest of
    the memory is for the arithmetic of a step. The least is 1.
    """
    n = max(1, int(0.75 * free / per_row) - n_kept - 1)
    return most if n >= most else 2 ** int(math.log2(n))


def pass_bytes(config, itemsize, n):
    """Bytes that a pass takes, at most, that puts n tokens of many prompts into the cache.

    It has up to PADDING * n padded positions (Decoder.prefill).
    """
    c = config
    head_size = c.n_embd // c.n_head
    n_qk = c.n_head + c.n_kv_head
    n_qkv = n_qk + c.n_kv_head
    # What lies between two products, and float32 copies of queries and keys.
    token = itemsize * (3 * c.n_embd + 2 * n_qkv * head_size + 4 * c.n_ff) + 16 * n_qk * head_size
    # Queries, their answers, keys and values; a row of the mask, also as numbers.
    position = (itemsize * head_size * (4 * c.n_head + 2 * c.n_kv_head)
                + (1 + itemsize) * c.seq_len * (c.n_head // c.n_kv_head))
    return n * (token + PADDING * position)


def prefill_within(free, config, itemsize):
    """How many tokens of new prompts a step takes in: 512 to 4096, a power of two.

    A pass takes up to an eighth of the free bytes, which is half of what rows_within leaves.
    """
    n = 4096
    while n > 512 and pass_bytes(config, itemsize, n) > free / 8:
        n //= 2
    return n


def prefill_tokens(decoder):
    """prefill_within() of the decoder's device. 512 on a CPU: the other texts wait meanwhile."""
    if decoder.device.type != "cuda":
        return 512
    free, _ = torch.cuda.mem_get_info(decoder.device)
    return prefill_within(free, decoder.config, decoder.dtype.itemsize)


def fit_rows(engine, size, most):
    """On a GPU: let the engine decode `most` texts of up to `size` tokens at once, or what fits."""
    decoder = engine.decoder
    free_cache(engine)
    free, _ = torch.cuda.mem_get_info(decoder.device)
    per_row = row_bytes(decoder.config, decoder.dtype, size)
    engine.max_rows = rows_within(free, per_row, engine.max_kept, most)
    decoder.reserve(engine.max_rows + engine.max_kept, size)


def free_cache(engine):
    decoder = engine.decoder
    engine.reset()
    decoder.rows = decoder.size = 0
    decoder.cache = None
    decoder.graphs = {}
    decoder.pool = None
    # Without CUDA this does nothing.
    torch.cuda.empty_cache()


def generate(engine, prompts, max_tokens, **settings):
    """engine.generate(), once more with half the rows where a GPU's memory does not suffice.

    The answers are the same, as they do not depend on how many are decoded together.
    """
    while True:
        try:
            return engine.generate(prompts, max_tokens, **settings)
        except torch.OutOfMemoryError:
            if engine.max_rows == 1:
                raise
        size = engine.decoder.size
        engine.max_rows //= 2
        free_cache(engine)
        engine.decoder.reserve(engine.max_rows + engine.max_kept, size)
