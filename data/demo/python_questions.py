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
from data.demo.spelling import record
from data.demo.splits import check_split, generator, item_index, split_of, stable_hash

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


def first_sentences(doc):
    """The opening of a docstring as plain text, or None if it has no usable sentence.

    It has at most MAX_WORDS words, all of the first paragraph. Signatures (`dump(obj) -> None`),
    reST markup and line breaks are dropped.
    """
    lines = inspect.cleandoc(doc or "").split("\n")
    while lines and (signature := re.match(r"[\w.]+ ?\(.*\)( *-+> *(.*))?$", lines[0])):
        # After the arrow stands a sentence, as in "repeat(object) -> create an iterator which",
        # or a type and then a sentence, as in "D.update(E) -> None.  Update D".
        result = re.sub(r"^[\w ]{1,20}\. +(?=[A-Z])", "", signature[2] or "")
        lines[:1] = [result] if len(result.split()) > 3 else []
        while lines and not lines[0].strip():
            lines.pop(0)
    text = " ".join(re.split(r"\n\s*\n", "\n".join(lines))[0].split())
    # A signature in the same line: "S.find(sub) -> int -- Finds".
    text = re.sub(r"^[\w.]+\([^()]*\) *(->|--?|:) *(\w+ *(--?|:) )?", "", text)
    # Roles of reST: :func:`~os.walk` -> os.walk.
    text = re.sub(r":[a-z]+:`~?([^`<]+)[^`]*`", r"\1", text)
    # Code, bold and italic type.
    text = re.sub(r"`+([^`]*)`+|\*\*([^*]+)\*\*|\*(\w+)\*",
                  lambda m: m[1] or m[2] or m[3] or "", text)
    # `Old' and ``TeX'' quotes.
    text = re.sub(r"`+([^`']*)'+", r"'\1'", text)
    # What is left of code, tables and other markup makes no sentence.
    if not text.isascii() or re.search(
            r">>>|\.\. |::|[|{}<>=_]{3}|[-*+]{2,} |\\|[@:]param|\bdef |\bclass \w+\(", text):
        return None
    sentences, kept = re.split(r"(?<=[^.][.!?]) +(?=[A-Z])", text), ""
    for sentence in sentences:
        longer = f"{kept} {sentence}".strip()
        # A second sentence is welcome only after a short one.
        if len(longer.split()) > MAX_WORDS or (kept and len(longer.split()) > MAX_WORDS // 2):
            break
        kept = longer
    kept = kept.rstrip(" :;,")
    if (len(kept.split()) < 3 or not kept[:1].isalpha()
            or sum(c.isalpha() or c == " " for c in kept) < 0.85 * len(kept)):
        return None
    return kept[0].upper() + kept[1:] + ("" if kept[-1] in ".!?" else ".")


def exports(trees):
    """What packages import from their submodules: {"asyncio.runners.run": "asyncio.run", ...}.

    trees: {module name: syntax tree}. A star import takes the names in the submodule's __all__.
    """
    public = {}
    for package, tree in trees.items():
        for node in tree.body:
            if (isinstance(node, ast.ImportFrom) and node.level == 1
                    and f"{package}.{node.module}" in trees):
                submodule = f"{package}.{node.module}"
                names = [alias.name for alias in node.names if alias.asname is None]
                if names == ["*"]:
                    names = [constant.value for statement in trees[submodule].body
                             if isinstance(statement, ast.Assign)
                             and any(isinstance(t, ast.Name) and t.id == "__all__"
                                     for t in statement.targets)
                             for constant in ast.walk(statement.value)
                             if isinstance(constant, ast.Constant)]
                public.update({f"{submodule}.{name}": f"{package}.{name}" for name in names})
    return public


def is_public(name):
    """Whether no part of a dotted name begins with an underscore or is in NOT_FOR_USE."""
    return not any(part.startswith("_") or part in NOT_FOR_USE for part in name.split("."))


@functools.cache
def symbols():
    """All that has a usable docstring: {answer: [names]}, the answers in a fixed shuffled order."""
    found = {}

    def add(name, doc):
        if is_public(name) and (answer := first_sentences(doc)):
            found.setdefault(answer, []).append(name.removeprefix("builtins."))

    folder, trees = stdlib_folder(), {}
    for path in source_files(folder):
        if (path != "ntpath.py" and is_public(module_name(path))
                and (parsed := read_source(folder, path))):
            trees[module_name(path)] = parsed[1]
    public = exports(trees)
    for module, tree in trees.items():
        add(module, ast.get_docstring(tree))
        for node, name in definitions(tree, module):
            # A method goes by the name of its class: asyncio.queues.Queue.get is asyncio.Queue.get.
            parts = name[len(module) + 1:].split(".")
            shown = public.get(f"{module}.{parts[0]}", f"{module}.{parts[0]}")
            add(".".join([shown] + parts[1:]), ast.get_docstring(node))
    for module in BUILT_IN:
        try:
            contents = vars(importlib.import_module(module))
        except ImportError:
            # Some builds of Python are without zlib.
            continue
        for name, value in contents.items():
            # The program that runs this may have set hooks of its own in sys.
            if getattr(value, "__module__", None) == module and not name.endswith("hook"):
                add(f"{module}.{name}", value.__doc__)
                if isinstance(value, type) and not issubclass(value, BaseException):
                    for method in vars(value):
                        if is_public(method) and callable(function := getattr(value, method)):
                            add(f"{module}.{name}.{method}", function.__doc__)
    # An answer that dozens of methods share, like "Return a string.", is not worth a question.
    return {answer: sorted(set(names))
            for answer, names in sorted(found.items(), key=lambda item: stable_hash(item[0]))
            if len(set(names)) <= 4}


class PythonQuestions:
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

    def __getitem__(self, i):
        i = item_index(i, self.size)
        answer, names = self.items[i % len(self.items)]
        draw = generator("PythonQuestions", self.split, i)
        name = draw.choice(names)
        question = draw.choice(ASK).format(s=draw.choice([name, name, name, f"`{name}`"]))
        return record(question, answer, symbol=name)

    def pair(self, i):
        """Preference pair i: {"chosen": conversation, "rejected": conversation, "kind": str}.

        The rejected answer is evasive, describes another function, or never stops.
        """
        chosen, draw = self[i], generator("PythonQuestions pair", self.split, i)
        right = chosen["messages"][1]["content"]
        kind = draw.choice(["evasive", "another function", "another function", "run-on"])
        if kind == "evasive":
            answer = draw.choice(EVASIVE)
        elif kind == "another function":
            answer = right
            while answer == right:
                answer = draw.choice(self.items)[0]
        else:
            answer = " ".join([right] * max(4, 300 // len(right)))
        rejected = record(chosen["messages"][0]["content"], answer, symbol=chosen["symbol"])
        return {"chosen": chosen, "rejected": rejected, "kind": kind}
