"""
Spelling and counting letters: `SimpleSpelling` and `SpellingBee`.

A model that reads tokens does not see letters: it has to learn how each token is spelled. The
answers make that easy. After a comma or a space, as in ",r" and " r:2", a letter is the same token
wherever it stands. The count goes on letter by letter, so that each step looks only at one letter
and the number before it. The words come from the source files of the standard library, the same on
all machines that have the same Python; any word list can take their place.
"""
import functools
import os
import re
from collections import Counter

from data.demo.python_corpus import source_files, stdlib_folder
from data.demo.records import preference, record, run_on_parts
from data.demo.splits import check_split, generator, split_of, stable_hash
from data.grading import same_final_number, spoken_text
from data.lazy import Lazy

# A word among other words, not in the midst of code.
PROSE_WORD = re.compile(r"(?<=[a-z,] )[a-z]{3,14}(?=[.,;:]? |[.,;:]?\n)")
# A part of a name: "get" and "Decoder" of getDecoder.
NAME_PART = re.compile(r"(?<![A-Z])[A-Z][a-z]{2,13}(?![a-z])|(?<![A-Za-z])[a-z]{3,14}(?![a-z])")
# How often a word that is found in code alone must occur.
COMMON_ENOUGH = 2
# Words that people try first. The hash puts each of them into one split, like any other word.
EVERYDAY_WORDS = """
apple banana strawberry raspberry blueberry cherry orange lemon peach grape mango pineapple melon
coconut potato tomato carrot onion garlic pepper cabbage lettuce mushroom pumpkin cucumber bread
butter cheese chocolate coffee cookie sandwich pancake dinner breakfast kitchen bottle spoon knife
table chair window garden flower tree forest river mountain ocean island beach summer winter spring
autumn weather thunder rainbow cloud snow sunshine morning evening midnight yesterday tomorrow
monday cat dog horse rabbit elephant giraffe monkey tiger lion zebra kangaroo crocodile dolphin
penguin butterfly spider squirrel turtle chicken sheep goose parrot bicycle airplane train
helicopter submarine balloon rocket planet galaxy telescope doctor teacher student school library
university hospital hotel restaurant theater museum bridge castle village city street mother father
sister brother daughter family friend neighbor children people music guitar piano violin trumpet
drum football basketball tennis swimming running dancing singing painting reading happy angry hungry
sleepy beautiful wonderful difficult important possible necessary different interesting mississippi
banana committee accommodation bookkeeper onomatopoeia rhythm queue success address parallel
occurrence millennium embarrass
"""

# {w} stands for the word, bare or quoted.
SPELL = [
    "Spell the word: {w}", "Spell the word {w}", "Spell {w}", "Spell {w}.", "Spell: {w}",
    "Please spell {w}.", "Please spell the word {w}.", "How do you spell {w}?",
    "How is {w} spelled?", "How do I spell the word {w}?", "Can you spell {w}?",
    "Can you spell the word {w} for me?", "Spell out {w}",
    "Spell out the word {w}, letter by letter.", "Write {w} letter by letter.",
    "What are the letters of {w}?", "Which letters make up the word {w}?",
    "List the letters of {w} in order.", "Break {w} into letters.", "Give me the spelling of {w}.",
    "I need the spelling of {w}", "Buchstabiere {w}", "Buchstabiere das Wort {w}.",
    "Wie buchstabiert man {w}?", "Deletrea {w}", "Deletrea la palabra {w}.",
    "Comment s'écrit {w} ?", "Come si scrive {w}?", "Hoe spel je {w}?", "Soletre {w}",
]
# {l} stands for the letter, bare or quoted. Three questions in four are English.
COUNT = [
    "How many {l} are in {w}?", "How many {l} are there in {w}?",
    "How many {l} are in the word {w}?", "How many {l} are there in the word {w}?",
    "How many times does {l} occur in {w}?", "How many times does {l} appear in {w}?",
    "How many times does the letter {l} appear in the word {w}?",
    "How often does {l} appear in {w}?", "How often is {l} used in {w}?",
    "How many {l} does {w} have?", "How many letters {l} does {w} have?",
    "How many {l} do you see in {w}?", "How many {l} can you find in {w}?",
    "How many of the letter {l} are in {w}?", "Count the {l} in {w}",
    "Count the letter {l} in {w}.", "Count how many {l} are in {w}.",
    "Count the number of {l} in {w}", "Count all {l} in the word {w}.",
    "What is the number of {l} in {w}?", "What's the count of {l} in {w}?", "Number of {l} in {w}",
    "Number of {l} in the word {w}?", "Tell me how many {l} are in {w}.",
    "Please count the {l} in {w}.", "Can you count the {l} in {w}?",
    "Can you tell me how many {l} the word {w} has?", "Find the number of {l} in {w}.",
    "I want to know how many {l} are in {w}.", "Do you know how many {l} are in {w}?",
    "In {w}, how many {l} are there?", "In the word {w}, how many times is {l} used?",
    "Look at the word {w}. How many {l} are in it?", "The word is {w}. How many {l} does it have?",
    "{l} in {w}: how many?", "how many {l} in {w}", "Wie viele {l} hat {w}?",
    "Wie viele {l} sind in {w}?", "Wie oft kommt {l} in {w} vor?", "Combien de {l} dans {w} ?",
    "Combien de fois {l} dans le mot {w} ?", "¿Cuántas {l} hay en {w}?",
    "¿Cuántas veces aparece {l} en {w}?", "Quante {l} ci sono in {w}?",
    "Quantas letras {l} tem {w}?", "Hoeveel {l} zitten er in {w}?", "Hur många {l} finns i {w}?",
    "Ile liter {l} ma {w}?",
]
# Bare twice as often as in either kind of quotes.
QUOTES = ["{}", "{}", "'{}'", '"{}"']
# Percent of the questions that are about a letter that the word does not have.
ABSENT_PERCENT = 13
# Answers without a number, to be rejected.
EVASIVE = [
    "I cannot count letters.", "That is hard to say.", "There are some.",
    "I would have to look at the word first.", "It depends on how you count.",
    "Please count them yourself.", "Quite a few, I think.", "I am not sure about that word.",
    "You can find that in a dictionary.", "Letters can be counted in many ways.",
]


