"""LARS (You et al. 2017, arXiv 1708.03888) in the two forms that the methods use; schedules.

Used by 03 and models/method.py.
"""

import math

import torch


def param_groups(module, recipe):
    """Optimizer groups of the trainable parameters; recipe: a method's settings.

    Matrices and kernels are decayed and adapted. 1-D parameters (biases, norms) are not, but in
    SwAV; in Barlow Twins they have a learning rate of their own, group["lr_scale"] times that of
    the rest. In each step, call `set_rates`. The groups suit torch.optim.SGD and AdamW as well.
    """
    params = [p for p in module.parameters() if p.requires_grad]
    kernels = [p for p in params if p.ndim > 1]
    vectors = [p for p in params if p.ndim <= 1]
    alike = dict(lr_scale=1.0, weight_decay=recipe["weight_decay"], adapt=True)
    apart = dict(lr_scale=recipe["lr_1d"], weight_decay=0.0, adapt=False)
    return [
        dict(params=kernels) | alike,
        dict(params=vectors) | (apart if recipe["exclude_1d"] else alike),
    ]


def build_optimizer(module, recipe):
    """The optimizer that recipe["optimizer"] names: lars, larc, sgd or adamw; learning rate 0."""
    groups = param_groups(module, recipe)
    if recipe["optimizer"] == "sgd":
        return torch.optim.SGD(groups, lr=0.0, momentum=0.9, foreach=True)
    if recipe["optimizer"] == "adamw":
        return torch.optim.AdamW(groups, lr=0.0, foreach=True)
    return LARS(groups, recipe)


class LARS(torch.optim.Optimizer):
    """Layer-wise adaptive rate scaling around SGD with momentum, the learning rate outside of it.

    groups: of `param_groups`. For a parameter w with gradient g, in a group with `adapt` and weight
    decay b:
        u = g + b w ;  ratio = eta |w| / |u|                      LARS (facebookresearch/vicreg)
        u = g + b w ;  ratio = eta |w| / (|g| + b |w| + 1e-8)     larc (apex, clip=False: SwAV)
        m = 0.9 m + ratio u ;  w = w - lr m
    recipe: a method's settings; it holds eta, and says whether it is larc. With its `clip_ratio`
    the ratio is the smaller of ratio / lr and 1 (apex, clip=True: solo-learn).
    ratio is 1 where |w| is 0, and without `adapt`. Where only |g| is 0, LARC leaves u at 0, weight
    decay included. SimCLR's TensorFlow code keeps lr inside m; the two differ only by the lag of m
    behind a changing lr. A step reads nothing back from the device. The state is plain tensors.
    """

    def __init__(self, groups, recipe):
        super().__init__(groups, dict(lr=0.0))
        self.recipe = recipe

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            grads = [p.grad for p in params]
            updates = torch._foreach_add(grads, params, alpha=group["weight_decay"])
            if group["adapt"]:
                ratios = self.ratios(group, params, grads, updates)
                torch._foreach_mul_(updates, list(ratios.unbind()))
            for p in params:
                if "momentum" not in self.state[p]:
                    self.state[p]["momentum"] = torch.zeros_like(p)
            momenta = [self.state[p]["momentum"] for p in params]
            torch._foreach_mul_(momenta, 0.9)
            torch._foreach_add_(momenta, updates)
            torch._foreach_add_(params, momenta, alpha=-group["lr"])

    def ratios(self, group, params, grads, updates):
        """The factor of each parameter's update, (number of parameters,)."""
        w = torch.stack(torch._foreach_norm(params))
        if self.recipe["optimizer"] == "larc":
            g = torch.stack(torch._foreach_norm(grads))
            size = g + group["weight_decay"] * w + 1e-8
        else:
            g = size = torch.stack(torch._foreach_norm(updates))
        ratio = self.recipe["eta"] * w / size
        if self.recipe["clip_ratio"]:
            ratio = (ratio / group["lr"]).clamp(max=1) if group["lr"] else torch.ones_like(ratio)
        return torch.where(w > 0, torch.where(g > 0, ratio, 0), 1)


def clip_each(module, largest):
    """Scale each parameter's gradient down to the norm `largest`, in place; 0 leaves them alone.

    Returns the norm of all gradients as they were.
    """
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    norms = torch.stack(torch._foreach_norm(gradients))
    if largest:
        shrink = (largest / (norms + 1e-6)).clamp(max=1)
        torch._foreach_mul_(gradients, list(shrink.unbind()))
    return norms.norm()


def peak_lr(base, scaling, batch):
    """Learning rate after warm-up: base x batch / 256 ("linear") or base x sqrt(batch) ("sqrt")."""
    if scaling == "linear":
        return base * batch / 256
    return base * math.sqrt(batch)


def cosine_warmup(step, total, warmup, base, start=0.0, end=0.0, *, linspace=False):
    """Value at `step` (from 0) of `total`: linear from `start` to `base`, then a cosine to `end`.

    VICReg, Barlow Twins, SimCLR and BYOL reach `base` at step `warmup`. DINO and SwAV (`linspace`)
    reach it at warmup - 1 and hold it for two steps. `end` would be the value at step `total`,
    which no step has. With warmup=0 and end=1 it is the momentum of DINO's and BYOL's teachers.
    """
    if step < warmup:
        steps = max(warmup - linspace, 1)
        return start + (base - start) * step / steps
    share = (1 + math.cos(math.pi * (step - warmup) / (total - warmup))) / 2
    return base * share + end * (1 - share)


def set_rates(optimizer, recipe, peak, step, total, warmup):
    """Give the optimizer what holds at `step` (from 0) of `total`: learning rate, weight decay.

    recipe: a method's settings. peak: the learning rate after `warmup` steps. With a
    weight_decay_end, the weight decay goes there along a cosine, without warm-up.
    """
    end = peak * recipe["end"] if recipe["end_lr"] is None else recipe["end_lr"]
    start = peak * recipe["start"]
    rate = cosine_warmup(step, total, warmup, peak, start, end, linspace=recipe["linspace"])
    first, last = recipe["weight_decay"], recipe["weight_decay_end"]
    for group in optimizer.param_groups:
        group["lr"] = group["lr_scale"] * rate
        if last is not None and group["weight_decay"]:
            group["weight_decay"] = cosine_warmup(step, total, 0, first, end=last)
