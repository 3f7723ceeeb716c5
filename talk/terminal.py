"""
What chat.py does in a terminal: one answer, a conversation, a file of prompts (--batch).
"""
import contextlib
import json
import os
import re
import select
import signal
import sys
import time
from collections import Counter, deque
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from machine import check_file, in_words, write_synced
from talk.context import fit
from talk.engine import PartStream, Sampling, parse_answer
from talk.openai_protocol import open_answer

HELP = """\
/retry           answer the last question once more, differently
/undo            forget the last question and its answer
/reset           start a new conversation, also /clear and /new
/system TEXT     set the system message; without TEXT: remove it
/temperature X   0: always the likeliest token; now {temperature}
/seed N          another seed gives other answers; now {seed}
/save FILE       write the conversation as JSON
/load FILE       go on with a saved conversation
/stats           speed and context of the last answer
/help            this list
/bye             end the chat, also /exit, /quit and Ctrl-D
Ctrl-C stops an answer. The tab key completes commands and file names.
A line that ends with \\ goes on in the next one. \"\"\" begins a text of many lines and ends it.
// sends a line that begins with /."""

COMMANDS = sorted({"/quit", *re.findall(r"/[a-z]+", HELP)})
# What was typed, in all sessions. Only its owner may read it.
HISTORY = "~/.tok2chat_history"
HISTORY_LINES = 1000
# The fields of a row of --batch that say which it is.
IDS = ("id", "custom_id")
# How long a prompt waits for the first byte of a pipe that may never say anything, in seconds.
PIPE_SECONDS = 3

# An answer could steer the terminal with these characters: show U+FFFD in their place.
CONTROL = {i: "\ufffd" for i in [*range(32), *range(127, 160)] if chr(i) not in "\n\t"}

# --------------------------------------------------------------------------------------------------
# One answer

def styled():
    """Whether colours and bold are welcome: on a terminal that knows them (no-color.org)."""
    return (sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
            and not os.environ.get("NO_COLOR"))


def show(tok, ids):
    """Print an answer as its ids come. Tool calls and results stand in brackets and in colour."""
    cyan = "\033[36m" if styled() else ""
    plain = "\033[0m" if styled() else ""
    opening = {"text": "", "python": f"{cyan}[python: ", "python_output": f"{cyan}[= "}
    closing = {"text": "", "python": f"]{plain}", "python_output": f"]{plain}"}
    current = "text"
    for part_type, text in PartStream(tok).whole(ids):
        begins_part = part_type != current or text == ""
        if begins_part:
            print(closing[current] + opening[part_type], end="")
            current = part_type
        print(text.translate(CONTROL), end="", flush=True)
    print(closing[current])


def answer(engine, tok, ids, max_tokens, sampling, raw=False, copy=0):
    """Stream one answer to the terminal. -> (its Generation, a line of statistics)

    Ctrl-C ends the answer, not the program: the finish of the Generation is then "cancelled".
    """
    start = time.perf_counter()
    generation = engine.submit(ids, max_tokens, sampling, raw, copy)
    # When each step brought its token, in seconds since the start.
    times = []
    stopped = False

    def stop(number, frame):
        # The answer ends after the running step, where the engine is consistent.
        nonlocal stopped
        stopped = True

    def new_ids():
        while not generation.finish and not stopped:
            for _, new in engine.step():
                times.append(time.perf_counter() - start)
                yield from new

    previous_handler = signal.signal(signal.SIGINT, stop)
    try:
        show(tok, new_ids())
    finally:
        engine.cancel(generation)
        signal.signal(signal.SIGINT, previous_handler)

    if not times:
        return generation, "stopped before its first token"
    n_tokens = len(generation.answer)
    rate = (n_tokens - 1) / (times[-1] - times[0]) if len(times) > 1 else 0
    stats = (f"{n_tokens} tokens, {rate:.0f} tokens/s, the first after {1e3 * times[0]:.0f} ms; "
             f"context {len(generation.ids)} of {engine.max_len} tokens, {generation.reused} of "
             f"them known from earlier turns")
    return generation, stats


