"""Tests of bt4rec.tasks on a hand-made table."""

import numpy as np
import pytest

from bt4rec import splits, tasks, user_labels
from bt4rec.datasets import sequences
from bt4rec.errors import InputError
from configs import base, presets

_CATEGORIES = {10: ['a'], 20: ['b'], 30: ['a', 'b'], 40: ['c'], 50: []}


def _dataset(histories):
  users, items = [], []
  for user, history in enumerate(histories, start=1):
    users += [user] * len(history)
    items += history
  return sequences.from_events(
    'hand',
    np.array(users),
    np.array(items),
    np.arange(len(users)),
    categories=_CATEGORIES,
  )


def _inputs(task, examples):
  """Original ids of each example's input."""
  dataset = task.dataset
  windows = examples.windows(dataset.offsets, 100)
  return [
    dataset.catalogue.item_ids[dataset.items[s : s + n] - 1].tolist()
    for s, n in zip(windows['start'], windows['length'], strict=True)
  ]


def _targets(task, examples):
  return task.dataset.catalogue.item_ids[examples.labels].tolist()


class TestNextItem:
  def test_last_event_is_test_and_the_one_before_validation(self):
    task = tasks.NextItem(_dataset([[10, 20, 30, 40, 50]]), split_seed=0)
    train, validation = task.train_and_validation(1.0, seed=0)
    assert _inputs(task, train) == [[10], [10, 20]]
    assert _targets(task, train) == [20, 30]
    assert _inputs(task, validation) == [[10, 20, 30]]
    assert _targets(task, validation) == [40]
    assert _inputs(task, task.test()) == [[10, 20, 30, 40]]
    assert _targets(task, task.test()) == [50]

  def test_users_too_short_to_hold_out_are_not_tested(self):
    task = tasks.NextItem(
      _dataset([[10, 20], [10, 20, 30], [10, 20, 30, 40]]), split_seed=0
    )
    train, validation = task.train_and_validation(1.0, seed=0)
    assert train.users.tolist() == [2]
    assert validation.users.tolist() == [2]
    assert task.test().users.tolist() == [1, 2]

  def test_few_labels_means_few_users_in_training_and_validation(self):
    task = tasks.NextItem(_dataset([[10, 20, 30, 40]] * 20), split_seed=0)
    train, validation = task.train_and_validation(0.1, seed=3)
    assert len(set(train.users)) == 2
    assert set(train.users) == set(validation.users)
    assert len(task.test()) == 20

  def test_windows_are_the_newest_events_and_can_be_cut(self):
    task = tasks.NextItem(_dataset([[10, 20, 30, 40, 50]]), split_seed=0)
    windows = task.test().windows(task.dataset.offsets, 3)
    assert windows['start'].tolist() == [1]
    assert windows['length'].tolist() == [3]
    windows = task.test().cut(2).windows(task.dataset.offsets, 3)
    assert windows['start'].tolist() == [2]
    assert windows['length'].tolist() == [2]

  def test_no_user_long_enough_is_said(self):
    task = tasks.NextItem(_dataset([[10, 20, 30]]), split_seed=0)
    with pytest.raises(InputError, match='no training example'):
      task.train_and_validation(1.0, seed=0)


class TestNextCategory:
  def test_learns_the_uniform_distribution_over_the_categories(self):
    task = tasks.NextCategory(_dataset([[10, 20, 40, 30, 10]]), split_seed=0)
    train, validation = task.train_and_validation(1.0, seed=0)
    np.testing.assert_allclose(
      task.label_weights[train.labels], [[0, 1, 0], [0, 0, 1]]
    )
    np.testing.assert_allclose(
      task.label_weights[validation.labels], [[0.5, 0.5, 0]]
    )
    assert task.num_classes == 3

  def test_targets_without_category_are_skipped(self):
    task = tasks.NextCategory(_dataset([[10, 50, 20, 30, 40]]), split_seed=0)
    train, _ = task.train_and_validation(1.0, seed=0)
    assert _targets(task, train) == [20]


