"""How each finding changes the picture: one function a finding, which alters a scene and returns where the finding shows.

What changes the shape of the body itself (a large heart, a bent spine, a flat diaphragm, a raised one, a broken rib) is in ``body``;
its function here only tells where it shows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hybridpt.data._phantom.body import SIGN, Body, Curve, join, tube
from hybridpt.data._phantom.cases import Lesion
from hybridpt.data._phantom.draws import Draws
from hybridpt.data._phantom.projection import Camera, Map, Points, Rows, Stack

__all__ = ["PAINTERS", "Scene", "mask_of", "paint"]

AERATED = 0.72
"""Share of a healthy lung's volume that is air."""


@dataclass
class Scene:
    """One picture while it is being drawn; maps in mm along each ray.

    Attributes:
        camera: Where it is taken from.
        body: Whose picture it is.
        air: Lung that each ray crosses, by side.
        cavity: The same before any finding took from it.
        heart: Heart that each ray crosses.
        spine: Vertebrae that each ray crosses.
        soft: Tissue beyond that of trunk less lungs; negative for air outside the lungs.
        bone: Cortical bone and calcium.
        metal: Metal and what shows like it.
        aeration: Share of the lung that is air, without unit.
        vessels: What is left of the vessels' shadows, without unit.
    """

    camera: Camera
    body: Body
    air: dict[str, Map]
    cavity: dict[str, Map]
    heart: Map
    spine: Map
    soft: Map
    bone: Map
    metal: Map
    vessels: Map
    aeration: float = AERATED
    masks: dict[str, Map] = field(default_factory=dict)

    def fill(self, side: str, length: Map) -> Map:
        """Fill up to ``length`` mm of one lung with something as dense as tissue; returns what was filled, with a trace of the rest."""
        filled = np.minimum(length, self.air[side])
        self.air[side] = self.air[side] - filled
        return np.asarray(filled + np.float32(1e-4) * length, np.float32)

    def darken_vessels(self, gone: Map) -> None:
        """Take away the vessels where ``gone``, without unit, is 1."""
        self.vessels *= 1 - gone


def paint(scene: Scene) -> None:
    """Draw all findings of the scene's case and keep where each shows."""
    for finding, painter in PAINTERS.items():
        lesion = scene.body.case.find(finding)
        if lesion is not None:
            scene.masks[finding] = painter(scene, lesion)


def mask_of(shown: Map) -> NDArray[np.bool_]:
    """Where a finding shows at half its strength or more; never empty."""
    return np.asarray(shown >= max(0.5 * float(shown.max()), 1e-6))


def sides(lesion: Lesion) -> list[tuple[str, float]]:
    """The sides that a lesion is on, each with its share of the size."""
    if lesion.side != "bilateral":
        return [(lesion.side, 1.0)]
    first = "left" if lesion.detail % 2 else "right"
    return [(first, 1.0), ("right" if first == "left" else "left", lesion.balance)]


def spot(body: Body, side: str, place: tuple[float, float, float]) -> tuple[float, float, float]:
    """A place in lung coordinates as x, y, z in mm."""
    height, width, depth = place
    z = height * body.top(side)
    rows = np.array([z])
    cavity = body.cavity(side, rows)
    a, b = float(cavity.a[0]), float(cavity.b[0])
    centre, middle = float(cavity.x[0]), float(cavity.y[0])
    inner = 0.20 * body.width + float(body.curve(rows)[0]) * SIGN[side]
    outer = abs(centre) + a - 4
    x = SIGN[side] * (inner + (outer - inner) * width)
    beside = min(abs(x - centre) / max(a, 1e-3), 0.97)
    return x, middle + 0.86 * depth * b * float(np.sqrt(1 - beside * beside)), z


def _ball(diameter: float) -> Points:
    return np.diag([diameter / 2] * 3)


def _turned(axes: tuple[float, float, float], roll: float) -> Points:
    """Half axes across, in depth and down, the first and last turned in the frontal plane by an angle."""
    cos, sin = np.cos(roll), np.sin(roll)
    return np.array([[cos * axes[0], 0, sin * axes[0]], [0, axes[1], 0], [-sin * axes[2], 0, cos * axes[2]]])


def _cardiomegaly(scene: Scene, lesion: Lesion) -> Map:
    return scene.heart


def _effusion(scene: Scene, lesion: Lesion) -> Map:
    """Fluid between the chest wall and a lung that shrinks from it: a meniscus in any view, a veil when it lies at the back."""
    shown = np.zeros_like(scene.soft)
    for side, share in sides(lesion):
        shown += _drown(scene, side, lesion.size * share, lesion.kind == "layering" and not scene.body.upright)
    return np.asarray(np.maximum(shown - 6, shown * np.float32(1e-3)), np.float32)


