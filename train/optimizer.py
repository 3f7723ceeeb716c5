"""
The optimizer: Muon for the matrices of the blocks, AdamW for the embedding and the head.

It also sums the gradients over the ranks, and each rank keeps a share of the optimizer's state.
In float16 it takes the scale of the loss out of them.
"""
import torch
import torch.distributed as dist

from machine import try_to_compile

# The coefficients (a, b, c) of five odd polynomials a x + b x^3 + c x^5, to be applied in turn.
POLAR_EXPRESS = [(8.28721, -23.59589, 17.30039),
                 (4.10706, -2.94785, 0.54484),
                 (3.94869, -2.90890, 0.55182),
                 (3.31842, -2.48849, 0.51005),
                 (2.30065, -1.66890, 0.41881)]


def orthogonalize(g, dtype):
    """g (n, rows, cols) -> the nearest semi-orthogonal matrices, float32.

    They have the singular vectors of g, and all their singular values are near 1.
    Polar Express, Amsel et al. 2025, arXiv:2505.16932: a polynomial in x and x x^T acts on the
    singular values alone, and these five bring every value from 1e-3 to 1 near 1. All but the last
    are applied to x / 1.01, so that rounding pushes no value out of the range where they converge.

    dtype is that of the matrix products. It must be the run's: a CPU without an instruction for
    bfloat16 takes 45 times as long or more for them as in float32 (pytorch#146508).
    """
    if dtype == torch.float16:
        # It holds numbers from 6e-8 to 65504 alone: first bring those of g into the middle.
        g = g / (g.norm(dim=(-2, -1), keepdim=True) + 1e-30)
    x = g.to(dtype)
    # For a tall matrix, x^T x is smaller than x x^T: work on the transpose.
    tall = x.size(-2) > x.size(-1)
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) * 1.01 + 1e-7)
    for i, (a, b, c) in enumerate(POLAR_EXPRESS):
        s = 1.01 if i < len(POLAR_EXPRESS) - 1 else 1.0
        xx = x @ x.mT
        # (a/s) x + (b/s^3 xx + c/s^5 xx xx) x
        polynomial = torch.baddbmm(xx, xx, xx, beta=b / s ** 3, alpha=c / s ** 5)
        x = torch.baddbmm(x, polynomial, x, beta=a / s)
    if tall:
        x = x.mT
    return x.float()


def balance_neurons(update, mean_square, count):
    """NorMuon: neurons whose updates stay small over time get larger ones, and the other way round.

    Li et al. 2025, arXiv:2510.05491.
    update (n, rows, cols): the norm of each matrix stays the same.
    A neuron is a vector along the shorter side, since the vectors along the longer side of a
    semi-orthogonal matrix are equally long already.
    mean_square (n, rows, 1) or (n, 1, cols): a running average for each neuron, changed in place.
    """
    mean_square.lerp_(update.square().mean(neuron_dim(update), keepdim=True), 0.1)
    # mean_square starts at zero; the division undoes that bias.
    balanced = update * (mean_square / (1 - 0.9 ** count)).clamp_min(1e-10).rsqrt()
    norm = update.norm(dim=(-2, -1), keepdim=True)
    new_norm = balanced.norm(dim=(-2, -1), keepdim=True)
    return balanced * (norm / new_norm.clamp_min(1e-7))


def neuron_dim(x):
    return -1 if x.size(-2) >= x.size(-1) else -2


class LossScale:
    """The factor that keeps gradients within the range of float16; 1 in every other dtype.

    Gradients under 6e-8 would be 0. So the loss is multiplied by as large a factor as fits, and
    the optimizer divides the sums of the gradients, in float32, by the same. If one was too large
    after all, the step is skipped and the factor halved; after 2,000 steps without that it is
    doubled. Micikevicius et al. 2018, arXiv:1710.03740, sec. 3.2. As it is a power of two, the
    division does not round.
    """
    def __init__(self, dtype):
        self.is_used = dtype == torch.float16
        self.factor = 2.0 ** 16 if self.is_used else 1.0
        # Since the factor was changed, and in the whole run.
        self.good_steps = 0
        self.skipped = 0

    def update(self, is_finite):
        """After each step: were its gradients finite? ValueError if no factor makes them so."""
        if is_finite:
            self.good_steps += 1
            if self.good_steps == 2000:
                self.factor *= 2
                self.good_steps = 0
            return
        self.factor /= 2
        self.good_steps = 0
        self.skipped += 1
        if self.factor < 2.0 ** -10:
            raise ValueError("the gradients do not fit float16, however small the loss's factor: "
                             "go on from the last checkpoint with --resume, or start afresh with "
                             "smaller learning rates or with --dtype float32")

    def state_dict(self):
        return dict(factor=self.factor, good_steps=self.good_steps, skipped=self.skipped)

    def load_state_dict(self, saved):
        self.factor = saved["factor"]
        self.good_steps = saved["good_steps"]
        self.skipped = saved["skipped"]


