"""Training on labels: a head on fixed features, or encoder and head."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from bt4rec import (
  encode,
  evaluate,
  features,
  heads,
  optimizer,
  pipeline,
  plans,
  popularity,
  pretrain_data,
  remote,
  splits,
  train,
  train_step,
  workdir,
)
from bt4rec.errors import InputError
from bt4rec.tasks import Examples, Task
from bt4rec.train_state import TrainState, create_train_state


class FeatureCache:
  """Embeddings already computed, by encoder and windows.

  `next_item` and `next_category` share their positions, and the label
  fractions their test users, so a study embeds each only once.
  """

  def __init__(self):
    self._features: dict[tuple, np.ndarray] = {}

  def embed(
    self, name: str, encoder: encode.Encoder, task: Task, examples: Examples
  ) -> np.ndarray:
    """[num_examples, dim] float32; `name` tells encoders apart."""
    windows = examples.windows(task.dataset.offsets, encoder.max_length)
    key = (name, windows['start'].tobytes(), windows['length'].tobytes())
    if key not in self._features:
      events = features.events_of(task.dataset, encoder.features)
      self._features[key] = encoder.embed_windows(events, **windows)
    return self._features[key]


@dataclasses.dataclass(frozen=True)
class Setting:
  """What a protocol is run on.

  Attributes:
    config: A whole config.
    directory: Where checkpoints and metrics go.
    task: The task.
    train: The labelled examples.
    validation: The examples steps are selected on.
    cache: Embeddings shared with other jobs.
  """

  config: ConfigDict
  directory: str
  task: Task
  train: Examples
  validation: Examples
  cache: FeatureCache

  @functools.cached_property
  def source(self) -> ConfigDict | None:
    """The config of the pre-training, None if there is none."""
    if not self.config.init_from:
      return None
    return workdir.read_config(remote.fetched(self.config.init_from))

  @functools.cached_property
  def visible(self) -> np.ndarray:
    """[num_users] int64, events of each user that pre-training may see."""
    return pretrain_data.visible_events(
      self.task.dataset, self.source or self.config
    )


@dataclasses.dataclass(frozen=True)
class Model:
  """What is trained on labels.

  Attributes:
    params: Initial parameters.
    loss_fn: The loss of a batch.
    rows: Arrays of the training examples, from which batches are drawn.
    tables: Arrays every batch gets besides.
    embed: Examples, parameters -> [num_examples, dim] embeddings.
    head_of: Parameters, statistics -> the head on the embeddings.
    batch_stats: Statistics that are not trained.
    meta: What is stored with the checkpoints besides.
  """

  params: Any
  loss_fn: train_step.LossFn
  rows: plans.Rows
  tables: dict[str, Any]
  embed: Callable[[Examples, Any], np.ndarray]
  head_of: Callable[[Any, Any], heads.TrainedHead]
  batch_stats: dict[str, Any] = dataclasses.field(default_factory=dict)
  meta: dict = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Outcome:
  """What a protocol gives.

  Attributes:
    metrics: The test metrics, among them `loss`; empty without a test.
    outcomes: [num_test] float32, rank or rightness of each test example.
    validation: The metrics of the selected step on validation.
    num_train: Number of examples trained on.
    cold_start: Events the test inputs are cut to -> metrics.
    by_popularity: The metrics of test examples grouped by their target's
      number of visible events; see `popularity.metrics_by_popularity`.
  """

  metrics: dict[str, float]
  outcomes: np.ndarray
  validation: dict[str, float]
  num_train: int
  cold_start: dict[str, dict[str, float]] = dataclasses.field(
    default_factory=dict
  )
  by_popularity: list[dict] = dataclasses.field(default_factory=list)


def outcome_of(
  setting: Setting,
  numbers_of: Callable[[Examples], tuple[dict[str, float], np.ndarray]],
) -> Outcome:
  """Evaluates on validation and, where the config has it, on the test.

  Args:
    setting: What a protocol is run on.
    numbers_of: Gives an evaluation's metrics and outcomes.
  """
  config, task, num_train = setting.config, setting.task, len(setting.train)
  validation, _ = numbers_of(setting.validation)
  if not config.evaluate_test:
    return Outcome({}, np.empty(0, np.float32), validation, num_train)
  test = task.test()
  numbers, outcomes = numbers_of(test)
  return Outcome(
    numbers,
    outcomes,
    validation,
    num_train,
    {str(k): numbers_of(test.cut(k))[0] for k in config.cold_start},
    popularity.metrics_by_popularity(
      task.dataset, setting.visible, test.labels, outcomes
    )
    if task.is_ranking
    else [],
  )


def fit(setting: Setting, model: Model) -> TrainState:
  """Trains; returns the best step by validation loss."""

  def validate(state: TrainState) -> dict[str, float]:
    numbers, _ = _numbers_of(setting, model, state, setting.validation)
    return {f'validation_{key}': value for key, value in numbers.items()}

  state, _ = train.fit(_make_job(setting, model, validate), setting.directory)
  return state


def train_and_test(setting: Setting, model: Model) -> Outcome:
  """Trains, restores the best step by validation loss, tests once."""
  state = fit(setting, model)
  return outcome_of(
    setting, functools.partial(_numbers_of, setting, model, state)
  )


def _numbers_of(
  setting: Setting, model: Model, state: TrainState, examples: Examples
) -> tuple[dict[str, float], np.ndarray]:
  """Metrics and outcomes of a state."""
  h = model.embed(examples, state.params)
  head = model.head_of(state.params, state.batch_stats)
  return evaluate.evaluate(
    setting.task,
    examples,
    lambda rows: head(h[rows]),
    head.candidates,
    setting.config.exclude_seen,
  )


def _make_job(setting: Setting, model: Model, validate) -> train.Job:
  config, task = setting.config, setting.task
  batch_size = _batch_size(config.batch_size, len(setting.train))
  schedule = optimizer.make_schedule(config.optimizer, config.total_steps)
  tx = optimizer.make_optimizer(config.optimizer, schedule)
  plan = plans.ExamplePlan(model.rows, batch_size=batch_size, seed=config.seed)
  return train.Job(
    name=f'{task.name} {config.protocol}',
    state=create_train_state(
      {'params': model.params, 'batch_stats': model.batch_stats},
      tx,
      jax.random.key(config.seed),
    ),
    step=train_step.CompiledStep(
      train_step.make_train_step(
        model.loss_fn,
        tx,
        schedule,
        skip_non_finite=optimizer.skips_non_finite(config.optimizer),
      ),
      'jit',
      batch_size,
      steps_per_call=config.steps_per_call,
    ),
    # Few examples and everything on the device: no host pipeline needed.
    feed=lambda first_step: pipeline.feed(
      'device',
      plan,
      {},
      max_length=config.max_length,
      first_step=first_step,
      batch_size=batch_size,
    ),
    tables=model.tables,
    batch_size=batch_size,
    meta={
      'dataset': task.dataset.name,
      'task': task.name,
      'protocol': config.protocol,
      'split_fingerprint': splits.fingerprint(task.dataset),
      'split_seed': config.split_seed,
      'pretrain_scope': 'shared' if task.is_user_level else 'leave_two_out',
      'inductive': config.inductive,
      **model.meta,
    },
    evaluate=validate,
    **train.settings(config),
  )


def _batch_size(wanted: int, num_examples: int) -> int:
  """Few labels give a small batch; it must still divide over the devices."""
  batch_size = min(wanted, num_examples)
  batch_size -= batch_size % jax.device_count()
  if not batch_size:
    raise InputError(
      f'{num_examples} training examples do not fill {jax.device_count()} '
      f'devices; use a larger label_fraction or fewer devices.'
    )
  return batch_size


def head_and_tables(task: Task, dim: int) -> tuple[heads.Head, dict]:
  """A task's head on embeddings of width `dim`, and what its loss needs."""
  num_outputs = dim if task.is_ranking else task.num_classes
  tables = {}
  if task.label_weights is not None:
    tables['label_weights'] = jnp.asarray(task.label_weights)
  return heads.Head(num_outputs), tables


