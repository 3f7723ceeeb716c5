"""
What a run has logged, thinned, and its curves as vector graphics: what report.py shows of training.

A run here is plain data, so that it fits into a report and into dev/reference/:

    {"name": "out", "shape": {"n_layer": 4, ...}, "dtype": "bfloat16", "own_data": False,
     "stages": {"pretrain": {"step": 302, "steps": 302, "tokens_per_step": 8192, "done": True,
                             "columns": {"loss": [steps, values], "val_bpb": ..., ...}}, ...},
     "skills": {"sft": {"arithmetic": {"items", "accuracy", "low", "high", "chance"}, ...}, ...}}

The drawing is matplotlib's, an optional package, which is imported only where something is drawn.
"""
import importlib.util
import io
import json
import math
import re
from pathlib import Path

import numpy as np

from common import STAGES

# Points of a curve in a report, and in a file of dev/reference/.
REPORT_POINTS, REFERENCE_POINTS = 120, 40
# What is kept of a run: numbers under these names.
COLUMN = re.compile(r"(val_)?(loss|bpb|lr|grad_norm|tok_per_sec|seconds|accuracy|margin|chosen|"
                    r"rejected|reward|pass@\d{1,4}|tool|length|ended|mixed|entropy)")
SKILL_KEYS = ("items", "accuracy", "low", "high", "chance")
SHAPE_KEYS = ("vocab_size", "seq_len", "n_layer", "n_embd")
# Where a report keeps its own run, for --compare.
IN_PAGE = re.compile(r'<script type="application/json" id="run">(.*?)</script>', re.S)

# --------------------------------------------------------------------------------------------------
# Reading: files that are missing, torn or from an older version give less, never an error

def read_json(path, default):
    """The value in a JSON file; `default` if there is none of the same type."""
    try:
        value = json.loads(Path(path).read_text(errors="replace"))
    except (OSError, ValueError, RecursionError):
        return default
    return value if isinstance(value, type(default)) else default


def read_metrics(path):
    """The rows of a metrics.jsonl that can be read, each a dict with a step."""
    try:
        lines = Path(path).read_text(errors="replace").splitlines()
    except OSError:
        return []
    rows = []
    for line in lines:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict) and is_number(row.get("step")):
            rows.append(row)
    return rows


def is_number(value):
    return type(value) in (int, float) and math.isfinite(value)


def stage_folder(out, stage):
    """The folder of a stage's checkpoint, or of its interrupted run; None if there is neither."""
    for folder in Path(out, stage), Path(out, stage + ".part"):
        if (folder / "meta.json").exists() or (folder / "metrics.jsonl").exists():
            return folder
    return None


def read_run(out, n_points=REPORT_POINTS):
    """What the stages in out/ have logged and what evaluate.py has found, as a run."""
    run = dict(name=str(out), stages={}, skills={})
    for stage in STAGES:
        folder = stage_folder(out, stage)
        if folder is None:
            continue
        meta = read_json(folder / "meta.json", {})
        settings = as_dict(meta.get("settings"))
        shape = as_dict(meta.get("model"))
        rows = settings.get("rows_per_step")
        # Rows of conversations can be shorter than those of pretraining.
        seq_len = settings.get("row_length") or shape.get("seq_len")
        in_step = rows * seq_len if is_number(rows) and is_number(seq_len) else 0
        run["stages"][stage] = dict(
            step=meta.get("step"), steps=meta.get("steps"), tokens_per_step=in_step,
            done=folder.name == stage,
            columns=columns_of(read_metrics(folder / "metrics.jsonl"), n_points))
        run.setdefault("shape", {key: shape.get(key) for key in SHAPE_KEYS})
        run.setdefault("dtype", str(settings.get("dtype", "")).removeprefix("torch."))
        run.setdefault("own_data", bool(as_dict(meta.get("config")).get("data")))
        run["skills"][stage] = read_json(folder / "evaluation.json", {}).get("tasks")
    return clean_run(run)


def as_dict(value):
    return value if isinstance(value, dict) else {}


def columns_of(rows, n_points):
    """Rows of metrics.jsonl -> {name: [steps, values]}, thinned.

    "seconds" is added: the time that training had taken when a step began, without evaluations.
    """
    columns = {}
    clock = 0.0
    seconds = [[0], [0.0]]
    for row in rows:
        for name, value in row.items():
            if COLUMN.fullmatch(name) and is_number(value):
                steps, values = columns.setdefault(name, [[], []])
                steps.append(row["step"])
                values.append(value)
        if is_number(row.get("ms")):
            clock += row["ms"] / 1000
            seconds[0].append(row["step"] + 1)
            seconds[1].append(clock)
    thinned = {name: thin(*column, n_points) for name, column in columns.items()}
    if clock:
        # Not the mean of some steps, so that the last one stands for the whole stage.
        chosen = np.unique(np.linspace(0, len(seconds[0]) - 1, n_points).astype(int))
        thinned["seconds"] = [[row[i] for i in chosen] for row in seconds]
    return thinned


