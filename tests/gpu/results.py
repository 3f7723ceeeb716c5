"""
SKIP AT FIRST. What the checks of first_hour.py share: how a result is made and shown, how a command
is run, and how it is ended.
"""
import json
import operator
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RELATIONS = {"<=": operator.le, ">=": operator.ge, "==": operator.eq}


def judge(what, measured, relation, limit, skip=""):
    """A result: `measured` is compared with `limit`. NaN fails; skip says why it is not judged."""
    status = "PASS" if RELATIONS[relation](measured, limit) else "FAIL"
    if skip:
        status = "SKIP"
    return dict(status=status, what=what, measured=measured, expected=f"{relation} {limit:g}",
                note=skip)


def skipped(what, why):
    return dict(status="SKIP", what=what, measured=None, expected="", note=why)


def show(result):
    measured = result["measured"]
    if isinstance(measured, float):
        measured = f"{measured:.4g}"
    line = f"{result['status']}  {result['what']}: {measured}"
    if result["expected"]:
        line += f" (expected {result['expected']})"
    print(f"{line}  {result['note']}".rstrip(), flush=True)


def script(*argv, ranks=1):
    """The command of a script of this project, under torchrun if there are several ranks."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", ranks]
    return [sys.executable, *map(str, torchrun if ranks > 1 else []), *map(str, argv)]


def output_of(command):
    """Run a command to its end -> its stdout, which is shown as well; RuntimeError if it fails."""
    print("+", *command[1:], flush=True)
    result = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    print(result.stdout, flush=True)
    if result.returncode:
        raise RuntimeError(f"exit status {result.returncode}: {' '.join(command[1:4])}")
    return result.stdout


def run_command(command, seconds, log):
    """Run a command, all that it prints goes to the file -> its results.

    It and what it started are ended after so many seconds. A last result says if it failed.
    """
    with open(log, "w") as file:
        process = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=file,
                                   start_new_session=True)
        start = time.monotonic()
        try:
            process.wait(seconds)
            ending = f"ended with status {process.returncode}"
        except subprocess.TimeoutExpired:
            ending = f"ended after {seconds} s, its limit"
        finally:
            end_group(process)
    lines = log.read_text(errors="replace").splitlines()
    results = [json.loads(line[7:]) for line in lines if line.startswith("RESULT ")]
    if process.returncode or not results:
        words = [line for line in lines if line.strip() and not line.startswith("RESULT ")]
        results.append(dict(status="FAIL", what=ending, measured=(words or ["nothing printed"])[-1],
                            expected="", note=f"see {log}"))
    for result in results:
        result["seconds"] = round(time.monotonic() - start, 1)
    return results


def end_group(process):
    """End the process and what it started; torchrun needs a signal that it can pass on."""
    for number in signal.SIGTERM, signal.SIGKILL:
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        for _ in range(100):
            if process.poll() is not None:
                break
            time.sleep(0.1)
