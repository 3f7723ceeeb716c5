"""budget.py: what a number of minutes gives. bash run.sh MINUTES, with stand-ins for the stages."""
import os
import shlex
import shutil
import subprocess

import pytest

import budget
import distill
import dpo
import midtrain
import pretrain
import sft
from budget import DEMO_SECONDS, MIXTURES, STAGES, TEXT_TOKENS, TRAINED, make_plan, plan_text
from machine import parse_config
from pretrain import model_config
from toy import ROOT, fails_with_one_line, run_script
from train.plan import flops_per_token, matrix_weights

SCRIPTS = dict(pretrain=pretrain, midtrain=midtrain, sft=sft, dpo=dpo, distill=distill)
MINUTES = [20, 60, 120, 480, 1440, 10_000]


def flags_of(plan, stage):
    module = SCRIPTS[stage]
    # parse_config exits when a flag is unknown.
    return parse_config(module.Config, module.__doc__, plan["flags"][stage])


def sizes(mixture):
    entries = [entry.partition(":") for entry in mixture.split(",")]
    # Of first-last the last; a test below says that both are scaled.
    return {name: int(size.rpartition("-")[2]) for name, _, size in entries if size}


@pytest.mark.parametrize("tier", DEMO_SECONDS)
def test_the_demo_takes_what_was_measured_and_no_flags_but_the_time_after(tier):
    plan = make_plan(0, tier, 2)
    assert list(plan["seconds"].values()) == DEMO_SECONDS[tier] and plan["times"] == 1
    for stage in TRAINED:
        cfg = flags_of(plan, stage)
        later = DEMO_SECONDS[tier][STAGES.index(stage) + 1:]
        own = DEMO_SECONDS[tier][STAGES.index(stage)]
        assert cfg.after == pytest.approx(sum(later) / own, abs=0.01)
        cfg.after = 0.0
        assert cfg == SCRIPTS[stage].Config()
    # One core takes twice as long, but for what no number of cores makes faster.
    fixed = sum(budget.demo_costs(tier, 2)[0][stage] for stage in TRAINED)
    alone = sum(make_plan(0, tier, 1)["seconds"].values())
    assert alone == pytest.approx(2 * sum(DEMO_SECONDS[tier]) - fixed, abs=4)


@pytest.mark.parametrize("tier", DEMO_SECONDS)
@pytest.mark.parametrize("cores", [1, 2, 8])
def test_the_minutes_are_used_and_shared_by_the_rules(tier, cores):
    before = None
    for minutes in MINUTES:
        try:
            plan = make_plan(minutes, tier, cores)
        except ValueError:
            assert minutes == 20 and cores == 1
            continue
        assert plan == make_plan(minutes, tier, cores)
        assert sum(plan["seconds"].values()) == pytest.approx(60 * minutes, abs=5)
        assert plan["tokens"] <= 4 * TEXT_TOKENS + 1
        assert plan["depth"] == 4 or plan["tokens"] >= 3 * TEXT_TOKENS - 1
        cfg = flags_of(plan, "pretrain")
        config = model_config(cfg.depth, 1536, 512)
        assert cfg.tokens_per_param * matrix_weights(config) == pytest.approx(plan["tokens"], 1e-3)
        # FLOPs go as the seconds do, in all stages alike.
        fixed, training = budget.demo_costs(tier, cores)
        slower = flops_per_token(config) / flops_per_token(model_config(4, 1536, 512))
        for stage in MIXTURES:
            times = (plan["seconds"][stage] - fixed[stage]) / training[stage] / slower
            assert times == pytest.approx(plan["times"], abs=0.02 * plan["times"] + 0.05)
            demo = sizes(SCRIPTS[stage].DEMO_MIXTURE)
            asked = sizes(flags_of(plan, stage).mixture)
            assert list(asked) == list(demo)
            for name in demo:
                assert asked[name] == pytest.approx(demo[name] * plan["times"], abs=1)
        if before:
            assert plan["depth"] >= before["depth"]
            assert plan["depth"] > before["depth"] or plan["times"] > before["times"]
        before = plan
    assert before["depth"] > 4 or tier == "float32"


def test_a_stronger_machine_does_more_in_the_same_time():
    work = []
    for tier, cores in [("float32", 1), ("float32", 2), ("bfloat16 without a compiler", 2),
                        ("bfloat16", 2), ("bfloat16", 8)]:
        plan = make_plan(120, tier, cores)
        work.append(plan["tokens"] * flops_per_token(model_config(plan["depth"], 1536, 512)))
    assert work == sorted(work) and len(set(work)) == len(work)


def test_too_few_minutes_are_one_line_and_the_least_that_it_names_is_enough(tmp_path):
    result = run_script("budget.py", "--minutes", 2, "--out", tmp_path, log=tmp_path / "log")
    fails_with_one_line(result, "2 minutes are too few", "bash run.sh")
    for tier in DEMO_SECONDS:
        with pytest.raises(ValueError, match="too few") as error:
            make_plan(1, tier, 1)
        least = int(str(error.value).split("less than ")[1].split()[0])
        assert make_plan(least, tier, 1)["times"] < 1


