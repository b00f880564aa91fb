"""Crops and colours of a whole batch of images, on the device where the batch lies.

Used by 03 and images/pairs.py. The choices are those of images/views.py and give the same images,
up to rounding.
"""

import functools
import math
import os

import cv2
import torch
import torch.nn.functional as F

from base import parallel
from images import views
from images.pictures import contact_sheet


def is_wanted(device, colour_on, in_memory):
    """Whether the colour half is computed on the device (--colour-on: auto, cpu or gpu).

    in_memory: the images lie on the device already.
    """
    if device.type != "cuda":
        return False
    if in_memory or colour_on == "gpu":
        return True
    # A core reads and colours 190 ImageNet pairs a second. ResNet-50 takes 2,160 of them on an
    # H200 (measured, docs/costs.md) and some 350 on an RTX 3090.
    fast = torch.cuda.get_device_capability(device) in ((8, 0), (9, 0), (10, 0))
    few = len(os.sched_getaffinity(0)) < (12 if fast else 4) * parallel.local_world()  # cores
    return colour_on == "auto" and few


# ---------------------------------------------------------------- crops, on any device
@functools.cache
def resampling(source, size, interpolation, device):
    """Weights (2, source + 1, source + 1, source, size): entry [flip, width, source - begin].

    The part of it begins at pixel `begin` of a line of `source` pixels and is `width` long. The
    product of the line with the matrix (source, size) is the part resized to `size`, with
    antialiasing, as PIL does it, and mirrored if `flip` is 1. Entries of parts that reach beyond
    the line are not used.
    """
    table = torch.zeros(2, source + 1, 2 * source, size)  # each part begins at pixel `source`
    for width in range(1, source + 1):
        lines = torch.eye(width)[None, None]  # resizing each pixel alone gives its weights
        weights = F.interpolate(lines, (width, size), mode=interpolation, antialias=True)
        table[0, width, source : source + width] = weights
    table[1] = table[0].flip(2)
    return table.to(device).unfold(2, source, 1).mT  # a window for each begin; nothing is copied


def resized_crops(images, boxes, flips, size, interpolation):
    """The boxes of a batch of images, resized and flipped: uint8 (B, size, size, 3).

    images: uint8 (B, S, 3, S), the colours of a line one after the other: so a line is resized for
    all colours at once, and a column too. boxes: int64 (B, 4), (top, left, height, width). flips:
    int64 (B,), 0 or 1. All on one device.
    """
    n, source, _, _ = images.shape
    table = resampling(source, size, interpolation, images.device)
    top, left, height, width = boxes.unbind(1)
    columns = table[flips, width, source - left]
    rows = table[0, height, source - top].mT
    x = images.view(n, source * 3, source).float()
    x = torch.bmm(x, columns).round_().clamp_(0, 255)  # PIL keeps 8 bits between the passes
    x = torch.bmm(rows, x.view(n, source, 3 * size)).round_().clamp_(0, 255)
    x = x.to(torch.uint8)
    if x.is_cuda:
        return x.view(n, size, 3, size).permute(0, 1, 3, 2).contiguous()
    colours = x.view(n * size, 3, size).numpy()
    x = cv2.merge([colours[:, channel] for channel in range(3)])  # two to three times as fast
    return torch.from_numpy(x).view(n, size, size, 3)


# ---------------------------------------------------------------- colours, on any device
# x: float (n, 3, H, W) with whole levels 0..255. factor, kind: (n, 1, 1, 1), the strength and the
# number of each row's operation.
def gray(x, *_):
    return (0.299 * x[:, :1] + 0.587 * x[:, 1:2] + 0.114 * x[:, 2:] + 0.5).floor()


def blend(x, factor, kind):
    """Brightness, contrast and saturation: away from black, the mean gray, the gray image."""
    base = gray(x)
    mean = (base.mean((2, 3), keepdim=True) + 0.5).floor()
    base = torch.where(kind == views.CONTRAST, mean, base) * (kind != views.BRIGHTNESS)
    return base + factor * (x - base)


