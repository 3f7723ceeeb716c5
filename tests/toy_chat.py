"""What the tests of generation share: a tiny model with clear favourites, and engines around it."""
import base64
import time
from types import SimpleNamespace

import pytest
import torch

from common import GPT, GPTConfig, Tokenizer, save_checkpoint
from machine import setup
from talk.decode import Decoder, NativeDecoder
from talk.engine import Engine
from toy import write_tokenizer

TEXTS = ["hi", "a longer question, really", "x" * 50, "what is 2+2?", "hi!"]


def byte_tokenizer():
    """The smallest tokenizer: every byte is a token."""
    merges = b"".join(base64.b64encode(bytes([i])) + b" %d\n" % i for i in range(256))
    return Tokenizer(merges, r"[\s\S]")


def tiny_model(seed=0, n_kv_head=1, vocab_size=265, seq_len=128):
    """Two layers of random weights.

    The logits are so far apart that rounding cannot change which one is the largest.
    """
    model = GPT(GPTConfig(vocab_size, seq_len, 2, 2, n_kv_head, 64, 128))
    with torch.no_grad():
        for i, p in enumerate(model.parameters()):
            rng = torch.Generator().manual_seed(100 * seed + i)
            p.copy_(torch.randn(p.shape, generator=rng) * 2 * p.size(1) ** -0.5)
    return model.eval()


def tiny_engine(seed=0, **kwargs):
    tok = byte_tokenizer()
    return Engine(tiny_model(seed), tok, **kwargs), tok


def prompt(tok, text):
    return tok.render_for_completion({"messages": [{"role": "user", "content": text}]})


def count_passes(decoder):
    """A list to which every later pass through the model adds the number of its tokens."""
    passes = []
    if isinstance(decoder, NativeDecoder):
        name, n_tokens = "decode", lambda tokens, *_: len(tokens) // 3
    else:
        name, n_tokens = "compute", lambda ids, *_: ids.numel()
    original = getattr(decoder, name)

    def counted(*args):
        passes.append(n_tokens(*args))
        return original(*args)

    setattr(decoder, name, counted)
    return passes


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """An --out folder with a byte tokenizer and a random sft checkpoint."""
    folder = tmp_path_factory.mktemp("out")
    meta = dict(tokenizer=write_tokenizer(folder).fingerprint, stage="sft")
    no_optimizer = SimpleNamespace(state_dict=dict)
    save_checkpoint(folder / "sft", tiny_model(seq_len=256), meta, [], no_optimizer, setup("cpu"))
    return folder


class Scripted:
    """Replaces Decoder: each row says the ids of the script in turn, whatever it is given.

    n_prompt: ids before the answer; None: as many as the Generation in the row says.
    """
    # In seconds, for every step.
    delay = 0
    next = Decoder.next

    def __init__(self, engine, script, n_prompt):
        self.engine = engine
        self.script = script
        self.n_prompt = n_prompt

    def reserve(self, rows, size):
        pass

    def copy(self, source, target, length):
        pass

    def swap(self, a, b, length):
        pass

    def prefill(self, pieces, most):
        pass

    def forward(self, ids, start, row=0, logits="last"):
        time.sleep(self.delay)
        out = torch.zeros(len(ids), self.engine.tok.vocab_size)
        for b, position in enumerate(start):
            n_prompt = self.n_prompt or self.engine.active[b].n_prompt
            # Before the answer it is the first id of the script, and behind the script the last.
            i = min(max(0, position + 1 - n_prompt), len(self.script) - 1)
            out[b, self.script[i]] = 900.0
        return out