def read_prompt(prompt, base):
    """Join standard input, where that is a pipe or a file, and the prompt of the command line.

    prompt: "-" stands for standard input alone. None: no prompt was given; the result is None if
    standard input is a terminal, too. ValueError if there is nothing to answer; with base, nothing
    can be continued as well.
    """
    piped = ""
    if prompt == "-":
        piped = sys.stdin.read()
        prompt = None
    elif sys.stdin.isatty():
        if prompt is None:
            return "" if base else None
    elif prompt is None or pipe_speaks():
        piped = sys.stdin.read()
    # A byte of the command line that is no UTF-8 is a lone surrogate in Python.
    prompt = (prompt or "").encode(errors="surrogateescape").decode(errors="replace")
    piped = piped.removeprefix("\ufeff")
    if base:
        return piped + prompt
    # A pipe ends with a newline that nobody means.
    texts = [text for text in (piped.rstrip("\n"), prompt) if text.strip()]
    if not texts:
        raise ValueError("the prompt is empty: give it on the command line or on standard input")
    return "\n\n".join(texts)


def pipe_speaks():
    """Wait until standard input has its first bytes or has ended. False: nothing came in time.

    A program that starts this one may leave a pipe open in which it never writes.
    """
    try:
        ready, _, _ = select.select([sys.stdin], [], [], PIPE_SECONDS)
    except OSError:
        # Windows can wait for sockets only.
        return True
    if not ready:
        print(f"note: standard input is an open pipe that said nothing in {PIPE_SECONDS} s, so "
              f"the prompt is answered without it (< /dev/null avoids the wait)",
              file=sys.stderr, flush=True)
    return bool(ready)


def one_answer(engine, tok, cfg, sampling, prompt):
    """Answer the prompt, or with cfg.base continue it. KeyboardInterrupt if Ctrl-C ended that."""
    if cfg.base:
        ids = [tok.special("<|bos|>")] + tok.encode(prompt)
        print(prompt.translate(CONTROL), end="", flush=True)
    else:
        record = make_record(cfg.system, [{"role": "user", "content": prompt}])
        ids, _ = fit_record(record, engine, tok, cfg.max_tokens)
    generation, _ = answer(engine, tok, ids, cfg.max_tokens, sampling, raw=cfg.base)
    if generation.finish == "cancelled":
        raise KeyboardInterrupt

# --------------------------------------------------------------------------------------------------
# The conversation in the terminal

@dataclass
class Conversation:
    """The state that the commands of HELP show and change."""
    # The system message, "" for none.
    system: str
    sampling: Sampling
    # The messages after the system message: user, assistant, user, ...
    messages: list = field(default_factory=list)
    # How many times the question with this index in messages was asked again.
    retries: dict = field(default_factory=dict)
    # A line about the last answer.
    stats: str = "no answer yet"


def terminal(engine, tok, cfg, sampling, title):
    """Read lines, answer each or carry out its command, until /bye or Ctrl-D."""
    conversation = Conversation(cfg.system, sampling)
    readline = open_readline()
    print(f"{title}\n/help lists the commands, /bye ends.")
    while True:
        try:
            line, is_command = read_line(readline)
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            # Ctrl-C drops the line that was being typed.
            continue
        if is_command and line.split()[0] in ("/bye", "/exit", "/quit"):
            return
        before = deepcopy(conversation)
        ask = False
        try:
            if is_command:
                ask = command(conversation, tok, line)
            elif line.strip():
                conversation.retries.pop(len(conversation.messages), None)
                conversation.messages.append({"role": "user", "content": line})
                ask = True
            if ask:
                reply(conversation, engine, tok, cfg.max_tokens)
        except (ValueError, OSError, RecursionError) as e:
            # What can't be done or answered leaves everything as it was.
            conversation = before
            print(f"error: {in_words(e)}")


def open_readline():
    """Give input() arrow keys, completion and a history -> the module readline, or None.

    It is None on Windows, which has no such module, and where nobody types.
    """
    try:
        import readline
    except ImportError:
        return None
    if not sys.stdin.isatty():
        return None
    # The whole line is one word, since file names may hold spaces.
    readline.set_completer_delims("")
    readline.set_completer(lambda line, i: [*completions(line), None][i])
    # macOS has libedit under the name of readline.
    editline = "libedit" in (readline.__doc__ or "")
    readline.parse_and_bind("bind ^I rl_complete" if editline else "tab: complete")
    readline.set_auto_history(False)
    readline.set_history_length(HISTORY_LINES)
    # Without a home folder, the history ends with the session.
    with contextlib.suppress(OSError):
        Path(os.path.expanduser(HISTORY)).touch(mode=0o600)
        readline.read_history_file(os.path.expanduser(HISTORY))
    return readline


