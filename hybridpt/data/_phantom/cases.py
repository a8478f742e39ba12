"""Who is in the phantom and what is wrong with them: patients, their studies over time and the true findings of each.

Lengths are in mm, angles in degrees. Lung coordinates place a thing inside one lung: ``height`` runs from 0 at the apex to 1 at the dome
of the diaphragm, ``width`` from 0 at the mediastinum to 1 at the chest wall, ``depth`` from -1 at the front to 1 at the back. Sides
are the patient's: the patient's left is on the right of a frontal picture.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from hybridpt.data._phantom.draws import Draws

__all__ = [
    "FINDINGS",
    "HOSPITALS",
    "SEVERITIES",
    "SIZES",
    "UNITS",
    "Case",
    "Hospital",
    "Lesion",
    "Patient",
    "draw_case",
    "draw_patients",
]


@dataclass(frozen=True, slots=True)
class Hospital:
    """Where a study was made: its share of the patients, and what it gives away."""

    share: float
    text: bool
    labels: bool


HOSPITALS: Mapping[str, Hospital] = {
    "north": Hospital(0.30, text=True, labels=True),
    "south": Hospital(0.30, text=True, labels=True),
    "east": Hospital(0.20, text=True, labels=False),
    "west": Hospital(0.20, text=False, labels=True),
}
SEVERITIES = ("subtle", "moderate", "obvious")
SIDES = ("right", "left")

Range = tuple[float, float]

SIZES: Mapping[str, tuple[Range, Range, Range]] = {
    "Cardiomegaly": ((0.50, 0.535), (0.535, 0.60), (0.60, 0.70)),  # cardiothoracic ratio
    "Pleural Effusion": ((16, 38), (38, 90), (90, 160)),  # mm that the fluid rises at the chest wall
    "Pneumothorax": ((6, 14), (14, 36), (36, 95)),  # mm from the apex of the chest to that of the lung
    "Consolidation": ((35, 55), (55, 85), (85, 135)),  # mm across
    "Atelectasis": ((22, 42), (42, 75), (75, 120)),  # mm along the plate
    "Edema": ((0.20, 0.40), (0.40, 0.70), (0.70, 1.0)),  # share of the air lost in the hilar region
    "Nodule": ((6, 11), (11, 18), (18, 29)),  # mm across
    "Mass": ((31, 42), (42, 60), (60, 95)),  # mm across
    "Calcified Granuloma": ((3, 4.5), (4.5, 6.5), (6.5, 10)),  # mm across
    "Emphysema/COPD": ((0.15, 0.40), (0.40, 0.70), (0.70, 1.0)),  # share of the way to the most hyperinflated chest
    "Rib Fracture": ((1.5, 3), (3, 5), (5, 9)),  # mm by which the ends are apart
    "Scoliosis": ((11, 20), (20, 35), (35, 60)),  # Cobb's angle, degrees
    "Hiatal Hernia": ((30, 45), (45, 70), (70, 110)),  # mm across
    "Implanted Device": ((22, 30), (42, 48), (48, 58)),  # mm along the pacemaker's case; the smallest have no leads
    "Catheter": ((1.2, 1.7), (1.9, 2.6), (2.8, 4.2)),  # mm across
    "Tube": ((6.5, 7.3), (7.3, 8.2), (8.2, 9.0)),  # mm across
}
"""What subtle, moderate and obvious mean for each finding, (low, high); the names are those of the labelers' vocabulary."""

FINDINGS = tuple(SIZES)
UNITS = {
    **dict.fromkeys(FINDINGS, "mm"),
    "Cardiomegaly": "cardiothoracic ratio",
    "Edema": "share of air lost",
    "Emphysema/COPD": "share of the largest hyperinflation",
    "Scoliosis": "degrees (Cobb)",
}
SEVERITY = {  # chances of the three; a subtle tube is one whose radiopaque line has faded
    **dict.fromkeys(FINDINGS, (0.34, 0.38, 0.28)),
    "Implanted Device": (0.12, 0.38, 0.50),
    "Catheter": (0.25, 0.45, 0.30),
    "Tube": (0.20, 0.40, 0.40),
}
HEART_NORMAL = (0.37, 0.485)  # what lies between it and .50 is left empty, so that the definition is never a coin toss

