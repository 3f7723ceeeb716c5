"""
The first hour on a GPU: are its numbers right, is it as fast as was derived, does a run survive?

python tests/gpu/first_hour.py                     lists the parts
python tests/gpu/first_hour.py --part 1            runs one, in ten minutes at most
python tests/gpu/first_hour.py --check resume      runs a single check of a part
python tests/gpu/first_hour.py --part 1 --device cpu --tiny    toy sizes: tests this script alone

Each check is a process of its own with a time limit, so that none can stop the next. Each figure
is a line PASS, FAIL or SKIP, and a line of JSON in OUT/results.jsonl; OUT/NAME.log is all that the
check printed. tests/gpu/README.md says what to send back. For Linux.
"""
import itertools
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from model_checks import decoding, graphs, memory, numbers, profile
from results import run_command, script, show
from run_checks import dead_rank, generation, ranks, real_run, resume, speed_12, speed_20

from machine import fail, parse_config, run, setup, versions


@dataclass
class Config:
    part: int = 0                 # the part to run; 0: list them
    check: str = ""               # run this check alone
    device: str = "auto"          # auto, cuda or cpu; a CPU needs --tiny
    tiny: bool = False            # toy sizes; figures of speed and memory are shown, not judged
    out: str = "out/first_hour"   # folder of the results, the logs and what the checks make
    child: bool = False           # run --check in this process: how the script calls itself


# Title, and the checks with their limits in seconds.
PARTS = {1: ("the numbers of the GPU against those of a CPU", {numbers: 480, decoding: 120}),
         2: ("graph breaks, recompilation, memory", {graphs: 300, memory: 300}),
         3: ("speed: depth 12 and 20, causal and isolated", {speed_12: 250, speed_20: 350}),
         4: ("where the time of a step goes", {profile: 400}),
         5: ("SIGKILL and --resume", {resume: 500}),
         6: ("2 and 3 ranks, and one that dies", {ranks: 350, dead_rank: 250}),
         7: ("generation beside transformers", {generation: 600}),
         8: ("a short run on real text", {real_run: 600})}


def facts(cfg):
    """What a result must say of the machine. nvidia-smi, unlike torch, takes no GPU memory."""
    chips = []
    if cfg.device == "cuda" and shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        chips = subprocess.run(query, capture_output=True, text=True).stdout.splitlines()
    return dict(chips=chips or cfg.device, cuda=torch.version.cuda,
                cudnn=torch.backends.cudnn.version(), tiny=cfg.tiny, **versions())


def main():
    cfg = parse_config(Config, __doc__)
    checks = dict(itertools.chain(*(checks.items() for _, checks in PARTS.values())))
    chosen = {check.__name__: seconds for check, seconds in checks.items()
              if cfg.check == check.__name__ or check in PARTS.get(cfg.part, ("", {}))[1]}
    if cfg.child:
        folder = Path(cfg.out, cfg.check).resolve()
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        check = next(check for check in checks if check.__name__ == cfg.check)
        for result in check(cfg, folder):
            print("RESULT", json.dumps(result), flush=True)
        return
    if not chosen:
        for number, (title, checks) in PARTS.items():
            print(f"--part {number}  {title}: {', '.join(check.__name__ for check in checks)}")
        return
    if cfg.device == "auto":
        cfg.device = "cuda"
    if cfg.device == "cpu" and not cfg.tiny:
        fail("--device cpu needs --tiny")
    if cfg.device != "cpu" and not torch.cuda.is_available():
        # It says why, and what to do.
        setup("cuda")

    out = Path(cfg.out)
    out.mkdir(parents=True, exist_ok=True)
    machine = facts(cfg)
    print(*(f"{key} {value}," for key, value in machine.items()))
    failed = 0
    for name, seconds in chosen.items():
        command = [*script(__file__, "--child", "--check", name, "--device", cfg.device,
                           "--out", out.resolve()), "--tiny" if cfg.tiny else "--no-tiny"]
        for result in run_command(command, seconds, out / f"{name}.log"):
            show(result)
            failed += result["status"] == "FAIL"
            with open(out / "results.jsonl", "a") as file:
                file.write(json.dumps(dict(check=name, **result, **machine)) + "\n")
    print(f"{failed} failed; all figures are in {out}/results.jsonl")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    run(main)