@functools.cache
def words(path=None):
    """The words to spell, in a fixed shuffled order: some 14,000 from CPython 3.11.

    A word has 3 to 14 lower-case ASCII letters. Many words are needed, since the letters of a token
    can only be learned from words that contain it. The share of the test words that have a token
    which fewer than eight training words contain is 2 % with a vocabulary of 1,024 tokens, 9 % with
    2,048 and 26 % with 4,096.

    path: a file with one word a line, like /usr/share/dict/words. None stands for the source files
    of the standard library.
    """
    if path is None:
        path = stdlib_folder()
        found = words_in_source(path)
    else:
        with open(path, encoding="utf-8", errors="replace") as f:
            found = {line.strip() for line in f}
    found = set(filter(is_word, found))
    if len(found) < 1000:
        raise ValueError(f"{path}: only {len(found)} words of 3 to 14 letters a-z, "
                         f"at least 1,000 are needed. Name a word list with one word a line")
    return sorted(found, key=stable_hash)


def words_in_source(folder):
    """What may be a word in the source files of a folder, and the everyday words."""
    in_prose = set(EVERYDAY_WORDS.split())
    anywhere = Counter()
    for name in source_files(folder):
        with open(os.path.join(folder, name), encoding="utf-8", errors="replace") as f:
            text = f.read()
        in_prose.update(PROSE_WORD.findall(text))
        anywhere.update(part.lower() for part in NAME_PART.findall(text))
    return in_prose | {word for word, count in anywhere.items() if count >= COMMON_ENOUGH}


def is_word(text):
    """Whether a text may be a word.

    What has no vowel, or repeats one letter, is an abbreviation, a hexadecimal number or a test
    string.
    """
    return re.fullmatch("[a-z]{3,14}", text) and re.search("[aeiouy]", text) and len(set(text)) > 1


@functools.cache
def words_of(split, path=None):
    """The words of one split, in the order of words()."""
    check_split(split)
    return [word for word in words(path) if split_of(word) == split]


def spelled(word):
    """The spelling as the answers give it: apple -> apple:a,p,p,l,e."""
    return f"{word}:{','.join(word)}"


# --------------------------------------------------------------------------------------------------
# Spelling

class SimpleSpelling(Lazy):
    """`Spell the word: apple` -> `apple:a,p,p,l,e`; later rounds ask for a word in other words.

    size: any number of conversations; None stands for one per word.
    path: see words().
    """

    def __init__(self, split, size=None, path=None):
        self.split = split
        self.words = words_of(split, path)
        self.size = len(self.words) if size is None else size

    def __len__(self):
        return self.size

    def get(self, i):
        word = self.words[i % len(self.words)]
        rng = generator("SimpleSpelling", self.split, i)
        question = rng.choice(SPELL).format(w=rng.choice(QUOTES).format(word))
        return record(question, spelled(word), word=word)

    def grade(self, conversation, answer):
        """Whether the text of the answer is the exact spelling, white space around it aside."""
        return spoken_text(answer).strip() == spelled(conversation["word"])

    def pair(self, i):
        """Preference pair i: {"chosen": conversation, "rejected": conversation, "kind": str}.

        The rejected answer has a wrong letter, is evasive, or never stops.
        """
        chosen = self[i]
        word = chosen["word"]
        rng = generator("SimpleSpelling pair", self.split, i)
        kind = rng.choice(["misspelled", "misspelled", "evasive", "run-on"])
        if kind == "misspelled":
            answer = f"{word}:{','.join(slip(word, rng))}"
        elif kind == "evasive":
            answer = rng.choice([
                "I cannot spell that word.", "That word is spelled just as it sounds.",
                "You can look it up in a dictionary.", word, f"The word is {word}."])
        else:
            answer = ",".join([spelled(word)] + list(word) * rng.randint(4, 8))
        return preference(chosen, answer, kind)


