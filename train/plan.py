"""
What a model of a given size costs, before anything runs: memory, hours, and the loss to expect.

choose_depth in pretrain.py and the table of --plan ask here. All of it is derived and nothing was
measured on a GPU: the memory from the tensors that a step makes, the hours from the chip's name.
"""
import math
import re
import time
from dataclasses import dataclass

import torch

from common import CHUNK, GPT, read_meta
from machine import can_compile
from train.run import cut_step, find_part, optimizer_bytes, rows_for_step

# Dense matrix products with float32 sums, in TFLOP/s, from the makers' data sheets: in bfloat16, on
# chips before Ampere in float16. GeForce: twice the rate of float32, in the 20 series four times.
PEAK_TFLOPS = {
    "B200": 2250, "GB200": 2500, "H200": 989, "H200 NVL": 835, "GH200": 989, "H100": 989,
    "H100 PCIe": 756, "H100 NVL": 835, "H800": 989, "H800 PCIe": 756, "H20": 148, "MI300X": 1307,
    "A100": 312, "A800": 312, "A40": 150, "A30": 165, "A10": 125, "A10G": 70, "L40S": 362,
    "L40": 181, "L4": 121, "T4": 65, "V100 SXM2": 125, "V100 PCIE": 112,
    "RTX 6000 Ada": 364, "RTX A6000": 155, "RTX A5000": 111, "RTX A4500": 95, "RTX A4000": 77,
    "RTX A2000": 32,
    "RTX 5090": 210, "RTX 5080": 113, "RTX 5070 Ti": 88, "RTX 5070": 62, "RTX 5060 Ti": 47,
    "RTX 5060": 38,
    "RTX 4090": 165, "RTX 4080 SUPER": 104, "RTX 4080": 97, "RTX 4070 Ti SUPER": 88,
    "RTX 4070 Ti": 80, "RTX 4070 SUPER": 71, "RTX 4070": 58, "RTX 4060 Ti": 44, "RTX 4060": 30,
    "RTX 3090 Ti": 80, "RTX 3090": 71, "RTX 3080 Ti": 68, "RTX 3080": 60, "RTX 3070 Ti": 43,
    "RTX 3070": 41, "RTX 3060 Ti": 32, "RTX 3060": 25, "RTX 3050": 18,
    "TITAN RTX": 130, "RTX 2080 Ti": 54, "RTX 2080 SUPER": 45, "RTX 2080": 40,
    "RTX 2070 SUPER": 36, "RTX 2070": 30, "RTX 2060 SUPER": 29, "RTX 2060": 26}
# Such a chip, or slice of a chip, is slower than the one that its name begins with.
SLOWER = {"laptop", "max", "mobile", "mig", "d"}


def peak_tflops(name):
    """The peak of a chip by the name that its driver gives; 0 if it is not known.

    A chip in the table matches whole words, and of several the longest one counts: an A4000 is not
    an A40, and an H100 PCIe not an H100.
    """
    def words(text):
        return re.findall(r"\w+", text.lower())

    in_name = words(name)
    if SLOWER & set(in_name):
        return 0
    found = {}
    for chip, tflops in PEAK_TFLOPS.items():
        n = len(words(chip))
        if words(chip) in [in_name[i:i + n] for i in range(len(in_name))]:
            found[n] = tflops
    return found[max(found)] if found else 0


def peak_flops(device, tflops=0.0):
    """Peak FLOP/s of one device: from tflops if given, else from the chip's name; 0 if unknown."""
    if not tflops and device.type == "cuda":
        tflops = peak_tflops(torch.cuda.get_device_name(device))
    return 1e12 * tflops


def measured_flops(device, dtype, n=4096):
    """FLOP/s of a product of two (n, n) matrices on this device: for a chip that has no peak."""
    x = torch.randn(n, n, device=device, dtype=dtype)
    x @ x
    seconds = math.inf
    for _ in range(3):
        start = time.perf_counter()
        # Reading a number waits for the device.
        (x @ x)[0, 0].item()
        seconds = min(seconds, time.perf_counter() - start)
    return 2 * n ** 3 / seconds

# --------------------------------------------------------------------------------------------------
# What a model costs

def shape_of(config):
    """The model without memory for its weights."""
    with torch.device("meta"):
        return GPT(config)


def matrix_weights(config):
    """Number of weights that take part in a matrix product: all except the embedding's table."""
    model = shape_of(config)
    return model.num_params() - model.embed.numel()