AP_VIEW = 0.35
LATERAL = 0.45  # of the studies whose first picture is PA
SECOND_AP = 0.06  # of those whose first picture is AP
STUDIES_PER_PATIENT = (0.62, 0.20, 0.11, 0.07)  # one, two, three, four
LASTS = 0.80  # chance that an acute finding is still there after a day; it halves with every three weeks
HALF_LIFE = 21.0  # days

# Chances of a lung field for what lies in a lung: upper, mid, lower.
ZONES = ("upper", "mid", "lower")
_ZONE_SHARES = {
    "Consolidation": (0.20, 0.25, 0.55),
    "Atelectasis": (0.02, 0.18, 0.80),
    "Nodule": (0.40, 0.30, 0.30),
    "Mass": (0.45, 0.30, 0.25),
    "Calcified Granuloma": (0.40, 0.35, 0.25),
}
_ZONE_HEIGHTS: tuple[Range, ...] = ((0.14, 0.36), (0.40, 0.60), (0.64, 0.88))

_SPLITS = ("train", "test", "train", "val", "train", "train", "train", "test", "train", "train")  # 70, 10 and 20 in a hundred
_PATIENTS, _STUDIES = 0, 1  # first keys of their streams


@dataclass(frozen=True, slots=True)
class Patient:
    """What stays the same over the studies of one patient.

    Attributes:
        number: From 0.
        patient_id: Unique over the set.
        dataset: The hospital.
        split: ``train``, ``val`` or ``test``.
        sex: ``M`` or ``F``.
        age: Years at the first study, 18 to 94.
        half_width: Half the inner width of the thorax at its widest, mm.
        half_depth: Half its inner depth from front to back, mm.
        lung_height: From the apex of the right lung to the dome under it in full inspiration, mm.
        fat: Thickness of what lies between skin and ribs, mm.
        heart: Cardiothoracic ratio before the small changes from study to study.
        failing: Has a failing heart.
        smoker: Smokes or did.
    """

    number: int
    patient_id: str
    dataset: str
    split: str
    sex: str
    age: int
    half_width: float
    half_depth: float
    lung_height: float
    fat: float
    heart: float
    failing: bool
    smoker: bool


@dataclass(frozen=True, slots=True)
class Lesion:
    """One finding as it is in the body.

    Attributes:
        finding: One of ``FINDINGS``.
        severity: Index into ``SEVERITIES``.
        size: In the unit that stands beside the finding in ``SIZES``.
        side: ``left``, ``right``, ``bilateral`` (sizes as the larger side), or empty where a side makes no sense.
        balance: Size on the lesser side over that on the greater, 0 for one side only; the greater is drawn from ``detail``.
        place: Height, width and depth in lung coordinates.
        kind: How it appears; the kinds of a finding are in ``KINDS``.
        count: How many there are: nodules, granulomas, broken ribs, plates.
        change: Since the study before: ``new``, ``unchanged``, ``larger``, ``smaller``; empty in a first study.
        detail: Seed of all else, the same over the studies of a patient.
    """

    finding: str
    severity: int
    size: float
    side: str = ""
    balance: float = 0.0
    place: tuple[float, float, float] = (0.5, 0.5, 0.0)
    kind: str = ""
    count: int = 1
    change: str = ""
    detail: int = 0

    @property
    def zone(self) -> str:
        """``upper``, ``mid`` or ``lower``, by the place."""
        return ZONES[int(self.place[0] > 0.38) + int(self.place[0] > 0.62)]


Lesions = dict[str, Lesion]


