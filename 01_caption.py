"""Stage 01: one sentence about every image, written by BLIP (dissertation, section 4.4).

    python 01_caption.py --data ROOT/train --out captions.jsonl
    torchrun --standalone --nproc_per_node=4 01_caption.py --data ROOT/train --out captions.jsonl

02_augment.py diffusion gives the sentences to the generator as its prompts. Reads any folder tree
of images. Writes captions.jsonl, with a line {"path": "CLASS/img_0001.jpg", "caption": "..."} for
each image, in the order of the paths; captions.png, a few images with their captions; and
captions.args.json, the settings and the model's hash. An image that cannot be read gets an empty
caption and an "error".

The same command continues a run that was interrupted, with any number of processes;
.captions.jsonl.part* hold what is done. A finished run returns at once. Where images were added
since, only these are captioned. Greedy and beam search are deterministic. BLIP-base has 247 million
parameters, so any GPU will do.
"""

import contextlib
import functools
import json
import os
from pathlib import Path

from base import hub, parallel, run, run_folder

STAGE = "01_caption"
SETTINGS = ("model", "prompt", "num_beams", "max_tokens")  # what the captions depend on
LAYOUT = (
    "a folder with config.json (of a BlipForConditionalGeneration), model.safetensors, "
    "preprocessor_config.json, tokenizer_config.json and tokenizer.json or vocab.txt"
)


def arguments(argv=None):
    p = run.parser(__doc__)
    p.add_argument("--data", required=True, help="folder tree of images")
    p.add_argument(
        "--out",
        default="captions.jsonl",
        metavar="FILE",
        help="the caption file; its name ends in .jsonl",
    )
    p.add_argument(
        "--model",
        default="Salesforce/blip-image-captioning-base",
        help=f"hub id of a BLIP captioning model, or {LAYOUT}",
    )
    p.add_argument("--prompt", default="", help='how every caption begins, such as "a photo of"')
    p.add_argument(
        "--num-beams",
        type=run.positive,
        default=3,
        metavar="N",
        help="beams of the search, 3 as published with BLIP; 1 is greedy and faster",
    )
    p.add_argument(
        "--max-tokens",
        type=run.positive,
        default=20,
        metavar="N",
        help="length of the longest caption in tokens, without the prompt",
    )
    p.add_argument(
        "--batch-size",
        type=run.positive,
        default=32,
        metavar="N",
        help="images that a process captions at once",
    )
    run.device_arguments(p)
    return p.parse_args(argv)


if __name__ == "__main__":
    args = arguments()

import numpy as np
import torch

from images.files import find_images, read_ahead
from images.pictures import contact_sheet, square
from images.read import UnreadableImage, read_image
from images.unreadable import allowed, check_failed


# ---------------------------------------------------------------- model and images
def blip_folder(model):
    """The local folder of a BLIP captioning model; another kind of model ends the run."""
    hub.library("transformers")
    from huggingface_hub import snapshot_download

    folder = hub.model_folder(model, "config.json", LAYOUT, snapshot_download)
    kind = run.read_json(folder / "config.json").get("model_type")
    if kind != "blip":
        run.fail(
            f"--model {model} is a {kind} model, not a BLIP captioning model. Expected: {LAYOUT}.",
            2,
        )
    return folder


