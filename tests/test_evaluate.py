"""evaluate.py and talk/options.py: scores by hand, options alone and together, answers, the report."""
import functools
import itertools
import json
import math
import os
import random
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

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
    score,
    task_names,
    wilson,
)
from machine import Env
from pretrain import model_config
from talk.options import batches_by_length, score_rows, tree_row
from toy import fails_with_one_line, run_script, write_tokenizer
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
            p.copy_(torch.randn(p.shape, generator=rng) * p.size(1) ** -0.5 * (3 if p is model.head else 1))
    return model.eval()


@torch.no_grad()
def alone(model, ids, start):
    """The plain way, one forward pass for one option.

    Returns the loss of each scored token, and whether it is the likeliest.
    """
    x = torch.tensor([ids])
    logits = model(x[:, :-1])[0, start - 1:]
    return F.cross_entropy(logits, x[0, start:], reduction="none").numpy(), (logits.argmax(-1) == x[0, start:]).numpy()


# ---- scores ----

def test_wilson_interval():
    assert wilson(0, 10) == pytest.approx((0, 0.2775), abs=1e-4)
    assert wilson(10, 10) == pytest.approx((0.7225, 1), abs=1e-4)
    assert wilson(50, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    assert wilson(184, 200) == pytest.approx((0.8740, 0.9500), abs=1e-3)
    # The interval lies within 0 to 1 and contains the estimate.
    for right in range(11):
        low, high = wilson(right, 10)
        assert 0 <= low <= right / 10 <= high <= 1 and wilson(10 * right, 100)[0] >= low


def test_pass_at_k_is_the_share_of_all_subsets_with_a_right_answer():
    for n in range(1, 7):
        for right in range(n + 1):
            answers = [True] * right + [False] * (n - right)
            for k in range(1, n + 1):
                subsets = list(itertools.combinations(answers, k))
                assert pass_at_k(n, right, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))
    assert pass_at_k(200, 1, 100) == pytest.approx(0.5) and pass_at_k(1000, 999, 1) == pytest.approx(0.999)


def test_centred_is_0_for_guessing_and_1_for_all_right():
    assert score([True, False, False, False], 0.25, 0)["centred"] == 0 and score([True] * 3, 0.25, 0)["centred"] == 1
    # Items can count for the share of several answers that is right.
    result = score([1, 0.5, 0, 0.5], 0.0, 0, more=7)
    assert result["accuracy"] == 0.5 and result["items"] == 4 and result["more"] == 7
    assert (result["low"], result["high"]) == wilson(2, 4)


def test_core_is_the_mean_of_centred_scores_with_the_tasks_errors():
    results = [dict(accuracy=0.625, chance=0.25, centred=0.5, items=100),
               dict(accuracy=0.1, chance=0.0, centred=0.1, items=400)]
    core = mean_centred(results)
    error = math.sqrt(0.625 * 0.375 / 100 / 0.75 ** 2 + 0.1 * 0.9 / 400) / 2
    assert core["score"] == pytest.approx(0.3) and core["high"] - core["score"] == pytest.approx(1.96 * error)


# ---- options ----

def test_a_tree_row_says_the_common_beginning_once():
    row, scored = tree_row([([9, 1, 2, 3, 4], 3), ([9, 1, 2, 5], 3)])
    # 4 and 5 are only predicted.
    assert row.tolist() == [[9, 1, 2, 3], [0, 1, 2, 3], [0, 0, 0, 1]]
    assert scored.tolist() == [[2, 3, 2], [3, 4, 5], [0, 0, 1]]
    # In a schema the beginnings differ and the ends are the same.
    row, scored = tree_row([([9, 1, 2, 7], 3), ([9, 5, 2, 7], 3)])
    assert row.tolist() == [[9, 1, 2, 5, 2], [0, 1, 2, 1, 2], [0, 1, 1, 2, 2]]
    assert scored.tolist() == [[2, 4], [7, 7], [0, 1]]
    # A single option.
    row, scored = tree_row([([9, 1, 2], 1)])
    assert row[0].tolist() == [9, 1, 2] and scored.tolist() == [[0, 1], [1, 2], [0, 0]]


