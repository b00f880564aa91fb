"""Stage 07: what the augmentations do to images, what they cost, and all results beside the dissertation's.

    python 07_metrics.py fid ROOT/train gen/inpaint/view0           Frechet Inception Distance of two folders
    python 07_metrics.py ssim ROOT/train gen/inpaint/view0 --size 256   structural similarity, image by image
    python 07_metrics.py cost --data ROOT/train --out runs/cost     Table 6: both, with latency and parameters
    python 07_metrics.py report runs                                Tables 3-7, Figures 30, 31 and 33
    torchrun --standalone --nproc_per_node=4 07_metrics.py fid A B  fid and cost share the images out

fid and cost need the FID Inception weights (looked for in $GCL_WEIGHTS or ~/.cache/gcl, then downloaded);
--features PATH takes the features of any backbone instead. The statistics of a folder are kept beside it.
"""

import hashlib
import json
import shlex
import sys
import time
from pathlib import Path

from models.augmenters import STRATEGIES
from models.old_run import (
    atomic,
    autocast,
    barrier,
    count,
    device_arguments,
    fail,
    file_hash,
    open_run,
    parser,
    progress,
    rank,
    read_json,
    read_log,
    run_main,
    seed_rng,
    start,
    subparser,
    world,
    write_json,
)

HANDCRAFTED = {"crop": {"scale": (0.08, 1.0)}, "jitter": {"jitter_p": 1.0}, "blur": {"blur": 1.0}}
AUGMENTATIONS = ["noise", "inpaint", "outpaint", "diffusion", *HANDCRAFTED]  # the order of Table 6
SIZE = 256  # Table 6 is measured at this side


def features_arguments(p):
    p.add_argument(
        "--features",
        default="inception",
        metavar="PATH",
        help="inception, or a run folder or weight file of a backbone: the Frechet distance in its "
        "features, more telling for images unlike ImageNet's; random: an untrained ResNet-50",
    )
    p.add_argument(
        "--weights",
        metavar="FILE",
        help="pt_inception-2015-12-05-6726825d.pth, if not in the cache",
    )
    device_arguments(p)
    p.set_defaults(precision="fp32")  # published values are float32


def arguments(argv=None):
    p = parser(__doc__)
    commands = p.add_subparsers(dest="command", required=True, metavar="fid | ssim | cost | report")
    c = subparser(
        commands,
        "fid",
        "Frechet Inception Distance of A and B: folders, or .npz files with mu and sigma.",
    )
    c.add_argument("a", metavar="A")
    c.add_argument(
        "b",
        metavar="B",
        help="a view of a mirror must have the same images as A; other folders need not",
    )
    c.add_argument(
        "--common", action="store_true", help="compare only the images that are in both folders"
    )
    c.add_argument(
        "--size",
        type=int,
        default=0,
        metavar="PX",
        help="take the centre square of each image first, resized to this side as 02_augment.py does; "
        "0: whole images, as pytorch-fid (a backbone then gets squares of its training's size)",
    )
    c.add_argument(
        "--cache",
        default="fid",
        metavar="NAME",
        help="the statistics of folder A are kept in A.NAME.npz",
    )
    c.add_argument("--batch-size", type=count, default=64, help="images a batch and process")
    features_arguments(c)

    c = subparser(
        commands, "ssim", "Mean structural similarity of the images of A and their namesakes in B."
    )
    c.add_argument("a", metavar="A")
    c.add_argument("b", metavar="B")
    c.add_argument(
        "--common", action="store_true", help="compare only the images that are in both folders"
    )
    c.add_argument(
        "--size",
        type=int,
        default=0,
        metavar="PX",
        help="take the centre square of each image first, "
        "resized to this side as 02_augment.py does; 0: images as they are, of equal size in A and B",
    )
    c.add_argument(
        "--out",
        metavar="DIR",
        help="for ssim.json, histogram.png, least_similar.png; without it B.ssim",
    )
    c.add_argument(
        "--least", type=count, default=8, metavar="K", help="least similar pairs on the sheet"
    )
    c.add_argument(
        "--workers",
        type=int,
        default=8,
        metavar="N",
        help="processes; 0: everything in the main process",
    )

    c = subparser(commands, "cost", "Table 6: FID, SSIM, time and parameters of each augmentation.")
    c.add_argument("--data", required=True, help="folder tree of images")
    c.add_argument(
        "--out", required=True, help="run folder; cost.json grows in it, finished rows are kept"
    )
    c.add_argument(
        "--augmentations",
        nargs="+",
        default=AUGMENTATIONS,
        choices=AUGMENTATIONS,
        metavar="NAME",
        help="any of " + " ".join(AUGMENTATIONS),
    )
    for name in STRATEGIES:
        c.add_argument(
            f"--{name}",
            default="",
            metavar="FLAGS",
            help=f"flags of 02_augment.py {name}, in quotes",
        )
    c.add_argument(
        "--images", type=count, default=1000, help="that are timed, one by one and in batches"
    )
    c.add_argument(
        "--compare",
        type=count,
        default=10000,
        metavar="N",
        help="images for FID and SSIM, spread over the folder (our choice; the dissertation: all). "
        "Below the 2048 features FID is unreliable",
    )
    c.add_argument(
        "--batch-size", type=count, default=32, help="images a batch where throughput is measured"
    )
    c.add_argument(
        "--runs",
        metavar="RUNS",
        help="folder of runs: top-1 and the training's speed are looked up there",
    )
    c.add_argument(
        "--pretrain-images-per-second",
        type=float,
        metavar="X",
        help="speed of pretraining, for the share of generation in 100 epochs (default: from RUNS' logs)",
    )
    c.add_argument(
        "--pretrain-gpus", type=count, default=1, metavar="N", help="on how many devices that was"
    )
    c.add_argument("--seed", type=int, default=0)
    features_arguments(c)

    c = subparser(
        commands, "report", "Every result.json below RUNS in the dissertation's tables and figures."
    )
    c.add_argument(
        "runs",
        metavar="RUNS",
        help="report.md, report.txt and figure30/31/33.png are written there. A run "
        "is placed by its settings and by a folder name in its path or its data's: imagenet, imagenet100, "
        "satellite, wildfire, table4, figure31, ...",
    )
    return p.parse_args(argv)


