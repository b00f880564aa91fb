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

from report.results import Result, differing, in_words
from report.tables import Notes, half_width, interval, spread, table

NAMES = {
    "linear": "linear top-1",
    "knn": "kNN top-1",
    "supervised": "supervised top-1",
    "places365": "Places365 top-1",
    "voc07": "VOC07 mAP",
    "coco": "COCO mAP",
    "folder": "transfer top-1",
}
USE = ("mix", "pair", "views", "both_generated", "epochs")  # of the generated views
DESCRIBED = {"method", "network", "strategy", *USE}  # what the cells of an arm say in any case


class Column(NamedTuple):
    """A kind of measurement. how: the settings in which evaluations of this kind differ."""

    evaluation: str
    cached: bool
    metric: str
    how: str = ""

    @property
    def name(self):
        name = NAMES.get(self.evaluation, self.evaluation)
        if self.evaluation.startswith("semi"):
            name = f"{self.evaluation[4:]} % top-1"
        elif few := self.evaluation.removeprefix("few").isdigit() and self.evaluation[3:]:
            name = f"{few} label{'s' * (few != '1')} a class, top-1"
        return name + (", cached features" if self.cached else "") + self.how

    @property
    def order(self):
        """Linear and kNN first, then fewer labels, then other data; a sort key."""
        place = list(NAMES).index(self.evaluation) if self.evaluation in NAMES else 1.5
        kind, number = re.fullmatch(r"(\D*)(.*)", self.evaluation).groups()
        return place, kind, number.zfill(9), self.cached, self.how


@dataclass
class Arm:
    """Runs that differ in the seed alone.

    first: any of their Results. cells: {name of a column: text} of all that describes the arm.
    values: {Column: {seed: percent}}. baselines: {name: {Column: [percent]}}.
    """

    first: Result
    mirrors: list
    values: dict
    baselines: dict
    cells: dict = field(default_factory=dict)

    @property
    def strategy(self):
        return self.first.settings["strategy"]

    @property
    def reconstruction(self):
        """Whether nothing was changed: the images only went through the generator's decoder."""
        making = self.first.making
        return making.get("mask") == "none" or making.get("strength") == "0.0"

    @property
    def control(self):
        """Whether it is there to be compared with: nothing generated, or a wrong label."""
        return self.strategy == "real" or self.reconstruction or "label" in self.first.making


# ---------------------------------------------------------------- grouping
def columns_of(result, how=""):
    """The Columns of one result: its main metric, and kNN's where there is one."""
    columns = []
    for metric in ("map", "top1"):
        if metric in result.values and not columns:
            cached = result.cached and not result.evaluation.startswith("few")  # few: always
            columns.append(Column(result.evaluation, cached, metric, how))
    if "knn_top1" in result.values:
        columns.append(Column("knn", False, "knn_top1"))
    return columns


def measured_how(results):
    """{(evaluation, cached): the names of the settings in which such evaluations differ}."""
    kinds = defaultdict(list)
    for result in results:
        kinds[result.evaluation, result.cached].append(result.measuring)
    return {kind: differing(settings) for kind, settings in kinds.items()}


def arms_of(results):
    """All arms, in the order of their data, method, network, epochs and generated views."""
    how = measured_how(results)
    groups = defaultdict(list)
    for result in results:
        identity = (result.data, result.settings, result.making)
        groups[json.dumps(identity, sort_keys=True)].append(result)
    arms = []
    for group in groups.values():
        values = defaultdict(lambda: defaultdict(list))
        baselines = defaultdict(lambda: defaultdict(list))
        mirrors = {}
        for result in group:
            unlike = how[result.evaluation, result.cached]
            words = [f", {in_words(name, result.measuring.get(name))}" for name in unlike]
            columns = columns_of(result, "".join(words))
            for column in columns:
                values[column][result.seed].append(result.values[column.metric])
            for name, value in result.baselines.items():
                baselines[name][columns[0]].append(value)
            for mirror in result.mirrors:
                mirrors[mirror.get("folder", "")] = mirror
        means = {}
        for column, of_seed in values.items():
            means[column] = {seed: fmean(several) for seed, several in of_seed.items()}
        arms.append(Arm(group[0], list(mirrors.values()), means, baselines))
    describe(arms)
    arms.sort(key=order)
    return arms


def order(arm):
    """Baselines first, then generated views, then controls; a sort key."""
    kind = 0 if arm.strategy == "none" else 2 if arm.control else 1
    settings, view = arm.first.settings, arm.cells["generated view"]
    supervised = settings["method"] == "supervised"
    training = (settings["method"], settings["network"], settings.get("epochs") or 0)
    use = (settings["mix"], settings["views"], settings["pair"])
    return (arm.first.data.name, supervised, *training, kind, view, *use)


