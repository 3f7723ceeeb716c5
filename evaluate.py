"""
Evaluate any checkpoint: bits per byte on held-out text, and accuracy on items no stage trained on.

python evaluate.py                                 the newest stage in out/, on the demo's skills
python evaluate.py --tasks other                   the same skills, in other people's words
python evaluate.py --stage dpo --tasks mmlu,arc_easy,arc_challenge --items 0 --json
python evaluate.py --tasks gsm8k,humaneval --num_samples 10 --temperature 0.8  for pass@10
python evaluate.py --stage pretrain --tasks core   a base model on the 22 tasks of CORE
torchrun --standalone --nproc_per_node 8 evaluate.py --tasks mmlu,gsm8k --items 0
python evaluate.py --report                        all that report.py shows of skills

There are three kinds of tasks. Answers are generated, with the Python tool, and graded. Multiple
choice (MMLU, ARC) is decided by the logits of the letters. CORE compares the losses of whole
endings. The last two need no sampling: see talk/options.py.
"""
import ctrl_c

import contextlib
import functools
import json
import math
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import torch.distributed as dist

from common import find_checkpoint, load_checkpoint, read_meta, trained_anew
from data.demo.identity import Identity
from data.demo.other_tasks import OTHER_TASKS, refuses
from data.documents import list_files, read_documents
from data.files import identify
from data.mixtures import open_source
from data.published.core_tasks import TASKS as CORE_TASKS
from data.published.core_tasks import CoreTask, encode_prompt
from machine import (
    can_compile,
    is_terminal,
    parse_config,
    run,
    setup,
    try_to_compile,
    versions,
    write_synced,
)
from talk.engine import Engine, parse_answer
from talk.memory import fit_rows, generate
from talk.options import block_states, choose
from train.progress import Line
from train.rows import Rows, describe_sources, pack_documents
from train.run import evaluate_loss

# Task -> the group of wordings that it asks.
IDENTITY = {"identity": "identity", "small_talk": "small talk", "unknown": "unknown",
            "refuse": "refuse"}
ANSWERED = ["spelling_bee", "simple_spelling", "letters", "arithmetic", "word_problems", "choices",
            *IDENTITY, "gsm8k", "humaneval", *OTHER_TASKS]
MULTIPLE_CHOICE = ["mmlu", "arc_easy", "arc_challenge"]
CORE = [f"core:{name}" for name in CORE_TASKS]
REPORTED = ["sft", "dpo", "distill"]
# Transcripts that a checkpoint's evaluation.json keeps of a task.
N_EXAMPLES = 3
DEMO_TASKS = ("spelling_bee,simple_spelling,letters,arithmetic,word_problems,choices,identity,"
              "small_talk,unknown,refuse")
# Skill -> its task with known wordings, which share their sentences with the training data, and
# its task with other wordings, which share none. None stands for no such task.
SKILLS = {
    "counting": ("spelling_bee", "other_counting"),
    "spelling": ("simple_spelling", "other_spelling"),
    "letters": ("letters", None),
    "arithmetic": ("arithmetic", "other_arithmetic"),
    "word problems": ("word_problems", None),
    "word problems, 1 step": (None, "other_word_problems_1"),
    "word problems, 2 steps": (None, "other_word_problems_2"),
    "word problems, 3 steps": (None, "other_word_problems_3"),
    "multiple choice": ("choices", "other_choices"),
}
# Here "I don't know" may be the right answer.
TALK = {
    "identity": ("identity", "other_identity"),
    "small talk": ("small_talk", "other_small_talk"),
    "unknown": ("unknown", "other_unknown"),
    "other requests": ("refuse", "other_refuse"),
}


