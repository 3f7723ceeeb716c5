"""
How well does pretrain.py learn? Held-out bits per byte beside nanochat's.

The two are compared after equal tokens and after equal seconds.

git clone https://github.com/karpathy/nanochat ../nanochat
python tests/bench/quality.py --nanochat ../nanochat      the embedded Python corpus, depth 4
python tests/bench/quality.py --nanochat ../nanochat --data prose.jsonl --nanochat_lr 2,4,8
python tests/bench/quality.py --depth 2 --lr 0.5,1,2      our own recipe alone

Our side is `python pretrain.py` as a user runs it, with all flags derived from --depth and the
tokens. nanochat's side is its model, its optimizer, its schedules and its scaling of the learning
rates by batch size and width, with every learning rate times --nanochat_lr. Both read the same
rows, made with one tokenizer, and are judged on the same held-out rows. Seconds are those of the
median step times the number of steps, without compilation and evaluation.
"""
import contextlib
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
import torch

from common import Tokenizer
from data.demo import python_corpus
from data.documents import read_documents
from machine import parse_config, run, setup, versions
from pretrain import Config as Recipe
from pretrain import model_config
from train.plan import matrix_weights
from train.rows import Rows, micro_batches
from train.run import evaluate_loss

ROOT = Path(__file__).parents[2]


@dataclass
class Config:
    nanochat: str = ""               # path of a checkout of nanochat; empty: our own runs alone
    data: tuple = ()                 # .txt, .jsonl or .parquet; none: the embedded Python corpus
    max_chars: int = 6000            # documents are cut here
    depth: int = 4                   # layers
    vocab_size: int = 8192           # of the tokenizer, which is trained on the same text
    seq_len: int = 512               # tokens a row
    tokens: int = 2457600            # horizon of the runs with equal tokens: 150 steps of 16,384
    lr: str = "1"                    # factors on our learning rates, comma-separated; 1: as is
    nanochat_lr: str = "1,4"         # the same for nanochat
    nanochat_batch: str = "8192"     # its tokens per step, comma-separated; rates scale by sqrt
    nanochat_dtype: str = "float32"  # its compute dtype: float32 (its choice on a CPU) or bfloat16
    equal_seconds: bool = True       # also train ours for as many seconds as nanochat needs
    eval_rows: int = 256             # held-out rows that decide
    seed: int = 0                    # of the weights and of the order of the rows
    device: str = "auto"             # auto, cpu or cuda
    work: str = ""                   # folder for tokenizer, rows, checkpoints; empty: temporary


def prepare(cfg, work):
    """Cut the documents and train the tokenizer, both once. Returns the path of the text."""
    text = work / "text.jsonl"
    if not text.exists():
        documents = []
        for split in "train", "val":
            documents += read_documents(cfg.data, split) if cfg.data else \
                python_corpus.documents(split)
        text.write_text("".join(json.dumps({"text": d[:cfg.max_chars]}) + "\n" for d in documents))
    script("tokenizer.py", "--data", text, "--out", work, "--vocab_size", cfg.vocab_size)
    return text


