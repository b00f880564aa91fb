"""04, 05 and 06 as a user runs them, on tiny data sets in their official layouts."""

import colorsys
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import call, refused, run, run_killed, write_images
from PIL import Image

from models.resnet import build_backbone

SMALL = ("--workers", 0, "--device", "cpu")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Class folders and a pretraining run whose network was never trained: its colours suffice here."""
    root = tmp_path_factory.mktemp("study")
    write_images(root / "data/train", each=20)
    write_images(root / "data/val", each=6, seed=1)
    (root / "x").mkdir()
    torch.manual_seed(0)
    torch.save(
        build_backbone("resnet10", small_images=True)[0].state_dict(), root / "x/backbone.pth"
    )
    about = {
        "stage": "03_pretrain",
        "method": "vicreg",
        "size": 32,
        "mix": 0.5,
        "generated_by": ["real"],
    }
    (root / "x/args.json").write_text(json.dumps(about))
    return root


def result(out):
    return json.loads((Path(out) / "result.json").read_text())


def numbers(out):
    """All that was measured, without the arguments."""
    return {key: value for key, value in result(out).items() if key != "args"}


def epochs(out):
    lines = map(json.loads, (Path(out) / "log.jsonl").read_text().splitlines())
    return [line for line in lines if line["event"] == "epoch"]


# ------------------------------------------------------------------ 04
def test_linear_published(study, tmp_path, capsys):
    arguments = [
        "--data",
        study / "data",
        "--backbone",
        study / "x",
        "--epochs",
        3,
        "--batch-size",
        20,
        "--learning-rate",
        0.5,
        "--seeds",
        0,
        1,
        *SMALL,
    ]
    run("04_linear_eval.py", *arguments, "--out", tmp_path / "one")
    one = result(tmp_path / "one")
    assert (
        one["results"]["top1"]["mean"] > 80
        and one["results"]["best_top1"]["mean"] >= one["results"]["top1"]["mean"]
    )
    assert one["results"]["top5"]["mean"] == 100 and len(one["results"]["top1"]["values"]) == 2
    assert (
        one["backbone"]["generated_by"] == ["real"]
        and len(one["backbone_sha256"]) == 64
        and one["size"] == 32
    )
    assert one["images"] == {"train": 60, "val": 18, "classes": 3}
    assert sum(n for row in one["confusion"].values() for n in row.values()) == 2 * 18
    assert (tmp_path / "one/result.png").exists() and not (tmp_path / "one/checkpoint.pth").exists()

    run("04_linear_eval.py", *arguments, "--out", tmp_path / "two", processes=2)
    assert numbers(tmp_path / "two") == numbers(tmp_path / "one")
    for a, b in zip(epochs(tmp_path / "one"), epochs(tmp_path / "two"), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)

    log = tmp_path / "again/log.jsonl"
    run_killed(
        "04_linear_eval.py",
        *arguments,
        "--out",
        tmp_path / "again",
        when=lambda: log.exists() and log.read_text().count('"epoch",') >= 2,
    )
    call("04_linear_eval.py", *arguments, "--out", tmp_path / "again")
    assert numbers(tmp_path / "again") == numbers(tmp_path / "one")
    assert epochs(tmp_path / "again") == epochs(tmp_path / "one")
    before = log.read_bytes()
    call("04_linear_eval.py", *arguments, "--out", tmp_path / "again")
    assert log.read_bytes() == before and "is finished" in capsys.readouterr().out
    sentence = refused(
        capsys, "04_linear_eval.py", *arguments, "--weight-decay", 0.1, "--out", tmp_path / "again"
    )
    assert "--weight-decay was 1e-06, now 0.1" in sentence


def test_linear_cached(study, tmp_path, capsys):
    arguments = [
        "--data",
        study / "data",
        "--backbone",
        study / "x/backbone.pth",
        "--cache-features",
        "--knn",
        "--seeds",
        0,
        1,
        *SMALL,
    ]
    said = run(
        "04_linear_eval.py",
        *arguments,
        "--baselines",
        "--cache-crops",
        2,
        "--out",
        tmp_path / "one",
    ).stdout
    one = result(tmp_path / "one")
    assert one["results"]["top1"]["mean"] == 100 and one["results"]["knn_top1"]["mean"] > 80
    assert one["baselines"]["majority class"]["top1"]["mean"] == pytest.approx(100 / 3, abs=1e-3)
    assert set(one["baselines"]) == {"majority class", "colour statistics", "random-init network"}
    assert "colour statistics: top1" in said and "resnet10, 256 features: 72 tensors" in said
    call("04_linear_eval.py", *arguments, "--out", study / "x-default")
    assert result(study / "x-default")["baselines"] == {}

    shuffled = tmp_path / "shuffled"  # labels that mean nothing: chance
    rng, names = np.random.default_rng(0), "abc"
    for split in ("train", "val"):
        for i, file in enumerate(sorted((study / "data" / split).glob("*/*.png"))):
            target = shuffled / split / names[rng.integers(3)] / f"{i}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)
    call("04_linear_eval.py", "--data", shuffled, *arguments[2:], "--out", tmp_path / "chance")
    assert result(tmp_path / "chance")["results"]["top1"]["mean"] < 72  # 18 images: 33 +- 11


def test_linear_refuses(study, tmp_path, capsys):
    def sentence(data, *more):
        return refused(
            capsys,
            "04_linear_eval.py",
            "--data",
            data,
            "--backbone",
            study / "x",
            "--out",
            tmp_path / "out",
            *SMALL,
            *more,
        )

    data = shutil.copytree(study / "data", tmp_path / "data")
    assert "--batch-size" in sentence(data, "--batch-size", 100)
    (data / "val/b").rename(data / "val/z")
    assert "different classes" in sentence(data) and "b, z" in sentence(data)
    (data / "val/z").rename(data / "val/b")
    (data / "train/empty").mkdir()
    assert "empty" in sentence(data)
    (data / "train/empty").rmdir()
    assert "valid" in sentence(data, "--eval-on", "valid")
    (data / "train/a/000.png").write_bytes(b"no image")
    assert "000.png cannot be read" in sentence(data, "--cache-features")
    no_run = refused(
        capsys,
        "04_linear_eval.py",
        "--data",
        data,
        "--backbone",
        tmp_path,
        "--cache-features",
        *SMALL,
    )
    assert "backbone.pth" in no_run and "finish the pretraining" in no_run


# ------------------------------------------------------------------ 05
def test_semisupervised(study, tmp_path, capsys):
    arguments = ["--data", study / "data", "--epochs", 2, "--batch-size", 6, *SMALL]
    tuned = [*arguments, "--backbone", study / "x", "--percent", 10]
    run("05_semisup_eval.py", *tuned, "--out", tmp_path / "one")
    one, lines = result(tmp_path / "one"), (tmp_path / "one/subset.txt").read_text().splitlines()
    assert [line.split("/")[0] for line in lines] == ["a", "a", "b", "b", "c", "c"]
    assert (one["args"]["learning_rate"], one["args"]["head_learning_rate"]) == (0.01, 0.1)
    assert one["images"]["train"] == 6 and one["backbone"]["method"] == "vicreg"
    call(
        "05_semisup_eval.py",
        *tuned,
        "--subset-file",
        tmp_path / "one/subset.txt",
        "--out",
        tmp_path / "same",
    )
    assert numbers(tmp_path / "same") == numbers(tmp_path / "one")
    call("05_semisup_eval.py", *tuned, "--subset-seed", 1, "--out", tmp_path / "other")
    assert (tmp_path / "other/subset.txt").read_text().splitlines() != lines

    assert "leaves 3 of 3 classes" in refused(
        capsys,
        "05_semisup_eval.py",
        *arguments,
        "--backbone",
        study / "x",
        "--percent",
        1,
        "--out",
        tmp_path / "none",
    )
    (tmp_path / "list").write_text("001.png\nn01440764_10026.JPEG\n")
    assert "1 of 2 names" in refused(
        capsys,
        "05_semisup_eval.py",
        *tuned,
        "--subset-file",
        tmp_path / "list",
        "--out",
        tmp_path / "none",
    )
    assert not (tmp_path / "none").exists()


def test_supervised_baseline(study, tmp_path):
    arguments = [
        "--data",
        study / "data",
        "--from-scratch",
        "--percent",
        100,
        "--architecture",
        "resnet10",
        "--small-images",
        "--size",
        32,
        "--epochs",
        3,
        "--batch-size",
        20,
        "--learning-rate",
        0.02,
        "--head-learning-rate",
        0.02,
        *SMALL,
    ]
    log = tmp_path / "one/log.jsonl"
    run_killed(
        "05_semisup_eval.py",
        *arguments,
        "--out",
        tmp_path / "one",
        when=lambda: log.exists() and log.read_text().count('"epoch",') >= 1,
    )
    call("05_semisup_eval.py", *arguments, "--out", tmp_path / "one")
    assert result(tmp_path / "one")["results"]["top1"]["mean"] > 60
    assert result(tmp_path / "one")["backbone"]["source"] == "from scratch"
    run("05_semisup_eval.py", *arguments, "--out", tmp_path / "two", processes=2)
    losses = [[line["loss"] for line in epochs(tmp_path / name)] for name in ("one", "two")]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)  # BatchNorm over both: else far apart
    assert result(tmp_path / "two")["results"] == result(tmp_path / "one")["results"]


# ------------------------------------------------------------------ 06
def picture(path, hues, rng):
    """Bands of noisy colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    bands = [np.array(colorsys.hsv_to_rgb(hue, 1, 0.9)) * 255 for hue in hues]
    image = np.repeat(np.array(bands)[:, None], 32, 1).repeat(32 // len(bands), 0) + rng.normal(
        0, 10, (32, 32, 3)
    )
    Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(path, quality=95)