def type_line(prompt, readline):
    """One line from the terminal. With readline, it joins the history at once, also on the disk."""
    line = input(prompt)
    if readline and line.strip():
        readline.add_history(line)
        # Appending leaves the lines of other sessions alone. An old libedit can't.
        with contextlib.suppress(OSError, AttributeError):
            readline.append_history_file(1, os.path.expanduser(HISTORY))
    return line


def completions(line):
    """What a line may become: "/re" -> ["/reset", "/retry"], "/load ou" -> ["/load out/"]."""
    word, space, path = line.partition(" ")
    if not space:
        return [name for name in COMMANDS if line and name.startswith(line)]
    if word not in ("/load", "/save"):
        return []
    folder, start = os.path.split(path)
    try:
        found = sorted(Path(os.path.expanduser(folder)).iterdir())
    except OSError:
        return []
    return [f"{word} {os.path.join(folder, entry.name)}{'/' if entry.is_dir() else ''}"
            for entry in found if entry.name.startswith(start)]


def read_line(readline):
    r"""What was typed -> the text, and whether it is a command. EOFError after Ctrl-D.

    A line that ends with \ goes on in the next one. Three quotes begin a text of many lines and end
    it. Two slashes stand for one that doesn't begin a command.
    """
    # \001 and \002 tell readline that what stands between them takes no room on the screen.
    bold = "\001\033[1m\002{}\001\033[0m\002" if styled() else "{}"
    line = type_line("\n" + bold.format("you  "), readline)
    if line.lstrip().startswith('"""'):
        text = line.lstrip().removeprefix('"""')
        while not text.rstrip().endswith('"""'):
            try:
                text += "\n" + type_line("     ", readline)
            except EOFError:
                # Ctrl-D ends the text, too.
                return text.strip("\n"), False
        return text.rstrip().removesuffix('"""').strip("\n"), False
    while line.endswith("\\"):
        line = line[:-1] + "\n" + type_line("     ", readline)
    if line.startswith("//"):
        return line[1:], False
    return line, line.strip().startswith("/")


def command(conversation, tok, line):
    """Carry out a line that begins with /. -> whether there is now a question to answer

    ValueError or OSError if an argument is wrong.
    """
    word, _, rest = line.strip().partition(" ")
    rest = rest.strip()
    match word:
        case "/help":
            print(HELP.format(**vars(conversation.sampling)))
        case "/stats":
            print(conversation.stats)
        case "/reset" | "/clear" | "/new":
            conversation.messages = []
        case "/undo" | "/retry" if not conversation.messages:
            print("nothing was asked yet")
        case "/undo":
            del conversation.messages[-2:]
        case "/retry":
            conversation.messages.pop()
            question = len(conversation.messages) - 1
            conversation.retries[question] = conversation.retries.get(question, 0) + 1
            return True
        case "/system":
            conversation.system = rest
        case "/temperature":
            value = read_number(float, word, rest)
            conversation.sampling = replace(conversation.sampling, temperature=value)
        case "/seed":
            value = read_number(int, word, rest)
            conversation.sampling = replace(conversation.sampling, seed=value)
        case "/save" | "/load" if not rest:
            raise ValueError(f"{word} needs the name of a file: {word} chat.json")
        case "/save":
            save(make_record(conversation.system, conversation.messages), rest)
        case "/load":
            messages = load(rest, tok)
            conversation.system = ""
            if messages[0]["role"] == "system":
                conversation.system = messages.pop(0)["content"]
            conversation.messages = messages
            conversation.retries = {}
            return messages[-1]["role"] == "user"
        case _:
            print(f"{word}: no such command; /help lists them, and /{word} sends it as a question")
    return False


def read_number(kind, word, text):
    """The argument of a command as an int or a float. ValueError in words if it is none."""
    try:
        return kind(text)
    except ValueError:
        what = "a whole number" if kind is int else "a number"
        raise ValueError(f"{word} needs {what}, not {text!r}") from None


