"""The labeler "context": sentences with the answer that a radiologist would give, and what must hold for any text."""

from __future__ import annotations

import csv
import importlib.util
import tarfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from labelers import create, label
from labelers.builtin.context import Context
from labelers.builtin.keywords import Keywords
from labelers.io.writing import open_table
from labelers.run import label_in_batches
from labelers.types import POSITIVE, STATES, UNMENTIONED, LabelTable, Report

P, N, U, X = "positive", "negative", "uncertain", "unmentioned"

CASES: list[tuple[str, dict[str, str]]] = [
    # plain statements
    ("Small left pleural effusion.", {"Pleural Effusion": P}),
    ("There is a moderate right pneumothorax.", {"Pneumothorax": P}),
    ("Bibasilar atelectasis is noted.", {"Atelectasis": P}),
    ("Cardiomegaly and pulmonary edema.", {"Cardiomegaly": P, "Edema": P, "Pulmonary Edema": P}),
    ("Consolidation in the right lower lobe with air bronchograms.", {"Consolidation": P}),
    ("Right-sided PICC line terminates in the lower SVC.", {"Catheter": P, "Support Devices": P}),
    ("An endotracheal tube is in place.", {"Tube": P, "Support Devices": P}),
    ("Dual-lead pacemaker overlies the left chest.", {"Implanted Device": P, "Support Devices": P}),
    ("Calcified granuloma in the left upper lobe.", {"Calcified Granuloma": P, "Granuloma (any)": P, "Lung Lesion": X}),
    ("Healing fractures of the left sixth and seventh ribs.", {"Rib Fracture": P, "Fracture": P}),
    ("Compression fracture of T12.", {"Vertebral Compression/Deformity": P, "Fracture": P}),
    ("Dextroscoliosis of the thoracic spine.", {"Scoliosis": P}),
    ("There is a large hiatal hernia.", {"Hiatal Hernia": P}),
    ("Spiculated mass in the right upper lobe.", {"Mass": P, "Lung Lesion": P}),
    # anatomy and observation apart
    ("The heart is mildly enlarged.", {"Cardiomegaly": P}),
    ("The aorta is tortuous and calcified.", {"Aortic Tortuosity": P, "Aortic Atherosclerosis": P}),
    ("The left hemidiaphragm is elevated.", {"Diaphragm Elevation": P}),
    ("Lungs are hyperexpanded with flattening of the diaphragms.", {"Hyperinflation": P, "Flattened Diaphragm": P}),
    ("There is blunting of the right costophrenic angle.", {"Blunted Costophrenic Angle": P}),
    ("Both costophrenic angles are blunted.", {"Blunted Costophrenic Angle": P}),
    ("Lung volumes are low.", {"Hypoinflation": P}),
    ("Degenerative changes are seen throughout the thoracic spine.", {"Degenerative Spine": P}),
    ("The mediastinum appears widened.", {"Enlarged Cardiomediastinum": P}),
    ("Mediastinal and hilar lymph nodes are calcified.", {"Calcified lymph nodes": P}),
    ("Bones are diffusely demineralized.", {"Osteopenia": P}),
    ("Increased interstitial markings bilaterally.", {"Interstitial Markings": P, "Lung Opacity": P}),
    ("The pulmonary vasculature is congested.", {"Pulmonary Congestion": P, "Edema": P}),
    ("The cardiac silhouette is not enlarged.", {"Cardiomegaly": N}),
    ("The heart is enlarged and the lungs are clear.", {"Cardiomegaly": P, "Consolidation": N}),
    ("Heart normal, lungs hyperinflated.", {"Cardiomegaly": N, "Hyperinflation": P}),
    # denial
    ("No pneumothorax.", {"Pneumothorax": N}),
    ("No focal consolidation, effusion or pneumothorax.", {"Consolidation": N, "Pleural Effusion": N, "Pneumothorax": N}),
    ("No focal consolidation, pleural effusion, pneumothorax.", {"Consolidation": N, "Pleural Effusion": N, "Pneumothorax": N}),
    ("There is no evidence of pneumonia, edema, or large effusion.", {"Pneumonia": N, "Edema": N, "Pleural Effusion": N}),
    ("Lungs are free of consolidation and effusion.", {"Consolidation": N, "Pleural Effusion": N}),
    (
        "The lungs are grossly clear of airspace disease, effusion or pneumothorax.",
        {"Airspace Disease": N, "Pleural Effusion": N, "Pneumothorax": N},
    ),
    ("Negative for pneumothorax or effusion.", {"Pneumothorax": N, "Pleural Effusion": N}),
    ("Neither pneumothorax nor effusion is seen.", {"Pneumothorax": N, "Pleural Effusion": N}),
    ("Pneumothorax is not seen.", {"Pneumothorax": N}),
    ("Effusion, consolidation, and pneumothorax are absent.", {"Pleural Effusion": N, "Consolidation": N, "Pneumothorax": N}),
    ("Pleural effusions have resolved.", {"Pleural Effusion": N}),
    ("The previously seen pneumothorax is no longer visible.", {"Pneumothorax": N}),
    ("Interval resolution of the right pleural effusion.", {"Pleural Effusion": N}),
    ("No definite pleural effusion.", {"Pleural Effusion": N}),
    ("No new consolidation.", {"Consolidation": N}),
    ("No acute infiltrate is identified.", {"Infiltrate": N}),
    ("No findings suggestive of pneumonia.", {"Pneumonia": N}),
    ("No opacity to suggest pneumonia.", {"Lung Opacity": N, "Pneumonia": N}),
    ("Pneumonia is unlikely.", {"Pneumonia": N}),
    ("The chest tube has been removed.", {"Tube": N}),
    ("The endotracheal tube was removed, and there is no pneumothorax.", {"Tube": N, "Pneumothorax": N}),
    ("There is no pleural effusion, and the heart is enlarged.", {"Pleural Effusion": N, "Cardiomegaly": P}),
    # where a denial ends
    ("No pneumothorax, but there is a small effusion.", {"Pneumothorax": N, "Pleural Effusion": P}),
    ("No pneumothorax, small left pleural effusion.", {"Pneumothorax": N, "Pleural Effusion": P}),
    ("No pneumothorax; bibasilar atelectasis.", {"Pneumothorax": N, "Atelectasis": P}),
    ("No consolidation. Stable cardiomegaly.", {"Consolidation": N, "Cardiomegaly": P}),
    ("Stable cardiomegaly without edema.", {"Cardiomegaly": P, "Edema": N}),
    (
        "Cardiomegaly without edema or effusion, unchanged from the prior study.",
        {"Cardiomegaly": P, "Edema": N, "Pleural Effusion": N},
    ),
    ("No effusion with stable left basilar atelectasis.", {"Pleural Effusion": N, "Atelectasis": P}),
    ("Negative except for mild atelectasis.", {"Atelectasis": P}),
    ("No acute abnormality other than a small effusion.", {"Pleural Effusion": P}),
    ("No pneumothorax although a chest tube remains in place.", {"Pneumothorax": N, "Tube": P}),
    ("Without effusion, however mild edema persists.", {"Pleural Effusion": N, "Edema": P}),
    ("No pneumothorax is seen and there is persistent right effusion.", {"Pneumothorax": N, "Pleural Effusion": P}),
    ("Effusion is present, pneumothorax is not seen.", {"Pleural Effusion": P, "Pneumothorax": N}),
    ("Low lung volumes with no focal consolidation.", {"Hypoinflation": P, "Consolidation": N}),
    ("Interval removal of the left chest tube with small residual pneumothorax.", {"Tube": N, "Pneumothorax": P}),
    ("No discrete nodule or mass is seen, but there is a vague apical opacity.", {"Nodule": N, "Mass": N, "Lung Opacity": P}),
    ("The nodule previously seen in the right lung is not identified.", {"Nodule": N}),
    ("Moderate cardiomegaly is again noted, without overt pulmonary edema.", {"Cardiomegaly": P, "Pulmonary Edema": N}),
    (
        "There is little change and no evidence of acute focal pneumonia or vascular congestion.",
        {"Pneumonia": N, "Pulmonary Congestion": N},
    ),
    ("Mild fluid overload but no overt pulmonary edema.", {"Edema": P, "Pulmonary Edema": N}),
    ("No larger pleural effusions.", {"Pleural Effusion": N}),
    ("Endotracheal tube tip 4 cm above the carina; no pneumothorax.", {"Tube": P, "Pneumothorax": N}),
    ("Right jugular central venous catheter tip in the low SVC, without pneumothorax.", {"Catheter": P, "Pneumothorax": N}),
    ("Pneumothorax: none.", {"Pneumothorax": N}),
    ("Pleural effusion: No.", {"Pleural Effusion": N}),
    ("Lungs: Clear. Heart: Enlarged. Pleura: No effusion.", {"Consolidation": N, "Cardiomegaly": P, "Pleural Effusion": N}),
    ("The right costophrenic angle is not blunted.", {"Blunted Costophrenic Angle": N}),
    ("Interval clearing of the right lower lobe infiltrate.", {"Infiltrate": N}),
    ("Heart failure is not present.", {"Heart Failure": N}),
    ("Lung fields show no consolidation.", {"Consolidation": N}),
    ("Suspected pneumonia has cleared.", {"Pneumonia": N}),
    ("No effusion on the right and small effusion on the left.", {"Pleural Effusion": P}),
    ("No evidence of pneumothorax in this patient with a chest tube.", {"Pneumothorax": N, "Tube": P}),
    ("No rib fracture; the left clavicle fracture is healing.", {"Rib Fracture": N, "Fracture": P}),
    ("The heart is not enlarged and there is no effusion.", {"Cardiomegaly": N, "Pleural Effusion": N}),
    ("There is no focal opacity; there is, however, mild edema.", {"Lung Opacity": N, "Edema": P}),
    (
        "No pleural effusion or pneumothorax, and the cardiomediastinal silhouette is unchanged.",
        {"Pleural Effusion": N, "Pneumothorax": N, "Cardiomegaly": X},
    ),
    ("Emphysema without acute infiltrate.", {"Emphysema/COPD": P, "Infiltrate": N}),
    # looks like a denial and is none
    ("No change in the left effusion.", {"Pleural Effusion": P}),
    ("No significant interval change in bilateral pleural effusions.", {"Pleural Effusion": P}),
    ("The effusion has not changed.", {"Pleural Effusion": P}),
    ("Left pneumothorax has not resolved.", {"Pneumothorax": P}),
    ("The right effusion is unchanged, and no pneumothorax is seen.", {"Pleural Effusion": P, "Pneumothorax": N}),
    ("No increase in the small right pneumothorax.", {"Pneumothorax": P}),
    ("Resolving right lower lobe pneumonia.", {"Pneumonia": P}),
    ("Not without a small residual effusion.", {"Pleural Effusion": P}),
    ("Worsening edema, no longer asymmetric.", {"Edema": P}),
    ("Improved but persistent left lower lobe consolidation.", {"Consolidation": P}),
    ("The previously noted right effusion has decreased.", {"Pleural Effusion": P}),
    ("No relevant change in moderate cardiomegaly, and no effusion.", {"Cardiomegaly": P, "Pleural Effusion": N}),
    ("Lines and tubes are unchanged.", {"Support Devices": P}),
    ("Heart size cannot be assessed because of the large effusion.", {"Cardiomegaly": X, "Pleural Effusion": P}),
    ("Free air beneath the diaphragm is not seen.", {"Diaphragm Elevation": X}),
    # hedging
    ("Possible small left pleural effusion.", {"Pleural Effusion": U}),
    ("Right lower lobe opacity may represent pneumonia.", {"Lung Opacity": P, "Pneumonia": U}),
    ("Left basilar opacity, which could be atelectasis or pneumonia.", {"Lung Opacity": P, "Atelectasis": U, "Pneumonia": U}),
    ("Cannot exclude a small pneumothorax.", {"Pneumothorax": U}),
    ("A small effusion cannot be entirely excluded.", {"Pleural Effusion": U}),
    ("Superimposed infection is not excluded.", {"Pneumonia": U}),
    ("Atelectasis versus infiltrate at the left base.", {"Atelectasis": U, "Infiltrate": U}),
    ("Findings are suspicious for pneumonia.", {"Pneumonia": U}),
    ("Findings concerning for edema.", {"Edema": U}),
    ("Question of a small nodule in the left apex.", {"Nodule": U}),
    ("Pneumonia is possible.", {"Pneumonia": U}),
    ("Pneumonia should be considered.", {"Pneumonia": U}),
    ("Atelectasis, less likely pneumonia.", {"Atelectasis": P, "Pneumonia": U}),
    ("Rule out pneumothorax.", {"Pneumothorax": U}),
    ("Opacity consistent with pneumonia.", {"Lung Opacity": P, "Pneumonia": P}),
    ("Opacities likely representing atelectasis.", {"Lung Opacity": P, "Atelectasis": P}),
    ("Streaky opacity, probably scarring.", {"Lung Opacity": P, "Scarring": P}),
    ("Likely no pneumothorax.", {"Pneumothorax": N}),
    ("No pneumothorax, possible small effusion.", {"Pneumothorax": N, "Pleural Effusion": U}),
    ("Questionable nodule in the right apex, no effusion.", {"Nodule": U, "Pleural Effusion": N}),
    ("No effusion, and pneumonia cannot be excluded.", {"Pleural Effusion": N, "Pneumonia": U}),
    ("Pneumonia cannot be ruled out.", {"Pneumonia": U}),
    ("Heart size is at the upper limits of normal.", {"Cardiomegaly": U}),
    ("Borderline cardiomegaly.", {"Cardiomegaly": U}),
    ("Findings may reflect mild edema, though infection is not excluded.", {"Edema": U, "Pneumonia": U}),
    (
        "Bibasilar opacities could be due to atelectasis, aspiration, or pneumonia.",
        {"Lung Opacity": P, "Atelectasis": U, "Pneumonia": U},
    ),
    ("Tiny, if any, left pleural effusion.", {"Pleural Effusion": U}),
    ("No large effusion, though a small effusion is difficult to exclude.", {"Pleural Effusion": U}),
    ("Consolidation is not definitely excluded.", {"Consolidation": U}),
    ("If there is concern for pneumonia, CT may be helpful.", {"Pneumonia": U}),
    ("Scarring or atelectasis at the left base.", {"Scarring": U, "Atelectasis": U}),
    ("Evaluate for pneumothorax.", {"Pneumothorax": U}),
    ("Pulmonary vasculature is indistinct, suggesting mild edema.", {"Edema": P, "Pulmonary Edema": U}),
    ("Mild edema cannot be excluded, but there is no effusion.", {"Edema": U, "Pleural Effusion": N}),
    # history
    ("History of pneumonia.", {"Pneumonia": N}),
    ("History of COPD.", {"Emphysema/COPD": P}),
    ("Old healed rib fractures.", {"Rib Fracture": P, "Fracture": P}),
    ("Evidence of prior granulomatous disease.", {"Granuloma (any)": P}),
    ("Status post pacemaker placement.", {"Implanted Device": P}),
    ("Compared to the prior radiograph, the effusion has increased.", {"Pleural Effusion": P}),
    ("Compared with prior, new right lower lobe consolidation.", {"Consolidation": P}),
    # normality
    ("Heart size is normal.", {"Cardiomegaly": N}),
    ("The cardiomediastinal silhouette is within normal limits.", {"Cardiomegaly": N, "Enlarged Cardiomediastinum": N}),
    ("Heart, lungs and mediastinum are normal.", {"Cardiomegaly": N, "Consolidation": N, "Enlarged Cardiomediastinum": N}),
    ("Normal heart size and mediastinal contours.", {"Cardiomegaly": N, "Enlarged Cardiomediastinum": N}),
    ("Lungs are clear.", {"Lung Opacity": N, "Consolidation": N, "Pneumonia": N, "No Finding": P}),
    ("The costophrenic angles are sharp.", {"Blunted Costophrenic Angle": N, "Pleural Effusion": N}),
    ("Pleural spaces are clear.", {"Pleural Effusion": N}),
    ("No acute cardiopulmonary abnormality.", {"Pneumothorax": N, "No Finding": P}),
    ("Normal chest radiograph.", {"No Finding": P}),
    ("The right lung is clear.", {"Consolidation": X, "Pneumonia": X}),
    ("The lungs are not clear.", {"Consolidation": X, "Pneumonia": X}),
    ("Lungs are clear except for left basilar atelectasis.", {"Atelectasis": P, "No Finding": N}),
    ("Osseous structures are intact.", {"Fracture": N}),
    ("No acute osseous abnormality.", {"Fracture": N}),
    # what names none of ours
    ("Small pericardial effusion.", {"Pleural Effusion": X, "No Finding": N}),
    ("Subcutaneous emphysema in the left chest wall.", {"Emphysema/COPD": X, "No Finding": N}),
    ("No mass effect on the trachea.", {"Mass": X}),
    ("Massive pneumothorax.", {"Pneumothorax": P, "Mass": X}),
    # No Finding
    ("Calcified granuloma. No acute disease.", {"No Finding": N}),
    ("Possible pneumonia. Heart size is normal.", {"No Finding": U, "Pneumonia": U, "Cardiomegaly": N}),
    ("Heart size is normal. Lungs are clear. No effusion.", {"No Finding": P}),
    # spelling, case and layout
    ("NO PNEUMOTHORAX. SMALL EFFUSION.", {"Pneumothorax": N, "Pleural Effusion": P}),
    ("No focal air-space\n  disease or pleural\n  effusion.", {"Airspace Disease": N, "Pleural Effusion": N}),
    ("Pneumothoraces are seen bilaterally.", {"Pneumothorax": P}),
    ("1. Cardiomegaly. 2. No effusion.", {"Cardiomegaly": P, "Pleural Effusion": N}),
    # general rules found on development reports
    ("No consolidations are seen; the heart, however, is enlarged.", {"Consolidation": N, "Cardiomegaly": P}),
    ("? pneumonia", {"Pneumonia": U}),
    ("Elevated hemidiaphragm, possibly secondary to small effusion.", {"Diaphragm Elevation": P, "Pleural Effusion": U}),
    ("The heart is not enlarged due to effusion.", {"Cardiomegaly": N, "Pleural Effusion": P}),
    ("No residual pneumothorax after placement of a chest tube.", {"Pneumothorax": N, "Tube": P}),
    ("It is difficult to exclude small effusions.", {"Pleural Effusion": U}),
    ("Opacity which is most likely atelectasis but could be pneumonia.", {"Atelectasis": P, "Pneumonia": U}),
    ("Edema has cleared, and there is no pneumothorax.", {"Edema": N, "Pneumothorax": N}),
    ("No CT evidence of pneumonia.", {"Pneumonia": N}),
    ("Effusion not excluded on this supine film.", {"Pleural Effusion": U}),
    ("Not only effusion but also consolidation is present.", {"Pleural Effusion": P, "Consolidation": P}),
    ("Right lower lobe pneumonia is suspected; no effusion.", {"Pneumonia": U, "Pleural Effusion": N}),
    ("There is no change in the right effusion.", {"Pleural Effusion": P}),
    ("There is no definite evidence of pneumothorax.", {"Pneumothorax": N}),
    ("Opacities most consistent with atelectasis rather than pneumonia.", {"Atelectasis": P, "Pneumonia": N}),
    ("Pneumonia, however, is felt to be unlikely.", {"Pneumonia": N}),
    ("It is unlikely that this represents pneumonia.", {"Pneumonia": N}),
    ("Near complete resolution of the right pleural effusion.", {"Pleural Effusion": U}),
    ("Findings may be consistent with pneumonia.", {"Pneumonia": U}),
    ("Differential diagnosis includes mild edema, infection, hemorrhage.", {"Edema": U, "Pneumonia": U}),
    ("Correlate clinically for pneumonia.", {"Pneumonia": U}),
    ("Without significant interval change of the left atelectasis.", {"Atelectasis": P}),
    ("No nodules or masses.", {"Nodule": N, "Mass": N, "Lung Lesion": N}),
    ("No infiltrate. Streaky opacity at the left base.", {"Infiltrate": N, "Lung Opacity": P}),
    ("No infiltrate.", {"Infiltrate": N, "Lung Opacity": N}),
    ("No rib fracture.", {"Rib Fracture": N, "Fracture": N}),
    ("No overt pulmonary edema.", {"Pulmonary Edema": N, "Edema": N}),
    ("Prosthetic aortic valve.", {"Implanted Device": P}),
    ("Bronchiectasis related to cystic fibrosis.", {"Pulmonary Fibrosis": X, "No Finding": N}),
    ("Lung volumes are normal.", {"Hypoinflation": N, "Hyperinflation": N}),
    ("Large calcified granuloma near the right hilum.", {"Calcified Granuloma": P, "Hilar Enlargement": X}),
    ("Fullness of the left hilum.", {"Hilar Enlargement": P}),
    ("Mild loss of height of the T8 vertebral body.", {"Vertebral Compression/Deformity": P, "Fracture": X}),
    ("Surgical clips in the right axilla.", {"Surgical Clips/Wires": P}),
    ("Coronary artery stent.", {"Stent": P}),
    ("Hardware from anterior cervical fusion.", {"Spinal Fusion": P}),
    ("Eventration of the right hemidiaphragm.", {"Diaphragm Eventration": P}),
    ("Exaggerated thoracic kyphosis with osteopenia.", {"Kyphosis": P, "Osteopenia": P}),
    ("Biapical pleural thickening.", {"Pleural Thickening": P, "Pleural Other": P}),
    ("INDICATION: Rule out pneumonia.\nFINDINGS: Lungs are clear.", {"Pneumonia": N}),
    ("HISTORY: Known effusion.\n\nIMPRESSION: No pneumothorax.", {"Pleural Effusion": X, "Pneumothorax": N}),
    ("FINDINGS: Possible left nodule.\nIMPRESSION: Left upper lobe nodule.", {"Nodule": P}),
    ("FINDINGS: Small left effusion.\nIMPRESSION: No effusion.", {"Pleural Effusion": N}),
    ("FINDINGS: Stable cardiomegaly.\nIMPRESSION: No acute cardiopulmonary abnormality.", {"Cardiomegaly": P, "No Finding": N}),
]

