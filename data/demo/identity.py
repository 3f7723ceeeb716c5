"""
Who are you, what can you do, small talk, and "I don't know" where nothing can be known.

Every intent in wordings.toml has base wordings, short answers, and the facts that an answer must
state to be graded right. A hash of the wording decides its split, so the test asks in words that no
training conversation used. The test asks base wordings alone. The other splits also ask in
paraphrases, which frames and small grammars spell out. A prefix, lower case or other punctuation
may come on top. One conversation in four has one or two earlier turns: a greeting, another
question, a sum, or a word to spell.
"""
import functools
import itertools
import re
import tomllib
from pathlib import Path

from data.demo.arithmetic import Arithmetic
from data.demo.choices import LETTERS, informal
from data.demo.grammar import leave_out, put_in, spell_one
from data.demo.other_wordings import may_train
from data.demo.records import preference, record, run_on
from data.demo.spelling import SimpleSpelling
from data.demo.splits import check_split, generator, split_of, stable_hash
from data.lazy import Lazy
from data.published.source import multiple_choice

WORDINGS = tomllib.loads(Path(__file__).with_name("wordings.toml").read_text("utf-8"))
INTENTS = WORDINGS["intents"]
REFUSE = tomllib.loads(Path(__file__).with_name("refuse.toml").read_text("utf-8"))
for name, grammar in REFUSE["grammars"].items():
    INTENTS["refuse " + name] = {"group": "refuse", "grammar": grammar, **REFUSE["about"]}
# How often each group is asked in a paraphrase.
GROUP_WEIGHTS = {"identity": 34, "small talk": 22, "unknown": 16, "refuse": 28}
# The most base wordings of an intent that has a grammar for all of its wordings.
MOST_BASE = 12
FRAMES = WORDINGS["frames"]
# Percent of the wordings in each split.
SHARES = {"train": 60, "pairs": 7, "prompts": 7, "rl": 6, "test": 20}
# The share of the conversations that ask in a paraphrase; the test has none.
PARAPHRASED = 0.7

PREFIXES = [
    "Hi, ", "Hello, ", "Hey, ", "Hello! ", "So, ", "OK, ", "Please tell me: ", "Excuse me, ",
    "Quick question: ", "Now, ", "I have a question. ", "One more question: ", "Well, ", "And ",
    "Listen, ", "Hi! ", "Hi there. ", "Sorry to bother you, ", "Good morning! ", "Good evening, ",
    "I am new here. ", "My son asks: ", "My teacher wants to know: ", "Just curious: ", "Yo, ",
    "Honestly, ", "By the way, ", "First of all, ", "I was thinking. ", "It's late here. ",
    "I'm on the bus. ", "My English is not good. ", "Tell me, ", "Um, ", "Dear bot, ", "Ah yes. ",
    "Nice weather here. ", "I had a long day. ", "Thanks for that. ", "Before I forget: ", "But ",
    "Last question: ", "My wife is curious. ", "We have a bet. ", "No offence, ", "Say, ",
]
SUFFIXES = [
    " please", ", tok2chat", " exactly", " then", " pls", ", my friend", ", if I may ask", " again",
    ", bro", ", sir", ", I wonder", " anyway", " thx", ", dear",
]
# How people shorten words on a phone.
SHORT_FORMS = {
    "you": "u", "are": "r", "your": "ur", "please": "pls", "what": "wat", "thanks": "thx",
    "because": "cuz", "about": "abt", "people": "ppl", "don't": "dont", "what's": "whats",
    "i'm": "im", "can't": "cant", "tomorrow": "tmrw", "tonight": "2nite", "want to": "wanna",
    "going to": "gonna", "with": "w", "know": "kno", "okay": "k", "right now": "rn",
}
EVASIVE = [
    "That is a good question.", "I would rather not say.", "Why do you ask?",
    "Let us talk about something else.", "It depends.", "That is hard to say.", "Maybe.", "I see.",
    "Interesting.",
]
# What a model makes up, by the group of the intent; these answers are rejected.
INVENTED = {
    "identity": [
        "I am Max, a student from Berlin.", "I am a large language model made by a big company.",
        "My name is Anna.", "I am a person like you.",
        "I am the best model in the world and never wrong.",
    ],
    "small talk": [
        "The capital of France is Paris.", "The module was not found.", "Yes, forty-two.",
        "Return the value.",
    ],
    "refuse": [
        "The capital is Paris.", "It was in 1912.", "Yes, of course. Here it is.", "#### 12",
        "Once upon a time there was a king.", "You should buy the red one.", "about:a,b,o,u,t",
        "B", "C",
    ],
    "unknown": [
        "It is sunny, 21 degrees.", "It is a quarter past nine.", "Your name is Peter.",
        "You are 35 years old.", "It will be a very good year.", "The red team won.",
        "It is 72 dollars.", "Yes, I am quite sure of it.",
    ],
}


def listed(text):
    """Split a text at | and at line ends: "a | b" -> ["a", "b"]."""
    return [item.strip() for item in re.split(r"[|\n]", text) if item.strip()]


