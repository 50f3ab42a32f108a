"""Means and how sure they are."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from statistics import fmean
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["bootstrap_ci", "mean"]

RESAMPLES = 10_000


def mean(values: Sequence[float]) -> float | None:
    """The mean, or None without values."""
    return fmean(values) if values else None


def bootstrap_ci(values: Sequence[float], *, seed: int = 0, resamples: int = RESAMPLES) -> list[float] | None:
    """95% percentile interval of the mean, by resampling the questions.

    Values of equal length are resampled alike, so that the interval of a difference question by question
    is that of paired samples.

    Returns:
        [low, high], or None without values.
    """
    import numpy as np

    if not len(values):
        return None
    means = (
        _resample_counts(len(values), seed, resamples) @ np.asarray(values, dtype=np.float64) / len(values)
    )
    low, high = np.percentile(means, [2.5, 97.5])
    return [float(low), float(high)]


@lru_cache(maxsize=2)
def _resample_counts(length: int, seed: int, resamples: int) -> NDArray[np.float32]:
    """[resamples, length] how often each value is in each resample; the same for all scores of a run."""
    import numpy as np

    random = np.random.default_rng(seed)
    counts = np.empty((resamples, length), dtype=np.float32)
    for row in counts:
        row[:] = np.bincount(random.integers(0, length, length), minlength=length)
    return counts
