"""Draw one frontal radiograph of the phantom: analytic shapes summed on the pixel grid, as thicknesses add up in a projection.

Body coordinates: x to the right of the picture (the patient's left), y down, in half picture widths from the centre, before the pose
turns and shifts the body. Every array is (size, size) float32 on the pixel grid unless said otherwise; soft shapes are 0 to 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from hybridpt.data._phantom_case import Case, generator

__all__ = ["draw"]

Array = NDArray[np.float32]

EXPOSURE = {"north": (1.00, 1.00), "south": (1.10, 0.95)}  # gamma and contrast of each hospital's machine, both without unit
SIGN = {"right": -1.0, "left": 1.0}  # of x
_EDGE = 0.022  # width of a soft edge in body units, about 4 mm


@dataclass(frozen=True, slots=True)
class _Pose:
    """How one picture was taken: turn in radians, lengths in body units, exposure without unit."""

    turn: float
    scale: float
    shift_x: float
    shift_y: float
    base: float
    midline: float
    gamma: float
    contrast: float
    brightness: float
    noise: float
    bubble: float
    portable: bool


@dataclass(frozen=True, slots=True)
class _Lungs:
    """Both lungs: body coordinates, |x|, the outline's radius (below 1 inside), the diaphragm's height, and the soft field."""

    x: Array
    y: Array
    side: Array
    radius: Array
    diaphragm: Array
    field: Array


def draw(case: Case, picture: int, size: int, seed: int) -> tuple[NDArray[np.uint8], dict[str, NDArray[np.bool_]]]:
    """Draw one picture of a study and the masks of what is in it.

    Args:
        case: The study.
        picture: Number of the picture within the study, from 0.
        size: Pixels a side, 32 or more.
        seed: Seed of the set.

    Returns:
        The picture, (size, size) uint8, and masks of the same shape by structure: ``lungs`` (the whole field, also where fluid or
        pleural air fills it), ``heart``, and each finding that is present, never empty.
    """
    rng = generator(seed, 1, case.index, 2 + picture)
    pose = _draw_pose(case, picture, rng)
    x, y = _body_grid(pose, size)
    lungs = _lungs(case, pose, x, y)
    heart = _heart(case, pose, x, y)
    middle = np.maximum(heart, _mediastinum(case, pose, x, y))
    fluid = _fluid(case, lungs)
    air, line = _pleural_air(case, pose, lungs)
    nodule = _nodule(case, pose, x, y, size)

    aerated = lungs.field * (1 - 0.80 * np.maximum(middle, _fat(case, pose, x, y)))
    aerated *= (1 - 0.93 * fluid) * (1 - _haze(case, pose, lungs))
    tissue = aerated * (1 - air)
    grey = _soft_tissue(case, pose, lungs, middle)
    grey -= aerated * (0.50 - 0.10 * case.patient.habitus) * np.sqrt(np.clip(1.12 - lungs.radius**2, 0.12, 1))
    grey += tissue * (0.05 + _texture(rng, size)) + 0.21 * tissue * _vessels(case, pose, size, seed)
    grey -= 0.05 * air * aerated
    grey += 0.16 * line * aerated + nodule
    grey += _bones(case, pose, lungs, np.maximum(middle, fluid), rng)
    masks = {"lungs": lungs.field > 0.5, "heart": (heart > 0.5) & (y < lungs.diaphragm + 0.05)}
    soft = {"Pleural Effusion": fluid * lungs.field, "Pneumothorax": air * lungs.field, "Nodule": nodule}
    for lesion in case.lesions:
        masks[lesion.finding] = masks["heart"] if lesion.finding == "Cardiomegaly" else _mask(soft[lesion.finding])
    return _expose(grey, pose, rng), masks


def _mask(soft: Array) -> NDArray[np.bool_]:
    """Threshold a soft shape at half its peak, so that even one that is thinner than a pixel has a mask."""
    return np.asarray(soft >= 0.5 * soft.max())


def _ramp(distance: Array, edge: float = _EDGE) -> Array:
    """Turn a signed distance (positive inside, body units) into a soft shape."""
    return np.asarray(np.clip(np.float32(0.5) + distance * np.float32(1 / edge), 0, 1), np.float32)


def _blob(x: Array, y: Array, centre: tuple[float, float], radii: tuple[float, float]) -> Array:
    """A bump that is 1 at its centre and 0 from its elliptic rim outwards."""
    square = ((x - centre[0]) / radii[0]) ** 2 + ((y - centre[1]) / radii[1]) ** 2
    return np.asarray(np.clip(1 - square, 0, 1))


def _draw_pose(case: Case, picture: int, rng: np.random.Generator) -> _Pose:
    portable = case.views[picture] == "AP"
    gamma, contrast = EXPOSURE[case.patient.dataset]
    return _Pose(
        turn=float(rng.normal(0, 0.030)),
        scale=float(rng.normal(1.02 if portable else 0.98, 0.03)),
        shift_x=float(rng.normal(0, 0.03)),
        shift_y=float(rng.normal(0, 0.03)),
        base=case.patient.base + float(rng.normal(-0.03 if portable else 0.02, 0.03)),
        midline=float(rng.normal(0, 0.012)),
        gamma=gamma * float(np.exp(rng.normal(0, 0.10))),
        contrast=contrast * float(np.exp(rng.normal(0, 0.06))),
        brightness=float(rng.normal(0, 0.025)),
        noise=float(rng.uniform(0.008, 0.026)),
        bubble=float(rng.uniform(-0.6, 1)),
        portable=portable,
    )


@lru_cache(maxsize=4)
def _pixel_grid(size: int) -> tuple[Array, Array]:
    centres = (np.arange(size, dtype=np.float32) + np.float32(0.5)) * np.float32(2 / size) - 1
    y, x = np.meshgrid(centres, centres, indexing="ij")
    return x, y


def _body_grid(pose: _Pose, size: int) -> tuple[Array, Array]:
    """Body coordinates of every pixel."""
    u, v = _pixel_grid(size)
    cos, sin = np.float32(np.cos(pose.turn) / pose.scale), np.float32(np.sin(pose.turn) / pose.scale)
    u, v = u - np.float32(pose.shift_x), v - np.float32(pose.shift_y)
    return cos * u + sin * v, cos * v - sin * u


def _to_pixels(points: NDArray[np.float64], pose: _Pose, size: int) -> NDArray[np.float64]:
    """Pixel coordinates of body coordinates, both (..., 2) as x, y."""
    cos, sin = np.cos(pose.turn) * pose.scale, np.sin(pose.turn) * pose.scale
    u = cos * points[..., 0] - sin * points[..., 1] + pose.shift_x
    v = sin * points[..., 0] + cos * points[..., 1] + pose.shift_y
    return np.stack([(u + 1) * size / 2, (v + 1) * size / 2], axis=-1)


def _outline(case: Case, pose: _Pose, side: Array, y: Array, medial: bool = True) -> Array:
    """Radius of the lung's outline at |x|, y: half an ellipse over straight walls; below 1 inside."""
    half = np.float32(case.patient.half_width)
    length = np.float32(0.64 * (pose.base - case.patient.apex))
    dx = side - 0.44 * half
    inner = np.float32(1 / (0.33 * half)) if medial else np.float32(0)
    rx = dx * np.where(dx > 0, np.float32(1 / (0.56 * half)), inner)
    ry = np.minimum(y - np.float32(case.patient.apex) - length, 0) / length
    return np.asarray(np.sqrt(rx * rx + ry * ry))


