"""A workdir in a bucket: the job works on a copy, which is published.

The copy lies in the cache (`remote.cache_folder`). When the job starts it is
made to be what was published last, unless it goes on from there itself. A
thread publishes what changes: checkpoints and results when they are finished,
the rest every minute, all of it at the end. So a machine that is lost costs
what came after its last checkpoint, and the same command goes on elsewhere.
"""

import contextlib
import json
import os
import shutil
import signal
import sys
import threading
import time
import uuid
from collections.abc import Iterator

from absl import logging

from bt4rec import object_store, remote, remote_state, snapshot, workdir
from bt4rec.errors import InputError, StorageError
from bt4rec.lease import Lease, TakenOverError

# Seconds between two looks at the copy, and between publications at most.
LOOK = 2.0
PERIOD = 60.0
_TERMINATED = 128 + signal.SIGTERM


@contextlib.contextmanager
def held(url: str, handles_sigterm: bool = True) -> Iterator[str]:
  """Holds a workdir in a bucket while a job runs in its copy.

  Args:
    url: Such as gs://BUCKET/FOLDER.
    handles_sigterm: Whether SIGTERM becomes SystemExit meanwhile, so that the
      last state is published; several processes have a handler of JAX.

  Yields:
    The local copy.

  Raises:
    InputError: If another job holds the workdir, or other things lie there.
    StorageError: If the store does not answer, or somebody has taken over.
  """
  store = object_store.Store(url)
  folder = remote.cache_folder('workdirs', url)
  local = os.path.join(folder, 'workdir', os.path.basename(store.url))
  with contextlib.ExitStack() as stack:
    stack.enter_context(remote.naming(os.path.join(folder, 'held'), store.url))
    # Keeps the jobs of this machine apart; the lease those of others.
    stack.enter_context(workdir.locked(os.path.join(folder, 'held')))
    owner = _owner(folder)
    copy = _Copy(store.url, folder, local, owner)
    if remote_state.read(store) is None:
      _require_empty(store)
      # Whoever deletes a workdir means it.
      copy.set_aside()
    if handles_sigterm:
      stack.enter_context(_exit_at_sigterm())
    lease = stack.enter_context(Lease(store, owner))
    # Now that nobody else publishes.
    publisher = remote_state.Publisher(
      object_store.Store(url, lease.require), owner, remote_state.read(store)
    )
    if not copy.is_ahead_of(publisher.state):
      copy.fetch(store, publisher.state)
    mirror = _Mirror(copy, publisher, lease)
    with mirror, remote.naming(local, store.url):
      yield local


def _owner(folder: str) -> str:
  """Name of this copy, the same as long as it is there."""
  path = os.path.join(folder, 'owner')
  try:
    with open(path) as f:
      return f.read()
  except FileNotFoundError:
    owner = uuid.uuid4().hex
    workdir.write_atomically(path, owner)
    return owner


def _require_empty(store: object_store.Store) -> None:
  others = [
    name
    for name in store.find()
    if not name.startswith(f'{remote_state.FOLDER}/')
  ]
  if others:
    raise InputError(
      f'{store.url} holds other things than a workdir, such as {others[0]}; '
      f'name an empty folder of the bucket.'
    )


@contextlib.contextmanager
def _exit_at_sigterm() -> Iterator[None]:
  if threading.current_thread() is not threading.main_thread():
    yield  # Only the main thread may set handlers.
    return
  before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(_TERMINATED))
  try:
    yield
  finally:
    signal.signal(signal.SIGTERM, before)


