"""
The embedded corpus: the documentation and source code of this machine's Python standard library.

Nothing is downloaded, and no module is imported or run: all files are parsed with `ast`. There are
three kinds of documents.
- topics: the language reference that `help("topics")` shows (pydoc_data/topics.py), one document
          a topic.
- pages:  a reference page for each module: its docstrings under headings like
          `module.Class.method(arguments)` and its longer comments, cut into documents.
- code:   the source itself, cut between top-level statements.
Topics and pages are prose. Installed packages can add their pages: numpy has 1.8 MB, torch 8.7 MB.
Files are held out whole, by a hash of their path. Each topic counts as a file of its own, since
topics.py alone holds a sixth of the prose.
"""
import ast
import functools
import importlib.util
import os
import sysconfig
import warnings

from data.demo.splits import stable_hash

# Test suites are 17 of the 31 MB of CPython 3.11, and asserts and tables of inputs teach little.
# What pip has installed is left out so that the corpus follows from the Python version alone.
SKIPPED_FOLDERS = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__",
                   "__phello__"}
# Build settings are full of local paths.
SKIPPED_PREFIXES = ("_sysconfigdata", "config-")
# Percent of the files that are held out for validation.
VAL_PERCENT = 2
# Pages and code are cut into documents of about this many characters, some two rows of 512 tokens.
DOCUMENT_CHARS = 3000
# The names by which people import these modules.
PUBLIC_NAMES = {"posixpath": "os.path", "_collections_abc": "collections.abc",
                "_pydecimal": "decimal", "_pyio": "io", "_pydatetime": "datetime",
                "_strptime": "time", "pathlib._local": "pathlib", "pathlib._abc": "pathlib"}


def stdlib_folder():
    """The folder of the standard library's .py files, from inside a virtual environment too."""
    return sysconfig.get_paths()["stdlib"]


def source_files(folder):
    """The .py files of the corpus: sorted paths relative to the folder, with forward slashes."""
    found = []
    for parent, folders, files in os.walk(folder):
        # os.walk() goes into the folders that stay in this list.
        folders[:] = sorted(f for f in folders
                            if f not in SKIPPED_FOLDERS and not f.startswith(SKIPPED_PREFIXES))
        for file in files:
            if file.endswith(".py") and not file.startswith(SKIPPED_PREFIXES):
                path = os.path.relpath(os.path.join(parent, file), folder)
                found.append(path.replace(os.sep, "/"))
    return sorted(found)


def read_source(folder, path):
    """(source, syntax tree) of one file, or None if it cannot be read, decoded or parsed."""
    try:
        with open(os.path.join(folder, path), encoding="utf-8", newline=None) as f:
            source = f.read()
        # Newer Pythons warn of odd escapes in older files, which is of no interest here.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            return source, ast.parse(source)
    except (OSError, ValueError, SyntaxError):
        # UnicodeDecodeError is among these: it is a ValueError.
        return None


def module_name(path):
    """json/decoder.py -> json.decoder, json/__init__.py -> json, posixpath.py -> os.path."""
    name = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    return PUBLIC_NAMES.get(name, name)


def definitions(tree, module):
    """Yield (node, qualified name) of the functions, classes and methods, in the source's order."""
    def walk(body, prefix):
        for node in body:
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                yield node, f"{prefix}.{node.name}"
            elif isinstance(node, ast.ClassDef):
                yield node, f"{prefix}.{node.name}"
                yield from walk(node.body, f"{prefix}.{node.name}")
            elif isinstance(node, (ast.If, ast.Try)):
                # These hold definitions that depend on the platform or the version.
                branches = [node.body, node.orelse, getattr(node, "finalbody", [])]
                branches += [handler.body for handler in getattr(node, "handlers", [])]
                for branch in branches:
                    yield from walk(branch, prefix)
    yield from walk(tree.body, module)


def heading(node, name):
    """The heading of a docstring: `json.dumps(obj, *)`; long arguments become `...`."""
    if isinstance(node, ast.ClassDef):
        return f"class {name}"
    arguments = ast.unparse(node.args)
    return f"{name}({arguments})" if len(arguments) <= 100 else f"{name}(...)"


def comment_blocks(source, tree):
    """Yield (line number, text) of the comments that read like prose.

    They have three lines or more, and nearly all of their characters are letters and spaces.
    """
    # Lines that begin inside a string: a # there is no comment.
    in_string = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Constant, ast.JoinedStr)) and node.end_lineno > node.lineno:
            in_string.update(range(node.lineno + 1, node.end_lineno + 1))

    block = []
    start = 0
    # The empty line at the end closes the last block.
    for number, line in enumerate(source.split("\n") + [""], 1):
        stripped = line.strip()
        if stripped.startswith("#") and not stripped.startswith("#!") and number not in in_string:
            if not block:
                start = number
            block.append(stripped.lstrip("#").removeprefix(" ").rstrip())
            continue
        text = "\n".join(block).strip("\n")
        if len(block) >= 3 and sum(c.isalpha() or c in " \n,." for c in text) > 0.92 * len(text):
            yield start, text
        block = []


