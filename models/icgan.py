"""IC-GAN as published: its files, its encoder, its inputs, and the augmenters of its feature map.

Casanova et al. 2021 (arXiv 2109.05070); dissertation, sections 2.3, 4.1.2 and 4.2. An image is encoded
as a feature map and generated again, from that and a noise vector.
"""

import math
import sys
import tarfile
import tempfile
from pathlib import Path, PurePosixPath

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.special import ndtr, ndtri
from torch import nn

from models.augmenters import Strategy
from models.biggan import generator_from_state
from models.images import find_images, read_image
from models.resnet import backbone_from_state
from models.old_run import autocast, fail, file_hash, load, rank, seed_rng
from models.weights import fill, find

SWAV = "swav_800ep_pretrain.pth.tar"


# ---------------------------------------------------------------- files


def load_state(path):
    """A flat dictionary of tensors; anything else is refused, and nothing in the file is executed."""
    state = load(path)
    if not isinstance(state, dict) or not all(
        isinstance(value, torch.Tensor) for value in state.values()
    ):
        fail(
            f"{path} is not a flat dictionary of tensors, as the G_ema_*.pth of an IC-GAN release is."
        )
    return state


def choose(names, source):
    """The generator among a release's files: G_ema_best0.pth, else the first by name."""
    names = sorted(name for name in names if PurePosixPath(name).match("G_ema*.pth"))
    if not names:
        fail(
            f"{source} holds no G_ema_*.pth: give an IC-GAN release's tarball, its folder, or that file."
        )
    folders = {str(PurePosixPath(name).parent) for name in names}
    if len(folders) > 1:
        fail(
            f"{source} holds several releases ({', '.join(sorted(folders))}): give the folder of one."
        )
    best = min(names, key=lambda name: not name.endswith("_best0.pth"))
    if len(names) > 1 and rank() == 0:
        print(
            f"{source}: {PurePosixPath(best).name} is used, of {len(names)} generators",
            file=sys.stderr,
        )
    return best


def read_tarball(path):
    """(state dict, name) of the generator in a tarball; only that file is extracted, temporarily."""
    try:
        with (
            tarfile.open(path) as tar,
            tempfile.TemporaryDirectory(prefix=f"{path.name}.") as folder,
        ):
            members = {member.name: member for member in tar.getmembers()}
            for name, member in members.items():
                plain = member.isfile() or member.isdir()
                if name.startswith("/") or ".." in name.split("/") or not plain:
                    fail(f"{path} was refused: {name} leaves its folder, or is a link or a device.")
            name = choose([name for name, member in members.items() if member.isfile()], path)
            tar.extract(members[name], folder, filter="data")
            return load_state(Path(folder) / name), name
    except (tarfile.TarError, EOFError, OSError) as error:
        fail(f"{path} cannot be read as a tarball ({error}): download it again.")


def load_encoder(path):
    """IC-GAN's encoder, SwAV's ResNet-50: images of `encoder_input` -> (B, 2048), not yet normalised.

    The projection head and the prototypes are dropped; nothing else may be left over or missing."""
    state = {name.removeprefix("module."): tensor for name, tensor in load_state(path).items()}
    state = {
        name: state[name]
        for name in state
        if not name.startswith(("projection_head.", "prototypes"))
    }
    return (
        backbone_from_state(state, path)
        .eval()
        .requires_grad_(False)
        .to(memory_format=torch.channels_last)
    )


def load_icgan(path=None):
    """(generator, encoder, {file: sha256}) of a release: tarball, folder or G_ema_*.pth; None: the cache.

    SwAV's `swav_800ep_pretrain.pth.tar` is looked for in and beside what is given, then in the cache. Both
    networks are frozen, in evaluation mode, float32 in channels_last, on the CPU.
    """
    path = Path(path or find("icgan"))
    file = path
    if path.is_dir():
        file /= choose([found.relative_to(path).as_posix() for found in path.rglob("*.pth")], path)
    packed = file.is_file() and tarfile.is_tarfile(file)
    generator = generator_from_state(*(read_tarball(file) if packed else (load_state(file), file)))
    swav = next((p / SWAV for p in (path, path.parent) if (p / SWAV).is_file()), None) or find(
        "swav"
    )
    encoder = load_encoder(swav)
    if encoder.inplanes != generator.feature_width:
        fail(
            f"{swav} has {encoder.inplanes} features, the generator needs {generator.feature_width}."
        )
    return generator, encoder, {read.name: file_hash(read) for read in (file, swav)}


