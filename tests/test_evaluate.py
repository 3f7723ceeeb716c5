"""evaluate.py: scores by hand, options against each alone, answers, ranks, the report."""
import functools
import itertools
import json
import math
import os
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import evaluate
from common import GPT, save_checkpoint
from data.mixtures import open_source
from data.published.core_tasks import TASKS, CoreTask
from downloads import write_downloads
from evaluate import (
    core_question,
    describe,
    evaluate_answers,
    evaluate_choices,
    evaluate_stage,
    gather,
    letter_question,
    mean_centred,
    open_task,
    pass_at_k,
    task_names,
    task_result,
    wilson,
)
from machine import Env
from pretrain import model_config
from talk.options import tree_row
from test_options import score_alone
from toy import ROOT, chat, fails_with_one_line, run_script, write_tokenizer
from train.rows import pack_documents

ENV = Env(torch.device("cpu"), torch.float32)
torch.set_num_threads(1)


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    return write_downloads(tmp_path_factory.mktemp("downloads"))


@pytest.fixture(scope="module")
def tok(tmp_path_factory):
    return write_tokenizer(tmp_path_factory.mktemp("tok"))


def random_model(vocab_size=265, seq_len=256, seed=0):
    """Two layers whose every weight matters."""
    model = GPT(model_config(2, vocab_size, seq_len))
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            std = p.size(1) ** -0.5
            if p is model.head:
                std *= 3
            p.copy_(torch.randn(p.shape, generator=rng) * std)
    return model.eval()


# ---- scores ----

