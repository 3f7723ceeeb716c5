"""
SKIP AT FIRST. What a run needs of its machine; there is no language model in here.

Device, dtype and ranks; flags, one-line errors and stop signals; files that survive a crash.
"""
import argparse
import contextlib
import ctypes
import datetime
import importlib.util
import inspect
import math
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
from dataclasses import dataclass, fields
from pathlib import Path

import torch
import torch.distributed as dist

# --------------------------------------------------------------------------------------------------
# Device, dtype and ranks

@dataclass
class Env:
    device: torch.device
    dtype: torch.dtype            # of the computation; the weights are always float32
    rank: int = 0
    world_size: int = 1

    def all_sum(self, tensor):
        """Replace the tensor by its sum over all ranks, and return it."""
        if self.world_size > 1:
            dist.all_reduce(tensor)
        return tensor

    def all_max(self, tensor):
        if self.world_size > 1:
            dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        return tensor

    def barrier(self):
        self.all_sum(torch.zeros(1, device=self.device))

    def print(self, *args, **kwargs):
        if self.rank == 0:
            print(*args, **kwargs, flush=True)


def setup(device="auto", dtype="auto"):
    """Choose device and compute dtype, and join the ranks that torchrun started -> Env."""
    # The first one that is available is the best.
    available = dict(cuda=torch.cuda.is_available(), mps=torch.backends.mps.is_available(),
                     cpu=True)
    if device == "auto":
        device = next(name for name in available if available[name])
    if not available.get(device):
        raise ValueError(f"--device {device}: expected auto, cpu, cuda or mps, "
                         f"and this machine must have it")
    # torchrun sets these variables; without it there is one rank.
    rank = int(os.environ.get("RANK", 0))
    world_size = int(os.environ.get("WORLD_SIZE", 1))
    on_gpu = device == "cuda"
    dev = torch.device(device, int(os.environ.get("LOCAL_RANK", 0)) if on_gpu else None)
    if on_gpu:
        torch.cuda.set_device(dev)
    if device == "cpu":
        set_up_cpu()
    if world_size > 1:
        # The time limit is long, since the other ranks wait while rank 0 packs the corpus.
        dist.init_process_group("nccl" if on_gpu else "gloo", device_id=dev if on_gpu else None,
                                timeout=datetime.timedelta(days=1))

    if dtype == "auto":
        dtype = "bfloat16" if bfloat16_is_faster(dev) else "float32"
    if dtype not in ("float32", "bfloat16"):
        raise ValueError(f"--dtype {dtype}: expected auto, float32 or bfloat16")
    return Env(dev, getattr(torch, dtype), rank, world_size)


def set_up_cpu():
    """Settings of this process that make training on a CPU faster, and the same every time."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):
            # Keep freed memory in the process: giving it back costs 100,000 page faults a step.
            M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
            libc.mallopt(M_MMAP_MAX, 0)
            libc.mallopt(M_TRIM_THRESHOLD, -1)
    # Denormal numbers take a CPU 100 times as long, and Adam's averages decay to such numbers.
    torch.set_flush_denormal(True)
    # Without this, compiled threads add up the embedding's gradient in any order.
    torch.use_deterministic_algorithms(True)
    # That setting also fills new memory with NaN, which takes time and is not needed.
    torch.utils.deterministic.fill_uninitialized_memory = False


def bfloat16_is_faster(device):
    """Does the hardware multiply bfloat16 faster than float32? A CPU needs AVX512-BF16 or AMX."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu":
        return False
    # ATEN_CPU_CAPABILITY can restrict PyTorch to an older instruction set than the processor has.
    if not torch.backends.cpu.get_cpu_capability().startswith("AVX512"):
        return False
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return False
    return bool(re.search(r"\b(avx512_bf16|amx_bf16)\b", cpuinfo.read_text()))


def can_compile(device):
    """Is there all that torch.compile needs? Without it the stages run uncompiled.

    It needs Python's headers, and on a CPU the C++ compiler that it looks for. On a GPU it needs
    compute capability 7, Triton, and a C compiler for Triton.
    """
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        return False
    if device.type == "cpu":
        default = "clang++" if sys.platform == "darwin" else "g++"
        return bool(shutil.which(os.environ.get("CXX", default)))
    if device.type == "cuda":
        compilers = [os.environ.get("CC", ""), "gcc", "clang"]
        return (torch.cuda.get_device_capability(device) >= (7, 0)
                and importlib.util.find_spec("triton") is not None
                and any(shutil.which(compiler) for compiler in compilers))
    return False


def versions():
    """The versions that a checkpoint records; commit is None without git or outside a checkout."""
    commit = None
    if shutil.which("git"):
        result = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True,
                                text=True, cwd=Path(__file__).parent)
        commit = result.stdout.strip() or None
    return dict(commit=commit, torch=torch.__version__, python=platform.python_version())

# --------------------------------------------------------------------------------------------------
# Flags, errors, signals

