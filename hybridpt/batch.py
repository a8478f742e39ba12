"""The one typed dict that is passed around, and the views of an image that an objective can ask for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

from torch import Tensor

__all__ = ["Batch", "View"]


@dataclass(frozen=True)
class View:
    """A set of random crops of each image that an objective asks the data for, beside the standard image.

    Attributes:
        name: Key in ``Batch["views"]``; objectives that share a name must mean the same crops.
        count: Crops an image.
        size: Side of a crop in pixels.
        scale: Least and largest share of the image's area that a crop covers, each in (0, 1].
    """

    name: str
    count: int
    size: int
    scale: tuple[float, float]


class Batch(TypedDict):
    """B images with what is known of them; K findings, S labelers, T tokens.

    Attributes:
        image: Standard view, (B, 1, H, W) float32 in [0, 1]; H and W are 0 where the data are reports alone.
        views: Further crops by the name of their ``View``, each (B, V, 1, h, w) float32 in [0, 1].
        tokens: Token ids of the report text, (B, T) int64; T may be 0.
        token_mask: True where a token stands, (B, T) bool.
        has_text: True where the image has a report, (B,) bool.
        state: Codes of ``labelers.STATES``, (B, S, K) int64.
        probability: P(present) by each labeler, (B, S, K) float32.
        looked: True where the labeler judged the study, (B, S, K) bool.
        truth: Gold, 1 present, 0 absent, nan not judged, (B, K) float32; all nan unless the run was given gold.
        dataset: Index of the data set among the model's, the number of those for one it does not know, (B,) int64.
        study: Number of the study; images of one study share it, (B,) int64.
        words: Number of the distinct report text; images whose reports say the same share it, (B,) int64.
        said: Numbers of all texts that the report may be drawn as, (B, U) int64, -1 beyond the last; ``words`` is one of them.
        row: Row of the image in the manifest, (B,) int64.
    """

    image: Tensor
    views: dict[str, Tensor]
    tokens: Tensor
    token_mask: Tensor
    has_text: Tensor
    state: Tensor
    probability: Tensor
    looked: Tensor
    truth: Tensor
    dataset: Tensor
    study: Tensor
    words: Tensor
    said: Tensor
    row: Tensor
