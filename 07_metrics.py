"""Stage 07: what the augmentations do to images, what they cost, and all results in one report.

    python 07_metrics.py check ROOT/train ROOT/val
    python 07_metrics.py fid ROOT/train gen/inpaint/view0
    python 07_metrics.py ssim ROOT/train gen/inpaint/view0 --size 256
    python 07_metrics.py cost gen/inpaint gen/crop --out runs/cost
    python 07_metrics.py sheet ROOT/train gen/inpaint/view0 --out sheet.png
    python 07_metrics.py report runs
    torchrun --standalone --nproc_per_node=4 07_metrics.py fid ROOT/train gen/inpaint/view0

check decodes every image of folders once and names those that cannot be read; no stage needs it.
fid prints the Frechet Inception Distance of two folders, ssim their structural similarity, image by
image. cost makes Table 6 from mirrors: both of these, and the time that an image takes. sheet draws
images beside their generated ones. report prints your arms, then the dissertation's tables and
figures with your numbers beside them. check, fid, ssim and cost share the images among the
processes that torchrun starts.

fid and cost need the weights of FID's Inception network. They are looked for in $GCL_WEIGHTS
(~/.cache/gcl) and else downloaded. --features PATH takes the features of any backbone instead.
"""

from base import cli, run


def feature_arguments(p):
    p.add_argument(
        "--features",
        default="inception",
        metavar="PATH",
        help="features that are compared: inception, or the run folder or weight file of a "
        "backbone, which tells more about images unlike ImageNet's; random: an untrained ResNet-50",
    )
    p.add_argument(
        "--weights", help="file pt_inception-2015-12-05-6726825d.pth, if it is not in the cache"
    )
    p.add_argument(
        "--batch-size",
        type=cli.positive,
        default=64,
        help="images that a process computes at a time",
    )
    cli.device_arguments(p)
    p.set_defaults(precision="fp32")  # published values are float32


def folder_arguments(p):
    p.add_argument("a", metavar="A", help="folder tree of images")
    p.add_argument("b", metavar="B", help="the other one; a view of a mirror needs A's images")
    p.add_argument("--common", action="store_true", help="only the images that are in both folders")
    p.add_argument(
        "--size",
        type=cli.zero_or_more,
        default=0,
        help="side of the centre squares that are compared, cut as 02_augment.py does it; 0: whole "
        "images, for a backbone squares of its training's size",
    )


