"""tests/bench/recipe.py: its interval, and pairs of toy runs that are kept, resumed and judged."""
import json
import math
import os
import subprocess
import sys

import pytest

from test_stages import load
from toy import ROOT, write_data


@pytest.fixture(scope="module")
def bench():
    return load("tests/bench/recipe.py")


def test_students_t_is_that_of_the_tables(bench):
    table = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 9: 2.262, 10: 2.228, 30: 2.042,
             1000: 1.962}
    for freedom, t in table.items():
        assert bench.student_t(freedom) == pytest.approx(t, abs=2e-3)


def test_the_interval_is_of_the_pairs_and_one_pair_has_none(bench):
    mean, half = bench.interval([-0.01, -0.03, -0.02])
    # The standard deviation is 0.01.
    assert mean == pytest.approx(-0.02)
    assert half == pytest.approx(4.303 * 0.01 / 3 ** 0.5, rel=1e-3)
    assert bench.interval([0.25]) == (0.25, math.inf)


def commit_of_a_copy(repository):
    """A repository that holds this tree with the files as they are now, and its own benchmark."""
    names = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, text=True,
                           stdout=subprocess.PIPE, check=True).stdout.splitlines()
    for name in names:
        if (ROOT / name).is_file() and not name.startswith("tests/test_"):
            (repository / name).parent.mkdir(parents=True, exist_ok=True)
            (repository / name).write_bytes((ROOT / name).read_bytes())
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for command in ["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "all"]:
        subprocess.run(["git", *command], cwd=repository, check=True)


@pytest.mark.slow
def test_pairs_are_trained_once_and_judged_on_the_same_rows(tmp_path, bench, monkeypatch):
    repository = tmp_path / "repository"
    repository.mkdir()
    commit_of_a_copy(repository)
    data = write_data(tmp_path / "data").documents
    # Inside the repository, whose git must not take the tree of the patch for its own.
    work = repository / "out/tried"

    def recipe(*arguments):
        command = [sys.executable, "tests/bench/recipe.py", "--data", data, "--work", work,
                   "--depth", 1, "--vocab_size", 300, "--seq_len", 32, "--tokens", 1024,
                   "--eval_rows", 4, "--both=--no-compile --tokens_per_step 256",
                   "--no-equal_seconds", *arguments]
        return subprocess.run(list(map(str, command)), cwd=repository, capture_output=True,
                              text=True, env=dict(os.environ, OMP_NUM_THREADS="1"))

    def kept():
        return [json.loads(line) for line in (work / "runs.jsonl").open()]

    # A patch that changes nothing but a comment gives the same weights.
    patch = tmp_path / "comment.diff"
    source = repository / "pretrain.py"
    before = source.read_text()
    source.write_text("# A comment.\n" + before)
    patch.write_bytes(subprocess.run(["git", "diff"], cwd=repository, stdout=subprocess.PIPE,
                                     check=True).stdout)
    source.write_text(before)
    result = recipe("--change", patch, "--seeds", 0)
    assert result.returncode == 0, result.stderr
    trees = sorted(work.glob("trees/*/tree/pretrain.py"))
    assert [path.read_text().startswith("# A comment.") for path in trees] == [False, True]
    same, changed = kept()
    assert same["bpb"] == changed["bpb"] and same["code"] != changed["code"]
    assert same["trained"] == 1024 and same["steps"] == 4
    assert "+0.0000 +- inf" in result.stdout and "not clear" in result.stdout
    last = json.loads(result.stdout.splitlines()[-1])
    assert last["results"][0]["half_width"] is None and "instruction_set" in last

    # Another seed and another change use the runs that are there.
    result = recipe("--flags", "--matrix_lr 0.1", "--seeds", "0,1")
    assert result.returncode == 0, result.stderr
    runs = kept()
    assert [(r["name"], r["seed"]) for r in runs[2:]] == [
        ("--matrix_lr 0.1", 0), ("--matrix_lr 0.1", 1), ("recipe", 1)]
    difference = (runs[2]["bpb"] - runs[0]["bpb"] + runs[3]["bpb"] - runs[4]["bpb"]) / 2
    last = json.loads(result.stdout.splitlines()[-1])
    assert difference != 0
    assert last["results"][0]["difference"] == pytest.approx(difference, abs=1e-5)
    assert not list(work.glob("runs/*"))

    result = recipe("--flags", "--matrix_lr 0.1", "--seeds", "0,1")
    assert kept() == runs and json.loads(result.stdout.splitlines()[-1]) == last

    # What cannot start fails before the recipe trains for it.
    result = recipe("--flags", "--matrix_rl 0.1", "--seeds", 2)
    assert result.returncode == 2 and kept() == runs and not list(work.glob("runs/*"))
    assert "--matrix_rl" in result.stderr.splitlines()[0]

    monkeypatch.setattr(bench, "ROOT", repository)
    patch.write_text(patch.read_text().replace("Stage 2 of 7", "Stage 3 of 7"))
    for change, words in [("", "nothing is changed"), (patch, "does not apply"),
                          ("nowhere", "neither a file nor a commit")]:
        with pytest.raises(ValueError, match=words):
            bench.make_sides(bench.Config(change=str(change)), work)
    with pytest.raises(ValueError, match="other --data, --max_chars"):
        bench.prepare(bench.Config(data=(str(data),), max_chars=9, vocab_size=300), work)
    with pytest.raises(ValueError, match="--recipe nowhere: no commit"):
        bench.make_sides(bench.Config(recipe="nowhere"), work)
