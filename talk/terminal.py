"""
What chat.py does in a terminal: one answer, a conversation, a file of prompts (--batch).
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

# An answer could steer the terminal with these characters: show U+FFFD in their place.
CONTROL = {i: "\ufffd" for i in [*range(32), *range(127, 160)] if chr(i) not in "\n\t"}

# --------------------------------------------------------------------------------------------------
# One answer

def show(tok, ids):
    """Print an answer as its ids come. Tool calls and results stand in brackets and in colour."""
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
    """Stream one answer to the terminal. -> (its Generation, a line of statistics)

    Ctrl-C ends the answer, not the program: the finish of the Generation is then "cancelled".
    """
    stop, times, start = [], [], time.perf_counter()
    text = engine.submit(ids, max_tokens, sampling, raw, copy)
    # Only note the signal. The answer ends between two steps, where the engine is consistent.
    before = signal.signal(signal.SIGINT, lambda *_: stop.append(True))

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
    return text, (f"{len(text.answer)} tokens, {rate:.0f} tokens/s, the first after "
                  f"{1e3 * times[0]:.0f} ms; context {len(text.ids)} of {engine.max_len} tokens, "
                  f"{text.reused} of them known from earlier turns")


def one_answer(engine, tok, cfg, sampling):
    """Answer cfg.prompt, or with cfg.base continue it. KeyboardInterrupt if Ctrl-C ended that."""
    prompt = sys.stdin.read() if cfg.prompt == "-" else cfg.prompt
    if cfg.base:
        ids = [tok.special("<|bos|>")] + tok.encode(prompt)
        print(prompt.translate(CONTROL), end="", flush=True)
    else:
        ids, _ = fit(tok, cfg.system, [{"role": "user", "content": prompt}], engine.max_len - 1)
    text, _ = answer(engine, tok, ids, cfg.max_tokens, sampling, raw=cfg.base)
    if text.finish == "cancelled":
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
    turns: list = field(default_factory=list)
    # How many times the last question was asked again.
    retries: int = 0
    stats: str = "no answer yet"


def terminal(engine, tok, cfg, sampling, title):
    """Read lines, answer each or carry out its command, until Ctrl-D."""
    try:
        # With this module, input() knows arrow keys and a history. Windows doesn't have it.
        import readline  # noqa: F401
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
        except KeyboardInterrupt:
            # Ctrl-C drops the line that was being typed.
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
                # The question can't be answered, so the conversation goes on without it.
                talk.turns.pop()


def read_line():
    r"""What was typed. A line that ends with \ goes on in the next one. EOFError after Ctrl-D."""
    # \001 and \002 tell readline that what stands between them takes no room on the screen.
    bold = "\001\033[1m\002{}\001\033[0m\002" if sys.stdout.isatty() else "{}"
    line = input("\n" + bold.format("you  "))
    while line.endswith("\\"):
        line = line[:-1] + "\n" + input("     ")
    return line


def command(talk, tok, line):
    """Carry out a line that begins with /. -> whether the conversation now ends with a question.

    ValueError or OSError if an argument is wrong.
    """
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
            talk.sampling = replace(talk.sampling, temperature=float(rest))
        case "/seed":
            talk.sampling = replace(talk.sampling, seed=int(rest))
        case "/save":
            record = {"messages": with_system(talk.system, talk.turns)}
            text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
            Path(rest).expanduser().write_text(text, encoding="utf-8")
        case "/load":
            messages = read_messages(tok, json.loads(
                Path(rest).expanduser().read_text(encoding="utf-8")))
            talk.system = messages.pop(0)["content"] if messages[0]["role"] == "system" else ""
            talk.turns = messages
            return messages[-1]["role"] == "user"
        case _:
            print(f"{word}: no such command; /help lists them")
    return False


def reply(talk, engine, tok, max_tokens):
    """Answer the question at the end of the conversation, and add the answer to it."""
    print("bot  ", end="", flush=True)
    ids, dropped = fit(tok, talk.system, talk.turns,
                       engine.max_len - min(max_tokens, engine.max_len // 4))
    if dropped:
        print(f"(the context of {engine.max_len} tokens is full: the oldest {dropped} turns are "
              f"left out)")
    text, talk.stats = answer(engine, tok, ids, max_tokens, talk.sampling, copy=talk.retries)
    if text.finish == "cancelled":
        print("(stopped)")
    elif text.finish == "length":
        print("(cut off: --max_tokens or the context is used up)")
    talk.turns.append({"role": "assistant", "content": parse_answer(tok, text.answer)})


def fit(tok, system, turns, room):
    """Leave out the oldest turns until the conversation takes at most `room` tokens.

    A turn is a question and its answer. The system message stays. Returns the ids and the number of
    turns left out. ValueError if the last question alone is too long.
    """
    for dropped in range(0, len(turns), 2):
        ids = tok.render_for_completion({"messages": with_system(system, turns[dropped:])})
        if len(ids) <= room:
            return ids, dropped // 2
    raise ValueError(f"the message takes {len(ids)} tokens, there is room for {room}: shorten it")


def with_system(system, turns):
    return ([{"role": "system", "content": system}] if system else []) + turns


def read_messages(tok, record):
    """A record {"prompt": text} or a conversation -> its messages. ValueError if it is neither."""
    try:
        messages = ([{"role": "user", "content": record["prompt"]}] if "prompt" in record
                    else record["messages"])
        tok.render_conversation({"messages": messages})
        return messages
    except (TypeError, KeyError, AttributeError) as e:
        raise ValueError(f'expected {{"prompt": text}} or '
                         f'{{"messages": [{{"role": ..., "content": text}}, ...]}} '
                         f"({type(e).__name__}: {e})") from None

# --------------------------------------------------------------------------------------------------
# A file of prompts

def batch(engine, tok, cfg, sampling, stage):
    """Answer each line of cfg.batch, and write one conversation a line, in order, to cfg.output.

    If cfg.output holds answers of an earlier run, they stay, and the rest is added.
    """
    if not cfg.output:
        raise ValueError("--batch needs --output FILE for the answers")
    prompts = read_prompts(cfg.batch, tok, engine.max_len)
    made_by = dict(stage=stage, max_tokens=cfg.max_tokens, **asdict(sampling))
    with open(cfg.output, "a+b") as f:
        old, start = count_answers(f, prompts, made_by), time.time()
        answers = answer_in_order(engine, [ids for _, ids in prompts], old, cfg.max_tokens,
                                  sampling)
        for done, ((messages, _), text) in enumerate(zip(prompts[old:], answers), old + 1):
            record = {"messages": messages + [{"role": "assistant",
                                               "content": parse_answer(tok, text.answer)}],
                      "finish": text.finish, "tokens": len(text.answer), "made_by": made_by}
            f.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
            f.flush()
            if sys.stderr.isatty():
                rate = (done - old) / (time.time() - start)
                # \r goes back to the start of the line, so that the next bar replaces this one.
                print(f"\r[{'#' * (30 * done // len(prompts)):30}] {done} of {len(prompts)}, "
                      f"{rate:.1f}/s, {(len(prompts) - done) / rate:.0f} s left ",
                      end="" if done < len(prompts) else "\n", file=sys.stderr, flush=True)
    print(f"{cfg.output}: {len(prompts)} answers, {len(prompts) - old} of them new", flush=True)


def read_prompts(path, tok, max_len):
    """A .jsonl file -> (messages, ids) of each line. ValueError names the first bad line."""
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
    """How many answers an earlier run left in f. ValueError if f holds anything else.

    A last line that was cut off is removed from f.
    """
    f.seek(0)
    *lines, torn = f.read().split(b"\n")
    wrong = [i for i, line in enumerate(lines)
             if i >= len(prompts) or not is_answer(line, prompts[i][0], made_by)]
    # A torn line that does not begin like an answer belongs to a file that we must not cut.
    if not b'{"messages": ['.startswith(torn[:14]):
        wrong.append(len(lines))
    if wrong:
        raise ValueError(f"{f.name}:{wrong[0] + 1} answers another prompt or was made with other "
                         f"settings: give the same flags to go on, or another --output to start "
                         f"afresh")
    f.truncate(f.tell() - len(torn))
    return len(lines)


def is_answer(line, messages, made_by):
    try:
        old = json.loads(line)
        return old["messages"][:-1] == messages and old["made_by"] == made_by
    except (ValueError, TypeError, KeyError):
        return False


def answer_in_order(engine, prompts, old, max_tokens, sampling):
    """Yield a finished Generation for each prompt after the first `old` ones, in their order.

    prompts: lists of ids. Equal prompts get different samples, also across runs.
    """
    seen, running, todo = Counter(map(tuple, prompts[:old])), deque(), deque(prompts[old:])
    while todo or running:
        # With twice as many as the engine has rows, no row ever waits for work.
        while todo and len(running) < 2 * engine.max_rows:
            ids = todo.popleft()
            running.append(engine.submit(ids, max_tokens, sampling, copy=seen[tuple(ids)]))
            seen[tuple(ids)] += 1
        engine.step()
        while running and running[0].finish:
            yield running.popleft()
