"""The pre-training job: from config to a trained encoder in a workdir."""

import functools
import math
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from ml_collections import ConfigDict

from bt4rec import (
  co_occurrence,
  embedding_projector,
  encode,
  encoders,
  evaluate,
  features,
  health,
  initial_encoder,
  model_card,
  optimizer,
  pipeline,
  plans,
  pretext,
  pretrain_data,
  processes,
  scoring,
  splits,
  tasks,
  train,
  train_step,
  vocabulary,
)
from bt4rec.datasets import SequenceDataset
from bt4rec.train_state import TrainState, create_train_state

_HEALTH_WINDOWS = 512


def make_loss_fn(
  model: pretext.Pretraining, axis_name: str | None
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
  """The loss on fixed windows with fixed views.

  Dropout is off, unless it alone makes the views: they would be the same.
  With an objective that predicts items also the ranking of the windows' last
  items, as `evaluate` measures the next items of the test.
  """

  def __init__(
    self,
    model: pretext.Pretraining,
    dataset: SequenceDataset,
    config: ConfigDict,
    tables: dict[str, Any],
  ):
    windows = pretrain_data.validation_windows(dataset, config)
    users = windows.pop('users')
    ends = dataset.offsets[users + 1] - 2
    self._last_items = tasks.Examples(users, ends, dataset.items[ends] - 1)
    self._task = tasks.NextItem(dataset, config.split_seed)
    self._exclude_seen = config.exclude_seen
    self._model = model
    # Batches of one size in which nobody is twice, which would punish telling
    # users apart; a few are left out where they do not divide.
    num_users = len(windows['start'])
    self._num_batches = math.ceil(num_users / config.batch_size)
    size = num_users // max(self._num_batches, 1)
    self._events = features.events_of(dataset, model.encoder.features)
    self._max_length = config.max_length
    self._tables = tables
    if self._num_batches:
      self._plan = plans.ExamplePlan(windows, batch_size=size, seed=config.seed)
    self._index = np.arange(size, dtype=np.int32)
    needs_dropout = (
      pretext.makes_views(model.objective)
      and pretext.make_recipe(config).is_identity
    )

    @jax.jit
    def loss_of(params, batch_stats, batch, rng):
      (loss, _), _ = model.apply(
        {'params': params, 'batch_stats': batch_stats},
        batch,
        rng,
        train=needs_dropout,
        rngs={'dropout': rng},
        mutable=['batch_stats'],
      )
      return loss

    self._loss_of = loss_of
    self._rng = jax.random.key(config.seed)

  def __call__(self, state: TrainState) -> dict[str, float]:
    if not self._num_batches:
      return {}
    losses = []
    for number in range(self._num_batches):
      rows = self._plan(number)
      windows = pipeline.cut_rows(self._events, rows, self._max_length)
      batch = {**windows, 'index': self._index, **self._tables}
      rng = jax.random.fold_in(self._rng, number)
      losses.append(self._loss_of(state.params, state.batch_stats, batch, rng))
    loss = float(np.mean(jax.device_get(losses)))
    numbers = {'loss': loss, **self._ranking(state)}
    return {f'validation_{key}': value for key, value in numbers.items()}

  def _ranking(self, state: TrainState) -> dict[str, float]:
    if not self._model.predicts_items:
      return {}
    numbers, _ = evaluate.evaluate_scorer(
      scoring.ObjectiveScorer(self._model, state.params),
      self._task,
      self._last_items,
      self._exclude_seen,
    )
    del numbers['loss']  # Of all items, whatever the objective compares.
    return numbers


def make_job(config: ConfigDict, dataset: SequenceDataset) -> train.Job:
  """Builds the job of a pre-training.

  Args:
    config: A whole config.
    dataset: The dataset.

  Raises:
    InputError: If the config, or the encoder of `init_from`, does not fit the
      dataset or the devices.
  """
  settings = train.settings(config)
  encoders.check_device(config)
  visible = pretrain_data.visible_events(dataset, config)
  shape = pretrain_data.choose_shape(config, visible)
  plan = pretrain_data.make_plan(config, dataset, visible, shape)
  axis_name = train_step.axis_name_of(config.parallelism)
  table_sharding = train_step.table_sharding(
    config.parallelism,
    config.model_parallelism,
    dataset.catalogue.vocabulary_size,
  )
  model = pretext.make_model(
    config,
    dataset.catalogue,
    axis_name,
    shape,
    table_sharding,
    config.num_micro_batches,
  )
  # Nothing is mapped, packed or split outside of the step.
  plain = pretext.make_model(config, dataset.catalogue, None)
  schedule = optimizer.make_schedule(config.optimizer, config.total_steps)
  tx = optimizer.make_optimizer(config.optimizer, schedule)
  tables = make_tables(config, dataset, visible, model)
  observation = _Observation(
    config, dataset, plain, plan, np.asarray(tables['log_q'])
  )
  step_tables: dict[str, Any] = dict(tables)
  events = features.events_of(dataset, model.encoder.features)
  if config.feed == 'device':
    pipeline.check_fits_device(len(events['items']))
    step_tables['events'] = jax.tree.map(jnp.asarray, events)
  step = train_step.CompiledStep(
    train_step.make_train_step(
      make_loss_fn(model, axis_name),
      tx,
      schedule,
      axis_name,
      optimizer.skips_non_finite(config.optimizer),
    ),
    config.parallelism,
    config.batch_size,
    table_sharding=table_sharding,
    steps_per_call=config.steps_per_call,
  )
  return train.Job(
    name=f'pre-train {config.objective}',
    state=step.off_device(_initial_state(config, plain, tx, tables, dataset)),
    step=step,
    feed=functools.partial(_feed, config=config, plan=plan, events=events),
    tables=step_tables,
    batch_size=config.batch_size,
    meta={
      'dataset': dataset.name,
      'objective': config.objective,
      'pretrain_scope': config.pretrain_scope,
      'inductive': config.inductive,
      'split_seed': config.split_seed,
      'split_fingerprint': splits.fingerprint(dataset),
      'seed': config.seed,
    },
    evaluate=_Validation(plain, dataset, config, tables),
    health=observation.health,
    points=observation.points,
    **settings,
  )


def make_tables(
  config: ConfigDict,
  dataset: SequenceDataset,
  visible: np.ndarray,
  model: pretext.Pretraining,
) -> dict[str, jax.Array]:
  """What every batch of a pre-training gets besides its own rows.

  Args:
    config: A whole config.
    dataset: The dataset.
    visible: [num_users] int, how many first events of each user may be seen.
    model: The model, whose objective decides what is needed.
  """
  tables = {
    'log_q': jnp.asarray(pretrain_data.log_item_probability(dataset, visible))
  }
  recipe = pretext.make_recipe(config)
  if recipe.needs_correlated and pretext.makes_views(model.objective):
    tables['correlated'] = jnp.asarray(
      co_occurrence.correlated_items(
        dataset, visible, config.augment.num_correlated
      )
    )
  return tables


class _Observation:
  """What is looked at while it trains: the first windows of the training."""

  def __init__(
    self,
    config: ConfigDict,
    dataset: SequenceDataset,
    model: pretext.Pretraining,
    plan: plans.PretrainPlan,
    log_q: np.ndarray,
  ):
    # Within an epoch nobody comes twice.
    num_users = min(_HEALTH_WINDOWS, plan.users_per_epoch)
    steps = [plan(step) for step in range(-(-num_users // config.batch_size))]
    self._start, self._length = (
      np.concatenate([rows[key] for rows in steps])[:num_users]
      for key in ('start', 'length')
    )
    self._dataset = dataset
    self._events = features.events_of(dataset, model.encoder.features)
    self._module, self._max_length = model.encoder, config.max_length
    self._popular = embedding_projector.popular_items(log_q)

  def health(self, state: TrainState) -> dict:
    """The verdict on the embeddings.

    Alignment is that of the older and the newer half of a window, whatever
    the objective, so that objectives can be compared.
    """
    embed = functools.partial(self._encoder(state).embed_windows, self._events)
    start, length = self._start, self._length
    half = length // 2
    return health.report(
      embed(start, length),
      embed(start, half),
      embed(start + half, length - half),
    )

  def points(self, state: TrainState) -> dict[str, embedding_projector.Points]:
    """The users of the windows, and the most popular items."""
    encoder, dataset = self._encoder(state), self._dataset
    users = encoder.embed_windows(self._events, self._start, self._length)
    return {
      'users': embedding_projector.user_points(
        dataset, self._start, self._length, users
      ),
      'items': embedding_projector.item_points(
        dataset.catalogue,
        self._popular,
        np.asarray(encoder.item_table[self._popular]),
      ),
    }

  def _encoder(self, state: TrainState) -> encode.Encoder:
    return encode.Encoder(
      self._module,
      state.params['encoder'],
      self._dataset.catalogue.item_ids,
      self._max_length,
      {},
    )


def _feed(first_step, *, config, plan, events):
  return pipeline.feed(
    config.feed,
    plan,
    events,
    max_length=config.max_length,
    first_step=first_step,
    batch_size=config.batch_size,
    process_index=jax.process_index(),
    process_count=jax.process_count(),
  )


def _initial_state(config, model, tx, tables, dataset) -> TrainState:
  _, train_rng = jax.random.split(jax.random.key(config.seed))
  variables = initial_variables(config, model, tables)
  if config.init_from:
    scope = config.pretrain_scope
    held_out_from = splits.visible_lengths(scope, dataset.lengths)
    encoder = initial_encoder.load(
      config, dataset, 'this pre-training', held_out_from, scope
    )
    variables['params']['encoder'] = encoder.params
  return create_train_state(variables, tx, train_rng)


def initial_variables(
  config: ConfigDict, model: pretext.Pretraining, tables: dict[str, jax.Array]
) -> dict:
  """What the training starts from: the parameters of the config's seed.

  Args:
    config: A whole config.
    model: The model, made without a mapped axis.
    tables: See `make_tables`.

  Returns:
    `params`, and `batch_stats` where there are statistics.
  """
  init_rng, _ = jax.random.split(jax.random.key(config.seed))
  # The shapes alone matter; two rows are enough for the batch statistics.
  batch = {
    'items': jnp.ones((2, config.max_length), jnp.int32),
    'index': jnp.arange(2),
    **tables,
  }
  if pretext.windows_per_user(config) == 2:
    batch['other_items'] = batch['items']
  return jax.jit(functools.partial(model.init, train=False))(
    init_rng, batch, init_rng
  )


def run(config: ConfigDict, workdir: str, dataset: SequenceDataset) -> None:
  """Pre-trains, or continues to.

  Args:
    config: A whole config.
    workdir: The output directory, locked by the caller.
    dataset: The dataset.
  """
  if processes.is_first():
    vocabulary.save(workdir, dataset.catalogue)
  job = make_job(config, dataset)
  best, _ = train.fit(job, workdir)
  if not processes.is_first():
    return
  if job.points and job.tensorboard:
    embedding_projector.write(
      os.path.join(workdir, 'tensorboard'), job.points(best)
    )
  model_card.write_pretraining(workdir, dataset)