def thin(steps, values, n_points):
    """At most n_points points, each the mean of some neighbours; the first and last stay."""
    if len(steps) <= n_points:
        return [steps, values]
    groups = np.array_split(np.arange(1, len(steps) - 1), n_points - 2)
    mean = lambda numbers: [numbers[0], *(float(np.mean(np.take(numbers, group)))
                                          for group in groups), numbers[-1]]
    return [mean(steps), mean(values)]


def rounded(number, digits=4):
    """0.123456 -> 0.1235, 8192.0 -> 8192"""
    number = float(f"{number:.{digits}g}")
    return int(number) if number.is_integer() and abs(number) < 1e15 else number


def load_run(path):
    """The run in an out/ folder, in a report.html, or in a JSON file as dev/reference/ has them.

    ValueError or FileNotFoundError if there is none.
    """
    path = Path(path)
    if path.is_dir():
        run = read_run(path)
        if not run["stages"]:
            raise ValueError(f"{path} holds no stage to compare with: give another out/ folder or "
                             f"a report.html")
        return run
    text = path.read_text(errors="replace")
    found = IN_PAGE.search(text)
    try:
        run = json.loads(found[1] if found else text)
    except (ValueError, RecursionError):
        run = None
    if not isinstance(run, dict) or not isinstance(run.get("stages"), dict):
        raise ValueError(f"{path} holds no run to compare with: give another out/ folder, a "
                         f"report.html, or a file of dev/reference/")
    run = clean_run(run)
    # Files of dev/reference/ are known by their names.
    return dict(run, name=path.stem if path.suffix == ".json" else str(path))


def clean_run(run):
    """A run of which only known names and finite numbers are left, whoever wrote it."""
    shape = {key: value for key, value in as_dict(run.get("shape")).items()
             if key in SHAPE_KEYS and is_number(value)}
    clean = dict(name=str(run.get("name", "")), shape=shape, dtype=str(run.get("dtype", "")),
                 own_data=bool(run.get("own_data")), stages={}, skills={})
    for stage in STAGES:
        logged = as_dict(as_dict(run["stages"]).get(stage))
        columns = {}
        for name, column in as_dict(logged.get("columns")).items():
            if COLUMN.fullmatch(name) and isinstance(column, list) and len(column) == 2:
                pairs = [(x, y) for x, y in zip(*map(as_list, column))
                         if is_number(x) and is_number(y)]
                digits = 6 if name == "seconds" else 4
                if pairs:
                    columns[name] = [[rounded(x, 6) for x, _ in pairs],
                                     [rounded(y, digits) for _, y in pairs]]
        if stage in as_dict(run["stages"]):
            count = {key: logged[key] if is_number(logged.get(key)) else 0
                     for key in ("step", "steps", "tokens_per_step")}
            clean["stages"][stage] = dict(count, done=bool(logged.get("done")), columns=columns)
        skills = {}
        for task, result in as_dict(as_dict(run.get("skills")).get(stage)).items():
            kept = {key: rounded(value) for key, value in as_dict(result).items()
                    if key in SKILL_KEYS and is_number(value)}
            if kept.get("items", 0) > 0 and 0 <= kept.get("accuracy", -1) <= 1:
                skills[str(task)[:60]] = kept
        if skills:
            clean["skills"][stage] = skills
    return clean


def as_list(value):
    return value if isinstance(value, list) else []


def choose_reference(run, folder):
    """The run in dev/reference/ to draw behind this one, None if no one is like it.

    Its model has the same shape, and its data are the demo's. One with the same dtype, that is of
    the same kind of machine, goes first.
    """
    candidates = []
    if run["own_data"] or not run["shape"]:
        return None
    for path in sorted(Path(folder).glob("*.json")):
        try:
            reference = load_run(path)
        except (ValueError, OSError):
            continue
        if reference["shape"] == run["shape"]:
            candidates.append(reference)
    return min(candidates, key=lambda other: other["dtype"] != run["dtype"], default=None)

# --------------------------------------------------------------------------------------------------
# Panels: one idea each, as plain data

def points(run, stage, name, x="step"):
    """The points (xs, ys) of one curve, ([], []) if it was not logged.

    x: "step"; "tokens" and "seconds" since the stage began; or "chain", where every stage takes
    the width 1 whatever its length, from its place among STAGES that this run has.
    """
    logged = run["stages"].get(stage, {})
    steps, values = logged.get("columns", {}).get(name, ([], []))
    if x == "tokens":
        return [step * logged["tokens_per_step"] for step in steps], values
    if x == "seconds":
        known = logged["columns"].get("seconds") if steps else None
        return ([rounded(t, 6) for t in np.interp(steps, *known)], values) if known else ([], [])
    return steps, values


