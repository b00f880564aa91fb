"""Pictures made and resized: squares, generated images as they are stored, contact sheets.

Images are uint8 (H, W, 3) RGB arrays. Used by every stage that stores or shows images.
"""

import io
import textwrap

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from base.run import atomic

STRIP = 8  # squares; a longer image is cut before it is resized
JPEG = {"quality": 95, "subsampling": 0}  # of generated images: no chroma subsampling


# ---------------------------------------------------------------- squares
def without_ends(image):
    """The middle of a strip, an image longer than STRIP squares; all others as they are.

    Resized whole to 256 pixels, a strip of 1 x 100,000 pixels would take 20 GB."""
    height, width = image.shape[:2]
    longest = STRIP * min(height, width)
    top = max(0, height - longest) // 2
    left = max(0, width - longest) // 2
    return np.ascontiguousarray(image[top : top + longest, left : left + longest])


def square(image, size):
    """Shorter side to `size` (Pillow bicubic, antialiased), centre crop: uint8 (size, size, 3)."""
    if image.shape[:2] == (size, size):
        return image
    image = without_ends(image)
    height, width = image.shape[:2]
    scale = size / min(height, width)
    height = max(size, round(height * scale))
    width = max(size, round(width * scale))
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
    left = (width - size) // 2
    top = (height - size) // 2
    return np.asarray(resized.crop((left, top, left + size, top + size)))


# ---------------------------------------------------------------- files
def write_image(path, image):
    """Write uint8 (H, W, 3) atomically; JPEG at quality 95 without chroma subsampling."""
    with atomic(path) as temporary:
        options = JPEG if temporary.suffix == ".jpg" else {"compress_level": 1}
        Image.fromarray(image).save(temporary, **options)


def stored_suffix(size):
    """Generated images are JPEGs, because a 256 px PNG takes longer to decode than a photograph.
    Small ones are PNGs."""
    return ".png" if size < 128 else ".jpg"


def as_stored(image, size):
    """What a generated image is when it is read again: a square, and JPEG's unless it is small."""
    image = square(image, size)
    if stored_suffix(size) == ".png":
        return image
    data = io.BytesIO()
    Image.fromarray(image).save(data, "JPEG", **JPEG)
    return np.asarray(Image.open(data))


# ---------------------------------------------------------------- contact sheets
def contact_sheet(path, rows, titles=(), labels=(), cell=None):
    """A PNG to look at: one row of images for each entry of `rows`.

    titles: text above the columns. labels: text before the rows. cell: pixels of an image's longer
    side; left out, the tallest image's height between 64 and 256."""
    if cell is None:
        tallest = max(image.shape[0] for row in rows for image in row)
        cell = max(64, min(256, tallest))
    columns = max(map(len, rows))
    gap = 4
    head = 18 if titles else 0
    beside = 6 * min(40, max(map(len, map(drawable, labels)), default=0))  # a letter is 6 px wide
    width = columns * (cell + gap) + gap + beside
    height = len(rows) * (cell + gap) + gap + head
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    for column, title in enumerate(titles):
        draw.text((gap + column * (cell + gap), 3), drawable(title), fill="black")
    for r, row in enumerate(rows):
        top = head + gap + r * (cell + gap)
        for column, image in enumerate(row):
            sheet.paste(_fitted(image, cell), (beside + gap + column * (cell + gap), top))
        if r < len(labels):
            text = "\n".join(textwrap.wrap(drawable(labels[r]), 40))
            draw.multiline_text((gap, top), text, fill="black")
    with atomic(path) as temporary:
        sheet.save(temporary)


def _fitted(image, cell):
    """A Pillow image whose longer side is `cell`; small ones keep their pixels' edges."""
    picture = Image.fromarray(without_ends(image))
    small = 2 * max(picture.size) <= cell
    how = Image.Resampling.NEAREST if small else Image.Resampling.BICUBIC
    return ImageOps.contain(picture, (cell, cell), how)


def drawable(text):
    """A name that is not UTF-8 has characters that no font can draw: they become "?"."""
    return str(text).encode("utf-8", "replace").decode()
