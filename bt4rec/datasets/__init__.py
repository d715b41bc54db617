"""The datasets, behind one function: a config gives a `SequenceDataset`."""

import dataclasses
import os
from collections.abc import Callable, Sequence

from absl import logging
from ml_collections import ConfigDict

from bt4rec import remote
from bt4rec.datasets import (
  logs,
  movielens,
  options,
  sequences,
  synthetic,
  yelp,
)
from bt4rec.datasets.sequences import Catalogue, SequenceDataset
from bt4rec.errors import InputError, choose

__all__ = [
  'Catalogue',
  'SequenceDataset',
  'load',
  'prepared_config',
  'synthetic_world',
]


def load(config: ConfigDict) -> SequenceDataset:
  """Loads the dataset a config names.

  Args:
    config: The group `dataset` of the config: `name`, and `path` (raw files),
      `prepared` (prepared arrays) or neither (download; synthetic needs none).

  Returns:
    The dataset.

  Raises:
    InputError: If the name is unknown, a file is missing or damaged, or an
      option is set that would not be read.
  """
  check_options(config)
  chosen = _SOURCES[config.name]
  if not config.prepared:
    dataset = chosen.read(config)
    _log_origin(dataset)
    return dataset
  dataset = sequences.load(remote.fetched(config.prepared))
  # A stand-in has a name of its own, and the source of what it stands for.
  source = dataset.origin.get('source', dataset.name)
  if source != config.name:
    raise InputError(
      f'{config.prepared} holds the dataset {source!r}, the config asks '
      f'for {config.name!r}; change one of them.'
    )
  for group in chosen.describes:
    made_with = dataset.origin.get(group, {})
    for key, value in config[group].items():
      if made_with.get(key, value) != value:
        raise InputError(
          f'{config.prepared} was made with dataset.{group}.{key}='
          f'{made_with[key]!r}, the config has {value!r}; give the same value.'
        )
  _log_origin(dataset)
  return dataset


def check_options(config: ConfigDict) -> None:
  """Checks that the dataset is known and reads every option that is set.

  Raises:
    InputError: If it is not or does not.
  """
  chosen = choose('dataset', config.name, _SOURCES)
  options.check(
    config,
    chosen.describes if config.prepared else chosen.reads,
    {name: source.reads for name, source in _SOURCES.items()},
  )


def prepared_config(config: ConfigDict, directory: str) -> ConfigDict:
  """The group `dataset` for prepared arrays of what a config reads.

  Args:
    config: The group `dataset` that the arrays were made with.
    directory: Where they lie.
  """
  from configs import base  # As in `options`.

  prepared = base.get_config().dataset
  prepared.name, prepared.prepared = config.name, directory
  for group in _SOURCES[config.name].describes:
    prepared[group].update(config[group])
  return prepared


def _log_origin(dataset: SequenceDataset) -> None:
  """Says what was read, kept and left out; nothing disappears silently."""
  origin = dataset.origin
  if 'rows_read' in origin:
    logging.info(
      '%s: %d rows read, %d events kept',
      dataset.name,
      origin['rows_read'],
      origin['events_kept'],
    )
    for reason, count in origin['dropped'].items():
      logging.info('%s: left out: %d %s', dataset.name, count, reason)
    for what, count in origin['notes'].items():
      logging.info('%s: %d %s', dataset.name, count, what)
  if 'published_snapshot' in origin:
    logging.info(
      '%s: %d reviews of %d businesses; the published snapshot with these '
      'counts: %s',
      dataset.name,
      origin['rows_read'],
      origin['businesses_read'],
      origin['published_snapshot'],
    )


@dataclasses.dataclass(frozen=True)
class _Source:
  """A source of data.

  Attributes:
    read: Config group `dataset` -> the dataset.
    reads: The fields and groups of the config that `read` looks at; another
      one that is set is refused.
    describes: Those of them that are in use with prepared arrays too, and
      whose values the arrays know.
  """

  read: Callable[[ConfigDict], SequenceDataset]
  reads: tuple[str, ...]
  describes: tuple[str, ...] = ()


def synthetic_world(config: ConfigDict) -> synthetic.World:
  """Returns the synthetic world of the config group `dataset.synthetic`."""
  return synthetic.World(**config.synthetic.to_dict())


def _from_files(
  list_files: Callable[..., list[str]],
  read: Callable[..., SequenceDataset],
  *,
  options: Sequence[str] = (),
  group: str = '',
  url: str = '',
) -> _Source:
  """Makes the source that is read from files, once, into records.

  Args:
    list_files: Path, and those options whose value names a file -> the files
      whose content names the records.
    read: Path and all options -> the dataset.
    options: Fields of the config group `dataset` that `read` takes.
    group: A group in it of which `read` takes every field.
    url: Archive to download where no path is given.
  """

  def load_files(config: ConfigDict) -> SequenceDataset:
    # Needs TensorFlow, which training from prepared arrays does without.
    try:
      from bt4rec.datasets import user_sequences
    except ModuleNotFoundError as error:
      raise InputError(
        f'TensorFlow is missing ({error}), and the files of dataset '
        f'{config.name!r} are read by it; install tensorflow-cpu and '
        f'tensorflow-datasets, or give arrays that bt4rec.describe made '
        f'elsewhere with --config.dataset.prepared.'
      ) from error

    path = remote.fetched(config.path)
    if not path and not url:
      raise InputError(
        f'dataset {config.name!r} has no download; name your files with '
        f'--config.dataset.path.'
      )
    fields = config.to_dict()
    if fields.get('item_table'):
      fields['item_table'] = remote.fetched(fields['item_table'])
    values = {key: fields[key] for key in options} | fields.get(group, {})

    def read_and_name(path: str) -> SequenceDataset:
      dataset = read(path, **values)
      origin = {'source': config.name, **dataset.origin}
      return dataclasses.replace(dataset, origin=origin)

    source = user_sequences.SourceConfig(
      source=config.name,
      path=path,
      files=list_files(path, values) if path else [],
      url=url,
      read=read_and_name,
      options=values,
    )
    return user_sequences.load(source, os.path.expanduser(config.data_dir))

  groups = (group,) if group else ()
  return _Source(load_files, ('path', *options, *groups))


# The datasets there are.
_SOURCES = {
  'synthetic': _Source(
    lambda config: synthetic.make_dataset(synthetic_world(config)),
    reads=('synthetic',),
    # Of the oracle.
    describes=('synthetic',),
  ),
  'ml1m': _from_files(
    lambda path, _: movielens.ml1m_files(path),
    movielens.read_ml1m,
    options=('expect_official',),
    url=movielens.ML1M_URL,
  ),
  'ml20m': _from_files(
    lambda path, _: movielens.ml20m_files(path),
    movielens.read_ml20m,
    options=('expect_official',),
    url=movielens.ML20M_URL,
  ),
  'yelp': _from_files(
    lambda path, _: yelp.yelp_files(path),
    yelp.read_yelp,
    options=('k_core',),
    group='yelp',
  ),
  'logs': _from_files(
    lambda path, values: logs.log_files(path, values['item_table']),
    logs.read_logs,
    options=(
      'columns',
      'timestamp_unit',
      'category_separator',
      'item_table',
      'min_rating',
      'encoding',
      'delimiter',
      'bad_rows',
      'duplicates',
      'k_core',
    ),
  ),
}
