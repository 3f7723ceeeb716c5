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
from data.lazy import Lazy

ROW_SUFFIXES = (".parquet", ".jsonl", ".jsonl.gz", ".jsonl.xz")


class Source(Lazy):
    """The records of one split, or `size` of them, shuffled by a fixed seed.

    They are shuffled since published files are often sorted. A subclass has
        name            its folder, and its name for data/download.py
        files           {split: pattern of the paths in the folder}
        to_record(row)  the record of a published row; ValueError for a bad row
    """
    name, files = "", {}

    def __init__(self, split, size=None, dest=DOWNLOADS):
        if split not in self.files:
            raise ValueError(f"{self.name} has the splits {', '.join(self.files)}, not {split!r}")
        if size is not None and size < 0:
            raise ValueError(f"the size of {self.name} must be at least 0, not {size}")
        self.split, self.path = split, self.prepare(split, Path(dest))
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
        made_of = [*paths, Path(__file__), Path(sys.modules[type(self).__module__].__file__)]
        listing = [[str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns]
                   for path in made_of]
        state = hashlib.sha256(json.dumps(listing).encode()).hexdigest()[:12]
        prepared = dest / self.name / "prepared" / f"{type(self).__name__}-{split}-{state}.jsonl"
        if prepared.exists():
            return prepared
        prepared.parent.mkdir(exist_ok=True)
        # Several ranks may prepare the same file at once.
        temporary = prepared.with_name(f"{prepared.name}.{os.getpid()}.tmp")
        kept, bad = 0, []
        try:
            with open(temporary, "w", encoding="utf-8") as file:
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
            if not kept:
                raise ValueError(f"{paths[0]}: no usable row for {self.name} {split}"
                                 + (f"; the first is bad: {bad[0]}" if bad else ""))
            os.replace(temporary, prepared)
            for outdated in set(prepared.parent.glob(
                    f"{type(self).__name__}-{split}-*.jsonl")) - {prepared}:
                outdated.unlink(missing_ok=True)
        finally:
            temporary.unlink(missing_ok=True)
        if bad:
            print(f"{self.name} {split}: kept {kept:,} rows, left out {len(bad):,}; "
                  f"the first: {bad[0]}", file=sys.stderr)
        return prepared


def source_files(name, pattern, dest=DOWNLOADS):
    """The files of dest/name whose path ends in what `pattern` describes.

    Raises FileNotFoundError, which names the command to run, if there are none.
    """
    folder = Path(dest) / name
    found = sorted(path for path in folder.rglob("*")
                   if path.is_file() and path.name.endswith(ROW_SUFFIXES)
                   and fnmatch("/" + path.relative_to(folder).as_posix(), f"*{pattern}")
                   and path.parent.name != "prepared") if folder.is_dir() else []
    if not found:
        raise FileNotFoundError(f"{name} is not on disk: no file like {pattern} in {folder}. "
                                f"Download it: python data/download.py {name}")
    return found


def source_rows(paths):
    """Yield ("file:row", row) for the rows of .parquet and .jsonl files."""
    for path in paths:
        rows = (enumerate(read_parquet(path), 1) if path.suffix == ".parquet"
                else read_json_lines(path))
        yield from ((f"{path}:{number}", row) for number, row in rows)


def line_offsets(path):
    """The byte offset of each line of a file: int64 (lines,)."""
    ends, at = [], 0
    with open(path, "rb") as file:
        while chunk := file.read(1 << 24):
            ends.append(at + 1 + np.flatnonzero(np.frombuffer(chunk, dtype=np.uint8) == 10))
            at += len(chunk)
    return np.concatenate([[0], *ends])[:-1].astype(np.int64)


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
    """Whether the answer is the reference's letter: "C", "c" and "C." are the same.

    answer: a list of parts.
    """
    said = "".join(part["text"]
                   for part in answer if part["type"] == "text").strip().rstrip(".").upper()
    return said == conversation["messages"][-1]["content"]
