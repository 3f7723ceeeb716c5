"""
Conversations by name: `--mixture "spelling_bee:8000,mine.jsonl*2,smoltalk"` is 8,000 questions that
count letters, your own file twice and all of SmolTalk, shuffled. `spelling_bee:8000-12000` is the
4,000 behind those, so that a later stage sees none of them again. All sources are lazy. Each has a
file of its own: data/demo/ holds what every machine can make, data/published/ what is downloaded.

The split says which rows a stage sees. No row of a source is in two of them, but for rl:
    train       midtrain.py and sft.py
    pairs       dpo.py
    prompts     distill.py; where nobody published such a split, every n-th training row is set
                aside for it
    rl          rl.py; of a published source these are the training rows again
    test        validation while training, and evaluate.py
"""
import functools
import hashlib
import json
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.conversations import FileRows, read_conversations, read_preferences
from data.demo.arithmetic import Arithmetic
from data.demo.choices import Choices
from data.demo.identity import Identity
from data.demo.letters import Letters
from data.demo.python_questions import PythonQuestions
from data.demo.spelling import SimpleSpelling, SpellingBee
from data.demo.word_problems import WordProblems
from data.documents import DOWNLOADS
from data.files import ROW_SUFFIXES as OWN
from data.files import fingerprint, identify
from data.formats import to_conversation
from data.grading import final_number
from data.lazy import Lazy, Mixture, View
from data.published.arc import ARCChallenge, ARCEasy
from data.published.gsm8k import GSM8K
from data.published.hh import HH
from data.published.humaneval import HumanEval
from data.published.mmlu import MMLU
from data.published.smoltalk import SmolTalk
from data.published.source import ROW_SUFFIXES, source_files
from data.published.ultrafeedback import UltraFeedback

MADE_HERE = {
    "spelling_bee": SpellingBee,
    "simple_spelling": SimpleSpelling,
    "letters": Letters,
    "arithmetic": Arithmetic,
    "word_problems": WordProblems,
    "choices": Choices,
    "python_questions": PythonQuestions,
    "identity": Identity,
}
DOWNLOADED = {
    "smoltalk": SmolTalk,
    "mmlu": MMLU,
    "arc_easy": ARCEasy,
    "arc_challenge": ARCChallenge,
    "gsm8k": GSM8K,
    "ultrafeedback": UltraFeedback,
    "hh": HH,
    "humaneval": HumanEval,
}
# Where the prompts of a source come from: every n-th training row, or a published split that no
# other stage reads.
PROMPTS = {
    "smoltalk": 50,
    "gsm8k": 20,
    "mmlu": "validation",
    "arc_easy": "validation",
    "arc_challenge": "validation",
}
NAMES = [*MADE_HERE, *DOWNLOADED]

# The split that a stage trains on.
SPLITS = {"midtrain": "train", "sft": "train", "dpo": "pairs", "distill": "prompts", "rl": "rl"}

# --mixture downloads: about 840,000 conversations for midtraining, 22,000 for SFT, 83,000 pairs and
# 16,000 prompts.
DOWNLOADS_MIXTURE = {
    "midtrain": "smoltalk,mmlu,gsm8k,identity:1000*2,simple_spelling:200000,spelling_bee:80000",
    "sft": "arc_easy,arc_challenge,gsm8k,smoltalk:10000,identity:1000,simple_spelling:300,"
           "spelling_bee:300",
    "dpo": "ultrafeedback,hh:20000,spelling_bee:1000,identity:1000",
    "distill": "smoltalk:9000,gsm8k,mmlu,arc_easy,arc_challenge,spelling_bee:2000,"
               "simple_spelling:1000,identity:1000",
    "rl": "gsm8k",
}
# distill.py has none: it validates with some of the teacher's answers.
DOWNLOADS_VALIDATION = {
    "midtrain": "smoltalk,mmlu:5200,gsm8k:420",
    "sft": "smoltalk,mmlu:5200,gsm8k:420",
    "dpo": "ultrafeedback,hh:2000",
    "distill": "",
    "rl": "gsm8k",
}


# --------------------------------------------------------------------------------------------------
# Which mixture

