"""
Small grammars: many sentences written as few lines.

A bracket is a choice: "[a/b] c" is "a c" or "b c", and "x[/ y]" is "x" or "x y". Alternatives that
differ in more than a word stand beside each other with a | between them. A line that ends with /
inside a bracket goes on in the next one, which is indented.
"""
import functools
import itertools
import math
import re

from data.demo.other_wordings import may_train
from data.demo.splits import split_of

# What people say before a question and behind it.
OPENERS = """
hi, | hello, | hey, | hi! | hello! | hey there, | ok, | okay so | so, | well, | now | next:
please: | quick question: | a question: | one more question: | question: | another one:
I have a question. | excuse me, | sorry to bother you. | can you help me? | help me please:
I need your help. | um, | my friend asks: | homework: | next question: | ok next. | listen,
good morning! | good evening, | my teacher asks: | for my homework: | just checking: | tell me:
dear bot, | let's see: | I was wondering: | maybe you know this: | here's one for you: | try this:
yo,
""".strip()
CLOSERS = """
thanks! | thank you. | thx | please | please! | pls | plz | thanks in advance | I'm curious.
I need it for school. | it's for my homework. | be quick. | asap | can you help? | no idea myself.
help me please. | just the answer. | I always forget. | thank you so much! | go! | :)
""".strip()

# What people are doing while they ask: a sentence in front of the question that has nothing to do
# with it.
CONTEXTS = """
I am on the train. | it's late. | we had dinner. | my cat is asleep. | I am at work.
it is raining. | I have a test tomorrow. | my daughter is in school. | we are on holiday.
I am tired. | I broke my phone. | I'm learning English. | my keyboard is old. | sorry for my typing.
I am new here. | we are playing a game. | I am writing a report. | our boss is waiting.
this is urgent. | I've been thinking about this all day. | my brother and I disagree.
I lost my notes. | we bet on it. | I am a teacher. | I am in the kitchen. | my friends are here.
I hope you can do it. | nobody knows. | I asked others before. | it's for a friend.
I can't find it in the book. | I forgot my glasses. | the children are noisy. | I have coffee.
we are in class. | I got this by mail. | I am curious. | I am stuck. | this one is easy.
this one is hard. | I'll be quick. | let's test you. | don't be shy. | take your time. | no hurry.
think well. | be careful. | listen well. | read this. | last one for now. | I am in a meeting.
the bus is late. | my battery is low. | mom says hi. | I'm preparing a lesson.
"""
# What people put in between without changing what they ask.
FILLERS = """
actually | basically | maybe | really | just | kindly | quickly | exactly | honestly | again | today
here | please | I mean | you know | by the way | if possible | in fact | for a friend | for me | erm
uh | um | like | well | dear | my friend | sir | buddy | for us | at once | now | then | perhaps
if you can | if you like | for my class | in your opinion | without mistakes | as always | also | so
for the record | to be sure | first of all | in any case | for school | out there | in short | too
""".strip()
# Words that a hurried or foreign writer leaves out.
DROPPED = set("""
the a an is are do does did would please it its that this of for to there have has word be at will
some any as by with in on
""".split())


def alternatives(text):
    """The lines of a grammar, split at | and at line ends: "a | b" -> ["a", "b"]."""
    text = re.sub(r"/\n +", "/", text)
    return [line.strip() for line in re.split(r"[|\n]", text) if line.strip()]


def spell_out(line):
    """All sentences of a line: "[a/b] c" -> ["a c", "b c"]."""
    # Every second piece stood inside a bracket; a / outside of one is a sign of division.
    choices = [piece.split("/") if k % 2 else [piece]
               for k, piece in enumerate(re.split(r"[\[\]]", line))]
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


def typo(text, rng):
    """The text with one letter of a longer word dropped, doubled, or swapped with the next one.

    What stands in braces stays.
    """
    places = [match for match in re.finditer(r"[a-z]{5,}(?![^{]*\})", text)]
    if not places:
        return text
    match = rng.choice(places)
    at = rng.randrange(match.start() + 1, match.end() - 1)
    a, b = text[at], text[at + 1]
    return text[:at] + rng.choice([b, a + a + b, b + a]) + text[at + 2:]


