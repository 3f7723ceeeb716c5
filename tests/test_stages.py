"""The five training stages as processes.

They learn, hand over to the next one, go on after any kill, and refuse what cannot work.
"""
import functools
import importlib.util
import json
import math
import os
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from common import find_checkpoint, trained_anew
from toy import (
    ROOT,
    chat,
    fails_with_one_line,
    read_folder,
    run_script,
    succeed,
    write_data,
    write_jsonl,
    write_tokenizer,
)

STAGES = ["pretrain", "midtrain", "sft", "dpo", "distill"]
COMMON = ["--steps", 20, "--tokens_per_step", 512, "--save_every", 5, "--eval_every", 5,
          "--dtype", "float32", "--no-compile"]
RATES = ["--matrix_lr", 0.02, "--embed_lr", 0.3, "--head_lr", 0.008]
DPO_RATES = ["--matrix_lr", 0.002, "--embed_lr", 0.003, "--head_lr", 0.0005]


def flags(stage, data):
    """The flags of a stage's toy run: 20 steps of 8 rows of 64, with learning rates of its own."""
    own = {
        "pretrain": ["--data", data.documents, "--depth", 1, "--seq_len", 64, "--sample_every", 20],
        "midtrain": ["--data", data.conversations],
        "sft": ["--data", data.conversations],
        "dpo": ["--data", data.pairs],
        "distill": ["--data", data.prompts, "--max_tokens", 40, "--temperature", 1]}
    return COMMON + (DPO_RATES if stage == "dpo" else RATES) + own[stage]


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """One uninterrupted run of the whole chain, in toy.out; toy(stage, out=...) runs a stage."""
    folder = tmp_path_factory.mktemp("toy")
    data = write_data(folder / "data")

    def run(stage, *more, out=folder / "out", before=None):
        return run_script(f"{stage}.py", "--out", out, *flags(stage, data), *more,
                          log=folder / stage, before=before)

    run.out = folder / "out"
    run.data = data
    run.folder = folder
    write_tokenizer(run.out)
    run.output = {stage: run(stage) for stage in STAGES}
    return run


def metrics(path, *names):
    """The values of these names in every logged row that has them all."""
    rows = [json.loads(line) for line in Path(path, "metrics.jsonl").read_text().splitlines()]
    return [[row[name] for name in names] for row in rows if all(name in row for name in names)]


# ---- the chain ----

@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_learns_and_leaves_a_whole_checkpoint(toy, stage):
    assert toy.output[stage].status == 0, toy.output[stage].stderr
    out = toy.out / stage
    assert sorted(read_folder(out)) == ["meta.json", "metrics.jsonl", "model.pt", "optim.pt",
                                        "run.json"]
    record = json.loads((out / "run.json").read_text())
    assert record["command"].startswith(f"python {stage}.py --out ") and record["cores"] >= 1
    # A process with PyTorch takes more than 100 MB.
    assert record["peak_memory"] > 1e8 and record["peak_gpu_memory"] is None
    assert 0 < record["seconds"] < 600
    for left_over in "*.part*", "*.tmp", "*.old":
        assert not list(toy.out.glob(left_over))
    losses = [loss for _, loss in metrics(out, "step", "loss")]
    assert [step for step, _ in metrics(out, "step", "loss")] == list(range(20))
    assert [step for step, _ in metrics(out, "step", "val_loss")] == [0, 5, 10, 15, 20]
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
    val_losses = [loss for _, loss in metrics(out, "step", "val_loss")]
    # Distillation holds out two answers of a toy teacher: their loss need not fall.
    assert val_losses[-1] < val_losses[0] or stage == "distill"
    meta = json.loads((out / "meta.json").read_text())
    assert meta["step"] == 20 and meta["stage"] == stage and meta["model"]["n_layer"] == 1
    assert meta["versions"]["torch"] == torch.__version__
    weights = torch.load(out / "model.pt", weights_only=True)
    assert {w.dtype for w in weights.values()} == {torch.float32}
    assert not any("_orig_mod" in name for name in weights)


def test_pretraining_starts_at_ln_v_and_dpo_at_ln_2(toy):
    assert metrics(toy.out / "pretrain", "loss")[0][0] == pytest.approx(math.log(265), rel=1e-5)
    loss, margin = metrics(toy.out / "dpo", "loss", "margin")[0]
    assert loss == pytest.approx(math.log(2), abs=1e-5) and margin == pytest.approx(0, abs=1e-5)
    assert metrics(toy.out / "dpo", "val_accuracy")[-1][0] == 1.0


def test_the_distillation_answers_are_a_readable_file_of_conversations(toy):
    lines = (toy.out / "distill_answers.jsonl").read_text().splitlines()
    assert 0 < len(lines) <= 144
    for row in map(json.loads, lines):
        assert row["ended"] and row["messages"][-1]["role"] == "assistant"


