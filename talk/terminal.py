"""
What chat.py prints and reads: answers as they come, the conversation in the terminal, files of prompts (--batch).
"""
import json
import signal
import sys
import time
from collections import Counter, deque
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from talk.engine import PartStream, Sampling, parse_answer

HELP = """\
/retry           answer the last question once more, differently       /undo      forget the last question and answer
/reset           start a new conversation                              /stats     speed and context of the last answer
/system TEXT     set the system message; without TEXT: remove it       /help      this list
/temperature X   0 is greedy; now {temperature}                        /seed N    now {seed}
/save FILE       write the conversation as JSON                        /load FILE go on with a saved one
A line that ends with \\ goes on. Ctrl-C stops an answer, Ctrl-D ends."""

# characters by which an answer could steer the terminal
CONTROL = {i: "\ufffd" for i in [*range(32), *range(127, 160)] if chr(i) not in "\n\t"}

# ---------------------------------------------------------------------------------------------------------------------
# One answer

def show(tok, ids):
    """Print an answer as its ids come; tool calls and results stand in brackets, on a terminal in colour."""
    color, plain = ("\033[36m", "\033[0m") if sys.stdout.isatty() else ("", "")
    opening = {"text": "", "python": f"{color}[python: ", "python_output": f"{color}[= "}
    closing = {"text": "", "python": f"]{plain}", "python_output": f"]{plain}"}
    type = "text"
    for new, text in PartStream(tok).whole(ids):
        if text == "" or new != type:
            print(closing[type] + opening[new], end="")
            type = new
        print(text.translate(CONTROL), end="", flush=True)
    print(closing[type])


def answer(engine, tok, ids, max_tokens, sampling, raw=False, copy=0):
    """Stream one answer to the terminal; Ctrl-C ends it, not the program. -> (its Generation, a line of statistics)"""
    stop, times, start = [], [], time.perf_counter()
    text = engine.submit(ids, max_tokens, sampling, raw, copy)
    before = signal.signal(signal.SIGINT, lambda *_: stop.append(True))      # between two steps the engine is whole

    def new_ids():
        while not text.finish and not stop:
            for _, new in engine.step():
                times.append(time.perf_counter() - start)
                yield from new
    try:
        show(tok, new_ids())
    finally:
        engine.cancel(text)
        signal.signal(signal.SIGINT, before)
    if not times:
        return text, "no token yet when it was stopped"
    rate = (len(text.answer) - 1) / (times[-1] - times[0]) if len(times) > 1 else 0
    return text, (f"{len(text.answer)} tokens, {rate:.0f} tokens/s, the first after {1e3 * times[0]:.0f} ms; context "
                  f"{len(text.ids)} of {engine.max_len} tokens, {text.reused} of them known from earlier turns")


def one_answer(engine, tok, cfg, sampling):
    """Answer cfg.prompt, or continue it with cfg.base; KeyboardInterrupt if Ctrl-C ended that."""
    prompt = sys.stdin.read() if cfg.prompt == "-" else cfg.prompt
    if cfg.base:
        ids = [tok.special("<|bos|>")] + tok.encode(prompt)
        print(prompt.translate(CONTROL), end="", flush=True)
    else:
        ids, _ = fit(tok, cfg.system, [{"role": "user", "content": prompt}], engine.max_len - 1)
    text, _ = answer(engine, tok, ids, cfg.max_tokens, sampling, raw=cfg.base)
    if text.finish == "cancelled":
        raise KeyboardInterrupt

# ---------------------------------------------------------------------------------------------------------------------
# The conversation in the terminal

@dataclass
class Conversation:
    """What the commands of HELP look at and change."""
    system: str                   # the system message, "" for none
    sampling: Sampling
    turns: list = field(default_factory=list)    # the messages after it: user, assistant, user, ...
    retries: int = 0              # how many times the last question was asked again
    stats: str = "no answer yet"


