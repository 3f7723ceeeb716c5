"""data/demo/records.py: records and preference pairs of all tasks that data/demo makes."""
import ast
import hashlib
import itertools
import json
import operator
import os
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest

from data.demo import arithmetic, python_corpus, python_questions, spelling
from data.demo.arithmetic import Arithmetic
from data.demo.choices import Choices
from data.demo.grammar import alternatives, spell_out
from data.demo.identity import Identity
from data.demo.letters import Letters
from data.demo.python_questions import PythonQuestions
from data.demo.spelling import SimpleSpelling, SpellingBee
from data.demo.word_problems import WordProblems

ROOT = Path(__file__).resolve().parent.parent
TASKS = [PythonQuestions, SimpleSpelling, SpellingBee, Letters, Arithmetic, WordProblems, Choices,
         Identity]
SPLITS = ["train", "pairs", "prompts", "rl", "test"]


def text_of(content):
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


@pytest.mark.parametrize("task", TASKS)
def test_any_size_works_and_records_are_valid(task):
    assert len(task("test", 7)) == 7 and len(list(task("test", 7))) == 7
    with pytest.raises(IndexError):
        task("test", 7)[7]
    # Tasks are lazy: nothing is built until it is read.
    big = task("train", 1_000_000)
    assert big[999_999] == big[-1]
    for conversation in [big[i] for i in range(0, 1_000_000, 5003)]:
        messages = conversation["messages"]
        roles = [message["role"] for message in messages]
        assert len(roles) % 2 == 0 and roles == ["user", "assistant"] * (len(roles) // 2)
        for message in messages:
            if not isinstance(message["content"], str):
                assert message["role"] == "assistant"
                check_parts(message["content"])
            text = text_of(message["content"])
            assert text.strip() and len(text) < 600
        assert json.loads(json.dumps(conversation)) == conversation


def check_parts(parts):
    """Parts have a type and a text, and the output of Python comes after Python."""
    assert parts
    for part in parts:
        assert set(part) == {"type", "text"}
        assert part["type"] in ("text", "python", "python_output")
    kinds = [part["type"] for part in parts]
    for k, kind in enumerate(kinds):
        assert kind != "python_output" or kinds[k - 1] == "python"


@pytest.mark.parametrize("task", TASKS)
def test_questions_vary(task):
    questions = [conversation["messages"][-2]["content"] for conversation in task("train", 2000)]
    assert len(set(questions)) > (1000 if task is Identity else 1850)


def test_at_least_as_many_wordings_as_promised():
    assert len(set(python_questions.ASK)) >= 25
    for grammar, least in (spelling.COUNT, 10_000), (spelling.SPELL, 2000), (arithmetic.ASK, 1000):
        sentences = {sentence for line in alternatives(grammar) for sentence in spell_out(line)}
        assert len(sentences) >= least


# --------------------------------------------------------------------------------------------------
# The outputs of the tool

def evaluate(code):
    """Python's own value of the code, by a walk over the syntax tree."""
    operations = {ast.Add: operator.add, ast.Sub: operator.sub,
                  ast.Mult: operator.mul, ast.Div: operator.truediv, ast.Mod: operator.mod,
                  ast.FloorDiv: operator.floordiv, ast.Pow: operator.pow}
    functions = {"max": max, "min": min}

    def walk(node):
        if isinstance(node, ast.BinOp):
            return operations[type(node.op)](walk(node.left), walk(node.right))
        if isinstance(node, ast.Compare):
            return walk(node.left) == walk(node.comparators[0])
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            return functions[node.func.id](*map(walk, node.args))
        if isinstance(node, ast.Call):
            assert node.func.attr == "count"
            return sum(c == node.args[0].value for c in node.func.value.value)
        if isinstance(node, ast.UnaryOp):
            return -walk(node.operand)
        assert isinstance(node, ast.Constant) and isinstance(node.value, int | float)
        return node.value

    return walk(ast.parse(code, mode="eval").body)


@pytest.mark.parametrize("task", [SpellingBee, Arithmetic, Identity])
def test_python_outputs_are_what_python_computes(task):
    # The tool that answers at chat time must print the same text.
    from talk.tool import run_python
    train = task("train", 1000)
    pairs = task("pairs", 500)
    conversations = [train[i] for i in range(1000)]
    conversations += [pairs.pair(i)["rejected"] for i in range(500)]
    checked = 0
    for message in itertools.chain(*(conversation["messages"] for conversation in conversations)):
        parts = message["content"] if isinstance(message["content"], list) else []
        for code, output in zip(parts, parts[1:]):
            if code["type"] != "python":
                continue
            value = evaluate(code["text"])
            assert output["type"] == "python_output"
            if output["text"] in ("True", "False"):
                assert output["text"] == str(abs(value) == 1) == run_python(code["text"])
                continue
            exact = float(Decimal(output["text"]))
            assert abs(exact - value) <= 1e-9 * abs(value) + 1e-12
            assert output["text"] == run_python(code["text"])
            assert not output["text"].endswith(".0")
            checked += 1
    assert checked > (20 if task is Identity else 900)


# --------------------------------------------------------------------------------------------------
# Preference pairs

@pytest.mark.parametrize("task", [SimpleSpelling, SpellingBee, Arithmetic, Identity])
@pytest.mark.parametrize("split", ["pairs", "test"])
def test_grade_accepts_every_gold_answer_and_rejects_every_wrong_one(task, split):
    tasks = task(split, 600)
    # These are badly given, but the result stands in the answer.
    right_though_rejected = {"run-on", "no tool"}
    kinds = set()
    for i in range(600):
        pair = tasks.pair(i)
        chosen, rejected = (pair[side]["messages"][-1]["content"]
                            for side in ("chosen", "rejected"))
        assert pair["chosen"] == tasks[i] and pair == tasks.pair(i)
        assert pair["chosen"]["messages"][:-1] == pair["rejected"]["messages"][:-1]
        assert chosen != rejected
        assert tasks.grade(tasks[i], chosen)
        if pair["kind"] not in right_though_rejected:
            assert not tasks.grade(tasks[i], rejected), (pair["kind"], rejected)
        if pair["kind"] == "run-on":
            assert len(text_of(rejected)) > len(text_of(chosen)) + 15
        if pair["kind"] == "no tool":
            assert tasks.grade(tasks[i], rejected) and isinstance(rejected, str)
        kinds.add(pair["kind"])
    assert {"run-on", "evasive"} < kinds and len(kinds) >= 3


# --------------------------------------------------------------------------------------------------
# The same data in every process

def digest():
    """A hash of documents of the corpus and of conversations and pairs of each task and split."""
    h = hashlib.sha256()
    for split in ("train", "val"):
        for text in itertools.islice(python_corpus.documents(split, code=0.5), 200):
            h.update(text.encode("utf-8", "surrogatepass"))
    for task in TASKS:
        for split in SPLITS:
            some = task(split, 300)
            records = [some[i] for i in range(0, 300, 17)] + [some.pair(i) for i in range(5)]
            h.update(json.dumps(records).encode())
    return h.hexdigest()


@pytest.mark.slow
def test_same_data_whatever_the_hash_seed():
    """Sets of strings iterate in another order in every process; nothing may depend on it."""
    code = "from tests.test_records import digest; print(digest())"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True,
                         env={**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": str(ROOT)})
    assert run.stdout.strip() == digest(), run.stderr