@pytest.mark.parametrize("stage", STAGES)
def test_a_log_has_the_first_and_the_last_step_and_each_evaluation(toy, stage):
    lines = re.findall(r"^step +(\d+)/20 +\| (.*)$", toy.output[stage].stdout, re.M)
    steps = [int(step) for step, _ in lines]
    # Toy steps take milliseconds: no line is due in between.
    assert steps[0] == 0 and steps[-1] == 19 and len(steps) < 20
    for _, line in lines:
        assert "loss " in line and " ms " in line and "tok/s" in line and "left" in line
    evaluated = re.findall(r"^step +(\d+) \| val ", toy.output[stage].stdout, re.M)
    assert evaluated == ["0", "5", "10", "15", "20"]
    # A terminal's codes have no place in a file.
    assert "\r" not in toy.output[stage].stdout + toy.output[stage].stderr


def test_the_logged_speed_is_that_of_the_whole_step(toy):
    for ms, tok_per_sec in metrics(toy.out / "pretrain", "ms", "tok_per_sec"):
        assert tok_per_sec * ms / 1e3 == pytest.approx(512)


def test_the_learning_rate_climbs_stays_and_falls_and_all_stages_share_the_schedule():
    for stage in STAGES:
        module = load(f"{stage}.py")
        cfg = module.Config()
        for steps in 1, 2, 10, 1000:
            scales = [module.lr_scale(step, cfg, steps) for step in range(steps)]
            top = scales.index(max(scales))
            assert 0 < min(scales) and max(scales) <= 1
            assert scales == sorted(scales[:top]) + sorted(scales[top:], reverse=True)
        assert scales[0] < 0.1 and max(scales) > 0.98 and scales[-1] < 0.01


# ---- stopped anywhere, the run goes on to the same bits ----

NEEDS = {"pretrain": [], "midtrain": ["pretrain"], "sft": ["midtrain"], "dpo": ["sft"],
         "distill": ["sft", "dpo"]}


def copy_of(toy, out, stages):
    """A folder `out` with the tokenizer and some finished stages of the chain."""
    for name in ["tokenizer", *stages]:
        shutil.copytree(toy.out / name, out / name)
    return out


