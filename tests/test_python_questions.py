"""data/demo/python_questions.py: questions about Python and the docstrings that answer them."""
import pytest

from data.demo import python_questions
from data.demo.python_questions import PythonQuestions


@pytest.mark.parametrize("doc, sentence", [
    ("Return the value.", "Return the value."),
    ("S.find(sub[, start]) -> int\n\nReturn the lowest index in S.",
     "Return the lowest index in S."),
    ("D.update(E) -> None.  Update D from E and F.", "Update D from E and F."),
    ("repeat(object [,times]) -> create an iterator which returns the object\n"
     "for the given number of times.",
     "Create an iterator which returns the object for the given number of times."),
    ("Join :func:`~os.path.join` and ``two`` *more* parts.\n\nLong text.",
     "Join os.path.join and two more parts."),
    ("compute the sum of the\n    two numbers", "Compute the sum of the two numbers."),
    ("Write e.g. a tree to text. The second sentence.",
     "Write e.g. a tree to text. The second sentence."),
    ("One " + "two " * 30 + "three. Then " + "more " * 30 + "words.",
     "One " + "two " * 30 + "three."),
    (" ".join(["word"] * 60) + ".", None), ("Usage: >>> f(1)", None), ("x", None),
    (None, None), ("", None),
])
def test_first_sentences(doc, sentence):
    assert python_questions.first_sentences(doc) == sentence


@pytest.mark.slow
def test_answers_are_short_and_right():
    known = {name: answer
             for answer, names in python_questions.symbols().items() for name in names}
    assert known["os.path.join"].startswith("Join two or more pathname components")
    assert known["len"] == "Return the number of items in a container."
    assert "asyncio.run" in known and len(known) > 3000
    for answer in known.values():
        assert len(answer.split()) <= python_questions.MAX_WORDS
        assert "\n" not in answer and answer.isascii() and "`" not in answer
        assert answer[-1] in ".!?" and (answer[0].isupper() or answer[0].isdigit())


@pytest.mark.slow
def test_question_names_the_symbol_and_its_docstring_answers():
    known = python_questions.symbols()
    for conversation in PythonQuestions("test", 300):
        assert conversation["symbol"] in conversation["messages"][0]["content"]
        assert conversation["symbol"] in known[conversation["messages"][1]["content"]]


def test_question_pairs():
    task = PythonQuestions("pairs", 200)
    kinds = set()
    for i in range(200):
        pair = task.pair(i)
        right, wrong = (pair[side]["messages"][1]["content"] for side in ("chosen", "rejected"))
        assert right != wrong and pair["chosen"] == task[i]
        assert (pair["kind"] == "run-on") == wrong.startswith(right)
        kinds.add(pair["kind"])
    assert kinds == {"evasive", "another function", "run-on"}
