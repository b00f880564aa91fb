"""Six self-supervised methods: the loss of each as a pure function, and the module that holds the backbone
with the method's projector, predictor, prototypes and teacher. Their published settings: models.lars.METHODS.

Statistics are those of the *global* batch: on N processes loss and gradient equal those of one process.
"""

import copy
import functools
import itertools
import math

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from models.lars import METHODS, cosine_warmup
from models.old_run import rank, world


# ---------------- precision and processes ----------------
def full_precision(function):
    """`function(*tensors, **options)` outside autocast, with half-precision tensors as float32."""

    @functools.wraps(function)
    def wrapped(*tensors, **options):
        with torch.autocast(tensors[0].device.type, enabled=False):
            return function(*(t.float() if t.itemsize < 4 else t for t in tensors), **options)

    return wrapped


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        parts = [torch.empty_like(x) for _ in range(world())]
        dist.all_gather(parts, x)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, grad):
        grad = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(grad)
        return grad.chunk(world())[rank()]


@full_precision
def gather(x):
    """x (b, ...) of every process -> (b * processes, ...) in the order of ranks; b must be equal on all.

    Its gradient is the *sum* of those of the processes. Where each has the same loss of the global batch, the
    mean over processes that DistributedDataParallel takes in the end makes it exact.
    """
    return x if world() == 1 else _Gather.apply(x.contiguous())


# ---------------- losses: each returns (loss, terms), terms a dict of detached scalars ----------------
def off_diagonal(a, b, diagonal):
    """sum_{i != j} (a'b)_ij^2 of a, b (n, d), for n < d by sum_ij (a'b)_ij^2 = sum_kl (aa')_kl (bb')_kl.

    diagonal: (d,), of a'b. No digits cancel in the difference: a'b has rank <= n, so its squared norm is at
    least (tr a'b)^2 / n, which is d / n times the squares of an even diagonal.
    """
    if len(a) >= a.shape[1]:
        return (a.T @ b).fill_diagonal_(0).square().sum()
    gram = a @ a.T
    return (gram * (gram if b is a else b @ b.T)).sum() - diagonal.square().sum()


@full_precision
def vicreg_loss(x, y, invariance=25.0, variance=25.0, covariance=1.0):
    """VICReg (Bardes et al. 2022, arXiv 2105.04906, eq. 1-6) of embeddings x, y (n, d).

    lambda s(x, y) + mu (v(x) + v(y)) / 2 + nu (c(x) + c(y)): s the mean squared difference, v the mean over
    columns of max(0, 1 - sqrt(var + 1e-4)), c the sum of squared off-diagonal covariances over d. As in the
    official code (main_vicreg.py:194-220), to which 25, 25, 1 belong: the paper has no half on v, and no mean
    over d in s. Covariances are over n - 1; the code has the configured batch - 1, wrong for a smaller one.
    """

    def variance_covariance(z):
        n, d = z.shape
        z = z - z.mean(0)
        squares = torch.linalg.vector_norm(z, dim=0).square()
        v = F.relu(1 - torch.sqrt(squares / (n - 1) + 1e-4)).mean()
        return v, off_diagonal(z, z, squares) / (n - 1) ** 2 / d

    s = F.mse_loss(x, y)
    (v_x, c_x), (v_y, c_y) = variance_covariance(x), variance_covariance(y)
    v, c = (v_x + v_y) / 2, c_x + c_y
    terms = dict(invariance=s.detach(), variance=v.detach(), covariance=c.detach())
    return invariance * s + variance * v + covariance * c, terms


@full_precision
def barlow_loss(x, y, lambd=0.0051):
    """Barlow Twins (Zbontar et al. 2021, arXiv 2103.03230, eq. 1-2) of embeddings x, y (n, d).

    sum_i (1 - C_ii)^2 + lambda sum_{i != j} C_ij^2, C the cross-correlation (main.py:207-221). Columns are
    standardised here (biased variance, eps 1e-5) as by the official BatchNorm1d(affine=False), whose running
    statistics nothing reads, and C is over n, not the configured batch. On N processes the official gradient
    is 1 / N of the true one, since its all_reduce of C does not differentiate; ours is exact.
    """
    n = len(x)
    x, y = (F.batch_norm(z, None, None, training=True, eps=1e-5) for z in (x, y))
    diagonal = (x * y).sum(0)
    on, off = (diagonal / n - 1).square().sum(), off_diagonal(x, y, diagonal) / n**2
    return on + lambd * off, dict(on_diagonal=on.detach(), off_diagonal=off.detach())


