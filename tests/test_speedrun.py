"""A dry run of bash run.sh speedrun.

Stand-ins for python and torchrun write down the commands, and leave files as the scripts would.
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
import report
import rl
import sft
import tokenizer
from common import GPT
from data.mixtures import DOWNLOADED, DOWNLOADS_MIXTURE, parse_mixture
from machine import parse_config
from pretrain import model_config
from toy import ROOT

SCRIPTS = {"tokenizer.py": tokenizer, "pretrain.py": pretrain, "midtrain.py": midtrain,
           "sft.py": sft, "dpo.py": dpo, "distill.py": distill, "rl.py": rl,
           "evaluate.py": evaluate}
STAND_IN = """#!/usr/bin/env bash
case "$*" in *device_count*) echo "$GPUS"; exit ;; esac
echo "$(basename "$0") $*" >> log
# Flags before the name of the script are torchrun's own.
args=("$@"); while [ "${args[0]#-}" != "${args[0]}" ]; do args=("${args[@]:1}"); done
script=${args[0]}; name=${script%.py}
out=$(sed -n 's/.*--out \\([^ ]*\\).*/\\1/p' <<< "$*")
if [ "$script" = "$FAIL" ]; then mkdir -p "$out/$name.part"; exit 1; fi
case "$script" in
    data/download.py) ;;
    tokenizer.py) mkdir -p "$out/tokenizer"; touch "$out/tokenizer/tokenizer.json" ;;
    evaluate.py) echo $RANDOM > "$out/report.json" ;;
    report.py) echo "the report" > "$out/report.md" ;;
    *) rm -rf "$out/$name.part"; mkdir -p "$out/$name"; echo $RANDOM > "$out/$name/meta.json" ;;