class Chosen(NamedTuple):
    """What --mixture came to: plain data, since the file of packed rows records what made it.

    train: the specification of what to train on; val: of what to validate with.
    files: a hash of the state of the files on disk that both read, "" if they read none.
    """
    train: str
    val: str
    files: str


def choose_mixture(stage, wanted, demo, paths, env, dest=DOWNLOADS):
    """--mixture -> Chosen; prints what was chosen and why.

    wanted: a specification, "demo" or "downloads". demo: the stage's default specification.
    Without the flag (wanted == demo) a GPU with all downloads on disk takes those: that is what
    they were fetched for. Anyone else takes the demo: a CPU trains on it in minutes, on the
    downloads for weeks.
    FileNotFoundError names the command that fetches what is not on disk.
    """
    # --data takes the place of the mixture.
    if paths:
        return Chosen(wanted, wanted, "")

    split = SPLITS[stage]
    downloads = DOWNLOADS_MIXTURE[stage]
    if wanted != demo:
        why = "as --mixture says"
    else:
        lacking = not_on_disk(downloads, split, dest)
        if env.device.type == "cuda" and not lacking:
            wanted = "downloads"
            why = ("as this is a GPU and all of it is on disk "
                   "(--mixture demo: made on this machine)")
        else:
            wanted = "demo"
            fetch = f" after python data/download.py {' '.join(lacking)}" if lacking else ""
            why = (f"made on this machine, sized for a CPU "
                   f"(real conversations: --mixture downloads{fetch})")

    train = {"demo": demo, "downloads": downloads}.get(wanted, wanted)
    if wanted == "downloads" or stage == "distill":
        val = DOWNLOADS_VALIDATION[stage]
    else:
        # Validation takes the same sources, each of them once and not too many rows of it.
        most = 300 if stage == "dpo" else 1000
        parts = []
        for name, first, last in parse_mixture(train):
            parts.append(f"{name}:{min(last - first if last else most, most)}")
        val = ",".join(dict.fromkeys(parts))

    lacking = not_on_disk(train, split, dest) | not_on_disk(val, "test", dest)
    if lacking:
        raise FileNotFoundError(f"--mixture {wanted}: no {', '.join(lacking.values())}. "
                                f"Download it: python data/download.py {' '.join(lacking)}")
    env.print(f"mixture    {wanted}, {why}")
    return Chosen(train, val, describe_files(f"{train},{val}", dest))


# In rows of so many tokens every conversation of MADE_HERE is whole, if it was cut into pieces by a
# vocabulary of at least so many: the longest of them took 220 with 1,536.
SHORT_ROW, SHORT_VOCABULARY = 256, 1024


def row_length(wanted, spec, paths, most, vocab_size):
    """The tokens of a row of conversations: --seq_len, or what they need, or the model's.

    In rows half as long, attention takes half the time. wanted: --seq_len, 0 without the flag.
    spec: the mixture. paths: the user's own files in its place. most: the model's seq_len.
    """
    if not 0 <= wanted <= most:
        raise ValueError(f"--seq_len {wanted}: expected 0 to {most}, as the model was trained on "
                         f"rows of {most} tokens")
    short = (not paths and vocab_size >= SHORT_VOCABULARY
             and all(entry.name in MADE_HERE for entry in parse_mixture(spec)))
    return wanted or (min(SHORT_ROW, most) if short else most)


class Entry(NamedTuple):
    """A source of a mixture: its items from `first` to before `last`; None: to the end."""
    name: str
    first: int
    last: int | None


def parse_mixture(spec):
    """"identity*2,my.jsonl:9" -> [Entry("identity", 0, None)] * 2 + [Entry("my.jsonl", 0, 9)]."""
    known = (f"names are {', '.join(NAMES)} and files that end in .jsonl, .json, .parquet or "
             f".csv")
    entries = []
    for text in spec.split(","):
        text = text.strip()
        if not text:
            continue
        match = re.fullmatch(r"(.+?)(?::(?:(\d+)-)?([1-9]\d*))?(?:\*([1-9]\d*))?", text)
        if not match or not (match[1] in NAMES or match[1].endswith(OWN)):
            raise ValueError(f"--mixture: cannot read {text!r}; expected demo, downloads, or a "
                             f"list of name, name:size, name:first-last or name*times; {known}")
        entry = Entry(match[1], int(match[2] or 0), int(match[3]) if match[3] else None)
        times = int(match[4] or 1)
        if (entry.last or 1) > 10 ** 9 or times > 10 ** 4:
            raise ValueError(f"--mixture: {text!r} asks for more than 1,000,000,000 rows or "
                             f"10,000 times all of them")
        if entry.last is not None and entry.first >= entry.last:
            raise ValueError(f"--mixture: {text!r} is empty: the first item must come before the "
                             f"last")
        entries += [entry] * times
    if not entries:
        raise ValueError(f"--mixture is empty; {known}")
    return entries


