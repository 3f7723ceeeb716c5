"""Small downloads: every source in its published form, where data/download.py would put it."""
from pathlib import Path

from data.published.core_tasks import TASKS
from toy import write_jsonl

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def turn(user, answer):
    return [{"role": "user", "content": user}, {"role": "assistant", "content": answer}]


def smoltalk(i):
    return {"messages": turn(f"Talk {i}", f"Sure, {i}.")}


def smoltalk_test(i):
    return {"messages": turn(f"Test talk {i}", f"Sure, {i}.")}


def mmlu(i):
    return {"question": f"What is {i} plus 1?", "choices": [str(i + k) for k in range(4)],
            "answer": 1, "subject": f"sums {i % 2}"}


def arc(i, n=4):
    return {"id": str(i), "question": f"Which is number {i}?", "answerKey": LETTERS[i % n],
            "choices": {"text": [f"option {k}" for k in range(n)], "label": list(LETTERS[:n])}}


def gsm8k(i):
    return {"question": f"Two boxes of {i}?",
            "answer": f"They hold 2*{i} = <<2*{i}={2 * i}>>{2 * i}.\n#### {2 * i}"}


def preference(i):
    return {"prompt": f"Say {i}", "chosen": turn(f"Say {i}", f"It is {i}."),
            "rejected": turn(f"Say {i}", "No.")}


def transcript(i):
    asked = f"\n\nHuman: Ask {i}\n\nAssistant: "
    return {"chosen": asked + f"Told {i}", "rejected": asked + "Never"}


def human_eval(i):
    return {"task_id": f"HumanEval/{i}", "entry_point": f"add{i}",
            "prompt": f"def add{i}(x):\n    \"\"\"x plus {i}.\"\"\"\n",
            "canonical_solution": f"    return x + {i}\n",
            "test": f"def check(f):\n    assert f(1) == {1 + i}\n"}


# Path: (what makes row number i, how many rows).
FILES = {
    "smoltalk/data/train": (smoltalk, 120),
    "smoltalk/data/test": (smoltalk_test, 7),
    "mmlu/all/auxiliary_train": (lambda i: {"train": mmlu(1000 + i)}, 9),
    "mmlu/all/test": (mmlu, 6),
    "mmlu/all/validation": (lambda i: mmlu(100 + i), 4),
    "mmlu/all/dev": (lambda i: mmlu(200 + i), 3),
    "arc/ARC-Easy/train": (arc, 6),
    "arc/ARC-Easy/validation": (lambda i: arc(20 + i), 3),
    "arc/ARC-Easy/test": (lambda i: arc(40 + i, 3 + i % 3), 5),
    "arc/ARC-Challenge/train": (lambda i: arc(60 + i), 5),
    "arc/ARC-Challenge/validation": (lambda i: arc(80 + i), 2),
    "arc/ARC-Challenge/test": (lambda i: arc(90 + i), 4),
    "gsm8k/main/train": (gsm8k, 41),
    "gsm8k/main/test": (lambda i: gsm8k(100 + i), 5),
    "ultrafeedback/data/train_prefs": (preference, 8),
    "ultrafeedback/data/test_prefs": (lambda i: preference(50 + i), 3),
    "hh/helpful-base/train": (transcript, 6),
    "hh/helpful-base/test": (lambda i: transcript(50 + i), 2),
    "humaneval/openai_humaneval/test": (human_eval, 3),
}


def core_multiple_choice(i):
    return {"query": f"After {i} comes", "choices": [f"{i + 1}", "a long shot", "no"],
            "gold": i % 3}


def core_schema(i):
    return {"context_options": [f"The cup {i} broke because it", "The tea spilled because it"],
            "continuation": "was cracked.", "gold": i % 2}


def core_language_modeling(i):
    return {"context": f"{i}, {i + 1}, ", "continuation": f"{i + 2}"}


CORE_ROWS = {"multiple_choice": core_multiple_choice, "schema": core_schema,
             "language_modeling": core_language_modeling}


def write_downloads(folder, *names):
    """Write the sources of these names, or all."""
    for path, (row, n) in FILES.items():
        if not names or path.split("/")[0] in names:
            path = Path(folder, path + ".jsonl")
            path.parent.mkdir(parents=True, exist_ok=True)
            write_jsonl(path, map(row, range(n)))
    if not names or "core" in names:
        for task in TASKS.values():
            path = Path(folder, "core/eval_bundle/eval_data/kind", f"{task.file}.jsonl")
            path.parent.mkdir(parents=True, exist_ok=True)
            write_jsonl(path, map(CORE_ROWS[task.kind], range(14)))
    return Path(folder)
