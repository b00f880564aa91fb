"""A sheet of masks: which tokens are predicted, what becomes of them, and how much that changes.

    python recipes/masks.py --data ROOT/train --weights recipes/weights/digits.pth --out runs/masks

Dissertation, sections 4.1.2 and 4.3. Writes OUT/masks.png and OUT/masks.json, and prints a table.
The columns of the sheet are masks of 02_augment.py inpaint: center, ring, random, block, and file,
here the image itself as its mask, so that what is bright is predicted. Each image has two rows:
what is masked, in grey, and what is predicted. Three more columns fill the tokens of the block
without the transformer: with any code, drawn evenly; with frequent codes, drawn as often as they
occur in the images; with near codes, those near the features that the token had. Their odds are
exp(-d^2 / s), where d is the distance in the code book and s the mean d^2 of the nearest code.

The table compares with the tokenizer's reconstruction, so that only the prediction counts. Detail
is the mean difference of neighbouring pixels in predicted tokens, over that of the reconstruction:
above 1 for static, below 1 for blur.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # makes `models` importable

from augment import masks, painting
from base import cli, run  # noqa: E402

SHOWN = 4  # images on the sheet
BATCH = 32
GREY = 128


def arguments(argv=None):
    p = cli.parser(__doc__)
    p.add_argument("--data", required=True, help="folder tree of images")
    p.add_argument("--out", required=True, help="folder of the sheet and the numbers")
    p.add_argument(
        "--share",
        type=cli.fraction,
        default=0.25,
        metavar="P",
        help="share of the tokens that the masks random and block predict",
    )
    p.add_argument(
        "--images", type=cli.positive, default=200, metavar="N", help="images that are measured"
    )
    p.add_argument("--seed", type=int, default=0, metavar="N", help="seed of all that is random")
    painting.maskgit_arguments(p)
    cli.device_arguments(p, workers=0)
    return p.parse_args(argv)


if __name__ == "__main__":
    args = arguments()

import numpy as np  # noqa: E402
import torch  # noqa: E402

from augment.strategy import from_bytes, read_square, to_bytes  # noqa: E402
from evaluate.ssim import structural_similarity  # noqa: E402
from images.files import find_images  # noqa: E402
from images.pictures import contact_sheet  # noqa: E402
from models.vqgan import rows  # noqa: E402
from report.tables import interval, table  # noqa: E402


def columns_of(share):
    """{title of a column: (mask, how its tokens are filled)}."""
    block = f"block:{share:g}"
    columns = {
        name: (name, "transformer") for name in ("center", "ring", f"random:{share:g}", block)
    }
    columns["file: bright"] = ("file:FOLDER", "transformer")
    for how in ("any code", "frequent codes", "near codes"):
        columns[how] = (block, how)
    return columns


def odds_of(how, painter, images, frequencies):
    """The odds of each code, (B, tokens, codes), for filling tokens without the transformer."""
    if how == "near codes":
        with torch.inference_mode():
            features = painter.tokenizer.features(from_bytes(images, painter.device))
            distances = torch.cdist(rows(features), painter.tokenizer.codebook) ** 2
        scale = distances.min(1).values.mean()
        odds = (-distances / scale).softmax(1).cpu().numpy()
        return odds.reshape(len(images), -1, len(frequencies))
    if how == "any code":
        frequencies = np.full(len(frequencies), 1 / len(frequencies))
    tokens = (painter.size // painter.patch) ** 2
    return np.broadcast_to(frequencies, (len(images), tokens, len(frequencies)))


def fill(tokens, chosen, odds, rngs):
    """Tokens (B, L) with codes drawn by their odds where `chosen` (B, L) is True."""
    filled = tokens.clone()
    for row, where, odds_there, rng in zip(filled, chosen, odds, rngs, strict=True):
        below = odds_there[where].cumsum(1) < rng.random(int(where.sum()))[:, None]
        drawn = below.sum(1).clip(max=odds_there.shape[1] - 1)
        row[torch.from_numpy(where)] = torch.from_numpy(drawn).to(row)
    return filled


def spread_out(mask, patch):
    """bool (tokens,) -> bool (S, S) of the pixels."""
    side = round(len(mask) ** 0.5)
    return np.kron(mask.reshape(side, side), np.ones((patch, patch), bool))


def detail(image, pixels):
    """Mean absolute difference of neighbouring pixels where both are in `pixels` (S, S)."""
    image = image.astype(np.float64)
    down = np.abs(np.diff(image, axis=0))[pixels[1:] & pixels[:-1]]
    right = np.abs(np.diff(image, axis=1))[pixels[:, 1:] & pixels[:, :-1]]
    return np.concatenate([down, right]).mean() if len(down) + len(right) else np.nan


def encode(painter, images):
    """Tokens (B, L) of uint8 (B, S, S, 3), on the CPU."""
    with torch.inference_mode():
        return painter.tokenizer.encode(from_bytes(images, painter.device)).cpu()


def decode(painter, tokens):
    """uint8 (B, S, S, 3) array of tokens (B, L)."""
    with torch.inference_mode():
        return to_bytes(painter.tokenizer.decode(tokens.to(painter.device))).numpy()


def columns_of_batch(args, painter, paths, images, frequencies):
    """(reconstructions, {column: (bool (B, S, S) of predicted pixels, what became of them)})."""
    side = painter.size // painter.patch
    tokens = encode(painter, images)
    found = {}
    for name, (mask, how) in columns_of(args.share).items():
        rngs = [run.seed_rng(args.seed, path, mask) for path in paths]
        chosen = []
        for path, rng in zip(paths, rngs, strict=True):
            chosen.append(masks.mask_of(mask, side, rng, Path(args.data, path)))
        chosen = np.stack(chosen)
        if how == "transformer":
            made = painter.paint(images, paths, chosen, rngs).numpy()
        else:
            odds = odds_of(how, painter, images, frequencies)
            made = decode(painter, fill(tokens, chosen, odds, rngs))
        found[name] = np.stack([spread_out(one, painter.patch) for one in chosen]), made
    return decode(painter, tokens), found


def measure(made, decoded, pixels):
    """What an image differs in from its reconstruction; pixels: bool (S, S), those predicted."""
    return {
        "share": 100 * pixels.mean(),
        "change": np.abs(made.astype(float) - decoded).mean(),
        "ssim": structural_similarity(made, decoded),
        "detail": detail(made, pixels),
        "detail before": detail(decoded, pixels),
    }


def rows_of(original, decoded, columns):
    """Two rows of the sheet: the masked images, and what became of them."""
    above, below = [original], [decoded]
    for pixels, made in columns:
        above.append(np.where(pixels[..., None], np.uint8(GREY), decoded))
        below.append(made)
    return [above, below]


def frequencies_of(painter, batches):
    """How often each code occurs in the images, as shares."""
    counts = np.zeros(painter.tokenizer.config["codes"])
    for _, images in batches:
        counts += np.bincount(encode(painter, images).flatten(), minlength=len(counts))
    return counts / counts.sum()


def main(args, device):
    run.keep_apart(args.data, out=args.out)
    painter = painting.Painter(args, device)
    if painter.transformer is None:
        run.fail(f"{args.weights} holds only a tokenizer: train a transformer first.", 2)
    paths = find_images(args.data)
    paths = paths[:: max(1, len(paths) // args.images)][: args.images]
    batches = []
    for first in range(0, len(paths), BATCH):
        names = paths[first : first + BATCH]
        squares = [read_square(Path(args.data, name), painter.size) for name in names]
        batches.append((names, torch.from_numpy(np.stack(squares))))
    frequencies = frequencies_of(painter, batches)

    # ---- draw and measure
    columns = columns_of(args.share)
    measured = {name: [] for name in columns}
    pairs = []
    for names, images in batches:
        decoded, found = columns_of_batch(args, painter, names, images, frequencies)
        for i, original in enumerate(images.numpy()):
            of_image = [(pixels[i], made[i]) for pixels, made in found.values()]
            pairs.append(rows_of(original, decoded[i], of_image))
            for name, (pixels, made) in zip(columns, of_image, strict=True):
                measured[name].append(measure(made, decoded[i], pixels))

    # ---- the sheet and the numbers
    out = Path(args.out)
    shown = pairs[:: max(1, len(pairs) // SHOWN)][:SHOWN]
    lines = [line for pair in shown for line in pair]
    contact_sheet(out / "masks.png", lines, ["original", *columns], cell=96)
    means = {}
    for name, of_images in measured.items():
        means[name] = {}
        for key in of_images[0]:
            means[name][key] = float(np.nanmean([values[key] for values in of_images]))
        means[name]["detail"] /= means[name].pop("detail before")
    adjacent = {}
    random, block = measured[f"random:{args.share:g}"], measured[f"block:{args.share:g}"]
    for key in ("change", "ssim"):
        adjacent[key] = [float(b[key] - r[key]) for b, r in zip(block, random, strict=True)]
    numbers = {"args": vars(args), "images": len(paths), "means": means}
    run.write_json(out / "masks.json", numbers | {"block minus random": adjacent})
    show(means, adjacent, len(paths))
    print(f"{out / 'masks.png'} is written")


def show(means, adjacent, images):
    """Print the table."""
    lines = []
    for name, values in means.items():
        cells = [f"{values['share']:.0f}", f"{values['change']:.1f}"]
        lines.append([name, *cells, f"{values['ssim']:.2f}", f"{values['detail']:.2f}"])
    header = ["mask", "tokens (%)", "change (grey levels)", "SSIM", "detail"]
    notes = [
        f"{images} images, against the tokenizer's reconstruction.",
        f"Block minus random at the same share: change {interval(adjacent['change'])}, SSIM "
        f"{interval(adjacent['ssim'])} (95 % interval).",
    ]
    print(table("What a mask changes", header, lines, notes)[0])


if __name__ == "__main__":
    run.launch(main, args)
