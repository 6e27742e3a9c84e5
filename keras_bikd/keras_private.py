"""What Keras hides and this library needs, a line each with its reason. After a release of Keras, read this file."""

from operator import attrgetter
from typing import Any

import keras

# What `fit` reads its data with: to look at the first batch, and to pair, weigh or check the batches.
from keras.src.trainers.data_adapters import get_data_adapter as get_data_adapter
from keras.src.trainers.data_adapters import is_grain_dataset as is_grain_dataset
from keras.src.trainers.data_adapters import is_tf_dataset as is_tf_dataset
from keras.src.trainers.data_adapters import is_torch_dataloader as is_torch_dataloader
from keras.src.trainers.data_adapters.array_data_adapter import can_convert_arrays as can_convert_arrays
from keras.src.trainers.data_adapters.array_slicing import train_validation_split as train_validation_split
from keras.src.trainers.data_adapters.data_adapter import DataAdapter as DataAdapter
from keras.src.trainers.data_adapters.data_adapter_utils import get_tensor_spec as get_tensor_spec
from keras.src.trainers.data_adapters.data_adapter_utils import get_torch_dataloader as get_torch_dataloader
from keras.src.trainers.data_adapters.data_adapter_utils import is_jax_sparse as is_jax_sparse
from keras.src.trainers.data_adapters.data_adapter_utils import is_scipy_sparse as is_scipy_sparse
from keras.src.trainers.data_adapters.data_adapter_utils import is_tensorflow_sparse as is_tensorflow_sparse
from keras.src.trainers.data_adapters.generator_data_adapter import GeneratorDataAdapter as GeneratorDataAdapter
from keras.src.trainers.data_adapters.py_dataset_adapter import PyDatasetAdapter as PyDatasetAdapter
from keras.src.trainers.data_adapters.tf_dataset_adapter import TFDatasetAdapter as TFDatasetAdapter

# Creates the metrics of `compile`; `fit` would do it by a step on a pair of batches, and fail.
create_metrics = keras.Model._symbolic_build
# The arguments of `compile` that are saved; it has more here.
saved_compile_arguments = attrgetter("_compile_config.config")
# The mean that `fit` logs as `loss`.
loss_tracker = attrgetter("_loss_tracker")
# On JAX, the losses of layers in the forward pass that is differentiated; else nothing.
losses_of_forward_pass = attrgetter("_losses_override")
# All layers inside a model, also those of models inside it.
layers_inside = keras.Model._flatten_layers
# The writer of `keras.callbacks.TensorBoard` for training, to write histograms of one's own.
tensorboard_writer = attrgetter("_train_writer")


def start_at_epoch(model: keras.Model, epoch: int | None) -> None:
    """Let the next `fit` start at `epoch`, as `keras.callbacks.BackupAndRestore` does; with `None` at its own."""
    model._initial_epoch = epoch


class Untracked:
    """Holds what Keras would otherwise track, and save with the object that has it as an attribute.

    Args:
        value: Models, layers or variables that belong to something else.
    """

    def __init__(self, value: Any) -> None:
        self.value = value
