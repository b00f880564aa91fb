"""IC-GAN's generator: BigGAN, conditioned on a noise vector and on the feature map of an image.

Brock et al. 2019 (arXiv 1809.11096), Casanova et al. 2021 (arXiv 2109.05070). The network is made
for generation, and for gradients with respect to its inputs. Everything that is constant in
evaluation mode (spectral norms, running statistics, the attention's gain) is multiplied into the
weights when a checkpoint is read. Used by augment/noise.py alone.
"""

import itertools

import torch
import torch.nn.functional as F
from torch import nn

from base import run, weights

EPS = 1e-5  # added to the variance in every batch normalisation

# How the names of the official buffers end: those of spectral and of batch normalisation.
BUFFERS = ("u0", "sv0", "stored_mean", "stored_var")
ANOTHER = (
    "it is no IC-GAN generator with a BigGAN backbone (icgan_biggan_*; the class-conditional "
    "cc_icgan_* need labels and are not read)"
)


# ---------------------------------------------------------------- the network
class Attention(nn.Module):
    """Self-attention over the positions of a feature map (B, C, H, W).

    Keys and values are pooled 2x2 and the logits are not scaled, as in BigGAN. The official layer's
    gain `gamma` is part of `out`.
    """

    def __init__(self, channels):
        super().__init__()
        self.widths = [channels // 8, channels // 8, channels // 2]
        self.qkv = nn.Conv2d(channels, sum(self.widths), 1, bias=False)
        self.out = nn.Conv2d(channels // 2, channels, 1, bias=False)

    def forward(self, x):
        query, key, value = self.qkv(x).split(self.widths, dim=1)
        planes = (query, F.max_pool2d(key, 2), F.max_pool2d(value, 2))
        rows = [plane.flatten(2).mT.unsqueeze(1) for plane in planes]
        mixed = F.scaled_dot_product_attention(*rows, scale=1.0)
        mixed = mixed.squeeze(1).mT.unflatten(2, x.shape[2:])
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
    """The generator, for images (3, `resolution`, `resolution`).

    channels: of the 4x4 map and of each block's output. attention: the numbers of the blocks that
    end in it. chunk: columns of the noise vector that a layer takes, together `z_width`. embedding,
    feature: width of the embedded feature map and of the feature map, `feature_width`.
    """

    def __init__(self, channels, attention, chunk, embedding, feature):
        super().__init__()
        self.chunk = chunk
        self.z_width = chunk * len(channels)
        self.feature_width = feature
        self.resolution = 4 * 2 ** (len(channels) - 1)
        self.embed = nn.Linear(feature, embedding)
        self.first = nn.Linear(chunk, 16 * channels[0])
        self.blocks = nn.ModuleList()
        for i, (inside, outside) in enumerate(itertools.pairwise(channels)):
            self.blocks.append(Block(inside, outside, embedding + chunk, i in attention))
        self.norm_scale = nn.Parameter(torch.ones(channels[-1], 1, 1))
        self.norm_shift = nn.Parameter(torch.zeros(channels[-1], 1, 1))
        self.last = nn.Conv2d(channels[-1], 3, 3, padding=1)

    def forward(self, z, feature):
        """Images (B, 3, R, R) in [-1, 1], from z (B, >= z_width) and feature (B, feature_width).

        feature has unit norm. z is cut into equal chunks, one for the first layer and one for each
        block. Further columns are ignored: the official demo draws 128, and 119 are used.
        """
        first, *chunks = z[:, : self.z_width].split(self.chunk, dim=1)
        embedding = self.embed(feature)
        x = self.first(first).unflatten(1, (-1, 4, 4))
        for block, chunk in zip(self.blocks, chunks, strict=True):
            condition = torch.cat([embedding, chunk], dim=1)
            x = block(x, condition)
        x = torch.addcmul(self.norm_shift, x, self.norm_scale).relu_()
        return torch.tanh(self.last(x))


# ---------------------------------------------------------------- official checkpoints
# These functions take the tensors out of an official state dict, so that what is left is unknown.
# A tensor that is missing raises KeyError.


def take(state, name, *shape):
    """The tensor of that name. Raises ValueError where it has another shape."""
    tensor = state.pop(name)
    if tensor.shape != shape:
        raise ValueError(f"{name} has the shape {tuple(tensor.shape)}")
    return tensor


def spectral(state, name):
    """A weight over its spectral norm, as the official code computes it in evaluation mode.

    That is one power iteration from the stored vector u0.
    """
    weight = state.pop(f"{name}.weight")
    matrix = weight.flatten(1)
    v = F.normalize(take(state, f"{name}.u0", 1, len(matrix)) @ matrix, eps=1e-6)
    take(state, f"{name}.sv0", 1)
    return weight / (v @ matrix.T).norm()


def layer(state, name):
    """(weight, bias) of a linear layer or a convolution."""
    weight = spectral(state, name)
    return weight, take(state, f"{name}.bias", len(weight))


def statistics(state, name, width):
    """(mean, standard deviation) of a batch normalisation."""
    mean = take(state, f"{name}.stored_mean", width)
    return mean, (take(state, f"{name}.stored_var", width) + EPS).sqrt()


def folded_modulation(state, name, offset=0.0):
    """(weight, bias) of the linear layer from a condition to scale and shift of one normalisation.

    The official layer computes (x - mean) / std * (1 + gain(c)) + bias(c), where gain and bias are
    linear in the condition c. `offset` (width,) is added to x before: the bias of the convolution
    in front of it.
    """
    gain = spectral(state, f"{name}.gain")
    mean, deviation = statistics(state, name, len(gain))
    mean = mean - offset
    scale = gain / deviation[:, None]
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


def folded_block(state, name):
    """{name: tensor} of one `Block`."""
    conv1, bias1 = layer(state, f"{name}.0.conv1")
    conv2, bias2 = layer(state, f"{name}.0.conv2")
    shortcut, shortcut_bias = layer(state, f"{name}.0.conv_sc")
    weight1, shift1 = folded_modulation(state, f"{name}.0.bn1")
    weight2, shift2 = folded_modulation(state, f"{name}.0.bn2", bias1)
    folded = {
        "modulation.weight": torch.cat([weight1, weight2]),
        "modulation.bias": torch.cat([shift1, shift2]),
        "conv1.weight": folded_upsampling(conv1),
        "conv2.weight": conv2,
        "conv2.bias": bias2 + shortcut_bias,
        "shortcut.weight": shortcut,
    }
    if f"{name}.1.gamma" in state:
        projections = [spectral(state, f"{name}.1.{part}") for part in ("theta", "phi", "g")]
        folded["attention.qkv.weight"] = torch.cat(projections)
        gamma = take(state, f"{name}.1.gamma")
        folded["attention.out.weight"] = gamma * spectral(state, f"{name}.1.o")
    return folded


def folded_generator(state):
    """The Generator. Any resolution and any capacity will do: they are read off the shapes."""
    folded = {}
    for ours, theirs in (("embed", "shared_feat"), ("first", "linear"), ("last", "output_layer.2")):
        folded[f"{ours}.weight"], folded[f"{ours}.bias"] = layer(state, theirs)
    channels = [len(folded["first.bias"]) // 16]
    attention = []
    numbers = {name.split(".")[1] for name in state if name.startswith("blocks.")}
    for number in range(len(numbers)):
        block = folded_block(state, f"blocks.{number}")
        folded |= {f"blocks.{number}.{name}": tensor for name, tensor in block.items()}
        channels.append(len(block["conv2.bias"]))
        if "attention.out.weight" in block:
            attention.append(number)
    mean, deviation = statistics(state, "output_layer.0", channels[-1])
    scale = take(state, "output_layer.0.gain", channels[-1]) / deviation
    shift = take(state, "output_layer.0.bias", channels[-1]) - mean * scale
    folded["norm_scale"] = scale[:, None, None]
    folded["norm_shift"] = shift[:, None, None]
    state.pop("shared.weight")  # embeds labels, and is not used
    with torch.device("meta"):
        chunk = folded["first.weight"].shape[1]
        generator = Generator(channels, attention, chunk, *folded["embed.weight"].shape)
    generator.load_state_dict(folded, assign=True)
    return generator


def generator_from_state(state, source="the checkpoint"):
    """The frozen Generator of an official state dict, in evaluation mode and channels_last.

    Its parameters_published is the number of the official generator's parameters. Ends the run
    where a tensor is missing, unknown or of another shape.
    """
    left = {name: tensor.float() for name, tensor in state.items()}
    try:
        generator = folded_generator(left)
    except (KeyError, ValueError, IndexError, RuntimeError) as error:
        what = str(error).splitlines()[-1].strip()
        run.fail(f"{source} lacks a tensor, or has it in another shape ({what}): {ANOTHER}.")
    weights.refuse(source, "has unknown", left, ANOTHER)
    parameters = [name for name in state if not name.endswith(BUFFERS)]
    generator.parameters_published = sum(state[name].numel() for name in parameters)
    return generator.eval().requires_grad_(False).to(memory_format=torch.channels_last)
