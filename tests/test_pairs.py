"""Pairs of a real and a generated view: the data set's promises."""

from functools import partial

import cv2
import numpy as np
import pytest
import torch
from conftest import sentence
from image_files import photographs
from torch.utils.data import DataLoader

from base.run import seed_rng, write_json
from images import batch_views
from images import views as V
from images.pairs import PairDataset, SmallPairs, mirrors_of
from images.pictures import square, write_image
from images.read import read_image
from models.registry import recipe_of

SIMCLR = recipe_of("simclr")["views"]
VICREG = recipe_of("vicreg")["views"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Eight photographs, JPEG and PNG, and three mirrors: all of mirror m has the level 60 m."""
    root = tmp_path_factory.mktemp("views")
    paths = [f"c{i % 2}/{i}.{'png' if i % 3 else 'jpg'}" for i in range(8)]
    photos = photographs((60, 80))
    for i, path in enumerate(paths):
        write_image(root / "real" / path, photos[i % len(photos)])
        for m in range(3):
            stored = (root / f"view{m}" / path).with_suffix(".png" if m else ".jpg")
            write_image(stored, np.full((48, 48, 3), 60 * m, np.uint8))
    return root, paths, [root / f"view{m}" for m in range(3)]


def items(data, epochs=1):
    return [data[(epoch, index)] for epoch in range(epochs) for index in range(len(data))]


def level(view):
    """The mirror that a view shows, or None for a photograph."""
    return round(view.max().item() / 60) if view.min() == view.max() else None


def test_without_mixing_it_is_the_baseline(folders):
    root, paths, _ = folders

    def views(**more):
        settings = dict(local_crops=2, local_size=16, **more)
        return items(PairDataset(root / "real", paths, VICREG, 32, **settings))

    plain = views()
    absent = views(mix=0.0, pair=["blur"], generated=[root / "nowhere"])
    mixed = views(mix=0.5, pair=["none"], generated=folders[2])
    for (a, _, i), (b, _, _), (c, _, j) in zip(plain, absent, mixed, strict=True):
        assert i == j and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
        partner = c.pop(1)  # generated or the very view of the baseline
        assert level(partner) is not None or torch.equal(partner, a[1])
        del a[1]
        assert all(torch.equal(x, y) for x, y in zip(a, c, strict=True))
    again = items(PairDataset(root / "real", paths, VICREG, 32), epochs=2)
    assert torch.equal(again[0][0][0], plain[0][0][0])
    assert not torch.equal(again[0][0][0], again[len(paths)][0][0])  # another epoch, another view


def test_mixing_rate_and_mirrors(folders):
    root, paths, mirrors = folders
    data = PairDataset(root / "real", paths, VICREG, 16, mix=0.3, pair=["none"], generated=mirrors)
    shown = [level(views[1]) for views, _, _ in items(data, epochs=60)]
    share = np.mean([m is not None for m in shown])
    assert abs(share - 0.3) < 4 * (0.21 / len(shown)) ** 0.5
    counts = np.bincount([m for m in shown if m is not None], minlength=3)
    assert len(counts) == 3 and counts.min() > 0.2 * counts.sum()  # each mirror is drawn as often
    data = PairDataset(root / "real", paths, VICREG, 16, mix=1.0, generated=mirrors, partners=3)
    orders = [tuple(level(view) for view in views[1:]) for views, _, _ in items(data, epochs=4)]
    assert {frozenset(order) for order in orders} == {frozenset({0, 1, 2})} and len(set(orders)) > 2


def test_both_views_generated(folders):
    """Two distinct mirrors in each pair, any order, and no real image, in local crops neither."""
    root, paths, mirrors = folders
    settings = dict(mix=1.0, both_generated=True, local_crops=2, local_size=8)
    data = PairDataset(root / "nothing", paths, SIMCLR, 16, generated=mirrors, **settings)
    pairs = []
    for views, _, _ in items(data, epochs=6):
        first, partner, *local = [level(view) for view in views]
        assert None not in (first, partner) and first != partner and local == [partner] * 2
        pairs.append((first, partner))
    assert len(set(pairs)) == 6  # of three mirrors: every ordered pair
    settings = dict(mix=1.0, both_generated=True, pair=["none"], store_size=48)
    control = PairDataset(root / "real", paths, SIMCLR, 32, generated="real", **settings)
    for i, (views, _, _) in enumerate(items(control)):
        stored = square(read_image(root / "real" / paths[i]), 48)
        expected = V.resized_crop(stored, (0, 0, 48, 48), 32)
        assert all((view.numpy() == expected).all() for view in views)
    root, paths, mirrors = folders
    settings = dict(mix=1.0, both_generated=True, partners=2, local_crops=4, local_size=8)
    data = PairDataset(root / "nothing", paths, VICREG, 16, generated=mirrors, **settings)
    for views, _, _ in items(data):
        shown = [level(view) for view in views]
        assert shown[3:] == [shown[1], shown[2]] * 2 and set(shown[:3]) == {0, 1, 2}


def test_control_takes_the_generated_image_s_way(folders):
    root, paths, mirrors = folders
    common = (root / "real", paths, VICREG, 32)
    settings = dict(mix=0.5, pair=["flip"], seed=3)
    control = PairDataset(*common, generated="real", store_size=48, **settings)
    generated = PairDataset(*common, generated=mirrors, **settings)
    taken = 0
    both = zip(items(control), items(generated), strict=True)
    for i, ((views, _, _), (other, _, _)) in enumerate(both):
        if level(other[1]) is None:
            assert torch.equal(views[1], other[1])
            continue
        taken += 1
        stored = square(read_image(root / "real" / paths[i]), 48)
        expected = V.resized_crop(stored, (0, 0, 48, 48), 32)
        if V.draw_choices(control.specs[0][2], 48, 48, seed_rng(3, 0, i, "pair", 0))[1]:
            expected = cv2.flip(expected, 1)
        assert (views[1].numpy() == expected).all()
    assert 0 < taken < len(paths)


def test_the_view_whose_place_is_taken(folders):
    """VICReg's first view is always blurred, its second one not: so they differ in `choices`."""
    root, paths, mirrors = folders
    looks = {}
    for replace in ("first", "second", "either"):
        settings = dict(mix=1.0, generated=mirrors[:1], on_device=True, replace=replace)
        data = PairDataset(root / "real", paths, VICREG, 32, **settings)
        assert data.first is VICREG[0]
        looks[replace] = [choices[0].tolist() for _, choices, _ in items(data, epochs=4)]
        specs = [(real is VICREG[0], partner is VICREG[0]) for real, partner, _ in data.specs]
        expected = {"first": [(False, True)], "second": [(True, False)]}
        expected["either"] = expected["first"] + expected["second"]
        assert specs == expected[replace]
    drawn = [either == looks["first"][n] for n, either in enumerate(looks["either"])]
    also = [either == looks["second"][n] for n, either in enumerate(looks["either"])]
    assert all(a or b for a, b in zip(drawn, also, strict=True))
    assert 0 < sum(drawn) < len(drawn)


def test_device_path_and_collation(folders):
    root, paths, _ = folders
    settings = dict(local_crops=1, local_size=16)
    workers = PairDataset(root / "real", paths, VICREG, 32, **settings)
    device = PairDataset(root / "real", paths, VICREG, 32, on_device=True, **settings)
    order = [[(2, i) for i in range(len(paths))]]
    a, p, index = next(iter(DataLoader(workers, batch_sampler=order)))
    b, q, _ = next(iter(DataLoader(device, batch_sampler=order)))
    assert index.tolist() == list(range(len(paths))) and len(a) == len(p) == 3
    assert a[0].shape == (8, 32, 32, 3) and a[2].shape == (8, 16, 16, 3)
    assert a[0].dtype == torch.uint8
    norm = V.FIRST["mean"], V.FIRST["std"]
    for x, y, neutral, params in zip(a, b, p, q, strict=True):
        x = batch_views.colour_and_normalise(x, neutral, *norm)
        y = batch_views.colour_and_normalise(y, params, *norm)
        assert x.shape[1] == 3 and ((x - y).abs().mean((1, 2, 3)) < 0.03).all()


def test_small_images_in_memory_give_the_same_views(tmp_path):
    """The same choices, crops equal up to two levels: real, generated, control, local crops."""
    photos = photographs((32, 32))
    paths = [f"{i}.png" for i in range(12)]
    for i, path in enumerate(paths):
        write_image(tmp_path / "real" / path, photos[i % len(photos)])
        write_image(tmp_path / "view0" / path, 255 - photos[i % len(photos)][:24, :24])
    batch = [(epoch, index) for epoch in (0, 3) for index in range(12)]
    for generated in ([tmp_path / "view0"], "real"):
        settings = dict(mix=0.5, local_crops=1, local_size=16, store_size=28, on_device=True)
        settings["generated"] = generated
        pairs = PairDataset(tmp_path / "real", paths, SIMCLR, 32, **settings)
        small = SmallPairs(pairs, torch.device("cpu"))
        crops, choices, indices = small.batch(batch)
        expected, their_choices, their_indices = pairs.batch(batch)
        assert torch.equal(indices, their_indices) and len(crops) == len(expected) == 3
        for ours, theirs in zip(crops, expected, strict=True):
            difference = (ours.int() - theirs.int()).abs()
            assert difference.max() <= 2 and difference.float().mean() < 0.2
        assert all(map(torch.equal, choices, their_choices))
        pairs.on_device = False  # now both apply the colour on the CPU
        crops, choices, _ = small.batch(batch)
        expected, their_choices, _ = pairs.batch(batch)
        for ours, theirs in zip(crops, expected, strict=True):
            assert (ours.int() - theirs.int()).abs().float().mean() < 1
        assert all(map(torch.equal, choices, their_choices))


def test_bad_input_is_named(folders, tmp_path, capsys):
    root, paths, mirrors = folders
    for path in paths[:5]:
        write_image((tmp_path / "part" / path).with_suffix(".jpg"), np.zeros((8, 8, 3), np.uint8))
    pairs = partial(PairDataset, mix=0.5, generated=[mirrors[0], tmp_path / "part"])
    said = sentence(capsys, pairs, root / "real", paths, VICREG, 32, code=1)
    assert "3 of 8" in said and paths[5] in said and "part" in said
    with pytest.raises(SystemExit):
        PairDataset(root / "real", paths, VICREG, 32, mix=0.5, generated=mirrors, partners=4)
    (tmp_path / "broken.jpg").write_bytes((root / "real" / paths[0]).read_bytes()[:600])
    with pytest.raises(OSError, match="broken.jpg"):
        PairDataset(tmp_path, ["broken.jpg"], VICREG, 32)[(0, 0)]
    root, paths, mirrors = folders
    pairs = partial(PairDataset, mix=1.0, generated=mirrors[:1], both_generated=True)
    said = sentence(capsys, pairs, root / "real", paths, SIMCLR, 16)
    assert "needs 2 folders of generated views; --generated has 1" in said


def test_a_mirror_is_named_by_any_of_its_folders(tmp_path, monkeypatch):
    """Two strengths lie side by side, each with its views; augment.json is above both."""
    args = {"strength": [0.1, 0.2]}
    write_json(tmp_path / "gen/augment.json", {"args": args, "versions": {"torch": "2"}})
    view = tmp_path / "gen/strength0.2/view0"
    view.mkdir(parents=True)
    for folder in (view.parent, view):
        folders, (noted,) = mirrors_of([folder], 0.5)
        assert folders == [view] and noted["args"] == {"strength": [0.2]}
        assert noted["folder"] == str(folder) and "versions" not in noted
    monkeypatch.chdir(view)
    folders, (noted,) = mirrors_of(["."], 0.5)
    assert noted["args"] == {"strength": [0.2]}
    with pytest.raises(SystemExit):
        mirrors_of([tmp_path], 0.5)
    assert mirrors_of([tmp_path], 0) == ([], [])
