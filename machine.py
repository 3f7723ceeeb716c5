"""
SKIP AT FIRST. What a run needs of its machine; there is no language model in here.

Device, dtype and ranks; flags, one-line errors and stop signals; files that survive a crash.
"""
import argparse
import atexit
import contextlib
import ctypes
import datetime
import importlib.util
import inspect
import math
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
import traceback
from dataclasses import dataclass, fields
from pathlib import Path

import torch
import torch.distributed as dist

try:
    import fcntl
    import resource
except ImportError:
    # Windows has none.
    fcntl = resource = None

# When this process was started, nearly.
STARTED = datetime.datetime.now().astimezone()

# --------------------------------------------------------------------------------------------------
# Device, dtype and ranks

@dataclass
class Env:
    device: torch.device
    dtype: torch.dtype            # of the computation; the weights are always float32
    rank: int = 0
    world_size: int = 1
    group: object = None          # all ranks once more, for waiting on the host

    def lock(self, path):
        """Keep other runs from `path` until this one ends; see lock()."""
        if self.rank == 0:
            lock(path)

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
        """Wait, for up to a day, until all ranks are here: rank 0 may be packing a corpus.

        It goes over gloo on every device. A collective of NCCL would return at once, and its
        kernel would keep the GPU busy all the time.
        """
        if self.world_size > 1:
            dist.barrier(self.group)

    def print(self, *args, **kwargs):
        if self.rank == 0:
            clear_line(sys.stdout)
            say(*args, **kwargs)


def setup(device="auto", dtype="auto"):
    """Choose device and compute dtype, and join the ranks that torchrun started -> Env.

    ValueError if this machine does not have the device, or has a GPU that PyTorch cannot use.
    """
    # The first one that is available is the best.
    available = dict(cuda=torch.cuda.is_available(), mps=torch.backends.mps.is_available(),
                     cpu=True)
    if device in ("auto", "cuda") and not available["cuda"]:
        check_for_unused_gpus()
    if device == "auto":
        device = next(name for name in available if available[name])
    if not available.get(device):
        raise ValueError(f"--device {device}: expected auto, cpu, cuda or mps, "
                         f"and this machine must have it")
    if dtype not in ("auto", "float32", "bfloat16", "float16"):
        raise ValueError(f"--dtype {dtype}: expected auto, float32, bfloat16 or float16")
    # torchrun sets these variables; without it there is one rank.
    rank = int(os.environ.get("RANK", 0))
    world_size = int(os.environ.get("WORLD_SIZE", 1))
    on_gpu = device == "cuda"
    dev = torch.device(device, int(os.environ.get("LOCAL_RANK", 0)) if on_gpu else None)
    if on_gpu:
        set_up_gpu(dev)
    if device == "cpu":
        set_up_cpu()
    group = None
    if world_size > 1:
        # The longest that a rank waits in a step is while rank 0 samples and saves.
        dist.init_process_group("nccl" if on_gpu else "gloo", device_id=dev if on_gpu else None,
                                timeout=datetime.timedelta(minutes=30))
        group = dist.new_group(backend="gloo", timeout=datetime.timedelta(days=1))

    if dtype == "auto":
        dtype = fastest_dtype(dev)
    return Env(dev, getattr(torch, dtype), rank, world_size, group)


def lost_a_rank(error):
    """Does the error of a collective mean that another rank has gone? gloo has no type for that."""
    return isinstance(error, dist.DistError) or "gloo/transport" in str(error)


# The name of the thread that writes a checkpoint while training goes on.
WRITER = "checkpoint writer"


def leave_ranks(error):
    """End this process as one of the ranks. error: what ends the script, or None if it is done.

    After an error the others still wait for this rank. destroy_process_group, a thread that reads
    data, or Python's own end could wait for them in turn, so the process ends at once. With gloo
    the others then get an error; where NCCL gives none, torchrun ends them within 30 seconds.
    """
    if not dist.is_initialized():
        return
    if error is None:
        dist.destroy_process_group()
        return
    # A checkpoint that is being written is worth this wait.
    for thread in threading.enumerate():
        if thread.name == WRITER:
            thread.join(60)
    status = 1
    if isinstance(error, SystemExit):
        status = error.code
    else:
        traceback.print_exception(error)
    sys.stderr.flush()
    os._exit(status)


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


