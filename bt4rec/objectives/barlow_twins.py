"""Barlow Twins: redundancy reduction between two views, no negatives."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from bt4rec import augment
from bt4rec.encoders import Projector


def barlow_twins_loss(
  z_a: jax.Array,
  z_b: jax.Array,
  *,
  lambd: float,
  axis_name: str | None = None,
  epsilon: float = 1e-5,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Barlow Twins loss of two views of one batch of users.

  Pulls the cross-correlation matrix `c` of the two views towards the identity:
  `sum_i (1 - c_ii)^2 + lambd * sum_{i != j} c_ij^2`, eq. (1) of Zbontar et al.
  (2021), https://arxiv.org/abs/2103.03230. Features are standardised over the
  global batch; the mean of the losses of its parts would be another number.

  Args:
    z_a: [batch, dim] float, projections of the first view.
    z_b: [batch, dim] float, projections of the second view; row `i` of both
      belongs to the same user.
    lambd: Weight of the off-diagonal term, at least 0.
    axis_name: Mapped axis the batch is split over inside `jax.pmap`; None
      where `z_a` holds the global batch, as under `jax.jit`.
    epsilon: Added to the variance; keeps a constant feature finite.

  Returns:
    The scalar loss, and scalars: its unweighted terms `invariance` and
    `redundancy`, both also `_per_dim` (divided by the number of entries they
    sum over: `dim` and `dim * (dim - 1)`), so that runs of different widths
    can be compared; the mean of the diagonal, `diagonal`; and the root mean
    square of the other entries, `off_diagonal_rms`.

  Raises:
    ValueError: If the two views differ in shape.
  """
  if z_a.shape != z_b.shape or z_a.ndim != 2:
    raise ValueError(
      f'the views must be two [batch, dim] arrays of one shape, got '
      f'{z_a.shape} and {z_b.shape}.'
    )

  def mean(x):
    return lax.pmean(x, axis_name) if axis_name else x

  def standardize(z):
    z = z.astype(jnp.float32)
    centered = z - mean(z.mean(0, keepdims=True))
    # Two passes: E[z^2] - E[z]^2 would cancel.
    variance = mean((centered**2).mean(0, keepdims=True))
    return centered * lax.rsqrt(variance + epsilon)

  c = mean(standardize(z_a).T @ standardize(z_b) / len(z_a))  # [dim, dim]
  diagonal = jnp.diagonal(c)
  invariance = jnp.sum((1.0 - diagonal) ** 2)
  # Not the difference of two sums, which rounding can make negative.
  redundancy = jnp.sum((c - jnp.diag(diagonal)) ** 2)
  dim = z_a.shape[1]
  terms = {
    'invariance': invariance,
    'redundancy': redundancy,
    'invariance_per_dim': invariance / dim,
    'redundancy_per_dim': redundancy / max(dim * (dim - 1), 1),
    'diagonal': diagonal.mean(),
    'off_diagonal_rms': jnp.sqrt(redundancy / max(dim * (dim - 1), 1)),
  }
  return invariance + lambd * redundancy, terms


class BarlowTwins(nn.Module):
  """Two augmented views, one encoder, a projector, `barlow_twins_loss`.

  Attributes:
    mask_item: The mask token.
    recipe: Augmentations as (name, ratio).
    lambd: Weight of the off-diagonal term.
    projector: Output width of each projector layer.
    axis_name: Mapped axis the batch is split over, None under `jit`.
    dtype: Type of the matrix products.
  """

  mask_item: int
  recipe: augment.Recipe
  lambd: float
  projector: Sequence[int]
  axis_name: str | None = None
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self, encoder: nn.Module, batch: dict, rng: jax.Array, train: bool
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """`batch` has `items` [batch, length], `index` [batch] and `layout`."""
    views = augment.two_views(
      rng, batch['items'], batch['index'], self.recipe, self.mask_item
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
    return barlow_twins_loss(
      z[:, 0], z[:, 1], lambd=self.lambd, axis_name=self.axis_name
    )