def interrupt(place, n, number=signal.SIGKILL):
    """Send this process a signal before the n-th call of a function.

    place: "step" for an optimizer step, "write" for a file of a checkpoint, which is left torn,
    "rename" for the renaming of a folder, "generate" for a batch of the teacher's answers.
    """
    import common
    from talk.engine import Engine
    from train.optimizer import Optimizer
    owner, name = {"step": (Optimizer, "step"), "write": (common, "write_synced"),
                   "rename": (Path, "rename"), "generate": (Engine, "generate")}[place]
    original = getattr(owner, name)
    calls = 0

    def counted(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == n:
            if place == "write":
                args[0].write_bytes(b"torn")
            os.kill(os.getpid(), number)
        return original(*args, **kwargs)

    setattr(owner, name, counted)


# A run saves after 5, 10, 15 and 20 steps. A save writes 4 files, and from the second one on it
# renames two folders: the old one out of the way, the new one into its place. Every process counts
# its steps, files and renamings anew. Another test checks that 20 steps cross the end of an epoch.
INTERRUPTIONS = {
    # From before any save to between two renamings.
    "pretrain": [("step", 3), ("write", 6), ("rename", 2), ("rename", 7)],
    "midtrain": [("step", 3, signal.SIGTERM), ("step", 9), ("write", 1)],
    "sft": [("step", 12, signal.SIGINT), ("rename", 4)],
    "dpo": [("step", 8), ("step", 9, signal.SIGTERM)],
    "distill": [("generate", 3), ("step", 8), ("write", 3)]}


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_resumed_after_any_interruption_it_ends_at_the_same_bits(toy, tmp_path, stage):
    out = copy_of(toy, tmp_path / "out", NEEDS[stage])
    for place, n, *number in INTERRUPTIONS[stage]:
        before = functools.partial(interrupt, place, n, *number)
        result = toy(stage, "--resume", out=out, before=before)
        if number:
            # Asked to stop, it saves at once and exits with the usual status.
            assert result.status == 128 + number[0], result.stderr
            assert "go on with --resume" in result.stdout
            assert step_of(out / f"{stage}.part") % 5
        else:
            assert result.status == -signal.SIGKILL, result.stderr
        assert not (out / stage).exists()
        if place == "generate":
            # Leave the share as if the third batch had been torn while it was written.
            share = out / "distill_answers.0-of-1"
            lines = share.read_text().splitlines(keepends=True)
            share.write_text("".join(lines + lines[:1]) + lines[1][:-1])
    result = toy(stage, "--resume", out=out)
    assert result.status == 0 and "resume " in result.stdout, result.stderr
    for name in "model.pt", "optim.pt":
        resumed = torch.load(out / stage / name, weights_only=True)
        uninterrupted = torch.load(toy.out / stage / name, weights_only=True)
        assert same(resumed, uninterrupted), f"{name} differs"
    for names in ("step", "loss", "lr", "grad_norm"), ("step", "val_loss"):
        assert metrics(out / stage, *names) == metrics(toy.out / stage, *names)


def slow_writes(n, *signals):
    """Save in the background, slowly; send the signals, one after the other, in the n-th file."""
    import common
    from train.run import Saver
    Saver.__init__ = functools.partialmethod(Saver.__init__, in_background=True)
    original = common.write_synced
    calls = 0

    def slow(path, write):
        nonlocal calls
        calls += 1
        path.write_bytes(b"torn")
        if calls == n:
            for number in signals:
                os.kill(os.getpid(), number)
                # By then, the main thread has noted it.
                time.sleep(0.3)
        time.sleep(0.05)
        original(path, write)

    common.write_synced = slow


@pytest.mark.slow
def test_signals_in_a_save_in_the_background_lose_nothing(toy, tmp_path):
    """A run of 20 steps takes less time than a save. Each save writes 4 files."""
    out = copy_of(toy, tmp_path / "out", NEEDS["sft"])
    part = out / "sft.part"
    # The first save is killed: nothing is there. Then the second: the first one is.
    for n, signals, status, step in [
            (2, [signal.SIGKILL], -signal.SIGKILL, None),
            (6, [signal.SIGINT, signal.SIGINT], -signal.SIGINT, 5)]:
        result = toy("sft", "--resume", out=out, before=functools.partial(slow_writes, n, *signals))
        assert result.status == status, result.stderr
        assert (step_of(part) if part.exists() else None) == step
    # Asked to stop while a thread writes, it lets it finish and saves the step that it is at.
    result = toy("sft", "--resume", out=out,
                 before=functools.partial(slow_writes, 3, signal.SIGTERM))
    assert result.status == 128 + signal.SIGTERM, result.stderr
    assert step_of(part) > 10 and f"{part} is saved" in result.stdout
    result = toy("sft", "--resume", out=out, before=functools.partial(slow_writes, 0))
    assert result.status == 0, result.stderr
    for name in "model.pt", "optim.pt":
        resumed = torch.load(out / "sft" / name, weights_only=True)
        assert same(resumed, torch.load(toy.out / "sft" / name, weights_only=True))
    # A child of the tests does without what Python does at its end, as to remove the lock.
    assert {path.name for path in out.glob("sft.*")} <= {"sft.lock"}


def fail_after_a_save():
    """Save in the background, slowly; the step after the first save fails."""
    from train.optimizer import Optimizer
    slow_writes(0)
    step = Optimizer.step

    def failing(self, *args, **kwargs):
        if self.count == 5:
            raise ValueError("no more steps")
        return step(self, *args, **kwargs)

    Optimizer.step = failing


@pytest.mark.slow
def test_an_error_lets_the_save_in_the_background_finish(toy, tmp_path):
    out = copy_of(toy, tmp_path / "out", NEEDS["sft"])
    fails_with_one_line(toy("sft", out=out, before=fail_after_a_save), "no more steps")
    assert step_of(out / "sft.part") == 5 and not list(out.glob("sft.part.*"))


def step_of(checkpoint):
    return json.loads((checkpoint / "meta.json").read_text())["step"]


def same(a, b):
    """Nested dicts and lists of tensors and numbers, equal to the bit."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def test_the_interrupted_runs_cross_the_end_of_an_epoch(toy):
    for stage in STAGES:
        epochs = float(re.search(r"tokens \(([\d.]+) epochs", toy.output[stage].stdout)[1])
        assert epochs > (0.8 if stage == "pretrain" else 1), stage


@pytest.mark.slow
def test_a_stage_run_again_replaces_its_checkpoint_when_the_new_one_is_whole(toy, tmp_path):
    out = copy_of(toy, tmp_path / "out", ["midtrain", "sft"])
    before = read_folder(out / "sft")
    result = toy("sft", "--seed", 1, out=out, before=functools.partial(interrupt, "step", 12))
    assert result.status == -signal.SIGKILL and read_folder(out / "sft") == before
    assert f"note       {out}/sft is there from before" in result.stdout
    # Without --resume it starts afresh.
    result = toy("sft", "--seed", 1, out=out)
    assert result.status == 0, result.stderr
    assert "step     0/20" in result.stdout and "interrupted run" in result.stdout
    assert read_folder(out / "sft")["model.pt"] != before["model.pt"]
    assert not (out / "sft.part").exists()
    # It is finished: nothing is left to do.
    assert toy("sft", "--seed", 1, "--resume", out=out).status == 0


@pytest.mark.slow
def test_resume_refuses_other_settings_and_another_previous_stage(toy, tmp_path):
    out = copy_of(toy, tmp_path / "out", ["midtrain"])
    result = toy("sft", out=out, before=functools.partial(interrupt, "step", 12))
    assert result.status == -signal.SIGKILL
    part = read_folder(out / "sft.part")
    fails_with_one_line(toy("sft", "--resume", "--matrix_lr", 0.5, out=out), "matrix_lr", 0.5)
    shutil.rmtree(out / "midtrain")
    shutil.copytree(toy.out / "pretrain", out / "midtrain")
    fails_with_one_line(toy("sft", "--resume", out=out), "--resume")
    assert read_folder(out / "sft.part") == part


DATA = {"pretrain": "documents", "midtrain": "conversations", "sft": "conversations",
        "dpo": "pairs", "distill": "prompts"}


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_data_is_known_again_by_its_content_and_other_data_is_refused_before_packing(
        toy, tmp_path, stage):
    out = copy_of(toy, tmp_path / "out", NEEDS[stage])
    shutil.copytree(toy.folder / "data", tmp_path / "data")
    name = Path(getattr(toy.data, DATA[stage])).name
    result = toy(stage, "--data", tmp_path / "data" / name, out=out,
                 before=functools.partial(interrupt, "step", 12))
    assert result.status == -signal.SIGKILL, result.stderr

    # Another machine, another time, and what macOS leaves in folders.
    there = tmp_path / "there"
    shutil.copytree(out, there / "out", copy_function=shutil.copyfile)
    shutil.copytree(tmp_path / "data", there / "mine", copy_function=shutil.copyfile)
    for path in there.rglob("*.jsonl"):
        os.utime(path, (1, 1))
    (there / "mine/.DS_Store").write_bytes(b"x")

    text = (there / "mine" / name).read_text()
    at = text.index('"', len(text) // 2) - 1
    (there / "mine" / name).write_text(text[:at] + "Z" + text[at + 1:])
    before = read_folder(there / "out/rows"), read_folder(there / f"out/{stage}.part")
    result = toy(stage, "--data", there / "mine" / name, "--resume", out=there / "out")
    fails_with_one_line(result, "--resume", f"{stage}.part", f"{name} has changed")
    assert (read_folder(there / "out/rows"), read_folder(there / f"out/{stage}.part")) == before

    (there / "mine" / name).write_text(text)
    result = toy(stage, "--data", there / "mine" / name, "--resume", out=there / "out")
    assert result.status == 0 and "packed before" in result.stdout, result.stderr
    assert "packing" not in result.stdout and "resume" in result.stdout
    resumed = torch.load(there / "out" / stage / "model.pt", weights_only=True)
    assert same(resumed, torch.load(toy.out / stage / "model.pt", weights_only=True))


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_finished_run_says_how_to_train_on_and_can(toy, tmp_path, stage, capsys):
    out = copy_of(toy, tmp_path / "out", STAGES)
    done = read_folder(out / stage)
    result = toy(stage, "--resume", "--steps", 26, out=out)
    fails_with_one_line(result, f"{out}/{stage} is done, after 20 steps, not 26",
                        f"--base {stage} --seed 1 --steps 6, without --resume")
    fails_with_one_line(toy(stage, "--resume", "--steps", 6, out=out), "after 20 steps, not 6")
    assert read_folder(out / stage) == done

    more = ["--base", stage, "--seed", 1, "--steps", 6]
    result = toy(stage, *more, out=out, before=functools.partial(interrupt, "step", 6))
    assert result.status == -signal.SIGKILL and read_folder(out / stage) == done
    again = shutil.copytree(out, tmp_path / "again")
    result = toy(stage, *more, "--resume", out=out)
    assert result.status == 0 and f"resume     {out}/{stage}.part at step 5" in result.stdout
    result = toy(stage, *more, out=again)
    assert result.status == 0, result.stderr
    weights = torch.load(out / stage / "model.pt", weights_only=True)
    assert same(weights, torch.load(again / stage / "model.pt", weights_only=True))
    # It goes on where the first run ended, not where that one began. DPO measures from there, and
    # with another seed the teacher gives other answers.
    if stage not in ("dpo", "distill"):
        first, last = metrics(toy.out / stage, "step", "val_loss")[::4]
        assert metrics(out / stage, "step", "val_loss")[0][1] == pytest.approx(last[1], rel=1e-5)
        assert last[1] != pytest.approx(first[1], rel=1e-2)
    # What was made from the stage before is older now; the stage itself is not.
    capsys.readouterr()
    assert find_checkpoint(out, stage) == out / stage
    assert "older" not in capsys.readouterr().err
    assert trained_anew(out, stage) == ""


def test_training_on_refuses_another_shape_or_tokenizer(toy, tmp_path):
    out = copy_of(toy, tmp_path / "out", ["pretrain"])
    fails_with_one_line(toy("pretrain", "--base", "pretrain", "--depth", 2, out=out), "--depth 2")
    write_tokenizer(out, pattern=r"[a-z]|[\s\S]")
    fails_with_one_line(toy("pretrain", "--base", "pretrain", out=out), "another tokenizer")
    fails_with_one_line(toy("sft", "--base", "sft", out=out), "out/sft", "python sft.py")


@pytest.mark.slow
def test_what_was_made_before_an_earlier_stage_was_trained_anew_is_named(toy, tmp_path, capsys):
    assert find_checkpoint(toy.out, "") == toy.out / "distill"
    assert not capsys.readouterr().err

    out = copy_of(toy, tmp_path / "out", ["pretrain", "midtrain", "dpo", "distill"])
    assert toy("sft", "--seed", 1, out=out).status == 0
    assert find_checkpoint(out, "") == out / "distill"
    older = f"{out}/distill is older than {out}/sft"
    assert capsys.readouterr().err == f"note       {older}; for that: --stage sft\n"
    assert find_checkpoint(out, "dpo") == out / "dpo"
    assert not capsys.readouterr().err
    older = f"{out}/dpo, the teacher, is older than {out}/sft"
    fails_with_one_line(toy("distill", out=out), older, "dpo.py")

    # Now midtraining is too old. Running dpo.py again would not mend that: distill.py goes on.
    out = copy_of(toy, tmp_path / "other", ["pretrain", "midtrain", "sft", "dpo"])
    meta = json.loads((out / "pretrain/meta.json").read_text())
    (out / "pretrain/meta.json").write_text(json.dumps(dict(meta, step=21)))
    assert find_checkpoint(out, "") == out / "dpo"
    assert f"older than {out}/pretrain" in capsys.readouterr().err
    assert toy("distill", out=out).status == 0


def test_what_comes_next_is_said_with_the_flags_that_it_needs(toy):
    following = {"pretrain": f"midtrain.py --out {toy.out} --data chats.jsonl",
                 "dpo": f"distill.py --out {toy.out} --data prompts.jsonl",
                 "distill": f"chat.py --out {toy.out}"}
    for stage, command in following.items():
        assert f"Next: python {command}\n" in toy.output[stage].stdout


# ---- what cannot work ends in one line, and harms nothing ----

def bad_file(toy, name, text):
    path = toy.folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


GOOD = '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'
PAIR = '{"prompt": "a", "chosen": "b", "rejected": "c"}\n'
# Stage -> (line 2 of the file, what the error must name).
BAD_LINES = {
    "pretrain": [
        ('{"text": "abc"', "column"),
        ('{"title": "abc"}', '"text"'),
        ('{"text": 3}', "string"),
        ('{"text": "a \\ud800"}', "surrogate"),
        ('{"text": "a \\u0000"}', "NUL")],
    "midtrain": [
        (GOOD.strip().replace('"a"', '"a \\ud800"'), "surrogate")],
    "sft": [
        ('{"messages": [{"role": "user"', "column"),
        ('{"messages": "abc"}', "messages"),
        ('{"messages": [{"role": "assistant", "content": "b"}, {"role": "user", "content": "a"}]}',
         "no answer is to be learned"),
        (GOOD.strip().replace("assistant", "user"), "no assistant message"),
        (GOOD.strip().replace('"b"', '"b \\u0000"'), "NUL")],
    "dpo": [
        ('{"prompt": "a", "chosen": "b"}', "rejected"),
        (PAIR.strip().replace('"c"', '"b"'), "equal"),
        (PAIR.strip().replace('"c"', '"c \\ud800"'), "surrogate")],
    "distill": [
        ('nothing', "JSON")]}


@pytest.mark.slow
@pytest.mark.parametrize("stage, number", [
    (stage, i) for stage, lines in BAD_LINES.items() for i in range(len(lines))])
def test_a_bad_line_is_named_with_file_and_number(toy, stage, number):
    line, word = BAD_LINES[stage][number]
    first = {"pretrain": '{"text": "some text"}\n', "dpo": PAIR}.get(stage, GOOD)
    path = bad_file(toy, f"bad_{stage}_{number}.jsonl", first + line + "\n")
    before = {name: read_folder(toy.out / name) for name in STAGES}
    fails_with_one_line(toy(stage, "--data", path), f"{path}:2", word)
    assert before == {name: read_folder(toy.out / name) for name in STAGES}


@pytest.mark.slow
@pytest.mark.parametrize("stage, more", [
    ("pretrain", "--eval_every 0"), ("pretrain", "--sample_every 0"), ("sft", "--save_every 0"),
    ("sft", "--steps -1"), ("pretrain", "--seq_len -64"), ("pretrain", "--depth -3"),
    ("pretrain", "--matrix_lr nan"), ("sft", "--epochs inf"), ("pretrain", "--n_kv_head 3"),
    ("sft", "--batch_size 3"), ("dpo", "--batch_size 16"), ("sft", "--dtype float64"),
    ("sft", "--device tpu"), ("sft", "--learning_rate 1"), ("sft", "--steps many"),
    ("sft", "--seed -1"), ("sft", "--data /nowhere/chats.jsonl"), ("pretrain", "--data /nowhere"),
    ("sft", "--mixture spelling:3"), ("sft", "--mixture identity:0")])
def test_an_impossible_setting_is_named(toy, stage, more):
    before = {name: read_folder(toy.out / name) for name in STAGES}
    flag, value = more.split()
    if flag == "--mixture":
        # --data would take the place of the mixture.
        log = toy.folder / "mixture"
        result = run_script(f"{stage}.py", "--out", toy.out, flag, value, log=log)
    else:
        result = toy(stage, flag, value)
    if flag == "--data":
        fails_with_one_line(result, value)
    elif flag == "--learning_rate":
        fails_with_one_line(result, flag)
    else:
        fails_with_one_line(result, flag, value)
    assert before == {name: read_folder(toy.out / name) for name in STAGES}


@pytest.mark.slow
def test_an_empty_corpus_and_one_too_small_for_a_row(toy):
    folder = toy.folder / "empty"
    folder.mkdir()
    for path in bad_file(toy, "empty.txt", ""), folder:
        fails_with_one_line(toy("pretrain", "--data", path), path)
    short = bad_file(toy, "short.jsonl", '{"text": "ab"}\n{"text": "cd"}\n')
    fails_with_one_line(toy("pretrain", "--data", short), "row of 65")
    fails_with_one_line(toy("sft", "--data", bad_file(toy, "empty.jsonl", "")), "empty.jsonl")


@pytest.mark.slow
def test_long_conversations_are_cut_and_those_without_a_target_left_out(toy, tmp_path):
    out = copy_of(toy, tmp_path / "out", ["midtrain"])
    rows = [chat("a" * 200, "b")] * 10 + [chat("a", "b" * 200)] * 10
    result = toy("sft", "--data", write_jsonl(tmp_path / "long.jsonl", rows), "--steps", 2, out=out)
    assert result.status == 0 and "20 cut to the row" not in result.stdout, result.stderr
    assert "cut to the row" in result.stdout
    assert "left out: nothing to learn in them" in result.stdout
    warning = r"WARNING +[5-9]\d % of the tokens do not fit into rows of 64 and are not learned"
    assert re.search(warning, result.stdout)
    assert "WARNING" not in toy.output["sft"].stdout
    path = write_jsonl(tmp_path / "only_long.jsonl", [chat("a" * 200, "b")] * 10)
    fails_with_one_line(toy("sft", "--data", path, out=out), "row of 65")


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_missing_previous_stage_says_what_to_run(toy, tmp_path, stage):
    out = tmp_path / "new"
    fails_with_one_line(toy(stage, out=out), "python", f"--out {out}")
    copy_of(toy, out, [])
    if stage != "pretrain":
        before = NEEDS[stage][-1]
        fails_with_one_line(toy(stage, out=out), out / before, f"python {before}.py --out {out}")


@pytest.mark.slow
def test_another_tokenizer_and_broken_checkpoints_are_refused(toy, tmp_path):
    out = copy_of(toy, tmp_path / "out", ["pretrain", "midtrain"])
    write_tokenizer(out, pattern=r"\S|\s")
    fails_with_one_line(toy("midtrain", out=out), out / "pretrain", "another tokenizer")
    merges = out / "tokenizer/merges.tiktoken"
    merges.write_bytes(merges.read_bytes().replace(b" 5\n", b" 256\n"))
    fails_with_one_line(toy("midtrain", out=out), out / "tokenizer")
    (out / "tokenizer/tokenizer.json").write_text("{}")
    fails_with_one_line(toy("midtrain", out=out), out / "tokenizer")
    write_tokenizer(out)
    weights = (out / "pretrain/model.pt").read_bytes()
    for broken in b"", weights[:1000], b"PK" + bytes(5000):
        (out / "pretrain/model.pt").write_bytes(broken)
        fails_with_one_line(toy("midtrain", out=out), out / "pretrain/model.pt")
    (out / "pretrain/model.pt").write_bytes(weights)
    for broken in "{", "{}", "[]":
        (out / "pretrain/meta.json").write_text(broken)
        fails_with_one_line(toy("midtrain", out=out), out / "pretrain")


def limit_file_size(n):
    """Writing a file past n bytes fails, as on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (n, n))


