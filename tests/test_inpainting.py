"""02_augment.py in- and out-painting with trained and published weights, run as a user would."""

import json
import random
import resource

import numpy as np
import torch
from conftest import ROOT, hashes, refused, run, run_killed, write_images
from PIL import Image

from augment import painting
from images.pictures import as_stored, square, stored_suffix, write_image
from images.read import read_image


def test_inpainting_does_not_depend_on_batch_processes_or_kills(tiny, tmp_path):
    fixed = ["inpaint", "--data", tiny["train"], "--weights", tiny["maskgit"], "--workers", 0]
    fixed += ["--mask", "random:0.5", "--steps", 3]
    reference = hashes(tiny["inpaint"], "view0/**/*")
    assert len(reference) == 24
    run("02_augment.py", *fixed, "--out", tmp_path / "two", "--batch-size", 5, processes=2)
    assert hashes(tmp_path / "two", "view0/**/*") == reference
    broken = tmp_path / "broken"
    two_at_once = [*fixed, "--out", broken, "--batch-size", 2]
    soon = {"when": lambda: any(broken.glob("view0/*/*.png")), "delay": random.uniform(0, 0.02)}
    assert run_killed("02_augment.py", *two_at_once, processes=2, **soon)
    whole = hashes(broken, "view0/*/[!.]*")  # hidden files were being written
    kept = {path: (broken / path).stat().st_mtime_ns for path in whole}
    run("02_augment.py", *two_at_once)
    assert hashes(broken, "view0/**/*") == reference
    assert [f.name for f in broken.rglob(".*")] == [".augment.json.lock"]
    unfinished = set()
    for batch in zip(sorted(reference)[::2], sorted(reference)[1::2], strict=True):
        if not set(batch) <= kept.keys():
            unfinished |= set(batch)
    again = [p for p, t in kept.items() if (broken / p).stat().st_mtime_ns != t]
    assert set(again) <= unfinished  # finished batches are not touched


def test_official_format_on_photographs(tmp_path):
    """Images of every kind, published weights: corrupt ones are named, the rest is done."""
    data = tmp_path / "data" / "n01440764"
    write_images(data, ["."], each=2, size=160, suffix=".jpg")
    photograph = Image.fromarray(read_image(data / "000.jpg")).resize((200, 150))
    photograph.convert("L").save(data / "gray.png")
    photograph.convert("CMYK").save(data / "cmyk.jpg")
    photograph.convert("P").save(data / "palette.gif")
    photograph.convert("LA").save(data / "gray_alpha.png")
    rgba = photograph.convert("RGBA")
    rgba.putalpha(128)
    rgba.save(data / "alpha.png")
    exif = Image.Exif()
    exif[0x112] = 6
    photograph.save(data / "turned.jpg", exif=exif)
    photograph.resize((3, 2)).save(data / "smallest.png")
    (data / "cut.jpg").write_bytes((data / "001.jpg").read_bytes()[:2000])
    (data / "text.jpg").write_text("no image")
    published = ["--data", data.parent, "--weights", ROOT / "tests/goldens/maskgit"]
    inpaint = ["inpaint", *published, "--out", tmp_path / "gen", "--label", 3, "--steps", 4]
    few = ["--workers", 2, "--batch-size", 4, "--max-unreadable", 0.2]
    done = run("02_augment.py", *inpaint, *few)
    assert "2 of 11 images could not be read" in done.stderr
    failed = map(json.loads, (tmp_path / "gen" / "failed.jsonl").read_text().splitlines())
    failed = list(failed)
    assert [f["path"] for f in failed] == ["n01440764/cut.jpg", "n01440764/text.jpg"]
    assert all(f["reason"] for f in failed)
    assert len(list((tmp_path / "gen").glob("view0/*/*.jpg"))) == 9
    about = json.loads((tmp_path / "gen" / "augment.json").read_text())
    assert about["args"]["mask"] == "center" and about["parameters"] == 390030
    (data / "cut.jpg").unlink()
    (data / "text.jpg").unlink()
    outpaint = ["outpaint", *published, "--out", tmp_path / "out", "--steps", 2, "--workers", 0]
    run("02_augment.py", *outpaint, "--positions", "center", "upper-left")
    assert sorted(f.name for f in (tmp_path / "out").glob("view*")) == ["view0", "view4"]


