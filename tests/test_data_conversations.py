"""data/conversations.py, mixture.py and check.py: every format to one record, every bad row with its reason, lazily."""
import json
import pickle
import re
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from random import Random

import pytest

from data.check import find_tokenizer, render
from data.conversations import read_conversations, read_preferences
from data.formats import to_conversation, to_preference, validate_conversation
from data.lazy import Mixture, Sequence

ROOT = Path(__file__).resolve().parent.parent
U, A = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}
S = {"role": "system", "content": "Be kind"}


def write(path, *rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


# ---- recognised formats ----

@pytest.mark.parametrize("row, messages", [
    ({"messages": [U, A]}, [U, A]),
    ({"messages": [S, U, A, U, A], "id": 3}, [S, U, A, U, A]),
    ([U, A], [U, A]),
    ({"conversations": [U, A]}, [U, A]),
    ({"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}, [U, A]),
    ({"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}], "system": "Be kind"},
     [S, U, A]),
    ({"instruction": "Hi", "input": "", "output": "Hello"}, [U, A]),
    ({"instruction": "Hi", "output": "Hello", "system": "Be kind"}, [S, U, A]),
    ({"instruction": "Add", "input": "1 2", "output": "Hello"}, [{"role": "user", "content": "Add\n\n1 2"}, A]),
    ({"instruction": "Hi", "output": "Hello", "history": [["Hi", "Hello"]]}, [U, A, U, A]),
    ({"prompt": "Hi", "completion": "Hello"}, [U, A]),
    ({"prompt": [S, U], "completion": [A]}, [S, U, A]),
    ({"messages": [{"role": "system", "content": ""}, U, A]}, [U, A]),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]}, A]},
     [U, A]),
    ({"messages": [U, A, U]}, [U, A, U]),
    ({"messages": [U, A], "system": "Be kind"}, [S, U, A]),
    ({"conversations": [S, U, A], "system": "Be rude"}, [S, U, A]),
    ({"messages": [U, A], "system": ""}, [U, A]),
    ({"prompt": [S, U], "completion": "Hello", "system": "Be rude"}, [S, U, A]),
    ({"prompt": "Hi", "response": "Hello", "label": True, "images": []}, [U, A]),
    ({"messages": [{"role": role, "content": [{"type": "text", "value": "Hi"}]} for role in ("user", "assistant")]},
     [U, {"role": "assistant", "content": [{"type": "text", "text": "Hi"}]}]),
])
def test_conversation_formats(row, messages):
    assert to_conversation(row)[1] == {"messages": messages}


def test_parts_stay_parts():
    parts = [{"type": "text", "text": "2+2="}, {"type": "python", "text": "2+2"},
             {"type": "python_output", "text": "4"}]
    row = {"messages": [U, {"role": "assistant", "content": parts}]}
    assert to_conversation(row)[1] == row


HH = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Hi\n\nAssistant: "


@pytest.mark.parametrize("row, before", [
    ({"chosen": [U, A], "rejected": [U, {"role": "assistant", "content": "Go"}]}, [U]),
    ({"prompt": "Hi", "chosen": [U, A], "rejected": [U, {"role": "assistant", "content": "Go"}], "score_chosen": 9},
     [U]),
    ({"prompt": [S, U], "chosen": [A], "rejected": [{"role": "assistant", "content": "Go"}]}, [S, U]),
    ({"prompt": "Hi", "chosen": "Hello", "rejected": "Go"}, [U]),
    ({"prompt": "Hi", "chosen": "Hello", "rejected": "Go", "system": "Be kind"}, [S, U]),
    ({"prompt": [U, A, U], "chosen": "Hello", "rejected": "Go", "system": "Be kind"}, [S, U, A, U]),
    ({"instruction": "Hi", "input": "", "chosen": "Hello", "rejected": "Go", "system": "Be kind"}, [S, U]),
    ({"conversations": [{"from": "human", "value": "Hi"}], "chosen": {"from": "gpt", "value": "Hello"},
      "rejected": {"from": "gpt", "value": "Go"}}, [U]),
    ({"chosen": HH + "Hello", "rejected": HH + "Go"}, [U, A, U]),
    ({"prompt": HH, "chosen": "Hello", "rejected": "Go"}, [U, A, U]),
    ({"prompt": HH, "chosen": HH + "Hello", "rejected": HH + "Go"}, [U, A, U]),
    ({"chosen": [S, U, A], "rejected": [S, U, {"role": "assistant", "content": "Go"}]}, [S, U]),
])
def test_preference_formats(row, before):
    pair = to_preference(row)[1]
    assert pair == {"chosen": {"messages": before + [A]},
                    "rejected": {"messages": before + [{"role": "assistant", "content": "Go"}]}}


