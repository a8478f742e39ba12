"""This project's step against the training loop of the first paper's own code, imported from a checkout of it."""

from __future__ import annotations

import contextlib
import copy
import importlib
import io
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timing import Corpus, alternate, autocast, bert, make_batch, text_encoder, timed_row
from torch import Tensor, nn

from hybridpt.encoders import ImageEncoder, ImageFeatures
from hybridpt.module import HybridModule
from hybridpt.objectives import Clip, Supervised
from hybridpt.optimization import adamw, parameter_groups

CAPTION = "A radiology image of [CLS]"
"""Their prompt for an image that has labels and no report; their loss finds such images by it."""
MAX_LENGTH = 77
DIM = 512
LR, DECAY, CLIP = 1e-4, 1e-5, 1.0
SHARES = {"half with reports": 0.5, "all with reports": 1.0}
"""The paper's default data are two halves: CheXpert, which gives labels alone, and MIMIC-CXR with its reports."""


class Torchvision(ImageEncoder):
    """Their image network as this project's encoder, so that both train the very same; laid out in memory as ``TimmEncoder`` lays out its own."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)
        self.width = 2048

    def forward(self, image: Tensor) -> ImageFeatures:
        """Encode (B, 1, H, W); grey levels are given to all three channels, as theirs are."""
        pooled: Tensor = self.network(image.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last))
        return ImageFeatures(pooled, pooled.unsqueeze(1), (1, 1))


def _theirs(checkout: Path) -> tuple[Any, list[str]]:
    """Import their module of the model; returns it with the names of their categories."""
    if not (checkout / "cxrvlms" / "modeling" / "model.py").is_file():
        raise SystemExit(f"{checkout}: expected a checkout of github.com/jusiro/DLILP, found no cxrvlms/modeling/model.py in it")
    sys.path.insert(0, str(checkout))
    model, constants = (importlib.import_module(f"cxrvlms.modeling.{name}") for name in ("model", "constants"))
    return model, list(constants.CATEGORIES)


def measured(
    checkout: Path,
    corpus: Corpus,
    folder: Path,
    device: torch.device,
    layers: int,
    pixels: int,
    batch: int,
    steps: int,
    repeats: int,
) -> Iterator[dict[str, object]]:
    """Time ``steps`` whole training steps at a time: tokenizing, forward, backward, clipping and AdamW, without loading and augmentation."""
    model_module, categories = _theirs(checkout)
    texts = bert(folder / "bert_reference", [*corpus.reports, *categories], layers, 768)
    for called, share in SHARES.items():
        torch.manual_seed(0)
        with contextlib.redirect_stdout(io.StringIO()):
            theirs = model_module.VLMModel(
                vision_type="resnet_v1",
                bert_type=str(texts),
                vision_pretrained=False,
                from_checkpoint=False,
                learning_criteria="dlilp",
            )
        theirs.to(device)
        batches = [_drawn(corpus, categories, pixels, batch, share, seed) for seed in range(steps)]
        timed: dict[str, Callable[[], object]] = {"theirs": _their_epoch(theirs, batches)}
        for precision in ("float32", "bf16") if device.type == "cpu" else ("bf16",):
            for how in (precision, f"{precision} compiled"):
                timed[f"ours {how}"] = _our_epoch(theirs, texts, corpus, categories, batches, pixels, how, device)
        taken = alternate(timed, repeats, 1, device)
        distinct = np.mean([len({t for t in b["texts"] if t}) / max(1, sum(map(bool, b["texts"]))) for b in batches])
        for name in timed:
            row = timed_row(taken, name, "theirs", batch * steps, inverse=True)
            for key in ("seconds", "seconds_low", "seconds_high"):
                row[key] = float(row[key]) / steps  # type: ignore[arg-type]
            theirs_precision = "float32" if device.type == "cpu" else "float16"
            yield {
                "part": "reference",
                "name": f"{called} ({distinct:.0%} of the texts distinct), BERT of {layers} layers: {name.split()[0]}",
                "batch": batch,
                "precision": theirs_precision if name == "theirs" else name.split()[1],
                "compiled": name.endswith("compiled"),
                **row,
            }


def _drawn(corpus: Corpus, categories: list[str], pixels: int, batch: int, share: float, seed: int) -> dict[str, Any]:
    """A batch as their loader gives it, and ``texts`` as ours does: a sentence of a report, or none where they write a prompt."""
    generator, draw = torch.Generator().manual_seed(seed), random.Random(seed)
    texts = [draw.choice(corpus.sentences) if i < round(share * batch) else "" for i in range(batch)]
    prompts = [text or CAPTION.replace("[CLS]", draw.choice(categories)) for text in texts]
    said = torch.rand(batch, len(categories), generator=generator) < 0.1
    return {
        "image": torch.rand(batch, 1, pixels, pixels, generator=generator).expand(-1, 3, -1, -1).contiguous(),
        "prompt_selected": [prompts],
        "study_categories": said.long(),
        "category_prompt_selected": said.long(),
        "mask_categories": torch.ones(batch, len(categories), dtype=torch.int64),
        "texts": texts,
    }


def _their_epoch(model: Any, batches: list[dict[str, Any]]) -> Callable[[], object]:
    """Their ``train_epoch`` as it is, its progress bar kept quiet."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=DECAY)

    def run() -> None:
        with contextlib.redirect_stderr(io.StringIO()):
            model.train_epoch(batches, optimizer)

    return run


def _our_epoch(
    theirs: Any,
    texts: Path,
    corpus: Corpus,
    categories: list[str],
    batches: list[dict[str, Any]],
    pixels: int,
    how: str,
    device: torch.device,
) -> Callable[[], object]:
    """As many steps of DLILP by this project, with a copy of their image network and the same BERT."""
    precision, _, compiled = how.partition(" ")
    network: nn.Module = copy.deepcopy(theirs.vision_model.model)
    text = text_encoder(texts, MAX_LENGTH)
    objectives = {"supervised": Supervised(dim=DIM, warmup=0), "clip": Clip(DIM, weight=0.1)}
    model = HybridModule(Torchvision(network), objectives, text, compile=bool(compiled))
    sources = corpus.sources(len(categories), pixels)
    model.build(sources)
    model.to(device).train()
    optimizer = adamw(parameter_groups(model, model.encoders.image, LR, DECAY), LR)

    def run() -> None:
        for drawn in batches:
            batch = make_batch(drawn["image"][:, :1], drawn["texts"], sources, text.tokenizer, device)
            with autocast(device, precision):
                loss = model.losses(batch)["loss"]
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
            optimizer.zero_grad()

    return run
