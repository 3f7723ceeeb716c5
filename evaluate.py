"""
Evaluate any checkpoint: bits per byte on held-out text, and accuracy on items no stage trained on.

python evaluate.py                                 the newest stage in out/, on the demo's skills
python evaluate.py --stage dpo --tasks mmlu,arc_easy,arc_challenge --items 0 --json
python evaluate.py --tasks gsm8k,humaneval --num_samples 10 --temperature 0.8  for pass@10
python evaluate.py --stage pretrain --tasks core   a base model on the 22 tasks of CORE
torchrun --standalone --nproc_per_node 8 evaluate.py --tasks mmlu,gsm8k --items 0
python evaluate.py --report                        the table at the end of bash run.sh

There are three kinds of tasks. Answers are generated, with the Python tool, and graded. Multiple
choice (MMLU, ARC) is decided by the logits of the letters. CORE compares the losses of whole
endings. The last two need no sampling: see talk/options.py.
"""
import functools
import itertools
import json
import math
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.distributed as dist

from common import find_checkpoint, load_checkpoint, read_meta
from data.demo.identity import Identity
from data.documents import list_files, read_documents
from data.mixtures import open_source
from data.published.core_tasks import TASKS as CORE_TASKS
from data.published.core_tasks import CoreTask, encode_prompt
from machine import can_compile, parse_config, run, setup, versions, write_synced
from talk.engine import Engine, parse_answer
from talk.options import block_states, choose
from train.rows import Rows, describe_sources, pack_documents
from train.run import evaluate_loss

# Task -> the group of wordings that it asks.
IDENTITY = {"identity": "identity", "small_talk": "small talk", "unknown": "unknown"}
ANSWERED = ["spelling_bee", "simple_spelling", "arithmetic", *IDENTITY, "gsm8k", "humaneval"]
CHOSEN = ["mmlu", "arc_easy", "arc_challenge"]


@dataclass
class Config:
    out: str = "out"                  # folder in which the stages find each other
    stage: str = ""                   # name of a stage, or path of a checkpoint; none: the newest
    data: tuple = ()                  # text for bits per byte; none: what pretrain.py held out
    tasks: str = "spelling_bee,arithmetic,simple_spelling,identity,small_talk,unknown"  # or mmlu
    items: int = 200                  # test items per task; 0: all
    num_samples: int = 1              # answers to each item, for pass@k
    max_tokens: int = 200             # tokens per answer, tool outputs included
    temperature: float = 0.0          # 0 is greedy
    eval_rows: int = 256              # rows of held-out text for bits per byte; 0: skip
    batch_tokens: int = 0             # tokens per batch of options; 0: 2048, on a GPU 65536
    max_rows: int = 0                 # answers generated at once; 0: 64, on a GPU 128
    show: int = 2                     # conversations to print per task, and as many wrong ones
    json: bool = False                # print one JSON object and nothing else
    report: bool = False              # evaluate sft, dpo, distill and write out/report.md
    seed: int = 0                     # of sampling
    device: str = "auto"              # auto, cpu, cuda or mps
    dtype: str = "auto"               # compute dtype: auto, float32 or bfloat16
    compile: bool = True              # torch.compile the model from 2,000 questions with options


# --------------------------------------------------------------------------------------------------
# Scores

def wilson(right, n, z=1.96):
    """95 % interval of a proportion (Wilson 1927): wilson(0, 10) -> (0.0, 0.278).

    right: may be a fraction.
    """
    centre, spread = (right + z * z / 2) / (n + z * z), \
        z * math.sqrt(right * (n - right) / n + z * z / 4) / (n + z * z)
    return max(0.0, centre - spread), min(1.0, centre + spread)


def pass_at_k(n, right, k):
    """Unbiased estimate from n answers of the chance that one of k is right.

    Chen et al. 2021, arXiv:2107.03374, eq. 1.
    """
    return 1 - math.comb(n - right, k) / math.comb(n, k)


