"""
Files of every kind that people have data in: which of a folder are read, and their bytes and rows.

    found = find_files(["corpus/"], TEXT_SUFFIXES)
    found.files      what is read, in order
    found.parts      for each file "train", "val" or "test", as its name or folder says, or ""
    found.left_out   pairs (path, reason)

Names may end in capitals, and in .gz, .bz2, .xz or .zst behind that. Links to folders are followed.
Left out of a folder, and named with the reason: files of other types, pointers of Git LFS in place
of files, empty files, metadata and the README of the folder. What a user names is read or an error.

The words train, val, valid, validation and test count where they are the last word of a file's name
or of a folder's ("wiki.valid.txt", "test/x.txt"): not in "Val d'Or.txt". Numbers of shards do not
count: the last word of "validation-00000-of-00002.parquet" is validation. Of such names the first
word counts, too, as in "test_sft-00000-of-00001.parquet". The words dev and eval mean validation
where another name says train.
"""
import bz2
import codecs
import csv
import gzip
import hashlib
import lzma
import os
import re
import zlib
from itertools import chain
from pathlib import Path
from typing import NamedTuple

TEXTS = (".txt", ".text", ".md", ".markdown", ".rst", ".py", ".html", ".htm")
JSONS = (".jsonl", ".json", ".ndjson")
ROWS = (*JSONS, ".csv", ".tsv", ".parquet")
PACKED = ("", ".gz", ".bz2", ".xz", ".zst")


def with_packed(suffixes):
    return tuple(suffix + packed for suffix in suffixes for packed in PACKED
                 if suffix != ".parquet" or not packed)


ROW_SUFFIXES = with_packed(ROWS)
TEXT_SUFFIXES = with_packed(TEXTS + ROWS)
# Files of a folder that describe the others.
METADATA = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}
PARTS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val",
         "test": "test"}
# Names of another meaning that say validation where others say train.
WITH_TRAIN = {"dev": "val", "eval": "val"}


class Found(NamedTuple):
    files: list
    parts: list
    left_out: list


# --------------------------------------------------------------------------------------------------
# Which files

def find_files(paths, suffixes):
    """Files and folders -> Found. Those of a folder are sorted; hidden ones are left out unnamed.

    FileNotFoundError for a missing path; ValueError for a file of another type, a folder without
    any file to read, or no paths at all.
    """
    if isinstance(paths, (str, Path)):
        paths = [paths]
    files = []
    left_out = []
    for path in map(Path, paths):
        if path.is_dir():
            found, others = files_in(path, suffixes)
            if not found:
                why = "".join(f"; {file.name}: {reason}" for file, reason in others[:3])
                raise ValueError(f"{path}: no file in this folder ends in {readable(suffixes)}"
                                 f"{why}. Name another folder")
            files += found
            left_out += others
        elif not path.exists():
            raise FileNotFoundError(f"{path}: no such file or folder. Check the name, or download "
                                    f"data first: python data/download.py --list")
        elif not path.name.lower().endswith(suffixes):
            raise ValueError(f"{path}: do not know how to read this file; expected a name that "
                             f"ends in {readable(suffixes)}. Convert or rename it")
        elif is_pointer(path):
            raise ValueError(f"{path}: {POINTER}. Fetch the file: git lfs pull")
        else:
            files.append(path)
    if not files:
        raise ValueError("no data: the list of files and folders is empty. Name at least one")
    return Found(files, named_parts(files), left_out)


def list_files(paths, suffixes=TEXT_SUFFIXES):
    """Files and folders -> list of Path, as find_files finds them."""
    return find_files(paths, suffixes).files


# A file of up to so many bytes is read whole to identify it; of a larger one so many pieces are, of
# so many bytes each.
WHOLE, PIECES, PIECE = 2 ** 22, 64, 2 ** 16