# ---------------------------------------------------------------- inputs


def centre_square(image, size=256):
    """As the official demo: centre crop, Pillow's bilinear resize; uint8 (H, W, 3) -> (size, size, 3)."""
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = round((height - side) / 2), round((width - side) / 2)
    cropped = Image.fromarray(image[top : top + side, left : left + side])
    return np.asarray(cropped.resize((size, size), Image.Resampling.BILINEAR))


def encoder_input(squares, align_corners=True):
    """uint8 (B, 3, 256, 256), of `centre_square` -> float32 (B, 3, 224, 224), normalised for the encoder.

    align_corners=True is how the official demo resizes, False how the features were made that the generator
    was trained on. Bicubic without antialiasing, after the normalisation, as in both.
    """
    mean = torch.tensor([0.485, 0.456, 0.406], device=squares.device)[:, None, None]
    deviation = torch.tensor([0.229, 0.224, 0.225], device=squares.device)[:, None, None]
    return F.interpolate(
        (squares / 255 - mean) / deviation, 224, mode="bicubic", align_corners=align_corners
    )


def encode(encoder, images):
    """Feature maps (B, D) of unit L2 norm of images as `encoder_input` returns them."""
    return F.normalize(encoder(images), dim=1)


def normal(rngs, width, cut=math.inf):
    """float32 (len(rngs), width) from N(0, 1) cut to [-cut, cut], not rescaled; row i from rngs[i] alone."""
    low = ndtr(-cut)
    draws = [
        ndtri(rng.uniform(low, 1 - low, width)) if low else rng.standard_normal(width)
        for rng in rngs
    ]
    return torch.from_numpy(np.stack(draws).astype(np.float32))


def draw_z(rngs, width, truncation=None):
    """Noise vectors (len(rngs), width), one numpy generator each: N(0, 1), or cut to +-2 `truncation`.

    The official demo cuts and does not rescale; its truncation of 0.7 gives a standard deviation of 0.707.
    """
    return normal(rngs, width, math.inf if truncation is None else 2 * truncation)


# ---------------------------------------------------------------- feature-map augmenters
# They act on the encoder's feature map Z (B, D), the generator's condition, and return it with unit norm: the
# generator has seen no other. The noise vector z is its second input; only inversion changes that.


def feature_noise(feature, std, truncation, rngs):
    """Formula 5 (section 2.3.1): Z + W, W ~ std * (N(0, 1) cut to +-`truncation`); row i is rngs[i]'s."""
    noise = std * normal(rngs, feature.shape[1], truncation)
    return F.normalize(feature + noise.to(feature), dim=1)


def noise_norm(std, truncation, width):
    """Root mean square of the L2 norm of Formula 5's W in `width` dimensions."""
    density = math.exp(-(truncation**2) / 2) / math.sqrt(2 * math.pi)
    return std * math.sqrt(width * (1 - 2 * truncation * density / (1 - 2 * ndtr(-truncation))))


def interpolate(feature, other, weight):
    """Towards another image's feature map: `weight` 0 is the image itself, 1 the other."""
    return F.normalize(torch.lerp(feature, other, weight), dim=1)


def steer(feature, direction, strength):
    """Formula 6 (section 2.3.1): Z + strength W_steer; `direction` (D,) was learned for one edit."""
    return F.normalize(feature + strength * direction, dim=1)


class Navigator(nn.Module):
    """Formula 7 (section 2.3.2): Z + Navigator(Z), one linear layer; the step has an L2 norm <= `bound`."""

    def __init__(self, width, bound=1.0):
        super().__init__()
        self.layer = nn.Linear(width, width)
        self.register_buffer("bound", torch.tensor(float(bound)))

    def forward(self, feature):
        step = self.layer(feature)
        step = step * (self.bound / step.norm(dim=1, keepdim=True).clamp_min(1e-12)).clamp_max(1)
        return F.normalize(feature + step, dim=1)


def load_direction(path, width):
    """W_steer (width,) as `00_train_augmenter.py steer` wrote it."""
    direction = load_state(path).get("direction")
    if direction is None or direction.shape != (width,):
        fail(f"{path} is not a steering direction of {width} values: train one for this generator.")
    return direction


