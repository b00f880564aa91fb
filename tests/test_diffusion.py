"""The strategy diffusion and extras/train_diffusion.py, on tiny pipelines of published classes."""

import importlib
import json
import pickle
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_pipelines
import torch
from conftest import call, hashes, refused, run, sentence
from safetensors.torch import load_file, save_file
from test_caption import photographs

from augment import diffusion
from base.run import image_seed
from base.run_folder import read_log
from images.files import find_images
from images.pictures import write_image
from images.read import read_image

diffusers = pytest.importorskip("diffusers")  # a machine may lack it; only this strategy needs it
augment = importlib.import_module("02_augment")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    """(images, sdxl folder, ddim folder, caption file)."""
    root = tmp_path_factory.mktemp("diffusion")
    data = photographs(root / "data", 6)
    lines = []
    for i, path in enumerate(find_images(data)):
        lines.append(json.dumps({"path": path, "caption": f"a bird and {'the ' * i}sea"}) + "\n")
    captions = root / "captions.jsonl"
    captions.write_text("".join(lines))
    return data, tiny_pipelines.sdxl(root / "sdxl"), tiny_pipelines.ddim(root / "ddim"), captions


def arguments(setup, *more, kind="sdxl"):
    data, sdxl, ddim, captions = setup
    flags = ["--data", data, "--out", data.parent / "out", "--workers", 0, "--precision", "fp32"]
    if kind == "sdxl":
        flags += ["--model", sdxl, "--captions", captions]
    else:
        flags += ["--model", ddim]
    return augment.arguments(["diffusion", *map(str, flags), *map(str, more)])


def build(args):
    return diffusion.diffusion(args, CPU)


def inputs(setup, strategy):
    paths = find_images(setup[0])
    images = np.stack([strategy.read(setup[0] / path) for path in paths])
    return torch.from_numpy(images), paths


def test_steps_and_levels(setup, capsys):
    strengths = (1, 0.5, 0.4, 0.3, 0.2, 0.1, 0.07, 0.01)
    steps = [diffusion.fewest_steps(strength) for strength in strengths]
    assert steps == [1, 2, 3, 4, 5, 10, 15, 100]
    for strength in np.random.default_rng(0).uniform(0.002, 1, 2000):
        n = diffusion.fewest_steps(strength)
        assert int(n * strength) == 1 or strength == 1
        assert n == 1 or strength * (n - 1) < 1
    # The level at which denoising starts, with SDXL-Turbo's scheduler, as diffusers starts.
    from diffusers import EulerAncestralDiscreteScheduler

    scheduler = EulerAncestralDiscreteScheduler.from_pretrained(setup[1] / "scheduler")
    assert diffusion.whole_steps(0, scheduler, None, 1) == 0
    expected = {0.1: 0.1, 0.2: 0.2, 0.3: 0.25, 0.4: 1 / 3, 0.5: 0.5, 1.0: 1.0}
    assert {s: level(s, scheduler)[0] for s in expected} == pytest.approx(expected, abs=1e-3)
    for computed, strength in enumerate((0.1, 0.2, 0.3, 0.4, 0.5), 1):  # Figure 30: all exact
        assert level(strength, scheduler, 10) == (pytest.approx(strength, abs=1e-9), computed)
    error = sentence(capsys, build, arguments(setup, "--steps", 4), code=2)
    assert "strength x steps must be at least 1" in error and "--steps 5" in error
    error = sentence(capsys, build, arguments(setup, "--strength", 0.0005), code=2)
    assert "use --steps 2000 or more; the model's schedule has 1000" in error


def level(strength, scheduler, steps=None, default=1):
    """(share of the training schedule from which diffusers denoises, steps that are computed)."""
    steps = diffusion.whole_steps(strength, scheduler, steps, default)
    scheduler.set_timesteps(steps)
    computed = int(steps * strength)
    return (float(scheduler.timesteps[steps - computed]) + 1) / 1000, computed


def test_equals_the_official_call(setup):
    """Same images as diffusers' own pipeline called with prompt, image and the same generators."""
    from diffusers import StableDiffusionXLImg2ImgPipeline
    from PIL import Image

    strategy = build(arguments(setup, "--strength", 0.3, 0.6, "--steps", 5))
    pickle.dumps(strategy.read)  # so that it can be sent to any worker process
    assert strategy.views == ["strength0.3/view0", "strength0.6/view0"] and strategy.size == 64
    images, paths = inputs(setup, strategy)
    captions = diffusion.read_captions(setup[3])
    pipe = StableDiffusionXLImg2ImgPipeline.from_pretrained(setup[1], add_watermarker=False)
    pipe.set_progress_bar_config(disable=True)
    for strength, ours in zip((0.3, 0.6), strategy.generate(images, paths), strict=True):
        theirs = pipe(
            [captions[path]["caption"] for path in paths],
            image=[Image.fromarray(image) for image in images.numpy()],
            strength=strength,
            num_inference_steps=5,
            guidance_scale=0.0,
            output_type="np",
            generator=[torch.Generator().manual_seed(image_seed(0, path, 0)) for path in paths],
        ).images
        assert np.abs(ours.numpy() - theirs * 255).max() < 1


