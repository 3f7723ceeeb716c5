"""terminal.py: one answer, the conversation and its commands, Ctrl-C, files of prompts."""
import json
import os
import pty
import signal

import pytest
import torch

from chat import Config
from data.conversations import read_prompts
from talk.engine import Engine, Sampling, parse_answer
from talk.openai_protocol import chat_prompt
from talk.terminal import COMMANDS, batch, completions, read_prompt, show, terminal
from toy_chat import TEXTS, Scripted, byte_tokenizer, tiny_engine, tiny_model

torch.set_num_threads(1)


# ---- the prompt ----

@pytest.mark.parametrize("prompt, piped, base, wanted", [
    ("-", "a\nb\n", False, "a\nb"),
    (None, "a\nb\n", False, "a\nb"),
    ("Who?", "the text\n", False, "the text\n\nWho?"),
    ("Who?", "", False, "Who?"),
    ("", "a", False, "a"),
    (None, "\ufeffa", False, "a"),
    ("a\udcffb", "", False, "a\ufffdb"),
    (None, "def \n", True, "def \n"),
    ("def ", "import os\n", True, "import os\ndef "),
    ("", "", True, ""),
    (None, "", True, ""),
    ("", "", False, None),
    ("-", " \n", False, None),
    (" ", "\n", False, None),
    (None, "", False, None)])
def test_standard_input_and_the_prompt_are_joined(prompt, piped, base, wanted, tmp_path,
                                                  monkeypatch):
    (tmp_path / "stdin").write_text(piped)
    monkeypatch.setattr("sys.stdin", open(tmp_path / "stdin"))
    if wanted is None:
        with pytest.raises(ValueError, match="the prompt is empty"):
            read_prompt(prompt, base)
    else:
        assert read_prompt(prompt, base) == wanted


def test_a_pipe_that_says_nothing_is_not_waited_for_long(monkeypatch, capsys):
    read, write = os.pipe()
    monkeypatch.setattr("sys.stdin", os.fdopen(read))
    monkeypatch.setattr("talk.terminal.PIPE_SECONDS", 0.01)
    assert read_prompt("Hi", base=False) == "Hi"
    assert "standard input is an open pipe" in capsys.readouterr().err
    os.write(write, b"text")
    os.close(write)
    assert read_prompt("Hi", base=False) == "text\n\nHi" and capsys.readouterr().err == ""


def test_someone_at_a_terminal_gets_a_conversation_unless_there_is_a_prompt(monkeypatch):
    controller, terminal = pty.openpty()
    monkeypatch.setattr("sys.stdin", os.fdopen(terminal))
    assert read_prompt(None, base=False) is None
    assert read_prompt(None, base=True) == ""
    assert read_prompt("Hi", base=False) == "Hi"
    with pytest.raises(ValueError, match="empty"):
        read_prompt("", base=False)
    os.close(controller)


# ---- the conversation ----

def talk(lines, monkeypatch, capsys, engine=None, **flags):
    """Type lines into the terminal chat, in this process. -> everything it printed

    An exception among the lines is raised instead of typed.
    """
    tok = byte_tokenizer()
    engine = engine or Engine(tiny_model(seq_len=256), tok)
    lines = iter(lines)

    def typed(prompt):
        for line in lines:
            if isinstance(line, BaseException):
                raise line
            return line
        raise EOFError

    monkeypatch.setattr("builtins.input", typed)
    terminal(engine, tok, Config(max_tokens=8, **flags), Sampling(temperature=1.0), "a tiny model")
    return capsys.readouterr().out


def answers(printed):
    return [piece.split("\n(")[0].strip() for piece in printed.split("bot  ")[1:]]


def test_commands(monkeypatch, capsys, tmp_path):
    first, again, retried, other = answers(talk(
        ["hi", "/undo", "hi", "/retry", "/reset", "/seed 5", "hi"], monkeypatch, capsys))
    assert first == again != retried and other != first
    greedy = answers(talk(["/temperature 0", "hi", "/retry"], monkeypatch, capsys))
    assert greedy[0] == greedy[1]
    printed = talk(["/help", "/stats", "hi", "/stats", "/temperature -1", "/temperature x", "/seed",
                    "/nonsense", "/load /no/such/file", "/undo", "/undo", "/retry", "",
                    KeyboardInterrupt(), "/save /no/such/folder/x"], monkeypatch, capsys)
    assert all(words in printed for words in ("/retry", "no answer yet", "tokens/s",
                                              "nothing was asked yet"))
    assert printed.count("error: ") == 5 and "/nonsense: no such command" in printed
    assert len(answers(printed)) == 1


