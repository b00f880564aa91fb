"""Classifiers on frozen features that lie spread over the processes: weighted kNN, logistic regression.

Sums over the rows are summed over the processes, so that any number of them gives the same result.
"""

import torch
import torch.nn.functional as F

from models.features import total
from models.run import rank, seed_rng, world

DECAYS = tuple(10.0**-n for n in range(1, 7))  # weight decays of the logistic regression
CHUNK = 8192  # rows of features in one product


def accuracy(scores, labels, k=(1, 5)):
    """Top-k accuracies, percent, of scores (n, classes); a k beyond the number of classes is that number."""
    hits = scores.topk(min(max(k), scores.shape[1]), 1).indices == labels[:, None]
    return [100 * hits[:, :n].any(1).double().mean().item() for n in k]


def knn(train, labels, val, classes, k=20, temperature=0.07):
    """Votes (n, classes) of the k nearest training features, weighted by exp(cosine / temperature).

    DINO's eval_knn.py. train (m, d), labels (m): of this process's images; val (n, d): the same on all."""
    train, votes = F.normalize(train, dim=1), []
    there = int(total(torch.tensor(len(train), device=train.device)))
    for part in F.normalize(val, dim=1).split(1000):
        found = min(k, len(train))
        values, indices = (part @ train.T).topk(found, 1)
        near, whose = part.new_zeros(world(), len(part), k), labels.new_zeros(world(), len(part), k)
        near[rank(), :, found:] = -torch.inf
        near[rank(), :, :found], whose[rank(), :, :found] = values, labels[indices]
        near, whose = (total(t).movedim(0, 1).flatten(1) for t in (near, whose))
        values, indices = near.topk(min(k, there), 1)
        weights = (values / temperature).exp()
        votes.append(part.new_zeros(len(part), classes).scatter_add_(1, whose.gather(1, indices), weights))
    return torch.cat(votes)


def moments(x, device):
    """Mean and standard deviation of each feature over the rows of all processes, float32."""
    n = total(torch.tensor(float(len(x)), dtype=torch.float64, device=device))
    mean = total(sum(part.to(device).double().sum(0) for part in x.split(CHUNK))) / n
    squares = total(sum((part.to(device).double() - mean).square().sum(0) for part in x.split(CHUNK)))
    return mean.float(), (squares / n).sqrt().clamp(min=1e-6).float()


def held_out(labels, seed, share=0.1):
    """Mask of a stratified random share of the images: of each class at least one, if it has two."""
    mask = torch.zeros(len(labels), dtype=torch.bool)
    for number in labels.unique().tolist():
        members = (labels == number).nonzero()[:, 0]
        order = seed_rng(seed, "held out", number).permutation(len(members))
        mask[members[order[: max(round(share * len(members)), int(len(members) > 1))]]] = True
    return mask


def loss_and_gradient(W, x, y, weight):
    """Weighted mean loss over the rows of all processes, and its gradient in W (d + 1, classes), float64.

    y: labels int64 (n): softmax cross-entropy; or float (n, classes) of 0 and 1: logistic losses, summed."""
    W32, one_label = W.float(), y.ndim == 1
    out = torch.zeros(2 + W.numel(), dtype=torch.float64, device=W.device)
    for rows in zip(x.split(CHUNK), y.split(CHUNK), weight.split(CHUNK), strict=True):
        x_, y_, weight_ = (tensor.to(W.device, non_blocking=True) for tensor in rows)
        scores = torch.addmm(W32[-1], x_, W32[:-1])
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
        out[2:] += torch.cat([x_.T @ residual, residual.sum(0, keepdim=True)]).flatten()
    out = total(out)
    return out[1] / out[0], (out[2:] / out[0]).view_as(W)


def logistic_regression(x, y, weight, decay, W, iterations=200):
    """The W that minimises mean loss + decay / 2 |W|^2 (the last row, biases, is free): L-BFGS from W."""
    W, free = torch.nn.Parameter(W.clone()), torch.ones_like(W)
    free[-1] = 0
    flat = loss_and_gradient(torch.zeros_like(W), x, y, weight)[1].abs().max().item()
    solver = torch.optim.LBFGS([W], max_iter=iterations, max_eval=2 * iterations, history_size=10,
                               tolerance_grad=1e-3 * flat, tolerance_change=1e-8,
                               line_search_fn="strong_wolfe")

    def closure():
        loss, gradient = loss_and_gradient(W.detach(), x, y, weight)
        W.grad = gradient + decay * free * W.detach()
        return loss + decay / 2 * (free * W.detach()).square().sum()

    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")  # TF32 is too coarse for a line search
    solver.step(closure)
    torch.set_float32_matmul_precision(precision)
    return W.detach()


def fit_linear(x, y, classes, held, device, decays=DECAYS):
    """(scorer: features -> scores (n, classes), chosen weight decay, {decay: loss on the held-out rows}).

    x (n, d), y, held (n): of this process; `y` as in `loss_and_gradient`. Each feature is standardised by the
    training rows, *in place*. The decay with the least held-out loss is refitted on all rows."""
    mean, sd = moments(x, device)
    for part in x.split(CHUNK):
        part.sub_(mean.to(x.device)).div_(sd.to(x.device))
    W = torch.zeros(x.shape[1] + 1, classes, dtype=torch.float64, device=device)
    path, losses, held = {}, {}, held.to(x)
    for decay in sorted(decays, reverse=True):  # each starts from the one before
        W = path[decay] = logistic_regression(x, y, 1 - held, decay, W)
        losses[decay] = loss_and_gradient(W, x, y, held)[0].item()
    best = min(losses, key=losses.get)
    W = logistic_regression(x, y, torch.ones_like(held), best, path[best]).float()
    return lambda new: torch.addmm(W[-1], (new.to(device) - mean) / sd, W[:-1]), best, losses
