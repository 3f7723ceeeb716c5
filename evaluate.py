"""
Evaluate any checkpoint: bits per byte on held-out text, and accuracy on items that no stage trained on, by real generation
with the real tool.

python evaluate.py                          the newest stage in out/
python evaluate.py --stage sft --tasks spelling_bee,arithmetic --items 200
python evaluate.py --stage dpo --json
"""
import json
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from chat import Engine, find_checkpoint, parse_answer
from common import evaluate_loss, load_checkpoint, parse_config, run, setup
from data.rows import Rows
from data.sources import TASKS


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
    seed: int = 0                     # of sampling
    device: str = "auto"              # auto, cpu, cuda or mps
    dtype: str = "auto"               # compute dtype: auto, float32 or bfloat16


def wilson(right, n, z=1.96):
    """95 % confidence interval of a proportion (Wilson 1927): wilson(0, 10) -> (0.0, 0.278)."""
    centre, spread = (right + z * z / 2) / (n + z * z), z * math.sqrt(right * (n - right) / n + z * z / 4) / (n + z * z)
    return max(0.0, centre - spread), min(1.0, centre + spread)


def evaluate_task(engine, tok, task, cfg, progress):
    """Ask every test item once -> accuracy with its interval, share of answers that ended by themselves, all transcripts."""
    items = [task[i] for i in range(len(task))]
    answers = engine.generate([tok.render_for_completion(item) for item in items], cfg.max_tokens,
                              temperature=cfg.temperature, seed=cfg.seed, progress=progress)
    parts = [parse_answer(tok, answer) for answer in answers]
    right = [bool(task.grade(item, answer)) for item, answer in zip(items, parts)] if hasattr(task, "grade") else None
    ended = sum(answer[-1:] == [tok.special("<|assistant_end|>")] for answer in answers)
    result = dict(items=len(items), ended=ended / len(items))
    if right is not None:
        low, high = wilson(sum(right), len(items))
        result.update(accuracy=sum(right) / len(items), low=low, high=high)
    return result, list(zip(items, parts, right or [None] * len(items)))


def main():
    cfg = parse_config(Config, __doc__)
    env = setup(cfg.device, cfg.dtype)
    path = find_checkpoint(cfg.out, cfg.stage)
    model, tok, meta = load_checkpoint(path, env.device)
    model.compute_dtype = env.dtype
    names = [name.strip() for name in cfg.tasks.split(",") if name.strip()]
    if unknown := [name for name in names if name not in TASKS]:
        raise ValueError(f"--tasks {unknown[0]}: unknown; there are {', '.join(TASKS)}")
    say = (lambda *a, **k: None) if cfg.json else print
    report = dict(checkpoint=str(path), step=meta["step"], tasks={})
    say(f"checkpoint {path}, step {meta['step']}")
    val = Path(cfg.out, "rows/pretrain_val.rows")
    if cfg.eval_rows and val.exists():
        report["bpb"] = evaluate_loss(model, Rows(val), tok, env, 16, cfg.eval_rows)["bpb"]
        say(f"held-out text: {report['bpb']:.4f} bits per byte")
    engine = Engine(model, tok)
    for name in names:
        start, task = time.time(), TASKS[name]("test", cfg.items or None)

        def progress(done):
            if sys.stderr.isatty():
                print(f"\r{name}: {done} of {len(task)}", end="\r", file=sys.stderr)

        result, transcripts = evaluate_task(engine, tok, task, cfg, progress)
        report["tasks"][name] = dict(result, seconds=round(time.time() - start, 1))
        accuracy = f"{100 * result['accuracy']:5.1f} % right [{100 * result['low']:.1f}, {100 * result['high']:.1f}], " \
            if "accuracy" in result else ""
        say(f"{name:16} {accuracy}{100 * result['ended']:5.1f} % ended by themselves, {result['items']} items, "
            f"{time.time() - start:.1f} s")
        for item, parts, right in transcripts[:cfg.samples] + [t for t in transcripts[cfg.samples:] if t[2] is False][:cfg.samples]:
            say(f"    {'?' if right is None else 'right' if right else 'WRONG'}  {[m['content'] for m in item['messages'] if m['role'] == 'user'][-1]!r}\n"
                f"           {''.join(p['text'] if p['type'] == 'text' else {'python': '«', 'python_output': '→'}[p['type']] + p['text'] + '»' * (p['type'] == 'python') for p in parts)!r}")
    if cfg.json:
        print(json.dumps(report))


if __name__ == "__main__":
    run(main)
