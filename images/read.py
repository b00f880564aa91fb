"""Image files of any common kind -> uint8 (H, W, 3) RGB."""

import errno
import functools
import io
import logging
import math
import warnings
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from base import levels, run

# What is wrong with a file is said once, with its name, by read_image.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
logging.getLogger("tifffile").setLevel(logging.CRITICAL)
warnings.filterwarnings("ignore", module=r"PIL\.")
Image.MAX_IMAGE_PIXELS = None  # _check_size knows better

TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # first bytes of TIFF and BigTIFF, by byte order
BITS = 258  # numbers of tags in TIFF 6.0
ORIENTATION = 274
SAMPLES = 277
SAMPLE_FORMAT = 339
UNSIGNED = 1  # a SampleFormat in TIFF 6.0
RGB = 2  # a PhotometricInterpretation
ALPHA = {1, 2}  # two kinds of ExtraSamples

LARGE = 2**26  # values of an image; a larger one must have a file to match
VALUES_PER_BYTE = 10_000  # PNG's and TIFF's deflate makes 1,032 bytes of one at most
LARGEST = 2**30  # values of an image; OpenCV takes as many pixels
ALWAYS_8_BITS = (".jpg", ".jpeg", ".bmp", ".gif", ".webp")
LOOKED_AT = 100  # images that are looked at to judge a folder
NOT_ITS_FAULT = {  # errors of the machine or of its network
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
    errno.ESTALE,
    errno.ETIMEDOUT,
    errno.ENOTCONN,
}


class UnreadableImage(OSError):
    """An image cannot be read, and its file is the reason."""


def read_image(path):
    """uint8 (H, W, 3) RGB of an image file.

    Gray is repeated, transparency is laid on white, the camera's rotation is applied, and more than
    8 bits are scaled as base/levels.py says. Of several pictures in one file, it is the first.
    Raises UnreadableImage with the path and the reason, whatever is wrong with the file; a plain
    OSError where the machine or its network is at fault: the file may be sound."""
    try:
        return _decode(Path(path).read_bytes())
    except Exception as error:  # a damaged file makes decoders raise anything, such as zlib.error
        elsewhere = isinstance(error, MemoryError) or getattr(error, "errno", 0) in NOT_ITS_FAULT
        kind = OSError if elsewhere else UnreadableImage
        raise kind(f"{path} cannot be read: {_reason(error)}") from None


def _reason(error):
    if isinstance(error, UnidentifiedImageError):
        return "it is empty, or not an image file"
    text = error.err if isinstance(error, cv2.error) else str(error)
    if isinstance(error, LookupError) or not text.strip():  # no sentence, but a key, or nothing
        return f"{error!r}"
    return text.strip().splitlines()[0].rstrip(".")


def _decode(data):
    """OpenCV decodes the commonest kinds fast. Pillow reads the others that have 8 bits a band."""
    picture = _open(data)
    if _is_common(data, picture):
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
        if image is not None:
            return image
    values = _stored_values(data, picture)
    if values is not None:
        orientation = picture.getexif().get(ORIENTATION, 1) if picture else 1
        picture = _to_picture(values)
        picture.getexif()[ORIENTATION] = orientation
    picture = ImageOps.exif_transpose(picture)
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    return np.asarray(picture.convert("RGB"))


def _open(data):
    """Pillow's image, whose pixels are not read yet; None for a TIFF that Pillow does not know."""
    try:
        picture = Image.open(io.BytesIO(data))
    except UnidentifiedImageError:
        if data[:4] in TIFF:
            return None
        raise
    _check_size(*picture.size, len(picture.getbands()), data)
    return picture


def _check_size(width, height, bands, data):
    """Refuse a few bytes that declare an image which would fill the memory."""
    values = width * height * bands
    if values > LARGEST or values > LARGE and values > VALUES_PER_BYTE * len(data):
        raise ValueError(
            f"{width} x {height} pixels of {bands} bands are too many, or do not fit into its "
            f"{len(data)} bytes"
        )


def _is_common(data, picture):
    """Whether it is a whole JPEG or PNG, gray or RGB, of 8 bits, without transparency."""
    if picture is None or picture.mode not in ("L", "RGB") or picture.has_transparency_data:
        return False
    if picture.format == "PNG":
        return data[24] == 8 and data[-8:-4] == b"IEND"
    return picture.format in ("JPEG", "MPO") and data.rstrip(b"\0").endswith(b"\xff\xd9")


# ---------------------------------------------------------------- more than 8 bits, many bands
def _to_picture(values):
    """What _stored_values gave -> Pillow's image with 8 bits a band."""
    shown = levels.eight_bits(values[..., :3])
    if values.shape[2] == 1:
        shown = shown[..., 0]
    if values.shape[2] == 4 and values.dtype == np.uint16:
        opacity = values[..., 3:] >> 8
        shown = np.concatenate([shown, opacity.astype(np.uint8)], 2)
    return Image.fromarray(np.ascontiguousarray(shown))


