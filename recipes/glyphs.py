"""Glyphs: drawn, CIFAR-shaped images of characters that are easily confused. No download, any number of images.

Importing this file registers the set: `keras_bikd.data.load("glyphs/h", ...)`.

Each image shows a warped, coloured character in one of ten fonts that come with matplotlib, on a smooth background,
with fragments of other characters around it and noise on top. The character is always brighter than the background:
with random polarity, a long-tailed set of this kind cannot be learnt at all.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from numpy.random import Generator

TEN = "BSGOZ2Q658"
"""The classes of `glyphs/h`, head to tail; every tail class looks like one of the head classes."""

HUNDRED = ("0123456789ABCDEFGHIJKLMNPQRSTUVWXYZabdefghijkmnqrtαβγδεζηθλμξπρστφχψωΓΔΘΛΞΠΣΦΨΩ#$%&@?!+=*<>√∞∂∫≠±÷§¶")[:100]
"""The classes of `glyphs/g100`, head to tail."""

FONTS = (
    "DejaVuSans.ttf",
    "DejaVuSans-Bold.ttf",
    "DejaVuSans-Oblique.ttf",
    "DejaVuSerif.ttf",
    "DejaVuSerif-Bold.ttf",
    "DejaVuSerif-Italic.ttf",
    "DejaVuSansMono.ttf",
    "DejaVuSansMono-Bold.ttf",
    "STIXGeneral.ttf",
    "STIXGeneralBol.ttf",
)
"""Files of the fonts that the characters are drawn in."""

_RESOLUTION = 28  # of a character before it is warped
_CHUNK = 4096


@dataclasses.dataclass(frozen=True, kw_only=True)
class Style:
    """How hard the images are.

    Args:
        characters: One character per class, head first.
        level: Strength of warping, background and noise; 1 is hard.
        distractors: Fragments of other characters in every image.
        noise: Standard deviation of the noise, at level 1, of pixels in 0..1.
    """

    characters: str
    level: float
    distractors: int
    noise: float


def draw(labels: Sequence[int] | np.ndarray, style: Style, seed: int, size: int = 32) -> np.ndarray:
    """Draw one image per label.

    Args:
        labels: Integer array of shape `(images,)`, indices into `style.characters`.
        style: A `Style`.
        seed: Integer; the same seed, labels and style give the same bytes.
        size: Height and width in pixels.

    Returns:
        uint8 array of shape `(images, size, size, 3)`.

    Examples:
        >>> draw(
        ...     np.array([0, 1]),
        ...     Style(characters="BS", level=1.0, distractors=1, noise=0.1),
        ...     seed=0,
        ...     size=16,
        ... ).shape
        (2, 16, 16, 3)
    """
    labels = np.asarray(labels)
    characters = _characters(style.characters)
    generator = np.random.default_rng(seed)
    chunks = [labels[start : start + _CHUNK] for start in range(0, len(labels), _CHUNK)]
    return np.concatenate([_draw_chunk(chunk, characters, style, generator, size) for chunk in chunks])


def _draw_chunk(
    labels: np.ndarray, characters: np.ndarray, style: Style, generator: Generator, size: int
) -> np.ndarray:
    count, level = len(labels), style.level
    uniform = generator.uniform
    images = _background(count, level, generator, size)
    for _ in range(style.distractors):
        matrix, _ = _affine(count, generator, rotation=np.pi, scale=(0.5, 1.1), shear=0.3)
        # Pushed off the centre, so that mostly parts of it are visible.
        angle, distance = uniform(0, 2 * np.pi, count), uniform(0.75, 1.2, count)
        place = np.stack([np.cos(angle), np.sin(angle)], axis=-1) * distance[:, None]
        which = generator.integers(0, len(characters), count), generator.integers(0, len(FONTS), count)
        opacity = (uniform(0.4, 1.0, count) * level).clip(0, 1)
        mask = _warp(characters[which], matrix, -_apply(matrix, place), size)
        images = _paint(images, mask, opacity, uniform(0, 1, (count, 3)))
    matrix, shift = _affine(
        count, generator, rotation=0.35 * level, scale=(0.75, 1.15), shear=0.25 * level, shift=0.18 * level
    )
    mask = _warp(characters[labels, generator.integers(0, len(FONTS), count)], matrix, shift, size)
    images = _paint(images, mask, uniform(0.75, 1.0, count), _bright_colour(images, generator))
    images += style.noise * level * generator.standard_normal(images.shape, dtype="float32")
    return (images.clip(0, 1) * 255).astype("uint8")


def _background(count: int, level: float, generator: Generator, size: int) -> np.ndarray:
    """A smooth field of colour around a dark to middling tone."""
    low = generator.uniform(0, 1, (count * 3, 5, 5)).astype("float32")
    zoom = np.tile(0.7 * np.eye(2), (count * 3, 1, 1))
    field = _warp(low, zoom, np.zeros((count * 3, 2)), size).reshape(count, 3, size, size).transpose(0, 2, 3, 1)
    tone = generator.uniform(0.1, 0.55, (count, 1, 1, 3)).astype("float32")
    return tone + 0.45 * level * (field - 0.5)


def _bright_colour(images: np.ndarray, generator: Generator) -> np.ndarray:
    """A colour well away from the mean background, and brighter than it in every channel."""
    count, mean = len(images), images.mean(axis=(1, 2))
    difference = generator.uniform(0, 1, (count, 3)) - mean
    length = np.linalg.norm(difference, axis=1, keepdims=True) + 1e-6
    contrast = 0.45 + 0.35 * generator.uniform(0, 1, (count, 1))
    return np.maximum(mean + difference / length * np.maximum(length, contrast), mean + 0.35)


def _paint(images: np.ndarray, mask: np.ndarray, opacity: np.ndarray, colour: np.ndarray) -> np.ndarray:
    alpha = (mask * opacity[:, None, None])[..., None].astype("float32")
    return images * (1 - alpha) + alpha * colour[:, None, None, :].astype("float32")


def _affine(
    count: int, generator: Generator, *, rotation: float, scale: tuple[float, float], shear: float, shift: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Random maps from output to source coordinates, `x -> matrix @ x + offset`, in units of half an image."""
    angle = generator.uniform(-rotation, rotation, count)
    scales = generator.uniform(*scale, (count, 2))
    shears = generator.uniform(-shear, shear, count)
    zero, cosine, sine = np.zeros(count), np.cos(angle), np.sin(angle)
    rotate = np.stack([cosine, -sine, sine, cosine], axis=-1).reshape(count, 2, 2)
    stretch = np.stack([1 / scales[:, 0], shears, zero, 1 / scales[:, 1]], axis=-1).reshape(count, 2, 2)
    matrix = stretch @ rotate
    return matrix, -_apply(matrix, generator.uniform(-shift, shift, (count, 2)))


