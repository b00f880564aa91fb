"""Bad inputs of every stage, one line of a table each: no traceback, nothing lost, one sentence.

To add a case, add a line to a table: its name, what spoils the folder below, the command, the exit
code, words of the sentence on stderr (or, for exit code 0, of all that is printed) and, where the
command must work, a check of what it made.

Every case starts with a copy of the same folder: data/train/{a,b,c}/00?.png and data/val (32 px),
gen (a mirror of train), runs/base (a pretrained backbone), runs/linear (its finished evaluation).
"""

import io
import json
import os
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import tifffile
import tiny_pipelines
import torch
from conftest import PRETRAIN, VQGAN, call, hashes, write_images
from PIL import Image
from test_images import DAMAGED

from models import images

AUGMENT = "02_augment.py blur --data data/train --out out --size 32 --workers 0"
TRAIN = " ".join(PRETRAIN)
PRETRAIN = f"03_pretrain.py --data data/train --out out --epochs 1 {TRAIN} --projector 8-8"
PAIRED = f"{PRETRAIN} --generated gen"
BACKBONE = "--data data --backbone runs/base --workers 0 --device cpu"
LINEAR = f"04_linear_eval.py {BACKBONE} --cache-features"
PUBLISHED = f"04_linear_eval.py {BACKBONE} --out out --epochs 1 --batch-size 8"
SEMISUP = f"05_semisup_eval.py {BACKBONE} --out out --percent 100 --epochs 1 --batch-size 8"
TRANSFER = f"06_transfer.py folder {BACKBONE} --out out"
FID = "07_metrics.py fid data/train gen/view0 --features runs/base --workers 0"
SSIM = "07_metrics.py ssim data/train gen/view0 --workers 0"
GENERATOR = f"00_train_generator.py vqgan --data data/train --out out --epochs 1 {' '.join(VQGAN)}"


class Case(NamedTuple):
    name: str
    spoil: Callable
    command: str
    code: int
    words: list
    right: Callable = None


# ---------------------------------------------------------------- what spoils a folder
def nothing(root):
    """Only the command is wrong."""


def put(name, content=b""):
    """Write a file."""

    def spoil(root):
        file = os.path.join(os.fsencode(root), os.fsencode(name))
        os.makedirs(os.path.dirname(file), exist_ok=True)
        with open(file, "wb") as target:
            target.write(content)

    return spoil


def remove(name):
    def spoil(root):
        path = Path(root, name)
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return spoil


def rename(old, new):
    def spoil(root):
        os.renames(os.fsencode(root / old), os.path.join(os.fsencode(root), os.fsencode(new)))

    return spoil


def copy(old, new):
    def spoil(root):
        source = root / old
        (root / new).parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, root / new) if source.is_dir() else shutil.copy(source, root / new)

    return spoil


def link(name, target):
    def spoil(root):
        (root / name).symlink_to(target)

    return spoil


def both(*spoils):
    def spoil(root):
        for one in spoils:
            one(root)

    return spoil


def convert(folder, *suffixes):
    """Store the images below a folder under other extensions, in turn."""

    def spoil(root):
        for i, file in enumerate(sorted((root / folder).rglob("*.png"))):
            suffix = suffixes[i % len(suffixes)]
            Image.open(file).save(file.with_suffix(suffix), quality=95)
            file.unlink()

    return spoil


def tiffs(change, **options):
    """Make TIFFs of all of data/train; change(uint8 (H, W, 3)) gives their values."""

    def spoil(root):
        for file in (root / "data/train").rglob("*.png"):
            values = change(images.read_image(file))
            tifffile.imwrite(file.with_suffix(".tif"), values, **options)
            file.unlink()

    return spoil


def weights(change, name="runs/base/backbone.pth"):
    """Replace a weight file; change(state dict) gives its new content."""

    def spoil(root):
        state = torch.load(root / "runs/base/backbone.pth", weights_only=True)
        torch.save(change(state), root / name)

    return spoil


def edit(name, change):
    """Replace a text file; change(text) gives its new content."""

    def spoil(root):
        file = root / name
        file.write_bytes(change(file.read_bytes()))

    return spoil


def picture(size=(32, 32), kind="PNG"):
    """The bytes of an image file."""
    data = io.BytesIO()
    Image.effect_noise(size, 60).convert("RGB").save(data, kind)
    return data.getvalue()


# ---------------------------------------------------------------- what must be there
def has(*names):
    """These files are there."""

    def right(root):
        for name in names:
            assert os.path.exists(os.path.join(os.fsencode(root), os.fsencode(name))), name

    return right


