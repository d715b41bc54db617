"""The pure training step, and the one place that compiles it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bt4rec import mesh as mesh_lib
from bt4rec.errors import InputError, choose
from bt4rec.train_state import TrainState

AXIS = mesh_lib.DATA
_OF_AXIS = PartitionSpec(AXIS)
Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]
# (params, batch_stats, batch, rng) -> loss, (metrics, new batch_stats).
LossFn = Callable[[Any, Any, Batch, jax.Array], tuple[jax.Array, Any]]
Step = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
# What a call of several steps has for each of them, beside the tables.
_OF_STEPS = 'of_steps'


def make_train_step(
  loss_fn: LossFn,
  tx: optax.GradientTransformation,
  schedule: optax.Schedule,
  axis_name: str | None = None,
  skip_non_finite: bool = False,
) -> Step:
  """Returns the pure step `(state, batch) -> (state, metrics)`.

  Args:
    loss_fn: Gives the loss over the global batch.
    tx: The optimizer.
    schedule: Step -> learning rate, for the log.
    axis_name: Mapped axis the batch is split over inside `jax.pmap`, or None.
    skip_non_finite: Whether a step whose loss or result is not finite leaves
      all but its number as it was; the metric `skipped` is 1 then. The place
      in the schedule stays too, so what `learning_rate` says of later steps
      is ahead by the number of those skipped.
  """

  def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    rng = jax.random.fold_in(state.rng, state.step)
    grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
    (loss, (metrics, batch_stats)), grads = grad_fn(
      state.params, state.batch_stats, batch, rng
    )
    if axis_name:
      # The loss is the global batch's on every device, so the mean of the
      # gradients is its gradient; their sum would be too large by their
      # number.
      grads = lax.pmean(grads, axis_name)
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    metrics = {
      'loss': loss,
      **metrics,
      'gradient_norm': optax.tree.norm(grads),
      'parameter_norm': optax.tree.norm(state.params),
      'update_norm': optax.tree.norm(updates),
      'learning_rate': schedule(state.step),
    }
    after = state.replace(
      step=state.step + 1,
      params=optax.apply_updates(state.params, updates),
      batch_stats=batch_stats,
      opt_state=opt_state,
    )
    if skip_non_finite:
      is_finite = _all_finite((loss, grads, after.replace(rng=())))
      if axis_name:
        is_finite = lax.pmin(is_finite.astype(jnp.int32), axis_name) > 0
      kept = jax.tree.map(lambda x, y: jnp.where(is_finite, x, y), after, state)
      after = kept.replace(step=after.step)
      metrics['skipped'] = 1 - is_finite.astype(jnp.int32)
    return after, metrics

  return train_step


def _all_finite(tree) -> jax.Array:
  """[] bool: whether no number of a tree is infinite or NaN."""
  return jnp.stack([jnp.isfinite(x).all() for x in jax.tree.leaves(tree)]).all()


def check_batch_size(
  batch_size: int, num_devices: int, num_micro_batches: int = 1
) -> None:
  """Raises an InputError if the batch does not divide evenly.

  Args:
    batch_size: Global batch size.
    num_devices: Devices that it is split over.
    num_micro_batches: Parts of a device's share, at least 1.
  """
  if num_micro_batches < 1:
    raise InputError(
      f'num_micro_batches={num_micro_batches} must be at least 1.'
    )
  if batch_size % (num_devices * num_micro_batches):
    parts = f'the {num_devices} devices'
    if num_micro_batches > 1:
      parts += f' times num_micro_batches={num_micro_batches}'
    raise InputError(
      f'batch_size={batch_size} is not divisible by {parts}; choose a multiple.'
    )


class CompiledStep:
  """A step compiled for all devices, with the placements it expects.

  With 'jit' the batch is sharded over the devices and the state replicated,
  but for an item table that is split by row; with 'pmap' each device runs the
  step on its share. Both compute the loss and the gradient of the global batch.

  A call may run several steps, one after the other on the device: what the host
  needs to start a program is then spent once for all of them. They are the same
  steps. Metrics get an axis of the steps in front (under pmap behind that of
  the devices).

  Outside of the step a state is whole: of one device, but for a table that was
  split, which is NumPy's. So checkpoints do not know how it was.

  Args:
    step: The pure step; made with `axis_name=AXIS` for 'pmap'.
    parallelism: 'jit' or 'pmap'.
    batch_size: Global batch size.
    devices: The devices; None is all of them.
    table_sharding: How the item table is split over these devices, as the
      model of the step has it; None is not.
    steps_per_call: Steps of a call, at least 1.

  Attributes:
    num_traces: How often it was traced so far.
    steps_per_call: As given.

  Raises:
    InputError: If the devices do not divide the batch size.
  """

  def __init__(
    self,
    step: Step,
    parallelism: str,
    batch_size: int,
    devices: list | None = None,
    table_sharding: mesh_lib.RowSharding | None = None,
    steps_per_call: int = 1,
  ):
    self._devices = devices or jax.devices()
    check_batch_size(batch_size, len(self._devices))
    self.num_traces = 0
    self.steps_per_call = steps_per_call

    def one(state, batch):
      state, metrics = step(state, batch)
      if table_sharding:
        # What the next step expects, or it would be compiled again.
        state = table_sharding.constrain(state)
      return state, metrics

    def traced(state, batch):
      self.num_traces += 1  # Runs while tracing only.
      if steps_per_call == 1:
        return one(state, batch)
      tables = dict(batch)
      # Its length is known, so that no device asks the host whether to go on.
      return lax.scan(
        lambda state, rows: one(state, {**tables, **rows}),
        state,
        tables.pop(_OF_STEPS),
      )

    self._is_pmap = choose('parallelism', parallelism, _PARALLELISM)
    self._own_devices = [
      d for d in self._devices if d.process_index == jax.process_index()
    ]
    self._table_sharding = table_sharding
    of_batch = mesh_lib.OF_BATCH
    if table_sharding:
      mesh = table_sharding.mesh
    elif self._is_pmap:
      # As `jax.pmap` places its results: over the devices of one process.
      mesh, of_batch = Mesh(np.array(self._own_devices), (AXIS,)), _OF_AXIS
    else:
      mesh = mesh_lib.make_mesh(self._devices)
    self._replicated = NamedSharding(mesh, mesh_lib.EVERYWHERE)
    self._sharded = NamedSharding(mesh, of_batch)
    # Of the batches of a call, one behind the other.
    self._stacked = self._sharded
    if not self._is_pmap:
      self._stacked = NamedSharding(mesh, PartitionSpec(None, *of_batch))
    if self._is_pmap:
      self._step = jax.pmap(
        traced, axis_name=AXIS, devices=self._devices, donate_argnums=0
      )
    else:
      self._step = jax.jit(traced, donate_argnums=0)

  def __call__(
    self, state: TrainState, batch: Batch
  ) -> tuple[TrainState, Metrics]:
    """Runs a call; `state` is donated and must not be used again."""
    return self._step(state, batch)

  def lower(self, state: TrainState, batch: Batch) -> jax.stages.Lowered:
    """The step as a program, to be compiled or looked at."""
    return self._step.lower(state, batch)

  def place_batch(self, *batches: dict[str, np.ndarray]) -> Batch:
    """Splits arrays with the batch as leading axis over the devices.

    Args:
      *batches: This process's rows of the global batch of each step of a call.

    Returns:
      What a call gets besides the tables.
    """
    if len(batches) != self.steps_per_call:
      raise ValueError(
        f'{len(batches)} batches for {self.steps_per_call} steps a call.'
      )
    if self._is_pmap:
      num_devices = len(self._own_devices)
      batches = jax.tree.map(
        lambda x: x.reshape(num_devices, -1, *x.shape[1:]), batches
      )

    def place(sharding, batch):
      return jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(sharding, x), batch
      )

    if self.steps_per_call == 1:
      return place(self._sharded, batches[0])
    axis = int(self._is_pmap)
    rows = jax.tree.map(lambda *x: np.stack(x, axis), *batches)
    return {_OF_STEPS: place(self._stacked, rows)}

  def replicate(self, tree):
    """Puts a copy of a tree, such as a state or a table, on every device.

    The item table, and what the optimizer keeps of it, is split instead where
    the step has it so.
    """
    # Placed as the step places its results, or the second step would be traced
    # and compiled again.
    sharding = self._sharded if self._is_pmap else self._replicated

    def place(path, x):
      if split := self._split_of(path):
        return split.place(x)
      x = jnp.copy(x)  # The step donates its state.
      shape = x.shape
      if self._is_pmap:
        x, shape = x[None], (len(self._own_devices), *shape)
      copies = [jax.device_put(x, device) for device in self._own_devices]
      return jax.make_array_from_single_device_arrays(shape, sharding, copies)

    return jax.tree_util.tree_map_with_path(place, tree)

  def unreplicate(self, tree):
    """Takes one copy of what `replicate` placed, safe from donation.

    What is split is gathered on the host: no device need have room for it.
    """

    def first(path, x):
      if split := self._split_of(path):
        return split.gather(x)
      own = x.addressable_data(0)  # On the first device alone.
      return own[0] if self._is_pmap else jnp.copy(own)

    return jax.tree_util.tree_map_with_path(first, tree)

  def off_device(self, tree):
    """Moves to the host what `replicate` splits, so that no device keeps it."""

    def move(path, x):
      return np.asarray(x) if self._split_of(path) else x

    return jax.tree_util.tree_map_with_path(move, tree)

  def _split_of(self, path: tuple) -> mesh_lib.RowSharding | None:
    return self._table_sharding if mesh_lib.is_item_table(path) else None


# Parallelism -> whether it maps over devices, so that the step needs an axis
# name.
_PARALLELISM = {'jit': False, 'pmap': True}


def axis_name_of(parallelism: str) -> str | None:
  """The axis name a step needs under 'jit' or 'pmap'."""
  return AXIS if choose('parallelism', parallelism, _PARALLELISM) else None


def table_sharding(
  parallelism: str,
  model_parallelism: int,
  num_rows: int,
  devices: list | None = None,
) -> mesh_lib.RowSharding | None:
  """How an item table is split over devices; None if it is not.

  Args:
    parallelism: 'jit' or 'pmap'.
    model_parallelism: Devices that share a table.
    num_rows: Rows of the table.
    devices: The devices; None is all of them.

  Raises:
    InputError: If the devices cannot share it so.
  """
  mesh = mesh_lib.make_mesh(devices or jax.devices(), model_parallelism)
  if model_parallelism == 1:
    return None
  if choose('parallelism', parallelism, _PARALLELISM):
    raise InputError(
      f'model_parallelism={model_parallelism} splits the item table over '
      f'devices, and with parallelism=pmap each has all of it; use '
      f'parallelism=jit.'
    )
  return mesh_lib.RowSharding(mesh, num_rows)
