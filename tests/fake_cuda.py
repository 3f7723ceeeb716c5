"""The code that Inductor writes for a GPU, on a machine without one.

python tests/fake_cuda.py FOLDER CARD plain,isolated [ARCH ...]   prints JSON, see report()

GPT's forward and backward pass are traced with tensors without contents, on the path that a GPU
takes, and lowered for the card. With ARCHs (75, 90), every kernel is also compiled for these, by
the ptxas that Triton ships. It changes torch as it runs, so a test gives it a process of its own,
and it holds on to internals of torch 2.13 and Triton 3.7.
"""
import ctypes
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
import torch._dynamo
import torch.nn.functional as F
from torch._functorch.aot_autograd import make_boxed_func
from torch._inductor import compile_fx, config
from torch._inductor.graph import GraphLowering
from torch._subclasses.fake_tensor import FakeTensorMode

TESTS = Path(__file__).resolve().parent
sys.path.insert(0, str(TESTS.parent))
import common  # noqa: E402
from pretrain import model_config  # noqa: E402

# Capability, multiprocessors, threads and bytes of shared memory of each of them.
CARDS = {"H100": ((9, 0), 132, 2048, 233472), "T4": ((7, 5), 40, 1024, 65536),
         "RTX 3090": ((8, 6), 82, 1536, 102400), "RTX 4090": ((8, 9), 128, 1536, 102400)}
# Layers as wide as those of depth 20.
DEPTH = 20
N_LAYER = 2
VOCAB_SIZE = 32768
SEQ_LEN = 2048
ROWS = 2
# The sizes of a program's block, where Triton would try several.
BLOCKS = {"XBLOCK": 512, "YBLOCK": 8, "R0_BLOCK": 1024}


# ---- tracing, on the CPU ----

def attention(q, k, v, attn_mask):
    """The kernels that CUDA takes: causal flash attention, and the efficient one with a mask."""
    aten = torch.ops.aten
    if attn_mask is None:
        return aten._scaled_dot_product_flash_attention(q, k, v, 0.0, True, False)[0]
    mask = attn_mask.expand(q.size(0), q.size(1), -1, -1)
    return aten._scaled_dot_product_efficient_attention(q, k, v, mask, True, 0.0, False)[0]


def trace(dtype, isolate):
    """-> the graphs of the forward and the backward pass, with their inputs, and FakeTensorMode."""
    graphs = []

    def keep(graph, inputs, **kwargs):
        graphs.append((graph, list(inputs), kwargs))
        return make_boxed_func(graph.forward)

    def backend(graph, inputs):
        return compile_fx.compile_fx(graph, inputs, inner_compile=keep)

    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    shape = model_config(DEPTH, VOCAB_SIZE, SEQ_LEN)
    shape.n_layer = N_LAYER
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode:
        model = common.GPT(shape)
        model.compute_dtype = dtype
        ids = torch.zeros(ROWS, SEQ_LEN, dtype=torch.int64)
        compiled = torch.compile(model, dynamic=False, backend=backend)
        # As many bounds as document_bounds() gives.
        bounds = torch.zeros(64, dtype=torch.int32)
        compiled(ids, ids, isolate=bounds if isolate else False).backward()
    return graphs, mode


def take_cudas_path():
    """CUDA computes rms_norm and attention in kernels of its own, and the loss in larger chunks."""
    # A class, since Dynamo knows the functions of torch by where they lie.
    functions = {name: staticmethod(f) for name, f in vars(F).items() if callable(f)}
    functions["rms_norm"] = staticmethod(
        lambda x, shape, eps=None: torch.ops.aten._fused_rms_norm(x, list(shape), None, eps)[0])
    common.F = type("Functional", (), functions)
    common.attend = attention
    common.has_varlen = lambda ids, dtype: dtype == torch.bfloat16
    n = 2 * common.CHUNK
    common.chunks = lambda x, targets: zip(x.split(n), targets.split(n))


def bytes_saved(graph):
    """Of what the forward graph keeps for the backward pass, without its inputs."""
    output = next(node for node in graph.graph.nodes if node.op == "output")
    nodes = {node for node in output.args[0]
             if isinstance(node, torch.fx.Node) and node.op != "placeholder"}
    tensors = [node.meta["val"] for node in nodes if isinstance(node.meta["val"], torch.Tensor)]
    return sum(t.numel() * t.element_size() for t in tensors)


# ---- lowering, for a GPU that is not there ----

