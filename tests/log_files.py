"""Writes and reads logs, for the tests of what reads them."""

import pathlib

import numpy as np

from bt4rec.datasets import logs, sequences
from configs import base

HEAD = 'user,item,timestamp\n'
COLUMNS = base.get_config().dataset.columns.to_dict()


def read(path, columns=None, **options) -> sequences.SequenceDataset:
  """Reads a log; `columns` are those that differ from the config's."""
  return logs.read_logs(
    str(path), columns={**COLUMNS, **(columns or {})}, **options
  )


def write(folder, data, name='log.csv') -> pathlib.Path:
  """Writes text or bytes to a file."""
  path = folder / name
  path.write_bytes(data.encode() if isinstance(data, str) else data)
  return path


def read_text(folder, data, columns=None, name='log.csv', **options):
  """Reads what is written first."""
  return read(write(folder, data, name), columns, **options)


def events_of(dataset) -> list[tuple]:
  """(user, item, second) in the order of the dataset."""
  users = np.repeat(dataset.user_ids, dataset.lengths).tolist()
  items = dataset.catalogue.item_ids[dataset.items - 1].tolist()
  return list(zip(users, items, dataset.timestamps.tolist(), strict=True))