def _lungs(case: Case, pose: _Pose, x: Array, y: Array) -> _Lungs:
    half = np.float32(case.patient.half_width)
    side = np.abs(x)
    radius = _outline(case, pose, side, y)
    lower_left = np.where(x > 0, np.float32(0.045), np.float32(0))
    bend = side / half - np.float32(0.45)
    right, left = (np.float32(0.1 + 0.9 * depth) for depth in case.patient.angles)
    dome = bend * bend * (np.float32(0.34) + np.where(x > 0, left, right) * np.maximum(bend, 0))
    diaphragm = np.asarray(np.float32(pose.base) + lower_left + dome, np.float32)
    field = _ramp((1 - radius) * np.float32(0.5 * half)) * _ramp(diaphragm - y)
    return _Lungs(x, y, side, radius, diaphragm, field)


def _heart(case: Case, pose: _Pose, x: Array, y: Array) -> Array:
    """A tilted ellipse, as wide as the cardiothoracic ratio says, a third of it right of the midline, resting on the diaphragm."""
    wide = case.heart * case.patient.half_width
    cos, sin = np.cos(case.patient.tilt), np.sin(case.patient.tilt)
    short = case.patient.slender - 0.9 * max(case.heart - 0.43, 0)  # a large heart grows in width more than in height
    long = wide / np.hypot(cos, short * sin)
    tall = long * np.hypot(sin, short * cos)
    dx, dy = x - np.float32(pose.midline + 0.30 * wide), y - np.float32(pose.base + 0.09 - tall)
    p = (dx * np.float32(cos) + dy * np.float32(sin)) / np.float32(long)
    q = (dy * np.float32(cos) - dx * np.float32(sin)) / np.float32(short * long)
    return _ramp((1 - np.sqrt(p * p + q * q)) * np.float32(short * long), 0.035)


