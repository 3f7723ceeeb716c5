"""
The demo's skills, asked in other people's words: test tasks made of other_wordings.toml.

Each item is one of the frozen wordings, with words of the test split and new numbers. The record
holds a right answer, and what grade() needs. No stage trains on any of it.
"""
import keyword
import re
from decimal import Decimal
from fractions import Fraction
from functools import partial

from data.demo.identity import INTENTS, states_facts
from data.demo.other_wordings import SECTIONS
from data.demo.records import record
from data.demo.spelling import ABSENT_PERCENT, solution, spelled, words_of
from data.demo.splits import generator, stable_hash
from data.grading import same_final_number, spoken_text
from data.lazy import Lazy
from data.published.source import grade_letter, multiple_choice_record

NAMES = """
Maya Oskar Priya Tomas Ingrid Kofi Leila Bruno Hana Felix Amara Jonas Noor Pedro Wanda Emil
""".split()
# What one can count, own, sell and eat.
THINGS = """
cookies nuts plums cherries sweets pears figs muffins olives almonds dates tarts grapes pancakes
""".split()
REFUSAL = "I don't know that, and I cannot look it up."
SAYS_REFUSAL = re.compile(r"\b(don't know|do not know|cannot|can't|not able|unable)\b")


class OtherWordings(Lazy):
    """The items of one section of the file; a subclass has its name, item() and grade().

    size: any number of items; each round over the wordings draws other words and numbers. None
    stands for one item per wording, which is all there is of a section without holes.
    """
    section = ""
    has_holes = True

    def __init__(self, size=None):
        self.entries = self.select()
        n = len(self.entries)
        self.size = n if size is None else size
        if not self.has_holes:
            self.size = min(self.size, n)

    def select(self):
        """The entries in a fixed shuffled order, since the file is sorted by kinds."""
        return sorted(SECTIONS[self.section], key=lambda entry: stable_hash(entry["ask"]))

    def __len__(self):
        return self.size

    def get(self, i):
        turn, k = divmod(i, len(self.entries))
        entry = self.entries[k]
        return self.item(entry, generator("other wordings", entry["ask"], turn))


# --------------------------------------------------------------------------------------------------
# Letters

class OtherCounting(OtherWordings):
    section = "counting"

    def item(self, entry, rng):
        word = rng.choice(words_of("test"))
        letters = word
        if rng.randrange(100) < ABSENT_PERCENT:
            letters = [c for c in "abcdefghijklmnopqrstuvwxyz" if c not in word]
        letter = rng.choice(letters)
        return record(entry["ask"].format(word=word, letter=letter), solution(word, letter),
                      answer=str(word.count(letter)))

    def grade(self, conversation, answer):
        """Whether the number after the last #### is the count."""
        return same_final_number(answer, conversation["answer"])


class OtherSpelling(OtherWordings):
    section = "spelling"

    def item(self, entry, rng):
        word = rng.choice(words_of("test"))
        return record(entry["ask"].format(word=word), spelled(word), word=word)

    def grade(self, conversation, answer):
        """Whether the answer spells the word and nothing else."""
        return spells(conversation["word"], answer)


def spells(word, answer):
    """Whether the answer gives the letters of the word in order: "w-o-r-d", "word:w,o,r,d".

    Anything that is no letter may stand between them. A row of three and more single letters that
    spells something else makes the answer wrong.
    """
    runs = [[]]
    for text in re.findall(r"[^\W\d_]+", spoken_text(answer).lower()):
        if len(text) == 1:
            runs[-1].append(text)
        else:
            runs.append([])
    spellings = [run for run in runs if len(run) >= 3]
    return bool(spellings) and all(run == list(word) for run in spellings)


# --------------------------------------------------------------------------------------------------
# Numbers

def compute(expression, values):
    """An expression of the file with exact numbers: ("a / 2", {"a": Fraction(5)}) -> 5/2."""
    # It is our own file; eval() sees no other names than these.
    return eval(expression, {"__builtins__": {}, "abs": abs}, values)


