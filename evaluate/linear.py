"""Logistic regression, softmax or one-versus-rest, on features that lie spread over the processes.

Used by 04, 06 and report/cost.py. Sums over the rows are summed over the processes, so that any
number of them gives the same result. The features may lie on the CPU and the weights on a GPU: the
rows are then sent in chunks.
"""

import torch
import torch.nn.functional as F

from base import parallel
from images.labelled import some_of_each

DECAYS = tuple(10.0**-n for n in range(1, 7))  # weight decays of the logistic regression
CHUNK = 8192  # rows of features in one product
TOLERANCE = 2e-3  # of the largest element of the gradient at W = 0


def held_out(labels, seed):
    """Mask (n,) of a stratified random tenth of the images, of labels int64 (n,), both of numpy.

    It holds at least one image of each class that has two.
    """

    def tenth(n):
        return max(round(0.1 * n), n > 1)

    return some_of_each(labels, tenth, seed, "held out")


def column_sums(x, device, function):
    """The sums (width,) of function(rows) over all rows of all processes, float64.

    x (n, width): this process's rows, which reach the function in parts, in float64.
    """
    sums = torch.zeros(x.shape[1], dtype=torch.float64, device=device)
    for part in x.split(CHUNK):
        rows = part.to(device).double()
        sums += function(rows).sum(0)
    return parallel.all_sum(sums)


def standardise(x, device):
    """Each feature to mean 0 and standard deviation 1 over all processes, in place.

    x (n, d): this process's rows. Returns the mean and the standard deviation (d,), float32.
    """
    n = torch.tensor(len(x), dtype=torch.float64, device=device)
    n = parallel.all_sum(n)
    mean = column_sums(x, device, lambda rows: rows) / n
    variance = column_sums(x, device, lambda rows: (rows - mean).square()) / n
    sd = variance.sqrt().clamp(min=1e-6)
    mean = mean.float()
    sd = sd.float()
    for part in x.split(CHUNK):
        part -= mean.to(x.device)
        part /= sd.to(x.device)
    return mean, sd


# ---------------------------------------------------------------- the loss
def softmax_loss(scores, y):
    """Cross-entropy (n,) and its gradient (n, classes). y: labels int64 (n,)."""
    log_p = scores.log_softmax(1)
    losses = F.nll_loss(log_p, y, reduction="none")
    gradient = log_p.exp()
    minus_one = gradient.new_full((len(y), 1), -1)
    return losses, gradient.scatter_add_(1, y[:, None], minus_one)


def logistic_losses(scores, y):
    """Logistic losses, summed over the classes (n,), and the gradient. y: 0 and 1 (n, classes)."""
    losses = F.binary_cross_entropy_with_logits(scores, y, reduction="none")
    return losses.sum(1), scores.sigmoid() - y


def loss_and_gradient(W, x, y, weight):
    """Weighted mean loss over the rows of all processes, and its gradient in W, float64.

    W (classes, d + 1): its last column holds the biases. x (n, d), weight (n,). y: labels int64
    (n,) for a softmax, or float (n, classes) of 0 and 1 for one logistic regression per class.
    """
    matrix = W[:, :-1].float().contiguous()
    bias = W[:, -1].float()
    loss_of = softmax_loss if y.ndim == 1 else logistic_losses
    weights = W.new_zeros(1)
    loss = W.new_zeros(1)
    gradient = torch.zeros_like(W)
    chunks = [rows.split(CHUNK) for rows in (x, y, weight)]
    for chunk in zip(*chunks, strict=True):
        x_part, y_part, weight_part = [part.to(W.device, non_blocking=True) for part in chunk]
        predicted = F.linear(x_part, matrix, bias)
        losses, residual = loss_of(predicted, y_part)
        residual = residual * weight_part[:, None]
        weights += weight_part.sum()
        loss += losses @ weight_part
        gradient[:, :-1] += residual.T @ x_part
        gradient[:, -1] += residual.sum(0)
    sums = torch.cat([weights, loss, gradient.flatten()])
    sums = parallel.all_sum(sums)
    means = sums[1:] / sums[0]
    return means[0], means[1:].view_as(W)


# ---------------------------------------------------------------- the solver
def logistic_regression(x, y, weight, decay, W, tolerance):
    """The W that minimises mean loss + decay / 2 |W|^2, the biases left free: L-BFGS from W.

    It ends when no element of the gradient is above `tolerance`.
    """
    W = torch.nn.Parameter(W.clone())
    solver = torch.optim.LBFGS(
        [W],
        max_iter=200,
        max_eval=400,
        history_size=10,
        tolerance_grad=tolerance,
        tolerance_change=1e-8,
        line_search_fn="strong_wolfe",
    )

    def closure():
        loss, gradient = loss_and_gradient(W.detach(), x, y, weight)
        shrunk = W.detach().clone()
        shrunk[:, -1] = 0
        W.grad = gradient + decay * shrunk
        return loss + decay / 2 * shrunk.square().sum()

    solver.step(closure)
    return W.detach()


def start_of(x, y, weight, classes, device):
    """(W of zeros, the tolerance of the solver): `TOLERANCE` of its gradient's largest element."""
    width = x.shape[1]
    W = torch.zeros(classes, width + 1, dtype=torch.float64, device=device)
    _, gradient = loss_and_gradient(W, x, y, weight)
    largest = gradient.abs().max()
    return W, TOLERANCE * largest.item()


def fit_linear(x, y, classes, held, device, decays=DECAYS):
    """(W (classes, d + 1), the chosen weight decay).

    x (n, d) standardised, y, held (n,) bool: of this process; y as in `loss_and_gradient`. y and
    held can be of numpy. Each weight decay is fitted without the held-out rows, from the solution
    of the next stronger one. The one with the least loss on the held-out rows is then fitted on all
    rows.
    """
    y = torch.as_tensor(y, device=x.device)
    held = torch.as_tensor(held).to(x)
    rest = 1 - held
    W, tolerance = start_of(x, y, rest, classes, device)
    path = {}
    losses = {}
    for decay in sorted(decays, reverse=True):
        W = logistic_regression(x, y, rest, decay, W, tolerance)
        path[decay] = W
        loss, _ = loss_and_gradient(W, x, y, held)
        losses[decay] = loss.item()
    best = min(losses, key=losses.get)
    everything = torch.ones_like(held)
    W = logistic_regression(x, y, everything, best, path[best], tolerance)
    return W, best


def fit_few(x, y, classes, n, device):
    """(W, weight decay) for n labelled rows of standardised features over all processes.

    The decay is 1 / n, scikit-learn's C = 1: a few labels are too few to choose it by.
    """
    y = torch.as_tensor(y, device=x.device)
    weight = torch.ones(len(x), device=x.device)
    W, tolerance = start_of(x, y, weight, classes, device)
    decay = 1 / n
    return logistic_regression(x, y, weight, decay, W, tolerance), decay


def scores(W, x):
    """(n, classes) of features (n, d) and weights (classes, d + 1)."""
    W = W.to(x)
    return F.linear(x, W[:, :-1], W[:, -1])
