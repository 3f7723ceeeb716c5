"""
Word problems of one to three steps, answered in the manner of GSM8K.

    One pencil costs $4. Tom buys 7 pencils. How much does he pay?
    7 pencils cost: 7*4 =   python "7*4"   python_output "28"   .\n#### 28

stories.toml holds the stories. What is drawn for an item is a story, a sentence for each of its
facts, their order, a sentence that asks, and the way in which the sentences are put together: the
structure and its wording, which decide the split. So the test asks for known structures in
wordings that no training problem had. A chain strings events together, such as buying, losing and
sharing. Of a chain with two or three events the sequence alone decides the split, and the test has
sequences that no training problem had. Numbers, names and things are drawn last.

The answer says a step a sentence: what it is, the expression, and what Python makes of it. All
numbers in it are above 0 and whole, or they are amounts of money.
"""
import functools
import itertools
import re
import tomllib
from pathlib import Path
from typing import NamedTuple

from data.demo.arithmetic import EVASIVE, one_digit_off
from data.demo.grammar import alternatives, capital, leave_out, sloppy, spell_one
from data.demo.other_wordings import may_train
from data.demo.records import preference, record, run_on_parts
from data.demo.splits import check_split, generator, split_of
from data.grading import same_final_number
from data.lazy import Lazy

TOML = tomllib.loads(Path(__file__).with_name("stories.toml").read_text("utf-8"))
DISTRACTORS = alternatives(TOML["distractors"])

# The share of the problems with a number that has nothing to do with the question.
DISTRACTED = 0.2
# How the sentences of a problem are put together: the facts as sentences, joined by "and", after an
# "if", or after the question, or all of it with commas alone; or all of the problem in a few words,
# where a story has such a text.
STYLES = {"sentences": 36, "and": 12, "if": 10, "question first": 10, "commas": 12, "short": 20}
# Percent of the problems with one, two and three steps.
STEPS = {1: 45, 2: 35, 3: 20}
# Results beyond it are not asked for, unless a story has a bound of its own.
MAX_RESULT = 20_000
# Tries to find numbers with good results; the rarest sequences of events need some thousands.
MAX_TRIES = 100_000
# Cents of an amount that is not whole.
CENTS = ["50", "50", "25", "75", "20", "40", "80", "99"]

SHE = """
Ann Mia Emma Sara Lena Nina Ella Zoe Maria Julia Clara Alice Grace Lucy Amy Kate Rosa Priya Fatima
Aisha Yuki Mei Olga Elena Ingrid Hannah Ruth Nora Carmen Leila Amara Sofia
""".split()
HE = """
Tom Ben Max Leo Paul Jack Sam Noah Adam Luis Omar Ali Ravi Kenji Wei Ivan Pedro Marco Lars Erik
David Daniel Peter Jonas Felix Oscar Hugo Bruno Carl Mark Tariq Kofi
""".split()
# (as it is first said, as it is said again, pronoun)
ROLES = [("a farmer", "the farmer", "he"), ("a teacher", "the teacher", "she"),
         ("a baker", "the baker", "he"), ("a student", "the student", "she"),
         ("my brother", "my brother", "he"), ("my sister", "my sister", "she"),
         ("our neighbor", "our neighbor", "he"), ("a gardener", "the gardener", "she"),
         ("my friend", "my friend", "he"), ("the coach", "the coach", "she"),
         ("a merchant", "the merchant", "he"), ("my aunt", "my aunt", "she"),
         ("my mom", "my mom", "she"), ("my dad", "my dad", "he"), ("a boy", "the boy", "he"),
         ("a girl", "the girl", "she"), ("my uncle", "my uncle", "he"),
         ("my grandmother", "my grandmother", "she"), ("my grandpa", "my grandpa", "he"),
         ("our teacher", "our teacher", "she"), ("my cousin", "my cousin", "he"),
         ("my daughter", "my daughter", "she"), ("my son", "my son", "he"),
         ("the shopkeeper", "the shopkeeper", "he"), ("a child", "the child", "she"),
         ("my boss", "my boss", "he"), ("my wife", "my wife", "she"), ("a man", "the man", "he"),
         ("my husband", "my husband", "he"), ("a woman", "the woman", "she"),
         ("a nurse", "the nurse", "she"), ("a worker", "the worker", "he"),
         ("Mr. Brown", "Mr. Brown", "he"), ("Mrs. Lee", "Mrs. Lee", "she")]
