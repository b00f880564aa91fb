"""Reading results: every result.json below a folder, as one flat record that says what was run.

Which data set a run stands for follows from the data itself, its class names and counts. The name
of a folder is shown, but decides nothing.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from augment.registry import STRATEGIES
from base import cli, run

DISSERTATION = json.loads((run.ROOT / "report" / "dissertation.json").read_text())
DATA_SETS = DISSERTATION["data"]

# Arguments that cannot tell two arms apart: places, seeds, machines, what may change when a run is
# resumed, and what a Result names anyway. First those of a pretraining, then of an evaluation.
PLACES = "stage data out seed seeds device precision workers checkpoint_minutes inputs images"
SHOWN = (
    "generated generated_by both_generated backbone method mix pair views epochs architecture "
    "source classes"
)
WITHOUT_EFFECT = "log_every knn knn_every peak_lr grad_checkpoint colour_on left_out args"
NOT_OF_AN_ARM = set(f"{PLACES} {SHOWN} {WITHOUT_EFFECT}".split())
ASKED = "backbone architecture percent from_scratch cache_features labels_per_class draws dataset"
NOT_OF_AN_EVALUATION = set(
    f"{PLACES} {ASKED} knn baselines eval_every download subset_file".split()
)
# The same for the arguments of a mirror. Mask and strength are named in any case.
FILES = "weights model backbone captions views positions mask strength data out seed batch_size"
NOT_OF_A_MIRROR = set(f"{PLACES} {FILES} vae_slicing vae_tiling variant strategy".split())


@dataclass
class Result:
    """One result.json.

    values: {metric: percent}, such as {"top1": 68.7}. evaluation: "linear", "semi1", "few5",
    "voc07", ...; cached: by --cache-features. study: the dissertation's data set that the run
    stands for ("" for others), data: its name for the reader, lacks: what it has less of.
    strategy: how the generated views were made ("none", "real", "inpaint", ...), detail: with
    which settings beyond the defaults. settings: all other arguments that could matter.
    """

    file: Path
    evaluation: str
    cached: bool
    values: Mapping
    baselines: Mapping
    seed: int | None
    study: str
    data: str
    classes: tuple
    lacks: list
    val: int | None
    method: str
    network: str
    epochs: int | None
    size: int | None
    batch_size: int | None
    strategy: str
    detail: str
    mix: float
    pair: list
    views: int
    both_generated: bool
    supervised: bool
    sha256: str | None
    backbone: str
    mirrors: list
    settings: Mapping = field(default_factory=dict)

    @property
    def parts(self):
        """The details as a set: {"mask center", "steps 6"}."""
        return set(self.detail.split(", ")) - {""}

    @property
    def reconstruction(self):
        """Whether nothing was changed: the images only went through the generator's decoder."""
        nothing = {"mask none", "mask random:0", "mask random:0.0", "strength 0.0"}
        return bool(self.parts & nothing)

    @property
    def label(self):
        """What a class-conditional generator was given: "true", "random", or "one" for all."""
        for part in self.parts:
            if part.startswith("label "):
                return "random" if part == "label random" else "one"
        return "true"

    @property
    def control(self):
        """Whether it is there to be compared with: nothing generated, or a wrong label."""
        return self.strategy == "real" or self.reconstruction or self.label != "true"


# ---------------------------------------------------------------- generated views
def strengths_of(mirror):
    """The strengths of a diffusion mirror, or of the part of it that was used."""
    places = [mirror.get("folder", ""), *mirror.get("views", [])]
    found = []
    for place in places:
        if named := re.search(r"strength([\d.]+)", place):
            found.append(float(named[1]))
            if place is places[0]:
                return found
    if found:
        return sorted(set(found))
    given = mirror["args"].get("strength", [])
    return [float(strength) for strength in (given if isinstance(given, list) else [given])]


