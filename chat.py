"""
Talk to any checkpoint: reads out/<stage>/ and out/tokenizer/. Home of the inference engine that all other scripts use.

terminal     python chat.py                         the last stage in out/ (or --stage sft, or --stage path/to/folder)
one answer   python chat.py -p "How many r are in strawberry?"       (-p - reads the prompt from standard input)
browser      python chat.py --serve                 a page on http://127.0.0.1:8000 and the OpenAI protocol (serve.py)
a file       python chat.py --batch prompts.jsonl --output answers.jsonl
raw text     python chat.py --stage pretrain --base -p "def main("      continue text instead of answering

Sizes in shape comments: B rows of the batch, T tokens, C channels (n_embd), H heads, D head size, V vocabulary.
"""
import codecs
import json
import random
import signal
import sys
import time
from collections import Counter, deque
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch

from common import load_checkpoint, parse_config, run, setup
from decode import make_decoder
from tool import run_python

# ---------------------------------------------------------------------------------------------------------------------
# Sampling

@dataclass(frozen=True)
class Sampling:
    temperature: float = 0.0      # 0 is greedy: always the likeliest token
    top_k: int = 0                # only the k likeliest tokens, 0 for all
    top_p: float = 1.0            # only the likeliest tokens that together reach this probability (arXiv:1904.09751)
    min_p: float = 0.0            # only tokens at least this times as likely as the likeliest (arXiv:2407.01082)
    repetition_penalty: float = 1.0   # above 1: tokens that stand in the text become less likely (arXiv:1909.05858)
    seed: int = 0                 # the same seed gives the same answer, alone or in a batch

    def __post_init__(self):
        for name, ok, expected in (("temperature", 0 <= self.temperature <= 100, "0 to 100"),
                                   ("top_k", self.top_k >= 0, "0 (off) or more"),
                                   ("top_p", 0 < self.top_p <= 1, "above 0, up to 1"),
                                   ("min_p", 0 <= self.min_p <= 1, "0 to 1"),
                                   ("repetition_penalty", 0.01 <= self.repetition_penalty <= 100, "0.01 to 100")):
            if not ok:
                raise ValueError(f"{name} {getattr(self, name)}: expected {expected}")


def sample(logits, texts):
    """logits (B, V) float32, texts: B Generations -> B ids. Each row by its own settings and its own random numbers."""
    for i, text in enumerate(texts):
        if (penalty := text.sampling.repetition_penalty) != 1:
            seen = torch.tensor(sorted(set(text.ids)), device=logits.device)
            logits[i, seen] = torch.where(logits[i, seen] > 0, logits[i, seen] / penalty, logits[i, seen] * penalty)
    on_cpu = logits.device.type == "cpu"                    # numpy's argmax and sort take a tenth of torch's time there
    ids = logits.numpy().argmax(-1).tolist() if on_cpu else logits.argmax(-1).tolist()
    drawn = [i for i, text in enumerate(texts) if text.sampling.temperature > 0]
    if not drawn:
        return ids
    column = lambda values: torch.tensor(values, device=logits.device)[:, None]
    settings, V = [texts[i].sampling for i in drawn], logits.size(1)
    logits = logits if len(drawn) == len(texts) else logits[drawn]
    logits = logits - logits.amax(-1, keepdim=True)                          # at most 0, so that no division overflows
    probs = (logits / column([s.temperature for s in settings])).softmax(-1)
    least = probs.amax(-1, keepdim=True) * column([s.min_p for s in settings])   # the smallest probability that stays
    top_k = [min(s.top_k, V) or V for s in settings]
    if min(top_k) < V or min(s.top_p for s in settings) < 1:
        ranked = torch.from_numpy(np.sort(probs.numpy())).flip(-1) if on_cpu else probs.sort(descending=True).values
        reached = ranked.cumsum(-1)
        # inf where top_p is off: else rounding would cut the least likely ones, depending on who else is in the batch
        top_p = column([s.top_p if s.top_p < 1 else torch.inf for s in settings])
        enough = reached.gather(1, column(top_k) - 1) * top_p
        # reached - ranked: what the likelier ones reach without this one
        last = torch.minimum((reached - ranked < enough).sum(-1, keepdim=True), column(top_k)) - 1
        least = torch.maximum(least, ranked.gather(1, last))
    cumulative = torch.where(probs < least, 0, probs).cumsum(-1)
    # 1 - random() is above 0 and at most 1, so the first token that reaches it is one of positive probability
    target = column([1 - texts[i].random.random() for i in drawn]) * cumulative[:, -1:]
    for i, id in zip(drawn, torch.searchsorted(cumulative, target.float())[:, 0].tolist()):
        ids[i] = id
    return ids

