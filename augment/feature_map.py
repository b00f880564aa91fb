"""IC-GAN as published: its files, its encoder, its inputs, and augmenters of its feature map.

Casanova et al. 2021 (arXiv 2109.05070); dissertation, sections 2.3, 4.1.2 and 4.2. The encoder
turns an image into a feature map, and the generator turns that and a noise vector into an image.
The dissertation calls the encoder's output (B, D) a feature map; it has no spatial dimensions.
"""

import gzip
import lzma
import math
import sys
import tarfile
import tempfile
import zlib
from pathlib import Path, PurePosixPath

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.special import ndtr, ndtri
from torch import nn

from base import run
from base.parallel import rank
from base.weights import load_strictly, weight_file
from images.read import read_image
from models.biggan import generator_from_state
from models.resnet import backbone_from_state

SWAV = "swav_800ep_pretrain.pth.tar"
DAMAGED = (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError)


# ---------------------------------------------------------------- files
def load_state(path):
    """A flat dictionary of finite tensors from a .pth file. Nothing in the file is executed."""
    state = run.load(path)
    flat = isinstance(state, dict)
    if flat:
        flat = all(isinstance(value, torch.Tensor) for value in state.values())
    if not flat:
        run.fail(
            f"{path} is not a flat dictionary of tensors, as the G_ema_*.pth of an IC-GAN release "
            "is."
        )
    for name, value in state.items():
        if value.is_floating_point() and not value.isfinite().all():
            run.fail(f"{path}: {name} holds values that are not finite: download the file again.")
    return state


def choose(names, source):
    """The generator among the file names of a release: G_ema_best0.pth, or the first by name."""
    generators = sorted(name for name in names if PurePosixPath(name).match("G_ema*.pth"))
    if not generators:
        run.fail(
            f"{source} holds no G_ema_*.pth: give an IC-GAN release's tarball, its folder, or that "
            "file."
        )
    folders = sorted({str(PurePosixPath(name).parent) for name in generators})
    if len(folders) > 1:
        run.fail(f"{source} holds several releases ({', '.join(folders)}): give the folder of one.")
    chosen = generators[0]
    for name in generators:
        if name.endswith("_best0.pth"):
            chosen = name
            break
    if len(generators) > 1 and rank() == 0:
        name = PurePosixPath(chosen).name
        print(f"{source}: {name} is used, of {len(generators)} generators", file=sys.stderr)
    return chosen


def read_tarball(path):
    """(state dict, file name) of the generator in a tarball.

    Only that file is unpacked, into a temporary folder. A tarball with links, devices or names that
    lead out of its folder is refused.
    """
    try:
        with tarfile.open(path) as tar:
            files = {}
            for member in tar.getmembers():
                leaves = member.name.startswith("/") or ".." in member.name.split("/")
                if leaves or not (member.isfile() or member.isdir()):
                    run.fail(
                        f"{path} was refused: {member.name} leaves its folder, or is a link or a "
                        "device."
                    )
                if member.isfile():
                    files[member.name] = member
            name = choose(files, path)
            with tempfile.TemporaryDirectory(prefix=f"{path.name}.") as folder:
                tar.extract(files[name], folder, filter="data")
                return load_state(Path(folder) / name), name
    except DAMAGED as error:
        run.fail(f"{path} cannot be read as a tarball ({error}): download it again.")


def load_encoder(path):
    """IC-GAN's encoder, SwAV's ResNet-50: `encoder_input` (B, 3, 224, 224) -> (B, 2048).

    Its output is not normalised yet. The file's projection head and prototypes are dropped. Nothing
    else may be left over or missing.
    """
    state = {}
    for name, tensor in load_state(path).items():
        name = name.removeprefix("module.")
        if not name.startswith(("projection_head.", "prototypes")):
            state[name] = tensor
    encoder = backbone_from_state(state, path)
    encoder.eval().requires_grad_(False)
    return encoder.to(memory_format=torch.channels_last)


def find_encoder(path):
    """SwAV's file: in the folder `path` or beside the file `path`, else in the cache or the net."""
    for folder in (path, path.parent):
        if (folder / SWAV).is_file():
            return folder / SWAV
    return weight_file("swav")


def load_icgan(path=None):
    """(generator, encoder, {file: sha256}) of a release.

    path: its tarball, its folder or its G_ema_*.pth; without it the cache or the net. Both networks
    are frozen, in evaluation mode, float32 in channels_last, on the CPU.
    """
    path = Path(path or weight_file("icgan"))
    file = path
    if path.is_dir():
        names = [found.relative_to(path).as_posix() for found in path.rglob("*.pth")]
        file = path / choose(names, path)
    if file.is_file() and tarfile.is_tarfile(file):
        state, name = read_tarball(file)
    else:
        state, name = load_state(file), file
    generator = generator_from_state(state, name)
    swav = find_encoder(path)
    encoder = load_encoder(swav)
    if encoder.inplanes != generator.feature_width:
        run.fail(
            f"{swav} has {encoder.inplanes} features, the generator needs "
            f"{generator.feature_width}."
        )
    return generator, encoder, {used.name: run.file_hash(used) for used in (file, swav)}


# ---------------------------------------------------------------- inputs
def demo_square(image, size=256):
    """The official demo's preparation: uint8 (H, W, 3) -> uint8 (size, size, 3).

    It takes the centre square and resizes it with Pillow's bilinear filter.
    """
    height, width = image.shape[:2]
    side = min(height, width)
    top = round((height - side) / 2)
    left = round((width - side) / 2)
    cropped = Image.fromarray(image[top : top + side, left : left + side])
    return np.asarray(cropped.resize((size, size), Image.Resampling.BILINEAR))


