"""
Talk to any checkpoint. Reads out/<stage>/ and out/tokenizer/; home of the inference engine that every other script uses.

terminal     python chat.py                            the newest stage in out/ (or --stage sft, or --stage path/to/folder)
one answer   python chat.py -p "How many r are in strawberry?"          (-p - reads the prompt from standard input)
raw text     python chat.py --stage pretrain --base -p "def main("      continue text instead of answering

Sizes in shape comments: B rows of the batch, T tokens, C channels (n_embd), H heads, D head size, V vocabulary.
"""
import ast, codecs, itertools, operator, random, sys, time, warnings
from collections import Counter, deque
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

from common import load_checkpoint, parse_config, rms_norm, rotary_table, run, setup

# ---------------------------------------------------------------------------------------------------------------------
# The tool: a calculator that also counts letters. It walks the syntax tree, so nothing but the listed operations can run

OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
             ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.Pow: operator.pow, ast.USub: operator.neg,
             ast.UAdd: operator.pos}
MAX_CODE = 400                    # characters; also bounds the nesting that ast.parse and evaluate recurse into
MAX_BITS = 512                    # of any integer on the way, so that no operation can take long and every result is short


def run_python(code):
    """'12/60' -> '0.2', '"strawberry".count("r")' -> '3', '1/0' -> 'error: division by zero'. Never raises, takes < 1 ms."""
    try:
        with warnings.catch_warnings(action="ignore"):                       # "\d" in a string makes Python warn on stderr
            tree = ast.parse(code.strip()[:MAX_CODE + 1], mode="eval")
        if len(code.strip()) > MAX_CODE:
            return f"error: more than {MAX_CODE} characters"
    except (SyntaxError, ValueError, RecursionError, MemoryError):           # ValueError: NUL, lone surrogates
        return "error: not a valid expression"
    try:
        value = evaluate(tree.body)
    except (ValueError, ArithmeticError) as e:
        return f"error: {e}"
    return f"{value:.12g}" if type(value) is float else str(value)           # 0.2*50 -> 10, 0.1+0.2 -> 0.3: as people write


def evaluate(node):
    """Arithmetic on int and float literals, and "text".count("part"); ValueError for everything else."""
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return bounded(node.value)
    if isinstance(node, ast.UnaryOp) and type(node.op) in OPERATORS:
        return OPERATORS[type(node.op)](evaluate(node.operand))
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        left, right = evaluate(node.left), evaluate(node.right)
        if isinstance(node.op, ast.Pow) and type(left) is type(right) is int and (left.bit_length() - 1) * right > MAX_BITS:
            raise ValueError("number too large")                             # before Python starts to compute 9**9**9
        return bounded(OPERATORS[type(node.op)](left, right))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "count":
        texts = [n.value for n in [node.func.value, *node.args] if isinstance(n, ast.Constant) and type(n.value) is str]
        if len(texts) == 2 and len(node.args) == 1 and not node.keywords:
            return texts[0].count(texts[1])
    raise ValueError("only arithmetic and str.count on literals")


def bounded(value):
    if type(value) is int and value.bit_length() > MAX_BITS or type(value) is float and abs(value) == float("inf"):
        raise ValueError("number too large")
    if type(value) not in (int, float) or value != value:                    # (-8)**0.5 is complex, inf-inf is nan
        raise ValueError("not a real number")
    return value

# ---------------------------------------------------------------------------------------------------------------------
# The model once more, for generation: GPT.forward with a KV cache, and with everything left out that only training needs

