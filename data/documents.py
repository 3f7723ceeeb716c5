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
  By name, where some files, or the folders they lie in, have the word val, valid or validation in
  their name (TinyStoriesV2-GPT4-valid.txt) and others have not: then the former are the validation
  split.
  Otherwise by the hash of the document's text: a document is validation if its hash falls under
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
from pathlib import Path

SUFFIXES = (".txt", ".jsonl", ".jsonl.gz", ".jsonl.xz", ".parquet")
# A .txt file without any line break is read, and cut, in pieces of this size.
READ_CHARS = 1 << 20
# With fewer characters than this, val_share = 2 % is hardly enough to validate with.
SMALL = 1 << 18
# Validation should have this many characters: a row of 512 tokens, and some to spare.
VAL_CHARS = 3072


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
    found = [Path(dest, name) for name in PRETRAINING
             if any(f.name.endswith(SUFFIXES) for f in Path(dest, name).rglob("*"))]
    if paths or not found or not on_gpu:
        return tuple(paths)
    say(f"text       {found[0]}, as this is a GPU and it is on disk "
        f"(--data demo: the text that is on every machine)")
    return (str(found[0]),)


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
    # A folder that holds all of the files says nothing about any one of them.
    shared = os.path.commonpath([f.absolute().parent for f in files])
    names = [os.path.relpath(f.absolute(), shared).lower() for f in files]
    is_val = [bool(re.search(r"(?<![a-z])val(id|idation)?(?![a-z])", name)) for name in names]
    if any(is_val) and not all(is_val):
        named_val, named_train = [[f for f, val in zip(files, is_val) if val == want]
                                  for want in (True, False)]
        return _checked(_documents_of(named_val if split == "val" else named_train), split, paths)
    return _checked(_split_by_hash(_documents_of(files), split, val_share), split, paths)


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
            found = sorted(
                f for f in path.rglob("*") if f.name.endswith(suffixes) and f.is_file()
                and not any(part.startswith(".") for part in f.relative_to(path).parts))
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


def check_text(text):
    """Return text unchanged, or say in a ValueError why no tokenizer should see it.

    All readers share this check.
    """
    if "\x00" in text:
        raise ValueError(f"NUL character at position {text.index(chr(0))}: text has none. Remove "
                         f"it, or convert the file if it is binary or UTF-16")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as e:
        raise ValueError(f"lone surrogate \\u{ord(text[e.start]):04x} at position {e.start}: half "
                         f"of a character, has no UTF-8. Repair the escape or remove it") from None
    return text


def read_json_lines(path):
    """Yield (line number, parsed value) of each non-blank line of .jsonl, .jsonl.gz, .jsonl.xz."""
    opener = gzip.open if path.name.endswith(".gz") else \
        lzma.open if path.name.endswith(".xz") else open
    number = 0
    try:
        with opener(path, "rb") as file:
            for number, raw in enumerate(file, 1):
                if raw.strip():
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
        hint = (" Is it one JSON value spread over many lines? "
                "A .jsonl file has one complete value on each line.")
        further = f", {e.lineno - 1} lines on" if e.lineno > 1 else ""
        raise ValueError(f"broken JSON at column {e.colno}{further} ({e.msg})."
                         f"{hint if len(raw.strip()) < 4 else ''} "
                         f"Repair or delete the line") from None
    # Python refuses to parse a number of 5,000 digits or 100,000 brackets inside one another.
    except (ValueError, RecursionError) as e:
        raise ValueError(f"unreadable JSON ({e}). Repair or delete the line") from None


# --------------------------------------------------------------------------------------------------
# One reader for each file type

def _documents_of(files):
    for path in files:
        read = _read_txt if path.suffix == ".txt" else \
            _read_parquet if path.suffix == ".parquet" else _read_jsonl
        for text in read(path):
            if text and not text.isspace():
                yield text