# ---------------------------------------------------------------------------------------------------------------------
# The engine: continuous batching. Texts join and leave between two steps; a step adds one token to each

@dataclass(eq=False)
class Generation:
    """One text in the making. ids grows with every step; finish says why it ended: "stop" (by itself), "length" or
    "cancelled"."""
    ids: list                     # prompt and answer, with <|assistant_end|> if the model ended by itself
    n_prompt: int
    end: int                      # so many ids it may have, prompt, answer and tool outputs together
    sampling: Sampling
    raw: bool = False             # continue plain text: no tool, ends at <|bos|>
    copy: int = 0                 # the how-manieth sample of the same prompt and seed
    finish: str = ""
    cached: int = 0               # how many of the ids the cache row holds
    reused: int = 0               # how many of them an earlier text left there
    code: list = None             # ids since <|python_start|>
    retired: float = 0.0          # when it left the batch

    def __post_init__(self):
        # a stream of its own for every (seed, prompt, copy): samples of one prompt differ, and no other row has a say
        self.random = random.Random(f"{self.sampling.seed} {self.copy} {self.ids}")

    @property
    def answer(self):
        return self.ids[self.n_prompt:]


class Engine:
    """Decodes up to max_rows texts as one batch. Not thread-safe: one thread calls submit, step, cancel.

    Cache rows 0..n-1 belong to the n active texts; the rows after them keep finished ones, so that the next turn of a
    conversation finds its beginning already computed. Cancelled and finished texts leave when the next step begins.
    """

    def __init__(self, model, tok, max_rows=64, dtype=None, compile=True):
        """dtype: of weights and cache; None: float32 on a CPU (bfloat16 gains nothing there), else the model's."""
        if dtype is None:
            dtype = torch.float32 if model.embed.device.type == "cpu" else model.compute_dtype
        self.tok, self.max_rows, self.max_len = tok, max_rows, model.config.seq_len
        self.decoder = make_decoder(model, dtype, compile)                   # no weight of it asks for a gradient
        self.waiting, self.active, self.kept, self.max_kept = deque(), [], [], 8
        self.min_shared = 16                                                 # fewer ids in common are not worth a copy
        self.prefill_tokens = 512                                  # a step's share for new prompts: bounds others' wait
        # What may be sampled: in a text the model can open Python or end, in code it can close it; never open an output
        allowed = [("<|python_start|>", "<|assistant_end|>"), ("<|python_end|>",), ("<|bos|>",)]  # text, code, raw text
        self.specials = torch.tensor([[0.0 if name in names else -torch.inf for name in tok.specials]
                                      for names in allowed], device=self.decoder.device)
        self.states, self.mask = [], None                                    # of the last step's texts
        self.first_special = min(tok.specials.values())

    def submit(self, prompt, max_tokens, sampling=Sampling(), raw=False, copy=0):
        """Queue a prompt (ids up to <|assistant_start|>, or any with raw) for step() to work on. -> a Generation"""
        if not 0 < len(prompt) < self.max_len:
            raise ValueError(f"a prompt of {len(prompt)} tokens: this model takes 1 to {self.max_len - 1} (it was "
                             f"trained on rows of {self.max_len}); shorten the conversation")
        if max_tokens < 1:
            raise ValueError(f"max_tokens {max_tokens}: expected 1 or more")
        text = Generation(list(prompt), len(prompt), min(len(prompt) + max_tokens, self.max_len), sampling, raw, copy)
        self.waiting.append(text)
        return text

    def cancel(self, text):
        if not text.finish:
            text.finish = "cancelled"

    def step(self):
        """One round for all: admit, prefill, decode. -> (Generation, new ids) pairs; a call brings its output along."""
        self.retire()
        self.admit()
        budget = self.prefill_tokens                                      # all but the last id of each text go in first
        for row, text in enumerate(self.active):
            if budget and text.cached < len(text.ids) - 1:
                ids = text.ids[text.cached:-1][:budget]
                self.decoder.forward([ids], [text.cached], row, logits=None)
                text.cached += len(ids)
                budget -= len(ids)
        ready = [i for i, text in enumerate(self.active) if text.cached == len(text.ids) - 1]
        if not ready:
            return []
        states = [2 if t.raw else 0 if t.code is None else 1 for t in self.active]          # rows of self.specials
        if states != self.states:
            self.states, self.mask = states, self.specials[states]
        # The last id of every text, all rows as one batch. A text still in prefill runs along; it is overwritten later
        logits, ids = self.decoder.next([t.ids[-1] for t in self.active], [t.cached for t in self.active], self.mask)
        texts = [self.active[i] for i in ready]
        if any(t.sampling.temperature or t.sampling.repetition_penalty != 1 for t in texts):
            ids = sample(logits[ready], texts)
        elif len(ready) < len(ids):
            ids = [ids[i] for i in ready]
        return [(text, self.accept(text, id)) for text, id in zip(texts, ids)]

    def accept(self, text, id):
        """Append a sampled id and, where it closes a call, the output; set finish where the text ends. -> new ids"""
        special, new = self.tok.special, [id]
        if id >= self.first_special:
            if id == special("<|python_start|>"):
                text.code = []
            elif id == special("<|python_end|>"):
                result = self.tok.encode(run_python(self.tok.decode(text.code)))
                new = [id, special("<|output_start|>"), *result, special("<|output_end|>")][:text.end - len(text.ids)]
                text.code = None
            else:                                                            # the mask leaves only the two that end it
                text.finish = "stop"
        elif text.code is not None:
            text.code.append(id)
        text.cached += 1
        text.ids += new
        if len(text.ids) == text.end and not text.finish:
            text.finish = "length"
        return new

    def admit(self):
        """Give waiting texts a row; where another row begins with the same ids, take its keys and values over."""
        while self.waiting and len(self.active) < self.max_rows:
            text, n = self.waiting.popleft(), len(self.active)
            if text.finish:                                                  # cancelled while it waited
                continue
            rows = self.active + self.kept
            shared = [common_prefix(t.ids[:t.cached], text.ids[:-1]) for t in rows]   # the last id is for the next step
            best = max(range(len(rows)), key=shared.__getitem__, default=0)
            text.reused = shared[best] if rows and shared[best] >= self.min_shared else 0
            # The text gets row n. What is kept there goes where the best one is, to a new row, or instead of the oldest
            target = len(rows)
            if text.reused and best >= n:
                target = best
            elif len(self.kept) >= self.max_kept:
                target = n + min(range(len(self.kept)), key=lambda i: self.kept[i].retired)
            self.decoder.reserve(target + 1, text.end)
            if target > n:
                self.decoder.swap(n, target, max(t.cached for t in self.kept))
                self.kept[target - n:target - n + 1] = self.kept[:1]
            del self.kept[:1]
            if text.reused and best < n:
                self.decoder.copy(best, n, text.reused)
            text.cached = text.reused
            self.active.append(text)

    def retire(self):
        """Finished texts leave the batch: the last active row changes places with them, so that there are no gaps."""
        for row in reversed(range(len(self.active))):
            text = self.active[row]
            if text.finish:
                last, text.retired = self.active.pop(), time.monotonic()
                if last is not text:
                    self.decoder.swap(row, len(self.active), max(text.cached, last.cached))
                    self.active[row] = last
                self.kept.insert(0, text)

    def reset(self):
        """Forget everything, after an error that left the rows in an unknown state."""
        self.waiting, self.active, self.kept = deque(), [], []

    def generate(self, prompts, max_tokens, progress=None, raw=False, **sampling):
        """prompts: lists of ids -> one list of ids each: the answer, tool outputs included. <|assistant_end|> at the
        end says that the model ended by itself; else max_tokens or the context cut it off.

        sampling: the fields of Sampling. Equal prompts in one call get different samples. progress(done) after each.
        """
        settings, seen, texts, done = Sampling(**sampling), Counter(), [], 0
        for prompt in map(tuple, prompts):
            texts.append(self.submit(prompt, max_tokens, settings, raw, copy=seen[prompt]))
            seen[prompt] += 1
        while done < len(texts):
            for text, _ in self.step():
                done += bool(text.finish)
                if text.finish and progress:
                    progress(done)
        return [text.answer for text in texts]


