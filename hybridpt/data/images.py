"""Image files to grey pixels in [0, 1]."""

from __future__ import annotations

import functools
import os
import stat
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, UnidentifiedImageError

__all__ = ["MAX_PIXELS", "UnreadableImage", "check_size", "luminance", "read_image", "stretched"]

MAX_PIXELS = 80_000_000
"""Larger images are refused before they are decoded; below Pillow's own limit, so that every kind of file has the same one."""
FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "BMP", "GIF", "JPEG2000", "PPM")
"""What is left to Pillow. Its other readers stay shut: one of them hands PostScript to an interpreter."""
DEEP = ("I;16", "I;16B", "I;16L", "I;16N", "I", "F")
"""Modes of Pillow with more than eight bits a channel."""
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes each value of EXIF's orientation."""
ORIENTATION, PHOTOMETRIC = 0x0112, 0x0106
LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in the luminance (ITU-R BT.601), as Pillow has them."""
DICOM, NUMPY = b"DICM", b"\x93NUMPY"
"""Bytes 128 to 131 of a DICOM file, and the first six of a .npy file."""


class UnreadableImage(Exception):
    """An image that cannot be used; the message says why and names no file."""


def read_image(path: str | Path, roots: Sequence[str] = ()) -> NDArray[np.float32]:
    """Read an image as grey values, (H, W) float32 in [0, 1]; the content decides what it is, not the name.

    Eight bits a channel are divided by 255; deeper images and real numbers are stretched from their least to their greatest value,
    since few files say how many of their bits are used. Colour becomes luminance, transparency is laid over black, and EXIF's
    orientation is applied, as every viewer does: the report says left and right. White is the greatest value whatever the file
    stores: TIFF's WhiteIsZero, DICOM's MONOCHROME1 and Adobe's CMYK are turned round, by what the file declares alone. Of a DICOM
    file, ``hybridpt.data.dicom`` says more. A .npy file holds (H, W), (H, W, 1) or (H, W, 3) numbers and is never unpickled.

    Args:
        path: The file.
        roots: Real paths of folders, one of which must hold the file once links are followed; none for no such rule.

    Raises:
        UnreadableImage: No such file, outside ``roots``, not an image, cut short, too large, of several frames, with values that are
            no numbers, or without any contrast.
    """
    try:
        _check_place(os.fspath(path), roots)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they quote the file's own text
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return _read(path)
    except (UnreadableImage, MemoryError):  # too little memory is not the image's fault
        raise
    except Exception as error:  # decoders raise anything for a broken or hostile file
        raise UnreadableImage(_reason(error)) from None


def _reason(error: Exception) -> str:
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"more than {MAX_PIXELS:,} pixels"
    if isinstance(error, UnidentifiedImageError):
        return "not an image of a kind that is read (PNG, JPEG, TIFF, WebP, BMP, GIF, JPEG 2000, PNM, DICOM with preamble, .npy)"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror  # no such file, no permission, ...
    return f"broken or cut short ({type(error).__name__})"


def _check_place(path: str, roots: Sequence[str]) -> None:
    """Refuse what is no regular file, which could block for ever, and a link that leads out of the folders of images."""
    status = os.lstat(path) if roots else os.stat(path)
    real = path
    if roots:
        link = stat.S_ISLNK(status.st_mode)
        folder, name = os.path.split(path)
        real = os.path.realpath(path) if link else os.path.join(_real_folder(folder), name)
        if not any(real.startswith(os.path.join(root, "")) for root in roots):
            raise UnreadableImage(
                "a link leads out of the manifest's folder; if you trust it, name the folder that holds the images with --data.image_root"
            )
        status = os.stat(real) if link else status
    if not stat.S_ISREG(status.st_mode):
        raise UnreadableImage("a folder, not a file" if stat.S_ISDIR(status.st_mode) else "not a regular file")


@functools.lru_cache(maxsize=65_536)
def _real_folder(folder: str) -> str:
    return os.path.realpath(folder)


def _read(path: str | Path) -> NDArray[np.float32]:
    with open(path, "rb") as file:
        head = file.read(132)
        if head[128:] == DICOM:
            from hybridpt.data.dicom import read_dicom

            return read_dicom(path)
        if head.startswith(NUMPY):
            return _read_numpy(path)
        if not head:
            raise UnreadableImage("an empty file")
        file.seek(0)
        return _read_raster(file)


def check_size(width: int, height: int) -> None:
    """Refuse too many pixels, or none.

    Raises:
        UnreadableImage: As described.
    """
    if not 0 < width * height <= MAX_PIXELS:
        raise UnreadableImage(f"{width:,} x {height:,} pixels; expected 1 to {MAX_PIXELS:,} of them")


def _read_raster(file: IO[bytes]) -> NDArray[np.float32]:
    with Image.open(file, formats=FORMATS) as image:
        check_size(image.width, image.height)
        if getattr(image, "is_animated", False):
            raise UnreadableImage("several frames or pages; write the one that is meant to a file of its own")
        image.load()
        return _grey(_upright(image))


def _upright(image: Image.Image) -> Image.Image:
    """Apply EXIF's orientation; Pillow did so already for a TIFF."""
    if "exif" not in image.info or image.format == "TIFF":
        return image
    try:
        method = UPRIGHT.get(image.getexif().get(ORIENTATION, 1))
    except Exception:  # a broken EXIF block says nothing of the orientation
        return image
    return image if method is None else image.transpose(method)


