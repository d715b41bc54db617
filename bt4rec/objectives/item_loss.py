"""Losses of predicted items against the catalogue, the whole or a sample."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from bt4rec import mesh
from bt4rec.errors import InputError, choose
from bt4rec.objectives.full_cross_entropy import full_cross_entropy

# Above every token: sorts behind them all.
_BEYOND = 2**30
_NEVER = -1e9


def sampled_cross_entropy(
  positive: jax.Array, negative: jax.Array, log_weight: jax.Array
) -> jax.Array:
  """Softmax cross-entropy over the target and a sample of negatives.

  Without weights, the loss of Klenitskiy and Vasilev (2023), eq. (4), arXiv
  2309.07602. With the log of `pool / num_negatives` as weight it is the
  sampled softmax of Bengio and Senecal (2008), as in eq. (3) of Yi et al.
  (2019), https://doi.org/10.1145/3298689.3346996, for a uniform proposal: the
  sum over the sample estimates that over the pool without bias.

  Args:
    positive: [...] float, scores of the targets.
    negative: [..., num_negatives] float, scores of the negatives.
    log_weight: Broadcasts to `negative`, added to it.

  Returns:
    [...] float32 losses.
  """
  scores = jnp.concatenate([positive[..., None], negative + log_weight], -1)
  return jax.nn.logsumexp(scores, axis=-1) - positive


def generalised_binary_cross_entropy(
  positive: jax.Array, negative: jax.Array, is_valid: jax.Array, beta: float
) -> jax.Array:
  """Binary cross-entropy with the positive's probability to the power `beta`.

  `-(log sigma(s+)^beta + sum_k log(1 - sigma(s_k))) / (K + 1)`, the gBCE of
  Petrov and Macdonald (2023), gSASRec, section 5.1, arXiv 2308.07192. With
  `beta` 1 and one negative it is half the loss of a position of SASRec, section
  III.E of Kang and McAuley (2018), arXiv 1808.09781, which sums the two terms.

  Args:
    positive: [...] float, scores of the targets.
    negative: [..., num_negatives] float, scores of the negatives.
    is_valid: Broadcasts to `negative`; others do not count.
    beta: Power, in (0, 1]; see `gbce_beta`.

  Returns:
    [...] float32 losses.
  """
  of_negatives = jnp.where(is_valid, jax.nn.softplus(negative), 0.0).sum(-1)
  total = beta * jax.nn.softplus(-positive) + of_negatives
  return total / (negative.shape[-1] + 1)


def gbce_beta(calibration: float, num_negatives: int, num_items: int) -> float:
  """The power of gBCE for a wanted calibration.

  `alpha * (t * (1 - 1 / alpha) + 1 / alpha)` with the sampling rate `alpha`,
  Petrov and Macdonald (2023), section 5.2, arXiv 2308.07192.

  Args:
    calibration: `t`: 0 is plain binary cross-entropy, 1 fully calibrated.
    num_negatives: Negatives of a position.
    num_items: Size of the catalogue.
  """
  # Drawn with replacement, so they may be more than there are.
  alpha = min(num_negatives / (num_items - 1), 1.0)
  return alpha * (calibration * (1 - 1 / alpha) + 1 / alpha)


def draw_outside(
  rng: jax.Array,
  items: jax.Array,
  index: jax.Array,
  shape: tuple[int, int],
  num_items: int,
) -> tuple[jax.Array, jax.Array]:
  """Draws items that are not in the window, uniformly, with replacement.

  Args:
    rng: Key of the step.
    items: [batch, length] int32, the windows.
    index: [batch] int32, number of each row in the global batch, so that the
      draws do not depend on the number of devices.
    shape: Draws of a row: positions and negatives.
    num_items: Size of the catalogue, more than a window can hold.

  Returns:
    [batch, *shape] int32 tokens, and [batch] int32, from how many items each
    row's were drawn.
  """

  def of_row(number, window):
    is_item = (window > 0) & (window <= num_items)
    seen = jnp.sort(jnp.where(is_item, window, _BEYOND))
    repeats = jnp.append(False, seen[1:] == seen[:-1])
    seen = jnp.sort(jnp.where(repeats, _BEYOND, seen))
    pool = num_items - (seen < _BEYOND).sum()
    drawn = jax.random.randint(
      jax.random.fold_in(rng, number), shape, 0, pool, jnp.int32
    )
    # The number of unseen items below each seen one, ascending: counting those
    # that are not above the draw gives how many seen ones it has to skip.
    unseen_below = seen - 1 - jnp.arange(len(seen))
    skipped = jnp.searchsorted(unseen_below, drawn, side='right')
    return drawn + 1 + skipped.astype(jnp.int32), pool

  return jax.vmap(of_row)(index, items)


def _draw_per_position(rng, items, index, num_positions, settings):
  shape = (num_positions, settings.num_negatives)
  drawn, pool = draw_outside(rng, items, index, shape, settings.num_items)
  return drawn, jnp.ones((1, 1, 1), bool), pool[:, None, None]


def _draw_per_sequence(rng, items, index, num_positions, settings):
  return _draw_per_position(rng, items, index, 1, settings)


def _draw_per_batch(rng, items, index, num_positions, settings):
  del index, num_positions
  drawn = jax.random.randint(
    rng, (settings.num_negatives,), 1, settings.num_items + 1, jnp.int32
  )
  # One device may not see another's windows; so the same for all, and those
  # that stand in a row's own window do not count there.
  hit = (items[:, :, None] == drawn[None, None, :]).any(1)
  pool = jnp.full((1, 1, 1), settings.num_items)
  return drawn[None, None], ~hit[:, None], pool


# Who shares the negatives -> draws [batch or 1, positions or 1, num_negatives]
# tokens, which of them count, and the size of the pool.
_DRAWS: dict[str, Callable] = {
  'position': _draw_per_position,
  'sequence': _draw_per_sequence,
  'batch': _draw_per_batch,
}


def _score(query, table, bias, drawn, sharding):
  """[batch, positions, num_negatives] scores of shared or own negatives."""
  is_own = drawn.shape[0] > 1
  subscript = 'b' * is_own + 'p' * (drawn.shape[1] > 1)
  axes = tuple(axis for axis in (0, 1) if drawn.shape[axis] == 1)
  candidates = mesh.take(sharding, table, drawn.squeeze(axes), is_own)
  scores = jnp.einsum(f'bpd,{subscript}kd->bpk', query, candidates)
  return scores + bias[drawn]


@dataclasses.dataclass(frozen=True)
class ItemLoss:
  """What a predicted item is compared with; chosen in the config.

  Attributes:
    name: 'full', 'sampled', 'bce' or 'gbce'.
    num_items: Size of the catalogue.
    num_negatives: Negatives of a position; not of 'full'.
    negatives_per: Who shares them: 'position', 'sequence' or 'batch'.
    log_q_correction: Whether 'sampled' estimates the softmax over all.
    calibration: `t` of 'gbce', in [0, 1].
  """

  name: str
  num_items: int
  num_negatives: int
  negatives_per: str
  log_q_correction: bool
  calibration: float

  def check(self, max_length: int) -> None:
    """Raises InputError if a setting is not valid."""
    choose('item_loss.name', self.name, {'full': None, **_SAMPLED_LOSSES})
    if self.name == 'full':
      return
    choose('item_loss.negatives_per', self.negatives_per, _DRAWS)
    if self.num_negatives < 1:
      raise InputError(
        f'item_loss.num_negatives={self.num_negatives} must be at least 1.'
      )
    if not 0 <= self.calibration <= 1:
      raise InputError(
        f'item_loss.calibration={self.calibration} must be between 0 and 1.'
      )
    if self.num_items <= max_length:
      raise InputError(
        f'item_loss.name={self.name} draws negatives outside of the window, '
        f'but a window of max_length={max_length} may hold all '
        f'{self.num_items} items; use item_loss.name=full.'
      )

  def __call__(
    self,
    rng: jax.Array,
    query: jax.Array,
    target: jax.Array,
    is_real: jax.Array,
    table: jax.Array,
    bias: jax.Array,
    *,
    items: jax.Array,
    index: jax.Array,
    axis_name: str | None = None,
    sharding: mesh.RowSharding | None = None,
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Mean loss of the targets of the global batch.

    Args:
      rng: Key of the step.
      query: [batch, positions, dim] float.
      target: [batch, positions] int32 tokens to be predicted.
      is_real: [batch, positions] bool, which of them are targets.
      table: [num_rows, dim] float, embeddings of the tokens; rows that are no
        item's do not count.
      bias: [num_items] float, added to the scores.
      items: [batch, length] int32, the windows that negatives lie outside of.
      index: [batch] int32, number of each row in the global batch.
      axis_name: Mapped axis the batch is split over inside `jax.pmap`.
      sharding: How the table is split over devices; None is not.

    Returns:
      The scalar loss, and the scalar `accuracy`: how often the target's score
      is the largest of those it is compared with.
    """
    query = query.astype(jnp.float32)
    # Any item, where there is no target.
    target = jnp.where(is_real, target, 1)
    weight = is_real.astype(jnp.float32)
    # By token, as the table: a slice of that would be a copy of it.
    beyond = len(table) - 1 - len(bias)
    bias = jnp.pad(bias, (1, beyond), constant_values=-jnp.inf)
    if self.name == 'full':
      total, right = full_cross_entropy(
        query.reshape(-1, query.shape[-1]),
        target.reshape(-1),
        weight.reshape(-1),
        table,
        bias,
        sharding=sharding,
      )
    else:
      own = mesh.take(sharding, table, target)
      positive = jnp.einsum('bpd,bpd->bp', query, own) + bias[target]
      drawn, is_valid, pool = _DRAWS[self.negatives_per](
        rng, items, index, query.shape[1], self
      )
      negative = _score(query, table, bias, drawn, sharding)
      loss = _SAMPLED_LOSSES[self.name](
        self, positive, negative, is_valid, pool
      )
      best = jnp.where(is_valid, negative, _NEVER).max(-1)
      total = (weight * loss).sum()
      right = (weight * (positive > best)).sum()
    sums = total, right, weight.sum()
    if axis_name:
      # Devices may hold different numbers of targets.
      sums = lax.pmean(sums, axis_name)
    return sums[0] / sums[2], {'accuracy': sums[1] / sums[2]}


def _sampled(settings, positive, negative, is_valid, pool):
  log_weight = jnp.where(is_valid, 0.0, _NEVER)
  if settings.log_q_correction:
    log_weight = log_weight + jnp.log(pool / settings.num_negatives)
  return sampled_cross_entropy(positive, negative, log_weight)


def _bce(settings, positive, negative, is_valid, pool):
  del settings, pool
  return generalised_binary_cross_entropy(positive, negative, is_valid, 1.0)


def _gbce(settings, positive, negative, is_valid, pool):
  del pool
  beta = gbce_beta(
    settings.calibration, settings.num_negatives, settings.num_items
  )
  return generalised_binary_cross_entropy(positive, negative, is_valid, beta)


# Name in the config -> loss from sampled negatives; 'full' needs none.
_SAMPLED_LOSSES: dict[str, Callable] = {
  'sampled': _sampled,
  'bce': _bce,
  'gbce': _gbce,
}