@pytest.mark.parametrize("kind", ["sdxl", "ddim"])
def test_strength(setup, kind):
    """Near 0 the reconstruction (--strength 0) comes back; more strength goes further from it."""
    strengths = [0, 0.002, 0.1, 0.2, 0.3, 0.4, 0.5]
    strategy = build(arguments(setup, "--strength", *strengths, kind=kind))
    images, paths = inputs(setup, strategy)
    views = strategy.generate(images, paths).double()
    distances = [(view - views[0]).abs().mean().item() for view in views]
    assert distances == sorted(distances), distances
    assert distances[1] < 0.3 * distances[2] and distances[2] > 1, distances
    if kind == "ddim":  # pixel space: no reconstruction error at all
        assert torch.equal(views[0], images.double())


@pytest.mark.parametrize("kind", ["sdxl", "ddim"])
def test_noise_depends_on_path_and_seed(setup, kind):
    args = arguments(setup, "--strength", 0.5, kind=kind)
    strategy = build(args)
    images, paths = inputs(setup, strategy)
    together = strategy.generate(images, paths)[0].int()
    alone = strategy.generate(images[3:4], paths[3:4])[0].int()
    assert (together[3:4] - alone).abs().max() <= 1
    args.seed = 1
    other = build(args).generate(images, paths)[0].int()
    assert (together - other).abs().double().mean() > 1
    args.seed = 0
    again = build(args).generate(images, paths)[0].int()
    assert (together - again).abs().max() <= 1


@pytest.mark.parametrize("strength", [0.5, 1])
def test_outside_the_mask_the_latents_are_the_reconstructions(setup, monkeypatch, strength):
    """Exactly; inside they are new. Of one and of several steps; on a coarser grid as well."""
    flags = ["--strength", 0, strength, "--steps", 6, "--mask", "center"]
    strategy = build(arguments(setup, *flags))
    images, paths = inputs(setup, strategy)
    decoded = []
    vae = diffusers.AutoencoderKL
    decode = vae.decode
    monkeypatch.setattr(vae, "decode", lambda vae, z: decoded.append(z) or decode(vae, z))
    monkeypatch.setattr(diffusion, "GRID", 4)
    strategy.generate(images, paths)
    kept, new = decoded
    same = (kept == new).all(1)
    assert same[:, [0, -1]].all() and same[:, :, [0, -1]].all()
    assert not same[:, 1:-1, 1:-1].any()
    build(arguments(setup, *flags)).generate(images, paths)
    same = (decoded[2] == decoded[3]).all(1)
    assert same[:, [0, 1, -2, -1]].all() and not same[:, 2:-2, 2:-2].any()


def test_masks_captions_and_store_size(setup, tmp_path):
    strategy = build(arguments(setup, "--strength", 0, 0.5, 1, "--mask", "none"))
    images, paths = inputs(setup, strategy)
    reconstruction, *rest = strategy.generate(images, paths)
    assert all(torch.equal(view, reconstruction) for view in rest)
    for path in paths:
        grey = np.full((8, 8), 255 * (path != paths[0]), np.uint8)
        write_image((tmp_path / path).with_suffix(".png"), grey[..., None].repeat(3, 2))
    strategy = build(arguments(setup, "--strength", 0, 1, "--mask", f"file:{tmp_path}"))
    kept, new = strategy.generate(images, paths)
    assert torch.equal(kept[0], new[0]) and not torch.equal(kept[1], new[1])
    assert strategy.record["mask names"]
    args = arguments(setup, "--strength", 0.5, "--store-size", 24)
    strategy = build(args)
    images, paths = inputs(setup, strategy)
    with_captions = strategy.generate(images, paths)
    assert with_captions.shape == (1, 6, 24, 24, 3)
    assert strategy.views == ["strength0.5/view0"] and strategy.size == 24
    args.captions, args.no_caption = None, True
    without = build(args).generate(images, paths)
    assert not torch.equal(with_captions, without)


def generated(folder):
    """({name: hash}, {name: time of writing}) of the generated images below a folder."""
    files = hashes(folder, "**/img*.png")
    return files, {name: (folder / name).stat().st_mtime_ns for name in files}


