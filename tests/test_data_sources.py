"""data/sources.py: which rows of which source a stage sees, the mixtures by name, own files in them, and bad rows."""
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
import sft
from common import GPT, save_checkpoint
from data.documents import PRETRAINING, choose_documents
from data.download import SOURCES
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
    held_out,
    open_source,
    parse_mixture,
    preferences,
)
from downloads import FILES, write_downloads
from machine import Env
from pretrain import init_weights, model_config
from toy import ROOT, chat, fails_with_one_line, run_script, write_jsonl, write_tokenizer

STAGES = {"midtrain": midtrain, "sft": sft, "dpo": dpo, "distill": distill}


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    return write_downloads(tmp_path_factory.mktemp("downloads"))


def env(kind="cpu"):
    """An Env that keeps what it prints."""
    e = Env(torch.device(kind), torch.float32)
    e.lines = []
    e.print = lambda text: e.lines.append(text)
    return e


def said(rows):
    return sorted(row["messages"][0]["content"] for row in rows)


# ---- sources by name ----

def test_every_downloaded_source_says_what_to_run_when_it_is_not_on_disk(tmp_path):
    for name, source in DOWNLOADED.items():
        split = next(iter(source.files))
        with pytest.raises(FileNotFoundError,
                           match=f"{source.name} is not on disk.*python data/download.py {source.name}$"):
            open_source(name, split, dest=tmp_path)


def test_prompts_and_training_rows_share_nothing_and_lose_nothing(disk):
    for name, n in (("smoltalk", 50), ("gsm8k", 20)):
        published = said(DOWNLOADED[name]("train", dest=disk))
        train, prompts = (said(open_source(name, split, dest=disk)) for split in ("train", "prompts"))
        assert len(prompts) == len(published) // n >= 2 and sorted(train + prompts) == published
        assert len(open_source(name, "train", 5, disk)) == 5
        assert len(open_source(name, "prompts", 10 ** 6, disk)) == len(prompts)
        assert not set(said(open_source(name, "test", dest=disk))) & set(published)
    for name in "mmlu", "arc_easy", "arc_challenge":
        by_split = [set(said(open_source(name, split, dest=disk))) for split in ("train", "prompts", "test")]
        assert all(by_split) and len(set.union(*by_split)) == sum(map(len, by_split))


def test_a_source_of_another_stage_is_refused(disk):
    for name, split, stage in [("ultrafeedback", "train", "dpo.py"), ("hh", "prompts", "dpo.py"),
                               ("humaneval", "train", "evaluate.py"),
                               ("gsm8k", "pairs", "midtrain.py, sft.py and distill.py")]:
        with pytest.raises(ValueError, match=f"{name} has nothing for this stage, it is for {stage}"):
            open_source(name, split, dest=disk)


def test_a_mixture_reads_names_sizes_epochs_and_own_files(disk, tmp_path):
    assert parse_mixture(" identity*2, a b/c.jsonl:7*2 ,mmlu") == [
        ("identity", None), ("identity", None), ("a b/c.jsonl", 7), ("a b/c.jsonl", 7), ("mmlu", None)]
    for spec in "", ",", "spelling", "mmlu:0", "mmlu:x", "mmlu*0", "mmlu*-1", "notes.txt", "downloads,mmlu":
        with pytest.raises(ValueError, match="--mixture.*mmlu"):
            parse_mixture(spec)
    for entry in "identity:1000000001", "identity:9" + "9" * 30, "a.jsonl*10001":
        with pytest.raises(ValueError, match="--mixture: '" + re.escape(entry) + "' asks for more than 1,000,000,000"):
            parse_mixture(f"mmlu,{entry}")
    own = write_jsonl(tmp_path / "me.jsonl", [chat(f"own {i}", "yes") for i in range(10)])
    rows = conversations(f"{own}*2,{own}:3,gsm8k:4,arithmetic:5", "train", dest=disk)
    assert len(rows) == 9 + 9 + 3 + 4 + 5 and sum("own" in text for text in said(rows)) == 21
    array = tmp_path / "me.json"
    array.write_text(json.dumps([json.loads(line) for line in own.read_text().splitlines()]))
    assert said(conversations(f"{array}:3,arithmetic:1", "train"))[-3:] == said(conversations(f"{own}:3", "train"))
    assert describe_files(str(array)) not in ("", describe_files(str(own)))
    assert said(conversations(str(own), "test")) == ["own 9"] and len(conversations(str(own), "prompts")) == 10
    pairs = preferences("ultrafeedback:3,hh,spelling_bee:2", "pairs", dest=disk)
    assert len(pairs) == 3 + 6 + 2 and all(pair["chosen"] != pair["rejected"] for pair in pairs)


# ---- which mixture ----

