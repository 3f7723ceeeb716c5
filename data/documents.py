"""
Documents: .txt, .jsonl, .jsonl.gz, .jsonl.xz and .parquet files, or folders of them, as one stream
of strings.

    from data.documents import read_documents
    for text in read_documents(["books/", "wiki.jsonl.xz"], "train"): ...

Files are read in the order given, those of a folder sorted by path. They are read piece by piece,
so memory stays flat however large the corpus is. Documents of nothing but whitespace are left out.
Anything else that cannot be used is an error that names file and line: broken JSON, a missing
field, bytes that are not UTF-8, lone surrogates (JSON's \\ud800, which has no UTF-8) and NUL
characters (a sign of a binary or UTF-16 file). Parquet files are the exception: their unusable rows
are counted and left out.

How the text is cut into documents
  .jsonl    One document a line, its field "text".
  .parquet  One document a row, its column "text". Needs the extra: pip install -e '.[data]'
  .txt      One document a file up to 64 KiB. A line that is just <|endoftext|>, as in TinyStories,
            also ends a document. A longer file is cut at blank lines into pieces of at least 1/256
            of its size, but no less than 4 and no more than 64 KiB, so that even a single book
            leaves something for validation.

How the text is split
  By name, if some files have the word val, valid or validation in their name, or in that of a
  folder they lie in, and others have not: TinyStoriesV2-GPT4-valid.txt is for validation.
  Otherwise by the hash of the document's text: a document is for validation if its hash falls under
  `val_share`. Since nothing else decides, two equal documents are always on the same side.
  A share of a small text is too little to validate with. So the threshold rises until validation
  has 3,072 characters (600 tokens or more), but not beyond a third of the text. And a text of less
  than 262,144 characters is cut into pieces of 512 to 1,024, at line ends where it has any. So 6 KB
  are enough for training and validation.
"""
import codecs
import gzip
import hashlib
import json
import lzma
import os
import re
import sys
from itertools import chain
from pathlib import Path

SUFFIXES = (".txt", ".jsonl", ".jsonl.gz", ".jsonl.xz", ".parquet")