@full_precision
def simclr_loss(x, y, temperature=0.1):
    """NT-Xent of SimCLR (Chen et al. 2020, arXiv 2002.05709, eq. 1) of embeddings x, y (n, d).

    The *sum* of both directions, each a mean over n, as in the official code (tf2/objective.py:33-86) with
    its learning rates: twice the mean over 2n of the paper's Algorithm 1.
    """
    n = len(x)
    z = F.normalize(torch.cat([x, y]), dim=1)
    logits = (z @ z.T / temperature).fill_diagonal_(-math.inf)
    positive = torch.arange(2 * n, device=x.device).roll(n)
    accuracy = (logits.detach().argmax(1) == positive).to(x.dtype).mean()
    return 2 * F.cross_entropy(logits, positive), dict(contrastive_accuracy=accuracy)


@full_precision
def byol_loss(p1, p2, z1, z2):
    """BYOL (Grill et al. 2020, arXiv 2006.07733, eq. 2) of predictions p and teacher's projections z (b, d).

    |p1 - z2|^2 + |p2 - z1|^2 of unit vectors: the sum of both directions as published (utils/helpers.py:109).
    """
    cosine = F.cosine_similarity(p1, z2.detach()) + F.cosine_similarity(p2, z1.detach())
    return (4 - 2 * cosine).mean(), dict(cosine=cosine.detach().mean() / 2)


@full_precision
def swav_loss(scores, q, temperature=0.1):
    """Swapped prediction (SwAV, Caron et al. 2020, arXiv 2006.09882, eq. 1, 2 and 6; main_swav.py:259-350).

    scores (V, b, K) of all crops, the G global ones first; q (G, b, K) assignments of these. Cross-entropy of
    softmax(scores / temperature) to q of every *other* global crop, mean over b and the G (V - 1) pairs.
    """
    others = [sum(t for g, t in enumerate(q) if g != v) for v in range(len(q))]
    others += [q.sum(0)] * (len(scores) - len(q))
    loss = sum(F.cross_entropy(s / temperature, t) for s, t in zip(scores, others, strict=True))
    entropy = (
        torch.special.entr(q.detach()).sum(-1).mean()
    )  # towards 0 or ln K in the two kinds of collapse
    return loss / (len(q) * (len(scores) - 1)), dict(target_entropy=entropy)


@full_precision
def dino_loss(student, teacher, center, student_temp=0.1, teacher_temp=0.04):
    """DINO (Caron et al. 2021, arXiv 2104.14294, eq. 2-4; main_dino.py:363-416): swapped prediction again.

    student (V, b, K) of all crops; teacher (G, b, K) of the global ones, no gradient; center (1, K).
    """
    return swav_loss(
        student, F.softmax((teacher - center) / teacher_temp, dim=-1), temperature=student_temp
    )


@torch.no_grad()
@full_precision
def sinkhorn(scores, epsilon=0.05, iterations=3):
    """scores (n, K) -> assignments with rows of sum 1 that use the K prototypes equally (SwAV, eq. 3-5).

    The largest score is subtracted for exp's sake: a common factor leaves with the first division. The
    largest of each row would not, as three iterations do not converge.
    """
    n, k = scores.shape
    q = torch.exp((scores - scores.max()) / epsilon)
    for _ in range(iterations):
        q /= k * q.sum(0, keepdim=True)
        q /= n * q.sum(1, keepdim=True)
    return q * n


@torch.no_grad()
@full_precision
def embedding_stats(z):
    """Does z (n, d) collapse? Mean standard deviation of the columns, and exp of the entropy of the singular
    values over their sum (RankMe, Garrido et al. 2023, eq. 1-2; not centred: 1 if all rows are equal).
    Two scalars on the device, from the first 512 rows.
    """
    z = z[:512].double()  # singular values from the eigenvalues of z z' have half the digits
    s = torch.linalg.eigvalsh(z @ z.T if len(z) < z.shape[1] else z.T @ z).clamp(min=0).sqrt()
    return dict(
        embedding_std=z.std(0).mean(), effective_rank=torch.special.entr(s / s.sum()).sum().exp()
    )


# ---------------- networks ----------------
def mlp(*widths, hidden_bias=True, last_bias=False, norm=True, activation=nn.ReLU):
    """Linear, BatchNorm (`norm`) and activation, again and again; the last layer is only Linear."""
    layers = []
    for a, b in itertools.pairwise(widths[:-1]):
        layers += [nn.Linear(a, b, bias=hidden_bias)] + [nn.BatchNorm1d(b)] * norm + [activation()]
    return nn.Sequential(*layers, nn.Linear(*widths[-2:], bias=last_bias))


