"""The body of one patient at one study, in mm: the bodies that rays pass through, and the points of bones and vessels.

Axes as in ``projection``. Everything follows from the case and one breath; nothing is drawn here, so that every picture of a study
shows the same body.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from hybridpt.data._phantom.cases import Case
from hybridpt.data._phantom.draws import Draws
from hybridpt.data._phantom.projection import Points, Rows, Stack

__all__ = ["SIGN", "Body", "Curve", "join", "ribbon", "tube"]

SIGN = {"right": -1.0, "left": 1.0}  # of x
RIBS = 11
_APEX = 0.36  # place of the lung's apex, in half widths of the thorax


def _rise(s: Rows, power: float = 0.5) -> Rows:
    """0 at s = 0, steep at first, and 1 from s = 1 on: a quarter of a circle for the power 0.5."""
    inner = 1 - np.clip(s, 0, 1)
    return np.asarray((1 - inner * inner) ** power)


@dataclass(frozen=True)
class Curve:
    """A thick line: points (3, N) in mm, and the volume of each in mm^3."""

    points: Points
    volume: Points


@dataclass(frozen=True)
class Body:
    """One patient, breathing in as far as ``breath`` says.

    Attributes:
        case: Whose body.
        breath: Depth of the breath, 0.8 to 1 of the lungs' full height.
        upright: False in an AP picture, taken lying or sitting in bed.
        seed: Seed of the set.
    """

    case: Case
    breath: float
    upright: bool
    seed: int

    @cached_property
    def emphysema(self) -> float:
        """How hyperinflated, 0 to 1."""
        lesion = self.case.find("Emphysema/COPD")
        return lesion.size if lesion else 0.0

    @cached_property
    def width(self) -> float:
        """Half the inner width of the thorax."""
        return self.case.patient.half_width

    @cached_property
    def depth(self) -> float:
        """Half its inner depth; a hyperinflated chest is a barrel."""
        return self.case.patient.half_depth * (1 + 0.18 * self.emphysema)

    @cached_property
    def dome(self) -> float:
        """Height of the right diaphragm's dome."""
        return self.case.patient.lung_height * (self.breath + 0.09 * self.emphysema)

    def wall(self, z: Rows) -> Rows:
        """Half the inner width of the thorax at some heights."""
        s = z / self.dome
        return np.asarray(self.width * (_APEX + (1 - _APEX) * _rise(s / 0.62, 0.62) + 0.03 * np.clip(s - 0.6, 0, 1)))

    def reach(self, z: Rows) -> Rows:
        """Half the inner depth of the thorax at some heights."""
        return np.asarray(self.depth * _rise(z / (0.66 * self.dome)))

    def middle(self, z: Rows) -> Rows:
        """The middle of the thorax between front and back at some heights; the apices lie towards the back."""
        return np.asarray(0.20 * self.depth * (1 - _rise(z / (0.8 * self.dome))) ** 1.5 + self.kyphosis * self.bend(z))

    @cached_property
    def kyphosis(self) -> float:
        """How far the back is rounded, mm; it grows with age."""
        return 0.22 * max(self.case.patient.age - 35, 0)

    def bend(self, z: Rows) -> Rows:
        """Shape of the rounded back: 0 at both ends of the chest."""
        s = np.clip(z / self.dome, -0.4, 1.4) - 0.5
        return np.asarray(1 - (s / 0.9) ** 2)

    def front(self, z: float) -> float:
        """Where the ribs end at the front at some height."""
        rows = np.array([z])
        return float(self.middle(rows)[0] - self.reach(rows)[0])

    def spine(self, z: Rows) -> tuple[Rows, Rows]:
        """Place of the vertebral bodies' centres at some heights: x and y."""
        y = 0.66 * self.depth + self.kyphosis * self.bend(z) - 14 * np.clip(0.3 - z / self.dome, 0, 1)
        return self.curve(z), np.asarray(y)

    def curve(self, z: Rows) -> Rows:
        """How far scoliosis takes the spine aside at some heights, mm."""
        lesion = self.case.find("Scoliosis")
        if lesion is None:
            return np.zeros_like(z)
        # One bump (1 - cos) / 2 of height A over a length d, or two in turn over half of it, is steepest with the slope pi A / d
        # at both flanks, between which lies Cobb's angle: 2 atan(pi A / d). Above and below the chest the spine is straight.
        bumps = 2 if lesion.kind == "double" else 1
        length = 1.15 * self.dome / bumps
        amplitude = np.tan(np.radians(lesion.size) / 2) * length / np.pi
        phase = np.clip((z + 0.1 * self.dome) / length, 0, bumps)
        turn = np.where(phase > 1, -1.0, 1.0)
        return np.asarray(SIGN[lesion.side] * amplitude * turn * (1 - np.cos(2 * np.pi * phase)) / 2)

    def cavity(self, side: str, z: Rows) -> Stack:
        """One half of the chest inside its ribs; it reaches over the midline, where the picture cuts it, and under the diaphragm."""
        outer, inner, aside, middle, reach = self._sections(z)
        half = np.where((z > 0) & (z < self.floor(side)), (outer - inner) / 2, 0.0)
        return Stack(SIGN[side] * (outer + inner) / 2 + aside, middle, half, reach)

    def _sections(self, z: Rows) -> tuple[Rows, Rows, Rows, Rows, Rows]:
        """What both halves of the chest share at some heights; kept for the last heights asked for, which are a picture's rows."""
        if self._last.get("z") is not z:
            inner = self.width * (_APEX - (_APEX + 0.60) * _rise(z / (0.50 * self.dome), 0.8))
            found = (self.wall(z), inner, 0.5 * self.curve(z), self.middle(z), self.reach(z))
            if len(z) < 2:
                return found
            self._last.update(z=z, found=found)
        return self._last["found"]  # type: ignore[no-any-return]

    @cached_property
    def _last(self) -> dict[str, Any]:
        return {}

    def floor(self, side: str) -> float:
        """Height of the deepest point of one half of the chest, the back of the costophrenic recess."""
        return self.top(side) + self.recess

    @cached_property
    def recess(self) -> float:
        """From a dome to the bottom of the recess beside it, mm; a flat diaphragm has little."""
        return (62 - 34 * self.emphysema) * (0.85 + 0.15 * self.breath)

    def top(self, side: str) -> float:
        """Height of one diaphragm's dome; the left one is lower, and a collapsed base raises its own."""
        lesion = self.case.find("Atelectasis")
        raised = 0.0
        if lesion is not None and lesion.side in (side, "bilateral"):
            raised = max(lesion.size - 40, 0) * 0.28
        return self.dome + (8.0 if side == "left" else 0.0) - raised

    def diaphragm(self, side: str, z: Rows) -> Stack:
        """What the diaphragm's dome and the belly under it take from one half of the chest."""
        cavity = self.cavity(side, z)
        below = np.maximum(z - self.top(side), 0)
        # Beside the belly the recess ends higher than behind it; the dome's top lies towards the middle and the front.
        wide = (1 - (1 - np.clip(below / (0.66 * self.recess), 0, 1)) ** 2.6) ** 0.5
        deep = (1 - (1 - np.clip(below / self.recess, 0, 1)) ** 2.2) ** 0.5
        x = cavity.x + (SIGN[side] * 0.42 * self.width - cavity.x) * (1 - wide)
        return Stack(x, cavity.y - 0.22 * cavity.b * (1 - deep), cavity.a * wide, cavity.b * deep)

    def trunk(self, z: Rows, arms_up: bool) -> Stack:
        """The body inside its skin, with neck and shoulders; the arms are out of the picture, over the head in a lateral one."""
        fat = self.case.patient.fat
        neck = 52 + 0.35 * fat
        slope = np.clip((z + 78) / 96, 0, 1)
        shoulders = slope * slope * (3 - 2 * slope)
        chest = np.maximum(self.wall(np.maximum(z, 1.0)), 0.9 * self.width) + 14 + fat
        armpit = np.clip((z - 62) / 75, 0, 1)
        width = neck + (chest + (10 if arms_up else 95) * (1 - armpit * armpit * (3 - 2 * armpit)) - neck) * shoulders
        depth = 50 + 0.3 * fat + (self.case.patient.half_depth + 14 + 0.8 * fat - 50 - 0.3 * fat) * np.clip((z + 55) / 110, 0, 1)
        return Stack(0.5 * self.curve(z), 4 + self.kyphosis * self.bend(z), width, depth)

    @cached_property
    def heart_width(self) -> float:
        """Transverse width of the heart, mm."""
        return 2 * self.case.heart * self.width

    @cached_property
    def heart(self) -> list[tuple[tuple[float, float, float], Points]]:
        """The heart as ellipsoids: ventricles, right atrium, and the base towards the great vessels; centre and half axes of each."""
        draws = Draws(self.seed, 3, self.case.patient.number)
        wide = self.heart_width
        slope = (
            draws.uniform(0.52, 0.82) - 0.25 * max(self.case.heart - 0.45, 0) - 0.5 * (1 - self.breath) + 0.15 * self.emphysema
        )
        slender = draws.uniform(0.70, 0.82) - 0.5 * max(self.case.heart - 0.46, 0)
        half = 0.405 * wide
        cos, sin = np.cos(slope), np.sin(slope)
        long = half / np.hypot(cos, slender * sin)
        short = slender * long
        tall = long * np.hypot(sin, slender * cos)
        bottom = self.top("left") + 8 + 0.08 * wide
        y = -0.34 * self.depth
        axes = np.array(
            [
                [cos * long, -0.28 * long, sin * long],
                [0.28 * cos * short, short, 0.28 * sin * short],
                [-sin * short, 0, cos * short],
            ]
        )
        axes[0] *= long / np.linalg.norm(axes[0])
        axes[1] *= 1.15 * short / np.linalg.norm(axes[1])
        left = 0.685 * wide + 0.6 * float(self.curve(np.array([0.8 * self.dome]))[0])
        centre = (left - half, y, bottom - tall)
        atrium = (left - wide + 0.23 * wide, y + 0.10 * self.depth, bottom - 0.88 * tall)
        round_ = np.diag([0.23 * wide, 0.26 * wide, min(0.36 * wide, 0.80 * tall)])
        waist = (left - wide + 0.58 * wide, y + 0.14 * self.depth, bottom - 1.22 * tall)
        base = np.diag([0.25 * wide, 0.30 * wide, 0.66 * tall])
        return [(centre, axes), (atrium, round_), (waist, base)]

    @cached_property
    def carina(self) -> float:
        """Height at which the windpipe forks."""
        return 0.36 * self.dome

    @cached_property
    def hilum(self) -> float:
        """Height of the hila."""
        return 0.46 * self.dome

    def mediastinum(self, z: Rows) -> list[Stack]:
        """The great vessels and what lies about them above the heart, and the descending aorta."""
        draws = Draws(self.seed, 4, self.case.patient.number)
        age, s = self.case.patient.age, z / self.dome
        broad = draws.uniform(14, 19) + 0.12 * self.case.patient.fat + (4 if not self.upright else 0)
        rows = (s > -0.35) & (s < 1.6)
        aside = self.curve(z)
        column = Stack(
            0.7 * aside + 1, self.middle(z) - 2, np.where(rows, broad + 10 * np.clip(s, 0, 0.6), 0), 0.55 * self.reach(z) + 22
        )
        unfolded = draws.uniform(0.1, 0.5) * max(age - 45, 0)
        a = 9.5 + 0.08 * age
        arch = (0.27 + 0.02 * draws.uniform(-1, 1)) * self.dome
        x = aside + 19 + unfolded * np.clip(1 - ((s - 0.62) / 0.4) ** 2, 0, 1)
        aorta = Stack(
            x, 0.46 * self.depth + self.kyphosis * self.bend(z), np.where((z > arch) & (s < 1.3), a, 0), np.full_like(z, a)
        )
        cava = Stack(0.7 * aside - broad - 3, self.middle(z) - 4, np.where((s > 0.10) & (s < 0.62), 9.0, 0), np.full_like(z, 9.0))
        return [column, aorta, cava]

    @cached_property
    def vessels_of_heart(self) -> list[tuple[tuple[float, float, float], Points]]:
        """The aortic knob, the ascending aorta, the pulmonary trunk and both hila, as ellipsoids."""
        draws = Draws(self.seed, 5, self.case.patient.number)
        age = self.case.patient.age
        knob = 9 + 0.16 * age + draws.uniform(-2, 2)
        aside = 0.7 * float(self.curve(np.array([0.35 * self.dome]))[0])
        hila = [
            (
                (SIGN[side] * (31 + 1.5 * draws.uniform(-1, 1)) + aside, 6.0, self.hilum + (2 if side == "right" else -6)),
                np.diag([13.0, 14.0, 19.0]),
            )
            for side in SIGN
        ]
        return [
            ((aside + 17 + 0.06 * age, 10.0, 0.31 * self.dome), np.diag([knob, 1.6 * knob, knob])),
            ((aside - 13 - 0.10 * max(age - 40, 0), -18.0, 0.44 * self.dome), np.diag([19.0, 19.0, 40.0])),
            ((aside + 21 + draws.uniform(-2, 5), -8.0, 0.43 * self.dome), np.diag([15.0, 16.0, 20.0])),
            *hila,
        ]

    def windpipe(self, z: Rows) -> Stack:
        """The air in the windpipe."""
        push = 3.0 * np.clip(z / self.carina, 0, 1)
        open_ = (z > -95) & (z < self.carina)
        return Stack(-push + 0.7 * self.curve(z), 8 + self.middle(z) * 0.6, np.where(open_, 8.2, 0), np.full_like(z, 9.0))

    @cached_property
    def bronchi(self) -> list[tuple[tuple[float, float, float], Points]]:
        """The air in both main bronchi, as slender ellipsoids: centre and half axes of each."""
        x, z = -3.0 + 0.7 * float(self.curve(np.array([self.carina]))[0]), self.carina - 4
        out = []
        for end, low, radius in ((-36.0, self.hilum + 6, 6.5), (44.0, self.hilum, 5.8)):
            across, down = (end - x) / 2, (low - z) / 2
            long = float(np.hypot(across, down))
            axes = np.array([[across, 0, down], [0, radius, 0], [-down * radius / long, 0, across * radius / long]])
            out.append(((x + across, 10.0, z + down), axes))
        return out

    def vertebrae(self, z: Rows) -> tuple[Stack, Rows]:
        """The spine as a stack, and the share of bone in it at every row: little in the discs."""
        x, y = self.spine(z)
        lift = (z + 30) / self.vertebra
        edge = np.abs(lift - np.rint(lift))  # 0 in the middle of a disc, 0.5 in that of a vertebra
        waist = 1 - 0.10 * np.clip(edge * 4 - 0.8, 0, 1)
        rows = z > -120
        body = Stack(x, y, np.where(rows, (16.5 + 0.012 * np.maximum(z, 0)) * waist, 0), 15.5 * waist)
        bone = 0.16 + np.clip(edge * 7 - 0.7, 0, 1) * (0.62 + 0.38 * np.clip(1.5 - 3 * np.abs(edge - 0.22), 0, 1))
        return body, np.asarray(bone * self.mineral)

    @cached_property
    def vertebra(self) -> float:
        """Height of a thoracic vertebra with its disc."""
        return 0.100 * self.case.patient.lung_height

    @cached_property
    def mineral(self) -> float:
        """Share of bone mineral left; it falls with age, more so in women."""
        p = self.case.patient
        return 1.15 - (0.010 if p.sex == "F" else 0.007) * max(p.age - 35, 0)

    def rib_points(self, pitch: float) -> Points:
        """Middle lines of the ribs, (3, 2 sides, RIBS, N); right before left, from the spine to the front."""
        draws = Draws(self.seed, 6, self.case.patient.number)
        count = int(310 / (1.1 * pitch)) + 2
        number = np.arange(RIBS, dtype=np.float64)
        root = self.vertebra * (number + 0.15) - 12 + draws.uniform(-4, 4)
        drop = np.minimum(44 + 16 * number, 104 + 3 * number) * draws.uniform(0.92, 1.1) * (1 - 0.16 * self.emphysema)
        last = np.radians(np.where(number < 7, 148 - 2.5 * number, 133 - 16 * (number - 6)))
        share = np.linspace(0, 1, count)
        angle = np.radians(9) + (last[:, None] - np.radians(9)) * share
        z = root[:, None] + drop[:, None] * share**1.25 - 5 * np.sin(np.pi * np.minimum(share * 4, 1))
        low = np.maximum(z, 4.0)
        across, back = np.sin(angle), np.cos(angle)
        # The first ribs arch over the apices, which lie beside the midline.
        wall = np.minimum(self.wall(low), self.width * np.minimum(0.52 + 0.19 * number, 1.03)[:, None]) + 4
        x, y = wall * across, self.middle(low) + (self.reach(low) + 4) * back
        aside = self.curve(z) * (1 - 0.6 * across)
        return np.stack([np.stack([aside - x, aside + x]), np.stack([y, y]), np.stack([z, z])])

    def ribs(self, pitch: float) -> Points:
        """Middle lines of the ribs as ``rib_points``, with a step where one is broken."""
        points = self.rib_points(pitch)
        lesion = self.case.find("Rib Fracture")
        if lesion is None:
            return points
        count = points.shape[-1]
        for side, number, place, away in self._broken(count):
            beyond = (np.arange(count) - place) * 1.1 * pitch
            step = np.where(beyond >= 0, np.maximum(1 - beyond / 70, 0), 0.0) * lesion.size
            points[:, side, number] += away[:, None] * step
        return points

    def breaks(self, pitch: float) -> list[tuple[float, float, float]]:
        """Where ribs are broken."""
        points = self.rib_points(pitch)
        found = []
        for side, number, place, _ in self._broken(points.shape[-1]):
            x, y, z = points[:, side, number, place].tolist()
            found.append((x, y, z))
        return found

    def _broken(self, count: int) -> list[tuple[int, int, int, Points]]:
        """Side, number, place along the rib and direction of every break: neighbouring ribs, at the flank or the back."""
        lesion = self.case.find("Rib Fracture")
        if lesion is None:
            return []
        draws = Draws(lesion.detail)
        first, share = 2 + draws.below(RIBS - 4 - lesion.count), draws.uniform(0.25, 0.68)
        away = np.array([draws.uniform(-0.4, 0.4), draws.uniform(-0.4, 0.4), draws.pick((-1.0, 1.0))])
        side = int(lesion.side == "left")
        return [(side, first + i, int((share + draws.uniform(-0.03, 0.03)) * count), away) for i in range(lesion.count)]

    def vessels(self, pitch: float) -> Curve:
        """The lungs' vessels: trees from both hila that fork in all directions, thinner at every fork."""
        draws = Draws(self.seed, 7, self.case.patient.number)
        main = 9
        sign = np.repeat([-1.0, 1.0], main)
        angle = np.tile(np.linspace(-1.05, 1.25, main), 2) + draws.uniforms(2 * main, low=-0.25, high=0.25)
        depth = draws.uniforms(2 * main, low=-0.6, high=0.6)
        aside = 0.6 * float(self.curve(np.array([self.hilum]))[0])
        start = np.stack([sign * 30 + aside, 4 * depth, self.hilum - 4 * sign + 10 * np.sin(angle)])
        length, radius = 0.135 * self.dome, 5.2
        parts = []
        for _ in range(5):
            step = length * draws.uniforms(len(angle), low=0.7, high=1.3)
            level = step * np.cos(0.8 * depth)
            end = start + np.stack([sign * np.cos(angle) * level, step * np.sin(0.8 * depth), np.sin(angle) * level])
            parts.append(_bars(start, end, radius, pitch))
            fork = draws.uniforms(len(angle), low=0.15, high=0.55)
            turn = draws.uniforms(2 * len(angle), low=-0.5, high=0.5)
            angle, depth = np.concatenate([angle + fork, angle - fork]), np.concatenate([depth, depth]) + turn
            start, sign = np.concatenate([end, end], axis=1), np.concatenate([sign, sign])
            length, radius = length * 0.84, radius * 0.70
        return join(parts)

    def sternum(self, z: Rows) -> Stack:
        """The breast bone."""
        rows = (z > 0.14 * self.dome) & (z < 0.80 * self.dome)
        y = self.middle(z) - self.reach(z) - 5
        return Stack(0.4 * self.curve(z), y, np.where(rows, 17.0, 0), np.full_like(z, 4.5))

    def clavicles(self, pitch: float) -> Curve:
        """Both collar bones, S-shaped; higher where the patient leans back."""
        lift = 0.0 if self.upright else -14.0
        share = np.linspace(0, 1, 24)
        x = 16 + (1.10 * self.width - 16) * share
        z = 26 + lift - 22 * share + 9 * np.sin(2 * np.pi * share)
        y = -0.62 * self.depth * (1 - share) + 10 * share - 12 * np.sin(2 * np.pi * share)
        aside = 0.5 * float(self.curve(np.array([20.0]))[0])
        return join([tube(np.stack([sign * x + aside, y, z]), 6.2, pitch, hollow=0.72) for sign in SIGN.values()])

    def scapulae(self, pitch: float) -> Curve:
        """Both shoulder blades; turned off the lungs in a PA picture."""
        out = 1.06 * self.width if self.upright else 0.93 * self.width
        corners = np.array(
            [[out - 42, 0.86 * self.depth, 18], [out + 18, 0.45 * self.depth, 8], [out - 12, 0.80 * self.depth, 128]]
        )
        first, second = _triangle(int(130 / (1.2 * pitch)) + 2)
        edges = corners[1:] - corners[0]
        plate = corners[0][:, None] + edges[0][:, None] * first + edges[1][:, None] * second
        area = 0.5 * float(np.linalg.norm(np.cross(edges[0], edges[1])))
        # The thick rim: from the lower tip along the outer border to the joint, and back along the blade's spine.
        rim = np.array([corners[2], corners[1], corners[1] + [0, 8, -10], corners[0] + [0, 8, 14]]).T
        blade = Curve(single(plate), np.full(plate.shape[1], 2.2 * area / plate.shape[1], np.float32))
        return _mirrored(join([blade, tube(rim, 4.2, pitch, hollow=0.6)]))


