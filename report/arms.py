"""Arms: the runs of a folder grouped over seeds, side by side, and their paired differences.

Two runs belong to one arm if they differ in the seed alone. An arm is held against the baseline (no
generated views) and against its controls: the real image in the place of the generated one, and the
generator's reconstruction, in which nothing was changed. Further partners are the baseline that
trained for as much longer as the generation took, and the images of a generator that was given
random classes. Over the same seeds, what images and seeds have in common cancels in the difference.
"""

import json
import re
from collections import defaultdict
from dataclasses import dataclass
from statistics import fmean

from report.tables import Notes, interval, spread, table

NAMES = {
    "linear": "linear top-1",
    "knn": "kNN top-1",
    "supervised": "supervised top-1",
    "places365": "Places365 top-1",
    "voc07": "VOC07 mAP",
    "coco": "COCO mAP",
    "folder": "transfer top-1",
}


@dataclass(frozen=True)
class Column:
    """A kind of measurement: evaluation, metric, and whether it was on cached features."""

    evaluation: str
    cached: bool
    metric: str

    @property
    def name(self):
        name = NAMES.get(self.evaluation)
        if self.evaluation.startswith("semi"):
            name = f"{self.evaluation[4:]} % top-1"
        elif self.evaluation.startswith("few"):
            name = f"{self.evaluation[3:]} labels a class, top-1"
        return (name or self.evaluation) + (", cached features" if self.cached else "")


@dataclass
class Arm:
    """Runs that differ in the seed alone.

    results: their Results. other: {setting: value} of the settings that tell this arm from arms
    that are equal otherwise. values: {Column: {seed: percent}}.
    """

    results: list
    other: dict
    values: dict

    @property
    def one(self):
        """Any of the Results, for what they have in common."""
        return self.results[0]

    @property
    def generated(self):
        """How the generated views were made, for the reader."""
        run = self.one
        if run.strategy == "none":
            return "none"
        name = f"{run.strategy} ({run.detail})" if run.detail else run.strategy
        if run.strategy == "same-class":
            return f"{name}, oracle"
        return f"{name}, control" if run.control else name

    @property
    def cells(self):
        """{name of a column: text} of all that describes the arm."""
        run = self.one
        lacks = f" ({', '.join(run.lacks)})" if run.lacks else ""
        views = f"{run.views}, both generated" if run.both_generated else str(run.views)
        found = {
            "data": run.data + lacks,
            "method": run.method,
            "network": run.network,
            "epochs": "" if run.epochs is None else str(run.epochs),
            "generated view": self.generated,
            "gamma": f"{run.mix:g}" if run.mix else "",
            "pair": " ".join(run.pair),
            "views": views if run.mix else "",
        }
        settings = [f"{key.replace('_', ' ')} {value}" for key, value in self.other.items()]
        return found | {"other": ", ".join(settings)}


# ---------------------------------------------------------------- grouping
def columns_of(result):
    """The Columns of one result: its main metric, and kNN's where there is one."""
    found = []
    if "map" in result.values:
        found.append(Column(result.evaluation, result.cached, "map"))
    elif "top1" in result.values:
        few = result.evaluation.startswith("few")  # always on cached features
        found.append(Column(result.evaluation, result.cached and not few, "top1"))
    if "knn_top1" in result.values:
        found.append(Column("knn", False, "knn_top1"))
    return found


def likeness(result):
    """What two runs of one arm have in common in any case."""
    names = ("data", "classes", "method", "network", "epochs", "strategy", "detail", "mix", "pair")
    values = [getattr(result, name) for name in (*names, "views", "both_generated", "supervised")]
    return json.dumps(values)


def telling_settings(results):
    """Names of the settings in which runs differ that are measured alike and equal otherwise.

    Settings that follow from what describes an arm anyway are not among them.
    """
    groups = defaultdict(list)
    for result in results:
        groups[likeness(result), result.evaluation, result.cached].append(result.settings)
    telling = set()
    for group in groups.values():
        for key in set().union(*group):
            values = {json.dumps(settings.get(key), sort_keys=True) for settings in group}
            if len(values) > 1:
                telling.add(key)
    return sorted(telling)