def features(backbone, crops):
    """Backbone outputs (V * b, dim) of V crops; consecutive crops of one size share a forward pass."""
    groups = itertools.groupby(crops, key=lambda x: x.shape[1:])
    return torch.cat([backbone(torch.cat(list(group))) for _, group in groups])


linear = full_precision(
    F.linear
)  # bfloat16 scores would be off by 0.1 once over a temperature of 0.04
unit = full_precision(functools.partial(F.normalize, dim=-1))


def frozen_copy(*modules):
    """A teacher: begins as its student, gets no gradients, has BatchNorm buffers of its own."""
    return copy.deepcopy(nn.Sequential(*modules)).requires_grad_(False)


@torch.no_grad()
def move_teacher(teacher, students, momentum, progress):
    """teacher = m teacher + (1 - m) student, parameters only; m goes from `momentum` to 1 along a cosine."""
    m = cosine_warmup(progress, 1.0, 0, base=momentum, end=1.0)
    torch._foreach_lerp_(
        list(teacher.parameters()), [p for s in students for p in s.parameters()], 1 - m
    )


def over_pairs(loss, *views):
    """Mean over k >= 1 of loss(x[0], x[k], y[0], y[k], ...), a (loss, terms), of `views` x, y, ..."""
    results = [loss(*(x for v in views for x in (v[0], v[k]))) for k in range(1, len(views[0]))]
    n, names = len(results), results[0][1]
    return sum(r[0] for r in results) / n, {
        name: sum(r[1][name] for r in results) / n for name in names
    }


# ---------------- methods ----------------
class Method(nn.Module):
    """What a training loop sees. All state is in parameters and buffers: a state_dict resumes exactly.

    forward(views, local=(), epoch=0.0) -> (loss, terms, embedding). views: the real view and its K partners,
    (b, 3, H, W) each, normalised; local: smaller crops; epoch: step / steps per epoch. Call it through
    DistributedDataParallel on several processes. terms: detached scalars, in BYOL, DINO and SwAV of this
    process's share, as is the loss; embedding (b, d): what the projector makes of views[0], detached.
    A step: forward, backward, clip, before_update(epoch), the optimizer, after_update(step / all steps).
    encoder() is the backbone to keep and to evaluate.
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
    """VICReg, Barlow Twins, SimCLR: mean loss of the pairs (views[0], partner) of the global batch; a local
    crop is one more partner. As published, each view has a forward pass and BatchNorm statistics of its own.
    """

    def __init__(self, backbone, dim, projector, loss, hidden_bias, **options):
        super().__init__(backbone)
        self.projector = mlp(dim, *projector, hidden_bias=hidden_bias)
        self.loss = functools.partial(loss, **options)

    def forward(self, views, local=(), epoch=0.0):
        z = torch.stack(self.embed([*views, *local]), dim=1)
        return *over_pairs(self.loss, gather(z).unbind(1)), z[
            :, 0
        ].detach()  # one collective for all views

    def embed(self, crops):
        return [self.projector(self.backbone(x)) for x in crops]


class SimCLR(Siamese):
    def __init__(self, backbone, dim, projector, **options):
        super().__init__(backbone, dim, projector, simclr_loss, hidden_bias=False, **options)
        norm = nn.BatchNorm1d(
            projector[-1]
        )  # on the last layer too, without a shift: tf2/model.py:120-190
        norm.bias.requires_grad_(False)
        self.projector.append(norm)

    def embed(
        self, crops
    ):  # as published, crops of one size share a forward pass and its statistics
        return self.projector(features(self.backbone, crops)).chunk(len(crops))


class BYOL(Method):
    """Mean over the pairs (views[0], partner); a local crop is one more partner. A forward pass per view."""

    def __init__(self, backbone, dim, projector, momentum):
        super().__init__(backbone)
        self.projector, self.predictor = mlp(dim, *projector), mlp(projector[-1], *projector)
        self.teacher = frozen_copy(self.backbone, self.projector)
        self.momentum = momentum

    def forward(self, views, local=(), epoch=0.0):
        crops = [*views, *local]
        z = [self.projector(self.backbone(x)) for x in crops]
        with torch.no_grad():
            t = [self.teacher(x) for x in crops]
        return *over_pairs(byol_loss, [self.predictor(x) for x in z], t), z[0].detach()

    def after_update(self, progress):
        move_teacher(self.teacher, [self.backbone, self.projector], self.momentum, progress)


class DINO(Method):
    """The student sees all crops, the teacher `views`; one forward pass per size (utils.py:610-627). Rows of
    the last layer have norm 1 (official: weight-norm, g frozen at 1). The teacher is in training mode.
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
        *hidden, k = projector
        self.projector = mlp(dim, *hidden, last_bias=True, norm=False, activation=nn.GELU)
        for layer in self.projector[::2]:
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        self.prototypes = nn.Linear(hidden[-1], k, bias=False)
        self.teacher = frozen_copy(*self.student())
        self.register_buffer("center", torch.zeros(1, k))
        self.student_temp, self.teacher_temp, self.freeze = student_temp, teacher_temp, freeze
        self.center_momentum, self.momentum = center_momentum, momentum

    def forward(self, views, local=(), epoch=0.0):
        z, student = self.scores([*views, *local], *self.student())
        with torch.no_grad():
            _, teacher = self.scores(views, *self.teacher)
        temps = dict(student_temp=self.student_temp, teacher_temp=self.temperature(epoch))
        loss, terms = dino_loss(student, teacher, self.center, **temps)
        self.move_center(teacher)
        return loss, terms, z[0].detach()

    def student(self):
        return self.backbone, self.projector, self.prototypes

    def scores(self, crops, backbone, projector, prototypes):
        z = unit(projector(features(backbone, crops))).unflatten(0, (len(crops), -1))
        return z, linear(z, unit(prototypes.weight))

    def temperature(self, epoch):
        first, last, warmup = self.teacher_temp
        return first + (last - first) * min(int(epoch) / max(warmup - 1, 1), 1) if warmup else last

    @torch.no_grad()
    def move_center(self, teacher):
        mean = teacher.mean((0, 1))[None] / world()
        if world() > 1:
            dist.all_reduce(mean)
        self.center.lerp_(mean.to(self.center), 1 - self.center_momentum)

    def encoder(self):
        return self.teacher[0]  # which the official evaluations load (eval_knn.py, eval_linear.py)

    def after_update(self, progress):
        move_teacher(self.teacher, self.student(), self.momentum, progress)


