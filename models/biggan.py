"""IC-GAN's generator: BigGAN conditioned on a noise vector and on the feature map of an image.

Brock et al. 2019 (arXiv 1809.11096), Casanova et al. 2021 (2109.05070). For inference, and gradients with
respect to the inputs: what is constant in evaluation is folded into the weights at load.
"""

import itertools
import math
import re

import torch
import torch.nn.functional as F
from torch import nn

from models.old_run import fail

EPS = 1e-5  # of every batch normalisation
BUFFERS = (
    "u0",
    "sv0",
    "stored_mean",
    "stored_var",
)  # of spectral normalisation and of batch normalisation


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

    `modulation` gives scale and shift of both normalisations, running statistics included. `conv1` is
    nearest upsampling followed by a 3x3 convolution, as one transposed 4x4 convolution of stride 2 (taps
    summed): 4 instead of 9 multiplications an output. The 1x1 shortcut commutes with the upsampling.
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
        scale1, shift1, scale2, shift2 = self.modulation(condition)[..., None, None].split(
            self.widths, dim=1
        )
        h = self.conv1(torch.addcmul(shift1, x, scale1).relu_())
        h = self.conv2(torch.addcmul(shift2, h, scale2).relu_())
        return self.attention(h + F.interpolate(self.shortcut(x), scale_factor=2))


