"""
Stage 6 of 7: distillation.
Reads out/dpo and out/sft, writes out/distill_answers.jsonl and out/distill.

The DPO model answers prompts that no stage has trained on, with the Python tool. The SFT model
learns these answers with the SFT loss.

laptop      python distill.py                     the demo's prompts, made on this machine
your data   python distill.py --data questions.jsonl
8 GPUs      torchrun --standalone --nproc_per_node 8 distill.py --mixture smoltalk:20000,gsm8k
"""
import ctrl_c

import json
import math
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from common import digest, isolation, load_checkpoint, trained_anew
from data.files import ROW_SUFFIXES, identify
from data.mixtures import choose_mixture, conversations, row_length
from machine import StopSignal, parse_config, run, setup, try_to_compile
from talk.engine import Engine, parse_answer
from talk.memory import fit_rows, generate
from train.optimizer import make_optimizer
from train.plan import choose_compile
from train.progress import Line, Progress
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

STAGE, BASE, TEACHER, NEXT = "distill", "sft", "dpo", "chat"
DEMO_MIXTURE = ("spelling_bee:700,simple_spelling:700,letters:500,arithmetic:700,"
                "word_problems:400,choices:200,python_questions,identity:700")


@dataclass
class Config:
    out: str = "out"                  # folder in which the stages find each other
    base: str = BASE                  # the stage to start from; distill trains on
    data: tuple = ()                  # .jsonl or .json; each last user turn is asked; none: mixture
    mixture: str = DEMO_MIXTURE       # name:size*times, ... or downloads or demo
    skip_bad_rows: bool = False       # leave out and name bad rows of --data; else they are errors
    max_tokens: int = 256             # tokens per answer; one that has not ended then is left out
    temperature: float = 0.3          # of the teacher's sampling; 0 is greedy
    seq_len: int = 0                  # tokens per row; 0: 256 for the demo, else the model's
    tokens_per_step: int = 0          # tokens per step, all ranks; 0: 8192 to 524288, by horizon
    batch_size: int = 0               # rows per micro-batch and rank; 0: what fits into memory
    epochs: float = 0.0               # passes over the answers; 0: 1 to 10 for --data, else 1
    steps: int = 0                    # horizon in optimizer steps; 0: from epochs
    matrix_lr: float = 0.0007         # peak learning rate of Muon, for the matrices of the blocks
    embed_lr: float = 0.007           # peak rate of AdamW for the embedding, x sqrt(256 / width)
    head_lr: float = 0.00025          # the same for the head
    weight_decay: float = 0.0         # of the matrices, decoupled, times the learning rate
    warmup: float = 0.02              # share of the steps in which the learning rate climbs from 0
    warmdown: float = 0.9             # share of the steps in which it falls to 0 again
    eval_every: int = 100             # steps between evaluations on held-out answers
    eval_rows: int = 64               # held-out rows an evaluation reads
    save_every: int = None            # steps between checkpoints; GPU: 10 minutes, CPU: 100
    resume: bool = False              # go on from the last checkpoint of an interrupted run
    seed: int = 0                     # of the order of the rows
    device: str = "auto"              # auto, cpu, cuda or mps
    dtype: str = "auto"               # compute dtype: auto, float32, bfloat16 or float16
    compile: bool = None              # torch.compile the model; without the flag, where it pays
    after: float = 0.0                # the stages after this take so many times as long; 0: unknown


def teacher_answers(cfg, env, out, made_from, read):
    """Let the DPO model answer every prompt. Returns the path of a .jsonl file of conversations.

    The file holds the answers that the teacher ended by itself. Every line says which teacher made
    it, from what and how: answers of another teacher or with other settings are made anew.
    """
    teacher, tok, meta = load_checkpoint(out / TEACHER, env.device,
                                         f"run python {TEACHER}.py --out {out} first")
    if trained_anew(out, TEACHER) == BASE:
        raise ValueError(f"{out}/{TEACHER}, the teacher, is older than {out}/{BASE}: "
                         f"run python {TEACHER}.py --out {out} again")
    teacher.compute_dtype = env.dtype
    source = digest([meta, made_from, cfg.seed])
    path = out / "distill_answers.jsonl"
    if path.exists():
        with open(path) as f:
            if source in f.readline():
                env.print(f"answers    {path}, made before")
                return path

    prompts = read()
    shares = [out / f"distill_answers.{rank}-of-{env.world_size}" for rank in range(env.world_size)]
    start = time.time()
    answer_share(teacher, tok, prompts, shares[env.rank], source, cfg, env)
    env.barrier()
    if env.rank == 0:
        n_ended = join_shares(shares, len(prompts), path)
        if not n_ended:
            raise ValueError(f"the teacher in {out}/{TEACHER} ended none of its {len(prompts)} "
                             f"answers within --max_tokens {cfg.max_tokens}: train it longer "
                             f"or raise --max_tokens")
        env.print(f"answers    {path}: {n_ended:,} of {len(prompts):,} prompts answered and ended "
                  f"({time.time() - start:.1f} s)")
    env.barrier()
    return path


