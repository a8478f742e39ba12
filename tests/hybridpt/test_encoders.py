"""Encoders: shapes, grids, and padding that changes nothing."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch

from hybridpt.encoders import ByteEncoder, ImageFeatures, TimmEncoder, TransformersEncoder, encode_in_chunks
from hybridpt.encoders.text import masked_pool
from labelers.errors import UsageError

TEXTS = ["No effusion.", "", "A somewhat longer sentence about the left lung base, to be padded against."]


@pytest.mark.parametrize(
    ("name", "size", "fixed"), [("resnet10t", 64, None), ("vit_tiny_patch16_224", 64, 64), ("convnext_atto", 64, None)]
)
def test_image_encoder_gives_pooled_tokens_and_grid(name: str, size: int, fixed: int | None) -> None:
    encoder = TimmEncoder(name, image_size=fixed).eval()
    features = encoder(torch.rand(2, 1, size, size))
    assert features.pooled.shape == (2, encoder.width)
    assert features.tokens.shape == (2, features.grid[0] * features.grid[1], encoder.width)


def test_tokens_lie_on_the_grid_row_by_row() -> None:
    """A change in the lower right corner of the image changes the last token most."""
    encoder = TimmEncoder("convnext_atto").eval()
    image = torch.rand(1, 1, 128, 128, generator=torch.Generator().manual_seed(0))
    other = image.clone()
    other[..., 112:, 112:] = 0
    change = (encoder(image).tokens - encoder(other).tokens).norm(dim=-1)[0]
    assert int(change.argmax()) == len(change) - 1


def test_an_unknown_image_model_offers_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean resnet50"):
        TimmEncoder("resnet50x")


def test_byte_tokens_are_bytes() -> None:
    tokens, mask = ByteEncoder(width=32).tokenizer(["aé", "b"])
    assert tokens.tolist() == [[98, 196, 170], [99, 0, 0]]
    assert mask.tolist() == [[True, True, True], [True, False, False]]


def test_byte_encoder_ignores_padding() -> None:
    torch.manual_seed(0)
    encoder = ByteEncoder(width=32, depth=2, max_length=128).eval()
    together = encoder(*encoder.tokenizer(TEXTS))
    assert torch.isfinite(together).all()
    for i, text in enumerate(TEXTS):
        torch.testing.assert_close(together[i], encoder(*encoder.tokenizer([text]))[0], atol=1e-5, rtol=1e-5)
    assert (together[1] == 0).all()


def test_byte_encoder_cuts_at_its_length() -> None:
    encoder = ByteEncoder(width=32, max_length=40)
    tokens, _ = encoder.tokenizer(["x" * 1000])
    assert tokens.shape == (1, 40)
    assert encoder(tokens, tokens > 0).shape == (1, 32)


def test_masked_pool_is_the_mean_of_what_stands() -> None:
    tokens = torch.arange(12.0).view(1, 4, 3)
    assert masked_pool(tokens, torch.tensor([[True, False, True, False]])).tolist() == [[3.0, 4.0, 5.0]]
    assert masked_pool(tokens, torch.zeros(1, 4, dtype=torch.bool)).tolist() == [[0.0, 0.0, 0.0]]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small BERT with a hand-written vocabulary, saved as a local folder."""
    from transformers import BertConfig, BertModel, BertTokenizer

    folder = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "no", "effusion", "left", "lung", ".", "a", "the"]
    (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(words), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
    BertModel(config).save_pretrained(folder)
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


def test_transformers_encoder_from_a_local_folder_ignores_padding(bert: Path) -> None:
    encoder = TransformersEncoder(str(bert), max_length=16).eval()
    together = encoder(*encoder.tokenizer(TEXTS))
    assert together.shape == (3, 32)
    for i, text in enumerate(TEXTS):
        torch.testing.assert_close(together[i], encoder(*encoder.tokenizer([text]))[0], atol=1e-5, rtol=1e-5)


def test_a_folder_that_holds_no_text_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be loaded"):
        TransformersEncoder(str(tmp_path))


def test_a_frozen_text_encoder_has_no_gradient_and_no_dropout(bert: Path) -> None:
    encoder = TransformersEncoder(str(bert), frozen=True).train()
    tokens = encoder.tokenizer(TEXTS)
    assert not any(p.requires_grad for p in encoder.parameters())
    assert torch.equal(encoder(*tokens), encoder(*tokens))


def test_tokenizers_travel_to_workers(bert: Path) -> None:
    for tokenizer in (ByteEncoder(width=32).tokenizer, TransformersEncoder(str(bert)).tokenizer):
        copy = pickle.loads(pickle.dumps(tokenizer))
        assert torch.equal(copy(TEXTS)[0], tokenizer(TEXTS)[0])


def test_a_batch_in_chunks_gives_the_same_features_and_gradients() -> None:
    torch.manual_seed(0)
    image = TimmEncoder("vit_tiny_patch16_224", image_size=32)
    text = ByteEncoder(16, 1).eval()
    tokens, mask = text.tokenizer(["no effusion", "heart", "a longer text on the left lung", "", "x"])
    for encoder, inputs in ((image, (torch.rand(5, 1, 32, 32),)), (text, (tokens, mask))):
        outcomes = []
        encoder.double()
        inputs = tuple(x.double() if x.is_floating_point() else x for x in inputs)
        for size in (None, 2, 5):
            encoder.zero_grad()
            out = encode_in_chunks(encoder, inputs, size)
            pooled = out.pooled if isinstance(out, ImageFeatures) else out
            similar = pooled @ pooled.T  # every row against every other, as a contrastive loss has it
            similar.square().sum().backward()
            outcomes.append([pooled.detach(), *(p.grad.clone() for p in encoder.parameters() if p.grad is not None)])
        for other in outcomes[1:]:
            for one, same in zip(outcomes[0], other, strict=True):
                torch.testing.assert_close(same, one)


def test_chunks_keep_no_activations_for_the_backward_pass() -> None:
    """What autograd saves for the backward pass grows with the chunk, not with the batch."""

    def saved(size: int | None, rows: int) -> int:
        count = 0

        def pack(x: torch.Tensor) -> torch.Tensor:
            nonlocal count
            count += x.numel()
            return x

        encoder = TimmEncoder("vit_tiny_patch16_224", image_size=32)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            encode_in_chunks(encoder, (torch.rand(rows, 1, 32, 32),), size)
        return count

    assert saved(4, 16) < saved(None, 16) / 20
