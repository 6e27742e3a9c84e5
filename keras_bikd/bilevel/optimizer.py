"""One Keras optimizer that owns the two of a bilevel problem, the summed hypergradients and the batch counter."""

from typing import Any

import keras
from keras import ops

from keras_bikd.backend import all_reduce_sum, apply_gradients, num_replicas, snapshot
from keras_bikd.keras_private import Untracked
from keras_bikd.serialization import Serializable
from keras_bikd.types import Tensor


@keras.saving.register_keras_serializable(package="keras_bikd")
class BilevelOptimizer(Serializable, keras.optimizers.Optimizer):
    """The optimizers of student and weight network, as the single optimizer that Keras saves and restores.

    `BiKDModel.compile` creates it. Keras sees one object with one list of variables, so that checkpoints, backups and
    the state tree hold everything. `learning_rate` is that of the student, which learning-rate callbacks change; the
    other one is `meta_optimizer.learning_rate`. `iterations` counts batches and is not reset between epochs.

    Args:
        inner_optimizer: `keras.optimizers.Optimizer` of the student.
        meta_optimizer: `keras.optimizers.Optimizer` of the weight network.
        name: Optional name.

    Examples:
        >>> import keras
        >>> optimizer = BilevelOptimizer(
        ...     keras.optimizers.SGD(0.1), keras.optimizers.Adam(1e-3)
        ... )
        >>> (
        ...     float(optimizer.learning_rate),
        ...     float(optimizer.meta_optimizer.learning_rate),
        ... )
        (0.10000000149011612, 0.0010000000474974513)
    """

    ARGUMENTS = ("inner_optimizer", "meta_optimizer")

    def __init__(
        self,
        inner_optimizer: keras.optimizers.Optimizer,
        meta_optimizer: keras.optimizers.Optimizer,
        name: str = "bilevel_optimizer",
    ) -> None:
        super().__init__(learning_rate=0.0, name=name)
        self.inner_optimizer = inner_optimizer
        self.meta_optimizer = meta_optimizer

    def build(self, variables: list[keras.Variable], meta_variables: list[keras.Variable] | None = None) -> None:
        """Create the slots of both optimizers, each on its own variables.

        Args:
            variables: Trainable variables of the student.
            meta_variables: Trainable variables of the weight network.
        """
        if self.built:
            return
        if meta_variables is None:
            raise ValueError(
                "`BilevelOptimizer.build(variables, meta_variables)` needs both lists: the student's variables and "
                "the weight network's. Received only the first. `BiKDModel.compile` and `fit` build it for you."
            )
        self.inner_optimizer.build(variables)
        self.meta_optimizer.build(meta_variables)
        self.hypergradients = self.add_optimizer_variables(meta_variables, "hypergradient")
        self.last_hypergradients = self.add_optimizer_variables(meta_variables, "last_hypergradient")
        self.overflow = self.add_variable((), dtype="bool", name="overflow")
        self.last_overflow = self.add_variable((), dtype="bool", name="last_overflow")
        self._meta_variables = Untracked(meta_variables)  # they belong to the weight network
        super().build([*variables, *meta_variables])

    def accumulate(self, hypergradient: list[Tensor], inner_steps: int) -> Tensor:
        """Add one batch's hypergradient to the sum and count the batch; one that is not finite is left out.

        Args:
            hypergradient: List of tensors, this replica's share.
            inner_steps: Number of batches between two updates of the weight network.

        Returns:
            Boolean scalar tensor, whether the weight network moves after this batch.
        """
        hypergradient = all_reduce_sum(hypergradient)
        finite = ops.all(ops.stack([ops.all(ops.isfinite(term)) for term in hypergradient]))
        for total, term in zip(self.hypergradients, hypergradient):
            total.assign(total + ops.where(finite, term, ops.zeros_like(term)))
        self.overflow.assign(ops.logical_or(self.overflow, ops.logical_not(finite)))
        self.iterations.assign(self.iterations + 1)
        return ops.equal(self.iterations % inner_steps, 0)

    def update_meta(self, phi_moves: Tensor) -> None:
        """If `phi_moves`, take one step of the meta optimizer on the summed hypergradients and clear the sums.

        The step is always computed, and undone if `phi` must not move: conditions around an optimizer break under
        `tf.distribute`, and the weight network is tiny. After an overflow a `LossScaleOptimizer` receives infinite
        gradients, so that it lowers its scale and skips the update.

        Args:
            phi_moves: Boolean scalar tensor, as returned by `accumulate`.
        """
        sums = snapshot(self.hypergradients)
        overflow, last_overflow = snapshot([self.overflow, self.last_overflow])
        # The sums are global already, and `apply_gradients` sums over the replicas again.
        gradients = [self.meta_optimizer.scale_loss(total) / num_replicas() for total in sums]
        if isinstance(self.meta_optimizer, keras.optimizers.LossScaleOptimizer):
            gradients = [ops.where(overflow, float("inf"), gradient) for gradient in gradients]
        touched = [*self.meta_variables, *self.meta_optimizer.variables]
        before = snapshot(touched)
        apply_gradients(self.meta_optimizer, gradients, self.meta_variables)
        for variable, old, new in zip(touched, before, snapshot(touched)):
            variable.assign(ops.where(phi_moves, new, old))
        for variable, total in zip(self.hypergradients, sums):
            variable.assign(ops.where(phi_moves, ops.zeros_like(total), total))
        for variable, total, last in zip(self.last_hypergradients, sums, snapshot(self.last_hypergradients)):
            variable.assign(ops.where(phi_moves, total, last))
        self.last_overflow.assign(ops.where(phi_moves, overflow, last_overflow))
        self.overflow.assign(ops.logical_and(overflow, ops.logical_not(phi_moves)))

    def update_student(self, gradient: list[Tensor], variables: list[keras.Variable]) -> None:
        """Take one step of the student's optimizer.

        Args:
            gradient: List of tensors, scaled by `inner_optimizer.scale_loss`; this replica's share.
            variables: The student's trainable variables.
        """
        apply_gradients(self.inner_optimizer, gradient, variables)

    @property
    def meta_variables(self) -> list[keras.Variable]:
        """Trainable variables of the weight network."""
        return self._meta_variables.value

    @property
    def variables(self) -> list[keras.Variable]:
        return [*super().variables, *self.inner_optimizer.variables, *self.meta_optimizer.variables]

    @property
    def learning_rate(self) -> keras.Variable:
        return self.inner_optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate: Any) -> None:
        self.inner_optimizer.learning_rate = learning_rate

    def finalize_variable_values(self, var_list: list[keras.Variable]) -> None:
        """Hand each optimizer its own variables at the end of `fit`, for instance to apply averaged weights."""
        meta = {id(variable) for variable in self.meta_variables}
        self.inner_optimizer.finalize_variable_values([v for v in var_list if id(v) not in meta])
        self.meta_optimizer.finalize_variable_values(self.meta_variables)

    # Keras visits the two children by itself; only the own variables are stored here.
    def save_own_variables(self, store: Any) -> None:
        for i, variable in enumerate(super().variables):
            store[str(i)] = variable.numpy()

    def load_own_variables(self, store: Any) -> None:
        own = super().variables
        if len(store.keys()) != len(own):
            raise ValueError(
                f"The file holds {len(store.keys())} variables of the bilevel optimizer, expected {len(own)}. "
                "Compile the model with the optimizers it was saved with, and with a built student, before loading."
            )
        for i, variable in enumerate(own):
            variable.assign(store[str(i)])

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        return {name: config[name] for name in (*self.ARGUMENTS, "name")}  # the rest belongs to the two optimizers


def loss_scale(optimizer: keras.optimizers.Optimizer) -> Tensor:
    """The factor of the losses that `optimizer` expects: 1, except for a `LossScaleOptimizer`."""
    return optimizer.scale_loss(1.0)


def with_loss_scale(optimizer: keras.optimizers.Optimizer, compute_dtype: str) -> keras.optimizers.Optimizer:
    """`optimizer`, inside a `LossScaleOptimizer` if the student computes in float16."""
    if compute_dtype != "float16" or isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return optimizer
    return keras.optimizers.LossScaleOptimizer(optimizer)
