"""The synthetic world, and whether its stated truth is what it draws from."""

import dataclasses

import numpy as np
import pytest

from bt4rec.datasets import synthetic
from bt4rec.errors import InputError
from tests import dataset_assertions

_WORLD = synthetic.World(
  num_users=301,
  num_items=37,
  num_categories=5,
  min_events=4,
  max_events=13,
  drift=0.5,
  seed=1,
)
# Only some of the items are taken, and of the 103 categories only some have
# one of those; 'category 100' comes before 'category 11' in the catalogue.
_SPARSE_WORLD = synthetic.World(
  num_users=59,
  num_items=211,
  num_categories=103,
  min_events=2,
  max_events=3,
  drift=0.5,
  seed=2,
)


def _draws(world) -> tuple[np.ndarray, np.ndarray]:
  """What was drawn, and the distribution that the truth says it came from.

  Returns:
    [num_events] row of the item drawn, [num_events, num_items] float64
    probabilities.
  """
  dataset = synthetic.make_dataset(world)
  logits = synthetic.make_truth(world).astype(np.float64)
  drawn = dataset.items - 1
  for first, end in _users(dataset):
    for event in range(first, end):
      logits[event + 1 : end, drawn[event]] = -np.inf
  weights = np.exp(logits - logits.max(1, keepdims=True))
  return drawn, weights / weights.sum(1, keepdims=True)


def _users(dataset):
  return zip(dataset.offsets[:-1], dataset.offsets[1:], strict=True)


class TestMakeDataset:
  def test_same_world_same_events(self):
    dataset_assertions.assert_equal(
      synthetic.make_dataset(_WORLD), synthetic.make_dataset(_WORLD)
    )
    np.testing.assert_array_equal(
      synthetic.make_truth(_WORLD), synthetic.make_truth(_WORLD)
    )

  def test_another_seed_other_events(self):
    other = synthetic.make_dataset(dataclasses.replace(_WORLD, seed=9))
    items = synthetic.make_dataset(_WORLD).items
    assert other.items[:50].tolist() != items[:50].tolist()

  def test_counts_are_those_of_the_world(self):
    dataset = synthetic.make_dataset(_WORLD)
    assert dataset.user_ids.tolist() == list(range(1, 302))
    assert dataset.lengths.min() == 4
    assert dataset.lengths.max() == 13
    assert dataset.catalogue.num_items == 37
    assert len(dataset.catalogue.category_names) == 5

  def test_no_user_takes_an_item_twice(self):
    dataset = synthetic.make_dataset(_WORLD)
    users = np.repeat(np.arange(dataset.num_users), dataset.lengths)
    pairs = set(zip(users.tolist(), dataset.items.tolist(), strict=True))
    assert len(pairs) == dataset.num_events

  def test_time_goes_on_within_a_user(self):
    dataset = synthetic.make_dataset(_WORLD)
    for first, end in _users(dataset):
      assert (np.diff(dataset.timestamps[first:end]) > 0).all()

  def test_items_have_one_or_two_categories(self):
    counts = np.diff(synthetic.make_dataset(_WORLD).catalogue.category_offsets)
    assert set(counts.tolist()) == {1, 2}

  def test_too_few_items_for_a_history_are_refused(self):
    with pytest.raises(InputError, match=r'num_items=13 .* max_events=13'):
      dataclasses.replace(_WORLD, num_items=13)


class TestMakeTruth:
  def test_has_a_row_an_event_and_a_column_an_item_of_the_catalogue(self):
    dataset = synthetic.make_dataset(_SPARSE_WORLD)
    catalogue = dataset.catalogue
    # The case is what its name says.
    assert catalogue.num_items < 211
    assert len(catalogue.category_names) < 103
    truth = synthetic.make_truth(_SPARSE_WORLD)
    assert truth.shape == (dataset.num_events, catalogue.num_items)
    assert truth.dtype == np.float32

  def test_items_are_drawn_as_often_as_it_says(self):
    drawn, p = _draws(_WORLD)
    counts = np.bincount(drawn, minlength=p.shape[1])
    z = (counts - p.sum(0)) / np.sqrt((p * (1 - p)).sum(0))
    # Chi-squared with 37 degrees of freedom: above 80 once in 20,000.
    assert (z**2).sum() < 80

  @pytest.mark.parametrize('feature', ['itself', 'drift', 'mean'])
  def test_draws_follow_its_interests(self, feature):
    drawn, p = _draws(_WORLD)
    truth = synthetic.make_truth(_WORLD)
    mean = np.empty_like(truth)
    for first, end in _users(synthetic.make_dataset(_WORLD)):
      mean[first:end] = truth[first:end].mean(0)
    values = {'itself': truth, 'drift': truth - mean, 'mean': mean}[feature]
    # The interests do not depend on the draws, so that given them the value
    # of the item drawn has mean and variance under `p`.
    expected = (p * values).sum(1)
    variance = (p * values**2).sum(1) - expected**2
    found = values[np.arange(len(drawn)), drawn]
    assert abs((found - expected).sum()) < 4 * np.sqrt(variance.sum())

  def test_columns_are_those_of_the_catalogue(self):
    # More users of the same items: the drawing of items comes first.
    whole = dataclasses.replace(_SPARSE_WORLD, num_users=2_000)
    catalogue = synthetic.make_dataset(_SPARSE_WORLD).catalogue
    items = catalogue.item_ids - 1
    assert synthetic.make_dataset(whole).catalogue.num_items == 211
    truth = synthetic.make_truth(_SPARSE_WORLD)
    whole_truth = synthetic.make_truth(whole)[:, items]
    # Items of the same categories differ by their popularity, in both worlds
    # and at every event.
    weights = catalogue.category_weights()[1:-1]
    pairs = [
      (i, k)
      for i in range(len(items))
      for k in range(i)
      if (weights[i] == weights[k]).all()
    ]
    assert len(pairs) > 9
    for i, k in pairs:
      difference = whole_truth[0, i] - whole_truth[0, k]
      for table in (truth, whole_truth):
        np.testing.assert_allclose(
          table[:, i] - table[:, k], difference, atol=1e-4
        )

  def test_interests_stay_without_drift_and_move_with_it(self):
    offsets = synthetic.make_dataset(_WORLD).offsets
    first, second = offsets[:-1], offsets[:-1] + 1
    moving = synthetic.make_truth(_WORLD)
    staying = synthetic.make_truth(dataclasses.replace(_WORLD, drift=0.0))
    assert np.abs(moving[first] - moving[second]).mean() > 0.1
    np.testing.assert_allclose(staying[first], staying[second], atol=1e-5)
