"""What the tests of IC-GAN share: a small release, images, and in goldens/icgan values of the
official code (facebookresearch/ic_gan) on random weights, with the errors of 25 wrong ports."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.datasets import load_sample_images
from torchvision.models.resnet import Bottleneck, ResNet

from augment import noise
from base import run
from models.biggan import generator_from_state

GOLDENS = Path(__file__).parent / "goldens" / "icgan"
TOLERANCE = 1e-4  # the official code in float32 errs by 1.5e-5 against float64


def official_state(name):
    """The state dict of a generator of the official code, "tiny" (64 px) or "tiny256"."""
    file = GOLDENS / ("release/G_ema_best0.pth" if name == "tiny" else "tiny256.pth")
    return torch.load(file, weights_only=True)


def error(name, generator=None):
    """Largest difference from the official images."""
    with np.load(GOLDENS / "images.npz") as file:
        golden = {key: torch.from_numpy(value) for key, value in file.items()}
    z, feature = golden[f"{name}_z"], golden[f"{name}_feature"]
    generator = generator or generator_from_state(official_state(name))
    with torch.inference_mode():
        images = generator(z, feature)
        alone = [generator(z[i : i + 1], feature[i : i + 1]) for i in range(len(images))]
    assert (images - torch.cat(alone)).abs().max() < TOLERANCE  # batch mates do not matter
    images = images if name == "tiny" else images[:, :, 1::4, 2::4]
    return float((images - golden[f"{name}_image"]).abs().max())


def unit(n, width=2048, seed=0):
    """Feature maps like an encoder's: not negative, of unit norm."""
    normal = torch.randn(n, width, generator=torch.Generator().manual_seed(seed))
    return F.normalize(normal.abs(), dim=1)


def rngs(n, *names):
    return [run.seed_rng(0, *names, i) for i in range(n)]


def write_release(parent):
    """The official release's folder, with a small SwAV checkpoint beside the generator."""
    folder = parent / "icgan_biggan_imagenet_res64"
    shutil.copytree(GOLDENS / "release", folder)
    torch.manual_seed(0)
    encoder = ResNet(Bottleneck, [1, 1, 1, 1])
    encoder.fc = torch.nn.Identity()
    state = {f"module.{name}": value for name, value in encoder.state_dict().items()}
    for name in ("projection_head.0.weight", "projection_head.1.running_mean", "prototypes.weight"):
        state[f"module.{name}"] = torch.zeros(3)
    torch.save(state, folder / noise.SWAV)
    return folder


@pytest.fixture(scope="session")
def release(tmp_path_factory):
    return write_release(tmp_path_factory.mktemp("icgan"))


@pytest.fixture(scope="session")
def parts(tmp_path_factory):
    """A folder of two photographs and four cut-outs of them, in two classes."""
    folder = tmp_path_factory.mktemp("parts")
    for i, image in enumerate(load_sample_images().images):
        (folder / f"class{i}").mkdir()
        for j, part in enumerate((image, image[:300, :280], image[150:, 200:])):
            Image.fromarray(part).save(folder / f"class{i}" / f"{j}.png")
    return folder
