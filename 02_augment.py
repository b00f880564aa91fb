"""Stage 02: make a mirror of an image folder with a generative model (dissertation, chapter 4).

    python 02_augment.py inpaint   --data ROOT/train --out gen/inpaint
    python 02_augment.py outpaint  --data ROOT/train --out gen/outpaint
    python 02_augment.py noise     --data ROOT/train --out gen/noise
    python 02_augment.py diffusion --data ROOT/train --out gen/diffusion --captions captions.jsonl
    torchrun --standalone --nproc_per_node=4 02_augment.py inpaint --data ROOT/train --out gen/inpaint

Generation happens once, before the training, and is stored: the same command under torchrun shares it out.
Reads any folder tree of images. Writes, for every image CLASS/name.jpg, OUT/view0/CLASS/name.jpg (view1 ...
where a strategy makes several views; JPEG quality 95 4:4:4, PNG below 128 px), OUT/augment.json (all
arguments, weights and their sha256, versions), OUT/samples.png to look at and, if images could not be
read, OUT/failed.jsonl, which names them.

The noise of a view depends only on (seed, path, view). An interrupted run continues with the same command:
finished batches are not touched again.
"""

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from models.augmenters import STRATEGIES
from models.old_run import (
    FREE,
    barrier,
    claim,
    count,
    device_arguments,
    parser,
    progress,
    rank,
    run_main,
    start,
    subparser,
    versions,
    world,
)

MANUAL = {
    "inpaint": "Mask tokens, predict them with MaskGIT: the dissertation's best strategy.",
    "outpaint": "Shrink, lay on a blank canvas, predict the surroundings with MaskGIT.",
    "noise": "Encode, draw new noise, generate with IC-GAN.",
    "diffusion": "Add noise, denoise with SDXL-Turbo and a caption.",
}


def arguments(argv=None):
    p = parser(__doc__)
    commands = p.add_subparsers(dest="strategy", required=True, metavar=" | ".join(STRATEGIES))
    for name, (add_arguments, _) in STRATEGIES.items():
        c = subparser(commands, name, MANUAL[name])
        c.add_argument("--data", required=True, help="folder tree of images")
        c.add_argument("--out", required=True, help="folder of the mirror")
        add_arguments(c)
        c.add_argument(
            "--batch-size",
            type=count,
            default=32,
            help="images a batch and process; as many as fit",
        )
        c.add_argument("--seed", type=int, default=0)
        device_arguments(c, workers=4)
    return p.parse_args(argv)


if __name__ == "__main__":
    args = arguments()

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from models.images import contact_sheet, find_images, read_image, square, stored_suffix, write_image


class Batches(Dataset):
    """batch number -> (paths, uint8 (B, S, S, 3), {path: why it cannot be read}): a worker reads a whole batch."""

    def __init__(self, root, batches, read):
        self.root, self.batches, self.read = Path(root), batches, read

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, number):
        images, failed = {}, {}
        for path in self.batches[number]:
            try:
                images[path] = self.read(self.root / path)
            except OSError as error:
                failed[path] = str(error)
        stacked = torch.from_numpy(np.stack(list(images.values()))) if images else None
        return list(images), stacked, failed


def unreadable(out, root):
    """{path: reason} of an earlier run's failed.jsonl, but for images that have been mended since."""
    failed = {}
    if (out / "failed.jsonl").exists():
        for line in map(json.loads, (out / "failed.jsonl").read_text().splitlines()):
            try:
                read_image(Path(root) / line["path"])
            except OSError:
                failed[line["path"]] = line["reason"]
    return failed


def main(args):
    device = start(args)
    out, paths = Path(args.out), find_images(args.data)
    strategy = STRATEGIES[args.strategy][1](args, device)
    if rank() == 0:
        identity = {
            "stage": f"02_augment {args.strategy}",
            "strategy": args.strategy,
            "args": {k: v for k, v in vars(args).items() if k not in {*FREE, "out"}},
            "about": strategy.about,
        }
        claim(out / "augment.json", identity, "a mirror of this project", {"versions": versions()})
    barrier()

    # ---- what is left to do: fixed batches of the sorted list, an unfinished one is redone whole
    suffix = stored_suffix(strategy.size)
    failed = unreadable(out, args.data)
    there = {
        str(file.relative_to(out))
        for view in strategy.views
        for file in (out / view).rglob(f"*{suffix}")
    }

    def target(view, path):
        return f"{view}/{path.rsplit('.', 1)[0]}{suffix}"

    batches = [paths[i : i + args.batch_size] for i in range(0, len(paths), args.batch_size)]
    batches = [
        batch
        for batch in batches
        if any(
            target(view, path) not in there
            for view in strategy.views
            for path in batch
            if path not in failed
        )
    ]
    barrier()  # every process has looked before one writes
    mine = batches[rank() :: world()]

    # ---- generate, writing in threads behind the device
    bar = progress(len(paths), args.strategy, len(paths) - sum(map(len, batches)))
    loader = DataLoader(
        Batches(args.data, mine, strategy.read),
        batch_size=None,
        num_workers=args.workers,
        pin_memory=device.type == "cuda",
    )
    with ThreadPoolExecutor(4) as pool:
        writing = []
        for chosen, images, unread in loader:
            failed |= unread
            views = strategy.generate(images, chosen).numpy() if chosen else ()
            for done in writing:  # the batch before this one; an error of a thread surfaces here
                done.result()
            writing = [
                pool.submit(write_image, out / target(view, path), views[v][i])
                for v, view in enumerate(strategy.views)
                for i, path in enumerate(chosen)
                if len(views)
            ]
            bar.update((len(chosen) + len(unread)) * world())
        for done in writing:
            done.result()
    bar.close()

    # ---- report
    if world() > 1:
        everyone = [None] * world()
        torch.distributed.all_gather_object(everyone, failed)
        failed = {path: reason for part in everyone for path, reason in part.items()}
    if rank() == 0:
        (out / "failed.jsonl").unlink(missing_ok=True)
        if failed:
            lines = [
                json.dumps({"path": path, "reason": failed[path]}) + "\n" for path in sorted(failed)
            ]
            (out / "failed.jsonl").write_text("".join(lines))
        good = [path for path in paths if path not in failed]
        if good and (batches or not (out / "samples.png").exists()):
            draw_sheet(out, args.data, strategy, good[:: -(-len(good) // 6)], target)
        if not batches:
            print(f"{out} is finished: {len(good)} images, {len(strategy.views)} views each")
    barrier()
    if failed:
        if rank() == 0:
            print(
                f"{len(failed)} of {len(paths)} images could not be read; {out / 'failed.jsonl'} names them.",
                file=sys.stderr,
            )
        raise SystemExit(1)


def draw_sheet(out, root, strategy, chosen, target):
    """samples.png: some originals beside what the strategy makes of them."""
    if strategy.sheet:
        images = torch.from_numpy(np.stack([strategy.read(Path(root) / path) for path in chosen]))
        titles, rows, labels = strategy.sheet(images, chosen)
    else:
        titles, labels = ["original", *strategy.views], ()
        rows = [
            [
                square(read_image(Path(root) / path), strategy.size),
                *(read_image(out / target(view, path)) for view in strategy.views),
            ]
            for path in chosen
        ]
    contact_sheet(out / "samples.png", rows, titles, labels)


if __name__ == "__main__":
    run_main(main, args)
