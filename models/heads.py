"""Six self-supervised methods: what each puts on top of a backbone, and how each was trained.

METHODS is the one registry: a method's module, its published settings and its views. Losses are in
models/losses.py. On N processes, loss and gradient equal those of one process.
"""

import copy
import functools
import itertools

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops import StochasticDepth

from base.parallel import all_sum, full_precision, gather, rank, world
from images import views
from models import losses
from models.lars import cosine_warmup


# ---------------------------------------------------------------- pieces
def mlp(*widths, hidden_bias=True, last_bias=False, norm=True, activation=nn.ReLU):
    """Linear, BatchNorm (if `norm`) and activation, repeated; the last layer is only Linear."""
    layers = []
    for wide_in, wide_out in itertools.pairwise(widths[:-1]):
        layers.append(nn.Linear(wide_in, wide_out, bias=hidden_bias))
        if norm:
            layers.append(nn.BatchNorm1d(wide_out))
        layers.append(activation())
    layers.append(nn.Linear(widths[-2], widths[-1], bias=last_bias))
    return nn.Sequential(*layers)


def backbone_features(backbone, crops):
    """Backbone outputs (V * b, dim) of V crops; consecutive crops of one size share a pass."""
    outputs = []
    for _, same_size in itertools.groupby(crops, key=lambda crop: crop.shape[1:]):
        outputs.append(backbone(torch.cat(list(same_size))))
    return torch.cat(outputs)


@full_precision
def scores_of(x, weight):
    """x weight', in float32: bfloat16 scores over a temperature of 0.04 would be off by 0.1."""
    return F.linear(x, weight)


@full_precision
def unit(x):
    """Rows of length 1."""
    return F.normalize(x, dim=-1)


def frozen_copy(*modules):
    """A teacher: it begins as its student, without gradients, with BatchNorm buffers of its own."""
    teacher = copy.deepcopy(nn.Sequential(*modules)).requires_grad_(False)
    for module in teacher.modules():
        if isinstance(module, StochasticDepth):
            module.p = 0.0  # it leaves nothing out: dino's main_dino.py:166
    return teacher


@torch.no_grad()
def move_teacher(teacher, students, momentum, progress):
    """teacher = m teacher + (1 - m) student, parameters only.

    m goes from `momentum` to 1 along a cosine; `progress` is step / all steps, from 0.
    """
    m = cosine_warmup(progress, 1.0, 0, base=momentum, end=1.0)
    targets = [p for student in students for p in student.parameters()]
    torch._foreach_lerp_(list(teacher.parameters()), targets, 1 - m)


def mean_over_pairs(loss, *view_lists):
    """Mean over k >= 1 of loss(x[0], x[k], y[0], y[k], ...), for lists of views x, y, ..."""
    values, terms = [], []
    for k in range(1, len(view_lists[0])):
        pair = [view for views_of in view_lists for view in (views_of[0], views_of[k])]
        value, value_terms = loss(*pair)
        values.append(value)
        terms.append(value_terms)
    means = {name: sum(one[name] for one in terms) / len(terms) for name in terms[0]}
    return sum(values) / len(values), means


# ---------------------------------------------------------------- methods
class Method(nn.Module):
    """What a training loop sees. All state is in parameters and buffers.

    forward(views, local=(), epoch=0.0) -> (loss, terms, embedding).
    views: the real view and its K partners, (b, 3, H, W) each, normalised. local: smaller crops.
    epoch: step / steps per epoch. terms: detached scalars. embedding (b, d): what the projector
    makes of views[0], detached. In BYOL, DINO and SwAV loss and terms are of this process's share.

    A step: forward, backward, clip, before_update(epoch), the optimizer, after_update(progress),
    where progress is step / all steps, counted from 0. encoder() is the backbone to keep.
    """

    freeze = 0.0  # epochs in which the prototypes are not updated

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone

    def encoder(self):
        return self.backbone

    def before_update(self, epoch):
        if epoch < self.freeze:
            self.prototypes.weight.grad = None

    def after_update(self, progress):
        """Move the teacher, if there is one."""