def test_without_a_flag_a_gpu_reads_the_text_that_was_downloaded_and_everyone_else_the_embedded(tmp_path):
    said = []
    choose = lambda paths, on_gpu: choose_documents(paths, on_gpu, said.append, tmp_path)
    (tmp_path / "tinystories").mkdir()
    (tmp_path / "tinystories/TinyStoriesV2-GPT4-train.txt.part").write_text("half of it")
    assert choose((), True) == () and not said                                # a broken transfer is no text
    (tmp_path / "tinystories/TinyStoriesV2-GPT4-train.txt").write_text("all")
    assert choose((), True) == (str(tmp_path / "tinystories"),) and "tinystories" in said[0] and "demo" in said[0]
    (tmp_path / "fineweb").mkdir()
    (tmp_path / "fineweb/shard_00000.parquet").write_text("")
    assert choose((), True) == (str(tmp_path / "fineweb"),)
    assert choose((), False) == () == choose(["demo"], True) and choose(["a.txt"], True) == ("a.txt",)
    assert len(said) == 2 and set(PRETRAINING) < set(SOURCES)


def test_without_a_flag_a_gpu_with_all_downloads_takes_them_and_everyone_else_the_demo(disk, tmp_path):
    partly = write_downloads(tmp_path, "smoltalk", "mmlu")
    for stage, module in STAGES.items():
        demo = module.Config.mixture
        choose = lambda wanted, where, kind: (e := env(kind), choose_mixture(stage, wanted, demo, (), e, where))
        e, chosen = choose(demo, disk, "cuda")
        assert chosen.train == DOWNLOADS_MIXTURE[stage] and chosen.files and "downloads, as this is a GPU" in e.lines[0]
        e, chosen = choose(demo, disk, "cpu")
        assert chosen.train == demo and not chosen.files and "demo, made on this machine" in e.lines[0]
        e, chosen = choose(demo, partly, "cuda")
        assert chosen.train == demo and "python data/download.py" in e.lines[0] and "smoltalk" not in e.lines[0]
        assert choose("demo", disk, "cuda")[1].train == demo
        assert choose("downloads", disk, "cpu")[1].train == DOWNLOADS_MIXTURE[stage]
        with pytest.raises(FileNotFoundError,
                           match="--mixture downloads: no file like .*Download it: python data/download.py"):
            choose("downloads", partly, "cpu")
        given = choose_mixture(stage, demo, demo, ["x.jsonl"], e := env("cuda"), disk)
        assert given.train == demo and not e.lines                            # --data says it all


def test_validation_is_by_the_published_test_splits_and_capped(disk):
    chosen = choose_mixture("midtrain", "downloads", midtrain.Config.mixture, (), env(), disk)
    assert chosen.val == "smoltalk,mmlu:5200,gsm8k:420"
    assert len(conversations(chosen.val, "test", dest=disk)) == 7 + 6 + 5
    chosen = choose_mixture("sft", "identity*3,mmlu:40,arithmetic", sft.Config.mixture, (), env(), disk)
    assert chosen.val == "identity:1000,mmlu:40,arithmetic:1000"


def test_the_mixtures_of_downloads_have_the_sizes_that_are_promised(disk):
    published = dict(smoltalk=460_341, mmlu=99_842, gsm8k=7_473, arc_easy=2_251, arc_challenge=1_119,
                     ultrafeedback=61_135)
    size = {stage: sum(n or published[name] for name, n in parse_mixture(spec))
            for stage, spec in DOWNLOADS_MIXTURE.items() if stage != "distill"}
    assert 840_000 < size["midtrain"] < 856_000 and 21_500 < size["sft"] < 24_500 and size["dpo"] == 83_135
    for stage, spec in DOWNLOADS_MIXTURE.items():
        read = preferences if stage == "dpo" else conversations
        rows = read(spec, SPLITS[stage], dest=disk)
        here = sum(n for name, n in parse_mixture(spec) if name in MADE_HERE)
        assert here < len(rows) < here + 300 and rows[0] and rows[-1]
    assert set(NAMES) >= {name for spec in DOWNLOADS_MIXTURE.values() for name, _ in parse_mixture(spec)}


def test_other_files_on_disk_are_other_data(disk, tmp_path):
    own = write_jsonl(tmp_path / "me.jsonl", [chat("a", "b")] * 2)
    copy = shutil.copytree(disk, tmp_path / "copy")
    spec, before = f"gsm8k,{own}", describe_files(f"gsm8k,{own}", copy)
    open_source("gsm8k", "train", dest=copy)                                  # its prepared file is no new data
    assert describe_files(spec, copy) == before and describe_files("identity", copy) == ""
    write_jsonl(own, [chat("a", "b")] * 3)
    changed = describe_files(spec, copy)
    write_jsonl(copy / "gsm8k/main/train-2.jsonl",
                [json.loads((ROOT / "tests/fixtures/gsm8k.jsonl").read_text().splitlines()[0])])
    assert len({before, changed, describe_files(spec, copy)}) == 3
    with pytest.raises(FileNotFoundError, match="nowhere.jsonl: no such file"):
        describe_files("nowhere.jsonl", copy)


