"""Workdirs in a bucket: published, taken up elsewhere, held by one job."""

import contextlib
import os
import pathlib
import shutil
import signal
import threading
import time

import pytest

from bt4rec import (
  lease,
  object_store,
  remote_state,
  remote_workdir,
  snapshot,
)
from bt4rec.errors import InputError, StorageError
from tests import bucket

_URL = 'bucket://mine/run'


@pytest.fixture(name='cloud')
def _cloud(tmp_path, monkeypatch):
  bucket.register()
  monkeypatch.setattr(bucket.BucketFileSystem, 'break_at', 0)
  monkeypatch.setattr(object_store, '_PAUSES', (0.0,))
  monkeypatch.setattr(remote_workdir, 'LOOK', 0.01)
  monkeypatch.setattr(lease, 'BEAT', 0.05)
  monkeypatch.setattr(lease, 'PATIENCE', 0.5)
  monkeypatch.setattr(lease, '_LOOK', 0.01)
  return _Cloud(tmp_path, monkeypatch)


class _Cloud:
  """A bucket, and machines that are caches."""

  def __init__(self, folder, monkeypatch):
    self.folder = folder
    self.place = folder / 'buckets' / 'mine' / 'run'
    self._monkeypatch = monkeypatch
    monkeypatch.setenv('BUCKETS', str(folder / 'buckets'))
    (folder / 'buckets').mkdir()

  @contextlib.contextmanager
  def job(self, machine):
    """Holds the workdir on a machine."""
    self._monkeypatch.setenv('XDG_CACHE_HOME', str(self.folder / machine))
    with remote_workdir.held(_URL) as directory:
      yield pathlib.Path(directory)

  def lose(self, machine):
    shutil.rmtree(self.folder / machine)

  def published(self):
    """What another machine would get: path -> text."""
    state = remote_state.read(object_store.Store(_URL))
    return {
      path: pathlib.Path(
        self.folder, 'buckets', 'mine', 'run', entry.name
      ).read_text()
      for path, entry in state.files.items()
    }


def _write(directory, path, text):
  (directory / path).parent.mkdir(parents=True, exist_ok=True)
  (directory / path).write_text(text)


def _wait_for(condition):
  for _ in range(2000):
    if condition():
      return
    time.sleep(0.01)
  raise AssertionError('it does not come')


