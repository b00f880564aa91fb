"""Stage 01: one sentence about every image, written by BLIP (dissertation, section 4.4).

    python 01_caption.py --data ROOT/train --out captions.jsonl
    torchrun --standalone --nproc_per_node=4 01_caption.py --data ROOT/train --out captions.jsonl

02_augment.py diffusion gives the sentences to the generator as its prompts. Reads any folder tree of images.
Writes captions.jsonl: a line {"path": "CLASS/img_0001.jpg", "caption": "..."} an image, in the order of the
paths; captions.png, a few images with their captions; captions.args.json, the settings and the model's hash.
An image that cannot be read gets an empty caption and an "error".

The same command continues a run that was interrupted (.captions.jsonl.part* hold what is done), with any
number of processes; finished, it returns at once, and captions only images that were added since. Greedy
and beam search are deterministic. BLIP-base has
247 million parameters: any GPU will do.
"""

import json
import os
from pathlib import Path

from models.old_run import (
    atomic,
    barrier,
    count,
    device_arguments,
    fail,
    parser,
    progress,
    rank,
    read_json,
    run_main,
    start,
    versions,
    world,
    write_json,
)

LAYOUT = (
    "a folder with config.json (of a BlipForConditionalGeneration), model.safetensors, preprocessor_config.json, "
    "tokenizer_config.json and tokenizer.json or vocab.txt"
)


def arguments(argv=None):
    p = parser(__doc__)
    p.add_argument("--data", required=True, help="folder tree of images")
    p.add_argument("--out", default="captions.jsonl", help="the caption file")
    p.add_argument(
        "--model",
        default="Salesforce/blip-image-captioning-base",
        help=f"hub id of a BLIP captioning model, or {LAYOUT}",
    )
    p.add_argument("--prompt", default="", help='how every caption begins, such as "a photo of"')
    p.add_argument(
        "--num-beams",
        type=count,
        default=3,
        help="beams, 3 as published with BLIP; 1: greedy, faster",
    )
    p.add_argument(
        "--max-tokens",
        type=count,
        default=20,
        help="longest caption, in tokens, without the prompt",
    )
    p.add_argument("--batch-size", type=count, default=32, help="images at once, per process")
    device_arguments(p)
    return p.parse_args(argv)


if __name__ == "__main__":
    args = arguments()

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from models.hub import first_line, folder_hash, load_strictly, model_folder, network_dtype
from models.images import contact_sheet, find_images, read_image, square


class Images(Dataset):
    """index -> (path, BLIP's pixel values, error); a black image in place of one that cannot be read."""

    def __init__(self, root, paths, processor):
        self.root, self.paths, self.processor = root, paths, processor

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        error = None
        try:
            image = read_image(os.path.join(self.root, self.paths[index])).copy()
        except OSError as unreadable:
            error, image = str(unreadable), np.zeros((32, 32, 3), np.uint8)
        values = self.processor(
            images=[image], return_tensors="pt", input_data_format="channels_last"
        ).pixel_values
        return self.paths[index], values[0], error


