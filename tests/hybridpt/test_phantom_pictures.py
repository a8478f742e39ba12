"""The phantom's pictures: rays in closed form, one body in every view, findings where the masks say, and no give-away."""

from __future__ import annotations

import hashlib
import itertools
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict

from hybridpt.data._phantom.body import SIGN, ribbon, tube
from hybridpt.data._phantom.cases import FINDINGS, HOSPITALS, KINDS, SIZES, Case, draw_case, draw_patients
from hybridpt.data._phantom.draws import Draws
from hybridpt.data._phantom.picture import draw
from hybridpt.data._phantom.projection import Camera, Stack

FRONTAL, OBLIQUE, LATERAL = 0.0, 0.3, np.pi / 2


def camera(yaw: float = FRONTAL, size: int = 96, spread: float = 0.0, lean: float = 0.0) -> Camera:
    return Camera(size=size, pitch=3.0, yaw=yaw, lean=lean, shift=(4.0, -6.0), centre=100.0, spread=spread)


def cases(count: int, seed: int) -> list[Case]:
    return [draw_case(index, patient, visit, seed) for index, (patient, visit) in enumerate(draw_patients(count, seed))]


def frontal(count: int, seed: int, size: int) -> tuple[list[Case], np.ndarray]:
    drawn = cases(count, seed)
    return drawn, np.stack([draw(case, 0, size, seed)[0] for case in drawn])


def pixel(view: Camera, x: float, y: float, z: float) -> tuple[int, int]:
    columns, rows = view.project(np.array([[x], [y], [z]]))
    return int(rows[0]), int(columns[0])


# Draws


def test_draws_do_not_change_with_numpy() -> None:
    """Numbers worked out once from the raw bits of PCG64; another release must give the same."""
    draws = Draws(1, 2, 3)
    assert [round(draws.uniform(), 12) for _ in range(3)] == UNIFORM
    assert round(draws.normal(0, 1), 12) == NORMAL
    assert np.allclose(Draws(1, 2, 3).normals(3), NORMALS, atol=1e-7)


UNIFORM = [0.753024317587, 0.198390349242, 0.267563243253]
NORMAL = -1.754011284413
NORMALS = [1.5561635494, -0.2232756466, 0.1082548574]


def test_draws_follow_their_distributions() -> None:
    draws = Draws(4)
    uniform, normal = draws.uniforms(40_000, low=-1, high=3), np.array([draws.normal(2, 3) for _ in range(20_000)])
    assert (uniform.min() >= -1, uniform.max() < 3) == (True, True)
    assert uniform.mean() == pytest.approx(1, abs=0.03)
    assert (normal.mean(), normal.std()) == pytest.approx((2, 3), abs=0.08)
    fast = draws.normals(200, 200)
    assert (fast.mean(), fast.std()) == pytest.approx((0, 1), abs=0.02)
    assert abs(np.corrcoef(fast[:, :-1].ravel(), fast[:, 1:].ravel())[0, 1]) < 0.02
    picked = [draws.weighted((1, 2, 1)) for _ in range(8000)]
    assert np.bincount(picked) / 8000 == pytest.approx([0.25, 0.5, 0.25], abs=0.02)
    assert sorted(draws.shuffled(range(50))) == list(range(50))


def test_streams_of_other_keys_are_others() -> None:
    firsts = {Draws(seed, *key).uniform() for seed in (1, 2) for key in ((), (0,), (1,), (0, 0), (0, 1))}
    assert len(firsts) == 10


# Rays


@pytest.mark.parametrize("yaw", [FRONTAL, OBLIQUE, LATERAL])
def test_a_ray_through_a_ball_is_as_long_as_its_chord(yaw: float) -> None:
    view, radius, centre = camera(yaw), 40.0, (20.0, -15.0, 110.0)
    lengths = view.through(centre, np.diag([radius] * 3))
    columns, rows = view.project(np.array(centre)[:, None])
    away = np.hypot(*np.meshgrid(np.arange(96) + 0.5 - columns[0], np.arange(96) + 0.5 - rows[0])) * view.pitch
    assert np.allclose(lengths, 2 * np.sqrt(np.maximum(radius**2 - away**2, 0)), atol=0.05)


