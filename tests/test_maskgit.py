"""MaskGIT against values of the official JAX code (google-research/maskgit); masks and drawing."""

import argparse
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import sentence
from PIL import Image
from scipy.stats import chisquare

from augment import painting
from augment.masks import MASKS, SCHEDULES, mask_name, mask_of, shares
from augment.painting import synset_index
from base.run import seed_rng
from models import maskgit, vqgan
from models.published_maskgit import load_maskgit

GOLDENS = Path(__file__).parent / "goldens" / "maskgit"
TWELVE = maskgit.Sampling(shares("cosine", 12))


tokenizer, transformer, _ = load_maskgit(GOLDENS)  # tiny networks in the official format
GOLDEN = np.load(GOLDENS / "network.npz")  # what the official code makes of them


def test_networks_match_the_official_code():
    image = torch.from_numpy(GOLDEN["image"]).permute(0, 3, 1, 2).contiguous().float() / 255
    features = tokenizer.encoder(image).permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(features, GOLDEN["features"], atol=1e-4)
    assert (tokenizer.encode(image).numpy().reshape(2, 8, 8) == GOLDEN["encode_ids"]).all()
    decoded = tokenizer.decode(torch.from_numpy(GOLDEN["decode_ids"]).long().flatten(1))
    np.testing.assert_allclose(decoded.permute(0, 2, 3, 1).numpy(), GOLDEN["decoded"], atol=1e-4)
    ids = torch.from_numpy(GOLDEN["tokens"]).long()
    logits = transformer(ids[:, 1:], ids[:, 0] - 64).view(4, 64, 64)
    np.testing.assert_allclose(logits.numpy(), GOLDEN["logits"], atol=1e-4)
    some = torch.rand(4, 64) < 0.3  # logits of some positions are those of all
    of_some = transformer(ids[:, 1:], ids[:, 0] - 64, some)
    np.testing.assert_allclose(of_some.numpy(), logits[some].numpy(), atol=1e-5)


@pytest.mark.parametrize("name", ["it12", "it8", "edit12_start2", "gen16", "edge8"])
def test_decoding_reproduces_the_official_trace(name):
    values = np.load(GOLDENS / "decoding.npz").items()
    golden = {key.split("/")[1]: value for key, value in values if name in key}
    steps, start = golden["steps"].tolist()
    ids = torch.from_numpy(golden["input"]).long()
    sample, choice = torch.from_numpy(golden["sample"]), torch.from_numpy(golden["choice"])
    trace = []

    def predict(tokens, unknown):
        trace.append(tokens.numpy().copy())
        return transformer(tokens, ids[:, 0] - 64, unknown)

    def draw(step, logits, unknown):
        return (logits + sample[step - start][unknown]).argmax(1)

    noise, cosine = lambda step: choice[step - start], shares("cosine", steps)
    final = maskgit.decode(predict, ids[:, 1:], draw, noise, cosine, start)
    assert (np.stack(trace) == golden["trace"]).all()
    assert (final.numpy() == golden["final"]).all()


@pytest.mark.parametrize("steps", [8, 12, 16])
def test_schedule_is_computed_in_float32(steps):
    golden = np.load(GOLDENS / "decoding.npz")
    unknown = torch.from_numpy(golden["length/unknown"])
    for step, share in enumerate(shares("cosine", steps)):
        assert (unknown * share).floor().tolist() == golden[f"length/floor_T{steps}"][step].tolist()
    if steps == 12:
        assert math.floor(256 * shares("cosine", 12)[7]) == 127  # float64 would say 128


