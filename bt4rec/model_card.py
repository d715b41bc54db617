"""The model card of a workdir: README.md in the form of Hugging Face's hub.

It is made of what the workdir holds and of the data, so that the same command
writes the same card again.
"""

import os
from collections.abc import Callable, Iterable

import yaml
from ml_collections import ConfigDict

from bt4rec import splits, workdir
from bt4rec.datasets import SequenceDataset

# Source of the data -> what its owner asks of what is made from it.
_TERMS = {
  'synthetic': 'The data are generated; nobody else has a right in them.',
  'ml1m': (
    "MovieLens data are GroupLens' (<https://grouplens.org/datasets/movielens/>"
    '): not to be redistributed, nor used commercially, without permission.'
  ),
  'yelp': (
    'Yelp data are for academic use under the terms of the Yelp Open Dataset '
    '(<https://business.yelp.com/data/resources/open-dataset/>).'
  ),
  'logs': (
    "The data are the user's own; who may use the weights is for their owner "
    'to say. Embeddings of people are personal data.'
  ),
}
_TERMS['ml20m'] = _TERMS['ml1m']
_TAGS = (
  'recommendation',
  'sequential-recommendation',
  'user-embeddings',
  'jax',
)
# Numbers that say how healthy embeddings are; see `health`.
_HEALTH = (
  'health',
  'effective_rank',
  'embedding_std',
  'relative_spread',
  'alignment',
  'uniformity',
)


def write_pretraining(directory: str, dataset: SequenceDataset) -> None:
  """Writes the card of a finished pre-training.

  Args:
    directory: The workdir; it has `config.json` and `metrics.jsonl`.
    dataset: The dataset of the config.

  Raises:
    InputError: If the workdir has no config.
  """
  _write(directory, dataset, _pretraining)


def write_downstream(directory: str, dataset: SequenceDataset) -> None:
  """Writes the card of a finished downstream run.

  Args:
    directory: The workdir; it has `config.json` and `results.jsonl`.
    dataset: The dataset of the config.

  Raises:
    InputError: If the workdir has no config.
  """
  _write(directory, dataset, _downstream)


def _write(directory: str, dataset: SequenceDataset, make: Callable) -> None:
  config = workdir.read_config(directory)
  front, sections = make(config, directory, dataset)
  text = yaml.safe_dump(front, sort_keys=False, allow_unicode=True)
  path = os.path.join(directory, 'README.md')
  workdir.write_atomically(
    path, '\n\n'.join([f'---\n{text}---', *sections]) + '\n'
  )


def _pretraining(
  config: ConfigDict, directory: str, dataset: SequenceDataset
) -> tuple[dict, list[str]]:
  lines = workdir.read_lines(os.path.join(directory, 'metrics.jsonl'))
  name = config.label or config.objective
  best = _best(lines, config.select_by)
  numbers = {key: best[key] for key in best if key.startswith('validation_')}
  verdict: dict = next((x for x in reversed(lines) if 'health' in x), {})
  health = {key: verdict[key] for key in _HEALTH if key in verdict}
  front = _front(config, dataset, [name], numbers)
  sections = [
    f'# {name} on {dataset.name}',
    f'An encoder of item sequences: the last {config.max_length} events of a '
    f'user become a vector of {config.encoder.dim} numbers. Pre-trained '
    f'without labels by the objective `{config.objective}`, with '
    f'[bt4rec](https://arxiv.org/abs/2505.00953).',
    _data(config, dataset),
    '## Training\n\n'
    f'{_encoder(config)}, at most {config.total_steps:,} steps of '
    f'{config.batch_size} users, seed {config.seed}. The step with the best '
    f'`{config.select_by}` on validation is kept. All settings: '
    f'`config.json`.',
    f'## Figures\n\nOn validation, at step {best.get("step", 0):,}:\n\n'
    + _table(['', 'validation'], ((k, (v,)) for k, v in numbers.items())),
  ]
  if health:
    sections.append(
      f'Of the embeddings, at step {verdict["step"]:,}:\n\n'
      + _table(['', 'value'], ((k, (v,)) for k, v in health.items()))
    )
  sections += [
    _how_to_load(has_encoder=True, recommends=False),
    _use(),
    _limits(config, health.get('health')),
    _terms(dataset),
    _provenance(
      workdir.read_lines(os.path.join(directory, 'sessions.jsonl')),
      dataset,
      lines[-1].get('seconds') if lines else None,
    ),
  ]
  return front, sections


