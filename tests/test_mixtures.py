"""data/mixtures.py: which rows a stage sees of each source, of a mixture and of own files."""
import json
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

import distill
import dpo
import midtrain
import rl
import sft
from common import GPT, save_checkpoint
from data.lazy import Lazy
from data.mixtures import (
    DOWNLOADED,
    DOWNLOADS_MIXTURE,
    MADE_HERE,
    NAMES,
    SPLITS,
    choose_mixture,
    conversations,
    describe_files,
    every_nth,
    graded_prompts,
    held_out,
    open_source,
    parse_mixture,
    preferences,
    row_length,
)
from downloads import FILES, write_downloads
from machine import Env
from pretrain import init_weights, model_config
from toy import ROOT, chat, fails_with_one_line, run_script, write_jsonl, write_tokenizer

STAGES = {"midtrain": midtrain, "sft": sft, "dpo": dpo, "distill": distill, "rl": rl}


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    return write_downloads(tmp_path_factory.mktemp("downloads"))


def env(kind="cpu"):
    """An Env that keeps what it prints, in .lines."""
    e = Env(torch.device(kind), torch.float32)
    e.lines = []
    e.print = e.lines.append
    return e


def questions(rows):
    return sorted(row["messages"][0]["content"] for row in rows)


# --------------------------------------------------------------------------------------------------
# Sources by name

def test_every_downloaded_source_says_what_to_run_when_it_is_not_on_disk(tmp_path):
    for name, source in DOWNLOADED.items():
        split = next(iter(source.files))
        reason = f"{source.name} is not on disk.*python data/download.py {source.name}$"
        with pytest.raises(FileNotFoundError, match=reason):
            open_source(name, split, dest=tmp_path)


def test_prompts_and_training_rows_share_nothing_and_lose_nothing(disk):
    # Sources whose prompts are every n-th training row.
    for name, n in (("smoltalk", 50), ("gsm8k", 20)):
        published = questions(DOWNLOADED[name]("train", dest=disk))
        train = questions(open_source(name, "train", dest=disk))
        prompts = questions(open_source(name, "prompts", dest=disk))
        test = questions(open_source(name, "test", dest=disk))
        assert len(prompts) == len(published) // n >= 2
        assert sorted(train + prompts) == published
        assert len(open_source(name, "train", 5, disk)) == 5
        assert len(open_source(name, "prompts", 10 ** 6, disk)) == len(prompts)
        assert not set(test) & set(published)
    # Sources whose prompts are a published split.
    for name in "mmlu", "arc_easy", "arc_challenge":
        by_split = [set(questions(open_source(name, split, dest=disk)))
                    for split in ("train", "prompts", "test")]
        assert all(by_split)
        assert len(set.union(*by_split)) == sum(map(len, by_split))


def test_a_source_of_another_stage_is_refused(disk):
    for name, split, stage in [("ultrafeedback", "train", "dpo.py"), ("hh", "prompts", "dpo.py"),
                               ("ultrafeedback", "rl", "dpo.py"),
                               ("humaneval", "train", "evaluate.py"),
                               ("gsm8k", "pairs", "midtrain.py, sft.py, distill.py and rl.py")]:
        reason = f"{name} has nothing for this stage, it is for {stage}"
        with pytest.raises(ValueError, match=reason):
            open_source(name, split, dest=disk)


def test_a_mixture_reads_names_sizes_epochs_and_own_files(disk, tmp_path):
    assert parse_mixture(" identity*2, a b/c.jsonl:7*2 ,mmlu") == [
        ("identity", 0, None), ("identity", 0, None), ("a b/c.jsonl", 0, 7),
        ("a b/c.jsonl", 0, 7), ("mmlu", 0, None)]
    assert parse_mixture("letters:3-7,a-b.jsonl:0-2*2") == [
        ("letters", 3, 7), ("a-b.jsonl", 0, 2), ("a-b.jsonl", 0, 2)]
    for spec in ("", ",", "spelling", "mmlu:0", "mmlu:x", "mmlu*0", "mmlu*-1", "notes.txt",
                 "mmlu:5-5", "mmlu:5-4", "mmlu:5-", "mmlu:-5",
                 "downloads,mmlu"):
        with pytest.raises(ValueError, match="--mixture.*mmlu"):
            parse_mixture(spec)
    for entry in "identity:1000000001", "identity:9" + "9" * 30, "a.jsonl*10001":
        reason = f"--mixture: '{re.escape(entry)}' asks for more than 1,000,000,000"
        with pytest.raises(ValueError, match=reason):
            parse_mixture(f"mmlu,{entry}")

    own = write_jsonl(tmp_path / "me.jsonl", [chat(f"own {i}", "yes") for i in range(10)])
    rows = conversations(f"{own}*2,{own}:3,gsm8k:4,arithmetic:5", "train", dest=disk)
    assert len(rows) == 9 + 9 + 3 + 4 + 5
    assert sum("own" in text for text in questions(rows)) == 21
    # What comes before the first item is left out, of any kind of source.
    later = conversations(f"{own}:7-10,spelling_bee:3-5", "train")
    first = conversations("spelling_bee:3", "train")
    assert len(later) == 4 and not set(questions(later)) & set(questions(first))
    assert {f"own {i}" for i in (7, 8)} <= set(questions(later))
    assert len(preferences("spelling_bee:3-5", "pairs")) == 2
    array = tmp_path / "me.json"
    array.write_text(json.dumps([json.loads(line) for line in own.read_text().splitlines()]))
    from_array = [text for text in questions(conversations(f"{array}:3,arithmetic:1", "train"))
                  if "own" in text]
    assert sorted(from_array) == sorted(questions(conversations(f"{own}:3", "train")))
    assert describe_files(str(array)) not in ("", describe_files(str(own)))
    assert questions(conversations(str(own), "test")) == ["own 9"]
    assert len(conversations(str(own), "prompts")) == 10

    pairs = preferences("ultrafeedback:3,hh,spelling_bee:2", "pairs", dest=disk)
    assert len(pairs) == 3 + 6 + 2
    assert all(pair["chosen"] != pair["rejected"] for pair in pairs)


