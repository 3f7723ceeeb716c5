"""
Time our BPE trainer beside rustbpe and Hugging Face tokenizers: whole processes, from the file to
the tokens.

python tests/bench/tokenizer.py --data prose.jsonl [--vocab_size 32768] [--repeat 3]
                                [--trainers ours ours-1 rustbpe]

--data is a .jsonl file (one document a line, field "text") or plain text (blank lines end
documents). All trainers read it with the same few lines of Python. They take turns, so that a busy
moment of the machine hits all alike. Needs pip install -e '.[test]'.

Each run is reported on stderr, and the medians on stdout, as JSON: the seconds of the whole
process; the processor time (user and system, all cores), which other work on the machine falsifies
less; and the peak memory in MB.
"""
import argparse
import hashlib
import importlib.metadata
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
# Special tokens in the vocabulary; the trainers are asked for the rest.
N_SPECIAL = 9


def documents(path):
    with open(path, encoding="utf-8") as f:
        if path.endswith(".jsonl"):
            yield from (json.loads(line)["text"] for line in f)
            return
        lines = []
        for line in f:
            lines.append(line)
            if line == "\n":
                yield "".join(lines)
                lines = []
        yield "".join(lines)


def train(trainer, path, n_tokens):
    """-> list of tokens in rank order. Imports happen here, since their time counts, too."""
    # `import tokenizer` must find the one in the root, not this file.
    sys.path[0] = str(ROOT)
    if trainer.startswith("ours"):
        from tokenizer import train_bpe
        return train_bpe(documents(path), n_tokens, processes=int(trainer[5:] or 0) or None)
    from tokenizer import SPLIT_PATTERN
    if trainer == "rustbpe":
        import rustbpe
        tok = rustbpe.Tokenizer()
        tok.train_from_iterator(documents(path), n_tokens, pattern=SPLIT_PATTERN)
        return [bytes(token) for token, _ in sorted(tok.get_mergeable_ranks(),
                                                    key=lambda item: item[1])]
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(SPLIT_PATTERN), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=n_tokens, show_progress=False, min_frequency=0,
                                  initial_alphabet=alphabet)
    tok.train_from_iterator(documents(path), trainer)
    # In GPT-2's spelling of bytes; these tokens are not compared.
    return sorted(tok.get_vocab(), key=tok.get_vocab().get)


def cpu_seconds():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main():
    cli = argparse.ArgumentParser(description=__doc__,
                                  formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--data", required=True, help="a .jsonl or text file")
    cli.add_argument("--vocab_size", type=int, default=32768,
                     help="with the nine special tokens, as in tokenizer.py")
    cli.add_argument("--repeat", type=int, default=3)
    cli.add_argument("--trainers", nargs="+", default=["ours", "ours-1", "rustbpe", "tokenizers"],
                     help="ours-N is ours in N processes")
    cli.add_argument("--worker", help=argparse.SUPPRESS)
    args = cli.parse_args()
    n_tokens = args.vocab_size - N_SPECIAL
    if args.worker:
        tokens = train(args.worker, args.data, n_tokens)
        # The peak of this process and that of its largest child; macOS counts bytes, Linux KiB.
        used = [resource.getrusage(who).ru_maxrss
                for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        digest = hashlib.sha256(repr(tokens).encode()).hexdigest()
        peak = round(sum(used) / (1 << 20 if sys.platform == "darwin" else 1 << 10))
        print(json.dumps({"n_tokens": len(tokens), "sha256": digest, "peak_mb": peak}))
        return

    runs = {trainer: [] for trainer in args.trainers}
    for i in range(args.repeat):
        for trainer in args.trainers:
            start, cpu = time.perf_counter(), cpu_seconds()
            out = subprocess.run([sys.executable, __file__, "--worker", trainer,
                                  "--data", args.data, "--vocab_size", str(args.vocab_size)],
                                 stdout=subprocess.PIPE, check=True).stdout
            seconds, cpu = round(time.perf_counter() - start, 2), round(cpu_seconds() - cpu, 2)
            run = json.loads(out) | {"seconds": seconds, "cpu_seconds": cpu}
            runs[trainer].append(run)
            print(f"{trainer:<12} {seconds:8.2f} s, {cpu:8.2f} s of processor time, "
                  f"{run['peak_mb']:6} MB", file=sys.stderr)
    versions = {name: importlib.metadata.version(name)
                for name in ("numpy", "regex", "rustbpe", "tokenizers")}
    results = {trainer: {"seconds": statistics.median(run["seconds"] for run in of),
                         "cpu_seconds": statistics.median(run["cpu_seconds"] for run in of),
                         "all": [[run["seconds"], run["cpu_seconds"]] for run in of],
                         "peak_mb": max(run["peak_mb"] for run in of),
                         "n_tokens": of[0]["n_tokens"], "sha256": of[0]["sha256"]} for trainer, of in runs.items()}
    # tokenizers is left out: it breaks ties in another way.
    exact = {run["sha256"] for trainer, of in runs.items() if trainer != "tokenizers"
             for run in of}
    print(json.dumps({
        "data": Path(args.data).name, "bytes": os.path.getsize(args.data),
        "vocab_size": args.vocab_size,
        "cores": (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity")
                  else os.cpu_count()),
        "python": platform.python_version(), "versions": versions, "results": results,
        "ours_and_rustbpe_equal": len(exact) == 1}, indent=1))
    if len(exact) > 1:
        sys.exit("ours and rustbpe trained different tokens")


if __name__ == "__main__":
    main()
