"""decode.c for other processors, in an emulator, beside GPT.forward: 64-bit Arm, and plain x86.

Needs Debian's gcc-aarch64-linux-gnu and qemu-user; skipped without them.
"""
import ctypes
import shutil
import subprocess

import numpy as np
import pytest
import torch

from talk.decode import NativeDecoder
from toy import ROOT, tiny_model

torch.set_num_threads(1)
# Compiler, its flags, the emulator, and the width of a vector.
MACHINES = {
    "Arm, NEON": ("aarch64-linux-gnu-gcc", [], ["qemu-aarch64"], 4),
    "x86, SSE2": ("gcc", ["-march=x86-64"], [], 4),
    "x86, AVX2": ("gcc", ["-march=haswell"], [], 8),
    "x86, AVX-512": ("gcc", ["-march=skylake-avx512"], [], 16),
}
# As compiled_library() gives them.
FLAGS = ["-O3", "-fno-math-errno", "-fno-trapping-math", "-ffinite-math-only",
         "-fno-signed-zeros", "-fopenmp-simd", "-fopenmp", "-static"]


class Emulated:
    """Stands for the library of decode.c: each call runs the program decode_main.c."""
    def __init__(self, folder, compiler, flags, emulator):
        self.folder = folder
        self.command = [*emulator, str(folder / "decode")]
        subprocess.run([compiler, *FLAGS, *flags, str(ROOT / "tests/decode_main.c"),
                        "-o", str(folder / "decode"), "-lm"], check=True, capture_output=True)
        sizes = subprocess.run(self.command, check=True, capture_output=True, text=True).stdout
        self.widths = list(map(int, sizes.split()))
        self.decoder = None

    def tile(self):
        return self.widths[0]

    def width(self):
        return self.widths[1]

    def use_huge_pages(self, pointer, n_bytes):
        pass

    def decode(self, m, n_tokens, tokens, n_wanted, wanted, logits, n_mask, mask, likeliest,
               threads):
        decoder = self.decoder
        cache = decoder.cache.transpose(2, 3)
        if likeliest is None:
            masks = np.zeros(0, np.float32)
        else:
            masks = np.ctypeslib.as_array(ctypes.cast(mask, ctypes.POINTER(ctypes.c_float)),
                                          (n_wanted * n_mask,))
        with open(self.folder / "in", "wb") as f:
            np.array([getattr(m, name) for name in m.SIZES], np.int64).tofile(f)
            for weight in [*decoder.weight_tensors(), cache]:
                np.array([weight.numel()], np.int64).tofile(f)
                weight.contiguous().numpy().tofile(f)
            np.array([n_tokens, n_wanted, likeliest is not None, threads], np.int64).tofile(f)
            f.write(bytes(tokens) + bytes(wanted))
            np.array([masks.size], np.int64).tofile(f)
            masks.tofile(f)
        subprocess.run([*self.command, self.folder / "in", self.folder / "out"], check=True)
        with open(self.folder / "out", "rb") as f:
            cache.copy_(torch.from_numpy(np.fromfile(f, np.float32, cache.numel()))
                        .view(cache.shape))
            n = n_wanted * m.vocab_size
            ctypes.memmove(logits or 0, np.fromfile(f, np.float32, n).tobytes(), 4 * n)
            if likeliest is not None:
                likeliest[:n_wanted] = np.fromfile(f, np.int64).tolist()


@pytest.fixture(params=MACHINES, scope="module")
def library(request, tmp_path_factory):
    compiler, flags, emulator, width = MACHINES[request.param]
    for program in compiler, *emulator:
        if not shutil.which(program):
            pytest.skip(f"no {program} on this machine")
    instruction = {8: "avx2", 16: "avx512f"}.get(width, "")
    if not emulator and instruction not in open("/proc/cpuinfo").read():
        pytest.skip(f"no {instruction} on this machine")
    library = Emulated(tmp_path_factory.mktemp("arm"), compiler, flags, emulator)
    assert library.width() == width
    return library


@pytest.mark.parametrize("n_kv_head, n_threads", [(1, 1), (2, 2)])
def test_the_same_logits_as_the_reference_on_every_processor(library, n_kv_head, n_threads):
    # Heads of 32, so that the widest vectors go twice into one.
    model = tiny_model(n_kv_head=n_kv_head, n_embd=128, n_ff=200, vocab_size=301)
    decoder = NativeDecoder(model, library)
    library.decoder = decoder
    rng = torch.Generator().manual_seed(1)
    # 30 tokens in a pass: more than a group of rows holds.
    sequences = [torch.randint(0, 301, (n,), generator=rng).tolist() for n in (30, 11, 18)]
    torch.set_num_threads(n_threads)
    try:
        with torch.inference_mode():
            plain = [model(torch.tensor([ids]))[0] for ids in sequences]
        for row, (ids, expected) in enumerate(zip(sequences, plain)):
            decoder.reserve(row + 1, 32)
            logits = decoder.forward([ids[:-3]], [0], row, logits="all")[0]
            assert torch.allclose(logits, expected[:-3], atol=1e-4)
        # One token each for rows of different lengths, and the likeliest without what is masked.
        for i in 3, 2, 1:
            mask = torch.where(torch.rand(3, 9, generator=rng) < 0.5, -torch.inf, 200.0)
            logits, likeliest = decoder.next([ids[-i] for ids in sequences],
                                             [len(ids) - i for ids in sequences], mask)
            expected = torch.stack([logits[-i] for logits in plain])
            expected[:, -9:] += mask
            assert torch.allclose(logits, expected, atol=1e-4)
            assert likeliest == expected.argmax(-1).tolist()
    finally:
        torch.set_num_threads(1)
