"""chat.py as a program: flags, standard input, exit statuses, what it imports."""
import re
import subprocess
import sys

import pytest

from toy import ROOT


def run_chat(out, *flags, stdin="", python_flags=()):
    return subprocess.run([sys.executable, *python_flags, "chat.py", "--out", str(out),
                           "--device", "cpu", *flags],
                          input=stdin, text=True, capture_output=True, cwd=ROOT)


@pytest.mark.slow
def test_one_prompt(out):
    first = run_chat(out, "-p", "-1+1?", "--max_tokens", "9")
    second = run_chat(out, "-p", "-1+1?", "--max_tokens", "9")
    assert first.returncode == 0 and first.stderr == ""
    assert first.stdout == second.stdout != ""


@pytest.mark.slow
def test_prompt_from_stdin_and_chat(out):
    assert run_chat(out, "-p", "-", "--max_tokens", "5", stdin="hello").returncode == 0
    conversation = run_chat(out, "--max_tokens", "5", stdin="hello\nagain\n")
    assert conversation.returncode == 0 and conversation.stdout.count("bot") == 2


@pytest.mark.slow
def test_errors_are_one_line(out, tmp_path):
    for flags, words in [(("--stage", "dpo"), "no dpo checkpoint"),
                         (("--nonsense",), "--nonsense"),
                         (("-p", "x" * 300), "the message takes 304 tokens"),
                         (("-p", "a", "--temperature", "-1"), "temperature")]:
        result = run_chat(out, *flags)
        assert result.returncode == 2
        assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
        assert words in result.stderr
    assert "no checkpoint of any stage" in run_chat(tmp_path).stderr


@pytest.mark.slow
def test_the_program_loads_chat_once(out):
    result = run_chat(out, "-p", "hi", "--max_tokens", "2", python_flags=["-X", "importtime"])
    imported = re.findall(r"\| +([\w.]+)$", result.stderr, re.M)
    assert result.returncode == 0 and "talk.terminal" in imported and "chat" not in imported
