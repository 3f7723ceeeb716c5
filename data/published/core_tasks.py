"""
CORE: the 22 tasks of DCLM (Li et al. 2024, arXiv:2406.11794) that measure a base model, in three formats.

    multiple_choice    one question, several endings: the ending with the lowest loss a token is the model's choice
    schema             several beginnings, one ending: the same, read the other way round
    language_modeling  one beginning, one ending: right if every token of it is the model's most likely one

A task's score is its accuracy centred, (accuracy - chance) / (1 - chance), and CORE is the mean over the tasks.
Everything here is a pure function of the rows; evaluate.py runs the model.

    task = CoreTask("hellaswag")
    prompts, gold = task.prompts(i)                                 # [(context, continuation), ...], one an option
    ids, start = encode_prompt(tok, context, continuation, 2048)    # the tokens ids[start:] are scored
"""
import io
import random
import zipfile
from pathlib import Path
from typing import NamedTuple

from data.documents import DOWNLOADS, parse_json_line
from data.lazy import Lazy


class Task(NamedTuple):
    file: str                   # in the bundle: eval_data/*/FILE.jsonl
    kind: str
    n_shot: int                 # solved examples before each question
    chance: float               # accuracy of guessing as in DCLM's eval_meta_data_v1.csv, which published CORE scores
                                # use; the later version says 0.403 for commonsense_qa, 0.25 for lsat_ar and the last
    delimiter: str = " "        # between question and answer


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
    "bigbench_language_identification": Task("bigbench_language_identification", "multiple_choice", 10, 0.091),
}
FIELDS = {"multiple_choice": ("query", "choices", "gold"), "schema": ("context_options", "continuation", "gold"),
          "language_modeling": ("context", "continuation")}


class CoreTask(Lazy):
    """The rows of a task, shuffled by a fixed seed, the first `size` of them; few-shot examples come from all rows."""

    def __init__(self, name, size=None, dest=DOWNLOADS):
        if name not in TASKS:
            raise ValueError(f"CORE has no task {name!r}; it has {', '.join(TASKS)}")
        self.name, self.info = name, TASKS[name]
        self.rows = read_rows(self.info, Path(dest) / "core")
        random.Random(1337).shuffle(self.rows)
        self.size = len(self.rows) if size is None else min(size, len(self.rows))
        if len(self.rows) <= self.info.n_shot:
            raise ValueError(f"{name} has {len(self.rows)} rows, too few for {self.info.n_shot} examples and a "
                             f"question. Download it again: python data/download.py core")

    def __len__(self):
        return self.size

    def get(self, i):
        return self.rows[i]

    def prompts(self, i):
        """Row i as ([(context, continuation), ...], index of the right one); for language modelling one pair and 0."""
        picks = random.Random(1234 + i).sample(range(len(self.rows) - 1), self.info.n_shot)
        examples = [self.rows[k + (k >= i)] for k in picks]                # any row but the question's own
        return build_prompts(self.info, self.rows[i], examples)

    def centred(self, accuracy):
        """0 for guessing, 1 for all right."""
        return (accuracy - self.info.chance) / (1 - self.info.chance)


def build_prompts(task, row, examples):
    """The prompts of a row after its solved examples, which are set apart by blank lines; see CoreTask.prompts.

    White space at the end of the context goes to the front of the continuation: that is where tokenizers want it.
    """
    solved = [options(task, example)[gold_of(task, example)] for example in examples]
    shots = "".join(f"{context}{task.delimiter}{continuation}\n\n" for context, continuation in solved)
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
    return [(row["context"].strip(), row["continuation"])]              # some contexts end in white space, most do not


def gold_of(task, row):
    return 0 if task.kind == "language_modeling" else row["gold"]


def encode_prompt(tok, context, continuation, max_tokens, encode=None):
    """-> (ids, start): <|bos|>, context, continuation; the continuation is ids[start:]. encode: for tok.encode.

    The two are encoded apart, so that no token lies across the border. Too long a prompt loses its beginning.
    """
    encode = encode or tok.encode
    before, after = [tok.special("<|bos|>")] + encode(context), encode(continuation)
    if len(after) >= max_tokens:
        raise ValueError(f"the continuation has {len(after)} tokens, the row {max_tokens}: nothing is left for its "
                         f"context. Evaluate a model with a longer --seq_len")
    cut = max(0, len(before) + len(after) - max_tokens)
    return before[cut:] + after, len(before) - cut


def read_rows(task, folder):
    """The rows of a task's file, from eval_bundle.zip or its unpacked files in `folder`; ValueError for a bad row."""
    name, archive = f"{task.file}.jsonl", folder / "eval_bundle.zip"
    loose = sorted(folder.rglob(name)) if folder.is_dir() else []
    if loose:
        where, content = loose[0], loose[0].read_bytes()
    elif archive.exists():
        try:
            with zipfile.ZipFile(archive) as bundle:
                members = [m for m in bundle.namelist() if m.endswith(f"/{name}") and "/eval_data/" in f"/{m}"]
                if not members:
                    raise ValueError(f"{archive}: no {name} in it. Download it again: python data/download.py core")
                where, content = f"{archive}/{members[0]}", bundle.read(members[0])
        except zipfile.BadZipFile as e:
            raise ValueError(f"{archive}: {e}. Remove it and download again: python data/download.py core") from None
    else:
        raise FileNotFoundError(f"CORE is not on disk: no {name} in {folder}. "
                                f"Download it: python data/download.py core")
    rows = []
    for number, line in enumerate(io.BytesIO(content), 1):
        if not line.strip():
            continue
        try:
            row = parse_json_line(line)
        except ValueError as e:
            raise ValueError(f"{where}:{number}: {e}") from None
        missing = [field for field in FIELDS[task.kind] if field not in row]
        n_options = len(row.get("choices") or row.get("context_options") or [0])
        if missing or gold_of(task, row) not in range(n_options):
            raise ValueError(f"{where}:{number}: not a row of the kind {task.kind} "
                             + (f"(no {missing[0]})" if missing else f"(gold {row['gold']} of {n_options} options)"))
        rows.append(row)
    return rows
