"""machine.py: devices, flags, errors of one line, signals. test_common.py tests its files."""
import errno
import os
import signal
from dataclasses import dataclass

import pytest
import torch

import machine
from machine import Env, StopSignal, parse_config, setup

ENV = Env(torch.device("cpu"), torch.float32)


# ---- device and dtype ----

@pytest.mark.parametrize("device, dtype, word", [("tpu", "auto", "--device tpu"),
                                                 ("cpu", "float16", "--dtype float16")])
def test_unknown_devices_and_dtypes(device, dtype, word):
    with pytest.raises(ValueError, match=word):
        setup(device, dtype)


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
    (MemoryError(), 2, "error: out of memory. Choose a smaller --batch_size or --depth\n"),
    (RuntimeError("[alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: 9 bytes"), 2,
     "error: out of memory. Choose a smaller --batch_size or --depth\n"),
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), 2,
     "error: CUDA out of memory. Choose a smaller --batch_size or --depth\n")])
def test_what_a_user_can_cause_ends_without_a_traceback(error, status, text, capsys):
    def main():
        raise error
    with pytest.raises(SystemExit) as e:
        machine.run(main)
    assert e.value.code == status and capsys.readouterr().err == text
    # Our own mistakes keep their traceback.
    with pytest.raises(ZeroDivisionError):
        machine.run(lambda: 1 / 0)
    with pytest.raises(RuntimeError, match="must match"):
        machine.run(lambda: torch.zeros(2).add_(torch.zeros(3)))


# ---- signals ----

def test_the_first_signal_asks_for_a_stop_and_the_second_one_stops():
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        for number in before:
            stop = StopSignal()
            assert not stop.requested(ENV)
            os.kill(os.getpid(), number)
            assert stop.requested(ENV) and stop.number == number
            assert signal.getsignal(number) == signal.SIG_DFL
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
