"""
Does a change make pretrain.py learn more? Held-out bits per byte with and without it.

The change is a patch, a commit or branch, or flags of pretrain.py, so the product needs no switch:

git diff > longer.diff; git stash
python tests/bench/recipe.py --data prose.jsonl --work tried --change longer.diff
python tests/bench/recipe.py --data prose.jsonl --work tried --flags "--matrix_lr 0.03"

Each seed trains a pair, the recipe and the change, in turn: with equal tokens, then the change for
as many seconds as the recipe needs, by the median step of all pairs. Copies of the tree in --work
train; this checkout judges their checkpoints, which must be stock models, on its own held-out rows.
A finished run is a line in --work/runs.jsonl and is never repeated, and a killed one is resumed:
give the same command again. The runs of the recipe serve every change. As each commit is a recipe
of its own, hold it fixed with --recipe over several changes.
"""
import hashlib
import io
import json
import math
import os
import platform
import shlex
import shutil
import statistics
import subprocess
import sys
import tarfile
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
from common import Tokenizer, load_checkpoint
from data.demo import python_corpus
from data.documents import read_documents
from machine import cpu_features, parse_config, run, setup, versions
from train.rows import describe_sources, pack_documents
from train.run import evaluate_loss

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Config:
    change: str = ""                 # patch file, commit or branch to run beside the recipe
    flags: str = ""                  # flags of pretrain.py that the change has, in one word
    both: str = ""                   # flags of pretrain.py that both sides have, in one word
    recipe: str = "HEAD"             # commit that is the recipe, and that a patch applies to
    data: tuple = ()                 # .txt, .jsonl or .parquet; none: the embedded Python corpus
    max_chars: int = 6000            # documents are cut here
    depth: int = 2                   # layers
    vocab_size: int = 8192           # of the tokenizer, which is trained on the same text
    seq_len: int = 512               # tokens a row
    tokens: str = "1228800,2457600"  # horizons, comma-separated
    seeds: str = "0,1,2"             # of the weights and of the order of the rows, comma-separated
    equal_seconds: bool = True       # also train the change for the seconds that the recipe needs
    eval_rows: int = 256             # held-out rows that decide
    device: str = "auto"             # auto, cpu or cuda
    work: str = "recipe"             # folder for tokenizer, trees, rows and runs.jsonl


# --------------------------------------------------------------------------------------------------
# The two sides

@dataclass
class Side:
    """What trains: a copy of the tree, and flags for its pretrain.py."""
    name: str
    code: str                        # its commit, and the hash of its patch
    folder: Path                     # with the tree, and the rows that it packs
    flags: list


def make_side(work, name, commit, patch, flags):
    """Make work/trees/CODE unless it is there -> Side. ValueError if the patch does not apply."""
    code = commit[:12]
    if patch:
        code += "+" + hashlib.sha256(Path(patch).read_bytes()).hexdigest()[:12]
    folder = work / "trees" / code
    if not folder.exists():
        new = work / "trees" / (code + ".new")
        shutil.rmtree(new, ignore_errors=True)
        packed = git("archive", commit)
        tarfile.open(fileobj=io.BytesIO(packed)).extractall(new / "tree", filter="data")
        if patch:
            # Without a ceiling git would take the repository around the folder for the tree's.
            command = ["git", "apply", Path(patch).resolve()]
            done = subprocess.run(command, cwd=new / "tree", stderr=subprocess.PIPE, text=True,
                                  env=dict(os.environ, GIT_CEILING_DIRECTORIES=str(new)))
            if done.returncode:
                raise ValueError(f"--change {patch} does not apply to {commit[:12]}: "
                                 f"{done.stderr.strip()}. Make it with git diff {commit[:12]}, or "
                                 f"name the commit that it was made from with --recipe")
        new.rename(folder)
    return Side(name, code, folder, flags)


def make_sides(cfg, work):
    """-> the Sides of the recipe and of the change. ValueError if they are the same."""
    both = shlex.split(cfg.both)
    flags = shlex.split(cfg.flags)
    recipe_commit = find_commit("recipe", cfg.recipe)
    commit, patch = recipe_commit, ""
    if Path(cfg.change).is_file():
        patch = cfg.change
    elif cfg.change:
        commit = find_commit("change", cfg.change)
    if not patch and not flags and commit == recipe_commit:
        raise ValueError("nothing is changed: give a patch or another commit with --change, "
                         "or flags of pretrain.py with --flags")
    name = " ".join([Path(cfg.change).stem if patch else cfg.change, *flags]).strip()
    return (make_side(work, "recipe", recipe_commit, "", both),
            make_side(work, name, commit, patch, both + flags))