def arms_of(results):
    """All arms, in the order of their data, method, network, epochs and generated views."""
    telling = telling_settings(results)
    groups = defaultdict(list)
    for result in results:
        other = {key: result.settings[key] for key in telling if key in result.settings}
        groups[likeness(result), json.dumps(other, sort_keys=True)].append(result)
    arms = []
    for (_, other), group in groups.items():
        values = defaultdict(lambda: defaultdict(list))
        for result in group:
            for column in columns_of(result):
                values[column][result.seed].append(result.values[column.metric])
        means = {}
        for column, of_seed in values.items():
            means[column] = {seed: fmean(found) for seed, found in of_seed.items()}
        arms.append(Arm(group, json.loads(other), means))
    arms.sort(key=order)
    return arms


def order(arm):
    """Baselines first, then generated views, then controls; a sort key."""
    run = arm.one
    kind = 0 if run.strategy == "none" else 2 if run.control else 1
    arm_itself = (kind, run.strategy, run.detail, run.mix, run.views, run.pair)
    return (run.data, run.supervised, run.method, run.network, run.epochs or 0, *arm_itself)


# ---------------------------------------------------------------- partners
def partner(arm, arms, fits):
    """The arm to hold `arm` against: of those that fit, the one with the most equal settings."""
    alike = ("data", "classes", "method", "network")
    found = []
    for other in arms:
        same = all(getattr(arm.one, name) == getattr(other.one, name) for name in alike)
        if other is not arm and same and fits(arm.one, other.one):
            found.append(other)
    if not found:
        return None
    return min(found, key=lambda other: len(different_settings(arm, other)))


def different_settings(arm, other):
    """Settings of the pretraining in which two arms differ: ["batch size 512 / 768", ...]."""
    first, second = arm.one.settings, other.one.settings
    found = []
    for key in sorted(first.keys() & second.keys()):
        if first[key] != second[key] and key != "store_size" and " " not in key:
            found.append(f"{key.replace('_', ' ')} {first[key]} / {second[key]}")
    return found


def is_baseline(one, other):
    """For the baseline of equal time that is the baseline of usual length."""
    if other.strategy != "none":
        return False
    return is_longer(one, other) if one.strategy == "none" else one.epochs == other.epochs


def is_longer(one, other):
    """Whether `one` trained for longer than `other`, at most for twice as long."""
    return bool(one.epochs and other.epochs) and 1 < one.epochs / other.epochs <= 2


def is_baseline_of_equal_time(one, other):
    return one.strategy != "none" and other.strategy == "none" and is_longer(other, one)


def is_real_control(one, other):
    return one.strategy not in ("none", "real") and other.strategy == "real" and placed(one, other)


def is_random_label(one, other):
    same = one.strategy == other.strategy and placed(one, other)
    return same and other.label == "random" and other.parts == one.parts | {"label random"}


def is_reconstruction(one, other):
    if one.strategy in ("none", "real") or one.reconstruction or not other.reconstruction:
        return False
    paintings = {"inpaint", "outpaint"}  # they share one decoder
    same = one.strategy == other.strategy or {one.strategy, other.strategy} <= paintings
    return same and placed(one, other)


def placed(one, other):
    """Whether the generated views are used in the same way, for the same number of epochs."""
    names = ("mix", "pair", "views", "both_generated", "epochs")
    return all(getattr(one, name) == getattr(other, name) for name in names)


PARTNERS = {
    "minus baseline": is_baseline,
    "minus baseline of equal time": is_baseline_of_equal_time,
    "minus real": is_real_control,
    "minus reconstruction": is_reconstruction,
    "minus random label": is_random_label,
}


def differences(arms):
    """[(arm, Column, {partner: (differences over the same seeds, different settings)})]."""
    found = []
    for arm in arms:
        partners = {name: partner(arm, arms, fits) for name, fits in PARTNERS.items()}
        for column in sorted(arm.values, key=column_order):
            of_partner = {}
            for name, other in partners.items():
                theirs = other.values.get(column, {}) if other else {}
                ours = arm.values[column]
                seeds = [seed for seed in ours if seed in theirs]
                if seeds:
                    pairs = [ours[seed] - theirs[seed] for seed in seeds]
                    of_partner[name] = (pairs, different_settings(arm, other))
            if of_partner:
                found.append((arm, column, of_partner))
    return found


