"""
The checks of first_hour.py that need one process: numbers, graphs, memory, kernels.

Each is a generator of results: name(cfg, folder), with the Config of first_hour.py and an empty
folder to work in.
"""
import json
import re
import time
from types import SimpleNamespace

import torch
from results import judge, skipped

from common import GPT, SPECIAL_TOKENS, generate, isolation
from machine import Env, setup
from pretrain import init_weights, model_config
from talk.engine import IN_RAW_TEXT, Engine
from train.optimizer import Optimizer
from train.run import rows_that_fit


def new_model(config, env, random=True):
    """A model on the device. random: no weights are 0, which would hide half of the model."""
    model = GPT(config)
    init_weights(model, 0)
    if random:
        rng = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for p in model.parameters():
                p.copy_(torch.randn(p.shape, generator=rng) * p.size(1) ** -0.5)
    model.to(env.device).compute_dtype = env.dtype
    return model


def random_rows(config, rows, env):
    """ids (rows, T + 1) of documents of 50 tokens."""
    ids = torch.randint(0, config.bos, (rows, config.seq_len + 1),
                        generator=torch.Generator().manual_seed(1))
    ids[:, ::50] = config.bos
    return ids.to(env.device)


# --------------------------------------------------------------------------------------------------
# Part 1: the numbers

def gradients(function, model, ids, dtype, isolate, reduction="sum"):
    """-> the mean loss, and the gradient of all weights as one vector on the CPU."""
    model.compute_dtype = dtype
    model.zero_grad()
    targets = ids[:, 1:]
    isolate = isolate and isolation(ids[:, :-1])
    loss = function(ids[:, :-1], targets, reduction, isolate).sum() / targets.numel()
    # A power of two, which keeps the gradients within the range of float16.
    scale = 2.0 ** 12
    (loss * scale).backward()
    flat = torch.cat([p.grad.flatten() for p in model.parameters()])
    return loss.item(), flat.double().cpu() / scale


def numbers(cfg, folder):
    """Loss and gradients on the device, against plain float32 on the CPU."""
    # Not from setup(), whose settings for a CPU would hold for the GPU as well.
    cpu = Env(torch.device("cpu"), torch.float32)
    env = setup(cfg.device)
    # The second length is 64 mod 128, where masked attention has given NaN (pytorch#196678).
    for T in [64] if cfg.tiny else [2048, 704]:
        config = model_config(1 if cfg.tiny else 4, 512 if cfg.tiny else 8192, T)
        reference = new_model(config, cpu)
        model = new_model(config, env)
        ids = random_rows(config, 2 if cfg.tiny else 4, cpu)
        for isolate in False, True:
            loss, grad = gradients(reference, reference, ids, torch.float32, isolate)
            # After eight graphs of one function torch.compile would go on without compiling.
            torch._dynamo.reset()
            compiled = torch.compile(model, dynamic=False)
            runs = [(torch.float32, model, "plain", "sum"),
                    (env.dtype, model, "per token", "none"),
                    (env.dtype, compiled, "compiled", "sum"),
                    (torch.float16, compiled, "compiled", "sum")]
            # Compiling takes a CPU the longest.
            if cfg.tiny:
                runs = runs[:3 if isolate else 2]
            for dtype, function, how, reduction in runs:
                ours, our_grad = gradients(function, model, ids.to(env.device), dtype, isolate,
                                           reduction)
                what = (f"{str(dtype)[6:]}, T {T}, {'isolate' if isolate else 'causal'}, {how}: "
                        f"relative error of the")
                limit = {torch.float32: 1e-3, torch.float16: 5e-3}.get(dtype, 2e-2)
                error = ((our_grad - grad).norm() / grad.norm()).item()
                yield judge(f"{what} loss", abs(ours - loss) / loss, "<=", 1e-3)
                yield judge(f"{what} gradients", error, "<=", limit)


