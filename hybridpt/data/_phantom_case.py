"""Who is in the phantom and what is wrong with them: patients, studies and their true findings, drawn before any picture or word.

Lung coordinates place a thing inside one lung: ``height`` runs from 0 at the apex to 1 at the dome of the diaphragm, ``width`` from 0
at the mediastinum to 1 at the chest wall. Sides are the patient's: the patient's left is on the right of the picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = [
    "FINDINGS",
    "HOSPITALS",
    "SEVERITIES",
    "Case",
    "Lesion",
    "Nodule",
    "Patient",
    "draw_case",
    "draw_patients",
    "generator",
]

FINDINGS = ("Cardiomegaly", "Pleural Effusion", "Pneumothorax", "Nodule")
HOSPITALS = ("north", "south")
SEVERITIES = ("subtle", "moderate", "obvious")
SIDES = ("right", "left")

# Chances of truth; the hospitals share them, so that the style of a picture or report tells nothing about what is in it.
CARDIOMEGALY = 0.25
EFFUSION_WITH_CARDIOMEGALY = 0.40
EFFUSION_WITHOUT_CARDIOMEGALY = 0.16
PNEUMOTHORAX = 0.12
NODULE = 0.15
SEVERITY = (0.30, 0.40, 0.30)
BILATERAL_EFFUSION = 0.30
SECOND_IMAGE = 0.125
AP_VIEW = 0.35
HAZE = 0.20  # of each lung base: a harmless opacity that looks like a little fluid
STUDIES_PER_PATIENT = (0.70, 0.20, 0.10)  # one, two, three

# What subtle, moderate and obvious mean: (low, high) of each finding's size.
HEART_NORMAL = (0.36, 0.49)  # cardiothoracic ratio; .49 to .50 is left empty, so that the definition at .50 is never a coin toss
HEART_ENLARGED = ((0.50, 0.53), (0.53, 0.60), (0.60, 0.68))
EFFUSION_HEIGHT = ((0.04, 0.13), (0.13, 0.32), (0.32, 0.68))  # of the lung's height
PNEUMOTHORAX_GAP = ((0.06, 0.11), (0.11, 0.24), (0.24, 0.48))  # of the lung's height, at the apex
NODULE_DIAMETER = ((6.0, 10.0), (12.0, 20.0), (20.0, 30.0))  # mm
NODULE_CONTRAST = ((0.12, 0.24), (0.30, 0.42), (0.45, 0.60))  # of the grey scale, at the centre of the disc

_PATIENTS = 0  # first spawn key of the patients' stream; the studies' begin with 1


@dataclass(frozen=True, slots=True)
class Patient:
    """What stays the same over the studies of one patient.

    Attributes:
        patient_id: Unique over the set.
        dataset: The hospital.
        split: ``train``, ``val`` or ``test``.
        sex: ``M`` or ``F``.
        age: Years at the first study, 18 to 94.
        half_width: Half the inner width of the thorax, in half picture widths.
        apex: Height of the lung apices in the picture, in half picture widths, down is positive.
        base: Height of the right diaphragm's dome, in the same units.
        habitus: 0 for slim to 1 for stout.
        thorax_mm: Inner width of the thorax, in mm.
        heart: Cardiothoracic ratio before the small changes from study to study.
        tilt: Slope of the heart's long axis, in radians.
        slender: Short axis of the heart over its long one.
        fat: Pad of fat at the heart's apex, 0 for none to 1; it widens the shadow, not the heart.
        angles: Depth of the costophrenic angle on the right and on the left, 0 for blunt to 1 for deep; blunt is not fluid.
    """

    patient_id: str
    dataset: str
    split: str
    sex: str
    age: int
    half_width: float
    apex: float
    base: float
    habitus: float
    thorax_mm: float
    heart: float
    tilt: float
    slender: float
    fat: float
    angles: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Nodule:
    """A round opacity in one lung, in lung coordinates; contrast is of the grey scale, at its centre."""

    side: str
    height: float
    width: float
    diameter_mm: float
    contrast: float

    @property
    def zone(self) -> str:
        """``upper``, ``mid`` or ``lower``."""
        return ("upper", "mid", "lower")[int(self.height > 0.38) + int(self.height > 0.62)]


@dataclass(frozen=True, slots=True)
class Lesion:
    """One finding as the picture shows it; the size is the heart's width, the fluid's height, the apical gap or the diameter.

    Attributes:
        finding: One of ``FINDINGS``.
        side: ``left``, ``right``, ``bilateral`` or empty for the heart.
        size: In widths of the thorax.
        severity: Index into ``SEVERITIES``.
    """

    finding: str
    side: str
    size: float
    severity: int


@dataclass(frozen=True, slots=True)
class Case:
    """One study: the patient, the pictures to take, and the truth.

    Attributes:
        index: Number of the study, from 0.
        patient: Whose study it is.
        study_id: Unique over the set.
        age: Years at this study.
        views: ``PA`` or ``AP`` of each picture.
        heart: Cardiothoracic ratio.
        effusion: Height of the fluid on the right and on the left, in lung heights; 0 for none.
        pneumothorax: Gap at the apex on the right and on the left, in lung heights; 0 for none.
        nodule: The nodule, if there is one.
        haze: Harmless opacity at the right and the left lung base, 0 for none to 1.
        lesions: The findings that are present.
    """

    index: int
    patient: Patient
    study_id: str
    age: int
    views: tuple[str, ...]
    heart: float
    effusion: tuple[float, float]
    pneumothorax: tuple[float, float]
    nodule: Nodule | None
    haze: tuple[float, float]
    lesions: tuple[Lesion, ...]


def generator(seed: int, *key: int) -> np.random.Generator:
    """Return the random stream of one purpose; equal seeds and keys give equal streams, whatever ran before."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def draw_patients(studies: int, seed: int) -> list[tuple[Patient, int]]:
    """Draw the patient and the number within the patient (from 0) of every study, patients in a row."""
    rng = generator(seed, _PATIENTS)
    counts = 1 + np.searchsorted(np.cumsum(STUDIES_PER_PATIENT)[:2], rng.random(studies), side="right")
    patients = int(np.searchsorted(np.cumsum(counts), studies)) + 1
    splits = _draw_splits(patients, rng)
    owners = [(_draw_patient(number, splits[number], seed), int(counts[number])) for number in range(patients)]
    return [(patient, visit) for patient, count in owners for visit in range(count)][:studies]