@dataclass
class Config:
    out: str = "out"                  # folder in which the stages find each other
    stage: str = ""                   # name of a stage, or path of a checkpoint; none: the newest
    data: tuple = ()                  # text for bits per byte; none: what pretrain.py held out
    tasks: str = DEMO_TASKS           # comma-separated; also other, gsm8k, mmlu, core, ...
    items: int = 200                  # test items per task; 0: all
    num_samples: int = 1              # answers to each item, for pass@k
    max_tokens: int = 200             # tokens per answer, tool outputs included
    temperature: float = 0.0          # 0 is greedy
    eval_rows: int = 256              # rows of held-out text for bits per byte; 0: skip
    batch_tokens: int = 0             # tokens per batch of options; 0: 2048, on a GPU 65536
    max_rows: int = 0                 # answers generated at once; 0: 64, on a GPU up to 128
    show: int = 2                     # conversations to print per task, and as many wrong ones
    json: bool = False                # print one JSON object and nothing else
    report: bool = False              # evaluate sft, dpo, distill (and rl) for report.py
    seed: int = 0                     # of sampling
    device: str = "auto"              # auto, cpu, cuda or mps
    dtype: str = "auto"               # compute dtype: auto, float32, bfloat16 or float16
    compile: bool = True              # torch.compile the model from 2,000 questions with options


# --------------------------------------------------------------------------------------------------
# Scores

def wilson(right, n, z=1.96):
    """95 % interval of a proportion (Wilson 1927): wilson(0, 10) -> (0.0, 0.278).

    right: may be a fraction.
    """
    centre = (right + z * z / 2) / (n + z * z)
    spread = z * math.sqrt(right * (n - right) / n + z * z / 4) / (n + z * z)
    return max(0.0, centre - spread), min(1.0, centre + spread)


def pass_at_k(n, right, k):
    """Unbiased estimate from n answers of the chance that at least one of k is right.

    Chen et al. 2021, arXiv:2107.03374, eq. 1.
    """
    return 1 - math.comb(n - right, k) / math.comb(n, k)


def task_result(shares, chance, start, **more):
    """The result of a task, a dict of plain data. more: what else it holds.

    shares: of every item 0 or 1, or the share of its answers that are right.
    chance: the accuracy of guessing. The centred accuracy is 0 for guessing and 1 for all right.
    start: when the task began, in seconds as time.time() gives them.
    """
    n = len(shares)
    accuracy = sum(shares) / n
    low, high = wilson(sum(shares), n)
    centred = (accuracy - chance) / (1 - chance)
    seconds = round(time.time() - start, 1)
    return dict(items=n, accuracy=accuracy, low=low, high=high, chance=chance, centred=centred,
                **more, seconds=seconds)


def mean_centred(results):
    """The mean of the tasks' centred accuracies with its 95 % interval: of CORE's tasks, CORE."""
    n = len(results)
    mean = sum(r["centred"] for r in results) / n
    variance = sum(r["accuracy"] * (1 - r["accuracy"]) / r["items"] / (1 - r["chance"]) ** 2
                   for r in results)
    spread = 1.96 * math.sqrt(variance) / n
    return dict(score=mean, low=mean - spread, high=mean + spread)


# --------------------------------------------------------------------------------------------------
# Tasks

def open_task(name, size):
    """The test items of a task by its name. An error says what to download."""
    if name in CORE:
        return CoreTask(name.removeprefix("core:"), size)
    if name in IDENTITY:
        # Ask each held-out wording once at most.
        group = IDENTITY[name]
        n = len(Identity("test", group=group))
        return Identity("test", min(size or n, n), group)
    if name in OTHER_TASKS:
        return OTHER_TASKS[name](size)
    return open_source(name, "test", size)


