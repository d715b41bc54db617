"""Order, windows and the two feeds."""

import itertools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bt4rec import pipeline, plans, splits
from bt4rec.datasets import sequences
from bt4rec.errors import InputError

_LENGTH = 7
_BATCH = 6
# Visible events of each user; two users are left out, one window is whole.
_VISIBLE = np.array([3, 1, 12, 2, 0, 7, 30, 9])
_HELD_OUT = np.array([5, 2, 5, 2, 1, 5, 8, 5])
_OFFSETS = np.concatenate([[0], np.cumsum(_VISIBLE + _HELD_OUT)])
# Every event is another item, so that an item tells where it came from.
_ITEMS = np.random.default_rng(0).permutation(
  np.arange(1, _OFFSETS[-1] + 1, dtype=np.int32)
)


def _plan(seed: int = 3, batch_size: int = _BATCH) -> plans.PretrainPlan:
  return plans.PretrainPlan(
    _OFFSETS, _VISIBLE, max_length=_LENGTH, batch_size=batch_size, seed=seed
  )


def _examples(start_dtype=np.int64) -> plans.ExamplePlan:
  start = np.array([0, 4, 90, 20, 11], start_dtype)
  return plans.ExamplePlan(
    {
      'start': start,
      'length': np.array([3, 7, 6, 1, 2], np.int32),
      'label': np.array([50, 51, 52, 53, 54], np.int32),
      'weight': np.linspace(0, 1, 5, dtype=np.float32),
    },
    batch_size=4,
    seed=1,
  )


def _batches(name, plan, num_batches=5, items=_ITEMS, **overrides):
  """The first batches of a feed, as the step sees them."""
  arguments = {'max_length': _LENGTH, 'batch_size': _BATCH, **overrides}
  events = {'items': items}
  feed = pipeline.feed(name, plan, events, **arguments)
  events = jax.tree.map(jnp.asarray, events)
  return [
    pipeline.materialize({**batch, 'events': events}, _LENGTH)
    for batch in itertools.islice(feed, num_batches)
  ]


def _assert_same(a: list, b: list, keys) -> None:
  assert len(a) == len(b)
  for x, y in zip(a, b, strict=True):
    for key in keys:
      np.testing.assert_array_equal(
        np.asarray(x[key]), np.asarray(y[key]), key, strict=True
      )


