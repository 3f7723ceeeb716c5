"""train/plan.py: real device names, the memory of fake tensors, and what cards are told."""
import json
import math
from types import SimpleNamespace

import pytest
import torch

from fake_gpu import fake_gpu, fake_model, fake_tensors
from machine import Env
from pretrain import DEMO_DEPTH, MAX_DEPTH, model_config
from toy import ROOT
from train import plan
from train.optimizer import Optimizer
from train.plan import (
    CARDS,
    Chip,
    card,
    card_table,
    choose_compile,
    choose_plan,
    expected_bits,
    make_plan,
    measured_flops,
    peak_flops,
    peak_tflops,
    plan_table,
    step_bytes,
)
from train.run import cut_step, rows_for_step

CPU = torch.device("cpu")
ENV = Env(CPU, torch.bfloat16)


@pytest.mark.parametrize("name, tflops", [
    # As torch.cuda.get_device_name gives them.
    ("NVIDIA H100 80GB HBM3", 989), ("NVIDIA H100 PCIe", 756), ("NVIDIA H100 NVL", 835),
    ("NVIDIA H200", 989), ("NVIDIA H200 NVL", 835), ("NVIDIA GH200 480GB", 989),
    ("NVIDIA B200", 2250), ("NVIDIA GB200", 2500), ("NVIDIA H20", 148),
    ("NVIDIA A100-SXM4-80GB", 312), ("NVIDIA A100-PCIE-40GB", 312), ("NVIDIA A100 80GB PCIe", 312),
    ("NVIDIA A800-SXM4-80GB", 312), ("NVIDIA A40", 150), ("NVIDIA A10", 125), ("NVIDIA A10G", 70),
    ("NVIDIA L4", 121), ("NVIDIA L40", 181), ("NVIDIA L40S", 362), ("Tesla T4", 65),
    ("Tesla V100-SXM2-16GB", 125), ("Tesla V100-PCIE-32GB", 112), ("AMD Instinct MI300X", 1307),
    ("NVIDIA RTX A4000", 77), ("NVIDIA RTX A6000", 155),
    ("NVIDIA RTX 6000 Ada Generation", 364), ("NVIDIA TITAN RTX", 130),
    ("NVIDIA GeForce RTX 5090", 210), ("NVIDIA GeForce RTX 5070 Ti", 88),
    ("NVIDIA GeForce RTX 4090", 165), ("NVIDIA GeForce RTX 4070 Ti SUPER", 88),
    ("NVIDIA GeForce RTX 4070 Ti", 80), ("NVIDIA GeForce RTX 4070 SUPER", 71),
    ("NVIDIA GeForce RTX 4070", 58), ("NVIDIA GeForce RTX 4060 Ti", 44),
    ("NVIDIA GeForce RTX 3090", 71), ("NVIDIA GeForce RTX 3060", 25),
    ("GeForce RTX 2080 Ti", 54), ("NVIDIA GeForce RTX 2070 SUPER", 36),
    # Slower than the chips whose names they begin with, or not in the table.
    ("NVIDIA GeForce RTX 4090 Laptop GPU", 0), ("NVIDIA GeForce RTX 3060 Laptop GPU", 0),
    ("NVIDIA GeForce RTX 2070 Super with Max-Q Design", 0), ("NVIDIA GeForce RTX 4090 D", 0),
    ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", 0), ("NVIDIA GeForce GTX 1080 Ti", 0),
    ("Quadro RTX 6000", 0), ("NVIDIA RTX 4000 SFF Ada Generation", 0), ("NVIDIA A4000", 0),
    ("AMD Radeon RX 7900 XTX", 0), ("", 0)])
def test_a_chips_peak_by_the_whole_words_of_its_name(monkeypatch, name, tflops):
    assert peak_tflops(name) == tflops
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert peak_flops(torch.device("cuda", 0)) == 1e12 * tflops
    assert peak_flops(torch.device("cuda", 0), 33.0) == 33e12
    assert peak_flops(CPU) == 0


def test_a_chip_without_a_name_is_measured():
    # The smallest processor does 1e7 products a second, and none does 1e14.
    assert 1e7 < measured_flops(CPU, torch.float32, n=64) < 1e14


@pytest.mark.parametrize("depth, vocab_size, seq_len", [
    (4, 32768, 2048), (12, 32768, 2048), (20, 32768, 2048), (8, 8192, 512), (16, 65536, 1024)])
