"""Writes embeddings to Parquet, row group by row group."""

import contextlib
import json
import os
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bt4rec.errors import InputError
from bt4rec.progress import Progress

_ROW_GROUP = 16_384


def require_writable(path: str) -> None:
  """Checks that a file can be written, before hours are spent on it.

  Raises:
    InputError: If it cannot.
  """
  folder = os.path.dirname(os.path.abspath(path))
  try:
    os.makedirs(folder, exist_ok=True)
  except OSError as error:
    raise InputError(
      f'cannot make the folder {folder} ({error.strerror}); choose another.'
    ) from error
  if os.path.isdir(path) or not os.access(folder, os.W_OK):
    raise InputError(
      f'cannot write the file {path}; name a file in a folder that can be '
      f'written.'
    )


def write(
  path: str,
  columns: dict[str, np.ndarray],
  embed: Callable[[slice], np.ndarray],
  dim: int,
  metadata: dict,
) -> None:
  """Writes a table with the column `embedding`, a fixed-size list of floats.

  The file appears when it is whole; until then it is `PATH.tmp`.

  Args:
    path: The file.
    columns: Name -> [num_rows] int64 or str; `embedding` follows the first.
    embed: Rows -> [rows, dim] float32.
    dim: Width of the embeddings.
    metadata: JSON object, stored under the key `bt4rec` of the schema.
  """
  arrays = dict(columns)
  first, *others = arrays
  num_rows = len(arrays[first])
  schema = pa.schema(
    [
      _field(first, arrays[first]),
      pa.field('embedding', pa.list_(pa.float32(), dim), nullable=False),
      *(_field(name, arrays[name]) for name in others),
    ],
    metadata={'bt4rec': json.dumps(metadata)},
  )
  temporary = f'{path}.tmp'
  progress = Progress(f'export {first}', num_rows, unit='rows')
  try:
    with contextlib.closing(progress), open(temporary, 'wb') as file:
      with pq.ParquetWriter(file, schema) as parquet:
        for start in range(0, num_rows, _ROW_GROUP):
          stop = min(start + _ROW_GROUP, num_rows)
          rows = slice(start, stop)
          vectors = pa.FixedSizeListArray.from_arrays(
            pa.array(embed(rows).ravel(), pa.float32()), dim
          )
          table = {name: pa.array(a[rows]) for name, a in arrays.items()}
          table['embedding'] = vectors
          parquet.write_table(
            pa.table([table[name] for name in schema.names], schema=schema)
          )
          progress.pulse(stop)
      file.flush()
      os.fsync(file.fileno())
    os.replace(temporary, path)
  except BaseException:
    os.remove(temporary)
    raise


def _field(name: str, array: np.ndarray) -> pa.Field:
  return pa.field(name, pa.array(array[:0]).type, nullable=False)