SENTENCES: dict[str, dict[str, dict[str, str]]] = yaml.safe_load(
    Path(__file__).with_name("sentences.yaml").read_text(encoding="utf-8")
)
"""Group -> sentence -> finding -> state."""
MISSED = {
    ("No acute fracture, although old rib deformities are noted.", "Acute Fracture"),
    ("Without pneumothorax, the chest tube could be removed.", "Chest Tube"),
    ("Pulmonary vascularity is not increased.", "Pulmonary Congestion"),
    ("Consider aspiration pneumonia.", "Aspiration Pneumonia"),
    ("The previously noted pneumothorax has re-expanded.", "Pneumothorax"),
    ("The heart is mildly prominent.", "Cardiomegaly"),
    ("Pneumonia cannot be diagnosed on this study.", "Pneumonia"),
    ("Effusions have decreased on the right and resolved on the left.", "Pleural Effusion"),
    ("The right effusion is gone but the left one persists.", "Pleural Effusion"),
    ("INDICATION: 55-year-old with pneumothorax. IMPRESSION: No acute disease.", "Pneumothorax"),
    ("Evaluate for pneumonia.", "Pneumonia"),
    ("Pleural effusion has nearly completely resolved.", "Pleural Effusion"),
}
"""Sentences of the file, and findings in them, that the labeler is known to read otherwise than a radiologist."""

