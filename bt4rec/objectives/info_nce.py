"""InfoNCE between two views: contrast with the other users of the batch."""

import jax
import jax.numpy as jnp
from jax import lax

from bt4rec.objectives import float32
from bt4rec.objectives.two_views import TwoViews, require_pair

_NEVER = -1e9


def info_nce_loss(
  z_a: jax.Array,
  z_b: jax.Array,
  *,
  temperature: float,
  axis_name: str | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """NT-Xent: each view against its other one and 2 (batch - 1) negatives.

  The contrastive loss of CL4SRec, Xie et al. (2022), arXiv 2010.14395: the
  negatives of a user are both views of all others in the global batch. With
  the cosine and the temperature of eq. (1) of Chen et al. (2020), SimCLR, arXiv
  2002.05709.

  Args:
    z_a: [batch, dim] float, projections of the first view.
    z_b: [batch, dim] float, projections of the second view; row `i` of both
      belongs to the same user.
    temperature: Divides the cosines, above 0.
    axis_name: Mapped axis the batch is split over inside `jax.pmap`; None
      where `z_a` holds the global batch, as under `jax.jit`.

  Returns:
    The scalar loss, and scalars: `accuracy`, how often the own other view is
    the nearest, and `positive_cosine` and `negative_cosine`, their means.

  Raises:
    ValueError: If the two views differ in shape.
  """
  require_pair(z_a, z_b)
  views = [_unit(z) for z in (z_a, z_b)]
  first: jax.Array | int = 0
  everyone = views
  if axis_name:
    first = lax.axis_index(axis_name) * len(z_a)
    everyone = [lax.all_gather(z, axis_name, tiled=True) for z in views]
  own = first + jnp.arange(len(z_a))
  is_own = own[:, None] == jnp.arange(len(everyone[0]))[None]

  def of_anchors(anchor, same_view, other_view):
    others = float32.product(anchor, other_view.T)
    positive = jnp.where(is_own, others, 0.0).sum(1)
    same = float32.product(anchor, same_view.T)
    cosines = jnp.concatenate([others, same], 1)
    # An anchor is not its own negative.
    itself = jnp.concatenate([jnp.zeros_like(is_own), is_own], 1)
    logits = jnp.where(itself, _NEVER, cosines / temperature)
    loss = jax.nn.logsumexp(logits, axis=1) - positive / temperature
    is_negative = ~jnp.concatenate([is_own, is_own], 1)
    # Where the batch is one user, there is no negative.
    count = jnp.maximum(is_negative.sum(1), 1)
    negative = jnp.where(is_negative, cosines, 0.0).sum(1) / count
    right = logits.argmax(1) == own
    return loss.mean(), right.mean(), positive.mean(), negative.mean()

  directions = (
    of_anchors(views[0], *everyone),
    of_anchors(views[1], *everyone[::-1]),
  )
  numbers = [sum(pair) / 2 for pair in zip(*directions, strict=True)]
  if axis_name:
    numbers = lax.pmean(numbers, axis_name)
  loss, accuracy, positive, negative = numbers
  return loss, {
    'accuracy': accuracy,
    'positive_cosine': positive,
    'negative_cosine': negative,
  }


def _unit(x: jax.Array) -> jax.Array:
  x = x.astype(jnp.float32)
  return x * lax.rsqrt((x**2).sum(-1, keepdims=True) + 1e-12)


class InfoNCE(TwoViews, kw_only=True):
  """Two augmented views, contrasted by `info_nce_loss`.

  Attributes:
    temperature: Divides the cosines.
  """

  temperature: float

  def pair_loss(
    self, z_a: jax.Array, z_b: jax.Array
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """See `TwoViews`."""
    return info_nce_loss(
      z_a, z_b, temperature=self.temperature, axis_name=self.axis_name
    )
