"""What recipes/cifar10.sh found: gains over the baseline and the control, against the images.

    python recipes/gains.py check runs/cifar10-cpu    is the oracle above the baseline?
    python recipes/gains.py plot runs/cifar10-cpu     RUNS/gains.png and RUNS/gains.json

A gain is a difference of top-1 accuracies, paired by seed: the mean and half its 95 % interval. It
is drawn against how far an arm's images are from the originals: the share that was redrawn, their
structural similarity, the cosine distance of their features, and the Frechet distance of the two
sets of images. Features are those of the first baseline. RUNS is named METHOD-ARM-seedN inside.
"""

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # makes `models` importable

from base import cli, run, run_folder  # noqa: E402

COMPARED = 2000  # images whose features are compared with those of their originals
FAMILIES = {  # strategies as they are drawn: {name: arms, in the order of their strength}
    "in-painting": r"reconstruction|mask\d+",
    "in-painting, stopped early": r"weak\d+",
    "out-painting": r"outpaint",
    "diffusion": r"diffusion[\d.]+",
    "nearest neighbour": r"neighbour",
    "oracle": r"oracle",
}
MEASURES = {  # columns of the figure
    "share": "share redrawn",
    "ssim": "structural similarity",
    "distance": "cosine distance of features",
    "fid": "Frechet distance of the sets",
}


def arguments(argv=None):
    p = cli.parser(__doc__)
    p.add_argument("command", choices=["check", "plot"], help="one sentence, or the figure")
    p.add_argument("runs", type=Path, help="folder of the runs")
    cli.device_arguments(p)
    return p.parse_args(argv)


if __name__ == "__main__":
    args = arguments()

from collections import defaultdict  # noqa: E402
from functools import partial  # noqa: E402
from statistics import fmean  # noqa: E402

import torch.nn.functional as F  # noqa: E402

from evaluate import features
from images.files import matched, spread  # noqa: E402
from images.plots import plt, save_figure  # noqa: E402
from models import resnet  # noqa: E402
from report.tables import half_width, interval, table  # noqa: E402


# ---------------------------------------------------------------- numbers
def accuracies(runs):
    """{method: {measurement: {arm: {seed: top-1}}}} of all results below a folder."""
    found = defaultdict(lambda: defaultdict(lambda: defaultdict(dict)))
    for file in sorted(runs.glob("*-seed*-*/result.json")):
        name = re.fullmatch(r"([a-z]+)-(.+)-seed(\d+)-(cached|\d+labels)", file.parent.name)
        if not name:
            continue
        method, arm, seed, ending = name.groups()
        results = run.read_json(file)["results"]
        measurement = "all labels" if ending == "cached" else f"{ending[:-6]} labels a class"
        found[method][measurement][arm][int(seed)] = results["top1"]["mean"]
        if "knn_top1" in results:
            found[method]["kNN"][arm][int(seed)] = results["knn_top1"]["mean"]
    if not found:
        run.fail(f"{runs} has no results: run recipes/cifar10.sh first.")
    return found


def gains(of_arm, of_other):
    """[difference] of two arms over the seeds that both have. Each is {seed: top-1}."""
    return [of_arm[seed] - of_other[seed] for seed in sorted(of_arm.keys() & of_other.keys())]


def share_redrawn(noted):
    """The share of an image that a mirror redraws, or None. noted: its row of cost.json."""
    args = noted["made_by"]["args"]
    if "mask" in args:
        kind, _, share = args["mask"].partition(":")
        return float(share) if kind in ("random", "block") else 0.0 if kind == "none" else None
    if noted["strategy"] == "diffusion":
        return args["strength"][0]
    return None


def feature_distance(mirror, backbone, args, device):
    """Mean cosine distance of the features of a mirror's images and of their originals."""
    noted = run.read_json(mirror["augment"])
    data = noted["args"]["data"]
    pairs = spread(matched(data, mirror["view"]), COMPARED)
    sides = zip(*[(f"{data}/{a}", f"{mirror['view']}/{b}") for a, b in pairs], strict=True)
    size = run_folder.run_arguments(mirror["encoder"])["size"]
    crop = partial(features.centre_crop, size=size)
    of_real, of_generated = (
        features.extract(
            backbone, list(files), crop, device, args.precision, args.workers, everywhere=True
        )[0]
        for files in sides
    )
    return 1 - F.cosine_similarity(of_real, of_generated).mean().item()