def as_at_first(root):
    """The mirror `out` has the colours of the unspoilt images (its blur is another one)."""
    for file in (root / "gen/view0").rglob("*.png"):
        expected = images.read_image(file)
        found = images.read_image(root / "out" / file.relative_to(root / "gen"))
        difference = found.mean((0, 1)) - expected.mean((0, 1))
        assert np.abs(difference).max() < 3, file


def failed(*names):
    """failed.jsonl names these images and no others; all others are done."""

    def right(root):
        lines = (root / "out/failed.jsonl").read_text().splitlines()
        assert [json.loads(line)["path"] for line in lines] == list(names)
        found = images.find_images(root / "data/train")
        assert len(images.find_images(root / "out/view0")) == len(found) - len(names)

    return right


def gray(values):
    return values.mean(2)


def five_bands(values):
    return np.concatenate([values[..., ::-1], values[..., :2]], 2).astype(np.uint16)


def nan_weight(state):
    state["layer2.0.conv1.weight"].view(-1)[7] = float("nan")
    return state


def infinite_weight(state):
    state["bn1.running_var"][3] = float("inf")
    return state


def prefixed(prefix):
    def change(state):
        return {"state_dict": {prefix + name: value for name, value in state.items()}}

    return change


def two_networks(state):
    both = {f"one.{name}": value for name, value in state.items()}
    return both | {f"two.{name}": value for name, value in state.items()}


def doubled(state):
    return {name: 2 * value for name, value in state.items()}


# ---------------------------------------------------------------- kind 1: folders and names
CAFE = b"data/train/a/caf\xe9.png"
LONG = "data/train/a/" + "図" * 82 + ".png"
FIRST = "data/train/a/000.png"

