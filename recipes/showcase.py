"""The end of the demo: one table, one picture, one file of numbers.

    python recipes/showcase.py --digits data/digits --tiles data/tiles --runs runs/quickstart

reads the mirrors and results that recipes/quickstart.sh has made. Prints the table and writes
RUNS/report.png (pictures, accuracies, learning curves) and RUNS/report.json (the numbers).
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # makes `models` importable

from base import cli, run, run_folder  # noqa: E402

ARMS = {  # name of the arm: (its line in the table, its short name in the picture)
    "baseline": ("hand-crafted views only", "hand-crafted"),
    "generated": ("half of the second views in-painted, mask 50 %", "generated"),
    "control": ("control: the real image in their place", "control"),
    "oracle": ("oracle: another digit of the class (uses the labels)", "oracle"),
}
TRIVIAL = ("majority class", "raw pixels", "colour statistics", "random-init network")


def arguments(argv=None):
    p = cli.parser(__doc__)
    p.add_argument("--digits", type=Path, required=True, help="folder of recipes/digits.py")
    p.add_argument("--tiles", type=Path, required=True, help="folder of recipes/bluemarble.py")
    p.add_argument("--runs", type=Path, required=True, help="folder of the demo's runs")
    p.add_argument(
        "--labels", type=cli.positive, default=10, help="labels of a class that were used"
    )
    p.add_argument(
        "--seconds", type=cli.zero_or_more, default=0, help="time that the demo took, in seconds"
    )
    return p.parse_args(argv)


if __name__ == "__main__":
    args = arguments()

import statistics  # noqa: E402

import numpy as np  # noqa: E402

from images.files import find_images  # noqa: E402
from images.plots import plt, save_figure  # noqa: E402
from images.read import read_image  # noqa: E402


# ---------------------------------------------------------------- numbers
def results_of(runs, arm, ending):
    """The result.json of every seed of an arm."""
    files = sorted(runs.glob(f"{arm}-seed*-{ending}/result.json"))
    if not files:
        run.fail(f"{runs} has no results of the arm {arm}: run recipes/quickstart.sh to its end.")
    return [run.read_json(file) for file in files]


def accuracies(runs, labels):
    """{arm: (mean, standard deviation, number)} of top-1 over all seeds and draws of the labels."""
    found = {}
    for arm in ARMS:
        values = []
        for result in results_of(runs, arm, f"{labels}labels"):
            values += result["results"]["top1"]["values"]
        found[arm] = (statistics.fmean(values), statistics.stdev(values), len(values))
    return found


def seed_means(runs, arm, labels):
    """[mean over the draws of each seed]."""
    results = results_of(runs, arm, f"{labels}labels")
    return [result["results"]["top1"]["mean"] for result in results]


def trivial_accuracies(runs, labels):
    """{name: top-1} of what needs no pretraining, under the same protocol."""
    baselines = results_of(runs, "baseline", f"{labels}labels")[0]["baselines"]
    return {name: baselines[name]["top1"]["mean"] for name in TRIVIAL if name in baselines}


def supervised_accuracy(runs):
    """Top-1 of the same network, trained with all labels of the training images."""
    file = runs / "supervised/result.json"
    if not file.exists():
        run.fail(f"{file} is not there: run recipes/quickstart.sh to its end.")
    return run.read_json(file)["results"]["top1"]["mean"]


def psnr(real, mirror):
    """Mean peak signal-to-noise ratio, dB, of the images in a view of a mirror to the real ones."""
    ratios = []
    for path in find_images(real):
        original = read_image(real / path).astype(np.float64)
        made = read_image((mirror / path).with_suffix(".png"))
        error = np.mean((original - made) ** 2)
        ratios.append(10 * np.log10(255**2 / max(error, 1e-9)))
    return float(np.mean(ratios))


# ---------------------------------------------------------------- the picture
def strip(axis, folders, paths, title):
    """Rows of images: one row for each {name: folder}, the same images below each other."""
    rows = []
    for folder in folders.values():
        rows.append(np.concatenate([read_image(folder / path) for path in paths], axis=1))
    side = rows[0].shape[0]
    axis.imshow(np.concatenate(rows), interpolation="nearest")
    axis.set_yticks([side * (k + 0.5) for k in range(len(rows))], folders, fontsize=9)
    axis.set_xticks([])
    axis.set_title(title, fontsize=11)


def some(paths, n):
    """n of the paths, spread over all."""
    return paths[:: max(1, len(paths) // n)][:n]


def draw_accuracies(axis, found, trivial, supervised, labels):
    for place, (mean, sd, _) in enumerate(found.values()):
        axis.bar(place, mean, yerr=sd, capsize=4, color=f"C{place}")
        axis.text(place, 40, f"{mean:.1f}", ha="center", color="white", fontsize=10)
    lines = {name: trivial[name] for name in ("raw pixels", "random-init network")}
    lines["supervised, all labels"] = supervised
    for (name, value), style in zip(lines.items(), (":", "--", "-"), strict=True):
        axis.axhline(
            value, color="black", linewidth=1, linestyle=style, label=f"{name} {value:.1f}"
        )
    axis.set_xticks(range(len(found)), [ARMS[arm][1] for arm in found], fontsize=9)
    axis.set(ylim=(0, 100), ylabel="top-1 (%)")
    axis.set_title(f"digits: {10 * labels} labels, error bars over seeds and draws", fontsize=11)
    axis.legend(fontsize=8, loc="lower right")


def draw_learning(axis, runs):
    for place, (arm, (_, name)) in enumerate(ARMS.items()):
        events = run_folder.read_log(runs / f"{arm}-seed0", "step")
        epochs = [event["epoch"] for event in events]
        found = [100 * event["contrastive_accuracy"] for event in events]
        axis.plot(epochs, found, color=f"C{place}", label=name)
    axis.set(xlabel="epoch", ylabel="partners found among 255 (%)")
    axis.set_title("pretraining: the learning curve", fontsize=11)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)


def main(args):
    runs, mirrors = args.runs, args.runs / "mirrors"
    found = accuracies(runs, args.labels)
    trivial = trivial_accuracies(runs, args.labels)
    supervised = supervised_accuracy(runs)
    ratios = {
        "tiles": psnr(args.tiles / "val", mirrors / "tiles-none/view0"),
        "digits": psnr(args.digits / "val", mirrors / "digits-val-none/view0"),
    }

    # ---- the table
    print(f"\nTop-1 on 1,000 digits, logistic regression on {10 * args.labels} labels:\n")
    for name in TRIVIAL:
        if name in trivial:
            print(f"  {name:<54}{trivial[name]:6.1f}")
    print(f"  {'supervised, all labels of the training images':<54}{supervised:6.1f}")
    means = {arm: seed_means(runs, arm, args.labels) for arm in ARMS}
    for arm, (mean, sd, n) in found.items():
        print(f"  {ARMS[arm][0]:<54}{mean:6.1f} +- {sd:.1f} ({n} seeds x draws)")
    print()
    gains = [a - b for a, b in zip(means["generated"], means["control"], strict=True)]
    listed = ", ".join(f"{gain:+.1f}" for gain in gains)
    print(f"Generated minus control, seed by seed: {listed} points.")
    print(f"Tokens: {ratios['tiles']:.1f} dB on tiles, {ratios['digits']:.1f} dB on digits (PSNR).")

    # ---- the picture
    figure, axes = plt.subplots(2, 2, figsize=(14, 9), width_ratios=(1.25, 1))
    digits = args.digits / "train"
    folders = {
        "real": digits,
        "reconstruction": mirrors / "reconstruction/view0",
        "in-painted 50 %": mirrors / "generated/view0",
        "same class (oracle)": mirrors / "oracle/view0",
    }
    strip(axes[0, 0], folders, some(find_images(digits), 14), "digits")
    tiles = args.tiles / "val"
    folders = {"real": tiles, "reconstruction": mirrors / "tiles-none/view0"}
    for percent in (25, 50, 75):
        folders[f"in-painted {percent} %"] = mirrors / f"tiles-{percent}/view0"
    strip(axes[1, 0], folders, some(find_images(tiles), 12), "satellite tiles (NASA Blue Marble)")
    draw_accuracies(axes[0, 1], found, trivial, supervised, args.labels)
    draw_learning(axes[1, 1], runs)
    save_figure(figure, runs / "report.png")

    # ---- the numbers
    best = max(mean for arm, (mean, _, _) in found.items() if arm != "oracle")
    file = runs / "report.json"
    report = run.read_json(file) if file.exists() else {}
    report["showcase"] = {
        "encoder": best,
        "trivial": trivial,
        "supervised": supervised,
        "psnr": ratios["tiles"],
        "psnr_digits": ratios["digits"],
        "seconds": args.seconds,
        "arms": {arm: list(numbers) for arm, numbers in found.items()},
        "generated_minus_control": gains,
    }
    run.write_json(file, report)
    print(f"\nThe picture: {runs / 'report.png'}   The numbers: {file}")


if __name__ == "__main__":
    main(args)
