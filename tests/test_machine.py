"""machine.py: devices, flags, errors of one line, signals, locks and links.

test_common.py tests its files.
"""
import ast
import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

import machine
from machine import (
    Env,
    StopSignal,
    can_compile,
    check_for_unused_gpus,
    fastest_dtype,
    has_kernels,
    parse_config,
    set_up_gpu,
    setup,
    try_to_compile,
)
from toy import ROOT

ENV = Env(torch.device("cpu"), torch.float32)


# ---- device and dtype ----

@pytest.mark.parametrize("device, dtype, word", [("tpu", "auto", "--device tpu"),
                                                 ("cpu", "float64", "--dtype float64")])
def test_unknown_devices_and_dtypes(device, dtype, word):
    with pytest.raises(ValueError, match=word):
        setup(device, dtype)


@pytest.mark.parametrize("capability, dtype", [
    ((6, 0), "float32"), ((6, 1), "float32"), ((7, 0), "float16"), ((7, 5), "float16"),
    ((8, 0), "bfloat16"), ((8, 9), "bfloat16"), ((9, 0), "bfloat16"), ((12, 0), "bfloat16")])
def test_a_gpu_computes_in_the_dtype_of_its_tensor_cores(capability, dtype, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert fastest_dtype(torch.device("cuda", 0)) == dtype


def test_float16_can_be_asked_for_anywhere():
    assert setup("cpu", "float16").dtype == torch.float16


@pytest.mark.parametrize("before, after", [
    ({}, "expandable_segments:True"),
    ({"PYTORCH_ALLOC_CONF": "max_split_size_mb:99"}, "max_split_size_mb:99"),
    ({"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:99"}, None)])
def test_freed_gpu_memory_can_be_joined_unless_the_user_set_something_else(before, after,
                                                                           monkeypatch):
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    for name in "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF":
        # Set first, so that it is as before after the test.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    for name, value in before.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="there are 0 GPUs"):
        set_up_gpu(torch.device("cuda", 0))
    assert os.environ.get("PYTORCH_ALLOC_CONF") == after


# ---- GPUs that PyTorch cannot use ----

CU130 = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120"]
CU126 = ["sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90"]


@pytest.mark.parametrize("capability, runs_on", [
    ((3, 7), []), ((6, 1), [CU126]), ((7, 0), [CU126]), ((7, 5), [CU126, CU130]),
    ((8, 9), [CU126, CU130]), ((9, 0), [CU126, CU130]), ((10, 3), [CU130]), ((12, 1), [CU130]),
    ((13, 0), [CU130])])
def test_which_gpu_has_kernels_in_which_wheel(capability, runs_on):
    for architectures in CU126, CU130:
        assert has_kernels(capability, architectures) == (architectures in runs_on)
    assert has_kernels(capability, ["gfx90a", "gfx942"])


def install_nvidia_smi(folder, monkeypatch, prints):
    folder.mkdir(exist_ok=True)
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{prints}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.parametrize("gpu, wheel, words", [
    ("Tesla T4, 535.183.01, 7.5", "2.13.0+cu130", ["T4, driver 535", "torch==2.13.0+cu126",
                                                   "whl/cu126", "--device cpu"]),
    ("Tesla P100-PCIE-16GB, 580.65.06, 6.0", "2.13.0+cu130", ["P100", "2.13.0+cu126"]),
    ("NVIDIA GeForce RTX 4090, 580.95.05, 8.9", "2.13.0+cpu", ["without CUDA", "2.13.0+cu130"]),
    ("NVIDIA GeForce RTX 5090, 570.86.10, 12.0", "2.13.0+cu130", ["Update the driver to 580"]),
    ("NVIDIA GeForce RTX 3060, 470.10, 8.6", "2.13.0+cu130", ["Update the driver to 580"]),
    ("Tesla K80, 470.10, 3.7", "2.13.0+cu130", ["No PyTorch of this version"]),
    # The right wheel is there, so something else is wrong.
    ("NVIDIA H100 PCIe, 580.95.05, 9.0\nNVIDIA H100 PCIe, 580.95.05, 9.0", "2.13.0+cu130",
     ["H100 PCIe", "nvidia-smi should list"])])
def test_a_gpu_that_torch_cannot_use_is_not_silently_a_run_on_the_cpu(gpu, wheel, words, tmp_path,
                                                                      monkeypatch):
    install_nvidia_smi(tmp_path / "bin", monkeypatch, f"printf '{gpu}\\n'")
    monkeypatch.setattr(torch, "__version__", wheel)
    monkeypatch.setattr(torch.version, "cuda", {"130": "13.0"}.get(wheel[-3:]))
    for device in "auto", "cuda":
        with pytest.raises(ValueError) as e:
            setup(device)
        for word in words:
            assert word in str(e.value)
        assert "\n" not in str(e.value)
    # Who asks for the CPU, or hides the GPU, gets the CPU.
    assert setup("cpu").device.type == "cpu"
    for hidden in "", "-1":
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        check_for_unused_gpus()


def test_the_kernel_module_knows_the_gpu_where_nvidia_smi_does_not(tmp_path, monkeypatch):
    install_nvidia_smi(tmp_path / "bin", monkeypatch, "echo Driver/library mismatch; exit 18")
    check_for_unused_gpus(tmp_path)
    gpu = tmp_path / "gpus/0000:00:04.0"
    gpu.mkdir(parents=True)
    (gpu / "information").write_text("Model: \t\t Tesla V100-SXM2-16GB\nIRQ:   \t\t 11\n")
    (tmp_path / "version").write_text(
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\n"
        "GCC version:  gcc version 12.2.0 (Debian 12.2.0-14)\n")
    with pytest.raises(ValueError, match="Tesla V100-SXM2-16GB, driver 550.*cu126"):
        check_for_unused_gpus(tmp_path)


@pytest.mark.parametrize("local_rank, capability, word", [
    (0, (6, 1), "no kernels for the GTX 1080, compute capability 6.1. Install .*cu126"),
    (2, (9, 0), "started local rank 2, but there are 2 GPUs here: choose --nproc_per_node 2")])
def test_a_gpu_without_kernels_or_a_rank_without_a_gpu(local_rank, capability, word, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "GTX 1080")
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: CU130)
    with pytest.raises(ValueError, match=word):
        set_up_gpu(torch.device("cuda", local_rank))