def script(name, *flags):
    command = [sys.executable, ROOT / name, *map(str, flags)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise ValueError(f"{name} ended with status {done.returncode}; its error stands above")


def ours(cfg, work, text, tokens, lr):
    """Run python pretrain.py over `tokens` tokens.

    Returns bits per byte, milliseconds per step, tokens per step, and the number of steps.
    """
    vocab_size = Tokenizer.load(work / "tokenizer").vocab_size
    weights = matrix_weights(model_config(cfg.depth, vocab_size, cfg.seq_len))
    # pretrain.py rounds the horizon up.
    tokens_per_param = (tokens - 0.5) / weights
    never = 10 ** 9
    script("pretrain.py", "--data", text, "--out", work, "--depth", cfg.depth,
           "--seq_len", cfg.seq_len, "--device", cfg.device, "--tokens_per_param", tokens_per_param,
           "--eval_every", never, "--sample_every", never, "--save_every", never,
           "--eval_rows", cfg.eval_rows, "--seed", cfg.seed, "--matrix_lr", Recipe.matrix_lr * lr,
           "--embed_lr", Recipe.embed_lr * lr, "--head_lr", Recipe.head_lr * lr)
    lines = (work / "pretrain/metrics.jsonl").read_text().splitlines()
    metrics = [json.loads(line) for line in lines]
    steps = [m for m in metrics if "ms" in m]
    ms = statistics.median(m["ms"] for m in steps)
    tokens_per_step = round(statistics.median(m["tok_per_sec"] * m["ms"] / 1e3 for m in steps))
    return metrics[-1]["val_bpb"], ms, tokens_per_step, len(steps)


class Nanochat:
    """nanochat's model, callable like ours, as evaluate_loss and the loop below need it."""

    def __init__(self, cfg, vocab_size, lr, tokens_per_step):
        # nanochat reads its dtype from the environment when it is imported.
        os.environ["NANOCHAT_DTYPE"] = cfg.nanochat_dtype
        sys.path.insert(0, cfg.nanochat)
        from nanochat.gpt import GPT, GPTConfig

        # As build_model_meta does it in nanochat's scripts/base_train.py.
        def build(depth):
            width = -(-64 * depth // 128) * 128
            with torch.device("meta"):
                return GPT(GPTConfig(sequence_len=cfg.seq_len, vocab_size=vocab_size, n_layer=depth,
                                     n_head=width // 128, n_kv_head=width // 128, n_embd=width))

        def scaling_params(model):
            counts = model.num_scaling_params()
            return counts["transformer_matrices"] + counts["lm_head"]

        self.model = build(cfg.depth)
        self.model.to_empty(device=cfg.device)
        torch.manual_seed(cfg.seed)
        self.model.init_weights()
        batch_scale = (tokens_per_step / 2 ** 19) ** 0.5
        scale = batch_scale * lr
        size_scale = scaling_params(build(12)) / scaling_params(self.model)
        self.weight_decay = 0.28 * batch_scale * size_scale
        # Our table goes to stdout; what nanochat prints goes elsewhere.
        with contextlib.redirect_stdout(sys.stderr):
            self.optimizer = self.model.setup_optimizer(
                unembedding_lr=0.008 * scale, embedding_lr=0.3 * scale, matrix_lr=0.02 * scale,
                scalar_lr=0.5 * scale, weight_decay=self.weight_decay)
        self.compiled = torch.compile(self.model, dynamic=False)

    def __call__(self, ids, targets, reduction="sum", isolate=False):
        if reduction == "none":
            return self.model(ids, targets, loss_reduction="none").view(ids.shape)
        return self.compiled(ids, targets, loss_reduction="sum")

    def update(self, step, steps):
        """One optimizer step with its default schedules.

        The rates climb for 40 steps and fall to a twentieth in the last 65 %. Momentum goes from
        0.85 to 0.97 to 0.90, and weight decay along half a cosine.
        """
        down = round(0.65 * steps)
        left = min(1.0, (steps - step) / down)
        rate = (step + 1) / 40 if step < 40 else left + (1 - left) * 0.05
        momentum = 0.85 + 0.12 * step / 400 if step < 400 else 0.97 * left + 0.90 * (1 - left)
        half_cosine = 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * rate
            if group["kind"] == "muon":
                group["momentum"] = momentum
                group["weight_decay"] = self.weight_decay * half_cosine
        self.optimizer.step()
        self.model.zero_grad(set_to_none=True)


def nanochats(cfg, work, env, lr, tokens_per_step):
    """Train nanochat over cfg.tokens tokens. Returns the same as ours()."""
    tok = Tokenizer.load(work / "tokenizer")
    train_rows = Rows(work / "rows/pretrain_train.rows")
    val_rows = Rows(work / "rows/pretrain_val.rows")
    model = Nanochat(cfg, tok.vocab_size, lr, tokens_per_step)
    rows_per_step = tokens_per_step // cfg.seq_len
    batch_size = max(1, 8192 // cfg.seq_len)
    steps = cfg.tokens // tokens_per_step
    ms = []
    for step in range(steps):
        start = time.perf_counter()
        batches, n_target = micro_batches(train_rows, step, rows_per_step, batch_size, env,
                                          cfg.seed)
        total = 0.0
        for ids, targets in batches:
            loss = model(ids, targets) / n_target
            loss.backward()
            total += loss.item()
        model.update(step, steps)
        ms.append(1e3 * (time.perf_counter() - start))
        if not math.isfinite(total):
            return math.nan, statistics.median(ms), tokens_per_step, step
        if sys.stderr.isatty():
            print(f"\rnanochat, rates x {lr:g}: step {step}/{steps}, loss {total:.3f} ", end="",
                  file=sys.stderr)
    bpb = evaluate_loss(model, val_rows, tok, env, 16, cfg.eval_rows)["bpb"]
    return bpb, statistics.median(ms), tokens_per_step, steps


def main():
    cfg = parse_config(Config, __doc__)
    env = setup(cfg.device, "float32")
    cfg.device = env.device.type
    temporary = None if cfg.work else tempfile.TemporaryDirectory()
    work = Path(cfg.work or temporary.name)
    work.mkdir(parents=True, exist_ok=True)
    if cfg.nanochat and not Path(cfg.nanochat, "nanochat/gpt.py").exists():
        raise ValueError(f"--nanochat {cfg.nanochat}: no nanochat/gpt.py there. "
                         f"Clone https://github.com/karpathy/nanochat to it")
    text = prepare(cfg, work)
    results = []
    print(f"| | rates | steps x tokens | tokens | ms a step | tokens/s | seconds | "
          f"val bits per byte |\n{'|---' * 8}|", flush=True)

    def show(name, lr, bpb, ms, tokens_per_step, steps):
        tok_per_sec = round(1e3 * tokens_per_step / ms)
        seconds = round(ms * steps / 1e3, 1)
        results.append(dict(name=name, lr=lr, bpb=round(bpb, 4), ms=round(ms, 1),
                            tokens_per_step=tokens_per_step, steps=steps, tok_per_sec=tok_per_sec,
                            seconds=seconds))
        print(f"| {name} | x {lr:g} | {steps} x {tokens_per_step:,} | "
              f"{steps * tokens_per_step:,} | {ms:.0f} | {tok_per_sec:,} | {seconds} | "
              f"{bpb:.4f} |", flush=True)

    def best(name):
        finite = [r for r in results if r["name"] == name and not math.isnan(r["bpb"])]
        return min(finite, key=lambda r: r["bpb"])

    for lr in map(float, cfg.lr.split(",")):
        show("tok2chat", lr, *ours(cfg, work, text, cfg.tokens, lr))
    if cfg.nanochat:
        for tokens_per_step in map(int, cfg.nanochat_batch.split(",")):
            for lr in map(float, cfg.nanochat_lr.split(",")):
                show("nanochat", lr, *nanochats(cfg, work, env, lr, tokens_per_step))
    if cfg.nanochat and cfg.equal_seconds:
        us = best("tok2chat")
        them = best("nanochat")
        tokens = them["seconds"] / us["seconds"] * cfg.tokens
        show("tok2chat, equal seconds", us["lr"], *ours(cfg, work, text, tokens, us["lr"]))
    machine = platform.processor() or platform.machine()
    print(json.dumps(dict(bench="quality", results=results, machine=machine, cores=os.cpu_count(),
                          **asdict(cfg), **versions())))
    if temporary:
        temporary.cleanup()


if __name__ == "__main__":
    run(main)