def test_save_and_load_go_on_with_the_same_conversation(monkeypatch, capsys, tmp_path):
    file = tmp_path / "chat.json"
    second = answers(talk(["/system be kind", "hi", f"/save {file}", "more"],
                          monkeypatch, capsys))[1]
    saved = json.loads(file.read_text())
    assert [m["role"] for m in saved["messages"]] == ["system", "user", "assistant"]
    assert saved["messages"][0]["content"] == "be kind"
    assert answers(talk([f"/load {file}", "more"], monkeypatch, capsys)) == [second]
    assert answers(talk(["more"], monkeypatch, capsys)) != [second]
    file.write_text('{"messages": [{"role": "assistant", "content": "x"}]}')
    assert "chat.json: message 1 has role" in talk([f"/load {file}"], monkeypatch, capsys)
    file.write_text('[1]')
    assert "chat.json: expected" in talk([f"/load {file}"], monkeypatch, capsys)


def test_a_loaded_question_gets_the_answer_of_a_fresh_session(monkeypatch, capsys, tmp_path):
    file = tmp_path / "chat.json"
    file.write_text('{"messages": [{"role": "user", "content": "hi"}]}')
    fresh = answers(talk([f"/load {file}"], monkeypatch, capsys))
    retried = answers(talk(["hi", "/retry", f"/load {file}"], monkeypatch, capsys))
    assert fresh == retried[2:] and retried[1] != retried[0]


def test_each_question_counts_its_own_retries(monkeypatch, capsys):
    printed = answers(talk(["hi", "/retry", "more", "/undo", "/retry"], monkeypatch, capsys))
    first, second, _, third = printed
    assert len({first, second, third}) == 3


def test_lines_of_every_kind(monkeypatch, capsys, tmp_path):
    file = tmp_path / "chat.json"
    talk(['"""', "/a", "", ' b"""', "//bin is a folder", "one\\", "two", '"""x"""', '"""', "end",
          EOFError(), f"/save {file}", "/bye", "never read"], monkeypatch, capsys)
    asked = [m["content"] for m in json.loads(file.read_text())["messages"][::2]]
    assert asked == ["/a\n\n b", "/bin is a folder", "one\ntwo", "x", "end"]


@pytest.mark.parametrize("word", ["/bye", "/exit", "/quit"])
def test_words_that_end_the_chat(word, monkeypatch, capsys):
    assert "bot" not in talk([word, "hi"], monkeypatch, capsys)


@pytest.mark.parametrize("word", ["/clear", "/reset", "/new"])
def test_words_that_start_a_new_conversation(word, monkeypatch, capsys):
    assert "nothing was asked yet" in talk(["hi", word, "/undo"], monkeypatch, capsys)