@dataclass(frozen=True, slots=True)
class Case:
    """One study: whose it is, the pictures to take, and the truth.

    Attributes:
        index: Number of the study, from 0.
        patient: Whose study it is.
        study_id: Unique over the set.
        visit: Number within the patient, from 0.
        day: Days since the patient's first study.
        age: Years at this study.
        views: ``PA``, ``AP`` or ``LATERAL`` of each picture.
        heart: Cardiothoracic ratio.
        lesions: The findings that are present, in the order of ``FINDINGS``.
        resolved: What the study before had and this one has no more.
    """

    index: int
    patient: Patient
    study_id: str
    visit: int
    day: int
    age: int
    views: tuple[str, ...]
    heart: float
    lesions: tuple[Lesion, ...]
    resolved: tuple[Lesion, ...]

    def find(self, finding: str) -> Lesion | None:
        """Return the lesion of a finding, or None where it is absent."""
        return next((one for one in self.lesions if one.finding == finding), None)


def draw_patients(studies: int, seed: int) -> list[tuple[Patient, int]]:
    """Draw the patient and the number within the patient (from 0) of every study, patients in a row."""
    owners: list[tuple[Patient, int]] = []
    number = 0
    while len(owners) < studies:
        draws = Draws(seed, _PATIENTS, number)
        patient = _draw_patient(number, draws)
        owners += [(patient, visit) for visit in range(1 + draws.weighted(STUDIES_PER_PATIENT))]
        number += 1
    return owners[:studies]


