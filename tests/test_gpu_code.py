"""What Inductor writes for GPUs, on a machine without one: few kernels, which all compile.

pip install -e .[gpu-test] brings Triton; without it these tests are skipped.
"""
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys

import pytest
import torch

from toy import ROOT

pytest.importorskip("triton", reason="pip install -e .[gpu-test] brings Triton")
pytestmark = pytest.mark.skipif(not shutil.which("g++"), reason="a pretended GPU needs g++")

ARCHS = ["75", "80", "86", "89", "90", "120"]
N_LAYER = 2


def lower(tmp_path, card, names, archs=()):
    """-> what tests/fake_cuda.py reports. It changes torch, so it is a process of its own."""
    command = [sys.executable, ROOT / "tests/fake_cuda.py", tmp_path, card, names, *archs]
    environment = dict(os.environ, OMP_NUM_THREADS="1", TRITON_CACHE_DIR=str(tmp_path / "triton"),
                       TORCHINDUCTOR_CACHE_DIR=str(tmp_path / "inductor"))
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True,
                            env=environment, timeout=1200)
    if result.returncode:
        found = torch.__version__.split("+")[0], importlib.metadata.version("triton")
        # It holds on to internals of just these versions.
        if found != ("2.13.0", "3.7.1"):
            pytest.skip(f"torch {found[0]} and Triton {found[1]} differ from 2.13.0 and 3.7.1: "
                        f"{result.stderr.strip().splitlines()[-1]}")
        raise AssertionError(result.stderr[-3000:])
    return json.loads(result.stdout.splitlines()[-1])


def check(report, names, card):
    for name in names:
        figures = report[name]
        # Of the forward pass and of the backward pass.
        assert figures["graphs"] == 2 and not figures["breaks"], figures
        # sin, cos and pow take hundreds of instructions; the rotary table is computed beforehand.
        assert set(figures["functions"]) <= {"abs", "exp", "log", "rsqrt"}
        forward, backward = figures["launches"]
        # Where there is flash attention, isolate takes it with the documents' bounds, else a mask.
        is_varlen = name == "isolated" and card != "T4"
        has_mask = name == "isolated" and card == "T4"
        assert figures["varlen_attn"] == 2 * [is_varlen]
        # Beside the layers: the embedding and the loss, and the mask.
        assert 0 < forward <= 8 * N_LAYER + (9 if has_mask else 7)
        assert 0 < backward <= 9 * N_LAYER + 3
        # Of a layer of depth 20; then the gradient of the head, and the mask in 16 bits.
        n_bytes = 56_200 * N_LAYER + 48_700 + (4_100 if has_mask else 0)
        assert 0 < figures["saved_bytes_a_token"] <= n_bytes


def test_a_step_on_an_h100_is_one_graph_of_few_kernels(tmp_path):
    check(lower(tmp_path, "H100", "plain,isolated"), ["plain", "isolated"], "H100")


@pytest.mark.slow
@pytest.mark.parametrize("card, archs", [("H100", ARCHS), ("T4", ["75"]), ("RTX 3090", []),
                                         ("RTX 4090", [])])
def test_the_kernels_for_a_card_are_few_and_compile(tmp_path, card, archs):
    report = lower(tmp_path, card, "plain,isolated", archs)
    check(report, ["plain", "isolated"], card)
    assert not report["failures"] and report["kernels"] > 10
    assert report["compiled"] == dict.fromkeys(archs, report["kernels"])
