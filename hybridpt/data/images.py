"""Image files to grey pixels in [0, 1]."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["UnreadableImage", "read_image"]

MAX_PIXELS = 100_000_000
"""Larger images are refused before they are decoded."""


class UnreadableImage(Exception):
    """An image that cannot be used; the message says why and names no file."""


def read_image(path: str | Path) -> NDArray[np.float32]:
    """Read an image as grey values, (H, W) float32 in [0, 1].

    Eight bits a channel are divided by 255; deeper images are stretched from their least to their greatest value, since few files
    say how many of their bits are used. Colour becomes luminance, transparency is laid over black.

    Raises:
        UnreadableImage: No such file, not an image, truncated, too large, or without any contrast.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise UnreadableImage(f"{image.width} x {image.height} pixels, more than {MAX_PIXELS:,}")
                pixels = _grey(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnreadableImage(type(error).__name__) from None
    if not np.isfinite(pixels).all() or pixels.min() == pixels.max():
        raise UnreadableImage("no contrast, or values that are no numbers")
    return pixels


def _grey(image: Image.Image) -> NDArray[np.float32]:
    if image.mode in ("I;16", "I;16B", "I;16L", "I", "F"):
        values = np.asarray(image, np.float32)
        low, high = values.min(), values.max()
        return np.asarray((values - low) / max(high - low, 1e-6), np.float32)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image.convert("RGBA"))
    return np.asarray(np.asarray(image.convert("L"), np.float32) / 255, np.float32)