def draw_case(index: int, patient: Patient, visit: int, seed: int) -> Case:
    """Draw one study; depends on nothing but its arguments."""
    rng = generator(seed, 1, index, 0)
    large = patient.heart >= 0.5
    bounds = (HEART_ENLARGED[0][0], HEART_ENLARGED[2][1]) if large else HEART_NORMAL
    heart = float(np.clip(patient.heart + rng.normal(0, 0.006), *bounds))
    effusion = _draw_effusion(EFFUSION_WITH_CARDIOMEGALY if large else EFFUSION_WITHOUT_CARDIOMEGALY, rng)
    pneumothorax = _draw_pneumothorax(rng)
    nodule = _draw_nodule(heart, effusion, pneumothorax, rng) if rng.random() < NODULE else None
    views = tuple(str(v) for v in np.where(rng.random(2) < AP_VIEW, "AP", "PA"))
    haze = np.where(rng.random(2) < HAZE, rng.uniform(0.3, 1, 2), 0)
    return Case(
        index=index,
        patient=patient,
        study_id=f"{patient.dataset[0].upper()}{index:06d}",
        age=patient.age + visit,
        views=views if rng.random() < SECOND_IMAGE else views[:1],
        heart=heart,
        effusion=effusion,
        pneumothorax=pneumothorax,
        nodule=nodule,
        haze=(float(haze[0]), float(haze[1])),
        lesions=_lesions(patient, heart, effusion, pneumothorax, nodule),
    )


def _draw_splits(patients: int, rng: np.random.Generator) -> list[str]:
    """Deal patients out 70/10/20 in random order; with three or more, every split has one."""
    test = max(1, round(0.2 * patients)) if patients >= 3 else 0
    val = max(1, round(0.1 * patients)) if patients >= 3 else 0
    names = ["test"] * test + ["val"] * val + ["train"] * (patients - test - val)
    return [names[i] for i in rng.permutation(patients)]


def _draw_patient(number: int, split: str, seed: int) -> Patient:
    rng = generator(seed, _PATIENTS, number)
    male = bool(rng.random() < 0.5)
    return Patient(
        patient_id=f"P{number:06d}",
        dataset=HOSPITALS[int(rng.random() < 0.5)],
        split=split,
        sex="M" if male else "F",
        age=int(np.clip(rng.normal(58, 17), 18, 92)),
        half_width=float(np.clip(rng.normal(0.72 if male else 0.68, 0.03), 0.60, 0.80)),
        apex=float(rng.normal(-0.80, 0.03)),
        base=float(rng.normal(0.40, 0.05)),
        habitus=float(rng.beta(2.0, 2.5)),
        thorax_mm=float(np.clip(rng.normal(300 if male else 268, 14), 230, 340)),
        heart=_draw_heart(rng),
        tilt=float(rng.uniform(0.40, 0.85)),
        slender=float(rng.uniform(0.72, 0.90)),
        fat=float(max(rng.uniform(-0.8, 1), 0)),
        angles=(float(rng.uniform(0, 1)), float(rng.uniform(0, 1))),
    )


