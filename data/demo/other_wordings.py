"""
The frozen test wordings, and what keeps training wordings away from them.

A test whose sentences were also trained on measures whether a sentence is known, not whether the
skill is. other_wordings.toml holds sentences that were written apart from all training wordings. A
source of training questions leaves out each wording that equals one of them or nearly does:

    ASK = [ask for ask in ASK if may_train("spelling", ask)]
"""
import functools
import re
import tomllib
from collections import Counter
from pathlib import Path

# {"counting": [{"ask": "count {letter} {word}"}, ...], ...}; the file says what its fields mean.
SECTIONS = tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))

# What a wording asks about stands for anything: a hole like {word}, what is in quotes, a number.
ASKED = re.compile(r"""\{\w*\}|"[^"]*"|(?<!\w)'[^'\s]*'(?!\w)|`[^`]*`|\d+(?:[.,:]\d+)*""")


def words_and_holes(wording):
    """Lower-case words, and "_" for what is asked about: "What's {a} + 7?" -> ["whats", "_"].

    Punctuation and signs are dropped, so that an expression or a list of numbers is one "_".
    """
    wording = wording.lower().replace("\u2019", "'")
    # A hole goes first, since it may stand in quotes or have an apostrophe behind it.
    wording = re.sub(r"\{\w*\}", "{}", wording)
    wording = ASKED.sub(" _ ", wording).replace("'", "")
    tokens = re.findall(r"[^\W_]+|_", wording)
    return [token for k, token in enumerate(tokens) if token != "_" or tokens[k - 1:k] != ["_"]]


def edits(a, b):
    """The fewest insertions, deletions and replacements that make one list of the other."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        above = row
        row = [i]
        for j, y in enumerate(b, 1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (x != y)))
    return row[-1]


def near(a, b):
    """Whether two wordings are the same but for two words, and for a third of the longer one.

    A bare expression like "12+7" has no words that could be others: it is near nothing.
    """
    a = words_and_holes(a)
    b = words_and_holes(b)
    return has_words(a) and edits(a, b) <= most_edits(a, b)


def has_words(tokens):
    return any(token != "_" for token in tokens)


def most_edits(a, b):
    return min(2, max(len(a), len(b)) // 3)


@functools.cache
def is_near_test_wording(section, wording):
    """Whether near(wording, test wording) holds for any test wording of a section.

    wording: with holes in any braces: "Spell {w}." A question works, too, if what it asks about is
    a number or in quotes. It takes some 50 microseconds, and none the second time.
    """
    a = words_and_holes(wording)
    if not has_words(a):
        return False
    tests, places = test_index(section)
    # Each edit takes away at most one token that both have.
    in_both = Counter()
    for token in numbered(a):
        in_both.update(places.get(token, ()))
    for k, n in in_both.items():
        # Two edits are the most that may be, which most wordings need more than.
        if n < len(a) - 2 or n < len(tests[k]) - 2:
            continue
        most = most_edits(a, tests[k])
        if max(len(a), len(tests[k])) - n <= most and edits(a, tests[k]) <= most:
            return True
    return False


@functools.cache
def may_train(section, wording):
    """Whether a training question may have this wording: it is not near a test wording.

    Wordings of one or two words around what they ask about ("Spell {w}", "{l} in {w}?") and bare
    expressions may always: everyone types them. So may three words about who the model is, like
    "Who are you?", and other talk as short.
    """
    free = 3 if section in ("identity", "small_talk", "unknown", "refuse") else 2
    n_words = sum(token != "_" for token in words_and_holes(wording))
    return n_words <= free or not is_near_test_wording(section, wording)


@functools.cache
def test_index(section):
    """The tokens of each test wording of a section, and {numbered token: [their indices]}."""
    if section not in SECTIONS:
        raise ValueError(f"unknown section {section!r} of test wordings: expected one of "
                         f"{', '.join(SECTIONS)}")
    tests = [words_and_holes(entry["ask"]) for entry in SECTIONS[section]]
    places = {}
    for k, b in enumerate(tests):
        for token in numbered(b):
            places.setdefault(token, []).append(k)
    return tests, places


def numbered(tokens):
    """Tokens with how often each came before: ["a", "b", "a"] -> [("a", 0), ("b", 0), ("a", 1)]."""
    return [(token, tokens[:k].count(token)) for k, token in enumerate(tokens)]
