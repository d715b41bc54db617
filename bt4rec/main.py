"""Runs a job: `python -m bt4rec.main --config=FILE:ARG --workdir=DIR`.

Without flags it runs the quickstart. The config's `task` says what to run:
a pre-training, a downstream task, or a study over many of both.
"""

import os

from absl import flags, logging
from ml_collections import config_flags

from bt4rec import command, help_text
from bt4rec.errors import InputError

_QUICKSTART = os.path.join(
  os.path.dirname(os.path.dirname(os.path.abspath(__file__))),
  'configs',
  'quickstart.py',
)

_CONFIG = config_flags.DEFINE_config_file(
  'config',
  _QUICKSTART,
  'File with the config, and its argument after a colon.',
  lock_config=True,
)
_WORKDIR = flags.DEFINE_string(
  'workdir',
  None,
  'Output directory; giving the same one again resumes. The quickstart '
  'writes to runs/quickstart by default.',
)


def main(argv: list[str]) -> None:
  """Runs the job of the flags."""
  if len(argv) > 1:
    raise InputError(f'unexpected argument {argv[1]!r}; flags start with --.')
  directory = _WORKDIR.value
  if directory is None:
    if config_flags.get_config_filename(flags.FLAGS['config']) != _QUICKSTART:
      raise InputError('--workdir is missing; name the output directory.')
    directory = os.path.join('runs', 'quickstart')
  # Imported after the flags are checked, since JAX takes seconds.
  from bt4rec import jobs

  directory = os.path.abspath(os.path.expanduser(directory))
  logging.info('output: %s', directory)
  print(jobs.run(_CONFIG.value, directory))


if __name__ == '__main__':
  command.run(main, help_text.jobs)
