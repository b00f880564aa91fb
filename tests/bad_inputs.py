"""Tables of bad inputs of every stage, one line each. tests/test_bad_inputs.py runs them.

The columns: a name; what spoils the folder (tests/spoil.py); the command; the exit code and words
of the sentence on stderr, or of all that is printed for exit code 0, with "..." between them; a
file that the command makes or a check of what it made. The folder has data/{train,val}/{a,b,c}, gen
(a mirror of train), runs/base (a backbone) and runs/base-cached (its evaluation).
"""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import spoil
from conftest import PRETRAIN as TRAINING
from conftest import VQGAN
from image_files import DAMAGED
from spoil import all_of, convert, copy, link, nothing, picture, put, remove, tiffs, weights
from test_transfer import write_places

AUGMENT = "02_augment.py blur --data data/train --out out --size 32 --workers 0"
SOME = f"{AUGMENT} --max-unreadable 0.3"
TRAIN = "03_pretrain.py --data data/train --out out --epochs 1 --projector 8-8 "
TRAIN += " ".join(TRAINING)
PAIRED = f"{TRAIN} --generated gen"
BACKBONE = "--data data --backbone runs/base --workers 0 --device cpu"
CACHED = f"04_linear_eval.py {BACKBONE} --cache-features"
LINEAR = f"{CACHED} --out out"
FILE = "runs/base/backbone.pth"
PART = f"--backbone {FILE}"
COPIED = copy("data/train/a/000.png", "data/val/a/x.png")
LAYER = f"04_linear_eval.py {BACKBONE} --out out --epochs 1 --batch-size 8"
TUNE = f"05_semisup_eval.py {BACKBONE} --out out --percent 100 --epochs 1 --batch-size 8"
LISTED = f"{TUNE} --subset-file list.txt"
TRANSFER = f"06_transfer.py folder {BACKBONE} --out out"
PLACES = TRANSFER.replace("folder --data data", "places365 --data places")
FID = "07_metrics.py fid data/train gen/view0 --features runs/base --workers 0"
BESIDE = "07_metrics.py ssim data/train gen/view0 --workers 0"
SSIM = f"{BESIDE} --out out"
VQ = f"00_train_generator.py vqgan --data data/train --out out --epochs 1 {' '.join(VQGAN)}"
RESULTS = {  # what reads data/train, and what it makes
    VQ: "out/generator.pth",
    TRAIN: "out/backbone.pth",
    LINEAR: "out/result.json",
    TUNE: "out/result.json",
    TRANSFER: "out/result.json",
    SSIM: "out/least_similar.png",
    FID: "gen/view0",
}


MEASURES = (LINEAR, TUNE, TRANSFER)


class Case(NamedTuple):
    name: str
    spoil: Callable
    command: str
    said: str
    right: Callable | str = nothing


def each(name, spoil, said, commands=(TRAIN, LINEAR, SSIM), right=None):
    """A case for each of these: pairs, features and pairs of files are read in three ways."""
    cases = []
    for command in commands:
        made = right or RESULTS[command]
        cases.append(Case(f"{name}, {command[:2]}", spoil, command, said, made))
    return cases


def pair(name, size=(32, 32)):
    """One more image, and what was generated of it."""
    return all_of(
        put(os.path.join(b"data/train", os.fsencode(name)), picture(size)),
        put(os.path.join(b"gen/view0", os.fsencode(name)), picture()),
    )


