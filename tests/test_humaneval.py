"""data/sandbox.py and data/humaneval.py: programs run to their end or are stopped whole, and nothing gets out."""
import os
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from data.published.humaneval import HumanEval, extract_program
from data.published.sandbox import run_program

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the sandbox needs fork")


@pytest.fixture(params=[True, False], ids=["namespaces", "no namespaces"])
def run(request):
    return lambda code, timeout=5.0: run_program(code, timeout, namespaces=request.param)


def gone(pid, seconds=2.0):
    """Whether a process has ended, or does so within a moment."""
    end = time.time() + seconds
    while time.time() < end:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        stat = Path(f"/proc/{pid}/stat")
        if stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] == "Z":       # ended, not collected yet
            return True
        time.sleep(0.02)
    return False


def test_a_good_program(run):
    outcome = run("import math, typing, collections, hashlib, re\nprint(math.floor(2.5), 'é')")
    assert outcome.ok and outcome.reason == "ok" and outcome.output == "2 é\n"
    assert run("open('x', 'w').write('y'); assert open('x').read() == 'y'").ok
    assert run("if __name__ == '__main__': n = int(input())").ok              # what is not asked for is not run
    assert run("import asyncio, multiprocessing, sqlite3\nsqlite3.connect(':memory:'), sqlite3.connect('x.db')").ok
    assert run("from __future__ import annotations\nimport dataclasses\n@dataclasses.dataclass\nclass P:\n    x: int\n"
               "assert P(1) == P(1)").ok


@pytest.mark.parametrize("code, reason", [
    ("assert 1 == 2, 'no'", "AssertionError: no"), ("def (", "SyntaxError"),
    ("import sys; sys.exit(0)", "ended before its last line"),
    ("exit", "NameError"), ("import os; os._exit(0)", "ended before its last line"),
    ("raise SystemExit", "ended before its last line"),
    ("raise KeyboardInterrupt", "KeyboardInterrupt"), ("input()", "EOFError"), ("def f(): f()\nf()", "RecursionError"),
    ("x = 'a' * (3 << 30)", "MemoryError"), ("x = []\nwhile True: x.append('a' * 10**7)", "MemoryError"),
    ("while True: print('x' * 10**6)", "printed more than 4 MB"), ("a = '\ud800'", "lone surrogates"),
    ("f = open('x', 'wb')\nwhile True: f.write(b'x' * 10**6)", "File too large"),
    ("import os; print(os.environ['HOME'])", "KeyError: 'HOME'"), ("import torch", "No module named 'torch'"),
    ("import signal, os; signal.raise_signal(signal.SIGSEGV)", "ended by signal 11"),
    ("import socket; socket.create_connection(('127.0.0.1', 80))", "the sandbox refuses socket"),
    ("import os; os.kill(os.getppid(), 9)", "the sandbox refuses os.kill"),
    ("import os; os.fork()", "the sandbox refuses os.fork"),
    ("import os; os.system('ls')", "the sandbox refuses os.system"),
    ("import subprocess; subprocess.run(['ls'])", "refuses subprocess"),
    ("import ctypes; ctypes.CDLL(None)", "the sandbox refuses ctypes"),
    ("import urllib.request; urllib.request.urlopen('http://127.0.0.1:9')", "refused"),
])
def test_bad_programs_fail_with_their_reason(code, reason):
    outcome = run_program(code, 5.0)
    assert not outcome.ok and (reason in outcome.reason or reason == "refused" and "refuses" in outcome.reason), outcome


@pytest.mark.parametrize("change", [
    "open({!r}, 'w')", "open({!r}, 'a')", "import os; os.remove({!r})", "import os; os.rename({!r}, 'x')",
    "import os; os.open({!r}, os.O_TRUNC | os.O_WRONLY)", "import pathlib; pathlib.Path({!r}).unlink()",
    "import sqlite3; sqlite3.connect({!r} + '.db').execute('create table t (x)')", "import os; os.mkfifo({!r} + 'f')",
    "import os; os.mknod({!r} + 'n')",
    "import multiprocessing as m; p = m.get_context('spawn').Process(target=open, args=({!r}, 'w'))\n"
    "p.start(), p.join()",
    "import os; os.symlink({!r}, 'l'); open('l', 'w')", "import shutil; shutil.move({!r}, 'x')"])
def test_files_outside_stay_as_they_are(run, tmp_path, change):
    (tmp_path / "keep.txt").write_text("keep")
    assert not run(change.format(str(tmp_path / "keep.txt"))).ok
    assert (tmp_path / "keep.txt").read_text() == "keep" and len(list(tmp_path.iterdir())) == 1


