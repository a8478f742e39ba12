"""Image encoders of transformers: RAD-DINO, DINOv2, ViT and others, by name or local folder."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from hybridpt.encoders.image import ImageEncoder, ImageFeatures, places
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
pixels = processor(images=image, return_tensors="pt")["pixel_values"]  # image: a picture (pillow) of mode {mode}
output = model({pixels})
pooled = {pooled}
"""


class TransformersImageEncoder(ImageEncoder):
    """A vision model of transformers, by name or local folder, for one-channel images.

    The pooled vector is the model's own ``pooler_output`` (of DINOv2 the class token after the last norm, as RAD-DINO's authors use it);
    but for models with a layer ``pooler``, which checkpoints of ViT often lack: there it is the class token, or the mean over places
    where a model has none. Grey levels are normalised as the model's preprocessor says, and repeated for models of three channels.

    Args:
        name: A folder that ``save_pretrained`` wrote, or a name such as ``microsoft/rad-dino``; the environment variable
            HF_HUB_OFFLINE=1 keeps a name to the local cache.
        pretrained: Load the weights; without, the model is made from its configuration with random ones.
        frozen: Keep the weights as they are; the model then stays in evaluation mode.

    Raises:
        UsageError: The model cannot be loaded; the message says how to give one.
    """

    library = "transformers"

    def __init__(self, name: str = "microsoft/rad-dino", pretrained: bool = True, frozen: bool = False) -> None:
        super().__init__()
        try:
            made = make_model(name, pretrained)
        except InputError:  # of what a checkpoint kept
            raise
        except Exception as error:  # of many kinds, whose messages repeat addresses and advice of the hub
            raise UsageError(
                f"the image model '{name}' cannot be loaded ({type(error).__name__}); give a folder that save_pretrained wrote, or a "
                "name that the hub or its local cache has (HF_HUB_OFFLINE=1 keeps to the cache)"
            ) from None
        self.model = cast(Any, made)
        known = inspect.signature(self.model.forward).parameters
        if "pixel_values" not in known or "input_ids" in known:
            raise UsageError(
                f"the model '{name}' is a {type(made).__name__}, which reads no images, or text too; give one of images alone (of CLIP: "
                "CLIPVisionModel.from_pretrained(NAME).save_pretrained(FOLDER)), a text model to the class TransformersEncoder"
            )
        config = self.model.config
        width = getattr(config, "hidden_size", None) or (getattr(config, "hidden_sizes", None) or [None])[-1]
        if width is None:
            raise UsageError(
                f"the image model '{name}' is a {type(made).__name__}, which does not tell the width of its features; give another, and "
                "models of timm by their name to the class TimmEncoder"
            )
        self.width = int(width)
        self.patch: int | None = getattr(config, "patch_size", None)
        self.frozen = frozen
        channels = int(getattr(config, "num_channels", 3))
        wanted = make_preprocessor(name)
        self.kept = keep_image(name, self.model, wanted)
        for stat in ("mean", "std"):
            values = torch.tensor(wanted.get(f"image_{stat}") or [GREY], dtype=torch.float32)
            values = values if len(values) == channels else values.mean(dim=0, keepdim=True)
            self.register_buffer(stat, values.expand(channels)[:, None, None].clone(), persistent=False)
        self._options = {"interpolate_pos_encoding": True} if "interpolate_pos_encoding" in known else {}
        self._own = not any(n.startswith("pooler.") for n, _ in self.model.named_parameters())
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
        return self._features(image)[0]

    def _features(self, image: Tensor) -> tuple[ImageFeatures, str]:
        """Return what the model makes of images, and how the pooled features are got from its output, in Python."""
        pixels = (image - cast(Tensor, self.mean)) / cast(Tensor, self.std)
        output = self.model(pixel_values=pixels, **self._options)
        hidden: Tensor = output.last_hidden_state
        if hidden.ndim == 4:
            tokens, grid = hidden.flatten(2).transpose(1, 2), (hidden.shape[2], hidden.shape[3])
        else:
            rows, columns = (side // (self.patch or side) for side in image.shape[2:])
            prefix = hidden.shape[1] - rows * columns  # class and register tokens, unless places were merged since
            tokens, grid = places(hidden, image.shape[2], image.shape[3], prefix if self.patch and prefix >= 0 else None)
        if self._own and output.get("pooler_output") is not None:
            return ImageFeatures(output.pooler_output.flatten(1), tokens, grid), "output.pooler_output.flatten(1)"
        if hidden.ndim == 3 and hidden.shape[1] > tokens.shape[1]:
            return ImageFeatures(hidden[:, 0], tokens, grid), "output.last_hidden_state[:, 0]  # the class token"
        return ImageFeatures(
            tokens.mean(dim=1), tokens, grid
        ), f"output.last_hidden_state.mean({'1' if hidden.ndim == 3 else '(2, 3)'})"

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
        with torch.no_grad():
            _, pooled = self._features(torch.zeros(1, 1, image_size, image_size))
        pixels = ", ".join(["pixels", *(f"{option}={value}" for option, value in self._options.items())])
        mode = "RGB" if len(mean) == 3 else "L"
        return SNIPPET.replace("{mode}", mode).replace("{pixels}", pixels).replace("{pooled}", pooled)

    def example(self, grey: Tensor) -> Any:
        """Return a picture, as ``ImageEncoder.example``."""
        from PIL import Image

        return Image.fromarray(grey.numpy()).convert("RGB" if len(cast(Tensor, self.mean)) == 3 else "L")