@pytest.mark.parametrize("yaw", [FRONTAL, OBLIQUE, LATERAL])
def test_the_rays_through_a_tilted_ellipsoid_add_up_to_its_volume(yaw: float) -> None:
    cos, sin = np.cos(0.6), np.sin(0.6)
    axes = np.array([[50 * cos, 0, 50 * sin], [0, 30, 0], [-20 * sin, 0, 20 * cos]])
    volume = camera(yaw, lean=0.05).through((5.0, 10.0, 90.0), axes).sum() * 9
    assert volume == pytest.approx(4 / 3 * np.pi * 50 * 30 * 20, rel=0.01)


@pytest.mark.parametrize("yaw", [FRONTAL, OBLIQUE, LATERAL])
@pytest.mark.parametrize("lean", [0.0, 0.06])
def test_a_stack_of_a_balls_slices_is_the_ball(yaw: float, lean: float) -> None:
    view = camera(yaw, lean=lean)
    radius = np.sqrt(np.maximum(45.0**2 - (view.z - 105.0) ** 2, 0))
    stack = Stack(np.full(96, 12.0), np.full(96, -8.0), radius, radius)
    # The ball's own shadow leans with its axis too, so both are compared where a lean is only a shift: row by row.
    ball = view.through((12.0, -8.0, 105.0), np.diag([45.0] * 3))
    if lean == 0:
        assert np.allclose(view.length(stack), ball, atol=0.05)
    assert view.length(stack).sum() == pytest.approx(ball.sum(), rel=0.01)


@pytest.mark.parametrize("yaw", [FRONTAL, LATERAL])
def test_both_sides_of_a_stack_make_the_whole(yaw: float) -> None:
    view = camera(yaw)
    stack = Stack(np.full(96, 10.0), np.full(96, 5.0), np.full(96, 60.0), np.full(96, 40.0))
    left, right = view.length_on(stack, 1.0), view.length_on(stack, -1.0)
    assert np.allclose(left + right, view.length(stack), atol=0.05)
    # Sections of an ellipse by the plane x = 0, 10 mm off its centre.
    share = 0.5 + (np.arcsin(10 / 60) + 10 / 60 * np.sqrt(1 - (10 / 60) ** 2)) / np.pi
    assert left.sum() / (left + right).sum() == pytest.approx(share, abs=0.01 if yaw else 0.03)


@pytest.mark.parametrize("yaw", [FRONTAL, OBLIQUE, LATERAL])
def test_points_keep_their_volume_and_place(yaw: float) -> None:
    view = camera(yaw, spread=1 / 1500)
    shown = view.splat(np.array([[30.0], [-20.0], [80.0]]), np.array([500.0]))
    assert shown.sum() * view.pitch**2 == pytest.approx(500)
    assert shown[pixel(view, 30.0, -20.0, 80.0)] == shown.max()


def test_what_falls_outside_the_picture_is_gone() -> None:
    assert camera().splat(np.array([[9000.0, 0.0], [0.0, 0.0], [0.0, -9000.0]]), np.array([5.0, 5.0])).sum() == 0


def test_bars_have_the_volume_of_bars() -> None:
    path = np.array([[0.0, 60.0, 60.0], [0.0, 0.0, 40.0], [0.0, 30.0, 90.0]])
    length = np.hypot(60, 30) + np.hypot(40, 60)
    for radius, hollow in ((0.5, 0.0), (6.0, 0.0), (6.0, 0.7)):
        bar = tube(path, radius, 3.0, hollow)
        assert bar.volume.sum() == pytest.approx(np.pi * radius**2 * (1 - hollow**2) * length, rel=0.06)
    line = np.stack([np.linspace(0, 200, 80), np.zeros(80), np.zeros(80)])[:, None]
    assert ribbon(line, 12.0, 50.0, 3.0).volume.sum() == pytest.approx(50 * 200, rel=0.03)


# One body


def with_findings(wanted: set[str], seed: int, count: int = 4000) -> list[Case]:
    return [case for case in cases(count, seed) if {lesion.finding for lesion in case.lesions} == wanted]