def score(shares, chance, start, **more):
    """The result of a task, as the report keeps it.

    shares: of every item 0 or 1, or the share of its answers that are right.
    chance: the accuracy of guessing. The centred accuracy is 0 for guessing and 1 for all right.
    start: when the task began, for the seconds it took.
    """
    n, accuracy = len(shares), sum(shares) / len(shares)
    low, high = wilson(sum(shares), n)
    return dict(items=n, accuracy=accuracy, low=low, high=high, chance=chance,
                centred=(accuracy - chance) / (1 - chance), **more,
                seconds=round(time.time() - start, 1))


def mean_centred(results):
    """The mean of the tasks' centred accuracies with its 95 % interval: of CORE's tasks, CORE."""
    n, variance = len(results), \
        lambda r: r["accuracy"] * (1 - r["accuracy"]) / r["items"] / (1 - r["chance"]) ** 2
    score, spread = sum(r["centred"] for r in results) / n, \
        1.96 * math.sqrt(sum(map(variance, results))) / n
    return dict(score=score, low=score - spread, high=score + spread)


# --------------------------------------------------------------------------------------------------
# Tasks

def open_task(name, size):
    """The test items of a task by its name. An error says what to download."""
    if name.startswith("core:"):
        return CoreTask(name.removeprefix("core:"), size)
    if name in IDENTITY:
        # Ask each held-out wording once at most.
        group, n = IDENTITY[name], len(Identity("test", group=IDENTITY[name]))
        return Identity("test", min(size or n, n), group)
    return open_source(name, "test", size)


def task_names(spec):
    """"mmlu, core" -> ["mmlu", "core:hellaswag_zeroshot", ...]."""
    names = [name.strip() for name in spec.split(",") if name.strip()]
    names = [n for name in names
             for n in ([f"core:{task}" for task in CORE_TASKS] if name == "core" else [name])]
    if unknown := set(names) - {*ANSWERED, *CHOSEN, *(f"core:{task}" for task in CORE_TASKS)}:
        raise ValueError(f"--tasks {min(unknown)}: expected {', '.join(ANSWERED + CHOSEN)}, "
                         f"core or core:NAME")
    return list(dict.fromkeys(names))


def letter_question(tok, item, max_tokens):
    """A record of MMLU or ARC -> its options, and the index of the right one.

    An option is (ids, start): the prompt and a letter, which is scored. All options share the
    prompt, which loses its beginning if it is longer than max_tokens allows.
    """
    prompt = tok.render_for_completion(item)[-(max_tokens - 1):]
    options = [(prompt + tok.encode(letter), len(prompt)) for letter in item["letters"]]
    return options, item["letters"].index(item["messages"][-1]["content"])


def core_question(tok, task, i, max_tokens):
    """Row i of a task of CORE -> its options (ids, start), and the index of the right one.

    If one option is too long, they all lose the same tokens at the front, so that they still share
    their beginning.
    """
    prompts, gold = task.prompts(i)
    # Most options share their whole context: encode it once.
    encode = functools.cache(tok.encode)
    options = [encode_prompt(tok, context, ending, max_tokens, encode)
               for context, ending in prompts]
    if any(len(ids) == max_tokens for ids, _ in options):
        shortest = min(start for _, start in options)
        options = [(ids[start - shortest:], shortest) for ids, start in options]
    return options, gold


def evaluate_choices(model, tok, task, cfg, env, name, forward=block_states):
    """The result (see score) of a task whose options are compared by their losses."""
    start, size, n = time.time(), model.config.seq_len, len(task)
    if name.startswith("core:"):
        question = lambda i: core_question(tok, task, i, size)
    else:
        question = lambda i: letter_question(tok, task[i], size)
    # Not in threads: they would only wait for each other.
    questions = [question(i) for i in range(env.rank, n, env.world_size)]
    right = gather(choose(model, questions, cfg.batch_tokens, forward,
                          lambda done: progress(name, done, len(questions), start, env)), n, env)
    whole = lambda options: all(ids[0] == tok.special("<|bos|>") for ids, _ in options)
    cut = sum(gather([not whole(options) for options, _ in questions], n, env))
    more = dict(cut=cut) if cut else {}
    if name.startswith("core:"):
        return score(right, task.info.chance, start, **more)
    by_subject, items = {}, [task[i] for i in range(n)]
    for item, ok in zip(items, right):
        by_subject.setdefault(item["subject"], []).append(ok)
    subjects = {name: dict(items=len(oks), accuracy=sum(oks) / len(oks))
                for name, oks in sorted(by_subject.items())}
    return score(right, sum(1 / len(item["letters"]) for item in items) / n, start,
                 subjects=subjects, **more)