def test_images_are_converted_properly(tmp_path):
    red = np.zeros((20, 30, 3), np.uint8)
    red[:, :15] = (200, 20, 30)
    for name, mode in (("cmyk.jpg", "CMYK"), ("plain.png", "RGB")):
        Image.fromarray(red).convert(mode).save(tmp_path / name, quality=100)
        difference = read_image(tmp_path / name)[:, 2:13].astype(int) - (200, 20, 30)
        assert np.abs(difference).max() < 12, name
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert (read_image(tmp_path / "clear.png") == 255).all()
    exif = Image.Exif()
    exif[0x112] = 6  # the camera was turned: rows are columns
    Image.fromarray(red).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    assert read_image(tmp_path / "turned.jpg").shape == (30, 20, 3)
    image = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
    image = image.repeat(5, 0).repeat(5, 1)
    for size in (64, 256):
        write_image(tmp_path / f"x{stored_suffix(size)}", square(image, size))
        assert (as_stored(image, size) == read_image(tmp_path / f"x{stored_suffix(size)}")).all()


def test_full_disk_is_one_sentence_and_loses_nothing(tiny, tmp_path):
    """A limit on the size of files stands for the full disk: the write fails in the same place."""
    fixed = ["inpaint", "--data", tiny["train"], "--weights", tiny["maskgit"], "--workers", 0]
    fixed += ["--mask", "random:0.5", "--steps", 3, "--batch-size", 8, "--out", tmp_path / "gen"]
    limit = max(f.stat().st_size for f in tiny["inpaint"].glob("view0/*/*")) - 100

    def small_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    said = run("02_augment.py", *fixed, cold=True, code=1, preexec_fn=small_files).stderr
    assert "too large" in said
    assert [f.name for f in (tmp_path / "gen").rglob(".*")] == [".augment.json.lock"]
    run("02_augment.py", *fixed)
    assert hashes(tmp_path / "gen", "view0/**/*") == hashes(tiny["inpaint"], "view0/**/*")


def test_labels_that_the_model_is_given():
    """--label: the folder's synset, one class for all, or a class drawn from the image's seed."""
    paths = [f"n01440764/{i}.jpg" for i in range(200)]

    def given(label, seed=0):
        label = painting.label_choice(label)
        painting.check_label(label, 1000)
        return [painting.label_of(path, label, 1000, seed) for path in paths]

    assert given("true") == [0] * 200 and given("7") == [7] * 200
    drawn = given("random")
    assert drawn == given("random") and drawn != given("random", seed=1)
    assert len(set(drawn)) > 150 and 400 < np.mean(drawn) < 600


def test_bad_input_is_one_sentence(tiny, tmp_path, capsys):
    common = ["--data", tiny["train"], "--weights", tiny["maskgit"], "--out", tmp_path / "y"]

    def said(*more, code=None, strategy="inpaint"):
        return refused(capsys, "02_augment.py", strategy, *common, *more, code=code)

    (tmp_path / "empty").mkdir()
    published = ROOT / "tests/goldens/maskgit"
    assert "holds neither" in said("--weights", tmp_path / "empty")
    assert "only a tokenizer" in said("--weights", tiny["vqgan"], code=2)
    assert "trained with 0 labels" in said("--label", 1, code=2)
    assert "pass --label" in said("--weights", published, code=2)
    assert "only a tokenizer" in said("--weights", tiny["vqgan"], code=2, strategy="outpaint")
    assert "'middle' (choose from" in said("--positions", "middle", code=2, strategy="outpaint")
    assert "choose from" in said("--schedule", "late", code=2)
    code_not_data = {"a": torch.optim.SGD}
    torch.save(code_not_data, tmp_path / "empty/generator.pth")
    assert "refused" in said("--weights", tmp_path / "empty")