@pytest.mark.slow
def test_an_out_that_cannot_be_written_and_a_full_disk(toy, tmp_path):
    out = copy_of(toy, tmp_path / "out", ["midtrain", "sft"])
    (out / "rows").write_text("in the way")
    fails_with_one_line(toy("sft", out=out), out / "rows")
    (out / "rows").unlink()
    before = read_folder(out / "sft")
    result = toy("sft", out=out, before=functools.partial(limit_file_size, 10_000))
    fails_with_one_line(result, out / "rows", "disk")
    assert not list((out / "rows").iterdir())
    result = toy("sft", out=out, before=functools.partial(interrupt, "step", 8))
    assert result.status == -signal.SIGKILL
    part = read_folder(out / "sft.part")
    # The first limit leaves room for the rows only, the second for the weights and nothing more.
    for n in 50_000, len(before["model.pt"]) + 50_000:
        result = toy("sft", "--resume", out=out, before=functools.partial(limit_file_size, n))
        fails_with_one_line(result, out / "sft.part", "disk", "--resume")
        assert read_folder(out / "sft") == before
        assert read_folder(out / "sft.part") == part
        assert not (out / "sft.part.tmp").exists()
    fails_with_one_line(toy("sft", out=toy.data.documents), toy.data.documents)


def spoil_step(n):
    """Make the gradients of the n-th optimizer step not a number."""
    from train.optimizer import Optimizer
    original = Optimizer.step
    calls = 0

    def spoiled(self, *args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == n:
            self.groups["head"]["params"][0].grad[0, 0] = math.nan
        return original(self, *args, **kwargs)

    Optimizer.step = spoiled


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["pretrain", "sft", "dpo"])
def test_a_gradient_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(toy, tmp_path, stage):
    out = copy_of(toy, tmp_path / "out", NEEDS[stage])
    result = toy(stage, out=out, before=functools.partial(spoil_step, 8))
    fails_with_one_line(result, "step 7", "nan", out / f"{stage}.part", "--resume")
    assert step_of(out / f"{stage}.part") == 5
    assert toy(stage, "--resume", out=out).status == 0
    assert same(torch.load(out / stage / "model.pt", weights_only=True),
                torch.load(toy.out / stage / "model.pt", weights_only=True))