@functools.cache
def wordings(split, group=None):
    """The (base wording, intent) pairs of one split and group, in a fixed shuffled order."""
    check_split(split)
    found = []
    for intent, about in INTENTS.items():
        if group in (None, about["group"]):
            found += [(wording, intent) for wording in of_split(base_wordings(intent), split)]
    if not found:
        groups = sorted({about["group"] for about in INTENTS.values()})
        raise ValueError(f"no wordings in group {group!r}: expected one of {', '.join(groups)}, "
                         f"or None for all")
    return sorted(found, key=lambda item: stable_hash(item[0]))


@functools.cache
def base_wordings(intent):
    """The base wordings of an intent that are not near a test wording."""
    about = INTENTS[intent]
    if "grammar" in about:
        found = sorted(set(refusals(about["grammar"])), key=stable_hash)
    else:
        found = listed(about["wordings"])
    section = about["group"].replace(" ", "_")
    found = (wording for wording in found if may_train(section, wording))
    # What is asked of a sentence takes its time, and a grammar has many more than are needed.
    return list(itertools.islice(found, MOST_BASE if "grammar" in about else None))


@functools.cache
def split_of_base():
    """{base wording, plain: the split that it belongs to}."""
    return {plain(wording): split for split in SHARES for wording, _ in wordings(split)}


@functools.cache
def refusals(grammar):
    """At most 1,000 sentences of a grammar with words of REFUSE["fill"] in place of <name>.

    In place of <options name>, two to five of the words follow as options to choose from.
    """
    rng = generator("refusals", grammar)
    fill = {name: words.split("/") for name, words in REFUSE["fill"].items()}
    lines = listed(grammar)
    found = []
    for _ in range(1000):
        sentence = spell_one(rng.choice(lines), rng)
        sentence = re.sub("<([a-z]+)>", lambda match: rng.choice(fill[match[1]]), sentence)
        sentence = sentence[:1].upper() + sentence[1:]
        question, _, name = sentence.partition(" <options ")
        if name:
            options = rng.sample(fill[name.rstrip(">")], rng.randint(2, 5))
            letters = LETTERS[:len(options)]
            if rng.random() < 2 / 3:
                sentence = informal(question, letters, options, rng)
            else:
                sentence = multiple_choice(question, letters, options)
        found.append(sentence)
    return list(dict.fromkeys(found))


@functools.cache
def paraphrases(intent, split):
    """The paraphrases of an intent that the hash gives to this split.

    Returns a list of wordings for each source: the clauses, the nouns, and each of the grammars.
    """
    about = INTENTS[intent]
    section = about["group"].replace(" ", "_")
    if "grammar" in about:
        found = of_split(refusals(about["grammar"]), split)
        found = [wording for wording in found if may_train(section, wording)]
        return [found] if found else []
    sources = []
    for kind in "clauses", "nouns":
        topics = listed(about.get(kind, ""))
        sources.append([frame.format(topic) for frame in listed(FRAMES[kind]) for topic in topics])
    # A line of a grammar that ends with / goes on in the next line.
    for grammar in re.sub(r"/\n +", "/", about["paraphrases"]).strip().split("\n"):
        sources.append(spell_out(grammar))

    found = []
    for sentences in sources:
        sentences = [sentence for sentence in of_split(sentences, split)
                     if may_train(section, sentence)]
        if sentences:
            found.append([sentence[0].upper() + sentence[1:] for sentence in sentences])
    return found


def spell_out(grammar):
    """All sentences of a grammar: "[a/b] c" -> ["a c", "b c"]."""
    choices = [piece.split("/") for piece in re.split(r"[\[\]]", grammar)]
    sentences = []
    for pieces in itertools.product(*choices):
        sentence = re.sub(" +", " ", "".join(pieces))
        # An empty piece may leave a space before a punctuation mark or at the end.
        sentences.append(re.sub(r" +([?.!,]|$)", r"\1", sentence))
    return sentences


def of_split(wordings, split):
    """Those of the wordings that the hash gives to this split."""
    return [wording for wording in wordings if split_of(plain(wording), SHARES) == split]


def plain(wording):
    """Lower case without punctuation: for the splits "Hello" and "Hello!" are one wording."""
    return " ".join(re.sub(r"[^\w\s]", " ", wording.lower()).split()) or wording.strip()


def dress(wording, rng):
    """Vary a wording by a prefix, a suffix, lower case or punctuation; half stay as they are."""
    if not re.search(r"\w", wording):
        return wording
    if rng.random() < 0.1:
        wording = leave_out(wording, rng)
    if len(wording.split()) > 2 and rng.random() < 0.15:
        wording = put_in(wording, rng)
    if rng.random() < 0.06:
        wording = shorten(wording)
    if rng.random() < 0.5:
        return wording
    asks = wording.endswith("?")
    if (asks or len(wording.split()) > 4) and rng.random() < 0.4:
        prefix = rng.choice(PREFIXES)
        # A new sentence keeps its capital letter, and so does "I".
        if prefix[-2] not in ".!:" and not wording.startswith("I "):
            wording = wording[0].lower() + wording[1:]
        wording = prefix + wording
    if asks and rng.random() < 0.15:
        wording = wording[:-1].rstrip() + rng.choice(SUFFIXES) + "?"
    if rng.random() < 0.35:
        wording = wording.lower()
    if rng.random() < 0.35:
        ending = rng.choice(["", "", "!", "??" if asks else ".", "..."])
        wording = (wording.rstrip(".?! ") or wording) + ending
    return wording


