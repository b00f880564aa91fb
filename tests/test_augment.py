"""02_augment.py as a user runs it, with random weights: where images go, not how they look."""

import importlib
import json
import os

import numpy as np
import pytest
import torch
from conftest import call, hashes, refused, run, write_images
from evaluation_study import write_backbone
from PIL import Image

from augment.strategy import read_square
from base.run import read_json, save
from evaluate import features as features_module
from images.files import stem_of
from images.read import read_image
from models.maskgit import MaskGIT
from models.resnet import load_backbone
from models.vqgan import VQGAN

augment = importlib.import_module("02_augment")


def write_generator(folder, seed=0):
    """The run folder of a generator for images of 32 px: 8 x 8 tokens, 16 codes, no labels."""
    torch.manual_seed(seed)
    blocks = dict(filters=8, multipliers=[1, 1], blocks=1, groups=4)
    tokenizer = VQGAN(codes=16, dim=4, unshuffle=2, **blocks)
    transformer = MaskGIT(codes=16, classes=0, tokens=64, layers=1, dim=16, heads=2, mlp=32)
    state = {"size": 32}
    for name, network in (("tokenizer", tokenizer), ("transformer", transformer)):
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        state |= {f"{name}_config": network.config, name: network.state_dict()}
    save(folder / "generator.pth", state)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("data"), each=4)


@pytest.fixture(scope="module")
def generator(tmp_path_factory):
    return write_generator(tmp_path_factory.mktemp("generator"))


def flags(data, generator, out, *more):
    common = ["--workers", 0, "--batch-size", 3, "--steps", 2, "--device", "cpu"]
    return ["--data", data, "--weights", generator, "--out", out, *common, *more]


def images(out):
    return hashes(out, "view*/**/*.png")


def inpaint(data, generator, out, *more):
    call("02_augment.py", "inpaint", *flags(data, generator, out, *more))
    return images(out)


def test_masks_and_seeds_make_different_images(data, generator, tmp_path):
    made = {}
    for mask in ("center", "ring", "random:0.5", "block:0.5", "none"):
        made[mask] = inpaint(data, generator, tmp_path / mask, "--mask", mask)
        assert len(made[mask]) == 12
    assert len({tuple(sorted(files.items())) for files in made.values()}) == 5
    # Where all is masked and nothing is left to chance, all images become the same one.
    blind = ["--mask", "random:1", "--top-k", 1, "--steps", 1]
    assert len(set(inpaint(data, generator, tmp_path / "blind", *blind).values())) == 1
    assert inpaint(data, generator, tmp_path / "other", "--seed", 1) != made["center"]
    # Linux uses a fork server from Python 3.14 on. See test_every_stage.py for all readers.
    forked = flags(data, generator, tmp_path / "forked", "--workers", 2)
    run("tests/otherwise.py forkserver 02_augment.py inpaint", *forked)
    assert images(tmp_path / "forked") == made["center"]


def test_composites_and_sampling_flags(data, generator, tmp_path):
    """Where a token is predicted it is the plain image, elsewhere the original."""
    made = {}
    for name, more in (("plain", ()), ("kept", ["--composite"])):
        inpaint(data, generator, tmp_path / name, "--mask", "center", *more)
        made[name] = np.asarray(Image.open(tmp_path / name / "view0/a/000.png"))
    original = read_square(data / "a/000.png", 32)
    mask = np.zeros((32, 32, 1), bool)
    mask[4:-4, 4:-4] = True  # 8 x 8 tokens without the outer ring
    assert (made["kept"] == np.where(mask, made["plain"], original)).all()
    assert (made["plain"] != made["kept"]).any()
    # With one step and the likeliest code alone there is no chance left.
    likeliest = ["--steps", 1, "--top-k", 1]
    first = inpaint(data, generator, tmp_path / "a", *likeliest)
    assert inpaint(data, generator, tmp_path / "b", *likeliest, "--seed", 1) == first
    cold = ["--steps", 1, "--softmax-temperature", 1e-4]
    assert inpaint(data, generator, tmp_path / "d", *cold) == first
    assert inpaint(data, generator, tmp_path / "e", "--steps", 1) != first
    args = read_json(tmp_path / "d" / "augment.json")["args"]
    assert (args["top_k"], args["softmax_temperature"]) == (None, 1e-4)