def write_voc(root):
    """VOCdevkit/VOC2007 with every class in four images of each split, and one difficult dog beside a cat."""
    voc, rng = call.modules["06_transfer"].VOC, np.random.default_rng(0)
    base = root / "VOCdevkit/VOC2007"
    for folder in ("Annotations", "ImageSets/Main"):
        (base / folder).mkdir(parents=True)
    for split in ("trainval", "test"):
        names = []
        for i in range(4 * len(voc)):
            names.append(f"{split}_{i:03d}")
            kind, other = i % len(voc), (i + 7 * (i // len(voc))) % len(voc)
            objects = [(voc[kind], 0), (voc[other], 0)] + [("dog", 1)] * (
                voc[kind] == "cat" and i == kind
            )
            picture(base / f"JPEGImages/{names[-1]}.jpg", [kind / len(voc), other / len(voc)], rng)
            xml = "".join(
                f"<object><name>{name}</name><difficult>{difficult}</difficult></object>"
                for name, difficult in objects
            )
            (base / f"Annotations/{names[-1]}.xml").write_text(f"<annotation>{xml}</annotation>")
        (base / f"ImageSets/Main/{split}.txt").write_text("\n".join(names) + "\n")
    return base


def load_stage():
    with pytest.raises(SystemExit):  # call() keeps the module for the helpers below
        call(
            "06_transfer.py",
            "folder",
            "--data",
            "/nonexistent",
            "--backbone",
            "random",
            "--out",
            "/nonexistent/out",
        )
    return call.modules["06_transfer"]


def test_voc07(study, tmp_path, capsys):
    stage, base = load_stage(), write_voc(tmp_path / "data")
    classes, (_, labels), _ = stage.read_voc(tmp_path / "data")
    cat, dog = classes.index("cat"), classes.index("dog")
    assert labels[cat, dog] == -1 and labels[cat, cat] == 1 and (labels == -1).sum() == 1
    arguments = [
        "voc07",
        "--data",
        tmp_path / "data",
        "--backbone",
        study / "x",
        "--costs",
        1,
        10,
        *SMALL,
    ]
    run("06_transfer.py", *arguments, "--out", tmp_path / "one", processes=2)
    one = result(tmp_path / "one")
    assert one["results"]["map"]["mean"] > 50 and set(one["results"]) == {
        "map",
        "map_11point",
        "top1",
    }
    assert set(one["average_precision"]) == set(classes) and set(one["svm_c"].values()) <= {1, 10}
    call("06_transfer.py", *arguments, "--out", tmp_path / "two")
    assert numbers(tmp_path / "two") == numbers(tmp_path / "one")
    assert "mAP is the usual measure" in capsys.readouterr().out
    file = base / "Annotations/test_003.xml"
    file.write_text(file.read_text().replace("boat", "dragon"))
    assert "unknown class 'dragon'" in refused(
        capsys, "06_transfer.py", *arguments, "--out", tmp_path / "no"
    )
    file.write_text("<annotation>")
    assert "test_003.xml cannot be read" in refused(
        capsys, "06_transfer.py", *arguments, "--out", tmp_path / "no"
    )


def test_coco(study, tmp_path, capsys):
    rng = np.random.default_rng(0)
    (tmp_path / "data/annotations").mkdir(parents=True)
    for split, n in (("train", 60), ("val", 24)):
        images, marks = [], []
        for i in range(n):
            kinds = [k for k in range(3) if rng.random() < 0.5]
            picture(
                tmp_path / f"data/{split}2014/{i:03d}.jpg", [k / 4 for k in kinds or [3]], rng
            ) if len(kinds) != 3 else picture(
                tmp_path / f"data/{split}2014/{i:03d}.jpg", [0, 0.25, 0.5, 0.5], rng
            )
            images.append({"id": 1000 + i, "file_name": f"{i:03d}.jpg"})
            marks += [
                {"image_id": 1000 + i, "category_id": 10 * (k + 1), "iscrowd": 0} for k in kinds
            ]
        content = {
            "images": images,
            "annotations": marks,
            "categories": [
                {"id": 10 * (k + 1), "name": name} for k, name in enumerate(("cup", "fork", "tv"))
            ],
        }
        (tmp_path / f"data/annotations/instances_{split}2014.json").write_text(json.dumps(content))
    arguments = ["coco", "--data", tmp_path / "data", "--backbone", study / "x", *SMALL]
    run("06_transfer.py", *arguments, "--out", tmp_path / "one")
    one = result(tmp_path / "one")
    assert one["results"]["map"]["mean"] > 90 and set(one["average_precision"]) == {
        "cup",
        "fork",
        "tv",
    }
    content["annotations"][0]["category_id"] = 7
    (tmp_path / "data/annotations/instances_val2014.json").write_text(json.dumps(content))
    assert "7 is missing or unknown" in refused(
        capsys, "06_transfer.py", *arguments, "--out", tmp_path / "no"
    )


def test_places365(study, tmp_path, capsys):
    stage = load_stage()
    data, names = tmp_path / "lists", {"a": "/a/abbey", "b": "/b/bar", "c": "/c/cave/outdoor"}
    for split, listing in (("train", "places365_train_standard.txt"), ("val", "places365_val.txt")):
        lines = []
        for label, (kind, name) in enumerate(names.items()):
            for i, file in enumerate(sorted((study / "data" / split / kind).iterdir())):
                inside = (
                    f"{name}/{i:08d}.png"
                    if split == "train"
                    else f"Places365_val_{label}{i:07d}.png"
                )
                target = (
                    data
                    / {"train": "data_256_standard", "val": "val_256"}[split]
                    / inside.lstrip("/")
                )
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, target)
                lines.append(f"{inside} {label}")
        (data / listing).write_text("\n".join(lines) + "\n")
    assert stage.read_places(data)[0] == ["abbey", "bar", "cave/outdoor"]
    folders = study / "data"
    for kind, where, out in (
        ("places365", data, "a"),
        ("places365", folders, "b"),
        ("folder", folders, "c"),
    ):
        call(
            "06_transfer.py",
            kind,
            "--data",
            where,
            "--backbone",
            study / "x",
            "--out",
            tmp_path / out,
            *SMALL,
        )
        assert result(tmp_path / out)["results"]["top1"]["mean"] == 100
    with open(data / "places365_val.txt", "a") as file:
        file.write("Places365_val_x.png 365\n")
    assert "labels [365]" in refused(
        capsys,
        "06_transfer.py",
        "places365",
        "--data",
        data,
        "--backbone",
        study / "x",
        "--out",
        tmp_path / "no",
        *SMALL,
    )
