"""The protocols: how labels are used, and the rows that need none."""

import dataclasses
import os

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from bt4rec import (
  baselines,
  datasets,
  encode,
  evaluate,
  features,
  heads,
  initial_encoder,
  optimizer,
  pipeline,
  ranking,
  train,
  vocabulary,
)
from bt4rec.errors import InputError
from bt4rec.supervised import (
  Model,
  Outcome,
  Setting,
  cross_entropy,
  fit,
  head_and_tables,
  init_head,
  outcome_of,
  train_and_test,
)
from bt4rec.tasks import Examples, Task


def load_init(config: ConfigDict, task: Task) -> encode.Encoder:
  """Loads the pre-trained encoder, or makes a random one.

  Raises:
    InputError: See `initial_encoder.load`.
  """
  if not config.init_from:
    return encode.random_encoder(config, task.dataset.catalogue, config.seed)
  return initial_encoder.load(
    config, task.dataset, task.name, task.held_out_from()
  )


def _refuse_init(config: ConfigDict) -> None:
  if config.init_from:
    raise InputError(
      f'protocol={config.protocol} works without pre-training, but init_from '
      f'is set; clear it, or use protocol=probe or finetune.'
    )


def probe(setting: Setting) -> Outcome:
  """A linear head on a frozen encoder."""
  encoder = load_init(setting.config, setting.task)
  return train_and_test(*_make_probe(setting, encoder))


def _make_probe(
  setting: Setting, encoder: encode.Encoder
) -> tuple[Setting, Model]:
  """A linear head on an encoder, with the examples it is trained on."""
  config, task, cache = setting.config, setting.task, setting.cache
  name = f'{config.init_from} {config.init_step}'
  if not config.init_from:
    name = f'random {config.seed}'
  setting = dataclasses.replace(
    setting, train=_subsample(setting.train, config, task)
  )
  features = cache.embed(name, encoder, task, setting.train)
  # Standardised, which a linear map can undo: it only conditions the
  # optimisation, so that one learning rate serves every encoder.
  mean, std = features.mean(0), features.std(0) + 1e-6
  head, tables = head_and_tables(task, encoder.dim)
  candidates = None
  if task.is_ranking:
    table = tables['item_table'] = heads.probe_table(encoder.item_table)
    candidates = ranking.Candidates(table, jnp.zeros(len(table)))

  def loss_fn(params, batch_stats, batch, rng):
    del rng
    h = batch['features'][batch['example']]
    outputs = head.apply({'params': params['head']}, h)
    return cross_entropy(outputs, batch), ({}, batch_stats)

  model = Model(
    params={'head': init_head(setting, head, encoder.dim)},
    loss_fn=loss_fn,
    rows={
      'example': np.arange(len(setting.train), dtype=np.int32),
      'label': setting.train.labels,
    },
    tables={**tables, 'features': jnp.asarray((features - mean) / std)},
    embed=lambda examples, _: cache.embed(name, encoder, task, examples),
    head_of=lambda params, batch_stats: heads.TrainedHead(
      params['head'], batch_stats, candidates
    ),
    batch_stats={'mean': jnp.asarray(mean), 'std': jnp.asarray(std)},
    meta={
      'encoder': encoder.directory,
      'encoder_step': initial_encoder.step_of(config),
      'encoder_digest': encoder.digest(),
    },
  )
  return setting, model


def _fit_head(setting: Setting, encoder: encode.Encoder) -> dict:
  """A probe's head, for embeddings and items as they are.

  A head of zeros bends the encoder before it is of use itself, and how long
  that takes depends on the scale of the pre-training's item table. From a
  fitted one the worst that validation can choose is the probe: linear probing,
  then fine-tuning (Kumar et al., 2022, https://arxiv.org/abs/2202.10054).
  """
  own = setting.config.copy_and_resolve_references()
  fields = dict(own.head)
  # What is wrong is refused before the head is trained, not after.
  _check_head(own.head)
  train.settings(setting.config)
  optimizer.make_schedule(setting.config.optimizer, setting.config.total_steps)
  own.optimizer.update(
    {key: fields.pop(key) for key in ('learning_rate', 'warmup_steps')}
  )
  # Of the fine-tuning's own steps.
  own.update({'keep_steps': (), 'checkpoint_every_steps': 0})
  own.update({**fields, 'protocol': 'probe', 'steps_per_call': 1})
  directory = os.path.join(setting.directory, 'head')
  setting, model = _make_probe(
    dataclasses.replace(setting, config=own, directory=directory), encoder
  )
  state = fit(setting, model)
  return heads.unconditioned(
    state.params['head'],
    state.batch_stats,
    encoder.item_table if setting.task.is_ranking else None,
  )


