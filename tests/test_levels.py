"""Images of more than 8 bits, no data, many bands: --levels and --bands."""

import argparse
import struct
from functools import partial

import cv2
import numpy as np
import pytest
import tifffile
import torch
from conftest import sentence
from image_files import BANDS, COLOURS, RNG, png, tiff
from PIL import Image

from base import levels
from base.run import fail
from images import files, read


def test_8_bits_stay_as_they_are(tmp_path, monkeypatch, capsys):
    for name in ("x.png", "x.tif", "x.bmp", "x.ppm"):
        folder = tmp_path / name
        folder.mkdir()
        Image.fromarray(COLOURS).save(folder / name)
        Image.fromarray(COLOURS[..., 0]).save(folder / ("gray_" + name))
        for text in ("", "0 1", "100 50"):
            monkeypatch.setenv(levels.LEVELS, text)
            assert files.find_images(folder) == ["gray_" + name, name]
            assert (read.read_image(folder / name) == COLOURS).all()
            gray = read.read_image(folder / ("gray_" + name))
            assert (gray == COLOURS[..., :1]).all()
    assert not capsys.readouterr().err


KINDS = {
    "plain": {},
    "big": {"bigtiff": True, "byteorder": ">"},
    "deflate": {"compression": "deflate", "predictor": 2},
    "tiles": {"tile": (16, 16)},
}


@pytest.mark.parametrize("kind", KINDS)
def test_16_bits(tmp_path, monkeypatch, capsys, kind):
    twelve = RNG.integers(0, 4096, (20, 30)).astype(np.uint16)
    file = tmp_path / "x.tif"
    file.write_bytes(tiff(twelve, **KINDS[kind]))
    said = sentence(capsys, files.find_images, tmp_path)
    assert f"{file}: uint16 values from {twelve.min()} to {twelve.max()}" in said
    assert "--levels LOW HIGH" in said and 'GCL_LEVELS="LOW HIGH"' in said
    monkeypatch.setenv(levels.LEVELS, "0 4095")
    assert files.find_images(tmp_path) == ["x.tif"]
    expected = (twelve * (255 / 4095)).round()
    assert np.abs(read.read_image(file) - expected[..., None]).max() == 0


def test_deep_files_of_other_kinds(tmp_path, monkeypatch):
    """One sentence: no value of theirs is cut in silence."""
    values = RNG.integers(0, 4096, (20, 30)).astype(np.uint16)
    kinds = {
        "gray.png": cv2.imencode(".png", values)[1].tobytes(),
        "rgb.png": png(np.stack([values] * 3, 2)),
        "rgba.png": png(np.stack([values] * 4, 2)),
        "x.pgm": b"P5\n30 20\n4095\n" + values.astype(">u2").tobytes(),
    }
    for name, data in kinds.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(OSError, match=f"{name} cannot be read: more than 8 bits.*TIFF"):
            read.read_image(tmp_path / name)
    # Aerial photographs: red, green, blue and infrared. The colours, unless bands are named.
    values = RNG.integers(0, 256, (20, 30, 4), np.uint8)
    tifffile.imwrite(tmp_path / "x.tif", values, photometric="rgb", extrasamples=["unspecified"])
    assert (read.read_image(tmp_path / "x.tif") == values[..., :3]).all()
    monkeypatch.setenv(levels.BANDS, "4 1 2")
    assert (read.read_image(tmp_path / "x.tif") == values[..., [3, 0, 1]]).all()
    # It is named, and the package that has it.
    data = bytearray(tiff(BANDS, photometric="minisblack", planarconfig="contig"))
    place = data.index(struct.pack("<HHI", 259, 3, 1)) + 8
    data[place] = 5  # LZW
    (tmp_path / "x.tif").write_bytes(data)
    monkeypatch.setenv(levels.BANDS, "3 2 1")
    with pytest.raises(OSError, match="LZW.*imagecodecs"):
        read.read_image(tmp_path / "x.tif")


@pytest.mark.parametrize("bands", [1, 3])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int16", "int32", "uint32"])
def test_types_that_need_levels(tmp_path, monkeypatch, capsys, dtype, bands):
    top = 1 if dtype.startswith("float") else 10000
    values = (RNG.random((20, 30, bands)) * top).astype(dtype)
    stored = values[..., 0] if bands == 1 else values
    (tmp_path / "x.tif").write_bytes(tiff(stored, photometric="rgb" if bands == 3 else None))
    said = sentence(capsys, files.find_images, tmp_path)
    assert f"{dtype} values from" in said and "--levels LOW HIGH" in said
    with pytest.raises(OSError, match="need --levels LOW HIGH"):
        read.read_image(tmp_path / "x.tif")
    monkeypatch.setenv(levels.LEVELS, f"0 {top}")
    files.find_images(tmp_path)
    expected = (values.astype(float) * 255 / top).round()
    assert np.abs(read.read_image(tmp_path / "x.tif") - expected).max() <= 1


