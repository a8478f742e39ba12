"""Text encoders: strings to token ids on the data side, token ids to one vector a text on the model side."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor, nn

from hybridpt.encoders.kept import keep_text, kept_entry, make_model, make_tokenizer
from labelers.errors import InputError, UsageError

__all__ = ["ByteEncoder", "HuggingFaceEncoder", "TextEncoder", "TransformersEncoder", "masked_pool"]


def masked_pool(tokens: Tensor, mask: Tensor) -> Tensor:
    """Mean over the tokens that stand: (B, T, D) and (B, T) bool to (B, D); zeros for a text of no tokens."""
    kept = mask.unsqueeze(-1).to(tokens.dtype)
    return (tokens * kept).sum(dim=1) / kept.sum(dim=1).clamp(min=1)


class TextEncoder(nn.Module, ABC):
    """Base class of text encoders; ``width`` is the length of the vectors, ``tokenizer`` a picklable callable."""

    width: int
    kept: Mapping[str, Any] = {}
    """What a checkpoint keeps of the files that the encoder was made from, so that it can be made without them (``encoders.kept``)."""
    tokenizer: Any
    """Maps a sequence of N strings to token ids (N, T) int64 and their mask (N, T) bool."""

    @property
    def frozen(self) -> bool:
        """Whether no weight of it is trained."""
        return not any(p.requires_grad for p in self.parameters())

    def train(self, mode: bool = True) -> Self:
        """Switch to training mode; a frozen encoder stays in evaluation mode, so that its dropout is off."""
        return super().train(mode and not self.frozen)

    @abstractmethod
    def states(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return vectors along the text, (N, S, width), and where they stand, (N, S) bool, of (N, T) int64 and (N, T) bool.

        S may be less than T; padding changes no vector that stands.
        """

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Encode (N, T) int64 and (N, T) bool to (N, width), the mean of what stands; padding changes nothing."""
        return masked_pool(*self.states(tokens, mask))


class ByteTokenizer:
    """UTF-8 bytes as tokens 1 to 256, 0 for padding: a vocabulary that no report was ever used to make."""

    def __init__(self, max_length: int) -> None:
        self.max_length = max_length

    def __call__(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return token ids (N, T) and their mask (N, T); T is the longest text's, at most ``max_length``.

        At least 1: of several processes each takes its texts through the encoder, also where all are empty, or DDP would wait for it.
        """
        encoded = [list(text.encode("utf-8", errors="replace")[: self.max_length]) for text in texts]
        width = max((1, *map(len, encoded)))
        tokens = torch.zeros(len(encoded), width, dtype=torch.int64)
        for i, e in enumerate(encoded):
            tokens[i, : len(e)] = torch.tensor(e, dtype=torch.int64) + 1
        return tokens, tokens > 0


