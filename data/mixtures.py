"""
Conversations by name: `--mixture "spelling_bee:8000,mine.jsonl*2,smoltalk"` is 8,000 questions that
count letters, your own file twice and all of SmolTalk, shuffled. All sources are lazy. Each has a
file of its own: data/demo/ holds what every machine can make, data/published/ what is downloaded.

The split says which rows a stage sees. No row of a source is in two of them:
    train       midtrain.py and sft.py
    pairs       dpo.py
    prompts     distill.py; where nobody published such a split, every n-th training row is set
                aside for it
    test        validation while training, and evaluate.py
"""
import functools
import hashlib
import json
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.conversations import read_conversations, read_preferences
from data.demo.arithmetic import Arithmetic
from data.demo.identity import Identity
from data.demo.python_questions import PythonQuestions
from data.demo.spelling import SimpleSpelling, SpellingBee
from data.documents import DOWNLOADS, list_files
from data.lazy import Mixture, View
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
    "arithmetic": Arithmetic,
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
# How the name of a user's own file ends.
OWN = (".jsonl", ".json")

# The split that a stage trains on.
SPLITS = {"midtrain": "train", "sft": "train", "dpo": "pairs", "distill": "prompts"}

# --mixture downloads: about 840,000 conversations for midtraining, 22,000 for SFT, 83,000 pairs and
# 16,000 prompts.
DOWNLOADS_MIXTURE = {
    "midtrain": "smoltalk,mmlu,gsm8k,identity:1000*2,simple_spelling:200000,spelling_bee:80000",
    "sft": "arc_easy,arc_challenge,gsm8k,smoltalk:10000,identity:1000,simple_spelling:300,"
           "spelling_bee:300",
    "dpo": "ultrafeedback,hh:20000,spelling_bee:1000,identity:1000",
    "distill": "smoltalk:9000,gsm8k,mmlu,arc_easy,arc_challenge,spelling_bee:2000,"
               "simple_spelling:1000,identity:1000",
}
# distill.py has none: it validates with some of the teacher's answers.
DOWNLOADS_VALIDATION = {
    "midtrain": "smoltalk,mmlu:5200,gsm8k:420",
    "sft": "smoltalk,mmlu:5200,gsm8k:420",
    "dpo": "ultrafeedback,hh:2000",
    "distill": "",
}


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
    split, lacking = SPLITS[stage], not_on_disk(DOWNLOADS_MIXTURE[stage], SPLITS[stage], dest)
    if wanted == demo and env.device.type == "cuda" and not lacking:
        wanted, why = "downloads", ("as this is a GPU and all of it is on disk "
                                    "(--mixture demo: made on this machine)")
    elif wanted == demo:
        fetch = f" after python data/download.py {' '.join(lacking)}" if lacking else ""
        wanted, why = "demo", (f"made on this machine, sized for a CPU "
                               f"(real conversations: --mixture downloads{fetch})")
    else:
        why = "as --mixture says"
    train, val = {"demo": demo, "downloads": DOWNLOADS_MIXTURE[stage]}.get(wanted, wanted), \
        DOWNLOADS_VALIDATION[stage]
    if wanted != "downloads" and stage != "distill":
        most = 300 if stage == "dpo" else 1000
        val = ",".join(dict.fromkeys(f"{name}:{min(size or most, most)}"
                                     for name, size in parse_mixture(train)))
    if lacking := {**not_on_disk(train, split, dest), **not_on_disk(val, "test", dest)}:
        raise FileNotFoundError(f"--mixture {wanted}: no {', '.join(lacking.values())}. "
                                f"Download it: python data/download.py {' '.join(lacking)}")
    env.print(f"mixture    {wanted if wanted in ('demo', 'downloads') else train}, {why}")
    return Chosen(train, val, describe_files(f"{train},{val}", dest))


def parse_mixture(spec):
    """"identity*2,my.jsonl:9" -> [("identity", None), ("identity", None), ("my.jsonl", 9)]."""
    entries = []
    for entry in filter(None, (e.strip() for e in spec.split(","))):
        match = re.fullmatch(r"(.+?)(?::([1-9]\d*))?(?:\*([1-9]\d*))?", entry)
        if not match or match[1] not in NAMES and not match[1].endswith(OWN):
            raise ValueError(f"--mixture: cannot read {entry!r}; expected demo, downloads, or a "
                             f"list of name, name:size or name*times; names are "
                             f"{', '.join(NAMES)} and files that end in .jsonl or .json")
        name, size, times = match.groups()
        if int(size or 1) > 10 ** 9 or int(times or 1) > 10 ** 4:
            raise ValueError(f"--mixture: {entry!r} asks for more than 1,000,000,000 rows or "
                             f"10,000 times all of them")
        entries += [(name, int(size) if size else None)] * int(times or 1)
    if not entries:
        raise ValueError(f"--mixture is empty; names are {', '.join(NAMES)} and files that end in "
                         f".jsonl or .json")
    return entries


