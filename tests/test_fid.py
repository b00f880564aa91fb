"""07_metrics.py fid: against pytorch-fid; features of backbones, caches, processes, bad input."""

import pickle
import shutil
from functools import partial

import numpy as np
import pytest
import spoil
import torch
from conftest import call, refused, run

from evaluate import frechet
from models import inception

SCRIPT = "07_metrics.py"


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """A random state dict under the official names: torchvision's, 1008 classes, no second head."""
    from torchvision.models import Inception3

    torch.manual_seed(0)
    network = Inception3(num_classes=1008, aux_logits=False, init_weights=False)
    rng = torch.Generator().manual_seed(1)
    for name, value in network.state_dict().items():
        if "running" in name or "bn.weight" in name:
            value.uniform_(0.5, 1.5, generator=rng)
        elif "bn.bias" in name:
            value.normal_(0, 0.3, generator=rng)
    path = tmp_path_factory.mktemp("weights") / "pt_inception-2015-12-05-6726825d.pth"
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture(scope="session")
def official(weights, folders):
    """pytorch-fid with these weights: (network, (mu, sigma) of each folder, the FID)."""
    import pytorch_fid.inception as theirs
    from pytorch_fid.fid_score import calculate_activation_statistics, calculate_frechet_distance

    original = theirs.load_state_dict_from_url
    theirs.load_state_dict_from_url = lambda *_, **__: torch.load(weights)
    network = theirs.InceptionV3().eval()
    theirs.load_state_dict_from_url = original
    files = [sorted((folders / side).rglob("*.png")) for side in "ab"]
    found = [calculate_activation_statistics(f, network, 4, num_workers=0) for f in files]
    difference = found[0][0] - found[1][0]
    spanning = np.stack([difference, *found[0][1][:40], *found[1][1][:40]])
    basis = np.linalg.svd(spanning, full_matrices=False)[2][:16]
    projected = []  # in a basis of the 16 dimensions of 2 x 8 images it takes no minute
    for mu, sigma in found:
        projected += [basis @ mu, basis @ sigma @ basis.T]
        assert np.trace(projected[-1]) == pytest.approx(np.trace(sigma), rel=1e-9)
    return network, found, calculate_frechet_distance(*projected)


def test_inception_is_pytorch_fids(weights, official, photographs, tmp_path):
    ours, _ = inception.load_inception(weights)
    images = torch.from_numpy(np.stack([p[:150, :170] for p in photographs[:2]]))
    with torch.no_grad():
        theirs = official[0](images.permute(0, 3, 1, 2).float() / 255)[0][:, :, 0, 0]
        torch.testing.assert_close(ours([images]), theirs, rtol=1e-5, atol=1e-6)
    state = torch.load(weights)
    old = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "old.pth")  # as PyTorch before 0.4.1 wrote them
    inception.load_inception(tmp_path / "old.pth")
    del old["Mixed_7c.branch1x1.conv.weight"]
    torch.save(old, tmp_path / "part.pth")
    with pytest.raises(SystemExit):
        inception.load_inception(tmp_path / "part.pth")


def test_fid_is_pytorch_fids(folders, weights, official, capsys):
    common = ("--weights", weights, "--workers", 0, "--batch-size", 5)
    call(SCRIPT, "fid", folders / "a", folders / "b", *common)
    printed = capsys.readouterr()
    assert "8 images, fewer than the 2048 features" in printed.err
    value = float(printed.out.split(": ")[-1])
    assert value == pytest.approx(official[2], rel=1e-4)