def details_of(mirror):
    """["mask center", "steps 6", ...]: mask and strength, and what differs from the defaults."""
    name, args = mirror["strategy"], mirror["args"]
    details = []
    if "mask" in args:
        details.append(f"mask {args['mask']}")
    if strengths := strengths_of(mirror):
        details.append("strength " + " ".join(str(strength) for strength in strengths))
    if name in STRATEGIES:
        flags = cli.parser("")
        STRATEGIES[name].add_arguments(flags)
        for key, value in sorted(args.items()):
            if key not in NOT_OF_A_MIRROR and value != flags.get_default(key):
                details.append(f"{key.replace('_', ' ')} {value}")
    return details


def generation(made_by):
    """(strategy, detail) of a run's generated views. made_by: its mirrors' augment.json."""
    if not made_by:
        return "none", ""
    if made_by == ["real"]:
        return "real", ""
    names = dict.fromkeys(mirror["strategy"] for mirror in made_by)
    details = dict.fromkeys(", ".join(details_of(mirror)) for mirror in made_by)
    return " + ".join(names), " + ".join(detail for detail in details if detail)


def generators_of(mirrors):
    """Names and digests of the weights that made the views: two arms may differ in nothing else.

    mirrors: their augment.json. Published weights have no name here.
    """
    names = []
    for mirror in mirrors:
        digests = mirror.get("inputs", {}).get("weights sha256")
        weights = mirror["args"].get("weights")
        if digests and weights:
            digest = run.names_hash(sorted(map(str, digests.values())))
            names.append(f"{Path(weights).name} {digest[:6]}")
    return " + ".join(dict.fromkeys(names))


# ---------------------------------------------------------------- data
def synsets():
    """The names of the 1,000 classes of ImageNet."""
    lines = (run.ROOT / "augment" / "imagenet_synsets.txt").read_text().split()
    return {line for line in lines if re.fullmatch(r"n\d{8}", line)}


def imagenet100():
    """The names of the 100 classes of ImageNet-100."""
    lines = (run.ROOT / "recipes" / "imagenet100.txt").read_text().split()
    return {line for line in lines if re.fullmatch(r"n\d{8}", line)}


def study_of(classes, images):
    """The dissertation's data set that has these class names, or part of them; "" for others.

    Where there are no class names, the number of training images decides.
    """
    names = set(classes)
    if not names:
        found = [study for study, whole in DATA_SETS.items() if whole["train"] == images]
        return found[0] if found else ""
    if names <= imagenet100():
        return "imagenet100"
    if names <= synsets():
        return "imagenet"
    if names == set(DATA_SETS["satellite"]["names"]):
        return "satellite"
    return ""


def lacks_of(study, classes, images):
    """What the data has less of than the dissertation's: ["4 of 1,000 classes"], ..."""
    if not study:
        return []
    whole = DATA_SETS[study]
    if classes and len(classes) < whole["classes"]:
        return [f"{len(classes)} of {whole['classes']:,} classes"]
    if images and images < whole["train"]:
        return [f"{images:,} of {whole['train']:,} training images"]
    return []


def name_of(study, folder):
    """The name of the data for the reader: the dissertation's, else the folder's."""
    if study:
        return DATA_SETS[study]["name"]
    path = Path(folder or "?")
    inner = ("train", "val", "valid", "validation", "test")
    return path.parent.name if path.name in inner and path.parent.name else path.name


# ---------------------------------------------------------------- one result
def evaluation_of(stage, args):
    """(evaluation, whether the network was trained from scratch with labels)."""
    if stage.startswith("06_transfer"):
        return stage.split()[1], False
    if stage.startswith("05"):
        if args.get("from_scratch"):
            return "supervised", True
        return f"semi{args['percent']:g}", False
    if args.get("labels_per_class"):
        return f"few{args['labels_per_class']}", False
    return "linear", False


def class_names(result):
    """The names of the classes that an evaluation told apart."""
    for key in ("per_class", "average_precision", "confusion"):
        if key in result:
            return tuple(sorted(result[key]))
    return ()


