"""
Documents: .txt, .jsonl, .jsonl.gz, .jsonl.xz and .parquet files, or folders of them, as one stream of strings.

    from data.documents import read_documents
    for text in read_documents(["books/", "wiki.jsonl.xz"], "train"): ...

Files are read in the order given (a folder's files sorted by path), a piece at a time, so memory stays flat however
large the corpus is. Whitespace-only documents are left out: they teach nothing. Everything else that cannot be used is
an error that names file and line: broken JSON, a missing field, bytes that are not UTF-8, lone surrogates (JSON's
\\ud800: no UTF-8 exists for them) and NUL characters (in text they mean that a binary or UTF-16 file slipped in).

How the text is cut into documents
  .jsonl    one document a line, its field "text"
  .parquet  one document a row, its column "text" (needs the extra: pip install -e '.[data]')
  .txt      one document a file up to 64 KiB; a line that is just <|endoftext|> (TinyStories) also ends a document.
            A longer file is cut at blank lines into pieces of at least 1/256 of its size, but between 4 and 64 KiB,
            so that validation gets a share even of a single book.

How the text is split
  Where some files, or the folders they lie in, have the word val, valid or validation in their name
  (TinyStoriesV2-GPT4-valid.txt) and others have not, the former are the validation split. Otherwise a document is
  validation if the hash of its text falls under `val_share`: nothing else decides, so a duplicate never stands on both
  sides. Of a small text that is too little to validate with: the threshold rises until validation has 3,072 characters
  (600 tokens or more), but not beyond a third of the text; and a text of less than 262,144 characters is cut into
  pieces of 512 to 1,024, at line ends where it has any. So 6 KB are enough for training and validation.
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
READ_CHARS = 1 << 20            # a .txt without any line break is still read, and cut, in pieces of this size
SMALL = 1 << 18                 # characters of a text of which val_share = 2 % is hardly enough to validate with
VAL_CHARS = 3072                # characters of validation there should be: a row of 512 tokens, and some to spare


DOWNLOADS = Path(__file__).resolve().parent / "downloads"
PRETRAINING = ["climbmix", "fineweb", "tinystories"]     # the first that is on disk is what pretraining reads


def choose_documents(paths, on_gpu, say=print, dest=DOWNLOADS):
    """--data of tokenizer.py and pretrain.py -> the files or folders to read; none: the embedded Python corpus.

    Without the flag it is what was downloaded where there is a GPU to train on it, as in choose_mixture; "demo" asks
    for the embedded corpus.
    """
    if list(paths) == ["demo"]:
        return ()
    found = [Path(dest, name) for name in PRETRAINING
             if any(f.name.endswith(SUFFIXES) for f in Path(dest, name).rglob("*"))]
    if paths or not found or not on_gpu:
        return tuple(paths)
    say(f"text       {found[0]}, as this is a GPU and it is on disk (--data demo: the text that is on every machine)")
    return (str(found[0]),)


def read_documents(paths, split, val_share=0.02):
    """The documents of files and folders `paths` in order: an iterator of str, for split "train" or "val".

    FileNotFoundError for a missing path at once; ValueError with file:line for bad data when the reading comes to it,
    or at the end if the split has no document.
    """
    if split not in ("train", "val"):
        raise ValueError(f"split must be 'train' or 'val', not {split!r}")
    if not 0 <= val_share < 1:
        raise ValueError(f"val_share must be at least 0 and less than 1, not {val_share}")
    files = list_files(paths)
    shared = os.path.commonpath([f.absolute().parent for f in files])          # what they all lie in tells nothing
    names = [os.path.relpath(f.absolute(), shared).lower() for f in files]
    is_val = [bool(re.search(r"(?<![a-z])val(id|idation)?(?![a-z])", name)) for name in names]
    if any(is_val) and not all(is_val):
        named_val, named_train = [[f for f, val in zip(files, is_val) if val == want] for want in (True, False)]
        return _checked(_documents_of(named_val if split == "val" else named_train), split, paths)
    return _checked(_split_by_hash(_documents_of(files), split, val_share), split, paths)


def list_files(paths, suffixes=SUFFIXES):
    """Files and folders -> list of Path: each file with one of `suffixes`, folders searched whole, in sorted order."""
    if isinstance(paths, (str, Path)):
        paths = [paths]
    files = []
    for path in map(Path, paths):
        if path.is_dir():
            found = sorted(f for f in path.rglob("*") if f.name.endswith(suffixes) and f.is_file()
                           and not any(part.startswith(".") for part in f.relative_to(path).parts))
            if not found:
                raise ValueError(f"{path}: no file in this folder ends in {', '.join(suffixes)}. Name another folder")
            files += found
        elif not path.exists():
            raise FileNotFoundError(f"{path}: no such file or folder. Check the name, or download data first: "
                                    f"python data/download.py --list")
        elif not path.name.endswith(suffixes):
            raise ValueError(f"{path}: do not know how to read this file; expected a name that ends in "
                             f"{', '.join(suffixes)}. Convert or rename it")
        else:
            files.append(path)
    if not files:
        raise ValueError("no data: the list of files and folders is empty. Name at least one")
    return files


def check_text(text):
    """Return text unchanged; ValueError with the reason if no tokenizer should see it. Shared by all readers."""
    if "\x00" in text:
        raise ValueError(f"NUL character at position {text.index(chr(0))}: text has none. Remove it, or convert the "
                         f"file if it is binary or UTF-16")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as e:
        raise ValueError(f"lone surrogate \\u{ord(text[e.start]):04x} at position {e.start}: half of a character, has "
                         f"no UTF-8. Repair the escape or remove it") from None
    return text


def read_json_lines(path):
    """Yield (line number, parsed value) of each non-blank line of .jsonl, .jsonl.gz or .jsonl.xz."""
    opener = gzip.open if path.name.endswith(".gz") else lzma.open if path.name.endswith(".xz") else open
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
        raise ValueError(f"{path}: broken compressed file after line {number} ({e}). Fetch it again") from None


def parse_json_line(raw):
    """One line of JSON as bytes -> value; ValueError with the reason and what to do."""
    try:
        return json.loads(raw.rstrip().decode("utf-8-sig"))
    except UnicodeDecodeError as e:
        raise ValueError(f"byte 0x{raw[e.start]:02x} at position {e.start} is not UTF-8. "
                         f"Convert the file to UTF-8") from None
    except json.JSONDecodeError as e:
        hint = " Is it one JSON value spread over many lines? A .jsonl file has one complete value on each line."
        further = f", {e.lineno - 1} lines on" if e.lineno > 1 else ""
        raise ValueError(f"broken JSON at column {e.colno}{further} ({e.msg}).{hint if len(raw.strip()) < 4 else ''} "
                         f"Repair or delete the line") from None
    except (ValueError, RecursionError) as e:                     # a number of 5,000 digits; 100,000 brackets
        raise ValueError(f"unreadable JSON ({e}). Repair or delete the line") from None


# ---- one reader per file type ----

def _documents_of(files):
    for path in files:
        read = _read_txt if path.suffix == ".txt" else _read_parquet if path.suffix == ".parquet" else _read_jsonl
        for text in read(path):
            if text and not text.isspace():
                yield text


def _read_jsonl(path):
    for number, row in read_json_lines(path):
        where = f"{path}:{number}"
        if not isinstance(row, dict) or "text" not in row:
            got = f"a {type(row).__name__}" if not isinstance(row, dict) else \
                f"an object with {', '.join(row) or 'no field'}"
            raise ValueError(f'{where}: expected an object with a field "text", got {got}. Documents look like '
                             f'{{"text": "..."}}; conversations belong to midtrain.py and sft.py')
        if not isinstance(row["text"], str):
            raise ValueError(f'{where}: field "text" must be a string, got {type(row["text"]).__name__}')
        try:
            yield check_text(row["text"])
        except ValueError as e:
            raise ValueError(f"{where}: {e}") from None


def _read_txt(path):
    size = path.stat().st_size
    min_chars = size + 1 if size <= 65_536 else min(max(size // 256, 4_096), 65_536)
    decoder = codecs.getincrementaldecoder("utf-8-sig")()        # a long line may be cut inside a character
    pieces, n_chars, number, after_break = [], 0, 1, True
    with open(path, "rb") as file:
        while raw := file.readline(READ_CHARS):
            try:
                line = check_text(decoder.decode(raw)).replace("\r\n", "\n")
            except UnicodeDecodeError as e:
                raise ValueError(f"{path}:{number}: byte 0x{e.object[e.start]:02x} is not UTF-8. Convert the file to "
                                 f"UTF-8") from None
            except ValueError as e:
                raise ValueError(f"{path}:{number}: {e}") from None
            separator = after_break and line.strip() == "<|endoftext|>"
            if not separator:
                pieces.append(line)
                n_chars += len(line)
            if separator or n_chars >= READ_CHARS or (n_chars >= min_chars and after_break and line.isspace()):
                yield "".join(pieces)
                pieces, n_chars = [], 0
            after_break = raw.endswith(b"\n")
            number += after_break
    if decoder.getstate()[0]:
        raise ValueError(f"{path}:{number}: the file ends inside a UTF-8 character. Was it cut off? Copy it again")
    yield "".join(pieces)


def _read_parquet(path):
    """Published corpora, which nobody can edit by hand: an unusable row is left out, and they are counted and named."""
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
    """Yield the rows of a .parquet file as dicts, one row group in memory at a time; `columns` None for all."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ValueError(f"{path}: reading .parquet needs pyarrow. Install it: pip install -e '.[data]'") from None
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            missing = [name for name in columns or [] if name not in file.schema_arrow.names]
            if missing:
                raise ValueError(f"{path}: no column {missing[0]!r}; it has {', '.join(file.schema_arrow.names)}")
            for batch in file.iter_batches(batch_size=1024, columns=columns):
                yield from batch.to_pylist()
    except (pyarrow.ArrowException, UnicodeDecodeError) as e:
        raise ValueError(f"{path}: not a readable parquet file ({str(e).splitlines()[0]}). Download it again") from None


# ---- the split ----

def _hash(text):
    """Document -> integer in [0, 2**64): the same on every machine and in every run, unlike Python's hash()."""
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
        first = [piece for text in first for piece in re.findall(r".{512}.{0,511}?\n|.{1,1024}", text, re.DOTALL)]
    hashes, threshold, n_val = sorted((_hash(text), len(text)) for text in first), int(val_share * 2**64) - 1, 0
    for number, size in hashes[:-1]:                              # validation: hash <= threshold
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
        raise ValueError(f"{names}: no text for split {split!r}: there is none, or too little for training and "
                         f"validation. Give {2 * VAL_CHARS:,} characters or more")
