"""Mirrors of other real images: of the same class, and the nearest neighbour."""

import numpy as np
import torch
from conftest import call, refused, run, write_images

from evaluate import features as features_module
from images.read import read_image
from models.resnet import load_backbone


def which(image, originals):
    """The path of the original that an image is equal to."""
    return [path for path, other in originals.items() if np.array_equal(image, other)][0]


def stored(mirror, view):
    folder = mirror / f"view{view}"
    return {f.relative_to(folder).as_posix(): read_image(f) for f in folder.rglob("*.png")}


def test_same_class_is_another_image_of_the_class(tmp_path, capsys):
    data = write_images(tmp_path / "data", each=5)
    flags = ["--data", data, "--size", 32, "--workers", 1]
    run("02_augment.py", "same-class", *flags, "--views", 2, "--out", tmp_path / "gen")
    originals = {f.relative_to(data).as_posix(): read_image(f) for f in data.rglob("*.png")}
    chosen = []
    for view in range(2):
        made = stored(tmp_path / "gen", view)
        of_view = {path: which(image, originals) for path, image in made.items()}
        assert of_view.keys() == originals.keys()
        for path, other in of_view.items():
            assert other != path and other.split("/")[0] == path.split("/")[0]
        chosen.append(of_view)
    assert chosen[0] != chosen[1], "each view is a draw of its own"
    run("02_augment.py", "same-class", *flags, "--batch-size", 4, "--out", tmp_path / "again")
    again = {path: which(im, originals) for path, im in stored(tmp_path / "again", 0).items()}
    assert again == chosen[0], "the batch size changes nothing"
    data = write_images(tmp_path / "data", each=1)
    flags = ["--data", data, "--out", tmp_path / "gen", "--workers", 0]
    said = refused(capsys, "02_augment.py", "same-class", *flags, code=2)
    assert "a/000.png" in said and "no other image of its class" in said


def test_neighbour_is_the_nearest_in_the_features(tiny, tmp_path, monkeypatch, capsys):
    flags = ["--data", tiny["train"], "--size", 32, "--workers", 0]
    pretrain = "--backbone resnet10 --small-images --size 32 --batch-size 8 --epochs 1 --workers 0"
    where = ["--data", tiny["train"], "--out", tmp_path / "run", "--projector", "16-16"]
    run("03_pretrain.py", *where, *pretrain.split())
    backbone = ["--backbone", tmp_path / "run"]
    run("02_augment.py", "neighbour", *flags, *backbone, "--out", tmp_path / "gen")
    data = tiny["train"]
    originals = {f.relative_to(data).as_posix(): read_image(f) for f in data.rglob("*.png")}
    network, _, _ = load_backbone(tmp_path / "run")
    pixels = [features_module.centre_crop(image, 0, 0, size=32) for image in originals.values()]
    x = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 255
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).view(2, 1, 3, 1, 1)
    with torch.no_grad():
        features = torch.nn.functional.normalize(network((x - mean) / std), dim=1)
    similarity = (features @ features.T).fill_diagonal_(-1)
    names = list(originals)
    for path, image in stored(tmp_path / "gen", 0).items():
        row = similarity[names.index(path)]
        assert row[names.index(which(image, originals))] >= row.max() - 1e-5
    run("02_augment.py", "neighbour", *flags, *backbone, "--out", tmp_path / "two", processes=2)
    for path, image in stored(tmp_path / "two", 0).items():
        assert np.array_equal(image, stored(tmp_path / "gen", 0)[path])
    monkeypatch.setattr(features_module, "extract", None)  # nothing is left to compare
    call("02_augment.py", "neighbour", *flags, *backbone, "--out", tmp_path / "gen")
    assert "gen is finished" in capsys.readouterr().out
