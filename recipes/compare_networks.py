"""Students and teachers of the comparisons: frozen records that make a network for any images, or for any text."""

import dataclasses

import keras

import keras_bikd as bikd


@dataclasses.dataclass(frozen=True)
class Perceptron:
    """Dense layers on flattened samples, with logits as outputs.

    Args:
        units: Widths of the hidden layers.
        l2: Factor of the squared weights in the network's own losses.
    """

    units: tuple[int, ...]
    l2: float = 2.5e-4

    def __call__(self, input_shape: tuple[int, int, int], num_classes: int) -> keras.Model:
        """Make an untrained network.

        Args:
            input_shape: Shape of a sample.
            num_classes: Number of logits.
        """
        l2 = keras.regularizers.L2(self.l2)
        decay = {"kernel_regularizer": l2, "bias_regularizer": l2}
        hidden = [keras.layers.Dense(n, "relu", kernel_initializer="he_normal", **decay) for n in self.units]
        logits = keras.layers.Dense(num_classes, kernel_initializer="he_normal", **decay)
        return keras.Sequential([keras.Input(input_shape), keras.layers.Flatten(), *hidden, logits])


@dataclasses.dataclass(frozen=True)
class CifarResNet:
    """`keras_bikd.networks.cifar_resnet`, with the weight decay of the paper.

    Args:
        depth: As in `cifar_resnet`.
        widths: As in `cifar_resnet`.
        stem_stride: As in `cifar_resnet`.
        l2: As in `cifar_resnet`.
    """

    depth: int
    widths: tuple[int, int, int, int]
    stem_stride: int = 1
    l2: float = 2.5e-4

    def __call__(self, input_shape: tuple[int, int, int], num_classes: int) -> keras.Model:
        """Make an untrained network; the arguments are those of `Perceptron`."""
        return bikd.networks.cifar_resnet(
            self.depth, self.widths, num_classes, input_shape=input_shape, stem_stride=self.stem_stride, l2=self.l2
        )


@dataclasses.dataclass(frozen=True)
class ByteConvNet:
    """A convolutional network on text that is given as bytes: integers from 0 to 255.

    Bytes are embedded. Each convolution is followed by batch normalisation, a ReLU, and maxima over pairs of positions.

    Args:
        embedding: Numbers that stand for a byte.
        filters: Widths of the convolutions, five bytes wide each.
        units: Widths of the hidden dense layers behind them.
        dropout: Share of the inputs of the dense layers that is dropped.
        l2: Factor of the squared weights in the network's own losses.
    """

    embedding: int
    filters: tuple[int, ...]
    units: tuple[int, ...] = ()
    dropout: float = 0.0
    l2: float = 0.0

    def __call__(self, input_shape: tuple[int, ...], num_classes: int) -> keras.Model:
        """Make an untrained network.

        Args:
            input_shape: Length of the texts, in a tuple.
            num_classes: Number of logits.
        """
        decay = {"kernel_regularizer": keras.regularizers.L2(self.l2)}
        layers = [keras.Input(input_shape, dtype="int32"), keras.layers.Embedding(256, self.embedding)]
        for width in self.filters:
            layers.append(keras.layers.Conv1D(width, 5, padding="same", use_bias=False, **decay))
            # Without it, losses with a large factor, such as that of WSL, diverge at a learning rate of 0.1.
            layers += [keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5), keras.layers.ReLU()]
            layers.append(keras.layers.MaxPooling1D(2))
        layers.append(keras.layers.Flatten())
        for width in self.units:
            layers += [keras.layers.Dropout(self.dropout), keras.layers.Dense(width, "relu", **decay)]
        return keras.Sequential([*layers, keras.layers.Dropout(self.dropout), keras.layers.Dense(num_classes, **decay)])
