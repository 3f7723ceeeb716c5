"""
The checks of first_hour.py that run the scripts as their users do: speed, failures, a real run.

Each is a generator of results: name(cfg, folder), with the Config of first_hour.py and an empty
folder to work in.
"""
import json
import os
import re
import runpy
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from results import ROOT, judge, output_of, script, skipped

from data.demo import python_corpus
from machine import setup
from pretrain import model_config
from train.plan import make_plan, this_chip


def losses_of(path, name="loss"):
    """The losses of a finished stage by step: of training, or those of evaluation ("val_loss")."""
    lines = map(json.loads, Path(path, "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line[name] for line in lines if name in line}


def relative(a, b):
    """How far the values of dict a are from those of b, at the keys of both, at most."""
    return max(abs(a[key] - b[key]) / abs(b[key]) for key in a.keys() & b.keys())


def write_text(cfg, folder, vocab_size):
    """-> a file of real text, and --out with a tokenizer for it alone.

    The text is the documentation and source of Python's standard library; tiny: our README.
    """
    paragraphs = (ROOT / "README.md").read_text().split("\n\n")
    documents = paragraphs if cfg.tiny else python_corpus.documents("train")
    text = folder / "text.jsonl"
    text.write_text("".join(json.dumps({"text": document}) + "\n" for document in documents))
    output_of(script("tokenizer.py", "--out", folder / "out", "--data", text,
                     "--vocab_size", vocab_size))
    return text, folder / "out"


def pretrain_flags(cfg, text):
    """Of a small run whose steps of 48 (tiny: 12) rows 1, 2 and 3 ranks can share."""
    flags = ["--data", text, "--device", cfg.device, "--eval_every", 1000, "--eval_rows", 8]
    if cfg.tiny:
        return [*flags, "--depth", 1, "--seq_len", 64, "--tokens_per_step", 12 * 64,
                "--batch_size", 2, "--no-compile", "--dtype", "float32"]
    return [*flags, "--depth", 8, "--seq_len", 512, "--tokens_per_step", 48 * 512,
            "--batch_size", 8]

# --------------------------------------------------------------------------------------------------
# Part 3: speed

def speed(cfg, depth, isolate):
    """tests/bench/train.py. 0.50 of the peak and 50 GB were derived for an H100."""
    flags = ["--device", cfg.device, "--depth", depth, "--isolate" if isolate else "--no-isolate"]
    if cfg.tiny:
        flags += ["--vocab_size", 512, "--seq_len", 64, "--tokens_per_step", 512, "--no-compile"]
        flags += ["--steps", 2, "--warmup", 1]
    elif torch.cuda.get_device_properties(0).total_memory > 70e9:
        flags += ["--batch_size", 16 if depth == 20 else 32, "--steps", 5, "--warmup", 2]
    else:
        # What fits, and fewer tokens, so that a slow card is done in time.
        flags += ["--tokens_per_step", 65536, "--steps", 4, "--warmup", 2]
    printed = output_of(script("tests/bench/train.py", *flags))
    figures = json.loads(printed.strip().splitlines()[-1])
    toy = "toy size" if cfg.tiny else ""
    what = (f"depth {depth}, {'isolate' if isolate else 'causal'}, {figures['tok_per_sec']:,} "
            f"tokens/s, rows {figures['batch_size']}")
    if figures["mfu"] is None:
        yield skipped(f"{what}: share of the peak", toy or "the chip's peak is not known")
    else:
        yield judge(f"{what}: share of the peak", figures["mfu"], ">=", 0.5, toy)
    yield judge(f"{what}: peak GB", figures["peak_memory_gb"] or 0.0, "<=", 50, toy)


def speed_12(cfg, folder):
    for isolate in False, True:
        yield from speed(cfg, 1 if cfg.tiny else 12, isolate)


def speed_20(cfg, folder):
    for isolate in False, True:
        yield from speed(cfg, 2 if cfg.tiny else 20, isolate)

# --------------------------------------------------------------------------------------------------
# Parts 5 and 6: runs that are interrupted, several ranks

def lines_until(process, step):
    """Read what a stage prints, and stop at a step -> the losses of evaluation up to there.

    It needs --eval_every 1: of training there is one line every few seconds.
    """
    losses = {}
    for line in process.stdout:
        print(line, end="", flush=True)
        found = re.match(r"step +(\d+) \| val loss ([\d.]+)", line)
        if found:
            losses[int(found[1])] = float(found[2])
        if step in losses:
            return losses
    raise RuntimeError(f"the run ended before step {step}")


def resume(cfg, folder):
    """SIGKILL between two samples; the resumed run is the one that nothing interrupted."""
    text, out = write_text(cfg, folder, 512 if cfg.tiny else 8192)
    whole = folder / "whole"
    shutil.copytree(out, whole)
    flags = [*pretrain_flags(cfg, text), "--steps", 40, "--save_every", 10,
             "--eval_every", 1]
    output_of(script("pretrain.py", "--out", whole, "--sample_every", 1000, *flags))
    command = script("pretrain.py", "--out", out, "--sample_every", 10, *flags)
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    before = lines_until(process, 27)
    process.kill()
    process.communicate()
    printed = output_of([*command, "--resume"])
    at = int(re.search(r"^resume .* at step (\d+)$", printed, re.M)[1])
    # Not 20 where the checkpoint of step 20 was still being written.
    yield judge("killed at step 27, resumed at", at, ">=", 10)
    resumed = losses_of(out / "pretrain", "val_loss")
    # What was printed has four digits. On a GPU, sums by atomics differ from run to run.
    on_gpu = cfg.device == "cuda"
    again = {step: loss for step, loss in before.items() if step >= at}
    yield judge(f"relative difference of the losses before and after, steps {at} to 27",
                relative(again, resumed), "<=", 1e-3 if on_gpu else 5e-5)
    yield judge("and from those of a run that neither stopped nor sampled, 40 steps",
                relative(resumed, losses_of(whole / "pretrain", "val_loss")), "<=",
                2e-2 if on_gpu else 0)


def enough_gpus(cfg, ranks):
    return cfg.device == "cpu" or torch.cuda.device_count() >= ranks


def ranks(cfg, folder):
    """Several ranks start from an --out with nothing but a tokenizer, and train as one does."""
    if not enough_gpus(cfg, 2):
        yield skipped("losses of 2 and 3 ranks against those of one", "there is one GPU")
        return
    text, out = write_text(cfg, folder, 512 if cfg.tiny else 8192)
    flags = [*pretrain_flags(cfg, text), "--steps", 6]
    losses = {}
    for n in 1, 2, 3:
        if not enough_gpus(cfg, n):
            yield skipped(f"losses of {n} ranks against those of one", "there are fewer GPUs")
            continue
        shutil.copytree(out, folder / str(n))
        output_of(script("pretrain.py", "--out", folder / str(n), *flags, ranks=n))
        losses[n] = losses_of(folder / str(n) / "pretrain")
        if n > 1:
            yield judge(f"relative difference of the losses of {n} ranks from those of one",
                        relative(losses[n], losses[1]), "<=", 1e-2)


def dead_rank(cfg, folder):
    """If a rank dies, the others end within a minute."""
    if not enough_gpus(cfg, 2):
        yield skipped("seconds until all ranks have ended", "there is one GPU")
        return
    text, out = write_text(cfg, folder, 512 if cfg.tiny else 8192)
    command = script("pretrain.py", "--out", out, *pretrain_flags(cfg, text), "--steps", 100000,
                     "--eval_every", 1, ranks=2)
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    lines_until(process, 5)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    workers = [pid for pid in children if "pretrain.py" in Path(f"/proc/{pid}/cmdline").read_text()]
    start = time.monotonic()
    os.kill(int(workers[-1]), signal.SIGKILL)
    process.communicate()
    seconds = time.monotonic() - start
    yield judge(f"seconds until {len(workers)} ranks have ended", seconds, "<=", 60)
    alive = [pid for pid in workers if Path(f"/proc/{pid}").exists()]
    yield judge("ranks that are left", len(alive), "==", 0)
    yield judge("exit status", abs(process.returncode), ">=", 1)

# --------------------------------------------------------------------------------------------------
# Parts 7 and 8: generation, and a real run

def generation(cfg, folder):
    """tests/bench/generate.py: both sides have the same weights and take turns."""
    try:
        import transformers  # noqa: F401
    except ImportError:
        yield skipped("tokens/s, times those of transformers", "pip install -e '.[test]'")
        return
    flags = ["--depth", 20, "--vocab_size", 32768, "--seq_len", 2048, "--dtype", "bfloat16"]
    if cfg.tiny:
        flags = ["--depth", 1, "--vocab_size", 512, "--seq_len", 64, "--batch", "1,4",
                 "--prompt_tokens", 8, "--new_tokens", 8, "--repeats", 1]
    printed = output_of(script("tests/bench/generate.py", "--device", cfg.device, *flags))
    for batch, ratio in re.findall(r"^batch +(\d+)  ratio ([\d.]+)", printed, re.M):
        yield judge(f"{batch} at once: tokens/s, times those of transformers", float(ratio), ">=",
                    4, "toy size" if cfg.tiny else "")
        ours, theirs = re.findall(rf"^batch +{batch}  .* first token +([\d.]+) ms", printed, re.M)
        # A guess: both put all prompts into the cache with one forward pass.
        yield judge(f"{batch} at once: first token, times that of transformers",
                    float(ours) / float(theirs), "<=", 2, "toy size" if cfg.tiny else "")


def real_run(cfg, folder):
    """pretrain.py on real text: the loss falls, and speed and memory are those of the plan."""
    text, out = write_text(cfg, folder, 512 if cfg.tiny else 32768)
    flags = pretrain_flags(cfg, text) + ["--steps", 60]
    if not cfg.tiny:
        chip = this_chip(setup(cfg.device))
        plan = make_plan(model_config(12, 32768, 2048), 12, chip)
        if not plan.rows:
            yield skipped("depth 12", f"it takes {plan.memory / 1e9:.1f} GB")
            return
        rate = plan.tokens / plan.hours / 3600
        # Four minutes have 60 steps of so many rows, in whole micro-batches.
        rows = plan.rows * max(1, min(256 // plan.rows, int(rate * 240 / 60 / 2048 / plan.rows)))
        flags = ["--data", text, "--device", cfg.device, "--depth", 12, "--seq_len", 2048,
                 "--batch_size", plan.rows, "--tokens_per_step", rows * 2048, "--steps", 60]
        torch.cuda.reset_peak_memory_stats()
    # In this process, so that the peak of the memory can be read afterwards.
    sys.argv = ["pretrain.py", "--out", *map(str, [out, *flags])]
    runpy.run_path(str(ROOT / "pretrain.py"), run_name="__main__")
    lines = map(json.loads, (out / "pretrain/metrics.jsonl").read_text().splitlines())
    steps = [line for line in lines if "loss" in line]
    last = statistics.mean(step["loss"] for step in steps[-5:])
    yield judge("loss at the end / at the start", last / steps[0]["loss"], "<=", 0.9)
    tok_per_sec = statistics.median(step["tok_per_sec"] for step in steps[10:])
    if cfg.tiny:
        yield judge("tokens/s", tok_per_sec, ">=", 0, "toy size")
        return
    peak_gb = torch.cuda.max_memory_allocated() / 1e9
    yield judge(f"depth 12, {plan.rows} rows: tokens/s / {rate:,.0f} of the plan",
                tok_per_sec / rate, ">=", 0.9)
    yield judge(f"depth 12, {plan.rows} rows: peak GB", peak_gb, "<=", plan.memory / 1e9)
