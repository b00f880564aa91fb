"""The strategy `noise`: generate an image again from its feature map and new noise, with IC-GAN.

Casanova et al. 2021 (arXiv 2109.05070); dissertation, sections 4.1.2 and 4.2. The encoder turns an
image into a feature map, and the generator turns that and a noise vector into an image. The
dissertation calls the encoder's output (B, D) a feature map; it has no spatial dimensions. Used by
02 and by extras/, which change the feature map.
"""

import tarfile
import tempfile
import zlib
from pathlib import Path, PurePosixPath

import numpy as np

from augment.strategy import Strategy, to_bytes, views_argument
from base import cli, run
from base.weights import refuse_not_finite, weight_file

SWAV = "swav_800ep_pretrain.pth.tar"
LEARNING_RATE = 0.05  # of the inversion: our choice


def weights_argument(p):
    p.add_argument(
        "--weights",
        help="the published IC-GAN: its tarball, its folder or a G_ema_*.pth; without this flag it "
        "is looked for in $GCL_WEIGHTS (~/.cache/gcl), then downloaded",
    )


def arguments(p):
    weights_argument(p)
    views_argument(p)
    p.add_argument(
        "--invert-steps",
        type=cli.zero_or_more,
        default=0,
        help="steps of GAN inversion: they move the noise vector towards the input (section 4.2)",
    )


# ---------------------------------------------------------------- files
def load_state(path):
    """A flat dictionary of finite tensors from a .pth file. Nothing in the file is executed."""
    import torch

    state = run.load(path)
    flat = isinstance(state, dict)
    if not flat or not all(isinstance(value, torch.Tensor) for value in state.values()):
        run.fail(f"{path} is not a flat dictionary of tensors, as an IC-GAN's G_ema_*.pth is.")
    refuse_not_finite(path, state.items())
    return state


def choose(names, source):
    """The generator among the file names of a release: G_ema_best0.pth, or the only G_ema_*.pth."""
    generators = [name for name in names if PurePosixPath(name).match("G_ema*.pth")]
    best = [name for name in generators if PurePosixPath(name).match("*_best0.pth")]
    candidates = best or generators
    if len(candidates) != 1:
        run.fail(
            f"{source} holds {len(candidates)} G_ema_*.pth: give an IC-GAN release's tarball, its "
            "folder, or that file."
        )
    return candidates[0]


def read_tarball(path):
    """(state dict, file name) of the generator in a tarball.

    Its content alone is copied, into a temporary file: no name or link in a tarball leads anywhere.
    """
    try:
        with tarfile.open(path) as tar, tempfile.TemporaryDirectory() as folder:
            name = choose([member.name for member in tar if member.isfile()], path)
            file = Path(folder, f"{path.name}.pth")
            file.write_bytes(tar.extractfile(name).read())
            return load_state(file), name
    except (tarfile.TarError, EOFError, zlib.error) as error:
        run.fail(f"{path} cannot be read as a tarball ({error}): download it again.")


def load_encoder(path):
    """IC-GAN's encoder, SwAV's ResNet-50: `encoder_input` (B, 3, 224, 224) -> (B, 2048).

    Its output is not normalised yet. The file's projection head and prototypes are left out.
    """
    import torch

    from models.resnet import backbone_from_state, read_state

    state, _ = read_state(path)
    encoder = backbone_from_state(state, path)
    return encoder.requires_grad_(False).to(memory_format=torch.channels_last)


def load_icgan(path, device):
    """(generator, encoder, {file: sha256}) of a release, and of SwAV's file beside it.

    path: its tarball, its folder or its G_ema_*.pth; with None, and where no SwAV lies beside, the
    cache or the net. Both networks are frozen, in evaluation mode, float32 in channels_last.
    """
    from models.biggan import generator_from_state

    path = Path(path or weight_file("icgan"))
    file = choose(path.rglob("*.pth"), path) if path.is_dir() else path
    if file.is_file() and tarfile.is_tarfile(file):
        state, name = read_tarball(file)
    else:
        state, name = load_state(file), file
    generator = generator_from_state(state, name)
    swav = file.parent / SWAV
    if not swav.is_file():
        swav = weight_file("swav")
    encoder = load_encoder(swav)
    files = {used.name: run.file_hash(used) for used in (file, swav)}
    return generator.to(device), encoder.to(device), files


