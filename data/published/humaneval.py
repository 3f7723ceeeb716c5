"""
HumanEval: 164 Python functions to complete, each with its tests. Chen et al. 2021, arXiv:2107.03374.

A generated program is run by data/sandbox.py: grade() never executes a model's code in this process.
"""
import re

from data.published.sandbox import run_program
from data.published.source import Source

TIMEOUT = 5.0                   # seconds for one program; the reference solutions take well under one


class HumanEval(Source):
    """The user shows the beginning of a program, the answer is the whole of it. There is nothing to train on."""
    name = "humaneval"
    files = {"test": "*"}

    @staticmethod
    def to_record(row):
        return {"messages": [{"role": "user", "content": row["prompt"]},
                             {"role": "assistant", "content": row["prompt"] + row["canonical_solution"]}],
                "test": row["test"], "entry_point": row["entry_point"], "subject": row["task_id"]}

    @staticmethod
    def grade(conversation, answer, timeout=TIMEOUT):
        """Whether the program in the answer (list of parts) passes the tests."""
        said = "".join(part["text"] for part in answer if part["type"] == "text")
        return run_program(program_with_tests(conversation, extract_program(said)), timeout).ok


def extract_program(said):
    """The first ``` block of an answer that defines a function, else the first, or all of it if there is none; a block
    that never ends goes to the end."""
    blocks = re.findall(r"(?<!\S)```[^\n`]*\n(.*?)(?:^[ \t]*```[ \t\r]*$|\Z)", said, re.S | re.M)
    return next((block for block in blocks if re.search(r"^[ \t]*def ", block, re.M)), blocks[0] if blocks else said)


def program_with_tests(conversation, program):
    """The program, what the prompt defines before the function (imports, helpers), and the tests.

    An answer may repeat the prompt, write the function anew, or only go on with the body, indented as it must be.
    """
    prompt, entry_point = conversation["messages"][0]["content"], conversation["entry_point"]
    if not re.search(rf"^def {re.escape(entry_point)}\b", program, re.M):
        program = prompt + program                           # only the body
    else:
        program = prompt[:re.search(rf"^def {re.escape(entry_point)}\b", prompt, re.M).start()] + program
    future = r"^from __future__ import .*\n"                 # Python wants these first
    program = "".join(re.findall(future, program, re.M)) + re.sub(future, "", program, flags=re.M)
    return f"{program}\n\n{conversation['test']}\n\ncheck({entry_point})\n"