def _drown(scene: Scene, side: str, rise: float, layering: bool) -> Map:
    z = scene.camera.z
    body = scene.body
    angle = body.top(side) + 0.72 * body.recess
    depth = np.clip((z - (angle - rise)) / rise, 0, 1)
    if layering:
        lost = 0.10 + min(rise / 240, 0.5) * np.clip((z - 0.15 * body.dome) / (0.8 * body.dome), 0, 1)
    else:
        lost = depth**1.6 * min(0.40 + rise / 110, 1.0)
    return _press(scene, side, 1 - lost, towards_front=layering)


def _shrunk(scene: Scene, side: str, keep: Rows, towards_front: bool = False) -> Map:
    """Length of each ray in what a lung occupies that keeps a share of its width and depth at each row."""
    cavity = scene.body.cavity(side, scene.camera.z)
    x = cavity.x + (SIGN[side] * 0.16 * scene.body.width - cavity.x) * (1 - keep)
    y = cavity.y - (0.95 if towards_front else 0.0) * cavity.b * (1 - keep)
    return scene.camera.length_on(Stack(x, y, cavity.a * keep, cavity.b * keep), SIGN[side])


def _press(scene: Scene, side: str, keep: Rows, towards_front: bool = False) -> Map:
    """Press a lung away from the chest wall; returns the length of each ray in the room that it left."""
    whole = scene.camera.length_on(scene.body.cavity(side, scene.camera.z), SIGN[side])
    left = np.minimum(np.maximum(whole - _shrunk(scene, side, keep, towards_front), 0), scene.air[side])
    scene.air[side] = scene.air[side] - left
    return np.asarray(left, np.float32)


def _pneumothorax(scene: Scene, lesion: Lesion) -> Map:
    """Air outside a collapsed lung, whose rim shows as a thin line where rays meet it edge on."""
    body, z, gap = scene.body, scene.camera.z, lesion.size
    fallen = np.clip((z - gap) / min(20 + 3 * gap, 0.55 * body.dome), 0, 1)
    down = np.clip(z / body.top(lesion.side), 0, 1)
    keep = np.sqrt(1 - (1 - fallen) ** 2) * (1 - min(gap / 210, 0.45) * (1 - 0.6 * down)) * (z > gap)
    before = scene.air[lesion.side]
    left = _press(scene, lesion.side, keep)
    rim = _shrunk(scene, lesion.side, keep) - _shrunk(scene, lesion.side, np.maximum(keep - 0.012, 0))
    scene.soft += np.minimum(np.maximum(rim, 0), before) * np.float32(0.8) - left
    scene.darken_vessels(np.minimum(left / np.maximum(before, 1), 1))
    return left


def _consolidation(scene: Scene, lesion: Lesion) -> Map:
    """Air spaces filled with fluid: clouds of blobs, one lobe, or a ball."""
    shown = np.zeros_like(scene.soft)
    for side, share in sides(lesion):
        draws = Draws(lesion.detail, int(side == "left"))
        size = lesion.size * share
        x, y, z = spot(scene.body, side, lesion.place)
        cloud = np.zeros_like(scene.soft)
        for _ in range({"patchy": 9, "lobar": 6, "round": 3}[lesion.kind]):
            off = [draws.uniform(-0.34, 0.34) * size for _ in range(3)]
            wide = size * draws.uniform(0.26, 0.40)
            flat = 0.6 if lesion.kind == "lobar" else 1.0
            cloud += scene.camera.through((x + off[0], y + off[1], z + flat * off[2]), np.diag([wide, wide, flat * wide]))
        dense = np.float32(0.36 + 0.17 * lesion.severity)
        filled = scene.fill(side, np.minimum(cloud * dense, np.float32(0.75) * scene.cavity[side]))
        scene.darken_vessels(np.minimum(filled / np.maximum(scene.cavity[side], 20), 1))
        shown += filled
    return shown