def test_both_views_show_a_mass_at_one_height() -> None:
    errors = []
    for case in with_findings({"Mass"}, seed=1)[:12]:
        both = replace(case, views=("PA", "LATERAL"))
        rows = [np.flatnonzero(draw(both, n, 96, 1)[1]["Mass"].any(axis=1)).mean() for n in (0, 1)]
        errors.append(rows[0] - rows[1])
    # The pictures differ by their own shift (7 mm), scale and breath.
    assert np.abs(errors).max() < 14
    assert np.std(errors) < 6


def test_the_heart_is_as_wide_as_the_truth_says() -> None:
    """The ratio measured on a PA picture's masks is the one drawn; an AP picture shows more, since the heart is further off."""
    error: dict[str, list[float]] = {"PA": [], "AP": []}
    for case in cases(60, seed=2):
        if case.find("Pleural Effusion") or case.find("Scoliosis"):
            continue
        for view, errors in error.items():
            _, masks = draw(replace(case, views=(view,)), 0, 128, seed=2)
            heart, lungs = (np.flatnonzero(masks[name].any(axis=0)) for name in ("heart", "lungs"))
            errors.append((np.ptp(heart) + 1) / (np.ptp(lungs) + 1) - case.heart)
    assert abs(np.mean(error["PA"])) < 0.03
    assert np.abs(error["PA"]).max() < 0.09
    assert np.mean(error["AP"]) > np.mean(error["PA"]) + 0.015


def test_a_finding_shows_on_its_side() -> None:
    """The patient's left is on the right of a frontal picture."""
    seen = 0
    for case in cases(250, seed=4):
        _, masks = draw(case, 0, 64, seed=4)
        lungs = np.flatnonzero(masks["lungs"].any(axis=0))
        for lesion in case.lesions:
            if lesion.side in SIGN and lesion.finding not in ("Scoliosis", "Catheter", "Implanted Device"):
                columns = np.argwhere(masks[lesion.finding])[:, 1]
                assert (columns.mean() > lungs.mean()) == (lesion.side == "left"), (case.study_id, lesion)
                seen += 1
    assert seen > 100


def test_no_finding_is_too_small_to_be_drawn_at_the_smallest_size() -> None:
    found = set()
    for case in cases(250, seed=7):
        for picture in range(len(case.views)):
            _, masks = draw(case, picture, 32, seed=7)
            present = {lesion.finding for lesion in case.lesions}
            assert {"lungs", "heart"} | present == set(masks)
            assert all(0 < mask.mean() < 0.7 for mask in masks.values()), case.study_id
            found |= present
    assert found == set(FINDINGS)


@pytest.mark.parametrize("finding", [f for f in FINDINGS if f not in ("Cardiomegaly", "Scoliosis", "Emphysema/COPD")])
def test_a_finding_changes_the_picture_where_its_mask_is(finding: str) -> None:
    """Two pictures of one patient, with and without the finding and with the same grain, differ inside the mask."""
    inside, outside = [], []
    for case in [c for c in cases(4000, seed=3) if c.find(finding) and c.find(finding).severity > 0][:5]:  # type: ignore[union-attr]
        ill, masks = draw(replace(case, views=("PA",)), 0, 96, seed=3)
        healthy, _ = draw(
            replace(case, views=("PA",), lesions=tuple(x for x in case.lesions if x.finding != finding)), 0, 96, seed=3
        )
        change = np.abs(ill.astype(float) - healthy)
        inside.append(change[masks[finding]].mean())
        outside.append(change[~masks[finding]].mean())
    assert np.mean(inside) > 2
    assert np.mean(inside) > 1.5 * np.mean(outside)


@pytest.mark.parametrize("finding", [f for f in FINDINGS if f != "Cardiomegaly"])
def test_what_is_more_severe_shows_more(finding: str) -> None:
    ill = [c for c in cases(3000, seed=5) if c.find(finding)][:6]
    shown = []
    for severity in (0, 2):
        total = 0.0
        for case in ill:
            lesion = next(x for x in case.lesions if x.finding == finding)
            sized = replace(lesion, severity=severity, size=float(np.mean(SIZES[finding][severity])))
            others = tuple(x for x in case.lesions if x.finding != finding)
            one = replace(case, views=("PA",), lesions=(*others, sized))
            change = draw(one, 0, 96, seed=5)[0].astype(float) - draw(replace(one, lesions=others), 0, 96, seed=5)[0]
            total += float(np.abs(change).sum())
        shown.append(total)
    assert shown[1] > 1.15 * shown[0]