# ---------------------------------------------------------------- kind 1: folders and names
FIRST = "data/train/a/000.png"
ETE = all_of(
    spoil.rename("data/train/c", b"data/train/\xe9t\xe9"),
    spoil.rename("data/val/c", b"data/val/\xe9t\xe9"),
)
SYSTEMS = all_of(
    put("data/train/__MACOSX/a/._000.png"),
    put("data/val/__MACOSX/a/._000.png"),
    put("data/train/@eaDir/a/000.png", b"x"),
    put("data/train/a/.ipynb_checkpoints/000.png", b"x"),
)
INSIDE = copy("gen", "data/train/gen")
OWN = convert("gen", ".JPEG", ".webp", ".tif", ".PNG")
INTO_DATA = [f"{command} --out data/train/x" for command in (VQ, AUGMENT, TRAIN)]
INTO_DATA += [f"{command} --out data/x" for command in MEASURES]
BESIDE_VIEWS = all_of(put("gen/view0.ssim/ssim.json", b"{}"), put("gen/views1/x.png"))
FOLDERS = [
    *each("name not UTF-8", pair(b"a/caf\xe9.png"), "0"),
    *each("class not UTF-8", ETE, "0", MEASURES, "out/result.png"),
    *each("line break", pair("a/x\ny.png"), "0"),
    Case("no folder", remove("data"), AUGMENT, "2 data/train is not a folder"),
    Case("a file", nothing, f"{AUGMENT} --data {FIRST}", "2 is not a folder"),
    Case("no images", put("x/x.txt"), f"{AUGMENT} --data x", "2 holds no images: 1 .txt"),
    Case("link upwards", link("data/train/a/x", ".."), TRAIN, "2 is a link to a folder above"),
    Case("link to itself", link("data/train/a/x", "x"), TRAIN, "1 data/train/a/x cannot be read"),
    Case("link to nothing", link("data/train/a/x.png", "y"), SOME, "0", spoil.unread("a/x.png")),
    *each("out in data", nothing, "2 --out...inside --data", INTO_DATA, nothing),
    Case("out is data, 02", nothing, f"{AUGMENT} --out data/train", "2 --out...inside --data"),
    Case("out in data, 07", nothing, f"{SSIM} --out data/train/x", "2 --out...inside"),
    Case("out in a mirror, 07", nothing, f"{SSIM} --out gen/view0/x", "2 --out...inside"),
    Case("mirror in data", INSIDE, f"{TRAIN} --generated data/train/gen", "2 --generated...inside"),
    Case("a mirror of other kinds", OWN, PAIRED, "0", "out/backbone.pth"),
    Case("one name twice", put("gen/view0/a/000.jpg", picture()), PAIRED, "2 000.jpg...000.png"),
    Case("one is missing", remove("gen/view0/a/003.png"), PAIRED, "1 1 of 24...a/003.png"),
    Case("beside the views", BESIDE_VIEWS, PAIRED, "0", "out/backbone.pth"),
    Case("no folder of a mirror", nothing, f"{TRAIN} --generated typo", "2 typo"),
    Case("a mirror of one's own", put("gen/augment.json", b"{}"), PAIRED, "0", "out/backbone.pth"),
    Case("a broken mirror", put("gen/augment.json", b"{"), PAIRED, "1 augment.json...JSON"),
    Case("ssim spares the mirror", nothing, BESIDE, "0 24 pairs", "gen.view0.ssim/ssim.json"),
    Case("folders of systems", SYSTEMS, LINEAR, "0", "out/result.json"),
    Case("an empty class", put("data/train/d/x.txt"), LINEAR, "2 without images: d"),
    Case("another class", copy("data/val/c", "data/val/d"), TUNE, "2 different classes...d"),
    Case("in no class", put("data/train/x.png", picture()), TRANSFER, "2 x.png is in no class"),
]

# ---------------------------------------------------------------- kind 2: sizes and values
VIEW = "gen/view0/a/000.png"
ONE_UNREAD = spoil.unread("a/000.png")
BOMB = put(FIRST, DAMAGED["bomb.png"])
RUBBISH = {
    "a/bomb.png": DAMAGED["bomb.png"],
    "a/empty.png": b"",
    "b/bomb1.jpg": DAMAGED["bomb.jpg"],
    "b/bomb2.tif": DAMAGED["bomb.tif"],
    "b/cut.tif": DAMAGED["cut.tif"],
    "b/tags.tif": DAMAGED["tags.tif"],
    "c/page.jpg": DAMAGED["page.jpg"],
}
RUBBISH_PUT = all_of(*(put(f"data/train/{name}", data) for name, data in RUBBISH.items()))
STRIP = all_of(pair("a/x.png", (50000, 1)), pair("b/x.png", (1, 50000)))
CROPPED = (VQ, TRAIN, LINEAR, TUNE)
PIXEL = pair("a/x.png", (1, 1))