# ---- bad rows ----

@pytest.mark.parametrize("row, reason", [
    (5, "expected an object or a list of messages, got int"),
    ({}, "not recognised: the row has no fields; expected messages"),
    ({"text": "x"}, "not recognised: the row has the fields text; expected messages"),
    ({"text": "x"}, "This is text: it belongs to tokenizer.py and pretrain.py"),
    ({"chosen": "a", "rejected": "b"}, "belongs to dpo.py"),
    ({"chosen": A, "rejected": A, "conversations": [U]}, "a preference pair (chosen, rejected), not a conversation"),
    ({"messages": [U, A], "label": False}, "label is false: the answer is an unwanted one"),
    ({"messages": [U, A], "images": ["a.png"]}, "the row has images: a model here reads text only"),
    ({"messages": []}, "expected a non-empty list of messages"),
    ({"messages": "Hi"}, "expected a list of messages, got str"),
    ({"messages": ["Hi"]}, "message 1 is a str"),
    ({"messages": [A, U]}, "message 1 has role 'assistant', expected 'user'"),
    ({"messages": [U, U]}, "message 2 has role 'user', expected 'assistant'"),
    ({"messages": [U, A, S]}, "message 3 has role 'system', expected 'user'"),
    ({"messages": [U]}, "no assistant message"),
    ({"messages": [S]}, "a system message and nothing else"),
    ({"messages": [S, A]}, "message 2 has role 'assistant', expected 'user'"),
    ({"messages": [U, {"role": "tool", "content": "x"}]}, "message 2 has role 'tool', expected one of"),
    ({"messages": [U, {"role": ["a"], "content": "x"}]}, "message 2 has role"),
    ({"messages": [U, {"role": "assistant"}]},
     "message 2 (assistant): content is NoneType, expected a string or a list"),
    ({"messages": [{"role": "user", "content": 3}, A]}, "message 1 (user): content is int, expected a string"),
    ({"messages": [U, {"role": "assistant", "content": " \n"}]}, "message 2 (assistant): the content is empty"),
    ({"messages": [U, {"role": "assistant", "content": []}]}, "message 2 (assistant): the content is empty"),
    ({"messages": [U, {"role": "assistant", "content": [{"type": "image", "text": ""}]}]},
     "expected {\"type\": \"text\""),
    ({"messages": [U, {"role": "assistant", "content": [{"type": "text", "text": 3}]}]},
     "expected {\"type\": \"text\""),
    ({"messages": [U, {"role": "assistant", "content": [{"type": "python_output", "text": "3"}]}]},
     "does not follow a python"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}, A]},
     "message 1 (user) has parts other than text"),
    ({"messages": [U, {"role": "assistant", "content": "a\ud800"}]}, "message 2 (assistant): lone surrogate \\ud800"),
    ({"messages": [{"role": "user", "content": "a\x00"}, A]}, "message 1 (user): NUL character at position 1"),
    ({"instruction": "Hi", "input": 5, "output": "x"}, "instruction and input must be strings"),
    ({"instruction": "Hi", "output": ""}, "message 2 (assistant): the content is empty"),
    ({"instruction": "Hi", "output": "x", "history": ["a"]}, "history must be a list of [user, assistant] pairs"),
    ({"instruction": "Hi", "output": "x", "history": 5}, "history must be a list of [user, assistant] pairs"),
    ({"prompt": None, "completion": "x"}, "message 1 (user): content is NoneType"),
])
def test_bad_conversations(row, reason):
    with pytest.raises(ValueError, match=re.escape(reason)):
        to_conversation(row)