def _downstream(
  config: ConfigDict, directory: str, dataset: SequenceDataset
) -> tuple[dict, list[str]]:
  result = workdir.read_lines(os.path.join(directory, 'results.jsonl'))[-1]
  test, validation = (
    {key: x for key, x in result[part].items() if isinstance(x, int | float)}
    for part in ('metrics', 'validation')
  )
  name = f'{result["objective"]}, {config.protocol}'
  front = _front(
    config,
    dataset,
    [result['objective'], config.task, config.protocol],
    test or validation,
  )
  front['model-index'] = [
    {
      'name': name,
      'results': [
        {
          'task': {'type': 'other', 'name': config.task},
          'dataset': {'type': dataset.name, 'name': dataset.name},
          'metrics': [
            {'type': key, 'value': _rounded(value)}
            for key, value in (test or validation).items()
          ],
        }
      ],
    }
  ]
  has_head = os.path.isdir(os.path.join(directory, 'checkpoints'))
  source = os.path.basename(config.init_from)
  start = f'the encoder of `{source}`' if source else 'no pre-training'
  columns = {'test': test, 'validation': validation}
  columns = {key: numbers for key, numbers in columns.items() if numbers}
  sections = [
    f'# {name}: {config.task} on {dataset.name}',
    f'The task `{config.task}` by the protocol `{config.protocol}`, from '
    f'{start}, with {100 * config.label_fraction:g} % of the labels.',
    _data(config, dataset),
    '## Protocol\n\n'
    f'{result["num_train"]:,} labelled examples, {result["num_test"]:,} of '
    f'the test, seed {result["seed"]}. Early stopping and the choice of the '
    f'step look at validation; the test examples are looked at once, after '
    f'that. All settings: `config.json`.',
    '## Figures\n\n'
    + _table(
      ['', *columns],
      (
        (key, tuple(numbers.get(key, '') for numbers in columns.values()))
        for key in validation
      ),
    ),
    _how_to_load(
      has_encoder=has_head and config.protocol != 'probe',
      recommends=has_head and config.task == 'next_item',
      encoder=source if has_head and config.protocol == 'probe' else '',
    ),
    _use(),
    _limits(config),
    _terms(dataset),
    _provenance([result], dataset, result['wall_seconds']),
  ]
  return front, sections


def _best(lines: list[dict], select_by: str) -> dict:
  """The line of the step that is kept: the last of equal ones."""
  key = f'validation_{select_by}'
  sign = 1 if key.endswith('loss') else -1
  found: dict = {}
  for line in lines:
    if key in line and (not found or sign * line[key] <= sign * found[key]):
      found = line
  return found


def _front(
  config: ConfigDict,
  dataset: SequenceDataset,
  tags: list[str],
  numbers: Iterable[str],
) -> dict:
  source = dataset.origin.get('source', config.dataset.name)
  if source == 'synthetic':
    licence = {'license': 'apache-2.0'}
  else:
    licence = {'license': 'other', 'license_name': f'terms-of-{source}'}
  return {
    'library_name': 'bt4rec',
    'pipeline_tag': 'feature-extraction',
    'tags': [*_TAGS, *tags],
    'datasets': [dataset.name],
    'metrics': [key.removeprefix('validation_') for key in numbers],
    **licence,
  }


def _data(config: ConfigDict, dataset: SequenceDataset) -> str:
  scope = {
    'shared': 'the past of the users, without any held-out event of any task',
    'leave_two_out': 'all events but the last two of each user',
  }[config.pretrain_scope]
  who = 'training users only' if config.inductive else 'all users'
  return (
    f'## Data\n\n'
    f'`{dataset.name}`: {dataset.num_users:,} users, '
    f'{dataset.catalogue.num_items:,} items, {dataset.num_events:,} events. '
    f'Pre-training sees {scope} (`pretrain_scope={config.pretrain_scope}`), of '
    f'{who}. Split fingerprint `{splits.fingerprint(dataset)}`.'
  )


