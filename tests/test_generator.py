"""00_train_generator.py, run as a user would; and the k-means that a tokenizer starts from."""

import shutil
from functools import partial

import numpy as np
import pytest
import torch
from conftest import MASKGIT, VQGAN, refused, run, run_killed
from PIL import Image

from augment import generator_training as training
from base.run import batches, load, read_json, seed_rng
from base.run_folder import read_log
from images.files import find_images
from images.read import read_image
from images.unreadable import ImageList
from models.published_maskgit import load_maskgit
from models.vqgan import VQGAN as Tokenizer
from models.vqgan import adaptive_weight

STAGE = "00_train_generator.py"
RESTARTS = ("tests/otherwise.py", "RESTART_STEPS=3", STAGE)  # of the codes, in a short run


def train(data, out, *more, script=(STAGE,), **how):
    return run(*script, "vqgan", "--data", data, "--out", out, *VQGAN, *more, **how)


def fill_in(tiny, out, *more, script=(STAGE,), **how):
    common = ["--data", tiny["train"], "--tokenizer", tiny["vqgan"], "--out", out, *MASKGIT]
    return run(*script, "maskgit", *common, *more, **how)


def assert_same(one, two, network, atol, **tolerance):
    """Two generators and their logged numbers are equal up to these tolerances."""
    weights = [load(folder / "generator.pth")[network] for folder in (one, two)]
    torch.testing.assert_close(*weights, rtol=0, atol=atol)
    for a, b in zip(read_log(one, "epoch"), read_log(two, "epoch"), strict=True):
        assert a.pop("event") == b.pop("event")
        assert a == pytest.approx(b, **tolerance)


def reconstruction_error(folder, data):
    """Mean squared error, in [0, 1] squared, of the images of a folder read back from tokens."""
    tokenizer, _, _ = load_maskgit(folder)
    images = np.stack([read_image(data / path)[:32, :32] for path in find_images(data)])
    images = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    return float((tokenizer.decode(tokenizer.encode(images)) - images).square().mean())


def test_generator_learns(tiny, tmp_path):
    exact = ("--precision", "fp32")  # bf16, where a CPU has it, uses fewer codes
    train(tiny["train"], tmp_path / "random", "--start-from", "random", "--epochs", 12, *exact)
    first, *_, last = read_log(tmp_path / "random", "epoch")
    assert last["l1"] < 0.7 * first["l1"]
    assert last["psnr"] > first["psnr"] + 3
    assert last["codes_used"] > 16
    assert last["perplexity"] > 8
    first, *_, last = read_log(tiny["maskgit"], "epoch")
    assert last["loss"] < first["loss"]
    assert (tmp_path / "random/reconstructions.png").stat().st_size > 1000
    for name in ("maskgit/samples.png", "vqgan/curves.png", "inpaint/samples.png"):
        assert (tiny["root"] / name).stat().st_size > 1000


def test_masks_flips_and_the_adaptive_weight(tmp_path):
    """The mean share of hidden tokens is that of cos(pi/2 u), 2 / pi; each image has one."""
    hidden = training.draw_masks(np.random.default_rng(0), 20_000, 64)
    counts = hidden.sum(1)
    assert counts.min() == 1 and counts.max() == 64
    assert abs(counts.mean() / 64 - 2 / np.pi) < 0.02
    assert np.ptp(hidden.mean(0)) < 0.03  # every place alike
    layer = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
    weight = adaptive_weight(layer.square().sum(), 2 * layer.sum(), layer)
    assert float(weight) == pytest.approx(10 / (8**0.5 + 1e-4))
    assert layer.grad is None
    # The pictures and the tokens of a step; with flips half of them are mirrored.
    image = np.zeros((8, 8, 3), np.uint8)
    image[:, :4] = 255  # the left half is white
    paths = [f"{i}.png" for i in range(40)]
    for path in paths:
        Image.fromarray(image).save(tmp_path / path)
    tokens = torch.arange(2)[None, :, None].repeat(40, 1, 16)  # 0 as it is, 1 mirrored
    files = ImageList(tmp_path, paths)
    (batch,) = batches(40, 40, 0, 0, 1)
    for flips, least, most in ((None, 0, 0), (0, 0.2, 0.8)):
        pixels = training.read_squares(files, 8, flips, batch)
        assert least <= (pixels[:, 0, 0, 0] == 0).float().mean() <= most
        ((step, _, _),) = training.token_batches(tokens, 40, 0, flips is not None, 0, 1)
        assert least <= step.float().mean() <= most


def test_a_maskgit_that_goes_on_reads_no_image_again(tiny, tmp_path):
    """The tokens of the first start are kept. test_every_stage.py compares what comes out."""
    out = tmp_path / "out"
    data = shutil.copytree(tiny["train"], tmp_path / "data")
    command = f"{STAGE} maskgit --data {data} --tokenizer {tiny['vqgan']} --out {out} --epochs 15"
    more = [*MASKGIT, "--checkpoint-minutes", 0]
    assert run_killed(command, *more, when=(out / "checkpoint.pth").exists)
    for path in find_images(data):
        (data / path).write_text("no image any more")
    run(command, *more)
    assert len(read_log(out, "epoch")) == 15
    assert not list(out.glob("tokens*")) + list(out.glob("checkpoint*"))


