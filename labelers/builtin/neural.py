"""The labeler "neural": a text encoder with a four-state head per finding, CheXbert's or one that was trained here."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labelers.errors import InputError, UsageError, unknown_name
from labelers.neural_files import ReportNetwork, read_checkpoint, read_folder
from labelers.sections import IMPRESSION, SILENT, split_reports, split_sections
from labelers.types import UNMENTIONED, LabelTable, Report, Vocabulary, binary_entropy

__all__ = ["Neural"]

SECTIONS = ("findings+impression", "impression")
LENGTHS = (32, 64, 128, 256)
"""Tokens that a text is padded to: the least of these that holds it, else the longest that the network reads."""
GPU_ROWS = 64
"""Texts at a time on a GPU. A CPU takes one: as much work, and what comes out cannot depend on its neighbours."""
RANK = np.array([3, 1, 2, 0], np.int64)
"""Which of two windows of a text is believed: positive over uncertain over negative over unmentioned."""


class Neural:
    """Transformer with a four-state head per finding: CheXbert's checkpoint, or a model of 'hybridpt fit'.

    The state is the likeliest of the softmax, the probability the sum over states of q(state) P(present | state). A text that is
    longer than the network reads is cut between sentences into windows; a finding is as the window says that speaks of it most
    (positive, else uncertain, else negative). The same text gives the same bits whatever else is in the batch: it is padded to one
    of a few lengths and goes through kernels of one shape, in one thread of a CPU (``--jobs N`` uses N).
    """

    name = "neural"
    version = "1"
    requires = ("torch", "transformers")

    def __init__(
        self, model: Path, tokenizer: str | None = None, sections: str = "findings+impression", device: str = "auto"
    ) -> None:
        """Load the network.

        Args:
            model: The folder of a run of ``hybridpt fit`` or the labeler's folder in it, or CheXbert's ``chexbert.pth``.
            tokenizer: For CheXbert, a folder with bert-base-uncased's vocab.txt.
            sections: ``findings+impression``, or ``impression``, which CheXbert was trained on; a report that has none is read whole.
            device: ``cpu``, ``cuda``, ``cuda:1``, or ``auto``: a GPU where there is one. On a GPU it computes in bfloat16.

        Raises:
            InputError: The model is missing, damaged, or of another kind.
            UsageError: An unknown section or device, or a tokenizer where none belongs or none where one does.
        """
        if sections not in SECTIONS:
            raise unknown_name("value of the option sections", sections, SECTIONS)
        self._impression = sections == "impression"
        self._device = _device(device)
        self._network = _load(model, tokenizer, self._device)
        self.name = self._network.name
        self.version = self._network.version
        self.vocabulary: Vocabulary = self._network.vocabulary

    def label(self, reports: Sequence[Report]) -> LabelTable:
        """Label reports; a row depends on its own report alone, and each distinct text is read once."""
        texts = [self._text(report.text) for report in reports]
        originals = {text: report.text for text, report in zip(texts, reports, strict=True) if text}
        numbers = {text: number for number, text in enumerate(originals)}
        shape = (len(numbers) + 1, len(self.vocabulary))
        state = np.full(shape, UNMENTIONED, np.int8)  # the last row is that of a text that says nothing
        probability = np.tile(self._network.probability[:, UNMENTIONED].astype(np.float32), (shape[0], 1))
        if numbers:
            tokens, owner = self._windows(originals)
            state[:-1], probability[:-1] = self._believed(self._run(tokens), owner)
        rows = np.array([numbers.get(text, len(numbers)) for text in texts], np.int64)
        return LabelTable(
            report_ids=np.array([report.report_id for report in reports], object),
            vocabulary=self.vocabulary,
            state=state[rows],
            probability=probability[rows],
            uncertainty=binary_entropy(probability[rows]),
            source=self.name,
            version=self.version,
        )

    def _text(self, text: str) -> str:
        """The sections to be read, without headers."""
        found = [section for section in split_sections(text) if section.kind != SILENT]
        chosen = [section for section in found if section.kind == IMPRESSION] if self._impression else found
        return " ".join(_plain(text[section.start : section.end]) for section in chosen or found)

    def _windows(self, originals: Mapping[str, str]) -> tuple[list[list[int]], NDArray[np.int64]]:
        """Return the tokens of each window, none longer than the network reads, and the number of its text.

        Args:
            originals: Each text to be read, with a report that it was taken from.
        """
        whole = self._tokens(list(originals))
        longest = self._network.max_length
        tokens: list[list[int]] = []
        owner: list[int] = []
        for number, (found, report) in enumerate(zip(whole, originals.values(), strict=True)):
            parts = [found] if len(found) <= longest else self._tokens(self._cut(report))
            tokens += [part[:longest] for part in parts]
            owner += [number] * len(parts)
        return tokens, np.array(owner, np.int64)

    def _tokens(self, texts: list[str]) -> list[list[int]]:
        found: list[list[int]] = self._network.tokenizer(texts, verbose=False)["input_ids"]
        return found

    def _cut(self, report: str) -> list[str]:
        """Cut a report into stretches of whole sentences that the network can read, a sentence that is too long by itself in halves."""
        room = self._network.max_length
        found = split_reports([report])
        chosen = found.kind == IMPRESSION if self._impression and IMPRESSION in found.kind else np.ones(len(found.kind), bool)
        pieces = [_plain(text) for text, read in zip(found.text, chosen.tolist(), strict=True) if read]
        windows: list[list[str]] = []
        free = 0
        waiting = list(reversed(pieces))
        while waiting:
            piece = waiting.pop()
            length = len(self._tokens([piece])[0])  # its special tokens make up for a space that a tokenizer may count
            if length > room and len(piece) > 1:
                waiting += reversed(_halves(piece))
                continue
            if length > free:
                windows.append([])
                free = room
            windows[-1].append(piece)
            free -= length
        return [" ".join(window) for window in windows]

    def _run(self, tokens: list[list[int]]) -> NDArray[np.float64]:
        """Return the probabilities of the states, (windows, K, 4)."""
        import torch

        rows = GPU_ROWS if self._device.type == "cuda" else 1
        lengths = [min(length for length in (*self._lengths, self._network.max_length) if len(t) <= length) for t in tokens]
        order = np.argsort(lengths, kind="stable")
        out = np.zeros((len(tokens), len(self.vocabulary), 4))
        with torch.inference_mode(), _one_thread(self._device), _half_precision(self._device):
            for length in sorted(set(lengths)):
                same = [int(i) for i in order if lengths[i] == length]
                for first in range(0, len(same), rows):
                    batch = same[first : first + rows]
                    out[batch] = self._forward([tokens[i] for i in batch], length, rows)
        return out

    @property
    def _lengths(self) -> tuple[int, ...]:
        return tuple(length for length in LENGTHS if length < self._network.max_length)

    def _forward(self, tokens: list[list[int]], length: int, rows: int) -> NDArray[np.float64]:
        """Run one batch of a fixed shape: what is lacking of it is filled with its first text."""
        import torch

        filled = tokens + [tokens[0]] * (rows - len(tokens))
        ids = torch.full((rows, length), int(self._network.tokenizer.pad_token_id or 0))
        mask = torch.zeros(rows, length, dtype=torch.bool)
        for row, found in enumerate(filled):
            ids[row, : len(found)] = torch.tensor(found)
            mask[row, : len(found)] = True
        ids, mask = ids.to(self._device), mask.to(self._device)
        hidden = self._network.encoder(input_ids=ids, attention_mask=mask.to(torch.int64)).last_hidden_state
        with torch.autocast(self._device.type, enabled=False):
            logits = self._network.heads(hidden.float(), mask)
        states: NDArray[np.float64] = torch.softmax(logits.double(), dim=-1)[: len(tokens)].cpu().numpy()
        return states

    def _believed(self, states: NDArray[np.float64], owner: NDArray[np.int64]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
        """Return state and probability of each text and finding, of the window that speaks of the finding most."""
        state = states.argmax(axis=-1)
        probability = (states * self._network.probability).sum(axis=-1)
        first = np.flatnonzero(np.diff(owner, prepend=-1))
        score = RANK[state] + probability  # within one rank, the likeliest
        best = np.stack([part.argmax(axis=0) for part in np.split(score, first[1:])]) + first[:, None]
        columns = np.arange(states.shape[1])
        chosen = np.clip(probability[best, columns], 0, 1)
        return state[best, columns].astype(np.int8), chosen.astype(np.float32)


def _plain(text: str) -> str:
    """Single spaces; half characters, which no tokenizer takes, become "?"."""
    return " ".join(text.split()).encode("utf-8", errors="replace").decode("utf-8")


def _halves(piece: str) -> tuple[str, str]:
    """Cut at the space nearest before the middle, or in the middle of a word that is too long."""
    middle = len(piece) // 2
    space = piece.rfind(" ", 0, middle + 1)
    return (piece[:space], piece[space + 1 :]) if space > 0 else (piece[:middle], piece[middle:])


def _device(name: str) -> Any:
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    known = device is not None and device.type in ("cpu", "cuda")
    if device is None or not known or (device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()):
        raise UsageError(
            f"--set device: expected auto, cpu or a GPU of this machine (it has {torch.cuda.device_count()}), got '{name}'"
        )
    return device


def _load(model: Path, tokenizer: str | None, device: Any) -> ReportNetwork:
    if model.is_file():
        return read_checkpoint(model, tokenizer, device)
    if not model.is_dir():
        raise InputError(f"{model}: no such model; give the folder of a run of 'hybridpt fit', or CheXbert's chexbert.pth")
    if tokenizer is not None:
        raise UsageError(f"--set tokenizer: {model} brings its own tokenizer; leave the option out")
    return read_folder(model, device)


@contextlib.contextmanager
def _one_thread(device: Any) -> Iterator[None]:
    """Compute in one thread on a CPU: how many there are decides in which order numbers are added."""
    import torch

    threads = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _half_precision(device: Any) -> contextlib.AbstractContextManager[Any]:
    import torch

    return torch.autocast("cuda", dtype=torch.bfloat16) if device.type == "cuda" else contextlib.nullcontext()
