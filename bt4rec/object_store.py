"""A folder of an object store, such as a bucket, behind whole-object calls.

Object stores have no appends, renames or locks. What is used of one is to put,
get, copy, list and delete whole objects, and to create one that must not be
there yet.
"""

import concurrent.futures
import contextlib
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import fsspec

from bt4rec import progress
from bt4rec.errors import InputError, StorageError

# Seconds before another try; the client of a store has tries of its own.
_PAUSES = (1.0, 4.0, 10.0)
_THREADS = 8
# Package that a scheme needs, where bt4rec has an extra of its own for it.
_EXTRAS = {'gs': 'gcs', 'gcs': 'gcs'}


def is_url(path: str | os.PathLike[str]) -> bool:
  """Whether a path is of an object store: scheme://..."""
  return re.match(r'[a-zA-Z][a-zA-Z0-9+.-]*://', os.fspath(path)) is not None


class Store:
  """What lies below a URL; names are relative to it, with slashes.

  Args:
    url: Such as gs://BUCKET/FOLDER.
    before_change: Called before each change; what it raises is passed on.

  Raises:
    InputError: If the scheme is unknown or of local files, or its package
      missing.
  """

  def __init__(
    self, url: str, before_change: Callable[[], None] = lambda: None
  ):
    self._before_change = before_change
    self.url = url.rstrip('/')
    scheme = url.partition('://')[0]
    if scheme in ('file', 'local'):
      raise InputError(
        f'{url} is a folder of this machine; leave out {scheme}://.'
      )
    try:
      # Others write here too, so that a listing is old at once.
      self._fs, self._root = fsspec.core.url_to_fs(
        self.url, use_listings_cache=False
      )
    except ImportError as error:
      package = str(error).rstrip('.')
      if scheme in _EXTRAS:
        package = f"pip install 'bt4rec[{_EXTRAS[scheme]}]'"
      raise InputError(
        f'{url} needs a package that is not installed: {package}.'
      ) from error
    except ValueError as error:
      raise InputError(
        f'{url} cannot be read ({error}); use gs://, s3:// or another scheme '
        f'that fsspec knows, or a local path.'
      ) from error
    self._root = self._root.rstrip('/')

  def _path(self, name: str) -> str:
    return f'{self._root}/{name}' if name else self._root

  def _try(
    self,
    what: str,
    name: str,
    call: Callable[[], Any],
    before: Callable[[], None] = lambda: None,
  ) -> Any:
    """Calls, and again where that may help; each time after `before`.

    Raises:
      FileNotFoundError, FileExistsError: As the store says.
      StorageError: After the last try.
    """
    for pause in (*_PAUSES, None):
      before()
      try:
        return call()
      except (FileNotFoundError, FileExistsError):
        raise
      except Exception as error:  # Each client has errors of its own.
        if pause is None:
          reason = (str(error) or type(error).__name__).split('\n')[0]
          raise StorageError(
            f'cannot {what} {self.url}/{name} ({reason.rstrip(".")}); check '
            f'the network and the credentials: the same command tries again.'
          ) from error
        time.sleep(pause)

  def _write(self, what: str, name: str, call: Callable[[], Any]) -> None:
    try:
      # A try may come minutes after the one before.
      self._try(what, name, call, self._before_change)
    except FileNotFoundError as error:
      raise StorageError(
        f'cannot {what} {self.url}/{name}: there is no such bucket; make it.'
      ) from error

  def read(self, name: str) -> bytes:
    """The content of an object.

    Raises:
      FileNotFoundError: If there is none.
    """
    return self._try('read', name, lambda: self._fs.cat_file(self._path(name)))

  def write(self, name: str, data: bytes) -> None:
    """Puts an object, in place of one there may be."""
    self._write(
      'write', name, lambda: self._fs.pipe_file(self._path(name), data)
    )

  def create(self, name: str, data: bytes) -> None:
    """Puts an object that must not be there yet.

    Raises:
      FileExistsError: If there is one already, of another content.
    """

    def create() -> None:
      try:
        self._fs.pipe_file(self._path(name), data, mode='create')
      except FileExistsError:
        # A try of ours may have got there, and its answer lost.
        if self._fs.cat_file(self._path(name)) != data:
          raise

    self._write('write', name, create)

  def copy(self, name: str, target: str) -> None:
    """Copies an object within the store."""
    self._write(
      'write',
      target,
      lambda: self._fs.cp_file(self._path(name), self._path(target)),
    )

  def delete(self, names: Iterable[str]) -> None:
    """Deletes objects; one that is not there is none to delete."""

    def delete(name: str) -> None:
      with contextlib.suppress(FileNotFoundError):
        self._try(
          'delete',
          name,
          lambda: self._fs.rm_file(self._path(name)),
          self._before_change,
        )

    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
      list(pool.map(delete, names))

  def find(self, folder: str = '') -> dict[str, dict]:
    """Name -> what the store says of each object below a folder."""

    def look() -> dict[str, dict]:
      self._fs.invalidate_cache()
      return self._fs.find(self._path(folder), detail=True)

    try:
      found = self._try('list', folder, look)
    except FileNotFoundError:
      return {}
    # A folder that somebody made by hand is an object with a slash.
    prefix = f'{self._root}/'
    return {
      path.removeprefix(prefix) if path != self._root else '': info
      for path, info in found.items()
      if not path.endswith('/')
    }

  def put_all(self, files: Mapping[str, str], name: str = '') -> None:
    """Uploads files: object -> local file; several at a time.

    Args:
      files: What to put where.
      name: What the progress is shown under; '' shows none.
    """
    sizes = {
      target: os.path.getsize(source) for target, source in files.items()
    }
    self._all(
      name,
      sizes,
      lambda target: self._write(
        'write',
        target,
        lambda: self._fs.put_file(files[target], self._path(target)),
      ),
    )

  def get_all(
    self, files: Mapping[str, str], sizes: Mapping[str, int], name: str
  ) -> None:
    """Downloads objects: object -> local file; several at a time.

    Args:
      files: What to get where; the folders are there.
      sizes: Object -> its size in bytes, for the progress.
      name: What the progress is shown under.

    Raises:
      FileNotFoundError: If one has gone.
    """
    self._all(
      name,
      sizes,
      lambda source: self._try(
        'read',
        source,
        lambda: self._fs.get_file(self._path(source), files[source]),
      ),
    )

  def _all(
    self,
    name: str,
    sizes: Mapping[str, int],
    call: Callable[[str], Any],
  ) -> None:
    with contextlib.ExitStack() as stack:
      pool = stack.enter_context(
        concurrent.futures.ThreadPoolExecutor(_THREADS)
      )
      futures = {pool.submit(call, path): path for path in sizes}
      bar = None
      if name:
        total = max(sum(sizes.values()), 1)
        bar = progress.Progress(name, total, unit='bytes', is_minor=True)
        stack.enter_context(contextlib.closing(bar))
      done = 0
      try:
        for future in concurrent.futures.as_completed(futures):
          future.result()
          done += sizes[futures[future]]
          if bar:
            bar.pulse(done)
      except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
