"""Reading images of all kinds, walking through folders, mirrors, squares."""

import multiprocessing
import os
import signal
import tempfile
from pathlib import Path
from unittest.mock import Mock

import cv2
import numpy as np
import pytest
import torch
from conftest import sentence
from image_files import COLOURS, DAMAGED, RNG, TINY, png
from PIL import Image

from images import files, pictures, read


def touch(root, *names):
    for name in names:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return root


def test_matching_a_million_names_takes_seconds(monkeypatch):
    names = [f"{number}.png" for number in range(50_000)]
    monkeypatch.setattr(files, "find_images", lambda root: names)
    end = os.times().user + 5
    assert len(files.matched("a", "b")) == 50_000 and os.times().user < end


def test_every_extension_that_the_reader_reads(tmp_path):
    Image.init()
    kinds = Image.registered_extensions()
    written = set()
    for extension in files.EXTENSIONS:
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
    common = "jpg jpeg jfif png bmp gif webp avif jp2 j2k tif tiff ppm pgm pbm pnm tga ico"
    assert written >= set(common.split())
    found = files.find_images(tmp_path)
    assert {os.path.splitext(name)[0] for name in found} == written
    for name in found:
        assert read.read_image(tmp_path / name).shape[2] == 3, name
    assert not files.EXTENSIONS & set("h5 hdf grib bufr mpg mpeg eps ps wmf emf pcd pdf".split())


def test_what_is_passed_over(tmp_path, capsys):
    """Folders and files of systems in silence; others are counted."""
    touch(tmp_path, "a/1.jpg", "a/._1.jpg", ".git/x.jpg", "__MACOSX/a/._1.jpg", "a/@eaDir/1.jpg")
    touch(tmp_path, "$RECYCLE.BIN/1.jpg", "System Volume Information/1.jpg", "__MACOSX/2.jpg")
    touch(tmp_path, "a/.ipynb_checkpoints/1-checkpoint.jpg", "lost+found/1.jpg")
    os.mkfifo(tmp_path / "2.jpg")
    assert files.find_images(tmp_path) == ["a/1.jpg"]
    assert not capsys.readouterr().err
    touch(tmp_path, "a/notes.txt", "b/x.TXT", "b/x.csv", "b/README", "a/.hidden.txt")
    assert files.find_images(tmp_path) == ["a/1.jpg"]
    (said,) = capsys.readouterr().err.strip().splitlines()
    assert said.endswith(": 2 .txt, 1 without extension, 1 .csv")
    (tmp_path / "a" / "1.jpg").unlink()
    assert "holds no images: 2 .txt" in sentence(capsys, files.find_images, tmp_path)


def test_names_that_are_not_utf8(tmp_path):
    folder = os.fsencode(tmp_path / "data")
    os.makedirs(folder + b"/stra\xdfe")
    name = folder + b"/stra\xdfe/caf\xe9.png"
    Image.fromarray(COLOURS).save(tmp_path / "x.png")
    os.rename(tmp_path / "x.png", name)
    found = files.find_images(tmp_path / "data")
    assert [os.fsencode(path) for path in found] == [b"stra\xdfe/caf\xe9.png"]
    assert (read.read_image(tmp_path / "data" / found[0]) == COLOURS).all()
    pictures.write_image(tmp_path / "mirror" / found[0], COLOURS)
    assert os.path.exists(os.fsencode(tmp_path / "mirror") + b"/stra\xdfe/caf\xe9.png")
    assert files.suffixes_in(tmp_path / "mirror", found).tolist() == [b".png"]
    pictures.contact_sheet(tmp_path / "sheet.png", [[COLOURS]], found, found)
    with pytest.raises(OSError, match="cannot be read"):
        read.read_image(tmp_path / (found[0] + "x"))


@pytest.mark.parametrize("stem", ["x" * 246, "図" * 82])
def test_names_of_250_bytes(tmp_path, stem):
    for suffix in (".png", ".jpg"):
        pictures.write_image(tmp_path / "gen" / (stem + suffix), COLOURS)
    assert len(list((tmp_path / "gen").iterdir())) == 2
    (tmp_path / "gen" / (stem + ".jpg")).unlink()
    assert files.find_images(tmp_path / "gen") == [stem + ".png"]
    assert (read.read_image(tmp_path / "gen" / (stem + ".png")) == COLOURS).all()


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
            said = sentence(capsys, files.find_images, root, code=1)
            assert f"{root}/b cannot be read (Permission denied)" in said
            said = sentence(capsys, files.suffixes_in, root, ["b/2.jpg"], code=1)
            assert f"{root}/b cannot be read (Permission denied)" in said
        finally:
            os.seteuid(os.getuid())
            (root / "b").chmod(0o755)
        assert files.find_images(root) == ["a/1.jpg", "b/2.jpg"]


