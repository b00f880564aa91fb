"""Arms: the runs of a folder grouped over seeds, side by side, and their paired differences.

Two runs belong to one arm if they differ in the seed alone. An arm is called after what it has
unlike the others. It is held against the baseline (no generated views) and against its controls:
the real image in the place of the generated one, and the generator's reconstruction, in which
nothing was changed. Further partners are the baseline that trained for as long as generation and
training together, and the images of a generator that was given random classes. Over
the same seeds, what images and seeds have in common cancels in the difference.
"""

import json
import re
from collections import defaultdict
from dataclasses import dataclass, field
from statistics import fmean
from typing import NamedTuple

from report.results import Data, differing, in_words, of_equal_time
from report.tables import half_width, interval, mark, spread, table

NAMES = {
    "linear": "linear top-1",
    "knn": "kNN top-1",
    "few": "{} label{} a class, top-1",
    "semi": "{} % top-1",
    "supervised": "supervised top-1",
    "places": "Places{} top-1",
    "voc": "VOC07 mAP",
    "coco": "COCO mAP",
    "folder": "transfer top-1",
}
USE = ("mix", "pair", "views", "both_generated", "epochs")  # of the generated views
DESCRIBED = {"method", "network", "strategy", "store_size", *USE}


class Column(NamedTuple):
    """A kind of measurement: where it stands among all, and its name for the reader."""

    place: int
    number: int
    name: str


@dataclass
class Arm:
    """Runs that differ in the seed alone.

    data, settings, making, mirrors: see Result. values: {Column: {seed: percent}}. baselines:
    [(name, Column, percent)]. cells: {name of a column: text} of all that describes the arm.
    """

    data: Data
    settings: dict
    making: dict
    mirrors: list
    values: dict = field(default_factory=lambda: defaultdict(dict))
    baselines: list = field(default_factory=list)
    cells: dict = field(default_factory=dict)

    @property
    def strategy(self):
        return self.settings["strategy"]

    @property
    def reconstruction(self):
        """Whether nothing was changed: the images only went through the generator's decoder."""
        return self.making.get("mask") == "none" or self.making.get("strength") == "0.0"

    @property
    def control(self):
        """Whether it is there to be compared with: nothing generated, or a wrong label."""
        return self.strategy == "real" or self.reconstruction or "label" in self.making


# ---------------------------------------------------------------- grouping
def columns_of(result, unlike):
    """{Column: percent} of one result: kNN's where there is one, then its main metric.

    unlike: names of the settings in which evaluations of this kind differ.
    """
    kind, number = re.fullmatch(r"(\D*)(.*)", result.evaluation).groups()
    name = NAMES[kind].format(number, "s" * (number != "1"))
    if result.cached and kind != "few":  # few labels are always measured on cached features
        name += ", cached features"
    name = ", ".join([name, *[in_words(key, result.measuring.get(key)) for key in unlike]])
    columns = {}
    if "knn_top1" in result.values:
        columns[Column(1, 0, NAMES["knn"])] = result.values["knn_top1"]
    main = result.values.get("map", result.values.get("top1"))
    columns[Column(list(NAMES).index(kind), int(number or 0), name)] = main
    return columns


def all_columns(arms):
    """All Columns of these arms, in order."""
    return sorted({column for arm in arms for column in arm.values})


def arms_of(results):
    """All arms, in the order of their data, method, network, epochs and generated views."""
    kinds, arms = defaultdict(list), {}
    for result in results:
        kinds[result.evaluation, result.cached].append(result.measuring)
    for result in results:
        identity = (result.data, result.settings, result.making)
        arm = arms.setdefault(json.dumps(identity, sort_keys=True), Arm(*identity, []))
        arm.mirrors += result.mirrors
        columns = columns_of(result, differing(kinds[result.evaluation, result.cached]))
        for column, value in columns.items():
            arm.values[column][result.seed] = value
        arm.baselines += [(name, column, value) for name, value in result.baselines.items()]
    describe(arms.values())
    return sorted(arms.values(), key=order)


def order(arm):
    """Baselines first, then generated views, then controls; a sort key."""
    training = [arm.settings[name] or 0 for name in ("method", "network", "epochs")]
    use = [arm.settings[name] for name in ("mix", "views", "pair")]
    view = (arm.control, arm.strategy != "none", arm.cells["generated view"])
    return (arm.data.name, "supervised" in training, *training, *view, *use)


