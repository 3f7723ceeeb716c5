"""
Conversations and preference pairs from people's own files, in any of the usual formats, as one kind
of record.

    rows = read_conversations(["chats.jsonl"])
    rows[i] -> {"messages": [{"role": ..., "content": ...}, ...]}

    pairs = read_preferences(["pairs.jsonl"])
    pairs[i] -> {"chosen": conversation, "rejected": conversation}

A file has one JSON value a line, or it is one JSON array, as Alpaca's and ShareGPT's were
published, or one object, or objects one behind another over many lines. data/formats.py lists the
formats; the rows of a file may be of different ones. The first pass over a file checks every row
and keeps its place, in 20 bytes. rows[i] then reads that one row again.
.parquet, .csv, .tsv and compressed files cannot be read from the middle. They are unpacked to a
temporary file with one row a line, which is deleted at the end of the process (TMPDIR says where).
"""
import array
import atexit
import codecs
import functools
import json
import mmap
import re
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.documents import parse_json_line, read_line
from data.files import (
    JSONS,
    ROW_SUFFIXES,
    describe,
    find_files,
    lines_of,
    list_files,
    plain_name,
    read_parquet,
    read_table,
    split_by_name,
    wide_encoding,
)
from data.formats import (
    Unwanted,
    ignored_fields,
    is_spoken,
    pair_fields,
    to_conversation,
    to_preference,
    unwrap,
    with_default_system,
)
from data.lazy import Lazy
from data.messages import WHO, first_of, rows_of_columns
from data.tool_calls import read_value