@pytest.mark.slow
def test_before_the_first_save_no_checkpoint_is_named(toy, tmp_path):
    out = copy_of(toy, tmp_path / "out", ["midtrain"])
    result = toy("sft", out=out, before=functools.partial(spoil_step, 3))
    fails_with_one_line(result, "step 2", "nan", "No checkpoint was saved yet",
                        "smaller learning rates")
    assert "--resume" not in result.stderr


def scale_the_loss_by_too_much():
    """Let float16 begin with a loss scale that the gradients do not fit."""
    from train.optimizer import LossScale
    original = LossScale.__init__

    def too_large(self, dtype):
        original(self, dtype)
        self.factor = 2.0 ** 40 if self.is_used else self.factor

    LossScale.__init__ = too_large


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["pretrain", "sft", "dpo"])
def test_in_float16_steps_that_do_not_fit_are_skipped_and_shown(toy, tmp_path, stage):
    assert " skipped" not in toy.output[stage].stdout
    out = copy_of(toy, tmp_path / "out", NEEDS[stage])
    result = toy(stage, "--dtype", "float16", "--steps", 50, out=out,
                 before=scale_the_loss_by_too_much)
    assert result.status == 0, result.stderr
    norms = [norm for norm, in metrics(out / stage, "grad_norm")]
    skipped = norms.count(0)
    assert 0 < skipped < 40
    assert f" | {skipped} skipped" in result.stdout.split("step    49/50")[1]
    saved = torch.load(out / stage / "optim.pt", weights_only=True)
    assert saved["loss_scale"]["skipped"] == skipped and saved["count"] == 50 - skipped
    losses = [loss for loss, in metrics(out / stage, "loss")]
    assert losses[-1] < 0.9 * losses[0]