class TestFavoriteCategory:
  def test_label_is_the_largest_share_among_the_held_out_events(self):
    # n = 10, h = 5: inputs are the first five. Shares among the last five:
    # a: 1 + .5 = 1.5, b: 1 + 1 + .5 = 2.5, c: 1.
    history = [40, 40, 40, 40, 40, 10, 20, 30, 20, 40]
    task = tasks.FavoriteCategory(_dataset([history]), split_seed=0)
    assert task.examples(task.dataset).labels.tolist() == [1]
    assert _inputs(task, task.examples(task.dataset)) == [[40] * 5]

  def test_ties_go_to_the_lower_index(self):
    history = [40] * 5 + [30, 30, 30, 30, 30]
    task = tasks.FavoriteCategory(_dataset([history]), split_seed=0)
    assert task.examples(task.dataset).labels.tolist() == [0]

  def test_longer_histories_hold_out_a_fifth(self):
    # n = 30: h = 6.
    task = tasks.FavoriteCategory(
      _dataset([[10] * 24 + [20] * 6]), split_seed=0
    )
    assert _inputs(task, task.examples(task.dataset)) == [[10] * 24]
    assert task.examples(task.dataset).labels.tolist() == [1]

  def test_short_users_and_users_without_category_are_left_out(self):
    short, without = [10] * 9, [10] * 5 + [50] * 5
    task = tasks.FavoriteCategory(
      _dataset([short, without, [10] * 10]), split_seed=0
    )
    assert task.examples(task.dataset).users.tolist() == [2]

  def test_splits_are_the_user_splits_and_disjoint(self):
    histories = [[10] * 10, [20] * 10, [40] * 10] * 40
    task = tasks.FavoriteCategory(_dataset(histories), split_seed=5)
    train, validation = task.train_and_validation(1.0, seed=0)
    split = splits.user_splits(task.dataset.user_ids, 5)
    for name, examples in (
      ('train', train),
      ('validation', validation),
      ('test', task.test()),
    ):
      assert examples.users.tolist() == np.flatnonzero(split[name]).tolist()


class TestUserAttribute:
  def _task(self, classes, histories):
    labels = user_labels.UserLabels(
      'plan', ('free', 'paid'), np.array(classes, np.int32), 'digest'
    )
    return tasks.UserAttribute(_dataset(histories), 0, labels)

  def test_asks_from_the_whole_history_of_users_with_a_label(self):
    classes = [1, -1, 0] * 40
    task = self._task(classes, [[10, 20, 30], [20], [40]] * 40)
    assert task.class_names == ('free', 'paid') and task.num_classes == 2
    parts = [*task.train_and_validation(1.0, 0), task.test()]
    users = np.concatenate([part.users for part in parts])
    assert sorted(users) == [u for u in range(120) if classes[u] >= 0]
    for part in parts:
      assert part.labels.tolist() == [classes[u] for u in part.users]
      expected = [[10, 20, 30] if u % 3 == 0 else [40] for u in part.users]
      assert _inputs(task, part) == expected

  def test_users_are_those_of_the_other_user_task(self):
    histories = [[10] * 10] * 200
    task = self._task([0, 1] * 100, histories)
    other = tasks.FavoriteCategory(_dataset(histories), 0)
    np.testing.assert_array_equal(task.test().users, other.test().users)

  def test_is_made_as_the_config_says(self, tmp_path):
    path = tmp_path / 'users.csv'
    path.write_text('id,plan\n1,free\n2,paid\n')
    config = base.get_config()
    config.user_attribute.update(path=str(path), user='id', label='plan')
    dataset = _dataset([[10, 20]] * 2)
    task = tasks.make_task('user_attribute', dataset, config)
    labels = user_labels.read(str(path), 'id', 'plan', dataset)
    assert task.facts() == {
      'attribute': 'plan',
      'label_fingerprint': labels.digest,
    }


@pytest.mark.parametrize('name', presets.EVENT_TASKS)
def test_no_task_evaluates_on_events_that_the_shared_scope_shows(name):
  rng = np.random.default_rng(0)
  histories = [
    rng.choice([10, 20, 30, 40], n).tolist() for n in range(1, 60) for _ in '12'
  ]
  task = tasks.make_task(name, _dataset(histories), base.get_config())
  lengths = task.dataset.lengths
  visible = splits.visible_lengths('shared', lengths)
  assert (visible <= task.held_out_from()).all()
  examples = task.test()
  position = examples.ends - task.dataset.offsets[examples.users]
  assert (position >= visible[examples.users]).all()


def test_unknown_task_lists_the_valid_ones():
  with pytest.raises(InputError, match='next_item, next_category'):
    tasks.make_task('next_song', _dataset([[10]]), base.get_config())
