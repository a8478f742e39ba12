"""Images, soft labels with their noise, and text to image encoders: train, test, and use them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hybridpt.checkpoint import load
    from hybridpt.module import HybridModule

__all__ = ["HybridModule", "load"]
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """Import what needs torch only when it is asked for."""
    if name in __all__:
        import hybridpt.checkpoint

        return getattr(hybridpt.checkpoint, name)
    raise AttributeError(f"module 'hybridpt' has no attribute '{name}'")
