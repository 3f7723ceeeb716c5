"""
What only the training stages share, beyond common.py: the optimizer, the loss on held-out rows, the micro-batch that
fits, and how a run stops, resumes and ends. The loop itself stands in each stage's script.
"""
import hashlib
import importlib.util
import json
import math
import os
import shutil
import signal
import sys
import sysconfig
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from common import CHUNK, load_tensors, read_meta
from files import finish_replace, replace_folder

# ---------------------------------------------------------------------------------------------------------------------
# The optimizer: Muon for the matrices, AdamW for embedding and head; gradients summed and state sharded over the ranks

POLAR_EXPRESS = [(8.28721, -23.59589, 17.30039), (4.10706, -2.94785, 0.54484), (3.94869, -2.90890, 0.55182),
                 (3.31842, -2.48849, 0.51005), (2.30065, -1.66890, 0.41881)]


def orthogonalize(g, dtype):
    """(n, rows, cols) -> the nearest semi-orthogonal matrices, all singular values near 1, float32.

    dtype: of the products, the run's: a CPU without bfloat16's instruction takes 45 times as long or more for them
    in bfloat16 as in float32 (pytorch#146508).

    Polar Express: Amsel et al. 2025, arXiv:2505.16932: the optimal quintics a x + b x^3 + c x^5 for singular values
    from 1e-3, each but the last applied to x / 1.01, so that rounding pushes no value out of where they converge.
    """
    x = g.to(dtype)
    tall = x.size(-2) > x.size(-1)
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) * 1.01 + 1e-7)
    for i, (a, b, c) in enumerate(POLAR_EXPRESS):
        s = 1.01 if i < len(POLAR_EXPRESS) - 1 else 1.0
        xx = x @ x.mT
        polynomial = torch.baddbmm(xx, xx, xx, beta=b / s ** 3, alpha=c / s ** 5)
        x = torch.baddbmm(x, polynomial, x, beta=a / s)
    return (x.mT if tall else x).float()


def balance_neurons(update, mean_square, count):
    """NorMuon: Li et al. 2025, arXiv:2510.05491. Neurons whose updates stay small over time get larger ones and the
    other way round; each matrix's update (n, rows, cols) keeps its norm. A neuron is a vector along the shorter side:
    along the longer one orthogonal vectors are equally long. mean_square: its running average,
    (n, rows, 1) or (n, 1, cols).
    """
    mean_square.lerp_(update.square().mean(neuron_dim(update), keepdim=True), 0.1)
    balanced = update * (mean_square / (1 - 0.9 ** count)).clamp_min(1e-10).rsqrt()
    norm, new_norm = (x.norm(dim=(-2, -1), keepdim=True) for x in (update, balanced))
    return balanced * (norm / new_norm.clamp_min(1e-7))


def neuron_dim(x):
    return -1 if x.size(-2) >= x.size(-1) else -2


