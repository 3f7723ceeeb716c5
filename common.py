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
import copy
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
from torch.nn.attention import SDPBackend, sdpa_kernel
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
        ranks = {}
        for line in merges.splitlines():
            token, rank = line.split()
            ranks[base64.b64decode(token)] = int(rank)
        self.pattern = pattern
        settings = json.dumps([pattern, special_tokens])
        self.fingerprint = hashlib.sha256(merges + settings.encode()).hexdigest()
        # The special tokens come after all others.
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

    def render_conversation(self, conversation, max_tokens=None, unlearned=0):
        """-> (ids, mask), two lists of one length; mask is 1 where the model learns to speak:

            <|bos|> <|user_start|> hi <|user_end|> <|assistant_start|> hello <|assistant_end|>
               0           0        0       0               0            1           1

        Every piece is encoded by itself, and its ids and its mask are added together, so that no
        text can shift the mask.
        A message or a part with "learn": False is context: its mask is `unlearned`.
        max_tokens cuts the end off; a cut answer then has no <|assistant_end|> to learn.
        """
        ids = [self.special("<|bos|>")]
        mask = [0]

        def add(new_ids, learn):
            ids.extend(new_ids)
            mask.extend([learn] * len(new_ids))

        for message in merge_system(conversation["messages"]):
            content = message["content"]
            if message["role"] == "user":
                add([self.special("<|user_start|>")], 0)
                add(self.encode(content), 0)
                add([self.special("<|user_end|>")], 0)
                continue
            add([self.special("<|assistant_start|>")], 0)
            parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
            spoken = 1
            for part in parts:
                part_ids = self.encode(part["text"])
                if part["type"] != "text":
                    start, end = PART_TOKENS[part["type"]]
                    part_ids = [self.special(start)] + part_ids + [self.special(end)]
                if part["type"] == "python_output":
                    # It comes from Python at chat time: the model must not learn it.
                    add(part_ids, 0)
                    continue
                learn = message.get("learn", True) and part.get("learn", True)
                spoken = 1 if learn else unlearned
                add(part_ids, spoken)
            # Without this target the model would never learn to stop.
            add([self.special("<|assistant_end|>")], spoken)
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
    chosen, chosen_mask = tok.render_conversation(pair["chosen"])
    rejected, rejected_mask = tok.render_conversation(pair["rejected"])
    n_cropped = max(0, len(chosen) + len(rejected) - row_len)

    # Each side may use half a row, or whatever the other one leaves free.
    chosen_room = max(row_len // 2, row_len - len(rejected))
    rejected_room = max(row_len // 2, row_len - len(chosen))
    chosen_mask = chosen_mask[:chosen_room]
    rejected_mask = rejected_mask[:rejected_room]
    ids = chosen[:chosen_room] + rejected[:rejected_room]
    mask = chosen_mask + rejected_mask
    if not any(chosen_mask) or not any(rejected_mask):
        mask = [0] * len(mask)
    return ids, mask, n_cropped


def merge_system(messages):
    """Join a first system message, if there is one, to the first user message.

    ValueError unless user and assistant then take turns, beginning with the user.
    """
    messages = list(messages)
    if [message["role"] for message in messages[:2]] == ["system", "user"]:
        system, user = messages[:2]
        content = system["content"] + "\n\n" + user["content"]
        messages[:2] = [{"role": "user", "content": content}]
    for i, message in enumerate(messages):
        expected = "assistant" if i % 2 else "user"
        if message["role"] != expected:
            raise ValueError(f"message {i + 1} has role {message['role']!r}, expected {expected!r}"
                             f": an optional system message, then user and assistant in turn")
    if not messages:
        raise ValueError("a conversation without messages: expected at least one user message")
    return messages

# --------------------------------------------------------------------------------------------------
# The model: a decoder-only Transformer of exactly the shape of Qwen3 (Qwen3ForCausalLM)

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
    angle = positions.float()[..., None] * freq                # (..., T, D/2)
    return angle.cos().unsqueeze(-3), angle.sin().unsqueeze(-3)


def rotate(x, cos, sin):
    """Rotate each pair (x[i], x[i + D/2]) of x (B, H, T, D) by the angle of its position.

    For x (B, T, H, D), the table must be (..., T, 1, D/2).
    """
    x1, x2 = x.float().chunk(2, dim=-1)
    rotated = torch.cat([x1 * cos - x2 * sin, x2 * cos + x1 * sin], dim=-1)
    return rotated.to(x.dtype)


def document_mask(ids, bos, dtype):
    """ids (B, T) -> (B, 1, T, T): 0 where a token sees another one, -inf where it does not.

    A token sees itself and the tokens before it, back to the <|bos|> that begins its document.
    """
    positions = torch.arange(ids.size(1), device=ids.device)
    document = (ids == bos).cumsum(1)                          # (B, T), the document's number
    is_earlier = positions[:, None] >= positions               # (T, T)
    is_same = document[:, :, None] == document[:, None, :]     # (B, T, T)
    visible = is_earlier & is_same
    mask = torch.zeros_like(visible, dtype=dtype).masked_fill(~visible, -math.inf)
    return mask[:, None]


def document_bounds(ids):
    """ids (B, T), each row beginning with <|bos|> -> (K,) int32 for GPT.forward's isolate.

    These are the places in ids.flatten() at which documents begin, in order; all that follow are
    B*T. Of several <|bos|> in a row, which are padding, the last alone counts. K is a power of two,
    so that few shapes must be compiled. On a GPU this waits for what was computed before.
    """
    is_bos = ids == ids[:, :1]
    starts = is_bos.clone()
    starts[:, :-1] &= ~is_bos[:, 1:]
    # A row never goes on with a document of the row before.
    starts[:, 0] = True
    bounds = starts.flatten().nonzero().flatten()
    size = max(64, 2 ** len(bounds).bit_length())
    return F.pad(bounds, (0, size - len(bounds)), value=ids.numel()).int()


def isolation(ids):
    """What GPT.forward's isolate takes to keep the documents of these rows apart.

    On a GPU, the bounds of the documents: it then computes nothing outside of them, and needs no
    mask (B, 1, T, T).
    """
    return document_bounds(ids) if ids.is_cuda else True


def has_varlen(x, dtype):
    """Whether varlen_attn takes x in this dtype. A GPU that has bfloat16 has flash attention."""
    return x.is_cuda and dtype == torch.bfloat16 and not torch.version.hip


def attend_within(q, k, v, bounds):
    """Causal attention in each document by itself; q (B, T, H, D), k and v (B, T, Hkv, D) -> as q.

    bounds: what document_bounds() returns.
    """
    # It takes 1.4 s to import, and only GPUs need it.
    from torch.nn.attention.varlen import varlen_attn
    T = q.size(1)
    # It takes the rows for one long text, cut at the bounds; (-1, 0) means causal.
    y = varlen_attn(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1), bounds, bounds, T, T,
                    window_size=(-1, 0), enable_gqa=True)      # (N, H, D)
    return y.view_as(q)


SDPA_KERNELS = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION,
                SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


def attend(q, k, v, attn_mask):
    """softmax(q k^T / sqrt(D) + attn_mask) v; q, k, v (B, H, T, D).

    attn_mask (B, 1, T, T) is 0 or -inf; None means causal.
    """
    T, D = q.shape[-2:]
    # Short rows on a CPU: compiled, the formula itself is a third faster than SDPA (dev/LOG.md).
    if q.is_cpu and T <= 512 and torch.compiler.is_compiling():
        if attn_mask is None:
            attn_mask = torch.full((T, T), -math.inf).triu(1)
        scores = (q @ k.mT).float() * D ** -0.5 + attn_mask    # (B, H, T, T)
        return scores.softmax(-1).to(v.dtype) @ v
    # setup() excludes cuDNN, whose gradients can be NaN with a mask; causal training may use it.
    if q.is_cuda and attn_mask is None and torch.is_grad_enabled():
        with sdpa_kernel(SDPA_KERNELS):
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask, is_causal=attn_mask is None)


