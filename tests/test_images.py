"""Reading images of all kinds, walking through folders, mirrors, squares."""

import io
import os
import struct
import tempfile
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from models import decode, images, levels

RNG = np.random.default_rng(0)
COLOURS = RNG.integers(0, 256, (20, 30, 3), np.uint8)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    """No test inherits levels or bands, also not from a flag that an earlier one gave."""
    monkeypatch.setenv(levels.LEVELS, "")
    monkeypatch.setenv(levels.BANDS, "")


def sentence(capsys, function, *args, code=2):
    """The one sentence with which a call ends the run."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        function(*args)
    assert stop.value.code == code
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    return lines[0]


def touch(root, *names):
    for name in names:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return root


# ---------------------------------------------------------------- finding
def test_every_extension_that_the_reader_reads(tmp_path):
    """All that Pillow can also write is written, found and read."""
    Image.init()
    kinds = Image.registered_extensions()
    written = set()
    for extension in images.extensions():
        kind = kinds["." + extension]
        if kind not in Image.SAVE:
            continue
        for mode in ("RGB", "L", "1", "P"):
            try:
                picture = Image.fromarray(COLOURS).resize((16, 16)).convert(mode)
                picture.save(tmp_path / f"{extension}.{extension.upper()}", kind)
                written.add(extension)
                break
            except (OSError, ValueError, KeyError):
                (tmp_path / f"{extension}.{extension.upper()}").unlink(missing_ok=True)
    assert written >= set(
        "jpg jpeg jfif png bmp gif webp avif jp2 j2k tif tiff ppm pgm pbm pnm tga ico".split()
    )
    found = images.find_images(tmp_path)
    assert {os.path.splitext(name)[0] for name in found} == written
    for name in found:
        assert images.read_image(tmp_path / name).shape[2] == 3, name


def test_no_extension_of_what_is_no_picture():
    assert not images.extensions() & set("h5 hdf grib bufr mpg mpeg eps ps wmf emf pcd pdf".split())


def test_what_is_passed_over_is_counted(tmp_path, capsys):
    touch(tmp_path, "a/1.jpg", "a/notes.txt", "b/x.TXT", "b/x.csv", "b/README", "a/.hidden.txt")
    assert images.find_images(tmp_path) == ["a/1.jpg"]
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert said[0].endswith(": 2 .txt, 1 without extension, 1 .csv")
    (tmp_path / "a" / "1.jpg").unlink()
    assert "holds no images: 2 .txt" in sentence(capsys, images.find_images, tmp_path)


def test_folders_of_systems_are_passed_over(tmp_path, capsys):
    touch(tmp_path, "a/1.jpg", "a/._1.jpg", ".git/x.jpg", "__MACOSX/a/._1.jpg", "a/@eaDir/1.jpg")
    touch(tmp_path, "$RECYCLE.BIN/1.jpg", "System Volume Information/1.jpg", "__MACOSX/2.jpg")
    touch(tmp_path, "a/.ipynb_checkpoints/1-checkpoint.jpg", "lost+found/1.jpg")
    assert images.find_images(tmp_path) == ["a/1.jpg"]
    assert not capsys.readouterr().err


def test_names_that_are_not_utf8(tmp_path):
    folder = os.fsencode(tmp_path / "data")
    os.makedirs(folder + b"/stra\xdfe")
    name = folder + b"/stra\xdfe/caf\xe9.png"
    Image.fromarray(COLOURS).save(tmp_path / "x.png")
    os.rename(tmp_path / "x.png", name)
    found = images.find_images(tmp_path / "data")
    assert [os.fsencode(path) for path in found] == [b"stra\xdfe/caf\xe9.png"]
    assert (images.read_image(tmp_path / "data" / found[0]) == COLOURS).all()
    images.write_image(tmp_path / "mirror" / found[0], COLOURS)
    assert os.path.exists(os.fsencode(tmp_path / "mirror") + b"/stra\xdfe/caf\xe9.png")
    suffixes, index = images.generated_files(tmp_path / "mirror", found)
    assert (suffixes, index.tolist()) == ([".png"], [0])
    images.contact_sheet(tmp_path / "sheet.png", [[COLOURS]], found, found)
    with pytest.raises(OSError, match="cannot be read"):
        images.read_image(tmp_path / (found[0] + "x"))


@pytest.mark.parametrize("stem", ["x" * 246, "図" * 82])
def test_names_of_250_bytes(tmp_path, stem):
    for suffix in (".png", ".jpg"):
        images.write_image(tmp_path / "gen" / (stem + suffix), COLOURS)
    assert len(list((tmp_path / "gen").iterdir())) == 2
    (tmp_path / "gen" / (stem + ".jpg")).unlink()
    assert images.find_images(tmp_path / "gen") == [stem + ".png"]
    assert (images.read_image(tmp_path / "gen" / (stem + ".png")) == COLOURS).all()


def test_unreadable_folder_is_an_error(capsys):
    """Root may read everything: the test becomes somebody else for a moment."""
    with tempfile.TemporaryDirectory() as root:
        root = Path(root)
        root.chmod(0o755)
        touch(root, "a/1.jpg", "b/2.jpg", "lost+found/3.jpg")
        (root / "b").chmod(0)
        (root / "lost+found").chmod(0)
        if os.getuid() == 0:
            os.seteuid(65534)
        try:
            said = sentence(capsys, images.find_images, root, code=1)
            assert f"{root}/b cannot be read (Permission denied)" in said
            said = sentence(capsys, images.generated_files, root, ["b/2.jpg"], code=1)
            assert f"{root}/b cannot be read (Permission denied)" in said
        finally:
            os.seteuid(os.getuid())
            (root / "b").chmod(0o755)
        assert images.find_images(root) == ["a/1.jpg", "b/2.jpg"]


def test_links(tmp_path, capsys):
    touch(tmp_path, "data/a/1.jpg", "elsewhere/2.jpg")
    (tmp_path / "data" / "b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "c").symlink_to("b")
    assert images.find_images(tmp_path / "data") == ["a/1.jpg", "b/2.jpg", "c/2.jpg"]
    (tmp_path / "data" / "a" / "3.jpg").symlink_to(tmp_path / "nothing")
    assert "a/3.jpg" in images.find_images(tmp_path / "data")  # whoever reads it names it
    (tmp_path / "elsewhere" / "d").symlink_to(tmp_path / "data")
    said = sentence(capsys, images.find_images, tmp_path / "data")
    assert "is a link to a folder above it" in said and "/d" in said


def test_a_pipe_is_not_read(tmp_path):
    touch(tmp_path, "1.jpg")
    os.mkfifo(tmp_path / "2.jpg")
    assert images.find_images(tmp_path) == ["1.jpg"]


def test_two_extensions_of_one_name(tmp_path, capsys):
    touch(tmp_path, "a/1.jpg", "b/1.png", "a/x-1.jpg", "a/x.jpg", "a/x.y.jpg")
    assert len(images.find_images(tmp_path)) == 5
    touch(tmp_path, "a/x.jp2")
    said = sentence(capsys, images.find_images, tmp_path)
    assert "a/x.jp2 and a/x.jpg differ only in their extension" in said


# ---------------------------------------------------------------- mirrors
def test_views_of_a_mirror(tmp_path, capsys):
    touch(tmp_path, "view10/a/1.png", "view2/a/1.png", "view0/a/1.png", "view0.ssim/result.json")
    touch(tmp_path, "view/x", "views1/x", "view١/x", "view-1/x", "aview3/x", "samples.png", "view3")
    names = [folder.name for folder in images.views_of(tmp_path)]
    assert names == ["view0", "view2", "view10"]
    assert images.views_of(tmp_path / "view2") == [tmp_path / "view2"]
    assert "is not a folder" in sentence(capsys, images.views_of, tmp_path / "nothing")


def test_generated_files_have_any_extension(tmp_path, capsys):
    paths = ["a/1.JPEG", "a/2.png", "a/3.tif", "a/b/1.jpg", "a/c.d.jpg", "z.jpg"]
    touch(tmp_path, "a/1.webp", "a/2.PNG", "a/b/1.jpg", "a/c.d.jpg", "a/b/x.txt", "a/.3.png")
    suffixes, index = images.generated_files(tmp_path, paths)
    assert index.dtype == np.uint8
    found = [None if i == images.MISSING else suffixes[i] for i in index]
    assert found == [".webp", ".PNG", None, ".jpg", ".jpg", None]
    touch(tmp_path, "a/1.png")
    said = sentence(capsys, images.generated_files, tmp_path, paths, code=1)
    assert "1.png and 1.webp" in said


# ---------------------------------------------------------------- damaged files
def png(values, header=None, bits=16):
    """A PNG file by hand: (H, W, bands) values, or a header that lies about the size."""
    height, width, bands = values.shape
    colour_type = {1: 0, 3: 2, 2: 4, 4: 6}[bands]
    header = header or (width, height)
    rows = [b"\0" + row.astype(f">u{bits // 8}").tobytes() for row in values]

    def chunk(name, data):
        check = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + check

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", *header, bits, colour_type, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(b"".join(rows)))
        + chunk(b"IEND", b"")
    )


def jpeg_of_declared_size(width, height):
    data = io.BytesIO()
    Image.fromarray(COLOURS).save(data, "JPEG")
    data = bytearray(data.getvalue())
    place = data.index(b"\xff\xc0") + 5
    data[place : place + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def tiff(values, **options):
    data = io.BytesIO()
    tifffile.imwrite(data, values, **options)
    return data.getvalue()


TINY = np.zeros((4, 4, 3), np.uint8)
BANDS = RNG.integers(0, 4096, (12, 10, 5)).astype(np.uint16)


def tiff_of_declared_size(side):
    data = tiff(np.zeros((4, 4, 5), np.uint16), photometric="minisblack", planarconfig="contig")
    for tag in (256, 257):  # width and height
        written = struct.pack("<HHII", tag, 4, 1, 4)
        assert written in data
        data = data.replace(written, struct.pack("<HHII", tag, 4, 1, side))
    return data


BIG_TIFF = tiff(BANDS, photometric="minisblack", planarconfig="contig", bigtiff=True)

DAMAGED = {
    "empty.jpg": b"",
    "text.jpg": b"no image",
    "page.jpg": b"<html><body>404 not found</body></html>",
    "bomb.png": png(TINY, (60000, 60000), 8),
    "wide.png": png(TINY, (2**31 - 1, 1), 8),
    "largest.png": png(TINY, (2**31 - 1, 2**31 - 1), 8),
    "nothing.png": png(TINY, (0, 0), 8),
    "deep_bomb.png": png(TINY.astype(np.uint16), (60000, 60000)),
    "cut.png": png(COLOURS, bits=8)[:200],
    "crc.png": png(COLOURS, bits=8).replace(b"IDAT", b"IDAX"),
    "bomb.jpg": jpeg_of_declared_size(65500, 65500),
    "smaller_bomb.jpg": jpeg_of_declared_size(9000, 9000),
    "smaller_bomb.png": png(TINY, (9000, 9000), 8),
    "smaller_bomb.tif": tiff_of_declared_size(9000),
    "cut.tif": tiff(COLOURS)[:-300],
    "cut_bands.tif": BIG_TIFF[:-300],
    "tags.tif": b"II*\0\x08\0\0\0\xff\xff" + b"\xff" * 40,
    "header.tif": b"II*\0\x08\0\0\0",
    "bomb.tif": tiff_of_declared_size(2**20),
    "header.bmp": b"BM" + b"\0" * 60,
    "cut.gif": b"GIF89a\x01\0\x01\0",
    "cut.webp": b"RIFF\x24\0\0\0WEBPVP8 ",
    "cut.avif": b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf",
    "cut.jp2": b"\0\0\0\x0cjP  \r\n\x87\n\0\0\0\x14ftypjp2 ",
    "text.ppm": b"P6\n-3 4\n255\n",
    "header.ico": b"\0\0\x01\0\xff\xff" + b"\xff" * 30,
    "header.psd": b"8BPS\0\x01" + b"\0" * 40,
    "header.dds": b"DDS |\0\0\0" + b"\xff" * 130,
    "header.sgi": b"\x01\xda\x01\x01" + b"\xff" * 600,
    "header.icns": b"icns\0\0\0\x10ic07\0\0\0\x08",
    "header.fits": b"SIMPLE  =                    T".ljust(80) + b"END".ljust(80),
    "header.qoi": b"qoif" + b"\xff" * 12,
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files_have_one_sentence(tmp_path, capfd, name):
    file = tmp_path / name
    file.write_bytes(DAMAGED[name])
    with pytest.raises(OSError) as error:
        images.read_image(file)
    text = str(error.value)
    assert text.startswith(f"{file} cannot be read: ")
    assert "\n" not in text and len(text) > len(f"{file} cannot be read: ")
    decode.check_values(tmp_path, [name])  # it is left to whoever reads the image
    said = capfd.readouterr().err.splitlines()
    assert all(line.startswith("libpng") for line in said)  # that library writes there itself


def test_a_full_memory_is_the_files_fault_too(tmp_path, monkeypatch):
    (tmp_path / "x.png").write_bytes(png(TINY, bits=8))

    def full(*_):
        raise MemoryError

    monkeypatch.setattr(cv2, "imdecode", full)
    with pytest.raises(OSError, match="x.png cannot be read: MemoryError"):
        images.read_image(tmp_path / "x.png")


# ---------------------------------------------------------------- more than 8 bits
def test_8_bits_stay_as_they_are(tmp_path, monkeypatch, capsys):
    """Levels and bands concern other images only."""
    for name in ("x.png", "x.tif", "x.bmp", "x.ppm"):
        folder = tmp_path / name
        folder.mkdir()
        Image.fromarray(COLOURS).save(folder / name)
        Image.fromarray(COLOURS[..., 0]).save(folder / ("gray_" + name))
        for text in ("", "0 1", "100 50"):
            monkeypatch.setenv(levels.LEVELS, text)
            assert images.find_images(folder) == ["gray_" + name, name]
            assert (images.read_image(folder / name) == COLOURS).all()
            gray = images.read_image(folder / ("gray_" + name))
            assert (gray == COLOURS[..., :1]).all()
    assert not capsys.readouterr().err


def deep_files(values):
    """The same uint16 values (H, W) in every kind of file that holds them."""
    ok, opencv = cv2.imencode(".png", values)
    assert ok
    return {
        "tifffile.tif": tiff(values),
        "big.tif": tiff(values, bigtiff=True, byteorder=">"),
        "deflate.tif": tiff(values, compression="deflate", predictor=2),
        "tiles.tif": tiff(values, tile=(16, 16)),
        "opencv.png": opencv.tobytes(),
    }


@pytest.mark.parametrize(
    "kind", ["tifffile.tif", "big.tif", "deflate.tif", "tiles.tif", "opencv.png"]
)
def test_16_bits(tmp_path, monkeypatch, capsys, kind):
    """Full-range values are scaled as ever; 12-bit ones need levels; both for the whole folder."""
    full = RNG.integers(0, 65536, (20, 30)).astype(np.uint16)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / kind).write_bytes(deep_files(full)[kind])
    expected = (full * (255 / 65535)).round().astype(np.uint8)
    assert (images.read_image(tmp_path / "a" / kind) == expected[..., None]).all()
    images.find_images(tmp_path / "a")
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and "0 is taken for black, 65535 for white" in said[0]

    twelve = full >> 4
    (tmp_path / "b" / kind).write_bytes(deep_files(twelve)[kind])
    said = sentence(capsys, images.find_images, tmp_path / "b")
    assert "uint16 images with values from" in said
    assert "--levels LOW HIGH" in said and 'GCL_LEVELS="LOW HIGH"' in said
    assert len(images.find_images(tmp_path)) == 2  # together they reach the upper half: one rule
    monkeypatch.setenv(levels.LEVELS, "0 4095")
    assert images.find_images(tmp_path / "b") == [kind]
    expected = (twelve * (255 / 4095)).round()
    assert np.abs(images.read_image(tmp_path / "b" / kind) - expected[..., None]).max() == 0


def test_12_bits_that_the_file_declares(tmp_path):
    """A PGM says how large its values are: nothing is left to guess."""
    values = RNG.integers(0, 4096, (20, 30)).astype(np.uint16)
    (tmp_path / "x.pgm").write_bytes(b"P5\n30 20\n4095\n" + values.astype(">u2").tobytes())
    assert images.find_images(tmp_path) == ["x.pgm"]
    difference = images.read_image(tmp_path / "x.pgm") - (values * (255 / 4095))[..., None]
    assert np.abs(difference).max() <= 0.51


@pytest.mark.parametrize("bands", [1, 3])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int16", "int32", "uint32"])
def test_types_that_need_levels(tmp_path, monkeypatch, capsys, dtype, bands):
    top = 1 if dtype.startswith("float") else 10000
    values = (RNG.random((20, 30, bands)) * top).astype(dtype)
    stored = values[..., 0] if bands == 1 else values
    (tmp_path / "x.tif").write_bytes(tiff(stored, photometric="rgb" if bands == 3 else None))
    said = sentence(capsys, images.find_images, tmp_path)
    assert f"{dtype} images with values from" in said and "--levels LOW HIGH" in said
    with pytest.raises(OSError, match="need --levels LOW HIGH"):
        images.read_image(tmp_path / "x.tif")
    monkeypatch.setenv(levels.LEVELS, f"0 {top}")
    images.find_images(tmp_path)
    expected = (values.astype(float) * 255 / top).round()
    assert np.abs(images.read_image(tmp_path / "x.tif") - expected).max() <= 1


def test_no_data(tmp_path, monkeypatch, recwarn):
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
    assert (images.read_image(tmp_path / "x.tif")[..., 1] == expected).all()
    assert not recwarn.list
    monkeypatch.setenv(levels.LEVELS, "1 0")  # a negative
    flipped = images.read_image(tmp_path / "x.tif")[..., 0]
    assert flipped[0, 0] == 255 and flipped[9, 9] == 0


def test_only_no_data(tmp_path, capsys, recwarn):
    tifffile.imwrite(tmp_path / "x.tif", np.full((4, 4), np.nan, np.float32))
    assert "float32 images" in sentence(capsys, images.find_images, tmp_path)
    assert not recwarn.list


def test_colours_of_16_bits(tmp_path, monkeypatch):
    """As Pillow reads them, without levels; from all 16 bits with them. Transparency stays."""
    values = RNG.integers(0, 65536, (20, 30, 4)).astype(np.uint16)
    rgb = values[..., :3]
    files = {
        "rgb.png": png(rgb),
        "rgb.tif": tiff(rgb, photometric="rgb"),
        "planes.tif": tiff(np.moveaxis(rgb, 2, 0), photometric="rgb", planarconfig="separate"),
    }
    _, lzw = cv2.imencode(".tif", rgb[..., ::-1], [cv2.IMWRITE_TIFF_COMPRESSION, 5])
    files["lzw.tif"] = lzw.tobytes()
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        assert (images.read_image(tmp_path / name) == rgb >> 8).all(), name
    monkeypatch.setenv(levels.LEVELS, "0 32768")
    expected = (rgb.astype(np.float64) * 255 / 32768).round().clip(0, 255)
    for name in files:
        assert np.abs(images.read_image(tmp_path / name) - expected).max() <= 1, name
    monkeypatch.setenv(levels.LEVELS, "")
    (tmp_path / "rgba.png").write_bytes(png(values))
    (tmp_path / "rgba.tif").write_bytes(
        tiff(values, photometric="rgb", extrasamples=["unassalpha"])
    )
    eight = Image.fromarray((values >> 8).astype(np.uint8))
    white = Image.new("RGBA", eight.size, "white")
    expected = np.asarray(Image.alpha_composite(white, eight).convert("RGB"))
    for name in ("rgba.png", "rgba.tif"):
        assert (images.read_image(tmp_path / name) == expected).all(), name


def test_turned_16_bits(tmp_path):
    """The camera's rotation is applied to deep images as well."""
    values = RNG.integers(0, 65536, (20, 30, 3)).astype(np.uint16)
    (tmp_path / "x.tif").write_bytes(
        tiff(values, photometric="rgb", extratags=[(274, 3, 1, 6, True)])
    )
    turned = images.read_image(tmp_path / "x.tif")
    assert (turned == np.rot90(values >> 8, -1)).all()
    (tmp_path / "gray.tif").write_bytes(tiff(values[..., 0], extratags=[(274, 3, 1, 6, True)]))
    assert images.read_image(tmp_path / "gray.tif").shape == (30, 20, 3)


