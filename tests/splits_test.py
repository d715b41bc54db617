"""Cuts, scopes, the fingerprint, and who belongs to which split."""

import numpy as np
import pytest

from bt4rec import splits
from bt4rec.datasets import sequences
from bt4rec.errors import InputError

# n -> n - max(5, ceil(n / 5)), by pencil.
_FAVORITE = {10: 5, 24: 19, 25: 20, 26: 20, 30: 24, 31: 24, 100: 80, 101: 80}
_LAST_TWO = {0: 0, 1: 0, 2: 0, 3: 1, 9: 7, 10: 8, 26: 24}
# Short histories have no favourite to hide, so only their last two are hidden.
_SHARED = {0: 0, 1: 0, 2: 0, 3: 1, 9: 7, **_FAVORITE}
_FRACTIONS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0)


def _table(cut: dict[int, int]) -> tuple[np.ndarray, list[int]]:
  return np.array(list(cut)), list(cut.values())


class TestCuts:
  def test_favorite_cut_by_hand(self):
    lengths, expected = _table(_FAVORITE)
    assert splits.favorite_cut(lengths).tolist() == expected

  def test_last_two_cut_by_hand(self):
    lengths, expected = _table(_LAST_TWO)
    assert splits.last_two_cut(lengths).tolist() == expected

  @pytest.mark.parametrize(
    ('scope', 'cut'), [('shared', _SHARED), ('leave_two_out', _LAST_TWO)]
  )
  def test_scope_by_hand(self, scope, cut):
    lengths, expected = _table(cut)
    assert splits.visible_lengths(scope, lengths).tolist() == expected

  def test_shared_scope_hides_the_held_out_events_of_every_task(self):
    lengths = np.arange(1, 3_000)
    visible = splits.visible_lengths('shared', lengths)
    assert (visible <= splits.last_two_cut(lengths)).all()
    favorite = lengths >= splits.MIN_EVENTS_FOR_FAVORITE
    assert (visible <= splits.favorite_cut(lengths))[favorite].all()
    assert (visible >= 0).all()

  def test_unknown_scope_lists_the_valid_ones(self):
    with pytest.raises(InputError, match=r"'all'.*shared, leave_two_out"):
      splits.visible_lengths('all', np.array([3]))


def _events() -> np.ndarray:
  """[num_events, 3] user, item, seconds: histories of 1, 4, 9, 10 and 13."""
  rng = np.random.default_rng(0)
  users = np.repeat([14, 5, 60, 7, 23], [1, 4, 9, 10, 13])
  # Items 1 to 6 come several times each, so that a change leaves the catalogue.
  items = rng.permutation(np.arange(len(users)) % 6 + 1)
  return np.stack([users, items, rng.integers(0, 5, len(users))], axis=1)


def _dataset(events: np.ndarray) -> sequences.SequenceDataset:
  return sequences.from_events('tiny', *events.T)


class TestFingerprint:
  def test_changes_exactly_when_a_held_out_event_changes(self):
    dataset = _dataset(_events())
    before = splits.fingerprint(dataset)
    visible = splits.visible_lengths('shared', dataset.lengths)
    position = np.concatenate([np.arange(n) for n in dataset.lengths])
    held_out = position >= np.repeat(visible, dataset.lengths)
    assert 0 < held_out.sum() < len(held_out)
    for event in range(dataset.num_events):
      items = dataset.items.copy()
      items[event] = items[event] % 6 + 1
      changed = sequences.SequenceDataset(**{**vars(dataset), 'items': items})
      assert (splits.fingerprint(changed) != before) == held_out[event], event

  def test_does_not_depend_on_the_order_of_users_in_the_source(self):
    events = _events()
    order = np.argsort(-events[:, 0], kind='stable')
    assert (order != np.arange(len(order))).any()
    assert splits.fingerprint(_dataset(events[order])) == splits.fingerprint(
      _dataset(events)
    )

  def test_depends_on_the_order_of_held_out_events(self):
    dataset = _dataset(_events())
    items = dataset.items.copy()
    last_two = dataset.offsets[2] - 2 + np.arange(2)
    assert items[last_two[0]] != items[last_two[1]]
    items[last_two] = items[last_two[::-1]]
    swapped = sequences.SequenceDataset(**{**vars(dataset), 'items': items})
    assert splits.fingerprint(swapped) != splits.fingerprint(dataset)

  def test_sees_original_ids_not_tokens(self):
    # A new item with a small id shifts every token; it is visible only.
    events = _events()
    first_of_long_user = np.flatnonzero(events[:, 0] == 23)[:1]
    events[first_of_long_user, 2] = -1
    shifted = events.copy()
    shifted[first_of_long_user, 1] = 0
    a, b = _dataset(events), _dataset(shifted)
    assert b.catalogue.num_items == a.catalogue.num_items + 1
    assert splits.fingerprint(a) == splits.fingerprint(b)

  def test_of_categories_depends_on_every_item_and_name(self):
    events, categories = _events(), {1: ['b'], 2: ['a', 'c'], 5: ['c']}
    variants = [
      categories,
      {**categories, 1: ['c']},
      {**categories, 3: ['a']},
      {**categories, 1: ['d']},
      # The same memberships, shifted to another item.
      {2: ['b'], 3: ['a', 'c'], 5: ['c']},
    ]
    datasets = [
      sequences.from_events('tiny', *events.T, categories=each)
      for each in variants
    ]
    prints = [splits.category_fingerprint(d.catalogue) for d in datasets]
    assert len(set(prints)) == len(variants)
    assert prints[0] == splits.category_fingerprint(
      sequences.from_events(
        'x', *events[::-1].T, categories=categories
      ).catalogue
    )
    # The events alone do not tell them apart.
    assert len({splits.fingerprint(d) for d in datasets}) == 1

  def test_depends_on_user_ids_and_on_positions(self):
    events = _events()
    renamed = events.copy()
    renamed[renamed[:, 0] == 60, 0] = 61
    longer = np.append(events, [(23, 1, -1)], axis=0)
    prints = {
      splits.fingerprint(_dataset(e)) for e in (events, renamed, longer)
    }
    assert len(prints) == 3


