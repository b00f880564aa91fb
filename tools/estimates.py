"""What the recipes cost: hours and disk from their own commands, memory from the real networks.

    python tools/estimates.py stages     the stages on ImageNet
    python tools/estimates.py recipes    the recipes, as they stand and as shorter studies
    python tools/estimates.py memory     a training step of every method

Operations are counted on the networks themselves, on tensors without data. Hours are operations
over a rate, which is a share of what RTX 3090 cards compute at best. Images must be read as fast:
what a core prepares is assumed, too, and tells how many cores keep up with the cards. Nothing here
is measured on such cards. The recipes' headers and the tables of docs/costs.md and
recipes/README.md quote what this prints, and a test compares them.
"""

import importlib
import os
import shlex
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "extras"), str(ROOT / "recipes")]

import memory
import operations
from preflight import gigabytes_of, views_of

PEAK = 71e12  # FLOP/s of an RTX 3090 in bf16 with float32 sums (NVIDIA's GA102 white paper)
SHARE = {  # of the peak, assumed
    "resnet": 1 / 4,  # BatchNorm and ReLU wait for the memory; a vision transformer's encoder too
    "generator": 1 / 3,  # large matrix products and convolutions
    "caption": 1 / 10,  # one word after the other
}
PAIRS = 230  # ImageNet's JPEGs a second that a core makes two views of (tools/bench.py views)
CROPS = 330  # the same of one crop
BYTES_PER_PIXEL_PNG = 2.0  # of a photograph
BACKBONE_GB = 0.1  # that a finished pretraining leaves

IMAGENET = 1_281_167
IMAGENET100 = 126_689
CIFAR10 = 50_000
WILDFIRE = 30_250
WILDFIRE_ALL = 42_850  # with those to evaluate on
TRANSFER = {  # images for training and for evaluation
    "places365": 1_803_460 + 36_500,
    "voc07": 5_011 + 4_952,
    "coco": 82_783 + 40_504,
}
RECIPES = {  # name: images to train on
    "table2_features": IMAGENET,
    "table3_pairing": IMAGENET,
    "table4_mixing": IMAGENET,
    "table5_transfer": IMAGENET,
    "table6_cost": IMAGENET,
    "table7_summary": IMAGENET,
    "figure30_strength": IMAGENET100,
    "figure31_views": IMAGENET100,
    "figure33_satellite": WILDFIRE,
    "dino_vit": IMAGENET100,
}
IMAGENET_STAGES = {
    "in-painting, 12 steps": "02_augment inpaint",
    "out-painting, nine views": "02_augment outpaint",
    "noise": "02_augment noise",
    "BLIP captions": "01_caption",
    "SDXL-Turbo, one strength": "02_augment diffusion --no-caption",
    "VICReg, 100 epochs": "03_pretrain",
    "Barlow Twins, 100 epochs": "03_pretrain --method barlow",
    "SimCLR, 100 epochs": "03_pretrain --method simclr",
    "BYOL, 100 epochs": "03_pretrain --method byol",
    "SwAV, 100 epochs": "03_pretrain --method swav",
    "DINO, 100 epochs, --grad-checkpoint": "03_pretrain --method dino --grad-checkpoint",
    "DINO with ViT-S/16, the same": "03_pretrain --method dino --grad-checkpoint "
    "--backbone vit_small_patch16",
    "linear evaluation, 100 epochs": "04_linear_eval --backbone B",
    "fine-tuning on 1 %": "05_semisup_eval --backbone B --percent 1",
    "fine-tuning on 10 %": "05_semisup_eval --backbone B --percent 10",
}


SHORT = "STUDY=imagenet100 DATA=data/imagenet100 STRENGTHS="
DECIDES = "STRATEGIES=inpaint GAMMAS=0.5 SEMIS= CONTROLS="
STUDIES = {  # smaller studies: (GPUs, recipe, images, environment)
    "the week that decides, on four cards": (
        4,
        "table4_mixing",
        IMAGENET,
        f"{DECIDES}random-label",
    ),
    "two days on four cards": (
        4,
        "table4_mixing",
        IMAGENET100,
        f'STUDY=imagenet100 DATA=data/imagenet100 SEEDS="0 1 2" {DECIDES}"random-label oracle"',
    ),
    "three days on four cards": (4, "table7_summary", IMAGENET100, f'{SHORT} SEEDS="0 1 2"'),
    "one night on one card": (
        1,
        "table7_summary",
        IMAGENET100,
        f'{SHORT} RUNS=runs/night ARMS="inpaint:0.5 real:0.5" SEEDS="0 1" '
        "LINEAR=--cache-features "
        'PRETRAIN="--backbone resnet18 --size 112 --batch-size 512 --projector 2048-2048-2048"',
    ),
    "CIFAR-10, an hour on one card": (1, "cifar10", CIFAR10, "BUDGET=hour"),
    "CIFAR-10, a night on one card": (1, "cifar10", CIFAR10, "BUDGET=night"),
    "CIFAR-10, as published, on four cards": (4, "cifar10", CIFAR10, "BUDGET=full"),
}