def flops_per_token(config):
    """Training FLOPs per token: 6 per matrix weight, and 12 L C T for attention.

    Chowdhery et al. 2022, arXiv:2204.02311, appendix B.
    """
    return 6 * matrix_weights(config) + 12 * config.n_layer * config.n_embd * config.seq_len


def step_bytes(config, rows, world_size=1):
    """Bytes that training takes at its peak, with micro-batches of `rows` rows in bfloat16.

    Uncompiled; compiled it is less. A test compares it with what the tensors of a step take.
    """
    model = shape_of(config)
    # Weights and gradients, float32, and the matrices once more in bfloat16.
    weights = 8 * model.num_params() + 2 * matrix_weights(config)
    # Some float32 logits of one chunk of the loss, and what the blocks keep for the backward pass.
    logits = 5.2 * 4 * 2 * CHUNK * config.vocab_size
    kept = 45 * config.n_layer * config.n_embd * rows * config.seq_len
    return optimizer_bytes(model, world_size) + weights + logits + kept


def expected_bits(n_weights, n_tokens):
    """Bits per byte of web text to expect: the curve of Besiroglu et al. 2024, arXiv:2404.10102.

    It gives nats a token; a token has some 4.6 bytes.
    """
    nats = 1.8172 + 482.01 * n_weights ** -0.3478 + 2085.43 * n_tokens ** -0.3658
    return nats / math.log(2) / 4.6


@dataclass
class Chip:
    """What a plan knows of the GPUs that it is for."""
    name: str
    memory: float                 # bytes that training may take on each GPU
    peak: float                   # FLOP/s of each GPU
    count: int = 1

    @property
    def rate(self):
        """The FLOP/s to expect of all GPUs together, from the kernels of a step and their bytes.

        A GeForce reaches more of its peak, which is low for the speed of its memory.
        """
        share = 0.65 if "RTX" in self.name else 0.45
        return share * self.peak * self.count


def this_chip(env, tflops=0.0):
    """The Chip of a run on GPUs, the same on all ranks: of the one that has or does the least."""
    free, _ = torch.cuda.mem_get_info(env.device)
    peak = peak_flops(env.device, tflops) or measured_flops(env.device, env.dtype)
    least = torch.tensor([-0.9 * free, -peak], dtype=torch.float64, device=env.device)
    memory, peak = (-env.all_max(least)).tolist()
    return Chip(torch.cuda.get_device_name(env.device), memory, peak, env.world_size)


def card(name, gib, count=1):
    """The Chip of a card with so many GiB of which nothing is in use; CUDA itself takes some."""
    return Chip(name, 0.9 * (gib * 2 ** 30 - 5e8), 1e12 * peak_tflops(name), count)


CARDS = [card("RTX 4060", 8), card("RTX 3060", 12), card("Tesla T4", 15), card("RTX 4060 Ti", 16),
         card("RTX 3090", 24), card("RTX 4090", 24), card("RTX 5090", 32), card("A100", 80),
         card("H100", 80), card("H100", 80, 8)]


@dataclass
class Plan:
    """What it takes to pretrain a model."""
    config: object
    params: int
    tokens: float
    rows: int                     # of a micro-batch; 0: not even one fits
    memory: float                 # bytes of each GPU
    hours: float
    bits: float                   # see expected_bits

    @property
    def depth(self):
        return self.config.n_layer

    def __str__(self):
        return (f"depth {self.depth}, {self.params / 1e6:,.0f} M parameters, "
                f"{self.tokens / 1e6:,.0f} M tokens, micro-batches of {self.rows} rows, "
                f"{self.memory / 1e9:.1f} GB, {self.hours:.1f} hours")


def make_plan(config, tokens_per_param, chip):
    """The Plan of a model that gets so many tokens for each matrix weight, on such a chip."""
    n_weights = matrix_weights(config)
    tokens = tokens_per_param * n_weights
    one = step_bytes(config, 1, chip.count)
    most = 1 + (chip.memory - one) / (step_bytes(config, 2, chip.count) - one)
    rows = 0
    if most >= 1:
        _, rows = cut_step(rows_for_step(tokens, config.seq_len), most, chip.count)
    return Plan(config, shape_of(config).num_params(), tokens, rows,
                memory=step_bytes(config, max(1, rows), chip.count),
                hours=tokens * flops_per_token(config) / chip.rate / 3600,
                bits=expected_bits(n_weights, tokens))


