"""MaskGIT against reference values computed with the official JAX code (google-research/maskgit), and the
properties of masks, drawing and decoding."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from models import maskgit, vqgan
from models.augmenters import synset_index
from models.old_run import seed_rng
from models.weights import load_maskgit

GOLDENS = Path(__file__).parent / "goldens" / "maskgit"


@pytest.fixture(scope="module")
def published():
    """The tiny networks, from files in the official format, and what the official code computes with them."""
    tokenizer, transformer, _ = load_maskgit(GOLDENS)
    return tokenizer, transformer, np.load(GOLDENS / "network.npz")


def test_tokenizer_matches_the_official_code(published):
    tokenizer, _, golden = published
    image = torch.from_numpy(golden["image"]).permute(0, 3, 1, 2).contiguous().float() / 255
    features = tokenizer.encoder(image).permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(features, golden["features"], atol=1e-4)
    assert (tokenizer.encode(image).numpy().reshape(2, 8, 8) == golden["encode_ids"]).all()
    decoded = tokenizer.decode(torch.from_numpy(golden["decode_ids"]).long().flatten(1))
    np.testing.assert_allclose(decoded.permute(0, 2, 3, 1).numpy(), golden["decoded"], atol=1e-4)


def test_transformer_matches_the_official_code(published):
    _, transformer, golden = published
    ids = torch.from_numpy(golden["tokens"]).long()
    logits = transformer(ids[:, 1:], ids[:, 0] - 64).view(4, 64, 64)
    np.testing.assert_allclose(logits.numpy(), golden["logits"], atol=1e-4)
    some = torch.rand(4, 64) < 0.3  # logits of some positions are those of all
    np.testing.assert_allclose(
        transformer(ids[:, 1:], ids[:, 0] - 64, some).numpy(), logits[some].numpy(), atol=1e-5
    )


@pytest.mark.parametrize("name", ["it12", "it8", "edit12_start2", "gen16", "edge8"])
def test_decoding_reproduces_the_official_trace(published, name):
    """Token for token, from the recorded noise."""
    _, transformer, _ = published
    golden = {
        key.split("/")[1]: value
        for key, value in np.load(GOLDENS / "decoding.npz").items()
        if name in key
    }
    steps, start = golden["steps"].tolist()
    ids = torch.from_numpy(golden["input"]).long()
    sample, choice = torch.from_numpy(golden["sample"]), torch.from_numpy(golden["choice"])
    trace = []

    def predict(tokens, unknown):
        trace.append(tokens.numpy().copy())
        return transformer(tokens, ids[:, 0] - 64, unknown)

    def draw(step, logits, unknown):
        return (logits + sample[step - start][unknown]).argmax(1)

    final = maskgit.decode(
        predict, ids[:, 1:], draw, lambda step: choice[step - start], steps, start
    )
    assert (np.stack(trace) == golden["trace"]).all()
    assert (final.numpy() == golden["final"]).all()


@pytest.mark.parametrize("steps", [8, 12, 16])
def test_schedule_is_computed_in_float32(steps):
    golden = np.load(GOLDENS / "decoding.npz")
    unknown = torch.from_numpy(golden["length/unknown"])
    for step in range(steps):
        r = float(maskgit.mask_ratio((step + 1) / steps))
        assert (unknown * r).floor().tolist() == golden[f"length/floor_T{steps}"][step].tolist()
    if steps == 12:
        assert (
            math.floor(256 * float(maskgit.mask_ratio(np.float64(8) / 12))) == 127
        )  # float64 would say 128


def test_full_configuration_has_the_dissertations_227m_parameters():
    with torch.device("meta"):
        networks = vqgan.VQGAN(**vqgan.PUBLISHED), maskgit.MaskGIT(**maskgit.PUBLISHED)
    assert sum(p.numel() for network in networks for p in network.parameters()) == 226_972_780


def test_cheap_draw_follows_the_softmax():
    logits = torch.tensor(seed_rng(0, "logits").normal(size=24), dtype=torch.float32)
    u = torch.from_numpy(seed_rng(0, "u").random(200_000, dtype=np.float32))
    counts = torch.bincount(maskgit.inverse_cdf(logits.expand(len(u), -1), u), minlength=24).numpy()
    expected = logits.double().softmax(0).numpy() * len(u)
    assert chisquare(counts, expected * counts.sum() / expected.sum()).pvalue > 1e-3
    one = torch.full((4, 5), -torch.inf)
    one[:, 3] = 0  # impossible codes are never drawn, not at the ends of the interval either
    assert maskgit.inverse_cdf(one, torch.tensor([0.0, 0.3, 0.999, 1 - 2**-24])).tolist() == [3] * 4


def test_known_tokens_never_change_and_batch_mates_do_not_matter(published):
    _, transformer, _ = published
    tokens = torch.from_numpy(seed_rng(1).integers(0, 64, (5, 64)))
    masks = torch.from_numpy(
        np.stack([maskgit.mask_of("random:0.5", 8, seed_rng(2, i)) for i in range(5)])
    )
    masked, labels = tokens.masked_fill(masks, maskgit.MASK), torch.arange(5)
    together = maskgit.sample(transformer, masked, labels, [seed_rng(3, i) for i in range(5)])
    assert (
        (together[~masks] == tokens[~masks]).all()
        and (together >= 0).all()
        and (together < 64).all()
    )
    for i in range(5):
        alone = maskgit.sample(transformer, masked[i : i + 1], labels[i : i + 1], [seed_rng(3, i)])
        assert (alone == together[i : i + 1]).all()
    other = maskgit.sample(transformer, masked, labels, [seed_rng(4, i) for i in range(5)])
    assert (other != together).any()


def test_masks():
    ring = ~maskgit.mask_of("center", 16).reshape(16, 16)
    assert (
        (~ring).sum() == 196
        and ring[0].all()
        and ring[-1].all()
        and ring[:, 0].all()
        and ring[:, -1].all()
    )
    assert not maskgit.mask_of("none", 16).any()
    share = np.mean([maskgit.mask_of("random:0.25", 16, seed_rng(0, i)).mean() for i in range(200)])
    assert abs(share - 0.25) < 0.01


def test_outpainting_positions_and_their_masks():
    places = maskgit.positions(256)
    assert [place[1:] for place in places] == [
        (t, left, 196) for t in (0, 30, 60) for left in (0, 30, 60)
    ]
    assert [place[0] for place in places[:5]] == [
        "upper-left",
        "upper-center",
        "upper-right",
        "center-left",
        "center",
    ]
    for _, top, left, side in places:
        canvas = np.zeros((256, 256), bool)
        canvas[top : top + side, left : left + side] = True
        whole = canvas.reshape(16, 16, 16, 16).all((1, 3))
        assert (maskgit.uncovered(256, 16, top, left, side) == ~whole.ravel()).all()
    assert maskgit.positions(128)[8][1:] == (30, 30, 98)


def test_imagenet_labels_are_indices_among_all_1000_synsets():
    assert synset_index("n01440764/a.jpg") == 0 and synset_index("n15075141/a.jpg") == 999
    assert synset_index("train/n02119789/sub/a.jpg") == 278 and synset_index("cats/a.jpg") is None


def test_another_file_in_the_checkpoints_place_is_one_sentence(tmp_path, capsys):
    import msgpack

    for name in ("tokenizer_imagenet256_checkpoint", "maskgit_imagenet256_checkpoint"):
        (tmp_path / name).write_bytes((GOLDENS / name).read_bytes())
    tree = msgpack.unpackb(
        (tmp_path / "tokenizer_imagenet256_checkpoint").read_bytes(), strict_map_key=False
    )
    tree["params"]["encoder"]["Conv_9"] = tree["params"]["encoder"].pop("Conv_1")
    (tmp_path / "tokenizer_imagenet256_checkpoint").write_bytes(msgpack.packb(tree))
    with pytest.raises(SystemExit):
        load_maskgit(tmp_path)
    assert "encoder.out" in capsys.readouterr().err
    (tmp_path / "tokenizer_imagenet256_checkpoint").write_bytes(b"not msgpack at all")
    with pytest.raises(SystemExit):
        load_maskgit(tmp_path)
    assert "is not a flax checkpoint" in capsys.readouterr().err