def test_a_saved_plan_is_gone_on_with_whatever_the_machine_is_now(tmp_path):
    def plan(minutes, *more):
        result = run_script("budget.py", "--minutes", minutes, "--out", tmp_path, *more,
                            log=tmp_path / "log")
        assert result.status == 0, result.stderr
        return result.stdout

    plan(60)
    assert not (tmp_path / "plan.txt").exists()
    first = plan(60, "--save", "--dtype", "float32")
    text = (tmp_path / "plan.txt").read_text()
    assert "60 minutes on" in first and "together 1:00:0" in first
    assert "# plan       60 minutes" in text and "end        " in first and "end  " not in text
    assert "float32" in text
    plan(60, "--save", "--dtype", "bfloat16")
    assert (tmp_path / "plan.txt").read_text() == text
    # The demo has but one plan, and no flag of its own.
    plan(0, "--save", "--dtype", "bfloat16")
    assert "--depth" not in (tmp_path / "plan.txt").read_text()


# ---- bash run.sh ----

STAND_IN = """#!/usr/bin/env bash
echo "$*" >> log
name=${1%.py}
[ -z "${GOMP_SPINCOUNT:-}" ] || echo "$name" >> waiting
out=$(sed -n 's/.*--out \\([^ ]*\\).*/\\1/p' <<< "$*"); out=${out:-out}
mkdir -p "$out"
case "$name" in
    budget) case "$*" in *--save*) cp the-plan "$out/plan.txt" ;; esac ;;
    tokenizer) mkdir -p "$out/tokenizer"; touch "$out/tokenizer/tokenizer.json" ;;
    evaluate) echo $RANDOM > "$out/report.json" ;;
    report) echo "the report" > "$out/report.md" ;;
    *) mkdir -p "$out/$name"; echo $RANDOM > "$out/$name/meta.json" ;;
esac
"""


@pytest.fixture
def run_sh(tmp_path):
    """run_sh(*arguments) -> the result, with the commands that it started in result.log."""
    for name in "run.sh", "pyproject.toml":
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/python").write_text(STAND_IN)
    (tmp_path / ".venv/bin/python").chmod(0o755)
    size = subprocess.run("cksum < pyproject.toml", shell=True, cwd=tmp_path, capture_output=True,
                          text=True).stdout.strip()
    (tmp_path / ".venv/installed").write_text(f"{size} [report]\n")
    (tmp_path / "the-plan").write_text(plan_text(make_plan(60, "bfloat16", 2)))

    def run(*arguments):
        (tmp_path / "log").write_text("")
        result = subprocess.run(["bash", "run.sh", *arguments], cwd=tmp_path, text=True,
                                capture_output=True)
        log = (tmp_path / "log").read_text().splitlines()
        # The report follows each stage, which is no matter of the budget.
        result.log = [line for line in log if not line.startswith("report.py ")]
        return result
    run.folder = tmp_path
    return run


def test_minutes_run_the_chain_in_a_folder_of_their_own_with_the_planned_flags(run_sh):
    result = run_sh("60")
    assert result.returncode == 0, result.stderr
    plan = make_plan(60, "bfloat16", 2)
    assert result.log[0] == "budget.py --minutes 60 --out out/60 --save"
    assert [line.split(".py")[0] for line in result.log[1:]] == STAGES
    for line in result.log[2:-1]:
        stage = line.split(".py")[0]
        assert shlex.split(line)[1:] == ["--out", "out/60", *plan["flags"][stage]]
    # Those that only train let go of their cores sooner.
    waiting = (run_sh.folder / "waiting").read_text().split()
    trained = [name for name in waiting if name != "report"]
    assert trained == ["pretrain", "midtrain", "sft", "dpo"]
    assert "--out out/60" in result.stdout.splitlines()[-1]
    assert os.listdir(run_sh.folder / "out") == ["60"]
    # What is done is done, and the demo is another chain.
    assert [line.split(".py")[0] for line in run_sh("60").log] == ["budget"]
    (run_sh.folder / "the-plan").write_text(plan_text(make_plan(0, "bfloat16", 2)))
    result = run_sh()
    assert result.log[0] == "budget.py --minutes 0 --out out --save"
    assert len(result.log) == 8 and result.log[1] == "tokenizer.py"
    assert all("--out" not in line and "--depth" not in line for line in result.log[1:])
    assert result.stdout.splitlines()[-1] == "Talk to it:  .venv/bin/python chat.py"


def test_plan_alone_makes_nothing(run_sh):
    for arguments, minutes in (["60", "--plan"], 60), (["demo", "--plan"], 0):
        result = run_sh(*arguments)
        assert result.returncode == 0 and not (run_sh.folder / "out/60").exists()
        assert result.log == [f"budget.py --minutes {minutes}"]
        shutil.rmtree(run_sh.folder / "out", ignore_errors=True)


@pytest.mark.parametrize("arguments", [
    ["0"], ["-5"], ["060"], ["1e3"], ["6o"], ["60m"], ["60", "70"], ["60", "--plans"], ["123456"],
    ["--plan"], ["test", "--plan"], ["6 0"]])
def test_what_is_no_number_of_minutes_is_one_line(run_sh, arguments):
    result = run_sh(*arguments)
    assert result.returncode == 2 and result.stdout == "" and result.log == []
    assert result.stderr.startswith("error: bash run.sh [MINUTES")
    assert result.stderr.count("\n") == 1


def test_both_ends_of_a_range_are_scaled():
    assert budget.scale_mixture("a:100,b,c:100-200", 2.5) == "a:250,b,c:250-500"
    assert budget.scale_mixture("c:3-4", 0.1) == "c:1-2"
