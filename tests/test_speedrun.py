"""A dry run of bash run.sh speedrun.

Stand-ins for python and torchrun write down the commands and leave the files that those would leave.
"""
import inspect
import os
import shlex
import shutil
import subprocess

import pytest
import torch

import data.download
import distill
import dpo
import evaluate
import midtrain
import pretrain
import sft
import tokenizer
from common import GPT
from data.mixtures import DOWNLOADED, DOWNLOADS_MIXTURE, parse_mixture
from machine import parse_config
from pretrain import model_config
from toy import ROOT

SCRIPTS = {"tokenizer.py": tokenizer, "pretrain.py": pretrain, "midtrain.py": midtrain, "sft.py": sft, "dpo.py": dpo,
           "distill.py": distill, "evaluate.py": evaluate}
STAND_IN = """#!/usr/bin/env bash
case "$*" in *device_count*) echo "$GPUS"; exit ;; esac
echo "$(basename "$0") $*" >> log
args=("$@"); while [ "${args[0]#-}" != "${args[0]}" ]; do args=("${args[@]:1}"); done       # torchrun's own flags
script=${args[0]}; name=${script%.py}
out=$(sed -n 's/.*--out \\([^ ]*\\).*/\\1/p' <<< "$*")
if [ "$script" = "$FAIL" ]; then mkdir -p "$out/$name.part"; exit 1; fi
case "$script" in
    data/download.py) ;;
    tokenizer.py) mkdir -p "$out/tokenizer"; touch "$out/tokenizer/tokenizer.json" ;;
    evaluate.py) echo "the report" > "$out/report.md" ;;
    *) rm -rf "$out/$name.part"; mkdir -p "$out/$name"; echo $RANDOM > "$out/$name/meta.json" ;;
esac
"""


@pytest.fixture
def speedrun(tmp_path):
    """speedrun(gpus, fail=script) -> (exit status, the commands that were started, stdout, stderr)."""
    for name in "run.sh", "pyproject.toml":
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".venv/bin").mkdir(parents=True)
    for name in "python", "torchrun":
        (tmp_path / ".venv/bin" / name).write_text(STAND_IN)
        (tmp_path / ".venv/bin" / name).chmod(0o755)
    size = subprocess.run("cksum < pyproject.toml", shell=True, cwd=tmp_path, capture_output=True,
                          text=True).stdout.strip()
    # As after pip install -e '.[data]'.
    (tmp_path / ".venv/installed").write_text(f"{size} [data]\n")

    def run(gpus, fail=""):
        (tmp_path / "log").write_text("")
        result = subprocess.run(["bash", "run.sh", "speedrun"], cwd=tmp_path, capture_output=True, text=True,
                                env={**os.environ, "GPUS": str(gpus), "FAIL": fail})
        return result.returncode, (tmp_path / "log").read_text().splitlines(), result.stdout, result.stderr

    run.folder = tmp_path
    return run


def test_no_gpu_is_one_clear_line(speedrun):
    status, log, out, err = speedrun(0)
    assert status == 2 and log == [] and err.count("\n") == 1 and err.startswith("error: ") and "GPU" in err


