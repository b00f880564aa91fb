"""Views: the published hand-crafted augmentations of six methods, and pairs of a real and a generated image.

An augmentation has two halves. `draw` makes every random choice from a numpy Generator. The choices are
applied to one image in a loader's worker (`resized_crop`, flip, `colour`), or, after crop and flip, to the
whole batch on the device (`apply_batch`): the same choices give the same image up to rounding.
"""

import math
import os
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from models.images import as_stored, read_image
from models.old_run import fail, seed_rng

cv2.setNumThreads(0)  # the loader's processes are the parallelism

# ---------------------------------------------------------------- what is published
# One dict a view, applied in this order. scale: share of the image's area that is cropped (None: no crop);
# flip: probability; jitter: strengths of brightness, contrast, saturation, hue, in random order with
# probability jitter_p; grayscale, blur (sigma 0.1 to 2 pixels), solarize (threshold 128): probabilities.
BASE = dict(
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
SECOND = dict(blur=0.1, solarize=0.2)
LOCAL = dict(
    scale=(0.05, 0.14), blur=0.5
)  # DINO's and SwAV's for a ResNet-50; our choice for the others
SIMCLR = BASE | dict(jitter=(0.8, 0.8, 0.8, 0.2), blur=0.5, mean=(0, 0, 0), std=(1, 1, 1))
SWAV = SIMCLR | dict(
    scale=(0.14, 1.0), interpolation="bilinear", mean=BASE["mean"], std=(0.228, 0.224, 0.225)
)
DINO = BASE | dict(scale=(0.14, 1.0))

SPECS = {  # method: (first view, second view, local crop)
    "vicreg": (BASE, BASE | SECOND, BASE | LOCAL),  # facebookresearch/vicreg augmentations.py
    "barlow": (BASE, BASE | SECOND, BASE | LOCAL),  # facebookresearch/barlowtwins main.py
    "dino": (
        DINO,
        DINO | SECOND,
        DINO | LOCAL,
    ),  # facebookresearch/dino main_dino.py, README for ResNet-50
    # The two below were published in TensorFlow and JAX; they run here on PIL's arithmetic like the others.
    "simclr": (SIMCLR, SIMCLR, SIMCLR | LOCAL),  # google-research/simclr data_util.py
    "byol": (BASE, BASE | SECOND, BASE | LOCAL),  # google-deepmind byol/utils/augmentations.py
    "swav": (SWAV, SWAV, SWAV | LOCAL),  # facebookresearch/swav multicropdataset.py
}
PAIR = {
    "crop": "scale",
    "flip": "flip",
    "jitter": "jitter_p",
    "blur": "blur",
    "solarize": "solarize",
    "grayscale": "grayscale",
}


def pair_spec(names, method):
    """The augmentations on top of a generated image: those in `names`, as in the method's second view.

    names: any of PAIR, or ["none"]. One that the method never uses (SimCLR's and SwAV's solarize) has the
    probability of VICReg's second view. Without crop the image is resized to the view's size.
    """
    unknown = set(names) - {*PAIR, "none"}
    if unknown or ("none" in names and len(names) > 1):
        fail(f"--pair takes any of {', '.join(PAIR)}, or none alone, not {' '.join(names)}.", 2)
    second, default = SPECS[method][1], SPECS["vicreg"][1]
    spec = dict(second)
    for name, key in PAIR.items():
        spec[key] = (
            (second[key] or default[key]) if name in names else None if name == "crop" else 0.0
        )
    return spec


# ---------------------------------------------------------------- the random choices
# A view's colour parameters, float32 (11,): the order of the four jitter operations, then a factor for each
# of brightness, contrast, saturation, hue, grayscale, blur (sigma), solarize. A neutral one skips it.
NEUTRAL = np.array([0, 1, 2, 3] + [1, 1, 1, 0, 0, 0, 0], np.float32)


def centre_square(height, width):
    """The largest centred square as a box (top, left, height, width)."""
    side = min(height, width)
    return (height - side) // 2, (width - side) // 2, side, side


def draw_box(scale, height, width, rng):
    """A random box (top, left, height, width) by the law of torchvision's RandomResizedCrop."""
    log_ratio = math.log(4 / 3)
    for _ in range(10):
        area, ratio, top, left = rng.random(4).tolist()
        area = height * width * (scale[0] + (scale[1] - scale[0]) * area)
        ratio = math.exp(log_ratio * (2 * ratio - 1))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(top * (height - h + 1)), int(left * (width - w + 1)), h, w
    h, w = min(height, round(width * 4 / 3)), min(width, round(height * 4 / 3))
    return (height - h) // 2, (width - w) // 2, h, w


def draw(spec, height, width, rng):
    """All random choices of a view of a (height, width) image, from a numpy Generator: (box, flip, colour
    parameters). `spec` is a dict as in SPECS."""
    box = (
        draw_box(spec["scale"], height, width, rng)
        if spec["scale"]
        else centre_square(height, width)
    )
    u = rng.random(
        14
    ).tolist()  # always as many, so that one probability does not shift the next choice
    params = NEUTRAL.copy()
    if u[0] < spec["jitter_p"]:
        params[:4] = sorted(range(4), key=u[1:5].__getitem__)
        params[4:8] += [s * (2 * v - 1) for s, v in zip(spec["jitter"], u[5:9], strict=True)]
    if u[9] < spec["grayscale"]:
        params[8] = 1
    if u[10] < spec["blur"]:
        params[9] = 0.1 + 1.9 * u[11]
    if u[12] < spec["solarize"]:
        params[10] = 1
    return box, u[13] < spec["flip"], params


# ---------------------------------------------------------------- one image: uint8 (H, W, 3) RGB, OpenCV
# The arithmetic is PIL's up to a level in a few pixels: a blend of two images truncates (OpenCV rounds, hence
# TRUNCATE), which is 0.4 levels darker on average.
TRUNCATE = -0.499
LUMA = np.array([0.299, 0.587, 0.114])
SOLARIZED = np.array([level if level < 128 else 255 - level for level in range(256)], np.uint8)
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
    mean = int(LUMA @ cv2.mean(image)[:3] + 0.5)
    return cv2.addWeighted(image, factor, image, 0, (1 - factor) * mean + TRUNCATE)


def saturation(image, factor):
    mixture = np.full((3, 4), TRUNCATE)
    mixture[:, :3] = factor * np.eye(3) + (1 - factor) * LUMA
    return cv2.transform(image, mixture)


def hue(image, factor):
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
    shift = np.zeros(image.shape[1:], np.uint8)  # a whole row: numpy is slow on every third byte
    shift[:, 0] = int(factor * 255) % 256
    hsv += shift  # overflows as it should: the hue is a circle of 256 levels
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)


