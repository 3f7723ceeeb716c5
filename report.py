"""
A run as one page to look at: out/report.html, and out/report.md with the same tables.

python report.py                              the run in out/
python report.py --compare ../other/out       another run in grey behind the curves, or its report
python report.py --answers 0                  without questions to every stage: no model is loaded
python report.py --thin dev/reference/x.json  also write the run, thinned, to be compared with

It reads what the stages have left: metrics.jsonl, meta.json and run.json of each checkpoint,
evaluation.json from evaluate.py, the tokenizer, and the packed rows. What is missing makes the
report shorter. The curves need matplotlib: pip install -e '.[report]'.
"""
import ctrl_c

import base64
import hashlib
import html
import json
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from string import Template

import numpy as np

from common import Tokenizer, digest, load_checkpoint, trained_anew
from evaluate import OTHER_TASKS, SKILLS, TALK, percent, wilson, with_interval, written
from machine import check_file, in_words, parse_config, run, setup, versions, write_synced
from talk.engine import Engine, parse_answer
from talk.memory import generate
from train.curves import (
    REFERENCE_POINTS,
    REPORT_POINTS,
    as_dict,
    as_list,
    can_draw,
    choose_reference,
    draw_bars,
    draw_panel,
    is_number,
    load_run,
    read_json,
    read_metrics,
    read_run,
    run_panels,
    stage_folder,
)
from train.rows import Rows

ROOT = Path(__file__).parent
REFERENCES = ROOT / "dev/reference"
MAX_BYTES = 500_000
# Tokens of a conversation that are shown.
MAX_SHOWN = 260
INSTALL = "The curves need matplotlib: python -m pip install -e '.[report]', then report.py again."
# How the tokenizer cuts prose, code, numbers and other scripts.
SAMPLE = ("The quick brown fox doesn't jump over 1,234,567 lazy dogs.\n"
          "def area(radius):\n    return 3.14159 * radius ** 2\n"
          "Größe, naïve, 東京, Привет, 🙂")


@dataclass
class Config:
    out: str = "out"                  # folder in which the stages find each other
    compare: str = ""                 # another out/ folder, report.html, or file of --thin
    answers: int = 8                  # held-out questions that every stage answers; 0: none
    max_tokens: int = 120             # tokens of such an answer
    thin: str = ""                    # also write the run, thinned to a few KB, to this file
    device: str = "auto"              # auto, cpu, cuda or mps
    dtype: str = "auto"               # compute dtype: auto, float32, bfloat16 or float16


# --------------------------------------------------------------------------------------------------
# What was trained, where, when

def training_table(out, stages):
    """-> the header and the rows of a table, one row a stage."""
    header = ["stage", "steps", "tokens, M", "held-out loss", "seconds of training", "peak memory",
              "begun", "commit"]
    rows = []
    for stage, logged in stages.items():
        folder = stage_folder(out, stage)
        record = read_json(folder / "run.json", {})
        meta = read_json(folder / "meta.json", {})
        columns = logged["columns"]
        steps = f"{logged['step']:,}"
        if not logged["done"]:
            steps += f" of {logged['steps']:,}, interrupted"
        losses = columns.get("val_loss", ([], []))[1]
        tokens = logged["step"] * logged["tokens_per_step"] / 1e6
        seconds = columns.get("seconds", ([], [0]))[1][-1]
        rows.append([
            stage, steps, f"{tokens:.2f}" if tokens else "",
            f"{losses[0]:.3f} to {losses[-1]:.3f}" if losses else "",
            f"{seconds:,.0f}" if seconds else "", memory(record),
            str(record.get("started", ""))[:16].replace("T", " "),
            str(as_dict(meta.get("versions")).get("commit") or "")])
    # What no stage has recorded, as in runs of older versions, is left out.
    kept = [at for at in range(len(header)) if any(row[at] for row in rows)]
    return [header[at] for at in kept], [[row[at] for at in kept] for row in rows]


def memory(record):
    """The peak memory of a stage's process, as "1.2 GB", on a GPU "1.2 GB + 30.1 GB on the GPU"."""
    parts = []
    for key, where in ("peak_memory", ""), ("peak_gpu_memory", " on the GPU"):
        if is_number(record.get(key)):
            parts.append(f"{record[key] / 1e9:.1f} GB{where}")
    return " + ".join(parts)


def machine_facts(out, stages):
    """-> rows (what, value) about machine, versions and model, as of the last stage that knows."""
    facts = {}
    for stage in stages:
        folder = stage_folder(out, stage)
        record = read_json(folder / "run.json", {})
        meta = read_json(folder / "meta.json", {})
        made = as_dict(meta.get("versions"))
        shape = as_dict(meta.get("model"))
        if record:
            ranks = record.get("ranks", 1)
            facts["machine"] = ", ".join(map(str, filter(None, [
                record.get("gpu") and f"{ranks} x {record['gpu']}", record.get("processor"),
                f"{record.get('cores')} cores", record.get("system")])))
            facts["instruction set"] = record.get("instructions")
        if made:
            facts["versions"] = f"torch {made.get('torch')}, Python {made.get('python')}"
        dtype = as_dict(meta.get("settings")).get("dtype")
        if dtype:
            facts["computed in"] = str(dtype).removeprefix("torch.")
        if shape:
            facts["model"] = (f"{shape.get('n_layer')} layers of width {shape.get('n_embd')}, "
                              f"{shape.get('n_head')} heads, rows of {shape.get('seq_len')}, "
                              f"vocabulary {shape.get('vocab_size')}")
    trained_on = as_dict(read_json(out / "tokenizer/tokenizer.json", {}).get("trained_on"))
    if trained_on:
        facts["tokenizer's text"] = (f"{', '.join(map(str, as_list(trained_on.get('sources'))))}: "
                                     f"{trained_on.get('characters')} characters")
    return [(what, str(value)) for what, value in facts.items() if value]


