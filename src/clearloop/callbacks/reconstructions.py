"""Pictures of what an autoencoder makes of the validation set, drawn while it learns."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from clearloop import durable, rng
from clearloop.callback import Callback
from clearloop.errors import ClearloopError, ConfigError

if TYPE_CHECKING:
    from clearloop.learner import Learner


class SaveReconstructions(Callback):
    """Writes `reconstructions-epoch-0010.png` and the like: validation pictures above what the model makes of them.

    After the first epoch, after every so many, and after the last of a fit; the number is that of the epochs done. The
    same pictures each time. Which files there are depends on the epochs alone, so a resumed run writes those that are
    missing. A disk that takes no more, or outputs that cannot be drawn, end in a warning, not in the end of training.

    Args:
        every: how many epochs lie between two files.
        folder: where they are written; `plots` in the run's folder when None, for which there must be a `Checkpoints`.
        n: how many pictures, from all over the validation set, up to 64.

    Raises:
        ConfigError: for numbers that cannot be, a Learner without validation set, or no folder to write to; DataError,
            before the first step, for data that are no pictures; ModelError for a model that does not give back
            what goes in.

    >>> SaveReconstructions(every=5).name_of(10)
    'reconstructions-epoch-0010.png'
    """

    order = 90  # after what may stop the fit, before the checkpoint: a run that is killed here draws the epoch again
    writes = True

    def __init__(self, every: int = 10, folder: str | Path | None = None, n: int = 10) -> None:
        for name, number, most in (("every", every, 10**9), ("n", n, 64)):
            if type(number) is not int or not 1 <= number <= most:
                raise ConfigError(f"{name} must be a whole number from 1 to {most}, got {number!r}")
        self.every, self.folder, self.n = every, None if folder is None else Path(folder), n

    def before_fit(self, learn: Learner) -> None:
        """Look whether pictures can be drawn, before an epoch is trained in vain."""
        from clearloop.callbacks.checkpoints import Checkpoints

        if learn.dls.valid is None:
            raise ConfigError("SaveReconstructions draws pictures of the validation set, and there is none")
        if self.folder is None and learn.run is None and not any(isinstance(cb, Checkpoints) for cb in learn.cbs):
            raise ConfigError('there is no run to write pictures to: pass folder="...", or add Checkpoints("runs/...")')
        self._draw(learn, 1)
        if self.folder is not None or learn.run is not None:  # or it is a new run, with nothing in it
            durable.sweep_temporaries(self._folder(learn))

    def after_epoch(self, learn: Learner) -> None:
        """Write the picture of this epoch, if it is one to be drawn."""
        done = learn.epoch
        if done > 1 and done % self.every and done < learn.plan["last_epoch"]:
            return
        try:
            picture = self._draw(learn, self.n)
            folder = self._folder(learn)
            durable.make_directory(folder)
            durable.write_file(folder / self.name_of(done), picture)
        except (ClearloopError, OSError) as error:
            warnings.warn(
                f"no picture of the reconstructions after epoch {done}: {error}", RuntimeWarning, stacklevel=2
            )

    def name_of(self, epochs: int) -> str:
        """The name of the file that is written after so many epochs."""
        return f"reconstructions-epoch-{epochs:04d}.png"

    def _folder(self, learn: Learner) -> Path:
        if self.folder is not None:
            return self.folder
        assert learn.run is not None
        return learn.run.path / "plots"

    def _draw(self, learn: Learner, n: int) -> bytes:
        with rng.preserved():  # whatever matplotlib draws by chance
            from clearloop.reconstruct import reconstructions

            return reconstructions(learn, n=n)._repr_png_()