class TestHeld:
  def test_goes_on_on_another_machine(self, cloud):
    with cloud.job('first') as directory:
      _write(directory, 'checkpoints/5/array', '5')
      _write(directory, 'metrics.jsonl', '5\n')
      (directory / 'lock').touch()
    assert cloud.published() == {
      'checkpoints/5/array': '5',
      'metrics.jsonl': '5\n',
    }
    # The lease is given back.
    names = os.listdir(cloud.place / '.bt4rec')
    assert not any('lease' in name for name in names)
    cloud.lose('first')
    with cloud.job('second') as directory:
      assert directory.name == 'run'
      assert (directory / 'checkpoints/5/array').read_text() == '5'
      shutil.rmtree(directory / 'checkpoints' / '5')
      _write(directory, 'checkpoints/9/array', '9')
    assert cloud.published() == {
      'checkpoints/9/array': '9',
      'metrics.jsonl': '5\n',
    }
    assert not (cloud.place / 'checkpoints' / '5' / 'array').exists()

  def test_publishes_checkpoints_and_results_at_once(self, cloud):
    with cloud.job('first') as directory:
      for path in ('checkpoints/5/array', 'results.jsonl'):
        _write(directory, path, 'x')
        _wait_for(lambda path=path: path in cloud.published())
      # The rest has time, up to a minute.
      _write(directory, 'metrics.jsonl', 'x')
      time.sleep(0.1)
      assert 'metrics.jsonl' not in cloud.published()
    assert 'metrics.jsonl' in cloud.published()

  def test_publishes_the_rest_in_time(self, cloud, monkeypatch):
    monkeypatch.setattr(remote_workdir, 'PERIOD', 0.05)
    with cloud.job('first') as directory:
      _write(directory, 'metrics.jsonl', 'x')
      _wait_for(lambda: 'metrics.jsonl' in cloud.published())

  def test_a_copy_that_is_ahead_is_taken(self, cloud, monkeypatch):
    with cloud.job('first') as directory:
      _write(directory, 'checkpoints/5/array', '5')
    # Killed before the next one was published; the old one is half deleted.
    _write(directory, 'checkpoints/6/array', '6')
    (directory / 'checkpoints/5/array').unlink()
    with cloud.job('first') as again:
      assert again == directory
      assert os.listdir(directory / 'checkpoints/6') == ['array']
    assert cloud.published() == {'checkpoints/6/array': '6'}

  def test_one_that_was_fetched_and_killed_is_ahead_too(self, cloud):
    with cloud.job('first') as directory:
      _write(directory, 'checkpoints/5/array', '5')
    with cloud.job('second') as directory:
      pass  # Nothing to publish: the state is still the first one's.
    _write(directory, 'checkpoints/6/array', '6')
    with cloud.job('second') as directory:
      assert (directory / 'checkpoints/6/array').exists()
    assert 'checkpoints/6/array' in cloud.published()

  def test_what_has_gone_on_elsewhere_is_taken_up(self, cloud):
    with cloud.job('first') as first:
      _write(first, 'checkpoints/5/array', '5')
    with cloud.job('second') as directory:
      _write(directory, 'checkpoints/9/array', '9')
    # Of the first after its last publication: it is behind, and kept.
    _write(first, 'checkpoints/6/array', '6')
    with cloud.job('first') as directory:
      assert sorted(os.listdir(directory / 'checkpoints')) == ['5', '9']
    assert 'checkpoints/6/array' not in cloud.published()
    old = first.parents[1] / 'old'
    assert (old / 'checkpoints' / '6' / 'array').read_text() == '6'

  def test_a_cache_that_was_cleaned_is_not_published(self, cloud):
    with cloud.job('first') as directory:
      _write(directory, 'checkpoints/5/array', '5')
      _write(directory, 'checkpoints/5/meta', '5')
    (directory / 'checkpoints/5/array').unlink()
    with cloud.job('first') as directory:
      assert (directory / 'checkpoints/5/array').read_text() == '5'

  @pytest.mark.parametrize('gone', ['checkpoints', 'results.jsonl', '.'])
  def test_what_is_gone_from_the_cache_is_not_deleted(self, cloud, gone):
    files = {
      'checkpoints/5/array': '5',
      'metrics.jsonl': '5\n',
      'results.jsonl': '{}\n',
    }
    with cloud.job('first') as directory:
      for path, text in files.items():
        _write(directory, path, text)
    for path in files:
      if gone in ('.', path.split('/')[0]):
        (directory / path).unlink()
    with cloud.job('first') as directory:
      assert (directory / 'results.jsonl').read_text() == '{}\n'
    assert cloud.published() == files

  def test_a_workdir_that_was_deleted_begins_anew(self, cloud):
    with cloud.job('first') as directory:
      _write(directory, 'checkpoints/5/array', '5')
    shutil.rmtree(cloud.place)
    with cloud.job('first') as directory:
      assert os.listdir(directory) == []
    assert cloud.published() == {}

  def test_other_things_are_not_touched(self, cloud):
    cloud.place.mkdir(parents=True)
    (cloud.place / 'thesis').write_text('all of it')
    with pytest.raises(InputError, match=r'holds other things .* thesis; name'):
      with cloud.job('first'):
        pass
    assert os.listdir(cloud.place) == ['thesis']

  def test_errors_name_the_url(self, cloud):
    with pytest.raises(InputError, match=f'^{_URL}/config.json is bad'):
      with cloud.job('first') as directory:
        raise InputError(f'{directory}/config.json is bad')

  def test_sigterm_publishes(self, cloud):
    with pytest.raises(SystemExit) as error:
      with cloud.job('first') as directory:
        _write(directory, 'metrics.jsonl', 'x')
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)
    assert error.value.code == 143
    assert cloud.published() == {'metrics.jsonl': 'x'}

  def test_a_store_that_fails_is_no_harm_to_the_job(self, cloud, monkeypatch):
    put_file = bucket.BucketFileSystem.put_file

    def refuse(self, *args, **options):
      raise OSError('no quota')

    with pytest.raises(StorageError, match=r'no quota.* lies in ') as error:
      with cloud.job('first') as directory:
        monkeypatch.setattr(bucket.BucketFileSystem, 'put_file', refuse)
        _write(directory, 'checkpoints/5/array', '5')
        time.sleep(0.1)
    assert str(directory) in str(error.value)
    monkeypatch.setattr(bucket.BucketFileSystem, 'put_file', put_file)
    with cloud.job('first'):
      pass
    assert cloud.published() == {'checkpoints/5/array': '5'}

  def test_a_disk_that_fails_once_does_not_end_it(self, cloud, monkeypatch):
    finished, failures = snapshot.finished, [OSError('input/output error')]

    def fail_once(folder):
      if failures:
        raise failures.pop()
      return finished(folder)

    monkeypatch.setattr(snapshot, 'finished', fail_once)
    with cloud.job('first') as directory:
      _write(directory, 'checkpoints/5/array', '5')
      _wait_for(lambda: 'checkpoints/5/array' in cloud.published())

  def test_the_error_of_the_job_comes_first(self, cloud, monkeypatch):
    def refuse(self, *args, **options):
      raise OSError('no quota')

    with pytest.raises(InputError, match='a mistake'):
      with cloud.job('first') as directory:
        monkeypatch.setattr(bucket.BucketFileSystem, 'put_file', refuse)
        _write(directory, 'checkpoints/5/array', '5')
        raise InputError('a mistake')

  def test_also_before_that_of_the_disk(self, cloud, monkeypatch):
    def refuse(*args):
      raise OSError('no room')

    with pytest.raises(InputError, match='a mistake'):
      with cloud.job('first'):
        monkeypatch.setattr(snapshot, 'take', refuse)
        raise InputError('a mistake')