FLOATS = tiffs(lambda values: values[..., 0].astype(np.float32) / 255)
TWELVE = tiffs(lambda values: values[..., 0].astype(np.uint16) * 16)
FIVE = {"photometric": "minisblack", "planarconfig": "contig"}  # blue, green, red and two more
BANDS = tiffs(lambda values: values[..., [2, 1, 0, 0, 1]].astype(np.uint16), **FIVE)
CHOSEN = "GCL_LEVELS='0 255' GCL_BANDS='3 2 1'"
VALUES = [
    *each("a bomb", BOMB, "1 data/train/a/000.png cannot be read", right=nothing),
    Case("bombs and rubbish", RUBBISH_PUT, SOME, "0 7 of 31 images", spoil.unread(*RUBBISH)),
    Case("a bomb in a worker, 02", BOMB, f"{SOME} --workers 1", "0 1 of 24", ONE_UNREAD),
    Case("a bomb in a worker, 03", BOMB, f"{TRAIN} --workers 1", "1 1 of 24...a/000.png"),
    Case("a bomb in a worker, 04", BOMB, f"{LINEAR} --workers 1", "1 a/000.png cannot be read"),
    Case("a damaged view", put(VIEW), f"{PAIRED} --mix 1", f"1 {VIEW} cannot be read"),
    Case("floats", FLOATS, AUGMENT, "2 float32...--levels"),
    Case("floats, levels", FLOATS, f"GCL_LEVELS='0 1' {AUGMENT}", "0", spoil.same_red),
    Case("12 bits", TWELVE, TRAIN, "2 uint16...--levels"),
    Case("12 bits, levels", TWELVE, f"GCL_LEVELS='0 4080' {AUGMENT}", "0", spoil.same_red),
    Case("five bands", BANDS, AUGMENT, "2 5 bands of uint16...--bands"),
    Case("five bands, chosen", BANDS, f"{CHOSEN} {AUGMENT}", "0", spoil.same_colours),
    Case("levels NaN", nothing, f"{AUGMENT} --levels nan 1", "2 --levels...two different numbers"),
    Case("bands 0", nothing, f"{AUGMENT} --bands 0", "2 --bands...from 1 on"),
    Case("no levels", nothing, f"GCL_LEVELS=0 {AUGMENT}", "2 GCL_LEVELS"),
    Case("no bands", nothing, f"GCL_BANDS=red {AUGMENT}", "2 GCL_BANDS"),
    *each("a strip", STRIP, "0", CROPPED),
    Case("a strip, 02", STRIP, AUGMENT, "0", "out/view0/b/x.png"),
    Case("a strip, fid", STRIP, FID, "0 26 images"),
    *each("one pixel", PIXEL, "0", CROPPED),
    Case("ssim of other sizes", put(FIRST, picture((40, 30))), SSIM, "1 a/000.png...--size"),
]

# ---------------------------------------------------------------- kind 3: numbers that are none
NAN = spoil.with_value("layer2.0.conv1.weight", float("nan"))
INFINITE = spoil.with_value("bn1.running_var", float("inf"))
USES = (f"{TRAIN} --init runs/base", TUNE, TRANSFER, FID)
SINGLE = (f"{TRAIN} --batch-size 1", f"{TUNE} --batch-size 1")
LARGE = (f"{TRAIN} --batch-size 25", f"{TUNE} --batch-size 25")
HUGE = (f"{LAYER} --learning-rate 1e38", f"{TUNE} --learning-rate 1e38")
HUGE += (f"{TRAIN} --learning-rate 1e38 --epochs 3",)
NUMBERS = [
    *each("a NaN weight", NAN, "1 backbone.pth...not finite", USES, nothing),
    Case("a NaN weight, 04", NAN, LINEAR, "1 backbone.pth...layer2.0.conv1.weight...not finite"),
    Case("an infinite weight", INFINITE, LINEAR, "1 backbone.pth...bn1.running_var"),
    *each("batch of 1", nothing, "2 --batch-size 1...at least 2", SINGLE, nothing),
    Case("batch of 0", nothing, f"{TRAIN} --batch-size 0", "2 --batch-size...above 0"),
    *each("batch of 25", nothing, "2 --batch-size 25...24 images", LARGE, nothing),
    Case("no epochs", nothing, f"{TRAIN} --epochs 0", "2 --epochs...above 0"),
    Case("a share of 1.5", nothing, f"{PAIRED} --mix 1.5", "2 --mix...between 0 and 1"),
    *each("a huge rate", nothing, "1 not finite", HUGE, nothing),
]