class _Copy:
  """The local copy, and the published state that it goes on from."""

  def __init__(self, url: str, folder: str, local: str, owner: str):
    self.url = url
    self.local = local
    self.snapshot = os.path.join(folder, 'snapshot')
    self._folder = folder
    self._owner = owner
    self._base = os.path.join(folder, 'base.json')

  def is_ahead_of(self, state: remote_state.State) -> bool:
    """Whether it goes on from that state, so that nothing is to be fetched.

    Of one that another machine has published it does if it was fetched. One
    that was published from here it is or goes on from; but somebody may have
    cleaned the cache, which must not clean the bucket: of results and of the
    newest checkpoints, its own or published, nothing must be missing.
    """
    if not os.path.isdir(self.local):
      return False
    if state.owner != self._owner and self._read_base() != _name(state):
      return False
    there = snapshot.files_in(self.local)
    newest = snapshot.newest_checkpoints([*there, *state.files])
    return all(
      path in there
      # A file of results grows, a checkpoint does not change.
      and (snapshot.is_claim(path) or there[path].size == entry.size)
      for path, entry in state.files.items()
      if snapshot.is_claim(path) or snapshot.checkpoint_of(path) in newest
    )

  def _read_base(self) -> list | None:
    try:
      with open(self._base) as f:
        return json.load(f)
    except (FileNotFoundError, ValueError):
      return None

  def fetch(self, store: object_store.Store, state: remote_state.State) -> None:
    """Makes it that state; what it was is kept if it was never published."""
    fresh = os.path.join(self._folder, 'new')
    shutil.rmtree(fresh, ignore_errors=True)
    have = {}
    for path, version in snapshot.files_in(self.local).items():
      entry = state.files.get(path)
      place = os.path.join(self.local, path)
      # Those of a checkpoint never change: one file may stand in two folders.
      if (
        entry
        and snapshot.checkpoint_of(path)
        and version.size == entry.size
        and remote_state.is_of(place, entry)
      ):
        have[path] = place
    whole = remote_state.fetch(store, state, fresh, have, f'fetch {self.url}')
    if not whole:
      raise StorageError(
        f'{self.url} does not hold what its manifest says; restore its '
        f'objects, or choose another with --workdir.'
      )
    os.makedirs(fresh, exist_ok=True)
    self.set_aside()
    os.makedirs(os.path.dirname(self.local), exist_ok=True)
    # First: without it a whole copy would be fetched once more.
    workdir.write_atomically(self._base, json.dumps(_name(state)))
    os.rename(fresh, self.local)

  def set_aside(self) -> None:
    """Moves away what does not go on from what was published."""
    if not os.path.isdir(self.local):
      return
    old = os.path.join(self._folder, 'old')
    shutil.rmtree(old, ignore_errors=True)
    os.rename(self.local, old)
    logging.warning(
      'the copy of %s that was here does not go on from what is there now, '
      'which is taken up; until the next time it lies in %s.',
      self.url,
      old,
    )


def _name(state: remote_state.State) -> list:
  return [state.number, state.owner]


class _Mirror:
  """Publishes a copy while a context lasts, and at its end."""

  def __init__(
    self, copy: _Copy, publisher: remote_state.Publisher, lease: Lease
  ):
    self._copy = copy
    self._publisher = publisher
    self._lease = lease
    # Path -> version, digest and size.
    self._known: dict[str, tuple[snapshot.Version, str, int]] = {}
    self._has_failed = False
    self._end = threading.Event()
    self._thread = threading.Thread(target=self._run, daemon=True)

  def __enter__(self) -> None:
    self._thread.start()

  def __exit__(self, kind, error, traceback) -> None:
    before = None
    if threading.current_thread() is threading.main_thread():
      # It is on its way out.
      before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
      self._end.set()
      self._thread.join()
      self._finish()
    except (StorageError, OSError) as problem:
      if isinstance(error, Exception):
        logging.warning('%s', problem)  # The job's own problem comes first.
      else:
        raise
    finally:
      if before is not None:
        signal.signal(signal.SIGTERM, before)

  def _finish(self) -> None:
    try:
      self._publish()
    except TakenOverError as error:
      raise StorageError(
        f'another job has taken over {self._copy.url}, which this one did not '
        f'reach for minutes; what this one has done since lies in '
        f'{self._copy.local}.'
      ) from error
    except StorageError as error:
      raise StorageError(
        f'the last state of {self._copy.url} is not published ({error}) It '
        f'lies in {self._copy.local}.'
      ) from error

  def _run(self) -> None:
    last, now, published = None, None, 0.0
    while not self._end.wait(LOOK) and not self._lease.is_lost:
      try:
        now = snapshot.finished(self._copy.local)
        if now == last and time.monotonic() - published < PERIOD:
          continue
        self._publish()
      except TakenOverError:
        self._lease.is_lost = True
      except Exception as error:  # The job does not suffer from it.
        if not self._has_failed:
          logging.warning('%s It is tried again.', error)
        self._has_failed = True
      else:
        if self._has_failed:
          logging.info('%s: published again.', self._copy.url)
        self._has_failed = False
      last, published = now, time.monotonic()

  def _publish(self) -> None:
    self._publisher.settle()
    published = self._publisher.state.files
    known = {
      path: version
      for path, (version, digest, _) in self._known.items()
      if path in published and published[path].digest == digest
    }
    versions = snapshot.take(self._copy.local, self._copy.snapshot, known)
    if versions is None:
      raise StorageError(
        f'{self._copy.local} changes too fast for {self._copy.url}.'
      )
    files, sources = {}, {}
    for path, version in versions.items():
      if known.get(path) != version:
        sources[path] = os.path.join(self._copy.snapshot, path)
        self._known[path] = (
          version,
          remote_state.digest_of(sources[path]),
          os.path.getsize(sources[path]),
        )
      files[path] = self._known[path][1:]
    self._publisher.publish(files, sources)
    shutil.rmtree(self._copy.snapshot)
