"""Structural similarity (Wang et al. 2004, IEEE Transactions on Image Processing 13(4))."""

import cv2
import numpy as np

TAPS = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
TAPS /= TAPS.sum()  # 11 x 11 Gaussian window, sigma 1.5
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def structural_similarity(x, y):
    """Mean SSIM of two uint8 (H, W, C) images of at least 11 x 11 px, over all whole windows and the channels; K1 0.01,
    K2 0.03, data range 255.

    Of the sum s = x + y and the difference d = x - y four filters are enough (x, y, xx, yy and xy are five):
    4 mx my = ms^2 - md^2, 2 (mx^2 + my^2) = ms^2 + md^2, and so for the variances. OpenCV's filter in float64: scipy's,
    which scikit-image calls, is three times slower."""
    total = 0.0
    for channel in range(x.shape[2]):
        s, d = (
            f(x[..., channel], y[..., channel], dtype=np.float64) for f in (np.add, np.subtract)
        )
        mean_s, mean_d = (cv2.sepFilter2D(m, -1, TAPS, TAPS) for m in (s, d))
        s *= s
        d *= d
        var_s, var_d = (cv2.sepFilter2D(m, -1, TAPS, TAPS) for m in (s, d))
        mean_s *= mean_s
        mean_d *= mean_d
        var_s -= mean_s
        var_d -= mean_d
        mean_s += 2 * C1
        var_s += 2 * C2
        top = (mean_s - mean_d) * (var_s - var_d)
        mean_s += mean_d
        var_s += var_d
        mean_s *= var_s
        top /= mean_s
        total += top[5:-5, 5:-5].mean()
    return total / x.shape[2]