class Siamese(Method):
    """VICReg and Barlow Twins: the mean loss of the pairs (views[0], partner) of the global batch.

    A local crop is one more partner. As published, each view has a forward pass, and so BatchNorm
    statistics, of its own.
    """

    def __init__(self, backbone, dim, projector, loss, hidden_bias, **options):
        super().__init__(backbone)
        self.projector = mlp(dim, *projector, hidden_bias=hidden_bias)
        self.loss = functools.partial(loss, **options)

    def forward(self, views, local=(), epoch=0.0):
        z = torch.stack(self.embed([*views, *local]), dim=1)
        of_each_view = gather(z).unbind(1)  # one collective for all views
        loss, terms = mean_over_pairs(self.loss, of_each_view)
        return loss, terms, z[:, 0].detach()

    def embed(self, crops):
        return [self.projector(self.backbone(x)) for x in crops]


class SimCLR(Siamese):
    """Crops of one size share a forward pass and its statistics, as published."""

    def __init__(self, backbone, dim, projector, **options):
        super().__init__(backbone, dim, projector, losses.simclr_loss, hidden_bias=False, **options)
        norm = nn.BatchNorm1d(projector[-1])  # on the last layer too: tf2/model.py:120-190
        norm.bias.requires_grad_(False)
        self.projector.append(norm)

    def embed(self, crops):
        return self.projector(backbone_features(self.backbone, crops)).chunk(len(crops))


class BYOL(Method):
    """Mean over the pairs (views[0], partner). A local crop is one more partner."""

    def __init__(self, backbone, dim, projector, momentum):
        super().__init__(backbone)
        self.projector = mlp(dim, *projector)
        self.predictor = mlp(projector[-1], *projector)
        self.teacher = frozen_copy(self.backbone, self.projector)
        self.momentum = momentum

    def forward(self, views, local=(), epoch=0.0):
        crops = [*views, *local]
        z = [self.projector(self.backbone(x)) for x in crops]
        with torch.no_grad():
            targets = [self.teacher(x) for x in crops]
        predictions = [self.predictor(x) for x in z]
        loss, terms = mean_over_pairs(losses.byol_loss, predictions, targets)
        return loss, terms, z[0].detach()

    def after_update(self, progress):
        move_teacher(self.teacher, [self.backbone, self.projector], self.momentum, progress)


class DINO(Method):
    """The student sees all crops, the teacher only `views`.

    Rows of the last layer have norm 1 (officially by weight-norm with g frozen at 1). The teacher
    is in training mode, as published.
    """

    def __init__(
        self,
        backbone,
        dim,
        projector,
        student_temp,
        teacher_temp,
        center_momentum,
        momentum,
        freeze,
    ):
        super().__init__(backbone)
        *hidden, outputs = projector
        self.projector = mlp(dim, *hidden, last_bias=True, norm=False, activation=nn.GELU)
        for layer in self.projector[::2]:
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        self.prototypes = nn.Linear(hidden[-1], outputs, bias=False)
        self.teacher = frozen_copy(*self.student())
        self.register_buffer("center", torch.zeros(1, outputs))
        self.student_temp = student_temp
        self.teacher_temp = teacher_temp
        self.center_momentum = center_momentum
        self.momentum = momentum
        self.freeze = freeze

    def forward(self, views, local=(), epoch=0.0):
        z, student = self.outputs([*views, *local], *self.student())
        with torch.no_grad():
            _, teacher = self.outputs(views, *self.teacher)
        loss, terms = losses.dino_loss(
            student,
            teacher,
            self.center,
            student_temp=self.student_temp,
            teacher_temp=self.temperature(epoch),
        )
        self.move_center(teacher)
        return loss, terms, z[0].detach()

    def student(self):
        return self.backbone, self.projector, self.prototypes

    def outputs(self, crops, backbone, projector, prototypes):
        z = unit(projector(backbone_features(backbone, crops)))
        z = z.unflatten(0, (len(crops), -1))
        return z, scores_of(z, unit(prototypes.weight))

    def temperature(self, epoch):
        """The teacher's: it rises linearly over the warm-up epochs, once an epoch."""
        first, last, warmup = self.teacher_temp
        if not warmup:
            return last
        return first + (last - first) * min(int(epoch) / max(warmup - 1, 1), 1)

    @torch.no_grad()
    def move_center(self, teacher):
        mean = all_sum(teacher.mean((0, 1))[None] / world())
        self.center.lerp_(mean.to(self.center), 1 - self.center_momentum)

    def encoder(self):
        return self.teacher[0]  # the official evaluations load it (eval_knn.py, eval_linear.py)

    def after_update(self, progress):
        move_teacher(self.teacher, self.student(), self.momentum, progress)


