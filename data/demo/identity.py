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
from data.demo.spelling import SimpleSpelling, record
from data.demo.splits import check_split, generator, item_index, split_of, stable_hash

WORDINGS = tomllib.loads(Path(__file__).with_name("wordings.toml").read_text("utf-8"))
INTENTS, FRAMES = WORDINGS["intents"], WORDINGS["frames"]
# Percent of the wordings in each split.
SHARES = {"train": 66, "pairs": 7, "prompts": 7, "test": 20}
# The share of the conversations that ask in a paraphrase; the test has none.
PARAPHRASED = 0.7

PREFIXES = [
    "Hi, ", "Hello, ", "Hey, ", "Hello! ", "So, ", "OK, ", "Please tell me: ", "Excuse me, ",
    "Quick question: ", "Now, ", "I have a question. ", "One more question: ", "Well, ", "And ",
    "Listen, ", "Hi! ", "Hi there. ",
]
SUFFIXES = [" please", ", tok2chat", " exactly", " then"]
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
    found = [(wording, intent) for intent, its in INTENTS.items() if group in (None, its["group"])
             for wording in listed(its["wordings"]) if split_of(plain(wording), SHARES) == split]
    if not found:
        groups = sorted({its["group"] for its in INTENTS.values()})
        raise ValueError(f"no wordings in group {group!r}: expected one of {', '.join(groups)}, "
                         f"or None for all")
    return sorted(found, key=lambda item: stable_hash(item[0]))


@functools.cache
def paraphrases(intent, split):
    """The paraphrases of an intent that the hash gives to this split.

    Returns a list of wordings for each source: the clauses, the nouns, and each of the grammars.
    """
    spelled_out = []
    for kind in "clauses", "nouns":
        topics = listed(INTENTS[intent].get(kind, ""))
        spelled_out.append(
            [frame.format(topic) for frame in listed(FRAMES[kind]) for topic in topics])
    # A line of a grammar that ends with / goes on in the next line.
    for template in re.sub(r"/\n +", "/", INTENTS[intent]["paraphrases"]).strip().split("\n"):
        pieces = [piece.split("/") for piece in re.split(r"[\[\]]", template)]
        # An empty choice leaves two spaces, or one before a punctuation mark or at the end.
        spelled_out.append([re.sub(r" +([?.!,]|$)", r"\1", re.sub(" +", " ", "".join(choice)))
                            for choice in itertools.product(*pieces)])
    found = [[wording[0].upper() + wording[1:] for wording in some
              if split_of(plain(wording), SHARES) == split]
             for some in spelled_out]
    return [some for some in found if some]


def plain(wording):
    """Lower case without punctuation: for the splits "Hello" and "Hello!" are one wording."""
    return " ".join(re.sub(r"[^\w\s]", " ", wording.lower()).split())


def dress(wording, draw):
    """Vary a wording by a prefix, a suffix, lower case or punctuation; half stay as they are."""
    if draw.random() < 0.5:
        return wording
    asks = wording.endswith("?")
    if (asks or len(wording.split()) > 4) and draw.random() < 0.4:
        prefix = draw.choice(PREFIXES)
        wording = prefix + (wording if prefix[-2] in ".!:" or wording[:2] == "I "
                            else wording[0].lower() + wording[1:])
    if asks and draw.random() < 0.15:
        wording = wording[:-1].rstrip() + draw.choice(SUFFIXES) + "?"
    if draw.random() < 0.35:
        wording = wording.lower()
    if draw.random() < 0.35:
        wording = wording.rstrip(".?! ") + draw.choice(["", "", "!", "??" if asks else ".", "..."])
    return wording


class Identity:
    """Conversations whose last turn is graded; each record names the intent and group of that turn.

    size: any number of conversations; None stands for one per base wording.
    group: "identity", "small talk" or "unknown"; None stands for all.
    """

    def __init__(self, split, size=None, group=None):
        self.split, self.wordings = split, wordings(split, group)
        self.intents = sorted({intent for _, intent in self.wordings})
        self.size = len(self.wordings) if size is None else size

    def __len__(self):
        return self.size

    def __getitem__(self, i):
        i = item_index(i, self.size)
        wording, intent = self.wordings[i % len(self.wordings)]
        draw = generator("Identity", self.split, i)
        if self.split != "test" and draw.random() < PARAPHRASED:
            intent = draw.choice(self.intents)
            some = paraphrases(intent, self.split)
            # A large grammar comes up more often, but only by the root of its size.
            wording = draw.choice(draw.choices(some, [len(its) ** 0.5 for its in some])[0])
        messages = []
        if draw.random() < 0.25:
            for before in self.earlier_turns(intent, draw):
                messages += before["messages"]
        last = self.turn(wording, intent, draw)
        return {"messages": messages + last["messages"], "intent": intent,
                "group": INTENTS[intent]["group"]}

    def turn(self, wording, intent, draw):
        """One question and its answer."""
        return record(dress(wording, draw), draw.choice(INTENTS[intent]["answers"]))

    def earlier_turns(self, intent, draw):
        """One or two turns of the same split that may come before a turn of this intent."""
        openings = [w for w in wordings(self.split)
                    if w[1] in ("greeting", "how are you") and w[1] != intent]
        questions = [w for w in wordings(self.split)
                     if INTENTS[w[1]]["group"] != "small talk" and w[1] != intent]
        turns = []
        if intent != "greeting" and (intent not in ("thanks", "bye") or draw.random() < 0.5):
            turns.append(self.turn(*draw.choice(openings), draw))
        if not turns or draw.random() < 0.5:
            kind = draw.random()
            if kind < 0.5:
                turns.append(self.turn(*draw.choice(questions), draw))
            elif kind < 0.75:
                turns.append(Arithmetic(self.split, 1_000_000)[draw.randrange(1_000_000)])
            else:
                turns.append(SimpleSpelling(self.split, 1_000_000)[draw.randrange(1_000_000)])
        return turns

    def grade(self, conversation, answer):
        """Whether the answer states every fact that the intent of the last turn calls for."""
        return states_facts(conversation["intent"], answer)

    def pair(self, i):
        """Preference pair i: {"chosen": conversation, "rejected": conversation, "kind": str}.

        The rejected answer is invented, evasive, the answer to another intent, or never stops.
        """
        chosen, draw = self[i], generator("Identity pair", self.split, i)
        right, intent = chosen["messages"][-1]["content"], chosen["intent"]
        kind = draw.choice(["invented", "evasive", "other answer", "run-on"])
        if kind == "invented":
            answer = draw.choice(INVENTED[chosen["group"]])
        elif kind == "evasive":
            answer = draw.choice(EVASIVE)
        elif kind == "other answer":
            others = [text for its in INTENTS.values() for text in its["answers"]]
            answer = draw.choice([text for text in others if not states_facts(intent, text)])
        else:
            answer = " ".join([right] * max(4, 300 // len(right)))
        messages = chosen["messages"][:-1] + [{"role": "assistant", "content": answer}]
        return {"chosen": chosen, "rejected": {**chosen, "messages": messages}, "kind": kind}


def states_facts(intent, answer):
    """Whether the answer has an alternative of each of the intent's facts, as whole words.

    answer: a string or a list of parts.
    """
    if not isinstance(answer, str):
        answer = " ".join(part["text"] for part in answer if part["type"] == "text")
    answer = answer.lower().replace("\u2019", "'").replace("do not know", "don't know")
    return all(re.search(rf"\b({fact})\b", answer) for fact in INTENTS[intent]["facts"])
