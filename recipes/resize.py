"""Writes an image folder again as squares of one size, so that all stages see the same pixels.

    python recipes/resize.py --data /path/to/wildfire --out data/wildfire-128 --size 128

writes OUT/PATH.png for every DATA/PATH.jpg (any type): the shorter side resized to --size, the
centre square. PNG loses nothing more. The same command again makes what is missing. Images that
cannot be read are left out, in all stages alike, and OUT/failed.jsonl names them.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # makes `models` importable

from base import run, run_folder  # noqa: E402


def arguments(argv=None):
    p = run.parser(__doc__)
    p.add_argument("--data", required=True, help="folder tree of images")
    p.add_argument("--out", required=True, help="folder of the squares")
    p.add_argument(
        "--size", type=run.positive, required=True, metavar="PX", help="side of a square in pixels"
    )
    run.device_arguments(p)
    return p.parse_args(argv)


if __name__ == "__main__":
    args = arguments()

import functools  # noqa: E402
import json  # noqa: E402

from augment.strategy import read_square  # noqa: E402
from images.files import find_images, read_ahead  # noqa: E402
from images.pictures import write_image  # noqa: E402
from images.read import UnreadableImage  # noqa: E402


def resize(path, data, out, size):
    """Write one image's square, unless it is there; returns why that is impossible, or ""."""
    file = Path(out, path).with_suffix(".png")
    if file.exists():
        return ""
    try:
        image = read_square(Path(data, path), size)
    except UnreadableImage as error:
        return str(error)
    write_image(file, image)
    return ""


def main(args, device):
    run.keep_apart(args.data, out=args.out)
    paths = find_images(args.data)
    about = {"stage": "recipes/resize", "args": {"data": args.data, "size": args.size}}
    run_folder.write_or_check(Path(args.out, "resize.json"), about, "a folder of resized images")
    resize_one = functools.partial(resize, data=args.data, out=args.out, size=args.size)
    failures = []
    with run.progress(len(paths), "resizing") as bar:
        reasons = read_ahead(paths, resize_one, args.workers, device)
        for path, reason in zip(paths, reasons, strict=True):
            if reason:
                failures.append(json.dumps({"path": path, "reason": reason}) + "\n")
            bar.update()
    listed = Path(args.out, "failed.jsonl")
    run.write_text(listed, "".join(failures))
    print(f"{args.out}: {len(paths) - len(failures)} images of {args.size} px")
    if failures:
        run.warn(f"{len(failures)} images could not be read and are left out: {listed} names them.")


if __name__ == "__main__":
    run.launch(main, args)