@pytest.mark.parametrize("row, reason", [
    ({"messages": [U, A]}, "expected an object with the fields chosen and rejected, got the fields messages"),
    ([U, A], "got a list. These are conversations: they belong to midtrain.py and sft.py"),
    ({"prompt": "Hi", "response": "x"}, "These are conversations: they belong to midtrain.py and sft.py"),
    ({"text": "x"}, "got the fields text. This is text: it belongs to tokenizer.py and pretrain.py"),
    ({"prompt": "Hi", "chosen": "a", "rejected": "b", "audios": ["a.wav"]}, "the row has audios"),
    ({"chosen": "a", "rejected": "b"}, "strings without a prompt"),
    ({"chosen": [A], "rejected": [A]}, "the field prompt is missing"),
    ({"prompt": "Hi", "chosen": "a", "rejected": "a"}, "chosen and rejected are equal"),
    ({"prompt": "Hi", "chosen": "a", "rejected": None},
     "rejected must be a string or a list of messages, got NoneType"),
    ({"prompt": "Hi", "chosen": "a", "rejected": ""}, "rejected: message 2 (assistant): the content is empty"),
    ({"chosen": [U, A], "rejected": [{"role": "user", "content": "Other"}, A]}, "differ before their last answer"),
    ({"chosen": [U, A, U], "rejected": [U, A, U]}, "chosen: the last message is not the assistant's"),
    ({"chosen": HH, "rejected": HH}, "chosen: the last message is not the assistant's"),
])
def test_bad_preferences(row, reason):
    with pytest.raises(ValueError, match=re.escape(reason)):
        to_preference(row)


def test_prompts_alone_are_taken_only_when_asked_for():
    validate_conversation({"messages": [U]}, need_answer=False)
    assert to_conversation({"prompt": "Hi"}, need_answer=False)[1] == {"messages": [U]}
    with pytest.raises(ValueError, match="no assistant message"):
        validate_conversation({"messages": [U]})


# ---- files ----

def test_files_are_read_lazily_in_order(tmp_path):
    write(tmp_path / "b.jsonl", {"prompt": "b0", "completion": "é"}, "", [U, A])
    write(tmp_path / "a.jsonl", *[{"prompt": f"a{i}", "completion": "x"} for i in range(5)])
    rows = read_conversations(tmp_path)
    assert len(rows) == 7 and rows[-1] == {"messages": [U, A]}
    assert [row["messages"][0]["content"] for row in rows] == ["a0", "a1", "a2", "a3", "a4", "b0", "Hi"]
    assert [row["messages"][0]["content"] for row in rows[1:6:2]] == ["a1", "a3", "b0"]
    assert pickle.loads(pickle.dumps(rows))[2] == rows[2]
    assert rows.kinds == {"prompt/completion": 6, "messages (bare list)": 1}
    with pytest.raises(IndexError):
        rows[7]
    write(tmp_path / "a.jsonl", "{}")
    with pytest.raises(ValueError, match="a.jsonl: the file has changed since it was checked .at byte 0: not"):
        rows[0]


def test_a_bad_row_stops_or_is_counted_and_named(tmp_path, capsys):
    path = write(tmp_path / "x.jsonl", {"messages": [U, A]}, "{broken", {"messages": [A]}, {"messages": [U, A]})
    with pytest.raises(ValueError, match=r"x.jsonl:2: broken JSON at column 2.*check.py.*--skip_bad_rows") as e:
        read_conversations(path)
    assert "\n" not in str(e.value)
    rows = read_conversations(path, skip_bad_rows=True)
    assert len(rows) == 2 and rows[1] == {"messages": [U, A]}
    err = capsys.readouterr().err
    assert "skipped 2 bad rows of 4" in err and "x.jsonl:3: message 1 has role 'assistant'" in err


def test_files_without_a_good_row_are_errors(tmp_path):
    for content, reason in [("", "no conversation in here"), ("[\n[],\n]", "x.json:2: expected a non-empty list"),
                            ('{\n"a": 1}', "one complete value on each line")]:
        (tmp_path / "x.json").write_text(content)
        with pytest.raises(ValueError, match=reason):
            read_conversations(tmp_path / "x.json")
    with pytest.raises(ValueError, match="no preference pair in here"):
        read_preferences(write(tmp_path / "y.jsonl", {"messages": [U, A]}), skip_bad_rows=True)


@pytest.mark.parametrize("style", [dict(), dict(indent=2), dict(indent="\t", ensure_ascii=False),
                                   dict(separators=(",", ":"))])
