"""Figures of the two published generators, MaskGIT and IC-GAN, with random weights."""

import copy
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import operations
import torch
import torch.nn.functional as F
from bench_tools import compare, matmul, precisions, report

from base import run
from models import biggan, maskgit, vqgan

STEPS = 12  # of MaskGIT's decoding


# ---------------------------------------------------------------- MaskGIT
def random_network(build, config, device):
    """A frozen network with small random weights on the device."""
    with torch.device("meta"):
        network = build(**config).eval()
    network = network.to_empty(device=device).requires_grad_(False)
    for p in network.parameters():
        p.normal_(std=0.02)
    return network


class Part(NamedTuple):
    name: str
    gflop: float  # of one pass, for one image
    passes: int  # that an image needs
    aim: str  # share of the peak, in bf16


def maskgit_parts(transformer_config, tokenizer_config, size):
    """What an in-painting consists of."""
    transformer = operations.transformer(transformer_config) / 1e9
    encoder, decoder = operations.tokenizer_parts(tokenizer_config, size)
    return [
        Part("transformer", transformer, STEPS, ">= 0.65"),
        Part("encoder", encoder / 1e9, 1, ">= 0.6"),
        Part("decoder", decoder / 1e9, 1, ">= 0.6"),
    ]


def bench_maskgit(args, device):
    size = 256
    batch = 2 if device.type == "cpu" else 32
    transformer_config = maskgit.PUBLISHED
    tokenizer_config = vqgan.PUBLISHED
    if args.quick:
        size = 32
        batch = 1
        toy = {"layers": 1, "dim": 32, "heads": 2, "mlp": 64, "tokens": 4}
        transformer_config = transformer_config | toy
        tokenizer_config = tokenizer_config | {"filters": 8, "groups": 4}
    parts = maskgit_parts(transformer_config, tokenizer_config, size)
    transformer = random_network(maskgit.MaskGIT, transformer_config, device)
    tokenizer = random_network(vqgan.VQGAN, tokenizer_config, device)
    if device.type == "cuda":  # as in augment/painting.py
        tokenizer.to(memory_format=torch.channels_last)
    length = transformer_config["tokens"]
    known = torch.zeros(batch, length, dtype=torch.int64, device=device)
    masked = torch.full_like(known, maskgit.MASK)
    labels = known[:, 0]
    images = torch.rand(batch, 3, size, size, device=device)
    functions = [
        partial(transformer, masked, labels),
        partial(tokenizer.encode, images),
        partial(tokenizer.decode, known),
    ]
    for precision in precisions(device):
        product, product_gflop = matmul(device, precision, args.quick)
        with torch.inference_mode(), run.autocast(device, precision):
            *seconds, product_seconds = compare(device, args.rounds, *functions, product)
        peak = product_gflop / product_seconds
        seconds_of_image = 0.0
        gflop_of_image = 0.0
        for part, second in zip(parts, seconds, strict=True):
            name = f"maskgit, {part.name}, {precision}"
            speed = batch * part.gflop / second
            aim = part.aim if precision == "bf16" else "-"
            report(name, speed, "GFLOP/s", "matmul", peak, aim)
            seconds_of_image += part.passes * second / batch
            gflop_of_image += part.passes * part.gflop
        name = f"maskgit, image, {precision}"
        at_peak = peak / gflop_of_image
        report(name, 1 / seconds_of_image, "images/s", "at the speed of matmul", at_peak)


# ---------------------------------------------------------------- IC-GAN
def plain_generator(state, z, feature):
    """IC-GAN's generator as published, from its state dict: images (B, 3, R, R) in [-1, 1].

    A power iteration for every weight in every forward pass; upsampling before the convolutions.
    """
    up = partial(F.interpolate, scale_factor=2)
    plain = PlainLayers(state)
    first, *chunks = z.split(state["linear.weight"].shape[1], 1)
    embedding = plain.linear("shared_feat", feature)
    x = plain.linear("linear", first).unflatten(1, (-1, 4, 4))
    for i, chunk in enumerate(chunks):
        name = f"blocks.{i}.0"
        condition = torch.cat([embedding, chunk], 1)
        h = up(plain.modulate(f"{name}.bn1", x, condition))
        h = plain.convolve(f"{name}.conv1", h)
        h = plain.modulate(f"{name}.bn2", h, condition)
        h = plain.convolve(f"{name}.conv2", h)
        x = h + plain.convolve(f"{name}.conv_sc", up(x))
        if f"blocks.{i}.1.gamma" in state:
            x = plain.attend(f"blocks.{i}.1", x)
    gain = state["output_layer.0.gain"]
    x = plain.normalise("output_layer.0", x, gain, state["output_layer.0.bias"])
    return torch.tanh(plain.convolve("output_layer.2", x))


