"""The Frechet distance of two folders of images: features, their moments in one pass, the distance.

Used by 07 fid and report/cost.py. The features are those of the FID's Inception network (Heusel et
al. 2017, 1706.08500) or those of any backbone.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from base import parallel, run
from evaluate.features import normalise, refuse_infinite
from images.files import read_ahead
from images.pictures import square
from images.read import UnreadableImage, read_image
from images.unreadable import check_failed
from models.inception import load_inception
from models.resnet import load_backbone


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
        share = self.n * m / (self.n + m)
        between = shift * share**0.5
        rows = torch.cat([centred, between[None]])
        self.scatter.addmm_(rows.T, rows)
        self.n += m
        self.mean += shift * (m / self.n)

    def result(self):
        """(rows, mean (width,), covariance (width, width)) of all processes together.

        float64 numpy arrays; the covariance has the denominator rows - 1.
        """
        parallel.barrier()  # the slowest process may be far behind
        mine = torch.tensor(self.n, dtype=torch.float64, device=self.mean.device)
        n = parallel.all_sum(mine.clone())
        mean = parallel.all_sum(self.mean * (mine / n))
        shift = self.mean - mean
        scatter = self.scatter.addr(shift, shift, alpha=self.n)
        scatter = parallel.all_sum(scatter)
        n = int(n)
        covariance = scatter / max(n - 1, 1)
        return n, mean.cpu().numpy(), covariance.cpu().numpy()


# ---------------------------------------------------------------- the distance
def frechet_distance(mu1, sigma1, mu2, sigma2):
    """|mu1 - mu2|^2 + tr(sigma1 + sigma2 - 2 (sigma1 sigma2)^(1/2)) of two Gaussians.

    mu: (d,), sigma: (d, d), float64. With sigma1 = A A', the eigenvalues of sigma1 sigma2 are those
    of the symmetric A' sigma2 A. They are real, and nothing is added to the covariances, which are
    singular where there are fewer images than features. A is triangular where sigma1 allows it,
    which takes half of the time.
    """
    try:
        root = np.linalg.cholesky(sigma1)
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh(sigma1)
        root = vectors * np.sqrt(without_rounding(values))
    eigenvalues = np.linalg.eigvalsh(root.T @ sigma2 @ root)
    eigenvalues = without_rounding(eigenvalues)
    trace_of_root = np.sqrt(eigenvalues).sum()
    distance = np.sum((mu1 - mu2) ** 2)
    distance += np.trace(sigma1) + np.trace(sigma2) - 2 * trace_of_root
    return max(0.0, float(distance))  # of equal Gaussians rounding leaves -1e-13


def without_rounding(eigenvalues):
    """Eigenvalues of a covariance; those that are mere rounding errors, also below 0, become 0.

    LAPACK's are wrong by about the machine's epsilon times the largest. A thousand square roots of
    such errors would show in the distance.
    """
    smallest = 10 * np.finfo(float).eps * eigenvalues.max()
    return np.where(eigenvalues > smallest, eigenvalues, 0)


# ---------------------------------------------------------------- features
class Extractor(NamedTuple):
    """What turns images into features.

    network(stacks): list of uint8 (b, H, W, 3) tensors, one for each size of images -> (B, width).
    size: side of the centre squares that it is given, 0 for whole images. name: of the features.
    settings: {name: value} of all that the features depend on. batch_size: images at a time.
    """

    network: Callable
    width: int
    size: int
    name: str
    settings: dict
    batch_size: int
    device: torch.device


def load_features(features, weights, size, precision, batch_size, device):
    """The Extractor for what stands behind the flags of 07 that have these names."""
    if features == "inception":
        network, path = load_inception(weights)
        width = network.width
        name = "inception"
        digest = run.file_hash(path)

        def prepare(stacks):
            return [stack.to(device, non_blocking=True) for stack in stacks]

    else:
        network, width, info = load_backbone(features)
        name = info["architecture"]
        digest = info["sha256"] or "random"
        size = size or info["args"].get("size", 224)

        def prepare(stacks):
            return normalise(torch.cat(stacks), device, network)

    network.to(device, memory_format=torch.channels_last)
    settings = {"features": name, "weights": digest, "size": size, "precision": precision}

    @torch.inference_mode()
    def forward(stacks):
        with run.autocast(device, precision):
            return network(prepare(stacks))

    return Extractor(forward, width, size, name, settings, batch_size, device)


# ---------------------------------------------------------------- reading
def read_stacks(files, size):
    """Files -> (the files, stacks, {file: why} of those that cannot be read).

    stacks: uint8 (b, H, W, 3) tensors, one for each size of images. The files come back in the
    order of the images in the stacks. size: see `Extractor`.
    """
    stacks = {}
    failed = {}
    for file in files:
        try:
            image = read_image(file)
        except UnreadableImage as error:
            failed[file] = str(error)
            continue
        if size:
            image = square(image, size)
        stacks.setdefault(image.shape, []).append((file, image))
    names, tensors = [], []
    for pairs in stacks.values():
        names += [file for file, _ in pairs]
        images = np.stack([image for _, image in pairs])
        tensors.append(torch.from_numpy(images))
    return names, tensors, failed


def moments_of_files(files, features, what, workers, max_unreadable, keep=None):
    """(number, mean, covariance) of the features of the files, over all processes, in one pass.

    what: the progress bar's name. max_unreadable: the share of the files that may be unreadable;
    they are named and left out. keep: a function that gets the files of each batch of this
    process and their features (B, width).
    """
    size, device = features.batch_size, features.device
    moments = Moments(features.width, device)
    starts = range(0, len(files), size)[parallel.rank() :: parallel.world()]
    mine = [files[start : start + size] for start in starts]
    read = partial(read_stacks, size=features.size)
    names = []
    finite = [torch.ones(0, dtype=torch.bool, device=device)]
    failed = {}
    with run.progress(len(files), what) as bar:
        for batch, stacks, unread in read_ahead(mine, read, workers, device):
            done = (len(batch) + len(unread)) * parallel.world()
            bar.update(min(done, len(files) - bar.n))
            failed |= unread
            if not batch:
                continue
            rows = features.network(stacks)
            moments.add(rows)
            if keep:
                keep(batch, rows)
            # Whether they are finite is looked at later: nothing waits for the device here.
            finite.append(rows.isfinite().all(1))
            names += batch
    check_failed(failed, len(files), max_unreadable)
    refuse_infinite(names.__getitem__, torch.cat(finite))
    return moments.result()


def warn_if_few(n, features, what):
    """A warning where the covariance is singular. n: the number of images."""
    if n < features.width:
        run.warn(
            f"{what} has {n} images, fewer than the {features.width} features: its covariance is "
            "singular and the Frechet distance unreliable (biased upwards)."
        )
