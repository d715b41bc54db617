"""Contexts and the items that follow them, cut out of windows."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from bt4rec.features import codes_of


def draw_cuts(
  rng: jax.Array,
  items: jax.Array,
  index: jax.Array,
  min_context: float,
  count: int = 1,
) -> jax.Array:
  """Draws sizes of contexts, each independently of the others.

  Args:
    rng: Key of the step.
    items: [batch, length] int32, windows of two items and more.
    index: [batch] int32, number of each row in the global batch.
    min_context: Smallest context, as a share of the longest possible one; 1
      always predicts the window's last item.
    count: Contexts of a window.

  Returns:
    [batch, count] int32; the item that follows is at this position.
  """
  keys = jax.vmap(lambda number: jax.random.fold_in(rng, number))(index)
  longest = (items > 0).sum(-1) - 1
  shortest = jnp.maximum(jnp.ceil(min_context * longest).astype(jnp.int32), 1)
  return jax.vmap(
    lambda key, low, high: jax.random.randint(key, (count,), low, high)
  )(keys, shortest, longest + 1)


def embed_contexts(
  encoder: nn.Module,
  batch: dict,
  rng: jax.Array,
  train: bool,
  *,
  min_context: float,
  count: int = 1,
  horizon: int = 1,
) -> tuple[jax.Array, jax.Array]:
  """Embeds contexts of each window.

  One is encoded as it will be where it is used. Several are read off one pass
  over the window, which takes a causal encoder; see `prefixes` of it.

  Args:
    encoder: The bound encoder.
    batch: `items` [batch, length], `index` [batch], `layout`, and codes.
    rng: Key of the step.
    train: Whether dropout is on.
    min_context: See `draw_cuts`.
    count: Contexts of a window.
    horizon: How many of the items after each context are wanted.

  Returns:
    [batch * count, dim] float32 embeddings, those of a window side by side, and
    [batch * count, horizon] int32, the items that follow, 0 past the window.
  """
  items = batch['items']
  cuts = draw_cuts(rng, items, batch['index'], min_context, count)
  following = cuts[..., None] + jnp.arange(horizon)[None, None]
  target = jnp.take_along_axis(
    items,
    following.reshape(len(items), -1),
    axis=1,
    mode='fill',
    fill_value=0,
  ).reshape(-1, horizon)
  # Of several the longest possible one holds all.
  end = cuts if count == 1 else (items > 0).sum(-1, keepdims=True) - 1
  position = jnp.arange(items.shape[1])[None]
  context = jnp.where(position < end, items, 0)
  layout, codes = batch['layout'], codes_of(batch)
  if count == 1:
    return encoder(context, train, layout, codes), target
  h = encoder.prefixes(context, cuts, train, layout, codes)
  return h.reshape(-1, h.shape[-1]), target
