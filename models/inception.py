"""Frechet Inception Distance: the Inception v3 it is defined on, moments in one pass, the distance.

Heusel et al. 2017 (1706.08500). The network is TensorFlow's of 2015-12-05 in the port that pytorch-fid publishes,
so that values can be compared with those in the literature: torchvision's Inception with other pooling.
"""

import json

import numpy as np
import torch
import torch.nn.functional as F
from scipy.linalg import eigvalsh, lapack
from torchvision.models import inception as blocks

from models.old_run import fail, load, world
from models.weights import fill, find


# ---------------------------------------------------------------- the network
def average_pool(x):
    """TensorFlow's 'same' average: what lies outside the image is not counted."""
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


class InceptionA(blocks.InceptionA):
    def forward(self, x):
        return torch.cat(
            [
                self.branch1x1(x),
                self.branch5x5_2(self.branch5x5_1(x)),
                self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x))),
                self.branch_pool(average_pool(x)),
            ],
            1,
        )


class InceptionC(blocks.InceptionC):
    def forward(self, x):
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        return torch.cat(
            [
                self.branch1x1(x),
                self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x))),
                self.branch7x7dbl_5(self.branch7x7dbl_4(double)),
                self.branch_pool(average_pool(x)),
            ],
            1,
        )


class InceptionE(blocks.InceptionE):
    pool = staticmethod(average_pool)

    def forward(self, x):
        single, double = self.branch3x3_1(x), self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        return torch.cat(
            [
                self.branch1x1(x),
                self.branch3x3_2a(single),
                self.branch3x3_2b(single),
                self.branch3x3dbl_3a(double),
                self.branch3x3dbl_3b(double),
                self.branch_pool(self.pool(x)),
            ],
            1,
        )


class FIDInception(blocks.Inception3):
    """uint8 (B, H, W, 3) of any size -> pool3 features (B, 2048)."""

    width = 2048

    def __init__(self):
        ours = [
            blocks.BasicConv2d,
            InceptionA,
            blocks.InceptionB,
            InceptionC,
            blocks.InceptionD,
            InceptionE,
            blocks.InceptionAux,
        ]
        super().__init__(
            num_classes=1008, aux_logits=False, inception_blocks=ours, init_weights=False
        )
        self.Mixed_7c.pool = lambda x: F.max_pool2d(
            x, 3, stride=1, padding=1
        )  # a quirk of the 2015 graph

    def forward(self, images):
        x = images.permute(0, 3, 1, 2).float() / 255
        x = (
            2 * F.interpolate(x, (299, 299), mode="bilinear", align_corners=False) - 1
        )  # not antialiased, as published
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(self.maxpool1(x)))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(self.maxpool2(x))))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))
        return x.mean((2, 3))


def load_inception(path=None):
    """(network in evaluation mode, path of its weights): from `path`, the cache, or the official address. Strict."""
    path = path or find("inception")
    state = load(path)
    with torch.device("meta"):
        network = FIDInception()
    # files from before PyTorch 0.4.1 lack the counters, which evaluation does not use
    counters = {
        key: torch.tensor(0) for key in network.state_dict() if key.endswith("num_batches_tracked")
    }
    return fill(network.to_empty(device="cpu"), counters | dict(state), path), path