def line(run, other, stage, name, label, x="step", dash=False, color=None):
    """The curve of the run, and of the other one behind it, as a list of lines."""
    lines = []
    for source, is_other in (run, False), (other, True):
        xs, ys = points(source, stage, name, x) if source else ([], [])
        if xs:
            lines.append(dict(label=label, x=xs, y=ys, dash=dash, other=is_other,
                              color="other" if is_other else color or stage))
    return lines


def run_panels(run, other=None):
    """All panels of a run, each a dict with title, x, unit, lines and, for "chain", segments."""
    panels = []

    def add(title, lines, x="step", **more):
        if any(not one["other"] for one in lines):
            panels.append(dict(title=title, x=x, lines=lines, **more))

    def both(stage, name, label="", color=None):
        color = color or stage
        return (line(run, other, stage, name, f"{label} training".strip(), color=color)
                + line(run, other, stage, "val_" + name, f"{label} held-out".strip(), dash=True,
                       color=color))

    for x in "tokens", "seconds":
        add(f"Bits per byte of held-out text, over {x}",
            line(run, other, "pretrain", "val_bpb", "held-out", x, dash=True), x)
    for stage in run["stages"]:
        add(f"{stage}: loss", both(stage, "loss"), note="nats a pair" if stage == "dpo" else "")
    for name, title, log in (("grad_norm", "Gradient norm", True),
                             ("lr", "Learning rate, share of its peak", False),
                             ("tok_per_sec", "Tokens a second", False)):
        lines, segments = chain_lines(run, other, name)
        add(title, lines, "chain", segments=segments, log=log)
    add("dpo: margin of the rewards", both("dpo", "margin"))
    add("dpo: pairs ranked rightly", both("dpo", "accuracy"))
    add("dpo: rewards of both answers",
        both("dpo", "chosen", "chosen", "good") + both("dpo", "rejected", "rejected", "bad"))
    add("rl: reward", both("rl", "reward"))
    logged = run["stages"].get("rl", {}).get("columns", {})
    groups = sorted({name.removeprefix("val_") for name in logged
                     if "pass@" in name and not name.endswith("@1")})
    passes = both("rl", "pass@1", "pass@1")
    for name in groups:
        passes += both("rl", name, name, "pretrain")
    add("rl: prompts solved by one answer, by one of a group", passes)
    add("rl: answers that call the tool", both("rl", "tool"))
    add("rl: tokens of an answer", both("rl", "length"))
    return panels


def chain_lines(run, other, name):
    """The curves of one name in all stages, one behind the other -> lines, [(stage, steps)]."""
    stages = [stage for stage in run["stages"] if points(run, stage, name)[0]]
    lines = []
    segments = []
    for at, stage in enumerate(stages):
        segments.append((stage, length(run, stage)))
        of_stage = line(run, other, stage, name, stage)
        for one in of_stage:
            n_steps = length(other if one["other"] else run, stage)
            lines.append(dict(one, x=[rounded(at + step / n_steps, 5) for step in one["x"]]))
    return lines, segments


def length(run, stage):
    """The steps of a stage, at least 1, and at least those that were logged."""
    logged = run["stages"][stage]
    last = max(column[0][-1] for column in logged["columns"].values())
    return max(1, logged["steps"], last)

# --------------------------------------------------------------------------------------------------
# Drawing

# Every colour is a name of the page's style sheet, since it differs between light and dark.
# matplotlib only knows numbers: these stand in for the names until the picture is done.
COLORS = {name: f"#0123{i:02x}" for i, name in
          enumerate(["ink", "faint", "other", "good", "bad", "chance", *STAGES])}
UNITS = {"step": "step", "tokens": "tokens", "seconds": "seconds of training", "chain": ""}


def can_draw():
    return importlib.util.find_spec("matplotlib") is not None


def new_figure(width, height):
    """-> a figure and its axes in the report's style. width, height: in inches."""
    from matplotlib.figure import Figure
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((0.15, 0.16, 0.82, 0.79))
    for side in "top", "right":
        axes.spines[side].set_visible(False)
    for side in "left", "bottom":
        axes.spines[side].set_color(COLORS["faint"])
    axes.tick_params(colors=COLORS["ink"], color=COLORS["faint"], labelsize=7.5, length=2.5)
    axes.grid(color=COLORS["faint"], linewidth=0.4, alpha=0.5)
    axes.patch.set_visible(False)
    figure.patch.set_visible(False)
    axes.set_axisbelow(True)
    return figure, axes


