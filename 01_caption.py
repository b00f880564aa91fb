"""Stage 01: one sentence about every image, written by BLIP (dissertation, section 4.4).

    python 01_caption.py --data ROOT/train --out captions.jsonl
    torchrun --standalone --nproc_per_node=4 01_caption.py --data ROOT/train --out captions.jsonl

02_augment.py diffusion gives the sentences to the generator as its prompts. Reads any folder tree
of images. Writes captions.jsonl, with a line {"path": "CLASS/img_0001.jpg", "caption": "..."} for
each image, in the order of the paths, and captions.args.json, the settings and the model's hash.
An image that cannot be read gets an empty caption and an "error".

The same command continues a run that was interrupted, with any number of processes. Until the end
the hidden folder .captions.jsonl.parts has a file for each batch that is done. A finished run
returns at once; images that captions.jsonl lacks are captioned, so remove the line of one that has
been mended. Greedy and beam search are deterministic. BLIP-base has 247 million parameters, so any
GPU will do.
"""

import functools
import json
import os
import shutil
from pathlib import Path

from augment.diffusion import read_captions
from base import cli, parallel, run, run_folder, weights

STAGE = "01_caption"
SETTINGS = ("model", "num_beams", "max_tokens")  # what the captions depend on
LAYOUT = (
    "a folder with config.json (of a BlipForConditionalGeneration), model.safetensors, "
    "preprocessor_config.json, tokenizer_config.json and tokenizer.json or vocab.txt"
)


def arguments(argv=None):
    p = cli.parser(__doc__)
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
    cli.numbers(
        p,
        num_beams=(
            cli.positive,
            3,
            "beams of the search, 3 as published with BLIP; 1 is greedy and faster",
        ),
        max_tokens=(cli.positive, 20, "length of the longest caption in tokens"),
        batch_size=(cli.positive, 32, "images that a process captions at once"),
    )
    cli.device_arguments(p)
    return p.parse_args(argv)


if __name__ == "__main__":
    args = arguments()

import torch

from images.files import find_images, read_ahead
from images.read import UnreadableImage, read_image
from images.unreadable import BLACK, allowed, check_failed


# ---------------------------------------------------------------- model and images
def blip_folder(model):
    """The local folder of a BLIP captioning model; another kind of model ends the run."""
    weights.library("transformers")
    from huggingface_hub import snapshot_download

    folder = weights.model_folder(model, "config.json", LAYOUT, snapshot_download)
    kind = run.read_json(folder / "config.json").get("model_type")
    if kind != "blip":
        run.fail(
            f"--model {model} is a {kind} model, not a BLIP captioning model. Expected: {LAYOUT}.",
            2,
        )
    return folder


def read_for_blip(root, image_processor, batch):
    """(file, paths) -> (file, float (B, 3, S, S) as BLIP takes them, records without captions).

    An image that cannot be read is black, and its record has an "error".
    """
    file, paths = batch
    records = []
    pixels = []
    for path in paths:
        record = {"path": path, "caption": ""}
        try:
            image = read_image(os.path.join(root, path)).copy()
        except UnreadableImage as error:
            image = BLACK
            record["error"] = str(error)
        processed = image_processor(
            images=[image], return_tensors="pt", input_data_format="channels_last"
        )
        pixels.append(processed.pixel_values[0])
        records.append(record)
    return file, torch.stack(pixels), records


# ---------------------------------------------------------------- captioning
def write_captions(file, records):
    """A caption file: one line for each record."""
    lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
    run.write_text(file, "".join(lines))


def caption_batches(args, device, batches, folder, limit):
    """Caption this process's share of the batches [(file, paths)]; write each batch's file.

    Batches are the same for any number of processes, so their captions are as well.
    folder: that of the model. limit: of the images that cannot be read; it stops after more.
    """
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads would not survive a fork
    from transformers import BlipForConditionalGeneration, BlipProcessor

    blip = weights.load_network(BlipForConditionalGeneration, folder)
    blip = blip.to(device, weights.network_dtype(device, args.precision))
    processor = weights.from_pretrained(BlipProcessor, folder)
    most = blip.config.text_config.max_position_embeddings - 16  # for what BLIP itself begins with
    if args.max_tokens > most:
        run.fail(f"--max-tokens {args.max_tokens}: this model can write {most} of them.", 2)
    read = functools.partial(read_for_blip, args.data, processor.image_processor)
    loader = read_ahead(parallel.deal(batches, "captions"), read, args.workers, device)
    bar = run.progress(sum(len(paths) for _, paths in batches), "captions")
    failed = 0
    for file, pixels, records in loader:
        tokens = blip.generate(
            pixels.to(device, blip.dtype, non_blocking=True),
            num_beams=args.num_beams,
            do_sample=False,
            max_new_tokens=args.max_tokens,
        )
        captions = processor.batch_decode(tokens, skip_special_tokens=True)
        for record, caption in zip(records, captions, strict=True):
            if "error" not in record:
                record["caption"] = caption.strip()
        write_captions(file, records)
        bar.update(len(records) * parallel.world())
        failed += sum("error" in record for record in records)
        if failed > limit:
            break  # `check_failed` ends the run
    bar.close()


# ---------------------------------------------------------------- main
def main(args, device):
    out = Path(args.out)
    if out.is_dir() or out.suffix != ".jsonl":
        run.fail(f"--out {out} must be the name of a .jsonl file.", 2)
    paths = find_images(args.data)
    folder = None if out.exists() else blip_folder(args.model)  # before anything is written
    run.lock(out)

    # ---- what is left to do; a batch's file is named after its images
    done = read_captions(out) if out.exists() else {}
    left = [path for path in paths if path not in done]
    parts = out.with_name(f".{out.name}.parts")
    batches = []
    for first in range(0, len(left), args.batch_size):
        batch = left[first : first + args.batch_size]
        batches.append((parts / f"{run.names_hash(batch)}.jsonl", batch))
    # What could not be read may have been mended.
    waiting = [
        (part, batch)
        for part, batch in batches
        if not part.exists() or '"error"' in run.read_text(part)
    ]

    # ---- with the same settings, and the same model as before
    settings = {"stage": STAGE} | {name: getattr(args, name) for name in SETTINGS}
    # The model of a finished run is only looked at in a folder: a hub id would need the network.
    if left or Path(args.model).expanduser().is_dir():
        folder = folder or blip_folder(args.model)
        settings["model_sha256"] = weights.folder_hash(folder)
    file = out.with_suffix(".args.json")
    if file.exists() and (done or parts.exists()):
        run_folder.check_identity(file, {"args": {}, "inputs": settings})
    parallel.barrier()  # every process has looked before any process writes

    # ---- caption
    if waiting:
        if parallel.rank() == 0:
            run.write_json(file, settings | run_folder.versions())
        limit = allowed(args.max_unreadable, len(paths))
        caption_batches(args, device, waiting, folder, limit)
        parallel.barrier()
    for part, _ in batches:
        if parallel.rank() == 0 and part.exists():
            done |= read_captions(part)
    failed = {path: done[path]["error"] for path in paths if "error" in done.get(path, {})}
    check_failed(failed, len(paths), args.max_unreadable)
    if parallel.rank() > 0:
        return
    if left:
        # Those of other folders are kept.
        write_captions(out, [done[path] for path in dict.fromkeys([*paths, *done])])
    shutil.rmtree(parts, ignore_errors=True)
    print(f"{out} is finished: {len(paths)} captions, {len(failed)} of them empty")


if __name__ == "__main__":
    run.launch(main, args)
