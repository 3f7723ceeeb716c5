"""
Stage 7 of 7: reinforcement learning from answers that can be checked. Reads out/distill, writes
out/rl.

For every prompt the model draws a group of answers, with the Python tool, as it answers a user.
The task's own grader says which of them are right. Answers above the mean of their group become
more likely, answers below it less. This is GRPO (Shao et al. 2024, arXiv:2402.03300, eq. 3) in the
form of Dr. GRPO (Liu et al. 2025, arXiv:2503.20783) with one update for each batch of answers: it
needs no ratio, no clipping and no reference model.

laptop        python rl.py                              the demo's tasks, made on this machine
your data     python rl.py --data problems.jsonl        conversations; answers end in "#### 42"
your reward   python rl.py --data prompts.jsonl --reward my_reward.py:grade
8 GPUs        torchrun --standalone --nproc_per_node 8 rl.py --mixture gsm8k
"""
import ctrl_c

import importlib.util
import math
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from common import STAGES, digest, isolation, load_checkpoint
from data.files import ROW_SUFFIXES, identify
from data.mixtures import choose_mixture, graded_prompts
from machine import StopSignal, parse_config, run, setup, try_to_compile
from talk.engine import Engine, Sampling, parse_answer
from train.optimizer import make_optimizer
from train.plan import choose_compile
from train.progress import Progress
from train.rows import describe_sources, my_share, step_indices
from train.run import (
    Saver,
    check_before_packing,
    check_finite,
    decisive_settings,
    finish_run,
    lr_scale,
    start_or_resume,
)

STAGE, BASE, NEXT = "rl", "distill", "chat"
DEMO_MIXTURE = "arithmetic:2000,spelling_bee:2000"


@dataclass
class Config:
    out: str = "out"                  # folder in which the stages find each other
    base: str = BASE                  # the stage to start from; rl trains on
    data: tuple = ()                  # .jsonl or .json files of problems; none: the mixture
    mixture: str = DEMO_MIXTURE       # name:size*times, ... or downloads or demo
    skip_bad_rows: bool = False       # leave out and name bad rows of --data; else they are errors
    reward: str = ""                  # FILE.py:FUNCTION(conversation, answer) -> a number
    group_size: int = 16              # answers to each prompt
    prompts_per_step: int = 16        # prompts of an optimizer step, over all ranks
    max_tokens: int = 200             # tokens per answer; one that has not ended then is wrong
    batch_size: int = 0               # packed rows per micro-batch and rank; 0: 8192 tokens
    steps: int = 60                   # horizon in optimizer steps
    matrix_lr: float = 0.0001         # peak learning rate of Muon, for the matrices of the blocks
    embed_lr: float = 0.001           # peak rate of AdamW for the embedding, x sqrt(256 / width)
    head_lr: float = 0.00003          # the same for the head
    weight_decay: float = 0.0         # of the matrices, decoupled, times the learning rate
    warmup: float = 0.02              # share of the steps in which the learning rate climbs from 0
    warmdown: float = 0.9             # share of the steps in which it falls to 0 again
    eval_every: int = 20              # steps between evaluations on held-out prompts
    eval_prompts: int = 64            # held-out prompts that an evaluation asks; 0: no evaluation
    eval_samples: int = 8             # answers to each of them
    save_every: int = None            # steps between checkpoints; GPU: 10 minutes, CPU: 20
    resume: bool = False              # go on from the last checkpoint of an interrupted run
    seed: int = 0                     # of the order of the prompts and of what is sampled
    device: str = "auto"              # auto, cpu, cuda or mps
    dtype: str = "auto"               # compute dtype: auto, float32, bfloat16 or float16
    compile: bool = None              # torch.compile the model; without the flag, where it pays
    after: float = 0.0                # the stages after this take so many times as long; 0: unknown


# --------------------------------------------------------------------------------------------------
# Answers and their rewards

@dataclass
class Answer:
    """One answer behind its prompt, id by id as it was sampled, and never encoded again."""
    # Prompt and answer, the tool's outputs among it.
    ids: list
    # For each id: 1 if the model sampled it, 0 if not.
    sampled: list
    # Log-probabilities of the sampled ids as the engine saw them, in nats.
    logps: list
    # Whether the model ended it by itself.
    ended: bool
    n_prompt: int
    reward: float = 0.0
    advantage: float = 0.0


