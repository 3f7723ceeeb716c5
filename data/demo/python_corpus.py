"""
The embedded corpus: documentation and source code of the Python standard library on this machine, nothing to download.

Three kinds of document come out, all read with `ast` alone; no module is imported or run:
- topics: the language reference that `help("topics")` shows (pydoc_data/topics.py), one document a topic;
- pages:  a reference page per module: its docstrings under `module.Class.method(arguments)` headings, with the longer
          comments in between, cut between top-level definitions;
- code:   the source itself, cut between top-level statements.
Topics and pages are prose, the rest is code. Installed packages can add their pages (`packages=("numpy", "torch")`:
1.8 and 8.7 MB). A held-out document comes from a held-out file, by a hash of the file's path; each topic counts as a
file of its own, since topics.py alone holds a sixth of the prose.
"""
import ast
import functools
import importlib.util
import os
import sysconfig
import warnings
from collections import Counter

from data.demo.splits import stable_hash

# Left out: test suites (17 of the 31 MB in CPython 3.11: asserts and tables of inputs, the least like documentation),
# what pip has installed (the corpus follows from the Python version alone), and build settings full of local paths.
SKIPPED_FOLDERS = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "__phello__"}
SKIPPED_PREFIXES = ("_sysconfigdata", "config-")
VAL_PERCENT = 2             # of the files
DOCUMENT_CHARS = 3000       # pages and code are cut once they are longer; about two rows of 512 tokens
PUBLIC_NAMES = {"posixpath": "os.path", "_collections_abc": "collections.abc", "_pydecimal": "decimal", "_pyio": "io",
                "_pydatetime": "datetime", "_strptime": "time", "pathlib._local": "pathlib", "pathlib._abc": "pathlib"}


def stdlib_folder():
    """The folder of the standard library's .py files, also from inside a virtual environment."""
    return sysconfig.get_paths()["stdlib"]


def source_files(folder):
    """Sorted paths, relative to the folder and with forward slashes, of the .py files that the corpus is made of."""
    found = []
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(f for f in folders if f not in SKIPPED_FOLDERS and not f.startswith(SKIPPED_PREFIXES))
        found += [os.path.relpath(os.path.join(parent, f), folder).replace(os.sep, "/")
                  for f in files if f.endswith(".py") and not f.startswith(SKIPPED_PREFIXES)]
    return sorted(found)


