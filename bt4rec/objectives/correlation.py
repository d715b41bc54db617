"""The cross-correlation of two views, and what can be asked of it."""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from bt4rec.errors import choose
from bt4rec.objectives import float32
from bt4rec.objectives.two_views import require_pair


def global_mean(x: jax.Array, axis_name: str | None) -> jax.Array:
  """Mean over the devices that a batch is split over inside `jax.pmap`."""
  return lax.pmean(x, axis_name) if axis_name else x


def standardize(
  z: jax.Array, axis_name: str | None = None, epsilon: float = 1e-5
) -> jax.Array:
  """[batch, dim] -> float32 of mean 0 and variance 1 over the global batch."""
  z = z.astype(jnp.float32)
  centered = z - global_mean(z.mean(0, keepdims=True), axis_name)
  # Two passes: E[z^2] - E[z]^2 would cancel.
  variance = global_mean((centered**2).mean(0, keepdims=True), axis_name)
  return centered * lax.rsqrt(variance + epsilon)


def cross_correlation(
  z_a: jax.Array,
  z_b: jax.Array,
  *,
  axis_name: str | None = None,
  epsilon: float = 1e-5,
) -> jax.Array:
  """Correlation of each feature of one view with each of the other.

  Eq. (2) of Zbontar et al. (2021), https://arxiv.org/abs/2103.03230, features
  centred and standardised over the global batch.

  Args:
    z_a: [batch, dim] float, projections of the first view.
    z_b: [batch, dim] float, projections of the second view.
    axis_name: Mapped axis the batch is split over inside `jax.pmap`; None
      where `z_a` holds the global batch, as under `jax.jit`.
    epsilon: Added to the variance; keeps a constant feature finite.

  Returns:
    [dim, dim] float32.

  Raises:
    ValueError: If the two views differ in shape.
  """
  require_pair(z_a, z_b)
  z_a, z_b = (standardize(z, axis_name, epsilon) for z in (z_a, z_b))
  return global_mean(float32.product(z_a.T, z_b) / len(z_a), axis_name)


# Scaling -> factors of the diagonal and the off-diagonal term.
_SCALINGS: dict[str, Callable[[int], tuple[float, float]]] = {
  'none': lambda dim: (1.0, 1.0),
  'off_diagonal': lambda dim: (1.0, 1.0 / dim),
  'both': lambda dim: (1.0 / dim, 1.0 / dim),
}


def scales(scaling: str, dim: int) -> tuple[float, float]:
  """Factors of the diagonal and the off-diagonal term.

  The diagonal has `dim` entries and the rest `dim * (dim - 1)`, so one lambda
  weighs the second more the wider the projector is. 'off_diagonal' divides
  that term by `dim`: with a lambda of 1 it is the lambda of 1 / dim of Tsai et
  al. (2021), https://arxiv.org/abs/2104.13712. 'both' divides both, as BT-SR,
  Razvorotnev et al. (2025), https://arxiv.org/abs/2510.26407; their ratio is
  that of 'none'.

  Args:
    scaling: 'none', 'off_diagonal' or 'both'.
    dim: Width of the projections.

  Raises:
    InputError: If there is no such scaling.
  """
  return choose('barlow_twins.scaling', scaling, _SCALINGS)(dim)