def interrupt_packing():
    """Ctrl-C as soon as rows are written."""
    from train import rows
    # A shell starts background jobs with Ctrl-C ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    rows.conversation_rows = lambda *args: signal.raise_signal(signal.SIGINT)


@pytest.mark.slow
def test_ctrl_c_while_packing_says_so_and_leaves_no_rows(toy, tmp_path):
    out = copy_of(toy, tmp_path / "out", ["midtrain"])
    result = toy("sft", out=out, before=interrupt_packing)
    assert result.status == 130 and result.stderr.strip() == "stopped by Ctrl-C"
    assert not list((out / "rows").iterdir())


# ---- how a step is cut ----

@pytest.mark.slow
def test_micro_batches_do_not_change_the_logged_loss_and_gradient(toy, tmp_path):
    for stage in "sft", "dpo":
        logged = []
        for batch_size in 8, 2, 1:
            out = copy_of(toy, tmp_path / f"{stage}{batch_size}", NEEDS[stage])
            assert toy(stage, "--batch_size", batch_size, "--steps", 2, out=out).status == 0
            logged.append(metrics(out / stage, "loss", "grad_norm")[0])
        for other in logged[1:]:
            assert other == pytest.approx(logged[0], rel=1e-5)


def compile_without_a_compiler():
    """Let torch.compile trace the model but run the traced graph as it is: no C++ is compiled."""
    import torch

    import machine
    compile = torch.compile
    torch.compile = lambda model, **kwargs: compile(model, backend="eager", **kwargs)
    machine.can_compile = lambda device: True


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_a_compiled_run_saves_the_same_weights_under_the_names_of_the_source(toy, tmp_path, stage):
    out = copy_of(toy, tmp_path / "out", NEEDS[stage])
    result = toy(stage, "--compile", out=out, before=compile_without_a_compiler)
    assert result.status == 0 and "not compiled" not in result.stdout, result.stderr
    start = torch.load(toy.out / NEEDS[stage][0] / "model.pt", weights_only=True)
    plain = torch.load(toy.out / stage / "model.pt", weights_only=True)
    compiled = torch.load(out / stage / "model.pt", weights_only=True)
    assert list(compiled) == list(plain)
    for name in plain:
        # Muon magnifies rounding, step after step.
        assert (compiled[name] - plain[name]).norm() < 0.3 * (plain[name] - start[name]).norm()
    losses = [loss for loss, in metrics(out / stage, "loss")]
    plain_losses = [loss for loss, in metrics(toy.out / stage, "loss")]
    assert losses == pytest.approx(plain_losses, rel=0.01)


