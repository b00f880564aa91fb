"""Figures of the metrics and the evaluations: FID, SSIM, features, logistic regression."""

import contextlib
import importlib.util
import io
import os
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
import torch.nn.functional as F
from bench_tools import CPU, compare, photographs, report
from scipy.linalg import sqrtm
from scipy.ndimage import gaussian_filter
from sklearn.linear_model import LogisticRegression

from base import run
from evaluate import frechet, linear, ssim
from evaluate.features import centre_crop, extract
from images.pictures import square, write_image
from images.read import read_image
from images.unreadable import ImageList
from models.resnet import build_backbone


# ---------------------------------------------------------------- FID
def plain_distance(mu1, sigma1, mu2, sigma2):
    """The Frechet distance as in pytorch-fid."""
    root = sqrtm(sigma1 @ sigma2).real
    distance = np.sum((mu1 - mu2) ** 2)
    return distance + np.trace(sigma1) + np.trace(sigma2) - 2 * np.trace(root)


def by_eigenvalues(mu1, sigma1, mu2, sigma2):
    """The same from the eigenvalues of the product, as in torchmetrics and torch-fidelity."""
    product = torch.from_numpy(sigma1) @ torch.from_numpy(sigma2)
    trace_of_root = torch.linalg.eigvals(product).sqrt().real.sum().item()
    return np.sum((mu1 - mu2) ** 2) + np.trace(sigma1) + np.trace(sigma2) - 2 * trace_of_root


def moments(d):
    """[mean, covariance, mean, covariance] of two samples in d dimensions."""
    rng = run.seed_rng(0, "fid")
    deviations = np.linspace(0.1, 1, d) ** 2  # a spectrum that falls
    statistics = []
    for _ in range(2):
        rows = rng.standard_normal((2 * d, d)) * deviations
        statistics.append(rows.mean(0))
        statistics.append(np.cov(rows, rowvar=False))
    return statistics


def bench_fid(args, device):
    statistics = moments(64 if args.quick else 2048)
    ours = partial(frechet.frechet_distance, *statistics)
    plain = partial(plain_distance, *statistics)
    eigenvalues = partial(by_eigenvalues, *statistics)
    a, b, c = compare(CPU, args.rounds, ours, plain, eigenvalues, warm_up=False, equal=1e-6)
    report("fid, 2048 dimensions", a, "s", "scipy's sqrtm", b, ">= 4")
    report("fid, 2048 dimensions", a, "s", "eigenvalues of the product", c, ">= 2")


# ---------------------------------------------------------------- SSIM
def plain_ssim(x, y):
    """As scikit-image does it: five Gaussian filters a channel."""
    smooth = partial(gaussian_filter, sigma=(1.5, 1.5, 0), truncate=3.5)
    x = x.astype(float)
    y = y.astype(float)
    mean_x = smooth(x)
    mean_y = smooth(y)
    variance_x = smooth(x * x) - mean_x**2
    variance_y = smooth(y * y) - mean_y**2
    covariance = smooth(x * y) - mean_x * mean_y
    above = 2 * mean_x * mean_y + ssim.C1
    above *= 2 * covariance + ssim.C2
    below = mean_x**2 + mean_y**2 + ssim.C1
    below *= variance_x + variance_y + ssim.C2
    similarity = above / below
    return similarity[5:-5, 5:-5].mean()


def published_ssim():
    """(name, function): scikit-image's, or scipy's filter where that is not installed."""
    if importlib.util.find_spec("skimage") is None:
        return "scipy's filter", plain_ssim
    from skimage.metrics import structural_similarity

    function = partial(
        structural_similarity,
        channel_axis=2,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=255,
    )
    return "scikit-image", function


def bench_ssim(args, device):
    name, published = published_ssim()
    size = 32 if args.quick else 256
    with TemporaryDirectory() as folder:
        names = photographs(folder, 2)
        pair = [square(read_image(Path(folder, name)), size) for name in names]
    ours = partial(ssim.structural_similarity, *pair)
    a, b = 1e3 * compare(CPU, 5 * args.rounds, ours, partial(published, *pair), equal=1e-6)
    report("ssim, 256 px", a, "ms", name, b, ">= 4")


# ---------------------------------------------------------------- features
def bench_features(args, device):
    cuda = device.type == "cuda"
    name = "resnet18"
    number = 8192 if cuda else 512
    batch = 128
    if args.quick:
        name = "resnet10"
        number = 8
        batch = 4
    backbone, _ = build_backbone(name)
    backbone = backbone.eval().to(device, memory_format=torch.channels_last)
    images = torch.randn(batch, 3, 64, 64, device=device).to(memory_format=torch.channels_last)

    @torch.no_grad()
    def bare():
        with run.autocast(device, "auto" if cuda else "fp32"):
            for _ in range(number // batch):
                backbone(images)

    with TemporaryDirectory() as folder:
        (photograph,) = photographs(folder, 1)
        file = Path(folder, "small.jpg")
        write_image(file, square(read_image(Path(folder, photograph)), 64))
        crop = partial(centre_crop, size=64)
        settings = {"workers": os.cpu_count() if cuda else 0, "batch": batch}
        files = ImageList("", [file] * number)
        ours = partial(extract, backbone, files, crop, device, **settings)
        with contextlib.redirect_stderr(io.StringIO()):  # the progress bars
            a, b = number / compare(device, args.rounds, ours, bare)
    report("features, ResNet-18, 64 px", a, "images/s", "bare forward pass", b, ">= 0.9")


# ---------------------------------------------------------------- logistic regression
def bench_logistic(args, device):
    n = 10000
    d = 512
    classes = 10
    if args.quick:
        n = 200
        d = 8
        classes = 3
    y = torch.randint(classes, (n,))
    centres = 0.12 * torch.randn(classes, d)
    x = centres[y] + torch.randn(n, d)
    x = x @ torch.randn(d, d) / d**0.5
    x = x.relu()
    linear.standardise(x, CPU)
    on_device = x.to(device), y.to(device), torch.ones(n, device=device)
    zeros, tolerance = linear.start_of(*on_device, classes, device)

    def objective(W, decay):
        loss = F.cross_entropy(linear.scores(W, x), y)
        squares = W[:, :-1].square().sum()
        return loss + decay / 2 * squares

    def ours(decay):
        W = linear.logistic_regression(*on_device, decay, zeros, tolerance)
        return objective(W.cpu(), decay)

    def theirs(decay):
        fit = LogisticRegression(C=1 / (decay * n), max_iter=1000)
        fit.fit(x.numpy(), y.numpy())
        W = np.column_stack([fit.coef_, fit.intercept_])
        return objective(torch.from_numpy(W), decay)

    for decay in (1e-2, 1e-4):
        functions = [partial(ours, decay), partial(theirs, decay)]
        a, b = compare(device, args.rounds, *functions, equal=1e-2)
        name = f"logistic, weight decay {decay:g}"
        report(name, a, "s", "scikit-learn", b, ">= 1")
