"""Tests of bt4rec.pretrain_data by hand."""

import numpy as np
import pytest

from bt4rec import pretrain_data, splits, tasks
from bt4rec.datasets import sequences
from tests import tiny


def test_an_item_weighs_its_share_of_each_users_visible_events():
  dataset = sequences.from_events(
    'hand',
    np.array([1, 1, 1, 1, 2, 2, 2]),
    np.array([10, 10, 20, 30, 20, 10, 30]),
    np.arange(7),
  )
  # User 1 shows 10, 10, 20; user 2 shows 20. Item 30 is never drawn and gets
  # the smallest probability of the others, as do padding and mask token.
  log_q = pretrain_data.log_item_probability(dataset, np.array([3, 1]))
  ten, twenty = (2 / 3 + 0) / 2, (1 / 3 + 1) / 2
  np.testing.assert_allclose(
    np.exp(log_q), [ten, ten, twenty, ten, ten], rtol=1e-6
  )


def test_an_inductive_pre_training_sees_training_users_alone():
  dataset = tiny.dataset()
  config = tiny.config(inductive=True)
  visible = pretrain_data.visible_events(dataset, config)
  train = splits.user_splits(dataset.user_ids, config.split_seed)['train']
  assert (visible[~train] == 0).all() and (visible[train] > 0).all()


@pytest.mark.parametrize('split', ['none', 'two_windows'])
def test_validation_windows_hold_no_test_event(split):
  dataset, config = tiny.dataset(), tiny.config(augment={'split': split})
  windows = pretrain_data.validation_windows(dataset, config)
  assert len(windows['start'])
  users = np.searchsorted(dataset.offsets, windows['start'], 'right') - 1
  split = splits.user_splits(dataset.user_ids, config.split_seed)
  assert split['validation'][users].all()
  test = tasks.NextItem(dataset, config.split_seed).test()
  events = {
    event
    for start in ('start', 'other_start')
    for first, length in zip(
      windows.get(start, ()), windows['length'], strict=start in windows
    )
    for event in range(first, first + length)
  }
  assert not events & set(test.ends.tolist())
  if split == 'two_windows':
    # The second is the older one, and they share nothing.
    assert (
      windows['other_start'] + windows['length'] <= windows['start']
    ).all()
    other = (
      np.searchsorted(dataset.offsets, windows['other_start'], 'right') - 1
    )
    np.testing.assert_array_equal(other, users)


def test_leave_two_out_is_validated_on_the_next_to_last_event_of_all():
  dataset = tiny.dataset()
  config = tiny.config(pretrain_scope='leave_two_out')
  windows = pretrain_data.validation_windows(dataset, config)
  assert windows['users'].tolist() == list(range(dataset.num_users))
  end = windows['start'] + windows['length']
  np.testing.assert_array_equal(end, dataset.offsets[1:] - 1)
  visible = pretrain_data.visible_events(dataset, config)
  np.testing.assert_array_equal(dataset.offsets[:-1] + visible, end - 1)


def test_validation_users_are_drawn_once_where_there_are_many(monkeypatch):
  monkeypatch.setattr(pretrain_data, '_MAX_VALIDATION_USERS', 7)
  dataset = tiny.dataset()
  config = tiny.config(pretrain_scope='leave_two_out')
  windows = pretrain_data.validation_windows(dataset, config)
  again = pretrain_data.validation_windows(dataset, config)
  assert len(set(windows['users'].tolist())) == 7
  np.testing.assert_array_equal(windows['users'], again['users'])
  # An inductive pre-training is not validated on the users it is tested on.
  config.inductive = True
  users = pretrain_data.validation_windows(dataset, config)['users']
  split = splits.user_splits(dataset.user_ids, config.split_seed)
  assert split['validation'][users].all()