def save(record, name):
    """Write a conversation to a file. If that fails, an old file of this name stays whole."""
    # A link stays a link to the file.
    path = Path(os.path.expanduser(name)).resolve()
    check_file(path)
    text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
    new = path.with_name(path.name + ".tmp")
    try:
        write_synced(new, lambda f: f.write(text.encode()))
        os.replace(new, path)
    except OSError:
        new.unlink(missing_ok=True)
        raise
    print(f"(saved to {path})")


def load(name, tok):
    """A file that /save wrote -> its messages. ValueError or OSError if it is something else."""
    path = Path(os.path.expanduser(name))
    # Reading a device may never end.
    check_file(path)
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    try:
        record = json.loads(text)
    except ValueError as e:
        raise ValueError(f"{name} is not JSON: {e}") from None
    try:
        return read_messages(tok, record)
    except ValueError as e:
        raise ValueError(f"{name}: {e}") from None


def reply(conversation, engine, tok, max_tokens):
    """Answer the question at the end of the conversation, and add the answer to it."""
    question = len(conversation.messages) - 1
    print("bot  ", end="", flush=True)
    record = make_record(conversation.system, conversation.messages)
    ids, dropped = fit_record(record, engine, tok, max_tokens)
    if dropped:
        turns = "turn is" if dropped == 1 else f"{dropped} turns are"
        print(f"(the context of {engine.max_len} tokens is full: the oldest {turns} left out)")
    generation, conversation.stats = answer(engine, tok, ids, max_tokens, conversation.sampling,
                                            copy=conversation.retries.get(question, 0))
    if generation.finish == "cancelled":
        print("(stopped)")
    elif generation.finish == "length":
        print("(cut off: --max_tokens or the context is used up)")
    parts = parse_answer(tok, generation.answer)
    conversation.messages.append({"role": "assistant", "content": parts})


def fit_record(record, engine, tok, max_tokens):
    """A conversation -> the ids that the answer follows, and the number of turns left out.

    ValueError if the last question alone is too long.
    """
    def render(messages):
        return tok.render_for_completion({"messages": messages})

    messages, dropped = fit(record["messages"], max_tokens, engine.max_len,
                            lambda messages: len(render(messages)))
    ids = render(messages)
    if len(ids) >= engine.max_len:
        raise ValueError(f"the message takes {len(ids)} tokens, there is room for "
                         f"{engine.max_len - 1}: shorten it")
    return ids, dropped


def make_record(system, messages):
    """The conversation as a record; an empty system message is none."""
    first = [{"role": "system", "content": system}] if system else []
    return {"messages": first + messages}


def read_messages(tok, record):
    """A record {"prompt": text} or a conversation -> its messages. ValueError if it is neither."""
    try:
        if "prompt" in record:
            messages = [{"role": "user", "content": record["prompt"]}]
        else:
            messages = record["messages"]
        tok.render_conversation({"messages": messages})
        return messages
    except (TypeError, KeyError, AttributeError) as e:
        raise ValueError(f'expected {{"prompt": text}} or '
                         f'{{"messages": [{{"role": ..., "content": text}}, ...]}} '
                         f"({type(e).__name__}: {e})") from None

# --------------------------------------------------------------------------------------------------
# A file of prompts

def batch(engine, tok, cfg, sampling, rows, weights):
    """Answer each row, and write one conversation a line, in order, to cfg.output; "-" is stdout.

    rows: (where, messages, row) of each prompt, as data/conversations.py reads them. The "id" of a
    row stays with its answer. Where the last message is the assistant's, it is continued, as the
    server does; "continues" keeps how it began. If cfg.output holds answers of an earlier run, they
    stay, and the rest is added. weights: what identifies the checkpoint, so that no two are mixed
    in one file.
    """
    prompts = [read_prompt_row(tok, engine.max_len, *row) for row in rows]
    made_by = dict(weights=weights, max_tokens=cfg.max_tokens, **asdict(sampling))
    total = len(prompts)
    to_stdout = cfg.output == "-"
    with open(1 if to_stdout else cfg.output, "wb" if to_stdout else "a+b",
              closefd=not to_stdout) as f:
        old = 0 if to_stdout else count_answers(f, prompts, made_by)
        start = time.time()
        generations = answer_in_order(engine, [prompt.ids for prompt in prompts], old,
                                      cfg.max_tokens, sampling)
        for done, generation in enumerate(generations, old + 1):
            messages, ids, kept, n_begun = prompts[done - 1]
            parts = parse_answer(tok, ids[len(ids) - n_begun:] + generation.answer)
            record = {"messages": messages + [{"role": "assistant", "content": parts}],
                      **kept, "finish": generation.finish, "tokens": len(generation.answer),
                      "made_by": made_by}
            f.write(as_line(record))
            f.flush()
            if sys.stderr.isatty():
                show_progress(done, total, rate=(done - old) / (time.time() - start))
    if not to_stdout:
        print(f"{cfg.output}: {total} answers, {total - old} of them new", flush=True)


