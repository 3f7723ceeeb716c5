"""
Stage 2 of 7: pretraining, next-token prediction on documents.
Reads text and out/tokenizer, writes out/pretrain.

laptop      python pretrain.py                    the demo's size and text, some 3 minutes
your text   python pretrain.py --data books/ notes.jsonl
one GPU     python pretrain.py --data data/downloads/climbmix --hours 8
8 GPUs      torchrun --standalone --nproc_per_node 8 pretrain.py --depth 20
which size  python pretrain.py --plan             what each depth takes; trains nothing
"""
import ctrl_c

import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from common import (
    GPT,
    GPTConfig,
    Tokenizer,
    digest,
    generate,
    load_checkpoint,
    rotary_table,
    rotate,
)
from data.demo import python_corpus
from data.documents import choose_documents, list_files, read_documents
from data.files import identify
from machine import StopSignal, parse_config, run, setup, try_to_compile
from train.optimizer import make_optimizer
from train.plan import (
    CARDS,
    card_table,
    choose_compile,
    choose_plan,
    flops_per_token,
    make_plan,
    matrix_weights,
    peak_flops,
    plan_table,
    this_chip,
)
from train.progress import Progress
from train.rows import describe_sources, micro_batches, pack_documents, read_ahead
from train.run import (
    Saver,
    banner,
    check_before_packing,
    check_finite,
    decisive_settings,
    evaluate_loss,
    finish_run,
    lr_scale,
    plan_steps,
    saved_settings,
    start_or_resume,
)

STAGE, NEXT = "pretrain", "midtrain"
# The size of the demo, and the largest that is chosen without --depth.
DEMO_DEPTH, MAX_DEPTH = 4, 20


@dataclass
class Config:
    out: str = "out"                  # folder in which the stages find each other
    base: str = ""                    # pretrain: train on from out/pretrain; none: a new model
    data: tuple = ()                  # files or folders, or demo; none: the downloads (GPU) or demo
    field: str = "text"               # field or column of --data that holds the text
    skip_bad_rows: bool = False       # leave out and count bad rows of --data; else they are errors
    depth: int = 0                    # layers; 0: what text, memory, --hours feed; 4 for the demo
    hours: float = 12.0               # the longest that the chosen depth may take on a GPU
    plan: bool = False                # print what each depth takes, and train nothing
    n_kv_head: int = 0                # key/value heads (grouped queries); 0: one per query head
    seq_len: int = 0                  # tokens per row; 0: 2048 on a GPU from 1 MB of text, else 512
    tokens_per_step: int = 0          # tokens per step, all ranks; 0: 8192 to 524288, by horizon
    batch_size: int = 0               # rows per micro-batch and rank; 0: what fits into memory
    tokens_per_param: float = 0.0     # tokens per matrix weight; 0: 12 on a GPU, <1 for the demo
    steps: int = 0                    # horizon in optimizer steps; 0: from tokens_per_param
    matrix_lr: float = 0.02           # peak learning rate of Muon, for the matrices of the blocks
    embed_lr: float = 0.3             # peak rate of AdamW for the embedding, x sqrt(256 / width)
    head_lr: float = 0.008            # the same for the head
    weight_decay: float = 0.2         # of the matrices, decoupled, times the learning rate
    warmup: float = 0.02              # share of the steps in which the learning rate climbs from 0
    warmdown: float = 0.5             # share of the steps in which it falls to 0 again
    eval_every: int = 100             # steps between evaluations on held-out text
    eval_rows: int = 128              # held-out rows an evaluation reads
    sample_every: int = 200           # steps between samples
    save_every: int = None            # steps between checkpoints; GPU: 10 minutes, CPU: 100
    resume: bool = False              # go on from the last checkpoint of an interrupted run
    seed: int = 0                     # of the weights and of the order of the rows
    device: str = "auto"              # auto, cpu, cuda or mps
    dtype: str = "auto"               # compute dtype: auto, float32, bfloat16 or float16
    compile: bool = None              # torch.compile the model; without the flag, where it pays
    after: float = 0.0                # the stages after this take so many times as long; 0: unknown
    peak_tflops: float = 0.0          # the chip's peak for the MFU column; 0: from the chip's name


