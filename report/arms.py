"""Arms: the runs of a folder grouped over seeds, side by side, and their paired differences.

Two runs belong to one arm if they differ in the seed alone. An arm is called after what it has
unlike the others. It is held against the baseline (no generated views) and against its controls:
the real image in the place of the generated one, and the generator's reconstruction, in which
nothing was changed. Further partners are the baseline that trained for as much longer as the
generation took, and the images of a generator that was given random classes. Over the same seeds,
what images and seeds have in common cancels in the difference.
"""

import json
import re
from collections import defaultdict
from dataclasses import dataclass, field
from statistics import fmean
from typing import NamedTuple

from report.results import Data, differing, in_words
from report.tables import Notes, half_width, interval, spread, table

NAMES = {
    "linear": "linear top-1",
    "knn": "kNN top-1",
    "few": "{} labels a class, top-1",
    "semi": "{} % top-1",
    "supervised": "supervised top-1",
    "places": "Places{} top-1",
    "voc": "VOC07 mAP",
    "coco": "COCO mAP",
    "folder": "transfer top-1",
}
USE = ("mix", "pair", "views", "both_generated", "epochs")  # of the generated views
ORACLE = {"same-class": ", oracle"}
DESCRIBED = {"method", "network", "strategy", "store_size", *USE}


class Column(NamedTuple):
    """A kind of measurement: where it stands among all, and its name for the reader."""

    place: int
    number: int
    name: str


@dataclass
class Arm:
    """Runs that differ in the seed alone.

    data, settings, making: see Result. backbone: the folder of one of the encoders. mirrors: what
    their augment.json say. values: {Column: {seed: percent}}. baselines: {name: {Column:
    [percent]}}. cells: {name of a column: text} of all that describes the arm. note: what it has in
    common with all arms of its strategy.
    """

    data: Data
    settings: dict
    making: dict
    backbone: str
    mirrors: list
    values: dict
    baselines: dict
    cells: dict = field(default_factory=dict)
    note: str = ""

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
def columns_of(result, unlike=()):
    """{Column: percent} of one result: kNN's where there is one, then its main metric.

    unlike: names of the settings in which evaluations of this kind differ.
    """
    kind, number = re.fullmatch(r"(\D*)(.*)", result.evaluation).groups()
    name = NAMES.get(kind, result.evaluation).format(number)
    if result.cached and kind != "few":  # few labels are always measured on cached features
        name += ", cached features"
    name = ", ".join([name, *[in_words(key, result.measuring.get(key)) for key in unlike]])
    place = list(NAMES).index(kind) if kind in NAMES else len(NAMES)
    main = Column(place, int(number or 0), name)
    columns = {}
    if "knn_top1" in result.values:
        columns[Column(1, 0, NAMES["knn"])] = result.values["knn_top1"]
    for metric in ("top1", "map"):
        if metric in result.values:
            columns[main] = result.values[metric]
    return columns


def all_columns(arms):
    """All Columns of these arms, in order."""
    return sorted({column for arm in arms for column in arm.values})


def arms_of(results):
    """All arms, in the order of their data, method, network, epochs and generated views."""
    kinds, groups = defaultdict(list), defaultdict(list)
    for result in results:
        kinds[result.evaluation, result.cached].append(result.measuring)
        identity = (result.data, result.settings, result.making)
        groups[json.dumps(identity, sort_keys=True)].append(result)
    unlike = {kind: differing(settings) for kind, settings in kinds.items()}
    arms = []
    for group in groups.values():
        first = group[0]
        values = defaultdict(lambda: defaultdict(list))
        baselines = defaultdict(lambda: defaultdict(list))
        for result in group:
            columns = columns_of(result, unlike[result.evaluation, result.cached])
            for column, value in columns.items():
                values[column][result.seed].append(value)
            for name, value in result.baselines.items():
                baselines[name][list(columns)[-1]].append(value)
        for of_seed in values.values():
            for seed in of_seed:
                of_seed[seed] = fmean(of_seed[seed])
        mirrors = [mirror for result in group for mirror in result.mirrors]
        arm = Arm(
            first.data, first.settings, first.making, first.backbone, mirrors, values, baselines
        )
        arms.append(arm)
    describe(arms)
    return sorted(arms, key=order)


def order(arm):
    """Baselines first, then generated views, then controls; a sort key."""
    kind = 0 if arm.strategy == "none" else 2 if arm.control else 1
    training = [arm.settings[name] or 0 for name in ("method", "network", "epochs", "mix", "views")]
    view = (kind, arm.cells["generated view"], *training[3:], arm.settings["pair"])
    return (arm.data.name, arm.settings["method"] == "supervised", *training[:3], *view)