def choose_plan(plans, n_tokens, hours):
    """-> the last of some plans that text, memory and time feed, and what the next one lacks.

    plans: from small to large. The first one is chosen also where it lacks something.
    """
    chosen = plans[0]
    for plan in plans:
        lacks = []
        if plan.tokens > n_tokens:
            lacks.append(f"{plan.tokens / 1e6:,.0f} M tokens of text")
        if not plan.rows:
            lacks.append(f"{plan.memory / 1e9:.1f} GB of memory")
        if plan.hours > hours:
            lacks.append(f"{plan.hours:.1f} hours")
        if lacks:
            return chosen, f"depth {plan.depth} takes {' and '.join(lacks)}"
        chosen = plan
    return chosen, ""

# --------------------------------------------------------------------------------------------------
# Whether compiling pays

# Seconds before the first step of every stage; most of it is the work of one thread.
COMPILING = 30
# Dtype on a CPU -> training FLOP/s of a core without compiling, and the share of that time which
# compiling saves. Measured for 8,192 tokens of the demo's model: 1.5 and 0.7 s of a core with
# AVX512-BF16; on two cores of a Xeon that keeps to AVX2, 2.9 and 2.05 s in rows of 512, 2.25 and
# 1.98 s in isolated rows of 256; on two of an EPYC with AVX2, 5 %.
ON_CPU = {torch.float32: (40e9, 0.12), torch.bfloat16: (150e9, 0.5)}


def choose_compile(cfg, stage, n_tokens, model, env):
    """Is the model to be compiled, for a stage that trains on n_tokens? True, False.

    --compile and --no-compile decide; without them, --resume goes on as the run began: compiled
    sums are rounded in another way. A new run compiles on a GPU, and on a CPU if what that saves
    takes longer than compiling.
    """
    wanted = cfg.compile
    if wanted is None and cfg.resume:
        wanted = saved_compile(cfg.out, stage, env)
    if wanted is None:
        wanted = compiling_pays(model.config, n_tokens, env, torch.get_num_threads())
    return wanted and can_compile(env.device)


def saved_compile(out, stage, env):
    """Whether the run that --resume goes on with was compiled; None without such a run."""
    part = find_part(out, stage, env)
    path = part if part.exists() else part.with_suffix("")
    return read_meta(path)["config"].get("compile") if path.exists() else None


def compiling_pays(config, n_tokens, env, n_threads):
    """True if compiling takes less time than it saves in training on n_tokens."""
    if env.device.type != "cpu" or env.dtype not in ON_CPU:
        return True
    rate, saved = ON_CPU[env.dtype]
    seconds = n_tokens * flops_per_token(config) / (rate * n_threads * env.world_size)
    return saved * seconds > COMPILING

# --------------------------------------------------------------------------------------------------
# What --plan prints

def plan_table(plans, hours):
    """A line for each plan; one is marked, if it is what memory and time choose."""
    chosen, limit = choose_plan(plans, math.inf, hours)
    lines = ["depth  parameters      tokens  bits/byte  rows      GB     hours"]
    for plan in plans:
        line = (f"{plan.depth:5} {plan.params / 1e6:9,.0f} M {plan.tokens / 1e6:9,.0f} M "
                f"{plan.bits:10.2f} {plan.rows or 'no':>5} {plan.memory / 1e9:7.1f} "
                f"{plan.hours:9.1f}")
        if plan is chosen and limit:
            line += f"   <- the deepest within --hours {hours:g}"
        lines.append(line)
    return lines


def card_table(plans_for, cards, hours):
    """A Markdown table: for each card the rows of a micro-batch, GB and hours of every other depth.

    plans_for: chip -> the plans of all depths.
    """
    shown = plans_for(cards[0])[::2]
    lines = ["| card | " + " | ".join(f"depth {plan.depth}" for plan in shown)
             + f" | within {hours:g} h |",
             "|---" * (len(shown) + 2) + "|",
             "| tokens, M | " + " | ".join(f"{plan.tokens / 1e6:,.0f}" for plan in shown) + " | |",
             "| bits per byte | " + " | ".join(f"{plan.bits:.2f}" for plan in shown) + " | |"]
    for chip in cards:
        plans = plans_for(chip)
        chosen, _ = choose_plan(plans, math.inf, hours)
        cells = []
        for plan in plans[::2]:
            cell = f"{plan.rows}, {plan.memory / 1e9:.1f}, {plan.hours:.1f}"
            cells.append(cell if plan.rows else "no")
        count = f"{chip.count} x " if chip.count > 1 else ""
        memory = round((chip.memory / 0.9 + 5e8) / 2 ** 30)
        lines.append(f"| {count}{chip.name}, {memory} GB | {' | '.join(cells)} "
                     f"| depth {chosen.depth} |")
    return lines