HIM = {"he": "him", "she": "her"}
HIS = {"he": "his", "she": "her"}
# Persons who are always said the same way, and whose verbs have no s.
SPEAKERS = {"I": {"N": "I", "N's": "my", "him": "me"},
            "we": {"N": "we", "N's": "our", "him": "us"},
            "you": {"N": "you", "N's": "your", "him": "you"}}
THINGS = """
apple pencil book ball cookie egg orange card stamp marble balloon cup plate shirt toy sticker
flower ticket lemon notebook candle button coin stone shell bottle brick lamp chair hat rose mug
pear melon muffin sandwich donut eraser ruler magnet bead kite doll puzzle poster spoon fork towel
pillow potato carrot onion banana mango cupcake bagel pen crayon postcard badge
sock glove scarf vase mirror clock brush bell ribbon mask map plum peach tomato waffle pretzel ring
comb key envelope calendar magazine comic photo picture feather nail screw battery dish watch
umbrella backpack jacket cap belt bracelet whistle drum robot pizza burger taco folder
""".split()
BOXES = """
box bag basket crate jar shelf drawer carton case packet tray bucket bowl chest sack container
bin tin pack
""".split()
# Things that are eaten, that are planted, and that live on a farm or in a house.
FOODS = """
apple cookie egg orange pear melon muffin sandwich donut banana mango cupcake bagel plum peach
tomato waffle pretzel pizza burger taco carrot grape candy cherry strawberry nut pancake sweet
cracker sausage dumpling meatball samosa biscuit chocolate
""".split()
PLANTS = "tree rose tulip flower bush seedling bulb sunflower cactus daisy bean onion lily".split()
ANIMALS = "cow goat horse dog cat duck hen rabbit pig chicken fish bird hamster lamb".split()
# A plural that does not only add an s.
PLURALS = {"box": "boxes", "shelf": "shelves", "potato": "potatoes", "mango": "mangoes",
           "sandwich": "sandwiches", "tomato": "tomatoes", "brush": "brushes", "dish": "dishes",
           "scarf": "scarves", "watch": "watches", "battery": "batteries", "peach": "peaches",
           "cherry": "cherries", "strawberry": "strawberries", "candy": "candies", "bush": "bushes",
           "cactus": "cactuses", "daisy": "daisies", "lily": "lilies",
           "fish": "fish"}
# The slots of one thing and of several.
PLURAL_OF = {"thing": "things", "other": "others", "box": "boxes", "food": "foods",
             "plant": "plants", "animal": "animals"}
# What the filled braces may get wrong.
CORRECTIONS = {r"\bdoes (I|we|you)\b": r"do \1", r"\bis I\b": "am I",
               r"\bis (we|you)\b": r"are \1", r"\bhas (I|we|you)\b": r"have \1",
               r"\bwas (we|you)\b": r"were \1", r"\b([Aa]) (?=[aeiou])": r"\1n "}
NUMBER_WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine",
                "ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen",
                "seventeen", "eighteen", "nineteen", "twenty"]
MONEY = ["${}", "${}", "${}", "${}", "{} dollars", "{} dollars", "{} dollars", "{} euros", "€{}",
         "{} pounds", "£{}", "{} bucks", "{} rupees", "{} pesos", "{}€", "{} EUR", "{} USD",
         "{} francs", "{} euro"]