FOLDERS = [
    Case("no folder", remove("data"), AUGMENT, 2, ["data/train is not a folder"]),
    Case("a file for a folder", nothing, f"{AUGMENT} --data {FIRST}", 2, ["is not a folder"]),
    Case("no images", put("x/x.txt"), f"{AUGMENT} --data x", 2, ["holds no images: 1 .txt"]),
    Case(
        "name not UTF-8, 02", put(CAFE, picture()), AUGMENT, 0, [], has(b"out/view0/a/caf\xe9.png")
    ),
    Case("name not UTF-8, 03", put(CAFE, picture()), PRETRAIN, 0, [], has("out/backbone.pth")),
    Case(
        "name not UTF-8, 04",
        put(CAFE, picture()),
        f"{LINEAR} --out out",
        0,
        [],
        has("out/result.json"),
    ),
    Case("name not UTF-8, 05", put(CAFE, picture()), SEMISUP, 0, [], has("out/subset.txt")),
    Case("name not UTF-8, 06", put(CAFE, picture()), TRANSFER, 0, [], has("out/result.json")),
    Case("name not UTF-8, 00", put(CAFE, picture()), GENERATOR, 0, [], has("out/generator.pth")),
    Case(
        "name not UTF-8, 07 ssim",
        both(put(CAFE, picture()), put(b"gen/view0/a/caf\xe9.png", picture())),
        f"{SSIM} --out out --least 30",
        0,
        ["25 pairs"],
        has("out/ssim.json", "out/least_similar.png"),
    ),
    Case(
        "name not UTF-8, 07 fid",
        both(put(CAFE, picture()), put(b"gen/view0/a/caf\xe9.png", picture())),
        FID,
        0,
        ["25 images"],
    ),
    Case(
        "class not UTF-8",
        both(
            rename("data/train/c", b"data/train/\xe9t\xe9"),
            rename("data/val/c", b"data/val/\xe9t\xe9"),
        ),
        f"{LINEAR} --out out",
        0,
        [],
        has("out/result.json"),
    ),
    Case("unreadable name not UTF-8", put(CAFE, b"x"), PRETRAIN, 1, ["caf", "not an image file"]),
    Case(
        "name of 250 bytes",
        put(LONG, picture()),
        AUGMENT,
        0,
        [],
        has(LONG.replace("data/train", "out/view0")),
    ),
    Case(
        "link to a folder above",
        link("data/train/a/up", ".."),
        PRETRAIN,
        2,
        ["link to a folder above"],
    ),
    Case(
        "link to itself",
        link("data/train/a/x", "x"),
        AUGMENT,
        1,
        ["data/train/a/x cannot be read", "symbolic links"],
    ),
    Case(
        "link to nothing",
        link("data/train/a/x.png", "y"),
        AUGMENT,
        1,
        ["1 of 25 images"],
        failed("a/x.png"),
    ),
    Case(
        "out inside data, 02",
        nothing,
        f"{AUGMENT} --out data/train/gen",
        2,
        ["--out", "inside --data"],
    ),
    Case("data inside out, 02", nothing, f"{AUGMENT} --out data", 2, ["--data", "inside --out"]),
    Case("out is data, 02", nothing, f"{AUGMENT} --out data/train", 2, ["inside --data"]),
    Case(
        "out inside data, 00",
        nothing,
        f"{GENERATOR} --out data/train/x",
        2,
        ["--out", "inside --data"],
    ),
    Case(
        "out inside data, 03",
        nothing,
        f"{PRETRAIN} --out data/train/x",
        2,
        ["--out", "inside --data"],
    ),
    Case("out inside data, 04", nothing, f"{LINEAR} --out data/x", 2, ["--out", "inside --data"]),
    Case("out inside data, 05", nothing, f"{SEMISUP} --out data/x", 2, ["--out", "inside --data"]),
    Case("out inside data, 06", nothing, f"{TRANSFER} --out data/x", 2, ["--out", "inside --data"]),
    Case("out inside data, 07", nothing, f"{SSIM} --out data/train/x", 2, ["--out", "inside"]),
    Case(
        "mirror inside data",
        copy("gen", "data/train/gen"),
        f"{PRETRAIN} --generated data/train/gen",
        2,
        ["--generated", "inside --data"],
    ),
    Case(
        "a mirror of other kinds",
        convert("gen", ".JPEG", ".webp", ".tif", ".PNG"),
        PAIRED,
        0,
        [],
        has("out/backbone.pth"),
    ),
    Case(
        "two generated images of one name",
        put("gen/view0/a/000.jpg", picture(kind="JPEG")),
        PAIRED,
        1,
        ["000.jpg", "000.png"],
    ),
    Case(
        "a missing generated image",
        remove("gen/view0/a/003.png"),
        PAIRED,
        1,
        ["1 of 24", "a/003.png"],
    ),
    Case(
        "results beside the views",
        both(put("gen/view0.ssim/ssim.json", b"{}"), put("gen/viewer/x.png")),
        PAIRED,
        0,
        [],
        has("out/backbone.pth"),
    ),
    Case(
        "no mirror",
        nothing,
        f"{PRETRAIN} --generated runs",
        2,
        ["runs is not a mirror", "augment.json"],
    ),
    Case("no folder of a mirror", nothing, f"{PRETRAIN} --generated typo", 2, ["typo"]),
    Case(
        "a broken augment.json", put("gen/augment.json", b"{"), PAIRED, 1, ["augment.json", "JSON"]
    ),
    Case(
        "folders of systems",
        both(
            put("data/train/__MACOSX/a/._000.png"),
            put("data/val/__MACOSX/a/._000.png"),
            put("data/train/@eaDir/a/000.png", b"x"),
            put("data/train/.ipynb_checkpoints/000.png", b"x"),
        ),
        f"{LINEAR} --out out",
        0,
        [],
        has("out/result.json"),
    ),
    Case(
        "an empty class",
        lambda root: (root / "data/train/d").mkdir(),
        f"{LINEAR} --out out",
        2,
        ["without images: d"],
    ),
    Case(
        "classes that differ",
        rename("data/val/c", "data/val/d"),
        SEMISUP,
        2,
        ["different classes", "c, d"],
    ),
    Case(
        "an image in no class",
        put("data/train/x.png", picture()),
        TRANSFER,
        2,
        ["x.png is in no class"],
    ),
    Case(
        "two extensions",
        put("data/train/a/000.jpg", picture(kind="JPEG")),
        AUGMENT,
        2,
        ["a/000.jpg and a/000.png"],
    ),
    Case(
        "rare kinds",
        both(
            put("data/train/a/x.avif", picture(kind="AVIF")),
            put("data/train/a/y.jp2", picture(kind="JPEG2000")),
            put("data/train/a/z.jfif", picture(kind="JPEG")),
        ),
        AUGMENT,
        0,
        [],
        has("out/view0/a/x.png", "out/view0/a/y.png", "out/view0/a/z.png"),
    ),
    Case(
        "other files",
        both(put("data/train/a/x.txt"), put("data/train/y.TXT"), put("data/train/z")),
        AUGMENT,
        0,
        ["passed over: 2 .txt, 1 without extension"],
    ),
]