if __name__ == "__main__":
    args = arguments()

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from models.images import contact_sheet, find_images, read_image, square
from models.report import collect, cost_table, report
from models.ssim import structural_similarity


# ---------------------------------------------------------------- which images
def matched(a, b, common):
    """[(path in a, path in b)] of the images with the same relative path, extension aside."""
    if (Path(b) / "augment.json").exists():
        fail(f"{b} is the root of a mirror: give one of its views, such as {Path(b) / 'view0'}.", 2)
    of_a, of_b = ({path.rsplit(".", 1)[0]: path for path in find_images(root)} for root in (a, b))
    both = [stem for stem in of_a if stem in of_b]
    only = [
        (root, [path for stem, path in of.items() if stem not in other])
        for root, of, other in ((a, of_a, of_b), (b, of_b, of_a))
    ]
    if not both or (not common and len(of_a) + len(of_b) > 2 * len(both)):
        missing = "; ".join(
            f"{len(paths)} are only in {root}, such as {', '.join(paths[:3])}"
            for root, paths in only
            if paths
        )
        fail(
            f"{a} and {b} hold different images: {missing}. "
            + ("--common compares only what both have." if both else "None is in both.")
        )
    return [(of_a[stem], of_b[stem]) for stem in both]


class Batches(Dataset):
    """batch -> the images of its paths, stacked where they have the same size: [uint8 (B, H, W, 3), ...]."""

    def __init__(self, root, batches, size):
        self.root, self.batches, self.size = Path(root), batches, size

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, number):
        stacks = {}
        for path in self.batches[number]:
            image = read_image(self.root / path)
            image = square(image, self.size) if self.size else image
            stacks.setdefault(image.shape, []).append(image)
        return [torch.from_numpy(np.stack(images)) for images in stacks.values()]


def cut(items, size):
    """This process's share of the items, in batches."""
    return [items[i : i + size] for i in range(0, len(items), size)][rank() :: world()]


# ---------------------------------------------------------------- fid
def feature_network(args, device, size):
    """(forward: uint8 (B, H, W, 3) -> (B, width), width, side of the images or 0, settings that identify them)."""
    from models.features import normalise
    from models.inception import load_inception
    from models.resnet import load_backbone

    if args.features == "inception":
        network, path = load_inception(args.weights)
        width, name, digest = network.width, "inception", file_hash(path)
    else:
        network, width, info = load_backbone(args.features)
        size, name, digest = (
            size or info["args"].get("size", 224),
            info["architecture"],
            info["sha256"] or "random",
        )
    network = network.to(device, memory_format=torch.channels_last)

    @torch.inference_mode()
    def forward(images):
        with autocast(device, args.precision):
            images = images.to(device, non_blocking=True)
            return network(images if name == "inception" else normalise(images, device))

    return (
        forward,
        width,
        size,
        {"features": name, "weights": digest, "size": size, "precision": args.precision},
    )