def not_on_disk(spec, split, dest=DOWNLOADS):
    """What a specification needs and is not on disk.

    The keys are names for data/download.py, the values say which file was looked for:
    {"gsm8k": "file like main/train* in data/downloads/gsm8k"}.
    """
    lacking = {}
    if not spec:
        return lacking
    for name, _, _ in parse_mixture(spec):
        if name not in DOWNLOADED:
            continue
        source = DOWNLOADED[name]
        pattern = source.files[published_split(name, split)]
        try:
            source_files(source.name, pattern, dest)
        except FileNotFoundError:
            lacking[source.name] = f"file like {pattern} in {Path(dest, source.name)}"
    return lacking


def describe_files(spec, dest=DOWNLOADS):
    """16 hex digits for the names and contents of all files that a specification reads, or "".

    When they change, rows on disk are out of date and get packed anew.
    """
    listing = []
    for name in dict.fromkeys(name for name, _, _ in parse_mixture(spec)):
        if name.endswith(OWN):
            listing += identify([name], OWN)
        elif name in DOWNLOADED:
            folder = Path(dest, DOWNLOADED[name].name)
            files = sorted(file for file in folder.rglob("*") if file.name.endswith(ROW_SUFFIXES)
                           and file.parent.name != "prepared")
            listing += [[file.relative_to(dest).as_posix(), fingerprint(file)] for file in files]
    if not listing:
        return ""
    return hashlib.sha256(json.dumps(listing).encode()).hexdigest()[:16]


# --------------------------------------------------------------------------------------------------
# The rows of a mixture

def conversations(spec, split, paths=(), skip_bad_rows=False, dest=DOWNLOADS, reasoning=False):
    """Conversation records, lazily: of the files `paths` in order, else of the mixture, shuffled.

    reasoning: learn reasoning_content in front of the answers; otherwise rows with it are bad.
    ValueError with file:line for the first bad row of a file, unless skip_bad_rows.
    """
    def own(files):
        rows = read_once(read_conversations, tuple(files), skip_bad_rows,
                         need_answer=split != "prompts", reasoning=reasoning)
        return held_out(rows, split)

    def named(name, size):
        return open_source(name, split, size, dest)

    return own(paths) if paths else mix(spec, own, named)


def preferences(spec, split, paths=(), skip_bad_rows=False, dest=DOWNLOADS, reasoning=False):
    """Preference pairs, chosen and read in the same way as conversations."""
    def own(files):
        rows = read_once(read_preferences, tuple(files), skip_bad_rows, reasoning=reasoning)
        return held_out(rows, split)

    def named(name, size):
        return Pairs(open_source(name, split, size, dest))

    return own(paths) if paths else mix(spec, own, named)


def graded_prompts(spec, split, paths=(), skip_bad_rows=False, grade=None, dest=DOWNLOADS):
    """Pairs (conversation, grade), chosen and read in the same way as conversations.

    grade(conversation, answer) -> bool or number, for an answer as a list of parts. None: that of
    each source. In a user's files the number behind #### of the last answer decides; a row without
    one is a bad row. ValueError for a source that has no grade.
    """
    def own(files):
        if grade:
            rows = read_once(read_conversations, tuple(files), skip_bad_rows, need_answer=False)
        else:
            rows = read_once(read_problems, tuple(files), skip_bad_rows)
        return Graded(held_out(rows, split), grade or GSM8K.grade)

    def named(name, size):
        source = open_source(name, split, size, dest)
        # Where open_source gives a view, the class of the source still knows how to grade.
        own_grade = getattr(DOWNLOADED.get(name, source), "grade", None)
        if not (grade or own_grade):
            raise ValueError(f"--mixture: the answers of {name} cannot be graded; leave it out, "
                             f"or give a grader with --reward FILE.py:FUNCTION")
        return Graded(source, grade or own_grade)

    return own(paths) if paths else mix(spec, own, named)


