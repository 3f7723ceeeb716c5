"""data/documents.py: reading, cutting and splitting text, and every way a file can be bad."""
import csv
import gzip
import json
import lzma
import re
import sys
import tracemalloc
from random import Random

import pytest

from data.documents import PRETRAINING, RUN, choose_documents, read_documents, split_by_hash
from data.download import SOURCES
from tokenizer import PATTERNS
from toy import write_tokenizer


def write_texts(path, texts):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def both(paths):
    return list(read_documents(paths, "train")), list(read_documents(paths, "val"))


def error(path, data, split="train"):
    """Write data, str or bytes, to the file and read it -> the message of the error."""
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    with pytest.raises(ValueError) as e:
        list(read_documents(path, split))
    assert "\n" not in str(e.value)
    return str(e.value)


# --------------------------------------------------------------------------------------------------
# Which documents

def test_without_a_flag_a_gpu_reads_the_downloaded_text_and_everyone_else_the_embedded(tmp_path):
    lines = []

    def choose(paths, on_gpu):
        return choose_documents(paths, on_gpu, lines.append, tmp_path)

    # A broken transfer is no text.
    stories = tmp_path / "tinystories"
    stories.mkdir()
    (stories / "TinyStoriesV2-GPT4-train.txt.part").write_text("half of it")
    assert choose((), True) == ()
    assert not lines
    (stories / "TinyStoriesV2-GPT4-train.txt").write_text("all")
    assert choose((), True) == (str(stories),)
    assert "tinystories" in lines[0] and "demo" in lines[0]
    (tmp_path / "fineweb").mkdir()
    (tmp_path / "fineweb/shard_00000.parquet").write_text("")
    assert choose((), True) == (str(tmp_path / "fineweb"),)
    assert choose((), False) == ()
    assert choose(["demo"], True) == ()
    assert choose(["a.txt"], True) == ("a.txt",)
    assert len(lines) == 2
    assert set(PRETRAINING) < set(SOURCES)


# --------------------------------------------------------------------------------------------------
# Reading

def test_a_run_says_what_is_read_held_out_and_left_out(tmp_path):
    lines = []
    for name in "a.txt", "b.valid.txt", "test/c.txt", "d.jpg":
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    choose_documents([tmp_path], False, lines.append)
    assert "1 read: a.txt" in lines[0]
    assert "1 held out for validation, by name: b.valid.txt" in lines[0]
    assert "1 left out, as the name says test: c.txt" in lines[0]
    assert "1 left out, ends in .jpg, which is not read: d.jpg" in lines[0]
    assert both(tmp_path) == (["a.txt"], ["b.valid.txt"])


def test_the_formats_give_the_same_documents(tmp_path):
    # U+2028, LINE SEPARATOR, does not end a line of JSON.
    texts = [f"document {i} é\u2028x" for i in range(300)]
    plain = write_texts(tmp_path / "a.jsonl", texts)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(plain.read_bytes()))
    (tmp_path / "a.jsonl.xz").write_bytes(lzma.compress(plain.read_bytes()))
    train, val = both(plain)
    assert sorted(train + val) == sorted(texts)
    assert both(tmp_path / "a.jsonl.gz") == both(tmp_path / "a.jsonl.xz") == (train, val)


def test_parquet_reads_the_column_text_and_names_what_it_leaves_out(tmp_path, capsys):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    texts = [f"document {i}" for i in range(300)]
    table = pa.table({"id": range(302), "text": texts + [None, "a\x00b"]})
    pq.write_table(table, tmp_path / "a.parquet")
    train, val = both(tmp_path / "a.parquet")
    assert sorted(train + val) == sorted(texts)
    assert "left out 1 unusable rows; the first is row 301" in capsys.readouterr().err
    # Some files have their text as bytes.
    pq.write_table(pa.table({"text": [t.encode() for t in texts] + [b"\xff"]}),
                   tmp_path / "a.parquet")
    train, val = both(tmp_path / "a.parquet")
    assert sorted(train + val) == sorted(texts)
    assert "left out 1 unusable rows; the first is row 300" in capsys.readouterr().err
    pq.write_table(pa.table({"body": texts}), tmp_path / "b.parquet")
    with pytest.raises(ValueError, match="no column 'text'; it has body.*--field NAME"):
        list(read_documents(tmp_path / "b.parquet", "train"))
    assert "not a readable parquet file" in error(tmp_path / "c.parquet", b"PAR1 no")


