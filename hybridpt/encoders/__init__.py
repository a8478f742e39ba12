"""Image and text encoders, and the projections into the model's embedding spaces."""

from hybridpt.encoders.image import ImageEncoder, ImageFeatures, TimmEncoder
from hybridpt.encoders.projection import Projection
from hybridpt.encoders.text import ByteEncoder, TextEncoder, TransformersEncoder

__all__ = [
    "ByteEncoder",
    "ImageEncoder",
    "ImageFeatures",
    "Projection",
    "TextEncoder",
    "TimmEncoder",
    "TransformersEncoder",
]
