"""The data of a training step: batches, pairs of training and meta batches, the arguments of `fit`."""
