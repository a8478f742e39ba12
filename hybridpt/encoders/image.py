"""Image encoders: pixels in [0, 1] to pooled features, tokens, and the grid on which the tokens lie."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple, cast

import timm
import torch
from torch import Tensor, nn

from labelers.errors import unknown_name

__all__ = ["ImageEncoder", "ImageFeatures", "TimmEncoder"]


class ImageFeatures(NamedTuple):
    """What an image encoder returns.

    Attributes:
        pooled: One vector an image, (B, D).
        tokens: One vector a place, row by row, (B, N, D).
        grid: Rows and columns of places; rows x columns = N.
    """

    pooled: Tensor
    tokens: Tensor
    grid: tuple[int, int]


class ImageEncoder(nn.Module, ABC):
    """Base class of image encoders; ``width`` is D of ``ImageFeatures``."""

    width: int

    @abstractmethod
    def forward(self, image: Tensor) -> ImageFeatures:
        """Encode (B, 1, H, W) float32 in [0, 1]."""


class TimmEncoder(ImageEncoder):
    """Any image model of timm, by its name, for one-channel images.

    Args:
        name: Name in ``timm.list_models()``, such as ``resnet50`` or ``vit_base_patch16_224``.
        pretrained: Load timm's weights for that name; the first layer's colour weights are summed for grey images.
        image_size: Side in pixels for encoders with position embeddings of a fixed size; None for the model's own.
        drop_rate: Dropout before the pooled features' use, in [0, 1).

    Raises:
        UsageError: timm has no model of that name.
    """

    def __init__(
        self, name: str = "resnet50", pretrained: bool = False, image_size: int | None = None, drop_rate: float = 0.0
    ) -> None:
        super().__init__()
        if not timm.is_model(name):
            raise unknown_name("timm model", name, timm.list_models())
        sized: dict[str, Any] = {} if image_size is None else {"img_size": image_size}
        created = timm.create_model(name, pretrained=pretrained, in_chans=1, num_classes=0, drop_rate=drop_rate, **sized)
        self.model = cast(Any, created.to(memory_format=torch.channels_last))  # a quarter faster for convolutions
        self.width = int(self.model.num_features)
        config = self.model.pretrained_cfg
        self.register_buffer("mean", torch.tensor(float(sum(config["mean"]) / len(config["mean"]))), persistent=False)
        self.register_buffer("std", torch.tensor(float(sum(config["std"]) / len(config["std"]))), persistent=False)

    def forward(self, image: Tensor) -> ImageFeatures:
        """Encode (B, 1, H, W) float32 in [0, 1]."""
        mean, std = cast(Tensor, self.mean), cast(Tensor, self.std)
        pixels = ((image - mean) / std).contiguous(memory_format=torch.channels_last)
        features = self.model.forward_features(pixels)
        pooled = self.model.forward_head(features, pre_logits=True)
        if features.ndim == 4:
            tokens, grid = features.flatten(2).transpose(1, 2), (features.shape[2], features.shape[3])
        else:
            tokens = features[:, self.model.num_prefix_tokens :]
            grid = cast(tuple[int, int], tuple(self.model.patch_embed.grid_size))
        return ImageFeatures(pooled, tokens, grid)
