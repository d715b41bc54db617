"""Files on this machine or, through Beam's file systems, elsewhere."""

import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from apache_beam.io.filesystem import BeamIOError, CompressionTypes
from apache_beam.io.filesystems import FileSystems

from bt4rec.errors import InputError


def list_files(pattern: str) -> list[str]:
  """Files that match a glob pattern, in the order of their names.

  Raises:
    InputError: If there is none.
  """
  try:
    matches = FileSystems.match([pattern])[0].metadata_list
  except (BeamIOError, ValueError) as error:
    raise InputError(
      f'cannot list {pattern} ({error}); check --config.dataset.path.'
    ) from error
  if not matches:
    raise InputError(
      f'no file matches {pattern}; --config.dataset.path must name a CSV or '
      f'Parquet file, or a pattern such as "logs/*.csv.gz".'
    )
  return sorted(match.path for match in matches)


@contextmanager
def local_copy(path: str) -> Iterator[str]:
  """Path of the file on this machine; a remote one is copied to the disk.

  An `InputError` raised meanwhile names the file, not the copy.
  """
  if FileSystems.get_scheme(path) is None:
    yield path
    return
  with tempfile.NamedTemporaryFile(prefix='bt4rec-') as copy:
    with open_file(path) as file:
      shutil.copyfileobj(file, copy, 1 << 20)
    copy.flush()
    try:
      yield copy.name
    except InputError as error:
      raise InputError(str(error).replace(copy.name, path)) from error


def open_file(path: str) -> BinaryIO:
  """Opens a file as it is, compressed or not."""
  return FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED)


def create_file(folder: str, name: str) -> tuple[str, BinaryIO]:
  """Makes a file; a step that is run again does not write to the same one."""
  path = FileSystems.join(folder, f'{name}-{uuid.uuid4().hex}')
  return path, FileSystems.create(
    path,
    'application/octet-stream',
    compression_type=CompressionTypes.UNCOMPRESSED,
  )


def remove_files(folder: str) -> None:
  """Removes the files of a folder, and on this machine the folder."""
  if FileSystems.get_scheme(folder) is None:
    shutil.rmtree(folder, ignore_errors=True)
    return
  pattern = FileSystems.join(folder, '*')
  found = FileSystems.match([pattern])[0].metadata_list
  FileSystems.delete([file.path for file in found])