# ---------------------------------------------------------------- kind 2: sizes and values
VALUES = [
    Case(
        "bombs and rubbish",
        both(
            put("data/train/a/bomb.png", DAMAGED["bomb.png"]),
            put("data/train/a/empty.png"),
            put("data/train/b/bomb1.jpg", DAMAGED["bomb.jpg"]),
            put("data/train/b/bomb2.tif", DAMAGED["bomb.tif"]),
            put("data/train/b/cut.tif", DAMAGED["cut.tif"]),
            put("data/train/b/tags.tif", DAMAGED["tags.tif"]),
            put("data/train/c/page.jpg", DAMAGED["page.jpg"]),
        ),
        AUGMENT,
        1,
        ["7 of 31 images", "failed.jsonl"],
        failed(
            "a/bomb.png",
            "a/empty.png",
            "b/bomb1.jpg",
            "b/bomb2.tif",
            "b/cut.tif",
            "b/tags.tif",
            "c/page.jpg",
        ),
    ),
    Case(
        "a bomb in a worker",
        put("data/train/a/bomb.png", DAMAGED["bomb.png"]),
        f"{AUGMENT} --workers 1",
        1,
        ["1 of 25 images"],
        failed("a/bomb.png"),
    ),
    Case(
        "a bomb, 00",
        put(FIRST, DAMAGED["bomb.png"]),
        GENERATOR,
        1,
        ["data/train/a/000.png cannot be read"],
    ),
    Case(
        "a bomb, 03",
        put(FIRST, DAMAGED["bomb.png"]),
        PRETRAIN,
        1,
        ["data/train/a/000.png cannot be read"],
    ),
    Case(
        "a bomb in a worker, 03",
        put(FIRST, DAMAGED["bomb.png"]),
        f"{PRETRAIN} --workers 1",
        1,
        ["data/train/a/000.png cannot be read"],
    ),
    Case(
        "a bomb, 04",
        put(FIRST, DAMAGED["bomb.png"]),
        f"{LINEAR} --out out",
        1,
        ["data/train/a/000.png cannot be read"],
    ),
    Case(
        "a bomb, 05",
        put(FIRST, DAMAGED["bomb.png"]),
        SEMISUP,
        1,
        ["data/train/a/000.png cannot be read"],
    ),
    Case(
        "a bomb, 06",
        put(FIRST, DAMAGED["bomb.png"]),
        TRANSFER,
        1,
        ["data/train/a/000.png cannot be read"],
    ),
    Case(
        "a bomb, fid",
        put(FIRST, DAMAGED["bomb.png"]),
        FID,
        1,
        ["data/train/a/000.png cannot be read"],
    ),
    Case(
        "a bomb, ssim",
        put(FIRST, DAMAGED["bomb.png"]),
        f"{SSIM} --out out",
        1,
        ["data/train/a/000.png cannot be read"],
    ),
    Case(
        "a damaged generated image",
        put("gen/view0/a/000.png", b"x"),
        f"{PAIRED} --mix 1",
        1,
        ["gen/view0/a/000.png cannot be read"],
    ),
    Case(
        "floats", tiffs(lambda v: (v / 255).astype(np.float32)), AUGMENT, 2, ["float32", "--levels"]
    ),
    Case(
        "floats with levels",
        tiffs(lambda v: (v / 255).astype(np.float32)),
        f"GCL_LEVELS='0 1' {AUGMENT}",
        0,
        [],
        as_at_first,
    ),
    Case(
        "no data",
        both(
            tiffs(lambda v: (v / 255).astype(np.float32)),
            lambda root: tifffile.imwrite(
                root / "data/train/a/x.tif", np.full((32, 32), np.nan, np.float32)
            ),
        ),
        f"GCL_LEVELS='0 1' {AUGMENT}",
        0,
        [],
        as_at_first,
    ),
    Case("12 bits", tiffs(lambda v: v.astype(np.uint16) * 16), PRETRAIN, 2, ["uint16", "--levels"]),
    Case(
        "12 bits with levels",
        tiffs(lambda v: v.astype(np.uint16) * 16),
        f"GCL_LEVELS='0 4080' {AUGMENT}",
        0,
        [],
        as_at_first,
    ),
    Case(
        "16 bits",
        tiffs(lambda v: v.astype(np.uint16) * 257),
        AUGMENT,
        0,
        ["0 is taken for black, 65535 for white"],
        as_at_first,
    ),
    Case(
        "five bands",
        tiffs(five_bands, photometric="minisblack", planarconfig="contig"),
        AUGMENT,
        2,
        ["5 bands of uint16", "--bands"],
    ),
    Case(
        "five bands, chosen",
        tiffs(five_bands, photometric="minisblack", planarconfig="contig"),
        f"GCL_LEVELS='0 255' GCL_BANDS='3 2 1' {AUGMENT}",
        0,
        [],
        as_at_first,
    ),
    Case("levels that are none", nothing, f"GCL_LEVELS='0' {AUGMENT}", 2, ["GCL_LEVELS"]),
    Case("bands that are none", nothing, f"GCL_BANDS='red' {AUGMENT}", 2, ["GCL_BANDS"]),
    Case(
        "a strip",
        both(
            put("data/train/a/x.png", picture((20000, 1))),
            put("data/train/b/y.png", picture((1, 20000))),
        ),
        AUGMENT,
        0,
        [],
        has("out/view0/a/x.png"),
    ),
    Case(
        "a strip, 03",
        put("data/train/a/x.png", picture((20000, 1))),
        PRETRAIN,
        0,
        [],
        has("out/backbone.pth"),
    ),
    Case(
        "a strip, 04",
        put("data/train/a/x.png", picture((20000, 1))),
        f"{LINEAR} --out out",
        0,
        [],
        has("out/result.json"),
    ),
    Case(
        "a strip, fid",
        both(put("data/train/a/x.png", picture((20000, 1))), put("gen/view0/a/x.png", picture())),
        FID,
        0,
        ["25 images"],
    ),
    Case(
        "one pixel",
        put("data/train/a/x.png", picture((1, 1))),
        PRETRAIN,
        0,
        [],
        has("out/backbone.pth"),
    ),
    Case(
        "ssim of other sizes",
        put(FIRST, picture((40, 30))),
        f"{SSIM} --out out",
        1,
        ["a/000.png", "--size"],
    ),
]

