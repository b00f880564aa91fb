"""Sheets of images beside what becomes of them, as the dissertation's figures show them.

    python recipes/sheets.py handcrafted --data FOLDER --out figure13.png
    python recipes/sheets.py mirrors --data FOLDER --out figure26.png --mirrors gen/outpaint/view0

mirrors      each image beside its generated ones, one column for each view folder of --mirrors
handcrafted  each image under the nine augmentations of Figure 13, and solarization
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # makes `models` importable

from base import cli, run  # noqa: E402


def arguments(argv=None):
    p = cli.parser(__doc__)
    commands = p.add_subparsers(dest="sheet", required=True, metavar="mirrors | handcrafted")
    mirrors = cli.subparser(commands, "mirrors", "Images beside their generated ones.")
    handcrafted = cli.subparser(commands, "handcrafted", "Images under each augmentation.")
    for c in (mirrors, handcrafted):
        c.add_argument("--data", required=True, help="folder tree of images")
        c.add_argument("--out", required=True, metavar="FILE.png", help="the sheet")
        c.add_argument(
            "--images", type=cli.positive, default=6, metavar="N", help="images, each a row"
        )
    mirrors.add_argument(
        "--mirrors", nargs="+", required=True, metavar="FOLDER", help="view folders of mirrors"
    )
    mirrors.add_argument(
        "--titles", nargs="+", metavar="TITLE", help="text above the columns (default: the folders)"
    )
    handcrafted.add_argument(
        "--size", type=cli.positive, default=256, metavar="PX", help="side of an image"
    )
    handcrafted.add_argument("--seed", type=int, default=0, help="seed of the random choices")
    return p.parse_args(argv)


if __name__ == "__main__":
    args = arguments()

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image, ImageOps  # noqa: E402

from augment.real_images import handcrafted  # noqa: E402
from augment.strategy import read_square  # noqa: E402
from images.files import find_images  # noqa: E402
from images.pairs import generated_suffixes  # noqa: E402
from images.pictures import contact_sheet  # noqa: E402
from images.read import read_image  # noqa: E402


# ---------------------------------------------------------------- Figure 13
def rotation(image, rng):
    turned = Image.fromarray(image).rotate(rng.uniform(-45, 45), Image.Resampling.BICUBIC)
    return np.asarray(turned)


def cutout(image, rng):
    """A black square of a quarter of the side."""
    image = image.copy()
    side = len(image) // 4
    top, left = rng.integers(len(image) - side, size=2)
    image[top : top + side, left : left + side] = 0
    return image


def gaussian_noise(image, rng):
    return (image + rng.normal(0, 25, image.shape)).clip(0, 255).astype(np.uint8)


def sobel(image, rng):
    """The magnitude of the gradient, in shares of the largest."""
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    magnitude = np.hypot(cv2.Sobel(gray, -1, 1, 0), cv2.Sobel(gray, -1, 0, 1))
    levels = (255 * magnitude / max(magnitude.max(), 1)).astype(np.uint8)
    return np.repeat(levels[..., None], 3, 2)


def by_pillow(change):
    """A change of a Pillow image as one of an array."""
    return lambda image, rng: np.asarray(change(Image.fromarray(image)).convert("RGB"))


AUGMENTATIONS = {
    "flipping": by_pillow(ImageOps.mirror),
    "grayscale": by_pillow(ImageOps.grayscale),
    "rotation": rotation,
    "cutout": cutout,
    "Gaussian noise": gaussian_noise,
    "Sobel filtering": sobel,
    "solarization": by_pillow(ImageOps.solarize),
}


def augmented(args, paths):
    """{title: images}: the augmentations of stage 02, then those that stand here."""
    originals = squares(args, paths, args.size)
    images = torch.from_numpy(np.stack(originals))
    columns = {"original": originals}
    for title, name in {"cropping": "crop", "color jitter": "jitter", "blur": "blur"}.items():
        columns[title] = handcrafted(name, args, None).generate(images, paths)[0].numpy()
    for title, change in AUGMENTATIONS.items():
        columns[title] = []
        for path, image in zip(paths, originals, strict=True):
            columns[title].append(change(image, run.seed_rng(args.seed, path, title)))
    return columns


# ---------------------------------------------------------------- mirrors
def generated(args, paths):
    """{title: images} of the view folders."""
    titles = args.titles or args.mirrors
    if len(titles) != len(args.mirrors):
        run.fail("--titles needs one title for each of --mirrors.", 2)
    suffixes, failed = generated_suffixes(paths, args.mirrors)
    if failed:
        run.fail(f"{paths[min(failed)]} cannot be read: {failed[min(failed)]}")
    columns = {"original": []}
    for k, (title, folder) in enumerate(zip(titles, args.mirrors, strict=True)):
        columns[title] = []
        for path, suffix in zip(paths, suffixes[k], strict=True):
            file = path.rpartition(".")[0] + suffix.decode()
            columns[title].append(read_image(Path(folder, file)))
    columns["original"] = squares(args, paths, len(columns[titles[0]][0]))
    return columns


def squares(args, paths, size):
    """The original images as squares."""
    return [read_square(Path(args.data, path), size) for path in paths]


def main(args, device):
    paths = find_images(args.data)
    paths = paths[:: max(1, len(paths) // args.images)][: args.images]
    columns = augmented(args, paths) if args.sheet == "handcrafted" else generated(args, paths)
    rows = [list(row) for row in zip(*columns.values(), strict=True)]
    cell = min(160, max(64, len(columns["original"][0])))
    contact_sheet(args.out, rows, list(columns), cell=cell)
    print(f"{args.out} is written")


if __name__ == "__main__":
    run.launch(main, args)
