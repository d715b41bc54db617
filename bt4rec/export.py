"""Writes embeddings: `python -m bt4rec.export --workdir=DIR --output=FILE`.

One embedding a user of the workdir's dataset, or of another log, as Parquet
with the original ids; item embeddings; an artifact for serving.
"""

import contextlib
import os
from collections.abc import Sequence

import numpy as np
from absl import flags, logging
from ml_collections import ConfigDict, config_flags

from bt4rec import (
  command,
  datasets,
  embedding_files,
  encode,
  features,
  provenance,
  remote,
  summary,
  vocabulary,
  workdir,
)
from bt4rec import serving as serving_lib
from bt4rec.datasets import SequenceDataset, logs
from bt4rec.errors import InputError

_OUTPUTS = ('output', 'items', 'serving')


def export(
  directory: str,
  *,
  output: str = '',
  sequences: str = '',
  items: str = '',
  serving: str = '',
  platforms: Sequence[str] = ('cpu', 'cuda', 'tpu'),
  overrides: dict | None = None,
) -> str:
  """Exports what a workdir has learned.

  Args:
    directory: Workdir of the encoder, as for `bt4rec.load_encoder`.
    output: Parquet file for one embedding a user, of the newest events; ''
      writes none.
    sequences: CSV or Parquet log of the users to embed, with the columns and
      units of the config's group `dataset`; '' takes the workdir's dataset.
    items: Parquet file for the embeddings of the items; '' writes none.
    serving: Directory for the serving artifact; '' writes none.
    platforms: Where that shall run; see `serving.PLATFORMS`.
    overrides: Dotted fields of the config -> values other than the workdir's.

  Returns:
    What was written, and how to look at it.

  Raises:
    InputError: If the workdir, the data or the paths are not valid.
  """
  if not (output or items or serving):
    raise InputError(
      'nothing to export; name a file with --output (users) or --items, or a '
      'directory with --serving.'
    )
  if sequences and not output:
    raise InputError('--sequences is given without --output; name the file.')
  if sequences and items:
    raise InputError(
      '--items are those of the workdir, --sequences a log of others; write '
      'them with one command each.'
    )
  for path in filter(None, (output, items)):
    embedding_files.require_writable(path)
  config = workdir.read_config(remote.fetched(directory))
  config.update_from_flattened_dict(overrides or {})
  encoder = encode.load_encoder(directory)
  source = {
    'workdir': encoder.directory,
    **{key: encoder.meta[key] for key in encoder.meta if key != 'selection'},
    **provenance.describe(),
  }
  written = {}
  if serving:
    serving_lib.save(encoder, serving, platforms, source)
    written[serving] = f'encoder for {", ".join(platforms)}'
  if output or items:
    dataset = _load(config, sequences)
  if output:
    _write_users(output, dataset, encoder, source)
    written[output] = f'{dataset.num_users} users x {encoder.dim}'
  if items:
    # For the titles; the items are those of the encoder.
    _write_items(items, dataset, encoder, source)
    written[items] = f'{len(encoder.item_ids)} items x {encoder.dim}'
  following = {
    f'the first rows of {path}': workdir.python(
      f'import pyarrow.parquet as pq; '
      f'print(pq.read_table({path!r}).slice(0, 5).to_pylist())'
    )
    for path in (output, items)
    if path
  }
  return summary.closing(written, following)


def _load(config: ConfigDict, path: str) -> SequenceDataset:
  """The dataset of the config, or the log at `path`.

  Filters that would leave out users of a log do not apply.
  """
  if not path:
    return datasets.load(config.dataset)
  named, path = path, remote.fetched(path)
  if not os.path.isfile(path):
    raise InputError(
      f'{named} is no file; --sequences must name a CSV or Parquet file.'
    )
  fields = config.dataset
  columns = {**fields.columns.to_dict(), 'category': '', 'title': ''}
  return logs.read_logs(
    path,
    columns=columns,
    timestamp_unit=fields.timestamp_unit,
    min_rating=fields.min_rating,
    encoding=fields.encoding,
    delimiter=fields.delimiter,
    bad_rows=fields.bad_rows,
    duplicates=fields.duplicates,
  )