def test_every_command_exists_with_its_flags_and_fits_the_others(speedrun):
    status, log, out, err = speedrun(8)
    assert status == 0, err
    assert out.count("the report") == 1 and "--out out/speedrun" in out.splitlines()[-1]
    parsed, fetched = {}, []
    for line in log:
        program, *argv = shlex.split(line)
        if program == "torchrun":
            assert argv[:2] == ["--standalone", "--nproc_per_node=8"]
            argv = argv[2:]
        if argv[0] == "data/download.py":
            fetched += [arg for arg in argv[1:] if not arg.startswith("-") and not arg.isdigit()]
            if "--shards" in argv:
                shards = int(argv[argv.index("--shards") + 1])
            continue
        assert (program == "python") == (argv[0] == "tokenizer.py")
        parsed[argv[0]] = parse_config(SCRIPTS[argv[0]].Config, SCRIPTS[argv[0]].__doc__,
                                       # parse_config exits when a flag is unknown.
                                       argv[1:])
    assert list(parsed) == list(SCRIPTS) and {cfg.out for cfg in parsed.values()} == {"out/speedrun"}
    assert parsed["tokenizer.py"].vocab_size == 32768 and parsed["tokenizer.py"].pattern == "default"
    assert parsed["tokenizer.py"].data == parsed["pretrain.py"].data == ["data/downloads/climbmix"]
    assert parsed["pretrain.py"].depth == 20
    assert set(fetched) <= set(data.download.SOURCES) and "climbmix" in fetched
    # All that the stages read was fetched.
    for stage, spec in DOWNLOADS_MIXTURE.items():
        assert parsed[f"{stage}.py"].mixture == "downloads"
        assert {DOWNLOADED[name].name for name, _ in parse_mixture(spec) if name in DOWNLOADED} <= set(fetched)
    tasks = evaluate.task_names(parsed["evaluate.py"].tasks)
    assert parsed["evaluate.py"].report and parsed["evaluate.py"].items == 0
    assert {"mmlu", "arc_easy", "arc_challenge", "gsm8k", "humaneval", "spelling_bee", "core:squad"} <= set(tasks)
    assert "core" in fetched
    assert {DOWNLOADED[name].name for name in tasks if name in DOWNLOADED} <= set(fetched)
    with torch.device("meta"):
        model = GPT(model_config(20, 32768, 2048))
    # The horizon of pretrain.py on a GPU.
    tokens = 12 * (model.num_params() - model.embed.numel())
    assert "12 if on_gpu" in inspect.getsource(pretrain.main)
    assert tokens < shards * 52e6 < 1.2 * tokens


def test_it_goes_on_where_it_was_cut_off_and_repeats_nothing(speedrun):
    stages = lambda log: [line.split(".py")[0].split()[-1] for line in log if "download.py" not in line]
    status, log, out, _ = speedrun(2, fail="sft.py")
    assert status != 0 and stages(log) == ["tokenizer", "pretrain", "midtrain", "sft"]
    assert "--resume" not in " ".join(log)
    status, log, out, _ = speedrun(2)
    assert status == 0 and stages(log) == ["sft", "dpo", "distill", "evaluate"] and out.count("done before") == 3
    assert [line.endswith("--resume") for line in log if "download.py" not in line] == [True, False, False, False]
    status, log, out, _ = speedrun(2)
    assert status == 0 and stages(log) == [] and out.count("done before") == 7 and "the report" in out
    assert [line.split()[0] for line in (speedrun.folder / "out/speedrun/times.txt").read_text().splitlines()] == list(
        name.removesuffix(".py") for name in SCRIPTS)


def test_what_is_done_is_known_by_content_not_by_the_times_of_copied_files(speedrun):
    stages = lambda log: [line.split(".py")[0].split()[-1] for line in log if "download.py" not in line]
    assert speedrun(2)[0] == 0
    out = speedrun.folder / "out/speedrun"
    markers = [out / f"{name}/meta.json" for name in ("distill", "dpo", "sft", "midtrain", "pretrain")]
    for age, marker in enumerate([out / "report.md", *markers, out / "tokenizer/tokenizer.json"]):
        # The times are wrong: the first of the chain is the newest.
        os.utime(marker, (1e9 + age, 1e9 + age))
    assert stages(speedrun(2)[1]) == []
    markers[2].write_text("trained again, by hand")
    assert stages(speedrun(2)[1]) == ["dpo", "distill", "evaluate"]
    # Without the note beside the checkpoint the times decide.
    markers[2].with_name("meta.json.from").unlink()
    os.utime(markers[3])
    assert stages(speedrun(2)[1])[0] == "sft"


def test_bash_reads_it_and_other_words_are_refused(speedrun):
    assert subprocess.run(["bash", "-n", "run.sh"], cwd=ROOT).returncode == 0
    result = subprocess.run(["bash", "run.sh", "speedrn"], cwd=speedrun.folder, capture_output=True, text=True)
    assert result.returncode == 2 and result.stderr == "error: bash run.sh [test|speedrun], not 'speedrn'\n"