class SwAV(Method):
    """Crops of one size share the backbone's pass, all share the head's (src/resnet50.py:308-323).

    `views` (`global_views` many) get assignments. The last `queue` embeddings of each, of the
    global batch and equal on all processes, join the Sinkhorn once there are so many, from epoch
    `queue_start`.
    """

    def __init__(
        self,
        backbone,
        dim,
        projector,
        temperature,
        epsilon,
        iterations,
        queue,
        queue_start,
        freeze,
        global_views,
    ):
        super().__init__(backbone)
        *hidden, prototypes = projector
        self.projector = mlp(dim, *hidden, last_bias=True)
        self.prototypes = nn.Linear(hidden[-1], prototypes, bias=False)
        self.register_buffer("queue", torch.zeros(global_views, queue, hidden[-1]))
        self.sinkhorn = functools.partial(losses.sinkhorn, epsilon=epsilon, iterations=iterations)
        self.temperature = temperature
        self.queue_start = queue_start
        self.freeze = freeze

    def forward(self, views, local=(), epoch=0.0):
        with torch.no_grad():
            self.prototypes.weight.copy_(unit(self.prototypes.weight))
        crops = [*views, *local]
        z = unit(self.projector(backbone_features(self.backbone, crops)))
        z = z.unflatten(0, (len(crops), -1))
        scores = scores_of(z, self.prototypes.weight)
        assignments = self.assign(z[: len(views)].detach(), epoch >= self.queue_start)
        loss, terms = losses.swav_loss(scores, assignments, temperature=self.temperature)
        return loss, terms, z[0].detach()

    @torch.no_grad()
    def assign(self, z, use_queue):
        """z (G, b, d) of the global crops -> this process's assignments (G, b, K)."""
        batch = gather(z.transpose(0, 1)).transpose(0, 1)
        known = batch
        if use_queue and self.queue.numel():
            with_queue = torch.cat([batch, self.queue.to(batch)], dim=1)
            queue_is_full = self.queue[0, -1].any()  # waits for the device
            if queue_is_full:
                known = with_queue
            self.queue.copy_(with_queue[:, : self.queue.shape[1]])
        of_batch = []
        for embeddings in known:
            assignments = self.sinkhorn(scores_of(embeddings, self.prototypes.weight))
            of_batch.append(assignments[: batch.shape[1]])
        return torch.stack(of_batch).chunk(world(), dim=1)[rank()]


