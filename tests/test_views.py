"""Views against PIL and torchvision (reference values and distributions), and the data set's
promises.

goldens/ssl/augmentations.npz: PIL 13.0.0 and torchvision 0.29.1 on one image at fixed parameters.
"""

import random
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from photographs import photographs
from PIL import Image, ImageFilter, ImageOps
from scipy.stats import chisquare, ks_2samp, kstest
from torchvision import transforms as T

from images import batch_views
from images import views as V
from models.registry import recipe_of

DINO = recipe_of("dino")["views"]
SIMCLR = recipe_of("simclr")["views"]
SWAV = recipe_of("swav")["views"]
VICREG = recipe_of("vicreg")["views"]

GOLDEN = np.load(Path(__file__).parent / "goldens/ssl/augmentations.npz")
NAMES = [operation.__name__ for operation in V.OPERATIONS]


def on_device(images, params, **norm):
    """The batch's colour operations as uint8 (B, H, W, 3)."""
    out = batch_views.colour_and_normalise(
        torch.from_numpy(np.stack(images)),
        torch.from_numpy(np.stack(params)),
        norm.get("mean", (0, 0, 0)),
        norm.get("std", (1, 1, 1)),
    )
    assert out.is_contiguous(memory_format=torch.channels_last)
    return (out * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def parameters(**factors):
    params = V.NEUTRAL.copy()
    for name, factor in factors.items():
        params[4 + NAMES.index(name)] = factor
    return params


# ---------------------------------------------------------------- reference values
# largest |bias|, mean and maximum difference in levels: (one image by OpenCV, a batch by torch)
TOLERANCE = {
    "brightness": ((0.01, 0.01, 1), (0, 0, 0)),
    "contrast": ((0.02, 0.02, 1), (0, 0, 0)),
    "saturation": ((0.15, 0.15, 1), (0, 0, 0)),  # OpenCV: the gray value is not rounded first
    "hue": ((0.3, 0.35, 6), (0.01, 0.01, 2)),  # OpenCV: the saturation is rounded, not truncated
    "gray": ((0, 0, 0), (0, 0, 0)),
    "solarize": ((0, 0, 0), (0, 0, 0)),
    "gaussianblur": (
        (0.4, 0.6, 24),
        (0.4, 0.6, 24),
    ),  # PIL rounds six times, and differently at the border
}
CASES = [key for key in GOLDEN if key.split("_")[0] in TOLERANCE]


@pytest.mark.parametrize("case", CASES)
def test_colour_operations_match_pil(case):
    name, _, factor = case.partition("_")
    operation = {"gray": "grayscale", "gaussianblur": "blur"}.get(name, name)
    params = parameters(**{operation: float(factor or 1) if name != "solarize" else 1})
    ours = V.colour(GOLDEN["view"], params), on_device([GOLDEN["view"]], [params])[0]
    for image, (bias, mean, most) in zip(ours, TOLERANCE[name], strict=True):
        difference = image.astype(int) - GOLDEN[case].astype(int)
        assert abs(difference.mean()) <= bias and abs(difference).mean() <= mean
        assert abs(difference).max() <= most


@pytest.mark.parametrize("case", [key for key in GOLDEN if key.startswith("rrc_bi")])
def test_resized_crops_match_pil(case):
    _, interpolation, number = case.split("_")
    box = GOLDEN["rrc_boxes_ijhw"][int(number)].tolist()
    difference = V.resized_crop(GOLDEN["image"], box, 64, interpolation).astype(int) - GOLDEN[case]
    assert (
        abs(difference).mean() < 0.2
        and abs(difference.mean()) < 0.01
        and abs(difference).max() <= 7
    )


def test_normalisation_and_flip_match_torchvision():
    norm = V.FIRST["mean"], V.FIRST["std"]
    out = batch_views.colour_and_normalise(
        torch.from_numpy(GOLDEN["view"])[None], torch.from_numpy(V.NEUTRAL)[None], *norm
    )
    np.testing.assert_allclose(out[0].numpy(), GOLDEN["to_tensor_normalised"], rtol=0, atol=1e-6)
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert (cv2.flip(GOLDEN["view"], 1) == GOLDEN["hflip"]).all()


def test_blur_kernel_is_a_gaussian_of_its_sigma():
    for sigma in (0.1, 0.7, 1.3, 1.45, 2.0):
        taps = V.blur_kernel(sigma)
        assert taps.sum() == pytest.approx(1) and (taps > -1e-12).all()
        assert (taps * np.arange(-6, 7) ** 2).sum() == pytest.approx(sigma**2)


def test_batch_and_single_image_agree():
    """Same choices, same image up to rounding: every operation, any order, one image that needs
    none.
    """
    rng = np.random.default_rng(0)
    images = [V.resized_crop(photo, (0, 0, 375, 375), 96) for photo in photographs()] * 8
    strong = SIMCLR[0] | dict(blur=0.5, solarize=0.2)
    params = [V.draw_choices(strong, 96, 96, rng)[2] for _ in images]
    params[3] = V.NEUTRAL
    before = np.stack(images)
    batch = on_device(before, params)
    assert (before == np.stack(images)).all()  # left as it was
    single = np.stack([V.colour(*pair) for pair in zip(images, params, strict=True)])
    difference = abs(single.astype(int) - batch)
    assert difference.mean() < 0.5 and difference.mean((1, 2, 3)).max() < 2
    assert (batch[3] == images[3]).all()


# ---------------------------------------------------------------- distributions
def test_crops_follow_the_law_of_torchvision():
    rng = np.random.default_rng(0)
    for height, width, scale in (
        (375, 500, (0.08, 1.0)),
        (300, 200, (0.14, 1.0)),
        (64, 64, (0.05, 0.14)),
        (100, 170, (0.7, 1.0)),
    ):
        blank = torch.empty(3, height, width)
        torch.manual_seed(0)
        theirs = np.array(
            [
                T.RandomResizedCrop.get_params(blank, list(scale), [3 / 4, 4 / 3])
                for _ in range(1500)
            ]
        )
        ours = np.array([V.draw_box(scale, height, width, rng) for _ in range(1500)])
        for a, b in zip(ours.T, theirs.T, strict=True):
            assert ks_2samp(a, b).pvalue > 1e-3
        assert ks_2samp(ours[:, 2] / ours[:, 3], theirs[:, 2] / theirs[:, 3]).pvalue > 1e-3
    for height, width in ((10, 400), (400, 10)):  # no box fits: the central one
        theirs = T.RandomResizedCrop.get_params(
            torch.empty(3, height, width), [1.0, 1.0], [3 / 4, 4 / 3]
        )
        assert V.draw_box((1.0, 1.0), height, width, rng) == theirs


# As published: crop scale, interpolation, jitter; blur and solarize of each view (first, second,
# local crop).
PUBLISHED = {
    "vicreg": ((0.08, 1.0), "bicubic", (0.4, 0.4, 0.2, 0.1), (1.0, 0.0), (0.1, 0.2)),
    "dino": ((0.14, 1.0), "bicubic", (0.4, 0.4, 0.2, 0.1), (1.0, 0.0), (0.1, 0.2), (0.5, 0.0)),
    "simclr": ((0.08, 1.0), "bicubic", (0.8, 0.8, 0.8, 0.2), (0.5, 0.0), (0.5, 0.0)),
    "swav": ((0.14, 1.0), "bilinear", (0.8, 0.8, 0.8, 0.2), (0.5, 0.0), (0.5, 0.0), (0.5, 0.0)),
}


@pytest.mark.parametrize("method", PUBLISHED)
def test_choices_have_the_published_law(method):
    n, rng = 4000, np.random.default_rng(0)
    _, interpolation, jitter, *views = PUBLISHED[method]
    for (blur, solarize), spec in zip(views, recipe_of(method)["views"], strict=False):
        assert spec["interpolation"] == interpolation
        _, flips, params = zip(*(V.draw_choices(spec, 64, 64, rng) for _ in range(n)), strict=True)
        params = np.array(params)
        jittered, sigma = params[params[:, 4] != 1], params[params[:, 9] > 0, 9]
        for share, p in (
            (np.mean(flips), 0.5),
            (len(jittered) / n, 0.8),
            (params[:, 8].mean(), 0.2),
            (len(sigma) / n, blur),
            (params[:, 10].mean(), solarize),
        ):
            assert abs(share - p) <= 4 * (p * (1 - p) / n) ** 0.5
        for k, strength in enumerate(jitter):
            low = (k < 3) - strength
            assert kstest(jittered[:, 4 + k], "uniform", (low, 2 * strength)).pvalue > 1e-3
        assert kstest(sigma, "uniform", (0.1, 1.9)).pvalue > 1e-3
        orders = np.unique(jittered[:, :4], axis=0, return_counts=True)[1]
        assert len(orders) == 24 and chisquare(orders).pvalue > 1e-3


def official(method, view, size):
    """The published pipeline of one view, of PIL and torchvision; uint8 out."""
    scale, interpolation, jitter, *views = PUBLISHED[method]
    blur, solarize = views[view]
    return T.Compose(
        [
            T.RandomResizedCrop(
                size,
                scale if view < 2 else (0.05, 0.14),
                interpolation=T.InterpolationMode(interpolation),
            ),
            T.RandomHorizontalFlip(),
            T.RandomApply([T.ColorJitter(*jitter)], p=0.8),
            T.RandomGrayscale(0.2),
            T.Lambda(
                lambda image: (
                    image.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2.0)))
                    if random.random() < blur
                    else image
                )
            ),
            T.Lambda(
                lambda image: ImageOps.solarize(image) if random.random() < solarize else image
            ),
            np.asarray,
        ]
    )


