"""Crops of many small images at once against those of one image (images/views.py)."""

import numpy as np
import pytest
import torch
from photographs import photographs

from base.run import seed_rng
from images import views
from images.batch_views import passes, resized_crops


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_crops_are_those_of_one_image(interpolation):
    images = np.stack(photographs((32, 32)) * 8)
    spec = views.FIRST | dict(interpolation=interpolation)
    drawn = [views.draw_choices(spec, 32, 32, seed_rng(2, i)) for i in range(len(images))]
    boxes, flips, _ = zip(*drawn, strict=True)
    lines = torch.from_numpy(images.transpose(0, 1, 3, 2).copy())
    for size in (32, 20, 40):
        crops = resized_crops(
            lines, torch.tensor(boxes), torch.tensor(flips).long(), size, interpolation
        )
        assert crops.shape == (len(images), size, size, 3) and crops.is_contiguous()
        for crop, image, box, flip in zip(crops, images, boxes, flips, strict=True):
            one = views.resized_crop(image, box, size, interpolation)
            one = one[:, ::-1] if flip else one
            difference = np.abs(crop.numpy().astype(int) - one)
            assert difference.max() <= 2 and difference.mean() < 0.15


def test_few_passes_in_every_rows_order():
    """Each row goes through its operations in the order that it drew, all rows in ten passes."""
    spec = views.FIRST | dict(grayscale=0.5, blur=0.5, solarize=0.5)
    choices = np.stack([views.draw_choices(spec, 8, 8, seed_rng(0, i))[2] for i in range(300)])
    columns, sizes = passes(torch.from_numpy(choices))
    assert len(sizes) == 10 and min(sizes) > 0
    found = columns.split(sizes, 1)
    for row, choice in enumerate(choices):
        seen = [int(kinds[rows == row]) for rows, kinds in found if (rows == row).any()]
        drawn = [views.BRIGHTNESS + int(number) for number in choice[:4]]
        drawn += [views.GRAYSCALE, views.BLUR, views.SOLARIZE]
        assert seen == [kind for kind in drawn if choice[kind] != views.UNCHANGED[kind]]
    assert not any(passes(torch.from_numpy(views.NEUTRAL)[None])[1])
