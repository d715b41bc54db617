"""Tests of bt4rec.pretrain_data by hand."""

import types

import numpy as np
import pytest

from bt4rec import pipeline, pretext, pretrain, pretrain_data, splits, tasks
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


def test_a_bag_of_items_is_not_packed():
  dataset, config = tiny.dataset(), tiny.config(packing={'enabled': True})
  visible = pretrain_data.visible_events(dataset, config)
  assert pretrain_data.choose_shape(config, visible)
  # It has no rows to share, and would only lose what is cut.
  config.encoder.name = 'bag_of_items'
  assert pretrain_data.choose_shape(config, visible) is None


@pytest.mark.parametrize(
  'batch_size, sizes',
  # Of 40 users 7 validate: seven at once, or halves, or thirds.
  [(16, [7]), (6, [3, 3]), (3, [2, 2, 2])],
)
def test_validation_has_nobody_twice_in_a_batch(batch_size, sizes, monkeypatch):
  dataset, config = tiny.dataset(), tiny.config(batch_size=batch_size)
  windows = {
    'users': np.arange(7),
    'start': dataset.offsets[:7],
    'length': np.full(7, 5, np.int32),
  }
  batches, fetch = [], pipeline.cut_rows

  def note(events, rows, max_length):
    batches.append(rows['start'].tolist())
    return fetch(events, rows, max_length)

  monkeypatch.setattr(
    pretrain_data, 'validation_windows', lambda *_: dict(windows)
  )
  monkeypatch.setattr(pipeline, 'cut_rows', note)
  model = pretext.make_model(config, dataset.catalogue, None)
  visible = pretrain_data.visible_events(dataset, config)
  tables = pretrain.make_tables(config, dataset, visible, model)
  state = types.SimpleNamespace(
    **pretrain.initial_variables(config, model, tables)
  )
  numbers = pretrain._Validation(model, dataset, config, tables)(state)
  assert np.isfinite(numbers['validation_loss'])
  assert [len(set(batch)) for batch in batches] == sizes
  assert len(set().union(*batches)) == sum(sizes)