def measure(runs, first, args, device):
    """{arm: {measure: value}} of all mirrors in RUNS/cost/cost.json."""
    file = runs / "cost/cost.json"
    if not file.exists():
        run.fail(f"{file} is not there: run recipes/cifar10.sh to its end.")
    backbone, _, _ = resnet.load_backbone(first)
    backbone = backbone.to(device)
    found = {}
    for name, row in run.read_json(file)["rows"].items():
        folder = runs / "mirrors" / name
        about = folder if (folder / "augment.json").exists() else folder.parent
        mirror = {"view": folder / "view0", "augment": about / "augment.json", "encoder": first}
        arm = name.replace("/strength", "")
        found[arm] = {
            "share": share_redrawn(row),
            "ssim": row["ssim"],
            "fid": row["fid"],
            "distance": feature_distance(mirror, backbone, args, device),
        }
    return found


# ---------------------------------------------------------------- one sentence
def check(runs):
    """Print the oracle's gains, and whether this budget can tell a good partner from a bad one."""
    for method, measurements in accuracies(runs).items():
        clear = []
        for name, arms in measurements.items():
            found = gains(arms["oracle"], arms["baseline"])
            if not found:
                continue
            print(f"{method}, {name}: oracle minus baseline {interval(found)}")
            if len(found) > 1 and fmean(found) > half_width(found):
                clear.append(name)
        if clear:
            print(f"{method}: this budget can tell them apart, by {', '.join(clear)}.")
        else:
            print(
                f"{method}: the oracle is not clearly above the baseline. This budget cannot tell "
                "whether generated views help: train longer, or on more seeds."
            )


# ---------------------------------------------------------------- the figure
def draw(axes, arms, measures):
    """One row of panels: the gains of all arms in one measurement, against each measure."""
    for place, (family, pattern) in enumerate(FAMILIES.items()):
        members = [arm for arm in measures if re.fullmatch(pattern, arm) and arm in arms]
        for axis, quantity in zip(axes, MEASURES, strict=True):
            for other, filled in (("control", True), ("baseline", False)):
                points = []
                for arm in members:
                    found = gains(arms[arm], arms.get(other, {}))
                    if found and measures[arm][quantity] is not None:
                        width = half_width(found) or 0
                        points.append((measures[arm][quantity], fmean(found), width))
                if not points:
                    continue
                x, y, width = zip(*sorted(points), strict=True)
                axis.errorbar(
                    x,
                    y,
                    width,
                    color=f"C{place}",
                    marker="o",
                    capsize=3,
                    linestyle="-" if filled else ":",
                    fillstyle="full" if filled else "none",
                    label=f"{family}, over the {other}",
                )


def figure_of(runs, measurements, measures, method):
    """RUNS/gains-METHOD.png: a row of panels for each measurement."""
    rows = len(measurements)
    figure, axes = plt.subplots(rows, len(MEASURES), figsize=(17, 3.6 * rows), squeeze=False)
    for row, (name, arms) in zip(axes, measurements.items(), strict=True):
        draw(row, arms, measures)
        row[0].set_ylabel(f"gain in points, {name}")
        for axis, label in zip(row, MEASURES.values(), strict=True):
            axis.axhline(0, color="black", linewidth=0.8)
            axis.set_xlabel(label)
            axis.grid(alpha=0.3)
    handles, labels = axes[0, 1].get_legend_handles_labels()
    figure.suptitle(" ", fontsize=26)  # room for the legend
    figure.legend(handles, labels, ncol=4, loc="upper center", fontsize=9)
    save_figure(figure, runs / f"gains-{method}.png")


def plot(runs, args, device):
    """Write the figures and gains.json, and print a table for each method."""
    found = accuracies(runs)
    methods = list(found)
    seeds = found[methods[0]]["all labels"]["baseline"]
    first = runs / f"{methods[0]}-baseline-seed{min(seeds)}"
    measures = measure(runs, first, args, device)
    numbers = {"images": measures, "gains": {}}
    for method, measurements in found.items():
        figure_of(runs, measurements, measures, method)
        numbers["gains"][method] = {}
        rows = []
        for arm in measurements["all labels"]:
            cells = [arm]
            for quantity in MEASURES:
                value = measures.get(arm, {}).get(quantity)
                cells.append("" if value is None else f"{value:.3g}")
            for name, arms in measurements.items():
                over = {}
                for other in ("control", "baseline"):
                    if arm != other and other in arms:
                        over[other] = gains(arms[arm], arms[other])
                numbers["gains"][method].setdefault(name, {})[arm] = over
                cells.append(f"{fmean(arms[arm].values()):.2f}")
                cells.append(interval(over["control"]) if over.get("control") else "")
            rows.append(cells)
        header = ["arm", *MEASURES]
        for name in measurements:
            header += [name, "over the\ncontrol"]
        print("\n" + table(f"{method}: top-1, and gains with 95 % intervals", header, rows)[0])
    run.write_json(runs / "gains.json", numbers)
    print(f"\nThe figures: {runs}/gains-METHOD.png   The numbers: {runs / 'gains.json'}")


def main(args, device):
    if args.command == "check":
        check(args.runs)
    else:
        plot(args.runs, args, device)


if __name__ == "__main__":
    run.launch(main, args)
