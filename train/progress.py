"""
How far a run is. A first reading may skip this file.

On a terminal it is one line, which the next one overwrites. In a file or a pipe, where a line stays
for ever, a new one comes every few seconds.
"""
import collections
import statistics
import sys
import time
from pathlib import Path

import torch

from machine import clear_line, is_terminal, say, terminal_width

# Seconds between two lines.
ON_TERMINAL, IN_FILE = 0.1, 5
# The times of so many steps say how long the next ones take. The step that compiles is one of them
# at first, and their median does not mind.
N_STEPS = 15


class Line:
    """A line that says how far something is, whenever it is time for one.

    stream: stdout by default. Where `silent`, as on all ranks but one, nothing is shown.
    """
    def __init__(self, silent=False, stream=None):
        self.stream = stream or sys.stdout
        self.silent = silent
        self.on_terminal = is_terminal(self.stream)
        self.start = time.monotonic()
        # What is done before the first line is due needs none.
        self.shown = self.start

    def is_due(self):
        pause = ON_TERMINAL if self.on_terminal else IN_FILE
        return not self.silent and time.monotonic() - self.shown >= pause

    def show(self, text, more="", share=None, place=""):
        """Show `place`, `text` and `more` now. share: of the work that is done, 0 to 1, for a bar.

        On a terminal the bar gets the room that `text` leaves, and `more` what is left then.
        """
        if self.silent:
            return
        self.shown = time.monotonic()
        if not self.on_terminal:
            say(" | ".join(filter(None, [place, text, more])), file=self.stream)
            return
        # A character in the last column would begin a new line.
        width = terminal_width(self.stream) - 1
        if share is not None:
            place = " ".join(place.split())
            room = width - len(f"{place} [] 100 % | {text}")
            place += bar(share, min(20, room))
        line = " | ".join(filter(None, [place, text, more]))
        clear_line(self.stream)
        say(line[:width], end="", file=self.stream)

    def clear(self):
        """Make room for a line that stays."""
        if not self.silent:
            clear_line(self.stream)

    def count(self, what, done, total, unit="", more=""):
        """Show, if it is due, that `done` of `total` things are done; total 0: nobody knows."""
        if not self.is_due():
            return
        speed = max(done, 1) / max(1e-9, time.monotonic() - self.start)
        if not total:
            self.show(f"{done:,.0f} {unit}, {in_seconds(speed)}{more}", place=what)
            return
        # The total may be an estimate.
        left = max(0, total - done) / speed
        self.show(f"{done:,.0f} of {total:,.0f} {unit}{' ' if unit else ''}| {in_seconds(speed)} | "
                  f"{clock(left)} left{more}", share=done / total, place=what)


def in_seconds(speed):
    return f"{speed:,.1f} a second" if speed < 100 else f"{speed:,.0f} a second"


def bar(share, width):
    """bar(0.5, 10) -> " [#####-----]  50 %"; without the room for one the number alone."""
    share = min(1, max(0, share))
    full = int(share * width)
    cells = f" [{'#' * full}{'-' * (width - full)}]" if width >= 4 else ""
    return f"{cells} {100 * share:3.0f} %"


def clock(seconds):
    """Seconds as people write them: clock(83) -> "1:23", clock(3723) -> "1:02:03"."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


class Progress(Line):
    """The line of a training stage: its step, what it logs, its speed, and the time that is left.

    steps: of the whole run. first: this process's first step. after: the stages that come next take
    so many times as long as this one, 0 if nobody knows.
    """
    def __init__(self, env, steps, first=0, after=0.0, stream=None):
        super().__init__(silent=env.rank > 0, stream=stream)
        self.steps = steps
        self.first = first
        self.after = after
        self.times = collections.deque(maxlen=N_STEPS)
        # Of a GPU, others hold nothing that shows here.
        self.neighbours = Neighbours() if env.device.type == "cpu" and env.rank == 0 else None

    def step(self, step, shown, lr, seconds, tokens, skipped, more=""):
        """Show the line of a step if it is due, and that of the first and of the last one anyway.

        seconds, tokens: of this step. shown: its loss and the like. skipped: how many steps the
        float16 loss scale has skipped in the whole run.
        """
        self.times.append((seconds, tokens))
        others = self.neighbours.in_words() if self.neighbours else ""
        if not (self.is_due() or step == self.first or step == self.steps - 1):
            return
        seconds = statistics.median(seconds for seconds, _ in self.times)
        tok_per_sec = statistics.median(tokens / seconds for seconds, tokens in self.times)
        left = (self.steps - step - 1) * seconds
        text = f"{clock(left)} left"
        if self.after:
            whole = time.monotonic() - self.start + left
            text += f", chain {clock(left + self.after * whole)}"
        text += f"{others} | {shown} | {tok_per_sec:,.0f} tok/s"
        if skipped:
            text += f" | {skipped} skipped"
        more = f"{seconds * 1e3:.1f} ms | lr x {lr:.3f}{more}"
        self.show(text, more, (step + 1) / self.steps, f"step {step:5d}/{self.steps}")


class Neighbours:
    """Notices other programs that hold the cores, by how long this process's threads wait for one.

    Linux counts this for each thread; elsewhere nothing is noticed.
    """
    # The share of the time from which on it is said, and the seconds over which it is measured.
    SHARE, WINDOW = 0.2, 5

    def __init__(self, tasks=Path("/proc/self/task")):
        self.tasks = tasks
        self.n_threads = torch.get_num_threads()
        self.before = None
        self.words = ""

    def waited(self):
        """Seconds that this process's threads have waited for a core, together; None: unknown."""
        try:
            return sum(int((task / "schedstat").read_text().split()[1])
                       for task in self.tasks.iterdir()) / 1e9
        # A thread may have ended meanwhile; and not every system has these files.
        except (OSError, IndexError, ValueError):
            return None

    def in_words(self):
        """"" or " | other programs hold the cores 40 % of the time"; ask after every step."""
        now = time.monotonic()
        if self.before is None:
            self.before = now, self.waited()
        elif now - self.before[0] >= self.WINDOW:
            then, waited_then = self.before
            waited = self.waited()
            self.before = now, waited
            self.words = ""
            if waited is not None and waited_then is not None:
                share = (waited - waited_then) / (now - then) / self.n_threads
                if share >= self.SHARE:
                    self.words = (f" | other programs hold the cores "
                                  f"{100 * min(1, share):.0f} % of the time")
        return self.words
