"""Reading results: every result.json below a folder, as one flat dict of settings.

Used by 07, report/arms.py, report/tables.py, report/cost.py and recipes/preflight.py. Which data
set a run stands for follows from the data itself, its class names and counts. The name of a folder
is shown, but decides nothing.
"""

import json
import os
import re
from pathlib import Path
from typing import NamedTuple

from augment.registry import STRATEGIES
from base import cli, run

DISSERTATION = json.loads((run.ROOT / "report" / "dissertation.json").read_text())
DATA_SETS = DISSERTATION["data"]

# Arguments that tell no two arms apart: places, seeds, machines, what may change when a run is
# resumed, what is asked of an evaluation, and what a Result names anyway.
IGNORED = set(
    "stage data out seed seeds device precision workers checkpoint_minutes inputs images folder "
    "generated generated_by backbone architecture source classes left_out args "
    "log_every knn peak_lr grad_checkpoint colour_on "
    "percent from_scratch cache_features cache_crops labels_per_class draws dataset baselines "
    "subset_file".split()
)
# The same for the arguments of a mirror. Mask and strength are named in any case.
IGNORED_OF_A_MIRROR = IGNORED | set(
    "weights model captions views positions mask strength batch_size strategy".split()
)


class Data(NamedTuple):
    """study: the dissertation's data set that these images stand for, "" for others. name: for the
    reader. classes: their names. lacks: what it has less of than the dissertation's, in words, "".
    """

    study: str
    name: str
    classes: tuple
    lacks: str


class Result(NamedTuple):
    """One result.json.

    evaluation: "linear", "semi1", "few5", "voc07", "supervised", ...; cached: by --cache-features.
    values: {metric: percent}, such as {"top1": 68.7}. baselines: {name: percent}. settings: those
    of the training, with "strategy": how the generated views were made ("none", "real", "inpaint",
    ...). making: mask, strength, and what differs from the defaults in the making of the views.
    measuring: the settings of the evaluation. mirrors: what their augment.json say.
    """

    evaluation: str
    cached: bool
    values: dict
    baselines: dict
    seed: int | None
    data: Data
    settings: dict
    making: dict
    measuring: dict
    mirrors: list

    @property
    def facts(self):
        """All settings in one dict."""
        return self.making | self.measuring | self.settings


def differing(dicts):
    """The names, sorted, in which not all of several dicts of settings are equal."""
    names = []
    for name in sorted(set().union(*dicts)):
        values = {json.dumps(settings.get(name), sort_keys=True) for settings in dicts}
        if len(values) > 1:
            names.append(name)
    return names


def of_equal_time(longer, usual):
    """Whether so many epochs take as long as `usual` ones and the in-painting of all images: by the
    dissertation a quarter more, here between a fifth and three tenths, as epochs are whole.
    """
    return 1.2 * usual <= longer <= 1.3 * usual


def in_words(name, value):
    """A setting and its value, such as "32 px"."""
    if name == "epochs":
        return "1 epoch" if value == 1 else f"{value} epochs"
    words = {"network": value, "size": f"{value} px"}
    return words.get(name, f"{name.replace('_', ' ')} {value}")


# ---------------------------------------------------------------- generated views
def making_of(mirror):
    """{"mask": "center", "steps": 6}: mask and strength, and what differs from the defaults."""
    name, args = mirror["strategy"], mirror["args"]
    making = {}
    if args.get("mask"):
        making["mask"] = re.sub(r"^random:0(\.0*)?$", "none", args["mask"])
    if "strength" in args:  # of the part of the mirror that was used
        making["strength"] = str(args["strength"]).strip("[]")
    flags = cli.parser("")
    if name in STRATEGIES:
        STRATEGIES[name].add_arguments(flags)
    for key in sorted(args.keys() - IGNORED_OF_A_MIRROR):
        if args[key] != flags.get_default(key):
            making[key] = args[key]
    return making


def generation(made_by):
    """(strategy, making) of a run's generated views. made_by: its mirrors' augment.json."""
    if not made_by:
        return "none", {}
    if made_by == ["real"]:
        return "real", {}
    making = {}
    for mirror in made_by:
        making |= making_of(mirror)
    return " + ".join(dict.fromkeys(mirror["strategy"] for mirror in made_by)), making


def generators_of(mirrors):
    """Names and digests of the weights that made the views: two arms may differ in nothing else.

    mirrors: their augment.json. Published weights have no name here.
    """
    names = []
    for mirror in mirrors:
        digests = mirror.get("inputs", {}).get("weights sha256")
        weights = mirror["args"].get("weights")
        if digests and weights:
            digest = run.names_hash(map(str, digests.values()))
            names.append(f"{Path(weights).name} {digest[:6]}")
    return " + ".join(dict.fromkeys(names))


# ---------------------------------------------------------------- data
def class_list(*path):
    """The names of the classes of ImageNet in a file of this project."""
    text = run.ROOT.joinpath(*path).read_text()
    return set(re.findall(r"^n\d{8}", text, re.MULTILINE))


def study_of(classes, images):
    """The dissertation's data set that has these class names, or part of them; "" for others.

    Where there are no class names, the number of training images decides.
    """
    if not classes:
        return next((study for study in DATA_SETS if DATA_SETS[study]["train"] == images), "")
    names = set(classes)
    if names <= class_list("recipes", "imagenet100.txt"):
        return "imagenet100"
    if names <= class_list("augment", "imagenet_synsets.txt"):
        return "imagenet"
    return "satellite" if names == set(DATA_SETS["satellite"]["names"]) else ""