# ---------------------------------------------------------------- the registry
# Files are those of facebookresearch/vicreg 4e12602, barlowtwins 8e8d284, dino 7c446df,
# swav 06b1b7c, google-research/simclr 383d414 and deepmind-research 09270ed (byol/).
#
# build: the module. views: (first view, second view, local crop). head: the module's options.
# lr: base of the scaling rule (lars.peak_lr). lr_1d: learning rate of 1-D parameters (biases,
# norms) over that of the rest. eta, clip_ratio: of LARS. start, end: shares of the scaled learning
# rate at the first step and after the last one; end_lr: the latter as an absolute value.
# weight_decay_end: where the weight decay goes along a cosine; None: it stays. drop_path: of a
# vision transformer (models/vit.py). vit: what such a network changes; without it none was
# published.
COMMON = dict(
    optimizer="lars",
    eta=0.001,
    clip_ratio=False,
    exclude_1d=True,
    scaling="linear",
    lr_1d=1.0,
    weight_decay=1e-6,
    weight_decay_end=None,
    drop_path=0.0,
    warmup_epochs=10,
    start=0.0,
    end=0.0,
    end_lr=None,
    linspace=False,
    clip_grad=0.0,
    local_crops=0,
    zero_init_residual=False,
)
METHODS = dict(
    vicreg=COMMON
    | dict(
        build=functools.partial(Siamese, loss=losses.vicreg_loss, hidden_bias=True),
        views=views.VICREG,
        lr=0.3,  # vicreg README, 100 epochs; the dissertation: 0.3 x 800 / 256
        weight_decay=1e-6,  # main_vicreg.py:53; LARS :245-254, not for 1-D parameters :112
        end=0.001,  # main_vicreg.py:167-181
        zero_init_residual=True,  # resnet.py:200-214
        head=dict(
            projector=(8192, 8192, 8192),  # main_vicreg.py:223-232
            invariance=25.0,  # main_vicreg.py:58-63
            variance=25.0,
            covariance=1.0,
        ),
    ),
    barlow=COMMON
    | dict(
        build=functools.partial(Siamese, loss=losses.barlow_loss, hidden_bias=False),
        views=views.BARLOW,
        lr=0.2,  # barlowtwins main.py:167-168
        lr_1d=0.0048 / 0.2,
        weight_decay=1e-6,  # main.py:37 and :100; LARS :224-226
        end=0.001,  # main.py:155-168
        zero_init_residual=True,  # main.py:192
        head=dict(projector=(8192, 8192, 8192), lambd=0.0051),  # main.py:195-202, :39
    ),
    dino=COMMON
    | dict(
        build=DINO,
        views=views.DINO,
        optimizer="sgd",
        lr=0.03,  # dino README, ResNet-50
        weight_decay=1e-4,  # not on 1-D parameters: utils.py:632-643
        linspace=True,  # utils.py:187-198
        end_lr=1e-6,  # main_dino.py:96, min_lr
        clip_grad=3.0,  # main_dino.py:87; each parameter's norm by itself: utils.py:132-141
        local_crops=6,  # the dissertation, 4.1.5; dino's README has 8
        vit=dict(  # the defaults of main_dino.py:82-117, dino README: ViT-S, 100 epochs
            views=views.DINO_VIT,
            optimizer="adamw",
            lr=0.0005,
            weight_decay=0.04,
            weight_decay_end=0.4,
            drop_path=0.1,  # the teacher's is 0
        ),
        head=dict(
            projector=(2048, 2048, 256, 65536),  # vision_transformer.py:257-291
            student_temp=0.1,  # main_dino.py:365-366
            center_momentum=0.9,
            teacher_temp=(0.04, 0.04, 0),  # from, to, epochs between: main_dino.py:66-72
            momentum=0.996,  # main_dino.py:61
            freeze=1.0,  # epochs without updates of the last layer: main_dino.py:93
        ),
    ),
    simclr=COMMON
    | dict(
        build=SimCLR,
        views=views.SIMCLR,
        lr=0.075,  # simclr README: better than "linear" below batch 4096, where both give 4.8
        scaling="sqrt",
        weight_decay=1e-4,  # run.py:55; LARS tf2/model.py:40-46
        head=dict(projector=(2048, 2048, 128), temperature=0.1),  # tf2/model.py:157-217; run.py:191
    ),
    byol=COMMON
    | dict(
        build=BYOL,
        views=views.BYOL,
        lr=0.45,  # byol configs/byol.py:21, 100 epochs (300: 0.3, 1000: 0.2)
        weight_decay=1e-6,  # configs/byol.py:22; LARS :57-61, not 1-D: byol_experiment.py:193
        head=dict(
            projector=(4096, 256),  # configs/byol.py:40-42, the predictor's widths too
            momentum=0.99,  # configs/byol.py:23, 100 and 300 epochs (40: 0.97, 1000: 0.996)
        ),
    ),
    swav=COMMON
    | dict(
        build=SwAV,
        views=views.SWAV,
        optimizer="larc",
        exclude_1d=False,  # main_swav.py:171-177: everything is adapted and decayed
        lr=0.3,  # swav_100ep_pretrain.sh: 4.8 at batch 4096
        start=0.3 / 4.8,
        end=0.0048 / 4.8,
        linspace=True,
        head=dict(
            projector=(2048, 128, 3000),  # main_swav.py:65-68; src/resnet50.py:197-217
            temperature=0.1,  # main_swav.py:59-64
            epsilon=0.05,
            iterations=3,
            queue=3840,  # its batch-256 recipe; also ours at 800, which is below 3000 prototypes
            queue_start=15.0,
            global_views=2,
            freeze=1.0,  # 313 iterations at batch 4096, 5005 at 256: an epoch
        ),
    ),
)


def build_method(name, backbone, dim, **options):
    """The module of method `name` around `backbone`, which maps (b, 3, H, W) to (b, dim).

    `options` replace those of METHODS[name]["head"]. projector: the widths after `dim`, as a tuple
    or as "2048-2048-128"; the last one is the number of DINO's outputs and of SwAV's prototypes.
    """
    options = METHODS[name]["head"] | options
    if isinstance(options["projector"], str):
        options["projector"] = tuple(map(int, options["projector"].split("-")))
    return METHODS[name]["build"](backbone, dim, **options)
