"""IC-GAN's generator: parity with the official code, its configuration, what is refused."""

import itertools
import json

import pytest
import torch
import torch.nn.functional as F
from conftest import sentence
from icgan_release import GOLDENS, TOLERANCE, error, official_state, unit
from torchvision.models import resnet50

from models import biggan
from models.biggan import generator_from_state
from models.resnet import backbone_from_state


@pytest.fixture(scope="module")
def tiny():
    return generator_from_state(official_state("tiny"))


@pytest.mark.parametrize("name", ["tiny", "tiny256"])
def test_generator_parity(name):
    assert error(name) < TOLERANCE


def test_tolerance_catches_every_wrong_port(monkeypatch):
    """Each recorded wrong port errs a hundred tolerances; the two mildest are tried here."""
    for what, errors in json.loads((GOLDENS / "wrong_ports.json").read_text()).items():
        assert (max(errors) > 100 * TOLERANCE) == what.startswith("WRONG"), what
    with monkeypatch.context() as patch:
        patch.setattr(biggan, "EPS", 1e-4)
        assert error("tiny") > 50 * TOLERANCE and error("tiny256") > 50 * TOLERANCE
    attention = F.scaled_dot_product_attention
    unscaled = lambda q, k, v, scale: attention(q, k, v)  # noqa: E731
    monkeypatch.setattr(F, "scaled_dot_product_attention", unscaled)
    assert error("tiny") > 50 * TOLERANCE


def test_generator_gradient(tiny):
    """Of the folded network with respect to both inputs, against finite differences in float64."""
    double = generator_from_state(official_state("tiny")).double()
    z, feature = torch.randn(1, 20, dtype=torch.float64), unit(1).double()
    z.requires_grad_(), feature.requires_grad_()
    double(z, feature).square().sum().backward()
    for x in (z, feature):
        step = 1e-6 * F.normalize(x.grad, dim=1)
        pairs = [(step, 0), (-step, 0)] if x is z else [(0, step), (0, -step)]
        plus, minus = (double(z + a, feature + b).square().sum() for a, b in pairs)
        assert (plus - minus).item() / 2e-6 == pytest.approx(x.grad.norm().item(), rel=1e-4)
    for columns, width in ((19, 2048), (20, 2047)):
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            tiny(torch.zeros(1, columns), unit(1, width))


def official_shapes(channels, attention, chunk):
    """{name: shape} of the official generator's parameters and buffers."""
    weights = {"shared_feat": (512, 2048), "linear": (16 * channels[0], chunk)}
    weights["output_layer.2"] = (3, channels[-1], 3, 3)
    without_bias = {}
    normalised = {"output_layer.0": channels[-1]}
    shapes = {"shared.weight": (1000, 128)}
    for i, (inside, outside) in enumerate(itertools.pairwise(channels)):
        weights[f"blocks.{i}.0.conv1"] = (outside, inside, 3, 3)
        weights[f"blocks.{i}.0.conv2"] = (outside, outside, 3, 3)
        weights[f"blocks.{i}.0.conv_sc"] = (outside, inside, 1, 1)
        for name, width in ((f"blocks.{i}.0.bn1", inside), (f"blocks.{i}.0.bn2", outside)):
            normalised[name] = width
            without_bias[f"{name}.gain"] = without_bias[f"{name}.bias"] = (width, 512 + chunk)
        if i in attention:
            shapes[f"blocks.{i}.1.gamma"] = ()
            for part, share in (("theta", 8), ("phi", 8), ("g", 2)):
                without_bias[f"blocks.{i}.1.{part}"] = (outside // share, outside, 1, 1)
            without_bias[f"blocks.{i}.1.o"] = (outside, outside // 2, 1, 1)
    shapes |= {f"output_layer.0.{part}": channels[-1:] for part in ("gain", "bias")}
    shapes |= {f"{name}.bias": shape[:1] for name, shape in weights.items()}
    for name, shape in (weights | without_bias).items():
        shapes |= {f"{name}.weight": shape, f"{name}.u0": (1, shape[0]), f"{name}.sv0": (1,)}
    for name, width in normalised.items():
        shapes |= {f"{name}.stored_mean": (width,), f"{name}.stored_var": (width,)}
    return shapes


CONFIGURATIONS = [
    (256, 90_014_340, (1536, 1536, 768, 768, 384, 192, 96), [3], 17),
    (256, 42_860_804, (1024, 1024, 512, 512, 256, 128, 64), [3], 17),
    (128, 77_160_132, (1536, 1536, 768, 384, 192, 96), [3], 20),
    (64, 36_655_876, (1024, 1024, 512, 256, 128), [2], 24),
]


@pytest.mark.parametrize("size, parameters, channels, attention, chunk", CONFIGURATIONS)
def test_published_configurations(size, parameters, channels, attention, chunk):
    """Those of the published generators are read strictly, with the published parameter counts."""
    shapes = official_shapes(channels, attention, chunk)
    state = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    generator = generator_from_state(state)
    assert (generator.resolution, generator.parameters_published) == (size, parameters)
    assert generator.z_width == chunk * len(channels)
    with torch.device("meta"):
        images = generator(torch.empty(2, 128), torch.empty(2, 2048))
    assert images.shape == (2, 3, size, size)
    if parameters == 90_014_340:
        encoder = resnet50().state_dict()
        state = {name: value for name, value in encoder.items() if not name.startswith("fc.")}
        assert len(state) == 318 and backbone_from_state(state, "file").inplanes == 2048
        assert parameters + sum(p.numel() for p in resnet50().parameters()) == 115_571_372
        lines = (GOLDENS / "keys_256.tsv").read_text().splitlines()[1:]
        rows = [line.split("\t") for line in lines if line[0] != "#"]
        published = {name: shape for name, shape, *_ in rows}
        ours = {name: "x".join(map(str, shape)) or "scalar" for name, shape in shapes.items()}
        assert len(ours) == 198 and ours == published


def test_every_tensor_is_needed_as_it_is(capsys):
    """One that is missing, and one that could be broadcast, is refused by one sentence."""
    whole = official_state("tiny")
    for name, tensor in whole.items():
        state = {other: value for other, value in whole.items() if other != name}
        said = sentence(capsys, generator_from_state, state, "file.pth")
        # A block without a gain has no attention, so that its attention's weights are unknown.
        lacks = f"lacks a tensor, or has it in another shape ('{name}')"
        named = "has unknown blocks.2.1.g" if name.endswith("gamma") else lacks
        assert f"file.pth {named}" in said
        if name == "shared.weight":  # it is not used, and the number of its labels is free
            continue
        for wrong in (tensor[None], tensor.flatten()[:1], tensor.flatten()[0]):
            if wrong.shape != tensor.shape:
                said = sentence(capsys, generator_from_state, state | {name: wrong}, "file.pth")
                assert "file.pth lacks a tensor, or has it in another shape" in said, name
    state = official_state("tiny")
    said = sentence(capsys, generator_from_state, state | {"extra": torch.ones(1)}, "file.pth")
    assert "file.pth has unknown extra" in said
    wrong = state | {"linear.bias": torch.ones(3)}
    assert "linear.bias has the shape (3,)" in sentence(capsys, generator_from_state, wrong)
    conditional = {}
    for name, value in state.items():
        modulates = ".gain.weight" in name or ".bias.weight" in name
        conditional[name] = torch.cat([value, value[:, :8]], 1) if modulates else value
    assert "class-conditional" in sentence(capsys, generator_from_state, conditional)
    assert "no IC-GAN generator" in sentence(capsys, generator_from_state, {"a": torch.ones(1)})
