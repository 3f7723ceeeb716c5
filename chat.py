"""
Talk to any checkpoint. Reads out/<stage>/ and out/tokenizer/.

terminal     python chat.py                         the last stage in out/ (--stage sft for another)
one answer   python chat.py -p "How many r are in strawberry?"       (-p - reads standard input)
browser      python chat.py --serve                 http://127.0.0.1:8000, and the OpenAI protocol
a file       python chat.py --batch prompts.jsonl --output answers.jsonl
raw text     python chat.py --stage pretrain --base -p "def main("   continues the text

The inference engine is in talk/engine.py, what the terminal shows in talk/terminal.py, the server
in talk/server.py.
"""
import sys
from dataclasses import asdict, dataclass, fields

from common import find_checkpoint, load_checkpoint
from machine import parse_config, run, setup
from talk.engine import Engine, Sampling
from talk.server import serve
from talk.terminal import batch, one_answer, terminal


@dataclass
class Config:
    out: str = "out"              # folder where the stages find each other
    stage: str = ""               # name of a stage or path of a checkpoint; empty: the last stage
    prompt: str = ""              # answer this prompt and exit, also as -p; - reads standard input
    base: bool = False            # continue raw text instead of answering
    system: str = ""              # a system message
    batch: str = ""               # .jsonl file: answer the "prompt" or "messages" of each line
    output: str = ""              # .jsonl file for the answers of --batch; a second run resumes it
    max_tokens: int = 512         # of each answer, tool outputs included
    temperature: float = 0.3      # 0: the likeliest token; small models miscopy digits above 0.5
    top_k: int = 0                # only the k likeliest tokens, 0: all
    top_p: float = 0.95           # only the likeliest tokens that together have this probability
    min_p: float = 0.0            # only tokens at least this times as likely as the likeliest
    repetition_penalty: float = 1.0   # above 1: tokens of the text so far become less likely
    seed: int = 0                 # the same seed gives the same answers
    max_rows: int = 64            # answers decoded at once; each takes memory for its keys
    serve: bool = False           # open a chat page and the OpenAI protocol on http://HOST:PORT
    host: str = "127.0.0.1"       # address to listen on; 0.0.0.0: every network of this machine
    port: int = 8000              # 0: any free one
    api_key: str = ""             # clients must send Authorization: Bearer KEY; empty: nothing
    allow_host: str = ""          # further names of this machine besides localhost, comma-separated
    max_queue: int = 128          # answers running or waiting at once; further ones get status 429
    time_limit: float = 120.0     # seconds until an answer of --serve is cut off
    device: str = "auto"          # auto, cpu, cuda or mps
    compile: bool = True          # decode.c where there is a C compiler, CUDA graphs on a GPU
    dtype: str = "auto"           # float32, bfloat16; auto: float32 on a CPU, else what is fastest


def main():
    argv = sys.argv[1:]
    # -p PROMPT becomes one argument, so that a prompt may begin with a dash.
    if "-p" in argv[:-1]:
        i = argv.index("-p")
        argv[i:i + 2] = [f"--prompt={argv[i + 1]}"]
    cfg = parse_config(Config, __doc__, argv)
    path = find_checkpoint(cfg.out, cfg.stage)
    sampling = Sampling(**{field.name: getattr(cfg, field.name) for field in fields(Sampling)})
    env = setup(cfg.device, cfg.dtype)
    model, tok, _ = load_checkpoint(path, env.device)
    model.compute_dtype = env.dtype
    dtype = None if cfg.dtype == "auto" else env.dtype
    engine = Engine(model, tok, cfg.max_rows, dtype, cfg.compile)
    # A terminal that lacks a character shows ? instead.
    sys.stdout.reconfigure(errors="replace")
    if cfg.serve:
        serve(engine, tok, cfg, asdict(sampling), path.name)
    elif cfg.batch:
        batch(engine, tok, cfg, sampling, str(path))
    elif cfg.base or cfg.prompt:
        one_answer(engine, tok, cfg, sampling)
    else:
        title = (f"{path}: {model.num_params() / 1e6:.1f} million parameters, "
                 f"context {engine.max_len} tokens, on {env.device}")
        terminal(engine, tok, cfg, sampling, title)


if __name__ == "__main__":
    run(main)