def set_up_gpu(device):
    """Make this process use that CUDA device; ValueError if the wheel of PyTorch cannot."""
    # Without this, freed memory in pieces of many sizes cannot be used for a large tensor. It must
    # be set before the first tensor is made; who has set it keeps his setting.
    if sys.platform == "linux" and "PYTORCH_CUDA_ALLOC_CONF" not in os.environ:
        os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    n = torch.cuda.device_count()
    if device.index >= n:
        raise ValueError(f"torchrun started local rank {device.index}, but there are {n} GPUs "
                         f"here: choose --nproc_per_node {n}")
    capability = torch.cuda.get_device_capability(device)
    if not has_kernels(capability, torch.cuda.get_arch_list()):
        gpu = Gpu(torch.cuda.get_device_name(device), math.inf, capability)
        raise ValueError(f"PyTorch {torch.__version__} has no kernels for the {gpu.name}, compute "
                         f"capability {capability[0]}.{capability[1]}. {what_to_install(gpu)}")
    torch.cuda.set_device(device)
    # cuDNN's attention makes a new plan for every length that it meets, and with a mask its
    # gradients can be NaN (pytorch#196678). attend() in common.py allows it where it is good.
    torch.backends.cuda.enable_cudnn_sdp(False)


def has_kernels(capability, architectures):
    """Does a build for these architectures, as ["sm_75", "compute_120"], run on such a GPU?

    A kernel for sm_86 runs on 8.6 and 8.9, and compute_86 is compiled anew for all that is later.
    """
    pairs = re.findall(r"(sm|compute)_(\d+)(\d)", " ".join(architectures))
    for kind, major, minor in pairs:
        built_for = int(major), int(minor)
        if built_for <= capability and (kind == "compute" or built_for[0] == capability[0]):
            return True
    # AMD's architectures have other names.
    return not pairs


@dataclass
class Gpu:
    name: str
    driver: float                 # the major version, as 580
    capability: tuple = None      # as (7, 5); None if the driver does not say


# The wheels of the pinned PyTorch: the oldest driver, the first and last compute capability.
WHEELS = {"cu130": (580, (7, 5), (99, 0)), "cu126": (525, (5, 0), (9, 9))}


def what_to_install(gpu):
    """What makes PyTorch use this GPU, as one or two sentences."""
    capability = gpu.capability or (7, 5)
    for wheel, (driver, first, last) in WHEELS.items():
        if gpu.driver >= driver and first <= capability <= last:
            version = torch.__version__.split("+")[0]
            return (f"Install the one that can: {sys.executable} -m pip install "
                    f"torch=={version}+{wheel} "
                    f"--index-url https://download.pytorch.org/whl/{wheel}")
    if capability < (5, 0):
        return "No PyTorch of this version can use it"
    return "Update the driver to 580 or newer"


def check_for_unused_gpus(proc="/proc/driver/nvidia"):
    """ValueError if PyTorch sees no GPU, but this machine has an NVIDIA one that it could use.

    A run on the CPU would take a hundred times as long without a word.
    """
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "all").strip()
    gpu = None if hidden in ("", "-1") else find_nvidia_gpu(Path(proc))
    if gpu is None:
        return
    built_for = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
    what = (f"this machine has a GPU ({gpu.name}, driver {gpu.driver:g}) that PyTorch "
            f"{torch.__version__}, built {built_for}, cannot use")
    advice = what_to_install(gpu)
    wheel = "cu" + (torch.version.cuda or "").replace(".", "")
    if f"+{wheel} " in advice:
        # The right one is installed: let CUDA say what is wrong.
        try:
            torch.cuda.init()
        except (RuntimeError, AssertionError) as e:
            what += f": {in_words(e)}"
        advice = "nvidia-smi should list the GPU, and CUDA_VISIBLE_DEVICES must not hide it"
    raise ValueError(f"{what}. {advice}; or go on without it: --device cpu "
                     f"(CUDA_VISIBLE_DEVICES= bash run.sh)")