def read_source(folder, path):
    """The text and the syntax tree of one file, or None where it cannot be read, decoded or parsed."""
    try:
        with open(os.path.join(folder, path), encoding="utf-8", newline=None) as f:
            source = f.read()
        with warnings.catch_warnings():     # newer Pythons warn of odd escapes in older files; that is not our concern
            warnings.simplefilter("ignore", SyntaxWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            return source, ast.parse(source)
    except (OSError, ValueError, SyntaxError):          # UnicodeDecodeError is a ValueError
        return None


def module_name(path):
    """json/decoder.py -> json.decoder, json/__init__.py -> json, posixpath.py -> os.path (the name that people use)."""
    name = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    return PUBLIC_NAMES.get(name, name)


def definitions(tree, module):
    """Yield (node, qualified name) of the module's functions, classes and their methods, in the order of the source."""
    def walk(body, prefix):
        for node in body:
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                yield node, f"{prefix}.{node.name}"
            elif isinstance(node, ast.ClassDef):
                yield node, f"{prefix}.{node.name}"
                yield from walk(node.body, f"{prefix}.{node.name}")
            elif isinstance(node, (ast.If, ast.Try)):           # definitions that depend on the platform or version
                branches = [node.body, node.orelse, getattr(node, "finalbody", [])]
                branches += [handler.body for handler in getattr(node, "handlers", [])]
                for branch in branches:
                    yield from walk(branch, prefix)
    yield from walk(tree.body, module)


def heading(node, name):
    """`json.dumps(obj, *, skipkeys=False)`; without the arguments where they would be longer than the text below."""
    if isinstance(node, ast.ClassDef):
        return f"class {name}"
    arguments = ast.unparse(node.args)
    return f"{name}({arguments})" if len(arguments) <= 100 else f"{name}(...)"


def comment_blocks(source, tree):
    """Yield (line number, text) of comments that read like prose: three lines or more, mostly letters and spaces."""
    in_string = set()           # lines that begin inside a string, where a # is no comment
    for node in ast.walk(tree):
        if isinstance(node, (ast.Constant, ast.JoinedStr)) and node.end_lineno > node.lineno:
            in_string.update(range(node.lineno + 1, node.end_lineno + 1))
    block, start = [], 0
    for number, line in enumerate(source.split("\n") + [""], 1):
        stripped = line.strip()
        if stripped.startswith("#") and not stripped.startswith("#!") and number not in in_string:
            start = start if block else number
            block.append(stripped.lstrip("#").removeprefix(" ").rstrip())
            continue
        text = "\n".join(block).strip("\n")
        if len(block) >= 3 and sum(c.isalpha() or c in " \n,." for c in text) > 0.92 * len(text):
            yield start, text
        block = []


def cut(pieces, joint):
    """Join neighbouring pieces with the joint into documents of about DOCUMENT_CHARS; no piece is ever cut itself."""
    document, length = [], 0
    for piece in pieces:
        if document and length + len(piece) > DOCUMENT_CHARS:
            yield joint.join(document)
            document, length = [], 0
        document.append(piece)
        length += len(piece)
    if document:
        yield joint.join(document)


def topic_documents(tree):
    """Yield (topic, text) from the one dict literal of pydoc_data/topics.py."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            yield from sorted(ast.literal_eval(node.value).items())


def page_documents(source, tree, module):
    """Yield the module's reference page as documents that each begin with a heading."""
    lines = [(0, f"{module}\n\n{ast.get_docstring(tree)}")] if ast.get_docstring(tree) else []
    for node, name in definitions(tree, module):
        if doc := ast.get_docstring(node):
            lines.append((node.lineno, f"{heading(node, name)}\n\n{doc}"))
    lines += [(number, f"A comment in {module}\n\n{text}") for number, text in comment_blocks(source, tree)]
    yield from cut([text for _, text in sorted(lines)], "\n\n")


def code_documents(source, tree, path):
    """Yield the source between top-level statements; comments stay with the statement that follows them.

    Tables (the character sets of encodings/ and the like) are left out: a statement longer than a document in which
    fewer than six in ten characters are letters or white space.
    """
    lines = source.split("\n")
    ends = sorted({node.end_lineno for node in tree.body})
    pieces = ["\n".join(lines[a:b]) for a, b in zip([0] + ends, ends + [len(lines)])]
    pieces = [p for p in pieces
              if not (len(p) > DOCUMENT_CHARS and sum(c.isalpha() or c.isspace() for c in p) < 0.6 * len(p))]
    for document in cut(pieces, "\n"):
        if document.strip():
            yield f"# {path}\n" + document.strip("\n")


def package_folder(name):
    """The folder of an installed package, found without importing it; ValueError where it is not installed."""
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(f"packages: {name!r} is not an installed package. Install it or leave it out of the corpus")
    return list(spec.submodule_search_locations)[0]


@functools.cache
def load(folder=None, packages=()):
    """Read the whole corpus: {"train": [(kind, text)], "val": [...], "files": n, "skipped": n, "duplicates": n}.

    kind is "topics", "pages" or "code". Exact duplicates are dropped, and from train whatever val holds too. The
    order is that of a hash of each text: shuffled, and the same wherever the same files are installed.
    FileNotFoundError where the folder holds no Python source (some containers ship it stripped).
    """
    folder = folder or stdlib_folder()
    splits, n_files, skipped, total = {"train": {}, "val": {}}, 0, 0, 0

    def add(path, kind, documents):
        nonlocal total
        split = "val" if stable_hash("file " + path) % 100 < VAL_PERCENT else "train"
        for text in documents:
            total += 1
            splits[split].setdefault(text, kind)

    for root, prefix in [(folder, "")] + [(package_folder(name), f"{name}/") for name in packages]:
        for file in source_files(root):
            n_files, path = n_files + 1, prefix + file
            if (parsed := read_source(root, file)) is None:
                skipped += 1
                continue
            source, tree = parsed
            if path == "pydoc_data/topics.py":
                for topic, text in topic_documents(tree):
                    add(f"{path}#{topic}", "topics", [text.strip("\n")])
                continue
            add(path, "pages", page_documents(source, tree, module_name(path)))
            if not prefix:                  # of packages the documentation alone; torch's code would be 45 MB
                add(path, "code", code_documents(source, tree, path))
    for text in splits["val"]:
        splits["train"].pop(text, None)
    if not splits["train"] or not splits["val"]:
        raise FileNotFoundError(f"{folder}: not enough Python source to train on ({n_files} .py files, {skipped} "
                                f"unreadable). Install the full standard library, or give your own text: --data FILE")
    ordered = {split: sorted(((kind, text) for text, kind in found.items()), key=lambda item: stable_hash(item[1]))
               for split, found in splits.items()}
    return {**ordered, "files": n_files, "skipped": skipped,
            "duplicates": total - len(ordered["train"]) - len(ordered["val"])}


def documents(split, prose=1.0, code=1.0, packages=(), folder=None):
    """Yield the texts of split "train" or "val" in a fixed shuffled order.

    prose, code: the share of the documents of each sort to keep, 0 to 1, chosen by a hash of the text, so a smaller
    share is a subset of a larger one. packages: names of installed packages whose pages join the prose.
    """
    if split not in ("train", "val"):
        raise ValueError(f'unknown split {split!r} of the corpus: expected "train" or "val"')
    if not (0 <= prose <= 1 and 0 <= code <= 1):
        raise ValueError(f"the shares prose {prose} and code {code} of the corpus must lie between 0 and 1")
    corpus = load(folder, tuple(packages))
    return (text for kind, text in corpus[split]
            if stable_hash("share " + text) % 10_000 < 10_000 * (code if kind == "code" else prose))


def summary(packages=(), folder=None):
    """Counts for the caller to print: files, skipped, duplicates, and per split and kind {"documents", "chars"}."""
    corpus = load(folder, tuple(packages))
    counts = {key: corpus[key] for key in ("files", "skipped", "duplicates")}
    for split in ("train", "val"):
        n_documents, n_chars = Counter(), Counter()
        for kind, text in corpus[split]:
            n_documents[kind] += 1
            n_chars[kind] += len(text)
        counts[split] = {kind: {"documents": n_documents[kind], "chars": n_chars[kind]} for kind in sorted(n_chars)}
    return counts
