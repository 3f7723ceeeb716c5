"""data/demo/choices.py: that the right option is right and that no other one is."""
import functools
import importlib
import itertools
import keyword
import re
from collections import Counter

import pytest

from data.demo import choices
from data.demo.choices import KINDS, Choices, wordings
from data.demo.splits import SHARES
from data.grading import spoken_text
from data.published.source import multiple_choice
from talk.tool import run_python


def is_formal(conversation):
    """Whether the prompt is in the format of MMLU."""
    return conversation["messages"][0]["content"].startswith("Multiple Choice question: ")


def letter_of(conversation):
    """What the answer says."""
    return spoken_text(conversation["messages"][1]["content"])


def taken_apart(conversation):
    """(question, options, right option) of a prompt in the format of MMLU."""
    prompt = conversation["messages"][0]["content"]
    answer = letter_of(conversation)
    question = re.match("Multiple Choice question: (.*)\n- ", prompt)[1]
    options = re.findall("^- (.*)=[A-E]$", prompt, re.M)
    assert multiple_choice(question, conversation["letters"], options) == prompt
    return question, options, options["ABCDE".index(answer)]


# What may fill the braces of a wording.
FILLS = {"n": r"\d+", "m": r"\d+", "q": "['\"]?[a-z]+['\"]?", "l": "['\"]?[a-z]['\"]?",
         "s": "[a-z](?:(?:-|, ?| )[a-z])+", "e": r"\d+ ?(?:[-+*/x]|[a-z ]+) ?\d+",
         "f": r"`?\w+`?(?:\(\))?"}
SIGNS = {"plus": "+", "minus": "-", "times": "*", "x": "*", "divided by": "/"}


@functools.cache
def patterns(kind):
    """A pattern of the questions of each wording of this kind."""
    found = []
    for wording in wordings(kind, "train"):
        pattern = re.escape(wording)
        for key, fill in FILLS.items():
            if kind == "function":
                fill = r"\w+"
            pattern = pattern.replace(rf"\{{{key}\}}", f"(?P<{key}>{fill})")
        found.append(re.compile(pattern, re.I))
    return found


def arguments(kind, question):
    """What fills the braces of the wording that a question of train was made of, or None."""
    for pattern in patterns(kind):
        if match := pattern.fullmatch(question):
            return {key: text.strip("'\"`").removesuffix("()").strip("`")
                    for key, text in match.groupdict().items()}
    return None


def value(expression):
    for word, sign in SIGNS.items():
        expression = expression.replace(f" {word} ", sign)
    return eval(expression)


def spelled_word(text):
    return re.sub("[^a-z]", "", text)


# Whether an option is right, given the arguments of the wording and all options.
RIGHT = {
    "largest": lambda o, q, all: int(o) == max(map(int, all)),
    "smallest": lambda o, q, all: int(o) == min(map(int, all)),
    "even": lambda o, q, all: o[-1] in "02468",
    "odd": lambda o, q, all: o[-1] in "13579",
    "multiple": lambda o, q, all: int(o) % int(q["n"]) == 0,
    "above": lambda o, q, all: int(o) > int(q["n"]),
    "below": lambda o, q, all: int(o) < int(q["n"]),
    "between": lambda o, q, all: int(q["m"]) < int(o) < int(q["n"]),
    "longest": lambda o, q, all: len(o) == max(map(len, all)),
    "shortest": lambda o, q, all: len(o) == min(map(len, all)),
    "contains": lambda o, q, all: q["q"] in o,
    "lacks": lambda o, q, all: q["q"] not in o,
    "starts": lambda o, q, all: o.startswith(q["q"]),
    "ends": lambda o, q, all: o.endswith(q["q"]),
    "has letters": lambda o, q, all: len(o) == int(q["n"]),
    "letters of": lambda o, q, all: len(q["q"]) == int(o),
    "count of": lambda o, q, all: sum(c == q["l"] for c in q["q"]) == int(o),
    "spelled": lambda o, q, all: o == spelled_word(q["s"]),
    "compute": lambda o, q, all: int(o) == value(q["e"]),
    "equals": lambda o, q, all: value(o) == int(q["n"]),
    "alphabet first": lambda o, q, all: o == min(all),
    "alphabet last": lambda o, q, all: o == max(all),
    "keyword": lambda o, q, all: keyword.iskeyword(o),
    "no keyword": lambda o, q, all: not keyword.iskeyword(o),
    "module": lambda o, q, all: hasattr(importlib.import_module(o), q["f"]),
    "function": lambda o, q, all: hasattr(importlib.import_module(q["m"]), o),
}


