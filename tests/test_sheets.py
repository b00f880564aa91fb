"""The recipes that leave pictures, and the one preparation of the satellite study."""

import json

import numpy as np
import torch
from conftest import refused, run, write_images
from PIL import Image

from images.pictures import square
from images.read import read_image


def test_masks(recipe, place):
    """A sheet of masks, and the observation of the text that adjacent tokens change more."""
    recipe("figure_masks")
    for name in ("digits", "tiles"):
        out = place / "runs/masks" / name
        sheet = Image.open(out / "masks.png")
        assert sheet.width > 6 * 64 and sheet.height > 7 * 64
        means = {}
        for mask in ("center", "ring", "random", "block", "bright"):
            means[mask] = json.loads((out / f"{mask}.view0.ssim/ssim.json").read_text())["mean"]
        assert means["block"] < means["random"] < means["ring"]
        assert means["center"] < means["block"] and means["bright"] < 1


def test_figures(recipe, place):
    """Every sheet is there and has its rows; those of Figure 15 need trained augmenters."""
    recipe("table2_features", DRY="1")
    augmenters = place / "data/generated/imagenet/augmenters"
    torch.manual_seed(0)
    for name in ("zoom", "navigator"):
        (augmenters / name).mkdir(parents=True)
    torch.save({"direction": torch.randn(2048) / 45}, augmenters / "zoom/direction.pt")
    state = {"layer.weight": torch.randn(2048, 2048) / 45, "layer.bias": torch.zeros(2048)}
    torch.save(state | {"bound": torch.tensor(1.0)}, augmenters / "navigator/navigator.pt")
    recipe("figures_sheets", COUNT="2")
    heights = {}
    for number in (2, 13, 15, 22, 24, 26, 27, 28):
        sheet = Image.open(place / f"runs/imagenet/figure{number}.png")
        assert np.asarray(sheet).std() > 20
        heights[number] = sheet.height
    assert heights[2] < heights[15] < heights[13] < heights[27]  # 4, 5, 11 and 19 rows


def test_figure13(tmp_path):
    """Each augmentation changes the image in its own way."""
    write_images(tmp_path / "data", each=1, size=64)
    flags = ["sheet", tmp_path / "data", "--size", 64, "--images", 3]
    run("07_metrics.py", *flags, "--out", tmp_path / "sheet.png")
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    left = sheet.shape[1] - 3 * 68  # of the first of three images
    cells = [sheet[4 + 68 * k : 68 + 68 * k, left : left + 64].astype(int) for k in range(11)]
    original, *changed = cells
    names = "crop jitter blur flip gray rotation cutout noise sobel solarize".split()
    found = dict(zip(names, changed, strict=True))
    assert (original == read_image(tmp_path / "data/a/000.png")).all()
    assert (found["flip"] == original[:, ::-1]).all()
    assert (found["gray"].std(2) == 0).all() and (found["sobel"].std(2) == 0).all()
    assert (found["cutout"] != original).any(2).sum() <= 16 * 16
    assert (found["solarize"] == np.where(original < 128, original, 255 - original)).all()
    for name, image in found.items():
        assert (image != original).any(), name


def test_resize(tmp_path, capsys):
    write_images(tmp_path / "data/train", each=3, size=50, suffix=".jpg")
    (tmp_path / "data/train/a/-73.5,45.jpg").write_bytes(b"no image")
    flags = ["resize", "--data", tmp_path / "data", "--out", tmp_path / "out", "--workers", 0]
    too_many = refused(capsys, "recipes/datasets.py", *flags, "--size", 32)
    assert "1 of 10 images cannot be read, more than --max-unreadable 0.001 allows" in too_many
    flags += ["--max-unreadable", 0.2]
    said = run("recipes/datasets.py", *flags, "--size", 32)
    assert "-73.5,45.jpg cannot be read" in said.stderr and "9 images of 32 px" in said.stdout
    made = sorted((tmp_path / "out").rglob("*.png"))
    assert len(made) == 9
    for file in made:
        original = tmp_path / "data" / file.relative_to(tmp_path / "out").with_suffix(".jpg")
        assert (read_image(file) == square(read_image(original), 32)).all()
    made[0].unlink()
    before = made[1].stat().st_mtime_ns
    run("recipes/datasets.py", *flags, "--size", 32)
    assert made[0].exists() and made[1].stat().st_mtime_ns == before
    assert "--size was 32" in refused(capsys, "recipes/datasets.py", *flags, "--size", 64, code=2)