def test_the_memory_of_a_step_is_what_its_tensors_take(monkeypatch, depth, vocab_size, seq_len):
    memory = fake_gpu(monkeypatch)
    config = model_config(depth, vocab_size, seq_len)
    rows = math.ceil(8192 / seq_len)
    with fake_tensors(), memory:
        model = fake_model(config, memory)
        optimizer = Optimizer(model, ENV, 0.02, 0.3, 0.008, 0.2)
        # The second micro-batch meets the gradients of the first.
        for _ in range(2):
            memory.peak = memory.now
            ids = torch.zeros(rows, seq_len, dtype=torch.int64)
            model(ids, ids).backward()
        # Its state is counted, too.
        assert optimizer.count == 0
    assert step_bytes(config, rows) == pytest.approx(memory.peak, rel=0.05)


def plans_for(chip, depths=range(DEMO_DEPTH, MAX_DEPTH + 1, 2)):
    return [make_plan(model_config(depth, 32768, 2048), 12, chip) for depth in depths]


@pytest.mark.parametrize("chip", CARDS, ids=lambda chip: f"{chip.count} {chip.name}")
def test_what_a_card_is_told_fits_into_it_and_its_time(chip):
    plans = plans_for(chip)
    for hours in 0.5, 12, 200:
        chosen, limit = choose_plan(plans, math.inf, hours)
        assert chosen.rows >= 1 and chosen.hours <= hours
        assert chosen.memory <= chip.memory
        assert step_bytes(chosen.config, chosen.rows, chip.count) == chosen.memory
        # The next depth lacks what is said, or there is none.
        after = plans.index(chosen) + 1
        if after == len(plans):
            assert limit == ""
        else:
            assert f"depth {plans[after].depth} takes " in limit
            assert not plans[after].rows or plans[after].hours > hours
    for before, after in zip(plans, plans[1:]):
        assert after.hours > before.hours and after.bits < before.bits
        assert not (after.rows and not before.rows)


@pytest.mark.parametrize("count", range(1, 9))
def test_on_1_to_8_gpus_of_any_memory_every_step_fits_and_has_the_tokens_that_it_should(count):
    for gib in 8, 12, 16, 24, 40, 80, 141:
        chip = card("H100", gib, count)
        for one in plans_for(chip, [4, 12, 20]):
            if not one.rows:
                assert step_bytes(one.config, 1, count) > chip.memory
                continue
            assert step_bytes(one.config, one.rows, count) <= chip.memory
            wanted = rows_for_step(one.tokens, 2048)
            step, rows = cut_step(wanted, one.rows, count)
            # Whole micro-batches on every rank, and about as many tokens as on one.
            assert step % (rows * count) == 0 and rows <= one.rows
            assert abs(step - wanted) <= max(wanted / 32, count / 2), (gib, one.depth)


@pytest.mark.parametrize("name", plan.PEAK_TFLOPS)
def test_every_chip_of_the_table_gets_a_plan_on_one_gpu_and_on_more(name):
    config = model_config(12, 32768, 2048)
    before = math.inf
    for count in 1, 3, 8:
        chip = card(name, 48, count)
        one = make_plan(config, 12, chip)
        assert one.rows >= 1 and 0 < one.hours < before
        # The hours are the FLOPs over what the chips do.
        work = one.tokens * plan.flops_per_token(config)
        assert 0.3 < work / (3600 * one.hours * count * 1e12 * plan.PEAK_TFLOPS[name]) < 0.7
        before = one.hours
        assert f"{one.hours:9.1f}" in plan_table([one], 12)[1]


def test_the_depth_of_known_cards():
    # 12 hours and endless text; then a week.
    assert [choose_plan(plans_for(chip), math.inf, 12)[0].depth for chip in CARDS] == [
        10, 10, 12, 12, 12, 14, 16, 16, 20, 20]
    small = choose_plan(plans_for(card("RTX 4060", 8)), math.inf, 170)
    assert small[0].depth == 16 and small[1].startswith("depth 18 takes ")
    assert "GB of memory" in small[1]
    # A text of 300 million tokens feeds depth 6, whatever the card.
    plan, limit = choose_plan(plans_for(card("H100", 80)), 3e8, 12)
    assert plan.depth == 6 and limit == "depth 8 takes 510 M tokens of text"
    # And one of nothing at all the demo's size.
    assert choose_plan(plans_for(card("RTX 3060", 12)), 0, 12)[0].depth == DEMO_DEPTH