class Decoder:
    """The weights of a GPT, each kind of product fused and transposed once, and the keys and values of up to max_rows texts.

    A test holds it to GPT.forward: the same logits, whether the tokens come at once, in chunks or one by one, alone or in a
    batch. Row r of the cache belongs to one text; positions past its end hold leftovers that no query looks at.
    """

    def __init__(self, model, dtype):
        c = self.config = model.config
        self.device, self.dtype, self.head_size = model.embed.device, dtype, c.n_embd // c.n_head
        fuse = lambda *weights: torch.cat([w.detach() for w in weights]).to(dtype).T.contiguous()   # (in, sum of out)
        self.layers = [(fuse(b.attn.wq, b.attn.wk, b.attn.wv), fuse(b.attn.wo), fuse(b.mlp.gate, b.mlp.up), fuse(b.mlp.down))
                       for b in model.blocks]
        self.embed, self.head = rms_norm(model.embed.detach()).to(dtype), fuse(model.head)
        cos, sin = rotary_table(torch.arange(c.seq_len, device=self.device), self.head_size, c.rope_theta)
        self.cos = torch.cat([cos, cos], -1).view(c.seq_len, 1, -1)          # (seq_len, 1, D): both halves of a head at once
        self.sin = torch.cat([-sin, sin], -1).view(c.seq_len, 1, -1)
        self.rows = self.size = 0                                            # of the cache: texts, tokens each
        self.cache = None

    def reserve(self, rows, size):
        """Make the cache at least so large; it doubles, so that growing costs little on average, and keeps what it holds."""
        if rows <= self.rows and size <= self.size:
            return
        old, c = self.cache, self.config
        new_rows = rows if rows <= self.rows or not self.rows else max(rows, 2 * self.rows)
        new_size = min(c.seq_len, max(size, 2 * self.size if size > self.size else self.size))
        # zeros and not empty: a masked position adds 0 times its value, and 0 times a leftover NaN would be NaN
        self.cache = torch.zeros(c.n_layer, max(new_rows, self.rows), new_size, 2 * c.n_kv_head, self.head_size,
                                 dtype=self.dtype, device=self.device)
        if old is not None:
            self.cache[:, :self.rows, :self.size] = old
        self.rows, self.size = self.cache.shape[1:3]

    def forward(self, ids, start, row=0, logits=True):
        """Put ids (B, T) into the cache rows row..row+B-1 at positions start[b]..start[b]+T-1.

        start: B ints. Returns the logits of the last position (B, V) float32, of all (B, T, V) with logits="all", or None.
        """
        c, D, kv_heads = self.config, self.head_size, self.config.n_kv_head
        B, T = len(ids), len(ids[0])
        ids = torch.as_tensor(ids, device=self.device)
        first = torch.as_tensor(start, device=self.device)[:, None]
        positions = first + torch.arange(T, device=self.device)              # (B, T)
        end = max(start) + T                                                 # nothing past it is written or looked at
        slots = ((row + torch.arange(B, device=self.device))[:, None] * self.size + positions).flatten()
        mask = None
        if B * T > 1:                                                        # True: this query may look at that key
            mask = (torch.arange(end, device=self.device) <= positions[..., None])[:, None]      # (B, 1, T, end)
        cos, sin = self.cos[positions.flatten()], self.sin[positions.flatten()]                  # (B*T, 1, D)
        x = self.embed[ids.flatten()]                                        # (B*T, C)
        for (wqkv, wo, gate_up, down), cache in zip(self.layers, self.cache):
            qkv = torch.mm(rms_norm(x), wqkv).view(B * T, -1, D)             # (B*T, H + 2 Hkv, D)
            qk = rms_norm(qkv[:, :c.n_head + kv_heads]).float()
            qkv[:, :c.n_head + kv_heads] = torch.addcmul(qk * cos, qk.roll(D // 2, -1), sin)
            q, kv = qkv[:, :c.n_head], qkv[:, c.n_head:]
            cache.view(-1, 2 * kv_heads, D).index_copy_(0, slots, kv)
            k, v = cache[row:row + B, :end].transpose(1, 2).chunk(2, dim=1)  # each (B, Hkv, end, D)
            y = F.scaled_dot_product_attention(q.view(B, T, -1, D).transpose(1, 2), k, v, attn_mask=mask,
                                               enable_gqa=c.n_head != kv_heads)
            x = torch.addmm(x, y.transpose(1, 2).reshape(B * T, -1), wo)
            gate, up = torch.mm(rms_norm(x), gate_up).chunk(2, dim=-1)
            x = torch.addmm(x, F.silu(gate) * up, down)
        if not logits:
            return None
        x = x.view(B, T, -1) if logits == "all" else x.view(B, T, -1)[:, -1]
        return torch.matmul(rms_norm(x), self.head).float()

    def move(self, source, target, length, swap=False):
        """Copy the first `length` positions of row `source` to row `target`, or exchange the two rows."""
        a, b = self.cache[:, source, :length], self.cache[:, target, :length]
        if swap:
            a_copy = a.clone()
            a.copy_(b)
            b.copy_(a_copy)
        else:
            b.copy_(a)

# ---------------------------------------------------------------------------------------------------------------------
# Sampling

@dataclass(frozen=True)
class Sampling:
    temperature: float = 0.0      # 0 is greedy: always the likeliest token
    top_k: int = 0                # only the k likeliest tokens, 0 for all
    top_p: float = 1.0            # only the likeliest tokens that together reach this probability (Holtzman 2020, arXiv:1904.09751)
    min_p: float = 0.0            # only tokens at least this times as likely as the likeliest (Nguyen 2025, arXiv:2407.01082)
    repetition_penalty: float = 1.0   # > 1 makes tokens that stand in the text already less likely (Keskar 2019, arXiv:1909.05858)
    seed: int = 0                 # the same seed gives the same answer, alone or in a batch

    def __post_init__(self):
        for name, ok, expected in (("temperature", 0 <= self.temperature <= 100, "0 to 100"),
                                   ("top_k", self.top_k >= 0, "0 (off) or more"), ("top_p", 0 < self.top_p <= 1, "above 0, up to 1"),
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
    ids = logits.argmax(-1)
    drawn = [i for i, text in enumerate(texts) if text.sampling.temperature > 0]
    if not drawn:
        return ids.tolist()
    column = lambda values: torch.tensor(values, device=logits.device)[:, None]
    settings = [texts[i].sampling for i in drawn]
    V, logits = logits.size(1), logits[drawn]
    logits = (logits - logits.amax(-1, keepdim=True)) / column([s.temperature for s in settings])   # max first: 1e-30 is fine
    top_k = [min(s.top_k, V) or V for s in settings]
    if min(top_k) < V:
        largest = logits.topk(max(k for k in top_k if k < V)).values
        kth = largest.gather(1, column([min(k, largest.size(1)) for k in top_k]) - 1)
        logits = logits.masked_fill((logits < kth) & (column(top_k) < V), -torch.inf)
    probs = logits.softmax(-1)
    if min(s.top_p for s in settings) < 1:
        largest = probs.sort(-1, descending=True).values
        before = largest.cumsum(-1) - largest                                # what the more likely ones reach without this one
        last = (before < column([s.top_p for s in settings])).sum(-1, keepdim=True) - 1
        probs = probs.masked_fill(probs < largest.gather(1, last), 0)
    probs = probs.masked_fill(probs < probs.amax(-1, keepdim=True) * column([s.min_p for s in settings]), 0)
    cumulative = probs.cumsum(-1)
    # 1 - random() is above 0 and at most 1, so the first token that reaches it is one of positive probability
    target = column([1 - texts[i].random.random() for i in drawn]) * cumulative[:, -1:]
    ids[drawn] = torch.searchsorted(cumulative, target.float())[:, 0].to(ids.dtype)
    return ids.tolist()

# ---------------------------------------------------------------------------------------------------------------------
# The engine: continuous batching. Texts join and leave between two steps; a step adds one token to each

@dataclass(eq=False)
class Generation:
    """One text in the making. ids grows with every step; finish says why it ended: "stop" (by itself), "length", "cancelled"."""
    ids: list                     # prompt and answer; the answer ends with <|assistant_end|> if the model ended by itself
    n_prompt: int
    max_tokens: int               # of the answer, tool outputs included
    sampling: Sampling
    raw: bool = False             # continue plain text: no tool, ends at <|bos|>
    copy: int = 0                 # the how-manieth sample of the same prompt and seed
    finish: str = ""
    cached: int = 0               # how many of the ids the cache row holds
    code: list = None             # ids since <|python_start|>

    def __post_init__(self):
        # a stream of its own for every (seed, prompt, copy): samples of one prompt differ, and no other row has a say
        self.random = random.Random(f"{self.sampling.seed} {self.copy} {self.ids}")

    @property
    def answer(self):
        return self.ids[self.n_prompt:]


class Engine:
    """Decodes up to max_rows texts as one batch. Not thread-safe: one thread calls submit, step, cancel.

    Cache rows 0..n-1 belong to the n active texts; the rows after them keep finished ones, so that the next turn of a
    conversation finds its beginning already computed.
    """

    def __init__(self, model, tok, max_rows=64, dtype=None):
        """dtype of weights and cache; None: float32 on a CPU (small products gain nothing from bfloat16 there), else model's."""
        if dtype is None:
            dtype = torch.float32 if model.embed.device.type == "cpu" else model.compute_dtype
        self.tok, self.max_rows, self.max_len = tok, max_rows, model.config.seq_len
        with torch.inference_mode():
            self.decoder = Decoder(model, dtype)
        self.waiting, self.active = deque(), []
        self.kept, self.max_kept, self.clock = [], 8, itertools.count()      # kept: (time, ids) of each row after the active ones
        self.prefill_tokens = 512                                            # a step's share for new prompts: bounds others' wait
        # What may be sampled: in a text the model can open Python or end; in code it can close it. It can never open an output.
        self.specials = torch.full((3, len(tok.specials)), -torch.inf, device=self.decoder.device)
        for state, names in enumerate([["<|python_start|>", "<|assistant_end|>"], ["<|python_end|>"], ["<|bos|>"]]):
            for name in names:
                self.specials[state, list(tok.specials).index(name)] = 0

    def submit(self, prompt, max_tokens, sampling=Sampling(), raw=False, copy=0):
        """Queue a prompt (ids that end with <|assistant_start|>, or any with raw); step() works on it. Returns a Generation."""
        if not 0 < len(prompt) < self.max_len:
            raise ValueError(f"a prompt of {len(prompt)} tokens: this model takes 1 to {self.max_len - 1} (it was trained on rows "
                             f"of {self.max_len}); shorten the conversation")
        if max_tokens < 1:
            raise ValueError(f"max_tokens {max_tokens}: expected 1 or more")
        text = Generation(list(prompt), len(prompt), min(max_tokens, self.max_len - len(prompt)), sampling, raw, copy)
        self.waiting.append(text)
        return text

    def cancel(self, text):
        if not text.finish:
            text.finish = "cancelled"

    @torch.inference_mode()
    def step(self):
        """One round for all: admit, prefill, decode. Returns the (Generation, new ids) pairs; a tool's output comes with its call."""
        self.admit()
        if not self.active:
            return []
        budget = self.prefill_tokens                                         # all but the last id of each text go in first
        for row, text in enumerate(self.active):
            ids = text.ids[text.cached:-1][:budget]
            if ids:
                self.decoder.forward([ids], [text.cached], row, logits=False)
                text.cached += len(ids)
                budget -= len(ids)
        # The last id of every text, all rows as one batch. A text still in prefill runs along; its leftovers are overwritten.
        ready = [i for i, text in enumerate(self.active) if text.cached == len(text.ids) - 1]
        if not ready:
            return []
        logits = self.decoder.forward([[t.ids[-1]] for t in self.active], [t.cached for t in self.active])
        texts = [self.active[i] for i in ready]
        logits = logits[ready] if len(ready) < len(self.active) else logits
        state = [2 if t.raw else 0 if t.code is None else 1 for t in texts]
        logits[:, -self.specials.size(1):] += self.specials[state]
        news = []
        for text, id in zip(texts, sample(logits, texts)):
            text.cached += 1
            news.append((text, self.accept(text, id)))
        self.retire()
        return news

    def accept(self, text, id):
        """Append a sampled id and, where it closes a call, the tool's output; set finish where the text ends. -> the new ids."""
        special, new = self.tok.special, [id]
        if not text.raw and id == special("<|python_start|>"):
            text.code = []
        elif not text.raw and id == special("<|python_end|>"):
            result = self.tok.encode(run_python(self.tok.decode(text.code)))
            new += [special("<|output_start|>")] + result + [special("<|output_end|>")]
            text.code = None
        elif text.code is not None:
            text.code.append(id)
        new = new[:text.n_prompt + text.max_tokens - len(text.ids)]
        text.ids += new
        if id == special("<|bos|>" if text.raw else "<|assistant_end|>"):
            text.finish = "stop"
        elif len(text.ids) == text.n_prompt + text.max_tokens:
            text.finish = "length"
        return new

    def admit(self):
        """Give waiting texts a row; where another row begins with the same ids, take its keys and values over."""
        self.retire()                                                        # whoever was cancelled since the last step
        self.waiting = deque(t for t in self.waiting if not t.finish)
        while self.waiting and len(self.active) < self.max_rows:
            text, n = self.waiting.popleft(), len(self.active)
            prompt = text.ids[:-1]                                           # the last id is what the next step feeds
            self.decoder.reserve(n + 1 + len(self.kept), text.n_prompt + text.max_tokens)
            rows = [t.ids[:t.cached] for t in self.active] + [ids for _, ids in self.kept]
            shared = [common_prefix(ids, prompt) for ids in rows]
            best = max(range(len(rows)), key=shared.__getitem__, default=None)
            if best is not None and shared[best] < 16:                       # not worth a copy
                best = None
            if best is not None and best > n:                                # text becomes row n; what is kept there moves away
                self.decoder.move(best, n, max(len(rows[best]), len(rows[n])), swap=True)
                self.kept[best - n] = self.kept[0]
            elif self.kept and best != n:
                self.decoder.move(n, len(rows), len(rows[n]))
                self.kept.append(self.kept[0])
            del self.kept[:1]
            if best is not None and best < n:
                self.decoder.move(best, n, shared[best])
            text.cached = shared[best] if best is not None else 0
            self.active.append(text)

    def retire(self):
        """Finished texts leave the batch: the last active row changes places with them, so that the active rows stay together."""
        for row in reversed(range(len(self.active))):
            text = self.active[row]
            if not text.finish:
                continue
            last = self.active.pop()
            if last is not text:
                self.decoder.move(row, len(self.active), max(text.cached, last.cached), swap=True)
                self.active[row] = last
            self.kept.insert(0, (next(self.clock), text.ids[:text.cached]))
            if len(self.kept) > self.max_kept:                               # the oldest goes, the last one takes its place
                oldest, end = self.kept.index(min(self.kept)), len(self.active) + len(self.kept) - 1
                self.decoder.move(end, len(self.active) + oldest, len(self.kept[-1][1]))
                self.kept[oldest] = self.kept[-1]
                self.kept.pop()

    def generate(self, prompts, max_tokens, progress=None, raw=False, **sampling):
        """prompts: lists of ids -> one list of ids each: the answer, tool outputs included, <|assistant_end|> at its end if the
        model ended by itself (without it, max_tokens or the context cut it off).

        sampling: the fields of Sampling. Equal prompts in one call get different samples. progress(done) after each answer.
        """
        settings, seen, texts, done = Sampling(**sampling), Counter(), [], 0
        for prompt in prompts:
            texts.append(self.submit(prompt, max_tokens, settings, raw, copy=seen[tuple(prompt)]))
            seen[tuple(prompt)] += 1
        while done < len(texts):
            for text, _ in self.step():
                if text.finish:
                    done += 1
                    if progress:
                        progress(done)
        return [text.answer for text in texts]

    def stream(self, prompt, max_tokens, raw=False, **sampling):
        """Yield the ids of one answer as they come; closing the generator cancels it."""
        text = self.submit(prompt, max_tokens, Sampling(**sampling), raw)
        try:
            while not text.finish:
                for _, new in self.step():
                    yield from new
        finally:
            self.cancel(text)


def common_prefix(a, b):
    """How many ids two lists share from the start: [1, 2, 3], [1, 2, 4] -> 2."""
    return next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))


class PartStream:
    """Ids, one by one -> (part type, new text) pairs. Text comes out in whole characters, never half a UTF-8 sequence."""

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


def parse_answer(tok, ids):
    """The ids of an answer -> its parts [{"type": "text"|"python"|"python_output", "text"}], as in a conversation record."""
    stream, parts = PartStream(tok), []
    for type, text in [pair for id in ids for pair in stream.feed(id)] + stream.flush():
        if text == "" or not parts or parts[-1]["type"] != type:             # "" opens a part, even beside one of its kind
            parts.append({"type": type, "text": ""})
        parts[-1]["text"] += text
    return parts

# ---------------------------------------------------------------------------------------------------------------------
# The terminal

STAGES = ["pretrain", "midtrain", "sft", "dpo", "distill"]


@dataclass
class Config:
    out: str = "out"              # folder where the stages find each other
    stage: str = ""               # pretrain, midtrain, sft, dpo, distill or the path of a checkpoint; empty: the last one there is
    prompt: str = ""              # answer this one prompt and exit, also as -p PROMPT; - reads standard input
    base: bool = False            # continue raw text instead of answering
    system: str = ""              # a system message
    max_tokens: int = 512         # of each answer, tool outputs included
    temperature: float = 0.7      # 0: always the likeliest token
    top_k: int = 0                # only the k likeliest tokens, 0: all
    top_p: float = 0.95           # only the likeliest tokens that together have this probability
    min_p: float = 0.0            # only tokens at least this times as likely as the likeliest
    repetition_penalty: float = 1.0   # above 1: tokens that stand in the text already become less likely
    seed: int = 0                 # the same seed gives the same answers
    device: str = "auto"          # auto, cpu, cuda or mps
    dtype: str = "auto"           # auto (float32 on a CPU, else bfloat16 where the hardware has it), float32 or bfloat16


def find_checkpoint(out, stage):
    """The folder of the stage, or of the last stage that exists in out."""
    if stage and stage not in STAGES:
        return Path(stage)
    for name in [stage] if stage else reversed(STAGES):
        if (Path(out) / name / "meta.json").exists():
            return Path(out) / name
    missing = f"no {stage} checkpoint" if stage else f"no checkpoint of any stage ({', '.join(STAGES)})"
    raise FileNotFoundError(f"{missing} in {out}: train one first (bash run.sh), or name another folder with --out")


def main():
    argv = sys.argv[1:]
    if "-p" in argv[:-1]:                                                    # one token, so that a prompt may begin with a dash
        i = argv.index("-p")
        argv[i:i + 2] = [f"--prompt={argv[i + 1]}"]
    cfg = parse_config(Config, __doc__, argv)
    path = find_checkpoint(cfg.out, cfg.stage)
    env = setup(cfg.device, "float32" if cfg.dtype == "auto" and cfg.device in ("auto", "cpu") and not torch.cuda.is_available()
                else cfg.dtype)
    model, tok, meta = load_checkpoint(path, env.device)
    engine = Engine(model, tok, dtype=env.dtype)
    settings = dict(temperature=cfg.temperature, top_k=cfg.top_k, top_p=cfg.top_p, min_p=cfg.min_p,
                    repetition_penalty=cfg.repetition_penalty, seed=cfg.seed)
    prompt = sys.stdin.read() if cfg.prompt == "-" else cfg.prompt
    if cfg.base:
        ids = [tok.special("<|bos|>")] + tok.encode(prompt)
        print(prompt, end="", flush=True)
        show(tok, engine.stream(ids, cfg.max_tokens, raw=True, **settings))
        return
    messages = [{"role": "system", "content": cfg.system}] if cfg.system else []
    if not cfg.prompt:
        print(f"{path}: {model.num_params() / 1e6:.1f} million parameters on {env.device}. Ctrl-D ends.")
    while True:
        if not cfg.prompt:
            try:
                prompt = input("\nyou  ")
            except EOFError:
                break
            print("bot  ", end="", flush=True)
        messages.append({"role": "user", "content": prompt})
        answer = show(tok, engine.stream(tok.render_for_completion({"messages": messages}), cfg.max_tokens, **settings))
        messages.append({"role": "assistant", "content": parse_answer(tok, answer)})
        if cfg.prompt:
            break


def show(tok, ids):
    """Print an answer as its ids come; tool calls and results stand in brackets. Returns all ids."""
    parts, seen, type = PartStream(tok), [], "text"
    marks = {"text": ("", ""), "python": ("[python: ", "]"), "python_output": ("[= ", "]")}
    for id in ids:
        seen.append(id)
        before = parts.type
        for new, text in parts.feed(id):
            print(marks[new][0] if text == "" else text, end="", flush=True)
        if before != "text" and parts.type != before:
            print(marks[before][1], end="", flush=True)
    print("".join(text for _, text in parts.flush()), flush=True)
    return seen


if __name__ == "__main__":
    run(main)