@pytest.mark.parametrize("start", ["random", "kmeans"])
def test_two_processes_train_the_tokenizer_as_one(tiny, tmp_path, start):
    """With the discriminator; at a high learning rate it makes much of the last digit."""
    more = ["--start-from", start, "--epochs", 2, "--precision", "fp32", "--gan-weight", 0.5]
    more += ["--learning-rate", 3e-4]
    train(tiny["train"], tmp_path / "one", *more, script=RESTARTS)
    train(tiny["train"], tmp_path / "two", *more, processes=2, script=RESTARTS)
    same = {"rel": 1e-3, "abs": 1e-5}
    assert_same(tmp_path / "one", tmp_path / "two", "tokenizer", 1e-3, **same)


def test_two_processes_train_the_transformer_as_one(tiny, tmp_path):
    """Without dropout, whose noise is each process's own."""
    more = ["--epochs", 4, "--precision", "fp32"]
    script = ("tests/otherwise.py", "DROPOUT=0", STAGE)
    fill_in(tiny, tmp_path / "one", *more, script=script)
    fill_in(tiny, tmp_path / "two", *more, processes=2, script=script)
    assert_same(tmp_path / "one", tmp_path / "two", "transformer", 1e-4, rel=1e-5)


def test_kmeans_is_scikit_learns():
    from sklearn.cluster import KMeans

    points = np.random.default_rng(0).normal(size=(2000, 5)).astype(np.float32)
    start = training.far_apart(torch.from_numpy(points), 16, seed_rng(0)).numpy()
    assert len(np.unique(start, axis=0)) == 16
    theirs = KMeans(16, init=start, n_init=1, max_iter=training.ITERATIONS, tol=0).fit(points)
    ours = training.kmeans(torch.from_numpy(points), 16, seed_rng(0))
    np.testing.assert_allclose(ours, theirs.cluster_centers_, atol=1e-4)
    ids, distances = training.nearest(torch.from_numpy(points), ours)
    assert (ids.numpy() == theirs.predict(points)).all()
    assert float(distances.sum()) == pytest.approx(theirs.inertia_, rel=1e-4)
    few = torch.tensor([[0.0], [1.0], [5.0]]).repeat(4, 1)
    for k in (3, 8, 50):
        means = training.kmeans(few, k, seed_rng(0))
        assert sorted(set(means[:, 0].tolist())) == [0.0, 1.0, 5.0]
        assert len(means) == k


def test_kmeans_start_loses_nothing_of_kmeans(tiny, tmp_path):
    """The tokenizer's reconstruction is that of k-means on raw patches, in --epochs 0 and 1."""
    more = ["--epochs", 0, "--code-dim", 48, "--precision", "fp32", "--no-flip"]
    train(tiny["train"], tmp_path / "zero", *more)
    saved = load(tmp_path / "zero/generator.pth")
    assert not saved["tokenizer_config"]["convolutions"]
    assert (tmp_path / "zero/generator.pth").stat().st_size < 100_000
    assert (tmp_path / "zero/reconstructions.png").stat().st_size > 1000

    images = np.stack([read_image(tiny["train"] / path) for path in find_images(tiny["train"])])
    patches = torch.from_numpy(images.reshape(24, 8, 4, 8, 4, 3).swapaxes(2, 3))
    patches = patches.reshape(-1, 48).float() / 255
    means = training.kmeans(patches, 32, seed_rng(0))
    ids, _ = training.nearest(patches, means)
    kmeans_error = float((means[ids] - patches).square().mean())
    error = reconstruction_error(tmp_path / "zero", tiny["train"])
    assert error < 1.05 * kmeans_error
    (noted,) = read_log(tmp_path / "zero", "kmeans")
    assert noted["psnr"] == pytest.approx(-10 * np.log10(error), abs=0.01)

    more = ["--epochs", 12, "--learning-rate", 1e-3, "--no-flip"]
    train(tiny["train"], tmp_path / "one", *more)
    first, *_, last = read_log(tmp_path / "one", "epoch")
    (noted,) = read_log(tmp_path / "one", "kmeans")
    assert first["psnr"] > noted["psnr"] - 0.1
    assert last["psnr"] > noted["psnr"]


def test_kmeans_tokenizer_is_trained_on_and_loaded(tiny, tmp_path):
    train(tiny["train"], tmp_path / "tokenizer", "--epochs", 0)
    more = ["--tokenizer", tmp_path / "tokenizer", "--epochs", 1]
    fill_in(tiny, tmp_path / "maskgit", *more)
    tokenizer, transformer, _ = load_maskgit(tmp_path / "maskgit")
    assert transformer is not None and tokenizer.image_size == 32
    paint = ["inpaint", "--data", tiny["train"], "--weights", tmp_path / "maskgit", "--steps", 2]
    run("02_augment.py", *paint, "--mask", "random:0.5", "--out", tmp_path / "gen", "--workers", 0)