def find_nvidia_gpu(proc):
    """The first NVIDIA GPU that the driver knows, whether PyTorch can use it or not, or None."""
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=name,driver_version,compute_cap",
                 "--format=csv,noheader"]
        # A broken driver can make it hang.
        with contextlib.suppress(subprocess.TimeoutExpired, OSError):
            answer = subprocess.run(query, capture_output=True, text=True, timeout=30).stdout
            found = re.match(r"(.+), (\d+)[\d.]*, (\d+)\.(\d+)", answer)
            if found:
                name, driver, major, minor = found.groups()
                return Gpu(name, int(driver), (int(major), int(minor)))
    # nvidia-smi is missing, is older than its own query, or does not fit the driver.
    for information in sorted(proc.glob("gpus/*/information")):
        name = re.search(r"Model:\s*(.+)", information.read_text())
        driver = re.search(r"\s(\d+)\.\d+", (proc / "version").read_text())
        return Gpu(name[1], int(driver[1]))
    return None


def fastest_dtype(device):
    """The dtype that the hardware multiplies fastest: "bfloat16", "float16" or "float32".

    A GPU needs compute capability 8.0 (Ampere) for bfloat16. Volta and Turing, 7.0 and 7.5, have
    tensor cores for float16 alone. A CPU needs AVX512-BF16 or AMX for bfloat16.
    """
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        if capability >= (8, 0):
            return "bfloat16"
        return "float16" if capability >= (7, 0) else "float32"
    if device.type != "cpu":
        return "float32"
    return "bfloat16" if has_native_bfloat16() else "float32"


def has_native_bfloat16():
    """Does this CPU multiply bfloat16 by an instruction of its own, AVX512-BF16 or AMX?"""
    # ATEN_CPU_CAPABILITY can restrict PyTorch to an older instruction set than the processor has.
    if not torch.backends.cpu.get_cpu_capability().startswith("AVX512"):
        return False
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return False
    return bool(re.search(r"\b(avx512_bf16|amx_bf16)\b", cpuinfo.read_text()))


def cpu_features():
    """What a timing on a CPU depends on, as plain data for the benchmarks."""
    return dict(instruction_set=torch.backends.cpu.get_cpu_capability(),
                native_bfloat16=has_native_bfloat16())

# --------------------------------------------------------------------------------------------------
# torch.compile, where it works

def can_compile(device):
    """Is there all that torch.compile needs? If not, rank 0 says what is missing, on stderr."""
    missing = missing_for_compile(device)
    if missing and os.environ.get("RANK", "0") == "0":
        say(f"note       goes on without torch.compile, and slower: {missing}", file=sys.stderr)
    return not missing


def missing_for_compile(device):
    """What torch.compile needs and this machine lacks, and how to install it; "" if nothing.

    It needs Python's headers, and on a CPU the C++ compiler that it looks for. On a GPU it needs
    compute capability 7, Triton, and a C compiler for Triton.
    """
    if device.type not in ("cpu", "cuda"):
        return f"it is of no use on {device.type}"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        return (f"Python's headers are missing; on Debian and Ubuntu: "
                f"sudo apt install python{version}-dev")
    if device.type == "cpu":
        usual = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
        compiler = os.environ.get("CXX", usual)
        if not shutil.which(compiler):
            return (f"there is no C++ compiler ({compiler}); on Debian and Ubuntu: "
                    f"sudo apt install g++")
        return "" if compiler == "cl" else failure_of_compiler(compiler)
    capability = torch.cuda.get_device_capability(device)
    if capability < (7, 0):
        return (f"Triton needs compute capability 7.0, and this GPU has "
                f"{capability[0]}.{capability[1]}")
    if importlib.util.find_spec("triton") is None:
        package = "triton-windows" if sys.platform == "win32" else "triton"
        return f"Triton is missing: {sys.executable} -m pip install {package}"
    compilers = [os.environ.get("CC", ""), "gcc", "clang"]
    if not any(shutil.which(compiler) for compiler in compilers):
        return ("Triton finds no C compiler (gcc or clang); on Debian and Ubuntu: "
                "sudo apt install gcc")
    return ""