def draw_values(entry, rng):
    """Values for the names of an entry that fulfil what it requires: {"a": Fraction(7, 10)}."""
    scale = entry.get("scale", {})
    while True:
        values = {}
        for name, allowed in entry["values"].items():
            if not isinstance(allowed[0], str):
                values[name] = Fraction(rng.randint(*allowed), scale.get(name, 1))
        for name, allowed in entry["values"].items():
            if isinstance(allowed[0], str):
                values[name] = compute(rng.choice(allowed), values)
        if compute(entry.get("require", "True"), values):
            return values


def written(number):
    """A number that has an end in decimals: Fraction(5, 2) -> "2.5"."""
    return f"{Decimal(number.numerator) / number.denominator:f}"


def fill(entry, values, rng):
    """The question: the wording with the values, two names and a thing in its holes."""
    numbers = {name: written(value) for name, value in values.items()}
    name, other = rng.sample(NAMES, 2)
    return entry["ask"].format(**numbers, name=name, other=other, thing=rng.choice(THINGS))


class OtherArithmetic(OtherWordings):
    """Expressions to compute, and claims to check, whose records have "claim": bool."""
    section = "arithmetic"

    def item(self, entry, rng):
        values = draw_values(entry, rng)
        result = compute(entry["answer"], values)
        question = fill(entry, values, rng)
        if entry.get("claim"):
            return record(question, "Yes." if result else "No.", claim=result)
        return record(question, f"#### {written(result)}", answer=written(result))

    def grade(self, conversation, answer):
        """Whether the number after the last #### is the result, or the claim is judged rightly."""
        if "claim" in conversation:
            return agrees(conversation["claim"], answer)
        return same_final_number(answer, conversation["answer"])


def agrees(claim, answer):
    """Whether an answer says yes or no as the claim is true or false, and never the other.

    "not correct" says no.
    """
    text = spoken_text(answer).lower().replace("\u2019", "'")
    text = re.sub(r"(\bnot|n't) (true|right|correct)\b", " wrong", text)
    says_yes = bool(re.search(r"\b(yes|true|right|correct)\b", text))
    says_no = bool(re.search(r"\b(no|false|wrong|incorrect)\b", text))
    return says_yes != says_no and says_yes == claim


class OtherWordProblems(OtherWordings):
    """Word problems of one, two or three steps."""
    section = "word_problem"

    def __init__(self, steps, size=None):
        self.steps = steps
        super().__init__(size)

    def select(self):
        return [entry for entry in super().select() if entry["steps"] == self.steps]

    def item(self, entry, rng):
        values = draw_values(entry, rng)
        answer = written(compute(entry["answer"], values))
        return record(fill(entry, values, rng), f"#### {answer}", answer=answer)

    def grade(self, conversation, answer):
        """Whether the number after the last #### is the result."""
        return same_final_number(answer, conversation["answer"])


# --------------------------------------------------------------------------------------------------
# Multiple choice

class OtherChoices(OtherWordings):
    """Two to five options, of which one fits; the answer is its letter, which is generated."""
    section = "choices"
    grade = staticmethod(grade_letter)

    def item(self, entry, rng):
        n = rng.randint(2, 5)
        options, holes = draw_options(entry["kind"], n, rng)
        # The right one comes first; any letter is as likely.
        at = rng.randrange(n)
        options = options[1:at + 1] + options[:1] + options[at + 1:]
        letters = list("ABCDE"[:n])
        return multiple_choice_record(entry["ask"].format(**holes), letters, options, letters[at],
                                      subject=entry["kind"])