def task_names(spec):
    """"mmlu, core" -> ["mmlu", "core:hellaswag_zeroshot", ...]."""
    groups = {"core": CORE, "other": OTHER_TASKS}
    names = []
    for name in filter(None, map(str.strip, spec.split(","))):
        names += groups.get(name, [name])
    unknown = set(names) - {*ANSWERED, *MULTIPLE_CHOICE, *CORE}
    if unknown:
        raise ValueError(f"--tasks {min(unknown)}: expected "
                         f"{', '.join(ANSWERED + MULTIPLE_CHOICE)}, other, core or core:NAME")
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
    """The result (see task_result) of a task whose options are compared by their losses."""
    start = time.time()
    n = len(task)
    row_len = model.config.seq_len
    # Not in threads: they would only wait for each other.
    questions = []
    for i in range(env.rank, n, env.world_size):
        if name in CORE:
            questions.append(core_question(tok, task, i, row_len))
        else:
            questions.append(letter_question(tok, task[i], row_len))

    line = make_line(cfg, env)
    show = lambda done: line.count(name, done, len(questions))
    right = gather(choose(model, questions, cfg.batch_tokens, forward, show), n, env)
    # An option that has lost its beginning no longer starts with <|bos|>.
    bos = tok.special("<|bos|>")
    is_cut = [any(ids[0] != bos for ids, _ in options) for options, _ in questions]
    n_cut = sum(gather(is_cut, n, env))
    more = dict(cut=n_cut) if n_cut else {}
    if name in CORE:
        return task_result(right, task.info.chance, start, **more)

    items = [task[i] for i in range(n)]
    chance = sum(1 / len(item["letters"]) for item in items) / n
    by_subject = {}
    for item, ok in zip(items, right):
        by_subject.setdefault(item["subject"], []).append(ok)
    subjects = {subject: dict(items=len(oks), accuracy=sum(oks) / len(oks))
                for subject, oks in sorted(by_subject.items())}
    return task_result(right, chance, start, subjects=subjects, **more)


def evaluate_answers(engine, tok, task, cfg, env, name):
    """Ask every test item --num_samples times and grade the answers.

    Returns the result (see task_result), and of every item's first answer (item, parts, right).
    """
    start = time.time()
    n = len(task)
    k = cfg.num_samples
    items = [task[i] for i in range(env.rank, n, env.world_size)]
    prompts = [tok.render_for_completion(item) for item in items]
    # An item that does not fit into the model's row counts as answered wrongly.
    fits = [len(prompt) < engine.max_len for prompt in prompts]
    asked = []
    for prompt, ok in zip(prompts, fits):
        if ok:
            asked += [prompt] * k

    line = make_line(cfg, env)
    show = lambda done: line.count(name, done, len(asked))
    if env.device.type == "cuda":
        longest = max(map(len, asked), default=1) + cfg.max_tokens
        fit_rows(engine, min(longest, engine.max_len), cfg.max_rows or 128)
    generated = iter(generate(engine, asked, cfg.max_tokens, temperature=cfg.temperature,
                              seed=cfg.seed, progress=show))
    # From here on lists go by item, and hold one entry per answer.
    answers = [[next(generated) if ok else [] for _ in range(k)] for ok in fits]
    parts = [[parse_answer(tok, answer) for answer in of_item] for of_item in answers]

    def grade(item, parts_of_item):
        return [bool(task.grade(item, answer)) for answer in parts_of_item]

    # Threads, as HumanEval runs every answer in a process of its own.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        right = list(pool.map(grade, items, parts))
    end = tok.special("<|assistant_end|>")
    ended = [sum(answer[-1:] == [end] for answer in of_item) / k for of_item in answers]
    refused = [sum(not ok and refuses(answer) for answer, ok in zip(of_item, oks)) / k
               for of_item, oks in zip(parts, right)]
    chances = [1 / len(item["letters"]) if "letters" in item else 0.0 for item in items]
    transcripts = [(item, p[0], oks[0]) for item, p, oks in zip(items, parts, right)]

    right = gather(right, n, env)
    ended = gather(ended, n, env)
    fits = gather(fits, n, env)
    refused = gather(refused, n, env)
    chances = gather(chances, n, env)
    transcripts = gather(transcripts, n, env)
    more = dict(ended=sum(ended) / n)
    # A skill is refused wrongly.
    if any(name in tasks for tasks in SKILLS.values()):
        more["refused"] = sum(refused) / n
    if k > 1:
        more["pass_at"] = {j: sum(pass_at_k(k, sum(oks), j) for oks in right) / n
                           for j in sorted({1, 10, 100, k}) if j <= k}
    if not all(fits):
        more["too_long"] = n - sum(fits)
    shares = [sum(oks) / k for oks in right]
    return task_result(shares, sum(chances) / n, start, **more), transcripts


def make_line(cfg, env):
    """The progress line: with --json on stderr, and only if that is a terminal."""
    silent = env.rank > 0 or (cfg.json and not is_terminal(sys.stderr))
    return Line(silent, sys.stderr if cfg.json else sys.stdout)


