"""What a run is, as plain data: everything that is needed to run it again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from clearloop.errors import RunError

FORMAT = 1


@dataclass(frozen=True)
class Recipe:
    """The contents of recipe.json. Components are described as `clearloop.component.describe` does.

    `fits` holds what each fit set out to do, in order. `initial_weights` is "seed" where seeding torch with `seed` and
    building the model gives them, "file" where they lie in the run's folder, "unknown" where the run was first saved
    after training had begun. `fingerprint` says which data it was; `processes`, how many trained it together, at most.
    """

    model: Any
    data: Any
    loss_func: Any
    opt_func: Any
    lr: float
    metrics: list[Any]
    callbacks: list[Any]
    seed: int
    device: str
    precision: str | None
    clip: float | None
    accumulate: int
    fast: str
    threads: int
    fits: list[dict[str, Any]]
    initial_weights: str
    fingerprint: dict[str, Any]
    versions: dict[str, str]
    git_commit: str | None
    created: str
    processes: int = 1
    format: int = FORMAT

    @classmethod
    def read(cls, data: Mapping[str, Any], where: str = "recipe.json") -> Recipe:
        """The recipe that `data` holds. Raises RunError naming what is missing, unknown or of another format."""
        if data.get("format") != FORMAT:
            raise RunError(
                f"{where}: expected a recipe of format {FORMAT}, got {data.get('format')!r}; use a newer clearloop"
            )
        data = {"processes": 1, **data}  # runs of older versions
        names = {field.name for field in fields(cls)}
        if set(data) != names:
            missing, unknown = sorted(names - set(data)), sorted(set(data) - names)
            raise RunError(f"{where}: not a recipe that clearloop wrote: missing {missing}, unknown {unknown}")
        recipe = cls(**data)
        malformed = [name for name, good in recipe._forms().items() if not good]
        if malformed:
            got = repr(data[malformed[0]])[:200]
            raise RunError(f"{where}: expected {malformed[0]} in the form that clearloop writes, got {got}")
        return recipe

    def _forms(self) -> dict[str, bool]:
        """Whether each field that others take apart has the form that they expect."""
        parts = ("model", "data", "loss_func", "opt_func")
        return {
            **{name: isinstance(getattr(self, name), dict) for name in parts},
            "metrics": _list_of((str, dict), self.metrics),
            "callbacks": _list_of(dict, self.callbacks),
            "seed": type(self.seed) is int and self.seed >= 0,
            "threads": type(self.threads) is int and self.threads >= 1,
            "processes": type(self.processes) is int and self.processes >= 1,
            "accumulate": type(self.accumulate) is int and self.accumulate >= 1,
            "fits": _list_of(dict, self.fits) and all(map(_is_plan, self.fits)),
            "fingerprint": isinstance(self.fingerprint, dict) and {"train", "valid"} <= set(self.fingerprint),
            "versions": isinstance(self.versions, dict) and isinstance(self.versions.get("torch"), str),
        }

    def as_dict(self) -> dict[str, Any]:
        """Plain data again."""
        return asdict(self)


def _list_of(kind: type | tuple[type, ...], value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, kind) for item in value)


def _is_plan(plan: dict[str, Any]) -> bool:
    """Whether it is what a fit set out to do, as the Learner writes it down."""
    counts = all(type(plan.get(name)) is int for name in ("first_epoch", "last_epoch", "first_step"))
    return counts and type(plan.get("lr")) in (int, float) and {"schedule", "per"} <= set(plan)
