"""Next-item prediction at every position: SASRec and its later losses."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from bt4rec import packing, ranking
from bt4rec.features import Events, codes_of
from bt4rec.objectives.item_loss import ItemLoss


class NextItem(nn.Module):
  """Each position of a window predicts the item after it.

  SASRec, Kang and McAuley (2018), arXiv 1808.09781: a causal encoder, the item
  table tied to the output, scores as dot products. With the loss 'full' it is
  the form of Klenitskiy and Vasilev (2023), arXiv 2309.07602; with 'gbce' that
  of gSASRec, Petrov and Macdonald (2023), arXiv 2308.07192. Positions are
  counted back from the last context item, as where it is used.

  Outside of training only the window's last item is predicted: the loss a
  validation needs.

  Attributes:
    loss: What the next item is compared with.
    axis_name: Mapped axis the batch is split over, None under `jit`.
  """

  loss: ItemLoss
  axis_name: str | None = None

  def __call__(
    self, encoder: nn.Module, batch: dict, rng: jax.Array, train: bool
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """`batch` has `items` [batch, length], `index` [batch] and `layout`."""
    items = batch['items']
    num_context = (items > 0).sum(-1) - 1
    position = jnp.arange(items.shape[1])[None]
    context = jnp.where(position < num_context[:, None], items, 0)
    states = encoder.states(context, train, batch['layout'], codes_of(batch))
    states = states[:, :-1]
    target = items[:, 1:]
    if not train:
      last = jnp.maximum(num_context - 1, 0)[:, None]
      states = jnp.take_along_axis(states, last[..., None], axis=1)
      target = jnp.take_along_axis(target, last, axis=1)
    is_real = target > 0
    layout = batch['layout']
    if layout and self.loss.name == 'full':
      # The other losses need to know whose positions they are.
      states, target, is_real = _without_padding(
        layout, is_real, states, target, is_real
      )
    return self.loss(
      rng,
      states,
      target,
      is_real,
      encoder.item_table.embedding,
      jnp.zeros(self.loss.num_items),
      sharding=encoder.item_table.sharding,
      items=items,
      index=batch['index'],
      axis_name=self.axis_name,
    )

  def query(self, encoder: nn.Module, rows: Events) -> jax.Array:
    """Arrays [batch, length] -> [batch, dim], what the next item is like."""
    last = jnp.maximum((rows['items'] > 0).sum(-1) - 1, 0)
    states = encoder.states(rows['items'], train=False, codes=codes_of(rows))
    return jnp.take_along_axis(states, last[:, None, None], axis=1)[:, 0]

  def candidates(self, encoder: nn.Module) -> ranking.Candidates:
    """All items, to be compared with queries."""
    return encoder.item_table.candidates()


def _without_padding(
  layout: packing.Layout, is_real: jax.Array, *arrays: jax.Array
) -> list[jax.Array]:
  """Gathers the real positions, so that no scores are computed at the others.

  Args:
    layout: The rows have room for all real positions of a group.
    is_real: [batch, positions] bool.
    *arrays: [batch, positions, ...].

  Returns:
    The arrays as [num_groups, slots, ...], the real positions first.
  """
  shape = layout.shape
  num_positions = is_real.shape[1] * shape.sequences_per_group
  padding_last = jnp.argsort(~is_real.reshape(-1, num_positions), axis=1)
  chosen = padding_last[:, : shape.rows_per_group * shape.row_length]

  def gather(array):
    grouped = array.reshape(len(chosen), num_positions, *array.shape[2:])
    return jax.vmap(lambda group, index: group[index])(grouped, chosen)

  return [gather(array) for array in arrays]