def read_demo_square(path):
    """`demo_square` of an image file. Raises OSError where it cannot be read."""
    return demo_square(read_image(path))


def encoder_input(squares, align_corners=True):
    """uint8 (B, 256, 256, 3) of `demo_square` -> float32 (B, 3, 224, 224) for the encoder.

    align_corners=True is how the official demo resizes. False is how the features were made on
    which the generator was trained. Both resize bicubically without antialiasing, and after the
    normalisation.
    """
    mean = torch.tensor([0.485, 0.456, 0.406], device=squares.device)[:, None, None]
    deviation = torch.tensor([0.229, 0.224, 0.225], device=squares.device)[:, None, None]
    normalised = (squares.permute(0, 3, 1, 2) / 255 - mean) / deviation
    return F.interpolate(normalised, 224, mode="bicubic", align_corners=align_corners)


def encode(encoder, images):
    """Feature maps (B, D) of unit L2 norm, of images as `encoder_input` returns them."""
    return F.normalize(encoder(images), dim=1)


def truncated_normal(rngs, width, cut=math.inf):
    """float32 (len(rngs), width) from N(0, 1), cut to [-cut, cut] and not rescaled.

    rngs: one numpy Generator for each row. A row depends on its own generator alone.
    """
    low = ndtr(-cut)
    rows = []
    for rng in rngs:
        if low > 0:
            rows.append(ndtri(rng.uniform(low, 1 - low, width)))
        else:
            rows.append(rng.standard_normal(width))
    return torch.from_numpy(np.stack(rows).astype(np.float32))


def noise_vectors(rngs, width, truncation=None):
    """The generator's noise z (len(rngs), width): N(0, 1), or cut to +-2 `truncation`.

    The official demo cuts and does not rescale. Its truncation of 0.7 gives a standard deviation of
    0.707.
    """
    return truncated_normal(rngs, width, math.inf if truncation is None else 2 * truncation)


# ---------------------------------------------------------------- augmenters
# Each takes feature maps Z (B, D) and returns others of unit norm: the generator has seen no other
# norm. Inversion alone changes the noise vector z, the generator's second input.


def feature_noise(feature, std, truncation, rngs):
    """Formula 5 (section 2.3.1): Z + W, where W = std * N(0, 1), cut to +-`truncation` before.

    Row i of W depends on rngs[i] alone.
    """
    noise = std * truncated_normal(rngs, feature.shape[1], truncation)
    return F.normalize(feature + noise.to(feature), dim=1)


def noise_norm(std, truncation, width):
    """The root mean square of the L2 norm of Formula 5's W in `width` dimensions."""
    density = math.exp(-(truncation**2) / 2) / math.sqrt(2 * math.pi)
    kept = 1 - 2 * ndtr(-truncation)
    variance = 1 - 2 * truncation * density / kept
    return std * math.sqrt(width * variance)


def interpolate(feature, other, weight):
    """Move towards another image's feature map: weight 0 is the image itself, 1 is the other."""
    return F.normalize(torch.lerp(feature, other, weight), dim=1)


def steer(feature, direction, strength):
    """Formula 6 (section 2.3.1): Z + strength W_steer; `direction` (D,) is learned for one edit."""
    return F.normalize(feature + strength * direction, dim=1)


class Navigator(nn.Module):
    """Formula 7 (section 2.3.2): Z + Navigator(Z), one linear layer.

    Its step is shortened to an L2 norm of `bound` where it is longer.
    """

    def __init__(self, width, bound=1.0):
        super().__init__()
        self.layer = nn.Linear(width, width)
        self.register_buffer("bound", torch.tensor(float(bound)))

    def forward(self, feature):
        step = self.layer(feature)
        length = step.norm(dim=1, keepdim=True).clamp_min(1e-12)
        step = step * (self.bound / length).clamp_max(1)
        return F.normalize(feature + step, dim=1)


def load_direction(path, width):
    """W_steer (width,) as `extras/train_augmenter.py steer` wrote it."""
    direction = load_state(path).get("direction")
    if direction is None or direction.shape != (width,):
        run.fail(
            f"{path} is not a steering direction of {width} values: train one for this generator."
        )
    return direction


def load_navigator(path, width):
    """The Navigator as `extras/train_augmenter.py navigator` wrote it, frozen."""
    return load_strictly(Navigator(width), load_state(path), path)


def invert(generator, feature, target, z0, steps, lr=0.05):
    """GAN inversion (section 4.2): z after `steps` steps of Adam from z0 towards the target.

    target (B, 3, R, R) in [-1, 1]. Adam minimises the mean squared difference of the generated
    image from it; the learning rate lr is our choice. The gradient is that of the sum over the
    batch, so an image's z depends on that image only.
    """
    with torch.inference_mode(False), torch.enable_grad():
        # Tensors made in inference mode take no part in gradients, their copies do.
        feature = feature.clone()
        target = target.clone()
        z = z0.clone().requires_grad_()
        optimizer = torch.optim.Adam([z], lr=lr)
        for _ in range(steps):
            distance = (generator(z, feature) - target).square().mean((1, 2, 3))
            (z.grad,) = torch.autograd.grad(distance.sum(), z)
            optimizer.step()
    return z.detach()
