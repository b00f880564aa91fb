"""Labelled images: the data sets of an evaluation, and random images of each class.

SETS names the data sets. Used by 04, 05, 06, the probe of 03, evaluate/linear.py and
recipes/preflight.py. Light at import.
"""

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np

from base import run

VOC = (
    "aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike "
    "person pottedplant sheep sofa train tvmonitor"
).split()


class Split(NamedTuple):
    """Images and their labels.

    labels: int64 (n,), the numbers of the classes. Where an image can have several classes it is
    int64 (n, classes): 1 for present, 0 for absent, -1 for present but marked difficult.
    """

    files: list
    labels: np.ndarray

    def take(self, rows):
        """The Split of some images; rows: their numbers, int64 (m,)."""
        return Split([self.files[row] for row in rows.tolist()], self.labels[rows])


class Labelled(NamedTuple):
    """The names of the classes, images to train on, images to measure on."""

    classes: list
    train: Split
    val: Split


# ---------------------------------------------------------------- class folders
def read_folder(root):
    """(paths, class names) of the images ROOT/CLASS/.../image."""
    from images.files import class_of, find_images, is_passed_over  # heavy

    paths = find_images(root)
    names = [class_of(path) for path in paths]
    if "" in names:
        run.fail(
            f"{root}/{paths[names.index('')]} is in no class folder: expected {root}/CLASS/image "
            "(for ImageNet's val, valprep.sh of soumith/imagenetloader.torch makes the folders).",
            2,
        )
    with os.scandir(root) as entries:
        folders = {entry.name for entry in entries if entry.is_dir()}
    empty = [name for name in folders - set(names) if not is_passed_over(name)]
    if empty:
        run.fail(f"{root} has class folders without images: {', '.join(sorted(empty)[:5])}.", 2)
    return [os.path.join(root, path) for path in paths], names


def read_splits(root, val="val"):
    """The class folders of ROOT/train and ROOT/val, which must have the same classes."""
    train_files, train_names = read_folder(Path(root) / "train")
    val_files, val_names = read_folder(Path(root) / val)
    only = sorted(set(train_names) ^ set(val_names))
    if only:
        run.fail(
            f"{root}: train and {val} have different classes; only one of them has "
            f"{', '.join(only[:5])}.",
            2,
        )
    classes = sorted(set(train_names))
    train = Split(train_files, np.searchsorted(classes, train_names))
    val = Split(val_files, np.searchsorted(classes, val_names))
    return Labelled(classes, train, val)


# ---------------------------------------------------------------- published data sets
def read_voc(root):
    """VOC2007's trainval and test, from Annotations/*.xml.

    A class is -1 in an image where all its objects are marked difficult, as in the data set's own
    lists ImageSets/Main/CLASS_trainval.txt.
    """
    base = Path(root) / "VOCdevkit/VOC2007"
    splits = []
    for split in ("trainval", "test"):
        names = run.read_text(base / f"ImageSets/Main/{split}.txt").split()
        labels = np.zeros((len(names), len(VOC)), np.int64)
        for row, name in zip(labels, names, strict=True):
            read_objects(base / f"Annotations/{name}.xml", row)
        files = [str(base / f"JPEGImages/{name}.jpg") for name in names]
        splits.append(Split(files, labels))
    return Labelled(VOC, *splits)


def read_objects(path, row):
    """Fill a row of VOC's labels, int64 (20,), from the annotation of an image."""
    try:
        for item in ElementTree.parse(path).findall("object"):
            kind = VOC.index(item.findtext("name"))
            difficult = item.findtext("difficult") == "1"
            row[kind] = -1 if difficult and row[kind] != 1 else 1
    except (OSError, ElementTree.ParseError, ValueError) as error:
        run.fail(f"{path} cannot be read ({error}).")


def read_coco(root):
    """COCO's train and val of 2017 or 2014: which categories stand in an image; crowds count."""
    annotations = Path(root) / "annotations"
    year = 2017 if (annotations / "instances_val2017.json").exists() else 2014
    splits, names = [], {}
    for split in (f"train{year}", f"val{year}"):
        path = annotations / f"instances_{split}.json"
        content = run.read_json(path)
        try:
            kinds = {kind["id"]: kind["name"] for kind in content["categories"]}
            times = Counter(kinds.values())
            for number, name in kinds.items():
                if times[name] > 1:  # two categories of one name
                    kinds[number] = f"{name} {number}"
            column = {number: i for i, number in enumerate(sorted(kinds))}
            row = {image["id"]: i for i, image in enumerate(content["images"])}
            labels = np.zeros((len(row), len(column)), np.int64)
            for mark in content["annotations"]:
                labels[row[mark["image_id"]], column[mark["category_id"]]] = 1
            files = [str(Path(root) / split / image["file_name"]) for image in content["images"]]
        except (KeyError, TypeError) as error:
            run.fail(f"{path} is not in COCO's instances format: {error} is missing or unknown.")
        names = names or kinds
        if kinds != names:
            run.fail(f"{path} has other categories than the training annotations.")
        splits.append(Split(files, labels))
    return Labelled([names[number] for number in sorted(names)], *splits)