def load_blip(model, device, precision):
    """(model, processor, sha256 of the folder) of a BLIP captioning folder or hub id."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the loader's workers are forked
    from huggingface_hub import snapshot_download
    from transformers import BlipForConditionalGeneration, BlipProcessor
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    folder = model_folder(model, "config.json", LAYOUT, snapshot_download)
    kind = read_json(folder / "config.json").get("model_type")
    if kind != "blip":
        fail(
            f"--model {model} is a {kind} model, not a BLIP captioning model. Expected: {LAYOUT}.",
            2,
        )
    blip = load_strictly(BlipForConditionalGeneration, folder)
    try:
        processor = BlipProcessor.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        fail(f"{folder} has no usable processor ({first_line(error)}). Expected: {LAYOUT}.")
    return blip.to(device, network_dtype(device, precision)), processor, folder_hash(folder)


# ---------------------------------------------------------------- what is done already
def parts(out):
    """The files that the processes write while the run lasts; `out` is put together from them at the end."""
    return sorted(out.parent.glob(f".{out.name}.part*"))


def read_lines(out):
    """{path: record} of everything captioned; a last line without its newline was being written: not done."""
    done = {}
    for file in [out, *parts(out)]:
        whole = file.read_bytes().split(b"\n")[:-1] if file.exists() else []
        for number, line in enumerate(whole, 1):
            try:
                record = json.loads(line)
                done.setdefault(record["path"], record)
            except (ValueError, KeyError, TypeError):
                fail(
                    f"{file}, line {number} is not a caption: remove that line, or the file to begin anew."
                )
    return done


def merge(out, data, paths, done):
    """Write the caption file in the order of `paths` and the sheet, then remove the parts."""
    with atomic(out) as temporary:
        temporary.write_text(
            "".join(json.dumps(done[path], ensure_ascii=False) + "\n" for path in paths), "utf-8"
        )
    readable = [path for path in paths if "error" not in done[path]]
    shown = readable[:: max(1, -(-len(readable) // 8))]
    if shown:
        contact_sheet(
            out.with_suffix(".png"),
            [[square(read_image(os.path.join(data, path)), 160)] for path in shown],
            labels=[done[path]["caption"] for path in shown],
        )
    for part in parts(out):
        part.unlink()
    unreadable = len(paths) - len(readable)
    print(
        f"{out}: {len(readable)} captions"
        + (f"; {unreadable} image(s) cannot be read" if unreadable else "")
    )


@torch.no_grad()
def main(args):
    device = start(args)
    out, paths = Path(args.out), find_images(args.data)
    if out.is_dir() or out.suffix != ".jsonl":
        fail(f"--out {out} must be the name of a .jsonl file.", 2)
    out.parent.mkdir(parents=True, exist_ok=True)
    settings = {key: getattr(args, key) for key in ("model", "prompt", "num_beams", "max_tokens")}
    record = out.with_suffix(".args.json")
    done = read_lines(out)
    if done and record.exists():
        changed = [
            f"--{key.replace('_', '-')} was {there}, now {settings[key]}"
            for key in settings
            if (there := read_json(record)[key]) != settings[key]
        ]
        if changed:
            fail(
                f"{out} was started with other arguments ({', '.join(changed)}): repeat them to go on, or choose "
                "another --out.",
                2,
            )
    barrier()  # nobody writes while somebody still reads

    # ------------------------------------------------------------ caption: whole batches, whichever process
    batches = [
        range(i, min(i + args.batch_size, len(paths)))
        for i in range(0, len(paths), args.batch_size)
    ]
    missing = [batch for batch in batches if any(paths[i] not in done for i in batch)]
    if not missing and out.exists() and not parts(out) and all(path in done for path in paths):
        if rank() == 0:
            print(f"{out} is finished: {len(paths)} captions")
        return
    mine = missing[rank() :: world()]
    part = out.with_name(f".{out.name}.part{rank()}")
    if part.exists():  # cut off a half-written last line
        os.truncate(part, part.read_bytes().rfind(b"\n") + 1)
    if mine:
        blip, processor, digest = load_blip(args.model, device, args.precision)
        if rank() == 0:
            write_json(
                record, {"stage": "01_caption", **settings, "model_sha256": digest, **versions()}
            )
        prompt = {}
        if args.prompt:
            prompt = processor.tokenizer([args.prompt], return_tensors="pt").to(device)
        loader = DataLoader(
            Images(args.data, paths, processor.image_processor),
            batch_sampler=mine,
            num_workers=args.workers,
            pin_memory=device.type == "cuda",
            collate_fn=lambda items: (
                [i[0] for i in items],
                torch.stack([i[1] for i in items]),
                [i[2] for i in items],
            ),
        )
        bar = progress(
            sum(map(len, mine)), "captions" + (f" (process 0 of {world()})" if world() > 1 else "")
        )
        for names, pixels, errors in loader:
            pixels = pixels.to(device, blip.dtype, non_blocking=True)
            inputs = {
                key: prompt[key].expand(len(names), -1).clone()
                for key in prompt
                if key in ("input_ids", "attention_mask")
            }
            tokens = blip.generate(
                pixels,
                **inputs,
                num_beams=args.num_beams,
                do_sample=False,
                max_new_tokens=args.max_tokens,
            )
            captions = processor.batch_decode(tokens, skip_special_tokens=True)
            lines = [
                {
                    "path": name,
                    "caption": "" if error else caption.strip(),
                    **({"error": error} if error else {}),
                }
                for name, caption, error in zip(names, captions, errors, strict=True)
                if name not in done
            ]
            with open(part, "a", encoding="utf-8") as file:
                file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
            bar.update(len(names))
        bar.close()
    barrier()
    if rank() == 0:
        merge(out, args.data, paths, read_lines(out))


if __name__ == "__main__":
    run_main(main, args)
