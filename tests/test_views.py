"""Views against PIL 13.0.0 and torchvision 0.29.1: reference values and distributions."""

import random
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from image_files import photographs
from PIL import Image, ImageFilter, ImageOps
from scipy.stats import chisquare, ks_2samp, kstest
from torchvision import transforms as T

from base.run import seed_rng
from images import batch_views
from images import views as V
from models.registry import recipe_of

DINO = recipe_of("dino")["views"]
SIMCLR = recipe_of("simclr")["views"]
SWAV = recipe_of("swav")["views"]
VICREG = recipe_of("vicreg")["views"]

GOLDEN = np.load(Path(__file__).parent / "goldens/ssl/augmentations.npz")
NAMES = [operation.__name__ for operation in V.OPERATIONS]


def on_device(images, params):
    """The batch's colour operations as uint8 (B, H, W, 3)."""
    images, params = (torch.from_numpy(np.stack(values)) for values in (images, params))
    out = batch_views.colour_and_normalise(images, params, (0, 0, 0), (1, 1, 1))
    assert out.is_contiguous(memory_format=torch.channels_last)
    return (out * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def parameters(**factors):
    params = V.NEUTRAL.copy()
    for name, factor in factors.items():
        params[4 + NAMES.index(name)] = factor
    return params


# largest |bias|, mean and maximum difference in levels: (one image by OpenCV, a batch by torch)
TOLERANCE = {
    "brightness": ((0.01, 0.01, 1), (0, 0, 0)),
    "contrast": ((0.02, 0.02, 1), (0, 0, 0)),
    "saturation": ((0.15, 0.15, 1), (0, 0, 0)),  # OpenCV: the gray value is not rounded first
    "hue": ((0.3, 0.35, 6), (0.01, 0.01, 2)),  # OpenCV: the saturation is rounded, not truncated
    "gray": ((0, 0, 0), (0, 0, 0)),
    "solarize": ((0, 0, 0), (0, 0, 0)),
    # PIL rounds six times, and differently at the border
    "gaussianblur": ((0.4, 0.6, 24), (0.4, 0.6, 24)),
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
    assert abs(difference).mean() < 0.2 and abs(difference.mean()) < 0.01
    assert abs(difference).max() <= 7


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_crops_are_those_of_one_image(interpolation):
    images = np.stack(photographs((32, 32)) * 8)
    spec = V.FIRST | dict(interpolation=interpolation)
    drawn = [V.draw_choices(spec, 32, 32, seed_rng(2, i)) for i in range(len(images))]
    boxes, flips, _ = zip(*drawn, strict=True)
    lines = torch.from_numpy(images.transpose(0, 1, 3, 2).copy())
    for size in (32, 20, 40):
        choices = torch.tensor(boxes), torch.tensor(flips).long()
        crops = batch_views.resized_crops(lines, *choices, size, interpolation)
        assert crops.shape == (len(images), size, size, 3) and crops.is_contiguous()
        for crop, image, box, flip in zip(crops, images, boxes, flips, strict=True):
            one = V.resized_crop(image, box, size, interpolation)
            one = one[:, ::-1] if flip else one
            difference = np.abs(crop.numpy().astype(int) - one)
            assert difference.max() <= 2 and difference.mean() < 0.15


def test_batch_and_single_image_agree():
    norm = V.FIRST["mean"], V.FIRST["std"]
    view, neutral = (torch.from_numpy(value)[None] for value in (GOLDEN["view"], V.NEUTRAL))
    out = batch_views.colour_and_normalise(view, neutral, *norm)
    np.testing.assert_allclose(out[0].numpy(), GOLDEN["to_tensor_normalised"], rtol=0, atol=1e-6)
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert (cv2.flip(GOLDEN["view"], 1) == GOLDEN["hflip"]).all()
    for sigma in (0.1, 0.7, 1.3, 1.45, 2.0):
        taps = V.blur_kernel(sigma)
        assert taps.sum() == pytest.approx(1) and (taps > -1e-12).all()
        assert (taps * np.arange(-6, 7) ** 2).sum() == pytest.approx(sigma**2)
    # Same choices, same image up to rounding: all operations in any order, or none.
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


def test_crops_follow_the_law_of_torchvision():
    rng = np.random.default_rng(0)
    official = partial(T.RandomResizedCrop.get_params, ratio=[3 / 4, 4 / 3])
    shapes = [(375, 500, (0.08, 1.0)), (300, 200, (0.14, 1.0))]
    shapes += [(64, 64, (0.05, 0.14)), (100, 170, (0.7, 1.0))]
    for height, width, scale in shapes:
        blank = torch.empty(3, height, width)
        torch.manual_seed(0)
        theirs = np.array([official(blank, list(scale)) for _ in range(1500)])
        ours = np.array([V.draw_box(scale, height, width, rng) for _ in range(1500)])
        for a, b in zip(ours.T, theirs.T, strict=True):
            assert ks_2samp(a, b).pvalue > 1e-3
        assert ks_2samp(ours[:, 2] / ours[:, 3], theirs[:, 2] / theirs[:, 3]).pvalue > 1e-3
    for height, width in ((10, 400), (400, 10)):  # no box fits: the central one
        theirs = official(torch.empty(3, height, width), [1.0, 1.0])
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
        shares = [(np.mean(flips), 0.5), (len(jittered) / n, 0.8), (params[:, 8].mean(), 0.2)]
        shares += [(len(sigma) / n, blur), (params[:, 10].mean(), solarize)]
        for share, p in shares:
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
    scale = scale if view < 2 else (0.05, 0.14)
    mode = T.InterpolationMode(interpolation)

    def blurred(image):
        return image.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2.0)))

    steps = [T.RandomResizedCrop(size, scale, interpolation=mode), T.RandomHorizontalFlip()]
    steps += [T.RandomApply([T.ColorJitter(*jitter)], p=0.8), T.RandomGrayscale(0.2)]
    steps += [T.Lambda(lambda image: blurred(image) if random.random() < blur else image)]
    steps += [T.Lambda(lambda im: ImageOps.solarize(im) if random.random() < solarize else im)]
    return T.Compose([*steps, np.asarray])