def _read_jsonl(path):
    for number, row in read_json_lines(path):
        where = f"{path}:{number}"
        if not isinstance(row, dict) or "text" not in row:
            got = f"a {type(row).__name__}" if not isinstance(row, dict) else \
                f"an object with {', '.join(row) or 'no field'}"
            raise ValueError(f'{where}: expected an object with a field "text", got {got}. '
                             f'Documents look like {{"text": "..."}}; conversations belong to '
                             f'midtrain.py and sft.py')
        if not isinstance(row["text"], str):
            raise ValueError(f'{where}: field "text" must be a string, got '
                             f'{type(row["text"]).__name__}')
        try:
            yield check_text(row["text"])
        except ValueError as e:
            raise ValueError(f"{where}: {e}") from None


def _read_txt(path):
    size = path.stat().st_size
    min_chars = size + 1 if size <= 65_536 else min(max(size // 256, 4_096), 65_536)
    # readline may cut a long line inside a character: an incremental decoder keeps the first half.
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    pieces, n_chars, number, after_break = [], 0, 1, True
    with open(path, "rb") as file:
        while raw := file.readline(READ_CHARS):
            try:
                line = check_text(decoder.decode(raw)).replace("\r\n", "\n")
            except UnicodeDecodeError as e:
                raise ValueError(f"{path}:{number}: byte 0x{e.object[e.start]:02x} is not UTF-8. "
                                 f"Convert the file to UTF-8") from None
            except ValueError as e:
                raise ValueError(f"{path}:{number}: {e}") from None
            separator = after_break and line.strip() == "<|endoftext|>"
            if not separator:
                pieces.append(line)
                n_chars += len(line)
            if separator or n_chars >= READ_CHARS \
                    or (n_chars >= min_chars and after_break and line.isspace()):
                yield "".join(pieces)
                pieces, n_chars = [], 0
            after_break = raw.endswith(b"\n")
            number += after_break
    if decoder.getstate()[0]:
        raise ValueError(f"{path}:{number}: the file ends inside a UTF-8 character. Was it cut "
                         f"off? Copy it again")
    yield "".join(pieces)


def _read_parquet(path):
    """The column "text", without unusable rows: nobody can edit a published corpus by hand.

    How many were left out, and the first of them, is said on stderr.
    """
    bad = []
    for row, text in enumerate(read_parquet(path, ["text"])):
        text = text["text"]
        try:
            if not isinstance(text, str):
                raise ValueError(f'"text" is {type(text).__name__}, not a string')
            yield check_text(text)
        except ValueError as e:
            bad.append(f"row {row}: {e}")
    if bad:
        print(f"{path}: left out {len(bad)} unusable rows; the first is {bad[0]}", file=sys.stderr)


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

def _hash(text):
    """Document -> integer in [0, 2**64), equal on every machine and in every run, unlike hash()."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _split_by_hash(documents, split, val_share):
    first, n_chars = [], 0
    while val_share and (n_chars < SMALL or len(first) < 1000 and n_chars < 1 << 24):
        text = next(documents, None)
        if text is None:
            break
        first.append(text)
        n_chars += len(text)
    if n_chars < SMALL:
        first = [piece for text in first
                 for piece in re.findall(r".{512}.{0,511}?\n|.{1,1024}", text, re.DOTALL)]
    hashes, threshold, n_val = \
        sorted((_hash(text), len(text)) for text in first), int(val_share * 2**64) - 1, 0
    # A document is validation if its hash is at most the threshold.
    for number, size in hashes[:-1]:
        if n_val >= min(VAL_CHARS, n_chars // 3):
            break
        threshold, n_val = max(threshold, number), n_val + size
    for part in first, documents:
        for text in part:
            if (_hash(text) <= threshold) == (split == "val"):
                yield text


def _checked(documents, split, paths):
    """Pass the documents on; ValueError at the end if there was none."""
    empty = True
    for text in documents:
        empty = False
        yield text
    if empty:
        names = paths if isinstance(paths, (str, Path)) else ", ".join(map(str, paths))
        raise ValueError(f"{names}: no text for split {split!r}: there is none, or too little for "
                         f"training and validation. Give {2 * VAL_CHARS:,} characters or more")