def _mediastinum(case: Case, pose: _Pose, x: Array, y: Array) -> Array:
    """The band of great vessels above the heart, and the aortic knob, which grows with age."""
    apex, age = case.patient.apex, case.age
    height = pose.base - apex
    band = np.float32(0.115) + np.float32(0.05) * np.clip((y - np.float32(apex)) / np.float32(height), 0, 1)
    vessels = _ramp(band - np.abs(x - np.float32(pose.midline)), 0.05)
    knob = 0.075 + 0.0006 * age
    arch = _blob(x, y, (pose.midline + 0.105, apex + 0.36 * height), (knob, knob))
    trunk = _blob(x, y, (pose.midline + 0.11, apex + 0.50 * height), (0.09, 0.11))
    return np.asarray(np.maximum(vessels, np.minimum(3 * np.maximum(arch, trunk), 1)))


def _fat(case: Case, pose: _Pose, x: Array, y: Array) -> Array:
    """The pad of fat at the heart's apex."""
    if case.patient.fat == 0:
        return np.zeros_like(x)
    apex = pose.midline + 1.25 * case.heart * case.patient.half_width
    extent = 0.08 + 0.16 * case.patient.fat
    return np.minimum(_blob(x, y, (apex, pose.base + 0.04), (extent, 0.8 * extent)), np.float32(0.7))


def _haze(case: Case, pose: _Pose, lungs: _Lungs) -> Array:
    """The part of the air at the bases that a harmless opacity takes, fading out upwards and without a meniscus."""
    if max(case.haze) == 0:
        return np.zeros_like(lungs.x)
    right, left = (np.float32(strength) for strength in case.haze)
    place = (0.75 * case.patient.half_width, pose.base + 0.06)
    return np.asarray(np.float32(0.7) * np.where(lungs.x > 0, left, right) * _blob(lungs.side, lungs.y, place, (0.32, 0.22)))


def _fluid(case: Case, lungs: _Lungs) -> Array:
    """Fluid as a soft shape: highest at the chest wall, filling the angle first and the whole base when there is much."""
    if max(case.effusion) == 0:
        return np.zeros_like(lungs.x)
    half, height = case.patient.half_width, case.patient.base - case.patient.apex
    outward = np.clip((lungs.side - np.float32(0.1 * half)) / np.float32(0.9 * half), 0, 1)
    shape = np.zeros_like(lungs.x)
    for amount, here in zip(case.effusion, (lungs.x < 0, lungs.x > 0), strict=True):
        if amount > 0:
            angle = lungs.diaphragm.max(where=here & (lungs.field > 0.5), initial=-1.0)
            flat = np.clip((amount - 0.05) * 3.5, 0, 0.85)
            surface = angle - (amount * height + 0.05) * (flat + (1 - flat) * outward * outward)
            thick = np.float32(0.6 + 0.4 * min(amount / 0.25, 1))
            shape += thick * _ramp(lungs.y - surface.astype(np.float32), 0.05) * here
    return shape


def _pleural_air(case: Case, pose: _Pose, lungs: _Lungs) -> tuple[Array, Array]:
    """The space outside a collapsed lung and the thin pleural line at its rim, as soft shapes."""
    gap = max(case.pneumothorax)
    if gap == 0:
        return np.zeros_like(lungs.x), np.zeros_like(lungs.x)
    here = lungs.x > 0 if case.pneumothorax[1] > 0 else lungs.x < 0
    half, keep = case.patient.half_width, np.float32(1 - gap)
    # The lung shrinks towards a point low at the chest wall while the gap is small, and towards the hilum when it is large.
    fixed_x, fixed_y = np.float32(half * (1.0 - 0.9 * gap)), np.float32(pose.base)
    radius = _outline(case, pose, (lungs.side - fixed_x) / keep + fixed_x, (lungs.y - fixed_y) / keep + fixed_y, medial=False)
    outside = (radius - 1) * np.float32(0.62 * half)
    line = np.clip(1 - np.abs(outside) / np.float32(0.016), 0, 1)
    faint = np.float32(0.5 + 0.5 * min(gap / 0.24, 1))
    return _ramp(outside) * here, faint * line * here * (lungs.y < np.float32(pose.base))


