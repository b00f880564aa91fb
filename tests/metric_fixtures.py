"""What the tests of metrics share: photographs, two folders of their crops, a small backbone."""

import numpy as np
import pytest
import torch
from image_files import sample_photographs

from images.pictures import write_image


@pytest.fixture(scope="session")
def photographs():
    return sample_photographs()


@pytest.fixture(scope="session")
def folders(tmp_path_factory, photographs):
    """a: crops of photographs, b: the same, changed; 8 each, 64 px PNG, in two class folders."""
    root, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for i in range(8):
        photo = photographs[i % len(photographs)]
        top, left = (rng.integers(0, side - 128) for side in photo.shape[:2])
        crop = photo[top : top + 128 : 2, left : left + 128 : 2]
        changed = 0.8 * crop + rng.integers(-30, 30, crop.shape) + 20
        changed = np.clip(changed, 0, 255).astype(np.uint8)
        write_image(root / "a" / f"class{i % 2}" / f"{i:02d}.png", crop)
        write_image(root / "b" / f"class{i % 2}" / f"{i:02d}.png", changed)
    return root


@pytest.fixture(scope="session")
def backbone(tmp_path_factory):
    """A run folder with a small untrained network."""
    from models.resnet import build_backbone

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("backbone")
    torch.save(build_backbone("resnet10", True)[0].state_dict(), folder / "backbone.pth")
    (folder / "args.json").write_text('{"stage": "03_pretrain", "size": 32}')
    return folder