def pretend(folder, name):
    """From here on torch, Inductor and Triton believe in this card."""
    library = folder / "guard.so"
    if not library.exists():
        root = Path(torch.__file__).parent
        subprocess.run(["g++", "-O0", "-std=c++20", "-shared", "-fPIC", f"-I{root / 'include'}",
                        str(TESTS / "fake_cuda.cpp"), "-o", str(library), f"-L{root / 'lib'}",
                        "-lc10"], check=True)
    ctypes.CDLL(str(library))

    import triton
    from torch._dynamo.device_interface import CudaInterface
    from torch.utils import _triton
    from triton.backends.compiler import GPUTarget

    capability, n_processors, threads, shared = CARDS[name]
    properties = SimpleNamespace(
        name=name, major=capability[0], minor=capability[1], multi_processor_count=n_processors,
        total_memory=80 * 2 ** 30, warp_size=32, regs_per_multiprocessor=65536,
        max_threads_per_multi_processor=threads, max_threads_per_block=1024,
        shared_memory_per_block=49152, shared_memory_per_block_optin=shared - 1024,
        shared_memory_per_multiprocessor=shared, L2_cache_size=50 * 2 ** 20, gcnArchName="",
        clock_rate=1_980_000, memory_clock_rate=2_619_000, memory_bus_width=5120,
        is_integrated=False)
    answers = dict(
        is_available=True, device_count=1, current_device=0, get_device_properties=properties,
        _get_device_properties=properties, get_device_capability=capability, get_device_name=name,
        is_initialized=True, _lazy_init=None, synchronize=None, set_device=None, set_rng_state=None,
        get_rng_state=torch.zeros(16, dtype=torch.uint8), _exchange_device=0,
        _maybe_exchange_device=0, exchange_device=0, maybe_exchange_device=0, get_raw_stream=0,
        current_stream=SimpleNamespace(cuda_stream=0, synchronize=lambda: None),
        is_bf16_supported=capability >= (8, 0))

    def answer(value):
        return lambda *args, **kwargs: value

    for key, value in answers.items():
        if hasattr(torch.cuda, key):
            setattr(torch.cuda, key, answer(value))
        if hasattr(CudaInterface, key):
            setattr(CudaInterface, key, staticmethod(answer(value)))
    for key in "getDevice", "exchangeDevice", "maybeExchangeDevice", "getCurrentRawStream":
        setattr(torch._C, f"_cuda_{key}", answer(0))
    torch._C._cuda_setDevice = answer(None)
    torch.accelerator.current_stream = answer(None)
    torch.accelerator.current_device_index = answer(0)
    torch.version.cuda = "13.0"

    # What was found out before the card came.
    for function in list(vars(_triton).values()):
        if hasattr(function, "cache_clear"):
            function.cache_clear()
    _triton.has_triton = answer(True)
    torch._inductor.scheduler.has_triton = answer(True)

    limits = dict(max_shared_mem=shared - 1024, multiprocessor_count=n_processors, warpSize=32,
                  max_num_regs=65536, sm_clock_rate=1, mem_clock_rate=1, mem_bus_width=1)
    driver = SimpleNamespace(
        get_current_target=answer(GPUTarget("cuda", 10 * capability[0] + capability[1], 32)),
        get_current_device=answer(0), get_current_stream=answer(0),
        set_current_device=answer(None), get_device_capability=answer(capability),
        get_active_torch_device=answer(torch.device("cuda", 0)),
        get_device_interface=answer(torch.cuda),
        utils=SimpleNamespace(get_device_properties=answer(limits)))
    triton.runtime.driver.set_active(driver)


def to_gpu(graph, inputs, mode):
    """Move a traced graph to the card -> its inputs there."""
    gpu = torch.device("cuda", 0)
    for node in graph.graph.nodes:
        if node.kwargs.get("device") is not None:
            node.kwargs = {**node.kwargs, "device": gpu}
        node.args = tuple(gpu if isinstance(a, torch.device) else a for a in node.args)

    class Annotate(torch.fx.Interpreter):
        def run_node(self, node):
            node.meta["val"] = super().run_node(node)
            node.meta.pop("tensor_meta", None)
            return node.meta["val"]

    with mode:
        moved = [torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=gpu)
                 if isinstance(x, torch.Tensor) else x for x in inputs]
        Annotate(graph).run(*moved)
    graph.recompile()
    return moved


class Written(Exception):
    """Inductor has written the code; it need not be loaded."""


