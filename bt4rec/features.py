"""Side features: what an encoder may be given of an event besides its item.

An event's features are small integers, *codes*, 0 where unknown, so that they
travel as arrays aligned with the items: `Events`. The categories are a function
of the item, so they need not travel.
"""

import functools
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from bt4rec.datasets import Catalogue, SequenceDataset
from bt4rec.errors import InputError, choose

# Aligned arrays: 'items' (tokens, int32), and the name of each event feature
# there is -> its codes (uint8). Flat, in windows or in rows alike.
Events = dict[str, Any]
# Before the names of what belongs to the second window of a user.
OTHER = 'other_'

_CATEGORY = 'category'
# Gaps from 2^30 seconds on, 34 years, are alike.
_LONGEST_GAP_BITS = 31
_BLOCK = 1 << 22


def gap_codes(seconds: np.ndarray, offsets: np.ndarray) -> np.ndarray:
  """Codes of the time since the event before, by the log of the gap.

  Args:
    seconds: [num_events] int64, not descending within a sequence; may be a
      memory map.
    offsets: [num_sequences + 1] int64, where each sequence starts.

  Returns:
    [num_events] uint8: 0 for the first event of a sequence; 1 for a gap of 0
    seconds; `2 + k` for one of `2^k` seconds and more, below `2^(k + 1)`.
  """
  codes = np.zeros(len(seconds), np.uint8)
  for first in range(1, len(seconds), _BLOCK):
    gap = np.diff(seconds[first - 1 : first + _BLOCK])
    # The exponent that frexp gives is the number of the gap's bits. From one
    # sequence to the next it may be negative; that is overwritten.
    bits = np.frexp(np.maximum(gap, 0).astype(np.float64))[1]
    codes[first : first + _BLOCK] = 1 + np.minimum(bits, _LONGEST_GAP_BITS)
  starts = offsets[:-1]
  codes[starts[starts < len(codes)]] = 0
  return codes


class EventFeature(NamedTuple):
  """What is known of an event besides its item.

  Attributes:
    column: Array of a `SequenceDataset` with the values.
    argument: What `Encoder.embed` calls them.
    num_codes: Number of codes.
    encode: Values [num_events] and offsets of the sequences -> codes.
    rule: What a code means, for whoever makes them elsewhere.
  """

  column: str
  argument: str
  num_codes: int
  encode: Callable[[np.ndarray, np.ndarray], np.ndarray]
  rule: str


# Name in the config -> the features that travel with the events.
EVENT_FEATURES = {
  'time_gap': EventFeature(
    column='timestamps',
    argument='times',
    num_codes=2 + _LONGEST_GAP_BITS,
    encode=gap_codes,
    rule=(
      '0: unknown, as for the first event. 1: no second since the event '
      'before. 2 + floor(log2(seconds since it)) otherwise, at most '
      f'{1 + _LONGEST_GAP_BITS}.'
    ),
  ),
}


def check(names: Iterable[str]) -> tuple[str, ...]:
  """Returns the names of features as a tuple.

  Raises:
    InputError: If one is unknown, or there twice.
  """
  names = tuple(names)
  if 'rating' in names:
    raise InputError(
      'encoder.features has rating, but datasets keep the items and times of '
      'events and not their ratings; leave it out.'
    )
  for name in names:
    choose('encoder.features', name, {_CATEGORY: None, **EVENT_FEATURES})
    if names.count(name) > 1:
      raise InputError(f'encoder.features={names} has {name!r} twice.')
  return names


def of_events(names: Iterable[str]) -> list[str]:
  """Those of the features that travel with the events."""
  return [name for name in names if name in EVENT_FEATURES]


def events_of(dataset: SequenceDataset, names: Iterable[str]) -> Events:
  """The events of a dataset with the features asked for.

  Computed once for a dataset: a byte an event and feature, in memory.

  Args:
    dataset: The dataset.
    names: Features of an encoder; the categories are left to it.

  Returns:
    Arrays [num_events].

  Raises:
    InputError: If the dataset lacks one.
  """
  made = dataset.derived
  for name in of_events(names):
    if name not in made:
      made[name] = _codes_in(dataset, name)
  return {
    'items': dataset.items,
    **{name: made[name] for name in of_events(names)},
  }


def _codes_in(dataset: SequenceDataset, name: str) -> np.ndarray:
  feature = EVENT_FEATURES[name]
  codes = feature.encode(getattr(dataset, feature.column), dataset.offsets)
  # What is the same for all events, where it is known, says nothing.
  if np.min(codes, initial=255, where=codes > 0) >= codes.max(initial=0):
    raise InputError(
      f'encoder.features has {name}, but the {feature.column} of '
      f'{dataset.name!r} give all events the same one; leave it out.'
    )
  return codes


def encode(
  names: Iterable[str], offsets: np.ndarray, given: dict[str, Any]
) -> dict[str, np.ndarray]:
  """Codes of sequences that a user gave.

  Args:
    names: Features of an encoder.
    offsets: [num_sequences + 1] int64, where each sequence starts.
    given: Argument (see `EventFeature`) -> a value for each event of each
      sequence, or None.

  Returns:
    Feature -> [num_events] codes, of those that are given.

  Raises:
    InputError: If something is given that no feature takes, or does not go
      with the sequences.
  """
  takes = {EVENT_FEATURES[name].argument: name for name in of_events(names)}
  codes = {}
  for argument, columns in given.items():
    name = takes.get(argument)
    if columns is None:
      if name:
        logging.warning(
          'the encoder has the feature %s, but no %s are given; it counts as '
          'unknown.',
          name,
          argument,
        )
    elif not name:
      raise InputError(
        f'{argument} are given, but the encoder has no feature that takes '
        f'them; its features: {", ".join(names) or "none"}. Leave them out.'
      )
    else:
      values = _flatten(argument, columns, np.diff(offsets))
      codes[name] = EVENT_FEATURES[name].encode(values, offsets)
  return codes


