"""A downstream job: labels in, test metrics out, selected on validation."""

import dataclasses
import functools
import os
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from bt4rec import (
  baselines,
  datasets,
  encode,
  encoders,
  evaluate,
  optimizer,
  pipeline,
  provenance,
  splits,
  tasks,
  train,
  train_step,
  workdir,
)
from bt4rec.datasets import SequenceDataset
from bt4rec.errors import InputError, choose
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
    key = (name, examples.ends.tobytes(), examples.users.tobytes())
    if key not in self._features:
      windows = examples.windows(task.dataset.offsets, encoder.max_length)
      self._features[key] = encoder.embed_windows(task.dataset.items, **windows)
    return self._features[key]


@dataclasses.dataclass
class Outcome:
  """What a protocol returns.

  Attributes:
    metrics: The test metrics, among them `loss`.
    outcomes: [num_test] float32, rank or rightness of each test example.
    validation: The metrics of the selected step on validation.
  """

  metrics: dict[str, float]
  outcomes: np.ndarray
  validation: dict[str, float]


def run(
  config: ConfigDict,
  directory: str,
  dataset: SequenceDataset,
  cache: FeatureCache | None = None,
) -> dict:
  """Trains on the labels, selects on validation, tests once.

  Args:
    config: A whole config with a downstream `task`.
    directory: The output directory, locked by the caller.
    dataset: The dataset.
    cache: Embeddings shared with other jobs.

  Returns:
    The line of `results.jsonl`, with the key `outcomes` besides: the outcome
    of every test example.

  Raises:
    InputError: If the config, the checkpoint or the data do not fit.
  """
  start = time.monotonic()
  if not 0 < config.label_fraction <= 1:
    raise InputError(
      f'label_fraction={config.label_fraction} must be above 0 and at most 1.'
    )
  task = tasks.make_task(config.task, dataset, config.split_seed)
  protocol = choose('protocol', config.protocol, _PROTOCOLS)
  labelled, validation = task.train_and_validation(
    config.label_fraction, config.seed
  )
  logging.info(
    '%s, %s at %g %% labels: %d training, %d validation examples',
    task.name,
    config.protocol,
    100 * config.label_fraction,
    len(labelled),
    len(validation),
  )
  outcome = protocol(
    config, directory, task, labelled, validation, cache or FeatureCache()
  )
  return {
    'dataset': dataset.name,
    'task': task.name,
    'objective': config.label or _objective_of(config),
    'protocol': config.protocol,
    'label_fraction': config.label_fraction,
    'seed': config.seed,
    'metrics': outcome.metrics,
    'validation': outcome.validation,
    'num_train': len(labelled),
    'num_test': len(outcome.outcomes),
    'split_fingerprint': splits.fingerprint(dataset),
    'inductive': config.inductive,
    **provenance.describe(),
    'wall_seconds': round(time.monotonic() - start, 2),
    'outcomes': outcome.outcomes,
  }


def _objective_of(config: ConfigDict) -> str:
  """What the row of the table is called by default."""
  if config.protocol in ('majority', 'oracle', 'scratch'):
    return config.protocol
  if not config.init_from:
    return 'random'
  return workdir.read_config(config.init_from).objective


def load_init(config: ConfigDict, task: Task) -> encode.Encoder:
  """Loads the pre-trained encoder, or makes a random one.

  Raises:
    InputError: If the checkpoint has seen events the task holds out, or was
      made from another split.
  """
  if not config.init_from:
    return encode.random_encoder(config, task.dataset.catalogue, config.seed)
  encoder = encode.load_encoder(config.init_from)
  meta = encoder.meta
  found, expected = (
    meta['split_fingerprint'],
    splits.fingerprint(task.dataset),
  )
  if found != expected:
    raise InputError(
      f'the checkpoint in {config.init_from} was made from a split with '
      f'fingerprint {found}, the data given have {expected}; evaluate on the '
      f'data it was trained from.'
    )
  lengths = task.dataset.lengths
  visible = splits.visible_lengths(meta['pretrain_scope'], lengths)
  if (visible > task.held_out_from()).any():
    raise InputError(
      f'the checkpoint in {config.init_from} was pre-trained with scope '
      f'{meta["pretrain_scope"]!r}, which contains held-out events of '
      f'{task.name!r}; pre-train with --config.pretrain_scope=shared.'
    )
  if config.inductive and not meta['inductive']:
    raise InputError(
      f'the checkpoint in {config.init_from} was pre-trained on all users; '
      f'pre-train with --config.inductive=True, or evaluate without it.'
    )
  return encoder