def decoding(cfg, folder):
    """The engine, with its cache and CUDA graphs, gives the ids of the plain generate()."""
    env = setup(cfg.device, "float32")
    config = model_config(2 if cfg.tiny else 8, 512, 64 if cfg.tiny else 512)
    model = new_model(config, env).eval()
    # Neither side then likes a special token best.
    with torch.no_grad():
        model.head[config.bos:] = 0
    # All that Engine asks of a tokenizer while it continues raw ids.
    specials = {name: config.bos + i for i, name in enumerate(SPECIAL_TOKENS)}
    tok = SimpleNamespace(specials=specials, special=specials.get, vocab_size=config.vocab_size)
    engine = Engine(model, tok, dtype=torch.float32)
    engine.specials[IN_RAW_TEXT] = -torch.inf
    n = config.seq_len // 4
    ids = random_rows(config, 5, env).tolist()
    prompts = [row[1:2 + 7 * i] for i, row in enumerate(ids)]
    generations = [engine.submit(prompt, n, raw=True) for prompt in prompts]
    while not all(generation.finish for generation in generations):
        engine.step()
    equal = [generation.answer == generate(model, prompt, n)
             for generation, prompt in zip(generations, prompts)]
    yield judge(f"answers of {n} ids like those of generate(), of 5", sum(equal), "==", 5)

# --------------------------------------------------------------------------------------------------
# Part 2: one graph, and the memory

def graphs(cfg, folder):
    """Ten optimizer steps: nothing breaks a graph, and nothing is compiled again."""
    from torch._dynamo.utils import counters
    env = setup(cfg.device)
    config = model_config(2 if cfg.tiny else 4, 512, 64 if cfg.tiny else 2048)
    for isolate in False, True:
        torch._dynamo.reset()
        counters.clear()
        model = new_model(config, env, random=False)
        compiled = torch.compile(model, dynamic=False)
        optimizer = Optimizer(model, env, 0.02, 0.3, 0.008, 0.0, compile=env.device.type == "cuda")
        ids = random_rows(config, 2, env)
        after = []
        for step in range(10):
            documents = isolate and isolation(ids[:, :-1])
            loss = compiled(ids[:, :-1], ids[:, 1:], isolate=documents) / ids.numel()
            (loss * optimizer.loss_scale.factor).backward()
            norm = optimizer.step((10 - step) / 10, 0.85 + step / 100).item()
            # As the stages do it, between the steps.
            if step % 4 == 0:
                with torch.no_grad():
                    model(ids[:1, 1:], ids[:1, 1:], reduction="none", isolate=isolate)
            after.append(counters["stats"]["unique_graphs"])
        what = "isolate" if isolate else "causal"
        yield judge(f"{what}: graph breaks", sum(counters["graph_break"].values()), "==", 0)
        yield judge(f"{what}: graphs in the first two steps", after[1], ">=", 1)
        yield judge(f"{what}: graphs in eight more steps", after[-1] - after[1], "==", 0)
        yield judge(f"{what}: gradient norm after ten steps", norm, "<=", 1e4)


def memory(cfg, folder):
    """Rows that are said to fit do fit, and use what is there."""
    env = setup(cfg.device)
    if env.device.type != "cuda":
        yield skipped("peak of the rows that fit / free memory", "there is no GPU")
        return
    config = model_config(2, 512, 64) if cfg.tiny else model_config(12, 32768, 2048)
    model = new_model(config, env, random=False)
    free, _ = torch.cuda.mem_get_info()
    rows = rows_that_fit(model, env)
    optimizer = Optimizer(model, env, 0.02, 0.3, 0.008, 0.0, compile=True)
    ids = random_rows(config, rows, env)
    torch.cuda.reset_peak_memory_stats()
    compiled = torch.compile(model, dynamic=False)
    for _ in range(2):
        loss = compiled(ids[:, :-1], ids[:, 1:], isolate=isolation(ids[:, :-1])) / ids.numel()
        (loss * optimizer.loss_scale.factor).backward()
        optimizer.step(1.0, 0.95)
    share = torch.cuda.max_memory_allocated() / free
    toy = "toy size" if cfg.tiny else ""
    yield judge(f"peak of {rows} rows / free memory", share, "<=", 0.95, toy)
    yield judge(f"peak of {rows} rows / free memory", share, ">=", 0.5, toy)