# ---------------------------------------------------------------- kind 3: numbers that are none
NUMBERS = [
    Case(
        "a NaN weight, 04",
        weights(nan_weight),
        f"{LINEAR} --out out",
        1,
        ["backbone.pth", "layer2.0.conv1.weight", "not finite"],
    ),
    Case("a NaN weight, 05", weights(nan_weight), SEMISUP, 1, ["backbone.pth", "not finite"]),
    Case("a NaN weight, 06", weights(nan_weight), TRANSFER, 1, ["backbone.pth", "not finite"]),
    Case("a NaN weight, 07", weights(nan_weight), FID, 1, ["backbone.pth", "not finite"]),
    Case(
        "a NaN weight, 03",
        weights(nan_weight),
        f"{PRETRAIN} --init runs/base",
        1,
        ["backbone.pth", "not finite"],
    ),
    Case(
        "an infinite weight",
        weights(infinite_weight),
        f"{LINEAR} --out out",
        1,
        ["backbone.pth", "bn1.running_var"],
    ),
    Case(
        "batch size 1, 03",
        nothing,
        f"{PRETRAIN} --batch-size 1",
        2,
        ["--batch-size 1", "at least 2"],
    ),
    Case(
        "batch size 1, 05",
        nothing,
        f"{SEMISUP} --batch-size 1",
        2,
        ["--batch-size 1", "at least 2"],
    ),
    Case("batch size 0", nothing, f"{PRETRAIN} --batch-size 0", 2, ["--batch-size", "above 0"]),
    Case(
        "too large a batch",
        nothing,
        f"{PRETRAIN} --batch-size 25",
        2,
        ["--batch-size 25", "24 images"],
    ),
    Case(
        "too large a batch, 05",
        nothing,
        f"{SEMISUP} --batch-size 256",
        2,
        ["--batch-size 256", "24 images"],
    ),
    Case("no epochs", nothing, f"{PRETRAIN} --epochs 0", 2, ["--epochs", "above 0"]),
    Case("a share above 1", nothing, f"{PAIRED} --mix 1.5", 2, ["--mix", "between 0 and 1"]),
    Case("a NaN share", nothing, f"{PAIRED} --mix nan", 2, ["--mix", "between 0 and 1"]),
    Case("a NaN learning rate", nothing, f"{PRETRAIN} --learning-rate nan", 1, ["not finite"]),
    Case(
        "a huge learning rate",
        nothing,
        f"{PRETRAIN} --learning-rate 1e38 --epochs 3",
        1,
        ["not finite"],
    ),
    Case(
        "temperature 0",
        nothing,
        f"{PRETRAIN} --method simclr --projector 8-8-8 --temperature 0",
        2,
        ["--temperature"],
    ),
    Case("a NaN learning rate, 05", nothing, f"{SEMISUP} --learning-rate nan", 1, ["not finite"]),
    Case("a NaN learning rate, 04", nothing, f"{PUBLISHED} --learning-rate nan", 1, ["not finite"]),
]


# ---------------------------------------------------------------- kind 4: inputs that change
def measure(root):
    """Compute the statistics of data/train, which are kept beside it."""
    script, *arguments = shlex.split(FID)
    call(script, *arguments)
    shutil.copy(root / "data/train.fid.npz", root / "before.npz")


