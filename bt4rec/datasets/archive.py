"""Unpacks downloaded archives, which are not trusted."""

import os
import shutil
import zipfile

from bt4rec.errors import InputError

# MovieLens-20M unpacks to 0.9 GB.
MAX_UNPACKED_BYTES = 4 << 30


def unpack(archive: str, folder: str) -> str:
  """Unpacks a zip file after looking at the names and sizes of its members.

  Args:
    archive: The zip file.
    folder: An existing folder to unpack into.

  Returns:
    The one folder the archive holds, or `folder` itself.

  Raises:
    InputError: If it is no zip file, is damaged, unpacks to more than
      `MAX_UNPACKED_BYTES`, or has a member that would leave the folder.
  """
  try:
    with zipfile.ZipFile(archive) as source:
      members = [member for member in source.infolist() if not member.is_dir()]
      _check_members(archive, members)
      for member in members:
        path = os.path.join(folder, member.filename)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        # Reads no more than the size that was checked, and checks the CRC.
        with source.open(member) as data, open(path, 'wb') as f:
          shutil.copyfileobj(data, f)
  except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
    raise InputError(
      f'{archive} is not a whole zip file ({error}); download it again.'
    ) from error
  entries = os.listdir(folder)
  inner = os.path.join(folder, entries[0]) if len(entries) == 1 else ''
  return inner if os.path.isdir(inner) else folder


def _check_members(archive: str, members: list[zipfile.ZipInfo]) -> None:
  for member in members:
    name = member.filename.replace('\\', '/')
    # The upper half of the attributes is the Unix mode; 0xA000 is a link.
    is_link = (member.external_attr >> 16) & 0xF000 == 0xA000
    if is_link or os.path.isabs(name) or '..' in name.split('/'):
      raise InputError(
        f'{archive} has the member {name[:80]!r}, which would be written '
        f'outside of its folder; do not use this archive.'
      )
  total = sum(member.file_size for member in members)
  if total > MAX_UNPACKED_BYTES:
    raise InputError(
      f'{archive} unpacks to {total:,} bytes, more than the limit of '
      f'{MAX_UNPACKED_BYTES:,}; do not use this archive.'
    )
