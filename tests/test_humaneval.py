"""data/published/humaneval.py: programs in the forms in which models answer, and their tests."""
import gzip
import json
import sys

import pytest

from data.published.humaneval import HumanEval, extract_program

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the sandbox needs fork")

PROMPT = '''from typing import List


def helper(x):
    return sum(x)


def add_up(numbers: List[int]) -> int:
    """The sum.
    >>> add_up([1, 2])
    3
    """
'''
TEST = '''

METADATA = {}


def check(candidate):
    assert candidate([1, 2]) == 3
    assert candidate([]) == 0
'''
ROW = {"task_id": "Made/0", "entry_point": "add_up", "prompt": PROMPT, "test": TEST,
       "canonical_solution": "    return helper(numbers)\n"}


def graded(said):
    return HumanEval.grade(HumanEval.to_record(ROW), [{"type": "text", "text": said}])


@pytest.mark.slow
def test_humaneval_takes_the_forms_in_which_models_answer():
    whole = "def add_up(numbers: List[int]) -> int:\n    return sum(numbers)\n"
    assert graded(ROW["prompt"] + ROW["canonical_solution"])
    assert graded(whole)
    assert graded(f"Here it is:\n```python\n{whole}```\nDone.") and graded(f"```\n{whole}")
    assert graded("    return helper(numbers)")
    assert graded("def add_up(numbers):\n    return helper(numbers)")
    assert not graded("def add_up(numbers):\n    return 3")
    assert not graded("Sorry.") and not graded("")
    assert not graded("import os\nos._exit(0)")
    assert not graded("def add_up(n):\n    raise SystemExit(0)")
    for before in ["```bash\npip install x\n```\n",
                   "```\n>>> add_up([1])\n1\n```\nis met by ", "Use ```sum```\n"]:
        assert graded(f"{before}```python3 title=x\n{whole}\n  ``` \nDone.")
    assert graded(f"from __future__ import annotations\n{whole}\n\n"
                  f"if __name__ == '__main__':\n    input()\n")


def test_the_first_block_is_the_program():
    assert extract_program("a\n```py\nx\n```\nb\n```\ny\n```") == "x\n"
    assert extract_program("```\n```") == ""


def test_humaneval_rows(tmp_path):
    (tmp_path / "humaneval").mkdir()
    with gzip.open(tmp_path / "humaneval/HumanEval.jsonl.gz", "wt") as file:
        file.write(json.dumps(ROW) + "\n")
    record = HumanEval("test", dest=tmp_path)[0]
    assert record["messages"][0]["content"] == ROW["prompt"]
    assert record["entry_point"] == "add_up"
    with pytest.raises(ValueError, match="humaneval has the splits test, not 'train'"):
        HumanEval("train", dest=tmp_path)
