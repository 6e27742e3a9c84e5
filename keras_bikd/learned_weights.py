"""`LearnedWeights`: a weight network that has been trained, as an objective for another student."""

import keras
from keras import ops

from keras_bikd.losses import hard_loss
from keras_bikd.meta_weight_net import MetaWeightNet


@keras.saving.register_keras_serializable(package="keras_bikd")
class LearnedWeights(keras.layers.Layer):
    """Losses under the weights of a trained weight network, which stays as it is.

    A weight network learns what helps on images that its student is not trained on. Once the meta images are trained
    on too, the student knows them by heart and the network learns nothing from them. So take two runs: let
    `BiKDModel` learn the weights with the meta images held out, then train a fresh student under these weights on
    all images, as the objective of a `DistillationModel`.

    Args:
        weight_net: Trained `MetaWeightNet`, such as `model.weight_net`. It is copied.
        candidate_losses: Dict of name to objective, as in `BiKDModel`: the losses that the network has learned to
            weigh, in the same order, with the class counts of the new training set.
        **kwargs: Keras layer arguments (`name`, `dtype`, ...).

    Call arguments:
        labels: Integer ids of shape `(batch,)`, or one-hot rows.
        teacher_logits: Float tensor of shape `(batch, classes)`.
        student_logits: Float tensor of shape `(batch, classes)`.

    Returns:
        The weighted loss of every sample, shape `(batch,)`.

    Raises:
        ValueError: If the network has another number of weights than there are losses.

    Examples:
        >>> import numpy as np
        >>> from keras_bikd.objectives import CrossEntropy, SoftTargets
        >>> losses = {"hard": CrossEntropy(), "soft": SoftTargets()}
        >>> objective = LearnedWeights(MetaWeightNet(), losses)
        >>> objective(np.array([2]), np.array([[1.0, 0.0, 3.0]]), np.array([[0.0, 2.0, 1.0]])).shape
        TensorShape([1])
    """

    def __init__(self, weight_net, candidate_losses, **kwargs):
        kwargs.setdefault("dtype", keras.config.floatx())
        super().__init__(**kwargs)
        if not isinstance(weight_net, MetaWeightNet):
            raise ValueError(
                "`LearnedWeights(weight_net=...)` takes a trained `MetaWeightNet`, such as `model.weight_net`. "
                f"Received: weight_net={weight_net!r}"
            )
        if not isinstance(candidate_losses, dict) or len(candidate_losses) != weight_net.num_losses:
            raise ValueError(
                "`LearnedWeights(candidate_losses=...)` takes a dict with one loss per output of the weight network. "
                f"Received: {candidate_losses!r} with num_losses={weight_net.num_losses}"
            )
        # Keras does not hand `trainable` down to layers that are made inside.
        self.weight_net = MetaWeightNet.from_config(weight_net.get_config() | {"trainable": True})
        self.weight_net.set_weights(weight_net.get_weights())
        self.weight_net.trainable = False
        self.candidate_losses = dict(candidate_losses)
        self.built = True

    def call(self, labels, teacher_logits, student_logits):
        known = [hard_loss(labels, teacher_logits), ops.stop_gradient(hard_loss(labels, student_logits))]
        weights = ops.stop_gradient(self.weight_net(ops.stack(known, axis=-1), labels))
        losses = [loss(labels, teacher_logits, student_logits) for loss in self.candidate_losses.values()]
        return ops.sum(ops.cast(weights, losses[0].dtype) * ops.stack(losses, axis=-1), axis=-1)

    def compute_output_shape(self, labels_shape, teacher_logits_shape, student_logits_shape):
        return (student_logits_shape[0],)

    def get_config(self):
        serialize = keras.saving.serialize_keras_object
        losses = {name: serialize(loss) for name, loss in self.candidate_losses.items()}
        return {**super().get_config(), "weight_net": serialize(self.weight_net), "candidate_losses": losses}

    @classmethod
    def from_config(cls, config):
        revive = keras.saving.deserialize_keras_object
        losses = {name: revive(loss) for name, loss in config["candidate_losses"].items()}
        return cls(**{**config, "weight_net": revive(config["weight_net"]), "candidate_losses": losses})