OPENINGS = alternatives("""
word problem: | solve this: | can you solve this? | a math problem: | please help me with this.
here is a problem. | homework: | question: | I have a problem for you. | try this one:
hi! | hello, | hey, | good morning. | excuse me, can you help? | help please! | my kid asks this:
I have a question. | this is from my math book. | my teacher gave us this one: | exercise 4.
I am bad at math. | I keep getting this wrong. | could you work this out for me?
I was at the market today. | I am planning a party. | we talked about this at dinner.
my daughter has this for homework. | I need this for our shop. | quick question. | a riddle:
so here is the thing. | let me tell you something first. | imagine this: | suppose this: | ok so
dear bot, please calculate. | sorry for the simple question. | I am checking my numbers.
today was a busy day. | I am on the phone with a customer. | we argue about this one.
my friend and I disagree on this. | I wrote this for my class. | please think about this one.
just to be sure: | problem 7: | test question: | next one: | another problem: | well,
""".strip())
# Behind it.
CLOSINGS = alternatives("""
thanks! | thank you. | please help. | please show the steps. | I can't work it out. | thx | pls
please explain. | that's my question. | I need the number. | any idea? | can you tell me?
what do you say? | thanks in advance. | my answer must be wrong. | please calculate it for me.
""".strip())
# What people put in front of the question itself.
LEADS = ["so ", "now ", "and now ", "then ", "tell me, ", "can you tell me, ", "my question is, ",
         "question: ", "I want to know: ", "please say, ", "do you know, ", "I wonder: ",
         "who can say: ", "the question is: ", "and "]
# How a question begins that is no question but a command, and ends in a full stop.
COMMAND = re.compile(
    r"((so|now) )?(find|give|tell|work|calculate|compute|say|name|figure|determine|help)\b|.*___")


# --------------------------------------------------------------------------------------------------
# Stories

class Story(NamedTuple):
    """A structure: {a}, {p} ... in its sentences are numbers, other braces see fill() below.

    numbers: [("n", "2..12"), ("p", "$2..60"), ("t", "n*3"), ...]
    facts: a list of sentences for each fact; asks, shorts: lists of sentences.
    steps: [(text, expression), ...]
    """
    name: str
    numbers: list
    facts: list
    asks: list
    shorts: list
    steps: list
    # The largest number that a step may give.
    most: int
    # Whether the facts make sense in this order alone.
    fixed: bool
    # Whether {N} is one person and not "we".
    alone: bool
    # Whether the name alone, and not the wording, decides the split.
    whole: bool


@functools.cache
def stories():
    """All stories by their number of steps: {1: {group: [story, ...]}, 2: ..., 3: ...}.

    A group is one story, or all sequences of a chain that have so many events.
    """
    found = {n: {} for n in STEPS}
    for name, about in TOML["stories"].items():
        story = plain_story(name, about)
        found[len(story.steps)][name] = [story]
    for name, about in TOML["chains"].items():
        for n in STEPS:
            sequences = itertools.product(about["events"], repeat=n)
            found[n][name] = [chain_story(name, about, events) for events in sequences]
    return found


def listed(text):
    """[["a", "b"], ["c"]] of the lines "a | b" and "c"; a line that ends with | goes on."""
    lines = re.sub(r"\|\n", "| ", text).strip().split("\n")
    return [alternatives(line) for line in lines]


def assignments(numbers):
    """"n=2..9 t=n*3" -> [("n", "2..9"), ("t", "n*3")]"""
    return [tuple(item.split("=")) for item in numbers.split()]


def step(line):
    """"They cost: n*p" -> ("They cost", "n*p")"""
    text, _, expression = line.rpartition(": ")
    return text, expression


def plain_story(name, about):
    return Story(name=name,
                 numbers=assignments(about["numbers"]),
                 facts=listed(about["facts"]),
                 asks=alternatives(about["ask"]),
                 shorts=alternatives(about["short"]),
                 steps=[step(line) for line in about["steps"].strip().split("\n")],
                 most=about.get("most", MAX_RESULT),
                 fixed=about.get("fixed", False),
                 alone=about.get("alone", False),
                 whole=False)