def arguments(argv=None):
    p = cli.parser(__doc__)
    commands = p.add_subparsers(
        dest="command", required=True, metavar="check | fid | ssim | cost | sheet | report"
    )

    c = cli.subparser(commands, "check", "Decode all images of folders: which cannot be read?")
    c.add_argument("folders", nargs="+", metavar="FOLDER", help="folder trees of images")
    cli.reading_arguments(c)

    manual = "Frechet Inception Distance of A and B: two folders."
    c = cli.subparser(commands, "fid", manual)
    folder_arguments(c)
    feature_arguments(c)

    manual = "Mean structural similarity of the images of A and their namesakes in B."
    c = cli.subparser(commands, "ssim", manual)
    folder_arguments(c)
    c.add_argument(
        "--out",
        metavar="DIR",
        help="folder for ssim.json, histogram.png and least_similar.png (default: B.ssim; for a "
        "view of a mirror MIRROR.VIEW.ssim, beside the mirror)",
    )
    cli.reading_arguments(c)

    manual = "Table 6: FID, SSIM, time and parameters of the augmentations that made mirrors."
    c = cli.subparser(commands, "cost", manual)
    c.add_argument(
        "mirrors",
        nargs="+",
        metavar="MIRROR",
        help="folders made by 02_augment.py; how they were made is read there",
    )
    c.add_argument(
        "--out", required=True, metavar="DIR", help="folder of cost.json, which keeps its rows"
    )
    cli.numbers(
        c,
        size=(cli.positive, 256, "side of the centre squares of which FID and SSIM are computed"),
        compare=(
            cli.positive,
            10000,
            "images for FID and SSIM, spread over the folder (our choice; the dissertation takes "
            "all). FID is unreliable with fewer images than its 2048 features",
        ),
        images=(
            cli.positive,
            1000,
            "images that are generated to measure the time, one by one and in batches",
        ),
    )
    c.add_argument(
        "--runs",
        metavar="RUNS",
        help="folder of runs, for their top-1 and the speed of their pretraining",
    )
    feature_arguments(c)

    c = cli.subparser(commands, "sheet", "Images beside what becomes of them, as one picture.")
    c.add_argument("data", metavar="FOLDER", help="folder tree of images")
    c.add_argument(
        "views",
        nargs="*",
        metavar="VIEW",
        help="view folders of mirrors, a row each; without them: Figure 13, the hand-crafted "
        "augmentations",
    )
    c.add_argument("--out", required=True, metavar="FILE.png", help="the sheet")
    c.add_argument("--titles", nargs="+", help="text before their rows")
    cli.numbers(
        c,
        images=(cli.positive, 6, "images, side by side"),
        tokens=(
            cli.positive,
            None,
            "tokens of an image each way: shows as well which of them 02 inpaint predicted",
        ),
        size=(cli.positive, 256, "side of Figure 13's images"),
    )

    manual = "Every result below RUNS: your arms, then the dissertation's tables and figures."
    c = cli.subparser(commands, "report", manual)
    c.add_argument(
        "runs",
        metavar="RUNS",
        help="folder of runs; report.md, report.json and report.png are written there. A file of "
        "--merge does as well: they are then written into a folder of its name",
    )
    c.add_argument(
        "--merge",
        metavar="FILE.json",
        help="add the numbers to this file, small enough to be kept when the runs are gone",
    )
    c.add_argument(
        "--gate",
        type=cli.above_zero,
        metavar="POINTS",
        help="exit with 1 unless the oracle's linear top-1 is so far above that of the real image "
        "in each of the first two seeds: else the study cannot tell a good partner from a bad one",
    )
    c.add_argument(
        "--decides",
        default="",
        metavar="NAME",
        help="how the name of the measurement begins that says whether the oracle is above the "
        "baseline, such as '1 label'; declare it beforehand (default: linear top-1, if there)",
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

from base import parallel, run_folder
from images.files import evenly, find_images, matched, mirror_root, read_ahead
from images.pictures import contact_sheet
from images.unreadable import allowed, say, why_unreadable

LEAST = 8  # least similar pairs on the sheet of `ssim`


# ---------------------------------------------------------------- check
def check(args, device):
    """Name the images that cannot be read; the exit code says whether a run would end."""
    worst = 0
    for folder in args.folders:
        paths = [os.path.join(folder, path) for path in find_images(folder)]
        mine = paths[parallel.rank() :: parallel.world()]
        reasons = []
        with run.progress(len(mine), f"reading {folder}") as bar:
            for reason in read_ahead(mine, why_unreadable, args.workers, device):
                reasons += [reason] * bool(reason)
                bar.update()
        reasons = sorted(sum(parallel.everyone(reasons), []))
        if parallel.rank() == 0:
            for reason in reasons:
                say(reason)
            print(f"{folder}: {len(reasons)} of {len(paths)} images cannot be read")
        worst += len(reasons) > allowed(args.max_unreadable, len(paths))
    if worst:
        run.fail("That is more than --max-unreadable allows: mend or remove these images.")


# ---------------------------------------------------------------- fid
def fid(args, device):
    """Print the Frechet distance of two folders."""
    from evaluate import frechet

    sides = [args.a, args.b]
    if args.common or mirror_root(args.b):
        chosen = zip(*matched(args.a, args.b, args.common), strict=True)
    else:
        chosen = map(find_images, sides)
    how = (args.workers, args.max_unreadable)
    features = frechet.load_features(
        args.features, args.weights, args.size, args.precision, args.batch_size, device
    )
    measured = []
    left_out = 0
    for side, paths in zip(sides, chosen, strict=True):
        files = [os.path.join(side, path) for path in paths]
        statistics = frechet.moments_of_files(files, features, Path(side).name, *how)
        left_out += len(files) - statistics[0]
        frechet.warn_if_few(statistics[0], features, side)
        measured.append(statistics)
    if parallel.rank() == 0:
        (n, *of_a), (other_n, *of_b) = measured
        value = frechet.frechet_distance(*of_a, *of_b)
        name = "FID"
        if features.name != "inception":
            name = f"Frechet distance ({features.name} features)"
        print(
            f"{name} of {args.a} ({n} images) and {args.b} ({other_n}), {left_out} "
            f"left out: {value:.4f}"
        )


# ---------------------------------------------------------------- ssim
def ssim(args, device):
    """Write and print the similarity of all pairs, with a histogram and the least similar ones."""
    from evaluate.ssim import read_pair, similarities
    from images.plots import plt, save_figure

    b = Path(args.b).resolve()
    mirror = mirror_root(b) or b  # inside it the results could be taken for a view
    beside = mirror.with_name(".".join([mirror.name, *b.relative_to(mirror).parts, "ssim"]))
    out = Path(args.out or beside)
    run.keep_apart(args.a, out=out)
    run.keep_apart(args.b, out=out)
    files = {}
    for of_a, of_b in matched(args.a, args.b, args.common):
        files[of_a] = (os.path.join(args.a, of_a), os.path.join(args.b, of_b))
    pairs = list(files.values())
    values = similarities(pairs, args.size, "ssim", args.workers, args.max_unreadable)
    every = dict(zip(files, values, strict=True))
    if parallel.rank() > 0:
        return
    left_out = [name for name in every if np.isnan(every[name])]
    order = sorted(every.keys() - left_out, key=lambda name: (every[name], name))
    values = np.array([every[name] for name in order])
    least = order[:LEAST]
    result = {
        "mean": float(values.mean()),
        "sd": float(values.std()),
        "images": len(values),
        "unreadable": left_out,
        "a": args.a,
        "b": args.b,
        "size": args.size,
        "least_similar": least,
        "values": {name: round(every[name], 6) for name in order},
    }
    run.write_json(out / "ssim.json", result)
    contact_sheet(
        out / "least_similar.png",
        [read_pair(files[name], args.size) for name in least],
        [Path(args.a).name, Path(args.b).name],
        [f"{every[name]:.3f} {name}" for name in least],
    )
    figure, axis = plt.subplots(figsize=(6, 3.5))
    axis.hist(values, bins=50)
    axis.axvline(values.mean(), color="black", linestyle=":")
    axis.set(xlabel="SSIM", ylabel="images", title=f"mean {values.mean():.3f}")
    save_figure(figure, out / "histogram.png")
    print(
        f"SSIM of {args.a} and {args.b} ({len(values)} pairs, {len(left_out)} left out): "
        f"{values.mean():.4f} (standard deviation {values.std():.4f}); see {out}"
    )


# ---------------------------------------------------------------- cost
def cost(args, device):
    """Measure the mirrors that cost.json has no row for; print Table 6."""
    from evaluate.frechet import load_features, warn_if_few
    from images.pairs import mirrors_of
    from report.cost import made_by, measure_row, name_of, originals_of, ratios
    from report.results import read_runs
    from report.tables import dissertation_table, fill, table6

    _, descriptions = mirrors_of(args.mirrors, 1)
    names = [name_of(folder) for folder in args.mirrors]
    if len(set(names)) < len(names):
        run.fail(f"Two mirrors have one name ({' '.join(names)}): rows are named after them.", 2)
    for mirror in descriptions:
        run.keep_apart(originals_of(mirror), out=args.out)
    out = Path(args.out)
    file = out / "cost.json"
    if file.exists():
        run.lock(file)
    parallel.barrier()
    content = run.read_json(file) if file.exists() else {"rows": {}}
    rows = content["rows"]
    missing = []
    for name, folder, mirror in zip(names, args.mirrors, descriptions, strict=True):
        if rows.get(name, {}).get("made_by") != made_by(mirror):
            missing.append((name, folder))
    if missing:
        features = load_features(
            args.features, args.weights, args.size, args.precision, args.batch_size, device
        )
    if parallel.rank() == 0:
        compared = ("size", "compare", "images", "batch_size", "features", "precision")
        flags = {name: vars(args)[name] for name in compared}
        identity = {"stage": "07_metrics cost", "args": flags}
        run_folder.write_or_check(out / "args.json", identity, "a folder of 07_metrics.py cost")
    parallel.barrier()
    moments = {}
    how = (args.workers, args.max_unreadable)
    for name, folder in missing:
        rows[name] = measure_row(folder, features, moments, args.compare, args.images, how)
        warn_if_few(rows[name]["images"], features, folder)
        content["features"] = features.settings
        if parallel.rank() == 0:
            run.write_json(file, content)
    if parallel.rank() == 0:
        content["ratios"] = ratios(rows, args.runs)
        run.write_json(file, content)
        about = table6(content)
        results = read_runs(args.runs) if args.runs else []
        print(dissertation_table(about, fill(about, results)))


# ---------------------------------------------------------------- sheet and report
def sheet(args, device):
    """Write args.out: images side by side, and below them their namesakes in the view folders, or,
    where none are given, what the hand-crafted augmentations of Figure 13 make of them.
    """
    from augment.strategy import read_square
    from report.sheet import augmented, predicted, read_beside

    if not args.out.endswith(".png"):
        run.fail(f"--out {args.out} must be the name of a .png file.", 2)
    run.keep_apart(args.data, out=args.out)
    titles = args.titles or args.views
    if len(titles) != len(args.views):
        run.fail("--titles needs one title for each view folder.", 2)
    paths = evenly(find_images(args.data), args.images)
    made = [read_beside(view, paths) for view in args.views]
    for view, images in zip(args.views, made, strict=True):
        if not images:
            run.fail(f"{view} lacks images of {args.data}: finish 02_augment.py for it first.")
    size = len(made[0][0]) if made else args.size
    originals = [read_square(Path(args.data, path), size) for path in paths]
    rows = {"original": originals}
    if not made:
        rows |= augmented(originals, paths)
    for title, view, images in zip(titles, args.views, made, strict=True):
        if args.tokens:
            if gray := predicted(args.data, view, originals, paths, args.tokens):
                rows[f"{title}, masked"] = gray
        rows[title] = images
    cell = min(160, max(64, size))
    contact_sheet(args.out, rows.values(), labels=list(rows), cell=cell)
    print(f"{args.out} is written")


def report(args, device):
    """Print all tables; write report.md, report.json and the figures into the folder of runs."""
    from report import arms, figures
    from report.results import merge, read_study, results_of
    from report.tables import TABLES, dissertation_table, fill, table6

    if parallel.rank() > 0:
        return
    folder = Path(args.runs)
    study = read_study(folder)
    results = results_of(study, folder)
    costs = study["cost"]
    if not results and not costs:
        run.fail(f"{folder} holds no result.json: no evaluation has finished there.")
    if folder.is_file():
        folder = folder.with_suffix("")
    run.lock(folder / "report.json")
    parts = []
    differences = []
    numbers = {"tables": {}, "arms": [], "differences": []}
    if results:
        every_arm = arms.arms_of(results)
        differences = arms.differences(every_arm)
        parts.append(arms.arms_table(every_arm))
        if differences:
            parts.append(arms.differences_table(every_arm, differences))
        parts += arms.verdicts(every_arm, differences, args.decides)
        for arm in every_arm:
            values = {column.name: of_seed for column, of_seed in arm.values.items()}
            numbers["arms"].append(arm.cells | {"values by seed": values})
        for arm, column, of_partner in differences:
            cells = arm.cells | {"measured": column.name}
            numbers["differences"].append(cells | of_partner)
        figures.draw_report(every_arm, folder / "report.png")
        if costs:
            figures.draw_gains(differences, costs, folder / "gains.png")
    for key, about in TABLES.items():
        if key == "table6":
            about = table6(costs, args.all)
        rows = fill(about, results)
        if text := dissertation_table(about, rows, args.all):
            parts.append(text)
            numbers["tables"][key] = rows
            if "xlabel" in about:
                figures.draw_figure(about, rows, folder / f"{key}.png")
    text = "\n\n".join(parts)
    print(text)
    run.write_text(folder / "report.md", text + "\n")
    run.write_json(folder / "report.json", numbers)
    if args.merge:
        merge(study, args.merge)
    if args.gate:
        if sentence := arms.gate(differences, args.gate):
            run.fail(sentence)


def main(args, device):
    globals()[args.command](args, device)


if __name__ == "__main__":
    run.launch(main, args)
