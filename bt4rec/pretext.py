"""The model of a pre-training: an encoder under an objective, from config."""

import flax.linen as nn
import jax
from ml_collections import ConfigDict

from bt4rec import augment, encode, packing
from bt4rec.datasets import Catalogue
from bt4rec.errors import choose
from bt4rec.objectives import OBJECTIVES


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


_MAKE_OBJECTIVE = {
  'barlow_twins': _make_barlow_twins,
  'dual_encoder': _make_dual_encoder,
}