def correlation_loss(
  c: jax.Array, *, lambd: float, scaling: str = 'none'
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Loss of a cross-correlation matrix, see `barlow_twins_loss`.

  Args:
    c: [dim, dim] float32.
    lambd: Weight of the off-diagonal term.
    scaling: See `scales`.
  """
  dim = len(c)
  on, off = scales(scaling, dim)
  diagonal = jnp.diagonal(c)
  invariance = jnp.sum((1.0 - diagonal) ** 2)
  # Not the difference of two sums, which rounding can make negative.
  redundancy = jnp.sum((c - jnp.diag(diagonal)) ** 2)
  terms = {
    'invariance': invariance,
    'redundancy': redundancy,
    'invariance_per_dim': invariance / dim,
    'redundancy_per_dim': redundancy / max(dim * (dim - 1), 1),
    'diagonal': diagonal.mean(),
    'off_diagonal_rms': jnp.sqrt(redundancy / max(dim * (dim - 1), 1)),
  }
  return on * invariance + lambd * off * redundancy, terms


def moving_average(
  c: jax.Array, average: jax.Array, weight: jax.Array, momentum: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Replaces a batch's correlation by its moving average over the steps.

  A small batch's correlation is noisy: of independent features it is
  `1 / sqrt(batch)` in size, not 0. TiCo, Zhu et al. (2022),
  https://arxiv.org/abs/2206.10698, averages its covariance over the steps so.
  The value is the average's, corrected for its start at 0 as in Adam. The
  gradient goes to the batch's own correlation alone, with weight 1: the past
  decides which entries are pushed how far, the batch is what is pushed.
  That the weight is not `1 - momentum` keeps the learning rate, and is ours.

  Args:
    c: [dim, dim] float32, the batch's.
    average: [dim, dim] float32, from the step before, 0 at first.
    weight: [] float32, what the weights in it sum to, 0 at first.
    momentum: Weight of the past, in [0, 1).

  Returns:
    The correlation to be used, and `average` and `weight` with this batch.
  """
  average = momentum * average + (1 - momentum) * lax.stop_gradient(c)
  weight = momentum * weight + (1 - momentum)
  return c + lax.stop_gradient(average / weight - c), average, weight


class CorrelationLoss(nn.Module):
  """`barlow_twins_loss`, its correlation a moving average in training.

  The average is kept with the batch statistics, so it is checkpointed; it is
  the global batch's, so it is the same on every device.

  Attributes:
    lambd: Weight of the off-diagonal term.
    scaling: See `scales`.
    momentum: See `moving_average`; 0 is the batch's correlation alone.
    axis_name: Mapped axis the batch is split over, None under `jit`.
  """

  lambd: float
  scaling: str = 'none'
  momentum: float = 0.0
  axis_name: str | None = None

  @nn.compact
  def __call__(
    self, z_a: jax.Array, z_b: jax.Array, train: bool
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Two [batch, dim] -> the scalar loss, and scalars."""
    c = cross_correlation(z_a, z_b, axis_name=self.axis_name)
    if self.momentum:
      average = self.variable('batch_stats', 'average', jnp.zeros, c.shape)
      weight = self.variable('batch_stats', 'weight', jnp.zeros, ())
      if train:
        c, average.value, weight.value = moving_average(
          c, average.value, weight.value, self.momentum
        )
    return correlation_loss(c, lambd=self.lambd, scaling=self.scaling)


class Mixed(NamedTuple):
  """Users mixed with others.

  Attributes:
    h: [batch, dim] float32, mixed embeddings.
    share: [] float32, share of the first view's users.
    other: [batch, projection dim] float32, projections of the users mixed in.
  """

  h: jax.Array
  share: jax.Array
  other: jax.Array


def mix(
  rng: jax.Array,
  h_a: jax.Array,
  h_b: jax.Array,
  z_b: jax.Array,
  axis_name: str | None = None,
) -> Mixed:
  """Mixes each user's first view with another user's second view.

  The share is uniform in [0, 1], one a batch, and the other user is any of the
  global batch, each once.

  Args:
    rng: Key of the step, the same on every device.
    h_a: [batch, dim] float, embeddings of the first view.
    h_b: [batch, dim] float, embeddings of the second view.
    z_b: [batch, projection dim] float, projections of the second view.
    axis_name: Mapped axis the batch is split over inside `jax.pmap`.
  """
  rng_share, rng_order = jax.random.split(rng)
  share = jax.random.uniform(rng_share)
  first: jax.Array | int = 0
  everything = (h_b, z_b)
  if axis_name:
    first = lax.axis_index(axis_name) * len(h_b)
    everything = jax.tree.map(
      lambda x: lax.all_gather(x, axis_name, tiled=True), everything
    )
  order = jax.random.permutation(rng_order, len(everything[0]))
  order = lax.dynamic_slice_in_dim(order, first, len(h_b))
  h_other, z_other = (x[order] for x in everything)
  return Mixed(share * h_a + (1 - share) * h_other, share, z_other)


def mixed_loss(
  z_a: jax.Array,
  z_b: jax.Array,
  z_mixed: jax.Array,
  mixed: Mixed,
  axis_name: str | None = None,
) -> jax.Array:
  """Loss of mixed samples: a mixture's projection is that of the projections.

  The regulariser of Mixed Barlow Twins, Bandara et al. (2023),
  https://arxiv.org/abs/2312.02151: with standardised projections, `m` of the
  mixture and `a`, `b` of the views, and `o` of the users mixed in, the
  correlations of `m` with `a` and with `b` are to be those of
  `share * a + (1 - share) * o`. The squared differences are summed.

  Args:
    z_a: [batch, dim] float, projections of the first view.
    z_b: [batch, dim] float, projections of the second view.
    z_mixed: [batch, dim] float, projections of `mixed.h`.
    mixed: What was mixed.
    axis_name: Mapped axis the batch is split over inside `jax.pmap`.

  Returns:
    [] float32, without weight.
  """
  a, b, m, o = (
    standardize(z, axis_name) for z in (z_a, z_b, z_mixed, mixed.other)
  )
  # Correlation is linear in the mixture, so one product gives the difference.
  residual = m - (mixed.share * a + (1 - mixed.share) * o)
  differences = jnp.stack(
    [
      global_mean(float32.product(residual.T, z) / len(z), axis_name)
      for z in (a, b)
    ]
  )
  return jnp.sum(differences**2)
