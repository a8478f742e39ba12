"""Objectives: each hands named losses to the module; one file each."""

from hybridpt.objectives.base import Encoders, Objective, Step
from hybridpt.objectives.clip import Clip
from hybridpt.objectives.contrast import TextContrast
from hybridpt.objectives.report_states import ReportStates
from hybridpt.objectives.shared_projection import SharedProjection
from hybridpt.objectives.siglip import SigLip
from hybridpt.objectives.soft_clip import SoftClip
from hybridpt.objectives.supervised import Supervised
from hybridpt.objectives.unicl import UniCL

__all__ = [
    "Clip",
    "Encoders",
    "Objective",
    "ReportStates",
    "SharedProjection",
    "SigLip",
    "SoftClip",
    "Step",
    "Supervised",
    "TextContrast",
    "UniCL",
]
