"""report.py: what is there is shown, what is missing is left out, and nothing becomes markup."""
import functools
import json
import math
import re
import shutil
import sys
import time
from html.parser import HTMLParser
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

import report
from common import STAGES, save_checkpoint
from machine import Env
from test_page import CHROMIUM, Browser
from toy import ROOT, chat, fails_with_one_line, run_script, tiny_model, write_tokenizer
from train import curves
from train.rows import pack_conversations

torch.set_num_threads(1)
ENV = Env(torch.device("cpu"), torch.float32)
# It would run, fetch or end something if it ever became markup.
EVIL = "</script></title>'\"><img src=x onerror=alert(1)><script>alert(2)</script>|`*&amp;"
NO_OPTIMIZER = SimpleNamespace(state_dict=dict)


def log_of(stage):
    """What a run of 300 steps would have logged."""
    rows = []
    for step in range(301):
        if step % 100 == 0:
            rows.append(dict(step=step, val_loss=3 - step / 200, val_bpb=4 - step / 150,
                             val_accuracy=step / 300, val_margin=step / 100))
            rows[-1].update({"val_pass@1": 0.25, "val_pass@8": 0.5})
        if step < 300:
            row = dict(step=step, loss=3 - step / 150, lr=1 - step / 300, grad_norm=0.5, ms=500.0,
                       tok_per_sec=16384.0)
            if stage == "dpo":
                row |= dict(accuracy=0.75, margin=step / 100, chosen=0.5, rejected=-0.5)
            if stage == "rl":
                row |= {"reward": 0.4, "pass@1": 0.3, "pass@16": 0.6, "tool": 0.9, "length": 55.0}
            rows.append(row)
    return rows


