"""What Barlow Twins, contrast and VICReg share: two views, one projector."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from bt4rec import augment
from bt4rec.encoders import Projector


class TwoViews(nn.Module):
  """Two augmented views of each window, one encoder, a projector, a loss.

  A kind of it gives `pair_loss`.

  Attributes:
    mask_item: The mask token.
    recipe: Augmentations as (name, ratio).
    draw_one: Whether each view is made by one of them, not by all.
    projector: Output width of each projector layer; none compares embeddings.
    axis_name: Mapped axis the batch is split over, None under `jit`.
    dtype: Type of the matrix products.
  """

  mask_item: int
  recipe: augment.Recipe
  draw_one: bool
  projector: Sequence[int]
  axis_name: str | None = None
  dtype: jnp.dtype = jnp.float32

  def pair_loss(
    self, z_a: jax.Array, z_b: jax.Array
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """[batch, dim] twice -> the loss over the global batch, and its terms."""
    raise NotImplementedError

  @nn.compact
  def __call__(
    self, encoder: nn.Module, batch: dict, rng: jax.Array, train: bool
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """`batch` has `items` [batch, length], `index` [batch] and `layout`."""
    views = augment.two_views(
      rng,
      batch['items'],
      batch['index'],
      self.recipe,
      self.mask_item,
      self.draw_one,
    )
    # One pass over both views; they stay side by side, so that a batch split
    # over devices needs no exchange.
    rows = views.reshape(-1, views.shape[-1])  # [batch * 2, length]
    layout = batch['layout']
    h = encoder(rows, train, layout.repeat(2) if layout else None)
    z = Projector(self.projector, self.axis_name, self.dtype, name='projector')(
      h, train
    )
    z = z.reshape(-1, 2, z.shape[-1])
    return self.pair_loss(z[:, 0], z[:, 1])


def require_pair(z_a: jax.Array, z_b: jax.Array) -> None:
  """Raises ValueError if the two views differ in shape."""
  if z_a.shape != z_b.shape or z_a.ndim != 2:
    raise ValueError(
      f'the views must be two [batch, dim] arrays of one shape, got '
      f'{z_a.shape} and {z_b.shape}.'
    )