class TestEpochOrder:
  @pytest.mark.parametrize('batch_size', [1, 4, 7, 10, 33])
  def test_every_example_comes_once_per_epoch(self, batch_size):
    order = plans.EpochOrder(10, batch_size, seed=0)
    num_batches = -(-40 // batch_size)
    stream = np.concatenate([order(step) for step in range(num_batches)])
    epochs = stream[:40].reshape(4, 10)
    np.testing.assert_array_equal(
      np.sort(epochs, axis=1), np.tile(range(10), (4, 1))
    )
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 4

  def test_batch_size_cuts_one_stream(self):
    streams = [
      np.concatenate([order(step) for step in range(60 // size)])
      for size in (4, 5, 30)
      for order in [plans.EpochOrder(11, size, seed=2)]
    ]
    np.testing.assert_array_equal(streams[0], streams[1])
    np.testing.assert_array_equal(streams[0], streams[2])

  @pytest.mark.parametrize('batch_size', [1, 3, 4, 11])
  def test_whole_batches_hold_nobody_twice(self, batch_size):
    order = plans.EpochOrder(11, batch_size, seed=0, whole_batches=True)
    steps = 11 // batch_size
    assert order.per_epoch == steps * batch_size
    left_out = set()
    for epoch in range(20):
      numbers = range(epoch * steps, (epoch + 1) * steps)
      seen = np.concatenate([order(step) for step in numbers])
      # A part of one permutation.
      assert len(set(seen.tolist())) == order.per_epoch
      left_out |= set(range(11)) - set(seen.tolist())
    # Others each time.
    assert len(left_out) == (0 if 11 % batch_size == 0 else 11)

  def test_is_a_pure_function_of_seed_and_step(self):
    forward = plans.EpochOrder(11, 4, seed=2)
    steps = [forward(step) for step in range(9)]
    for step in (8, 3, 0, 5):
      fresh = plans.EpochOrder(11, 4, seed=2)
      np.testing.assert_array_equal(fresh(step), steps[step])
      np.testing.assert_array_equal(forward(step), steps[step])

  def test_depends_on_the_seed(self):
    orders = [plans.EpochOrder(50, 50, seed)(0).tolist() for seed in (0, 1)]
    assert orders[0] != orders[1]

  def test_no_example_is_refused(self):
    with pytest.raises(InputError, match='no example to train on'):
      plans.EpochOrder(0, 4, 0)


class TestPretrainPlan:
  def test_keys_and_dtypes(self):
    rows = _plan()(0)
    assert {key: (a.shape, a.dtype) for key, a in rows.items()} == {
      'start': ((6,), np.int64),
      'length': ((6,), np.int32),
      'index': ((6,), np.int32),
    }
    assert rows['index'].tolist() == [0, 1, 2, 3, 4, 5]

  def test_no_user_is_in_a_batch_twice(self):
    plan = _plan(batch_size=4)
    assert plan.users_per_epoch == 4
    for step in range(50):
      start = plan(step)['start']
      user = np.searchsorted(_OFFSETS, start, side='right') - 1
      assert len(set(user.tolist())) == 4

  def test_users_with_fewer_than_two_visible_events_are_left_out(self):
    assert _plan().users.tolist() == [0, 2, 3, 5, 6, 7]

  def test_windows_lie_in_the_visible_events_of_one_user(self):
    seen = np.zeros(len(_ITEMS), bool)
    for step in range(300):
      rows = _plan(batch_size=5)(step)
      user = np.searchsorted(_OFFSETS, rows['start'], side='right') - 1
      np.testing.assert_array_equal(
        rows['length'], np.minimum(_VISIBLE[user], _LENGTH)
      )
      end = rows['start'] + rows['length']
      assert (end <= _OFFSETS[user] + _VISIBLE[user]).all()
      for first, last in zip(rows['start'], end, strict=True):
        seen[first:last] = True
    # And over time in all of them.
    position = np.arange(len(_ITEMS)) - np.repeat(
      _OFFSETS[:-1], np.diff(_OFFSETS)
    )
    visible = np.repeat(np.where(_VISIBLE >= 2, _VISIBLE, 0), np.diff(_OFFSETS))
    np.testing.assert_array_equal(seen, position < visible)

  def test_window_starts_are_uniform(self):
    # User 6: 30 visible events, so 24 windows of 7.
    starts = np.concatenate([_plan(seed)(0)['start'] for seed in range(2_400)])
    starts = starts[(starts >= _OFFSETS[6]) & (starts < _OFFSETS[7])]
    counts = np.bincount(starts - _OFFSETS[6])
    assert (len(starts), len(counts)) == (2_400, 24)
    # Chi-squared with 23 degrees of freedom: above 58 once in 10,000.
    assert ((counts - 100) ** 2 / 100).sum() < 58

  def test_an_epoch_has_every_user_once(self):
    starts = _plan()(4)['start']
    users = np.searchsorted(_OFFSETS, starts, side='right') - 1
    assert sorted(users.tolist()) == [0, 2, 3, 5, 6, 7]

  def test_is_a_pure_function_of_seed_and_step(self):
    used = _plan()
    rows = [used(step) for step in range(7)]
    _assert_same([_plan()(5), used(2)], [rows[5], rows[2]], rows[0])
    assert (rows[0]['start'] != rows[1]['start']).any()
    assert (_plan(seed=4)(0)['start'] != rows[0]['start']).any()

  def test_nobody_with_two_visible_events_is_refused(self):
    with pytest.raises(InputError, match='no user has two events'):
      plans.PretrainPlan(
        np.array([0, 3, 6]),
        np.array([1, 0]),
        max_length=5,
        batch_size=2,
        seed=0,
      )


class TestTwoWindows:
  def _plan(self, seed=3, **overrides):
    arguments = {'batch_size': 4, 'max_length': _LENGTH, **overrides}
    return plans.PretrainPlan(
      _OFFSETS, _VISIBLE, seed=seed, windows_per_user=2, **arguments
    )

  def test_one_lies_in_each_half_of_the_visible_events(self):
    plan = self._plan()
    assert plan.users.tolist() == np.flatnonzero(_VISIBLE >= 4).tolist()
    is_older, ends = [], []
    for step in range(200):
      rows = plan(step)
      user = np.searchsorted(_OFFSETS, rows['start'], side='right') - 1
      half = _VISIBLE[user] // 2
      np.testing.assert_array_equal(rows['length'], np.minimum(half, _LENGTH))
      older = np.minimum(rows['start'], rows['other_start']) - _OFFSETS[user]
      newer = np.maximum(rows['start'], rows['other_start']) - _OFFSETS[user]
      assert (older >= 0).all()
      assert (older + rows['length'] <= half).all()
      assert (newer >= _VISIBLE[user] - half).all()
      assert (newer + rows['length'] <= _VISIBLE[user]).all()
      is_older.extend(rows['start'] < rows['other_start'])
      # User 6 has 30: starts 0 to 8 and 15 to 23.
      ends.extend(zip(older[user == 6], newer[user == 6], strict=True))
    assert abs(np.mean(is_older) - 0.5) < 5 * 0.5 / np.sqrt(len(is_older))
    for starts, first in zip(zip(*ends, strict=True), (0, 15), strict=True):
      assert set(starts) == set(range(first, first + 9))
    # And they are drawn apart: some of the 81 pairs in 9 would not be.
    assert len(set(ends)) > 40

  def test_both_feeds_give_the_same_two(self):
    a, b = (
      _batches(name, self._plan(), batch_size=4)
      for name in ('device', 'tf.data')
    )
    _assert_same(a, b, ('items', 'other_items', 'index'))
    for batch, rows in zip(a, map(self._plan(), range(5)), strict=True):
      for key, start in (('items', 'start'), ('other_items', 'other_start')):
        for row in range(4):
          first, size = rows[start][row], rows['length'][row]
          window = np.asarray(batch[key][row])
          np.testing.assert_array_equal(
            window[:size], _ITEMS[first : first + size]
          )
          assert not window[size:].any()

  def test_nobody_with_four_visible_events_is_refused(self):
    with pytest.raises(InputError, match='no user has four events'):
      plans.PretrainPlan(
        np.array([0, 3, 6]),
        np.array([3, 3]),
        max_length=5,
        batch_size=2,
        seed=0,
        windows_per_user=2,
      )


class TestGatherWindows:
  def test_by_hand(self):
    items = jnp.array([11, 12, 13, 14, 15])
    windows = pipeline.gather_windows(
      {'items': items}, jnp.array([0, 3, 4]), jnp.array([3, 2, 0]), 4
    )['items']
    # The second would read past the last event.
    assert windows.tolist() == [[11, 12, 13, 0], [14, 15, 0, 0], [0, 0, 0, 0]]

  def test_jit_equals_numpy(self):
    rows = _plan()(2)
    windows = jax.jit(pipeline.gather_windows, static_argnums=3)(
      {'items': _ITEMS}, rows['start'], rows['length'], _LENGTH
    )['items']
    for window, start, length in zip(
      windows, rows['start'], rows['length'], strict=True
    ):
      expected = np.pad(_ITEMS[start : start + length], (0, _LENGTH - length))
      assert window.tolist() == expected.tolist()


class TestFeeds:
  def test_pretraining_batches_agree_to_the_bit(self):
    host, device = (_batches(name, _plan()) for name in ('tf.data', 'device'))
    _assert_same(host, device, ['items', 'index'])
    assert host[0]['items'].shape == (_BATCH, _LENGTH)
    assert host[0]['items'].dtype == np.int32

  @pytest.mark.parametrize('dtype', [np.int32, np.int64])
  def test_example_batches_agree_to_the_bit(self, dtype):
    host, device = (
      _batches(name, _examples(dtype), batch_size=4)
      for name in ('tf.data', 'device')
    )
    _assert_same(host, device, ['items', 'label', 'weight'])

  def test_examples_without_windows_agree_to_the_bit(self):
    table = {'row': np.arange(9, dtype=np.int32), 'label': np.arange(9) % 2}
    plan = plans.ExamplePlan(table, batch_size=4, seed=0)
    host, device = (
      list(
        itertools.islice(
          pipeline.feed(name, plan, {}, max_length=3, batch_size=4), 6
        )
      )
      for name in ('tf.data', 'device')
    )
    _assert_same(host, device, ['row', 'label'])

  @pytest.mark.parametrize('name', ['tf.data', 'device'])
  def test_rows_of_an_example_stay_together(self, name):
    for batch in _batches(name, _examples(), batch_size=4):
      for items, label in zip(batch['items'], batch['label'], strict=True):
        example = int(label) - 50
        start, length = ((0, 3), (4, 7), (90, 6), (20, 1), (11, 2))[example]
        expected = np.pad(_ITEMS[start:][:length], (0, _LENGTH - length))
        assert items.tolist() == expected.tolist()

  @pytest.mark.parametrize('name', ['tf.data', 'device'])
  def test_starting_at_a_step_equals_skipping_to_it(self, name):
    whole = _batches(name, _plan(), 6)
    resumed = _batches(name, _plan(), 2, first_step=4)
    _assert_same(resumed, whole[4:], ['items', 'index'])

  @pytest.mark.parametrize('name', ['tf.data', 'device'])
  def test_process_slices_concatenate_to_the_global_batch(self, name):
    whole = _batches(name, _plan())
    parts = [
      _batches(name, _plan(), process_index=index, process_count=3)
      for index in range(3)
    ]
    joined = [
      {
        key: np.concatenate([batch[key] for batch in batches])
        for key in ('items', 'index')
      }
      for batches in zip(*parts, strict=True)
    ]
    assert parts[0][0]['items'].shape == (2, _LENGTH)
    _assert_same(joined, whole, ['items', 'index'])

  def test_a_batch_that_does_not_divide_names_both_numbers(self):
    with pytest.raises(InputError, match=r'batch_size=6 .* 4 processes'):
      pipeline.feed(
        'device', _plan(), {}, max_length=_LENGTH, batch_size=6,
        process_count=4,
      )  # fmt: skip

  @pytest.mark.parametrize('windows', [1, 2])
  def test_codes_are_those_of_the_items(self, windows):
    plan = plans.PretrainPlan(
      _OFFSETS,
      _VISIBLE,
      max_length=_LENGTH,
      batch_size=4,
      seed=0,
      windows_per_user=windows,
    )
    codes = (_ITEMS % 200 + 1).astype(np.uint8)
    events = {'items': _ITEMS, 'time_gap': codes}
    on_device = jax.tree.map(jnp.asarray, events)
    prefixes = ('', 'other_')[:windows]
    host, device = (
      [
        pipeline.materialize({**batch, 'events': on_device}, _LENGTH)
        for batch in itertools.islice(
          pipeline.feed(name, plan, events, max_length=_LENGTH, batch_size=4),
          3,
        )
      ]
      for name in ('tf.data', 'device')
    )
    keys = [
      f'{prefix}{name}' for prefix in prefixes for name in ('items', 'time_gap')
    ]
    _assert_same(host, device, keys)
    for batch in host:
      for prefix in prefixes:
        items = np.asarray(batch[f'{prefix}items'])
        expected = np.where(items > 0, items % 200 + 1, 0).astype(np.uint8)
        np.testing.assert_array_equal(
          batch[f'{prefix}time_gap'], expected, strict=True
        )

  def test_unknown_feed_lists_the_valid_ones(self):
    with pytest.raises(InputError, match=r"'grain'.*tf\.data, device"):
      pipeline.feed('grain', _plan(), {}, max_length=3, batch_size=6)

  def test_device_feed_needs_no_tensorflow(self):
    program = (
      'import sys\n'
      'for name in ("tensorflow", "tensorflow_datasets"):\n'
      '  sys.modules[name] = None\n'
      'import jax.numpy as jnp\n'
      'import numpy as np\n'
      'from bt4rec import datasets, pipeline, plans\n'
      'from bt4rec.errors import InputError\n'
      'plan = plans.PretrainPlan(\n'
      '  np.array([0, 4, 9]), np.array([4, 5]),\n'
      '  max_length=3, batch_size=2, seed=0)\n'
      'items = np.arange(1, 10, dtype=np.int32)\n'
      'def first(name):\n'
      '  batch = next(pipeline.feed(\n'
      '    name, plan, {"items": items}, max_length=3, batch_size=2))\n'
      '  events = {"items": jnp.asarray(items)}\n'
      '  return pipeline.materialize({**batch, "events": events}, 3)\n'
      'assert (first("device")["items"] > 0).all()\n'
      'try:\n'
      '  first("tf.data")\n'
      'except InputError:\n'
      '  print("blocked")\n'
    )
    done = subprocess.run(
      [sys.executable, '-c', program], capture_output=True, text=True
    )
    assert done.stdout == 'blocked\n', done.stderr


class TestLeaks:
  """Held-out events never reach pre-training."""

  @pytest.mark.parametrize('name', ['tf.data', 'device'])
  @pytest.mark.parametrize('scope', ['shared', 'leave_two_out'])
  def test_corrupting_held_out_events_does_not_change_a_bit(self, name, scope):
    rng = np.random.default_rng(0)
    lengths = np.array([2, 4, 9, 10, 23, 40])
    users = np.repeat(np.arange(6), lengths)
    num_events = lengths.sum()
    dataset = sequences.from_events(
      'tiny', users, rng.integers(1, 30, num_events), np.arange(num_events)
    )
    visible = splits.visible_lengths(scope, dataset.lengths)
    position = np.arange(num_events) - np.repeat(dataset.offsets[:-1], lengths)
    held_out = position >= np.repeat(visible, lengths)
    corrupted = np.where(held_out, -7, dataset.items).astype(np.int32)
    plan = plans.PretrainPlan(
      dataset.offsets, visible, max_length=5, batch_size=3, seed=0
    )
    before, after = (
      _batches(name, plan, 40, items, batch_size=3)
      for items in (dataset.items, corrupted)
    )
    _assert_same(before, after, ['items', 'index'])
    # A visible event does reach it.
    corrupted[dataset.offsets[3]] = -7
    assert any(
      (batch['items'] == -7).any()
      for batch in _batches(name, plan, 40, corrupted, batch_size=3)
    )


class TestPaddedBlocks:
  @pytest.mark.parametrize(
    'num_rows, size', [(0, 1), (1, 1), (2, 2), (3, 4), (5, 4), (8, 4), (11, 4)]
  )
  def test_drops_nobody_and_counts_nobody_twice(self, num_rows, size):
    real_rows = []
    for rows, num_real in pipeline.padded_blocks(num_rows, 4):
      assert rows.shape == (size,)
      assert (rows < num_rows).all()
      assert 1 <= num_real <= 4
      real_rows += rows[:num_real].tolist()
    assert real_rows == list(range(num_rows))

  def test_padding_repeats_the_last_row(self):
    blocks = [(r.tolist(), n) for r, n in pipeline.padded_blocks(5, 3)]
    assert blocks == [([0, 1, 2], 3), ([3, 4, 4], 2)]


class TestOverWindows:
  def _run(self, length, **options):
    start = np.cumsum(length) - length
    events = {'items': np.arange(1, length.sum() + 1)}
    shapes = []

    def sums(windows):
      items = windows['items']
      shapes.append(items.shape)
      # Of one window alone, whatever the padding.
      return np.stack([items.sum(1), items.max(1)], axis=1)

    options = {'max_length': 40, 'dim': 2, **options}
    found = pipeline.over_windows(
      'test', sums, events, start, length, **options
    )
    ends = start + length
    expected = [
      [sum(range(first + 1, end + 1)), end]
      for first, end in zip(start, ends, strict=True)
    ]
    return found, np.reshape(expected, (-1, 2)), shapes

  @pytest.mark.parametrize('number', [0, 1, 3, 300, 1_300])
  def test_each_window_gets_its_own_result(self, number, monkeypatch):
    monkeypatch.setattr(pipeline, '_WINDOWS_SORTED', 600)
    length = np.random.default_rng(0).integers(1, 41, number, np.int32)
    found, expected, _ = self._run(length)
    np.testing.assert_array_equal(found, expected)

  def test_short_windows_are_computed_in_narrow_blocks(self):
    # 1,024 of 3 events among 512 of 16, 512 of 17 and 512 of 40, mixed.
    lengths = np.repeat([3, 3, 16, 17, 40], 512).astype(np.int32)
    length = np.random.default_rng(0).permutation(lengths)
    found, expected, shapes = self._run(length)
    np.testing.assert_array_equal(found, expected)
    assert shapes == [(512, 16)] * 3 + [(512, 32), (512, 40)]

  def test_there_is_room(self):
    *_, shapes = self._run(np.full(512, 16, np.int32), room=1)
    assert shapes == [(512, 32)]


def test_a_feed_without_tensorflow_gets_one_sentence(monkeypatch):
  monkeypatch.setitem(sys.modules, 'tensorflow', None)
  with pytest.raises(InputError, match=r'TensorFlow is missing .*feed=device'):
    _batches('tf.data', _plan(), 1)


def test_more_events_than_int32_counts_are_for_tf_data():
  pipeline.check_fits_device(2**31 - 1)
  with pytest.raises(InputError, match=r'2,147,483,648; use .*feed=tf\.data'):
    pipeline.check_fits_device(2**31)