@pytest.mark.parametrize(("finding", "kind"), [(f, k) for f, kinds in KINDS.items() for k in kinds])
def test_every_appearance_occurs_and_can_be_drawn(finding: str, kind: str) -> None:
    case = next(c for c in cases(4000, seed=8) if any(x.finding == finding and x.kind == kind for x in c.lesions))
    for view in ("PA", "AP", "LATERAL"):
        _, masks = draw(replace(case, views=(view,)), 0, 64, seed=8)
        assert masks[finding].any()


# Sameness


def test_a_picture_depends_on_its_case_alone() -> None:
    first, second = (draw(cases(20, seed=9)[11], 0, 48, seed=9) for _ in range(2))
    assert (first[0] == second[0]).all()
    assert (draw(cases(20, seed=10)[11], 0, 48, seed=10)[0] != first[0]).any()


MASKS = "a0c1dfe44ee0493b"
"""Digest of the truth and masks of forty studies; renewed, with ``FORMAT`` of the phantom, when the drawing changes."""


def test_one_seed_gives_one_truth_and_one_set_of_masks_everywhere() -> None:
    digest = hashlib.sha256()
    for case in cases(40, seed=1):
        for picture in range(len(case.views)):
            _, masks = draw(case, picture, 64, seed=1)
            for name, mask in masks.items():
                digest.update(f"{case.study_id} {picture} {name} {case.heart:.6f}".encode() + np.packbits(mask).tobytes())
        digest.update(repr([(x.finding, x.side, x.kind, f"{x.size:.6f}") for x in case.lesions]).encode())
    found = digest.hexdigest()[:16]
    assert found == MASKS, f"truth or masks have changed; if that is meant, the new MASKS is {found}"


def test_other_processors_give_the_same_masks_and_nearly_the_same_pixels(tmp_path: Path) -> None:
    """Without the vector instructions that numpy chooses at run time, as on another machine."""
    from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__  # type: ignore[attr-defined]

    dispatched = [name for name in __cpu_dispatch__ if __cpu_features__.get(name)]
    if not dispatched:
        pytest.skip("this processor has none of the instructions that numpy chooses at run time")
    script = (
        "import sys, numpy as np\n"
        "from hybridpt.data._phantom.cases import draw_case, draw_patients\n"
        "from hybridpt.data._phantom.picture import draw\n"
        "out = {}\n"
        "for i, (p, v) in enumerate(draw_patients(30, 6)):\n"
        "    case = draw_case(i, p, v, 6)\n"
        "    for n in range(len(case.views)):\n"
        "        image, masks = draw(case, n, 64, 6)\n"
        "        out[f'{i}/{n}/image'] = image\n"
        "        out |= {f'{i}/{n}/{k.replace(chr(47), chr(32))}': m for k, m in masks.items()}\n"
        "np.savez(sys.argv[1], **out)\n"
    )
    for name, disabled in (("all", ""), ("none", " ".join(dispatched))):
        environment = {**os.environ, "NPY_DISABLE_CPU_FEATURES": disabled} if disabled else dict(os.environ)
        subprocess.run([sys.executable, "-c", script, str(tmp_path / name)], env=environment, check=True, capture_output=True)
    one, other = (np.load(tmp_path / f"{name}.npz") for name in ("all", "none"))
    assert set(one) == set(other)
    for key in one:
        if key.endswith("image"):
            assert np.abs(one[key].astype(int) - other[key]).max() <= 1, key
        else:
            assert (one[key] == other[key]).all(), key


# What shows and what does not


@pytest.fixture(scope="module")
def many() -> tuple[list[Case], np.ndarray]:
    return frontal(900, seed=6, size=32)


def cross_validated(features: np.ndarray, label: np.ndarray) -> float:
    guess = cross_val_predict(LogisticRegression(C=0.1, max_iter=500), features, label, cv=5, method="decision_function")
    return float(roc_auc_score(label, guess))


