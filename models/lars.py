"""How the six methods of models/heads.py are trained: their published settings, LARS (You et al. 2017, arXiv
1708.03888) in the two forms they use, with torch._foreach, and their learning-rate schedules.
"""

import math

import torch

# Files are those of facebookresearch/vicreg 4e12602, barlowtwins 8e8d284, dino 7c446df, swav 06b1b7c,
# google-research/simclr 383d414, deepmind-research 09270ed (byol/).
# lr: base of the scaling rule (peak_lr). lr_1d: learning rate of 1-D parameters (biases, norms) over that of
# the rest. start, end: shares of the scaled lr at the first step and after the last. head: see build_method.
COMMON = dict(
    optimizer="lars",
    exclude_1d=True,
    scaling="linear",
    lr_1d=1.0,
    weight_decay=1e-6,
    warmup_epochs=10,
    start=0.0,
    end=0.0,
    linspace=False,
    clip_grad=0.0,
    local_crops=0,
)
METHODS = dict(
    vicreg=COMMON
    | dict(  # LARS main_vicreg.py:245-254, not for 1-D :112, decay :53
        lr=0.3,
        end=0.001,  # README, 100 epochs; the dissertation: 0.3 x 800 / 256; schedule :167-181
        head=dict(
            projector=(8192, 8192, 8192),  # :223-232
            invariance=25.0,
            variance=25.0,
            covariance=1.0,
        ),
    ),  # :58-63
    barlow=COMMON
    | dict(  # LARS main.py:224-226, decay :37 and :100
        lr=0.2,
        lr_1d=0.0048 / 0.2,
        end=0.001,  # :167-168, schedule :155-168
        head=dict(projector=(8192, 8192, 8192), lambd=0.0051),
    ),  # :195-202, :39
    dino=COMMON
    | dict(
        optimizer="sgd",
        lr=0.03,
        weight_decay=1e-4,  # README, ResNet-50; not on 1-D: utils.py:632-643
        linspace=True,
        end=1e-6 / 0.06,  # utils.py:187-198; min_lr 1e-6 at batch 512
        clip_grad=3.0,  # main_dino.py:87; each parameter's norm by itself: utils.py:132-141
        local_crops=6,  # the dissertation, 4.1.5; the README has 8
        head=dict(
            projector=(2048, 2048, 256, 65536),  # vision_transformer.py:257-291
            student_temp=0.1,
            center_momentum=0.9,  # main_dino.py:365-366
            teacher_temp=(0.04, 0.04, 0),  # from, to, epochs between: :66-72
            momentum=0.996,
            freeze=1.0,
        ),
    ),  # :61; epochs without updates of the last layer :93
    simclr=COMMON
    | dict(  # LARS tf2/model.py:40-46
        lr=0.075,
        scaling="sqrt",  # README: better than linear below batch 4096, where both are 4.8
        weight_decay=1e-4,  # run.py:55
        head=dict(projector=(2048, 2048, 128), temperature=0.1),
    ),  # tf2/model.py:157-217; run.py:191
    byol=COMMON
    | dict(  # LARS configs/byol.py:57-61, decay :22, not on 1-D byol_experiment.py:193
        lr=0.45,  # configs/byol.py:21, 100 epochs (300: 0.3, 1000: 0.2)
        head=dict(
            projector=(4096, 256),  # :40-42, the predictor's widths too
            momentum=0.99,
        ),
    ),  # :23, 100 and 300 epochs (40: 0.97, 1000: 0.996)
    swav=COMMON
    | dict(
        optimizer="larc",
        exclude_1d=False,  # main_swav.py:171-177: everything adapted and decayed
        lr=0.3,
        start=0.3 / 4.8,
        end=0.0048 / 4.8,
        linspace=True,  # swav_100ep_pretrain.sh: 4.8 at 4096
        head=dict(
            projector=(2048, 128, 3000),  # main_swav.py:65-68; src/resnet50.py:197-217
            temperature=0.1,
            epsilon=0.05,
            iterations=3,  # main_swav.py:59-64
            queue=3840,
            queue_start=15.0,  # its batch-256 recipe; ours at 800, also < 3000 prototypes
            global_views=2,
            freeze=1.0,
        ),
    ),  # 313 iterations at batch 4096, 5005 at 256: an epoch and one
)


def param_groups(module, recipe):
    """Optimizer groups of the trainable parameters of `module`; `recipe` is one of METHODS.

    Matrices and kernels are decayed and adapted, 1-D parameters are not (but in SwAV), and in Barlow Twins
    have a learning rate of their own: set group["lr"] = lr * group["lr_scale"] in each step. Fits SGD too.
    """

    def group(params, excluded):
        return dict(
            params=params,
            weight_decay=0.0 if excluded else recipe["weight_decay"],
            lr_scale=recipe["lr_1d"] if excluded else 1.0,
            adapt=not excluded,
            larc=recipe["optimizer"] == "larc",
        )

    params = [p for p in module.parameters() if p.requires_grad]
    if not recipe["exclude_1d"]:
        return [group(params, False)]
    return [
        group([p for p in params if p.ndim > 1], False),
        group([p for p in params if p.ndim <= 1], True),
    ]


class LARS(torch.optim.Optimizer):
    """Layer-wise adaptive rate scaling around SGD with momentum; the learning rate is outside the momentum.

    For a parameter w with gradient g, in a group with `adapt` (default True) and weight decay b:
        u = g + b w ;  ratio = eta |w| / |u|                      LARS (facebookresearch/vicreg, barlowtwins)
        u = g + b w ;  ratio = eta |w| / (|g| + b |w| + 1e-8)     `larc` (apex LARC with clip=False: SwAV)
        m = momentum m + ratio u ;  w = w - lr m
    ratio = 1 where |w| is 0, and without `adapt`. Where only |g| is 0, LARC leaves u at 0, weight decay too.
    SimCLR's TensorFlow code keeps lr inside m: the same but for m's lag behind a changing lr.
    A step reads nothing back from the device. The state is plain tensors: loads with weights_only=True.
    """

    def __init__(self, params, momentum=0.9, weight_decay=0.0, eta=1e-3, adapt=True, larc=False):
        flags = dict(
            lr=0.0, momentum=momentum, weight_decay=weight_decay, eta=eta, adapt=adapt, larc=larc
        )
        super().__init__(params, flags)

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
    """Learning rate after warm-up for a global batch: x batch / 256 ("linear") or x sqrt(batch) ("sqrt")."""
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