def invert(root):
    """Give the images other pixels under the same names and sizes."""
    for file in (root / "data/train").rglob("*.bmp"):
        Image.fromarray(255 - images.read_image(file)).save(file)


def statistics_changed(root):
    before = np.load(root / "before.npz")["mu"]
    assert np.abs(np.load(root / "data/train.fid.npz")["mu"] - before).max() > 0.01


CHANGES = [
    Case("statistics that are kept", measure, FID, 0, ["unchanged, its statistics are read from"]),
    Case(
        "other pixels behind statistics",
        both(convert("data/train", ".bmp"), measure, invert),
        FID,
        0,
        [],
        statistics_changed,
    ),
    Case("a finished run", nothing, LINEAR, 0, ["is finished"]),
    Case(
        "another backbone behind a result",
        weights(doubled),
        LINEAR,
        2,
        ["runs/base-cached", "another backbone"],
    ),
    Case(
        "another image behind a result",
        put("data/train/a/x.png", picture()),
        LINEAR,
        2,
        ["runs/base-cached", "another training set"],
    ),
    Case(
        "other arguments", nothing, f"{LINEAR} --cache-crops 2", 2, ["--cache-crops was 1, now 2"]
    ),
    Case(
        "another image behind a backbone",
        put("data/train/a/x.png", picture()),
        f"{PRETRAIN} --out runs/base",
        2,
        ["runs/base", "images"],
    ),
    Case("another mirror", nothing, f"{PAIRED} --out runs/base", 2, ["--generated"]),
    Case(
        "another image behind a mirror",
        put("data/train/a/x.png", picture()),
        f"{AUGMENT} --out gen",
        0,
        [],
        has("gen/view0/a/x.png"),
    ),
    Case(
        "another strategy",
        nothing,
        "02_augment.py jitter --data data/train --out gen --size 32 --workers 0",
        2,
        ["02_augment blur"],
    ),
    Case("another seed", nothing, f"{AUGMENT} --out gen --seed 1", 2, ["--seed was 0, now 1"]),
    Case("another stage's folder", nothing, f"{SEMISUP} --out runs/base", 2, ["03_pretrain"]),
    Case("a folder of somebody else", put("out/thesis.tex"), AUGMENT, 2, ["out is not empty"]),
    Case("a folder of somebody else, 03", put("out/thesis.tex"), PRETRAIN, 2, ["out is not empty"]),
    Case("a late path", nothing, f"{PRETRAIN} --knn typo", 2, ["typo"]),
    Case("a late path, --init", nothing, f"{PRETRAIN} --init typo", 2, ["typo"]),
    Case(
        "a broken args.json",
        put("runs/base/args.json", b"{"),
        f"{LINEAR} --out out",
        1,
        ["args.json", "JSON"],
    ),
    Case(
        "a broken checkpoint",
        both(remove("runs/base/backbone.pth"), put("runs/base/checkpoint.pth", b"x")),
        f"{PRETRAIN} --out runs/base",
        1,
        ["checkpoint.pth"],
    ),
    Case(
        "no log behind a checkpoint",
        both(remove("runs/base/backbone.pth"), remove("runs/base/log.jsonl")),
        f"{PRETRAIN} --out runs/base",
        0,
        [],
        has("runs/base/backbone.pth"),
    ),
]


# ---------------------------------------------------------------- kind 5: files of other tools
TWICE = both(
    copy("data/train/a/000.png", "data/train/b/x.png"),
    copy("data/train/a/000.png", "data/train/c/x.png"),
)
SUBSET = "a/000.png\na/001.png\nb/000.png\nb/001.png\nc/000.png\nc/001.png\nc/002.png\na/002.png\n"
CAPTIONS = "".join(
    json.dumps({"path": f"{name}/{i:03d}.png", "caption": "a bird"}) + "\n"
    for name in "abc"
    for i in range(8)
)
WINDOWS = "\ufeff" + CAPTIONS.replace("\n", "\r\n")
DIFFUSION = "02_augment.py diffusion --data data/train --out out --workers 0 --strength 0"
CAPTIONED = f"{DIFFUSION} --model sdxl --captions captions.jsonl"


def places(root):
    """Places365's layout: lists, here as Windows writes them, beside folders of images."""
    shutil.copytree(root / "data/train", root / "places/data_256_standard/t")
    shutil.copytree(root / "data/val", root / "places/val_256")
    for listing, folder, n in (("train_standard", "/t/", 8), ("val", "", 3)):
        lines = [f"{folder}{c}/{i:03d}.png {k}\r\n" for k, c in enumerate("abc") for i in range(n)]
        text = "\ufeff" + "".join(lines)
        (root / f"places/places365_{listing}.txt").write_bytes(text.encode())