def leave_out(text, rng):
    """The text without one of the short words that nothing depends on."""
    words = text.split(" ")
    places = [k for k, word in enumerate(words) if word.lower() in DROPPED]
    if len(words) < 4 or not places:
        return text
    del words[rng.choice(places)]
    return " ".join(words)


def put_in(text, rng):
    """The text with something in between that changes nothing."""
    # Not inside of braces.
    places = [match.start() for match in re.finditer(r" (?![^{]*\})", text)]
    if not places:
        return text
    at = rng.choice(places)
    mark = rng.choice(["", "", ","])
    return f"{text[:at]}{mark} {rng.choice(alternatives(FILLERS))}{mark}{text[at:]}"


def dress(wording, rng):
    """A wording as one of many people would type it: with a greeting, thanks, slips, in a hurry."""
    # No grammar has all the ways in which people ask. What is left out and put in teaches a model
    # to look at the few words that matter.
    if rng.random() < 0.15:
        wording = leave_out(wording, rng)
    for _ in range(rng.choice([0, 0, 0, 0, 1, 1, 2])):
        wording = put_in(wording, rng)
    if rng.random() < 0.08:
        wording = f"{capital(rng.choice(alternatives(CONTEXTS)))} {capital(wording)}"
    if rng.random() < 0.1:
        opener = rng.choice(alternatives(OPENERS))
        if opener[-1] in ".?!":
            wording = capital(wording)
        wording = f"{opener} {wording}"
    if rng.random() < 0.07:
        # A mark has to stand between the two, and a comma may.
        closer = rng.choice(alternatives(CLOSERS))
        if wording[-1] in ".?!:":
            wording = f"{wording} {capital(closer)}"
        else:
            wording = f"{wording}{rng.choice([',', ''])} {closer}"
    if rng.random() < 0.05:
        wording = typo(wording, rng)
    form = rng.random()
    if form < 0.22:
        return sloppy(wording, rng)
    if form > 0.98:
        # Not the names in braces.
        return re.sub(r"[^{}]+(?![^{]*\})", lambda match: match[0].upper(), wording)
    if form < 0.32:
        return wording.rstrip(".?!")
    if form < 0.36:
        return capital(wording.rstrip(".?!")) + rng.choice(["??", "!", "...", " ?", ".", "?"])
    return capital(wording)


@functools.cache
def sentences(grammar, section, split):
    """All sentences of a small grammar that this split may use, which may be none."""
    split = "train" if split == "test" else split
    found = [sentence for line in alternatives(grammar) for sentence in spell_out(line)]
    return [sentence for sentence in dict.fromkeys(found)
            if split_of(sentence) == split and may_train(section, sentence)]


@functools.cache
def weighted_lines(grammar):
    """The lines of a grammar, and how often each is to come up: by the root of its sentences."""
    lines = alternatives(grammar)
    weights = [math.prod(choice.count("/") + 1 for choice in re.findall(r"\[(.*?)\]", line)) ** 0.5
               for line in lines]
    return lines, weights


def draw_sentence(grammar, split, rng):
    """A sentence of a large grammar that the hash gives to this split.

    The test asks the sentences of train: it measures what the model makes of known wordings, while
    other_tasks.py asks in other ones.
    """
    split = "train" if split == "test" else split
    lines, weights = weighted_lines(grammar)
    while True:
        sentence = spell_one(rng.choices(lines, weights)[0], rng)
        if split_of(sentence) == split:
            return sentence


def draw(grammar, section, split, rng):
    """A sentence for this split, as people would type it, that is not near a test wording."""
    while True:
        wording = dress(draw_sentence(grammar, split, rng), rng)
        if may_train(section, wording):
            return wording


def dressed(section, sentence, rng):
    """A sentence that is not near a test wording, as people would type it and no nearer."""
    while True:
        wording = dress(sentence, rng)
        if may_train(section, wording):
            return wording
