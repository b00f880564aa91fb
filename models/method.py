"""What the methods of 03_pretrain.py share: layers, teachers, base classes, settings.

Used by 03, each method and extras/train_augmenter.py. On N processes, loss and gradient equal those
of one process.
"""

import copy
import functools
import itertools

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops import StochasticDepth

from base.parallel import full_precision, gather
from images.views import FIRST
from models.lars import cosine_warmup


# ---------------------------------------------------------------- layers
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


def embed(crops, backbone, projector):
    """Unit embeddings (V, b, d) of V crops."""
    z = unit(projector(backbone_features(backbone, crops)))
    return z.unflatten(0, (len(crops), -1))


# ---------------------------------------------------------------- losses
def mean_over_pairs(loss, first, *partners):
    """Mean over the partners of loss(first, partner), which is (loss, terms)."""
    values, terms = zip(*(loss(first, partner) for partner in partners), strict=True)
    means = {name: sum(one[name] for one in terms) / len(terms) for name in terms[0]}
    return sum(values) / len(values), means


def off_diagonal_squares(a, b, diagonal):
    """sum over i != j of (a'b)_ij^2, for a and b (n, d); `diagonal` (d,) is that of a'b.

    Where n < d, the d x d product is not needed: the sum over *all* i, j of (a'b)_ij^2 equals
    sum over k, l of (aa')_kl (bb')_kl, two n x n products. The diagonal's share is subtracted.
    The difference keeps its digits: a'b has rank n at most, so the whole sum is at least d / n
    times the share of an even diagonal.
    """
    n, d = a.shape
    if n >= d:
        return (a.T @ b).fill_diagonal_(0).square().sum()
    gram_a = a @ a.T
    gram_b = gram_a if b is a else b @ b.T
    return (gram_a * gram_b).sum() - diagonal.square().sum()


@torch.no_grad()
@full_precision
def embedding_stats(z):
    """Does z (n, d) collapse? Two numbers, from the first 512 rows. Waits for the device.

    embedding_std: mean standard deviation of the columns. effective_rank: the exponential of the
    entropy of the singular values over their sum (RankMe, Garrido et al. 2023, eq. 1-2, not
    centred: it is 1 if all rows are equal).
    """
    z = z[:512].double()  # singular values from the eigenvalues of zz' have half the digits
    singular = torch.linalg.eigvalsh(z @ z.T).clamp(min=0).sqrt()
    entropy = torch.special.entr(singular / singular.sum()).sum()
    return {"embedding_std": float(z.std(0).mean()), "effective_rank": float(entropy.exp())}


# ---------------------------------------------------------------- the base classes
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


class Taught(Method):
    """A method with a teacher, which begins as its student and follows it: BYOL and DINO.

    student(): the modules that the teacher copies.
    """

    def add_teacher(self, momentum):
        """The teacher has no gradients, and BatchNorm buffers of its own."""
        self.teacher = copy.deepcopy(nn.Sequential(*self.student())).requires_grad_(False)
        for module in self.teacher.modules():
            if isinstance(module, StochasticDepth):
                module.p = 0.0  # it leaves nothing out: dino's main_dino.py:166
        self.momentum = momentum

    @torch.no_grad()
    def after_update(self, progress):
        """teacher = m teacher + (1 - m) student, parameters only; m goes to 1 along a cosine."""
        m = cosine_warmup(progress, 1.0, 0, base=self.momentum, end=1.0)
        students = [p for module in self.student() for p in module.parameters()]
        torch._foreach_lerp_(list(self.teacher.parameters()), students, 1 - m)


class Siamese(Method):
    """VICReg and Barlow Twins: the mean loss of the pairs (views[0], partner) of the global batch.

    loss(x, y, **options): (loss, terms) of two views' embeddings (n, d). A local crop is one more
    partner. As published, each view has a forward pass, and so BatchNorm statistics, of its own.
    """

    def __init__(self, backbone, dim, projector, loss, hidden_bias, **options):
        super().__init__(backbone)
        self.projector = mlp(dim, *projector, hidden_bias=hidden_bias)
        self.loss = functools.partial(loss, **options)

    def forward(self, views, local=(), epoch=0.0):
        z = torch.stack(self.embed([*views, *local]), dim=1)
        loss, terms = mean_over_pairs(self.loss, *gather(z).unbind(1))  # one collective for all
        return loss, terms, z[:, 0].detach()

    def embed(self, crops):
        return [self.projector(self.backbone(x)) for x in crops]