def test_tables_and_other_fields(tmp_path):
    rows = [{"content": f"document {i}, \"é\"", "id": str(i)} for i in range(200)]
    (tmp_path / "a.json").write_text(json.dumps(rows, indent=1))
    (tmp_path / "a.json.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    for name, delimiter in ("a.csv", ","), ("a.tsv", "\t"):
        with open(tmp_path / name, "w", newline="") as file:
            writer = csv.DictWriter(file, ["content", "id"], delimiter=delimiter)
            writer.writeheader()
            writer.writerows(rows)
    for name in "a.json", "a.json.gz", "a.csv", "a.tsv":
        path = tmp_path / name
        assert list(read_documents(path, "train", 0, "content")) == [r["content"] for r in rows]
        with pytest.raises(ValueError, match="--field NAME"):
            list(read_documents(path, "train"))


def test_other_texts_stand_as_they_are(tmp_path):
    for name in "a.md", "b.RST", "c.py", "d.html", "e.txt.gz":
        text = f"<b>{name}</b>\n"
        data = gzip.compress(text.encode()) if name.endswith("gz") else text.encode()
        (tmp_path / name).write_bytes(data)
    assert list(read_documents(tmp_path, "train", 0)) == [
        f"<b>{name}</b>\n" for name in ("a.md", "b.RST", "c.py", "d.html", "e.txt.gz")]


def test_bad_rows_and_lines_of_text_are_left_out_only_when_asked(tmp_path, capsys):
    path = tmp_path / "x.jsonl"
    path.write_text('{"text": "good"}\n{"text": 5}\n{broken\n{"text": "fine"}\n')
    with pytest.raises(ValueError, match="x.jsonl:2"):
        list(read_documents(path, "train", 0))
    assert list(read_documents(path, "train", 0, skip_bad_rows=True)) == ["good", "fine"]
    assert "left out 2 unusable rows; the first is" in capsys.readouterr().err
    path = tmp_path / "x.txt"
    path.write_bytes(b"one\ncaf\xe9\ntwo\x00\nthree\n")
    assert list(read_documents(path, "train", 0, skip_bad_rows=True)) == ["one\nthree\n"]
    assert "x.txt:2: byte 0xe9" in capsys.readouterr().err
    path.write_bytes("one\ntwo\nthr\u00e9".encode()[:-1])
    assert list(read_documents(path, "train", 0, skip_bad_rows=True)) == ["one\ntwo\nthr"]
    assert "ends inside a UTF-8 character" in capsys.readouterr().err


def test_a_row_without_a_text_is_an_empty_document(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"text": "good"}\n{"text": null}\n{"text": NaN}\n{"text": ""}\n')
    assert list(read_documents(path, "train", 0)) == ["good"]
    path = tmp_path / "x.csv"
    path.write_text("text,label\ngood,1\n,2\nlast\n")
    with pytest.raises(ValueError, match="row 3: 1 cells"):
        list(read_documents(path, "train", 0))
    assert list(read_documents(path, "train", 0, skip_bad_rows=True)) == ["good"]


@pytest.mark.parametrize("n_lines", [700, 20_000, 150_000])
def test_a_text_that_says_one_thing_again_and_again_is_never_validation_for_the_most(
        tmp_path, n_lines):
    path = tmp_path / "log.txt"
    path.write_text("all is well\n" * n_lines)
    parts = []
    for split in "train", "val":
        try:
            parts.append(sum(map(len, read_documents(path, split))))
        except ValueError as e:
            assert "most of it is the same" in str(e)
            parts.append(0)
    assert parts[0] + parts[1] == 12 * n_lines and parts[1] <= parts[0]


def test_a_million_spaces_cut_a_document_and_the_tokenizer_takes_the_pieces(tmp_path):
    tok = write_tokenizer(tmp_path, PATTERNS["gpt2"])
    text = "before" + " " * 1_000_000 + "after"
    for name, data in ("x.txt", text), ("x.jsonl", json.dumps({"text": text})):
        (tmp_path / name).write_text(data)
        pieces = list(read_documents(tmp_path / name, "train", 0))
        assert [piece.strip() for piece in pieces] == ["before", "after"]
        for piece in pieces:
            assert len(piece) <= RUN + 6
            tok.encode(piece)
    assert list(read_documents(write_texts(tmp_path / "y.jsonl", ["a" + " " * 9999 + "b"]),
                               "train", 0)) == ["a" + " " * 9999 + "b"]


def test_parquet_without_pyarrow_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"needs pyarrow. Install it: pip install -e '.\[data\]'"):
        list(read_documents(tmp_path, "train"))


