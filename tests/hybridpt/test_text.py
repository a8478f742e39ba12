"""Text for a contrast: priors taken out, reports cut into units, and units drawn by seed, epoch and row."""

from __future__ import annotations

import re
import time
from collections import Counter

import numpy as np
import pytest
import torch

from hybridpt.data._phantom.cases import draw_case, draw_patients
from hybridpt.data._phantom.reports import write_report
from hybridpt.data.dataset import NO_TEXT, Collate, Key, Sample, Table
from hybridpt.data.labels import JoinedLabels
from hybridpt.data.text import contrastive_units, report_text, without_priors
from hybridpt.encoders import ByteEncoder

KEPT = {
    "Stable cardiomegaly, as compared to the prior study.": "Cardiomegaly.",
    "Left basilar opacity, not significantly changed since 3/4/2019.": "Left basilar opacity.",
    "The nodule has increased in size since the prior study.": "The nodule.",
    "There is no significant change in the right pleural effusion.": "The right pleural effusion.",
    "Compared with the prior study, there has been no appreciable change in the mass.": "The mass.",
    "There has been an interval increase in the effusion.": "The effusion.",
    "In the interval there has been development of a nodule.": "A nodule.",
    "A small effusion is again demonstrated.": "A small effusion is demonstrated.",
    "Nodule, which was not present on 03/04.": "Nodule.",
    "New compared with 12.03.: effusion.": "Effusion.",
    "The heart remains mildly enlarged.": "The heart is mildly enlarged.",
    "As compared to the previous radiograph, the patient has received a new right PICC line.": "The patient has received a right PICC line.",
    "In comparison with the study of ___, there is little change in the cardiomegaly.": "The cardiomegaly.",
    "Mild cardiomegaly is unchanged, and there is a small effusion.": "Mild cardiomegaly, and there is a small effusion.",
    "Persistent mild edema with small bilateral effusions.": "Mild edema with small bilateral effusions.",
    "Right rib fracture, better seen on prior CT.": "Right rib fracture.",
    "Known nodule, no change.": "Nodule.",
    "No interval change in pulmonary edema.": "Pulmonary edema.",
    "There is no interval change in effusion or cardiomegaly.": "Effusion or cardiomegaly.",
    "No evidence of interval change in the effusion.": "The effusion.",
    "No interval changes in the mass.": "The mass.",
    "Absence of interval change in the mass.": "The mass.",
    "Pneumothorax not identified on prior exam.": "Pneumothorax.",
    "Interim development of edema.": "Edema.",
    "The effusion has decreased in the interim.": "The effusion.",
    "The nodule has slightly increased in size.": "The nodule.",
    "Redemonstration of right effusion.": "Right effusion.",
    "Nodule stable over two years.": "Nodule.",
    "Nodule stable dating back to 2009.": "Nodule.",
    "Pulmonary edema is worse.": "Pulmonary edema.",
    "Cardiomegaly as seen on CT from 3/4/2011.": "Cardiomegaly.",
    "No effusion but new consolidation.": "No effusion but consolidation.",
    "No pneumothorax with stable left effusion.": "No pneumothorax with left effusion.",
}
GONE = (
    "No significant interval change.",
    "Stable examination.",
    "Heart size is stable.",
    "The cardiomediastinal silhouette is unchanged.",
    "No relevant change since the last film.",
    "Comparison is made with the prior study of ___.",
    "Comparison with outside studies is recommended.",
    "There are no prior studies for comparison.",
    "No new consolidation.",
    "Interval resolution of the effusion.",
    "The nodule noted on the prior study is no longer seen.",
    "The catheter was removed.",
    "Left basilar opacity not seen previously.",
    "A pneumothorax, not previously noted.",
    "There was no effusion previously.",
    "Previously absent effusion is now present.",
    "No pneumothorax seen on the prior exam.",
    "Negative for new infiltrate.",
    "No pneumothorax, effusion, or new consolidation.",
    "Recommend comparison with prior films.",
)
UNTOUCHED = (
    "Heart size is normal.",
    "No pneumothorax.",
    "The heart is enlarged.",
    "Pulmonary vascularity is increased.",
    "Increased interstitial markings.",
    "There are degenerative changes of the spine.",
    "No acute osseous changes.",
    "No significant changes of emphysema.",
    "Status post prior sternotomy.",
    "Low lung volumes.",
    "",
)


@pytest.mark.parametrize(("sentence", "left"), KEPT.items())
def test_what_a_sentence_says_of_the_image_stays(sentence: str, left: str) -> None:
    assert without_priors(sentence) == left


@pytest.mark.parametrize("sentence", GONE)
def test_a_comparison_alone_goes_and_so_does_what_would_turn_into_its_opposite(sentence: str) -> None:
    assert without_priors(sentence) == ""


@pytest.mark.parametrize("sentence", UNTOUCHED)
def test_other_sentences_stay_as_they_are(sentence: str) -> None:
    assert without_priors(sentence) == sentence


