"""The bilevel problem: hypergradient, optimizer and weight network."""

from keras_bikd.bilevel.hypergradient import VirtualStep, one_step_hypergradient
from keras_bikd.bilevel.optimizer import BilevelOptimizer
from keras_bikd.bilevel.weight_net import MetaWeightNet

__all__ = ["BilevelOptimizer", "MetaWeightNet", "VirtualStep", "one_step_hypergradient"]
