"""
HumanEval: 164 Python functions to complete, each with its tests.

Chen et al. 2021, arXiv:2107.03374. The programs run in data/published/sandbox.py: grade() never
runs a model's code in this process.
"""
import re

from data.published.sandbox import run_program
from data.published.source import Source

# Seconds for one program; the reference solutions take well under one.
TIMEOUT = 5.0


class HumanEval(Source):
    """The user shows the beginning of a program, and the answer is all of it. Only for testing."""
    name = "humaneval"
    files = {"test": "*"}

    @staticmethod
    def to_record(row):
        program = row["prompt"] + row["canonical_solution"]
        return {"messages": [{"role": "user", "content": row["prompt"]},
                             {"role": "assistant", "content": program}],
                "test": row["test"], "entry_point": row["entry_point"], "subject": row["task_id"]}

    @staticmethod
    def grade(conversation, answer, timeout=TIMEOUT):
        """Whether the program in the answer, a list of parts, passes the tests."""
        said = "".join(part["text"] for part in answer if part["type"] == "text")
        program = program_with_tests(conversation, extract_program(said))
        return run_program(program, timeout).ok


def extract_program(said):
    """The program in an answer: its first ``` block that defines a function.

    Without such a block it is the first block, and without any block the whole answer. A block that
    is never closed goes to the end of the answer.
    """
    blocks = re.findall(r"(?<!\S)```[^\n`]*\n(.*?)(?:^[ \t]*```[ \t\r]*$|\Z)", said, re.S | re.M)
    for block in blocks:
        if re.search(r"^[ \t]*def ", block, re.M):
            return block
    return blocks[0] if blocks else said


def program_with_tests(conversation, program):
    """The program, with what the prompt defines before the function, and with the tests.

    An answer may repeat the prompt, write the function anew, or go on with its indented body alone.
    """
    prompt = conversation["messages"][0]["content"]
    entry_point = conversation["entry_point"]
    definition = re.compile(rf"^def {re.escape(entry_point)}\b", re.M)
    if definition.search(program):
        # The prompt may have imports and helper functions before the function.
        program = prompt[:definition.search(prompt).start()] + program
    else:
        # The answer is the body alone.
        program = prompt + program

    # Python requires these imports to come first.
    future = re.compile(r"^from __future__ import .*\n", re.M)
    program = "".join(future.findall(program)) + future.sub("", program)
    return f"{program}\n\n{conversation['test']}\n\ncheck({entry_point})\n"
