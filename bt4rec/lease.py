"""Keeps other machines off a workdir in a bucket, which has no locks.

An object says who holds the workdir and when it last gave a sign of life. It
keeps jobs apart; that states never mix is not up to it, but to their manifests.
"""

import contextlib
import json
import os
import signal
import socket
import threading
import time

from absl import logging

from bt4rec import remote_state
from bt4rec.errors import InputError, StorageError
from bt4rec.object_store import Store
from bt4rec.remote_state import TakenOverError

_NAME = f'{remote_state.FOLDER}/lease.json'
# Seconds between signs of life, and of silence after which the holder is taken
# for dead. They are much more than clocks of machines differ by.
BEAT = 20.0
PATIENCE = 180.0
# Seconds between two looks at a lease that is waited for.
_LOOK = 2.0


class Lease:
  """The lease of a workdir; held by a context.

  Args:
    store: The bucket's folder.
    owner: Who wants it: the same name after a kill gets it at once.

  Attributes:
    is_lost: Whether somebody else has taken it over.
  """

  def __init__(self, store: Store, owner: str):
    self._store = store
    self._owner = owner
    self._end = threading.Event()
    self._thread = threading.Thread(target=self._beat, daemon=True)
    self._last = 0.0
    self.is_lost = False

  def __enter__(self) -> 'Lease':
    """Takes the lease.

    Raises:
      InputError: If another job holds it, and is alive.
      StorageError: If the store does not answer.
    """
    self._acquire()
    self._thread.start()
    return self

  def __exit__(self, *error) -> None:
    self._end.set()
    self._thread.join()
    if not self.is_lost:
      # It ends by itself where it cannot be deleted.
      with contextlib.suppress(StorageError):
        if self._is_mine():
          self._store.delete([_NAME])

  def _acquire(self) -> None:
    first, seen = None, time.monotonic()
    while True:
      held = self._read()
      if held is None:
        with contextlib.suppress(FileExistsError):
          self._store.create(_NAME, self._text())
          break
        continue
      if held.get('owner') == self._owner:
        break
      if first is None:
        first = held
        # Dead for how long, by its clock; but it is watched for a beat.
        silent = max(time.time() - held.get('time', 0), 0)
        left = max(PATIENCE - silent, 1.5 * BEAT)
        logging.warning(
          '%s is held by a job on %s, silent for %.0f s; going on here in '
          '%.0f s, unless it gives a sign of life.',
          self._store.url,
          held.get('host'),
          silent,
          left,
        )
      elif held != first:
        raise InputError(
          f'another job is running in the workdir {self._store.url}, on '
          f'{held.get("host")} (process {held.get("pid")}); wait for it, or '
          f'choose another with --workdir.'
        )
      elif time.monotonic() - seen > left:
        self._store.delete([_NAME])
        continue
      time.sleep(_LOOK)
    self._store.write(_NAME, self._text())
    self._last = time.monotonic()

  def _read(self) -> dict | None:
    try:
      return json.loads(self._store.read(_NAME))
    except FileNotFoundError:
      return None
    except ValueError:
      return {}

  def _is_mine(self) -> bool:
    held = self._read()
    return held is not None and held.get('owner') == self._owner

  def _text(self) -> bytes:
    sign = {
      'owner': self._owner,
      'host': socket.gethostname(),
      'pid': os.getpid(),
      'time': time.time(),
    }
    return json.dumps(sign).encode()

  def _beat(self) -> None:
    while not self._end.wait(BEAT) and not self.is_lost:
      # Without the network there is none; the next one may come through.
      with contextlib.suppress(StorageError):
        self._renew()
    if self.is_lost and not self._end.is_set():
      # The job saves what it has and ends; see `remote_workdir`.
      os.kill(os.getpid(), signal.SIGTERM)

  def _renew(self) -> None:
    if not self._is_mine():
      self.is_lost = True
      return
    self._store.write(_NAME, self._text())
    self._last = time.monotonic()

  def require(self) -> None:
    """Does nothing while this job has the lease; asks the store if in doubt.

    Raises:
      TakenOverError: If another one has it.
      StorageError: If the store does not answer.
    """
    if time.monotonic() - self._last > PATIENCE / 2:
      self._renew()
    if self.is_lost:
      raise TakenOverError
