"""What pre-training may see, and what it is validated on. NumPy alone."""

import numpy as np
from ml_collections import ConfigDict

from bt4rec import splits
from bt4rec.datasets import SequenceDataset


def visible_events(dataset: SequenceDataset, config: ConfigDict) -> np.ndarray:
  """[num_users] int64, how many first events of each user may be seen.

  With `config.inductive` the users of the validation and test split of the
  user-level tasks are not seen at all.
  """
  visible = splits.visible_lengths(config.pretrain_scope, dataset.lengths)
  if config.inductive:
    users = splits.user_splits(dataset.user_ids, config.split_seed)
    visible = np.where(users['train'], visible, 0)
  return visible


def log_item_probability(
  dataset: SequenceDataset, visible: np.ndarray
) -> np.ndarray:
  """Log probability with which each item is drawn from a random user.

  Args:
    dataset: The dataset.
    visible: [num_users] int, how many first events of each user count.

  Returns:
    [vocabulary_size] float32; an item that is never drawn has the smallest
    value of the others.
  """
  position = splits.positions_within(dataset.lengths)
  per_event = np.repeat(visible, dataset.lengths)
  seen = position < per_event
  weight = np.bincount(
    dataset.items[seen],
    weights=1.0 / per_event[seen],
    minlength=dataset.catalogue.vocabulary_size,
  )
  weight = weight / max((visible > 0).sum(), 1)
  smallest = weight[weight > 0].min(initial=1.0)
  return np.log(np.maximum(weight, smallest)).astype(np.float32)


def validation_windows(
  dataset: SequenceDataset, config: ConfigDict
) -> dict[str, np.ndarray]:
  """The newest windows of the validation users, without their last event.

  Their last events were not seen in training, and no test event is in them:
  the last event of a user is the test of `next_item`, and the test users of
  the user-level tasks are others.
  """
  users = splits.user_splits(dataset.user_ids, config.split_seed)['validation']
  users = np.flatnonzero(users & (dataset.lengths >= 3))
  end = dataset.offsets[users + 1] - 1
  length = np.minimum(dataset.lengths[users] - 1, config.max_length)
  return {
    'start': (end - length).astype(np.int32),
    'length': length.astype(np.int32),
  }