# ---- output ----

def test_output_that_fails_does_not_stop_the_work(tmp_path):
    """A reader that goes, and a full disk where there is one to try."""
    code = ("import sys, machine, train.progress\n"
            "env = machine.Env(machine.torch.device('cpu'), None)\n"
            "line = train.progress.Line()\n"
            "def main():\n"
            "    for i in range(3):\n"
            "        env.print('x' * 100_000)\n"
            "        line.show('y')\n"
            "    open(sys.argv[1], 'w').write('saved')\n"
            "machine.run(main)\n")
    outputs = [subprocess.PIPE]
    if os.path.exists("/dev/full"):
        outputs.append(open("/dev/full", "w"))
    for output in outputs:
        saved = tmp_path / "saved"
        process = subprocess.Popen([sys.executable, "-c", code, saved], cwd=ROOT, stdout=output,
                                   stderr=subprocess.PIPE, text=True)
        if process.stdout:
            process.stdout.close()
            process.stdout = None
        _, err = process.communicate()
        assert process.returncode == 0 and saved.read_text() == "saved", err
        assert err.count("\n") == 1 and err.startswith("note       goes on without printing: ")
        saved.unlink()


# ---- torch.compile ----

@pytest.mark.parametrize("device, word", [("cpu", "g++"), ("cuda", "Triton"), ("mps", "mps")])
def test_what_compiling_lacks_is_said_once_and_how_to_install_it(device, word, monkeypatch,
                                                                 capsys):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr("sysconfig.get_path", lambda name: os.path.dirname(__file__))
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    # Python's headers come first.
    if device != "mps":
        assert not can_compile(torch.device(device))
        assert "-dev" in capsys.readouterr().err
        monkeypatch.setattr(machine.Path, "exists", lambda path: True)
    assert not can_compile(torch.device(device))
    err = capsys.readouterr().err
    assert err.startswith("note ") and err.count("\n") == 1 and word in err
    monkeypatch.setenv("RANK", "1")
    assert not can_compile(torch.device(device)) and not capsys.readouterr().err


@pytest.mark.parametrize("program, word", [
    ("#!/bin/sh\necho where >&2; echo \"g++: fatal error: cannot execute 'cc1plus'\" >&2; exit 1",
     "cannot execute 'cc1plus'"),
    ("#!/bin/sh\nexit 3", "status 3"), ("#!/bin/sh\nkill -SEGV $$", "status -11"),
    ("#!/bin/sh\nprintf '\\377\\376 bad' >&2; exit 1", "bad"), ("#!/bin/sh\nexit 0", "a.so"),
    ("#!/bin/sh\nfor x; do :; done; echo no library > $x", "a.so"),
    ("no program", "Exec format")])