POOR = {
    "fewer patches than codes": (["red", "blue", "black"] * 4, "RGB", 3),
    "constant images": (["#336699"] * 12, "RGB", 1),
    "gray images": ([20 * i for i in range(12)], "L", 12),
}


@pytest.mark.parametrize("name", POOR)
def test_kmeans_of_poor_images_is_exact(tmp_path, name):
    colours, mode, different = POOR[name]
    data = tmp_path / "data"
    data.mkdir()
    for i, colour in enumerate(colours):  # of a size that is no multiple of the patch
        Image.new(mode, (45, 37), colour).save(data / f"{i:02}.png")
    said = train(data, tmp_path / "out", "--epochs", 0, "--precision", "fp32").stdout
    assert f"k-means: {different} codes" in said
    assert reconstruction_error(tmp_path / "out", data) < 1e-8
    train(data, tmp_path / "trained", "--epochs", 1)
    assert np.isfinite(read_log(tmp_path / "trained", "epoch")[-1]["psnr"])


def test_patches_are_those_of_the_images(tiny):
    """Every sampled patch stands in an image, and each image gives equally many."""
    paths = find_images(tiny["train"])
    model = Tokenizer(filters=4, multipliers=[1], blocks=1, codes=4, dim=4, groups=4, unshuffle=4)
    read = partial(training.read_squares, ImageList(tiny["train"], paths), 32, None)
    patches = training.sample_patches(model, read, 24, seed=0, workers=0)
    assert patches.shape == (24 * 22, 48)  # 128 for a code, and as many of each image
    images = np.stack([read_image(tiny["train"] / path) for path in paths])
    there = images.reshape(24, 8, 4, 8, 4, 3).transpose(0, 1, 3, 5, 2, 4).reshape(-1, 48)
    rows = {row.tobytes() for row in there}
    sampled = (patches * 255).round().byte().numpy()
    assert all(row.tobytes() in rows for row in sampled)
    assert len({row.tobytes() for row in sampled}) == len(sampled)  # none twice: they are noisy
    # A file without the keys of the linear path loads: the published one, and older runs.
    with torch.device("meta"):
        tokenizer = Tokenizer(filters=16, multipliers=[1, 2], blocks=1, codes=8, dim=4, groups=4)
    assert not [name for name in tokenizer.state_dict() if "patch" in name or "gain" in name]


def test_changed_inputs_are_refused(tiny, tmp_path, capsys):
    data = shutil.copytree(tiny["train"], tmp_path / "data")
    tokenizer = shutil.copytree(tiny["vqgan"], tmp_path / "tokenizer")
    vqgan = ["vqgan", "--data", data, "--out", tmp_path / "v", *VQGAN, "--epochs", 0]
    maskgit = ["maskgit", "--data", data, "--tokenizer", tokenizer, "--out", tmp_path / "m"]
    maskgit += [*MASKGIT, "--epochs", 1]
    run(STAGE, *vqgan)
    run(STAGE, *maskgit)
    noted = read_json(tmp_path / "m/args.json")["inputs"]
    assert noted["number of images"] == 24 and list(noted["tokenizer"]) == ["generator.pth"]
    shutil.copy(tiny["maskgit"] / "generator.pth", tokenizer)
    assert "tokenizer was" in refused(capsys, STAGE, *maskgit, code=2)
    shutil.move(data / "a/000.png", data / "a/new.png")
    assert "list of images was" in refused(capsys, STAGE, *vqgan, code=2)


def test_bad_input_is_one_sentence(tiny, tmp_path, capsys):
    vqgan = ["vqgan", "--data", tiny["train"], "--out", tmp_path / "x", *VQGAN]

    def said(*more, code=None):
        return refused(capsys, STAGE, *vqgan, *more, code=code)

    assert "is not a multiple" in said("--size", 30, code=2)
    assert "does not divide" in said("--groups", 5, code=2)
    assert "--epochs 0 trains nothing" in said("--epochs", 0, "--start-from", "random", code=2)
    assert not (tmp_path / "x").exists()  # nothing of this left a trace
    assert "00_train_generator maskgit" in said("--out", tiny["maskgit"], code=2)
    assert "--epochs was 12.0, now 3.0" in said("--out", tiny["vqgan"], "--epochs", 3, code=2)
    assert "not a run folder" in said("--out", tiny["data"] / "val", code=2)
    maskgit = ["maskgit", "--data", tiny["train"], "--out", tmp_path / "y", *MASKGIT]
    maskgit += ["--tokenizer", tiny["vqgan"]]
    assert "not a multiple of --heads 3" in refused(capsys, STAGE, *maskgit, "--heads", 3, code=2)
    assert not (tmp_path / "y").exists()
