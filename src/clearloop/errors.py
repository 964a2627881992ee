"""Every error that clearloop raises on purpose.

    ClearloopError
    ├── ConfigError            an argument or option that cannot work (also a ValueError)
    ├── DataError              the data are missing, damaged or out of range (also a ValueError)
    ├── ModelError             model, loss and data do not fit each other (also a ValueError)
    ├── NonFiniteError         a loss, gradient or weight became NaN or infinite (also an ArithmeticError)
    ├── RunError               a run directory is missing, in use, or belongs to another model
    │   ├── CheckpointError    no checkpoint that verifies, or one that does not match
    │   └── StorageError       the file system refused a write (also an OSError)
    └── EjectError             a run that cannot be printed as plain PyTorch

Each message says what was expected, what came, and what to do.
"""


class ClearloopError(Exception):
    """The root: `except ClearloopError` catches all that the library raises on purpose."""


class ConfigError(ClearloopError, ValueError):
    """An argument or option that cannot work."""


class DataError(ClearloopError, ValueError):
    """The data are missing, damaged or out of range."""


class ModelError(ClearloopError, ValueError):
    """Model, loss and data do not fit each other."""


class NonFiniteError(ClearloopError, ArithmeticError):
    """A loss, gradient or weight became NaN or infinite."""

    @classmethod
    def at(cls, step: int, loss: float, lr: float) -> "NonFiniteError":
        """The error for a loss, with what to try."""
        return cls(
            f"the loss is {loss} at step {step} (learning rate {lr:.3g}); nothing was saved after it. Try a learning "
            "rate ten times smaller, clip=1.0, or a warm-up; look for log(0) or 0/0 in the loss, and for extreme "
            "values in the data"
        )


class RunError(ClearloopError):
    """A run directory is missing, in use, or belongs to another model."""


class CheckpointError(RunError):
    """No checkpoint that verifies, or one that does not match the model."""


class StorageError(RunError, OSError):
    """The file system refused a write; what was there before is untouched."""


class EjectError(ClearloopError):
    """A run that cannot be printed as plain PyTorch; the message names the part."""