# ---------------------------------------------------------------- names
def describe(arms):
    """Write the cells of all arms, and what tells equal ones apart.

    A generated view is called after mask, strength, and what not all of its strategy have.
    """
    names, makings = defaultdict(list), defaultdict(list)
    for arm in arms:
        makings[arm.strategy].append(arm.making)
    for arm in arms:
        settings, mix = arm.settings, arm.settings["mix"]
        both = ", both generated" * settings["both_generated"]
        unlike = ["mask", "strength", *differing(makings[arm.strategy])]
        words = [in_words(name, value) for name, value in arm.making.items() if name in unlike]
        view = f"{arm.strategy} ({', '.join(words)})" if words else arm.strategy
        view += ", oracle" * (arm.strategy == "same-class") + ", control" * arm.control
        arm.cells = {
            "data": arm.data.name + f" ({arm.data.lacks})" * bool(arm.data.lacks),
            "method": settings["method"],
            "network": settings["network"],
            "epochs": str(settings["epochs"] or ""),
            "generated view": view,
            "gamma": f"{mix:g}" if mix else "",
            "pair": " ".join(settings["pair"]),
            "views": f"{settings['views']}{both}" if mix else "",
        }
        names[str(arm.cells)].append(arm)
    for group in names.values():
        unlike = differing([arm.settings for arm in group])
        for arm in group:
            words = [in_words(key, arm.settings[key]) for key in unlike if key in arm.settings]
            arm.cells["other"] = ", ".join(words)


def description(arms):
    """(names of the columns that describe these arms, [sentence] on what is the same for all)."""
    names, common = [], []
    for name in arms[0].cells:
        values = {arm.cells[name] for arm in arms} - {""}
        if len(values) > 1 or name == "generated view" or name == "other" and values:
            names.append(name)
        elif values:
            common.append(f"{name} {values.pop()}")
    return names, [f"Common to all that have it: {', '.join(common)}."] * bool(common)


# ---------------------------------------------------------------- partners
def equal(arm, other, names=USE):
    """Whether two arms have these settings in common: without names, how views are used."""
    return all(arm.settings[name] == other.settings[name] for name in names)


def fits(arm, other):
    """{name of a difference: whether `other` may be what is taken from `arm`}.

    For the baseline of equal time the baseline is that of usual length.
    """
    mine, theirs = arm.strategy, other.strategy
    used = equal(arm, other)
    ours, others = [one.settings["epochs"] or 0 for one in (arm, other)]
    usual = of_equal_time(ours, others) if mine == "none" else ours == others
    decoded = used and (mine == theirs or {mine, theirs} <= {"inpaint", "outpaint"})
    mislabelled = other.making == arm.making | {"label": "random"} and not arm.control
    return {
        "minus baseline": theirs == "none" and usual,
        "minus baseline of equal time": theirs == "none" != mine and of_equal_time(others, ours),
        "minus real": theirs == "real" and mine not in ("none", "real") and used,
        "minus reconstruction": decoded and other.reconstruction and not arm.reconstruction,
        "minus random label": mine == theirs and used and mislabelled,
    }


def different_settings(arm, other):
    """Settings of the pretraining in which two arms differ: ["batch size 512 / 768", ...]."""
    words = []
    for name in differing([arm.settings, other.settings]):
        if name in arm.settings and name in other.settings and name not in DESCRIBED:
            words.append(f"{in_words(name, arm.settings[name])} / {other.settings[name]}")
    return words


def partners_of(arm, arms):
    """{name of a difference: the arm}: of those that fit, the one with the most equal settings."""
    alike = []
    for other in arms:
        if other is not arm and arm.data == other.data and equal(arm, other, ["method", "network"]):
            alike.append(other)
    partners = {}
    for other in sorted(alike, key=lambda other: len(different_settings(arm, other))):
        for name, fit in fits(arm, other).items():
            if fit:
                partners.setdefault(name, other)
    return partners