class Optimizer:
    """Muon (Jordan et al. 2024) for the matrices of the blocks, AdamW (Loshchilov and Hutter 2019, alg. 2) for
    embedding and head.

    Parameters of one shape are one group, updated together. Each rank sums, keeps the state of and updates its share of
    every group (whole matrices for Muon, elements for AdamW), then all ranks gather the updates: ZeRO stage 1,
    Rajbhandari et al. 2020. Needs no DistributedDataParallel: gradients are summed here, once a step, so the loss must
    be divided by what the whole step counts. Every parameter is a float32 master.
    """
    def __init__(self, model, env, matrix_lr, embed_lr, head_lr, weight_decay, betas=(0.8, 0.95), compile=False):
        self.env, self.weight_decay, self.betas, self.count, self.groups = env, weight_decay, betas, 0, {}
        for p in model.blocks.parameters():
            name = "x".join(map(str, p.shape))
            self.groups.setdefault(name, dict(params=[], lr=matrix_lr, muon=True))["params"].append(p)
        self.groups["embed"] = dict(params=[model.embed], lr=embed_lr, muon=False)
        self.groups["head"] = dict(params=[model.head], lr=head_lr, muon=False)
        for g in self.groups.values():
            like = self.my_share(self.units(g, [torch.zeros_like(p) for p in g["params"]]))
            second = like.mean(neuron_dim(like), keepdim=True) if g["muon"] else like
            g["state"] = [torch.zeros_like(like), torch.zeros_like(second)]
        self.orthogonalize = torch.compile(orthogonalize) if compile else orthogonalize

    def units(self, g, tensors):
        """What the ranks divide, with zeros up to a multiple of their number: (n, rows, cols) or (elements,)."""
        units = torch.stack(tensors) if g["muon"] else tensors[0].flatten()
        pad = -len(units) % self.env.world_size
        return torch.cat([units, units.new_zeros(pad, *units.shape[1:])]) if pad else units

    def my_share(self, units):
        return units.chunk(self.env.world_size)[self.env.rank]

    def gather(self, g, share):
        """The shares of all ranks -> one tensor in the shape of each parameter of the group."""
        units = share
        if self.env.world_size > 1:
            units = share.new_empty(len(share) * self.env.world_size, *share.shape[1:])
            dist.all_gather_into_tensor(units, share.contiguous())
        if g["muon"]:
            return list(units[:len(g["params"])])
        return [units[:g["params"][0].numel()].view_as(g["params"][0])]

    @torch.no_grad()
    def step(self, lr_scale, momentum):
        """One update; the gradients are used up. Returns their global l2 norm (), without waiting for the device."""
        shares = []
        for g in self.groups.values():
            units = self.units(g, [p.grad for p in g["params"]])
            if self.env.world_size > 1:
                share = torch.empty_like(self.my_share(units))
                dist.reduce_scatter_tensor(share, units)
                units = share
            shares.append(units)
        norm = self.env.all_sum(torch.stack([share.norm() for share in shares]).square().sum()).sqrt()
        self.count += 1
        for g, grad in zip(self.groups.values(), shares):
            lr = g["lr"] * lr_scale
            if g["muon"]:
                buffer, mean_square = g["state"]
                buffer.lerp_(grad, 1 - momentum)
                rows, cols = grad.shape[1:]
                update = self.orthogonalize(grad.lerp_(buffer, momentum), self.env.dtype)     # Nesterov
                update = balance_neurons(update, mean_square, self.count) * max(1, rows / cols) ** 0.5
            else:
                (m, v), (b1, b2) = g["state"], self.betas
                m.lerp_(grad, 1 - b1)
                v.mul_(b2).addcmul_(grad, grad, value=1 - b2)
                update = m / (v / (1 - b2 ** self.count)).sqrt_().add_(1e-10).mul_(1 - b1 ** self.count)
            updates = self.gather(g, update)
            if g["muon"]:
                torch._foreach_mul_(g["params"], 1 - lr * self.weight_decay)
            torch._foreach_add_(g["params"], updates, alpha=-lr)
            for p in g["params"]:
                p.grad = None
        return norm

    def state_dict(self):
        """Whole tensors, gathered from all ranks: every world size can load them."""
        return {"count": self.count, "state": {name: [[t.cpu() for t in self.gather(g, share)] for share in g["state"]]
                                               for name, g in self.groups.items()}}

    def load_state_dict(self, saved):
        self.count = saved["count"]
        for name, g in self.groups.items():
            for share, tensors in zip(g["state"], saved["state"][name], strict=True):
                share.copy_(self.my_share(self.units(g, tensors)))

# ---------------------------------------------------------------------------------------------------------------------
# Before, while and after a stage runs