def load_navigator(path, width):
    """Navigator as `00_train_augmenter.py navigator` wrote it, frozen."""
    return fill(Navigator(width), load_state(path), path)


def invert(generator, feature, target, z0, steps, lr=0.05):
    """GAN inversion (section 4.2): z after `steps` steps of Adam from z0 on the L2 distance to `target`.

    target (B, 3, R, R) in [-1, 1]; lr is our choice. An image's z depends on that image only.
    """
    with torch.inference_mode(False), torch.enable_grad():
        feature, target, z = feature.clone(), target.clone(), z0.clone().requires_grad_()
        optimizer = torch.optim.Adam([z], lr=lr)
        for _ in range(steps):
            distance = (generator(z, feature) - target).square().mean((1, 2, 3))
            (z.grad,) = torch.autograd.grad(
                distance.sum(), z
            )  # of the sum: images stay independent
            optimizer.step()
    return z.detach()


# ---------------------------------------------------------------- strategy
def noise(args, device):
    """02_augment.py noise: encode, draw a noise vector, generate; options change feature map or noise vector.

    They are applied in the order --interpolate, --steer, --navigator, --feature-noise, --invert-steps.
    """
    generator, encoder, files = load_icgan(args.weights)
    # what the official code instantiates: its ResNet-50 keeps the unused classifier
    parameters = generator.parameters_published + sum(p.numel() for p in encoder.parameters())
    about = {"files": files, "parameters": parameters + 1000 * (encoder.inplanes + 1)}
    generator, encoder = generator.to(device), encoder.to(device)
    direction = (
        load_direction(args.steer, generator.feature_width).to(device) if args.steer else None
    )
    navigator = (
        load_navigator(args.navigator, generator.feature_width).to(device)
        if args.navigator
        else None
    )
    everyone = find_images(args.data) if args.interpolate is not None else []

    def features(images):
        squares = images.to(device, non_blocking=True).permute(0, 3, 1, 2)
        return encode(
            encoder, encoder_input(squares, align_corners=args.preprocess == "demo")
        ).float()

    def partner(path):
        """Another image, chosen by this one's seed; unreadable ones are passed over."""
        rng = seed_rng(args.seed, path, "partner")
        for other in (everyone[i] for i in rng.integers(len(everyone), size=100)):
            try:
                if other != path:
                    return centre_square(read_image(Path(args.data) / other))
            except OSError:
                continue
        fail("--interpolate needs a second readable image in --data.")

    def condition(images, paths):
        feature = features(images)
        if args.interpolate is not None:
            others = torch.from_numpy(np.stack([partner(path) for path in paths]))
            feature = interpolate(feature, features(others), args.interpolate)
        if direction is not None:
            feature = steer(feature, direction, args.steer_strength)
        return feature if navigator is None else navigator(feature)

    def generate(images, paths, feature, view):
        rngs = [seed_rng(args.seed, path, view) for path in paths]
        fixed = (
            [seed_rng(args.seed, path, "z") for path in paths]
            if args.feature_noise is not None
            else rngs
        )
        z = draw_z(fixed, generator.z_width, args.truncation).to(device)
        if args.feature_noise is not None:
            feature = feature_noise(feature, args.feature_noise, args.feature_truncation, rngs)
        if args.invert_steps:
            target = images.to(device).permute(0, 3, 1, 2) / 127.5 - 1
            target = F.interpolate(target, generator.resolution, mode="bilinear", antialias=True)
            z = invert(generator, feature, target, z, args.invert_steps)
        pixels = (generator(z, feature).float() + 1) * 127.5
        return pixels.round().byte().permute(0, 2, 3, 1).contiguous().cpu()

    @torch.inference_mode()
    def draw(images, paths, views=args.views):
        with autocast(device, args.precision):
            feature = condition(images, paths)
            return torch.stack([generate(images, paths, feature, view) for view in range(views)])

    def sheet(images, paths):  # Figures 15 and 22
        columns = [images.numpy(), *draw(images, paths, views=5).numpy()]
        return (
            ["original", *(f"draw {view}" for view in range(5))],
            list(zip(*columns, strict=True)),
            (),
        )

    return Strategy(
        [f"view{view}" for view in range(args.views)],
        lambda path: centre_square(read_image(path)),
        draw,
        generator.resolution,
        about,
        sheet,
    )