def to_svg(figure, name):
    """The figure as an SVG element for the page. name: tells its ids from those of other figures.

    Text stays text, in the page's font; colours become the page's.
    """
    from matplotlib import rc_context
    buffer = io.StringIO()
    # The salt makes the ids the same in every run.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "text.parse_math": False}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg"):]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.S)
    svg = re.sub(r'<g id="(?!bar_)[^"]*"', "<g", svg)
    svg = re.sub(r"(font: [\d.]+px )[^;\"]*", r"\1system-ui, sans-serif", svg)
    # A page needs no names of XML's, and the style sheet says how wide it is.
    view = re.search(r'viewBox="[^"]*"', svg)[0]
    svg = re.sub(r"<svg[^>]*>", f"<svg {view}>", svg, count=1)
    svg = re.sub(r"(\d\.\d\d)\d+", r"\1", svg)
    svg = re.sub(r"\n\s*", " ", svg).strip()
    for color, number in COLORS.items():
        svg = svg.replace(number, f"var(--{color})")
    return svg


def draw_panel(panel, name):
    """A panel of run_panels -> its SVG, and where its axes lie: what the pointer needs.

    The place is a dict of left, right (shares of the picture's width) and x0, x1 (values there).
    """
    from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, MaxNLocator
    figure, axes = new_figure(3.6, 2.3)
    # The other run lies behind.
    for one in sorted(panel["lines"], key=lambda one: not one["other"]):
        axes.plot(one["x"], one["y"], color=COLORS[one["color"]],
                  linewidth=1.1 if one["other"] else 1.5,
                  linestyle=(0, (4, 2)) if one["dash"] else "-",
                  marker="o" if len(one["x"]) < 12 else "", markersize=2.5)
    if panel.get("log") and all(y > 0 for one in panel["lines"] for y in one["y"]):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=8))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, at: f"{y:g}"))
        axes.minorticks_off()
    axes.margins(x=0.02)
    if panel["x"] == "chain":
        names = [stage for stage, _ in panel["segments"]]
        axes.set_xlim(0, len(names))
        axes.set_xticks(np.arange(len(names)) + 0.5, names)
        axes.tick_params(axis="x", length=0)
        axes.grid(visible=False, axis="x")
        for at in range(1, len(names)):
            axes.axvline(at, color=COLORS["faint"], linewidth=0.4, alpha=0.5)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.set_xlabel(UNITS[panel["x"]], fontsize=7.5, color=COLORS["ink"], labelpad=2)
    if not panel.get("log"):
        axes.yaxis.set_major_locator(MaxNLocator(5))
        most = max(abs(y) for one in panel["lines"] for y in one["y"])
        if most >= 10_000:
            axes.yaxis.set_major_formatter(EngFormatter(sep=""))
    x0, x1 = axes.get_xlim()
    svg = to_svg(figure, name)
    return svg, dict(left=0.15, right=0.97, x0=x0, x1=x1)


def draw_bars(rows, stages, name):
    """Bars with intervals: for each row one bar a stage. The chance of guessing is a line.

    rows: [(label, {stage: result})], a result with accuracy, low, high, chance, and title, which
    the pointer shows.
    """
    n_bars = max(1, sum(len(results) for _, results in rows))
    height = 0.35 + 0.17 * n_bars + 0.12 * len(rows)
    figure, axes = new_figure(3.6, height)
    axes.set_position((0.3, 0.22 / height, 0.66, 1 - 0.27 / height))
    titles = {}
    at = 0.0
    ticks = []
    for label, results in rows:
        first = at
        for stage in stages:
            if stage not in results:
                continue
            r = results[stage]
            bar = axes.barh(at, 100 * r["accuracy"], 0.85, color=COLORS[stage])[0]
            bar.set_gid(f"bar_{name}_{len(titles)}")
            titles[bar.get_gid()] = r["title"]
            axes.plot([100 * r["low"], 100 * r["high"]], [at, at], color=COLORS["ink"],
                      linewidth=1, marker="|", markersize=3)
            if r["chance"]:
                axes.plot([100 * r["chance"]] * 2, [at - 0.45, at + 0.45],
                          color=COLORS["chance"], linewidth=1.5, linestyle=(0, (1, 1)))
            at += 1
        ticks.append(((first + at - 1) / 2, label))
        at += 0.7
    axes.set_yticks([y for y, _ in ticks], [label for _, label in ticks])
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.set_ylim(at - 0.7 + 0.1, -0.8)
    axes.set_xlim(0, 100)
    axes.set_xticks([0, 25, 50, 75, 100], ["0", "25", "50", "75 %", "100"])
    return to_svg(figure, name), titles
