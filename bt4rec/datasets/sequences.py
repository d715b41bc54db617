"""What every dataset becomes: flat, time-ordered user sequences.

The layout is compressed-sparse: the events of all users in one array, user
after user, and the offset at which each user starts. It is what the input
pipeline gathers windows from, and what lies on the device where it fits.
"""

import dataclasses
import functools
import json
import os
from collections.abc import Iterable, Sequence

import numpy as np

from bt4rec.errors import InputError

PADDING = 0


@dataclasses.dataclass(frozen=True)
class Catalogue:
  """The items that have events. Item `i` of `1..num_items` is row `i - 1`.

  Attributes:
    item_ids: [num_items] int64 or str, the original ids, in ascending order
      (integers numerically, strings by code point, as UTF-8 bytes sort).
    titles: [num_items] str, empty where there is none.
    category_names: The names of the categories, in ascending order.
    category_offsets: [num_items + 1] int64, see `category_values`.
    category_values: [num_memberships] int32; the categories of row `i` are
      `category_values[category_offsets[i]:category_offsets[i + 1]]`.
  """

  item_ids: np.ndarray
  titles: np.ndarray
  category_names: tuple[str, ...]
  category_offsets: np.ndarray
  category_values: np.ndarray

  @property
  def num_items(self) -> int:
    return len(self.item_ids)

  @property
  def mask_item(self) -> int:
    """Token of a masked item, and of an item that is not in the catalogue."""
    return self.num_items + 1

  @property
  def vocabulary_size(self) -> int:
    """Rows of an item table: padding, the items, the mask token."""
    return self.num_items + 2

  def category_weights(self) -> np.ndarray:
    """[vocabulary_size, num_categories] float32, rows by item token.

    A row is the uniform distribution over the item's categories; it is zero
    for the padding, the mask token and an item without category.
    """
    counts = np.diff(self.category_offsets)
    weights = np.zeros((self.vocabulary_size, len(self.category_names)))
    rows = np.repeat(np.arange(1, self.num_items + 1), counts)
    np.add.at(weights, (rows, self.category_values), 1.0)
    total = weights.sum(axis=1, keepdims=True)
    return (weights / np.maximum(total, 1.0)).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class SequenceDataset:
  """Users with their events in the order of (timestamp, row in the source).

  Attributes:
    name: What results are labelled with, such as 'ml1m'.
    user_ids: [num_users] int64 or str, original ids, ascending as item ids are.
    offsets: [num_users + 1] int64; the events of user `u` are
      `offsets[u]:offsets[u + 1]` of the arrays below.
    items: [num_events] int32, tokens in `1..num_items`.
    timestamps: [num_events] int64, seconds.
    catalogue: The items.
    origin: How it was read: `source` (the name in the config), and what the
      source counted: rows read, kept and dropped. JSON values.
  """

  name: str
  user_ids: np.ndarray
  offsets: np.ndarray
  items: np.ndarray
  timestamps: np.ndarray
  catalogue: Catalogue
  origin: dict = dataclasses.field(default_factory=dict)

  @property
  def num_users(self) -> int:
    return len(self.user_ids)

  @property
  def num_events(self) -> int:
    return len(self.items)

  @property
  def lengths(self) -> np.ndarray:
    """[num_users] int64, the number of events of each user."""
    return np.diff(self.offsets)

  @functools.cached_property
  def derived(self) -> dict[str, np.ndarray]:
    """Arrays [num_events] made of the others, each when it is needed first."""
    return {}


def from_events(
  name: str,
  users: np.ndarray,
  items: np.ndarray,
  timestamps: np.ndarray,
  *,
  titles: dict | None = None,
  categories: dict | None = None,
) -> SequenceDataset:
  """Groups events by user and orders them by (timestamp, row).

  The row is the tie-break because equal timestamps are common (77 % of the
  ratings of MovieLens-1M share theirs with another of the same user), and
  another rule would change the last item of a quarter of the users.

  Args:
    name: Name of the dataset.
    users: [num_events] original user ids, integers or text, in source order.
    items: [num_events] original item ids, integers or text.
    timestamps: [num_events] integers, seconds; or datetime64.
    titles: Original item id -> title.
    categories: Original item id -> sequence of category names.

  Returns:
    The dataset. Its catalogue has the items with events, no others.

  Raises:
    InputError: If there is no event, an id is missing or neither integer nor
      text, or a timestamp is missing or no whole number of seconds.
  """
  user_ids, user_index = np.unique(_ids('users', users), return_inverse=True)
  item_ids, item_index = np.unique(_ids('items', items), return_inverse=True)
  timestamps = _seconds(timestamps)
  return from_indexed_events(
    name,
    user_ids,
    user_index,
    item_ids,
    item_index,
    timestamps,
    titles=titles,
    categories=categories,
  )


