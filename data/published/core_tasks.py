"""
CORE: the 22 tasks of DCLM that measure a base model. Li et al. 2024, arXiv:2406.11794.

They have three formats:
    multiple_choice    One question, several endings. The model chooses the ending with the lowest
                       mean loss of a token.
    schema             Several beginnings, one ending. The model chooses the beginning after which
                       the ending has the lowest mean loss of a token.
    language_modeling  One beginning, one ending. The model is right if every token of the ending is
                       the one it finds most likely.

The score of a task is its centred accuracy, (accuracy - chance) / (1 - chance), and CORE is the
mean of the scores. This file only prepares the rows; evaluate.py runs the model.

    task = CoreTask("hellaswag")
    # One (context, continuation) for each option.
    prompts, gold = task.prompts(i)
    # The tokens ids[start:] are scored.
    ids, start = encode_prompt(tok, context, continuation, 2048)
"""
import io
import random
import zipfile
from pathlib import Path
from typing import NamedTuple

from data.documents import DOWNLOADS, parse_json_line
from data.lazy import Lazy


class Task(NamedTuple):
    # Its rows are in eval_data/*/FILE.jsonl of the bundle.
    file: str
    kind: str
    # Solved examples before each question.
    n_shot: int
    # Accuracy of guessing, from DCLM's eval_meta_data_v1.csv, which published CORE scores use. A
    # later version has 0.403 for commonsense_qa, 0.25 for lsat_ar and language_identification.
    chance: float
    # Between question and answer.
    delimiter: str = " "


TASKS = {
    "hellaswag_zeroshot": Task("hellaswag", "multiple_choice", 0, 0.25),
    "jeopardy": Task("jeopardy_all", "language_modeling", 10, 0.0, "\nAnswer: "),
    "bigbench_qa_wikidata": Task("bigbench_qa_wikidata", "language_modeling", 10, 0.0),
    "arc_easy": Task("arc_easy", "multiple_choice", 10, 0.25, "\nAnswer: "),
    "arc_challenge": Task("arc_challenge", "multiple_choice", 10, 0.25, "\nAnswer: "),
    "copa": Task("copa", "multiple_choice", 0, 0.5),
    "commonsense_qa": Task("commonsense_qa", "multiple_choice", 10, 0.2),
    "piqa": Task("piqa", "multiple_choice", 10, 0.5, "\nAnswer: "),
    "openbook_qa": Task("openbook_qa", "multiple_choice", 0, 0.25),
    "lambada_openai": Task("lambada_openai", "language_modeling", 0, 0.0),
    "hellaswag": Task("hellaswag", "multiple_choice", 10, 0.25),
    "winograd": Task("winograd_wsc", "schema", 0, 0.5),
    "winogrande": Task("winogrande", "schema", 0, 0.5),
    "bigbench_dyck_languages": Task("bigbench_dyck_languages", "language_modeling", 10, 0.0),
    "agi_eval_lsat_ar": Task("agi_eval_lsat_ar", "multiple_choice", 3, 0.2),
    "bigbench_cs_algorithms": Task("bigbench_cs_algorithms", "language_modeling", 10, 0.0),
    "bigbench_operators": Task("bigbench_operators", "language_modeling", 10, 0.0),
    "bigbench_repeat_copy_logic": Task("bigbench_repeat_copy_logic", "language_modeling", 10, 0.0),
    "squad": Task("squad", "language_modeling", 10, 0.0),
    "coqa": Task("coqa", "language_modeling", 0, 0.0),
    "boolq": Task("boolq", "multiple_choice", 10, 0.62, "\nAnswer: "),
    "bigbench_language_identification":
        Task("bigbench_language_identification", "multiple_choice", 10, 0.091),
}
# The fields that a row of each kind must have.
FIELDS = {"multiple_choice": ("query", "choices", "gold"),
          "schema": ("context_options", "continuation", "gold"),
          "language_modeling": ("context", "continuation")}


