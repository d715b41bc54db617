"""The model of a pre-training: an encoder under an objective, from config."""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import flax.linen as nn
import jax
from flax.core import FrozenDict
from ml_collections import ConfigDict

from bt4rec import encoders, mesh, packing, projector, ranking, views
from bt4rec.datasets import Catalogue
from bt4rec.errors import InputError
from bt4rec.features import Events
from bt4rec.objectives import (
  BarlowTwins,
  DualEncoder,
  InfoNCE,
  ItemLoss,
  MaskedItem,
  NextItem,
  TwoViews,
  VICReg,
  WeightedSum,
  correlation,
)
from bt4rec.objectives.weighted_sum import parse_sum, predicts_items


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
    return predicts_items(self.objective)

  def query(self, rows: Events) -> jax.Array:
    """See `bt4rec.objectives`; of an objective that predicts items."""
    return self.objective.query(self.encoder, rows)

  def candidates(self) -> ranking.Candidates:
    """See `bt4rec.objectives`; of an objective that predicts items."""
    return self.objective.candidates(self.encoder)


@functools.partial(jax.jit, static_argnames='model')
def project_views(
  model: Pretraining, variables: dict, batch: dict, rng: jax.Array
) -> jax.Array:
  """The projections of two views, as the loss of a training step gets them.

  So dropout is on, and the projector normalises by the batch given, not by
  running averages.

  Args:
    model: The model; its objective, or a part of a sum, makes two views.
    variables: `params`, and `batch_stats` where there are statistics.
    batch: `items` [batch, length] int32, `index` [batch] and the tables of the
      pre-training.
    rng: Key of views and dropout.

  Returns:
    [batch, 2, projection dim] float32.
  """

  def is_projector(module: nn.Module, method: str) -> bool:
    own = isinstance(module, projector.Projector) and method == '__call__'
    # Terms besides that of the views have projectors of other names.
    return own and module.name == 'projector'

  dropout, objective = jax.random.split(rng)
  _, found = model.apply(
    variables,
    batch,
    objective,
    train=True,
    rngs={'dropout': dropout},
    mutable=['batch_stats', 'intermediates'],
    capture_intermediates=is_projector,
  )
  # The first call is that of the views; mixed users come after them.
  z = jax.tree.leaves(found['intermediates'])[0]
  return z.reshape(-1, 2, z.shape[-1])


def make_model(
  config: ConfigDict,
  catalogue: Catalogue,
  axis_name: str | None,
  packing_shape: packing.Shape | None = None,
  table_sharding: mesh.RowSharding | None = None,
  num_micro_batches: int = 1,
) -> Pretraining:
  """Builds encoder and objective.

  Args:
    config: A whole config.
    catalogue: The items.
    axis_name: Mapped axis the batch is split over, None under `jit`.
    packing_shape: The rows that training batches are packed into.
    table_sharding: How the item table is split over devices; None is not.
    num_micro_batches: Parts of a training batch, see `TransformerEncoder`.

  Raises:
    InputError: If a setting is not valid, or the encoder does not suit the
      objective.
  """
  encoder = encoders.from_config(config, catalogue)
  settings: dict[str, Any] = {'table_sharding': table_sharding}
  if num_micro_batches != 1:
    if config.encoder.name == 'bag_of_items':
      raise InputError(
        'encoder.name=bag_of_items keeps no activations that micro batches '
        'would save; leave num_micro_batches at 1.'
      )
    settings['num_micro_batches'] = num_micro_batches
  return Pretraining(
    encoder.clone(**settings),
    _make_objective(config, catalogue, axis_name),
    packing_shape,
  )


