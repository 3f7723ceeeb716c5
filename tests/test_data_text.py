"""data/text.py: reading, cutting and splitting documents, and every way in which a file can be bad."""
import gzip
import json
import lzma
import re
import sys
import tracemalloc

import pytest

from data.documents import read_documents


def write_jsonl(path, texts):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def both(paths, **kw):
    return list(read_documents(paths, "train", **kw)), list(read_documents(paths, "val", **kw))


def error(path, data, split="train"):
    path.write_bytes(data) if isinstance(data, bytes) else path.write_text(data)
    with pytest.raises(ValueError) as e:
        list(read_documents(path, split))
    assert "\n" not in str(e.value)
    return str(e.value)


# ---- reading ----

def test_the_formats_give_the_same_documents(tmp_path):
    texts = [f"document {i} é\u2028x" for i in range(300)]           # U+2028 is no line break in JSON lines
    plain = write_jsonl(tmp_path / "a.jsonl", texts)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(plain.read_bytes()))
    (tmp_path / "a.jsonl.xz").write_bytes(lzma.compress(plain.read_bytes()))
    train, val = both(plain)
    assert sorted(train + val) == sorted(texts)
    assert both(tmp_path / "a.jsonl.gz") == both(tmp_path / "a.jsonl.xz") == (train, val)


def test_parquet_reads_the_column_text_and_names_what_it_leaves_out(tmp_path, capsys):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    texts = [f"document {i}" for i in range(300)]
    pq.write_table(pa.table({"id": range(302), "text": texts + [None, "a\x00b"]}), tmp_path / "a.parquet")
    train, val = both(tmp_path / "a.parquet")
    assert sorted(train + val) == sorted(texts)
    assert "left out 2 unusable rows; the first is row 300" in capsys.readouterr().err
    pq.write_table(pa.table({"body": texts}), tmp_path / "b.parquet")
    with pytest.raises(ValueError, match="no column 'text'; it has body"):
        list(read_documents(tmp_path / "b.parquet", "train"))
    assert "not a readable parquet file" in error(tmp_path / "c.parquet", b"PAR1 no")


def test_parquet_without_pyarrow_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"needs pyarrow. Install it: pip install -e '.\[data\]'"):
        list(read_documents(tmp_path, "train"))


def test_a_folder_is_read_whole_in_sorted_order_and_hidden_files_are_not(tmp_path):
    (tmp_path / "sub").mkdir()
    write_jsonl(tmp_path / "b.jsonl", ["b"])
    write_jsonl(tmp_path / "sub" / "c.jsonl", ["c"])
    write_jsonl(tmp_path / ".hidden.jsonl", ["no"])
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfa\r\nline two")      # byte order mark and Windows line end
    (tmp_path / "README.md").write_text("no")
    assert list(read_documents(tmp_path, "train", val_share=0)) == ["a\nline two", "b", "c"]


def test_a_long_txt_is_cut_at_blank_lines_and_nothing_is_lost(tmp_path):
    paragraphs = ["".join(f"word{i}.{j} " for j in range(40)) + "\n" for i in range(3000)]
    (tmp_path / "book.txt").write_text("\n".join(paragraphs))
    pieces = list(read_documents(tmp_path / "book.txt", "train", val_share=0))
    assert "".join(pieces) == "\n".join(paragraphs) and 100 < len(pieces) <= 257
    assert all(piece.endswith("\n\n") for piece in pieces[:-1]) and all(len(piece) >= 4096 for piece in pieces[:-1])
    train, val = both(tmp_path / "book.txt")
    assert val and sorted(train + val) == sorted(pieces)


def test_endoftext_lines_end_documents(tmp_path):
    (tmp_path / "stories.txt").write_text("one\nday\n<|endoftext|>\n\ntwo <|endoftext|> typed\n<|endoftext|>\n")
    assert list(read_documents(tmp_path / "stories.txt", "train", val_share=0)) == ["one\nday\n",
                                                                                "\ntwo <|endoftext|> typed\n"]


def test_a_giant_line_is_cut_inside_no_character_and_memory_stays_flat(tmp_path):
    (tmp_path / "line.txt").write_text("é€" * 6_000_000)                 # 30 MB, no line break
    tracemalloc.start()
    n_chars = sum(len(piece) for piece in read_documents(tmp_path / "line.txt", "train", val_share=0))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert n_chars == 12_000_000 and peak < 16e6, peak


# ---- the split ----

def test_the_split_depends_on_the_text_alone(tmp_path):
    texts = [f"document {i} " * 3 for i in range(10_000)]
    train, val = both(write_jsonl(tmp_path / "a.jsonl", texts + texts[:500]))
    assert not set(train) & set(val) and set(train) | set(val) == set(texts)      # duplicates stay on one side
    assert 150 < len(set(val)) < 250
    assert set(both(write_jsonl(tmp_path / "b.jsonl", reversed(texts)))[1]) == set(val)


@pytest.mark.parametrize("n", [2, 3, 10, 50, 99])
def test_small_corpora_still_have_both_splits(tmp_path, n):
    train, val = both(write_jsonl(tmp_path / "a.jsonl", [f"{n} text {i}" for i in range(n)]))
    assert train and val and len(train) + len(val) == n


