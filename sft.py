"""
Stage 4 of 7: supervised fine-tuning, with the loss on the assistant's tokens alone.
Reads out/midtrain, writes out/sft.

The model learns to answer, not to ask. `diff midtrain.py sft.py` shows all that changes.

laptop      python sft.py                         the demo's conversations, made on this machine
your data   python sft.py --data chats.jsonl
8 GPUs      torchrun --standalone --nproc_per_node 8 sft.py --mixture arc_easy,gsm8k,smoltalk:10000
"""
import ctrl_c

import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from common import digest, isolation, load_checkpoint
from data.files import ROW_SUFFIXES, identify
from data.mixtures import choose_mixture, conversations, row_length
from machine import StopSignal, parse_config, run, setup, try_to_compile
from train.optimizer import make_optimizer
from train.plan import choose_compile
from train.progress import Progress
from train.rows import describe_sources, micro_batches, pack_conversations, read_ahead
from train.run import (
    Saver,
    banner,
    check_before_packing,
    check_finite,
    decisive_settings,
    evaluate_loss,
    finish_run,
    lr_scale,
    own_passes,
    plan_steps,
    start_or_resume,
)

STAGE, BASE, NEXT = "sft", "midtrain", "dpo"
DEMO_MIXTURE = ("spelling_bee:4000-11000,simple_spelling:8000-22000,letters:4000-12000,"
                "arithmetic:8000-24000,word_problems:6000-18000,choices:3000-9000,"
                "python_questions:1500,identity:11000-40000")


@dataclass
class Config:
    out: str = "out"                  # folder in which the stages find each other
    base: str = BASE                  # the stage to start from; sft trains on
    data: tuple = ()                  # files of conversations, or folders; none: the mixture
    mixture: str = DEMO_MIXTURE       # name:size*times, ... or downloads or demo
    skip_bad_rows: bool = False       # leave out and name bad rows of --data; else they are errors
    reasoning: bool = False           # learn reasoning_content in front of answers, as <think>
    seq_len: int = 0                  # tokens per row; 0: 256 for the demo, else the model's
    tokens_per_step: int = 0          # tokens per step, all ranks; 0: 8192 to 524288, by horizon
    batch_size: int = 0               # rows per micro-batch and rank; 0: what fits into memory
    epochs: float = 0.0               # passes; 0: 1 to 10 for --data, else 1 (0.4 on float32 CPUs)
    steps: int = 0                    # horizon in optimizer steps; 0: from epochs
    matrix_lr: float = 0.01           # peak learning rate of Muon, for the matrices of the blocks
    embed_lr: float = 0.15            # peak rate of AdamW for the embedding, x sqrt(256 / width)
    head_lr: float = 0.004            # the same for the head
    weight_decay: float = 0.0         # of the matrices, decoupled, times the learning rate
    warmup: float = 0.02              # share of the steps in which the learning rate climbs from 0
    warmdown: float = 0.9             # share of the steps in which it falls to 0 again
    eval_every: int = 100             # steps between evaluations on held-out conversations
    eval_rows: int = 64               # held-out rows an evaluation reads
    save_every: int = None            # steps between checkpoints; GPU: 10 minutes, CPU: 100
    resume: bool = False              # go on from the last checkpoint of an interrupted run
    seed: int = 0                     # of the order of the rows
    device: str = "auto"              # auto, cpu, cuda or mps
    dtype: str = "auto"               # compute dtype: auto, float32, bfloat16 or float16
    compile: bool = None              # torch.compile the model; without the flag, where it pays
    after: float = 0.0                # the stages after this take so many times as long; 0: unknown


