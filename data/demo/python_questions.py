"""
Questions about Python: `What does os.path.join do?`, answered from its docstring.

They ask for the public modules, classes, functions and methods of the standard library. Most
docstrings are read from its source with `ast`. Those of modules written in C (BUILT_IN below) are
read from the running interpreter. The text of the answer decides the split, so that all names of
one function stay together: an alias, an inherited method.
"""
import ast
import functools
import importlib
import inspect
import re

from data.demo.python_corpus import (
    definitions,
    module_name,
    read_source,
    source_files,
    stdlib_folder,
)
from data.demo.records import preference, record, run_on
from data.demo.splits import check_split, generator, split_of, stable_hash
from data.lazy import Lazy

# Modules written in C have no source to parse. Importing these few only defines functions.
BUILT_IN = [
    "builtins", "math", "cmath", "itertools", "time", "sys", "gc", "array", "binascii", "zlib",
    "select", "atexit", "marshal", "faulthandler", "unicodedata",
]
# Programs and internals, which nobody imports.
NOT_FOR_USE = {"idlelib", "lib2to3", "turtledemo", "distutils", "encodings", "pydoc_data"}
# A longer answer ends after its last whole sentence, or is left out.
MAX_WORDS = 40
# {s} stands for the symbol.
ASK = [
    "What does {s} do?", "What does {s} do", "what does {s} do?", "What does Python's {s} do?",
    "What does {s} do in Python?", "What is {s}?", "What is {s} in Python?", "What's {s}?",
    "what is {s}", "What is {s} for?", "What is {s} used for?", "What is the purpose of {s}?",
    "What is the use of {s}?", "Explain {s}.", "Explain {s}", "Explain {s} to me.",
    "Can you explain {s}?", "Please explain what {s} does.", "Describe {s}.",
    "Describe what {s} does.", "Tell me about {s}.", "Tell me what {s} does.",
    "Can you tell me what {s} does?", "Do you know what {s} does?", "I want to know what {s} does.",
    "How would you describe {s}?", "How do you explain {s}?", "Why would I use {s}?",
    "When do I use {s}?", "In Python, what does {s} do?", "In one sentence: what does {s} do?",
    "Give me a short description of {s}.", "Summarize {s} for me.", "What can I do with {s}?",
    "Help me understand {s}.", "Quick question: what does {s} do?",
    "I saw {s} in some code. What does it do?", "What does the documentation say about {s}?",
    "{s}?", "Meaning of {s}?",
]
EVASIVE = [
    "It does something useful.", "You can read about it in the documentation.",
    "That depends on the situation.", "It is a part of Python.", "I would have to look that up.",
    "Many people use it.", "It is hard to explain.", "There are many functions in Python.",
    "It does what its name says.", "Try it and see.",
]


# "dump(obj, fp) -> None", a line of its own.
SIGNATURE = re.compile(r"[\w.]+ ?\(.*\)( *-+> *(.*))?$")
# What is left of code, tables and other markup makes no sentence.
MARKUP = re.compile(r">>>|\.\. |::|[|{}<>=_]{3}|[-*+]{2,} |\\|[@:]param|\bdef |\bclass \w+\(")


def first_sentences(doc):
    """The opening of a docstring as plain text, or None if it has no usable sentence.

    It has at most MAX_WORDS words, all of the first paragraph. Signatures (`dump(obj) -> None`),
    reST markup and line breaks are dropped.
    """
    lines = without_signatures(inspect.cleandoc(doc or "").split("\n"))
    paragraph = re.split(r"\n\s*\n", "\n".join(lines))[0]
    text = without_markup(" ".join(paragraph.split()))
    if not text.isascii() or MARKUP.search(text):
        return None

    kept = ""
    for sentence in re.split(r"(?<=[^.][.!?]) +(?=[A-Z])", text):
        longer = f"{kept} {sentence}".strip()
        # A second sentence is welcome only after a short one.
        most = MAX_WORDS // 2 if kept else MAX_WORDS
        if len(longer.split()) > most:
            break
        kept = longer

    kept = kept.rstrip(" :;,")
    if len(kept.split()) < 3 or not kept[0].isalpha():
        return None
    if sum(c.isalpha() or c == " " for c in kept) < 0.85 * len(kept):
        return None
    if kept[-1] not in ".!?":
        kept += "."
    return kept[0].upper() + kept[1:]


def without_signatures(lines):
    """The lines of a docstring after the signatures that it begins with."""
    while lines and (signature := SIGNATURE.match(lines[0])):
        lines = lines[1:]
        # After the arrow stands a sentence, as in "repeat(object) -> create an iterator which",
        # or a type and then a sentence, as in "D.update(E) -> None.  Update D".
        sentence = re.sub(r"^[\w ]{1,20}\. +(?=[A-Z])", "", signature[2] or "")
        if len(sentence.split()) > 3:
            lines = [sentence] + lines
        while lines and not lines[0].strip():
            lines = lines[1:]
    return lines