def failure_of_compiler(compiler):
    """What goes wrong when a C++ compiler makes a small library, as one line; "" if nothing does.

    A compiler can be there and fail: g++ without the package of its own libraries, a full /tmp.
    """
    said = ""
    scratch = ""
    try:
        with tempfile.TemporaryDirectory() as scratch:
            source = Path(scratch, "a.cpp")
            library = Path(scratch, "a.so")
            source.write_text("#include <cmath>\n#include <vector>\n#include <Python.h>\n"
                              'extern "C" double f(double x) { return std::sqrt(x); }\n')
            command = [compiler, "-shared", "-fPIC", f"-I{sysconfig.get_path('include')}",
                       str(source), "-o", str(library)]
            result = subprocess.run(command, capture_output=True, timeout=60)
            if result.returncode:
                said = (result.stderr or result.stdout).decode(errors="replace")
                said = said or f"it ends with status {result.returncode}"
            else:
                ctypes.CDLL(str(library))
    except subprocess.TimeoutExpired:
        said = "it takes more than a minute for four lines"
    except OSError as e:
        said = in_words(e)
    if not said:
        return ""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    # The line that says what went wrong, rather than where.
    line = next((line for line in lines if "error" in line.lower()), lines[0])
    line = line.replace(f"{scratch}/", "")
    return (f"the C++ compiler ({compiler}) fails: {line[:200]}. Install it anew, or name another "
            f"one in CXX")


def why_it_failed(error):
    """Of the many lines of PyTorch about a failed compilation those that say why, as one line."""
    said = str(error).partition("Set TORCHDYNAMO_VERBOSE")[0]
    # The compiler's own words, behind the command.
    said = said.partition("\nOutput:\n")[2] or said
    return " ".join(said.split())[:300]


def try_to_compile(function, **options):
    """torch.compile(function), but where compiling raises, say why and go on with the function.

    A compiler can be there and fail all the same: a full /tmp, an old GPU, a bug.
    """
    from torch._dynamo.exc import TorchDynamoException
    from torch._functorch import config
    current = torch.compile(function, **options)
    is_new = True

    def call(*args, **kwargs):
        nonlocal current, is_new
        if is_new and os.environ.get("RANK", "0") == "0":
            clear_line(sys.stderr)
            say("compiling  which takes half a minute or more before anything moves",
                file=sys.stderr)
        is_new = False
        try:
            # Compile the backward pass now, too, so that its errors are raised here.
            with config.patch(force_non_lazy_backward_lowering=True):
                return current(*args, **kwargs)
        except TorchDynamoException as e:
            if current is function:
                raise
            clear_line(sys.stderr)
            say(f"note       goes on without torch.compile, and slower, as compiling failed: "
                f"{why_it_failed(e)}", file=sys.stderr)
            current = function
            return function(*args, **kwargs)

    return call


def versions():
    """The versions that a checkpoint records; commit is None without git or outside a checkout."""
    commit = None
    if shutil.which("git"):
        result = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True,
                                text=True, cwd=Path(__file__).parent)
        commit = result.stdout.strip() or None
    return dict(commit=commit, torch=torch.__version__, python=platform.python_version())


def run_record(env):
    """What this process ran on, from when to when, and the most memory it took: plain data.

    seconds: since it was started. peak_memory, peak_gpu_memory: in bytes, of this rank; None where
    the system does not tell.
    """
    on_gpu = env.device.type == "cuda"
    peak = None
    if resource:
        # macOS counts in bytes, Linux in KiB.
        unit = 1 if sys.platform == "darwin" else 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return dict(command=shlex.join(["python", Path(sys.argv[0]).name, *sys.argv[1:]]),
                started=STARTED.isoformat(timespec="seconds"),
                seconds=round((datetime.datetime.now().astimezone() - STARTED).total_seconds(), 1),
                system=f"{platform.system()} {platform.machine()}", processor=processor_name(),
                cores=os.cpu_count(), instructions=instruction_set(),
                gpu=torch.cuda.get_device_name(env.device) if on_gpu else None,
                device=env.device.type, ranks=env.world_size,
                dtype=str(env.dtype).removeprefix("torch."), peak_memory=peak,
                peak_gpu_memory=torch.cuda.max_memory_allocated(env.device) if on_gpu else None)


