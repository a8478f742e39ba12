"""Image encoders: pixels in [0, 1] to pooled features, tokens, and the grid on which the tokens lie."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import timm
import torch
from timm.models import group_parameters
from torch import Tensor, nn

from labelers.errors import UsageError, unknown_name

__all__ = ["ImageEncoder", "ImageFeatures", "TimmEncoder", "places"]

SNIPPET = """import timm  # recent releases of transformers read it too: AutoModel.from_pretrained("{{folder}}")

model = timm.create_model({name}, in_chans=1, num_classes=0, {sized}checkpoint_path="{{folder}}/model.safetensors").eval()
pooled = model((image - {mean:.6g}) / {std:.6g})  # image: (B, 1, {size}, {size}), grey levels in [0, 1]
"""


class ImageFeatures(NamedTuple):
    """What an image encoder returns.

    Attributes:
        pooled: One vector an image, (B, D).
        tokens: One vector a place, row by row, (B, N, E); E is D but for networks with a layer between places and pooled vector.
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

    library: str = "pytorch"
    """Whose users ``save`` writes for, as model cards name it."""

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
            Python that loads it and makes ``pooled`` from ``image``, as ``example`` gives it; with ``{folder}`` for the folder's name.

        Raises:
            UsageError: This kind of encoder has no such form.
        """
        raise UsageError(
            f"an encoder of the class {type(self).__name__} cannot be exported; give the class the method save of ImageEncoder"
        )

    def example(self, grey: Tensor) -> Any:
        """Return what ``save``'s Python calls ``image``, made from grey levels (H, W) uint8."""
        return grey[None, None].float() / 255

    @torch.no_grad()
    def check_size(self, size: int) -> None:
        """Encode a black image.

        Args:
            size: Its side in pixels.

        Raises:
            UsageError: The encoder does not take images of that size, or gives vectors of another width than it says.
        """
        training, device = self.training, next((p.device for p in self.parameters()), None)
        try:
            found = tuple(self.eval()(torch.zeros(1, 1, size, size, device=device)).pooled.shape)
        except (AssertionError, IndexError, RuntimeError, TypeError, ValueError) as error:
            if isinstance(error, UsageError | torch.OutOfMemoryError):
                raise
            raise UsageError(
                f"--data.image_size {size}: the image encoder does not take images of that size ({_first_line(error)}); give another, "
                f"or make the encoder for it where it can (TimmEncoder: --model.image_encoder.init_args.image_size {size})"
            ) from None
        finally:
            self.train(training)
        if found != (1, self.width):
            raise UsageError(
                f"the image encoder {type(self).__name__}: expected pooled features (1, {self.width}) of one image, by its width, got {found}"
            )


def _first_line(error: BaseException) -> str:
    """What a library said of a model; nothing of a patient is in it, for no image was there yet."""
    said = (str(error).strip().splitlines() or [""])[0]
    return said[:160] or type(error).__name__