def _encoder(config: ConfigDict) -> str:
  encoder = config.encoder
  if encoder.name != 'transformer':
    return f'`{encoder.name}`, width {encoder.dim}'
  return (
    f'Transformer, {encoder.num_layers} layers, {encoder.num_heads} heads, '
    f'width {encoder.dim}, {"causal" if encoder.causal else "bidirectional"}, '
    f'pooling `{encoder.pooling}`'
  )


def _how_to_load(
  *, has_encoder: bool, recommends: bool, encoder: str = ''
) -> str:
  title = '## How to load it\n\n'
  if not (has_encoder or encoder):
    return f'{title}Nothing to load: this row of the table has no parameters.'
  lines = [
    '```python',
    'import bt4rec',
    '',
    "encoder = bt4rec.load_encoder('PATH/OF/THIS/FOLDER')",
    '# Original item ids, oldest first; users need not be known.',
    'encoder.embed([[ITEM, ITEM, ITEM], [ITEM, ITEM]])',
  ]
  if recommends:
    lines.append('encoder.recommend([[ITEM, ITEM, ITEM]], k=10)')
  text = title + '\n'.join([*lines, '```'])
  if encoder:
    text += (
      f'\n\nHere is the head alone. The encoder is in the workdir `{encoder}`, '
      f'which must lie beside this folder, or where it was.'
    )
  return text


def _use() -> str:
  return (
    '## Intended use\n\n'
    'Research on user sequences, and features of users and items for '
    'recommender systems over this catalogue. Not for decisions about '
    'people.'
  )


def _limits(config: ConfigDict, health: str | None = None) -> str:
  limits = [
    f'Only the newest {config.max_length} events of a user count, and of them '
    f'the items and their order: no times, ratings or texts.',
    'An item that is not in the catalogue counts as masked; new items need '
    'another training.',
    'What is popular in the log is favoured, and whatever bias the log has is '
    'kept.',
    f'One run with one seed ({config.seed}): how far others differ is not '
    f'known from it.',
  ]
  if not config.inductive:
    limits.append(
      'Pre-training used the past of the users that are tested, too; for '
      'users never seen figures may be lower.'
    )
  if config.pretrain_scope == 'leave_two_out':
    limits.append(
      'Held-out events of favorite_category were seen; only figures of '
      'next_item and next_category are fair.'
    )
  if health not in (None, 'healthy'):
    limits.append(f'The embeddings are not healthy: {health}.')
  return '## Limits\n\n' + '\n'.join(f'- {limit}' for limit in limits)


def _terms(dataset: SequenceDataset) -> str:
  terms = _TERMS[dataset.origin.get('source', dataset.name)]
  return f'## Licence\n\nThe code is under the Apache licence 2.0. {terms}'


def _provenance(
  sessions: list[dict], dataset: SequenceDataset, seconds: float | None
) -> str:
  rows = {
    'commit': _distinct(session['commit'] for session in sessions),
    'device': _distinct(session['device'] for session in sessions),
    'versions': _distinct(
      ', '.join(f'{k} {v}' for k, v in session['versions'].items())
      for session in sessions
    ),
    'split fingerprint': splits.fingerprint(dataset),
    'seconds': 'unknown' if seconds is None else f'{seconds:,.0f}',
  }
  return '## Provenance\n\n' + _table(
    ['', ''], ((key, (value,)) for key, value in rows.items())
  )


def _distinct(values: Iterable[str]) -> str:
  # A workdir of an older version has no sessions.
  return '; '.join(dict.fromkeys(values)) or 'unknown'


def _table(header: list[str], rows: Iterable[tuple[str, tuple]]) -> str:
  lines = [header, ['---'] * len(header)]
  lines += [[name, *map(_text, values)] for name, values in rows]
  return '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines)


def _text(value) -> str:
  return f'{value:.4g}' if isinstance(value, float) else str(value)


def _rounded(value: float) -> float:
  return float(f'{value:.4g}')