def test_completions(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out folder").mkdir()
    (tmp_path / "out folder" / "chat.json").touch()
    assert completions("/re") == ["/reset", "/retry"]
    assert completions("/load ou") == ["/load out folder/"]
    assert completions("/save out folder/c") == ["/save out folder/chat.json"]
    assert completions("/load none/") == completions("") == completions("re") == []
    assert completions("/system ou") == []
    # Every command of the help is known, and nothing else looks like one.
    assert {"/bye", "/clear", "/help", "/quit", "/system"} < set(COMMANDS)


def test_errors_are_words(monkeypatch, capsys, tmp_path):
    file = tmp_path / "x.json"
    file.write_text("[" * 100_000)
    printed = talk(["/temperature x", "/seed", "/load", "/save", "/load /no/file", f"/load {file}",
                    "/load ~nobody-here/x", "/etc/hosts?"], monkeypatch, capsys)
    for words in ("/temperature needs a number, not 'x'", "/seed needs a whole number",
                  "/load needs the name", "/save needs the name", "/no/file: No such file",
                  "~nobody-here/x: No such file", "//etc/hosts? sends it"):
        assert words in printed
    assert "Errno" not in printed and printed.count("error: ") == 7


def test_what_cannot_be_answered_changes_nothing(monkeypatch, capsys, tmp_path):
    talk(["hi", f"/save {tmp_path}/a", "/system " + "x" * 300, "/retry", "more", "/system",
          f"/save {tmp_path}/b"], monkeypatch, capsys)
    assert (tmp_path / "a").read_text() == (tmp_path / "b").read_text()


def test_save_replaces_a_file_only_by_a_whole_one(monkeypatch, capsys, tmp_path):
    file = tmp_path / "chat.json"
    file.write_text("old")
    link = tmp_path / "link"
    link.symlink_to(file)

    def full_disk(path, write):
        path.write_text("half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("talk.terminal.write_synced", full_disk)
        assert "error: No space left" in talk(["hi", f"/save {link}"], patch, capsys)
    assert file.read_text() == "old" and sorted(tmp_path.iterdir()) == [file, link]
    os.mkfifo(tmp_path / "pipe")
    for line in f"/save {tmp_path}/pipe", f"/load {tmp_path}/pipe":
        assert "pipe is not an ordinary file" in talk(["hi", line], monkeypatch, capsys)
    assert (tmp_path / "pipe").is_fifo()
    talk(["hi", f"/save {link}"], monkeypatch, capsys)
    assert link.is_symlink() and json.loads(file.read_text())["messages"]


def test_ctrl_c_stops_the_answer_and_not_the_program(monkeypatch, capsys):
    engine, tok = tiny_engine()
    engine.decoder = Scripted(engine, tok.encode("a" * 100), None)
    step = engine.step
    n_steps = 0

    def interrupted():
        nonlocal n_steps
        n_steps += 1
        if n_steps == 4:
            signal.raise_signal(signal.SIGINT)
        return step()

    engine.step = interrupted
    handler = signal.getsignal(signal.SIGINT)
    printed = talk(["hi", "again"], monkeypatch, capsys, engine)
    # The first answer ends after 4 tokens, the second one after 8.
    assert "aaaa\n(stopped)" in printed and "aaaaaaaa\n(cut off" in printed
    assert signal.getsignal(signal.SIGINT) is handler and not engine.active[1:]


def test_ctrl_c_before_the_first_token(monkeypatch, capsys):
    engine, tok = tiny_engine()
    # The signal comes during the first step, which yields nothing.
    engine.admit = lambda: signal.raise_signal(signal.SIGINT)
    assert "(stopped)" in talk(["hi", "/stats"], monkeypatch, capsys, engine)


def test_a_full_context_drops_the_oldest_turns_and_says_so(monkeypatch, capsys):
    printed = talk(["x" * 60, "y" * 60, "z" * 60, "w" * 60, "v" * 300], monkeypatch, capsys,
                   system="be kind")
    assert "the oldest turn is left out" in printed and "the message takes 3" in printed


def test_answers_cannot_steer_the_terminal(capsys):
    tok = byte_tokenizer()
    show(tok, tok.encode("a\x1b[2Jb\rc\x07\x9bd\té\n"))
    assert capsys.readouterr().out == "a\ufffd[2Jb\ufffdc\ufffd\ufffdd\té\n\n"


def test_tool_calls_stand_in_brackets(capsys):
    tok = byte_tokenizer()
    content = [{"type": "text", "text": "is "}, {"type": "python", "text": "1+1"},
               {"type": "python_output", "text": "2"}, {"type": "text", "text": "."}]
    messages = [{"role": "user", "content": ""}, {"role": "assistant", "content": content}]
    ids, _ = tok.render_conversation({"messages": messages})
    show(tok, ids[4:])
    assert capsys.readouterr().out == "is [python: 1+1][= 2].\n"


# ---- batch files ----

def run_batch(tmp_path, prompts, seed=0, weights="ab12", system=""):
    engine, tok = tiny_engine(max_rows=3)
    # Blank lines between the prompts don't count.
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(p) + "\n\n" for p in prompts))
    cfg = Config(batch=str(tmp_path / "in.jsonl"), output=str(tmp_path / "out.jsonl"),
                 max_tokens=10)
    rows = list(read_prompts(cfg.batch, system))
    batch(engine, tok, cfg, Sampling(temperature=1.0, seed=seed), rows, weights)
    return (tmp_path / "out.jsonl").read_bytes()


def test_batch_answers_in_order_and_resumes(tmp_path, capsys):
    prompts = [{"prompt": text} for text in TEXTS]
    prompts += [{"messages": [{"role": "user", "content": text}]} for text in TEXTS]
    whole = run_batch(tmp_path, prompts)
    records = [json.loads(line) for line in whole.splitlines()]
    assert [record["messages"][0]["content"] for record in records] == TEXTS * 2
    assert all(record["messages"][1]["role"] == "assistant" for record in records)
    # When a prompt comes a second time, its answer is another sample.
    assert records[0]["messages"][1] != records[5]["messages"][1]
    lines = whole.splitlines(keepends=True)
    for cut in (b"".join(lines[:4]), b"".join(lines[:7]) + lines[7][:20], b"", whole):
        (tmp_path / "out.jsonl").write_bytes(cut)
        assert run_batch(tmp_path, prompts) == whole
    with pytest.raises(ValueError, match="out.jsonl:1 answers another prompt"):
        run_batch(tmp_path, prompts, seed=1)
    with pytest.raises(ValueError, match="out.jsonl:1 .* other weights"):
        run_batch(tmp_path, prompts, weights="cd34")
    with pytest.raises(ValueError, match="out.jsonl:1 answers another prompt"):
        run_batch(tmp_path, prompts, system="Be kind.")
    with pytest.raises(ValueError, match="out.jsonl:1 answers another prompt"):
        run_batch(tmp_path, prompts[1:])
    with pytest.raises(ValueError, match="out.jsonl:10 answers another prompt"):
        run_batch(tmp_path, prompts[:9])