def test_a_folder_is_read_whole_in_sorted_order_and_hidden_files_are_not(tmp_path):
    (tmp_path / "sub").mkdir()
    write_texts(tmp_path / "b.jsonl", ["b"])
    write_texts(tmp_path / "sub" / "c.jsonl", ["c"])
    write_texts(tmp_path / ".hidden.jsonl", ["no"])
    # With a byte order mark and a Windows line end.
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfa\r\nline two")
    (tmp_path / "README.md").write_text("no")
    assert list(read_documents(tmp_path, "train", val_share=0)) == ["a\nline two", "b", "c"]


def test_a_long_txt_is_cut_at_blank_lines_and_nothing_is_lost(tmp_path):
    paragraphs = ["".join(f"word{i}.{j} " for j in range(40)) + "\n" for i in range(3000)]
    (tmp_path / "book.txt").write_text("\n".join(paragraphs))
    pieces = list(read_documents(tmp_path / "book.txt", "train", val_share=0))
    assert "".join(pieces) == "\n".join(paragraphs)
    assert 300 < len(pieces) <= 513
    assert all(piece.endswith("\n\n") for piece in pieces[:-1])
    assert all(2048 <= len(piece) < 4096 for piece in pieces[:-1])
    train, val = both(tmp_path / "book.txt")
    assert val and sorted(train + val) == sorted(pieces)


def test_endoftext_lines_end_documents(tmp_path):
    path = tmp_path / "stories.txt"
    path.write_text("one\nday\n<|endoftext|>\n\ntwo <|endoftext|> typed\n<|endoftext|>\n")
    texts = list(read_documents(path, "train", val_share=0))
    assert texts == ["one\nday\n", "\ntwo <|endoftext|> typed\n"]


def test_a_giant_line_is_cut_inside_no_character_and_memory_stays_flat(tmp_path):
    # 30 MB without a line break.
    path = tmp_path / "line.txt"
    path.write_text("é€" * 6_000_000)
    tracemalloc.start()
    n_chars = sum(len(piece) for piece in read_documents(path, "train", val_share=0))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert n_chars == 12_000_000
    assert peak < 16e6, peak


# --------------------------------------------------------------------------------------------------
# The split

def test_the_split_depends_on_the_text_alone(tmp_path):
    texts = [f"document {i} " * 3 for i in range(10_000)]
    train, val = both(write_texts(tmp_path / "a.jsonl", texts + texts[:500]))
    # Duplicates stay on one side.
    assert not set(train) & set(val)
    assert set(train) | set(val) == set(texts)
    assert 150 < len(set(val)) < 250
    assert set(both(write_texts(tmp_path / "b.jsonl", reversed(texts)))[1]) == set(val)


@pytest.mark.parametrize("n", [2, 3, 10, 50, 99])
def test_small_corpora_still_have_both_splits(tmp_path, n):
    train, val = both(write_texts(tmp_path / "a.jsonl", [f"{n} text {i}" for i in range(n)]))
    assert train and val
    assert len(train) + len(val) == n


