"""Stage 07: what the augmentations do to images, what they cost, and all results in one report.

    python 07_metrics.py check ROOT/train ROOT/val
    python 07_metrics.py fid ROOT/train gen/inpaint/view0
    python 07_metrics.py ssim ROOT/train gen/inpaint/view0 --size 256
    python 07_metrics.py cost gen/inpaint gen/crop --out runs/cost
    python 07_metrics.py report runs
    torchrun --standalone --nproc_per_node=4 07_metrics.py fid ROOT/train gen/inpaint/view0

check decodes every image of folders once and names those that cannot be read; no stage needs it.
fid prints the Frechet Inception Distance of two folders, ssim their structural similarity, image by
image. cost makes Table 6 from mirrors: both of these, and the time that an image takes. report
prints your arms, then the dissertation's tables and figures with your numbers beside them. All but
report share the images among the processes that torchrun starts.

fid and cost need the weights of FID's Inception network. They are looked for in $GCL_WEIGHTS
(~/.cache/gcl) and else downloaded. --features PATH takes the features of any backbone instead.
"""

from base import cli, run, run_folder


def feature_arguments(p):
    p.add_argument(
        "--features",
        default="inception",
        metavar="PATH",
        help="features that are compared: inception, or the run folder or weight file of a "
        "backbone, which tells more about images unlike ImageNet's; random: an untrained ResNet-50",
    )
    p.add_argument(
        "--prefix",
        metavar="NAME",
        help="which network of a weight file that holds several, such as encoder_q",
    )
    p.add_argument(
        "--weights",
        metavar="FILE",
        help="file pt_inception-2015-12-05-6726825d.pth, if it is not in the cache",
    )
    p.add_argument(
        "--batch-size",
        type=cli.positive,
        default=64,
        metavar="N",
        help="images that a process computes at a time",
    )
    cli.device_arguments(p)
    p.set_defaults(precision="fp32")  # published values are float32


def folder_arguments(p, size_help):
    p.add_argument("a", metavar="A", help="folder tree of images")
    p.add_argument("b", metavar="B", help="the other one; a view of a mirror needs A's images")
    p.add_argument("--common", action="store_true", help="only the images that are in both folders")
    p.add_argument("--size", type=cli.zero_or_more, default=0, metavar="PX", help=size_help)


def arguments(argv=None):
    p = cli.parser(__doc__)
    commands = p.add_subparsers(
        dest="command", required=True, metavar="check | fid | ssim | cost | report"
    )

    check_manual = "Decode all images of folders: which of them cannot be read?"
    c = cli.subparser(commands, "check", check_manual)
    c.add_argument(
        "folders",
        nargs="+",
        metavar="FOLDER",
        help="folder trees of images, such as ROOT/train; the answer for each is kept among the "
        "published files ($GCL_WEIGHTS) while its files do not change",
    )
    c.add_argument(
        "--workers",
        type=cli.zero_or_more,
        default=8,
        metavar="N",
        help="processes that read images; 0: the main process alone",
    )
    cli.reading_arguments(c)

    fid_manual = "Frechet Inception Distance of A and B: folders, or .npz files with mu and sigma."
    c = cli.subparser(commands, "fid", fid_manual)
    folder_arguments(
        c,
        "side of the centre squares that are compared, cut as 02_augment.py does it; 0: whole "
        "images, as in pytorch-fid (a backbone then gets squares of its training's size)",
    )
    c.add_argument(
        "--cache",
        default="fid",
        metavar="NAME",
        help="name of the file A.NAME.npz that keeps the statistics of folder A while its images "
        "do not change",
    )
    feature_arguments(c)

    ssim_manual = "Mean structural similarity of the images of A and their namesakes in B."
    c = cli.subparser(commands, "ssim", ssim_manual)
    folder_arguments(
        c,
        "side of the centre squares that are compared, cut as 02_augment.py does it; 0: whole "
        "images, of equal size in A and B",
    )
    c.add_argument(
        "--out",
        metavar="DIR",
        help="folder for ssim.json, histogram.png and least_similar.png (default: B.ssim; for a "
        "view of a mirror MIRROR.VIEW.ssim, beside the mirror)",
    )
    c.add_argument(
        "--least",
        type=cli.positive,
        default=8,
        metavar="K",
        help="number of least similar pairs on the sheet",
    )
    c.add_argument(
        "--workers",
        type=cli.zero_or_more,
        default=8,
        metavar="N",
        help="processes that read and compare images; 0: the main process alone",
    )
    cli.reading_arguments(c)

    cost_manual = "Table 6: FID, SSIM, time and parameters of the augmentations that made mirrors."
    c = cli.subparser(commands, "cost", cost_manual)
    c.add_argument(
        "mirrors",
        nargs="+",
        metavar="MIRROR",
        help="folders made by 02_augment.py; how they were made is read there",
    )
    c.add_argument(
        "--out", required=True, metavar="DIR", help="folder of cost.json, which keeps its rows"
    )
    c.add_argument(
        "--data",
        metavar="ROOT",
        help="folder of the originals (default: the one that the mirror was made from)",
    )
    c.add_argument(
        "--size",
        type=cli.positive,
        default=256,
        metavar="PX",
        help="side of the centre squares of which FID and SSIM are computed",
    )
    c.add_argument(
        "--compare",
        type=cli.positive,
        default=10000,
        metavar="N",
        help="images for FID and SSIM, spread over the folder (our choice; the dissertation takes "
        "all). FID is unreliable with fewer images than its 2048 features",
    )
    c.add_argument(
        "--images",
        type=cli.positive,
        default=1000,
        metavar="N",
        help="images that are generated to measure the time, one by one and in batches",
    )
    c.add_argument(
        "--runs",
        metavar="RUNS",
        help="folder of runs, for their top-1 and the speed of their pretraining",
    )
    c.add_argument(
        "--pretrain-images-per-second",
        type=cli.above_zero,
        metavar="X",
        help="speed of pretraining, for the share that generation adds to 100 epochs (default: the "
        "median of the logs below RUNS)",
    )
    c.add_argument(
        "--pretrain-gpus",
        type=cli.positive,
        default=1,
        metavar="N",
        help="number of devices that reached this speed",
    )
    feature_arguments(c)

    report_manual = (
        "Every result below RUNS: your arms, then the dissertation's tables and figures."
    )
    c = cli.subparser(commands, "report", report_manual)
    c.add_argument(
        "runs",
        metavar="RUNS",
        help="folder of runs; report.md, report.txt, report.json and report.png are written there",
    )
    c.add_argument(
        "--all",
        action="store_true",
        help="also the tables and figures of the dissertation for which there is no result",
    )
    return p.parse_args(argv)


