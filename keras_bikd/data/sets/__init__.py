"""Data sets that need no download. Importing this package registers them with tfds."""

from keras_bikd.data.sets import digits, glyphs, keywords

__all__ = ["digits", "glyphs", "keywords"]
