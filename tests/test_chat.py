"""chat.py as a program: flags, standard input, exit statuses, what it imports."""
import contextlib
import os
import pty
import re
import shlex
import subprocess
import sys

import pytest

from chat import main, take_prompt
from toy import ROOT


@pytest.mark.parametrize("argv, prompt, flags", [
    ([], None, []),
    (["--stage", "sft"], None, ["--stage", "sft"]),
    (["-p", "-1+1?"], "-1+1?", []),
    (["--prompt", "--base"], "--base", []),
    (["--prompt=a b"], "a b", []),
    (["-p", ""], "", []),
    (["hello"], "hello", []),
    (["hello", "there"], "hello there", []),
    (["--stage", "sft", "hello", "--seed=3"], "hello", ["--stage", "sft", "--seed=3"]),
    (["--base", "def ", "--no-compile"], "def ", ["--base", "--no-compile"]),
    (["--seed", "3", "--", "--help", "me"], "--help me", ["--seed", "3"]),
    (["-"], "-", []),
    (["--help"], None, ["--help"])])
def test_a_prompt_may_stand_alone_among_the_flags(argv, prompt, flags):
    assert take_prompt(argv) == (prompt, flags)


@pytest.mark.parametrize("argv, words", [
    (["--base", "-p"], "-p: expected a prompt"),
    (["--serve", "--port", "65536"], "--port 65536: expected 0 to 65535"),
    (["-p", "a", "--max_rows", "0"], "--max_rows 0: expected 1 or more"),
    (["--serve", "8080"], "'8080': --serve and --batch take no prompt"),
    (["--batch", "x", "-p", ""], "'': --serve and --batch take no prompt")])
def test_what_cannot_be_is_said_before_the_model_loads(argv, words, monkeypatch, capfd):
    monkeypatch.setattr("sys.argv", ["chat.py", *argv])
    monkeypatch.setattr("chat.find_checkpoint", lambda out, stage: None)
    monkeypatch.setattr("sys.stdin", open(os.devnull))
    with pytest.raises(ValueError, match=re.escape(words)):
        main()


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
def test_a_pipe_is_one_prompt_and_not_a_conversation(out):
    flags = ("--max_tokens", "9")
    piped = run_chat(out, *flags, "Who is it?", stdin="/seed 3\nhello\n")
    assert piped.returncode == 0 and piped.stderr == ""
    assert piped.stdout == run_chat(out, "/seed 3\nhello\n\nWho is it?", *flags).stdout != ""


@pytest.mark.slow
def test_an_open_pipe_delays_an_answer_and_does_not_prevent_it(out):
    read, write = os.pipe()
    result = subprocess.run([sys.executable, "chat.py", "--out", out, "-p", "Hi"], stdin=read,
                            capture_output=True, text=True, cwd=ROOT, timeout=100)
    os.close(read)
    os.close(write)
    assert result.returncode == 0 and result.stdout and "standard input" in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("redirections, status, words", [
    (">&-", 2, "standard output is closed"),
    ("> /dev/full", 2, "No space left"),
    ("<&-", 0, ""),
    ("2>&-", 0, ""),
    # What pipefail shows is the status of chat.py.
    ("| true", 141, "")])