def test_border_view_and_hospital_do_not_tell_the_truth(many: tuple[list[Case], np.ndarray]) -> None:
    drawn, images = many
    rim = np.concatenate([images[:, :2].reshape(len(images), -1), images[:, :, :2].reshape(len(images), -1)], axis=1) / 255
    rim = rim.reshape(len(images), -1, 8).mean(axis=2)
    hospital = np.array([[case.patient.dataset == name for name in HOSPITALS] for case in drawn], float)
    view = np.array([[case.views[0] == "AP", len(case.views)] for case in drawn], float)
    for finding in FINDINGS:
        label = np.array([case.find(finding) is not None for case in drawn])
        spread = np.sqrt(1 / label.sum() + 1 / (~label).sum()) / np.sqrt(12)
        for features in (rim, hospital, view):
            assert cross_validated(features, label) < 0.5 + 4 * spread, finding


def test_sex_and_age_show(many: tuple[list[Case], np.ndarray]) -> None:
    drawn, images = many
    pixels = images.reshape(len(images), 16, 2, 16, 2).mean(axis=(2, 4)).reshape(len(images), -1) / 255
    assert cross_validated(pixels, np.array([case.patient.sex == "F" for case in drawn])) > 0.85
    age = np.array([case.age for case in drawn], float)
    guess = cross_val_predict(Ridge(10.0), pixels, age, cv=5)
    assert np.corrcoef(age, guess)[0, 1] > 0.3


# Who is ill


@pytest.fixture(scope="module")
def population() -> list[Case]:
    return cases(6000, seed=5)


def share(population: list[Case], finding: str, given: str = "") -> float:
    rows = [case for case in population if not given or case.find(given)]
    return sum(case.find(finding) is not None for case in rows) / len(rows)


@pytest.mark.parametrize("finding", FINDINGS)
def test_findings_are_neither_rare_nor_everywhere_and_come_in_all_sizes(finding: str, population: list[Case]) -> None:
    assert 0.03 < share(population, finding) < 0.25
    severities = np.bincount([case.find(finding).severity for case in population if case.find(finding)], minlength=3)  # type: ignore[union-attr]
    assert (severities / severities.sum() > 0.08).all()
    for case in population:
        lesion = case.find(finding)
        if lesion:
            low, high = SIZES[finding][lesion.severity]
            assert low <= lesion.size <= high


@pytest.mark.parametrize(
    ("finding", "given"),
    [
        ("Pleural Effusion", "Edema"),
        ("Edema", "Cardiomegaly"),
        ("Implanted Device", "Cardiomegaly"),
        ("Catheter", "Tube"),
        ("Pneumothorax", "Rib Fracture"),
        ("Atelectasis", "Pleural Effusion"),
        ("Mass", "Emphysema/COPD"),
    ],
)
def test_findings_come_together_as_in_patients(finding: str, given: str, population: list[Case]) -> None:
    assert share(population, finding, given) > 1.3 * share(population, finding)


def test_findings_do_not_depend_on_the_hospital(population: list[Case]) -> None:
    for finding in FINDINGS:
        shares = [share([c for c in population if c.patient.dataset == name], finding) for name in HOSPITALS]
        assert max(shares) - min(shares) < 0.06, finding


def test_patients_are_followed_over_time(population: list[Case]) -> None:
    followed = [(a, b) for a, b in itertools.pairwise(population) if a.patient == b.patient]
    assert len(followed) > 1000
    changes = set()
    for before, now in followed:
        assert now.day > before.day
        for lesion in now.lesions:
            old = before.find(lesion.finding)
            changes.add(lesion.change)
            if old is None:
                assert lesion.change == "new"
            elif lesion.change == "larger":
                assert lesion.size > old.size
            elif lesion.change == "smaller":
                assert lesion.size < old.size
        gone = {lesion.finding for lesion in before.lesions} - {lesion.finding for lesion in now.lesions}
        assert {lesion.finding for lesion in now.resolved} == gone
        assert not gone & {"Scoliosis", "Emphysema/COPD", "Calcified Granuloma", "Implanted Device"}
    assert changes == {"new", "unchanged", "larger", "smaller"} | (changes & {""})
    assert all(not lesion.change for case in population if case.visit == 0 for lesion in case.lesions)
