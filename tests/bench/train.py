"""
How fast is training? Times whole optimizer steps on random ids and prints one JSON line.

python tests/bench/train.py                              depth 4 on a CPU, 20 on a GPU
python tests/bench/train.py --depth 12 --seq_len 2048 --batch_size 16
torchrun --standalone --nproc_per_node 8 tests/bench/train.py    tok/s of all GPUs together
"""
import json
import os
import platform
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))
from common import GPT, isolation
from machine import can_compile, cpu_features, parse_config, run, setup, versions
from pretrain import init_weights, model_config
from train.optimizer import Optimizer
from train.plan import flops_per_token, peak_flops
from train.run import largest_divisor, rows_that_fit


@dataclass
class Config:
    device: str = "auto"              # auto, cpu, cuda or mps
    dtype: str = "auto"               # compute dtype: auto, float32 or bfloat16
    depth: int = 0                    # layers; 0: 4 on a CPU, 20 on a GPU
    vocab_size: int = 0               # 0: 8192 on a CPU, 32768 on a GPU
    seq_len: int = 0                  # tokens a row; 0: 512 on a CPU, 2048 on a GPU
    batch_size: int = 0               # rows a micro-batch and rank; 0: what fits into memory
    tokens_per_step: int = 0          # tokens an optimizer step; 0: 16384 on a CPU, 524288 on a GPU
    steps: int = 10                   # timed steps, after warmup
    warmup: int = 3                   # steps that are not timed; the first compiles
    isolate: bool = False             # attention within documents only, as in SFT
    compile: bool = True              # torch.compile the model
    peak_tflops: float = 0.0          # the chip's peak for MFU; 0: from the chip's name


def now(device):
    """The time in seconds, when the device has done all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def median_ms(seconds):
    return round(1e3 * statistics.median(seconds), 1)


def main():
    cfg = parse_config(Config, __doc__)
    env = setup(cfg.device, cfg.dtype)
    on_gpu = env.device.type == "cuda"
    depth = cfg.depth or (20 if on_gpu else 4)
    vocab_size = cfg.vocab_size or (32768 if on_gpu else 8192)
    seq_len = cfg.seq_len or (2048 if on_gpu else 512)
    tokens_per_step = cfg.tokens_per_step or (524288 if on_gpu else 16384)
    rows_per_step = tokens_per_step // seq_len
    config = model_config(depth, vocab_size, seq_len)
    model = GPT(config)
    init_weights(model, 0)
    model.to(env.device).compute_dtype = env.dtype
    use_compile = cfg.compile and can_compile(env.device)
    compiled = torch.compile(model, dynamic=False) if use_compile else model
    share = rows_per_step // env.world_size
    batch_size = cfg.batch_size or largest_divisor(share, rows_that_fit(model, env))
    optimizer = Optimizer(model, env, 0.02, 0.3, 0.008, 0.0, compile=on_gpu and use_compile)
    rng = torch.Generator().manual_seed(env.rank)
    shape = (share, seq_len + 1)
    ids = torch.randint(0, config.bos, shape, generator=rng)
    # Documents of 127 tokens.
    ids[:, ::128] = config.bos
    ids = ids.to(env.device)

    forward_backward = []
    update = []
    for step in range(cfg.warmup + cfg.steps):
        t0 = now(env.device)
        for batch in ids.split(batch_size):
            documents = cfg.isolate and isolation(batch[:, :-1])
            loss = compiled(batch[:, :-1], batch[:, 1:], isolate=documents)
            (loss / (rows_per_step * seq_len)).backward()
        t1 = now(env.device)
        optimizer.step(1.0, 0.95)
        t2 = now(env.device)
        if step >= cfg.warmup:
            forward_backward.append(t1 - t0)
            update.append(t2 - t1)

    seconds = [a + b for a, b in zip(forward_backward, update)]
    tok_per_sec = rows_per_step * seq_len / statistics.median(seconds)
    flops = tok_per_sec * flops_per_token(config)
    peak = peak_flops(env.device, cfg.peak_tflops) * env.world_size
    device = platform.processor() or platform.machine()
    peak_memory_gb = None
    if on_gpu:
        device = torch.cuda.get_device_name()
        peak_memory_gb = round(torch.cuda.max_memory_allocated() / 1e9, 2)
    env.print(json.dumps(dict(
        bench="train", tok_per_sec=round(tok_per_sec), step_ms=median_ms(seconds),
        step_ms_min=round(1e3 * min(seconds), 1), step_ms_max=round(1e3 * max(seconds), 1),
        forward_backward_ms=median_ms(forward_backward), optimizer_ms=median_ms(update),
        tflops=round(flops / 1e12, 3), mfu=round(flops / peak, 4) if peak else None,
        peak_memory_gb=peak_memory_gb, device=device, **cpu_features(), cores=os.cpu_count(),
        threads=torch.get_num_threads(), world_size=env.world_size, dtype=str(env.dtype),
        compiled=use_compile, rows_per_step=rows_per_step, batch_size=batch_size,
        params=model.num_params(), flops_per_token=flops_per_token(config), isolate=cfg.isolate,
        steps=cfg.steps, **asdict(config), **versions())))


if __name__ == "__main__":
    run(main)