def can_compile(device):
    """torch.compile needs Python's headers and the C++ compiler that it looks for (CPU), or Triton, a C compiler for it
    and a GPU of compute capability 7 (CUDA); without them stages run plain."""
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        return False
    if device.type == "cpu":
        return bool(shutil.which(os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")))
    return (device.type == "cuda" and torch.cuda.get_device_capability(device) >= (7, 0)
            and importlib.util.find_spec("triton") is not None
            and any(map(shutil.which, (os.environ.get("CC", ""), "gcc", "clang"))))


def rows_for_step(horizon, seq_len, env, own_data=False):
    """Rows an optimizer step for a run over `horizon` tokens: the largest power of two from 8,192 to 524,288 tokens
    that leaves 400 steps (small runs need many, large ones gain from big batches); a multiple of the ranks.

    own_data: a user's rows may be few: steps go down to 2,048 tokens as long as there are fewer than 100 of them.
    """
    tokens = 8192
    while tokens < 524288 and 2 * tokens * 400 <= horizon:
        tokens *= 2
    while own_data and tokens > 2048 and tokens * 100 > horizon:
        tokens //= 2
    return -(-max(1, tokens // seq_len) // env.world_size) * env.world_size


def own_passes(n_tokens):
    """Passes over a user's own conversations: as many as make 100 steps of 2,048 tokens, from 1 to 10."""
    return min(10.0, max(1.0, 100 * 2048 / n_tokens))


def micro_batch_rows(batch_size, model, rows_per_step, env):
    """--batch_size, or if that is 0 what fits. ValueError if such micro-batches on all ranks do not make up a step."""
    batch_size = batch_size or largest_batch(model, rows_per_step, env)
    if rows_per_step % (batch_size * env.world_size):
        unit = batch_size * env.world_size * model.config.seq_len
        raise ValueError(f"{rows_per_step} rows a step cannot be cut into micro-batches of --batch_size {batch_size} "
                         f"on {env.world_size} ranks: choose --tokens_per_step as a multiple of {unit}")
    return batch_size


def largest_batch(model, rows_per_step, env):
    """Rows a micro-batch and rank: the largest divisor of the rank's share of a step that fits into device memory.

    On a GPU the memory that a few and twice as many rows take is measured, with the mask of SFT and uncompiled, as both
    need more, and nine tenths of what is free are used; on a CPU 8192 tokens at a time keep the activations small.
    """
    rows, seq_len = max(1, rows_per_step // env.world_size), model.config.seq_len
    most = max(1, 8192 // seq_len)
    if env.device.type == "cuda":
        few, peaks = -(-2 * CHUNK // seq_len), []                            # fewer: logits would be a cost of each row
        for n in (few, 2 * few):
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            ids = torch.zeros(n, seq_len, dtype=torch.int64, device=env.device)
            model(ids, ids, isolate=True).backward()
            peaks.append(torch.cuda.max_memory_allocated() - before)
            model.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()
        state = 2 * 4 * model.num_params() / env.world_size                  # the optimizer's; gradients are in peaks
        room = 0.9 * torch.cuda.mem_get_info()[0] - state - peaks[0]
        most = max(1, few + few * room / max(1, peaks[1] - peaks[0]))
        most = -env.all_max(torch.tensor(-most, device=env.device)).item()   # what fits on every rank
    return max(n for n in range(1, rows + 1) if rows % n == 0 and n <= most)


@torch.no_grad()
def evaluate_loss(model, rows, tok, env, batch_size, max_rows, only_learned=False):
    """-> {"loss": nats a target token, "bpb": bits a byte of text} over the first max_rows rows, shared by all ranks.

    bpb counts the targets that stand for text: their nats over the bytes they stand for; special tokens in neither.
    """
    sums, token_bytes = torch.zeros(4, device=env.device), torch.from_numpy(tok.token_bytes).to(env.device)
    indices = np.arange(min(max_rows, len(rows)))[env.rank::env.world_size]
    for at in range(0, len(indices), batch_size):
        ids, targets = (t.to(env.device) for t in rows.batch(indices[at:at + batch_size], only_learned))
        losses = model(ids, targets, reduction="none", isolate=only_learned)
        n_bytes = token_bytes[targets.clamp(min=0)] * (targets >= 0)
        sums += torch.stack([losses.sum(), (targets >= 0).sum(), (losses * (n_bytes > 0)).sum(), n_bytes.sum()])
    nats, n_target, text_nats, n_bytes = env.all_sum(sums).tolist()
    return {"loss": nats / max(1, n_target), "bpb": text_nats / math.log(2) / max(1, n_bytes)}


class StopSignal:
    """After Ctrl-C or SIGTERM the loop saves and exits with the usual status. A second one stops at once.

    received: the signal that this rank got; number: the one that all ranks agreed on at the start of a step.
    """
    def __init__(self):
        self.received = self.number = 0
        for s in (signal.SIGINT, signal.SIGTERM):
            signal.signal(s, self.handle)

    def handle(self, number, frame):
        self.received = number
        signal.signal(number, signal.SIG_DFL)

    def requested(self, env):
        """True on all ranks as soon as one of them got a signal."""
        self.number = self.received                                          # what comes while ranks agree counts later
        if env.world_size > 1:
            self.number = int(env.all_max(torch.tensor(self.number, device=env.device)))
        return self.number > 0


def digest(data):
    """16 hex digits that name plain data, such as the meta of the checkpoint that a stage starts from."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]


BASES = {"midtrain": "pretrain", "sft": "midtrain", "dpo": "sft", "distill": "sft"}       # what each stage starts from


def trained_anew(out, stage):
    """The stage below `stage` in out that was trained again since `stage` or one in between was made from it, or ""."""
    while (base := BASES.get(stage, "")) and Path(out, base, "meta.json").exists():
        start = read_meta(Path(out, stage)).get("settings", {}).get("start")
        if start and start != digest(read_meta(Path(out, base))):
            return base
        stage = base
    return ""


RECIPE = ("seed", "beta", "matrix_lr", "embed_lr", "head_lr", "weight_decay", "warmup", "warmdown")


def decisive_settings(cfg, model, env, **derived):
    """All that decides a run's numbers, for --resume to compare: the model's shape, what was derived, the recipe."""
    return dict(asdict(model.config), dtype=str(env.dtype), **derived,
                **{key: getattr(cfg, key) for key in RECIPE if hasattr(cfg, key)})


def check_finite(step, loss, norm, part):
    """Stop before what is not a number gets into a checkpoint. part: the run's own folder, not there before a save."""
    if not math.isfinite(loss + norm):
        go_on = f"The last good checkpoint is in {part}: go on from there with --resume, or" if part.exists() else \
            "No checkpoint was saved yet:"
        raise ValueError(f"step {step}: loss {loss}, gradient norm {norm}. {go_on} start afresh with smaller learning "
                         f"rates")


def start_or_resume(out, stage, settings, resume, model, optimizer, env):
    """Load the last checkpoint of an interrupted run of this stage -> (step to go on at, metrics so far), or (0, []).

    A running stage saves to out/<stage>.part, which becomes out/<stage> when it is done. settings: what decides the
    numbers; going on under other settings would be neither the old run nor a new one, so it is an error.
    """
    part, done = Path(out, stage + ".part"), Path(out, stage)
    finish_replace(part)
    path = part if part.exists() else done
    if not resume or not path.exists():
        if path.exists():
            what = "holds an interrupted run; without --resume this one replaces it" if path == part else \
                "is there from before; this run replaces it when it is done"
            env.print(f"note       {path} {what}")
        return 0, []
    meta = read_meta(path)
    for key, value in json.loads(json.dumps(settings)).items():
        if key == "data" and meta["settings"].get(key) != value:
            raise ValueError(f"--resume: {path} was begun with other data: --data, --mixture, --skip_bad_rows, the "
                             f"files or the code that reads them have changed. Start afresh without --resume")
        if meta["settings"].get(key) != value:
            raise ValueError(f"--resume: {path} was trained with {key} = {meta['settings'].get(key)}, now it is "
                             f"{value}. Give the same flags again, or start afresh without --resume")
    model.load_state_dict(load_tensors(path / "model.pt"))
    optimizer.load_state_dict(load_tensors(path / "optim.pt"))
    env.print(f"resume     {path} at step {meta['step']}")
    metrics = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return meta["step"], [m for m in metrics if m["step"] < meta["step"]]    # an evaluation at this step comes again


def finish_run(out, stage, stop, env, then, data=""):
    """The end of a training stage: put out/<stage>.part in its place, or after a signal leave it there for --resume.

    then, data: the next script, and what to give it as --data if this stage had the user's own.
    """
    part, path = Path(out, stage + ".part"), Path(out, stage)
    if stop.number:
        env.print(f"stopped by {signal.Signals(stop.number).name}; {part} is saved, go on with --resume")
        sys.exit(128 + stop.number)
    if env.rank == 0:
        finish_replace(path)
        replace_folder(part, path)
    flags = (f" --out {out}" if out != Path("out") else "") + (f" --data {data}" if data else "")
    env.print(f"done       {path}. Next: python {then}{flags}")
