"""Augmentations of a sequence: pure functions, run on the device.

Each takes `(rng, row, ratio, vocabulary)` with a row of aligned arrays: `items`
[length] int32, the real tokens first and 0 after them, and the codes that go
with them (see `features`). It returns a row of the same form, never with more
tokens. Ratio 0 is the identity, padding stays padding, and no item is invented
except by `substitute` and `insert`. An item takes its codes along; one that is
put in has none, for there is no event of it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from bt4rec.features import Events


class Vocabulary(NamedTuple):
  """What may stand in a view besides the row's own items.

  Attributes:
    mask_item: The mask token.
    correlated: [vocabulary_size, count] int32, for each item those it occurs
      with, 0 where there are fewer; None without `substitute` and `insert`.
  """

  mask_item: int
  correlated: jax.Array | None = None


def share(rng: jax.Array, ratio: float, length: jax.Array) -> jax.Array:
  """Number of tokens, `ratio * length` in expectation.

  It is rounded up or down at random, so that short rows meet the ratio too.
  """
  share = jnp.floor(ratio * length + jax.random.uniform(rng))
  # In float32 the sum may round up to the next integer.
  return jnp.minimum(share.astype(jnp.int32), length)


def compact(row: Events, keep: jax.Array) -> Events:
  """The kept tokens in their order, 0 after them."""
  order = jnp.argsort(~keep, stable=True)
  return jax.tree.map(lambda x: jnp.where(keep[order], x[order], 0), row)


def _segment(rng: jax.Array, size: jax.Array, length: jax.Array) -> jax.Array:
  """Start of a uniformly placed segment of `size` of `length` tokens."""
  return jax.random.randint(rng, (), 0, length - size + 1)


def _replace(row: Events, chosen: jax.Array, token: jax.Array | int) -> Events:
  """Puts tokens in the place of the chosen ones, of whose events none is."""
  replaced = jax.tree.map(lambda x: jnp.where(chosen, 0, x), row)
  return {**replaced, 'items': jnp.where(chosen, token, row['items'])}


def mask(
  rng: jax.Array, row: Events, ratio: float, vocabulary: Vocabulary
) -> Events:
  """Replaces each token by the mask token with probability `ratio`."""
  items = row['items']
  chosen = jax.random.uniform(rng, items.shape) < ratio
  return _replace(row, chosen & (items > 0), vocabulary.mask_item)


def segment_mask(
  rng: jax.Array, row: Events, ratio: float, vocabulary: Vocabulary
) -> Events:
  """Masks one contiguous span of a share `ratio` of the tokens."""
  items = row['items']
  rng_size, rng_start = jax.random.split(rng)
  length = jnp.sum(items > 0)
  size = share(rng_size, ratio, length)
  start = _segment(rng_start, size, length)
  position = jnp.arange(items.shape[0])
  chosen = (position >= start) & (position < start + size)
  return _replace(row, chosen, vocabulary.mask_item)


def permute(
  rng: jax.Array, row: Events, ratio: float, vocabulary: Vocabulary
) -> Events:
  """Shuffles one contiguous span of a share `ratio` of the tokens."""
  del vocabulary
  items = row['items']
  rng_size, rng_start, rng_order = jax.random.split(rng, 3)
  length = jnp.sum(items > 0)
  size = share(rng_size, ratio, length)
  start = _segment(rng_start, size, length)
  position = jnp.arange(items.shape[0])
  chosen = (position >= start) & (position < start + size)
  # A stable sort by segment first: only ties within the span are shuffled.
  shuffled = jax.random.uniform(rng_order, items.shape)
  group = jnp.where(chosen, start, position)
  order = jnp.lexsort((jnp.where(chosen, shuffled, 0.0), group))
  return jax.tree.map(lambda x: x[order], row)


def _keep_slice(
  rng: jax.Array, row: Events, size: jax.Array, length: jax.Array
) -> Events:
  start = _segment(rng, size, length)
  position = jnp.arange(row['items'].shape[0])

  def move(x):
    moved = x.at[start + position].get(mode='fill', fill_value=0)
    return jnp.where(position < size, moved, 0)

  return jax.tree.map(move, row)


def crop(
  rng: jax.Array, row: Events, ratio: float, vocabulary: Vocabulary
) -> Events:
  """Keeps one contiguous span, removing a share `ratio` of the tokens."""
  del vocabulary
  rng_size, rng_start = jax.random.split(rng)
  length = jnp.sum(row['items'] > 0)
  size = length - share(rng_size, ratio, length)
  return _keep_slice(rng_start, row, size, length)


def random_slice(
  rng: jax.Array, row: Events, ratio: float, vocabulary: Vocabulary
) -> Events:
  """Keeps a contiguous slice of random length.

  The share removed is uniform between 0 and `ratio`. Two views made so are
  the two random slices of CoLES, Babaev et al. (2022),
  https://arxiv.org/abs/2002.08232.
  """
  del vocabulary
  rng_size, rng_start = jax.random.split(rng)
  length = jnp.sum(row['items'] > 0)
  most = jnp.round(ratio * length).astype(jnp.int32)
  size = length - jax.random.randint(rng_size, (), 0, most + 1)
  return _keep_slice(rng_start, row, size, length)


def _choose(rng: jax.Array, items: jax.Array, ratio: float) -> jax.Array:
  """[length] bool, a share `ratio` of the tokens, any ones."""
  rng_size, rng_rank = jax.random.split(rng)
  size = share(rng_size, ratio, jnp.sum(items > 0))
  score = jnp.where(items > 0, jax.random.uniform(rng_rank, items.shape), 2.0)
  # A random order of the tokens, then the padding.
  return jnp.argsort(score) < size


def _correlated(
  rng: jax.Array, items: jax.Array, vocabulary: Vocabulary
) -> jax.Array:
  """[length] int32, any of the items correlated with each; 0 is none."""
  if vocabulary.correlated is None:
    raise ValueError('`substitute` and `insert` need the correlated items.')
  choices = vocabulary.correlated[items]  # [length, count]
  pick = jax.random.uniform(rng, items.shape) * (choices > 0).sum(-1)
  pick = pick.astype(jnp.int32)[:, None]
  return jnp.take_along_axis(choices, pick, axis=1, mode='clip')[:, 0]


def substitute(
  rng: jax.Array, row: Events, ratio: float, vocabulary: Vocabulary
) -> Events:
  """Replaces a share `ratio` of the items by correlated ones.

  As in CoSeRec, Liu et al. (2021), https://arxiv.org/abs/2108.06479, which
  takes the most correlated item; here it is any of the table's.
  """
  items = row['items']
  rng_chosen, rng_item = jax.random.split(rng)
  other = _correlated(rng_item, items, vocabulary)
  chosen = _choose(rng_chosen, items, ratio) & (other > 0)
  return _replace(row, chosen, other)


def insert(
  rng: jax.Array, row: Events, ratio: float, vocabulary: Vocabulary
) -> Events:
  """Puts a correlated item before each of a share `ratio` of the items.

  As in CoSeRec, Liu et al. (2021), https://arxiv.org/abs/2108.06479. A view has
  only the room of its row, so as many of the oldest items are dropped.
  """
  items = row['items']
  rng_chosen, rng_item = jax.random.split(rng)
  other = _correlated(rng_item, items, vocabulary)
  other = jnp.where(_choose(rng_chosen, items, ratio), other, 0)
  put_in = _replace(row, jnp.ones_like(items, bool), other)
  longer = jax.tree.map(
    lambda x, y: jnp.stack([x, y], axis=1).reshape(-1), put_in, row
  )
  is_real = longer['items'] > 0
  # Counted from the newest, as many as there were.
  age = jnp.cumsum(is_real[::-1])[::-1]
  keep = is_real & (age <= jnp.sum(items > 0))
  return jax.tree.map(lambda x: x[: len(items)], compact(longer, keep))


# Name in the config -> augmentation.
AUGMENTATIONS = {
  'mask': mask,
  'segment_mask': segment_mask,
  'permute': permute,
  'crop': crop,
  'slice': random_slice,
  'substitute': substitute,
  'insert': insert,
}