# ---- the commands that we print ----

def commands():
    """(file, script, flags) of every command in docstrings, the README, run.sh and the notebook."""
    word = r"""(?:"[^"\n]*"|'[^'\n]*'|[^\s"'`#(|>;·]+)"""
    # Two spaces end a command.
    command = rf"(?:python|torchrun[^`\n]*?) ((?:tests/bench/)?[a-z_]+\.py)((?: {word})*)"
    scripts = [*ROOT.glob("*.py"), *ROOT.glob("tests/bench/*.py")]
    texts = [ROOT / "README.md", ROOT / "run.sh", ROOT / "dev/tok2chat.ipynb"]
    for path in sorted([*scripts, *texts]):
        text = path.read_text()
        if path.suffix == ".ipynb":
            text = "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"])
        if path.suffix == ".py":
            text = text.split('"""')[1]
        if path.suffix == ".sh":
            text = re.sub(r"\\\n *", "", text)
            for variable, value in dict(python="python", on_gpus="torchrun", minutes="60",
                                        folder="", answers="").items():
                text = text.replace(f"${variable}", value)
        for script, rest in re.findall(command, text):
            yield path.name, script, rest


def load(script):
    name = "script_" + script.removesuffix(".py").replace("/", "_")
    spec = importlib.util.spec_from_file_location(name, ROOT / script)
    module = importlib.util.module_from_spec(spec)
    # inspect.getsource asks for it.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_every_command_of_the_documentation_parses():
    from data.mixtures import DOWNLOADED, SPLITS, parse_mixture, published_split
    from machine import parse_config
    found = list(commands())
    scripts = {script for _, script, _ in found}
    assert scripts >= {f"{name}.py" for name in ["tokenizer", *STAGES, "chat", "evaluate"]}
    modules = {script: load(script) for script in scripts}
    for where, script, rest in found:
        module = modules[script]
        if not hasattr(module, "Config"):
            # Some benchmarks have flags of their own.
            assert script.startswith("tests/bench/"), script
            continue
        argv = [arg for arg in shlex.split(rest) if arg not in ("...", "…")]
        if script == "chat.py":
            _, argv = module.take_prompt(argv)
        try:
            cfg = parse_config(module.Config, module.__doc__, argv)
            if getattr(cfg, "mixture", "demo") not in ("demo", "downloads"):
                # The stage must find its split in each source.
                for name, _, _ in parse_mixture(cfg.mixture):
                    if name in DOWNLOADED and script != "tokenizer.py":
                        published_split(name, SPLITS[script.removesuffix(".py")])
        except (SystemExit, ValueError) as e:
            pytest.fail(f"{where}: python {script} {rest}: {e}")


