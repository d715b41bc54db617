"""Refuses options of a dataset that nothing would read."""

from collections.abc import Collection, Mapping

from ml_collections import ConfigDict

from bt4rec.errors import InputError

# The choice itself, and a place that only some choices have a use for.
_ALWAYS = {'name', 'prepared', 'data_dir'}


def check(
  config: ConfigDict, reads: Collection[str], readers: Mapping[str, Collection]
) -> None:
  """Checks that every option that was changed is read.

  Args:
    config: The group `dataset` of a config.
    reads: Fields and groups of it that are read.
    readers: Every dataset -> the fields and groups it reads, for the text.

  Raises:
    InputError: If an option that is not read differs from its default; the
      text says which datasets read it.
  """
  # Not above: whoever only loads an encoder may have another package `configs`.
  from configs import base

  defaults = _flatten(base.get_config().dataset)
  unread = []
  for key, value in _flatten(config).items():
    field = key.partition('.')[0]
    if field in _ALWAYS.union(reads) or value == defaults.get(key):
      continue
    others = [name for name, fields in readers.items() if field in fields]
    unread.append(f'dataset.{key}={value!r} (read by {", ".join(others)})')
  if unread and config.prepared:
    raise InputError(
      f'{" and ".join(unread)} would be ignored, because dataset.prepared '
      f'names arrays that are made already; leave it out, or clear '
      f'dataset.prepared.'
    )
  if unread:
    raise InputError(
      f'{" and ".join(unread)} would be ignored by dataset {config.name!r}; '
      f'leave it out, or choose another dataset.'
    )


def _flatten(group: ConfigDict, prefix: str = '') -> dict:
  flat = {}
  for key, value in group.items():
    if isinstance(value, ConfigDict):
      flat.update(_flatten(value, f'{prefix}{key}.'))
    else:
      flat[prefix + key] = value
  return flat
