"""Blocks of a log, for the tests of what cuts and counts them."""

import numpy as np
import pyarrow as pa

from bt4rec.datasets import event_table, log_cuts


def block(users, items, times, first=0, kept=None, title=None):
  """Rows from number `first` on; all are kept unless `kept` says which."""
  columns = {
    'user': pa.array(users, pa.string()),
    'item': pa.array(items, pa.string()),
  }
  if title:
    columns['title'] = pa.array(title, pa.string())
  kept = np.ones(len(users), bool) if kept is None else np.array(kept)
  return event_table.Block(first, columns, np.array(times, np.int64), kept)


def ranges(bounds):
  """Shards that start at `bounds`."""
  bounds = np.array(bounds)
  return log_cuts.Ranges(bounds.dtype.kind == 'U', bounds)