# --------------------------------------------------------------------------------------------------
# A new model: its size, and the weights that it starts with

def model_config(depth, vocab_size, seq_len, n_kv_head=0):
    """The shape of a model follows from its depth.

    The width is 64 channels per layer, and the SwiGLU is 8/3 of that. Heads have 128 channels
    where that divides the width: on CPUs attention then takes half the time that it takes with 64.
    """
    n_embd = 64 * depth
    head_size = 64 if depth % 2 else 128
    n_head = n_embd // head_size
    n_kv_head = n_kv_head or n_head
    if n_head % n_kv_head:
        raise ValueError(f"--n_kv_head {n_kv_head} does not divide "
                         f"the {n_head} heads of --depth {depth}")
    # 8/3 of the width, rounded up to a multiple of 128.
    n_ff = -(-8 * n_embd // 3 // 128) * 128
    return GPTConfig(vocab_size, seq_len, depth, n_head, n_kv_head, n_embd, n_ff)


def choose_seq_len(paths, on_gpu):
    """Tokens per row: 2048 on a GPU if the held-out 2 % of the text fills some such rows.

    paths: of the text; the embedded one of the demo has none.
    """
    n_bytes = sum(file.stat().st_size for file in list_files(paths)) if paths else 0
    return 2048 if on_gpu and n_bytes >= 1e6 else 512


def demo_tokens_per_param(dtype):
    """Of the demo. A CPU that computes in float32 is slower, so it reads 0.4 of the tokens."""
    return 0.26 if dtype == torch.float32 else 0.65


def make_plans(cfg, depths, vocab_size, seq_len, tokens_per_param, chip):
    """What the models of some depths take with such a chip -> a list of Plans."""
    configs = [model_config(depth, vocab_size, seq_len, cfg.n_kv_head) for depth in depths]
    return [make_plan(config, tokens_per_param, chip) for config in configs]


def print_plans(cfg, env):
    """Print what each depth takes: on this machine's GPUs; without one, on some cards."""
    seq_len = cfg.seq_len or 2048
    tokens_per_param = cfg.tokens_per_param or 12
    depths = [cfg.depth] if cfg.depth else range(DEMO_DEPTH, MAX_DEPTH + 1, 2)
    env.print(f"{tokens_per_param:g} tokens a matrix weight, rows of {seq_len}. Derived from sizes "
              f"and data sheets, unmeasured")
    if env.device.type == "cuda":
        folder = Path(cfg.out, "tokenizer")
        vocab_size = Tokenizer.load(folder).vocab_size if folder.exists() else 32768
        chip = this_chip(env, cfg.peak_tflops)
        env.print(f"{chip.count} x {chip.name}, {chip.memory / 1e9:.1f} GB to use on each, "
                  f"{chip.peak / 1e12:.0f} TFLOP/s")
        plans = make_plans(cfg, depths, vocab_size, seq_len, tokens_per_param, chip)
        env.print("\n".join(plan_table(plans, cfg.hours)))
    else:
        env.print("No GPU here. In each cell: rows of a micro-batch, GB, hours")
        plans_for = lambda chip: make_plans(cfg, depths, 32768, seq_len, tokens_per_param, chip)
        env.print("\n".join(card_table(plans_for, CARDS, cfg.hours)))


def estimate_tokens(paths, tok, field="text", n_sample=1_000_000):
    """About how many tokens are in the text, before it is packed.

    From the sizes of the files and the tokens of the first million bytes. Compressed, a text has
    about a third of its size.
    """
    n_bytes = 0
    for file in list_files(paths):
        n_bytes += file.stat().st_size * (1 if file.suffix in (".txt", ".jsonl") else 3)
    n_sampled = n_tokens = 0
    for text in read_documents(paths, "train", 0, field, skip_bad_rows=True):
        n_sampled += len(text.encode())
        n_tokens += len(tok.encode(text))
        if n_sampled > n_sample:
            break
    return n_bytes / n_sampled * n_tokens


@torch.no_grad()
def init_weights(model, seed):
    """Output projections start at zero, so that every block starts as the identity.

    The other matrices keep activations at rms 1. In the first half of the blocks one head looks
    back one token, and a second one (if it has keys of its own) two tokens. After 2.5 million
    tokens at depth 4 that gives 1.607 instead of 1.760 bits per byte (dev/LOG.md). Looking back is
    the first half of an induction head: Olsson et al. 2022, arXiv:2209.11895.
    """
    config = model.config
    # The generator stands on the CPU, so that every device starts from the same weights.
    rng = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        if name == "embed":
            std = 1.0
        elif name.endswith(("wo", "down", "head")):
            std = 0.0
        else:
            std = p.size(1) ** -0.5
        p.copy_(torch.randn(p.shape, generator=rng) * std)
    # Channel 0 is the same in every token; look_back reads it.
    model.embed[:, 0] = 3.0
    for block in model.blocks[:config.n_layer // 2]:
        for head in range(min(2, config.n_kv_head)):
            look_back(block.attn, head, distance=head + 1, theta=config.rope_theta)


def look_back(attn, head, distance, theta):
    """Make a head attend to the token `distance` places back, whatever the tokens are.

    Its query is one fixed vector. Its key is the same vector, rotated as if it stood `distance`
    places later, so that query and key agree best at that distance. Both come from channel 0 of
    the embedding. head: the number of the key head; the first query head that uses it looks back.
    """
    D = attn.head_size
    # Pairs of channels that rotate more slowly cannot tell neighbours apart.
    fast = theta ** (-torch.arange(0, D, 2) / D) > 0.05
    query = torch.cat([fast, torch.zeros_like(fast)]).float()  # (D,)
    cos, sin = rotary_table(torch.tensor([distance]), D, theta)
    key = rotate(query[None], cos, sin).flatten()  # (D,)
    query_head = head * (attn.n_head // attn.n_kv_head)
    for weight, number, vector in (attn.wq, query_head, query), (attn.wk, head, key):
        rows = slice(number * D, (number + 1) * D)
        # At the start the tokens themselves count less than the distance.
        weight[rows] *= 0.25
        # Channel 0 is about 3 in every token, so a 1 in the vector becomes a 2.
        weight[rows, 0] = 2 / 3 * vector


def print_samples(model, tok, rows, env, seed, n_samples=4, n_prompt=8, n_new=32):
    """Let the model continue the beginnings of a few held-out documents, and print what it says."""
    ids, _ = rows.batch(slice(0, 64))
    begins = (ids[:, :-n_prompt] == tok.special("<|bos|>")).nonzero()
    for b, t in begins[:n_samples]:
        prompt = ids[b, t:t + n_prompt].tolist()
        new = generate(model, prompt, n_new, temperature=0.8, seed=seed)
        env.print(f"    {tok.decode(prompt[1:])!r} -> {tok.decode(new)!r}")


def load_base(cfg, out, tok, env):
    """The model to train on from, and its meta. ValueError if a flag asks for another shape."""
    base, _, meta = load_checkpoint(out / cfg.base, env.device,
                                    f"run python {cfg.base}.py --out {out} first")
    if meta["tokenizer"] != tok.fingerprint:
        raise ValueError(f"--base {cfg.base}: {out}/{cfg.base} has another tokenizer than "
                         f"{out}/tokenizer. Start a new model without --base")
    has = {"depth": base.config.n_layer, "seq_len": base.config.seq_len,
           "n_kv_head": base.config.n_kv_head}
    for flag, value in has.items():
        if getattr(cfg, flag) not in (0, value):
            raise ValueError(f"--{flag} {getattr(cfg, flag)}: {out}/{cfg.base} has {value}. Leave "
                             f"the flag out, or start a new model without --base")
    return base, meta


def main():
    cfg = parse_config(Config, __doc__)
    env = setup(cfg.device, cfg.dtype)
    out = Path(cfg.out)
    on_gpu = env.device.type == "cuda"
    if cfg.plan:
        print_plans(cfg, env)
        return

    tok = Tokenizer.load(out / "tokenizer")
    env.lock(out / STAGE)
    base, previous = load_base(cfg, out, tok, env) if cfg.base else (None, None)

    # ---- size: one dial, the rest follows ----
    paths = choose_documents(cfg.data, on_gpu, env.print)
    seq_len = cfg.seq_len or (base.config.seq_len if base else choose_seq_len(paths, on_gpu))
    # The text of the demo gets the demo's size on every machine.
    is_demo = not (on_gpu and paths)
    if is_demo and cfg.hours != Config.hours:
        raise ValueError(f"--hours {cfg.hours:g}: it chooses the depth for a text of your own on a "
                         f"GPU; here choose --depth")
    tokens_per_param = cfg.tokens_per_param
    if not tokens_per_param and not is_demo:
        tokens_per_param = 12
    elif not tokens_per_param:
        tokens_per_param = demo_tokens_per_param(env.dtype)
    depth, why = cfg.depth, "--depth"
    if base and not depth:
        depth, why = base.config.n_layer, f"as in {out}/{cfg.base}"
    elif not depth and cfg.resume:
        # What is free on the GPU, and so what is chosen, may have changed since then.
        depth, why = saved_settings(out, STAGE, env).get("n_layer", 0), "as before"

    def choose_depth(n_tokens):
        """-> the Plan of the depth, and what the next depth lacks, or this one if it is given."""
        depths = [depth] if depth else range(DEMO_DEPTH, MAX_DEPTH + 1, 2)
        plans = make_plans(cfg, depths, tok.vocab_size, seq_len, tokens_per_param, chip)
        return choose_plan(plans, n_tokens, cfg.hours)

    if not is_demo:
        chip = this_chip(env, cfg.peak_tflops)
        about = estimate_tokens(paths, tok, cfg.field)
        plan, limit = choose_depth(about)
        env.print(f"plan       {plan}{limit and '; '}{limit}. The text has about "
                  f"{about / 1e6:,.0f} M tokens. Derived, unmeasured")

    # ---- data: text -> rows on disk, once ----
    made_from = describe_sources(identify(paths), field=cfg.field, skip_bad_rows=cfg.skip_bad_rows)
    check_before_packing(out, STAGE, cfg.resume, env, data=made_from)

    def pack(split):
        def read():
            if not paths:
                return python_corpus.documents(split)
            return read_documents(paths, split, field=cfg.field, skip_bad_rows=cfg.skip_bad_rows)

        path = out / f"rows/{STAGE}_{split}.rows"
        return pack_documents(path, read, tok, seq_len, made_from, env)

    train_rows = pack("train")
    val_rows = pack("val")
    n_tokens = len(train_rows) * seq_len

    # ---- model ----
    if not is_demo:
        # Now the tokens are counted.
        plan, limit = choose_depth(n_tokens)
    if not depth and not is_demo:
        depth, why = plan.depth, limit or "the deepest that is chosen by itself"
    elif not depth:
        depth, why = DEMO_DEPTH, "the demo size"
    model = base or GPT(model_config(depth, tok.vocab_size, seq_len, cfg.n_kv_head))
    config = model.config
    if not base:
        init_weights(model, cfg.seed)
    model.train().to(env.device).compute_dtype = env.dtype

    # ---- horizon, optimizer ----
    horizon = math.ceil(tokens_per_param * matrix_weights(config))
    if not cfg.tokens_per_param and not is_demo:
        # Beyond four passes a text teaches little more: Muennighoff et al. 2023, arXiv:2305.16264.
        # A small one is read as long as in the demo.
        horizon = min(horizon, max(4 * n_tokens, math.ceil(0.65 * matrix_weights(config))))
    steps, rows_per_step, batch_size = plan_steps(cfg, horizon, model, env)
    cfg.compile = choose_compile(cfg, STAGE, steps * rows_per_step * seq_len, model, env)
    compiled = try_to_compile(model, dynamic=False) if cfg.compile else model
    optimizer = make_optimizer(cfg, model, env, cfg.compile)
    settings = decisive_settings(cfg, model, env, data=made_from,
                                 steps=steps, rows_per_step=rows_per_step)
    if base:
        settings.update(base=cfg.base, start=digest(previous))
    first, metrics = start_or_resume(out, STAGE, settings, cfg.resume, model, optimizer, env)
    peak = peak_flops(env.device, cfg.peak_tflops)
    per_weight = steps * rows_per_step * seq_len / matrix_weights(config)
    why_so_long = "--steps" if cfg.steps else "--tokens_per_param"
    banner(cfg, env,
           f"depth {depth} ({why}), width {config.n_embd}, {config.n_head} heads, "
           f"{model.num_params():,} parameters, vocabulary {config.vocab_size}", cfg.compile,
           steps, rows_per_step, batch_size, train_rows,
           more=f", {per_weight:.1f} a matrix weight, {why_so_long}")

    # ---- loop: evaluate, save, stop, then train ----
    stop = StopSignal()
    saver = Saver(cfg.save_every, env)
    log = {}
    progress = Progress(env, steps, first, cfg.after)
    batches_of = lambda step: micro_batches(train_rows, step, rows_per_step, batch_size, env,
                                            cfg.seed)
    step_batches = read_ahead(batches_of, first, env.device)
    # The last pass only evaluates and saves.
    for step in range(first, steps + 1):
        done = step == steps
        if done or step % cfg.eval_every == 0:
            log = evaluate_loss(model, val_rows, tok, env, batch_size, cfg.eval_rows)
            metrics.append(dict(step=step, val_loss=log["loss"], val_bpb=log["bpb"]))
            env.print(f"step {step:5d} | val loss {log['loss']:.4f} | "
                      f"val bits per byte {log['bpb']:.4f}")
        if env.rank == 0 and (done or (step > 0 and step % cfg.sample_every == 0)):
            print_samples(model, tok, val_rows, env, seed=step)
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
            # Every token of the step weighs the same, in whatever micro-batch and rank it stands.
            loss = compiled(ids, targets) / n_target
            (loss * optimizer.loss_scale.factor).backward()
            total += loss.detach()
        lr = lr_scale(step, cfg, steps)
        norm = optimizer.step(lr, momentum=0.95 - 0.1 * max(0, 1 - step / 100))
        # Reading the numbers waits for the device, so that the time is that of the whole step.
        loss = env.all_sum(total).item()
        norm = norm.item()
        dt = time.perf_counter() - t0
        check_finite(step, loss, norm, out / f"{STAGE}.part")
        tok_per_sec = rows_per_step * seq_len / dt
        mfu = "n/a"
        if peak:
            mfu = f"{100 * tok_per_sec * flops_per_token(config) / peak / env.world_size:.1f} %"
        progress.step(step, f"loss {loss:.4f}", lr, dt, rows_per_step * seq_len,
                      optimizer.loss_scale.skipped, more=f" | MFU {mfu}")
        if not is_demo and step == first + 5:
            env.print(f"plan       as measured now, {steps * dt / 3600:.1f} hours for all steps "
                      f"instead of {plan.hours:.1f}")
        metrics.append(dict(step=step, loss=loss, lr=lr, grad_norm=norm, ms=dt * 1e3,
                            tok_per_sec=tok_per_sec))

    finish_run(out, STAGE, stop, env, f"{NEXT}.py", "chats.jsonl" if cfg.data else "")


if __name__ == "__main__":
    run(main, less_memory="--batch_size or --depth")
