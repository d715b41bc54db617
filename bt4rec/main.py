"""Runs a job: `python -m bt4rec.main --config=FILE:ARG --workdir=DIR`.

Without flags it runs the quickstart. The config's `task` says what to run:
a pre-training, a downstream task, a study over many of both, or a search.
"""

import contextlib
import os

from absl import flags, logging
from ml_collections import ConfigDict, config_flags

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
  'Output directory, or its URL (gs://BUCKET/FOLDER); giving the same one '
  'again resumes. The quickstart writes to runs/quickstart by default.',
)
_DISTRIBUTED = flags.DEFINE_bool(
  'distributed',
  False,
  'Whether this is one of several processes of a pre-training, through '
  'jax.distributed; SLURM, Open MPI and TPU slices are detected.',
)
# Of a cluster that is not detected.
_CLUSTER = {
  'coordinator_address': flags.DEFINE_string(
    'coordinator_address', None, 'HOST:PORT of the first process.'
  ),
  'num_processes': flags.DEFINE_integer(
    'num_processes', None, 'How many processes there are.', lower_bound=1
  ),
  'process_id': flags.DEFINE_integer(
    'process_id', None, 'Which of them this is, from 0.', lower_bound=0
  ),
}


def main(argv: list[str]) -> None:
  """Runs the job of the flags."""
  if len(argv) > 1:
    raise InputError(f'unexpected argument {argv[1]!r}; flags start with --.')
  directory = _WORKDIR.value
  if directory is None:
    if config_flags.get_config_filename(flags.FLAGS['config']) != _QUICKSTART:
      raise InputError('--workdir is missing; name the output directory.')
    directory = os.path.join('runs', 'quickstart')
  cluster: dict = {name: flag.value for name, flag in _CLUSTER.items()}
  given = [name for name, value in cluster.items() if value is not None]
  if given and not _DISTRIBUTED.value:
    raise InputError(f'--{given[0]} is read with --distributed alone; add it.')
  # Imported after the flags are checked, since JAX takes seconds.
  from bt4rec import jobs, processes, remote

  if _DISTRIBUTED.value:
    processes.initialize(**cluster)
  logging.info('output: %s', remote.absolute(directory))
  if remote.is_url(directory):
    text = _run_in_bucket(directory)
  else:
    text = jobs.run(_CONFIG.value, remote.absolute(directory), _as_written())
  if processes.is_first():
    print(text)


def _as_written() -> ConfigDict:
  """The config of the file, without the flags that change it."""
  name = config_flags.get_config_filename(flags.FLAGS['config'])
  path, _, argument = name.partition(':')
  return command.load_config(path, argument)


def _run_in_bucket(url: str) -> str:
  """Runs the job in a copy of a workdir that a URL names."""
  from bt4rec import jobs, processes, remote_workdir

  directory = url
  try:
    with contextlib.ExitStack() as stack:
      if processes.is_first():
        # Several processes have a handler of SIGTERM, which is JAX's.
        is_alone = not _DISTRIBUTED.value
        directory = stack.enter_context(remote_workdir.held(url, is_alone))
      text = jobs.run(_CONFIG.value, directory, _as_written())
  except SystemExit:
    # SIGTERM came, and all stop. The first one is not alone until it has
    # published the last state.
    processes.wait_for_all()
    raise
  processes.wait_for_all()
  return text.replace(directory, url)


if __name__ == '__main__':
  command.run(main, help_text.jobs)
