"""
What `bash run.sh MINUTES` does: the demo's chain, as long and as deep as that time allows.

python budget.py --minutes 60      prints the plan for this machine, and trains nothing
python budget.py                   the same for the demo, bash run.sh

A plan follows from the minutes and from the tier of the machine alone: its dtype, whether it
compiles, and its cores. The rules:

1. Starting, packing, the tokenizer and the evaluation take what they take in the demo. The rest of
   the time is divided among the stages as in the demo.
2. The depth is the largest that still reads the text three times in pretraining's share, and at
   least the demo's. No text is read more than four times: Muennighoff et al. 2023,
   arXiv:2305.16264. What is left of that share then goes to the other stages.
3. The other stages read as many times the demo's conversations as their share allows: new ones, of
   the sources that make them by rules.

That the depth grows where the text has been read three times is a guess: no longer run has been
measured yet.
"""
import ctrl_c

import datetime
import math
from dataclasses import dataclass
from pathlib import Path

import torch

import distill
import dpo
import midtrain
import sft
from machine import missing_for_compile, parse_config, run, setup, write_synced
from pretrain import DEMO_DEPTH, MAX_DEPTH, demo_tokens_per_param, model_config
from train.plan import flops_per_token, matrix_weights
from train.progress import clock

# Seconds of each stage of the demo on two cores. What is not in MEASURED is estimated: without a
# compiler a step takes 1.66 times as long (measured). bfloat16 is a Xeon with AVX512-BF16 and AMX.
# float32 is an EPYC of 2017 with AVX2, which made some 2,000 tokens/s; two other processors kept to
# AVX2 made 2,900 and 4,000.
STAGES = ["tokenizer", "pretrain", "midtrain", "sft", "dpo", "distill", "evaluate"]
DEMO_SECONDS = {
    "bfloat16": [28, 284, 314, 509, 160, 76, 51],
    "bfloat16 without a compiler": [28, 440, 470, 785, 225, 95, 51],
    "float32": [39, 649, 655, 1202, 826, 233, 100]}
# Tier and cores.
MEASURED = {("bfloat16", 2), ("float32", 2)}
TRAINED = STAGES[1:-1]
MIXTURES = dict(midtrain=midtrain.DEMO_MIXTURE, sft=sft.DEMO_MIXTURE, dpo=dpo.DEMO_MIXTURE,
                distill=distill.DEMO_MIXTURE)
# Of these, a training stage starts, packs its rows and compiles in so many: in bfloat16
# the mean of the five (32 to 78), in float32 that of the first three (56 to 82), otherwise a guess.
FIXED = {"bfloat16": 54, "bfloat16 without a compiler": 30, "float32": 65}
# Of the demo: its vocabulary, the tokens of a row, and the tokens of its text (Python 3.11's).
VOCAB_SIZE, SEQ_LEN, TEXT_TOKENS = 1536, 512, 5_060_000
# How often a text is read: so often before the model grows, and never more.
PASSES, MOST_PASSES = 3, 4
# The least share of the demo's training that is worth a run.
LEAST = 0.2


@dataclass
class Config:
    minutes: int = 0                  # how long the whole chain may take; 0: the demo
    out: str = "out"                  # folder of the chain
    save: bool = False                # write OUT/plan.txt for run.sh, or go on with what is there
    device: str = "auto"              # auto, cpu, cuda or mps
    dtype: str = "auto"               # compute dtype: auto, float32, bfloat16 or float16


def this_tier(env):
    """A key of DEMO_SECONDS."""
    if env.dtype != torch.bfloat16:
        return "float32"
    return "bfloat16 without a compiler" if missing_for_compile(env.device) else "bfloat16"


def demo_costs(tier, cores):
    """-> {stage: its fixed seconds in the demo}, {stage: its seconds of training}.

    So many cores are taken to be that many times as fast, which was measured for one and two.
    """
    demo = dict(zip(STAGES, DEMO_SECONDS[tier]))
    fixed = {stage: FIXED[tier] if stage in TRAINED else 2 / cores * s
             for stage, s in demo.items()}
    return fixed, {stage: 2 / cores * (demo[stage] - fixed[stage]) for stage in TRAINED}