def common_prefix(a, b):
    """How many ids two lists share from the start: [1, 2, 3], [1, 2, 4] -> 2."""
    return next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))


class PartStream:
    """Ids, one by one -> (part type, new text) pairs. Text comes in whole characters, never half a UTF-8 sequence."""

    def __init__(self, tok):
        self.tok, self.type = tok, "text"
        self.names = {id: name for name, id in tok.specials.items()}
        self.utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, id):
        """-> a list of (type, text), text may be "" where a part begins."""
        name = self.names.get(id)
        if name is None:
            text = self.utf8.decode(self.tok.enc.decode_single_token_bytes(id))
            return [(self.type, text)] if text else []
        out = self.flush()
        self.type = {"<|python_start|>": "python", "<|output_start|>": "python_output"}.get(name, "text")
        return out + ([(self.type, "")] if self.type != "text" else [])

    def flush(self):
        """What is left of a character that never became whole, as U+FFFD."""
        text = self.utf8.decode(b"", final=True)
        self.utf8.reset()
        return [(self.type, text)] if text else []

    def whole(self, ids):
        """Yield the pairs of all ids of an answer, as they come."""
        for id in ids:
            yield from self.feed(id)
        yield from self.flush()


def parse_answer(tok, ids):
    """The ids of an answer -> its parts [{"type": "text"|"python"|"python_output", "text"}], as in a conversation."""
    parts = []
    for type, text in PartStream(tok).whole(ids):
        add_text(parts, type, text)
    return parts