def draw_case(index: int, patient: Patient, visit: int, seed: int) -> Case:
    """Draw one study; depends on nothing but its arguments."""
    day = 0
    lesions: Lesions = {}
    resolved: tuple[Lesion, ...] = ()
    for number in range(visit + 1):
        draws = Draws(seed, _STUDIES, patient.number, number)
        gap = 0 if number == 0 else max(1, round(2 ** draws.uniform(0, 10.5)))
        day += gap
        before = lesions
        lesions = _draw_lesions(patient, before, gap, number == 0, draws)
        resolved = tuple(one for name, one in before.items() if name not in lesions)
    heart = lesions["Cardiomegaly"].size if "Cardiomegaly" in lesions else draws.normal(patient.heart, 0.006, *HEART_NORMAL)
    return Case(
        index=index,
        patient=patient,
        study_id=f"{patient.dataset[0].upper()}{index:06d}",
        visit=visit,
        day=day,
        age=min(patient.age + day // 365, 99),
        views=_draw_views(draws),
        heart=heart,
        lesions=tuple(lesions[name] for name in FINDINGS if name in lesions),
        resolved=resolved,
    )


def _draw_views(draws: Draws) -> tuple[str, ...]:
    # The view says nothing of the findings, although in a hospital it does: no shortcut is wanted.
    if draws.chance(AP_VIEW):
        return ("AP", "AP") if draws.chance(SECOND_AP) else ("AP",)
    return ("PA", "LATERAL") if draws.chance(LATERAL) else ("PA",)


def _draw_patient(number: int, draws: Draws) -> Patient:
    male = draws.chance(0.5)
    age = round(draws.normal(57, 18, 18, 94))
    stout = draws.normal(0, 1)
    failing = draws.chance(0.04 + 0.0022 * max(age - 30, 0))
    large = draws.chance(0.68 if failing else 0.08 + 0.001 * max(age - 40, 0))
    return Patient(
        number=number,
        patient_id=f"P{number:06d}",
        dataset=tuple(HOSPITALS)[draws.weighted([h.share for h in HOSPITALS.values()])],
        # Dealt by number, so that a patient's split does not depend on how many patients there are.
        split=_SPLITS[number % len(_SPLITS)],
        sex="M" if male else "F",
        age=age,
        half_width=draws.normal(141 if male else 128, 7, 108, 162) + 1.5 * stout,
        half_depth=draws.normal(93 if male else 84, 6, 68, 115) + 2.5 * stout,
        lung_height=draws.normal(232 if male else 212, 12, 180, 265),
        fat=max(8.0, 20 + 9 * stout + draws.normal(0, 3)),
        heart=_draw_size("Cardiomegaly", _draw_severity("Cardiomegaly", draws), draws) if large else _draw_heart(draws),
        failing=failing,
        smoker=draws.chance(0.24),
    )


def _draw_heart(draws: Draws) -> float:
    return draws.normal(0.44, 0.030, *HEART_NORMAL)


def _draw_severity(finding: str, draws: Draws) -> int:
    return draws.weighted(SEVERITY[finding])


def _draw_size(finding: str, severity: int, draws: Draws) -> float:
    return draws.uniform(*SIZES[finding][severity])


@dataclass(frozen=True, slots=True)
class _State:
    """What ails a patient at one study; the findings follow from it, and so come together."""

    critical: bool
    infected: bool
    injured: bool
    overloaded: bool


def _draw_lesions(patient: Patient, before: Lesions, gap: int, first: bool, draws: Draws) -> Lesions:
    """Draw the findings of a study, given those of the one before."""
    state = _State(
        critical=draws.chance(0.5 if gap and gap < 10 and "Tube" in before else 0.10),
        infected=draws.chance(0.13),
        injured=draws.chance(0.06),
        overloaded=draws.chance(0.45 if patient.failing else 0.03),
    )
    lesions: Lesions = {}
    for finding in FINDINGS:
        luck, stream = draws.uniform(), draws.below(1 << 53)  # as many draws whatever comes of them
        old = before.get(finding)
        if old is not None and (finding in _LASTING or luck < LASTS * 0.5 ** (gap / HALF_LIFE)):
            lesions[finding] = _age(old, gap, Draws(stream))
        elif finding == "Cardiomegaly":
            if patient.heart >= SIZES[finding][0][0]:
                lesions[finding] = Lesion(finding, _grade(finding, patient.heart), patient.heart)
        elif luck < _CHANCES[finding](patient, state, lesions) * (1 if first or finding not in _LASTING else 0.15):
            lesions[finding] = replace(_new(finding, lesions, Draws(stream)), change="" if first else "new")
    return lesions


_LASTING = frozenset(
    ("Cardiomegaly", "Nodule", "Mass", "Calcified Granuloma", "Emphysema/COPD", "Rib Fracture", "Scoliosis", "Hiatal Hernia")
) | {"Implanted Device"}

_CHANCES: Mapping[str, Callable[[Patient, _State, Lesions], float]] = {
    "Pleural Effusion": lambda p, s, f: 0.07 + 0.38 * s.overloaded + 0.20 * s.critical + 0.18 * s.infected + 0.15 * s.injured,
    "Pneumothorax": lambda p, s, f: 0.035 + 0.10 * s.critical + 0.38 * s.injured + 0.04 * p.smoker,
    "Consolidation": lambda p, s, f: 0.03 + 0.55 * s.infected + 0.18 * s.critical,
    "Atelectasis": lambda p, s, f: 0.08 + 0.25 * s.critical + 0.20 * ("Pleural Effusion" in f) + 0.10 * s.injured,
    "Edema": lambda p, s, f: 0.02 + 0.55 * s.overloaded + 0.12 * s.critical,
    "Nodule": lambda p, s, f: 0.08 + 0.10 * p.smoker,
    "Mass": lambda p, s, f: 0.05 + 0.11 * p.smoker,
    "Calcified Granuloma": lambda p, s, f: 0.06 + 0.001 * max(p.age - 30, 0),
    "Emphysema/COPD": lambda p, s, f: 0.02 + (0.45 if p.smoker and p.age > 45 else 0),
    "Rib Fracture": lambda p, s, f: 0.03 + 0.60 * s.injured,
    "Scoliosis": lambda p, s, f: 0.07 + 0.05 * (p.sex == "F"),
    "Hiatal Hernia": lambda p, s, f: 0.04 + 0.003 * max(p.age - 40, 0),
    "Implanted Device": lambda p, s, f: 0.03 + 0.28 * p.failing + 0.0015 * max(p.age - 50, 0),
    "Catheter": lambda p, s, f: 0.05 + 0.60 * s.critical,
    "Tube": lambda p, s, f: 0.03 + 0.60 * s.critical,
}
"""Chance of each finding in a patient that did not have it, given the findings drawn before it."""

KINDS: Mapping[str, Mapping[str, float]] = {
    "Pleural Effusion": {"meniscus": 0.8, "layering": 0.2},
    "Consolidation": {"patchy": 0.45, "lobar": 0.30, "round": 0.25},
    "Atelectasis": {"plate": 0.65, "band": 0.35},
    "Edema": {"perihilar": 0.6, "interstitial": 0.4},
    "Rib Fracture": {"acute": 0.6, "healed": 0.4},
    "Scoliosis": {"single": 0.7, "double": 0.3},
    "Catheter": {"jugular": 0.45, "subclavian": 0.30, "picc": 0.25},
}
"""The appearances of findings that have several, with their chances."""


def _age(old: Lesion, gap: int, draws: Draws) -> Lesion:
    """Carry a lesion over to the next study: what grows or shrinks does so within its finding's sizes."""
    low, high = SIZES[old.finding][0][0], SIZES[old.finding][2][1]
    if old.finding in ("Nodule", "Mass"):
        factor = draws.pick((1.0, 1.0, 1.0, 1.12 if gap < 90 else 1.45))
    elif old.finding in _LASTING or old.finding in ("Catheter", "Tube"):
        factor = 1.0
    else:
        factor = draws.pick((1.0, 1.5, 0.6, 0.7))
    size = min(max(old.size * factor, low), high)
    change = "larger" if size > 1.05 * old.size else "smaller" if size < 0.95 * old.size else "unchanged"
    kind = "healed" if old.kind == "acute" and gap > 60 else old.kind
    return replace(old, size=size, severity=_grade(old.finding, size), change=change, kind=kind)


def _grade(finding: str, size: float) -> int:
    return sum(size >= low for low, _ in SIZES[finding][1:])


def _new(finding: str, lesions: Lesions, draws: Draws) -> Lesion:
    """Draw a finding that was not there before."""
    severity = _draw_severity(finding, draws)
    kinds = KINDS.get(finding, {})
    side, balance = _draw_side(finding, lesions, draws)
    return Lesion(
        finding=finding,
        severity=severity,
        size=_draw_size(finding, severity, draws),
        side=side,
        balance=balance,
        place=_draw_place(finding, draws),
        kind=tuple(kinds)[draws.weighted(tuple(kinds.values()))] if kinds else "",
        count=1 + draws.weighted(_COUNTS[finding]) if finding in _COUNTS else 1,
        detail=draws.below(1 << 53),
    )


_COUNTS = {
    "Nodule": (0.75, 0.15, 0.10),
    "Calcified Granuloma": (0.65, 0.20, 0.15),
    "Rib Fracture": (0.45, 0.25, 0.20, 0.10),
    "Atelectasis": (0.7, 0.3),
}
_BOTH = {"Pleural Effusion": 0.30, "Atelectasis": 0.25, "Consolidation": 0.15}  # chances of both sides
_SIDELESS = frozenset(("Emphysema/COPD", "Hiatal Hernia", "Tube"))


def _draw_side(finding: str, lesions: Lesions, draws: Draws) -> tuple[str, float]:
    if finding in _SIDELESS:
        return "", 0.0
    if finding == "Edema":
        return "bilateral", draws.uniform(0.7, 1)
    if draws.chance(_BOTH.get(finding, 0)):
        return "bilateral", draws.uniform(0.5, 1)
    if finding == "Implanted Device":
        return ("left" if draws.chance(0.85) else "right"), 0.0
    side = draws.pick(SIDES)
    collapsed = lesions.get("Pneumothorax")
    if finding in ("Nodule", "Mass", "Consolidation") and collapsed is not None:
        side = "left" if collapsed.side == "right" else "right"  # a collapsed lung would carry it along
    return side, 0.0


def _draw_place(finding: str, draws: Draws) -> tuple[float, float, float]:
    zone = draws.weighted(_ZONE_SHARES.get(finding, (1, 1, 1)))
    return draws.uniform(*_ZONE_HEIGHTS[zone]), draws.uniform(0.22, 0.86), draws.uniform(-0.75, 0.75)