def shorten(wording):
    """A wording as people type it on a phone: "What are you?" -> "wat r u?"."""
    wording = wording.lower()
    for word, short in SHORT_FORMS.items():
        # Not a part of a word, nor what stands in front of an apostrophe.
        wording = re.sub(rf"(?<![\w'])({word})(?![\w'])", short, wording)
    return wording


class Identity(Lazy):
    """Conversations whose last turn is graded; each record names the intent and group of that turn.

    size: any number of conversations; None stands for one per base wording.
    group: "identity", "small talk", "unknown" or "refuse"; None stands for all.
    """

    def __init__(self, split, size=None, group=None):
        self.split = split
        self.wordings = wordings(split, group)
        self.intents = sorted({intent for _, intent in self.wordings
                               if split == "test" or paraphrases(intent, split)})
        # Each group by its weight, and within it each intent as often.
        groups = [INTENTS[intent]["group"] for intent in self.intents]
        self.weights = [GROUP_WEIGHTS[group] / groups.count(group) for group in groups]
        self.size = len(self.wordings) if size is None else size

    def __len__(self):
        return self.size

    def get(self, i):
        rng = generator("Identity", self.split, i)
        wording, intent = self.wordings[i % len(self.wordings)]
        if self.split != "test" and rng.random() < PARAPHRASED:
            intent = rng.choices(self.intents, self.weights)[0]
            sources = paraphrases(intent, self.split)
            # A large grammar comes up more often, but only by the root of its size.
            weights = [len(sentences) ** 0.5 for sentences in sources]
            wording = rng.choice(rng.choices(sources, weights)[0])

        messages = []
        if rng.random() < 0.25:
            for earlier in self.earlier_turns(intent, rng):
                messages += earlier["messages"]
        messages += self.turn(wording, intent, rng)["messages"]
        return {"messages": messages, "intent": intent, "group": INTENTS[intent]["group"]}

    def turn(self, wording, intent, rng):
        """One question and its answer."""
        section = INTENTS[intent]["group"].replace(" ", "_")
        question = dress(wording, rng)
        # What is put around a wording may turn it into one of another split, or of the other test.
        while (not may_train(section, question)
               or split_of_base().get(plain(question), self.split) != self.split):
            question = dress(wording, rng)
        return record(question, rng.choice(INTENTS[intent]["answers"]))

    def earlier_turns(self, intent, rng):
        """One or two turns of the same split that may come before a turn of this intent."""
        openings = []
        questions = []
        for wording, other in wordings(self.split):
            if other != intent and other in ("greeting", "how are you"):
                openings.append((wording, other))
            if other != intent and INTENTS[other]["group"] != "small talk":
                questions.append((wording, other))

        turns = []
        opens = intent != "greeting"
        if intent in ("thanks", "bye"):
            opens = rng.random() < 0.5
        if opens:
            turns.append(self.turn(*rng.choice(openings), rng))
        if not turns or rng.random() < 0.5:
            kind = rng.random()
            if kind < 0.5:
                turns.append(self.turn(*rng.choice(questions), rng))
            elif kind < 0.75:
                turns.append(Arithmetic(self.split, 1_000_000)[rng.randrange(1_000_000)])
            else:
                turns.append(SimpleSpelling(self.split, 1_000_000)[rng.randrange(1_000_000)])
        return turns

    def grade(self, conversation, answer):
        """Whether the answer states every fact that the intent of the last turn calls for."""
        return states_facts(conversation["intent"], answer)

    def pair(self, i):
        """Preference pair i: {"chosen": conversation, "rejected": conversation, "kind": str}.

        The rejected answer is invented, evasive, the answer to another intent, or never stops.
        """
        chosen = self[i]
        rng = generator("Identity pair", self.split, i)
        kind = rng.choice(["invented", "evasive", "other answer", "run-on"])
        if kind == "invented":
            answer = rng.choice(INVENTED[chosen["group"]])
        elif kind == "evasive":
            answer = rng.choice(EVASIVE)
        elif kind == "other answer":
            answers = [answer for about in INTENTS.values() for answer in about["answers"]]
            answer = rng.choice([a for a in answers if not states_facts(chosen["intent"], a)])
        else:
            answer = run_on(chosen["messages"][-1]["content"])
        return preference(chosen, answer, kind)


def states_facts(intent, answer):
    """Whether the answer has an alternative of each of the intent's facts, as whole words.

    answer: a string or a list of parts.
    """
    if not isinstance(answer, str):
        answer = " ".join(part["text"] for part in answer if part["type"] == "text")
    answer = answer.lower().replace("\u2019", "'").replace("do not know", "don't know")
    return all(re.search(rf"\b({fact})\b", answer) for fact in INTENTS[intent]["facts"])
