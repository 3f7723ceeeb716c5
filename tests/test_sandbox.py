"""data/published/sandbox.py: programs run to their end or are stopped, and nothing gets out."""
import os
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from data.published.sandbox import run_program

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the sandbox needs fork")


@pytest.fixture(params=[True, False], ids=["namespaces", "no namespaces"])
def run(request):
    def run(code, timeout=5.0):
        return run_program(code, timeout, namespaces=request.param)

    return run


def gone(pid, seconds=2.0):
    """Whether a process has ended, or does so within a moment."""
    end = time.time() + seconds
    while time.time() < end:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        # A zombie has ended; its parent has not collected it yet.
        stat = Path(f"/proc/{pid}/stat")
        if stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] == "Z":
            return True
        time.sleep(0.02)
    return False


def test_a_good_program(run):
    outcome = run("import math, typing, collections, hashlib, re\nprint(math.floor(2.5), 'é')")
    assert outcome.ok and outcome.reason == "ok" and outcome.output == "2 é\n"
    assert run("open('x', 'w').write('y'); assert open('x').read() == 'y'").ok
    # What is not asked for is not run.
    assert run("if __name__ == '__main__': n = int(input())").ok
    assert run("import asyncio, multiprocessing, sqlite3\n"
               "sqlite3.connect(':memory:'), sqlite3.connect('x.db')").ok
    assert run("from __future__ import annotations\nimport dataclasses\n"
               "@dataclasses.dataclass\nclass P:\n    x: int\nassert P(1) == P(1)").ok


@pytest.mark.parametrize("code, reason", [
    ("assert 1 == 2, 'no'", "AssertionError: no"),
    ("def (", "SyntaxError"),
    ("import sys; sys.exit(0)", "ended before its last line"),
    ("exit", "NameError"),
    ("import os; os._exit(0)", "ended before its last line"),
    ("raise SystemExit", "ended before its last line"),
    ("raise KeyboardInterrupt", "KeyboardInterrupt"),
    ("input()", "EOFError"),
    ("def f(): f()\nf()", "RecursionError"),
    ("x = 'a' * (3 << 30)", "MemoryError"),
    ("x = []\nwhile True: x.append('a' * 10**7)", "MemoryError"),
    ("while True: print('x' * 10**6)", "printed more than 4 MB"),
    ("a = '\ud800'", "lone surrogates"),
    ("f = open('x', 'wb')\nwhile True: f.write(b'x' * 10**6)", "File too large"),
    ("import os; print(os.environ['HOME'])", "KeyError: 'HOME'"),
    ("import torch", "No module named 'torch'"),
    ("import signal, os; signal.raise_signal(signal.SIGSEGV)", "ended by signal 11"),
    ("import socket; socket.create_connection(('127.0.0.1', 80))", "the sandbox refuses socket"),
    ("import os; os.kill(os.getppid(), 9)", "the sandbox refuses os.kill"),
    ("import os; os.fork()", "the sandbox refuses os.fork"),
    ("import os; os.system('ls')", "the sandbox refuses os.system"),
    ("import subprocess; subprocess.run(['ls'])", "refuses subprocess"),
    ("import ctypes; ctypes.CDLL(None)", "the sandbox refuses ctypes"),
    ("import urllib.request; urllib.request.urlopen('http://127.0.0.1:9')", "refuse"),
])
def test_bad_programs_fail_with_their_reason(code, reason):
    outcome = run_program(code, 5.0)
    assert not outcome.ok and reason in outcome.reason, outcome


@pytest.mark.parametrize("change", [
    "open({!r}, 'w')",
    "open({!r}, 'a')",
    "import os; os.remove({!r})",
    "import os; os.rename({!r}, 'x')",
    "import os; os.open({!r}, os.O_TRUNC | os.O_WRONLY)",
    "import pathlib; pathlib.Path({!r}).unlink()",
    "import sqlite3; sqlite3.connect({!r} + '.db').execute('create table t (x)')",
    "import os; os.mkfifo({!r} + 'f')",
    "import os; os.mknod({!r} + 'n')",
    "import multiprocessing as m\n"
    "p = m.get_context('spawn').Process(target=open, args=({!r}, 'w'))\n"
    "p.start(), p.join()",
    "import os; os.symlink({!r}, 'l'); open('l', 'w')",
    "import shutil; shutil.move({!r}, 'x')"])
