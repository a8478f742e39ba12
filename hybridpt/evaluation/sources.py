"""What each source of labels counts for, in the logs of a training: channels as a picture, weights by data set and labeler."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import cast

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from hybridpt.data.sources import Sources
from hybridpt.module import HybridModule
from hybridpt.objectives import Step, Supervised
from hybridpt.sharding import whole
from hybridpt.tracking import wandb_loggers
from labelers.io import atomic_path
from labelers.types import STATES

__all__ = ["SourceLogger", "draw_log_channels"]

OTHERS = "others"
"""How the data sets are called that the model does not know."""


class SourceLogger(Callback):
    """Logs what the sources of labels count for; what those of text do, the model itself measures and logs.

    ``channels.png`` in the run's folder, and a picture of wandb, at the start and, where channels are learned, at the end;
    ``weight/OBJECTIVE/DATASET/LABELER`` once an epoch, where sources are weighed; and after each validation ``val/OBJECTIVE/LABELER``,
    the mean label loss over the cells that the labeler judged, as if it were the only one.
    """

    def __init__(self) -> None:
        self._hooks: list[RemovableHandle] = []
        self._losses: dict[str, list[Tensor]] = {}
        self._terms: set[str] = set()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the channels, where there are any."""
        self._draw(trainer, cast(HybridModule, pl_module))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw them again if they were learned."""
        model = cast(HybridModule, pl_module)
        if any(objective.channel_trainable for _, objective in _supervised(model)):
            self._draw(trainer, model)

    def _draw(self, trainer: Trainer, model: HybridModule) -> None:
        with whole(trainer):
            learned = [c.detach().clone() for _, objective in _supervised(model) if (c := objective.log_channel) is not None]
        sources = model.sources
        if sources is None or not trainer.is_global_zero:
            return
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
        with whole(trainer):
            found = [(name, objective.weight_by_source) for name, objective in _supervised(model)]
        for name, weights in found:
            if weights is None or model.sources is None:
                continue
            for dataset, row in zip([*model.sources.datasets, OTHERS], weights, strict=True):
                for labeler, value in zip(model.sources.labelers, row, strict=True):
                    pl_module.log(f"weight/{name}/{dataset}/{labeler}", value, sync_dist=True)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to collect; the features of the images are computed already, so that this costs next to nothing."""
        self._stop()
        for name, objective in _supervised(cast(HybridModule, pl_module)):
            self._losses[name] = []
            self._hooks.append(objective.register_forward_hook(partial(self._collect, name)))

    def _collect(self, name: str, objective: nn.Module, args: tuple[Step], output: object) -> None:
        self._terms.update(f"{name}/{term}" for term in cast(dict[str, Tensor], output))
        self._losses[name].append(torch.stack(cast(Supervised, objective).losses_by_labeler(args[0])).detach())

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the mean over the cells of all processes, of labelers that judged any."""
        losses, sources = self._losses, cast(HybridModule, pl_module).sources
        self._stop()
        if trainer.sanity_checking or sources is None:
            return
        for name, parts in losses.items():
            total, count = trainer.strategy.reduce(torch.stack(parts).sum(dim=0), reduce_op="sum")
            for labeler, loss, cells in zip(sources.labelers, total.tolist(), count.tolist(), strict=True):
                if cells and f"{name}/{labeler}" not in self._terms:  # a labeler may be called as a loss is
                    pl_module.log(f"val/{name}/{labeler}", loss / cells, sync_dist=True)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Stop collecting."""
        self._stop()

    def _stop(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._losses = [], {}


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
