"""Labels of users that stand in a file of their own, apart from the log."""

import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterator

import numpy as np
from absl import logging
from ml_collections import ConfigDict

from bt4rec import remote
from bt4rec.datasets import event_table, movielens, tables
from bt4rec.datasets.sequences import SequenceDataset
from bt4rec.errors import InputError

# A label with more values than this is no class: a number, or an id.
MAX_CLASSES = 1_000
_FLAG = '--config.user_attribute.{what}'
_SHOWN = 40


@dataclasses.dataclass(frozen=True)
class UserLabels:
  """One label of each user that has one.

  Attributes:
    attribute: What it is, such as 'gender'.
    class_names: Its values, numbers before texts, each in ascending order.
    classes: [num_users] int32, index in `class_names`; -1 where there is none.
    digest: 16 hexadecimal digits, a hash of the users' ids and labels.
  """

  attribute: str
  class_names: tuple[str, ...]
  classes: np.ndarray
  digest: str


def of_config(config: ConfigDict, dataset: SequenceDataset) -> UserLabels:
  """Reads the labels a config names.

  Args:
    config: A whole config; of its group `user_attribute`, `path` is a CSV or
      Parquet file, or users.dat of MovieLens-1M, which is taken where the
      dataset is that and no path is given.
    dataset: The users.

  Raises:
    InputError: As `read` does, or if there is no file.
  """
  given = config.user_attribute
  path = remote.fetched(given.path)
  if not path and config.dataset.name == 'ml1m' and config.dataset.path:
    path = os.path.join(remote.fetched(config.dataset.path), 'users.dat')
  if not path:
    raise InputError(
      'task=user_attribute has no labels; name the file with a row a user, '
      'for MovieLens-1M its users.dat, with --config.user_attribute.path.'
    )
  if not given.label:
    raise InputError(
      f'task=user_attribute does not say which label; name a column of {path} '
      f'with --config.user_attribute.label.'
    )
  return read(path, given.user, given.label, dataset)


def read(
  path: str, user: str, label: str, dataset: SequenceDataset
) -> UserLabels:
  """Reads one label of the users of a dataset.

  Args:
    path: CSV (plain or gzip) or Parquet file with a row a user; what ends in
      .dat is read as users.dat of MovieLens-1M.
    user: Column of the user's id, as the log has it.
    label: Column of the label, text or integers; an empty one is none.
    dataset: The users; others in the file are left out.

  Raises:
    InputError: If the file cannot be read, a user has two labels, or fewer
      than two classes, or more than `MAX_CLASSES`, are left.
  """
  found: dict[str, str] = {}
  wanted = set(map(str, dataset.user_ids.tolist()))
  rows, place = _open(path, user, label)
  for row, (who, value) in enumerate(rows):
    if who is None:
      raise InputError(
        f'{path}, {place(row)}, column {user!r}: the user id is missing; '
        f'correct the row or leave it out.'
      )
    if value is None or who not in wanted:
      continue
    if found.setdefault(who, value) != value:
      raise InputError(
        f'{path}, {place(row)}: user {who[:_SHOWN]!r} has the {label} '
        f'{value[:_SHOWN]!r}, in an earlier row {found[who][:_SHOWN]!r}; keep '
        f'one row a user.'
      )
  logging.info(
    '%s: %d of %d users of %s have a %s',
    path,
    len(found),
    dataset.num_users,
    dataset.name,
    label,
  )
  if not found:
    raise InputError(
      f'{path} has no {label} for any user of {dataset.name!r}, such as '
      f'{str(dataset.user_ids[0])[:_SHOWN]!r}; its column {user!r} must hold '
      f'the ids of the log.'
    )
  class_names = tuple(sorted(set(found.values()), key=_number_first))
  if not 2 <= len(class_names) <= MAX_CLASSES:
    raise InputError(
      f'{path}: the number of different values in column {label!r} is '
      f'{len(class_names):,}, and a classification takes 2 to {MAX_CLASSES:,}; '
      f'name another column with {_FLAG.format(what="label")}, or group its '
      f'values.'
    )
  index = {name: i for i, name in enumerate(class_names)}
  class_of = {who: index[value] for who, value in found.items()}
  classes = [class_of.get(who, -1) for who in map(str, dataset.user_ids)]
  digest = hashlib.sha256(repr((label, sorted(found.items()))).encode())
  return UserLabels(
    label, class_names, np.array(classes, np.int32), digest.hexdigest()[:16]
  )


def _number_first(name: str) -> tuple[bool, int, str]:
  is_number = name.isdecimal()
  return not is_number, int(name) if is_number else 0, name


def _open(
  path: str, user: str, label: str
) -> tuple[Iterator[tuple[str | None, str | None]], Callable[[int], str]]:
  """User id and label of each row, and where a row stands, for messages."""
  if path.endswith('.dat'):
    columns = movielens.read_ml1m_users(path)
    for name, what in ((user, 'user'), (label, 'label')):
      if name not in columns:
        raise InputError(
          f'{path} has no column {name!r} for the {what}; its columns are '
          f'{", ".join(columns)}; name one with {_FLAG.format(what=what)}=NAME.'
        )
    rows = zip(columns[user], columns[label], strict=True)
    return rows, lambda row: f'line {row + 1}'
  table = tables.Table(path, column_flag=_FLAG)
  event_table.check_columns(table, {'user': user, 'label': label})
  return _table_rows(table, user, label), table.place


def _table_rows(
  table: tables.Table, user: str, label: str
) -> Iterator[tuple[str | None, str | None]]:
  for _, block in table.blocks(sorted({user, label})):
    yield from zip(
      *(
        event_table.as_text(table, name, block[name]).to_pylist()
        for name in (user, label)
      ),
      strict=True,
    )
