"""
Documents: text files and files of rows, or folders of them, as one stream of strings.

    from data.documents import read_documents
    for text in read_documents(["books/", "wiki.jsonl.xz"], "train"): ...

Files are read in the order given, those of a folder sorted by path; data/files.py says which. They
are read piece by piece, so memory stays flat however large the corpus is. Documents of nothing but
whitespace are left out. Anything else that cannot be used is an error that names file and line:
broken JSON, a missing field, bytes that are not UTF-8, lone surrogates (JSON's \\ud800, which has
no UTF-8) and NUL characters (a sign of a binary file). UTF-16 is read where its byte-order mark
begins the file. With skip_bad_rows bad rows and
lines are counted and left out. Parquet files are the exception: theirs are always left out.

How the text is cut into documents
  .jsonl, .json, .ndjson
                  One document a line, its field "text" (or `field`); .json may be one array, too.
  .parquet        One document a row, its column of that name. Needs: pip install -e '.[data]'
  .csv, .tsv      The same; the first line names the columns.
  .txt, .md, .rst, .py, .html
                  One document a file up to 64 KiB. A line that is just <|endoftext|>, as in
                  TinyStories, also ends a document. A longer file is cut into pieces of at least
                  1/512 of its size, but no less than 1 and no more than 16 KiB: at a blank line,
                  else, at 1.5 times that, where a line ends, else, at twice that, anywhere. So
                  even a single book, or a chat log, leaves something for validation.
Where 100,000 characters of white space follow each other, a document is cut, too: the tokenizer's
regular expression cannot take a million of them.

How the text is split
  By name, if some files are named val, valid or validation, or a folder they lie in is, and others
  are not: TinyStoriesV2-GPT4-valid.txt is for validation. Files named test are left out.
  Otherwise by the hash of the document's text: a document is for validation if its hash falls under
  `val_share`. Since nothing else decides, two equal documents are always on the same side.
  A text that fits into memory gets the threshold that gives validation the nearest to `val_share`
  of its characters. Documents of more than 4 % of the text are cut for that, and of a larger text
  those of more than 2.7 million characters.
  A share of a small text is too little to validate with. So the threshold rises until validation
  has 3,072 characters (600 tokens or more), but not beyond a third of the text. And a text of less
  than 262,144 characters is cut into pieces of 512 to 1,024, at line ends where it has any. So 6 KB
  are enough for training and validation.
"""
import codecs
import hashlib
import json
import re
import sys
from itertools import chain
from pathlib import Path

from data.files import (
    TEXT_SUFFIXES,
    TEXTS,
    describe,
    find_files,
    lines_of,
    list_files,
    plain_name,
    read_parquet,
    read_table,
    split_by_name,
)

__all__ = ["list_files", "read_parquet"]


def read_documents(paths, split, val_share=0.02, field="text", skip_bad_rows=False):
    """The documents of files and folders `paths` in order: an iterator of str, "train" or "val".

    field: the name of the field or column that holds the text.
    FileNotFoundError for a missing path at once; ValueError with file:line for bad data when the
    reading comes to it, unless skip_bad_rows, or at the end if the split has no document.
    """
    if split not in ("train", "val"):
        raise ValueError(f"split must be 'train' or 'val', not {split!r}")
    if not 0 <= val_share < 1:
        raise ValueError(f"val_share must be at least 0 and less than 1, not {val_share}")
    train, val, _ = split_by_name(find_files(paths, TEXT_SUFFIXES))
    if val:
        wanted = val if split == "val" else train
        documents = documents_in(wanted, field, skip_bad_rows)
    else:
        documents = split_by_hash(documents_in(train, field, skip_bad_rows), split, val_share)
    return not_empty(documents, split, paths)


# --------------------------------------------------------------------------------------------------
# Which files

DOWNLOADS = Path(__file__).resolve().parent / "downloads"
# Pretraining reads the first of these that is on disk.
PRETRAINING = ["climbmix", "fineweb", "tinystories"]