def load_blip(folder, device, precision):
    """(network, processor) of a BLIP captioning model's folder."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads would not survive a fork
    from transformers import BlipForConditionalGeneration, BlipProcessor

    def load():
        blip = hub.load_network(BlipForConditionalGeneration, folder)
        return blip.to(device, hub.network_dtype(device, precision))

    blip = hub.in_turn(load)
    try:
        processor = BlipProcessor.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        reason = hub.first_line(error)
        run.fail(f"{folder} has no usable processor ({reason}). Expected: {LAYOUT}.")
    return blip, processor


def read_batch(root, image_processor, paths):
    """(paths, float (B, 3, S, S) as BLIP takes them, errors) of a batch of images.

    An image that cannot be read is black here and has its reason among the errors; else None.
    """
    errors = []
    pixels = []
    for path in paths:
        try:
            image = read_image(os.path.join(root, path)).copy()
            errors.append(None)
        except UnreadableImage as error:
            image = np.zeros((32, 32, 3), np.uint8)
            errors.append(str(error))
        processed = image_processor(
            images=[image], return_tensors="pt", input_data_format="channels_last"
        )
        pixels.append(processed.pixel_values[0])
    return paths, torch.stack(pixels), errors


# ---------------------------------------------------------------- what is done already
def parts_of(out):
    """The files that processes write while a run lasts; at the end `out` is made from them."""
    return sorted(out.parent.glob(f".{out.name}.part*"))


def read_lines(out):
    """{path: record} of all that is captioned.

    A last line without its newline was being written when the run was interrupted: it is not done.
    """
    done = {}
    for file in [out, *parts_of(out)]:
        if not file.exists():
            continue
        whole_lines = run.read_text(file).split("\n")[:-1]
        for number, line in enumerate(whole_lines, 1):
            try:
                record = json.loads(line)
                path = record["path"]
                if path not in done or "error" in done[path]:
                    done[path] = record
            except (ValueError, KeyError, TypeError):
                run.fail(
                    f"{file}, line {number} is not a caption: remove that line, or the file to "
                    "begin anew."
                )
    return done


def without_mended(done, data):
    """The records but those of images that could not be read and now can."""
    kept = {}
    for path, record in done.items():
        if "error" in record:
            with contextlib.suppress(UnreadableImage):
                read_image(os.path.join(data, path))
                continue
        kept[path] = record
    return kept


def check_failures(args, paths, done):
    """Name the images that could not be read; end the run if there are too many (every process)."""
    failed = {path: done[path]["error"] for path in paths if "error" in done.get(path, {})}
    check_failed(failed, len(paths), args.max_unreadable)


def check_settings(args, record, digest):
    """End the run if the captions so far were made with other settings or another model."""
    there = run.read_json(record)
    changed = []
    for name in SETTINGS:
        old = there.get(name)
        new = getattr(args, name)
        if old != new:
            changed.append(f"--{name.replace('_', '-')} was {old}, now {new}")
    if changed:
        run.fail(
            f"{args.out} was started with other arguments ({', '.join(changed)}): repeat them to "
            "go on, or choose another --out.",
            2,
        )
    if digest and digest != there.get("model_sha256"):
        run.fail(
            f"{args.out} was started with another model: the files of --model {args.model} have "
            "changed since. Put the old ones back to go on, or choose another --out.",
            2,
        )


def to_line(record):
    """A record as a line of the caption file."""
    return json.dumps(record, ensure_ascii=False) + "\n"


# ---------------------------------------------------------------- captioning
def caption_batches(args, device, batches, done, part, model, limit):
    """Caption this process's share of the batches; append to the file `part` what is not done.

    Batches are the same for any number of processes, so their captions are as well.
    model: what `load_blip` returns. limit: of the images that cannot be read; it stops after more.
    """
    blip, processor = model
    prompt = {}
    if args.prompt:
        prompt = processor.tokenizer([args.prompt], return_tensors="pt").to(device)
    read = functools.partial(read_batch, args.data, processor.image_processor)
    dealt = parallel.deal(batches, "captions")
    loader = read_ahead(dealt, read, args.workers, device)
    bar = run.progress(sum(map(len, batches)), "captions")
    failed = 0
    for paths, pixels, errors in loader:
        pixels = pixels.to(device, blip.dtype, non_blocking=True)
        inputs = {}
        for name in ("input_ids", "attention_mask"):
            if name in prompt:
                inputs[name] = prompt[name].expand(len(paths), -1).clone()
        tokens = blip.generate(
            pixels,
            **inputs,
            num_beams=args.num_beams,
            do_sample=False,
            max_new_tokens=args.max_tokens,
        )
        captions = processor.batch_decode(tokens, skip_special_tokens=True)
        with open(part, "a", encoding="utf-8", errors="surrogateescape") as file:
            for path, caption, error in zip(paths, captions, errors, strict=True):
                if path in done:
                    continue
                record = {"path": path, "caption": caption.strip()}
                if error:
                    record |= {"caption": "", "error": error}
                file.write(to_line(record))
        bar.update(len(paths) * parallel.world())
        failed += sum(error is not None for error in errors)
        if failed > limit:
            break  # `check_failures` ends the run
    bar.close()


def merge(out, data, paths, done):
    """Write the caption file in the order of `paths`, and its sheet, then remove the parts."""
    lines = [to_line(done[path]) for path in paths]
    run.write_text(out, "".join(lines))
    readable = [path for path in paths if "error" not in done[path]]
    every = -(-len(readable) // 8)
    if readable:
        rows = []
        labels = []
        for path in readable[::every]:
            rows.append([square(read_image(os.path.join(data, path)), 160)])
            labels.append(done[path]["caption"])
        contact_sheet(out.with_suffix(".png"), rows, labels=labels)
    for part in parts_of(out):
        part.unlink()
    unreadable = len(paths) - len(readable)
    note = f"; {unreadable} image(s) cannot be read" if unreadable else ""
    print(f"{out}: {len(readable)} captions{note}")


def main(args, device):
    out = Path(args.out)
    if out.is_dir() or out.suffix != ".jsonl":
        run.fail(f"--out {out} must be the name of a .jsonl file.", 2)
    run.keep_apart(args.data, out=out)
    paths = find_images(args.data)
    out.parent.mkdir(parents=True, exist_ok=True)
    settings = out.with_suffix(".args.json")

    # ---- what is left to do: whole batches of the sorted list, whichever process did them
    done = without_mended(read_lines(out), args.data)
    batches = []
    for first in range(0, len(paths), args.batch_size):
        batch = paths[first : first + args.batch_size]
        if any(path not in done for path in batch):
            batches.append(batch)
    finished = not batches and out.exists() and not parts_of(out)
    # The model of a finished run is only looked at in a folder: a hub id would need the network.
    if finished and not Path(args.model).expanduser().is_dir():
        folder, digest = None, None
    else:
        folder = blip_folder(args.model)
        digest = hub.folder_hash(folder)
    if done and settings.exists():
        check_settings(args, settings, digest)
    parallel.barrier()  # every process has read what is done before any process writes
    if finished:
        check_failures(args, paths, done)
        if parallel.rank() == 0:
            print(f"{out} is finished: {len(paths)} captions")
        return

    # ---- caption
    part = out.with_name(f".{out.name}.part{parallel.rank()}")
    if part.exists():
        os.truncate(part, part.read_bytes().rfind(b"\n") + 1)  # cut off a half-written last line
    if batches:
        model = load_blip(folder, device, args.precision)
        if parallel.rank() == 0:
            record = {name: getattr(args, name) for name in SETTINGS}
            record |= {"stage": STAGE, "model_sha256": digest, **run_folder.versions()}
            run.write_json(settings, record)
        limit = allowed(args.max_unreadable, len(paths))
        caption_batches(args, device, batches, done, part, model, limit)
    parallel.barrier()
    done = read_lines(out)
    check_failures(args, paths, done)
    parallel.barrier()  # every process has read the parts before they are removed
    if parallel.rank() == 0:
        merge(out, args.data, paths, done)


if __name__ == "__main__":
    run.launch(main, args)
