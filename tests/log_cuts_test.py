"""Cutting a log: which shard a row goes to, and the order it comes back in."""

import numpy as np

from bt4rec.datasets import log_cuts
from tests import log_blocks


class TestRanges:
  def test_bounds_cut_the_sample_evenly(self):
    sample = [str(i) for i in (9, 10, 2, 7, 3, 1, 8, 4, 5, 6)]
    ranges = log_cuts.make_ranges(sample, False, events_per_shard=4)
    # 1 2 3 4 | 5 6 7 8 | 9 10
    np.testing.assert_array_equal(ranges.bounds, [5, 9])
    assert ranges.num_shards == 3

  def test_text_is_ordered_as_text(self):
    sample = ['9', '10', '2', 'x']
    ranges = log_cuts.make_ranges(sample, True, events_per_shard=2)
    # 10 2 | 9 x
    np.testing.assert_array_equal(ranges.bounds, ['9'])

  def test_a_user_of_many_shards_is_one(self):
    ranges = log_cuts.make_ranges(['5'] * 9 + ['6'], False, events_per_shard=2)
    # 5 | 5 and 6: the first bound cuts off nobody, the others are the same.
    np.testing.assert_array_equal(ranges.bounds, [5])

  def test_large_shards_are_sampled(self):
    # 256 of a million.
    assert log_cuts.sampling_stride(1_000_000) == 3906
    assert log_cuts.sampling_stride(100) == 1


class TestCutBlock:
  def test_each_kept_row_goes_to_the_shard_of_its_user(self):
    block = log_blocks.block(
      ['7', '2', '9', '2', '5'],
      ['a', 'b', 'c', 'd', 'e'],
      [1, 2, 3, 4, 5],
      first=10,
      kept=[True, True, True, True, False],
    )
    pieces = dict(log_cuts.cut_block(block, 3, log_blocks.ranges([5, 9])))
    assert sorted(pieces) == [0, 1, 2]
    found, positions = log_cuts.gather(
      [pieces[0]], (), log_blocks.ranges([5, 9])
    )
    assert found.user.values.tolist() == [2]
    assert found.item.values[found.item.codes].tolist() == ['b', 'd']
    assert found.times.tolist() == [2, 4]
    # File 3, rows 11 and 13.
    assert positions.tolist() == [3 * 2**40 + 11, 3 * 2**40 + 13]

  def test_pieces_come_back_in_the_order_of_the_log(self):
    ranges = log_blocks.ranges(np.zeros(0, np.int64))
    pieces = [
      data
      for file, first in ((0, 0), (0, 2), (1, 0))
      for _, data in log_cuts.cut_block(
        log_blocks.block(['1', '1'], [f'{file}', f'{first}'], [0, 0], first),
        file,
        ranges,
      )
    ]
    found, _ = log_cuts.gather(pieces[::-1], (), ranges)
    items = found.item.values[found.item.codes].tolist()
    assert items == [0, 0, 0, 2, 1, 0]

  def test_integers_stay_text_where_the_log_has_other_ids(self):
    ranges = log_blocks.ranges(['x'])
    block = log_blocks.block(['10', '9'], ['1', '2'], [0, 0])
    (piece,) = [data for _, data in log_cuts.cut_block(block, 0, ranges)]
    found, _ = log_cuts.gather([piece], (), ranges)
    assert found.user.values.tolist() == ['10', '9']
    assert found.item.values.tolist() == [1, 2]
