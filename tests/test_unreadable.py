"""Images that cannot be read: one rule for all stages, images/unreadable.py."""

import importlib
import json
import os
import pickle
import shutil
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from bad_inputs import LAYER, LINEAR, RESULTS, TRAIN
from conftest import call, hashes, refused, run_killed
from PIL import Image
from test_bad_inputs import root, unspoilt

from augment import real_images
from base.run import read_json
from base.run_folder import read_log, read_record
from evaluate import features, frechet, ssim
from images import labelled, read, unreadable
from images.files import find_images
from images.pairs import PairDataset
from images.read import read_image
from images.unreadable import ImageList
from models.registry import recipe_of
from models.resnet import load_backbone

VICREG = recipe_of("vicreg")["views"]

CPU = torch.device("cpu")
__all__ = ["root", "unspoilt"]  # fixtures
CUT = "data/train/b/003.png"
CUT_VAL = "data/val/c/002.png"  # the last one: the first of a list stands in for it


def cut(*names):
    """Truncate files, as the Wildfire Prediction Dataset holds some."""
    for name in names:
        data = Path(name).read_bytes()
        Path(name).write_bytes(data[: len(data) // 2])


@pytest.fixture
def three(tmp_path):
    for i, value in enumerate((10, 20, 30)):
        Image.new("RGB", (8, 8), (value,) * 3).save(tmp_path / f"{i}.png")
    return tmp_path


def test_the_next_image_stands_in(three, capsys):
    """Also behind the last one; it is said and noted once, by whichever process meets it."""
    (three / "2.png").write_bytes(b"x")
    record = three / "unreadable.jsonl"
    files = ImageList(three, ["0.png", "1.png", "2.png"], 0.4, record, "train")
    another = pickle.loads(pickle.dumps(files))
    for one in (files, another):
        image, place = one.read_or_next(2)
        assert place == 0 and image[0, 0, 0] == 10
        assert one.read(2) is None and one.read(1)[0, 0, 0] == 20
    assert capsys.readouterr().err.count("2.png cannot be read") == 1
    (line,) = record.read_text().splitlines()
    noted = json.loads(line)
    assert noted["list"] == "train" and noted["file"] == str(three / "2.png") and noted["reason"]


def test_long_names_and_rounded_shares():
    paths = ["x" * 250, *(f"{i}.png" for i in range(1000))]
    files = ImageList("", paths)
    assert [files.path(i) for i in range(len(files))] == paths
    assert len(pickle.dumps(files)) < 20_000
    assert unreadable.allowed(0.001, 999) == 0 and unreadable.allowed(0.001, 1000) == 1
    assert unreadable.allowed(0.29, 100) == 29 and unreadable.allowed(0, 10**6) == 0


def test_too_many_end_the_run(three):
    record = three / "unreadable.jsonl"
    for name in ("1.png", "2.png"):
        (three / name).unlink()
    files = ImageList(three, ["0.png", "1.png", "2.png"], 0.4, record)
    files.read(1)
    with pytest.raises(OSError, match="2 of 3 images.*1.png.*2.png.*unreadable.jsonl.*check"):
        files.read(2)
    again = ImageList(three, ["0.png", "1.png", "2.png"], 0.4, record)
    with pytest.raises(OSError, match="2 of 3"):  # those that were noted before count
        again.read(1)
    other = ImageList(three, ["0.png", "1.png", "2.png"], 0.4, record, "val")
    assert other.read(1) is None  # each list by itself
    with open(record, "a") as file:
        file.write('{"list": "da')  # half a line, of a process that was killed
    lists = {name: list(files) for name, files in read_record(record).items()}
    both = [str(three / "1.png"), str(three / "2.png")]
    assert lists == {"data": both, "val": both[:1]}


def readers(folder, files):
    """{name: a function that reads 0.png of the folder, as a stage does}; files: an ImageList."""
    file = str(folder / "0.png")
    caption = importlib.import_module("01_caption")
    augment = importlib.import_module("02_augment")
    metrics = importlib.import_module("07_metrics")
    args = SimpleNamespace(out=folder, data=folder)
    return {
        "training": lambda: files.read(0),
        "check": lambda: metrics.why_unreadable(file),
        "features": lambda: frechet.read_stacks([file], 0),
        "similarity": lambda: ssim.similarity_of_files((file, file), 0),
        "another image": lambda: real_images.read_first(folder, ["0.png"], 32),
        "captions": lambda: caption.read_for_blip(folder, None, (None, ["0.png"])),
        "generation": lambda: augment.read_batch(["0.png"], folder, read_image),
        "generation again": lambda: augment.known_failures(args),
    }


@pytest.mark.parametrize("name", readers(Path(), None))
def test_an_error_of_the_machine_is_not_the_images(three, monkeypatch, name):
    """A full memory, too many open files: the run stops, and nothing is left out."""
    files = ImageList(three, ["0.png", "1.png"], 1.0)
    failure = {"path": "0.png", "reason": "it was damaged"}
    (three / "failed.jsonl").write_text(json.dumps(failure) + "\n")
    for error in (MemoryError(), OSError(24, os.strerror(24)), OSError(116, os.strerror(116))):

        def fail(data, error=error):
            raise error

        monkeypatch.setattr(read, "_decode", fail)
        with pytest.raises(OSError, match="0.png cannot be read") as raised:
            readers(three, files)[name]()
        assert not isinstance(raised.value, read.UnreadableImage)
    assert not files.met


def test_no_other_pair_changes(root):
    """Item by item: all are as with a sound image, and its own is made of the next one."""
    paths = find_images("data/train")
    place = paths.index("b/003.png")
    settings = {"mix": 0.5, "generated": [Path("gen/view0")], "local_crops": 1, "local_size": 16}

    def items(**more):
        pairs = PairDataset("data/train", paths, VICREG, 32, **settings, **more)
        return [pairs[epoch, index] for epoch in (0, 1) for index in range(24)]

    def equal(a, b):
        return all(map(torch.equal, a[0] + a[1], b[0] + b[1]))

    sound = items()
    shutil.copy("data/train/b/004.png", CUT)  # what should come out
    shutil.copy("gen/view0/b/004.png", "gen/view0/b/003.png")
    expected = items()
    cut(CUT)
    Path("gen/view0/b/003.png").unlink()
    Path("gen/failed.jsonl").write_text('{"path": "b/003.png", "reason": "b/003.png is cut"}\n')
    found = items(share=0.1)
    assert all(map(equal, found, expected))
    others = [i for i in range(48) if i % 24 != place]
    assert all(equal(found[i], sound[i]) for i in others)
    assert not equal(found[place], sound[place])


SHARE = "--max-unreadable 0.2"
EVALUATED = {"train": [CUT], "val": [CUT_VAL]}
NOTED = {"00": {"data": [CUT]}, "03": {"data": [CUT]}}  # which lists a stage reads
NOTED |= dict.fromkeys(("04", "05", "06"), EVALUATED)
COMMANDS = [*RESULTS, LAYER, f"{LINEAR} --knn --labels-per-class 2", f"{TRAIN} --in-memory"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_stage_leaves_it_out(root, capsys, command):
    """It ends with its result, names the images, counts them; by default it ends with a list."""
    cut(CUT, CUT_VAL)
    words = command.split()
    said = refused(capsys, *words, code=1)
    assert "1 of 24 images cannot be read" in said or words[0][1] in "456"
    shutil.rmtree("out", ignore_errors=True)
    call(*words, *SHARE.split())
    said = capsys.readouterr()
    assert f"{CUT} cannot be read" in said.err
    number = words[0][:2]
    if number in NOTED:
        found = read_record("out/unreadable.jsonl")
        assert {name: list(files) for name, files in found.items()} == NOTED[number]
        (event,) = read_log("out", "unreadable")
        assert event["images"] == {name: 1 for name in NOTED[number]}
    if number in ("04", "05", "06"):
        result = read_json("out/result.json")
        counts = {"train": 24, "val": 8, "classes": 3, "val also in train": 0}
        assert result["images"] == counts | {"unreadable": {"train": 1, "val": 1}}
        draws = len(result["results"]["top1"]["values"])
        counted = [sum(row.values()) for row in result["confusion"].values()]
        assert counted == [3 * draws, 3 * draws, 2 * draws]
    elif number == "07":
        assert "23 " in said.out and "1 " in said.out.splitlines()[-1]
    else:
        assert (Path("out") / ("backbone.pth" if number == "03" else "generator.pth")).exists()


def test_features_of_the_others_do_not_change(root):
    backbone = load_backbone("runs/base")[0]
    crop = partial(features.centre_crop, size=32)
    files, names = labelled.read_folder("data/train")
    options = {"workers": 0, "batch": 5}
    whole = ImageList("", files)
    sound, rows = features.extract(backbone, whole, crop, CPU, everywhere=True, **options)
    assert rows.tolist() == list(range(24))
    cut(CUT, "data/train/a/000.png", "data/train/c/007.png")
    left_out = [files.index(CUT), 0, 23]
    some = ImageList("", files, 0.2)
    found, rows = features.extract(backbone, some, crop, CPU, everywhere=True, **options)
    assert rows.tolist() == [i for i in range(24) if i not in left_out]
    assert torch.equal(found, sound[rows])
    split = labelled.Split(files, np.arange(24)).take(rows)
    assert split.labels.tolist() == rows.tolist()
    assert split.files == [files[row] for row in rows]


def test_interrupted_and_shared_runs_are_one(root):
    """Killed on two processes, continued on one: the losses are of the views alone, at rate 0."""
    cut(CUT)
    here = os.getcwd()
    whole = f"{TRAIN} {SHARE} --epochs 3 --learning-rate 0 --checkpoint-minutes 0 --precision fp32"
    whole = whole.replace("--data ", f"--data {here}/").replace("--out ", f"--out {here}/")
    broken = whole.replace(f"{here}/out", f"{here}/broken").split()
    call(*whole.split())
    assert run_killed(*broken, when=(root / "broken/checkpoint.pth").exists, processes=2)
    assert not (root / "broken/backbone.pth").exists()
    call(*broken)
    record = (root / "out/unreadable.jsonl").read_bytes()
    assert record.count(b"\n") == 1 and (root / "broken/unreadable.jsonl").read_bytes() == record
    losses = [[step["loss"] for step in read_log(out, "step")] for out in ("out", "broken")]
    assert len(losses[0]) == 9
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)


def test_a_mended_image_is_used_again(root, capsys):
    """A run without a checkpoint begins its record anew."""
    sound = Path(CUT).read_bytes()
    Path(CUT).write_bytes(b"x")
    assert "1 of 24 images" in refused(capsys, *TRAIN.split(), code=1)
    assert "1 of 24 images" in refused(capsys, *TRAIN.split(), code=1)
    Path(CUT).write_bytes(sound)
    call(*TRAIN.split())
    assert not Path("out/unreadable.jsonl").exists()


def test_the_oracle_passes_over_it(root):
    cut(CUT)
    common = ["--data", "data/train", "--size", "32", "--workers", "0", *SHARE.split()]
    call("02_augment.py", "same-class", *common, "--out", "same", "--views", 3)
    call("02_augment.py", "neighbour", *common, "--out", "near", "--backbone", "runs/base")
    for folder in (*(f"same/view{i}" for i in range(3)), "near/view0"):
        made = find_images(folder)
        assert len(made) == 23 and "b/003.png" not in made
    originals = {read_image(f"data/train/{path}").tobytes(): path for path in made}
    for view in range(3):
        for path in made:
            partner = originals[read_image(f"same/view{view}/{path}").tobytes()]
            assert partner[0] == path[0] and partner != path


def test_check(root, capsys):
    check = ["07_metrics.py", "check", "data/train", "data/val"]
    call(*check)
    assert "data/val: 0 of 9 images cannot be read" in capsys.readouterr().out
    cut(CUT, CUT_VAL)
    before = hashes(root)
    said = []
    for workers in (0, 2):
        with pytest.raises(SystemExit) as stop:
            call(*check, "--workers", workers)
        assert stop.value.code == 1
        said.append(capsys.readouterr())
    assert said[0].out == said[1].out and "data/train: 1 of 24" in said[0].out
    assert f"{CUT} cannot be read" in said[1].err and f"{CUT_VAL} cannot be read" in said[1].err
    assert hashes(root) == before
    call(*check, *SHARE.split())


def test_numbers_of_a_damaged_mirror(root, capsys):
    """ssim leaves out the pair of a damaged generated image, as of a damaged original."""
    cut("gen/view0/a/001.png")
    words = ["07_metrics.py", "ssim", "data/train", "gen/view0", "--workers", "0", "--out", "out"]
    call(*words, *SHARE.split())
    result = read_json("out/ssim.json")
    assert result["unreadable"] == ["a/001.png"] and result["images"] == 23
    assert np.isfinite(result["mean"])
