"""data/demo/python_corpus.py: documents from the source files of the standard library."""
import ast
import re

import pytest

from data.demo import python_corpus


@pytest.mark.slow
def test_no_document_of_a_held_out_file_is_trained_on():
    train = list(python_corpus.documents("train"))
    val = list(python_corpus.documents("val"))
    assert len(set(train)) == len(train) and len(set(val)) == len(val)
    assert not set(train) & set(val)
    assert all(text.strip() and "\0" not in text for text in train)

    # Files are held out whole: a path that heads code of one split heads none of the other.
    train_files, val_files = (
        {text.split("\n")[0] for text in texts if re.match(r"# [\w/]+\.py\n", text)}
        for texts in (train, val))
    assert train_files and val_files and not train_files & val_files
    share = len(val_files) / len(train_files | val_files)
    assert 0.005 < share < 0.05


@pytest.mark.slow
def test_corpus_shares_and_counts():
    counts = python_corpus.summary()
    chars = {kind: counts["train"][kind]["chars"] for kind in ("topics", "pages", "code")}
    assert chars["topics"] > 300_000 and chars["pages"] > 1_500_000 and chars["code"] > 5_000_000
    assert counts["skipped"] < 0.02 * counts["files"]
    prose = list(python_corpus.documents("train", code=0))
    assert sum(map(len, prose)) == chars["topics"] + chars["pages"]
    some = list(python_corpus.documents("train", prose=0, code=0.3))
    assert 0.15 < sum(map(len, some)) / chars["code"] < 0.45
    assert set(some) < set(python_corpus.documents("train", prose=0, code=0.6))
    for wrong in (dict(split="test"), dict(split="train", code=1.5),
                  dict(split="train", packages=["no_such_package"])):
        with pytest.raises(ValueError):
            python_corpus.documents(**wrong)


def test_corpus_reads_odd_files_and_runs_none(tmp_path):
    for i in range(300):
        (tmp_path / f"module_{i}.py").write_text(
            f'"""Module {i} does one thing."""\nraise SystemExit("was run")\n')
    (tmp_path / "latin.py").write_bytes(b"name = '\xe9'\n")
    (tmp_path / "broken.py").write_text("def f(:\n")
    (tmp_path / "nul.py").write_text("a = 1\0\n")
    (tmp_path / "copy_1.py").write_text(
        "import os\n\n\ndef join(a, *p):\n" '    """Join the parts."""\n    return a\n')
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "unread.py").write_text("unread = 1\n")
    corpus = python_corpus.load(str(tmp_path))
    texts = [text for split in ("train", "val") for _, text in corpus[split]]
    assert corpus["skipped"] == 3 and corpus["files"] == 304 and len(texts) == 2 * 301
    assert "module_7\n\nModule 7 does one thing." in texts
    assert "copy_1.join(a, *p)\n\nJoin the parts." in texts
    assert not any("unread" in text for text in texts)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="not enough Python source"):
        python_corpus.load(str(tmp_path / "empty"))


def test_duplicates_are_dropped_from_train_too(tmp_path):
    # Whatever the hash holds out, files with the same text are in train.
    for i in range(300):
        (tmp_path / f"m{i}.py").write_text("import os\n")
        (tmp_path / f"m{i}").mkdir()
        (tmp_path / f"m{i}" / "a.py").write_text(f"def f():\n    '''Text {i % 10}.'''\n")
    corpus = python_corpus.load(str(tmp_path))
    assert not {text for _, text in corpus["train"]} & {text for _, text in corpus["val"]}


def test_comments_in_strings_are_no_comments():
    source = ('"""\n# not\n# a\n# comment\n"""\n'
              '# This is one\n# and it goes on\n# for three lines\nx = 1  # nor this\n')
    assert list(python_corpus.comment_blocks(source, ast.parse(source))) == [
        (6, "This is one\nand it goes on\nfor three lines")]