def test_a_strength_is_added_later(setup, tmp_path, capsys):
    """To the same mirror: nothing is made twice, the images are those of one command."""
    data, sdxl, *_ = setup
    captions = Path(shutil.copy(setup[3], tmp_path / "captions.jsonl"))
    common = ("02_augment.py", "diffusion", "--data", data, "--captions", captions, "--workers", 0)
    common = (*common, "--model", sdxl)
    call(*common, "--strength", 0.1, "--out", tmp_path / "added")
    first, stamps = generated(tmp_path / "added")
    assert len(first) == 6 and all(name.startswith("strength0.1/view0/") for name in first)
    call(*common, "--strength", 0.5, "--out", tmp_path / "added")
    both, later = generated(tmp_path / "added")
    assert first.items() <= both.items() and stamps.items() <= later.items()
    call(*common, "--strength", 0.1, 0.5, "--out", tmp_path / "both")
    assert len(both) == 12 and generated(tmp_path / "both")[0] == both
    more = ("--strength", 0.3, "--out", tmp_path / "added")
    assert "--steps was None, now 9" in refused(capsys, *common, *more, "--steps", 9, code=2)
    others = tmp_path / "others.jsonl"
    shutil.copy(captions, others)
    assert "--captions was" in refused(capsys, *common, *more, "--captions", others, code=2)
    captions.write_text(captions.read_text().replace("bird", "dog"))
    assert "captions_sha256 was" in refused(capsys, *common, *more, code=2)


GOOD = b'{"path": "class0/img0.jpg", "caption": "a"}\n'
WRONG = [
    GOOD + b'{"path": "class0/i',
    GOOD + b"\n" + GOOD,
    GOOD + b'{"path": "class1/img1.jpg"}\n',
    GOOD + b'{"path": [], "caption": "a"}\n',
    GOOD + b'{"path": "class1/img1.jpg", "caption": 1}\n',
    GOOD * 2,
    GOOD + b'{"path": "class1/img1.jpg", "caption": "caf\xe9"}\n',
    b'["a", "b"]\n',
]


@pytest.mark.parametrize("content", WRONG)
def test_caption_file(tmp_path, capsys, content):
    (tmp_path / "captions.jsonl").write_bytes(content)
    error = sentence(capsys, diffusion.read_captions, tmp_path / "captions.jsonl", code=1)
    number = 2 if content.startswith(GOOD) else 1
    assert f'line {number} is not {{"path": ' in error


def test_captions_that_are_missing_or_of_other_editors(setup, tmp_path, capsys):
    args = arguments(setup)
    args.captions = str(tmp_path / "captions.jsonl")
    error = sentence(capsys, diffusion.captions_of, args, code=2)
    assert f"--captions must name a file, but it is {args.captions}" in error
    (tmp_path / "captions.jsonl").write_bytes(GOOD)
    error = sentence(capsys, diffusion.captions_of, args, code=1)
    assert "lacks 5 images" in error
    assert f"01_caption.py --data {setup[0]} --out {args.captions}" in error
    args.captions = None
    assert "--no-caption" in sentence(capsys, diffusion.captions_of, args, code=2)
    args.no_caption = True
    assert diffusion.captions_of(args) is None
    # A byte-order mark, CRLF and characters at which Python would break a line change nothing.
    odd = {"a.jpg": "a bird\u2028and\x85the sea", "b.jpg": "caf\xe9 \U0001f426"}
    captions = {path: {"path": path, "caption": text} for path, text in odd.items()}
    lines = [json.dumps(record, ensure_ascii=False) for record in captions.values()]
    file = tmp_path / "captions.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode() + b"\r\n")
    assert diffusion.read_captions(file) == captions


def test_refusals(setup, capsys, tmp_path, monkeypatch):
    def said(code=2, **change):
        args = arguments(setup)
        vars(args).update(change)
        return sentence(capsys, build, args, code=code)

    nowhere = "stabilityai/sdxl-none is neither a local folder nor in the hub's cache"
    assert nowhere in said(model="stabilityai/sdxl-none", code=1)
    pipeline = "has no model_index.json. Expected: a diffusers pipeline folder"
    assert pipeline in said(model=str(setup[0]))
    assert "--size 60 is not a multiple of 8" in said(size=60)
    assert "--mask needs a model with latents" in said(model=str(setup[2]), mask="center")
    assert "holds no images" in said(mask=f"file:{setup[2]}")
    # One sentence that says what to install, from the strategy and from the training.
    monkeypatch.setitem(sys.modules, "diffusers", None)  # importing it fails
    assert "pip install diffusers" in sentence(capsys, build, arguments(setup), code=1)
    command = ("extras/train_diffusion.py", "--data", setup[0], "--batch-size", 2)
    error = refused(capsys, *command, "--out", tmp_path / "out")
    assert "needs the package diffusers" in error