def slip(word, rng):
    """The word with one letter dropped, doubled, swapped with the next one, or replaced."""
    while True:
        at = rng.randrange(len(word) - 1)
        a, b = word[at], word[at + 1]
        replaced = rng.choice("aeioulnrst") + b
        wrong = word[:at] + rng.choice([b, a + a + b, b + a, replaced]) + word[at + 2:]
        if wrong != word:
            return wrong


# --------------------------------------------------------------------------------------------------
# Counting letters

class SpellingBee(Lazy):
    """`How many r are in strawberry?`: spell, count by hand, check with Python, then `#### 3`.

    Every place of the word is equally likely to give the letter, so that double letters come up
    more often. ABSENT_PERCENT of the questions ask for a letter that the word lacks.
    size, path: as in SimpleSpelling.
    """

    def __init__(self, split, size=None, path=None):
        self.split = split
        self.words = words_of(split, path)
        self.size = len(self.words) if size is None else size

    def __len__(self):
        return self.size

    def get(self, i):
        word = self.words[i % len(self.words)]
        rng = generator("SpellingBee", self.split, i)
        letters = word
        if rng.randrange(100) < ABSENT_PERCENT:
            letters = [c for c in "abcdefghijklmnopqrstuvwxyz" if c not in word]
        letter = rng.choice(letters)
        question = rng.choice(COUNT).format(w=rng.choice(QUOTES).format(word),
                                            l=rng.choice(QUOTES).format(letter))
        return record(question, solution(word, letter), word=word, letter=letter,
                      answer=str(word.count(letter)))

    def grade(self, conversation, answer):
        """Whether the number after the last #### is the count."""
        return same_final_number(answer, conversation["answer"])

    def pair(self, i):
        """Preference pair i: {"chosen": conversation, "rejected": conversation, "kind": str}.

        The kind says what is wrong with the rejected answer; a half-trained model makes all of
        these mistakes:
        miscount    the count by hand slips at one letter, and Python does not check it
        misspelled  the word loses or gains a letter that counts: Python agrees on a wrong number
        guess       is a wrong number and nothing else
        no tool     is right, but not checked with Python
        run-on      is right, but never stops
        evasive     states no number at all
        """
        chosen = self[i]
        word, letter = chosen["word"], chosen["letter"]
        n = word.count(letter)

        rng = generator("SpellingBee pair", self.split, i)
        kind = rng.choice(
            ["miscount", "miscount", "misspelled", "guess", "no tool", "run-on", "evasive"])
        if kind == "miscount":
            counts = miscount(word, letter, rng)
            answer = without_tool(word, letter, counts)
        elif kind == "misspelled":
            answer = solution(gain_or_lose(word, letter, rng), letter)
        elif kind == "guess":
            answer = f"#### {rng.choice([m for m in range(5) if m != n])}"
        elif kind == "no tool":
            answer = without_tool(word, letter, running_counts(word, letter))
        elif kind == "run-on":
            answer = run_on_parts(chosen["messages"][1]["content"], rng)
        else:
            answer = rng.choice(EVASIVE)
        return preference(chosen, answer, kind)


def running_counts(word, letter):
    """The count after each letter of the word: ("apple", "p") -> [0, 1, 2, 2, 2]."""
    return [word[:k].count(letter) for k in range(1, len(word) + 1)]


def by_hand(word, letter, counts):
    """The spelling, below it the count after each letter, and the start of the next line."""
    steps = "".join(f" {c}:{count}" for c, count in zip(word, counts))
    return f"{spelled(word)}\nCount {letter}:{steps}\nBy hand {counts[-1]}"


def solution(word, letter):
    """The right answer, as parts."""
    n = str(word.count(letter))
    counted = by_hand(word, letter, running_counts(word, letter))
    return [{"type": "text", "text": f"{counted}, by Python "},
            {"type": "python", "text": f"'{word}'.count('{letter}')"},
            {"type": "python_output", "text": n},
            {"type": "text", "text": f"\n#### {n}"}]


def without_tool(word, letter, counts):
    """An answer that counts by hand alone."""
    return f"{by_hand(word, letter, counts)}\n#### {counts[-1]}"


def miscount(word, letter, rng):
    """Running counts that are off by one from some letter on."""
    places = [k for k, c in enumerate(word) if c == letter]
    at = rng.randrange(len(word))
    step = rng.choice([1, -1] if places else [1])
    # To count too few, overlook one of the letters that count.
    if step < 0:
        at = rng.choice(places)
    return [count + step * (k >= at) for k, count in enumerate(running_counts(word, letter))]


def gain_or_lose(word, letter, rng):
    """The word with one more or one fewer of the letter; one that lacks the letter gains it."""
    places = [k for k, c in enumerate(word) if c == letter]
    at = rng.choice(places or [rng.randrange(1, len(word))])
    if not places or rng.random() < 0.5:
        return word[:at] + letter + word[at:]
    return word[:at] + word[at + 1:]
