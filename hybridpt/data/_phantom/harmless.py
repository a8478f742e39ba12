"""What a picture shows besides findings, and that can be taken for one: drawn without a look at the findings."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hybridpt.data._phantom.body import SIGN, join, tube
from hybridpt.data._phantom.cases import Case
from hybridpt.data._phantom.draws import Draws
from hybridpt.data._phantom.lesions import Scene

__all__ = ["add_harmless", "add_marker", "collimate"]

NIPPLES = 0.25  # chance of two small round shadows; taken for nodules
ELECTRODES = 0.20  # of an electrocardiogram's, with wires; taken for devices
WIRES = 0.07  # in the breast bone after an operation
FOLD = 0.12  # of skin along a lung; taken for a pneumothorax
HAZE = 0.22  # at the base of each lung; taken for fluid or consolidation
CARTILAGE = 0.02  # a year of age beyond 45: calcified ends of ribs; taken for granulomas
COLLIMATED = 0.35  # of the pictures have dark edges


def add_harmless(scene: Scene) -> None:
    """Add what is harmless to a scene."""
    draws = Draws(scene.body.seed, 12, scene.body.case.index)
    for chance, add in ((HAZE, _haze), (NIPPLES, _nipples), (ELECTRODES, _electrodes), (WIRES, _wires), (FOLD, _fold)):
        there, own = draws.chance(chance), Draws(draws.below(1 << 53))
        if there:
            add(scene, own)
    if draws.chance(CARTILAGE * max(scene.body.case.patient.age - 45, 0)):
        _cartilage(scene, draws)


def _haze(scene: Scene, draws: Draws) -> None:
    body, side = scene.body, draws.pick(tuple(SIGN))
    centre = (SIGN[side] * draws.uniform(0.45, 0.75) * body.width, 0.0, body.top(side) + 8)
    reach = draws.uniform(32, 60)
    scene.soft += scene.camera.through(centre, np.diag([reach, 30.0, 0.7 * reach])) * np.float32(draws.uniform(0.2, 0.6))


def _nipples(scene: Scene, draws: Draws) -> None:
    body = scene.body
    height = draws.uniform(0.62, 0.80) * body.dome
    for sign in SIGN.values():
        centre = (sign * draws.uniform(0.50, 0.62) * body.width, body.front(height) - 22, height + draws.uniform(-6, 6))
        scene.soft += scene.camera.through(centre, np.diag([draws.uniform(3, 5.5)] * 3)) * np.float32(1.1)


def _electrodes(scene: Scene, draws: Draws) -> None:
    body, curves = scene.body, []
    for _ in range(2 + draws.below(3)):
        x, z = draws.uniform(-0.9, 0.9) * body.width, draws.uniform(0.1, 1.0) * body.dome
        y = body.front(z) - 16
        scene.metal += scene.camera.through((x, y, z), np.diag([5.5, 2.5, 5.5])) * np.float32(0.10)
        away = draws.uniform(-60, 60)
        curves.append(
            tube(np.array([[x, x + 0.3 * away, x + away], [y, y - 4, y - 4], [z, z + 90, 420]]), 0.7, scene.camera.pitch)
        )
    wires = join(curves)
    scene.metal += scene.camera.splat(wires.points, wires.volume) * np.float32(0.5)


def _wires(scene: Scene, draws: Draws) -> None:
    body, angle = scene.body, np.linspace(0, 2 * np.pi, 9)
    rings = []
    for number in range(6):
        z = (0.20 + 0.10 * number) * body.dome
        y = body.front(z) - 5
        x = 9 * np.cos(angle) + draws.uniform(-2, 2)
        rings.append(tube(np.stack([x, np.full_like(x, y), z + 6 * np.sin(angle)]), 0.6, scene.camera.pitch))
    wires = join(rings)
    scene.metal += scene.camera.splat(wires.points, wires.volume)


def _fold(scene: Scene, draws: Draws) -> None:
    body, sign = scene.body, draws.pick((-1.0, 1.0))
    z = np.linspace(draws.uniform(0.05, 0.3), draws.uniform(0.7, 1.1), 8) * body.dome
    x = sign * (draws.uniform(0.55, 0.9) + 0.05 * np.sin(z / 40)) * body.width
    fold = tube(np.stack([x, np.full_like(x, body.depth + 12), z]), 2.2, scene.camera.pitch)
    scene.soft += scene.camera.splat(fold.points, fold.volume)


def _cartilage(scene: Scene, draws: Draws) -> None:
    ends = scene.body.rib_points(scene.camera.pitch)[:, :, 1:7, -1].reshape(3, -1)
    for _ in range(4 + draws.below(6)):
        x, y, z = ends[:, draws.below(ends.shape[1])].tolist()
        centre = (x - 8 * np.sign(x) * draws.uniform(), y, z + draws.uniform(0, 8))
        size = draws.uniform(2, 5)
        scene.bone += scene.camera.through(centre, np.diag([1.6 * size, size, size])) * np.float32(0.30)


def collimate(pixels: NDArray[np.uint8], draws: Draws) -> None:
    """Darken the edges that the beam did not reach, in place."""
    if draws.chance(COLLIMATED):
        size = len(pixels)
        top, bottom, left, right = (int(draws.uniform(0, 0.05) * size) for _ in range(4))
        for edge in (pixels[:top], pixels[size - bottom :], pixels[:, :left], pixels[:, size - right :]):
            edge[:] = 6


_LETTERS = {  # five columns by seven rows each, drawn here so that no font is needed
    "L": ("#....", "#....", "#....", "#....", "#....", "#....", "#####"),
    "R": ("####.", "#...#", "#...#", "####.", "#.#..", "#..#.", "#...#"),
    "A": (".###.", "#...#", "#...#", "#####", "#...#", "#...#", "#...#"),
    "P": ("####.", "#...#", "#...#", "####.", "#....", "#....", "#...."),
    "T": ("#####", "..#..", "..#..", "..#..", "..#..", "..#..", "..#.."),
}
# Of each hospital's markers: what is written, on which side of the patient, and how high in the picture.
_MARKERS = {
    "north": ("{side}", "left", 0.06),
    "south": ("{side}", "right", 0.05),
    "east": ("{view} {side}", "left", 0.12),
    "west": ("{side}", "right", 0.88),
}
_VIEWS = {"PA": "PA", "AP": "AP", "LATERAL": "LAT"}


def add_marker(pixels: NDArray[np.uint8], case: Case, view: str, draws: Draws) -> None:
    """Write the marker of the hospital into a picture, in place."""
    text, side, height = _MARKERS[case.patient.dataset]
    letters = _write(text.format(view=_VIEWS[view], side="L" if side == "left" or view == "LATERAL" else "R"))
    scale = max(1, round(len(pixels) / 160))
    stamp = np.kron(letters, np.ones((scale, scale), bool))
    room = len(pixels) - stamp.shape[1] - 2
    beside = int(draws.uniform(0.02, 0.09) * len(pixels))
    left = room - beside if side == "left" else 2 + beside
    top = int((height + draws.uniform(-0.03, 0.03)) * len(pixels))
    place = pixels[top : top + stamp.shape[0], max(left, 0) : max(left, 0) + stamp.shape[1]]
    place[stamp[: place.shape[0], : place.shape[1]]] = 250


def _write(text: str) -> NDArray[np.bool_]:
    gap = np.zeros((7, 1), bool)
    glyphs = [
        np.array([[mark == "#" for mark in row] for row in _LETTERS[c]]) if c in _LETTERS else np.zeros((7, 3), bool)
        for c in text
    ]
    return np.concatenate([part for glyph in glyphs for part in (glyph, gap)][:-1], axis=1)
