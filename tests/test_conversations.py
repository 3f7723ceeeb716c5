"""data/conversations.py: files of lines and files that are one array, read lazily, row by row."""
import csv
import gzip
import io
import json
import lzma
import pickle
import sys
import time
import tracemalloc
from random import Random
from types import SimpleNamespace

import pytest
import torch

from common import SPECIAL_TOKENS
from data.conversations import read_conversations, read_preferences, read_prompts
from data.formats import ignored_fields
from data.mixtures import held_out
from machine import Env
from toy import write_tokenizer
from train.rows import pack_conversations

U = {"role": "user", "content": "Hi"}
A = {"role": "assistant", "content": "Hello"}


def write(path, *rows):
    """One row a line; a str is written as it is, so that a line can be broken JSON or blank."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(line + "\n" for line in lines))
    return path


def first_words(rows):
    return [row["messages"][0]["content"] for row in rows]


def test_files_are_read_lazily_in_order(tmp_path):
    write(tmp_path / "b.jsonl", {"prompt": "b0", "completion": "é"}, "", [U, A])
    write(tmp_path / "a.jsonl", *[{"prompt": f"a{i}", "completion": "x"} for i in range(5)])
    rows = read_conversations(tmp_path)
    assert len(rows) == 7 and rows[-1] == {"messages": [U, A]}
    assert first_words(rows) == ["a0", "a1", "a2", "a3", "a4", "b0", "Hi"]
    assert first_words(rows[1:6:2]) == ["a1", "a3", "b0"]
    assert pickle.loads(pickle.dumps(rows))[2] == rows[2]
    assert rows.kinds == {"prompt/completion": 6, "messages (bare list)": 1}
    with pytest.raises(IndexError):
        rows[7]
    write(tmp_path / "a.jsonl", "{}")
    changed = "a.jsonl: the file has changed since it was checked .at byte 0: not"
    with pytest.raises(ValueError, match=changed):
        rows[0]


def test_a_bad_row_stops_or_is_counted_and_named(tmp_path, capsys):
    good = {"messages": [U, A]}
    path = write(tmp_path / "x.jsonl", good, "{broken", {"messages": [A]}, good)
    reason = r"x.jsonl:2: broken JSON at column 2.*check.py.*--skip_bad_rows"
    with pytest.raises(ValueError, match=reason) as e:
        read_conversations(path)
    assert "\n" not in str(e.value)
    rows = read_conversations(path, skip_bad_rows=True)
    assert len(rows) == 2 and rows[1] == good
    err = capsys.readouterr().err
    assert "skipped 2 bad rows of 4" in err
    assert "x.jsonl:3: message 1 has role 'assistant'" in err


def test_files_without_a_good_row_are_errors(tmp_path):
    for content, reason in [("", "no conversation in here"),
                            ("[\n[],\n]", "x.json:2: expected a non-empty list"),
                            ('{\n"a": 1}', "x.json:1: not recognised: the row has the fields a"),
                            ('{\n"a": 1', "x.json:1: broken JSON")]:
        (tmp_path / "x.json").write_text(content)
        with pytest.raises(ValueError, match=reason):
            read_conversations(tmp_path / "x.json")
    with pytest.raises(ValueError, match="no preference pair in here"):
        read_preferences(write(tmp_path / "y.jsonl", {"messages": [U, A]}), skip_bad_rows=True)


@pytest.mark.parametrize("style", [dict(), dict(indent=2), dict(indent="\t", ensure_ascii=False),
                                   dict(separators=(",", ":"))])
def test_a_file_may_be_one_array(tmp_path, style):
    """It reads like the same rows on lines, whatever its layout and whatever is in its strings."""
    random = Random(0)
    rows = []
    for i in range(200):
        text = "".join(random.choices('[]{}",:\\ \n\té😀0', k=random.randrange(1, 30))) + "x"
        rows.append(random.choice([
            {"instruction": text, "output": str(i)},
            [{"role": "user", "content": text}, A],
            {"conversations": [{"from": "human", "value": text}, {"from": "gpt", "value": "y"}],
             "id": [i, {"n": None, "[": 1.5e3, "{": True}]},
        ]))
    lines = read_conversations(write(tmp_path / "rows.jsonl", *rows))
    path = tmp_path / "rows.json"
    for start, end in ("", ""), ("\ufeff \n", "\n\n"):
        path.write_text(start + json.dumps(rows, **style) + end, encoding="utf-8", newline="\r\n")
        array = read_conversations(path)
        assert list(array) == list(lines)
        assert array.kinds == lines.kinds
        assert array[77] == lines[77]


def test_a_broken_array_says_where_and_keeps_the_rows_before(tmp_path):
    path = tmp_path / "x.json"
    rows = [{"prompt": f"a {i}", "completion": "[b] {c}"} for i in range(4)]
    whole = json.dumps(rows, indent=1)
    # The file is cut off at each of its characters.
    for end in range(3, len(whole)):
        start = whole[:end]
        path.write_text(start)
        reason = r"x.json:\d+( .element 1.)?: (the array's|(broken|unreadable) J)"
        with pytest.raises(ValueError, match=reason):
            read_conversations(path)
        n_whole_rows = start.count("}\n") + start.count("},") + start.endswith(" }")
        if n_whole_rows > 1:
            assert len(read_conversations(path, skip_bad_rows=True)) == n_whole_rows
    for broken, reason in [
            (whole.replace('"a 1",', '"a 1"'),
             "x.json:6: broken JSON at column 3, 2 lines further down"),
            (whole.replace('"prompt": "a 2"', "5"), "x.json:10: broken JSON"),
            (whole[:-1] + ", 5, null]",
             "x.json:18: expected an object or a list of messages, got int"),
            (whole + "]", "the array's brackets do not match")]:
        path.write_text(broken)
        with pytest.raises(ValueError, match=reason):
            read_conversations(path)


def test_lines_that_begin_with_a_bracket_are_lines_whatever_the_first_says(tmp_path):
    for first in ("[]", "[1, 2]", '["Hi", "Hello"]', '[{"rol": "user"}]',
                  '[{"prompt": "a", "completion": "b"}]'):
        path = write(tmp_path / "x.jsonl", "", first, [U, A], "", [U, A])
        with pytest.raises(ValueError, match="x.jsonl:2: "):
            read_conversations(path)
        rows = read_conversations(path, skip_bad_rows=True)
        assert list(rows) == [{"messages": [U, A]}] * 2 and len(rows.bad) == 1
    # Rows that have fields of a message, but are none.
    row = {"role": "tutor", "from": "a book", "messages": [U, A]}
    for layout in dict(), dict(indent=1):
        (tmp_path / "x.json").write_text(json.dumps([row] * 3, **layout))
        assert list(read_conversations(tmp_path / "x.json")) == [{"messages": [U, A]}] * 3


def test_a_bad_row_of_an_array_on_one_line_is_named(tmp_path):
    path = tmp_path / "x.json"
    rows = [{"prompt": f"a {i}", "completion": "x\n"} for i in range(900)]
    rows[700] = {}
    path.write_text("\n" + json.dumps(rows) + "\n\n")
    with pytest.raises(ValueError, match=r"x.json:2 \(element 701\): not recognised"):
        read_conversations(path)
    path.write_text(json.dumps(rows[:2])[:-1])
    bad = read_conversations(path, skip_bad_rows=True).bad
    assert bad[0][0].endswith("x.json:1 (element 3)")


@pytest.mark.slow
def test_a_string_without_an_end_takes_no_longer_than_the_file(tmp_path):
    # 2 MB, which take a minute if every quote starts another search for the end of the string.
    (tmp_path / "x.json").write_text('[{"prompt": "' + '\\"' * 1_000_000)
    start = time.process_time()
    with pytest.raises(ValueError, match=r"x.json:1 \(element 1\): broken JSON"):
        read_conversations(tmp_path / "x.json")
    assert time.process_time() - start < 10


@pytest.mark.slow
def test_the_index_is_small(tmp_path):
    # Rows of about 1,000 bytes.
    path = write(tmp_path / "x.jsonl", *[{"prompt": "Hi", "completion": "word " * 200}] * 5000)
    tracemalloc.start()
    rows = read_conversations(path)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(rows) == 5000
    assert held < 30 * 5000


# --------------------------------------------------------------------------------------------------
# Other kinds of files

def test_files_that_are_no_plain_json_give_the_same_rows(tmp_path):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    rows = [{"messages": [U | {"content": f"{i}é"}, A], "system": "Be kind"} for i in range(3000)]
    # pyarrow gives every message all fields, most of them null.
    rows[7]["messages"][1] = A | {"weight": 1}
    plain = write(tmp_path / "a.jsonl", *rows)
    expected = list(read_conversations(plain))
    data = plain.read_bytes()
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(data))
    (tmp_path / "a.json.xz").write_bytes(lzma.compress(json.dumps(rows).encode()))
    with pa.CompressedOutputStream(str(tmp_path / "A.JSONL.zst"), "zstd") as file:
        file.write(data)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    for name, delimiter, dump in ("a.csv", ",", json.dumps), ("a.tsv", "\t", repr):
        with open(tmp_path / name, "w", newline="") as file:
            writer = csv.writer(file, delimiter=delimiter)
            writer.writerow(["messages", "system"])
            writer.writerows([dump(row["messages"]), row["system"]] for row in rows)
    for name in ("a.jsonl.gz", "a.json.xz", "A.JSONL.zst", "a.parquet", "a.csv", "a.tsv"):
        read = read_conversations(tmp_path / name)
        assert list(read) == expected, name
        assert read[2999] == expected[2999] and read.ignored == {}


def test_a_bad_row_of_a_table_is_named_by_its_number(tmp_path):
    (tmp_path / "a.csv").write_text('prompt,completion\nHi,"Hel\nlo"\nHi,\n')
    with pytest.raises(ValueError, match="a.csv:2: not recognised: the row has the fields prompt"):
        read_conversations(tmp_path / "a.csv")
    assert len(read_conversations(tmp_path / "a.csv", skip_bad_rows=True)) == 1
    (tmp_path / "a.csv").write_text("prompt,completion\nHi\n")
    with pytest.raises(ValueError, match="a.csv:1: 1 cells, and the header has 2"):
        read_conversations(tmp_path / "a.csv")


@pytest.mark.parametrize("cell", [
    json.dumps([U, A]), repr([U, A]), repr([U, A]).replace("}, {", "}\n {")])
def test_cells_with_messages_are_read_and_other_lists_stay_text(tmp_path, cell):
    with open(tmp_path / "a.csv", "w", newline="") as file:
        csv.writer(file).writerows([["", "messages", "images"], ["0", cell, "[]"]])
    rows = read_conversations(tmp_path / "a.csv")
    assert list(rows) == [{"messages": [U, A]}] and rows.ignored == {}
    answers = ["[1, 2]", '["a"]', '{"a": 1}', '[{"name": "x"}]', "[", "{x}"]
    with open(tmp_path / "a.csv", "w", newline="") as file:
        csv.writer(file).writerows([["prompt", "response"], *(["Hi", text] for text in answers)])
    rows = read_conversations(tmp_path / "a.csv")
    assert [row["messages"][1]["content"] for row in rows] == answers


def test_bytes_in_parquet_are_text_or_an_error(tmp_path):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"prompt": [b"Hi"], "response": ["Hell\u00f6".encode()]}), path)
    assert read_conversations(path)[0]["messages"][1]["content"] == "Hell\u00f6"
    pq.write_table(pa.table({"prompt": [b"Hi"], "response": [b"\xff"]}), path)
    with pytest.raises(ValueError, match="a.parquet:1: message 1 has role None|content is dict"):
        read_conversations(path)
    pq.write_table(pa.table({"prompt": ["Hi"], "response": ["x"], "image": [b"\xff"]}), path)
    with pytest.raises(ValueError, match="the row has image"):
        read_conversations(path)


@pytest.mark.parametrize("between", ["", " ", "\r", ",\n"])
def test_rows_behind_one_another_on_a_line(tmp_path, between):
    row = json.dumps([U, A]).join(['{"messages": ', "}"])
    (tmp_path / "a.jsonl").write_bytes(between.join([row] * 3).encode())
    assert list(read_conversations(tmp_path / "a.jsonl")) == [{"messages": [U, A]}] * 3
    (tmp_path / "a.jsonl").write_bytes((between.join([row] * 3)[:-9]).encode())
    with pytest.raises(ValueError, match="a.jsonl:.*broken JSON"):
        read_conversations(tmp_path / "a.jsonl")


def test_one_object_is_a_row_or_all_rows(tmp_path):
    path = tmp_path / "a.json"
    row = {"messages": [U, A], "tools": [{"name": "f"}]}
    rows = [{"instruction": "Hi", "output": "Hello"}, {"instruction": "Hi", "output": "Go"}]
    columns = {"instruction": ["Hi", "Hi"], "output": ["Hello", "Go"]}
    by_index = {name: dict(zip("01", column)) for name, column in columns.items()}
    for layout in {}, {"indent": 2}:
        path.write_text(json.dumps(row, **layout))
        assert list(read_conversations(path))[0]["messages"][1:] == [U, A]
        path.write_text("\n".join([json.dumps(row, **layout)] * 3) + "\n")
        assert len(read_conversations(path)) == 3
        split = {"columns": ["instruction", "output"], "index": [0, 1],
                 "data": [["Hi", "Hello"], ["Hi", "Go"]]}
        go = {"role": "assistant", "content": "Go"}
        lists = {"conversations": [[U, A], [U, go]]}
        by_number = dict(zip("01", rows))
        viewer = {"features": [{"name": "instruction"}],
                  "rows": [{"row_idx": i, "row": row} for i, row in enumerate(rows)]}
        for value in (columns, by_index, {"version": 1, "data": rows}, split, lists, by_number,
                      viewer):
            path.write_text(json.dumps(value, **layout))
            assert [r["messages"][1]["content"] for r in read_conversations(path)] == \
                ["Hello", "Go"]


def test_unwanted_answers_and_ignored_fields_are_counted_and_named(tmp_path, capsys):
    row = {"messages": [U, A], "kto_tag": True, "source": "x"}
    path = write(tmp_path / "x.jsonl", row, row | {"kto_tag": False}, row | {"kto_tag": "false"})
    rows = read_conversations(path)
    assert list(rows) == [{"messages": [U, A]}]
    err = capsys.readouterr().err
    assert "left out 2 of 3 rows: unwanted answers (KTO)" in err
    assert "ignored: field source in 1 rows" in err
    with pytest.raises(ValueError, match="no conversation in here"):
        read_conversations(write(tmp_path / "y.jsonl", row | {"kto_tag": False}))


def test_files_named_valid_and_test_are_not_trained_on(tmp_path, capsys):
    for name in "train", "chats.valid", "test":
        write(tmp_path / f"{name}.jsonl", {"prompt": name, "completion": "x"})
    rows = read_conversations(tmp_path)
    assert first_words(rows) == ["chats.valid", "train"]
    assert list(rows.named_validation()) == [True, False]
    assert first_words(held_out(rows, "test")) == ["chats.valid"]
    assert first_words(held_out(rows, "train")) == ["train"]
    assert "test: test.jsonl" in capsys.readouterr().err
    # What a user names by itself is read, whatever its name.
    assert first_words(read_conversations(tmp_path / "test.jsonl")) == ["test"]


def test_what_is_not_to_be_learned_is_no_target_of_any_stage(tmp_path):
    tok = write_tokenizer(tmp_path)
    bad = A | {"content": "BAD", "weight": 0}
    rows = read_conversations(write(tmp_path / "x.jsonl", [U, bad, U, A], [U, A]))
    env = Env(torch.device("cpu"), torch.float32)
    packed = pack_conversations(tmp_path / "x.rows", lambda: iter(rows), tok, 127, {}, env,
                                need_target=True)
    # In midtraining all but the padding and that answer are targets, in SFT the answers alone.
    for only_learned, expected in (True, "Hello" * 2), (False, "HiHiHello" + "HiHello"):
        targets = packed.batch([0], only_learned)[1]
        said = tok.decode(targets[targets >= 0].tolist())
        for special in SPECIAL_TOKENS:
            said = said.replace(special, "")
        assert said == expected


def test_prompts_are_read_as_conversations_are(tmp_path, monkeypatch):
    lines = [{"prompt": "Hi", "system": "Be kind", "id": 7}, {"question": "Hi"},
             {"messages": [U, A, U]}]
    path = write(tmp_path / "x.jsonl", *lines)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    system = {"role": "system", "content": "Be kind"}
    expected = [([system, U], 7), ([U], None), ([U, A, U], None)]
    assert [(messages, row.get("id")) for _, messages, row in read_prompts(path)] == expected
    data = SimpleNamespace(buffer=io.BytesIO(path.read_bytes()))
    monkeypatch.setattr(sys, "stdin", data)
    assert [where for where, _, _ in read_prompts("-")] == [
        f"standard input:{line}" for line in (1, 2, 3)]
    # A row's answer is not shown to the model, but a conversation may end with one that goes on.
    lines = [{"question": "Hi", "answer": "x"}, {"user": "Hi", "assistant": "x"},
             {"messages": [U, A]}]
    assert [messages for _, messages, _ in read_prompts(write(path, *lines))] == [[U], [U], [U, A]]
    assert ignored_fields(lines[0], need_answer=False) == {"answer"}
    assert ignored_fields(lines[1], need_answer=False) == {"assistant"}
    bad = write(tmp_path / "y.jsonl", {"prompt": "Hi"}, '{"prompt": "\\ud800"}')
    with pytest.raises(ValueError, match="y.jsonl:2: message 1 .user.: lone surrogate"):
        list(read_prompts(bad))


@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_a_text_is_one_prompt_a_line(tmp_path, monkeypatch, start):
    path = tmp_path / "x.txt"
    path.write_text(start + "What is it?\n\n  \"Who\" \r\nlast", encoding="utf-8")
    stdin = SimpleNamespace(buffer=io.BytesIO(path.read_bytes()))
    monkeypatch.setattr(sys, "stdin", stdin)
    for source, name in (path, path), ("-", "standard input"):
        read = [(where, messages[0]["content"]) for where, messages, _ in read_prompts(source)]
        assert read == [(f"{name}:1", "What is it?"), (f"{name}:3", '"Who"'), (f"{name}:4", "last")]
    path.write_bytes(b"ok\ncaf\xe9\n")
    with pytest.raises(ValueError, match="x.txt:2: byte 0xe9 is not UTF-8"):
        list(read_prompts(path))