def chain_story(name, about, events):
    """The start of a chain and these of its events, one after the other."""
    people = about.get("people", False)
    numbers = assignments(about["numbers"])
    facts = [[at_event(line, 0) for line in alternatives(about["start"])]]
    steps = []
    for k, event in enumerate(events, 1):
        own_numbers, *sentences, line = about["events"][event]
        numbers += [(f"{letter}{k}", rule) for letter, rule in assignments(own_numbers)]
        facts.append([at_event(sentence, k) for sentence in sentences])
        text, expression = step(line)
        before = f"r{k - 1}" if k > 1 else "a"
        expression = re.sub(r"\br\b", before, expression)
        steps.append((at_event(text, k), re.sub(r"\b[bc]\b", rf"\g<0>{k}", expression)))
    return Story(name=" ".join([name, *events]),
                 numbers=numbers,
                 facts=facts,
                 asks=[at_event(line, len(events)) for line in alternatives(about["ask"])],
                 shorts=[],
                 steps=steps,
                 most=about.get("most", MAX_RESULT),
                 fixed=not people,
                 alone=about.get("alone", False),
                 whole=len(events) > 1)


def at_event(sentence, k):
    """Give the numbers of event k names of their own, and its people: {b} -> {b2}, {Q} -> {P2}."""
    sentence = re.sub(r"\{(\$?)([bc])\}", rf"{{\1\g<2>{k}}}", sentence)
    sentence = re.sub(r"\{P('s)?\}", rf"{{P{max(k - 1, 0)}\1}}", sentence)
    return re.sub(r"\{Q('s)?\}", rf"{{P{k}\1}}", sentence)


# --------------------------------------------------------------------------------------------------
# Wordings

def wording(story, rng):
    """Draw (style, sentences): the sentences as stories.toml has them, in the order of telling."""
    style = rng.choices(list(STYLES), list(STYLES.values()))[0]
    if style == "short" and story.shorts:
        return style, [rng.choice(story.shorts)]
    if style == "short":
        style = "sentences"

    facts = [rng.choice(sentences) for sentences in story.facts]
    if not story.fixed:
        rng.shuffle(facts)
    if rng.random() < DISTRACTED / (1 - STYLES["short"] / 100):
        facts.insert(rng.randrange(len(facts) + 1), rng.choice(DISTRACTORS))
    ask = rng.choice(story.asks)
    if style in ("sentences", "and", "commas") and rng.random() < 0.15:
        ask = rng.choice(LEADS[:2] if COMMAND.match(ask.lstrip("[")) else LEADS) + ask
    return style, [ask, *facts] if style == "question first" else [*facts, ask]


def item_of(story, style, sentences):
    """The text that decides the split."""
    return story.name if story.whole else "\n".join([story.name, style, *sentences])


def put_together(style, sentences):
    """Make one text of the sentences, which have no capital letters and no punctuation yet."""
    if style == "short":
        return sentences[0]
    if style == "question first":
        ask, *facts = sentences
        return " ".join([capital(marked(ask)), *(capital(fact) + "." for fact in facts)])
    *facts, ask = sentences
    ask = marked(ask)
    if style == "commas":
        return capital(", ".join([*facts, ask]))
    if style == "sentences" or len(facts) == 1 and style == "and":
        return " ".join([*(capital(fact) + "." for fact in facts), capital(ask)])
    joined = " and ".join([", ".join(facts[:-1]), facts[-1]] if len(facts) > 1 else facts)
    if style == "if":
        return f"If {joined}, {ask}"
    return f"{capital(joined)}. {capital(ask)}"


def marked(ask):
    """The question with its mark, a full stop where it is a command: "find the rest."."""
    return ask + ("." if COMMAND.match(ask) else "?")


# --------------------------------------------------------------------------------------------------
# Numbers

