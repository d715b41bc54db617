"""Barlow Twins: redundancy reduction between two views, no negatives."""

import flax.linen as nn
import jax
import numpy as np

from bt4rec.objectives import correlation
from bt4rec.objectives.next_item_twins import NextItemTwins
from bt4rec.objectives.two_views import TwoViews

# Folded into the key of the step for what is drawn besides the views; no row of
# a batch, whose numbers are folded in too, has these.
_NEXT_ITEM = np.uint32(2**32 - 1)
_MIXED = np.uint32(2**32 - 2)


def barlow_twins_loss(
  z_a: jax.Array,
  z_b: jax.Array,
  *,
  lambd: float,
  axis_name: str | None = None,
  epsilon: float = 1e-5,
  scaling: str = 'none',
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
    scaling: See `correlation.scales`; 'none' is eq. (1).

  Returns:
    The scalar loss, and scalars: its unweighted terms `invariance` and
    `redundancy`, both also `_per_dim` (divided by the number of entries they
    sum over: `dim` and `dim * (dim - 1)`), so that runs of different widths
    can be compared; the mean of the diagonal, `diagonal`; and the root mean
    square of the other entries, `off_diagonal_rms`.

  Raises:
    ValueError: If the two views differ in shape.
  """
  c = correlation.cross_correlation(
    z_a, z_b, axis_name=axis_name, epsilon=epsilon
  )
  return correlation.correlation_loss(c, lambd=lambd, scaling=scaling)


class BarlowTwins(TwoViews, kw_only=True):
  """Two augmented views, one encoder, a projector, `barlow_twins_loss`.

  With `mixed_weight` the loss of mixed samples is added, in which embeddings of
  users are mixed, not inputs as in the paper: items cannot be averaged. So it
  is the projector that is to be linear between users. With `next_item_weight`
  the loss of `NextItemTwins` is added.

  Attributes:
    lambd: Weight of the off-diagonal term.
    scaling: See `correlation.scales`.
    correlation_momentum: See `correlation.CorrelationLoss`.
    mixed_weight: Weight of the loss of mixed samples, in multiples of the
      weight of the off-diagonal term; 0 is without it.
    next_item_weight: Weight of the term with the next item; 0 is without it.
    min_context: Smallest context of that term, see `contexts.draw_cuts`.
    contexts: Contexts of a window in it, see `contexts.embed_contexts`.
    horizon: See `NextItemTwins`.
    fourier_features: See `NextItemTwins`.
  """

  lambd: float
  scaling: str = 'none'
  correlation_momentum: float = 0.0
  mixed_weight: float = 0.0
  next_item_weight: float = 0.0
  min_context: float = 0.5
  contexts: int = 1
  horizon: int = 1
  fourier_features: int = 0

  @nn.compact
  def __call__(
    self, encoder: nn.Module, batch: dict, rng: jax.Array, train: bool
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """See `TwoViews`."""
    h = self.embed_views(encoder, batch, rng, train)
    projector = self.make_projector()
    z = projector(h, train)
    h, z = (x.reshape(-1, 2, x.shape[-1]) for x in (h, z))
    loss, terms = self._loss('loss')(z[:, 0], z[:, 1], train)
    if self.mixed_weight:
      rng_mixed = jax.random.fold_in(rng, _MIXED)
      mixed = correlation.mix(
        rng_mixed, h[:, 0], h[:, 1], z[:, 1], self.axis_name
      )
      terms['mixed'] = correlation.mixed_loss(
        z[:, 0], z[:, 1], projector(mixed.h, train), mixed, self.axis_name
      )
      _, scale = correlation.scales(self.scaling, z.shape[-1])
      loss = loss + self.mixed_weight * self.lambd * scale * terms['mixed']
    if self.next_item_weight:
      own, own_terms = NextItemTwins(
        self._loss('next_item_loss'),
        self.projector,
        self.min_context,
        self.contexts,
        self.axis_name,
        self.dtype,
        self.equal_length,
        self.horizon,
        self.fourier_features,
        name='next_item',
      )(encoder, batch, jax.random.fold_in(rng, _NEXT_ITEM), train)
      terms |= {f'next_item_{name}': value for name, value in own_terms.items()}
      loss = loss + self.next_item_weight * own
    return loss, terms

  def _loss(self, name: str) -> correlation.CorrelationLoss:
    return correlation.CorrelationLoss(
      self.lambd,
      self.scaling,
      self.correlation_momentum,
      self.axis_name,
      name=name,
    )
