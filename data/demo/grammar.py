"""
Small grammars: many sentences written as few lines.

A bracket is a choice: "[a/b] c" is "a c" or "b c", and "x[/ y]" is "x" or "x y". Alternatives that
differ in more than a word stand beside each other with a | between them.
"""
import itertools
import re


def alternatives(text):
    """The lines of a grammar, split at | and at line ends: "a | b" -> ["a", "b"]."""
    return [line.strip() for line in re.split(r"[|\n]", text) if line.strip()]


def spell_out(line):
    """All sentences of a line: "[a/b] c" -> ["a c", "b c"]."""
    choices = [piece.split("/") for piece in re.split(r"[\[\]]", line)]
    return [tidy("".join(pieces)) for pieces in itertools.product(*choices)]


def spell_one(line, rng):
    """One sentence of a line, at random."""
    pieces = re.split(r"[\[\]]", line)
    # Every second piece stood inside a bracket.
    pieces[1::2] = [rng.choice(piece.split("/")) for piece in pieces[1::2]]
    return tidy("".join(pieces))


def tidy(sentence):
    """A sentence without the spaces that an empty choice leaves, inside and before a mark."""
    sentence = re.sub(" +", " ", sentence)
    return re.sub(r" +([?.!,:]|$)", r"\1", sentence).strip()


def capital(sentence):
    """The sentence with a capital letter at its beginning."""
    return sentence[:1].upper() + sentence[1:]


def sloppy(text, rng):
    """What people in a hurry make of it: lower case, and half of the time no punctuation.

    The point and the comma of a number stay.
    """
    text = text.lower()
    if rng.random() < 0.5:
        text = re.sub(r"[.,?!:;](?!\d)", "", text)
    return text
