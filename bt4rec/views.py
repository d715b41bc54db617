"""Two views of each user's window: what they start from, and a recipe."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bt4rec import augment
from bt4rec.errors import InputError, choose
from bt4rec.features import Events

# Both views start from the window, or each from a window of its own.
_SAME = 'none'
_TWO_WINDOWS = 'two_windows'


def _stack(rows: Sequence[Events]) -> Events:
  return jax.tree.map(lambda *arrays: jnp.stack(arrays), *rows)


def _whole(rng: jax.Array, row: Events) -> Events:
  del rng
  return _stack([row, row])


def _halves(rng: jax.Array, row: Events, score: jax.Array) -> Events:
  """[2, length], the half of the tokens with the lowest scores and the rest.

  An odd token goes to either. A single one is in both.
  """
  items = row['items']
  length = jnp.sum(items > 0)
  size = augment.share(rng, 0.5, length)
  score = jnp.where(items > 0, score, jnp.inf)
  first = jnp.argsort(jnp.argsort(score)) < size
  both = length < 2
  return _stack(
    [
      augment.compact(row, half | both)
      for half in (first, ~first & (items > 0))
    ]
  )


def disjoint_halves(rng: jax.Array, row: Events) -> Events:
  """Deals the tokens to two halves at random, each in its order."""
  rng_size, rng_score = jax.random.split(rng)
  score = jax.random.uniform(rng_score, row['items'].shape)
  return _halves(rng_size, row, score)


def past_future(rng: jax.Array, row: Events) -> Events:
  """The older half and the newer half."""
  return _halves(rng, row, jnp.arange(row['items'].shape[0], dtype=jnp.float32))


# Name in the config -> what the two views of one window start from:
# `(rng, row)` gives arrays [2, length].
_SPLITS = {
  _SAME: _whole,
  'disjoint_halves': disjoint_halves,
  'past_future': past_future,
}


class Recipe(NamedTuple):
  """How two views are made.

  Attributes:
    steps: (name, ratio) of each augmentation, in the order of application.
    split: What the views start from: 'none' (the row), 'disjoint_halves',
      'past_future', or 'two_windows' of the user's events.
    draw_one: Whether each view is made by one of the steps, not by all.
  """

  steps: tuple[tuple[str, float], ...]
  split: str = _SAME
  draw_one: bool = False

  @property
  def is_identity(self) -> bool:
    """Whether both views are the row itself."""
    return self.split == _SAME and not any(ratio for _, ratio in self.steps)

  @property
  def needs_correlated(self) -> bool:
    """Whether correlated items are put into views."""
    return any(name in ('substitute', 'insert') for name, _ in self.steps)


def windows_per_user(split: str) -> int:
  """How many windows of a user's events the views start from.

  Raises:
    InputError: If there is no such split.
  """
  windows = dict.fromkeys(_SPLITS, 1) | {_TWO_WINDOWS: 2}
  return choose('augment.split', split, windows)


def make_recipe(
  order: Sequence[str],
  ratios: dict[str, float],
  split: str = _SAME,
  draw_one: bool = False,
) -> Recipe:
  """Returns the recipe, checked.

  Args:
    order: Names of the augmentations, in the order of application.
    ratios: Name -> ratio in [0, 1].
    split: What the two views start from.
    draw_one: Whether each view is made by one of the steps.

  Raises:
    InputError: If a name is unknown or without a ratio, a ratio is outside of
      [0, 1], or one is to be drawn of none.
  """
  windows_per_user(split)
  for name in order:
    choose('augmentation', name, augment.AUGMENTATIONS)
    if name not in ratios:
      raise InputError(
        f'augmentation {name!r} has no ratio; give it augment.ratios.{name} in '
        f'configs/base.py.'
      )
    if not 0 <= ratios[name] <= 1:
      raise InputError(
        f'augment.ratios.{name}={ratios[name]} must be between 0 and 1.'
      )
  if draw_one and not order:
    raise InputError(
      'augment.draw_one=True draws from augment.order, which is empty; name an '
      'augmentation, or set it to False.'
    )
  steps = tuple((name, float(ratios[name])) for name in order)
  return Recipe(steps, split, draw_one)


def apply_steps(
  rng: jax.Array,
  row: Events,
  steps: Sequence[tuple[str, float]],
  vocabulary: augment.Vocabulary,
) -> Events:
  """Applies the steps of a recipe to one row.

  A step that would leave no real item is not taken, so a view always shows at
  least one.

  Args:
    rng: Key.
    row: Arrays [length].
    steps: (name, ratio) in the order of application.
    vocabulary: What may stand in the view besides.

  Returns:
    Arrays [length].
  """
  for number, (name, ratio) in enumerate(steps):
    if not ratio:
      continue
    changed = augment.AUGMENTATIONS[name](
      jax.random.fold_in(rng, number), row, ratio, vocabulary
    )
    items = changed['items']
    has_item = jnp.any((items > 0) & (items != vocabulary.mask_item))
    row = jax.tree.map(
      lambda x, y, has_item=has_item: jnp.where(has_item, x, y), changed, row
    )
  return row


def apply_one_step(
  rng: jax.Array,
  row: Events,
  steps: Sequence[tuple[str, float]],
  vocabulary: augment.Vocabulary,
) -> Events:
  """As `apply_steps`, with one of the steps, each equally likely.

  The way of CL4SRec, Xie et al. (2022), https://arxiv.org/abs/2010.14395.
  """
  rng_which, rng_step = jax.random.split(rng)
  which = jax.random.randint(rng_which, (), 0, len(steps))
  made = [apply_steps(rng_step, row, (step,), vocabulary) for step in steps]
  return jax.tree.map(lambda x: x[which], _stack(made))


def two_views(
  rng: jax.Array,
  rows: Events,
  index: jax.Array,
  recipe: Recipe,
  vocabulary: augment.Vocabulary,
  other_rows: Events | None = None,
) -> Events:
  """Makes two independent views of each row.

  The keys depend on the row's number in the global batch, not on where the
  row lies, so the views do not depend on the number of devices.

  Args:
    rng: Key of the step.
    rows: Arrays [batch, length]: `items` and the codes that go with them.
    index: [batch] int32, number of each row in the global batch.
    recipe: How the views are made.
    vocabulary: What may stand in a view besides the row's items.
    other_rows: As `rows`, second windows of the same users, which
      'two_windows' starts from.

  Returns:
    Arrays [batch, 2, length].
  """
  if (recipe.split == _TWO_WINDOWS) != (other_rows is not None):
    raise ValueError(
      'a second window is needed by `two_windows`, and by no other.'
    )

  make_view = apply_one_step if recipe.draw_one else apply_steps

  def views_of_row(number, row, other):
    rng_row = jax.random.fold_in(rng, number)
    keys = jax.random.split(rng_row)
    if other is None:
      pair = _SPLITS[recipe.split](jax.random.fold_in(rng_row, 2), row)
    else:
      pair = _stack([row, other])
    return jax.vmap(
      lambda key, row: make_view(key, row, recipe.steps, vocabulary)
    )(keys, pair)

  return jax.vmap(views_of_row)(index, rows, other_rows)