def _ids(what: str, ids: np.ndarray) -> np.ndarray:
  """Integers as int64, text as str: Arrow and pandas give text as objects."""
  ids = np.asarray(ids)
  kinds = {ids.dtype.type}
  if ids.dtype.kind == 'O':
    kinds = {type(value) for value in ids.tolist()}
  if all(issubclass(kind, str) for kind in kinds):
    return ids.astype(np.str_)
  if all(issubclass(kind, (int, np.integer)) for kind in kinds) and (
    not len(ids) or ids.max() <= np.iinfo(np.int64).max
  ):
    return ids.astype(np.int64)
  if not len(ids):
    return ids
  raise InputError(
    f'{what} are of type {", ".join(sorted(kind.__name__ for kind in kinds))}; '
    f'give integers of 64 bits alone or text alone, and leave out events that '
    f'lack an id.'
  )


def _seconds(timestamps: np.ndarray) -> np.ndarray:
  """Seconds since 1970 as int64."""
  timestamps = np.asarray(timestamps)
  if timestamps.dtype.kind == 'M' and not np.isnat(timestamps).any():
    timestamps = timestamps.astype('datetime64[s]').astype(np.int64)
  if timestamps.dtype.kind not in 'iu' and len(timestamps):
    raise InputError(
      f'timestamps are of type {timestamps.dtype}, or some are missing; give '
      f'seconds since 1970 as integers, or datetime64, for every event.'
    )
  return timestamps.astype(np.int64)


def from_indexed_events(
  name: str,
  user_ids: np.ndarray,
  user_index: np.ndarray,
  item_ids: np.ndarray,
  item_index: np.ndarray,
  timestamps: np.ndarray,
  *,
  ticks_per_second: int = 1,
  titles: dict | None = None,
  categories: dict | None = None,
) -> SequenceDataset:
  """Like `from_events`, for ids that are encoded already.

  Millions of events with string ids fit into memory only so.

  Args:
    name: Name of the dataset.
    user_ids: [num_user_ids] int64 or str, ascending and distinct; one without
      an event is left out.
    user_index: [num_events] int, row in `user_ids`, in source order.
    item_ids: [num_item_ids] int64 or str, as `user_ids`.
    item_index: [num_events] int, row in `item_ids`.
    timestamps: [num_events] int64, ticks.
    ticks_per_second: Ticks of a second; the events are ordered by tick.
    titles: Original item id -> title.
    categories: Original item id -> sequence of category names.

  Returns:
    The dataset.

  Raises:
    InputError: If there is no event.
  """
  if not len(user_index):
    raise InputError(f'dataset {name!r} has no events; check the source files.')
  counts = np.bincount(user_index, minlength=len(user_ids))
  has_events = np.bincount(item_index, minlength=len(item_ids)) > 0
  token = np.cumsum(has_events, dtype=np.int32)
  # lexsort is stable: the row in the source breaks the ties.
  order = np.lexsort((timestamps, user_index))
  seconds = np.asarray(timestamps, np.int64)[order]
  if ticks_per_second != 1:
    seconds //= ticks_per_second
  return SequenceDataset(
    name=name,
    user_ids=user_ids[counts > 0],
    offsets=np.concatenate([[0], np.cumsum(counts[counts > 0])]),
    items=token[item_index[order]],
    timestamps=seconds,
    catalogue=make_catalogue(
      item_ids[has_events], titles or {}, categories or {}
    ),
  )


def make_catalogue(
  item_ids: np.ndarray, titles: dict, categories: dict
) -> Catalogue:
  """Returns the catalogue of `item_ids`, which must be ascending."""
  ids = item_ids.tolist()
  names, offsets, values = encode_categories(
    [categories.get(item, ()) for item in ids]
  )
  return Catalogue(
    item_ids=item_ids,
    titles=np.array([titles.get(item, '') for item in ids], dtype=np.str_),
    category_names=names,
    category_offsets=offsets,
    category_values=values,
  )


def encode_categories(
  memberships: Iterable[Sequence[str]],
) -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
  """Category names of each item -> (names, offsets, values)."""
  memberships = [sorted(set(names)) for names in memberships]
  names = sorted({name for row in memberships for name in row})
  index = {name: i for i, name in enumerate(names)}
  counts = [len(row) for row in memberships]
  values = [index[name] for row in memberships for name in row]
  offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
  return tuple(names), offsets, np.array(values, dtype=np.int32)