if __name__ == "__main__":
    args = arguments()

import os
from pathlib import Path

import numpy as np

from base import parallel
from images.files import find_images, matched, mirror_root
from images.pictures import contact_sheet


# ---------------------------------------------------------------- check
def check(args, device):
    """Name the images that cannot be read; the exit code says whether a run would end."""
    from images.check import check_folder
    from images.unreadable import allowed, say

    worst = 0
    for folder in args.folders:
        failed, n = check_folder(folder, args.workers)
        if parallel.rank() == 0:
            for _, reason in sorted(failed.items()):
                say(reason)
            print(f"{folder}: {len(failed)} of {n} images cannot be read")
        worst += len(failed) > allowed(args.max_unreadable, n)
    if worst:
        share = f"{args.max_unreadable:g}"
        run.fail(f"That is more than --max-unreadable {share} allows: mend or remove these images.")


# ---------------------------------------------------------------- fid
def fid(args, device):
    """Print the Frechet distance of two folders, or of .npz files in their place."""
    from evaluate import frechet

    sides = [args.a, args.b]
    folders = [not side.endswith(".npz") for side in sides]
    if args.common and not all(folders):
        run.fail("--common needs two folders.", 2)
    if all(folders) and (args.common or mirror_root(args.b)):
        pairs = matched(args.a, args.b, args.common)
        chosen = [[of_a for of_a, _ in pairs], [of_b for _, of_b in pairs]]
    else:
        chosen = []
        for side, folder in zip(sides, folders, strict=True):
            chosen.append(find_images(side) if folder else None)
    features = frechet.load_features(args, device)
    cache = None if args.common else args.cache
    found = []
    for side, paths in zip(sides, chosen, strict=True):
        if paths:
            how = (cache, args.workers, args.max_unreadable)
            statistics = frechet.folder_statistics(side, paths, features, *how)
        else:
            statistics = frechet.read_statistics(side, features)
        frechet.warn_if_few(statistics[0], features, side)
        found.append(statistics)
    if parallel.rank() == 0:
        (n, mu, sigma), (other_n, other_mu, other_sigma) = found
        value = frechet.frechet_distance(mu, sigma, other_mu, other_sigma)
        name = "FID"
        if features.name != "inception":
            name = f"Frechet distance ({features.name} features)"
        print(
            f"{name} of {args.a} ({n or '?'} images) and {args.b} ({other_n or '?'}): {value:.4f}"
        )
        for side, paths, (read, _, _) in zip(sides, chosen, found, strict=True):
            if paths and read < len(paths):
                print(f"{len(paths) - read} images of {side} cannot be read and are left out")
    parallel.barrier()


# ---------------------------------------------------------------- ssim
def ssim_folder(args):
    """Where the results of ssim go: never inside a mirror, where they could be taken for a view."""
    if args.out:
        return Path(args.out)
    b = Path(args.b).resolve()
    root = mirror_root(b)
    if root:
        view = ".".join(b.relative_to(root).parts)
        return root.with_name(f"{root.name}.{view}.ssim")
    return b.with_name(f"{b.name}.ssim")


