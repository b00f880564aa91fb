"""IC-GAN's generator: BigGAN, conditioned on a noise vector and on the feature map of an image.

Brock et al. 2019 (arXiv 1809.11096), Casanova et al. 2021 (arXiv 2109.05070). The network is made
for generation, and for gradients with respect to its inputs. Everything that is constant in
evaluation mode (spectral norms, running statistics, the attention's gain) is multiplied into the
weights when a checkpoint is read.
"""

import itertools
import math
import re

import torch
import torch.nn.functional as F
from torch import nn

from base import run

EPS = 1e-5  # added to the variance in every batch normalisation

# How the names of the official buffers end. The first two belong to spectral normalisation, the
# other two to batch normalisation.
BUFFERS = ("u0", "sv0", "stored_mean", "stored_var")


# ---------------------------------------------------------------- the network
class Attention(nn.Module):
    """Self-attention over the positions of a feature map (B, C, H, W).

    Keys and values are pooled 2x2 and the logits are not scaled, as in BigGAN. The official layer's
    gain `gamma` is part of `out`.
    """

    def __init__(self, channels):
        super().__init__()
        self.key_width = channels // 8
        self.value_width = channels // 2
        self.qkv = nn.Conv2d(channels, 2 * self.key_width + self.value_width, 1, bias=False)
        self.out = nn.Conv2d(self.value_width, channels, 1, bias=False)

    def forward(self, x):
        widths = [self.key_width, self.key_width + self.value_width]
        query, key_value = self.qkv(x).split(widths, dim=1)
        query = query.flatten(2).transpose(1, 2).unsqueeze(1)
        key_value = F.max_pool2d(key_value, 2).flatten(2).transpose(1, 2).unsqueeze(1)
        key, value = key_value.split([self.key_width, self.value_width], dim=-1)
        mixed = F.scaled_dot_product_attention(query, key, value, scale=1.0)
        mixed = mixed.squeeze(1).transpose(1, 2).unflatten(2, x.shape[2:])
        return x + self.out(mixed)


