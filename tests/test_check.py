"""data/check.py, run as a user runs it: what it recognises, counts, shows and calls bad."""
import json
import subprocess
import sys

import pytest

from data.check import find_tokenizer, render
from data.conversations import read_conversations
from toy import ROOT

U = {"role": "user", "content": "Hi"}
A = {"role": "assistant", "content": "Hello"}
S = {"role": "system", "content": "Be kind"}


def write(path, *rows):
    """One row a line; a str is written as it is, so that a line can be broken JSON."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(line + "\n" for line in lines))
    return path


def check(tmp_path, *args):
    command = [sys.executable, "data/check.py", "--out", tmp_path / "no-such", *args]
    return subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True)


def says(report, *lines):
    for line in lines:
        assert line in report.stdout, report.stdout + report.stderr


@pytest.mark.slow
def test_check_reports_good_and_bad_rows(tmp_path):
    parts = [
        {"type": "python", "text": "2+2"},
        {"type": "python_output", "text": "4"},
        {"type": "text", "text": "So 4"},
    ]
    good = write(tmp_path / "good.jsonl",
                 {"messages": [U, {"role": "assistant", "content": parts}]},
                 {"prompt": "x" * 200, "completion": "\x1b[31mred"},
                 [U, {"role": "assistant", "content": "long " * 100}])
    pairs = write(tmp_path / "pairs.jsonl", {"prompt": "Hi", "chosen": "Hello", "rejected": "Go"})
    texts = write(tmp_path / "texts.jsonl", {"text": "A document."})
    report = check(tmp_path, good, pairs, texts, "--seq_len", 40)
    assert report.returncode == 0, report.stdout + report.stderr
    says(report,
         "rows        3: 3 good, 0 bad",
         "conversations, for midtrain.py and sft.py: 1 messages, 1 prompt/completion",
         "2 do not fit in a row and lose their end (66.7 %); in 1 of these no answer is left",
         "preference pairs, for dpo.py",
         "documents, for tokenizer.py and pretrain.py",
         "<|assistant_start|>[[<|python_start|>2+2<|python_end|>]]"
         "<|output_start|>4<|output_end|>[[So 4<|assistant_end|>]]",
         "[[\\x1b[31mred<|assistant_end|>]]",
         "counting bytes in place of tokens")
    # No colours where the output is no terminal, and none that stand in the data.
    assert "\x1b" not in report.stdout

    bad = write(tmp_path / "bad.jsonl", [U, A], "{", {"text": "x"}, [A],
                {"prompt": "Hi", "completion": "\ud800"})
    report = check(tmp_path, bad, "--color")
    assert report.returncode == 1
    says(report,
         "rows        5: 1 good, 4 bad",
         "bad.jsonl:2: broken JSON",
         "bad.jsonl:3: documents, for tokenizer.py",
         "bad.jsonl:4: message 1 has role",
         "bad.jsonl:5: message 2 (assistant): lone surrogate",
         "\x1b[32mHello<|assistant_end|>\x1b[0m")


@pytest.mark.slow
def test_check_knows_prompts(tmp_path):
    """What distill.py takes is good: prompts alone, and conversations for their last question."""
    prompts = write(tmp_path / "prompts.jsonl", {"prompt": "Hi"},
                    {"prompt": [U], "system": "Be kind"}, {"messages": [U, A]},
                    {"messages": [U]}, {"prompt": "x" * 100})
    report = check(tmp_path, prompts, "--seq_len", 40)
    assert report.returncode == 0
    assert len(read_conversations([prompts], need_answer=False)) == 5
    says(report,
         "rows        5: 5 good, 0 bad",
         "prompts, for distill.py: 3 prompt, 2 messages",
         "0 of them supervised",
         "1 take more than half a row and lose their beginning (20.0 %)",
         "<|bos|><|user_start|>Hi<|user_end|><|assistant_start|>")

    mixed = write(tmp_path / "mixed.jsonl", {"prompt": "Hi", "completion": "Hello"},
                  {"prompt": "Hi"})
    report = check(tmp_path, mixed)
    assert report.returncode == 1
    says(report, "mixed.jsonl:2: prompts, for distill.py, in a file that begins")


@pytest.mark.slow
def test_check_takes_rows_for_what_training_takes_them_for(tmp_path):
    rows = [
        {"instruction": "Hi", "output": "Hello"},
        {"prompt": "Hi", "completion": "Hello"},
        {"prompt": "Hi", "response": "Hello"},
        {"conversations": [U, A]},
        {"messages": [U, A]},
    ]
    with_text = [dict(row, text="a copy of it all") for row in rows]
    report = check(tmp_path, write(tmp_path / "rows.jsonl", *with_text))
    assert report.returncode == 0
    says(report, "conversations, for midtrain.py and sft.py: 1 ")

    text = {"text": "x", "instruction": "a field of its own"}
    report = check(tmp_path, write(tmp_path / "texts.jsonl", text))
    assert report.returncode == 0
    says(report, "documents, for tokenizer.py and pretrain.py: 1 text")


@pytest.mark.slow
def test_check_of_files_without_a_good_row(tmp_path):
    for i, content in enumerate(("", "\n \n", "[]", "{}\n5\n")):
        (tmp_path / f"{i}.json").write_text(content)
    report = check(tmp_path, *tmp_path.glob("*.json"))
    assert report.returncode == 1
    assert report.stdout.count("no rows") == 3
    assert "skip_bad_rows" not in report.stdout
    says(report, "2 bad rows in 1 of 4 files. Repair them: no row is good\n")
    assert check(tmp_path, tmp_path / "0.json").returncode == 1
    report = check(tmp_path, tmp_path / "3.json", write(tmp_path / "good.jsonl", [U, A]))
    assert report.returncode == 1
    says(report, "train without them: --skip_bad_rows")


def test_check_counts_what_the_tokenizer_renders(tmp_path):
    tok, unit = find_tokenizer(tmp_path / "none")
    record = {"messages": [S, U, A]}
    ids, mask, cut, skipped = render(record, tok, 100)
    assert unit == "bytes"
    assert (ids, mask) == tok.render_conversation(record)
    assert not cut and not skipped
    assert sum(mask) == len("Hello") + 1
    assert len(ids) == len("Be kind\n\nHiHello") + 5
    assert render(record, tok, 12)[2:] == (True, True)
    assert render(record, tok, 16)[2:] == (True, False)
    go = {"role": "assistant", "content": "Go"}
    pair = {"chosen": {"messages": [U, A]}, "rejected": {"messages": [U, go]}}
    ids, mask, cut, skipped = render(pair, tok, 8)
    assert len(ids) == 2 * 7 + len("HelloGo")
    assert (cut, skipped) == (True, True)


@pytest.mark.slow
def test_check_wrong_usage_is_status_2(tmp_path):
    for args, message in [(["missing.jsonl"], "no such file"), ([], "required: FILE"),
                          (["x", "--frob"], "unrecognized")]:
        report = check(tmp_path, *args)
        assert report.returncode == 2
        assert message in report.stderr
        assert report.stderr.count("\n") == 1