def folder_statistics(root, paths, network, args, device):
    """(n, mean, covariance) of the features of the images, in one pass; kept in ROOT.NAME.npz if it is the whole
    folder."""
    from models.inception import Moments, read_statistics

    forward, width, size, settings = network
    listing = "\n".join(f"{path} {(Path(root) / path).stat().st_size}" for path in paths)
    settings = settings | {
        "images": f"{len(paths)} ({hashlib.blake2b(listing.encode(), digest_size=8).hexdigest()})"
    }
    cache = Path(root).resolve()
    cache = cache.with_name(f"{cache.name}.{args.cache}.npz")
    there = cache.exists()
    barrier()  # every process has looked before one writes
    if there and not args.common:
        return read_statistics(cache, settings, width)
    moments, batches = Moments(width, device), cut(paths, args.batch_size)
    loader = DataLoader(
        Batches(root, batches, size),
        batch_size=None,
        num_workers=args.workers,
        pin_memory=device.type == "cuda",
    )
    with progress(len(paths), Path(root).name) as bar:
        for stacks in loader:
            for images in stacks:
                moments.add(forward(images))
                bar.update(len(images) * world())
    n, mu, sigma = moments.result()
    if rank() == 0 and not args.common:
        try:
            with atomic(cache) as temporary:
                np.savez(temporary, mu=mu, sigma=sigma, n=n, settings=json.dumps(settings))
        except OSError as error:
            print(f"warning: the statistics of {root} could not be kept: {error}", file=sys.stderr)
    return n, mu, sigma


def unreliable(n, width, what):
    if rank() == 0 and n is not None and n < width:
        print(
            f"warning: {what} has {n} images, fewer than the {width} features: its covariance is singular and the "
            "Frechet distance unreliable (biased upwards).",
            file=sys.stderr,
        )


def fid(args):
    from models.inception import frechet_distance, read_statistics

    device = start(args)
    sides = [args.a, args.b]
    folders = [not side.endswith(".npz") for side in sides]
    if args.common and not all(folders):
        fail("--common needs two folders.", 2)
    if all(folders) and (
        args.common
        or (Path(args.b).resolve().parent / "augment.json").exists()
        or (Path(args.b) / "augment.json").exists()
    ):
        chosen = list(zip(*matched(args.a, args.b, args.common), strict=True))
    else:
        chosen = [
            find_images(side) if folder else None
            for side, folder in zip(sides, folders, strict=True)
        ]
    network = feature_network(args, device, args.size)
    _, width, _, settings = network
    found = []
    for side, paths in zip(sides, chosen, strict=True):
        found.append(
            folder_statistics(side, paths, network, args, device)
            if paths
            else read_statistics(side, settings, width)
        )
        unreliable(found[-1][0], width, side)
    if rank() == 0:
        value = frechet_distance(*found[0][1:], *found[1][1:])
        name = (
            "FID"
            if settings["features"] == "inception"
            else f"Frechet distance ({settings['features']} features)"
        )
        print(
            f"{name} of {args.a} ({found[0][0] or '?'} images) and {args.b} ({found[1][0] or '?'}): {value:.4f}"
        )


# ---------------------------------------------------------------- ssim
class Pairs(Dataset):
    """number -> SSIM of a pair, or the sentence that says why there is none."""

    def __init__(self, a, b, pairs, size):
        self.a, self.b, self.pairs, self.size = Path(a), Path(b), pairs, size

    def __len__(self):
        return len(self.pairs)

    def images(self, number):
        found = [
            read_image(root / path)
            for root, path in zip((self.a, self.b), self.pairs[number], strict=True)
        ]
        return [square(image, self.size) if self.size else image for image in found]

    def __getitem__(self, number):
        x, y = self.images(number)
        of_a, of_b = self.pairs[number]
        if x.shape != y.shape:
            return (
                f"{self.a / of_a} is {x.shape[1]} x {x.shape[0]} px, {self.b / of_b} {y.shape[1]} x {y.shape[0]}: "
                f"SSIM needs equal sizes; --size {min(y.shape[:2])} brings both to that of the second."
            )
        if min(x.shape[:2]) < 11:
            return f"{self.a / of_a} is {x.shape[1]} x {x.shape[0]} px, SSIM's window is 11 x 11."
        return structural_similarity(x, y)


