"""Pure losses: tensors in, tensor out; one file a method."""

from hybridpt.functional.bce import bce_loss
from hybridpt.functional.channel import channel_loss, joint_channel_loss
from hybridpt.functional.clip import clip_loss
from hybridpt.functional.elr import elr_term
from hybridpt.functional.gce import gce_loss
from hybridpt.functional.posterior import label_posterior
from hybridpt.functional.reduction import masked_mean
from hybridpt.functional.siglip import siglip_loss
from hybridpt.functional.soft import soft_loss
from hybridpt.functional.soft_clip import soft_clip_loss
from hybridpt.functional.states import presence_logit, state_logits, state_loss
from hybridpt.functional.unicl import unicl_loss

__all__ = [
    "bce_loss",
    "channel_loss",
    "clip_loss",
    "elr_term",
    "gce_loss",
    "joint_channel_loss",
    "label_posterior",
    "masked_mean",
    "presence_logit",
    "siglip_loss",
    "soft_clip_loss",
    "soft_loss",
    "state_logits",
    "state_loss",
    "unicl_loss",
]
