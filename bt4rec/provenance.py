"""Where a result came from: commit, versions, device."""

import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys

import jax

_PACKAGES = ('jax', 'flax', 'optax', 'orbax-checkpoint', 'numpy')


def describe() -> dict:
  """Returns `commit`, `versions`, `device` and `command` of this process.

  The commit carries '+dirty' where the tree has changes, and is 'unknown'
  outside of a git checkout. The command is '' where it is not one of ours.
  """
  versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
  devices = jax.devices()
  return {
    'commit': _commit(),
    'versions': {'python': platform.python_version(), **versions},
    'device': f'{len(devices)} x {devices[0].device_kind}',
    'command': _command(),
  }


def _command() -> str:
  # What `python -m` was given; None in a notebook.
  spec = sys.modules['__main__'].__spec__
  if spec is None or not spec.name.startswith('bt4rec.'):
    return ''
  return shlex.join(['python', '-m', spec.name, *sys.argv[1:]])


def _commit() -> str:
  here = os.path.dirname(os.path.abspath(__file__))
  try:
    commit = _git(here, 'rev-parse', '--short=12', 'HEAD')
    changes = _git(here, 'status', '--porcelain', '--untracked-files=no')
  except (OSError, subprocess.CalledProcessError):
    return 'unknown'
  return commit + ('+dirty' if changes else '')


def _git(directory: str, *arguments: str) -> str:
  return subprocess.run(
    ['git', '-C', directory, *arguments],
    capture_output=True,
    text=True,
    check=True,
  ).stdout.strip()