def commands(out, stages):
    """The command lines of the stages that recorded them."""
    records = [read_json(stage_folder(out, stage) / "run.json", {}) for stage in stages]
    return [str(record["command"]) for record in records if record.get("command")]


def stage_seconds(out):
    """{stage: seconds} as run.sh took them. A stage that was interrupted has several lines."""
    seconds = {}
    try:
        lines = (out / "times.txt").read_text(errors="replace").splitlines()
    except OSError:
        return {}
    for line in lines:
        stage, _, s = line.partition(" ")
        if s.isdecimal():
            seconds[stage] = seconds.get(stage, 0) + int(s)
    return seconds


def headline(out):
    """Sentences about what the log of pretraining and DPO says; "" without them."""
    bpb = logged_values(out, "pretrain", "val_bpb")
    ranked = logged_values(out, "dpo", "val_accuracy")
    sentences = []
    if bpb:
        sentences.append(f"Bits per byte of held-out text: {bpb[0]:.3f} before pretraining, "
                         f"{bpb[-1]:.3f} after.")
    if ranked:
        sentences.append(f"Held-out preference pairs ranked rightly after DPO: "
                         f"{percent(ranked[-1])}.")
    core = read_json(out / "pretrain/evaluation.json", {}).get("core")
    if isinstance(core, dict) and all(is_number(core.get(key)) for key in ("score", "low", "high")):
        sentences.append(f"CORE of the pretrained model: {with_interval(core)}.")
    return " ".join(sentences)


def logged_values(out, stage, name):
    """The values of one name in a stage's metrics.jsonl, in order."""
    folder = stage_folder(out, stage)
    rows = read_metrics(folder / "metrics.jsonl") if folder else []
    return [row[name] for row in rows if is_number(row.get(name))]


def comparison(run, other):
    """The last values of this run and of the other one -> rows (what, ours, theirs)."""
    rows = []
    for stage in run["stages"]:
        for name, label in ("val_bpb", "bits per byte"), ("val_loss", "held-out loss"), \
                ("val_accuracy", "pairs ranked rightly"), ("val_pass@1", "pass@1"):
            # Elsewhere bits per byte say the same as the loss.
            if name == "val_bpb" and stage != "pretrain":
                continue
            ours, theirs = (as_dict(source["stages"].get(stage)).get("columns", {}).get(name)
                            for source in (run, other))
            if ours and theirs:
                rows.append([f"{stage}, {label}", f"{ours[1][-1]:.3f}", f"{theirs[1][-1]:.3f}"])
    return rows

# --------------------------------------------------------------------------------------------------
# Skills

def evaluations(out, stages):
    """{stage: {task: result}} as evaluate.py left them in the folders of the checkpoints.

    Runs of older versions have them in out/report.json.
    """
    found = {}
    older = read_json(out / "report.json", {})
    for stage, logged in stages.items():
        evaluation = read_json(out / stage / "evaluation.json", {})
        if not evaluation and as_dict(older.get(stage)).get("step") == logged["step"]:
            evaluation = older[stage]
        tasks = as_dict(evaluation.get("tasks"))
        good = {name: r for name, r in tasks.items() if isinstance(r, dict)
                and is_number(r.get("accuracy")) and is_number(r.get("items")) and r["items"] > 0}
        if good:
            found[stage] = good
    return found


def skill_rows(results):
    """The rows of the table of skills: each with known wordings, then with other wordings.

    results: {stage: {task: result}}. Where a stage was not asked, its cell is empty.
    """
    columns = list(results.values())
    tasks = {}
    for column in columns:
        tasks |= column
    order = []
    for label, (known, other) in (SKILLS | TALK).items():
        order += [(label, "known", known), (label, "other", other)]
    paired = {name for _, _, name in order}
    order += [(name, "", name) for name in tasks if name not in paired]
    rows = []
    for label, wordings, name in order:
        if name in tasks:
            accuracies = [percent(of_stage[name]["accuracy"]) if name in of_stage else ""
                          for of_stage in columns]
            rows.append([label, wordings, tasks[name]["items"], *accuracies])

    # Shares of all items of all tasks that have them.
    for label, key in ("skills refused", "refused"), ("answers that ended by themselves", "ended"):
        for wordings, others in ("known", False), ("other", True):
            names = [name for name, r in tasks.items()
                     if is_number(r.get(key)) and (name in OTHER_TASKS) == others]
            n = sum(tasks[name]["items"] for name in names)
            cells = [share_of_items(of_stage, names, key) for of_stage in columns]
            if n:
                rows.append([label, wordings, n, *cells])
    return rows


def share_of_items(results, names, key):
    """The mean of one share over all items of some tasks, "" if none of them was asked."""
    asked = [results[name] for name in names
             if name in results and is_number(results[name].get(key))]
    n = sum(r["items"] for r in asked)
    return percent(sum(r[key] * r["items"] for r in asked) / n) if n else ""