def processor_name():
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text()) if cpuinfo.exists() else None
    return found[1].strip() if found else platform.processor() or platform.machine()


def instruction_set():
    """What decides how fast this processor multiplies: "AVX512, avx512_bf16, amx_bf16"."""
    names = [torch.backends.cpu.get_cpu_capability()]
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        flags = set(cpuinfo.read_text().split())
        names += [flag for flag in ("avx512_bf16", "amx_bf16") if flag in flags]
    return ", ".join(names)

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


def is_terminal(stream):
    """Can a line on it be overwritten?"""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def terminal_width(stream):
    """The columns of the terminal that shows `stream`; 80 if it does not say."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except OSError:
        return 80


def clear_line(stream):
    """On a terminal, make room for a line where a progress line may stand (train/progress.py)."""
    if is_terminal(stream):
        # Spaces, as not every terminal knows the codes that erase.
        say("\r" + " " * (terminal_width(stream) - 1) + "\r", end="", file=stream)


def say(*args, file=None, **kwargs):
    """print() at once, for what is said beside the work, on stdout or `file`.

    A full disk, a closed terminal or a reader that has gone is no reason to lose the work: what is
    printed from then on goes nowhere, and stderr says so.
    """
    stream = file or sys.stdout
    try:
        print(*args, file=stream, flush=True, **kwargs)
    except OSError as e:
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            print(f"note       goes on without printing: {in_words(e)}", file=sys.stderr,
                  flush=True)


def fail(message):
    """End the script with one line on stderr and exit status 2. message: a text or an exception."""
    # Nobody may be listening on stderr either.
    with contextlib.suppress(OSError):
        clear_line(sys.stderr)
        print(f"error: {in_words(message)}", file=sys.stderr, flush=True)
    sys.exit(2)


def run(main, less_memory=""):
    """Run a script's main(); an error that a user can cause ends in one line and exit status 2.

    less_memory: the flags with which the script takes less memory if they are smaller.
    """
    # Python leaves out what was closed before it started, as by >&-. Whatever is printed then goes
    # nowhere, instead of into the first file that the script opens.
    for name, mode in [("stdin", "r"), ("stdout", "w"), ("stderr", "w")]:
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))
    # A character that the terminal's encoding lacks is shown as "?": output never loses what was
    # computed.
    for stream in sys.stdout, sys.stderr:
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    # Instead of ctrl_c.py, which was for the imports.
    if getattr(signal.getsignal(signal.SIGINT), "__module__", "") == "ctrl_c":
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        main()
        sys.stdout.flush()
    # The reader of our output has gone, as in `python chat.py -p Hi | head -1`. 141 is what a shell
    # shows of a program that SIGPIPE ended.
    except BrokenPipeError:
        sys.exit(141)
    except (MemoryError, RuntimeError) as e:
        if lost_a_rank(e):
            fail(f"rank {os.environ['RANK']} lost another rank or cannot reach it; "
                 f"what that one printed says why ({str(e).split('. ')[0]})")
        # A GPU, Python and PyTorch on a CPU say it in different ways.
        if not (isinstance(e, (MemoryError, torch.OutOfMemoryError))
                or "can't allocate memory" in str(e)):
            raise
        # Of a GPU's many sentences, the first one says what happened.
        on_gpu = isinstance(e, torch.OutOfMemoryError)
        what = str(e).split(". ")[0] if on_gpu else "out of memory"
        if less_memory:
            fail(f"{what}. Choose a smaller {less_memory}")
        fail(f"{what}. Close other programs, or take a machine with more memory")
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
        leave_ranks(sys.exc_info()[1])


class StopSignal:
    """Ctrl-C or SIGTERM asks the training loop to save and to end. A second one ends it at once.

    So does SIGHUP, which a terminal sends when it is closed, and SIGUSR1, with which SLURM can
    announce the end of a job (--signal=USR1@120). A second one of these two changes nothing.
    received is the signal that this rank got; number is the one that all ranks agreed on. 0: none.
    """
    ENDING = ["SIGINT", "SIGTERM"]
    SAVING = ["SIGHUP", "SIGUSR1"]

    def __init__(self):
        self.received = self.number = 0
        for name in self.ENDING + self.SAVING:
            # Windows lacks some. What nohup has set to be ignored stays so.
            number = getattr(signal, name, None)
            if number and not (name == "SIGHUP" and signal.getsignal(number) is signal.SIG_IGN):
                signal.signal(number, self.handle)

    def handle(self, number, frame):
        self.received = number
        # From now on this signal ends the process, or does nothing.
        again = signal.SIG_IGN if signal.Signals(number).name in self.SAVING else signal.SIG_DFL
        signal.signal(number, again)

    def requested(self, env):
        """True on all ranks if one of them got a signal. All ranks must call this at every step."""
        # A signal that arrives during the all-reduce is handled at the next step.
        self.number = self.received
        if env.world_size > 1:
            self.number = int(env.all_max(torch.tensor(self.number, device=env.device)))
        return self.number > 0

# --------------------------------------------------------------------------------------------------
# One run at a time

def lock(path, flag="--out"):
    """Lock the file `path`.lock until this process ends, however it ends.

    ValueError names the process that holds it, and the flag by which this one can write elsewhere.
    Windows, and a disk that knows no locks, go without. So does a path without a folder, of which
    the caller will complain in its own words.
    """
    path = where_it_leads(path)
    if not (fcntl and path.parent.exists()):
        return
    held = path.with_name(path.name + ".lock")
    while True:
        file = open(held, "a+")
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise ValueError(f"{path} is being written by {holder}. Wait until it has ended, end "
                             f"it, or choose another {flag}") from None
        except OSError:
            file.close()
            return
        # Whoever held it may have removed it between our open() and our lock.
        if held.exists() and os.path.samestat(os.stat(held), os.fstat(file.fileno())):
            break
        file.close()
    file.truncate(0)
    command = shlex.join(sys.argv)[:200]
    file.write(f"process {os.getpid()} on {platform.node()}, started {STARTED:%Y-%m-%d %H:%M}: "
               f"{command}\n")
    file.flush()

    def remove(open_file):
        held.unlink(missing_ok=True)

    # This also keeps the file open, and so the lock.
    atexit.register(remove, file)


# --------------------------------------------------------------------------------------------------
# Files and folders that a crash leaves whole: a reader sees all of the old or all of the new one

@contextlib.contextmanager
def new_folder(path):
    """Yield an empty folder; once the caller has filled it, it takes the place of `path`.

    After an error it is removed, and `path` is as it was.
    """
    path = where_it_leads(path)
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


def where_it_leads(path):
    """A path without links, so that a linked folder is replaced where it lies and stays linked."""
    return Path(os.path.realpath(path))


def replace_folder(new, path):
    """Put the folder `new` in the place of `path`.

    finish_replace repairs what a crash between the two renames leaves behind.
    """
    path = where_it_leads(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # A link may lead to another disk. A rename cannot go there, and `new` stays until all is done.
    if os.stat(new).st_dev != os.stat(path.parent).st_dev:
        with new_folder(path) as copy:
            shutil.copytree(new, copy, dirs_exist_ok=True)
        shutil.rmtree(new, ignore_errors=True)
        return
    old = path.with_name(path.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        path.rename(old)
    new.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def finish_replace(path):
    """Undo a half-finished replacement: the old folder is moved aside, the new one is not there."""
    path = where_it_leads(path)
    old = path.with_name(path.name + ".old")
    if old.exists() and not path.exists():
        # Another process may be quicker.
        with contextlib.suppress(FileNotFoundError):
            old.rename(path)


def check_file(path):
    """ValueError if a device or the like is there, in whose place a file must not be put."""
    path = Path(path)
    if path.exists() and not path.is_file() and not path.is_dir():
        raise ValueError(f"{path} is not an ordinary file. Name another one")


def write_synced(path, write):
    """Call write(file) with a new file at `path`; return when its bytes are on the disk."""
    with open(path, "wb") as f:
        write(f)
        f.flush()
        os.fsync(f.fileno())
