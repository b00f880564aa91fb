"""Labelled images: the data sets of an evaluation, and random images of each class.

SETS names the data sets. Used by 04, 05 and 06, and by the probe of 03. Light at import.
"""

import json
import os
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
    from images.files import class_of, find_images  # heavy

    paths = find_images(root)
    names = [class_of(path) for path in paths]
    if "" in names:
        run.fail(
            f"{root}/{paths[names.index('')]} is in no class folder: expected {root}/CLASS/image.",
            2,
        )
    empty = class_folders(root) - set(names)
    if empty:
        run.fail(f"{root} has class folders without images: {', '.join(sorted(empty)[:5])}.", 2)
    return [os.path.join(root, path) for path in paths], names


def class_folders(root):
    """The names of a folder's own folders; those of archives and systems are passed over."""
    from images.files import is_passed_over

    with os.scandir(root) as entries:
        return {
            entry.name for entry in entries if entry.is_dir() and not is_passed_over(entry.name)
        }


def read_splits(root, val="val"):
    """The class folders of ROOT/train and ROOT/val, which must have the same classes."""
    train_files, train_names = read_folder(Path(root) / "train")
    val_files, val_names = read_folder(Path(root) / val)
    only = sorted(set(train_names) ^ set(val_names))
    if only:
        more = " ..." if len(only) > 5 else ""
        run.fail(
            f"{root}: train and {val} have different classes; only one of them has "
            f"{', '.join(only[:5])}{more}.",
            2,
        )
    classes = sorted(set(train_names))
    number = {name: i for i, name in enumerate(classes)}
    train = Split(train_files, np.array([number[name] for name in train_names]))
    val = Split(val_files, np.array([number[name] for name in val_names]))
    return Labelled(classes, train, val)


# ---------------------------------------------------------------- published data sets
def read_voc(root):
    """VOC2007's trainval and test, from Annotations/*.xml.

    A class is -1 in an image where all its objects are marked difficult, as in the data set's own
    lists ImageSets/Main/CLASS_trainval.txt.
    """
    candidates = (Path(root), Path(root) / "VOC2007", Path(root) / "VOCdevkit/VOC2007")
    base = next((folder for folder in candidates if (folder / "ImageSets").is_dir()), None)
    if base is None:
        run.fail(
            f"{root} holds no VOCdevkit/VOC2007/ImageSets: unpack VOC2007 there, or use "
            "--download.",
            2,
        )
    splits = []
    for split in ("trainval", "test"):
        lines = run.read_text(base / f"ImageSets/Main/{split}.txt").split("\n")
        names = [line.split()[0] for line in lines if line.strip()]
        labels = np.zeros((len(names), len(VOC)), np.int64)
        for row, name in zip(labels, names, strict=True):
            read_objects(base / f"Annotations/{name}.xml", row)
        files = [str(base / f"JPEGImages/{name}.jpg") for name in names]
        splits.append(Split(files, labels))
    return Labelled(VOC, *splits)


def read_objects(path, row):
    """Fill a row of VOC's labels, int64 (20,), from the annotation of an image."""
    try:
        objects = ElementTree.parse(path).findall("object")
    except (OSError, ElementTree.ParseError) as error:
        run.fail(f"{path} cannot be read ({error}).")
    for item in objects:
        name = item.findtext("name")
        if name not in VOC:
            run.fail(f"{path}: unknown class {name!r}; VOC2007 has {', '.join(VOC)}.")
        kind = VOC.index(name)
        difficult = item.findtext("difficult") == "1"
        row[kind] = -1 if difficult and row[kind] != 1 else 1


