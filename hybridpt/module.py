"""The LightningModule: encode, ask each objective, weight, sum, log."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from lightning import LightningModule
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.utilities import GradClipAlgorithmType
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from hybridpt.batch import Batch, View
from hybridpt.data.images import read_image
from hybridpt.data.sources import Sources
from hybridpt.data.together import together
from hybridpt.data.transforms import standard
from hybridpt.encoders import ImageEncoder, TextEncoder
from hybridpt.functional.platt import Platt
from hybridpt.functional.pool import Pool
from hybridpt.means import EpochMeans
from hybridpt.noise import log_channels, pool_of
from hybridpt.nonfinite import FiniteWatch, Trouble, nonfinite_path, stop_for
from hybridpt.objectives import Encoders, Objective, Step
from hybridpt.optimization import adamw, freeze_layers, move, parameter_groups, undecayed, warmup_cosine
from hybridpt.sharding import clip_norm, prepare
from hybridpt.text_fit import TextFit
from labelers.channel import ChannelSet
from labelers.errors import UsageError

__all__ = ["CHECKPOINT_KEY", "CHECKPOINT_VERSION", "HybridModule"]

CHECKPOINT_KEY = "hybridpt"
CHECKPOINT_VERSION = 2


class HybridModule(LightningModule):
    """An image encoder, and a text encoder where there is one, trained by a weighted sum of objectives.

    Args:
        image_encoder: Pixels to features.
        objectives: Named objectives; the names appear in the logs.
        text_encoder: Token ids to a vector, for objectives that use text.
        lr: Peak learning rate of AdamW.
        weight_decay: Decay of matrices; norms, biases, temperatures and prototypes have none.
        warmup: Share of the steps in which the learning rate rises, in [0, 1); it then falls by a cosine to the last step.
        layer_decay: Factor of the learning rate from each layer of the image encoder to the one before it, in (0, 1].
        frozen_layers: Layers of the image encoder, from the input on, that stay as they are; -1 for all.
        ema: Decay a step of a running mean of the weights, in (0, 1), which is then validated, tested and saved; None for none.
        chunk: Rows that go through an encoder at a time, None for all: with it a batch of any size fits, at the price of a second forward
            pass, and every row of the batch is still a contrastive negative of every other, which accumulated batches are not.
        compile: Compile the image encoder.
        init_from: A checkpoint of hybridpt whose encoders a new training starts from; to go on with a run is --ckpt_path.

    Raises:
        UsageError: No objective, one that needs another beside it, or a number out of its range.
    """

    def __init__(
        self,
        image_encoder: ImageEncoder,
        objectives: dict[str, Objective],
        text_encoder: TextEncoder | None = None,
        lr: float = 3e-4,
        weight_decay: float = 0.05,
        warmup: float = 0.05,
        layer_decay: float = 1.0,
        frozen_layers: int = 0,
        ema: float | None = None,
        chunk: int | None = None,
        compile: bool = False,
        init_from: str | None = None,
    ) -> None:
        super().__init__()
        if not objectives:
            raise UsageError("expected one objective or more; name them under --model.objectives")
        _check_numbers(lr, weight_decay, warmup, layer_decay, ema, chunk)
        self.encoders = Encoders(image_encoder, text_encoder)
        self.objectives = nn.ModuleDict(objectives)
        self._text_fit = TextFit(self.objectives)
        self.lr = lr
        self.weight_decay = weight_decay
        self.warmup = warmup
        self.layer_decay = layer_decay
        self.ema = ema
        self.chunk = chunk
        self.init_from = init_from
        if compile and image_encoder is not None:
            image_encoder.compile()
        self._still = [] if image_encoder is None or frozen_layers == 0 else freeze_layers(image_encoder, frozen_layers)
        self.sources: Sources | None = None
        self.inherited: Sources | None = None
        """What the encoders' starting weights were trained on, so that those patients are refused in an evaluation too."""
        self._watch = FiniteWatch()
        self._means = EpochMeans()
        self._accumulated: list[Tensor] = []
        self._ahead = 0
        """Steps that the schedule stands ahead of those taken: it goes by epochs, which may have had other steps before."""
        self.config: dict[str, Any] | None = None
        """The model's part of the configuration in plain types, kept in checkpoints; set by the command line."""

    @property
    def tokenizer(self) -> Any:
        """The text encoder's tokenizer, or None."""
        return None if self.encoders.text is None else self.encoders.text.tokenizer

    @property
    def views(self) -> tuple[View, ...]:
        """The crops that the objectives ask for, each once."""
        return tuple(dict.fromkeys(view for _, objective in self.each() for view in objective.views))

    @property
    def tasks(self) -> dict[str, str]:
        """How the scores of each objective are called in results."""
        return {name: objective.task for name, objective in self.each()}

    def each(self) -> list[tuple[str, Objective]]:
        """Return the objectives with their names."""
        return [(name, cast(Objective, objective)) for name, objective in self.objectives.items()]

    def build(self, sources: Sources) -> None:
        """Make what depends on findings, labelers and data sets; once, before training or loading."""
        self.sources = sources
        log_channel = log_channels(sources.channels, sources.labelers, sources.datasets, sources.findings)
        self.register_buffer("log_channel", log_channel)
        pool = pool_of(sources.channels, sources.labelers, sources.findings)
        self.register_buffer("pool_exponents", pool.exponents)
        self.register_buffer("pool_strongest", pool.strongest)
        self.calibration = nn.ModuleDict({name: Platt(len(sources.findings)) for name in self.objectives})
        for _, objective in self.each():
            objective.build(self.encoders, sources)
        self._spared = undecayed(self)  # before a strategy shards the parameters, which flattens them

    def setup(self, stage: str) -> None:
        """Build from what the data say, unless a checkpoint said it already.

        Raises:
            UsageError: The data lack what an objective needs, the image encoder does not take their images, or options that do not go
                together.
        """
        with together():
            if self.encoders.image is not None:
                self.encoders.image.check_size(self.trainer.datamodule.image_size)  # type: ignore[attr-defined]
        if self.sources is None:
            sources: Sources = self.trainer.datamodule.sources  # type: ignore[attr-defined]
            with together():
                for _, objective in self.each():
                    objective.check(sources)
                self.build(sources)
        prepare(self.trainer, self.ema)
        if isinstance(self.trainer.strategy, FSDPStrategy | ModelParallelStrategy | DeepSpeedStrategy):
            self.encoders.memory = None  # they gather weights inside the forward pass, which no process may leave out

    def on_fit_start(self) -> None:
        """Go into training mode, and refuse batches that add up under a contrast, and channels that a resumed checkpoint overrides.

        Raises:
            UsageError: As described.
        """
        self._refuse_accumulation()
        self.train()  # Lightning keeps the modes it finds, and a loaded encoder is in that of evaluation
        given: ChannelSet | None = self.trainer.datamodule.channel_set  # type: ignore[attr-defined]
        if given is None or self.sources is None:
            return
        wanted = log_channels(given, self.sources.labelers, self.sources.datasets, self.sources.findings)
        pool = pool_of(given, self.sources.labelers, self.sources.findings)
        kept = (cast(Tensor, self.log_channel), *self.pool)
        if not all(torch.allclose(new.to(self.device), old, atol=1e-6) for new, old in zip((wanted, *pool), kept, strict=True)):
            raise UsageError(
                "the channels given are not those that the checkpoint was trained with; give those, or start a new run"
            )

    def _refuse_accumulation(self) -> None:
        """A contrast over each of several small batches is not the contrast over the large one that they are meant to make up."""
        scheduled = [c.scheduling.values() for c in self.trainer.callbacks if isinstance(c, GradientAccumulationScheduler)]  # type: ignore[attr-defined]
        parts = max(self.trainer.accumulate_grad_batches, *(n for values in scheduled for n in values), 1)
        name = next((name for name, objective in self.each() if objective.contrasts), None)
        if name is None or parts == 1:
            return
        size: int = self.trainer.datamodule.batch_size  # type: ignore[attr-defined]
        chunk = size if self.chunk is None else min(size, self.chunk)
        raise UsageError(
            f"--trainer.accumulate_grad_batches {parts}: the objective '{name}' contrasts the rows of a batch, and would see those of one "
            f"small batch at a time; give --data.batch_size {size * parts} --model.chunk {chunk} in its place, which needs hardly more memory"
        )

    @property
    def llr(self) -> Tensor:
        """What each state is worth as a log-likelihood ratio, (D + 1, S, K, 4) float32."""
        absent, present = cast(Tensor, self.log_channel).unbind(-2)
        return present - absent

    @property
    def pool(self) -> Pool:
        """How far the labelers' ratios add up."""
        return Pool(cast(Tensor, self.pool_exponents), cast(Tensor, self.pool_strongest))

    def losses(self, batch: Batch, progress: float = 1.0) -> dict[str, Tensor]:
        """Return every loss under ``objective/term``, and their weighted sum under ``loss``; scalars."""
        return self._losses(self._step(batch, progress))

    def _step(self, batch: Batch, progress: float = 1.0) -> Step:
        return Step(batch, self.encoders, self.llr, progress, self.chunk if self.training else None, self.pool)

    def _losses(self, step: Step) -> dict[str, Tensor]:
        named: dict[str, Tensor] = {}
        total = torch.zeros((), device=step.batch["image"].device)
        for name, objective in self.each():
            for term, value in objective(step).items():
                named[f"{name}/{term}"] = value
                total = total + objective.weight * value
        if not self.training:
            self._text_fit.see(step)
        return {**named, "loss": total}

    def scores(self, batch: Batch) -> dict[str, Tensor]:
        """Return P(present) by every objective that gives one, each (B, K) float32, calibrated where gold allowed it."""
        return {name: torch.sigmoid(self.calibration[name](z)) for name, z in self._logits(self._step(batch)).items()}

    def _logits(self, step: Step) -> dict[str, Tensor]:
        """Log-odds by every objective that gives them, as they come, (B, K) float32 each."""
        logits = {name: objective.logits(step) for name, objective in self.each()}
        return {name: z.float() for name, z in logits.items() if z is not None}

    def on_train_start(self) -> None:
        """Go on at the share of the schedule that the finished epochs were, also where an epoch has other steps than before."""
        schedule = cast(LambdaLR, self.lr_schedulers())
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        epochs, total = data.finished_epochs, self.trainer.estimated_stepping_batches
        accumulation = any(isinstance(c, GradientAccumulationScheduler) for c in self.trainer.callbacks)  # type: ignore[attr-defined]
        if (
            epochs
            and self.trainer.max_epochs
            and self.trainer.max_epochs > 0
            and total != self.trainer.max_steps
            and not accumulation
        ):
            move(schedule, round(epochs * int(total) / self.trainer.max_epochs))
        self._ahead = schedule.last_epoch - self.trainer.global_step

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Compute and log the losses of a batch."""
        steps = max(1, int(self.trainer.estimated_stepping_batches))
        losses = self.losses(batch, (self.trainer.global_step + self._ahead) / steps)
        named = {f"train/{name}": value.detach() for name, value in losses.items()}
        self.log_dict(named, batch_size=len(batch["row"]), on_step=True, on_epoch=False)
        self._look("train", losses, [batch["row"]], batch)
        self._accumulated.append(batch["row"])
        return losses["loss"]

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Collect the losses of a batch for the means of the epoch.

        Returns:
            In a fit, log-odds by objective, not calibrated, which a callback of ``hybridpt.evaluation`` calibrates; else nothing.
        """
        step = self._step(batch)
        losses = self._losses(step)
        self._look("val", losses, [batch["row"]], batch)
        rows = torch.tensor(len(batch["row"]), device=losses["loss"].device)
        counts = {f"{name}/{term}": count for name, objective in self.each() for term, count in objective.counts(step).items()}
        del losses["loss"]
        self._means.add(losses, {name: counts.get(name, rows) for name in losses})
        return self._logits(step) if self.trainer.state.fn == "fit" else {}

    def on_validation_start(self) -> None:
        """Begin to collect the losses, and in a fit what tells how well reports describe images."""
        self._means = EpochMeans()
        if self.trainer.state.fn == "fit" and not self.trainer.sanity_checking:
            self._text_fit.begin()

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Look at the norm of the gradients; under a scaler, which skips a step with infinite ones by itself, at nothing."""
        rows, self._accumulated = self._accumulated, []
        if self.trainer.scaler is None:
            gradients = [p.grad for p in self.parameters() if p.grad is not None]
            self._look("train", {"gradients": torch.nn.utils.get_total_norm(gradients)}, rows)

    def configure_gradient_clipping(
        self, optimizer: torch.optim.Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip as the trainer says, also where Lightning itself refuses: the norm over all shards, and beside a fused optimizer."""
        if gradient_clip_val and gradient_clip_algorithm in (None, "norm") and clip_norm(self.trainer, gradient_clip_val):
            return
        precision = self.trainer.precision_plugin
        if isinstance(precision, MixedPrecision) and precision.scaler is None:
            # Its check is for gradients that are still scaled.
            clip = super(MixedPrecision, precision).clip_gradients
            clip(optimizer, gradient_clip_val or 0, GradClipAlgorithmType(gradient_clip_algorithm or "norm"))
            return
        self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def on_train_epoch_end(self) -> None:
        """Take no step's losses and gradients on trust into the next epoch."""
        self._stop_for(self._watch.settle())

    def on_validation_epoch_end(self) -> None:
        """Log the mean losses, their sum, and ``val/criterion``, by which the best checkpoint is chosen; and what each data set's text is worth."""
        self._stop_for(self._watch.settle())
        means = self._means.take(partial(self.trainer.strategy.reduce, reduce_op="sum"))
        if means:
            weights = {name: objective.weight for name, objective in self.each()}
            loss = torch.stack([weights[name.rpartition("/")[0]] * mean for name, mean in means.items()]).sum()
            criterion = next((mean for name, mean in means.items() if name.endswith("/nll")), loss)
            means |= {"loss": loss, "criterion": criterion}
            self.log_dict({f"val/{name}": mean for name, mean in means.items()}, sync_dist=True)
        if self.sources is not None:
            for name, value in self._text_fit.measure(self.sources.datasets, self.device).items():
                self.log(f"text_weight/{name}", value.to(self.device), sync_dist=True)

    def on_validation_end(self) -> None:
        """Hand that to the contrasts; only now, since a running mean of the weights has stood in their place until the callbacks ended."""
        self._text_fit.end()

    def _look(self, stage: str, values: dict[str, Tensor], rows: Sequence[Tensor], batch: Batch | None = None) -> None:
        moment = (stage, self.trainer.current_epoch, self.trainer.global_step)
        self._stop_for(self._watch.look(values, Trouble(*moment, tuple(rows), batch)))

    def _stop_for(self, trouble: Trouble | None) -> None:
        if trouble is not None:
            stop_for(trouble, self.trainer.datamodule.rows, nonfinite_path(self.trainer))  # type: ignore[attr-defined]

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Return the scores of a batch; a callback of ``hybridpt.evaluation`` turns them into rows."""
        return self.scores(batch)

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Return the scores of a batch."""
        return self.scores(batch)

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Tell the objectives that the weights moved."""
        if (batch_idx + 1) % self.trainer.accumulate_grad_batches == 0 or self.trainer.is_last_batch:
            for _, objective in self.each():
                objective.after_step(self.encoders)

    def train(self, mode: bool = True) -> HybridModule:
        """Switch to training mode; frozen layers stay in evaluation mode, so that their statistics do not move."""
        super().train(mode)
        for module in self._still:
            module.eval()
        return self

    def configure_optimizers(self) -> Any:
        """AdamW; linear warm-up, then a cosine that ends where training ends."""
        groups = parameter_groups(self, self.encoders.image, self.lr, self.weight_decay, self.layer_decay, self._spared)
        optimizer = adamw(groups, self.lr, scaled=getattr(self.trainer.precision_plugin, "scaler", None) is not None)
        steps = max(1, int(self.trainer.estimated_stepping_batches))
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": warmup_cosine(optimizer, steps, self.warmup), "interval": "step"},
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put findings, labelers, data sets and the model's configuration into the checkpoint, in plain types.

        Raises:
            InputError: The last step's losses or gradients are not finite: what follows from them is not saved.
        """
        self._stop_for(self._watch.settle())
        if self.sources is None:
            raise RuntimeError("a model that was never built has nothing to save; call build or fit first")
        encoders = [e for e in (self.encoders.image, self.encoders.text) if e is not None]
        checkpoint[CHECKPOINT_KEY] = {
            "version": CHECKPOINT_VERSION,
            "sources": self.sources.to_dict(),
            "model": self.config,
            "kept": {name: entry for encoder in encoders for name, entry in encoder.kept.items()},
        }

    @torch.inference_mode()
    def predict(self, images: Sequence[str | Path] | Tensor, batch_size: int = 32) -> pd.DataFrame:
        """Score images with the supervised head, or zero-shot where there is none; calibrated where the fit had gold for it.

        Args:
            images: Paths, or pixels (N, 1, H, W) float32 in [0, 1].
            batch_size: Images at a time.

        Returns:
            P(present), one row an image in the order given, one column a finding.

        Raises:
            UsageError: The model was not trained or loaded, or no objective scores findings.
            hybridpt.data.images.UnreadableImage: A path holds no image.
        """
        if self.sources is None:
            raise UsageError("the model has no findings yet; train it, or load it with hybridpt.load")
        self.eval()
        size = self.sources.image_size
        rows = []
        for first in range(0, len(images), batch_size):
            part = images[first : first + batch_size]
            pixels = part if isinstance(part, Tensor) else torch.stack([standard(read_image(p), size) for p in part])
            rows.append(self._best_scores(self._step(_bare(pixels.to(self.device)))).cpu().numpy())
        body = np.concatenate(rows) if rows else np.empty((0, len(self.sources.findings)), np.float32)
        return pd.DataFrame(body, columns=list(self.sources.findings))

    def _best_scores(self, step: Step) -> Tensor:
        """P(present) by the first objective that says something of findings, supervised ones before others; the rest is not computed."""
        for name, objective in sorted(self.each(), key=lambda named: named[1].task != "supervised"):
            logits = objective.logits(step)
            if logits is not None:
                return torch.sigmoid(self.calibration[name](logits))
        raise UsageError("no objective of this model scores findings")


def _check_numbers(
    lr: float, weight_decay: float, warmup: float, layer_decay: float, ema: float | None, chunk: int | None
) -> None:
    for name, value, fine, expected in (
        ("lr", lr, 0 < lr < math.inf, "a finite number above 0"),
        ("weight_decay", weight_decay, 0 <= weight_decay < math.inf, "a finite number from 0"),
        ("warmup", warmup, 0 <= warmup < 1, "a number from 0 to below 1"),
        ("layer_decay", layer_decay, 0 < layer_decay <= 1, "a number above 0, at most 1"),
        ("ema", ema, ema is None or 0 < ema < 1, "a number between 0 and 1"),
        ("chunk", chunk, chunk is None or chunk > 0, "a number from 1"),
    ):
        if not fine:
            raise UsageError(f"--model.{name}: expected {expected}, got {value}")


def _bare(image: Tensor) -> Batch:
    """A batch of pixels alone."""
    return cast(Batch, {"image": image})