def evaluate_answers(engine, tok, task, cfg, env, name):
    """Ask every test item --num_samples times and grade the answers.

    Returns the result (see score), and of every item's first answer (item, parts, right).
    """
    start, n, k = time.time(), len(task), cfg.num_samples
    items = [task[i] for i in range(env.rank, n, env.world_size)]
    prompts = [tok.render_for_completion(item) for item in items]
    # An item that does not fit into the model's row counts as answered wrongly.
    fits = [len(prompt) < engine.max_len for prompt in prompts]
    asked = [prompt for prompt, ok in zip(prompts, fits) if ok for _ in range(k)]
    answers = iter(engine.generate(
        asked, cfg.max_tokens, temperature=cfg.temperature, seed=cfg.seed,
        progress=lambda done: progress(name, done, len(asked), start, env)))
    answers = [[next(answers) if ok else [] for _ in range(k)] for ok in fits]
    parts = [[parse_answer(tok, answer) for answer in of_item] for of_item in answers]
    # Threads, as HumanEval runs every answer in a process of its own.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        right = list(pool.map(lambda item, of_item: [bool(task.grade(item, p)) for p in of_item],
                              items, parts))
    ended = [sum(a[-1:] == [tok.special("<|assistant_end|>")] for a in of_item) / k
             for of_item in answers]
    right, ended, fits = gather(right, n, env), gather(ended, n, env), gather(fits, n, env)
    more = dict(ended=sum(ended) / n)
    if k > 1:
        more["pass_at"] = {j: sum(pass_at_k(k, sum(oks), j) for oks in right) / n
                           for j in sorted({1, k} | {j for j in (10, 100) if j < k})}
    if not all(fits):
        more["too_long"] = n - sum(fits)
    transcripts = [(item, p[0], oks[0])
                   for item, p, oks in zip(items, parts, right[env.rank::env.world_size])]
    return score([sum(oks) / k for oks in right], 0.0, start, **more), gather(transcripts, n, env)