def init_head(setting: Setting, head: heads.Head, dim: int) -> dict:
  """Initial parameters of a head on embeddings of width `dim`.

  A classification starts from the frequency of the classes among the training
  labels, as the majority class does, and can only be selected if it is better
  on validation: with some dozens of labels that is not a matter of course.
  """
  params = head.init(jax.random.key(0), jnp.zeros((1, dim)))['params']
  task, labels = setting.task, setting.train.labels
  if task.is_ranking:
    return params
  if task.label_weights is None:
    weights = np.bincount(labels, minlength=task.num_classes)
  else:
    weights = task.label_weights[labels].sum(axis=0)
  share = (weights + 1.0) / (weights + 1.0).sum()
  bias = jnp.asarray(np.log(share), jnp.float32)
  return {'linear': {**params['linear'], 'bias': bias}}


def cross_entropy(outputs, batch: dict) -> jax.Array:
  """Mean cross-entropy of head outputs, [batch, dim or num_classes]."""
  if 'item_table' in batch:
    outputs = outputs @ batch['item_table'].T
  log_probability = jax.nn.log_softmax(outputs.astype(jnp.float32))
  if 'label_weights' in batch:
    weights = batch['label_weights'][batch['label']]
    return -(weights * log_probability).sum(-1).mean()
  return -jnp.take_along_axis(
    log_probability, batch['label'][:, None], axis=1
  ).mean()
