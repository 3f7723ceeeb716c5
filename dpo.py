"""
Stage 5 of 7: direct preference optimisation (Rafailov et al. 2023, arXiv:2305.18290).
Reads out/sft, writes out/dpo.

Of two answers to the same question the model learns to give the chosen one more probability and
the rejected one less, relative to the frozen SFT model.

laptop      python dpo.py                         the demo's preference pairs, made on this machine
your data   python dpo.py --data pairs.jsonl
8 GPUs      torchrun --standalone --nproc_per_node 8 dpo.py --mixture ultrafeedback,hh
"""
import ctrl_c

import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from common import digest, isolation, load_checkpoint, render_pair
from data.files import ROW_SUFFIXES, identify
from data.mixtures import choose_mixture, preferences
from machine import StopSignal, parse_config, run, setup, try_to_compile
from train.optimizer import make_optimizer
from train.plan import choose_compile
from train.progress import Line, Progress
from train.rows import describe_sources, my_share, pack_conversations, read_ahead, step_indices
from train.run import (
    Saver,
    banner,
    check_before_packing,
    check_finite,
    decisive_settings,
    finish_run,
    lr_scale,
    plan_steps,
    start_or_resume,
)

STAGE, BASE, NEXT = "dpo", "sft", "distill"
DEMO_MIXTURE = ("spelling_bee:1000,simple_spelling:1000,letters:700,arithmetic:1000,"
                "word_problems:500,choices:400,identity:1500")


@dataclass
class Config:
    out: str = "out"                  # folder in which the stages find each other
    base: str = BASE                  # the stage to start from; dpo trains on
    data: tuple = ()                  # files of preference pairs, or folders; none: the mixture
    mixture: str = DEMO_MIXTURE       # name:size*times, ... or downloads or demo
    skip_bad_rows: bool = False       # leave out and name bad rows of --data; else they are errors
    reasoning: bool = False           # learn reasoning_content in front of answers, as <think>
    beta: float = 0.1                 # larger holds the policy closer to the reference
    tokens_per_step: int = 0          # tokens per step, all ranks; 0: 8192 to 524288, by horizon
    batch_size: int = 0               # rows per micro-batch and rank; 0: what fits into memory
    epochs: float = 1.0               # horizon in passes over the pairs
    steps: int = 0                    # horizon in optimizer steps; 0: from epochs
    matrix_lr: float = 0.00017        # peak learning rate of Muon, for the matrices of the blocks
    embed_lr: float = 0.0007          # peak rate of AdamW for the embedding, x sqrt(256 / width)
    head_lr: float = 0.000033         # the same for the head
    weight_decay: float = 0.0         # of the matrices, decoupled, times the learning rate
    warmup: float = 0.02              # share of the steps in which the learning rate climbs from 0
    warmdown: float = 0.9             # share of the steps in which it falls to 0 again
    eval_every: int = 20              # steps between evaluations on held-out pairs
    eval_rows: int = 64               # held-out rows an evaluation reads
    save_every: int = None            # steps between checkpoints; GPU: 10 minutes, CPU: 100
    resume: bool = False              # go on from the last checkpoint of an interrupted run
    seed: int = 0                     # of the order of the rows
    device: str = "auto"              # auto, cpu, cuda or mps
    dtype: str = "auto"               # compute dtype: auto, float32, bfloat16 or float16
    compile: bool = None              # torch.compile the model; without the flag, where it pays
    after: float = 0.0                # the stages after this take so many times as long; 0: unknown


def dpo_loss(policy_logps, reference_logps, is_pair, beta):
    """The DPO objective, eq. 7 of the paper, summed over the pairs.

    policy_logps, reference_logps: (..., 2) float32, the log-probability of each answer in nats,
    summed over its tokens; [..., 0] is the chosen answer, [..., 1] the rejected one.
    is_pair: (...) bool, False where a row has no such pair. beta: unitless.
    Returns the loss () and a dict of what is logged, each a detached sum () over the pairs.
    ValueError if the shapes differ.
    """
    if policy_logps.shape != reference_logps.shape:
        raise ValueError(f"policy {policy_logps.shape} and reference {reference_logps.shape} "
                         f"differ in shape")
    # The paper's implicit rewards.
    chosen, rejected = (beta * (policy_logps - reference_logps)).unbind(-1)
    margin = chosen - rejected
    loss = -(F.logsigmoid(margin) * is_pair).sum()
    # A tie counts as wrong.
    right = (chosen > rejected) & is_pair
    sums = dict(loss=loss, accuracy=right.sum(), margin=(margin * is_pair).sum(),
                chosen=(chosen * is_pair).sum(), rejected=(rejected * is_pair).sum())
    return loss, {key: value.detach().float() for key, value in sums.items()}


