"""The LightningDataModule: manifest, labels, channels and gold in, batches out."""

from __future__ import annotations

import hashlib
import os
import secrets
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from hybridpt.batch import Batch
from hybridpt.data.dataset import NO_TEXT, Collate, EpochSampler, ImageDataset, Loaded, Sample, Table
from hybridpt.data.frequencies import channel_gaps, contradictions
from hybridpt.data.labels import JoinedLabels, Overlap, bind, join_gold, join_labels, overlap, read_tables, truth_of_states
from hybridpt.data.manifest import image_roots, read_manifest
from hybridpt.data.quarantine import Quarantine
from hybridpt.data.sources import Sources, keyed_hash
from hybridpt.data.text import TextUnit, contrastive_units
from hybridpt.data.together import together
from labelers.channel import ChannelSet, read_channels
from labelers.errors import InputError, UsageError
from labelers.io import read_gold
from labelers.types import Vocabulary

__all__ = ["HybridDataModule"]

PREVALENCE = (0.005, 0.995)
"""Range of the prevalence at which a model starts: a prior of 0 or 1 would start at infinite log-odds."""
STAGES = ("fit", "validate", "test", "predict")


class HybridDataModule(LightningDataModule):
    """Images of a manifest with what labelers say of their reports.

    Args:
        manifest: CSV or Parquet with one row an image: image, study_id, patient_id, dataset, split (train, val, test); where known
            view, age, sex and report.
        labels: Label tables; ``DATASET=PATH`` binds one to a data set.
        channels: CHANNELS.json of ``labelers noise``; needed by the label term ``channel``.
        gold: CSV with a study id and a column a finding (1, 0 or empty), also as ``DATASET=PATH``. No fit trains on it or chooses by it:
            a fit calibrates its scores on that of val studies, validate and test score against that of theirs.
        findings: Findings to keep; by default all that the tables know.
        image_size: Side of the image in pixels.
        batch_size: Images a batch and process.
        num_workers: Processes that read images.
        strict: Stop at the first image that cannot be read, instead of leaving it out and naming it in quarantine.csv.
        seed: Seed of order and augmentation.
        text_unit: What a report is drawn as each time for an objective that contrasts it with the image: ``report``, ``section``
            (findings or impression) or ``sentence``. References to prior studies are taken out.
        image_root: A folder beside the manifest's that images may lie in, for absolute paths, paths with ``..`` and links, which are
            refused where they lead anywhere else.
        train_gold: Gold as above, of training studies: a fit trains on it as such, whatever labelers say of those studies.
    """

    def __init__(
        self,
        manifest: str,
        labels: list[str] | None = None,
        channels: str | None = None,
        gold: str | None = None,
        findings: list[str] | None = None,
        image_size: int = 224,
        batch_size: int = 32,
        num_workers: int = 2,
        strict: bool = False,
        seed: int = 0,
        image_root: str | None = None,
        text_unit: TextUnit = "report",
        train_gold: str | None = None,
    ) -> None:
        super().__init__()
        for option, value, low, high in (
            ("image_size", image_size, 8, 4096),
            ("batch_size", batch_size, 1, 1_000_000),
            ("num_workers", num_workers, 0, 1024),
            ("seed", seed, 0, 2**63 - 1),
        ):
            if not low <= value <= high:
                raise UsageError(f"--data.{option}: expected a whole number from {low} to {high}, got {value}")
        self.manifest = manifest
        self.labels = labels or []
        self.channels = channels
        self.gold = gold
        self.train_gold = train_gold
        self.findings = findings
        self.image_size = image_size
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.strict = strict
        self.seed = seed
        self.image_root = image_root
        self.text_unit = text_unit
        self.sources: Sources
        self.rows: pd.DataFrame
        self.vocabularies: tuple[Vocabulary, ...] = ()
        self.gold_used = False
        self.channel_set: ChannelSet | None = None
        self._begun: dict[str, Any] = {"epoch": 0, "batches": 0}
        self._order: EpochSampler | None = None

    def setup(self, stage: str) -> None:
        """Read and join everything but the pixels."""
        with together():
            self._read(stage)

    def _read(self, stage: str) -> None:
        model: Any = getattr(self.trainer, "lightning_module", None)
        known: Sources | None = getattr(model, "sources", None)
        self.rows = self._read_rows()
        self.channel_set = None if self.channels is None else read_channels(self.channels)
        joined = self._join(known)
        train = (self.rows["split"] == "train").to_numpy()
        if stage == "fit":
            self._check_fit(train)
        self.sources = known if known is not None else self._sources(joined, train)
        self._refuse_training_patients(stage, resumed=known is not None)
        if stage == "fit" and known is not None:  # patients who joined since the checkpoint was written
            self.sources = model.sources = self._with_patients(known, train)
        self.gold_used = self.gold is not None and stage in ("validate", "test")
        truth = np.full((len(self.rows), len(joined.findings)), np.nan, np.float32)
        if self.gold is not None and self.gold_used:
            truth = self._judged(self.gold, joined.findings, {"validate": "val", "test": "test"}[stage])
        elif stage == "fit":
            truth = self._gold_of_fit(joined.findings, train)
        self._table = self._tabulate(joined, truth)
        if stage == "fit":
            self._check_worth(model, truth)
        if stage == "fit" and self.channel_set is not None:
            self._check_channels(joined, self.channel_set, train)
        self._tokenizer = getattr(model, "tokenizer", None)
        self._views = getattr(model, "views", ())
        self._quarantine = Quarantine(
            self._folder(stage) / self._named("quarantine.csv"),
            self._table.image,
            self.rows["split"].to_numpy(object),
            self.strict,
        )

    def _read_rows(self) -> pd.DataFrame:
        """Return one row an image, checked."""
        return read_manifest(self.manifest, self.image_root)

    def _dataset(self) -> Dataset[Sample]:
        """Return the samples by row."""
        roots = image_roots(self.manifest, self.image_root)
        return ImageDataset(self._table, self.sources.image_size, self._views, roots)

    def _texts(self, reports: Sequence[str]) -> list[tuple[str, ...]]:
        """Return the texts that stand for each report."""
        return contrastive_units(reports, self.text_unit)

    def _folder(self, stage: str) -> Path:
        """Where the stage writes: the run's folder for a fit, one below it for the rest."""
        root = Path(self.trainer.default_root_dir if self.trainer is not None else os.curdir)
        name = STAGES[STAGES.index(stage)]  # Lightning gives a member of an enumeration, which is equal to it but reads otherwise
        return root if name == "fit" else root / name

    def _named(self, name: str) -> str:
        """The name of a file that each process of a distributed run writes for itself."""
        rank = 0 if self.trainer is None else self.trainer.global_rank
        return name if rank == 0 else f"process{rank}-{name}"

    def _say(self, text: str) -> None:
        if self.trainer is None or self.trainer.is_global_zero:
            print(f"hybridpt: {text}", file=sys.stderr, flush=True)

    def _say_partial(self, what: str, met: Overlap) -> None:
        if met.partial:
            self._say(f"note: {what}: {met}")

    def _judged(self, gold: str, findings: tuple[str, ...], split: str) -> np.ndarray[Any, Any]:
        dataset, path = bind(gold)
        judged = read_gold(path)
        truth = join_gold(dataset, judged, self.rows, findings)
        self._say_partial("the gold", overlap(dataset, list(judged.report_ids), self.rows))
        used = (self.rows["split"] == split).to_numpy()
        if used.any() and np.isnan(truth[used]).all():
            purpose, otherwise = ("trained on", "") if split == "train" else ("tested", " to test against labels")
            raise InputError(
                f"{path}: judges none of the {int(used.sum()):,} images that are {purpose}; give gold of their studies, or none{otherwise}"
            )
        return truth

    def _gold_of_fit(self, findings: tuple[str, ...], train: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Gold to train on, of training studies, and gold to calibrate on, of val studies whose patients were never trained on."""
        truth = np.full((len(self.rows), len(findings)), np.nan, np.float32)
        if self.train_gold is not None:
            truth[train] = self._judged(self.train_gold, findings, "train")[train]
        if self.gold is not None:
            dataset, path = bind(self.gold)
            held = self._never_trained_on("val")
            truth[held] = join_gold(dataset, read_gold(path), self.rows, findings)[held]
            self.gold_used = not np.isnan(truth[held]).all()
        return truth

    def _never_trained_on(self, split: str) -> np.ndarray[Any, Any]:
        """Rows of a split whose patients neither this model nor the one that it starts from was trained on."""
        mine = (self.rows["split"] == split).to_numpy()
        patients = self.rows["patient_id"][mine].unique()
        new = [p for p in patients if not keyed_hash([p], self.sources.patient_key) & self.sources.patients]
        return mine & self.rows["patient_id"].isin(new).to_numpy()

    def _check_channels(self, joined: JoinedLabels, channels: ChannelSet, train: np.ndarray[Any, Any]) -> None:
        """Say what has no channel, and where the labels contradict theirs.

        Raises:
            InputError: None of the channels is about these labels.
        """
        datasets = self.rows["dataset"].to_numpy(object)
        gaps = channel_gaps(joined, channels, datasets)
        if gaps and all(gap.complete for gap in gaps) and {gap.labeler for gap in gaps} == set(joined.labelers):
            raise InputError(f"{self.channels}: {gaps[0]}; measure one with 'labelers noise' on gold that judges them")
        for gap in gaps:
            self._say(f"note: {gap}; under the label term 'channel' its labels of them count for nothing")
        found = contradictions(joined, channels, datasets, self._table.study, train)
        for labeler, dataset in dict.fromkeys((c.labeler, c.dataset) for c in found):
            mine = [c for c in found if (c.labeler, c.dataset) == (labeler, dataset)]
            self._say(
                f"warning: the labels of '{labeler}' in the data set '{dataset}' contradict its channel for {len(mine)} of "
                f"{len(joined.findings)} findings, most of all {mine[0]}; measure a channel on gold of this data set, or check that "
                "labels and channels belong together"
            )

    def _join(self, known: Sources | None) -> JoinedLabels:
        tables = read_tables(self.labels)
        self.vocabularies = tuple(table.vocabulary for _, table in tables)
        union = list(dict.fromkeys(n for _, t in tables for n in t.vocabulary.names))
        findings = self.findings or (union if known is None or union else list(known.findings))
        if not findings:
            raise InputError("expected findings: give label tables with --data.labels, or names with --data.findings")
        if known is not None:
            _check_same("findings", findings, known.findings)
            findings = list(known.findings)
            if self.image_size != known.image_size:
                raise UsageError(
                    f"the checkpoint was trained on images of {known.image_size} pixels, {self.image_size} were asked for; "
                    f"give --data.image_size {known.image_size}"
                )
        joined = join_labels(tables, self.rows, findings)
        for dataset, table in tables:
            self._say_partial(f"labels of '{table.source}'", overlap(dataset, list(table.report_ids), self.rows))
        if known is None:
            return joined
        unknown = set(joined.labelers) - set(known.labelers)
        if unknown:
            raise InputError(
                f"the checkpoint was not trained on labels of '{sorted(unknown)[0]}', only of {', '.join(known.labelers) or 'none'}; leave them out"
            )
        return _spread(joined, known.labelers)

    def _check_fit(self, train: np.ndarray[Any, Any]) -> None:
        for split in ("train", "val"):
            if not (self.rows["split"] == split).any():
                raise InputError(
                    f"{self.manifest}: expected images in the split '{split}', found none; a fit needs train and val"
                )
        if not self.labels and not (self.rows.get("report", pd.Series("", self.rows.index))[train] != "").any():
            raise InputError(f"{self.manifest}: neither labels nor reports to train on; give --data.labels or a column 'report'")

    def _check_worth(self, model: Any, truth: np.ndarray[Any, Any]) -> None:
        """Refuse splits in which an objective would learn from nothing, or be judged by nothing, at a loss of zero.

        Raises:
            InputError: No image of train, or of val, has a report for an objective that contrasts reports, or a label for one that learns them.
        """
        labelled = self._table.labels.looked.any(axis=(1, 2)) | ~np.isnan(truth).all(axis=1)
        reported = np.array([len(words) > 0 for words in self._table.words])
        for name, objective in () if model is None else model.each():
            for needs, has, what, advice in (
                (objective.needs_labels, labelled, "a label", "check that tables and manifest name the same studies"),
                (objective.needs_reports, reported, "a report that describes it", "fill the column 'report'"),
            ):
                for split in ("train", "val"):
                    mine = (self.rows["split"] == split).to_numpy()
                    if needs and not has[mine].any():
                        raise InputError(
                            f"{self.manifest}: none of the {int(mine.sum()):,} images of the split '{split}' has {what}, which the objective "
                            f"'{name}' needs; {advice}, or leave the objective out"
                        )

    def _with_patients(self, sources: Sources, train: np.ndarray[Any, Any]) -> Sources:
        if not sources.patient_key:
            return sources
        return replace(
            sources, patients=sources.patients | keyed_hash(self.rows["patient_id"][train].unique(), sources.patient_key)
        )

    def _sources(self, joined: JoinedLabels, train: np.ndarray[Any, Any]) -> Sources:
        prevalence = joined.positive_share(train)
        if self.channel_set is not None:
            prior = self.channel_set.prior
            given = [prior.get(f, p) for f, p in zip(joined.findings, prevalence, strict=True)]
            prevalence = tuple(float(p) for p in np.clip(given, *PREVALENCE))
        earlier: Sources | None = getattr(getattr(self.trainer, "lightning_module", None), "inherited", None)
        key = secrets.token_hex(16) if earlier is None or not earlier.patient_key else earlier.patient_key
        return Sources(
            findings=joined.findings,
            labelers=joined.labelers,
            datasets=tuple(sorted(self.rows["dataset"].unique())),
            prevalence=prevalence,
            image_size=self.image_size,
            patients=keyed_hash(self.rows["patient_id"][train].unique(), key) | (earlier.patients if earlier else frozenset()),
            patient_key=key,
            channels=self.channel_set,
        )

    def _refuse_training_patients(self, stage: str, resumed: bool) -> None:
        split = {"fit": "val", "validate": "val", "test": "test"}.get(stage)
        if split is None or not self.sources.patient_key:
            return
        patients = self.rows["patient_id"][self.rows["split"] == split].unique()
        leaked = keyed_hash(patients, self.sources.patient_key) & self.sources.patients
        if leaked and stage == "fit" and not resumed:
            self._say(
                f"warning: {len(leaked)} patients of the split 'val' were trained on by the checkpoint of --model.init_from; the best epoch "
                "is chosen by them too, and no scores are calibrated on them"
            )
        elif leaked:
            raise InputError(
                f"{self.manifest}: {len(leaked)} patients of the split '{split}' were trained on by this checkpoint; "
                "their results would be worth nothing, take them out"
            )

    def _tabulate(self, joined: JoinedLabels, truth: np.ndarray[Any, Any]) -> Table:
        datasets = {d: i for i, d in enumerate(self.sources.datasets)}
        studies = pd.factorize(pd.MultiIndex.from_frame(self.rows[["dataset", "study_id"]]))[0]
        reports = self.rows["report"] if "report" in self.rows else [""] * len(self.rows)
        texts = self._texts(list(reports))
        numbers = {"": NO_TEXT}
        words = [tuple(numbers.setdefault(text, len(numbers)) for text in row) for row in texts]
        return Table(
            image=self.rows["image"].to_numpy(object),
            text=_column(texts),
            labels=joined,
            truth=truth,
            dataset=np.array([datasets.get(d, len(datasets)) for d in self.rows["dataset"]], np.int64),
            study=studies.astype(np.int64),
            words=_column(words),
        )

    def _loader(self, split: str | None, train: bool = False) -> DataLoader[Sample]:
        rows = np.flatnonzero((self.rows["split"] == split).to_numpy() if split else np.ones(len(self.rows), bool))
        if not len(rows):
            raise InputError(f"{self.manifest}: expected images in the split '{split}', found none")
        sampler = EpochSampler(rows, self.seed if train else None)
        if train:
            self._order = sampler
            self._go_on()
        return DataLoader(
            self._dataset(),
            batch_size=self.batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            collate_fn=Collate(self._table, self._tokenizer),
            drop_last=train and len(rows) >= self.batch_size,
            persistent_workers=self.num_workers > 0,
        )

    def _go_on(self) -> None:
        """Let the order of the training images begin where the run of a checkpoint was."""
        if self._order is not None:
            self._order.go_on(self._begun["epoch"], self._begun["batches"] * self.batch_size)

    def state_dict(self) -> dict[str, Any]:
        """Where in which epoch this is, which Lightning's own state does not tell in time for the loaders to be made."""
        if self.trainer is None:
            return {}
        loop = self.trainer.fit_loop
        epoch, batches = loop.epoch_progress.current.ready - 1, loop.epoch_loop.batch_progress.current.completed
        if batches >= self.trainer.num_training_batches:  # loaders with workers read ahead before they are told the epoch
            epoch, batches = epoch + 1, 0
        return {
            "epoch": max(epoch, 0),
            "batches": batches,
            "batch_size": self.batch_size,
            "processes": self.trainer.world_size,
            "images": self._images(),
        }

    def _images(self) -> str:
        """A hash of the training images and their rows."""
        train = self.rows[self.rows["split"] == "train"]
        return hashlib.sha256("\n".join(f"{row} {image}" for row, image in train["image"].items()).encode()).hexdigest()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take note of where the run of a checkpoint was.

        Raises:
            UsageError: It was in the middle of an epoch, whose rest needs batches of the same size of the same images, and those are others;
                or an objective remembers the images by their rows.
        """
        if self.trainer is None or self.trainer.state.fn != "fit":
            return
        self._begun = {**self._begun, **state_dict}
        with together():
            self._check_begun(self.trainer)
        self._go_on()  # FSDP loads a checkpoint when the loaders have been made

    def _check_begun(self, trainer: Any) -> None:
        before = {name: self._begun.get(name) for name in ("batch_size", "processes")}
        now = {"batch_size": self.batch_size, "processes": trainer.world_size}
        if self._begun["batches"] and before != now:
            was, given = (f"{s['batch_size']} images a batch on {s['processes']} process(es)" for s in (before, now))
            if before["processes"] == now["processes"]:
                was, given = f"{before['batch_size']} images a batch", str(now["batch_size"])
            raise UsageError(
                f"the checkpoint was written in the middle of an epoch with {was}, not {given}; go on with the same, "
                "or from a checkpoint of the end of an epoch"
            )
        model: Any = trainer.lightning_module
        remembers = next((name for name, objective in model.each() if objective.remembers_rows), None)
        if self._begun.get("images", self._images()) != self._images() and (self._begun["batches"] or remembers):
            reason = f"and its objective '{remembers}' keeps something of each" if remembers else "in the middle of an epoch"
            raise UsageError(
                f"{self.manifest}: the checkpoint was trained on other images ({reason}); go on with the same manifest, or begin a new fit "
                "with --model.init_from"
            )

    @property
    def finished_epochs(self) -> int | None:
        """How many epochs the run of the checkpoint had behind it when it was written; None in the middle of one."""
        return None if self._begun["batches"] else int(self._begun["epoch"])

    def train_dataloader(self) -> DataLoader[Sample]:
        """Training images, in a new order and augmentation each epoch."""
        return self._loader("train", train=True)

    def val_dataloader(self) -> DataLoader[Sample]:
        """Validation images."""
        return self._loader("val")

    def test_dataloader(self) -> DataLoader[Sample]:
        """Test images."""
        return self._loader("test")

    def predict_dataloader(self) -> DataLoader[Sample]:
        """Every image of the manifest."""
        return self._loader(None)

    def truth(self, rows: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], str]:
        """Return the truth of some rows, (N, K) with nan, and what to write behind a task's name: "" for gold, "/labels" else."""
        labels = self._table.labels
        if not self.gold_used and not labels.labelers:
            raise InputError("nothing to test against; give gold with --data.gold, or label tables with --data.labels")
        if self.gold_used:
            return self._table.truth[rows], ""
        return truth_of_states(labels.state[rows], labels.looked[rows]), "/labels"

    @property
    def unread(self) -> frozenset[int]:
        """Rows whose image could not be read; a batch of nothing else holds a black image in the place of one."""
        return frozenset(self._quarantine.reasons)

    def on_before_batch_transfer(self, batch: Loaded, dataloader_idx: int) -> Batch:
        """Take the unreadable images out of the stream and account for them."""
        self._quarantine.add(batch.failed)
        return batch.batch

    def teardown(self, stage: str) -> None:
        """Say how many images could not be read."""
        if self._quarantine.reasons:
            print(f"hybridpt: {self._quarantine}", file=sys.stderr, flush=True)


def _column(values: Sequence[Any]) -> np.ndarray[Any, Any]:
    """One object a row, also where all are tuples of one length."""
    return np.fromiter(values, object, len(values))


def _check_same(what: str, given: list[str], known: tuple[str, ...]) -> None:
    missing, extra = set(known) - set(given), set(given) - set(known)
    if missing or extra:
        parts = [
            f"{label}: {', '.join(sorted(names)[:5])}"
            for label, names in (("lacking", missing), ("unknown to it", extra))
            if names
        ]
        raise InputError(
            f"the labels' {what} are not the checkpoint's ({len(given)} against {len(known)}; {'; '.join(parts)}); "
            "give label tables of the same vocabulary, or name the checkpoint's with --data.findings"
        )


def _spread(joined: JoinedLabels, labelers: tuple[str, ...]) -> JoinedLabels:
    """Bring the labelers into the model's order; one that is not given did not look."""
    n, _, k = joined.state.shape
    order = [joined.labelers.index(name) if name in joined.labelers else -1 for name in labelers]

    def take(values: np.ndarray[Any, Any], fill: float) -> np.ndarray[Any, Any]:
        padded = np.concatenate([values, np.full((n, 1, k), fill, values.dtype)], axis=1)
        return padded[:, order]

    return JoinedLabels(joined.findings, labelers, take(joined.state, 3), take(joined.probability, 0), take(joined.looked, False))