def test_a_compiler_that_is_there_and_fails_is_named_in_one_line(program, word, tmp_path,
                                                                 monkeypatch, capsys):
    compiler = tmp_path / "my-c++"
    compiler.write_text(program)
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    assert not can_compile(torch.device("cpu"))
    err = capsys.readouterr().err
    assert err.startswith("note ") and err.count("\n") == 1 and word in err
    assert f"({compiler}) fails: " in err


def test_a_compiler_that_works(monkeypatch, capsys):
    monkeypatch.delenv("CXX", raising=False)
    if not shutil.which("g++"):
        pytest.skip("no g++")
    assert can_compile(torch.device("cpu")) and not capsys.readouterr().err
    # A full /tmp is no reason to stop.
    monkeypatch.setattr("tempfile.tempdir", "/no/such/folder")
    assert not can_compile(torch.device("cpu"))
    assert "No such file" in capsys.readouterr().err


@pytest.mark.parametrize("breaks", ["forward", "backward"])
def test_where_compiling_raises_the_run_goes_on_without(breaks, capsys):
    from functorch.compile import make_boxed_func
    from torch._dynamo.backends.common import aot_autograd

    def broken(graph, inputs):
        raise RuntimeError("the compiler has no space left")
    works = lambda graph, inputs: make_boxed_func(graph.forward)
    backend = aot_autograd(fw_compiler=broken if breaks == "forward" else works,
                           bw_compiler=broken)

    def square(x):
        if x.size(0) == 1:
            raise ValueError("too short")
        return (x * x).sum()
    f = try_to_compile(square, backend=backend)
    for _ in range(2):
        x = torch.tensor([1.0, 2.0], requires_grad=True)
        f(x).backward()
        assert x.grad.tolist() == [2.0, 4.0]
    before, after = capsys.readouterr().err.splitlines()
    assert before.startswith("compiling ") and "without torch.compile" in after
    assert "the compiler has no space left" in after
    # The function's own errors are its own.
    with pytest.raises(ValueError, match="too short"):
        f(torch.ones(1))


# ---- flags and errors ----

@dataclass
class ToyConfig:
    data: tuple = ()                  # files
    steps: int = 5                    # steps, 100 % of them
    eval_every: int = 2               # steps between evaluations
    lr: float = 0.5                   # peak
    name: str = "a"                   # a name
    compile: bool = True              # compile it


def test_flags_follow_the_config():
    flags = "--data a b --steps 7 --lr 1e-3 --no-compile --name=-x"
    cfg = parse_config(ToyConfig, "doc", flags.split())
    assert cfg == ToyConfig(data=["a", "b"], steps=7, eval_every=2, lr=1e-3, name="-x",
                            compile=False)
    assert parse_config(ToyConfig, "doc", []) == ToyConfig()


@pytest.mark.parametrize("argv", [
    "--stepz 1", "--step 1", "--steps x", "--steps -1", "--eval_every 0", "--lr nan", "--lr inf",
    "--lr -1", "--steps", "extra"])
def test_a_wrong_flag_is_one_line_and_status_2(argv, capsys):
    with pytest.raises(SystemExit) as e:
        parse_config(ToyConfig, "doc", argv.split())
    err = capsys.readouterr().err
    assert e.value.code == 2
    assert err.startswith("error: ") and err.count("\n") == 1
    assert argv.split()[0] in err


def test_help_shows_every_comment_and_default(capsys):
    with pytest.raises(SystemExit) as e:
        parse_config(ToyConfig, "What it does.", ["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert e.value.code == 0 and "What it does." in text
    for part in "steps, 100 % of them (default: 5)", "--no-compile", "files (default: none)":
        assert part in text


@pytest.mark.parametrize("error, status, text", [
    (ValueError("two\nlines"), 2, "error: two lines\n"),
    (FileNotFoundError("gone"), 2, "error: gone\n"),
    (FileNotFoundError(errno.ENOENT, "No such file", "x.txt"), 2, "error: x.txt: No such file\n"),
    (OSError(errno.ENOSPC, "full"), 2, "error: full\n"),
    (OverflowError("port must be 0-65535."), 2, "error: port must be 0-65535.\n"),
    (EOFError(), 2, "error: EOFError\n"),
    (ModuleNotFoundError("No module named 'x'"), 2, "error: No module named 'x'\n"),
    (KeyboardInterrupt(), 130, "\nstopped by Ctrl-C\n"),
    (BrokenPipeError(errno.EPIPE, "Broken pipe"), 141, ""),
    (MemoryError(), 2, "error: out of memory. Choose a smaller --x or --y\n"),
    (RuntimeError("[alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: 9 bytes"), 2,
     "error: out of memory. Choose a smaller --x or --y\n"),
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), 2,
     "error: CUDA out of memory. Choose a smaller --x or --y\n")])
