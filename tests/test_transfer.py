"""06 as a user runs it, on tiny data sets in their official layouts."""

import json
import shutil

from conftest import call, refused, run, stage_module
from evaluation_study import SMALL, TRANSFER, numbers, of, result
from tiny import coco, voc

from images import labelled


def test_voc07(study, tmp_path, capsys):
    base = voc(tmp_path / "data")
    with_a_cat = base / "Annotations/trainval02.xml"
    dog = "<object><name>dog</name><difficult>1</difficult></object></annotation>"
    with_a_cat.write_text(with_a_cat.read_text().replace("</annotation>", dog))
    data = labelled.read_voc(tmp_path / "data")
    names = data.classes
    labels = data.train.labels
    assert labels[2, names.index("dog")] == -1 and labels[2, names.index("cat")] == 1
    assert (labels == -1).sum() == 1
    arguments = ["voc07", "--data", tmp_path / "data", "--backbone", study / "x", *SMALL]
    said = run(TRANSFER, *arguments, "--out", tmp_path / "one", processes=2).stderr
    assert "ConvergenceWarning" not in said
    one = result(tmp_path / "one")
    assert one["results"]["map"]["mean"] > 50
    assert set(one["results"]) == {"map", "map_11point", "top1"}
    assert set(one["average_precision"]) == set(names)
    assert set(one["svm_c"].values()) <= set(stage_module(TRANSFER).COSTS)
    call(TRANSFER, *arguments, "--out", tmp_path / "two")
    assert numbers(tmp_path / "two") == numbers(tmp_path / "one")
    call(TRANSFER, *arguments, "--pool", 1, "--out", tmp_path / "pooled")  # the whole 2 x 2 map
    assert result(tmp_path / "pooled")["results"]["map"]["mean"] > 50
    no = ["--out", tmp_path / "no"]
    assert "--pool 9 is larger" in refused(capsys, TRANSFER, *arguments, "--pool", 9, *no)
    file = base / "Annotations/test03.xml"
    file.write_text(file.read_text().replace("boat", "dragon"))
    assert "'dragon' is not in list" in refused(capsys, TRANSFER, *arguments, *no)
    file.write_text("<annotation>")
    assert "test03.xml cannot be read" in refused(capsys, TRANSFER, *arguments, *no)
    (base / "ImageSets/Main/test.txt").write_text("\n")
    assert "no images" in refused(capsys, TRANSFER, *arguments, *no)


def test_coco(study, tmp_path, capsys):
    annotations = coco(tmp_path / "data")
    content = json.loads(annotations.read_text())
    arguments = ["coco", "--data", tmp_path / "data", "--backbone", study / "x", *SMALL]
    run(TRANSFER, *arguments, "--out", tmp_path / "one")
    one = result(tmp_path / "one")
    assert one["results"]["map"]["mean"] > 90
    assert set(one["average_precision"]) == {"cup", "fork", "tv"}
    no = ["--out", tmp_path / "no"]
    content["annotations"][0]["category_id"] = 7
    annotations.write_text(json.dumps(content))
    assert "7 is missing or unknown" in refused(capsys, TRANSFER, *arguments, *no)
    content["annotations"][0]["category_id"] = 10
    content["categories"][0]["name"] = "mug"
    annotations.write_text(json.dumps(content))
    assert "other categories" in refused(capsys, TRANSFER, *arguments, *no)


def write_places(root, data):
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


def test_places365_and_class_folders(study, tmp_path, capsys):
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
    arguments = ["folder", *of(study)]
    call(TRANSFER, *arguments, "--out", tmp_path / "one")
    assert result(tmp_path / "one")["results"]["top1"]["mean"] == 100
    run(TRANSFER, *arguments, "--out", tmp_path / "two", processes=2)
    assert numbers(tmp_path / "two") == numbers(tmp_path / "one")