esac
"""


@pytest.fixture
def speedrun(tmp_path):
    """speedrun(gpus, fail=script) -> (exit status, the commands it started, stdout, stderr)."""
    for name in "run.sh", "pyproject.toml":
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".venv/bin").mkdir(parents=True)
    for name in "python", "torchrun":
        (tmp_path / ".venv/bin" / name).write_text(STAND_IN)
        (tmp_path / ".venv/bin" / name).chmod(0o755)
    size = subprocess.run("cksum < pyproject.toml", shell=True, cwd=tmp_path, capture_output=True,
                          text=True).stdout.strip()
    # As after pip install -e '.[data,report]'.
    (tmp_path / ".venv/installed").write_text(f"{size} [data,report]\n")

    def run(gpus, fail=""):
        (tmp_path / "log").write_text("")
        result = subprocess.run(["bash", "run.sh", "speedrun"], cwd=tmp_path, capture_output=True,
                                text=True, env={**os.environ, "GPUS": str(gpus), "FAIL": fail})
        log = (tmp_path / "log").read_text().splitlines()
        return result.returncode, log, result.stdout, result.stderr

    run.folder = tmp_path
    return run


def stages(log):
    """The names of the scripts that were started, without the downloads and the report."""
    return [line.split(".py")[0].split()[-1] for line in log
            if "download.py" not in line and "report.py" not in line]


def test_no_gpu_is_one_clear_line(speedrun):
    status, log, out, err = speedrun(0)
    assert status == 2 and log == []
    assert err.count("\n") == 1 and err.startswith("error: ") and "GPU" in err


def test_every_command_exists_with_its_flags_and_fits_the_others(speedrun):
    status, log, out, err = speedrun(8)
    assert status == 0, err
    assert out.count("the report") == 1 and "--out out/speedrun" in out.splitlines()[-1]
    parsed = {}
    fetched = []
    reports = []
    for line in log:
        program, *argv = shlex.split(line)
        if program == "torchrun":
            assert argv[:2] == ["--standalone", "--nproc_per_node=8"]
            argv = argv[2:]
        script, *flags = argv
        if script == "data/download.py":
            fetched += [arg for arg in flags if not arg.startswith("-") and not arg.isdigit()]
            if "--shards" in flags:
                shards = int(flags[flags.index("--shards") + 1])
            continue
        assert (program == "python") == (script in ("tokenizer.py", "report.py"))
        if script == "report.py":
            reports.append(parse_config(report.Config, report.__doc__, flags))
            continue
        # parse_config exits when a flag is unknown.
        parsed[script] = parse_config(SCRIPTS[script].Config, SCRIPTS[script].__doc__, flags)
    assert list(parsed) == list(SCRIPTS)
    assert {cfg.out for cfg in [*parsed.values(), *reports]} == {"out/speedrun"}
    # After every stage; only at the end the stages are asked.
    assert [cfg.answers > 0 for cfg in reports] == [False] * 7 + [True]
    assert parsed["tokenizer.py"].vocab_size == 32768
    # Of a user's text that stands for "default".
    assert parsed["tokenizer.py"].pattern == ""
    assert parsed["tokenizer.py"].data == parsed["pretrain.py"].data == ["data/downloads/climbmix"]
    assert parsed["pretrain.py"].depth == 20
    assert set(fetched) <= set(data.download.SOURCES) and "climbmix" in fetched

    def all_fetched(names):
        return {DOWNLOADED[name].name for name in names if name in DOWNLOADED} <= set(fetched)

    for stage, spec in DOWNLOADS_MIXTURE.items():
        assert parsed[f"{stage}.py"].mixture == "downloads"
        assert all_fetched(entry.name for entry in parse_mixture(spec))
    tasks = evaluate.task_names(parsed["evaluate.py"].tasks)
    assert parsed["evaluate.py"].report and parsed["evaluate.py"].items == 0
    for name in "mmlu arc_easy arc_challenge gsm8k humaneval spelling_bee core:squad".split():
        assert name in tasks
    assert "core" in fetched and all_fetched(tasks)
    with torch.device("meta"):
        model = GPT(model_config(20, 32768, 2048))
    # The horizon of pretrain.py on a GPU.
    tokens = 12 * (model.num_params() - model.embed.numel())
    assert "tokens_per_param = 12\n" in inspect.getsource(pretrain.main)
    assert tokens < shards * 52e6 < 1.2 * tokens


def test_it_goes_on_where_it_was_cut_off_and_repeats_nothing(speedrun):
    status, log, out, _ = speedrun(2, fail="sft.py")
    assert status != 0 and stages(log) == ["tokenizer", "pretrain", "midtrain", "sft"]
    assert "--resume" not in " ".join(log)

    status, log, out, _ = speedrun(2)
    assert status == 0 and out.count("done before") == 3
    assert stages(log) == ["sft", "dpo", "distill", "rl", "evaluate"]
    assert stages(line for line in log if line.endswith("--resume")) == ["sft"]

    status, log, out, _ = speedrun(2)
    assert status == 0 and out.count("done before") == 8
    assert stages(log) == [] and "the report" in out
    times = (speedrun.folder / "out/speedrun/times.txt").read_text().splitlines()
    assert [line.split()[0] + ".py" for line in times] == list(SCRIPTS)


def test_what_is_done_is_known_by_content_not_by_the_times_of_copied_files(speedrun):
    def started():
        status, log, _, _ = speedrun(2)
        assert status == 0
        return stages(log)

    assert len(started()) == 8
    out = speedrun.folder / "out/speedrun"
    markers = [out / "report.json"]
    markers += [out / name / "meta.json" for name in "rl distill dpo sft midtrain pretrain".split()]
    markers += [out / "tokenizer/tokenizer.json"]
    for age, marker in enumerate(markers):
        # The times are wrong: the first of the chain is the newest.
        os.utime(marker, (1e9 + age, 1e9 + age))
    assert started() == []
    (out / "sft/meta.json").write_text("trained again, by hand")
    assert started() == ["dpo", "distill", "rl", "evaluate"]
    # Without the note beside the checkpoint the times decide.
    (out / "sft/meta.json.from").unlink()
    os.utime(out / "midtrain/meta.json")
    assert started()[0] == "sft"


def test_bash_reads_it_and_other_words_are_refused(speedrun):
    assert subprocess.run(["bash", "-n", "run.sh"], cwd=ROOT).returncode == 0
    result = subprocess.run(["bash", "run.sh", "speedrn"], cwd=speedrun.folder,
                            capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr == "error: bash run.sh [MINUTES|test|speedrun], not 'speedrn'\n"
