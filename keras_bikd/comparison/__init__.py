"""Train many methods under one protocol, cell by cell, and put them into one table. Used by `recipes/compare.py`."""

from keras_bikd.comparison.calls import Call, Part, Parts, config_of, make
from keras_bikd.comparison.cells import row_of, run_cells
from keras_bikd.comparison.method import Method
from keras_bikd.comparison.networks import ByteConvNet, CifarResNet, Perceptron
from keras_bikd.comparison.protocol import train
from keras_bikd.comparison.regret import Regret, regret, regret_tables
from keras_bikd.comparison.setting import Cell, Setting
from keras_bikd.comparison.studies import altered_meta, retrain_last_layer
from keras_bikd.comparison.tables import report

__all__ = [
    "ByteConvNet",
    "Call",
    "Cell",
    "CifarResNet",
    "Method",
    "Part",
    "Parts",
    "Perceptron",
    "Regret",
    "Setting",
    "altered_meta",
    "config_of",
    "make",
    "regret",
    "regret_tables",
    "report",
    "retrain_last_layer",
    "row_of",
    "run_cells",
    "train",
]