def subset_of(n):
    def right(root):
        assert len((root / "out/subset.txt").read_text().splitlines()) == n

    return right


PLACES = TRANSFER.replace("folder --data data", "places365 --data places")
OTHER_TOOLS = [
    Case("lists from Windows", places, PLACES, 0, [], has("out/result.json")),
    Case(
        "a line without a class",
        both(places, put("places/places365_val.txt", b"a/000.png 0\na/001.png\n")),
        PLACES,
        1,
        ["places365_val.txt", "a/001.png"],
    ),
    Case(
        "torch.compile",
        weights(prefixed("_orig_mod.")),
        f"{LINEAR} --out out",
        0,
        [],
        has("out/result.json"),
    ),
    Case(
        "torch.compile and DDP",
        weights(prefixed("module._orig_mod.")),
        f"{LINEAR} --out out",
        0,
        [],
        has("out/result.json"),
    ),
    Case(
        "MoCo",
        weights(prefixed("module.encoder_q.")),
        f"{LINEAR} --out out",
        0,
        [],
        has("out/result.json"),
    ),
    Case(
        "solo-learn",
        weights(prefixed("backbone.")),
        f"{LINEAR} --out out",
        0,
        [],
        has("out/result.json"),
    ),
    Case(
        "two networks", weights(two_networks), f"{LINEAR} --out out", 2, ["--prefix", "one., two."]
    ),
    Case(
        "two networks, one named",
        weights(two_networks),
        f"{LINEAR} --out out --prefix two",
        0,
        [],
        has("out/result.json"),
    ),
    Case(
        "an unknown prefix",
        weights(two_networks),
        f"{LINEAR} --out out --prefix three",
        2,
        ["--prefix"],
    ),
    Case(
        "no weight file",
        put("runs/base/backbone.pth", b"weights"),
        f"{LINEAR} --out out",
        1,
        ["backbone.pth"],
    ),
    Case(
        "an empty weight file",
        put("runs/base/backbone.pth"),
        f"{LINEAR} --out out",
        1,
        ["backbone.pth"],
    ),
    Case(
        "half a weight file",
        edit("runs/base/backbone.pth", lambda data: data[:9000]),
        f"{LINEAR} --out out",
        1,
        ["backbone.pth"],
    ),
    Case(
        "a weight file with code",
        weights(lambda state: {"x": io.StringIO}),
        f"{LINEAR} --out out",
        1,
        ["backbone.pth", "refused"],
    ),
    Case("no backbone", nothing, f"{LINEAR} --backbone typo --out out", 2, ["typo"]),
    Case(
        "a weight is missing",
        weights(lambda state: {k: v for k, v in state.items() if k != "bn1.bias"}),
        f"{LINEAR} --out out",
        1,
        ["bn1.bias"],
    ),
    Case(
        "a list of numbers",
        weights(lambda state: [1, 2]),
        f"{LINEAR} --out out",
        1,
        ["no state dict"],
    ),
    Case(
        "a subset",
        put("list.txt", SUBSET.encode()),
        f"{SEMISUP} --subset-file list.txt",
        0,
        [],
        subset_of(8),
    ),
    Case(
        "a subset from Windows",
        put("list.txt", ("\ufeff" + SUBSET.replace("\n", "\r\n")).encode()),
        f"{SEMISUP} --subset-file list.txt",
        0,
        [],
        subset_of(8),
    ),
    Case(
        "an ambiguous name",
        both(TWICE, put("list.txt", b"x.png\n")),
        f"{SEMISUP} --subset-file list.txt",
        1,
        ["x.png fits 2 images", "b/x.png", "c/x.png"],
    ),
    Case(
        "an unknown name",
        put("list.txt", b"x.png\n"),
        f"{SEMISUP} --subset-file list.txt",
        1,
        ["list.txt", "x.png"],
    ),
    Case(
        "no subset file",
        nothing,
        f"{SEMISUP} --subset-file list.txt",
        1,
        ["list.txt does not exist"],
    ),
    Case("an empty subset", put("list.txt"), f"{SEMISUP} --subset-file list.txt", 2, ["list.txt"]),
    Case(
        "a picture as a subset",
        put("list.txt", picture()),
        f"{SEMISUP} --subset-file list.txt",
        1,
        ["list.txt"],
    ),
    Case(
        "captions from Windows",
        put("captions.jsonl", WINDOWS.encode()),
        CAPTIONED,
        0,
        [],
        lambda root: images.find_images(root / "out/strength0/view0")[23],
    ),
    Case(
        "a broken caption",
        put("captions.jsonl", CAPTIONS.encode() + b"{"),
        CAPTIONED,
        1,
        ["captions.jsonl, line 25"],
    ),
    Case(
        "captions of other images",
        put("captions.jsonl", CAPTIONS.replace('"b/', '"x/').encode()),
        CAPTIONED,
        1,
        ["8", "b/000.png"],
    ),
    Case("no captions", nothing, CAPTIONED, 2, ["captions.jsonl"]),
    Case(
        "an original that could not be read, 03",
        both(
            put(FIRST, b"x"),
            remove("gen/view0/a/000.png"),
            put("gen/failed.jsonl", b'{"path": "a/000.png", "reason": "x"}\n'),
        ),
        PAIRED,
        0,
        [],
        has("out/backbone.pth"),
    ),
    Case(
        "an original that could not be read, 07",
        both(
            put(FIRST, b"x"),
            remove("gen/view0/a/000.png"),
            put("gen/failed.jsonl", b'{"path": "a/000.png", "reason": "x"}\n'),
        ),
        f"{SSIM} --out out",
        0,
        ["1 images", "23 pairs"],
        has("out/ssim.json"),
    ),
    Case(
        "a broken failed.jsonl",
        put("gen/failed.jsonl", b"x"),
        f"{AUGMENT} --out gen",
        1,
        ["failed.jsonl"],
    ),
    Case(
        "no statistics",
        put("x.npz", b"x"),
        "07_metrics.py fid x.npz gen/view0 --features runs/base --workers 0",
        1,
        ["x.npz"],
    ),
    Case(
        "ssim leaves the mirror a mirror",
        nothing,
        SSIM,
        0,
        ["24 pairs"],
        has("gen.view0.ssim/ssim.json"),
    ),
]


