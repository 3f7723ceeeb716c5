"""Both decoders against GPT.forward: at once, in chunks, one by one, alone, in a batch, padded."""
import shutil
from types import SimpleNamespace

import pytest
import torch

from talk import decode
from talk.decode import Decoder, make_decoder
from toy_chat import count_passes, tiny_model

torch.set_num_threads(1)


@pytest.mark.parametrize("kind", ["PyTorch", "decode.c"])
@pytest.mark.parametrize("n_kv_head", [1, 2])
def test_cached_batched_chunked_and_plain_forward_agree(n_kv_head, kind):
    model = tiny_model(n_kv_head=n_kv_head)
    rng = torch.Generator().manual_seed(1)
    sequences = [torch.randint(0, 265, (n,), generator=rng).tolist() for n in (40, 23, 31)]
    decoder = make_decoder(model, torch.float32, compile=kind == "decode.c")
    if kind == "decode.c" and type(decoder) is Decoder:
        pytest.skip("no C compiler on this machine")
    with torch.inference_mode():
        plain = [model(torch.tensor([ids]))[0] for ids in sequences]
        # All tokens of a sequence at once. The cache grows on the way.
        for row, (ids, expected) in enumerate(zip(sequences, plain)):
            decoder.reserve(row + 1, len(ids))
            logits = decoder.forward([ids], [0], row, logits="all")[0]
            assert torch.allclose(logits, expected, atol=1e-4)
        # In chunks of 7.
        chunks = [decoder.forward([sequences[0][i:i + 7]], [i], 1, logits="all")[0]
                  for i in range(0, 40, 7)]
        assert torch.allclose(torch.cat(chunks), plain[0], atol=1e-4)
        # One token each for rows of different lengths, as one batch.
        for row, ids in enumerate(sequences):
            decoder.forward([ids[:-10]], [0], row, logits=None)
        for i in range(10, 0, -1):
            last_ids = [[ids[-i]] for ids in sequences]
            positions = [len(ids) - i for ids in sequences]
            expected = torch.stack([logits[-i] for logits in plain])
            assert torch.allclose(decoder.forward(last_ids, positions), expected, atol=1e-4)
        # A batch of one.
        logits = decoder.forward([sequences[0][-1:]], [39])
        assert torch.allclose(logits, plain[0][-1:], atol=1e-4)


@pytest.mark.parametrize("kind", ["PyTorch", "decode.c"])
@pytest.mark.parametrize("n_kv_head", [1, 2])
def test_many_prompts_of_mixed_lengths_go_into_the_cache_together(n_kv_head, kind):
    """Some begin behind what the cache has already. The logits behind them are GPT.forward's."""
    model = tiny_model(n_kv_head=n_kv_head)
    rng = torch.Generator().manual_seed(4)
    lengths = [40, 3, 100, 17, 18, 2, 64, 5]
    sequences = [torch.randint(0, 265, (n,), generator=rng).tolist() for n in lengths]
    starts = [0, 0, 60, 16, 0, 0, 7, 0]
    rows = [3, 0, 7, 1, 2, 6, 4, 5]
    for most, n_passes in [(10 ** 6, 1), (256, 2), (1, 7)]:
        decoder = make_decoder(model, torch.float32, compile=kind == "decode.c")
        if kind == "decode.c" and type(decoder) is Decoder:
            pytest.skip("no C compiler on this machine")
        decoder.reserve(8, 128)
        # What stands behind a sequence, or in a row that is not meant, changes nothing.
        decoder.cache[:] = 100 * torch.randn(decoder.cache.shape, generator=rng)
        for ids, start, row in zip(sequences, starts, rows):
            if start:
                decoder.forward([ids[:start]], [0], row, logits=None)
        passes = count_passes(decoder)
        decoder.prefill([(ids[start:-1], start, row)
                         for ids, start, row in zip(sequences, starts, rows)
                         if len(ids) - 1 > start], most)
        # One of them has but one id to go, which is not for prefill.
        assert len(passes) == (1 if kind == "decode.c" else n_passes)
        assert sum(passes) == sum(lengths) - sum(starts) - len(lengths)
        by_row = [sequences[rows.index(row)] for row in range(8)]
        logits = decoder.forward([[ids[-1]] for ids in by_row], [len(ids) - 1 for ids in by_row])
        with torch.inference_mode():
            expected = torch.stack([model(torch.tensor([ids]))[0, -1] for ids in by_row])
        assert torch.allclose(logits, expected, atol=1e-4)


@pytest.mark.parametrize("kind", ["PyTorch", "decode.c"])
def test_next_masks_the_special_tokens_and_finds_the_likeliest(kind):
    decoder = make_decoder(tiny_model(vocab_size=301), torch.float32, compile=kind == "decode.c")
    rng = torch.Generator().manual_seed(2)
    # The buffers grow, and stay for the smaller batch at the end.
    for B in (1, 3, 16, 2):
        ids = torch.randint(0, 301, (B,), generator=rng).tolist()
        decoder.reserve(B, 8)
        plain = decoder.forward([[id] for id in ids], [0] * B).clone()
        mask = torch.where(torch.rand(B, 9, generator=rng) < 0.5, -torch.inf, 200.0)
        plain[:, -9:] += mask
        logits, likeliest = decoder.next(ids, [0] * B, mask)
        assert torch.allclose(logits[:B], plain, atol=1e-4)
        assert likeliest == plain.argmax(-1).tolist()
        _, likeliest = decoder.next(ids, [0] * B, torch.full((B, 9), -torch.inf))
        assert likeliest == plain[:, :-9].argmax(-1).tolist()