@pytest.mark.parametrize("kilobytes", [5, 10, 20, 60, 200])
@pytest.mark.parametrize("line", [60, 10 ** 6])
def test_a_single_page_has_enough_to_validate_with(tmp_path, kilobytes, line):
    words = " ".join(f"{i % 7}word{i * i}" for i in range(40_000))
    text = re.sub(f"(.{{{line}}}) ", r"\1\n", words)[:1000 * kilobytes]
    (tmp_path / "notes.txt").write_text(text)
    train, val = both(tmp_path / "notes.txt")
    size = sum(map(len, val))
    assert min(3072, 333 * kilobytes) <= size < 4096 + 0.02 * len(text)
    assert "".join(sorted(train + val, key=text.index)) == text               # nothing is lost
    ends = [text[text.index(piece) + len(piece) - 1] for piece in train + val]
    assert ends.count("\n") >= len(ends) - 1 if line == 60 else "\n" not in text


def test_documents_of_about_one_row_fill_a_row_of_validation(tmp_path):
    texts = [f"{i} " + "some words " * (3 if i % 2 else 800) for i in range(60)]          # 34 or 8,800 characters
    train, val = both(write_jsonl(tmp_path / "a.jsonl", texts))
    assert sum(map(len, val)) >= 3072 and sorted(train + val) == sorted(texts)


def test_files_named_validation_are_the_validation_split(tmp_path):
    write_jsonl(tmp_path / "train.jsonl", [f"t{i}" for i in range(200)])
    write_jsonl(tmp_path / "Stories-valid.jsonl", ["v0", "v1"])
    write_jsonl(tmp_path / "values.jsonl", ["x"])                        # "val" as a part of a word is no such name
    train, val = both(tmp_path)
    assert val == ["v0", "v1"] and len(train) == 201
    assert both(tmp_path / "Stories-valid.jsonl")[0]                     # alone it is an ordinary corpus
    for folder in "train", "validation":
        (tmp_path / "sub" / folder).mkdir(parents=True)
        write_jsonl(tmp_path / "sub" / folder / "0.jsonl", [folder])
    assert both(tmp_path / "sub") == (["train"], ["validation"])


# ---- bad input: one line, file:line, what to do ----

def test_errors_name_file_and_line(tmp_path):
    ok = '{"text": "fine"}\n\n'
    path = tmp_path / "x.jsonl"
    assert re.search(r"x\.jsonl:3: broken JSON at column 9 ", error(path, ok + '{"text": \n'))
    assert "one complete value on each line" in error(path, "{\n")
    assert 'x.jsonl:3: expected an object with a field "text", got an object with messages' in error(
        path, ok + '{"messages": []}\n')
    assert "got a list" in error(path, "[1, 2]")
    assert 'x.jsonl:1: field "text" must be a string, got int' in error(path, '{"text": 5}')
    assert "x.jsonl:3: lone surrogate \\ud800 at position 1" in error(path, ok + '{"text": "a\\ud800"}')
    assert "x.jsonl:1: NUL character at position 2" in error(path, '{"text": "ab\\u0000"}')
    assert "x.jsonl:3: byte 0xff at position 10 is not UTF-8" in error(path, ok.encode() + b'{"text": "\xff"}')
    assert "x.jsonl:1: unreadable JSON" in error(path, '{"text": ' + "[" * 200_000)
    assert "x.jsonl:1: unreadable JSON" in error(path, "1" * 5000)
    assert "y.txt:2: byte 0xe9 is not UTF-8" in error(tmp_path / "y.txt", b"one\ncaf\xe9 x\n")
    assert "y.txt:2: NUL character" in error(tmp_path / "y.txt", b"one\n\x00\n")
    assert "y.txt:1: the file ends inside a UTF-8 character" in error(tmp_path / "y.txt", b"caf\xc3")
    whole = lzma.compress(ok.encode() * 5000)
    assert "broken compressed file" in error(tmp_path / "z.jsonl.xz", whole[:len(whole) // 2])
    assert "broken compressed file" in error(tmp_path / "z.jsonl.gz", b"not gzip")


def test_nothing_to_read_is_an_error(tmp_path):
    assert "no text for split 'train'" in error(tmp_path / "x.jsonl", '{"text": "  "}\n')
    assert "no text for split 'val'" in error(tmp_path / "x.jsonl", '{"text": "only one"}\n', "val")
    assert "no text for split 'val'" in error(tmp_path / "x.txt", "", "val")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no file in this folder ends in .txt"):
        read_documents(tmp_path / "empty", "train")                     # paths are checked before any reading
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        read_documents([tmp_path / "missing"], "train")
    with pytest.raises(ValueError, match="do not know how to read"):
        (tmp_path / "a.pdf").write_text("x")
        read_documents([tmp_path / "a.pdf"], "train")
    with pytest.raises(ValueError, match="list of files and folders is empty"):
        read_documents([], "train")
    with pytest.raises(ValueError, match="split must be"):
        read_documents(tmp_path, "test")