def prompt_ids(conversation, tok, seq_len, max_tokens):
    """The ids up to <|assistant_start|>, with space behind them for an answer.

    A prompt that is too long loses its beginning but for <|bos|>, by which rows are taken apart.
    It keeps half of the row in any case.
    """
    ids = tok.render_for_completion(conversation)
    room = max(seq_len // 2, seq_len - max_tokens)
    if len(ids) > room:
        ids = ids[:1] + ids[1 - room:]
    return ids


def roll_out(engine, prompts, places, group_size, max_tokens, seed):
    """Answer each prompt (a list of ids) group_size times -> a list of groups of Answers.

    places: where each prompt stands in the whole step. What is drawn depends on the seed, the
    prompt, that place and the answer's number in its group, but on no rank and no batch.
    Temperature 1 and no filter: the distribution that is sampled is the one that is trained.
    """
    sampling = Sampling(temperature=1.0, seed=seed)
    groups = []
    for place, prompt in zip(places, prompts, strict=True):
        copies = range(place * group_size, (place + 1) * group_size)
        groups.append([engine.submit(prompt, max_tokens, sampling, copy=copy, keep_logps=True)
                       for copy in copies])
    while not all(generation.finish for group in groups for generation in group):
        engine.step()
    return [[Answer(g.ids, [0] * g.n_prompt + g.sampled, g.logps, g.finish == "stop", g.n_prompt)
             for g in group] for group in groups]


def reward_answers(groups, problems, tok):
    """Set reward and advantage of every answer. problems: (conversation, grade) for each group.

    An answer that did not end gets 0 whatever it says, or the least reward of its group if that is
    below 0. The advantage is the reward minus the mean of the group. It is not divided by the
    standard deviation: that would give more weight to prompts that are nearly solved or hopeless.
    """
    for group, (conversation, grade) in zip(groups, problems, strict=True):
        for answer in group:
            if answer.ended:
                parts = parse_answer(tok, answer.ids[answer.n_prompt:])
                answer.reward = float(grade(conversation, parts))
        least = min(answer.reward for answer in group)
        for answer in group:
            if not answer.ended:
                answer.reward = least
        mean = sum(answer.reward for answer in group) / len(group)
        for answer in group:
            answer.advantage = answer.reward - mean


def load_reward(spec):
    """FILE.py:FUNCTION -> a grader that names itself in its errors.

    ValueError or FileNotFoundError if there is no such function.
    """
    file, _, name = spec.rpartition(":")
    if not file.endswith(".py") or not name.isidentifier():
        raise ValueError(f"--reward {spec}: expected FILE.py:FUNCTION, as in my_reward.py:grade")
    if not Path(file).is_file():
        raise FileNotFoundError(f"--reward {spec}: there is no file {file}")
    module_spec = importlib.util.spec_from_file_location("reward", file)
    module = importlib.util.module_from_spec(module_spec)
    # A dataclass in the file looks for its module here.
    sys.modules["reward"] = module
    try:
        module_spec.loader.exec_module(module)
    except Exception as e:
        raise ValueError(f"--reward {spec}: {file} fails with {type(e).__name__}: {e}") from None
    function = getattr(module, name, None)
    if not callable(function):
        raise ValueError(f"--reward {spec}: {file} has no function {name}")

    def grade(conversation, answer):
        asked = [m["content"] for m in conversation["messages"] if m["role"] == "user"][-1]
        try:
            reward = function(conversation, answer)
        except Exception as e:
            raise ValueError(f"--reward {spec} raised {type(e).__name__}: {e}, "
                             f"for an answer to {asked!r:.80}") from None
        if not is_finite_number(reward):
            raise ValueError(f"--reward {spec} returned {reward!r:.80}, for an answer to "
                             f"{asked!r:.80}: expected True, False or a finite number")
        return reward

    return grade


def describe_reward(spec):
    """What decides the rewards, for --resume to compare: the flag, and a digest of its file."""
    return [spec, digest(Path(spec.rpartition(":")[0]).read_text())] if spec else ""


def is_finite_number(value):
    """Whether a value is a finite number: also a bool, of numpy, or a tensor; but not text."""
    try:
        return not isinstance(value, (str, bytes)) and math.isfinite(float(value))
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return False


# --------------------------------------------------------------------------------------------------
# The loss

def pack_answers(answers, row_len, tok):
    """Answers one behind the other in rows, longest first -> a dict of tensors (R, row_len).

    ids, and in_code, which is 1 where the next id stands in a tool call: int64. sampled: bool.
    advantage and engine_logps: float32, 0 where nothing was sampled. What stays free at the end of
    a row is <|bos|>, of which nothing was sampled.
    """
    rows = []
    for answer in sorted(answers, key=lambda answer: -len(answer.ids)):
        row = next((row for row in rows if row["room"] >= len(answer.ids)), None)
        if row is None:
            row = dict(room=row_len, answers=[])
            rows.append(row)
        row["room"] -= len(answer.ids)
        row["answers"].append(answer)
    shape = (len(rows), row_len)
    packed = dict(ids=torch.full(shape, tok.special("<|bos|>")),
                  in_code=torch.zeros(shape, dtype=torch.int64),
                  sampled=torch.zeros(shape, dtype=torch.bool),
                  advantage=torch.zeros(shape),
                  engine_logps=torch.zeros(shape))
    for r, row in enumerate(rows):
        start = 0
        for answer in row["answers"]:
            here = slice(start, start + len(answer.ids))
            sampled = torch.tensor(answer.sampled, dtype=torch.bool)
            packed["ids"][r, here] = torch.tensor(answer.ids)
            packed["in_code"][r, here] = torch.tensor(in_code(answer.ids, tok))
            packed["sampled"][r, here] = sampled
            packed["advantage"][r, here] = sampled * answer.advantage
            packed["engine_logps"][r, here][sampled] = torch.tensor(answer.logps)
            start += len(answer.ids)
    return packed


def in_code(ids, tok):
    """For each id of one text: 1 if what follows it stands in an open tool call, else 0."""
    opens, closes = tok.special("<|python_start|>"), tok.special("<|python_end|>")
    states = []
    state = 0
    for id in ids:
        if id in (opens, closes):
            state = int(id == opens)
        states.append(state)
    return states


def sampled_logps(model, ids, in_code, sampled, specials):
    """Log-probability in nats of each sampled id, given those before it, and 0 for the others.

    ids, in_code, sampled: (B, T) as pack_answers makes them. Returns (B, T - 1) float32, of
    ids[:, 1:].
    specials (2, S): what the engine adds to the logits of the special tokens, in text and in code.
    An id that it could not sample has no share of the probability here either.
    """
    targets = ids[:, 1:].masked_fill(~sampled[:, 1:], -1)
    ids = ids[:, :-1]
    logits = model(ids, isolate=isolation(ids))
    n_special = specials.size(1)
    masked = logits[..., -n_special:] + specials[in_code[:, :-1]]
    logits = torch.cat([logits[..., :-n_special], masked], dim=-1)
    losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1,
                             reduction="none")
    return -losses.view_as(targets)