def add_text(parts, type, text):
    """Append to the last part, or begin one: where the type changes, and where text is ""."""
    if text == "" or not parts or parts[-1]["type"] != type:
        parts.append({"type": type, "text": ""})
    parts[-1]["text"] += text

# ---------------------------------------------------------------------------------------------------------------------
# The terminal

STAGES = ["pretrain", "midtrain", "sft", "dpo", "distill"]
HELP = """\
/retry           answer the last question once more, differently       /undo      forget the last question and answer
/reset           start a new conversation                              /stats     speed and context of the last answer
/system TEXT     set the system message; without TEXT: remove it       /help      this list
/temperature X   0 is greedy; now {temperature}                        /seed N    now {seed}
/save FILE       write the conversation as JSON                        /load FILE go on with a saved one
A line that ends with \\ goes on. Ctrl-C stops an answer, Ctrl-D ends."""


@dataclass
class Config:
    out: str = "out"              # folder where the stages find each other
    stage: str = ""               # pretrain, midtrain, sft, dpo, distill or the path of a checkpoint; empty: the last
    prompt: str = ""              # answer this one prompt and exit, also as -p PROMPT; - reads standard input
    base: bool = False            # continue raw text instead of answering
    system: str = ""              # a system message
    batch: str = ""               # .jsonl file: answer each line's "prompt" or "messages", as many at once as fit
    output: str = ""              # .jsonl file for the answers of --batch, in order; run again, it goes on where it was
    max_tokens: int = 512         # of each answer, tool outputs included
    temperature: float = 0.3      # 0: always the likeliest token; small models miscopy digits above 0.5
    top_k: int = 0                # only the k likeliest tokens, 0: all
    top_p: float = 0.95           # only the likeliest tokens that together have this probability
    min_p: float = 0.0            # only tokens at least this times as likely as the likeliest
    repetition_penalty: float = 1.0   # above 1: tokens that stand in the text already become less likely
    seed: int = 0                 # the same seed gives the same answers
    max_rows: int = 64            # answers that --batch and --serve decode at once; each takes memory for its keys
    serve: bool = False           # open a chat page and the OpenAI protocol on http://HOST:PORT
    host: str = "127.0.0.1"       # address to listen on; 0.0.0.0: every network of this machine
    port: int = 8000              # 0: any free one
    api_key: str = ""             # what clients of --serve must send as Authorization: Bearer KEY; empty: nothing
    allow_host: str = ""          # names, comma-separated, by which --serve may be reached besides localhost
    max_queue: int = 128          # answers running or waiting at once; further requests get status 429
    time_limit: float = 120.0     # seconds until an answer of --serve is cut off
    device: str = "auto"          # auto, cpu, cuda or mps
    compile: bool = True          # use decode.c where there is a C compiler, CUDA graphs on a GPU
    dtype: str = "auto"           # float32 or bfloat16; auto: float32 on a CPU, else what the hardware does fastest