class PlainLayers:
    """The layers of an official state dict by their names."""

    def __init__(self, state):
        self.state = state

    def weight(self, name):
        """A weight over its spectral norm."""
        weight = self.state[f"{name}.weight"]
        matrix = weight.flatten(1)
        v = F.normalize(self.state[f"{name}.u0"] @ matrix)
        u = F.normalize(v @ matrix.T)
        return weight / (v @ matrix.T @ u.T).squeeze()

    def linear(self, name, x):
        return F.linear(x, self.weight(name), self.state.get(f"{name}.bias"))

    def convolve(self, name, x):
        kernel = self.weight(name)
        bias = self.state.get(f"{name}.bias")
        return F.conv2d(x, kernel, bias, padding=kernel.shape[-1] // 2)

    def normalise(self, name, x, gain, bias):
        mean = self.state[f"{name}.stored_mean"]
        variance = self.state[f"{name}.stored_var"]
        x = F.batch_norm(x, mean, variance, eps=1e-5)
        return F.relu(x * gain[..., None, None] + bias[..., None, None])

    def modulate(self, name, x, condition):
        gain = 1 + self.linear(f"{name}.gain", condition)
        bias = self.linear(f"{name}.bias", condition)
        return self.normalise(name, x, gain, bias)

    def attend(self, name, x):
        query = self.convolve(f"{name}.theta", x).flatten(2)
        key = F.max_pool2d(self.convolve(f"{name}.phi", x), 2).flatten(2)
        value = F.max_pool2d(self.convolve(f"{name}.g", x), 2).flatten(2)
        scores = (query.transpose(1, 2) @ key).softmax(-1)
        mixed = (value @ scores.transpose(1, 2)).unflatten(2, x.shape[2:])
        return x + self.state[f"{name}.gamma"] * self.convolve(f"{name}.o", mixed)


def official_shapes(quick):
    """{name: shape} of the published generator, or of a small one with as many blocks."""
    goldens = run.ROOT / "tests" / "goldens" / "icgan"
    if quick:
        state = torch.load(goldens / "tiny256.pth", weights_only=True)
        return {name: tensor.shape for name, tensor in state.items()}
    shapes = {}
    for line in (goldens / "keys_256.tsv").read_text().splitlines()[1:]:
        if not line.startswith("#"):
            name, shape, *_ = line.split("\t")
            shapes[name] = [] if shape == "scalar" else list(map(int, shape.split("x")))
    return shapes


def random_state(shapes):
    """An official state dict with random weights."""
    state = {}
    for name, shape in shapes.items():
        if name.endswith(("stored_var", "gamma", "0.gain")):
            state[name] = torch.ones(shape)
        else:
            state[name] = torch.randn(shape)
    return state


def generator_gflop(generator):
    """Of one image."""
    build = partial(copy.deepcopy(generator).to, "meta")
    z = partial(torch.zeros, 1, generator.z_width)
    feature = partial(torch.zeros, 1, generator.feature_width)
    return operations.forward(build, z, feature) / 1e9


class Check(NamedTuple):
    equal: float  # see bench_tools.check
    measure: Callable
    aim: str


# The tanh of a random network turns small errors of bf16 into black for white in some pixels: the
# median counts.
CHECKS = {"fp32": Check(1e-3, torch.max, ">= 1.15"), "bf16": Check(0.02, torch.median, ">= 2")}


def bench_icgan(args, device):
    batch = 2 if device.type == "cpu" else 32
    if args.quick:
        batch = 1
    state = random_state(official_shapes(args.quick))
    generator = biggan.generator_from_state(state).to(device)
    state = {name: tensor.to(device) for name, tensor in state.items()}
    z = torch.randn(batch, generator.z_width, device=device)
    feature = F.normalize(torch.randn(batch, generator.feature_width, device=device))
    gflop = batch * generator_gflop(generator)
    plain = partial(plain_generator, state, z, feature)

    def ours(precision):
        with run.autocast(device, precision):
            return generator(z, feature)

    for precision in precisions(device):
        check = CHECKS[precision]
        product, product_gflop = matmul(device, precision, args.quick)
        functions = [partial(ours, precision), plain, product]
        with torch.inference_mode():
            seconds = compare(
                device, args.rounds, *functions, equal=check.equal, measure=check.measure
            )
        name = f"icgan, {precision}"
        our_rate, plain_rate, _ = batch / seconds
        report(name, our_rate, "images/s", "as published, fp32", plain_rate, check.aim)
        peak = product_gflop / seconds[2]
        report(f"{name}, share of peak", gflop / seconds[0], "GFLOP/s", "matmul", peak)