def answer_logps(model, ids, targets):
    """Log-probability of each answer in packed rows of pairs, ids and targets (B, T).

    A row holds chosen, rejected, chosen, rejected, ..., then padding.
    Returns (B, T // 2, 2) float32, and which of these are pairs, (B, T // 2) bool.
    """
    # Number the conversations of a row. Each begins with <|bos|>, and so does the row.
    conversation = (ids == ids[:, :1]).cumsum(1) - 1
    n_pairs = ids.size(1) // 2

    def sum_by_answer(values):
        # (B, T) by token -> (B, T) by conversation -> (B, T // 2, 2) by pair
        sums = torch.zeros_like(values).scatter_add(1, conversation, values)
        return sums[:, :2 * n_pairs].unflatten(1, (-1, 2))

    # (B, T), 0 without a target.
    losses = model(ids, targets, reduction="none", isolate=isolation(ids))
    n_targets = sum_by_answer((targets >= 0).float())
    return sum_by_answer(-losses), (n_targets > 0).all(-1)


@torch.no_grad()
def reference_logps(model, rows, batch_size, env):
    """answer_logps of all rows by the frozen model, on the CPU.

    They are computed once, before training, so that the policy is the only model in memory.
    Every rank computes a share of the rows and returns all of them.
    """
    n_pairs = rows.header["seq_len"] // 2
    logps = torch.zeros(len(rows), n_pairs, 2, device=env.device)
    # Not bool but float32, as it is summed over the ranks.
    is_pair = torch.zeros(len(rows), n_pairs, device=env.device)
    line = Line(silent=env.rank > 0)
    for at in range(env.rank * batch_size, len(rows), batch_size * env.world_size):
        line.count("reference ", at, len(rows), "rows")
        # The last batch repeats the last row to be full, so that one compiled graph serves all.
        indices = np.arange(at, at + batch_size).clip(max=len(rows) - 1)
        ids, targets = (t.to(env.device) for t in rows.batch(indices, only_learned=True))
        logps[indices], there = answer_logps(model, ids, targets)
        is_pair[indices] = there.float()
    return env.all_sum(logps).cpu(), env.all_sum(is_pair).cpu().bool()


@torch.no_grad()
def evaluate_pairs(model, rows, reference, batch_size, max_rows, beta, env):
    """The means of what dpo_loss logs, over the pairs of the first max_rows rows.

    reference: what reference_logps returned for these rows.
    """
    frozen_logps, has_pair = reference
    n = min(max_rows, len(rows))
    sums = {}
    for at in range(env.rank * batch_size, n, batch_size * env.world_size):
        indices = np.arange(at, at + batch_size).clip(max=len(rows) - 1)
        ids, targets = (t.to(env.device) for t in rows.batch(indices, only_learned=True))
        logps, is_pair = answer_logps(model, ids, targets)
        # Rows that only fill the batch up do not count.
        is_pair &= torch.from_numpy(np.arange(at, at + batch_size) < n).to(env.device)[:, None]
        _, logged = dpo_loss(logps, frozen_logps[indices].to(env.device), is_pair, beta)
        for key, value in logged.items():
            sums[key] = sums.get(key, 0) + value

    # A rank without rows has no sums: it contributes zeros.
    zero = torch.zeros((), device=env.device)
    n_pairs = max(1, int(has_pair[:n].sum()))
    return {key: env.all_sum(sums.get(key, zero)).item() / n_pairs
            for key in ("loss", "accuracy", "margin", "chosen", "rejected")}


def pair_batches(rows, reference, step, rows_per_step, batch_size, env, seed):
    """train.rows.micro_batches for pairs: this rank's part of a step, with the reference's logps.

    Returns a list of (ids, targets, reference_logps), and the number of pairs in the step over all
    ranks, at least 1.
    """
    logps, is_pair = reference
    indices = step_indices(len(rows), step, rows_per_step, seed)
    n_pairs = max(1, int(is_pair[indices].sum()))
    mine = my_share(indices, env)
    ids, targets = rows.batch(mine, only_learned=True)
    batches = zip(ids.split(batch_size), targets.split(batch_size), logps[mine].split(batch_size))
    return list(batches), n_pairs


def show(values):
    return " | ".join(f"{key} {value:.4f}" for key, value in values.items())


