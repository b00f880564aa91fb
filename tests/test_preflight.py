"""recipes/preflight.py: every fault is named before anything is made. Each test plants one."""

import json
import shutil

import pytest
from conftest import hashes, run_recipe
from tiny import main as tiny_data

TRANSFER = {"PLACES": "places365", "VOC": "voc", "COCO": "coco"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The data of TINY=1, without a fault."""
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
        small = "--backbone resnet10 --size 32 --batch-size 12 --projector 16-16 --epochs 1"
        values = {
            "DATA": f"{place}/imagenet",
            "RUNS": f"{tmp_path}/runs",
            "GEN": f"{tmp_path}/gen",
            "GCL_WEIGHTS": f"{place}/weights",
            "BLIP": f"--model {place}/blip",
            "SDXL": f"--model {place}/sdxl",
            "PRETRAIN": small,
            "GPUS": "1",
            "TINY": "",
        }
        values |= {name: f"{place}/{folder}" for name, folder in TRANSFER.items()}
        done = run_recipe(name, code, timeout=300, **values | environment)
        return done.stdout + done.stderr

    return start


def refused(recipe, tmp_path, *names, name="table4_mixing", **environment):
    """The recipe, which must not begin; every one of `names` stands in a line of a fault."""
    before = hashes(tmp_path)
    said = recipe(name, 1, **environment)
    faults = [line for line in said.splitlines() if line.startswith("FAULT")]
    assert len(faults) == len(names), said
    for words in names:
        assert any(all(word in line for word in words.split("...")) for line in faults), said
    assert hashes(tmp_path) == before and not (tmp_path / "runs").exists()
    return said


def test_all_is_there(recipe, tmp_path):
    """CHECK=1 prints the list and ends; nothing is made."""
    before = hashes(tmp_path)
    said = recipe("table4_mixing", 0, CHECK="1")
    assert "imagenet/train: 32 in 4 folders" in said and "imagenet/val: 12 in 4" in said
    assert "10percent.txt" in said and "icgan_biggan_imagenet_res256.tar.gz" in said
    assert "GB are free" in said and "FAULT" not in said
    assert "03_pretrain.py" not in said and hashes(tmp_path) == before


def test_all_is_there_for_the_transfer(recipe):
    said = recipe("table5_transfer", 0, CHECK="1")
    for words in ("places365, 24 and 9", "voc07, 20 and 20", "coco, 12 and 6"):
        assert words in said


def test_every_fault_at_once(recipe, place, tmp_path):
    """Not only the first: labels, weights, lists and disk, in one list."""
    shutil.rmtree(place / "imagenet/val/n01440764")
    (place / "weights/swav_800ep_pretrain.pth.tar").unlink()
    (place / "weights/imagenet_subsets/10percent.txt").unlink()
    faults = (
        "only one of them has n01440764",
        "swav_800ep_pretrain.pth.tar is missing...weights.sh",
        "10percent.txt is missing...weights.sh",
        "too small...GB are free",
    )
    said = refused(recipe, tmp_path, *faults, GCL_FREE_GB="0.001")
    assert "the 4 FAULTs above" in said


def test_a_flat_val(recipe, place, tmp_path):
    """As ImageNet's own tar has it; what to do is said. Figure 30 sees it behind its 100 links."""
    val = place / "imagenet/val"
    for file in list(val.rglob("*.jpg")):
        file.rename(val / file.name)
    for folder in list(val.iterdir()):
        if folder.is_dir():
            folder.rmdir()
    refused(recipe, tmp_path, "imagenet/val is flat: 12 images...CLASS")
    hundred = ("imagenet/val is flat: 12 images...CLASS", "train lacks 97 of the 100 classes")
    refused(recipe, tmp_path, *hundred, name="figure30_strength")


@pytest.mark.parametrize(
    "name, words", [("PLACES", "typo/train"), ("VOC", "VOC2007"), ("COCO", "instances")]
)
def test_a_transfer_set_that_is_not_there(recipe, tmp_path, name, words):
    refused(recipe, tmp_path, words, name="table5_transfer", **{name: f"{tmp_path}/typo"})


def test_a_listed_image_that_is_gone(recipe, place, tmp_path):
    (place / "voc/VOCdevkit/VOC2007/JPEGImages/test03.jpg").unlink()
    refused(recipe, tmp_path, "test03.jpg is listed", name="table5_transfer")


def test_models_and_weights_of_table6(recipe, place, tmp_path):
    """FID's Inception, BLIP and SDXL-Turbo, which come late."""
    faults = ("pt_inception-2015-12-05", "blip2...not a folder", "sdxl has no model_index.json")
    (place / "sdxl/model_index.json").unlink()
    environment = {"BLIP": f"--model {place}/blip2"}
    refused(recipe, tmp_path, *faults, name="table6_cost", **environment)


def test_batches_and_memory(recipe, tmp_path):
    """A batch that the processes cannot share; a step that the card cannot hold."""
    said = refused(recipe, tmp_path, "--batch-size 12...5 processes", GPUS="5")
    assert "torchrun" not in said
    arms = {"GAMMAS": "0.5", "CONTROLS": "", "STRATEGIES": "inpaint"}
    names = ("baseline", "inpaint-gamma0.5", "real-gamma0.5", "reconstruction-gamma0.5")
    faults = [f"{name}...this GPU has 0.1 GiB" for name in names]
    refused(recipe, tmp_path, *faults, GCL_GPU_GIB="0.1", **arms)


def test_a_mirror_that_another_command_made(recipe, tmp_path):
    """It would be refused when its turn comes, which may be days later."""
    mirror = tmp_path / "gen/noise"
    mirror.mkdir(parents=True)
    noted = {"stage": "02_augment noise", "args": {"seed": 7}}
    (mirror / "augment.json").write_text(json.dumps(noted))
    refused(recipe, tmp_path, "gen/noise was started with other arguments...--seed was 7")


def test_wrong_flags_and_names(recipe, tmp_path):
    refused(recipe, tmp_path, "unrecognized arguments: --typo", LINEAR="--typo")
    said = recipe("figure33_satellite", 1, DATA=f"{tmp_path}/typo")
    assert f"{tmp_path}/typo does not exist (--data)" in said and "vgg16" in said
    said = recipe("digits", 1, GENERATOR="typo.pth", RUNS=f"{tmp_path}/runs", DATA="")
    assert "typo.pth does not exist (--weights)" in said and not (tmp_path / "runs").exists()
