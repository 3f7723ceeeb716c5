"""train/progress.py: what stands on a terminal, what in a file, and the time that is left."""
import os
import pty
import re
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch

import machine
from machine import Env, clear_line
from toy import ROOT
from train import progress
from train.progress import Line, Neighbours, Progress, bar, clock

ENV = Env(torch.device("cpu"), torch.float32)


class Stream:
    """Keeps what is printed; a terminal shows what is left in each line after its \\r."""
    def __init__(self, terminal):
        self.terminal = terminal
        self.text = ""

    def write(self, text):
        self.text += text

    def flush(self):
        pass

    def isatty(self):
        return self.terminal

    def fileno(self):
        raise OSError("no terminal behind it")

    def seen(self):
        """The lines as a terminal shows them in the end."""
        lines = []
        for line in self.text.split("\n"):
            cells = []
            for piece in line.split("\r"):
                cells[:len(piece)] = piece
            lines.append("".join(cells).rstrip())
        return lines


@pytest.fixture
def clock_at(monkeypatch):
    """A clock that stands still until a test turns it."""
    at = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: at.now))
    monkeypatch.setenv("TERM", "xterm")
    return at


def run_steps(line, at, times, first=0):
    for step, seconds in enumerate(times, first):
        at.now += seconds
        line.step(step, f"loss {step}.5", 0.5, seconds, 8192, 0, " | MFU n/a")


@pytest.mark.parametrize("seconds, text", [(0, "0:00"), (59.6, "1:00"), (119.7, "2:00"),
                                           (3599.9, "1:00:00"), (36000, "10:00:00")])
def test_a_minute_has_60_seconds(seconds, text):
    assert clock(seconds) == text


def test_a_bar_is_full_at_the_end_alone():
    assert bar(0, 4) == " [----]   0 %" and bar(1, 4) == bar(1.2, 4) == " [####] 100 %"
    assert bar(0.99, 4) == " [###-]  99 %" and bar(0.5, 3) == bar(0.5, -9) == "  50 %"


def test_a_file_gets_the_first_the_last_and_a_line_every_five_seconds(clock_at):
    stream = Stream(terminal=False)
    run_steps(Progress(ENV, 100, stream=stream), clock_at, [1] * 100)
    steps = [int(step) for step in re.findall(r"^step +(\d+)/100 \| ", stream.text, re.M)]
    assert steps == [0, *range(5, 100, 5), 99]
    assert "\r" not in stream.text and "[#" not in stream.text
    assert stream.text.count("\n") == len(steps)


def test_a_terminal_has_one_line_that_fits_it_and_lines_that_stay_are_whole(clock_at, monkeypatch):
    stream = Stream(terminal=True)
    line = Progress(ENV, 100, stream=stream)
    for columns in 20, 60, 100:
        for module in machine, progress:
            monkeypatch.setattr(module, "terminal_width", lambda stream: columns)
        run_steps(line, clock_at, [1] * 10)
        assert len(stream.seen()) == 1
        drawn = stream.text.split("\r")[-1]
        assert drawn.startswith("step ") and len(drawn) < columns
        assert columns < 60 or "tok/s" in drawn
        assert columns < 100 or "] " in drawn
    clear_line(stream)
    print("it stays", file=stream)
    assert stream.seen() == ["it stays", ""]


def test_the_time_left_is_the_median_and_not_that_of_the_compiling_step(clock_at):
    stream = Stream(terminal=False)
    run_steps(Progress(ENV, 100, after=2.0, stream=stream), clock_at, [40] + [2] * 60)
    line = [line for line in stream.text.splitlines() if line.startswith("step    60/")][0]
    # 39 steps of 2 s. This stage takes 40 + 60 * 2 + 78 s, and those after it twice as long.
    assert f"| {clock(78)} left, chain {clock(78 + 2 * 238)} | " in line
    assert "| 4,096 tok/s |" in line and "2000.0 ms" in line
    # A run that is resumed has only its own steps to go by.
    stream = Stream(terminal=False)
    run_steps(Progress(ENV, 100, first=90, stream=stream), clock_at, [3] * 10, first=90)
    assert "step    90/100 | 0:27 left | loss 90.5" in stream.text and "chain" not in stream.text


def test_counting_tells_speed_and_time_left_and_needs_no_total(clock_at):
    stream = Stream(terminal=False)
    line = Line(stream=stream)
    line.count("answers", 1, 100)
    assert stream.text == ""
    clock_at.now += 5
    line.count("answers", 20, 100, "of them")
    clock_at.now += 5
    line.count("rows", 5000, 0, "tokens", ", 7 rows")
    assert stream.text.splitlines() == ["answers | 20 of 100 of them | 4.0 a second | 0:20 left",
                                        "rows | 5,000 tokens, 500 a second, 7 rows"]


def test_other_ranks_are_silent_and_a_dumb_terminal_is_like_a_file(clock_at, monkeypatch):
    stream = Stream(terminal=True)
    run_steps(Progress(Env(ENV.device, ENV.dtype, 1, 2), 10, stream=stream), clock_at, [9] * 10)
    assert stream.text == ""
    monkeypatch.setenv("TERM", "dumb")
    run_steps(Progress(ENV, 10, stream=stream), clock_at, [9] * 10)
    assert "\r" not in stream.text and stream.text.count("\n") == 10


def test_a_neighbour_is_named_once_it_holds_the_cores(clock_at, tmp_path):
    tasks = []
    for name in "12":
        (tmp_path / name).mkdir()
        tasks.append(tmp_path / name / "schedstat")
    neighbours = Neighbours(tmp_path)
    neighbours.n_threads = 2

    def after(seconds, *waited):
        clock_at.now += seconds
        for task, nanoseconds in zip(tasks, waited):
            task.write_text(f"5 {nanoseconds:.0f} 1\n")
        return neighbours.in_words()

    assert after(0, 50e9, 7e9) == ""
    assert after(5, 50.5e9, 7e9) == ""
    assert "40 % of the time" in after(5, 53e9, 8.5e9)
    # It stays until the next look at it.
    assert "40 %" in after(1, 53e9, 8.5e9) and after(4, 53e9, 8.5e9) == ""
    # A system that does not count.
    tasks[0].unlink()
    assert after(5) == "" and Neighbours(tmp_path / "no").in_words() == ""


def test_a_run_on_a_terminal_leaves_its_lines_whole_and_an_error_too():
    """A real terminal: a bar, a line that stays, a bar, and an error on it."""
    code = ("from machine import Env, run; from train.progress import Progress; import torch\n"
            "def main():\n"
            "    env = Env(torch.device('cpu'), torch.float32)\n"
            "    line = Progress(env, 3)\n"
            "    line.step(0, 'loss 1', 1, 2, 3, 0)\n"
            "    env.print('it stays')\n"
            "    line.step(1, 'loss 1', 1, 2, 3, 0)\n"
            "    line.step(2, 'loss 1', 1, 2, 3, 0)\n"
            "    raise ValueError('what happened')\n"
            "run(main)")
    ours, theirs = pty.openpty()
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=theirs, stderr=theirs,
                               env=dict(os.environ, TERM="xterm"))
    os.close(theirs)
    text = ""
    end = time.time() + 60
    while time.time() < end:
        try:
            piece = os.read(ours, 4096).decode()
        except OSError:
            break
        if not piece:
            break
        text += piece
    assert process.wait(10) == 2
    stream = Stream(True)
    stream.text = text.replace("\r\n", "\n")
    assert stream.seen() == ["it stays", "error: what happened", ""]
    assert "step 2/3 [" in text and "loss 1" in text
