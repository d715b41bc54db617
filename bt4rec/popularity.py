"""How often items occur in what pre-training sees, and metrics by it."""

import numpy as np

from bt4rec import metrics, splits
from bt4rec.datasets import SequenceDataset


def item_counts(dataset: SequenceDataset, visible: np.ndarray) -> np.ndarray:
  """Number of visible events of each item.

  Args:
    dataset: The dataset.
    visible: [num_users] int, how many first events of each user count.

  Returns:
    [num_items] int64.
  """
  counts = np.zeros(dataset.catalogue.vocabulary_size, np.int64)
  for users in splits.user_blocks(visible):
    of_user = visible[users]
    event = np.repeat(dataset.offsets[:-1][users], of_user)
    event += splits.positions_within(of_user)
    counts += np.bincount(dataset.items[event], minlength=len(counts))
  return counts[1:-1]


def metrics_by_popularity(
  dataset: SequenceDataset,
  visible: np.ndarray,
  targets: np.ndarray,
  ranks: np.ndarray,
) -> list[dict]:
  """Ranking metrics by the number of visible events of the target.

  The bins end at 0, 1, 3, 10, 30, 100, ...: the same for every dataset, and as
  wide as each other on a logarithmic scale but for the first.

  Args:
    dataset: The dataset.
    visible: [num_users] int, how many first events of each user count.
    targets: [num_examples] int, rows of the targets among the items.
    ranks: [num_examples] float, as `metrics.ranking_metrics` takes them.

  Returns:
    For each bin that has an example, ascending: `max_events`, the largest
    number of events of a target in it, `num_test` examples, and `metrics`.
  """
  popularity = item_counts(dataset, visible)[targets]
  edges = [0]
  while edges[-1] < popularity.max():
    exponent, odd = divmod(len(edges) - 1, 2)
    edges.append(10**exponent * (3 if odd else 1))
  bins = np.searchsorted(edges, popularity)
  return [
    {
      'max_events': edges[number],
      'num_test': int((bins == number).sum()),
      'metrics': metrics.ranking_metrics(ranks[bins == number]),
    }
    for number in np.unique(bins)
  ]
