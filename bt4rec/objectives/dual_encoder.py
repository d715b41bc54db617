"""The dual encoder: context against next item, in-batch softmax.

As published it is `google-research/federated`'s `dual_encoder`: one item table
shared by both towers, cosine similarity, the other items of the batch as
negatives, no temperature. The tuned form adds a learned temperature, the
sampling correction (logQ) and the masking of accidental hits.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from bt4rec import ranking
from bt4rec.features import Events, codes_of
from bt4rec.objectives import float32
from bt4rec.objectives.contexts import embed_contexts

_NEVER = -1e9


def in_batch_softmax_loss(
  context: jax.Array,
  item: jax.Array,
  target: jax.Array,
  *,
  temperature: jax.Array | float = 1.0,
  log_q: jax.Array | None = None,
  mask_accidental_hits: bool = False,
  axis_name: str | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Softmax cross-entropy of each context's item against the batch's items.

  With `log_q` the logits are corrected for the probability with which an item
  stands in the batch, eq. (3) of Yi et al. (2019), Sampling-Bias-Corrected
  Neural Modeling for Large Corpus Item Recommendations,
  https://doi.org/10.1145/3298689.3346996.

  Args:
    context: [batch, dim] float, unit vectors of the contexts.
    item: [batch, dim] float, unit vectors of their next items.
    target: [batch] int32, the tokens of these items.
    temperature: Divides the cosines.
    log_q: [batch] float, log probability of each target in a batch, or None.
    mask_accidental_hits: Whether another row's identical item is no negative.
    axis_name: Mapped axis the batch is split over inside `jax.pmap`.

  Returns:
    The scalar loss over the global batch, and the scalar `accuracy`.
  """
  first: jax.Array | int = 0
  everything = (item, target, log_q)
  if axis_name:
    first = lax.axis_index(axis_name) * len(target)
    everything = jax.tree.map(
      lambda x: lax.all_gather(x, axis_name, tiled=True), everything
    )
  items, targets, log_qs = everything
  own = first + jnp.arange(len(target))
  # [batch, global batch]
  logits = float32.product(context, items.T) / temperature
  if log_qs is not None:
    logits = logits - log_qs[None]
  if mask_accidental_hits:
    same = target[:, None] == targets[None, :]
    is_own = own[:, None] == jnp.arange(len(targets))[None]
    logits = jnp.where(same & ~is_own, _NEVER, logits)
  log_probability = jax.nn.log_softmax(logits)
  loss = -jnp.take_along_axis(log_probability, own[:, None], axis=1).mean()
  accuracy = (logits.argmax(1) == own).mean()
  if axis_name:
    loss, accuracy = lax.pmean((loss, accuracy), axis_name)
  return loss, {'accuracy': accuracy}


class DualEncoder(nn.Module):
  """Contexts of a window, each against the item that follows it.

  Attributes:
    learned_temperature: Whether the temperature is learned, from 0.1; without
      it the cosines are the logits, as published.
    log_q_correction: Whether the logits are corrected for popularity.
    mask_accidental_hits: Whether an identical item is no negative.
    min_context: Smallest context, see `contexts.draw_cuts`.
    contexts: Contexts of a window, see `contexts.embed_contexts`.
    axis_name: Mapped axis the batch is split over, None under `jit`.
  """

  learned_temperature: bool
  log_q_correction: bool
  mask_accidental_hits: bool
  min_context: float
  contexts: int = 1
  axis_name: str | None = None

  def setup(self):
    if self.learned_temperature:
      self.log_temperature = self.param(
        'log_temperature', nn.initializers.constant(jnp.log(0.1)), ()
      )

  def __call__(
    self, encoder: nn.Module, batch: dict, rng: jax.Array, train: bool
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """`batch` has `items`, `index`, `layout`, `log_q` [vocabulary_size]."""
    h, target = embed_contexts(
      encoder,
      batch,
      rng,
      train,
      min_context=self.min_context,
      count=self.contexts,
    )
    target = target[:, 0]
    temperature = self._temperature()
    loss, metrics = in_batch_softmax_loss(
      ranking.unit_length(h),
      ranking.unit_length(encoder.item_table(target)),
      target,
      temperature=temperature,
      log_q=batch['log_q'][target] if self.log_q_correction else None,
      mask_accidental_hits=self.mask_accidental_hits,
      axis_name=self.axis_name,
    )
    return loss, {**metrics, 'temperature': jnp.asarray(temperature)}

  def _temperature(self) -> jax.Array | float:
    if not self.learned_temperature:
      return 1.0
    return jnp.exp(self.log_temperature)

  def query(self, encoder: nn.Module, rows: Events) -> jax.Array:
    """Arrays [batch, length] -> [batch, dim], what the next item is like."""
    h = encoder(rows['items'], train=False, codes=codes_of(rows))
    return ranking.unit_length(h) / self._temperature()

  def candidates(self, encoder: nn.Module) -> ranking.Candidates:
    """All items, to be compared with queries."""
    return encoder.item_table.candidates(of_unit_length=True)