def choose_documents(paths, on_gpu, say=print, dest=DOWNLOADS):
    """--data of tokenizer.py and pretrain.py -> what to read, () for the demo text.

    The demo text is the Python corpus that every machine has. Without the flag a GPU reads what was
    downloaded, if anything was, and a CPU the demo text; "demo" asks for the latter on any machine.
    choose_mixture does the same for conversations. Says which files are read, held out, left out.
    """
    if list(paths) == ["demo"]:
        return ()
    if paths or not on_gpu:
        # What is missing becomes an error when it is read.
        if paths and all(Path(path).exists() for path in paths):
            say(describe(find_files(paths, TEXT_SUFFIXES)))
        return tuple(paths)
    for name in PRETRAINING:
        folder = Path(dest, name)
        if any(file.name.endswith(TEXT_SUFFIXES) for file in folder.rglob("*")):
            say(f"text       {folder}, as this is a GPU and it is on disk "
                f"(--data demo: the text that is on every machine)")
            return (str(folder),)
    return ()


# --------------------------------------------------------------------------------------------------
# The documents of each file type

# White space in a row from which on a document is cut. tiktoken fails between 300,000 and 1,000,000
# (measured with 0.14.0).
RUN = 100_000
# Less than this is no beginning of one. (\s{100000} would look at each space of a shorter run.)
LONG = re.compile(r"\s{64,}")


def documents_in(files, field="text", skip_bad_rows=False):
    for path in files:
        bad = []
        name = plain_name(path)
        if name.endswith(TEXTS):
            documents = txt_documents(path, bad if skip_bad_rows else None)
        else:
            documents = row_documents(path, field, bad, skip_bad_rows)
        for text in documents:
            for piece in cut_runs(text):
                if piece and not piece.isspace():
                    yield piece
        if bad:
            print(f"{path}: left out {len(bad)} unusable rows; the first is {bad[0]}",
                  file=sys.stderr)


def cut_runs(text):
    """A document -> itself; or its pieces, cut in the middle of very long white space."""
    if len(text) < RUN:
        return [text]
    ends = [end for start, stop in long_runs(text) for end in range(start + RUN, stop + 1, RUN)]
    return [text[start:end] for start, end in zip([0, *ends], [*ends, len(text)])]


def long_runs(text):
    """(start, end) of each run of white space in a text that the tokenizer cannot take."""
    return [match.span() for match in LONG.finditer(text) if match.end() - match.start() >= RUN]


def row_documents(path, field, bad, skip_bad_rows):
    """The texts of a file of rows. What is wrong with unusable ones goes into the list `bad`.

    Nobody can edit a published corpus in .parquet by hand: there they are always left out.
    """
    name = plain_name(path)
    if name.endswith(".parquet"):
        rows = enumerate(read_parquet(path, [field], HOLDS_TEXT))
        kind = "row {}"
    elif name.endswith((".csv", ".tsv")):
        rows = table_rows(path, field)
        kind = "row {}"
    else:
        rows = json_values(path)
        kind = f"{path}:{{}}"
    for number, row in rows:
        try:
            if isinstance(row, ValueError):
                raise row
            yield text_of(row, field)
        except ValueError as e:
            where = kind.format(number)
            if not skip_bad_rows and not name.endswith(".parquet"):
                where = where if str(path) in where else f"{path}: {where}"
                raise ValueError(f"{where}: {e}") from None
            bad.append(f"{where}: {e}")


HOLDS_TEXT = ". Name the one that holds the text: --field NAME"


def table_rows(path, field):
    for number, row in enumerate(read_table(path), 1):
        if isinstance(row, dict) and field not in row:
            raise ValueError(f"{path}: no column {field!r}; it has {', '.join(row)}{HOLDS_TEXT}")
        yield number, row


def text_of(row, field="text"):
    """A parsed row -> its text; ValueError if it has none, or a bad one."""
    if not isinstance(row, dict) or field not in row:
        if isinstance(row, dict):
            got = f"an object with {', '.join(row) or 'no field'}"
        else:
            got = f"a {type(row).__name__}"
        raise ValueError(f'expected an object with a field "{field}", got {got}. Documents look '
                         f'like {{"{field}": "..."}} (another field: --field NAME); conversations '
                         f'belong to midtrain.py and sft.py')
    text = row[field]
    # What is missing, null or as NaN of pandas, is an empty document.
    if text is None or text != text:
        return ""
    if isinstance(text, bytes):
        text = text.decode()
    if not isinstance(text, str):
        raise ValueError(f'field "{field}" must be a string, got {type(text).__name__}')
    return check_text(text)


