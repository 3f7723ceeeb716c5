"""train/optimizer.py against plain references; its state saved, loaded and divided over ranks."""
import gc
import math
import weakref

import pytest
import torch

from machine import Env
from toy import random_ids, tiny_model
from train.optimizer import LossScale, Optimizer, orthogonalize

torch.set_num_threads(1)
ENV = Env(torch.device("cpu"), torch.float32)
HALF = Env(torch.device("cpu"), torch.float16)


def polynomial(g):
    """Polar Express on the singular values themselves, in float64."""
    # The coefficients of the paper, written out once more.
    quintics = [(8.28721, -23.59589, 17.30039), (4.10706, -2.94785, 0.54484),
                (3.94869, -2.90890, 0.55182), (3.31842, -2.48849, 0.51005),
                (2.30065, -1.66890, 0.41881)]
    u, s, vh = torch.linalg.svd(g.double(), full_matrices=False)
    s = s / (s.norm() * 1.01)
    for i, (a, b, c) in enumerate(quintics):
        s = s / 1.01 if i < 4 else s
        s = a * s + b * s ** 3 + c * s ** 5
    return u @ torch.diag(s) @ vh


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(64, 64), (128, 32), (32, 128)])
def test_orthogonalize_keeps_the_subspace_and_sets_singular_values_near_1(shape, dtype):
    g = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    g *= torch.tensor([1e-6, 1.0, 1e4])[:, None, None]
    x = orthogonalize(g, dtype)
    assert x.dtype == torch.float32
    assert orthogonalize(torch.zeros(1, *shape), dtype).abs().max() == 0
    s = torch.linalg.svdvals(x)
    # A square matrix of Gaussians has a few singular values near 0.
    assert s[:, :-3].min() > 0.6 and s.max() < 1.25
    u, _, vh = torch.linalg.svd(g, full_matrices=False)
    cosine = (x * (u @ vh)).sum((1, 2)) / x.norm(dim=(1, 2)) / (u @ vh).norm(dim=(1, 2))
    assert cosine.min() > 0.97
    # In float32 the difference comes from the 1e-7 that is added to the norm: the first matrix is
    # small enough to feel it.
    tolerance = 0.06 if dtype == torch.bfloat16 else 0.01
    for matrix, exact in zip(x, map(polynomial, g)):
        assert (matrix - exact).norm() < tolerance * exact.norm()