# ---------------------------------------------------------------- names
def likes(arm, arms):
    """The making of all arms of one method and strategy: an arm is named within these."""
    settings = [(other.first.settings["method"], other.strategy) for other in arms]
    own = arm.first.settings["method"], arm.strategy
    return [other.first.making for other, key in zip(arms, settings, strict=True) if key == own]


def describe(arms):
    """Write the cells of all arms: names within one method, and what tells equal names apart."""
    names = defaultdict(list)
    for arm in arms:
        settings, making, data = arm.first.settings, arm.first.making, arm.first.data
        unlike = differing(likes(arm, arms))
        words = []
        for name, value in making.items():
            if name in unlike or name in ("mask", "strength"):
                words.append(in_words(name, value))
        view = f"{arm.strategy} ({', '.join(words)})" if words else arm.strategy
        ending = ", control" if arm.control else ", oracle" * (arm.strategy == "same-class")
        lacks = f" ({', '.join(data.lacks)})" if data.lacks else ""
        views = f"{settings['views']}" + ", both generated" * settings["both_generated"]
        arm.cells = {
            "data": data.name + lacks,
            "method": settings["method"],
            "network": settings["network"],
            "epochs": f"{settings.get('epochs') or ''}",
            "generated view": view + ending,
            "gamma": f"{settings['mix']:g}" if settings["mix"] else "",
            "pair": " ".join(settings["pair"]),
            "views": views if settings["mix"] else "",
            "other": "",
        }
        names[json.dumps([arm.cells, data.classes])].append(arm)
    for group in names.values():
        unlike = differing([arm.first.settings for arm in group])
        for arm in group:
            settings = arm.first.settings
            words = [in_words(name, settings[name]) for name in unlike if name in settings]
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
    notes = {"": common, " with a generated view": of_views}
    for arm in arms:
        making = likes(arm, arms)
        same = arm.first.making.keys() - {"mask", "strength", *differing(making)}
        words = [in_words(name, arm.first.making[name]) for name in sorted(same)]
        notes[f" {arm.cells['method']} arms with {arm.strategy}"] = words
    return names, [f"Common to all{of}: {', '.join(notes[of])}." for of in notes if notes[of]]


# ---------------------------------------------------------------- partners
def partner(arm, arms, fits):
    """The arm to hold `arm` against: of those that fit, the one with the most equal settings."""
    fitting = []
    for other in arms:
        alike = arm.first.data == other.first.data and equal(arm, other, ("method", "network"))
        if other is not arm and alike and fits(arm, other):
            fitting.append(other)
    return min(fitting, key=lambda other: len(different_settings(arm, other)), default=None)


def equal(arm, other, names=USE):
    """Whether two arms have these settings in common: without names, how views are used."""
    ours, theirs = arm.first.settings, other.first.settings
    return all(ours.get(name) == theirs.get(name) for name in names)


def different_settings(arm, other):
    """Settings of the pretraining in which two arms differ: ["batch size 512 / 768", ...]."""
    ours, theirs = arm.first.settings, other.first.settings
    words = []
    for name in differing([ours, theirs]):
        if name in ours and name in theirs and name not in DESCRIBED | {"store_size"}:
            words.append(f"{name.replace('_', ' ')} {ours[name]} / {theirs[name]}")
    return words


def is_longer(arm, other):
    """Whether `arm` trained for longer than `other`, at most for twice as long."""
    ours, theirs = (one.first.settings.get("epochs") for one in (arm, other))
    return bool(ours and theirs) and 1 < ours / theirs <= 2


def is_baseline(arm, other):
    """For the baseline of equal time that is the baseline of usual length."""
    fits = is_longer(arm, other) if arm.strategy == "none" else equal(arm, other, ["epochs"])
    return other.strategy == "none" and fits


def is_baseline_of_equal_time(arm, other):
    return arm.strategy != "none" and other.strategy == "none" and is_longer(other, arm)


def is_real_control(arm, other):
    return arm.strategy not in ("none", "real") and other.strategy == "real" and equal(arm, other)


def is_random_label(arm, other):
    if arm.control or arm.strategy != other.strategy or not equal(arm, other):
        return False
    return other.first.making == arm.first.making | {"label": "random"}