def _mirrored(curve: Curve) -> Curve:
    """A curve on the patient's left, and the same on the right."""
    other = curve.points.copy()
    other[0] *= -1
    return join([curve, Curve(other, curve.volume)])


@lru_cache(maxsize=16)
def _triangle(count: int) -> tuple[Rows, Rows]:
    """Places on a grid in the triangle below x + y = 1."""
    first, second = (g.ravel() for g in np.meshgrid(*[(np.arange(count) + 0.5) / count] * 2))
    inside = first + second <= 1
    return first[inside], second[inside]


def tube(path: Points, radius: float, pitch: float, hollow: float = 0.0) -> Curve:
    """A round bar along a path, as points on lines side by side.

    Args:
        path: Corners, (3, N) in mm.
        radius: mm.
        pitch: mm a pixel; points lie about that far apart.
        hollow: Radius of the hole over that of the bar, 0 for none.
    """
    points = resample(path, pitch)
    return _thicken(points[..., None], _gradient(points), radius, pitch, hollow)


def ribbon(points: Points, height: float, area: float, pitch: float) -> Curve:
    """Flat bars along middle lines, standing on edge: brighter at their upper and lower rims.

    Args:
        points: Middle lines in mm, (3, ..., N), N along the line.
        height: mm.
        area: Bone in a cross section, mm^2.
        pitch: mm a pixel.
    """
    along = _gradient(points)
    flat = along[0] * along[0] + along[1] * along[1]
    length = np.sqrt(flat + along[2] * along[2])
    lines = max(2, int(np.ceil(height / (1.3 * pitch))))
    offset = (np.arange(lines) + 0.5) / lines * 2 - 1
    share = 0.75 + 0.7 * offset**4
    share *= area / share.sum()
    # Up, made perpendicular to the line: the bar's own vertical.
    up = np.stack([-along[0] * along[2], -along[1] * along[2], flat])
    up *= 0.5 * height / np.maximum(np.sqrt(flat) * length, 1e-9)
    spread = single(points)[..., None] + single(up)[..., None] * single(offset)
    return Curve(spread.reshape(3, -1), (single(length)[..., None] * single(share)).ravel())


