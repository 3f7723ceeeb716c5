"""
How fast chat.py generates: time to first token and tokens/s, alone and in batches, beside
transformers.

python tests/bench/generate.py                                   random weights, depth 4
python tests/bench/generate.py --stage out/sft --batch 1,64      a checkpoint
python tests/bench/generate.py --stage out/sft --clients 1,16    the server, all clients together
python tests/bench/generate.py --stage out/sft --clients 1,16 --beside DIR    and another checkout's
python tests/bench/generate.py --depth 20 --vocab_size 65536 --seq_len 2048 --device cuda

Decoding is greedy, every answer has exactly --new_tokens, and both sides have the same weights.
Each number is the median of --repeats runs, after one to warm up. The two sides take turns, so that
a busy machine slows both. The comparison needs `pip install -e '.[test]'`. The last line is JSON.
"""
import http.client
import json
import re
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent.parent))
import torch

from common import GPT, SPECIAL_TOKENS, load_checkpoint
from machine import cpu_features, fail, parse_config, run, setup, versions
from pretrain import init_weights, model_config
from talk.engine import IN_RAW_TEXT, Engine


@dataclass
class Config:
    stage: str = ""               # path of a checkpoint; empty: random weights of --depth
    depth: int = 4                # layers; width is 64 times that
    vocab_size: int = 8192        # of the random model
    seq_len: int = 512            # of the random model
    batch: str = "1,16,64"        # prompts at once, comma-separated
    clients: str = ""             # instead: clients of chat.py --serve, such as 1,16; needs --stage
    beside: str = ""              # with clients: also the server of the checkout in this folder
    prompt_tokens: int = 64       # random ids
    new_tokens: int = 256         # of each answer
    repeats: int = 3              # timed runs of each
    transformers: bool = True     # also run transformers (pip install -e '.[test]')
    threads: int = 0              # of torch; 0: all cores
    device: str = "auto"          # auto, cpu, cuda or mps
    dtype: str = "float32"        # of weights and cache, for both sides: float32 or bfloat16


class NoTokenizer:
    """All that Engine asks of a tokenizer while it continues raw ids."""

    def __init__(self, vocab_size):
        self.vocab_size = vocab_size
        self.specials = {name: vocab_size - len(SPECIAL_TOKENS) + i
                         for i, name in enumerate(SPECIAL_TOKENS)}
        self.special = self.specials.__getitem__


def our_run(model, dtype, vocab_size):
    """Returns a function(prompts, new_tokens) that gives two times in seconds.

    They are the times until every answer has its first token, and its last one.
    """
    engine = Engine(model, NoTokenizer(vocab_size), dtype=dtype)
    # Never <|bos|>, so that every answer has its full length.
    engine.specials[IN_RAW_TEXT] = -torch.inf
    # Do not reuse the prompts of the run before.
    engine.min_shared = 10 ** 9

    def generate(prompts, new_tokens):
        start = time.perf_counter()
        first = None
        generations = [engine.submit(ids, new_tokens, raw=True) for ids in prompts]
        while not all(generation.finish for generation in generations):
            engine.step()
            if first is None and all(generation.answer for generation in generations):
                first = time.perf_counter() - start
        assert all(len(generation.answer) == new_tokens for generation in generations)
        return first, time.perf_counter() - start
    return generate


def transformers_run(model, dtype):
    """The same with Qwen3ForCausalLM.generate.

    The time to the first token is that of a run that generates a single one.
    """
    try:
        from transformers import Qwen3Config, Qwen3ForCausalLM
    except ImportError:
        fail("the comparison needs the package transformers: pip install -e '.[test]', or "
             "--no-transformers")
    from export import model_json, stock_weights
    config = model_json(model.config, NoTokenizer(model.config.vocab_size), "float32")
    reference = Qwen3ForCausalLM(Qwen3Config(**config))
    reference.load_state_dict(stock_weights(model))
    reference.to(model.embed.device, dtype).eval()
    reference.generation_config.eos_token_id = None

    @torch.inference_mode()
    def generate(prompts, new_tokens):
        ids = torch.tensor(prompts, device=model.embed.device)
        seconds = []
        for n in (1, new_tokens):
            start = time.perf_counter()
            out = reference.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=n,
                                     min_new_tokens=n, do_sample=False)
            # Wait for the device.
            out.tolist()
            seconds.append(time.perf_counter() - start)
            assert out.size(1) == ids.size(1) + n
        return seconds
    return generate


def start_server(root, stage):
    """chat.py --serve of the checkout in root -> the process and its port."""
    server = subprocess.Popen([sys.executable, "chat.py", "--serve", "--port", "0",
                               "--stage", Path(stage).resolve()],
                              cwd=root, stdout=subprocess.PIPE, text=True)
    port = re.search(r":(\d+) ", server.stdout.readline())
    if not port:
        fail(f"chat.py --serve --stage {stage} of {root} does not start; its message is above")
    return server, int(port[1])