# ---------------------------------------------------------------- kind 4: inputs that change
MORE = put("data/train/a/x.png", picture())
DOUBLED = weights(lambda state: {name: 2 * value for name, value in state.items()})
AGAIN = f"{TRAIN} --out runs/base"
RESUMED = all_of(remove("runs/base/backbone.pth"), put("runs/base/checkpoint.pth", b"x"))
WITHOUT_LOG = all_of(remove("runs/base/backbone.pth"), remove("runs/base/log.jsonl"))
JITTER = AUGMENT.replace("blur", "jitter").replace("--out out", "--out gen")
CHANGES = [
    Case("a finished run, 03", nothing, AGAIN, "0 is finished"),
    Case("a finished run, 04", nothing, CACHED, "0 is finished"),
    Case("another backbone", DOUBLED, CACHED, "2 runs/base-cached...backbone file was"),
    Case("another image, 04", MORE, CACHED, "2 runs/base-cached...training set was"),
    Case("another image, 03", MORE, AGAIN, "2 runs/base...images"),
    Case("another image, 02", MORE, f"{AUGMENT} --out gen", "0", "gen/view0/a/x.png"),
    Case("another mirror", nothing, f"{PAIRED} --out runs/base", "2 --generated"),
    Case("another strategy", nothing, JITTER, "2 02_augment blur"),
    Case("another stage", nothing, f"{TUNE} --out runs/base", "2 03_pretrain"),
    *each("a thesis", put("out/thesis.tex"), "2 out is not empty", (AUGMENT, TRAIN), nothing),
    Case("a broken args.json", put("runs/base/args.json", b"{"), LINEAR, "1 args.json...JSON"),
    Case("a broken checkpoint", RESUMED, AGAIN, "1 checkpoint.pth"),
    Case("no log", WITHOUT_LOG, AGAIN, "0", "runs/base/backbone.pth"),
]


# ---------------------------------------------------------------- kind 5: files of other tools
def windows(text):
    """As a Windows editor saves it: byte-order mark and carriage returns."""
    return ("\ufeff" + text.replace("\n", "\r\n")).encode()


def places(root):
    """Places365's layout, with lists from Windows."""
    write_places(root / "places", root / "data")
    for listing in (root / "places").glob("*.txt"):
        listing.write_bytes(windows(listing.read_text()))


NO_CLASS = all_of(places, put("places/places365_val.txt", b"a.png 0\na/001.png\n"))


subset = partial(put, "list.txt")

TWICE = all_of(copy(FIRST, "data/train/b/x.png"), copy(FIRST, "data/train/c/x.png"))
SUBSET = "a/000.png\na/001.png\nb/000.png\nb/001.png\nc/000.png\nc/001.png\nc/002.png\na/002.png\n"
EIGHT = spoil.lines_of("out/subset.txt", 8)
UNREAD = all_of(
    put(FIRST, b"x"),
    remove("gen/view0/a/000.png"),
    put("gen/failed.jsonl", b'{"path": "a/000.png", "reason": "x"}\n'),
)
FAILURES = put("gen/failed.jsonl", b"x")

TWO = weights(lambda state: spoil.prefixed(state, "one.") | spoil.prefixed(state, "two."))
MOCO = weights(lambda state: {"state_dict": spoil.prefixed(state, "module.encoder_q.")})
OTHER_TOOLS = [
    Case("MoCo", MOCO, LINEAR, "0", "out/result.json"),
    Case("two networks", TWO, LINEAR, "2 :NAME, where NAME can be one., two."),
    Case("two, none named", TWO, f"{LINEAR} {PART}:three", "2 :NAME, where"),
    Case("two, one named", TWO, f"{LINEAR} {PART}:two", "0", "out/result.json"),
    Case("two, --init", TWO, f"{TRAIN} --init {FILE}:two", "0", "out/backbone.pth"),
    Case("val in train", COPIED, LINEAR, "0 warning: 1 of the...are among the training images"),
    Case("a cut weight file", spoil.edit(FILE, lambda data: data[:9000]), LINEAR, "1 backbone.pth"),
    Case("an empty weight file", put(FILE), LINEAR, "1 backbone.pth"),
    Case("no backbone", nothing, f"{LINEAR} --backbone typo", "2 typo"),
    *each("typo", nothing, "2 typo", [f"{TRAIN} --{x} typo" for x in ("knn", "init")], nothing),
    Case("a subset from Windows", subset(windows(SUBSET)), LISTED, "0", EIGHT),
    Case("ambiguous", all_of(TWICE, subset(b"x.png")), LISTED, "1 x.png fits 2...b/x.png...c/x"),
    Case("an unknown name", subset(b"x.png\n"), LISTED, "1 list.txt...x.png"),
    Case("an empty subset", subset(b""), LISTED, "2 list.txt"),
    Case("lists from Windows", places, PLACES, "0", "out/result.json"),
    Case("a line without a class", NO_CLASS, PLACES, "1 places365_val.txt...a/001.png"),
    Case("an unread original, 03", UNREAD, PAIRED, "1 1 of 24...a/000.png"),
    Case("unread, allowed, 03", UNREAD, f"{PAIRED} --max-unreadable 0.3", "0", "out/backbone.pth"),
    *each("failures", FAILURES, "1 failed.jsonl", (f"{AUGMENT} --out gen", SSIM), nothing),
]


