"""Scikit-learn's bundled handwritten digits as a tfds data set: real images, no download."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds


class SklearnDigits(tfds.core.GeneratorBasedBuilder):
    """1,797 handwritten digits of 43 writers, 8x8 grey values; registered as `sklearn_digits`.

    The original sixteen grey levels are spread over 0..255. There is one split, `train`.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "As bundled with scikit-learn."}

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Handwritten digits bundled with scikit-learn (part of the UCI Optical Recognition set).",
            features=tfds.features.FeaturesDict(
                {"image": tfds.features.Image(shape=(8, 8, 1)), "label": tfds.features.ClassLabel(num_classes=10)}
            ),
            supervised_keys=("image", "label"),
            disable_shuffling=True,  # ids are scikit-learn's row numbers
            homepage="https://archive.ics.uci.edu/dataset/80",
            citation="E. Alpaydin, C. Kaynak (1998). Optical Recognition of Handwritten Digits. UCI Repository.",
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        from PIL import Image
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = np.rint(digits.images * (255 / 16)).astype("uint8")
        for i, (image, label) in enumerate(zip(images, digits.target)):
            # Arrays would be encoded by TensorFlow, which may be missing.
            yield i, {"image": Image.fromarray(image), "label": int(label)}