def test_what_a_user_can_cause_ends_without_a_traceback(error, status, text, capsys):
    def main():
        raise error
    with pytest.raises(SystemExit) as e:
        machine.run(main, less_memory="--x or --y")
    assert e.value.code == status and capsys.readouterr().err == text
    # Our own mistakes keep their traceback.
    with pytest.raises(ZeroDivisionError):
        machine.run(lambda: 1 / 0)
    with pytest.raises(RuntimeError, match="must match"):
        machine.run(lambda: torch.zeros(2).add_(torch.zeros(3)))


@pytest.mark.parametrize("script", [path.stem for path in sorted(ROOT.glob("*.py"))])
def test_out_of_memory_names_flags_that_the_script_has(script, capsys):
    source = (ROOT / f"{script}.py").read_text()
    ends = re.findall(r"^    run\(main(?:, less_memory=\"(.+)\")?\)$", source, re.M)
    if script in ("common", "ctrl_c", "machine"):
        assert ends == []
        return
    flags = re.findall(r"--(\w+)", ends[0])
    assert all(re.search(rf"^    {flag}: int = ", source, re.M) for flag in flags)

    def main():
        raise MemoryError

    with pytest.raises(SystemExit):
        machine.run(main, ends[0])
    advice = f"Choose a smaller {ends[0]}" if flags else "Close other programs"
    assert capsys.readouterr().err.startswith(f"error: out of memory. {advice}")
    assert flags or script in ("budget", "export")