def test_wilson_interval():
    assert wilson(0, 10) == pytest.approx((0, 0.2775), abs=1e-4)
    assert wilson(10, 10) == pytest.approx((0.7225, 1), abs=1e-4)
    assert wilson(50, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    assert wilson(184, 200) == pytest.approx((0.8740, 0.9500), abs=1e-3)
    # The interval lies within 0 to 1 and contains the estimate.
    for right in range(11):
        low, high = wilson(right, 10)
        assert 0 <= low <= right / 10 <= high <= 1
        assert wilson(10 * right, 100)[0] >= low


def test_pass_at_k_is_the_share_of_all_subsets_with_a_right_answer():
    for n in range(1, 7):
        for right in range(n + 1):
            answers = [True] * right + [False] * (n - right)
            for k in range(1, n + 1):
                subsets = list(itertools.combinations(answers, k))
                share = sum(map(any, subsets)) / len(subsets)
                assert pass_at_k(n, right, k) == pytest.approx(share)
    assert pass_at_k(200, 1, 100) == pytest.approx(0.5)
    assert pass_at_k(1000, 999, 1) == pytest.approx(0.999)


def test_centred_is_0_for_guessing_and_1_for_all_right():
    assert task_result([True, False, False, False], 0.25, 0)["centred"] == 0
    assert task_result([True] * 3, 0.25, 0)["centred"] == 1
    # An item can count for the share of its answers that is right.
    result = task_result([1, 0.5, 0, 0.5], 0.0, 0, more=7)
    assert result["accuracy"] == 0.5 and result["items"] == 4 and result["more"] == 7
    assert (result["low"], result["high"]) == wilson(2, 4)


def test_core_is_the_mean_of_centred_scores_with_the_tasks_errors():
    results = [dict(accuracy=0.625, chance=0.25, centred=0.5, items=100),
               dict(accuracy=0.1, chance=0.0, centred=0.1, items=400)]
    core = mean_centred(results)
    error = math.sqrt(0.625 * 0.375 / 100 / 0.75 ** 2 + 0.1 * 0.9 / 400) / 2
    assert core["score"] == pytest.approx(0.3)
    assert core["high"] - core["score"] == pytest.approx(1.96 * error)


# ---- options ----

def test_letters_are_chosen_by_their_logits(tok, disk):
    model = random_model(tok.vocab_size, 512)
    cfg = evaluate.Config()
    task = open_source("mmlu", "test", dest=disk)
    right = []
    for item in task:
        with torch.no_grad():
            logits = model(torch.tensor([tok.render_for_completion(item)]))[0, -1]
        letter_ids = [tok.encode(letter)[0] for letter in item["letters"]]
        choice = item["letters"][int(logits[letter_ids].argmax())]
        right.append(choice == item["messages"][-1]["content"])
    result = evaluate_choices(model, tok, task, cfg, ENV, "mmlu")
    assert result["accuracy"] == sum(right) / 6
    assert result["chance"] == 0.25 and result["items"] == 6
    items = {subject: r["items"] for subject, r in result["subjects"].items()}
    assert items == {"sums 0": 3, "sums 1": 3}
    task = open_source("arc_easy", "test", dest=disk)
    result = evaluate_choices(model, tok, task, cfg, ENV, "arc_easy")
    assert result["chance"] == pytest.approx((1 / 3 + 1 / 4 + 1 / 5 + 1 / 3 + 1 / 4) / 5)


def test_a_prompt_longer_than_the_row_loses_its_beginning(tok, disk):
    item = open_source("mmlu", "test", dest=disk)[0]
    prompt = tok.render_for_completion(item)
    options, gold = letter_question(tok, item, 40)
    assert gold == 1 and [tok.decode(ids[start:]) for ids, start in options] == list("ABCD")
    for ids, start in options:
        assert ids[:start] == prompt[-39:] and len(ids) == 40


@pytest.mark.parametrize("name, max_tokens", [
    ("copa", 512), ("arc_easy", 512), ("arc_easy", 120), ("winograd", 512), ("winogrande", 30),
    ("jeopardy", 512), ("jeopardy", 60), ("coqa", 512)])
def test_core_answers_are_those_of_each_option_alone(tok, disk, name, max_tokens):
    task = CoreTask(name, dest=disk)
    model = random_model(tok.vocab_size, max_tokens, seed=3)
    # With random weights alone no answer would ever be right.
    if TASKS[name].kind == "language_modeling":
        with torch.no_grad():
            model.head *= 0
            model.head[tok.encode("1")[0]] = torch.ones(128)
            model.head[tok.encode(" ")[0]] = torch.ones(128)
    right = []
    n_cut = 0
    for i in range(len(task)):
        prompts, _ = task.prompts(i)
        options, gold = core_question(tok, task, i, max_tokens)
        scores = [score_alone(model, ids, start) for ids, start in options]
        if len(options) == 1:
            _, likeliest = scores[0]
            right.append(bool(likeliest.all()))
        else:
            right.append(int(np.argmin([losses.mean() for losses, _ in scores])) == gold)
        for (ids, start), (context, ending) in zip(options, prompts):
            assert len(ids) <= max_tokens and tok.decode(ids[start:]) == ending
            assert context.endswith(tok.decode(ids[max(1, start - 20):start]))
        # <|bos|>, context and ending.
        sizes = [1 + len(tok.encode(context)) + len(tok.encode(ending))
                 for context, ending in prompts]
        n_cut += max(sizes) > max_tokens
    cfg = evaluate.Config(batch_tokens=700)
    result = evaluate_choices(model, tok, task, cfg, ENV, f"core:{name}")
    assert result["accuracy"] == sum(right) / len(task)
    assert result["chance"] == TASKS[name].chance
    assert result.get("cut", 0) == n_cut and (n_cut > 0) == (max_tokens < 512)
    assert ("prompts lost their beginning" in describe(name, result)) == (n_cut > 0)


def test_options_that_are_cut_keep_a_common_beginning(tok, disk):
    options, _ = core_question(tok, CoreTask("arc_easy", dest=disk), 2, 120)
    starts = {start for _, start in options}
    assert len(starts) == 1 and max(len(ids) for ids, _ in options) == 120
    endings = sum(len(ids) - start - 1 for ids, start in options)
    # The context stands in the row once.
    row, _ = tree_row(options)
    assert row.shape[1] <= max(starts) + endings


# ---- answers ----

class Script:
    """An engine that gives the answers of a script: "1!" is "1" and ends, "1" does not end."""
    max_len = 60

    def __init__(self, tok, answers):
        self.tok = tok
        self.answers = answers
        self.asked = []

    def generate(self, prompts, max_tokens, progress, **sampling):
        self.asked += prompts
        end = [self.tok.special("<|assistant_end|>")]
        return [self.tok.encode(answer.rstrip("!")) + end * answer.endswith("!")
                for answer in self.answers[:len(prompts)]]


class Numbers:
    """A task that says numbers and wants them back."""

    def __init__(self, *items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        return chat(self.items[i], self.items[i])

    def grade(self, item, answer):
        return "".join(part["text"] for part in answer) == item["messages"][-1]["content"]


def test_answers_are_graded_counted_and_kept(tok):
    engine = Script(tok, ["1!", "2", "4!"])
    task = Numbers("1", "2", "3")
    result, transcripts = evaluate_answers(engine, tok, task, evaluate.Config(), ENV, "numbers")
    assert result["accuracy"] == pytest.approx(2 / 3) and result["ended"] == pytest.approx(2 / 3)
    assert "pass_at" not in result
    assert [right for _, _, right in transcripts] == [True, True, False]
    assert transcripts[2][1] == [{"type": "text", "text": "4"}]
    assert engine.asked[0] == tok.render_for_completion(Numbers("1")[0])


def test_on_a_gpu_the_cache_gets_the_size_of_the_longest_answer(tok, monkeypatch):
    fitted = []
    monkeypatch.setattr(evaluate, "fit_rows", lambda engine, *sizes: fitted.append(sizes))
    gpu = Env(torch.device("cuda"), torch.float32)
    task = Numbers("1", "2" * 9)
    longest = len(tok.render_for_completion(task[1]))
    for max_tokens, max_rows, expected in (5, 0, (longest + 5, 128)), (99, 7, (60, 7)):
        cfg = evaluate.Config(max_tokens=max_tokens, max_rows=max_rows)
        evaluate_answers(Script(tok, ["1!", "2"]), tok, task, cfg, gpu, "numbers")
        assert fitted.pop() == expected


def test_samples_count_by_item_and_a_prompt_that_does_not_fit_is_wrong(tok):
    engine = Script(tok, ["1!", "x!", "1!", "x!"] + ["2!"] * 4)
    cfg = evaluate.Config(num_samples=4, temperature=1.0)
    result, _ = evaluate_answers(engine, tok, Numbers("1", "9" * 100, "2"), cfg, ENV, "numbers")
    assert len(engine.asked) == 8 and result["too_long"] == 1
    assert result["accuracy"] == pytest.approx(0.5)
    assert result["pass_at"] == {1: pytest.approx(0.5), 4: pytest.approx(2 / 3)}
    assert result["ended"] == pytest.approx(2 / 3)
    line = describe("numbers", result)
    assert "50.0 % right" in line and "1 did not fit" in line
    assert "pass@4 66.7 %" in line and "pass@1 " not in line


def test_a_refusal_of_a_skill_counts_only_where_it_is_wrong(tok):
    def result_of(name, answers):
        engine = Script(tok, answers)
        engine.max_len = 1000
        task = open_task(name, len(answers))
        result, _ = evaluate_answers(engine, tok, task, evaluate.Config(), ENV, name)
        return result

    right = open_task("other_word_problems_2", 1)[0]["answer"]
    result = result_of("other_word_problems_2", [
        f"I can't tell why, but: #### {right}!", "I don't know!", "#### -1!", "I am unable to!"])
    assert result["accuracy"] == 1 / 4 and result["refused"] == 2 / 4
    assert "50.0 % refused" in describe("other_word_problems_2", result)
    assert "refused" not in result_of("other_refuse", ["I don't know!", "Paris!"])

    letters = [item["letters"] for item in open_task("other_choices", 20)]
    result = result_of("other_choices", ["I cannot say!"] * 20)
    assert result["refused"] == 1 and result["accuracy"] == 0
    assert result["chance"] == pytest.approx(sum(1 / len(of_item) for of_item in letters) / 20)


def test_humaneval_is_run_and_gsm8k_read(tok, disk):
    def accuracy(name, task, answers):
        engine = Script(tok, [answer + "!" for answer in answers])
        engine.max_len = 1000
        result, _ = evaluate_answers(engine, tok, task, evaluate.Config(), ENV, name)
        return result["accuracy"]

    task = open_source("humaneval", "test", dest=disk)
    programs = [item["messages"][1]["content"] for item in task]
    answers = [programs[0], programs[1].replace("return", "return 1 +"),
               f"```python\n{programs[2]}\n```"]
    assert accuracy("humaneval", task, answers) == pytest.approx(2 / 3)

    task = open_source("gsm8k", "test", dest=disk)
    numbers = [item["messages"][1]["content"][-1]["text"] for item in task]
    answers = [numbers[0], numbers[1] + ".0", "#### 1", numbers[3].replace("####", ""),
               numbers[4] + " #### 7"]
    assert accuracy("gsm8k", task, answers) == pytest.approx(2 / 5)


# ---- tasks by name ----

def test_tasks_by_name(disk, monkeypatch):
    assert task_names("mmlu, core ,mmlu") == ["mmlu", *(f"core:{name}" for name in TASKS)]
    assert task_names("core:copa") == ["core:copa"]
    for name in evaluate.ANSWERED + evaluate.MULTIPLE_CHOICE:
        assert task_names(name) == [name]
    for spec in "smoltalk", "copa", "core:cola", "python_questions":
        with pytest.raises(ValueError, match=f"--tasks {spec}: expected .*mmlu.*core:NAME"):
            task_names(spec)
    for name, group in evaluate.IDENTITY.items():
        items = list(open_task(name, None))
        assert {item["group"] for item in items} == {group}
        # Hardly any wording is asked twice.
        assert len({item["messages"][-2]["content"] for item in items}) > 0.9 * len(items)
    n_identity = len(open_task("identity", None))
    assert n_identity >= 50 and len(open_task("identity", 10 ** 6)) == n_identity
    assert len(open_task("identity", 5)) == 5
    assert len(open_task("arithmetic", 7)) == 7

    others = task_names("other")
    assert len(others) == 11 and set(others) < set(evaluate.ANSWERED)
    assert len(open_task("other_spelling", 500)) == 500 > len(open_task("other_spelling", None))
    assert len(open_task("other_identity", 500)) == len(open_task("other_identity", None))
    # Every task of the report's pairs has a name, and every task of the demo is in a pair.
    paired = {name for pair in (evaluate.SKILLS | evaluate.TALK).values() for name in pair}
    assert paired - {None} <= set(evaluate.ANSWERED)
    assert {*others, *evaluate.DEMO_TASKS.split(",")} <= paired


# ---- checkpoints ----

@pytest.fixture(scope="module")
def chain(tmp_path_factory, disk):
    """out/ with untrained checkpoints of all stages, their logs, and rows of held-out text."""
    out = tmp_path_factory.mktemp("chain")
    tok = write_tokenizer(out)
    model = random_model(265, 512)
    no_optimizer = SimpleNamespace(state_dict=dict)
    logs = {"pretrain": [dict(step=0, val_bpb=8.0), dict(step=1, loss=1.0),
                         dict(step=1, val_bpb=7.5)],
            "dpo": [dict(step=0, val_accuracy=0.75)]}
    for stage in "pretrain", "sft", "dpo", "distill":
        meta = dict(stage=stage, step=3, tokenizer=tok.fingerprint)
        save_checkpoint(out / stage, model, meta, logs.get(stage, []), no_optimizer, ENV)
    texts = ["some text that was held out " * 9] * 8
    pack_documents(out / "rows/pretrain_val.rows", lambda: texts, tok, 512, {}, ENV)
    (out / "times.txt").write_text("pretrain 61\nsft 7\nsft 5\n")
    return out


def command(out, *flags, log, before=None):
    return run_script("evaluate.py", "--out", out, "--dtype", "float32", *flags, log=log,
                      before=before)


# ---- ranks ----

def test_two_ranks_see_every_item_once_and_agree(monkeypatch):
    def all_gather_object(received, mine):
        received[:] = [values[0::2], values[1::2]]

    monkeypatch.setattr(torch.distributed, "all_gather_object", all_gather_object)
    for n in 0, 1, 5, 8:
        values = [f"item {i}" for i in range(n)]
        for rank in 0, 1:
            assert gather(values[rank::2], n, Env(ENV.device, ENV.dtype, rank, 2)) == values


def become_rank(rank, port):
    """What torchrun would set."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2",
                      MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))


@pytest.mark.slow
def test_two_processes_report_what_one_does(chain, tmp_path):
    flags = ["--stage", "sft", "--tasks", "arithmetic,identity", "--items", 5, "--max_tokens", 6,
             "--json"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def start(name, before=None):
        return command(chain, *flags, log=tmp_path / name, before=before)

    with ThreadPoolExecutor(3) as pool:
        alone = pool.submit(start, "alone")
        ranks = [pool.submit(start, f"rank{rank}", functools.partial(become_rank, rank, port))
                 for rank in (0, 1)]
    alone = alone.result()
    first, second = [rank.result() for rank in ranks]
    assert alone.status == first.status == second.status == 0, first.stderr
    assert second.stdout == ""
    alone = json.loads(alone.stdout)
    first = json.loads(first.stdout)
    assert first["bpb"] == pytest.approx(alone["bpb"], rel=1e-5)
    for name, result in alone["tasks"].items():
        assert {**first["tasks"][name], "seconds": 0} == {**result, "seconds": 0}
        assert result["items"] == 5


# ---- the whole script ----

@pytest.mark.slow
def test_bits_per_byte_of_held_out_and_own_text(chain, tmp_path):
    log = tmp_path / "log"
    result = command(chain, "--tasks", "", "--json", log=log)
    assert result.status == 0 and result.stdout.count("\n") == 1
    report = json.loads(result.stdout)
    assert report["checkpoint"].endswith("distill") and report["step"] == 3
    assert report["tasks"] == {}

    own = tmp_path / "own.txt"
    own.write_text("some text that was held out " * 40 + "\n\n" + "and more " * 200)
    result = command(chain, "--tasks", "", "--data", own, "--json", log=log)
    bpb = json.loads(result.stdout.splitlines()[-1])["bpb"]
    assert 0 < bpb != report["bpb"] > 0 and math.isfinite(bpb)

    result = command(chain, "--tasks", "", "--eval_rows", 0, "--json", log=log)
    assert "bpb" not in json.loads(result.stdout)


@pytest.mark.slow
def test_the_default_run_prints_every_skill_and_identity_in_three_groups(chain, tmp_path):
    result = command(chain, "--items", 3, "--max_tokens", 4, "--show", 1, log=tmp_path / "log")
    assert result.status == 0, result.stderr
    line = r"^(\w+) +[\d.]+ % right \[[\d.]+, [\d.]+\].* 3 items"
    assert re.findall(line, result.stdout, re.M) == evaluate.DEMO_TASKS.split(",")
    assert "bits per byte" in result.stdout
    assert result.stdout.count("WRONG") + result.stdout.count("right  ") >= 6
    # A base model has not learned to answer.
    base = command(chain, "--stage", "pretrain", log=tmp_path / "log")
    assert base.status == 0
    assert "bits per byte" in base.stdout and "right" not in base.stdout


@pytest.mark.slow
def test_json_holds_interval_chance_and_centred_of_all_kinds(chain, disk, tok):
    tasks = {"mmlu": open_source("mmlu", "test", dest=disk),
             "arithmetic": open_task("arithmetic", 3),
             **{f"core:{name}": CoreTask(name, 3, dest=disk) for name in TASKS}}
    cfg = evaluate.Config(max_tokens=4, out=str(chain))
    lines = []
    report, transcripts = evaluate_stage(chain / "dpo", tasks, cfg, ENV, lines.append)
    assert list(report["tasks"]) == list(tasks) and list(transcripts) == ["arithmetic"]
    assert json.loads(json.dumps(report)) == report
    for r in report["tasks"].values():
        assert r["low"] <= r["accuracy"] <= r["high"]
        assert r["centred"] == pytest.approx((r["accuracy"] - r["chance"]) / (1 - r["chance"]))
    core = [r["centred"] for name, r in report["tasks"].items() if name.startswith("core:")]
    assert len(core) == 22 and report["core"]["score"] == pytest.approx(sum(core) / 22)
    assert "core  " in lines[-1]
    mmlu = [line for line in lines if line.startswith("mmlu")]
    assert len(mmlu) == 1 and "chance 25.0 %" in mmlu[0] and "centred" in mmlu[0]


@pytest.mark.slow
def test_the_report_of_run_sh(chain, tmp_path):
    result = command(chain, "--report", "--items", 2, "--max_tokens", 4, log=tmp_path / "log")
    assert result.status == 0, result.stderr
    assert result.stdout.endswith(f"Next: python report.py --out {chain}\n")
    reports = json.loads((chain / "report.json").read_text())
    assert list(reports) == ["sft", "dpo", "distill"]
    for stage, report in reports.items():
        kept = json.loads((chain / stage / "evaluation.json").read_text())
        for name, result in report["tasks"].items():
            # evaluation.json says more: how it was asked, and some of what was answered.
            assert kept["tasks"][name].items() >= result.items()
            assert len(kept["tasks"][name]["examples"]) == 2
    # What else is asked of the same checkpoint comes in addition.
    command(chain, "--stage", "sft", "--tasks", "arithmetic", "--items", 3,
            "--eval_rows", 0, log=tmp_path / "log")
    kept = json.loads((chain / "sft/evaluation.json").read_text())
    assert kept["tasks"]["arithmetic"]["items"] == 3 and kept["tasks"]["identity"]["items"] == 2

    result = run_script("report.py", "--out", chain, log=tmp_path / "log")
    assert result.status == 0, result.stderr
    text = (chain / "report.md").read_text()
    assert "8.000 before pretraining, 7.500 after" in text
    assert "ranked rightly after DPO: 75.0 %" in text
    header = "| held-out items, answered for real | wordings | items | sft | dpo | distill |\n|---|"
    assert header in text
    for skill, pair in (evaluate.SKILLS | evaluate.TALK).items():
        for wordings, name in zip(["known", "other"], pair):
            # Other wordings are asked of the last stage alone.
            cells = r"  \|  \| [\d.]+ % \|" if wordings == "other" else r"( [\d.]+ % \|){3}"
            row = rf"^\| {skill} \| {wordings} \| 2 \|{cells}$"
            asked = name in {*task_names("other"), *evaluate.DEMO_TASKS.split(",")}
            assert asked == bool(re.search(row, text, re.M)), name
    assert "| skills refused | other | 14 |" in text
    n_known = 2 * len(evaluate.DEMO_TASKS.split(","))
    assert f"| answers that ended by themselves | known | {n_known} |" in text
    assert "| stage | pretrain | sft |\n|---|---|---|\n| seconds | 61 | 12 |\n" in text
    assert text.count("\nyou  ") == text.count("\nbot  ") == 11 + n_known // 2


@pytest.mark.slow
def test_what_is_missing_or_impossible_is_one_line(chain, tmp_path):
    run = functools.partial(command, log=tmp_path / "log")
    fails_with_one_line(run(chain, "--tasks", "spelling"), "--tasks spelling", "spelling_bee")
    fails_with_one_line(run(chain, "--num_samples", 3), "--num_samples 3", "temperature")
    fails_with_one_line(run(tmp_path), "no checkpoint", "run.sh")
    if not (ROOT / "data/downloads").exists():
        result = run(chain, "--tasks", "arithmetic,mmlu")
        fails_with_one_line(result, "python data/download.py mmlu")
        fails_with_one_line(run(chain, "--tasks", "core"), "python data/download.py core")
    rows = chain / "rows/pretrain_val.rows"
    content = rows.read_bytes()
    rows.write_bytes(re.sub(rb'("tokenizer": ")[0-9a-f]{4}', rb"\1beef", content))
    fails_with_one_line(run(chain, "--tasks", ""), rows, "another tokenizer")
    rows.write_bytes(content)
