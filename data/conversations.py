"""
Conversations and preference pairs from people's own files, in any of the usual formats, as one kind
of record.

    rows = read_conversations(["chats.jsonl"])
    rows[i] -> {"messages": [{"role": ..., "content": ...}, ...]}

    pairs = read_preferences(["pairs.jsonl"])
    pairs[i] -> {"chosen": conversation, "rejected": conversation}

A file has one JSON value a line, or it is one JSON array, as Alpaca's and ShareGPT's were
published. data/formats.py lists the formats; the rows of a file may be of different ones.
The first pass over a file checks every row and keeps its place, in 20 bytes. rows[i] then reads
that one row again.
"""
import array
import functools
import json
import mmap
import re
import sys

from data.documents import list_files, parse_json_line
from data.formats import to_conversation, to_preference
from data.lazy import Lazy

# A string (possibly without its end), a bracket, a number or a word.
JSON_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?|[][{}]|[^][{}",:\s]+', re.S)
NOT_BLANK = re.compile(rb"\S")


def read_conversations(paths, skip_bad_rows=False, need_answer=True):
    """A lazy sequence of conversation records. need_answer=False also takes prompts alone.

    ValueError with file:line for the first bad row; with skip_bad_rows the bad rows are left out,
    counted and named on stderr.
    """
    convert = functools.partial(to_conversation, need_answer=need_answer)
    return FileRows(paths, convert, "conversation", skip_bad_rows)


def read_preferences(paths, skip_bad_rows=False):
    """The same for pairs of conversations that differ in their last answer: chosen and rejected."""
    return FileRows(paths, to_preference, "preference pair", skip_bad_rows)


class FileRows(Lazy):
    """The rows of .jsonl and .json files by index, each read from its file when it is asked for.

    kinds: the name of each format that was found -> how many rows have it.
    bad: a list of (file:line, reason) of the rows that were left out.
    """

    def __init__(self, paths, convert, noun, skip_bad_rows=False):
        self.files = list_files(paths, (".jsonl", ".json"))
        self.convert = convert
        self.kinds = {}
        self.bad = []
        # Of row i: the number of its file at i, its byte offset at 2 * i, its length at 2 * i + 1.
        self.file_of = array.array("i")
        self.places = array.array("q")
        for k, path in enumerate(self.files):
            for line, place, kind, _, reason in scan(path, convert):
                if not reason:
                    self.kinds[kind] = self.kinds.get(kind, 0) + 1
                    self.file_of.append(k)
                    self.places.extend(place)
                elif skip_bad_rows:
                    self.bad.append((f"{path}:{line}", reason))
                else:
                    raise ValueError(f"{path}:{line}: {reason}. "
                                     f"See all bad rows: python data/check.py {path}; "
                                     f"or leave them out: --skip_bad_rows")
        if self.bad:
            self.name_bad_rows()
        if not len(self):
            raise ValueError(f"{', '.join(map(str, self.files))}: no {noun} in here. "
                             f"Check it: python data/check.py FILE")

    def name_bad_rows(self, most=20):
        n_rows = len(self.bad) + len(self)
        print(f"skipped {len(self.bad)} bad rows of {n_rows}:", file=sys.stderr)
        for where, reason in self.bad[:most]:
            print(f"  {where}: {reason}", file=sys.stderr)
        if len(self.bad) > most:
            print(f"  ... and {len(self.bad) - most} more", file=sys.stderr)

    def __len__(self):
        return len(self.file_of)

    def get(self, i):
        path = self.files[self.file_of[i]]
        place = self.places[2 * i:2 * i + 2]
        try:
            _, record = self.convert(read_row(path, place))
        except ValueError as e:
            raise ValueError(f"{path}: the file has changed since it was checked "
                             f"(at byte {place[0]:,}: {e}). Run again") from None
        return record


def read_row(path, place):
    """The parsed row at a place, (byte offset, length), of a file."""
    # Opened each time: forked workers that share an open file would move each other's position.
    offset, length = place
    with open(path, "rb") as file:
        file.seek(offset)
        return parse_json_line(file.read(length))


def scan(path, convert):
    """Yield (line, place, kind, record, reason) of each row of a file.

    line: a str, the number of the line, or "1 (element 7)" in an array that stands on one line.
    place: (byte offset, length). kind, record: what convert(row) returns; both are None for a bad
    row. reason: why a row is bad, None for a good one.
    """
    for line, offset, raw in raw_rows(path):
        place = offset, len(raw)
        try:
            if not raw:
                raise ValueError("the array's brackets do not match: was the file cut off? "
                                 "Fetch it again")
            kind, record = convert(parse_json_line(raw))
            yield line, place, kind, record, None
        except ValueError as e:
            yield line, place, None, None, str(e)


def raw_rows(path):
    """Yield (line, byte offset, bytes) of each row: each line, or each element of the one array."""
    with open(path, "rb") as file:
        beginning = file.read(1 << 16).removeprefix(b"\xef\xbb\xbf").lstrip()
        if beginning.startswith(b"["):
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                first_line, one_line = find_first_line(data)
                if is_array_of_rows(data, first_line, one_line):
                    yield from element_rows(data, one_line)
                    return
        file.seek(0)
        offset = 0
        for line, raw in enumerate(file, 1):
            if raw.strip():
                yield str(line), offset, raw
            offset += len(raw)


def find_first_line(data):
    """The slice from the first bracket to the end of its line; whether no other line follows."""
    begin = data.find(b"[")
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


def element_rows(data, one_line):
    """What raw_rows yields for a file that is one array."""
    line = 1
    offset = 0
    for number, (start, end) in enumerate(array_elements(data), 1):
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
        return raw.rstrip().endswith(b"]") and json.loads(raw) is not None
    except (ValueError, RecursionError):
        return False


def array_elements(data):
    """Yield the (start, end) of each element of a JSON array, in bytes.

    Where the brackets do not match, one more pair tells: it reaches from the unfinished element to
    the end of the file, and is empty if all elements are whole.
    """
    # start is where the present element begins, 0 between two elements.
    depth = start = 0
    for token in JSON_TOKEN.finditer(data):
        opens = token[0] in (b"[", b"{")
        closes = token[0] in (b"]", b"}")
        if depth == 1 and not closes:
            start = token.start()
        depth += opens - closes
        if depth == 1 and start:
            yield start, token.end()
            start = 0
    if depth:
        yield start or len(data), len(data)
