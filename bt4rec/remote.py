"""Inputs and outputs that a URL names: fetched to a cache, uploaded at the end.

The cache is `bt4rec` in $XDG_CACHE_HOME or ~/.cache. Whatever lies there may be
deleted while no job runs.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence

from bt4rec import object_store, remote_state, snapshot
from bt4rec.errors import (
  InputError,
  NonFiniteLossError,
  StorageError,
  UnfinishedError,
)
from bt4rec.object_store import is_url

# They name the workdir, which is not where the user thinks it is.
_NAMING = (InputError, NonFiniteLossError, UnfinishedError)
_TRIES = 5
# Says in the folder of a copy what it is a copy of.
_URL = 'url'


def absolute(path: str | os.PathLike[str]) -> str:
  """A name that holds from everywhere: an absolute path, or the URL."""
  if is_url(path):
    return str(path).rstrip('/')
  return os.path.abspath(os.path.expanduser(path))


def shown(path: str) -> str:
  """The name of a workdir for the user: the URL of what is its copy."""
  folder = os.path.dirname(os.path.dirname(os.path.abspath(path)))
  if os.path.dirname(folder) != os.path.abspath(_cache('workdirs')):
    return path
  try:
    with open(os.path.join(folder, _URL)) as f:
      return f.read()
  except OSError:
    return path


def exists(path: str) -> bool:
  """Whether there is such a folder, or anything below a URL."""
  if is_url(path):
    return bool(object_store.Store(path).find())
  return os.path.isdir(path)


def cache_folder(kind: str, url: str) -> str:
  """Where the copy of a URL lies; kinds do not meet.

  Raises:
    InputError: If it cannot be made.
  """
  url = absolute(url)
  name = re.sub(r'[^\w.-]', '_', _name_of(url))
  digest = hashlib.blake2b(url.encode(), digest_size=6).hexdigest()
  folder = os.path.join(_cache(kind), f'{name}-{digest}')
  try:
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, _URL), 'w') as f:
      f.write(url)
  except OSError as error:
    raise InputError(
      f'cannot make {folder} for a copy of {url} ({error.strerror}); name '
      f'another cache with the variable XDG_CACHE_HOME.'
    ) from error
  return folder


def _cache(kind: str) -> str:
  cache = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
  return os.path.join(cache, 'bt4rec', kind)


def _name_of(url: str) -> str:
  return url.rstrip('/').rpartition('/')[2]


@contextlib.contextmanager
def naming(local: str, url: str) -> Iterator[None]:
  """Has the sentences of errors name the URL where they name its copy."""
  try:
    yield
  except _NAMING as error:
    if local not in str(error):
      raise
    raise type(error)(str(error).replace(local, url)) from error


def fetched(path: str, without: Sequence[str] = ()) -> str:
  """The local path of an input: itself, or a copy of what the URL names.

  A workdir is read in the last state its job has published, whole. What the
  cache has already is not read again, unless it has changed.

  Args:
    path: A local path, or the URL of a file, a folder or a workdir.
    without: Names of folders of a workdir that are not needed.

  Raises:
    InputError: If the URL names nothing, or its package is missing.
    StorageError: If the store does not answer.
  """
  if not is_url(path):
    return os.path.expanduser(path)
  store = object_store.Store(path)
  folder = cache_folder('inputs', path)
  with open(os.path.join(folder, 'lock'), 'w') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    for _ in range(_TRIES):
      copy = _fetch(store, folder, without)
      if copy:
        return os.path.join(copy, _name_of(store.url))
  raise StorageError(
    f'{path} has changed while it was read, again and again, or does not hold '
    f'what its manifest says; the same command tries again.'
  )


def _fetch(
  store: object_store.Store, folder: str, without: Sequence[str]
) -> str | None:
  """Makes a version of a copy, or finds it made; None if it changed."""
  state = remote_state.read(store) or _plain_state(store)
  state = state._replace(
    files={
      path: entry
      for path, entry in state.files.items()
      if not set(without) & set(path.split('/'))
    }
  )
  marks = {
    path: entry.digest + entry.tag for path, entry in state.files.items()
  }
  text = json.dumps(marks, sort_keys=True)
  version = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
  place, name = os.path.join(folder, version), _name_of(store.url)
  if os.path.isdir(place):
    os.utime(place)
    return place
  # The newest last.
  versions = sorted(
    (entry.path for entry in os.scandir(folder) if entry.is_dir()),
    key=os.path.getmtime,
  )
  have = {}
  for last in versions[-1:]:
    with open(os.path.join(last, 'marks.json')) as f:
      before = json.load(f)
    have = {
      path: os.path.normpath(os.path.join(last, name, path))
      for path, mark in marks.items()
      if before.get(path) == mark
    }
  temporary = tempfile.mkdtemp(dir=os.path.dirname(folder))
  try:
    is_whole = remote_state.fetch(
      store,
      state,
      os.path.join(temporary, name),
      have,
      f'fetch {store.url}',
    )
    if not is_whole:
      return None
    with open(os.path.join(temporary, 'marks.json'), 'w') as f:
      f.write(text)
    os.rename(temporary, place)
  finally:
    shutil.rmtree(temporary, ignore_errors=True)
  # Somebody may be reading the last one.
  for path in versions[:-1]:
    shutil.rmtree(path, ignore_errors=True)
  return place


def _plain_state(store: object_store.Store) -> remote_state.State:
  """What lies below a URL that no job has published.

  Raises:
    InputError: If nothing does.
  """
  found = store.find()
  if not found:
    raise InputError(
      f'{store.url} does not exist; name a file or folder that does.'
    )
  files = {}
  for name, info in found.items():
    text = json.dumps(info, sort_keys=True, default=str)
    tag = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
    files[name] = remote_state.Entry('', info['size'], name, tag)
  return remote_state.State(0, '', files)


@contextlib.contextmanager
def output(path: str) -> Iterator[str]:
  """Gives a local path for a file or folder to be written.

  Of a URL it is a temporary one, and what is there at the end is uploaded.

  Args:
    path: A local path or a URL; '' is none.

  Yields:
    The local path; '' of ''.

  Raises:
    InputError: If the URL is that of a workdir, or its package is missing.
    StorageError: If it cannot be uploaded.
  """
  if not is_url(path):
    yield os.path.expanduser(path)
    return
  store = object_store.Store(path)
  if remote_state.read(store) is not None:
    raise InputError(f'{path} is the workdir of a job; name another folder.')
  folder = tempfile.mkdtemp(dir=cache_folder('outputs', path))
  local = os.path.join(folder, _name_of(store.url))
  try:
    with naming(local, store.url):
      yield local
  except BaseException:
    shutil.rmtree(folder)
    raise
  try:
    _upload(local, store)
  except StorageError as error:
    raise StorageError(f'{error} What was made lies in {local}.') from error
  shutil.rmtree(folder)


def _upload(local: str, store: object_store.Store) -> None:
  if os.path.isdir(local):
    paths = [os.path.join(local, path) for path in snapshot.files_in(local)]
  else:
    paths = [local] if os.path.exists(local) else []
  objects = {
    '' if path == local else os.path.relpath(path, local): path
    for path in sorted(paths, key=lambda path: os.stat(path).st_mtime_ns)
  }
  if objects:
    # Where a file says that the others are whole, it was written last.
    last = list(objects)[-1]
    if last:
      store.delete([last])
    marker = {last: objects.pop(last)}
    store.put_all(objects, f'upload {store.url}')
    store.put_all(marker)
