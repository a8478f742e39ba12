"""Networks that label reports, read from files without anything in them being executed: folders of ours, and CheXbert's checkpoint."""

from __future__ import annotations

import contextlib
import hashlib
import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labelers.crosswalk import load_crosswalk
from labelers.errors import InputError, UsageError
from labelers.types import STATES, Finding, Vocabulary
from labelers.vocabulary import load_vocabulary

__all__ = ["CHEXBERT", "ReportNetwork", "quiet", "read_checkpoint", "read_folder"]

CHEXBERT = (
    *("Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema", "Consolidation", "Pneumonia"),
    *("Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture", "Support Devices", "No Finding"),
)
"""CheXbert's heads in order (Smit et al. 2020, arXiv 2004.09167; constants.py of github.com/stanfordmlgroup/CheXbert)."""
CHEXBERT_CLASSES = (1, 2, 3, 0)
"""Its classes blank, positive, negative, uncertain in the order of ``STATES``; its head of No Finding has the first two alone."""
WORTH = (0.95, 0.05, 0.5, 0.1)
"""P(present | state) of a network that does not tell it, as in ``LabelTable.from_states``."""
HEAD_WIDTH = 64
"""Width of an attention head in every BERT that its authors published; a state_dict alone does not tell it."""
ATTENTION = "eager"
"""The others leave out the mask where no text of a batch is padded, so that a text's bits depend on its neighbours."""
FORMAT = "hybridpt report labeler"
LONGEST = 512
"""Tokens of a text that CheXbert reads at a time."""


@dataclass(frozen=True, eq=False)
class ReportNetwork:
    """A text encoder with a head of four states a finding.

    Attributes:
        name: Source of the tables that it makes.
        version: Code and weights that make them.
        vocabulary: K findings.
        probability: P(present | state), (K, 4) float64 in [0, 1].
        tokenizer: Of transformers.
        max_length: Tokens that it reads at a time, special ones included.
        encoder: A torch module that gives a last hidden state, (B, T, D).
        heads: Maps hidden states (B, T, D) and their mask (B, T) bool to logits of the states, (B, K, 4).
    """

    name: str
    version: str
    vocabulary: Vocabulary
    probability: NDArray[np.float64]
    tokenizer: Any
    max_length: int
    encoder: Any
    heads: Callable[[Any, Any], Any]


def read_folder(path: Path, device: Any) -> ReportNetwork:
    """Read the folder that ``hybridpt fit --config configs/fit/report_labeler.yaml`` wrote, or that of the run around it.

    Args:
        path: The folder.
        device: The torch device to put the network on.

    Raises:
        InputError: No such labeler in the folder, or a file of it is missing or damaged.
    """
    folder = path if (path / "labeler.json").is_file() else path / "labeler"
    body = _description(folder)
    vocabulary, probability = _findings(body, folder)
    encoder = _encoder(folder)
    tokenizer = _tokenizer(str(folder), "AutoTokenizer", local=True)
    _check_tokenizer(tokenizer, body, folder)
    heads = _attention_heads(folder, len(vocabulary), int(encoder.config.hidden_size), device)
    files = [folder / name for name in ("labeler.json", "model.safetensors", "heads.safetensors")]
    return ReportNetwork(
        name=body["name"],
        version=_version(files),
        vocabulary=vocabulary,
        probability=probability,
        tokenizer=tokenizer,
        max_length=body["max_length"],
        encoder=encoder.to(device).eval(),
        heads=heads,
    )


def _damaged(where: Path, what: str) -> InputError:
    return InputError(f"{where}: {what}; write the folder again with 'hybridpt fit --config configs/fit/report_labeler.yaml'")


