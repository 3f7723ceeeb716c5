"""data/fetch.py, by way of data/download.py, against a hub on this machine that has faults."""
import pytest

from data.download import download
from hub import BIG, running_hub


@pytest.fixture
def hub(monkeypatch):
    with running_hub(monkeypatch) as server:
        server.files["openai/gsm8k"].pop("main/test.parquet")
        yield server


@pytest.mark.parametrize("trouble", [
    ["busy", "busy", "busy"], ["cut", "cut"], ["cut", "no ranges"], ["other bytes"],
    ["cut", "busy", "other bytes"]])
def test_faults_that_pass_are_survived(hub, tmp_path, trouble):
    hub.trouble = list(trouble)
    download("gsm8k", 8, tmp_path)
    assert (tmp_path / "gsm8k/main/train.parquet").read_bytes() == BIG
    assert not list(tmp_path.rglob("*.part"))
    if trouble == ["cut", "cut"]:
        ranges = [int(r[6:-1]) for path, r in hub.requests if "resolve" in path and r]
        # It went on where it was.
        assert ranges == [len(BIG) // 2, len(BIG) * 3 // 4]


def test_a_part_from_an_earlier_run_is_resumed_even_if_it_is_damaged(hub, tmp_path):
    target = tmp_path / "gsm8k/main/train.parquet"
    for part in BIG[:4_000_000], b"other version" * 10, BIG, BIG + b"longer":
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        target.with_name("train.parquet.part").write_bytes(part)
        download("gsm8k", 8, tmp_path)
        assert target.read_bytes() == BIG and not list(tmp_path.rglob("*.part"))
    # A file with another size is replaced.
    target.write_bytes(b"short")
    download("gsm8k", 8, tmp_path)
    assert target.read_bytes() == BIG


def test_faults_that_stay_are_told_in_one_line(hub, tmp_path):
    hub.trouble = ["other bytes"] * 2
    with pytest.raises(ValueError, match="the file that came has 10,240,000 bytes and sha256:.*"
                                         "published are 10,240,000"):
        download("gsm8k", 8, tmp_path)
    hub.trouble = ["busy"] * 5
    with pytest.raises(ConnectionError,
                       match="HTTP status 503 Service Unavailable, 5 tries. Run again"):
        download("gsm8k", 8, tmp_path)
    hub.trouble = ["gone"] * 2
    with pytest.raises(ValueError, match="HTTP status 404 Not Found"):
        download("gsm8k", 8, tmp_path)