# ---------------------------------------------------------------- tables
def description(arms):
    """(names of the columns that describe these arms, notes on what is the same for all).

    A column is left out if it is the same everywhere, or wherever there is a generated view.
    """
    names, common, of_views = [], [], []
    for name in arms[0].cells:
        of_all = {arm.cells[name] for arm in arms}
        of_generated = {arm.cells[name] for arm in arms if arm.one.mix}
        if name in ("gamma", "pair", "views") and len(of_generated) == 1:
            of_views.append(f"{name} {of_generated.pop()}")
        elif len(of_all) > 1 or name == "generated view":
            names.append(name)
        elif of_all != {""}:
            common.append(f"{name} {of_all.pop()}")
    notes = []
    if common:
        notes.append(f"Common to all: {', '.join(common)}.")
    if of_views:
        notes.append(f"Common to all with a generated view: {', '.join(of_views)}.")
    return names, notes


def arms_table(arms):
    """All arms: what describes them, then one column for each kind of measurement."""
    names, notes = description(arms)
    columns = sorted({column for arm in arms for column in arm.values}, key=column_order)
    rows = []
    for arm in arms:
        cells = [arm.cells[name] for name in names]
        for column in columns:
            values = list(arm.values.get(column, {}).values())
            cells.append(spread(values) if values else "")
        rows.append(cells)
    rows += baseline_rows(arms, names, columns)
    header = [*names, *[column.name for column in columns]]
    notes.append("± is the standard deviation over the seeds, their number stands in brackets.")
    return table("Your arms", header, rows, notes)


def column_order(column):
    """Linear and kNN first, then fewer labels, then other data; a sort key."""
    place = list(NAMES).index(column.evaluation) if column.evaluation in NAMES else 1.5
    kind = re.sub(r"\d", "", column.evaluation)
    number = re.sub(r"\D", "", column.evaluation).zfill(9)  # few5 before few20
    return place, kind, number, column.cached


def baseline_rows(arms, names, columns):
    """Rows of what a number must be held against: the majority class, a random network, ..."""
    found = defaultdict(lambda: defaultdict(list))
    for result in [result for arm in arms for result in arm.results]:
        for name, value in result.baselines.items():
            found[name, result.data][columns_of(result)[0]].append(value)
    rows = []
    for (name, data), values in found.items():
        cells = {"data": data, "generated view": name}
        row = [cells.get(column, "") for column in names]
        for column in columns:
            row.append(f"{fmean(values[column]):.2f}" if column in values else "")
        rows.append(row)
    return rows


def differences_table(arms):
    """Every arm minus its baseline and its controls, over the same seeds; None if there is none."""
    found = differences(arms)
    if not found:
        return None
    names, _ = description(arms)
    remarks = Notes()
    partners = [name for name in PARTNERS if any(name in of for _, _, of in found)]
    several = len({column for _, column, _ in found}) > 1
    rows = []
    for arm, column, of_partner in found:
        cells = [arm.cells[name] for name in names]
        cells += [column.name] if several else []
        for name in partners:
            values, settings = of_partner.get(name, ([], []))
            cells.append(interval(values) + remarks.mark(settings) if values else "")
        rows.append(cells)
    note = (
        "Mean over the seeds that both have, ± half its 95 % interval (t distribution), number of "
        "seeds."
    )
    header = [*names, *(["measured"] if several else []), *partners]
    return table("Paired differences", header, rows, [note, *remarks.lines()])


def as_json(arms):
    """The same as numbers: {"arms": [...], "differences": [...]}."""
    every_arm, every_difference = [], []
    for arm in arms:
        values = {}
        for column, of_seed in arm.values.items():
            values[column.name] = {str(seed): value for seed, value in of_seed.items()}
        every_arm.append(arm.cells | {"values by seed": values, "settings": arm.one.settings})
    for arm, column, of_partner in differences(arms):
        row = arm.cells | {"measured": column.name}
        for name, (values, settings) in of_partner.items():
            row[name] = {"differences": values, "different settings": settings}
        every_difference.append(row)
    return {"arms": every_arm, "differences": every_difference}