def _probe(config, directory, task, labelled, validation, cache) -> Outcome:
  """A linear head on a frozen encoder."""
  encoder = load_init(config, task)
  name = config.init_from or f'random {config.seed}'
  labelled = _subsample(labelled, config, task)
  features = cache.embed(name, encoder, task, labelled)
  # Standardised, which a linear map can undo: it only conditions the
  # optimisation, so that one learning rate serves every encoder.
  mean, std = features.mean(0), features.std(0) + 1e-6

  def features_of(examples: Examples) -> jax.Array:
    return jnp.asarray(
      (cache.embed(name, encoder, task, examples) - mean) / std
    )

  head, tables = _head_and_tables(task, encoder.dim)
  if task.is_ranking:
    # Equally free: centring adds the same to all scores of a user, and the
    # scale is the head's to choose; with this one a step changes a score as
    # much as it changes a logit of a classification head.
    table = encoder.item_table
    table = (table - table.mean(0)) / (table.std(0) + 1e-6) / encoder.dim
    tables['item_table'] = table

  def loss_fn(params, batch_stats, batch, rng):
    del rng
    outputs = head.apply(
      {'params': params['head']}, batch['features'][batch['example']]
    )
    return _cross_entropy(outputs, batch), ({}, batch_stats)

  def query_of(examples, params):
    inputs = features_of(examples)
    return lambda rows: _apply_head(head, params['head'], inputs[rows])

  sample = jnp.zeros((1, encoder.dim))
  params = {'head': head.init(jax.random.key(config.seed), sample)['params']}
  examples = {
    'example': np.arange(len(labelled), dtype=np.int32),
    'label': labelled.labels,
  }
  return _train_and_test(
    config,
    directory,
    task,
    validation,
    params,
    loss_fn,
    examples,
    {**tables, 'features': features_of(labelled)},
    query_of,
    lambda params: tables.get('item_table'),
  )


def _finetune(config, directory, task, labelled, validation, cache) -> Outcome:
  """Encoder and head trained together, from a pre-training or from scratch."""
  del cache
  if config.protocol == 'scratch' and config.init_from:
    raise InputError(
      'protocol=scratch trains without pre-training, but init_from is set; '
      'clear it, or use protocol=finetune.'
    )
  if config.protocol == 'finetune' and not config.init_from:
    raise InputError(
      'protocol=finetune needs a pre-training; name its workdir with '
      '--config.init_from, or use protocol=scratch.'
    )
  encoder = load_init(config, task)
  encode.save_vocabulary(directory, task.dataset.catalogue)
  head, tables = _head_and_tables(task, encoder.dim)
  module, max_length = encoder.module, encoder.max_length
  events = jnp.asarray(task.dataset.items)

  def loss_fn(params, batch_stats, batch, rng):
    batch = pipeline.materialize(batch, max_length)
    h = module.apply(
      {'params': params['encoder']},
      batch['items'],
      train=True,
      rngs={'dropout': rng},
    )
    outputs = head.apply({'params': params['head']}, h)
    if task.is_ranking:
      table = params['encoder']['item_table']['embedding'][1:-1]
      batch = {**batch, 'item_table': table}
    return _cross_entropy(outputs, batch), ({}, batch_stats)

  def with_params(params) -> encode.Encoder:
    return dataclasses.replace(encoder, params=params['encoder'])

  def query_of(examples, params):
    windows = examples.windows(task.dataset.offsets, max_length)
    h = with_params(params).embed_windows(task.dataset.items, **windows)
    return lambda rows: _apply_head(head, params['head'], h[rows])

  sample = jnp.zeros((1, encoder.dim))
  params = {
    'encoder': encoder.params,
    'head': head.init(jax.random.key(config.seed), sample)['params'],
  }
  examples = labelled.windows(task.dataset.offsets, max_length)
  return _train_and_test(
    config,
    directory,
    task,
    validation,
    params,
    loss_fn,
    {**examples, 'label': labelled.labels},
    {**tables, 'events': events},
    query_of,
    lambda params: with_params(params).item_table,
  )


def _majority(config, directory, task, labelled, validation, cache) -> Outcome:
  del directory, validation, cache
  numbers, outcomes = baselines.majority(
    task, labelled, task.test(), config.exclude_seen
  )
  return Outcome(numbers, outcomes, {})


def _oracle(config, directory, task, labelled, validation, cache) -> Outcome:
  del directory, labelled, validation, cache
  if task.dataset.name != 'synthetic':
    raise InputError(
      f'protocol=oracle needs the synthetic dataset, whose truth is known, '
      f'not {task.dataset.name!r}.'
    )
  numbers, outcomes = baselines.oracle(
    task,
    datasets.synthetic_world(config.dataset),
    task.test(),
    config.exclude_seen,
  )
  return Outcome(numbers, outcomes, {})