# ---------------------------------------------------------------- running them
@pytest.fixture(scope="module")
def unspoilt(tmp_path_factory):
    """The folder that every case has a copy of."""
    root = tmp_path_factory.mktemp("unspoilt")
    here = os.getcwd()
    os.chdir(root)
    write_images(root / "data/train")
    write_images(root / "data/val", each=3, seed=1)
    commands = [AUGMENT.replace("--out out", "--out gen"), f"{PRETRAIN} --out runs/base", LINEAR]
    for command in commands:
        script, *arguments = shlex.split(command)
        call(script, *arguments)
    os.chdir(here)
    return root


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory):
    """A tiny model that takes captions; it takes seconds to make."""
    folder = tmp_path_factory.mktemp("models") / "sdxl"
    tiny_pipelines.sdxl(folder)
    return folder


@pytest.fixture
def root(unspoilt, tmp_path, monkeypatch):
    """A copy of it, as the current folder."""
    copied = tmp_path / "x"
    shutil.copytree(unspoilt, copied)
    monkeypatch.chdir(copied)
    for variable in ("GCL_LEVELS", "GCL_BANDS"):
        monkeypatch.setenv(variable, "")
    return copied


def stage(command, monkeypatch):
    """Run "NAME=VALUE ... SCRIPT ARGUMENTS" in this process; return the exit code."""
    script, *arguments = shlex.split(command)
    while "=" in script:
        name, _, value = script.partition("=")
        monkeypatch.setenv(name, value)
        script, *arguments = arguments
    try:
        call(script, *arguments)
    except SystemExit as stop:
        return stop.code
    return 0


CASES = [*FOLDERS, *VALUES, *NUMBERS, *CHANGES, *OTHER_TOOLS]


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in CASES])
def test_bad_input(root, case, capsys, monkeypatch, request):
    if "sdxl" in case.command:
        (root / "sdxl").symlink_to(request.getfixturevalue("sdxl"))
    case.spoil(root)
    before = hashes(root)
    sys.stderr.reconfigure(errors="backslashreplace")  # as it is outside of pytest
    capsys.readouterr()
    code = stage(case.command, monkeypatch)
    said = capsys.readouterr()
    assert code == case.code, said.err
    assert "Traceback" not in said.err
    lines = said.err.replace("\r", "\n").splitlines()
    sentences = lines if code else [said.out + said.err]
    found = [line for line in sentences if all(word in line for word in case.words)]
    assert found, said.err
    after = hashes(root)
    for name, digest in before.items():
        made_again = name in ("gen/samples.png", "data/train.fid.npz")
        assert made_again or after.get(name) == digest, f"{name} was changed"
    if case.right:
        case.right(root)