def lower(graph, inputs, kwargs, mode):
    """-> the Python text that Inductor writes for the graph."""
    def stop(self, *args, **kwargs):
        code = self.codegen()[0]
        raise Written(getattr(code, "value", code))

    GraphLowering.compile_to_module = GraphLowering._compile_to_module = stop
    moved = to_gpu(graph, inputs, mode)
    try:
        with mode, config.patch(fx_graph_cache=False):
            compile_fx.compile_fx_inner(graph, moved, **kwargs)
    except Exception as e:
        while e and not isinstance(e, Written):
            e = e.__cause__ or getattr(e, "inner_exception", None)
            if e is None:
                raise
        return e.args[0]
    raise AssertionError("Inductor wrote nothing")


# ---- compiling the kernels ----

def kernels_of(code):
    """{function without its name: source} of the Triton kernels in what Inductor wrote."""
    found = re.findall(r"(\w+) = async_compile\.triton\('\w+', '''(.*?)'''", code, re.S)
    return {source[source.index("@triton.jit"):].replace(name, ""): source
            for name, source in found}


def compile_kernels(folder, sources, archs):
    """-> {"75": number of kernels that were compiled}, and what went wrong, a line each."""
    import torch._inductor.runtime.triton_helpers as helpers
    import torch._inductor.runtime.triton_heuristics as heuristics
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    helpers.set_driver_to_gpu = lambda: None
    kept = []

    def keep(size_hints=None, *args, triton_meta, **kwargs):
        def decorator(function):
            kept.append((triton_meta, function))
            return function
        return decorator

    for kind in "pointwise", "reduction", "persistent_reduction":
        setattr(heuristics, kind, keep)
    compiled = dict.fromkeys(archs, 0)
    failures = []
    for i, source in enumerate(sources):
        path = folder / f"kernel_{i}.py"
        path.write_text(source)
        spec = importlib.util.spec_from_file_location(path.stem, path)
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
        meta, function = kept.pop()
        signature = dict(meta["signature"])
        constants = dict(meta.get("constants", {}))
        constants |= {name: BLOCKS[name] for name in signature if name in BLOCKS}
        # A reduction has several rows, or a long one, in a program.
        if "XBLOCK" in constants and "r0_numel" in signature:
            constants["XBLOCK"] = 8 if "R0_BLOCK" in signature else 1
        signature |= dict.fromkeys(constants, "constexpr")
        for arch in archs:
            try:
                triton.compile(ASTSource(fn=function, signature=signature, constexprs=constants),
                               target=GPUTarget("cuda", int(arch), 32))
                compiled[arch] += 1
            except Exception as e:
                failures.append(f"sm_{arch} {function.__name__[:60]}: {str(e)[:200]}")
    return compiled, failures


def report(folder, card, names, archs):
    """-> {"plain" and "isolated": figures, "kernels", "compiled", "failures"}, see below."""
    take_cudas_path()
    dtype = torch.bfloat16 if CARDS[card][0] >= (8, 0) else torch.float16
    traces = {}
    found = {}
    for name in names:
        graphs, mode = trace(dtype, name == "isolated")
        breaks = dict(torch._dynamo.utils.counters["graph_break"])
        found[name] = dict(graphs=len(graphs), breaks=breaks)
        n_bytes = bytes_saved(graphs[0][0])
        found[name]["saved_bytes_a_token"] = n_bytes // (ROWS * SEQ_LEN)
        traces[name] = graphs, mode

    # The pretended card would change how the CPU's graphs are traced, so it comes after them.
    pretend(folder, card)
    sources = {}
    for name, (graphs, mode) in traces.items():
        codes = [lower(*graph, mode) for graph in graphs]
        for i, code in enumerate(codes):
            (folder / f"{name}_{i}.txt").write_text(code)
            sources |= kernels_of(code)
        found[name]["varlen_attn"] = ["_varlen_attn" in code for code in codes]
        found[name]["launches"] = [len(re.findall(r"^ *triton_\w+\.run\(", code, re.M))
                                   for code in codes]
        # Triton's names of functions that a GPU computes in many instructions.
        called = set(re.findall(r"(?:libdevice|tl_math|tl\.math)\.(\w+)\(", "".join(codes)))
        found[name]["functions"] = sorted(called)
    found["kernels"] = len(sources)
    compiled, failures = compile_kernels(folder, sources.values(), archs)
    return dict(found, compiled=compiled, failures=failures)


if __name__ == "__main__":
    folder, card, names, *archs = sys.argv[1:]
    print(json.dumps(report(Path(folder), card, names.split(","), archs)))