def main():
    cfg = parse_config(Config, __doc__)
    env = setup(cfg.device, cfg.dtype)
    out = Path(cfg.out)
    model, tok, previous = load_checkpoint(out / cfg.base, env.device,
                                           f"run python {cfg.base}.py --out {out} first")
    env.lock(out / STAGE)

    # ---- data: conversations -> rows on disk, once ----
    mixture = choose_mixture(STAGE, cfg.mixture, Config.mixture, cfg.data, env)
    seq_len = row_length(cfg.seq_len, mixture.train, cfg.data, model.config.seq_len, tok.vocab_size)
    files = identify(cfg.data, ROW_SUFFIXES)
    made_from = describe_sources(files, mixture=mixture, skip_bad_rows=cfg.skip_bad_rows,
                                 reasoning=cfg.reasoning)
    check_before_packing(out, STAGE, cfg.resume, env, start=digest(previous), data=made_from)

    def pack(spec, split, name):
        read = lambda: conversations(spec, split, cfg.data, cfg.skip_bad_rows,
                                     reasoning=cfg.reasoning)
        path = out / f"rows/{STAGE}_{name}.rows"
        return pack_conversations(path, read, tok, seq_len, made_from, env, need_target=True)

    train_rows = pack(mixture.train, "train", "train")
    val_rows = pack(mixture.val, "test", "val")

    # ---- model, horizon, optimizer ----
    model.train().compute_dtype = env.dtype
    epochs = cfg.epochs
    if not epochs and cfg.data:
        epochs = own_passes(len(train_rows) * seq_len)
    elif not epochs:
        # The demo. A CPU that computes in float32 is slower, so it reads 0.4 of the tokens.
        epochs = 0.4 if env.device.type == "cpu" and env.dtype == torch.float32 else 1.0
    horizon = math.ceil(epochs * len(train_rows) * seq_len)
    steps, rows_per_step, batch_size = plan_steps(cfg, horizon, model, env, own_data=bool(cfg.data),
                                                  seq_len=seq_len)
    cfg.compile = choose_compile(cfg, STAGE, steps * rows_per_step * seq_len, model, env)
    compiled = try_to_compile(model, dynamic=False) if cfg.compile else model
    optimizer = make_optimizer(cfg, model, env, cfg.compile)
    settings = decisive_settings(cfg, model, env, start=digest(previous), base=cfg.base,
                                 data=made_from, steps=steps,
                                 rows_per_step=rows_per_step, row_length=seq_len)
    first, metrics = start_or_resume(out, STAGE, settings, cfg.resume, model, optimizer, env)
    banner(cfg, env, f"{out}/{cfg.base}, {model.num_params():,} parameters", cfg.compile,
           steps, rows_per_step, batch_size, train_rows)

    # ---- loop: evaluate, save, stop, then train ----
    stop = StopSignal()
    saver = Saver(cfg.save_every, env)
    log = {}
    progress = Progress(env, steps, first, cfg.after)
    batches_of = lambda step: micro_batches(train_rows, step, rows_per_step, batch_size, env,
                                            cfg.seed, only_learned=True)
    step_batches = read_ahead(batches_of, first, env.device)
    # The last pass only evaluates and saves.
    for step in range(first, steps + 1):
        done = step == steps
        if done or step % cfg.eval_every == 0:
            log = evaluate_loss(model, val_rows, tok, env, batch_size, cfg.eval_rows,
                                only_learned=True)
            metrics.append(dict(step=step, val_loss=log["loss"], val_bpb=log["bpb"]))
            env.print(f"step {step:5d} | val loss {log['loss']:.4f} | "
                      f"val bits per byte {log['bpb']:.4f}")
        stopping = stop.requested(env)
        if done or stopping or saver.is_due(step, first):
            meta = dict(stage=STAGE, step=step, steps=steps, settings=settings, config=asdict(cfg),
                        tokenizer=tok.fingerprint, metrics=log)
            saver.save(out / f"{STAGE}.part", model, meta, metrics, optimizer,
                       now=done or stopping)
        if done or stopping:
            break

        # ---- one optimizer step ----
        t0 = time.perf_counter()
        batches, n_target = next(step_batches)
        total = torch.zeros((), device=env.device)
        for ids, targets in batches:
            # Every supervised token of the step weighs the same; none sees another conversation.
            loss = compiled(ids, targets, isolate=isolation(ids)) / n_target
            (loss * optimizer.loss_scale.factor).backward()
            total += loss.detach()
        lr = lr_scale(step, cfg, steps)
        norm = optimizer.step(lr, momentum=0.95)
        # Reading the numbers waits for the device, so that the time is that of the whole step.
        loss = env.all_sum(total).item()
        norm = norm.item()
        dt = time.perf_counter() - t0
        check_finite(step, loss, norm, out / f"{STAGE}.part")
        tok_per_sec = rows_per_step * seq_len / dt
        progress.step(step, f"loss {loss:.4f}", lr, dt, rows_per_step * seq_len,
                      optimizer.loss_scale.skipped)
        metrics.append(dict(step=step, loss=loss, lr=lr, grad_norm=norm, ms=dt * 1e3,
                            tok_per_sec=tok_per_sec))

    finish_run(out, STAGE, stop, env, f"{NEXT}.py", "pairs.jsonl" if cfg.data else "")


if __name__ == "__main__":
    run(main, less_memory="--batch_size")
