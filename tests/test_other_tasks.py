"""data/demo/other_tasks.py: every wording can be drawn; right answers are right, wrong ones not."""
import re
from fractions import Fraction

import pytest

from data.demo.identity import INTENTS
from data.demo.other_tasks import (
    OTHER_TASKS,
    agrees,
    compute,
    draw_options,
    draw_values,
    refuses,
    spells,
    written,
)
from data.demo.other_wordings import SECTIONS
from data.demo.spelling import words_of
from data.demo.splits import generator
from data.grading import final_number, spoken_text


def parts(text):
    return [{"type": "text", "text": text}]


def wrong_answers(conversation):
    """Answers that are wrong for sure."""
    last = conversation["messages"][-1]["content"]
    wrong = ["", "Hm.", "Spring"]
    if "claim" in conversation:
        wrong += ["No." if conversation["claim"] else "Yes.", "Yes and no."]
    elif "answer" in conversation:
        number = final_number(last)
        wrong += [f"#### {number + 1}", str(number), f"#### {number}\n#### {number + 1}"]
    elif "word" in conversation:
        word = conversation["word"]
        wrong += [word, ",".join(word[1:]), ",".join(word + "x"), ",".join(word[:-1])]
    elif "letters" in conversation:
        wrong += [letter for letter in conversation["letters"] if letter != last] + [last * 2]
    elif conversation["intent"] in INTENTS:
        # The facts of every intent are missing here.
        wrong += ["The cat sat on the mat."]
    else:
        wrong += ["The capital of France is Paris.", last + "\n#### 7"]
    return wrong


@pytest.mark.parametrize("name", OTHER_TASKS)
def test_every_wording_is_drawn_and_graded(name):
    task = OTHER_TASKS[name](None)
    assert len(task) >= 50
    rounds = OTHER_TASKS[name](3 * len(task))
    assert len(rounds) == (3 * len(task) if task.has_holes else len(task))
    questions = []
    for conversation in rounds:
        user, assistant = conversation["messages"]
        assert not re.search(r"[{}]", user["content"]) and user["content"].strip()
        questions.append(user["content"])
        right = assistant["content"]
        assert task.grade(conversation, parts(right) if isinstance(right, str) else right)
        for answer in wrong_answers(conversation):
            assert not task.grade(conversation, parts(answer)), (user["content"], answer)
    # Each round asks with other words and numbers.
    assert len(set(questions)) > 0.9 * len(rounds)
    assert list(task[:5]) == list(OTHER_TASKS[name](7)[:5])
    # The first few items are not all of one kind.
    asks = {entry["ask"] for entry in task.entries}
    assert asks == {entry["ask"] for entry in task.select()} and len(asks) == len(task)


def test_all_wordings_of_the_file_are_in_a_task():
    n = sum(len(make()) for make in OTHER_TASKS.values())
    assert n == sum(map(len, SECTIONS.values()))


def test_words_are_those_of_the_test_split():
    words = set(words_of("test"))
    for conversation in OTHER_TASKS["other_spelling"](300):
        assert conversation["word"] in words
        assert conversation["word"] in conversation["messages"][0]["content"]
    for conversation in OTHER_TASKS["other_counting"](300):
        spelling, _, _ = conversation["messages"][1]["content"][0]["text"].partition(":")
        assert spelling in words


# ---- numbers ----

def test_values_by_hand():
    entry = dict(values=dict(a=[11, 99], b=["a * 2", "a * 2"], c=[3, 3]), scale=dict(a=10),
                 require="a > 5")
    for k in range(20):
        values = draw_values(entry, generator("test", k))
        assert values["b"] == 2 * values["a"] and values["a"] > 5 and values["c"] == 3
        assert values["a"] * 10 % 1 == 0
    assert compute("abs(a - b)", dict(a=Fraction(1, 10), b=Fraction(3, 10))) == Fraction(1, 5)
    with pytest.raises(NameError):
        compute("open('x')", {})
    assert [written(Fraction(n, 100)) for n in (250, -1205, 100000, 1)] == [
        "2.5", "-12.05", "1000", "0.01"]


def test_the_questions_of_the_file_say_their_own_numbers():
    """The numbers of a question lead to its answer: some wordings, computed by hand."""
    found = {}
    for conversation in OTHER_TASKS["other_arithmetic"](None):
        question = conversation["messages"][0]["content"]
        numbers = [Fraction(n) for n in re.findall(r"\d+(?:\.\d+)?", question)]
        found[re.sub(r"\d+(?:\.\d+)?", "N", question)] = (numbers, conversation)

    def number_of(question):
        numbers, conversation = found[question]
        return numbers, Fraction(conversation["answer"])

    (a, b), answer = number_of("What number is N more than N?")
    assert answer == a + b
    (b, a), answer = number_of("Subtract N from N.")
    assert answer == a - b
    (a, b), answer = number_of("add these two decimals: N and N")
    assert answer == a + b
    (a,), answer = number_of("Tell me what three quarters of N is.")
    assert answer == a * 3 / 4
    (a, b), answer = number_of("N is what percentage of N?")
    assert answer == 100 * a / b
    (a, b, c), conversation = found["please check this: N * N = N"]
    assert conversation["claim"] == (a * b == c)


