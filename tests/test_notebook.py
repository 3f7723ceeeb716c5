"""dev/tok2chat.ipynb, and how run.sh makes .venv: on Colab, Python cannot install pip into one."""
import json
import os
import re
import shlex
import subprocess

import pytest

import chat
from machine import parse_config
from toy import ROOT

NOTEBOOK = json.loads((ROOT / "dev/tok2chat.ipynb").read_text())
# What `python3` does on a machine that lacks some of it: `venv` fails half-way without ensurepip.
PYTHON3 = """#!/usr/bin/env bash
echo "python3 $*" >> "$LOG"
case "$*" in
    "-m venv .venv")
        mkdir -p .venv/bin; cp "$STAND_IN" .venv/bin/python
        case "$LACKS" in *ensurepip*) echo "ensurepip is not available"; exit 1 ;; esac
        touch .venv/pip ;;
    "-m venv --without-pip .venv")
        case "$LACKS" in *venv*) echo "No module named venv" >&2; exit 1 ;; esac
        mkdir -p .venv/bin; cp "$STAND_IN" .venv/bin/python ;;
    "-m pip --python .venv/bin/python install -q pip")
        case "$LACKS" in *" pip"*) echo "No module named pip" >&2; exit 1 ;; esac
        touch .venv/pip ;;
    -c*) ;;
    *) exit 9 ;;
esac
"""
# The python of .venv. It has a pip or not, and leaves files in out/ as the scripts would.
PYTHON = """#!/usr/bin/env bash
case "$*" in "-c import pip") [ -e .venv/pip ]; exit ;; esac
echo "python $*" >> "$LOG"
case "$*" in
    "-m pip "*) [ -e .venv/pip ] ;;
    "chat.py "*) ;;
    tokenizer.py) mkdir -p out/tokenizer; touch out/tokenizer/tokenizer.json ;;
    "evaluate.py --report") echo $RANDOM > out/report.json ;;
    "budget.py "*) mkdir -p out; touch out/plan.txt ;;
    "report.py "*) echo "the report" > out/report.md ;;
    *.py) mkdir -p "out/${1%.py}"; echo $RANDOM > "out/${1%.py}/meta.json" ;;
    *) exit 9 ;;
esac
"""
GIT = f"""#!/usr/bin/env bash
[ "$1 $2" = "clone https://host/x/tok2chat.git" ] && mkdir "$3" || exit 1
cp {ROOT}/run.sh {ROOT}/pyproject.toml "$3"
"""


@pytest.fixture
def machine(tmp_path):
    """machine(lacks) runs the cells' shell commands -> exit statuses, what was started, stderr."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in ("python3", PYTHON3), ("git", GIT), ("stand-in", PYTHON):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    log = tmp_path / "log"

    def run(lacks=""):
        log.write_text("")
        folder = tmp_path
        statuses = []
        errors = ""
        env = dict(os.environ, PATH=f"{programs}:{os.environ['PATH']}", LOG=str(log), LACKS=lacks,
                   STAND_IN=str(programs / "stand-in"))
        for line in shell_lines():
            if line.startswith("%cd "):
                folder = folder / line.removeprefix("%cd ")
                continue
            command = line.removeprefix("!").replace("<this repository>",
                                                     "https://host/x/tok2chat.git")
            result = subprocess.run(command, shell=True, cwd=folder, env=env, capture_output=True,
                                    text=True)
            statuses.append(result.returncode)
            errors += result.stderr
        return statuses, log.read_text().splitlines(), errors

    run.folder = tmp_path / "tok2chat"
    return run


def shell_lines():
    """The lines of the code cells that are no comments."""
    lines = []
    for cell in NOTEBOOK["cells"]:
        if cell["cell_type"] == "code":
            lines += [line for line in "".join(cell["source"]).split("\n")
                      if not line.startswith("#")]
    return lines


def test_it_is_a_notebook_of_four_cells_without_outputs():
    assert (NOTEBOOK["nbformat"], NOTEBOOK["nbformat_minor"]) == (4, 5)
    assert NOTEBOOK["metadata"]["kernelspec"]["name"] == "python3"
    cells = NOTEBOOK["cells"]
    assert [cell["cell_type"] for cell in cells] == ["markdown"] + 3 * ["code"]
    assert len({cell["id"] for cell in cells}) == 4
    for cell in cells:
        keys = {"cell_type", "id", "metadata", "source"}
        if cell["cell_type"] == "code":
            keys |= {"outputs", "execution_count"}
            assert cell["outputs"] == [] and cell["execution_count"] is None
        assert cell.keys() == keys and re.fullmatch("[a-z]{1,64}", cell["id"])
        assert all(line.endswith("\n") for line in cell["source"][:-1])
        assert not cell["source"][-1].endswith("\n")


def test_its_commands_are_those_of_the_readme():
    readme = (ROOT / "README.md").read_text()
    commands = [line.removeprefix("!") for line in shell_lines()]
    for command in "git clone <this repository>", "bash run.sh", ".venv/bin/python chat.py":
        assert f"\n{command}" in readme
        assert any(line.startswith(command) for line in commands)
    # Every line is for the shell, or changes the folder.
    assert all(line.startswith(("!", "%cd ")) for line in shell_lines())


@pytest.mark.parametrize("lacks", ["", "ensurepip"])
def test_the_cells_clone_run_and_talk(machine, lacks):
    statuses, log, errors = machine(lacks)
    assert set(statuses) == {0} and errors == ""
    pip = "python -m pip install -q --disable-pip-version-check -e .[report]"
    assert log.count(pip) == 1
    before, after = log[:log.index(pip)], log[log.index(pip) + 1:]
    assert ("python3 -m pip --python .venv/bin/python install -q pip" in before) == bool(lacks)
    asked = [line for line in after if "chat.py" in line]
    stages = [line.split()[1] for line in after[:-len(asked)]
              if not re.search("report.py|budget.py", line)]
    assert stages == [f"{name}.py" for name in ("tokenizer", "pretrain", "midtrain", "sft", "dpo",
                                                "distill", "evaluate")]
    assert after[-len(asked):] == asked and len(asked) == 3
    for line in shell_lines():
        if "chat.py" in line:
            words = shlex.split(line.removeprefix("!"))
            prompt, argv = chat.take_prompt(words[words.index("chat.py") + 1:])
            assert prompt and parse_config(chat.Config, chat.__doc__, argv)
    # A second time nothing is installed, and no stage runs again.
    statuses, log, errors = machine(lacks)
    # The clone is there already.
    assert statuses[0] == 1 and set(statuses[1:]) == {0}
    assert [line for line in log if "budget.py" not in line] == asked


@pytest.mark.parametrize("lacks", ["ensurepip pip", "ensurepip venv", "ensurepip venv pip"])
def test_where_no_venv_can_be_made_it_says_so_and_goes_on_once_it_can(machine, lacks):
    statuses, log, errors = machine(lacks)
    assert statuses[:2] == [0, 2] and not any("-m pip install" in line for line in log)
    assert "error: python3 -m venv failed; on Debian and Ubuntu: apt install python3-venv" in errors
    # What the attempt left is no hindrance.
    assert (machine.folder / ".venv/bin/python").exists()
    statuses, log, errors = machine("")
    assert set(statuses[1:]) == {0} and any("chat.py" in line for line in log)
