"""The model of a pre-training: an encoder under an objective, from config."""

import flax.linen as nn
import jax
from ml_collections import ConfigDict

from bt4rec import augment, encode, packing
from bt4rec.datasets import Catalogue
from bt4rec.errors import InputError, choose
from bt4rec.objectives import OBJECTIVES, ItemLoss


class Pretraining(nn.Module):
  """An encoder under an objective; the parameter tree of a pre-training.

  Attributes:
    encoder: The encoder.
    objective: The objective.
    packing_shape: The rows that batches with a layout are packed into.
  """

  encoder: nn.Module
  objective: nn.Module
  packing_shape: packing.Shape | None = None

  def __call__(
    self, batch: dict, rng: jax.Array, train: bool
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the scalar loss over the global batch, and scalars to log."""
    layout = None
    if self.packing_shape and 'row' in batch:
      layout = packing.Layout(batch['row'], batch['offset'], self.packing_shape)
    batch = {**batch, 'layout': layout}
    return self.objective(self.encoder, batch, rng, train)

  @property
  def predicts_items(self) -> bool:
    """Whether the objective has item scores: `query` and `candidates`."""
    return hasattr(self.objective, 'query')

  def query(self, items: jax.Array) -> jax.Array:
    """See `bt4rec.objectives`; of an objective that predicts items."""
    return self.objective.query(self.encoder, items)

  def candidates(self) -> tuple[jax.Array, jax.Array]:
    """See `bt4rec.objectives`; of an objective that predicts items."""
    return self.objective.candidates(self.encoder)


def make_model(
  config: ConfigDict,
  catalogue: Catalogue,
  axis_name: str | None,
  packing_shape: packing.Shape | None = None,
) -> Pretraining:
  """Builds encoder and objective.

  Args:
    config: A whole config.
    catalogue: The items.
    axis_name: Mapped axis the batch is split over, None under `jit`.
    packing_shape: The rows that training batches are packed into.

  Raises:
    InputError: If a setting is not valid, or the encoder does not suit the
      objective.
  """
  make = choose('objective', config.objective, _MAKE_OBJECTIVE)
  return Pretraining(
    encode.encoder_module(config, catalogue.vocabulary_size),
    make(config, catalogue, axis_name),
    packing_shape,
  )


def _make_barlow_twins(config, catalogue, axis_name):
  return OBJECTIVES['barlow_twins'](
    mask_item=catalogue.mask_item,
    recipe=augment.make_recipe(
      config.augment.order, config.augment.ratios.to_dict()
    ),
    lambd=config.barlow_twins.lambd,
    projector=tuple(config.barlow_twins.projector),
    axis_name=axis_name,
    dtype=encode.compute_dtype(config),
  )


def _make_dual_encoder(config, catalogue, axis_name):
  del catalogue
  return OBJECTIVES['dual_encoder'](
    axis_name=axis_name, **config.dual_encoder.to_dict()
  )


def _make_next_item(config, catalogue, axis_name):
  _require_direction(config, 'next_item', causal=True)
  return OBJECTIVES['next_item'](_item_loss(config, catalogue), axis_name)


def _make_masked_item(config, catalogue, axis_name):
  _require_direction(config, 'masked_item', causal=False)
  settings = config.masked_item
  if not 0 < settings.mask_ratio < 1:
    raise InputError(
      f'masked_item.mask_ratio={settings.mask_ratio} must be above 0 and '
      f'below 1.'
    )
  if not 0 <= settings.last_only_ratio <= 1:
    raise InputError(
      f'masked_item.last_only_ratio={settings.last_only_ratio} must be between '
      f'0 and 1.'
    )
  return OBJECTIVES['masked_item'](
    dim=config.encoder.dim,
    num_items=catalogue.num_items,
    mask_item=catalogue.mask_item,
    loss=_item_loss(config, catalogue),
    axis_name=axis_name,
    dtype=encode.compute_dtype(config),
    **settings.to_dict(),
  )


def _require_direction(config: ConfigDict, name: str, causal: bool) -> None:
  """Refuses an encoder that would see what it is to predict, or too little."""
  if config.encoder.name == 'bag_of_items':
    raise InputError(
      f'objective {name!r} predicts from the state of each position, which '
      f'encoder.name=bag_of_items does not have; use encoder.name=transformer.'
    )
  if config.encoder.causal != causal:
    kind = 'causal' if causal else 'bidirectional'
    raise InputError(
      f'objective {name!r} needs a {kind} encoder; set '
      f'--config.encoder.causal={causal}, or take it from configs/pretrain.py '
      f'as second argument, which sets it.'
    )


def _item_loss(config: ConfigDict, catalogue: Catalogue) -> ItemLoss:
  loss = ItemLoss(num_items=catalogue.num_items, **config.item_loss.to_dict())
  loss.check(config.max_length)
  return loss


_MAKE_OBJECTIVE = {
  'barlow_twins': _make_barlow_twins,
  'dual_encoder': _make_dual_encoder,
  'masked_item': _make_masked_item,
  'next_item': _make_next_item,
}