def differences(arms):
    """[(arm, Column, {partner: {"differences" over the same seeds, "different settings"}})]."""
    rows = []
    for arm in arms:
        partners = partners_of(arm, arms)
        for column, ours in sorted(arm.values.items()):
            of_partner = {}
            for name, other in partners.items():
                theirs = other.values.get(column, {})
                if pairs := [ours[seed] - theirs[seed] for seed in ours if seed in theirs]:
                    settings = different_settings(arm, other)
                    of_partner[name] = {"differences": pairs, "different settings": settings}
            if of_partner:
                rows.append((arm, column, of_partner))
    return rows


def gate(rows, points):
    """Why a study must end here: a sentence, "" if every oracle is far enough above its control.

    rows: see `differences`. points: of linear top-1, in each of two or more seeds.
    """
    gaps = {}
    for arm, column, of_partner in rows:
        real = of_partner.get("minus real")
        if arm.strategy == "same-class" and column.name.startswith("linear") and real:
            gaps[str(arm.cells)] = real["differences"]
    if gaps and all(len(gains) > 1 and min(gains) >= points for gains in gaps.values()):
        return ""
    found = "; ".join(", ".join(f"{gain:+.1f}" for gain in gains) for gains in gaps.values())
    return (
        f"The gate is closed: the oracle must be {points:g} points above the real image in each of "
        f"two seeds, and is {found or 'not there'}. This budget cannot tell a good partner from a "
        "bad one: train longer. GATE=0 goes on regardless."
    )


def verdicts(arms, rows, decides):
    """For every oracle: is it clearly above the baseline? Sentences.

    rows: see `differences`. decides: how the name of the measurement begins that was declared to
    answer this; without it an oracle's first one does.
    """
    sentences = []
    for arm in arms:
        if arm.strategy != "same-class":
            continue
        measured = [(column.name, of) for one, column, of in rows if one is arm]
        name, of_partner = min(
            measured, key=lambda pair: not pair[0].startswith(decides), default=("", {})
        )
        gains = of_partner.get("minus baseline", {}).get("differences", [])
        verdict = "This budget can tell a good partner from a bad one."
        if len(gains) < 2:
            verdict = "No interval without two seeds of both: nothing can be said yet."
        elif fmean(gains) <= half_width(gains):
            verdict = (
                "It is not clearly above. This budget cannot tell whether generated views help: "
                "train longer, or on more seeds."
            )
        gain = f" minus baseline {interval(gains)} {name}" if gains else ""
        sentences.append(f"{arm.cells['method']}: oracle{gain}. {verdict}")
    return sentences


# ---------------------------------------------------------------- tables
def arms_table(arms):
    """All arms: what describes them, then one column for each kind of measurement. Below them
    stands what a number must be held against: the majority class, a random network, ...
    """
    names, common = description(arms)
    columns = all_columns(arms)
    rows, baselines = [], defaultdict(lambda: defaultdict(list))
    for arm in arms:
        cells = [arm.cells[name] for name in names]
        for column in columns:
            values = list(arm.values.get(column, {}).values())
            cells.append(spread(values) if values else "")
        rows.append(cells)
        for name, column, value in arm.baselines:
            baselines[name, arm.data.name][column].append(value)
    for (name, data), values in baselines.items():
        cells = [{"data": data, "generated view": name}.get(column, "") for column in names]
        rows.append(cells + [f"{fmean(values[c]):.2f}" if c in values else "" for c in columns])
    header = [*names, *[column.name for column in columns]]
    common.append("± is the standard deviation over the seeds, their number stands in brackets.")
    return table("Your arms", header, rows, common, keys=len(names))


def differences_table(arms, every):
    """Every arm minus its baseline and its controls, over the same seeds. every: `differences`."""
    names, _ = description(arms)
    partners = [name for name in fits(arms[0], arms[0]) if any(name in of for _, _, of in every)]
    header = [*names, "measured", *partners]
    rows, notes = [], {}
    for arm, column, of_partner in every:
        cells = arm.cells | {"measured": column.name}
        for name, about in of_partner.items():
            settings = mark(about["different settings"], notes)
            cells[name] = interval(about["differences"]) + settings
        rows.append([cells.get(name, "") for name in header])
    note = (
        "Mean over the seeds that both have, ± half its 95 % interval (t distribution), number of "
        "seeds. (1): one seed has no interval."
    )
    return table("Paired differences", header, rows, [note], notes, keys=len(names) + 1)