GOLD = Path(__file__).parents[3] / "shared" / "data" / "openi-gold"
PHRASES = "no|effusion|pneumothorax|,|.|;|and|or|but|possible|heart|is|enlarged|normal|lungs|clear|\n|IMPRESSION:|not seen|İ|é-"
WORDS = st.sampled_from([*PHRASES.split("|"), "\u00a0"])
SHARED = Context()
TEXTS = st.one_of(st.text(max_size=200), st.lists(WORDS, max_size=40).map(" ".join))


@pytest.fixture(scope="module")
def labeler() -> Context:
    return Context()


def states(labeler: Context | Keywords, text: str) -> dict[str, str]:
    table = labeler.label([Report("1", text)])
    return {name: STATES[table.state[0, k]] for k, name in enumerate(labeler.vocabulary.names)}


@pytest.mark.parametrize(("text", "expected"), CASES, ids=[text[:60] for text, _ in CASES])
def test_sentence(labeler: Context, text: str, expected: dict[str, str]) -> None:
    got = states(labeler, text)
    assert {name: got[name] for name in expected} == expected


def test_sentences_read_by_hand(labeler: Context) -> None:
    asked = [(group, text, answers) for group, texts in SENTENCES.items() for text, answers in texts.items()]
    table = labeler.label([Report(str(row), text) for row, (_, text, _) in enumerate(asked)])
    rows = [
        (group, text, finding, wanted, STATES[table.state[row, labeler.vocabulary.index(finding)]])
        for row, (group, text, answers) in enumerate(asked)
        for finding, wanted in answers.items()
    ]
    assert {(text, finding) for _, text, finding, wanted, got in rows if wanted != got} == MISSED
    pairs = [(wanted, got) for *_, wanted, got in rows]
    assert sum(wanted == got for wanted, got in pairs) / len(pairs) >= 0.93
    for state, least in ((P, 0.92), (N, 0.97), (U, 0.85)):
        said = sum((wanted == state) + (got == state) for wanted, got in pairs)
        assert 2 * sum(wanted == got == state for wanted, got in pairs) / said >= least
    tricky = [wanted == got for group, _, _, wanted, got in rows if group == "tricky scopes"]
    assert len(tricky) >= 40
    assert sum(tricky) / len(tricky) >= 0.90