def rl_loss(logps, advantage, n_answers, max_tokens):
    """-1 / (n_answers * max_tokens) * sum of advantage * log-probability over the sampled ids.

    logps, advantage: (B, T) float32, 0 where nothing was sampled. n_answers: of the whole step,
    over all ranks, with those of groups that have no gradient. A constant takes the place of each
    answer's length: else a long wrong answer would lose less for every token than a short one.
    """
    return -(advantage * logps).sum() / (n_answers * max_tokens)


def micro_batches(packed, batch_size):
    """Cut packed rows into pieces of batch_size; the last one is filled up with rows of nothing."""
    pad = -len(packed["ids"]) % batch_size
    for at in range(0, len(packed["ids"]) + pad, batch_size):
        piece = {key: rows[at:at + batch_size] for key, rows in packed.items()}
        missing = batch_size - len(piece["ids"])
        if missing:
            # Copies of the first row in which nothing counts as sampled.
            copies = {key: rows[:1].expand(missing, -1) for key, rows in packed.items()}
            for key in "sampled", "advantage", "engine_logps":
                copies[key] = torch.zeros_like(copies[key])
            piece = {key: torch.cat([rows, copies[key]]) for key, rows in piece.items()}
        yield piece


# --------------------------------------------------------------------------------------------------
# What is logged

SUMS = ["answers", "groups", "reward", "right", "solved", "mixed", "ended", "tool", "tokens",
        "entropy"]


def count_answers(groups, tok, env):
    """Sums over the groups of answers of all ranks -> {name: sum}, with the names of SUMS."""
    call = tok.special("<|python_start|>")
    sums = dict.fromkeys(SUMS, 0.0)
    for group in groups:
        rewards = [answer.reward for answer in group]
        sums["groups"] += 1
        sums["solved"] += max(rewards) > 0
        sums["mixed"] += max(rewards) > min(rewards)
        for answer in group:
            sums["answers"] += 1
            sums["reward"] += answer.reward
            sums["right"] += answer.reward > 0
            sums["ended"] += answer.ended
            sums["tool"] += call in answer.ids[answer.n_prompt:]
            sums["tokens"] += sum(answer.sampled)
            sums["entropy"] -= sum(answer.logps)
    totals = env.all_sum(torch.tensor(list(sums.values()), device=env.device))
    return dict(zip(SUMS, totals.tolist()))