def _draw_heart(rng: np.random.Generator) -> float:
    if rng.random() < CARDIOMEGALY:
        return float(rng.uniform(*HEART_ENLARGED[_draw_severity(rng)]))
    return float(np.clip(rng.normal(0.44, 0.035), *HEART_NORMAL))


def _draw_severity(rng: np.random.Generator) -> int:
    return int(rng.choice(3, p=SEVERITY))


def _draw_effusion(chance: float, rng: np.random.Generator) -> tuple[float, float]:
    if rng.random() >= chance:
        return (0.0, 0.0)
    severity = _draw_severity(rng)
    first = float(rng.uniform(*EFFUSION_HEIGHT[severity]))
    second = 0.0
    if rng.random() < BILATERAL_EFFUSION:
        first = min(first, 0.45)  # more on both sides is not a picture of the living
        second = float(np.clip(first * rng.uniform(0.6, 1.0), EFFUSION_HEIGHT[0][0], None))
    return (first, second) if rng.random() < 0.5 else (second, first)


def _draw_pneumothorax(rng: np.random.Generator) -> tuple[float, float]:
    if rng.random() >= PNEUMOTHORAX:
        return (0.0, 0.0)
    gap = float(rng.uniform(*PNEUMOTHORAX_GAP[_draw_severity(rng)]))
    return (gap, 0.0) if rng.random() < 0.5 else (0.0, gap)


def _draw_nodule(
    heart: float, effusion: tuple[float, float], pneumothorax: tuple[float, float], rng: np.random.Generator
) -> Nodule:
    """Place a nodule where air surrounds it: off the side of a pneumothorax, above the fluid, beside the heart."""
    side = int(rng.random() < 0.5)
    if pneumothorax[side] > 0:
        side = 1 - side
    height = float(rng.uniform(0.16, max(0.24, 0.84 - effusion[side])))
    # The heart reaches 1.3 ratios to the left of the midline and 0.7 to the right.
    beside = (1.35 if side else 0.75) * heart + 0.06 if height > 0.44 else 0.25
    if beside > 0.78:
        height, beside = float(rng.uniform(0.18, 0.40)), 0.25
    severity = _draw_severity(rng)
    return Nodule(
        side=SIDES[side],
        height=height,
        width=float(rng.uniform(beside, 0.84)),
        diameter_mm=float(rng.uniform(*NODULE_DIAMETER[severity])),
        contrast=float(rng.uniform(*NODULE_CONTRAST[severity])),
    )


def _lesions(
    patient: Patient,
    heart: float,
    effusion: tuple[float, float],
    pneumothorax: tuple[float, float],
    nodule: Nodule | None,
) -> tuple[Lesion, ...]:
    """Say in words and thorax widths what the numbers of a study mean."""
    widths = (patient.base - patient.apex) / (2 * patient.half_width)
    found = []
    if patient.heart >= 0.5:
        found.append(Lesion("Cardiomegaly", "", heart, _grade(heart, HEART_ENLARGED)))
    if max(effusion) > 0:
        found.append(Lesion("Pleural Effusion", _side(effusion), max(effusion) * widths, _grade(max(effusion), EFFUSION_HEIGHT)))
    if max(pneumothorax) > 0:
        gap = max(pneumothorax)
        found.append(Lesion("Pneumothorax", _side(pneumothorax), gap * widths, _grade(gap, PNEUMOTHORAX_GAP)))
    if nodule is not None:
        grade = _grade(nodule.contrast, NODULE_CONTRAST)
        found.append(Lesion("Nodule", nodule.side, nodule.diameter_mm / patient.thorax_mm, grade))
    return tuple(found)


def _grade(value: float, ranges: tuple[tuple[float, float], ...]) -> int:
    return sum(value >= low for low, _ in ranges[1:])


def _side(pair: tuple[float, float]) -> str:
    return "bilateral" if min(pair) > 0 else SIDES[int(pair[1] > 0)]