def skill_bars(results):
    """-> [(title, rows for draw_bars)]: known wordings, other wordings, further tasks."""
    groups = []
    for at, title in enumerate(["In known wordings", "In other people's words"]):
        rows = [(label, pair[at]) for label, pair in (SKILLS | TALK).items() if pair[at]]
        groups.append((title, rows))
    paired = {name for pair in (SKILLS | TALK).values() for name in pair}
    further = {name: name for tasks in results.values() for name in tasks if name not in paired}
    groups.append(("Further tasks", list(further.items())))
    bars = []
    for title, rows in groups:
        filled = []
        for label, task in rows:
            of_stages = {stage: bar_of(stage, label, tasks[task])
                         for stage, tasks in results.items() if task in tasks}
            if of_stages:
                short = label.replace("word problems, ", "problems, ").removeprefix("core:")
                filled.append((short[:22], of_stages))
        if filled:
            bars.append((title, filled))
    return bars


def bar_of(stage, label, result):
    """A result of evaluate.py with its 95 % interval (Wilson), and what the pointer shows."""
    n, accuracy = result["items"], min(1.0, max(0.0, result["accuracy"]))
    low, high = wilson(accuracy * n, n)
    chance = result["chance"] if is_number(result.get("chance")) else 0
    title = f"{stage}, {label}: {percent(accuracy)} of {n}, 95 % interval {percent(low)} to " \
            f"{percent(high)}"
    if chance:
        title += f", chance {percent(chance)}"
    return dict(accuracy=accuracy, low=low, high=high, chance=chance, title=title)

# --------------------------------------------------------------------------------------------------
# Tokens, conversations, answers

def load_tokenizer(out):
    """The tokenizer, None if there is none that can be read."""
    try:
        return Tokenizer.load(out / "tokenizer")
    except (ValueError, OSError):
        return None


def token_text(tok, id):
    """A token as text; bytes that are no whole character as \\xe2."""
    return tok.enc.decode_single_token_bytes(id).decode(errors="backslashreplace")


def longest_tokens(out, n=16):
    """The longest tokens as text, but of those that repeat one character only the longest."""
    tokens = []
    for line in (out / "tokenizer/merges.tiktoken").read_bytes().splitlines():
        tokens.append(base64.b64decode(line.split()[0]))
    tokens.sort(key=lambda token: (-len(token), token))
    found = []
    repeated = set()
    for token in tokens:
        if len(set(token)) == 1:
            if token[0] in repeated:
                continue
            repeated.add(token[0])
        found.append(token.decode(errors="backslashreplace"))
    return found[:n]


def visible(text):
    """A token with its spaces and line ends to be seen; long runs are counted: "\u2423 x 32"."""
    text = text.replace(" ", "\u2423").replace("\n", "\u21b5").replace("\t", "\u21e5")
    return re.sub(r"(.)\1{5,}", lambda run: f"{run[1]} x {len(run[0])}", text)


def open_rows(out, tok, *names):
    """The first file of packed rows that can be read and that this tokenizer made, or None."""
    for name in names if tok else ():
        try:
            rows = Rows(out / f"rows/{name}.rows")
        except (ValueError, OSError, KeyError, TypeError):
            continue
        if len(rows) and rows.header["made_from"].get("tokenizer") == tok.fingerprint:
            return rows
    return None


def conversations_in(rows, tok, n, n_rows=48):
    """Some whole conversations of packed rows -> (ids, mask) each; mask is True where SFT learns.

    They are of `n_rows` rows from the whole file: short ones that have few words in common first.
    """
    found = []
    bos = tok.special("<|bos|>")
    for i in np.unique(np.linspace(0, len(rows) - 1, n_rows).astype(int)):
        ids, targets = rows.batch(slice(i, i + 1), only_learned=True)
        ids = ids[0].tolist()
        mask = [False, *(target >= 0 for target in targets[0, :-1].tolist())]
        starts = [t for t, id in enumerate(ids) if id == bos] + [len(ids)]
        for start, end in zip(starts, starts[1:]):
            if any(mask[start:end]):
                found.append((ids[start:end], mask[start:end]))
    # Any order but that of the file, the same in every report.
    found.sort(key=lambda one: hashlib.sha256(repr(one[0]).encode()).digest())
    chosen, others, seen = [], [], []
    for ids, mask in found:
        words = set(re.findall(r"\w+", tok.decode(ids).lower()))
        near = max((len(words & other) / max(1, len(words | other)) for other in seen), default=0)
        if len(ids) <= MAX_SHOWN and near < 0.5:
            chosen.append((ids, mask))
            seen.append(words)
        else:
            others.append((ids, mask))
        if len(chosen) == n:
            break
    others.sort(key=lambda one: len(one[0]) > MAX_SHOWN)
    return (chosen + others)[:n]


def questions_in(rows, tok, n):
    """Held-out questions -> (prompt ids, question, the answer in the data) each."""
    start, end = tok.special("<|user_start|>"), tok.special("<|user_end|>")
    opens, closes = tok.special("<|assistant_start|>"), tok.special("<|assistant_end|>")
    questions = []
    for ids, _ in conversations_in(rows, tok, 2 * n):
        # Only the first turn is asked.
        if not {start, end, opens, closes} <= set(ids):
            continue
        first = ids.index(opens)
        question = tok.decode(ids[ids.index(start) + 1:ids.index(end)])
        answer = written(parse_answer(tok, ids[first + 1:ids.index(closes) + 1]))
        questions.append((ids[:first + 1], question, answer))
    return questions[:n]