# ---------------------------------------------------------------- kind 6: where, who else, how many
CAPTION = "01_caption.py --data data/train --out out.jsonl --batch-size 24 --workers 0 --model"
BLIP = spoil.put("blip/config.json", b'{"model_type": "blip"}')
CAPTIONS = spoil.all_of(BLIP, spoil.writer("out.jsonl"))
REPORT = "07_metrics.py report"
SHEET = "07_metrics.py sheet data/train gen/view0 --out"
MEASURED = "04_linear_eval.py --data ../data --backbone ../runs/base --cache-features"
COST = "07_metrics.py cost ../gen --out ../out --features ../runs/base --images 2 --workers 0"
COSTS = "07_metrics.py cost gen --out out --images 2 --workers 0"
WRITTEN = "1 is being written by process 7 of host: wait for its end"
DONE = "0 is finished"
ELSEWHERE = spoil.enter("elsewhere")
MOVED = spoil.rename("data", "moved")
ANOTHER_NAME = "data/./../data/train/"
MANY = "99999999999999999999"

MASKGIT = "00_train_generator.py maskgit --data data/train --out out --epochs 1 --layers 1 "
MASKGIT += "--dim 32 --heads 2 --batch-size 8 --workers 0 --tokenizer"
NO_STEP = put("vqgan/log.jsonl"), f"{MASKGIT} vqgan"
TRAIN_ELSEWHERE = f"{AGAIN} --out ../runs/base --data ../data/train"
BESIDE_IT = "04_linear_eval.py --data ../../data --backbone . --cache-features"
NEIGHBOUR = f"{AUGMENT.replace('blur', 'neighbour')} {PART}"
SURROUNDINGS = [
    *each("two writers", spoil.writer("out/args.json"), WRITTEN, (VQ, TRAIN, LAYER, TUNE), nothing),
    Case("two writers, 01", CAPTIONS, f"{CAPTION} blip", WRITTEN),
    Case("two writers, 02", spoil.writer("out/augment.json"), AUGMENT, WRITTEN),
    Case("a mirror, a writer", spoil.writer("gen/augment.json"), f"{AUGMENT} --out gen", WRITTEN),
    Case("two writers, 07", spoil.writer("runs/report.json"), f"{REPORT} runs", WRITTEN),
    Case("a finished run, a writer", spoil.writer("runs/base/args.json"), AGAIN, "0 is finished"),
    Case("data/, 03", nothing, f"{AGAIN} --data {ANOTHER_NAME}", "0 is finished"),
    Case("data/, 04", nothing, f"{CACHED} --data ./data/", "0 is finished"),
    Case("data/, 02", nothing, f"{AUGMENT} --out gen --data {ANOTHER_NAME}", "0 is finished"),
    *each("moved", MOVED, DONE, (f"{AGAIN} --data moved/train", f"{CACHED} --data moved"), nothing),
    *each("from elsewhere", ELSEWHERE, DONE, (MEASURED, TRAIN_ELSEWHERE), nothing),
    Case("in its folder", spoil.enter("runs/base"), BESIDE_IT, "0 runs/base-cached is finished"),
    Case("a mirror from elsewhere", ELSEWHERE, COST, "0", "out/cost.json"),
    Case("a mirror of no originals", put("gen/augment.json", b"{}"), COSTS, "1 has no data in its"),
    Case("a report of images", nothing, f"{REPORT} --all data/train", "1 no result", "runs/base"),
    Case("two, --init, none named", TWO, f"{TRAIN} --init {FILE}", "2 :NAME, where"),
    Case("two, neighbour", TWO, NEIGHBOUR, "2 :NAME, where NAME can be one., two."),
    Case("--size of 20 digits", nothing, f"{AUGMENT} --size {MANY}", "2 --size...below 2**31"),
    Case("--codes of 20 digits", nothing, f"{VQ} --codes {MANY}", "2 --codes...below 2**31"),
    Case("--seeds of 20 digits", nothing, f"{LAYER} --seeds {MANY} -1", "0", "out/result.json"),
    *each("seed", nothing, "0", [f"{TRANSFER} --seed {x}" for x in (-1, 2**32)], "out/result.json"),
    Case("no step of a tokenizer", *NO_STEP, "1 --tokenizer vqgan holds neither"),
    Case("a huge image, 04", nothing, f"{LINEAR} --size 2147483647", "1 memory is full"),
    Case("a huge image, 02", nothing, f"{AUGMENT} --size 2147483647", "1 memory is full"),
    Case("its sheet", put("gen/augment.json", b"{}"), f"{SHEET} x.png --tokens 4", "0", "x.png"),
    Case("a sheet in data", nothing, f"{SHEET} data/train/a/000.png", "2 --out...inside --data"),
    Case("another JSON", nothing, f"{REPORT} runs/base/args.json", "1 no result"),
    Case("other data, 04", copy("data", "B"), f"{CACHED} --data B", "0 have the same names"),
    Case("a sheet without .png", nothing, f"{SHEET} typo", "2 typo must be the name of a .png"),
    Case("a sheet of another kind", nothing, f"{SHEET} x.0.1", "2 x.0.1 must be the name"),
    Case("a huge projector", nothing, f"{TRAIN} --projector {MANY}-8", "2 --projector"),
]