def test_a_rank_that_fails_finishes_the_checkpoint_that_it_writes(monkeypatch, tmp_path):
    def write():
        time.sleep(0.2)
        (tmp_path / "written").touch()

    ended = []
    monkeypatch.setattr(machine.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(machine.os, "_exit", lambda status: ended.append(
        (status, (tmp_path / "written").exists())))
    threading.Thread(target=write, name=machine.WRITER).start()
    # It does not wait for other threads.
    other = threading.Event()
    threading.Thread(target=other.wait, args=(60,)).start()
    machine.leave_ranks(SystemExit(2))
    other.set()
    assert ended == [(2, True)]


# ---- signals ----

@pytest.fixture
def handlers():
    """Puts the handlers of the signals back."""
    before = {getattr(signal, name): signal.getsignal(getattr(signal, name))
              for name in StopSignal.ENDING + StopSignal.SAVING}
    # The tests themselves may run under nohup.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield before
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("name, then", [
    ("SIGTERM", signal.SIG_DFL), ("SIGINT", signal.SIG_DFL),
    ("SIGHUP", signal.SIG_IGN), ("SIGUSR1", signal.SIG_IGN)])
def test_the_first_signal_asks_for_a_stop_and_then_it_stops_at_once_or_does_nothing(name, then,
                                                                                    handlers):
    number = getattr(signal, name)
    stop = StopSignal()
    assert not stop.requested(ENV)
    os.kill(os.getpid(), number)
    assert stop.requested(ENV) and stop.number == number
    assert signal.getsignal(number) == then


def test_under_nohup_a_closed_terminal_stops_nothing(handlers):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    stop = StopSignal()
    os.kill(os.getpid(), signal.SIGHUP)
    assert not stop.requested(ENV)


SCRIPTS = ["tokenizer", "pretrain", "midtrain", "sft", "dpo", "distill", "rl", "chat", "evaluate",
           "export", "report", "budget"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_ctrl_c_comes_first_in_every_script(script):
    tree = ast.parse((ROOT / f"{script}.py").read_text())
    imports = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    assert [name.name for name in imports[0].names] == ["ctrl_c"]


@pytest.mark.parametrize("script", ["check", "download"])
def test_ctrl_c_comes_before_all_of_ours_in_the_scripts_of_data(script):
    source = (ROOT / f"data/{script}.py").read_text()
    ours = re.findall(r"^(?:import|from) ((?:ctrl_c|common|machine|data|train|talk)\b\S*)", source,
                      re.M)
    assert ours[0] == "ctrl_c"


# A script of ours that is stopped in the middle of its imports; a stranger's that imports ours.
@pytest.mark.parametrize("folder, status, lines", [
    ("ours", 130, "\nstopped by Ctrl-C\n"), ("stranger", 1, "KeyboardInterrupt caught\n")])
def test_ctrl_c_during_the_imports_is_one_line_for_our_scripts_alone(tmp_path, folder, status,
                                                                     lines):
    ours = tmp_path / "ours"
    for path in ours, tmp_path / "stranger":
        path.mkdir()
    shutil.copy(ROOT / "ctrl_c.py", ours)
    (ours / "slow.py").write_text("import os, signal, time\n"
                                  "os.kill(os.getpid(), signal.SIGINT)\ntime.sleep(9)")
    (tmp_path / folder / "script.py").write_text(
        # In a job in the background the shell ignores Ctrl-C.
        "import signal, sys\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "try:\n    import ctrl_c\n    import slow\nexcept KeyboardInterrupt:\n"
        "    sys.exit('KeyboardInterrupt caught')")
    result = subprocess.run([sys.executable, tmp_path / folder / "script.py"], text=True,
                            env=dict(os.environ, PYTHONPATH=str(ours)), capture_output=True)
    assert (result.returncode, result.stderr) == (status, lines)


# ---- one run at a time ----

HOLD = """
import os, sys, time
from machine import lock, run
def main():
    lock(sys.argv[1])
    print("held", flush=True)
    if os.fork() == 0:
        # A child goes on when the parent is dead, and holds nothing.
        os.close(1)
        time.sleep(5)
        os._exit(0)
    time.sleep(60)
run(main)
"""


def hold(path):
    environment = dict(os.environ, PYTHONPATH=str(ROOT))
    process = subprocess.Popen([sys.executable, "-c", HOLD, path], text=True, env=environment,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    return process, process.stdout.readline()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_second_run_is_refused_and_a_dead_one_holds_nothing(tmp_path, number):
    path = tmp_path / "sft"
    first, said = hold(path)
    assert said == "held\n"
    second, said = hold(path)
    assert (said, second.wait()) == ("", 2)
    error = second.stderr.read()
    assert error.count("\n") == 1 and f"{path} is being written by process {first.pid} on" in error
    # Another stage is not in the way.
    other, said = hold(tmp_path / "dpo")
    assert said == "held\n"
    first.send_signal(number)
    first.wait()
    assert (tmp_path / "sft.lock").exists() == (number == signal.SIGKILL)
    third, said = hold(path)
    assert said == "held\n"
    for process in third, other:
        process.kill()
        process.wait()


def test_where_there_is_no_folder_there_is_no_lock(tmp_path):
    machine.lock(tmp_path / "none" / "sft")
    assert not list(tmp_path.iterdir())


# ---- folders behind links ----

@pytest.fixture
def linked(tmp_path):
    """out/sft leads to disk/models/old, which has one file."""
    (tmp_path / "disk/models/old").mkdir(parents=True)
    (tmp_path / "disk/models/old/a").write_text("old")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/sft").symlink_to("../disk/models/old")
    return tmp_path / "out/sft"


def fill_part(linked):
    part = linked.with_name("sft.part")
    with machine.new_folder(part) as new:
        (new / "b").mkdir()
        (new / "b" / "c").write_text("new")
    return part


def test_a_link_stays_and_what_it_leads_to_is_replaced(linked):
    part = fill_part(linked)
    machine.replace_folder(part, linked)
    assert linked.is_symlink() and not part.exists()
    assert (linked / "b" / "c").read_text() == "new" and not (linked / "a").exists()
    assert [path.name for path in (linked.parents[1] / "disk/models").iterdir()] == ["old"]


def test_a_link_may_lead_to_another_disk(linked):
    disk = Path("/dev/shm")
    if not disk.exists() or disk.stat().st_dev == linked.stat().st_dev:
        pytest.skip("there is no other disk")
    with tempfile.TemporaryDirectory(dir=disk) as folder:
        linked.unlink()
        linked.symlink_to(f"{folder}/new/sft")
        for _ in range(2):
            part = fill_part(linked)
            machine.replace_folder(part, linked)
            assert linked.is_symlink() and not part.exists()
            assert (linked / "b" / "c").read_text() == "new"
            assert [path.name for path in Path(folder, "new").iterdir()] == ["sft"]


def test_a_link_that_was_left_half_replaced_is_repaired(linked):
    target = linked.resolve()
    target.rename(target.with_name("old.old"))
    machine.finish_replace(linked)
    assert (linked / "a").read_text() == "old"


def test_a_link_to_a_folder_that_is_not_there_yet(tmp_path):
    (tmp_path / "sft").symlink_to(tmp_path / "disk/sft")
    with machine.new_folder(tmp_path / "sft") as new:
        (new / "a").write_text("new")
    assert (tmp_path / "sft").is_symlink() and (tmp_path / "disk/sft/a").read_text() == "new"
