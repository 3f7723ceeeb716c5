"""
READ THIS FIRST. What every script shares, in the order in which a model is made:

    Tokenizer      text <-> ids; a conversation -> ids, and a mask of what the model learns to say
    GPT            the model: a decoder-only Transformer of exactly the shape of Qwen3
    the loss       cross-entropy of the next token, without ever holding all logits in memory
    generate()     one new token after the other
    checkpoints    a folder for each stage, replaced as a whole

GPT.forward is the forward pass to read. It has fast relatives that compute the same numbers, and a
test holds each of them to it: Decoder in talk/decode.py and talk/decode.c generate with a cache of
keys and values; block_states and score_rows in talk/options.py compare the options of a question.

Read on in pretrain.py, then in train/optimizer.py. Skip machine.py at first.

Sizes in shape comments:
B batch, T time, C channels (n_embd), H heads, D head size, V vocabulary, N = B*T.
"""
import base64
import hashlib
import json
import math
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import tiktoken
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from machine import finish_replace, new_folder, versions, write_synced

# --------------------------------------------------------------------------------------------------
# Tokenizer: text <-> ids, and conversations -> ids with a mask

SPECIAL_TOKENS = ["<|bos|>",
                  "<|user_start|>", "<|user_end|>",
                  "<|assistant_start|>", "<|assistant_end|>",
                  "<|python_start|>", "<|python_end|>",
                  "<|output_start|>", "<|output_end|>"]
PART_TOKENS = {"python": ("<|python_start|>", "<|python_end|>"),
               "python_output": ("<|output_start|>", "<|output_end|>")}


class Tokenizer:
    """tiktoken with our own merges.

    Text never becomes a special id, whatever a user types: only special() and render_* give those.
    """

    def __init__(self, merges, pattern, special_tokens=SPECIAL_TOKENS):
        """merges: the bytes of a tiktoken file, one line 'base64 rank' a token.

        fingerprint is a hash of everything that decides how text becomes ids. Packed rows and
        checkpoints carry it, so that those of different tokenizers are never mixed up.
        """
        ranks = {base64.b64decode(token): int(rank)
                 for token, rank in map(bytes.split, merges.splitlines())}
        self.pattern = pattern
        self.fingerprint = hashlib.sha256(
            merges + json.dumps([pattern, special_tokens]).encode()).hexdigest()
        self.specials = {name: len(ranks) + i for i, name in enumerate(special_tokens)}
        self.enc = tiktoken.Encoding("tok2chat", pat_str=pattern, mergeable_ranks=ranks,
                                     special_tokens=self.specials)
        self.vocab_size = len(ranks) + len(special_tokens)
        # The number of raw bytes of each token; 0 for the special tokens.
        self.token_bytes = np.zeros(self.vocab_size, dtype=np.int32)
        self.token_bytes[list(ranks.values())] = [len(token) for token in ranks]

    @classmethod
    def load(cls, path):
        path = Path(path)
        finish_replace(path)
        try:
            info = json.loads((path / "tokenizer.json").read_text())
            tok = cls((path / "merges.tiktoken").read_bytes(),
                      info["pattern"], info["special_tokens"])
            if info["fingerprint"] != tok.fingerprint:
                raise ValueError("merges.tiktoken does not belong to tokenizer.json, "
                                 "their fingerprints differ")
            return tok
        except FileNotFoundError as e:
            raise FileNotFoundError(f"{e.filename} is missing. Train a tokenizer first: "
                                    f"python tokenizer.py --out {path.parent}") from None
        except (ValueError, KeyError, TypeError) as e:
            raise ValueError(f"{path} holds no valid tokenizer ({e!r}). Train it again: "
                             f"python tokenizer.py --out {path.parent}") from None

    def special(self, name):
        return self.specials[name]

    def encode(self, text):
        return self.enc.encode_ordinary(text)

    def encode_batch(self, texts):
        return self.enc.encode_ordinary_batch(texts, num_threads=os.cpu_count())

    def decode(self, ids):
        # Invalid UTF-8 becomes U+FFFD.
        return self.enc.decode(ids)

    def render_conversation(self, conversation, max_tokens=None):
        """-> (ids, mask), two lists of one length; mask is 1 where the model learns to speak.

        The README has a table of the pieces. Every piece is encoded by itself, and its ids and its
        mask are added together, so that no text can shift the mask.
        max_tokens cuts the end off; a cut answer then has no <|assistant_end|> to learn.
        """
        ids, mask = [self.special("<|bos|>")], [0]

        def add(new_ids, learn):
            ids.extend(new_ids)
            mask.extend([learn] * len(new_ids))

        for message in merge_system(conversation["messages"]):
            content = message["content"]
            if message["role"] == "user":
                add([self.special("<|user_start|>")] + self.encode(content)
                    + [self.special("<|user_end|>")], 0)
                continue
            add([self.special("<|assistant_start|>")], 0)
            for part in ([{"type": "text", "text": content}] if isinstance(content, str)
                         else content):
                # A tool's result comes from Python at chat time: the model must not learn it.
                part_ids, learn = self.encode(part["text"]), int(part["type"] != "python_output")
                if part["type"] != "text":
                    start, end = PART_TOKENS[part["type"]]
                    part_ids = [self.special(start)] + part_ids + [self.special(end)]
                add(part_ids, learn)
            # Without this target the model would never learn to stop.
            add([self.special("<|assistant_end|>")], 1)
        return ids[:max_tokens], mask[:max_tokens]

    def render_for_completion(self, conversation):
        """-> ids up to and including <|assistant_start|>: the prompt for the next answer.

        If the conversation ends with an answer, that answer is left out.
        """
        messages = merge_system(conversation["messages"])
        if messages[-1]["role"] == "assistant":
            messages = messages[:-1]
        ids, _ = self.render_conversation({"messages": messages})
        return ids + [self.special("<|assistant_start|>")]


