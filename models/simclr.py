"""SimCLR (Chen et al. 2020, arXiv 2002.05709). Files: google-research/simclr 383d414."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from base.parallel import full_precision
from images.views import FIRST, LOCAL
from models.method import COMMON, SYMMETRIC, Siamese, backbone_features, cifar


@full_precision
def simclr_loss(x, y, temperature=0.1, scale=1.0):
    """NT-Xent (eq. 1) of embeddings x, y (n, d): (loss, terms).

    The *sum* of both directions, each a mean over n, as in the official code
    (tf2/objective.py:33-86), to which its learning rates belong. The paper's Algorithm 1 has the
    mean over 2n, which is half of it. scale: a factor of all.
    """
    n = len(x)
    z = F.normalize(torch.cat([x, y]), dim=1)
    logits = (z @ z.T / temperature).fill_diagonal_(-math.inf)
    positive = torch.arange(2 * n, device=x.device).roll(n)
    accuracy = (logits.detach().argmax(1) == positive).to(x.dtype).mean()
    loss = 2 * scale * F.cross_entropy(logits, positive)
    return loss, {"contrastive_accuracy": accuracy}


class SimCLR(Siamese):
    """Crops of one size share a forward pass and its statistics, as published."""

    def __init__(self, backbone, dim, projector, **options):
        super().__init__(backbone, dim, projector, simclr_loss, hidden_bias=False, **options)
        norm = nn.BatchNorm1d(projector[-1])  # on the last layer too: tf2/model.py:120-190
        norm.bias.requires_grad_(False)
        self.projector.append(norm)

    def embed(self, crops):
        return self.projector(backbone_features(self.backbone, crops)).chunk(len(crops))


# Published in TensorFlow; it runs here on the arithmetic of PIL, like the others. data_util.py
VIEW = FIRST | dict(jitter=(0.8, 0.8, 0.8, 0.2), blur=0.5, mean=(0, 0, 0), std=(1, 1, 1))
PUBLISHED = COMMON | dict(
    build=SimCLR,
    views=(VIEW, VIEW, VIEW | LOCAL),
    learning_rate=0.075,  # README: better than "linear" below batch 4096, where both give 4.8
    scaling="sqrt",
    weight_decay=1e-4,  # run.py:55; LARS tf2/model.py:40-46
    head=dict(projector="2048-2048-128", temperature=0.1),  # tf2/model.py:157-217; run.py:191
)
CIFAR = cifar(
    PUBLISHED,
    SYMMETRIC,
    learning_rate=0.4,
    weight_decay=1e-4,
    projector="2048-256",
    temperature=0.2,
    scale=0.5,  # solo/losses/simclr.py has the mean over 2n
)
