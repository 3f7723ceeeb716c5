"""data/download.py against a hub on this machine."""
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import data.download
import data.fetch
from data.download import SOURCES, download
from data.published.core_tasks import TASKS
from hub import BIG, running_hub

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def hub(monkeypatch):
    with running_hub(monkeypatch) as server:
        yield server


def test_download_fetches_verifies_and_does_not_fetch_twice(hub, tmp_path, capsys):
    download("gsm8k", 8, tmp_path)
    folder = tmp_path / "gsm8k"
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*.*")} == {
        "main/test.parquet", "main/train.parquet"}
    assert (folder / "main/train.parquet").read_bytes() == BIG
    assert (folder / "main/test.parquet").read_bytes() == b"small"
    assert "verified" in capsys.readouterr().out
    before = len(hub.requests)
    download("gsm8k", 8, tmp_path)
    # It asks for the two pages of the listing, and for no file.
    assert len(hub.requests) == before + 2
    assert "2 files, 2 there already" in capsys.readouterr().out


@pytest.mark.parametrize("name", SOURCES)
def test_the_licence_is_named_before_anything_is_fetched(name, hub, tmp_path, monkeypatch, capsys):
    """And in --list, and in the README."""
    source = SOURCES[name]

    def request(*args, **settings):
        assert source.licence in capsys.readouterr().out
        raise ValueError("asked")

    monkeypatch.setattr(data.download, "open_url", request)
    monkeypatch.setattr(data.download, "fetch", request)
    with pytest.raises(ValueError, match="asked"):
        download(name, 8, tmp_path)
    monkeypatch.setattr(sys, "argv", ["download.py", "--list"])
    data.download.main()
    assert f"{data.download.web_page(source)}\n{'':14} licence: {source.licence}\n" \
        in capsys.readouterr().out
    [line] = [line for line in (ROOT / "README.md").read_text().splitlines()
              if line.startswith(f"| `{name}` |")]
    assert source.licence in line


def test_shards_and_the_last_one_for_validation(hub, tmp_path):
    folder = tmp_path / "climbmix"
    download("climbmix", 2, tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == [
        "shard_00000.parquet", "shard_00001.parquet", "val_shard_00006.parquet"]
    download("climbmix", 99, tmp_path)
    assert len(list(folder.iterdir())) == 7


def test_listings_that_are_of_no_use(hub, tmp_path):
    with pytest.raises(ValueError, match="cais/mmlu/tree.*HTTP status 404"):
        download("mmlu", 8, tmp_path)
    hub.files["cais/mmlu"] = {"all/../../../escaped.parquet": b"x"}
    with pytest.raises(ValueError, match="a path that leaves its folder"):
        download("mmlu", 8, tmp_path)
    hub.files["cais/mmlu"] = {"new/place.parquet": b"x"}
    with pytest.raises(ValueError, match="none of its 1 files matches all/"):
        download("mmlu", 8, tmp_path)


def test_offline_says_what_to_do_and_takes_a_folder_copied_by_hand(tmp_path, monkeypatch, capsys):
    # Nobody listens at the discard port.
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(data.fetch, "WAITS", (0,))
    with pytest.raises(ConnectionError) as e:
        download("gsm8k", 8, tmp_path)
    for words in ("https://huggingface.co/datasets/openai/gsm8k", "Offline? Copy main/*.parquet",
                  "by hand", "HF_ENDPOINT", str(tmp_path)):
        assert words in str(e.value)

    (tmp_path / "gsm8k").mkdir()
    (tmp_path / "gsm8k/train.jsonl").write_text("{}")
    download("gsm8k", 8, tmp_path)
    assert "Using the 1 files" in capsys.readouterr().out

    monkeypatch.setenv("HF_ENDPOINT", "mirror.example")
    with pytest.raises(ValueError, match="HF_ENDPOINT is 'mirror.example', expected an address"):
        download("gsm8k", 8, tmp_path)


def test_core_on_disk_is_not_fetched(tmp_path, monkeypatch, capsys):
    source = SOURCES["core"]._replace(repo="http://127.0.0.1:9/x.zip")
    monkeypatch.setitem(SOURCES, "core", source)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(data.fetch, "WAITS", (0,))
    # All files but one are not the whole of it.
    folder = tmp_path / "core/some"
    folder.mkdir(parents=True)
    for file in {task.file for task in TASKS.values()} - {"squad"}:
        (folder / f"{file}.jsonl").write_text("{}")
    with pytest.raises(ConnectionError):
        download("core", 8, tmp_path)
    (folder / "squad.jsonl").write_text("{}")
    download("core", 8, tmp_path)

    shutil.rmtree(folder)
    (tmp_path / "core/eval_bundle.zip").write_text("")
    download("core", 8, tmp_path)
    printed = capsys.readouterr().out
    assert re.findall(r"core: (\d+) files in .*, nothing to do", printed) == ["21", "1"]


@pytest.mark.slow
def test_command_line(monkeypatch, capsys):
    def run(*args):
        monkeypatch.setattr(sys, "argv", ["download.py", *args])
        data.download.main()

    run("--list")
    assert set(SOURCES) <= set(capsys.readouterr().out.split())
    for args, message in [((), "name at least one source"),
                          (("imagenet",), "no source is called 'imagenet'"),
                          (("gsm8k", "--shards", "0"), "--shards must be at least 1")]:
        with pytest.raises(ValueError, match=message):
            run(*args)
    failed = subprocess.run([sys.executable, "data/download.py", "--frob"], cwd=ROOT,
                            capture_output=True, text=True)
    assert failed.returncode == 2 and "unrecognized" in failed.stderr
    assert failed.stderr.count("\n") == 1
