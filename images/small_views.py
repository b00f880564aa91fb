"""Views of many small images at once: the choices, crops and colours of images/views.py.

At 32 px, what Python does between two operations on an image costs more than the operations. Here
each operation takes all images of a batch. The random choices are exactly those of images/views.py,
and so is the arithmetic of the colours. The crops are equal up to two levels.
"""

import functools
import math

import cv2
import numpy as np
import torch

from images import device_views, views


# ---------------------------------------------------------------- the random choices
def draw_choices(view, side, rngs):
    """What views.draw_choices draws, for n squares of `side` pixels, from a generator for each.

    Returns (boxes int64 (n, 4), flips int64 (n,), colour choices float32 (n, 11)).
    """
    numbers = np.empty((len(rngs), 18))  # four for the first try at a box, 14 for the rest
    if view["scale"]:
        for rng, row in zip(rngs, numbers, strict=True):
            rng.random(out=row)
        boxes, fits = first_boxes(view["scale"], side, numbers[:, :4])
        for row in np.flatnonzero(~fits):
            rng = rngs[row]
            rng.bit_generator.advance(-18)  # back to its first number, for more tries
            boxes[row] = views.draw_box(view["scale"], side, side, rng)
            rng.random(out=numbers[row, 4:])
    else:
        boxes = np.tile(views.square_box(side, side), (len(rngs), 1))
        for rng, row in zip(rngs, numbers, strict=True):
            rng.random(out=row[4:])
    return boxes, *from_numbers(view, numbers[:, 4:])


def first_boxes(scale, side, numbers):
    """The first try of views.draw_box at n boxes: ((n, 4), whether each fits); numbers (n, 4)."""
    area, ratio, top, left = numbers.T
    area = side * side * (scale[0] + (scale[1] - scale[0]) * area)
    ratio = np.exp(math.log(4 / 3) * (2 * ratio - 1))
    width = np.rint(np.sqrt(area * ratio))
    height = np.rint(np.sqrt(area / ratio))
    fits = (0 < width) & (width <= side) & (0 < height) & (height <= side)
    top = top * (side - height + 1)
    left = left * (side - width + 1)
    return np.stack([top, left, height, width], 1).astype(np.int64), fits


def from_numbers(view, numbers):
    """(flips (n,), colour choices (n, 11)) from the 14 uniform numbers of each image."""
    choices = np.tile(views.NEUTRAL, (len(numbers), 1))
    jittered = numbers[:, 0] < view["jitter_p"]
    of_jittered = numbers[jittered]
    choices[jittered, :4] = of_jittered[:, 1:5].argsort(1)
    factors = views.NEUTRAL[4:8] + np.array(view["jitter"]) * (2 * of_jittered[:, 5:9] - 1)
    choices[jittered, 4:8] = factors
    choices[:, views.GRAYSCALE] = numbers[:, 9] < view["grayscale"]
    blurred = numbers[:, 10] < view["blur"]
    choices[blurred, views.BLUR] = 0.1 + 1.9 * numbers[blurred, 11]
    choices[:, views.SOLARIZE] = numbers[:, 12] < view["solarize"]
    flips = numbers[:, 13] < view["flip"]
    return flips.astype(np.int64), choices


# ---------------------------------------------------------------- crops, on any device
def cubic(x):
    """PIL's bicubic filter, a = -0.5."""
    x = x.abs()
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, 0))


def linear(x):
    """The triangle filter."""
    return (1 - x.abs()).clamp(min=0)


@functools.cache
def resampling(source, size, interpolation, device):
    """Weights (2, source, source + 1, size, source): entry [flip, begin, width] resizes a part.

    The part begins at pixel `begin` of a line of `source` pixels and is `width` long. The product
    of its matrix (size, source) with the line is the part resized to `size`, with antialiasing, as
    PIL does it, and mirrored if `flip` is 1. Entries of parts that reach beyond the line are not
    used.
    """
    kernel = {"bicubic": cubic, "bilinear": linear}[interpolation]
    table = torch.zeros(2, source, source + 1, size, source, dtype=torch.float64)
    pixels = torch.arange(source) + 0.5
    for width in range(1, source + 1):
        scale = width / size
        centres = (torch.arange(size) + 0.5) * scale
        distance = (pixels[:width] - centres[:, None]) / max(scale, 1.0)
        weights = kernel(distance)
        weights /= weights.sum(1, keepdim=True)
        for begin in range(source - width + 1):
            table[0, begin, width, :, begin : begin + width] = weights
    table[1] = table[0].flip(2)
    return table.float().to(device)


