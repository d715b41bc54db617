"""Original item ids and the tokens of an encoder."""

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np
import pyarrow as pa
from absl import logging

from bt4rec.datasets import Catalogue, events
from bt4rec.datasets.sequences import make_catalogue
from bt4rec.errors import InputError
from bt4rec.features import Events

_FILE = 'item_ids.npy'
_CATEGORIES = 'item_categories.npz'


class Tokens(NamedTuple):
  """Sequences in one flat array.

  Attributes:
    items: [num_events] int32, tokens; unknown items have the mask token.
    offsets: [num_sequences + 1] int64, where each sequence starts.
    codes: Event feature -> [num_events] codes, where known; see `features`.
  """

  items: np.ndarray
  offsets: np.ndarray
  codes: Mapping[str, np.ndarray] | None = None

  @property
  def events(self) -> Events:
    """Items and codes, aligned."""
    return {'items': self.items, **(self.codes or {})}

  def windows(self, max_length: int) -> dict[str, np.ndarray]:
    """The newest events of each sequence: `start` int64, `length` int32."""
    length = np.minimum(np.diff(self.offsets), max_length).astype(np.int32)
    return {'start': self.offsets[1:] - length, 'length': length}


def save(directory: str, catalogue: Catalogue) -> None:
  """Writes the original item ids and the categories beside the checkpoints."""
  _replace(directory, _FILE, lambda f: np.save(f, catalogue.item_ids))
  _replace(
    directory,
    _CATEGORIES,
    lambda f: np.savez(
      f,
      names=np.array(catalogue.category_names, np.str_),
      offsets=catalogue.category_offsets,
      values=catalogue.category_values,
    ),
  )


def _replace(directory: str, name: str, write: Callable) -> None:
  # A full disk must not cost the file that is there.
  path = os.path.join(directory, name)
  with open(f'{path}.tmp', 'wb') as f:
    write(f)
  os.replace(f'{path}.tmp', path)


def load(directory: str) -> Catalogue:
  """Reads what `save` wrote; titles are empty.

  Versions before the side features wrote no categories.

  Raises:
    InputError: If it is missing or damaged.
  """
  path = os.path.join(directory, _FILE)
  try:
    item_ids = np.load(path, allow_pickle=False)
    catalogue = make_catalogue(item_ids, {}, {})
    path = os.path.join(directory, _CATEGORIES)
    if not os.path.exists(path):
      return catalogue
    with np.load(path, allow_pickle=False) as arrays:
      return dataclasses.replace(
        catalogue,
        category_names=tuple(arrays['names'].tolist()),
        category_offsets=arrays['offsets'],
        category_values=arrays['values'],
      )
  except (OSError, ValueError, EOFError, KeyError, BadZipFile) as error:
    raise InputError(
      f'cannot read {path} ({error}); name the workdir of a pre-training.'
    ) from error


def encode(sequences: Sequence[Sequence], item_ids: np.ndarray) -> Tokens:
  """Original item ids -> tokens; what is unknown is counted and logged.

  Args:
    sequences: Item ids of each user. An integer written as text is that
      integer where the catalogue's ids are integers, and an integer is its
      text where they are text.
    item_ids: [num_items] the catalogue's, ascending.

  Raises:
    InputError: If a sequence is empty or no sequence, or an id is of another
      type: missing, a float, or text that is no integer.
  """
  columns = [_as_array(*numbered) for numbered in enumerate(sequences)]
  lengths = np.array([len(column) for column in columns], np.int64)
  offsets = np.concatenate([[0], np.cumsum(lengths)])
  if not columns:
    return Tokens(np.zeros(0, np.int32), offsets)
  if len({column.dtype.kind for column in columns}) > 1:
    columns = [column.astype(np.str_) for column in columns]
  ids = np.concatenate(columns)
  items = tokens_of(
    ids,
    item_ids,
    lambda event: f'sequence {np.searchsorted(offsets, event, "right") - 1}',
  )
  _report_unknown(ids, items, offsets, len(item_ids) + 1)
  return Tokens(items, offsets)


