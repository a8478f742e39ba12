"""What the parts share: alternating repeats, intervals, the encoders and a batch to measure with, and the card's peak."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from hybridpt.batch import Batch
from hybridpt.data.phantom import Phantom
from hybridpt.data.sources import Sources
from hybridpt.data.text import contrastive_units
from hybridpt.encoders import HuggingFaceEncoder
from labelers.channel import ChannelSet, read_channels

PEAKS = {"H200": 989.5, "H100 80GB HBM3": 989.5, "A100": 312.0}
"""Dense bfloat16, in 10^12 operations a second, by NVIDIA's data sheets of the SXM cards (H200 and H100: half of what they say with sparsity)."""
BOOTSTRAPS = 2000


def peak_tflops(device: torch.device, given: float | None) -> float | None:
    """The card's peak as given, else as its data sheet says, else None."""
    if given is not None or device.type != "cuda":
        return given
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAKS.items() if part in name), None)


def seconds(step: Callable[[], object], device: torch.device) -> float:
    """Wall time of one call, the GPU's work included."""
    _wait(device)
    begun = time.perf_counter()
    step()
    _wait(device)
    return time.perf_counter() - begun


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def alternate(
    steps: Mapping[str, Callable[[], object]], repeats: int, warmup: int, device: torch.device
) -> dict[str, list[float]]:
    """Time every step once in each repeat, forwards and backwards in turn, so that a drift of the machine meets all of them."""
    for step in steps.values():
        for _ in range(warmup):
            step()
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for repeat in range(repeats):
        for name in list(steps)[:: 1 if repeat % 2 == 0 else -1]:
            taken[name].append(seconds(steps[name], device))
    return taken


def peak_memory(step: Callable[[], object], device: torch.device) -> float | None:
    """Most memory that torch held on the GPU during a step, in MB; None on a CPU, which does not tell."""
    if device.type != "cuda":
        return None
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    seconds(step, device)
    return torch.cuda.max_memory_allocated(device) / 2**20


def median(values: Sequence[float] | np.ndarray[Any, Any]) -> tuple[float, float, float]:
    """Median with its 95 % bootstrap interval."""
    data = np.asarray(values, np.float64)
    draws = np.random.default_rng(0).choice(data, (BOOTSTRAPS, len(data)))
    low, high = np.quantile(np.median(draws, axis=1), (0.025, 0.975))
    return float(np.median(data)), float(low), float(high)


def timed_row(
    taken: Mapping[str, Sequence[float]], name: str, against: str, images: int, inverse: bool = False
) -> dict[str, object]:
    """The figures of one step: median and interval, images a second, and the ratio to another within each repeat."""
    middle, low, high = median(taken[name])
    row: dict[str, object] = {"seconds": middle, "seconds_low": low, "seconds_high": high, "repeats": len(taken[name])}
    row["images_per_s"] = images / middle
    if name != against:
        pairs = np.asarray(taken[name]) / np.asarray(taken[against])
        ratio = median(1 / pairs if inverse else pairs)
        row |= dict(zip(("ratio", "ratio_low", "ratio_high"), ratio, strict=True))
    return row


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
    """The context of a precision: float32, or bfloat16 where it serves."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()


class Corpus:
    """Sentences of phantom reports, with the channels of a labeler, in a folder of its own.

    Args:
        folder: Where to write.
        studies: Studies to draw.
    """

    def __init__(self, folder: Path, studies: int) -> None:
        import pandas as pd

        from labelers.cli import main as labelers

        Phantom(studies, 32, 1).write(folder)
        table, channels = folder / "labels.parquet", folder / "channels.json"
        for words in (
            ["run", folder / "reports.csv", "--labeler", "context", "-o", table],
            ["noise", table, "--gold", folder / "gold.csv", "-o", channels],
        ):
            with contextlib.redirect_stdout(sys.stderr):
                if labelers([str(word) for word in words]):
                    raise SystemExit("the phantom's reports could not be labeled")
        self.channels: ChannelSet = read_channels(channels)
        reports = [text for text in pd.read_csv(folder / "reports.csv", dtype=str)["text"].fillna("") if text]
        self.sentences = [sentence for units in contrastive_units(reports, "sentence") for sentence in units]
        self.reports = [text for (text,) in filter(None, contrastive_units(reports, "report"))]

    def sources(self, findings: int, size: int) -> Sources:
        """One labeler with measured channels on ``findings`` findings, those without a channel named by a number."""
        measured = [f for f in next(iter(self.channels.channels["context"].values())) if f != "No Finding"]
        names = [*measured, *(f"finding {i}" for i in range(findings))][:findings]
        return Sources(tuple(names), ("context",), ("phantom",), (0.1,) * findings, size, channels=self.channels)


def bert(folder: Path, texts: Sequence[str], layers: int, width: int) -> Path:
    """Write a BERT of random weights with a WordPiece vocabulary of the words of phantom reports, which are nobody's."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder.mkdir(parents=True, exist_ok=True)
    words = sorted({word for text in texts for word in "".join(c if c.isalpha() else " " for c in text.lower()).split()})
    signs = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys([*signs, *(f"##{s}" for s in signs), *words])]
    (folder / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    size = max(len(vocabulary), 28996)  # Bio_ClinicalBERT's
    config = BertConfig(
        vocab_size=size, hidden_size=width, num_hidden_layers=layers, num_attention_heads=width // 64, intermediate_size=4 * width
    )
    torch.manual_seed(0)
    BertModel(config).save_pretrained(folder)
    BertTokenizerFast(str(folder / "vocab.txt"), do_lower_case=True).save_pretrained(folder)
    return folder


def text_encoder(folder: Path, max_length: int) -> HuggingFaceEncoder:
    """That BERT as this project's text encoder."""
    from transformers import AutoModel, AutoTokenizer

    return HuggingFaceEncoder(AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder), max_length)


def numbered(texts: Sequence[str]) -> list[int]:
    """Number texts by what they say, 0 for none."""
    known = {"": 0}
    return [known.setdefault(text, len(known)) for text in texts]


def make_batch(image: torch.Tensor, texts: Sequence[str], sources: Sources, tokenizer: Any, device: torch.device) -> Batch:
    """A batch of random images and states with given texts, "" for none."""
    size, findings = len(texts), len(sources.findings)
    generator = torch.Generator().manual_seed(1)
    tokens, mask = tokenizer(list(texts))
    words = torch.tensor(numbered(texts))
    batch = Batch(
        image=image,
        views={},
        tokens=tokens,
        token_mask=mask,
        has_text=words > 0,
        state=torch.randint(0, 4, (size, 1, findings), generator=generator),
        probability=torch.rand(size, 1, findings, generator=generator),
        looked=torch.ones(size, 1, findings, dtype=torch.bool),
        truth=torch.full((size, findings), torch.nan),
        dataset=torch.zeros(size, dtype=torch.int64),
        study=torch.arange(size),
        words=words,
        said=words.unsqueeze(1).masked_fill(words.unsqueeze(1) == 0, -1),
        row=torch.arange(size),
    )
    return {key: value.to(device) if isinstance(value, torch.Tensor) else value for key, value in batch.items()}  # type: ignore[return-value]


def clear(module: nn.Module) -> None:
    """Forget the gradients."""
    module.zero_grad(set_to_none=True)