def resized_crops(images, boxes, flips, size, interpolation):
    """The boxes of a batch of images, resized and flipped: uint8 (B, size, size, 3).

    images: uint8 (B, S, 3, S), the colours of a line one after the other: so a line is resized for
    all colours at once, and a column too. boxes: int64 (B, 4), (top, left, height, width). flips:
    int64 (B,), 0 or 1. All on one device.
    """
    n, source, _, _ = images.shape
    table = resampling(source, size, interpolation, images.device)
    top, left, height, width = boxes.unbind(1)
    columns = table[flips, left, width]
    rows = table[0, top, height]
    x = images.view(n, source * 3, source).float()
    x = torch.bmm(x, columns.mT).round_().clamp_(0, 255)  # PIL keeps 8 bits between the passes
    x = torch.bmm(rows, x.view(n, source, 3 * size)).round_().clamp_(0, 255)
    return channels_last(x.to(torch.uint8).view(n, size, 3, size))


def channels_last(images):
    """uint8 (B, H, 3, W) -> (B, H, W, 3), contiguous."""
    if images.is_cuda:
        return images.permute(0, 1, 3, 2).contiguous()
    n, height, _, width = images.shape
    lines = images.view(n * height, 3, width).numpy()
    merged = cv2.merge([lines[:, channel] for channel in range(3)])  # three times as fast
    return torch.from_numpy(merged).view(n, height, width, 3)


# ---------------------------------------------------------------- colours, on the CPU
# Each of these changes some rows of `images`, uint8 (B, H, W, 3). factors: a list, one a row.
def pixelwise(operation, images, argument):
    """operation(image, argument), which treats every pixel alone, for (n, H, W, 3) at once.

    It takes the images as one, each below the other.
    """
    below = images.reshape(-1, *images.shape[2:])
    return operation(below, argument).reshape(images.shape)


def brightness(images, rows, factors):
    for row, factor in zip(rows, factors, strict=True):
        views.brightness(images[row], factor, out=images[row])


def contrast(images, rows, factors):
    for row, factor in zip(rows, factors, strict=True):
        views.contrast(images[row], factor, out=images[row])


def saturation(images, rows, factors):
    grayscale_images = pixelwise(views.grayscale, images[rows], None)
    for row, gray, factor in zip(rows, grayscale_images, factors, strict=True):
        views.blend(images[row], factor, gray, out=images[row])


def hue(images, rows, factors):
    hsv = pixelwise(cv2.cvtColor, images[rows], cv2.COLOR_RGB2HSV_FULL)
    n, height, width, _ = hsv.shape
    shift = np.zeros((n, 1, width, 3), np.uint8)
    shift[..., 0] = np.array([int(factor * 255) % 256 for factor in factors])[:, None, None]
    lines = hsv.reshape(n, height, width * 3)
    lines += shift.reshape(n, 1, width * 3)  # whole lines: see views.hue
    images[rows] = pixelwise(cv2.cvtColor, hsv, cv2.COLOR_HSV2RGB_FULL)


def grayscale(images, rows, _):
    images[rows] = pixelwise(views.grayscale, images[rows], None)


def blur(images, rows, factors):
    sigmas = torch.tensor(factors, dtype=torch.float64).view(-1, 1)
    kernels = views.blur_kernel(sigmas, torch.from_numpy(views.COSINES)).float().numpy()
    for row, taps in zip(rows, kernels, strict=True):
        views.filtered(images[row], taps, out=images[row])


def solarize(images, rows, _):
    images[rows] = pixelwise(views.solarize, images[rows], None)


OPERATIONS = {
    views.BRIGHTNESS: brightness,
    views.CONTRAST: contrast,
    views.SATURATION: saturation,
    views.HUE: hue,
    views.GRAYSCALE: grayscale,
    views.BLUR: blur,
    views.SOLARIZE: solarize,
}


def colour(images, choices):
    """views.colour of each image of a batch, in place.

    images: an array, uint8 (B, H, W, 3). choices: a tensor, float32 (B, 11).
    """
    for place, rows in device_views.passes(choices):
        OPERATIONS[place](images, rows.numpy(), choices[rows, place].tolist())
