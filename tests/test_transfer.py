"""06 as a user runs it, on tiny data sets in their official layouts."""

import colorsys
import json
import shutil

import numpy as np
import pytest
from conftest import call, refused, run
from evaluation_study import SMALL, TRANSFER, make_study, numbers, of, result
from PIL import Image

from images import labelled


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return make_study(tmp_path_factory.mktemp("study"))


def picture(path, hues, rng):
    """Bands of noisy colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    bands = [np.array(colorsys.hsv_to_rgb(hue, 1, 0.9)) * 255 for hue in hues]
    image = np.repeat(np.array(bands)[:, None], 32, 1).repeat(32 // len(bands), 0)
    image = image + rng.normal(0, 10, (32, 32, 3))
    Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(path, quality=95)


def write_voc(root):
    """VOC2007 with every class in four images of each split, and one difficult dog with a cat."""
    voc, rng = labelled.VOC, np.random.default_rng(0)
    base = root / "VOCdevkit/VOC2007"
    for folder in ("Annotations", "ImageSets/Main"):
        (base / folder).mkdir(parents=True)
    for split in ("trainval", "test"):
        names = []
        for i in range(4 * len(voc)):
            name = f"{split}_{i:03d}"
            names.append(name)
            kind, other = i % len(voc), (i + 7 * (i // len(voc))) % len(voc)
            objects = [(voc[kind], 0), (voc[other], 0)]
            if voc[kind] == "cat" and i == kind:
                objects.append(("dog", 1))
            picture(base / f"JPEGImages/{name}.jpg", [kind / len(voc), other / len(voc)], rng)
            xml = ""
            for what, difficult in objects:
                xml += f"<object><name>{what}</name><difficult>{difficult}</difficult></object>"
            (base / f"Annotations/{name}.xml").write_text(f"<annotation>{xml}</annotation>")
        (base / f"ImageSets/Main/{split}.txt").write_text("\r\n".join(names) + "\r\n")
    return base


def test_voc07(study, tmp_path, capsys):
    base = write_voc(tmp_path / "data")
    data = labelled.read_voc(tmp_path / "data")
    cat, dog = data.classes.index("cat"), data.classes.index("dog")
    labels = data.train.labels
    assert labels[cat, dog] == -1 and labels[cat, cat] == 1 and (labels == -1).sum() == 1
    arguments = ["voc07", "--data", tmp_path / "data", "--backbone", study / "x"]
    arguments += ["--costs", 1, 10, *SMALL]
    said = run(TRANSFER, *arguments, "--out", tmp_path / "one", processes=2).stderr
    assert "ConvergenceWarning" not in said
    one = result(tmp_path / "one")
    assert one["results"]["map"]["mean"] > 50
    assert set(one["results"]) == {"map", "map_11point", "top1"}
    assert set(one["average_precision"]) == set(data.classes)
    assert set(one["svm_c"].values()) <= {1, 10}
    call(TRANSFER, *arguments, "--out", tmp_path / "two")
    assert numbers(tmp_path / "two") == numbers(tmp_path / "one")

    call(TRANSFER, *arguments, "--pool", 1, "--out", tmp_path / "pooled")  # the whole 2 x 2 map
    assert result(tmp_path / "pooled")["results"]["map"]["mean"] > 50
    no = ["--out", tmp_path / "no"]
    assert "--pool 9 is larger" in refused(capsys, TRANSFER, *arguments, "--pool", 9, *no)
    file = base / "Annotations/test_003.xml"
    file.write_text(file.read_text().replace("boat", "dragon"))
    assert "'dragon' is not in list" in refused(capsys, TRANSFER, *arguments, *no)
    file.write_text("<annotation>")
    assert "test_003.xml cannot be read" in refused(capsys, TRANSFER, *arguments, *no)
    (base / "ImageSets/Main/test.txt").write_text("\n")
    assert "no images" in refused(capsys, TRANSFER, *arguments, *no)


def write_coco(root):
    """COCO of 2014 with three categories, each in half of the images."""
    rng = np.random.default_rng(0)
    (root / "annotations").mkdir(parents=True)
    names = {10: "cup", 20: "fork", 30: "tv"}
    categories = [{"id": number, "name": name} for number, name in names.items()]
    for split, n in (("train", 60), ("val", 24)):
        images, marks = [], []
        for i in range(n):
            kinds = [k for k in range(3) if rng.random() < 0.5]
            hues = [k / 4 for k in kinds] or [0.75]
            if len(hues) == 3:
                hues.append(0.5)
            picture(root / f"{split}2014/{i:03d}.jpg", hues, rng)
            images.append({"id": 1000 + i, "file_name": f"{i:03d}.jpg"})
            for k in kinds:
                mark = {"image_id": 1000 + i, "category_id": 10 * (k + 1), "iscrowd": 0}
                marks.append(mark)
        content = {"images": images, "annotations": marks, "categories": categories}
        (root / f"annotations/instances_{split}2014.json").write_text(json.dumps(content))
    return content


def test_coco(study, tmp_path, capsys):
    content = write_coco(tmp_path / "data")
    arguments = ["coco", "--data", tmp_path / "data", "--backbone", study / "x", *SMALL]
    run(TRANSFER, *arguments, "--out", tmp_path / "one")
    one = result(tmp_path / "one")
    assert one["results"]["map"]["mean"] > 90
    assert set(one["average_precision"]) == {"cup", "fork", "tv"}
    annotations = tmp_path / "data/annotations/instances_val2014.json"
    no = ["--out", tmp_path / "no"]
    content["annotations"][0]["category_id"] = 7
    annotations.write_text(json.dumps(content))
    assert "7 is missing or unknown" in refused(capsys, TRANSFER, *arguments, *no)
    content["annotations"][0]["category_id"] = 10
    content["categories"][0]["name"] = "mug"
    annotations.write_text(json.dumps(content))
    assert "other categories" in refused(capsys, TRANSFER, *arguments, *no)


def write_places(root, data):
    """The class folders `data` in the layout of the official lists of Places365."""
    names = {"a": "/a/abbey", "b": "/b/bar", "c": "/c/cave/outdoor"}
    folders = {"train": "data_256_standard", "val": "val_256"}
    listings = {"train": "places365_train_standard.txt", "val": "places365_val.txt"}
    for split, folder in folders.items():
        lines = []
        for label, (kind, name) in enumerate(names.items()):
            for i, file in enumerate(sorted((data / split / kind).iterdir())):
                inside = f"{name}/{i:08d}.png"
                if split == "val":
                    inside = f"Places365_val_{label}{i:07d}.png"
                target = root / folder / inside.lstrip("/")
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, target)
                lines.append(f"{inside} {label}")
        (root / listings[split]).write_text("\n".join(lines) + "\n")


def test_places365(study, tmp_path, capsys):
    lists, folders = tmp_path / "lists", study / "data"
    write_places(lists, folders)
    assert labelled.read_places(lists).classes == ["abbey", "bar", "cave/outdoor"]
    for kind, data, out in (("places365", lists, "a"), ("places365", folders, "b")):
        backbone = ["--backbone", study / "x", "--out", tmp_path / out]
        call(TRANSFER, kind, "--data", data, *backbone, *SMALL)
        assert result(tmp_path / out)["results"]["top1"]["mean"] == 100
    places = ["places365", "--data", lists, "--backbone", study / "x", "--out", tmp_path / "no"]
    listing = lists / "places365_val.txt"
    content = listing.read_text()
    listing.write_text(f"{content}Places365_val_x.png 365\n")
    assert "labels [365]" in refused(capsys, TRANSFER, *places, *SMALL)
    listing.write_text(f"{content}Places365_val_x.png\n")
    assert "is not a path and the number" in refused(capsys, TRANSFER, *places, *SMALL)


def test_class_folders(study, tmp_path):
    arguments = ["folder", *of(study)]
    call(TRANSFER, *arguments, "--out", tmp_path / "one")
    assert result(tmp_path / "one")["results"]["top1"]["mean"] == 100
    run(TRANSFER, *arguments, "--out", tmp_path / "two", processes=2)
    assert numbers(tmp_path / "two") == numbers(tmp_path / "one")
