"""LARS (You et al. 2017, arXiv 1708.03888) with torch._foreach, in the two forms that self-supervised methods
use, and the learning-rate schedules of the six methods of models/heads.py.
"""
import math

import torch


def param_groups(module, recipe):
    """Optimizer groups of the trainable parameters of `module`, as `recipe` of models.heads.METHODS has it.

    Matrices and kernels are decayed and adapted. 1-D parameters (biases, normalisation) are neither, and may
    have a learning rate of their own (`lr_1d`), unless the recipe is SwAV's, which treats all alike.
    In each step set `group["lr"] = lr * group["lr_scale"]`. torch.optim.SGD takes the same groups.
    """
    def group(params, excluded):
        return dict(params=params, weight_decay=0.0 if excluded else recipe["weight_decay"],
                    lr_scale=recipe["lr_1d"] if excluded else 1.0,
                    adapt=not excluded, larc=recipe["optimizer"] == "larc")

    params = [p for p in module.parameters() if p.requires_grad]
    if not recipe["exclude_1d"]:
        return [group(params, False)]
    return [group([p for p in params if p.ndim > 1], False), group([p for p in params if p.ndim <= 1], True)]


class LARS(torch.optim.Optimizer):
    """Layer-wise adaptive rate scaling around SGD with momentum; the learning rate is outside the momentum.

    For a parameter w with gradient g, in a group with `adapt` (default True) and weight decay b:

        u = g + b w ;  ratio = eta |w| / |u|                      LARS (facebookresearch/vicreg, barlowtwins)
        u = g + b w ;  ratio = eta |w| / (|g| + b |w| + 1e-8)     `larc` (apex LARC with clip=False: SwAV)
        m = momentum m + ratio u ;  w = w - lr m

    ratio = 1 where |w| is 0, and without `adapt`. Where only |g| is 0, LARC leaves u at 0, weight decay too.
    SimCLR's TensorFlow code keeps lr inside m: the same but for m's lag behind a changing lr.
    A step reads nothing back from the device. The state is plain tensors: it loads with weights_only=True.
    """

    def __init__(self, params, lr=0.0, momentum=0.9, weight_decay=0.0, eta=1e-3, adapt=True, larc=False):
        super().__init__(params, dict(lr=lr, momentum=momentum, weight_decay=weight_decay, eta=eta,
                                      adapt=adapt, larc=larc))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            grads, decay = [p.grad for p in params], group["weight_decay"]
            updates = torch._foreach_add(grads, params, alpha=decay)
            if group["adapt"]:
                w = torch.stack(torch._foreach_norm(params))
                g = torch.stack(torch._foreach_norm(grads if group["larc"] else updates))
                size = g + decay * w + 1e-8 if group["larc"] else g
                ratio = torch.where(w > 0, torch.where(g > 0, group["eta"] * w / size, 0), 1)
                torch._foreach_mul_(updates, list(ratio.unbind()))
            for p in params:
                if "momentum" not in self.state[p]:
                    self.state[p]["momentum"] = torch.zeros_like(p)
            m = [self.state[p]["momentum"] for p in params]
            torch._foreach_mul_(m, group["momentum"])
            torch._foreach_add_(m, updates)
            torch._foreach_add_(params, m, alpha=-group["lr"])


def peak_lr(base, scaling, batch):
    """Learning rate after warm-up for a global batch: "linear" base x batch / 256, "sqrt" base x sqrt(batch)."""
    return base * batch / 256 if scaling == "linear" else base * math.sqrt(batch)


def cosine_warmup(step, total, warmup, base, start=0.0, end=0.0, linspace=False):
    """Value at `step` (from 0) of `total`: from `start` to `base` in `warmup` steps, then cosine to `end`.

    VICReg and Barlow Twins (end = 0.001 base), SimCLR and BYOL (end = 0) reach `base` at step `warmup`; DINO
    and SwAV (`linspace`) at warmup - 1, and hold it for two steps. `end` would be the value at step `total`,
    which no step has. With warmup=0 and end=1 it is the momentum of the teachers of DINO and BYOL.
    """
    if step < warmup:
        return start + (base - start) * step / (max(warmup - 1, 1) if linspace else warmup)
    q = (1 + math.cos(math.pi * (step - warmup) / (total - warmup))) / 2
    return base * q + end * (1 - q)
