"""Prepares logs larger than memory: `python -m bt4rec.prepare --config=...`.

An Apache Beam pipeline, for one machine or many; it needs the extra `beam`.
The output directory gets the prepared arrays that --config.dataset.prepared
reads. Flags after a lone `--` are Beam's own, such as --runner.
"""

import os

from absl import flags
from ml_collections import config_flags

from bt4rec import command, datasets, help_text, remote, summary, workdir
from bt4rec.errors import InputError


def main(argv: list[str]) -> None:
  """Runs the command of the flags."""
  values = flags.FLAGS
  # absl leaves what stands after `--`, and what is no flag.
  beam_flags = argv[1:]
  if beam_flags and not beam_flags[0].startswith('-'):
    raise InputError(
      f'unexpected argument {beam_flags[0]!r}; flags start with --.'
    )
  if values.config is None:
    raise InputError('--config is missing; name a config file.')
  try:
    from bt4rec.datasets import beam_job
  except ImportError as error:
    raise InputError(
      f'Apache Beam is missing ({error}); start this by launch/prepare.sh, '
      f'which makes an environment with it.'
    ) from error
  output = remote.absolute(values.output)
  with remote.output(output) as directory:
    beam_job.prepare(
      values.config.dataset,
      directory,
      min_item_events=values.min_item_events,
      events_per_shard=values.events_per_shard,
      shards_folder=values.shards,
      beam_flags=beam_flags,
    )
  group = datasets.prepared_config(values.config.dataset, output)
  following = {'pre-train an encoder': workdir.pretrain_command(group)}
  written = {os.path.join(output, 'dataset.json'): 'prepared arrays'}
  print(summary.closing(written, following))


if __name__ == '__main__':
  # Here, so that importing the module defines no flags.
  config_flags.DEFINE_config_file(
    'config',
    None,
    'File with the config, and its argument after a colon: '
    'configs/pretrain.py:logs.',
    lock_config=True,
  )
  flags.DEFINE_string('output', 'runs/prepared', 'Output directory, or a URL.')
  flags.DEFINE_alias('workdir', 'output')
  flags.DEFINE_integer(
    'min_item_events', 1, 'Items with fewer events are left out, and counted.'
  )
  flags.DEFINE_integer(
    'events_per_shard', 2_000_000, 'Events that a worker holds at once, about.'
  )
  flags.DEFINE_string(
    'shards',
    '',
    'Folder of this job alone that all workers can reach; default: the output '
    'directory.',
  )
  command.run(main, help_text.jobs)
