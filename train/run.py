"""
What the training stages share around the loop; the loop itself stands in the script of each stage.

The schedule, the number of rows in a step and in a micro-batch, what a run prints, the loss on
held-out rows, and how a run resumes and ends. A first reading may skip this file.
"""
import json
import math
import signal
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from common import CHUNK, load_tensors, read_meta
from machine import finish_replace, replace_folder

# --------------------------------------------------------------------------------------------------
# How long: the schedule, the horizon, the rows of a step

def lr_scale(step, cfg, steps):
    """The factor of the learning rate, a trapezoid: it climbs to 1, stays there, and falls to 0.

    Zhai et al. 2022, arXiv:2106.04560, sec. 3.5.
    """
    up = (step + 1) / max(1, cfg.warmup * steps)
    down = (steps - step) / max(1, cfg.warmdown * steps)
    return min(1.0, up, down)


def plan_steps(cfg, horizon, seq_len, env, own_data=False):
    """-> the number of steps, and the rows a step, for a run over `horizon` tokens.

    own_data: see rows_for_step.
    """
    if cfg.tokens_per_step:
        rows_per_step = max(1, cfg.tokens_per_step // seq_len)
    else:
        rows_per_step = rows_for_step(horizon, seq_len, env, own_data)
    steps = cfg.steps or math.ceil(horizon / (rows_per_step * seq_len))
    return steps, rows_per_step


def rows_for_step(horizon, seq_len, env, own_data=False):
    """The rows of an optimizer step, for a run over `horizon` tokens; a multiple of the ranks.

    A step has the largest power of two from 8,192 to 524,288 tokens that leaves 400 steps: a small
    run needs many steps, a large one gains from big batches. If 8,192 tokens leave fewer than 100
    steps and own_data is set, as a user's own data may be little, steps shrink down to 2,048.
    """
    tokens = 8192
    while tokens < 524288 and 2 * tokens * 400 <= horizon:
        tokens *= 2
    while own_data and tokens > 2048 and tokens * 100 > horizon:
        tokens //= 2
    rows = max(1, tokens // seq_len)
    return math.ceil(rows / env.world_size) * env.world_size


def own_passes(n_tokens):
    """Passes over a user's own conversations: enough for 100 steps of 2,048 tokens, but 1 to 10."""
    return min(10.0, max(1.0, 100 * 2048 / n_tokens))


def micro_batch_rows(batch_size, model, rows_per_step, env):
    """The rows of a micro-batch: --batch_size, or if that is 0, as many as fit into memory.

    ValueError if a step is not a whole number of such micro-batches on every rank.
    """
    if not batch_size:
        batch_size = largest_batch(model, rows_per_step, env)
    if rows_per_step % (batch_size * env.world_size):
        unit = batch_size * env.world_size * model.config.seq_len
        raise ValueError(f"{rows_per_step} rows a step cannot be cut into micro-batches of "
                         f"--batch_size {batch_size} on {env.world_size} ranks: "
                         f"choose --tokens_per_step as a multiple of {unit}")
    return batch_size


def largest_batch(model, rows_per_step, env):
    """The largest divisor of a rank's share of a step that fits into its memory, in rows.

    On a GPU we measure how much memory a few rows take, and twice as many. This is done uncompiled
    and with the mask of SFT, since both need more. Nine tenths of what is free then are used.
    On a CPU, 8192 tokens at a time keep the activations small.
    """
    rows = max(1, rows_per_step // env.world_size)
    seq_len = model.config.seq_len
    most = max(1, 8192 // seq_len)
    if env.device.type == "cuda":
        # Start at one chunk of the loss: below it, the memory of the logits also grows with rows.
        few = math.ceil(2 * CHUNK / seq_len)
        peaks = []
        for n in (few, 2 * few):
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            ids = torch.zeros(n, seq_len, dtype=torch.int64, device=env.device)
            model(ids, ids, isolate=True).backward()
            peaks.append(torch.cuda.max_memory_allocated() - before)
            model.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()
        # The optimizer keeps two float32 numbers a parameter. The gradients are part of the peaks.
        state = 2 * 4 * model.num_params() / env.world_size    # bytes
        free, _ = torch.cuda.mem_get_info()
        room = 0.9 * free - state - peaks[0]
        most = max(1, few + few * room / max(1, peaks[1] - peaks[0]))
        # The least over all ranks.
        most = -env.all_max(torch.tensor(-most, device=env.device)).item()
    return max(n for n in range(1, rows + 1) if rows % n == 0 and n <= most)

# --------------------------------------------------------------------------------------------------
# What a run prints

def banner(cfg, env, model_text, is_compiled, steps, rows_per_step, batch_size, rows, more=""):
    """Print what is going to happen. more: text to add about the horizon."""
    seq_len = rows.header["seq_len"]
    epochs = steps * rows_per_step / len(rows)
    env.print(f"machine    {env.device}, {env.world_size} rank(s), {env.dtype}, "
              f"torch {torch.__version__}, {'compiled' if is_compiled else 'not compiled'}\n"
              f"model      {model_text}\n"
              f"horizon    {steps} steps of {rows_per_step} rows of {seq_len} = "
              f"{steps * rows_per_step * seq_len:,} tokens ({epochs:.2f} epochs{more}), "
              f"micro-batches of {batch_size} rows\n"
              f"config     {cfg}")


def progress_line(step, steps, shown, lr, seconds, tok_per_sec, more=""):
    """The line printed for a step. seconds: how long it took. shown: its loss and the like."""
    left = (steps - step - 1) * seconds
    return (f"step {step:5d}/{steps} | {shown} | lr x {lr:.3f} | {seconds * 1e3:7.1f} ms | "
            f"{tok_per_sec:9,.0f} tok/s{more} | {left // 60:.0f}:{left % 60:02.0f} left")

# --------------------------------------------------------------------------------------------------
# Held-out loss

@torch.no_grad()
def evaluate_loss(model, rows, tok, env, batch_size, max_rows, only_learned=False):
    """-> {"loss": nats a target, "bpb": bits a byte of text} over the first max_rows rows.

    The ranks share the rows. bpb is the loss of all targets that are text, over the bytes of that
    text: special tokens have no bytes, so neither their loss nor their length counts.
    """
    # Nats and number of all targets; nats and bytes of the targets that are text.
    sums = torch.zeros(4, device=env.device)
    token_bytes = torch.from_numpy(tok.token_bytes).to(env.device)
    indices = np.arange(min(max_rows, len(rows)))[env.rank::env.world_size]
    for at in range(0, len(indices), batch_size):
        ids, targets = rows.batch(indices[at:at + batch_size], only_learned)
        ids = ids.to(env.device)
        targets = targets.to(env.device)
        losses = model(ids, targets, reduction="none", isolate=only_learned)        # (B, T)
        counts = targets >= 0
        n_bytes = token_bytes[targets.clamp(min=0)] * counts
        text_losses = losses * (n_bytes > 0)
        sums += torch.stack([losses.sum(), counts.sum(), text_losses.sum(), n_bytes.sum()])
    nats, n_target, text_nats, n_bytes = env.all_sum(sums).tolist()
    return {"loss": nats / max(1, n_target), "bpb": text_nats / math.log(2) / max(1, n_bytes)}

# --------------------------------------------------------------------------------------------------
# How a run begins, resumes and ends

# The fields of a Config that decide the numbers of a run.
RECIPE = ("seed", "beta", "matrix_lr", "embed_lr", "head_lr", "weight_decay", "warmup", "warmdown")


def decisive_settings(cfg, model, env, **derived):
    """All that decides the numbers of a run, so that --resume can compare it.

    The model's shape, the dtype, what the stage derived, and the fields of its Config in RECIPE.
    """
    recipe = {key: getattr(cfg, key) for key in RECIPE if hasattr(cfg, key)}
    return dict(asdict(model.config), dtype=str(env.dtype), **derived, **recipe)


def check_finite(step, loss, norm, part):
    """ValueError if loss or norm is not finite, before such weights get into a checkpoint.

    part: the folder that this run saves to; it is not there before the first save.
    """
    if math.isfinite(loss + norm):
        return
    if part.exists():
        go_on = f"The last good checkpoint is in {part}: go on from there with --resume, or"
    else:
        go_on = "No checkpoint was saved yet:"
    raise ValueError(f"step {step}: loss {loss}, gradient norm {norm}. {go_on} start afresh "
                     f"with smaller learning rates")


def start_or_resume(out, stage, settings, resume, model, optimizer, env):
    """If `resume`, load this stage's last checkpoint -> the step to go on at, the metrics so far.

    Without `resume`, or without a checkpoint, (0, []).
    A running stage saves to out/<stage>.part, which becomes out/<stage> when the run is done.
    settings: see decisive_settings. To go on with other ones would give a run that is neither the
    old one nor a new one, so that is a ValueError.
    """
    part = Path(out, stage + ".part")
    done = Path(out, stage)
    finish_replace(part)
    path = part if part.exists() else done
    if not path.exists():
        return 0, []
    if not resume:
        if path == part:
            what = "holds an interrupted run; without --resume this one replaces it"
        else:
            what = "is there from before; this run replaces it when it is done"
        env.print(f"note       {path} {what}")
        return 0, []

    meta = read_meta(path)
    # JSON turns tuples into lists; meta["settings"] has been through it already.
    settings = json.loads(json.dumps(settings))
    for key, value in settings.items():
        before = meta["settings"].get(key)
        if before == value:
            continue
        if key == "data":
            raise ValueError(f"--resume: {path} was begun with other data: --data, --mixture, "
                             f"--skip_bad_rows, the files or the code that reads them have "
                             f"changed. Start afresh without --resume")
        raise ValueError(f"--resume: {path} was trained with {key} = {before}, now it is {value}. "
                         f"Give the same flags again, or start afresh without --resume")

    model.load_state_dict(load_tensors(path / "model.pt"))
    optimizer.load_state_dict(load_tensors(path / "optim.pt"))
    env.print(f"resume     {path} at step {meta['step']}")
    lines = (path / "metrics.jsonl").read_text().splitlines()
    metrics = [json.loads(line) for line in lines]
    # The evaluation at this step comes again.
    return meta["step"], [m for m in metrics if m["step"] < meta["step"]]


def finish_run(out, stage, stop, env, then, data=""):
    """End a stage: rename out/<stage>.part to out/<stage>. After a signal, leave it for --resume.

    then: the script that comes next. data: what to give it as --data, if this stage had --data.
    """
    part = Path(out, stage + ".part")
    path = Path(out, stage)
    if stop.number:
        env.print(f"stopped by {signal.Signals(stop.number).name}; {part} is saved, "
                  f"go on with --resume")
        sys.exit(128 + stop.number)
    if env.rank == 0:
        finish_replace(path)
        replace_folder(part, path)
    flags = ""
    if out != Path("out"):
        flags += f" --out {out}"
    if data:
        flags += f" --data {data}"
    env.print(f"done       {path}. Next: python {then}{flags}")
