"""States of a workdir in a bucket: whole whatever happens, never two mixed."""

import contextlib
import os
import pathlib
import shutil

import pytest

from bt4rec import object_store, remote_state
from bt4rec.errors import StorageError
from tests import bucket

_URL = 'bucket://mine/run'
_BEFORE = {
  'config.json': 'config',
  'metrics.jsonl': '1\n',
  'checkpoints/10/state/array': 'ten',
  'checkpoints/10/meta': 'ten',
  'cells/x/config.json': 'x',
}
_AFTER = {
  'config.json': 'config',
  'metrics.jsonl': '1\n2\n',
  'results.jsonl': '{}\n',
  'checkpoints/20/state/array': 'twenty',
  'checkpoints/20/meta': 'twenty',
}
_LAST = {**_BEFORE, 'metrics.jsonl': '1\n3\n', 'report.md': 'table'}


class _KilledError(BaseException):
  pass


def _kill():
  raise _KilledError


@pytest.fixture(name='store')
def _store(tmp_path, monkeypatch):
  bucket.register()
  monkeypatch.setenv('BUCKETS', str(tmp_path / 'buckets'))
  (tmp_path / 'buckets').mkdir()
  monkeypatch.setattr(bucket.BucketFileSystem, 'break_at', 0)
  monkeypatch.setattr(bucket.BucketFileSystem, 'on_break', staticmethod(_kill))
  # One after the other, so that the moments can be counted.
  monkeypatch.setattr(object_store, '_THREADS', 1)
  return object_store.Store(_URL)


def _publish(publisher, files, folder):
  """Publishes a state that is given as path -> text."""
  shutil.rmtree(folder, ignore_errors=True)
  sources, found = {}, {}
  for path, text in files.items():
    place = folder / path
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(text)
    sources[path] = str(place)
    found[path] = (remote_state.digest_of(place), len(text))
  publisher.publish(found, sources)


def _texts(folder) -> dict[str, str]:
  return {
    str(path.relative_to(folder)): path.read_text()
    for path in pathlib.Path(folder).rglob('*')
    if path.is_file()
  }


def _fetch(store, target) -> dict[str, str]:
  """What another machine gets."""
  shutil.rmtree(target, ignore_errors=True)
  state = remote_state.read(store)
  assert remote_state.fetch(store, state, str(target), {}, 'fetch')
  return _texts(target)