MASKS = "center, ring, random:P, block:P, none, file:FOLDER"
WRONG = {
    "--top-k 0": "is not a whole number above 0",
    "--top-k some": "invalid",
    "--softmax-temperature 0": "is not a finite number above 0",
    "--mask checker": MASKS,
    "--mask block": MASKS,
    "--mask block:2": "is not between 0 and 1",
    "--mask file:/nowhere": "is not a folder",
    "--views 0": "is not a whole number above 0",
}


@pytest.mark.parametrize("words", WRONG)
def test_wrong_values_are_one_sentence(data, generator, tmp_path, capsys, words):
    wrong = flags(data, generator, tmp_path / "x", *words.split())
    assert WRONG[words] in refused(capsys, "02_augment.py inpaint", *wrong, code=2)
    assert not (tmp_path / "x").exists()


def test_masks_from_a_folder(data, generator, tmp_path, capsys):
    """One image of each class is white. Masks may have any extension and any size."""
    folder = tmp_path / "masks"
    for path in data.rglob("*.png"):
        file = (folder / path.relative_to(data)).with_suffix(".bmp")
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (50, 40), 255 if path.name == "000.png" else 0).save(file)
    mixed = inpaint(data, generator, tmp_path / "mixed", "--mask", f"file:{folder}")
    nothing = inpaint(data, generator, tmp_path / "none", "--mask", "none")
    changed = {name for name in mixed if mixed[name] != nothing[name]}
    assert changed == {f"view0/{name}/000.png" for name in "abc"}
    more = flags(data, generator, tmp_path / "mixed", "--mask", f"file:{folder}")
    (folder / "a" / "000.bmp").rename(folder / "a" / "000.png")
    assert "mask names" in refused(capsys, "02_augment.py", "inpaint", *more, code=2)
    (folder / "a" / "000.png").unlink()
    sentence = refused(capsys, "02_augment.py", "inpaint", *more, code=2)
    assert "1 of 12 images have no mask there, such as a/000.png" in sentence


def test_a_later_command_adds_views_and_positions(data, generator, tmp_path, capsys):
    whole = inpaint(data, generator, tmp_path / "whole", "--views", 2)
    out = tmp_path / "grown"
    first = inpaint(data, generator, out)
    stamps = {name: (out / name).stat().st_mtime_ns for name in first}
    assert inpaint(data, generator, out, "--views", 2) == whole
    assert {name: (out / name).stat().st_mtime_ns for name in first} == stamps
    assert read_json(out / "augment.json")["args"]["views"] == 2
    capsys.readouterr()
    assert inpaint(data, generator, out) == whole
    assert "is finished: 12 images, 1 views each" in capsys.readouterr().out
    assert read_json(out / "augment.json")["args"]["views"] == 2  # of all commands together
    more = ["inpaint", *flags(data, generator, out, "--views", 3, "--mask", "ring")]
    assert "--mask was center, now ring" in refused(capsys, "02_augment.py", *more, code=2)
    out = tmp_path / "out"
    more = flags(data, generator, out)
    call("02_augment.py", "outpaint", *more, "--positions", "center")
    center = images(out)
    assert {name.split("/")[0] for name in center} == {"view4"}
    call("02_augment.py", "outpaint", *more, "--positions", "lower-right", "upper-left")
    assert {name.split("/")[0] for name in images(out)} == {"view0", "view4", "view8"}
    assert center.items() <= images(out).items()
    noted = read_json(out / "augment.json")
    assert noted["args"]["positions"] == ["center", "lower-right", "upper-left"]
    assert noted["inputs"]["positions"]["view8"] == "lower-right"
    call("02_augment.py", "outpaint", *flags(data, generator, tmp_path / "all"))
    everything = images(tmp_path / "all")
    assert len(everything) == 9 * 12 and images(out).items() <= everything.items()