class Work(NamedTuple):
    kind: str  # generation, pretraining or evaluation
    rate: str  # a key of SHARE
    flop: float
    seen: float = 0  # images that are processed, in all epochs together
    gigabytes: float = 0  # left on the disk
    core: float = CROPS  # images a second that a core reads

    def hours(self, gpus=4):
        return self.flop / (gpus * PEAK * SHARE[self.rate]) / 3600


# ---------------------------------------------------------------- the work of a command
# made: {folder: what a command of the same recipe has put there}, for the commands that use it.
def train_generator(args, images, made):
    steps = args.epochs * (images // args.batch_size)
    if args.model == "vqgan":
        config = {
            "filters": args.filters,
            "multipliers": args.multipliers,
            "blocks": args.blocks,
            "codes": args.codes,
            "dim": args.code_dim,
            "groups": args.groups,
            "unshuffle": args.unshuffle,
        }
        encoder, decoder = operations.tokenizer_parts(config, args.size)
        patch = args.unshuffle * 2 ** (len(args.multipliers) - 1)
        tokens = (args.size // patch) ** 2
        painter = operations.Painter(args.size, encoder, decoder, transformer=0)
        made[args.out] = config, tokens, painter
        each = 3 * (encoder + decoder)
        if args.perceptual_weight:
            # Two images forward, one backward, and once more backward for the adaptive weight.
            each += 4 * operations.perceptual(args.size)
        if args.gan_weight:
            # One forward and two backward for the generator; two images, three each, for itself.
            each += 9 * operations.critic(args.size)
    else:
        config, tokens, painter = made[args.tokenizer]
        transformer_config = {
            "codes": config["codes"],
            "classes": 0,
            "tokens": tokens,
            "layers": args.layers,
            "dim": args.dim,
            "heads": args.heads,
            "mlp": 4 * args.dim,
        }
        flop = operations.transformer(transformer_config)
        made[args.out] = config, tokens, painter._replace(transformer=flop)
        each = 3 * flop
    seen = steps * args.batch_size
    return Work("generation", "generator", seen * each, seen)


def train_diffusion(args, images, made):
    unet = operations.unet(args)
    made[args.out] = 0, unet, 0, 0  # it works on pixels, without text
    seen = args.epochs * (images // args.batch_size) * args.batch_size
    return Work("generation", "generator", 3 * seen * unet, seen)


def datasets(args, images, made):
    """No network; Figure 33 resizes all images of its data."""
    if args.name != "resize":
        return Work("generation", "generator", 0)
    gigabytes = WILDFIRE_ALL * args.size**2 * BYTES_PER_PIXEL_PNG / 1e9
    return Work("generation", "generator", 0, WILDFIRE_ALL, gigabytes)


def caption(args, images, made):
    flop = operations.blip(args.num_beams, args.max_tokens)
    return Work("generation", "caption", images * flop, images)


def augment(args, images, made):
    if args.strategy in ("inpaint", "outpaint"):
        flop, size = paint(args, made)
    elif args.strategy in ("noise", "feature-noise"):
        flop = args.views * operations.icgan()
        size = 256
    elif args.strategy in ("crop", "jitter", "blur", "same-class", "neighbour"):
        flop, size = 0, args.size  # no network; the search is done on the processor
        if args.strategy == "neighbour":
            flop = operations.resnet(*made[args.backbone])
    else:
        parts = made[args.model] if args.model in made else operations.sdxl_turbo()
        encoder, unet, decoder, texts = parts
        flop = encoder + texts
        for strength in args.strength:
            steps = (args.steps or (50 if args.model in made else 0)) * strength
            steps = max(1, int(steps)) if strength else 0
            flop += decoder + steps * unet
        size = args.store_size
    gigabytes = gigabytes_of(images * views_of(args), size)
    return Work("generation", "generator", images * flop, images, gigabytes)


def paint(args, made):
    """(FLOPs of an image, side of a view in pixels) of an in- or out-painting."""
    painter = made[args.weights][2] if args.weights else operations.published_painter()
    reconstructs = args.strategy == "inpaint" and args.mask == "none"
    steps = 0 if reconstructs else args.steps
    return views_of(args) * painter.flop(steps), painter.size


def pretrain(args, images, made):
    pretraining = importlib.import_module("03_pretrain")
    recipe = pretraining.complete(args)
    made[args.out] = args.backbone, args.size, args.small_images * recipe["stem_padding"]
    seen = args.epochs * (images // args.batch_size) * args.batch_size
    return Work("pretraining", "resnet", seen * step_flop(args, recipe), seen, BACKBONE_GB, PAIRS)


def step_flop(args, recipe):
    """FLOPs of one image in a step of 03_pretrain.py."""
    names = "method preset backbone small_images size views projector local_crops local_size"
    key = [getattr(args, name) for name in names.split()]
    key = (*key, args.grad_checkpoint)
    if key not in step_flop.known:
        model = importlib.import_module("03_pretrain").build_model(args, recipe, normalisation=None)
        crops = memory.crop_shapes(args, 8)
        step_flop.known[key] = memory.count_flop(model, crops, args.grad_checkpoint) / 8
    return step_flop.known[key]


step_flop.known = {}


def pass_flop(args, made):
    """FLOPs of one image through the backbone that is evaluated: ResNet-50 if nothing is known."""
    network, trained_size, small = made.get(args.backbone, ("resnet50", 224, False))
    return operations.resnet(network, args.size or trained_size, small)


def linear(args, images, made):
    seen = images if args.cache_features else images * args.epochs
    return Work("evaluation", "resnet", seen * pass_flop(args, made), seen)


def fine_tune(args, images, made):
    importlib.import_module("05_semisup_eval").fill_in(args, "vicreg")
    flop = 3 * pass_flop(args, made)
    if args.from_scratch:
        flop = 3 * operations.resnet(args.architecture, args.size, args.small_images)
    seen = args.epochs * images * args.percent / 100
    return Work("evaluation", "resnet", seen * flop, seen)


def transfer(args, images, made):
    seen = TRANSFER[args.dataset]
    return Work("evaluation", "resnet", seen * pass_flop(args, made), seen)


WORK = {  # without what takes minutes: 07_metrics.py, and IC-GAN's augmenters of extras/
    "recipes/datasets": datasets,
    "00_train_generator": train_generator,
    "01_caption": caption,
    "02_augment": augment,
    "extras/feature_noise": augment,
    "03_pretrain": pretrain,
    "04_linear_eval": linear,
    "05_semisup_eval": fine_tune,
    "06_transfer": transfer,
    "extras/train_diffusion": train_diffusion,
}


# ---------------------------------------------------------------- recipes
def commands(recipe, environment):
    """[(stage, its parsed arguments)] of all that the recipe would run."""
    folders = {"DATA": "/data", "PLACES": "/places", "VOC": "/voc", "COCO": "/coco"}
    dry = {"DRY": "1", "TINY": "", "GPUS": "1"}
    done = subprocess.run(
        ["bash", f"recipes/{recipe}.sh"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | folders | dry | environment,
    )
    if done.returncode:
        raise SystemExit(f"recipes/{recipe}.sh: {done.stderr}")
    found = []
    for line in done.stdout.splitlines():
        words = shlex.split(line) if line.startswith("$ python") else []
        stage = words[2].removesuffix(".py") if words else None
        if stage in WORK:
            found.append(parse(stage, words[3:]))
    return found


def parse(stage, words):
    module = importlib.import_module(Path(stage).name)
    if not hasattr(module, "arguments"):  # a strategy of its own: the command is 02's
        module = importlib.import_module("02_augment")
    return stage, module.arguments(words)


def work_of(recipe, images, environment=()):
    """The work of a recipe, command by command."""
    made = {}
    found = commands(recipe, dict(environment))
    return [WORK[stage](args, images, made) for stage, args in found]


def number(value):
    """At least two digits, such as 120, 12 or 1.2."""
    return f"{value:.0f}" if value >= 9.95 else f"{value:.1f}"


def summary(work, gpus=4):
    """[hours of generation, of pretraining, of evaluation, of all; gigabytes], as text."""
    columns = []
    for kind in ("generation", "pretraining", "evaluation"):
        hours = [one.hours(gpus) for one in work if one.kind == kind]
        columns.append(number(sum(hours)))
    columns.append(number(sum(one.hours(gpus) for one in work)))
    columns.append(number(sum(one.gigabytes for one in work)))
    return columns


def header(recipe):
    """The two lines of a recipe's header that say what it costs."""
    generation, pretraining, evaluation, together, gigabytes = summary(
        work_of(recipe, RECIPES[recipe])
    )
    return (
        f"# Estimated on 4 x RTX 3090: {together} hours (generation {generation}, pretraining "
        f"{pretraining}, evaluation {evaluation})\n# and {gigabytes} GB of disk."
    )


# ---------------------------------------------------------------- tables
def row(*cells):
    return f"| {' | '.join(cells)} |"


def stage_row(name):
    """Operations of an image, hours for ImageNet, how many images a second must be read, and by how
    many cores.
    """
    stage, *words = IMAGENET_STAGES[name].split()
    if stage != "04_linear_eval" and stage != "05_semisup_eval":
        words += ["--out", "O"]
    _, args = parse(stage, [*words, "--data", "D"])
    work = WORK[stage](args, IMAGENET, {})
    hours = work.hours()
    rate = work.seen / hours / 3600
    cores = f"{max(1, rate / work.core):.0f}"
    return row(name, f"{work.flop / work.seen / 1e9:.0f}", number(hours), f"{rate:,.0f}", cores)


def memory_row(method, local_crops):
    """GiB of a step without and with --grad-checkpoint, for one, two and three generated views."""
    words = f"--data D --out O --method {method} --local-crops {local_crops}".split()
    _, args = parse("03_pretrain", words)
    pretraining = importlib.import_module("03_pretrain")
    recipe = pretraining.complete(args)
    optimizer = partial(pretraining.build_optimizer, recipe=recipe)
    cells = []
    for args.views, images in VIEWS.items():
        model = pretraining.build_model(args, recipe, normalisation=None)
        crops = memory.crop_shapes(args, images)
        plain = memory.count_step(model, optimizer, crops)["peak"]
        less = memory.count_step(model, optimizer, crops, grad_checkpoint=True)["peak"]
        cells.append(f"{plain:.1f} / {less:.1f}")
    return row(method, str(local_crops), *cells)


VIEWS = {1: 200, 2: 128, 3: 96}  # generated views: images a GPU, of four, by default
MEMORY = [("vicreg", 0), ("barlow", 0), ("simclr", 0), ("byol", 0)]
MEMORY += [("swav", 0), ("swav", 6), ("dino", 6), ("dino --backbone vit_small_patch16", 6)]


def recipe_row(name):
    return row(name, *summary(work_of(name, RECIPES[name])))


def study_row(name):
    gpus, recipe, images, environment = STUDIES[name]
    variables = dict(word.split("=", 1) for word in shlex.split(environment))
    work = work_of(recipe, images, variables)
    return row(name, *summary(work, gpus))


def print_table(titles, rows):
    print(row(*titles))
    print(row(*["---"] * len(titles)))
    for line in rows:
        print(line, flush=True)


def main(what):
    if what == "stages":
        titles = ("ImageNet", "GFLOP an image", "hours on 4 x RTX 3090", "images a second")
        titles = (*titles, "cores that read them")
        print_table(titles, (stage_row(name) for name in IMAGENET_STAGES))
    elif what == "recipes":
        titles = ("recipe", "generation", "pretraining", "evaluation", "hours together", "GB")
        print_table(titles, (recipe_row(name) for name in RECIPES))
        print()
        for name, (_, recipe, _, environment) in STUDIES.items():
            print(f"{name}: {environment} bash recipes/{recipe}.sh")
        print_table(("study", *titles[1:]), (study_row(name) for name in STUDIES))
    elif what == "memory":
        titles = ["GiB without / with --grad-checkpoint", "local crops"]
        titles += [f"--views {views}, {images} images" for views, images in VIEWS.items()]
        print_table(titles, (memory_row(*one) for one in MEMORY))


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in ("stages", "recipes", "memory"):
        raise SystemExit(__doc__)
    main(sys.argv[1])
