"""Writes CIFAR-10, or a part of it, as an image folder.

    python recipes/cifar10.py --out data/cifar10                      fetched: 170 MB
    python recipes/cifar10.py --out data/cifar10 --images /my/cifar   from a folder of image files

writes OUT/{train,val}/CLASS/00001.png (RGB, 32 x 32 px) and OUT/cifar10.json (arguments and
counts): 50,000 training images and the 10,000 test images as val. A part holds the first images of
each class. OUT appears only when it is complete.

Images: Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/cifar.html. torchvision fetches
cifar-10-python.tar.gz and checks its MD5 sum. A copy in --archive is used where it is there.
A folder is FOLDER/train/CLASS/* and FOLDER/val/CLASS/*, or FOLDER/test/CLASS/*, of PNG or JPEG.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # makes `models` importable

from base import run  # noqa: E402

SIDE = 32  # pixels


def arguments(argv=None):
    p = run.parser(__doc__)
    p.add_argument("--out", required=True, help="folder to make; it must be new or empty")
    p.add_argument(
        "--archive",
        default="data/archives",
        metavar="DIR",
        help="folder of cifar-10-python.tar.gz; it is fetched if it is not there",
    )
    p.add_argument("--images", metavar="FOLDER", help="folder of image files to take instead")
    p.add_argument(
        "--limit",
        type=run.positive,
        nargs=2,
        metavar=("TRAIN", "VAL"),
        help="largest numbers of images of a class",
    )
    return p.parse_args(argv)


if __name__ == "__main__":
    args = arguments()

from embedded import make_once  # noqa: E402
from PIL import Image  # noqa: E402

from images import files, read  # noqa: E402


def fetched(archive):
    """{split: [(class, uint8 (32, 32, 3))]} of the published archive, fetched if need be."""
    from torchvision.datasets import CIFAR10

    splits = {}
    for split in ("train", "val"):
        try:
            found = CIFAR10(archive, train=split == "train", download=True)
        except (OSError, RuntimeError) as error:
            run.fail(
                f"CIFAR-10 cannot be had ({error}). Without a network, put cifar-10-python.tar.gz "
                f"into {archive}, or give a folder of images by --images."
            )
        names = [found.classes[label] for label in found.targets]
        splits[split] = zip(names, found.data, strict=True)
    return splits


def of_folder(folder):
    """{split: [(class, uint8 (32, 32, 3))]} of a folder of image files."""
    test = "val" if (Path(folder) / "val").is_dir() else "test"
    return {"train": of_split(Path(folder, "train")), "val": of_split(Path(folder, test))}


def of_split(folder):
    for path in files.find_images(folder):
        image = read.read_image(folder / path)
        if image.shape[:2] != (SIDE, SIDE):
            height, width = image.shape[:2]
            run.fail(f"{folder / path} is {width} x {height} px: CIFAR-10 is {SIDE} x {SIDE}.", 2)
        yield files.class_of(path), image


def main(args):
    def make(folder):
        splits = of_folder(args.images) if args.images else fetched(args.archive)
        most = dict(zip(splits, args.limit or (None, None), strict=True))
        counts = {}
        for split, labelled in splits.items():
            counts[split] = {}
            for name, image in labelled:
                number = counts[split].get(name, 0)
                if number == most[split]:
                    continue
                path = folder / split / name / f"{number:05d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image).save(path)
                counts[split][name] = number + 1
        return counts

    make_once(args.out, "cifar10.json", {"limit": args.limit, "images": args.images}, make)


if __name__ == "__main__":
    main(args)