def hue(x, factor, _):
    """PIL's conversion to 8-bit hue and saturation, and back."""
    r, g, b = x.split(1, 1)
    value = x.amax(1, keepdim=True)
    chroma = value - x.amin(1, keepdim=True)
    divisor = chroma.clamp(min=1)  # levels are integers, so that only 0 changes
    sextant = torch.where(value == g, 2 + (b - r) / divisor, 4 + (r - g) / divisor)
    sextant = torch.where(value == r, (g - b) / divisor, sextant)
    h = ((sextant / 6 % 1 * 255).trunc() + (factor * 255).trunc()) % 256
    s = (chroma / value.clamp(min=1) * 255).trunc()
    offsets = torch.arange(5, 0, -2, device=x.device).view(3, 1, 1)  # red 5, green 3, blue 1
    k = (h * 6 / 255 + offsets) % 6
    return value - value * s / 255 * torch.minimum(k, 4 - k).clamp(0, 1) + 0.5


def blur(x, sigma, _):
    n, channels, height, width = x.shape
    k = torch.arange(13, device=x.device)
    cosines = torch.cos(2 * math.pi / 13 * torch.outer(k, k - 6))
    taps = views.blur_kernel(sigma.view(-1, 1), cosines).repeat_interleave(channels, 0)
    with torch.autocast(x.device.type, enabled=False):
        x = F.pad(x, (6, 6, 6, 6), mode="replicate")
        x = x.reshape(1, n * channels, height + 12, width + 12)
        x = F.conv2d(x, taps.view(-1, 1, 1, 13), groups=n * channels)
        x = F.conv2d(x, taps.view(-1, 1, 13, 1), groups=n * channels)
    return x.view(n, channels, height, width) + 0.5


def solarize(x, *_):
    return torch.minimum(x, 255 - x)


OPERATIONS = (*3 * [blend], hue, *3 * [blend], gray, blur, solarize)


def passes(choices):
    """(int64 (2, n), sizes): the rows that need each of OPERATIONS, and its kind in each of them.

    choices: (B, 11), on the CPU. sizes: how many columns are those of each operation. Ten passes
    are enough, because the jitter of a row is up to three blends, its hue, and up to three blends.
    """
    jitter = views.BRIGHTNESS + choices[:, :4].long()
    place_of_hue = (jitter == views.HUE).long().argmax(1, keepdim=True)
    places = torch.arange(-3, 4) + place_of_hue  # so that every row's hue is in one column
    there = places.clamp(0, 3)
    others = torch.arange(views.GRAYSCALE, 11).expand(len(choices), 3)
    kinds = torch.cat([jitter.gather(1, there), others], 1)
    wanted = (choices != torch.from_numpy(views.NEUTRAL)).gather(1, kinds)
    wanted[:, :7] &= places == there
    rows = wanted.T.nonzero()[:, 1]
    return torch.stack([rows, kinds.T[wanted.T]]), wanted.sum(0).tolist()


def colour_and_normalise(images, choices, mean, std):
    """Colour operations and normalisation of a batch, on the device where `images` lies.

    images: uint8 (B, H, W, 3). choices: float32 (B, 11) on the CPU, rows of `draw_choices`.
    Returns float32 (B, 3, H, W) in channels_last memory: (images / 255 - mean) / std.
    What needs which operation is sorted on the CPU and sent once: neither waits for the other.
    """

    def send(tensor):
        if images.is_cuda:
            tensor = tensor.pin_memory()  # only from pinned memory is it sent without waiting
        return tensor.to(images.device, non_blocking=True)

    x = images.permute(0, 3, 1, 2)
    todo, sizes = passes(choices)
    if todo.numel():
        x = x.clone()
        choices = send(choices)
        for operation, (rows, kinds) in zip(OPERATIONS, send(todo).split(sizes, 1), strict=True):
            if len(rows):
                factor = choices[rows, kinds].view(-1, 1, 1, 1)
                changed = operation(x[rows].float(), factor, kinds.view(-1, 1, 1, 1))
                # PIL keeps 8 bits after each operation, and truncates.
                x[rows] = changed.clamp(0, 255).to(torch.uint8)
    scale = 255 * torch.tensor([mean, std], dtype=torch.float32).view(2, 1, 3, 1, 1)
    mean, std = send(scale)
    return x.float().sub_(mean).div_(std)


def draw(path, crops, mean, std):
    """A sheet of the first images of a batch, as the network gets them.

    crops: list of normalised (B, 3, H, W), a column each: the real view, its partners, local crops.
    """
    mean = torch.tensor(mean).view(3, 1, 1)
    std = torch.tensor(std).view(3, 1, 1)
    columns = []
    for crop in crops:
        pixels = (crop[:8].cpu() * std + mean).clamp(0, 1) * 255
        columns.append(pixels.round().byte().permute(0, 2, 3, 1).numpy())
    contact_sheet(path, list(zip(*columns, strict=True)))
