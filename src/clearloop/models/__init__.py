"""Models: functions that return plain `torch.nn` modules, and remember how they were called."""

from clearloop.models.cnn import cnn as cnn
from clearloop.models.linear import linear as linear
from clearloop.models.mlp import mlp as mlp

__all__ = ["cnn", "linear", "mlp"]
