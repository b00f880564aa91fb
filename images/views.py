"""Views: hand-crafted augmentations, applied to one image.

An augmentation has two halves. `draw_choices` makes every random choice, from a numpy Generator.
`resized_crop`, a flip and `colour` apply the choices to one image, in a worker of the loader.
(images/batch_views.py applies the colour half to a whole batch on a GPU, with the same choices.)
Used by images/pairs.py, by the methods, whose files name their views, and by 02, 04 and 05 for
crops.
"""

import math

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from base import run

cv2.setNumThreads(0)  # the loader's processes are the parallelism

# ---------------------------------------------------------------- what is published
# A view is a dict, applied in this order. scale: share of the image's area that is cropped (0: the
# largest centred square). flip: a probability. jitter: strengths of brightness, contrast,
# saturation and hue, in random order with probability jitter_p. grayscale, blur (sigma 0.1 to 2
# pixels) and solarize (threshold 128): probabilities. mean, std: the normalisation of pixels in
# [0, 1]. These are VICReg's; the files in models/ say what other methods change in them.
FIRST = dict(
    scale=(0.08, 1.0),
    interpolation="bicubic",
    flip=0.5,
    jitter=(0.4, 0.4, 0.2, 0.1),
    jitter_p=0.8,
    grayscale=0.2,
    blur=1.0,
    solarize=0.0,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
)
SECOND = FIRST | dict(blur=0.1, solarize=0.2)
LOCAL = dict(scale=(0.05, 0.14), blur=0.5)  # of DINO and SwAV for ResNet-50; ours for the others

# What --view-preset changes in the real views of any method, for images that are not photographs.
# The local crops keep their scale.
_NO_COLOUR = dict(jitter_p=0.0, grayscale=0.0, blur=0.0, solarize=0.0)
PRESETS = {
    "photos": {},  # as published, for photographs of 224 px
    "digits": dict(scale=(0.3, 1.0), flip=0.0) | _NO_COLOUR,  # ours: a mirrored 2 is no 2
    "satellite": dict(scale=(0.3, 1.0)) | _NO_COLOUR,  # ours: colour is what tells climates apart
}

# What --pair can put on a generated image: {its name: its key in a view}.
PAIR = {
    "crop": "scale",
    "flip": "flip",
    "jitter": "jitter_p",
    "blur": "blur",
    "solarize": "solarize",
    "grayscale": "grayscale",
}


def with_preset(specs, preset, crop_scale=None):
    """(first, second, local) views under a preset; crop_scale (low, high) replaces its scale."""
    first, second, local = specs
    changes = dict(PRESETS[preset])
    if crop_scale:
        changes["scale"] = tuple(crop_scale)
    return first | changes, second | changes, local | changes | {"scale": local["scale"]}


def pair_view(names, second):
    """The view of a generated image: of the method's `second` view only what is in `names`.

    names: any of PAIR, or ["none"]. What the method never uses (solarize in SimCLR and SwAV) has
    the probability of VICReg's second view. Without crop the whole image is resized.
    """
    unknown = set(names) - {*PAIR, "none"}
    if unknown or ("none" in names and len(names) > 1):
        run.fail(f"--pair takes any of {', '.join(PAIR)}, or none alone, not {' '.join(names)}.", 2)
    view = dict(second)
    for name, key in PAIR.items():
        view[key] = second[key] or SECOND[key] if name in names else 0.0
    return view


# ---------------------------------------------------------------- the random choices
# The colour choices of a view are 11 numbers. The first four are the order of the jitter; the
# others are the factors of the operations, at these places:
BRIGHTNESS, CONTRAST, SATURATION, HUE, GRAYSCALE, BLUR, SOLARIZE = range(4, 11)
NEUTRAL = np.array([0, 1, 2, 3, 1, 1, 1, 0, 0, 0, 0], np.float32)  # these change nothing
UNCHANGED = NEUTRAL.tolist()


def draw_box(scale, height, width, rng):
    """A random box (top, left, height, width), by the law of torchvision's RandomResizedCrop."""
    log_ratio = math.log(4 / 3)
    for _ in range(10):
        area, ratio, top, left = rng.random(4).tolist()
        area = height * width * (scale[0] + (scale[1] - scale[0]) * area)
        ratio = math.exp(log_ratio * (2 * ratio - 1))
        w = round(math.sqrt(area * ratio))
        h = round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(top * (height - h + 1)), int(left * (width - w + 1)), h, w
    h = min(height, round(width * 4 / 3))
    w = min(width, round(height * 4 / 3))
    return (height - h) // 2, (width - w) // 2, h, w


