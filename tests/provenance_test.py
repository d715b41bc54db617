"""The commit of results, the sessions of a workdir."""

import functools
import json
import subprocess

import pytest

from bt4rec import jobs, provenance, workdir
from bt4rec.errors import InputError
from tests import distributions, tiny


@pytest.fixture
def install(tmp_path, monkeypatch):
  """Installs a distribution, or what there is on disk of one."""
  monkeypatch.syspath_prepend(str(tmp_path))
  return functools.partial(distributions.install, tmp_path)


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

  def test_stays_that_of_the_start(self, checkout, use, monkeypatch):
    use(checkout)
    monkeypatch.setattr(
      provenance, 'commit', functools.cache(provenance.commit.__wrapped__)
    )
    (checkout / 'file').write_text('b')
    commit = _git(checkout, 'rev-parse', '--short=12', 'HEAD')
    assert provenance.describe()['commit'] == f'{commit}+dirty'
    _git(checkout, 'commit', '-q', '-a', '-m', 'second')
    assert provenance.describe()['commit'] == f'{commit}+dirty'

  def test_is_asked_for_before_all_else_of_a_job(self, monkeypatch):
    asked = []
    monkeypatch.setattr(provenance, 'commit', lambda: asked.append(True))
    with pytest.raises(InputError, match='unknown task'):
      jobs.run(tiny.config(task='none'), '/nowhere')
    assert asked

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