def resample(path: Points, step: float) -> Points:
    """Points (3, M) along a path (3, N) at equal distances of about ``step``, both ends kept."""
    pieces = np.sqrt((np.diff(path) ** 2).sum(axis=0))
    place = np.concatenate([[0], np.cumsum(pieces)])
    where = np.linspace(0, place[-1], max(2, int(place[-1] / step) + 1))
    return np.stack([np.interp(where, place, row) for row in path])


def join(curves: list[Curve]) -> Curve:
    """Several curves as one."""
    return Curve(np.concatenate([c.points for c in curves], axis=1), np.concatenate([c.volume for c in curves]))


def single(values: Points) -> Points:
    """As float32, in which the many points are kept."""
    return values.astype(np.float32, copy=False)


def _gradient(points: Points) -> Points:
    """Differences along the last axis, at every point."""
    out = np.empty_like(points)
    out[..., 1:-1] = 0.5 * (points[..., 2:] - points[..., :-2])
    out[..., 0], out[..., -1] = points[..., 1] - points[..., 0], points[..., -1] - points[..., -2]
    return out


def _bars(start: Points, end: Points, radius: float, pitch: float) -> Curve:
    """Many straight bars of one thickness, from starts to ends (3, N)."""
    step = end - start
    count = max(2, int(np.ceil(float(np.sqrt((step * step).sum(axis=0)).max()) / (1.25 * pitch))))
    share = single((np.arange(count) + 0.5) / count)
    return _thicken(single(start)[..., None] + single(step)[..., None] * share, step / count, radius, pitch)


