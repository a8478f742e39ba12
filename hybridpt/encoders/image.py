"""Image encoders: pixels in [0, 1] to pooled features, tokens, and the grid on which the tokens lie."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import timm
import torch
from timm.models import group_parameters
from torch import Tensor, nn

from labelers.errors import UsageError, unknown_name

__all__ = ["ImageEncoder", "ImageFeatures", "TimmEncoder"]

SNIPPET = """import timm  # recent releases of transformers read it too: AutoModel.from_pretrained("{{folder}}")

model = timm.create_model("{name}", in_chans=1, num_classes=0, {sized}pretrained=True,
                          pretrained_cfg_overlay={{"file": "{{folder}}/model.safetensors", "custom_load": False}}).eval()
pooled = model((image - {mean:.6g}) / {std:.6g})  # image: (B, 1, {size}, {size}), grey levels in [0, 1]
"""


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
    kept: Mapping[str, Any] = {}
    """What a checkpoint keeps of the files that the encoder was made from, so that it can be made without them (``encoders.kept``)."""

    @abstractmethod
    def forward(self, image: Tensor) -> ImageFeatures:
        """Encode (B, 1, H, W) float32 in [0, 1]."""

    def layers(self) -> list[list[nn.Parameter]]:
        """Return the parameters layer by layer from the input on, each once; one layer where a class does not say."""
        return [list(self.parameters())]

    def save(self, folder: Path, image_size: int) -> str:
        """Write the encoder in a form that others load without this package.

        Args:
            folder: An empty folder.
            image_size: Side of the images that it was trained on, in pixels.

        Returns:
            Python that loads it and encodes an image, with ``{folder}`` for the folder's name.

        Raises:
            UsageError: This kind of encoder has no such form.
        """
        raise self._not_exported()

    def load(self, folder: Path) -> Callable[[Tensor], Tensor]:
        """Return what ``save`` wrote, loaded as others do, as a function from images (B, 1, H, W) in [0, 1] to pooled features."""
        raise self._not_exported()

    def _not_exported(self) -> UsageError:
        return UsageError(
            f"an encoder of the class {type(self).__name__} cannot be exported; give the class the methods save and load"
        )


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
        self.name = name
        self._sized = image_size
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

    def layers(self) -> list[list[nn.Parameter]]:
        """Return the parameters by timm's own count of layers."""
        groups = group_parameters(self.model, self.model.group_matcher(coarse=False))
        named = dict(self.model.named_parameters())
        return [[named[name] for name in names] for _, names in sorted(groups.items())]

    def save(self, folder: Path, image_size: int) -> str:
        """Write weights and configuration as timm's hub does, which transformers reads too; see ``ImageEncoder.save``."""
        from safetensors.torch import save_file

        weights = {name: value.contiguous() for name, value in self.model.state_dict().items()}
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        known = self.model.pretrained_cfg
        mean, std = float(cast(Tensor, self.mean)), float(cast(Tensor, self.std))
        sized = {} if self._sized is None else {"img_size": self._sized}
        body = {
            "architecture": self.name,
            "num_classes": 0,
            "num_features": self.width,
            "model_args": {"in_chans": 1, **sized},
            "pretrained_cfg": {
                **{name: known[name] for name in ("first_conv", "classifier", "pool_size") if known.get(name) is not None},
                "num_classes": 0,
                "input_size": [1, image_size, image_size],
                "mean": [mean],
                "std": [std],
                "interpolation": "bilinear",
                "crop_pct": 1.0,
            },
        }
        (folder / "config.json").write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")
        given = "" if self._sized is None else f"img_size={self._sized}, "
        return SNIPPET.format(name=self.name, sized=given, mean=mean, std=std, size=image_size, folder="{folder}")

    def load(self, folder: Path) -> Callable[[Tensor], Tensor]:
        """Load what ``save`` wrote through timm, as ``ImageEncoder.load``."""
        sized: dict[str, Any] = {} if self._sized is None else {"img_size": self._sized}
        overlay = {
            "file": str(folder / "model.safetensors"),
            "custom_load": False,
        }  # of timm's own weights, in a format of their own
        model: Any = timm.create_model(
            self.name, in_chans=1, num_classes=0, pretrained=True, pretrained_cfg_overlay=overlay, **sized
        )
        model = model.eval()
        return lambda image: cast(Tensor, model((image - cast(Tensor, self.mean)) / cast(Tensor, self.std)))
