"""
Conversations by name: `--mixture "spelling_bee:8000,arithmetic:12000,identity*2"` is 8,000 letter countings, 12,000 sums and
the identity conversations twice, shuffled. All sources are lazy; each is a file of its own in this folder. The first five are
made on this machine; python data/download.py fetches the others.
"""
import re

from data.arc import ARCChallenge, ARCEasy
from data.arithmetic import Arithmetic
from data.conversations import read_conversations, read_preferences
from data.gsm8k import GSM8K
from data.hh import HH
from data.identity import Identity
from data.mixture import Mixture
from data.mmlu import MMLU
from data.python_questions import PythonQuestions
from data.smoltalk import SmolTalk
from data.spelling import SimpleSpelling, SpellingBee
from data.ultrafeedback import UltraFeedback

TASKS = {"spelling_bee": SpellingBee, "simple_spelling": SimpleSpelling, "arithmetic": Arithmetic,
         "python_questions": PythonQuestions, "identity": Identity, "smoltalk": SmolTalk, "gsm8k": GSM8K, "mmlu": MMLU,
         "arc_easy": ARCEasy, "arc_challenge": ARCChallenge, "ultrafeedback": UltraFeedback, "hh": HH}


class Pairs:
    """The preference pairs of a task: item i -> {"chosen": conversation, "rejected": conversation}."""

    def __init__(self, task):
        self.task = task

    def __len__(self):
        return len(self.task)

    def __getitem__(self, i):
        return self.task.pair(range(len(self))[i])


def parse_mixture(spec):
    """"identity*2,arithmetic:500" -> [("identity", None), ("identity", None), ("arithmetic", 500)]."""
    entries = []
    for entry in filter(None, (e.strip() for e in spec.split(","))):
        match = re.fullmatch(r"(\w+)(?::([1-9]\d*))?(?:\*([1-9]\d*))?", entry)
        if not match or match[1] not in TASKS:
            raise ValueError(f"--mixture: cannot read {entry!r}; expected name, name:size or name*times, "
                             f"names are {', '.join(TASKS)}")
        name, size, times = match.groups()
        entries += [(name, int(size) if size else None)] * int(times or 1)
    if not entries:
        raise ValueError(f"--mixture is empty; names are {', '.join(TASKS)}")
    return entries


def conversations(spec, split, paths=(), limit=None):
    """Conversation records: those of the files `paths` if any are given, else the mixture. limit caps each source's size."""
    if paths:
        return held_out(read_conversations(paths, need_answer=split != "prompts"), split)
    return Mixture([TASKS[name](split, min(filter(None, (size, limit)), default=None)) for name, size in parse_mixture(spec)])


def preferences(spec, split, paths=(), limit=None):
    """Preference pairs, in the same way."""
    if paths:
        return held_out(read_preferences(paths), "test" if split == "test" else "train")
    return Mixture([Pairs(TASKS[name](split, min(filter(None, (size, limit)), default=None)))
                    for name, size in parse_mixture(spec)])


def held_out(rows, split):
    """Of a user's own rows every 50th, and at least the last, is held out for "test"; the others are for training."""
    step = min(50, max(2, len(rows)))
    if split == "test":
        return rows[step - 1::step] if len(rows) > 1 else rows
    return [rows[i] for i in range(len(rows)) if i % step != step - 1] if len(rows) > 1 else rows
