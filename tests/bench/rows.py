"""
Does data ever limit training? Packs text into rows, then trains on them, and prints one JSON line.

The line says how many megabytes of text are packed per second of processor time (of one core) and
of wall time, and the share of a training step that waits for its batch.

python tests/bench/rows.py                               the embedded Python corpus
python tests/bench/rows.py --data prose.jsonl --seq_len 2048
"""
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))
from common import GPT, Tokenizer
from data.demo import python_corpus
from data.documents import read_documents
from machine import can_compile, parse_config, run, setup, versions
from pretrain import init_weights, model_config
from train.optimizer import Optimizer
from train.rows import micro_batches, pack_documents, read_ahead
from train.run import largest_divisor, rows_that_fit


@dataclass
class Config:
    out: str = "out"                  # folder with the tokenizer
    data: tuple = ()                  # .txt, .jsonl or .parquet; none: the embedded Python corpus
    megabytes: float = 30.0           # text that is packed, from the beginning
    device: str = "auto"              # auto, cpu, cuda or mps
    dtype: str = "auto"               # compute dtype: auto, float32 or bfloat16
    depth: int = 0                    # layers of the model that trains; 0: 4 on a CPU, 20 on a GPU
    seq_len: int = 0                  # tokens a row; 0: 512 on a CPU, 2048 on a GPU
    tokens_per_step: int = 0          # tokens an optimizer step; 0: 8192 on a CPU, 524288 on a GPU
    steps: int = 10                   # timed steps
    warmup: int = 3                   # steps that are not timed; the first compiles
    compile: bool = True              # torch.compile the model


def head_of(documents, megabytes):
    """The first documents that hold so many megabytes of text, and their number of bytes."""
    texts = []
    n_bytes = 0
    for text in documents:
        texts.append(text)
        n_bytes += len(text.encode())
        if n_bytes >= 1e6 * megabytes:
            break
    return texts, n_bytes


def main():
    cfg = parse_config(Config, __doc__)
    env = setup(cfg.device, cfg.dtype)
    on_gpu = env.device.type == "cuda"
    tok = Tokenizer.load(Path(cfg.out) / "tokenizer")
    seq_len = cfg.seq_len or (2048 if on_gpu else 512)
    documents = read_documents(cfg.data, "train") if cfg.data else python_corpus.documents("train")
    # The texts stand in memory, as this is no test of the disk.
    texts, n_bytes = head_of(documents, cfg.megabytes)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bench.rows"
        wall = time.perf_counter()
        processor = time.process_time()
        rows = pack_documents(path, lambda: iter(texts), tok, seq_len, {}, env)
        wall = time.perf_counter() - wall
        processor = time.process_time() - processor

        model = GPT(model_config(cfg.depth or (20 if on_gpu else 4), tok.vocab_size, seq_len))
        init_weights(model, 0)
        model.to(env.device).compute_dtype = env.dtype
        use_compile = cfg.compile and can_compile(env.device)
        compiled = torch.compile(model, dynamic=False) if use_compile else model
        rows_per_step = (cfg.tokens_per_step or (524288 if on_gpu else 8192)) // seq_len
        batch_size = largest_divisor(rows_per_step // env.world_size, rows_that_fit(model, env))
        optimizer = Optimizer(model, env, 0.02, 0.3, 0.008, 0.0, compile=on_gpu and use_compile)
        batches_of = lambda step: micro_batches(rows, step, rows_per_step, batch_size, env, 0)
        step_batches = read_ahead(batches_of, 0, env.device)
        waits = []
        seconds = []
        for step in range(cfg.warmup + cfg.steps):
            start = time.perf_counter()
            batches, n_target = next(step_batches)
            waits.append(time.perf_counter() - start)
            for ids, targets in batches:
                (compiled(ids, targets) / n_target).backward()
            # Reading the norm waits for the device, as a stage does.
            optimizer.step(1.0, 0.95).item()
            seconds.append(time.perf_counter() - start)
        step_batches.close()
        start = time.perf_counter()
        batches_of(cfg.warmup + cfg.steps + 2)
        read = time.perf_counter() - start

    wait = statistics.median(waits[cfg.warmup:])
    dt = statistics.median(seconds[cfg.warmup:])
    device = platform.processor() or platform.machine()
    if on_gpu:
        device = torch.cuda.get_device_name()
    env.print(json.dumps(dict(
        bench="rows", megabytes=round(n_bytes / 1e6, 1),
        mb_per_processor_sec=round(n_bytes / processor / 1e6, 1),
        mb_per_sec=round(n_bytes / wall / 1e6, 1),
        tokens=rows.header["stats"]["tokens"], n_rows=len(rows), step_ms=round(1e3 * dt, 1),
        wait_ms=round(1e3 * wait, 3), wait_share=round(wait / dt, 5), read_ms=round(1e3 * read, 2),
        rows_per_step=rows_per_step, batch_size=batch_size, vocab_size=tok.vocab_size,
        seq_len=seq_len, device=device, cores=os.cpu_count(), dtype=str(env.dtype),
        compiled=use_compile, **versions())))


if __name__ == "__main__":
    run(main)