# ---------------------------------------------------------------- inputs
def demo_square(image):
    """The official demo's preparation: uint8 (H, W, 3) -> uint8 (256, 256, 3).

    It takes the centre square and resizes it with Pillow's bilinear filter.
    """
    from PIL import Image

    height, width = image.shape[:2]
    side = min(height, width)
    top = round((height - side) / 2)
    left = round((width - side) / 2)
    cropped = Image.fromarray(image[top : top + side, left : left + side])
    return np.asarray(cropped.resize((256, 256), Image.Resampling.BILINEAR))


def read_demo_square(path):
    """`demo_square` of an image file."""
    from images.read import read_image

    return demo_square(read_image(path))


def encoder_input(squares):
    """uint8 (B, 256, 256, 3) of `demo_square` -> float32 (B, 3, 224, 224) for the encoder.

    As the official demo, it resizes bicubically with aligned corners, without antialiasing, and
    after the normalisation.
    """
    import torch
    import torch.nn.functional as F

    mean = torch.tensor([0.485, 0.456, 0.406], device=squares.device)[:, None, None]
    deviation = torch.tensor([0.229, 0.224, 0.225], device=squares.device)[:, None, None]
    normalised = (squares.permute(0, 3, 1, 2) / 255 - mean) / deviation
    return F.interpolate(normalised, 224, mode="bicubic", align_corners=True)


def encode(encoder, squares):
    """Feature maps (B, D), float32 of unit L2 norm, of uint8 (B, 256, 256, 3) on its device."""
    import torch.nn.functional as F

    return F.normalize(encoder(encoder_input(squares)), dim=1).float()


def noise_vectors(rngs, width):
    """The generator's noise z, float32 (len(rngs), width) from N(0, 1).

    rngs: one numpy Generator for each row. A row depends on its own generator alone.
    """
    import torch

    rows = [rng.standard_normal(width) for rng in rngs]
    return torch.from_numpy(np.array(rows, np.float32))


def invert(generator, feature, target, z0, steps):
    """GAN inversion (section 4.2): z after `steps` steps of Adam from z0 towards the target.

    target (B, 3, R, R) in [-1, 1]. Adam minimises the mean squared difference of the generated
    image from it. The gradient is that of the sum over the batch, so an image's z depends on that
    image only.
    """
    import torch

    with torch.inference_mode(False), torch.enable_grad():
        # Tensors made in inference mode take no part in gradients, their copies do.
        feature = feature.clone()
        target = target.clone()
        z = z0.clone().requires_grad_()
        optimizer = torch.optim.Adam([z], LEARNING_RATE)
        for _ in range(steps):
            distance = (generator(z, feature) - target).square().mean((1, 2, 3))
            (z.grad,) = torch.autograd.grad(distance.sum(), z)
            optimizer.step()
    return z.detach()


# ---------------------------------------------------------------- the strategy
def noise(args, device, networks=None, change=None):
    """The `Strategy`: encode, draw a noise vector, generate.

    networks: what `load_icgan` returns, where it has been called. change(feature maps (B, D),
    paths, view) returns those that are generated from.
    """
    import torch
    import torch.nn.functional as F

    generator, encoder, files = networks or load_icgan(args.weights, device)
    # What the official code instantiates: its ResNet-50 keeps a classifier that it does not use.
    classifier = 1000 * (encoder.inplanes + 1)
    of_encoder = sum(p.numel() for p in encoder.parameters()) + classifier

    @torch.inference_mode()
    def generate(images, paths):
        images = images.to(device, non_blocking=True)
        target = images.permute(0, 3, 1, 2) / 127.5 - 1
        target = F.interpolate(target, generator.resolution, mode="bilinear", antialias=True)
        views = []
        with run.autocast(device, args.precision):
            feature = encode(encoder, images)
            for view in range(args.views):
                rngs = [run.seed_rng(args.seed, path, view) for path in paths]
                z = noise_vectors(rngs, generator.z_width).to(device)
                changed = change(feature, paths, view) if change else feature
                z = invert(generator, changed, target, z, args.invert_steps)
                views.append(to_bytes((generator(z, changed).float() + 1) / 2))
        return torch.stack(views)

    return Strategy(
        views=[f"view{view}" for view in range(args.views)],
        read=read_demo_square,
        generate=generate,
        size=generator.resolution,
        parameters=generator.parameters_published + of_encoder,
        record={"files": files},
    )