def terminal(engine, tok, cfg, sampling, title):
    """Read a line, answer it or do what it commands, until Ctrl-D."""
    try:
        import readline  # noqa: F401, arrow keys and history in input(); not on Windows
    except ImportError:
        pass
    talk = Conversation(cfg.system, sampling)
    print(f"{title}\n/help lists the commands, Ctrl-D ends.")
    while True:
        try:
            line = read_line()
        except EOFError:
            print()
            return
        except KeyboardInterrupt:                                            # drops the line that was being typed
            continue
        ask = False
        try:
            if line.strip().startswith("/"):
                ask = command(talk, tok, line)
            elif line.strip():
                talk.turns.append({"role": "user", "content": line})
                talk.retries, ask = 0, True
            if ask:
                reply(talk, engine, tok, cfg.max_tokens)
        except (ValueError, OSError) as e:
            print(f"error: {e}")
            if ask:
                talk.turns.pop()                                             # a question that can't be answered


def read_line():
    r"""What was typed; a line that ends with \ goes on in the next. EOFError after Ctrl-D."""
    bold = "\001\033[1m\002{}\001\033[0m\002" if sys.stdout.isatty() else "{}"   # \001 \002: no width, for readline
    line = input("\n" + bold.format("you  "))
    while line.endswith("\\"):
        line = line[:-1] + "\n" + input("     ")
    return line


def command(talk, tok, line):
    """Do what a line that begins with / says. -> whether the conversation now ends with a question to answer"""
    word, _, rest = line.strip().partition(" ")
    rest = rest.strip()
    match word:
        case "/help":
            print(HELP.format(**vars(talk.sampling)))
        case "/stats":
            print(talk.stats)
        case "/reset":
            talk.turns = []
        case "/undo" | "/retry" if not talk.turns:
            print("nothing was asked yet")
        case "/undo":
            del talk.turns[-2:]
        case "/retry":
            talk.turns.pop()
            talk.retries += 1
            return True
        case "/system":
            talk.system = rest
        case "/temperature":
            talk.sampling = replace(talk.sampling, temperature=float(rest))  # ValueError if out of range
        case "/seed":
            talk.sampling = replace(talk.sampling, seed=int(rest))
        case "/save":
            record = {"messages": with_system(talk.system, talk.turns)}
            text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
            Path(rest).expanduser().write_text(text, encoding="utf-8")
        case "/load":
            messages = read_messages(tok, json.loads(Path(rest).expanduser().read_text(encoding="utf-8")))
            talk.system = messages.pop(0)["content"] if messages[0]["role"] == "system" else ""
            talk.turns = messages
            return messages[-1]["role"] == "user"
        case _:
            print(f"{word}: no such command; /help lists them")
    return False