def draw_numbers(story, rng):
    """Draw ({name: value}, [output of each step]), all as texts.

    Draws until all results are above 0, and whole or amounts of money.
    """
    has_money = any(rule.startswith("$") for _, rule in story.numbers)
    for _ in range(MAX_TRIES):
        values = {}
        for name, rule in story.numbers:
            values[name] = draw_number(rule, values, rng)
        texts = {name: number_text(value, rule)
                 for (name, rule), value in zip(story.numbers, values.values())}
        outputs = results(story, values)
        if all(is_good(output, story.most, has_money) for output in outputs):
            return texts, outputs
    raise ValueError(f"stories.toml: no numbers give the story {story.name!r} good results")


def draw_number(rule, values, rng):
    """A number by a rule: "2..12", "$2..60", or "n*p" of the values before it."""
    money = rule.startswith("$")
    low, dots, high = rule.removeprefix("$").partition("..")
    if not dots:
        return round(calculate(low, values), 2)
    whole = rng.randint(calculate(low, values), calculate(high, values))
    if money and rng.random() < 0.2:
        return float(f"{whole}.{rng.choice(CENTS)}")
    return whole


@functools.cache
def compiled(expression):
    return compile(expression, "stories.toml", "eval")


def calculate(expression, values):
    """The value of an expression of stories.toml: ("n*p", {"n": 3, "p": 4}) -> 12."""
    # eval() sees nothing but expressions of stories.toml and numbers.
    return eval(compiled(expression), {}, values)


def number_text(value, rule=""):
    """The number as the problem says it: 12 -> "12", and money 4.5 -> "4.50"."""
    if value == int(value):
        return str(int(value))
    return f"{value:.2f}" if "$" in rule else f"{value:.12g}"


def results(story, values):
    """What Python prints for the steps: ["24", "12.5"]."""
    values = dict(values)
    outputs = []
    for k, (_, expression) in enumerate(story.steps, 1):
        value = round(calculate(expression, values), 6)
        values[f"r{k}"] = value
        outputs.append(f"{value:.12g}")
    return outputs


def is_good(output, most, has_money):
    """Whether a result is above 0, at most `most`, and whole or an amount of money."""
    digits = r"\d+(\.\d\d?)?" if has_money else r"\d+"
    return re.fullmatch(digits, output) is not None and 0 < float(output) <= most


def codes(story, texts, outputs):
    """The expressions of the steps with their numbers: ["7*4", "28+5"]."""
    known = {**texts, **{f"r{k}": output for k, output in enumerate(outputs, 1)}}
    return [re.sub(r"[a-z]\d?", lambda match: known[match[0]], expression)
            for _, expression in story.steps]


# --------------------------------------------------------------------------------------------------
# Names and things

def cast(rng, alone=False):
    """Who and what the problem is about: {slot: text}, and the forms of the person {N}.

    alone: {N} is not "we".
    """
    names = rng.sample(SHE + HE, 6)
    thing, other = rng.sample(THINGS, 2)
    box = rng.choice(BOXES)
    slots = {"thing": thing, "other": other, "box": box, "food": rng.choice(FOODS),
             "plant": rng.choice(PLANTS), "animal": rng.choice(ANIMALS)}
    slots |= {PLURAL_OF[slot]: plural(one) for slot, one in slots.items()}
    slots |= {"M": names[0], "L": names[1]}
    slots |= {f"P{k}": name for k, name in enumerate(names[2:])}
    slots |= {f"{key}'s": f"{slots[key]}'s" for key in ("M", "L", "P0", "P1", "P2", "P3")}

    who = rng.random()
    if who < 0.32:
        speaker = "I" if who < 0.2 else "you" if who < 0.26 or alone else "we"
        return slots, (speaker, speaker, speaker)
    if who < 0.45:
        return slots, rng.choice(ROLES)
    name = rng.choice([name for name in SHE + HE if name not in names])
    return slots, (name, name, "she" if name in SHE else "he")


def plural(thing):
    return PLURALS.get(thing, thing + "s")


