"""tests/bench/machines.sh with a toy command: what each kind of machine lacks, and the table."""
import json
import os
import subprocess
from pathlib import Path

import pytest

from evaluate import SKILLS, TALK
from toy import ROOT

SEEN = """
import json, os, torch
from machine import has_native_bfloat16, missing_for_compile
from talk.decode import compiled_library
library = compiled_library()
seen = dict(width=library.width() if library else 0, bfloat16=has_native_bfloat16(),
            lacks=missing_for_compile(torch.device("cpu")),
            cores=len(os.sched_getaffinity(0)), threads=torch.get_num_threads())
print(json.dumps(seen))
"""
TIMES = "tokenizer 3\npretrain 5\npretrain 6\nevaluate 1\n"
TASKS = {"spelling_bee": {"accuracy": 0.955}, "other_counting": {"accuracy": 0.7},
         "other_refuse": {"accuracy": 1}}
REPORT = {"sft": {"tasks": {}}, "distill": {"tasks": TASKS}}


@pytest.fixture
def machines(tmp_path):
    def run(*arguments):
        return subprocess.run(["bash", ROOT / "tests/bench/machines.sh", *map(str, arguments)],
                              env=dict(os.environ, TMPDIR=str(tmp_path)), capture_output=True,
                              text=True, timeout=300)
    return run


@pytest.fixture
def venv():
    if not (ROOT / ".venv/bin/python").exists():
        pytest.skip("this checkout has no .venv")


@pytest.mark.slow
def test_each_kind_lacks_what_it_should_and_has_a_row(tmp_path, machines, venv):
    (tmp_path / "seen.py").write_text(SEEN)
    (tmp_path / "times.txt").write_text(TIMES)
    (tmp_path / "report.json").write_text(json.dumps(REPORT))
    toy = f"mkdir out; cp {tmp_path}/*.* out; PYTHONPATH=. .venv/bin/python out/seen.py > out/seen"
    result = machines("--", "bash", "-c", toy)
    # What MKL uses on AMD's processors with AVX-512, it does not say.
    cpu = Path("/proc/cpuinfo").read_text()
    if "AuthenticAMD" in cpu and "avx512f" in cpu and "not imitated" in result.stdout:
        pytest.skip("AVX2 cannot be imitated here")
    assert result.returncode == 0, result.stderr
    header, rule, *rows = [line.strip("| ").split(" | ") for line in result.stdout.splitlines()]
    assert header[9:] == list(SKILLS | TALK)
    assert [row[0] for row in rows] == ["as-is", "avx2", "no-compiler", "one-core"]
    for row in rows:
        cells = dict(zip(header, row))
        assert len(row) == len(header) == len(rule[0].split("|"))
        assert cells["tokenizer"] == "3" and cells["pretrain"] == "11" and cells["sft"] == "-"
        # The last stage's, known and other wordings.
        assert cells["counting"] == "95.5 / 70.0" and cells["word problems, 1 step"] == "- / -"
        assert cells["other requests"] == "- / 100.0"

    folder = result.stderr.split("clones and logs are in ")[1].splitlines()[0]
    seen = {}
    for kind, *_ in rows:
        with open(f"{folder}/{kind}/out/seen") as f:
            seen[kind] = json.load(f)
    as_is = seen["as-is"]
    assert seen["avx2"] == dict(as_is, bfloat16=False, width=min(8, as_is["width"]))
    assert seen["one-core"] == dict(as_is, cores=1, threads=1)
    # Headers that are missing are said first.
    assert "C++ compiler" in seen["no-compiler"]["lacks"] or "headers" in as_is["lacks"]
    assert seen["no-compiler"] == dict(as_is, width=0, lacks=seen["no-compiler"]["lacks"])


@pytest.mark.slow
def test_a_run_that_fails_is_named_with_its_log_and_leaves_an_empty_row(machines, venv):
    result = machines("one-core", "--", "sh", "-c", "echo what went wrong; exit 3")
    assert result.returncode == 1 and "one-core: status 3" in result.stderr
    assert result.stdout.splitlines()[-1].startswith("| one-core | - |")
    with open(result.stderr.split("status 3, ")[1].splitlines()[0]) as f:
        assert f.read() == "what went wrong\n"


def test_an_unknown_kind_is_one_line(machines):
    result = machines("avx3")
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr.startswith("error: 'avx3'") and result.stderr.count("\n") == 1
