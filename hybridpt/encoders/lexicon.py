"""A small transformer from scratch on the words of the shipped vocabulary and cues: no download, no vocabulary made of reports."""

from __future__ import annotations

import importlib.resources
from string import ascii_lowercase, digits, punctuation
from typing import Any, cast

from hybridpt.encoders.text import HuggingFaceEncoder
from labelers.errors import UsageError

__all__ = ["LexiconEncoder", "lexicon_pieces"]

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
ENDINGS = ("es", "ed", "ing", "ly", "al", "ar", "ion", "ions", "ic", "ity", "ies", "er", "ous", "ation", "osis", "itis")
HEAD = 32
"""Width of an attention head."""


def lexicon_pieces() -> list[str]:
    """Return WordPiece pieces in order: special ones, single characters, endings, and the words of lexicon.txt.

    Those words are all of the findings and cues that ``labelers`` ships, as they were when the file was made; it stays as it is when
    they change, since checkpoints count on it. A word that is not among them is spelled, so nothing of a report is lost, and none was
    needed to make the list.
    """
    words = (importlib.resources.files("hybridpt.encoders") / "lexicon.txt").read_text(encoding="utf-8").split()
    single = [*ascii_lowercase, *digits]
    return [*SPECIAL, *punctuation, *single, *(f"##{c}" for c in single), *(f"##{e}" for e in ENDINGS), *words]


class LexiconEncoder(HuggingFaceEncoder):
    """A small BERT (Devlin et al. 2019, arXiv 1810.04805), trained from scratch; it needs no download.

    Args:
        width: Length of the vectors; a multiple of 32.
        depth: Number of transformer layers.
        max_length: Longest text in tokens; the rest is cut off.

    Raises:
        UsageError: A number out of its range.
    """

    def __init__(self, width: int = 128, depth: int = 2, max_length: int = 512) -> None:
        from tokenizers import Tokenizer
        from tokenizers.models import WordPiece
        from tokenizers.normalizers import BertNormalizer
        from tokenizers.pre_tokenizers import BertPreTokenizer
        from tokenizers.processors import TemplateProcessing
        from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

        if width < HEAD or width % HEAD or depth < 1 or max_length < 8:
            raise UsageError(
                f"a LexiconEncoder needs a width that is a multiple of {HEAD}, a depth from 1 and a max_length from 8, "
                f"got {width}, {depth} and {max_length}"
            )
        pieces = {piece: number for number, piece in enumerate(lexicon_pieces())}
        tokenizer = Tokenizer(WordPiece(pieces, unk_token="[UNK]"))
        tokenizer.normalizer = BertNormalizer(lowercase=True)
        tokenizer.pre_tokenizer = BertPreTokenizer()
        ends = [(name, pieces[name]) for name in ("[CLS]", "[SEP]")]
        tokenizer.post_processor = TemplateProcessing("[CLS] $A [SEP]", special_tokens=ends)
        names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
        fast = cast(Any, PreTrainedTokenizerFast)(
            tokenizer_object=tokenizer, model_max_length=max_length, **dict(zip(names, SPECIAL, strict=True))
        )
        config = BertConfig(
            vocab_size=len(pieces),
            hidden_size=width,
            num_hidden_layers=depth,
            num_attention_heads=width // HEAD,
            intermediate_size=2 * width,
            max_position_embeddings=max_length,
        )
        super().__init__(BertModel(config, add_pooling_layer=False), fast, max_length)