def is_reconstruction(arm, other):
    paintings = {"inpaint", "outpaint"}  # they share one decoder
    same = arm.strategy == other.strategy or {arm.strategy, other.strategy} <= paintings
    return same and equal(arm, other) and other.reconstruction and not arm.reconstruction


PARTNERS = {
    "minus baseline": is_baseline,
    "minus baseline of equal time": is_baseline_of_equal_time,
    "minus real": is_real_control,
    "minus reconstruction": is_reconstruction,
    "minus random label": is_random_label,
}


def differences(arms):
    """[(arm, Column, {partner: (differences over the same seeds, different settings)})]."""
    rows = []
    for arm in arms:
        partners = {name: partner(arm, arms, fits) for name, fits in PARTNERS.items()}
        for column in sorted(arm.values, key=lambda column: column.order):
            ours = arm.values[column]
            of_partner = {}
            for name, other in partners.items():
                theirs = other.values.get(column, {}) if other else {}
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
            oracles[arm.cells["method"]][column.name], _ = of_partner["minus baseline"]
    sentences = []
    for method, gains in oracles.items():
        listed = ", ".join(f"{interval(values)} {name}" for name, values in gains.items())
        clear = []
        for name, values in gains.items():
            if len(values) > 1 and fmean(values) > half_width(values):
                clear.append(name)
        verdict = (
            "The oracle is not clearly above the baseline. This budget cannot tell whether "
            "generated views help: train longer, or on more seeds."
        )
        if clear:
            verdict = f"This budget can tell a good partner from a bad one, by {', '.join(clear)}."
        sentences.append(f"{method}: oracle minus baseline {listed}. {verdict}")
    return sentences


# ---------------------------------------------------------------- tables
def all_columns(arms):
    """All Columns of these arms, in order."""
    columns = {column for arm in arms for column in arm.values}
    return sorted(columns, key=lambda column: column.order)


def arms_table(arms):
    """All arms: what describes them, then one column for each kind of measurement."""
    names, notes = description(arms)
    columns = all_columns(arms)
    rows = []
    for arm in arms:
        cells = [arm.cells[name] for name in names]
        for column in columns:
            values = list(arm.values.get(column, {}).values())
            cells.append(spread(values) if values else "")
        rows.append(cells)
    for (name, data), values in baselines_of(arms).items():
        cells = [{"data": data, "generated view": name}.get(column, "") for column in names]
        rows.append(cells + [f"{values[c]:.2f}" if c in values else "" for c in columns])
    header = [*names, *[column.name for column in columns]]
    notes.append("± is the standard deviation over the seeds, their number stands in brackets.")
    return table("Your arms", header, rows, notes)


def baselines_of(arms):
    """{(name, data): {Column: mean percent}} of what a number must be held against: the majority
    class, a random network, ...
    """
    merged = defaultdict(lambda: defaultdict(list))
    for arm in arms:
        for name, of_column in arm.baselines.items():
            for column, values in of_column.items():
                merged[name, arm.first.data.name][column] += values
    means = {}
    for key, of_column in merged.items():
        means[key] = {column: fmean(values) for column, values in of_column.items()}
    return means


def differences_table(arms):
    """Every arm minus its baseline and its controls, over the same seeds; None if there is none."""
    every = differences(arms)
    if not every:
        return None
    names, _ = description(arms)
    remarks = Notes()
    partners = [name for name in PARTNERS if any(name in of for _, _, of in every)]
    several = len({column for _, column, _ in every}) > 1
    rows = []
    for arm, column, of_partner in every:
        cells = [arm.cells[name] for name in names] + [column.name] * several
        for name in partners:
            values, settings = of_partner.get(name, ([], []))
            cells.append(interval(values) + remarks.mark(settings) if values else "")
        rows.append(cells)
    note = (
        "Mean over the seeds that both have, ± half its 95 % interval (t distribution), number of "
        "seeds."
    )
    header = [*names, *["measured"] * several, *partners]
    return table("Paired differences", header, rows, [note, *remarks.lines()])


def as_json(arms):
    """The same as numbers: {"arms": [...], "differences": [...]}."""
    every_arm, every_difference = [], []
    for arm in arms:
        values = {column.name: of_seed for column, of_seed in arm.values.items()}
        settings = {"settings": arm.first.settings, "making": arm.first.making}
        every_arm.append(arm.cells | {"values by seed": values} | settings)
    for arm, column, of_partner in differences(arms):
        row = arm.cells | {"measured": column.name}
        for name, (values, settings) in of_partner.items():
            row[name] = {"differences": values, "different settings": settings}
        every_difference.append(row)
    return {"arms": every_arm, "differences": every_difference}
