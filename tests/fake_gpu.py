"""The memory that a model takes on a GPU, on a machine without one: tensors without contents.

FakeTensorMode runs every operator on shapes alone. Where CUDA has another operator than a CPU, the
one here allocates what CUDA's does. What a library keeps for itself is not counted.
"""
import functools
import weakref

import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

import common


class Memory(TorchDispatchMode):
    """Counts the bytes of all storages that are alive, in the blocks of 512 of CUDA's allocator."""

    def __init__(self):
        super().__init__()
        self.alive = {}
        self.now = self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_iter(out):
            if isinstance(tensor, torch.Tensor):
                self.add(tensor.untyped_storage())
        return out

    def add(self, storage):
        key = id(storage)
        if key in self.alive and self.alive[key][0]() is storage:
            return
        n_bytes = -(-storage.nbytes() // 512) * 512
        self.alive[key] = weakref.ref(storage, functools.partial(self.drop, key)), n_bytes
        self.now += n_bytes
        self.peak = max(self.peak, self.now)

    def drop(self, key, _):
        _, n_bytes = self.alive.pop(key)
        self.now -= n_bytes


class FusedNorm(torch.autograd.Function):
    """CUDA's RMSNorm is one kernel, which keeps its input and a number a row."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x, torch.empty(*x.shape[:-1], 1))
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx, grad):
        x, _ = ctx.saved_tensors
        return torch.empty_like(x)


def flash_attention(q, k, v, attn_mask=None, is_causal=False, **_):
    """CUDA's kernels keep the output and a number a query, but no (T, T) scores."""
    if attn_mask is None:
        return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, 0.0, is_causal)[0]
    mask = attn_mask.expand(q.size(0), q.size(1), -1, -1)
    return torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, mask, True)[0]


def fake_gpu(monkeypatch):
    """-> a Memory; from here on common.py allocates as on a GPU."""
    n = 2 * common.CHUNK
    monkeypatch.setattr(F, "rms_norm", lambda x, shape, eps=None: FusedNorm.apply(x))
    monkeypatch.setattr(F, "scaled_dot_product_attention", flash_attention)
    monkeypatch.setattr(common, "chunks", lambda x, targets: zip(x.split(n), targets.split(n)))
    return Memory()


def fake_model(config, memory):
    """A model without contents in bfloat16; to be made and used under fake_tensors()."""
    model = common.GPT(config)
    model.compute_dtype = torch.bfloat16
    for p in model.parameters():
        memory.add(p.untyped_storage())
    return model


def fake_tensors():
    return FakeTensorMode(allow_non_fake_inputs=True)