def test_a_claim_needs_one_verdict():
    for yes in "Yes.", "That is true.", "yes, 3+4 is 7", "You are right!", "3+4 = 7\nCorrect":
        assert agrees(True, yes) and not agrees(False, yes)
    for no in ("No.", "That's wrong", "false", "No, that is not correct.", "This isn't right.",
               "It isn\u2019t true: 3+4 = 7"):
        assert agrees(False, no) and not agrees(True, no)
    for neither in "", "#### 7", "Yes and no.", "Is it true or false?", "Not sure.", "Nobody knows":
        assert not agrees(True, neither) and not agrees(False, neither)


# ---- spelling ----

def test_letters_may_be_joined_by_anything_that_is_no_letter():
    for right in ("word:w,o,r,d", "w-o-r-d", "W O R D", "It is spelled w, o, r, d.", "1. w\n2. o\n"
                  "3. r\n4. d"):
        assert spells("word", parts(right)), right
    for wrong in ("word", "wrod:w,r,o,d", "w,o,r,d,s", "s,w,o,r,d", "w,o,r", "w,o,r,d\nw,r,o,d",
                  "w or d", ""):
        assert not spells("word", parts(wrong)), wrong
    # Only what the model says itself counts.
    assert not spells("word", [{"type": "python_output", "text": "w,o,r,d"}])


# ---- multiple choice ----

@pytest.mark.parametrize("kind", sorted({entry["kind"] for entry in SECTIONS["choices"]}))
def test_one_option_alone_is_right(kind):
    key = {"largest": lambda x: x, "smallest": lambda x: -x, "even": lambda x: x % 2 == 0,
           "odd": lambda x: x % 2, "longest_word": len, "shortest_word": lambda x: -len(x),
           "alphabet_first": lambda x: [-ord(c) for c in x] + [0],
           "contains_letter": lambda x: letter in x,
           "starts_with": lambda x: x.startswith(letter),
           "ends_with": lambda x: x.endswith(letter), "letter_count": lambda x: len(x) == n,
           "multiple_of": lambda x: x % n == 0, "product": lambda x: x == a * b,
           "sum": lambda x: x == a + b, "difference": lambda x: x == a - b and x > 0,
           "spelled": lambda x: x == "".join(re.findall("[a-z]", letters)),
           "keyword": lambda x: x in "and as assert async await break class continue def del elif "
                                     "else except finally for from global if import in is lambda "
                                     "nonlocal not or pass raise return try while with "
                                     "yield".split()}[kind]
    for k in range(200):
        n_options = 2 + k % 4
        options, holes = draw_options(kind, n_options, generator("test", kind, k))
        letter = holes.get("letter")
        n = holes.get("n")
        letters = holes.get("letters")
        a = holes.get("a")
        b = holes.get("b")
        assert len(set(options)) == n_options
        ranks = [key(option) for option in options]
        assert ranks[0] == max(ranks) and ranks.count(ranks[0]) == 1


def test_every_letter_is_as_likely_among_its_options():
    task = OTHER_TASKS["other_choices"](3000)
    counts = {}
    for conversation in task:
        user, assistant = conversation["messages"]
        letters = conversation["letters"]
        assert re.findall(r"=([A-E])\n", user["content"]) == letters
        row = counts.setdefault(len(letters), dict.fromkeys(letters, 0))
        row[assistant["content"]] += 1
    assert set(counts) == {2, 3, 4, 5}
    for n, row in counts.items():
        total = sum(row.values())
        assert total > 650
        for count in row.values():
            # Four standard deviations.
            assert abs(count - total / n) < 4 * (total * (1 / n) * (1 - 1 / n)) ** 0.5


# ---- refusals ----

def test_refusals():
    for honest in "I don't know.", "I do not know that.", "I can\u2019t do that.", "I'm unable to":
        assert refuses(parts(honest))
    for other in "I know.", "I am glad to", "No.", "The unableness":
        assert not refuses(parts(other))
    task = OTHER_TASKS["other_refuse"](None)
    assert spoken_text(task[0]["messages"][1]["content"]).startswith("I don't know")
    assert not task.grade(task[0], parts("I cannot say.\n#### 4"))