@pytest.mark.slow
def test_one_option_is_right():
    checked = Counter()
    for conversation in Choices("train", 3200):
        kind = conversation["subject"]
        if not is_formal(conversation):
            continue
        question, options, right = taken_apart(conversation)
        assert len(set(options)) == len(options) == len(conversation["letters"])
        # Sloppy forms lack the punctuation of the wording.
        asked = arguments(kind, question)
        if asked is None:
            continue
        for option in options:
            assert RIGHT[kind](option, asked, options) == (option == right), (question, options)
        checked[kind] += 1
    assert set(checked) == set(KINDS) and min(checked.values()) > 25
    assert sum(checked.values()) > 1440


@pytest.mark.slow
@pytest.mark.parametrize("split", SHARES)
def test_letters_are_balanced(split):
    counts = Counter()
    for conversation in Choices(split, 1200):
        counts[len(conversation["letters"]), letter_of(conversation)] += 1
    assert {counts[n, "ABCDE"[k]] for n in (2, 3, 4, 5) for k in range(n)} == {150, 100, 75, 60}
    assert len(counts) == 2 + 3 + 4 + 5


def test_splits_share_no_wording():
    for kind in KINDS:
        held = {split: set(wordings(kind, split)) for split in SHARES}
        assert len(held["train"]) >= 50
        assert all(held.values())
        for one, other in itertools.combinations(SHARES, 2):
            assert not held[one] & held[other]
    with pytest.raises(ValueError, match="unknown split 'val'"):
        Choices("val")


def test_wordings_are_tidy():
    for kind, split in itertools.product(KINDS, SHARES):
        for sentence in wordings(kind, split):
            assert not re.search(r"[<>\[\]|/]|  | [,.?]", sentence.replace("= ?", "")), sentence
            assert sentence[-1] in ".?:"


def test_functions_and_modules():
    found = choices.functions()
    assert len(found) >= 40 and sum(map(len, found.values())) >= 300
    assert "wrap" in found["textwrap"] and "dump" in found["json"]
    # statistics imports sqrt, so it may not be a wrong option where sqrt is asked about.
    assert "sqrt" in choices.names_in("statistics") and "sqrt" not in found["statistics"]


@pytest.mark.parametrize("split", ["pairs", "test"])
def test_grade_accepts_every_gold_answer_and_rejects_every_wrong_one(split):
    task = Choices(split, 400)
    kinds = set()
    for i in range(400):
        pair = task.pair(i)
        chosen, rejected = (pair[side]["messages"][1]["content"] for side in ("chosen", "rejected"))
        assert pair["chosen"] == task[i] and pair == task.pair(i)
        letter = letter_of(pair["chosen"])
        assert task.grade(task[i], chosen) and not task.grade(task[i], rejected)
        assert task.grade(task[i], letter.lower() + ".")
        kinds.add(pair["kind"])
        # The tool says what it is said to say, in a rejected answer, too.
        for content in (chosen, rejected):
            if not isinstance(content, str):
                assert run_python(content[0]["text"]) == content[1]["text"]
    assert kinds == {"other letter", "guess", "mixed up", "talk", "run-on", "evasive"}


def test_python_looks_at_every_option_in_its_order():
    for conversation in Choices("train", 400):
        content = conversation["messages"][1]["content"]
        if conversation["subject"] not in choices.TESTS:
            assert conversation["subject"] in ("module", "function") and isinstance(content, str)
            continue
        code, output, said = (part["text"] for part in content)
        assert run_python(code) == output == said
        assert re.findall(r"'([A-E])'\)", code) == conversation["letters"]
        # Python itself agrees.
        assert eval(code, {"iskeyword": keyword.iskeyword}) == said


def test_informal_prompts_hold_the_question_and_all_options():
    informal = [c for c in Choices("train", 200) if not is_formal(c)]
    assert 60 < len(informal) < 140
    for conversation in informal:
        prompt = conversation["messages"][0]["content"]
        at = [re.search(rf"(?<!\w){letter}[):. ]", prompt) for letter in conversation["letters"]]
        assert all(at) and [m.start() for m in at] == sorted(m.start() for m in at), prompt
