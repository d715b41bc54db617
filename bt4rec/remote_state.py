"""The states of a workdir in a bucket: published whole, read whole.

The objects lie where the files of the workdir do, for people and TensorBoard to
look at, and `.bt4rec/` says which of them make up a state: a manifest with the
digest of each. A state is published in steps, and a kill after any of them
leaves the one before as it was:

1. New files go to their own place, changed ones to
   `.bt4rec/NUMBER-OWNER/`: nothing that the last manifest names is touched.
2. The next manifest is created. Its name has the next number, and a store
   creates a name once: of two that publish, one fails.
3. Changed files are copied to their own place, within the store; from the next
   manifest on they are read there.
4. What no manifest names any more is deleted.
"""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Mapping
from typing import NamedTuple

from bt4rec import snapshot
from bt4rec.errors import StorageError
from bt4rec.object_store import Store

FOLDER = '.bt4rec'
_UPLOADING = f'{FOLDER}/uploading.json'
_MANIFEST = re.compile(rf'{FOLDER}/manifest-(\d+)\.json')
_TRIES = 5


class Entry(NamedTuple):
  """A file of a state.

  Attributes:
    digest: Of its content; '' if the store alone knows.
    size: Bytes.
    name: The object that has it.
    tag: What the store says of the object, '' if that does not matter.
  """

  digest: str
  size: int
  name: str
  tag: str = ''


class State(NamedTuple):
  """A state of a workdir.

  Attributes:
    number: They count up.
    owner: Who published it.
    files: Path within the workdir -> what it was.
  """

  number: int
  owner: str
  files: dict[str, Entry]

  @property
  def objects(self) -> set[str]:
    """All that it needs in the bucket, and the places of its files."""
    return {*self.files, *(entry.name for entry in self.files.values())}


class TakenOverError(Exception):
  """Somebody else has published the next state."""


def digest_of(path: str) -> str:
  """Digest of a file."""
  with open(path, 'rb') as f:
    return hashlib.file_digest(
      f, lambda: hashlib.blake2b(digest_size=16)
    ).hexdigest()


def _manifest(number: int) -> str:
  return f'{FOLDER}/manifest-{number:08d}.json'


def _state(number: int, manifest: bytes) -> State:
  content = json.loads(manifest)
  files = {path: Entry(*entry) for path, entry in content['files'].items()}
  return State(number, content['owner'], files)


def _manifests(store: Store) -> dict[int, str]:
  found = map(_MANIFEST.fullmatch, store.find(FOLDER))
  return {int(match[1]): match[0] for match in found if match}


def read(store: Store) -> State | None:
  """The last state that was published, None if none ever was."""
  for _ in range(_TRIES):
    manifests = _manifests(store)
    for number in sorted(manifests, reverse=True):
      try:
        state = _state(number, store.read(manifests[number]))
      except FileNotFoundError:
        break  # The next one is there: look again.
      except ValueError:
        continue  # Of a store that a kill leaves half an object in.
      # The next number must be free.
      return state._replace(number=max(manifests))
    else:
      return None
  raise StorageError(
    f'the states in {store.url} change faster than they can be read; the same '
    f'command tries again.'
  )


def fetch(
  store: Store, state: State, target: str, have: Mapping[str, str], name: str
) -> bool:
  """Makes a folder of a state.

  Args:
    store: The bucket's folder.
    state: The state.
    target: A folder that is not there yet.
    have: Path -> a local file with the same content, where there is one that
      nobody changes.
    name: What the progress is shown under.

  Returns:
    Whether all is there as it was published; what is not there any more has
    been replaced by a later state.
  """
  missing = {}
  for path, entry in state.files.items():
    place = os.path.normpath(os.path.join(target, path))
    os.makedirs(os.path.dirname(place), exist_ok=True)
    if path in have:
      snapshot.link_or_copy(have[path], place)
    else:
      missing[place] = entry
  os.makedirs(os.path.dirname(target), exist_ok=True)
  try:
    store.get_all(
      {entry.name: place for place, entry in missing.items()},
      {entry.name: entry.size for entry in missing.values()},
      name,
    )
  except FileNotFoundError:
    return False
  return all(is_of(place, entry) for place, entry in missing.items())