_PROTOCOLS = {
  'probe': _probe,
  'finetune': _finetune,
  'scratch': _finetune,
  'majority': _majority,
  'oracle': _oracle,
}


def _subsample(labelled: Examples, config: ConfigDict, task: Task) -> Examples:
  """A seeded subset of the positions, where there are more than allowed."""
  most = config.max_probe_examples
  if task.is_user_level or not most or len(labelled) <= most:
    return labelled
  logging.info(
    'probe: %d of the %d labelled positions are used (max_probe_examples)',
    most,
    len(labelled),
  )
  rng = np.random.default_rng(config.seed)
  chosen = rng.choice(len(labelled), most, replace=False)
  return labelled.take(np.sort(chosen))


def _head_and_tables(task: Task, dim: int) -> tuple[encoders.Head, dict]:
  num_outputs = dim if task.is_ranking else task.num_classes
  tables = {}
  if task.label_weights is not None:
    tables['label_weights'] = jnp.asarray(task.label_weights)
  return encoders.Head(num_outputs), tables


@functools.partial(jax.jit, static_argnums=0)
def _apply_head(head, params, h):
  return head.apply({'params': params}, h)


def _cross_entropy(outputs, batch: dict) -> jax.Array:
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


def _train_and_test(
  config,
  directory,
  task,
  validation,
  params,
  loss_fn,
  examples,
  tables,
  query_of,
  item_table_of,
) -> Outcome:
  """Trains, restores the best step by validation loss, tests once."""
  num_examples = len(examples['label'])
  batch_size = min(config.batch_size, num_examples)
  # Few labels give a small batch; it must still divide over the devices.
  batch_size -= batch_size % jax.device_count()
  if not batch_size:
    raise InputError(
      f'{num_examples} training examples do not fill {jax.device_count()} '
      f'devices; use a larger label_fraction or fewer devices.'
    )
  schedule = optimizer.make_schedule(config.optimizer, config.total_steps)
  tx = optimizer.make_optimizer(config.optimizer, schedule)
  plan = pipeline.ExamplePlan(examples, batch_size=batch_size, seed=config.seed)

  def numbers_of(state: TrainState, chosen: Examples):
    return evaluate.evaluate(
      task,
      chosen,
      query_of(chosen, state.params),
      item_table_of(state.params),
      config.exclude_seen,
    )

  def validate(state: TrainState) -> dict[str, float]:
    numbers, _ = numbers_of(state, validation)
    return {f'validation_{key}': value for key, value in numbers.items()}

  job = train.Job(
    name=f'{task.name} {config.protocol}',
    state=create_train_state(
      {'params': params}, tx, jax.random.key(config.seed)
    ),
    step=train_step.CompiledStep(
      train_step.make_train_step(loss_fn, tx, schedule), 'jit', batch_size
    ),
    # Few examples and everything on the device: no host pipeline needed.
    feed=lambda first_step: pipeline.feed(
      'device',
      plan,
      task.dataset.items,
      max_length=config.max_length,
      first_step=first_step,
      batch_size=batch_size,
    ),
    tables=tables,
    total_steps=config.total_steps,
    batch_size=batch_size,
    log_every_steps=config.log_every_steps,
    eval_every_steps=config.eval_every_steps,
    checkpoint_every_steps=config.checkpoint_every_steps,
    keep_checkpoints=config.keep_checkpoints,
    patience=config.patience,
    meta={
      'dataset': task.dataset.name,
      'task': task.name,
      'protocol': config.protocol,
      'split_fingerprint': splits.fingerprint(task.dataset),
      'pretrain_scope': 'leave_two_out' if not task.is_user_level else 'shared',
      'inductive': config.inductive,
    },
    evaluate=validate,
    tensorboard=config.tensorboard,
  )
  state, _ = train.fit(job, directory)
  selected, _ = numbers_of(state, validation)
  numbers, outcomes = numbers_of(state, task.test())
  return Outcome(numbers, outcomes, selected)


def write_result(directory: str, result: dict) -> None:
  """Appends the result to `results.jsonl`, its outcomes beside it."""
  line = {key: value for key, value in result.items() if key != 'outcomes'}
  folder = os.path.join(directory, 'outcomes')
  os.makedirs(folder, exist_ok=True)
  np.save(os.path.join(folder, f'{cell_name(line)}.npy'), result['outcomes'])
  workdir.append_line(os.path.join(directory, 'results.jsonl'), line)


def cell_name(line: dict) -> str:
  """Name of a finished evaluation, unique within a study."""
  return '-'.join(
    str(line[key])
    for key in ('task', 'protocol', 'objective', 'label_fraction', 'seed')
  )
