"""Models: functions that return plain `torch.nn` modules, and remember how they were called."""

from clearloop.models.autoencoder import autoencoder as autoencoder
from clearloop.models.autoencoder import conv_autoencoder as conv_autoencoder
from clearloop.models.autoencoder import sparse_mse as sparse_mse
from clearloop.models.cnn import cnn as cnn
from clearloop.models.linear import linear as linear
from clearloop.models.mlp import mlp as mlp
from clearloop.models.published import load_weights as load_weights
from clearloop.models.resnet import resnet18 as resnet18
from clearloop.models.resnet import resnet34 as resnet34
from clearloop.models.resnet import resnet50 as resnet50
from clearloop.models.table_net import table_net as table_net

__all__ = [
    "autoencoder",
    "cnn",
    "conv_autoencoder",
    "linear",
    "load_weights",
    "mlp",
    "resnet18",
    "resnet34",
    "resnet50",
    "sparse_mse",
    "table_net",
]
