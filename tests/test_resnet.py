"""Backbones: torchvision's networks bit for bit, weight files of every origin, refusals."""

import argparse
import re

import numpy as np
import pytest
import torch
import torchvision

from models.resnet import BACKBONES, build_backbone, load_backbone, random_like


def exclude_bias_and_norm(p):
    """VICReg's and Barlow Twins' checkpoints pickle a function of this name."""
    return p.ndim == 1


exclude_bias_and_norm.__module__ = "__main__"


@pytest.fixture
def reference():
    """Torchvision's resnet18 with running statistics of its own, and its output on two images."""
    torch.manual_seed(0)
    network = torchvision.models.resnet18()
    images = torch.randn(2, 3, 64, 64)
    network.train()(images)
    network.eval()
    state = {key: value for key, value in network.state_dict().items() if not key.startswith("fc.")}
    network.fc = torch.nn.Identity()
    return state, images, network(images).detach()


@pytest.mark.parametrize(
    "name, small",
    (("resnet10", False), ("resnet10", True), ("resnet18", True), ("resnet50", False)),
)
def test_built_and_read_back(name, small, tmp_path):
    network, width = build_backbone(name, small)
    network.eval()
    torch.save(network.state_dict(), tmp_path / "backbone.pth")
    loaded, loaded_width, info = load_backbone(tmp_path)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(network(images), loaded(images))
        assert network(images).shape == (2, width) and width == loaded_width
    assert info["architecture"] == name and not loaded.training
    if not small and name != "resnet10":
        official = getattr(torchvision.models, name)()
        official.fc = torch.nn.Identity()
        official.load_state_dict(network.state_dict(), strict=True)
        assert torch.equal(official.eval()(images), network(images))


def releases(state):
    """The layouts that are in use, by origin: {name: (object in the file, what is left out)}."""

    def prefixed(prefix):
        return {prefix + key: value for key, value in state.items()}

    one = torch.zeros(3)
    return {
        "ours": (state, {}),
        "torchvision": (state | {"fc.weight": one, "fc.bias": one}, {"fc": 2}),
        "barlow": (
            {
                "epoch": 3,
                "optimizer": {"f": exclude_bias_and_norm},
                "model": prefixed("module.backbone.")
                | {"module.projector.0.weight": one, "module.bn.running_mean": one},
            },
            {"projector": 1, "bn": 1},
        ),
        "vicreg": (
            {"model": prefixed("module.backbone.") | {"module.projector.0.bias": one}},
            {"projector": 1},
        ),
        "dino": (
            {
                "args": argparse.Namespace(lr=0.1),
                "student": prefixed("module.backbone."),
                "teacher": prefixed("backbone.")
                | {"head.mlp.0.weight": one, "head.last_layer.weight": one},
            },
            {"head": 2, "student": len(state)},
        ),
        "swav": (
            prefixed("module.")
            | {"module.projection_head.0.weight": one, "module.prototypes.weight": one},
            {"projection_head": 1, "prototypes": 1},
        ),
        "swav multi": (
            {"state_dict": prefixed("module.") | {"module.prototypes.prototypes0.weight": one}},
            {"prototypes": 1},
        ),
        "old": ({key: value for key, value in state.items() if "num_batches" not in key}, {}),
        "compiled": (prefixed("_orig_mod."), {}),
        "compiled in parallel": (prefixed("module._orig_mod."), {}),
        "a queue": (prefixed("module.") | {"module.queue": one}, {"queue": 1}),
        "solo-learn": (
            {
                "hyper_parameters": {"lr": np.float64(0.3)},
                "state_dict": prefixed("backbone.") | {"projector.0.weight": one},
            },
            {"projector": 1},
        ),
        "vissl": (
            {
                "classy_state_dict": {
                    "base_model": {"model": {"trunk": prefixed("_feature_blocks."), "heads": {}}}
                }
            },
            {},
        ),
    }


def test_release_formats(reference, tmp_path, capsys, monkeypatch):
    import __main__

    monkeypatch.setattr(__main__, "exclude_bias_and_norm", exclude_bias_and_norm, raising=False)
    state, images, expected = reference
    for name, (content, left_out) in releases(state).items():
        torch.save(content, tmp_path / f"{name}.pth")
        network, width, info = load_backbone(tmp_path / f"{name}.pth")
        assert torch.equal(network(images), expected), name
        assert (width, info["architecture"], info["left_out"]) == (512, "resnet18", left_out), name
        said = capsys.readouterr().out
        assert re.search(r"resnet18, 512 features: \d+ tensors", said) and all(
            key in said for key in left_out
        )