def read_problems(paths, skip_bad_rows=False):
    """read_conversations for rows that answers can be graded against: they end in a number."""
    def to_problem(row):
        kind, record = to_conversation(row, need_answer=False)
        last = record["messages"][-1]
        if last["role"] != "assistant" or final_number(last["content"]) is None:
            raise ValueError('no reference answer that ends in a number, as in "#### 42", so '
                             'nothing can be graded against it; for other rewards: '
                             '--reward FILE.py:FUNCTION')
        return kind, record

    return FileRows(paths, to_problem, "problem", skip_bad_rows)


def mix(spec, own, named):
    """A specification -> Mixture of own([file]) for a user's files and named(name, size)."""
    sources = []
    for name, first, last in parse_mixture(spec):
        if name.endswith(OWN):
            sources.append(own([name])[first:last])
        else:
            source = named(name, last)
            sources.append(View(source, range(first, len(source))) if first else source)
    return Mixture(sources)


def open_source(name, split, size=None, dest=DOWNLOADS):
    """One source by name: all its items of a split, or `size` of them."""
    if name in MADE_HERE:
        return MADE_HERE[name](split, size)
    source = DOWNLOADED[name]
    published = published_split(name, split)
    n = PROMPTS.get(name)
    if published == "train" and isinstance(n, int):
        rows = every_nth(source("train", dest=dest), n, taken=split == "prompts")
        return rows[:size]
    return source(published, size, dest)


def published_split(name, split):
    """The published split of a source that holds the rows of our split; ValueError if none does."""
    files = DOWNLOADED[name].files
    prompts = PROMPTS.get(name)
    if split == "rl":
        # Nobody publishes problems for it alone: it sees those of training again.
        split = "train"
    elif split == "prompts" and prompts:
        split = "train" if isinstance(prompts, int) else prompts
    if split not in files:
        if "pairs" in files:
            stages = "dpo.py"
        elif "train" in files:
            stages = "midtrain.py, sft.py, distill.py and rl.py"
        else:
            stages = "evaluate.py"
        raise ValueError(f"--mixture: {name} has nothing for this stage, it is for {stages}")
    return split


@functools.lru_cache(4)
def read_once(read, paths, skip_bad_rows, **options):
    """read(paths, ...), remembered: training and validation share the rows of a file.

    So they are checked once, and the bad ones are named once.
    """
    return read(paths, skip_bad_rows, **options)


def held_out(rows, split):
    """A user's own rows of a split: every 50th, or at least the last, is held out for "test".

    If some of the files are named as validation, theirs are the rows for "test".
    Prompts are all of the rows. A single row is for training and for the test.
    """
    if len(rows) < 2 or split == "prompts":
        return rows
    is_val = rows.named_validation() if isinstance(rows, FileRows) else None
    if is_val is not None and 0 < is_val.sum() < len(rows):
        return View(rows, np.flatnonzero(is_val == (split == "test")))
    return every_nth(rows, min(50, len(rows)), taken=split == "test")


def every_nth(rows, n, taken):
    """A view of every n-th row, or with taken=False of all others.

    every_nth("abcdef", 3, taken=True) holds c and f.
    """
    positions = np.arange(len(rows))
    is_nth = positions % n == n - 1
    return View(rows, positions[is_nth] if taken else positions[~is_nth])


class Pairs:
    """The preference pairs of a source: {"chosen": conversation, "rejected": conversation} each."""

    def __init__(self, source):
        self.source = source

    def __len__(self):
        return len(self.source)

    def __getitem__(self, i):
        return self.source.pair(range(len(self))[i])


class Graded(Lazy):
    """Pairs (conversation, grade) of a source of conversations."""

    def __init__(self, source, grade):
        self.source = source
        self.grade = grade

    def __len__(self):
        return len(self.source)

    def get(self, i):
        return self.source[i], self.grade
