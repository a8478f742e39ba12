"""Image and text encoders, and the projections into the model's embedding spaces."""

from hybridpt.encoders.chunks import encode_in_chunks
from hybridpt.encoders.image import ImageEncoder, ImageFeatures, TimmEncoder
from hybridpt.encoders.lexicon import LexiconEncoder
from hybridpt.encoders.projection import Projection
from hybridpt.encoders.text import ByteEncoder, HuggingFaceEncoder, TextEncoder, TransformersEncoder
from hybridpt.encoders.transformers_image import TransformersImageEncoder

__all__ = [
    "ByteEncoder",
    "HuggingFaceEncoder",
    "ImageEncoder",
    "ImageFeatures",
    "LexiconEncoder",
    "Projection",
    "TextEncoder",
    "TimmEncoder",
    "TransformersEncoder",
    "TransformersImageEncoder",
    "encode_in_chunks",
]
