"""Views of many small images at once against those of one image (images/views.py)."""

import numpy as np
import pytest
import torch
from photographs import photographs

from base.run import seed_rng
from images import small_views, views
from models.registry import METHODS, recipe_of

SPECS = {f"{name}-{k}": spec for name in METHODS for k, spec in enumerate(recipe_of(name)["views"])}
# Without a crop; with an area above 1, which never fits.
SPECS |= {"no crop": views.FIRST | dict(scale=None), "never": views.FIRST | dict(scale=(4.0, 5.0))}


@pytest.mark.parametrize("name", SPECS)
def test_choices_are_those_of_one_image(name):
    spec = SPECS[name]
    for side in (8, 32):
        of_all = small_views.draw_choices(spec, side, [seed_rng(side, i) for i in range(300)])
        boxes, flips, choices = of_all
        assert boxes.shape == (300, 4) and choices.dtype == np.float32
        for i in range(300):
            box, flip, choice = views.draw_choices(spec, side, side, seed_rng(side, i))
            assert tuple(boxes[i]) == box and flips[i] == flip, i
            assert (choices[i] == choice).all(), i


def test_a_generator_continues_where_one_image_left_it():
    """Whatever draws after the views gets the same numbers, after several tries at a box too."""
    for name in ("simclr-0", "never", "no crop"):
        ours, theirs = [[seed_rng(1, i) for i in range(50)] for _ in range(2)]
        small_views.draw_choices(SPECS[name], 32, ours)
        for rng in theirs:
            views.draw_choices(SPECS[name], 32, 32, rng)
        assert [rng.random() for rng in ours] == [rng.random() for rng in theirs]


@pytest.mark.parametrize("size", [(32, 32), (17, 24)])
def test_colours_are_those_of_one_image(size):
    images = np.stack(photographs(size) * 40)
    rngs = [seed_rng(0, i) for i in range(len(images))]
    spec = views.FIRST | dict(blur=0.5, solarize=0.3)
    _, _, choices = small_views.draw_choices(spec, 32, rngs)
    expected = [views.colour(image, row) for image, row in zip(images, choices, strict=True)]
    changed = images.copy()
    small_views.colour(changed, torch.from_numpy(choices))
    assert (changed == np.stack(expected)).all()
    assert (changed != images).any((1, 2, 3)).mean() > 0.8
    small_views.colour(images, torch.from_numpy(np.tile(views.NEUTRAL, (len(images), 1))))
    assert (images[: len(images) // 40] == np.stack(photographs(size))).all()


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_crops_are_those_of_one_image(interpolation):
    images = np.stack(photographs((32, 32)) * 8)
    spec = views.FIRST | dict(interpolation=interpolation)
    rngs = [seed_rng(2, i) for i in range(len(images))]
    boxes, flips, _ = small_views.draw_choices(spec, 32, rngs)
    lines = torch.from_numpy(images.transpose(0, 1, 3, 2).copy())
    for size in (32, 20, 40):
        crops = small_views.resized_crops(
            lines, torch.from_numpy(boxes), torch.from_numpy(flips), size, interpolation
        )
        assert crops.shape == (len(images), size, size, 3) and crops.is_contiguous()
        for crop, image, box, flip in zip(crops, images, boxes, flips, strict=True):
            one = views.resized_crop(image, box, size, interpolation)
            one = one[:, ::-1] if flip else one
            difference = np.abs(crop.numpy().astype(int) - one)
            assert difference.max() <= 2 and difference.mean() < 0.15
