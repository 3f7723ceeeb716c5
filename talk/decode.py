"""
The model once more, for generation. This is the fast relative of GPT.forward in common.py, which is
the one to read: here it gets a key-value cache and loses what only training needs.

Decoder runs on every device that PyTorch knows, on a GPU with CUDA graphs. NativeDecoder does the
same arithmetic in decode.c, which is faster on a CPU: at these sizes PyTorch spends more time on
calling its operators than on reading the weights. make_decoder picks one.

A test holds both to GPT.forward: the same logits, whether the tokens come at once, in chunks or one
by one, alone or in a batch.

Sizes in shape comments: B rows of the batch, T tokens, C channels (n_embd), H query heads, Hkv
heads of keys and values, D head size, V vocabulary.
"""
import copy
import ctypes
import hashlib
import itertools
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F

from common import rms_norm, rotary_table


class Decoder:
    """The weights of a GPT, and a key-value cache for many sequences, one in each of its rows.

    Positions behind the end of a sequence may hold leftovers: no query looks at them, and later
    tokens overwrite them.
    """

    def __init__(self, model, dtype):
        c = self.config = model.config
        self.device = model.embed.device
        self.dtype = dtype
        self.head_size = c.n_embd // c.n_head
        self.embed = rms_norm(model.embed.detach()).to(dtype)
        positions = torch.arange(c.seq_len, device=self.device)
        cos, sin = rotary_table(positions, self.head_size, c.rope_theta)
        self.cos = cos.reshape(c.seq_len, 1, -1)
        self.sin = sin.reshape(c.seq_len, 1, -1)
        # The cache has room for `rows` sequences of `size` tokens.
        self.rows = self.size = 0
        self.cache = None                   # (n_layer, rows, size, 2 Hkv, D): keys, then values
        self.use_graphs = self.device.type == "cuda"
        # (B, end) -> a recorded step. All of them share one pool of memory.
        self.graphs = {}
        self.pool = None
        self.load_weights(model)

    def load_weights(self, model):
        """Join the weights that take the same input and transpose them: (in, sum of out)."""
        def fuse(*weights):
            return torch.cat([w.detach() for w in weights]).to(self.dtype).T.contiguous()

        self.layers = [(fuse(b.attn.wq, b.attn.wk, b.attn.wv), fuse(b.attn.wo),
                        fuse(b.mlp.gate, b.mlp.up), fuse(b.mlp.down)) for b in model.blocks]
        self.head = fuse(model.head)

    def weight_tensors(self):
        """All tensors that load_weights makes, in a fixed order."""
        return [self.embed, self.head, *itertools.chain(*self.layers)]

    def update(self, model):
        """Take over the weights that the model has now, in place: recorded steps stay valid."""
        fresh = copy.copy(self)
        fresh.embed = rms_norm(model.embed.detach()).to(self.dtype)
        fresh.load_weights(model)
        for old, new in zip(self.weight_tensors(), fresh.weight_tensors()):
            old.copy_(new)

    def reserve(self, rows, size):
        """Make the cache at least this large. It keeps what it holds.

        It doubles, so that growing costs little on average.
        """
        if rows <= self.rows and size <= self.size:
            return
        new_rows, new_size = self.rows, self.size
        if rows > self.rows:
            new_rows = max(rows, 2 * self.rows)
        if size > self.size:
            new_size = min(max(size, 2 * self.size), self.config.seq_len)
        old = self.cache
        # The padding of a recorded step writes to a spare row.
        spare = 1 if self.use_graphs else 0
        self.cache = self.new_cache(new_rows + spare, new_size)
        if self.rows:
            self.cache[:, :self.rows, :self.size] = old[:, :self.rows]
        self.rows, self.size = new_rows, new_size
        # Recorded steps read the old cache.
        self.graphs = {}
        self.pool = None

    def new_cache(self, rows, size):
        # Zeros, because a masked position still adds 0 times its value: with a leftover NaN in
        # uninitialised memory that would be NaN.
        return torch.zeros(self.config.n_layer, rows, size, 2 * self.config.n_kv_head,
                           self.head_size, dtype=self.dtype, device=self.device)

    def forward(self, ids, start, row=0, logits="last"):
        """Put ids (B, T) into the cache rows row..row+B-1, at positions start[b]..start[b]+T-1.

        Returns float32 logits: (B, V) of the "last" tokens, (B, T, V) of "all", or None for None.
        """
        B = len(ids)
        T = len(ids[0])
        # No position from `end` on is written or looked at.
        end = max(start) + T
        if self.use_graphs and T == 1 and row == 0 and logits == "last":
            return self.replay(ids, start, end)
        positions = torch.tensor(start)[:, None] + torch.arange(T)           # (B, T)
        slots = (row + torch.arange(B))[:, None] * self.size + positions     # (B, T)
        tensors = [tensor.to(self.device, non_blocking=True)
                   for tensor in (torch.tensor(ids).flatten(), positions, slots.flatten())]
        return self.compute(*tensors, slice(row, row + B), end, logits)

    def prefill(self, pieces, most):
        """Put the ids of several sequences into the cache, in one pass if it is not too large.

        pieces: (ids, start, row), each of another row; the ids go to start, start + 1, ...
        most: a pass reads at most so many keys, with the padding: each of its sequences counts as
        long as the longest. The longest are together, so that there is little padding.
        """
        passes = []
        for piece in sorted(pieces, key=end_of, reverse=True):
            if not passes or (len(passes[-1]) + 1) * end_of(passes[-1][0]) > most:
                passes.append([])
            passes[-1].append(piece)
        for together in passes:
            if len(together) == 1:
                [(ids, start, row)] = together
                self.forward([ids], [start], row, logits=None)
            else:
                self.prefill_together(together)

    def prefill_together(self, pieces):
        """prefill() in one pass."""
        B = len(pieces)
        T = max(len(ids) for ids, _, _ in pieces)
        end = max(map(end_of, pieces))
        all_ids = []
        slots = []
        places = []
        # Only the attention needs padding. Padded tokens look at position 0 and at no other.
        positions = torch.zeros(B, T, dtype=torch.int64)
        for b, (ids, start, row) in enumerate(pieces):
            n = len(ids)
            all_ids += ids
            positions[b, :n] = torch.arange(start, start + n)
            slots += range(row * self.size + start, row * self.size + start + n)
            places += range(b * T, b * T + n)
        rows = [row for _, _, row in pieces]
        ids, slots, places, rows = [torch.tensor(numbers).to(self.device, non_blocking=True)
                                    for numbers in (all_ids, slots, places, rows)]
        positions = positions.to(self.device, non_blocking=True)
        self.compute(ids, positions, slots, rows, end, None, places)

    def next(self, ids, start, mask):
        """A step of generation: one id for each of the cache rows 0..B-1.

        start: their positions (B).
        mask: (B, S) float32, added to the logits of the last S ids, which are the special tokens.
        Returns the logits (B, V), valid until the next call, and a list of the likeliest id in each
        row.
        """
        logits = self.forward([[id] for id in ids], start)
        logits[:, -mask.size(1):] += mask
        return logits, logits.argmax(-1).tolist()

    def compute(self, ids, positions, slots, rows, end, logits, places=None):
        """The arithmetic of forward and prefill, on tensors. N tokens, of B sequences.

        ids, slots (N): slots say where the tokens go in the cache, counted through all its rows.
        positions (B, T). rows: a slice of the cache's rows, or a tensor (B) of their numbers.
        places (N): where the tokens stand among B*T positions, some of which are padding; without
        it N is B*T.
        """
        n_head, n_kv_head = self.config.n_head, self.config.n_kv_head
        n_qk = n_head + n_kv_head
        D = self.head_size
        B, T = positions.shape
        N = len(ids)
        # So many query heads, side by side, share a head of keys and values.
        group = n_head // n_kv_head
        mask = None
        # A single token alone needs no mask, unless `end` was rounded up for a graph.
        if B * T > 1 or self.use_graphs:
            # True where a query may look at a key.
            mask = torch.arange(end, device=self.device) <= positions[..., None]     # (B, T, end)
            mask = mask[:, None]                                                  # (B, 1, T, end)
            if group > 1:
                mask = mask.repeat_interleave(group, dim=2)              # (B, 1, T * group, end)
        positions = positions.flatten()
        if places is not None:
            positions = positions[places]
        cos = self.cos[positions]                                        # (N, 1, D / 2)
        sin = self.sin[positions]
        # Both halves of a head at once.
        cos = torch.cat([cos, cos], -1)                                  # (N, 1, D)
        sin = torch.cat([-sin, sin], -1)

        x = self.embed[ids]                                              # (N, C)
        for (wqkv, wo, gate_up, down), cache in zip(self.layers, self.cache):
            # QK-norm and the rotation of queries and keys.
            qkv = torch.mm(rms_norm(x), wqkv).view(N, -1, D)             # (N, H + 2 Hkv, D)
            qk = rms_norm(qkv[:, :n_qk]).float()
            qkv[:, :n_qk] = torch.addcmul(qk * cos, qk.roll(D // 2, -1), sin)

            cache.view(-1, 2 * n_kv_head, D).index_copy_(0, slots, qkv[:, n_head:])
            kv = cache[rows, :end].transpose(1, 2)                       # (B, 2 Hkv, end, D)
            k, v = kv.chunk(2, dim=1)                                    # each (B, Hkv, end, D)
            q = qkv[:, :n_head]                                          # (N, H, D)
            if places is not None:
                q = q.new_zeros(B * T, n_head, D).index_copy_(0, places, q)
            # SDPA's masked CUDA kernel does not support grouped queries, so the queries of a group
            # stand one behind the other, as if they were tokens.
            q = q.reshape(B, T, n_kv_head, group, D)
            q = q.transpose(1, 2).reshape(B, n_kv_head, T * group, D)
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            y = y.reshape(B, n_kv_head, T, group * D).transpose(1, 2).reshape(B * T, -1)
            if places is not None:
                y = y[places]
            x = torch.addmm(x, y, wo)

            gate, up = torch.mm(rms_norm(x), gate_up).chunk(2, dim=-1)
            x = torch.addmm(x, F.silu(gate) * up, down)

        if logits is None:
            return None
        x = x.view(B, T, -1)
        if logits == "last":
            x = x[:, -1]
        return torch.matmul(rms_norm(x), self.head).float()

    def replay(self, ids, start, end):
        """One token for each of B sequences from a CUDA graph.

        The GPU runs kernels that were recorded once, so that Python need not launch them. A graph
        has fixed shapes: B is rounded up to a power of two and `end` to a multiple of 256.
        """
        B = len(ids)
        rows = 1 << (B - 1).bit_length()
        self.reserve(rows, end)
        padded_end = min(self.size, -(-end // 256) * 256)
        if (rows, padded_end) not in self.graphs:
            self.graphs[rows, padded_end] = self.record(rows, padded_end)
        graph, inputs, out = self.graphs[rows, padded_end]
        slots = [row * self.size + position for row, position in enumerate(start)]
        # The tokens that pad the batch go to the spare row behind all others.
        n_pad = rows - B
        inputs.copy_(torch.tensor([[id for [id] in ids] + [0] * n_pad,
                                   start + [0] * n_pad,
                                   slots + [self.rows * self.size] * n_pad]), non_blocking=True)
        graph.replay()
        return out[:B].clone()

    def record(self, rows, end):
        """Record a step of fixed shape. Returns the graph, its inputs and its logits."""
        inputs = torch.zeros(3, rows, dtype=torch.long, device=self.device)
        ids, positions, slots = inputs
        # The trial runs must not touch any row but the spare one.
        slots.fill_(self.rows * self.size)

        def step():
            return self.compute(ids, positions[:, None], slots, slice(rows), end, "last")

        # Two trial runs on another stream: libraries set themselves up before the recording.
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            step()
            step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # All graphs share their scratch memory.
        with torch.cuda.graph(graph, pool=self.pool):
            out = step()
        self.pool = graph.pool()
        return graph, inputs, out

    def copy(self, source, target, length):
        """Copy the first `length` positions of row `source` to row `target`."""
        self.cache[:, target, :length] = self.cache[:, source, :length]

    def swap(self, a, b, length):
        """Exchange the first `length` positions of two rows."""
        # With the index [a, b] a GPU would have to wait for these numbers.
        before = self.cache[:, a, :length].clone()
        self.copy(b, a, length)
        self.cache[:, b, :length] = before


def end_of(piece):
    """The position behind a piece (ids, start, row) of prefill."""
    ids, start, _ = piece
    return start + len(ids)

# --------------------------------------------------------------------------------------------------
# decode.c

class Model(ctypes.Structure):
    """struct Model of decode.c, with its fields in the same order."""
    SIZES = ["n_layer", "n_embd", "n_head", "n_kv_head", "head_size", "n_ff", "vocab_size",
             "max_size", "cache_rows", "cache_size"]
    POINTERS = ["embed", "head", "cos", "sin", "wqkv", "wo", "gate_up", "down", "cache", "x",
                "qkv", "y", "hidden", "scores"]
    _fields_ = ([(name, ctypes.c_int64) for name in SIZES]
                + [(name, ctypes.c_void_p) for name in POINTERS])


class NativeDecoder(Decoder):
    """Decoder for a CPU in float32, by decode.c."""

    def __init__(self, model, library):
        self.library = library
        self.tile = library.tile()
        # So many tokens and threads the scratch buffers have room for.
        self.room = self.threads = 0
        self.likeliest = ()
        self.mask = None
        # Row r of Decoder is row places[r] of the cache in memory: swap() moves no memory.
        self.places = []
        super().__init__(model, torch.float32)

    def empty(self, *shape):
        """A float32 tensor on large pages of memory."""
        tensor = torch.empty(shape)
        self.library.use_huge_pages(tensor.data_ptr(), 4 * tensor.numel())
        return tensor

    def large(self, tensor):
        return self.empty(*tensor.shape).copy_(tensor)

    def load_weights(self, model):
        def panels(*weights):
            # (out, in) -> (out / tile, in, tile), the layout that decode.c describes.
            weight = torch.cat([w.detach().float() for w in weights])
            weight = F.pad(weight, (0, 0, 0, -len(weight) % self.tile))
            return weight.view(-1, self.tile, weight.size(1)).transpose(1, 2)

        c, blocks, large = self.config, model.blocks, self.large
        self.weights = {"embed": self.embed.contiguous(), "head": large(panels(model.head)),
                        "cos": self.cos.contiguous(), "sin": self.sin.contiguous()}
        self.layers = {
            "wqkv": [large(panels(b.attn.wq, b.attn.wk, b.attn.wv)) for b in blocks],
            "wo": [large(panels(b.attn.wo)) for b in blocks],
            "gate_up": [large(torch.stack([panels(b.mlp.gate), panels(b.mlp.up)], 1))
                        for b in blocks],
            "down": [large(panels(b.mlp.down)) for b in blocks]}
        self.pointers = {}
        for name, weights in self.layers.items():
            self.pointers[name] = (ctypes.c_void_p * c.n_layer)(*[w.data_ptr() for w in weights])
        self.model = Model(
            n_layer=c.n_layer, n_embd=c.n_embd, n_head=c.n_head, n_kv_head=c.n_kv_head,
            head_size=self.head_size, n_ff=c.n_ff, vocab_size=c.vocab_size, max_size=c.seq_len,
            **{name: weight.data_ptr() for name, weight in self.weights.items()},
            **{name: ctypes.addressof(array) for name, array in self.pointers.items()})

    def weight_tensors(self):
        return [*self.weights.values(), *itertools.chain(*self.layers.values())]

    def new_cache(self, rows, size):
        """The cache, in memory (n_layer, rows, 2 Hkv, size, D).

        The positions of a head follow each other, so that decode.c reads them in one stream.
        """
        cache = self.empty(self.config.n_layer, rows, 2 * self.config.n_kv_head, size,
                           self.head_size)
        self.model.cache = cache.data_ptr()
        self.model.cache_rows = rows
        self.model.cache_size = size
        self.places += range(len(self.places), rows)
        return cache.transpose(2, 3)

    def copy(self, source, target, length):
        super().copy(self.places[source], self.places[target], length)

    def swap(self, a, b, length):
        self.places[a], self.places[b] = self.places[b], self.places[a]

    def forward(self, ids, start, row=0, logits="last"):
        B = len(ids)
        T = len(ids[0])
        tokens = []
        for b in range(B):
            for t, id in enumerate(ids[b]):
                tokens += [id, self.places[row + b], start[b] + t]
        wanted = {"last": range(T - 1, B * T, T), "all": range(B * T), None: ()}[logits]
        out = torch.empty(len(wanted), self.config.vocab_size)
        self.decode(tokens, wanted, out.data_ptr())
        if logits is None:
            return None
        return out.view(B, T, -1) if logits == "all" else out

    def prefill(self, pieces, most):
        # Here nothing is padded, so it is always one pass.
        tokens = []
        for ids, start, row in pieces:
            for position, id in enumerate(ids, start):
                tokens += [id, self.places[row], position]
        self.decode(tokens, (), None)

    def next(self, ids, start, mask):
        # As few calls into PyTorch as possible: a step drives PyTorch's own code and data out of
        # the processor's caches, and a call then takes 20 us and more.
        B = len(ids)
        if B > len(self.likeliest):
            self.likeliest = (ctypes.c_int64 * B)()
            self.logits = self.empty(B, self.config.vocab_size)
            self.logits_pointer = self.logits.data_ptr()
        if mask is not self.mask:
            self.mask = mask
            self.mask_pointer = mask.data_ptr()
        tokens = [number for token in zip(ids, self.places, start) for number in token]
        self.decode(tokens, range(B), self.logits_pointer, mask.size(1), self.mask_pointer,
                    self.likeliest)
        return self.logits, self.likeliest[:B]

    def decode(self, tokens, wanted, logits, n_mask=0, mask=None, likeliest=None):
        """Call decode() of decode.c.

        tokens: id, place, position, id, place, position... The rest is as in decode.c, with
        pointers as integers.
        """
        n_tokens = len(tokens) // 3
        threads = torch.get_num_threads()
        if n_tokens > self.room or threads > self.threads:
            self.make_scratch(2 * n_tokens, threads)
        self.library.decode(self.model, n_tokens, int64_array(tokens), len(wanted),
                            int64_array(wanted), logits, n_mask, mask, likeliest, threads)

    def make_scratch(self, room, threads):
        """Buffers for what lies between two products, for up to `room` tokens at once."""
        self.room = room
        self.threads = threads
        c = self.config
        shapes = {"x": (room, c.n_embd),
                  "qkv": (room, (c.n_head + 2 * c.n_kv_head) * self.head_size),
                  "y": (room, c.n_embd), "hidden": (room, c.n_ff), "scores": (threads, c.seq_len)}
        self.scratch = {name: torch.empty(shape) for name, shape in shapes.items()}
        for name, buffer in self.scratch.items():
            setattr(self.model, name, buffer.data_ptr())


def int64_array(values):
    return (ctypes.c_int64 * len(values))(*values)


def processor(cpuinfo=Path("/proc/cpuinfo")):
    """The model of the processor and its instructions, to be told from others."""
    if cpuinfo.exists():
        first = cpuinfo.read_text().split("\n\n")[0]
        # Other lines change all the time, as the clock rate does.
        return re.findall(r"^(?:cpu|cpu family|model|model name|flags|Features|isa|CPU \w+)\s*:.*",
                          first, re.M)
    if sys.platform == "darwin":
        return subprocess.run(["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True,
                              text=True).stdout
    return platform.processor()


def compiled_library():
    """decode.c as a loaded library, or None where there is no C compiler.

    It is compiled for this processor at the first use. Another one, in a copied folder or on a
    shared disk, may lack its instructions, and gets a library of its own.
    """
    source = Path(__file__).with_name("decode.c")
    compiler = (os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
                or shutil.which("clang"))
    if not compiler or sysconfig.get_platform().startswith("win"):
        return None
    made_from = source.read_bytes() + f"{platform.uname()} {compiler} {processor()}".encode()
    # Python, too, puts here what it has compiled.
    folder = source.parent / "__pycache__"
    path = folder / f"decode-{hashlib.sha256(made_from).hexdigest()[:16]}.so"
    try:
        folder.mkdir(exist_ok=True)
        if not path.exists():
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                # A compiler without OpenMP (macOS) makes a library with one thread. Some for Arm
                # know no -march=native, and NEON is there without it.
                for extra in (["-march=native", "-fopenmp"], ["-march=native"], ["-fopenmp"], []):
                    command = [*compiler.split(), "-O3", *extra, "-fno-math-errno",
                               "-fno-trapping-math", "-ffinite-math-only", "-fno-signed-zeros",
                               "-fopenmp-simd", "-shared", "-fPIC", str(source),
                               "-o", f"{scratch}/decode.so", "-lm"]
                    if subprocess.run(command, capture_output=True).returncode == 0:
                        break
                # What cannot be loaded is not kept.
                ctypes.CDLL(f"{scratch}/decode.so")
                os.replace(f"{scratch}/decode.so", path)
        library = ctypes.CDLL(str(path))
    except OSError:
        # The folder is read-only, or the compiler failed: Decoder takes over.
        return None
    number = ctypes.c_int64
    numbers = ctypes.POINTER(number)
    pointer = ctypes.c_void_p
    library.decode.argtypes = [ctypes.POINTER(Model), number, numbers, number, numbers, pointer,
                               number, pointer, numbers, number]
    library.decode.restype = None
    library.use_huge_pages.argtypes = [pointer, number]
    library.use_huge_pages.restype = None
    return library


def make_decoder(model, dtype, compile=True):
    """The fastest decoder for this device.

    compile=False: Decoder with PyTorch's operators one by one, on every device.
    """
    if compile and model.embed.device.type == "cpu" and dtype == torch.float32:
        library = compiled_library()
        head_size = model.config.n_embd // model.config.n_head
        # decode.c handles two vectors of a head at a time.
        if library and head_size % (2 * library.width()) == 0:
            return NativeDecoder(model, library)
    decoder = Decoder(model, dtype)
    decoder.use_graphs &= compile
    return decoder
