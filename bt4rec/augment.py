"""Augmentations of a sequence: pure functions, run on the device.

Each takes `(rng, items, ratio, mask_item)` with `items` [length] int32, the
real tokens first and 0 after them, and returns a row of the same form. Ratio 0
is the identity, no item is invented, and padding stays padding.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from bt4rec.errors import InputError, choose


def _share(rng: jax.Array, ratio: float, length: jax.Array) -> jax.Array:
  """Number of tokens, `ratio * length` in expectation.

  It is rounded up or down at random, so that short rows meet the ratio too.
  """
  share = jnp.floor(ratio * length + jax.random.uniform(rng))
  # In float32 the sum may round up to the next integer.
  return jnp.minimum(share.astype(jnp.int32), length)


def _segment(rng: jax.Array, size: jax.Array, length: jax.Array) -> jax.Array:
  """Start of a uniformly placed segment of `size` of `length` tokens."""
  return jax.random.randint(rng, (), 0, length - size + 1)


def mask(
  rng: jax.Array, items: jax.Array, ratio: float, mask_item: int
) -> jax.Array:
  """Replaces each token by the mask token with probability `ratio`."""
  chosen = jax.random.uniform(rng, items.shape) < ratio
  return jnp.where(chosen & (items > 0), mask_item, items)


def segment_mask(
  rng: jax.Array, items: jax.Array, ratio: float, mask_item: int
) -> jax.Array:
  """Masks one contiguous span of a share `ratio` of the tokens."""
  rng_size, rng_start = jax.random.split(rng)
  length = jnp.sum(items > 0)
  size = _share(rng_size, ratio, length)
  start = _segment(rng_start, size, length)
  position = jnp.arange(items.shape[0])
  chosen = (position >= start) & (position < start + size)
  return jnp.where(chosen, mask_item, items)


def permute(
  rng: jax.Array, items: jax.Array, ratio: float, mask_item: int
) -> jax.Array:
  """Shuffles one contiguous span of a share `ratio` of the tokens."""
  del mask_item
  rng_size, rng_start, rng_order = jax.random.split(rng, 3)
  length = jnp.sum(items > 0)
  size = _share(rng_size, ratio, length)
  start = _segment(rng_start, size, length)
  position = jnp.arange(items.shape[0])
  chosen = (position >= start) & (position < start + size)
  # A stable sort by segment first: only ties within the span are shuffled.
  shuffled = jax.random.uniform(rng_order, items.shape)
  group = jnp.where(chosen, start, position)
  order = jnp.lexsort((jnp.where(chosen, shuffled, 0.0), group))
  return items[order]


def _keep_slice(
  rng: jax.Array, items: jax.Array, size: jax.Array, length: jax.Array
) -> jax.Array:
  start = _segment(rng, size, length)
  position = jnp.arange(items.shape[0])
  moved = items.at[start + position].get(mode='fill', fill_value=0)
  return jnp.where(position < size, moved, 0)


def crop(
  rng: jax.Array, items: jax.Array, ratio: float, mask_item: int
) -> jax.Array:
  """Keeps one contiguous span, removing a share `ratio` of the tokens."""
  del mask_item
  rng_size, rng_start = jax.random.split(rng)
  length = jnp.sum(items > 0)
  size = length - _share(rng_size, ratio, length)
  return _keep_slice(rng_start, items, size, length)


def random_slice(
  rng: jax.Array, items: jax.Array, ratio: float, mask_item: int
) -> jax.Array:
  """Keeps a contiguous slice of random length.

  The share removed is uniform between 0 and `ratio`. Two views made so are
  the two random slices of CoLES, Babaev et al. (2022),
  https://arxiv.org/abs/2002.08232.
  """
  del mask_item
  rng_size, rng_start = jax.random.split(rng)
  length = jnp.sum(items > 0)
  most = jnp.round(ratio * length).astype(jnp.int32)
  size = length - jax.random.randint(rng_size, (), 0, most + 1)
  return _keep_slice(rng_start, items, size, length)


# Name in the config -> augmentation.
_AUGMENTATIONS = {
  'mask': mask,
  'segment_mask': segment_mask,
  'permute': permute,
  'crop': crop,
  'slice': random_slice,
}

# (name, ratio) of each augmentation, in the order of application.
Recipe = Sequence[tuple[str, float]]


def make_recipe(order: Sequence[str], ratios: dict[str, float]) -> Recipe:
  """Returns the recipe, checked.

  Args:
    order: Names of the augmentations, in the order of application.
    ratios: Name -> ratio in [0, 1].

  Raises:
    InputError: If a name is unknown or a ratio outside of [0, 1].
  """
  for name in order:
    choose('augmentation', name, _AUGMENTATIONS)
    if not 0 <= ratios[name] <= 1:
      raise InputError(
        f'augment.ratios.{name}={ratios[name]} must be between 0 and 1.'
      )
  return tuple((name, float(ratios[name])) for name in order)


def augment(
  rng: jax.Array, items: jax.Array, recipe: Recipe, mask_item: int
) -> jax.Array:
  """Applies a recipe to one row.

  A step that would leave no real item is not taken, so a view always shows at
  least one.

  Args:
    rng: Key.
    items: [length] int32.
    recipe: (name, ratio) in the order of application.
    mask_item: The mask token.

  Returns:
    [length] int32.
  """
  for number, (name, ratio) in enumerate(recipe):
    if not ratio:
      continue
    changed = _AUGMENTATIONS[name](
      jax.random.fold_in(rng, number), items, ratio, mask_item
    )
    has_item = jnp.any((changed > 0) & (changed != mask_item))
    items = jnp.where(has_item, changed, items)
  return items


def augment_by_one(
  rng: jax.Array, items: jax.Array, recipe: Recipe, mask_item: int
) -> jax.Array:
  """As `augment`, with one step of the recipe, each equally likely.

  The way of CL4SRec, Xie et al. (2022), https://arxiv.org/abs/2010.14395.
  """
  rng_which, rng_step = jax.random.split(rng)
  which = jax.random.randint(rng_which, (), 0, len(recipe))
  views = [augment(rng_step, items, (step,), mask_item) for step in recipe]
  return jnp.stack(views)[which]


def two_views(
  rng: jax.Array,
  items: jax.Array,
  index: jax.Array,
  recipe: Recipe,
  mask_item: int,
  draw_one: bool = False,
) -> jax.Array:
  """Makes two independent views of each row.

  The keys depend on the row's number in the global batch, not on where the
  row lies, so the views do not depend on the number of devices.

  Args:
    rng: Key of the step.
    items: [batch, length] int32.
    index: [batch] int32, number of each row in the global batch.
    recipe: (name, ratio) in the order of application.
    mask_item: The mask token.
    draw_one: Whether each view is made by one step of the recipe, not by all.

  Returns:
    [batch, 2, length] int32.
  """
  make_view = augment_by_one if draw_one else augment

  def views_of_row(number, row):
    keys = jax.random.split(jax.random.fold_in(rng, number))
    return jax.vmap(lambda key: make_view(key, row, recipe, mask_item))(keys)

  return jax.vmap(views_of_row)(index, items)