def ssim(args):
    pairs = Pairs(args.a, args.b, matched(args.a, args.b, args.common), args.size)
    values = []
    loader = DataLoader(
        pairs,
        batch_size=None,
        num_workers=args.workers,
        prefetch_factor=8 if args.workers else None,
    )
    with progress(len(pairs), "ssim") as bar:
        for value in loader:
            values.append(value)
            bar.update()
            if isinstance(value, str):
                break
    if isinstance(values[-1], str):
        fail(values[-1])
    order = np.argsort(values, kind="stable")
    least = order[: args.least]
    out = Path(args.out or Path(args.b).resolve().with_name(Path(args.b).resolve().name + ".ssim"))
    write_json(
        out / "ssim.json",
        {
            "mean": float(np.mean(values)),
            "sd": float(np.std(values)),
            "images": len(values),
            "a": args.a,
            "b": args.b,
            "size": args.size,
            "least_similar": [pairs.pairs[i][0] for i in least],
            "values": {pairs.pairs[i][0]: round(float(values[i]), 6) for i in order},
        },
    )
    contact_sheet(
        out / "least_similar.png",
        [pairs.images(i) for i in least],
        [Path(args.a).name, Path(args.b).name],
        [f"{values[i]:.3f} {pairs.pairs[i][0]}" for i in least],
    )
    from models.plots import plt, save_figure

    figure, axis = plt.subplots(figsize=(6, 3.5))
    axis.hist(values, bins=50)
    axis.axvline(np.mean(values), color="black", linestyle=":")
    axis.set(xlabel="SSIM", ylabel="images", title=f"mean {np.mean(values):.3f}")
    save_figure(figure, out / "histogram.png")
    print(
        f"SSIM of {args.a} and {args.b} ({len(values)} pairs): {np.mean(values):.4f} (standard deviation "
        f"{np.std(values):.4f}); histogram and least similar pairs in {out}"
    )


# ---------------------------------------------------------------- cost
def handcrafted(name, seed):
    """A hand-crafted augmentation as in VICReg's first view, with probability 1, in the form of a Strategy."""
    from models.augmenters import Strategy
    from models.views import BASE, colour, draw, resized_crop

    off = dict(scale=None, flip=0.0, jitter_p=0.0, grayscale=0.0, blur=0.0, solarize=0.0)

    def one(image, path):
        box, _, params = draw(
            BASE | off | HANDCRAFTED[name], SIZE, SIZE, seed_rng(seed, path, name)
        )
        return torch.from_numpy(
            resized_crop(image, box, SIZE) if name == "crop" else colour(image, params)
        )

    return Strategy(
        ["view0"],
        lambda path: square(read_image(path), SIZE),
        lambda images, paths: torch.stack(
            [one(image, path) for image, path in zip(images.numpy(), paths, strict=True)]
        )[None],
        SIZE,
        {"parameters": None},
    )


def strategy_of(name, args, device):
    if name in HANDCRAFTED:
        return handcrafted(name, args.seed)
    add_arguments, strategy = STRATEGIES[name]
    p = parser(f"flags of --{name}", prog=f"--{name}", add_help=False)
    add_arguments(p)
    p.set_defaults(
        seed=args.seed,
        device=args.device,
        precision="auto",
        batch_size=args.batch_size,
        data=args.data,
    )
    return strategy(p.parse_args(shlex.split(getattr(args, name))), device)


def milliseconds(strategy, images, paths, batch, device):
    """Time per generated image, uint8 tensor in, uint8 tensor out, in batches of `batch`; warm-up excluded."""
    batches = [(images[i : i + batch], paths[i : i + batch]) for i in range(0, len(paths), batch)]
    for one in batches[: 3 if batch > 1 else 10]:
        strategy.generate(*one)
    if device.type == "cuda":
        torch.cuda.synchronize()
    begin = time.perf_counter()
    for one in batches:
        strategy.generate(*one)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return 1000 * (time.perf_counter() - begin) / (len(paths) * len(strategy.views))


class Originals(Dataset):
    """batch of paths -> (paths, originals uint8 (B, 256, 256, 3), what the strategy reads uint8 (B, S, S, 3))."""

    def __init__(self, root, batches, read):
        self.root, self.batches, self.read = Path(root), batches, read

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, number):
        paths = self.batches[number]
        originals = [square(read_image(self.root / path), SIZE) for path in paths]
        inputs = [self.read(self.root / path) for path in paths]
        return paths, torch.from_numpy(np.stack(originals)), torch.from_numpy(np.stack(inputs))