def gather(mine, n, env):
    """The values of all n items, on every rank. mine: those of rank, rank + world_size, ..."""
    if env.world_size == 1:
        return mine
    shares = [None] * env.world_size
    dist.all_gather_object(shares, mine)
    return [shares[i % env.world_size][i // env.world_size] for i in range(n)]


# --------------------------------------------------------------------------------------------------
# A checkpoint

def held_out_rows(cfg, model, tok, env):
    """The rows for bits per byte: of --data, else what pretrain.py held out; None without any."""
    if cfg.data:
        files = list_files(cfg.data)

        def texts():
            # One by one, as of several files read_documents takes those named "val" out.
            for file in files:
                yield from read_documents([file], "train", val_share=0)

        path = Path(cfg.out, "rows/evaluate.rows")
        made_from = describe_sources(identify(cfg.data))
        return pack_documents(path, texts, tok, model.config.seq_len, made_from, env)

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
    report = dict(checkpoint=str(path), step=meta["step"], tasks={})
    transcripts = {}
    say(f"checkpoint {path}, step {meta['step']}")

    rows = held_out_rows(cfg, model, tok, env) if cfg.eval_rows else None
    if rows:
        report["bpb"] = evaluate_loss(model, rows, tok, env, 16, cfg.eval_rows)["bpb"]
        say(f"held-out text    {report['bpb']:.4f} bits per byte")

    # Compiling takes half a minute; what follows is 1.6 times as fast.
    n_compared = sum(len(task) for name, task in tasks.items() if name not in ANSWERED)
    forward = block_states
    if cfg.compile and n_compared >= 2000 and can_compile(env.device):
        forward = try_to_compile(block_states, dynamic=True)
    engine = None
    for name, task in tasks.items():
        if name in ANSWERED:
            engine = engine or Engine(model, tok, cfg.max_rows or 64)
            result, asked = evaluate_answers(engine, tok, task, cfg, env, name)
            transcripts[name] = asked
        else:
            result = evaluate_choices(model, tok, task, cfg, env, name, forward)
            asked = []
        report["tasks"][name] = result
        say(describe(name, result))
        # Show the first conversations, and the first wrong ones after them.
        wrong = [transcript for transcript in asked[cfg.show:] if not transcript[2]]
        for item, parts, right in asked[:cfg.show] + wrong[:cfg.show]:
            say(f"    {'right' if right else 'WRONG'}  {question(item)!r}\n"
                f"           {written(parts)!r}")

    core = [report["tasks"][name] for name in tasks if name in CORE]
    if len(core) == len(CORE):
        report["core"] = mean_centred(core)
        say(f"core             {with_interval(report['core'])}, the mean of 22 centred accuracies")
    return report, transcripts


def describe(name, r):
    """One line for a result."""
    more = ""
    for k, share in r.get("pass_at", {}).items():
        if k > 1:
            more += f", pass@{k} {percent(share)}"
    if r["chance"]:
        more += f", chance {percent(r['chance'])}, centred {percent(r['centred'])}"
    if "ended" in r:
        more += f", {percent(r['ended'])} ended by themselves"
    if r.get("refused"):
        more += f", {percent(r['refused'])} refused"
    if "cut" in r:
        more += f", {r['cut']:,} prompts lost their beginning to fit into the model's row"
    if "too_long" in r:
        more += f", {r['too_long']} did not fit into the model's row: wrong"
    width = 37 if name in CORE else 21
    return (f"{name:{width}} {100 * r['accuracy']:5.1f} % right "
            f"[{100 * r['low']:.1f}, {100 * r['high']:.1f}]{more}, "
            f"{r['items']:,} items, {r['seconds']} s")


def percent(share):
    return f"{100 * share:.1f} %"


def with_interval(core):
    return f"{core['score']:.4f} [{core['low']:.4f}, {core['high']:.4f}]"


def question(item):
    """The last thing that the user says."""
    return [m["content"] for m in item["messages"] if m["role"] == "user"][-1]


def written(parts):
    """An answer as text; tool calls and their results stand in angle quotes."""
    marks = {"text": "{}", "python": "\u2039{}\u203a", "python_output": "\u2192\u2039{}\u203a"}
    return "".join(marks[part["type"]].format(part["text"]) for part in parts)


# --------------------------------------------------------------------------------------------------
# What report.py reads

def save_evaluation(path, report, transcripts, cfg):
    """Add the results to evaluation.json in the checkpoint's folder, where report.py finds them.

    A checkpoint that is trained again replaces the whole folder, and old results with it. Of every
    task that is answered, the first transcripts are kept as [question, answer, right].
    """
    file = Path(path, "evaluation.json")
    tasks = {}
    with contextlib.suppress(OSError, ValueError):
        before = json.loads(file.read_text())
        if before["step"] == report["step"]:
            tasks = before["tasks"]
    for name, result in report["tasks"].items():
        examples = [(question(item), written(parts), right)
                    for item, parts, right in transcripts.get(name, [])[:N_EXAMPLES]]
        tasks[name] = dict(result, temperature=cfg.temperature, max_tokens=cfg.max_tokens,
                           examples=examples)
    text = json.dumps(dict(report, tasks=tasks, versions=versions()), indent=1)
    # Two evaluations may run at once.
    new = file.with_suffix(f".{os.getpid()}.tmp")
    try:
        write_synced(new, lambda f: f.write(text.encode()))
        os.replace(new, file)
    # The results are printed all the same.
    except OSError as e:
        print(f"note       {file} could not be written ({e}): report.py will not show this",
              file=sys.stderr)


def evaluate_all(cfg, tasks, env):
    """Evaluate the last stages for report.py, and write out/report.json."""
    out = Path(cfg.out)
    core = {name: task for name, task in tasks.items() if name in CORE}
    tasks = {name: task for name, task in tasks.items() if name not in CORE}
    reports = {}

    def evaluate(stage, asked):
        reports[stage], transcripts = evaluate_stage(out / stage, asked, cfg, env, env.print)
        if env.rank == 0:
            save_evaluation(out / stage, reports[stage], transcripts, cfg)

    if core:
        # CORE's prompts are text to continue, which is what a base model does.
        evaluate("pretrain", core)
    stages = list(REPORTED)
    # rl.py is no part of run.sh, and what it made may be older than what it started from.
    if (out / "rl/meta.json").exists() and not trained_anew(out, "rl"):
        stages.append("rl")
    # Other wordings take a minute or two a stage: only the last one is asked in them.
    known = {name: task for name, task in tasks.items() if name not in OTHER_TASKS}
    for stage in stages:
        evaluate(stage, tasks if stage == stages[-1] else known)
    if env.rank == 0:
        write_synced(out / "report.json",
                     lambda f: f.write(json.dumps(reports, indent=1).encode()))
    flags = "" if cfg.out == Config.out else f" --out {cfg.out}"
    env.print(f"done       {out}/report.json. Next: python report.py{flags}")


def main():
    cfg = parse_config(Config, __doc__)
    if cfg.num_samples < 1 or (cfg.num_samples > 1 and cfg.temperature == 0):
        raise ValueError(f"--num_samples {cfg.num_samples} --temperature {cfg.temperature}: "
                         f"expected at least one sample, and for more a temperature above 0, "
                         f"or they would all be the same")
    env = setup(cfg.device, cfg.dtype)
    names = task_names(cfg.tasks)
    if not cfg.report:
        path = find_checkpoint(cfg.out, cfg.stage)
        if cfg.tasks == Config.tasks:
            # A base model has not learned the demo's skills, nor has one of the user's own data.
            own_data = read_meta(path).get("config", {}).get("data")
            if own_data or path.name == "pretrain":
                names = []
    elif cfg.tasks == Config.tasks:
        names += OTHER_TASKS
    # Open all tasks first, so that a missing download fails before any work.
    tasks = {name: open_task(name, cfg.items or None) for name in names}

    if cfg.report:
        evaluate_all(cfg, tasks, env)
        return
    say = (lambda text: None) if cfg.json else env.print
    report, transcripts = evaluate_stage(path, tasks, cfg, env, say)
    if env.rank == 0:
        save_evaluation(path, report, transcripts, cfg)
    if cfg.json:
        env.print(json.dumps(dict(report, config=asdict(cfg), versions=versions())))


if __name__ == "__main__":
    run(main, less_memory="--max_rows or --batch_tokens")
