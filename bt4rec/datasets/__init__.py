"""The datasets, behind one function: a config gives a `SequenceDataset`."""

import os

from ml_collections import ConfigDict

from bt4rec.datasets import movielens, sequences, synthetic
from bt4rec.datasets.sequences import Catalogue, SequenceDataset
from bt4rec.errors import InputError, choose

__all__ = ['Catalogue', 'SequenceDataset', 'load', 'synthetic_world']


def load(config: ConfigDict) -> SequenceDataset:
  """Loads the dataset a config names.

  Args:
    config: The group `dataset` of the config: `name`, and `path` (raw files),
      `prepared` (prepared arrays) or neither (download; synthetic needs none).

  Returns:
    The dataset.

  Raises:
    InputError: If the name is unknown or a file is missing or damaged.
  """
  read = choose('dataset', config.name, _SOURCES)
  if not config.prepared:
    return read(config)
  if config.path:
    raise InputError(
      'both dataset.path and dataset.prepared are given; clear one of them.'
    )
  dataset = sequences.load(config.prepared)
  if dataset.name != config.name:
    raise InputError(
      f'{config.prepared} holds the dataset {dataset.name!r}, the config asks '
      f'for {config.name!r}; change one of them.'
    )
  return dataset


def synthetic_world(config: ConfigDict) -> synthetic.World:
  """Returns the synthetic world of the config group `dataset.synthetic`."""
  return synthetic.World(**config.synthetic.to_dict())


def _load_synthetic(config: ConfigDict) -> SequenceDataset:
  if config.path:
    raise InputError(
      'dataset.path is set, but the synthetic dataset reads no files; clear '
      'it, or choose another dataset.'
    )
  return synthetic.make_dataset(synthetic_world(config))


def _load_ml1m(config: ConfigDict) -> SequenceDataset:
  # Needs TensorFlow, which training from prepared arrays does without.
  from bt4rec.datasets import user_sequences

  path = os.path.expanduser(config.path)
  source = user_sequences.SourceConfig(
    source='ml1m',
    path=path,
    files=movielens.ml1m_files(path) if path else [],
    url=movielens.ML1M_URL,
    read=lambda path: movielens.read_ml1m(path, config.expect_official),
    options={'expect_official': config.expect_official},
  )
  return user_sequences.load(source, os.path.expanduser(config.data_dir))


_SOURCES = {'synthetic': _load_synthetic, 'ml1m': _load_ml1m}
