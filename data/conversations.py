"""
Conversations and preference pairs from .jsonl files in the formats that people have, normalised to one record.

    rows = read_conversations(["chats.jsonl"])       # len(rows), rows[i] -> {"messages": [{"role", "content"}, ...]}
    pairs = read_preferences(["pairs.jsonl"])        # pairs[i] -> {"chosen": conversation, "rejected": conversation}

data/formats.py lists the formats; every line is recognised by itself.
The first pass over a file checks every row and keeps its place, 20 bytes; rows[i] then reads that one line again.
"""
import array
import functools
import sys

from data.formats import to_conversation, to_preference
from data.mixture import Lazy
from data.text import list_files, parse_json_line


def read_conversations(paths, skip_bad_rows=False, need_answer=True):
    """A lazy sequence of conversation records. ValueError with file:line for the first bad row, unless skip_bad_rows:
    then bad rows are left out, counted and named on stderr. need_answer=False also takes prompts without an answer."""
    return Rows(paths, functools.partial(to_conversation, need_answer=need_answer), "conversation", skip_bad_rows)


def read_preferences(paths, skip_bad_rows=False):
    """The same for {"chosen": conversation, "rejected": conversation}, equal up to the last answer."""
    return Rows(paths, to_preference, "preference pair", skip_bad_rows)


class Rows(Lazy):
    """The rows of .jsonl files by index. `kinds` counts what was recognised, `bad` lists (file:line, reason)."""

    def __init__(self, paths, convert, noun, skip_bad_rows=False):
        self.files, self.convert, self.kinds, self.bad = list_files(paths, (".jsonl", ".json")), convert, {}, []
        self.file_of, self.line_of, self.offset_of = array.array("i"), array.array("q"), array.array("q")
        for k, path in enumerate(self.files):
            for line, offset, kind, _, reason in scan(path, convert):
                if reason and not skip_bad_rows:
                    raise ValueError(f"{path}:{line}: {reason}. See all bad rows: python data/check.py {path}; "
                                     f"or leave them out: --skip_bad_rows")
                if reason:
                    self.bad.append((f"{path}:{line}", reason))
                    continue
                self.kinds[kind] = self.kinds.get(kind, 0) + 1
                self.file_of.append(k)
                self.line_of.append(line)
                self.offset_of.append(offset)
        if self.bad:
            print(f"skipped {len(self.bad)} bad rows of {len(self.bad) + len(self)}:", file=sys.stderr)
            for where, reason in self.bad[:20]:
                print(f"  {where}: {reason}", file=sys.stderr)
            if len(self.bad) > 20:
                print(f"  ... and {len(self.bad) - 20} more", file=sys.stderr)
        if not len(self):
            raise ValueError(f"{', '.join(map(str, self.files))}: no {noun} in here. "
                             f"Check it: python data/check.py FILE")

    def __len__(self):
        return len(self.offset_of)

    def get(self, i):
        path = self.files[self.file_of[i]]
        where = f"{path}:{self.line_of[i]}"
        with open(path, "rb") as file:                          # opened each time: safe in forked and spawned workers
            file.seek(self.offset_of[i])
            try:
                return self.convert(parse_json_line(file.readline()))[1]
            except ValueError as e:
                raise ValueError(f"{where}: the file has changed since it was checked ({e}). Run again") from None


def scan(path, convert):
    """Yield (line number, byte offset, kind, record, None) of good rows, (line, offset, None, None, reason) of bad."""
    offset = 0
    with open(path, "rb") as file:
        for line, raw in enumerate(file, 1):
            if raw.strip():
                try:
                    if line == 1 and raw.strip() == b"[":
                        raise ValueError("one JSON array over many lines, expected one row a line. Convert it: "
                                         "python -c \"import json; [print(json.dumps(row)) for row in json.load(open("
                                         f"'{path}'))]\" > rows.jsonl")
                    kind, record = convert(parse_json_line(raw))
                    yield line, offset, kind, record, None
                except ValueError as e:
                    yield line, offset, None, None, str(e)
            offset += len(raw)
