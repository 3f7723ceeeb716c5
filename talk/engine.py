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
from talk.memory import PADDING, prefill_tokens
from talk.tool import run_python

# --------------------------------------------------------------------------------------------------
# Sampling

@dataclass(frozen=True)
class Sampling:
    temperature: float = 0.0      # 0 is greedy: always the likeliest token
    top_k: int = 0                # only the k likeliest tokens, 0 or -1 for all
    top_p: float = 1.0            # only the likeliest that together reach this (arXiv:1904.09751)
    min_p: float = 0.0            # only those at least this times the likeliest (arXiv:2407.01082)
    repetition_penalty: float = 1.0   # above 1: earlier tokens are less likely (arXiv:1909.05858)
    presence_penalty: float = 0.0     # taken from the logits of tokens that the answer has
    frequency_penalty: float = 0.0    # taken from them for each time that the answer has them
    seed: int = 0                 # the same seed gives the same answer, alone or in a batch

    def __post_init__(self):
        for name, ok, expected in (
                ("temperature", 0 <= self.temperature <= 100, "0 to 100"),
                ("top_k", self.top_k >= -1, "1 or more, or 0 or -1 for all"),
                ("top_p", 0 <= self.top_p <= 1, "0 to 1"),
                ("min_p", 0 <= self.min_p <= 1, "0 to 1"),
                ("repetition_penalty", 0.01 <= self.repetition_penalty <= 100, "0.01 to 100"),
                ("presence_penalty", -2 <= self.presence_penalty <= 2, "-2 to 2"),
                ("frequency_penalty", -2 <= self.frequency_penalty <= 2, "-2 to 2")):
            if not ok:
                raise ValueError(f"{name} {getattr(self, name)}: expected {expected}")

    @property
    def plain(self):
        """Whether the likeliest token is always taken, and no penalty changes which one it is."""
        return (self.temperature == 0 and self.repetition_penalty == 1
                and self.presence_penalty == 0 and self.frequency_penalty == 0)


# A temperature below this one is taken for this one, which leaves tokens of equal probability
# alone. The smallest numbers of float32 are 0 for a processor that flushes them, and 0/0 is NaN.
MIN_TEMPERATURE = 1e-30


def sample(logits, generations):
    """logits (B, V) float32, B Generations -> B ids.

    Each row has its own settings and its own random numbers. Changes logits in place.
    """
    for row, generation in enumerate(generations):
        penalty = generation.sampling.repetition_penalty
        if penalty != 1:
            seen = torch.tensor(sorted(set(generation.ids)), device=logits.device)
            before = logits[row, seen]
            logits[row, seen] = torch.where(before > 0, before / penalty, before * penalty)
        presence = generation.sampling.presence_penalty
        frequency = generation.sampling.frequency_penalty
        if presence or frequency:
            counts = Counter(generation.answer)
            seen = torch.tensor(list(counts), dtype=torch.long, device=logits.device)
            times = torch.tensor(list(counts.values()), device=logits.device)
            logits[row, seen] -= presence + frequency * times

    # On a CPU, numpy's argmax and sort take a tenth of the time of torch's.
    if logits.device.type == "cpu":
        ids = logits.numpy().argmax(-1).tolist()
    else:
        ids = logits.argmax(-1).tolist()

    drawn = [row for row, generation in enumerate(generations)
             if generation.sampling.temperature > 0]
    if drawn:
        # Indexing copies the logits, which there is no need for when every row is drawn.
        if len(drawn) < len(generations):
            logits = logits[drawn]
        for row, id in zip(drawn, draw(logits, [generations[row] for row in drawn])):
            ids[row] = id
    return ids


