"""Grey pixels to the standard image and to the crops that objectives ask for."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from hybridpt.batch import View

__all__ = ["augment", "crop", "standard"]

DEGREES = 7.0
"""Largest rotation either way. There is no flip: the text says left and right."""
CONTRAST = 0.15
"""Largest relative change of contrast, and of brightness in grey levels of [0, 1]."""
STANDARD_SCALE = (0.8, 1.0)
RATIO = (0.9, 1.1)
LONGEST = 4
"""Longer sides than this many shorter ones are cut before an image is resized: a strip would need memory without end."""


def standard(pixels: NDArray[np.float32], size: int) -> Tensor:
    """Shrink or enlarge so that the shorter side is ``size``, and cut out the centre: (H, W) to (1, size, size) in [0, 1]."""
    image: Tensor = torch.from_numpy(pixels)[None]
    longest = LONGEST * min(pixels.shape)
    if max(pixels.shape) > longest:
        image = F.center_crop(image, [min(side, longest) for side in pixels.shape])
    image = F.resize(image, [size], antialias=True)
    image = F.center_crop(image, [size, size])
    return image.clamp(0, 1)


def augment(pixels: NDArray[np.float32], size: int, generator: torch.Generator) -> Tensor:
    """Cut, turn and re-expose at random: (H, W) to (1, size, size) in [0, 1]."""
    side = min(pixels.shape)
    image = F.center_crop(torch.from_numpy(pixels)[None], [side, side])
    angle = _between(-DEGREES, DEGREES, generator)
    image = F.rotate(image, angle, interpolation=F.InterpolationMode.BILINEAR)
    return _cut(image, size, STANDARD_SCALE, generator)


def crop(pixels: NDArray[np.float32], view: View, generator: torch.Generator) -> Tensor:
    """Cut ``view.count`` random crops: (H, W) to (count, 1, view.size, view.size) in [0, 1]."""
    image = torch.from_numpy(pixels)[None]
    return torch.stack([_cut(image, view.size, view.scale, generator) for _ in range(view.count)])


def _cut(image: Tensor, size: int, scale: tuple[float, float], generator: torch.Generator) -> Tensor:
    height, width = image.shape[-2:]
    area = height * width * _between(*scale, generator)
    ratio = float(np.exp(_between(float(np.log(RATIO[0])), float(np.log(RATIO[1])), generator)))
    h = min(height, max(1, round((area / ratio) ** 0.5)))
    w = min(width, max(1, round((area * ratio) ** 0.5)))
    top, left = int(_between(0, height - h + 1, generator)), int(_between(0, width - w + 1, generator))
    image = F.resized_crop(image, min(top, height - h), min(left, width - w), h, w, [size, size], antialias=True)
    contrast, brightness = 1 + _between(-CONTRAST, CONTRAST, generator), _between(-CONTRAST, CONTRAST, generator)
    mean = image.mean()
    return ((image - mean) * contrast + mean + brightness).clamp(0, 1)


def _between(low: float, high: float, generator: torch.Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))
