"""Versions that fit, and those that have drifted."""

import functools
import platform
import subprocess
import sys
import types

import pytest

from bt4rec import versions
from bt4rec.errors import InputError
from tests import distributions


@pytest.fixture
def install(tmp_path, monkeypatch):
  """Installs the metadata of a distribution 'thing' and of its needs."""
  monkeypatch.syspath_prepend(str(tmp_path))
  return functools.partial(distributions.install, tmp_path)


def _thing(install, *needs, python='>=3.11', lines=()):
  lines = [f'Requires-Python: {python}', *lines]
  install('thing', '1.0', [*lines, *(f'Requires-Dist: {n}' for n in needs)])


class TestCheck:
  def test_this_environment_fits(self):
    versions.check()

  def test_what_is_within_bounds_passes(self, install):
    install('jaxlike', '0.10.2')
    _thing(install, 'jaxlike>=0.10.2,<0.13')
    versions.check('thing')

  def test_each_drift_is_named_with_its_bounds(self, install):
    install('jaxlike', '0.13.1')
    install('numpylike', '2.0.2')
    _thing(
      install,
      'jaxlike>=0.10.2,<0.13',
      'numpylike>=2.1',
      'flaxlike>=0.12',
      python='>=9.1',
    )
    with pytest.raises(InputError) as error:
      versions.check('thing')
    text = str(error.value)
    assert f'Python {platform.python_version()}, needed >=9.1' in text
    assert 'jaxlike 0.13.1, needed <0.13,>=0.10.2' in text
    assert 'numpylike 2.0.2, needed >=2.1' in text
    assert 'flaxlike is missing, needed >=0.12' in text
    assert 'restart its runtime' in text

  def test_extras_and_other_platforms_are_not_needed(self, install):
    _thing(
      install,
      'nothere>=1; extra == "beam"',
      'nothere>=1; sys_platform == "amiga"',
    )
    versions.check('thing')

  def test_extras_that_are_asked_for_are_needed(self, install):
    lines = ['Provides-Extra: plots', 'Provides-Extra: beam']
    needs = ('nothere>=1; extra == "plots"', 'other>=1; extra == "beam"')
    _thing(install, *needs, lines=lines)
    versions.check('thing')
    with pytest.raises(InputError) as error:
      versions.check('thing', ['plots'])
    assert 'nothere is missing' in str(error.value)
    assert 'other is missing' not in str(error.value)
    with pytest.raises(
      InputError, match=r"extra of thing 'plot';.*plots, beam"
    ):
      versions.check('thing', ['plot'])

  def test_an_upgrade_below_a_running_notebook_is_named(
    self, install, monkeypatch
  ):
    install('numpy_like', '2.1.0')
    _thing(install, 'numpy-like>=2.1')
    old = types.SimpleNamespace(__version__='2.0.2')
    monkeypatch.setitem(versions.sys.modules, 'numpy_like', old)
    with pytest.raises(InputError, match=r'2\.0\.2 is imported, 2\.1\.0 inst'):
      versions.check('thing')

  def test_without_an_installation_it_says_how_to_make_one(self):
    with pytest.raises(InputError, match=r'is not installed.*pip install -e'):
      versions.check('nowhere-to-be-found')


def test_it_imports_nothing_that_may_have_drifted():
  code = (
    'import sys\n'
    'from bt4rec import versions\n'
    "print({name.partition('.')[0] for name in sys.modules})"
  )
  found = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=True
  )
  assert "'packaging'" in found.stdout
  for name in ('jax', 'flax', 'numpy', 'ml_collections', 'absl', 'tensorflow'):
    assert f"'{name}'" not in found.stdout
