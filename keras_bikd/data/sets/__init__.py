"""Data sets that need no download. Importing this package registers them with tfds."""

from keras_bikd.data.sets import digits as digits
from keras_bikd.data.sets import glyphs as glyphs
from keras_bikd.data.sets import keywords as keywords