INTEL = """processor\t: %d
cpu family\t: 6
model\t\t: 207
model name\t: Intel(R) Xeon(R) Processor
cpu MHz\t\t: %f
flags\t\t: fpu sse2 avx2 %s
"""
ARM = """processor\t: %d
BogoMIPS\t: %f
Features\t: fp asimd %s
CPU implementer\t: 0x41
CPU part\t: 0xd0c
"""


@pytest.mark.parametrize("text", [INTEL, ARM])
def test_a_processor_is_known_by_its_instructions(text, tmp_path):
    def processor(n, *values):
        path = tmp_path / f"cpuinfo-{n}"
        path.write_text("\n".join(text % (i, *values) for i in range(n)))
        return decode.processor(path)

    known = processor(2, 2100.0, "avx512f")
    assert known == processor(8, 1800.5, "avx512f") and "avx512f" in str(known)
    assert known != processor(2, 2100.0, "")
    path = tmp_path / "other-model"
    path.write_text(text.replace("207", "143").replace("0xd0c", "0xd40") % (0, 2100, "avx512f"))
    assert known != decode.processor(path)


def test_another_processor_compiles_anew(tmp_path, monkeypatch):
    """The folder was copied from another machine, or several share it."""
    source = tmp_path / "decode.c"
    shutil.copy(decode.__file__.replace(".py", ".c"), source)
    monkeypatch.setattr(decode, "__file__", str(tmp_path / "decode.py"))
    made = []
    for name in "one", "one", "two", "one":
        monkeypatch.setattr(decode, "processor", lambda: name)
        if decode.compiled_library() is None:
            pytest.skip("no C compiler on this machine")
        made.append(len(list((tmp_path / "__pycache__").glob("decode-*.so"))))
    assert made == [1, 1, 2, 2]


@pytest.mark.parametrize("refused", ["-march=native", "-fopenmp", "-march=native -fopenmp"])
def test_a_compiler_that_refuses_a_flag_does_without_it(refused, tmp_path, monkeypatch):
    """Apple's clang has no OpenMP, and older ones for Arm no -march=native."""
    compiler = shutil.which("cc")
    if not compiler:
        pytest.skip("no C compiler on this machine")
    picky = tmp_path / "picky"
    picky.write_text(f'#!/bin/sh\nfor flag in {refused}; do\n'
                     f'    case " $* " in *" $flag "*) exit 1 ;; esac\ndone\n'
                     f'exec {compiler} "$@"\n')
    picky.chmod(0o755)
    shutil.copy(decode.__file__.replace(".py", ".c"), tmp_path / "decode.c")
    monkeypatch.setattr(decode, "__file__", str(tmp_path / "decode.py"))
    monkeypatch.setenv("CC", str(picky))
    library = decode.compiled_library()
    # Without the flag these are the vectors that every such processor has.
    assert library and ("-march=native" not in refused or library.width() == 4)


@pytest.mark.parametrize("program", ["exit 1", "exit 0",
                                     "while [ $1 != -o ]; do shift; done; echo no > $2"])
def test_a_compiler_that_fails_leaves_nothing_behind(program, tmp_path, monkeypatch):
    """PyTorch then does the work, and a compiler that works is tried again."""
    broken = tmp_path / "cc"
    broken.write_text(f"#!/bin/sh\n{program}\n")
    broken.chmod(0o755)
    shutil.copy(decode.__file__.replace(".py", ".c"), tmp_path / "decode.c")
    monkeypatch.setattr(decode, "__file__", str(tmp_path / "decode.py"))
    monkeypatch.setenv("CC", str(broken))
    assert decode.compiled_library() is None
    assert not list((tmp_path / "__pycache__").iterdir())


def test_padded_steps_of_a_gpu_are_those_of_a_cpu():
    """A CUDA graph rounds its rows and its length up. Here a function on the CPU replaces it."""
    shapes = []

    def record(rows, end):
        shapes.append((rows, end))
        inputs = torch.zeros(3, rows, dtype=torch.long)
        ids, positions, slots = inputs
        out = torch.zeros(rows, 265)

        def replay():
            logits = padded.compute(ids, positions[:, None], slots, slice(rows), end, "last")
            out.copy_(logits)
        return SimpleNamespace(replay=replay), inputs, out

    plain = Decoder(tiny_model(seq_len=600), torch.float32)
    padded = Decoder(tiny_model(seq_len=600), torch.float32)
    padded.use_graphs = True
    padded.record = record
    rng = torch.Generator().manual_seed(3)
    for B, length in ((1, 20), (3, 250), (3, 300), (5, 30)):
        sequences = [torch.randint(0, 265, (length + row,), generator=rng).tolist()
                     for row in range(B)]
        for decoder in (plain, padded):
            decoder.reserve(B, length + B)
            for row, ids in enumerate(sequences):
                decoder.forward([ids], [0], row, logits=None)
        # The cache grows on the way.
        for step in range(10):
            for decoder in (plain, padded):
                decoder.reserve(B, length + B + step)
            ids = torch.randint(0, 265, (B, 1), generator=rng).tolist()
            start = [len(sequence) + step for sequence in sequences]
            assert torch.allclose(padded.forward(ids, start), plain.forward(ids, start), atol=1e-4)
    assert {rows for rows, _ in shapes} == {1, 4, 8} and len(shapes) < 12
