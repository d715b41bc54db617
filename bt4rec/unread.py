"""Refuses settings that a job would ignore; `datasets.options` does the data's.

A field is read unless a rule below says that something else must hold for it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from bt4rec import augment, pretext, protocols, remote, tasks, workdir
from bt4rec.errors import InputError
from bt4rec.objectives.weighted_sum import parse_sum

# Of a config that asks for several jobs, the config of one.
_Part = Callable[[ConfigDict], ConfigDict]


class _Rule(NamedTuple):
  """When fields are read.

  Attributes:
    fields: Fields, and groups with all that is in them.
    holds: Whether a config has what it takes.
    reader: Who reads them, in words.
  """

  fields: tuple[str, ...]
  holds: Callable[[ConfigDict], bool]
  reader: str


def _is_downstream(config: ConfigDict) -> bool:
  return config.task in tasks.TASKS


def _pretrains(config: ConfigDict) -> bool:
  return not _is_downstream(config)


# Untrained, or trained before.
_WITHOUT_TRAINING = (protocols.direct, protocols.majority, protocols.oracle)
_WITHOUT_ENCODER = (protocols.majority, protocols.oracle)


def _protocol(config: ConfigDict) -> Callable | None:
  return protocols.PROTOCOLS.get(config.protocol)


def _makes_encoder(config: ConfigDict) -> bool:
  needs_one = _pretrains(config) or _protocol(config) not in _WITHOUT_ENCODER
  return needs_one and not config.init_from


def _trains(config: ConfigDict) -> bool:
  return _pretrains(config) or _protocol(config) not in _WITHOUT_TRAINING


def _task(config: ConfigDict) -> type[tasks.Task] | None:
  return tasks.TASKS.get(config.task)


def _finetunes(config: ConfigDict) -> bool:
  return _is_downstream(config) and config.protocol == 'finetune'


def _fits_head(config: ConfigDict) -> bool:
  is_probe = _protocol(config) is protocols.probe
  return is_probe or (_finetunes(config) and config.head.total_steps != 0)


def _samples_positions(config: ConfigDict) -> bool:
  task = _task(config)
  is_of_events = task is not None and not task.is_user_level
  return is_of_events and _fits_head(config)


def _ranks(config: ConfigDict) -> bool:
  task = _task(config)
  return task is None or task.is_ranking


# The group of each objective of its own; others may read any.
_GROUPS = {
  'barlow_twins': ('barlow_twins', 'augment'),
  'dual_encoder': ('dual_encoder',),
  'info_nce': ('info_nce', 'augment'),
  'masked_item': ('masked_item', 'item_loss'),
  'next_item': ('item_loss',),
  'vicreg': ('vicreg', 'augment'),
}


def _of_objective(group: str) -> _Rule:
  readers = [name for name, groups in _GROUPS.items() if group in groups]

  def holds(config: ConfigDict) -> bool:
    names = parse_sum(config.objective, pretext.OBJECTIVES)
    return any(name in readers or name not in _GROUPS for name in names)

  return _Rule((group,), holds, f'objective={" or ".join(readers)}')


def _of_augmentation(field: str, *names: str) -> _Rule:
  return _Rule(
    (f'augment.{field}',),
    lambda config: any(name in config.augment.order for name in names),
    f'augment.order with {" or ".join(names)}',
  )


def _where(group: str, key: str, value: Any, *fields: str) -> _Rule:
  return _Rule(
    tuple(f'{group}.{field}' for field in fields),
    lambda config: config[group][key] == value,
    f'{group}.{key}={value}',
  )


_RULES = (
  _Rule(
    (
      'objective',
      'num_micro_batches',
      'model_parallelism',
      'packing',
      'augment',
      *dict.fromkeys(group for groups in _GROUPS.values() for group in groups),
    ),
    _pretrains,
    'task=pretrain',
  ),
  *map(_of_objective, dict.fromkeys(sum(_GROUPS.values(), ()))),
  _Rule(
    ('packing',),
    lambda config: config.encoder.name != 'bag_of_items',
    'encoder.name=transformer',
  ),
  _where('packing', 'enabled', True, 'max_cut', 'num_groups'),
  _of_augmentation('num_correlated', 'substitute', 'insert'),
  *(_of_augmentation(f'ratios.{name}', name) for name in augment.AUGMENTATIONS),
  _Rule(
    (
      'barlow_twins.min_context',
      'barlow_twins.contexts',
      'barlow_twins.horizon',
      'barlow_twins.fourier_features',
    ),
    lambda config: config.barlow_twins.next_item_weight != 0,
    'barlow_twins.next_item_weight above 0',
  ),
  _Rule(
    ('item_loss.num_negatives', 'item_loss.negatives_per'),
    lambda config: config.item_loss.name != 'full',
    'item_loss.name=sampled, bce or gbce',
  ),
  _where('item_loss', 'name', 'sampled', 'log_q_correction'),
  _where('item_loss', 'name', 'gbce', 'calibration'),
  _Rule(
    ('encoder', 'max_length', 'compute_dtype'),
    _makes_encoder,
    'who makes an encoder',
  ),
  _where(
    'encoder',
    'name',
    'transformer',
    'num_layers',
    'num_heads',
    'norm',
    'mlp',
    'mlp_ratio',
    'positions',
    'dropout',
    'causal',
    'pooling',
  ),
  _Rule(
    (
      'optimizer',
      'batch_size',
      'total_steps',
      'eval_every_steps',
      'checkpoint_every_steps',
      'keep_steps',
      'patience',
      'select_by',
    ),
    _trains,
    'who trains',
  ),
  _where('optimizer', 'on_non_finite', 'skip', 'max_skipped_steps'),
  _Rule(
    ('init_step',),
    lambda config: bool(config.init_from),
    'init_from=WORKDIR',
  ),
  _Rule(
    (
      'protocol',
      'evaluate_test',
      'label_fraction',
      'validation_fraction',
      'max_probe_examples',
      'cold_start',
      'variant',
    ),
    _is_downstream,
    'a downstream task',
  ),
  _Rule(
    ('max_probe_examples',),
    _samples_positions,
    'a probe or fine-tuning of next_item or next_category',
  ),
  _Rule(('head',), _finetunes, 'protocol=finetune'),
  _Rule(
    (
      'head.batch_size',
      'head.eval_every_steps',
      'head.patience',
      'head.learning_rate',
      'head.warmup_steps',
    ),
    _fits_head,
    'head.total_steps above 0',
  ),
  _Rule(
    ('cold_start',),
    lambda config: config.evaluate_test,
    'evaluate_test=True',
  ),
  _Rule(
    ('user_attribute',),
    lambda config: config.task == tasks.UserAttribute.name,
    'task=user_attribute',
  ),
  _Rule(('exclude_seen',), _ranks, 'pretrain and next_item'),
  _Rule(
    ('pretrain_scope',),
    lambda config: _pretrains(config) or not config.init_from,
    'task=pretrain',
  ),
)


def _reader(config: ConfigDict, field: str) -> str:
  """Who reads a field of a job's config in the job's place; '' if it does."""
  for rule in _RULES:
    concerns = any(f'{field}.'.startswith(f'{name}.') for name in rule.fields)
    if concerns and not rule.holds(config):
      return rule.reader
  return ''


def settings(config: ConfigDict) -> dict[str, Any]:
  """What the result of one job depends on.

  Args:
    config: A whole config of a pre-training or a downstream run.

  Returns:
    Dotted field -> value as JSON has it.
  """
  return {
    field: value
    for field, value in workdir.flat(config).items()
    if not workdir.is_free(field) and not _reader(config, field)
  }


def check(
  config: ConfigDict,
  parts_of: Callable[[ConfigDict], list[_Part]],
  as_written: ConfigDict | None = None,
) -> None:
  """Checks that every field that was changed changes something.

  What no result depends on may be given to any job, and so may the values
  that the pre-training of `init_from` was made with.

  Args:
    config: A whole config.
    parts_of: A config -> what gives, of such a config, that of each of the
      jobs it asks for: itself, or a cell of a study.
    as_written: The config of the file, before flags changed it. What it has
      for a job that the flags leave out was not given by the user.

  Raises:
    InputError: If a value would be ignored that is neither the default nor
      what the config files choose for the dataset; the text says who reads it.
  """
  parts = parts_of(config)
  defaults = _defaults(config)
  written = {}
  if as_written:
    as_written = as_written.copy_and_resolve_references()
    # An encoder that the file describes is not to be replaced unnoticed.
    as_written.init_from = config.init_from
    written = workdir.flat(as_written)
  before, source = None, {}
  # The jobs of a study have their own.
  if config.init_from in {part(config).init_from for part in parts} - {''}:
    before = workdir.read_config(remote.fetched(config.init_from))
    source = workdir.flat(before)
  ignored, remedy = [], 'leave it out'
  for field, value in workdir.flat(config).items():
    known = [given[field] for given in defaults if field in given]
    is_usual = not known or value in known
    # The data's have a check of their own.
    is_elsewhere = field == 'task' or field.startswith('dataset.')
    if is_usual or is_elsewhere or workdir.is_free(field):
      continue
    if field in source and value == source[field]:
      continue
    if _is_read(config, parts, field, known[0]):
      continue
    if (
      as_written
      and written.get(field) == value
      and _is_read(as_written, parts_of(as_written), field, known[0])
    ):
      continue
    reader = _reader(parts[0](config), field) if len(parts) == 1 else ''
    notes = ['each job has its own, or none reads it']
    if reader:
      notes = [f'read by {reader}']
    if field in source and source[field] not in known:
      notes.append(f'{config.init_from} has {source[field]!r}')
    if before and not _reader(before, field):
      remedy = 'leave it out, or pre-train with it'
    ignored.append(f'{field}={value!r} ({"; ".join(notes)})')
  if ignored:
    job = f'task={config.task}'
    if _is_downstream(config):
      job += f' with protocol={config.protocol}'
    raise InputError(
      f'{" and ".join(ignored)} would be ignored by {job}; {remedy}.'
    )


def check_overrides(config: ConfigDict, values: Any, name: str) -> None:
  """Checks that a job reads what a row of a study overrides.

  Args:
    config: The whole config of the job.
    values: Field -> value, in groups as in the config.
    name: Where they stand in the config of the study.

  Raises:
    InputError: If one would be ignored; the text says who reads it.
  """
  for field, value in workdir.flat(ConfigDict(values)).items():
    reader = '' if workdir.is_free(field) else _reader(config, field)
    if reader:
      raise InputError(
        f'{name}.{field}={value!r} (read by {reader}) would be ignored; leave '
        f'it out.'
      )


def _is_read(
  config: ConfigDict, parts: list[_Part], field: str, default: Any
) -> bool:
  """Whether with the default the result of a part would be another."""
  plain = config.copy_and_resolve_references()
  plain.update_from_flattened_dict({field: default})
  return any(settings(part(config)) != settings(part(plain)) for part in parts)


def _defaults(config: ConfigDict) -> list[dict[str, Any]]:
  """The default of each field, and what goes with the dataset."""
  # Not above: whoever only loads an encoder may have another package `configs`.
  from configs import base, presets

  plain, of_dataset = base.get_config(), base.get_config()
  if config.dataset.name in presets.DATASETS:
    presets.set_dataset(of_dataset, config.dataset.name)
  return [workdir.flat(plain), workdir.flat(of_dataset)]
