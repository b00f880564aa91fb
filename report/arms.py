"""Arms: the runs of a folder grouped over seeds, side by side, and their paired differences.

Used by 07 and report/figures.py. Two runs belong to one arm if they differ in the seed alone. An
arm is called after what it has unlike the others. It is held against the baseline (no generated
views) and against its controls: the real image in the place of the generated one, and the
generator's reconstruction, in which nothing was changed. Further partners are the baseline that
trained for as long as generation and training together, and the images of a generator that was
given random classes. Over the same seeds, what images and seeds have in common cancels in the
difference.
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
    kind, number = re.match(r"(\D*)(\d*)", result.evaluation).groups()
    name = NAMES.get(kind, result.evaluation).format(number, "s" * (number != "1"))
    if result.cached and kind != "few":  # few labels are always measured on cached features
        name += ", cached features"
    for key in unlike:
        name += f", {in_words(key, result.measuring.get(key))}"
    values = result.values
    columns = {}
    if "knn_top1" in values:
        columns[Column(1, 0, NAMES["knn"])] = values["knn_top1"]
    place = [*NAMES, kind].index(kind)  # a data set of one's own stands last
    column = Column(place, int(number or 0), name)
    columns[column] = values.get("map", values.get("top1"))
    return columns


def all_columns(arms):
    """All Columns of these arms, in order."""
    return sorted({column for arm in arms for column in arm.values})


def kind_of(result):
    """What has one column: a method and a network may have evaluation settings of their own."""
    settings = result.settings
    return result.evaluation, result.cached, settings["method"], settings["network"]


def arms_of(results):
    """All arms, in the order of their data, method, network, epochs and generated views."""
    kinds = defaultdict(list)
    for result in results:
        kinds[kind_of(result)].append(result.measuring)
    arms = {}
    for result in results:
        identity = (result.data, result.settings, result.making)
        key = json.dumps(identity, sort_keys=True)
        arm = arms.setdefault(key, Arm(*identity, []))
        arm.mirrors += result.mirrors
        unlike = differing(kinds[kind_of(result)])
        for column, value in columns_of(result, unlike).items():
            arm.values[column][result.seed] = value
        for name, value in result.baselines.items():
            arm.baselines.append((name, column, value))
    describe(arms.values())
    return sorted(arms.values(), key=order)


def order(arm):
    """Baselines first, then generated views, then controls; a sort key."""
    settings = arm.settings
    return (
        arm.data.name,
        settings["method"] == "supervised",
        settings["method"],
        settings["network"],
        settings["epochs"] or 0,
        arm.control,
        arm.strategy != "none",
        arm.cells["generated view"],
        settings["mix"],
        settings["views"],
        settings["pair"],
    )


# ---------------------------------------------------------------- names
def describe(arms):
    """Write the cells of all arms, and what tells equal ones apart.

    A generated view is called after mask, strength, and what not all of its strategy have.
    """
    makings = defaultdict(list)
    for arm in arms:
        makings[arm.strategy].append(arm.making)
    names = defaultdict(list)
    for arm in arms:
        settings = arm.settings
        view = arm.strategy
        unlike = ["mask", "strength", *differing(makings[view])]
        words = [in_words(key, arm.making[key]) for key in arm.making if key in unlike]
        if words:
            view += f" ({', '.join(words)})"
        view += ", oracle" * (arm.strategy == "same-class")
        view += ", control" * arm.control
        gamma = views = ""
        if settings["mix"]:
            gamma = f"{settings['mix']:g}"
            views = str(settings["views"])
            views += ", both generated" * settings["both_generated"]
        arm.cells = {
            "data": arm.data.name + f" ({arm.data.lacks})" * bool(arm.data.lacks),
            "method": settings["method"],
            "network": settings["network"],
            "epochs": str(settings["epochs"] or ""),
            "generated view": view,
            "gamma": gamma,
            "pair": " ".join(settings["pair"]),
            "views": views,
        }
        names[str(arm.cells)].append(arm)
    for group in names.values():
        unlike = differing([arm.settings for arm in group])
        for arm in group:
            words = [in_words(key, arm.settings[key]) for key in unlike if key in arm.settings]
            arm.cells["other"] = ", ".join(words)


def description(arms):
    """(names of the columns that describe these arms, [sentence] on what is the same for all)."""
    names = []
    common = []
    for name in arms[0].cells:
        values = {arm.cells[name] for arm in arms} - {""}
        if len(values) > 1 or name == "generated view" or name == "other" and values:
            names.append(name)
        elif values:
            common.append(f"{name} {values.pop()}")
    sentences = []
    if common:
        sentences.append(f"Common to all that have it: {', '.join(common)}.")
    return names, sentences


# ---------------------------------------------------------------- partners
def equal(arm, other, names=USE):
    """Whether two arms have these settings in common: without names, how views are used."""
    return all(arm.settings[name] == other.settings[name] for name in names)


def fits(arm, other):
    """{name of a difference: whether `other` may be what is taken from `arm`}.

    For the baseline of equal time the baseline is that of usual length.
    """
    mine = arm.strategy
    theirs = other.strategy
    used = equal(arm, other)
    ours, others = [one.settings["epochs"] or 0 for one in (arm, other)]
    generated = mine not in ("none", "real")
    usual = of_equal_time(ours, others) if mine == "none" else ours == others
    longer = mine != "none" and of_equal_time(others, ours)
    painted = {mine, theirs} <= {"inpaint", "outpaint"}
    decoded = other.reconstruction and not arm.reconstruction
    mislabelled = other.making == arm.making | {"label": "random"} and not arm.control
    return {
        "minus baseline": theirs == "none" and usual,
        "minus baseline of equal time": theirs == "none" and longer,
        "minus real": theirs == "real" and generated and used,
        "minus reconstruction": used and decoded and (mine == theirs or painted),
        "minus random label": used and mislabelled and mine == theirs,
    }


def different_settings(arm, other):
    """Settings of the pretraining in which two arms differ: ["batch size 512 / 768", ...]."""
    shared = arm.settings.keys() & other.settings.keys() - DESCRIBED
    words = []
    for name in sorted(shared):
        ours = arm.settings[name]
        theirs = other.settings[name]
        if ours != theirs:
            words.append(f"{in_words(name, ours)} / {theirs}")
    return words


def partners_of(arm, arms):
    """{name of a difference: the arm}: of those that fit, the one with the most equal settings."""
    alike = []
    for other in arms:
        trained_alike = equal(arm, other, ["method", "network"])
        if trained_alike and other is not arm and other.data == arm.data:
            alike.append(other)
    alike.sort(key=lambda other: len(different_settings(arm, other)))
    partners = {}
    for other in alike:
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
                    of_partner[name] = {
                        "differences": pairs,
                        "different settings": different_settings(arm, other),
                    }
            if of_partner:
                rows.append((arm, column, of_partner))
    return rows


def gate(rows, points):
    """Why a study must end here: a sentence, "" if every oracle is far enough above its control.

    rows: see `differences`. points: of linear top-1, in each of the first two seeds.
    """
    gaps = {}
    for arm, column, of_partner in rows:
        real = of_partner.get("minus real")
        if arm.strategy == "same-class" and column.name.startswith("linear") and real:
            gaps[str(arm.cells)] = real["differences"]
    low = []
    found = []
    for gains in gaps.values():
        found.append(", ".join(f"{gain:+.1f}" for gain in gains))
        low.append(len(gains) == 1 or min(gains[:2]) < points)
    if found and not any(low):
        return ""
    return (
        f"The gate is closed: the oracle must be {points:g} points above the real image in each of "
        f"two seeds, and is {'; '.join(found) or 'not there'}. This budget cannot tell a good "
        "partner from a bad one: train longer. GATE=0 goes on regardless."
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
        name, of_partner = "", {}
        for one, column, of in reversed(rows):
            if one is arm and column.name.startswith(decides):
                name, of_partner = column.name, of
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
        sentences.append(f"{arm.cells['method']}: oracle{gain}.\n{verdict}")
    return sentences


# ---------------------------------------------------------------- tables
def arms_table(arms):
    """All arms: what describes them, then one column for each kind of measurement. Below them
    stands what a number must be held against: the majority class, a random network, ...
    """
    names, common = description(arms)
    columns = all_columns(arms)
    header = [*names, *[column.name for column in columns]]
    lines = []
    baselines = defaultdict(lambda: defaultdict(list))
    for arm in arms:
        cells = dict(arm.cells)
        for column, of_seed in arm.values.items():
            cells[column.name] = spread(list(of_seed.values()))
        lines.append(cells)
        for name, column, value in arm.baselines:
            baselines[name, arm.data.name][column.name].append(value)
    for (name, data), measured in baselines.items():
        cells = {"data": data, "generated view": name}
        for column, values in measured.items():
            cells[column] = f"{fmean(values):.2f}"
        lines.append(cells)
    rows = [[cells.get(name, "") for name in header] for cells in lines]
    common.append("± is the standard deviation over the seeds, their number stands in brackets.")
    return table("Your arms", header, rows, common, keys=len(names))


def differences_table(arms, every):
    """Every arm minus its baseline and its controls, over the same seeds. every: `differences`."""
    names, _ = description(arms)
    found = set().union(*[of_partner for _, _, of_partner in every])
    partners = [name for name in fits(arms[0], arms[0]) if name in found]
    header = [*names, "measured", *partners]
    rows = []
    notes = {}
    for arm, column, of_partner in every:
        cells = arm.cells | {"measured": column.name}
        for name, about in of_partner.items():
            cells[name] = interval(about["differences"])
            cells[name] += mark(about["different settings"], notes)
        rows.append([cells.get(name, "") for name in header])
    note = (
        "Mean over the seeds that both have, ± half its 95 % interval (t distribution), number of "
        "seeds. (1): one seed has no interval."
    )
    return table("Paired differences", header, rows, [note], notes, keys=len(names) + 1)
