"""The meta-weight network `f_phi`: from the losses of a sample to the weights of its losses."""

import keras
from keras import initializers


@keras.saving.register_keras_serializable(package="keras_bikd")
class MetaWeightNet(keras.layers.Layer):
    """Two losses of a sample in, the weights of its hard and its soft loss out.

    A perceptron with tanh hidden layers and sigmoid outputs: each weight lies in (0, 1), and they need not sum
    to one. Its variables exist from the start, so that optimizers, checkpoints and the training step find them.
    It computes in full precision also under a mixed-precision policy; it is tiny, and its gradient is second order.

    Args:
        hidden_units: Widths of the hidden layers, a sequence of positive integers.
        **kwargs: Keras layer arguments (`name`, `dtype`, ...).

    Call arguments:
        losses: Float tensor of shape `(batch, 2)`: cross-entropy of the teacher, then of the student.

    Returns:
        Float tensor of shape `(batch, 2)`: weight of the hard loss, then of the soft loss.

    Raises:
        ValueError: If `hidden_units` is not a sequence of positive integers.

    Example:
    >>> import numpy as np
    >>> net = MetaWeightNet(hidden_units=(64, 64))
    >>> net(np.array([[0.1, 2.3], [4.0, 0.5]])).shape
    TensorShape([2, 2])

    Reference: arXiv 2605.17839, section 3.1 and Algorithm 1, line 6.
    """

    num_losses = 2

    def __init__(self, hidden_units=(64, 64), **kwargs):
        kwargs.setdefault("dtype", keras.config.floatx())
        super().__init__(**kwargs)
        widths = list(hidden_units) if isinstance(hidden_units, (list, tuple)) else [None]
        if not all(isinstance(units, int) and units > 0 for units in widths):
            raise ValueError(
                "`MetaWeightNet(hidden_units=...)` takes a sequence of positive integers, such as (64, 64). "
                f"Received: hidden_units={hidden_units!r}"
            )
        self.hidden_units = tuple(widths)
        fan_ins = [self.num_losses, *widths]
        activations = [*["tanh"] * len(widths), "sigmoid"]
        self.dense_layers = [
            self._dense(fan_in, units, activation)
            for fan_in, units, activation in zip(fan_ins, [*widths, self.num_losses], activations)
        ]
        self.built = True

    def _dense(self, fan_in, units, activation):
        # U(-1/sqrt(fan_in), 1/sqrt(fan_in)) for kernel and bias, as in the authors' code.
        limit = fan_in**-0.5
        layer = keras.layers.Dense(
            units,
            activation=activation,
            kernel_initializer=initializers.RandomUniform(-limit, limit),
            bias_initializer=initializers.RandomUniform(-limit, limit),
            dtype=self.dtype_policy,
        )
        layer.build((None, fan_in))
        return layer

    def call(self, losses):
        weights = losses
        for layer in self.dense_layers:
            weights = layer(weights)
        return weights

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.num_losses)

    def get_config(self):
        return {**super().get_config(), "hidden_units": self.hidden_units}
