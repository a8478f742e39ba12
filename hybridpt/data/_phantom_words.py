"""The words of the phantom's two hospitals: how each finding is stated, hedged, denied and summed up. Written for this project.

Fields: ``{a}`` the noun phrase with its article ("a small left pleural effusion"), ``{np}`` without, ``{is_}`` is or are,
``{side}``, ``{size}`` (small, moderate, large), ``{grade}`` (mild, moderate, severe) and ``{gradely}`` its adverb, ``{mm}``,
``{zone}``, ``{ratio}`` the cardiothoracic ratio.
"""

from __future__ import annotations

__all__ = ["BONES", "COMPARISONS", "DENIALS", "INDICATIONS", "LUNGS", "NORMAL", "NOUNS", "STATEMENTS", "SUMMARIES", "TERMS"]

Sentences = tuple[str, ...]

NOUNS: dict[str, dict[str, Sentences]] = {
    "north": {
        "Cardiomegaly": ("{grade} cardiomegaly", "{grade} enlargement of the cardiac silhouette"),
        "Pleural Effusion": ("{size} {side} pleural effusion{s}",),
        "Pneumothorax": ("{size} {side} pneumothorax", "{size} {side} apical pneumothorax"),
        "Nodule": ("{mm} mm nodule in the {side} {zone} lung", "{mm} mm {side} {zone} lung nodule"),
    },
    "south": {
        "Cardiomegaly": ("{grade} cardiac enlargement", "{grade} cardiomegaly"),
        "Pleural Effusion": ("{size} {side} effusion{s}", "{size} amount of {side} pleural fluid"),
        "Pneumothorax": ("{side} {size} pneumothorax", "{side} pneumothorax, {size}"),
        "Nodule": ("{mm} mm nodular opacity in the {side} {zone} zone", "{side} {zone} zone nodule of {mm} mm"),
    },
}

STATEMENTS: dict[str, dict[str, dict[str, Sentences]]] = {
    "north": {
        "Cardiomegaly": {
            "positive": (
                "There is {grade} cardiomegaly.",
                "The cardiac silhouette is {gradely} enlarged.",
                "The heart is {gradely} enlarged.",
                "{grade} enlargement of the cardiac silhouette.",
                "{grade} cardiomegaly is present.",
                "The heart size is {gradely} increased.",
            ),
            "uncertain": (
                "Possible {grade} cardiomegaly.",
                "Borderline cardiomegaly.",
                "The cardiac silhouette may be {gradely} enlarged.",
                "{grade} cardiomegaly cannot be excluded.",
                "Questionable enlargement of the cardiac silhouette.",
            ),
            "negative": (
                "Heart size is normal.",
                "The heart is normal in size.",
                "The cardiac silhouette is within normal limits.",
                "No cardiomegaly.",
                "The heart is not enlarged.",
                "The cardiomediastinal silhouette is normal in size.",
            ),
        },
        "Pleural Effusion": {
            "positive": (
                "There {is_} {a}.",
                "{np} {is_} present.",
                "{np} {is_} seen.",
                "Blunting of the {side} costophrenic angle, consistent with {a}.",
                "Layering density at the {side} base reflects {a}.",
                "{np}.",
            ),
            "uncertain": (
                "Possible {np}.",
                "{np} cannot be excluded.",
                "Blunting of the {side} costophrenic angle may represent {a}.",
                "There may be {a}.",
                "Findings are suspicious for {a}.",
            ),
            "negative": (
                "No pleural effusion.",
                "There is no pleural effusion.",
                "No evidence of pleural effusion.",
                "The costophrenic angles are sharp, without effusion.",
                "Pleural effusion is absent.",
                "The pleural spaces are clear of effusion.",
            ),
        },
        "Pneumothorax": {
            "positive": (
                "There is {a}.",
                "{np} is present.",
                "A thin pleural line is seen at the {side} apex, consistent with {a}.",
                "{np} is identified.",
                "{np}.",
                "Absent lung markings beyond a pleural line, in keeping with {a}.",
            ),
            "uncertain": (
                "Possible {np}.",
                "Cannot exclude {a}.",
                "There may be {a}.",
                "A lucency at the {side} apex could represent {a}.",
                "Questionable {np}.",
            ),
            "negative": (
                "No pneumothorax.",
                "There is no pneumothorax.",
                "No evidence of pneumothorax.",
                "No pneumothorax is seen.",
                "Negative for pneumothorax.",
            ),
        },
        "Nodule": {
            "positive": (
                "There is {a}.",
                "{np} is seen.",
                "{np} is noted.",
                "A round opacity in the {side} {zone} lung measures {mm} mm, consistent with a nodule.",
                "{np}.",
                "A pulmonary nodule projects over the {side} {zone} lung and measures {mm} mm.",
            ),
            "uncertain": (
                "Possible {np}.",
                "A faint opacity in the {side} {zone} lung may represent a nodule of {mm} mm.",
                "Questionable {np}.",
                "{np} cannot be excluded.",
                "There may be {a}; recommend computed tomography.",
            ),
            "negative": (
                "No pulmonary nodule.",
                "No suspicious nodule.",
                "There is no lung nodule.",
                "No nodule is seen.",
                "No evidence of a pulmonary nodule.",
            ),
        },
    },
    "south": {
        "Cardiomegaly": {
            "positive": (
                "Heart {gradely} enlarged.",
                "Heart enlarged, CTR {ratio}.",
                "Increased cardiothoracic ratio ({ratio}).",
                "{grade} cardiac enlargement.",
                "Cardiomegaly, {grade}.",
                "Enlarged cardiac shadow.",
            ),
            "uncertain": (
                "Heart possibly enlarged.",
                "Heart borderline enlarged.",
                "Suspicion of {grade} cardiomegaly.",
                "Cardiac enlargement not excluded.",
                "Probable {grade} cardiac enlargement.",
            ),
            "negative": (
                "Heart not enlarged.",
                "Heart normal in size.",
                "Normal heart size.",
                "CTR within normal limits.",
                "Cardiac shadow of normal size.",
            ),
        },
        "Pleural Effusion": {
            "positive": (
                "{np}.",
                "Pleural fluid {where}, {size}.",
                "{size} effusion {where}.",
                "Effusion {where} with blunted costophrenic angle.",
                "Pleural effusion {where}.",
                "Meniscus {where} in keeping with {np}.",
            ),
            "uncertain": (
                "Possibly {np}.",
                "Suspicion of {np}.",
                "{np} not excluded.",
                "Costophrenic angle blunted {where}, ?effusion.",
                "Effusion {where} suspected.",
            ),
            "negative": (
                "No effusion.",
                "Costophrenic angles free, no effusion.",
                "No pleural fluid.",
                "Pleural spaces without effusion.",
                "No sign of effusion.",
            ),
        },
        "Pneumothorax": {
            "positive": (
                "{np}.",
                "Pneumothorax {where}, {size}.",
                "Visceral pleural line {where}: pneumothorax.",
                "{size} apical pneumothorax {where}.",
                "Pneumothorax {where}.",
                "Air in the pleural space {where}, {size} pneumothorax.",
            ),
            "uncertain": (
                "Possibly {np}.",
                "Suspicion of {np}.",
                "Pneumothorax {where} not excluded.",
                "Pneumothorax {where} suspected.",
                "Apical lucency {where}, ?pneumothorax.",
            ),
            "negative": (
                "No pneumothorax.",
                "No sign of pneumothorax.",
                "Lungs fully expanded, no pneumothorax.",
                "Pneumothorax excluded.",
                "Without pneumothorax.",
            ),
        },
        "Nodule": {
            "positive": (
                "{np}.",
                "Nodule {mm} mm, {side} {zone} zone.",
                "Nodular opacity {side} {zone} zone, {mm} mm.",
                "Rounded density of {mm} mm in the {side} {zone} zone, nodule.",
                "Pulmonary nodule {where}, {zone} zone.",
                "Coin lesion {side} {zone} zone, {mm} mm.",
            ),
            "uncertain": (
                "Possibly {np}.",
                "Suspicion of {np}.",
                "Nodule {side} {zone} zone not excluded.",
                "?nodule {side} {zone} zone, {mm} mm.",
                "Small density {side} {zone} zone, nodule suspected.",
            ),
            "negative": (
                "No nodule.",
                "No nodules seen.",
                "No nodular opacity.",
                "No focal nodule.",
                "No sign of nodules.",
            ),
        },
    },
}