# ---------------------------------------------------------------- names
def describe(arms):
    """Write the cells of all arms: names within one method, and what tells equal names apart."""
    kinds, names = defaultdict(list), defaultdict(list)
    for arm in arms:
        kinds[arm.settings["method"], arm.strategy].append(arm.making)
    for arm in arms:
        settings, lacks = arm.settings, ", ".join(arm.data.lacks)
        unlike = {"mask", "strength", *differing(kinds[settings["method"], arm.strategy])}
        words = [in_words(name, arm.making[name]) for name in arm.making if name in unlike]
        same = [in_words(name, arm.making[name]) for name in arm.making if name not in unlike]
        if same:
            kind = f"{settings['method']} arms with {arm.strategy}"
            arm.note = f"Common to all {kind}: {', '.join(same)}."
        view = f"{arm.strategy} ({', '.join(words)})" if words else arm.strategy
        arm.cells = {
            "data": f"{arm.data.name} ({lacks})" if lacks else arm.data.name,
            "method": settings["method"],
            "network": settings["network"],
            "epochs": str(settings["epochs"] or ""),
            "generated view": view + ", control" * arm.control + ORACLE.get(arm.strategy, ""),
            "gamma": f"{settings['mix']:g}" if settings["mix"] else "",
            "pair": " ".join(settings["pair"]),
            "views": f"{settings['views']}" + ", both generated" * settings["both_generated"],
        }
        if not settings["mix"]:
            arm.cells["views"] = ""
        names[json.dumps([arm.cells, arm.data])].append(arm)
    for group in names.values():
        unlike = differing([arm.settings for arm in group])
        for arm in group:
            words = [in_words(key, arm.settings[key]) for key in unlike if key in arm.settings]
            arm.cells["other"] = ", ".join(words)


def description(arms):
    """(names of the columns that describe these arms, notes on what is the same for all).

    A column is left out if it is the same everywhere, or wherever there is a generated view.
    """
    names, common, of_views = [], [], []
    for name in arms[0].cells:
        of_all = {arm.cells[name] for arm in arms}
        of_generated = {arm.cells[name] for arm in arms if arm.cells["gamma"]}
        if name in ("gamma", "pair", "views") and len(of_generated) == 1:
            of_views.append(f"{name} {of_generated.pop()}")
        elif len(of_all) > 1 or name == "generated view":
            names.append(name)
        elif of_all != {""}:
            common.append(f"{name} {of_all.pop()}")
    notes = [f"Common to all: {', '.join(common)}."] * bool(common)
    notes += [f"Common to all with a generated view: {', '.join(of_views)}."] * bool(of_views)
    return names, notes + sorted({arm.note for arm in arms} - {""})


# ---------------------------------------------------------------- partners
def equal(arm, other, names=USE):
    """Whether two arms have these settings in common: without names, how views are used."""
    return all(arm.settings[name] == other.settings[name] for name in names)


def is_longer(arm, other):
    """Whether `arm` trained for longer than `other`, at most for twice as long."""
    ours, theirs = arm.settings["epochs"], other.settings["epochs"]
    return bool(ours and theirs) and 1 < ours / theirs <= 2


def fits(arm, other):
    """{name of a difference: whether `other` may be what is taken from `arm`}.

    For a longer baseline the baseline is that of usual length.
    """
    mine, theirs = arm.strategy, other.strategy
    used = equal(arm, other)
    usual = is_longer(arm, other) if mine == "none" else equal(arm, other, ["epochs"])
    decoded = used and (mine == theirs or {mine, theirs} <= {"inpaint", "outpaint"})
    mislabelled = other.making == arm.making | {"label": "random"} and not arm.control
    return {
        "minus baseline": theirs == "none" and usual,
        "minus baseline of equal time": theirs == "none" != mine and is_longer(other, arm),
        "minus real": theirs == "real" and mine not in ("none", "real") and used,
        "minus reconstruction": decoded and other.reconstruction and not arm.reconstruction,
        "minus random label": mine == theirs and used and mislabelled,
    }


def different_settings(arm, other):
    """Settings of the pretraining in which two arms differ: ["batch size 512 / 768", ...]."""
    words = []
    for name in differing([arm.settings, other.settings]):
        if name in arm.settings and name in other.settings and name not in DESCRIBED:
            values = f"{arm.settings[name]} / {other.settings[name]}"
            words.append(f"{name.replace('_', ' ')} {values}")
    return words


