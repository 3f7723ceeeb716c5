"""data/published/gsm8k.py: calculator marks become parts, and the last number is graded."""
import json
from pathlib import Path

import pytest

from data.formats import validate_conversation
from data.published.gsm8k import GSM8K, to_parts

FIXTURES = Path(__file__).resolve().parent / "fixtures"


def text(said):
    return {"type": "text", "text": said}


def python(code, output):
    return [{"type": "python", "text": code}, {"type": "python_output", "text": output}]


def test_gsm8k_rows_become_parts_as_in_the_worked_example():
    rows = [json.loads(line) for line in (FIXTURES / "gsm8k.jsonl").read_text().splitlines()]
    assert GSM8K.to_record(rows[1]) == json.loads((FIXTURES / "weng.json").read_text())
    assert GSM8K.to_record(rows[0])["messages"][1]["content"] == [
        text("Mia gives away 48/2 = "), *python("48/2", "24"),
        text(" marbles. Tom then has 24+24 = "), *python("24+24", "48"),
        text(" marbles. Together they have 48+24 = "), *python("48+24", "72"),
        text(" marbles.\n#### 72")]
    third = GSM8K.to_record(rows[2])["messages"][1]["content"]
    assert third[0]["text"] == "Both cost 1250.50+68.50 = "
    for row in rows:
        validate_conversation(GSM8K.to_record(row))


@pytest.mark.parametrize("solution, said", [
    # The result after the mark is equal in value.
    ("So $<<2*600=1200>>1,200.00 left\n#### 1,200", ["So ", " left.\n#### 1,200"]),
    # It is rounded: both are said.
    ("So <<10/3=3.3333>>3.33 left\n#### 3", ["So ", "3.33 left.\n#### 3"]),
    ("5*2=$<<5*2=10>>10\n#### 10", ["5*2 = ", ".\n#### 10"]),
    # Two marks in a row.
    ("<<1+1=2>><<2+1=3>>3\n#### 3", [".\n#### 3"]),
    ("There are <<3*4=12>>12 12-packs\n#### 12", ["There are ", " 12-packs.\n#### 12"]),
    # The expression before the mark is another one.
    ("Only 7 + 1 = <<2+1=3>>3\n#### 3", ["Only 7 + 1 = ", ".\n#### 3"]),
    ("No mark\n#### 5", ["No mark.\n#### 5"]),
    ("No hashes <<1+1=2>>2", ["No hashes "]),
])
def test_gsm8k_marks(solution, said):
    assert [part["text"] for part in to_parts(solution) if part["type"] == "text"] == said


def test_gsm8k_bad_rows():
    for answer, reason in [("<<5>>5\n#### 5", "has no result"),
                           ("It is 5", "no number after ####"), ("", "the content is empty")]:
        with pytest.raises(ValueError, match=reason):
            GSM8K.to_record({"question": "?", "answer": answer})


@pytest.mark.parametrize("answer, right", [
    ([text("#### 1,319")], True), ([text("#### 1319.0")], True), ([text("#### $1319")], True),
    ([text("It is 1319")], False), ([text("#### 7 no, #### 1319")], True),
    ([text("#### 1319 no, #### 7")], False), ([text("#### -1319")], False),
    ([text("####")], False), (python("1", "#### 1319"), False),
    ([text("####"), {"type": "python_output", "text": "1319"}], False), ([], False),
])
def test_gsm8k_grading(answer, right):
    reference = {"role": "assistant", "content": [text("so\n#### 1319")]}
    conversation = {"messages": [{"role": "user", "content": "Hi"}, reference]}
    assert GSM8K.grade(conversation, answer) is right