def statistics(view):
    """What a change of the distribution would show in: levels, colour, sharpness, symmetry."""
    x = view.astype(np.float32)
    left, right = np.array_split(x.mean((0, 2)), 2)
    return [
        *x.mean((0, 1)),
        x.std(),
        np.ptp(x, axis=2).mean(),
        abs(np.diff(x, axis=0)).mean(),
        abs(np.diff(x, axis=1)).mean(),
        (x < 1).mean(),
        (x > 254).mean(),
        left.mean() - right.mean(),
    ]


@pytest.mark.parametrize(
    "method, view", [("vicreg", 0), ("vicreg", 1), ("dino", 2), ("simclr", 0), ("swav", 1)]
)
def test_distribution_is_the_published_one(method, view):
    """Moments and Kolmogorov-Smirnov over views of photographs; both halves that apply colour."""
    random.seed(0)
    torch.manual_seed(0)
    size, n, photos = 64, 400, photographs((150, 200))
    transform, pictures = official(method, view, size), [Image.fromarray(photo) for photo in photos]
    theirs = np.array([statistics(transform(pictures[i % len(photos)])) for i in range(n)])
    spec, rng = recipe_of(method)["views"][view], np.random.default_rng(1)
    cropped, params = [], []
    for i in range(n):
        box, flip, choice = V.draw_choices(spec, 150, 200, rng)
        image = V.resized_crop(photos[i % len(photos)], box, size, spec["interpolation"])
        cropped.append(cv2.flip(image, 1) if flip else image)
        params.append(choice)
    single = [V.colour(*pair) for pair in zip(cropped, params, strict=True)]
    for ours in (single, on_device(cropped, params)):
        ours = np.array([statistics(image) for image in ours])
        error = np.sqrt((ours.var(0) + theirs.var(0)) / n) + 1e-9
        assert (abs(ours.mean(0) - theirs.mean(0)) < 4 * error).all()
        assert (abs(np.log((ours.std(0) + 1e-3) / (theirs.std(0) + 1e-3))) < 0.35).all()
        assert min(ks_2samp(a, b).pvalue for a, b in zip(ours.T, theirs.T, strict=True)) > 1e-3


def test_pairing_takes_the_second_view_s_probabilities():
    everything = V.pair_view(["crop", "flip", "jitter", "blur", "solarize", "grayscale"], VICREG[1])
    assert everything == VICREG[1]
    assert V.pair_view(["solarize"], SWAV[1])["solarize"] == 0.2
    nothing = V.pair_view(["none"], VICREG[1])
    box, flip, params = V.draw_choices(nothing, 60, 80, np.random.default_rng(0))
    assert box == (0, 10, 60, 60) and not flip and (params == V.NEUTRAL).all()
    crop = V.pair_view(["crop"], DINO[1])
    assert (
        crop["scale"] == (0.14, 1.0) and crop["flip"] == crop["jitter_p"] == crop["grayscale"] == 0
    )
    for names in (["warp"], ["none", "crop"]):
        with pytest.raises(SystemExit) as error:
            V.pair_view(names, VICREG[1])
        assert error.value.code == 2
