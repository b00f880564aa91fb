"""A tiny study to evaluate, and what its results hold; for the tests of 04, 05 and 06."""

import json
from pathlib import Path

import pytest
import torch
from conftest import write_images

from models.resnet import build_backbone

SMALL = ("--workers", 0, "--device", "cpu")
LINEAR, SEMISUP, TRANSFER = "04_linear_eval.py", "05_semisup_eval.py", "06_transfer.py"


@pytest.fixture(scope="session")
def study(tmp_path_factory):
    """Class folders and a pretraining run whose network was never trained: its colours suffice."""
    root = tmp_path_factory.mktemp("study")
    write_images(root / "data/train", each=20)
    write_images(root / "data/val", each=6, seed=1)
    write_backbone(root / "x")
    return root


def write_backbone(folder, seed=0, method="vicreg"):
    folder.mkdir(exist_ok=True)
    torch.manual_seed(seed)
    backbone, _ = build_backbone("resnet10", small_images=True)
    torch.save(backbone.state_dict(), folder / "backbone.pth")
    about = {"stage": "03_pretrain", "args": {"method": method, "size": 32, "mix": 0.5}}
    about["generated_by"] = ["real"]
    (folder / "args.json").write_text(json.dumps(about))
    return folder


def of(study, *more):
    """The arguments that every evaluation of the study has."""
    return ["--data", study / "data", "--backbone", study / "x", *more, *SMALL]


def result(out):
    return json.loads((Path(out) / "result.json").read_text())


def numbers(out):
    """All that was measured, without the arguments."""
    return {key: value for key, value in result(out).items() if key != "args"}


def epochs(out):
    lines = map(json.loads, (Path(out) / "log.jsonl").read_text().splitlines())
    return [line for line in lines if line["event"] == "epoch"]