def draw(logits, generations):
    """Draw one id a row among those that the filters keep.

    logits (B, V), B Generations with a temperature above 0 -> B ids.
    """
    settings = [generation.sampling for generation in generations]
    # All logits are now at most 0, so that dividing by a tiny temperature cannot give inf.
    logits = logits - logits.amax(-1, keepdim=True)
    temperature = column([max(s.temperature, MIN_TEMPERATURE) for s in settings], logits)
    probs = (logits / temperature).softmax(-1)
    cumulative = torch.where(probs < smallest_kept(probs, settings), 0, probs).cumsum(-1)
    # 1 - random() is above 0, so the first token that reaches the target has a probability above 0.
    share = column([1 - generation.random.random() for generation in generations], logits)
    return torch.searchsorted(cumulative, share * cumulative[:, -1:])[:, 0].tolist()


def smallest_kept(probs, settings):
    """The smallest probability in each row that the filters keep: probs (B, V) -> (B, 1).

    top_p counts within what top_k leaves.
    """
    V = probs.size(1)
    smallest = probs.amax(-1, keepdim=True) * column([s.min_p for s in settings], probs)
    if all(s.top_p == 1 and not 0 < s.top_k < V for s in settings):
        return smallest
    if probs.device.type == "cpu":
        ranked = torch.from_numpy(np.sort(probs.numpy())).flip(-1)
    else:
        ranked = probs.sort(descending=True).values
    reached = ranked.cumsum(-1)
    top_k = column([min(s.top_k, V) if s.top_k > 0 else V for s in settings], probs)
    # Infinity turns top_p off. With 1, rounding could cut the least likely tokens of a row, and
    # whether it does would depend on the other rows of the batch.
    top_p = column([s.top_p if s.top_p < 1 else torch.inf for s in settings], probs)
    # A token stays if the likelier ones do not reach top_p without it.
    likelier = reached - ranked
    n_below_top_p = (likelier < reached.gather(1, top_k - 1) * top_p).sum(-1, keepdim=True)
    # The likeliest token always stays, also with a top_p that is 0 in float32.
    n_kept = torch.minimum(n_below_top_p, top_k).clamp(min=1)
    return torch.maximum(smallest, ranked.gather(1, n_kept - 1))


def column(values, like):
    """B numbers, one a row -> (B, 1), on the device of `like`."""
    return torch.tensor(values, device=like.device)[:, None]

# --------------------------------------------------------------------------------------------------
# The engine: continuous batching. Generations join and leave between two steps, and every step adds
# one token to each.