def grayscale(image, _=1):
    return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def blur_kernel(sigma, cosines=COSINES):
    """The 13 taps of PIL's GaussianBlur for 0 < sigma <= 2: three box blurs of fractional width (Gwosdek et
    al. 2011, "Theoretical foundations of Gaussian convolution by extended box filtering").

    A box has radius l + alpha: weight w inside, e on the outermost pixel; its third power is taken on the
    spectrum. sigma is a float, or (n, 1) with `cosines` a tensor -> (n, 13).
    """
    variance = sigma**2 / 3
    l = ((12 * variance + 1) ** 0.5 - 1) // 2  # noqa: E741  0 or 1
    alpha = (2 * l + 1) * (l * (l + 1) - 3 * variance) / (6 * (variance - (l + 1) ** 2))
    w = 1 / (2 * (l + alpha) + 1)
    e = (1 - (2 * l + 1) * w) / 2
    spectrum = w + 2 * (l * w + (1 - l) * e) * cosines[:, 7] + 2 * l * e * cosines[:, 8]
    return spectrum**3 @ cosines / 13


def blur(image, sigma):
    taps = blur_kernel(sigma).astype(np.float32)
    taps = taps if taps[0] > 1e-6 else taps[3:-3]  # a narrow kernel has only seven
    return cv2.sepFilter2D(image, -1, taps, taps, borderType=cv2.BORDER_REPLICATE)


def solarize(image, _=1):
    return cv2.LUT(image, SOLARIZED)


OPERATIONS = (brightness, contrast, saturation, hue, grayscale, blur, solarize)


def colour(image, params):
    """Jitter, grayscale, blur and solarize of one uint8 (H, W, 3) image, by the parameters of `draw`."""
    params = params.tolist()
    factors = params[4:]
    for op in (*map(int, params[:4]), 4, 5, 6):
        if factors[op] != NEUTRAL[4 + op]:
            image = OPERATIONS[op](image, factors[op])
    return image


# ---------------------------------------- a batch: float (n, 3, H, W) in 0..255, factor (n, 1, 1, 1), torch
def gray_batch(x):
    return (0.299 * x[:, :1] + 0.587 * x[:, 1:2] + 0.114 * x[:, 2:] + 0.5).floor()


def contrast_batch(x, factor):
    mean = (gray_batch(x).mean((2, 3), keepdim=True) + 0.5).floor()
    return mean + factor * (x - mean)


def saturation_batch(x, factor):
    gray = gray_batch(x)
    return gray + factor * (x - gray)


