"""The shape of the project: scripts on top, three rooms below, and imports that point downward."""
import ast
import subprocess
import sys

import pytest

from toy import ROOT

ROOMS = ["train", "talk", "data"]
SCRIPTS = ["tokenizer", "pretrain", "midtrain", "sft", "dpo", "distill", "rl", "evaluate",
           "report", "export", "chat", "budget"]
TOP = {".ci", ".gitignore", "LICENSE", "README.md", "common.py", "ctrl_c.py", "data", "dev",
       "machine.py", "pyproject.toml", "run.sh", "talk", "tests", "train",
       *(f"{name}.py" for name in SCRIPTS)}


def find_modules():
    """{"common": path, "train.rows": path, ...}"""
    paths = [*ROOT.glob("*.py")]
    for room in ROOMS:
        paths += ROOT.glob(f"{room}/**/*.py")
    return {".".join(path.relative_to(ROOT).with_suffix("").parts): path
            for path in paths if "downloads" not in path.parts}


MODULES = find_modules()


def imports(path):
    """The project's own modules that a file imports, at its top or in a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found & set(MODULES)


def room_of(module):
    return module.split(".")[0]


@pytest.mark.parametrize("module", MODULES)
def test_arrows_point_downward_only(module):
    """scripts -> train, talk, data -> common -> machine; the rooms never import each other.

    ctrl_c lies at the bottom: whatever is run as a script imports it first."""
    allowed = {"ctrl_c": set(), "machine": set(), "common": {"machine"}}
    for room in ROOMS:
        allowed[room] = {room, "common", "machine", "ctrl_c"}
    for imported in imports(MODULES[module]):
        if room_of(module) in allowed:
            assert room_of(imported) in allowed[room_of(module)], f"{module} imports {imported}"


def test_no_import_goes_in_a_circle():
    arrows = {module: imports(path) - {module} for module, path in MODULES.items()}
    while arrows:
        leaves = [module for module, targets in arrows.items() if not targets & set(arrows)]
        assert leaves, f"a circle among {', '.join(arrows)}"
        for module in leaves:
            del arrows[module]


def loaded_by(module):
    """The modules in memory after `import module` in a fresh process."""
    code = f"import sys, {module}; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True,
                            check=True)
    return set(result.stdout.split())


def test_pretraining_loads_neither_generation_nor_conversations():
    loaded = loaded_by("pretrain")
    assert "talk" not in map(room_of, loaded)
    assert not {"data.mixtures", "data.formats",
                "data.demo.identity", "data.demo.spelling"} & loaded


def test_the_bpe_trainer_starts_its_processes_without_torch():
    assert not {"torch", "common"} & loaded_by("train.bpe")
    assert not {"torch", "common"} & loaded_by("tokenizer")


def test_the_top_level_holds_the_scripts_and_nothing_else():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    assert {line.split("/")[0] for line in listed.stdout.splitlines()} == TOP
