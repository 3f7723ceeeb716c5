"""
Evaluate any checkpoint: bits per byte on held-out text, and accuracy on items that no stage trained on, by real generation
with the real tool.

python evaluate.py                          the newest stage in out/
python evaluate.py --stage sft --tasks spelling_bee,arithmetic --items 200
python evaluate.py --stage dpo --json
python evaluate.py --report                 the table at the end of bash run.sh
"""
import json
import math
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from chat import Engine, find_checkpoint, parse_answer
from common import load_checkpoint, parse_config, run, setup, write_synced
from data.rows import Rows
from data.sources import TASKS
from training import evaluate_loss


@dataclass
class Config:
    out: str = "out"                  # folder in which the stages find each other
    stage: str = ""                   # pretrain, midtrain, sft, dpo, distill or a path; none: the newest
    tasks: str = "spelling_bee,arithmetic,simple_spelling,identity"  # what to ask, comma-separated
    items: int = 200                  # test items a task; 0: all
    max_tokens: int = 200             # tokens an answer
    temperature: float = 0.0          # 0 is greedy
    eval_rows: int = 256              # rows of held-out text for bits per byte; 0: skip
    samples: int = 2                  # sample conversations a task to print
    json: bool = False                # print one JSON object and nothing else
    report: bool = False              # evaluate sft, dpo and distill and write out/report.md
    seed: int = 0                     # of sampling
    device: str = "auto"              # auto, cpu, cuda or mps
    dtype: str = "auto"               # compute dtype: auto, float32 or bfloat16


def wilson(right, n, z=1.96):
    """95 % confidence interval of a proportion (Wilson 1927): wilson(0, 10) -> (0.0, 0.278)."""
    centre, spread = (right + z * z / 2) / (n + z * z), z * math.sqrt(right * (n - right) / n + z * z / 4) / (n + z * z)
    return max(0.0, centre - spread), min(1.0, centre + spread)


def evaluate_task(engine, tok, task, cfg, name):
    """Ask every test item once -> accuracy with its interval, share of answers that ended by themselves, all transcripts."""
    def progress(done):
        if sys.stderr.isatty():
            print(f"\r{name}: {done} of {len(task)} ", end="\r", file=sys.stderr)

    start, items = time.time(), [task[i] for i in range(len(task))]
    answers = engine.generate([tok.render_for_completion(item) for item in items], cfg.max_tokens,
                              temperature=cfg.temperature, seed=cfg.seed, progress=progress)
    parts = [parse_answer(tok, answer) for answer in answers]
    right = [bool(task.grade(item, answer)) for item, answer in zip(items, parts)]
    low, high = wilson(sum(right), len(items))
    ended = sum(answer[-1:] == [tok.special("<|assistant_end|>")] for answer in answers)
    return dict(items=len(items), accuracy=sum(right) / len(items), low=low, high=high, ended=ended / len(items),
                seconds=round(time.time() - start, 1)), list(zip(items, parts, right))


def evaluate_stage(path, cfg, env, say):
    """-> {"checkpoint", "step", "bpb", "tasks": {name: result}} and the transcripts of each task."""
    model, tok, meta = load_checkpoint(path, env.device)
    model.compute_dtype = env.dtype
    report, transcripts = dict(checkpoint=str(path), step=meta["step"], tasks={}), {}
    say(f"checkpoint {path}, step {meta['step']}")
    val = Path(cfg.out, "rows/pretrain_val.rows")
    if cfg.eval_rows and val.exists():
        report["bpb"] = evaluate_loss(model, Rows(val), tok, env, 16, cfg.eval_rows)["bpb"]
        say(f"held-out text    {report['bpb']:.4f} bits per byte")
    engine = Engine(model, tok)
    for name in task_names(cfg.tasks):
        r, transcripts[name] = evaluate_task(engine, tok, TASKS[name]("test", cfg.items or None), cfg, name)
        report["tasks"][name] = r
        say(f"{name:16} {100 * r['accuracy']:5.1f} % right [{100 * r['low']:.1f}, {100 * r['high']:.1f}], "
            f"{100 * r['ended']:5.1f} % ended by themselves, {r['items']} items, {r['seconds']} s")
        wrong = [t for t in transcripts[name][cfg.samples:] if not t[2]]
        for item, parts, right in transcripts[name][:cfg.samples] + wrong[:cfg.samples]:
            say(f"    {'right' if right else 'WRONG'}  {question(item)!r}\n           {written(parts)!r}")
    return report, transcripts