def is_of(path: str, entry: Entry) -> bool:
  """Whether a local file is what the entry says."""
  try:
    if os.path.getsize(path) != entry.size:
      return False
  except FileNotFoundError:
    return False
  return not entry.digest or digest_of(path) == entry.digest


class Publisher:
  """Publishes the states of a workdir, one after the other.

  Args:
    store: The bucket's folder.
    owner: Who publishes.
    state: The last state, None to begin with an empty one.

  Attributes:
    state: The last state that was published.
  """

  def __init__(self, store: Store, owner: str, state: State | None):
    self._store = store
    self._owner = owner
    # Whether a manifest may be there whose creation was not confirmed.
    self._is_in_doubt = False
    if state is None:
      state = State(0, owner, {})
      self._create(state)
    self.state = state
    self._is_settled = False
    # Objects of publications that were cut, to be deleted by the next.
    self._stray = self._find_stray()

  def _find_stray(self) -> set[str]:
    stray = set()
    with contextlib.suppress(FileNotFoundError, ValueError):
      stray |= set(json.loads(self._store.read(_UPLOADING)))
    for number, name in _manifests(self._store).items():
      if number < self.state.number:
        with contextlib.suppress(FileNotFoundError, ValueError):
          stray |= _state(number, self._store.read(name)).objects
    return stray

  def publish(
    self, files: Mapping[str, tuple[str, int]], sources: Mapping[str, str]
  ) -> None:
    """Publishes the next state, if it is another.

    Args:
      files: Path -> digest and size, all there are.
      sources: Path -> a local file that has the content and stays as it is,
        for all whose digest is not that of the last state.

    Raises:
      TakenOverError: If somebody else has published meanwhile.
      StorageError: If the store does not answer; the last state is whole.
    """
    self.settle()
    before, number = self.state, self.state.number + 1
    entries, uploads = {}, {}
    for path, (digest, size) in files.items():
      old = before.files.get(path)
      name = path
      if old is None or old.digest != digest:
        if old is not None:
          # Its own even if somebody else publishes this number.
          name = f'{FOLDER}/{number}-{self._owner}/{path}'
        uploads[name] = sources[path]
      entries[path] = Entry(digest, size, name)
    if not uploads and entries.keys() == before.files.keys():
      return
    if uploads:
      self._stray |= uploads.keys()
      text = json.dumps(sorted(self._stray - before.objects))
      self._store.write(_UPLOADING, text.encode())
      self._store.put_all(uploads)
    state = State(number, self._owner, entries)
    self._create(state)
    self.state, self._is_settled = state, False
    self._stray |= before.objects
    self.settle()
    self._clean()

  def settle(self) -> None:
    """Makes sure of the last state, and copies its files to their own place.

    Raises:
      TakenOverError, StorageError: As `publish`.
    """
    if self._is_in_doubt:
      state = read(self._store)
      if state and state.number != self.state.number:
        if state.owner != self._owner:
          raise TakenOverError
        # What it names must not be written over by the next of its number.
        self._stray |= self.state.objects
        self.state, self._is_settled = state, False
      self._is_in_doubt = False
    if not self._is_settled:
      for path, entry in self.state.files.items():
        if entry.name != path:
          self._store.copy(entry.name, path)
      self._is_settled = True

  def _create(self, state: State) -> None:
    content = {'owner': state.owner, 'files': state.files}
    self._is_in_doubt = True
    try:
      self._store.create(_manifest(state.number), json.dumps(content).encode())
    except FileExistsError as error:
      raise TakenOverError from error
    self._is_in_doubt = False

  def _clean(self) -> None:
    self._store.delete(sorted(self._stray - self.state.objects))
    self._stray = set()
    # Last: they say what else there was to delete.
    manifests = _manifests(self._store)
    self._store.delete(
      name for n, name in manifests.items() if n < self.state.number
    )
