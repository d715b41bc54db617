"""The cloze task: masked items from both sides, BERT4Rec."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from bt4rec import ranking
from bt4rec.features import Events, codes_of
from bt4rec.objectives.item_loss import ItemLoss


def choose_masked(
  rng: jax.Array,
  items: jax.Array,
  index: jax.Array,
  ratio: float,
  last_only_ratio: float,
) -> tuple[jax.Array, jax.Array]:
  """Chooses the positions to mask in each window.

  A share `ratio` of the items, rounded, at least one, and never all: as the
  code of Sun et al. (2019) does, the number is fixed and not drawn.

  Args:
    rng: Key of the step.
    items: [batch, length] int32, windows of two items and more.
    index: [batch] int32, number of each row in the global batch.
    ratio: Share of the items that is masked, in (0, 1).
    last_only_ratio: Share of the windows in which the last item alone is
      masked, as where the next item is asked for; section 3.6 of BERT4Rec.

  Returns:
    [batch, most] int32 positions, and bool, which of them are masked; `most`
    is the largest number of masks of a window.
  """
  length = items.shape[1]
  most = max(1, math.ceil(ratio * length))

  def of_row(number, window):
    rng_masks, rng_last = jax.random.split(jax.random.fold_in(rng, number))
    num_items = (window > 0).sum()
    count = jnp.round(ratio * num_items).astype(jnp.int32)
    count = jnp.clip(count, 1, jnp.maximum(num_items - 1, 1))
    order = jnp.where(window > 0, jax.random.uniform(rng_masks, (length,)), -1)
    last_only = jax.random.uniform(rng_last) < last_only_ratio
    is_last = jnp.arange(length) == num_items - 1
    order = jnp.where(last_only & is_last, 2.0, order)
    count = jnp.where(last_only, 1, count)
    _, position = lax.top_k(order, most)
    return position, jnp.arange(most) < count

  return jax.vmap(of_row)(index, items)


class MaskedItem(nn.Module):
  """Items are masked and predicted from what stands on both sides.

  BERT4Rec, Sun et al. (2019), arXiv 1904.06690. The output layer is its eq.
  (7), `GELU(h W + b) E^T + b_O` with the item table tied, with a layer
  normalisation after the GELU, as in the authors' code and in BERT.

  Outside of training only the window's last item is masked: the loss a
  validation needs. The next item is what the encoder expects at a mask token
  after the history.

  Attributes:
    dim: Width of the encoder.
    num_items: Size of the catalogue.
    mask_item: The mask token.
    mask_ratio: Share of the items that is masked, in (0, 1).
    last_only_ratio: Share of the windows in which the last alone is masked.
    loss: What the masked item is compared with.
    axis_name: Mapped axis the batch is split over, None under `jit`.
    dtype: Type of the matrix products.
  """

  dim: int
  num_items: int
  mask_item: int
  mask_ratio: float
  last_only_ratio: float
  loss: ItemLoss
  axis_name: str | None = None
  dtype: jnp.dtype = jnp.float32

  def setup(self):
    self.projection = nn.Dense(self.dim, dtype=self.dtype)
    self.norm = nn.LayerNorm()
    self.bias = self.param('bias', nn.initializers.zeros, (self.num_items,))

  def __call__(
    self, encoder: nn.Module, batch: dict, rng: jax.Array, train: bool
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """`batch` has `items` [batch, length], `index` [batch] and `layout`."""
    items = batch['items']
    rng_masks, rng_negatives = jax.random.split(rng)
    if train:
      ratios = self.mask_ratio, self.last_only_ratio
    else:
      ratios = 0.0, 1.0
    position, is_masked = choose_masked(
      rng_masks, items, batch['index'], *ratios
    )
    target = jnp.take_along_axis(items, position, axis=1)
    # [batch, length, most]
    is_here = position[:, None] == jnp.arange(items.shape[1])[None, :, None]
    hidden = (is_here & is_masked[:, None]).any(-1)
    masked = jnp.where(hidden, self.mask_item, items)
    states = encoder.states(masked, train, batch['layout'], codes_of(batch))
    states = jnp.take_along_axis(states, position[..., None], axis=1)
    return self.loss(
      rng_negatives,
      self._output(states),
      target,
      is_masked,
      encoder.item_table.embedding,
      self.bias,
      sharding=encoder.item_table.sharding,
      items=items,
      index=batch['index'],
      axis_name=self.axis_name,
    )

  def _output(self, states: jax.Array) -> jax.Array:
    return self.norm(nn.gelu(self.projection(states)).astype(jnp.float32))

  def query(self, encoder: nn.Module, rows: Events) -> jax.Array:
    """Arrays [batch, length], with room for one more -> [batch, dim]."""
    items = rows['items']
    end = (items > 0).sum(-1)
    position = jnp.arange(items.shape[1])[None]
    items = jnp.where(position == end[:, None], self.mask_item, items)
    states = encoder.states(items, train=False, codes=codes_of(rows))
    state = jnp.take_along_axis(states, end[:, None, None], axis=1)[:, 0]
    return self._output(state)

  def candidates(self, encoder: nn.Module) -> ranking.Candidates:
    """All items, to be compared with queries."""
    return encoder.item_table.candidates(self.bias)