def test_the_time_limit_ends_loops_sleeps_and_processes_that_left_the_group(run):
    started = time.time()
    for code in ["while True: pass", "import time; time.sleep(60)",
                 "import signal, time\nfor s in 2, 15: signal.signal(s, signal.SIG_IGN)\n"
                 "while True: time.sleep(1)",
                 "import os, time; print(os.getpid(), flush=True); os.setsid(); time.sleep(60)"]:
        outcome = run(code, 0.5)
        assert not outcome.ok and outcome.reason == "timed out after 0.5 s"
    assert time.time() - started < 6
    if not outcome.isolated:                                             # with namespaces its number means nothing here
        assert gone(int(outcome.output))


def test_namespaces_hold_what_the_hook_does_not_see(tmp_path):
    if not run_program("pass").isolated:
        pytest.skip("this system grants no namespaces")
    server = socket.create_server(("127.0.0.1", 0))
    # a process started behind the hook's back, a Python without it, leaves the group, writes in and out, and connects
    script = f"""
import os, socket, time
os.setsid()
open("here", "w").write("in")
for act in lambda: open({str(tmp_path / "out")!r}, "w"), lambda: socket.create_connection({server.getsockname()!r}, 1):
    try:
        act()
    except OSError as e:
        print(e, flush=True)
time.sleep(60)
"""
    outcome = run_program(f"""
from multiprocessing.util import spawnv_passfds
import _posixsubprocess, os, subprocess, sys, time
_posixsubprocess.fork_exec = subprocess._fork_exec                             # the refused one, from where it is, too
spawnv_passfds(sys.executable.encode(), [b"python", b"-I", b"-S", b"-c", {script.encode()!r}], [1, 2])
time.sleep(1)
print(os.listdir("."))
""", 8.0)
    if os.getuid() != 0 and "Resource temporarily unavailable" in outcome.reason:
        return                                                           # layer 2 refused the process: better still
    assert outcome.ok and "['here']" in outcome.output                   # it did run
    assert "Read-only file system" in outcome.output and list(tmp_path.iterdir()) == []
    assert "Network is unreachable" in outcome.output or "Connection refused" in outcome.output
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            assert not path.read_bytes().startswith(b"python\0-I\0-S\0-c"), "the process that left its group still runs"
        except (FileNotFoundError, ProcessLookupError):
            pass


def test_many_at_once():
    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(run_program, [f"print({i})\nassert {i} % 2 == 0" for i in range(24)]))
    assert [outcome.ok for outcome in outcomes] == [i % 2 == 0 for i in range(24)]
    assert [outcome.output.split()[0] for outcome in outcomes] == [str(i) for i in range(24)]


# ---- HumanEval ----

ROW = {"task_id": "Made/0", "entry_point": "add_up", "canonical_solution": "    return helper(numbers)\n",
       "prompt": "from typing import List\n\n\ndef helper(x):\n    return sum(x)\n\n\n"
                 "def add_up(numbers: List[int]) -> int:\n"
                 "    \"\"\"The sum.\n    >>> add_up([1, 2])\n    3\n    \"\"\"\n",
       "test": "\n\nMETADATA = {}\n\n\ndef check(candidate):\n    assert candidate([1, 2]) == 3\n"
               "    assert candidate([]) == 0\n"}


def graded(said):
    return HumanEval.grade(HumanEval.to_record(ROW), [{"type": "text", "text": said}])


def test_humaneval_takes_the_forms_in_which_models_answer():
    whole = "def add_up(numbers: List[int]) -> int:\n    return sum(numbers)\n"
    assert HumanEval.grade(HumanEval.to_record(ROW),
                           [{"type": "text", "text": ROW["prompt"] + ROW["canonical_solution"]}])
    assert graded(whole) and graded(f"Here it is:\n```python\n{whole}```\nDone.") and graded(f"```\n{whole}")
    assert graded("    return helper(numbers)") and graded("def add_up(numbers):\n    return helper(numbers)")
    assert not graded("def add_up(numbers):\n    return 3") and not graded("Sorry.") and not graded("")
    assert not graded("import os\nos._exit(0)") and not graded("def add_up(n):\n    raise SystemExit(0)")
    assert extract_program("a\n```py\nx\n```\nb\n```\ny\n```") == "x\n" and extract_program("```\n```") == ""
    for before in "```bash\npip install x\n```\n", "```\n>>> add_up([1])\n1\n```\nis met by ", "Use ```sum```\n":
        assert graded(f"{before}```python3 title=x\n{whole}\n  ``` \nDone.")
    assert graded(f"from __future__ import annotations\n{whole}\n\nif __name__ == '__main__':\n    input()\n")


def test_humaneval_rows(tmp_path):
    import gzip
    import json
    (tmp_path / "humaneval").mkdir()
    with gzip.open(tmp_path / "humaneval/HumanEval.jsonl.gz", "wt") as file:
        file.write(json.dumps(ROW) + "\n")
    record = HumanEval("test", dest=tmp_path)[0]
    assert record["messages"][0]["content"] == ROW["prompt"] and record["entry_point"] == "add_up"
    with pytest.raises(ValueError, match="humaneval has the splits test, not 'train'"):
        HumanEval("train", dest=tmp_path)
