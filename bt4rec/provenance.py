"""Where a result came from: commit, versions, device, command."""

import functools
import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys

import jax

from bt4rec import workdir

_PACKAGES = ('jax', 'flax', 'optax', 'orbax-checkpoint', 'numpy')


def describe() -> dict:
  """Returns `commit`, `versions`, `device` and `command` of this process.

  The commit carries '+dirty' where the tree had changes. Outside of a git
  checkout it is the one that pip installed from a git URL, or 'unknown'. The
  command is '' where it is not one of ours.
  """
  versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
  devices = jax.devices()
  return {
    'commit': commit(),
    'versions': {'python': platform.python_version(), **versions},
    'device': f'{len(devices)} x {devices[0].device_kind}',
    'command': _command(),
  }


@functools.cache
def commit() -> str:
  """The commit of the code when this was first asked for.

  Jobs ask when they start: a study goes on for days, with the code it was
  started with, whatever is done to the checkout meanwhile.
  """
  return _commit()


def _command() -> str:
  # What `python -m` was given; None in a notebook.
  spec = sys.modules['__main__'].__spec__
  if spec is None or not spec.name.startswith('bt4rec.'):
    return ''
  return shlex.join(['python', '-m', spec.name, *sys.argv[1:]])


def record_session(directory: str, step: int) -> None:
  """Notes in `sessions.jsonl` who trains a workdir from a step on.

  Sessions that began at the step or later are cut: what they did is lost.
  """
  path = os.path.join(directory, 'sessions.jsonl')
  workdir.keep_lines(path, lambda line: line['step'] < step)
  workdir.append_line(path, {'step': step, **describe()})


def _commit() -> str:
  root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
  try:
    # An installed package may lie in the checkout of another project.
    if os.path.realpath(_git(root, 'rev-parse', '--show-toplevel')) == (
      os.path.realpath(root)
    ):
      commit = _git(root, 'rev-parse', '--short=12', 'HEAD')
      changes = _git(root, 'status', '--porcelain', '--untracked-files=no')
      return commit + ('+dirty' if changes else '')
  except (OSError, subprocess.CalledProcessError):
    pass
  return _installed_commit(root)[:12] or 'unknown'


def _installed_commit(root: str) -> str:
  """What pip noted of a git URL (PEP 610), '' if it installed from none.

  Args:
    root: The folder this package is imported from lies in it.
  """
  try:
    distribution = importlib.metadata.distribution('bt4rec')
  except importlib.metadata.PackageNotFoundError:
    return ''
  # There may be an installation that is not in use.
  if os.path.realpath(str(distribution.locate_file(''))) != (
    os.path.realpath(root)
  ):
    return ''
  origin = json.loads(distribution.read_text('direct_url.json') or '{}')
  return origin.get('vcs_info', {}).get('commit_id', '')


def _git(directory: str, *arguments: str) -> str:
  return subprocess.run(
    ['git', '-C', directory, *arguments],
    capture_output=True,
    text=True,
    check=True,
  ).stdout.strip()