def draw_choices(view, height, width, rng):
    """All random choices for one image of (height, width): (box, flip, colour choices (11,))."""
    if view["scale"]:
        box = draw_box(view["scale"], height, width, rng)
    else:
        side = min(height, width)
        box = (height - side) // 2, (width - side) // 2, side, side
    # Always as many numbers are drawn: one probability then does not shift the next choice.
    u = rng.random(14).tolist()
    choices = UNCHANGED.copy()  # a list: it is filled faster than an array
    if u[0] < view["jitter_p"]:
        choices[:4] = sorted(range(4), key=u[1:5].__getitem__)
        for factor, strength, number in zip(range(4, 8), view["jitter"], u[5:9], strict=True):
            choices[factor] += strength * (2 * number - 1)
    if u[9] < view["grayscale"]:
        choices[GRAYSCALE] = 1
    if u[10] < view["blur"]:
        choices[BLUR] = 0.1 + 1.9 * u[11]
    if u[12] < view["solarize"]:
        choices[SOLARIZE] = 1
    flip = u[13] < view["flip"]
    return box, flip, np.array(choices, np.float32)


# ---------------------------------------------------------------- one image: uint8 (H, W, 3) RGB
# The arithmetic is that of PIL, up to the following, measured on photographs, in shares of the
# values. Crops: 0.1 to 3 %, nearly all by one level. Hue: a third, by up to 13
# levels. Blur: a third, by up to 21 at the border. The others: 0.1 %, by one level. PIL truncates
# a blend of two images where OpenCV rounds, so that its images are 0.4 levels darker on average:
# TRUNCATE.
TRUNCATE = -0.499
COSINES = np.cos(2 * np.pi / 13 * np.outer(np.arange(13), np.arange(-6, 7)))


def resized_crop(image, box, size, interpolation="bicubic"):
    """The box of an image, resized with antialiasing as PIL does: uint8 (size, size, 3)."""
    top, left, h, w = box
    image = torch.from_numpy(np.require(image, requirements="W"))  # torch wants a writable array
    patch = image[None, top : top + h, left : left + w].permute(0, 3, 1, 2)
    view = F.interpolate(patch, (size, size), mode=interpolation, antialias=True)
    return np.ascontiguousarray(view[0].permute(1, 2, 0).numpy())


def brightness(image, factor):
    return cv2.addWeighted(image, factor, image, 0, TRUNCATE)


def contrast(image, factor):
    red, green, blue, _ = cv2.mean(image)
    mean = int(0.299 * red + 0.587 * green + 0.114 * blue + 0.5)
    return cv2.addWeighted(image, factor, image, 0, (1 - factor) * mean + TRUNCATE)


def saturation(image, factor):
    return cv2.addWeighted(image, factor, grayscale(image, None), 1 - factor, TRUNCATE)


def hue(image, factor):
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
    # Adding a whole row of (shift, 0, 0) is faster in numpy than adding to every third byte.
    shift = np.zeros(image.shape[1:], np.uint8)
    shift[:, 0] = int(factor * 255) % 256
    hsv += shift  # it may overflow: the hue is a circle of 256 levels
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)


def grayscale(image, _):
    return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def blur_kernel(sigma, cosines=COSINES):
    """The 13 taps of PIL's GaussianBlur, for 0 < sigma <= 2.

    PIL blurs three times with a box of fractional width (Gwosdek et al. 2011, "Theoretical
    foundations of Gaussian convolution by extended box filtering"). The box has the weight w up to
    `radius` pixels from its centre and the weight e on the pixel beyond. Its third power is taken
    on the spectrum. sigma: a number, or a tensor (n, 1) with `cosines` a tensor, giving (n, 13).
    """
    variance = sigma**2 / 3
    radius = ((12 * variance + 1) ** 0.5 - 1) // 2  # 0 or 1
    numerator = (2 * radius + 1) * (radius * (radius + 1) - 3 * variance)
    alpha = numerator / (6 * (variance - (radius + 1) ** 2))
    w = 1 / (2 * (radius + alpha) + 1)
    e = (1 - (2 * radius + 1) * w) / 2
    spectrum = w + 2 * (radius * w + (1 - radius) * e) * cosines[:, 7]
    spectrum = spectrum + 2 * radius * e * cosines[:, 8]
    return spectrum**3 @ cosines / 13


def blur(image, sigma):
    taps = blur_kernel(sigma).astype(np.float32)
    if taps[0] <= 1e-6:
        taps = taps[3:-3]  # a narrow kernel has only seven
    return cv2.sepFilter2D(image, -1, taps, taps, borderType=cv2.BORDER_REPLICATE)


def solarize(image, _):
    return np.minimum(image, 255 - image)


OPERATIONS = (
    brightness,
    contrast,
    saturation,
    hue,
    grayscale,
    blur,
    solarize,
)  # from BRIGHTNESS on


def colour(image, choices):
    """Jitter, grayscale, blur and solarize of an image, by the choices of `draw_choices`."""
    choices = choices.tolist()
    jitter = [BRIGHTNESS + int(number) for number in choices[:4]]
    for operation in (*jitter, GRAYSCALE, BLUR, SOLARIZE):
        if choices[operation] != UNCHANGED[operation]:
            image = OPERATIONS[operation - BRIGHTNESS](image, choices[operation])
    return image