def _apply(matrix: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    return np.einsum("nij,nj->ni", matrix, vectors)


def _warp(sources: np.ndarray, matrix: np.ndarray, offset: np.ndarray, size: int) -> np.ndarray:
    """Bilinear look-up of `sources[n]` at `matrix[n] @ p + offset[n]` for every output pixel `p`; zero outside."""
    count, resolution, _ = sources.shape
    grid = (np.arange(size, dtype="float32") + 0.5) / size * 2 - 1
    pixels = np.stack([np.tile(grid, size), np.repeat(grid, size)])
    points = matrix.astype("float32") @ pixels + offset.astype("float32")[:, :, None]
    points = np.clip((points + 1) * (resolution / 2) - 0.5, -1, resolution) + 1
    padded = np.pad(sources, ((0, 0), (1, 2), (1, 2)))
    stride = padded.shape[2]
    flat = padded.reshape(count, -1)
    corner = points.astype("int32")
    right, down = (points - corner).transpose(1, 0, 2)
    index = corner[:, 1] * stride + corner[:, 0]
    a, b, c, d = (np.take_along_axis(flat, index + step, axis=1) for step in (0, 1, stride, stride + 1))
    return ((a * (1 - right) + b * right) * (1 - down) + (c * (1 - right) + d * right) * down).reshape(-1, size, size)


@functools.lru_cache
def _characters(characters: str) -> np.ndarray:
    """Every character in every font, centred, float32 of shape `(characters, fonts, resolution, resolution)`."""
    try:
        import matplotlib
        from PIL import Image, ImageDraw, ImageFont
    except ImportError as error:
        raise ImportError(
            "Glyphs are drawn in matplotlib's fonts. Install it with `pip install matplotlib`."
        ) from error
    folder = pathlib.Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    fonts = [ImageFont.truetype(str(folder / font), 72) for font in FONTS]

    def render(character: str, font: ImageFont.FreeTypeFont) -> np.ndarray:
        image = Image.new("L", (128, 128))
        pen = ImageDraw.Draw(image)
        left, top, right, bottom = pen.textbbox((0, 0), character, font=font)
        pen.text((64 - (left + right) / 2, 64 - (top + bottom) / 2), character, fill=255, font=font)
        small = image.crop((20, 20, 108, 108)).resize((_RESOLUTION, _RESOLUTION), Image.Resampling.LANCZOS)
        return np.asarray(small, dtype="float32") / 255

    return np.stack([np.stack([render(character, font) for font in fonts]) for character in characters])


@dataclasses.dataclass(kw_only=True)
class GlyphsConfig(tfds.core.BuilderConfig):
    """A variant of the set: style, size of the images, images per class."""

    style: Style
    size: int
    train_per_class: int
    test_per_class: int


_H = Style(characters=TEN, level=1.0, distractors=2, noise=0.1)
_G100 = Style(characters=HUNDRED, level=0.6, distractors=1, noise=0.08)


class Glyphs(tfds.core.GeneratorBasedBuilder):
    """Drawn images of characters, registered as `glyphs`.

    `glyphs/h`: ten confusable characters, 16x16, hard; `glyphs/g100`: a hundred characters, 16x16. `glyphs/h32` and
    `glyphs/g100_32` are the same at the size of CIFAR.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First drawing."}
    BUILDER_CONFIGS = [
        GlyphsConfig(name=name, style=style, size=size, train_per_class=train, test_per_class=test)
        for name, style, size, train, test in (
            ("h", _H, 16, 3040, 200),
            ("h32", _H, 32, 3040, 200),
            ("g100", _G100, 16, 205, 20),
            ("g100_32", _G100, 32, 205, 20),
        )
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        config = self.builder_config
        image = tfds.features.Image(shape=(config.size, config.size, 3))
        label = tfds.features.ClassLabel(names=list(config.style.characters))
        return tfds.core.DatasetInfo(
            builder=self,
            description="Warped, coloured, cluttered characters, drawn on the spot.",
            features=tfds.features.FeaturesDict({"image": image, "label": label}),
            supervised_keys=("image", "label"),
            disable_shuffling=True,  # ids follow the drawing
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        config = self.builder_config
        return {
            "train": self._generate_examples(config.train_per_class, seed=0),
            "test": self._generate_examples(config.test_per_class, seed=1),
        }

    def _generate_examples(self, per_class: int, seed: int) -> Iterator[tuple[int, dict[str, Any]]]:
        from PIL import Image

        config = self.builder_config
        labels = np.tile(np.arange(len(config.style.characters)), per_class)
        images = draw(labels, config.style, seed, config.size)
        for i, (image, label) in enumerate(zip(images, labels)):
            # Arrays would be encoded by TensorFlow, which may be missing.
            yield i, {"image": Image.fromarray(image), "label": int(label)}
