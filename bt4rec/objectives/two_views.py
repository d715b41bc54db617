"""What Barlow Twins, contrast and VICReg share: two views, one projector."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from bt4rec import augment, features, views
from bt4rec.projector import Projector


class TwoViews(nn.Module):
  """Two augmented views of each window, one encoder, a projector, a loss.

  A kind of it gives `pair_loss`.

  Attributes:
    mask_item: The mask token.
    recipe: How the views are made.
    projector: Output width of each projector layer; none compares embeddings.
    axis_name: Mapped axis the batch is split over, None under `jit`.
    dtype: Type of the matrix products.
    equal_length: See `Projector`.
  """

  mask_item: int
  recipe: views.Recipe
  projector: Sequence[int]
  axis_name: str | None = None
  dtype: jnp.dtype = jnp.float32
  equal_length: bool = False

  def pair_loss(
    self, z_a: jax.Array, z_b: jax.Array
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """[batch, dim] twice -> the loss over the global batch, and its terms."""
    raise NotImplementedError

  @nn.compact
  def __call__(
    self, encoder: nn.Module, batch: dict, rng: jax.Array, train: bool
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """`batch` has `items` [batch, length], `index` [batch] and `layout`.

    Where the recipe asks for them also `other_items`, as `items`, and the
    table `correlated`; with event features their codes, as `items`.
    """
    h = self.embed_views(encoder, batch, rng, train)
    z = self.make_projector()(h, train)
    z = z.reshape(-1, 2, z.shape[-1])
    return self.pair_loss(z[:, 0], z[:, 1])

  def embed_views(
    self, encoder: nn.Module, batch: dict, rng: jax.Array, train: bool
  ) -> jax.Array:
    """[batch * 2, dim], the two embeddings of each user side by side."""
    rows = views.two_views(
      rng,
      features.windows_of(batch),
      batch['index'],
      self.recipe,
      augment.Vocabulary(self.mask_item, batch.get('correlated')),
      features.windows_of(batch, features.OTHER) or None,
    )
    # One pass over both views; they stay side by side, so that a batch split
    # over devices needs no exchange.
    rows = jax.tree.map(lambda x: x.reshape(-1, x.shape[-1]), rows)
    layout = batch['layout']
    return encoder(
      rows['items'],  # [batch * 2, length]
      train,
      layout.repeat(2) if layout else None,
      features.codes_of(rows),
    )

  def make_projector(self) -> Projector:
    """The projector, to be made once."""
    return Projector(
      self.projector,
      self.axis_name,
      self.dtype,
      self.equal_length,
      name='projector',
    )


def require_pair(z_a: jax.Array, z_b: jax.Array) -> None:
  """Raises ValueError if the two views differ in shape."""
  if z_a.shape != z_b.shape or z_a.ndim != 2:
    raise ValueError(
      f'the views must be two [batch, dim] arrays of one shape, got '
      f'{z_a.shape} and {z_b.shape}.'
    )
