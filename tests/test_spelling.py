"""data/demo/spelling.py: the words, their spellings and the counts of their letters."""
import itertools
import re

import pytest

from data.demo import spelling
from data.demo.spelling import SimpleSpelling, SpellingBee


def test_words():
    found = spelling.words()
    assert len(found) == len(set(found)) >= 5000
    assert all(re.fullmatch("[a-z]{3,14}", word) for word in found)
    assert {"strawberry", "function", "python"} < set(found)


def test_words_of_a_list(tmp_path):
    letters = "abcdefghij"
    good = ["".join(word) for word in itertools.product(letters, letters, letters, ["o", "er"])]
    bad = ["Paris", "it's", "xyz1", "ooo", "a", "naïve", "bcdf", "overlongwordsaretoolong"]
    (tmp_path / "words").write_text("\n".join(bad + good), encoding="utf-8")
    assert set(spelling.words(str(tmp_path / "words"))) == set(good)
    (tmp_path / "few").write_text("one\ntwo\n")
    with pytest.raises(ValueError, match="only 2 words"):
        spelling.words(str(tmp_path / "few"))


def test_spelling_bee_by_hand():
    assert [part["text"] for part in spelling.solution("strawberry", "r")] == [
        "strawberry:s,t,r,a,w,b,e,r,r,y\n"
        "Count r: s:0 t:0 r:1 a:1 w:1 b:1 e:1 r:2 r:3 y:3\n"
        "By hand 3, by Python ",
        "'strawberry'.count('r')", "3", "\n#### 3"]
    assert spelling.spelled("apple") == "apple:a,p,p,l,e"
    absent = 0
    for conversation in SpellingBee("train", 3000):
        word, letter = conversation["word"], conversation["letter"]
        assert word in conversation["messages"][0]["content"].lower() and len(letter) == 1
        assert conversation["answer"] == str(word.count(letter))
        absent += letter not in word
    assert 0.10 < absent / 3000 < 0.16
    assert len(SimpleSpelling("train", 200_000)) == 200_000
    assert len(SpellingBee("train", 80_000)) == 80_000


def test_spelling_is_graded_exactly():
    task = SimpleSpelling("test", 1)
    word = task[0]["word"]
    right = f"{word}:{','.join(word)}\n"
    assert task.grade(task[0], [{"type": "text", "text": right}])
    assert not task.grade(task[0], [{"type": "text", "text": right + ",s"}])
    assert not task.grade(task[0], ",".join(word)) and not task.grade(task[0], [])
