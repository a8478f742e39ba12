"""What each source counts for, in the logs of a training: channels as a picture, weights by data set and labeler."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from hybridpt.data.sources import Sources
from hybridpt.functional import label_posterior
from hybridpt.functional.weights import text_weights
from hybridpt.module import HybridModule
from hybridpt.objectives import Step, Supervised
from hybridpt.tracking import wandb_loggers
from labelers.io import atomic_path
from labelers.types import STATES

__all__ = ["SourceLogger", "draw_log_channels"]

OTHERS = "others"
"""How the data sets are called that the model does not know."""


class SourceLogger(Callback):
    """Logs what the sources of labels and text count for.

    ``channels.png`` in the run's folder, and a picture of wandb, at the start and, where channels are learned, at the end;
    ``weight/OBJECTIVE/DATASET/LABELER`` once an epoch, where sources are weighed; and after each validation ``text_weight/DATASET``,
    how well reports describe images as far as the supervised head can tell (see ``hybridpt.functional.weights.text_weights``).
    """

    def __init__(self) -> None:
        self._hook: RemovableHandle | None = None
        self._seen: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the channels, where there are any."""
        self._draw(trainer, cast(HybridModule, pl_module))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw them again if they were learned."""
        model = cast(HybridModule, pl_module)
        if any(objective.channel_trainable for _, objective in _supervised(model)):
            self._draw(trainer, model)

    def _draw(self, trainer: Trainer, model: HybridModule) -> None:
        sources = model.sources
        if sources is None or not trainer.is_global_zero:
            return
        learned = [c.detach() for _, objective in _supervised(model) if (c := objective.log_channel) is not None]
        log_channel = learned[0] if learned else cast(Tensor, model.log_channel)
        if not _informs(log_channel).any():
            return
        path = Path(trainer.default_root_dir) / "channels.png"
        draw_log_channels(log_channel, sources, path)
        for logger in wandb_loggers(trainer):
            logger.log_image("channels", [str(path)])

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the weights."""
        model = cast(HybridModule, pl_module)
        for name, objective in _supervised(model):
            weights = objective.weight_by_source
            if weights is None or model.sources is None:
                continue
            for dataset, row in zip([*model.sources.datasets, OTHERS], weights, strict=True):
                for labeler, value in zip(model.sources.labelers, row, strict=True):
                    pl_module.log(f"weight/{name}/{dataset}/{labeler}", value)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to collect what the first supervised objective says; its features are computed already, so that this costs nothing."""
        self._stop()
        found = _supervised(cast(HybridModule, pl_module))
        if found:
            self._hook = found[0][1].register_forward_hook(self._collect)

    def _collect(self, objective: nn.Module, args: tuple[Any, ...], output: object) -> None:
        step: Step = args[0]
        batch, supervised = step.batch, cast(Supervised, objective)
        rows = batch["has_text"]
        looked, prior = batch["looked"][rows], torch.sigmoid(supervised.bias.detach())
        text = label_posterior(batch["state"][rows], batch["probability"][rows], looked, prior)
        image = supervised.logits(step)[rows]
        self._seen.append((image.detach().cpu(), text.cpu(), looked.any(dim=1).cpu(), batch["dataset"][rows].cpu()))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log how well each data set's text describes its images; of several processes the mean."""
        sources, seen = cast(HybridModule, pl_module).sources, self._seen
        self._stop()
        if not seen or sources is None or trainer.sanity_checking:
            return
        image, text, known, dataset = (torch.cat(parts) for parts in zip(*seen, strict=True))
        weights = text_weights(image, text, known, dataset, len(sources.datasets)).float()
        for name, value in zip(sources.datasets, weights, strict=True):
            pl_module.log(f"text_weight/{name}", value.to(pl_module.device), sync_dist=True)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Stop collecting."""
        self._stop()

    def _stop(self) -> None:
        if self._hook is not None:
            self._hook.remove()
        self._hook, self._seen = None, []


def _supervised(model: HybridModule) -> list[tuple[str, Supervised]]:
    """The supervised objectives, also those that are part of another, with their names."""
    return [(name, module) for name, module in model.objectives.named_modules() if isinstance(module, Supervised)]


def _informs(log_channel: Tensor) -> Tensor:
    """Whether a channel tells anything, (..., 2, 4) to (...) bool; one that was not measured does not."""
    return (log_channel[..., 0, :] != log_channel[..., 1, :]).any(dim=-1)


def draw_log_channels(log_channel: Tensor, sources: Sources, path: Path) -> None:
    """Draw P(state | truth): a panel a data set and labeler, a row a finding, four states if absent and four if present.

    A data set without channels of its own, which has those of all, gets no panel.

    Args:
        log_channel: Laid out as by ``hybridpt.noise.log_channels``, (D + 1, S, K, 2, 4).
        sources: Whose names it has.
        path: The picture, PNG; written whole or not at all.
    """
    from matplotlib.figure import Figure

    chance = log_channel.float().exp().cpu()
    count = len(sources.datasets)
    own = [d == count or not torch.equal(chance[d], chance[count]) for d in range(count + 1)]
    panels = [(d, s) for d in range(count + 1) if own[d] for s in range(len(sources.labelers)) if _informs(chance[d, s]).any()]
    findings = [name.replace("$", r"\$") for name in sources.findings]
    size = (2.5 + 3.2 * len(panels), 1.8 + 0.3 * len(findings))
    figure = Figure(figsize=size, layout="constrained")
    image = None
    for axes, (d, s) in zip(figure.subplots(1, len(panels), squeeze=False, sharey=True)[0], panels, strict=True):
        shown = chance[d, s].masked_fill(~_informs(chance[d, s])[:, None, None], torch.nan).flatten(1)
        image = axes.imshow(shown.numpy(), vmin=0, vmax=1, cmap="viridis", aspect="auto")
        labels = [f"{state} | {truth}" for truth in ("absent", "present") for state in STATES]
        axes.set_xticks(range(len(labels)), labels, rotation=75, ha="right", fontsize=7)
        axes.set_yticks(range(len(findings)), findings, fontsize=7)
        where = "all data sets" if d == count else sources.datasets[d]
        axes.set_title(f"{sources.labelers[s]}, {where}".replace("$", r"\$"), fontsize=8)
    if image is not None:
        figure.colorbar(image, ax=figure.axes, label="P(state | truth)")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
