"""The losses of the six methods, each a pure function that returns (loss, terms).

`terms` is a dict of detached scalars for the log. Statistics are those of the rows that are given:
on several processes the caller first gathers the global batch (base.parallel.gather).
"""

import math

import torch
import torch.nn.functional as F

from base.parallel import full_precision


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


@full_precision
def vicreg_loss(x, y, invariance=25.0, variance=25.0, covariance=1.0):
    """VICReg (Bardes et al. 2022, arXiv 2105.04906, eq. 1-6) of embeddings x, y (n, d).

    invariance * s(x, y) + variance * (v(x) + v(y)) / 2 + covariance * (c(x) + c(y)), where
        s = mean squared difference of x and y,
        v(z) = mean over columns of max(0, 1 - sqrt(var(z) + 1e-4)),
        c(z) = sum over i != j of C_ij^2 / d,  C = (z - mean)'(z - mean) / (n - 1).
    This is the official code (facebookresearch/vicreg main_vicreg.py:194-220), to which the weights
    25, 25 and 1 belong. The paper has no half on v and does not divide s by d. The official code
    divides C by the configured batch - 1, which is wrong for a smaller last batch; n - 1 is right.
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


@full_precision
def barlow_loss(x, y, lambd=0.0051, scale=1.0):
    """Barlow Twins (Zbontar et al. 2021, arXiv 2103.03230, eq. 1-2) of embeddings x, y (n, d).

    sum_i (1 - C_ii)^2 + lambd * sum over i != j of C_ij^2, where C is the cross-correlation
    (facebookresearch/barlowtwins main.py:207-221). The columns are standardised here (biased
    variance, eps 1e-5), as by the official BatchNorm1d(affine=False), whose running statistics
    nothing reads. C is divided by n, not by the configured batch. On N processes the official
    gradient is 1 / N of the true one, because its all_reduce of C does not differentiate.
    scale: a factor of all.
    """
    n = len(x)
    x = F.batch_norm(x, None, None, training=True, eps=1e-5)
    y = F.batch_norm(y, None, None, training=True, eps=1e-5)
    diagonal = (x * y).sum(0)
    on = (diagonal / n - 1).square().sum()
    off = off_diagonal_squares(x, y, diagonal) / n**2
    return scale * (on + lambd * off), {"on_diagonal": on.detach(), "off_diagonal": off.detach()}


@full_precision
def simclr_loss(x, y, temperature=0.1):
    """NT-Xent of SimCLR (Chen et al. 2020, arXiv 2002.05709, eq. 1) of embeddings x, y (n, d).

    The *sum* of both directions, each a mean over n, as in the official code
    (google-research/simclr tf2/objective.py:33-86), to which its learning rates belong. The paper's
    Algorithm 1 has the mean over 2n, which is half of it.
    """
    n = len(x)
    z = F.normalize(torch.cat([x, y]), dim=1)
    logits = (z @ z.T / temperature).fill_diagonal_(-math.inf)
    positive = torch.arange(2 * n, device=x.device).roll(n)
    accuracy = (logits.detach().argmax(1) == positive).to(x.dtype).mean()
    return 2 * F.cross_entropy(logits, positive), {"contrastive_accuracy": accuracy}


@full_precision
def byol_loss(p1, p2, z1, z2):
    """BYOL (Grill et al. 2020, arXiv 2006.07733, eq. 2): predictions p, teacher's projections z.

    All (b, d). |p1 - z2|^2 + |p2 - z1|^2 of unit vectors, the sum of both directions as published
    (google-deepmind byol utils/helpers.py:109).
    """
    cosine = F.cosine_similarity(p1, z2.detach()) + F.cosine_similarity(p2, z1.detach())
    return (4 - 2 * cosine).mean(), {"cosine": cosine.detach().mean() / 2}


@full_precision
def swav_loss(scores, q, temperature=0.1):
    """Swapped prediction (SwAV, Caron et al. 2020, arXiv 2006.09882, eq. 1, 2 and 6).

    scores (V, b, K): of all crops, the G global ones first. q (G, b, K): assignments of these.
    Cross-entropy of softmax(scores / temperature) to q of every *other* global crop, the mean over
    b and the G (V - 1) pairs (facebookresearch/swav main_swav.py:259-350).
    """
    pairs = len(q) * (len(scores) - 1)
    loss = 0.0
    for crop, predicted in enumerate(scores):
        target = sum(q[g] for g in range(len(q)) if g != crop)
        loss = loss + F.cross_entropy(predicted / temperature, target)
    entropy = torch.special.entr(q.detach()).sum(-1).mean()  # 0 or ln K: two kinds of collapse
    return loss / pairs, {"target_entropy": entropy}


@full_precision
def dino_loss(student, teacher, center, student_temp=0.1, teacher_temp=0.04):
    """DINO (Caron et al. 2021, arXiv 2104.14294, eq. 2-4): swapped prediction again.

    student (V, b, K): all crops. teacher (G, b, K): the global ones, no gradient. center (1, K).
    (facebookresearch/dino main_dino.py:363-416)
    """
    assignments = F.softmax((teacher - center) / teacher_temp, dim=-1)
    return swav_loss(student, assignments, temperature=student_temp)


@torch.no_grad()
@full_precision
def sinkhorn(scores, epsilon=0.05, iterations=3):
    """scores (n, K) -> assignments (n, K), rows of sum 1, that use the K prototypes equally.

    SwAV, eq. 3-5. The largest score of all is subtracted so that exp does not overflow; this
    changes nothing, because the first division removes a common factor. (Subtracting each row's
    largest score would change the result: three iterations do not converge.)
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
    """Does z (n, d) collapse? Two scalars on the device, from the first 512 rows.

    embedding_std: mean standard deviation of the columns. effective_rank: the exponential of the
    entropy of the singular values over their sum (RankMe, Garrido et al. 2023, eq. 1-2, not
    centred: it is 1 if all rows are equal).
    """
    z = z[:512].double()  # singular values from the eigenvalues of zz' have half the digits
    gram = z @ z.T if len(z) < z.shape[1] else z.T @ z
    singular = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    entropy = torch.special.entr(singular / singular.sum()).sum()
    return {"embedding_std": z.std(0).mean(), "effective_rank": entropy.exp()}