def identify(paths, suffixes=TEXT_SUFFIXES):
    """The files that are read -> [[name, fingerprint], ...], by which the same data is known again.

    A name begins below the folder that was asked for. So neither `touch` nor a copy elsewhere nor a
    hidden file makes other data of it. The fingerprint is a hash of 16 hex digits, of the content
    or, for a large file, of its size and of pieces of it: an edit between them goes unnoticed.
    """
    identified = []
    for path in map(Path, paths):
        for file in list_files([path], suffixes):
            name = file.relative_to(path).as_posix() if path.is_dir() else path.name
            identified.append([name, fingerprint(file)])
    return identified


def fingerprint(path):
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with open(path, "rb") as file:
        if size <= WHOLE:
            digest.update(file.read())
        else:
            for i in range(PIECES):
                file.seek(i * (size - PIECE) // (PIECES - 1))
                digest.update(file.read(PIECE))
    return digest.hexdigest()[:16]


def readable(suffixes):
    """The endings without those of compressed files, for a message."""
    plain = [suffix for suffix in suffixes if not suffix.endswith(PACKED[1:])]
    return ", ".join(plain) + " (or these with .gz, .bz2, .xz, .zst)" * (len(plain) < len(suffixes))


POINTER = "a pointer of Git LFS, not the file itself"


def files_in(folder, suffixes):
    """The files of a folder -> those to read, sorted, and pairs (path, reason) of the others."""
    found = []
    left_out = []
    for path in sorted(walk(folder, left_out)):
        reason = why_not(path, folder, suffixes)
        if reason:
            left_out.append((path, reason))
        else:
            found.append(path)
    # Its README tells people what is in a folder, unless there is nothing else.
    about = [path for path in found if path.parent == folder and path.stem.lower() == "readme"]
    if len(found) > len(about):
        found = [path for path in found if path not in about]
        left_out += [(path, "describes the folder") for path in about]
    return found, left_out


def walk(folder, left_out):
    """The files below a folder, through links, each folder once; hidden ones are left out.

    Adds (path, reason) to left_out for each folder that cannot be read.
    """
    def refuse(error):
        left_out.append((Path(error.filename), f"cannot be read ({error.strerror})"))

    seen = set()
    for base, folders, names in os.walk(folder, followlinks=True, onerror=refuse):
        real = os.path.realpath(base)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith((".", "__pycache__"))]
        folders.sort()
        yield from (Path(base, name) for name in names if not name.startswith("."))


def why_not(path, folder, suffixes):
    """Why a file of a folder is not read, "" if it is."""
    if not path.exists():
        return "a link to nothing"
    if not path.is_file():
        return "not an ordinary file"
    if not path.name.lower().endswith(suffixes):
        return f"ends in {path.suffix}, which is not read" if path.suffix else "has no ending"
    if path.name.lower() in METADATA:
        return "describes the data"
    if path.stat().st_size == 0:
        return "empty"
    return POINTER if is_pointer(path) else ""


def is_pointer(path):
    if path.stat().st_size > 1024:
        return False
    with open(path, "rb") as file:
        return file.read(64).startswith(b"version https://git-lfs.github.com/spec/")


def named_parts(files):
    """For each file "train", "val" or "test", as its name or that of its nearest folder says."""
    # A folder that holds all of the files says nothing about any one of them.
    shared = os.path.commonpath([file.absolute().parent for file in files])
    paths = [Path(os.path.relpath(file.absolute(), shared)) for file in files]
    parts = [named_part(path) for path in paths]
    if "train" in parts:
        parts = [part or named_part(path, WITH_TRAIN) for part, path in zip(parts, paths)]
    return parts


def named_part(path, words=PARTS):
    name = path.name.lower()
    split = re.match(r"([a-z]+)_[a-z]+-\d+-of-\d+\b", name)
    if split and split[1] in words:
        return words[split[1]]
    ending = max((s for s in TEXT_SUFFIXES if name.endswith(s)), key=len, default="")
    for name in [name.removesuffix(ending), *(folder.name.lower() for folder in path.parents)]:
        name = re.sub(r"([-_. ]*\d+([-_]of[-_]\d+)?)+$", "", name)
        last = re.split(r"[^a-z]+", name)[-1]
        if last in words:
            return words[last]
    return ""