def test_muon_and_adamw_equal_plain_references():
    model = tiny_model(n_head=2, n_kv_head=1)
    optimizer = Optimizer(model, ENV, matrix_lr=0.05, embed_lr=0.3, head_lr=0.01, weight_decay=0.1)
    optimizer.orthogonalize = lambda g, dtype: torch.stack(
        [polynomial(matrix) for matrix in g]).float()

    # The references: torch's AdamW, and Muon written out for one matrix at a time.
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    embed = torch.nn.Parameter(start["embed"].clone())
    head = torch.nn.Parameter(start["head"].clone())
    adamw = torch.optim.AdamW([dict(params=[embed], lr=0.3), dict(params=[head], lr=0.01)],
                              betas=(0.8, 0.95), eps=1e-10, weight_decay=0)
    muon = {name: [p.double(), torch.zeros_like(p).double(), [0.0] * max(p.shape)]
            for name, p in start.items() if "blocks" in name}

    rng = torch.Generator().manual_seed(0)
    for step, (scale, momentum) in enumerate([(0.1, 0.85), (0.5, 0.9), (1.0, 0.95), (0.3, 0.95)]):
        grads = {name: torch.randn(p.shape, generator=rng) * 10.0 ** (step - 2)
                 for name, p in model.named_parameters()}
        for name, p in model.named_parameters():
            p.grad = grads[name].clone()
        norm = optimizer.step(scale, momentum)
        square = sum(g.square().sum().item() for g in grads.values())
        assert norm.item() == pytest.approx(math.sqrt(square), rel=1e-5)
        assert all(p.grad is None for p in model.parameters())

        embed.grad = grads["embed"]
        head.grad = grads["head"]
        for group, lr in zip(adamw.param_groups, (0.3, 0.01)):
            group["lr"] = lr * scale
        adamw.step()

        for name, (w, buffer, mean_square) in muon.items():
            g = grads[name].double()
            buffer.mul_(momentum).add_((1 - momentum) * g)
            update = polynomial((1 - momentum) * g + momentum * buffer)
            balanced = update.clone()
            # A neuron is a vector along the shorter side.
            for i in range(max(w.shape)):
                neuron = balanced[i] if w.size(0) >= w.size(1) else balanced[:, i]
                mean_square[i] = 0.9 * mean_square[i] + 0.1 * (neuron ** 2).mean().item()
                neuron /= math.sqrt(mean_square[i] / (1 - 0.9 ** (step + 1)))
            balanced *= update.norm() / balanced.norm() * max(1, w.size(0) / w.size(1)) ** 0.5
            w.mul_(1 - 0.05 * scale * 0.1).sub_(0.05 * scale * balanced)

    torch.testing.assert_close(model.embed, embed, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(model.head, head, rtol=1e-5, atol=1e-6)
    for name, (w, *_) in muon.items():
        torch.testing.assert_close(model.get_parameter(name), w.float(), rtol=1e-4, atol=1e-5)


def test_a_matrix_without_gradients_stays_where_it_is():
    # That happens at the first step: what wq, gate and others compute is multiplied by zeros.
    model = tiny_model()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    Optimizer(model, ENV, 0.05, 0.3, 0.01, 0.0).step(1.0, 0.95)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_the_gradients_of_the_matrices_are_freed_before_the_first_update():
    """At depth 20 they take 1.6 GB, at the moment when a step needs the most memory."""
    model = tiny_model()
    optimizer = new_optimizer(model)
    gradients = []
    for p in model.parameters():
        p.grad = torch.randn(p.shape)
        gradients.append(weakref.ref(p.grad))
    alive = []

    def count_and_orthogonalize(g, dtype):
        gc.collect()
        alive.append(sum(gradient() is not None for gradient in gradients))
        return orthogonalize(g, dtype)
    optimizer.orthogonalize = count_and_orthogonalize
    optimizer.step(1.0, 0.95)
    # The embedding's and the head's are not copied: their updates read them.
    assert len(alive) > 1 and max(alive) <= 2


def take_steps(model, optimizer, n, seed):
    rng = torch.Generator().manual_seed(seed)
    for _ in range(n):
        for p in model.parameters():
            p.grad = torch.randn(p.shape, generator=rng)
        optimizer.step(0.5, 0.95)


def new_optimizer(model, env=ENV):
    return Optimizer(model, env, 0.05, 0.3, 0.01, 0.1)


def test_the_optimizer_goes_on_from_its_saved_state_to_the_bit():
    model = tiny_model()
    optimizer = new_optimizer(model)
    take_steps(model, optimizer, 3, seed=1)
    other = tiny_model()
    other.load_state_dict(model.state_dict())
    resumed = new_optimizer(other)
    resumed.load_state_dict(optimizer.state_dict())
    take_steps(model, optimizer, 2, seed=2)
    take_steps(other, resumed, 2, seed=2)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), other.parameters()))


@pytest.mark.parametrize("world_size", [2, 3, 7])
def test_the_shares_of_any_number_of_ranks_add_up_to_the_whole_state(world_size):
    model = tiny_model(n_layer=1)
    whole = new_optimizer(model)
    take_steps(model, whole, 2, seed=1)
    ranks = [new_optimizer(model, Env(ENV.device, ENV.dtype, rank, world_size))
             for rank in range(world_size)]
    for rank in ranks:
        rank.load_state_dict(whole.state_dict())
        assert rank.count == 2
    for name, g in whole.groups.items():
        for i, state in enumerate(g["state"]):
            pieces = torch.cat([rank.groups[name]["state"][i] for rank in ranks])
            assert torch.equal(pieces[:len(state)], state)
            assert len(pieces) < len(state) + world_size and not pieces[len(state):].any()


# ---- float16: the scale of the loss ----