def test_moments_of_batches():
    rng = np.random.default_rng(0)
    # far from zero: sums of squares would fail
    rows = rng.standard_normal((300, 40)) * np.linspace(0.1, 3, 40) + 1000
    moments = frechet.Moments(40)
    for part in np.split(rows, [1, 7, 120, 121]):
        moments.add(torch.from_numpy(part))
    n, mean, covariance = moments.result()
    assert n == 300
    np.testing.assert_allclose(mean, rows.mean(0), rtol=1e-12)
    np.testing.assert_allclose(covariance, np.cov(rows, rowvar=False), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("n1, n2", [(500, 600), (40, 700), (700, 40), (30, 50), (2, 3)])
def test_frechet_distance(n1, n2):
    """Against pytorch-fid, and the exact value of the samples: a sum of singular values."""
    from pytorch_fid.fid_score import calculate_frechet_distance

    rng, width = np.random.default_rng(n1), 100
    x = rng.standard_normal((n1, width)) * np.linspace(0.001, 2, width)
    y = rng.standard_normal((n2, width))
    y = y @ (np.eye(width) + 0.1 * rng.standard_normal((width, width))) + 0.3
    statistics = [s for z in (x, y) for s in (z.mean(0), np.cov(z, rowvar=False))]
    product = (x - x.mean(0)) @ (y - y.mean(0)).T / np.sqrt((n1 - 1) * (n2 - 1))
    root = np.linalg.svd(product, compute_uv=False).sum()
    exact = ((x.mean(0) - y.mean(0)) ** 2).sum() - 2 * root
    exact += np.trace(statistics[1]) + np.trace(statistics[3])
    value = frechet.frechet_distance(*statistics)
    assert value == pytest.approx(exact, rel=1e-9)
    theirs = calculate_frechet_distance(*statistics)
    assert value == pytest.approx(theirs, rel=1e-6 if min(n1, n2) > width else 1e-5)
    assert frechet.frechet_distance(*statistics[:2], *statistics[:2]) == pytest.approx(0, abs=1e-8)


def test_features_of_a_backbone(folders, backbone, capsys):
    """On one process and on two; a folder has no distance from itself."""
    options = ("--features", backbone, "--size", 32, "--workers", 0)
    call(SCRIPT, "fid", folders / "a", folders / "b", *options)
    first = capsys.readouterr()
    assert "Frechet distance (resnet10 features)" in first.out
    assert "fewer than the 256 features" in first.err
    options += ("--batch-size", 3)
    two = run(SCRIPT, "fid", folders / "a", folders / "b", *options, processes=2).stdout
    one, two = (float(said.strip().rpartition(": ")[2]) for said in (first.out, two))
    assert two == pytest.approx(one, rel=1e-3)
    itself = run(SCRIPT, "fid", folders / "a", folders / "a", *options, processes=2)
    assert itself.stdout.splitlines()[-1].endswith(": 0.0000")


def test_images_of_many_sizes_are_one_batch(weights, photographs):
    """The features are those of each image alone, and the network is called once."""
    network, _ = inception.load_inception(weights)
    images = [photographs[0][: 90 + 10 * i, : 80 + 7 * i] for i in (0, 1, 0, 2)]
    stacks = [np.stack([images[0], images[2]]), images[1][None], images[3][None]]
    stacks = [torch.from_numpy(np.ascontiguousarray(stack)) for stack in stacks]
    calls = []
    network.Mixed_7c.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        together = network(stacks)
        alone = torch.cat([network([stack]) for stack in stacks])
    assert len(calls) == 1 + 3
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    assert callable(pickle.loads(pickle.dumps(partial(frechet.read_stacks, size=0))))


def test_features_that_are_not_finite(folders, backbone, capsys, monkeypatch):
    from models.resnet import ResNet

    forward = ResNet.forward

    def broken(self, x):
        features = forward(self, x)
        features[3:, 0] = torch.nan
        return features

    monkeypatch.setattr(ResNet, "forward", broken)
    options = ("--features", backbone, "--workers", 0, "--size", 32)
    said = refused(capsys, SCRIPT, "fid", folders / "a", folders / "b", *options)
    assert f"{folders / 'a' / 'class0' / '06.png'}: the network's" in said


def test_a_mirror_with_other_extensions(tiny, backbone, tmp_path, capsys):
    """Any extension will do; originals that could not be read are left out, in words."""
    mirror = tmp_path / "mine"
    shutil.copytree(tiny["inpaint"], mirror)
    (mirror / "view0/a/000.png").unlink()
    spoil.convert("view0", ".JPEG", ".webp", ".PNG", ".jpeg")(mirror)
    (mirror / "failed.jsonl").write_text('{"path": "a/000.png", "reason": "cut"}\n')
    options = ("--workers", 0, "--size", 32)
    call(SCRIPT, "fid", tiny["train"], mirror / "view0", "--features", backbone, *options)
    said = capsys.readouterr()
    assert "1 images of" in said.err and "are left out" in said.err
    assert "(23 images)" in said.out
    call(SCRIPT, "ssim", tiny["train"], mirror / "view0", *options)
    assert "23" in capsys.readouterr().out.splitlines()[-1]


def test_fid_bad_input(folders, tmp_path, capsys):
    options = ("--features", "random", "--workers", 0)
    mirror = tmp_path / "mirror"
    for file in sorted((folders / "b").rglob("*.png"))[2:]:
        target = mirror / "view0" / file.relative_to(folders / "b")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(file)
    (mirror / "augment.json").write_text("{}")
    said = refused(capsys, SCRIPT, "fid", folders / "a", mirror / "view0", *options)
    assert "2 are only in" in said and "class0/00.png, class0/02.png" in said
    assert "give one of its views" in refused(capsys, SCRIPT, "ssim", folders / "a", mirror)
    missing = ("fid", folders / "c", folders / "b", *options)
    assert "is not a folder" in refused(capsys, SCRIPT, *missing)
