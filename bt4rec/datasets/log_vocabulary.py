"""The vocabulary of a log, from what its shards say of their items."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bt4rec.datasets import events


def count_items(found: events.Events, positions: np.ndarray) -> pa.Table:
  """Counts what the events of a shard say of each item.

  Args:
    found: The events of the shard that are kept.
    positions: [num_rows] int64, see `gather`; `found.rows` are rows of it.

  Returns:
    A table of distinct (item, attribute, value) with the number of events
    that say so and the position of the first; attribute '' counts the events.
  """
  if found.rows is not None:
    positions = positions[found.rows]
  ids = pa.array(found.item.values.astype(np.str_), pa.large_string())
  tables = []
  for name, column in (('', None), *found.attributes.items()):
    if column is None:
      values = pa.array([''], pa.large_string())
      codes = np.zeros(len(found), np.int32)
    else:
      values = pa.array(column.values.astype(np.str_), pa.large_string())
      codes = column.codes
    known = codes >= 0
    counted = (
      pa.table(
        {
          'item': found.item.codes[known],
          'value': codes[known],
          'position': positions[known],
        }
      )
      .group_by(['item', 'value'])
      .aggregate([('position', 'min'), ('position', 'count')])
    )
    tables.append(
      pa.table(
        {
          'item': ids.take(counted['item']),
          'attribute': pa.array([name] * len(counted), pa.string()),
          'value': values.take(counted['value']),
          'position': counted['position_min'],
          'count': counted['position_count'],
        }
      )
    )
  return pa.concat_tables(tables)


def merge_counts(tables: list[pa.Table]) -> pa.Table:
  """Merges what `count_items` gave for several shards."""
  keys = ['item', 'attribute', 'value']
  merged = (
    pa.concat_tables(tables)
    .group_by(keys)
    .aggregate([('position', 'min'), ('count', 'sum')])
  )
  return merged.select([*keys, 'position_min', 'count_sum']).rename_columns(
    [*keys, 'position', 'count']
  )


class Vocabulary(NamedTuple):
  """The items that are frequent enough, and what the log says of them.

  Attributes:
    items: 'item' -> the ids, int64 or text, ascending; each attribute -> its
      first value in the log as text, null where there is none.
    notes: What was counted -> number.
    rare_items: Number of the other items.
    rare_events: Number of their events.
  """

  items: pa.Table
  notes: dict[str, int]
  rare_items: int
  rare_events: int


def make_vocabulary(
  counts: pa.Table, attributes: Iterable[str], min_item_events: int
) -> Vocabulary:
  """Chooses the items with at least `min_item_events` events.

  Args:
    counts: The merged counts of all shards.
    attributes: Names of the further columns.
    min_item_events: Smallest number of events of an item.
  """
  of_items = counts.filter(pc.equal(counts['attribute'], ''))
  text = of_items['item'].combine_chunks()
  # The rare items have a say in what an id is, as they do in a whole log.
  ids = events.to_ids(text, not events.are_integers(text))
  number = of_items['count'].to_numpy()
  frequent = number >= min_item_events
  order = np.argsort(ids[frequent], kind='stable')
  kept_text = text.filter(pa.array(frequent)).take(pa.array(order))
  items = {'item': pa.array(ids[frequent][order])}
  notes = {}
  for name in attributes:
    rows = counts.filter(pc.equal(counts['attribute'], name))
    item = pc.fill_null(pc.index_in(rows['item'], kept_text), -1).to_numpy()
    by_item = np.lexsort((rows['position'].to_numpy(), item))
    by_item = by_item[item[by_item] >= 0]
    item = item[by_item]
    first = np.diff(item, prepend=-1) > 0
    differs = int(rows['count'].to_numpy()[by_item][~first].sum())
    if differs:
      notes[events.differs_note(name)] = differs
    row = np.full(len(kept_text), -1)
    row[item[first]] = by_item[first]
    items[name] = rows['value'].take(pa.array(row, mask=row < 0))
  return Vocabulary(
    pa.table(items),
    notes,
    rare_items=int((~frequent).sum()),
    rare_events=int(number[~frequent].sum()),
  )


def item_ids(items: pa.Table) -> np.ndarray:
  """[num_items] int64 or str, the ids in `Vocabulary.items`."""
  ids = items['item']
  if pa.types.is_integer(ids.type):
    return ids.to_numpy()
  return np.array(ids.to_pylist(), np.str_)
