"""talk/memory.py: rows by free memory, and answers that survive an out-of-memory."""
import pytest
import torch

from fake_gpu import fake_gpu, fake_model, fake_tensors
from pretrain import model_config
from talk.decode import Decoder
from talk.engine import Engine
from talk.memory import (
    PADDING,
    fit_rows,
    generate,
    pass_bytes,
    prefill_within,
    row_bytes,
    rows_within,
)
from toy import tiny_model, write_tokenizer

torch.set_num_threads(1)


def test_the_bytes_of_a_row_are_those_of_the_cache():
    decoder = Decoder(tiny_model(), torch.float32)
    decoder.reserve(3, 20)
    assert 3 * row_bytes(decoder.config, torch.float32, 20) == decoder.cache.nbytes


@pytest.mark.parametrize("gib, depth, size, rows", [
    (8, 12, 400, 128), (8, 12, 1000, 128), (8, 20, 1000, 16), (12, 20, 1000, 32),
    (24, 20, 1000, 128), (24, 20, 2048, 64), (80, 20, 2048, 128)])
def test_rows_of_cards_at_the_sizes_of_models(gib, depth, size, rows):
    config = model_config(depth, 32768, 2048)
    # The weights twice, in float32 and bfloat16, and half a GB for CUDA.
    n_weights = {12: 135e6, 20: 480e6}[depth]
    free = gib * 2 ** 30 - 6 * n_weights - 5e8
    per_row = row_bytes(config, torch.bfloat16, size)
    assert rows_within(free, per_row, 8, 128) == rows
    assert (rows + 9) * per_row <= 0.75 * free


def test_rows_are_at_least_one_and_at_most_what_was_asked_for():
    assert rows_within(0, 1e6, 8, 128) == rows_within(1e7, 1e6, 8, 128) == 1
    assert rows_within(1e12, 1e6, 8, 100) == 100
    assert rows_within(1e8, 1e6, 8, 100) == 64


@pytest.mark.parametrize("depth", [4, 12, 20])
@pytest.mark.parametrize("lengths", [[64] * 64, [2000, 2000, 90, 6], [20] * 50 + [900] * 3])
def test_a_pass_over_many_prompts_takes_no_more_than_derived(depth, lengths, monkeypatch):
    memory = fake_gpu(monkeypatch)
    config = model_config(depth, 4096, 2048)
    with fake_tensors(), torch.no_grad():
        decoder = Decoder(fake_model(config, memory), torch.bfloat16)
        decoder.reserve(len(lengths), 2048)
        memory.add(decoder.cache.untyped_storage())
        n = sum(lengths)
        pieces = [([1] * length, 0, row) for row, length in enumerate(lengths)]
        with memory:
            memory.peak = before = memory.now
            decoder.prefill(pieces, PADDING * n)
    taken = memory.peak - before
    assert 0.1 * pass_bytes(config, 2, n) < taken < pass_bytes(config, 2, n)


def test_tokens_of_a_pass_are_what_fits():
    config = model_config(20, 32768, 2048)
    assert [prefill_within(gib * 2 ** 30, config, 2) for gib in (1, 6, 10, 80)] == [
        512, 4096, 4096, 4096]
    for free in (6e8, 3e9, 5e9):
        n = prefill_within(free, config, 2)
        assert n == 512 or pass_bytes(config, 2, n) <= free / 8 < pass_bytes(config, 2, 2 * n)


def prompts_of(tok):
    bos = tok.special("<|bos|>")
    return [[bos, 65 + i, 66 + i % 3] for i in range(11)]


def test_half_the_rows_after_an_out_of_memory_give_the_same_answers(tmp_path):
    tok = write_tokenizer(tmp_path)
    expected = Engine(tiny_model(), tok, 16).generate(prompts_of(tok), 12, temperature=0.7, seed=3)
    engine = Engine(tiny_model(), tok, 16)
    engine.decoder = decoder = Decoder(tiny_model(), torch.float32)
    forward = decoder.forward
    n_failed = 0

    def short_of_memory(ids, start, row=0, logits="last"):
        nonlocal n_failed
        # It fails in the middle, when some have their answers.
        if len(ids) > 4 and max(start) > 5:
            n_failed += 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")
        return forward(ids, start, row, logits)

    decoder.forward = short_of_memory
    assert generate(engine, prompts_of(tok), 12, temperature=0.7, seed=3) == expected
    assert n_failed == 2 and engine.max_rows == 4 and decoder.rows == 4 + engine.max_kept


def test_an_out_of_memory_of_one_row_is_an_error(tmp_path):
    tok = write_tokenizer(tmp_path)
    engine = Engine(tiny_model(), tok, 2)
    engine.decoder = Decoder(tiny_model(), torch.float32)

    def no_memory(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    engine.decoder.forward = no_memory
    with pytest.raises(torch.OutOfMemoryError):
        generate(engine, prompts_of(tok), 12)


def test_the_cache_gets_its_size_once(tmp_path, monkeypatch):
    tok = write_tokenizer(tmp_path)
    engine = Engine(tiny_model(), tok, compile=False)
    per_row = row_bytes(engine.decoder.config, torch.float32, 20)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (50 * per_row, 0))
    fit_rows(engine, 20, 64)
    # 50 rows, of which a quarter stays free, 8 are kept and one is spare.
    assert engine.max_rows == 16
    cache = engine.decoder.cache
    assert cache.shape[1:3] == (16 + 8, 20)
    engine.generate(prompts_of(tok), 12)
    assert engine.decoder.cache is cache
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1e12, 0))
    fit_rows(engine, 30, 64)
    assert engine.max_rows == 64 and engine.decoder.cache.shape[1:3] == (64 + 8, 30)


@pytest.mark.parametrize("compile", [True, False])
def test_a_reset_engine_answers_as_a_fresh_one(tmp_path, compile):
    """distill.py resets its engine between batches; in the cache are leftovers of the last one."""
    tok = write_tokenizer(tmp_path)
    model = tiny_model()
    prompts = prompts_of(tok)
    batches = [prompts[:5], [p + [70] * 9 for p in prompts[5:8]], prompts[3:]]
    settings = dict(max_tokens=20, temperature=1.0, seed=7)
    fresh = [Engine(model, tok, compile=compile).generate(batch, **settings) for batch in batches]
    engine = Engine(model, tok, compile=compile)
    for batch, expected in zip(batches, fresh):
        engine.reset()
        assert engine.generate(batch, **settings) == expected
    assert len({tuple(answer) for answers in fresh for answer in answers}) > 10