def _write_users(
  path: str, users: SequenceDataset, encoder: encode.Encoder, source: dict
) -> None:
  # The data may have items by now that the encoder has not learned.
  ids = users.catalogue.item_ids
  known = vocabulary.tokens_of(ids, encoder.item_ids, lambda _: users.name)
  token_of = np.concatenate([[0], known]).astype(np.int32)
  mask_item = len(encoder.item_ids) + 1
  unknown = ids[known == mask_item]
  if len(unknown):
    logging.warning(
      '%d of the %d items are not in the catalogue of the encoder, such as '
      '%s; they count as masked.',
      len(unknown),
      len(ids),
      unknown[0],
    )
  without_known = 0
  known_of_events = features.events_of(users, encoder.features)

  def embed(rows: slice) -> np.ndarray:
    # The events may be a memory map: no more of them than these users'.
    nonlocal without_known
    offsets = users.offsets[rows.start : rows.stop + 1]
    codes = {
      name: array[offsets[0] : offsets[-1]]
      for name, array in known_of_events.items()
    }
    events = token_of[codes.pop('items')]
    offsets = offsets - offsets[0]
    is_known = np.add.reduceat(events != mask_item, offsets[:-1]) > 0
    without_known += int((~is_known).sum())
    return encoder.embed_tokens(vocabulary.Tokens(events, offsets, codes))

  embedding_files.write(
    path, {'user_id': users.user_ids}, embed, encoder.dim, source
  )
  if without_known:
    logging.warning(
      '%d of the %d users have no item that the encoder knows; their '
      'embeddings say nothing of them.',
      without_known,
      users.num_users,
    )


def _write_items(
  path: str, dataset: SequenceDataset, encoder: encode.Encoder, source: dict
) -> None:
  columns = {'item_id': encoder.item_ids}
  catalogue = dataset.catalogue
  if (catalogue.titles != '').any():
    rows = vocabulary.tokens_of(
      encoder.item_ids, catalogue.item_ids, lambda _: dataset.name
    )
    # An item that is gone from the data has no title.
    columns['title'] = np.append(catalogue.titles, '')[rows - 1]
  table = np.asarray(encoder.item_table)
  embedding_files.write(
    path, columns, lambda rows: table[rows], encoder.dim, source
  )


def main(argv: list[str]) -> None:
  """Runs the command of the flags."""
  if len(argv) > 1:
    raise InputError(f'unexpected argument {argv[1]!r}; flags start with --.')
  values = flags.FLAGS
  if not values.workdir:
    raise InputError('--workdir is missing; name the workdir of a training.')
  overrides = config_flags.get_override_values(flags.FLAGS['config'])
  named = {name: values[name].value or '' for name in _OUTPUTS}
  with contextlib.ExitStack() as stack:
    paths = {
      name: stack.enter_context(remote.output(path))
      for name, path in named.items()
    }
    text = export(
      os.path.expanduser(values.workdir),
      sequences=values.sequences or '',
      platforms=values.platforms,
      overrides=overrides,
      **paths,
    )
  for name, path in named.items():
    if remote.is_url(path):
      text = text.replace(paths[name], path)
  print(text)


if __name__ == '__main__':
  # Here, so that importing the module defines no flags.
  from configs import base

  command.define_config(
    ConfigDict({'dataset': base.get_config().dataset}),
    'Fields of the group `dataset` that are other than in the workdir: where '
    'the files are now, or the columns of --sequences.',
  )
  flags.DEFINE_string('workdir', None, 'Workdir of the encoder.')
  flags.DEFINE_string('output', None, 'Parquet file with one embedding a user.')
  flags.DEFINE_string(
    'sequences',
    None,
    'CSV or Parquet log of the users to embed; default: those of the '
    "workdir's dataset.",
  )
  flags.DEFINE_string('items', None, 'Parquet file with the item embeddings.')
  flags.DEFINE_string(
    'serving', None, 'Directory for a StableHLO program with its vocabulary.'
  )
  flags.DEFINE_list(
    'platforms', ['cpu', 'cuda', 'tpu'], 'Where --serving shall run.'
  )
  command.run(main)