def hue_batch(x, factor):
    """PIL's conversion to 8-bit hue and saturation and back."""
    r, g, b = x.split(1, 1)
    value = x.amax(1, keepdim=True)
    chroma = value - x.amin(1, keepdim=True)
    divisor = chroma.clamp(min=1)  # levels are integers, so that only 0 changes
    sextant = torch.where(value == g, 2 + (b - r) / divisor, 4 + (r - g) / divisor)
    sextant = torch.where(value == r, (g - b) / divisor, sextant)
    h = ((sextant / 6 % 1 * 255).trunc() + (factor * 255).trunc()) % 256
    s = (chroma / value.clamp(min=1) * 255).trunc()
    k = (
        h * 6 / 255 + torch.arange(5, 0, -2, device=x.device).view(3, 1, 1)
    ) % 6  # red 5, green 3, blue 1
    return value - value * s / 255 * torch.minimum(k, 4 - k).clamp(0, 1) + 0.5


def blur_batch(x, sigma):
    n, channels, height, width = x.shape
    k = torch.arange(13, device=x.device)
    taps = blur_kernel(sigma.view(-1, 1), torch.cos(2 * math.pi / 13 * torch.outer(k, k - 6)))
    taps = taps.repeat_interleave(channels, 0)
    with torch.autocast(x.device.type, enabled=False):
        x = F.pad(x, (6, 6, 6, 6), mode="replicate").reshape(
            1, n * channels, height + 12, width + 12
        )
        x = F.conv2d(x, taps.view(-1, 1, 1, 13), groups=n * channels)
        x = F.conv2d(x, taps.view(-1, 1, 13, 1), groups=n * channels)
    return x.view(n, channels, height, width) + 0.5


BATCH_OPERATIONS = (
    lambda x, factor: x * factor,
    contrast_batch,
    saturation_batch,
    hue_batch,
    lambda x, _: gray_batch(x).expand_as(x),
    blur_batch,
    lambda x, _: torch.where(x < 128, x, 255 - x),
)


def apply_batch(images, params, mean, std):
    """Colour operations and normalisation of a batch, on the device where `images` lies.

    images: uint8 (B, H, W, 3); params: float32 (B, 11) on the CPU, rows as `draw` gives them (where all are
    neutral, the images are only normalised).
    Returns float32 (B, 3, H, W) in channels_last memory: (images / 255 - mean) / std.
    Which image needs what, in which order, is sorted on the CPU and sent once: neither waits for the other.
    """

    def send(tensor):  # from pinned memory: only then without waiting
        pinned = tensor.pin_memory() if images.is_cuda else tensor
        return pinned.to(images.device, non_blocking=True)

    active = params[:, 4:] != torch.from_numpy(NEUTRAL[4:])
    steps = [
        (op, active[:, op] & (params[:, place] == op)) for place in range(4) for op in range(4)
    ]
    steps += [(op, active[:, op]) for op in (4, 5, 6)]
    rows = [mask.nonzero()[:, 0] for _, mask in steps]
    x = images.permute(0, 3, 1, 2)
    if any(map(len, rows)):
        x, sizes, params = x.clone(), [len(row) for row in rows], send(params)
        for (op, _), row in zip(steps, send(torch.cat(rows)).split(sizes), strict=True):
            if len(row):  # truncated to 8 bits after each operation, as PIL does
                changed = BATCH_OPERATIONS[op](
                    x[row].float(), params[row, 4 + op].view(-1, 1, 1, 1)
                )
                x[row] = changed.clamp(0, 255).to(torch.uint8)
    mean, std = send(255 * torch.tensor([mean, std], dtype=torch.float32).view(2, 1, 3, 1, 1))
    return x.float().sub_(mean).div_(std)


# ---------------------------------------------------------------- the data set
STORED = (".jpg", ".png")  # what 02_augment.py writes


def check_mirrors(paths, mirrors):
    """The extension of each image's generated view: uint8 (len(mirrors), len(paths)), indices into STORED.

    Missing ones end the run with a sentence that counts and names some. Each folder is listed once.
    """
    extension = np.zeros((len(mirrors), len(paths)), np.uint8)
    stems = [path.rpartition(".")[0] for path in paths]
    for mirror, row in zip(mirrors, extension, strict=True):
        files, missing = {}, []
        for i, stem in enumerate(stems):
            folder, _, name = stem.rpartition("/")
            if folder not in files:
                path = Path(mirror, folder)
                files[folder] = set(os.listdir(path)) if path.is_dir() else set()
            found = [k for k, suffix in enumerate(STORED) if name + suffix in files[folder]]
            if found:
                row[i] = found[0]
            else:
                missing.append(paths[i])
        if missing:
            fail(
                f"{len(missing)} of {len(paths)} images have no generated view in {mirror}, such as "
                f"{', '.join(missing[:3])}: finish 02_augment.py for this --data first."
            )
    return extension