def describe(found, n_shown=6):
    """What is read, held out and left out, and why, as text in lines for a run to print."""
    def names(files):
        shown = ", ".join(file.name for file in files[:n_shown])
        return shown + (f" and {len(files) - n_shown} more" if len(files) > n_shown else "")

    train, val, test = split_by_name(found)
    lines = [f"files      {len(train)} read: {names(train)}"]
    if val:
        lines.append(f"           {len(val)} held out for validation, by name: {names(val)}")
    if test:
        lines.append(f"           {len(test)} left out, as the name says test: {names(test)}")
    reasons = {}
    for path, reason in found.left_out:
        reasons.setdefault(reason, []).append(path)
    for reason, files in reasons.items():
        lines.append(f"           {len(files)} left out, {reason}: {names(files)}")
    return "\n".join(lines)


def split_by_name(found):
    """Found -> the files for training, for validation and for testing, three lists.

    If no file is for training, the names say nothing, and all of them are.
    """
    by_part = {"train": [], "val": [], "test": []}
    for file, part in zip(found.files, found.parts):
        by_part[part or "train"].append(file)
    if not by_part["train"]:
        return found.files, [], []
    return by_part["train"], by_part["val"], by_part["test"]


# --------------------------------------------------------------------------------------------------
# Their bytes and rows

def plain_name(path):
    """The name of a file in lower case, without .gz, .bz2, .xz or .zst."""
    name = path.name.lower()
    for packed in PACKED[1:]:
        name = name.removesuffix(packed)
    return name


def open_bytes(path):
    """Open a file for reading bytes, unpacked if it is .gz, .bz2, .xz or .zst."""
    name = path.name.lower()
    if name.endswith(".gz"):
        return gzip.open(path)
    if name.endswith(".bz2"):
        return bz2.open(path)
    if name.endswith(".xz"):
        return lzma.open(path)
    if name.endswith(".zst"):
        pyarrow = import_pyarrow(path, ".zst")
        return pyarrow.CompressedInputStream(pyarrow.OSFile(os.fspath(path)), "zstd")
    return open(path, "rb")