def _nodule(case: Case, pose: _Pose, x: Array, y: Array, size: int) -> Array:
    """What a nodule adds to the grey scale: the thickness of a ball, spread over a pixel when it is smaller."""
    if case.nodule is None:
        return np.zeros_like(x)
    spot, patient = case.nodule, case.patient
    height = pose.base - patient.apex
    rise = min(spot.height / 0.64 - 1, 0)
    wall = patient.half_width * (0.44 + 0.56 * np.sqrt(1 - rise * rise))
    centre_x = SIGN[spot.side] * (0.12 + (wall - 0.12) * spot.width)
    centre_y = patient.apex + spot.height * height
    radius = spot.diameter_mm / patient.thorax_mm * patient.half_width
    drawn = np.hypot(radius, 1.1 / size)
    square = ((x - np.float32(centre_x)) ** 2 + (y - np.float32(centre_y)) ** 2) / np.float32(drawn**2)
    ball = np.sqrt(np.clip(1 - square, 0, 1))
    if not ball.any():
        ball.flat[np.argmin(square)] = 1
    return np.asarray(ball * np.float32(spot.contrast * (radius / drawn) ** 2), np.float32)


def _soft_tissue(case: Case, pose: _Pose, lungs: _Lungs, middle: Array) -> Array:
    """Grey of the body without air in it: trunk, neck and shoulders, abdomen, breasts, stomach bubble."""
    x, y, side, patient = lungs.x, lungs.y, lungs.side, case.patient
    wall = patient.half_width + 0.07 + 0.12 * patient.habitus
    shoulder = np.clip((np.float32(-0.30) - y) * 4, 0, 1)
    trunk = _ramp(wall + (1.25 - wall) * shoulder - side, 0.05)
    slope = np.clip((side - np.float32(0.20)) * np.float32(1.35), 0, 1)
    inside = trunk * _ramp(y - np.float32(patient.apex - 0.26) - np.float32(0.30) * slope * slope * (3 - 2 * slope), 0.06)
    grey = np.float32(0.50) + np.float32(0.16) / (1 + (x * np.float32(2.6)) ** 2)
    grey += np.float32(0.13) * _ramp(y - lungs.diaphragm - 0.05, 0.16)
    grey += np.float32(0.11) * middle * _ramp(lungs.diaphragm - y, 0.06)
    grey += np.float32(0.08 * (patient.habitus - 0.4))
    if patient.sex == "F":
        full = 0.05 + 0.07 * patient.habitus
        for sign in (-1, 1):
            breast = _blob(x, y, (sign * 0.40, pose.base - 0.10), (0.27 + 0.06 * patient.habitus, 0.24))
            grey += np.float32(full) * np.minimum(2 * breast, 1)
    bubble = _blob(x, y, (0.36, pose.base + 0.17), (0.15, 0.07 + 0.05 * pose.bubble))
    grey -= np.float32(0.20 * max(pose.bubble, 0)) * bubble * _ramp(y - lungs.diaphragm - 0.04, 0.04)
    return np.asarray(grey * inside, np.float32)


def _bones(case: Case, pose: _Pose, lungs: _Lungs, dense: Array, rng: np.random.Generator) -> Array:
    """What ribs, spine, clavicles, shoulder blades and shoulders add; all fade with age, ribs also in dense tissue."""
    x, y, side, half = lungs.x, lungs.y, lungs.side, np.float32(case.patient.half_width)
    apex = case.patient.apex
    out = side / half
    spacing, offset, front = rng.uniform(0.125, 0.145), rng.random(), rng.random()
    cage = _ramp((np.float32(1.05) - lungs.radius) * (0.5 * half), 0.05) * (1 - np.float32(0.65) * dense)
    cage *= np.clip(1.3 - (y - np.float32(pose.base)) * 6, 0.10, 1)
    cube = out * out * out
    back = _bands(y + np.float32(0.13) * out - np.float32(0.34) * cube, spacing, offset, 0.030)
    fore = _bands(y + np.float32(0.50) * out, spacing * 1.12, front, 0.028) * np.clip(out * 4 - 1.6, 0, 1)
    grey = cage * (np.float32(0.115) * back + np.float32(0.070) * fore * (y > np.float32(apex + 0.22)))
    spine = _ramp(np.float32(0.075) - np.abs(x - np.float32(pose.midline)), 0.03)
    discs = np.abs(np.mod(y * np.float32(8.5), 1) - np.float32(0.5))
    grey += spine * (np.float32(0.02) + np.float32(0.035) * np.clip(discs * 5, 0, 1))
    trachea = _ramp(np.float32(0.036) - np.abs(x - np.float32(pose.midline)), 0.03)
    grey -= np.float32(0.10) * trachea * np.clip((np.float32(apex + 0.42) - y) * 8, 0, 1)
    collar = apex + (0.10 if pose.portable else 0.16)
    bow = side - np.float32(0.45)
    clavicle = y - np.float32(collar) + np.float32(0.22) * side - np.float32(0.9) * bow * bow * bow
    grey += np.float32(0.10) * _ramp(np.float32(0.026) - np.abs(clavicle), 0.02) * _ramp(side - np.float32(0.09)) * (side < 0.9)
    blade = float(half) + (0.03 if pose.portable else 0.10)
    lean = (y + np.float32(0.35)) * np.float32(0.25)
    grey += np.float32(0.07) * np.minimum(2 * _blob(side + lean, y, (blade, -0.36), (0.13, 0.30)), 1)
    grey += np.float32(0.09) * np.minimum(2 * _blob(side, y, (1.02, -0.62), (0.17, 0.17)), 1)
    return np.asarray(grey * np.float32(1.12 - 0.004 * case.age), np.float32)