def find_checkpoint(out, stage):
    """The folder of the stage, or of the last stage that exists in out."""
    if stage and stage not in STAGES:
        return Path(stage)
    for name in [stage] if stage else reversed(STAGES):
        if (Path(out) / name / "meta.json").exists():
            return Path(out) / name
    missing = f"no {stage} checkpoint" if stage else f"no checkpoint of any stage ({', '.join(STAGES)})"
    raise FileNotFoundError(f"{missing} in {out}: train one first (bash run.sh), or name another folder with --out")


def fit(tok, messages, room):
    """-> (ids of the conversation in at most `room` tokens, number of oldest turns left out). A system text stays."""
    system, turns = (messages[:1], messages[1:]) if messages[0]["role"] == "system" else ([], messages)
    for dropped in range(0, len(turns), 2):
        ids = tok.render_for_completion({"messages": system + turns[dropped:]})
        if len(ids) <= room:
            return ids, dropped // 2
    raise ValueError(f"the message takes {len(ids)} tokens, there is room for {room}: shorten it")


# characters by which an answer could steer the terminal
CONTROL = {i: "\ufffd" for i in [*range(32), *range(127, 160)] if chr(i) not in "\n\t"}


def show(tok, ids):
    """Print an answer as its ids come; tool calls and results stand in brackets, on a terminal in colour."""
    color, plain = ("\033[36m", "\033[0m") if sys.stdout.isatty() else ("", "")
    opening = {"text": "", "python": f"{color}[python: ", "python_output": f"{color}[= "}
    closing, type = {"text": ""}, "text"
    for new, text in PartStream(tok).whole(ids):
        if text == "" or new != type:
            print(closing.get(type, f"]{plain}") + opening[new], end="")
            type = new
        print(text.translate(CONTROL), end="", flush=True)
    print(closing.get(type, f"]{plain}"))


def answer(engine, tok, ids, max_tokens, settings, raw=False, copy=0):
    """Stream one answer to the terminal; Ctrl-C ends it, not the program. -> (its Generation, a line of statistics)"""
    stop, times, start = [], [], time.perf_counter()
    text = engine.submit(ids, max_tokens, Sampling(**settings), raw, copy)
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


def with_system(system, messages):
    return ([{"role": "system", "content": system}] if system else []) + messages


