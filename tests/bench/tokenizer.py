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
    from tokenizer import SPLIT_PATTERN, train_bpe
    if trainer.startswith("ours"):
        return train_bpe(documents(path), n_tokens, processes=int(trainer[5:] or 0) or None)
    if trainer == "rustbpe":
        import rustbpe
        tok = rustbpe.Tokenizer()
        tok.train_from_iterator(documents(path), n_tokens, pattern=SPLIT_PATTERN)
        ranks = sorted(tok.get_mergeable_ranks(), key=lambda item: item[1])
        return [bytes(token) for token, _ in ranks]
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(SPLIT_PATTERN), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    bpe_trainer = trainers.BpeTrainer(
        vocab_size=n_tokens, show_progress=False, min_frequency=0,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tok.train_from_iterator(documents(path), bpe_trainer)
    # In GPT-2's spelling of bytes; these tokens are not compared.
    return sorted(tok.get_vocab(), key=tok.get_vocab().get)


def cpu_seconds():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def worker(args):
    """Train in this process, and print what the parent process wants to know, as JSON."""
    tokens = train(args.worker, args.data, args.vocab_size - N_SPECIAL)
    # The peak of this process and that of its largest child; macOS counts bytes, Linux KiB.
    peaks = [resource.getrusage(who).ru_maxrss
             for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    mb = 1 << 20 if sys.platform == "darwin" else 1 << 10
    print(json.dumps({"n_tokens": len(tokens),
                      "sha256": hashlib.sha256(repr(tokens).encode()).hexdigest(),
                      "peak_mb": round(sum(peaks) / mb)}))


def timed_run(trainer, args):
    """Run one trainer in a process of its own -> what it printed, and its times."""
    start = time.perf_counter()
    cpu = cpu_seconds()
    out = subprocess.run([sys.executable, __file__, "--worker", trainer, "--data", args.data,
                          "--vocab_size", str(args.vocab_size)],
                         stdout=subprocess.PIPE, check=True).stdout
    run = json.loads(out)
    run["seconds"] = round(time.perf_counter() - start, 2)
    run["cpu_seconds"] = round(cpu_seconds() - cpu, 2)
    print(f"{trainer:<12} {run['seconds']:8.2f} s, {run['cpu_seconds']:8.2f} s of processor time, "
          f"{run['peak_mb']:6} MB", file=sys.stderr)
    return run


def summary(runs):
    return {"seconds": statistics.median(run["seconds"] for run in runs),
            "cpu_seconds": statistics.median(run["cpu_seconds"] for run in runs),
            "all": [[run["seconds"], run["cpu_seconds"]] for run in runs],
            "peak_mb": max(run["peak_mb"] for run in runs),
            "n_tokens": runs[0]["n_tokens"], "sha256": runs[0]["sha256"]}


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
    if args.worker:
        worker(args)
        return

    runs = {trainer: [] for trainer in args.trainers}
    for _ in range(args.repeat):
        for trainer in args.trainers:
            runs[trainer].append(timed_run(trainer, args))

    # tokenizers is left out: it breaks ties in another way.
    digests = {run["sha256"] for trainer in runs if trainer != "tokenizers"
               for run in runs[trainer]}
    cores = os.cpu_count()
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    versions = {name: importlib.metadata.version(name)
                for name in ("numpy", "regex", "rustbpe", "tokenizers")}
    # Not at the top: the trainers start faster without it.
    sys.path.insert(0, str(ROOT))
    from machine import cpu_features
    print(json.dumps({
        **cpu_features(), "data": Path(args.data).name, "bytes": os.path.getsize(args.data),
        "vocab_size": args.vocab_size, "cores": cores, "python": platform.python_version(),
        "versions": versions, "results": {trainer: summary(runs[trainer]) for trainer in runs},
        "ours_and_rustbpe_equal": len(digests) == 1}, indent=1))
    if len(digests) > 1:
        sys.exit("ours and rustbpe trained different tokens")


if __name__ == "__main__":
    main()