def find_commit(flag, name):
    """The full hash of a commit, branch or tag."""
    try:
        return git("rev-parse", "--verify", "--quiet", name + "^{commit}").decode().strip()
    except subprocess.CalledProcessError:
        raise ValueError(f"--{flag} {name}: neither a file nor a commit or branch of {ROOT}"
                         if flag == "change" else
                         f"--{flag} {name}: no commit or branch of {ROOT}") from None


def git(*arguments):
    return subprocess.run(["git", *arguments], cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout


# --------------------------------------------------------------------------------------------------
# Text, tokenizer and one run

def prepare(cfg, work):
    """Cut the documents and train the tokenizer, both once. Returns the path of the text."""
    made_from = dict(describe_sources(cfg.data, max_chars=cfg.max_chars), vocab=cfg.vocab_size)
    made_from = json.loads(json.dumps(made_from))
    text = work / "text.jsonl"
    done = work / "made_from.json"
    if done.exists():
        if json.loads(done.read_text()) != made_from:
            raise ValueError(f"--work {work} holds runs with other --data, --max_chars or "
                             f"--vocab_size: give the same again, or another --work")
        return text
    documents = []
    for split in "train", "val":
        documents += read_documents(cfg.data, split) if cfg.data else python_corpus.documents(split)
    text.write_text("".join(json.dumps({"text": d[:cfg.max_chars]}) + "\n" for d in documents))
    script(ROOT, work / "tokenizer.log", "tokenizer.py", "--data", text, "--out", work,
           "--vocab_size", cfg.vocab_size)
    done.write_text(json.dumps(made_from))
    return text


def script(tree, log, name, *flags):
    """Run a script of a tree; what it prints goes to a file, errors to stderr."""
    command = [sys.executable, tree / name, *map(str, flags)]
    with open(log, "a") as f:
        done = subprocess.run(command, stdout=f, cwd=tree)
    if done.returncode:
        raise ValueError(f"{name} ended with status {done.returncode}; its error stands above. "
                         f"{log} has what it printed")


def count_weights(cfg, side, vocab_size):
    """The matrix weights of a side's model, as its own code counts them.

    ValueError if that code or its flags are broken, before anything was trained.
    """
    code = (f"from machine import parse_config\n"
            f"from pretrain import Config, model_config\n"
            f"from train.plan import matrix_weights\n"
            f"kv = parse_config(Config, '').n_kv_head\n"
            f"print(matrix_weights(model_config({cfg.depth}, {vocab_size}, {cfg.seq_len}, kv)))")
    done = subprocess.run([sys.executable, "-c", code, *side.flags], cwd=side.folder / "tree",
                          stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise ValueError(f"pretrain.py of {side.folder / 'tree'} does not start with "
                         f"{shlex.join(side.flags) or 'no flags'}; its error stands above")
    return int(done.stdout)


def train(cfg, work, text, side, weights, tokens, seed):
    """Run a side's pretrain.py over `tokens` tokens -> its folder; resume it if it was killed.

    weights: see count_weights.
    """
    name = f"{side.name}-{side.code}-{side.flags}-{cfg.depth}-{cfg.seq_len}-{tokens}-{seed}"
    out = work / "runs" / hashlib.sha256(name.encode()).hexdigest()[:16]
    out.mkdir(parents=True, exist_ok=True)
    # All runs of a tree share its rows; pretrain.py makes them anew if a flag asks for others.
    rows = side.folder / "rows"
    rows.mkdir(exist_ok=True)
    for link, target in (out / "rows", rows), (out / "tokenizer", work / "tokenizer"):
        if not link.is_symlink():
            link.symlink_to(target)
    never = 10 ** 9
    # pretrain.py rounds the horizon up.
    script(side.folder / "tree", out / "log.txt", "pretrain.py", "--data", text, "--out", out,
           "--depth", cfg.depth, "--seq_len", cfg.seq_len, "--device", cfg.device,
           "--tokens_per_param", (tokens - 0.5) / weights, "--seed", seed, "--eval_rows", 1,
           "--eval_every", never, "--sample_every", never, "--resume", *side.flags)
    return out


def measure(out, val_rows, env, eval_rows):
    """-> a run's bits per byte by this checkout's own code, its median step, steps and tokens."""
    model, tok, _ = load_checkpoint(out / "pretrain", env.device)
    model.compute_dtype = env.dtype
    bpb = evaluate_loss(model, val_rows, tok, env, 16, eval_rows)["bpb"]
    metrics = [json.loads(line) for line in (out / "pretrain/metrics.jsonl").open()]
    steps = [m for m in metrics if "ms" in m]
    return dict(bpb=bpb, ms=statistics.median(m["ms"] for m in steps), steps=len(steps),
                trained=round(sum(m["tok_per_sec"] * m["ms"] / 1e3 for m in steps)))


# --------------------------------------------------------------------------------------------------
# What the pairs say

def interval(differences):
    """-> the mean of paired differences, and the half-width of its 95 % interval by Student's t.

    inf for a single pair, which says nothing of the noise.
    """
    n = len(differences)
    mean = statistics.mean(differences)
    if n == 1:
        return mean, math.inf
    return mean, student_t(n - 1) * statistics.stdev(differences) / n ** 0.5


def student_t(freedom):
    """Between - and + this number lie 95 % of Student's t, by summing its density."""
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2))
    scale /= (freedom * math.pi) ** 0.5
    width = 1e-3
    inside = end = 0.0
    while inside < 0.95:
        middle = end + width / 2
        inside += 2 * width * scale * (1 + middle ** 2 / freedom) ** (-(freedom + 1) / 2)
        end += width
    return end