def ssim(args, device):
    """Write and print the similarity of all pairs, with a histogram and the least similar ones."""
    from evaluate.ssim import read_pair, similarities
    from images.plots import plt, save_figure

    out = ssim_folder(args)
    run.keep_apart(args.a, out=out)
    run.keep_apart(args.b, out=out)
    names = matched(args.a, args.b, args.common)
    files = []
    for of_a, of_b in names:
        files.append((os.path.join(args.a, of_a), os.path.join(args.b, of_b)))
    values = np.array(similarities(files, args.size, "ssim", args.workers, args.max_unreadable))
    if parallel.rank() > 0:
        return
    read = np.flatnonzero(np.isfinite(values))
    left_out = [names[i][0] for i in np.flatnonzero(np.isnan(values))]
    names = [names[i] for i in read]
    files = [files[i] for i in read]
    values = values[read]
    order = np.argsort(values, kind="stable")
    least = order[: args.least]
    result = {
        "mean": float(values.mean()),
        "sd": float(values.std()),
        "images": len(values),
        "unreadable": left_out,
        "a": args.a,
        "b": args.b,
        "size": args.size,
        "least_similar": [names[i][0] for i in least],
        "values": {names[i][0]: round(float(values[i]), 6) for i in order},
    }
    run.write_json(out / "ssim.json", result)
    contact_sheet(
        out / "least_similar.png",
        [read_pair(files[i], args.size) for i in least],
        [Path(args.a).name, Path(args.b).name],
        [f"{values[i]:.3f} {names[i][0]}" for i in least],
    )
    figure, axis = plt.subplots(figsize=(6, 3.5))
    axis.hist(values, bins=50)
    axis.axvline(values.mean(), color="black", linestyle=":")
    axis.set(xlabel="SSIM", ylabel="images", title=f"mean {values.mean():.3f}")
    save_figure(figure, out / "histogram.png")
    print(
        f"SSIM of {args.a} and {args.b} ({len(values)} pairs): {values.mean():.4f} (standard "
        f"deviation {values.std():.4f}); histogram and least similar pairs in {out}"
    )
    if left_out:
        print(f"{len(left_out)} pairs are left out: an image cannot be read")


# ---------------------------------------------------------------- cost
def open_cost(args):
    """(the folder, what its cost.json holds); the folder belongs to one set of arguments."""
    out = Path(args.out)
    compared = ("size", "compare", "images", "batch_size", "features", "precision", "data")
    if parallel.rank() == 0:
        identity = {
            "stage": "07_metrics cost",
            "args": {name: getattr(args, name) for name in compared},
        }
        run_folder.write_or_check(out / "args.json", identity, "a folder of 07_metrics.py cost")
    parallel.barrier()
    file = out / "cost.json"
    found = run.read_json(file) if file.exists() else {"rows": {}}
    parallel.barrier()  # every process has read it before process 0 writes
    return out, found


def cost(args, device):
    """Measure the mirrors that cost.json has no row for; print Table 6."""
    from evaluate.frechet import load_features, warn_if_few
    from images.pairs import mirrors_of
    from report import cost as costs
    from report.results import read_runs
    from report.write import cost_table

    _, noted = mirrors_of(args.mirrors, 1)
    names = [costs.name_of(folder) for folder in args.mirrors]
    if len(set(names)) < len(names):
        run.fail(f"Two mirrors have one name ({' '.join(names)}): rows are named after them.", 2)
    for mirror in noted if args.data is None else ():
        run.keep_apart(mirror["args"]["data"], out=args.out)
    out, found = open_cost(args)
    missing = {}
    for name, folder, mirror in zip(names, args.mirrors, noted, strict=True):
        row = found["rows"].get(name)
        if row is None or row["made_by"] != costs.made_by(mirror):
            missing[name] = folder
    features = load_features(args, device) if missing else None
    known = {}
    for name, folder in missing.items():
        row = costs.measure_row(folder, features, known, args, device)
        warn_if_few(row["images"], features, folder)
        found["rows"][name] = row
        found["features"] = features.settings
        if parallel.rank() == 0:
            run.write_json(out / "cost.json", found)
    if parallel.rank() == 0:
        found["ratios"] = costs.ratios(found["rows"], costs.pretraining_speed(args))
        run.write_json(out / "cost.json", found)
        text, _ = cost_table(found, read_runs(args.runs) if args.runs else [])
        run.write_text(out / "cost.txt", text + "\n")
        print(text)
    parallel.barrier()


# ---------------------------------------------------------------- report
def report(args, device):
    """Print the report and write it into the folder of runs."""
    from report.write import write_report

    if parallel.rank() == 0:
        write_report(args.runs, args.all)


def main(args, device):
    commands = {"check": check, "fid": fid, "ssim": ssim, "cost": cost, "report": report}
    commands[args.command](args, device)


if __name__ == "__main__":
    run.launch(main, args)
