"""recipes/preflight.py: every fault is named before anything is made. Each test plants some."""

import re
import shutil
from pathlib import Path

import pytest
from conftest import ROOT, hashes, run_recipe, stage_module
from tiny import main as tiny_data

TRANSFER = {"PLACES": "places365", "VOC": "voc", "COCO": "coco"}
SMALL = "--backbone resnet10 --size 32 --batch-size 12 --projector 16-16 --epochs 1"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    tiny_data(folder)
    return folder


@pytest.fixture
def place(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "data")


@pytest.fixture
def recipe(place, tmp_path):
    """recipe(name, code, **environment): what it prints, as a user would start it, not TINY."""

    def start(name, code, **environment):
        values = {"DATA": f"{place}/imagenet", "GCL_WEIGHTS": f"{place}/weights"}
        values |= {"RUNS": f"{tmp_path}/runs", "GEN": f"{tmp_path}/gen"}
        values |= {"BLIP": f"--model {place}/blip", "SDXL": f"--model {place}/sdxl"}
        values |= {"PRETRAIN": SMALL, "GPUS": "1", "TINY": "", "PART": "1"}
        values |= {"LINEAR": "--batch-size 8", "SEMISUP": "--batch-size 4"}
        values |= {name: f"{place}/{folder}" for name, folder in TRANSFER.items()}
        done = run_recipe(name, code, timeout=300, **values | environment)
        return done.stdout + done.stderr

    return start


WHOLE = {"table4_mixing": ("imagenet/train: 32", "imagenet/val: 12", "GB are free")}
WHOLE["table5_transfer"] = ("(places365): 33", "(voc07): 40", "(coco): 48")


@pytest.mark.parametrize(("name", "words"), WHOLE.items())
def test_all_is_there(recipe, tmp_path, name, words):
    """CHECK=1 prints the list and ends; nothing is made."""
    before = hashes(tmp_path)
    said = recipe(name, 0, CHECK="1")
    assert all(word in said for word in words), said
    assert "FAULT" not in said and "03_pretrain.py" not in said and hashes(tmp_path) == before


def spoil(place, what):
    if what == "flat val":  # as ImageNet's own tar has it
        val = place / "imagenet/val"
        for file in list(val.rglob("*.jpg")):
            file.rename(val / file.name)
        for folder in list(val.iterdir()):
            if folder.is_dir():
                folder.rmdir()
    elif what == WILDFIRE:
        for split in ("train", "test"):
            shutil.copytree(place / "imagenet/train", place / f"wildfire/{split}")
        for number in range(3):
            file = place / f"wildfire/train/n01440764/n01440764_train_{number}.jpg"
            assert file.stat().st_size
            file.write_bytes(b"")
    elif what == EMPTY_WILDFIRE:
        spoil(place, WILDFIRE)
        shutil.move(place / "wildfire/test", place / "wildfire/valid")
    elif what.endswith(" is empty"):
        Path(place, what.removesuffix(" is empty")).write_bytes(b"")
    elif Path(place, what).is_dir():
        shutil.rmtree(place / what)
    else:
        Path(place, what).unlink()


LISTS = "weights/imagenet_subsets/10percent.txt"
SWAV = "weights/swav_800ep_pretrain.pth.tar"
FLAT = "is in no class folder: expected...imagenet/val/CLASS/image...valprep.sh"
POOR = {"GCL_FREE_GB": "0.001", "LINEAR": "--typo"}
ALL = ["only one of them has n01440764", "too small...GB are free"]
ALL += ["10percent.txt...swav_800ep_pretrain.pth.tar...missing or empty...weights.sh"]
ALL += ["04_linear_eval.py: error: unrecognized arguments: --typo"]
UNET = "unet/diffusion_pytorch_model.safetensors"
UNET_LACKS = ["diffusion_pytorch_model.safetensors: missing or empty...weights.sh"]
NOBODY = ["nobody/nothing (in the hub's cache): missing or empty...weights.sh"]
PART = ["imagenet (4 of 1,000 classes, 12 of 50,000 images in val): a part...PART=1 goes on"]
WILDFIRE = "wildfire without valid, and 3 empty files"
EMPTY_WILDFIRE = "wildfire of 3 empty files"
TYPO = {"DATA": "/typo", "DEVICE": "cpu"}
FIRE = {"DATA": "{place}/wildfire", "DEVICE": "cpu"}
FIRES = FIRE | {"GCL_WEIGHTS": "/none"}
WILDFIRE_LACKS = ["wildfire/valid is not a folder", "vgg16...missing or empty"]
UNREAD = ["wildfire/train (2 of 16): images cannot be read...07_metrics.py check", "vgg16"]
UNREAD += ["train (32, --batch-size 48)...(32, --batch-size 256)...smaller --batch-size is needed"]
LACKS_97 = "train lacks 97 of the 100 classes"
LATE = ["pt_inception-2015-12-05", "blip is not a folder", "sdxl is not...no model_index.json"]
CASES = {  # name: (recipe, what is spoilt, {variable: value}, what a line of a fault says)
    "all at once": ("table4_mixing", ["imagenet/val/n01440764", SWAV, LISTS], POOR, ALL),
    "an empty file": ("table4_mixing", [f"{SWAV} is empty"], {}, [f"{SWAV[8:]}: missing or empty"]),
    "an empty file of the hub's kind": (
        "table7_summary",
        [f"sdxl/{UNET} is empty"],
        {},
        UNET_LACKS,
    ),
    "a model that is nowhere": ("table7_summary", [], {"SDXL": "--model nobody/nothing"}, NOBODY),
    "a part of ImageNet": ("table4_mixing", [], {"PART": ""}, PART),
    "wildfire": ("figure33_satellite", [WILDFIRE, "imagenet/val"], FIRES, WILDFIRE_LACKS),
    "wildfire that cannot be read": ("figure33_satellite", [EMPTY_WILDFIRE], FIRE, UNREAD),
    "a flat val": ("table4_mixing", ["flat val"], {}, [FLAT]),
    "a flat val behind the links": ("figure30_strength", ["flat val"], {}, [FLAT, LACKS_97]),
    "no places": ("table5_transfer", [], {"PLACES": "/typo"}, ["/typo (--data): not there"]),
    "no voc": ("table5_transfer", [], {"VOC": "/typo"}, ["/typo (--data): not there"]),
    "no coco": ("table5_transfer", [], {"COCO": "/typo"}, ["/typo (--data): not there"]),
    "another voc": ("table5_transfer", ["voc/VOCdevkit"], {}, ["VOCdevkit/VOC2007/ImageSets"]),
    "no data": ("table7_summary", [], {"DATA": "/typo"}, ["/typo/train...(--data): not there"]),
    "what comes late": ("table6_cost", ["sdxl/model_index.json", "blip"], {}, LATE),
    "the satellite study": ("figure33_satellite", [], TYPO, ["/typo (--data): not there", "vgg16"]),
    "digits": ("digits", [], {"GENERATOR": "typo.pth", "DATA": ""}, ["typo.pth (--weights)"]),
}


