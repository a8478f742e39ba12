"""The phantom's contact sheet: pictures with the outlines of their finding masks, for a person to look at."""

from __future__ import annotations

import csv
import itertools
from collections import defaultdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageDraw

from hybridpt.data._phantom.cases import FINDINGS
from labelers.io.files import atomic_path

__all__ = ["write_sheet"]

COLUMNS, ROWS = 8, 5
TILE = 224  # pixels a side
_HUES = range(0, 256, 16)
COLOURS = {f: ImageColor.getrgb(f"hsv({round(h * 360 / 256)}, 75%, 100%)") for f, h in zip(FINDINGS, _HUES, strict=True)}


def write_sheet(root: Path) -> None:
    """Write ``contact_sheet.png`` from the first pictures of the manifest and the masks that ``truth_masks.csv`` lists."""
    masks: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    with (root / "truth_masks.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            masks[row["image"]].append((row["finding"], row["mask"]))
    with (root / "manifest.csv").open(encoding="utf-8", newline="") as file:
        images = [row["image"] for row in itertools.islice(csv.DictReader(file), COLUMNS * ROWS)]
    sheet = Image.new("RGB", (COLUMNS * TILE, -(-len(images) // COLUMNS) * TILE))
    for number, image in enumerate(images):
        corner = (number % COLUMNS * TILE, number // COLUMNS * TILE)
        sheet.paste(_tile(root, image, masks[image]), corner)
    with atomic_path(root / "contact_sheet.png") as path:
        sheet.save(path, format="PNG")


def _tile(root: Path, image: str, masks: list[tuple[str, str]]) -> Image.Image:
    with Image.open(root / image) as picture:
        pixels = np.array(picture.convert("RGB").resize((TILE, TILE), Image.Resampling.BILINEAR))
    for finding, mask in masks:
        with Image.open(root / mask) as drawn:
            inside = np.asarray(drawn.resize((TILE, TILE), Image.Resampling.NEAREST)) > 0
        pixels[_rim(inside)] = COLOURS[finding]
    tile = Image.fromarray(pixels)
    pen = ImageDraw.Draw(tile)
    for line, (finding, _) in enumerate(masks):
        pen.text((3, 2 + 12 * line), finding, fill=COLOURS[finding])
    return tile


def _rim(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The pixels of a mask that touch its outside, same shape."""
    padded = np.pad(inside, 1)
    core = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return np.asarray(inside & ~core)