def places(hidden: Tensor, height: int, width: int, prefix: int | None = None) -> tuple[Tensor, tuple[int, int]]:
    """Leave class and register tokens out of a sequence.

    Args:
        hidden: (B, N, E), places row by row after the other tokens.
        height: Of the image, in pixels.
        width: As ``height``.
        prefix: How many other tokens; None for as few as leave a grid of the image's proportions.

    Returns:
        The places (B, rows x columns, E), then rows and columns.

    Raises:
        UsageError: No number of places makes such a grid.
    """
    count = hidden.shape[1]
    for first in range(count) if prefix is None else (prefix,):
        rows = round(math.sqrt((count - first) * height / width))
        if rows and rows * round(rows * width / height) == count - first:
            return hidden[:, first:], (rows, (count - first) // rows)
    raise UsageError(
        f"the image encoder gives {count} tokens for an image of {height} x {width} pixels, which are no grid; choose another"
    )


class TimmEncoder(ImageEncoder):
    """Any image model of timm that gives one map of features, by its name, for one-channel images.

    Args:
        name: Name in ``timm.list_models()``, such as ``resnet50`` or ``vit_base_patch16_224``.
        pretrained: Load timm's weights for that name; the first layer's colour weights are summed for grey images.
        image_size: Side in pixels to make encoders for that are made for one size; None for the model's own. Those for any size take no notice.
        drop_rate: Dropout before the pooled features' use, in [0, 1).

    Raises:
        UsageError: timm has no model of that name, cannot make it for that size, or has no weights for it at hand.
    """

    library = "timm"

    def __init__(
        self, name: str = "resnet50", pretrained: bool = False, image_size: int | None = None, drop_rate: float = 0.0
    ) -> None:
        super().__init__()
        self.name = name
        self._sized: dict[str, Any] = {} if image_size is None else {"img_size": int(image_size)}
        if Path(name).is_dir():
            raise UsageError(
                f"--model.image_encoder.init_args.name: expected a name in timm, got the folder {name}; give a checkpoint's encoders "
                "by --model.init_from CKPT, a folder of transformers to the class TransformersImageEncoder"
            )
        if not timm.is_model(name):
            raise unknown_name("timm model", name, timm.list_models())
        created = self._create(pretrained, drop_rate)
        self.model = cast(Any, created.to(memory_format=torch.channels_last))  # a quarter faster for convolutions
        self.width = int(getattr(self.model, "head_hidden_size", None) or self.model.num_features)
        config = self.model.pretrained_cfg
        self.register_buffer("mean", torch.tensor(float(sum(config["mean"]) / len(config["mean"]))), persistent=False)
        self.register_buffer("std", torch.tensor(float(sum(config["std"]) / len(config["std"]))), persistent=False)

    def _create(self, pretrained: bool, drop_rate: float) -> nn.Module:
        options: dict[str, Any] = {"pretrained": pretrained, "in_chans": 1, "num_classes": 0, "drop_rate": drop_rate}
        try:
            try:
                made = timm.create_model(self.name, **options, **self._sized)
            except TypeError as error:
                if "img_size" not in str(error):
                    raise
                self._sized = {}
                made = timm.create_model(self.name, **options)
        except Exception as error:  # the libraries that download raise many kinds
            if pretrained:
                raise UsageError(
                    f"timm's weights of '{self.name}' cannot be loaded ({type(error).__name__}); run once where they can be downloaded, "
                    "choose a name for which timm has some, or give --model.image_encoder.init_args.pretrained false"
                ) from None
            raise UsageError(
                f"timm's model '{self.name}' cannot be made with these options ({_first_line(error)}); choose another name or "
                "--model.image_encoder.init_args.image_size"
            ) from None
        return made

    def forward(self, image: Tensor) -> ImageFeatures:
        """Encode (B, 1, H, W) float32 in [0, 1].

        Raises:
            UsageError: The model gives no map of features.
        """
        mean, std = cast(Tensor, self.mean), cast(Tensor, self.std)
        pixels = ((image - mean) / std).contiguous(memory_format=torch.channels_last)
        features = self.model.forward_features(pixels)
        if not isinstance(features, Tensor):
            raise UsageError(
                f"timm's model '{self.name}' gives several maps of features, of which none is the last; choose another"
            )
        pooled = self.model.forward_head(features, pre_logits=True)
        if features.ndim == 3:
            return ImageFeatures(
                pooled, *places(features, image.shape[2], image.shape[3], getattr(self.model, "num_prefix_tokens", None))
            )
        if getattr(self.model, "output_fmt", "NCHW") == "NHWC":
            features = features.permute(0, 3, 1, 2)
        return ImageFeatures(pooled, features.flatten(2).transpose(1, 2), (features.shape[2], features.shape[3]))

    def layers(self) -> list[list[nn.Parameter]]:
        """Return the parameters by timm's own count of layers; one layer where a model has none."""
        if not hasattr(self.model, "group_matcher"):
            return super().layers()
        groups = group_parameters(self.model, self.model.group_matcher(coarse=False))
        named = dict(self.model.named_parameters())
        return [[named[name] for name in names] for _, names in sorted(groups.items())]

    def save(self, folder: Path, image_size: int) -> str:
        """Write weights and configuration as timm's hub does, which transformers reads too; see ``ImageEncoder.save``."""
        from safetensors.torch import save_file

        # copies, since safetensors takes no weights that stand under two names
        weights = {name: value.clone(memory_format=torch.contiguous_format) for name, value in self.model.state_dict().items()}
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        known = self.model.pretrained_cfg
        mean, std = float(cast(Tensor, self.mean)), float(cast(Tensor, self.std))
        body = {
            "architecture": self.name,
            "num_classes": 0,
            "num_features": int(self.model.num_features),
            "model_args": {"in_chans": 1, **self._sized},
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
        sized = "".join(f"{option}={value}, " for option, value in self._sized.items())
        return SNIPPET.format(name=json.dumps(self.name), sized=sized, mean=mean, std=std, size=image_size, folder="{folder}")
