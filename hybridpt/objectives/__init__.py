"""Objectives: each hands named losses to the module; one file each."""

from hybridpt.objectives.base import Encoders, Objective, Step
from hybridpt.objectives.clip import Clip
from hybridpt.objectives.supervised import Supervised

__all__ = ["Clip", "Encoders", "Objective", "Step", "Supervised"]