class Attention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.n_head = config.n_head
        self.n_kv_head = config.n_kv_head
        self.head_size = config.n_embd // config.n_head
        self.wq = nn.Parameter(torch.empty(self.n_head * self.head_size, config.n_embd))
        self.wk = nn.Parameter(torch.empty(self.n_kv_head * self.head_size, config.n_embd))
        self.wv = nn.Parameter(torch.empty(self.n_kv_head * self.head_size, config.n_embd))
        self.wo = nn.Parameter(torch.empty(config.n_embd, self.n_head * self.head_size))

    def forward(self, x, cos, sin, attn_mask, bounds=None):
        B, T, C = x.shape
        qkv = linear(x, self.wq, self.wk, self.wv)
        qkv = qkv.view(B, T, -1, self.head_size)               # (B, T, H + 2 Hkv, D)
        q, k, v = qkv.split([self.n_head, self.n_kv_head, self.n_kv_head], dim=2)
        # QK-norm keeps q k^T within bounds: Dehghani et al. 2023, arXiv:2302.05442.
        q = rotate(rms_norm(q), cos, sin)
        k = rotate(rms_norm(k), cos, sin)
        if bounds is not None:
            return linear(attend_within(q, k, v, bounds).flatten(2), self.wo)
        # Only now, as Inductor computes the norm in fewer instructions where the heads lie.
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))       # (B, T, H, D) -> (B, H, T, D)
        # SDPA's masked CUDA kernel does not support grouped queries: repeat the keys and values.
        if self.n_kv_head < self.n_head:
            group = self.n_head // self.n_kv_head
            k = k.repeat_interleave(group, dim=1)              # (B, Hkv, T, D) -> (B, H, T, D)
            v = v.repeat_interleave(group, dim=1)
        y = attend(q, k, v, attn_mask)
        y = y.transpose(1, 2).reshape(B, T, -1)                # (B, H, T, D) -> (B, T, H * D)
        return linear(y, self.wo)


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
    """Attention, then the MLP; each reads normalised values and adds to the residual stream x."""

    def __init__(self, config):
        super().__init__()
        self.attn = Attention(config)
        self.mlp = MLP(config)

    def forward(self, x, cos, sin, attn_mask, bounds=None):
        x = x + self.attn(rms_norm(x), cos, sin, attn_mask, bounds)
        return x + self.mlp(rms_norm(x))