class TestUserSplits:
  def test_every_user_is_in_one_split(self):
    parts = splits.user_splits(np.arange(1_003), seed=2)
    assert set(parts) == {'train', 'validation', 'test'}
    np.testing.assert_array_equal(
      sum(part.astype(int) for part in parts.values()), np.ones(1_003)
    )

  def test_shares_are_80_10_10(self):
    num_users = 20_000
    parts = splits.user_splits(np.arange(num_users), seed=0)
    for name, share in (('train', 0.8), ('validation', 0.1), ('test', 0.1)):
      # Five standard deviations of a binomial.
      bound = 5 * np.sqrt(share * (1 - share) / num_users)
      assert abs(parts[name].mean() - share) < bound, name

  def test_a_user_stays_in_its_split_whoever_else_is_there(self):
    users = np.arange(500)
    some = np.random.default_rng(0).permutation(users)[:90]
    whole = splits.user_splits(users, seed=1)
    for name, part in splits.user_splits(some, seed=1).items():
      np.testing.assert_array_equal(part, whole[name][some])

  def test_depends_on_the_seed(self):
    a, b = (splits.user_splits(np.arange(500), seed)['test'] for seed in (0, 1))
    assert (a != b).any()

  def test_integer_and_string_ids_agree(self):
    users = np.arange(90)
    np.testing.assert_array_equal(
      splits.user_hash(users, 'x'), splits.user_hash(users.astype(str), 'x')
    )

  def test_hash_is_uniform(self):
    values = splits.user_hash(np.arange(5_000), 'any')
    assert values.min() >= 0 and values.max() < 1
    counts = np.histogram(values, bins=10, range=(0, 1))[0]
    # Chi-squared with 9 degrees of freedom: above 34 once in 10,000.
    assert ((counts - 500) ** 2 / 500).sum() < 34


class TestLabelSubset:
  # Class -> number of users; class 2 has none.
  _SIZES = (200, 100, 0, 60, 7)

  def _classes(self) -> np.ndarray:
    classes = np.repeat(np.arange(5), self._SIZES)
    return np.random.default_rng(0).permutation(classes)

  @pytest.mark.parametrize('stratified', [False, True])
  def test_counts_are_exact_and_subsets_nested(self, stratified):
    classes = self._classes() if stratified else None
    users = np.arange(1_000, 1_367)
    smaller = np.zeros(367, bool)
    for fraction in _FRACTIONS:
      chosen = splits.label_subset(users, fraction, 3, classes)
      assert chosen.sum() == np.ceil(fraction * 367)
      assert (chosen >= smaller).all()
      smaller = chosen
    assert smaller.all()

  def test_a_whole_number_of_users_is_not_rounded_up(self):
    # 0.07 * 100 is 7.000000000000001 in float64.
    assert splits.label_subset(np.arange(100), 0.07, 0).sum() == 7

  @pytest.mark.parametrize('fraction', _FRACTIONS)
  def test_each_class_keeps_its_share(self, fraction):
    classes = self._classes()
    for seed in range(5):
      chosen = splits.label_subset(np.arange(367), fraction, seed, classes)
      for label, size in enumerate(self._SIZES):
        kept = (chosen & (classes == label)).sum()
        # One user in its own class, and its part of one user in each of four.
        assert abs(kept - fraction * size) <= 1 + 4 * size / 367 + 1e-9

  @pytest.mark.parametrize('stratified', [False, True])
  def test_does_not_depend_on_the_order_of_users(self, stratified):
    users, classes = np.arange(367), self._classes()
    order = np.random.default_rng(1).permutation(367)
    chosen = splits.label_subset(users, 0.1, 0, classes if stratified else None)
    np.testing.assert_array_equal(
      splits.label_subset(
        users[order], 0.1, 0, classes[order] if stratified else None
      ),
      chosen[order],
    )

  def test_depends_on_the_seed(self):
    a, b = (splits.label_subset(np.arange(367), 0.1, seed) for seed in (0, 1))
    assert (a != b).any()


def test_positions_count_from_zero_within_each_group():
  # An empty group takes no place.
  numbers = splits.positions_within(np.array([2, 0, 3]))
  assert numbers.tolist() == [0, 1, 0, 1, 2]


class TestUserBlocks:
  @pytest.mark.parametrize('most', [1, 5, 10, 1_000])
  def test_every_user_is_in_one_block(self, monkeypatch, most):
    monkeypatch.setattr(splits, '_BLOCK_EVENTS', most)
    counts = np.array([0, 3, 0, 9, 1, 1, 4, 0, 20, 0])
    blocks = [counts[users] for users in splits.user_blocks(counts)]
    np.testing.assert_array_equal(np.concatenate(blocks), counts)
    for block in blocks:
      # More than the limit only where a user alone has more.
      assert block.sum() <= most or len(block) == 1

  def test_no_user_is_no_block(self):
    assert list(splits.user_blocks(np.array([], np.int64))) == []
