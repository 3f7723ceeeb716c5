"""
Talk to any checkpoint: reads out/<stage>/ and out/tokenizer/. Home of the inference engine that all other scripts use.

terminal     python chat.py                         the last stage in out/ (or --stage sft, or --stage path/to/folder)
one answer   python chat.py -p "How many r are in strawberry?"       (-p - reads the prompt from standard input)
browser      python chat.py --serve                 a page on http://127.0.0.1:8000 and the OpenAI protocol
a file       python chat.py --batch prompts.jsonl --output answers.jsonl
raw text     python chat.py --stage pretrain --base -p "def main("      continue text instead of answering

In this file: sampling, the engine, the parts of an answer. The model's arithmetic is in decode.py, the calculator that
the model may call in tool.py, what the terminal shows in terminal.py, the server in serve.py.
Sizes in shape comments: B rows of the batch, T tokens, C channels (n_embd), H heads, D head size, V vocabulary.
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
    stage: str = ""               # pretrain, midtrain, sft, dpo, distill or the path of a checkpoint; empty: the last
    prompt: str = ""              # answer this one prompt and exit, also as -p PROMPT; - reads standard input
    base: bool = False            # continue raw text instead of answering
    system: str = ""              # a system message
    batch: str = ""               # .jsonl file: answer each line's "prompt" or "messages", as many at once as fit
    output: str = ""              # .jsonl file for the answers of --batch, in order; run again, it goes on where it was
    max_tokens: int = 512         # of each answer, tool outputs included
    temperature: float = 0.3      # 0: always the likeliest token; small models miscopy digits above 0.5
    top_k: int = 0                # only the k likeliest tokens, 0: all
    top_p: float = 0.95           # only the likeliest tokens that together have this probability
    min_p: float = 0.0            # only tokens at least this times as likely as the likeliest
    repetition_penalty: float = 1.0   # above 1: tokens that stand in the text already become less likely
    seed: int = 0                 # the same seed gives the same answers
    max_rows: int = 64            # answers that --batch and --serve decode at once; each takes memory for its keys
    serve: bool = False           # open a chat page and the OpenAI protocol on http://HOST:PORT
    host: str = "127.0.0.1"       # address to listen on; 0.0.0.0: every network of this machine
    port: int = 8000              # 0: any free one
    api_key: str = ""             # what clients of --serve must send as Authorization: Bearer KEY; empty: nothing
    allow_host: str = ""          # names, comma-separated, by which --serve may be reached besides localhost
    max_queue: int = 128          # answers running or waiting at once; further requests get status 429
    time_limit: float = 120.0     # seconds until an answer of --serve is cut off
    device: str = "auto"          # auto, cpu, cuda or mps
    compile: bool = True          # use decode.c where there is a C compiler, CUDA graphs on a GPU
    dtype: str = "auto"           # float32 or bfloat16; auto: float32 on a CPU, else what the hardware does fastest


def main():
    argv = sys.argv[1:]
    if "-p" in argv[:-1]:                                            # one token, so that a prompt may begin with a dash
        i = argv.index("-p")
        argv[i:i + 2] = [f"--prompt={argv[i + 1]}"]
    cfg = parse_config(Config, __doc__, argv)
    path = find_checkpoint(cfg.out, cfg.stage)
    sampling = Sampling(**{f.name: getattr(cfg, f.name) for f in fields(Sampling)})
    env = setup(cfg.device, cfg.dtype)
    model, tok, _ = load_checkpoint(path, env.device)
    model.compute_dtype = env.dtype
    engine = Engine(model, tok, cfg.max_rows, None if cfg.dtype == "auto" else env.dtype, cfg.compile)
    sys.stdout.reconfigure(errors="replace")                            # a terminal that can't show a character shows ?
    if cfg.serve:
        serve(engine, tok, cfg, asdict(sampling), path.name)
    elif cfg.batch:
        batch(engine, tok, cfg, sampling, str(path))
    elif cfg.base or cfg.prompt:
        one_answer(engine, tok, cfg, sampling)
    else:
        terminal(engine, tok, cfg, sampling, f"{path}: {model.num_params() / 1e6:.1f} million parameters, context "
                                             f"{engine.max_len} tokens, on {env.device}")


if __name__ == "__main__":
    run(main)