class GPT(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        # The weights are always float32; a script may let the model compute in bfloat16.
        self.compute_dtype = torch.float32
        self.embed = nn.Parameter(torch.empty(config.vocab_size, config.n_embd))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.head = nn.Parameter(torch.empty(config.vocab_size, config.n_embd))
        # A stored table: compiled, the model would else compute powers and cosines in every block.
        # No checkpoint holds it.
        cos, sin = self.rotary(torch.arange(config.seq_len))
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def rotary(self, positions):
        """The rotary table for x (B, T, H, D): cos and sin, both (T, 1, D/2) float32."""
        config = self.config
        table = rotary_table(positions, config.n_embd // config.n_head, config.rope_theta)
        return [t.transpose(-3, -2) for t in table]

    def forward(self, ids, targets=None, reduction="sum", isolate=False):
        """ids (B, T) -> logits (B, T, V) float32, or the loss if there are targets.

        targets (B, T): the id that follows each token; -1 counts nothing.
        The loss is cross-entropy in nats, float32: the sum (), or with reduction="none" (B, T).
        isolate: a token sees only its own document, which begins at the last <|bos|>; without it,
        a token sees all tokens before it. True, or what isolation(ids) returns, which is faster.
        """
        config = self.config
        B, T = ids.shape
        attn_mask = bounds = None
        has_bounds = isinstance(isolate, torch.Tensor)
        if has_bounds and has_varlen(ids, self.compute_dtype):
            bounds = isolate
        elif has_bounds or isolate:
            attn_mask = document_mask(ids, config.bos, self.compute_dtype)
        cos, sin = self.cos[:T], self.sin[:T]
        if T > config.seq_len:
            cos, sin = self.rotary(torch.arange(T, device=ids.device))

        # The export writes a table that is already normalised: there this norm costs nothing.
        x = rms_norm(F.embedding(ids, self.embed)).to(self.compute_dtype)
        for block in self.blocks:
            x = block(x, cos, sin, attn_mask, bounds)
        x = rms_norm(x)                                        # (B, T, C)

        if targets is None:
            return linear(x, self.head).float()
        x = x.flatten(0, 1)                                    # (N, C)
        targets = targets.flatten()                            # (N,)
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
        weight = head.to(x.dtype)
        vocabulary = torch.arange(head.size(0), device=x.device)
        losses = []
        dx = []
        dhead = 0
        for x_chunk, target in chunks(x, targets):
            logits = F.linear(x_chunk, weight).float()         # (n, V)
            logsumexp = logits.logsumexp(-1, keepdim=True)     # (n, 1)
            counts = (target >= 0)[:, None]                    # (n, 1)
            # One-hot (n, V); no id is -1, so a token without a target has the loss 0.
            is_target = vocabulary == target[:, None]
            losses.append(((logsumexp - logits) * is_target).sum(-1).sum())
            # The gradient of a token's loss is softmax(logits) minus the one-hot target.
            dlogits = ((logits - logsumexp).exp() - is_target.float()) * counts
            dlogits = dlogits.to(x.dtype)
            dx.append(dlogits @ weight)
            dhead = dhead + (dlogits.T @ x_chunk).float()
        ctx.save_for_backward(torch.cat(dx), dhead)
        return torch.stack(losses).sum()

    @staticmethod
    def backward(ctx, grad):
        dx, dhead = ctx.saved_tensors
        return (dx * grad).to(dx.dtype), dhead * grad, None


def token_losses(x, head, targets):
    """The cross-entropy of each token, (N,) float32; 0 where the target is -1.

    The gradients depend on what the caller makes of each loss, so they cannot be computed here:
    backward computes the logits again.
    """
    def chunk_losses(x_chunk, target):
        return F.cross_entropy(linear(x_chunk, head).float(), target, ignore_index=-1,
                               reduction="none")

    losses = [checkpoint(chunk_losses, x_chunk, target,
                         use_reentrant=False, preserve_rng_state=False)
              for x_chunk, target in chunks(x, targets)]
    return torch.cat(losses)

# --------------------------------------------------------------------------------------------------
# Generation, plainly: talk/engine.py does it for many texts at once, with a cache and the tool

@torch.no_grad()
def generate(model, ids, n, temperature=0.0, seed=0, stop=()):
    """Continue a list of ids -> at most n new ones.

    temperature: 0 takes the likeliest id, otherwise one is drawn.
    stop: generation ends after one of these ids, which is the last of the new ones.
    """
    rng = torch.Generator().manual_seed(seed)
    new = []
    while len(new) < n:
        # For every new id, the whole text goes through the model again.
        text = torch.tensor([[*ids, *new]], device=model.embed.device)
        logits = model(text)[0, -1].cpu()                      # (V,)
        if temperature == 0:
            id = logits.argmax().item()
        else:
            probabilities = (logits / temperature).softmax(-1)
            id = torch.multinomial(probabilities, 1, generator=rng).item()
        new.append(id)
        if id in stop:
            break
    return new

# --------------------------------------------------------------------------------------------------
# Checkpoints: a folder with model.pt, optim.pt, meta.json and metrics.jsonl, replaced as a whole

def save_checkpoint(path, model, meta, metrics, optimizer, env):
    """Write a checkpoint so that a reader, even after a crash, sees the old one or the new one.

    All ranks must call this, since they gather the state of the optimizer; rank 0 writes.
    """
    write = checkpoint_writer(path, model, meta, metrics, optimizer, env)
    if env.rank == 0:
        write()


def checkpoint_writer(path, model, meta, metrics, optimizer, env, later=False):
    """-> a function that writes the checkpoint, for save_checkpoint; None on the other ranks.

    later: what it writes is a copy, so that training may go on before it is called.
    """
    optimizer_state = optimizer.state_dict()
    if env.rank > 0:
        return None
    weights = {name: p.cpu() for name, p in model.state_dict().items()}
    if later and model.embed.is_cpu:
        # From other devices they were copied just now.
        weights, optimizer_state = copy.deepcopy((weights, optimizer_state))
    meta = dict(format=1, **meta, model=asdict(model.config), versions=versions())
    meta = json.dumps(meta, indent=1)
    lines = "".join(json.dumps(m) + "\n" for m in metrics)

    def write():
        try:
            with new_folder(Path(path)) as new:
                write_synced(new / "model.pt", lambda f: torch.save(weights, f))
                write_synced(new / "optim.pt", lambda f: torch.save(optimizer_state, f))
                write_synced(new / "metrics.jsonl", lambda f: f.write(lines.encode()))
                write_synced(new / "meta.json", lambda f: f.write(meta.encode()))
        # torch reports a full disk as a RuntimeError.
        except (OSError, RuntimeError) as e:
            raise OSError(f"{path}: the checkpoint could not be written ({e}); what stood there "
                          f"before is untouched. Free some disk space or choose another --out, "
                          f"then go on with --resume") from None

    return write


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
    path = Path(path)
    meta = read_meta(path, hint)
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
    text = json.dumps(data, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


STAGES = ["pretrain", "midtrain", "sft", "dpo", "distill", "rl"]
# The stage whose checkpoint a stage starts from.
BASES = {"midtrain": "pretrain", "sft": "midtrain", "dpo": "sft", "distill": "sft",
         "rl": "distill"}


def find_checkpoint(out, stage):
    """The folder of `stage` in out, or of the last stage that is there if `stage` is empty.

    Anything that is not the name of a stage is taken for the path of a checkpoint.
    """
    if stage and stage not in STAGES:
        return Path(stage)
    if stage:
        candidates = [stage]
        missing = f"no {stage} checkpoint"
    else:
        candidates = reversed(STAGES)
        missing = f"no checkpoint of any stage ({', '.join(STAGES)})"
    for name in candidates:
        if Path(out, name, "meta.json").exists():
            newer = "" if stage else trained_anew(out, name)
            if newer:
                print(f"note       {out}/{name} is older than {out}/{newer}; "
                      f"for that: --stage {newer}", file=sys.stderr)
            return Path(out, name)
    raise FileNotFoundError(f"{missing} in {out}: train one first (bash run.sh), "
                            f"or name another folder with --out")


def trained_anew(out, stage):
    """The earlier stage that was trained again after `stage` was made from it; "" if there is none.

    A checkpoint's settings hold the digest of the meta that it started from. The search goes down
    from stage to stage, so a stage in between may also be the one that is too old.
    """
    while stage in BASES:
        settings = read_meta(Path(out, stage)).get("settings", {})
        # --base may have named another stage, or the stage itself as it was before.
        base = settings.get("base", BASES[stage])
        if base == stage:
            stage = BASES[stage]
            continue
        if not Path(out, base, "meta.json").exists():
            break
        start = settings.get("start")
        if start and start != digest(read_meta(Path(out, base))):
            return base
        stage = base
    return ""
