"""Image folders: finding, reading, writing, contact sheets. Images are uint8 (H, W, 3) RGB arrays."""

import io
import os
import textwrap
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageOps

from models.run import atomic, fail

EXTENSIONS = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm"}


def find_images(root):
    """All images below `root`: sorted posix paths relative to it, extension included.

    Two files that differ only in their extension are an error (their generated views would collide),
    so is a folder without images. Links are followed, hidden files are not looked at."""
    root = Path(root)
    if not root.is_dir():
        fail(f"{root} is not a folder: give the folder whose images are to be used.", 2)
    found = []
    for folder, folders, files in os.walk(root, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        relative = os.path.relpath(folder, root)
        found += [
            name if relative == "." else f"{relative}/{name}"
            for name in files
            if os.path.splitext(name)[1].lower() in EXTENSIONS and not name.startswith(".")
        ]
    if not found:
        fail(f"{root} holds no images ({' '.join(sorted(EXTENSIONS))}).", 2)
    found.sort()
    stems = {}
    for path in found:
        other = stems.setdefault(os.path.splitext(path)[0], path)
        if other != path:
            fail(
                f"{root}: {other} and {path} differ only in their extension: rename one of them.", 2
            )
    return found


def class_of(path):
    """The class of CLASS/.../image: the name of its first folder ('' when it stands in the root)."""
    return path.split("/")[0] if "/" in path else ""


def _to_rgb(image):
    """PIL image of any mode -> RGB: 16-bit scaled to 8, transparency laid on white, EXIF rotation applied."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image).astype(np.float64)
        values *= 1.0 if values.max(initial=0) <= 255 and image.mode != "I;16" else 255 / 65535
        image = Image.fromarray(values.round().clip(0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def read_image(path):
    """uint8 (H, W, 3) RGB of any common image file. Raises OSError naming a file that cannot be read."""
    try:
        data = Path(path).read_bytes()
        # the fast decoder for whole files of the plain kinds; Adobe's JPEGs are left to Pillow, some are CMYK
        jpeg = (
            data[:2] == b"\xff\xd8"
            and data.rstrip(b"\0")[-2:] == b"\xff\xd9"
            and b"Adobe" not in data[:4096]
        )
        png = (
            data[:4] == b"\x89PNG" and data[24:26] == b"\x08\x02" and data[-8:-4] == b"IEND"
        )  # 8-bit RGB
        if jpeg or png and b"tRNS" not in data[:4096] and b"eXIf" not in data[:4096]:
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
            if image is not None:
                return image
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(_to_rgb(image))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if "cannot identify image file" in reason:
            reason = "not an image file"
        raise OSError(f"{path} cannot be read: {reason}") from None


class Reading(torch.utils.data.Dataset):
    """`read(item)` for every item that is asked for.

    read: a function at the top level of a module, a `functools.partial` of one, or an object with
    __call__: it can then be sent to worker processes, however these are started.
    """

    def __init__(self, read):
        self.read = read

    def __getitem__(self, item):
        return self.read(item)


def read_ahead(items, read, workers, device, prefetch=2):
    """Iterate over read(item) of the items, in their order; `workers` processes read ahead.

    items: any iterable, also an endless generator. An item may be a whole batch.
    prefetch: items that each worker holds ready.
    """
    return torch.utils.data.DataLoader(
        Reading(read),
        batch_size=None,
        sampler=items,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        prefetch_factor=prefetch if workers else None,
    )


def square(image, size):
    """Shorter side to `size` (Pillow bicubic, antialiased), centre crop: uint8 (size, size, 3)."""
    height, width = image.shape[:2]
    if (height, width) == (size, size):
        return image
    scale = size / min(height, width)
    height, width = max(size, round(height * scale)), max(size, round(width * scale))
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return np.asarray(resized.crop((left, top, left + size, top + size)))


def write_image(path, image):
    """Write uint8 (H, W, 3) atomically; JPEG at quality 95 without chroma subsampling."""
    with atomic(path) as temporary:
        options = (
            {"quality": 95, "subsampling": 0}
            if temporary.suffix == ".jpg"
            else {"compress_level": 1}
        )
        Image.fromarray(image).save(temporary, **options)


def stored_suffix(size):
    """Generated images are JPEGs (a 256 px PNG costs more to decode than a photograph), small ones PNG."""
    return ".png" if size < 128 else ".jpg"


def as_stored(image, size):
    """What a generated image has gone through when it is read again: the square, and JPEG unless it is small."""
    image = square(image, size)
    if stored_suffix(size) == ".png":
        return image
    options = [
        cv2.IMWRITE_JPEG_QUALITY,
        95,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    ]
    _, data = cv2.imencode(".jpg", image[..., ::-1], options)
    return cv2.imdecode(data, cv2.IMREAD_COLOR_RGB)


def contact_sheet(path, rows, titles=(), labels=(), cell=None):
    """A PNG with one row of images per entry of `rows`, `titles` above the columns, `labels` (text) beside."""
    cell = cell or max(64, min(256, max(image.shape[0] for row in rows for image in row)))
    columns, gap, head = max(map(len, rows)), 4, 18 if titles else 0
    beside = 260 if labels else 0
    sheet = Image.new(
        "RGB",
        (columns * (cell + gap) + gap + beside, len(rows) * (cell + gap) + gap + head),
        "white",
    )
    draw = ImageDraw.Draw(sheet)
    for column, title in enumerate(titles):
        draw.text((gap + column * (cell + gap), 3), str(title), fill="black")
    for r, row in enumerate(rows):
        top = head + gap + r * (cell + gap)
        for c, image in enumerate(row):
            picture = Image.fromarray(np.ascontiguousarray(image))
            scale = cell / max(picture.size)
            how = Image.Resampling.NEAREST if scale >= 2 else Image.Resampling.BICUBIC
            picture = picture.resize(
                (max(1, round(picture.width * scale)), max(1, round(picture.height * scale))), how
            )
            sheet.paste(picture, (gap + c * (cell + gap), top))
        if r < len(labels):
            text = "\n".join(textwrap.wrap(str(labels[r]), 40))
            draw.multiline_text((columns * (cell + gap) + 2 * gap, top), text, fill="black")
    with atomic(path) as temporary:
        sheet.save(temporary)
