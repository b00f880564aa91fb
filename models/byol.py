"""BYOL (Grill et al. 2020, arXiv 2006.07733). Files: google-deepmind's byol, 09270ed."""

import torch
import torch.nn.functional as F

from base.parallel import full_precision
from images.views import FIRST, LOCAL, SECOND
from models.method import ASYMMETRIC, COMMON, Taught, cifar, mean_over_pairs, mlp


@full_precision
def byol_loss(x, y):
    """BYOL's loss (eq. 2) of two views (2, b, d): the prediction p and the teacher's projection z.

    |p1 - z2|^2 + |p2 - z1|^2 of unit vectors, the sum of both directions as published
    (utils/helpers.py:109). Returns (loss, terms).
    """
    p1, z1 = x
    p2, z2 = y
    cosine = F.cosine_similarity(p1, z2) + F.cosine_similarity(p2, z1)
    return (4 - 2 * cosine).mean(), {"cosine": cosine.detach().mean() / 2}


class BYOL(Taught):
    """Mean over the pairs (views[0], partner). A local crop is one more partner."""

    def __init__(self, backbone, dim, projector, momentum):
        super().__init__(backbone)
        self.projector = mlp(dim, *projector)
        self.predictor = mlp(projector[-1], *projector)
        self.add_teacher(momentum)

    def student(self):
        return self.backbone, self.projector

    def forward(self, views, local=(), epoch=0.0):
        crops = [*views, *local]
        z = [self.projector(self.backbone(x)) for x in crops]
        with torch.no_grad():
            targets = [self.teacher(x) for x in crops]
        pairs = [torch.stack([self.predictor(x), y]) for x, y in zip(z, targets, strict=True)]
        loss, terms = mean_over_pairs(byol_loss, *pairs)
        return loss, terms, z[0].detach()


PUBLISHED = COMMON | dict(
    build=BYOL,
    # Published in JAX; it runs here on the arithmetic of PIL, like the others. There brightness is
    # added, contrast is of a channel, and saturation is scaled in HSV.
    views=(FIRST, SECOND, FIRST | LOCAL),  # utils/augmentations.py
    learning_rate=0.45,  # configs/byol.py:21, 100 epochs (300: 0.3, 1000: 0.2)
    # weight decay: configs/byol.py:22; LARS :57-61, not 1-D: byol_experiment.py:193
    head=dict(
        projector="4096-256",  # configs/byol.py:40-42, the predictor's widths too
        momentum=0.99,  # configs/byol.py:23, 100 and 300 epochs (40: 0.97, 1000: 0.996)
    ),
)
CIFAR = cifar(PUBLISHED, ASYMMETRIC, learning_rate=1.0, weight_decay=1e-5)