def _flatten(
  argument: str, columns: Sequence[Sequence], lengths: np.ndarray
) -> np.ndarray:
  """Values of each sequence -> [num_events]."""
  if len(columns) != len(lengths):
    raise InputError(
      f'{argument} has {len(columns)} sequences for the {len(lengths)} of '
      f'items; give one for each.'
    )
  read = _READERS[argument]
  arrays = []
  for number, (column, length) in enumerate(zip(columns, lengths, strict=True)):
    array = read(number, np.asarray(column))
    if array.shape != (length,):
      raise InputError(
        f'{argument} of sequence {number} are {array.shape[0]} for {length} '
        f'items; give one for each.'
      )
    arrays.append(array)
  return np.concatenate(arrays) if arrays else np.zeros(0, np.int64)


def _seconds(number: int, times: np.ndarray) -> np.ndarray:
  if times.dtype.kind == 'M':
    times = times.astype('datetime64[s]').astype(np.int64)
  if times.dtype.kind not in 'iu' or times.ndim != 1:
    raise InputError(
      f'times of sequence {number} must be integers, seconds, or datetime64.'
    )
  times = times.astype(np.int64)
  if (np.diff(times) < 0).any():
    raise InputError(
      f'times of sequence {number} descend; give the oldest event first.'
    )
  return times


# Argument -> number of a sequence and its values -> those to be encoded.
_READERS: dict[str, Callable[[int, np.ndarray], np.ndarray]] = {
  'times': _seconds,
}


def codes_of(batch: Events) -> dict[str, jax.Array]:
  """Name of each event feature in a batch -> its codes."""
  return {name: batch[name] for name in EVENT_FEATURES if name in batch}


def windows_of(batch: Events, prefix: str = '') -> Events:
  """The windows in a batch: items with their codes, or nothing.

  Args:
    batch: What a step gets.
    prefix: '', or `OTHER` for the second windows.
  """
  names = ('items', *EVENT_FEATURES)
  return {
    name: batch[f'{prefix}{name}']
    for name in names
    if f'{prefix}{name}' in batch
  }


class ItemCategories:
  """The categories of the items: a constant of an encoder, not trained.

  Hashable by its content, since `jit` takes modules as static arguments.

  Attributes:
    values: [vocabulary_size, most] int, the categories of each token counted
      from 1, then 0.
    num_categories: How many there are.
  """

  def __init__(self, catalogue: Catalogue):
    """Args: the items; raises InputError if none has a category."""
    self.num_categories = len(catalogue.category_names)
    if not len(catalogue.category_values):
      raise InputError(
        'encoder.features has category, but no item of the dataset has one; '
        'leave it out, or name where they stand (dataset.columns.category).'
      )
    counts = np.diff(catalogue.category_offsets)
    item = np.repeat(np.arange(len(counts)), counts)
    place = np.arange(len(item)) - catalogue.category_offsets[item]
    self.values = np.zeros(
      (catalogue.vocabulary_size, counts.max()),
      np.min_scalar_type(self.num_categories),
    )
    self.values[1 + item, place] = 1 + catalogue.category_values

  @functools.cached_property
  def _digest(self) -> bytes:
    digest = hashlib.sha256(repr(self.values.shape).encode())
    digest.update(self.values.tobytes())
    return digest.digest()

  def __hash__(self) -> int:
    return hash(self._digest)

  def __eq__(self, other: object) -> bool:
    return isinstance(other, ItemCategories) and self._digest == other._digest


class SideFeatures(nn.Module):
  """The sum of the embeddings of an event's features.

  A masked item shows nothing of its event, whatever masked it, nor of its
  categories; an item that is not in the catalogue counts as one.

  Attributes:
    names: The features.
    dim: Width of the embeddings.
    mask_item: The mask token, above all items.
    categories: Those of the items, if they are a feature.
  """

  names: Sequence[str]
  dim: int
  mask_item: int
  categories: ItemCategories | None = None

  @nn.compact
  def __call__(
    self, items: jax.Array, codes: Mapping[str, jax.Array]
  ) -> jax.Array:
    """Embeds what is known.

    Args:
      items: [...] int32 tokens.
      codes: Feature -> [...] codes; one that is missing is unknown.

    Returns:
      [..., dim] float32.
    """
    total = jnp.zeros((*items.shape, self.dim))
    is_shown = (items > 0) & (items < self.mask_item)
    for name in self.names:
      if name == _CATEGORY:
        total += self._of_categories(items)
      else:
        code = jnp.where(is_shown, codes.get(name, 0), 0)
        total += self._table(name, EVENT_FEATURES[name].num_codes)[code]
    return total

  def _table(self, name: str, size: int) -> jax.Array:
    return self.param(
      f'{name}_embedding', nn.initializers.normal(stddev=0.02), (size, self.dim)
    )

  def _of_categories(self, items: jax.Array) -> jax.Array:
    """The mean of an item's; row 0 of the table where there is none."""
    assert self.categories is not None
    table = self._table(_CATEGORY, 1 + self.categories.num_categories)
    values = (
      jnp.asarray(self.categories.values)
      .at[items]
      .get(mode='fill', fill_value=0)
    )  # [..., most]
    is_one = (values > 0)[..., None]
    count = is_one.sum(-2)
    total = jnp.where(is_one, table[values], 0.0).sum(-2)
    return jnp.where(count > 0, total / jnp.maximum(count, 1), table[0])