def parse_config(cls, description, argv=None):
    """One --flag for each field of the dataclass; the field's trailing comment is the help text.

    A wrong flag ends the script with one line and exit status 2.
    """
    notes = dict(re.findall(r"^    (\w+):.*?#\s*(.+)$", inspect.getsource(cls), re.M))
    cli = argparse.ArgumentParser(description=description, allow_abbrev=False,
                                  formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.error = lambda message: fail(f"{message} (see python {Path(sys.argv[0]).name} --help)")
    for f in fields(cls):
        if f.type is bool:
            kind = dict(action=argparse.BooleanOptionalAction)
        elif f.type is tuple:
            kind = dict(nargs="+", metavar="PATH")
        else:
            kind = dict(type=f.type, metavar=f.type.__name__.upper())
        default = "none" if f.default == () else f.default
        note = f"{notes[f.name]} (default: {default})"
        cli.add_argument(f"--{f.name}", default=f.default, help=note.replace("%", "%%"), **kind)
    cfg = cls(**vars(cli.parse_args(argv)))

    for name, value in vars(cfg).items():
        # "Every 0 steps" is impossible; all other numbers may be 0.
        least = 1 if name.endswith("_every") else 0
        # The comparison is false for nan as well.
        if type(value) in (int, float) and not least <= value < math.inf:
            cli.error(f"--{name} {value}: expected {least} or more")
    return cfg


def in_words(error):
    """An exception as one line: "x.txt: No such file or directory", without "[Errno 2]"."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename is not None else ""
        text = where + error.strerror
    return " ".join(text.split()) or type(error).__name__


def fail(message):
    """End the script with one line on stderr and exit status 2. message: a text or an exception."""
    # Nobody may be listening on stderr either.
    with contextlib.suppress(OSError):
        print(f"error: {in_words(message)}", file=sys.stderr, flush=True)
    sys.exit(2)


def run(main):
    """Run a script's main(); an error that a user can cause ends in one line and exit status 2."""
    # Python leaves out what was closed before it started, as by >&-. Whatever is printed then goes
    # nowhere, instead of into the first file that the script opens.
    for name, mode in [("stdin", "r"), ("stdout", "w"), ("stderr", "w")]:
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))
    try:
        main()
        sys.stdout.flush()
    # The reader of our output has gone, as in `python chat.py -p Hi | head -1`. 141 is what a shell
    # shows of a program that SIGPIPE ended.
    except BrokenPipeError:
        sys.exit(141)
    except (MemoryError, RuntimeError) as e:
        # A GPU, Python and PyTorch on a CPU say it in different ways.
        if not (isinstance(e, (MemoryError, torch.OutOfMemoryError))
                or "can't allocate memory" in str(e)):
            raise
        # Of a GPU's many sentences, the first one says what happened.
        on_gpu = isinstance(e, torch.OutOfMemoryError)
        what = str(e).split(". ")[0] if on_gpu else "out of memory"
        fail(f"{what}. Choose a smaller --batch_size or --depth")
    # Numbers that are too large, files that end too early, packages that are missing or broken.
    except (ValueError, OSError, OverflowError, EOFError, ImportError) as e:
        fail(e)
    # In the training loop, StopSignal catches Ctrl-C instead.
    except KeyboardInterrupt:
        print("\nstopped by Ctrl-C", file=sys.stderr, flush=True)
        sys.exit(130)
    finally:
        # What can't be written any more would make Python complain once more at its end.
        try:
            sys.stdout.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if dist.is_initialized():
            dist.destroy_process_group()


class StopSignal:
    """Ctrl-C or SIGTERM asks the training loop to save and to end. A second one ends it at once.

    received is the signal that this rank got; number is the one that all ranks agreed on. 0: none.
    """
    def __init__(self):
        self.received = self.number = 0
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.handle)

    def handle(self, number, frame):
        self.received = number
        # From now on this signal ends the process.
        signal.signal(number, signal.SIG_DFL)

    def requested(self, env):
        """True on all ranks if one of them got a signal. All ranks must call this at every step."""
        # A signal that arrives during the all-reduce is handled at the next step.
        self.number = self.received
        if env.world_size > 1:
            self.number = int(env.all_max(torch.tensor(self.number, device=env.device)))
        return self.number > 0

# --------------------------------------------------------------------------------------------------
# Files and folders that a crash leaves whole: a reader sees all of the old or all of the new one

@contextlib.contextmanager
def new_folder(path):
    """Yield an empty folder; once the caller has filled it, it takes the place of `path`.

    After an error it is removed, and `path` is as it was.
    """
    new = path.with_name(path.name + ".tmp")
    finish_replace(path)
    shutil.rmtree(new, ignore_errors=True)
    try:
        new.mkdir(parents=True)
        yield new
        replace_folder(new, path)
    except Exception:
        shutil.rmtree(new, ignore_errors=True)
        raise


def replace_folder(new, path):
    """Put the folder `new` in the place of `path`.

    finish_replace repairs what a crash between the two renames leaves behind.
    """
    old = path.with_name(path.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        path.rename(old)
    new.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def finish_replace(path):
    """Undo a half-finished replacement: the old folder is moved aside, the new one is not there."""
    old = path.with_name(path.name + ".old")
    if old.exists() and not path.exists():
        old.rename(path)


def write_synced(path, write):
    """Call write(file) with a new file at `path`; return when its bytes are on the disk."""
    with open(path, "wb") as f:
        write(f)
        f.flush()
        os.fsync(f.fileno())