def make_plan(minutes, tier, cores):
    """The plan: a dict of plain data. ValueError if the minutes are too few.

    minutes: 0 for the demo. tier: a key of DEMO_SECONDS.
    """
    fixed, training = demo_costs(tier, cores)
    demo_config = model_config(DEMO_DEPTH, VOCAB_SIZE, SEQ_LEN)
    dtype = torch.float32 if tier == "float32" else torch.bfloat16
    demo_tokens = demo_tokens_per_param(dtype) * matrix_weights(demo_config)
    whole = sum(training.values())
    room = 60 * minutes - sum(fixed.values()) if minutes else whole
    if room < LEAST * whole:
        least = math.ceil((sum(fixed.values()) + LEAST * whole) / 60)
        raise ValueError(f"{minutes} minutes are too few on this machine ({cores} cores, {tier}): "
                         f"the demo takes {(sum(fixed.values()) + whole) / 60:.0f} (bash run.sh), "
                         f"and with less than {least} it learns nothing")

    # A model of twice the FLOPs a token sees half the tokens in the same time.
    share = room / whole
    depth = DEMO_DEPTH
    slower = {d: flops_per_token(model_config(d, VOCAB_SIZE, SEQ_LEN))
              / flops_per_token(demo_config) for d in range(DEMO_DEPTH, MAX_DEPTH + 1, 2)}
    for d in slower:
        if share * demo_tokens / slower[d] >= PASSES * TEXT_TOKENS:
            depth = d
    tokens = min(share * demo_tokens / slower[depth], MOST_PASSES * TEXT_TOKENS)
    seconds = dict(fixed)
    seconds["pretrain"] += training["pretrain"] * tokens / demo_tokens * slower[depth]
    left = room - (seconds["pretrain"] - fixed["pretrain"])
    others = {stage: s for stage, s in training.items() if stage != "pretrain"}
    for stage, s in others.items():
        seconds[stage] += s * left / sum(others.values())
    times = left / sum(others.values()) / slower[depth]

    flags = {stage: [] for stage in STAGES}
    if minutes:
        weights = matrix_weights(model_config(depth, VOCAB_SIZE, SEQ_LEN))
        # Rounded, so that the flag says it all.
        flags["pretrain"] = ["--depth", depth, "--tokens_per_param", f"{tokens / weights:.4g}"]
        for stage, mixture in MIXTURES.items():
            flags[stage] = ["--mixture", scale_mixture(mixture, times)]
    for stage in TRAINED:
        later = sum(seconds[after] for after in STAGES[STAGES.index(stage) + 1:])
        flags[stage] += ["--after", f"{later / seconds[stage]:.2f}"]
    return dict(minutes=minutes, tier=tier, cores=cores, depth=depth, tokens=round(tokens),
                times=times, seconds={stage: round(s) for stage, s in seconds.items()},
                flags={stage: list(map(str, f)) for stage, f in flags.items()})


def scale_mixture(mixture, times):
    """"a:100,b,c:100-200" -> "a:250,b,c:250-500" for 2.5 times; b has no size and stays whole."""
    entries = []
    for entry in mixture.split(","):
        name, colon, size = entry.partition(":")
        # Both ends of first-last move, so that no item of the stage before is read again.
        sizes = [f"{round(int(end) * times) or 1}" for end in size.split("-") if end]
        if len(sizes) == 2 and sizes[0] == sizes[1]:
            sizes[1] = str(int(sizes[0]) + 1)
        entries.append(f"{name}{colon}{'-'.join(sizes)}")
    return ",".join(entries)


def plan_text(plan):
    """The plan as a file that people and run.sh read: comments, then the flags of each stage."""
    seconds = plan["seconds"]
    stages = ", ".join(f"{stage} {clock(s)}" for stage, s in seconds.items())
    tier = f"{plan['cores']} core{'s' if plan['cores'] != 1 else ''}, {plan['tier']}"
    known = "measured" if (plan["tier"], plan["cores"]) in MEASURED else "estimated"
    what = f"{plan['minutes']} minutes" if plan["minutes"] else "the demo"
    lines = [f"# plan       {what} on {tier}: depth {plan['depth']}, "
             f"{plan['tokens'] / 1e6:.1f} M tokens of text ({plan['tokens'] / TEXT_TOKENS:.1f} "
             f"passes), {plan['times']:.2f} times the demo's conversations",
             f"# time       {stages}; together {clock(sum(seconds.values()))}. Speeds: {known}; "
             f"nothing else may run here"]
    lines += [" ".join([stage, *flags]) for stage, flags in plan["flags"].items()]
    return "\n".join(lines) + "\n"


def main():
    cfg = parse_config(Config, __doc__)
    env = setup(cfg.device, cfg.dtype)
    path = Path(cfg.out, "plan.txt")
    if env.device.type == "cuda" and cfg.minutes:
        raise ValueError("minutes are planned for CPUs; on a GPU: bash run.sh speedrun, or "
                         "python pretrain.py --hours 1")
    if env.device.type == "cuda":
        text = "# plan       the demo\n"
        now = "note       on a GPU, where nobody has measured how long its stages take"
    elif cfg.save and cfg.minutes and path.exists():
        # A run that goes on does so as it began.
        text = path.read_text()
        now = f"note       the plan is that of {path}, made before"
    else:
        plan = make_plan(cfg.minutes, this_tier(env), torch.get_num_threads())
        text = plan_text(plan)
        seconds = sum(plan["seconds"].values())
        end = datetime.datetime.now() + datetime.timedelta(seconds=seconds)
        now = f"end        at about {end:%H:%M}, if it starts now from the beginning"
    for line in text.splitlines():
        if line.startswith("# "):
            print(line[2:])
    print(now)
    if cfg.save:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_synced(path, lambda f: f.write(text.encode()))


if __name__ == "__main__":
    run(main)