def verb(third, person):
    """A verb in the form that goes with the person: ("buys", "I") -> "buy"."""
    if person not in SPEAKERS:
        return third
    irregular = {"has": "have", "does": "do", "goes": "go", "is": "am", "was": "was"}
    if person != "I":
        irregular |= {"is": "are", "was": "were"}
    past = {"worked", "sold", "had"}
    if third in past or third in irregular:
        return irregular.get(third, third)
    third = re.sub("ies$", "ys", third)
    return re.sub("(?<=ch|sh|ss)es$|s$", "", third)


def fill(sentences, slots, person, numbers, rng):
    """The sentences with all their braces filled.

    slots: {"things": "apples", "p": "4", "$p": "$4", ...}
    person: (as {N} is first said, as {N} is said again, pronoun)
    numbers: {slot: text} of the numbers as this problem says them.
    Once {N} was named, a pronoun may stand for it, unless somebody else was named since.
    """
    first, again, pronoun = person
    named = False
    others = False
    filled = []
    for sentence in sentences:
        def slot(match):
            nonlocal named, others
            key = match[1]
            # Nobody writes "ten%".
            if key in numbers and not match.string.startswith("%", match.end()):
                return numbers[key]
            if key in slots:
                others = others or key[0] in "MLP"
                return slots[key]
            if key not in ("N", "N's", "him"):
                return verb(key, first)
            name = again if named else first
            short = named and not others and rng.random() < 0.5
            named = True
            if first in SPEAKERS:
                return SPEAKERS[first][key]
            if key == "N":
                return pronoun if short else name
            if key == "N's":
                return HIS[pronoun] if short else f"{name}'s"
            return HIM[pronoun] if short else name

        sentence = re.sub(r"\{([^{}]+)\}", slot, spell_one(sentence, rng))
        for wrong, right in CORRECTIONS.items():
            sentence = re.sub(wrong, right, sentence)
        filled.append(sentence)
    return filled


def said_numbers(texts, rng):
    """How this problem says its numbers: {"n": "7", "$p": "4 dollars", ...}.

    One problem in six writes small numbers as words.
    """
    currency = rng.choice(MONEY)
    in_words = rng.random() < 1 / 6
    said = {}
    for name, text in texts.items():
        said[f"${name}"] = currency.format(text)
        small = text.isdigit() and int(text) < len(NUMBER_WORDS)
        said[name] = NUMBER_WORDS[int(text)] if in_words and small else text
    return said


# --------------------------------------------------------------------------------------------------
# Problems and their answers

def solution(texts, codes, outputs):
    """The answer as parts: a sentence for each step, and the last result after ####."""
    parts = []
    before = ""
    for text, code, output in zip(texts, codes, outputs):
        parts.append({"type": "text", "text": f"{before}{text}: {code} = "})
        parts.append({"type": "python", "text": code})
        parts.append({"type": "python_output", "text": output})
        before = ". "
    parts.append({"type": "text", "text": f".\n#### {outputs[-1]}"})
    return parts


