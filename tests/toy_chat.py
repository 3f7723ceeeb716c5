"""What the tests of generation share: a tiny model whose next id is never a close call, and engines around it."""
import base64
import time
from types import SimpleNamespace

import pytest
import torch

from common import GPT, GPTConfig, Tokenizer, save_checkpoint
from machine import setup
from talk.decode import Decoder
from talk.engine import Engine
from toy import write_tokenizer

TEXTS = ["hi", "a longer question, really", "x" * 50, "what is 2+2?", "hi!"]


def byte_tokenizer():
    """The smallest tokenizer: every byte is a token."""
    merges = b"".join(base64.b64encode(bytes([i])) + b" %d\n" % i for i in range(256))
    return Tokenizer(merges, r"[\s\S]")


def tiny_model(seed=0, n_kv_head=1, vocab_size=265, seq_len=128):
    """Two layers of random weights whose logits are far apart: float rounding can't change which one is largest."""
    model = GPT(GPTConfig(vocab_size, seq_len, 2, 2, n_kv_head, 64, 128))
    with torch.no_grad():
        for i, p in enumerate(model.parameters()):
            p.copy_(torch.randn(p.shape,
                                generator=torch.Generator().manual_seed(100 * seed + i)) * 2 * p.size(1) ** -0.5)
    return model.eval()


def tiny_engine(seed=0, **kwargs):
    tok = byte_tokenizer()
    return Engine(tiny_model(seed), tok, **kwargs), tok


def prompt(tok, text):
    return tok.render_for_completion({"messages": [{"role": "user", "content": text}]})


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """An --out folder with a byte tokenizer and a random sft checkpoint."""
    folder = tmp_path_factory.mktemp("out")
    meta = dict(tokenizer=write_tokenizer(folder).fingerprint, stage="sft")
    save_checkpoint(folder / "sft", tiny_model(seq_len=256), meta, [], SimpleNamespace(state_dict=dict), setup("cpu"))
    return folder


class Scripted:
    """Stands in for Decoder: a row says the ids of the script one after the other, whatever it is given.

    n_prompt: ids before the answer; None: the answer begins after the last <|assistant_start|>.
    """
    delay, next = 0, Decoder.next                                            # seconds a step

    def __init__(self, engine, script, n_prompt):
        self.script, self.n_prompt, self.engine = script, n_prompt, engine

    def reserve(self, rows, size):
        pass

    copy = swap = lambda self, *args: None

    def forward(self, ids, start, row=0, logits="last"):
        if logits is None:
            return None
        time.sleep(self.delay)
        out = torch.zeros(len(ids), self.engine.tok.vocab_size)
        for b, position in enumerate(start):
            i = position + 1 - (self.n_prompt or self.engine.active[b].n_prompt)
            out[b, self.script[max(0, min(i, len(self.script) - 1))]] = 900.0
        return out