def _thicken(points: Points, along: Points, radius: float, pitch: float, hollow: float = 0.0) -> Curve:
    """Put a round section about every point (3, N, M) of N lines that go on by ``along`` (3, N)."""
    length = np.sqrt((along * along).sum(axis=0))
    volume = single(np.pi * radius**2 * (1 - hollow**2) * length)
    lines = int(np.ceil(2 * radius / (1.3 * pitch)))
    if lines < 2:
        return Curve(points.reshape(3, -1), np.repeat(volume, points.shape[2]))
    first, second = _disc(lines, min(hollow, 1 - 2 / lines))
    x, y, z = along / np.maximum(length, 1e-9)
    # Two directions across a line: a level one, and the one at right angles to both.
    flat = np.sqrt(x * x + y * y)
    steep = flat < 1e-6
    flat = np.where(steep, 1.0, flat)
    level = np.stack([np.where(steep, 1.0, y / flat), -x / flat, np.zeros_like(x)])
    other = np.stack([-x * z / flat, np.where(steep, 1.0, -y * z / flat), np.where(steep, 0.0, flat)])
    section = single((level[..., None] * first + other[..., None] * second) * radius)
    spread = single(points)[..., None] + section[:, :, None, :]
    return Curve(spread.reshape(3, -1), np.repeat(volume / np.float32(len(first)), points.shape[2] * len(first)))


@lru_cache(maxsize=64)
def _disc(lines: int, hollow: float) -> tuple[Rows, Rows]:
    """Places in a round section of radius 1, on a grid of so many lines, outside a hole."""
    grid = (np.arange(lines) + 0.5) / lines * 2 - 1
    first, second = (g.ravel() for g in np.meshgrid(grid, grid))
    square = first * first + second * second
    inside = (square <= 1.05) & (square >= hollow * hollow)
    return first[inside], second[inside]