def draw_options(kind, n, rng):
    """n options of which the first alone is right, and what fills the holes of the wording.

    draw_options("starts_with", 2, rng) -> (["apple", "banana"], {"letter": "a"}).
    """
    words = words_of("test")
    word = rng.choice(words)
    if kind in ("largest", "smallest"):
        return sorted(rng.sample(range(2, 1000), n), reverse=kind == "largest"), {}
    if kind in ("longest_word", "shortest_word"):
        return of_different_length(words, n, rng, longest_first=kind == "longest_word"), {}
    if kind == "alphabet_first":
        return sorted(rng.sample(words, n)), {}
    if kind in ("even", "odd"):
        rest = 1 if kind == "odd" else 0
        return only_one(range(2, 1000), lambda x: x % 2 == rest, n, rng), {}
    if kind == "multiple_of":
        m = rng.randint(3, 12)
        return only_one(range(m, 12 * m), lambda x: x % m == 0, n, rng), {"n": m}
    if kind == "contains_letter":
        letter = rng.choice(word)
        return only_one(words, lambda x: letter in x, n, rng), {"letter": letter}
    if kind == "starts_with":
        return only_one(words, lambda x: x[0] == word[0], n, rng), {"letter": word[0]}
    if kind == "ends_with":
        return only_one(words, lambda x: x[-1] == word[-1], n, rng), {"letter": word[-1]}
    if kind == "letter_count":
        return only_one(words, lambda x: len(x) == len(word), n, rng), {"n": len(word)}
    if kind == "spelled":
        letters = rng.choice(["-", " ", ", "]).join(word)
        return only_one(words, lambda x: x == word, n, rng), {"letters": letters}
    if kind == "keyword":
        # "match" and "type" are keywords in some places alone.
        pool = sorted({*words, *keyword.kwlist} - {*keyword.softkwlist, "True", "False", "None"})
        return only_one(pool, keyword.iskeyword, n, rng), {}

    b, a = sorted(rng.sample(range(2, 20 if kind == "product" else 100), 2))
    right = {"product": a * b, "sum": a + b, "difference": a - b}[kind]
    pool = range(max(1, right - 15), right + 16)
    return only_one(pool, lambda x: x == right, n, rng), {"a": a, "b": b}


def only_one(pool, fits, n, rng):
    """n different items of the pool; the first of them fits, the others do not."""
    right = rng.choice([x for x in pool if fits(x)])
    return [right, *rng.sample([x for x in pool if not fits(x)], n - 1)]


def of_different_length(words, n, rng, longest_first):
    """n words, the longest or the shortest first, and no other is as long or as short."""
    while True:
        found = sorted(rng.sample(words, n), key=len, reverse=longest_first)
        if len(found[0]) != len(found[1]):
            return found


# --------------------------------------------------------------------------------------------------
# Who it is, small talk, what cannot be known, and what it cannot do

class OtherIntents(OtherWordings):
    """section: identity, small_talk or unknown. Answers are graded by the facts of INTENTS."""
    has_holes = False

    def __init__(self, section, size=None):
        self.section = section
        super().__init__(size)

    def item(self, entry, rng):
        # The frozen file calls what the user asks about himself "about me".
        intent = "about you" if entry["intent"] == "about me" else entry["intent"]
        return record(entry["ask"], rng.choice(INTENTS[intent]["answers"]), intent=intent)

    def grade(self, conversation, answer):
        """Whether the answer states every fact that the intent calls for."""
        return states_facts(conversation["intent"], answer)


class OtherRefuse(OtherWordings):
    """All kinds of requests that the demo was not made for."""
    section = "refuse"
    has_holes = False

    def item(self, entry, rng):
        return record(entry["ask"], REFUSAL, intent=entry["intent"])

    def grade(self, conversation, answer):
        """Whether the answer says that it does not know or cannot, and states no result."""
        return refuses(answer) and "####" not in spoken_text(answer)


def refuses(answer):
    """Whether an answer says that it does not know or cannot; of a skill a false refusal."""
    return bool(SAYS_REFUSAL.search(spoken_text(answer).lower().replace("\u2019", "'")))


# A task's name for evaluate.py -> what makes it: OTHER_TASKS[name](size).
OTHER_TASKS = {
    "other_counting": OtherCounting,
    "other_spelling": OtherSpelling,
    "other_arithmetic": OtherArithmetic,
    "other_word_problems_1": partial(OtherWordProblems, 1),
    "other_word_problems_2": partial(OtherWordProblems, 2),
    "other_word_problems_3": partial(OtherWordProblems, 3),
    "other_choices": OtherChoices,
    "other_identity": partial(OtherIntents, "identity"),
    "other_small_talk": partial(OtherIntents, "small_talk"),
    "other_unknown": partial(OtherIntents, "unknown"),
    "other_refuse": OtherRefuse,
}
