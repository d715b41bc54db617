"""Shards as arrays: tokens, and the files they are put together into."""

import numpy as np
import pytest

from bt4rec.datasets import shards


class TestTokens:
  def _shard(self):
    return shards.Shard(
      user_ids=np.array([3, 8, 9]),
      lengths=np.array([2, 1, 2]),
      items=np.array([1, 2, 2, 3, 1], np.int32),
      timestamps=np.array([5, 6, 7, 8, 9]),
      item_ids=np.array([10, 20, 30]),
    )

  def test_by_hand(self):
    shard = shards.to_tokens(self._shard(), np.array([5, 10, 30]))
    np.testing.assert_array_equal(shard.user_ids, [3, 9])
    np.testing.assert_array_equal(shard.lengths, [1, 2])
    np.testing.assert_array_equal(shard.items, [2, 3, 2])
    np.testing.assert_array_equal(shard.timestamps, [5, 8, 9])
    assert shard.items.dtype == np.int32

  def test_integers_are_found_among_text(self):
    shard = shards.to_tokens(self._shard(), np.array(['10', '30', 'x']))
    np.testing.assert_array_equal(shard.items, [1, 2, 1])

  def test_empty_vocabulary(self):
    shard = shards.to_tokens(self._shard(), np.zeros(0, np.int64))
    assert not len(shard.user_ids) and not len(shard.items)


class TestConcatenate:
  def _write(self, folder, num_events=3):
    pieces = [
      shards.Shard(
        np.array(users),
        np.array(lengths),
        np.array(items, np.int32),
        np.array(items, np.int64) * 10,
        np.zeros(0),
      )
      for users, lengths, items in (
        (['a'], [1], [4]),
        (['bcd', 'e'], [1, 1], [2, 6]),
      )
    ]
    shards.concatenate(
      pieces,
      str(folder),
      num_users=3,
      num_events=num_events,
      user_ids=np.dtype('<U3'),
    )

  def test_files_are_what_numpy_saves(self, tmp_path):
    self._write(tmp_path)
    for key, array in {
      'user_ids': np.array(['a', 'bcd', 'e']),
      'offsets': np.array([0, 1, 2, 3]),
      'items': np.array([4, 2, 6], np.int32),
      'timestamps': np.array([40, 20, 60]),
    }.items():
      np.save(tmp_path / 'expected.npy', array)
      assert (tmp_path / f'{key}.npy').read_bytes() == (
        tmp_path / 'expected.npy'
      ).read_bytes()

  def test_lost_events_are_noticed(self, tmp_path):
    with pytest.raises(ValueError, match='has 3 values, not 4'):
      self._write(tmp_path, num_events=4)
