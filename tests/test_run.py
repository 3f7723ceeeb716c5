"""train/run.py: the size of a step and of a micro-batch, and the held-out loss by hand."""
import math
import threading
import time
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

import common
from common import read_meta
from fake_gpu import fake_gpu, fake_model, fake_tensors
from machine import Env
from pretrain import model_config
from toy import merged_tokenizer, read_folder, tiny_model
from train import run
from train.optimizer import Optimizer
from train.run import (
    Saver,
    cut_step,
    evaluate_loss,
    largest_batch,
    optimizer_bytes,
    own_passes,
    plan_steps,
    rows_for_step,
    rows_that_fit,
    try_rows,
)

torch.set_num_threads(1)
ENV = Env(torch.device("cpu"), torch.float32)


@pytest.mark.parametrize("seq_len", [64, 512, 2048])
def test_a_step_grows_with_the_horizon_and_leaves_it_400_steps(seq_len):
    before = 0
    for horizon in 1, 10 ** 5, 10 ** 6, 4 * 10 ** 6, 10 ** 8, 10 ** 10:
        rows = rows_for_step(horizon, seq_len)
        assert before <= rows <= 524288 // seq_len
        assert rows == 8192 // seq_len or rows * seq_len * 400 <= horizon
        before = rows


@pytest.mark.parametrize("n_tokens, passes, tokens_per_step", [
    (5_000, 10, 2048), (20_480, 10, 2048), (102_400, 2, 2048), (300_000, 1, 2048),
    (500_000, 1, 4096), (2 ** 20, 1, 8192), (2 ** 30, 1, 524288)])
def test_a_users_few_rows_make_more_and_smaller_steps(n_tokens, passes, tokens_per_step):
    horizon = round(own_passes(n_tokens) * n_tokens)
    assert own_passes(n_tokens) == passes
    assert rows_for_step(horizon, 512, own_data=True) * 512 == tokens_per_step
    assert rows_for_step(horizon, 512) * 512 == max(8192, tokens_per_step)


@pytest.mark.parametrize("world_size", range(1, 9))
@pytest.mark.parametrize("most", [1, 2, 3.7, 4, 12.5, 16, 31, 32, 200])
def test_any_number_of_ranks_gets_equal_micro_batches_of_what_fits(most, world_size):
    for rows in 256, 128, 64:
        step, batch_size = cut_step(rows, most, world_size)
        assert step % (world_size * batch_size) == 0 and 1 <= batch_size <= most
        # More than a quarter of what fits, or the whole share.
        share = step // world_size
        assert 4 * batch_size > min(most, share) or batch_size == share
        # The step is hardly another one.
        assert step == rows if rows % world_size == 0 else abs(step / rows - 1) < 0.13
    assert cut_step(256, 32, 3) == cut_step(256, 40, 3) == (261, 29)
    # Fewer rows than ranks: one for each.
    assert cut_step(4, most, 8) == (8, 1)


@pytest.mark.parametrize("seq_len, most", [(1024, 8), (2048, 4), (64, 128), (10 ** 5, 1)])
def test_on_a_cpu_a_micro_batch_has_8192_tokens(seq_len, most):
    model = SimpleNamespace(config=SimpleNamespace(seq_len=seq_len))
    assert rows_that_fit(model, ENV) == most


def flags(**changed):
    return SimpleNamespace(**dict(dict(tokens_per_step=0, batch_size=0, steps=0), **changed))


def test_flags_override_the_step_and_what_cannot_be_cut_is_said():
    model = tiny_model(seq_len=512)
    three = Env(ENV.device, ENV.dtype, 0, 3)
    # 16 rows on one rank, and 5 on each of three.
    assert plan_steps(flags(), 10 ** 6, model, ENV) == (123, 16, 16)
    assert plan_steps(flags(), 10 ** 6, model, three) == (131, 15, 5)
    assert plan_steps(flags(steps=7), 10 ** 6, model, ENV) == (7, 16, 16)
    assert plan_steps(flags(), 10 ** 6, model, ENV, seq_len=256) == (123, 32, 32)
    assert plan_steps(flags(batch_size=2), 10 ** 6, model, ENV) == (123, 16, 2)
    assert plan_steps(flags(tokens_per_step=3072), 10 ** 6, model, three) == (326, 6, 2)
    for changed in dict(tokens_per_step=4096), dict(tokens_per_step=3072, batch_size=4):
        with pytest.raises(ValueError, match="choose --tokens_per_step as a multiple of"):
            plan_steps(flags(**changed), 10 ** 6, model, three)


GIB = 2 ** 30


@pytest.mark.slow
@pytest.mark.parametrize("gib, depth, least, most", [
    (8, 12, 2, 5), (12, 12, 6, 9), (16, 16, 4, 7), (24, 20, 4, 7), (80, 20, 26, 33)])