def time_clients(port, n_clients, new_tokens):
    """Tokens/s of so many clients together, each of which streams a raw continuation."""
    def client(i):
        connection = http.client.HTTPConnection("127.0.0.1", port)
        body = {"prompt": f"number {i} of", "max_tokens": new_tokens, "temperature": 1,
                "seed": i, "stream": True, "stream_options": {"include_usage": True}}
        connection.request("POST", "/v1/completions", json.dumps(body),
                           {"Content-Type": "application/json"})
        events = connection.getresponse().read().split(b"\n\n")
        # The last events are the usage, [DONE] and an empty one.
        usage = json.loads(events[-3].removeprefix(b"data: "))["usage"]
        return usage["completion_tokens"]

    start = time.perf_counter()
    with ThreadPoolExecutor(n_clients) as pool:
        total = sum(pool.map(client, range(n_clients)))
    return total / (time.perf_counter() - start)


def time_server(cfg):
    """Print the tokens/s of all clients together, of this server and of that of --beside.

    The two take turns, and the ratio is the median of the turns' ratios, so that a busy machine
    slows both.
    """
    sides = {"tok2chat": Path(__file__).parent.parent.parent}
    if cfg.beside:
        sides[cfg.beside] = cfg.beside
    servers = {}
    together = {}
    try:
        for side, root in sides.items():
            servers[side] = start_server(root, cfg.stage)
        for n_clients in map(int, cfg.clients.split(",")):
            rates = {side: [] for side in sides}
            # The first run warms up.
            for turn in range(cfg.repeats + 1):
                for side in (list(sides) if turn % 2 else reversed(sides)):
                    rate = time_clients(servers[side][1], n_clients, cfg.new_tokens)
                    rates[side] += [rate] if turn else []
            together[n_clients] = {side: round(statistics.median(runs))
                                   for side, runs in rates.items()}
            for side, rate in together[n_clients].items():
                print(f"{n_clients:3} clients  {side:20}  {rate:9} tokens/s together", flush=True)
            if cfg.beside:
                ratio = statistics.median(ours / theirs for ours, theirs in zip(*rates.values()))
                together[n_clients]["ratio"] = round(ratio, 3)
                print(f"{n_clients:3} clients  ratio {ratio:.3f}", flush=True)
    finally:
        for server, _ in servers.values():
            server.terminate()
            server.wait()
    print(json.dumps(dict(bench="generate", clients=together, **cpu_features(), **versions())))


def load_model(cfg, device):
    """The checkpoint, or a model of random weights."""
    if cfg.stage:
        model, _, _ = load_checkpoint(cfg.stage, device)
        return model
    model = GPT(model_config(cfg.depth, cfg.vocab_size, cfg.seq_len))
    init_weights(model, 0)
    # The zeros of init_weights would do, too, but might take less time to multiply.
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(0, p.size(1) ** -0.5)
    return model.to(device).eval()


def main():
    cfg = parse_config(Config, __doc__)
    if cfg.beside and not (cfg.clients and (Path(cfg.beside) / "chat.py").exists()):
        fail("--beside takes the folder of a checkout, and needs --clients")
    if cfg.clients:
        return time_server(cfg)
    env = setup(cfg.device, cfg.dtype)
    if cfg.threads:
        torch.set_num_threads(cfg.threads)
    model = load_model(cfg, env.device)
    c = model.config
    print(f"torch {versions()['torch']}, {env.device} with {torch.get_num_threads()} threads, "
          f"{cfg.dtype}; depth {c.n_layer}, width {c.n_embd}, vocabulary {c.vocab_size}; "
          f"{cfg.prompt_tokens} prompt + {cfg.new_tokens} new tokens, greedy", flush=True)
    sides = {"tok2chat": our_run(model, env.dtype, c.vocab_size)}
    if cfg.transformers:
        their_run = transformers_run(model, env.dtype)
        import transformers
        sides[f"transformers {transformers.__version__}"] = their_run
    results = []
    for B in map(int, cfg.batch.split(",")):
        prompts = torch.randint(0, c.vocab_size - len(SPECIAL_TOKENS), (B, cfg.prompt_tokens),
                                generator=torch.Generator().manual_seed(0)).tolist()
        times = {name: [] for name in sides}
        for generate in sides.values():
            generate(prompts, min(8, cfg.new_tokens))
        for _ in range(cfg.repeats):
            for name, generate in sides.items():
                times[name].append(generate(prompts, cfg.new_tokens))
        rates = {}
        for name, runs in times.items():
            first, total = (statistics.median(column) for column in zip(*runs))
            rates[name] = B * cfg.new_tokens / total
            results.append(dict(side=name, batch=B, first_ms=round(1e3 * first, 1),
                                tok_per_sec=round(rates[name])))
            print(f"batch {B:3}  {name:20}  first token {1e3 * first:7.1f} ms  "
                  f"{rates[name]:9.0f} tokens/s", flush=True)
        if len(rates) == 2:
            ours, theirs = rates.values()
            print(f"batch {B:3}  ratio {ours / theirs:.2f}", flush=True)
    print(json.dumps(dict(
        bench="generate", results=results, device=str(env.device), **cpu_features(),
        threads=torch.get_num_threads(), dtype=cfg.dtype, prompt_tokens=cfg.prompt_tokens,
        new_tokens=cfg.new_tokens, **asdict(c), **versions())))


if __name__ == "__main__":
    run(main)
