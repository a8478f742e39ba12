"""Take one radiograph of a case: rays through the body, scatter, film and noise, the marker, and the masks."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from hybridpt.data._phantom.body import SIGN, Body, join, ribbon
from hybridpt.data._phantom.cases import Case
from hybridpt.data._phantom.draws import Draws
from hybridpt.data._phantom.harmless import add_harmless, add_marker, collimate
from hybridpt.data._phantom.lesions import AERATED, Scene, mask_of, paint
from hybridpt.data._phantom.projection import Camera, Map

__all__ = ["draw"]

FIELD = 150.0  # mm that a picture is wide, beside what follows the height of the lungs, before the pose's scale
TISSUE = 0.0185  # attenuation of soft tissue, 1 / mm, at the energies of chest radiography
BONE = 0.034  # what cortical bone adds to it
METAL = 0.55

# Exposure of each hospital's machine: gamma, contrast, sharpening, noise; no unit.
STYLES = {
    "north": (1.00, 1.00, 0.0, 0.011),
    "south": (1.12, 0.94, 0.5, 0.014),
    "east": (0.92, 1.06, 0.0, 0.019),
    "west": (1.05, 0.98, 0.9, 0.012),
}


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
    draws = Draws(seed, 10, case.index, picture)
    view = case.views[picture]
    body = Body(case, _breath(view, draws), view != "AP", seed)
    camera = _camera(case, body, view, size, draws)
    scene = _scene(camera, body)
    lungs = (scene.cavity["right"] + scene.cavity["left"]) > 4
    _bones(scene)
    paint(scene)
    add_harmless(scene)
    depth = _attenuation(scene, draws)
    masks = {"lungs": lungs, "heart": mask_of(np.minimum(scene.heart, 8))}
    masks |= {finding: mask_of(shown) for finding, shown in scene.masks.items()}
    return _develop(depth, case, view, draws), masks


def _breath(view: str, draws: Draws) -> float:
    return draws.normal(0.90, 0.035, 0.80, 0.98) if view == "AP" else draws.normal(0.97, 0.025, 0.86, 1.02)


def _camera(case: Case, body: Body, view: str, size: int, draws: Draws) -> Camera:
    turned = draws.normal(0, 0.045)
    return Camera(
        size=size,
        pitch=(FIELD + 0.96 * case.patient.lung_height * body.breath) / size * draws.normal(1, 0.04, 0.9, 1.12),
        yaw=turned + (np.pi / 2 if view == "LATERAL" else 0.0),
        lean=draws.normal(0, 0.022),
        shift=(draws.normal(0, 7) - (8 if view == "LATERAL" else 0), draws.normal(0, 7)),
        centre=0.5 * case.patient.lung_height * body.breath + 14,
        spread=-1 / 1050 if view == "AP" else 1 / 1830,
    )


def _scene(camera: Camera, body: Body) -> Scene:
    """The healthy body along every ray."""
    z = camera.z
    heart = np.maximum.reduce([camera.through(centre, axes) for centre, axes in body.heart])
    solid = heart.copy()
    for stack in body.mediastinum(z):
        np.maximum(solid, camera.length(stack), out=solid)
    for centre, axes in body.vessels_of_heart:
        np.maximum(solid, camera.through(centre, axes), out=solid)
    bodies, bone = body.vertebrae(z)
    spine = camera.length(bodies)
    air = {}
    cavity = {}
    for side in SIGN:
        whole = camera.length_on(body.cavity(side, z), SIGN[side])
        belly = camera.length_on(body.diaphragm(side, z), SIGN[side])
        lung = np.maximum(whole - belly, 0)
        cavity[side] = lung
        # What lies between the lungs takes from them only where the belly has not taken all; from the side, half from each.
        share = (0.5 if camera.lateral else 1.0) * lung / np.maximum(whole, 1)
        air[side] = np.maximum(lung - share * (solid + np.float32(0.7) * spine), 0)
        if not camera.lateral:
            cavity[side] *= air[side] > 0
    trunk = camera.length(body.trunk(z, arms_up=camera.lateral))
    trunk += _breasts(camera, body)
    soft = trunk
    soft -= camera.length(body.windpipe(z))
    for centre, axes in body.bronchi:
        soft -= camera.through(centre, axes)
    soft -= _stomach(camera, body)
    np.maximum(soft, 0, out=soft)
    return Scene(
        camera=camera,
        body=body,
        air=air,
        cavity=cavity,
        heart=heart,
        spine=spine,
        soft=soft,
        bone=spine * (0.24 * bone).astype(np.float32)[:, None],
        metal=np.zeros_like(soft),
        vessels=np.ones_like(soft),
    )


def _breasts(camera: Camera, body: Body) -> Map:
    patient = body.case.patient
    if patient.sex == "M":
        size, flat = 0.34 * body.width, 3 + 0.1 * patient.fat
    else:
        size, flat = 0.34 * body.width + 0.6 * patient.fat, 7 + 0.55 * patient.fat
    total = np.zeros((camera.size, camera.size), np.float32)
    for sign in SIGN.values():
        low = (0.62 if patient.sex == "F" else 0.36) + 0.002 * (patient.age if patient.sex == "F" else 0)
        centre = (sign * 0.50 * body.width, body.front(low * body.dome) - 8 - 0.6 * patient.fat, low * body.dome)
        breast = camera.through(centre, np.diag([size, flat, 0.92 * size]))
        total += breast * breast * np.float32(0.75 / max(float(breast.max()), 1))  # thinner towards its rim than half a ball
    return total


def _stomach(camera: Camera, body: Body) -> Map:
    """Air in the stomach and the bowel under the left dome."""
    draws = Draws(body.seed, 11, body.case.index)
    full = draws.uniform(-0.5, 1)
    if full <= 0:
        return np.zeros((camera.size, camera.size), np.float32)
    size = 16 + 26 * full
    centre = (0.50 * body.width, -0.1 * body.depth, body.top("left") + 16 + 0.72 * size)
    return camera.through(centre, np.diag([1.25 * size, size, 0.72 * size]))


def _bones(scene: Scene) -> None:
    camera, body = scene.camera, scene.body
    ribs = ribbon(body.ribs(camera.pitch), 13.0, 62.0 * body.mineral, camera.pitch)
    bones = join([ribs, body.clavicles(camera.pitch), body.scapulae(camera.pitch)])
    scene.bone += camera.splat(bones.points, bones.volume)
    z = camera.z
    if camera.lateral:
        scene.bone += camera.length(body.sternum(z)) * np.float32(0.5)
    else:
        for sign in SIGN.values():
            head = camera.through((sign * 1.30 * body.width, 0.0, 22.0), np.diag([24.0, 22.0, 26.0]))
            scene.bone += np.float32(0.38) * head


def _attenuation(scene: Scene, draws: Draws) -> Map:
    """How far each ray is weakened, as the exponent."""
    camera, body = scene.camera, scene.body
    lung = scene.air["right"] + scene.air["left"]
    vessels = body.vessels(camera.pitch)
    marks = camera.splat(vessels.points, vessels.volume)
    inside = np.minimum(lung * np.float32(0.04), 1)
    texture = _texture(draws, camera.size)
    tissue = scene.soft - lung * (np.float32(scene.aeration) - texture)
    tissue += np.float32(1.3 * AERATED) * marks * inside * scene.vessels
    return np.asarray(tissue * np.float32(TISSUE) + scene.bone * np.float32(BONE) + scene.metal * np.float32(METAL), np.float32)


@lru_cache(maxsize=16)
def _stretch(cells: int, size: int) -> Map:
    """Matrix that stretches ``cells`` values linearly over ``size`` pixels, (size, cells) float32."""
    place = np.linspace(0, cells - 1, size)
    return np.asarray(np.clip(1 - np.abs(place[:, None] - np.arange(cells)), 0, 1), np.float32)


def _texture(draws: Draws, size: int) -> Map:
    """Uneven aeration of the lung in three octaves, without unit, about +-0.05."""
    total = np.zeros((size, size), np.float32)
    for cells, strength in ((6, 0.020), (15, 0.016), (40, 0.018)):
        stretch = _stretch(cells, size)
        total += np.float32(strength) * (stretch @ draws.normals(cells, cells) @ stretch.T)
    return total


def _blur(values: Map, cells: int) -> Map:
    """A wide blur: means over cells, stretched back."""
    size = len(values)
    stretch = _stretch(cells, size)
    weight = stretch / stretch.sum(axis=0, keepdims=True)
    return np.asarray(stretch @ (weight.T @ values @ weight) @ stretch.T, np.float32)


def _develop(depth: Map, case: Case, view: str, draws: Draws) -> NDArray[np.uint8]:
    """Scatter, film, noise and marker; rounds to 8 bits, bone white."""
    gamma, contrast, sharpen, noise = STYLES[case.patient.dataset]
    primary = np.exp(-np.minimum(depth, 12))
    scatter = draws.uniform(0.18, 0.30) * (1.3 if view == "LATERAL" else 1.0)
    film = -np.log(primary * np.float32(1 - scatter) + np.float32(scatter) * _blur(primary, 12) + np.float32(1e-5))
    if sharpen:
        film += np.float32(sharpen) * (film - _soften(film))
    low, high = _window(case, view, scatter)
    # The curve of film: straight between lung and mediastinum, flat beyond both.
    steep = contrast * draws.normal(1, 0.08, 0.8, 1.2) * 1.5 / (high - low)
    level = (film - np.float32(low + (0.36 + draws.normal(0, 0.06)) * (high - low))) * np.float32(steep)
    level = np.float32(0.5) + np.float32(0.5) * level / np.sqrt(1 + level * level)
    grain = (
        draws.normals(*film.shape) * np.exp(np.minimum(film, 7) * np.float32(0.16)) * np.float32(noise * draws.uniform(0.6, 1.3))
    )
    level = np.power(level, np.float32(gamma * draws.normal(1, 0.08, 0.75, 1.25))) + grain * np.float32(0.6)
    pixels = np.asarray(np.rint(np.clip(level, 0, 1) * 255), np.uint8)
    collimate(pixels, draws)
    add_marker(pixels, case, view, draws)
    return pixels


def _window(case: Case, view: str, scatter: float) -> tuple[float, float]:
    """The films of lung and of mediastinum in a healthy chest of this patient's size, which are shown dark and light.

    What is in the picture does not move them: an automatic exposure would write every finding into the border.
    """
    patient = case.patient
    inner, skin = (patient.half_width, 14 + patient.fat) if view == "LATERAL" else (patient.half_depth, 14 + 0.8 * patient.fat)
    lung, dense = (np.exp(-TISSUE * (2 * (inner + skin) - gone * inner)) for gone in (1.25, 0.12))
    around = 0.6 * lung + 0.4 * dense
    low, high = (-np.log((1 - scatter) * direct + scatter * around) for direct in (lung, dense))
    return float(low), float(high)


def _soften(values: Map) -> Map:
    """Mean over three by three pixels with the weights 1 2 1, the rim as it is."""
    out = values.copy()
    out[1:-1] = 0.25 * values[:-2] + 0.5 * values[1:-1] + 0.25 * values[2:]
    out[:, 1:-1] = 0.25 * out[:, :-2] + 0.5 * out[:, 1:-1] + 0.25 * out[:, 2:]
    return out