def quality(strategy, paths, network, original, args, device, name):
    """(FID, mean SSIM) between the originals and what the strategy makes of them, nothing stored; both at 256 px."""
    from concurrent.futures import ThreadPoolExecutor

    from models.inception import Moments, frechet_distance

    forward, width, side, _ = network
    moments, first = Moments(width, device), Moments(width, device)
    sums = torch.zeros(2, dtype=torch.float64, device=device)
    loader = DataLoader(
        Originals(args.data, cut(paths, args.batch_size), strategy.read),
        batch_size=None,
        num_workers=args.workers,
    )
    at = (lambda image: square(image, side)) if side else (lambda image: image)
    with progress(len(paths), name) as bar, ThreadPoolExecutor(4) as pool:
        for chosen, originals, inputs in loader:
            if not original:
                first.add(
                    forward(torch.from_numpy(np.stack([at(image) for image in originals.numpy()])))
                )
            for view in strategy.generate(inputs, chosen).numpy():
                made = [square(image, SIZE) for image in view]
                moments.add(forward(torch.from_numpy(np.stack([at(image) for image in made]))))
                values = list(pool.map(structural_similarity, originals.numpy(), made))
                sums += torch.tensor([sum(values), len(values)], dtype=torch.float64, device=device)
            bar.update(len(chosen) * world())
    original = original or first.result()
    result = moments.result()
    if world() > 1:
        torch.distributed.all_reduce(sums)
    return original, frechet_distance(*original[1:], *result[1:]), float(sums[0] / sums[1])


def pretraining_speed(args):
    """(images/s of pretraining, devices): given, or the median over the logs below RUNS, or None."""
    if args.pretrain_images_per_second:
        return args.pretrain_images_per_second, args.pretrain_gpus
    speeds = []
    for file in Path(args.runs or ".").rglob("args.json") if args.runs else ():
        if read_json(file).get("stage") == "03_pretrain":
            steps = [
                e["images_per_second"]
                for e in read_log(file.parent, "step")
                if e.get("images_per_second")
            ]
            if steps:
                speeds.append((float(np.median(steps)), read_log(file.parent, "start")[0]["world"]))
    return sorted(speeds)[len(speeds) // 2] if speeds else None


def cost(args):
    device = start(args)
    free = ("runs", "pretrain_images_per_second", "pretrain_gpus", "augmentations")
    out = open_run(args.out, "07_metrics cost", args, free)
    paths = find_images(args.data)
    compared = paths[:: max(1, len(paths) // args.compare)][: args.compare]
    timed = compared[: args.images]
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    found = read_json(out / "cost.json") if (out / "cost.json").exists() else {"rows": {}}
    barrier()
    missing = [name for name in args.augmentations if name not in found["rows"]]
    network, original = feature_network(args, device, 0) if missing else None, None
    if missing:
        unreliable(len(compared), network[1], args.data)
    for name in missing:
        strategy = strategy_of(name, args, device)
        images = torch.from_numpy(
            np.stack([strategy.read(Path(args.data) / path) for path in timed])
        )
        latency, batch = (
            milliseconds(strategy, images, timed, n, device) for n in (1, args.batch_size)
        )
        original, distance, similarity = quality(
            strategy, compared, network, original, args, device, name
        )
        found["rows"][name] = {
            "fid": distance,
            "ssim": similarity,
            "latency_ms": latency,
            "batch_ms": batch,
            "parameters": strategy.about["parameters"],
        }
        found |= {
            "device": kind,
            "compared": len(compared),
            "timed": len(timed),
            "batch_size": args.batch_size,
            "features": network[3],
        }
        if rank() == 0:
            write_json(out / "cost.json", found)
    if rank() == 0:
        latency = {name: row["latency_ms"] for name, row in found["rows"].items()}
        found["ratios"] = {
            f"inpaint_over_{name}": latency["inpaint"] / latency[name]
            for name in ("noise", "jitter")
            if "inpaint" in latency and name in latency
        }
        speed = pretraining_speed(args)
        if (
            speed and "inpaint" in latency
        ):  # seconds to make one view on that many devices, of 100 epochs on them
            seconds = found["rows"]["inpaint"]["batch_ms"] / 1000 / speed[1]
            found["ratios"]["generation_share"] = 100 * seconds * speed[0] / 100
        write_json(out / "cost.json", found)
        runs = collect(args.runs) if args.runs else []
        text, _ = cost_table(found, [run for run in runs if run["study"] == "imagenet"] or runs)
        with atomic(out / "cost.txt") as temporary:
            temporary.write_text(text + "\n")
        print(text)
    barrier()


def main(args):
    if args.command == "report":
        report(args.runs)
    else:
        {"fid": fid, "ssim": ssim, "cost": cost}[args.command](args)


if __name__ == "__main__":
    run_main(main, args)
