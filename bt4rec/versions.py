"""Do Python and the packages fit what this one was made for.

It imports nothing that may not fit: where versions have drifted, importing the
rest of this package may fail before anything could say why.
"""

import importlib.metadata
import platform
import sys
from collections.abc import Sequence

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from bt4rec.errors import InputError, choose


def check(distribution: str = 'bt4rec', extras: Sequence[str] = ()) -> None:
  """Checks Python and the packages against the bounds of what is installed.

  Args:
    distribution: The installed package whose metadata has the bounds.
    extras: Its extras that are needed too, such as 'plots'.

  Raises:
    InputError: If it is not installed or has no such extra; if a package it
      requires is missing or out of bounds; or if one has been imported in
      another version than is installed by now, as after an upgrade in a running
      notebook.
  """
  try:
    metadata = importlib.metadata.metadata(distribution)
  except importlib.metadata.PackageNotFoundError as error:
    raise InputError(
      f'{distribution} is not installed, so the versions it needs are not '
      f'known; install it with pip, from a git URL or in a checkout with '
      f'"pip install -e .".'
    ) from error
  known = dict.fromkeys(metadata.get_all('Provides-Extra') or [])
  for name in extras:
    choose(f'extra of {distribution}', name, known)
  problems = []
  python = metadata['Requires-Python']
  if python and not SpecifierSet(python).contains(platform.python_version()):
    problems.append(f'Python {platform.python_version()}, needed {python}')
  for text in metadata.get_all('Requires-Dist') or []:
    problems += _problem_of(Requirement(text), ('', *extras))
  if problems:
    raise InputError(
      f'{distribution} does not fit what is installed: {"; ".join(problems)}. '
      f'Install it again in a fresh environment; where a package was upgraded '
      f'in a running notebook, restart its runtime and run the cells again.'
    )


def _problem_of(needed: Requirement, extras: Sequence[str]) -> list[str]:
  """What is wrong with a required package, if anything."""
  marker = needed.marker
  if marker and not any(marker.evaluate({'extra': name}) for name in extras):
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