_EVENT_ARRAYS = ('items', 'timestamps')
_ARRAYS = ('user_ids', 'offsets', *_EVENT_ARRAYS)
_CATALOGUE_ARRAYS = (
  'item_ids',
  'titles',
  'category_offsets',
  'category_values',
)


def save(dataset: SequenceDataset, directory: str) -> None:
  """Writes the prepared arrays: one .npy each and `dataset.json`.

  `dataset.json` is written last, so a directory that has it is whole.
  """
  os.makedirs(directory, exist_ok=True)
  remove_header(directory)
  for key in _ARRAYS:
    _save_array(directory, key, getattr(dataset, key))
  save_catalogue(dataset.catalogue, directory)
  save_header(
    directory, dataset.name, dataset.catalogue.category_names, dataset.origin
  )


def remove_header(directory: str) -> None:
  """Removes `dataset.json`: from here on the directory is not whole."""
  path = os.path.join(directory, 'dataset.json')
  if os.path.exists(path):
    os.remove(path)


def save_header(
  directory: str, name: str, category_names: Sequence[str], origin: dict
) -> None:
  """Writes `dataset.json`, which makes the directory whole."""
  header = {
    'name': name,
    'category_names': list(category_names),
    'origin': origin,
  }
  path = os.path.join(directory, 'dataset.json')
  with open(f'{path}.tmp', 'w') as f:
    json.dump(header, f)
  os.replace(f'{path}.tmp', path)


def save_catalogue(catalogue: Catalogue, directory: str) -> None:
  """Writes the arrays of a catalogue, one .npy each, without its names."""
  for key in _CATALOGUE_ARRAYS:
    _save_array(directory, key, getattr(catalogue, key))


def _save_array(directory: str, key: str, array: np.ndarray) -> None:
  path = os.path.join(directory, f'{key}.npy')
  # Not in place: the old file may be mapped, even by the array itself.
  with open(f'{path}.tmp', 'wb') as f:
    # What is pickled could not be loaded.
    np.save(f, array, allow_pickle=False)
  os.replace(f'{path}.tmp', path)


def load_catalogue(directory: str, category_names: Sequence[str]) -> Catalogue:
  """Reads what `save_catalogue` wrote."""
  return Catalogue(
    category_names=tuple(category_names),
    **{
      key: np.load(os.path.join(directory, f'{key}.npy'), allow_pickle=False)
      for key in _CATALOGUE_ARRAYS
    },
  )


def load(directory: str) -> SequenceDataset:
  """Reads what `save` wrote. Needs no TensorFlow; nothing is unpickled.

  Items and timestamps stay in their files, mapped into memory: a read fetches
  the pages it touches, in any order.

  Raises:
    InputError: If a file is missing, cut or does not belong to the others.
  """
  path = os.path.join(directory, 'dataset.json')
  try:
    with open(path) as f:
      header = json.load(f)
    if not {'name', 'category_names'} <= set(header):
      raise ValueError('it lacks name or category_names')
    arrays = {}
    for key in _ARRAYS + _CATALOGUE_ARRAYS:
      path = os.path.join(directory, f'{key}.npy')
      # What has an entry per event may be larger than memory.
      arrays[key] = np.load(
        path,
        mmap_mode='r' if key in _EVENT_ARRAYS else None,
        allow_pickle=False,
      )
  # numpy raises EOFError for an empty file.
  except (OSError, ValueError, EOFError, TypeError) as error:
    raise InputError(
      f'cannot read the prepared dataset file {path} ({error}); prepare the '
      f'directory again, or give another with --config.dataset.prepared.'
    ) from error
  catalogue = Catalogue(
    category_names=tuple(header['category_names']),
    **{key: arrays[key] for key in _CATALOGUE_ARRAYS},
  )
  dataset = SequenceDataset(
    name=header['name'],
    catalogue=catalogue,
    origin=header.get('origin', {}),
    **{key: arrays[key] for key in _ARRAYS},
  )
  if (
    len(dataset.offsets) != dataset.num_users + 1
    or dataset.offsets[-1] != dataset.num_events
    or len(dataset.timestamps) != dataset.num_events
    or dataset.items.min(initial=1) < 1
    or dataset.items.max(initial=0) > catalogue.num_items
    or len(catalogue.titles) != catalogue.num_items
    or len(catalogue.category_offsets) != catalogue.num_items + 1
    or catalogue.category_offsets[-1] != len(catalogue.category_values)
    or catalogue.category_values.max(initial=-1)
    >= len(catalogue.category_names)
  ):
    raise InputError(
      f'the prepared arrays in {directory} do not belong together; prepare '
      f'the directory again.'
    )
  return dataset