def means(results):
    """{metric: mean} of the metrics that have one."""
    found = {}
    for metric, value in results.items():
        if isinstance(value, dict) and "mean" in value:
            found[metric] = value["mean"]
    return found


def read_result(file):
    """One result.json as a Result."""
    result = run.read_json(file)
    args, backbone, stage = result["args"], result["backbone"], result["stage"]
    backbone = backbone | backbone.get("args", {})
    pretrained = "method" in backbone
    evaluation, supervised = evaluation_of(stage, args)
    transfer = stage.startswith("06")
    trained = args if supervised else backbone  # where the training's arguments stand
    if pretrained:
        strategy, detail = generation(backbone.get("generated_by", []))
        method = backbone["method"]
    else:
        strategy, detail = "none", ""
        method = "supervised" if supervised else backbone.get("source") or "?"
    mix = backbone.get("mix") or 0
    if mix == 0:
        strategy, detail = "none", ""
    measured = result.get("images", {})
    images = backbone.get("images") or measured.get("train")
    if transfer:
        classes = tuple(backbone.get("classes", ()))
    else:
        classes = class_names(result)
    study = study_of(classes, images)
    settings = {}
    for key, value in backbone.items():
        if pretrained and key not in NOT_OF_AN_ARM:
            settings[key] = value
    mirrors = [one for one in backbone.get("generated_by", []) if one != "real"] if mix else []
    if generator := generators_of(mirrors):
        settings["generator"] = generator
    for key, value in args.items():
        if key not in NOT_OF_AN_EVALUATION:
            settings[f"{evaluation} {key}"] = value
    baselines = {}
    for name, found in result.get("baselines", {}).items():
        if "top1" in found:
            baselines[name] = found["top1"]["mean"]
    return Result(
        file=file,
        evaluation=evaluation,
        cached=bool(args.get("cache_features")),
        values=means(result["results"]),
        baselines=baselines,
        seed=backbone.get("seed", args.get("seed")),
        study=study,
        data=name_of(study, backbone.get("data") if transfer else args.get("data")),
        classes=classes,
        lacks=lacks_of(study, classes, images),
        val=None if transfer else measured.get("val"),
        method=method,
        network=trained.get("backbone") or trained.get("architecture") or "",
        epochs=trained.get("epochs"),
        size=trained.get("size"),
        batch_size=trained.get("batch_size"),
        strategy=strategy,
        detail=detail,
        mix=mix,
        pair=sorted(backbone.get("pair", [])) if mix else [],
        views=backbone.get("views", 1) if mix else 1,
        both_generated=bool(mix and backbone.get("both_generated")),
        supervised=supervised,
        sha256=result.get("backbone_sha256"),
        backbone=str(args.get("backbone") or ""),
        mirrors=mirrors,
        settings=settings,
    )


# ---------------------------------------------------------------- all results
def read_runs(folder):
    """All Results below a folder. A file that is not ours ends the report with its name."""
    folder = Path(folder)
    if not folder.is_dir():
        run.fail(f"{folder} is not a folder: give the folder that holds the runs.", 2)
    found = []
    for place, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if "result.json" in files:
            file = Path(place) / "result.json"
            try:
                found.append(read_result(file))
            except (KeyError, TypeError, AttributeError, ValueError) as error:
                run.fail(
                    f"{file} is not a result of this project's evaluations "
                    f"({type(error).__name__}: {error}): move it out of the folder."
                )
    complete_transfers(found)
    return found


def complete_transfers(results):
    """Give transfers the data of their pretraining, which another result of the encoder names."""
    of_encoder = {}
    for result in results:
        if result.classes and result.sha256:
            of_encoder[result.sha256] = result
    for result in results:
        other = of_encoder.get(result.sha256)
        if other and not result.classes:
            result.study = other.study
            result.data = other.data
            result.lacks = other.lacks
            result.classes = other.classes