def reply(talk, engine, tok, max_tokens):
    """Answer the question at the end of the conversation, and add the answer to it."""
    print("bot  ", end="", flush=True)
    ids, dropped = fit(tok, talk.system, talk.turns, engine.max_len - min(max_tokens, engine.max_len // 4))
    if dropped:
        print(f"(the context of {engine.max_len} tokens is full: the oldest {dropped} turns are left out)")
    text, talk.stats = answer(engine, tok, ids, max_tokens, talk.sampling, copy=talk.retries)
    if text.finish == "cancelled":
        print("(stopped)")
    elif text.finish == "length":
        print("(cut off: --max_tokens or the context is used up)")
    talk.turns.append({"role": "assistant", "content": parse_answer(tok, text.answer)})


def fit(tok, system, turns, room):
    """-> (ids of the conversation in at most `room` tokens, number of oldest turns left out). A system text stays."""
    for dropped in range(0, len(turns), 2):
        ids = tok.render_for_completion({"messages": with_system(system, turns[dropped:])})
        if len(ids) <= room:
            return ids, dropped // 2
    raise ValueError(f"the message takes {len(ids)} tokens, there is room for {room}: shorten it")


def with_system(system, turns):
    return ([{"role": "system", "content": system}] if system else []) + turns


def read_messages(tok, record):
    """Check what a file holds: {"prompt": text} or a conversation -> its messages; ValueError if neither."""
    try:
        messages = [{"role": "user", "content": record["prompt"]}] if "prompt" in record else record["messages"]
        tok.render_conversation({"messages": messages})
        return messages
    except (TypeError, KeyError, AttributeError) as e:
        raise ValueError(f'expected {{"prompt": text}} or {{"messages": [{{"role": ..., "content": text}}, ...]}} '
                         f"({type(e).__name__}: {e})") from None

# ---------------------------------------------------------------------------------------------------------------------
# A file of prompts

def batch(engine, tok, cfg, sampling, stage):
    """Answer every line of cfg.batch into cfg.output, a conversation a line, in order. Lines that are there stay."""
    if not cfg.output:
        raise ValueError("--batch needs --output FILE for the answers")
    prompts = read_prompts(cfg.batch, tok, engine.max_len)
    made_by = dict(stage=stage, max_tokens=cfg.max_tokens, **asdict(sampling))
    with open(cfg.output, "a+b") as f:
        old, start = count_answers(f, prompts, made_by), time.time()
        answers = answer_in_order(engine, [ids for _, ids in prompts], old, cfg.max_tokens, sampling)
        for done, ((messages, _), text) in enumerate(zip(prompts[old:], answers), old + 1):
            record = {"messages": messages + [{"role": "assistant", "content": parse_answer(tok, text.answer)}],
                      "finish": text.finish, "tokens": len(text.answer), "made_by": made_by}
            f.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
            f.flush()
            if sys.stderr.isatty():                                          # one line that rewrites itself
                rate = (done - old) / (time.time() - start)
                print(f"\r[{'#' * (30 * done // len(prompts)):30}] {done} of {len(prompts)}, {rate:.1f}/s, "
                      f"{(len(prompts) - done) / rate:.0f} s left ", end="" if done < len(prompts) else "\n",
                      file=sys.stderr, flush=True)
    print(f"{cfg.output}: {len(prompts)} answers, {len(prompts) - old} of them new", flush=True)


def read_prompts(path, tok, max_len):
    """-> (messages, ids) of each line; ValueError that names the first bad one, before anything is answered."""
    prompts = []
    with open(path, encoding="utf-8") as f:
        for number, line in enumerate(f, 1):
            if not line.strip():
                continue
            try:
                messages = read_messages(tok, json.loads(line))
                ids = tok.render_for_completion({"messages": messages})
                if len(ids) >= max_len:
                    raise ValueError(f"{len(ids)} tokens, this model takes up to {max_len - 1}")
                if messages[-1]["role"] != "user":
                    raise ValueError("the last message is not the user's")
            except ValueError as e:
                raise ValueError(f"{path}:{number}: {e}") from None
            prompts.append((messages, ids))
    return prompts


def count_answers(f, prompts, made_by):
    """How many answers an earlier run left in f; it drops one that was cut off. ValueError if f holds anything else."""
    f.seek(0)
    *lines, torn = f.read().split(b"\n")
    wrong = [i for i, line in enumerate(lines) if i >= len(prompts) or not is_answer(line, prompts[i][0], made_by)]
    if not b'{"messages": ['.startswith(torn[:14]):                          # somebody's file, that we must not cut
        wrong.append(len(lines))
    if wrong:
        raise ValueError(f"{f.name}:{wrong[0] + 1} answers another prompt or was made with other settings: "
                         f"give the same flags to go on, or another --output to start afresh")
    f.truncate(f.tell() - len(torn))
    return len(lines)


def is_answer(line, messages, made_by):
    try:
        old = json.loads(line)
        return old["messages"][:-1] == messages and old["made_by"] == made_by
    except (ValueError, TypeError, KeyError):
        return False


def answer_in_order(engine, prompts, old, max_tokens, sampling):
    """prompts: lists of ids -> a finished Generation for each, without the first `old` ones, as they become ready."""
    seen, running, todo = Counter(map(tuple, prompts[:old])), deque(), deque(prompts[old:])
    while todo or running:
        while todo and len(running) < 2 * engine.max_rows:                   # so that no row ever waits for work
            ids = todo.popleft()
            running.append(engine.submit(ids, max_tokens, sampling, copy=seen[tuple(ids)]))
            seen[tuple(ids)] += 1
        engine.step()
        while running and running[0].finish:
            yield running.popleft()