def test_wrong_pipelines(setup, tmp_path, capsys):
    """Missing weights, a missing part, other classes, a pickle: one sentence each."""
    args, folder = arguments(setup, kind="ddim"), tmp_path / "model"
    args.model = str(folder)
    weights_file = folder / "unet" / "diffusion_pytorch_model.safetensors"

    def attempt(change, *values, code=1):
        shutil.copytree(setup[2], folder)
        change(*values)
        error = sentence(capsys, build, args, code=code)
        shutil.rmtree(folder)
        return error

    def edit_index(entry, value):
        index = json.loads((folder / "model_index.json").read_text())
        (folder / "model_index.json").write_text(json.dumps({**index, entry: value}))

    def spoil_the_weights(change):
        weights = load_file(weights_file)
        change(weights)
        save_file(weights, weights_file, {"format": "pt"})

    def only_a_pickle():
        weights_file.unlink()
        torch.save({}, folder / "unet" / "diffusion_pytorch_model.bin")

    error = attempt(spoil_the_weights, lambda weights: weights.pop("conv_in.weight"))
    assert "lacks weights of UNet2DModel" in error and "conv_in.weight" in error
    error = attempt(spoil_the_weights, lambda weights: weights["conv_in.bias"][0].fill_(torch.inf))
    assert "values that are not finite in conv_in.bias:" in error
    assert "cannot be loaded as UNet2DModel" in attempt(only_a_pickle)
    error = attempt(edit_index, "_class_name", "FluxPipeline", code=2)
    assert "is a FluxPipeline. Expected" in error
    error = attempt(edit_index, "unet", ["my_code", "UNet"])
    assert "not of diffusers or transformers" in error
    assert "model_index.json:" in attempt(edit_index, "scheduler", [None, None])


def test_a_ddpm_folder(setup, tmp_path):
    """It is sampled with DDIM, and starts at the level that was asked for."""
    from diffusers import DDPMScheduler

    (tmp_path / "unet").symlink_to(setup[2] / "unet")
    DDPMScheduler().save_pretrained(tmp_path / "scheduler")
    index = {"_class_name": "DDPMPipeline", "unet": ["diffusers", "UNet2DModel"]}
    index["scheduler"] = ["diffusers", "DDPMScheduler"]
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    args = arguments(setup, kind="ddim")
    args.model = str(tmp_path)
    pipe, _ = diffusion.load_pipeline(args.model, CPU, "fp32")
    default = diffusion.PixelModel.default_steps
    assert diffusion.whole_steps(0.2, pipe.scheduler, None, default) == 50
    assert level(0.2, pipe.scheduler, None, 50)[0] == pytest.approx(0.2)
    strategy = build(args)
    assert strategy.record["scheduler"] == "DDIMScheduler"
    assert strategy.generate(*inputs(setup, strategy)).float().std() > 1


TRAIN = "--size 16 --epochs 4 --batch-size 2 --width 32 --multipliers 1 1 --blocks 1 --workers 0"


def test_train_and_use(setup, tmp_path, capsys):
    """02 takes the run folder; two processes train as one. test_every_stage.py interrupts it."""
    data = setup[0]
    command = ("extras/train_diffusion.py", "--data", data, *TRAIN.split(), "--ema", 0.9, "--out")
    call(*command, tmp_path / "one")
    assert (tmp_path / "one" / "samples.png").exists()
    mirror = f"02_augment.py diffusion --data {data} --model {tmp_path}/one --workers 0"
    call(mirror, "--out", tmp_path / "mirror")
    made = sorted((tmp_path / "mirror" / "strength0.2" / "view0").rglob("*.png"))
    assert len(made) == 6 and read_image(made[0]).shape == (16, 16, 3)
    for flag in (("--size", 15), ("--width", 48)):
        said = refused(capsys, *command, tmp_path / "out", *flag, code=2)
        assert "--size must be a multiple of 2, and --width of 32" in said
    assert "lies inside --data" in refused(capsys, *command, data / "run", code=2)
    run(*command, tmp_path / "two", processes=2)
    one, two = (read_log(tmp_path / name, "steps")[-1]["loss"] for name in ("one", "two"))
    assert one == pytest.approx(two, rel=2e-4)
    # Adam makes steps of 1e-4 of any gradient, also of the rounding errors of one that is zero
    # (of a bias before a normalisation): so look at the median, and not at such parameters.
    weights = "unet/diffusion_pytorch_model.safetensors"
    one, two = (load_file(tmp_path / name / weights) for name in ("one", "two"))
    for name in ("conv_in.weight", "mid_block.resnets.0.conv2.weight", "conv_out.weight"):
        assert (one[name] - two[name]).abs().median() < 2e-5
