"""Stage 02: make a mirror of an image folder with a generative model (dissertation, chapter 4).

    python 02_augment.py inpaint   --data ROOT/train --out gen/inpaint
    python 02_augment.py outpaint  --data ROOT/train --out gen/outpaint
    python 02_augment.py noise     --data ROOT/train --out gen/noise
    python 02_augment.py diffusion --data ROOT/train --out gen/diffusion --captions captions.jsonl
    torchrun --standalone --nproc_per_node=4 02_augment.py inpaint --data ROOT/train --out gen/new

Images are generated once, before the training, and stored. Under torchrun several GPUs share the
work.

Reads any folder tree of images. Writes, for every image CLASS/name.jpg, OUT/view0/CLASS/name.jpg
and, where a strategy makes several views, OUT/view1 and so on: JPEG of quality 95 4:4:4, PNG below
128 px. Beside them stand OUT/augment.json (arguments, sha256 of the weights, versions),
OUT/samples.png to look at and, if images could not be read, OUT/failed.jsonl, which names them.

The noise of a view depends only on the seed, the image's path and the view. An interrupted run
continues with the same command. A later command may add views to the same mirror: more of --views,
other --positions or --strength.
"""

import json
import os
from pathlib import Path

from augment.registry import STRATEGIES
from base import cli, parallel, run, run_folder

# Flags that only choose which views are made: a later command may add others to a mirror.
CHOOSE_VIEWS = {"views", "positions", "strength"}


def arguments(argv=None):
    p = cli.parser(__doc__)
    commands = p.add_subparsers(dest="strategy", required=True, metavar=" | ".join(STRATEGIES))
    for name, entry in STRATEGIES.items():
        c = cli.subparser(commands, name, entry.sentence)
        c.add_argument("--data", required=True, help="folder tree of images")
        c.add_argument("--out", required=True, help="folder of the mirror")
        entry.add_arguments(c)
        cli.numbers(
            c,
            batch_size=(
                cli.positive,
                32,
                "images that a process generates at a time; as many as fit into the GPU's memory",
            ),
            seed=(int, 0, "seed of all noise"),
        )
        cli.device_arguments(c, workers=4)
    return p.parse_args(argv)


if __name__ == "__main__":
    args = arguments()

import functools
import glob
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from images.files import evenly, find_images, read_ahead, read_failures, stem_of
from images.pictures import contact_sheet, square, stored_suffix, write_image
from images.read import UnreadableImage, read_image
from images.unreadable import allowed, check_failed, why_unreadable


# ---------------------------------------------------------------- what there is
def note(args, strategy):
    """Write augment.json, or check that the mirror there was made in the same way (process 0).

    augment.json keeps every view that any command asked for.
    """
    path = Path(args.out, "augment.json")
    free = run_folder.MAY_CHANGE | CHOOSE_VIEWS
    identity = {
        "stage": f"02_augment {args.strategy}",
        "args": {name: value for name, value in vars(args).items() if name not in free},
        "inputs": strategy.record,
    }
    extra = {
        "strategy": args.strategy,
        "parameters": strategy.parameters,
        "versions": run_folder.versions(),
    }
    run_folder.write_or_check(path, identity, "a mirror of this project", extra)
    noted = run.read_json(path)
    for name in CHOOSE_VIEWS & vars(args).keys():
        new = getattr(args, name)
        old = noted["args"].get(name, new)
        noted["args"][name] = sorted({*old, *new}) if isinstance(new, list) else max(old, new)
    run.write_json(path, noted)


def known_failures(args):
    """{path: why} from an earlier run, without images that are gone or have been mended."""
    failed = {}
    for path, reason in read_failures(args.out).items():
        image = Path(args.data, path)
        if os.path.lexists(image) and why_unreadable(image):
            failed[path] = reason
    return failed