def _stored_values(data, picture):
    """The values of a file that has not 8 bits a band, or has many bands; None for all others.

    picture: Pillow's image of it, or None. Returns (H, W, bands) of any type: gray; red, green,
    blue; or these with opacity. Raises levels.Unclear for other numbers of bands."""
    if picture is None:
        return _tiff_values(data)
    if picture.format == "TIFF":
        tags = picture.tag_v2
        samples = tags.get(SAMPLES, 1)
        unsigned = set(tags.get(SAMPLE_FORMAT, [UNSIGNED])) == {UNSIGNED}
        common = max(tags.get(BITS, [1])) <= 8 and unsigned and samples <= 4
        if common and not (samples > 1 and levels.bands()):
            return None
        return _tiff_values(data)
    if picture.format == "PNG" and data[24] == 16:
        return _opencv_values(data)
    if picture.format == "PPM" and picture.mode == "I":
        return np.asarray(picture)[..., None].astype(np.uint16)  # Pillow has stretched its range
    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        values = np.asarray(picture)[..., None]
        return values.astype(values.dtype.newbyteorder("="))
    return None


def _opencv_values(data):
    values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None:
        raise UnidentifiedImageError
    if values.ndim == 2:
        return values[..., None]
    return values[..., [2, 1, 0, 3][: values.shape[2]]]


def _tiff_values(data):
    """tifffile reads all types and arrangements of bands, OpenCV more kinds of compression."""
    import tifffile

    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages.first
        width = page.imagewidth
        height = page.imagelength
        bands = page.samplesperpixel
        _check_size(width, height, bands, data)
        try:
            values = page.asarray(squeeze=False)  # (planes, 1, height, width, bands of a plane)
            values = np.moveaxis(values[:, 0], 0, -1).reshape(height, width, -1)
        except ValueError:
            interleaved = page.planarconfig == 1
            if not interleaved or bands not in (1, 3, 4):
                raise
            values = _opencv_values(data)
        says_rgb = page.photometric == RGB
        opacity = says_rgb and bands == 4 and ALPHA & set(page.extrasamples)
    return _shown_bands(values, says_rgb, opacity and values.dtype == np.uint16)


def _shown_bands(values, says_rgb, opacity):
    """Those that --bands names; else what the file itself says, or Unclear."""
    bands = values.shape[2]
    chosen = levels.bands()
    if chosen:
        if max(chosen) > bands:
            raise levels.Unclear(f"--bands asks for number {max(chosen)}, there are {bands} bands")
        return values[..., [number - 1 for number in chosen]]
    if bands in (1, 3) or opacity:
        return values
    if says_rgb:
        return values[..., :3]
    raise levels.Unclear(
        f"{bands} bands of {values.dtype} do not say which are red, green and blue: choose "
        f"some, such as --bands 3 2 1 or --bands 1 (or set {levels.BANDS})"
    )


# ---------------------------------------------------------------- one rule for a whole folder
@functools.cache
def warn_once(message):
    """One line on stderr, however often a stage looks at the same folder."""
    run.warn(message)


def check_values(root, paths):
    """Refuse a folder whose images have more than 8 bits, where nothing says what is white.

    Some of its files, evenly spread, are looked at. 16-bit values are taken to fill their range if
    they reach its upper half, which is said on stderr. Other types need levels. root: the folder;
    paths: its images."""
    levels.check(lambda sentence: run.fail(f"{sentence}.", 2))
    candidates = [path for path in paths if not path.lower().endswith(ALWAYS_8_BITS)]
    types = set()
    extremes = []
    for path in candidates[:: len(candidates) // LOOKED_AT + 1]:
        try:
            data = Path(root, path).read_bytes()
            values = _stored_values(data, _open(data))
        except levels.Unclear as error:
            run.fail(f"{Path(root, path)}: {error}.", 2)
        except Exception:
            continue  # a damaged file: the stage that reads it names it
        if values is None or values.dtype == np.uint8:
            continue
        types.add(str(values.dtype))
        finite = values[np.isfinite(values)]
        if finite.size:
            extremes += [float(finite.min()), float(finite.max())]
    if levels.levels() or not types:
        return
    low = min(extremes, default=math.nan)
    high = max(extremes, default=math.nan)
    kinds = f"{' and '.join(sorted(types))} images with values from {low:g} to {high:g}"
    if types == {"uint16"} and high >= 2**15:
        warn_once(
            f"{root} holds {kinds}: 0 is taken for black, 65535 for white; --levels chooses others"
        )
        return
    run.fail(
        f"{root} holds {kinds}, and nothing says which value is black and which is white: choose "
        f'--levels LOW HIGH, or set {levels.LEVELS}="LOW HIGH" for all stages.',
        2,
    )