def as_line(record):
    """A record as a line of JSON. Half a character, which UTF-8 lacks, becomes its JSON escape."""
    return json.dumps(record, ensure_ascii=False).encode(errors="backslashreplace") + b"\n"


def show_progress(done, total, rate):
    """Draw a bar over the one before it. rate: answers per second."""
    bar = "#" * (30 * done // total)
    # \r goes back to the start of the line.
    print(f"\r[{bar:30}] {done} of {total}, {rate:.1f}/s, {(total - done) / rate:.0f} s left ",
          end="" if done < total else "\n", file=sys.stderr, flush=True)


class Prompt(NamedTuple):
    """What is asked in a row.

    messages: up to the user's last one. ids: of all messages; the last n_begun of them are those of
    an answer that goes on. kept: the fields of the row that stay with its answer.
    """
    messages: list
    ids: list
    kept: dict
    n_begun: int = 0


def read_prompt_row(tok, max_len, where, messages, row):
    """-> Prompt. ValueError names the row if it is too long."""
    kept = {}
    if isinstance(row, dict):
        kept = {name: row[name] for name in IDS if name in row}
    ids = tok.render_for_completion({"messages": messages})
    n_begun = 0
    if messages[-1]["role"] == "assistant":
        start = len(ids)
        content = messages[-1]["content"]
        kept["continues"] = content
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else [*content]
        messages = messages[:-1]
        ids, _ = open_answer([*messages, {"role": "assistant", "content": parts}], tok)
        n_begun = len(ids) - start
    if len(ids) >= max_len:
        raise ValueError(f"{where}: {len(ids)} tokens, this model takes up to {max_len - 1}")
    return Prompt(messages, ids, kept, n_begun)


def count_answers(f, prompts, made_by):
    """How many answers an earlier run left in f. ValueError if f holds anything else.

    A last line that was cut off is removed from f.
    """
    f.seek(0)
    *lines, torn = f.read().split(b"\n")
    wrong = [i for i, line in enumerate(lines)
             if i >= len(prompts) or not is_answer(line, prompts[i], made_by)]
    # A last line without its newline was cut off. If it does not even begin like an answer, this is
    # some other file, which we must not change.
    beginning = b'{"messages": ['
    if not beginning.startswith(torn[:len(beginning)]):
        wrong.append(len(lines))
    if wrong:
        raise ValueError(f"{f.name}:{wrong[0] + 1} answers another prompt or was made with other "
                         f"weights or settings: give the same flags to go on, or another --output "
                         f"to start afresh")
    f.truncate(f.tell() - len(torn))
    return len(lines)


def is_answer(line, prompt, made_by):
    """Whether a line of the output answers this prompt and was made by these settings."""
    try:
        old = json.loads(line)
        return (old["messages"][:-1] == prompt.messages and old["made_by"] == made_by
                and old.get("continues") == prompt.kept.get("continues")
                and all(old[name] == value for name, value in prompt.kept.items()))
    except (ValueError, TypeError, KeyError):
        return False


def answer_in_order(engine, prompts, old, max_tokens, sampling):
    """Yield a finished Generation for each prompt after the first `old` ones, in their order.

    prompts: lists of ids. Equal prompts get different samples, also across runs.
    """
    todo = deque(prompts[old:])
    running = deque()
    # How often each prompt came before: the first sample of a prompt is copy 0, the next is copy 1.
    seen = Counter(tuple(ids) for ids in prompts[:old])
    while todo or running:
        # With twice as many as the engine has rows, no row ever waits for work.
        while todo and len(running) < 2 * engine.max_rows:
            ids = todo.popleft()
            running.append(engine.submit(ids, max_tokens, sampling, copy=seen[tuple(ids)]))
            seen[tuple(ids)] += 1
        engine.step()
        while running and running[0].finish:
            yield running.popleft()