def test_a_file_may_be_one_array(tmp_path, style):
    """As the rows one by one: whatever the layout, and whatever stands in their strings; also lists of messages."""
    rows, random = [], Random(0)
    for i in range(200):
        text = "".join(random.choices('[]{}",:\\ \n\té😀0', k=random.randrange(1, 30))) + "x"
        rows.append(random.choice([{"instruction": text, "output": str(i)}, [{"role": "user", "content": text}, A],
                                   {"conversations": [{"from": "human", "value": text}, {"from": "gpt", "value": "y"}],
                                    "id": [i, {"n": None, "[": 1.5e3, "{": True}]}]))
    lines = read_conversations(write(tmp_path / "rows.jsonl", *rows))
    for start, end in ("", ""), ("\ufeff \n", "\n\n"):
        (tmp_path / "rows.json").write_text(start + json.dumps(rows, **style) + end, encoding="utf-8", newline="\r\n")
        array = read_conversations(tmp_path / "rows.json")
        assert list(array) == list(lines) and array.kinds == lines.kinds and array[77] == lines[77]


def test_a_broken_array_says_where_and_keeps_the_rows_before(tmp_path):
    rows = [{"prompt": f"a {i}", "completion": "[b] {c}"} for i in range(4)]
    whole = json.dumps(rows, indent=1)
    for end in range(3, len(whole)):                                     # cut off anywhere
        (tmp_path / "x.json").write_text(whole[:end])
        with pytest.raises(ValueError, match=r"x.json:\d+( .element 1.)?: (the array's|(broken|unreadable) J)"):
            read_conversations(tmp_path / "x.json")
        if (good := whole[:end].count("}\n") + whole[:end].count("},") + whole[:end].endswith(" }")) > 1:
            assert len(read_conversations(tmp_path / "x.json", skip_bad_rows=True)) == good
    for broken, reason in [(whole.replace('"a 1",', '"a 1"'), "x.json:6: broken JSON at column 3, 2 lines on"),
                           (whole.replace('"prompt": "a 2"', "5"), "x.json:10: broken JSON"),
                           (whole[:-1] + ", 5, null]", "x.json:18: expected an object or a list of messages, got int"),
                           (whole + "]", "the array's brackets do not match")]:
        (tmp_path / "x.json").write_text(broken)
        with pytest.raises(ValueError, match=reason):
            read_conversations(tmp_path / "x.json")


def test_lines_that_begin_with_a_bracket_are_lines_whatever_the_first_says(tmp_path):
    for first in "[]", "[1, 2]", '["Hi", "Hello"]', '[{"rol": "user"}]', '[{"prompt": "a", "completion": "b"}]':
        path = write(tmp_path / "x.jsonl", "", first, [U, A], "", [U, A])
        with pytest.raises(ValueError, match="x.jsonl:2: "):
            read_conversations(path)
        rows = read_conversations(path, skip_bad_rows=True)
        assert list(rows) == [{"messages": [U, A]}] * 2 and len(rows.bad) == 1
    row = {"role": "tutor", "from": "a book", "messages": [U, A]}               # no messages though it has their fields
    for layout in dict(), dict(indent=1):
        (tmp_path / "x.json").write_text(json.dumps([row] * 3, **layout))
        assert list(read_conversations(tmp_path / "x.json")) == [{"messages": [U, A]}] * 3


def test_a_bad_row_of_an_array_on_one_line_is_named(tmp_path):
    rows = [{"prompt": f"a {i}", "completion": "x\n"} for i in range(900)]
    rows[700] = {}
    (tmp_path / "x.json").write_text("\n" + json.dumps(rows) + "\n\n")
    with pytest.raises(ValueError, match=r"x.json:2 \(element 701\): not recognised"):
        read_conversations(tmp_path / "x.json")
    (tmp_path / "x.json").write_text(json.dumps(rows[:2])[:-1])
    assert read_conversations(tmp_path / "x.json", skip_bad_rows=True).bad[0][0].endswith("x.json:1 (element 3)")


def test_a_string_without_an_end_takes_no_longer_than_the_file(tmp_path):
    (tmp_path / "x.json").write_text('[{"prompt": "' + '\\"' * 1_000_000)      # 2 MB: a minute if each quote read on
    start = time.process_time()
    with pytest.raises(ValueError, match=r"x.json:1 \(element 1\): broken JSON"):
        read_conversations(tmp_path / "x.json")
    assert time.process_time() - start < 10


def test_the_index_is_small(tmp_path):
    path = write(tmp_path / "x.jsonl", *[{"prompt": "Hi", "completion": "word " * 200}] * 5000)
    tracemalloc.start()
    rows = read_conversations(path)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(rows) == 5000 and held < 30 * 5000                       # the file has 1,000 bytes a row


