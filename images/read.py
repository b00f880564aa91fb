"""Image files of any common kind -> uint8 (H, W, 3) RGB."""

import errno
import functools
import io
import logging
import struct
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
LARGEST = 2**30  # values of a TIFF; OpenCV takes as many pixels
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
        data = Path(path).read_bytes()
        if not data:
            raise ValueError("the file is empty")
        image = _decode_common(data)
        return _decode_any(data) if image is None else image
    except Exception as error:  # a damaged file makes decoders raise anything, such as zlib.error
        elsewhere = isinstance(error, MemoryError) or getattr(error, "errno", 0) in NOT_ITS_FAULT
        kind = OSError if elsewhere else UnreadableImage
        raise kind(f"{path} cannot be read: {_reason(error)}") from None


def _reason(error):
    if isinstance(error, UnidentifiedImageError):
        return "not an image file"
    text = error.err if isinstance(error, cv2.error) else str(error)
    lines = text.strip().splitlines()
    kind = type(error).__name__
    if not lines:
        return kind
    if isinstance(error, LookupError):  # its text is no more than a key
        return f"it is damaged ({kind} {lines[0]})"
    return lines[0].rstrip(".")


def _decode_common(data):
    """OpenCV's fast decoder for whole files of the two commonest kinds; None for all others."""
    jpeg = data[:2] == b"\xff\xd8" and data.rstrip(b"\0")[-2:] == b"\xff\xd9"
    if jpeg:
        jpeg = b"Adobe" not in data[:4096]  # some of Adobe's JPEGs are CMYK: Pillow knows them
    rgb_of_8_bits = data[24:26] == b"\x08\x02"
    png = data[:4] == b"\x89PNG" and rgb_of_8_bits and data[-8:-4] == b"IEND"
    if png:
        png = b"tRNS" not in data[:4096] and b"eXIf" not in data[:4096]
    if not jpeg and not png:
        return None
    width, height = _declared_by_png(data) if png else _declared_by_jpeg(data)
    if _is_bomb(width * height, data):
        return None  # Pillow's way says so
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error:
        return None  # it is damaged, or too large: Pillow says which


def _declared_by_png(data):
    """(width, height) as its first chunk declares them."""
    return struct.unpack(">II", data[16:24])


def _declared_by_jpeg(data):
    """(width, height) of its first frame, or of a thumbnail before it; zeros where there is
    none.
    """
    for marker in (b"\xff\xc0", b"\xff\xc2"):  # baseline and progressive frames
        place = data.find(marker, 0, 65536)
        if place >= 0:
            height, width = struct.unpack(">HH", data[place + 5 : place + 9])
            return width, height
    return 0, 0


def _is_bomb(values, data):
    """Whether a few bytes declare an image that would fill the memory."""
    return values > LARGE and values > VALUES_PER_BYTE * len(data)


def _check_size(width, height, bands, data):
    values = width * height * bands
    if values > LARGEST or _is_bomb(values, data):
        raise ValueError(
            f"{width} x {height} pixels of {bands} bands are too many, or do not fit into its "
            f"{len(data)} bytes"
        )


def _decode_any(data):
    """Pillow reads what has 8 bits a band, and says where the camera was turned."""
    picture = _open(data)
    values = _stored_values(data, picture)
    if values is not None:
        orientation = picture.getexif().get(ORIENTATION, 1) if picture else 1
        picture = _to_picture(values)
        picture.getexif()[ORIENTATION] = orientation
    picture = ImageOps.exif_transpose(picture)
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    return np.asarray(picture.convert("RGB"))


def _open(data):
    """Pillow's image, whose pixels are not read yet; None where Pillow does not know the kind."""
    try:
        picture = Image.open(io.BytesIO(data))
    except UnidentifiedImageError:
        return None
    _check_size(*picture.size, len(picture.getbands()), data)
    return picture


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
        return _tiff_values(data) if data[:4] in TIFF else _opencv_values(data)
    one_band = picture.mode == "F" or picture.mode.startswith("I;16")
    if picture.format == "TIFF":
        tags = picture.tag_v2
        samples = tags.get(SAMPLES, 1)
        unsigned = set(tags.get(SAMPLE_FORMAT, [UNSIGNED])) == {UNSIGNED}
        common = max(tags.get(BITS, [1])) <= 8 and unsigned and samples <= 4
        if common and not (samples > 1 and levels.bands()):
            return None
        if samples > 1 or not one_band:
            return _tiff_values(data)
    if picture.format == "PNG" and data[24] == 16:
        return _opencv_values(data)
    if picture.mode == "I" or one_band:
        values = np.asarray(picture)[..., None]
        if picture.format == "PPM" and picture.mode == "I":
            return values.astype(np.uint16)  # Pillow has stretched the file's own range to this
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
    try:
        chosen = levels.levels()
        levels.bands()
    except ValueError as error:
        run.fail(f"{error}.", 2)
    candidates = [path for path in paths if not path.lower().endswith(ALWAYS_8_BITS)]
    types = set()
    numbers = []
    looked_at = 0
    for path in candidates[:: len(candidates) // LOOKED_AT + 1]:
        try:
            data = Path(root, path).read_bytes()
            values = _stored_values(data, _open(data))
        except levels.Unclear as error:
            run.fail(f"{Path(root, path)}: {error}.", 2)
        except Exception:
            continue  # a damaged file: the stage that reads it names it
        if values is not None and values.dtype != np.uint8:
            types.add(str(values.dtype))
            numbers += levels.value_range(values)
            looked_at += 1
    if chosen or not types:
        return
    found = f"{root} holds {levels.describe(types, numbers)}"
    if types == {"uint16"} and max(numbers) >= 2**15:
        warn_once(f"{found}: 0 is taken for black, 65535 for white; --levels chooses others")
        return
    run.fail(
        f"{found} ({looked_at} were looked at), and nothing says which value is black and which "
        f'is white: choose --levels LOW HIGH, or set {levels.LEVELS}="LOW HIGH" for all stages.',
        2,
    )