def render_pair(pair, tok, row_len):
    """Render the chosen and the rejected conversation of a preference pair, one behind the other.

    -> ids and mask of at most row_len tokens, and how many tokens were cropped to get there.
    If the two do not fit, the longer one loses its end. If nothing of an answer is left, the whole
    mask is 0, so that the pair teaches nothing.
    """
    sides = [tok.render_conversation(pair[side]) for side in ("chosen", "rejected")]
    # Each side may use half a row, or whatever the other one leaves free.
    room = [max(row_len // 2, row_len - len(other[0])) for other in reversed(sides)]
    (ids, mask), (ids_2, mask_2) = [(ids[:n], mask[:n]) for (ids, mask), n in zip(sides, room)]
    if not (any(mask) and any(mask_2)):
        mask, mask_2 = [0] * len(mask), [0] * len(mask_2)
    return ids + ids_2, mask + mask_2, max(0, sum(len(side[0]) for side in sides) - row_len)


def merge_system(messages):
    """Join a first system message, if there is one, to the first user message.

    ValueError unless user and assistant then take turns, beginning with the user.
    """
    messages = list(messages)
    if len(messages) > 1 and messages[0]["role"] == "system" and messages[1]["role"] == "user":
        messages[:2] = [{"role": "user",
                         "content": messages[0]["content"] + "\n\n" + messages[1]["content"]}]
    for i, message in enumerate(messages):
        expected = "assistant" if i % 2 else "user"
        if message["role"] != expected:
            raise ValueError(f"message {i + 1} has role {message['role']!r}, expected {expected!r}"
                             f": an optional system message, then user and assistant in turn")
    if not messages:
        raise ValueError("a conversation without messages: expected at least one user message")
    return messages

# --------------------------------------------------------------------------------------------------
# The model: a decoder-only Transformer, in transformers Qwen3ForCausalLM

@dataclass
class GPTConfig:
    vocab_size: int
    seq_len: int                  # longest row it is trained on; RoPE itself has no limit
    n_layer: int
    n_head: int
    n_kv_head: int                # fewer than n_head: grouped-query attention, arXiv:2305.13245
    n_embd: int
    n_ff: int                     # inner width of SwiGLU
    rope_theta: float = 10000.0

    @property
    def bos(self):
        return self.vocab_size - len(SPECIAL_TOKENS)


def rms_norm(x):
    """x / rms(x) over the last dimension: Zhang and Sennrich 2019, eq. 4.

    It has no gain to learn; an exported model gets gains of one.
    """
    return F.rms_norm(x, (x.size(-1),), eps=1e-6)


def linear(x, *weights):
    """x (..., in) times each weight (out, in), as a single matrix product -> (..., sum of out).

    The weights are stored in float32 and cast here to the dtype of x.
    """
    weight = torch.cat(weights) if len(weights) > 1 else weights[0]
    return F.linear(x, weight.to(x.dtype))


def rotary_table(positions, head_size, theta):
    """positions (T,) or (B, T) -> cos and sin, both (..., 1, T, D/2): Su et al. 2021, eq. 34.

    They are float32, as bfloat16 cannot tell position 256 from 257. arXiv:2104.09864
    """
    freq = theta ** (-torch.arange(0, head_size, 2, device=positions.device, dtype=torch.float32)
                     / head_size)
    angle = positions.float()[..., None] * freq
    return angle.cos().unsqueeze(-3), angle.sin().unsqueeze(-3)


def rotate(x, cos, sin):
    """Rotate each pair (x[i], x[i + D/2]) of x (B, H, T, D) by the angle of its position."""
    x1, x2 = x.float().chunk(2, dim=-1)
    return torch.cat([x1 * cos - x2 * sin, x2 * cos + x1 * sin], dim=-1).to(x.dtype)


def attend(q, k, v, attn_mask):
    """softmax(q k^T / sqrt(D) + attn_mask) v; q, k, v (B, H, T, D).

    attn_mask (B, 1, T, T) is 0 or -inf; None means causal.
    """
    T, D = q.shape[-2:]
    # Short rows on a CPU: compiled, the formula itself is a third faster than SDPA (dev/LOG.md).
    if q.is_cpu and T <= 512 and torch.compiler.is_compiling():
        if attn_mask is None:
            attn_mask = torch.full((T, T), -math.inf).triu(1)
        return ((q @ k.mT).float() * D ** -0.5 + attn_mask).softmax(-1).to(v.dtype) @ v
    return F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask, is_causal=attn_mask is None)


class Attention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.n_head, self.n_kv_head, self.head_size = \
            config.n_head, config.n_kv_head, config.n_embd // config.n_head
        self.wq = nn.Parameter(torch.empty(self.n_head * self.head_size, config.n_embd))
        self.wk = nn.Parameter(torch.empty(self.n_kv_head * self.head_size, config.n_embd))
        self.wv = nn.Parameter(torch.empty(self.n_kv_head * self.head_size, config.n_embd))
        self.wo = nn.Parameter(torch.empty(config.n_embd, self.n_head * self.head_size))

    def forward(self, x, cos, sin, attn_mask):
        B, T, C = x.shape
        qkv = linear(x, self.wq, self.wk, self.wv).view(B, T, -1, self.head_size)
        # (B, T, H + 2 Hkv, D) -> (B, H, T, D), and twice (B, Hkv, T, D)
        q, k, v = qkv.transpose(1, 2).split([self.n_head, self.n_kv_head, self.n_kv_head], dim=1)
        # QK-norm: queries and keys are normalised, so that no logit of the softmax grows large.
        # Dehghani et al. 2023, arXiv:2302.05442.
        q, k = rotate(rms_norm(q), cos, sin), rotate(rms_norm(k), cos, sin)
        # SDPA's masked CUDA kernel does not support grouped queries: repeat the keys and values.
        if self.n_kv_head < self.n_head:
            k, v = (t.repeat_interleave(self.n_head // self.n_kv_head, dim=1) for t in (k, v))
        y = attend(q, k, v, attn_mask)                         # (B, H, T, D)
        return linear(y.transpose(1, 2).reshape(B, T, -1), self.wo)


class MLP(nn.Module):
    """SwiGLU: Shazeer 2020, arXiv:2002.05202, eq. 6."""

    def __init__(self, config):
        super().__init__()
        self.gate = nn.Parameter(torch.empty(config.n_ff, config.n_embd))
        self.up = nn.Parameter(torch.empty(config.n_ff, config.n_embd))
        self.down = nn.Parameter(torch.empty(config.n_embd, config.n_ff))

    def forward(self, x):
        gate, up = linear(x, self.gate, self.up).chunk(2, dim=-1)
        return linear(F.silu(gate) * up, self.down)


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.attn, self.mlp = Attention(config), MLP(config)

    def forward(self, x, cos, sin, attn_mask):
        x = x + self.attn(rms_norm(x), cos, sin, attn_mask)
        return x + self.mlp(rms_norm(x))


class GPT(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config, self.compute_dtype = config, torch.float32
        self.embed = nn.Parameter(torch.empty(config.vocab_size, config.n_embd))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.head = nn.Parameter(torch.empty(config.vocab_size, config.n_embd))

    def forward(self, ids, targets=None, reduction="sum", isolate=False):
        """ids (B, T) -> logits (B, T, V) float32, or the loss if there are targets.

        targets (B, T): the id that follows each token; -1 counts nothing.
        The loss is cross-entropy in nats, float32: the sum (), or with reduction="none" (B, T).
        isolate: a token sees only its own document, which begins at the last <|bos|>; without it,
        a token sees all tokens before it.
        """
        B, T = ids.shape
        positions, attn_mask = torch.arange(T, device=ids.device), None
        if isolate:
            # The number of the document that a token belongs to.
            doc = (ids == self.config.bos).cumsum(1)           # (B, T)
            visible = ((positions[:, None] >= positions)
                       & (doc[:, :, None] == doc[:, None, :]))      # (B, T, T)
            attn_mask = torch.zeros_like(visible, dtype=self.compute_dtype).masked_fill(
                ~visible, -math.inf)[:, None]
        cos, sin = rotary_table(positions, self.config.n_embd // self.config.n_head,
                                self.config.rope_theta)
        # The export writes a table that is already normalised: there this norm costs nothing.
        x = rms_norm(F.embedding(ids, self.embed)).to(self.compute_dtype)
        for block in self.blocks:
            x = block(x, cos, sin, attn_mask)
        x = rms_norm(x)
        if targets is None:
            return linear(x, self.head).float()
        x, targets = x.flatten(0, 1), targets.flatten()
        if reduction == "none":
            return token_losses(x, self.head, targets).view(B, T)
        return LinearCrossEntropy.apply(x, self.head, targets)

    def num_params(self):
        return sum(p.numel() for p in self.parameters())

# --------------------------------------------------------------------------------------------------
# The loss: cross-entropy of the head, in chunks, so that the full logits (N, V) never exist at once

# Tokens whose logits exist at the same time. With 2048, steps on a CPU take 6 % longer (measured).
CHUNK = 1024


def chunks(x, targets):
    """x (N, C), targets (N,) -> pairs of pieces.

    Each piece adds to the whole dhead, so CUDA gets fewer and larger ones (a guess).
    """
    n = 2 * CHUNK if x.is_cuda else CHUNK
    return zip(x.split(n), targets.split(n))


class LinearCrossEntropy(torch.autograd.Function):
    """The sum of cross-entropy(head @ x, target) over all tokens, () float32.

    x (N, C), head (V, C), targets (N,), -1 for none.
    The gradients are computed in the forward pass, while the logits of a chunk are at hand, and
    backward only scales them. So no logits are kept, and none are computed twice.
    """
    @staticmethod
    def forward(ctx, x, head, targets):
        w, vocab = head.to(x.dtype), torch.arange(head.size(0), device=x.device)
        losses, dx, dhead = [], [], 0
        for x_chunk, target in chunks(x, targets):
            logits = F.linear(x_chunk, w).float()              # (n, V)
            logsumexp = logits.logsumexp(-1, keepdim=True)     # (n, 1)
            counts, is_target = (target >= 0)[:, None], vocab == target[:, None]
            losses.append((((logsumexp - logits) * is_target).sum(-1)).sum())
            # The gradient is softmax(logits) minus one at the target, where a token counts.
            dlogits = (((logits - logsumexp).exp() - is_target.float()) * counts).to(x.dtype)
            dx.append(dlogits @ w)
            dhead = dhead + (dlogits.T @ x_chunk).float()
        ctx.save_for_backward(torch.cat(dx), dhead)
        return torch.stack(losses).sum()

    @staticmethod
    def backward(ctx, grad):
        dx, dhead = ctx.saved_tensors
        return (dx * grad).to(dx.dtype), dhead * grad, None


def token_losses(x, head, targets):
    """The cross-entropy of each token, (N,) float32; 0 where the target is -1.

    What comes of the loss of each token is not known yet, so backward computes the logits again.
    """
    def chunk_losses(x_chunk, target):
        return F.cross_entropy(linear(x_chunk, head).float(), target, ignore_index=-1,
                               reduction="none")
    return torch.cat([
        checkpoint(chunk_losses, *chunk, use_reentrant=False, preserve_rng_state=False)
        for chunk in chunks(x, targets)])

# --------------------------------------------------------------------------------------------------
# Generation, plainly: talk/engine.py does it for many texts at once, with a cache and the tool

@torch.no_grad()
def generate(model, ids, n, temperature=0.0, seed=0, stop=()):
    """Continue a list of ids -> at most n new ones. Each runs the whole text through GPT.forward.

    temperature: 0 takes the likeliest id, otherwise one is drawn.
    stop: ids that end the text; the one that did is among the new ones.
    """
    rng = torch.Generator().manual_seed(seed)
    text = list(ids)
    while len(text) < len(ids) + n and (len(text) == len(ids) or text[-1] not in stop):
        logits = model(torch.tensor([text], device=model.embed.device))[0, -1].cpu()       # (V,)
        if temperature == 0:
            text.append(logits.argmax().item())
        else:
            probabilities = (logits / temperature).softmax(-1)
            text.append(torch.multinomial(probabilities, 1, generator=rng).item())
    return text[len(ids):]

# --------------------------------------------------------------------------------------------------
# Checkpoints: a folder with model.pt, optim.pt, meta.json and metrics.jsonl, replaced as a whole

def save_checkpoint(path, model, meta, metrics, optimizer, env):
    """Write a checkpoint so that a reader, even after a crash, sees the old one or the new one.

    All ranks must call this, since they gather the state of the optimizer; rank 0 writes.
    """
    optimizer_state = optimizer.state_dict()
    if env.rank > 0:
        return
    weights = {name: p.cpu() for name, p in model.state_dict().items()}
    meta = dict(format=1, **meta, model=asdict(model.config), versions=versions())
    lines = "".join(json.dumps(m) + "\n" for m in metrics)
    try:
        with new_folder(Path(path)) as new:
            write_synced(new / "model.pt", lambda f: torch.save(weights, f))
            write_synced(new / "optim.pt", lambda f: torch.save(optimizer_state, f))
            write_synced(new / "metrics.jsonl", lambda f: f.write(lines.encode()))
            write_synced(new / "meta.json", lambda f: f.write(json.dumps(meta, indent=1).encode()))
    # torch reports a full disk as a RuntimeError.
    except (OSError, RuntimeError) as e:
        raise OSError(f"{path}: the checkpoint could not be written ({e}); what stood there before "
                      f"is untouched. Free some disk space or choose another --out, then go on "
                      f"with --resume") from None


def read_meta(path, hint="train that stage first"):
    path = Path(path)
    finish_replace(path)
    try:
        meta = json.loads((path / "meta.json").read_text())
        if meta["format"] != 1:
            raise ValueError(f"format {meta['format']}, expected 1")
        return meta
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} holds no checkpoint: {hint}") from None
    except (ValueError, KeyError, TypeError) as e:
        raise ValueError(f"{path}/meta.json describes no checkpoint ({e!r}): {hint}") from None


def load_checkpoint(path, device="cpu", hint="train that stage first"):
    """-> the model (in eval mode, float32 weights), its Tokenizer, and meta.

    Errors say what is missing and what to run.
    """
    path, meta = Path(path), read_meta(path, hint)
    tok = Tokenizer.load(path.parent / "tokenizer")
    if meta["tokenizer"] != tok.fingerprint:
        raise ValueError(f"{path} was trained with another tokenizer ({meta['tokenizer'][:8]}) "
                         f"than {path.parent / 'tokenizer'} ({tok.fingerprint[:8]}). Train the "
                         f"stages again from python pretrain.py --out {path.parent}")
    model = GPT(GPTConfig(**meta["model"]))
    model.load_state_dict(load_tensors(path / "model.pt"))
    return model.to(device).eval(), tok, meta


def load_tensors(path):
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing: train that stage again") from None
    # A torn file makes torch raise errors of many kinds.
    except Exception as e:
        raise ValueError(f"{path} cannot be read ({type(e).__name__}): "
                         f"train that stage again") from None


def digest(data):
    """16 hex digits that identify plain data, such as the meta of a checkpoint."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]


STAGES = ["pretrain", "midtrain", "sft", "dpo", "distill"]
# The stage whose checkpoint a stage starts from.
BASES = {"midtrain": "pretrain", "sft": "midtrain", "dpo": "sft", "distill": "sft"}


def find_checkpoint(out, stage):
    """The folder of `stage` in out, or of the last stage that is there if `stage` is empty.

    Anything that is not the name of a stage is taken for the path of a checkpoint.
    """
    if stage and stage not in STAGES:
        return Path(stage)
    for name in [stage] if stage else reversed(STAGES):
        if (Path(out) / name / "meta.json").exists():
            if base := not stage and trained_anew(out, name):
                print(f"note       {out}/{name} is older than {out}/{base}; "
                      f"for that: --stage {base}", file=sys.stderr)
            return Path(out) / name
    missing = (f"no {stage} checkpoint" if stage
               else f"no checkpoint of any stage ({', '.join(STAGES)})")
    raise FileNotFoundError(f"{missing} in {out}: train one first (bash run.sh), "
                            f"or name another folder with --out")


def trained_anew(out, stage):
    """The earlier stage that was trained again after `stage` was made from it; "" if there is none.

    A checkpoint's settings hold the digest of the meta that it started from. The search goes down
    from stage to stage, so a stage in between may also be the one that is too old.
    """
    while (base := BASES.get(stage, "")) and Path(out, base, "meta.json").exists():
        start = read_meta(Path(out, stage)).get("settings", {}).get("start")
        if start and start != digest(read_meta(Path(out, base))):
            return base
        stage = base
    return ""