class TestLease:
  def test_a_second_job_of_this_machine_is_refused(self, cloud):
    with cloud.job('first'):
      with pytest.raises(InputError, match=f'another job .* workdir {_URL};'):
        with cloud.job('first'):
          pass

  def test_one_of_another_machine_is_refused(self, cloud):
    with cloud.job('first') as directory:
      _write(directory, 'metrics.jsonl', 'x')
      start = time.monotonic()
      sentence = f'workdir {_URL}, on .*process {os.getpid()}.*; wait for it'
      with pytest.raises(InputError, match=sentence):
        with cloud.job('second'):
          pass
      # It has seen the next sign of life, and did not wait for the end of it.
      assert time.monotonic() - start < 5
    assert cloud.published() == {'metrics.jsonl': 'x'}

  def _die(self, cloud, monkeypatch):
    """A machine that is lost: its lease stays, and beats no more."""
    with cloud.job('first') as directory:
      _write(directory, 'checkpoints/5/array', '5')
      _wait_for(lambda: 'checkpoints/5/array' in cloud.published())
      _wait_for(lambda: (cloud.place / '.bt4rec' / 'lease.json').exists())
      held = (cloud.place / '.bt4rec' / 'lease.json').read_bytes()
    (cloud.place / '.bt4rec' / 'lease.json').write_bytes(held)

  def test_a_lost_machine_is_waited_for(self, cloud, monkeypatch, caplog):
    self._die(cloud, monkeypatch)
    cloud.lose('first')
    start = time.monotonic()
    with cloud.job('second') as directory:
      # Longer than a beat, and no longer than its patience.
      assert 0.07 < time.monotonic() - start < 5
      assert (directory / 'checkpoints/5/array').exists()

  def test_the_same_machine_takes_over_at_once(self, cloud, monkeypatch):
    self._die(cloud, monkeypatch)
    monkeypatch.setattr(lease, 'PATIENCE', 3600)
    monkeypatch.setattr(lease, 'BEAT', 3600)
    with cloud.job('first') as directory:
      assert (directory / 'checkpoints/5/array').exists()

  def test_who_has_been_taken_over_stops_and_publishes_nothing(self, cloud):
    # The signal ends a job; here its part is played by the test.
    told = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: told.set())
    try:
      with pytest.raises(StorageError, match='has taken over') as error:
        with contextlib.ExitStack() as stack:
          cloud._monkeypatch.setenv(
            'XDG_CACHE_HOME', str(cloud.folder / 'first')
          )
          directory = pathlib.Path(
            stack.enter_context(
              remote_workdir.held(_URL, handles_sigterm=False)
            )
          )
          store = object_store.Store(_URL)
          _write(cloud.folder, 'x', 'x')
          remote_state.Publisher(
            store, 'other', remote_state.read(store)
          ).publish({'x': ('digest of x', 1)}, {'x': str(cloud.folder / 'x')})
          store.write('.bt4rec/lease.json', b'{"owner": "other", "time": 0}')
          _write(directory, 'checkpoints/5/array', '5')
          assert told.wait(20)
    finally:
      signal.signal(signal.SIGTERM, before)
    assert cloud.published() == {'x': 'x'}
    assert str(directory) in str(error.value)
    # The lease is the other's now.
    assert (cloud.place / '.bt4rec' / 'lease.json').exists()
