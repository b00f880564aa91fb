"""VICReg (Bardes et al. 2022, arXiv 2105.04906), the dissertation's method.

Files: facebookresearch/vicreg 4e12602.
"""

import torch
import torch.nn.functional as F

from base.parallel import full_precision
from images.views import FIRST, LOCAL, SECOND
from models.method import COMMON, SOLO_LEARN, Siamese, cifar, off_diagonal_squares


@full_precision
def vicreg_loss(x, y, invariance=25.0, variance=25.0, covariance=1.0):
    """VICReg's loss (eq. 1-6) of embeddings x, y (n, d): (loss, terms).

    invariance * s(x, y) + variance * (v(x) + v(y)) / 2 + covariance * (c(x) + c(y)), where
        s = mean squared difference of x and y,
        v(z) = mean over columns of max(0, 1 - sqrt(var(z) + 1e-4)),
        c(z) = sum over i != j of C_ij^2 / d,  C = (z - mean)'(z - mean) / (n - 1).
    This is the official code (main_vicreg.py:194-220), to which its weights 25, 25 and 1 belong
    (:58-63).
    The paper has no half on v and does not divide s by d. The official code divides C by the
    configured batch - 1, which is wrong for a smaller last batch; n - 1 is right.
    """
    s = F.mse_loss(x, y)  # first: later, the backward pass would hold one more (n, d) tensor
    v_x, c_x = variance_and_covariance(x)
    v_y, c_y = variance_and_covariance(y)
    v = (v_x + v_y) / 2
    c = c_x + c_y
    terms = {"invariance": s.detach(), "variance": v.detach(), "covariance": c.detach()}
    return invariance * s + variance * v + covariance * c, terms


def variance_and_covariance(z):
    """v(z) and c(z) of `vicreg_loss`."""
    n, d = z.shape
    z = z - z.mean(0)
    squares = torch.linalg.vector_norm(z, dim=0).square()  # the diagonal of z'z
    v = F.relu(1 - torch.sqrt(squares / (n - 1) + 1e-4)).mean()
    # The plain form: cov = z.T @ z / (n - 1); c = cov.fill_diagonal_(0).square().sum() / d
    c = off_diagonal_squares(z, z, squares) / (n - 1) ** 2 / d
    return v, c


PUBLISHED = COMMON | dict(
    build=Siamese,
    views=(FIRST, SECOND, FIRST | LOCAL),  # augmentations.py
    learning_rate=0.3,  # README, 100 epochs; at batch 800: 0.3 x 800 / 256
    # weight decay: main_vicreg.py:53; LARS :245-254, not for 1-D parameters :112
    end=0.001,  # main_vicreg.py:167-181
    zero_init_residual=True,  # resnet.py:200-214
    head=dict(
        loss=vicreg_loss,
        hidden_bias=True,
        projector="8192-8192-8192",  # main_vicreg.py:223-232
    ),
)
CIFAR = cifar(
    PUBLISHED,
    (SOLO_LEARN | dict(scale=(0.2, 1.0), solarize=0.1),) * 3,  # vicreg.yaml
    learning_rate=0.3,
    weight_decay=1e-4,
    projector="2048-2048-2048",
    variance=50.0,  # solo/losses/vicreg.py sums the term of both views, ours is their mean
)