class WordProblems(Lazy):
    """Each index draws a problem of its own.

    size: any number of conversations. None stands for 10,000 in train and 500 in the other splits.
    steps: the numbers of steps to ask for, such as (2, 3); None stands for all.
    """

    def __init__(self, split, size=None, steps=None):
        check_split(split)
        if size is None:
            size = 10_000 if split == "train" else 500
        self.split = split
        self.size = size
        self.steps = tuple(steps or STEPS)

    def __len__(self):
        return self.size

    def draw(self, i):
        """The i-th wording of the split, and the generator for what else item i needs.

        Returns (story, style, sentences, generator). Draws until the hash says that the wording
        belongs to the split.
        """
        rng = generator("WordProblems", self.split, i)
        n = rng.choices(self.steps, [STEPS[n] for n in self.steps])[0]
        groups = stories()[n]
        while True:
            story = rng.choice(groups[rng.choice(list(groups))])
            style, sentences = wording(story, rng)
            if (split_of(item_of(story, style, sentences)) == self.split
                    and may_train("word_problem", put_together(style, sentences))):
                return story, style, sentences, rng

    def get(self, i):
        story, style, sentences, rng = self.draw(i)
        texts, outputs = draw_numbers(story, rng)
        slots, person = cast(rng, story.alone)
        slots |= texts
        said = said_numbers({**texts, "x": str(rng.randint(2, 24))}, rng)
        question = put_together(style, fill(sentences, slots, person, said, rng))
        if style == "short":
            question = capital(question)
        if rng.random() < 0.12:
            opening = capital(rng.choice(OPENINGS))
            question = f"{opening} {question}"
        if rng.random() < 0.06:
            question = f"{question} {capital(rng.choice(CLOSINGS))}"
        if rng.random() < 0.08:
            question = leave_out(question, rng)
        if rng.random() < 0.18:
            question = sloppy(question, rng)

        # The answer says numbers in digits, and has no pronouns.
        explained = [capital(fill([text], slots, person, {}, rng)[0]) for text, _ in story.steps]
        parts = solution(explained, codes(story, texts, outputs), outputs)
        return record(question, parts, answer=outputs[-1], steps=len(outputs), story=story.name)

    def grade(self, conversation, answer):
        """Whether the number after the last #### is the result."""
        return same_final_number(answer, conversation["answer"])

    def pair(self, i):
        """Preference pair i: {"chosen": conversation, "rejected": conversation, "kind": str}.

        The kind says what is wrong with the rejected answer:
        in the head      does without the tool and states a wrong number, one digit off
        other operation  computes the last step with another sign
        unfinished       stops before the last step; of one step, states a number of the problem
        miscopied        computes the right expressions but states another number
        no tool          states the right numbers, but does without the tool
        run-on           is right, but never stops
        evasive          states no number at all
        """
        chosen = self[i]
        answer = chosen["answer"]
        right = chosen["messages"][1]["content"]
        rng = generator("WordProblems pair", self.split, i)
        kind = rng.choice(["in the head", "other operation", "other operation", "unfinished",
                           "miscopied", "no tool", "run-on", "evasive"])
        if kind == "in the head":
            wrong = one_digit_off(answer, rng)
            content = rng.choice([f"#### {wrong}", f"It is {wrong}.\n#### {wrong}"])
        elif kind == "other operation":
            content = other_operation(right, answer, rng)
        elif kind == "unfinished":
            content = unfinished(right, answer)
        elif kind == "miscopied":
            last = {"type": "text", "text": f".\n#### {one_digit_off(answer, rng)}"}
            content = right[:-1] + [last]
        elif kind == "no tool":
            content = "".join(part["text"] for part in right if part["type"] != "python")
        elif kind == "run-on":
            content = run_on_parts(right, rng)
        else:
            content = rng.choice(EVASIVE)
        return preference(chosen, content, kind)


def other_operation(parts, answer, rng):
    """The solution with another sign in its last expression, and so with another result."""
    said, code = parts[-4]["text"], parts[-3]["text"]
    *_, last = re.finditer(r"//|[-+*/%]", code)
    signs = [sign for sign in "+-*" if sign != last[0]]
    rng.shuffle(signs)
    for sign in signs:
        wrong = code[:last.start()] + sign + code[last.end():]
        output = f"{round(calculate(wrong, {}), 6):.12g}"
        if float(output) != float(answer):
            break
    return [*parts[:-4], {"type": "text", "text": said.replace(code, wrong)},
            {"type": "python", "text": wrong}, {"type": "python_output", "text": output},
            {"type": "text", "text": f".\n#### {output}"}]


def unfinished(parts, answer):
    """The solution without its last step, or with a number of the problem as its result."""
    numbers = re.findall(r"\d+(?:\.\d+)?", parts[-3]["text"])
    wrong = next(number for number in numbers + ["1", "2"] if float(number) != float(answer))
    if len(parts) == 4:
        return f"#### {wrong}"
    kept = parts[:-4]
    wrong = kept[-1]["text"]
    # The result of the step before may happen to be the answer.
    if float(wrong) == float(answer):
        return f"#### {float(answer) + 1:.12g}"
    return [*kept, {"type": "text", "text": f".\n#### {wrong}"}]
