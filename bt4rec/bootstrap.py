"""Paired bootstrap over test users."""

import numpy as np

# Numbers of a block of resamples held at once.
_BLOCK = 1 << 22


def relative_gain_interval(
  own: np.ndarray,
  others: list[np.ndarray],
  *,
  num_resamples: int = 10_000,
  level: float = 0.95,
  seed: int = 0,
) -> tuple[float, float] | None:
  """Percentile interval of `mean(own) / max(mean(others)) - 1`.

  Users are drawn with replacement, the same ones for all rows (Efron and
  Tibshirani, 1993, *An Introduction to the Bootstrap*, chapter 13). Users with
  equal outcomes in all rows are alike, so how often each kind is drawn is a
  multinomial count: the same distribution, at a cost that does not grow with
  the users where an outcome is a mean of few hits.

  Args:
    own: [num_users] float, outcomes of the row that may have gained.
    others: Outcomes of the same users in the rows it is compared with; of
      several, the best of each resample counts.
    num_resamples: Number of resamples.
    level: Share of the resamples within the interval.
    seed: Seed of the draw.

  Returns:
    The ends of the interval, or None if some resample has a reference of 0,
    so that its gain is not defined.
  """
  kinds, counts = np.unique(
    np.stack([own, *others], axis=1), axis=0, return_counts=True
  )
  rng = np.random.default_rng(seed)
  shares = counts / counts.sum()
  size = max(_BLOCK // len(kinds), 1)
  gains = []
  for first in range(0, num_resamples, size):
    drawn = rng.multinomial(
      len(own), shares, size=min(size, num_resamples - first)
    )
    sums = drawn @ kinds
    reference = sums[:, 1:].max(axis=1)
    if not reference.all():
      return None
    gains.append(sums[:, 0] / reference - 1)
  tail = (1 - level) / 2
  low, high = np.quantile(np.concatenate(gains), [tail, 1 - tail])
  return float(low), float(high)