def _make_objective(config, catalogue, axis_name) -> nn.Module:
  weights = parse_sum(config.objective, OBJECTIVES)
  _check_direction(config, weights)
  parts = {
    name: OBJECTIVES[name](config, catalogue, axis_name) for name in weights
  }
  if windows_per_user(config) > 1 and not any(map(makes_views, parts.values())):
    raise InputError(
      f'augment.split={config.augment.split} is for objectives on two views, '
      f'not {config.objective!r}; leave it at none.'
    )
  for name, part in parts.items():
    # What a row is compared with are the others of its batch.
    if config.batch_size < 2 and isinstance(part, TwoViews | DualEncoder):
      raise InputError(
        f'batch_size={config.batch_size} leaves the objective {name} nothing '
        f'to compare a user with; choose 2 at least.'
      )
  if weights == {config.objective: 1.0}:
    return parts[config.objective]
  # Hashable, since `jit` takes models as static arguments.
  return WeightedSum(FrozenDict(parts), FrozenDict(weights))


def num_negatives(config: ConfigDict, num_items: int) -> int | None:
  """How many negatives a prediction of the objective is compared with.

  Args:
    config: A whole config of a pre-training.
    num_items: Size of the catalogue.

  Returns:
    The number, of a sum the largest of its parts; None without negatives.
  """
  counts = [
    _NUM_NEGATIVES[name](config, num_items)
    for name in parse_sum(config.objective, OBJECTIVES)
    if name in _NUM_NEGATIVES
  ]
  return max(counts, default=None)


def make_recipe(config: ConfigDict) -> views.Recipe:
  """How two views are made.

  Raises:
    InputError: If a setting is not valid.
  """
  return views.make_recipe(
    config.augment.order,
    config.augment.ratios.to_dict(),
    config.augment.split,
    config.augment.draw_one,
  )


def windows_per_user(config: ConfigDict) -> int:
  """How many windows of a user's events a batch has."""
  return views.windows_per_user(config.augment.split)


def makes_views(objective: nn.Module) -> bool:
  """Whether an objective, or a part of a sum, makes two views."""
  if isinstance(objective, WeightedSum):
    return any(map(makes_views, objective.parts.values()))
  return isinstance(objective, TwoViews)


def two_views(
  name: str,
  kind: type[TwoViews],
  config: ConfigDict,
  catalogue: Catalogue,
  axis_name: str | None,
) -> TwoViews:
  """Builds an objective between two views: Barlow Twins and its kin.

  Args:
    name: Its group of the config: `projector`, and the other fields of `kind`.
    kind: The class.
    config: A whole config.
    catalogue: The items.
    axis_name: Mapped axis the batch is split over, None under `jit`.

  Raises:
    InputError: If a setting is not valid, or the group is missing.
  """
  if 'projector' not in config.get(name, {}):
    raise InputError(
      f'objective {name!r} has no group {name!r} with a `projector` in the '
      f'config; give it one with the fields of {kind.__name__} in '
      f'configs/base.py.'
    )
  settings = config[name].to_dict()
  recipe = make_recipe(config)
  has_dropout = config.encoder.name != 'bag_of_items' and config.encoder.dropout
  if recipe.is_identity and not has_dropout:
    raise InputError(
      'the two views are the same: augment.order changes nothing and the '
      'encoder has no dropout; give one of them.'
    )
  return kind(
    mask_item=catalogue.mask_item,
    recipe=recipe,
    projector=tuple(settings.pop('projector')),
    axis_name=axis_name,
    dtype=encoders.compute_dtype(config),
    **settings,
  )


def _make_barlow_twins(config, catalogue, axis_name):
  group = config.barlow_twins
  correlation.scales(group.scaling, 1)
  if group.horizon < 1:
    raise InputError(
      f'barlow_twins.horizon={group.horizon} must be at least 1.'
    )
  for name in (
    'lambd',
    'mixed_weight',
    'next_item_weight',
    'fourier_features',
  ):
    if group[name] < 0:
      raise InputError(f'barlow_twins.{name}={group[name]} must be at least 0.')
  if not 0 <= group.correlation_momentum < 1:
    raise InputError(
      f'barlow_twins.correlation_momentum={group.correlation_momentum} must be '
      f'at least 0 and below 1.'
    )
  _check_contexts(config, 'barlow_twins')
  return two_views('barlow_twins', BarlowTwins, config, catalogue, axis_name)