def test_other_weights_and_unfinished_batches(data, generator, tmp_path, capsys):
    own = write_generator(tmp_path / "own")
    inpaint(data, own, tmp_path / "out")
    write_generator(own, seed=1)
    more = flags(data, own, tmp_path / "out")
    assert "weights sha256 was" in refused(capsys, "02_augment.py inpaint", *more, code=2)
    # Folders between the images of others, names that begin alike, views that do not exist.
    paths = sorted(["a/1.jpg", "a/2/1.jpg", "a/2/2.jpg", "a/3.jpg", "a.b/1.tiff", "b.jpg"])
    for path in paths:
        file = tmp_path / "view0" / (stem_of(path) + ".png")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"an image")

    def unfinished(size=1, failed=(), view="view0"):
        return augment.unfinished_batches(tmp_path / view, paths, size, ".png", failed)

    assert unfinished() == set()
    assert unfinished(view="view1") == set(range(6))
    (tmp_path / "view0" / "a" / "2" / "2.png").unlink()
    number = paths.index("a/2/2.jpg")
    assert unfinished() == {number}
    assert unfinished(size=2) == {number // 2}
    assert unfinished(failed={"a/2/2.jpg"}) == set()
    (tmp_path / "view0" / "a" / "2" / "2.png").touch()  # what a power cut leaves
    assert unfinished() == {number}


def test_mended_images_are_made(data, generator, tmp_path, capsys):
    own = write_images(tmp_path / "own", each=2)
    good = (own / "b" / "001.png").read_bytes()
    (own / "b" / "001.png").write_bytes(good[:100])
    more = ["inpaint", *flags(own, generator, tmp_path / "out")]
    for _ in range(2):  # a second time there is nothing to do, and it is still too many
        assert "1 of 6 images cannot be read" in refused(capsys, "02_augment.py", *more, code=1)
    for _ in range(2):
        call("02_augment.py", *more, "--max-unreadable", 0.2)
    assert "1 of 6 images could not be read" in capsys.readouterr().err
    (failure,) = (tmp_path / "out" / "failed.jsonl").read_text().splitlines()
    assert json.loads(failure)["path"] == "b/001.png" and len(images(tmp_path / "out")) == 5
    (own / "b" / "001.png").write_bytes(good)
    call("02_augment.py", *more)
    assert not (tmp_path / "out" / "failed.jsonl").exists() and len(images(tmp_path / "out")) == 6


def test_any_name_that_the_file_system_takes(generator, tmp_path):
    data = tmp_path / os.fsdecode(b"d\xe9")
    long_name = "\u5c71" * 82  # 246 bytes
    names = [os.fsdecode(b"caf\xe9"), long_name, "a b.c", "\U0001f600", "quote'\"\n", "-x"]
    (data / os.fsdecode(b"cl\xe9")).mkdir(parents=True)
    for i, name in enumerate(names):
        pixels = np.full((32, 32, 3), 40 * i, np.uint8)
        Image.fromarray(pixels).save(data / os.fsdecode(b"cl\xe9") / f"{name}.png")
    (data / os.fsdecode(b"broken\xe9.jpg")).write_bytes(b"no image")
    out = tmp_path / os.fsdecode(b"out\xe9")
    more = ["inpaint", *flags(data, generator, out, "--workers", 1, "--max-unreadable", 0.2)]
    done = run("02_augment.py", *more)
    assert "1 of 7 images could not be read" in done.stderr
    made = {file.stem for file in (out / "view0" / os.fsdecode(b"cl\xe9")).iterdir()}
    assert made == set(names)
    (failure,) = (out / "failed.jsonl").read_text().splitlines()
    assert json.loads(failure)["path"] == os.fsdecode(b"broken\xe9.jpg")
    assert read_json(out / "augment.json")["args"]["data"] == str(data)
    (data / os.fsdecode(b"broken\xe9.jpg")).unlink()
    assert "is finished: 6 images" in run("02_augment.py", *more).stdout


def which(image, originals):
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
    alone = ["--data", write_images(tmp_path / "alone", each=1), "--out", tmp_path / "no"]
    said = refused(capsys, "02_augment.py", "same-class", *alone, "--workers", 0, code=2)
    assert "a/000.png" in said and "no other image of its class" in said


def test_neighbour_is_the_nearest_in_the_features(tiny, tmp_path, monkeypatch, capsys):
    flags = ["--data", tiny["train"], "--size", 32, "--workers", 0]
    backbone = ["--backbone", write_backbone(tmp_path / "run")]
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