# ---------------------------------------------------------------- settings
# A method's file holds PUBLISHED, its settings, and CIFAR, those of --preset cifar: two dicts.
# build(backbone, dim, **head): the module. head: the options that it takes; "projector", the widths
# after the backbone's `dim`, is one of them. views: (first view, second view, local crop).
# learning_rate: base of the scaling rule (lars.peak_lr). lr_1d: learning rate of 1-D parameters
# (biases, norms) over that of the rest. eta, clip_ratio: of LARS. start, end: shares of the scaled
# learning rate at the first step and after the last one; end_lr: the latter as an absolute value.
# weight_decay_end: where the weight decay goes along a cosine; None: it stays. drop_path: of a
# vision transformer (models/vit.py). clip_grad: largest norm of one parameter's gradient; 0: any.
# stem_padding: of the first convolution under --small-images.
# vit: what such a network changes; without it none was published.
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
    start=0.0,
    end=0.0,
    end_lr=None,
    linspace=False,
    clip_grad=0.0,
    local_crops=0,
    zero_init_residual=False,
    stem_padding=1,
)

# The views of solo-learn for CIFAR-10: two that differ, or two strong ones that are alike.
SOLO_LEARN = FIRST | dict(
    blur=0.0,
    mean=(0.4914, 0.4822, 0.4465),  # solo/data/pretrain_dataloader.py:207
    std=(0.2470, 0.2435, 0.2616),
)
ASYMMETRIC = (SOLO_LEARN, SOLO_LEARN | dict(solarize=0.2), SOLO_LEARN)  # asymmetric.yaml
SYMMETRIC = (SOLO_LEARN | dict(jitter=(0.8, 0.8, 0.8, 0.2)),) * 3  # symmetric.yaml


def cifar(published, views, learning_rate, weight_decay, **head):
    """A method's settings for CIFAR-10, those of solo-learn: 1,000 epochs of a ResNet-18.

    From vturrisi/solo-learn 9187ea3, scripts/pretrain/cifar/*.yaml. SimCLR's loss and the stem,
    which pads by 2, are solo-learn's as well. What is not:
    * Views: SimCLR and SwAV do not blur, as in simclr.sh and swav.sh of the same folder at 48e669e.
      The yaml files blur half of the views.
    * BatchNorm there sees each view apart in SimCLR, SwAV and DINO, and both views here.
    * SimCLR's projector here has BatchNorms and no biases, there biases alone. The last layers of
      BYOL's projector and predictor have biases there.
    * SwAV's prototypes are normalised before each step here, by weight_norm there, so that LARC
      sees another norm. Its queue is filled from epoch 0 there and used from epoch 50. Here it is
      filled from epoch 50 and used when it is full.
    * The first convolution begins here as the others do (sd 0.059 for 64 channels), there as
      PyTorch's default (0.113).
    * The warm-up there starts at 3e-5 and ends a step earlier. Its start here grows with the batch.
    * Half precision is fp16 there and bf16 here.
    * resnet10, which solo-learn does not have, has a stem of its own.

    Its README has accuracies of ResNet-18 (top-1: VICReg 92.07, Barlow Twins 92.10, BYOL 92.58,
    SimCLR 90.74, DINO 89.52, SwAV 89.17). They came in with fca55e3, July 2021, before those files.
    They are *online*: of a linear layer that is trained beside the encoder. The scripts of then
    blurred SimCLR's, SwAV's and VICReg's views, decayed SimCLR's weights by 1e-5, adapted SwAV's
    1-D parameters and let its learning rate end at 6e-4, and began the warm-up at 0.003.
    """
    changes = dict(
        optimizer="larc",  # solo/utils/lars.py: LARC's ratio, clipped
        eta=0.02,
        clip_ratio=True,
        views=views,
        learning_rate=learning_rate,
        start=3e-5 / learning_rate,
        weight_decay=weight_decay,
        stem_padding=2,
        head=published["head"] | head,
    )
    return published | COMMON | changes