class Optimizer:
    """Muon (Jordan et al. 2024) and AdamW (Loshchilov and Hutter 2019, alg. 2) over all ranks.

    Matrices of one shape form a group and are updated together; so do the embedding and the head,
    each by itself. Of every group each rank has a share: whole matrices for Muon, elements for
    AdamW. It sums the gradients of its share over all ranks, keeps its state and computes its
    update; then all ranks gather the updates. This is ZeRO stage 1, Rajbhandari et al. 2020.

    DistributedDataParallel is not needed, as gradients are summed here, once a step. They are not
    averaged: divide the loss by the count of the whole step. All parameters must be float32.
    Multiply the loss by loss_scale.factor before backward(): the optimizer divides by it.
    """
    def __init__(self, model, env, matrix_lr, embed_lr, head_lr, weight_decay, betas=(0.8, 0.95),
                 compile=False):
        self.env = env
        self.weight_decay = weight_decay
        self.betas = betas
        # How many steps were taken.
        self.count = 0
        self.loss_scale = LossScale(env.dtype)
        self.groups = {}
        for p in model.blocks.parameters():
            rows, cols = p.shape
            group = self.groups.setdefault(f"{rows}x{cols}",
                                           dict(params=[], lr=matrix_lr, muon=True))
            group["params"].append(p)
        self.groups["embed"] = dict(params=[model.embed], lr=embed_lr, muon=False)
        self.groups["head"] = dict(params=[model.head], lr=head_lr, muon=False)
        for g in self.groups.values():
            like = self.my_share(self.units(g, [torch.zeros_like(p) for p in g["params"]]))
            second = like.mean(neuron_dim(like), keepdim=True) if g["muon"] else like
            # Muon: momentum, and the mean square of each neuron. AdamW: the averages m and v.
            g["state"] = [torch.zeros_like(like), torch.zeros_like(second)]
        # There are but a few shapes, and a graph for each is faster than one for all.
        self.orthogonalize = (try_to_compile(orthogonalize, dynamic=False) if compile
                              else orthogonalize)

    def units(self, g, tensors):
        """Tensors of a group -> one tensor that the ranks can divide along its first dimension.

        (n, rows, cols) for Muon, (elements,) for AdamW, padded with 0 to a multiple of the ranks.
        """
        units = torch.stack(tensors) if g["muon"] else tensors[0].flatten()
        pad = -len(units) % self.env.world_size
        if pad:
            units = torch.cat([units, units.new_zeros(pad, *units.shape[1:])])
        return units

    def my_share(self, units):
        return units.chunk(self.env.world_size)[self.env.rank]

    def gather(self, g, share):
        """The shares of all ranks -> one tensor in the shape of each parameter of the group."""
        units, work = self.start_gathering(share)
        if work:
            work.wait()
        return self.cut(g, units)

    def start_gathering(self, share):
        """-> the shares of all ranks in one tensor, and what must be waited for before it is read.

        One rank waits for nothing: None.
        """
        if self.env.world_size == 1:
            return share, None
        units = share.new_empty(len(share) * self.env.world_size, *share.shape[1:])
        return units, dist.all_gather_single(units, share.contiguous(), async_op=True)

    def cut(self, g, units):
        """The opposite of units(): one tensor for each parameter. The padding falls away."""
        if g["muon"]:
            return list(units[:len(g["params"])])
        p = g["params"][0]
        return [units[:p.numel()].view_as(p)]

    @torch.no_grad()
    def step(self, lr_scale, momentum):
        """Update the parameters and clear their gradients.

        Returns the l2 norm () of all gradients, still on the device: reading it waits for the step.
        In float16, 0 says that the step was skipped, as a gradient was not finite.
        """
        # 1) This rank's share of the gradients, summed over all ranks. While one group is summed,
        # the next one is put together.
        sums = [self.start_summing(g) for g in self.groups.values()]
        shares = [self.finish_summing(*sums.pop(0)) for _ in self.groups]
        square = torch.stack([share.norm() for share in shares]).square().sum()
        norm = self.env.all_sum(square).sqrt()
        if self.loss_scale.is_used:
            # All ranks have the same norm, so they agree on it.
            is_finite = bool(norm.isfinite())
            self.loss_scale.update(is_finite)
            if not is_finite:
                return torch.zeros_like(norm)

        self.count += 1
        waiting = []
        most_waiting = 0 if self.env.world_size == 1 else 1
        for g in self.groups.values():
            # 2) The update of this share.
            grad = shares.pop(0)
            if g["muon"]:
                update = self.muon_update(grad, *g["state"], momentum)
            else:
                update = self.adamw_update(grad, *g["state"])
            del grad
            if self.env.world_size > 1 and self.env.dtype == torch.bfloat16:
                # Half of the bytes to send; every rank, this one, too, then applies the same.
                update = update.bfloat16()

            # 3) Every rank gets all updates and applies them. With several ranks, one group is on
            # its way while the next one is computed.
            waiting.append((g, lr_scale, *self.start_gathering(update)))
            del update
            while len(waiting) > most_waiting:
                self.apply(*waiting.pop(0))
        for arriving in waiting:
            self.apply(*arriving)
        return norm

    def apply(self, g, lr_scale, units, work):
        """Change a group's parameters by the updates of all ranks, once they are there."""
        if work:
            work.wait()
        lr = g["lr"] * lr_scale
        if g["muon"]:
            torch._foreach_mul_(g["params"], 1 - lr * self.weight_decay)
        torch._foreach_add_(g["params"], [u.float() for u in self.cut(g, units)], alpha=-lr)

    def start_summing(self, g):
        """-> what finish_summing() takes: this rank's share of a group's gradients, which is summed
        over all ranks meanwhile, what is sent for it, and what must be waited for. Clears p.grad.

        The matrices are copied for that, so their gradients would only take memory from here on.
        """
        units = self.units(g, [p.grad for p in g["params"]])
        for p in g["params"]:
            p.grad = None
        if self.env.world_size == 1:
            return units, None, None
        share = torch.empty_like(self.my_share(units))
        # What is being sent must stay until it was.
        return share, units, dist.reduce_scatter_single(share, units, async_op=True)

    def finish_summing(self, share, units, work):
        """-> the share, once it is summed, without the scale of the loss."""
        if work:
            work.wait()
        if self.loss_scale.is_used:
            share.div_(self.loss_scale.factor)
        return share

    def muon_update(self, grad, buffer, mean_square, momentum):
        """-> the update (n, rows, cols) for the learning rate 1; changes all three tensors."""
        buffer.lerp_(grad, 1 - momentum)
        # Nesterov momentum: mix the gradient with the buffer that already contains it.
        mixed = grad.lerp_(buffer, momentum)
        update = self.orthogonalize(mixed, self.env.dtype)
        update = balance_neurons(update, mean_square, self.count)
        # A tall matrix gets a longer update.
        rows, cols = grad.shape[1:]
        return update * max(1, rows / cols) ** 0.5

    def adamw_update(self, grad, m, v):
        """-> the update (elements,) for the learning rate 1; changes m and v."""
        b1, b2 = self.betas
        m.lerp_(grad, 1 - b1)
        v.mul_(b2).addcmul_(grad, grad, value=1 - b2)
        # m and v start at zero; the two corrections undo that bias.
        denominator = (v / (1 - b2 ** self.count)).sqrt_().add_(1e-10)
        return m / denominator.mul_(1 - b1 ** self.count)

    def state_dict(self):
        """Whole tensors, gathered from all ranks, so that any number of ranks can load them.

        All ranks must call this; rank 0 alone copies them to the host and returns them.
        """
        state = {}
        for name, g in self.groups.items():
            state[name] = []
            for share in g["state"]:
                whole = self.gather(g, share)
                if self.env.rank == 0:
                    state[name].append([t.cpu() for t in whole])
        saved = {"count": self.count, "state": state}
        if self.loss_scale.is_used:
            saved["loss_scale"] = self.loss_scale.state_dict()
        return saved if self.env.rank == 0 else None

    def load_state_dict(self, saved):
        self.count = saved["count"]
        if self.loss_scale.is_used and "loss_scale" in saved:
            self.loss_scale.load_state_dict(saved["loss_scale"])
        for name, g in self.groups.items():
            for share, tensors in zip(g["state"], saved["state"][name], strict=True):
                share.copy_(self.my_share(self.units(g, tensors)))


def make_optimizer(cfg, model, env, compile=False):
    """The optimizer of a stage.

    --embed_lr and --head_lr hold for 256 channels and fall as 1/sqrt(width).
    compile: orthogonalize is compiled on a GPU only; on a CPU that takes longer than it saves.
    """
    width_scale = (model.config.n_embd / 256) ** -0.5
    return Optimizer(model, env, cfg.matrix_lr, cfg.embed_lr * width_scale,
                     cfg.head_lr * width_scale, cfg.weight_decay,
                     compile=compile and env.device.type == "cuda")