def test_the_probe_finds_what_fits_into_a_card(monkeypatch, gib, depth, least, most):
    """Every tensor of a training step, with fake tensors, against the memory of a card."""
    memory = fake_gpu(monkeypatch)
    with fake_tensors(), memory:
        model = fake_model(model_config(depth, 32768, 2048), memory)
        weights = memory.now
        # CUDA itself takes half a GB.
        card = gib * GIB - 5e8

        def peak_of(rows):
            memory.peak = memory.now
            try_rows(model, rows, model.config.seq_len)
            # As a GPU does it: what is not there cannot be measured.
            return math.inf if memory.peak > card else memory.peak - weights

        state = optimizer_bytes(model, 1)
        rows = largest_batch(peak_of, 0.9 * (card - weights) - state, 2048)
        assert least <= rows <= most
        # The whole of training fits, and two rows more would take more than nine tenths.
        model.zero_grad(set_to_none=True)
        optimizer = Optimizer(model, ENV, 0.02, 0.3, 0.008, 0.2)
        held = sum(t.nbytes for g in optimizer.groups.values() for t in g["state"])
        assert state == pytest.approx(held, rel=0.01)
        peak_of(rows)
        assert peak_of(rows) + weights <= card
        assert peak_of(rows + 2) + weights > 0.88 * card


def test_the_probe_copes_with_a_card_that_holds_next_to_nothing():
    calls = []

    def peak_of(rows):
        calls.append(rows)
        return 100 + 10 * rows if rows <= 3 else math.inf

    # Rows of 512: it begins with eight, of which there is no memory for more than three.
    assert largest_batch(peak_of, 1000, 512) == 3
    assert max(calls) == 8
    assert largest_batch(peak_of, 110, 512) == 1
    assert largest_batch(peak_of, 5, 512) == 1
    assert largest_batch(lambda rows: math.inf, 5, 2048) == 1
    assert largest_batch(lambda rows: 100 + 10 * rows, 1000, 512) == 90


def test_ranks_agree_on_the_rows_with_numbers_of_one_type(monkeypatch):
    """Rank 0 has room for 7 rows and rank 1 for 1: all_max must get float32 from both."""
    sent = []

    class FakeEnv:
        device = torch.device("cpu")
        world_size = 2

        def all_max(self, tensor):
            sent.append(tensor.dtype)
            return tensor

    env = FakeEnv()
    cuda = SimpleNamespace(type="cuda")
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 0)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (10 ** 9, 10 ** 9))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    real_tensor = torch.tensor
    monkeypatch.setattr(torch, "tensor", lambda *a, device=None, **k: real_tensor(*a, **k))
    env.device = cuda
    for found in 7, 1:
        monkeypatch.setattr(run, "largest_batch", lambda *args: found)
        assert rows_that_fit(tiny_model(), env) == found
    assert sent == [torch.float32, torch.float32]


def test_an_out_of_memory_of_the_probe_counts_as_no_room(monkeypatch):
    class GpuEnv:
        device = SimpleNamespace(type="cuda")
        world_size = 1

        def all_max(self, tensor):
            return tensor

    tried = []

    def try_rows(model, rows, seq_len):
        tried.append(rows)
        if rows > 127:
            raise torch.OutOfMemoryError("CUDA out of memory")

    for name, value in (("memory_allocated", 10), ("mem_get_info", (10 ** 9, 10 ** 9)),
                        ("empty_cache", None), ("reset_peak_memory_stats", None),
                        ("max_memory_allocated", 20)):
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    monkeypatch.setattr(run, "try_rows", try_rows)
    real_tensor = torch.tensor
    monkeypatch.setattr(torch, "tensor", lambda *a, device=None, **k: real_tensor(*a, **k))
    # Rows of 32 tokens: it begins with 128. What fits takes no memory at all here.
    assert rows_that_fit(tiny_model(), GpuEnv()) == 127
    assert tried == [128, 128, 64, 96]


def test_saving_by_steps_and_by_time(monkeypatch):
    clock = Saver(None, ENV)
    assert [step for step in range(100, 401) if clock.is_due(step, 100)] == [200, 300, 400]
    clock = Saver(7, ENV)
    assert [step for step in range(22) if clock.is_due(step, 0)] == [7, 14, 21]

    now = 0
    monkeypatch.setattr(run.time, "monotonic", lambda: now)
    gpu = Env(torch.device("meta"), torch.bfloat16)
    gpu.all_max = lambda tensor: torch.tensor(seconds)
    clock = Saver(None, gpu)
    # What all ranks agree on is the longest time on any of them.
    seconds = 599.0
    assert not clock.is_due(5000, 0)
    seconds = 601.0
    now = 600
    assert clock.is_due(5001, 0) and clock.saved == 600
    assert Saver(50, gpu).is_due(50, 0)


@pytest.fixture
def writes(monkeypatch):
    """Holds each file of a checkpoint back until `go` is set, and logs its name."""
    log = []
    go = threading.Event()
    write_synced = common.write_synced

    def slow(path, write):
        log.append(f"begin {path.name}")
        assert go.wait(30)
        write_synced(path, write)
        log.append(f"end {path.name}")

    monkeypatch.setattr(common, "write_synced", slow)
    return SimpleNamespace(log=log, go=go)