def _atelectasis(scene: Scene, lesion: Lesion) -> Map:
    """Thin plates of collapsed lung above the diaphragm."""
    shown = np.zeros_like(scene.soft)
    for side, share in sides(lesion):
        draws = Draws(lesion.detail, int(side == "left"))
        for number in range(lesion.count):
            height = min(lesion.place[0] + 0.07 * number, 0.92)
            x, y, z = spot(scene.body, side, (height, lesion.place[1] * 0.8, lesion.place[2]))
            thick = (1.3 if lesion.kind == "plate" else 3.6) + 0.5 * lesion.severity
            length = lesion.size * share * draws.uniform(0.85, 1)
            axes = _turned((length / 2, length / 3, thick), SIGN[side] * draws.uniform(-0.55, 0.15))
            shown += scene.fill(side, scene.camera.through((x, y, z), axes) * np.float32(0.75))
    return shown


def _edema(scene: Scene, lesion: Lesion) -> Map:
    """Fluid about the hila like the wings of a bat, or in the septa with Kerley's lines; the vessels swell."""
    shown = np.zeros_like(scene.soft)
    body, camera = scene.body, scene.camera
    draws = Draws(lesion.detail)
    for side, share in sides(lesion):
        strength = lesion.size * share
        perihilar = lesion.kind == "perihilar"
        reach = (0.42 if perihilar else 0.55) * body.width
        centre = (SIGN[side] * 0.42 * body.width, 4.0, body.hilum + (0.10 if perihilar else 0.22) * body.dome)
        wing = camera.through(centre, np.diag([reach, 0.9 * body.depth, 0.42 * body.dome]))
        wing *= np.float32(1 / (1.8 * body.depth))
        shown += scene.fill(side, scene.air[side] * wing * np.float32((0.70 if perihilar else 0.42) * strength))
        lines = 3 + int((2 if perihilar else 8) * strength)
        scene.soft += _kerley(scene, side, lines, draws)
    scene.vessels *= np.float32(1 + 0.6 * lesion.size)
    return shown


def _kerley(scene: Scene, side: str, lines: int, draws: Draws) -> Map:
    """Short level lines at the chest wall above the diaphragm."""
    curves = []
    for _ in range(lines):
        x, y, z = spot(scene.body, side, (draws.uniform(0.68, 0.93), draws.uniform(0.88, 0.93), draws.uniform(-0.3, 0.3)))
        path = np.array([[x - SIGN[side] * 9, x + SIGN[side] * 9], [y, y], [z, z + draws.uniform(-1.5, 1.5)]])
        curves.append(tube(path, 1.5, scene.camera.pitch))
    return _drawn(scene, curves)


def _drawn(scene: Scene, curves: list[Curve]) -> Map:
    whole = join(curves)
    return scene.camera.splat(whole.points, whole.volume)


def _nodules(scene: Scene, lesion: Lesion) -> Map:
    shown = np.zeros_like(scene.soft)
    for place, size in _scattered(lesion):
        shown += scene.camera.through(spot(scene.body, lesion.side, place), _ball(size))
    scene.soft += np.float32(1.05) * shown  # round and firm: denser than the lung by more than its air
    return shown


def _scattered(lesion: Lesion) -> list[tuple[tuple[float, float, float], float]]:
    """Places and sizes of several lesions of one kind: the first as it is, the others smaller and elsewhere in the lung."""
    draws = Draws(lesion.detail)
    others = [
        ((draws.uniform(0.15, 0.85), draws.uniform(0.3, 0.85), draws.uniform(-0.7, 0.7)), lesion.size * draws.uniform(0.5, 0.9))
        for _ in range(lesion.count - 1)
    ]
    return [(lesion.place, lesion.size), *others]


def _mass(scene: Scene, lesion: Lesion) -> Map:
    """A ball with knobs."""
    draws = Draws(lesion.detail)
    x, y, z = spot(scene.body, lesion.side, lesion.place)
    shown = scene.camera.through((x, y, z), _ball(0.84 * lesion.size))
    for _ in range(5):
        off = [draws.uniform(-0.24, 0.24) * lesion.size for _ in range(3)]
        knob = scene.camera.through((x + off[0], y + off[1], z + off[2]), _ball(lesion.size * draws.uniform(0.42, 0.60)))
        shown = np.maximum(shown, knob)
    filled = scene.fill(lesion.side, np.minimum(shown, scene.air[lesion.side]))
    scene.darken_vessels(np.minimum(filled / np.maximum(scene.cavity[lesion.side], 20), 1))
    return shown


def _granulomas(scene: Scene, lesion: Lesion) -> Map:
    shown = np.zeros_like(scene.soft)
    for place, size in _scattered(lesion):
        shown += scene.camera.through(spot(scene.body, lesion.side, place), _ball(size))
    scene.bone += np.float32(1.6) * shown
    return shown


