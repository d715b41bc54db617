"""Checkpoints through Orbax: asynchronous, latest and best kept apart."""

import contextlib
import glob
import json
import os
import re
import shutil
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from orbax.checkpoint import checkpoint_managers

from bt4rec.errors import InputError, StorageError

_METRIC = 'select'
_CHECKSUMS = 'checksums'
# The first process has the whole state; the others need not see its disk.
_ONE_PROCESS = ocp.options.MultiprocessingOptions(
  primary_host=0, active_processes={0}, barrier_sync_key_prefix='bt4rec'
)


class TrainedModel(NamedTuple):
  """What of a checkpoint is needed to use what was trained.

  Attributes:
    params: Tree of the parameters.
    batch_stats: Tree of the statistics, {} where there are none.
    meta: JSON object stored with them.
    step: Step of the checkpoint.
  """

  params: dict
  batch_stats: dict
  meta: dict
  step: int


class Checkpointer:
  """The checkpoints of one workdir; of several processes the first has them.

  A checkpoint holds the state and a JSON object `meta`. The best one so far
  (by the metric it was saved with, lower is better) is kept beside the
  latest, since keeping the best alone would lose the work since.

  Orbax notices a file that is cut, but gives back what a flipped bit of an
  array has made of it. So the checksums of what was saved lie beside it, and
  what is read must agree; checkpoints of before there were any are taken as
  they are.

  Args:
    workdir: The output directory; checkpoints lie in `checkpoints/`.
    keep: Number of latest checkpoints to keep.
  """

  def __init__(self, workdir: str, keep: int = 1):
    self._directory = os.path.join(os.path.abspath(workdir), 'checkpoints')
    os.makedirs(self._directory, exist_ok=True)
    _remove_broken_metrics(self._directory)
    policies = [
      checkpoint_managers.LatestN(keep),
      checkpoint_managers.BestN(
        get_metric_fn=lambda metrics: metrics[_METRIC],
        reverse=True,
        n=1,
        keep_checkpoints_without_metrics=False,
      ),
    ]
    self._manager = ocp.CheckpointManager(
      self._directory,
      item_handlers={
        'state': ocp.PyTreeCheckpointHandler(
          multiprocessing_options=_ONE_PROCESS
        ),
        'meta': ocp.JsonCheckpointHandler(),
        _CHECKSUMS: ocp.JsonCheckpointHandler(),
      },
      options=ocp.CheckpointManagerOptions(
        best_fn=lambda metrics: metrics[_METRIC],
        best_mode='min',
        # With several processes Orbax makes no directory where one is active.
        create=False,
        multiprocessing_options=_ONE_PROCESS,
        preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
        enable_async_checkpointing=True,
      ),
    )

  def save(
    self, step: int, state: Any, meta: dict, metric: float | None = None
  ) -> None:
    """Starts to save; a step already saved is left as it is.

    Args:
      step: The step.
      state: Tree of arrays that nobody changes or donates until saved.
      meta: JSON object.
      metric: What the best checkpoint is chosen by, lower is better.

    Raises:
      StorageError: If this or the last one cannot be written.
    """
    if step in self._manager.all_steps():
      return
    state = _plain(state)
    if jax.process_count() > 1:
      # Orbax would have the others write their share of a JAX array.
      state = jax.device_get(state)
    with self._writing():
      self._manager.save(
        step,
        args=ocp.args.Composite(
          state=ocp.args.PyTreeSave(state),
          meta=ocp.args.JsonSave(meta),
          checksums=ocp.args.JsonSave(_checksums(state, meta)),
        ),
        metrics=None if metric is None else {_METRIC: float(metric)},
        force=True,
      )

  def restore_latest(self, like: Any) -> tuple[Any, dict] | None:
    """Restores the latest checkpoint that can be read.

    Later ones that cannot are moved to `checkpoints_unreadable/`: left where
    they are, they would stand in the way of those to come.

    Args:
      like: Tree of the arrays expected; placed on its devices, whatever
        devices the checkpoint came from.

    Returns:
      State and meta, or None if there is no checkpoint.

    Raises:
      InputError: If there are checkpoints, and none can be read.
    """
    unreadable: list[int] = []
    for step in sorted(self._manager.all_steps(), reverse=True):
      try:
        restored = self._restore(step, like)
      except InputError as error:
        logging.warning('%s Falling back to the one before.', error)
        unreadable.append(step)
        continue
      self._set_aside(unreadable)
      return restored
    if unreadable:
      raise InputError(
        f'none of the checkpoints {sorted(unreadable)} in {self._directory} '
        f'can be read; restore the files, or start in another workdir.'
      )
    return None

  def _set_aside(self, steps: list[int]) -> None:
    aside = f'{self._directory}_unreadable'
    for step in steps:
      os.makedirs(aside, exist_ok=True)
      # One that failed before at the same step is of no use any more.
      shutil.rmtree(os.path.join(aside, str(step)), ignore_errors=True)
      shutil.move(os.path.join(self._directory, str(step)), aside)
    if steps:
      self._manager.reload()

  def restore_best(self, like: Any) -> tuple[Any, dict]:
    """Restores the best checkpoint, or the latest if none has a metric.

    Raises:
      InputError: If there is none, or it cannot be read.
    """
    return self._restore(self._best_or_latest(), like)

  def _best_or_latest(self) -> int:
    step = self._manager.best_step()
    if step is None:
      step = self._manager.latest_step()
    if step is None:
      raise InputError(
        f'{self._directory} holds no checkpoint; run the training first.'
      )
    return step

  def restore_best_model(self) -> TrainedModel:
    """As `restore_best`, but only the model and without a template."""
    step = self._best_or_latest()
    with self._reading(step):
      metadata = self._manager.item_metadata(step)['state']
      if metadata is None:
        raise ValueError('it has no state')
      tree = {'params': metadata.tree['params']}
      # Nothing is stored of an empty collection.
      if metadata.tree.get('batch_stats'):
        tree['batch_stats'] = metadata.tree['batch_stats']
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    like = jax.tree.map(
      lambda array: jax.ShapeDtypeStruct(
        array.shape, array.dtype, sharding=device
      ),
      tree,
    )
    state, meta = self._restore(step, like, partial=True)
    return TrainedModel(
      state['params'], state.get('batch_stats', {}), meta, step
    )

  def _restore(
    self, step: int, like: Any, partial: bool = False
  ) -> tuple[Any, dict]:
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, _plain(like))
    items: dict[str, Any] = {
      'state': ocp.args.PyTreeRestore(
        item=abstract,
        restore_args=ocp.checkpoint_utils.construct_restore_args(abstract),
        partial_restore=partial,
      ),
      'meta': ocp.args.JsonRestore(),
    }
    if os.path.isdir(os.path.join(self._directory, str(step), _CHECKSUMS)):
      items[_CHECKSUMS] = ocp.args.JsonRestore()
    with self._reading(step):
      restored = self._manager.restore(step, args=ocp.args.Composite(**items))
      # Checkpoints of before have keys as keys.
      state, meta = _plain(restored['state']), restored['meta']
      if _CHECKSUMS in items:
        expected = restored[_CHECKSUMS]
        for name, checksum in _checksums(state, meta).items():
          if expected.get(name) != checksum:
            raise ValueError(f'its {name} are not those that were saved')
      state = jax.tree.map(
        lambda x, a: jax.random.wrap_key_data(x) if _is_key(a) else x,
        state,
        like,
      )
    return state, meta

  @contextlib.contextmanager
  def _reading(self, step: int) -> Iterator[None]:
    """Turns what Orbax raises at a broken checkpoint into a sentence."""
    try:
      yield
    except Exception as error:  # Of damaged arrays just that: `Exception`.
      reason = str(error).split('\n')[0]
      raise InputError(
        f'checkpoint {self._directory}/{step} cannot be read ({reason}).'
      ) from error

  @contextlib.contextmanager
  def _writing(self) -> Iterator[None]:
    """Turns what Orbax raises, maybe a save later, into a sentence."""
    try:
      yield
    except Exception as error:  # OSError, or ValueError of its C++ part.
      reason = _system_error(error)
      if reason is None:
        raise
      raise StorageError(
        f'cannot write a checkpoint to {self._directory} ({reason}); those '
        f'before it are whole: set that right, and the same command continues.'
      ) from error

  def wait(self) -> None:
    """Blocks until what was saved is on disk.

    Raises:
      StorageError: If it cannot be written.
    """
    with self._writing():
      self._manager.wait_until_finished()

  def close(self) -> None:
    """Waits and releases the threads.

    Raises:
      StorageError: If what was saved cannot be written.
    """
    with self._writing():
      self._manager.close()


