"""Where a result came from: commit, versions, device; and do they fit."""

import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys

import jax
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from bt4rec import workdir
from bt4rec.errors import InputError

_PACKAGES = ('jax', 'flax', 'optax', 'orbax-checkpoint', 'numpy')


def describe() -> dict:
  """Returns `commit`, `versions`, `device` and `command` of this process.

  The commit carries '+dirty' where the tree has changes. Outside of a git
  checkout it is the one that pip installed from a git URL, or 'unknown'. The
  command is '' where it is not one of ours.
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


def check_versions(distribution: str = 'bt4rec') -> None:
  """Checks Python and the packages against the bounds of what is installed.

  Args:
    distribution: The installed package whose metadata has the bounds.

  Raises:
    InputError: If it is not installed; if a package it requires is missing or
      out of bounds; or if one has been imported in another version than is
      installed by now, as after an upgrade in a running notebook.
  """
  try:
    metadata = importlib.metadata.metadata(distribution)
  except importlib.metadata.PackageNotFoundError as error:
    raise InputError(
      f'{distribution} is not installed, so the versions it needs are not '
      f'known; install it with pip, from a git URL or in a checkout with '
      f'"pip install -e .".'
    ) from error
  problems = []
  python = metadata['Requires-Python']
  if python and not SpecifierSet(python).contains(platform.python_version()):
    problems.append(f'Python {platform.python_version()}, needed {python}')
  for text in metadata.get_all('Requires-Dist') or []:
    problems += _problem_of(Requirement(text))
  if problems:
    raise InputError(
      f'{distribution} does not fit what is installed: {"; ".join(problems)}. '
      f'Install it again in a fresh environment; where a package was upgraded '
      f'in a running notebook, restart its runtime and run the cells again.'
    )


def _problem_of(needed: Requirement) -> list[str]:
  """What is wrong with a required package, if anything."""
  if needed.marker and not needed.marker.evaluate({'extra': ''}):
    return []
  try:
    installed = importlib.metadata.version(needed.name)
  except importlib.metadata.PackageNotFoundError:
    return [f'{needed.name} is missing, needed {needed.specifier}']
  if not needed.specifier.contains(installed, prereleases=True):
    return [f'{needed.name} {installed}, needed {needed.specifier}']
  # Most modules are named as their distribution.
  module = sys.modules.get(needed.name.replace('-', '_'))
  imported = getattr(module, '__version__', installed)
  if Version(imported) != Version(installed):
    return [f'{needed.name} {imported} is imported, {installed} installed']
  return []


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