def random_text(style, size):
    """Words in lines without blank lines, short or long, in paragraphs, or in no lines at all."""
    random = Random(size)
    ends = {"lines": "\n", "long lines": "\n", "paragraphs": "\n\n", "no lines": " "}
    lengths = (800, 1200) if style == "long lines" else (3, 60)
    text = []
    n = 0
    while n < size:
        line = " ".join(str(random.randrange(10**5)) for _ in range(random.randrange(*lengths)))
        text.append(line + ends[style])
        n += len(text[-1])
    return "".join(text)[:size]


@pytest.mark.parametrize("style", ["lines", "long lines", "paragraphs", "no lines"])
@pytest.mark.parametrize("size", [6144, 65_536, 65_537, 153_600, 262_143, 262_144, 262_145,
                                  300_000, 524_287, 524_289, 1 << 20, (1 << 20) + 1, 3_000_000])
def test_two_percent_of_one_file_are_held_out_at_every_size(tmp_path, style, size):
    text = random_text(style, size)
    (tmp_path / "x.txt").write_text(text)
    train, val = both(tmp_path / "x.txt")
    assert sum(map(len, train + val)) >= size - 1
    # 2 %, but at least what fills a row.
    wanted = max(0.02 * size, min(3072, size // 3))
    room = 1024 if size < 262_144 else 0
    assert 0.8 * wanted <= sum(map(len, val)) <= 1.2 * wanted + room


@pytest.mark.parametrize("n, size", [(60, 5000), (60, 100_000), (4095, 100), (4097, 100),
                                     (20_000, 100), (4090, 16_384), (4110, 16_384)])
def test_two_percent_of_many_documents_are_held_out(n, size):
    def documents():
        return (f"{i:<{size}}" for i in range(n))

    n_val = sum(len(text) for text in split_by_hash(documents(), "val", 0.02))
    assert 0.015 < n_val / (n * size) < 0.025
    assert sum(map(len, split_by_hash(documents(), "train", 0.02))) == n * size - n_val


@pytest.mark.parametrize("n, size", [(1, 1_200_000), (3, 400_000), (5, 300_000), (40, 60_000)])
def test_a_large_text_of_few_rows_is_cut_for_validation(n, size, monkeypatch):
    """As with five books in one .jsonl, here with a thousandth of what counts as large."""
    monkeypatch.setattr("data.documents.LARGE", 1 << 20)
    texts = [random_text("lines", size + i) for i in range(n)]
    train, val = (list(split_by_hash(iter(texts), split, 0.02)) for split in ("train", "val"))
    assert 0.008 < sum(map(len, val)) / (n * size) < 0.04
    assert sorted("".join(train + val)) == sorted("".join(texts))
    assert list(split_by_hash(iter(texts), "train", 0)) == texts


def test_equal_documents_alone_leave_something_to_train_on(tmp_path):
    train, val = both(write_texts(tmp_path / "a.jsonl", ["same " * 100] * 2000 + ["other " * 100]))
    assert train and val


@pytest.mark.parametrize("kilobytes", [5, 10, 20, 60, 200])
@pytest.mark.parametrize("line", [60, 10 ** 6])
def test_a_single_page_has_enough_to_validate_with(tmp_path, kilobytes, line):
    words = " ".join(f"{i % 7}word{i * i}" for i in range(40_000))
    # A line break after `line` characters or a few more.
    text = re.sub(f"(.{{{line}}}) ", r"\1\n", words)[:1000 * kilobytes]
    (tmp_path / "notes.txt").write_text(text)
    train, val = both(tmp_path / "notes.txt")
    size = sum(map(len, val))
    assert min(3072, 333 * kilobytes) <= size < 4096 + 0.02 * len(text)
    # Nothing is lost.
    assert "".join(sorted(train + val, key=text.index)) == text
    if line == 60:
        # All pieces but the last end where a line ends.
        ends = [piece[-1] for piece in train + val]
        assert ends.count("\n") >= len(ends) - 1
    else:
        assert "\n" not in text


def test_documents_of_about_one_row_fill_a_row_of_validation(tmp_path):
    # Documents of about 34 and about 8,800 characters in turn.
    texts = [f"{i} " + "some words " * (3 if i % 2 else 800) for i in range(60)]
    train, val = both(write_texts(tmp_path / "a.jsonl", texts))
    assert sum(map(len, val)) >= 3072
    assert sorted(train + val) == sorted(texts)


def test_files_named_validation_are_the_validation_split(tmp_path):
    write_texts(tmp_path / "train.jsonl", [f"t{i}" for i in range(200)])
    write_texts(tmp_path / "Stories-valid.jsonl", ["v0", "v1"])
    # "val" as a part of a word does not count.
    write_texts(tmp_path / "values.jsonl", ["x"])
    train, val = both(tmp_path)
    assert val == ["v0", "v1"]
    assert len(train) == 201
    # Alone, such a file is an ordinary corpus.
    assert both(tmp_path / "Stories-valid.jsonl")[0]
    for folder in "train", "validation":
        (tmp_path / "sub" / folder).mkdir(parents=True)
        write_texts(tmp_path / "sub" / folder / "0.jsonl", [folder])
    assert both(tmp_path / "sub") == (["train"], ["validation"])


# --------------------------------------------------------------------------------------------------
# Bad input: one line that says where it is and what to do

def test_errors_name_file_and_line(tmp_path):
    ok = '{"text": "fine"}\n\n'
    path = tmp_path / "x.jsonl"
    for data, reason in [
            (ok + '{"text": \n', "x.jsonl:3: broken JSON at column 9 "),
            ("{\n", "one complete value on each line"),
            (ok + '{"messages": []}\n',
             'x.jsonl:3: expected an object with a field "text", got an object with messages'),
            ("[1, 2]", "got a list"),
            ('{"text": 5}', 'x.jsonl:1: field "text" must be a string, got int'),
            (ok + '{"text": "a\\ud800"}', "x.jsonl:3: lone surrogate \\ud800 at position 1"),
            ('{"text": "ab\\u0000"}', "x.jsonl:1: NUL character at position 2"),
            (ok.encode() + b'{"text": "\xff"}',
             "x.jsonl:3: byte 0xff at position 10 is not UTF-8"),
            ('{"text": ' + "[" * 200_000, "x.jsonl:1: unreadable JSON"),
            ("1" * 5000, "x.jsonl:1: unreadable JSON")]:
        assert reason in error(path, data)

    path = tmp_path / "y.txt"
    for data, reason in [
            (b"one\ncaf\xe9 x\n", "y.txt:2: byte 0xe9 is not UTF-8"),
            (b"one\n\x00\n", "y.txt:2: NUL character"),
            (b"caf\xc3", "y.txt:1: the file ends inside a UTF-8 character")]:
        assert reason in error(path, data)

    whole = lzma.compress(ok.encode() * 5000)
    broken = "broken compressed file"
    assert broken in error(tmp_path / "z.jsonl.xz", whole[:len(whole) // 2])
    assert broken in error(tmp_path / "z.jsonl.gz", b"not gzip")


def test_nothing_to_read_is_an_error(tmp_path):
    assert "no text for split 'train'" in error(tmp_path / "x.jsonl", '{"text": "  "}\n')
    assert "no text for split 'val'" in error(tmp_path / "x.jsonl", '{"text": "only one"}\n', "val")
    assert "no text for split 'val'" in error(tmp_path / "x.txt", "", "val")
    (tmp_path / "empty").mkdir()
    # Paths are checked at once, before the first document is asked for.
    with pytest.raises(ValueError, match="no file in this folder ends in .txt"):
        read_documents(tmp_path / "empty", "train")
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        read_documents([tmp_path / "missing"], "train")
    (tmp_path / "a.pdf").write_text("x")
    with pytest.raises(ValueError, match="do not know how to read"):
        read_documents([tmp_path / "a.pdf"], "train")
    with pytest.raises(ValueError, match="list of files and folders is empty"):
        read_documents([], "train")
    with pytest.raises(ValueError, match="split must be"):
        read_documents(tmp_path, "test")