def print_difference(after, recipe, change):
    """recipe, change: runs of the same seeds in the same order. Returns what it says, as data."""
    mean, half = interval([c["bpb"] - r["bpb"] for r, c in zip(recipe, change, strict=True)])
    ratio = statistics.mean(c["bpb"] for c in change) / statistics.mean(r["bpb"] for r in recipe)
    verdict = "not clear of zero"
    if abs(mean) > half:
        verdict = "less is better: a gain" if mean < 0 else "a loss"
    print(f"{after}: {mean:+.4f} +- {half:.4f} bits per byte ({len(recipe)} seed(s), 95 %), "
          f"{ratio:.4f} times the recipe's: {verdict}", flush=True)
    return dict(after=after, difference=round(mean, 5), ratio=round(ratio, 5), seeds=len(recipe),
                half_width=round(half, 5) if math.isfinite(half) else None)


def main():
    cfg = parse_config(Config, __doc__)
    env = setup(cfg.device, "auto")
    cfg.device = env.device.type
    work = Path(cfg.work).resolve()
    work.mkdir(parents=True, exist_ok=True)
    sides = make_sides(cfg, work)
    text = prepare(cfg, work)
    tok = Tokenizer.load(work / "tokenizer")
    val_rows = pack_documents(work / f"val_{cfg.seq_len}.rows",
                              lambda: read_documents([str(text)], "val"), tok, cfg.seq_len,
                              describe_sources([str(text)]), env)
    weights = {side.name: count_weights(cfg, side, tok.vocab_size) for side in sides}
    # What else decides a run's numbers, or its seconds.
    machine = dict(processor=platform.processor() or platform.machine(),
                   cores=os.cpu_count(), dtype=str(env.dtype), **cpu_features())
    kept = work / "runs.jsonl"
    print(f"| | seed | steps | tokens | ms a step | val bits per byte |\n{'|---' * 6}|", flush=True)

    def trained(side, tokens, seed):
        """The run as it is kept in runs.jsonl; it trains if it is not there."""
        key = dict(code=side.code, flags=" ".join(side.flags), depth=cfg.depth,
                   seq_len=cfg.seq_len, tokens=tokens, seed=seed, eval_rows=cfg.eval_rows,
                   device=cfg.device, **machine)
        lines = kept.read_text().splitlines() if kept.exists() else []
        found = [r for r in map(json.loads, lines) if key.items() <= r.items()]
        if not found:
            out = train(cfg, work, text, side, weights[side.name], tokens, seed)
            found = [dict(name=side.name, **key, **measure(out, val_rows, env, cfg.eval_rows),
                          **versions())]
            with open(kept, "a") as f:
                f.write(json.dumps(found[0]) + "\n")
            shutil.rmtree(out)
        r = found[0]
        print(f"| {side.name} | {seed} | {r['steps']} | {r['trained']:,} | {r['ms']:.0f} | "
              f"{r['bpb']:.4f} |", flush=True)
        return r

    seeds = [int(seed) for seed in cfg.seeds.split(",")]
    results = []
    for tokens in map(int, cfg.tokens.split(",")):
        runs = {side.name: [] for side in sides}
        for i, seed in enumerate(seeds):
            # In turn, so that neither side always comes first.
            for side in sides if i % 2 == 0 else sides[::-1]:
                runs[side.name].append(trained(side, tokens, seed))
        recipe, change = runs.values()
        results.append(print_difference(f"after {tokens:,} tokens", recipe, change))
        # In hundredths, so that one more seed rarely asks for new runs.
        ms = [statistics.median(r["ms"] * r["steps"] for r in runs) for runs in (recipe, change)]
        more = round(ms[0] / ms[1], 2)
        if cfg.equal_seconds and more != 1:
            change = [trained(sides[1], round(more * tokens), seed) for seed in seeds]
        if cfg.equal_seconds:
            results.append(print_difference(f"after the seconds of {tokens:,} tokens of the "
                                            f"recipe, {more:g} times the tokens", recipe, change))
    print(json.dumps(dict(bench="recipe", name=sides[1].name, codes=[s.code for s in sides],
                          results=results, **machine, **asdict(cfg), **versions())))


if __name__ == "__main__":
    run(main)