class TestPublish:
  def test_a_kill_at_any_moment_leaves_one_state_or_the_other(
    self, store, tmp_path, monkeypatch
  ):
    place, work = tmp_path / 'buckets' / 'mine' / 'run', tmp_path / 'work'
    publisher = remote_state.Publisher(store, 'a', None)
    _publish(publisher, _BEFORE, work)
    shutil.copytree(place, tmp_path / 'kept')
    seen, killed_at = [], 0
    while True:
      killed_at += 1
      shutil.rmtree(place)
      shutil.copytree(tmp_path / 'kept', place)
      publisher = remote_state.Publisher(store, 'a', remote_state.read(store))
      changes = bucket.BucketFileSystem.changes
      monkeypatch.setattr(
        bucket.BucketFileSystem, 'break_at', changes + killed_at
      )
      try:
        _publish(publisher, _AFTER, work)
      except _KilledError:
        found = _fetch(store, tmp_path / 'fetched')
        assert found in (_BEFORE, _AFTER), killed_at
        seen.append(found == _AFTER)
        # Another machine goes on, and nothing of the killed one is left.
        publisher = remote_state.Publisher(store, 'b', remote_state.read(store))
        _publish(publisher, _LAST, work)
        assert _fetch(store, tmp_path / 'fetched') == _LAST
        plain = {
          path: text
          for path, text in _texts(place).items()
          if not path.startswith('.bt4rec/')
        }
        assert plain == _LAST, killed_at
      else:
        break
    # What is to be uploaded, four files, the manifest; then a copy, the
    # deletion of three files and of the manifest before.
    assert seen == [False] * 6 + [True] * 5
    assert _fetch(store, tmp_path / 'fetched') == _AFTER

  def test_the_objects_lie_where_the_files_do(self, store, tmp_path):
    publisher = remote_state.Publisher(store, 'a', None)
    for files in (_BEFORE, _AFTER, _LAST):
      _publish(publisher, files, tmp_path / 'work')
      found = _texts(tmp_path / 'buckets' / 'mine' / 'run')
      plain = {p: t for p, t in found.items() if not p.startswith('.bt4rec/')}
      assert plain == files
      # One manifest, and the changed files of the last one alone.
      of_states = [p for p in found if 'manifest' in p]
      assert len(of_states) == 1

  def test_what_has_not_changed_is_not_uploaded(self, store, tmp_path):
    publisher = remote_state.Publisher(store, 'a', None)
    _publish(publisher, _BEFORE, tmp_path / 'work')
    changes = bucket.BucketFileSystem.changes
    _publish(publisher, _BEFORE, tmp_path / 'work')
    assert bucket.BucketFileSystem.changes == changes

  def test_of_two_that_publish_one_fails(self, store, tmp_path):
    first = remote_state.Publisher(store, 'a', None)
    _publish(first, _BEFORE, tmp_path / 'work')
    second = remote_state.Publisher(store, 'b', remote_state.read(store))
    of_second = {**_BEFORE, 'metrics.jsonl': '2\n'}
    _publish(second, of_second, tmp_path / 'work')
    with pytest.raises(remote_state.TakenOverError):
      _publish(first, {**_BEFORE, 'metrics.jsonl': '3\n'}, tmp_path / 'work')
    assert _fetch(store, tmp_path / 'fetched') == of_second

  def test_a_manifest_whose_creation_was_not_confirmed_is_the_last_one(
    self, store, tmp_path, monkeypatch
  ):
    publisher = remote_state.Publisher(store, 'a', None)
    _publish(publisher, _BEFORE, tmp_path / 'work')
    pipe_file = bucket.BucketFileSystem.pipe_file

    def lose_the_answer(self, path, value, mode='overwrite', **options):
      with contextlib.suppress(FileExistsError):
        pipe_file(self, path, value, mode, **options)
      if mode == 'create':
        raise TimeoutError

    monkeypatch.setattr(object_store, '_PAUSES', (0.0,))
    monkeypatch.setattr(bucket.BucketFileSystem, 'pipe_file', lose_the_answer)
    with pytest.raises(StorageError):
      _publish(publisher, _AFTER, tmp_path / 'work')
    monkeypatch.setattr(bucket.BucketFileSystem, 'pipe_file', pipe_file)
    assert _fetch(store, tmp_path / 'fetched') == _AFTER
    changes = bucket.BucketFileSystem.changes
    for killed_after in range(20):
      monkeypatch.setattr(
        bucket.BucketFileSystem, 'break_at', changes + killed_after + 1
      )
      try:
        _publish(publisher, _LAST, tmp_path / 'work')
      except _KilledError:
        assert _fetch(store, tmp_path / 'fetched') in (_AFTER, _LAST)
        changes = bucket.BucketFileSystem.changes
      else:
        break
    assert _fetch(store, tmp_path / 'fetched') == _LAST


class TestFetch:
  def test_what_has_been_replaced_meanwhile_is_noticed(self, store, tmp_path):
    publisher = remote_state.Publisher(store, 'a', None)
    _publish(publisher, _BEFORE, tmp_path / 'work')
    old = remote_state.read(store)
    for files in (_AFTER, {**_AFTER, 'metrics.jsonl': '9\n'}):
      _publish(publisher, files, tmp_path / 'work')
      target = str(tmp_path / 'fetched')
      shutil.rmtree(target, ignore_errors=True)
      assert not remote_state.fetch(store, old, target, {}, 'fetch')

  def test_a_damaged_object_is_noticed(self, store, tmp_path):
    publisher = remote_state.Publisher(store, 'a', None)
    _publish(publisher, _BEFORE, tmp_path / 'work')
    path = tmp_path / 'buckets' / 'mine' / 'run' / 'checkpoints' / '10' / 'meta'
    path.write_text('tex')  # Of the same size.
    state = remote_state.read(store)
    target = str(tmp_path / 'fetched')
    assert not remote_state.fetch(store, state, target, {}, 'fetch')

  def test_what_is_there_is_linked(self, store, tmp_path):
    publisher = remote_state.Publisher(store, 'a', None)
    _publish(publisher, _BEFORE, tmp_path / 'work')
    have = {'config.json': str(tmp_path / 'work' / 'config.json')}
    target = tmp_path / 'fetched'
    state = remote_state.read(store)
    assert remote_state.fetch(store, state, str(target), have, 'fetch')
    assert os.path.samefile(target / 'config.json', have['config.json'])
    assert _texts(target) == _BEFORE

  def test_where_a_disk_has_no_links_it_is_copied(
    self, store, tmp_path, monkeypatch
  ):
    publisher = remote_state.Publisher(store, 'a', None)
    _publish(publisher, _BEFORE, tmp_path / 'work')

    def refuse(*args):
      raise PermissionError('no links')

    monkeypatch.setattr(os, 'link', refuse)
    have = {'config.json': str(tmp_path / 'work' / 'config.json')}
    target, state = tmp_path / 'fetched', remote_state.read(store)
    assert remote_state.fetch(store, state, str(target), have, 'fetch')
    assert _texts(target) == _BEFORE