def answers_of(out, stage, questions, cfg, env):
    """The greedy answers of a stage to the questions, as text.

    They are kept in answers.json beside the checkpoint, which a new checkpoint takes away.
    """
    folder = out / stage
    prompts = [ids for ids, _, _ in questions]
    key = digest([prompts, cfg.max_tokens, str(env.dtype), read_json(folder / "meta.json", {})])
    kept = read_json(folder / "answers.json", {})
    texts = as_list(kept.get("answers"))
    if kept.get("key") == key and len(texts) == len(prompts) and \
            all(isinstance(text, str) for text in texts):
        return texts
    model, tok, _ = load_checkpoint(folder, env.device)
    model.compute_dtype = env.dtype
    engine = Engine(model, tok, len(prompts))
    answers = generate(engine, prompts, cfg.max_tokens, temperature=0.0, seed=0)
    texts = [written(parse_answer(tok, answer)).strip("\n") for answer in answers]
    text = json.dumps(dict(key=key, answers=texts), indent=1)
    try:
        replace_file(folder / "answers.json", text)
    except OSError:
        # The next report asks again.
        pass
    return texts


def ask_all_stages(out, stages, tok, cfg, notes):
    """The same questions to every finished stage -> [(question, the data's, {stage: answer})]."""
    rows = open_rows(out, tok, "sft_val", "midtrain_val", "distill_val") if cfg.answers else None
    questions = questions_in(rows, tok, cfg.answers) if rows else []
    if not questions:
        return []
    env = setup(cfg.device, cfg.dtype)
    answers = {}
    for stage, logged in stages.items():
        if not logged["done"]:
            continue
        try:
            answers[stage] = answers_of(out, stage, questions, cfg, env)
        except (ValueError, OSError, RuntimeError, KeyError, TypeError) as e:
            notes.append(f"{stage} could not be asked: {in_words(e)[:300]}")
    return [(question, in_data, {stage: texts[i] for stage, texts in answers.items()})
            for i, (_, question, in_data) in enumerate(questions)]

# --------------------------------------------------------------------------------------------------
# Markdown

def markdown_table(header, rows):
    """The lines of a Markdown table. What stands in a cell cannot end it, nor become markup."""
    def cell(value):
        text = html.escape(" ".join(str(value).split()), quote=False)
        return re.sub(r"([\\|`*_\[\]])", r"\\\1", text)

    lines = ["| " + " | ".join(map(cell, cells)) + " |" for cells in (header, *rows)]
    return [lines[0], "|" + "---|" * len(header), *lines[1:]]


