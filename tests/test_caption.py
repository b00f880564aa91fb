"""01_caption.py: order, resuming after kill -9, processes, settings, refusals."""

import json
import os
import shutil

import numpy as np
import pytest
import tiny_pipelines
from conftest import call, refused, run, run_killed, stage_module
from PIL import Image

from augment.diffusion import read_captions
from images.files import find_images
from images.pictures import write_image


def photographs(root, n=7, size=72):
    """Smooth random images in two classes."""
    for i in range(n):
        coarse = np.random.default_rng(i).integers(0, 256, (5, 5, 3), np.uint8)
        image = Image.fromarray(coarse).resize((size + 8 * i, size), Image.Resampling.BICUBIC)
        write_image(root / f"class{i % 2}" / f"img{i}.jpg", np.asarray(image))
    return root


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    """(images, model, arguments, the caption file of an uninterrupted run in one process)."""
    root = tmp_path_factory.mktemp("caption")
    data = photographs(root / "data")
    model = tiny_pipelines.blip(root / "blip")
    common = f"01_caption.py --data {data} --model {model} --batch-size 2 --workers 0".split()
    common += ["--max-tokens", 8]
    out = root / "captions.jsonl"
    call(*common, "--out", out)
    return data, model, common, out


def records(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_lines_of_windows_and_of_names_that_are_not_utf8(setup, capsys, tmp_path):
    data, _, common, out = setup
    lines = records(out)
    paths = sorted(path.relative_to(data).as_posix() for path in data.rglob("*.jpg"))
    assert [line["path"] for line in lines] == paths
    assert len({line["caption"] for line in lines}) > 2
    assert all(set(line) == {"path", "caption"} for line in lines)
    assert not list(out.parent.glob(".captions*[!k]"))
    # A byte-order mark and CRLF change nothing: the file counts as finished.
    *_, common, reference = setup
    out = tmp_path / "captions.jsonl"
    out.write_bytes(b"\xef\xbb\xbf" + reference.read_bytes().replace(b"\n", b"\r\n"))
    call(*common, "--out", out)
    assert "is finished: 7 captions" in capsys.readouterr().out
    # The bytes of a name stand in the caption file as they are, and it is found there again.
    _, model, *_ = setup
    data = photographs(tmp_path / "data", 2)
    os.rename(data / "class0" / "img0.jpg", os.fsencode(data / "class0") + b"/caf\xe9.jpg")
    arguments = ("01_caption.py", "--data", data, "--model", model, "--workers", 0, "--out")
    out = tmp_path / "names.jsonl"
    call(*arguments, out, "--max-tokens", 5)
    assert b'"path": "class0/caf\xe9.jpg"' in out.read_bytes()
    assert list(read_captions(out)) == find_images(data)
    call(*arguments[:2], photographs(tmp_path / "more", 3), *arguments[3:], out, "--max-tokens", 5)
    assert list(read_captions(out))[-1] == "class0/caf\udce9.jpg", "other folders' captions stay"


def test_kill_and_two_processes(setup, tmp_path):
    """Killed after two batches, finished by two: the same file; what is done stays as it is."""
    *_, common, reference = setup
    out = tmp_path / "captions.jsonl"
    parts = tmp_path / ".captions.jsonl.parts"

    def two_done():
        return len(list(parts.glob("[!.]*"))) >= 2

    assert run_killed(*common, "--out", out, when=two_done)
    done = list(parts.glob("[!.]*"))
    assert not out.exists()
    for part in done:  # what they hold is kept
        part.write_text(part.read_text().replace('"caption": "', '"caption": "kept '))
    kept = sum(len(records(part)) for part in done)
    run(*common, "--out", out, processes=2)
    assert out.read_bytes().count(b"kept ") == kept >= 3
    assert out.read_bytes().replace(b"kept ", b"") == reference.read_bytes()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [".captions.jsonl.lock", "captions.args.json", "captions.jsonl"]


SLOW = """
import os, runpy, sys, time
from transformers import BlipForConditionalGeneration as Blip
generate = Blip.generate
def slow(*args, **options):
    with open(os.environ["CALLS"], "a") as file:
        file.write(os.environ["RANK"])
    time.sleep(7 if os.environ["RANK"] == "1" else 0)
    return generate(*args, **options)
Blip.generate = slow
sys.argv = sys.argv[1:]
sys.path.insert(0, os.getcwd())
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_a_slow_process_is_waited_for(setup, tmp_path):
    """Batches go to whoever is free, and the end has no time limit: here 7 s against one of 4 s."""
    *_, common, reference = setup
    out = tmp_path / "captions.jsonl"
    (tmp_path / "slow.py").write_text(SLOW)
    script = [tmp_path / "slow.py", *common, "--out", out]
    run(*script, processes=2, env={"GCL_TIMEOUT": "4", "CALLS": str(tmp_path / "calls")})
    assert out.read_bytes() == reference.read_bytes()
    calls = (tmp_path / "calls").read_text()
    assert len(calls) == 4 and calls.count("1") <= 2  # each batch once, few by the slow process


def test_only_what_is_missing(setup, tmp_path, monkeypatch, capsys):
    """What the file lacks is captioned, a torn line is named; brackets in a name are no pattern."""
    *_, common, reference = setup
    out = tmp_path / "captions[v2].jsonl"
    lines = reference.read_bytes().splitlines(keepends=True)
    out.write_bytes(b"".join(lines[:5]) + lines[5][:-4])
    assert f"{out}, line 6 is not" in refused(capsys, *common, "--out", out, code=1)
    out.write_bytes(b"".join(lines[:5]))
    stage = stage_module("01_caption.py")
    read, read_blip = [], stage.read_for_blip

    def noting(root, processor, batch):
        read.extend(batch[1])
        return read_blip(root, processor, batch)

    monkeypatch.setattr(stage, "read_for_blip", noting)
    call(*common, "--out", out)
    assert read == [record["path"] for record in records(reference)[5:]]
    assert out.read_bytes() == reference.read_bytes()
    assert not list(tmp_path.glob(".*[!k]"))


def test_greedy_and_unreadable(setup, tmp_path, capsys):
    """A corrupt image gets an empty caption and is reported; mended, it is captioned."""
    _, model, *_ = setup
    data = photographs(tmp_path / "data", 3)
    (data / "class0" / "torn.jpg").write_bytes(b"\xff\xd8 no image")
    out = tmp_path / "captions.jsonl"
    flags = ("--num-beams", 1, "--max-tokens", 5, "--workers", 1)
    flags = ("01_caption.py", "--data", data, "--model", model, "--out", out, *flags)
    other = (*flags, "--out", tmp_path / "other.jsonl")
    for words in (flags, flags, other):
        assert "1 of 4 images cannot be read" in refused(capsys, *words)
    assert not out.exists()
    call(*flags, "--max-unreadable", 0.3)
    lines = {line["path"]: line for line in records(out)}
    torn = lines.pop("class0/torn.jpg")
    assert torn["caption"] == "" and "not an image file" in torn["error"]
    assert len(lines) == 3 and all(line["caption"] for line in lines.values())
    assert "4 captions, 1 of them empty" in capsys.readouterr().out
    shutil.copy(data / "class0" / "img0.jpg", data / "class0" / "torn.jpg")
    out.write_text("".join(f"{json.dumps(line)}\n" for line in lines.values()))
    call(*flags)  # it is mended, and its line removed
    call(*other)  # it is mended, and nothing else was changed
    for file in (out, tmp_path / "other.jsonl"):
        assert sum(bool(line["caption"]) for line in records(file)) == 4


REFUSED = {  # flags: (exit code, what the sentence says)
    "--num-beams 1": (2, "num_beams was 3, now 1"),
    "--out {out}/captions.txt": (2, "must be the name of a .jsonl file"),
    "--out {out}/a.jsonl --model nobody/nothing": (1, "nobody/nothing is neither a local folder"),
    "--out {out}/a.jsonl --model no/such/folder": (2, "no/such/folder is not a folder"),
    "--out {out}/a.jsonl --model {data}": (2, "has no config.json. Expected: a folder with"),
    "--data {data}/class7": (2, "is not a folder"),
}


@pytest.mark.parametrize("flags", REFUSED)
def test_refusals(setup, tmp_path, capsys, flags):
    data, _, common, out = setup
    code, message = REFUSED[flags]
    changed = flags.format(data=data, out=tmp_path).split()
    assert message in refused(capsys, *common, "--out", out, *changed, code=code)


def test_wrong_weights(setup, tmp_path, capsys):
    """Other weights behind a finished file; a missing one, one not finite; another kind."""
    from safetensors.torch import load_file, save_file

    _, model, common, _ = setup
    shutil.copytree(model, tmp_path / "blip")
    arguments = [*common, "--model", tmp_path / "blip", "--out", tmp_path / "captions.jsonl"]
    call(*arguments)
    good = load_file(model / "model.safetensors")
    name = "vision_model.post_layernorm.weight"

    def save(weights):
        save_file(weights, tmp_path / "blip" / "model.safetensors", {"format": "pt"})

    save(good | {name: 2 * good[name]})
    assert "model_sha256 was" in refused(capsys, *arguments, code=2)
    (tmp_path / "captions.jsonl").unlink()
    (tmp_path / "captions.args.json").unlink()
    save({other: weight for other, weight in good.items() if other != name})
    assert "vision_model.post_layernorm.weight" in refused(capsys, *arguments, code=1)
    save(good | {name: good[name] * float("nan")})
    assert f"values that are not finite in {name}:" in refused(capsys, *arguments, code=1)
    config = json.loads((model / "config.json").read_text())
    (tmp_path / "blip" / "config.json").write_text(json.dumps({**config, "model_type": "clip"}))
    assert "is a clip model, not a BLIP" in refused(capsys, *arguments, code=2)