# ---- own data ----

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
    train, test = held_out(rows, "train"), held_out(rows, "test")
    assert rows.reads == 0 and len(train) == 980_000 and len(test) == 20_000
    assert [train[i] for i in (48, 49, -1)] == [48, 50, 999_998] and [test[0], test[1], test[-1]] == [49, 99, 999_999]
    assert list(train[10:50:13]) == [10, 23, 36, 50] and rows.reads == 10
    for n in range(1, 103):
        rows = list(range(n))
        train, test = list(held_out(rows, "train")), list(held_out(rows, "test"))
        assert test and train and (sorted(train + test) == rows or n == 1) and list(held_out(rows, "prompts")) == rows
    assert list(every_nth("abcdef", 3, taken=True)) == ["c", "f"]


BAD = {"dpo": '{"chosen": "a", "rejected": "b"}'}
GOOD = {"dpo": dict(prompt="one?", chosen="two", rejected="three")}


def test_bad_rows_are_counted_and_named_once(tmp_path, capsys):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(chat(f"q{i}", "a")) + "\n" for i in range(60)) + '{"messages": []}\nnot json\n')
    for skip in False, True:
        if not skip:
            with pytest.raises(ValueError, match=r"rows.jsonl:61: .*--skip_bad_rows"):
                conversations("", "train", [path], skip)
        else:
            train, test = (conversations("", split, [path], skip) for split in ("train", "test"))
            assert len(train) == 59 and len(test) == 1
    err = capsys.readouterr().err
    assert err.count("skipped 2 bad rows of 62") == 1 and "rows.jsonl:61: " in err
    assert "rows.jsonl:62: broken JSON" in err


def write_checkpoints(out, *stages):
    """Untrained checkpoints, as if these stages had run; every token is equally likely."""
    tok = write_tokenizer(out)
    model = GPT(model_config(1, tok.vocab_size, 64))
    init_weights(model, 0)
    for stage in stages:
        save_checkpoint(out / stage, model, dict(stage=stage, step=0, tokenizer=tok.fingerprint), [],
                        SimpleNamespace(state_dict=dict), Env(torch.device("cpu"), torch.float32))


@pytest.mark.parametrize("stage", STAGES)
def test_a_bad_row_stops_a_stage_unless_it_is_to_be_skipped(stage, tmp_path):
    write_checkpoints(tmp_path, "pretrain", "midtrain", "sft", "dpo")
    path = tmp_path / "rows.jsonl"
    good = json.dumps(GOOD.get(stage, chat("one?", "two")))
    path.write_text(f"{good}\n" * 30 + BAD.get(stage, '{"messages": 1}') + "\n" + f"{good}\n" * 30)
    argv = [f"{stage}.py", "--out", tmp_path, "--data", path, "--steps", 1, "--tokens_per_step", 128, "--dtype",
            "float32", "--no-compile"]
    argv += ["--temperature", 1] if stage == "distill" else []
    fails_with_one_line(run_script(*argv, log=tmp_path / "log"), f"{path}:31", "--skip_bad_rows")
    result = run_script(*argv, "--skip_bad_rows", log=tmp_path / "log")
    assert result.status == 0 and "done       " in result.stdout, result.stderr
    assert result.stderr.count("skipped 1 bad rows of 61") == 1 and f"{path}:31: " in result.stderr


def test_downloads_flow_into_a_stages_rows(tmp_path):
    """In a copy of the project, since downloads have one place in it."""
    for path in [*ROOT.glob("*.py"), *(f for room in ("train", "talk", "data") for f in ROOT.glob(f"{room}/**/*.[pt]*"))]:
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(exist_ok=True)
        shutil.copy(path, copy)
    write_checkpoints(tmp_path / "out", "midtrain")
    command = [sys.executable, "sft.py", "--mixture", "smoltalk*2,mmlu,gsm8k:7,arc_easy", "--steps", "1",
               "--tokens_per_step", "128",
               "--dtype", "float32", "--no-compile"]
    run = lambda: subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    refused = run()
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1
    assert "python data/download.py smoltalk mmlu gsm8k arc" in refused.stderr
    write_downloads(tmp_path / "data/downloads")
    result = run()
    assert result.returncode == 0, result.stderr
    assert "mixture    smoltalk*2,mmlu,gsm8k:7,arc_easy, as --mixture says" in result.stdout
    n = 2 * 118 + 9 + 7 + 6
    assert f"from {n} conversations" in result.stdout and f"from {7 + 6 + 5 + 5} conversations" in result.stdout
    assert len(FILES) == 19
