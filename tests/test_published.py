"""data/published/: the rows of smoltalk, mmlu, arc, ultrafeedback and hh as they are published."""
import gzip
import json

import pytest

from data.published.arc import ARCChallenge, ARCEasy
from data.published.hh import HH
from data.published.mmlu import MMLU
from data.published.smoltalk import SmolTalk
from data.published.ultrafeedback import UltraFeedback

SYSTEM = {"role": "system", "content": "Be kind"}
USER = {"role": "user", "content": "Hi"}
ASSISTANT = {"role": "assistant", "content": "Hello"}
WORSE = {"role": "assistant", "content": "Go"}


def put(tmp_path, path, rows):
    """Write rows where download.py would: as .parquet (skipped without pyarrow) or .jsonl.gz."""
    path = tmp_path / path
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pa = pytest.importorskip("pyarrow")
        pq = pytest.importorskip("pyarrow.parquet")
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        with gzip.open(path, "wt", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)


def test_smoltalk(tmp_path, capsys):
    rows = [{"messages": messages, "source": "x"} for messages in (
        [USER, ASSISTANT], [SYSTEM, USER, ASSISTANT, USER, ASSISTANT],
        [ASSISTANT, USER], [SYSTEM, USER])]
    put(tmp_path, "smoltalk/data/train-00000-of-00002.parquet", rows)
    put(tmp_path, "smoltalk/data/train-00001-of-00002.parquet", rows[:1] * 50)
    put(tmp_path, "smoltalk/data/test-00000-of-00001.parquet", rows[:1])
    task = SmolTalk("train", dest=tmp_path)
    assert len(task) == 52 and {"messages": rows[1]["messages"]} in list(task)
    assert "kept 52 rows, left out 2" in capsys.readouterr().err
    assert len(SmolTalk("test", dest=tmp_path)) == 1
    assert len(SmolTalk("train", 7, dest=tmp_path)) == 7
    # The second time nothing is prepared.
    assert list(SmolTalk("train", dest=tmp_path)) == list(task) and capsys.readouterr().err == ""
    assert [task[i] for i in range(7)] == list(SmolTalk("train", 7, dest=tmp_path))


def test_mmlu_prompt_letters_and_subject(tmp_path):
    row = {"question": "What is the capital of France?", "subject": "geography",
           "choices": ["Berlin", "Rome", "Paris", "Madrid"], "answer": 2}
    put(tmp_path, "mmlu/all/test-00000-of-00001.parquet", [row])
    put(tmp_path, "mmlu/all/auxiliary_train-00000-of-00001.parquet",
        [{"train": {**row, "subject": "", "answer": 0}}])
    record = MMLU("test", dest=tmp_path)[0]
    prompt = ("Multiple Choice question: What is the capital of France?\n"
              "- Berlin=A\n- Rome=B\n- Paris=C\n- Madrid=D\n\n"
              "Respond only with the letter of the correct answer.")
    assert record == {"messages": [{"role": "user", "content": prompt},
                                   {"role": "assistant", "content": "C"}],
                      "letters": ["A", "B", "C", "D"], "subject": "geography"}
    assert MMLU("train", dest=tmp_path)[0]["messages"][1]["content"] == "A"
    for said, right in [("C", True), (" c.\n", True), ("A", False), ("", False),
                        ("C or D", False)]:
        assert MMLU.grade(record, [{"type": "text", "text": said}]) is right


def test_arc_numbers_become_letters_and_bad_rows_are_left_out(tmp_path, capsys):
    rows = [{"id": "a", "question": "Why?", "answerKey": "3",
             "choices": {"text": ["x", "y", "z"], "label": ["1", "2", "3"]}},
            {"id": "b", "question": "Why?", "answerKey": "E",
             "choices": {"text": ["x", "y"], "label": ["A", "B"]}}]
    put(tmp_path, "arc/ARC-Easy/train-00000-of-00001.parquet", rows)
    put(tmp_path, "arc/ARC-Challenge/train-00000-of-00001.parquet", rows[:1] * 3)
    record = ARCEasy("train", dest=tmp_path)[0]
    assert record["letters"] == ["A", "B", "C"] and record["messages"][1]["content"] == "C"
    assert record["subject"] == "ARC-Easy"
    assert "kept 1 rows, left out 1" in capsys.readouterr().err
    assert len(ARCChallenge("train", dest=tmp_path)) == 3
    assert ARCChallenge("train", dest=tmp_path)[0]["subject"] == "ARC-Challenge"


def test_preferences(tmp_path, capsys):
    good = {"prompt": "Hi", "prompt_id": "1", "messages": [USER, ASSISTANT],
            "chosen": [USER, ASSISTANT], "rejected": [USER, WORSE],
            "score_chosen": 8.0, "score_rejected": 3.0}
    same = {"prompt": "Hi", "chosen": [USER, ASSISTANT], "rejected": [USER, ASSISTANT]}
    put(tmp_path, "ultrafeedback/data/train_prefs-00000-of-00001.parquet", [good, same])
    task = UltraFeedback("pairs", dest=tmp_path)
    assert len(task) == 1
    assert task.pair(0) == {"chosen": {"messages": [USER, ASSISTANT]},
                            "rejected": {"messages": [USER, WORSE]}}
    assert task[0] == {"messages": [USER, ASSISTANT]}
    assert "left out 1; the first" in capsys.readouterr().err

    begin = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Hi\n\nAssistant:"
    for subset in "helpful-base", "harmless-base":
        put(tmp_path, f"hh/{subset}/train.jsonl.gz",
            [{"chosen": begin + " Hello", "rejected": begin + " Go"},
             {"chosen": begin, "rejected": begin + " Go"}])
    task = HH("pairs", dest=tmp_path)
    assert len(task) == 2
    assert task.pair(1)["rejected"]["messages"] == [USER, ASSISTANT, USER, WORSE]