# The states of a generation are the rows of Engine.specials: which special tokens may be sampled.
IN_TEXT, IN_CODE, IN_RAW_TEXT = range(3)


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
    # Why it ended: "stop" (by itself), "call" (of a tool of the caller's), "length", "cancelled" or
    # "error". Empty while it goes on.
    finish: str = ""
    # What went wrong, if it ended with "error".
    error: Exception = None
    # How many of the ids the cache holds, and how many of those another generation had left there.
    cached: int = 0
    reused: int = 0
    # The ids since <|python_start|>, or None outside of code.
    code: list = None
    # A function of code that says whether it calls a tool of the caller's. There the answer ends.
    is_call: object = None
    # When it left the batch, by time.monotonic().
    retired: float = 0.0
    # Whether to keep the log-probability of every sampled id, and of how many of the likeliest ids
    # beside it.
    keep_logps: bool = False
    n_top: int = 0

    def __post_init__(self):
        # For each id of the answer: 1 if the model sampled it, 0 in a tool's output.
        self.sampled = []
        # Of the sampled ids, in nats, at temperature 1 and after the mask of special tokens. No
        # penalty and no filter changes them.
        self.logps = []
        # For each sampled id the likeliest ids there, as pairs (id, its log-probability).
        self.tops = []
        # Every (seed, prompt, copy) has its own random stream: samples of one prompt differ, and
        # the other rows of the batch have no influence.
        self.random = random.Random(f"{self.sampling.seed} {self.copy} {self.ids}")

    @property
    def answer(self):
        return self.ids[self.n_prompt:]

    @property
    def score(self):
        """Of the last sampled id: its log-probability and the likeliest ids; None if not kept."""
        if not self.logps:
            return None
        return self.logps[-1], self.tops[-1] if self.tops else []

    @property
    def state(self):
        if self.raw:
            return IN_RAW_TEXT
        return IN_TEXT if self.code is None else IN_CODE


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
        self.tok = tok
        self.max_rows = max_rows
        self.max_len = model.config.seq_len
        self.decoder = make_decoder(model, dtype, compile)
        self.reset()
        self.max_kept = 8
        # Fewer common ids than this are not worth a copy.
        self.min_shared = 16
        # At most so many tokens of new prompts a step: this bounds how long the others wait.
        self.prefill_tokens = prefill_tokens(self.decoder)
        # Added to the logits: 0 for the special tokens that may be sampled in a state, else -inf.
        # Text may open Python or end the answer, code may only close itself, and raw text may only
        # end. The model can never open a tool output.
        names = list(tok.specials)
        specials = torch.full((3, len(names)), -torch.inf)                   # (states, specials)
        for state, name in [(IN_TEXT, "<|python_start|>"), (IN_TEXT, "<|assistant_end|>"),
                            (IN_CODE, "<|python_end|>"), (IN_RAW_TEXT, "<|bos|>")]:
            specials[state, names.index(name)] = 0
        self.specials = specials.to(self.decoder.device)
        # Of the generations in the last step: their states, and the rows of specials for these.
        self.states = []
        self.mask = None
        self.first_special = min(tok.specials.values())
        # Whether an error that one generation causes ends that one alone (a server) or is raised.
        self.isolate_errors = False
        # Those that ended so in this step, as pairs (Generation, []).
        self.failed = []

    def reset(self):
        """Forget all generations. This also helps after an error that left the rows in disorder."""
        self.waiting = deque()
        self.active = []
        self.kept = []

    def update(self, model):
        """Go on with the model's present weights, without what the old ones left in the cache."""
        self.reset()
        self.decoder.update(model)

    def submit(self, prompt, max_tokens, sampling=Sampling(), raw=False, copy=0, keep_logps=False,
               n_top=0, is_call=None):
        """Queue a prompt for step() to work on. Returns its Generation.

        prompt: ids up to <|assistant_start|>, or any ids with raw. keep_logps, n_top, is_call: of
        Generation.
        """
        if not 0 < len(prompt) < self.max_len:
            raise ValueError(f"a prompt of {len(prompt)} tokens: this model takes 1 to "
                             f"{self.max_len - 1} (it was trained on rows of {self.max_len}); "
                             f"shorten the conversation")
        # Such an id would end a GPU's whole process, and in decode.c read any memory.
        if not (0 <= min(prompt) and max(prompt) < self.tok.vocab_size):
            raise ValueError(f"a prompt with ids from {min(prompt)} to {max(prompt)}: this model "
                             f"has 0 to {self.tok.vocab_size - 1}")
        if max_tokens < 1:
            raise ValueError(f"max_tokens {max_tokens}: expected 1 or more")
        end = min(len(prompt) + max_tokens, self.max_len)
        generation = Generation(list(prompt), len(prompt), end, sampling, raw, copy,
                                keep_logps=keep_logps, n_top=n_top, is_call=is_call)
        if not raw:
            generation.code = self.open_code(generation.ids)
        self.waiting.append(generation)
        return generation

    def open_code(self, ids):
        """The ids behind a <|python_start|> that no other special token follows, else None.

        An answer that was cut may be continued within code.
        """
        for i in reversed(range(len(ids))):
            if ids[i] == self.tok.special("<|python_start|>"):
                return ids[i + 1:]
            if ids[i] >= self.first_special:
                break
        return None

    def cancel(self, generation):
        if not generation.finish:
            generation.finish = "cancelled"

    def step(self):
        """Add one token to every generation whose prompt is in the cache.

        Returns pairs (Generation, its new ids). They are more than one where a tool's output
        follows, and none where a generation ends with an error of its own (isolate_errors).
        """
        self.retire()
        self.failed = []
        self.admit()
        self.prefill()
        ready = [row for row, generation in enumerate(self.active)
                 if generation.cached == len(generation.ids) - 1 and not generation.finish]
        if not ready:
            return self.failed
        states = [generation.state for generation in self.active]
        if states != self.states:
            self.states = states
            self.mask = self.specials[states]

        # The last id of every generation, all rows as one batch. A row whose prompt is not yet
        # complete runs along: what this writes into its cache is overwritten later.
        logits, ids = self.next()
        generations = [self.active[row] for row in ready]
        if not all(generation.sampling.plain for generation in generations):
            ids = self.sample(logits, ready, generations)
        elif len(ready) < len(ids):
            ids = [ids[row] for row in ready]
        if any(generation.keep_logps for generation in generations):
            self.note_logps(generations, logits[ready], ids)
        new = []
        for generation, id in zip(generations, ids):
            if generation.finish:
                continue
            try:
                new.append((generation, self.accept(generation, id)))
            except Exception as e:
                self.fail(generation, e)
        return self.failed + new

    def fail(self, generation, error):
        """End one generation because of an error of its own, or raise the error."""
        if not self.isolate_errors:
            raise error
        # Its prompt may have failed in this step, and then its row does.
        if generation.finish:
            return
        generation.finish = "error"
        generation.error = error
        self.failed.append((generation, []))

    def sample(self, logits, rows, generations):
        """sample() for some rows of logits (B, V). Where that fails, for each row by itself."""
        try:
            return sample(logits[rows], generations)
        except Exception:
            ids = [-1] * len(rows)
            for i, (row, generation) in enumerate(zip(rows, generations)):
                try:
                    [ids[i]] = sample(logits[[row]], [generation])
                except Exception as e:
                    self.fail(generation, e)
            return ids

    def note_logps(self, generations, logits, ids):
        """Keep the log-probability of each sampled id. logits (B, V), masked; ids: B numbers."""
        rows = [row for row, generation in enumerate(generations)
                if generation.keep_logps and not generation.finish]
        if len(rows) < len(generations):
            logits = logits[rows]
            generations = [generations[row] for row in rows]
            ids = [ids[row] for row in rows]
        if not generations:
            return
        logps = logits.log_softmax(-1)
        sampled = logps.gather(1, column(ids, logits))[:, 0].tolist()
        for generation, logp in zip(generations, sampled):
            generation.logps.append(logp)
        n_top = max(generation.n_top for generation in generations)
        if n_top:
            top = logps.topk(min(n_top, logps.size(1)))
            for generation, values, top_ids in zip(generations, top.values.tolist(),
                                                   top.indices.tolist()):
                # The special tokens that may not come here have no probability at all.
                pairs = [(id, logp) for id, logp in zip(top_ids, values) if logp > -torch.inf]
                generation.tops.append(pairs[:generation.n_top])

    def retire(self):
        """Take finished generations out of the batch. The last active row fills each gap."""
        for row in reversed(range(len(self.active))):
            generation = self.active[row]
            if generation.finish:
                last = self.active.pop()
                if last is not generation:
                    length = max(generation.cached, last.cached)
                    self.decoder.swap(row, len(self.active), length)
                    self.active[row] = last
                generation.retired = time.monotonic()
                self.kept.insert(0, generation)

    def admit(self):
        """Give waiting generations a row."""
        while self.waiting and len(self.active) < self.max_rows:
            generation = self.waiting.popleft()
            # It may have been cancelled while it waited.
            if generation.finish:
                continue
            try:
                self.give_row(generation)
            except Exception as e:
                # No memory for it, for example. Nobody knows which of the kept rows have moved.
                self.kept = []
                self.fail(generation, e)

    def give_row(self, generation):
        """Put a generation into row n, behind the n active ones.

        It takes over the keys and values of the row that has the most ids in common with it.
        """
        n = len(self.active)
        rows = self.active + self.kept
        # The last id is never taken over: the next step needs its logits.
        shared = [common_prefix(other.ids[:other.cached], generation.ids[:-1]) for other in rows]
        longest = max(shared, default=0)
        best = None
        if longest >= self.min_shared:
            best = shared.index(longest)
            generation.cached = longest
            generation.reused = longest

        # What is kept in row n changes places with the best row if that is kept, too. Otherwise it
        # moves to a free row, or to the row of the one that was retired first.
        if best is not None and best >= n:
            target = best
        elif len(self.kept) < self.max_kept:
            target = len(rows)
        else:
            target = n + min(range(len(self.kept)), key=lambda i: self.kept[i].retired)
        self.decoder.reserve(target + 1, generation.end)
        if target > n:
            self.decoder.swap(n, target, max(kept.cached for kept in self.kept))
            self.kept[target - n:target - n + 1] = self.kept[:1]
        del self.kept[:1]

        # Another active generation goes on with its keys and values, so the new one gets a copy.
        if best is not None and best < n:
            self.decoder.copy(best, n, generation.reused)
        self.active.append(generation)

    def prefill(self):
        """Put new ids into the cache, those of prompts and of tool outputs, but not the last one.

        At most prefill_tokens in one step, and all of them in one pass. Those of several samples of
        one prompt count once.
        """
        budget = self.prefill_tokens
        pieces = []
        # The rows with pieces, by the ids they are to have; further ones with these get a copy.
        rows = {}
        copies = []
        for row, generation in enumerate(self.active):
            if generation.cached == len(generation.ids) - 1:
                continue
            key = (generation.cached, *generation.ids[:-1])
            if key in rows:
                copies.append((rows[key], row))
            elif budget:
                rows[key] = row
                ids = generation.ids[generation.cached:-1][:budget]
                budget -= len(ids)
                pieces.append((ids, generation.cached, row))
        if pieces:
            self.put(pieces)
        for source, row in copies:
            # After an error there is nothing to copy, and the row is tried by itself.
            if not self.active[source].finish:
                length = self.active[source].cached
                self.decoder.copy(source, row, length)
                self.active[row].cached = length

    def put(self, pieces):
        """Put pieces (ids, start, row) into the cache. Where that fails, each half by itself.

        So an error ends only what causes it, and too little memory for all may do for each.
        """
        try:
            self.decoder.prefill(pieces, PADDING * self.prefill_tokens)
        except Exception as e:
            if isinstance(e, torch.OutOfMemoryError) and self.prefill_tokens > 512:
                self.prefill_tokens //= 2
            if len(pieces) == 1:
                [(_, _, row)] = pieces
                self.fail(self.active[row], e)
                return
        else:
            for ids, _, row in pieces:
                self.active[row].cached += len(ids)
            return
        # Only here, as within `except` the error holds the memory of the pass that failed.
        middle = len(pieces) // 2
        self.put(pieces[:middle])
        self.put(pieces[middle:])

    def next(self):
        """The decoder's next() for all rows: logits (B, V) and the likeliest ids."""
        last_ids = [generation.ids[-1] for generation in self.active]
        positions = [generation.cached for generation in self.active]
        try:
            return self.decoder.next(last_ids, positions, self.mask)
        except Exception:
            if not self.isolate_errors:
                raise
        logits = self.next_in_halves(last_ids, positions, 0)
        logits[:, -self.mask.size(1):] += self.mask
        return logits, logits.argmax(-1).tolist()

    def next_in_halves(self, last_ids, positions, first):
        """Logits (B, V) of the rows from `first` on, from passes that do not fail.

        A row that fails by itself ends with its error, and its logits are 0.
        """
        try:
            return self.decoder.forward([[id] for id in last_ids], positions, first)
        except Exception as e:
            if len(last_ids) == 1:
                self.fail(self.active[first], e)
                return torch.zeros(1, self.tok.vocab_size, device=self.specials.device)
        middle = len(last_ids) // 2
        return torch.cat([
            self.next_in_halves(last_ids[:middle], positions[:middle], first),
            self.next_in_halves(last_ids[middle:], positions[middle:], first + middle)])

    def accept(self, generation, id):
        """Append a sampled id and, where it closes a tool call, the tool's output.

        Sets `finish` where the generation ends. Returns the new ids.
        """
        special = self.tok.special
        if not 0 <= id < self.tok.vocab_size:
            raise ValueError(f"the model's logits are not numbers: they lead to token {id}")
        new = [id]
        if id < self.first_special:
            if generation.code is not None:
                generation.code.append(id)
        elif id == special("<|python_start|>"):
            generation.code = []
        elif id == special("<|python_end|>"):
            code = self.tok.decode(generation.code)
            generation.code = None
            if generation.is_call and generation.is_call(code):
                generation.finish = "call"
            else:
                result = run_python(code)
                new += [special("<|output_start|>"), *self.tok.encode(result),
                        special("<|output_end|>")]
                new = new[:generation.end - len(generation.ids)]
        else:
            # The mask leaves only <|assistant_end|> and <|bos|>, which end it.
            generation.finish = "stop"
        generation.cached += 1
        generation.ids += new
        generation.sampled += [1] + [0] * (len(new) - 1)
        if len(generation.ids) == generation.end and not generation.finish:
            generation.finish = "length"
        return new

    def generate(self, prompts, max_tokens, progress=None, raw=False, **sampling):
        """Answer all prompts (lists of ids) -> a list of ids each, tool outputs included.

        An answer ends with <|assistant_end|> if the model ended it. Without that id, max_tokens or
        the context cut it off.

        sampling: the fields of Sampling. Equal prompts in one call get different samples.
        progress(done): called after every answer.
        """
        settings = Sampling(**sampling)
        seen = Counter()
        generations = []
        for prompt in map(tuple, prompts):
            generations.append(self.submit(prompt, max_tokens, settings, raw, copy=seen[prompt]))
            seen[prompt] += 1
        done = 0
        while done < len(generations):
            for generation, _ in self.step():
                if generation.finish:
                    done += 1
                    if progress:
                        progress(done)
        return [generation.answer for generation in generations]


