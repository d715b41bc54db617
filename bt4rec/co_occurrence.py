"""Which items occur with which, for the views that put items in."""

import numpy as np
from scipy import sparse

from bt4rec import splits
from bt4rec.datasets import SequenceDataset
from bt4rec.errors import InputError

# Items whose scores with all others are in memory at once.
_BLOCK = 1024


def correlated_items(
  dataset: SequenceDataset, visible: np.ndarray, count: int
) -> np.ndarray:
  """The items that occur most with each item, in the events that are seen.

  Two items are correlated by the users who have both, each weighing
  `1 / log(1 + number of their items)`, over the root of the product of the
  items' numbers of users: the item-based correlation with inverse user
  frequency of CoSeRec, Liu et al. (2021), https://arxiv.org/abs/2108.06479.

  Args:
    dataset: The dataset.
    visible: [num_users] int, how many first events of each user count.
    count: Items for each item.

  Returns:
    [vocabulary_size, count] int32, the most correlated first, 0 where there
    are fewer, as for padding and mask token. Of several as correlated as the
    last, which are left out is arbitrary.

  Raises:
    InputError: If `count` is not positive.
  """
  if count < 1:
    raise InputError(f'augment.num_correlated={count} must be at least 1.')
  size = dataset.catalogue.vocabulary_size
  user = np.repeat(np.arange(dataset.num_users), visible)
  event = dataset.offsets[user] + splits.positions_within(visible)
  # A user who has an item several times counts once.
  user, item = np.divmod(np.unique(user * size + dataset.items[event]), size)
  num_items = np.bincount(user, minlength=dataset.num_users)
  num_users = np.bincount(item, minlength=size)
  values = 1 / np.sqrt(np.log1p(num_items[user]) * num_users[item])
  matrix = sparse.csr_array(
    (values, (user, item)), shape=(dataset.num_users, size)
  )
  by_item = matrix.T.tocsr()
  count_found = min(count, size)
  table = np.zeros((size, count), np.int32)
  for first in range(0, size, _BLOCK):
    score = (by_item[first : first + _BLOCK] @ matrix).toarray()
    rows = np.arange(len(score))[:, None]
    score[rows, first + rows] = 0  # Itself.
    best = np.argpartition(-score, count_found - 1, axis=1)[:, :count_found]
    # Ties by the lower id.
    best = np.sort(best, axis=1)
    order = np.argsort(-score[rows, best], axis=1, kind='stable')
    best = best[rows, order]
    found = np.where(score[rows, best] > 0, best, 0)
    table[first : first + _BLOCK, :count_found] = found
  return table
