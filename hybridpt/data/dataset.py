"""Rows of a manifest to samples, samples to a batch, and the order in which they come."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset, Sampler

from hybridpt.batch import Batch, View
from hybridpt.data.images import UnreadableImage, read_image
from hybridpt.data.labels import JoinedLabels
from hybridpt.data.transforms import augment, crop, standard

__all__ = ["NO_TEXT", "Collate", "EpochSampler", "ImageDataset", "Key", "Loaded", "Sample", "Table"]

NO_TEXT = 0
"""Number of the text of an image without a report."""

Tokenizer = Callable[[Sequence[str]], tuple[Tensor, Tensor]]


@dataclass(frozen=True, eq=False)
class Table:
    """Everything known of N images but their pixels, in the order of the manifest.

    Attributes:
        image: Paths, (N,).
        text: Texts of which one is drawn each time for the report, none where there is no report, (N,) of tuples.
        labels: What the labelers say.
        truth: Gold, (N, K) float32, nan where not judged.
        dataset: Index of the data set, (N,) int64.
        study: Number of the study, (N,) int64.
        words: Numbers of those texts, equal for equal ones, (N,) of tuples.
    """

    image: NDArray[np.object_]
    text: NDArray[np.object_]
    labels: JoinedLabels
    truth: NDArray[np.float32]
    dataset: NDArray[np.int64]
    study: NDArray[np.int64]
    words: NDArray[np.object_]


class Key(NamedTuple):
    """What is asked of a dataset: a row, the seed of its augmentation (none for none), and whether it comes again in this epoch."""

    row: int
    seed: int | None = None
    again: bool = False


class Sample(NamedTuple):
    """One image: how it was asked for, its pixels, its further views, and why it could not be read ("" where it could)."""

    key: Key
    image: Tensor
    views: dict[str, Tensor]
    failure: str


class ImageDataset(Dataset[Sample]):
    """Samples of some rows of a table.

    Args:
        table: All images.
        size: Side of the standard image in pixels.
        views: Further crops to cut from each image.
        roots: Real paths of the folders that images may lie in; none for anywhere.
    """

    def __init__(self, table: Table, size: int, views: Sequence[View] = (), roots: Sequence[str] = ()) -> None:
        self.table = table
        self.size = size
        self.views = tuple(views)
        self.roots = tuple(roots)

    def __getitem__(self, key: Key) -> Sample:
        try:
            pixels = read_image(self.table.image[key.row], self.roots)
        except UnreadableImage as error:
            blank = {v.name: torch.zeros(v.count, 1, v.size, v.size) for v in self.views}
            return Sample(key, torch.zeros(1, self.size, self.size), blank, str(error))
        generator = torch.Generator()
        generator.manual_seed(0 if key.seed is None else key.seed)
        image = standard(pixels, self.size) if key.seed is None else augment(pixels, self.size, generator)
        return Sample(key, image, {v.name: crop(pixels, v, generator) for v in self.views}, "")


class EpochSampler(Sampler[Key]):
    """Rows in an order that depends on seed and epoch alone, shared out among the processes of a distributed run.

    The first rows come again at the end where some process would have fewer than the others.

    Args:
        rows: Rows to visit.
        seed: Seed of order and augmentation; None for the order given and no augmentation.
    """

    def __init__(self, rows: NDArray[np.int64], seed: int | None) -> None:
        self.rows = rows
        self.seed = seed
        self.go_on(0, 0)

    def go_on(self, epoch: int, done: int) -> None:
        """Begin in an epoch of which this process has visited ``done`` rows before, which are left out of it."""
        self.epoch = epoch
        self._begun = (epoch, done)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; Lightning calls this before each one."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.rows) // _world()[1])

    def __iter__(self) -> Iterator[Key]:
        rank, world = _world()
        rows = self.rows
        if self.seed is not None:
            rows = np.random.default_rng([self.seed, self.epoch]).permutation(rows)
        rows = np.resize(rows, len(self) * world)[rank::world].tolist()
        first, done = self._begun
        for place in range(done if self.epoch == first else 0, len(rows)):
            row = rows[place]
            seed = (
                None if self.seed is None else ((self.seed * 1_000_003 + self.epoch) * 2**32 + row) % 2**64
            )  # as torch takes it
            yield Key(row, seed, place * world + rank >= len(self.rows))


def _world() -> tuple[int, int]:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


class Loaded(NamedTuple):
    """A batch, and the rows left out of it because their image could not be read, with the reason."""

    batch: Batch
    failed: list[tuple[int, str]]


@dataclass(frozen=True, eq=False)
class Collate:
    """Samples to a batch: adds what the table knows of them, and tokens.

    Samples that could not be read are left out; if none could, one is kept as a black image. Of that, and of what comes again, nothing is
    known, so that no loss counts it.
    """

    table: Table
    tokenizer: Tokenizer | None

    def __call__(self, samples: Sequence[Sample]) -> Loaded:
        """Build the batch of some samples."""
        failed = [(s.key.row, s.failure) for s in samples if s.failure]
        kept = [s for s in samples if not s.failure] or samples[:1]
        batch = self._batch(kept)
        unknown = torch.tensor([bool(s.failure) or s.key.again for s in kept])
        batch["looked"][unknown] = False
        batch["has_text"][unknown] = False
        batch["truth"][unknown] = torch.nan
        return Loaded(batch, failed)

    def _draw(self, sample: Sample) -> tuple[str, int]:
        """Return the text that stands for the report this time, and its number; the row's own one where nothing is to be random."""
        row, seed, _ = sample.key
        texts = self.table.text[row]
        if not texts:
            return "", NO_TEXT
        draws = np.random.default_rng([row, 0 if seed is None else seed])
        at = int(draws.integers(len(texts))) if len(texts) > 1 else 0
        return str(texts[at]), int(self.table.words[row][at])

    def _batch(self, samples: Sequence[Sample]) -> Batch:
        rows = np.array([s.key.row for s in samples], np.int64)
        drawn = [self._draw(s) for s in samples]
        texts = [text for text, _ in drawn]
        numbers = [torch.tensor(self.table.words[row], dtype=torch.int64) for row in rows]
        if self.tokenizer is None:
            tokens, mask = torch.zeros(len(rows), 0, dtype=torch.int64), torch.zeros(len(rows), 0, dtype=torch.bool)
        else:
            tokens, mask = self.tokenizer(texts)
        labels = self.table.labels
        return Batch(
            image=torch.stack([s.image for s in samples]),
            views={name: torch.stack([s.views[name] for s in samples]) for name in samples[0].views},
            tokens=tokens,
            token_mask=mask,
            has_text=torch.tensor([bool(t) for t in texts]),
            state=torch.from_numpy(labels.state[rows].astype(np.int64)),
            probability=torch.from_numpy(labels.probability[rows]),
            looked=torch.from_numpy(labels.looked[rows]),
            truth=torch.from_numpy(self.table.truth[rows]),
            dataset=torch.from_numpy(self.table.dataset[rows]),
            study=torch.from_numpy(self.table.study[rows]),
            words=torch.tensor([word for _, word in drawn]),
            said=pad_sequence(numbers, batch_first=True, padding_value=-1),
            row=torch.from_numpy(rows),
        )