def terminal(engine, tok, cfg, settings, title):
    """Read, answer, until Ctrl-D."""
    try:
        import readline                                              # arrow keys and history in input(); not on Windows
    except ImportError:
        pass
    system, messages, stats, retries = cfg.system, [], "no answer yet", 0
    print(f"{title}\n/help lists the commands, Ctrl-D ends.")
    bold = "\001\033[1m\002{}\001\033[0m\002" if sys.stdout.isatty() else "{}"   # \001 \002: no width, for readline
    while True:
        try:
            line = input("\n" + bold.format("you  "))
            while line.endswith("\\"):
                line = line[:-1] + "\n" + input("     ")
        except EOFError:
            print()
            return
        except KeyboardInterrupt:                                            # drops the line that was being typed
            continue
        word, _, rest = line.strip().partition(" ")
        rest, ask = rest.strip(), False
        try:
            if not word.startswith("/"):
                if line.strip():
                    messages, retries, ask = messages + [{"role": "user", "content": line}], 0, True
            elif word == "/help":
                print(HELP.format(**settings))
            elif word == "/stats":
                print(stats)
            elif word == "/reset":
                messages = []
            elif word in ("/undo", "/retry") and not messages:
                print("nothing was asked yet")
            elif word == "/undo":
                messages = messages[:-2]
            elif word == "/retry":
                messages, retries, ask = messages[:-1], retries + 1, True
            elif word == "/system":
                system = rest
            elif word in ("/temperature", "/seed"):
                new = settings | {word[1:]: float(rest) if word == "/temperature" else int(rest)}
                Sampling(**new)                                              # ValueError if out of range
                settings = new
            elif word == "/save":
                record = json.dumps({"messages": with_system(system, messages)}, indent=1, ensure_ascii=False)
                Path(rest).expanduser().write_text(record + "\n", encoding="utf-8")
            elif word == "/load":
                messages = read_messages(tok, json.loads(Path(rest).expanduser().read_text(encoding="utf-8")))
                system = messages.pop(0)["content"] if messages[0]["role"] == "system" else ""
                ask = messages[-1]["role"] == "user"
            else:
                print(f"{word}: no such command; /help lists them")
            if ask:
                print("bot  ", end="", flush=True)
                room = engine.max_len - min(cfg.max_tokens, engine.max_len // 4)
                ids, dropped = fit(tok, with_system(system, messages), room)
                if dropped:
                    print(f"(the context of {engine.max_len} tokens is full: the oldest {dropped} turns are left out)")
                text, stats = answer(engine, tok, ids, cfg.max_tokens, settings, copy=retries)
                if text.finish != "stop":
                    print("(stopped)" if text.finish == "cancelled" else
                          "(cut off: --max_tokens or the context is used up)")
                messages = messages + [{"role": "assistant", "content": parse_answer(tok, text.answer)}]
        except (ValueError, OSError) as e:
            print(f"error: {e}")
            if ask:
                messages = messages[:-1]


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

def batch(engine, tok, cfg, settings, stage):
    """Answer every line of cfg.batch into cfg.output, a conversation a line, in order. Lines that are there stay."""
    if not cfg.output:
        raise ValueError("--batch needs --output FILE for the answers")
    prompts = []                                                          # all are checked before the first is answered
    with open(cfg.batch, encoding="utf-8") as f:
        for number, line in enumerate(f, 1):
            try:
                messages = read_messages(tok, json.loads(line))
                prompts.append((messages, tok.render_for_completion({"messages": messages})))
                if len(prompts[-1][1]) >= engine.max_len:
                    raise ValueError(f"{len(prompts[-1][1])} tokens, this model takes up to {engine.max_len - 1}")
                if messages[-1]["role"] != "user":
                    raise ValueError("the last message is not the user's")
            except ValueError as e:
                raise ValueError(f"{cfg.batch}:{number}: {e}") from None
    made_by = dict(stage=stage, max_tokens=cfg.max_tokens, **settings)
    with open(cfg.output, "a+b") as f:
        f.seek(0)
        *lines, torn = f.read().split(b"\n")
        f.truncate(f.tell() - len(torn))                                     # a line that was cut off is made again
        for number, line in enumerate(lines):
            old = json.loads(line)
            if number >= len(prompts) or old["messages"][:-1] != prompts[number][0] or old["made_by"] != made_by:
                raise ValueError(f"{cfg.output}:{number + 1} answers another prompt or was made with other settings: "
                                 f"give the same flags to go on, or another --output to start afresh")
        seen, running, start = Counter(tuple(ids) for _, ids in prompts[:len(lines)]), deque(), time.time()
        todo, done = deque(prompts[len(lines):]), len(lines)
        while todo or running:
            while todo and len(running) < 2 * engine.max_rows:               # so that no row ever waits for work
                messages, ids = todo.popleft()
                text = engine.submit(ids, cfg.max_tokens, Sampling(**settings), copy=seen[tuple(ids)])
                running.append((messages, text))
                seen[tuple(ids)] += 1
            engine.step()
            while running and running[0][1].finish:
                messages, text = running.popleft()
                record = {"messages": messages + [{"role": "assistant", "content": parse_answer(tok, text.answer)}],
                          "finish": text.finish, "tokens": len(text.answer), "made_by": made_by}
                f.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
                f.flush()
                done += 1
                if sys.stderr.isatty():                                      # one line that rewrites itself
                    rate = (done - len(lines)) / (time.time() - start)
                    print(f"\r[{'#' * (30 * done // len(prompts)):30}] {done} of {len(prompts)}, {rate:.1f}/s, "
                          f"{(len(prompts) - done) / rate:.0f} s left ", end="" if todo or running else "\n",
                          file=sys.stderr, flush=True)
    print(f"{cfg.output}: {len(prompts)} answers, {len(prompts) - len(lines)} of them new", flush=True)


def main():
    argv = sys.argv[1:]
    if "-p" in argv[:-1]:                                            # one token, so that a prompt may begin with a dash
        i = argv.index("-p")
        argv[i:i + 2] = [f"--prompt={argv[i + 1]}"]
    cfg = parse_config(Config, __doc__, argv)
    path = find_checkpoint(cfg.out, cfg.stage)
    env = setup(cfg.device, cfg.dtype)
    model, tok, meta = load_checkpoint(path, env.device)
    model.compute_dtype = env.dtype
    engine = Engine(model, tok, cfg.max_rows, None if cfg.dtype == "auto" else env.dtype, cfg.compile)
    settings = {f.name: getattr(cfg, f.name) for f in fields(Sampling)}
    Sampling(**settings)                                                     # ValueError before anything else happens
    sys.stdout.reconfigure(errors="replace")                            # a terminal that can't show a character shows ?
    prompt = sys.stdin.read() if cfg.prompt == "-" else cfg.prompt
    if cfg.serve:
        from serve import serve                                           # in a file of its own, which imports this one
        serve(engine, tok, cfg, settings, path.name)
    elif cfg.batch:
        batch(engine, tok, cfg, settings, str(path))
    elif cfg.base or cfg.prompt:
        ids = [tok.special("<|bos|>")] + tok.encode(prompt)
        if cfg.base:
            print(prompt.translate(CONTROL), end="", flush=True)
        else:
            ids, _ = fit(tok, with_system(cfg.system, [{"role": "user", "content": prompt}]), engine.max_len - 1)
        if answer(engine, tok, ids, cfg.max_tokens, settings, raw=cfg.base)[0].finish == "cancelled":
            raise KeyboardInterrupt
    else:
        terminal(engine, tok, cfg, settings, f"{path}: {model.num_params() / 1e6:.1f} million parameters, context "
                                             f"{engine.max_len} tokens, on {env.device}")


if __name__ == "__main__":
    run(main)
