"""Bounds of versions, and the commit of an installation."""

import json
import platform
import types

import pytest

from bt4rec import provenance
from bt4rec.errors import InputError


@pytest.fixture
def install(tmp_path, monkeypatch):
  """Installs the metadata of a distribution 'thing' and of its needs."""
  monkeypatch.syspath_prepend(str(tmp_path))

  def write(name, version, lines=(), **files):
    folder = tmp_path / f'{name}-{version}.dist-info'
    folder.mkdir()
    text = [f'Metadata-Version: 2.1\nName: {name}\nVersion: {version}', *lines]
    (folder / 'METADATA').write_text('\n'.join(text) + '\n')
    for file, content in files.items():
      (folder / f'{file}.json').write_text(content)

  return write


def _thing(install, *needs, python='>=3.11'):
  lines = [f'Requires-Python: {python}']
  install('thing', '1.0', [*lines, *(f'Requires-Dist: {n}' for n in needs)])


class TestCheckVersions:
  def test_this_environment_fits(self):
    provenance.check_versions()

  def test_what_is_within_bounds_passes(self, install):
    install('jaxlike', '0.10.2')
    _thing(install, 'jaxlike>=0.10.2,<0.13')
    provenance.check_versions('thing')

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
      provenance.check_versions('thing')
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
    provenance.check_versions('thing')

  def test_an_upgrade_below_a_running_notebook_is_named(
    self, install, monkeypatch
  ):
    install('numpy_like', '2.1.0')
    _thing(install, 'numpy-like>=2.1')
    old = types.SimpleNamespace(__version__='2.0.2')
    monkeypatch.setitem(provenance.sys.modules, 'numpy_like', old)
    with pytest.raises(InputError, match=r'2\.0\.2 is imported, 2\.1\.0 inst'):
      provenance.check_versions('thing')

  def test_without_an_installation_it_says_how_to_make_one(self):
    with pytest.raises(InputError, match=r'is not installed.*pip install -e'):
      provenance.check_versions('nowhere-to-be-found')


class TestCommit:
  def test_is_the_one_that_pip_installed_from(
    self, install, tmp_path, monkeypatch
  ):
    origin = {'vcs_info': {'vcs': 'git', 'commit_id': 'abcdef0123456789'}}
    install('bt4rec', '0.1.0', direct_url=json.dumps(origin))
    (tmp_path / 'bt4rec').mkdir()
    module = str(tmp_path / 'bt4rec' / 'provenance.py')
    # Not the one of an installation that is not in use.
    assert not provenance.describe()['commit'].startswith('abcdef')
    monkeypatch.setattr(provenance, '__file__', module)
    assert provenance.describe()['commit'] == 'abcdef012345'