# A string (possibly without its end), a bracket, a number or a word.
JSON_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?|[][{}]|[^][{}",:\s]+', re.S)
NOT_BLANK = re.compile(rb"\S")
BOM = b"\xef\xbb\xbf"
# In a temporary file, in front of the reason why the row of a table cannot be read.
BAD_ROW = b"\0bad row: "
CUT_OFF = "the array's brackets do not match: was the file cut off? Fetch it again"


def read_conversations(paths, skip_bad_rows=False, need_answer=True, reasoning=False):
    """A lazy sequence of conversation records. need_answer=False also takes prompts alone.

    reasoning: learn the reasoning of the answers; otherwise rows that have it are bad.
    ValueError with file:line for the first bad row; with skip_bad_rows the bad rows are left out,
    counted and named on stderr.
    """
    convert = functools.partial(to_conversation, need_answer=need_answer, reasoning=reasoning)
    return FileRows(paths, convert, "conversation", skip_bad_rows)


def read_preferences(paths, skip_bad_rows=False, reasoning=False):
    """The same for pairs of conversations that differ in their last answer: chosen and rejected."""
    convert = functools.partial(to_preference, reasoning=reasoning)
    return FileRows(paths, convert, "preference pair", skip_bad_rows)


def read_prompts(path, system=""):
    """Yield (where, messages, row) of each row of a file whose last question is to be answered.

    path: a file or folder of any kind that read_conversations takes; a .txt file with one prompt a
    line; or "-" for either kind of lines on standard input, which are JSON if the first is.
    system: the system message of rows that have none.
    where: file:line. row: as it was parsed, with fields such as "id".
    ValueError names the first row that is no prompt and no conversation.
    """
    if str(path) == "-":
        plain = Path(scratch_folder(), "stdin.jsonl")
        with open(plain, "wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
        with open(plain, "rb") as file:
            is_json = not file.read(1 << 16).removeprefix(BOM).lstrip()[:1].strip(b"[{")
        files = {"standard input": plain if is_json else as_prompts(plain, "standard input")}
    elif str(path).lower().endswith(".txt") and Path(path).is_file():
        files = {path: as_prompts(Path(path), path)}
    else:
        files = {name: plain_file(name) for name in list_files([path], ROW_SUFFIXES)}
    for name, plain in files.items():
        for line, _, raw in raw_rows(plain):
            where = f"{name}:{line}"
            try:
                row = parse_row(raw)
                _, record = to_conversation(with_default_system(row, system), need_answer=False)
            except ValueError as e:
                raise ValueError(f"{where}: {e}") from None
            yield where, record["messages"], row


def as_prompts(path, name):
    """A text with one prompt a line -> a temporary file of rows that stand in the same lines.

    name: what error messages call it.
    """
    def rows():
        decoder = codecs.getincrementaldecoder("utf-8-sig")()
        for number, raw in enumerate(lines_of(path), 1):
            text = read_line(name, number, raw, decoder).strip()
            yield json.dumps({"prompt": text}).encode() + b"\n" if text else b"\n"

    return written(".jsonl", rows())


class FileRows(Lazy):
    """The rows of files by index, each read from its file when it is asked for.

    kinds: the name of each format that was found -> how many rows have it.
    bad: a list of (file:line, reason) of the rows that were left out.
    n_unwanted: how many rows were left out as nobody wants their answers (KTO).
    ignored: the names of fields that nothing reads -> how many rows have them.
    Of a folder, the files whose names say test are left out.
    """

    def __init__(self, paths, convert, noun, skip_bad_rows=False):
        found = find_files(paths, ROW_SUFFIXES)
        _, val, test = split_by_name(found)
        self.files = [file for file in found.files if file not in set(test)]
        self.is_val_file = np.array([file in set(val) for file in self.files])
        self.plain = [plain_file(path) for path in self.files]
        self.convert = convert
        self.kinds = {}
        self.bad = []
        self.n_unwanted = 0
        self.ignored = Counter()
        # Of row i: the number of its file at i, its byte offset at 2 * i, its length at 2 * i + 1.
        self.file_of = array.array("i")
        self.places = array.array("q")
        self.n_ignoring = 0
        for k, path in enumerate(self.files):
            for row in scan(self.plain[k], convert):
                self.n_unwanted += row.unwanted
                self.ignored.update(row.ignored)
                self.n_ignoring += bool(row.ignored)
                if row.unwanted:
                    continue
                if not row.reason:
                    self.kinds[row.kind] = self.kinds.get(row.kind, 0) + 1
                    self.file_of.append(k)
                    self.places.extend(row.place)
                elif skip_bad_rows:
                    self.bad.append((f"{path}:{row.line}", row.reason))
                else:
                    raise ValueError(f"{path}:{row.line}: {row.reason}. "
                                     f"See all bad rows: python data/check.py {path}; "
                                     f"or leave them out: --skip_bad_rows")
        if len(self.files) < len(found.files) or found.left_out:
            print(describe(found), file=sys.stderr)
        self.say_what_is_lost()
        if not len(self):
            raise ValueError(f"{', '.join(map(str, self.files))}: no {noun} in here. "
                             f"Check it: python data/check.py FILE")

    def say_what_is_lost(self, most=20):
        """Name bad rows, unwanted answers and fields that nothing reads, once, on stderr."""
        n_rows = len(self.bad) + len(self) + self.n_unwanted
        if self.n_unwanted:
            print(f"left out {self.n_unwanted} of {n_rows} rows: unwanted answers (KTO), which are "
                  f"never learned", file=sys.stderr)
        if self.ignored:
            print(say_ignored(self.ignored, self.n_ignoring), file=sys.stderr)
        if self.bad:
            print(f"skipped {len(self.bad)} bad rows of {n_rows}:", file=sys.stderr)
        for where, reason in self.bad[:most]:
            print(f"  {where}: {reason}", file=sys.stderr)
        if len(self.bad) > most:
            print(f"  ... and {len(self.bad) - most} more", file=sys.stderr)

    def named_validation(self):
        """For each row, whether its file is named as one for validation; None if no file is."""
        return self.is_val_file[np.array(self.file_of)] if self.is_val_file.any() else None

    def __len__(self):
        return len(self.file_of)

    def get(self, i):
        k = self.file_of[i]
        place = self.places[2 * i:2 * i + 2]
        try:
            _, record = self.convert(read_row(self.plain[k], place))
        except ValueError as e:
            raise ValueError(f"{self.files[k]}: the file has changed since it was checked "
                             f"(at byte {place[0]:,}: {e}). Run again") from None
        return record


def say_ignored(ignored, n_rows, most=12):
    """Counter of names of fields -> one line: "ignored: fields id, source in 12 rows"."""
    names = [name for name, _ in ignored.most_common()]
    shown = ", ".join(names[:most]) + (f" and {len(names) - most} more" if names[most:] else "")
    noun = "field" if len(names) == 1 else "fields"
    return f"ignored: {noun} {shown} in {n_rows:,} rows"


class Scanned(NamedTuple):
    """One row of a file.

    line: a str, the number of the line, or "1 (element 7)" in an array that stands on one line.
    place: (byte offset, length). kind, record: what convert(row) returns; both are None for a bad
    row. reason: why a row is bad or unwanted, None for a good one. ignored: the fields of it that
    nothing reads.
    """
    line: str
    place: tuple
    kind: str | None = None
    record: dict | None = None
    reason: str | None = None
    unwanted: bool = False
    ignored: frozenset = frozenset()


def scan(path, convert):
    """Yield each row of a plain file (see plain_file) as Scanned."""
    for line, offset, raw in raw_rows(path):
        place = offset, len(raw)
        try:
            row = parse_row(raw)
            kind, record = convert(row)
            yield Scanned(line, place, kind, record, ignored=ignored_fields(row))
        except ValueError as e:
            yield Scanned(line, place, reason=str(e), unwanted=isinstance(e, Unwanted))


def parse_row(raw):
    """The bytes that raw_rows yields for a row -> value; ValueError with the reason."""
    if not raw:
        raise ValueError(CUT_OFF)
    if raw.startswith(BAD_ROW):
        raise ValueError(raw.removeprefix(BAD_ROW).decode().rstrip())
    return parse_json_line(raw)


def read_row(path, place):
    """The parsed row at a place, (byte offset, length), of a plain file."""
    # Opened each time: forked workers that share an open file would move each other's position.
    offset, length = place
    with open(path, "rb") as file:
        file.seek(offset)
        return parse_json_line(file.read(length))


# --------------------------------------------------------------------------------------------------
# Files that cannot be read from the middle

def plain_file(path):
    """The file itself if it has its rows as JSON, else a temporary file that has them, one a line.

    A line of the latter has the number of the line, or of the row of a table, that it was made of.
    """
    name = plain_name(path)
    if name.endswith(JSONS):
        # Its rows are read from the middle, as UTF-8.
        if name == path.name.lower() and wide_encoding(path):
            path = written(path.suffix, lines_of(path))
        rows = rows_of_object(path)
        if rows is None and plain_name(path) == path.name.lower():
            return path
        lines = lines_of(path) if rows is None else as_lines(rows)
    elif name.endswith(".parquet"):
        lines = as_lines(map(without_nulls, read_parquet(path)))
    else:
        lines = as_lines(map(read_cells, read_table(path)))
    return written(".jsonl", lines)


def written(suffix, lines):
    """Write a temporary file of these lines -> its path."""
    path = Path(scratch_folder(), f"{len(list(scratch_folder().iterdir()))}{suffix}")
    with open(path, "wb") as file:
        file.writelines(lines)
    return path


@functools.cache
def scratch_folder():
    folder = Path(tempfile.mkdtemp(prefix="tok2chat-rows-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def as_lines(rows):
    for row in rows:
        if isinstance(row, ValueError):
            yield BAD_ROW + str(row).encode() + b"\n"
        else:
            yield json.dumps(row, default=str).encode() + b"\n"


def without_nulls(value):
    """A row of a .parquet file without what is null in it: there, all objects have all fields.

    Bytes are text, as some files have it, or else an object that no text is read from.
    """
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return {"bytes": len(value)}
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


def read_cells(row):
    """A row of a .csv file; cells that hold messages, as JSON or as Python, parsed."""
    if isinstance(row, ValueError):
        return row
    # pandas writes its index without a name.
    return {name: read_cell(cell) for name, cell in row.items() if cell is not None and name}


def read_cell(cell):
    """A cell; parsed if it is a message or a list of them: any other list may be an answer."""
    if not cell.lstrip().startswith(("[", "{")):
        return cell
    try:
        value = read_value(cell)
    except ValueError:
        return cell
    items = [value] if isinstance(value, dict) and value else value
    if all(isinstance(item, dict) and first_of(WHO, item) for item in items):
        return value
    return cell


def rows_of_object(path):
    """The rows of a file that is one object of columns, as pandas writes it; None if it is not so.

    {"prompt": ["a", "b"], ...}, {"prompt": {"0": "a", "1": "b"}, ...}, {"0": row, "1": row},
    {"columns": ["prompt", ...], "data": [["a", ...], ...]} or {"data": [row, row]}.
    """
    if path.suffix.lower() not in JSONS:
        return None
    with open(path, "rb") as file:
        if not file.read(1 << 16).removeprefix(BOM).lstrip().startswith(b"{"):
            return None
    values = list(zip(raw_rows(path), range(2)))
    if len(values) != 1:
        return None
    try:
        columns = parse_json_line(values[0][0][2])
    except ValueError:
        return None
    if not isinstance(columns, dict):
        return None
    indexed = list(columns.values())
    if len(indexed) > 1 and all(isinstance(column, dict) for column in indexed):
        if all(key.isdecimal() for column in indexed for key in column):
            columns = {name: list(column.values()) for name, column in columns.items()}
    if columns.keys() >= {"columns", "data"} and isinstance(columns["columns"], list):
        return [dict(zip(columns["columns"], values)) for values in columns["data"]]
    if rows := rows_of_columns(columns):
        return rows
    # A single column of lists of messages.
    if len(columns) == 1 and isinstance(indexed[0], list) and indexed[0]:
        if all(isinstance(v, list) and v and isinstance(v[0], dict) for v in indexed[0]):
            return [dict.fromkeys(columns, value) for value in indexed[0]]
    # {"0": row, "1": row}
    if columns and all(is_spoken(row) or pair_fields(row) for row in indexed):
        return indexed
    # One field that holds all rows, beside others that describe them.
    lists = [name for name, value in columns.items() if is_list_of_objects(value)]
    if len(lists) > 1:
        lists = [name for name in lists if is_spoken(unwrap(columns[name][0]))]
    if len(lists) != 1 or first_of(WHO, columns[lists[0]][0]):
        return None
    others = {name: value for name, value in columns.items() if name != lists[0]}
    return None if is_spoken(others) or pair_fields(others) else columns[lists[0]]


def is_list_of_objects(value):
    return isinstance(value, list) and bool(value) and all(isinstance(v, dict) for v in value)


# --------------------------------------------------------------------------------------------------
# Rows as they stand in a file of JSON

def raw_rows(path):
    """Yield (line, byte offset, bytes) of each row: each line, or each element of the one array.

    Objects that take many lines are rows, too.
    """
    with open(path, "rb") as file:
        beginning = file.read(1 << 16).removeprefix(BOM).lstrip()
        if beginning.startswith((b"[", b"{")):
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                first_line, one_line = find_first_line(data, beginning[:1])
                if beginning.startswith(b"{"):
                    # Objects over many lines, or many on one.
                    if not is_whole(data[first_line]) if one_line else goes_on(data[first_line]):
                        yield from element_rows(data, one_line, depth=0)
                        return
                elif is_array_of_rows(data, first_line, one_line):
                    yield from element_rows(data, one_line)
                    return
        file.seek(0)
        offset = 0
        for line, raw in enumerate(file, 1):
            if raw.strip() not in (b"", BOM):
                yield str(line), offset, raw
            offset += len(raw)


def goes_on(line):
    """Does a line end within an object? Then what begins there takes many lines."""
    return line.rstrip().endswith((b"{", b"[", b",", b":")) and not is_whole(line)


def find_first_line(data, bracket=b"["):
    """The slice from the first bracket to the end of its line; whether no other line follows."""
    begin = data.find(bracket)
    end = data.find(b"\n", begin)
    if end < 0:
        end = len(data)
    return slice(begin, end), not NOT_BLANK.search(data, end)


def is_array_of_rows(data, first_line, one_line):
    """Is a file that begins with a bracket one array? Its lines can be arrays, too."""
    begin, end = next(array_elements(data), (0, 0))
    # An array of messages is a conversation: the first line of many.
    if is_message(data[begin:end]):
        return False
    # A line that is a whole array, but not the only line: the file has one value a line.
    return one_line or not is_whole(data[first_line])


def element_rows(data, one_line, depth=1):
    """What raw_rows yields for a file that is one array; depth 0: for objects over many lines."""
    line = 1
    offset = 0
    for number, (start, end) in enumerate(array_elements(data, depth), 1):
        line += data[offset:start].count(b"\n")
        offset = start
        where = f"{line} (element {number})" if one_line else str(line)
        yield where, start, data[start:end]


def is_message(raw):
    try:
        keys = json.loads(raw).keys()
        return {"role", "content"} <= keys or {"from", "value"} <= keys
    except (ValueError, AttributeError, RecursionError):
        return False


def is_whole(raw):
    try:
        return raw.rstrip().endswith((b"]", b"}")) and json.loads(raw) is not None
    except (ValueError, RecursionError):
        return False


def array_elements(data, level=1):
    """Yield the (start, end) of each element of a JSON array, in bytes; level 0: of each value.

    Where the brackets do not match, one more pair tells: it reaches from the unfinished element to
    the end of the file, and is empty if all elements are whole.
    """
    # start is where the present element begins, None between two elements.
    depth = 0
    start = None
    for token in JSON_TOKEN.finditer(data):
        opens = token[0] in (b"[", b"{")
        closes = token[0] in (b"]", b"}")
        if depth == level and not closes:
            start = token.start()
        depth += opens - closes
        if depth == level and start is not None:
            yield start, token.end()
            start = None
    if depth:
        yield len(data) if start is None else start, len(data)