def data_of(classes, images, folder):
    """The Data of a run. images: number of training images. folder: where they were."""
    study = study_of(classes, images)
    if not study:
        path = Path(folder or "?")
        if path.name == "train":
            path = path.parent
        return Data("", path.name, classes, "")
    whole = DATA_SETS[study]
    lacks = ""
    if classes and len(classes) < whole["classes"]:
        lacks = f"{len(classes)} of {whole['classes']:,} classes"
    elif images and images < whole["train"]:
        lacks = f"{images:,} of {whole['train']:,} training images"
    return Data(study, whole["name"], classes, lacks)


# ---------------------------------------------------------------- one result
def evaluation_of(stage, args):
    """The name of an evaluation."""
    if stage.startswith("06_transfer"):
        return stage.split()[1]
    if stage.startswith("05"):
        return "supervised" if args.get("from_scratch") else f"semi{args['percent']:g}"
    return f"few{args['labels_per_class']}" if args.get("labels_per_class") else "linear"


def read_result(result):
    """The content of one result.json as a Result."""
    args, stage = result["args"], result["stage"]
    backbone = result["backbone"] | result["backbone"].get("args", {})
    evaluation = evaluation_of(stage, args)
    supervised = evaluation == "supervised"
    transfer = stage.startswith("06")
    mix = backbone.get("mix") or 0
    use = backbone if mix else {}
    made_by = use.get("generated_by", [])
    mirrors = [mirror for mirror in made_by if mirror != "real"]
    strategy, making = generation(made_by)
    training = args if supervised else backbone
    settings = {key: training[key] for key in training.keys() - IGNORED}
    settings |= {
        "method": "supervised" if supervised else backbone.get("method") or backbone.get("source"),
        "network": training.get("backbone") or training.get("architecture") or "",
        "epochs": training.get("epochs"),
        "strategy": strategy,
        "mix": mix,
        "pair": sorted(use.get("pair", [])),
        "views": use.get("views", 1),
        "both_generated": bool(use.get("both_generated")),
    }
    if generator := generators_of(mirrors):
        settings["generator"] = generator
    measuring = {}
    if not supervised:
        measuring = {f"{evaluation} {key}": args[key] for key in args.keys() - IGNORED}
    named = backbone.get("classes", ()) if transfer else result.get("per_class", ())
    classes = tuple(sorted(named))
    images = backbone.get("images") or result.get("images", {}).get("train")
    folder = backbone.get("data") if transfer else args.get("data")
    values = {}
    for metric, value in result["results"].items():
        if isinstance(value, dict):
            values[metric] = value["mean"]
    baselines = {}
    for name, measured in result.get("baselines", {}).items():
        baselines[name] = measured["top1"]["mean"]
    return Result(
        evaluation=evaluation,
        cached=bool(args.get("cache_features")),
        values=values,
        baselines=baselines,
        seed=backbone.get("seed", args.get("seed")),
        data=data_of(classes, images, folder),
        settings=settings,
        making=making,
        measuring=measuring,
        mirrors=mirrors,
    )


# ---------------------------------------------------------------- all results
def files_below(folder, name):
    """The files of this name below a folder: [Path]. No mirror is entered."""
    if not Path(folder).is_dir():
        run.fail(f"{folder} is not a folder: give the folder that holds the runs.", 2)
    files = []
    for top, folders, names in os.walk(folder, followlinks=True):
        if name in names:
            files.append(Path(top, name))
        folders[:] = [] if "augment.json" in names else sorted(folders)
    return files


def read_study(source):
    """{"runs": {folder: its result.json}, "cost": cost.json}: what stands below a folder, or in a
    file of `merge`.
    """
    if Path(source).is_file():
        return {"runs": {}, "cost": {}} | run.read_json(source)
    runs = {}
    for file in files_below(source, "result.json"):
        runs[str(file.parent.relative_to(source))] = run.read_json(file)
    costs = files_below(source, "cost.json")
    return {"runs": runs, "cost": run.read_json(costs[-1]) if costs else {}}


def read_runs(source):
    """All Results below a folder, or of a file of `merge`."""
    return results_of(read_study(source), source)


def results_of(study, source):
    """All Results of what `read_study` returned. What is not ours ends the report with its name."""
    results = []
    for name, result in study["runs"].items():
        try:
            results.append(read_result(result))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            run.fail(
                f"{source}: {name} holds no result of this project's evaluations "
                f"({type(error).__name__}: {error}): move it out of the folder."
            )
    return results


def merge(new, file):
    """Add what `read_study` returned to a JSON file, which keeps a study whose runs are gone.

    A run that stands there already is replaced if it has the same settings, else refused.
    """
    run.lock(Path(file))
    kept = read_study(file) if Path(file).exists() else {"runs": {}, "cost": {}}
    for name, result in new["runs"].items():
        result.pop("confusion", None)
        result["backbone"].pop("folder", None)  # where it was started
        for mirror in result["backbone"].get("generated_by", []):
            if mirror != "real":
                mirror["args"].pop("data", None)  # a path of that machine
        ours = read_result(result)
        theirs = read_result(kept["runs"].get(name, result))
        if (ours.facts, ours.data, ours.seed) != (theirs.facts, theirs.data, theirs.seed):
            unlike = ", ".join(differing([ours.facts, theirs.facts])) or "data or seed"
            run.fail(f"{file} has {name} with another {unlike}: name another file.", 2)
        kept["runs"][name] = result
    run.write_json(file, {"runs": kept["runs"], "cost": new["cost"] or kept["cost"]})