def test_no_data(tmp_path, monkeypatch, recwarn, capsys):
    """NaN and -9999 become black and leave the rest as it is."""
    values = np.linspace(0, 1, 100, dtype=np.float32).reshape(10, 10)
    expected = (values * 255).round()
    values[2] = np.nan
    values[3] = -9999
    values[4] = np.inf
    values[5] = -np.inf
    expected[[2, 3, 5]] = 0
    expected[4] = 255
    tifffile.imwrite(tmp_path / "x.tif", values)
    monkeypatch.setenv(levels.LEVELS, "0 1")
    assert (read.read_image(tmp_path / "x.tif")[..., 1] == expected).all()
    assert not recwarn.list
    monkeypatch.setenv(levels.LEVELS, "1 0")  # a negative
    flipped = read.read_image(tmp_path / "x.tif")[..., 0]
    assert flipped[0, 0] == 255 and flipped[9, 9] == 0
    monkeypatch.setenv(levels.LEVELS, "")
    tifffile.imwrite(tmp_path / "x.tif", np.full((4, 4), np.nan, np.float32))
    assert "float32 values" in sentence(capsys, files.find_images, tmp_path)
    assert not recwarn.list


def test_colours_of_16_bits(tmp_path, monkeypatch):
    values = RNG.integers(0, 65536, (20, 30, 4)).astype(np.uint16)
    rgb = values[..., :3]
    planes = np.moveaxis(rgb, 2, 0)
    deep = {
        "rgb.tif": tiff(rgb, photometric="rgb"),
        "planes.tif": tiff(planes, photometric="rgb", planarconfig="separate"),
        "rgba.tif": tiff(values, photometric="rgb", extrasamples=["unassalpha"]),
    }
    for white in (65535, 32768):
        monkeypatch.setenv(levels.LEVELS, f"0 {white}")
        expected = (rgb.astype(np.float64) * 255 / white).round().clip(0, 255)
        for name, data in deep.items():
            (tmp_path / name).write_bytes(data)
            assert np.abs(read.read_image(tmp_path / name) - expected).max() <= 1, name
    # The camera's rotation is applied to deep images as well.
    monkeypatch.setenv(levels.LEVELS, "0 65535")
    values = RNG.integers(0, 65536, (20, 30, 3)).astype(np.uint16)
    turn = {"extratags": [(274, 3, 1, 6, True)]}
    (tmp_path / "x.tif").write_bytes(tiff(values, photometric="rgb", **turn))
    turned = read.read_image(tmp_path / "x.tif")
    assert (turned == np.rot90((values / 257).round(), -1)).all()
    (tmp_path / "gray.tif").write_bytes(tiff(values[..., 0], **turn))
    assert read.read_image(tmp_path / "gray.tif").shape == (30, 20, 3)


@pytest.mark.parametrize("compression", [None, "deflate"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_many_bands(tmp_path, monkeypatch, capsys, dtype, planar, compression):
    values = RNG.integers(0, 256, (20, 30, 5)).astype(dtype)
    stored = values if planar == "contig" else np.moveaxis(values, 2, 0)
    file = tmp_path / "x.tif"
    options = {"photometric": "minisblack", "planarconfig": planar, "compression": compression}
    tifffile.imwrite(file, stored, **options)
    said = sentence(capsys, files.find_images, tmp_path)
    assert f"{file}: 5 bands of {dtype}" in said
    assert "--bands 3 2 1" in said and "GCL_BANDS" in said
    with pytest.raises(OSError, match=f"x.tif cannot be read: 5 bands of {dtype}"):
        read.read_image(file)
    monkeypatch.setenv(levels.BANDS, "4 3 1")
    monkeypatch.setenv(levels.LEVELS, "0 255")
    files.find_images(tmp_path)
    assert (read.read_image(file) == values[..., [3, 2, 0]]).all()
    monkeypatch.setenv(levels.BANDS, "5")
    assert (read.read_image(file) == values[..., 4:]).all()
    monkeypatch.setenv(levels.BANDS, "6 1 2")
    assert f"5 bands of {dtype}" in sentence(capsys, files.find_images, tmp_path)


BAD = {
    levels.LEVELS: ["1", "0 0", "a b", "0 nan", "0 1 2"],
    levels.BANDS: ["1 2", "0 1 2", "x", "1.5", "1 2 3 4"],
}


@pytest.mark.parametrize("name, text", [(name, text) for name in BAD for text in BAD[name]])
def test_bad_levels_and_bands(monkeypatch, capsys, name, text):
    monkeypatch.setenv(name, text)
    assert name in sentence(capsys, levels.check_environment, partial(fail, code=2))


def test_flags_reach_every_process(tmp_path, monkeypatch):
    """--levels and --bands are in the environment, whichever way workers are started."""
    p = argparse.ArgumentParser()
    levels.arguments(p)
    assert p.parse_args([]).levels is None
    args = p.parse_args("--levels 0 2000 --bands 3 2 1".split())
    assert (args.levels, args.bands) == ((0.0, 2000.0), (3, 2, 1))
    values = (BANDS % 2001).astype(np.uint16)
    tifffile.imwrite(tmp_path / "x.tif", values, photometric="minisblack", planarconfig="contig")
    how = {"sampler": [tmp_path / "x.tif"], "num_workers": 1, "multiprocessing_context": "spawn"}
    reader = torch.utils.data.DataLoader(files.Reading(read.read_image), batch_size=None, **how)
    expected = (values[..., [2, 1, 0]] * (255 / 2000)).round()
    assert np.abs(next(iter(reader)).numpy() - expected).max() <= 1
    again = argparse.ArgumentParser()
    levels.arguments(again)  # a stage that is started with the variables set notes the same
    assert again.parse_args([]) == args
