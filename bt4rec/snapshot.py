"""A copy of a workdir as a kill might leave it, while a job writes to it."""

import os
import shutil
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

# They say that something else is there, which is written before.
_CLAIMS = ('results.jsonl', 'done')
# What lies there is whole when it gets its name, and is never changed.
_CHECKPOINTS = 'checkpoints'
_UNFINISHED = '.orbax-checkpoint-tmp'
_TRIES = 5


class Version(NamedTuple):
  """What tells that a file has changed."""

  size: int
  modified: int


def files_in(folder: str) -> dict[str, Version]:
  """Path below a folder -> its version; no locks, nothing half written.

  Raises:
    OSError: If a folder cannot be read, which is not to pass for an empty one.
  """

  def fail(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
      raise error

  found = {}
  for parent, folders, names in os.walk(folder, onerror=fail):
    folders[:] = [name for name in folders if _UNFINISHED not in name]
    for name in names:
      if name == 'lock' or name.endswith('.tmp'):
        continue
      path = os.path.join(parent, name)
      try:
        stat = os.stat(path)
      except FileNotFoundError:
        continue
      relative = os.path.relpath(path, folder)
      found[relative] = Version(stat.st_size, stat.st_mtime_ns)
  return found


def checkpoint_of(path: str) -> str:
  """The folder of the checkpoint a path belongs to, '' if to none."""
  *parents, _ = path.split(os.sep)
  if _CHECKPOINTS not in parents:
    return ''
  return os.path.join(*parents[: parents.index(_CHECKPOINTS) + 2])


def newest_checkpoints(paths: Iterable[str]) -> set[str]:
  """The last checkpoint of each training that the paths are of."""
  newest: dict[str, str] = {}
  for checkpoint in {checkpoint_of(path) for path in paths} - {''}:
    training, step = os.path.split(checkpoint)
    if step.isdigit() and int(step) >= int(newest.get(training, '0')):
      newest[training] = step
  return {os.path.join(*pair) for pair in newest.items()}


def is_claim(path: str) -> bool:
  """Whether a file says that others are there; no job deletes it."""
  return os.path.basename(path) in _CLAIMS


def finished(folder: str) -> set[tuple[str, Version | None]]:
  """What of a workdir is worth a copy at once: checkpoints, results."""
  versions = files_in(folder)
  checkpoints = {checkpoint_of(path) for path in versions}
  claims = {(path, v) for path, v in versions.items() if is_claim(path)}
  return claims | {(path, None) for path in checkpoints}


def take(
  folder: str, target: str, known: dict[str, Version]
) -> dict[str, Version] | None:
  """Copies what has changed in a workdir.

  What the copy has besides is of one moment: a result has its checkpoint, a
  checkpoint all of its files, and the files of lines reach as far as it does.

  Args:
    folder: The workdir.
    target: Gets the files; made anew.
    known: Versions of files that are not copied.

  Returns:
    Path -> version, also of those that are not copied; None if the workdir
    changes too fast.
  """
  for _ in range(_TRIES):
    shutil.rmtree(target, ignore_errors=True)
    os.makedirs(target)
    found = _take(folder, target, known)
    if found is not None:
      return found
    time.sleep(0.5)
  return None


def _take(folder, target, known) -> dict[str, Version] | None:
  taken: dict[str, Version] = {}

  def take_those(versions: dict[str, Version]) -> None:
    for path, version in versions.items():
      if path in taken:
        continue
      if known.get(path) != version:
        _copy(os.path.join(folder, path), os.path.join(target, path))
      # Of before the copy: what is appended meanwhile is copied again.
      taken[path] = version

  def those(of: Callable[[str], bool]) -> dict[str, Version]:
    return {p: v for p, v in files_in(folder).items() if of(p)}

  try:
    # First: what they claim is there by now.
    take_those(those(is_claim))
    checkpoints = those(lambda p: bool(checkpoint_of(p)))
    take_those(checkpoints)
    if not checkpoints.keys() <= files_in(folder).keys():
      return None  # One is being deleted, and a newer one there.
    # Last: they reach as far as the checkpoints, or further.
    take_those(those(lambda p: not (is_claim(p) or checkpoint_of(p))))
  except FileNotFoundError:
    return None
  return taken


def _copy(source: str, target: str) -> None:
  os.makedirs(os.path.dirname(target), exist_ok=True)
  if checkpoint_of(source):
    link_or_copy(source, target)
  else:
    shutil.copyfile(source, target)


def link_or_copy(source: str, target: str) -> None:
  """Gives a file that nobody changes a second name, which takes no room."""
  try:
    os.link(source, target)
  except FileNotFoundError:
    raise
  except OSError:  # A disk without links.
    shutil.copyfile(source, target)