def test_the_scale_halves_at_each_overflow_and_doubles_after_2000_good_steps():
    scale = LossScale(torch.float16)
    assert scale.factor == 65536
    for _ in range(1999):
        scale.update(True)
    assert scale.factor == 65536
    scale.update(True)
    assert scale.factor == 131072
    scale.update(False)
    scale.update(False)
    assert scale.factor == 32768 and scale.skipped == 2
    # The 2,000 begin anew.
    for _ in range(2000):
        scale.update(True)
    assert scale.factor == 65536 and scale.skipped == 2
    with pytest.raises(ValueError, match="do not fit float16.*--dtype float32"):
        for _ in range(100):
            scale.update(False)
    for dtype in torch.float32, torch.bfloat16:
        assert LossScale(dtype).factor == 1


def test_the_scale_is_taken_out_of_the_gradients_without_rounding():
    """The same gradients, times the scale: norm and weights are the same to the bit."""
    one = tiny_model()
    other = tiny_model()
    optimizers = [new_optimizer(one, HALF), new_optimizer(other, HALF)]
    optimizers[1].loss_scale.factor = 2.0 ** 20
    for step in range(3):
        norms = []
        for model, optimizer in zip((one, other), optimizers):
            rng = torch.Generator().manual_seed(step)
            for p in model.parameters():
                p.grad = torch.randn(p.shape, generator=rng) * optimizer.loss_scale.factor
            norms.append(optimizer.step(0.5, 0.95))
        assert torch.equal(*norms)
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), other.parameters()))


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_a_step_whose_gradients_overflow_is_skipped_and_counted(bad):
    model = tiny_model()
    optimizer = new_optimizer(model, HALF)
    take_steps(model, optimizer, 2, seed=1)
    weights = [p.detach().clone() for p in model.parameters()]
    state = [t.clone() for g in optimizer.groups.values() for t in g["state"]]
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    model.blocks[0].mlp.up.grad[0, 0] = bad
    assert optimizer.step(0.5, 0.95) == 0
    assert all(p.grad is None for p in model.parameters())
    assert all(map(torch.equal, weights, model.parameters()))
    assert all(map(torch.equal, state, [t for g in optimizer.groups.values() for t in g["state"]]))
    assert optimizer.count == 2
    assert optimizer.loss_scale.skipped == 1 and optimizer.loss_scale.factor == 32768


def test_the_scale_is_saved_with_the_state_in_float16_alone():
    model = tiny_model()
    optimizer = new_optimizer(model, HALF)
    optimizer.loss_scale.update(False)
    optimizer.loss_scale.update(True)
    resumed = new_optimizer(model, HALF)
    resumed.load_state_dict(optimizer.state_dict())
    assert vars(resumed.loss_scale) == vars(optimizer.loss_scale)
    assert resumed.loss_scale.factor == 32768 and resumed.loss_scale.good_steps == 1
    assert new_optimizer(model).state_dict().keys() == {"count", "state"}


def train(dtype, factor=None, n_target=2 ** 22):
    """Twenty steps of one batch, its loss divided as in steps of n_target tokens.

    -> the loss of each step, the optimizer.
    """
    model = tiny_model()
    model.compute_dtype = dtype
    optimizer = new_optimizer(model, Env(ENV.device, dtype))
    if factor:
        optimizer.loss_scale.factor = factor
    ids = random_ids(8, 33)
    losses = []
    for _ in range(20):
        loss = model(ids[:, :-1], ids[:, 1:])
        losses.append(loss.item() / 256)
        (loss / n_target * optimizer.loss_scale.factor).backward()
        optimizer.step(0.1, 0.95)
    return losses, optimizer


def test_training_in_float16_learns_what_float32_learns():
    expected, _ = train(torch.float32)
    losses, optimizer = train(torch.float16)
    assert losses == pytest.approx(expected, rel=0.02) and expected[-1] < 0.8 * expected[0]
    assert optimizer.loss_scale.skipped == 0
    # Without the scale the gradients of so large a step are 0 in float16.
    unscaled, _ = train(torch.float16, factor=1.0)
    assert unscaled[-1] > 1.1 * losses[-1]


def test_a_scale_that_is_too_large_is_found_and_training_goes_on():
    losses, optimizer = train(torch.float16, factor=2.0 ** 40)
    assert 0 < optimizer.loss_scale.skipped < 20
    assert optimizer.loss_scale.factor == 2.0 ** (40 - optimizer.loss_scale.skipped)
    assert optimizer.count == 20 - optimizer.loss_scale.skipped and losses[-1] < losses[0]
