"""The pre-training job: from config to a trained encoder in a workdir."""

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax import lax
from ml_collections import ConfigDict

from bt4rec import (
  augment,
  encode,
  health,
  optimizer,
  pipeline,
  splits,
  train,
  train_step,
)
from bt4rec.datasets import Catalogue, SequenceDataset
from bt4rec.errors import choose
from bt4rec.objectives import OBJECTIVES
from bt4rec.train_state import TrainState, create_train_state

_HEALTH_WINDOWS = 512


class Pretraining(nn.Module):
  """An encoder under an objective; the parameter tree of a pre-training."""

  encoder: nn.Module
  objective: nn.Module

  def __call__(
    self, batch: dict, rng: jax.Array, train: bool
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the scalar loss over the global batch, and scalars to log."""
    return self.objective(self.encoder, batch, rng, train)


def make_model(
  config: ConfigDict, catalogue: Catalogue, axis_name: str | None
) -> Pretraining:
  """Builds encoder and objective.

  Args:
    config: A whole config.
    catalogue: The items.
    axis_name: Mapped axis the batch is split over, None under `jit`.
  """
  make = choose('objective', config.objective, _MAKE_OBJECTIVE)
  return Pretraining(
    encode.encoder_module(config, catalogue.vocabulary_size),
    make(config, catalogue, axis_name),
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


def visible_events(dataset: SequenceDataset, config: ConfigDict) -> np.ndarray:
  """[num_users] int64, how many first events of each user may be seen.

  With `config.inductive` the users of the validation and test split of the
  user-level tasks are not seen at all.
  """
  visible = splits.visible_lengths(config.pretrain_scope, dataset.lengths)
  if config.inductive:
    users = splits.user_splits(dataset.user_ids, config.split_seed)
    visible = np.where(users['train'], visible, 0)
  return visible


def log_item_probability(
  dataset: SequenceDataset, visible: np.ndarray
) -> np.ndarray:
  """Log probability with which each item is drawn from a random user.

  Args:
    dataset: The dataset.
    visible: [num_users] int, how many first events of each user count.

  Returns:
    [vocabulary_size] float32; an item that is never drawn has the smallest
    value of the others.
  """
  position = np.arange(dataset.num_events) - np.repeat(
    dataset.offsets[:-1], dataset.lengths
  )
  per_event = np.repeat(visible, dataset.lengths)
  seen = position < per_event
  weight = np.bincount(
    dataset.items[seen],
    weights=1.0 / per_event[seen],
    minlength=dataset.catalogue.vocabulary_size,
  )
  weight = weight / max((visible > 0).sum(), 1)
  smallest = weight[weight > 0].min(initial=1.0)
  return np.log(np.maximum(weight, smallest)).astype(np.float32)


def _validation_windows(
  dataset: SequenceDataset, config: ConfigDict
) -> dict[str, np.ndarray]:
  """The newest windows of the validation users, without their last event.

  Their last events were not seen in training, and no test event is in them:
  the last event of a user is the test of `next_item`, and the test users of
  the user-level tasks are others.
  """
  users = splits.user_splits(dataset.user_ids, config.split_seed)['validation']
  users = np.flatnonzero(users & (dataset.lengths >= 3))
  end = dataset.offsets[users + 1] - 1
  length = np.minimum(dataset.lengths[users] - 1, config.max_length)
  return {
    'start': (end - length).astype(np.int32),
    'length': length.astype(np.int32),
  }


def make_loss_fn(
  model: Pretraining, axis_name: str | None
) -> train_step.LossFn:
  """Returns the training loss of a model as a pure function."""

  def loss_fn(params, batch_stats, batch, rng):
    batch = pipeline.materialize(batch, model.encoder.max_length)
    dropout, objective = jax.random.split(rng)
    if axis_name:
      dropout = jax.random.fold_in(dropout, lax.axis_index(axis_name))
    (loss, metrics), updates = model.apply(
      {'params': params, 'batch_stats': batch_stats},
      batch,
      objective,
      train=True,
      rngs={'dropout': dropout},
      mutable=['batch_stats'],
    )
    return loss, (metrics, updates.get('batch_stats', {}))

  return loss_fn


class _Validation:
  """The loss on fixed windows with fixed views, dropout off."""

  def __init__(
    self,
    model: Pretraining,
    dataset: SequenceDataset,
    config: ConfigDict,
    tables: dict[str, Any],
  ):
    windows = _validation_windows(dataset, config)
    self._num_batches = math.ceil(len(windows['start']) / config.batch_size)
    self._tables = tables
    if self._num_batches:
      self._plan = pipeline.ExamplePlan(
        windows, batch_size=config.batch_size, seed=config.seed
      )
    index = np.arange(config.batch_size, dtype=np.int32)

    @jax.jit
    def loss_of(params, batch_stats, batch, rng):
      batch = pipeline.materialize({**batch, 'index': index}, config.max_length)
      loss, _ = model.apply(
        {'params': params, 'batch_stats': batch_stats}, batch, rng, train=False
      )
      return loss

    self._loss_of = loss_of
    self._rng = jax.random.key(config.seed)

  def __call__(self, state: TrainState) -> dict[str, float]:
    if not self._num_batches:
      return {}
    losses = [
      self._loss_of(
        state.params,
        state.batch_stats,
        {**self._plan(number), **self._tables},
        jax.random.fold_in(self._rng, number),
      )
      for number in range(self._num_batches)
    ]
    return {train.SELECT: float(np.mean(jax.device_get(losses)))}


def make_job(config: ConfigDict, dataset: SequenceDataset) -> train.Job:
  """Builds the job of a pre-training.

  Args:
    config: A whole config.
    dataset: The dataset.

  Raises:
    InputError: If the config does not fit the dataset or the devices.
  """
  train.check_periods(
    total_steps=config.total_steps,
    batch_size=config.batch_size,
    log_every_steps=config.log_every_steps,
    eval_every_steps=config.eval_every_steps,
    health_every_steps=config.health_every_steps,
  )
  visible = visible_events(dataset, config)
  plan = pipeline.PretrainPlan(
    dataset.offsets,
    visible,
    max_length=config.max_length,
    batch_size=config.batch_size,
    seed=config.seed,
  )
  logging.info(
    'pre-training on %d users (%d have fewer than two visible events), %d of '
    '%d events',
    len(plan.users),
    dataset.num_users - len(plan.users),
    visible.sum(),
    dataset.num_events,
  )
  axis_name = train_step.axis_name_of(config.parallelism)
  model = make_model(config, dataset.catalogue, axis_name)
  schedule = optimizer.make_schedule(config.optimizer, config.total_steps)
  tx = optimizer.make_optimizer(config.optimizer, schedule)
  log_q = jnp.asarray(log_item_probability(dataset, visible))
  events = jnp.asarray(dataset.items)
  # Without the mapped axis: nothing is mapped outside of the step.
  plain = make_model(config, dataset.catalogue, None)
  state = _initial_state(config, plain, tx, plan, events, log_q)
  compiled = train_step.CompiledStep(
    train_step.make_train_step(
      make_loss_fn(model, axis_name), tx, schedule, axis_name
    ),
    config.parallelism,
    config.batch_size,
  )
  tables = {'log_q': log_q}
  if config.feed == 'device':
    tables['events'] = events
  windows = plan(0)
  sample = {
    key: np.resize(windows[key], _HEALTH_WINDOWS) for key in ('start', 'length')
  }

  def health_of(state: TrainState) -> dict:
    encoder = encode.Encoder(
      plain.encoder,
      state.params['encoder'],
      dataset.catalogue.item_ids,
      config.max_length,
      {},
    )
    return health.report(
      encoder.embed_windows(dataset.items, sample['start'], sample['length'])
    )

  return train.Job(
    name=f'pre-train {config.objective}',
    state=state,
    step=compiled,
    feed=functools.partial(
      _feed, config=config, plan=plan, items=dataset.items
    ),
    tables=tables,
    total_steps=config.total_steps,
    batch_size=config.batch_size,
    log_every_steps=config.log_every_steps,
    eval_every_steps=config.eval_every_steps,
    checkpoint_every_steps=config.checkpoint_every_steps,
    keep_checkpoints=config.keep_checkpoints,
    patience=config.patience,
    meta={
      'dataset': dataset.name,
      'objective': config.objective,
      'pretrain_scope': config.pretrain_scope,
      'inductive': config.inductive,
      'split_seed': config.split_seed,
      'split_fingerprint': splits.fingerprint(dataset),
      'seed': config.seed,
    },
    evaluate=_Validation(
      plain, dataset, config, {'log_q': log_q, 'events': events}
    ),
    health=health_of,
    health_every_steps=config.health_every_steps,
    tensorboard=config.tensorboard,
  )


def _feed(first_step, *, config, plan, items):
  return pipeline.feed(
    config.feed,
    plan,
    items,
    max_length=config.max_length,
    first_step=first_step,
    batch_size=config.batch_size,
    process_index=jax.process_index(),
    process_count=jax.process_count(),
  )


def _initial_state(config, model, tx, plan, events, log_q) -> TrainState:
  init_rng, train_rng = jax.random.split(jax.random.key(config.seed))
  # The shapes alone matter; two rows are enough for the batch statistics.
  rows = {key: array[:2] for key, array in plan(0).items()}
  batch = pipeline.materialize(
    {**rows, 'events': events, 'log_q': log_q}, config.max_length
  )
  variables = jax.jit(functools.partial(model.init, train=False))(
    init_rng, batch, init_rng
  )
  return create_train_state(variables, tx, train_rng)


def run(
  config: ConfigDict, workdir: str, dataset: SequenceDataset
) -> encode.Encoder:
  """Pre-trains, or continues to, and returns the best encoder.

  Args:
    config: A whole config.
    workdir: The output directory, locked by the caller.
    dataset: The dataset.
  """
  encode.save_vocabulary(workdir, dataset.catalogue)
  train.fit(make_job(config, dataset), workdir)
  return encode.load_encoder(workdir)