def _make_info_nce(config, catalogue, axis_name):
  if config.info_nce.temperature <= 0:
    raise InputError(
      f'info_nce.temperature={config.info_nce.temperature} must be above 0.'
    )
  return two_views('info_nce', InfoNCE, config, catalogue, axis_name)


def _make_dual_encoder(config, catalogue, axis_name):
  del catalogue
  _check_contexts(config, 'dual_encoder')
  return DualEncoder(axis_name=axis_name, **config.dual_encoder.to_dict())


def _check_contexts(config: ConfigDict, group: str) -> None:
  """Refuses contexts that are none, or that cannot be read off one pass."""
  contexts, encoder = config[group].contexts, config.encoder
  min_context = config[group].min_context
  if not 0 <= min_context <= 1:
    raise InputError(
      f'{group}.min_context={min_context} is a share of the longest context; '
      f'give a number from 0 to 1.'
    )
  if contexts < 1:
    raise InputError(f'{group}.contexts={contexts} must be at least 1.')
  is_causal = encoder.name == 'transformer' and encoder.causal
  if contexts > 1 and (not is_causal or encoder.pooling == 'class_token'):
    raise InputError(
      f'{group}.contexts={contexts} reads the contexts off one pass, which '
      f'takes a causal transformer with pooling mean or last; set '
      f'--config.encoder.causal=True, or leave it at 1.'
    )


def _make_next_item(config, catalogue, axis_name):
  return NextItem(_item_loss(config, catalogue), axis_name)


def _make_masked_item(config, catalogue, axis_name):
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
  return MaskedItem(
    dim=config.encoder.dim,
    num_items=catalogue.num_items,
    mask_item=catalogue.mask_item,
    loss=_item_loss(config, catalogue),
    axis_name=axis_name,
    dtype=encoders.compute_dtype(config),
    **settings.to_dict(),
  )


# Objective -> whether its encoder must be causal; the others take both.
_CAUSAL = {'next_item': True, 'masked_item': False}


def _check_direction(config: ConfigDict, names: Iterable[str]) -> None:
  """Refuses an encoder that sees what it is to predict, or too little."""
  wanted = {name: _CAUSAL[name] for name in names if name in _CAUSAL}
  if len(set(wanted.values())) > 1:
    raise InputError(
      f'objective={config.objective!r} needs an encoder that is causal for '
      f'next_item and is not for masked_item; leave one of them out.'
    )
  for name, causal in wanted.items():
    if config.encoder.name == 'bag_of_items':
      raise InputError(
        f'objective {name!r} predicts from the state of each position, which '
        f'encoder.name=bag_of_items does not have; use '
        f'encoder.name=transformer.'
      )
    if config.encoder.causal != causal:
      kind = 'causal' if causal else 'bidirectional'
      raise InputError(
        f'objective {name!r} needs a {kind} encoder; set '
        f'--config.encoder.causal={causal}, as '
        f'configs/pretrain.py:DATASET,{name} does.'
      )


def _item_loss(config: ConfigDict, catalogue: Catalogue) -> ItemLoss:
  loss = ItemLoss(num_items=catalogue.num_items, **config.item_loss.to_dict())
  loss.check(config.max_length)
  return loss


# Name in the config -> (config, catalogue, axis_name) -> objective.
OBJECTIVES: dict[str, Callable] = {
  'barlow_twins': _make_barlow_twins,
  'dual_encoder': _make_dual_encoder,
  'info_nce': _make_info_nce,
  'masked_item': _make_masked_item,
  'next_item': _make_next_item,
  'vicreg': functools.partial(two_views, 'vicreg', VICReg),
}


def _of_item_loss(config: ConfigDict, num_items: int) -> int:
  if config.item_loss.name == 'full':
    return num_items - 1
  return config.item_loss.num_negatives


# Objective -> (config, items) -> negatives; the others have none.
_NUM_NEGATIVES: dict[str, Callable[[ConfigDict, int], int]] = {
  'dual_encoder': lambda config, _: (
    config.batch_size * config.dual_encoder.contexts - 1
  ),
  'info_nce': lambda config, _: 2 * (config.batch_size - 1),
  'masked_item': _of_item_loss,
  'next_item': _of_item_loss,
}
