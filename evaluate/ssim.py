"""Structural similarity (Wang et al. 2004, IEEE Trans. on Image Processing 13(4)).

Used by 07 ssim and report/cost.py.
"""

import math
from functools import partial

import cv2
import numpy as np
import torch

from base import parallel, run
from images.files import read_ahead
from images.pictures import square
from images.read import UnreadableImage, read_image
from images.unreadable import check_failed

cv2.setNumThreads(0)  # the processes that read images are the parallelism

SIDE = 11  # of the window, a Gaussian of sigma 1.5
MARGIN = SIDE // 2
TAPS = np.exp(-0.5 * (np.arange(SIDE) - MARGIN) ** 2 / 1.5**2)
TAPS /= TAPS.sum()
C1 = (0.01 * 255) ** 2
C2 = (0.03 * 255) ** 2


def smooth(image):
    """The window's weighted mean around every pixel. scipy's filter is three times slower."""
    return cv2.sepFilter2D(image, -1, TAPS, TAPS)


def structural_similarity(x, y):
    """Mean SSIM of two uint8 (H, W, 3) images, over all whole windows and the channels.

    H and W are at least 11. K1 = 0.01, K2 = 0.03, the data range is 255. For each window

        SSIM = (2 mx my + C1) (2 cov + C2) / ((mx^2 + my^2 + C1) (vx + vy + C2))

    with the means mx, my, the variances vx, vy and the covariance cov. They take five filters. The
    sum s = x + y and the difference d = x - y need only four: 4 mx my = ms^2 - md^2,
    2 (mx^2 + my^2) = ms^2 + md^2, 4 cov = vs - vd, and 2 (vx + vy) = vs + vd.
    """
    total = 0.0
    for channel in range(3):
        of_x = x[..., channel]
        of_y = y[..., channel]
        s = np.add(of_x, of_y, dtype=np.float64)
        d = np.subtract(of_x, of_y, dtype=np.float64)
        square_s = smooth(s) ** 2  # of the means; the constants are doubled like the rest
        square_d = smooth(d) ** 2
        var_s = smooth(s * s) - square_s + 2 * C2
        var_d = smooth(d * d) - square_d
        square_s += 2 * C1
        value = (square_s - square_d) * (var_s - var_d)
        value /= (square_s + square_d) * (var_s + var_d)
        total += value[MARGIN:-MARGIN, MARGIN:-MARGIN].mean()
    return total / 3


# ---------------------------------------------------------------- files
def read_pair(files, size):
    """Two image files -> two uint8 (H, W, 3); size: of their centre squares, 0 for whole images."""
    images = [read_image(file) for file in files]
    if size:
        images = [square(image, size) for image in images]
    return images


def similarity_of_files(files, size):
    """SSIM of two image files, or the error of reading one. Raises OSError where they have none."""
    try:
        x, y = read_pair(files, size)
    except UnreadableImage as error:
        return error
    if x.shape != y.shape or min(x.shape[:2]) < SIDE:
        raise OSError(
            f"{files[0]} is {x.shape[1]} x {x.shape[0]} px, {files[1]} {y.shape[1]} x "
            f"{y.shape[0]}: SSIM needs equal sizes of {SIDE} x {SIDE} or more; --size brings both "
            "to one"
        )
    return float(structural_similarity(x, y))


def similarities(pairs, size, what, workers, max_unreadable):
    """SSIM of all pairs of files, a list in their order; the processes share the work.

    size: see `read_pair`. It is nan for a pair of which a file cannot be read, at most
    `max_unreadable` of them. what: the progress bar's name.
    """
    read = partial(similarity_of_files, size=size)
    n = len(pairs)
    mine = pairs[parallel.rank() :: parallel.world()]
    found = []
    failed = {}
    results = read_ahead(mine, read, workers, torch.device("cpu"), prefetch=8)
    with run.progress(n, what) as bar:
        for pair, value in zip(mine, results, strict=True):
            if isinstance(value, OSError):
                failed[pair] = str(value)
                value = math.nan
            found.append(value)
            bar.update(min(parallel.world(), n - bar.n))
    check_failed(failed, n, max_unreadable)
    values = [math.nan] * n
    for process, part in enumerate(parallel.everyone(found)):
        values[process :: parallel.world()] = part
    return values