def without_markup(text):
    """A paragraph in one line, without markup."""
    # A signature in the same line: "S.find(sub) -> int -- Finds".
    text = re.sub(r"^[\w.]+\([^()]*\) *(->|--?|:) *(\w+ *(--?|:) )?", "", text)
    # Roles of reST: :func:`~os.walk` -> os.walk.
    text = re.sub(r":[a-z]+:`~?([^`<]+)[^`]*`", r"\1", text)
    # Code, bold and italic type.
    text = re.sub(r"`+([^`]*)`+|\*\*([^*]+)\*\*|\*(\w+)\*", r"\1\2\3", text)
    # `Old' and ``TeX'' quotes.
    return re.sub(r"`+([^`']*)'+", r"'\1'", text)


def exports(trees):
    """What packages import from their submodules: {"asyncio.runners.run": "asyncio.run", ...}.

    trees: {module name: syntax tree}. A star import takes the names in the submodule's __all__.
    """
    public = {}
    for package, tree in trees.items():
        for node in tree.body:
            if not isinstance(node, ast.ImportFrom) or node.level != 1:
                continue
            submodule = f"{package}.{node.module}"
            if submodule not in trees:
                continue
            names = [alias.name for alias in node.names if alias.asname is None]
            if names == ["*"]:
                names = names_in_all(trees[submodule])
            for name in names:
                public[f"{submodule}.{name}"] = f"{package}.{name}"
    return public


def names_in_all(tree):
    """The names in the list that a module assigns to __all__."""
    names = []
    for statement in tree.body:
        if not isinstance(statement, ast.Assign):
            continue
        if any(isinstance(t, ast.Name) and t.id == "__all__" for t in statement.targets):
            names += [node.value for node in ast.walk(statement.value)
                      if isinstance(node, ast.Constant)]
    return names


def is_public(name):
    """Whether no part of a dotted name begins with an underscore or is in NOT_FOR_USE."""
    return not any(part.startswith("_") or part in NOT_FOR_USE for part in name.split("."))


def parsed_docstrings():
    """Yield (name, docstring) of what the source files of the standard library define."""
    folder = stdlib_folder()
    trees = {}
    for path in source_files(folder):
        if path != "ntpath.py" and is_public(module_name(path)):
            parsed = read_source(folder, path)
            if parsed:
                trees[module_name(path)] = parsed[1]

    public = exports(trees)
    for module, tree in trees.items():
        yield module, ast.get_docstring(tree)
        for node, name in definitions(tree, module):
            # A method goes by the name of its class: asyncio.queues.Queue.get is asyncio.Queue.get.
            first, *rest = name[len(module) + 1:].split(".")
            shown = public.get(f"{module}.{first}", f"{module}.{first}")
            yield ".".join([shown] + rest), ast.get_docstring(node)


def built_in_docstrings():
    """Yield (name, docstring) of what the modules in BUILT_IN define."""
    for module in BUILT_IN:
        try:
            contents = vars(importlib.import_module(module))
        except ImportError:
            # Some builds of Python are without zlib.
            continue
        for name, value in contents.items():
            # The program that runs this may have set hooks of its own in sys.
            if getattr(value, "__module__", None) != module or name.endswith("hook"):
                continue
            yield f"{module}.{name}", value.__doc__
            if not isinstance(value, type) or issubclass(value, BaseException):
                continue
            for method in filter(is_public, vars(value)):
                function = getattr(value, method)
                if callable(function):
                    yield f"{module}.{name}.{method}", function.__doc__


@functools.cache
def symbols():
    """All that has a usable docstring: {answer: [names]}, the answers in a fixed shuffled order."""
    found = {}
    for name, doc in [*parsed_docstrings(), *built_in_docstrings()]:
        answer = first_sentences(doc) if is_public(name) else None
        if answer:
            found.setdefault(answer, set()).add(name.removeprefix("builtins."))
    # An answer that dozens of methods share, like "Return a string.", is not worth a question.
    return {answer: sorted(found[answer]) for answer in sorted(found, key=stable_hash)
            if len(found[answer]) <= 4}


class PythonQuestions(Lazy):
    """A question for each answer; later rounds ask in other words, or for an alias.

    size: any number of conversations; None stands for one per answer.
    """

    def __init__(self, split, size=None):
        check_split(split)
        self.split = split
        self.items = [(answer, names) for answer, names in symbols().items()
                      if split_of(answer) == split]
        self.size = len(self.items) if size is None else size

    def __len__(self):
        return self.size

    def get(self, i):
        answer, names = self.items[i % len(self.items)]
        rng = generator("PythonQuestions", self.split, i)
        name = rng.choice(names)
        question = rng.choice(ASK).format(s=rng.choice([name, name, name, f"`{name}`"]))
        return record(question, answer, symbol=name)

    def pair(self, i):
        """Preference pair i: {"chosen": conversation, "rejected": conversation, "kind": str}.

        The rejected answer is evasive, describes another function, or never stops.
        """
        chosen = self[i]
        right = chosen["messages"][1]["content"]
        rng = generator("PythonQuestions pair", self.split, i)
        kind = rng.choice(["evasive", "another function", "another function", "run-on"])
        if kind == "evasive":
            answer = rng.choice(EVASIVE)
        elif kind == "another function":
            answer = right
            while answer == right:
                answer = rng.choice(self.items)[0]
        else:
            answer = run_on(right)
        return preference(chosen, answer, kind)