PLACES_TRAIN = "places365_train_standard.txt"
PLACES_FOLDERS = {
    PLACES_TRAIN: ("data_256_standard", "data_large_standard", "data_256"),
    "places365_val.txt": ("val_256", "val_large"),
}


def read_places(root):
    """Places365 as class folders or as the official lists."""
    root = Path(root)
    if not (root / PLACES_TRAIN).exists():
        return read_splits(root)
    splits, classes = [], {}
    for listing, folders in PLACES_FOLDERS.items():
        there = [root / name for name in folders if (root / name).is_dir()]
        if not there:
            run.fail(f"{root} holds {listing} but none of the folders {', '.join(folders)}.", 2)
        paths, labels = read_listing(root / listing)
        if listing == PLACES_TRAIN:
            for path, label in zip(paths, labels, strict=True):
                # a/abbey/00000001.jpg is of the class abbey
                classes[label] = path.rpartition("/")[0].partition("/")[2]
        if unknown := set(labels) - set(range(len(classes))):
            run.fail(
                f"{root / listing}: labels {sorted(unknown)[:5]}, but {len(classes)} classes have "
                "training images."
            )
        files = [os.path.join(there[0], path) for path in paths]
        splits.append(Split(files, np.array(labels)))
    return Labelled([classes[label] for label in range(len(classes))], *splits)


def read_listing(path):
    """(paths, labels) of a list with a path and a number in each line."""
    paths, labels = [], []
    for line in run.read_text(path).split("\n"):
        words = line.rsplit(maxsplit=1)
        if not words:
            continue
        if len(words) < 2 or not words[1].isdecimal():
            run.fail(f"{path}: {line.strip()!r} is not a path and the number of a class.")
        paths.append(words[0].strip().lstrip("/"))
        labels.append(int(words[1]))
    return paths, labels


# ---------------------------------------------------------------- the data sets of 06
class DataSet(NamedTuple):
    """What 06 measures features on.

    sentence: for --help. read: folder -> `Labelled`. svm: VISSL's linear SVMs, not logistic
    regression.
    """

    sentence: str
    read: Callable
    svm: bool = False


SETS = {
    "places365": DataSet("Places365 (standard): top-1 and top-5.", read_places),
    "voc07": DataSet("PASCAL VOC 2007: mAP.", read_voc, True),
    "coco": DataSet("COCO as a multi-label task: mAP.", read_coco),
    "folder": DataSet("Any class folders: top-1, top-5.", read_splits),
}


# ---------------------------------------------------------------- some of the images
def some_of_each(labels, count, seed, *name, keys=None):
    """Mask (n,) of random images of each class.

    count(n): how many of a class's n images. keys: what the classes are called in the seed, by
    default their numbers.
    """
    mask = np.zeros(len(labels), bool)
    for number in np.unique(labels).tolist():
        members = np.flatnonzero(labels == number)
        key = keys[number] if keys else number
        order = run.seed_rng(seed, *name, key).permutation(len(members))
        mask[members[order[: count(len(members))]]] = True
    return mask


def path_below(root, file):
    """The path of a file below a folder, of which it is known that it lies in it."""
    return file.removeprefix(os.path.join(root, ""))


def write_subset(path, root, files):
    """A text file for `read_subset`: the path of each file below `root`, one a line."""
    lines = [path_below(root, file) + "\n" for file in files]
    run.write_text(path, "".join(lines))


def read_subset(path, root, files):
    """Indices of the files that a text file names, a name or a path below `root` in each line."""
    wanted = {line.strip() for line in run.read_text(path).split("\n")} - {""}
    matches = {name: [] for name in wanted}
    for index, file in enumerate(files):
        below = path_below(root, file)
        for name in {below, os.path.basename(below)} & wanted:
            matches[name].append(index)
    missing = sorted(name for name in wanted if not matches[name])
    if missing:
        run.fail(
            f"{path}: {len(missing)} of {len(wanted)} names are not in {root}, such as "
            f"{', '.join(missing[:3])}."
        )
    for name, indices in sorted(matches.items()):
        if len(indices) > 1:
            first, second = files[indices[0]], files[indices[1]]
            run.fail(
                f"{path}: {name} fits {len(indices)} images, such as {first} and {second}: write "
                "the folder before the name."
            )
    return sorted({index for (index,) in matches.values()})