def test_problems_come_with_the_grader_of_their_source(disk, tmp_path):
    rows = [chat(f"own {i}", f"So\n#### {i}") for i in range(10)]
    own = write_jsonl(tmp_path / "own.jsonl", rows)
    mixture = graded_prompts(f"gsm8k:3,arithmetic:4,mmlu:2,arc_easy:2,{own}", "rl", dest=disk)
    assert len(mixture) == 3 + 4 + 2 + 2 + 9
    asked = [conversation["messages"][0]["content"] for conversation, _ in mixture]
    assert sum(question.startswith("own") for question in asked) == 9
    for conversation, grade in mixture:
        # The reference is right, and another answer is not.
        reference = conversation["messages"][-1]["content"]
        if isinstance(reference, str):
            reference = [{"type": "text", "text": reference}]
        assert grade(conversation, reference)
        assert not grade(conversation, [{"type": "text", "text": "I would rather not say."}])
    # Reinforcement learning sees the training rows of a published source, and no test row.
    train = questions(open_source("gsm8k", "train", dest=disk))
    assert questions(open_source("gsm8k", "rl", dest=disk)) == train

    with pytest.raises(ValueError, match="answers of smoltalk cannot be graded.*--reward"):
        graded_prompts("smoltalk:2", "rl", dest=disk)
    # A grader of one's own takes any source, and prompts without an answer.
    grade = lambda conversation, answer: 0.5
    assert graded_prompts("smoltalk:2", "rl", grade=grade, dest=disk)[0][1] is grade
    prompts = write_jsonl(tmp_path / "prompts.jsonl", [{"prompt": f"say {i}"} for i in range(3)])
    assert len(graded_prompts("", "rl", [prompts], grade=grade)) == 2
    assert len(graded_prompts("", "test", [prompts], grade=grade)) == 1


def test_a_problem_without_a_number_to_compare_with_is_a_bad_row(tmp_path, capsys):
    rows = [chat("a", "#### 1"), chat("b", "seven"), {"prompt": "c"}, chat("d", "#### four"),
            chat("e", "5\n#### 5")]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    with pytest.raises(ValueError, match=f"{path}:2: no reference answer.*#### 42.*--reward"):
        graded_prompts("", "rl", [path])
    assert len(graded_prompts("", "rl", [path], skip_bad_rows=True)) == 1
    assert "skipped 3 bad rows of 5" in capsys.readouterr().err


# --------------------------------------------------------------------------------------------------
# Which mixture

def test_without_a_flag_a_gpu_with_all_downloads_takes_them_and_everyone_else_the_demo(
        disk, tmp_path):
    partly = write_downloads(tmp_path, "smoltalk", "mmlu")
    for stage, module in STAGES.items():
        demo = module.Config.mixture
        downloads = DOWNLOADS_MIXTURE[stage]

        def choose(wanted, dest, kind):
            e = env(kind)
            chosen = choose_mixture(stage, wanted, demo, (), e, dest)
            return chosen, e.lines

        chosen, lines = choose(demo, disk, "cuda")
        assert chosen.train == downloads and chosen.files
        assert "downloads, as this is a GPU" in lines[0]
        chosen, lines = choose(demo, disk, "cpu")
        assert chosen.train == demo and not chosen.files
        assert "demo, made on this machine" in lines[0]
        chosen, lines = choose(demo, partly, "cuda")
        assert chosen.train == demo
        assert "python data/download.py" in lines[0] and "smoltalk" not in lines[0]

        # Asked for by name, the machine does not matter.
        assert choose("demo", disk, "cuda")[0].train == demo
        assert choose("downloads", disk, "cpu")[0].train == downloads
        reason = "--mixture downloads: no file like .*Download it: python data/download.py"
        with pytest.raises(FileNotFoundError, match=reason):
            choose("downloads", partly, "cpu")

        # With --data there is nothing to choose, and nothing to say.
        e = env("cuda")
        assert choose_mixture(stage, demo, demo, ["x.jsonl"], e, disk).train == demo
        assert not e.lines


