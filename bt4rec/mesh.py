"""The devices as a grid, and item tables split by row over one side of it.

The batch is split over all devices, so none computes what another one does. The
item table, its gradient and its moments are split over the model axis alone: a
device asks those of its row of the grid for the embeddings it needs, and scores
their positions against its own items (`full_cross_entropy`).
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bt4rec.errors import InputError

DATA = 'batch'
MODEL = 'model'
# What has the batch as leading axis.
OF_BATCH = PartitionSpec((DATA, MODEL))
# What has the rows of the table as leading axis.
OF_ROWS = PartitionSpec(MODEL)
EVERYWHERE = PartitionSpec()
_ITEM_TABLE = 'item_table'


def is_item_table(path: tuple) -> bool:
  """Whether a leaf is the item table, or a moment of it in the optimizer."""
  return _ITEM_TABLE in jax.tree_util.keystr(path)


def make_mesh(devices: list[jax.Device], model_parallelism: int = 1) -> Mesh:
  """Returns the devices as a grid [data, model].

  Args:
    devices: The devices, those of a process side by side.
    model_parallelism: Devices that share a table.

  Raises:
    InputError: If that does not divide the devices of every process.
  """
  processes = [device.process_index for device in devices]
  num_local = min(np.unique(processes, return_counts=True)[1])
  if model_parallelism < 1 or num_local % model_parallelism:
    raise InputError(
      f'model_parallelism={model_parallelism} does not divide the {num_local} '
      f'devices of a process; choose a divisor.'
    )
  return Mesh(np.array(devices).reshape(-1, model_parallelism), (DATA, MODEL))


@dataclasses.dataclass(frozen=True)
class RowSharding:
  """An item table split by row over the model axis.

  On the devices it has rows of zeros at its end where the devices do not divide
  its rows. They are no tokens, so no gradient ever reaches them.

  Attributes:
    mesh: The devices.
    num_rows: Rows of the whole table.
  """

  mesh: Mesh
  num_rows: int

  @property
  def padded_rows(self) -> int:
    """Rows on the devices, a multiple of those that share them."""
    parts = self.mesh.shape[MODEL]
    return -(-self.num_rows // parts) * parts

  def take(
    self, table: jax.Array, rows: jax.Array, is_split: bool = True
  ) -> jax.Array:
    """`table[rows]` inside of a compiled step; outside of the table anything.

    Args:
      table: [padded_rows, dim].
      rows: [...] int; with the batch as leading axis if `is_split`.
      is_split: Whether `rows` is split over the devices, or whole on all.
    """

    def of_device(table, rows):
      if is_split:
        rows = lax.all_gather(rows, MODEL, tiled=True)
      local = rows - lax.axis_index(MODEL) * len(table)
      is_here = (local >= 0) & (local < len(table))
      found = table[jnp.where(is_here, local, 0)]
      found = jnp.where(is_here[..., None], found, 0.0)
      if is_split:
        return lax.psum_scatter(found, MODEL, tiled=True)
      return lax.psum(found, MODEL)

    spec = OF_BATCH if is_split else EVERYWHERE
    return jax.shard_map(
      of_device, mesh=self.mesh, in_specs=(OF_ROWS, spec), out_specs=spec
    )(table, rows)

  def constrain(self, tree: Any) -> Any:
    """Has a compiled step leave a state as `place` puts it."""
    return jax.tree_util.tree_map_with_path(
      lambda path, x: lax.with_sharding_constraint(x, self._of(path)), tree
    )

  def place(self, table: Any) -> jax.Array:
    """Splits a whole table, at best one of NumPy: no device gets it whole.

    Args:
      table: [num_rows, dim].
    """
    table = np.asarray(table)

    def part(index: Any) -> np.ndarray:
      first, last, _ = index[0].indices(self.padded_rows)
      rows = table[first:last]
      padding = last - first - len(rows)
      return np.pad(rows, ((0, padding), *((0, 0),) * (rows.ndim - 1)))

    return jax.make_array_from_callback(
      (self.padded_rows, *table.shape[1:]),
      NamedSharding(self.mesh, OF_ROWS),
      part,
    )

  def gather(self, table: jax.Array) -> np.ndarray:
    """Copies a placed table to the host: [num_rows, dim]."""
    parts = {
      shard.index[0].start or 0: np.asarray(shard.data)
      for shard in table.addressable_shards
    }
    whole = np.concatenate([parts[first] for first in sorted(parts)])
    return whole[: self.num_rows]

  def _of(self, path: tuple) -> NamedSharding:
    spec = OF_ROWS if is_item_table(path) else EVERYWHERE
    return NamedSharding(self.mesh, spec)


def take(
  sharding: RowSharding | None,
  table: jax.Array,
  rows: jax.Array,
  is_split: bool = True,
) -> jax.Array:
  """`table[rows]`, whether the table is split or not; see `RowSharding`."""
  if sharding is None:
    return table[rows]
  return sharding.take(table, rows, is_split)
