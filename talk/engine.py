"""
The inference engine: sampling, continuous batching with a key-value cache, parts of an answer.

chat.py, evaluate.py, distill.py and the server all generate through it. Read generate() in
common.py first: it finds the same greedy ids for one prompt in a dozen lines. The model's
arithmetic is in decode.py, the calculator that the model may call in tool.py.

Sizes in shape comments: B rows of the batch, V vocabulary.
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

# --------------------------------------------------------------------------------------------------
# Sampling

@dataclass(frozen=True)
class Sampling:
    temperature: float = 0.0      # 0 is greedy: always the likeliest token
    top_k: int = 0                # only the k likeliest tokens, 0 for all
    top_p: float = 1.0            # only the likeliest that together reach this (arXiv:1904.09751)
    min_p: float = 0.0            # only those at least this times the likeliest (arXiv:2407.01082)
    repetition_penalty: float = 1.0   # above 1: earlier tokens are less likely (arXiv:1909.05858)
    seed: int = 0                 # the same seed gives the same answer, alone or in a batch

    def __post_init__(self):
        for name, ok, expected in (
                ("temperature", 0 <= self.temperature <= 100, "0 to 100"),
                ("top_k", self.top_k >= 0, "0 (off) or more"),
                ("top_p", 0 < self.top_p <= 1, "above 0, up to 1"),
                ("min_p", 0 <= self.min_p <= 1, "0 to 1"),
                ("repetition_penalty", 0.01 <= self.repetition_penalty <= 100, "0.01 to 100")):
            if not ok:
                raise ValueError(f"{name} {getattr(self, name)}: expected {expected}")


def sample(logits, texts):
    """logits (B, V) float32, B Generations -> B ids.

    Each row has its own settings and its own random numbers. Changes logits in place.
    """
    for i, text in enumerate(texts):
        if (penalty := text.sampling.repetition_penalty) != 1:
            seen = torch.tensor(sorted(set(text.ids)), device=logits.device)
            logits[i, seen] = torch.where(logits[i, seen] > 0, logits[i, seen] / penalty,
                                          logits[i, seen] * penalty)
    # On a CPU, numpy's argmax and sort take a tenth of the time of torch's.
    on_cpu = logits.device.type == "cpu"
    ids = logits.numpy().argmax(-1).tolist() if on_cpu else logits.argmax(-1).tolist()
    drawn = [i for i, text in enumerate(texts) if text.sampling.temperature > 0]
    if drawn:
        # Indexing copies the logits, which there is no need for when every row is drawn.
        logits = logits if len(drawn) == len(texts) else logits[drawn]
        for i, id in zip(drawn, draw(logits, [texts[i] for i in drawn])):
            ids[i] = id
    return ids


def draw(logits, texts):
    """Draw one id a row among those that the filters keep.

    logits (B, V), B Generations with a temperature above 0 -> B ids.
    """
    settings = [text.sampling for text in texts]
    # All logits are now at most 0, so that dividing by a tiny temperature cannot give inf.
    logits = logits - logits.amax(-1, keepdim=True)
    probs = (logits / column([s.temperature for s in settings], logits)).softmax(-1)
    cumulative = torch.where(probs < smallest_kept(probs, settings), 0, probs).cumsum(-1)
    # 1 - random() is above 0, so the first token that reaches the target has a probability above 0.
    target = column([1 - text.random.random() for text in texts], logits) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, target)[:, 0].tolist()


def smallest_kept(probs, settings):
    """The smallest probability in each row that the filters keep: probs (B, V) -> (B, 1).

    top_p counts within what top_k leaves.
    """
    V = probs.size(1)
    smallest = probs.amax(-1, keepdim=True) * column([s.min_p for s in settings], probs)
    if all(s.top_p == 1 and not 0 < s.top_k < V for s in settings):
        return smallest
    on_cpu = probs.device.type == "cpu"
    ranked = (torch.from_numpy(np.sort(probs.numpy())).flip(-1) if on_cpu
              else probs.sort(descending=True).values)
    reached = ranked.cumsum(-1)
    top_k = column([min(s.top_k, V) or V for s in settings], probs)
    # Infinity turns top_p off. With 1, rounding could cut the least likely tokens of a row, and
    # whether it does would depend on the other rows of the batch.
    top_p = column([s.top_p if s.top_p < 1 else torch.inf for s in settings], probs)
    # What the likelier tokens reach without this one.
    before = reached - ranked
    n_kept = torch.minimum((before < reached.gather(1, top_k - 1) * top_p).sum(-1, keepdim=True),
                           top_k)
    return torch.maximum(smallest, ranked.gather(1, n_kept - 1))


def column(values, like):
    """B numbers, one a row -> (B, 1), on the device of `like`."""
    return torch.tensor(values, device=like.device)[:, None]

# --------------------------------------------------------------------------------------------------
# The engine: continuous batching. Generations join and leave between two steps, and every step adds
# one token to each.

@dataclass(eq=False)
class Generation:
    """A prompt and the answer that the engine is writing to it."""
    # Prompt and answer so far, with <|assistant_end|> if the model ended by itself.
    ids: list
    n_prompt: int
    # The most ids it may have: prompt, answer and tool outputs together.
    end: int
    sampling: Sampling
    # Continue plain text: no tool, and <|bos|> ends it.
    raw: bool = False
    # 0 for the first sample of this prompt and seed, 1 for the second.
    copy: int = 0
    # Why it ended: "stop" (by itself), "length" or "cancelled". Empty while it goes on.
    finish: str = ""
    # How many of the ids the cache holds, and how many of those another generation had left there.
    cached: int = 0
    reused: int = 0
    # The ids since <|python_start|>, or None outside of code.
    code: list = None
    # When it left the batch, by time.monotonic().
    retired: float = 0.0

    def __post_init__(self):
        # Every (seed, prompt, copy) has its own random stream: samples of one prompt differ, and
        # the other rows of the batch have no influence.
        self.random = random.Random(f"{self.sampling.seed} {self.copy} {self.ids}")

    @property
    def answer(self):
        return self.ids[self.n_prompt:]


class Engine:
    """Decodes up to max_rows generations as one batch.

    Cache rows 0..n-1 belong to the n active generations. The rows behind them keep finished ones,
    so that the next turn of a conversation finds its beginning already computed. Generations that
    have finished or were cancelled leave when the next step begins.

    Not thread-safe: submit, step and cancel must be called from one thread.
    """

    def __init__(self, model, tok, max_rows=64, dtype=None, compile=True):
        """dtype: of the weights and the cache.

        None: float32 on a CPU, where bfloat16 gains nothing; elsewhere the model's compute dtype.
        """
        if dtype is None:
            dtype = torch.float32 if model.embed.device.type == "cpu" else model.compute_dtype
        self.tok, self.max_rows, self.max_len = tok, max_rows, model.config.seq_len
        self.decoder = make_decoder(model, dtype, compile)
        self.waiting, self.active, self.kept = deque(), [], []
        # Fewer common ids than min_shared are not worth a copy.
        self.max_kept, self.min_shared = 8, 16
        # At most so many tokens of new prompts a step: this bounds how long the others wait.
        self.prefill_tokens = 512
        # Which special tokens may be sampled: in text those that open Python or end the answer, in
        # code the one that closes it, in raw text the one that ends it. The model can never open a
        # tool output.
        allowed = [("<|python_start|>", "<|assistant_end|>"), ("<|python_end|>",), ("<|bos|>",)]
        self.specials = torch.tensor([[0.0 if name in names else -torch.inf
                                       for name in tok.specials]
                                      for names in allowed], device=self.decoder.device)
        # For each generation in the last step: its row of self.specials, and that row's values.
        self.states, self.mask = [], None
        self.first_special = min(tok.specials.values())

    def submit(self, prompt, max_tokens, sampling=Sampling(), raw=False, copy=0):
        """Queue a prompt for step() to work on. Returns its Generation.

        prompt: ids up to <|assistant_start|>, or any ids with raw.
        """
        if not 0 < len(prompt) < self.max_len:
            raise ValueError(f"a prompt of {len(prompt)} tokens: this model takes 1 to "
                             f"{self.max_len - 1} (it was trained on rows of {self.max_len}); "
                             f"shorten the conversation")
        if max_tokens < 1:
            raise ValueError(f"max_tokens {max_tokens}: expected 1 or more")
        text = Generation(list(prompt), len(prompt), min(len(prompt) + max_tokens, self.max_len),
                          sampling, raw, copy)
        self.waiting.append(text)
        return text

    def cancel(self, text):
        if not text.finish:
            text.finish = "cancelled"

    def step(self):
        """Add one token to every generation whose prompt is in the cache.

        Returns pairs (Generation, its new ids). New ids are more than one where a tool's output
        follows.
        """
        self.retire()
        self.admit()
        self.prefill()
        ready = [i for i, text in enumerate(self.active) if text.cached == len(text.ids) - 1]
        if not ready:
            return []
        states = [2 if t.raw else 0 if t.code is None else 1 for t in self.active]
        if states != self.states:
            self.states, self.mask = states, self.specials[states]
        # The last id of every generation, all rows as one batch. A row whose prompt is not yet
        # complete runs along: what this writes into its cache is overwritten later.
        logits, ids = self.decoder.next([t.ids[-1] for t in self.active],
                                        [t.cached for t in self.active], self.mask)
        texts = [self.active[i] for i in ready]
        if any(t.sampling.temperature or t.sampling.repetition_penalty != 1 for t in texts):
            ids = sample(logits[ready], texts)
        elif len(ready) < len(ids):
            ids = [ids[i] for i in ready]
        return [(text, self.accept(text, id)) for text, id in zip(texts, ids)]

    def retire(self):
        """Take finished generations out of the batch. The last active row fills each gap."""
        for row in reversed(range(len(self.active))):
            text = self.active[row]
            if text.finish:
                last, text.retired = self.active.pop(), time.monotonic()
                if last is not text:
                    self.decoder.swap(row, len(self.active), max(text.cached, last.cached))
                    self.active[row] = last
                self.kept.insert(0, text)

    def admit(self):
        """Give waiting generations a row, with the keys and values of a row that begins alike."""
        while self.waiting and len(self.active) < self.max_rows:
            text, n = self.waiting.popleft(), len(self.active)
            # It was cancelled while it waited.
            if text.finish:
                continue
            rows = self.active + self.kept
            # The last id is never taken over: the next step needs its logits.
            shared = [common_prefix(t.ids[:t.cached], text.ids[:-1]) for t in rows]
            longest = max(shared, default=0)
            best = shared.index(longest) if longest >= self.min_shared else None
            text.cached = text.reused = 0 if best is None else longest
            # The new generation gets row n. What is kept there moves to the row that the new one
            # continues, to a free row, or to the row of the one that was retired first.
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
        """Put all ids but the last of each prompt into the cache, up to prefill_tokens a step."""
        budget = self.prefill_tokens
        for row, text in enumerate(self.active):
            if budget and text.cached < len(text.ids) - 1:
                ids = text.ids[text.cached:-1][:budget]
                self.decoder.forward([ids], [text.cached], row, logits=None)
                text.cached += len(ids)
                budget -= len(ids)

    def accept(self, text, id):
        """Append a sampled id and, where it closes a tool call, the tool's output.

        Sets `finish` where the generation ends. Returns the new ids.
        """
        special, new = self.tok.special, [id]
        if id >= self.first_special:
            if id == special("<|python_start|>"):
                text.code = []
            elif id == special("<|python_end|>"):
                result = self.tok.encode(run_python(self.tok.decode(text.code)))
                new = [id, special("<|output_start|>"), *result,
                       special("<|output_end|>")][:text.end - len(text.ids)]
                text.code = None
            else:
                # The mask leaves only <|assistant_end|> and <|bos|>, which end it.
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
        """Answer all prompts (lists of ids) -> a list of ids each, tool outputs included.

        An answer ends with <|assistant_end|> if the model ended it. Without that id, max_tokens or
        the context cut it off.

        sampling: the fields of Sampling. Equal prompts in one call get different samples.
        progress(done): called after every answer.
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

