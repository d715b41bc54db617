"""The vocabulary of a log: which items, and what the log says of them."""

import numpy as np

from bt4rec.datasets import events, log_cuts, log_vocabulary
from tests import log_blocks


class TestVocabulary:
  def _counts(self):
    ranges = log_blocks.ranges([2])
    blocks = (
      log_blocks.block(
        ['1', '2', '1', '2'],
        ['7', '30', '7', '7'],
        [0, 0, 0, 0],
        title=[None, 'B', 'A', 'C'],
      ),
      log_blocks.block(
        ['1', '2'], ['4', '7'], [0, 0], first=4, title=['D', 'A']
      ),
    )
    pieces: dict[int, list] = {0: [], 1: []}
    for block in blocks:
      for shard, data in log_cuts.cut_block(block, 0, ranges):
        pieces[shard].append(data)
    return log_vocabulary.merge_counts(
      [
        log_vocabulary.count_items(
          *log_cuts.gather(pieces[shard], ['title'], ranges)
        )
        for shard in (0, 1)
      ]
    )

  def test_by_hand(self):
    vocabulary = log_vocabulary.make_vocabulary(self._counts(), ['title'], 1)
    # As numbers, not as text; the first title of 7 in the log is A, in row 2
    # of user 1, and row 3 of user 2 says C.
    assert vocabulary.items.to_pydict() == {
      'item': [4, 7, 30],
      'title': ['D', 'A', 'B'],
    }
    assert vocabulary.notes == {events.differs_note('title'): 1}
    assert (vocabulary.rare_items, vocabulary.rare_events) == (0, 0)

  def test_rare_items_are_left_out_and_counted(self):
    vocabulary = log_vocabulary.make_vocabulary(self._counts(), ['title'], 2)
    assert vocabulary.items.to_pydict() == {'item': [7], 'title': ['A']}
    assert (vocabulary.rare_items, vocabulary.rare_events) == (2, 2)

  def test_a_rare_text_id_makes_ids_text(self):
    ranges = log_blocks.ranges(np.zeros(0, np.int64))
    block = log_blocks.block(['1'] * 5, ['9', '10', '9', '10', 'x'], [0] * 5)
    ((_, piece),) = log_cuts.cut_block(block, 0, ranges)
    counts = log_vocabulary.count_items(*log_cuts.gather([piece], (), ranges))
    vocabulary = log_vocabulary.make_vocabulary(counts, (), 2)
    assert vocabulary.items.to_pydict() == {'item': ['10', '9']}
