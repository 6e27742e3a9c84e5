"""The residual networks of the paper, with PyTorch's padding, batch-norm constants and initialisation."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import initializers, layers, regularizers

from keras_bikd.types import Tensor


def cifar_resnet(
    depth: int,
    widths: Sequence[int] = (16, 16, 32, 64),
    num_classes: int = 10,
    *,
    input_shape: tuple[int, int, int] = (32, 32, 3),
    stem_stride: int = 1,
    l2: float = 0.0,
    name: str | None = None,
) -> keras.Model:
    """A CIFAR ResNet of basic blocks that outputs logits.

    A 3x3 stem, three stages of `(depth - 2) / 6` blocks with strides 1, 2, 2, global average pooling, a dense
    classifier. Convolutions pad one pixel on every side, also at stride 2, so that PyTorch weights transfer.

    Args:
        depth: 8, 14, 20, 32, ...: six times the number of blocks per stage, plus two.
        widths: Channels of the stem and of the three stages.
        num_classes: Number of classes.
        input_shape: `(height, width, channels)`.
        stem_stride: Stride of the stem; at 2 the network costs a quarter.
        l2: L2 regularisation of every trainable weight: this factor times the squared weights is added to the loss.
            PyTorch's `weight_decay` is `2 * l2`. The `weight_decay` of Keras optimizers is not the same: it is
            decoupled.
        name: Name of the model.

    Returns:
        A `keras.Model`.

    Raises:
        ValueError: If `depth` is not `6 n + 2`, or there are not four widths.

    Examples:
        >>> cifar_resnet(8, widths=(4, 4, 8, 16), num_classes=5).output_shape
        (None, 5)

    Reference: He et al., arXiv 1512.03385, section 4.2; widths (32, 64, 128, 256) as in arXiv 2605.17839.
    """
    blocks = (depth - 2) // 6
    if blocks < 1 or depth != 6 * blocks + 2:
        raise ValueError(f"`cifar_resnet(depth=...)` takes 6 n + 2: 8, 14, 20, 26, 32, ... Received: depth={depth!r}")
    if len(widths) != 4:
        raise ValueError(
            f"`cifar_resnet(widths=...)` takes four numbers of channels: stem and three stages. Received: {widths!r}"
        )
    decay = regularizers.L2(l2) if l2 else None

    inputs = keras.Input(input_shape)
    x = _conv_bn(inputs, widths[0], 3, stem_stride, "stem_conv", "stem_bn", decay)
    x = layers.ReLU(name="stem_relu")(x)
    for stage, width in enumerate(widths[1:], start=1):
        for block in range(1, blocks + 1):
            stride = 2 if stage > 1 and block == 1 else 1
            x = _basic_block(x, width, stride, f"stage{stage}_block{block}", decay)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, _classifier(x, num_classes, decay), name=name or f"resnet{depth}")


def resnet8x4(num_classes: int, **kwargs: Any) -> keras.Model:
    """The paper's student: depth 8, widths 32, 64, 128, 256. Arguments as in `cifar_resnet`.

    Examples:
        >>> resnet8x4(100).count_params()
        1236292
    """
    return cifar_resnet(8, (32, 64, 128, 256), num_classes, name="resnet8x4", **kwargs)


def resnet32x4(num_classes: int, **kwargs: Any) -> keras.Model:
    """The paper's teacher: depth 32, widths 32, 64, 128, 256. Arguments as in `cifar_resnet`.

    Examples:
        >>> resnet32x4(100).count_params()
        7443780
    """
    return cifar_resnet(32, (32, 64, 128, 256), num_classes, name="resnet32x4", **kwargs)


def load_pytorch_weights(model: keras.Model, state_dict: Mapping[str, Any]) -> None:
    """Load a PyTorch checkpoint of the authors' ResNet into the same network in Keras.

    All arrays are checked before any is assigned.

    Args:
        model: A network made by `cifar_resnet`, with the depth, widths and number of classes of the checkpoint.
        state_dict: Mapping of PyTorch names (`conv1.weight`, `layer1.0.bn1.running_mean`, ..., `fc.bias`) to arrays or
            CPU tensors. For a checkpoint of the authors' training script: `torch.load(path)["net"]`.

    Raises:
        ValueError: If names are missing or left over, or a shape does not fit.

    Examples:
        >>> model = cifar_resnet(8, (4, 4, 8, 16), num_classes=5)
        >>> load_pytorch_weights(model, {"conv1.weight": np.zeros((4, 3, 3, 3))})
        Traceback (most recent call last):
        ValueError: The checkpoint belongs to another network. ...
    """
    arrays = {
        name.removeprefix("module."): _keras_layout(np.asarray(value))
        for name, value in state_dict.items()
        if not name.endswith("num_batches_tracked")
    }
    wanted = {_pytorch_name(layer.name, v.name): v for layer in model.layers for v in layer.weights}
    expected = {name: tuple(variable.shape) for name, variable in wanted.items()}
    received = {name: array.shape for name, array in arrays.items()}
    missing = [own for own in expected.items() if own not in received.items()]
    left_over = [own for own in received.items() if own not in expected.items()]
    if missing or left_over:
        raise ValueError(
            "The checkpoint belongs to another network. The first three names and shapes of each kind: "
            f"missing {missing[:3]}, left over {left_over[:3]}"
        )
    for name, variable in wanted.items():
        variable.assign(arrays[name])


def _pytorch_name(layer: str, variable: str) -> str:
    """`stage1_block2_shortcut_bn`, `gamma` -> `layer1.1.downsample.1.weight`."""
    names = {"kernel": "weight", "gamma": "weight", "moving_mean": "running_mean", "moving_variance": "running_var"}
    variable = names.get(variable, "bias")  # or beta
    block = re.fullmatch(r"stage(\d)_block(\d+)_(.*)", layer)
    stem = {"stem_conv": "conv1", "stem_bn": "bn1", "classifier": "fc"}
    if block is None:
        return f"{stem[layer]}.{variable}"
    stage, number, part = block.groups()
    part = {"shortcut_conv": "downsample.0", "shortcut_bn": "downsample.1"}.get(part, part)
    return f"layer{stage}.{int(number) - 1}.{part}.{variable}"


def _keras_layout(array: np.ndarray) -> np.ndarray:
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T


def _classifier(x: Tensor, num_classes: int, decay: Any) -> Tensor:
    limit = x.shape[-1] ** -0.5
    return layers.Dense(
        num_classes,
        kernel_initializer=initializers.RandomUniform(-limit, limit),
        bias_initializer=initializers.RandomUniform(-limit, limit),
        kernel_regularizer=decay,
        bias_regularizer=decay,
        name="classifier",
    )(x)


def _basic_block(x: Tensor, width: int, stride: int, name: str, decay: Any) -> Tensor:
    y = _conv_bn(x, width, 3, stride, f"{name}_conv1", f"{name}_bn1", decay)
    y = layers.ReLU(name=f"{name}_relu1")(y)
    y = _conv_bn(y, width, 3, 1, f"{name}_conv2", f"{name}_bn2", decay)
    if stride != 1 or x.shape[-1] != width:
        x = _conv_bn(x, width, 1, stride, f"{name}_shortcut_conv", f"{name}_shortcut_bn", decay)
    return layers.ReLU(name=f"{name}_relu2")(layers.Add(name=f"{name}_add")([y, x]))


def _conv_bn(x: Tensor, width: int, kernel_size: int, stride: int, conv_name: str, bn_name: str, decay: Any) -> Tensor:
    # "same" at stride 2 would pad at the bottom and right only. At stride 1 it is PyTorch's padding.
    if kernel_size == 3 and stride == 2:
        x = layers.ZeroPadding2D(1, name=f"{conv_name}_pad")(x)
    x = layers.Conv2D(
        width,
        kernel_size,
        strides=stride,
        padding="same" if stride == 1 else "valid",
        use_bias=False,
        kernel_initializer=initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal"),
        kernel_regularizer=decay,
        name=conv_name,
    )(x)
    return layers.BatchNormalization(
        momentum=0.9, epsilon=1e-5, gamma_regularizer=decay, beta_regularizer=decay, name=bn_name
    )(x)