class Generator(nn.Module):
    """forward(z (B, >= z_width), feature (B, feature_width) of unit norm): images (B, 3, R, R) in [-1, 1].

    z is cut into equal chunks, one for the first layer and one for each block; further columns are ignored:
    the official demo draws 128 where 119 are used. `config` is what `generator_config` returns;
    `parameters_published` counts those of the official checkpoint, before folding.
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
        self.parameters_published = sum(
            math.prod(shape)
            for name, shape in official_shapes(config).items()
            if not name.endswith(BUFFERS)
        )

    def forward(self, z, feature):
        if z.shape[1] < self.z_width or feature.shape[1] != self.feature_width:
            raise ValueError(
                f"z {tuple(z.shape)}, feature {tuple(feature.shape)}: "
                f"at least {self.z_width} and exactly {self.feature_width} columns are needed"
            )
        first, *chunks = z[:, : self.z_width].split(self.chunk, dim=1)
        embedding = self.embed(feature)
        x = self.first(first).unflatten(1, (-1, 4, 4))
        for block, chunk in zip(self.blocks, chunks, strict=True):
            x = block(x, torch.cat([embedding, chunk], dim=1))
        x = torch.addcmul(self.norm_shift, x, self.norm_scale).relu_()
        return torch.tanh(self.last(x))


def generator_config(state, source="the checkpoint"):
    """Configuration of an official generator's state dict, read off its shapes; any resolution, any capacity.

    "channels": of the 4x4 map and of each block's output; "attention": the blocks that end in it; "chunk": a
    layer's share of z; "embedding", "feature": widths; "labels": shape of the unused class embedding.
    """
    blocks = sum(re.fullmatch(r"blocks\.\d+\.0\.conv1\.weight", name) is not None for name in state)
    needed = [f"blocks.{i}.0.conv1.weight" for i in range(max(1, blocks))]
    dimensions = dict.fromkeys(needed, 4) | dict.fromkeys(
        ("shared.weight", "shared_feat.weight", "linear.weight", "blocks.0.0.bn1.gain.weight"), 2
    )
    lacking = [name for name, n in dimensions.items() if name not in state or state[name].ndim != n]
    if lacking:
        fail(
            f"{source} is not an IC-GAN generator with a BigGAN backbone: it lacks {', '.join(lacking)}."
        )
    embedding, feature = state["shared_feat.weight"].shape
    labels, chunk = state["shared.weight"].shape, state["linear.weight"].shape[1]
    if state["blocks.0.0.bn1.gain.weight"].shape[1] == embedding + chunk + labels[1]:
        fail(
            f"{source} is a class-conditional IC-GAN: it needs labels, which is not supported; use icgan_*."
        )
    return dict(
        channels=[state[needed[0]].shape[1], *(state[name].shape[0] for name in needed)],
        attention=[i for i in range(blocks) if f"blocks.{i}.1.gamma" in state],
        chunk=chunk,
        embedding=embedding,
        feature=feature,
        labels=tuple(labels),
    )


def official_shapes(config):
    """{name: shape} of every parameter and buffer of the official generator; 198 names at 256 px.

    BUFFERS are how the names of the buffers end.
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
            for name, width in (
                ("theta", outside // 8),
                ("phi", outside // 8),
                ("g", outside // 2),
            ):
                normalised(f"blocks.{i}.1.{name}", width, outside, 1, 1)
            normalised(f"blocks.{i}.1.o", outside, outside // 2, 1, 1)
    shapes["output_layer.0.gain"] = shapes["output_layer.0.bias"] = (channels[-1],)
    statistics("output_layer.0", channels[-1])
    normalised("output_layer.2", 3, channels[-1], 3, 3, bias=True)
    return shapes


def generator_from_state(state, source="the checkpoint"):
    """The frozen Generator of an official state dict. Other names or shapes are refused and listed."""
    config = generator_config(state, source)
    expected = official_shapes(config)
    wrong = {
        "missing": expected.keys() - state.keys(),
        "unexpected": state.keys() - expected.keys(),
        "of another shape": {k for k in expected if k in state and state[k].shape != expected[k]},
    }
    if any(wrong.values()):
        listed = "; ".join(
            f"{what}: {', '.join(sorted(names))}" for what, names in wrong.items() if names
        )
        fail(f"{source} does not fit the IC-GAN generator that its widths describe. {listed}.")
    state = {name: tensor.float() for name, tensor in state.items()}

    def weight(name):
        """Over its spectral norm after one power iteration from u0, as officially in evaluation."""
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
        parts = (
            modulation(f"{theirs}.bn1"),
            modulation(f"{theirs}.bn2", offset=state[f"{theirs}.conv1.bias"]),
        )
        folded[f"{ours}.modulation.weight"] = torch.cat([rows for rows, _ in parts])
        folded[f"{ours}.modulation.bias"] = torch.cat([constant for _, constant in parts])
        taps = F.pad(weight(f"{theirs}.conv1").flip(2, 3).transpose(0, 1), (1, 1, 1, 1))
        taps = taps[..., 1:, :] + taps[..., :-1, :]  # what nearest upsampling repeats, summed once
        folded[f"{ours}.conv1.weight"] = taps[..., 1:] + taps[..., :-1]
        folded[f"{ours}.conv2.weight"] = weight(f"{theirs}.conv2")
        folded[f"{ours}.conv2.bias"] = (
            state[f"{theirs}.conv2.bias"] + state[f"{theirs}.conv_sc.bias"]
        )
        folded[f"{ours}.shortcut.weight"] = weight(f"{theirs}.conv_sc")
        if i in config["attention"]:
            attention = [weight(f"blocks.{i}.1.{name}") for name in ("theta", "phi", "g")]
            folded[f"{ours}.attention.qkv.weight"] = torch.cat(attention)
            folded[f"{ours}.attention.out.weight"] = state[f"blocks.{i}.1.gamma"] * weight(
                f"blocks.{i}.1.o"
            )
    scale = state["output_layer.0.gain"] / (state["output_layer.0.stored_var"] + EPS).sqrt()
    shift = state["output_layer.0.bias"] - state["output_layer.0.stored_mean"] * scale
    folded["norm_scale"], folded["norm_shift"] = scale[:, None, None], shift[:, None, None]

    with torch.device("meta"):
        generator = Generator(config)
    generator.load_state_dict(folded, strict=True, assign=True)
    return generator.eval().requires_grad_(False).to(memory_format=torch.channels_last)