def test_enough_cases() -> None:
    assert sum(len(expected) for _, expected in CASES) >= 150


def test_empty_text_is_unmentioned(labeler: Context) -> None:
    table = labeler.label([Report("1", ""), Report("2", " \n ")])
    assert (table.state == UNMENTIONED).all()
    assert labeler.label([]).state.shape == (0, len(labeler.vocabulary))


def test_evidence_quotes_the_mention(labeler: Context) -> None:
    text = "COMPARISON: None.\nFINDINGS: No  pleural\n effusion. The heart is mildly enlarged."
    table = labeler.label([Report("1", text)])
    places = {}
    for name in ("Pleural Effusion", "Cardiomegaly"):
        (place,) = table.evidence.at(labeler.vocabulary.index(name))
        places[name] = (text[int(place["start"]) : int(place["end"])], place["state"], place["cue"])
    assert places == {
        "Pleural Effusion": ("pleural\n effusion", "negative", "no"),
        "Cardiomegaly": ("heart is mildly enlarged", "positive", "affirmed"),
    }


def records(table: LabelTable) -> dict[str, tuple[object, ...]]:
    """Everything that a table says of each report, to the byte."""
    e = table.evidence
    assert e.attributes is not None
    assert e.probability is not None
    row, column = np.divmod(e.cell, len(table.vocabulary))
    numbers = (column, e.start, e.end, e.state, *e.attributes.T)
    places = list(zip(row, *(n.tolist() for n in numbers), [e.cues[c] for c in e.cue], map(bytes, e.probability), strict=True))
    columns = zip(table.state, table.probability, table.uncertainty, strict=True)
    said = [tuple(values.tobytes() for values in one) for one in columns]
    return {name: (said[r], [place[1:] for place in places if place[0] == r]) for r, name in enumerate(table.report_ids)}


