"""Models: functions that return plain `torch.nn` modules, and remember how they were called."""

from clearloop.models.autoencoder import autoencoder as autoencoder
from clearloop.models.cnn import cnn as cnn
from clearloop.models.linear import linear as linear
from clearloop.models.mlp import mlp as mlp

__all__ = ["autoencoder", "cnn", "linear", "mlp"]