def main():
    cfg = parse_config(Config, __doc__)
    env = setup(cfg.device, cfg.dtype)
    out = Path(cfg.out)
    model, tok, previous = load_checkpoint(out / cfg.base, env.device,
                                           f"run python {cfg.base}.py --out {out} first")
    env.lock(out / STAGE)

    # ---- data: pairs -> rows on disk, once ----
    seq_len = model.config.seq_len
    mixture = choose_mixture(STAGE, cfg.mixture, Config.mixture, cfg.data, env)
    files = identify(cfg.data, ROW_SUFFIXES)
    made_from = describe_sources(files, mixture=mixture, skip_bad_rows=cfg.skip_bad_rows,
                                 reasoning=cfg.reasoning)
    check_before_packing(out, STAGE, cfg.resume, env, start=digest(previous), data=made_from)

    def pack(spec, split, name):
        read = lambda: preferences(spec, split, cfg.data, cfg.skip_bad_rows,
                                   reasoning=cfg.reasoning)
        render = lambda pair: render_pair(pair, tok, seq_len + 1)
        path = out / f"rows/{STAGE}_{name}.rows"
        return pack_conversations(path, read, tok, seq_len, made_from, env, need_target=True,
                                  render=render)

    train_rows = pack(mixture.train, "pairs", "train")
    val_rows = pack(mixture.val, "test", "val")

    # ---- model, horizon, optimizer ----
    model.train().compute_dtype = env.dtype
    horizon = math.ceil(cfg.epochs * len(train_rows) * seq_len)
    steps, rows_per_step, batch_size = plan_steps(cfg, horizon, model, env, own_data=bool(cfg.data))
    cfg.compile = choose_compile(cfg, STAGE, steps * rows_per_step * seq_len, model, env)
    compiled = try_to_compile(model, dynamic=False) if cfg.compile else model

    # The reference is the SFT model before it changes.
    train_reference = reference_logps(compiled, train_rows, batch_size, env)
    val_reference = reference_logps(compiled, val_rows, batch_size, env)

    optimizer = make_optimizer(cfg, model, env, cfg.compile)
    settings = decisive_settings(cfg, model, env, start=digest(previous), base=cfg.base,
                                 data=made_from, steps=steps, rows_per_step=rows_per_step)
    first, metrics = start_or_resume(out, STAGE, settings, cfg.resume, model, optimizer, env)
    banner(cfg, env, f"{out}/{cfg.base}, {model.num_params():,} parameters", cfg.compile,
           steps, rows_per_step, batch_size, train_rows)

    # ---- loop: evaluate, save, stop, then train ----
    stop = StopSignal()
    saver = Saver(cfg.save_every, env)
    log = {}
    progress = Progress(env, steps, first, cfg.after)
    batches_of = lambda step: pair_batches(train_rows, train_reference, step, rows_per_step,
                                           batch_size, env, cfg.seed)
    step_batches = read_ahead(batches_of, first, env.device)
    # The last pass only evaluates and saves.
    for step in range(first, steps + 1):
        done = step == steps
        if done or step % cfg.eval_every == 0:
            log = evaluate_pairs(compiled, val_rows, val_reference, batch_size, cfg.eval_rows,
                                 cfg.beta, env)
            metrics.append(dict(step=step, **{"val_" + key: value for key, value in log.items()}))
            env.print(f"step {step:5d} | val {show(log)}")
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
        batches, n_pairs = next(step_batches)
        sums = {}
        for ids, targets, reference in batches:
            logps, is_pair = answer_logps(compiled, ids, targets)
            loss, logged = dpo_loss(logps, reference, is_pair, cfg.beta)
            # Every pair of the step weighs the same.
            (loss / n_pairs * optimizer.loss_scale.factor).backward()
            for key, value in logged.items():
                sums[key] = sums.get(key, 0) + value
        lr = lr_scale(step, cfg, steps)
        norm = optimizer.step(lr, momentum=0.95)
        # Reading the numbers waits for the device, so that the time is that of the whole step.
        totals = env.all_sum(torch.stack(list(sums.values()))).tolist()
        means = {key: total / n_pairs for key, total in zip(sums, totals)}
        norm = norm.item()
        dt = time.perf_counter() - t0
        check_finite(step, means["loss"], norm, out / f"{STAGE}.part")
        tok_per_sec = rows_per_step * seq_len / dt
        progress.step(step, show(means), lr, dt, rows_per_step * seq_len,
                      optimizer.loss_scale.skipped)
        metrics.append(dict(step=step, **means, lr=lr, grad_norm=norm, ms=dt * 1e3,
                            tok_per_sec=tok_per_sec))

    finish_run(out, STAGE, stop, env, f"{NEXT}.py", "prompts.jsonl" if cfg.data else "")


if __name__ == "__main__":
    run(main, less_memory="--batch_size")