def test_files_outside_stay_as_they_are(run, tmp_path, change):
    (tmp_path / "keep.txt").write_text("keep")
    assert not run(change.format(str(tmp_path / "keep.txt"))).ok
    assert (tmp_path / "keep.txt").read_text() == "keep"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.slow
@pytest.mark.parametrize("timeout", [0, 0.0001, 0.005])
def test_a_time_limit_that_strikes_before_the_program_starts_is_a_wrong_answer(run, timeout):
    outcome = run("x = 1", timeout)
    assert outcome == (False, f"timed out after {timeout:g} s", outcome.output, outcome.isolated)


def test_a_box_that_is_killed_is_a_wrong_answer_and_one_that_does_not_start_an_error(
        run, tmp_path, monkeypatch):
    def box(script):
        python = tmp_path / "python"
        python.write_text(f"#!/bin/sh\n{script}\n")
        python.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(python))

    box("echo isolated; kill -9 $$")
    assert run("x = 1") == (False, "killed together with the sandbox", "", True)
    box("echo no Python here >&2; exit 3")
    with pytest.raises(OSError, match=r"did not start \(exit status 3\): no Python here"):
        run("x = 1")


def test_the_time_limit_ends_loops_sleeps_and_processes_that_left_the_group(run):
    started = time.time()
    for code in ["while True: pass",
                 "import time; time.sleep(60)",
                 "import signal, time\nfor s in 2, 15: signal.signal(s, signal.SIG_IGN)\n"
                 "while True: time.sleep(1)",
                 "import os, time; print(os.getpid(), flush=True); os.setsid(); time.sleep(60)"]:
        outcome = run(code, 0.5)
        assert not outcome.ok and outcome.reason == "timed out after 0.5 s"
    assert time.time() - started < 6
    # In a namespace of its own the process had a number that means nothing here.
    if not outcome.isolated:
        assert gone(int(outcome.output))


# Leaves its process group, writes inside and outside the folder, and connects.
INTRUDER = """
import os, socket, time
os.setsid()
open("here", "w").write("in")
def write(): open({outside!r}, "w")
def connect(): socket.create_connection({address!r}, 1)
for act in write, connect:
    try:
        act()
    except OSError as e:
        print(e, flush=True)
time.sleep(60)
"""

# Starts a Python that has no hook, in a way that the hook does not see. subprocess still has the
# function that the sandbox has replaced in _posixsubprocess.
STARTER = """
from multiprocessing.util import spawnv_passfds
import _posixsubprocess, os, subprocess, sys, time
_posixsubprocess.fork_exec = subprocess._fork_exec
spawnv_passfds(sys.executable.encode(), [b"python", b"-I", b"-S", b"-c", {intruder!r}], [1, 2])
time.sleep(1)
print(os.listdir("."))
"""


@pytest.mark.slow
def test_namespaces_hold_what_the_hook_does_not_see(tmp_path):
    if not run_program("pass").isolated:
        pytest.skip("this system grants no namespaces")
    server = socket.create_server(("127.0.0.1", 0))
    intruder = INTRUDER.format(outside=str(tmp_path / "out"), address=server.getsockname())
    outcome = run_program(STARTER.format(intruder=intruder.encode()), 8.0)
    # Layer 2 refused the process, which is better still.
    if os.getuid() != 0 and "Resource temporarily unavailable" in outcome.reason:
        return
    # It did run.
    assert outcome.ok and "['here']" in outcome.output
    assert "Read-only file system" in outcome.output and list(tmp_path.iterdir()) == []
    assert "Network is unreachable" in outcome.output or "Connection refused" in outcome.output
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        assert not command.startswith(b"python\0-I\0-S\0-c"), \
            "the process that left its group still runs"


def test_many_at_once():
    programs = [f"print({i})\nassert {i} % 2 == 0" for i in range(24)]
    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(run_program, programs))
    assert [outcome.ok for outcome in outcomes] == [i % 2 == 0 for i in range(24)]
    assert [outcome.output.split()[0] for outcome in outcomes] == [str(i) for i in range(24)]