# ---------------------------------------------------------------- moments
class Moments:
    """Mean and scatter matrix of rows that arrive in batches, float64, merged by Chan et al. 1979 (STAN-CS-79-773)."""

    def __init__(self, width, device="cpu"):
        self.n = 0
        self.mean = torch.zeros(width, dtype=torch.float64, device=device)
        self.scatter = torch.zeros(width, width, dtype=torch.float64, device=device)

    def add(self, rows):
        """rows: (B, width), any dtype."""
        rows = rows.to(self.mean)
        mean, m = rows.mean(0), len(rows)
        shift = mean - self.mean
        # the update of rank one, n m / (n + m) shift shift', is one more row of the product
        rows = torch.cat([rows - mean, shift[None] * (self.n * m / (self.n + m)) ** 0.5])
        self.scatter.addmm_(rows.T, rows)
        self.n += m
        self.mean += shift * (m / self.n)

    def result(self):
        """(number of rows, mean (width,), covariance (width, width) with denominator n - 1), float64 numpy arrays,
        of all processes together."""
        n = torch.tensor(self.n, dtype=torch.float64, device=self.mean.device)
        mean, scatter = self.mean, self.scatter
        if world() > 1:
            total = n.clone()
            torch.distributed.all_reduce(total)
            mean = mean * (n / total)
            torch.distributed.all_reduce(mean)
            shift = self.mean - mean
            scatter = scatter.addr(shift, shift, alpha=self.n)
            torch.distributed.all_reduce(scatter)
            n = total
        n = int(n)
        return n, mean.cpu().numpy(), (scatter / max(n - 1, 1)).cpu().numpy()


def read_statistics(path, settings, width):
    """(n or None, mu, sigma) of an .npz of ours or of pytorch-fid; ours must have been made with these settings."""
    try:
        with np.load(path) as file:
            mu, sigma = file["mu"], file["sigma"]
            made = json.loads(str(file["settings"])) if "settings" in file else None
            n = int(file["n"]) if "n" in file else None
    except FileNotFoundError:
        fail(f"{path} does not exist.", 2)
    except (OSError, ValueError, KeyError) as error:
        fail(f"{path} is not a file of statistics with mu and sigma ({error}).")
    if made is None and settings["features"] != "inception":
        fail(
            f"{path} does not say which features it holds (pytorch-fid's are Inception's): leave --features out.",
            2,
        )
    changed = [
        f"{key} was {made[key]}, now {value}"
        for key, value in settings.items()
        if made is not None and made.get(key, value) != value
    ]
    if changed:
        fail(
            f"{path} holds statistics made with other settings ({'; '.join(changed)}): delete it, or choose another "
            "name with --cache."
        )
    if mu.shape != (width,) or sigma.shape != (width, width):
        fail(f"{path} holds statistics of {mu.size} features, these have {width}.")
    return n, mu.astype(np.float64), sigma.astype(np.float64)


# ---------------------------------------------------------------- the distance
def factor(sigma):
    """(L (d, d) lower triangular, order, rank) with sigma[order][:, order] = L L': Cholesky with pivoting, which also
    takes a singular covariance; columns of L from `rank` on are zero."""
    tolerance = len(sigma) * np.finfo(float).eps * sigma.diagonal().max()
    lower, order, rank, _ = lapack.dpstrf(sigma, lower=1, tol=tolerance)
    lower = np.asfortranarray(np.tril(lower))
    lower[:, rank:] = 0
    return lower, order - 1, rank


def frechet_distance(mu1, sigma1, mu2, sigma2):
    """|mu1 - mu2|^2 + tr(sigma1 + sigma2 - 2 (sigma1 sigma2)^(1/2)) of two Gaussians; (d,) and (d, d) float64.

    With sigma1 = L L' the eigenvalues of sigma1 sigma2 are those of the symmetric L' sigma2 L: real, and none is
    lost where a covariance is singular (fewer images than features)."""
    first, second = factor(sigma1), factor(sigma2)
    (lower, order, rank), other = (first, sigma2) if first[2] <= second[2] else (second, sigma1)
    product, _ = lapack.dsygst(other[np.ix_(order, order)].T, lower, itype=2, lower=1)
    eigenvalues = (
        eigvalsh(product[:rank, :rank], lower=True, check_finite=False) if rank else np.zeros(0)
    )
    root = np.sqrt(eigenvalues.clip(0)).sum()
    return float(np.sum((mu1 - mu2) ** 2) + np.trace(sigma1) + np.trace(sigma2) - 2 * root)