@pytest.mark.parametrize("compression", [None, "deflate"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_many_bands(tmp_path, monkeypatch, capsys, dtype, planar, compression):
    values = RNG.integers(0, 256, (20, 30, 5)).astype(dtype)
    stored = values if planar == "contig" else np.moveaxis(values, 2, 0)
    file = tmp_path / "x.tif"
    options = {"photometric": "minisblack", "planarconfig": planar, "compression": compression}
    tifffile.imwrite(file, stored, **options)
    said = sentence(capsys, images.find_images, tmp_path)
    assert f"{file}: 5 bands of {dtype}" in said
    assert "--bands 3 2 1" in said and "GCL_BANDS" in said
    with pytest.raises(OSError, match=f"x.tif cannot be read: 5 bands of {dtype}"):
        images.read_image(file)
    monkeypatch.setenv(levels.BANDS, "4 3 1")
    monkeypatch.setenv(levels.LEVELS, "0 255")
    images.find_images(tmp_path)
    assert (images.read_image(file) == values[..., [3, 2, 0]]).all()
    monkeypatch.setenv(levels.BANDS, "5")
    assert (images.read_image(file) == values[..., 4:]).all()
    monkeypatch.setenv(levels.BANDS, "6 1 2")
    assert "number 6, there are 5 bands" in sentence(capsys, images.find_images, tmp_path)


def test_bands_of_colours_with_infrared(tmp_path, monkeypatch):
    """Aerial photographs: red, green, blue and infrared. The colours, unless bands are named."""
    values = RNG.integers(0, 256, (20, 30, 4), np.uint8)
    tifffile.imwrite(tmp_path / "x.tif", values, photometric="rgb", extrasamples=["unspecified"])
    assert (images.read_image(tmp_path / "x.tif") == values[..., :3]).all()
    monkeypatch.setenv(levels.BANDS, "4 1 2")
    assert (images.read_image(tmp_path / "x.tif") == values[..., [3, 0, 1]]).all()


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_four_compressed_bands(tmp_path, monkeypatch, dtype):
    """OpenCV decompresses what tifffile cannot."""
    values = RNG.integers(0, 256, (20, 30, 4)).astype(dtype)
    options = [cv2.IMWRITE_TIFF_COMPRESSION, 5]  # LZW
    _, data = cv2.imencode(".tif", values[..., [2, 1, 0, 3]], options)
    (tmp_path / "x.tif").write_bytes(data.tobytes())
    monkeypatch.setenv(levels.LEVELS, "0 255")
    monkeypatch.setenv(levels.BANDS, "4 2 1")
    assert (images.read_image(tmp_path / "x.tif") == values[..., [3, 1, 0]]).all()


def test_a_compression_that_needs_another_package(tmp_path, monkeypatch):
    """It is named, and the package that has it."""
    data = bytearray(tiff(BANDS, photometric="minisblack", planarconfig="contig"))
    place = data.index(struct.pack("<HHI", 259, 3, 1)) + 8
    data[place] = 5  # LZW
    (tmp_path / "x.tif").write_bytes(data)
    monkeypatch.setenv(levels.BANDS, "3 2 1")
    with pytest.raises(OSError, match="LZW.*imagecodecs"):
        images.read_image(tmp_path / "x.tif")


@pytest.mark.parametrize("text", ["1", "0 0", "a b", "0 nan", "0 1 2"])
def test_bad_levels(tmp_path, monkeypatch, capsys, text):
    Image.fromarray(COLOURS).save(tmp_path / "x.png")
    monkeypatch.setenv(levels.LEVELS, text)
    assert levels.LEVELS in sentence(capsys, images.find_images, tmp_path)


@pytest.mark.parametrize("text", ["1 2", "0 1 2", "x", "1.5", "1 2 3 4"])
def test_bad_bands(tmp_path, monkeypatch, capsys, text):
    Image.fromarray(COLOURS).save(tmp_path / "x.png")
    monkeypatch.setenv(levels.BANDS, text)
    assert levels.BANDS in sentence(capsys, images.find_images, tmp_path)


def test_flags_reach_every_process(tmp_path, monkeypatch):
    """--levels and --bands are in the environment, whichever way workers are started."""
    import argparse

    p = argparse.ArgumentParser()
    levels.arguments(p)
    assert p.parse_args([]).levels is None
    args = p.parse_args("--levels 0 2000 --bands 3 2 1".split())
    assert (args.levels, args.bands) == ([0.0, 2000.0], [3, 2, 1])
    values = (BANDS % 2001).astype(np.uint16)
    tifffile.imwrite(tmp_path / "x.tif", values, photometric="minisblack", planarconfig="contig")
    monkeypatch.setattr(
        torch.multiprocessing, "get_start_method", torch.multiprocessing.get_start_method
    )
    reader = torch.utils.data.DataLoader(
        images.Reading(images.read_image),
        batch_size=None,
        sampler=[tmp_path / "x.tif"],
        num_workers=1,
        multiprocessing_context="spawn",
    )
    expected = (values[..., [2, 1, 0]] * (255 / 2000)).round()
    assert np.abs(next(iter(reader)).numpy() - expected).max() <= 1
    again = argparse.ArgumentParser()
    levels.arguments(again)  # a stage that is started with the variables set notes the same
    assert again.parse_args([]) == args


# ---------------------------------------------------------------- squares and sheets
def resized_whole(image, size):
    """The square as it is defined: resized whole, then cut."""
    height, width = image.shape[:2]
    scale = size / min(height, width)
    height, width = max(size, round(height * scale)), max(size, round(width * scale))
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return np.asarray(resized.crop((left, top, left + size, top + size)))


@pytest.mark.parametrize("shape", [(20, 30), (31, 17), (64, 64), (300, 200), (1, 8), (50, 399)])
def test_square_of_ordinary_images(shape):
    image = RNG.integers(0, 256, (*shape, 3), np.uint8)
    for size in (8, 33, 64):
        assert (images.square(image, size) == resized_whole(image, size)).all()


@pytest.mark.parametrize("shape", [(100, 1000), (1000, 100), (3, 500), (500, 3)])
def test_square_of_strips(shape):
    """Only the middle is resized, and it is the same but for a fraction of a pixel's shift."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    wave = 128 + 100 * np.sin(6 * np.pi * np.stack([x, y, x + y], 2) / min(shape) / 3)
    image = wave.astype(np.uint8)
    difference = images.square(image, 32).astype(int) - resized_whole(image, 32)
    assert np.abs(difference).mean() < 8


@pytest.mark.parametrize("shape", [(1, 100_000), (100_000, 1), (2, 500_000)])
def test_strips_take_little_memory(tmp_path, shape):
    """Resized whole, the first would be 256 x 25,600,000 pixels: 20 GB."""
    image = np.full((*shape, 3), 77, np.uint8)
    assert (images.square(image, 256) == 77).all()
    assert images.as_stored(image, 256).shape == (256, 256, 3)
    images.contact_sheet(tmp_path / "x.png", [[image, COLOURS]], ["strip"], ["label"])
    assert images.read_image(tmp_path / "x.png").shape[0] < 300