# --------------------------------------------------------------------------------------------------
# Part 4: where the time goes

# Kinds of kernels and their names; the first that fits counts. What Inductor fuses is named after
# its neighbours, too, so that such a kernel may have "attention" or "mm" in its name.
KINDS = [("elementwise", r"^triton_(poi|red|per)"),
         ("attention", r"flash|fmha|attention|sdpa|dot_product"),
         ("matmul", r"gemm|cutlass|nvjet|xmma|cublas|mm\b|matmul|linear"),
         ("elementwise", "")]


def kernel_seconds(trace, categories):
    """The seconds of each kind of kernel in a trace of torch.profiler, a Chrome trace as a dict."""
    seconds = {kind: 0.0 for kind, _ in KINDS}
    for event in trace["traceEvents"]:
        if event.get("cat") in categories:
            kind = next(kind for kind, names in KINDS
                        if re.search(names, event["name"], re.I))
            seconds[kind] += event["dur"] / 1e6
    return seconds


def profile(cfg, folder):
    """Where the time of a step goes. The limits are guesses."""
    env = setup(cfg.device)
    on_gpu = env.device.type == "cuda"
    config = model_config(2, 512, 64) if cfg.tiny else model_config(20, 32768, 2048)
    model = new_model(config, env, random=False)
    compiled = model if cfg.tiny else torch.compile(model, dynamic=False)
    rows = 2 if cfg.tiny else min(16, rows_that_fit(model, env))
    optimizer = Optimizer(model, env, 0.02, 0.3, 0.008, 0.0, compile=on_gpu and not cfg.tiny)
    ids = random_rows(config, rows, env)
    # A CPU has no kernels; its operators contain each other, and are counted more than once.
    categories = {"kernel", "gpu_memcpy", "gpu_memset"} if on_gpu else {"cpu_op"}

    def micro_batch():
        loss = compiled(ids[:, :-1], ids[:, 1:]) / ids.numel()
        (loss * optimizer.loss_scale.factor).backward()

    def traced(function):
        """-> the seconds that the function takes, and those of each kind of kernel."""
        with torch.profiler.profile() as profiler:
            start = time.perf_counter()
            function()
            next(model.parameters()).sum().item()
            seconds = time.perf_counter() - start
        path = folder / "trace.json"
        profiler.export_chrome_trace(str(path))
        return seconds, kernel_seconds(json.loads(path.read_text()), categories)

    for _ in range(3):
        micro_batch()
        optimizer.step(1.0, 0.95)
    micro_seconds, kinds = traced(micro_batch)
    step_seconds, of_optimizer = traced(lambda: optimizer.step(1.0, 0.95))
    # A whole step has 524,288 tokens.
    n = max(1, 524288 // (rows * config.seq_len))
    whole = n * micro_seconds + step_seconds
    shares = {kind: n * seconds / whole for kind, seconds in kinds.items()}
    shares["optimizer"] = step_seconds / whole
    busy = n * sum(kinds.values()) + sum(of_optimizer.values())
    shares["gaps"] = 1 - busy / whole
    shares["matmul and attention"] = shares.pop("matmul") + shares.pop("attention")
    limits = {"matmul and attention": (">=", 0.6), "elementwise": ("<=", 0.3),
              "optimizer": ("<=", 0.1), "gaps": ("<=", 0.05)}
    for name, limit in limits.items():
        yield judge(f"share of {name}", shares[name], *limit, "toy size" if cfg.tiny else "")
