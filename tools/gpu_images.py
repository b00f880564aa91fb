"""Write random cuts of two photographs as a folder of 32 px images, where CIFAR-10 is not at hand.

    python tools/gpu_images.py OUT

Used by gpu_session.sh. OUT/train and OUT/val each hold two classes, one for each photograph.
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[1:1] = [str(ROOT)]  # for a start as a file

from sklearn.datasets import load_sample_images

from base.run import seed_rng
from images.pictures import write_image

SIDE = 32  # pixels


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--each", type=int, default=4000, help="training images of a class")
    args = parser.parse_args()
    for label, photo in enumerate(load_sample_images().images):
        for split, number in (("train", args.each), ("val", args.each // 4)):
            rng = seed_rng(0, split, label)
            for i in range(number):
                top, left = rng.integers(0, [photo.shape[0] - SIDE, photo.shape[1] - SIDE])
                cut = photo[top : top + SIDE, left : left + SIDE]
                write_image(args.out / split / str(label) / f"{i:05d}.png", cut)


if __name__ == "__main__":
    main()
