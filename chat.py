"""
Talk to any checkpoint. Reads out/<stage>/ and out/tokenizer/.

terminal     python chat.py                         the last stage in out/ (--stage sft for another)
one answer   python chat.py "How many r are in strawberry?"        -p "..." where it begins with -
             python chat.py -p "What does it do?" < notes.txt       joins both
browser      python chat.py --serve                 http://127.0.0.1:8000, and the OpenAI protocol
a file       python chat.py --batch prompts.jsonl --output answers.jsonl    - is stdin or stdout
raw text     python chat.py --stage pretrain --base -p "def main("   continues the text

The inference engine is in talk/engine.py, what the terminal shows in talk/terminal.py, the server
in talk/server.py.
"""
import ctrl_c

import hashlib
import os
import sys
from collections import Counter
from dataclasses import asdict, dataclass, fields

from common import find_checkpoint, load_checkpoint
from data.conversations import read_prompts, say_ignored
from data.formats import ignored_fields
from machine import lock, parse_config, run, setup
from talk.engine import Engine, Sampling
from talk.server import serve
from talk.terminal import IDS, batch, one_answer, read_prompt, terminal


@dataclass
class Config:
    out: str = "out"              # folder where the stages find each other
    stage: str = ""               # name of a stage or path of a checkpoint; empty: the last stage
    prompt: str = ""              # answer this and exit, also as -p or bare; a pipe comes before it
    base: bool = False            # continue raw text instead of answering
    system: str = ""              # a system message
    batch: str = ""               # file of prompts or conversations, or - for lines: answer each
    output: str = ""              # .jsonl file, or -: answers of --batch; a second run resumes it
    max_tokens: int = 512         # of each answer, tool outputs included
    temperature: float = 0.3      # 0: the likeliest token; small models miscopy digits above 0.5
    top_k: int = 0                # only the k likeliest tokens, 0: all
    top_p: float = 0.95           # only the likeliest tokens that together have this probability
    min_p: float = 0.0            # only tokens at least this times as likely as the likeliest
    repetition_penalty: float = 1.0   # above 1: tokens of the text so far become less likely
    presence_penalty: float = 0.0     # above 0: tokens that the answer has become less likely
    frequency_penalty: float = 0.0    # the same, the more often it has them, the less
    seed: int = 0                 # the same seed gives the same answers
    max_rows: int = 64            # answers decoded at once; each takes memory for its keys
    serve: bool = False           # open a chat page and the OpenAI protocol on http://HOST:PORT
    host: str = "127.0.0.1"       # address to listen on; 0.0.0.0: every network of this machine
    port: int = 8000              # 0: any free one
    api_key: str = ""             # clients must send Authorization: Bearer KEY; empty: nothing
    allow_host: str = ""          # further names of this machine besides localhost, comma-separated
    allow_origin: str = ""        # sites whose pages may use --serve, comma-separated, or * for all
    max_queue: int = 128          # answers running or waiting at once; further ones get status 429
    max_models: int = 3           # stages of --serve in memory at once; the least used makes room
    time_limit: float = 120.0     # seconds until an answer of --serve is cut off
    device: str = "auto"          # auto, cpu, cuda or mps
    compile: bool = True          # decode.c where there is a C compiler, CUDA graphs on a GPU
    dtype: str = "auto"           # float32, bfloat16; auto: float32 on a CPU, else what is fastest


def take_prompt(argv):
    """Split the command line into the prompt, None if there is none, and the flags.

    The prompt stands behind -p or --prompt, where it may begin with a dash, or alone: every word
    that is neither a flag nor the value of one belongs to it, and so does everything after --.
    """
    no_value = {"-h", "--help"}
    for field in fields(Config):
        if field.type is bool:
            no_value |= {f"--{field.name}", f"--no-{field.name}"}
    words = []
    flags = []
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if word in ("-p", "--prompt"):
            if not rest:
                raise ValueError(f"{word}: expected a prompt behind it")
            words.append(rest.pop(0))
        elif word.startswith("--prompt="):
            words.append(word.removeprefix("--prompt="))
        elif word == "--":
            words += rest
            break
        elif word == "-" or not word.startswith("-"):
            words.append(word)
        else:
            flags.append(word)
            if "=" not in word and word not in no_value:
                flags += rest[:1]
                rest = rest[1:]
    return " ".join(words) if words else None, flags