def common_prefix(a, b):
    """How many ids two lists share from the start: [1, 2, 3], [1, 2, 4] -> 2."""
    for i, (x, y) in enumerate(zip(a, b)):
        if x != y:
            return i
    return min(len(a), len(b))

# --------------------------------------------------------------------------------------------------
# The parts of an answer: text, Python code, and the tool's output

class PartStream:
    """Ids, one by one -> pairs (part type, new text), in whole characters.

    A UTF-8 sequence that is spread over several tokens comes out once it is complete.
    """

    def __init__(self, tok):
        self.tok = tok
        self.type = "text"
        self.names = {id: name for name, id in tok.specials.items()}
        self.utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, id):
        """Take one id -> a list of (part type, text). The text is "" where a part begins."""
        name = self.names.get(id)
        if name is None:
            text = self.utf8.decode(self.tok.enc.decode_single_token_bytes(id))
            return [(self.type, text)] if text else []
        pairs = self.flush()
        opened = {"<|python_start|>": "python", "<|output_start|>": "python_output"}
        self.type = opened.get(name, "text")
        if self.type != "text":
            pairs.append((self.type, ""))
        return pairs

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
    for part_type, text in PartStream(tok).whole(ids):
        add_text(parts, part_type, text)
    return parts


def add_text(parts, part_type, text):
    """Append to the last part, or begin one: where the type changes, and where text is ""."""
    if text == "" or not parts or parts[-1]["type"] != part_type:
        parts.append({"type": part_type, "text": ""})
    parts[-1]["text"] += text