class SwAV(Method):
    """Crops of one size share the backbone's pass, all share the head's (src/resnet50.py:308-323). `views`
    (`global_views` many) get assignments. The last `queue` embeddings of each, of the global batch and equal
    on all processes, join the Sinkhorn once there are so many, from epoch `queue_start`.
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
        *hidden, k = projector
        self.projector = mlp(dim, *hidden, last_bias=True)
        self.prototypes = nn.Linear(hidden[-1], k, bias=False)
        self.register_buffer("queue", torch.zeros(global_views, queue, hidden[-1]))
        self.sinkhorn = functools.partial(sinkhorn, epsilon=epsilon, iterations=iterations)
        self.temperature, self.queue_start, self.freeze = temperature, queue_start, freeze

    def forward(self, views, local=(), epoch=0.0):
        with torch.no_grad():
            self.prototypes.weight.copy_(unit(self.prototypes.weight))
        crops = [*views, *local]
        z = unit(self.projector(features(self.backbone, crops))).unflatten(0, (len(crops), -1))
        scores = linear(z, self.prototypes.weight)
        q = self.assign(z[: len(views)].detach(), epoch >= self.queue_start)
        return *swav_loss(scores, q, temperature=self.temperature), z[0].detach()

    @torch.no_grad()
    def assign(self, z, use_queue):
        """z (G, b, d) of the global crops -> this process's assignments (G, b, K)."""
        batch = gather(z.transpose(0, 1)).transpose(0, 1)
        known = batch
        if use_queue and self.queue.numel():
            both = torch.cat([batch, self.queue.to(batch)], dim=1)
            known = both if self.queue[0, -1].any() else batch  # full? (a wait for the device)
            self.queue.copy_(both[:, : self.queue.shape[1]])
        q = [self.sinkhorn(linear(x, self.prototypes.weight))[: batch.shape[1]] for x in known]
        return torch.stack(q).chunk(world(), dim=1)[rank()]


KINDS = dict(
    vicreg=functools.partial(Siamese, loss=vicreg_loss, hidden_bias=True),
    barlow=functools.partial(Siamese, loss=barlow_loss, hidden_bias=False),
    dino=DINO,
    simclr=SimCLR,
    byol=BYOL,
    swav=SwAV,
)


def build_method(name, backbone, dim, **options):
    """The module of method `name` around `backbone`, which maps (b, 3, H, W) to (b, dim).

    `options` replace those of METHODS[name]["head"]. projector: the widths after `dim` as a tuple or
    "2048-2048-128"; the last one is DINO's outputs, SwAV's prototypes.
    """
    options = METHODS[name]["head"] | options
    if isinstance(options["projector"], str):
        options["projector"] = tuple(map(int, options["projector"].split("-")))
    return KINDS[name](backbone, dim, **options)