def answer_share(teacher, tok, prompts, share, source, cfg, env):
    """Answer this rank's share of the prompts and write a line for each to the file `share`.

    The prompts are answered in batches, so that an interrupted run goes on after its last whole
    batch.
    """
    batch_size = 64
    mine = range(env.rank, len(prompts), env.world_size)
    end = tok.special("<|assistant_end|>")
    lines = share.read_text().splitlines(keepends=True) if share.exists() else []
    # A kill can leave a part of the last batch behind: only whole batches count.
    n_whole = sum(source in line and line.endswith("}\n") for line in lines)
    n_before = n_whole // batch_size * batch_size
    progress = Line(silent=env.rank > 0)
    seq_len = teacher.config.seq_len
    engine = Engine(teacher, tok)
    if env.device.type == "cuda":
        fit_rows(engine, min(seq_len, seq_len // 2 + cfg.max_tokens), batch_size)
    with open(share, "w") as f:
        f.writelines(lines[:n_before])
        for at in range(n_before, len(mine), batch_size):
            # So no batch depends on the one before it.
            engine.reset()
            asked = [prompts[i] for i in mine[at:at + batch_size]]
            # A long prompt loses its beginning, so that half of the row is left for the answer.
            ids = [tok.render_for_completion(conversation)[-seq_len // 2:]
                   for conversation in asked]
            answers = generate(engine, ids, cfg.max_tokens, temperature=cfg.temperature,
                               seed=cfg.seed + at)
            for conversation, answer in zip(asked, answers):
                messages = list(conversation["messages"])
                if messages[-1]["role"] == "assistant":
                    messages.pop()
                messages.append({"role": "assistant", "content": parse_answer(tok, answer)})
                record = dict(messages=messages, ended=answer[-1:] == [end], teacher=source)
                f.write(json.dumps(record) + "\n")
            f.flush()
            progress.count("answers   ", at + len(asked) - n_before, len(mine) - n_before)


def join_shares(shares, n_prompts, path):
    """Write the answers that ended to path, in the order of the prompts. Returns their number.

    If there are none, nothing is written.
    """
    records = [share.read_text().splitlines() for share in shares]
    ordered = [records[i % len(shares)][i // len(shares)] for i in range(n_prompts)]
    ended = [line for line in ordered if json.loads(line)["ended"]]
    if ended:
        path.with_suffix(".tmp").write_text("\n".join(ended) + "\n")
        os.replace(path.with_suffix(".tmp"), path)
        for share in shares:
            share.unlink()
    return len(ended)


def main():
    cfg = parse_config(Config, __doc__)
    env = setup(cfg.device, cfg.dtype)
    out = Path(cfg.out)

    # ---- data: the teacher's answers -> rows on disk, once ----
    mixture = choose_mixture(STAGE, cfg.mixture, Config.mixture, cfg.data, env)
    asked = describe_sources(identify(cfg.data, ROW_SUFFIXES), mixture=mixture,
                             skip_bad_rows=cfg.skip_bad_rows, max_tokens=cfg.max_tokens,
                             temperature=cfg.temperature)
    env.lock(out / STAGE)
    check_before_packing(out, STAGE, cfg.resume, env, prompts=asked)
    read_prompts = lambda: conversations(mixture.train, "prompts", cfg.data, cfg.skip_bad_rows)
    answers = teacher_answers(cfg, env, out, asked, read_prompts)
    model, tok, previous = load_checkpoint(out / cfg.base, env.device,
                                           f"run python {cfg.base}.py --out {out} first")
    seq_len = row_length(cfg.seq_len, mixture.train, cfg.data, model.config.seq_len, tok.vocab_size)
    made_from = describe_sources(identify([answers]))

    def pack(split):
        read = lambda: conversations("", split, [answers], skip_bad_rows=True)
        path = out / f"rows/{STAGE}_{split}.rows"
        return pack_conversations(path, read, tok, seq_len, made_from, env, need_target=True)

    train_rows = pack("train")
    val_rows = pack("test")

    # ---- model, horizon, optimizer ----
    model.train().compute_dtype = env.dtype
    epochs = cfg.epochs
    if not epochs and cfg.data:
        epochs = own_passes(len(train_rows) * seq_len)
    elif not epochs:
        epochs = 1.0
    horizon = math.ceil(epochs * len(train_rows) * seq_len)
    steps, rows_per_step, batch_size = plan_steps(cfg, horizon, model, env, own_data=bool(cfg.data),
                                                  seq_len=seq_len)
    cfg.compile = choose_compile(cfg, STAGE, steps * rows_per_step * seq_len, model, env)
    compiled = try_to_compile(model, dynamic=False) if cfg.compile else model
    optimizer = make_optimizer(cfg, model, env, cfg.compile)
    settings = decisive_settings(cfg, model, env, start=digest(previous), base=cfg.base,
                                 prompts=asked, data=made_from, steps=steps,
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

    finish_run(out, STAGE, stop, env, f"{NEXT}.py")


if __name__ == "__main__":
    run(main, less_memory="--batch_size")
