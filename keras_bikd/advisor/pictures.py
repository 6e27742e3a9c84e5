"""Figures and sample images as data URIs, which an HTML file carries inside."""

import base64
import io
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_bikd.advisor.samples import Samples

if TYPE_CHECKING:  # an optional dependency
    from matplotlib.figure import Figure

_SIDE = 96  # pixels of a shrunk sample image
_STYLE: dict[Any, Any] = {
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 11,
    "savefig.dpi": 160,  # of what is drawn as pixels
    "svg.hashsalt": "keras_bikd",  # the same figure gives the same bytes
}


def figure_uri(draw: Callable[[], "Figure"], width: float | None = None) -> str:
    """Draw a figure as SVG.

    Args:
        draw: Function that returns the figure; called here, so that it is drawn in the style of reports.
        width: Another width than its own, in inches.

    Returns:
        A data URI.
    """
    import matplotlib

    # Letters become shapes, which look the same everywhere, unless the font of matplotlib lacks them.
    for letters in ("path", "none"):
        with matplotlib.rc_context(_STYLE | {"svg.fonttype": letters}), warnings.catch_warnings(record=True) as caught:
            warnings.filterwarnings("always", message="Glyph")
            file = io.BytesIO()
            figure = draw()
            if width is not None:
                figure.set_figwidth(width)
            figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
        if not any("Glyph" in str(warning.message) for warning in caught):
            break
    return _uri("svg+xml", file.getvalue())


def thumbnails(samples: Samples, ids: Sequence[int]) -> list[str] | None:
    """Small pictures of samples.

    Args:
        samples: The samples.
        ids: Which of them.

    Returns:
        A data URI for each, or `None` if the samples are no images. An image is a float array from 0 to 1 of shape
        `(height, width, channels)` with one or three channels.
    """
    if not len(ids):
        return None
    inputs: Any = samples.inputs(np.asarray(ids))
    if not isinstance(inputs, np.ndarray) or inputs.ndim != 4 or inputs.shape[-1] not in (1, 3):
        return None
    if inputs.dtype.kind != "f" or not (inputs.min() >= 0 and inputs.max() <= 1):
        return None
    return [_thumbnail(image) for image in np.round(255 * inputs).astype("uint8")]


def _thumbnail(image: np.ndarray) -> str:
    from PIL import Image  # which matplotlib requires

    picture, file = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image), io.BytesIO()
    if max(picture.size) <= _SIDE:
        picture.save(file, "PNG")
        return _uri("png", file.getvalue())
    picture.thumbnail((_SIDE, _SIDE))
    picture.save(file, "JPEG", quality=85)
    return _uri("jpeg", file.getvalue())


def _uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