def _version(files: list[Path]) -> str:
    """The version of the code, and what tells these weights from others."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return f"1.{digest.hexdigest()[:8]}"


def _description(folder: Path) -> dict[str, Any]:
    path = folder / "labeler.json"
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise _damaged(
            folder.parent if folder.name == "labeler" else folder, "expected a labeler's folder, found no labeler.json"
        ) from None
    except ValueError:
        raise _damaged(path, "not JSON") from None
    if not isinstance(body, dict) or body.get("format") != FORMAT:
        raise _damaged(path, f"expected the format '{FORMAT}', found another")
    if body.get("version") != 1 or body.get("states") != list(STATES):
        raise _damaged(
            path, f"expected version 1 with the states {', '.join(STATES)}, found another; was it written by a newer hybridpt?"
        )
    length = body.get("max_length")
    if not isinstance(body.get("name"), str) or not body["name"] or not isinstance(length, int) or not 8 <= length <= 1_000_000:
        raise _damaged(path, "expected a name in words and a max_length from 8")
    return body


def _findings(body: Mapping[str, Any], folder: Path) -> tuple[Vocabulary, NDArray[np.float64]]:
    path = folder / "labeler.json"
    try:
        findings = tuple(Finding(entry["name"], entry["parent"]) for entry in body["findings"])
        named = body["vocabulary"]
        vocabulary = Vocabulary(str(named["name"]), str(named["version"]), findings, str(named["hash"]))
        probability = np.array(body["probability"], np.float64)
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(path, f"its findings, vocabulary or probabilities are damaged ({type(error).__name__})") from None
    if not findings or probability.shape != (len(findings), len(STATES)) or not ((probability >= 0) & (probability <= 1)).all():
        raise _damaged(path, "expected a probability in [0, 1] for every finding and state")
    return vocabulary, probability


def _check_tokenizer(tokenizer: Any, body: Mapping[str, Any], folder: Path) -> None:
    """Refuse a tokenizer that is not the one of the training: where its files are lacking, transformers makes up an empty one."""
    try:
        check = body["tokenizer_check"]
        same = list(tokenizer([str(check["text"])])["input_ids"][0]) == check["tokens"]
    except (KeyError, TypeError, ValueError):
        same = False
    if not same:
        raise _damaged(folder, "its tokenizer is not the one that the network was trained with")


def _encoder(folder: Path) -> Any:
    from transformers import AutoModel

    models: Any = AutoModel
    try:
        with quiet():
            encoder, loaded = models.from_pretrained(
                str(folder),
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
                attn_implementation=ATTENTION,
            )
    except Exception as error:  # safetensors and transformers raise many kinds for a broken or hostile file
        raise _damaged(folder, f"its network cannot be loaded ({type(error).__name__})") from None
    lacking = [key for key in [*loaded["missing_keys"], *loaded["mismatched_keys"]] if not str(key).startswith("pooler.")]
    if lacking:  # transformers would go on with random numbers in their place
        raise _damaged(folder / "model.safetensors", f"{len(lacking)} of the network's weights are missing or of another shape")
    return encoder


def _attention_heads(folder: Path, count: int, width: int, device: Any) -> Callable[[Any, Any], Any]:
    import torch
    from safetensors.torch import load_file

    path = folder / "heads.safetensors"
    try:
        tensors = load_file(path, device=str(device))
    except Exception as error:  # safetensors raises its own kinds
        raise _damaged(path, f"the heads cannot be loaded ({type(error).__name__})") from None
    shapes = {"query": (count, width), "weight": (count, len(STATES), width), "bias": (count, len(STATES))}
    if {name: tuple(value.shape) for name, value in tensors.items()} != shapes:
        raise _damaged(path, f"expected heads of {count} findings on {width} features, found others")
    query, weight, bias = (tensors[name].float() for name in shapes)

    def heads(hidden: Any, mask: Any) -> Any:
        score = torch.einsum("btd,kd->bkt", hidden, query).masked_fill(~mask.unsqueeze(1), -torch.inf)
        read = torch.softmax(score, dim=-1) @ hidden
        return torch.einsum("bkd,ksd->bks", read, weight) + bias

    return heads


def read_checkpoint(path: Path, tokenizer: str | None, device: Any) -> ReportNetwork:
    """Read CheXbert's checkpoint (``chexbert.pth``): ``bert.*`` and ``linear_heads.0`` to ``13``, with or without ``module.``
    before each key, alone or under ``model_state_dict``.

    Each finding is as its own head says; no tree is applied, as CheXbert applies none.

    Args:
        path: The file.
        tokenizer: Folder (or name on the hub) of bert-base-uncased's tokenizer; where it has a config.json too, that is the network's.
        device: The torch device to put the network on.

    Raises:
        UsageError: No tokenizer was given, or it cannot be loaded.
        InputError: The file cannot be read without executing something, is no such checkpoint, or does not fit the tokenizer.
    """
    if tokenizer is None:
        raise UsageError(
            f"{path}: a CheXbert checkpoint brings no tokenizer; give a folder with bert-base-uncased's vocab.txt by --set tokenizer=FOLDER"
        )
    weights = _state_dict(path)
    heads = _linear_heads(weights, path, device)
    words = _tokenizer(tokenizer, "BertTokenizerFast", local=False)
    encoder = _bert(weights, tokenizer, path)
    rows = encoder.config.vocab_size
    if len(words) != rows:
        raise InputError(
            f"{tokenizer}: expected the tokenizer of {path} with {rows:,} words, found {len(words):,}; give bert-base-uncased's"
        )
    return ReportNetwork(
        name="chexbert",
        version=_version([path]),
        vocabulary=_chexpert_findings(),
        probability=np.tile(np.array(WORTH), (len(CHEXBERT), 1)),
        tokenizer=words,
        max_length=min(LONGEST, int(encoder.config.max_position_embeddings)),
        encoder=encoder.to(device).eval(),
        heads=heads,
    )


def _state_dict(path: Path) -> dict[str, Any]:
    import torch

    try:
        with warnings.catch_warnings(action="ignore"):  # torch wonders at pickles that are no checkpoints
            body = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a broken or hostile file
        raise InputError(
            f"{path}: not a checkpoint that can be read safely ({type(error).__name__}); give CheXbert's chexbert.pth, or the folder of a "
            "labeler that 'hybridpt fit' wrote"
        ) from None
    weights = body.get("model_state_dict", body) if isinstance(body, dict) else {}
    if not isinstance(weights, dict):
        weights = {}
    named = {str(key).removeprefix("module."): value for key, value in weights.items() if isinstance(value, torch.Tensor)}
    if not any(key.startswith("bert.") for key in named) or not any(key.startswith("linear_heads.") for key in named):
        raise InputError(f"{path}: expected CheXbert's weights (bert.*, linear_heads.*), found others; give its chexbert.pth")
    return named


def _linear_heads(weights: Mapping[str, Any], path: Path, device: Any) -> Callable[[Any, Any], Any]:
    import torch

    found = {key: tuple(value.shape) for key, value in weights.items() if key.startswith("linear_heads.")}
    width = weights.get("bert.embeddings.word_embeddings.weight", torch.empty(0, 0)).shape[-1]
    sizes = [len(STATES)] * (len(CHEXBERT) - 1) + [2]
    expected: dict[str, tuple[int, ...]] = {f"linear_heads.{i}.weight": (n, width) for i, n in enumerate(sizes)}
    expected |= {f"linear_heads.{i}.bias": (n,) for i, n in enumerate(sizes)}
    if found != expected:
        raise InputError(
            f"{path}: expected 13 heads of four classes and one of two on {width} features, as CheXbert has, found others; is it the "
            "checkpoint of another model, such as VisualCheXbert?"
        )
    weight = torch.zeros(len(CHEXBERT), len(STATES), width)
    bias = torch.full((len(CHEXBERT), len(STATES)), -torch.inf)  # No Finding is never negative or uncertain
    for k in range(len(CHEXBERT)):
        for state, column in enumerate(CHEXBERT_CLASSES):
            if column < sizes[k]:
                weight[k, state] = weights[f"linear_heads.{k}.weight"][column]
                bias[k, state] = weights[f"linear_heads.{k}.bias"][column]
    weight, bias = weight.to(device), bias.to(device)

    def heads(hidden: Any, mask: Any) -> Any:
        return torch.einsum("bd,ksd->bks", hidden[:, 0], weight) + bias

    return heads


def _bert(weights: Mapping[str, Any], tokenizer: str, path: Path) -> Any:
    from transformers import BertConfig, BertModel

    own = {key.removeprefix("bert."): value for key, value in weights.items() if key.startswith("bert.")}
    own.pop("embeddings.position_ids", None)  # older versions of transformers saved these numbers
    try:
        if (Path(tokenizer) / "config.json").is_file():
            config = BertConfig.from_pretrained(tokenizer, local_files_only=True)
        else:
            words, width = own["embeddings.word_embeddings.weight"].shape
            config = BertConfig(
                vocab_size=words,
                hidden_size=width,
                num_hidden_layers=len({key.split(".")[2] for key in own if key.startswith("encoder.layer.")}),
                num_attention_heads=max(1, width // HEAD_WIDTH),
                intermediate_size=own["encoder.layer.0.intermediate.dense.weight"].shape[0],
                max_position_embeddings=own["embeddings.position_embeddings.weight"].shape[0],
            )
        config._attn_implementation = ATTENTION
        encoder: Any = BertModel(config)
        encoder.load_state_dict(own)
    except (IndexError, KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
        beside = f" described in {tokenizer}" if (Path(tokenizer) / "config.json").is_file() else ""
        raise InputError(
            f"{path}: its weights do not fit the BERT{beside} ({type(error).__name__}); give CheXbert's chexbert.pth"
        ) from None
    return encoder


def _chexpert_findings() -> Vocabulary:
    """Our findings that CheXbert's heads name, through the cross-walk, in the order of the heads."""
    chest = load_vocabulary("chest").vocabulary
    exact = {link.label: link.exact for link in load_crosswalk("chexpert").links}
    names = [exact[label] or label for label in CHEXBERT]
    parents = {finding.name: finding.parent for finding in chest.findings}
    return Vocabulary(chest.name, chest.version, tuple(Finding(n, parents[n] if parents[n] in names else None) for n in names))


def _tokenizer(name: str, cls: str, local: bool) -> Any:
    import transformers

    reason = "its files are missing"
    try:
        with quiet():
            tokenizer = getattr(transformers, cls).from_pretrained(name, local_files_only=local, trust_remote_code=False)
        if len(tokenizer) > len(tokenizer.all_special_tokens):  # without files, newer versions make up one without words
            return tokenizer
    except Exception as error:  # transformers and tokenizers raise many kinds for a missing or broken file
        reason = type(error).__name__
    if local:
        raise _damaged(Path(name), f"its tokenizer cannot be loaded ({reason})")
    raise UsageError(
        f"--set tokenizer: the tokenizer '{name}' cannot be loaded ({reason}); give a folder with bert-base-uncased's vocab.txt, or a "
        "name that the hub or its local cache has"
    )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers from printing what it loads."""
    from transformers.utils import logging as transformers_logging

    logging: Any = transformers_logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