def read_documents(paths, split, val_share=0.02):
    """The documents of files and folders `paths` in order: an iterator of str, "train" or "val".

    FileNotFoundError for a missing path at once; ValueError with file:line for bad data when the
    reading comes to it, or at the end if the split has no document.
    """
    if split not in ("train", "val"):
        raise ValueError(f"split must be 'train' or 'val', not {split!r}")
    if not 0 <= val_share < 1:
        raise ValueError(f"val_share must be at least 0 and less than 1, not {val_share}")
    files = list_files(paths)
    is_val = named_validation(files)
    if any(is_val) and not all(is_val):
        wanted = [file for file, val in zip(files, is_val) if val == (split == "val")]
        documents = documents_in(wanted)
    else:
        documents = split_by_hash(documents_in(files), split, val_share)
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
    choose_mixture does the same for conversations.
    """
    if list(paths) == ["demo"]:
        return ()
    if paths or not on_gpu:
        return tuple(paths)
    for name in PRETRAINING:
        folder = Path(dest, name)
        if any(file.name.endswith(SUFFIXES) for file in folder.rglob("*")):
            say(f"text       {folder}, as this is a GPU and it is on disk "
                f"(--data demo: the text that is on every machine)")
            return (str(folder),)
    return ()


def list_files(paths, suffixes=SUFFIXES):
    """Files and folders -> list of Path; a folder gives its files that end in `suffixes`, sorted.

    Hidden files and folders are left out. FileNotFoundError for a missing path; ValueError for a
    file of another type, a folder without any file to read, or no paths at all.
    """
    if isinstance(paths, (str, Path)):
        paths = [paths]
    files = []
    for path in map(Path, paths):
        if path.is_dir():
            found = files_in(path, suffixes)
            if not found:
                raise ValueError(f"{path}: no file in this folder ends in {', '.join(suffixes)}. "
                                 f"Name another folder")
            files += found
        elif not path.exists():
            raise FileNotFoundError(f"{path}: no such file or folder. Check the name, or download "
                                    f"data first: python data/download.py --list")
        elif not path.name.endswith(suffixes):
            raise ValueError(f"{path}: do not know how to read this file; expected a name that "
                             f"ends in {', '.join(suffixes)}. Convert or rename it")
        else:
            files.append(path)
    if not files:
        raise ValueError("no data: the list of files and folders is empty. Name at least one")
    return files


def files_in(folder, suffixes):
    found = []
    for path in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.name.endswith(suffixes) and path.is_file() and not hidden:
            found.append(path)
    return sorted(found)


def named_validation(files):
    """For each file: is it, or a folder that it lies in, called val, valid or validation?"""
    # A folder that holds all of the files says nothing about any one of them.
    shared = os.path.commonpath([file.absolute().parent for file in files])
    names = [os.path.relpath(file.absolute(), shared).lower() for file in files]
    return [bool(re.search(r"(?<![a-z])val(id|idation)?(?![a-z])", name)) for name in names]


# --------------------------------------------------------------------------------------------------
# The documents of each file type

# A .txt file without any line break is read, and cut, in pieces of this size.
READ_CHARS = 1 << 20


def documents_in(files):
    for path in files:
        if path.suffix == ".txt":
            documents = txt_documents(path)
        elif path.suffix == ".parquet":
            documents = parquet_documents(path)
        else:
            documents = jsonl_documents(path)
        for text in documents:
            if text and not text.isspace():
                yield text


def jsonl_documents(path):
    for number, row in read_json_lines(path):
        try:
            yield text_of(row)
        except ValueError as e:
            raise ValueError(f"{path}:{number}: {e}") from None


def text_of(row):
    """A parsed line of a .jsonl file -> its text; ValueError if it has none, or a bad one."""
    if not isinstance(row, dict) or "text" not in row:
        if isinstance(row, dict):
            got = f"an object with {', '.join(row) or 'no field'}"
        else:
            got = f"a {type(row).__name__}"
        raise ValueError(f'expected an object with a field "text", got {got}. Documents look like '
                         f'{{"text": "..."}}; conversations belong to midtrain.py and sft.py')
    if not isinstance(row["text"], str):
        raise ValueError(f'field "text" must be a string, got {type(row["text"]).__name__}')
    return check_text(row["text"])


def txt_documents(path):
    # A blank line ends a document once it has this many characters: never in a short file.
    size = path.stat().st_size
    if size <= 65_536:
        min_chars = size + 1
    else:
        min_chars = min(max(size // 256, 4_096), 65_536)
    # readline may cut a long line inside a character: an incremental decoder keeps the first half.
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    lines = []
    n_chars = 0
    number = 1
    begins_line = True
    with open(path, "rb") as file:
        while raw := file.readline(READ_CHARS):
            try:
                line = check_text(decoder.decode(raw)).replace("\r\n", "\n")
            except UnicodeDecodeError as e:
                raise ValueError(f"{path}:{number}: byte 0x{e.object[e.start]:02x} is not UTF-8. "
                                 f"Convert the file to UTF-8") from None
            except ValueError as e:
                raise ValueError(f"{path}:{number}: {e}") from None
            separator = begins_line and line.strip() == "<|endoftext|>"
            blank = begins_line and line.isspace()
            if not separator:
                lines.append(line)
                n_chars += len(line)
            if separator or n_chars >= READ_CHARS or (blank and n_chars >= min_chars):
                yield "".join(lines)
                lines = []
                n_chars = 0
            begins_line = raw.endswith(b"\n")
            if begins_line:
                number += 1
    if decoder.getstate()[0]:
        raise ValueError(f"{path}:{number}: the file ends inside a UTF-8 character. Was it cut "
                         f"off? Copy it again")
    yield "".join(lines)


def parquet_documents(path):
    """The column "text", without unusable rows: nobody can edit a published corpus by hand.

    How many were left out, and the first of them, is said on stderr.
    """
    bad = []
    for number, row in enumerate(read_parquet(path, ["text"])):
        text = row["text"]
        try:
            if not isinstance(text, str):
                raise ValueError(f'"text" is {type(text).__name__}, not a string')
            yield check_text(text)
        except ValueError as e:
            bad.append(f"row {number}: {e}")
    if bad:
        print(f"{path}: left out {len(bad)} unusable rows; the first is {bad[0]}", file=sys.stderr)


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


def read_json_lines(path):
    """Yield (line number, parsed value) of each non-blank line of .jsonl, .jsonl.gz, .jsonl.xz."""
    if path.name.endswith(".gz"):
        opener = gzip.open
    elif path.name.endswith(".xz"):
        opener = lzma.open
    else:
        opener = open
    number = 0
    try:
        with opener(path, "rb") as file:
            for number, raw in enumerate(file, 1):
                if not raw.strip():
                    continue
                try:
                    yield number, parse_json_line(raw)
                except ValueError as e:
                    raise ValueError(f"{path}:{number}: {e}") from None
    except (EOFError, lzma.LZMAError, gzip.BadGzipFile) as e:
        raise ValueError(f"{path}: broken compressed file after line {number} ({e}). "
                         f"Fetch it again") from None


def parse_json_line(raw):
    """One line of JSON as bytes -> value; ValueError with the reason and what to do."""
    try:
        return json.loads(raw.rstrip().decode("utf-8-sig"))
    except UnicodeDecodeError as e:
        raise ValueError(f"byte 0x{raw[e.start]:02x} at position {e.start} is not UTF-8. "
                         f"Convert the file to UTF-8") from None
    except json.JSONDecodeError as e:
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


def read_parquet(path, columns=None):
    """Yield the rows of a .parquet file as dicts, one row group in memory at a time.

    columns: the names of those to read, None for all. ValueError if the file lacks one of them, is
    broken, or pyarrow is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ValueError(f"{path}: reading .parquet needs pyarrow. "
                         f"Install it: pip install -e '.[data]'") from None
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            missing = [name for name in columns or [] if name not in file.schema_arrow.names]
            if missing:
                raise ValueError(f"{path}: no column {missing[0]!r}; "
                                 f"it has {', '.join(file.schema_arrow.names)}")
            for batch in file.iter_batches(batch_size=1024, columns=columns):
                yield from batch.to_pylist()
    except (pyarrow.ArrowException, UnicodeDecodeError) as e:
        raise ValueError(f"{path}: not a readable parquet file ({str(e).splitlines()[0]}). "
                         f"Download it again") from None


