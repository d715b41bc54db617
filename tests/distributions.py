"""Distributions made up for the tests of what is installed."""

import pathlib
from collections.abc import Iterable


def install(
  folder: pathlib.Path,
  name: str,
  version: str,
  lines: Iterable[str] = (),
  **files: str,
) -> None:
  """Writes what pip leaves of a distribution, without its modules.

  Args:
    folder: A folder of `sys.path`.
    name: The distribution.
    version: Its version.
    lines: Lines of its metadata besides.
    **files: Stem of a JSON file beside the metadata -> its text.
  """
  info = folder / f'{name}-{version}.dist-info'
  info.mkdir()
  text = [f'Metadata-Version: 2.1\nName: {name}\nVersion: {version}', *lines]
  (info / 'METADATA').write_text('\n'.join(text) + '\n')
  for file, content in files.items():
    (info / f'{file}.json').write_text(content)