# ---- mixtures ----

class Numbers(list):
    """A source that counts how often it is read."""
    reads = 0

    def __getitem__(self, i):
        self.reads += 1
        return super().__getitem__(i)


def test_mixture_is_a_deterministic_shuffle_of_all_items():
    sources = [list(range(1000)), list(range(1000, 1500))]
    mixture = Mixture(sources)
    assert sorted(mixture) == list(range(1500)) and list(mixture) != list(range(1500))
    assert list(mixture) == list(Mixture(sources)) != list(Mixture(sources, seed=1))
    assert sum(item >= 1000 for item in mixture[:300]) > 60              # mixed, not one after the other


def test_mixture_epochs_caps_and_negative_index():
    identity = ["i", "j"]
    mixture = Mixture([identity, identity, (range(100), 3), (["z"], 10)])
    assert sorted(map(str, mixture)) == ["0", "1", "2", "i", "i", "j", "j", "z"]
    assert mixture[-1] == mixture[7] and len(Mixture([])) == 0
    with pytest.raises(ValueError, match="at least 0, not -1"):
        Mixture([([1], -1)])
    with pytest.raises(IndexError):
        mixture[8]


def test_sequence_keeps_the_order_and_skips_empty_sources():
    sequence = Sequence([[], [1, 2], [], (range(5), 2), [9]])
    assert list(sequence) == [1, 2, 0, 1, 9] and sequence[-5] == 1


def test_slices_are_views_and_nothing_is_read_before_it_is_asked_for():
    numbers = Numbers(range(1_000_000))
    mixture = Mixture([numbers, numbers])
    view = mixture[10:1_000_000:7][::2][3:5]
    assert numbers.reads == 0 and len(view) == 2
    assert list(view) == [mixture[10 + 14 * 3], mixture[10 + 14 * 4]] and numbers.reads == 4
    assert list(Sequence([range(5)])[::-1]) == [4, 3, 2, 1, 0]
    assert pickle.loads(pickle.dumps(view))[1] == view[1]                # workers get it by pickling


# ---- data/check.py ----

def check(tmp_path, *args):
    return subprocess.run([sys.executable, "data/check.py", "--out", str(tmp_path / "no-such"), *map(str, args)],
                          cwd=ROOT,
                          capture_output=True, text=True)


def test_check_reports_good_and_bad_rows(tmp_path):
    parts = [{"type": "python", "text": "2+2"}, {"type": "python_output", "text": "4"},
             {"type": "text", "text": "So 4"}]
    good = write(tmp_path / "good.jsonl", {"messages": [U, {"role": "assistant", "content": parts}]},
                 {"prompt": "x" * 200, "completion": "\x1b[31mred"},
                 [U, {"role": "assistant", "content": "long " * 100}])
    pairs = write(tmp_path / "pairs.jsonl", {"prompt": "Hi", "chosen": "Hello", "rejected": "Go"})
    texts = write(tmp_path / "texts.jsonl", {"text": "A document."})
    bad = write(tmp_path / "bad.jsonl", [U, A], "{", {"text": "x"}, [A], {"prompt": "Hi", "completion": "\ud800"})
    report = check(tmp_path, good, pairs, texts, "--seq_len", 40)
    assert report.returncode == 0, report.stdout + report.stderr
    for line in ["rows        3: 3 good, 0 bad",
                 "conversations, for midtrain.py and sft.py: 1 messages, 1 prompt/completion",
                 "2 do not fit in a row and lose their end (66.7 %); in 1 of these no answer is left",
                 "preference pairs, for dpo.py",
                 "documents, for tokenizer.py and pretrain.py",
                 "<|assistant_start|>[[<|python_start|>2+2<|python_end|>]]"
                 "<|output_start|>4<|output_end|>[[So 4<|assistant_end|>]]",
                 "[[\\x1b[31mred<|assistant_end|>]]", "counting bytes in place of tokens"]:
        assert line in report.stdout, report.stdout
    assert "\x1b" not in report.stdout                                   # no colours in a file, and none of the data's
    report = check(tmp_path, bad, "--color")
    assert report.returncode == 1 and "rows        5: 1 good, 4 bad" in report.stdout
    for line in ["bad.jsonl:2: broken JSON", "bad.jsonl:3: documents, for tokenizer.py",
                 "bad.jsonl:4: message 1 has role",
                 "bad.jsonl:5: message 2 (assistant): lone surrogate", "\x1b[32mHello<|assistant_end|>\x1b[0m"]:
        assert line in report.stdout, report.stdout