def means_of(sums, group_size):
    """The sums of count_answers -> what is logged.

    reward, and pass@1 and pass@G: the share of answers, and of groups with an answer, whose reward
    is above 0. mixed: the share of groups with a gradient. ended, tool: the share of answers that
    ended by themselves, and that called the tool. length: sampled tokens of an answer. entropy: of
    the distribution of a token, estimated from what was sampled, in nats.
    """
    n_answers = sums["answers"]
    return {"reward": sums["reward"] / n_answers, "pass@1": sums["right"] / n_answers,
            f"pass@{group_size}": sums["solved"] / sums["groups"],
            "mixed": sums["mixed"] / sums["groups"], "ended": sums["ended"] / n_answers,
            "tool": sums["tool"] / n_answers, "length": sums["tokens"] / n_answers,
            "entropy": sums["entropy"] / max(1, sums["tokens"])}


def evaluate_prompts(engine, problems, n, cfg, env):
    """The means of the answers to the first n problems; what is drawn is the same at every step."""
    tok = engine.tok
    places = np.arange(n)[env.rank::env.world_size]
    asked = [problems[i] for i in places]
    prompts = [prompt_ids(conversation, tok, engine.max_len, cfg.max_tokens)
               for conversation, _ in asked]
    groups = roll_out(engine, prompts, places, cfg.eval_samples, cfg.max_tokens, seed=-1)
    reward_answers(groups, asked, tok)
    return means_of(count_answers(groups, tok, env), cfg.eval_samples)


def show(values):
    return " | ".join(f"{key} {value:.3g}" for key, value in values.items())


def check_config(cfg, env):
    """ValueError for what no run can do."""
    bases = [stage for stage in STAGES if stage != STAGE]
    if cfg.base not in bases:
        raise ValueError(f"--base {cfg.base}: expected one of {', '.join(bases)}")
    if cfg.group_size < 2:
        raise ValueError(f"--group_size {cfg.group_size}: an answer is compared with its group, "
                         f"so a group has at least 2")
    if cfg.prompts_per_step < env.world_size:
        raise ValueError(f"--prompts_per_step {cfg.prompts_per_step}: expected at least one for "
                         f"each of the {env.world_size} ranks")
    for name in "max_tokens", "eval_samples":
        if getattr(cfg, name) < 1:
            raise ValueError(f"--{name} {getattr(cfg, name)}: expected 1 or more")