# --------------------------------------------------------------------------------------------------
# The parts of an answer: text, Python code, and the tool's output

class PartStream:
    """Ids, one by one -> pairs (part type, new text), in whole characters.

    A UTF-8 sequence that is spread over several tokens comes out once it is complete.
    """

    def __init__(self, tok):
        self.tok, self.type = tok, "text"
        self.names = {id: name for name, id in tok.specials.items()}
        self.utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, id):
        """Take one id -> a list of (type, text). The text is "" where a part begins."""
        name = self.names.get(id)
        if name is None:
            text = self.utf8.decode(self.tok.enc.decode_single_token_bytes(id))
            return [(self.type, text)] if text else []
        out = self.flush()
        self.type = {"<|python_start|>": "python",
                     "<|output_start|>": "python_output"}.get(name, "text")
        return out + ([(self.type, "")] if self.type != "text" else [])

    def flush(self):
        """What is left of a character that never became complete, as U+FFFD."""
        text = self.utf8.decode(b"", final=True)
        self.utf8.reset()
        return [(self.type, text)] if text else []

    def whole(self, ids):
        """Yield the pairs of all ids of an answer, as the ids come."""
        for id in ids:
            yield from self.feed(id)
        yield from self.flush()


def parse_answer(tok, ids):
    """The ids of an answer -> its parts, as in a conversation.

    A part is {"type": "text"|"python"|"python_output", "text": str}.
    """
    parts = []
    for type, text in PartStream(tok).whole(ids):
        add_text(parts, type, text)
    return parts


def add_text(parts, type, text):
    """Append to the last part, or begin one: where the type changes, and where text is ""."""
    if text == "" or not parts or parts[-1]["type"] != type:
        parts.append({"type": type, "text": ""})
    parts[-1]["text"] += text