@settings(max_examples=60, deadline=None)
@given(st.data(), st.lists(TEXTS, min_size=1, max_size=8), st.integers(1, 8))
def test_any_batch_size_and_order_gives_the_same_bytes(data: st.DataObject, texts: list[str], size: int) -> None:
    reports = [Report(str(i), text) for i, text in enumerate(texts)]
    whole = SHARED.label(reports)
    ends = whole.evidence.end
    assert (whole.evidence.start < ends).all()
    assert (ends <= np.array([len(text) for text in texts])[whole.evidence.cell // len(whole.vocabulary)]).all()
    other = data.draw(st.permutations(reports))
    parts = [records(SHARED.label(other[first : first + size])) for first in range(0, len(other), size)]
    assert {name: said for part in parts for name, said in part.items()} == records(whole)


def test_any_number_of_jobs_gives_the_same_bytes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("labelers.run.BATCH", 64)
    reports = [Report(str(i), text) for i, (text, _) in enumerate(CASES)]
    with open_table(tmp_path / "t.parquet", SHARED, blank=SHARED.label([Report("", "")])) as writer:
        one, three = (
            [batch.rows for batch in label_in_batches(reports, create("context"), "context", {}, writer.encode, jobs)]
            for jobs in (1, 3)
        )
    assert len(one) > 2
    assert one == three


def test_memory_does_not_change_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [text for text, _ in CASES]
    reports = [Report(str(i), text) for i, text in enumerate(texts)]
    whole = records(SHARED.label(reports))
    monkeypatch.setattr("labelers.builtin.context.MEMORY", 5)
    small = Context()
    for report in reports:
        assert records(small.label([report])) == {report.report_id: whole[report.report_id]}


def test_keywords_reads_every_mention_as_positive() -> None:
    got = states(Keywords(), "No effusion. Heart size is normal. No pericardial effusion.")
    assert (got["Pleural Effusion"], got["Cardiomegaly"], got["No Finding"]) == (P, X, N)
    assert states(Keywords(), "Heart size is normal.")["No Finding"] == P


def development_reports() -> tuple[list[Report], list[dict[str, str]], list[dict[str, str]]]:
    """Read the Open-I reports that stand in the development gold, and no others."""
    if not GOLD.exists():
        pytest.skip("the development gold ../shared/data/openi-gold is absent")
    package = importlib.util.find_spec("torchxrayvision")
    if package is None or package.origin is None:
        pytest.skip("torchxrayvision, which ships the Open-I reports, is not installed")
    coarse, fine = (list(csv.DictReader((GOLD / f"gold_{name}.csv").open())) for name in ("chexpert14", "fine37"))
    rows = {row["report_id"] for row in coarse}
    texts = {}
    with tarfile.open(Path(package.origin).parent / "data" / "NLMCXR_reports.tgz") as archive:
        for member in archive:
            key = f"CXR{Path(member.name).stem}"
            stream = archive.extractfile(member) if key in rows else None
            if stream is not None:
                root = ElementTree.parse(stream).getroot()
                sections = {node.get("Label"): node.text or "" for node in root.iter("AbstractText")}
                texts[key] = f"FINDINGS: {sections.get('FINDINGS', '')}\nIMPRESSION: {sections.get('IMPRESSION', '')}"
    return [Report(row["report_id"], texts[row["report_id"]]) for row in coarse], coarse, fine


def f1_scores(table: LabelTable, gold: list[dict[str, str]]) -> tuple[dict[str, float], float]:
    """Return F1 per finding, and over all cells but those of No Finding."""
    scores = {}
    total = np.zeros(3)
    for name in list(gold[0])[1:]:
        judged = np.array([row[name] != "" for row in gold])
        truth = np.array([row[name] == "1" for row in gold])[judged]
        said = (table.state[:, table.vocabulary.index(name)] == POSITIVE)[judged]
        counts = np.array([(said & truth).sum(), (said & ~truth).sum(), (~said & truth).sum()])
        scores[name] = 2 * counts[0] / (2 * counts[0] + counts[1] + counts[2])
        total += counts if name != "No Finding" else 0
    return scores, float(2 * total[0] / (2 * total[0] + total[1] + total[2]))


def test_scores_on_the_development_reports_of_open_i(labeler: Context) -> None:
    reports, coarse, fine = development_reports()
    table = labeler.label(reports)
    scores, micro = f1_scores(table, coarse)
    no_finding = scores.pop("No Finding")
    assert min(float(np.mean(list(scores.values()))) - 0.85, micro - 0.90, no_finding - 0.95) >= 0
    scores, micro = f1_scores(table, fine)
    assert min(float(np.mean(list(scores.values()))) - 0.89, micro - 0.92) >= 0


@pytest.mark.parametrize("labeler", ["context", "keywords"])
def test_a_report_of_history_alone_says_nothing_of_the_picture(labeler: str) -> None:
    table = label(["INDICATION: Cough and fever.", "INDICATION: Cough. FINDINGS: Clear lungs."], labeler=labeler)
    column = table.vocabulary.index("No Finding")
    assert [STATES[s] for s in table.state[:, column]] == ["unmentioned", "positive"]
