"""data/published/source.py: files are found, prepared once, and prepared again when they change."""
import os

import pytest

from data.published.gsm8k import GSM8K
from data.published.mmlu import MMLU
from data.published.smoltalk import SmolTalk
from data.published.source import line_offsets
from toy import write_jsonl


def test_a_source_that_is_not_on_disk_names_the_command(tmp_path):
    with pytest.raises(FileNotFoundError, match="Download it: python data/download.py smoltalk"):
        SmolTalk("train", dest=tmp_path)
    with pytest.raises(ValueError,
                       match="mmlu has the splits train, test, validation, dev, not 'val'"):
        MMLU("val", dest=tmp_path)
    (tmp_path / "gsm8k").mkdir()
    write_jsonl(tmp_path / "gsm8k/train.jsonl", [{"prompt": "x"}])
    with pytest.raises(ValueError, match="train.jsonl:1: not a row of gsm8k .*'question'"):
        GSM8K("train", dest=tmp_path)
    assert not list(tmp_path.rglob("*.tmp"))


def test_files_copied_again_are_prepared_again(tmp_path):
    folder = tmp_path / "gsm8k"
    folder.mkdir()
    row = {"question": "1+1?", "answer": "It is <<1+1=2>>2.\n#### 2"}
    write_jsonl(folder / "train.jsonl", [row])
    assert len(GSM8K("train", dest=tmp_path)) == 1
    # The time of the file may be earlier than before: what counts is that it is another one.
    for name, n_rows, time, n_all in [("train.jsonl", 2, 2e9, 2), ("train-2.jsonl", 2, 1e9, 4),
                                      ("train.jsonl", 3, 1e9, 5)]:
        write_jsonl(folder / name, [row] * n_rows)
        os.utime(folder / name, (time, time))
        assert len(GSM8K("train", dest=tmp_path)) == n_all
    (folder / "train-2.jsonl").unlink()
    assert len(GSM8K("train", dest=tmp_path)) == 3
    assert len(list(folder.glob("prepared/*"))) == 1


def test_line_offsets(tmp_path):
    chunk = 1 << 24
    for content, offsets in [(b"", []), (b"a\n", [0]), (b"a\n\nbc\n", [0, 2, 3]),
                             (b"x" * chunk + b"\ny\n", [0, chunk + 1])]:
        (tmp_path / "f").write_bytes(content)
        assert line_offsets(tmp_path / "f").tolist() == offsets