def _system_error(error: Exception) -> str | None:
  """What the operating system said, None if the error is not from there."""
  if isinstance(error, OSError):
    return error.strerror
  code = re.search(r"os_error_code='(\d+)'", str(error))
  return os.strerror(int(code[1])) if code else None


def _is_key(leaf: Any) -> bool:
  return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _plain(tree: Any) -> Any:
  """Keys as their numbers, which every kind of array can hold."""
  return jax.tree.map(
    lambda leaf: jax.random.key_data(leaf) if _is_key(leaf) else leaf, tree
  )


def _checksums(state: Any, meta: dict) -> dict[str, int]:
  """CRC-32 of the meta and of each field of the state.

  By field, since a reader may want some of them alone. CRC-32 finds every
  damage of up to 32 neighbouring bits and misses others once in 4e9.
  """
  text = json.dumps(meta, sort_keys=True)
  checksums = {'meta': zlib.crc32(text.encode())}
  for (field, *path), leaf in jax.tree_util.tree_leaves_with_path(state):
    array = np.asarray(leaf)
    # A state has attributes where what is read of it alone has keys.
    name = jax.tree_util.keystr((field,), simple=True)
    header = f'{jax.tree_util.keystr(tuple(path))} {array.dtype} {array.shape}'
    checksum = zlib.crc32(header.encode(), checksums.get(name, 0))
    data = np.ascontiguousarray(array).view(np.uint8)
    checksums[name] = zlib.crc32(memoryview(data), checksum)
  return checksums


def _remove_broken_metrics(directory: str) -> None:
  """Removes metrics that are no JSON: Orbax would refuse the directory.

  Such a checkpoint may still be the latest, but it is no longer the best.
  """
  for path in glob.glob(os.path.join(directory, '*', 'metrics', 'metrics')):
    try:
      with open(path) as f:
        json.load(f)
    except ValueError:
      logging.warning('%s cannot be read; its checkpoint has no metric.', path)
      os.remove(path)


def restore_model(workdir: str) -> TrainedModel:
  """Restores the model of a workdir's best checkpoint on one device.

  Nothing but the directory is needed: the tree comes from the checkpoint.

  Raises:
    InputError: If there is no checkpoint.
  """
  directory = os.path.join(os.path.abspath(workdir), 'checkpoints')
  if not os.path.isdir(directory):
    raise InputError(f'{directory} does not exist; run the training first.')
  checkpointer = Checkpointer(workdir)
  try:
    return checkpointer.restore_best_model()
  finally:
    checkpointer.close()