def test_more_gpus_take_less_time_and_less_memory_each():
    one = plans_for(card("H100", 80))[-1]
    for count in 2, 3, 6, 7, 8:
        many = plans_for(card("H100", 80, count))[-1]
        assert many.hours == pytest.approx(one.hours / count)
        assert step_bytes(many.config, 4, count) < step_bytes(one.config, 4)
        assert many.rows >= 8


def test_bits_per_byte_of_the_published_curve():
    # Chinchilla: 70 billion weights, 1.4 trillion tokens.
    nats = 1.8172 + 482.01 / 70e9 ** 0.3478 + 2085.43 / 1.4e12 ** 0.3658
    assert 1.9 < nats < 2.0
    assert expected_bits(70e9, 1.4e12) == pytest.approx(nats / math.log(2) / 4.6)


def test_the_tables_of_plan():
    chip = Chip("NVIDIA GeForce RTX 3060", 11e9, 25e12)
    lines = plan_table(plans_for(chip), 12)
    assert [int(line.split()[0]) for line in lines[1:]] == list(range(DEMO_DEPTH, MAX_DEPTH + 1, 2))
    marked = [line for line in lines if "<-" in line]
    assert len(marked) == 1 and marked[0].split()[0] == "10"
    # Depth 20 does not fit into 8 GB.
    table = card_table(plans_for, CARDS, 12)
    small = next(line for line in table if "RTX 4060, 8 GB" in line)
    assert small.split("|")[-3].strip() == "no" and "depth 10" in small.split("|")[-2]
    assert len({line.count("|") for line in table}) == 1


def test_the_readme_shows_what_plan_prints():
    readme = (ROOT / "README.md").read_text()
    for line in card_table(plans_for, CARDS, 12):
        assert line in readme, f"README.md lacks {line}: copy what python pretrain.py --plan prints"


# ---- compiling ----

def flags(**changed):
    return SimpleNamespace(**dict(dict(compile=None, resume=False, out="out"), **changed))


@pytest.mark.parametrize("dtype, depth, n_tokens, n_threads, pays", [
    # The demo's pretraining, on many cores, too, and a toy.
    (torch.bfloat16, 4, 2_470_000, 2, True), (torch.bfloat16, 4, 2_470_000, 16, False),
    (torch.bfloat16, 1, 20 * 512, 2, False),
    # 2,750 tokens a second without compiling: it saves 43 s of the demo's pretraining.
    (torch.float32, 4, 500_000, 2, False), (torch.float32, 4, 990_000, 2, True)])
def test_a_run_compiles_where_that_saves_more_than_it_takes(dtype, depth, n_tokens, n_threads,
                                                            pays):
    config = model_config(depth, 1536, 512)
    pays_here = lambda n_tokens, n_threads, device=CPU: plan.compiling_pays(
        config, n_tokens, Env(device, dtype), n_threads)
    assert pays_here(n_tokens, n_threads) == pays
    # The more there is to save, the more it pays.
    assert pays_here(10_000 * n_tokens, n_threads) and pays_here(n_tokens, 1) >= pays
    assert pays_here(n_tokens, n_threads, torch.device("cuda"))


def test_flags_decide_and_a_resumed_run_goes_on_as_it_began(tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "can_compile", lambda device: True)
    model = SimpleNamespace(config=model_config(4, 1536, 512))

    def choose(n_tokens, **changed):
        return choose_compile(flags(out=tmp_path, **changed), "sft", n_tokens, model, ENV)

    assert choose(10 ** 4, compile=True) and not choose(10 ** 9, compile=False)
    assert choose(10 ** 9) and not choose(10 ** 4)
    # Without a checkpoint there is nothing to go on with.
    assert choose(10 ** 9, resume=True)
    for folder, began in ("sft", True), ("sft.part", False):
        (tmp_path / folder).mkdir()
        meta = dict(format=1, config=dict(compile=began))
        (tmp_path / folder / "meta.json").write_text(json.dumps(meta))
        for n_tokens in 10 ** 4, 10 ** 9:
            assert choose(n_tokens, resume=True) == began
            assert choose(n_tokens, resume=True, compile=not began) != began
    # What cannot be compiled is not.
    monkeypatch.setattr(plan, "can_compile", lambda device: False)
    assert choose(10 ** 9) is False
