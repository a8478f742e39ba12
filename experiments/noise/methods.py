"""What each method is, in the options of the package's own objective, and which channels it is given."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["METHODS", "Method", "with_what_they_need"]


@dataclass(frozen=True)
class Method:
    """One way to train on the labels.

    Attributes:
        options: Of ``hybridpt.objectives.Supervised``.
        channels: Which channels it knows: "" for none, ``gold200``, ``em``, ``true``, ``half`` or ``double``.
        truth: Whether it is trained on the truth in the place of the labels.
        platt: Whether its scores are recalibrated on the gold.
        like: The method whose network it takes as it stands; "" for none.
        frozen: Whether that network's features are kept, and a new head is trained on them.
    """

    options: dict[str, Any] = field(default_factory=dict)
    channels: str = ""
    truth: bool = False
    platt: bool = False
    like: str = ""
    frozen: bool = False


BCE = {"label_term": "bce"}
CHANNEL = {"label_term": "channel"}
METHODS = {
    "oracle": Method(BCE, truth=True),
    "bce": Method(BCE),
    "bce_platt": Method(BCE, platt=True, like="bce"),
    "u_zeros": Method({**BCE, "uncertain": "zeros"}),
    "u_ones": Method({**BCE, "uncertain": "ones"}),
    "u_ignore": Method({**BCE, "unmentioned": "ignore"}),
    "u_smooth": Method({**BCE, "uncertain": "smooth_ones"}),
    "soft": Method({"label_term": "soft", "soft_targets": "posterior"}, "gold200"),
    "source_weights": Method({**BCE, "source_weights": "analytic"}, "gold200"),
    "gce": Method({"label_term": "gce"}),
    "elr": Method({"label_term": "elr"}),
    "channel_true": Method(CHANNEL, "true"),
    "channel_gold200": Method(CHANNEL, "gold200"),
    "channel_learned": Method({**CHANNEL, "channel_trainable": True}, "gold200", like="channel_gold200", frozen=True),
    "channel_em": Method(CHANNEL, "em"),
    "channel_half": Method(CHANNEL, "half"),
    "channel_double": Method(CHANNEL, "double"),
}
"""``bce`` leaves out what is uncertain and takes what is not mentioned for absent, as the package does by itself; ``u_ignore`` leaves out
both; ``u_smooth`` draws what is uncertain from [.55, .85]. ``half`` and ``double`` are true channels with all rates of error wrong by two.
Jointly with a deep network channels are not learned: there ``channel_learned`` is a new head, with channels that learn, on the features
of ``channel_gold200``."""


def with_what_they_need(names: list[str]) -> list[str]:
    """Return some methods and those whose networks they take, in the order of ``METHODS``."""
    wanted = {*names, *(METHODS[name].like for name in names)}
    return [name for name in METHODS if name in wanted]
