"""data/demo/splits.py: a hash gives every item of every task to one split."""
import itertools

import pytest

from data.demo import choices, identity, splits, word_problems
from data.demo.arithmetic import Arithmetic, item_of
from data.demo.choices import Choices
from data.demo.identity import Identity
from data.demo.letters import Letters
from data.demo.python_questions import PythonQuestions
from data.demo.spelling import SimpleSpelling, SpellingBee
from data.demo.word_problems import WordProblems

TASKS = [PythonQuestions, SimpleSpelling, SpellingBee, Letters, Arithmetic, WordProblems, Choices,
         Identity]
SPLITS = ["train", "pairs", "prompts", "rl", "test"]


def items(task, n=3000):
    """What the splits keep apart: words, answers, expressions in either order, base wordings."""
    if isinstance(task, Arithmetic):
        return {item_of(*task.draw(i)[:2]) for i in range(n)}
    if isinstance(task, Identity):
        return {identity.plain(wording) for wording, _ in task.wordings}
    if isinstance(task, WordProblems):
        return {word_problems.item_of(*task.draw(i)[:3]) for i in range(n)}
    if isinstance(task, Choices):
        return {(kind, wording) for kind in task.kinds
                for wording in choices.wordings(kind, task.split)}
    if isinstance(task, PythonQuestions):
        return {answer for answer, _ in task.items}
    return set(task.words)


def test_shares_are_kept_and_complete():
    assert sum(splits.SHARES.values()) == sum(identity.SHARES.values()) == 100
    counts = {split: 0 for split in SPLITS}
    for i in range(20_000):
        counts[splits.split_of(f"item {i}")] += 1
    for split, percent in splits.SHARES.items():
        assert abs(counts[split] / 200 - percent) < 1


@pytest.mark.parametrize("task", TASKS)
def test_splits_share_no_item(task):
    held = {split: items(task(split)) for split in SPLITS}
    for one, other in itertools.combinations(SPLITS, 2):
        assert held[one] and held[other] and not held[one] & held[other]
    with pytest.raises(ValueError, match="unknown split 'val'"):
        task("val")


def test_split_seeds_do_not_collide():
    """random.seed(1) and random.seed(-1) are the same; keys that are texts do not collide so."""
    draws = {splits.generator("task", split, i).random() for split in SPLITS for i in range(1000)}
    assert len(draws) == 5000
