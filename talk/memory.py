"""
How many texts at once an engine decodes on a GPU: as many as the free memory holds.

evaluate.py and distill.py know all prompts beforehand. So the cache gets its size once: no copies
while it grows, and no CUDA graphs that are recorded anew. On a CPU nothing changes.
"""
import math

import torch


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