# What reading a broken compressed file raises; pyarrow and bz2 raise OSError.
BROKEN = (EOFError, lzma.LZMAError, gzip.BadGzipFile, zlib.error)
# How a text begins that is not in UTF-8, as Windows writes some. The longer marks come first.
MARKS = [(codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
         (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16")]


def wide_encoding(path):
    """"utf-16" or "utf-32" if the file, unpacked, begins with the mark of it, else ""."""
    with open_bytes(path) as file:
        start = file.read(4)
    return next((name for mark, name in MARKS if start.startswith(mark)), "")


def lines_of(path, size=-1):
    """Yield the lines of a file, unpacked and in UTF-8, as bytes; those over `size` in pieces.

    ValueError for a broken compressed file, and for broken UTF-16.
    """
    number = 0
    is_zst = path.name.lower().endswith(".zst")
    try:
        encoding = wide_encoding(path)
        with open_bytes(path) as file:
            if is_zst or encoding:
                for line in cut_lines(chunks_of(file, encoding), size):
                    yield line
                    number += 1
                return
            while line := file.readline(size):
                yield line
                number += 1
    except BROKEN as e:
        raise broken(path, number, e) from None
    except UnicodeDecodeError as e:
        raise ValueError(f"{path}: broken {encoding.upper()} after line {number} ({e.reason}). "
                         f"Convert the file to UTF-8") from None
    except OSError as e:
        if e.errno is None:
            raise broken(path, number, e) from None
        raise


def chunks_of(file, encoding):
    """Yield the bytes of an open file in chunks, and in UTF-8 if `encoding` is another one."""
    decoder = codecs.getincrementaldecoder(encoding)() if encoding else None
    while chunk := file.read(1 << 20):
        yield decoder.decode(chunk).encode() if encoding else chunk
    if encoding:
        decoder.decode(b"", final=True)


def cut_lines(chunks, size):
    """Chunks of bytes -> lines; pyarrow's stream has no readline of its own that is fast."""
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        yield from (line + b"\n" for line in lines)
        while 0 < size <= len(rest):
            yield rest[:size]
            rest = rest[size:]
    if rest:
        yield rest


def broken(path, number, reason):
    return ValueError(f"{path}: broken compressed file after line {number} ({reason}). "
                      f"Fetch it again")


def import_pyarrow(path, kind):
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ValueError(f"{path}: reading {kind} needs pyarrow. "
                         f"Install it: pip install -e '.[data]'") from None
    return pyarrow


def read_parquet(path, columns=None, hint=""):
    """Yield the rows of a .parquet file as dicts, one row group in memory at a time.

    columns: the names of those to read, None for all. hint: what to do where one is missing.
    ValueError if the file lacks one of them, is
    broken, or pyarrow is not installed.
    """
    pyarrow = import_pyarrow(path, ".parquet")
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            missing = [name for name in columns or [] if name not in file.schema_arrow.names]
            if missing:
                raise ValueError(f"{path}: no column {missing[0]!r}; "
                                 f"it has {', '.join(file.schema_arrow.names)}{hint}")
            for batch in file.iter_batches(batch_size=1024, columns=columns):
                yield from batch.to_pylist()
    except (pyarrow.ArrowException, UnicodeDecodeError) as e:
        raise ValueError(f"{path}: not a readable parquet file ({str(e).splitlines()[0]}). "
                         f"Download it again") from None


def read_table(path):
    """Yield the rows of a .csv or .tsv file with a header as dicts; an empty cell is None.

    For a row with too few or too many cells, or with quotes that do not match, its ValueError.
    ValueError is raised for bytes that are not UTF-8, for a quote that nothing closes, and for two
    columns of one name.
    """
    csv.field_size_limit(1 << 30)
    lines = decoded(path)
    number = 0
    try:
        first = next(lines, "")
        delimiter = "\t" if plain_name(path).endswith(".tsv") else delimiter_of(first)
        # Not strict, it would take all that follows an open quote for one cell.
        rows = csv.reader(chain([first], lines), delimiter=delimiter, strict=True)
        header = [name.strip() for name in next(rows, [])]
        twice = [name for name in header if name and header.count(name) > 1]
        if twice:
            raise ValueError(f"two columns are named {twice[0]!r}. Rename or remove one")
        while True:
            number += 1
            try:
                cells = next(rows)
            except StopIteration:
                return
            except csv.Error as e:
                if "end of data" in str(e):
                    raise ValueError("a quote that is not closed: all that follows would be one "
                                     "cell. Close it, or double it within a cell") from None
                yield ValueError(f"quotes that do not match ({e}). Double those within a cell")
                continue
            if not cells:
                number -= 1
            elif len(cells) != len(header):
                yield ValueError(f"{len(cells)} cells, and the header has {len(header)}. Quote "
                                 f"cells that hold a line break or a {delimiter!r}")
            else:
                yield {name: cell or None for name, cell in zip(header, cells)}
    except (ValueError, csv.Error) as e:
        raise ValueError(f"{path}: row {number}: {e}") from None


def delimiter_of(header):
    """What stands between the cells of a .csv file: a comma, else what its header has."""
    for delimiter in ",;\t|":
        if len(next(csv.reader([header], delimiter=delimiter), [])) > 1:
            return delimiter
    return ","


def decoded(path):
    for number, line in enumerate(lines_of(path), 1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as e:
            raise ValueError(f"byte 0x{line[e.start]:02x} in line {number} is not UTF-8. "
                             f"Convert the file to UTF-8") from None