CASES = [*FOLDERS, *VALUES, *NUMBERS, *CHANGES, *OTHER_TOOLS, *SURROUNDINGS]

# ---------------------------------------------------------------- nothing is written too early
PAINT = "02_augment.py inpaint --data data/train --out out --workers 0 --steps 2"
LABELS = f"{PAINT} --weights {Path(__file__).parent}/goldens/maskgit"
DENOISE = "02_augment.py diffusion --data data/train --out out --workers 0 --strength 0 --model"
NEAR = "02_augment.py neighbour --data data/train --out out --size 32 --workers 0 --backbone"
DENOISER = "extras/train_diffusion.py --data data/train --out out --size 16 --epochs 1 --width 32 "
DENOISER += "--multipliers 1 1 --blocks 1 --ema 0.9 --workers 0 --batch-size"
LACKING = {  # name: (the command, words of the sentence, what the user then gives)
    "00 vqgan": (f"{VQ} --perceptual-weight 1", "vgg16...--perceptual-weight 0", f"{VQ}"),
    "00 maskgit": (f"{MASKGIT} typo", "typo", f"{MASKGIT} vqgan"),
    "00, batch": (f"{VQ} --batch-size 25", "24 images", VQ),
    "01": (f"{CAPTION} no/where", "weights.sh", f"{CAPTION} blip"),
    "02 inpaint": (PAINT, "tokenizer_imagenet256", f"{PAINT} --mask none --weights vqgan"),
    "02 label": (LABELS, "--label N", f"{LABELS} --label 3"),
    "02 diffusion": (f"{DENOISE} sdxl", "--no-caption", f"{DENOISE} sdxl --no-caption"),
    "02 diffusion, model": (f"{DENOISE} no/where", "weights.sh", f"{DENOISE} sdxl --no-caption"),
    "02 neighbour": (f"{NEAR} typo", "typo", f"{NEAR} runs/base"),
    "03 mirror": (f"{TRAIN} --generated typo", "typo", f"{TRAIN} --generated gen"),
    "03 init": (f"{TRAIN} --init typo", "typo", f"{TRAIN} --init runs/base"),
    "03 batch": (f"{TRAIN} --batch-size 32", "24 images", TRAIN),
    "04": (f"{LINEAR} --backbone typo", "typo", LINEAR),
    "04 batch": (f"{LAYER} --batch-size 32", "24 images", LAYER),
    "05": (f"{TUNE} --subset-file typo", "typo", TUNE),
    "06": (PLACES, "places/train is not a folder", TRANSFER),
    "extras, batch": (f"{DENOISER} 25", "24 images", f"{DENOISER} 8"),
    "07 cost": (COSTS, "pt_inception", f"{COSTS} --features runs/base"),
}