def test_validation_is_by_the_published_test_splits_and_capped(disk):
    demo = midtrain.Config.mixture
    chosen = choose_mixture("midtrain", "downloads", demo, (), env(), disk)
    assert chosen.val == "smoltalk,mmlu:5200,gsm8k:420"
    assert len(conversations(chosen.val, "test", dest=disk)) == 7 + 6 + 5
    own = "identity*3,mmlu:40,arithmetic"
    chosen = choose_mixture("sft", own, sft.Config.mixture, (), env(), disk)
    assert chosen.val == "identity:1000,mmlu:40,arithmetic:1000"


def test_the_mixtures_of_downloads_have_the_sizes_that_are_promised(disk):
    published = dict(smoltalk=460_341, mmlu=99_842, gsm8k=7_473, arc_easy=2_251,
                     arc_challenge=1_119, ultrafeedback=61_135)
    size = {stage: sum(n or published[name] for name, _, n in parse_mixture(spec))
            for stage, spec in DOWNLOADS_MIXTURE.items() if stage != "distill"}
    assert 840_000 < size["midtrain"] < 856_000
    assert 21_500 < size["sft"] < 24_500
    assert size["dpo"] == 83_135
    for stage, spec in DOWNLOADS_MIXTURE.items():
        read = preferences if stage == "dpo" else conversations
        rows = read(spec, SPLITS[stage], dest=disk)
        names = {name for name, _, _ in parse_mixture(spec)}
        assert names <= set(NAMES)
        made_here = sum(n for name, _, n in parse_mixture(spec) if name in MADE_HERE)
        assert made_here < len(rows) < made_here + 300
        assert rows[0] and rows[-1]


def test_other_files_on_disk_are_other_data(disk, tmp_path):
    own = write_jsonl(tmp_path / "me.jsonl", [chat("a", "b")] * 2)
    copy = shutil.copytree(disk, tmp_path / "copy")
    spec = f"gsm8k,{own}"
    before = describe_files(spec, copy)
    # A file that a source prepares from its downloads is no new data.
    open_source("gsm8k", "train", dest=copy)
    assert describe_files(spec, copy) == before
    assert describe_files("identity", copy) == ""
    write_jsonl(own, [chat("a", "b")] * 3)
    changed = describe_files(spec, copy)
    first_row = json.loads((ROOT / "tests/fixtures/gsm8k.jsonl").read_text().splitlines()[0])
    write_jsonl(copy / "gsm8k/main/train-2.jsonl", [first_row])
    assert len({before, changed, describe_files(spec, copy)}) == 3
    with pytest.raises(FileNotFoundError, match="nowhere.jsonl: no such file"):
        describe_files("nowhere.jsonl", copy)


# --------------------------------------------------------------------------------------------------
# Own data

class Counted(Lazy):
    """A million rows that count how often one is read."""
    reads = 0

    def __len__(self):
        return 1_000_000

    def get(self, i):
        self.reads += 1
        return i


def test_held_out_rows_are_not_read_and_every_row_is_on_one_side():
    rows = Counted()
    train = held_out(rows, "train")
    test = held_out(rows, "test")
    assert rows.reads == 0
    assert len(train) == 980_000
    assert len(test) == 20_000
    assert [train[i] for i in (48, 49, -1)] == [48, 50, 999_998]
    assert [test[i] for i in (0, 1, -1)] == [49, 99, 999_999]
    assert list(train[10:50:13]) == [10, 23, 36, 50]
    assert rows.reads == 10
    for n in range(1, 103):
        rows = list(range(n))
        train = list(held_out(rows, "train"))
        test = list(held_out(rows, "test"))
        assert train and test
        assert sorted(train + test) == rows or n == 1
        assert list(held_out(rows, "prompts")) == rows
    assert list(every_nth("abcdef", 3, taken=True)) == ["c", "f"]