def task_names(spec):
    names = [name.strip() for name in spec.split(",") if name.strip()]
    if unknown := [name for name in names if not hasattr(TASKS.get(name), "grade")]:
        raise ValueError(f"--tasks {unknown[0]}: expected {', '.join(n for n in TASKS if hasattr(TASKS[n], 'grade'))}")
    return names


def question(item):
    return [m["content"] for m in item["messages"] if m["role"] == "user"][-1]


def written(parts):
    """An answer as text; tool calls and their results stand in angle quotes."""
    marks = {"text": "{}", "python": "\u2039{}\u203a", "python_output": "\u2192\u2039{}\u203a"}
    return "".join(marks[part["type"]].format(part["text"]) for part in parts)


def write_report(cfg, env):
    """Evaluate the last three stages and write out/report.md: one table, and a few conversations with the last one."""
    out, stages, reports = Path(cfg.out), ["sft", "dpo", "distill"], {}
    for stage in stages:
        reports[stage], transcripts = evaluate_stage(out / stage, cfg, env, print)
    logged = {stage: [json.loads(line) for line in (out / stage / "metrics.jsonl").read_text().splitlines()]
              for stage in ["pretrain", "dpo"]}
    bpb = [m["val_bpb"] for m in logged["pretrain"] if "val_bpb" in m]
    pairs = [m["val_accuracy"] for m in logged["dpo"] if "val_accuracy" in m]
    lines = [f"Bits per byte of held-out text: {bpb[0]:.3f} before pretraining, {bpb[-1]:.3f} after. "
             f"Held-out preference pairs ranked rightly after DPO: {100 * pairs[-1]:.1f} %.", "",
             "| held-out items, answered for real | " + " | ".join(stages) + " |", "|---|" + "---|" * len(stages)]
    for name in task_names(cfg.tasks):
        n = reports[stages[0]]["tasks"][name]["items"]
        lines.append(f"| {name} ({n}) | " + " | ".join(f"{100 * reports[s]['tasks'][name]['accuracy']:.1f} %" for s in stages) + " |")
    ended = [sum(t["ended"] * t["items"] for t in reports[s]["tasks"].values()) /
             sum(t["items"] for t in reports[s]["tasks"].values()) for s in stages]
    lines.append("| answers that ended by themselves | " + " | ".join(f"{100 * e:.1f} %" for e in ended) + " |")
    if (out / "times.txt").exists():
        seconds = {}
        for stage, s in map(str.split, (out / "times.txt").read_text().splitlines()):
            seconds[stage] = seconds.get(stage, 0) + int(s)
        lines += ["", "| stage | " + " | ".join(seconds) + " |", "|---|" + "---|" * len(seconds),
                  "| seconds | " + " | ".join(map(str, seconds.values())) + " |"]
    lines += ["", f"{env.device}, {os.cpu_count()} cores, {str(env.dtype).removeprefix('torch.')}, torch {torch.__version__}. "
              f"Conversations with {out}/distill:", "", "```"]
    for name in transcripts:
        for item, parts, _ in transcripts[name][:2]:
            lines += [f"you  {question(item)}", "bot  " + written(parts).replace("\n", "\n     "), ""]
    write_synced(out / "report.md", lambda f: f.write("\n".join(lines + ["```", ""]).encode()))
    write_synced(out / "report.json", lambda f: f.write(json.dumps(reports, indent=1).encode()))


def main():
    cfg = parse_config(Config, __doc__)
    env = setup(cfg.device, cfg.dtype)
    if cfg.report:
        return write_report(cfg, env)
    report, _ = evaluate_stage(find_checkpoint(cfg.out, cfg.stage), cfg, env, (lambda text: None) if cfg.json else print)
    if cfg.json:
        print(json.dumps(report))


if __name__ == "__main__":
    run(main)