def cut(pieces, joint):
    """Join neighbouring pieces into documents of about DOCUMENT_CHARS; no piece itself is cut."""
    document = []
    length = 0
    for piece in pieces:
        if document and length + len(piece) > DOCUMENT_CHARS:
            yield joint.join(document)
            document = []
            length = 0
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
    """Yield the module's reference page as documents, each of which begins with a heading."""
    # (line number, text)
    pieces = []
    if doc := ast.get_docstring(tree):
        pieces.append((0, f"{module}\n\n{doc}"))
    for node, name in definitions(tree, module):
        if doc := ast.get_docstring(node):
            pieces.append((node.lineno, f"{heading(node, name)}\n\n{doc}"))
    for number, text in comment_blocks(source, tree):
        pieces.append((number, f"A comment in {module}\n\n{text}"))
    yield from cut([text for _, text in sorted(pieces)], "\n\n")


def code_documents(source, tree, path):
    """Yield the source as documents that are cut between top-level statements.

    A comment stays with the statement that follows it.
    """
    lines = source.split("\n")
    ends = sorted({node.end_lineno for node in tree.body})
    pieces = ["\n".join(lines[a:b]) for a, b in zip([0] + ends, ends + [len(lines)])]
    for document in cut([piece for piece in pieces if not is_table(piece)], "\n"):
        if document.strip():
            yield f"# {path}\n" + document.strip("\n")


def is_table(piece):
    """Whether a piece of code is a long table, like the character sets of encodings/.

    In a table fewer than six characters in ten are letters or white space.
    """
    n_readable = sum(c.isalpha() or c.isspace() for c in piece)
    return len(piece) > DOCUMENT_CHARS and n_readable < 0.6 * len(piece)


def file_documents(source, tree, path, with_code):
    """Yield (key, kind, text) for the documents of one file.

    Documents with the same key are held out together.
    """
    if path == "pydoc_data/topics.py":
        for topic, text in topic_documents(tree):
            yield f"{path}#{topic}", "topics", text.strip("\n")
        return
    for text in page_documents(source, tree, module_name(path)):
        yield path, "pages", text
    if with_code:
        for text in code_documents(source, tree, path):
            yield path, "code", text


def package_folder(name):
    """The folder of a package, found without importing it; ValueError if it is not installed."""
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(f"packages: {name!r} is not an installed package. "
                         f"Install it or leave it out of the corpus")
    return next(iter(spec.submodule_search_locations))


@functools.cache
def load(folder=None, packages=()):
    """Read the whole corpus.

    Returns {"train": [(kind, text), ...], "val": [...], "files": n, "skipped": n, "duplicates": n},
    where the kind is "topics", "pages" or "code". Of equal documents one is kept, and train holds
    no document of val. A hash of the text orders the documents: they are shuffled, and in the same
    way wherever the same files are installed.
    Raises FileNotFoundError if the folder has no Python source: some containers ship without it.
    """
    folder = folder or stdlib_folder()
    # Packages add their documentation alone: the code of torch would be 45 MB.
    roots = [(folder, "", True)]
    roots += [(package_folder(name), f"{name}/", False) for name in packages]

    # {text: kind}
    found = {"train": {}, "val": {}}
    n_files, n_skipped, n_documents = 0, 0, 0
    for root, prefix, with_code in roots:
        for file in source_files(root):
            n_files += 1
            parsed = read_source(root, file)
            if parsed is None:
                n_skipped += 1
                continue
            for key, kind, text in file_documents(*parsed, prefix + file, with_code):
                n_documents += 1
                held_out = stable_hash("file " + key) % 100 < VAL_PERCENT
                found["val" if held_out else "train"].setdefault(text, kind)
    for text in found["val"]:
        found["train"].pop(text, None)

    if not found["train"] or not found["val"]:
        raise FileNotFoundError(
            f"{folder}: not enough Python source to train on ({n_files} .py files, {n_skipped} "
            f"unreadable). Install the full standard library, or give your own text: --data FILE")
    corpus = {split: [(kinds[text], text) for text in sorted(kinds, key=stable_hash)]
              for split, kinds in found.items()}
    n_duplicates = n_documents - len(found["train"]) - len(found["val"])
    return {**corpus, "files": n_files, "skipped": n_skipped, "duplicates": n_duplicates}


def documents(split, prose=1.0, code=1.0, packages=(), folder=None):
    """The texts of split "train" or "val", an iterator in a fixed shuffled order.

    prose, code: the share of each to keep, from 0 to 1. A hash of the text chooses, so that a
    smaller share is a subset of a larger one.
    packages: names of installed packages whose pages join the prose.
    """
    if split not in ("train", "val"):
        raise ValueError(f'unknown split {split!r} of the corpus: expected "train" or "val"')
    if not (0 <= prose <= 1 and 0 <= code <= 1):
        raise ValueError(f"the shares prose {prose} and code {code} of the corpus must lie "
                         f"between 0 and 1")
    share = {"topics": prose, "pages": prose, "code": code}
    corpus = load(folder, tuple(packages))
    return (text for kind, text in corpus[split]
            if stable_hash("share " + text) % 10_000 < 10_000 * share[kind])


def summary(packages=(), folder=None):
    """Counts for a caller to print.

    Returns {"files": n, "skipped": n, "duplicates": n} and for each split
    {kind: {"documents": n, "chars": n}}.
    """
    corpus = load(folder, tuple(packages))
    counts = {key: corpus[key] for key in ("files", "skipped", "duplicates")}
    for split in ("train", "val"):
        kinds = {kind for kind, _ in corpus[split]}
        counts[split] = {kind: {"documents": 0, "chars": 0} for kind in sorted(kinds)}
        for kind, text in corpus[split]:
            counts[split][kind]["documents"] += 1
            counts[split][kind]["chars"] += len(text)
    return counts