def _emphysema(scene: Scene, lesion: Lesion) -> Map:
    """Less lung in the same air, few vessels, bullae in the upper fields; the shape of the chest is the body's."""
    scene.aeration = AERATED + 0.15 * lesion.size
    scene.vessels *= np.float32(1 - 0.45 * lesion.size)
    draws = Draws(lesion.detail)
    for _ in range(2 + int(7 * lesion.size)):
        side = draws.pick(("right", "left"))
        place = (draws.uniform(0.10, 0.45), draws.uniform(0.35, 0.9), draws.uniform(-0.5, 0.5))
        size = draws.uniform(16, 26 + 34 * lesion.size)
        inner = scene.camera.through(spot(scene.body, side, place), _ball(size))
        scene.soft -= np.float32(0.9 - AERATED) * np.minimum(inner, scene.air[side])
        scene.darken_vessels(np.minimum(inner * np.float32(0.8 / size), 1))
    return scene.air["right"] + scene.air["left"]


def _fractures(scene: Scene, lesion: Lesion) -> Map:
    """Where ribs are broken; the step in the rib is the body's, the gap of a fresh one and the callus of a healed one are drawn here."""
    shown = np.zeros_like(scene.soft)
    for point in scene.body.breaks(scene.camera.pitch):
        shown = np.maximum(shown, scene.camera.through(point, _ball(17)))
        if lesion.kind == "acute":
            scene.bone *= 1 - np.minimum(scene.camera.through(point, _ball(7)) * np.float32(0.12), 1)
        else:
            scene.bone += np.float32(0.35) * scene.camera.through(point, np.diag([7.0, 5.0, 8.0]))
    return shown


def _scoliosis(scene: Scene, lesion: Lesion) -> Map:
    z = scene.camera.z
    return scene.spine * ((z > -20) & (z < scene.body.dome)).astype(np.float32)[:, None]


def _hernia(scene: Scene, lesion: Lesion) -> Map:
    """The stomach behind the heart, with air over a level."""
    draws = Draws(lesion.detail)
    body, size = scene.body, lesion.size
    x = draws.uniform(-8, 18) + 0.3 * size * 0.2
    centre = (x, 0.30 * body.depth + body.kyphosis, body.top("left") + 6 - 0.36 * size)
    shown = scene.camera.through(centre, np.diag([0.50 * size, 0.44 * size, 0.47 * size]))
    hollow = scene.camera.through(centre, np.diag([0.44 * size, 0.38 * size, 0.41 * size]))
    level = centre[2] + draws.uniform(-0.10, 0.08) * size
    above = (scene.camera.z < level).astype(np.float32)[:, None]
    scene.soft += np.float32(0.62) * shown - hollow * above * np.float32(0.95)
    return shown


def _pacemaker(scene: Scene, lesion: Lesion) -> Map:
    """A case under the collar bone with one lead or two; the smallest is a capsule in the right ventricle."""
    body, pitch, draws = scene.body, scene.camera.pitch, Draws(lesion.detail)
    apex = np.array([0.26 * body.heart_width, -0.62 * body.depth, body.top("left") - 8])
    if lesion.severity == 0:
        end = apex + np.array([-0.55, 0.2, -0.5]) * lesion.size
        curve = tube(np.stack([apex, end], axis=1), 3.4, pitch)
        shown = scene.camera.splat(curve.points, curve.volume)
        scene.metal += np.float32(0.55) * shown
        return shown
    sign = SIGN[lesion.side]
    case = np.array([sign * 0.66 * body.width, -(body.depth + 10), 0.16 * body.dome + draws.uniform(-6, 10)])
    atrium = np.array([-0.15 * body.heart_width, -0.45 * body.depth, body.top("left") - 0.62 * 0.8 * body.heart_width])
    vein = [
        case + np.array([-sign * 22, 6, -18]),
        np.array([sign * 34, -0.45 * body.depth, 20]),
        np.array([-18, -8, 0.24 * body.dome]),
    ]
    low = np.array([-22, -10, 0.50 * body.dome])
    leads = [[case, *vein, low, atrium + np.array([6, 0, 18]), apex]]
    if lesion.severity == 2:
        leads.append([case, *vein, low, atrium + np.array([-4, 0, 12]), atrium])
    plate = _plate(case, lesion.size, 0.86 * lesion.size, 7.0, pitch)
    curves = [plate, *(tube(_smooth(np.stack(lead, axis=1)), 1.0, pitch) for lead in leads)]
    shown = _drawn(scene, curves)
    scene.metal += np.float32(0.55) * shown
    return _outlined(scene, shown, 1.0)