PRIORS = re.compile(
    r"\b(prior (study|exam\w*|radiograph\w*)|previous (film|study|radiograph)|compar\w+|since|interval|unchanged)\b", re.I
)


def test_no_reference_to_a_prior_study_is_left_in_the_phantom_reports() -> None:
    """Three hospitals' styles, hundreds of reports; what is taken out is a part of them, not most."""
    reports = phantom_reports()
    whole = [" ".join(units) for units in contrastive_units(reports, "report")]
    assert sum(bool(PRIORS.search(report)) for report in reports) > len(reports) / 4
    assert not [text for text in whole if PRIORS.search(text)]
    told = [report_text(report) for report in reports]
    assert sum(map(bool, whole)) > 0.95 * sum(map(bool, told))
    assert sum(map(len, whole)) > 0.8 * sum(map(len, told))


def phantom_reports() -> list[str]:
    cases = (draw_case(i, patient, visit, 3) for i, (patient, visit) in enumerate(draw_patients(400, 3)))
    return [write_report(case, 3)[0] for case in cases]


def test_no_sentence_takes_long() -> None:
    """Each of these would take seconds or minutes with a pattern that tries its parts in every way."""
    began = time.perf_counter()
    for words in (
        "is has been ",
        "since ",
        "the ",
        "[",
        "no ",
        "prior ",
        ", ",
        "compared to the prior ",
        "_",
        "12 ",
        "in the interval ",
    ):
        for end in ("unchanged", "since", "x prior study"):
            without_priors(words * 2000 + end)
    assert time.perf_counter() - began < 10


REPORT = """INDICATION: Cough.
FINDINGS: 1. Small left effusion, unchanged from the prior study. 2. Heart size is normal. Heart size is normal.
IMPRESSION: Small left effusion. No interval change."""


def test_units_of_a_report() -> None:
    assert contrastive_units([REPORT, "", "COMPARISON: Prior study."], "sentence") == [
        ("Small left effusion.", "Heart size is normal."),
        (),
        (),
    ]
    findings = "1. Small left effusion. 2. Heart size is normal. Heart size is normal."
    assert contrastive_units([REPORT], "section") == [(findings, "Small left effusion.")]
    assert contrastive_units([REPORT], "report") == [(f"{findings} Small left effusion.",)]
    assert contrastive_units([], "sentence") == []


def collate(texts: list[tuple[str, ...]]) -> Collate:
    numbers = {"": NO_TEXT}
    words = [tuple(numbers.setdefault(t, len(numbers)) for t in row) for row in texts]
    n = len(texts)
    labels = JoinedLabels((), (), np.zeros((n, 0, 0), np.int8), np.zeros((n, 0, 0), np.float32), np.zeros((n, 0, 0), bool))
    table = Table(
        image=np.full(n, "", object),
        text=np.fromiter(texts, object, n),
        labels=labels,
        truth=np.zeros((n, 0), np.float32),
        dataset=np.zeros(n, np.int64),
        study=np.arange(n),
        words=np.fromiter(words, object, n),
    )
    return Collate(table, ByteEncoder(width=32).tokenizer)


TEXTS: list[tuple[str, ...]] = [("one", "two", "three"), (), ("two",)]


def samples(seed: int | None) -> list[Sample]:
    return [Sample(Key(row, seed), torch.zeros(1, 1, 1), {}, "") for row in range(len(TEXTS))]


def test_a_batch_holds_the_drawn_text_and_the_numbers_of_all_that_could_be() -> None:
    batch = collate(TEXTS)(samples(5)).batch
    assert batch["said"].tolist() == [[1, 2, 3], [-1, -1, -1], [2, -1, -1]]
    assert batch["has_text"].tolist() == [True, False, True]
    assert batch["words"].tolist()[1:] == [NO_TEXT, 2]
    drawn = bytes(t - 1 for t in batch["tokens"][0].tolist() if t).decode()
    assert drawn == TEXTS[0][TEXTS[0].index(drawn)]
    assert batch["words"][0] == batch["said"][0, TEXTS[0].index(drawn)]


def test_drawing_depends_on_the_seed_alone_and_is_even() -> None:
    made = collate(TEXTS)
    drawn = [int(made(samples(seed)).batch["words"][0]) for seed in range(300)]
    assert drawn == [int(made(samples(seed)).batch["words"][0]) for seed in range(300)]
    assert all(70 < count < 130 for count in Counter(drawn).values())
    assert len({int(made(samples(None)).batch["words"][0]) for _ in range(5)}) == 1


def test_a_batch_of_no_text_at_all() -> None:
    batch = collate([(), ()])([Sample(Key(row), torch.zeros(1, 1, 1), {}, "") for row in (0, 1)]).batch
    assert batch["said"].shape == (2, 0)
    assert not batch["has_text"].any()