def partners_of(arm, arms):
    """{name of a difference: the arm}: of those that fit, the one with the most equal settings."""
    fitting = defaultdict(list)
    for other in arms:
        alike = arm.data == other.data and equal(arm, other, ("method", "network"))
        if other is not arm and alike:
            for name, fit in fits(arm, other).items():
                fitting[name] += [other] * fit
    return {
        name: min(others, key=lambda other: len(different_settings(arm, other)))
        for name, others in fitting.items()
        if others
    }


def differences(arms):
    """[(arm, Column, {partner: (differences over the same seeds, different settings)})]."""
    rows = []
    for arm in arms:
        partners = partners_of(arm, arms)
        for column, ours in sorted(arm.values.items()):
            of_partner = {}
            for name, other in partners.items():
                theirs = other.values.get(column, {})
                if pairs := [ours[seed] - theirs[seed] for seed in ours if seed in theirs]:
                    of_partner[name] = pairs, different_settings(arm, other)
            if of_partner:
                rows.append((arm, column, of_partner))
    return rows


def verdicts(arms):
    """For each method with an oracle: is it clearly above the baseline? Sentences."""
    oracles = defaultdict(dict)
    for arm, column, of_partner in differences(arms):
        if arm.strategy == "same-class" and "minus baseline" in of_partner:
            oracles[arm.settings["method"]][column.name], _ = of_partner["minus baseline"]
    sentences = []
    for method, gains in oracles.items():
        listed = ", ".join(f"{interval(values)} {name}" for name, values in gains.items())
        clear = [name for name in gains if fmean(gains[name]) > (half_width(gains[name]) or 100)]
        verdict = (
            "The oracle is not clearly above the baseline. This budget cannot tell whether "
            "generated views help: train longer, or on more seeds."
        )
        if clear:
            verdict = f"This budget can tell a good partner from a bad one, by {', '.join(clear)}."
        sentences.append(f"{method}: oracle minus baseline {listed}. {verdict}")
    return sentences


# ---------------------------------------------------------------- tables
def baselines_of(arms):
    """{(name, data): {Column: mean percent}} of what a number must be held against: the majority
    class, a random network, ...
    """
    every = defaultdict(lambda: defaultdict(list))
    for arm in arms:
        for name, of_column in arm.baselines.items():
            for column, values in of_column.items():
                every[name, arm.data.name][column] += values
    means = {}
    for key, of_column in every.items():
        means[key] = {column: fmean(values) for column, values in of_column.items()}
    return means


def arms_table(arms):
    """All arms: what describes them, then one column for each kind of measurement."""
    names, notes = description(arms)
    columns = all_columns(arms)
    rows = []
    for arm in arms:
        cells = [arm.cells[name] for name in names]
        rows.append(cells + [spread(list(arm.values.get(c, {}).values())) for c in columns])
    for (name, data), values in baselines_of(arms).items():
        cells = [{"data": data, "generated view": name}.get(column, "") for column in names]
        rows.append(cells + [f"{values[c]:.2f}" if c in values else "" for c in columns])
    header = [*names, *[column.name for column in columns]]
    notes.append("± is the standard deviation over the seeds, their number stands in brackets.")
    return table("Your arms", header, rows, notes)


def differences_table(arms):
    """Every arm minus its baseline and its controls, over the same seeds; None if there is none."""
    every = differences(arms)
    if not every:
        return None
    names, _ = description(arms)
    notes = Notes()
    partners = [name for name in fits(arms[0], arms[0]) if any(name in of for _, _, of in every)]
    several = ["measured"] * (len({column for _, column, _ in every}) > 1)
    rows = []
    for arm, column, of_partner in every:
        cells = arm.cells | {"measured": column.name}
        for name, (values, settings) in of_partner.items():
            cells[name] = interval(values) + notes.mark(settings)
        rows.append([cells.get(name, "") for name in (*names, *several, *partners)])
    note = (
        "Mean over the seeds that both have, ± half its 95 % interval (t distribution), number of "
        "seeds."
    )
    header = [*names, *several, *partners]
    return table("Paired differences", header, rows, [note, *notes.lines()])


def as_json(arms):
    """The same as numbers: {"arms": [...], "differences": [...]}."""
    every_arm, every_difference = [], []
    for arm in arms:
        values = {column.name: of_seed for column, of_seed in arm.values.items()}
        settings = {"settings": arm.settings, "making": arm.making}
        every_arm.append(arm.cells | {"values by seed": values} | settings)
    for arm, column, of_partner in differences(arms):
        row = arm.cells | {"measured": column.name}
        for name, (values, settings) in of_partner.items():
            row[name] = {"differences": values, "different settings": settings}
        every_difference.append(row)
    return {"arms": every_arm, "differences": every_difference}