PAPER = {
    "cosine": lambda done: math.cos(math.pi / 2 * done),
    "linear": lambda done: 1 - done,
    "square": lambda done: 1 - done * done,
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_are_those_of_the_paper(name):
    expected = [max(PAPER[name](step / 8), 1e-6) for step in range(1, 9)]
    np.testing.assert_allclose(shares(name, 8), expected, rtol=1e-5)
    hidden = []

    def watched(tokens, labels, where):
        hidden.append(int((tokens == maskgit.MASK).sum()))
        return transformer(tokens, labels, where)

    tokens = torch.full((1, 64), maskgit.MASK)
    sampling = maskgit.Sampling(shares(name, 8))
    maskgit.sample(watched, tokens, torch.zeros(1, dtype=int), [seed_rng(0)], sampling)
    left = [64]
    for share in expected[:-1]:  # each step finds one token or more
        left.append(min(math.floor(64 * share), left[-1] - 1))
    assert hidden == left


def test_full_configuration_has_the_dissertations_227m_parameters():
    with torch.device("meta"):
        networks = vqgan.VQGAN(**vqgan.PUBLISHED), maskgit.MaskGIT(**maskgit.PUBLISHED)
    assert sum(p.numel() for network in networks for p in network.parameters()) == 226_972_780


def test_draws_from_narrowed_logits():
    logits = torch.tensor([[0.0, 3.0, 1.0, 2.0, 2.0], [5.0, 1.0, 1.0, 1.0, 1.0]])
    assert maskgit.narrow(logits) is logits  # the published draw, bit for bit
    kept = maskgit.narrow(logits, top_k=2).isfinite()
    assert kept.tolist() == [[False, True, False, True, True], [True] * 5]  # equals stay together
    assert maskgit.narrow(logits, top_k=1).isfinite().sum(1).tolist() == [1, 1]
    assert maskgit.narrow(logits, top_k=99).isfinite().all()
    sharp = maskgit.narrow(logits, softmax_temperature=0.5).softmax(1)
    torch.testing.assert_close(sharp, (2 * logits).softmax(1))
    cold = maskgit.narrow(logits, softmax_temperature=1e-30)
    assert (cold.softmax(1)[0] == torch.tensor([0.0, 1, 0, 0, 0])).all()
    logits = torch.tensor(seed_rng(0, "logits").normal(size=24), dtype=torch.float32)
    u = torch.from_numpy(seed_rng(0, "u").random(200_000, dtype=np.float32))
    counts = torch.bincount(maskgit.inverse_cdf(logits.expand(len(u), -1), u), minlength=24).numpy()
    expected = logits.double().softmax(0).numpy() * len(u)
    assert chisquare(counts, expected * counts.sum() / expected.sum()).pvalue > 1e-3
    one = torch.full((4, 5), -torch.inf)
    one[:, 3] = 0  # impossible codes are never drawn, not at the ends of the interval either
    assert maskgit.inverse_cdf(one, torch.tensor([0.0, 0.3, 0.999, 1 - 2**-24])).tolist() == [3] * 4


def test_sampling_flags_change_what_is_drawn():
    """The likeliest code alone needs no random number; the defaults are the plain softmax."""
    tokens = torch.full((2, 64), maskgit.MASK)
    labels = torch.arange(2)

    def draw(seed, **options):
        rngs = [seed_rng(seed, i) for i in range(2)]
        sampling = maskgit.Sampling(shares("cosine", 1), **options)
        return maskgit.sample(transformer, tokens, labels, rngs, sampling)

    assert (draw(0, top_k=1) == draw(1, top_k=1)).all()
    assert (draw(0) != draw(1)).any()
    assert (draw(0) == draw(0, top_k=64, softmax_temperature=1.0)).all()
    assert (draw(0) != draw(0, softmax_temperature=0.1)).any()


def test_known_tokens_never_change_and_batch_mates_do_not_matter():
    tokens = torch.from_numpy(seed_rng(1).integers(0, 64, (5, 64)))
    masks = torch.from_numpy(np.stack([mask_of("random:0.5", 8, seed_rng(2, i)) for i in range(5)]))
    masked, labels = tokens.masked_fill(masks, maskgit.MASK), torch.arange(5)
    rngs = [seed_rng(3, i) for i in range(5)]
    together = maskgit.sample(transformer, masked, labels, rngs, TWELVE)
    assert (together[~masks] == tokens[~masks]).all()
    assert (together >= 0).all() and (together < 64).all()
    for i in range(5):
        one = masked[i : i + 1], labels[i : i + 1], [seed_rng(3, i)]
        alone = maskgit.sample(transformer, *one, TWELVE)
        assert (alone == together[i : i + 1]).all()
    rngs = [seed_rng(4, i) for i in range(5)]
    other = maskgit.sample(transformer, masked, labels, rngs, TWELVE)
    assert (other != together).any()
    # A mask may leave nothing to predict in one image of a batch, or in all of them.
    known = torch.from_numpy(seed_rng(1).integers(0, 64, (2, 64)))
    labels = torch.arange(2)
    half = known.clone()
    half[1, :32] = maskgit.MASK
    for tokens in (known, half):
        rngs = [seed_rng(3, i) for i in range(2)]
        filled = maskgit.sample(transformer, tokens, labels, rngs, TWELVE)
        assert (filled[0] == known[0]).all() and (filled[1, 32:] == known[1, 32:]).all()
        assert (filled >= 0).all()


def test_center_ring_and_random_masks():
    kept = ~mask_of("center", 16, None).reshape(16, 16)
    assert (~kept).sum() == 196
    assert kept[0].all() and kept[-1].all() and kept[:, 0].all() and kept[:, -1].all()
    assert (mask_of("ring", 16, None).reshape(16, 16) == kept).all()
    assert not mask_of("none", 16, None).any()
    shares = [mask_of("random:0.25", 16, seed_rng(0, i)).mean() for i in range(200)]
    assert abs(np.mean(shares) - 0.25) < 0.01
    first = seed_rng(0, 0).random((16, 16)) < 0.25  # as in every mirror so far
    assert (mask_of("random:0.25", 16, seed_rng(0, 0)) == first.ravel()).all()


@pytest.mark.parametrize("side", [1, 2, 8, 16])
@pytest.mark.parametrize("share", [0, 0.01, 0.1, 0.25, 0.5, 0.9, 1])
def test_a_block_is_one_rectangle_with_its_share(side, share):
    shares, tops, heights = [], set(), set()
    for i in range(50):
        mask = mask_of(f"block:{share}", side, seed_rng(0, i)).reshape(side, side)
        rows, columns = mask.any(1), mask.any(0)
        assert (mask == rows[:, None] & columns[None]).all()
        for line in (rows, columns):  # one run of neighbours
            assert np.abs(np.diff(line.astype(int), prepend=0, append=0)).sum() in (0, 2)
        shares.append(mask.mean())
        tops.add(int(rows.argmax()))
        heights.add(int(rows.sum()))
    if side == 16:
        assert abs(np.mean(shares) - share) < 0.5 / side  # as near as whole rows come
        assert share in (0, 1) or len(tops) > 1 and len(heights) > 1


def test_names_and_files_of_masks(tmp_path):
    for name in ("center", "ring", "none", "random:0", "block:1", "file:some/folder"):
        assert mask_name(name) == name
    for wrong in ("centre", "random", "center:3", "none:", "", "checker", "random:1.5"):
        with pytest.raises(argparse.ArgumentTypeError) as error:
            mask_name(wrong)
        assert "1.5" in str(error.value) or all(mask in str(error.value) for mask in MASKS)
    for wrong in ("random:much", "block:"):
        with pytest.raises(ValueError):
            mask_name(wrong)
    wide = np.zeros((40, 80), np.uint8)
    wide[:20, 20:40] = 255  # the upper left quarter of the centre square
    Image.fromarray(wide).save(tmp_path / "wide.png")
    mask = mask_of("file:anything", 4, None, tmp_path / "wide.png").reshape(4, 4)
    assert mask[:2, :2].all() and mask.sum() == 4
    for level, predicted in ((127, False), (128, True)):
        Image.new("RGB", (3, 3), (level,) * 3).save(tmp_path / "level.png")
        assert (mask_of("file:anything", 4, None, tmp_path / "level.png") == predicted).all()


def test_outpainting_positions_and_imagenet_labels():
    places = painting.positions(256)
    corners = [(top, left, 196) for top in (0, 30, 60) for left in (0, 30, 60)]
    assert list(places.values()) == corners
    assert list(places)[:5] == "upper-left upper-center upper-right center-left center".split()
    for top, left, side in corners:
        canvas = np.zeros((256, 256), bool)
        canvas[top : top + side, left : left + side] = True
        whole = canvas.reshape(16, 16, 16, 16).all((1, 3))
        assert (painting.uncovered(256, 16, top, left, side) == ~whole.ravel()).all()
    assert painting.positions(128)["lower-right"] == (30, 30, 98)
    assert synset_index("n01440764/a.jpg") == 0 and synset_index("n15075141/a.jpg") == 999
    assert synset_index("train/n02119789/sub/a.jpg") == 278 and synset_index("cats/a.jpg") is None


def test_another_file_in_the_checkpoints_place_is_one_sentence(tmp_path, capsys):
    import msgpack

    for name in ("tokenizer_imagenet256_checkpoint", "maskgit_imagenet256_checkpoint"):
        (tmp_path / name).write_bytes((GOLDENS / name).read_bytes())
    file = tmp_path / "tokenizer_imagenet256_checkpoint"
    tree = msgpack.unpackb(file.read_bytes(), strict_map_key=False)
    tree["params"]["encoder"]["Conv_9"] = tree["params"]["encoder"].pop("Conv_1")
    file.write_bytes(msgpack.packb(tree))
    assert "encoder.out" in sentence(capsys, load_maskgit, tmp_path)
    file.write_bytes(b"not msgpack at all")
    assert "is not a flax checkpoint" in sentence(capsys, load_maskgit, tmp_path)
