"""data/demo/word_problems.py: what the problems say and the solutions that answer them."""
import ast
import itertools
import random
import re
from collections import Counter
from fractions import Fraction

import pytest

from data.demo import word_problems
from data.demo.splits import SHARES
from data.demo.word_problems import NUMBER_WORDS, WordProblems, item_of, stories

# Numbers that a step may use and the problem need not say: 2 halves and the like, 3 tests, 4 legs,
# 7 days, 12 of a dozen, 24 hours, 60 minutes, 100 for per cent and km, 1 more box.
KNOWN = {"1", "2", "3", "4", "7", "12", "24", "60", "100"}


def exact(code):
    """The value of an expression as a Fraction, by a walk over its syntax tree."""
    def walk(node):
        if isinstance(node, ast.Constant):
            return Fraction(ast.get_source_segment(code, node))
        left, right = walk(node.left), walk(node.right)
        match node.op:
            case ast.Add():
                return left + right
            case ast.Sub():
                return left - right
            case ast.Mult():
                return left * right
            case ast.Div():
                return left / right
            case ast.FloorDiv():
                return Fraction(left // right)
            case ast.Mod():
                return left % right
    return walk(ast.parse(code, mode="eval").body)


def numbers_in(text):
    """The numbers of a text, in digits or in words, as texts."""
    found = re.findall(r"\d+(?:\.\d+)?", text)
    found += [str(NUMBER_WORDS.index(word)) for word in re.findall("[a-z]+", text.lower())
              if word in NUMBER_WORDS]
    return found


def test_solutions_compute_what_they_say():
    # The tool that answers at chat time must print the same text.
    from talk.tool import run_python
    seen = Counter()
    for conversation in WordProblems("train", 2500):
        question, answer = (message["content"] for message in conversation["messages"])
        known = set(numbers_in(question)) | KNOWN
        steps = list(zip(answer[::3], answer[1::3], answer[2::3]))
        assert [part["type"] for part in answer] == ["text", "python", "python_output"] * len(
            steps) + ["text"]
        assert conversation["steps"] == len(steps)
        for said, code, output in steps:
            assert said["text"].endswith(f": {code['text']} = ")
            assert Fraction(output["text"]) == exact(code["text"]) > 0
            assert output["text"] == run_python(code["text"])
            assert set(re.findall(r"\d+(?:\.\d+)?", code["text"])) <= known, (question, code)
            known.add(output["text"])
            seen[re.sub(r"[\d.]", "", code["text"])] += 1
            if "." in output["text"]:
                assert re.search(r"(?i)[$€£]|dollar|euro?|pounds|bucks|rupees|pesos|usd|francs",
                                 question)
        assert answer[-1]["text"] == f".\n#### {conversation['answer']}"
        assert conversation["answer"] == output["text"]
        assert len(question) < 400 and sum(len(part["text"]) for part in answer) < 250
    assert set(seen) >= {"+", "-", "*", "/", "//", "%", "*/", "++", "-+", "+*", "-*"}


def test_every_number_of_a_problem_is_used_unless_one_distracts():
    for story in itertools.chain(*stories()[1].values(), *stories()[2].values()):
        told = set(re.findall(r"\{\$?([a-z]\d?)\}", " ".join(itertools.chain(
            *([sentences[0]] for sentences in story.facts), story.asks[:1]))))
        used = set(re.findall(r"\b[a-z]\d?\b", " ".join(code for _, code in story.steps)))
        assert told == used - {"r1"}, story.name
        for sentences in story.facts:
            named = {frozenset(re.findall(r"\{\$?([a-z]\d?)\}", s)) for s in sentences}
            assert len(named) == 1, (story.name, sentences)
        for short in story.shorts:
            assert set(re.findall(r"\{\$?([a-z]\d?)\}", short)) == told, short


@pytest.mark.parametrize("n", [1, 2, 3])
def test_every_story_can_be_told(n):
    rng = random.Random(0)
    for group in stories()[n].values():
        for story in group[:40]:
            style, sentences = word_problems.wording(story, rng)
            texts, outputs = word_problems.draw_numbers(story, rng)
            slots, person = word_problems.cast(rng)
            said = word_problems.said_numbers({**texts, "x": "5"}, rng)
            filled = word_problems.fill(sentences, slots | texts, person, said, rng)
            text = word_problems.put_together(style, filled)
            assert not re.search(r"[{}\[\]|]|  | [,.?]|\b([Ii]|[Yy]ou) (is|has|does|\w+es)\b", text)
            assert len(outputs) == len(story.steps) == n


def test_by_hand():
    story = next(story for story in stories()[2]["change_of_several"])
    texts, outputs = {"n": "3", "p": "4.50", "z": "20"}, ["13.5", "6.5"]
    assert word_problems.results(story, {"n": 3, "p": 4.5, "z": 20}) == outputs
    assert word_problems.codes(story, texts, outputs) == ["3*4.50", "20-13.5"]
    parts = word_problems.solution(["3 cups cost", "Left of 20"], ["3*4.50", "20-13.5"], outputs)
    assert [part["text"] for part in parts] == [
        "3 cups cost: 3*4.50 = ", "3*4.50", "13.5", ". Left of 20: 20-13.5 = ", "20-13.5", "6.5",
        ".\n#### 6.5"]

    facts = ["a cup costs $4", "Tom buys 3 cups"]
    ask = "how much does he pay"
    together = word_problems.put_together
    assert together("sentences", [*facts, ask]) == (
        "A cup costs $4. Tom buys 3 cups. How much does he pay?")
    assert together("and", [*facts, ask]) == (
        "A cup costs $4 and Tom buys 3 cups. How much does he pay?")
    assert together("if", [*facts, ask]) == (
        "If a cup costs $4 and Tom buys 3 cups, how much does he pay?")
    assert together("commas", [*facts, "so find the price"]) == (
        "A cup costs $4, Tom buys 3 cups, so find the price.")
    assert together("and", [*facts, "the price is ___"]) == (
        "A cup costs $4 and Tom buys 3 cups. The price is ___.")
    assert together("question first", [ask, *facts]) == (
        "How much does he pay? A cup costs $4. Tom buys 3 cups.")


def test_persons():
    def filled(person, *sentences):
        rng = random.Random(1)
        return word_problems.fill(sentences, {"M": "Ann", "things": "eggs"}, person, {}, rng)

    assert filled(("I", "I", "I"), "{N} {has} {things}", "Ann gives {him} {N's} hat",
                  "how much does {N} have") == [
        "I have eggs", "Ann gives me my hat", "how much do I have"]
    tom = ("Tom", "Tom", "he")
    second = {filled(tom, "{N} {buys} {things}", "{N} {eats} one")[1] for _ in range(9)}
    assert second <= {"Tom eats one", "he eats one"}
    # After another name a pronoun would be unclear.
    for _ in range(20):
        assert filled(tom, "{N} {meets} {M}", "{N} {eats} an egg")[1] == "Tom eats an egg"
    assert filled(("we", "we", "we"), "{N} {has} {things}", "{M} gives {him} {N's} hat",
                  "what is {N} paid, if {N} {carries} and {watches} it") == [
        "we have eggs", "Ann gives us our hat", "what are we paid, if we carry and watch it"]
    assert filled(("you", "you", "you"), "does {N} need it", "has {N} got {things}") == [
        "do you need it", "have you got eggs"]
    assert filled(("a farmer", "the farmer", "he"), "{N} {has} a apple", "{M} pays {N}") == [
        "a farmer has an apple", "Ann pays the farmer"]


def test_at_least_as_many_structures_and_wordings_as_promised():
    plain = {story.name for groups in stories().values() for group in groups.values()
             for story in group if not story.whole}
    assert len(plain) >= 100
    task = WordProblems("train")
    draws = [task.draw(i)[:3] for i in range(6000)]
    assert len({(story.name, style, *sentences) for story, style, sentences in draws}) > 4000
    assert len({story.name for story, _, _ in draws}) > 500
    steps = Counter(len(story.steps) for story, _, _ in draws)
    assert steps[1] > steps[2] > steps[3] > 1000
    styles = Counter(style for _, style, _ in draws)
    assert set(styles) == set(word_problems.STYLES) and min(styles.values()) > 300
    distracted = sum("{x}" in " ".join(sentences) for _, _, sentences in draws)
    assert 0.17 < distracted / 6000 < 0.23


def test_splits_share_no_wording_and_no_sequence_of_events():
    held = {}
    for split in SHARES:
        task = WordProblems(split)
        drawn = [task.draw(i)[:3] for i in range(600)]
        held[split] = {item_of(*one) for one in drawn}
        # A sequence of events is an item by itself, whatever the wording.
        held[split] |= {story.name for story, _, _ in drawn if story.whole}
    for one, other in itertools.combinations(SHARES, 2):
        assert held[one] and held[other] and not held[one] & held[other]
    with pytest.raises(ValueError, match="unknown split 'val'"):
        WordProblems("val")


def test_steps_can_be_chosen():
    assert {c["steps"] for c in WordProblems("test", 200, steps=(2, 3))} == {2, 3}
    assert {c["steps"] for c in WordProblems("test", 50, steps=(1,))} == {1}


@pytest.mark.parametrize("split", ["pairs", "test"])
def test_grade_accepts_every_gold_answer_and_rejects_every_wrong_one(split):
    task = WordProblems(split, 400)
    kinds = Counter()
    for i in range(400):
        pair = task.pair(i)
        chosen, rejected = (pair[side]["messages"][1]["content"] for side in ("chosen", "rejected"))
        assert pair["chosen"] == task[i] and pair == task.pair(i)
        assert chosen != rejected and task.grade(task[i], chosen)
        if pair["kind"] == "no tool":
            assert task.grade(task[i], rejected) and isinstance(rejected, str)
        elif pair["kind"] != "run-on":
            assert not task.grade(task[i], rejected), (pair["kind"], chosen, rejected)
        kinds[pair["kind"]] += 1
    assert len(kinds) == 7 and min(kinds.values()) > 20
