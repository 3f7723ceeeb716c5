"""data/demo/grammar.py: sentences spelled out from a line."""
import random

from data.demo.grammar import (
    DROPPED,
    FILLERS,
    alternatives,
    capital,
    leave_out,
    put_in,
    sloppy,
    spell_one,
    spell_out,
)


def test_spell_out():
    assert spell_out("[a/b] c[/ d]") == ["a c", "a c d", "b c", "b c d"]
    assert spell_out("no choice") == ["no choice"]
    assert spell_out("is [/it] [big/]?") == ["is big?", "is?", "is it big?", "is it?"]


def test_spell_one_gives_all_sentences_of_the_line_and_no_other():
    line = "[tell/show] me [the/] number[/ please]."
    rng = random.Random(0)
    assert {spell_one(line, rng) for _ in range(200)} == set(spell_out(line))


def test_alternatives():
    assert alternatives("a b | c\n\n d |\n e\n") == ["a b", "c", "d", "e"]
    # A choice that is too long for a line goes on in the next one, which is indented.
    assert alternatives("a [b/\n    c]\nd/\ne") == ["a [b/c]", "d/", "e"]
    assert capital("it is") == "It is" and capital("") == ""


def test_sloppy_keeps_the_numbers():
    rng = random.Random(0)
    texts = {sloppy("Tom has $4.50, Ann 1,200. How much?", rng) for _ in range(20)}
    assert texts == {"tom has $4.50, ann 1,200. how much?", "tom has $4.50 ann 1,200 how much"}


def test_what_is_left_out_and_put_in_keeps_what_is_asked():
    rng = random.Random(0)
    wording = "how many {l} are in the word {w x}?"
    for _ in range(200):
        shorter = leave_out(wording, rng).split()
        lost = [word for word in wording.split() if word not in shorter]
        assert len(lost) == 1 and lost[0] in DROPPED
        longer = put_in(wording, rng)
        assert "{w x}" in longer and "{l}" in longer
        # Without the words of the filler it is the wording again.
        (filler,) = {filler for filler in alternatives(FILLERS)
                     if longer.replace(",", "").replace(f" {filler} ", " ", 1) == wording}
    assert leave_out("spell {w}", rng) == "spell {w}" and put_in("{a b}", rng) == "{a b}"