def statistics(view):
    """What a change of the distribution would show in: levels, colour, sharpness, symmetry."""
    x = view.astype(np.float32)
    left, right = np.array_split(x.mean((0, 2)), 2)
    sharpness = [abs(np.diff(x, axis=axis)).mean() for axis in (0, 1)]
    levels = [*x.mean((0, 1)), x.std(), np.ptp(x, axis=2).mean(), (x < 1).mean(), (x > 254).mean()]
    return [*levels, *sharpness, left.mean() - right.mean()]


VIEWS = [("vicreg", 0), ("vicreg", 1), ("dino", 2), ("simclr", 0), ("swav", 1)]


@pytest.mark.parametrize("method, view", VIEWS)
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
    assert crop["scale"] == (0.14, 1.0)
    assert crop["flip"] == crop["jitter_p"] == crop["grayscale"] == 0
    for names in (["warp"], ["none", "crop"]):
        with pytest.raises(SystemExit) as error:
            V.pair_view(names, VICREG[1])
        assert error.value.code == 2


def test_few_passes_in_every_rows_order():
    """Each row goes through its operations in the order that it drew, all rows in ten passes."""
    spec = V.FIRST | dict(grayscale=0.5, blur=0.5, solarize=0.5)
    choices = np.stack([V.draw_choices(spec, 8, 8, seed_rng(0, i))[2] for i in range(300)])
    columns, sizes = batch_views.passes(torch.from_numpy(choices))
    assert len(sizes) == 10 and min(sizes) > 0
    found = columns.split(sizes, 1)
    for row, choice in enumerate(choices):
        seen = [int(kinds[rows == row]) for rows, kinds in found if (rows == row).any()]
        drawn = [V.BRIGHTNESS + int(number) for number in choice[:4]]
        drawn += [V.GRAYSCALE, V.BLUR, V.SOLARIZE]
        assert seen == [kind for kind in drawn if choice[kind] != V.UNCHANGED[kind]]
    assert not any(batch_views.passes(torch.from_numpy(V.NEUTRAL)[None])[1])
