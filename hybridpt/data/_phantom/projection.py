"""Parallel rays through simple bodies: how long each ray stays inside them, in closed form.

Body axes, in mm: x to the patient's left, y to the back, z down; the origin lies in the midline, at half depth, at the height of the
lungs' apices. A camera looks along its own axes: u to the right of the picture, v down, t along the ray, growing from the detector.
Maps are (size, size) float32 with thicknesses in mm, made of exactly rounded operations alone, so that thresholds on them give the
same masks on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Camera", "Map", "Points", "Rows", "Stack"]

Map = NDArray[np.float32]
Rows = NDArray[np.float64]
Points = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class Stack:
    """A body whose every horizontal section is an ellipse, given at each row of a picture; rows with a <= 0 are empty.

    Attributes:
        x: Centres, (size,) or a number, mm.
        y: Centres, mm.
        a: Half widths, mm.
        b: Half depths, mm.
    """

    x: Rows
    y: Rows
    a: Rows
    b: Rows


@dataclass(frozen=True, slots=True)
class _Shadow:
    """An ellipsoid in the picture: its middle in mm, the second moments of its rim in mm^2, the greatest length of a ray in it."""

    u: float
    v: float
    uu: float
    uv: float
    vv: float
    length: float


@dataclass(frozen=True)
class Camera:
    """Where a picture is taken from.

    Attributes:
        size: Pixels a side.
        pitch: mm a pixel, in the plane through the body's middle.
        yaw: Turn of the body about its long axis, radians; 0 for a frontal and pi/2 for a left lateral view.
        lean: Slope of the body's long axis in the picture.
        shift: Where the body's (0, 0, centre) falls, mm right of and below the middle of the picture.
        centre: Height z of the middle of the picture, mm.
        spread: Growth of the picture by mm of distance from the detector, 1 / mm: the rays are not quite parallel.
    """

    size: int
    pitch: float
    yaw: float
    lean: float
    shift: tuple[float, float]
    centre: float
    spread: float

    @cached_property
    def z(self) -> Rows:
        """Height of every row, (size,) mm."""
        rows = (np.arange(self.size) + 0.5 - self.size / 2) * self.pitch
        return np.asarray(rows - self.shift[1] + self.centre)

    @cached_property
    def u(self) -> Map:
        """Place of every pixel across the body, the lean taken out."""
        columns = (np.arange(self.size) + 0.5 - self.size / 2) * self.pitch - self.shift[0]
        lean = self.lean * (self.z - self.centre)
        return np.asarray(columns.astype(np.float32)[None, :] - lean.astype(np.float32)[:, None])

    @cached_property
    def turn(self) -> tuple[float, float]:
        """Cosine and sine of the yaw."""
        return float(np.cos(self.yaw)), float(np.sin(self.yaw))

    def length(self, stack: Stack) -> Map:
        """Length of each ray inside a stack."""
        out = np.zeros((self.size, self.size), np.float32)
        window, _, half = self._cross(stack)
        np.multiply(half, 2, out=out[window])
        return out

    def length_on(self, stack: Stack, side: float) -> Map:
        """Length of each ray inside the part of a stack where x has the sign ``side``."""
        out = np.zeros((self.size, self.size), np.float32)
        window, middle, half = self._cross(stack)
        if not self.lateral:  # a ray stays on its side of the midline
            np.multiply(half, self._sides[side][window], out=out[window])
            return out
        # Seen from the side t = -x: the ray is on the left of the midline where t < 0.
        near, far = middle - half, middle + half
        out[window] = np.maximum(np.minimum(far, 0) - near, 0) if side > 0 else np.maximum(far - np.maximum(near, 0), 0)
        return out

    @cached_property
    def _sides(self) -> dict[float, Map]:
        """2 where a frontal picture shows the right or the left of the midline, else 0, by sign."""
        left = (self.u > 0) * np.float32(2)
        return {1.0: left, -1.0: 2 - left}

    @property
    def lateral(self) -> bool:
        """Whether the view is nearer to a lateral than to a frontal one."""
        return abs(self.turn[1]) > 0.5

    def _cross(self, stack: Stack) -> tuple[tuple[slice, slice], Map, Map]:
        """The window that a stack's shadow touches, and in it the middle of each ray's way through it and half that way's length."""
        cos, sin = self.turn
        there = np.flatnonzero((stack.a > 0) & (stack.b > 0))
        if not len(there):
            return (slice(0, 0), slice(0, 0)), np.zeros((0, 0), np.float32), np.zeros((0, 0), np.float32)
        rows = slice(int(there[0]), int(there[-1]) + 1)
        x, y = stack.x[rows], stack.y[rows]
        a, b = np.maximum(stack.a[rows], 1e-3), np.maximum(stack.b[rows], 1e-3)
        along, across = sin * sin / (a * a) + cos * cos / (b * b), cos * sin * (1 / (b * b) - 1 / (a * a))
        t0 = y * cos - x * sin
        grown = 1 + self.spread * t0
        u0 = (x * cos + y * sin) * grown
        reach = np.sqrt(along) * a * b * grown
        first = (u0 - reach + self.lean * (self.z[rows] - self.centre) + self.shift[0]).min() / self.pitch + self.size / 2
        last = (u0 + reach + self.lean * (self.z[rows] - self.centre) + self.shift[0]).max() / self.pitch + self.size / 2
        columns = slice(min(max(int(first) - 1, 0), self.size), min(max(int(last) + 2, 0), self.size))
        du = self.u[rows, columns] - _column(u0)
        # In the ellipse's plane: along t^2 + 2 across t du + (...) du^2 = 1, whose discriminant is along - du^2 / (a b)^2.
        room = du * du
        room *= _column(-1 / (a * b * grown) ** 2)
        room += _column(along)
        np.maximum(room, 0, out=room)
        np.sqrt(room, out=room)
        room *= _column(1 / along)
        if self.lateral:
            du *= _column(-across / along / grown)
            du += _column(t0)
        return (rows, columns), du, room

    def through(self, centre: tuple[float, float, float], axes: Points) -> Map:
        """Length of each ray inside an ellipsoid; one that is thinner than about a pixel is spread over one.

        Args:
            centre: x, y, z in mm.
            axes: The half axes as rows, (3, 3) in mm, at right angles to each other.
        """
        out = np.zeros((self.size, self.size), np.float32)
        shadow = self._shadow(centre, axes)
        rows, columns = self._window(shadow)
        if rows.start >= rows.stop or columns.start >= columns.stop:
            return out
        dv = (self.z[rows] - self.centre - shadow.v).astype(np.float32)[:, None]
        du = self.u[rows, columns] - np.float32(shadow.u)
        scale = 1 / (shadow.uu * shadow.vv - shadow.uv * shadow.uv)
        room = du * (du * np.float32(-shadow.vv * scale) + dv * np.float32(2 * shadow.uv * scale))
        room += np.float32(1) - dv * dv * np.float32(shadow.uu * scale)
        np.maximum(room, 0, out=room)
        np.sqrt(room, out=room)
        np.multiply(room, np.float32(shadow.length), out=out[rows, columns])
        return out

    def _shadow(self, centre: tuple[float, float, float], axes: Points) -> _Shadow:
        cos, sin = self.turn
        x, y, z = centre
        grown = 1 + self.spread * (y * cos - x * sin)
        uu = uv = vv = ut = vt = tt = 0.0
        for ax, ay, az in axes.tolist():
            au, at = (ax * cos + ay * sin) * grown, ay * cos - ax * sin
            av = az * grown
            uu, uv, vv, ut, vt, tt = uu + au * au, uv + au * av, vv + av * av, ut + au * at, vt + av * at, tt + at * at
        area = uu * vv - uv * uv
        length = 2 * max(tt - (ut * ut * vv - 2 * ut * vt * uv + vt * vt * uu) / area, 1e-6) ** 0.5
        if area < self.pitch**2 * (uu + vv):
            more = (0.75 * self.pitch) ** 2
            uu, vv = uu + more, vv + more
            length *= (area / (uu * vv - uv * uv)) ** 0.5
        return _Shadow((x * cos + y * sin) * grown, (z - self.centre) * grown, uu, uv, vv, length)

    def _window(self, shadow: _Shadow) -> tuple[slice, slice]:
        """The rows and columns that a shadow touches."""
        row = (shadow.v + self.shift[1]) / self.pitch + self.size / 2
        column = (shadow.u + self.lean * shadow.v + self.shift[0]) / self.pitch + self.size / 2
        tall = shadow.vv**0.5 / self.pitch
        wide = shadow.uu**0.5 / self.pitch + abs(self.lean) * tall
        rows = slice(min(max(int(row - tall) - 1, 0), self.size), min(max(int(row + tall) + 2, 0), self.size))
        return rows, slice(min(max(int(column - wide) - 1, 0), self.size), min(max(int(column + wide) + 2, 0), self.size))

    def project(self, points: Points) -> tuple[Points, Points]:
        """Columns and rows of points (3, ...), in pixels from the upper left corner, 0.5 in the middle of the first pixel."""
        cos, sin = self.turn
        x, y, z = points[0], points[1], points[2] - self.centre
        grown = (y * cos - x * sin) * (self.spread / self.pitch) + 1 / self.pitch
        u = (x * cos + y * sin) * grown
        u += z * (self.lean / self.pitch) + (self.shift[0] / self.pitch + self.size / 2)
        z *= grown
        z += self.shift[1] / self.pitch + self.size / 2
        return u, z

    def splat(self, points: Points, volume: Points) -> Map:
        """Thickness of a body given as points with volumes: each spreads linearly over the four pixels about it.

        Args:
            points: (3, N) in mm, float32 or cast to it.
            volume: (N,) in mm^3, the same.
        """
        n = self.size + 3  # a rim of one pixel before and two behind takes what falls outside
        columns, rows = self.project(points.astype(np.float32, copy=False))
        volume = volume.astype(np.float32, copy=False)
        for place in (columns, rows):
            place += np.float32(0.5)
            np.maximum(place, 0, out=place)
            np.minimum(place, n - 2, out=place)
        left, top = np.trunc(columns), np.trunc(rows)
        columns -= left
        rows -= top
        top *= n
        top += left
        first = top.astype(np.int64)
        rows *= volume
        upper = volume - rows
        upper_right, lower_right = upper * columns, rows * columns
        upper -= upper_right
        rows -= lower_right
        total = np.zeros(n * n)
        for step, share in ((0, upper), (1, upper_right), (n, rows), (n + 1, lower_right)):
            total[step:] += np.bincount(first, share, n * n)[: n * n - step]
        inner = total.reshape(n, n)[1 : self.size + 1, 1 : self.size + 1]
        return np.asarray(inner * (1 / self.pitch**2), np.float32)


def _column(rows: Rows) -> Map:
    """A number a row, ready to meet a map."""
    return rows.astype(np.float32)[:, None]
