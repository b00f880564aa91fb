"""04 and 05 as a user runs them, on tiny data sets; what 06 has in common with them."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import call, refused, run, stage_module, write_images
from evaluation_study import LINEAR, SEMISUP, SMALL, epochs, numbers, of, result, write_backbone

from evaluate import features
from images import labelled


def test_linear_published(study, tmp_path, capsys):
    protocol = ["--epochs", 3, "--batch-size", 20, "--learning-rate", 0.5, "--seeds", 0, 1]
    arguments = of(study, *protocol)
    run(LINEAR, *arguments, "--out", tmp_path / "one")
    one = result(tmp_path / "one")
    top1, best = one["results"]["top1"], one["results"]["best_top1"]
    assert top1["mean"] > 80 and best["mean"] >= top1["mean"] and len(top1["values"]) == 2
    assert one["results"]["top5"]["mean"] == 100
    assert one["backbone"]["generated_by"] == ["real"] and one["backbone"]["method"] == "vicreg"
    assert len(one["backbone_sha256"]) == 64 and one["size"] == 32
    counts = {"train": 60, "val": 18, "classes": 3, "val also in train": 0, "unreadable": {}}
    assert one["images"] == counts
    assert sum(n for row in one["confusion"].values() for n in row.values()) == 2 * 18
    assert (tmp_path / "one/result.png").exists() and not (tmp_path / "one/checkpoint.pth").exists()

    run(LINEAR, *arguments, "--out", tmp_path / "two", processes=2)
    assert numbers(tmp_path / "two") == numbers(tmp_path / "one")
    for a, b in zip(epochs(tmp_path / "one"), epochs(tmp_path / "two"), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
    changed = ("--weight-decay", 0.1, "--out", tmp_path / "one")
    sentence = refused(capsys, LINEAR, *arguments, *changed)
    assert "--weight-decay was 1e-06, now 0.1" in sentence


def test_linear_cached(study, tmp_path):
    protocol = ["--cache-features", "--knn", "--seeds", 0, 1]
    arguments = of(study, *protocol)
    said = run(LINEAR, *arguments, "--baselines", "--out", tmp_path / "one").stdout
    one = result(tmp_path / "one")
    assert one["results"]["top1"]["mean"] == 100 and one["results"]["knn_top1"]["mean"] > 80
    found = one["baselines"]
    assert found["majority class"]["top1"]["mean"] == pytest.approx(100 / 3, abs=1e-3)
    networks = {"raw pixels", "colour statistics", "random-init network"}
    assert set(found) == {"majority class"} | networks
    assert "colour statistics: top1" in said and "resnet10, 256 features: 72 tensors" in said
    call(LINEAR, *arguments)
    assert result(study / "x-cached")["baselines"] == {}

    shuffled = tmp_path / "shuffled"  # labels that mean nothing: chance
    rng, names = np.random.default_rng(0), "abc"
    for split in ("train", "val"):
        for i, file in enumerate(sorted((study / "data" / split).glob("*/*.png"))):
            target = shuffled / split / names[rng.integers(3)] / f"{i}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)
    call(LINEAR, *arguments, "--data", shuffled, "--out", tmp_path / "chance")
    assert result(tmp_path / "chance")["results"]["top1"]["mean"] < 72  # 18 images: 33 +- 11


def test_few_labels(study, tmp_path, capsys):
    few = of(study, "--cache-features", "--labels-per-class", 2, "--draws", 4, "--baselines")
    run(LINEAR, *few, "--out", tmp_path / "one")
    one = result(tmp_path / "one")
    top1 = one["results"]["top1"]
    assert len(top1["values"]) == 4 and top1["mean"] == pytest.approx(np.mean(top1["values"]), 1e-4)
    assert one["results"]["weight_decay"] == [1 / 6] * 4
    assert one["args"]["labels_per_class"] == 2 and one["args"]["draws"] == 4
    assert len(one["baselines"]["raw pixels"]["top1"]["values"]) == 4
    assert sum(n for row in one["confusion"].values() for n in row.values()) == 4 * 18
    run(LINEAR, *few, "--out", tmp_path / "two", processes=2)
    assert numbers(tmp_path / "two") == numbers(tmp_path / "one")
    call(LINEAR, *few, "--seeds", 1, "--out", tmp_path / "other")
    assert numbers(tmp_path / "other")["results"]["top5"]["mean"] == 100

    sentence = refused(capsys, LINEAR, *few, "--labels-per-class", 21, "--out", tmp_path / "no")
    assert "class a has only 20 training images" in sentence
    for more, words in ((["--seeds", 0, 1], "takes one seed"), (["--draws", 0], "above 0")):
        assert words in refused(capsys, LINEAR, *few, *more, "--out", tmp_path / "no")
    assert not (tmp_path / "no").exists()


def test_several_numbers_of_labels(study, tmp_path, capsys, monkeypatch):
    """The images are read once; each result is that of a command of its own, also after a kill."""
    flags = ["--cache-features", "--knn", "--draws", 3, "--baselines", "--max-unreadable", 0.1]
    flags = of(study, *flags)
    data = shutil.copytree(study / "data", tmp_path / "data")
    Path(data, "train/a/000.png").write_bytes(b"x")
    Path(data, "val/a/001.png").write_bytes(b"x")
    where = ["--data", data, "--backbone", write_backbone(tmp_path / "x")]
    for labels, name in (("all", "x-cached"), (2, "x-2labels"), (5, "x-5labels")):
        call(LINEAR, *flags, *where, "--labels-per-class", labels)
        shutil.move(tmp_path / name, tmp_path / f"single-{name}")
    many = [*flags, *where, "--labels-per-class", 2, 5, "all", 2]
    read = []
    extract = features.extract
    monkeypatch.setattr(features, "extract", lambda *a, **k: read.append(1) or extract(*a, **k))
    call(LINEAR, *many)
    assert len(read) == 2 * 4, "train and val, by the backbone and three baselines"
    for name in ("x-cached", "x-2labels", "x-5labels"):
        assert result(tmp_path / name) == result(tmp_path / f"single-{name}")
        assert result(tmp_path / name)["images"]["unreadable"] == {"train": 1, "val": 1}
    (tmp_path / "x-5labels/result.json").unlink()  # as if it had been killed here
    shutil.rmtree(tmp_path / "x-cached")
    capsys.readouterr()
    call(LINEAR, *many)
    assert capsys.readouterr().out.count("is finished") == 1
    for name in ("x-cached", "x-2labels", "x-5labels"):
        assert numbers(tmp_path / name) == numbers(tmp_path / f"single-{name}")
    said = refused(capsys, LINEAR, *many, "--out", tmp_path / "no")
    assert "--out names one folder" in said
    said = refused(capsys, LINEAR, *flags, "--labels-per-class", "x")
    assert "argument --labels-per-class: " in said


def test_the_draws_are_of_each_class_and_by_seed(study):
    stage = stage_module(LINEAR)
    data = labelled.read_splits(study / "data")
    words = "--data x --backbone x --cache-features --labels-per-class 5"
    args = stage.arguments(words.split())
    [args] = stage.measurements(args)
    masks = [stage.draw_labels(args, data, draw) for draw in (0, 1)]
    for mask in masks:
        assert np.bincount(data.train.labels[mask]).tolist() == [5, 5, 5]
    assert not np.array_equal(*masks)
    assert np.array_equal(masks[0], stage.draw_labels(args, data, 0))
    args.seeds = [1]
    assert not np.array_equal(masks[0], stage.draw_labels(args, data, 0))


def test_dino_resizes_bicubically(study, tmp_path):
    write_images(tmp_path / "data/train", each=4, size=48)
    write_images(tmp_path / "data/val", each=2, size=48, seed=1)
    write_backbone(tmp_path / "dino", method="dino")
    arguments = ["--data", tmp_path / "data", "--backbone", tmp_path / "dino", *SMALL]
    call(LINEAR, *arguments, "--cache-features", "--out", tmp_path / "out")
    assert result(tmp_path / "out")["args"]["interpolation"] == "bicubic"
    call(LINEAR, *arguments, "--epochs", 1, "--batch-size", 4, "--out", tmp_path / "published")
    assert result(tmp_path / "published")["args"]["learning_rate"] == 0.3


def test_linear_refuses(study, tmp_path, capsys):
    data = shutil.copytree(study / "data", tmp_path / "data")

    def sentence(*more):
        arguments = ["--backbone", study / "x", "--out", tmp_path / "out", *SMALL, *more]
        return refused(capsys, LINEAR, "--data", data, *arguments)

    assert "--batch-size" in sentence("--batch-size", 100)
    assert "valid" in sentence("--eval-on", "valid")
    assert "finish the pretraining" in sentence("--backbone", tmp_path, "--cache-features")
    (data / "val/b").rename(data / "val/z")
    assert "different classes" in sentence() and "b, z" in sentence()
    assert "typo" in sentence("--data", tmp_path / "typo")


def test_what_changed_behind_a_result(study, tmp_path, capsys):
    data = shutil.copytree(study / "data", tmp_path / "data")
    write_backbone(tmp_path / "x")
    linear = ["--data", data, "--backbone", tmp_path / "x", "--cache-features", *SMALL]
    semi = ["--data", data, "--backbone", tmp_path / "x", "--percent", 10, "--epochs", 1]
    semi += ["--batch-size", 2, "--subset-file", tmp_path / "list", "--out", tmp_path / "semi"]
    (tmp_path / "list").write_text("a/001.png\nb/001.png\nc/001.png\n")
    call(LINEAR, *linear)
    call(SEMISUP, *semi, *SMALL)
    capsys.readouterr()
    (tmp_path / "list").write_bytes(b"c/001.png\r\nb/001.png\r\na/001.png")  # the same images
    call(SEMISUP, *semi, *SMALL)
    assert "is finished" in capsys.readouterr().out
    (tmp_path / "list").write_text("a/001.png\nb/001.png\nc/002.png\n")
    assert "training set was" in refused(capsys, SEMISUP, *semi, *SMALL)
    (data / "val/a/000.png").rename(data / "val/b/x.png")
    assert "evaluation set was" in refused(capsys, LINEAR, *linear)
    (data / "val/b/x.png").rename(data / "val/a/000.png")
    call(LINEAR, *linear)
    assert "is finished" in capsys.readouterr().out


def test_semisupervised(study, tmp_path, capsys):
    small = ["--epochs", 2, "--batch-size", 6]
    tuned = of(study, *small, "--percent", 10)
    run(SEMISUP, *tuned, "--out", tmp_path / "one")
    one = result(tmp_path / "one")
    lines = (tmp_path / "one/subset.txt").read_text().splitlines()
    assert [line.split("/")[0] for line in lines] == ["a", "a", "b", "b", "c", "c"]
    assert (one["args"]["learning_rate"], one["args"]["head_learning_rate"]) == (0.01, 0.1)
    assert one["images"]["train"] == 6 and one["backbone"]["method"] == "vicreg"
    listed = ["--subset-file", tmp_path / "one/subset.txt"]
    call(SEMISUP, *tuned, *listed, "--out", tmp_path / "same")
    assert numbers(tmp_path / "same") == numbers(tmp_path / "one")
    call(SEMISUP, *tuned, "--subset-seed", 1, "--out", tmp_path / "other")
    assert (tmp_path / "other/subset.txt").read_text().splitlines() != lines

    no = ["--out", tmp_path / "none"]
    assert "leaves 3 of 3 classes" in refused(capsys, SEMISUP, *of(study, *small), *no)
    (tmp_path / "list").write_text("a/001.png\nn01440764_10026.JPEG\n")
    listed = ["--subset-file", tmp_path / "list"]
    assert "1 of 2 names" in refused(capsys, SEMISUP, *tuned, *listed, *no)
    (tmp_path / "list").write_text("001.png\n")
    assert "fits 3 images" in refused(capsys, SEMISUP, *tuned, *listed, *no)
    assert not (tmp_path / "none").exists()


def test_rates_of_the_published_methods(study, tmp_path):
    stage = stage_module(SEMISUP)

    def filled(method, *more):
        args = stage.arguments(["--data", "x", "--backbone", "x", *more])
        stage.fill_in(args, method)
        return args

    rates = {}
    for method in ("vicreg", "barlow", "swav", "dino"):
        for percent in ("1", "10", "100"):
            args = filled(method, "--percent", percent)
            rates[method, percent] = args.learning_rate, args.head_learning_rate
            assert (args.epochs, args.weight_decay) == (20, 0)
    assert rates["vicreg", "1"] == rates["dino", "1"] == (0.03, 0.08)
    assert rates["vicreg", "10"] == rates["vicreg", "100"] == (0.01, 0.1)
    assert rates["barlow", "1"] == (0.005, 0.5)
    assert rates["swav", "1"] == (0.02, 5) and rates["swav", "10"] == (0.01, 0.2)
    assert filled("swav", "--learning-rate", "1").learning_rate == 1

    steps = [stage.schedule(epoch, "swav", 20) for epoch in range(20)]
    assert steps == pytest.approx([1] * 12 + [0.2] * 4 + [0.04] * 4)
    cosine = [stage.schedule(epoch, "barlow", 20) for epoch in (0, 10)]
    assert cosine == pytest.approx([1, 0.5])
    write_backbone(tmp_path / "swav", method="swav")
    arguments = of(study, "--backbone", tmp_path / "swav", "--percent", 10)
    arguments += ["--batch-size", 6, "--epochs", 2, "--out", tmp_path / "out"]
    call(SEMISUP, *arguments)
    assert result(tmp_path / "out")["args"]["protocol"] == "swav"


def test_supervised_baseline(study, tmp_path):
    arguments = ["--data", study / "data", "--from-scratch", "--percent", 100]
    arguments += ["--architecture", "resnet10", "--small-images", "--size", 32, "--epochs", 3]
    arguments += ["--batch-size", 20, "--learning-rate", 0.02]
    arguments += SMALL
    call(SEMISUP, *arguments, "--out", tmp_path / "one")
    assert result(tmp_path / "one")["results"]["top1"]["mean"] > 60
    assert result(tmp_path / "one")["backbone"]["source"] == "from scratch"
    run(SEMISUP, *arguments, "--out", tmp_path / "two", processes=2)
    losses = [[line["loss"] for line in epochs(tmp_path / name)] for name in ("one", "two")]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)  # BatchNorm over both: else far apart
    assert result(tmp_path / "two")["results"] == result(tmp_path / "one")["results"]
