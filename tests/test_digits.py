"""The digits of recipes/digits.py: counts, pixels, and the same files again."""

import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]


def make(out, *options, code=0):
    command = [sys.executable, "recipes/digits.py", "--out", str(out), *map(str, options)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    return done


def test_digits(tmp_path):
    make(tmp_path / "digits")
    for split, each in (("train", 400), ("val", 100)):
        folders = sorted((tmp_path / "digits" / split).iterdir())
        assert [folder.name for folder in folders] == [str(digit) for digit in range(10)]
        assert all(len(list(folder.iterdir())) == each for folder in folders)
    image = np.asarray(Image.open(tmp_path / "digits/train/7/0000.png"))
    assert image.shape == (32, 32, 3) and image.max() > 200
    assert not image[:2].any() and not image[:, -2:].any(), "the border is black"
    assert (image == image[..., :1]).all(), "the digits are grey"
    files = [f.read_bytes() for f in (tmp_path / "digits").glob("*/*/*.png")]
    assert len(set(files)) == len(files) == 5000, "no digit stands in both splits"
    assert "nothing to do" in make(tmp_path / "digits").stdout
    assert "other arguments" in make(tmp_path / "digits", "--limit", 3, code=2).stderr