def gather(mine, n, env):
    """The values of all n items, on every rank. mine: those of rank, rank + world_size, ..."""
    if env.world_size == 1:
        return mine
    shares = [None] * env.world_size
    dist.all_gather_object(shares, mine)
    return [shares[i % env.world_size][i // env.world_size] for i in range(n)]


def progress(name, done, total, start, env):
    if env.rank == 0 and sys.stderr.isatty():
        rate = done / max(1e-9, time.time() - start)
        print(f"\r{name}: {done:,} of {total:,}, {rate:.1f}/s, "
              f"{(total - done) / rate:.0f} s left   ",
              end="\r" if done == total else "", file=sys.stderr, flush=True)


# --------------------------------------------------------------------------------------------------
# A checkpoint

def held_out_rows(cfg, model, tok, env):
    """The rows for bits per byte: of --data, else what pretrain.py held out; None without any."""
    if cfg.data:
        texts = lambda: itertools.chain(*(read_documents([f], "train", val_share=0)
                                          for f in list_files(cfg.data)))
        return pack_documents(Path(cfg.out, "rows/evaluate.rows"), texts, tok,
                              model.config.seq_len, describe_sources(cfg.data), env)
    path = Path(cfg.out, "rows/pretrain_val.rows")
    if not path.exists():
        return None
    rows = Rows(path)
    if rows.header["made_from"]["tokenizer"] != tok.fingerprint:
        raise ValueError(f"{path} was packed with another tokenizer than the checkpoint's. "
                         f"Run python pretrain.py --out {cfg.out} again, give text with --data, "
                         f"or skip bits per byte with --eval_rows 0")
    return rows


def evaluate_stage(path, tasks, cfg, env, say):
    """Evaluate one checkpoint and print the results with say().

    Returns {"checkpoint", "step", "bpb", "tasks": {name: result}, "core"}, and of every task that
    is answered its transcripts (see evaluate_answers).
    """
    model, tok, meta = load_checkpoint(path, env.device)
    model.compute_dtype = env.dtype
    report, transcripts, engine = \
        dict(checkpoint=str(path), step=meta["step"], tasks={}), {}, None
    say(f"checkpoint {path}, step {meta['step']}")
    rows = held_out_rows(cfg, model, tok, env) if cfg.eval_rows else None
    if rows:
        report["bpb"] = evaluate_loss(model, rows, tok, env, 16, cfg.eval_rows)["bpb"]
        say(f"held-out text    {report['bpb']:.4f} bits per byte")
    compared = sum(len(task) for name, task in tasks.items() if name not in ANSWERED)
    # Compiling takes half a minute; what follows is 1.6 times as fast.
    worth_it = cfg.compile and compared >= 2000 and can_compile(env.device)
    forward = torch.compile(block_states, dynamic=True) if worth_it else block_states
    for name, task in tasks.items():
        if name in ANSWERED:
            engine = engine or Engine(model, tok, cfg.max_rows or
                                      (128 if env.device.type == "cuda" else 64))
            result, transcripts[name] = evaluate_answers(engine, tok, task, cfg, env, name)
        else:
            result = evaluate_choices(model, tok, task, cfg, env, name, forward)
        report["tasks"][name] = result
        say(describe(name, result))
        wrong = [t for t in transcripts.get(name, [])[cfg.show:] if not t[2]]
        for item, parts, right in transcripts.get(name, [])[:cfg.show] + wrong[:cfg.show]:
            say(f"    {'right' if right else 'WRONG'}  {question(item)!r}\n"
                f"           {written(parts)!r}")
    core = [result for name, result in report["tasks"].items() if name.startswith("core:")]
    if len(core) == len(CORE_TASKS):
        report["core"] = r = mean_centred(core)
        say(f"core             {r['score']:.4f} [{r['low']:.4f}, {r['high']:.4f}], "
            f"the mean of 22 centred accuracies")
    return report, transcripts


def describe(name, r):
    """One line for a result."""
    more = "".join(f", pass@{k} {100 * p:.1f} %" for k, p in r.get("pass_at", {}).items() if k > 1)
    more += f", chance {100 * r['chance']:.1f} %, centred {100 * r['centred']:.1f} %" \
        if r["chance"] else ""
    more += f", {100 * r['ended']:.1f} % ended by themselves" if "ended" in r else ""
    more += f", {r['cut']:,} prompts lost their beginning to fit into the model's row" \
        if "cut" in r else ""
    more += f", {r['too_long']} did not fit into the model's row: wrong" if "too_long" in r else ""
    width = 37 if name.startswith("core:") else 16
    return (f"{name:{width}} {100 * r['accuracy']:5.1f} % right "
            f"[{100 * r['low']:.1f}, {100 * r['high']:.1f}]{more}, "
            f"{r['items']:,} items, {r['seconds']} s")


def question(item):
    return [m["content"] for m in item["messages"] if m["role"] == "user"][-1]


def written(parts):
    """An answer as text; tool calls and their results stand in angle quotes."""
    marks = {"text": "{}", "python": "\u2039{}\u203a", "python_output": "\u2192\u2039{}\u203a"}
    return "".join(marks[part["type"]].format(part["text"]) for part in parts)


def write_report(cfg, tasks, env):
    """Evaluate the last three stages and write out/report.md and report.json.

    The report has a table with a column per stage, and a few conversations with the last one.
    """
    out, stages, reports = Path(cfg.out), ["sft", "dpo", "distill"], {}
    core = {name: task for name, task in tasks.items() if name.startswith("core:")}
    tasks = {name: task for name, task in tasks.items() if name not in core}
    if core:
        # CORE's prompts are text to continue, which is what a base model does.
        reports["pretrain"], _ = evaluate_stage(out / "pretrain", core, cfg, env, env.print)
    for stage in stages:
        reports[stage], transcripts = evaluate_stage(out / stage, tasks, cfg, env, env.print)
    logged = {stage: [json.loads(line) for line
                      in (out / stage / "metrics.jsonl").read_text().splitlines()]
              for stage in ["pretrain", "dpo"]}
    bpb = [m["val_bpb"] for m in logged["pretrain"] if "val_bpb" in m]
    pairs = [m["val_accuracy"] for m in logged["dpo"] if "val_accuracy" in m]
    lines = [f"Bits per byte of held-out text: {bpb[0]:.3f} before pretraining, "
             f"{bpb[-1]:.3f} after. "
             f"Held-out preference pairs ranked rightly after DPO: {100 * pairs[-1]:.1f} %."]
    if "core" in reports.get("pretrain", {}):
        r = reports["pretrain"]["core"]
        lines.append(f"CORE of the pretrained model: {r['score']:.4f} "
                     f"[{r['low']:.4f}, {r['high']:.4f}].")
    lines += ["", "| held-out items, answered for real | " + " | ".join(stages) + " |",
              "|---|" + "---|" * len(stages)]
    for name in tasks:
        r = [reports[s]["tasks"][name] for s in stages]
        lines.append(f"| {name} ({r[0]['items']}) | " +
                     " | ".join(f"{100 * x['accuracy']:.1f} %" for x in r) + " |")
    answered = [[r for r in reports[s]["tasks"].values() if "ended" in r] for s in stages]
    if answered[0]:
        ended = [sum(r["ended"] * r["items"] for r in rs) / sum(r["items"] for r in rs)
                 for rs in answered]
        lines.append("| answers that ended by themselves | " +
                     " | ".join(f"{100 * e:.1f} %" for e in ended) + " |")
    if (out / "times.txt").exists():
        seconds = {}
        for stage, s in map(str.split, (out / "times.txt").read_text().splitlines()):
            seconds[stage] = seconds.get(stage, 0) + int(s)
        lines += ["", "| stage | " + " | ".join(seconds) + " |", "|---|" + "---|" * len(seconds),
                  "| seconds | " + " | ".join(map(str, seconds.values())) + " |"]
    lines += ["", f"{env.device}, {os.cpu_count()} cores, "
              f"{str(env.dtype).removeprefix('torch.')}, "
              f"torch {torch.__version__}. Conversations with {out}/distill:", "", "```"]
    for name in transcripts:
        for item, parts, _ in transcripts[name][:2]:
            lines += [f"you  {question(item)}", "bot  " + written(parts).replace("\n", "\n     "),
                      ""]
    if env.rank == 0:
        write_synced(out / "report.md",
                     lambda f: f.write("\n".join(lines + ["```", ""]).encode()))
        write_synced(out / "report.json",
                     lambda f: f.write(json.dumps(reports, indent=1).encode()))


def main():
    cfg = parse_config(Config, __doc__)
    if cfg.num_samples < 1 or cfg.num_samples > 1 and cfg.temperature == 0:
        raise ValueError(f"--num_samples {cfg.num_samples} --temperature {cfg.temperature}: "
                         f"expected at least one sample, and for more a temperature above 0, "
                         f"or they would all be the same")
    env = setup(cfg.device, cfg.dtype)
    names = task_names(cfg.tasks)
    if not cfg.report:
        path = find_checkpoint(cfg.out, cfg.stage)
        if cfg.tasks == Config.tasks and (path.name == "pretrain" or
                                          read_meta(path).get("config", {}).get("data")):
            # A base model has not learned the demo's skills, nor has one of the user's own data.
            names = []
    # Open all tasks first, so that a missing download fails before any work.
    tasks = {name: open_task(name, cfg.items or None) for name in names}
    if cfg.report:
        return write_report(cfg, tasks, env)
    report, _ = evaluate_stage(path, tasks, cfg, env,
                               (lambda text: None) if cfg.json else env.print)
    if cfg.json:
        env.print(json.dumps(dict(report, config=asdict(cfg), versions=versions())))


if __name__ == "__main__":
    run(main)