def _outlined(scene: Scene, shown: Map, radius: float) -> Map:
    """Let a thin line that is seen side on count as much as one that is seen end on."""
    return np.minimum(shown, np.float32(0.5 * np.pi * radius**2 / scene.camera.pitch))


def _plate(centre: Points, wide: float, tall: float, thick: float, pitch: float) -> Curve:
    """A flat case with round corners, standing in the frontal plane."""
    count = max(3, int(wide / (0.7 * pitch)) + 1)
    grid = (np.arange(count) + 0.5) / count * 2 - 1
    x, z = (g.ravel() for g in np.meshgrid(grid, grid))
    inside = x**4 + z**4 <= 1
    x, z = x[inside], z[inside]
    layers = max(2, int(np.ceil(thick / (0.9 * pitch))))
    y = ((np.arange(layers) + 0.5) / layers - 0.5) * thick
    points = np.stack(
        [np.tile(centre[0] + x * wide / 2, layers), np.repeat(centre[1] + y, len(x)), np.tile(centre[2] + z * tall / 2, layers)]
    )
    return Curve(points, np.full(points.shape[1], wide * tall * thick / (count * count * layers)))


def _smooth(path: Points) -> Points:
    """Round the corners of a path, twice (Chaikin)."""
    for _ in range(2):
        first, second = 0.75 * path[:, :-1] + 0.25 * path[:, 1:], 0.25 * path[:, :-1] + 0.75 * path[:, 1:]
        path = np.concatenate([path[:, :1], np.stack([first, second], axis=2).reshape(3, -1), path[:, -1:]], axis=1)
    return path


def _catheter(scene: Scene, lesion: Lesion) -> Map:
    """A line from neck, collar bone or arm into the upper caval vein."""
    body, draws = scene.body, Draws(lesion.detail)
    sign = SIGN[lesion.side]
    tip = np.array([-21 + draws.uniform(-3, 4), -6, (0.38 + 0.20 * draws.uniform()) * body.dome])
    vein = np.array([-19, -8, 0.20 * body.dome])
    inlet = np.array([sign * 20, -12, 4.0])
    start = {
        "jugular": [[sign * 30, 5, -92], [sign * 26, 0, -40]],
        "subclavian": [[sign * 1.0 * body.width, -0.4 * body.depth, 42], [sign * 62, -0.3 * body.depth, 8]],
        "picc": [[sign * 1.42 * body.width, 0, 120], [sign * 1.16 * body.width, 0, 34], [sign * 70, -0.3 * body.depth, 6]],
    }[lesion.kind]
    path = np.array([*start, inlet, vein, tip]).T
    curve = tube(_smooth(path), lesion.size / 2, scene.camera.pitch)
    shown = scene.camera.splat(curve.points, curve.volume)
    scene.metal += np.float32(0.45) * shown
    return _outlined(scene, shown, lesion.size / 2)


def _tube(scene: Scene, lesion: Lesion) -> Map:
    """A tube in the windpipe with its radiopaque line; its tip lies above the carina."""
    body, draws = scene.body, Draws(lesion.detail)
    end = body.carina - draws.uniform(15, 55)
    z = np.linspace(-120, end, 30)
    pipe = body.windpipe(z)
    path = np.stack([pipe.x, pipe.y, z])
    wall = tube(path, lesion.size / 2, scene.camera.pitch, hollow=0.74)
    line = tube(path + np.array([[lesion.size / 2], [0], [0]]), 0.75, scene.camera.pitch)
    shown = scene.camera.splat(wall.points, wall.volume)
    strong = (0.04, 0.12, 0.20)[lesion.severity]
    marked = scene.camera.splat(line.points, line.volume)
    scene.metal += np.float32(strong) * shown + np.float32(4 * strong) * marked
    return _outlined(scene, shown, lesion.size / 4)


PAINTERS: Mapping[str, Callable[[Scene, Lesion], Map]] = {
    "Emphysema/COPD": _emphysema,
    "Edema": _edema,
    "Consolidation": _consolidation,
    "Atelectasis": _atelectasis,
    "Mass": _mass,
    "Nodule": _nodules,
    "Calcified Granuloma": _granulomas,
    "Pleural Effusion": _effusion,
    "Pneumothorax": _pneumothorax,
    "Hiatal Hernia": _hernia,
    "Rib Fracture": _fractures,
    "Implanted Device": _pacemaker,
    "Catheter": _catheter,
    "Tube": _tube,
    "Cardiomegaly": _cardiomegaly,
    "Scoliosis": _scoliosis,
}
"""What draws each finding, in the order of drawing: what fills the lung before what presses it."""