def test_bad_rows_are_counted_and_named_once(tmp_path, capsys):
    good = [json.dumps(chat(f"q{i}", "a")) for i in range(60)]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join([*good, '{"messages": []}', "not json"]) + "\n")
    with pytest.raises(ValueError, match=r"rows.jsonl:61: .*--skip_bad_rows"):
        conversations("", "train", [path], skip_bad_rows=False)
    assert len(conversations("", "train", [path], skip_bad_rows=True)) == 59
    assert len(conversations("", "test", [path], skip_bad_rows=True)) == 1
    err = capsys.readouterr().err
    assert err.count("skipped 2 bad rows of 62") == 1
    assert "rows.jsonl:61: " in err
    assert "rows.jsonl:62: broken JSON" in err


def write_checkpoints(out, *stages):
    """Untrained checkpoints, as if these stages had run; every token is equally likely."""
    tok = write_tokenizer(out)
    model = GPT(model_config(1, tok.vocab_size, 64))
    init_weights(model, 0)
    no_optimizer = SimpleNamespace(state_dict=dict)
    for stage in stages:
        meta = dict(stage=stage, step=0, tokenizer=tok.fingerprint)
        save_checkpoint(out / stage, model, meta, [], no_optimizer,
                        Env(torch.device("cpu"), torch.float32))


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_bad_row_stops_a_stage_unless_it_is_to_be_skipped(stage, tmp_path):
    write_checkpoints(tmp_path, "pretrain", "midtrain", "sft", "dpo", "distill")
    if stage == "rl":
        good = json.dumps(chat("one?", "#### 1"))
        bad = json.dumps(chat("one?", "two"))
    elif stage == "dpo":
        good = json.dumps(dict(prompt="one?", chosen="two", rejected="three"))
        bad = '{"chosen": "a", "rejected": "b"}'
    else:
        good = json.dumps(chat("one?", "two"))
        bad = '{"messages": 1}'
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join([good] * 30 + [bad] + [good] * 30) + "\n")
    argv = [f"{stage}.py", "--out", tmp_path, "--data", path, "--steps", 1,
            "--dtype", "float32", "--no-compile"]
    if stage == "rl":
        argv += ["--max_tokens", 4, "--prompts_per_step", 2]
    else:
        argv += ["--tokens_per_step", 128]
    if stage == "distill":
        argv += ["--temperature", 1]
    result = run_script(*argv, log=tmp_path / "log")
    fails_with_one_line(result, f"{path}:31", "--skip_bad_rows")
    result = run_script(*argv, "--skip_bad_rows", log=tmp_path / "log")
    assert result.status == 0, result.stderr
    assert "done       " in result.stdout
    assert result.stderr.count("skipped 1 bad rows of 61") == 1
    assert f"{path}:31: " in result.stderr


@pytest.mark.slow
def test_downloads_flow_into_a_stages_rows(tmp_path):
    """In a copy of the project, since downloads have one place in it."""
    files = list(ROOT.glob("*.py"))
    for room in "train", "talk", "data":
        files += ROOT.glob(f"{room}/**/*.[pt]*")
    for path in files:
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(exist_ok=True)
        shutil.copy(path, copy)
    write_checkpoints(tmp_path / "out", "midtrain")
    mixture = "smoltalk*2,mmlu,gsm8k:7,arc_easy"

    def run():
        command = [sys.executable, "sft.py", "--mixture", mixture, "--steps", "1",
                   "--tokens_per_step", "128", "--dtype", "float32", "--no-compile"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    refused = run()
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert "python data/download.py smoltalk mmlu gsm8k arc" in refused.stderr
    write_downloads(tmp_path / "data/downloads")
    result = run()
    assert result.returncode == 0, result.stderr
    assert f"mixture    {mixture}, as --mixture says" in result.stdout
    # The rows of downloads.py: 118 of 120 in SmolTalk are for training, the others are prompts.
    assert f"from {2 * 118 + 9 + 7 + 6} conversations" in result.stdout
    assert f"from {7 + 6 + 5 + 5} conversations" in result.stdout
    assert len(FILES) == 19


def test_rows_are_as_long_as_the_conversations_need():
    demo = midtrain.DEMO_MIXTURE
    assert row_length(0, demo, (), most=512, vocab_size=1536) == 256
    assert row_length(0, demo, (), most=128, vocab_size=1536) == 128
    # The user's own, downloads, and what a small vocabulary cuts into more pieces may be longer.
    assert row_length(0, demo, ("mine.jsonl",), most=512, vocab_size=1536) == 512
    assert row_length(0, demo, (), most=512, vocab_size=300) == 512
    assert row_length(0, demo + ",smoltalk", (), most=512, vocab_size=1536) == 512
    assert row_length(0, "mine.jsonl", (), most=512, vocab_size=1536) == 512
    assert row_length(384, demo, ("mine.jsonl",), most=512, vocab_size=1536) == 384
    for wanted in -1, 513:
        with pytest.raises(ValueError, match="expected 0 to 512"):
            row_length(wanted, demo, (), most=512, vocab_size=1536)