def new_training(env=ENV):
    model = tiny_model()
    optimizer = Optimizer(model, env, 0.05, 0.3, 0.01, 0.1)

    def step():
        ids = torch.arange(32)[None]
        model(ids, ids).backward()
        optimizer.step(1.0, 0.95)
    return model, optimizer, step


META = dict(step=1, settings={})


def test_in_the_background_it_saves_what_was_there_when_it_was_asked(tmp_path, writes):
    model, optimizer, step = new_training()
    step()
    saver = Saver(None, ENV, in_background=True)
    metrics = [dict(step=0)]
    writes.go.set()
    common.save_checkpoint(tmp_path / "expected", model, META, metrics, optimizer, ENV)
    writes.go.clear()
    saver.save(tmp_path / "late", model, META, metrics, optimizer, now=False)
    # Training goes on in the same tensors, lists and dicts.
    for _ in range(3):
        step()
    metrics.append(dict(step=1))
    assert not saver.is_due(100, 100) and saver.thread.is_alive()
    writes.go.set()
    saver.wait()
    assert read_folder(tmp_path / "late") == read_folder(tmp_path / "expected")
    common.save_checkpoint(tmp_path / "later", model, META, metrics, optimizer, ENV)
    assert read_folder(tmp_path / "later")["optim.pt"] != read_folder(tmp_path / "late")["optim.pt"]


def test_one_write_at_a_time_and_the_last_one_at_once(tmp_path, writes):
    model, optimizer, step = new_training()
    saver = Saver(None, ENV, in_background=True)
    steps = iter(range(9))

    def save(now):
        saver.save(tmp_path / "x", model, dict(META, step=next(steps)), [], optimizer, now)

    save(now=False)
    time.sleep(0.1)
    assert writes.log == ["begin model.pt"]
    threading.Timer(0.1, writes.go.set).start()
    save(now=False)
    save(now=True)
    assert not saver.thread and read_meta(tmp_path / "x")["step"] == 2
    files = ["model.pt", "optim.pt", "metrics.jsonl", "meta.json"]
    assert writes.log == 3 * [f"{what} {name}" for name in files for what in ("begin", "end")]
    assert [f.name for f in tmp_path.iterdir()] == ["x"]


def test_a_failed_write_is_raised_once_and_the_old_checkpoint_stays(tmp_path, writes):
    model, optimizer, step = new_training()
    saver = Saver(None, ENV, in_background=True)
    writes.go.set()
    common.save_checkpoint(tmp_path / "x", model, META, [], optimizer, ENV)
    # No file can be made below a file.
    (tmp_path / "file").touch()
    for ask in (lambda: saver.is_due(100, 0),
                lambda: saver.save(tmp_path / "x", model, META, [], optimizer, now=True),
                lambda: saver.save(tmp_path / "x", model, META, [], optimizer, now=False)):
        saver.save(tmp_path / "file/x", model, META, [], optimizer, now=False)
        saver.thread.join()
        with pytest.raises(OSError, match="could not be written .* go on with --resume"):
            ask()
        assert saver.is_due(100, 0) and read_meta(tmp_path / "x")["step"] == 1


def test_only_a_gpu_saves_in_the_background():
    assert not Saver(None, ENV).in_background
    assert Saver(None, Env(torch.device("cuda", 0), torch.bfloat16)).in_background


def test_bits_per_byte_counts_the_raw_bytes_of_the_text_alone(tmp_path):
    merged = merged_tokenizer(tmp_path)
    model = tiny_model(vocab_size=merged.vocab_size)
    text = "été 12 = 12?\n## naïve 50"
    bos = merged.special("<|bos|>")
    # The first row ends with special tokens; of the second one, 20 letters are targets.
    ids = torch.tensor([([bos] + merged.encode(text) + [bos] * 32)[:33],
                        [bos] + merged.encode("x" * 32)])
    targets = ids[:, 1:].clone()
    targets[1, 20:] = -1

    class TwoRows:
        def batch(self, indices, only_learned):
            return ids[indices, :-1], targets[indices]

        def __len__(self):
            return 2

    logits = model(ids[:, :-1]).flatten(0, 1)
    nats = F.cross_entropy(logits, targets.flatten(), ignore_index=-1,
                           reduction="none").view(2, 32)
    is_text = (targets >= 0) & (targets < merged.vocab_size - 9)
    n_bytes = len(text.encode()) + 20
    for batch_size in 1, 2:
        result = evaluate_loss(model, TwoRows(), merged, ENV, batch_size, 10)
        assert result["bpb"] == pytest.approx(
            nats[is_text].sum().item() / math.log(2) / n_bytes, rel=1e-5)
        assert result["loss"] == pytest.approx(
            nats.sum().item() / (targets >= 0).sum().item(), rel=1e-5)