def refused(recipe, tmp_path, name, faults, **environment):
    """The recipe, which must not begin; each of its faults says the words of one of `faults`."""
    before = hashes(tmp_path)
    said = recipe(name, 1, **environment)
    lines = [line for line in said.splitlines() if line.startswith("FAULT")]
    assert len(lines) == len(faults) and f"the {len(lines)} FAULTs above" in said, said
    for words in faults:
        assert any(all(word in line for word in words.split("...")) for line in lines), said
    assert hashes(tmp_path) == before and not (tmp_path / "runs").exists()


@pytest.mark.parametrize("case", CASES)
def test_a_fault(recipe, place, tmp_path, case):
    name, spoilt, environment, faults = CASES[case]
    for what in spoilt:
        spoil(place, what)
    named = {name: value.format(place=place) for name, value in environment.items()}
    refused(recipe, tmp_path, name, faults, **named)


ONE, THREE = {"GPUS": "1"}, {"GPUS": "3"}
CARDS = [  # recipe, cards, their GiB, flags of the user, what PRETRAIN must hold
    ("table4_mixing", {"GPUS": "4"}, 23.7, "", ""),
    ("table4_mixing", THREE, 80, "", "--batch-size 798"),
    ("table4_mixing", {"GPUS": "4"}, 12, "--seed 1", "--seed 1 --grad-checkpoint"),
    ("table4_mixing", ONE, 23.7, "", "--grad-checkpoint --batch-size 534"),
    ("table4_mixing", ONE, 23.7, "--grad-checkpoint --batch-size 534", ""),
    ("table4_mixing", {"GPUS": "4"}, 8, "", "--grad-checkpoint --batch-size 544"),
    ("figure31_views", ONE, 23.7, "", "--grad-checkpoint --batch-size 217"),
    ("dino_vit", ONE, 23.7, "", ""),
]


@pytest.mark.parametrize(("name", "gpus", "gib", "flags", "expected"), CARDS)
def test_fewer_or_smaller_cards(recipe, tmp_path, name, gpus, gib, flags, expected):
    """One line for all arms; without a fault where the cards are those of the settings."""
    said = recipe(name, 1, PRETRAIN=flags, GCL_GPU_GIB=str(gib), CHECK="1", **gpus)
    assert "(32, --batch-size" in said or name != "table4_mixing"  # the tiny data has too few
    assert re.findall('PRETRAIN="(.*?)"', said) == ([expected] if expected else [])
    assert ("not that of the dissertation" in said) == ("--batch-size" in expected)


def test_no_gpu(recipe, tmp_path):
    small = {"PRETRAIN": "--batch-size 12"}
    refused(recipe, tmp_path, "table4_mixing", ["No GPU is visible...DEVICE=cpu"], **small)
    assert "FAULT" not in recipe("table4_mixing", 0, DEVICE="cpu", CHECK="1", **small)


def test_memory_is_that_of_the_readme():
    preflight = stage_module("recipes/preflight.py")
    readme = (ROOT / "docs/costs.md").read_text()
    for name, (plain, less) in preflight.MEMORY.items():
        method, network = name.split()
        title = method if network == "resnet50" else f"{method} --backbone {network}"
        crops = 6 if method == "dino" else 0
        assert re.search(rf"^\| {title} \| {crops} \| {plain} / {less} \|", readme, re.M), name
    for views, images in preflight.IMAGES.items():
        assert f"--views {views}, {images} images" in readme