def fenced(text):
    """A block of code that shows the text as it is, whatever backticks are in it."""
    longest = max(map(len, re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return [fence, text, fence]


def markdown(report):
    """The report as Markdown. report: see collect."""
    lines = [report["headline"] or "No stage has logged anything yet: bash run.sh", ""]
    if report["skills"]:
        header = ["held-out items, answered for real", "wordings", "items", *report["results"]]
        lines += [*markdown_table(header, report["skills"]), ""]
    if report["seconds"]:
        lines += [*markdown_table(["stage", *report["seconds"]],
                                  [["seconds", *report["seconds"].values()]]), ""]
    if report["training"]:
        lines += [*markdown_table(*report["training"]), ""]
    if report["facts"]:
        lines += [*markdown_table(["what", "value"], report["facts"]), ""]
    if report["commands"]:
        lines += [*fenced("\n".join(report["commands"])), ""]
    if report["comparison"]:
        lines += [*markdown_table(["last value", "this run", report["other"]["name"]],
                                  report["comparison"]), ""]
    said = []
    for question, answer in report["examples"]:
        said += [f"you  {question}".replace("\n", "\n     "),
                 f"bot  {answer}".replace("\n", "\n     "), ""]
    if said:
        stage = list(report["results"])[-1]
        lines += [f"Conversations with {report['name']}/{stage}:", "",
                  *fenced("\n".join(said[:-1])), ""]
    for note in report["notes"]:
        lines += markdown_table([note], [])[:1]
    return "\n".join(lines).rstrip() + "\n"

# --------------------------------------------------------------------------------------------------
# The page

def esc(text):
    return html.escape(str(text), quote=True)


def cut(text, n=1200):
    return text if len(text) <= n else text[:n] + " \u2026"


def json_in_html(value):
    """JSON that cannot end the element or the attribute that it stands in."""
    text = json.dumps(value, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def html_table(header, rows):
    head = "".join(f"<th scope=col>{esc(cell)}</th>" for cell in header)
    body = ""
    for first, *cells in rows:
        body += (f"<tr><th scope=row>{esc(first)}</th>"
                 + "".join(f"<td>{esc(cell)}</td>" for cell in cells) + "</tr>")
    head = f"<thead><tr>{head}</tr></thead>" if header else ""
    return f"<div class=scroll><table>{head}<tbody>{body}</tbody></table></div>"


def panel_html(panel, number):
    """One panel as a figure: its title, its keys, the picture, and what the pointer needs."""
    name = f"panel{number}"
    svg, place = draw_panel(panel, name)
    keys = ""
    shown = []
    for one in panel["lines"]:
        if one["other"] or panel["x"] == "chain":
            continue
        kind = "dashed" if one["dash"] else "solid"
        shown.append(f'<span><i class={kind} style="--c:var(--{one["color"]})"></i>'
                     f'{esc(one["label"])}</span>')
    if any(one["other"] for one in panel["lines"]):
        shown.append('<span><i class=solid style="--c:var(--other)"></i>compared with</span>')
    if panel.get("note"):
        shown.append(f"<span>{esc(panel['note'])}</span>")
    if shown:
        keys = f"<span class=keys>{''.join(shown)}</span>"
    last = [f"{one['label']} ends at {one['y'][-1]:g}" for one in panel["lines"]
            if not one["other"]]
    data = dict(place, kind=panel["x"], segments=panel.get("segments", []),
                lines=[[one["label"] + (" (compared)" if one["other"] else ""), one["color"],
                        one["x"], one["y"]] for one in panel["lines"]])
    svg = svg.replace("<svg", f'<svg role="img" aria-label="{esc("; ".join(last))}"', 1)
    return (f"<figure class=panel tabindex=0 data-panel='{esc(json_in_html(data))}'>"
            f"<figcaption>{esc(panel['title'])}{keys}</figcaption>"
            f"<div class=plot>{svg}</div></figure>")


def bars_html(bars, stages):
    """The figures of the skills, with a title on every bar for the pointer."""
    figures = ""
    for number, (title, rows) in enumerate(bars):
        svg, titles = draw_bars(rows, stages, f"skills{number}")
        for gid, text in titles.items():
            svg = svg.replace(f'<g id="{gid}"', f"<g><title>{esc(text)}</title", 1)
        svg = svg.replace("</title>", "</title").replace("</title", "</title>")
        svg = svg.replace("</title>>", "</title>")
        label = f"{title}: shares answered rightly, as in the table"
        svg = svg.replace("<svg", f'<svg role="img" aria-label="{esc(label)}"', 1)
        figures += f"<figure><figcaption>{esc(title)}</figcaption>{svg}</figure>"
    return figures


def stage_keys(stages):
    return "<p class=keys>" + "".join(
        f'<span><i class=solid style="--c:var(--{stage})"></i>{stage}</span>'
        for stage in stages) + "</p>"


def tokens_html(tok, ids):
    """Each token as a chip, in colours that take turns."""
    return "<p class=tokens>" + "".join(
        f"<span class=t{i % 4}>{esc(token_text(tok, id))}</span>"
        for i, id in enumerate(ids)) + "</p>"


def conversation_html(tok, ids, mask):
    """A conversation as the model sees it; what it learns to say is marked."""
    dots = " \u2026" if len(ids) > MAX_SHOWN else ""
    ids = ids[:MAX_SHOWN]
    pieces = ""
    start = 0
    specials = set(tok.specials.values())
    while start < len(ids):
        end = start + 1
        special = ids[start] in specials
        while end < len(ids) and not special and mask[end] == mask[start] \
                and ids[end] not in specials:
            end += 1
        text = token_text(tok, ids[start]) if special else tok.decode(ids[start:end])
        kinds = " ".join(["learn"] * mask[start] + ["special"] * special)
        pieces += f'<span class="{kinds}">{esc(text)}</span>'
        start = end
    return f"<p class=conversation>{pieces}{dots}</p>"


def page(report):
    """The whole page as one text. report: see collect."""
    sections = []

    def section(title, *content):
        content = [part for part in content if part]
        if content:
            sections.append(f"<section><h2>{esc(title)}</h2>{''.join(content)}</section>")

    drawing = can_draw()
    names = list(report["run"]["stages"])
    missing = "" if drawing or not names else f"<p class=note>{esc(INSTALL)}</p>"
    other = report["other"]
    compared = ""
    if other:
        compared = f"<p>In grey: {esc(other['name'])}."
        if not report["asked_for_other"]:
            compared += " This is a good run of the same size, from dev/reference/."
        compared += "</p>"
    panels = run_panels(report["run"], other) if drawing else []
    for number, panel in enumerate(panels):
        panels[number] = panel_html(panel, number)
    hint = ("<p class=hint>Point at a curve, tap it, or move through it with the arrow keys: it "
            "shows its values. Where a stage has many steps, a point is the mean of some "
            "neighbours.</p>")
    section("What was trained",
            html_table([], report["facts"]) if report["facts"] else "",
            html_table(*report["training"]) if report["training"] else "",
            html_table(["stage", *report["seconds"]],
                       [["seconds by the clock", *report["seconds"].values()]])
            if report["seconds"] else "",
            "<pre>" + esc("\n".join(report["commands"])) + "</pre>" if report["commands"] else "")
    section("Curves", missing, (compared + stage_keys(names) + hint) if panels else "",
            f"<div class=grid>{''.join(panels)}</div>" if panels else "",
            html_table(["last value", "this run", other["name"]], report["comparison"])
            if report["comparison"] else "")
    results = report["results"]
    bars = skill_bars(results) if drawing else []
    section("Skills",
            "<p>Shares of held-out questions answered rightly, with 95 % intervals (Wilson). "
            "Dotted: chance.</p>" + stage_keys(results) if bars else "",
            f"<div class=grid>{bars_html(bars, list(results))}</div>" if bars else "",
            html_table(["held-out items", "wordings", "items", *results], report["skills"])
            if report["skills"] else "")

    tok = report["tok"]
    if tok:
        per_token = [(kind, f"{n:.2f}") for kind, n in report["bytes_per_token"].items()]
        longest = " ".join(f"<code>{esc(visible(token))}</code>" for token in report["longest"])
        ids = tok.encode(SAMPLE)
        section("The tokenizer",
                html_table(["kind of text", "bytes a token"], per_token) if per_token else "",
                f"<p>Its longest tokens: {longest}</p>" if longest else "",
                f"<p>How it cuts {len(SAMPLE.encode())} bytes into {len(ids)} tokens:</p>",
                tokens_html(tok, ids))
    shown = [conversation_html(tok, ids, mask) for ids, mask in report["conversations"]]
    section("What fine-tuning reads",
            "<p>Three training conversations. <span class=learn>Marked</span>: what the model "
            "learns to say. The rest is context.</p>" if shown else "", *shown)
    asked = ""
    for question, in_data, answers in report["answers"]:
        given = "".join(f"<div style='--c:var(--{stage})'><dt>{stage}</dt><dd>{esc(cut(text))}</dd>"
                        f"</div>" for stage, text in answers.items())
        asked += (f"<h3>{esc(cut(question))}</h3><dl class=answers>{given}"
                  f"<div><dt>the data say</dt><dd>{esc(cut(in_data))}</dd></div></dl>")
    section("The same held-out questions, answered by every stage",
            "<p>Greedy answers, cut after some tokens. Tool calls and their results stand in "
            "\u2039\u203a.</p>" + asked if asked else "")
    if not sections:
        sections.append("<p>There is nothing here yet. Train something first: bash run.sh</p>")
    for note in report["notes"]:
        sections.insert(0, f"<p class=note>{esc(note)}</p>")

    # Only the script of this page may run, and nothing is fetched: the browser sees to both.
    allowed = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    return Template(PAGE).substitute(
        style=STYLE, script=SCRIPT, hash=allowed, headline=esc(report["headline"]),
        name=esc(report["name"]), made=esc(report["made"]), body="\n".join(sections),
        run=json_in_html(report["run"]))


PAGE = """<!doctype html>
<html lang=en>
<head>
<meta charset=utf-8>
<meta http-equiv=Content-Security-Policy content="default-src 'none';
 style-src 'unsafe-inline'; script-src 'sha256-$hash'; base-uri 'none'; form-action 'none'">
<meta name=viewport content="width=device-width, initial-scale=1">
<meta name=color-scheme content="light dark">
<title>tok2chat: $name</title>
<style>$style</style>
</head>
<body>
<main>
<h1>tok2chat: $name</h1>
<p>$headline</p>
$body
<footer>$made</footer>
</main>
<div id=tip role=status hidden></div>
<script type="application/json" id="run">$run</script>
<script>$script</script>
</body>
</html>
"""

STYLE = """
:root { --ink: #222; --paper: #fff; --faint: #bbb; --soft: #f3f3f1; --other: #9a9a9a;
  --good: #1b8a4b; --bad: #c8402f; --chance: #d0006f; --learn: #bfe6c8;
  --pretrain: #1f6fb2; --midtrain: #0f8f8a; --sft: #d9730d; --dpo: #7a4fc0; --distill: #c03078;
  --rl: #4a7d1c; --t0: #cfe3f7; --t1: #fbdcbc; --t2: #d3efd0; --t3: #e6d8f5 }
@media screen and (prefers-color-scheme: dark) { :root { --ink: #e4e4e0; --paper: #17181a;
  --faint: #555; --soft: #232528; --other: #85878a; --good: #55c07f; --bad: #f0786a;
  --chance: #ff6fb5; --learn: #1f5134; --pretrain: #6cb2ee; --midtrain: #4ac7c1; --sft: #f5a04c;
  --dpo: #b596f0; --distill: #ee7fb4; --rl: #97c95f; --t0: #23405c; --t1: #5a3d1e;
  --t2: #28492a; --t3: #40305a } }
* { box-sizing: border-box }
html { overflow-x: hidden }
body { margin: 0; color: var(--ink); background: var(--paper);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif }
main { max-width: 1120px; margin: 0 auto; padding: 12px 16px 40px }
h1 { font-size: 1.5rem; margin: .4em 0; overflow-wrap: anywhere }
h2 { font-size: 1.2rem; margin: 1.8em 0 .6em; border-bottom: 1px solid var(--faint) }
h3 { font-size: 1rem; margin: 1.4em 0 .4em; white-space: pre-wrap; overflow-wrap: anywhere }
p { margin: .5em 0 }
.grid { display: grid; gap: 14px;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 320px), 1fr)) }
figure { position: relative; margin: 0; min-width: 0 }
figcaption { font-weight: 600; font-size: .86rem; line-height: 1.35 }
svg { display: block; width: 100%; height: auto }
svg * { stroke-linejoin: round; stroke-linecap: butt }
.plot { position: relative; touch-action: pan-y }
.plot .cursor { position: absolute; top: 4%; bottom: 16%; width: 1px; background: var(--ink);
  opacity: .5; pointer-events: none }
#tip { position: fixed; z-index: 2; max-width: 280px; padding: 5px 8px; font-size: .8rem;
  background: var(--soft); border: 1px solid var(--faint); border-radius: 5px;
  pointer-events: none; font-variant-numeric: tabular-nums }
#tip[hidden] { display: none }
#tip i, .keys i { display: inline-block; width: 16px; border-top: 3px solid var(--c);
  vertical-align: middle; margin-right: 5px }
.keys i.dashed { border-top-style: dashed }
.keys { display: flex; flex-wrap: wrap; gap: 0 14px; font-weight: 400; font-size: .8rem }
.hint { font-size: .86rem }
.note { padding: 8px 12px; background: var(--soft); border-left: 4px solid var(--sft) }
.scroll { overflow-x: auto; margin: .8em 0 }
table { border-collapse: collapse; font-size: .86rem; font-variant-numeric: tabular-nums }
th, td { text-align: left; padding: 3px 14px 3px 0; border-bottom: 1px solid var(--faint);
  vertical-align: top }
tbody th { font-weight: 400 }
thead th, thead + tbody td, tbody th { white-space: nowrap }
pre { overflow-x: auto; padding: 8px 12px; background: var(--soft); font-size: .82rem }
code { background: var(--soft); padding: 0 4px; border-radius: 3px; white-space: pre-wrap;
  overflow-wrap: anywhere }
.tokens, .conversation { white-space: pre-wrap; overflow-wrap: anywhere;
  font: .86rem/1.7 ui-monospace, Menlo, Consolas, monospace }
.tokens span { border-radius: 3px }
.t0 { background: var(--t0) } .t1 { background: var(--t1) }
.t2 { background: var(--t2) } .t3 { background: var(--t3) }
.conversation { padding: 8px 12px; background: var(--soft); border-radius: 5px }
.learn { background: var(--learn); border-radius: 3px }
.special { opacity: .65; font-size: .9em }
.answers { display: grid; gap: 8px; margin: 0;
  grid-template-columns: repeat(auto-fit, minmax(128px, 1fr)) }
.answers div { min-width: 0; padding: 4px 8px; background: var(--soft);
  border-top: 3px solid var(--c, var(--faint)) }
dt { font-size: .78rem; font-weight: 600 }
dd { margin: 0; max-height: 13em; overflow: auto; font-size: .84rem; white-space: pre-wrap;
  overflow-wrap: anywhere }
footer { margin-top: 3em; font-size: .8rem }
:focus-visible { outline: 2px solid var(--pretrain); outline-offset: 2px }
@media (max-width: 480px) { .answers { grid-template-columns: 1fr }
  tbody th { white-space: normal } }
@media print { body { font-size: 10pt } main { max-width: none; padding: 0 } .hint { display: none }
  figure, .answers, .conversation, tr { break-inside: avoid } h2, h3 { break-after: avoid }
  .grid { grid-template-columns: 1fr 1fr } .scroll, pre, dd { overflow: visible; max-height: none }
  pre { white-space: pre-wrap } table { font-size: 8pt }
  thead th, thead + tbody td, tbody th { white-space: normal; padding-right: 8px }
  * { print-color-adjust: exact } }
"""

# The pointer over a panel: the values of all curves nearest to it. Text goes in as text alone.
SCRIPT = """
"use strict";
const tip = document.querySelector("#tip");
const number = (v) => Math.abs(v) >= 1e4 ? Math.round(v).toLocaleString("en")
  : String(Number(v.toPrecision(4)));
let active = null;

function where(panel, x) {
  if (panel.kind === "step") return "step " + Math.round(Math.max(0, x));
  if (panel.kind !== "chain") return panel.kind + " " + number(Math.max(0, x));
  const at = Math.min(panel.segments.length - 1, Math.max(0, Math.floor(x)));
  const [stage, steps] = panel.segments[at];
  return stage + ", step " + Math.round(Math.max(0, x - at) * steps);
}

function nearest(xs, x) {
  let best = 0;
  xs.forEach((v, i) => { if (Math.abs(v - x) < Math.abs(xs[best] - x)) best = i; });
  return best;
}

function show(figure, share) {
  const panel = figure.panel;
  const plot = figure.querySelector(".plot");
  const box = plot.getBoundingClientRect();
  share = Math.min(panel.right, Math.max(panel.left, share));
  figure.share = share;
  const x = panel.x0 + (share - panel.left) / (panel.right - panel.left) * (panel.x1 - panel.x0);
  const head = document.createElement("div");
  head.textContent = where(panel, x);
  tip.replaceChildren(head);
  for (const [label, color, xs, ys] of panel.lines) {
    // In a chain each curve has a stage of its own.
    if (panel.kind === "chain" && Math.floor(xs[0]) !== Math.floor(x)) continue;
    const row = document.createElement("div");
    const key = document.createElement("i");
    key.style.setProperty("--c", "var(--" + color + ")");
    row.append(key, label + " " + number(ys[nearest(xs, x)]));
    tip.append(row);
  }
  if (!figure.cursor) {
    figure.cursor = document.createElement("div");
    figure.cursor.className = "cursor";
    plot.append(figure.cursor);
  }
  if (active && active !== figure) hide(active);
  active = figure;
  figure.cursor.hidden = false;
  figure.cursor.style.left = 100 * share + "%";
  tip.hidden = false;
  const left = box.left + share * box.width + 12;
  const room = document.documentElement.clientWidth - tip.offsetWidth - 4;
  tip.style.left = Math.max(4, Math.min(left, room)) + "px";
  tip.style.top = Math.max(4, box.top - tip.offsetHeight - 4) + "px";
}

function hide(figure) {
  tip.hidden = true;
  if (figure.cursor) figure.cursor.hidden = true;
}

for (const figure of document.querySelectorAll("figure[data-panel]")) {
  figure.panel = JSON.parse(figure.dataset.panel);
  const plot = figure.querySelector(".plot");
  const point = (event) => {
    const box = plot.getBoundingClientRect();
    show(figure, (event.clientX - box.left) / box.width);
  };
  plot.addEventListener("pointermove", point);
  plot.addEventListener("pointerdown", point);
  plot.addEventListener("pointerleave", (event) => {
    if (event.pointerType === "mouse") hide(figure);
  });
  figure.addEventListener("blur", () => hide(figure));
  figure.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -0.02, ArrowRight: 0.02 }[event.key];
    if (event.key === "Escape") hide(figure);
    if (!by) return;
    event.preventDefault();
    show(figure, (figure.share ?? figure.panel.left) + by);
  });
}
addEventListener("scroll", () => { if (active) hide(active); }, { passive: true });
"""

# --------------------------------------------------------------------------------------------------
# Putting it together

def collect(cfg):
    """All that the report shows, as a dict."""
    out = Path(cfg.out)
    if not out.is_dir():
        raise FileNotFoundError(f"{out}: there is no such folder. Train something first: "
                                f"bash run.sh, or name another folder with --out")
    run = read_run(out)
    stages = run["stages"]
    notes = []
    for stage, logged in stages.items():
        if logged["done"]:
            try:
                newer = trained_anew(out, stage)
            except (ValueError, OSError, KeyError, TypeError, AttributeError):
                newer = ""
                notes.append(f"{stage}/meta.json cannot be read.")
            if newer:
                notes.append(f"{stage} was made before {newer} was trained again: it belongs to "
                             f"an older run.")
        elif logged["columns"]:
            notes.append(f"{stage} was interrupted or is still running: go on with --resume.")
    other = load_run(cfg.compare) if cfg.compare else choose_reference(run, REFERENCES)
    tok = load_tokenizer(out)
    rows = open_rows(out, tok, "sft_train", "midtrain_train", "distill_train")
    results = evaluations(out, stages)
    last = list(results.values())[-1] if results else {}
    info = read_json(out / "tokenizer/tokenizer.json", {})
    made = versions()
    return dict(
        name=cfg.out, run=run, other=other, asked_for_other=bool(cfg.compare), notes=notes,
        headline=headline(out), facts=machine_facts(out, stages),
        training=training_table(out, stages) if stages else None,
        seconds=stage_seconds(out), commands=commands(out, stages),
        comparison=comparison(run, other) if other else [],
        results=results, skills=skill_rows(results) if results else [],
        examples=first_examples(last), tok=tok,
        bytes_per_token={str(kind): n for kind, n in as_dict(info.get("bytes_per_token")).items()
                         if is_number(n)},
        longest=longest_tokens(out) if tok else [],
        conversations=conversations_in(rows, tok, 3) if rows else [],
        answers=ask_all_stages(out, stages, tok, cfg, notes),
        made=f"report.py of commit {made['commit'] or 'unknown'}")


def first_examples(tasks):
    """The first transcript of each task -> [(question, answer)]."""
    examples = []
    for result in tasks.values():
        for example in as_list(result.get("examples"))[:1]:
            if isinstance(example, list) and len(example) == 3:
                examples.append((str(example[0]), str(example[1])))
    return examples


def replace_file(path, text):
    """Write a file so that a reader sees the old text or the new one."""
    new = Path(path).with_name(Path(path).name + ".tmp")
    write_synced(new, lambda f: f.write(text.encode(errors="replace")))
    os.replace(new, path)


def main():
    cfg = parse_config(Config, __doc__)
    out = Path(cfg.out)
    report = collect(cfg)
    # Many stages and another run make many curves: fewer points then.
    for n_points in REPORT_POINTS, REPORT_POINTS // 2, REPORT_POINTS // 4:
        report["run"] = read_run(out, n_points)
        text = page(report)
        if len(text.encode()) <= MAX_BYTES:
            break
    replace_file(out / "report.html", text)
    replace_file(out / "report.md", markdown(report))
    if cfg.thin:
        # The name of a folder of this machine is no one else's business.
        thinned = dict(read_run(out, REFERENCE_POINTS), name=Path(cfg.thin).stem)
        Path(cfg.thin).parent.mkdir(parents=True, exist_ok=True)
        check_file(cfg.thin)
        replace_file(cfg.thin, json.dumps(thinned, separators=(",", ":")) + "\n")
    if not can_draw():
        print(f"note       {INSTALL}", file=sys.stderr)
    size = len(text.encode())
    if size > MAX_BYTES:
        print(f"note       {out}/report.html has {size:,} bytes", file=sys.stderr)
    print(f"done       {out}/report.html, {size // 1000} KB: open it in a browser. The tables are "
          f"in {out}/report.md too")


if __name__ == "__main__":
    run(main, less_memory="--answers")
