"""Mean and standard deviation of the results of several runs, over seeds or folds."""

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any


def mean_and_std(results: Sequence[Any]) -> dict[str, Any]:
    """Returns the `mean` and the `std` of every float in `results`, in dictionaries and lists like theirs.

    Everything that is no float, or is missing in one of the results, is left out. The standard deviation is
    that of a sample, divided by n - 1, and None for a single result.
    """
    first = results[0]
    if all(isinstance(result, float) for result in results):
        return {"mean": fmean(results), "std": stdev(results) if len(results) > 1 else None}
    if isinstance(first, Mapping):
        names = [name for name in first if all(name in result for result in results)]
        parts = {name: mean_and_std([result[name] for result in results]) for name in names}
        parts = {name: part for name, part in parts.items() if part.get("mean", {}) != {}}
        return {kind: {name: part[kind] for name, part in parts.items()} for kind in ("mean", "std")}
    if isinstance(first, list) and all(isinstance(value, float) for result in results for value in result):
        elements = [mean_and_std(values) for values in zip(*results, strict=True)]
        return {kind: [element[kind] for element in elements] for kind in ("mean", "std")}
    return {}


def by_seed(seeds: Sequence[int], results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns `mean` and `std` of `results` over `seeds`, and the result of every seed under `seeds`."""
    return {**mean_and_std(results), "seeds": dict(zip(map(str, seeds), results, strict=True))}


def format_spread(mean: float, std: float | None, digits: int = 4) -> str:
    """Returns `mean ± std`, or the number alone for a single run."""
    return f"{mean:.{digits}f}" + ("" if std is None else f" ± {std:.{digits}f}")