class CoreTask(Lazy):
    """The rows of a task, shuffled by a fixed seed.

    size: keep the first `size` rows; few-shot examples still come from all rows.
    """

    def __init__(self, name, size=None, dest=DOWNLOADS):
        if name not in TASKS:
            raise ValueError(f"CORE has no task {name!r}; it has {', '.join(TASKS)}")
        self.name = name
        self.info = TASKS[name]
        self.rows = read_rows(self.info, Path(dest) / "core")
        random.Random(1337).shuffle(self.rows)
        self.size = len(self.rows) if size is None else min(size, len(self.rows))
        if len(self.rows) <= self.info.n_shot:
            raise ValueError(f"{name} has {len(self.rows)} rows, too few for {self.info.n_shot} "
                             f"examples and a question. Download it again: "
                             f"python data/download.py core")

    def __len__(self):
        return self.size

    def get(self, i):
        return self.rows[i]

    def prompts(self, i):
        """Row i as ([(context, continuation), ...], index of the right one).

        For language modeling this is one pair and 0.
        """
        picks = random.Random(1234 + i).sample(range(len(self.rows) - 1), self.info.n_shot)
        # An example is any row but the question's own.
        examples = [self.rows[k + (k >= i)] for k in picks]
        return build_prompts(self.info, self.rows[i], examples)

    def centred(self, accuracy):
        """The score: 0 for guessing, 1 if all answers are right."""
        return (accuracy - self.info.chance) / (1 - self.info.chance)


def build_prompts(task, row, examples):
    """The prompts of a row, after solved examples that a blank line ends; see CoreTask.prompts.

    White space at the end of the context moves to the front of the continuation, since tokenizers
    join a space to the word that follows it.
    """
    solved = [options(task, example)[gold_of(task, example)] for example in examples]
    shots = "".join(f"{context}{task.delimiter}{continuation}\n\n"
                    for context, continuation in solved)
    prompts = []
    for context, continuation in options(task, row):
        before = shots + context + task.delimiter
        kept = before.rstrip()
        prompts.append((kept, before[len(kept):] + continuation))
    return prompts, gold_of(task, row)


def options(task, row):
    """The (context, continuation) pairs of a row, without examples."""
    if task.kind == "multiple_choice":
        return [(row["query"], choice) for choice in row["choices"]]
    if task.kind == "schema":
        return [(context, row["continuation"]) for context in row["context_options"]]
    # Some contexts end in white space, most do not.
    return [(row["context"].strip(), row["continuation"])]


def gold_of(task, row):
    return 0 if task.kind == "language_modeling" else row["gold"]


def encode_prompt(tok, context, continuation, max_tokens, encode=None):
    """(ids, start): the ids of <|bos|>, context and continuation; the continuation is ids[start:].

    The two texts are encoded apart, so that no token lies across the border. A prompt longer than
    max_tokens loses its beginning.
    encode: takes the place of tok.encode, say with a cache.
    """
    encode = encode or tok.encode
    before = [tok.special("<|bos|>")] + encode(context)
    after = encode(continuation)
    if len(after) >= max_tokens:
        raise ValueError(f"the continuation has {len(after)} tokens, the row {max_tokens}: nothing "
                         f"is left for its context. Evaluate a model with a longer --seq_len")
    cut = max(0, len(before) + len(after) - max_tokens)
    return before[cut:] + after, len(before) - cut


def read_rows(task, folder):
    """The rows of a task, from eval_bundle.zip or its unpacked files anywhere in `folder`.

    Raises FileNotFoundError if there is neither, and ValueError for a bad row.
    """
    where, content = read_file(f"{task.file}.jsonl", folder)
    rows = []
    for number, line in enumerate(io.BytesIO(content), 1):
        if line.strip():
            try:
                row = parse_json_line(line)
                check_row(task, row)
            except ValueError as e:
                raise ValueError(f"{where}:{number}: {e}") from None
            rows.append(row)
    return rows


def read_file(name, folder):
    """(where, content) of one file of the bundle, unpacked or in the archive."""
    archive = folder / "eval_bundle.zip"
    unpacked = sorted(folder.rglob(name)) if folder.is_dir() else []
    if unpacked:
        return unpacked[0], unpacked[0].read_bytes()
    if not archive.exists():
        raise FileNotFoundError(f"CORE is not on disk: no {name} in {folder}. "
                                f"Download it: python data/download.py core")
    try:
        with zipfile.ZipFile(archive) as bundle:
            for member in bundle.namelist():
                if member.endswith(f"/{name}") and "/eval_data/" in f"/{member}":
                    return f"{archive}/{member}", bundle.read(member)
    except zipfile.BadZipFile as e:
        raise ValueError(f"{archive}: {e}. Remove it and download again: "
                         f"python data/download.py core") from None
    raise ValueError(f"{archive}: no {name} in it. Download it again: "
                     f"python data/download.py core")


def check_row(task, row):
    """Raise ValueError unless a row has the fields of its kind, and a right option."""
    for field in FIELDS[task.kind]:
        if field not in row:
            raise ValueError(f"not a row of the kind {task.kind} (no {field})")
    n_options = len(options(task, row))
    if gold_of(task, row) not in range(n_options):
        raise ValueError(f"not a row of the kind {task.kind} "
                         f"(gold {row['gold']} of {n_options} options)")