def test_options_in_one_row_and_batch_have_the_losses_of_each_alone():
    model, rng, trees, cases = random_model(), random.Random(0), [], []
    for _ in range(25):
        common = [256] + [rng.randrange(256) for _ in range(rng.randrange(0, 30))]
        options = [(ids := common + [rng.randrange(3) for _ in range(rng.randrange(1, 7))], rng.randrange(1, len(ids)))
                   for _ in range(rng.randrange(1, 5))]
        # Now and then the same option stands there twice.
        options += [options[0]] * rng.randrange(2)
        cases.append(options)
        trees.append(tree_row(options))
    assert any(row[2].any() for row, _ in trees) and any(not row[2].any() for row, _ in trees)
    # All together, then one by one.
    for batch in [range(25), *([i] for i in range(25))]:
        for i, (losses, likeliest) in zip(batch, score_rows(model, [trees[i] for i in batch])):
            for k, (ids, start) in enumerate(cases[i]):
                expected, expected_likeliest = alone(model, ids, start)
                ours = trees[i][1][2] == k
                np.testing.assert_allclose(losses[ours], expected, atol=2e-4)
                assert likeliest[ours].tolist() == expected_likeliest.tolist()


def test_batches_hold_rows_of_one_length_and_hardly_any_padding():
    rng = random.Random(1)
    trees = [(np.zeros((3, rng.randrange(40, 400)), np.int32), None) for _ in range(1000)]
    batches = list(batches_by_length(trees, 8192))
    assert sorted(itertools.chain(*batches)) == list(range(1000))
    widths = [max(trees[i][0].shape[1] for i in batch) for batch in batches]
    assert widths == sorted(widths, reverse=True) and all(len(b) * w <= 8192 for b, w in zip(batches, widths))
    assert sum(t[0].shape[1] for t in trees) > 0.96 * sum(len(b) * w for b, w in zip(batches, widths))
    # Rows that are longer than the batch go alone.
    assert [len(b) for b in batches_by_length(trees[:3], 10)] == [1, 1, 1]


def test_letters_are_chosen_by_their_logits(tok, disk):
    model, task = random_model(tok.vocab_size, 512), open_source("mmlu", "test", dest=disk)
    right = []
    for item in task:
        with torch.no_grad():
            logits = model(torch.tensor([tok.render_for_completion(item)]))[0, -1]
        letters = item["letters"]
        choice = letters[int(logits[[tok.encode(letter)[0] for letter in letters]].argmax())]
        right.append(choice == item["messages"][-1]["content"])
    result = evaluate_choices(model, tok, task, evaluate.Config(), ENV, "mmlu")
    assert result["accuracy"] == sum(right) / 6 and result["chance"] == 0.25 and result["items"] == 6
    assert {s: r["items"] for s, r in result["subjects"].items()} == {"sums 0": 3, "sums 1": 3}
    easy = evaluate_choices(model, tok, open_source("arc_easy", "test", dest=disk), evaluate.Config(), ENV, "arc_easy")
    assert easy["chance"] == pytest.approx((1 / 3 + 1 / 4 + 1 / 5 + 1 / 3 + 1 / 4) / 5)


def test_a_prompt_longer_than_the_row_loses_its_beginning(tok, disk):
    item = open_source("mmlu", "test", dest=disk)[0]
    prompt = tok.render_for_completion(item)
    options, gold = letter_question(tok, item, 40)
    assert [ids[:start] == prompt[-39:] and len(ids) == 40 for ids, start in options] == [True] * 4
    assert gold == 1 and [tok.decode(ids[start:]) for ids, start in options] == ["A", "B", "C", "D"]


@pytest.mark.parametrize("name, max_tokens",
                         [("copa", 512), ("arc_easy", 512), ("arc_easy", 120), ("winograd", 512), ("winogrande", 30),
                                              ("jeopardy", 512), ("jeopardy", 60), ("coqa", 512)])
def test_core_answers_are_those_of_each_option_alone(tok, disk, name, max_tokens):
    task, model = CoreTask(name, dest=disk), random_model(tok.vocab_size, max_tokens, seed=3)
    # With random weights no answer would ever be right.
    if TASKS[name].kind == "language_modeling":
        with torch.no_grad():
            model.head *= 0
            model.head[tok.encode("1")[0]] = model.head[tok.encode(" ")[0]] = torch.ones(128)
    expected, lengths = [], set()
    for i in range(len(task)):
        options, gold = core_question(tok, task, i, max_tokens)
        lengths |= {start for _, start in options}
        results = [alone(model, ids, start) for ids, start in options]
        if len(options) == 1:
            expected.append(bool(results[0][1].all()))
        else:
            expected.append(int(np.argmin([losses.mean() for losses, _ in results])) == gold)
        for (ids, start), (context, ending) in zip(options, task.prompts(i)[0]):
            assert len(ids) <= max_tokens and tok.decode(ids[start:]) == ending and tok.decode(
                [256] + tok.encode(context)).endswith(tok.decode(ids[max(1, start - 20):start]))
    cfg = evaluate.Config(batch_tokens=700)
    result = evaluate_choices(model, tok, task, cfg, ENV, f"core:{name}")
    assert result["accuracy"] == sum(expected) / len(task) and result["chance"] == TASKS[name].chance
    # <|bos|>, context and ending.
    size = lambda prompt: 1 + sum(len(tok.encode(text)) for text in prompt)
    cut = sum(max(map(size, task.prompts(i)[0])) > max_tokens for i in range(len(task)))
    assert result.get("cut", 0) == cut and (cut > 0) == (max_tokens < 512)
    assert ("prompts lost their beginning" in evaluate.describe(name, result)) == (cut > 0)


