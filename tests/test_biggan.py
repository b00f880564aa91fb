"""IC-GAN's generator: parity with the official code, its configuration, what is refused."""

import json

import pytest
import torch
import torch.nn.functional as F
from icgan_release import GOLDENS, TOLERANCE, error, official_state, refused, unit
from torchvision.models import resnet50

from models import biggan
from models.biggan import generator_config, generator_from_state, official_shapes
from models.resnet import backbone_from_state

FULL = {
    "channels": [1536, 1536, 768, 768, 384, 192, 96],
    "attention": [3],
    "chunk": 17,
    "embedding": 512,
    "feature": 2048,
    "labels": (1000, 128),
}


@pytest.fixture(scope="module")
def tiny():
    return generator_from_state(official_state("tiny"))


@pytest.mark.parametrize("name", ["tiny", "tiny256"])
def test_generator_parity(name):
    assert error(name) < TOLERANCE


def test_tolerance_catches_every_wrong_port(monkeypatch):
    """Each recorded wrong port errs a hundred tolerances on one of the two generators.

    The two mildest are tried here."""
    for what, errors in json.loads((GOLDENS / "wrong_ports.json").read_text()).items():
        assert (max(errors) > 100 * TOLERANCE) == what.startswith("WRONG"), what
    with monkeypatch.context() as patch:
        patch.setattr(biggan, "EPS", 1e-4)
        assert error("tiny") > 50 * TOLERANCE and error("tiny256") > 50 * TOLERANCE
    attention = F.scaled_dot_product_attention
    monkeypatch.setattr(
        F, "scaled_dot_product_attention", lambda q, k, v, scale: attention(q, k, v)
    )
    assert error("tiny") > 50 * TOLERANCE


def test_generator_gradient(tiny):
    """Of the folded network with respect to both inputs, against finite differences in float64."""
    double = generator_from_state(official_state("tiny")).double()
    z, feature = torch.randn(1, 20, dtype=torch.float64), unit(1).double()
    z.requires_grad_(), feature.requires_grad_()
    double(z, feature).square().sum().backward()
    for x in (z, feature):
        step = 1e-6 * F.normalize(x.grad, dim=1)
        shifted = [
            (z + sign * step, feature) if x is z else (z, feature + sign * step) for sign in (1, -1)
        ]
        plus, minus = (double(*inputs).square().sum() for inputs in shifted)
        assert (plus - minus).item() / 2e-6 == pytest.approx(x.grad.norm().item(), rel=1e-4)
    with pytest.raises(ValueError, match="at least 20 and exactly 2048 columns"):
        tiny(torch.zeros(1, 19), unit(1))


def test_published_configuration():
    """All 198 keys of the 256 px generator load strictly; parameter counts are the published."""
    table = [
        line.split("\t")
        for line in (GOLDENS / "keys_256.tsv").read_text().splitlines()[1:]
        if line[0] != "#"
    ]
    shapes = {
        name: () if shape == "scalar" else tuple(map(int, shape.split("x")))
        for name, shape, *_ in table
    }
    state = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    assert len(state) == 198 and generator_config(state) == FULL and official_shapes(FULL) == shapes
    generator = generator_from_state(state)
    assert (generator.resolution, generator.z_width) == (256, 119)
    with torch.device("meta"):
        assert generator(torch.empty(2, 128), torch.empty(2, 2048)).shape == (2, 3, 256, 256)
    encoder = resnet50()
    assert generator.parameters_published == 90_014_340
    assert (
        generator.parameters_published + sum(p.numel() for p in encoder.parameters()) == 115_571_372
    )
    half = FULL | dict(channels=[1024, 1024, 512, 512, 256, 128, 64])
    px128 = FULL | dict(channels=[1536, 1536, 768, 384, 192, 96], chunk=20)
    px64 = FULL | dict(channels=[1024, 1024, 512, 256, 128], attention=[2], chunk=24)
    for config, size, parameters in (
        (half, 256, 42_860_804),
        (px128, 128, 77_160_132),
        (px64, 64, 36_655_876),
    ):
        state = {
            name: torch.empty(shape, device="meta")
            for name, shape in official_shapes(config).items()
        }
        generator = generator_from_state(state)
        assert generator_config(state) == config
        assert (generator.resolution, generator.parameters_published) == (size, parameters)
    encoder = {
        name: value for name, value in encoder.state_dict().items() if not name.startswith("fc.")
    }
    assert len(encoder) == 318 and backbone_from_state(encoder).inplanes == 2048


def test_wrong_states_are_refused(capsys):
    state = official_state("tiny")
    wrong = {name: value for name, value in state.items() if name != "blocks.1.0.conv2.u0"} | {
        "extra": torch.ones(1)
    }
    wrong["linear.bias"] = torch.ones(3)
    sentence = refused(capsys, generator_from_state, wrong, "file.pth")
    assert (
        "missing: blocks.1.0.conv2.u0; unexpected: extra; of another shape: linear.bias" in sentence
    )
    conditional = {
        name: torch.cat([value, value[:, :8]], 1)
        if ".gain.weight" in name or ".bias.weight" in name
        else value
        for name, value in state.items()
    }
    assert "class-conditional" in refused(capsys, generator_from_state, conditional)
    assert "it lacks blocks.0" in refused(capsys, generator_from_state, {"a": torch.ones(1)})
    del state["shared_feat.weight"]
    assert "lacks shared_feat.weight" in refused(capsys, generator_from_state, state)