# --------------------------------------------------------------------------------------------------
# The split

# With fewer characters than this, val_share = 2 % is hardly enough to validate with.
SMALL = 1 << 18
# Validation should have this many characters: a row of 512 tokens, and some to spare.
VAL_CHARS = 3072


def split_by_hash(documents, split, val_share):
    # Read ahead, far enough to see whether validation will have VAL_CHARS.
    first = []
    n_chars = 0
    enough = val_share == 0
    while not enough and (text := next(documents, None)) is not None:
        first.append(text)
        n_chars += len(text)
        enough = n_chars >= SMALL and (len(first) >= 1000 or n_chars >= 1 << 24)
    if n_chars < SMALL:
        piece = re.compile(r".{512}.{0,511}?\n|.{1,1024}", re.DOTALL)
        first = [part for text in first for part in piece.findall(text)]

    # A document is validation if its hash is at most the threshold. The threshold rises, from hash
    # to hash, until validation is large enough; one document is always left for training.
    threshold = int(val_share * 2**64) - 1
    n_val = 0
    hashes = sorted((document_hash(text), len(text)) for text in first)
    for number, size in hashes[:-1]:
        if n_val >= min(VAL_CHARS, n_chars // 3):
            break
        threshold = max(threshold, number)
        n_val += size

    for text in chain(first, documents):
        is_val = document_hash(text) <= threshold
        if is_val == (split == "val"):
            yield text


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
                         f"training and validation. Give {2 * VAL_CHARS:,} characters or more")