def unfinished_batches(folder, paths, batch_size, suffix, failed):
    """Numbers of the batches of which `folder`, one view, lacks an image.

    A batch is `batch_size` successive paths, the same in every run, so that a batch that was
    interrupted is generated again as it was.
    """
    made = set()
    for name in glob.glob(f"**/*{suffix}", root_dir=folder, recursive=True):
        if os.path.getsize(f"{folder}/{name}"):  # a power cut may leave an empty file
            made.add(name)
    numbers = set()
    for i, path in enumerate(paths):
        if stem_of(path) + suffix not in made and path not in failed:
            numbers.add(i // batch_size)
    return numbers


# ---------------------------------------------------------------- reading and writing
def read_batch(paths, root, read):
    """Paths -> (readable paths, their images, {path: why it is unreadable}).

    Images are one uint8 tensor (B, S, S, 3), or None if not one of them could be read.
    """
    images = {}
    failed = {}
    for path in paths:
        try:
            images[path] = read(Path(root, path))
        except UnreadableImage as error:
            failed[path] = str(error)
    stacked = torch.from_numpy(np.stack(list(images.values()))) if images else None
    return list(images), stacked, failed


def write_missing(pair):
    """Write an image (file, uint8 array) unless an earlier run has."""
    file, image = pair
    if not file.exists() or not file.stat().st_size:
        write_image(file, image)


# ---------------------------------------------------------------- main
def main(args, device):
    run.keep_apart(args.data, out=args.out)
    out = Path(args.out)
    paths = find_images(args.data)
    strategy = STRATEGIES[args.strategy].build(args, device)
    suffix = stored_suffix(strategy.size)

    # ---- what is left to do: process 0 looks, for all
    state = None
    if parallel.rank() == 0:
        note(args, strategy)
        failed = known_failures(args)
        work = set()
        for view in strategy.views:
            work |= unfinished_batches(out / view, paths, args.batch_size, suffix, failed)
        state = failed, sorted(work)
    failed, work = parallel.everyone(state)[0]
    limit = allowed(args.max_unreadable, len(paths))
    if work and strategy.prepare:
        strategy.prepare()

    # ---- generate, and write in threads beside the device
    def dealt_batches():
        for number in parallel.deal(work, "batches"):
            first = number * args.batch_size
            yield paths[first : first + args.batch_size]

    read = functools.partial(read_batch, root=args.data, read=strategy.read)
    batches = read_ahead(dealt_batches(), read, min(args.workers, len(work)), device)
    bar = run.progress(len(work) // parallel.world(), f"{args.strategy}, batches")
    with ThreadPoolExecutor(4) as pool:
        writing = ()
        for readable, images, unreadable in batches:
            failed |= unreadable
            if len(failed) > limit:
                break
            if readable:
                generated = strategy.generate(images, readable).flatten(0, 1).numpy()
                list(writing)  # waits for the batch before this one, and raises its errors
                names = [stem_of(path) + suffix for path in readable]
                files = [out / view / name for view in strategy.views for name in names]
                writing = pool.map(write_missing, zip(files, generated, strict=True))
            bar.update()
        list(writing)
    bar.close()

    # ---- report
    failed = parallel.union(failed)
    if parallel.rank() == 0:
        lines = [json.dumps({"path": path, "reason": failed[path]}) for path in sorted(failed)]
        run.write_text(out / "failed.jsonl", "\n".join([*lines, ""]))
        if not failed:
            (out / "failed.jsonl").unlink()
    check_failed(failed, len(paths), args.max_unreadable)
    if parallel.rank() == 0:
        if work or not (out / "samples.png").exists():
            good = [path for path in paths if path not in failed]
            rows = []
            for path in evenly(good, 6):
                original = square(read_image(Path(args.data, path)), strategy.size)
                name = stem_of(path) + suffix
                rows.append([original, *(read_image(out / view / name) for view in strategy.views)])
            contact_sheet(out / "samples.png", rows, ["original", *strategy.views])
        if not work:
            done = len(paths) - len(failed)
            print(f"{out} is finished: {done} images, {len(strategy.views)} views each")
        if failed:
            run.warn(
                f"{len(failed)} of {len(paths)} images could not be read; {out / 'failed.jsonl'} "
                "names them."
            )


if __name__ == "__main__":
    run.launch(main, args)
