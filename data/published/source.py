"""
What all downloaded sources share: find the files, prepare them once, read single rows.

The files of a source (.parquet, .jsonl, .jsonl.gz, .jsonl.xz) are read once and written as clean
records, one a line, to NAME/prepared/CLASS-SPLIT-HASH.jsonl. Rows that the source's own rules call
bad are left out; they are counted and the first is named. From then on memory only holds an index
of line offsets, 12 bytes a row.
"""
import hashlib
import json
import os
import sys
from fnmatch import fnmatch
from pathlib import Path

import numpy as np

from data.documents import DOWNLOADS, read_json_lines, read_parquet
from data.formats import to_preference
from data.grading import spoken_text
from data.lazy import Lazy

ROW_SUFFIXES = (".parquet", ".jsonl", ".jsonl.gz", ".jsonl.xz")


class Source(Lazy):
    """The records of one split, or `size` of them, shuffled by a fixed seed.

    They are shuffled since published files are often sorted. A subclass has
        name            its folder, and its name for data/download.py
        files           {split: pattern of the paths in the folder}
        to_record(row)  the record of a published row; ValueError for a bad row
    """
    name = ""
    files = {}

    def __init__(self, split, size=None, dest=DOWNLOADS):
        if split not in self.files:
            raise ValueError(f"{self.name} has the splits {', '.join(self.files)}, not {split!r}")
        if size is not None and size < 0:
            raise ValueError(f"the size of {self.name} must be at least 0, not {size}")
        self.split = split
        self.path = self.prepare(split, Path(dest))
        self.offsets = line_offsets(self.path)
        order = np.random.Generator(np.random.PCG64(42)).permutation(len(self.offsets))
        self.order = order[:size].astype(np.uint32)

    def __len__(self):
        return len(self.order)

    def get(self, i):
        # The file is opened each time, which is safe in forked and in spawned workers.
        with open(self.path, "rb") as file:
            file.seek(self.offsets[self.order[i]])
            return json.loads(file.readline())

    def prepare(self, split, dest):
        """Write NAME/prepared/CLASS-SPLIT-HASH.jsonl unless it is there, and return its path.

        The hash is of the path, size and time of all that the file is made of. A file that was made
        of an older state is removed.
        """
        paths = source_files(self.name, self.files[split], dest)
        code = [Path(__file__), Path(sys.modules[type(self).__module__].__file__)]
        listing = [[str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns]
                   for path in paths + code]
        state = hashlib.sha256(json.dumps(listing).encode()).hexdigest()[:12]
        folder = dest / self.name / "prepared"
        name = f"{type(self).__name__}-{split}"
        prepared = folder / f"{name}-{state}.jsonl"
        if prepared.exists():
            return prepared

        folder.mkdir(exist_ok=True)
        # Several ranks may prepare the same file at once.
        temporary = folder / f"{prepared.name}.{os.getpid()}.tmp"
        try:
            kept, bad = self.write_records(paths, temporary)
            if not kept:
                first = f"; the first is bad: {bad[0]}" if bad else ""
                raise ValueError(f"{paths[0]}: no usable row for {self.name} {split}{first}")
            os.replace(temporary, prepared)
        finally:
            temporary.unlink(missing_ok=True)
        for outdated in set(folder.glob(f"{name}-*.jsonl")) - {prepared}:
            outdated.unlink(missing_ok=True)
        if bad:
            print(f"{self.name} {split}: kept {kept:,} rows, left out {len(bad):,}; "
                  f"the first: {bad[0]}", file=sys.stderr)
        return prepared

    def write_records(self, paths, target):
        """Write the records of all rows; return how many, and what is wrong with the bad rows."""
        kept = 0
        bad = []
        with open(target, "w", encoding="utf-8") as file:
            for where, row in source_rows(paths):
                try:
                    record = self.to_record(row)
                except (KeyError, TypeError) as e:
                    fields = ", ".join(row) if isinstance(row, dict) else type(row).__name__
                    raise ValueError(
                        f"{where}: not a row of {self.name} ({e!r} missing or of another type; "
                        f"it has {fields}). Fetch its files: "
                        f"python data/download.py {self.name}") from None
                except ValueError as e:
                    bad.append(f"{where}: {e}")
                    continue
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
                kept += 1
        return kept, bad


def source_files(name, pattern, dest=DOWNLOADS):
    """The files of dest/name whose path ends in what `pattern` describes.

    Raises FileNotFoundError, which names the command to run, if there are none.
    """
    folder = Path(dest) / name
    files = sorted(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else []
    found = []
    for path in files:
        matches = fnmatch("/" + path.relative_to(folder).as_posix(), f"*{pattern}")
        if matches and path.name.endswith(ROW_SUFFIXES) and path.parent.name != "prepared":
            found.append(path)
    if not found:
        raise FileNotFoundError(f"{name} is not on disk: no file like {pattern} in {folder}. "
                                f"Download it: python data/download.py {name}")
    return found


def source_rows(paths):
    """Yield ("file:row", row) for the rows of .parquet and .jsonl files."""
    for path in paths:
        if path.suffix == ".parquet":
            rows = enumerate(read_parquet(path), 1)
        else:
            rows = read_json_lines(path)
        for number, row in rows:
            yield f"{path}:{number}", row


def line_offsets(path):
    """The byte offset of each line of a file: int64 (lines,)."""
    starts = [[0]]
    at = 0
    with open(path, "rb") as file:
        while chunk := file.read(1 << 24):
            line_ends = np.flatnonzero(np.frombuffer(chunk, dtype=np.uint8) == ord("\n"))
            starts.append(at + line_ends + 1)
            at += len(chunk)
    # No line starts after the last line end.
    return np.concatenate(starts)[:-1].astype(np.int64)


# --------------------------------------------------------------------------------------------------
# Preference pairs, the same for UltraFeedback and HH.

class PreferenceSource(Source):
    """pair(i) is {"chosen": conversation, "rejected": conversation}; [i] is the chosen one."""

    @staticmethod
    def to_record(row):
        return to_preference({"chosen": row["chosen"], "rejected": row["rejected"]})[1]

    def pair(self, i):
        return super().get(i)

    def get(self, i):
        return self.pair(i)["chosen"]


# --------------------------------------------------------------------------------------------------
# Multiple choice, the same for MMLU and ARC.

def multiple_choice(question, letters, options):
    """The prompt.

    Each option stands before its letter, because small models bind a text to the letter that
    follows it.
    """
    lines = "".join(f"- {option}={letter}\n"
                    for letter, option in zip(letters, options, strict=True))
    return (f"Multiple Choice question: {question}\n{lines}\n"
            f"Respond only with the letter of the correct answer.")


def multiple_choice_record(question, letters, options, answer, subject):
    """The conversation, with the letters to choose from and the subject, for a table of scores."""
    if len(letters) != len(options) or len(options) < 2 or answer not in letters:
        raise ValueError(f"{len(options)} options for the letters {letters}, answer {answer!r}")
    return {"messages": [{"role": "user", "content": multiple_choice(question, letters, options)},
                         {"role": "assistant", "content": answer}],
            "letters": letters, "subject": subject}


def grade_letter(conversation, answer):
    """Whether the answer says the reference's letter: "C", "c" and "C." are the same.

    answer: a list of parts. What it asks a tool, and what that says, does not count.
    """
    letter = spoken_text(answer).strip().rstrip(".").upper()
    return letter == spoken_text(conversation["messages"][-1]["content"])
