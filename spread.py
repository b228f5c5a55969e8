"""Mean and standard deviation of what several runs measured, over seeds or folds."""

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any


def mean_and_std(measured: Sequence[Any]) -> dict[str, Any]:
    """`mean` and `std` of every float in what each run `measured`, in dictionaries and lists like theirs.

    Whatever is no float, or not in all of them, is left out. The standard deviation is that of a sample,
    divided by n - 1; None for one run, which tells no spread.
    """
    first = measured[0]
    if all(isinstance(each, float) for each in measured):
        return {"mean": fmean(measured), "std": stdev(measured) if len(measured) > 1 else None}
    if isinstance(first, Mapping):
        names = [name for name in first if all(name in each for each in measured)]
        parts = {name: mean_and_std([each[name] for each in measured]) for name in names}
        found = {name: part for name, part in parts.items() if part.get("mean", {}) != {}}
        return {kind: {name: part[kind] for name, part in found.items()} for kind in ("mean", "std")}
    if isinstance(first, list) and all(isinstance(v, float) for each in measured for v in each):
        parts = [mean_and_std(values) for values in zip(*measured, strict=True)]
        return {kind: [part[kind] for part in parts] for kind in ("mean", "std")}
    return {}


def by_seed(seeds: Sequence[int], measured: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """`mean` and `std` over `seeds` of what each `measured`, and that itself by seed, under `seeds`."""
    return {**mean_and_std(measured), "seeds": dict(zip(map(str, seeds), measured, strict=True))}


def format_spread(mean: float, std: float | None, digits: int = 4) -> str:
    """`mean ± std`, or the number alone of a single run."""
    return f"{mean:.{digits}f}" + ("" if std is None else f" ± {std:.{digits}f}")