def evaluation(text="fine"):
    result = dict(items=200, accuracy=0.8, low=0.0, high=1.0, chance=0.25, ended=1.0,
                  examples=[["what is " + text, "it is\n```\n" + text, True]])
    tasks = {"arithmetic": result, "other_choices": result, text: result}
    return dict(checkpoint="x", step=300, tasks=tasks)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An out/ of all stages. Its texts try to become markup wherever a file or a model writes."""
    out = tmp_path_factory.mktemp("whole") / "out"
    tok = write_tokenizer(out)
    info = json.loads((out / "tokenizer/tokenizer.json").read_text())
    info |= dict(trained_on=dict(sources=[EVIL], characters=EVIL), bytes_per_token={EVIL: 2.5})
    (out / "tokenizer/tokenizer.json").write_text(json.dumps(info))
    model = tiny_model(vocab_size=265, seq_len=256)
    for stage in STAGES:
        settings = dict(rows_per_step=16, dtype="torch.float32")
        meta = dict(stage=stage, step=300, steps=300, tokenizer=tok.fingerprint, settings=settings,
                    config=dict(data=[]))
        save_checkpoint(out / stage, model, meta, log_of(stage), NO_OPTIMIZER, ENV)
        record = dict(command=f"python {stage}.py {EVIL}", started="2026-01-02T03:04:05+00:00",
                      processor=EVIL, cores=2, instructions="AVX2", peak_memory=1.5e9, ranks=1)
        (out / stage / "run.json").write_text(json.dumps(record))
        (out / stage / "evaluation.json").write_text(json.dumps(evaluation(EVIL)))
    for split, n in ("train", 40), ("val", 40):
        talks = [chat(f"{split} {i} {EVIL}", f"{i} {split} {EVIL}") for i in range(n)]
        pack_conversations(out / f"rows/sft_{split}.rows", lambda: talks, tok, 256, {}, ENV,
                           need_target=True)
    (out / "times.txt").write_text("pretrain 61\nsft 7\nsft 5\nnonsense\n")
    return out


@pytest.fixture(scope="module")
def made(whole):
    """The report of that out/ -> its page and its Markdown, as text."""
    html, md = write_report(whole, "--answers", 8, "--max_tokens", 8, "--device", "cpu",
                            "--dtype", "float32")
    return SimpleNamespace(html=html, md=md)


class Elements(HTMLParser):
    """The elements of a page as a browser would see them, and its text."""

    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data


def write_report(out, *flags):
    """Make the report of a folder in this process -> page, Markdown."""
    with pytest.MonkeyPatch.context() as patch:
        argv = ["report.py", "--out", str(out), "--answers", "0", *map(str, flags)]
        patch.setattr(sys, "argv", argv)
        report.main()
    return (out / "report.html").read_text(), (out / "report.md").read_text()


# ---- the whole page ----

def test_every_part_is_there(made):
    for title in ("What was trained", "Curves", "Skills", "The tokenizer", "What fine-tuning reads",
                  "The same held-out questions, answered by every stage"):
        assert f"<h2>{title}</h2>" in made.html
    titles = re.findall(r"<figcaption>([^<]*)", made.html)
    for part in ("over tokens", "over seconds", "Gradient norm", "Learning rate", "Tokens a second",
                 "margin", "ranked rightly", "rewards of both", "rl: reward", "solved by one",
                 "call the tool", "tokens of an answer", "In known wordings",
                 "In other people's words", *(f"{stage}: loss" for stage in STAGES)):
        assert sum(part.replace("'", "&#x27;") in title or part in title for title in titles) == 1
    page = Elements(made.html)
    assert sum(tag == "svg" for tag, _ in page.tags) == len(titles)
    answers = [tag for tag, _ in page.tags if tag == "dl"]
    assert len(answers) == 8
    # Every stage answers each of them, and the data's answer stands beside.
    assert made.html.count("<dt>") == 8 * (len(STAGES) + 1)
    assert len(re.findall("<p class=conversation>", made.html)) == 3
    for fact in "1.5 GB", "2026-01-02 03:04", "AVX2", "2 cores", torch.__version__:
        assert fact in made.html and fact in made.md
    assert made.html.isascii() is False and len(made.html.encode()) < report.MAX_BYTES
    assert "2.46" not in made.md and "| pretrain | 300 | 1.23 |" in made.md


def test_nothing_comes_from_elsewhere_and_no_text_becomes_markup(made, whole):
    page = Elements(made.html)
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"img", "iframe", "link", "object", "embed", "base", "form", "image", "audio"}
    scripts = [attributes for tag, attributes in page.tags if tag == "script"]
    assert scripts == [{"type": "application/json", "id": "run"}, {}]
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")]
        for name in "href", "src", "xlink:href":
            assert attributes.get(name, "#").startswith("#")
    assert "http" not in re.sub(r"&lt;.*?&gt;|http-equiv", "", made.html)
    # It is shown, all the same, as text.
    assert page.text.count("<img src=x onerror=alert(1)>") >= 8
    policy = [a["content"] for tag, a in page.tags if tag == "meta" and "content" in a][0]
    assert "default-src 'none'" in policy and "sha256-" in policy

    # The run within the page, for --compare, is whole.
    assert EVIL[:60] in curves.load_run(whole / "report.html")["skills"]["rl"]

    # Markdown: outside of the fences there is no markup, and no cell is ended by a text.
    # Up to three spaces before it, a fence is one all the same.
    outside = re.sub(r"^(`{3,})\n.*?^ {0,3}\1`*$", "", made.md, flags=re.S | re.M)
    assert "<img" not in outside and "<script" not in outside and "onerror" in outside
    for table in re.findall(r"(?:^\|.*\n)+", outside, re.M):
        cells = {len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}
        assert len(cells) == 1


def test_pictures_are_well_formed_and_coloured_by_the_style_sheet(made):
    for svg in re.findall(r"<svg.*?</svg>", made.html, re.S):
        xml = svg.replace("xlink:href", "href")
        ElementTree.fromstring(xml)
        # Black is what matplotlib would write by itself: it cannot be seen in the dark.
        assert not re.search(r"#[0-9a-f]{6}", re.sub(r"url\(#\w+\)|href=\"#\w+\"", "", svg))
    names = set(re.findall(r"var\(--([\w-]+)", made.html))
    for scheme in report.STYLE.split("@media screen and")[:2]:
        assert names - {"c"} <= set(re.findall(r"--([\w-]+):", scheme))


def test_the_policy_allows_this_page_s_script_alone(made):
    import base64
    import hashlib
    script = re.findall(r"<script>(.*?)</script>", made.html, re.S)
    assert len(script) == 1
    allowed = base64.b64encode(hashlib.sha256(script[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{allowed}'" in made.html


def test_the_pointer_finds_the_logged_values(made, whole):
    page = Elements(made.html)
    panels = [json.loads(a["data-panel"]) for tag, a in page.tags if "data-panel" in a]
    over_tokens = panels[0]
    (label, _, xs, ys), = over_tokens["lines"]
    assert ys == [4, 3.333, 2.667, 2]
    assert xs == [step * 16 * 256 for step in (0, 100, 200, 300)]
    (_, _, seconds, _), = panels[1]["lines"]
    assert seconds == [0, 50, 100, 150]
    chain = [panel for panel in panels if panel["kind"] == "chain"]
    assert len(chain) == 3 and all(panel["segments"] == [[stage, 300] for stage in STAGES]
                                   for panel in chain)
    for at, (_, color, xs, _) in enumerate(chain[0]["lines"]):
        assert color == STAGES[at] and at <= xs[0] < xs[-1] <= at + 1


# ---- in a browser ----

@pytest.fixture(scope="module")
def tab(made, whole, tmp_path_factory):
    """tab(width, scheme, media) opens the page -> js, which runs JavaScript on it, and call."""
    browser = Browser(tmp_path_factory.mktemp("profile"))
    target = browser.call("Target.createTarget", url="about:blank")["targetId"]
    session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
    call = functools.partial(browser.call, session=session)

    def js(code):
        result = call("Runtime.evaluate", expression=code, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def open_page(width, scheme="light", media="screen"):
        call("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1,
             mobile=width < 500)
        call("Emulation.setEmulatedMedia", media=media,
             features=[dict(name="prefers-color-scheme", value=scheme)])
        call("Page.navigate", url=f"file://{whole}/report.html")
        end = time.monotonic() + 60
        while not js("document.readyState === 'complete' && !!document.querySelector('footer')"):
            assert time.monotonic() < end
            time.sleep(0.05)
        return js

    open_page.call = call
    yield open_page
    browser.close()


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason="no Chromium")
def test_the_page_fits_a_phone_a_desk_and_paper_in_light_and_dark(tab):
    for width, media in (375, "screen"), (1200, "screen"), (794, "print"):
        js = tab(width, media=media)
        # The scrollbar takes some of the width; tables and commands scroll by themselves.
        assert js("document.documentElement.scrollWidth") <= width
        outside = ("[...document.querySelectorAll('main *')].filter(e => "
                   "!e.closest('.scroll, pre, dd') && e.getBoundingClientRect().right > "
                   "innerWidth + 1).map(e => e.outerHTML.slice(0, 80))")
        assert js(outside) == []
    color = "getComputedStyle(document.body).backgroundColor"
    assert tab(1200, "light")(color) == "rgb(255, 255, 255)"
    assert tab(1200, "dark")(color) == "rgb(23, 24, 26)"
    # On paper it is always light.
    assert tab(794, "dark", "print")(color) == "rgb(255, 255, 255)"


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason="no Chromium")
def test_values_stand_under_the_pointer_and_the_arrow_keys(tab):
    js = tab(375)
    # What a text brought as a script would have opened a dialog, and stopped everything.
    assert js("document.querySelectorAll('img').length") == 0
    js("window.scrollTo(0, document.querySelector('figure[data-panel]').offsetTop - 200)")
    box = js("(() => { const r = document.querySelector('.plot').getBoundingClientRect();"
             "return [r.left, r.top, r.width, r.height] })()")

    def point(share):
        tab.call("Input.dispatchMouseEvent", type="mouseMoved", x=box[0] + share * box[2],
                 y=box[1] + box[3] / 2)
        return js("document.querySelector('#tip').innerText")

    # Scrolling hides it: wait until that is over.
    time.sleep(0.3)
    assert "held-out 4" in point(0.17)
    assert re.search(r"tokens 1,2\d\d,\d\d\d", point(0.96)) and "held-out 2" in point(0.96)
    js("document.querySelector('figure[data-panel]').focus()")
    tip = js("document.querySelector('#tip').innerText")
    for _ in range(3):
        tab.call("Input.dispatchKeyEvent", type="keyDown", key="ArrowLeft",
                 windowsVirtualKeyCode=37)
    assert js("document.querySelector('#tip').innerText") != tip
    assert js("document.querySelector('#tip').hidden") is False


# ---- parts of it ----

def test_thinning_keeps_the_ends_and_the_mean():
    steps = list(range(1000))
    values = [math.sin(step) for step in steps]
    xs, ys = curves.thin(steps, values, 50)
    assert len(xs) == len(ys) == 50 and sorted(xs) == xs
    assert (xs[0], ys[0], xs[-1], ys[-1]) == (0, values[0], 999, values[-1])
    assert np.mean(ys[1:-1]) == pytest.approx(np.mean(values[1:-1]), abs=1e-3)
    assert curves.thin(steps[:50], values[:50], 50) == [steps[:50], values[:50]]


def test_bars_have_wilson_s_interval_and_the_chance():
    rows = report.skill_bars({"sft": {"arithmetic": dict(items=10, accuracy=0.0, chance=0.25)}})
    assert [title for title, _ in rows] == ["In known wordings"]
    (label, bars), = rows[0][1]
    # Wilson 1927: no success in 10 trials.
    assert label == "arithmetic" and bars["sft"]["high"] == pytest.approx(0.2775, abs=1e-4)
    assert "chance 25.0 %" in bars["sft"]["title"] and "of 10" in bars["sft"]["title"]
    svg, titles = curves.draw_bars(rows[0][1], ["sft"], "x")
    assert list(titles.values()) == [bars["sft"]["title"]]
    assert "var(--chance)" in svg and "var(--sft)" in svg


def test_the_table_gives_each_skill_with_known_and_with_other_wordings():
    def result(items, accuracy, refused):
        return dict(items=items, accuracy=accuracy, refused=refused, ended=1.0)

    sft = {"mmlu": dict(items=9, accuracy=0.25), "arithmetic": result(100, 0.9, 0.0),
           "spelling_bee": result(50, 0.8, 0.1), "other_arithmetic": result(60, 0.5, 0.2),
           "identity": dict(items=10, accuracy=0.7, ended=0.5),
           "other_choices": result(20, 0.4, 0.0)}
    dpo = {name: dict(r, accuracy=1.0) for name, r in sft.items()}
    assert report.skill_rows({"sft": sft, "dpo": dpo}) == [
        ["counting", "known", 50, "80.0 %", "100.0 %"],
        ["arithmetic", "known", 100, "90.0 %", "100.0 %"],
        ["arithmetic", "other", 60, "50.0 %", "100.0 %"],
        ["multiple choice", "other", 20, "40.0 %", "100.0 %"],
        ["identity", "known", 10, "70.0 %", "100.0 %"],
        ["mmlu", "", 9, "25.0 %", "100.0 %"],
        ["skills refused", "known", 150, "3.3 %", "3.3 %"],
        ["skills refused", "other", 80, "15.0 %", "15.0 %"],
        ["answers that ended by themselves", "known", 160, "96.9 %", "96.9 %"],
        ["answers that ended by themselves", "other", 80, "100.0 %", "100.0 %"]]
    core = {"core:x": dict(items=5, accuracy=0.2)}
    assert report.skill_rows({"pretrain": core, "sft": sft})[-1][3:] == ["", "100.0 %"]


def test_what_is_marked_is_what_the_model_learns(whole):
    tok = report.load_tokenizer(whole)
    rows = report.open_rows(whole, tok, "sft_train")
    found = report.conversations_in(rows, tok, 3)
    assert len(found) == 3
    for ids, mask in found:
        learned = tok.decode([id for id, m in zip(ids, mask) if m])
        whole_text = tok.decode(ids)
        # The answer and the token that ends it.
        assert whole_text.endswith("<|assistant_start|>" + learned)
        assert learned.endswith("<|assistant_end|>")
        page = Elements(report.conversation_html(tok, ids, mask))
        assert page.text == whole_text
        marked = "".join(re.findall(r'<span class="learn[^"]*">(.*?)</span>',
                                    report.conversation_html(tok, ids, mask), re.S))
        assert Elements(marked).text == learned


def test_stages_are_asked_once_and_again_after_they_change(whole, made, tmp_path, monkeypatch):
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    cfg = report.Config(out=str(out), max_tokens=8, device="cpu", dtype="float32")
    tok = report.load_tokenizer(out)
    stages = curves.read_run(out)["stages"]
    notes = []
    first = report.ask_all_stages(out, stages, tok, cfg, notes)
    assert len(first) == 8 and list(first[0][2]) == STAGES and notes == []
    loaded = []
    load = report.load_checkpoint
    monkeypatch.setattr(report, "load_checkpoint",
                        lambda path, device: loaded.append(path.name) or load(path, device))
    assert report.ask_all_stages(out, stages, tok, cfg, notes) == first and loaded == []
    meta = json.loads((out / "dpo/meta.json").read_text())
    (out / "dpo/meta.json").write_text(json.dumps(dict(meta, seed=1)))
    (out / "rl/answers.json").write_text('{"key": 1')
    assert report.ask_all_stages(out, stages, tok, cfg, notes) == first
    assert loaded == ["dpo", "rl"]
    (out / "sft/model.pt").write_bytes(b"torn")
    (out / "sft/answers.json").unlink()
    assert list(report.ask_all_stages(out, stages, tok, cfg, notes)[0][2]) == \
        [stage for stage in STAGES if stage != "sft"]
    assert len(notes) == 1 and "sft could not be asked" in notes[0]


# ---- less than everything ----

def test_an_empty_folder_gives_a_short_report(tmp_path):
    page, md = write_report(tmp_path)
    assert "bash run.sh" in page and "bash run.sh" in md
    assert [tag for tag, _ in Elements(page).tags].count("section") == 0


def spoil(out, how):
    """Make one thing of an out/ missing, old or broken."""
    if how == "no tokenizer":
        shutil.rmtree(out / "tokenizer")
    elif how == "torn tokenizer":
        (out / "tokenizer/merges.tiktoken").write_bytes(b"x")
    elif how == "no rows":
        shutil.rmtree(out / "rows")
    elif how == "torn rows":
        for path in (out / "rows").iterdir():
            path.write_bytes(path.read_bytes()[:3000])
    elif how == "interrupted":
        (out / "sft").rename(out / "sft.part")
        (out / "sft.part/run.json").unlink()
    elif how == "only pretrain":
        for stage in STAGES[1:]:
            shutil.rmtree(out / stage)
    elif how == "old":
        for stage in STAGES:
            for name in "run.json", "evaluation.json":
                (out / stage / name).unlink()
            meta = json.loads((out / stage / "meta.json").read_text())
            for key in "settings", "config", "versions", "steps":
                meta.pop(key, None)
            (out / stage / "meta.json").write_text(json.dumps(meta))
    elif how == "torn files":
        for stage in STAGES:
            for path in (out / stage).glob("*.json*"):
                path.write_bytes(path.read_bytes()[:-40] + b"\xff\x00")
    elif how == "other types":
        rows = ['[1, 2]', '"x"', '{"step": "a"}', '{"step": 1, "loss": "a", "lr": true}', "",
                '{"step": 2, "loss": NaN}', '{"step": 3, "loss": Infinity, "ms": -Infinity}',
                '{"step": 4, "loss": 1e400}', '{"step": NaN, "loss": 1}', '{"val_bpb": [1]}']
        for stage in STAGES:
            (out / stage / "metrics.jsonl").write_text("\n".join(rows))
            (out / stage / "run.json").write_text('{"command": {}, "peak_memory": "x", "gpu": []}')
            (out / stage / "evaluation.json").write_text(
                '{"step": [], "core": 3, "tasks": {"arithmetic": 3, "x": {"accuracy": "y"}, '
                '"identity": {"items": 3, "accuracy": 7, "chance": "x", "examples": [1, [2]]}}}')
            meta = json.loads((out / stage / "meta.json").read_text())
            (out / stage / "meta.json").write_text(json.dumps(
                dict(meta, settings=[], config=3, versions="x", model=None, step="x")))
    elif how == "no metrics":
        for stage in STAGES:
            (out / stage / "metrics.jsonl").unlink()
    elif how == "one step":
        for stage in STAGES:
            (out / stage / "metrics.jsonl").write_text('{"step": 0, "loss": 0, "grad_norm": 0}\n')


@pytest.mark.parametrize("how", ["no tokenizer", "torn tokenizer", "no rows", "torn rows",
                                 "interrupted", "only pretrain", "old", "torn files",
                                 "other types", "no metrics", "one step"])
def test_missing_pieces_give_a_shorter_report(whole, tmp_path, how):
    out = tmp_path / "out"
    shutil.copytree(whole, out, ignore=shutil.ignore_patterns("report.*", "*.pt"))
    spoil(out, how)
    page, md = write_report(out)
    assert page.endswith("</html>\n") and md.strip()
    Elements(page)
    if how == "interrupted":
        assert "sft was interrupted" in page and "sft was interrupted" in md
    if how == "only pretrain":
        assert "midtrain: loss" not in page and "pretrain: loss" in page


def test_without_matplotlib_there_are_tables_and_what_to_install(whole, tmp_path, monkeypatch):
    out = tmp_path / "out"
    shutil.copytree(whole, out, ignore=shutil.ignore_patterns("*.pt"))
    for module in "report", "train.curves":
        monkeypatch.setattr(f"{module}.can_draw", lambda: False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    page, md = write_report(out)
    assert "<svg" not in page and "&#x27;.[report]&#x27;" in page
    assert "<h2>Skills</h2>" in page and "80.0 %" in page and "80.0 %" in md


def test_a_folder_that_is_not_there_is_one_line(tmp_path):
    result = run_script("report.py", "--out", tmp_path / "no", log=tmp_path / "log")
    fails_with_one_line(result, tmp_path / "no", "bash run.sh")


# ---- another run behind it ----

def test_another_run_comes_from_a_folder_a_report_or_a_thinned_file(whole, made, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(whole, out, ignore=shutil.ignore_patterns("*.pt"))
    thinned = tmp_path / "new/demo.json"
    write_report(out, "--thin", thinned)
    assert thinned.stat().st_size < 25_000 and str(tmp_path) not in thinned.read_text()
    for other in whole, whole / "report.html", thinned:
        page, md = write_report(out, "--compare", other)
        assert "held-out (compared)" in page and "var(--other)" in page
        assert "| pretrain, bits per byte | 2.000 | 2.000 |" in md
    page, md = write_report(out)
    assert "(compared)" not in page.split("<script>")[0]


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"stages": 3}', "<html>", "[" * 100_000])
def test_what_holds_no_run_is_named(whole, tmp_path, text):
    other = tmp_path / "other.html"
    other.write_text(text)
    with pytest.raises(ValueError, match="other.html holds no run"):
        curves.load_run(other)


def test_a_report_of_somebody_else_cannot_bring_markup(whole, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(whole, out, ignore=shutil.ignore_patterns("*.pt"))
    run = dict(name=EVIL, shape={EVIL: 1}, dtype=EVIL, stages={
        EVIL: {}, "pretrain": dict(step=EVIL, steps=3, columns={
            EVIL: [[1], [2]], "val_bpb": [[0, EVIL, 2], [3, 4, 5]], "loss": [[0], [EVIL]]})})
    other = tmp_path / "x.html"
    other.write_text(f'<script type="application/json" id="run">{json.dumps(run)}</script>'
                     .replace("</script></title>", "<\\/script></title>"))
    try:
        page, md = write_report(out, "--compare", other)
    except ValueError:
        # Its own markup ends the JSON early: refused.
        return
    assert len([1 for tag, _ in Elements(page).tags if tag in ("script", "img")]) == 2


def test_only_a_run_of_the_same_shape_on_the_demo_s_data_is_a_reference(tmp_path):
    shape = dict(vocab_size=1536, seq_len=512, n_layer=4, n_embd=256)
    for name, changed, dtype in (("a", {}, "float32"), ("b", {}, "bfloat16"),
                                 ("c", dict(n_layer=6), "bfloat16")):
        run = dict(shape=shape | changed, dtype=dtype, stages={})
        (tmp_path / f"{name}.json").write_text(json.dumps(run))
    (tmp_path / "torn.json").write_text("{")
    choose = lambda **run: curves.choose_reference(
        dict(dict(shape=shape, dtype="bfloat16", own_data=False), **run), tmp_path)
    assert choose()["name"] == "b" and choose(dtype="float32")["name"] == "a"
    assert choose(dtype="float16")["name"] == "a"
    assert choose(own_data=True) is None and choose(shape={}) is None
    assert choose(shape=shape | dict(n_layer=8)) is None


def test_the_references_are_small_and_can_be_read():
    for path in curves.Path(ROOT, "dev/reference").glob("*.json"):
        assert path.stat().st_size < 25_000
        run = curves.load_run(path)
        assert run["stages"]["pretrain"]["columns"]["val_bpb"][1][-1] < 4
        # Nothing of the machine that it ran on.
        assert "/" not in path.read_text()