def txt_documents(path, bad=None):
    """The documents of a text file. Lines that cannot be used go into the list `bad`, if there."""
    # A file is cut where it has this many characters and a blank line, which is never in a short
    # one; where it has half as many more and a line ends; where it has twice as many.
    size = path.stat().st_size
    if plain_name(path) != path.name.lower():
        # A guess of how much there is when it is unpacked.
        size *= 4
    if size <= 65_536:
        min_chars = size + 1
    else:
        min_chars = min(max(size // 512, 1_024), 16_384)
    # A long line may be cut inside a character: an incremental decoder keeps the first half.
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    lines = []
    n_chars = 0
    number = 1
    begins_line = True
    for raw in lines_of(path, 2 * min_chars):
        ends_line = raw.endswith(b"\n")
        try:
            line = read_line(path, number, raw, decoder)
        except ValueError as e:
            if bad is None:
                raise
            bad.append(str(e))
            decoder.reset()
            line = ""
        separator = begins_line and line.strip() == "<|endoftext|>"
        blank = begins_line and line.isspace()
        if not separator:
            lines.append(line)
            n_chars += len(line)
        if (separator or (blank and n_chars >= min_chars)
                or (ends_line and n_chars >= 1.5 * min_chars) or n_chars >= 2 * min_chars):
            yield "".join(lines)
            lines = []
            n_chars = 0
        begins_line = ends_line
        number += ends_line
    if decoder.getstate()[0]:
        reason = (f"{path}:{number}: the file ends inside a UTF-8 character. Was it cut off? Copy "
                  f"it again")
        if bad is None:
            raise ValueError(reason)
        bad.append(reason)
    yield "".join(lines)


def read_line(path, number, raw, decoder):
    try:
        return check_text(decoder.decode(raw)).replace("\r\n", "\n")
    except UnicodeDecodeError as e:
        raise ValueError(f"{path}:{number}: byte 0x{e.object[e.start]:02x} is not UTF-8. "
                         f"Convert the file to UTF-8") from None
    except ValueError as e:
        raise ValueError(f"{path}:{number}: {e}") from None


# --------------------------------------------------------------------------------------------------
# What the readers of conversations and of published sources use, too

def check_text(text):
    """Return text unchanged, or say in a ValueError why no tokenizer should see it."""
    if "\x00" in text:
        raise ValueError(f"NUL character at position {text.index(chr(0))}: text has none. Remove "
                         f"it, or convert the file if it is binary or UTF-16")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as e:
        raise ValueError(f"lone surrogate \\u{ord(text[e.start]):04x} at position {e.start}: half "
                         f"of a character, which UTF-8 cannot hold. Repair the escape or remove "
                         f"it") from None
    return text


def check_runs(text):
    """ValueError where white space is so long that the tokenizer fails at it: see RUN."""
    runs = long_runs(text) if len(text) >= RUN else []
    if runs:
        raise ValueError(f"more than {RUN:,} characters of white space in a row, from position "
                         f"{runs[0][0]} on: no tokenizer takes that. Shorten it")


def read_json_lines(path):
    """Yield (line number, parsed value) of each non-blank line of .jsonl, .jsonl.gz, .jsonl.xz."""
    for number, value in json_values(path):
        if isinstance(value, ValueError):
            raise ValueError(f"{path}:{number}: {value}")
        yield number, value


def json_values(path):
    """Yield (line number, value) of each non-blank line; for a broken line the ValueError of it.

    A file that is one array has its elements read at once, and they all have the array's line.
    """
    is_json = plain_name(path).endswith(".json")
    for number, raw in enumerate(lines_of(path), 1):
        if not raw.strip():
            continue
        if is_json and raw.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["):
            yield from array_values(path)
            return
        is_json = False
        try:
            yield number, parse_json_line(raw)
        except ValueError as e:
            yield number, e


def array_values(path):
    values = parse_json_line(b"".join(lines_of(path)))
    yield from enumerate(values, 1)


def parse_json_line(raw):
    """One line of JSON as bytes -> value; ValueError with the reason and what to do."""
    try:
        return json.loads(raw.rstrip().decode("utf-8-sig"))
    except UnicodeDecodeError as e:
        raise ValueError(f"byte 0x{raw[e.start]:02x} at position {e.start} is not UTF-8. "
                         f"Convert the file to UTF-8") from None
    except json.JSONDecodeError as e:
        if b"\0" in raw:
            raise ValueError("NUL bytes: is the file binary, or UTF-16 without its mark? Convert "
                             "it to UTF-8") from None
        where = f"column {e.colno}"
        # An element of an array may span many lines.
        if e.lineno > 1:
            where += f", {e.lineno - 1} lines further down"
        hint = ""
        if len(raw.strip()) < 4:
            hint = ("Is it one JSON value spread over many lines? "
                    "A .jsonl file has one complete value on each line. ")
        raise ValueError(f"broken JSON at {where} ({e.msg}). {hint}"
                         f"Repair or delete the line") from None
    # Python refuses to parse a number of 5,000 digits or 100,000 brackets inside one another.
    except (ValueError, RecursionError) as e:
        raise ValueError(f"unreadable JSON ({e}). Repair or delete the line") from None


# --------------------------------------------------------------------------------------------------
# The split

# With fewer characters than this, val_share = 2 % is hardly enough to validate with.
SMALL = 1 << 18
# Of a text of more characters than this, only the beginning is looked at before it is split.
LARGE = 1 << 26
# Validation should have this many characters: a row of 512 tokens, and some to spare.
VAL_CHARS = 3072


def split_by_hash(documents, split, val_share):
    # Read ahead: the whole text, or as much of it as the law of large numbers needs.
    first = []
    n_chars = 0
    whole = False
    while n_chars < SMALL or (len(first) < 4096 and n_chars < LARGE):
        text = next(documents, None) if val_share else None
        if text is None:
            whole = val_share > 0
            break
        first.append(text)
        n_chars += len(text)
    threshold = int(val_share * 2**64) - 1
    if whole:
        first = cut_for_split(first, n_chars)
        threshold = best_threshold(first, val_share, n_chars)
    elif val_share:
        # A few rows of many megabytes would all be on one side.
        documents = chain.from_iterable(cut_for_split([text], LARGE) for text in documents)
        first = cut_for_split(first, LARGE)

    for text in chain(first, documents):
        is_val = document_hash(text) <= threshold
        if is_val == (split == "val"):
            yield text


def cut_for_split(texts, n_chars):
    """Cut what is too long for a share of 2 % of n_chars, at line ends if there are any."""
    if n_chars < SMALL:
        longest = 0
        size = 512
    else:
        longest = n_chars // 25
        size = n_chars // 512
    piece = re.compile(rf".{{{size}}}.{{0,{size - 1}}}?\n|.{{1,{2 * size}}}", re.DOTALL)
    return [part for text in texts
            for part in (piece.findall(text) if len(text) > longest else [text])]


def best_threshold(texts, val_share, n_chars):
    """The threshold at which the share of validation is nearest to val_share, or large enough.

    Documents are for validation if their hash is at most the threshold. One is always left for
    training.
    """
    sizes = {}
    for text in texts:
        number = document_hash(text)
        sizes[number] = sizes.get(number, 0) + len(text)
    threshold = -1
    n_val = 0
    for number in sorted(sizes)[:-1]:
        too_little = n_val < min(VAL_CHARS, n_chars // 3)
        # With this document, would the share be further from the right one than without it?
        if not too_little and n_val + sizes[number] / 2 > val_share * n_chars:
            break
        # A text that says one thing again and again may have no share of the right size.
        if n_val + sizes[number] > n_chars / 2:
            break
        threshold = number
        n_val += sizes[number]
    return threshold


def document_hash(text):
    """Document -> integer in [0, 2**64), equal on every machine and in every run, unlike hash()."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def not_empty(documents, split, paths):
    """Pass the documents on; ValueError at the end if there was none."""
    empty = True
    for text in documents:
        empty = False
        yield text
    if empty:
        names = paths if isinstance(paths, (str, Path)) else ", ".join(map(str, paths))
        raise ValueError(f"{names}: no text for split {split!r}: there is none, or too little for "
                         f"training and validation, or most of it is the same. Give "
                         f"{2 * VAL_CHARS:,} characters or more")