def test_options_that_are_cut_keep_a_common_beginning(tok, disk):
    options, _ = core_question(tok, CoreTask("arc_easy", dest=disk), 2, 120)
    starts, (row, _) = {start for _, start in options}, tree_row(options)
    assert len(starts) == 1 and max(len(ids) for ids, _ in options) == 120
    endings = sum(len(ids) - start - 1 for ids, start in options)
    # The context stands in the row once.
    assert row.shape[1] <= max(starts) + endings


# ---- answers ----

class Script:
    """An engine that gives the answers of a script: "1!" is "1" and ends, "1" does not end."""
    max_len = 60

    def __init__(self, tok, answers):
        self.tok, self.answers, self.asked = tok, answers, []

    def generate(self, prompts, max_tokens, progress, **sampling):
        self.asked += prompts
        end = [self.tok.special("<|assistant_end|>")]
        return [self.tok.encode(a.rstrip("!")) + end * a.endswith("!") for a in self.answers[:len(prompts)]]


class Numbers:
    def __init__(self, *items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        return {"messages": [{"role": "user", "content": self.items[i]},
                             {"role": "assistant", "content": self.items[i]}]}

    def grade(self, item, answer):
        return "".join(part["text"] for part in answer) == item["messages"][-1]["content"]


def test_answers_are_graded_counted_and_kept(tok):
    engine = Script(tok, ["1!", "2", "4!"])
    result, transcripts = evaluate_answers(engine, tok, Numbers("1", "2", "3"), evaluate.Config(), ENV, "numbers")
    assert result["accuracy"] == pytest.approx(2 / 3) and result["ended"] == pytest.approx(2 / 3)
    assert "pass_at" not in result
    assert [right for _, _, right in transcripts] == [True, True, False]
    assert transcripts[2][1] == [{"type": "text", "text": "4"}]
    assert engine.asked[0] == tok.render_for_completion(Numbers("1")[0])


def test_samples_count_by_item_and_a_prompt_that_does_not_fit_is_wrong(tok):
    engine = Script(tok, ["1!", "x!", "1!", "x!"] + ["2!"] * 4)
    cfg = evaluate.Config(num_samples=4, temperature=1.0)
    result, _ = evaluate_answers(engine, tok, Numbers("1", "9" * 100, "2"), cfg, ENV, "numbers")
    assert len(engine.asked) == 8 and result["too_long"] == 1 and result["accuracy"] == pytest.approx(0.5)
    assert result["pass_at"] == {1: pytest.approx(0.5), 4: pytest.approx(2 / 3)}
    assert result["ended"] == pytest.approx(2 / 3)
    line = describe("numbers", result)
    assert "50.0 % right" in line and "pass@4 66.7 %" in line and "pass@1 " not in line and "1 did not fit" in line


def test_humaneval_is_run_and_gsm8k_read(tok, disk):
    human, school = (open_source(name, "test", dest=disk) for name in ("humaneval", "gsm8k"))
    programs = [item["messages"][1]["content"] for item in human]
    engine = Script(tok, [programs[0] + "!", programs[1].replace("return", "return 1 +") + "!",
                          "```python\n" + programs[2] + "\n```!"])
    engine.max_len = 1000
    result, _ = evaluate_answers(engine, tok, human, evaluate.Config(), ENV, "humaneval")
    assert result["accuracy"] == pytest.approx(2 / 3)
    numbers = [part["text"] for item in school for part in item["messages"][1]["content"][-1:]]
    engine = Script(tok, [numbers[0] + "!", numbers[1] + ".0!", "#### 1!", numbers[3].replace("####", "") + "!",
                          numbers[4] + " #### 7!"])
    engine.max_len = 1000
    assert evaluate_answers(engine, tok, school, evaluate.Config(), ENV, "gsm8k")[0]["accuracy"] == pytest.approx(2 / 5)


# ---- tasks by name ----

def test_tasks_by_name(disk, monkeypatch):
    assert task_names("mmlu, core ,mmlu") == ["mmlu", *(f"core:{name}" for name in TASKS)]
    assert task_names("core:copa") == ["core:copa"]
    for name in evaluate.ANSWERED + evaluate.CHOSEN:
        assert task_names(name) == [name]
    for spec in "smoltalk", "copa", "core:cola", "python_questions":
        with pytest.raises(ValueError, match=f"--tasks {spec}: expected .*mmlu.*core:NAME"):
            task_names(spec)
    groups = [open_task(name, None) for name in evaluate.IDENTITY]
    wordings = [{group[i]["messages"][-2]["content"] for i in range(len(group))} for group in groups]
    assert [{group[i]["group"] for i in range(len(group))} for group in groups] == [{"identity"}, {"small talk"},
                                                                                    {"unknown"}]
    assert len(groups[0]) >= 50 and all(len(words) > 0.9 * len(group) for words, group in zip(wordings, groups))
    assert len(open_task("identity", 5)) == 5 and len(open_task("identity", 10 ** 6)) == len(groups[0])
    assert len(open_task("arithmetic", 7)) == 7


# ---- checkpoints ----

@pytest.fixture(scope="module")
def chain(tmp_path_factory, disk):
    """out/ with untrained checkpoints of all stages, their logs, and rows of held-out text."""
    out = tmp_path_factory.mktemp("chain")
    tok, model = write_tokenizer(out), random_model(265, 512)
    logs = {"pretrain": [dict(step=0, val_bpb=8.0), dict(step=1, loss=1.0), dict(step=1, val_bpb=7.5)],
            "dpo": [dict(step=0, val_accuracy=0.75)]}
    for stage in "pretrain", "sft", "dpo", "distill":
        save_checkpoint(out / stage, model, dict(stage=stage, step=3, tokenizer=tok.fingerprint), logs.get(stage, []),
                        SimpleNamespace(state_dict=dict), ENV)
    pack_documents(out / "rows/pretrain_val.rows", lambda: ["some text that was held out " * 9] * 8, tok, 512, {}, ENV)
    (out / "times.txt").write_text("pretrain 61\nsft 7\nsft 5\n")
    return out


def command(out, *flags, log, before=None):
    return run_script("evaluate.py", "--out", out, "--dtype", "float32", *flags, log=log, before=before)


# ---- ranks ----

def test_two_ranks_see_every_item_once_and_agree(monkeypatch):
    for n in 0, 1, 5, 8:
        values = [f"item {i}" for i in range(n)]
        monkeypatch.setattr(torch.distributed, "all_gather_object", lambda received, mine: received.__setitem__(
            slice(None), [values[0::2], values[1::2]]))
        for rank in 0, 1:
            assert gather(values[rank::2], n, Env(ENV.device, ENV.dtype, rank, 2)) == values


def become_rank(rank, port):
    """What torchrun would set."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1",
                      MASTER_PORT=str(port))


def test_two_processes_report_what_one_does(chain, tmp_path):
    flags = ["--stage", "sft", "--tasks", "arithmetic,identity", "--items", 5, "--max_tokens", 6, "--json"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with ThreadPoolExecutor(3) as pool:
        one, *two = pool.map(lambda before: command(chain, *flags, log=tmp_path / f"log{id(before)}", before=before),
                             [None, *(functools.partial(become_rank, rank, port) for rank in (0, 1))])
    assert one.status == two[0].status == two[1].status == 0 and two[1].stdout == "", two[0].stderr
    one, two = (json.loads(result.stdout) for result in (one, two[0]))
    assert two["bpb"] == pytest.approx(one["bpb"], rel=1e-5)
    for name, result in one["tasks"].items():
        assert {**two["tasks"][name], "seconds": 0} == {**result, "seconds": 0} and result["items"] == 5


# ---- the whole script ----

def test_bits_per_byte_of_held_out_and_own_text(chain, tmp_path):
    result = command(chain, "--tasks", "", "--json", log=tmp_path / "log")
    report = json.loads(result.stdout)
    assert result.status == 0 and result.stdout.count("\n") == 1 and report["checkpoint"].endswith("distill")
    assert report["step"] == 3 and report["tasks"] == {}
    (tmp_path / "own.txt").write_text("some text that was held out " * 40 + "\n\n" + "and more " * 200)
    own = command(chain, "--tasks", "", "--data", tmp_path / "own.txt", "--json", log=tmp_path / "log")
    bpb = json.loads(own.stdout.splitlines()[-1])["bpb"]
    assert 0 < bpb != report["bpb"] > 0 and math.isfinite(bpb)
    assert "bpb" not in json.loads(command(chain, "--tasks", "", "--eval_rows", 0, "--json",
                                           log=tmp_path / "log").stdout)


def test_the_default_run_prints_every_skill_and_identity_in_three_groups(chain, tmp_path):
    result = command(chain, "--items", 3, "--max_tokens", 4, "--show", 1, log=tmp_path / "log")
    assert result.status == 0, result.stderr
    names = re.findall(r"^(\w+) +[\d.]+ % right \[[\d.]+, [\d.]+\].* 3 items", result.stdout, re.M)
    assert names == ["spelling_bee", "arithmetic", "simple_spelling", "identity", "small_talk", "unknown"]
    assert "bits per byte" in result.stdout and result.stdout.count("WRONG") + result.stdout.count("right  ") >= 6
    # A base model has not learned to answer.
    base = command(chain, "--stage", "pretrain", log=tmp_path / "log")
    assert base.status == 0 and "bits per byte" in base.stdout and "right" not in base.stdout


def test_json_holds_interval_chance_and_centred_of_all_kinds(chain, disk, tok):
    tasks = {"mmlu": open_source("mmlu", "test", dest=disk), "arithmetic": open_task("arithmetic", 3),
             **{f"core:{name}": CoreTask(name, 3, dest=disk) for name in TASKS}}
    lines = []
    report, transcripts = evaluate_stage(chain / "dpo", tasks, evaluate.Config(max_tokens=4, out=str(chain)), ENV,
                                         lines.append)
    assert list(report["tasks"]) == list(tasks) and list(transcripts) == ["arithmetic"]
    assert json.loads(json.dumps(report)) == report
    for r in report["tasks"].values():
        assert r["low"] <= r["accuracy"] <= r["high"]
        assert r["centred"] == pytest.approx((r["accuracy"] - r["chance"]) / (1 - r["chance"]))
    core = [r["centred"] for name, r in report["tasks"].items() if name.startswith("core:")]
    assert len(core) == 22 and report["core"]["score"] == pytest.approx(sum(core) / 22) and "core  " in lines[-1]
    assert any(line.startswith("mmlu") and "chance 25.0 %" in line and "centred" in line for line in lines)


def test_the_report_of_run_sh(chain, tmp_path):
    result = command(chain, "--report", "--items", 2, "--max_tokens", 4, log=tmp_path / "log")
    assert result.status == 0, result.stderr
    text = (chain / "report.md").read_text()
    assert "8.000 before pretraining, 7.500 after" in text and "ranked rightly after DPO: 75.0 %" in text
    assert re.search(r"\| held-out items, answered for real \| sft \| dpo \| distill \|", text)
    for name in "spelling_bee", "arithmetic", "simple_spelling", "identity", "small_talk", "unknown":
        assert re.search(rf"\| {name} \(2\) \|( [\d.]+ % \|){{3}}", text), name
    assert "| answers that ended by themselves |" in text and "| seconds | 61 | 12 |" in text
    assert text.count("\nyou  ") == 12
    assert list(json.loads((chain / "report.json").read_text())) == ["sft", "dpo", "distill"]


def test_what_is_missing_or_impossible_is_one_line(chain, tmp_path):
    log = tmp_path / "log"
    fails_with_one_line(command(chain, "--tasks", "spelling", log=log), "--tasks spelling", "spelling_bee")
    fails_with_one_line(command(chain, "--num_samples", 3, log=log), "--num_samples 3", "temperature")
    fails_with_one_line(command(tmp_path, log=log), "no checkpoint", "run.sh")
    if not evaluate.Path(evaluate.__file__).with_name("data").joinpath("downloads").exists():
        fails_with_one_line(command(chain, "--tasks", "arithmetic,mmlu", log=log), "python data/download.py mmlu")
        fails_with_one_line(command(chain, "--tasks", "core", log=log), "python data/download.py core")
    rows = chain / "rows/pretrain_val.rows"
    content = rows.read_bytes()
    rows.write_bytes(re.sub(rb'("tokenizer": ")[0-9a-f]{4}', rb"\1beef", content))
    fails_with_one_line(command(chain, "--tasks", "", log=log), rows, "another tokenizer")
    rows.write_bytes(content)
