"""Barlow Twins between a context and the item that follows it."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from bt4rec.objectives.contexts import embed_contexts
from bt4rec.projector import FourierFeatures, Projector


class NextItemTwins(nn.Module):
  """Correlates the context's projection with the next item's.

  Two views of one window say nothing of what comes next. Here the twins are a
  context and the item after it, as in the dual encoder, but the loss is that
  of Barlow Twins: no negatives. The two come from different modules, so each
  has a projector of its own. The term is ours.

  Attributes:
    loss: Called as `loss(z_context, z_item, train)`.
    projector: Output width of each projector layer.
    min_context: Smallest context, see `contexts.draw_cuts`.
    contexts: Contexts of a window, see `contexts.embed_contexts`.
    axis_name: Mapped axis the batch is split over, None under `jit`.
    dtype: Type of the matrix products.
    equal_length: See `Projector`.
    horizon: Items after the context, the mean of whose embeddings is its twin.
    fourier_features: Width of a `FourierFeatures` that both share, instead of
      the projectors; 0 is none.
  """

  loss: nn.Module
  projector: Sequence[int]
  min_context: float
  contexts: int = 1
  axis_name: str | None = None
  dtype: jnp.dtype = jnp.float32
  equal_length: bool = False
  horizon: int = 1
  fourier_features: int = 0

  @nn.compact
  def __call__(
    self, encoder: nn.Module, batch: dict, rng: jax.Array, train: bool
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """`batch` has `items` [batch, length], `index` [batch] and `layout`."""

    shared = self.fourier_features and FourierFeatures(
      self.fourier_features, name='fourier_features'
    )

    def project(x, name):
      if shared:
        return shared(x)
      return Projector(
        self.projector,
        self.axis_name,
        self.dtype,
        self.equal_length,
        name=name,
      )(x, train)

    h, target = embed_contexts(
      encoder,
      batch,
      rng,
      train,
      min_context=self.min_context,
      count=self.contexts,
      horizon=self.horizon,
    )
    weights = (target > 0).astype(jnp.float32)
    weights = weights / weights.sum(-1, keepdims=True)
    item = (encoder.item_table(target) * weights[..., None]).sum(-2)
    return self.loss(
      project(h, 'context_projector'),
      project(item, 'item_projector'),
      train,
    )