@pytest.mark.parametrize("script", [f"{stage}.py" for stage in STAGES])
def test_help_names_every_flag_with_its_default(toy, script):
    result = succeed(script, "--help", log=toy.folder / "help")
    flags = re.findall(r"^  --(\w+)", result.stdout, re.M)
    expected = "out data seed device compile resume steps batch_size eval_every save_every"
    assert set(expected.split()) <= set(flags)
    assert result.stdout.count("(default:") == len(flags)


# ---- no matrix product in another dtype than the run's ----

PRODUCTS = {"mm", "addmm", "bmm", "baddbmm", "addbmm", "mv", "addmv", "dot", "matmul", "linear",
            "_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_attention_math",
            "convolution"}


def watch_products(path):
    """Write the dtypes of this process's matrix products to the file `path`, each with its place.

    The place is "engine" for the decoder of generation, which has a dtype of its own, and "run" for
    everything else.
    """
    from torch.utils._python_dispatch import TorchDispatchMode
    seen = set()

    def called_from():
        frame = sys._getframe()
        while frame:
            if frame.f_code.co_filename.endswith("decode.py"):
                return "engine"
            frame = frame.f_back
        return "run"

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func.overloadpacket.__name__ in PRODUCTS:
                where = called_from()
                dtypes = {str(t.dtype) for t in args if isinstance(t, torch.Tensor)}
                lines = {f"{where} {dtype.removeprefix('torch.')}\n" for dtype in dtypes}
                for line in lines - seen:
                    seen.add(line)
                    with open(path, "a") as file:
                        file.write(line)
            return func(*args, **(kwargs or {}))

    # Without a C compiler the engine multiplies with PyTorch, too.
    os.environ["PATH"] = ""
    Watch().__enter__()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("what", [*STAGES, "evaluate", "chat"])
def test_every_matrix_product_is_in_the_dtype_of_the_run(toy, tmp_path, what, dtype):
    """On a CPU without the instruction, bfloat16 products are 45 to 500 times slower than float32.

    See pytorch#146508. One such product in the optimizer made a step of pretraining take 44
    seconds instead of 3.
    """
    seen = tmp_path / "seen"
    before = functools.partial(watch_products, seen)
    if what in STAGES:
        out = copy_of(toy, tmp_path / "out", NEEDS[what])
        result = toy(what, "--steps", 1, "--dtype", dtype, out=out, before=before)
    else:
        own = {"chat": ["-p", "red blue?", "--max_tokens", 4],
               "evaluate": ["--tasks", "simple_spelling", "--items", 2]}
        result = run_script(f"{what}.py", "--out", toy.out, "--stage", "distill", "--dtype", dtype,
                            *own[what], log=tmp_path / what, before=before)
    assert result.status == 0, result.stderr
    expected = set()
    if what != "chat":
        expected.add(f"run {dtype}")
    if what == "chat":
        expected.add(f"engine {dtype}")
    elif what in ("distill", "evaluate"):
        # On a CPU the engine computes in float32, which every machine is fast in.
        expected.add("engine float32")
    assert set(seen.read_text().splitlines()) == expected


@pytest.mark.slow
def test_a_product_of_another_dtype_would_be_seen(tmp_path):
    """The test above would see a product in the forward pass and in the backward pass."""
    code = f"""
import sys
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'tests')!r}]
import torch, test_stages
test_stages.watch_products({str(tmp_path / 'seen')!r})
x = torch.ones(4, 4, requires_grad=True)
(x.bfloat16() @ torch.ones(4, 4).bfloat16()).sum().backward()
torch.nn.functional.linear(x, x)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    assert set((tmp_path / "seen").read_text().splitlines()) == {"run bfloat16", "run float32"}
