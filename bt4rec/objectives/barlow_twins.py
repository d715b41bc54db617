"""Barlow Twins: redundancy reduction between two views, no negatives."""

import jax
import jax.numpy as jnp
from jax import lax

from bt4rec.objectives.two_views import TwoViews, require_pair


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
  require_pair(z_a, z_b)

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


class BarlowTwins(TwoViews, kw_only=True):
  """Two augmented views, one encoder, a projector, `barlow_twins_loss`.

  Attributes:
    lambd: Weight of the off-diagonal term.
  """

  lambd: float

  def pair_loss(
    self, z_a: jax.Array, z_b: jax.Array
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """See `TwoViews`."""
    return barlow_twins_loss(
      z_a, z_b, lambd=self.lambd, axis_name=self.axis_name
    )
