"""data/demo/letters.py: questions about the letters of a word, and their answers."""
import re
from collections import Counter

from data.demo.letters import KINDS, Letters, by_hand, ordinal
from data.demo.spelling import made_up, words_of
from data.demo.splits import generator, split_of
from data.grading import spoken_text
from talk.tool import run_python


def test_every_kind_comes_up_and_its_answer_is_right():
    task = Letters("train", 3000)
    kinds = Counter()
    for conversation in task:
        kinds[conversation["kind"]] += 1
        question = conversation["messages"][0]["content"]
        content = conversation["messages"][1]["content"]
        word = conversation["word"]
        assert word in question.lower() and task.grade(conversation, content)
        assert spoken_text(content).startswith(f"{word}:{','.join(word)}\n")
        if isinstance(content, str):
            # Counted by hand: the vowels, or the consonants.
            vowels = len(re.findall("[aeiou]", word))
            right = len(word) - vowels if "onsonants" in question.lower() else vowels
            # A slip of the keyboard may have hit the word "consonants".
            assert conversation["answer"] in (str(right), str(len(word) - right))
            continue
        code, output = content[1]["text"], content[2]["text"]
        assert run_python(code) == output
    assert set(kinds) == set(KINDS) and min(kinds.values()) > 200


def test_the_letter_that_is_asked_for():
    assert ordinal(0) == ["1st", "first"] and ordinal(10) == ["11th", "eleventh"]
    assert ordinal(21) == ["22nd"] and "last" in ordinal(-1)
    places = {**{name: k for k in range(12) for name in ordinal(k)}}
    seen = 0
    for conversation in Letters("train", 3000):
        question = conversation["messages"][0]["content"].lower()
        word = conversation["word"]
        named = [k for name, k in places.items() if re.search(rf"\b{name} (letter|char)", question)]
        if conversation["kind"] == "position" and len(named) == 1:
            assert conversation["text"] == word[named[0]]
            seen += 1
        if conversation["kind"] == "backwards":
            assert conversation["text"] == "".join(reversed(word))
    assert seen > 50


def test_counted_by_hand():
    assert by_hand("apple", "Vowels", "aeiou") == (
        "apple:a,p,p,l,e\nVowels: a:1 p:1 p:1 l:1 e:2\n#### 2")


def test_a_wrong_answer_is_wrong():
    task = Letters("test", 400)
    for i in range(400):
        pair = task.pair(i)
        if pair["kind"] != "run-on":
            assert not task.grade(task[i], pair["rejected"]["messages"][1]["content"])
        assert task.grade(task[i], pair["chosen"]["messages"][1]["content"])
    (letter,) = [c for c in task[:40] if c["kind"] == "ends"][:1]
    assert not task.grade(letter, f"It starts with {letter['text']} or so.")


def test_words_that_are_made_up_belong_to_their_split():
    rng = generator("test", "made up")
    for split in ("train", "pairs"):
        words = [made_up(split, words_of(split), rng) for _ in range(300)]
        assert len(set(words)) > 280
        assert all(split_of(word) == split and 3 <= len(word) <= 14 for word in words)
    # The test asks for words that people use, or two of them in one.
    known = set(words_of("test"))
    for conversation in Letters("test", 300):
        word = conversation["word"]
        assert word in known or any(word[:k] in known and word[k:] in known
                                    for k in range(3, len(word)))
