"""data/files.py: which files of a folder are read and which are not, and tables as rows."""
import bz2
import gzip
import json
import os
import shutil
from pathlib import Path

import pytest

from data import files
from data.conversations import read_conversations
from data.documents import read_documents
from data.files import (
    ROW_SUFFIXES,
    TEXT_SUFFIXES,
    describe,
    find_files,
    fingerprint,
    identify,
    lines_of,
    named_part,
    read_table,
    split_by_name,
)

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


def fill(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("some text")


def names(files, folder):
    return [file.relative_to(folder).as_posix() for file in files]


def test_a_folder_gives_all_that_can_be_read_and_names_the_rest(tmp_path):
    fill(tmp_path, "a.txt", "B.TXT", "c.md", "d.json.gz", "e.jsonl.zst", "f/g.html", "f/README.md",
         "README.md", "photo.jpg", "LICENSE", ".DS_Store", ".git/x.txt")
    (tmp_path / "empty.txt").touch()
    (tmp_path / "h.parquet").write_text(POINTER)
    os.symlink("gone", tmp_path / "i.txt")
    found = find_files(tmp_path, TEXT_SUFFIXES)
    assert names(found.files, tmp_path) == ["B.TXT", "a.txt", "c.md", "d.json.gz", "e.jsonl.zst",
                                            "f/README.md", "f/g.html"]
    assert {path.name: reason for path, reason in found.left_out} == {
        "photo.jpg": "ends in .jpg, which is not read", "LICENSE": "has no ending",
        "README.md": "describes the folder", "empty.txt": "empty", "i.txt": "a link to nothing",
        "h.parquet": "a pointer of Git LFS, not the file itself"}
    for words in "7 read: B.TXT", "1 left out, empty: empty.txt", "Git LFS", "photo.jpg":
        assert words in describe(found)
    # A README alone is what there is; metadata of a data set is none of its rows.
    fill(tmp_path, "alone/README.md", "set/data.json", "set/dataset_infos.json")
    assert names(find_files(tmp_path / "alone", TEXT_SUFFIXES).files, tmp_path) == [
        "alone/README.md"]
    assert names(find_files(tmp_path / "set", ROW_SUFFIXES).files, tmp_path) == ["set/data.json"]


def test_what_a_user_names_is_read_or_an_error(tmp_path):
    fill(tmp_path, "README.md", "test.txt", "a.jpg")
    (tmp_path / "a.txt").write_text(POINTER)
    assert len(find_files([tmp_path / "README.md", tmp_path / "test.txt"],
                          TEXT_SUFFIXES).files) == 2
    for name, reason in ("a.txt", "pointer of Git LFS.*git lfs pull"), ("a.jpg", "do not know how"):
        with pytest.raises(ValueError, match=reason):
            find_files(tmp_path / name, TEXT_SUFFIXES)
    with pytest.raises(ValueError, match="no file in this folder ends in .*a.txt: a pointer of"):
        (tmp_path / "only").mkdir()
        (tmp_path / "only/a.txt").write_text(POINTER)
        find_files(tmp_path / "only", TEXT_SUFFIXES)


def test_linked_folders_are_read_once_and_circles_end(tmp_path):
    fill(tmp_path, "real/a.txt", "corpus/b.txt")
    os.symlink(tmp_path / "real", tmp_path / "corpus/linked")
    os.symlink(tmp_path / "real", tmp_path / "corpus/linked2")
    os.symlink(tmp_path / "corpus", tmp_path / "real/circle")
    found = find_files(tmp_path / "corpus", TEXT_SUFFIXES)
    assert names(found.files, tmp_path / "corpus") == ["b.txt", "linked/a.txt"]


@pytest.mark.parametrize("name, part", [
    ("wiki.valid.txt", "val"), ("TinyStoriesV2-GPT4-valid.txt", "val"), ("test/x.txt", "test"),
    ("validation/0.jsonl", "val"), ("validation-00000-of-00002.parquet", "val"),
    ("c4-train.00000-of-01024.json.gz", "train"), ("my_test.JSONL.ZST", "test"), ("val.txt", "val"),
    ("test/wiki.train.txt", "train"), ("data/test-00000-of-00001.parquet", "test"),
    ("a/b test/c/d.txt", "test"), ("valid/val 12.txt", "val"),
    ("Val d'Or.txt", ""), ("values.txt", ""), ("test-driven design.txt", ""), ("latest.txt", ""),
    ("tests/x.py", ""), ("validation of models.md", ""), ("train of thought.txt", ""),
    ("2.txt", ""),
    ("valid.notes/x.txt", ""), ("attest.txt", ""),
    ("data/test_sft-00000-of-00001.parquet", "test"), ("train_gen-00002-of-00003.jsonl", "train"),
    ("test_drive-12.txt", ""), ("dev.jsonl", ""),
])
def test_train_valid_and_test_count_as_the_last_word_of_a_name(name, part):
    assert named_part(Path(name)) == part


def test_names_split_files_only_if_some_are_for_training(tmp_path):
    fill(tmp_path, "a.txt", "x.valid.txt", "test/b.txt", "test/c.txt")
    train, val, test = split_by_name(find_files(tmp_path, TEXT_SUFFIXES))
    assert [names(files, tmp_path) for files in (train, val, test)] == [
        ["a.txt"], ["x.valid.txt"], ["test/b.txt", "test/c.txt"]]
    # The folder that all of them lie in says nothing.
    train, val, test = split_by_name(find_files(tmp_path / "test", TEXT_SUFFIXES))
    assert len(train) == 2 and not val and not test
    alone = find_files(tmp_path / "x.valid.txt", TEXT_SUFFIXES)
    assert split_by_name(alone) == (alone.files, [], [])


def test_dev_and_eval_mean_validation_beside_train(tmp_path):
    fill(tmp_path, "a/train.txt", "a/dev.txt", "a/eval.txt", "b/dev.txt", "b/eval.txt")
    assert find_files(tmp_path / "a", TEXT_SUFFIXES).parts == ["val", "val", "train"]
    assert find_files(tmp_path / "b", TEXT_SUFFIXES).parts == ["", ""]


@pytest.mark.parametrize("text, rows", [
    ("prompt;answer\nHi, you;Hello\n", [{"prompt": "Hi, you", "answer": "Hello"}]),
    ("prompt\tanswer\nHi\tHello\n", [{"prompt": "Hi", "answer": "Hello"}]),
    ('"a, b";c\n1;2\n', [{"a, b": "1", "c": "2"}]),
    ("text\nHi; you\n", [{"text": "Hi; you"}]),
    ("a, b\n1,2\n", [{"a": "1", "b": "2"}]),
    ("", []), ("a,b\n", []),
])
def test_tables_of_other_programs(tmp_path, text, rows):
    path = tmp_path / "a.csv"
    path.write_text(text)
    assert list(read_table(path)) == rows


def test_what_a_table_would_lose_is_an_error(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('a,b\n1\n2,3\n"4"5,6\n7,8\n')
    bad, good, quotes, last = read_table(path)
    assert "1 cells, and the header has 2" in str(bad) and "do not match" in str(quotes)
    assert (good, last) == ({"a": "2", "b": "3"}, {"a": "7", "b": "8"})
    for text, reason in [("a,a\n1,2\n", "two columns are named 'a'"),
                         ('a,b\n1,2\n"3,4\n5,6\n', "row 2: a quote that is not closed")]:
        path.write_text(text)
        with pytest.raises(ValueError, match=reason):
            list(read_table(path))
    path.write_text("prompt,response\nHi\nHi,Hello\n")
    with pytest.raises(ValueError, match="a.csv:1: 1 cells, and the header has 2"):
        read_conversations([path])
    assert len(read_conversations([path], skip_bad_rows=True)) == 1


def test_ndjson_and_bz2(tmp_path):
    row = {"prompt": "Hi", "response": "Hello"}
    (tmp_path / "a.ndjson").write_text(json.dumps(row))
    (tmp_path / "a.jsonl.bz2").write_bytes(bz2.compress(json.dumps(row).encode()))
    assert len(read_conversations(tmp_path)) == 2
    (tmp_path / "a.jsonl.bz2").write_bytes(b"no bz2")
    with pytest.raises(ValueError, match="broken compressed file"):
        read_conversations(tmp_path)


def test_tables_and_packed_lines(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('\ufefftext,"n, m"\n"two\nlines",1\n\nlast,\n')
    assert list(read_table(path)) == [{"text": "two\nlines", "n, m": "1"},
                                      {"text": "last", "n, m": None}]
    (tmp_path / "a.tsv.gz").write_bytes(gzip.compress(b"text\tn\na, b\t2\n"))
    assert list(read_table(tmp_path / "a.tsv.gz")) == [{"text": "a, b", "n": "2"}]
    path.write_bytes(b"text\ncaf\xe9\n")
    with pytest.raises(ValueError, match="byte 0xe9 in line 2 is not UTF-8"):
        list(read_table(path))
    pa = pytest.importorskip("pyarrow")
    text = b"".join(b"line %d \xc3\xa9\n" % i for i in range(300_000)) + b"no end"
    with pa.CompressedOutputStream(str(tmp_path / "a.txt.zst"), "zstd") as file:
        file.write(text)
    for size in -1, 7:
        lines = list(lines_of(tmp_path / "a.txt.zst", size))
        assert b"".join(lines) == text
        assert size < 0 or max(map(len, lines)) <= 1 << 20
    packed = (tmp_path / "a.txt.zst").read_bytes()
    (tmp_path / "a.txt.zst").write_bytes(packed[:len(packed) // 2])
    with pytest.raises(ValueError, match="broken compressed file"):
        list(lines_of(tmp_path / "a.txt.zst"))


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    fill(tmp_path, "a.txt", "locked/b.txt")
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    # Root may read everything, so the mode of a folder would not do.
    monkeypatch.setattr(files.os, "scandir", refuse)
    found = find_files(tmp_path, TEXT_SUFFIXES)
    assert names(found.files, tmp_path) == ["a.txt"]
    assert "1 left out, cannot be read (Permission denied): locked" in describe(found)
    with pytest.raises(ValueError, match="no file in this folder.*locked: cannot be read"):
        find_files(tmp_path / "locked", TEXT_SUFFIXES)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32"])
def test_text_and_conversations_in_utf_16_are_read_by_their_mark(tmp_path, encoding):
    def write(name, text, pack=bytes):
        mark = "\ufeff" if encoding.endswith("be") else ""
        (tmp_path / name).write_bytes(pack((mark + text).encode(encoding)))
        return tmp_path / name

    text = "".join(f"Zeile {i}: \u0a0a caf\xe9 \U0001f600\r\n" for i in range(400))
    expected = text.replace("\r\n", "\n")
    for path in write("a.txt", text), write("b.txt.gz", text, gzip.compress):
        read = [*read_documents(path, "train"), *read_documents(path, "val")]
        assert sorted("".join(read)) == sorted(expected)
    rows = [{"messages": [{"role": "user", "content": f"\u4f60 {i}"},
                          {"role": "assistant", "content": "\u597d"}]} for i in range(5)]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\r\n" for row in rows)
    for path in (write("c.jsonl", lines), write("d.jsonl.gz", lines, gzip.compress),
                 write("e.json", json.dumps(rows)),
                 write("f.csv", "prompt,response\n" + "".join(f"\u4f60 {i},\u597d\n"
                                                              for i in range(5)))):
        read = list(read_conversations([path]))
        assert [[m["content"] for m in row["messages"]] for row in read] == [
            [m["content"] for m in row["messages"]] for row in rows], path


def test_broken_utf_16_and_utf_16_without_its_mark_are_refused_with_the_remedy(tmp_path):
    path = tmp_path / "a.txt"
    for data in ("one two\n" * 999).encode("utf-16")[:-1], b"\xff\xfea\x00\n\x00\x00\xd8b\x00":
        path.write_bytes(data)
        with pytest.raises(ValueError, match="a.txt: broken UTF-16 after line .*Convert"):
            list(read_documents(path, "train"))
    path.write_bytes(("one two\n" * 999).encode("utf-16-le"))
    with pytest.raises(ValueError, match="a.txt:1: NUL character .*convert the file"):
        list(read_documents(path, "train"))
    path = tmp_path / "b.jsonl"
    path.write_bytes('{"prompt": "a", "response": "b"}\n'.encode("utf-16-le"))
    with pytest.raises(ValueError, match="b.jsonl:1: NUL bytes.*Convert it to UTF-8"):
        list(read_conversations([path]))


# ---- which data it was ----

def test_a_file_is_known_again_by_name_and_content_and_not_by_place_or_time(tmp_path):
    folder = tmp_path / "here"
    (folder / "more").mkdir(parents=True)
    (folder / "a.txt").write_text("one")
    (folder / "more/b.txt").write_text("two")
    first = identify([folder])
    assert [name for name, _ in first] == ["a.txt", "more/b.txt"]
    assert first[0][1] != first[1][1]

    moved = shutil.copytree(folder, tmp_path / "there")
    os.utime(moved / "a.txt", (1, 1))
    (moved / ".DS_Store").write_bytes(b"x")
    # A file that is not read does not count either.
    (moved / "picture.png").write_bytes(b"x")
    assert identify([moved]) == first
    assert identify([moved / "a.txt"]) == first[:1]
    assert identify([moved / "a.txt", moved / "more/b.txt"]) == [first[0], ["b.txt", first[1][1]]]
    (moved / "a.txt").write_text("onE")
    assert identify([moved])[0] != first[0] and identify([moved])[1] == first[1]
    (moved / "c.txt").write_text("three")
    assert len(identify([moved])) == 3
    assert identify([]) == []


@pytest.mark.parametrize("size", [1, files.WHOLE - 1, files.WHOLE, files.WHOLE + 1,
                                  2 * files.WHOLE + 7])
def test_the_fingerprint_sees_the_size_and_both_ends_and_a_small_file_whole(tmp_path, size):
    path = tmp_path / "x.txt"
    data = bytearray(b"x" * size)
    path.write_bytes(data)
    before = fingerprint(path)
    places = {0, size - 1, size // 2} if size <= files.WHOLE else {0, size - 1}
    for at in places:
        data[at] = ord("y")
        path.write_bytes(data)
        assert fingerprint(path) != before, at
        data[at] = ord("x")
    path.write_bytes(data)
    assert fingerprint(path) == before
    path.write_bytes(data + b"x")
    assert fingerprint(path) != before


def test_pieces_are_spread_over_a_large_file(tmp_path):
    path = tmp_path / "x.txt"
    path.write_bytes(bytes(4 * files.WHOLE))
    before = fingerprint(path)
    seen = 0
    # An edit of a 64th of the file is noticed wherever it is.
    step = 4 * files.WHOLE // 64
    for at in range(0, 4 * files.WHOLE, step):
        with open(path, "r+b") as file:
            file.seek(at)
            file.write(b"y" * step)
        seen += fingerprint(path) != before
        with open(path, "r+b") as file:
            file.seek(at)
            file.write(bytes(step))
    assert seen == 64
