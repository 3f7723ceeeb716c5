"""
The inference engine: sampling, continuous batching with a cache of keys and values, and the parts of an answer.

chat.py, evaluate.py, distill.py and the server all generate through it. The model's arithmetic is in decode.py, the
calculator that the model may call in tool.py.
Sizes in shape comments: B rows of the batch, T tokens, C channels (n_embd), H heads, D head size, V vocabulary.
"""
import codecs
import random
import time
from collections import Counter, deque
from dataclasses import dataclass

import numpy as np
import torch

from talk.decode import make_decoder
from talk.tool import run_python

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
    if drawn:
        logits = logits if len(drawn) == len(texts) else logits[drawn]       # indexing would copy it
        for i, id in zip(drawn, draw(logits, [texts[i] for i in drawn])):
            ids[i] = id
    return ids


def draw(logits, texts):
    """logits (B, V), texts: B Generations of temperature above 0 -> B random ids among those that the filters leave."""
    settings = [text.sampling for text in texts]
    logits = logits - logits.amax(-1, keepdim=True)                          # at most 0, so that no division overflows
    probs = (logits / column([s.temperature for s in settings], logits)).softmax(-1)
    cumulative = torch.where(probs < smallest_kept(probs, settings), 0, probs).cumsum(-1)
    # 1 - random() is above 0 and at most 1, so the first token that reaches it is one of positive probability
    target = column([1 - text.random.random() for text in texts], logits) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, target)[:, 0].tolist()


def smallest_kept(probs, settings):
    """probs (B, V) -> (B, 1): the smallest probability that top_k, top_p (of what top_k leaves) and min_p let pass."""
    V = probs.size(1)
    smallest = probs.amax(-1, keepdim=True) * column([s.min_p for s in settings], probs)
    if all(s.top_p == 1 and not 0 < s.top_k < V for s in settings):
        return smallest
    on_cpu = probs.device.type == "cpu"
    ranked = torch.from_numpy(np.sort(probs.numpy())).flip(-1) if on_cpu else probs.sort(descending=True).values
    reached = ranked.cumsum(-1)
    top_k = column([min(s.top_k, V) or V for s in settings], probs)
    # inf where top_p is off: else rounding would cut the least likely ones, depending on who else is in the batch
    top_p = column([s.top_p if s.top_p < 1 else torch.inf for s in settings], probs)
    before = reached - ranked                                                # what the likelier ones reach without it
    n_kept = torch.minimum((before < reached.gather(1, top_k - 1) * top_p).sum(-1, keepdim=True), top_k)
    return torch.maximum(smallest, ranked.gather(1, n_kept - 1))


def column(values, like):
    """B numbers, one a row -> (B, 1), on the device of `like`."""
    return torch.tensor(values, device=like.device)[:, None]

# ---------------------------------------------------------------------------------------------------------------------
# The engine: continuous batching. Texts join and leave between two steps; a step adds one token to each

@dataclass(eq=False)
class Generation:
    """One text in the making."""
    ids: list                     # prompt and answer so far, with <|assistant_end|> if the model ended by itself
    n_prompt: int
    end: int                      # so many ids it may have, prompt, answer and tool outputs together
    sampling: Sampling
    raw: bool = False             # continue plain text: no tool, ends at <|bos|>
    copy: int = 0                 # the how-manieth sample of the same prompt and seed
    finish: str = ""              # why it ended: "stop" (by itself), "length", "cancelled"; "" while it goes on
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
        self.waiting, self.active, self.kept = deque(), [], []
        self.max_kept, self.min_shared = 8, 16                               # fewer ids in common are not worth a copy
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
        """One round for all, one token each. -> (Generation, new ids) pairs; a call brings its output along."""
        self.retire()
        self.admit()
        self.prefill()
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

    def admit(self):
        """Give waiting texts a row; where another row begins with the same ids, take its keys and values over."""
        while self.waiting and len(self.active) < self.max_rows:
            text, n = self.waiting.popleft(), len(self.active)
            if text.finish:                                                  # cancelled while it waited
                continue
            rows = self.active + self.kept
            shared = [common_prefix(t.ids[:t.cached], text.ids[:-1]) for t in rows]   # the last id is for the next step
            longest = max(shared, default=0)
            best = shared.index(longest) if longest >= self.min_shared else None
            text.cached = text.reused = 0 if best is None else longest
            # The text gets row n. What is kept there goes where the best one is, to a new row, or instead of the oldest
            if best is not None and best >= n:
                target = best
            elif len(self.kept) < self.max_kept:
                target = len(rows)
            else:
                target = n + min(range(len(self.kept)), key=lambda i: self.kept[i].retired)
            self.decoder.reserve(target + 1, text.end)
            if target > n:
                self.decoder.swap(n, target, max(t.cached for t in self.kept))
                self.kept[target - n:target - n + 1] = self.kept[:1]
            del self.kept[:1]
            if best is not None and best < n:
                self.decoder.copy(best, n, text.reused)
            self.active.append(text)

    def prefill(self):
        """Compute keys and values of all but the last id of each text, as far as this step's share goes."""
        budget = self.prefill_tokens
        for row, text in enumerate(self.active):
            if budget and text.cached < len(text.ids) - 1:
                ids = text.ids[text.cached:-1][:budget]
                self.decoder.forward([ids], [text.cached], row, logits=None)
                text.cached += len(ids)
                budget -= len(ids)

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

# ---------------------------------------------------------------------------------------------------------------------
# The parts of an answer: text, tool calls and what came back

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