TERMS: dict[str, dict[str, str]] = {
    "north": {"Pleural Effusion": "pleural effusion", "Pneumothorax": "pneumothorax", "Nodule": "pulmonary nodule"},
    "south": {"Pleural Effusion": "effusion", "Pneumothorax": "pneumothorax", "Nodule": "nodule"},
}
"""What a list of negatives calls a finding; the heart is never in one."""

DENIALS: dict[str, Sentences] = {
    "north": ("No {}.", "There is no {}.", "No evidence of {}."),
    "south": ("No {}.", "No sign of {}.", "Without {}."),
}
SUMMARIES: dict[str, dict[str, Sentences]] = {
    "north": {"positive": ("{np}.", "{np}, as above."), "uncertain": ("Possible {np}.", "Suspected {np}.")},
    "south": {"positive": ("{np}.", "Picture of {np}."), "uncertain": ("Possibly {np}.", "Suspicion of {np}.")},
}
NORMAL: dict[str, Sentences] = {
    "north": ("No acute cardiopulmonary abnormality.", "No acute cardiopulmonary process.", "No acute disease.", "Normal chest."),
    "south": ("Unremarkable.", "No acute finding.", "Normal findings for age.", "No acute change."),
}
LUNGS: dict[str, Sentences] = {
    "north": ("No focal consolidation.", "The lungs are well expanded.", "There is no focal airspace disease."),
    "south": ("No consolidation.", "Lungs well aerated.", "Vascular markings normal.", "Mediastinum slim."),
}
BONES: dict[str, Sentences] = {
    "north": ("No acute osseous abnormality.", "Degenerative changes of the thoracic spine.", "The visualized bones are intact."),
    "south": ("Bones unremarkable.", "Spondylosis.", "No rib lesion."),
}
INDICATIONS: dict[str, Sentences] = {
    "north": (
        "Shortness of breath.",
        "Chest pain, evaluate for pneumothorax.",
        "Follow-up of pleural effusion.",
        "History of cardiomegaly.",
        "Lung nodule on outside imaging.",
        "Cough and fever.",
        "Preoperative evaluation.",
    ),
    "south": (
        "dyspnea.",
        "follow-up of effusion.",
        "pneumothorax? trauma.",
        "known cardiac enlargement.",
        "nodule? weight loss.",
        "before surgery.",
        "fever.",
    ),
}
COMPARISONS: dict[str, Sentences] = {
    "north": ("None.", "Chest radiograph of two years earlier.", "Prior study with a small pleural effusion.", "None available."),
    "south": ("none.", "earlier films not available.", "radiograph of last year, then with pneumothorax."),
}
