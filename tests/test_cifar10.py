"""CIFAR-10 of recipes/datasets.py and cifar10.sh, on an archive in its own format."""

import hashlib
import json
import pickle
import tarfile

import numpy as np
import pytest
import torchvision
from conftest import call, run, sentences
from PIL import Image
from test_recipes import parsed

from images.read import read_image

MAKE = "recipes/datasets.py cifar10"
CLASSES = "airplane automobile bird cat deer dog frog horse ship truck".split()
FEW = {"train": 8, "val": 4}  # images of a class, as TINY=1 asks for


def written(folder, name, content):
    """[name, md5] of a pickle, as torchvision lists the files of the archive."""
    data = pickle.dumps(content)
    (folder / name).write_bytes(data)
    return [name, hashlib.md5(data).hexdigest()]


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """(folder of cifar-10-python.tar.gz, {split: (images, labels)}): 300 images, made up."""
    batches = tmp_path / "cifar-10-batches-py"
    batches.mkdir()
    rng = np.random.default_rng(0)
    listed, images, labels = [], [], np.arange(50) % 10
    for number in range(6):
        images.append(rng.integers(0, 256, (50, 3, 32, 32), dtype=np.uint8))
        name = f"data_batch_{number + 1}" if number < 5 else "test_batch"
        content = {"data": images[-1].reshape(50, 3072), "labels": labels.tolist()}
        listed.append(written(batches, name, content))
    meta = written(batches, "batches.meta", {"label_names": CLASSES})
    folder = tmp_path / "archive"
    folder.mkdir()
    with tarfile.open(folder / "cifar-10-python.tar.gz", "w:gz") as tar:
        tar.add(batches, "cifar-10-batches-py")
    published = torchvision.datasets.CIFAR10
    md5 = hashlib.md5((folder / "cifar-10-python.tar.gz").read_bytes()).hexdigest()
    monkeypatch.setattr(published, "tgz_md5", md5)
    monkeypatch.setattr(published, "train_list", listed[:5])
    monkeypatch.setattr(published, "test_list", listed[5:])
    monkeypatch.setattr(published, "meta", published.meta | {"md5": meta[1]})
    train = np.concatenate(images[:5]), np.tile(labels, 5)
    return folder, {"train": train, "val": (images[5], labels)}


def test_archive(archive, tmp_path, capsys):
    folder, splits = archive
    words = ("--out", tmp_path / "out", "--archive", folder, "--limit", 8, 4)
    call(MAKE, *words)
    for split, (images, labels) in splits.items():
        for number, name in enumerate(CLASSES):
            files = sorted((tmp_path / "out" / split / name).iterdir())
            expected = images[labels == number][: FEW[split]].transpose(0, 2, 3, 1)
            found = np.stack([read_image(file) for file in files])
            np.testing.assert_array_equal(found, expected)
    capsys.readouterr()
    call(MAKE, *words)
    assert "is finished" in capsys.readouterr().out


def test_what_cannot_be_had(archive, tmp_path, monkeypatch, capsys):
    for name in ("http_proxy", "https_proxy", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    nothing = ("--out", tmp_path / "a", "--archive", tmp_path / "nothing")
    assert "put cifar-10-python.tar.gz into" in "\n".join(sentences(capsys, call, MAKE, *nothing))
    wrong = tmp_path / "images/train/cat/0.png"
    wrong.parent.mkdir(parents=True)
    Image.new("RGB", (40, 32)).save(wrong)
    small = ("--out", tmp_path / "b", "--images", tmp_path / "images")
    said = "\n".join(sentences(capsys, call, MAKE, *small))
    assert "0.png is 40 x 32 px: CIFAR's are 32 x 32" in said
    assert not (tmp_path / "a").exists() and not (tmp_path / "b").exists()


def test_recipe(archive, recipe, place):
    folder, _ = archive
    call(MAKE, "--out", place / "data/cifar10-part", "--archive", folder, "--limit", 8, 4)
    call(MAKE, "--out", place / "data/cifar10-generators", "--archive", folder, "--held-out", 4)
    said = recipe("cifar10", BUDGET="cpu")
    runs = place / "runs/cifar10-cpu"
    assert "oracle minus baseline" in said and (runs / "gains.png").stat().st_size > 20_000
    numbers = json.loads((runs / "report.json").read_text())
    measured = {"linear top-1, cached features", "kNN top-1", "2 labels a class, top-1"}
    differences = {}
    for row in numbers["differences"]:
        differences.setdefault(row["measured"], []).append(row)
    assert differences.keys() == measured
    for rows in differences.values():
        assert len(rows) == 3  # control, keep50, oracle
        assert sum("minus real" in row for row in rows) == 2
    rows = json.loads((runs / "cost/cost.json").read_text())["rows"]
    assert rows.keys() == {"keep50", "oracle"}
    for row in rows.values():
        assert 0 < row["ssim"] < 1 and row["fid"] > 0
        assert 0 < row["feature_distance"] < 1 and 0 <= row["class_kept"] <= 100
    a_study_is_kept(runs, place / "study.json")


def a_study_is_kept(runs, file):
    script = "07_metrics.py"
    closed = run(script, "report", runs, "--merge", file, "--gate", 90, code=1)
    assert "The gate is closed: the oracle must be 90 points above" in closed.stderr
    assert "train longer" in closed.stderr
    assert run(script, "report", file).stdout == closed.stdout
    assert (file.with_suffix("") / "gains.png").stat().st_size > 20_000
    first = file.read_bytes()
    run(script, "report", runs, "--merge", file)
    assert file.read_bytes() == first
    study = json.loads(first)
    for result in study["runs"].values():
        made_by = result["backbone"].get("generated_by", [])
        assert all(mirror == "real" or "data" not in mirror["args"] for mirror in made_by)
    for result in study["runs"].values():
        result["backbone"]["epochs"] = 7
    file.write_text(json.dumps(study))
    refused = run(script, "report", runs, "--merge", file, code=2)
    assert "with another epochs: name another file" in refused.stderr
    assert json.loads(file.read_text()) == study


COUNTS = {"cpu": (15, 45), "hour": (4, 8), "night": (12, 36), "full": (17, 102)}  # arms, encoders


@pytest.mark.parametrize("budget", COUNTS)
def test_full_commands(budget):
    commands = parsed("cifar10", BUDGET=budget, DATA="")
    trained = [args for name, args in commands if name == "03_pretrain.py"]
    arms, encoders = COUNTS[budget]
    assert len({args.out for args in trained}) == len(trained) == encoders
    assert all(args.preset == "cifar" and args.in_memory for args in trained)
    assert len({args.generated[0] if args.generated else "" for args in trained}) == arms
    mirrors = {args.out for name, args in commands if name == "02_augment.py"}
    for args in trained:
        for folder in args.generated:
            made = folder in mirrors or folder.rpartition("/strength")[0] in mirrors
            assert folder == "real" or made, folder
    if budget == "full":  # solo-learn's
        settings = {(args.backbone, args.epochs, args.batch_size, args.size) for args in trained}
        assert settings == {("resnet18", 1000, 256, 32)}
