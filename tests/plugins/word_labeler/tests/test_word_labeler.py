"""The whole contract of a labeler is one call."""

from labelers import create
from labelers.testing import check_labeler


def test_the_contract() -> None:
    check_labeler(create("word"), ["Small EFFUSION on the left.", "Effusions."])


def test_what_it_says() -> None:
    labeler = create("word", {"word": "edema", "finding": "Edema"})
    assert labeler.vocabulary.names == ("Edema",)
