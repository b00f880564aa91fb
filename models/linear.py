"""Logistic regression, softmax or one-versus-rest, on features that lie spread over the processes.

Sums over the rows are summed over the processes, so that any number of them gives the same result.
"""

import torch
import torch.nn.functional as F

from models.features import total
from models.old_run import seed_rng

DECAYS = tuple(10.0**-n for n in range(1, 7))  # weight decays of the logistic regression
CHUNK = 8192  # rows of features in one product


def held_out(labels, seed, share=0.1):
    """Mask of a stratified random share of the images: of each class at least one, if it has two."""
    mask = torch.zeros(len(labels), dtype=torch.bool)
    for number in labels.unique().tolist():
        members = (labels == number).nonzero()[:, 0]
        order = seed_rng(seed, "held out", number).permutation(len(members))
        mask[members[order[: max(round(share * len(members)), int(len(members) > 1))]]] = True
    return mask


def loss_and_gradient(W, x, y, weight):
    """Weighted mean loss over the rows of all processes, and its gradient in W (classes, d + 1), float64.

    y: labels int64 (n): softmax cross-entropy; or float (n, classes) of 0 and 1: logistic losses, summed."""
    W32, one_label = (W[:, :-1].float().contiguous(), W[:, -1].float()), y.ndim == 1
    out = torch.zeros(2 + W.numel(), dtype=torch.float64, device=W.device)
    for rows in zip(x.split(CHUNK), y.split(CHUNK), weight.split(CHUNK), strict=True):
        x_, y_, weight_ = (tensor.to(W.device, non_blocking=True) for tensor in rows)
        scores = F.linear(x_, *W32)
        if one_label:
            log_p = scores.log_softmax(1)
            losses, residual = F.nll_loss(log_p, y_, reduction="none"), log_p.exp()
            residual.scatter_add_(1, y_[:, None], residual.new_full((len(y_), 1), -1))
        else:
            losses = F.binary_cross_entropy_with_logits(scores, y_, reduction="none").sum(1)
            residual = scores.sigmoid() - y_
        residual *= weight_[:, None]
        out[0] += weight_.sum()
        out[1] += losses @ weight_
        out[2:] += torch.cat([residual.T @ x_, residual.sum(0)[:, None]], 1).flatten()
    out = total(out)
    return out[1] / out[0], (out[2:] / out[0]).view_as(W)


def logistic_regression(x, y, weight, decay, W, tolerance=1e-4, iterations=200):
    """The W that minimises mean loss + decay / 2 |W|^2 (its last column, the biases, is free): L-BFGS from W.

    It ends when no element of the gradient is above `tolerance`."""
    W, free = torch.nn.Parameter(W.clone()), torch.ones_like(W)
    free[:, -1] = 0
    solver = torch.optim.LBFGS(
        [W],
        max_iter=iterations,
        max_eval=2 * iterations,
        history_size=10,
        tolerance_grad=tolerance,
        tolerance_change=1e-8,
        line_search_fn="strong_wolfe",
    )

    def closure():
        loss, gradient = loss_and_gradient(W.detach(), x, y, weight)
        W.grad = gradient + decay * free * W.detach()
        return loss + decay / 2 * (free * W.detach()).square().sum()

    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")  # TF32 is too coarse for a line search
    solver.step(closure)
    torch.set_float32_matmul_precision(precision)
    return W.detach()


def standardise(x, device):
    """Each feature to mean 0 and standard deviation 1 over all processes, in place; returns the two, float32."""
    n = total(torch.tensor(float(len(x)), dtype=torch.float64, device=device))
    mean = total(sum(part.to(device).double().sum(0) for part in x.split(CHUNK))) / n
    squares = total(
        sum((part.to(device).double() - mean).square().sum(0) for part in x.split(CHUNK))
    )
    mean, sd = mean.float(), (squares / n).sqrt().clamp(min=1e-6).float()
    for part in x.split(CHUNK):
        part.sub_(mean.to(x.device)).div_(sd.to(x.device))
    return mean, sd


def fit_linear(x, y, classes, held, device, decays=DECAYS):
    """(W (classes, d + 1), chosen weight decay, {decay: loss on the held-out rows}) for standardised features.

    x (n, d), y, held (n): of this process; `y` as in `loss_and_gradient`. Each decay is fitted without the
    held-out rows, from the solution of the next stronger one; the one with the least loss there on all rows."""
    W = torch.zeros(classes, x.shape[1] + 1, dtype=torch.float64, device=device)
    path, losses, held = {}, {}, held.to(x)
    tolerance = 2e-3 * loss_and_gradient(W, x, y, 1 - held)[1].abs().max().item()
    for decay in sorted(decays, reverse=True):
        W = path[decay] = logistic_regression(x, y, 1 - held, decay, W, tolerance)
        losses[decay] = loss_and_gradient(W, x, y, held)[0].item()
    best = min(losses, key=losses.get)
    return (
        logistic_regression(x, y, torch.ones_like(held), best, path[best], tolerance),
        best,
        losses,
    )


def scores(W, x):
    """(n, classes) of features (n, d) and weights (classes, d + 1)."""
    return F.linear(x, W[:, :-1].to(x), W[:, -1].to(x))
