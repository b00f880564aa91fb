"""Backbones: torchvision's networks bit for bit, weight files of every origin, refusals."""

import argparse
import re

import numpy as np
import pytest
import torch
import torchvision
from conftest import sentence

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


KINDS = (("resnet10", False), ("resnet10", True), ("resnet18", True), ("resnet50", False))


@pytest.mark.parametrize("name, small", KINDS)
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

    def more(prefix, *names):
        return prefixed(prefix) | dict.fromkeys(names, torch.zeros(3))

    heads = ("module.projector.0.weight", "module.bn.running_mean")
    barlow = {"model": more("module.backbone.", *heads)}
    barlow |= {"epoch": 3, "optimizer": {"f": exclude_bias_and_norm}}
    dino = {"args": argparse.Namespace(lr=0.1), "student": prefixed("module.backbone.")}
    dino["teacher"] = more("backbone.", "head.mlp.0.weight", "head.last_layer.weight")
    swav = more("module.", "module.projection_head.0.weight", "module.prototypes.weight")
    swav_multi = more("module.", "module.prototypes.prototypes0.weight")
    solo = {"state_dict": more("backbone.", "projector.0.weight")}
    solo["hyper_parameters"] = {"lr": np.float64(0.3)}
    trunk = {"model": {"trunk": prefixed("_feature_blocks."), "heads": {}}}
    old = {key: value for key, value in state.items() if "num_batches" not in key}
    return {
        "ours": (state, {}),
        "torchvision": (more("", "fc.weight", "fc.bias"), {"fc": 2}),
        "barlow": (barlow, {"projector": 1, "bn": 1}),
        "vicreg": ({"model": more("module.backbone.", heads[0])}, {"projector": 1}),
        "dino": (dino, {"head": 2, "student": len(state)}),
        "swav": (swav, {"projection_head": 1, "prototypes": 1}),
        "swav multi": ({"state_dict": swav_multi}, {"prototypes": 1}),
        "old": (old, {}),
        "compiled": (prefixed("_orig_mod."), {}),
        "compiled in parallel": (prefixed("module._orig_mod."), {}),
        "a queue": (more("module.", "module.queue"), {"queue": 1}),
        "solo-learn": (solo, {"projector": 1}),
        "vissl": ({"classy_state_dict": {"base_model": trunk}}, {}),
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
        assert re.search(r"resnet18, 512 features: \d+ tensors", said)
        assert all(key in said for key in left_out)


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
    said = sentence(capsys, load_backbone, file)
    assert "2 networks" in said and ":NAME" in said
    assert "state_dict.module.encoder_q." in said and "module.encoder_k." in said
    for prefix in ("state_dict.module.encoder_q.", "encoder_q"):
        network, _, info = load_backbone(f"{file}:{prefix}")
        assert torch.equal(network(images), expected)
    assert info["left_out"] == {"queue": 1, "fc": 1, "encoder_k": len(state) + 1}
    assert "0 of them fit" in sentence(capsys, load_backbone, f"{file}:encoder")
    state, images, expected = reference
    other = {key: torch.zeros_like(value) for key, value in state.items()}
    torch.save({"student": state, "teacher": other}, tmp_path / "dino.pth")
    network = load_backbone(f"{tmp_path / 'dino.pth'}:student")[0]
    assert torch.equal(network(images), expected)


def test_refused(reference, tmp_path, capsys):
    state = reference[0]
    diverged = state["layer3.0.conv1.weight"].clone()
    diverged[0, 0, 0, 0] = torch.nan
    not_finite = "has values that are not finite in layer3.0.conv1.weight"

    def without(start):
        return {key: value for key, value in state.items() if not key.startswith(start)}

    wrong = {  # what the sentence says: the content of the file
        "no conv1.weight beside layer1": {"blocks.0.weight": torch.zeros(3)},
        "layer2.0.bn1.weight": without("layer2.0.bn1.weight"),
        "layer1.0.extra.weight": state | {"layer1.0.extra.weight": torch.zeros(1)},
        "layer4.0.bn1.weight": without("layer4"),
        not_finite: state | {"layer3.0.conv1.weight": diverged},
        "layer1.0.bn1.bias": state | {"layer1.0.bn1.bias": torch.zeros(7)},
        "no state dict": {"model": {"lr": 1.0}},
        "refused": {"model": state, "f": releases},
    }
    for words, content in wrong.items():
        torch.save(content, tmp_path / "file.pth")
        assert words in sentence(capsys, load_backbone, tmp_path / "file.pth")
    (tmp_path / "file.pth").write_bytes(b"not a weight file")
    for path in (tmp_path / "file.pth", tmp_path / "absent.pth", tmp_path):
        assert sentence(capsys, load_backbone, path)


def test_random_only_by_name():
    state = torch.get_rng_state()
    one, _, info = load_backbone("random", "resnet10", True, seed=1)
    two = load_backbone("random", "resnet10", True, seed=1)[0]
    other = random_like(one)
    assert torch.equal(one.conv1.weight, two.conv1.weight)
    assert not torch.equal(one.conv1.weight, other.conv1.weight)
    shapes = [{k: v.shape for k, v in net.state_dict().items()} for net in (one, other)]
    assert shapes[0] == shapes[1]
    assert info["sha256"] is None and torch.equal(state, torch.get_rng_state())
    assert "resnet10" in BACKBONES
