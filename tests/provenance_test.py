"""Bounds of versions, the commit of results, the sessions of a workdir."""

import json
import platform
import subprocess
import types

import pytest

from bt4rec import provenance, workdir
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


def _git(folder, *arguments):
  name = ('-c', 'user.name=a', '-c', 'user.email=a@b')
  return subprocess.run(
    ['git', *name, '-C', str(folder), *arguments],
    check=True,
    capture_output=True,
    text=True,
  ).stdout.strip()


@pytest.fixture(name='checkout')
def _checkout(tmp_path):
  """A git checkout with one commit of one file."""
  _git(tmp_path, 'init', '-q')
  (tmp_path / 'file').write_text('a')
  _git(tmp_path, 'add', 'file')
  _git(tmp_path, 'commit', '-q', '-m', 'first')
  return tmp_path


@pytest.fixture(name='use')
def _use(monkeypatch):
  """Takes the package to be imported from a folder."""
  return lambda root: monkeypatch.setattr(
    provenance, '__file__', str(root / 'bt4rec' / 'provenance.py')
  )


_ORIGIN = json.dumps(
  {
    'url': 'https://host/bt4rec.git',
    'vcs_info': {'vcs': 'git', 'commit_id': '0123456789abcdef0123'},
  }
)


class TestCommit:
  def test_of_a_checkout_says_whether_it_was_changed(self, checkout, use):
    use(checkout)
    commit = _git(checkout, 'rev-parse', '--short=12', 'HEAD')
    assert provenance._commit() == commit
    (checkout / 'file').write_text('b')
    assert provenance._commit() == f'{commit}+dirty'

  def test_of_another_project_around_it_is_not_taken(self, checkout, use):
    packages = checkout / '.venv' / 'site-packages'
    packages.mkdir(parents=True)
    use(packages)
    assert provenance._commit() == 'unknown'

  def test_of_an_installation_from_git_is_what_pip_recorded(
    self, install, tmp_path, use
  ):
    install('bt4rec', '0.1.0', direct_url=_ORIGIN)
    use(tmp_path)
    assert provenance._commit() == '0123456789ab'

  def test_of_an_installation_that_is_not_in_use_is_not_taken(
    self, install, tmp_path, use
  ):
    install('bt4rec', '0.1.0', direct_url=_ORIGIN)
    use(tmp_path / 'elsewhere')
    assert provenance._commit() == 'unknown'

  def test_of_an_installed_folder_is_unknown(self, install, tmp_path, use):
    install(
      'bt4rec', '0.1.0', direct_url='{"url": "file:///a", "dir_info": {}}'
    )
    use(tmp_path)
    assert provenance._commit() == 'unknown'


def test_sessions_whose_steps_were_lost_are_cut(tmp_path, monkeypatch):
  for step, commit in ((0, 'a'), (10, 'b'), (20, 'c'), (10, 'd')):
    monkeypatch.setattr(provenance, 'describe', lambda c=commit: {'commit': c})
    provenance.record_session(str(tmp_path), step)
  lines = workdir.read_lines(str(tmp_path / 'sessions.jsonl'))
  assert lines == [{'step': 0, 'commit': 'a'}, {'step': 10, 'commit': 'd'}]
