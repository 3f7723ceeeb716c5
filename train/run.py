"""
What the training stages share around the loop; the loop itself stands in the script of each stage.

The schedule, the number of rows in a step and in a micro-batch, what a run prints, the loss on
held-out rows, and how a run resumes and ends. A first reading may skip this file.
"""
import json
import math
import signal
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from common import CHUNK, checkpoint_writer, isolation, load_tensors, read_meta
from machine import WRITER, finish_replace, replace_folder, run_record, write_synced

# --------------------------------------------------------------------------------------------------
# How long: the schedule, the horizon, the rows of a step

def lr_scale(step, cfg, steps):
    """The factor of the learning rate, a trapezoid: it climbs to 1, stays there, and falls to 0.

    Zhai et al. 2022, arXiv:2106.04560, sec. 3.5.
    """
    up = (step + 1) / max(1, cfg.warmup * steps)
    down = (steps - step) / max(1, cfg.warmdown * steps)
    return min(1.0, up, down)


def plan_steps(cfg, horizon, model, env, own_data=False, seq_len=None):
    """-> the number of steps, the rows a step, and the rows of a micro-batch, for `horizon` tokens.

    own_data: see rows_for_step. seq_len: tokens of a row; None: the model's.
    ValueError if --tokens_per_step and --batch_size, or one of them and the number of ranks, give
    no whole number of micro-batches.
    """
    seq_len = seq_len or model.config.seq_len
    world_size = env.world_size
    most = cfg.batch_size or rows_that_fit(model, env, seq_len)
    if cfg.tokens_per_step:
        rows_per_step = max(1, cfg.tokens_per_step // seq_len)
        batch_size = largest_divisor(rows_per_step // world_size, most)
    else:
        rows_per_step = rows_for_step(horizon, seq_len, own_data)
        rows_per_step, batch_size = cut_step(rows_per_step, most, world_size)
    batch_size = cfg.batch_size or batch_size
    if rows_per_step % (batch_size * world_size):
        raise ValueError(f"{rows_per_step} rows a step cannot be cut into micro-batches of "
                         f"--batch_size {batch_size} on {world_size} ranks: choose "
                         f"--tokens_per_step as a multiple of {batch_size * world_size * seq_len}")
    steps = cfg.steps or math.ceil(horizon / (rows_per_step * seq_len))
    return steps, rows_per_step, batch_size


def rows_for_step(horizon, seq_len, own_data=False):
    """The rows of an optimizer step, for a run over `horizon` tokens.

    A step has the largest power of two from 8,192 to 524,288 tokens that leaves 400 steps: a small
    run needs many steps, a large one gains from big batches. If 8,192 tokens leave fewer than 100
    steps and own_data is set, as a user's own data may be little, steps shrink down to 2,048.
    """
    tokens = 8192
    while tokens < 524288 and 2 * tokens * 400 <= horizon:
        tokens *= 2
    while own_data and tokens > 2048 and tokens * 100 > horizon:
        tokens //= 2
    return max(1, tokens // seq_len)


def cut_step(rows, most, world_size):
    """-> the rows of a step, and of a micro-batch, which has at most `most` rows.

    The step stays as it is if the ranks can share it: 256 rows on 8 ranks are 32 each. Else it is
    rounded to equal micro-batches on each rank: where 32 rows fit, 256 rows on 3 ranks become 3
    times 3 micro-batches of 29.
    """
    if rows % world_size == 0:
        return rows, largest_divisor(rows // world_size, most)
    share = rows / world_size
    # A power of two, so that a little more or less free memory gives the same step.
    fits = 2 ** int(math.log2(max(1, most)))
    largest = min(fits, max(1, round(share)))
    counts = {n: max(1, round(share / n)) for n in range(largest // 2 + 1, largest + 1)}
    errors = {n: abs(count * n - share) for n, count in counts.items()}
    # The largest that changes the step by no more than 3 %; without one, that which does least.
    close = [n for n in errors if errors[n] <= share / 32]
    batch_size = max(close) if close else min(errors, key=errors.get)
    return world_size * counts[batch_size] * batch_size, batch_size


def largest_divisor(rows, most):
    """The largest divisor of `rows` that is at most `most`, and at least 1."""
    return max([n for n in range(1, rows + 1) if rows % n == 0 and n <= most], default=1)


def own_passes(n_tokens):
    """Passes over a user's own conversations: enough for 100 steps of 2,048 tokens, but 1 to 10."""
    return min(10.0, max(1.0, 100 * 2048 / n_tokens))

# --------------------------------------------------------------------------------------------------
# How many rows fit into the memory

def rows_that_fit(model, env, seq_len=None):
    """How many rows of a micro-batch fit into the memory of every rank.

    On a CPU, 8192 tokens at a time keep the activations small. On a GPU it is tried out, before
    there is an optimizer: its state is subtracted from nine tenths of what is free.
    seq_len: tokens of a row; None: the model's.
    """
    seq_len = seq_len or model.config.seq_len
    if env.device.type != "cuda":
        return max(1, 8192 // seq_len)
    before = torch.cuda.memory_allocated()
    free, _ = torch.cuda.mem_get_info()

    def peak_of(rows):
        """The bytes that a micro-batch adds at its peak, inf if there are not so many."""
        torch.cuda.reset_peak_memory_stats()
        try:
            try_rows(model, rows, seq_len)
        except torch.OutOfMemoryError:
            return math.inf
        return torch.cuda.max_memory_allocated() - before

    room = 0.9 * free - optimizer_bytes(model, env.world_size)
    most = largest_batch(peak_of, room, seq_len)
    model.zero_grad(set_to_none=True)
    torch.cuda.empty_cache()
    # The least over all ranks, which must all send a number of the same type.
    most = torch.tensor(-most, dtype=torch.float32, device=env.device)
    return int(-env.all_max(most).item())


def try_rows(model, rows, seq_len):
    """A micro-batch forward and backward, uncompiled and with SFT's mask: both take more memory."""
    ids = torch.zeros(rows, seq_len, dtype=torch.int64, device=model.embed.device)
    model(ids, ids, isolate=True).backward()


def optimizer_bytes(model, world_size):
    """The state of Optimizer on each rank: float32, one number a weight for Muon, two for AdamW."""
    n_adamw = model.embed.numel() + model.head.numel()
    return 4 * (model.num_params() + n_adamw) / world_size


def largest_batch(peak_of, room, seq_len):
    """The most rows whose micro-batch takes no more than `room` bytes, at least 1.

    peak_of: rows -> bytes at the peak, inf if they were not to be had. The first micro-batch makes
    the gradients, which are there at the peak of all later ones.
    """
    # From two chunks of the loss on, the memory of the logits no longer grows with the rows.
    few = math.ceil(2 * 2 * CHUNK / seq_len)
    peak_of(few)
    peak = peak_of(few)
    too_many = math.inf
    while peak > room and few > 1:
        too_many = few
        few //= 2
        peak = peak_of(few)
    if peak > room:
        return 1
    more = few + math.ceil(few / 2)
    # Infinite, and then nothing is added, where more rows were not to be had.
    per_row = max(1, (peak_of(more) - peak) / (more - few))
    return min(few + int((room - peak) / per_row), too_many - 1)

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
        isolate = only_learned and isolation(ids)
        losses = model(ids, targets, reduction="none", isolate=isolate)             # (B, T)
        counts = targets >= 0
        n_bytes = token_bytes[targets.clamp(min=0)] * counts
        text_losses = losses * (n_bytes > 0)
        sums += torch.stack([losses.sum(), counts.sum(), text_losses.sum(), n_bytes.sum()])
    nats, n_target, text_nats, n_bytes = env.all_sum(sums).tolist()
    return {"loss": nats / max(1, n_target), "bpb": text_nats / math.log(2) / max(1, n_bytes)}

# --------------------------------------------------------------------------------------------------
# How a run begins, saves, resumes and ends

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


class Saver:
    """Says when a checkpoint to resume from is due, and writes it.

    With --save_every after so many steps. Without it, on a CPU every `on_cpu` steps, and elsewhere
    every ten minutes: many GPUs take 100 steps in less than a minute, and saving takes some
    seconds.

    On a GPU training goes on while a thread of rank 0 writes a copy, at most one at a time. If this
    process ends by an error, Python waits for the thread; if it is killed, the checkpoint before
    stays whole.
    """
    SECONDS = 600

    def __init__(self, save_every, env, on_cpu=100, in_background=None):
        """in_background: whether a thread writes; None: on a GPU alone, to save memory."""
        self.env = env
        self.every = save_every
        if not save_every and env.device.type == "cpu":
            self.every = on_cpu
        self.in_background = env.device.type == "cuda" if in_background is None else in_background
        self.saved = time.monotonic()
        self.thread = None
        self.error = None

    def is_due(self, step, first):
        """True on all ranks if it is on one, so all must ask, once a step. first: this run's.

        Raises what went wrong in a thread that has ended.
        """
        if self.thread and not self.thread.is_alive():
            self.wait()
        if self.every:
            return step > first and step % self.every == 0
        seconds = torch.tensor(time.monotonic() - self.saved, device=self.env.device)
        due = self.env.all_max(seconds).item() > self.SECONDS
        if due:
            self.saved = time.monotonic()
        return due

    def save(self, path, model, meta, metrics, optimizer, now):
        """Save as save_checkpoint does, on all ranks. now: be done when this returns.

        Raises what went wrong in the save before.
        """
        self.wait()
        later = self.in_background and not now
        write = checkpoint_writer(path, model, meta, metrics, optimizer, self.env, later)
        if self.env.rank > 0:
            return
        if not later:
            write()
            return
        self.thread = threading.Thread(target=self.write, args=(write,), name=WRITER)
        self.thread.start()

    def write(self, write):
        try:
            write()
        except BaseException as e:
            self.error = e

    def wait(self):
        """Wait for the thread, if there is one, and raise what went wrong in it."""
        if self.thread:
            self.thread.join()
        self.thread = None
        if self.error:
            error = self.error
            self.error = None
            raise error


def find_part(out, stage, env):
    """Where a running stage saves: out/<stage>.part. Rank 0 repairs what a crash left there."""
    part = Path(out, stage + ".part")
    if env.rank == 0:
        finish_replace(part)
    env.barrier()
    return part


def saved_settings(out, stage, env):
    """The settings of the run that --resume would go on with, {} if there is none."""
    part = find_part(out, stage, env)
    path = part if part.exists() else Path(out, stage)
    return read_meta(path)["settings"] if path.exists() else {}


def start_or_resume(out, stage, settings, resume, model, optimizer, env):
    """If `resume`, load this stage's last checkpoint -> the step to go on at, the metrics so far.

    Without `resume`, or without a checkpoint, (0, []).
    A running stage saves to out/<stage>.part, which becomes out/<stage> when the run is done.
    settings: see decisive_settings. To go on with other ones would give a run that is neither the
    old one nor a new one, so that is a ValueError.
    """
    part = find_part(out, stage, env)
    path = part if part.exists() else Path(out, stage)
    meta = read_meta(path) if resume and path.exists() else None
    check_same_step(meta["step"] if meta else 0, path, env)
    if not meta:
        if path.exists():
            if path == part:
                what = "holds an interrupted run; without --resume this one replaces it"
            else:
                what = "is there from before; this run replaces it when it is done"
            env.print(f"note       {path} {what}")
        return 0, []

    check_same_settings(path, meta["settings"], settings, stage)
    model.load_state_dict(load_tensors(path / "model.pt"))
    optimizer.load_state_dict(load_tensors(path / "optim.pt"))
    env.print(f"resume     {path} at step {meta['step']}")
    lines = (path / "metrics.jsonl").read_text().splitlines()
    metrics = [json.loads(line) for line in lines]
    # The evaluation at this step comes again.
    return meta["step"], [m for m in metrics if m["step"] < meta["step"]]


def check_before_packing(out, stage, resume, env, **settings):
    """What start_or_resume would say of these of the settings, before hours of packing."""
    before = saved_settings(out, stage, env) if resume else {}
    settings = {key: value for key, value in settings.items() if key in before}
    part = Path(out, stage + ".part")
    check_same_settings(part if part.exists() else Path(out, stage), before, settings, stage)


def check_same_settings(path, before, settings, stage):
    """ValueError names the first of the settings that was another in the checkpoint at `path`."""
    # JSON turns tuples into lists; what was saved has been through it already.
    settings = json.loads(json.dumps(settings))
    for key, value in settings.items():
        if before.get(key) == value:
            continue
        if key in ("data", "prompts"):
            raise ValueError(f"--resume: {path} was begun with other data: "
                             f"{what_differs(before.get(key) or {}, value)}. Bring that back, or "
                             f"start afresh without --resume")
        if key == "start":
            raise ValueError(f"--resume: {path} began with other weights: the stage that it starts "
                             f"from was trained again since, or --base was another. Start afresh "
                             f"without --resume")
        if key == "steps" and not path.name.endswith(".part"):
            more = value - before[key]
            train_on = (f". To train on from it, with a learning rate that rises and falls again: "
                        f"--base {stage} --seed 1 --steps {more}, without --resume")
            raise ValueError(f"--resume: {path} is done, after {before[key]} steps, not {value}"
                             f"{train_on if more > 0 else ''}")
        raise ValueError(f"--resume: {path} was trained with {key} = {before.get(key)}, now it is "
                         f"{value}. Give the same flags again, or start afresh without --resume")


def what_differs(before, now):
    """In words, what differs between two results of describe_sources."""
    old, new = (dict(map(tuple, data.get("listing", []))) for data in (before, now))
    changed = [f"{name} has changed" for name in new if old.get(name, new[name]) != new[name]]
    changed += [f"{name} is new" for name in new if name not in old]
    changed += [f"{name} is gone" for name in old if name not in new]
    if old and new and changed:
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        return ", ".join(changed[:3]) + more
    flags = [f"--{key}" for key in now if before.get(key) != now[key]
             and key not in ("files", "n_files", "listing", "code", "python")]
    if flags:
        return f"{', '.join(flags)} was another then, or the files that it names"
    return "the files, their order, or the code that makes them"


def check_same_step(step, path, env):
    """ValueError on all ranks if they found checkpoints of different steps, or only some found one.

    step: of the checkpoint at `path`, 0 without one.
    """
    first, last = env.all_max(torch.tensor([-step, step], device=env.device)).tolist()
    if -first != last:
        raise ValueError(f"--resume: the ranks found different checkpoints in {path}, from step "
                         f"{-first} to {last} (rank {env.rank}: {step}; 0 is none). All nodes need "
                         f"the same --out: share the folder, or copy that of rank 0 to each node")


def finish_run(out, stage, stop, env, then, data=""):
    """End a stage: rename out/<stage>.part to out/<stage>. After a signal, leave it for --resume.

    then: the script that comes next. data: what to give it as --data, if this stage had --data.
    """
    part = Path(out, stage + ".part")
    path = Path(out, stage)
    if env.rank == 0:
        # For report.py alone: no later stage depends on it.
        record = json.dumps(run_record(env), indent=1)
        write_synced(part / "run.json", lambda f: f.write(record.encode()))
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
