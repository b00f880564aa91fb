"""Crops of many small images at once against those of one image (images/views.py)."""

import numpy as np
import pytest
import torch
from photographs import photographs

from base.run import seed_rng
from images import views
from images.batch_views import resized_crops


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
