"""Barlow Twins (Zbontar et al. 2021, 2103.03230). Files: facebookresearch/barlowtwins 8e8d284."""

import torch.nn.functional as F

from base.parallel import full_precision
from images.views import FIRST, LOCAL, SECOND
from models.method import ASYMMETRIC, COMMON, Siamese, cifar, off_diagonal_squares


@full_precision
def barlow_loss(x, y, lambd=0.0051, scale=1.0):
    """Barlow Twins' loss (eq. 1-2) of embeddings x, y (n, d): (loss, terms).

    sum_i (1 - C_ii)^2 + lambd * sum over i != j of C_ij^2, where C is the cross-correlation
    (main.py:207-221; lambd: :39). The columns are standardised here (biased variance, eps 1e-5), as
    by the official BatchNorm1d(affine=False), whose running statistics nothing reads. C is divided
    by n, not by the configured batch. On N processes the official gradient is 1 / N of the true
    one, because its all_reduce of C does not differentiate. scale: a factor of all.
    """
    n = len(x)
    x = F.batch_norm(x, None, None, training=True, eps=1e-5)
    y = F.batch_norm(y, None, None, training=True, eps=1e-5)
    diagonal = (x * y).sum(0)
    on = (diagonal / n - 1).square().sum()
    off = off_diagonal_squares(x, y, diagonal) / n**2
    return scale * (on + lambd * off), {"on_diagonal": on.detach(), "off_diagonal": off.detach()}


PUBLISHED = COMMON | dict(
    build=Siamese,
    views=(FIRST, SECOND, FIRST | LOCAL),  # main.py
    learning_rate=0.2,  # main.py:167-168
    lr_1d=0.0048 / 0.2,  # main.py:35, for a gradient of 1 / N there; LARS hides N elsewhere
    # weight decay: main.py:37 and :100; LARS :224-226
    end=0.001,  # main.py:155-168
    zero_init_residual=True,  # main.py:192
    head=dict(
        loss=barlow_loss,
        hidden_bias=False,
        projector="8192-8192-8192",  # main.py:195-202
    ),
)
CIFAR = cifar(
    PUBLISHED,
    ASYMMETRIC,
    learning_rate=0.3,
    weight_decay=1e-4,
    projector="2048-2048-2048",
    scale=0.1,
)