def tokens_of(
  ids: np.ndarray, item_ids: np.ndarray, place: Callable[[int], str]
) -> np.ndarray:
  """Original item ids -> tokens.

  Args:
    ids: [num_events] int64 or str.
    item_ids: [num_items] int64 or str, the catalogue's, ascending.
    place: Number of an event -> where it stands, for messages.

  Returns:
    [num_events] int32 tokens; the mask token, `num_items + 1`, where an id is
    not in the catalogue.

  Raises:
    InputError: If the catalogue's ids are integers and one is no integer.
  """
  if item_ids.dtype.kind == 'U' and ids.dtype.kind != 'U':
    ids = ids.astype(np.str_)
  elif item_ids.dtype.kind != 'U' and ids.dtype.kind == 'U':
    ids = _as_integers(ids, item_ids, place)
  row = np.minimum(np.searchsorted(item_ids, ids), len(item_ids) - 1)
  known = item_ids[row] == ids
  return np.where(known, row + 1, len(item_ids) + 1).astype(np.int32)


def _report_unknown(
  ids: np.ndarray, items: np.ndarray, offsets: np.ndarray, mask_item: int
) -> None:
  unknown = items == mask_item
  if not unknown.any():
    return
  known = np.add.reduceat(~unknown, offsets[:-1])
  logging.warning(
    '%d of %d items are not in the catalogue, such as %s; they count as '
    'masked. %d of %d sequences have no other.',
    unknown.sum(),
    len(items),
    ids[unknown.argmax()],
    (known == 0).sum(),
    len(known),
  )


def _as_integers(
  ids: np.ndarray, item_ids: np.ndarray, place: Callable[[int], str]
) -> np.ndarray:
  distinct, inverse = np.unique(ids, return_inverse=True)
  # By the rule of the logs' reader: '007' is text.
  if not events.are_integers(pa.array(distinct)):
    number, text = next(
      (number, text)
      for number, text in enumerate(distinct.tolist())
      if not events.are_integers(pa.array([text]))
    )
    event = int(np.argmax(inverse == number))
    raise InputError(
      f'{place(event)}: the item id {text[:40]!r} is no integer, but the '
      f"catalogue's ids are, such as {item_ids[0]}; give the ids of the data "
      f'that the encoder was trained on.'
    )
  return distinct.astype(np.int64)[inverse]


def _as_array(number: int, sequence: Sequence) -> np.ndarray:
  """[length] int64 or str."""
  if isinstance(sequence, str | bytes) or not hasattr(sequence, '__len__'):
    raise InputError(
      f'sequence {number} is {sequence!r:.40}, not a list of item ids; give '
      f'one list a user, also for one user: [[1, 2, 3]].'
    )
  if len(sequence) == 0:
    raise InputError(
      f'sequence {number} is empty; leave it out, or give its items.'
    )
  # An array has one type; in a list NumPy would make 1.0 of 1 beside 2.5.
  if hasattr(sequence, 'dtype'):
    values = np.asarray(sequence)
  else:
    values = np.fromiter(sequence, dtype=object, count=len(sequence))
  if values.ndim == 1 and values.dtype.kind in 'iU':
    return values
  plain = [
    value.item() if isinstance(value, np.generic) else value
    for value in values.tolist()
  ]
  types = set(map(type, plain))
  try:
    if types <= {int}:
      return np.array(plain, np.int64)
  except OverflowError as error:
    raise InputError(
      f'sequence {number}: an item id does not fit into 64 bits; give the ids '
      f'of the data that the encoder was trained on.'
    ) from error
  if types <= {int, str}:
    return np.array([str(value) for value in plain], np.str_)
  value = next(value for value in plain if type(value) not in (int, str))
  if value is None or value != value:
    remedy = 'leave missing ones out'
  elif isinstance(value, float):
    remedy = (
      'convert them with astype(int); pandas makes floats of integers where '
      'a value is missing'
    )
  else:
    remedy = 'give one flat list a user'
  raise InputError(
    f'sequence {number}: the item id {value!r:.40} is a '
    f'{type(value).__name__}; item ids are integers or text; {remedy}.'
  )
