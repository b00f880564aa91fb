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


def arguments(argv=None):
    p = cli.parser(__doc__)
    commands = p.add_subparsers(dest="strategy", required=True, metavar=" | ".join(STRATEGIES))
    for name, entry in STRATEGIES.items():
        c = cli.subparser(commands, name, entry.sentence)
        c.add_argument("--data", required=True, metavar="FOLDER", help="folder tree of images")
        c.add_argument("--out", required=True, metavar="FOLDER", help="folder of the mirror")
        entry.add_arguments(c)
        c.add_argument(
            "--batch-size",
            type=cli.positive,
            default=32,
            metavar="N",
            help="images that a process generates at a time; as many as fit into the GPU's memory",
        )
        c.add_argument("--seed", type=int, default=0, metavar="N", help="seed of all noise")
        cli.device_arguments(c, workers=4)
    return p.parse_args(argv)


if __name__ == "__main__":
    args = arguments()

import functools
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from images.files import find_images, read_ahead, read_failures
from images.pictures import contact_sheet, square, stored_suffix, write_image
from images.read import UnreadableImage, read_image
from images.unreadable import allowed, say, too_many


# ---------------------------------------------------------------- what there is
def note(args, strategy):
    """Write augment.json, or check that the mirror there was made in the same way (process 0).

    augment.json keeps every view that any command asked for.
    """
    path = Path(args.out, "augment.json")
    choose_views = STRATEGIES[args.strategy].choose_views
    free = {*run_folder.MAY_CHANGE, *choose_views}
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
    for name in choose_views:
        value = getattr(args, name)
        noted["args"][name] = union(noted["args"].get(name, value), value)
    run.write_json(path, noted)


def union(old, new):
    """Of two numbers of views the larger one, of two lists of views all that are in either."""
    if isinstance(new, list):
        return sorted({*old, *new})
    return max(old, new)


def known_failures(args):
    """{path: why} from an earlier run, without images that are gone or have been mended."""
    failed = {}
    for path, reason in read_failures(args.out).items():
        image = Path(args.data, path)
        try:
            if os.path.lexists(image):
                read_image(image)
        except UnreadableImage:
            failed[path] = reason
    return failed


def stored_name(path, suffix):
    """The image CLASS/name.jpg is stored as CLASS/name with the suffix of generated images."""
    return path.rpartition(".")[0] + suffix


def unfinished_batches(folder, paths, batch_size, suffix, failed):
    """Numbers of the batches of which `folder`, one view, lacks an image. Lists folder by folder.

    A batch is `batch_size` successive paths, the same in every run, so that a batch that was
    interrupted is generated again as it was.
    """

    @functools.lru_cache(maxsize=16)
    def names(inner):
        try:
            return set(os.listdir(f"{folder}/{inner}"))
        except FileNotFoundError:
            return set()

    numbers = set()
    for i, path in enumerate(paths):
        inner, _, name = stored_name(path, suffix).rpartition("/")
        if name not in names(inner) and path not in failed:
            numbers.add(i // batch_size)
    return numbers


def work_to_do(args, strategy, paths, suffix, failed):
    """[(number of a batch, the views that it lacks)], in the order of the batches."""
    lacking = {}
    for view in strategy.views:
        folder = Path(args.out, view)
        for number in unfinished_batches(folder, paths, args.batch_size, suffix, failed):
            lacking.setdefault(number, []).append(view)
    return sorted(lacking.items())


# ---------------------------------------------------------------- reading
def read_batch(item, root, read):
    """(position, paths) -> (position, readable paths, their images, {path: why it is unreadable}).

    Images are one uint8 tensor (B, S, S, 3), or None if not one of them could be read.
    """
    position, paths = item
    images = {}
    failed = {}
    for path in paths:
        try:
            images[path] = read(Path(root, path))
        except UnreadableImage as error:
            say(error)
            failed[path] = str(error)
    stacked = None
    if images:
        stacked = torch.from_numpy(np.stack(list(images.values())))
    return position, list(images), stacked, failed


# ---------------------------------------------------------------- writing
def wait_for(writing):
    """Wait for the writing threads; an error of one of them is raised here."""
    for write in writing:
        write.result()


def write_failures(file, failed):
    """failed.jsonl: one line for each image that could not be read; no file if there is none."""
    lines = [json.dumps({"path": path, "reason": failed[path]}) + "\n" for path in sorted(failed)]
    if lines:
        run.write_text(file, "".join(lines))
    else:
        file.unlink(missing_ok=True)


def draw_sheet(out, data, strategy, paths):
    """samples.png: originals beside their generated views."""
    suffix = stored_suffix(strategy.size)
    rows = []
    for path in paths:
        row = [square(read_image(Path(data, path)), strategy.size)]
        row += [read_image(out / view / stored_name(path, suffix)) for view in strategy.views]
        rows.append(row)
    contact_sheet(out / "samples.png", rows, ["original", *strategy.views])


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
        state = failed, work_to_do(args, strategy, paths, suffix, failed)
    failed, work = parallel.everyone(state)[0]
    limit = allowed(args.max_unreadable, len(paths))
    if len(failed) > limit:
        work = []
    if work and strategy.prepare:
        strategy.prepare()

    # ---- generate, and write in threads beside the device
    def dealt_batches():
        for position in parallel.deal(range(len(work)), "batches"):
            first = work[position][0] * args.batch_size
            yield position, paths[first : first + args.batch_size]

    read = functools.partial(read_batch, root=args.data, read=strategy.read)
    workers = min(args.workers, len(work))
    bar = run.progress(len(work), f"{args.strategy}, batches")
    with ThreadPoolExecutor(4) as pool:
        writing = []
        for position, readable, images, unreadable in read_ahead(
            dealt_batches(), read, workers, device
        ):
            failed |= unreadable
            if len(failed) > limit:
                break
            made = dict.fromkeys(strategy.views, ())
            if readable:
                generated = strategy.generate(images, readable).numpy()
                made = dict(zip(strategy.views, generated, strict=True))
            wait_for(writing)  # for the batch before this one
            writing = []
            for view in work[position][1]:
                for path, image in zip(readable, made[view], strict=True):
                    file = out / view / stored_name(path, suffix)
                    writing.append(pool.submit(write_image, file, image))
            # Batches are dealt in order: those before this one are done, or nearly.
            bar.update(position + 1 - bar.n)
        wait_for(writing)
    bar.close()

    # ---- report
    for failed_there in parallel.everyone(failed):
        failed |= failed_there
    if parallel.rank() == 0:
        write_failures(out / "failed.jsonl", failed)
    if len(failed) > limit:
        parallel.barrier()
        where = out / "failed.jsonl"
        run.fail(f"{too_many(failed, len(paths), args.max_unreadable, where)}.")
    if parallel.rank() == 0:
        good = [path for path in paths if path not in failed]
        if good and (work or not (out / "samples.png").exists()):
            step = math.ceil(len(good) / 6)
            draw_sheet(out, args.data, strategy, good[::step])
        if not work:
            print(f"{out} is finished: {len(good)} images, {len(strategy.views)} views each")
        if failed:
            run.warn(
                f"{len(failed)} of {len(paths)} images could not be read; {out / 'failed.jsonl'} "
                "names them."
            )
    parallel.barrier()


if __name__ == "__main__":
    run.launch(main, args)