def test_check_knows_prompts(tmp_path):
    """What distill.py takes is good: rows with a prompt alone, among them conversations for their last question."""
    prompts = write(tmp_path / "prompts.jsonl", {"prompt": "Hi"}, {"prompt": [U], "system": "Be kind"},
                    {"messages": [U, A]}, {"messages": [U]}, {"prompt": "x" * 100})
    mixed = write(tmp_path / "mixed.jsonl", {"prompt": "Hi", "completion": "Hello"}, {"prompt": "Hi"})
    report = check(tmp_path, prompts, "--seq_len", 40)
    assert report.returncode == 0 and len(read_conversations([prompts], need_answer=False)) == 5
    for line in ["rows        5: 5 good, 0 bad", "prompts, for distill.py: 3 prompt, 2 messages",
                 "0 of them supervised", "1 take more than half a row and lose their beginning (20.0 %)",
                 "<|bos|><|user_start|>Hi<|user_end|><|assistant_start|>"]:
        assert line in report.stdout, report.stdout
    report = check(tmp_path, mixed)
    assert report.returncode == 1 and "mixed.jsonl:2: prompts, for distill.py, in a file that begins" in report.stdout


def test_check_takes_rows_for_what_training_takes_them_for(tmp_path):
    rows = write(tmp_path / "rows.jsonl", *[dict(row, text="a copy of it all") for row in (
        {"instruction": "Hi", "output": "Hello"}, {"prompt": "Hi", "completion": "Hello"},
        {"prompt": "Hi", "response": "Hello"}, {"conversations": [U, A]}, {"messages": [U, A]})])
    report = check(tmp_path, rows)
    assert report.returncode == 0 and "conversations, for midtrain.py and sft.py: 1 " in report.stdout
    report = check(tmp_path, write(tmp_path / "texts.jsonl", {"text": "x", "instruction": "a field of its own"}))
    assert report.returncode == 0 and "documents, for tokenizer.py and pretrain.py: 1 text" in report.stdout


def test_check_of_files_without_a_good_row(tmp_path):
    for i, content in enumerate(("", "\n \n", "[]", "{}\n5\n")):
        (tmp_path / f"{i}.json").write_text(content)
    report = check(tmp_path, *tmp_path.glob("*.json"))
    assert report.returncode == 1 and report.stdout.count("no rows") == 3 and "skip_bad_rows" not in report.stdout
    assert "2 bad rows in 1 of 4 files. Repair them: no row is good\n" in report.stdout
    assert check(tmp_path, tmp_path / "0.json").returncode == 1
    report = check(tmp_path, tmp_path / "3.json", write(tmp_path / "good.jsonl", [U, A]))
    assert report.returncode == 1 and "train without them: --skip_bad_rows" in report.stdout


def test_check_counts_what_the_tokenizer_renders(tmp_path):
    tok, unit = find_tokenizer(tmp_path / "none")
    ids, mask, cut, skipped = render({"messages": [S, U, A]}, tok, 100)
    assert unit == "bytes" and (ids, mask) == tok.render_conversation({"messages": [S, U, A]})
    assert not cut and not skipped
    assert sum(mask) == len("Hello") + 1 and len(ids) == len("Be kind\n\nHiHello") + 5
    assert render({"messages": [S, U, A]}, tok, 12)[2:] == (True, True)
    assert render({"messages": [S, U, A]}, tok, 16)[2:] == (True, False)
    pair = {"chosen": {"messages": [U, A]}, "rejected": {"messages": [U, {"role": "assistant", "content": "Go"}]}}
    assert len(render(pair, tok, 8)[0]) == 2 * 7 + len("HelloGo") and render(pair, tok, 8)[2:] == (True, True)


def test_check_wrong_usage_is_status_2(tmp_path):
    for args, message in [(["missing.jsonl"], "no such file"), ([], "required: FILE"),
                          (["x", "--frob"], "unrecognized")]:
        report = check(tmp_path, *args)
        assert report.returncode == 2 and message in report.stderr and report.stderr.count("\n") == 1