def say_what_is_ignored(rows):
    """Name the fields of the rows of --batch that nothing reads, such as answers, on stderr."""
    ignored = [ignored_fields(row, need_answer=False) - set(IDS) for _, _, row in rows]
    names = Counter(name for names in ignored for name in names)
    if names:
        print(say_ignored(names, sum(map(bool, ignored))), file=sys.stderr)


def main():
    prompt, flags = take_prompt(sys.argv[1:])
    cfg = parse_config(Config, __doc__, flags)
    if cfg.port > 65535:
        raise ValueError(f"--port {cfg.port}: expected 0 to 65535")
    if cfg.max_models < 1:
        raise ValueError(f"--max_models {cfg.max_models}: expected 1 or more")
    if cfg.max_rows < 1:
        raise ValueError(f"--max_rows {cfg.max_rows}: expected 1 or more")
    path = find_checkpoint(cfg.out, cfg.stage)
    # A terminal that lacks a character shows ? instead, and a byte that is no UTF-8 is replaced.
    sys.stdout.reconfigure(errors="replace")
    sys.stdin.reconfigure(errors="replace")
    if cfg.serve and cfg.batch:
        raise ValueError("--serve and --batch: choose one of them")
    if cfg.serve or cfg.batch:
        if prompt is not None:
            raise ValueError(f"{prompt!r}: --serve and --batch take no prompt")
    else:
        prompt = read_prompt(prompt, cfg.base)
    # machine.run() has opened this in place of a standard output that was closed.
    if sys.stdout.name == os.devnull and not cfg.serve and cfg.output in ("", "-"):
        raise ValueError("standard output is closed, so there is nowhere to show an answer")
    sampling = Sampling(**{field.name: getattr(cfg, field.name) for field in fields(Sampling)})
    env = setup(cfg.device, cfg.dtype)

    def load(path):
        """The model of a checkpoint, and its Engine."""
        model, tok, _ = load_checkpoint(path, env.device)
        model.compute_dtype = env.dtype
        dtype = None if cfg.dtype == "auto" else env.dtype
        return model, Engine(model, tok, cfg.max_rows, dtype, cfg.compile)

    if cfg.serve:
        # This loads what is asked for, and drops what is not.
        serve(lambda path: load(path)[1], path, cfg, asdict(sampling))
        return
    if cfg.batch:
        # What is wrong with the file is said before the model is loaded.
        if not cfg.output:
            raise ValueError("--batch needs --output FILE for the answers, or - for stdout")
        if cfg.output != "-":
            lock(cfg.output, "--output")
        rows = list(read_prompts(cfg.batch, cfg.system))
        if not rows:
            raise ValueError(f"{cfg.batch}: no prompt in here")
        say_what_is_ignored(rows)
        with open(path / "model.pt", "rb") as file:
            weights = hashlib.file_digest(file, "sha256").hexdigest()
    model, engine = load(path)
    tok = engine.tok
    if cfg.batch:
        batch(engine, tok, cfg, sampling, rows, weights)
    elif prompt is not None:
        one_answer(engine, tok, cfg, sampling, prompt)
    else:
        title = (f"{path}: {model.num_params() / 1e6:.1f} million parameters, "
                 f"context {engine.max_len} tokens, on {env.device}")
        terminal(engine, tok, cfg, sampling, title)


if __name__ == "__main__":
    run(main, less_memory="--max_rows or --max_tokens")