def test_streams_that_are_closed_or_full_end_in_words(out, redirections, status, words):
    chat = shlex.join([sys.executable, "chat.py", "--out", str(out), "-p", "Hi"])
    result = subprocess.run(["bash", "-c", f"set -o pipefail; {chat} {redirections}"],
                            stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == status, result
    assert words in result.stderr and result.stderr.count("\n") == bool(words)


@pytest.mark.slow
def test_one_bad_byte_is_replaced(out):
    for flags, stdin in [((b"-p", b"a\xffb"), b""), ((b"-p", b"-"), b"a\xffb")]:
        command = [sys.executable, "chat.py", "--out", out, "--base", "--max_tokens", "1", *flags]
        result = subprocess.run(command, input=stdin, capture_output=True, cwd=ROOT,
                                env=os.environ | {"PYTHONUTF8": "1"})
        assert result.returncode == 0, result.stderr
        assert result.stdout.startswith("a\ufffdb".encode())


@pytest.mark.slow
def test_errors_are_one_line(out, tmp_path):
    for flags, words in [(("--stage", "dpo"), "no dpo checkpoint"),
                         (("--nonsense",), "--nonsense"),
                         (("-p", "x" * 300), "the message takes 304 tokens"),
                         (("-p", "a", "--temperature", "-1"), "temperature"),
                         (("-p", ""), "the prompt is empty"),
                         (("--serve", "--port", "80800"), "--port 80800"),
                         (("--batch", str(tmp_path / "none"), "--output", "x"), "none: no such")]:
        result = run_chat(out, *flags)
        assert result.returncode == 2
        assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
        assert words in result.stderr
    assert "no checkpoint of any stage" in run_chat(tmp_path).stderr


def type_into_terminal(out, typed, **environment):
    """Start the interactive chat in a pseudo-terminal and type. -> all that it shows, its status

    typed: pairs (what to wait for, what to type then).
    """
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(ROOT)
        command = [sys.executable, "chat.py", "--out", str(out), "--max_tokens", "3"]
        os.execvpe(command[0], command, os.environ | {"TERM": "xterm"} | environment)
    shown = b""
    since = 0
    for wanted, text in typed:
        while wanted not in shown[since:]:
            shown += os.read(terminal, 4096)
        since = len(shown)
        os.write(terminal, text)
    # Reading fails when the program has ended.
    with contextlib.suppress(OSError):
        while piece := os.read(terminal, 4096):
            shown += piece
    os.close(terminal)
    return shown, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.slow
def test_a_terminal_completes_remembers_and_shows_colours_only_where_they_are_welcome(
        out, tmp_path):
    home = dict(HOME=str(tmp_path))
    shown, status = type_into_terminal(
        out, [(b"you", b"What is it?\n"), (b"you", b"/sta\t\n"), (b"you", b"bad \xff byte\n"),
              (b"you", b"/bye\n")], **home)
    assert status == 0 and b"\x1b[1m" in shown and b"tokens/s" in shown
    assert shown.count(b"bot") == 2
    history = tmp_path / ".tok2chat_history"
    assert history.stat().st_mode & 0o777 == 0o600
    assert history.read_text().split("\n")[:2] == ["What is it?", "/stats"]
    # The up arrow brings the question back in the next session.
    for environment in dict(NO_COLOR="1"), dict(TERM="dumb"):
        shown, status = type_into_terminal(
            out, [(b"you", b"\x1b[A\x1b[A\x1b[A\x1b[A\n"), (b"you", b"/exit\n")], **home,
            **environment)
        assert status == 0 and b"\x1b[1m" not in shown
        assert b"bot" in shown


@pytest.mark.slow
def test_a_batch_goes_through_a_pipe(out, tmp_path):
    prompts = '{"prompt": "a"}\n{"prompt": "b"}\n'
    (tmp_path / "in.jsonl").write_text(prompts)
    piped = run_chat(out, "--batch", "-", "--output", "-", "--max_tokens", "5", stdin=prompts)
    assert piped.returncode == 0 and piped.stderr == ""
    filed = run_chat(out, "--batch", str(tmp_path / "in.jsonl"), "--max_tokens", "5",
                     "--output", str(tmp_path / "out.jsonl"))
    assert piped.stdout == (tmp_path / "out.jsonl").read_text()
    assert filed.stdout.endswith("out.jsonl: 2 answers, 2 of them new\n")
    bad = run_chat(out, "--batch", "-", "--output", "-", stdin=prompts + "{\n")
    assert bad.returncode == 2 and bad.stdout == "" and "standard input:3: " in bad.stderr


@pytest.mark.slow
def test_the_program_loads_chat_once(out):
    result = run_chat(out, "-p", "hi", "--max_tokens", "2", python_flags=["-X", "importtime"])
    imported = re.findall(r"\| +([\w.]+)$", result.stderr, re.M)
    assert result.returncode == 0 and "talk.terminal" in imported and "chat" not in imported
