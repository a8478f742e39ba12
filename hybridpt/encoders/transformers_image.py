"""Image encoders of transformers: RAD-DINO, DINOv2, ViT and others, by name or local folder."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from hybridpt.encoders.image import ImageEncoder, ImageFeatures
from hybridpt.encoders.kept import keep_image, make_model, make_preprocessor
from labelers.errors import InputError, UsageError

__all__ = ["TransformersImageEncoder"]

GREY = 0.5
"""Mean and standard deviation of grey levels where a folder does not say how its model wants them."""
BLOCK = re.compile(r"(?:layers?|blocks?|stages)\.(\d+)\.")
"""Where a parameter's name tells the number of its block."""
UNREAD = re.compile(r"^pooler\.|mask_token$")
"""Parameters that no feature depends on; DDP would wait for their gradients."""
BILINEAR = 2
"""As pillow counts, and as our own images are resized."""
SNIPPET = """from transformers import AutoImageProcessor, AutoModel

processor = AutoImageProcessor.from_pretrained("{folder}")
model = AutoModel.from_pretrained("{folder}").eval()
pixels = processor(images=image, return_tensors="pt")["pixel_values"]  # image: a picture of {channels} channels
hidden = model(pixels).last_hidden_state
pooled = {pooled}
"""


class TransformersImageEncoder(ImageEncoder):
    """A vision model of transformers, by name or local folder, for one-channel images.

    The pooled vector is the class token after the last norm, as RAD-DINO's authors use it, or the mean over places where a model
    has none. Grey levels are normalised as the model's preprocessor says, and repeated for models of three channels.

    Args:
        name: A folder that ``save_pretrained`` wrote, or a name such as ``microsoft/rad-dino``; the environment variable
            HF_HUB_OFFLINE=1 keeps a name to the local cache.
        pretrained: Load the weights; without, the model is made from its configuration with random ones.
        frozen: Keep the weights as they are; the model then stays in evaluation mode.

    Raises:
        UsageError: The model cannot be loaded; the message says how to give one.
    """

    def __init__(self, name: str = "microsoft/rad-dino", pretrained: bool = True, frozen: bool = False) -> None:
        super().__init__()
        try:
            made = make_model(name, pretrained)
        except InputError:  # of what a checkpoint kept
            raise
        except (OSError, ValueError, KeyError) as error:  # its message repeats addresses and advice of the hub
            raise UsageError(
                f"the image model '{name}' cannot be loaded ({type(error).__name__}); give a folder that save_pretrained wrote, or a "
                "name that the hub or its local cache has"
            ) from None
        self.model = cast(Any, made)
        config = self.model.config
        self.width = int(getattr(config, "hidden_size", None) or config.hidden_sizes[-1])
        self.patch: int | None = getattr(config, "patch_size", None)
        self.frozen = frozen
        channels = int(getattr(config, "num_channels", 3))
        wanted = make_preprocessor(name)
        self.kept = keep_image(name, self.model, wanted)
        for stat in ("mean", "std"):
            values = torch.tensor(wanted.get(f"image_{stat}") or [GREY], dtype=torch.float32)
            values = values if len(values) == channels else values.mean(dim=0, keepdim=True)
            self.register_buffer(stat, values.expand(channels)[:, None, None].clone(), persistent=False)
        sized = "interpolate_pos_encoding" in inspect.signature(self.model.forward).parameters
        self._options = {"interpolate_pos_encoding": True} if sized else {}
        for parameter in (p for n, p in self.model.named_parameters() if UNREAD.search(n)):
            parameter.requires_grad_(False)
        if frozen:
            self.model.requires_grad_(False)

    def train(self, mode: bool = True) -> TransformersImageEncoder:
        """Switch to training mode; a frozen model stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.model.eval()
        return self

    def forward(self, image: Tensor) -> ImageFeatures:
        """Encode (B, 1, H, W) float32 in [0, 1].

        Raises:
            UsageError: A side of the image is no multiple of the model's patch.
        """
        if self.patch is not None and (image.shape[2] % self.patch or image.shape[3] % self.patch):
            raise UsageError(
                f"--data.image_size: expected a multiple of {self.patch}, the patch of this image model, got {image.shape[2]}"
            )
        return self._features(self.model, image)

    def _features(self, model: Any, image: Tensor) -> ImageFeatures:
        pixels = (image - cast(Tensor, self.mean)) / cast(Tensor, self.std)
        hidden: Tensor = model(pixel_values=pixels, **self._options).last_hidden_state
        if hidden.ndim == 4 or self.patch is None:
            tokens = hidden.flatten(2).transpose(1, 2)
            return ImageFeatures(tokens.mean(dim=1), tokens, (hidden.shape[2], hidden.shape[3]))
        rows, columns = image.shape[2] // self.patch, image.shape[3] // self.patch
        first = hidden.shape[1] - rows * columns  # class and register tokens come before the places
        tokens = hidden[:, first:]
        return ImageFeatures(hidden[:, 0] if first else tokens.mean(dim=1), tokens, (rows, columns))

    def layers(self) -> list[list[nn.Parameter]]:
        """Return the embeddings, then each block, then what comes after them."""
        named = list(self.model.named_parameters())
        numbers = [int(found[1]) if (found := BLOCK.search(name)) else None for name, _ in named]
        last = max((n for n in numbers if n is not None), default=-1)
        layers: list[list[nn.Parameter]] = [[] for _ in range(last + 3)]
        seen = False
        for number, (_, parameter) in zip(numbers, named, strict=True):
            seen |= number is not None
            layers[number + 1 if number is not None else last + 2 if seen else 0].append(parameter)
        return [layer for layer in layers if layer]

    def save(self, folder: Path, image_size: int) -> str:
        """Write the model and its preprocessor for users of transformers, as ``ImageEncoder.save``."""
        from transformers import BitImageProcessor

        self.model.save_pretrained(folder)
        mean, std = (cast(Tensor, getattr(self, stat)).flatten().tolist() for stat in ("mean", "std"))
        sizes = {"size": {"shortest_edge": image_size}, "crop_size": {"height": image_size, "width": image_size}}
        levels = {"image_mean": mean, "image_std": std, "do_convert_rgb": len(mean) == 3}
        cast(Any, BitImageProcessor)(**sizes, **levels, resample=BILINEAR).save_pretrained(folder)
        return SNIPPET.replace("{channels}", str(len(mean))).replace(
            "{pooled}", "hidden[:, 0]  # the class token" if self.patch else "hidden.mean(dim=(2, 3))"
        )

    def load(self, folder: Path) -> Callable[[Tensor], Tensor]:
        """Load what ``save`` wrote, as ``ImageEncoder.load``."""
        from transformers import AutoModel

        model = cast(Any, AutoModel).from_pretrained(folder).eval()
        return lambda image: self._features(model, image).pooled
