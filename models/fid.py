"""Frechet Inception Distance: its Inception network, moments in one pass, the distance.

Heusel et al. 2017 (1706.08500). The network is TensorFlow's of 2015-12-05 in the port that
pytorch-fid publishes, so that values can be compared with those in the literature.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torchvision.models import inception as blocks

from base import parallel, run
from base.weights import load_strictly, weight_file


# ---------------------------------------------------------------- the network
def average_pool(x):
    """TensorFlow's "same" average: what lies outside the image is not counted."""
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def max_pool(x):
    """What stands in the place of the average in the graph's very last block."""
    return F.max_pool2d(x, 3, stride=1, padding=1)


class InceptionA(blocks.InceptionA):
    def forward(self, x):
        branches = [
            self.branch1x1(x),
            self.branch5x5_2(self.branch5x5_1(x)),
            self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x))),
            self.branch_pool(average_pool(x)),
        ]
        return torch.cat(branches, 1)


class InceptionC(blocks.InceptionC):
    def forward(self, x):
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        branches = [
            self.branch1x1(x),
            self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x))),
            self.branch7x7dbl_5(self.branch7x7dbl_4(double)),
            self.branch_pool(average_pool(x)),
        ]
        return torch.cat(branches, 1)


class InceptionE(blocks.InceptionE):
    pool = staticmethod(average_pool)

    def forward(self, x):
        single = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        branches = [
            self.branch1x1(x),
            self.branch3x3_2a(single),
            self.branch3x3_2b(single),
            self.branch3x3dbl_3a(double),
            self.branch3x3dbl_3b(double),
            self.branch_pool(self.pool(x)),
        ]
        return torch.cat(branches, 1)


class FIDInception(blocks.Inception3):
    """torchvision's Inception with the pooling of 2015: images -> pool3 features (B, 2048)."""

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
        self.Mixed_7c.pool = max_pool

    def forward(self, images):
        """images: uint8 (B, H, W, 3) of any size, or a list of such tensors, one for each size.

        A list goes through the network as one batch: images of many sizes cost what images of one
        size cost.
        """
        stacks = images if isinstance(images, list) else [images]
        x = torch.cat([self.resized(stack) for stack in stacks])
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(self.maxpool1(x)))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(self.maxpool2(x))))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))
        return x.mean((2, 3))

    def resized(self, images):
        """uint8 (B, H, W, 3) -> (B, 3, 299, 299) in [-1, 1], not antialiased, as published."""
        x = images.permute(0, 3, 1, 2).float() / 255
        return 2 * F.interpolate(x, (299, 299), mode="bilinear", align_corners=False) - 1


def load_inception(path=None):
    """(network in evaluation mode, path of its weights).

    The weights are read from `path`, else from the cache, else from the official address.
    """
    path = path or weight_file("inception")
    state = run.load(path)
    with torch.device("meta"):
        network = FIDInception()
    # Files from before PyTorch 0.4.1 lack the counters of BatchNorm, which evaluation does not use.
    names = [name for name in network.state_dict() if name.endswith("num_batches_tracked")]
    counters = {name: torch.tensor(0) for name in names}
    network = load_strictly(network.to_empty(device="cpu"), counters | dict(state), path)
    return network.eval(), path


# ---------------------------------------------------------------- moments
class Moments:
    """Mean and scatter matrix of rows that arrive in batches, in float64.

    Batches are merged as in Chan et al. 1979 (STAN-CS-79-773): sums of squares would lose digits.
    """

    def __init__(self, width, device="cpu"):
        self.n = 0
        self.mean = torch.zeros(width, dtype=torch.float64, device=device)
        self.scatter = torch.zeros(width, width, dtype=torch.float64, device=device)

    def add(self, rows):
        """rows: (B, width), any dtype."""
        rows = rows.to(self.mean)
        m = len(rows)
        mean = rows.mean(0)
        shift = mean - self.mean
        centred = rows - mean
        # The two groups' means differ by `shift`: it adds n m / (n + m) shift shift' to the
        # scatter, which is what one more row of this length adds.
        between = shift * (self.n * m / (self.n + m)) ** 0.5
        rows = torch.cat([centred, between[None]])
        self.scatter.addmm_(rows.T, rows)
        self.n += m
        self.mean += shift * (m / self.n)

    def result(self):
        """(rows, mean (width,), covariance (width, width)) of all processes together.

        float64 numpy arrays; the covariance has the denominator rows - 1.
        """
        parallel.barrier()  # the slowest process may be far behind
        mine = torch.tensor(float(self.n), dtype=torch.float64, device=self.mean.device)
        n = parallel.all_sum(mine.clone())
        mean = parallel.all_sum(self.mean * (mine / n))
        shift = self.mean - mean
        scatter = parallel.all_sum(self.scatter.addr(shift, shift, alpha=self.n))
        n = int(n)
        covariance = scatter / max(n - 1, 1)
        return n, mean.cpu().numpy(), covariance.cpu().numpy()


# ---------------------------------------------------------------- the distance
def frechet_distance(mu1, sigma1, mu2, sigma2):
    """|mu1 - mu2|^2 + tr(sigma1 + sigma2 - 2 (sigma1 sigma2)^(1/2)) of two Gaussians.

    mu: (d,), sigma: (d, d), float64. With sigma1 = A A', the eigenvalues of sigma1 sigma2 are those
    of the symmetric A' sigma2 A. They are real, and nothing is added to the covariances, which are
    singular where there are fewer images than features.
    """
    values, vectors = np.linalg.eigh(sigma1)
    root = vectors * np.sqrt(without_rounding(values))
    eigenvalues = np.linalg.eigvalsh(root.T @ sigma2 @ root)
    trace_of_root = np.sqrt(without_rounding(eigenvalues)).sum()
    distance = np.sum((mu1 - mu2) ** 2)
    distance += np.trace(sigma1) + np.trace(sigma2) - 2 * trace_of_root
    return float(distance)


def without_rounding(eigenvalues):
    """Eigenvalues of a covariance; those that are mere rounding errors, also below 0, become 0.

    LAPACK's are wrong by about the machine's epsilon times the largest. A thousand square roots of
    such errors would show in the distance.
    """
    smallest = 10 * np.finfo(float).eps * eigenvalues.max()
    return np.where(eigenvalues > smallest, eigenvalues, 0)
