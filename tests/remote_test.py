"""Inputs and outputs that a URL names."""

import json
import os
import pathlib

import fsspec
import pytest

from bt4rec import object_store, remote, remote_state
from bt4rec.errors import InputError, StorageError
from tests import bucket

_URL = 'bucket://mine/data'


@pytest.fixture(name='place')
def _place(tmp_path, monkeypatch):
  """The folder that stands for the URL."""
  bucket.register()
  monkeypatch.setenv('BUCKETS', str(tmp_path / 'buckets'))
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  monkeypatch.setattr(bucket.BucketFileSystem, 'break_at', 0)
  monkeypatch.setattr(object_store, '_PAUSES', (0.0,))
  place = tmp_path / 'buckets' / 'mine' / 'data'
  place.mkdir(parents=True)
  bucket.BucketFileSystem.reads.clear()
  return place


def _reads() -> list[str]:
  """What was read since the last look."""
  reads = [path.removeprefix('mine/') for path in bucket.BucketFileSystem.reads]
  bucket.BucketFileSystem.reads.clear()
  return sorted(reads)


class TestFetched:
  def test_a_local_path_is_itself(self):
    assert remote.fetched('runs/x') == 'runs/x'
    assert remote.fetched('~/x') == os.path.expanduser('~/x')
    assert remote.fetched('') == ''
    # As Python code has it.
    assert remote.fetched(pathlib.Path('runs/x')) == 'runs/x'
    assert remote.absolute(pathlib.Path('/runs/x')) == '/runs/x'
    # No scheme.
    assert not remote.is_url('runs/a://b') and not remote.is_url('a b://c')

  def test_what_has_not_changed_is_not_fetched_again(self, place):
    (place / 'ratings.dat').write_text('one')
    (place / 'movies.dat').write_text('two')
    first = pathlib.Path(remote.fetched(f'{_URL}/'))
    assert first.name == 'data' and _reads() == [
      *('data/movies.dat', 'data/ratings.dat'),
    ]
    assert remote.fetched(_URL) == str(first) and not _reads()
    (place / 'ratings.dat').write_text('ONE')
    second = pathlib.Path(remote.fetched(_URL))
    assert _reads() == ['data/ratings.dat']
    assert (second / 'ratings.dat').read_text() == 'ONE'
    assert (second / 'movies.dat').read_text() == 'two'
    # Somebody may be reading it.
    assert (first / 'ratings.dat').read_text() == 'one'

  def test_a_file_keeps_its_name(self, place):
    (place / 'events.csv').write_text('user,item')
    found = pathlib.Path(remote.fetched(f'{_URL}/events.csv'))
    assert found.name == 'events.csv' and found.read_text() == 'user,item'

  def test_a_workdir_is_read_as_it_was_published(self, place, tmp_path):
    sources = {}
    for path in ('config.json', 'checkpoints/5/array'):
      (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
      (tmp_path / path).write_text(path)
      sources[path] = str(tmp_path / path)
    publisher = remote_state.Publisher(object_store.Store(_URL), 'a', None)
    files = {p: (remote_state.digest_of(s), len(p)) for p, s in sources.items()}
    publisher.publish(files, sources)
    # Of an upload that was cut.
    (place / 'checkpoints' / '6').mkdir()
    (place / 'checkpoints' / '6' / 'array').write_text('half')
    found = pathlib.Path(remote.fetched(_URL))
    assert sorted(os.listdir(found)) == ['checkpoints', 'config.json']
    assert os.listdir(found / 'checkpoints') == ['5']
    light = remote.fetched(_URL, without=['checkpoints'])
    assert os.listdir(light) == ['config.json']

  def test_what_is_not_there_is_named(self, place):
    with pytest.raises(InputError, match='bucket://mine/none does not exist'):
      remote.fetched('bucket://mine/none')

  def test_a_scheme_without_its_package_names_it(self, monkeypatch):
    def missing(url, **options):
      raise ImportError('Please install gcsfs to access Google Storage')

    monkeypatch.setattr(fsspec.core, 'url_to_fs', missing)
    with pytest.raises(InputError, match=r"pip install 'bt4rec\[gcs\]'"):
      remote.fetched('gs://mine/run')
    with pytest.raises(InputError, match='not installed: Please install gcsfs'):
      remote.fetched('abc://mine/run')

  def test_a_local_path_is_none_of_a_store(self):
    with pytest.raises(InputError, match=r'this machine; leave out file://\.'):
      remote.fetched('file:///tmp/run')

  def test_an_unknown_scheme_is_one_sentence(self):
    with pytest.raises(InputError, match='nothing://mine cannot be read'):
      remote.fetched('nothing://mine')

  def test_a_store_that_does_not_answer(self, place, monkeypatch):
    def refuse(self, path, **options):
      raise OSError('403 Forbidden')

    monkeypatch.setattr(bucket.BucketFileSystem, 'find', refuse)
    with pytest.raises(StorageError, match=r'\(403 Forbidden\); check the net'):
      remote.fetched(_URL)

  def test_a_try_that_fails_is_made_again(self, place, monkeypatch):
    (place / 'x').write_text('x')
    get_file, failures = bucket.BucketFileSystem.get_file, ['once']

    def get(self, *args, **options):
      if failures:
        raise TimeoutError(failures.pop())
      get_file(self, *args, **options)

    monkeypatch.setattr(bucket.BucketFileSystem, 'get_file', get)
    assert os.listdir(remote.fetched(_URL)) == ['x']

  def test_another_scheme_of_fsspec(self, place):
    fs = fsspec.filesystem('memory')
    fs.pipe_file('/mine/a/b.csv', b'x')
    assert os.listdir(remote.fetched('memory://mine/a')) == ['b.csv']

  def test_no_try_is_made_after_a_lease_is_lost(self, place, monkeypatch):
    tries = []

    class LostError(Exception):
      pass

    def require():
      if tries:
        raise LostError

    def fail(self, *args, **options):
      tries.append('put')
      raise TimeoutError('after minutes')

    monkeypatch.setattr(bucket.BucketFileSystem, 'put_file', fail)
    (place / 'x').write_text('x')
    store = object_store.Store(_URL, require)
    with pytest.raises(LostError):
      store.put_all({'y': str(place / 'x')})
    assert tries == ['put']


class TestOutput:
  def test_a_local_one_is_where_it_is(self, tmp_path):
    with remote.output(str(tmp_path / 'x')) as path:
      assert path == str(tmp_path / 'x') and not os.path.exists(path)
    for given in ('', 'here', '~/there'):
      with remote.output(given) as path:
        assert path == os.path.expanduser(given)

  def test_a_file_is_uploaded_at_the_end(self, place):
    with remote.output(f'{_URL}/users.parquet') as path:
      pathlib.Path(path).write_text('rows')
      assert not (place / 'users.parquet').exists()
    assert (place / 'users.parquet').read_text() == 'rows'
    assert not os.path.exists(path)

  def test_what_says_that_a_folder_is_whole_comes_last(self, place):
    (place / 'dataset.json').write_text('old')
    (place / 'items.npy').write_text('old')
    order = []

    def note(folder):
      order.extend((path.name, path.read_text()) for path in folder.iterdir())

    with remote.output(_URL) as path:
      os.makedirs(path)
      for number, name in enumerate(('items.npy', 'dataset.json')):
        pathlib.Path(path, name).write_text('new')
        os.utime(os.path.join(path, name), (number, number))
      bucket.BucketFileSystem.on_break = staticmethod(lambda: note(place))
      # The deletion is the first change, the array the second.
      bucket.BucketFileSystem.break_at = bucket.BucketFileSystem.changes + 3
    assert order == [('items.npy', 'new')]
    assert (place / 'dataset.json').read_text() == 'new'

  def test_what_fails_uploads_nothing(self, place):
    with pytest.raises(InputError, match=f'cannot write {_URL}/x;'):
      with remote.output(f'{_URL}/x') as path:
        pathlib.Path(path).write_text('half')
        raise InputError(f'cannot write {path};')
    assert not os.listdir(place) and not os.path.exists(path)

  def test_what_cannot_be_uploaded_is_kept(self, place, monkeypatch):
    def refuse(self, *args, **options):
      raise OSError('no quota')

    monkeypatch.setattr(bucket.BucketFileSystem, 'put_file', refuse)
    with pytest.raises(StorageError, match=r'\(no quota\).* lies in ') as error:
      with remote.output(f'{_URL}/x') as path:
        pathlib.Path(path).write_text('rows')
    assert pathlib.Path(path).read_text() == 'rows' and path in str(error.value)

  def test_a_workdir_is_not_written_over(self, place):
    remote_state.Publisher(object_store.Store(_URL), 'a', None)
    with pytest.raises(InputError, match='is the workdir of a job'):
      with remote.output(_URL):
        pass


def test_a_copy_is_shown_by_its_url(place):
  folder = remote.cache_folder('workdirs', _URL)
  local = os.path.join(folder, 'workdir', 'data')
  assert remote.shown(local) == _URL
  assert remote.shown('runs/x') == 'runs/x'
  # Somebody's own file of that name says nothing.
  (place / 'url').write_bytes(b'\xff')
  mine = str(place / 'runs' / 'x')
  assert remote.shown(mine) == mine
  text = json.dumps({'at': local})
  with pytest.raises(InputError, match=f'at": "{_URL}"'):
    with remote.naming(local, _URL):
      raise InputError(text)
