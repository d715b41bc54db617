"""VICReg: invariance, variance and covariance of two views, no negatives."""

import jax
import jax.numpy as jnp
from jax import lax

from bt4rec.objectives import float32
from bt4rec.objectives.two_views import TwoViews, require_pair


def vicreg_loss(
  z_a: jax.Array,
  z_b: jax.Array,
  *,
  invariance_weight: float,
  variance_weight: float,
  covariance_weight: float,
  axis_name: str | None = None,
  epsilon: float = 1e-4,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """VICReg loss of two views of one batch of users.

  Eq. (6) of Bardes et al. (2022), arXiv 2105.04906, with the scales of the
  authors' code, which its weights 25, 25 and 1 belong to: the invariance of eq.
  (5) is divided by `dim` too, and the variance terms of the two views, eq. (1),
  are averaged; the covariance terms, eq. (4), are summed. All are those of the
  global batch.

  Args:
    z_a: [batch, dim] float, projections of the first view.
    z_b: [batch, dim] float, projections of the second view; row `i` of both
      belongs to the same user.
    invariance_weight: lambda in the paper, at least 0.
    variance_weight: mu, at least 0.
    covariance_weight: nu, at least 0.
    axis_name: Mapped axis the batch is split over inside `jax.pmap`; None
      where `z_a` holds the global batch, as under `jax.jit`.
    epsilon: Added to the variance.

  Returns:
    The scalar loss, and scalars: its unweighted terms `invariance`, `variance`
    and `covariance`, and `std`, the mean standard deviation of a dimension.

  Raises:
    ValueError: If the two views differ in shape.
  """
  require_pair(z_a, z_b)
  batch, dim = z_a.shape
  if axis_name:
    batch *= lax.axis_size(axis_name)
  unbiased = batch / max(batch - 1, 1)

  def mean(x):
    return lax.pmean(x, axis_name) if axis_name else x

  def terms_of(z):
    centered = z - mean(z.mean(0, keepdims=True))
    products = float32.product(centered.T, centered)  # [dim, dim]
    covariance = unbiased * mean(products / len(z))
    variance = jnp.diagonal(covariance)
    std = jnp.sqrt(variance + epsilon)
    # Not the difference of two sums, which rounding can make negative.
    redundant = ((covariance - jnp.diag(variance)) ** 2).sum() / dim
    return jax.nn.relu(1.0 - std).mean(), redundant, std.mean()

  z_a, z_b = z_a.astype(jnp.float32), z_b.astype(jnp.float32)
  of_a, of_b = terms_of(z_a), terms_of(z_b)
  terms = {
    'invariance': mean(((z_a - z_b) ** 2).mean()),
    'variance': (of_a[0] + of_b[0]) / 2,
    'covariance': of_a[1] + of_b[1],
    'std': (of_a[2] + of_b[2]) / 2,
  }
  loss = (
    invariance_weight * terms['invariance']
    + variance_weight * terms['variance']
    + covariance_weight * terms['covariance']
  )
  return loss, terms


class VICReg(TwoViews, kw_only=True):
  """Two augmented views, an expander, `vicreg_loss`.

  Attributes:
    invariance_weight: lambda in the paper.
    variance_weight: mu.
    covariance_weight: nu.
  """

  invariance_weight: float
  variance_weight: float
  covariance_weight: float

  def pair_loss(
    self, z_a: jax.Array, z_b: jax.Array
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """See `TwoViews`."""
    return vicreg_loss(
      z_a,
      z_b,
      invariance_weight=self.invariance_weight,
      variance_weight=self.variance_weight,
      covariance_weight=self.covariance_weight,
      axis_name=self.axis_name,
    )