def _bands(height: Array, spacing: float, offset: float, half: float) -> Array:
    """Parallel ribs along the level lines of ``height``, with the brighter rims of cortical bone."""
    phase = height * np.float32(1 / spacing) - np.float32(offset)
    away = np.abs(phase - np.rint(phase)) * np.float32(spacing)
    return np.asarray(_ramp(half - away, 0.016) * (np.float32(0.7) + away * np.float32(0.5 / half)))


def _vessels(case: Case, pose: _Pose, size: int, seed: int) -> Array:
    """Branching vessels from both hila, thinner at every fork; the same tree in every picture of a study."""
    rng = generator(seed, 1, case.index, 1)
    hilum = case.patient.apex + 0.50 * (pose.base - case.patient.apex)
    canvas = Image.new("L", (2 * size, 2 * size))
    pen: Any = ImageDraw.Draw(canvas)
    main = 7
    sign = np.repeat([-1.0, 1.0], main)
    angle = np.tile(np.linspace(-1.25, 1.35, main), 2) + rng.normal(0, 0.15, 2 * main)
    start = np.stack([sign * 0.15, np.full(2 * main, hilum) + 0.03 * sign], axis=1)
    length, width, bright = 0.16, 0.030, 200
    for _ in range(4):
        step = length * rng.uniform(0.7, 1.3, len(angle))
        end = start + np.stack([sign * np.cos(angle) * step, np.sin(angle) * step], axis=1)
        lines = _to_pixels(np.stack([start, end], axis=1), pose, 2 * size).reshape(-1, 4).tolist()
        for line in lines:
            pen.line(line, fill=bright, width=max(1, round(width * size)))
        fork = rng.uniform(0.12, 0.55, len(angle))
        angle = np.concatenate([angle + fork, angle - fork])
        start, sign = np.concatenate([end, end]), np.concatenate([sign, sign])
        length, width, bright = length * 0.82, width * 0.60, bright - 45
    return np.asarray(canvas.reduce(2), np.float32) * np.float32(1 / 255)


@lru_cache(maxsize=16)
def _stretch(cells: int, size: int) -> Array:
    """Matrix that stretches ``cells`` values linearly over ``size`` pixels, (size, cells) float32."""
    place = np.linspace(0, cells - 1, size)
    return np.asarray(np.clip(1 - np.abs(place[:, None] - np.arange(cells)), 0, 1), np.float32)


def _texture(rng: np.random.Generator, size: int) -> Array:
    """Cloudy lung texture in three octaves, about +-0.03 of the grey scale."""
    total = np.zeros((size, size), np.float32)
    for cells, strength in ((5, 0.014), (11, 0.011), (27, 0.011)):
        stretch = _stretch(cells, size)
        total += np.float32(strength) * (stretch @ rng.standard_normal((cells, cells), np.float32) @ stretch.T)
    return total


def _expose(grey: Array, pose: _Pose, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Apply the machine's curve and the noise of the detector, and round to 8 bits."""
    level = np.clip((grey - np.float32(0.45)) * np.float32(pose.contrast) + np.float32(0.45 + pose.brightness), 0, 1)
    level = np.power(level, np.float32(pose.gamma))
    noise = rng.standard_normal(grey.shape, np.float32) * (np.float32(0.4) + level) * np.float32(pose.noise)
    return np.asarray(np.rint(np.clip(level + noise, 0, 1) * 255), np.uint8)