def main():
    cfg = parse_config(Config, __doc__)
    env = setup(cfg.device, cfg.dtype)
    out = Path(cfg.out)
    check_config(cfg, env)
    model, tok, previous = load_checkpoint(out / cfg.base, env.device,
                                           f"run python {cfg.base}.py --out {out} first")
    env.lock(out / STAGE)

    # ---- data: problems that can be graded ----
    seq_len = model.config.seq_len
    grade = load_reward(cfg.reward) if cfg.reward else None
    mixture = choose_mixture(STAGE, cfg.mixture, Config.mixture, cfg.data, env)
    files = identify(cfg.data, ROW_SUFFIXES)
    made_from = describe_sources(files, mixture=mixture, skip_bad_rows=cfg.skip_bad_rows)
    check_before_packing(out, STAGE, cfg.resume, env, start=digest(previous), data=made_from)
    problems = graded_prompts(mixture.train, "rl", cfg.data, cfg.skip_bad_rows, grade)
    val_problems = graded_prompts(mixture.val, "test", cfg.data, cfg.skip_bad_rows, grade)
    n_val = min(cfg.eval_prompts, len(val_problems))

    # ---- model, optimizer, engine ----
    model.train().compute_dtype = env.dtype
    steps = cfg.steps
    n_answers = cfg.prompts_per_step * cfg.group_size
    batch_size = cfg.batch_size or max(1, 8192 // seq_len)
    # How long the answers get, nobody knows.
    cfg.compile = choose_compile(cfg, STAGE, steps * n_answers * cfg.max_tokens / 2, model, env)
    compiled = try_to_compile(model, dynamic=False) if cfg.compile else model
    optimizer = make_optimizer(cfg, model, env, cfg.compile)
    settings = decisive_settings(cfg, model, env, start=digest(previous), base=cfg.base,
                                 data=made_from, reward=describe_reward(cfg.reward), steps=steps,
                                 group_size=cfg.group_size, max_tokens=cfg.max_tokens,
                                 prompts_per_step=cfg.prompts_per_step)
    first, metrics = start_or_resume(out, STAGE, settings, cfg.resume, model, optimizer, env)
    most_rows = 256 if env.device.type == "cuda" else 64
    engine = Engine(model, tok, max_rows=min(n_answers, most_rows))
    specials = engine.specials[:2]
    env.print(f"machine    {env.device}, {env.world_size} rank(s), {env.dtype}, "
              f"torch {torch.__version__}, {'compiled' if cfg.compile else 'not compiled'}\n"
              f"model      {out}/{cfg.base}, {model.num_params():,} parameters\n"
              f"horizon    {steps} steps of {cfg.prompts_per_step} of {len(problems):,} prompts, "
              f"{cfg.group_size} answers to each, micro-batches of {batch_size} rows\n"
              f"config     {cfg}")

    # ---- loop: evaluate, save, stop, then train ----
    stop = StopSignal()
    # On a CPU a step takes as long as many of the other stages.
    saver = Saver(cfg.save_every, env, on_cpu=20)
    log = {}
    progress = Progress(env, steps, first, cfg.after)
    # The last pass only evaluates and saves.
    for step in range(first, steps + 1):
        done = step == steps
        if n_val and (done or step % cfg.eval_every == 0):
            log = evaluate_prompts(engine, val_problems, n_val, cfg, env)
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

        # ---- answers of the present model, and their rewards ----
        t0 = time.perf_counter()
        indices = step_indices(len(problems), step, cfg.prompts_per_step, cfg.seed)
        places = my_share(np.arange(cfg.prompts_per_step), env)
        asked = [problems[i] for i in indices[places]]
        prompts = [prompt_ids(conversation, tok, seq_len, cfg.max_tokens)
                   for conversation, _ in asked]
        # A prompt that comes again in a later step draws other numbers.
        seed = cfg.seed * 1_000_000 + step
        groups = roll_out(engine, prompts, places, cfg.group_size, cfg.max_tokens, seed)
        t1 = time.perf_counter()
        reward_answers(groups, asked, tok)
        t2 = time.perf_counter()

        # ---- one optimizer step ----
        # An answer that equals the mean of its group has no gradient. If all do, one of them stays,
        # as there must be some gradient, though it is 0.
        answers = [answer for group in groups for answer in group]
        trained = [answer for answer in answers if answer.advantage] or answers[:1]
        packed = pack_answers(trained, seq_len + 1, tok)
        # The loss; the gap between the engine's log-probabilities and ours, and of how many ids.
        total = torch.zeros(3, device=env.device)
        for piece in micro_batches(packed, batch_size):
            piece = {key: rows.to(env.device) for key, rows in piece.items()}
            logps = sampled_logps(compiled, piece["ids"], piece["in_code"], piece["sampled"],
                                  specials)
            # Every answer of the step weighs the same, wherever it was packed.
            loss = rl_loss(logps, piece["advantage"][:, 1:], n_answers, cfg.max_tokens)
            (loss * optimizer.loss_scale.factor).backward()
            gap = (logps.detach() - piece["engine_logps"][:, 1:]).abs().sum()
            total += torch.stack([loss.detach(), gap, piece["sampled"].sum()])
        lr = lr_scale(step, cfg, steps)
        norm = optimizer.step(lr, momentum=0.95)
        # The engine holds a copy of the weights, and keys and values of the old ones.
        engine.update(model)
        # Reading the numbers waits for the device, so that the time is that of the whole step.
        loss, gap, n_sampled = env.all_sum(total).tolist()
        norm = norm.item()
        t3 = time.perf_counter()
        check_finite(step, loss, norm, out / f"{STAGE}.part")
        sums = count_answers(groups, tok, env)
        means = dict(means_of(sums, cfg.group_size), gap=gap / max(1, n_sampled))
        tok_per_sec = sums["tokens"] / (t3 - t0)
        more = (f" | generating {t1 - t0:.2f} s, scoring {t2 - t1:.2f} s, "
                f"training {t3 - t2:.2f} s")
        progress.step(step, show(means), lr, t3 - t0, sums["tokens"],
                      optimizer.loss_scale.skipped, more)
        metrics.append(dict(step=step, loss=loss, **means, lr=lr, grad_norm=norm,
                            ms=(t3 - t0) * 1e3, tok_per_sec=tok_per_sec,
                            generating_ms=(t1 - t0) * 1e3, scoring_ms=(t2 - t1) * 1e3,
                            training_ms=(t3 - t2) * 1e3))

    finish_run(out, STAGE, stop, env, f"{NEXT}.py")


if __name__ == "__main__":
    run(main, less_memory="--batch_size or --prompts_per_step")