class PairDataset(torch.utils.data.Dataset):
    """Views of each image: the first view, K partners, local crops. Items are asked for as (epoch, index).

    root, paths: the real images, paths relative to root. method: a key of SPECS. size, local_size: pixels.
    generated: folders of generated images (the view folders of 02_augment.py, "mirrors"), or "real", the
    control: the real image in their place, resized, cropped and stored as they were.
    Each of K = `views` partners is, with probability `mix`, a generated image (K distinct mirrors) under the
    augmentations `pair` (names of PAIR), otherwise the real image as published for the second view.
    Local crops are cut from the real image; local_from="generated": from the partners' images in turn.

    Every choice is a function of (seed, epoch, index, purpose): the real views are the same for every mix,
    and with mix = 0 no mirror is opened. on_device leaves everything after crop and flip to `apply_batch`.

    Returns (views, params, index). views: list of uint8 (H, W, 3) tensors, in this layout because stacking
    a batch is then one copy an image. params: as many float32 (11,) for `apply_batch`, neutral where nothing
    is left to do. A file that cannot be read raises an OSError that names it.
    """

    def __init__(
        self,
        root,
        paths,
        method,
        size,
        *,
        seed=0,
        mix=0.0,
        pair=("crop",),
        generated=(),
        views=1,
        local_crops=0,
        local_size=96,
        local_from="real",
        store_size=256,
        on_device=False,
    ):
        self.root, self.size, self.seed, self.mix, self.views = Path(root), size, seed, mix, views
        self.paths = np.array([path.encode() for path in paths])  # one block that the workers share
        self.first, self.second, self.local = SPECS[method]
        self.pair = pair_spec(pair, method)
        self.generated = (
            generated if generated == "real" else [Path(mirror) for mirror in generated]
        )
        self.local_crops, self.local_size, self.local_from = local_crops, local_size, local_from
        self.store_size, self.on_device = store_size, on_device
        if mix > 0 and generated != "real":
            if len(self.generated) < views:
                fail(
                    f"--views {views} needs as many folders of generated views; --generated has "
                    f"{len(self.generated)}.",
                    2,
                )
            self.extension = check_mirrors(paths, self.generated)

    def __len__(self):
        return len(self.paths)

    def view(self, image, spec, size, rng):
        box, flip, params = draw(spec, *image.shape[:2], rng)
        view = resized_crop(image, box, size, spec["interpolation"])
        if flip:
            view = cv2.flip(view, 1)
        if not self.on_device:
            view, params = colour(view, params), NEUTRAL
        return torch.from_numpy(view), torch.from_numpy(params)

    def partners(self, real, path, epoch, index):
        """What stands in the place of each partner: a generated image, or None for the real one."""
        if self.mix == 0:
            return [None] * self.views
        rng = seed_rng(self.seed, epoch, index, "mix")
        taken = rng.random(self.views) < self.mix
        if self.generated == "real":
            stored = as_stored(real, self.store_size) if taken.any() else None
            return [stored if take else None for take in taken]
        mirrors = rng.permutation(len(self.generated))[: self.views]
        stem = path.rpartition(".")[0]
        files = [self.generated[m] / (stem + STORED[self.extension[m, index]]) for m in mirrors]
        return [read_image(file) if take else None for file, take in zip(files, taken, strict=True)]

    def __getitem__(self, item):
        epoch, index = item
        path = self.paths[index].decode()
        real = read_image(self.root / path)
        partners = self.partners(real, path, epoch, index)
        out = [self.view(real, self.first, self.size, seed_rng(self.seed, epoch, index, "first"))]
        for k, generated in enumerate(partners):
            if generated is None:
                image, spec, purpose = real, self.second, "second"
            else:
                image, spec, purpose = generated, self.pair, "pair"
            out.append(
                self.view(image, spec, self.size, seed_rng(self.seed, epoch, index, purpose, k))
            )
        for n in range(self.local_crops):
            image, spec = real, self.local
            if self.local_from == "generated" and partners[n % self.views] is not None:
                image, spec = partners[n % self.views], self.pair | {"scale": self.local["scale"]}
            out.append(
                self.view(
                    image, spec, self.local_size, seed_rng(self.seed, epoch, index, "local", n)
                )
            )
        views, params = zip(*out, strict=True)
        return list(views), list(params), index