def test_batch_keeps_ids_and_system_messages_and_resumes_by_them(tmp_path):
    def system(text):
        return {"role": "system", "content": text}

    question = {"role": "user", "content": "hi"}
    tools = [{"name": "add"}]
    # Half a character is one that no file in UTF-8 can hold.
    prompts = [{"id": "\ud800", "prompt": "hi"}, {"id": 2, "prompt": "hi", "system": "Own."},
               {"id": 3, "prompt": "hi", "tools": tools}, [system("Own."), question],
               {"id": None, "question": "hi", "System": ""}]
    whole = run_batch(tmp_path, prompts, system="Be kind.")
    records = [json.loads(line) for line in whole.splitlines()]
    assert [record.get("id", "none") for record in records] == ["\ud800", 2, 3, "none", None]
    with_tools = 'Be kind.\n\nTools:\n{"name": "add"}'
    assert [record["messages"][:-1] for record in records] == [
        [system(text), question] for text in ("Be kind.", "Own.", with_tools, "Own.", "Be kind.")]
    (tmp_path / "out.jsonl").write_bytes(b"".join(whole.splitlines(keepends=True)[:3]))
    assert run_batch(tmp_path, prompts, system="Be kind.") == whole
    prompts[1]["id"] = 5
    with pytest.raises(ValueError, match="out.jsonl:2 answers another prompt"):
        run_batch(tmp_path, prompts, system="Be kind.")


def test_batch_continues_an_answer_as_the_server_does(tmp_path):
    question = {"role": "user", "content": "hi"}
    code = [{"type": "text", "text": "is "}, {"type": "python", "text": "2+"}]
    begun = [[question, {"role": "assistant", "content": content}]
             for content in ("hel", "hel", code)]
    prompts = [{"id": i, "messages": messages} for i, messages in enumerate(begun)]
    whole = run_batch(tmp_path, prompts)
    records = [json.loads(line) for line in whole.splitlines()]
    assert [record["continues"] for record in records] == ["hel", "hel", code]
    assert [record["messages"][:-1] for record in records] == [[question]] * 3
    engine, tok = tiny_engine(max_rows=3)
    ids = [chat_prompt(messages, tok, engine.max_len)[0] for messages in begun]
    answers = engine.generate(ids, 10, temperature=1.0)
    for record, prompt, answer in zip(records, ids, answers):
        start = prompt.index(tok.special("<|assistant_start|>")) + 1
        assert record["messages"][-1]["content"] == parse_answer(tok, prompt[start:] + answer)
    assert run_batch(tmp_path, prompts) == whole
    # An answer that begins in another way is another prompt.
    prompts[1]["messages"] = begun[2]
    with pytest.raises(ValueError, match="out.jsonl:2 answers another prompt"):
        run_batch(tmp_path, prompts)


@pytest.mark.parametrize("content", ["[1, 2]", "[1, 2]\n", '{"prompt": "a"}\n', '{"prompt": "a"}',
                                     "a\nb"])
def test_batch_leaves_a_file_alone_that_holds_no_answers(tmp_path, content):
    (tmp_path / "out.jsonl").write_text(content)
    with pytest.raises(ValueError, match="out.jsonl:1 .* another --output"):
        run_batch(tmp_path, [{"prompt": "a"}])
    assert (tmp_path / "out.jsonl").read_text() == content


@pytest.mark.parametrize("line, words", [
    ("{", "Expecting"),
    ("[]", "expected"),
    ('{"x": 1}', "expected"),
    ('{"prompt": 5}', "expected"),
    ('{"prompt": "\\ud800"}', "lone surrogate"),
    ('{"chosen": "a", "rejected": "b"}', "preference pair"),
    ('{"messages": [{"role": "assistant", "content": "x"}]}', "role"),
    ('{"prompt": "%s"}' % ("x" * 200), "204 tokens"),])
def test_batch_names_the_bad_line_before_it_starts(tmp_path, line, words):
    engine, tok = tiny_engine()
    (tmp_path / "in.jsonl").write_text('{"prompt": "a"}\n' + line + "\n")
    cfg = Config(batch=str(tmp_path / "in.jsonl"), output=str(tmp_path / "out.jsonl"))
    with pytest.raises(ValueError, match="in.jsonl:2: .*" + words):
        batch(engine, tok, cfg, Sampling(), list(read_prompts(cfg.batch)), "ab12")
    assert not (tmp_path / "out.jsonl").exists()
