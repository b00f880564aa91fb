"""IC-GAN with a BigGAN backbone: image -> feature -> (z, feature) -> image, and ways of changing the feature map.

Casanova et al. 2021 (IC-GAN), Brock et al. 2019 (BigGAN). For inference and gradients with respect to the inputs
only: everything that is constant in evaluation is folded into the weights when the official checkpoint is loaded.
"""

import itertools
import math
import re
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
from torchvision.models.resnet import Bottleneck, ResNet

from models.run import fail, load, rank
from models.weights import find

SWAV = "swav_800ep_pretrain.pth.tar"
EPS = 1e-5  # of every batch normalisation

# ------------------------------------------------------------------------------------------------ generator


class Attention(nn.Module):
    """Self-attention with keys and values pooled 2x2, logits unscaled; gamma is folded into `out`."""

    def __init__(self, channels):
        super().__init__()
        self.widths = [channels // 8, channels // 8 + channels // 2]
        self.qkv = nn.Conv2d(channels, sum(self.widths), 1, bias=False)
        self.out = nn.Conv2d(channels // 2, channels, 1, bias=False)

    def forward(self, x):
        query, key_value = self.qkv(x).split(self.widths, dim=1)
        query = query.flatten(2).transpose(1, 2).unsqueeze(1)
        key_value = F.max_pool2d(key_value, 2).flatten(2).transpose(1, 2).unsqueeze(1)
        key, value = key_value.split([self.widths[0], self.widths[1] - self.widths[0]], dim=-1)
        mixed = F.scaled_dot_product_attention(query, key, value, scale=1.0)
        return x + self.out(mixed.squeeze(1).transpose(1, 2).unflatten(2, x.shape[2:]))


class Block(nn.Module):
    """Residual block that doubles the resolution, modulated by (feature embedding, chunk of z).

    `modulation` gives scale and shift of both normalisations, running statistics included. `conv1` is "nearest
    upsampling, then a 3x3 convolution" as one transposed 4x4 convolution of stride 2: 4 instead of 9
    multiplications an output. The 1x1 shortcut commutes with the upsampling and comes before it.
    """

    def __init__(self, inside, outside, condition, attention):
        super().__init__()
        self.widths = [inside, inside, outside, outside]
        self.modulation = nn.Linear(condition, sum(self.widths))
        self.conv1 = nn.ConvTranspose2d(inside, outside, 4, stride=2, padding=1, bias=False)
        self.conv2 = nn.Conv2d(outside, outside, 3, padding=1)
        self.shortcut = nn.Conv2d(inside, outside, 1, bias=False)
        self.attention = Attention(outside) if attention else nn.Identity()

    def forward(self, x, condition):
        scale1, shift1, scale2, shift2 = self.modulation(condition)[..., None, None].split(self.widths, dim=1)
        h = self.conv1(torch.addcmul(shift1, x, scale1).relu_())
        h = self.conv2(torch.addcmul(shift2, h, scale2).relu_())
        return self.attention(h + F.interpolate(self.shortcut(x), scale_factor=2))


class Generator(nn.Module):
    """forward(z (B, >= z_width), feature (B, feature_width) of unit L2 norm) -> images (B, 3, R, R) in [-1, 1].

    z is cut into equal chunks: one for the first layer, one for each block; further dimensions are ignored, as
    in the official demo, which draws 128 where 119 are used. `config` is what `generator_config` returns.
    """

    def __init__(self, config):
        super().__init__()
        self.chunk, channels = config["chunk"], config["channels"]
        self.z_width = self.chunk * len(channels)
        self.feature_width = config["feature"]
        self.resolution = 4 * 2 ** (len(channels) - 1)
        condition = config["embedding"] + self.chunk
        self.embed = nn.Linear(config["feature"], config["embedding"])
        self.first = nn.Linear(self.chunk, 16 * channels[0])
        self.blocks = nn.ModuleList(
            Block(inside, outside, condition, attention=i in config["attention"])
            for i, (inside, outside) in enumerate(itertools.pairwise(channels))
        )
        self.norm_scale = nn.Parameter(torch.ones(channels[-1], 1, 1))
        self.norm_shift = nn.Parameter(torch.zeros(channels[-1], 1, 1))
        self.last = nn.Conv2d(channels[-1], 3, 3, padding=1)

    def forward(self, z, feature):
        if z.shape[1] < self.z_width or feature.shape[1] != self.feature_width:
            raise ValueError(
                f"z {tuple(z.shape)} and feature {tuple(feature.shape)}: this generator needs widths of at least "
                f"{self.z_width} and exactly {self.feature_width}"
            )
        first, *chunks = z[:, : self.z_width].split(self.chunk, dim=1)
        embedding = self.embed(feature)
        x = self.first(first).unflatten(1, (-1, 4, 4))
        for block, chunk in zip(self.blocks, chunks, strict=True):
            x = block(x, torch.cat([embedding, chunk], dim=1))
        x = torch.addcmul(self.norm_shift, x, self.norm_scale).relu_()
        return torch.tanh(self.last(x))


def generator_config(state, source="the checkpoint"):
    """Configuration of an official generator state dict, read off its shapes.

    -> {"channels": [of the 4x4 map, of each block's output], "attention": [block indices], "chunk": z's share of
    a layer, "embedding", "feature", "labels": shape of the class embedding, which is stored but unused}.
    """
    blocks = sum(re.fullmatch(r"blocks\.\d+\.0\.conv1\.weight", name) is not None for name in state)
    convolutions = [f"blocks.{i}.0.conv1.weight" for i in range(max(1, blocks))]
    needed = ["shared.weight", "shared_feat.weight", "linear.weight", "blocks.0.0.bn1.gain.weight", *convolutions]
    lacking = [name for name in needed if name not in state or state[name].ndim != (4 if "conv" in name else 2)]
    if lacking:
        fail(f"{source} is not an IC-GAN generator with a BigGAN backbone: it lacks {', '.join(lacking)}")
    embedding, feature = state["shared_feat.weight"].shape
    chunk = state["linear.weight"].shape[1]
    labels = tuple(state["shared.weight"].shape)
    if state["blocks.0.0.bn1.gain.weight"].shape[1] == embedding + chunk + labels[1]:
        fail(f"{source} is a class-conditional IC-GAN, which needs labels: use one without (icgan_*, not cc_icgan_*)")
    return {
        "channels": [state[convolutions[0]].shape[1], *(state[name].shape[0] for name in convolutions)],
        "attention": [i for i in range(blocks) if f"blocks.{i}.1.gamma" in state],
        "chunk": chunk,
        "embedding": embedding,
        "feature": feature,
        "labels": labels,
    }


def official_shapes(config):
    """{name: shape} of every parameter and buffer of the official generator; 198 names at 256 px.

    The buffers are those ending in u0, sv0 (spectral normalisation), stored_mean and stored_var.
    """
    shapes = {"shared.weight": config["labels"]}
    condition = config["embedding"] + config["chunk"]

    def normalised(name, *shape, bias=False):
        shapes[f"{name}.weight"] = shape
        if bias:
            shapes[f"{name}.bias"] = shape[:1]
        shapes[f"{name}.u0"], shapes[f"{name}.sv0"] = (1, shape[0]), (1,)

    def statistics(name, width):
        shapes[f"{name}.stored_mean"] = shapes[f"{name}.stored_var"] = (width,)

    channels = config["channels"]
    normalised("shared_feat", config["embedding"], config["feature"], bias=True)
    normalised("linear", 16 * channels[0], config["chunk"], bias=True)
    for i, (inside, outside) in enumerate(itertools.pairwise(channels)):
        normalised(f"blocks.{i}.0.conv1", outside, inside, 3, 3, bias=True)
        normalised(f"blocks.{i}.0.conv2", outside, outside, 3, 3, bias=True)
        normalised(f"blocks.{i}.0.conv_sc", outside, inside, 1, 1, bias=True)
        for name, width in ((f"blocks.{i}.0.bn1", inside), (f"blocks.{i}.0.bn2", outside)):
            statistics(name, width)
            normalised(f"{name}.gain", width, condition)
            normalised(f"{name}.bias", width, condition)
        if i in config["attention"]:
            shapes[f"blocks.{i}.1.gamma"] = ()
            for name, width in (("theta", outside // 8), ("phi", outside // 8), ("g", outside // 2)):
                normalised(f"blocks.{i}.1.{name}", width, outside, 1, 1)
            normalised(f"blocks.{i}.1.o", outside, outside // 2, 1, 1)
    shapes["output_layer.0.gain"] = shapes["output_layer.0.bias"] = channels[-1:]
    statistics("output_layer.0", channels[-1])
    normalised("output_layer.2", 3, channels[-1], 3, 3, bias=True)
    return shapes


def refuse_unless(expected, state, sentence):
    """End the run, listing the names, unless `state` has the names and shapes of `expected` (tensors or shapes)."""
    expected = {name: tuple(getattr(value, "shape", value)) for name, value in expected.items()}
    wrong = {
        "missing": [name for name in expected if name not in state],
        "unexpected": [name for name in state if name not in expected],
        "of another shape": [name for name in expected if name in state and state[name].shape != expected[name]],
    }
    if any(wrong.values()):
        fail(f"{sentence}: " + "; ".join(f"{what}: {', '.join(names)}" for what, names in wrong.items() if names))


def generator_from_state(state, source="the checkpoint"):
    """Generator from an official state dict (`G_ema_*.pth`). Strict: other names or shapes are refused, and listed."""
    config = generator_config(state, source)
    refuse_unless(official_shapes(config), state, f"{source} does not fit the IC-GAN generator of its own widths")
    state = {name: tensor.float() for name, tensor in state.items()}

    def weight(name):
        """Weight over its spectral norm: one power iteration from u0, which official evaluation repeats each time."""
        matrix = state[f"{name}.weight"].flatten(1)
        v = F.normalize(state[f"{name}.u0"] @ matrix, eps=1e-6)
        return state[f"{name}.weight"] / (v @ matrix.T).norm()

    def modulation(name, offset=0.0):
        """Rows for scale and shift of (x + offset - mean) / std * (1 + gain(c)) + bias(c), linear in c."""
        deviation = (state[f"{name}.stored_var"] + EPS).sqrt()
        scale = weight(f"{name}.gain") / deviation[:, None]
        mean = state[f"{name}.stored_mean"] - offset
        rows = torch.cat([scale, weight(f"{name}.bias") - mean[:, None] * scale])
        return rows, torch.cat([1 / deviation, -mean / deviation])

    folded = {}
    for ours, theirs in (("embed", "shared_feat"), ("first", "linear"), ("last", "output_layer.2")):
        folded[f"{ours}.weight"], folded[f"{ours}.bias"] = weight(theirs), state[f"{theirs}.bias"]
    for i in range(len(config["channels"]) - 1):
        ours, theirs = f"blocks.{i}", f"blocks.{i}.0"
        parts = modulation(f"{theirs}.bn1"), modulation(f"{theirs}.bn2", offset=state[f"{theirs}.conv1.bias"])
        folded[f"{ours}.modulation.weight"] = torch.cat([rows for rows, _ in parts])
        folded[f"{ours}.modulation.bias"] = torch.cat([constant for _, constant in parts])
        taps = F.pad(weight(f"{theirs}.conv1").flip(2, 3).transpose(0, 1), (1, 1, 1, 1))
        taps = taps[..., 1:, :] + taps[..., :-1, :]  # what nearest upsampling repeats, summed once
        folded[f"{ours}.conv1.weight"] = taps[..., 1:] + taps[..., :-1]
        folded[f"{ours}.conv2.weight"] = weight(f"{theirs}.conv2")
        folded[f"{ours}.conv2.bias"] = state[f"{theirs}.conv2.bias"] + state[f"{theirs}.conv_sc.bias"]
        folded[f"{ours}.shortcut.weight"] = weight(f"{theirs}.conv_sc")
        if i in config["attention"]:
            attention = [weight(f"blocks.{i}.1.{name}") for name in ("theta", "phi", "g")]
            folded[f"{ours}.attention.qkv.weight"] = torch.cat(attention)
            folded[f"{ours}.attention.out.weight"] = state[f"blocks.{i}.1.gamma"] * weight(f"blocks.{i}.1.o")
    scale = state["output_layer.0.gain"] / (state["output_layer.0.stored_var"] + EPS).sqrt()
    shift = state["output_layer.0.bias"] - state["output_layer.0.stored_mean"] * scale
    folded["norm_scale"], folded["norm_shift"] = scale[:, None, None], shift[:, None, None]

    with torch.device("meta"):
        generator = Generator(config)
    generator.load_state_dict(folded, strict=True, assign=True)
    return generator.eval().requires_grad_(False).to(memory_format=torch.channels_last)


# ------------------------------------------------------------------------------------------------ files


def load_state(path):
    """A flat dictionary of tensors; anything else is refused, and nothing in the file is executed."""
    state = load(path)
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        fail(f"{path} is not a flat dictionary of tensors: give the G_ema_*.pth of an IC-GAN release")
    return state


def choose(names, source):
    """The generator among a release's files: G_ema_best0.pth (the one published figures are of), else the first."""
    names = sorted(name for name in names if PurePosixPath(name).match("G_ema*.pth"))
    if not names:
        fail(f"{source} holds no G_ema_*.pth: give the IC-GAN release's tarball, its folder, or that file")
    folders = sorted({str(PurePosixPath(name).parent) for name in names})
    if len(folders) > 1:
        fail(f"{source} holds several releases ({', '.join(folders)}): give the folder of one")
    best = min(names, key=lambda name: not name.endswith("_best0.pth"))
    if len(names) > 1 and rank() == 0:
        print(f"{source}: {PurePosixPath(best).name} of {len(names)} generators is used", file=sys.stderr)
    return best


def read_tarball(path):
    """(name, state dict) of the generator in an official tarball; only that one file is extracted, and removed."""
    try:
        with tarfile.open(path) as tar, tempfile.TemporaryDirectory(prefix=f"{path.name}.") as folder:
            members = {member.name: member for member in tar.getmembers()}
            for name, member in members.items():
                if not (member.isfile() or member.isdir()) or name.startswith("/") or ".." in name.split("/"):
                    fail(f"{path} was refused: {name!r} leaves its folder or is a link or a device")
            name = choose([name for name, member in members.items() if member.isfile()], path)
            tar.extract(members[name], folder, filter="data")
            return name, load_state(Path(folder) / name)
    except (tarfile.TarError, EOFError, OSError) as error:
        fail(f"{path} cannot be read as a tarball ({error}): download it again")


def load_encoder(path):
    """IC-GAN's encoder from SwAV's checkpoint: images of `encoder_input` -> (B, 2048), not yet normalised.

    Torchvision's ResNet keys after `module.`; the projection head and the prototypes are dropped, nothing else may
    be left over or missing. The number of blocks is read off the names (50 layers in the official one).
    """
    state = {name.removeprefix("module."): tensor for name, tensor in load_state(path).items()}
    state = {name: value for name, value in state.items() if not name.startswith(("projection_head.", "prototypes"))}
    depths = [sum(re.fullmatch(rf"layer{i}\.\d+\.conv3\.weight", name) is not None for name in state) for i in range(1, 5)]
    with torch.device("meta"):
        encoder = ResNet(Bottleneck, [max(1, depth) for depth in depths])
        encoder.fc = nn.Identity()
    refuse_unless(encoder.state_dict(), state, f"{path} is not the SwAV ResNet-50 that IC-GAN encodes with")
    encoder.load_state_dict(state, strict=True, assign=True)
    return encoder.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def load_icgan(path=None):
    """(generator, encoder, meta) of an IC-GAN release: its tarball, its folder, or a `G_ema_*.pth`; None: the cache.

    The encoder's `swav_800ep_pretrain.pth.tar` is looked for in and beside what is given, then in the cache.
    `meta` names both files. Both networks are frozen, in evaluation mode, float32, channels_last, on the CPU.
    """
    path = Path(path or find("icgan"))
    if path.is_dir():
        file = path / choose([p.relative_to(path).as_posix() for p in path.rglob("G_ema*.pth")], path)
        state = load_state(file)
    elif path.is_file() and tarfile.is_tarfile(path):
        file, state = read_tarball(path)
    else:
        file, state = path, load_state(path)
    generator = generator_from_state(state, file)
    beside = [folder / SWAV for folder in (path, path.parent) if (folder / SWAV).is_file()]
    swav = beside[0] if beside else Path(find("swav"))
    return generator, load_encoder(swav), {"generator": str(file), "encoder": str(swav)}


# ------------------------------------------------------------------------------------------------ inputs


def centre_square(image, size=256):
    """As the official demo: centre crop, then Pillow's bilinear resize; uint8 (H, W, 3) -> (size, size, 3)."""
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = round((height - side) / 2), round((width - side) / 2)
    cropped = Image.fromarray(image[top : top + side, left : left + side])
    return np.asarray(cropped.resize((size, size), Image.Resampling.BILINEAR))


def encoder_input(squares, align_corners=True):
    """uint8 (B, 3, 256, 256), of `centre_square` -> float32 (B, 3, 224, 224), normalised for the encoder.

    align_corners=True is how the official demo resizes, False how the features the generator was trained on were
    made. Bicubic without antialiasing and after the normalisation, as in both.
    """
    mean = torch.tensor([0.485, 0.456, 0.406], device=squares.device)[:, None, None]
    deviation = torch.tensor([0.229, 0.224, 0.225], device=squares.device)[:, None, None]
    return F.interpolate((squares / 255 - mean) / deviation, 224, mode="bicubic", align_corners=align_corners)


def encode(encoder, images):
    """Feature maps (B, D) of unit L2 norm of images as `encoder_input` returns them."""
    return F.normalize(encoder(images), dim=1)


def normal(rngs, width, cut=math.inf):
    """float32 (len(rngs), width) from N(0, 1) cut to [-cut, cut], not rescaled; row i from rngs[i] alone."""
    low = ndtr(-cut)
    draws = [ndtri(low + (1 - 2 * low) * rng.random(width)) if cut < math.inf else rng.standard_normal(width) for rng in rngs]
    return torch.from_numpy(np.stack(draws).astype(np.float32))


def draw_z(rngs, width, truncation=None):
    """Noise vectors (len(rngs), width), one numpy generator each: N(0, 1), or cut to +-2 `truncation`.

    The official demo cuts and does not rescale; its default truncation of 0.7 gives a standard deviation of 0.707.
    """
    return normal(rngs, width, math.inf if truncation is None else 2 * truncation)


# ------------------------------------------------------------------------------------------------ feature-map augmenters
# All act on the encoder's feature map Z (B, D) of unit norm, the generator's condition; the result has unit norm
# again, as the generator has seen no other. The noise vector z is its second input; only inversion changes that.


def feature_noise(feature, std, truncation, rngs):
    """Formula 5 (section 2.3.1): Z + W, W ~ N(0, std) cut at +-`truncation` standard deviations; std 0 changes nothing."""
    noise = std * normal(rngs, feature.shape[1], truncation)
    return F.normalize(feature + noise.to(feature), dim=1)


def noise_norm(std, truncation, width):
    """Root mean square L2 norm of Formula 5's W in `width` dimensions."""
    density = math.exp(-(truncation**2) / 2) / math.sqrt(2 * math.pi)
    return std * math.sqrt(width * (1 - 2 * truncation * density / (1 - 2 * ndtr(-truncation))))


def interpolate(feature, other, weight):
    """Towards another image's feature map: `weight` 0 is the image itself, 1 the other."""
    return F.normalize(torch.lerp(feature, other, weight), dim=1)


def steer(feature, direction, strength):
    """Formula 6 (section 2.3.1): Z + strength * W_steer; `direction` (D,) is learned for one hand-crafted edit."""
    return F.normalize(feature + strength * direction, dim=1)


class Navigator(nn.Module):
    """Formula 7 (section 2.3.2): Z + Navigator(Z), one linear layer, its step shortened to an L2 norm of `bound`."""

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
    state = load_state(path)
    refuse_unless({"direction": (width,)}, state, f"{path} is not a steering direction of this generator's feature maps")
    return state["direction"]


def load_navigator(path, width):
    """Navigator as `00_train_augmenter.py navigator` wrote it, frozen."""
    state, navigator = load_state(path), Navigator(width)
    refuse_unless(navigator.state_dict(), state, f"{path} is not a navigator of this generator's feature maps")
    navigator.load_state_dict(state, strict=True)
    return navigator.eval().requires_grad_(False)


def invert(generator, feature, target, z0, steps, lr=0.05):
    """GAN inversion (section 4.2): z after `steps` Adam steps from z0 on the L2 distance of G(z, feature) to `target`.

    target (B, 3, R, R) in [-1, 1]. The step size is our choice; each image's z depends on that image only.
    """
    with torch.inference_mode(False), torch.enable_grad():
        feature, target, z = feature.clone(), target.clone(), z0.clone().requires_grad_()
        optimizer = torch.optim.Adam([z], lr=lr)
        for _ in range(steps):
            distance = (generator(z, feature) - target).square().mean((1, 2, 3))
            (z.grad,) = torch.autograd.grad(distance.sum(), z)  # a sum: no image weighs on another's gradient
            optimizer.step()
    return z.detach()
