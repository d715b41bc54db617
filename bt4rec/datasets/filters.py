"""Filters of events: repeats, and the k-core."""

import numpy as np
from absl import logging

from bt4rec.datasets.events import Events


def find_repeats(events: Events) -> np.ndarray:
  """[num_events] bool, whether an earlier row has the same event.

  The same event has the same user, item and timestamp.
  """
  user, item, times = events.user.codes, events.item.codes, events.times
  order = np.lexsort((times, user))
  tied = _equals_next((user, times), order)
  # Few rows share user and time; only they need the sort by item.
  has_twin = np.zeros(len(order), bool)
  has_twin[:-1] |= tied
  has_twin[1:] |= tied
  rows = order[has_twin]
  rows = rows[np.lexsort((item[rows], times[rows], user[rows]))]
  repeats = np.zeros(len(times), bool)
  repeats[rows[1:][_equals_next((user, times, item), rows)]] = True
  return repeats


def handle_repeats(events: Events, drop: bool) -> np.ndarray:
  """Finds repeats, and leaves them out or counts them.

  Args:
    events: Changed in place.
    drop: Whether repeats are left out.

  Returns:
    What `find_repeats` returned.
  """
  repeats = find_repeats(events)
  if drop:
    events.keep(~repeats, 'repeated events')
  elif repeats.any():
    events.notes['repeated events, kept'] = int(repeats.sum())
  return repeats


def _equals_next(
  columns: tuple[np.ndarray, ...], order: np.ndarray
) -> np.ndarray:
  equal = np.ones(max(len(order) - 1, 0), bool)
  for column in columns:
    ordered = column[order]
    equal &= ordered[1:] == ordered[:-1]
  return equal


def k_core(events: Events, k: int) -> None:
  """Leaves out users and items with fewer than `k` events, until none has.

  Args:
    events: Changed in place.
    k: Smallest number of events; 0 and 1 leave everything.
  """
  before = _counts(events)
  kept = np.arange(len(events))
  while k > 1:
    left = len(kept)
    for column in (events.user, events.item):
      codes = column.codes[kept]
      kept = kept[np.bincount(codes, minlength=len(column.values))[codes] >= k]
    if len(kept) == left:
      break
  mask = np.zeros(len(events), bool)
  mask[kept] = True
  events.keep(mask, f'events outside of the {k}-core')
  if k > 1:
    after = _counts(events)
    logging.info('%d-core: %s before, %s after', k, before, after)


def _counts(events: Events) -> str:
  return (
    f'{len(np.unique(events.user.codes))} users, '
    f'{len(np.unique(events.item.codes))} items, {len(events)} events'
  )
