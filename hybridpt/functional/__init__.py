"""Pure losses: tensors in, tensor out; one file a method."""

from hybridpt.functional.bce import bce_loss
from hybridpt.functional.channel import channel_loss
from hybridpt.functional.clip import clip_loss
from hybridpt.functional.reduction import masked_mean
from hybridpt.functional.soft import soft_loss

__all__ = ["bce_loss", "channel_loss", "clip_loss", "masked_mean", "soft_loss"]
