"""tests/gpu/first_hour.py, without a GPU: that it judges, goes on after failures, and runs."""
import json
import math
import os
import subprocess
import sys
import time

import pytest

from toy import ROOT

sys.path.insert(0, str(ROOT / "tests/gpu"))
from model_checks import kernel_seconds
from results import judge, run_command

pytestmark = pytest.mark.slow


def python(code):
    return [sys.executable, "-c", code]


@pytest.mark.parametrize("measured, relation, limit, status", [
    (0.1, "<=", 0.2, "PASS"), (0.3, "<=", 0.2, "FAIL"), (0.3, ">=", 0.2, "PASS"),
    (0.1, ">=", 0.2, "FAIL"), (3, "==", 3, "PASS"), (2, "==", 3, "FAIL"),
    (math.nan, "<=", 0.2, "FAIL"), (math.nan, ">=", 0.2, "FAIL")])
def test_a_figure_is_judged_and_nan_fails(measured, relation, limit, status):
    assert judge("it", measured, relation, limit)["status"] == status
    assert judge("it", measured, relation, limit, "toy size")["status"] == "SKIP"


@pytest.mark.parametrize("code, word", [
    ("print('RESULT {\"status\": \"PASS\"}', flush=True); raise ZeroDivisionError('oh')", "oh"),
    ("import os; os.abort()", "nothing printed"), ("", "nothing printed")])
def test_a_check_that_crashes_or_says_nothing_fails_and_keeps_its_results(tmp_path, code, word):
    results = run_command(python(code), 60, tmp_path / "log")
    assert results[-1]["status"] == "FAIL" and word in results[-1]["measured"]
    assert [result["status"] for result in results[:-1]] == ["PASS"] * ("PASS" in code)


def test_a_check_that_hangs_is_ended_with_all_that_it_started(tmp_path):
    code = ("import subprocess, sys, time\n"
            "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
            "print('RESULT {\"status\": \"PASS\"}', flush=True)\n"
            f"open({str(tmp_path / 'pid')!r}, 'w').write(str(child.pid))\n"
            "time.sleep(600)")
    results = run_command(python(code), 3, tmp_path / "log")
    assert [result["status"] for result in results] == ["PASS", "FAIL"]
    assert "after 3 s" in results[1]["what"]
    pid = int((tmp_path / "pid").read_text())
    for _ in range(100):
        ps = ["ps", "-o", "stat=", "-p", str(pid)]
        state = subprocess.run(ps, capture_output=True, text=True)
        # A zombie has ended, and only waits for somebody to ask how.
        if state.stdout.strip()[:1] in ("", "Z"):
            break
        time.sleep(0.1)
    else:
        raise AssertionError("its child is alive")


def test_kernels_are_counted_by_kind():
    names = {"elementwise": ["triton_poi_fused__flash_attention_mm_3", "vectorized_elementwise",
                             "triton_red_fused_linear_1"],
             "attention": ["flash_fwd_kernel", "fmha_cutlassF_bf16_aligned_64x64",
                           "cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma"],
             "matmul": ["nvjet_hsh_128x256_64x4", "sm80_xmma_gemm_bf16bf16", "triton_tem_fused_mm",
                        "void cutlass::Kernel2<cutlass_80_tensorop_bf16>"]}
    events = [dict(cat="kernel", name=name, dur=10 ** 6)
              for listed in names.values() for name in listed]
    others = [dict(cat="cpu_op", name="aten::mm", dur=5), dict(name="process_name", ph="M")]
    seconds = kernel_seconds({"traceEvents": events + others}, {"kernel"})
    assert seconds == {kind: len(listed) for kind, listed in names.items()}


def first_hour(*flags, out=None):
    command = [sys.executable, ROOT / "tests/gpu/first_hour.py", *flags]
    if out:
        command += ["--device", "cpu", "--tiny", "--out", out]
    # Toy sizes gain nothing from threads, and on a busy machine these wait for each other.
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=600,
                          env=dict(os.environ, OMP_NUM_THREADS="1"))


def test_without_a_flag_it_lists_the_parts():
    listed = first_hour()
    assert listed.returncode == 0, listed.stderr
    numbers = [line.split()[1] for line in listed.stdout.splitlines()]
    assert numbers == list("12345678")


@pytest.mark.parametrize("check, passes", [("decoding", 1), ("resume", 3)])
def test_checks_pass_with_toy_sizes(tmp_path, check, passes):
    result = first_hour("--check", check, out=tmp_path)
    log = (tmp_path / f"{check}.log").read_text()
    assert result.returncode == 0, result.stdout + result.stderr + log[-3000:]
    records = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [record["status"] for record in records].count("PASS") == passes
    for record in records:
        assert record["check"] == check and record["chips"] == "cpu" and record["torch"]
        assert record["what"] in result.stdout