def published_split(name, split):
    """The published split of a source that holds the rows of our split; ValueError if none does."""
    files, aside = DOWNLOADED[name].files, PROMPTS.get(name)
    if split == "prompts" and aside:
        split = "train" if isinstance(aside, int) else aside
    if split not in files:
        stages = "dpo.py" if "pairs" in files else "midtrain.py, sft.py and distill.py"
        stages = stages if {"pairs", "train"} & set(files) else "evaluate.py"
        raise ValueError(f"--mixture: {name} has nothing for this stage, it is for {stages}")
    return split


def not_on_disk(spec, split, dest=DOWNLOADS):
    """What a specification needs and is not on disk.

    The keys are names for data/download.py, the values say which file was looked for:
    {"gsm8k": "file like main/train* in data/downloads/gsm8k"}.
    """
    lacking = {}
    for name, _ in parse_mixture(spec) if spec else []:
        if name in DOWNLOADED:
            source = DOWNLOADED[name]
            pattern = source.files[published_split(name, split)]
            try:
                source_files(source.name, pattern, dest)
            except FileNotFoundError:
                lacking[source.name] = f"file like {pattern} in {Path(dest, source.name)}"
    return lacking


def describe_files(spec, dest=DOWNLOADS):
    """16 hex digits for path, size and time of all files that a specification reads, "" if none.

    When they change, rows on disk are out of date and get packed anew.
    """
    names, files = dict.fromkeys(name for name, _ in parse_mixture(spec)), []
    for name in names:
        if name.endswith(OWN):
            files += list_files([name], OWN)
        elif name in DOWNLOADED:
            found = Path(dest, DOWNLOADED[name].name).rglob("*")
            files += sorted(f for f in found
                            if f.name.endswith(ROW_SUFFIXES) and f.parent.name != "prepared")
    listing = [[str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns] for f in files]
    return hashlib.sha256(json.dumps(listing).encode()).hexdigest()[:16] if files else ""


def open_source(name, split, size=None, dest=DOWNLOADS):
    """One source by name: all its items of a split, or `size` of them."""
    if name in MADE_HERE:
        return MADE_HERE[name](split, size)
    source, aside, published = DOWNLOADED[name], PROMPTS.get(name), published_split(name, split)
    if isinstance(aside, int) and published == "train":
        rows = every_nth(source("train", dest=dest), aside, taken=split == "prompts")
        return View(rows, range(min(len(rows), size or len(rows))))
    return source(published, size, dest)


def conversations(spec, split, paths=(), skip_bad_rows=False, dest=DOWNLOADS):
    """Conversation records, lazily: of the files `paths` in order, else of the mixture, shuffled.

    ValueError with file:line for the first bad row of a file, unless skip_bad_rows.
    """
    def own(*paths):
        rows = read_once(read_conversations, paths, skip_bad_rows, need_answer=split != "prompts")
        return held_out(rows, split)

    if paths:
        return own(*paths)
    return Mixture([
        (own(name), size or 1 << 62) if name.endswith(OWN) else open_source(name, split, size, dest)
        for name, size in parse_mixture(spec)])


def preferences(spec, split, paths=(), skip_bad_rows=False, dest=DOWNLOADS):
    """Preference pairs, chosen and read in the same way as conversations."""
    def own(*paths):
        return held_out(read_once(read_preferences, paths, skip_bad_rows), split)

    if paths:
        return own(*paths)
    return Mixture([
        (own(name), size or 1 << 62) if name.endswith(OWN) else
        Pairs(open_source(name, split, size, dest)) for name, size in parse_mixture(spec)])


@functools.lru_cache(4)
def read_once(read, paths, skip_bad_rows, **options):
    """read(paths, ...), kept: training and validation share the rows of a file.

    So the rows are checked once and the bad ones are named once.
    """
    return read(paths, skip_bad_rows, **options)


def held_out(rows, split):
    """A user's own rows of a split: every 50th, or at least the last, is held out for "test".

    Prompts are all of the rows. A single row is for training and for the test.
    """
    if len(rows) < 2 or split == "prompts":
        return rows
    return every_nth(rows, min(50, len(rows)), taken=split == "test")


def every_nth(rows, n, taken):
    """A view of every n-th row, or with taken=False of all others.

    every_nth("abcdef", 3, taken=True) holds c and f.
    """
    positions = np.arange(len(rows))
    return View(rows, positions[positions % n == n - 1] if taken
                else positions[positions % n != n - 1])


class Pairs:
    """The preference pairs of a source: {"chosen": conversation, "rejected": conversation} each."""

    def __init__(self, source):
        self.source = source

    def __len__(self):
        return len(self.source)

    def __getitem__(self, i):
        return self.source.pair(range(len(self))[i])