def _check_head(head: ConfigDict) -> None:
  """By their own names; a training would call them the optimizer's."""
  if not 0 <= head.warmup_steps < head.total_steps:
    raise InputError(
      f'head.warmup_steps={head.warmup_steps} must be at least 0 and less than '
      f'head.total_steps={head.total_steps}; change '
      f'--config.head.warmup_steps, or take 0 steps for a head of zeros.'
    )
  if head.eval_every_steps < 1 or head.batch_size < 1:
    raise InputError(
      f'head.eval_every_steps={head.eval_every_steps} and head.batch_size='
      f'{head.batch_size} must be at least 1.'
    )


def finetune(setting: Setting) -> Outcome:
  """Encoder and head trained together, from a pre-training or from scratch."""
  config, task = setting.config, setting.task
  if config.protocol == 'scratch':
    _refuse_init(config)
  if config.protocol == 'finetune' and not config.init_from:
    raise InputError(
      'protocol=finetune needs a pre-training; name its workdir with '
      '--config.init_from, or use protocol=scratch.'
    )
  encoder = load_init(config, task)
  vocabulary.save(setting.directory, task.dataset.catalogue)
  head, tables = head_and_tables(task, encoder.dim)
  if config.protocol == 'finetune' and config.head.total_steps:
    head_params = _fit_head(setting, encoder)
  else:
    head_params = init_head(setting, head, encoder.dim)
  offsets = task.dataset.offsets
  events = features.events_of(task.dataset, encoder.features)

  def loss_fn(params, batch_stats, batch, rng):
    batch = pipeline.materialize(batch, encoder.max_length)
    h = encoder.module.apply(
      {'params': params['encoder']},
      batch['items'],
      train=True,
      codes=features.codes_of(batch),
      rngs={'dropout': rng},
    )
    outputs = head.apply({'params': params['head']}, h)
    if task.is_ranking:
      table = params['encoder']['item_table']['embedding'][1:-1]
      batch = {**batch, 'item_table': table}
    return cross_entropy(outputs, batch), ({}, batch_stats)

  def trained(params) -> encode.Encoder:
    return dataclasses.replace(encoder, params=params['encoder'])

  def embed(examples, params):
    windows = examples.windows(offsets, encoder.max_length)
    return trained(params).embed_windows(events, **windows)

  model = Model(
    params={
      'encoder': encoder.params,
      'head': head_params,
    },
    loss_fn=loss_fn,
    rows={
      **setting.train.windows(offsets, encoder.max_length),
      'label': setting.train.labels,
    },
    tables={**tables, 'events': jax.tree.map(jnp.asarray, events)},
    embed=embed,
    head_of=lambda params, batch_stats: heads.TrainedHead(
      params['head'],
      batch_stats,
      trained(params).candidates if task.is_ranking else None,
    ),
  )
  return train_and_test(setting, model)


def direct(setting: Setting) -> Outcome:
  """What the pre-training itself predicts next: no labels, no training."""
  config, task = setting.config, setting.task
  if not task.is_ranking:
    raise InputError(
      f'protocol=direct predicts items, which task {task.name!r} does not '
      f'ask for; use task=next_item, or protocol=probe.'
    )
  if not config.init_from:
    raise InputError(
      'protocol=direct needs a pre-training; name its workdir with '
      '--config.init_from.'
    )
  if config.label_fraction != 1:
    raise InputError(
      f'protocol=direct uses no labels, but label_fraction='
      f'{config.label_fraction}; leave it at 1.'
    )
  encoder = load_init(config, task)
  if 'task' in encoder.meta:
    raise InputError(
      f'{config.init_from} is a run of task={encoder.meta["task"]}; name the '
      f'workdir of a pre-training.'
    )
  scorer = encoder.require_scorer()
  return outcome_of(
    setting,
    lambda examples: evaluate.evaluate_scorer(
      scorer, task, examples, config.exclude_seen
    ),
  )


def majority(setting: Setting) -> Outcome:
  """The same answer for everybody."""
  _refuse_init(setting.config)
  return outcome_of(
    setting,
    lambda examples: baselines.majority(
      setting.task,
      setting.train,
      examples,
      setting.config.exclude_seen,
      setting.visible,
    ),
  )


def oracle(setting: Setting) -> Outcome:
  """The best possible answer, where the truth is known."""
  config, task = setting.config, setting.task
  _refuse_init(config)
  if task.dataset.name != 'synthetic':
    raise InputError(
      f'protocol=oracle needs the synthetic dataset, whose truth is known, '
      f'not {task.dataset.name!r}.'
    )
  if not task.asks_of_events:
    raise InputError(
      f'protocol=oracle knows the truth about events alone, and '
      f'{task.name!r} asks for something else; use another protocol.'
    )
  world = datasets.synthetic_world(config.dataset)
  return outcome_of(
    setting,
    lambda examples: baselines.oracle(
      task, world, examples, config.exclude_seen
    ),
  )


PROTOCOLS = {
  'probe': probe,
  'finetune': finetune,
  'scratch': finetune,
  'direct': direct,
  'majority': majority,
  'oracle': oracle,
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