class Block(nn.Module):
    """A residual block that doubles the resolution.

    Its two normalisations are modulated by the condition (B, embedding + chunk): the embedded
    feature map and this block's chunk of the noise vector. `modulation` returns a scale and a shift
    for each, in which the running statistics are contained.

    `conv1` does nearest upsampling and a 3x3 convolution at once, as one transposed 4x4 convolution
    of stride 2. That needs 4 instead of 9 multiplications for each output. The 1x1 shortcut gives
    the same before and after the upsampling, so it runs before.
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
        modulation = self.modulation(condition)[..., None, None]
        scale1, shift1, scale2, shift2 = modulation.split(self.widths, dim=1)
        h = torch.addcmul(shift1, x, scale1).relu_()
        h = self.conv1(h)
        h = torch.addcmul(shift2, h, scale2).relu_()
        h = self.conv2(h)
        shortcut = F.interpolate(self.shortcut(x), scale_factor=2)
        return self.attention(h + shortcut)


class Generator(nn.Module):
    """The generator. `config` is what `generator_config` returns.

    z_width, feature_width: widths of the two inputs. resolution: side of the images in pixels.
    parameters_published: number of parameters of the official checkpoint, before the folding.
    """

    def __init__(self, config):
        super().__init__()
        channels = config["channels"]
        self.chunk = config["chunk"]
        self.z_width = self.chunk * len(channels)
        self.feature_width = config["feature"]
        self.resolution = 4 * 2 ** (len(channels) - 1)
        self.parameters_published = published_parameters(config)
        condition = config["embedding"] + self.chunk
        self.embed = nn.Linear(config["feature"], config["embedding"])
        self.first = nn.Linear(self.chunk, 16 * channels[0])
        self.blocks = nn.ModuleList()
        for i, (inside, outside) in enumerate(itertools.pairwise(channels)):
            self.blocks.append(Block(inside, outside, condition, i in config["attention"]))
        self.norm_scale = nn.Parameter(torch.ones(channels[-1], 1, 1))
        self.norm_shift = nn.Parameter(torch.zeros(channels[-1], 1, 1))
        self.last = nn.Conv2d(channels[-1], 3, 3, padding=1)

    def forward(self, z, feature):
        """Images (B, 3, R, R) in [-1, 1], from z (B, >= z_width) and feature (B, feature_width).

        feature has unit norm. z is cut into equal chunks, one for the first layer and one for each
        block. Further columns are ignored: the official demo draws 128, and 119 are used.
        Raises ValueError where the widths do not fit.
        """
        if z.shape[1] < self.z_width or feature.shape[1] != self.feature_width:
            raise ValueError(
                f"z {tuple(z.shape)}, feature {tuple(feature.shape)}: "
                f"at least {self.z_width} and exactly {self.feature_width} columns are needed"
            )
        first, *chunks = z[:, : self.z_width].split(self.chunk, dim=1)
        embedding = self.embed(feature)
        x = self.first(first).unflatten(1, (-1, 4, 4))
        for block, chunk in zip(self.blocks, chunks, strict=True):
            condition = torch.cat([embedding, chunk], dim=1)
            x = block(x, condition)
        x = torch.addcmul(self.norm_shift, x, self.norm_scale).relu_()
        return torch.tanh(self.last(x))


# ---------------------------------------------------------------- official checkpoints
def generator_config(state, source="the checkpoint"):
    """The configuration of an official generator, read off the shapes in its state dict.

    Any resolution and any capacity will do. Returns a dict:
    channels: of the 4x4 map and of each block's output; attention: numbers of the blocks that end
    in it; chunk: columns of z that a layer takes; embedding, feature: widths; labels: shape of the
    class embedding, which is not used. Ends the run where this is not such a generator.
    """
    first_convolution = re.compile(r"blocks\.\d+\.0\.conv1\.weight")
    blocks = sum(first_convolution.fullmatch(name) is not None for name in state)
    convolutions = [f"blocks.{i}.0.conv1.weight" for i in range(max(1, blocks))]
    gain = "blocks.0.0.bn1.gain.weight"
    dimensions = dict.fromkeys(convolutions, 4)
    dimensions |= dict.fromkeys(("shared.weight", "shared_feat.weight", "linear.weight", gain), 2)
    lacking = []
    for name, n in dimensions.items():
        if name not in state or state[name].ndim != n:
            lacking.append(name)
    if lacking:
        run.fail(
            f"{source} is not an IC-GAN generator with a BigGAN backbone: it lacks "
            f"{', '.join(lacking)}."
        )
    embedding, feature = state["shared_feat.weight"].shape
    labels = state["shared.weight"].shape
    chunk = state["linear.weight"].shape[1]
    if state[gain].shape[1] == embedding + chunk + labels[1]:
        run.fail(
            f"{source} is a class-conditional IC-GAN: it needs labels, which is not supported; use "
            "icgan_*."
        )
    outputs = [state[name].shape[0] for name in convolutions]
    return {
        "channels": [state[convolutions[0]].shape[1], *outputs],
        "attention": [i for i in range(blocks) if f"blocks.{i}.1.gamma" in state],
        "chunk": chunk,
        "embedding": embedding,
        "feature": feature,
        "labels": tuple(labels),
    }


def official_shapes(config):
    """{name: shape} of the official generator's parameters and buffers: 198 names at 256 px."""
    shapes = {"shared.weight": config["labels"]}
    channels = config["channels"]
    condition = config["embedding"] + config["chunk"]

    def weight(name, *shape):
        shapes[f"{name}.weight"] = shape
        shapes[f"{name}.u0"] = (1, shape[0])
        shapes[f"{name}.sv0"] = (1,)

    def weight_and_bias(name, *shape):
        weight(name, *shape)
        shapes[f"{name}.bias"] = shape[:1]

    def statistics(name, width):
        shapes[f"{name}.stored_mean"] = (width,)
        shapes[f"{name}.stored_var"] = (width,)

    def modulation(name, width):
        statistics(name, width)
        weight(f"{name}.gain", width, condition)
        weight(f"{name}.bias", width, condition)

    weight_and_bias("shared_feat", config["embedding"], config["feature"])
    weight_and_bias("linear", 16 * channels[0], config["chunk"])
    for i, (inside, outside) in enumerate(itertools.pairwise(channels)):
        weight_and_bias(f"blocks.{i}.0.conv1", outside, inside, 3, 3)
        weight_and_bias(f"blocks.{i}.0.conv2", outside, outside, 3, 3)
        weight_and_bias(f"blocks.{i}.0.conv_sc", outside, inside, 1, 1)
        modulation(f"blocks.{i}.0.bn1", inside)
        modulation(f"blocks.{i}.0.bn2", outside)
        if i in config["attention"]:
            shapes[f"blocks.{i}.1.gamma"] = ()
            weight(f"blocks.{i}.1.theta", outside // 8, outside, 1, 1)
            weight(f"blocks.{i}.1.phi", outside // 8, outside, 1, 1)
            weight(f"blocks.{i}.1.g", outside // 2, outside, 1, 1)
            weight(f"blocks.{i}.1.o", outside, outside // 2, 1, 1)
    shapes["output_layer.0.gain"] = (channels[-1],)
    shapes["output_layer.0.bias"] = (channels[-1],)
    statistics("output_layer.0", channels[-1])
    weight_and_bias("output_layer.2", 3, channels[-1], 3, 3)
    return shapes


def published_parameters(config):
    """Number of parameters of the official generator; its buffers do not count."""
    total = 0
    for name, shape in official_shapes(config).items():
        if not name.endswith(BUFFERS):
            total += math.prod(shape)
    return total


def check_shapes(state, expected, source):
    """End the run unless the state dict has the expected names and shapes; list what differs."""
    other_shape = []
    for name in expected.keys() & state.keys():
        if state[name].shape != expected[name]:
            other_shape.append(name)
    wrong = {
        "missing": expected.keys() - state.keys(),
        "unexpected": state.keys() - expected.keys(),
        "of another shape": other_shape,
    }
    listed = [f"{what}: {', '.join(sorted(names))}" for what, names in wrong.items() if names]
    if listed:
        run.fail(
            f"{source} does not fit the IC-GAN generator that its widths describe. "
            f"{'; '.join(listed)}."
        )


# ---------------------------------------------------------------- folding
def spectral(state, name):
    """A weight over its spectral norm, as the official code computes it in evaluation mode.

    That is one power iteration from the stored vector u0.
    """
    matrix = state[f"{name}.weight"].flatten(1)
    v = F.normalize(state[f"{name}.u0"] @ matrix, eps=1e-6)
    return state[f"{name}.weight"] / (v @ matrix.T).norm()


def folded_modulation(state, name, offset=0.0):
    """(weight, bias) of the linear layer from a condition to scale and shift of one normalisation.

    The official layer computes (x - mean) / std * (1 + gain(c)) + bias(c), where gain and bias are
    linear in the condition c. `offset` (width,) is added to x before: the bias of the convolution
    in front of it.
    """
    deviation = (state[f"{name}.stored_var"] + EPS).sqrt()
    mean = state[f"{name}.stored_mean"] - offset
    scale = spectral(state, f"{name}.gain") / deviation[:, None]
    shift = spectral(state, f"{name}.bias") - mean[:, None] * scale
    return torch.cat([scale, shift]), torch.cat([1 / deviation, -mean / deviation])


def folded_upsampling(weight):
    """Weights (in, out, 4, 4) of `Block.conv1`, from those of the 3x3 convolution (out, in, 3, 3).

    Nearest upsampling repeats each pixel, so that neighbouring taps meet the same value: they are
    added once here.
    """
    taps = F.pad(weight.flip(2, 3).transpose(0, 1), (1, 1, 1, 1))
    taps = taps[..., 1:, :] + taps[..., :-1, :]
    return taps[..., 1:] + taps[..., :-1]


def folded_block(state, number, attention):
    """{name: tensor} of one `Block`."""
    name = f"blocks.{number}.0"
    weight1, bias1 = folded_modulation(state, f"{name}.bn1")
    weight2, bias2 = folded_modulation(state, f"{name}.bn2", state[f"{name}.conv1.bias"])
    folded = {
        "modulation.weight": torch.cat([weight1, weight2]),
        "modulation.bias": torch.cat([bias1, bias2]),
        "conv1.weight": folded_upsampling(spectral(state, f"{name}.conv1")),
        "conv2.weight": spectral(state, f"{name}.conv2"),
        "conv2.bias": state[f"{name}.conv2.bias"] + state[f"{name}.conv_sc.bias"],
        "shortcut.weight": spectral(state, f"{name}.conv_sc"),
    }
    if attention:
        name = f"blocks.{number}.1"
        projections = [spectral(state, f"{name}.{part}") for part in ("theta", "phi", "g")]
        folded["attention.qkv.weight"] = torch.cat(projections)
        folded["attention.out.weight"] = state[f"{name}.gamma"] * spectral(state, f"{name}.o")
    return folded


def generator_from_state(state, source="the checkpoint"):
    """The frozen Generator of an official state dict, in evaluation mode and channels_last.

    Ends the run where names or shapes are not those of the official generator, and lists them.
    """
    config = generator_config(state, source)
    check_shapes(state, official_shapes(config), source)
    state = {name: tensor.float() for name, tensor in state.items()}

    folded = {}
    for ours, theirs in (("embed", "shared_feat"), ("first", "linear"), ("last", "output_layer.2")):
        folded[f"{ours}.weight"] = spectral(state, theirs)
        folded[f"{ours}.bias"] = state[f"{theirs}.bias"]
    for i in range(len(config["channels"]) - 1):
        for name, tensor in folded_block(state, i, i in config["attention"]).items():
            folded[f"blocks.{i}.{name}"] = tensor
    scale = state["output_layer.0.gain"] / (state["output_layer.0.stored_var"] + EPS).sqrt()
    shift = state["output_layer.0.bias"] - state["output_layer.0.stored_mean"] * scale
    folded["norm_scale"] = scale[:, None, None]
    folded["norm_shift"] = shift[:, None, None]

    with torch.device("meta"):
        generator = Generator(config)
    generator.load_state_dict(folded, strict=True, assign=True)
    generator.eval().requires_grad_(False)
    return generator.to(memory_format=torch.channels_last)
