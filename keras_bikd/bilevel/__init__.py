"""The bilevel problem: the hypergradient of one virtual step, the optimizer of both levels, and the weight network.

`one_step_hypergradient` does not depend on distillation and works for other bilevel problems.
"""

from keras_bikd.bilevel.hypergradient import VirtualStep, one_step_hypergradient
from keras_bikd.bilevel.optimizer import BilevelOptimizer
from keras_bikd.bilevel.weight_net import MetaWeightNet

__all__ = ["BilevelOptimizer", "MetaWeightNet", "VirtualStep", "one_step_hypergradient"]
