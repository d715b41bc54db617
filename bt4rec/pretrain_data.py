"""What pre-training may see, its windows, and what it is validated on."""

import jax
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from bt4rec import packing, plans, pretext, splits, train_step
from bt4rec.datasets import SequenceDataset
from bt4rec.errors import InputError

# Steps the share of real tokens is measured on.
_SHARE_STEPS = 64
# A loss on more of them is no more use, and would take longer than training.
_MAX_VALIDATION_USERS = 20_000


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


def choose_shape(
  config: ConfigDict, visible: np.ndarray
) -> packing.Shape | None:
  """Chooses the rows that batches are packed into; None without packing.

  Args:
    config: A whole config.
    visible: [num_users] int, events of each user that may be seen.

  Raises:
    InputError: If batch or groups do not divide over devices and micro
      batches.
  """
  num_devices, num_micro = jax.device_count(), config.num_micro_batches
  train_step.check_batch_size(config.batch_size, num_devices, num_micro)
  if not config.packing.enabled or config.encoder.name == 'bag_of_items':
    return None
  num_groups = config.packing.num_groups or num_devices * num_micro
  if num_groups % (num_devices * num_micro):
    times = f' times num_micro_batches={num_micro}' if num_micro > 1 else ''
    raise InputError(
      f'packing.num_groups={num_groups} is not divisible by the '
      f'{num_devices} devices{times}, and a group lies on one; choose a '
      f'multiple, or 0.'
    )
  windows = pretext.windows_per_user(config)
  users = plans.trainable_users(visible, config.batch_size, windows)
  lengths = plans.window_lengths(visible[users], config.max_length, windows)
  return packing.choose_shape(
    lengths,
    batch_size=config.batch_size,
    # Rows no longer than the longest window there is.
    max_length=int(lengths.max()),
    max_cut=config.packing.max_cut,
    num_groups=num_groups,
    # A class token needs a slot, too.
    reserved=int(config.encoder.pooling == 'class_token'),
  )


def make_plan(
  config: ConfigDict,
  dataset: SequenceDataset,
  visible: np.ndarray,
  shape: packing.Shape | None,
) -> plans.PretrainPlan:
  """Draws the windows of every step; says how many tokens are real.

  Args:
    config: A whole config.
    dataset: The dataset.
    visible: [num_users] int, events of each user that may be seen.
    shape: Rows to pack a batch into, or None.
  """
  windows = pretext.windows_per_user(config)
  plan = plans.PretrainPlan(
    dataset.offsets,
    visible,
    max_length=config.max_length,
    batch_size=config.batch_size,
    seed=config.seed,
    packing_shape=shape,
    windows_per_user=windows,
  )
  logging.info(
    'pre-training on %d users (%d have too few visible events), %d of %d '
    'events',
    len(plan.users),
    dataset.num_users - len(plan.users),
    visible.sum(),
    dataset.num_events,
  )
  wanted = plans.window_lengths(
    visible[plan.users], config.max_length, windows
  ).mean()
  padded = wanted / config.max_length
  logging.info('real tokens without packing: %.1f %%', 100 * padded)
  if shape:
    kept = np.mean([plan(step)['length'] for step in range(_SHARE_STEPS)])
    logging.info(
      'packing: %d windows in %d rows of %d: %.1f %% real tokens; %.1f %% of '
      'the events are cut',
      config.batch_size,
      config.batch_size * shape.slots_per_sequence / shape.row_length,
      shape.row_length,
      100 * kept / shape.slots_per_sequence,
      # Of a sample, against all: it may seem to be below 0.
      100 * max(1 - kept / wanted, 0.0),
    )
  return plan


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
  weight = np.zeros(dataset.catalogue.vocabulary_size)
  for users in splits.user_blocks(visible):
    counts = visible[users]
    event = np.repeat(dataset.offsets[:-1][users], counts)
    event += splits.positions_within(counts)
    weight += np.bincount(
      dataset.items[event],
      weights=1.0 / np.repeat(counts, counts),
      minlength=len(weight),
    )
  weight = weight / max((visible > 0).sum(), 1)
  smallest = weight[weight > 0].min(initial=1.0)
  return np.log(np.maximum(weight, smallest)).astype(np.float32)


def validation_windows(
  dataset: SequenceDataset, config: ConfigDict
) -> dict[str, np.ndarray]:
  """The newest windows of some users, without their last event.

  With the scope 'leave_two_out' they are all users: the windows end at the
  event before the last, which is what published figures of the next item are
  selected on. Otherwise, or with `config.inductive`, they are the validation
  users of the user-level tasks, whose held-out events are nobody's test. No
  test event of a task that the scope is for is in them, and their last events
  were not seen in training. Where views start from two windows, the other is
  the newest of the older half.

  Returns:
    `users` and `start` [num_windows] int64, and `length` [num_windows] int32;
    with two windows also `other_start`.
  """
  windows = pretext.windows_per_user(config)
  visible = dataset.lengths - 1
  chosen = plans.has_windows(visible, windows)
  if config.pretrain_scope != 'leave_two_out' or config.inductive:
    split = splits.user_splits(dataset.user_ids, config.split_seed)
    chosen &= split['validation']
  users = np.flatnonzero(chosen)
  if len(users) > _MAX_VALIDATION_USERS:
    priority = splits.user_hash(dataset.user_ids[users], 'validation')
    users = users[np.sort(np.argsort(priority)[:_MAX_VALIDATION_USERS])]
  visible = visible[users]
  length = plans.window_lengths(visible, config.max_length, windows)
  end = dataset.offsets[users] + visible
  rows = {'users': users, 'start': end - length, 'length': length}
  if windows == 2:
    rows['other_start'] = dataset.offsets[users] + visible // 2 - length
  return rows