def test_several_networks_in_one_file(reference, tmp_path, capsys):
    """MoCo's two encoders: the one that FILE:NAME names, never a guess."""
    state, images, expected = reference
    other = {key: torch.zeros_like(value) for key, value in state.items()}
    content = {"module.queue": torch.zeros(3)}
    for prefix, weights in (("module.encoder_q.", state), ("module.encoder_k.", other)):
        content |= {prefix + key: value for key, value in weights.items()}
        content[f"{prefix}fc.0.weight"] = torch.zeros(3)
    file = tmp_path / "moco.pth.tar"
    torch.save({"state_dict": content, "arch": "resnet18"}, file)
    with pytest.raises(SystemExit):
        load_backbone(file)
    sentence = capsys.readouterr().err
    assert "2 networks" in sentence and ":NAME" in sentence
    assert "state_dict.module.encoder_q." in sentence and "module.encoder_k." in sentence
    for prefix in ("state_dict.module.encoder_q.", "encoder_q"):
        network, _, info = load_backbone(f"{file}:{prefix}")
        assert torch.equal(network(images), expected)
    assert info["left_out"] == {"queue": 1, "fc": 1, "encoder_k": len(state) + 1}
    with pytest.raises(SystemExit):
        load_backbone(f"{file}:encoder")
    assert "0 of them fit" in capsys.readouterr().err


def test_dinos_student_can_be_asked_for(reference, tmp_path):
    state, images, expected = reference
    other = {key: torch.zeros_like(value) for key, value in state.items()}
    torch.save({"student": state, "teacher": other}, tmp_path / "dino.pth")
    network = load_backbone(f"{tmp_path / 'dino.pth'}:student")[0]
    assert torch.equal(network(images), expected)


def test_refused(reference, tmp_path, capsys):
    state = reference[0]
    diverged = state["layer3.0.conv1.weight"].clone()
    diverged[0, 0, 0, 0] = torch.nan
    wrong = {
        "not a ResNet": ({"blocks.0.weight": torch.zeros(3)}, "no conv1.weight beside layer1"),
        "a gap": (
            {key: value for key, value in state.items() if key != "layer2.0.bn1.weight"},
            "layer2.0.bn1.weight",
        ),
        "an extra": (state | {"layer1.0.extra.weight": torch.zeros(1)}, "layer1.0.extra.weight"),
        "a stage": (
            {key: value for key, value in state.items() if not key.startswith("layer4")},
            "layer4.0.bn1.weight",
        ),
        "not a number": (
            state | {"layer3.0.conv1.weight": diverged},
            "has values that are not finite in layer3.0.conv1.weight",
        ),
        "a shape": (state | {"layer1.0.bn1.bias": torch.zeros(7)}, "layer1.0.bn1.bias"),
        "no tensors": ({"model": {"lr": 1.0}}, "no state dict"),
        "code": ({"model": state, "f": releases}, "refused"),
    }
    for name, (content, words) in wrong.items():
        torch.save(content, tmp_path / "file.pth")
        with pytest.raises(SystemExit):
            load_backbone(tmp_path / "file.pth")
        assert words in capsys.readouterr().err, name
    (tmp_path / "file.pth").write_bytes(b"not a weight file")
    for path in (tmp_path / "file.pth", tmp_path / "absent.pth", tmp_path):
        with pytest.raises(SystemExit):
            load_backbone(path)
        assert len(capsys.readouterr().err.splitlines()) == 1


def test_random_only_by_name():
    state = torch.get_rng_state()
    one, _, info = load_backbone("random", "resnet10", True, seed=1)
    two = load_backbone("random", "resnet10", True, seed=1)[0]
    other = random_like(one)
    assert torch.equal(one.conv1.weight, two.conv1.weight) and not torch.equal(
        one.conv1.weight, other.conv1.weight
    )
    assert {k: v.shape for k, v in one.state_dict().items()} == {
        k: v.shape for k, v in other.state_dict().items()
    }
    assert info["sha256"] is None and torch.equal(state, torch.get_rng_state())
    assert "resnet10" in BACKBONES