class ByteEncoder(TextEncoder):
    """A small transformer on bytes, trained from scratch; it needs no download and no vocabulary.

    A strided convolution shortens the bytes eightfold before the transformer layers.

    Args:
        width: Length of the vectors; a multiple of 32.
        depth: Number of transformer layers.
        max_length: Longest text in bytes; the rest is cut off.
    """

    STRIDE = 8

    def __init__(self, width: int = 128, depth: int = 2, max_length: int = 512) -> None:
        super().__init__()
        self.width = width
        self.tokenizer = ByteTokenizer(max_length)
        self.embedding = nn.Embedding(257, width, padding_idx=0)
        self.local = nn.Conv1d(width, width, kernel_size=5, padding=2)
        self.shorten = nn.Conv1d(width, width, kernel_size=self.STRIDE, stride=self.STRIDE)
        self.position = nn.Parameter(torch.zeros(-(-max_length // self.STRIDE), width))
        nn.init.normal_(self.position, std=0.02)
        layer = nn.TransformerEncoderLayer(width, max(1, width // 32), 2 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)

    def states(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return one vector for every eight bytes."""
        if tokens.shape[1] == 0:
            return self.norm.weight.new_zeros(len(tokens), 0, self.width), mask
        pad = -tokens.shape[1] % self.STRIDE
        tokens, mask = nn.functional.pad(tokens, (0, pad)), nn.functional.pad(mask, (0, pad))
        x = self.embedding(tokens)
        x = (x + nn.functional.gelu(self.local(x.transpose(1, 2)).transpose(1, 2))) * mask.unsqueeze(-1)
        x = self.shorten(x.transpose(1, 2)).transpose(1, 2)
        short = mask.view(len(mask), -1, self.STRIDE).any(dim=2)
        x = x + self.position[: x.shape[1]]
        attended = short.clone()
        attended[:, 0] = True  # attention over no token at all is nan; the pooled vector of an empty text is zero all the same
        return self.norm(self.layers(x, src_key_padding_mask=~attended)), short


class HuggingFaceTokenizer:
    """A transformers tokenizer as a picklable callable."""

    def __init__(self, tokenizer: Any, max_length: int) -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length

    def __call__(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return token ids (N, T) and their mask (N, T)."""
        if not texts:
            return torch.zeros(0, 0, dtype=torch.int64), torch.zeros(0, 0, dtype=torch.bool)
        out = self.tokenizer(list(texts), padding=True, truncation=True, max_length=self.max_length, return_tensors="pt")
        return out["input_ids"], out["attention_mask"].bool()


class HuggingFaceEncoder(TextEncoder):
    """A text model of transformers with its tokenizer, pooled by a masked mean.

    Args:
        model: A model that gives a last hidden state.
        tokenizer: Its tokenizer.
        max_length: Longest text in tokens; the rest is cut off.
        frozen: Keep the weights as they are.
    """

    def __init__(self, model: Any, tokenizer: Any, max_length: int, frozen: bool = False) -> None:
        super().__init__()
        self.model = model
        self.width = int(self.model.config.hidden_size)
        self.tokenizer = HuggingFaceTokenizer(tokenizer, max_length)
        if getattr(self.model, "pooler", None) is not None:  # not read here; DDP would wait for its gradients
            self.model.pooler.requires_grad_(False)
        if frozen:
            self.model.requires_grad_(False)
        self.train()  # as loaded, it would train without dropout

    def states(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return one vector a token."""
        if tokens.shape[1] == 0:
            return torch.zeros(len(tokens), 0, self.width, device=tokens.device), mask
        hidden: Tensor = self.model(input_ids=tokens, attention_mask=mask.to(torch.int64)).last_hidden_state
        return hidden, mask


class TransformersEncoder(HuggingFaceEncoder):
    """A text model of transformers, by name or local folder, pooled by a masked mean.

    Args:
        name: Name on the hub, such as ``emilyalsentzer/Bio_ClinicalBERT``, or a folder.
        max_length: Longest text in tokens; the rest is cut off.
        frozen: Keep the weights as they are.
        pretrained: Load the weights; without it only the configuration is used, as when a checkpoint brings its own.

    Raises:
        UsageError: There is no such model, or no tokenizer beside it.
    """

    def __init__(self, name: str, max_length: int = 128, frozen: bool = False, pretrained: bool = True) -> None:
        try:
            weights, tokenizer = make_model(name, pretrained), make_tokenizer(name)
        except InputError:  # of what a checkpoint kept
            raise
        except Exception as error:  # of many kinds, as a cut-off file
            raise UsageError(
                f"the text model '{name}' cannot be loaded ({type(error).__name__}); give a folder that save_pretrained wrote (model and "
                "tokenizer), or a name that the hub or its local cache has"
            ) from None
        super().__init__(weights, tokenizer, max_length, frozen)
        self.name = name
        self._entry = kept_entry(name)

    @cached_property
    def kept(self) -> Mapping[str, Any]:  # type: ignore[override]
        """Configuration and, where it is small, tokenizer."""
        if self._entry is not None:
            return {self.name: self._entry}
        return keep_text(self.name, self.model, self.tokenizer.tokenizer)