def test_links(tmp_path, capsys):
    touch(tmp_path, "data/a/1.jpg", "elsewhere/2.jpg")
    (tmp_path / "data" / "b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "c").symlink_to("b")
    assert files.find_images(tmp_path / "data") == ["a/1.jpg", "b/2.jpg", "c/2.jpg"]
    (tmp_path / "data" / "a" / "3.jpg").symlink_to(tmp_path / "nothing")
    assert "a/3.jpg" in files.find_images(tmp_path / "data")  # whoever reads it names it
    (tmp_path / "elsewhere" / "d").symlink_to(tmp_path / "data")
    said = sentence(capsys, files.find_images, tmp_path / "data")
    assert "is a link to a folder above it" in said and "/d" in said


def test_two_extensions_of_one_name(tmp_path, capsys):
    touch(tmp_path, "a/1.jpg", "b/1.png", "a/x-1.jpg", "a/x.jpg", "a/x.y.jpg")
    assert len(files.find_images(tmp_path)) == 5
    touch(tmp_path, "a/x.jp2")
    said = sentence(capsys, files.find_images, tmp_path)
    assert "a/x.jp2 and a/x.jpg differ only in their extension" in said


def test_views_and_files_of_a_mirror(tmp_path, capsys):
    touch(tmp_path, "view10/a/1.png", "view2/a/1.png", "view0/a/1.png", "view0.ssim/result.json")
    touch(tmp_path, "view/x", "views1/x", "view١/x", "view-1/x", "aview3/x", "samples.png", "view3")
    names = [folder.name for folder in files.views_of(tmp_path)]
    assert names == ["view0", "view2", "view10"]
    assert files.views_of(tmp_path / "view2") == [tmp_path / "view2"]
    assert "is not a folder" in sentence(capsys, files.views_of, tmp_path / "nothing")
    paths = ["a/1.JPEG", "a/2.png", "a/3.tif", "a/b/1.jpg", "a/c.d.jpg", "z.jpg"]
    touch(tmp_path, "a/1.webp", "a/2.PNG", "a/b/1.jpg", "a/c.d.jpg", "a/b/x.txt", "a/.3.png")
    suffixes = files.suffixes_in(tmp_path, paths).tolist()
    assert suffixes == [b".webp", b".PNG", b"", b".jpg", b".jpg", b""]
    touch(tmp_path, "a/1.png")
    said = sentence(capsys, files.suffixes_in, tmp_path, paths)
    assert "a/1.png and a/1.webp" in said
    assert files.evenly(range(15), 10)[-1] == 13 and files.evenly([1, 2], 3) == [1, 2]


def test_signals_do_not_stop_readers():
    """Those of a group or of a cluster reach them as well; the training stops when it likes."""
    items = iter(files.read_ahead(range(40), int, 2, torch.device("cpu")))
    assert next(items) + next(items) == 1  # one of each: both have begun
    for reader in multiprocessing.active_children():
        os.kill(reader.pid, signal.SIGTERM)
        os.kill(reader.pid, signal.SIGINT)
    assert list(items) == list(range(2, 40))


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files_have_one_sentence(tmp_path, capfd, name):
    file = tmp_path / name
    file.write_bytes(DAMAGED[name])
    with pytest.raises(OSError) as error:
        read.read_image(file)
    text = str(error.value)
    assert text.startswith(f"{file} cannot be read: ")
    assert "\n" not in text and len(text) > len(f"{file} cannot be read: ")
    read.check_values(tmp_path, [name])  # it is left to whoever reads the image
    said = capfd.readouterr().err.splitlines()
    assert all(line.startswith("libpng") for line in said)  # that library writes there itself


def test_a_full_memory_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "x.png").write_bytes(png(TINY, bits=8))
    monkeypatch.setattr(cv2, "imdecode", Mock(side_effect=MemoryError))
    with pytest.raises(OSError, match="x.png cannot be read: MemoryError"):
        read.read_image(tmp_path / "x.png")


def resized_whole(image, size):
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
        assert (pictures.square(image, size) == resized_whole(image, size)).all()


@pytest.mark.parametrize("shape", [(100, 1000), (1000, 100), (3, 500), (500, 3)])
def test_square_of_strips(shape):
    """Only the middle is resized, and it is the same but for a fraction of a pixel's shift."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    wave = 128 + 100 * np.sin(6 * np.pi * np.stack([x, y, x + y], 2) / min(shape) / 3)
    image = wave.astype(np.uint8)
    difference = pictures.square(image, 32).astype(int) - resized_whole(image, 32)
    assert np.abs(difference).mean() < 8


@pytest.mark.parametrize("shape", [(1, 100_000), (100_000, 1), (2, 500_000)])
def test_strips_take_little_memory(tmp_path, shape):
    """Resized whole, the first would be 256 x 25,600,000 pixels: 20 GB."""
    image = np.full((*shape, 3), 77, np.uint8)
    assert (pictures.square(image, 256) == 77).all()
    assert pictures.as_stored(image, 256).shape == (256, 256, 3)
    pictures.contact_sheet(tmp_path / "x.png", [[image, COLOURS]], ["strip"], ["label"])
    assert read.read_image(tmp_path / "x.png").shape[0] < 300