def read_coco(root):
    """COCO's train and val of 2017 or 2014: which categories stand in an image; crowds count."""
    annotations = Path(root) / "annotations"
    years = [y for y in (2017, 2014) if (annotations / f"instances_val{y}.json").exists()]
    if not years:
        run.fail(
            f"{root} holds no annotations/instances_val2014.json or instances_val2017.json: see "
            "--help.",
            2,
        )
    splits, categories = [], []
    for split in ("train", "val"):
        name = f"{split}{years[0]}"
        path = annotations / f"instances_{name}.json"
        try:
            names, *images = read_instances(run.read_json(path), Path(root) / name)
        except (KeyError, TypeError) as error:
            run.fail(f"{path} is not in COCO's instances format: {error} is missing or unknown.")
        categories.append(names)
        splits.append(Split(*images))
    if categories[0] != categories[1]:
        run.fail(f"{path} has other categories than the training annotations.")
    return Labelled([name for _, name in categories[0]], *splits)


def read_instances(content, folder):
    """(categories, files, labels) of the content of an instances file."""
    categories = sorted((kind["id"], kind["name"]) for kind in content["categories"])
    column = {number: i for i, (number, _) in enumerate(categories)}
    row = {image["id"]: i for i, image in enumerate(content["images"])}
    labels = np.zeros((len(row), len(column)), np.int64)
    for mark in content["annotations"]:
        labels[row[mark["image_id"]], column[mark["category_id"]]] = 1
    files = [str(folder / image["file_name"]) for image in content["images"]]
    return categories, files, labels


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
        unknown = sorted(set(labels) - set(classes))
        if unknown or sorted(classes) != list(range(len(classes))):
            run.fail(
                f"{root / listing}: labels {unknown[:5] or 'are not 0, 1, 2, ...'} that no "
                "training image has."
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
def download_voc(root):
    """VOC2007's trainval and test, by torchvision."""
    from torchvision.datasets import VOCDetection

    for split in ("trainval", "test"):
        VOCDetection(root, "2007", split, download=True)


def download_places(root):
    """Places365's small images, by torchvision."""
    from torchvision.datasets import Places365

    for split in ("train-standard", "val"):
        Places365(root, split, small=True, download=True)


class DataSet(NamedTuple):
    """What 06 measures features on.

    sentence: for --help. measure: the name of its number in a report. read: folder -> `Labelled`.
    svm: VISSL's linear SVMs, not logistic regression. download: folder -> None, fills it first.
    """

    sentence: str
    measure: str
    read: Callable
    svm: bool = False
    download: Callable | None = None


SETS = {
    "places365": DataSet(
        "Places365 (standard): top-1 and top-5.",
        "Places365 top-1",
        read_places,
        download=download_places,
    ),
    "voc07": DataSet("PASCAL VOC 2007: mAP.", "VOC07 mAP", read_voc, True, download_voc),
    "coco": DataSet("COCO as a multi-label task: mAP.", "COCO mAP", read_coco),
    "folder": DataSet("Any class folders: top-1, top-5.", "transfer top-1", read_splits),
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
    lines = [as_line(path_below(root, file)) for file in files]
    run.write_text(path, "\n".join(lines) + "\n")


def as_line(name):
    """A name as a line of text. Where it would not be read back, it is a string of JSON."""
    plain = name == name.strip() and name[0] != '"' and not {"\n", "\r"} & set(name)
    return name if plain else json.dumps(name)


def of_line(line):
    """The name of a line of `as_line`, or of a line that a person has written."""
    line = line.strip()
    try:
        name = json.loads(line) if line.startswith('"') else line
    except json.JSONDecodeError:
        name = line
    return name


def read_subset(path, root, files):
    """Indices of the files that a text file names, a name or a path below `root` in each line."""
    wanted = {of_line(line) for line in run.read_text(path).split("\n")} - {""}
    matches = {}
    for index, file in enumerate(files):
        below = path_below(root, file)
        bare = below.rpartition("/")[2]
        for name in {below, bare} & wanted:
            matches.setdefault(name, []).append(index)
    missing = sorted(wanted - set(matches))
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
    chosen = {index for indices in matches.values() for index in indices}
    return sorted(chosen)
