"""The meta-weight network `f_phi`, which turns the losses of a sample into weights."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import initializers, ops

from keras_bikd import checks
from keras_bikd.long_tail import log_priors
from keras_bikd.serialization import Serializable
from keras_bikd.types import Counts, Tensor

NEVER = -30.0  # its sigmoid is 1e-13, and so is the gradient


@keras.saving.register_keras_serializable(package="keras_bikd")
class MetaWeightNet(Serializable, keras.layers.Layer):
    """Maps the cross-entropies of teacher and student on a sample to one weight per candidate loss.

    A perceptron with tanh hidden layers and sigmoid outputs: each weight lies in (0, 1), and they need not sum
    to one. Its variables exist from the start, so that optimizers, checkpoints and the training step find them.
    It computes in full precision even under a mixed-precision policy: it is tiny, and its gradient is second order.

    Args:
        hidden_units: Widths of the hidden layers, a sequence of positive integers.
        num_losses: Number of weights; 2 in the paper (hard, soft).
        class_counts: Training samples per class. With them, the log prior of the label's class is a third input: once
            the student has fitted a sample, its two losses no longer distinguish head from tail. By default there
            are two inputs.
        initial_weight: Number in (0, 1). The output bias is set so that all weights start near it. By default the
            bias is random, as in the authors' code, and the weights start near one half.
        **kwargs: Keras layer arguments (`name`, `dtype`, ...).

    Call arguments:
        - `losses`: Float tensor of shape `(batch, 2)`, the cross-entropy of the teacher, then of the student.
        - `labels`: Class ids or one-hot rows; only needed with `class_counts`.

    Returns:
        Float tensor of shape `(batch, num_losses)`; in the paper the weight of the hard loss, then of the soft loss.

    Raises:
        ValueError: If an argument is out of range.

    Examples:
        >>> import numpy as np
        >>> net = MetaWeightNet(hidden_units=(64, 64))
        >>> net(np.array([[0.1, 2.3], [4.0, 0.5]])).shape
        TensorShape([2, 2])

    Reference: arXiv 2605.17839, section 3.1 and Algorithm 1, line 6.
    """

    ARGUMENTS = ("hidden_units", "num_losses", "class_counts", "initial_weight")

    def __init__(
        self,
        hidden_units: Sequence[int] = (64, 64),
        *,
        num_losses: int = 2,
        class_counts: Counts | None = None,
        initial_weight: float | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("dtype", keras.config.floatx())
        super().__init__(**kwargs)
        are_widths = isinstance(hidden_units, (list, tuple))
        if not are_widths or not all(isinstance(units, int) and units > 0 for units in hidden_units):
            raise ValueError(
                "`MetaWeightNet(hidden_units=...)` takes a sequence of positive integers, such as (64, 64). "
                f"Received: hidden_units={hidden_units!r}"
            )
        if initial_weight is not None:
            checks.number("MetaWeightNet", "initial_weight", initial_weight, above=0, below=1)
        self.hidden_units = tuple(hidden_units)
        self.num_losses = checks.integer("MetaWeightNet", "num_losses", num_losses)
        self.class_counts: list[int] | None = None
        if class_counts is not None:
            self.class_counts = checks.class_counts("MetaWeightNet", "class_counts", class_counts)
        self.initial_weight = initial_weight
        fan_ins = [2 if class_counts is None else 3, *hidden_units]
        self.dense_layers = [self._dense(fan_in, units, "tanh") for fan_in, units in zip(fan_ins, hidden_units)]
        bias = None if initial_weight is None else np.log(initial_weight / (1 - initial_weight))
        self.dense_layers.append(self._dense(fan_ins[-1], self.num_losses, "sigmoid", bias))
        self.built = True

    def _dense(self, fan_in: int, units: int, activation: str, bias: float | None = None) -> keras.layers.Dense:
        # U(-1/sqrt(fan_in), 1/sqrt(fan_in)) for kernel and bias, as in the authors' code.
        limit = fan_in**-0.5
        uniform = initializers.RandomUniform(-limit, limit)
        layer = keras.layers.Dense(
            units,
            activation=activation,
            kernel_initializer=uniform,
            bias_initializer=uniform.clone() if bias is None else initializers.Constant(bias),
            dtype=self.dtype_policy,
        )
        layer.build((None, fan_in))
        return layer

    def call(self, losses: Tensor, labels: Tensor | None = None) -> Tensor:
        weights = losses
        if self.class_counts is not None:
            weights = ops.concatenate([losses, self._log_prior(labels, self.class_counts)[:, None]], axis=-1)
        for layer in self.dense_layers:
            weights = layer(weights)
        return weights

    def leave_out(self, losses: Sequence[int]) -> None:
        """Set the weights of some losses to zero, whatever the sample; they hardly learn from then on.

        Args:
            losses: Positions of the losses in the output.

        Examples:
            >>> import numpy as np
            >>> net = MetaWeightNet()
            >>> net.leave_out([1])
            >>> bool(net(np.array([[0.1, 2.3]]))[0, 1] < 1e-12), net.leaves_out([1])
            (True, True)
        """
        kernel, bias = self.dense_layers[-1].get_weights()
        kernel[:, list(losses)], bias[list(losses)] = 0.0, NEVER
        self.dense_layers[-1].set_weights([kernel, bias])

    def leaves_out(self, losses: Sequence[int]) -> bool:
        """Say whether some losses have been left out, as by `leave_out`.

        Args:
            losses: Positions of the losses in the output.
        """
        bias = ops.convert_to_numpy(self.dense_layers[-1].bias)
        return bool((bias[list(losses)] < NEVER / 2).all())

    def _log_prior(self, labels: Tensor, class_counts: list[int]) -> Tensor:
        known = ops.cast(log_priors(class_counts), self.compute_dtype)
        labels = ops.convert_to_tensor(labels)
        if len(labels.shape) > 1 and labels.shape[-1] == len(class_counts):
            return ops.matmul(ops.cast(labels, self.compute_dtype), known)
        return ops.take(known, ops.cast(ops.reshape(labels, (-1,)), "int32"))

    def compute_output_shape(
        self, losses_shape: tuple[int | None, ...], labels_shape: tuple[int | None, ...] | None = None
    ) -> tuple[int | None, ...]:
        return (*losses_shape[:-1], self.num_losses)