def _grey(image: Image.Image) -> NDArray[np.float32]:
    if image.mode in DEEP:
        values = stretched(np.asarray(image))
        # Pillow turns WhiteIsZero round at eight bits and fewer, and leaves it at more
        inverted = image.format == "TIFF" and getattr(image, "tag_v2", {}).get(PHOTOMETRIC) == 0
        return np.asarray(1 - values, np.float32) if inverted else values
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image.convert("RGBA"))
    elif image.mode == "CMYK" and image.format == "JPEG" and "adobe" not in image.info:
        image = ImageChops.invert(image)  # Pillow takes every CMYK JPEG for one of Adobe's, which store the inverse
    return eight_bits(np.asarray(image if image.mode == "L" else image.convert("L")))


def eight_bits(values: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Divide by 255: (H, W) uint8 to (H, W) float32 in [0, 1].

    Raises:
        UnreadableImage: All values are equal.
    """
    if values.min() == values.max():
        raise UnreadableImage("no contrast: all pixels are equal")
    return np.divide(values, np.float32(255), dtype=np.float32)


def stretched(values: NDArray[Any]) -> NDArray[np.float32]:
    """Stretch from the least to the greatest value: (H, W) of any real numbers to (H, W) float32 in [0, 1].

    Raises:
        UnreadableImage: All values are equal, or one is not finite.
    """
    low, high = float(values.min()), float(values.max())
    if not np.isfinite(high - low):
        raise UnreadableImage("values that are no numbers (NaN or infinite), or too large")
    if low == high:
        raise UnreadableImage("no contrast: all pixels are equal")
    # large integers lose their contrast in single precision
    exact: NDArray[Any] = values.astype(np.float32 if values.dtype.itemsize <= 2 else np.float64)
    return np.ascontiguousarray((exact - exact.dtype.type(low)) / exact.dtype.type(high - low), np.float32)


def luminance(values: NDArray[Any]) -> NDArray[np.float64]:
    """Weigh red, green and blue: (H, W, 3) to (H, W)."""
    return np.asarray(values @ np.array(LUMA), np.float64)


def _read_numpy(path: str | Path) -> NDArray[np.float32]:
    values = np.load(path, mmap_mode="r", allow_pickle=False)  # a header that promises more than the file holds is refused
    if values.dtype.kind not in "buif" or not (values.ndim == 2 or (values.ndim == 3 and values.shape[2] in (1, 3))):
        raise UnreadableImage("expected real numbers of shape (H, W), (H, W, 1) or (H, W, 3) in the .npy file, found others")
    check_size(values.shape[1], values.shape[0])
    values = values[..., 0] if values.ndim == 3 and values.shape[2] == 1 else np.asarray(values)
    if values.dtype == bool:
        return eight_bits(np.asarray(values, np.uint8) * np.uint8(255))
    if values.dtype == np.uint8:
        return eight_bits(np.asarray(Image.fromarray(values).convert("L")) if values.ndim == 3 else values)
    return stretched(luminance(values) if values.ndim == 3 else values)
