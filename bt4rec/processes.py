"""Several processes that run one job, as on a pod slice or a cluster.

The first of them alone has the workdir, so no disk need be shared; what it
reads there it hands to the others.
"""

import itertools
import json
import os
import sys
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.experimental import multihost_utils
from orbax.checkpoint import multihost

from bt4rec.errors import InputError

# Seconds the others wait for the first one, which may prepare a dataset.
_PATIENCE = 6 * 3600
# Seconds a process that is done waits for those that may have failed.
_SHUTDOWN = 60
_barriers = itertools.count()


def initialize(
  coordinator_address: str | None = None,
  num_processes: int | None = None,
  process_id: int | None = None,
) -> None:
  """Joins the processes of the job; before JAX has done anything else.

  On Cloud TPU, SLURM, Open MPI, Kubernetes and what else JAX detects, nothing
  need be given.

  Args:
    coordinator_address: HOST:PORT of the first process.
    num_processes: How many there are.
    process_id: Which one this is, from 0.

  Raises:
    InputError: If the cluster is not one that JAX detects, or the others are
      not reached.
  """
  try:
    jax.distributed.initialize(
      coordinator_address,
      num_processes,
      process_id,
      shutdown_timeout_seconds=_SHUTDOWN,
    )
  except (ValueError, RuntimeError) as error:
    reason = str(error).split('\n')[0]
    raise InputError(
      f'--distributed: {reason}; start one process a host or task through '
      f'SLURM, Open MPI or on a TPU slice, or give --coordinator_address, '
      f'--num_processes and --process_id.'
    ) from error
  logging.info(
    'process %d of %d, %d of %d devices',
    jax.process_index(),
    jax.process_count(),
    jax.local_device_count(),
    jax.device_count(),
  )
  if not is_first():
    logging.set_verbosity(logging.WARNING)


def is_first() -> bool:
  """Whether this process has the workdir and the screen."""
  return jax.process_index() == 0


def wait_for_all() -> None:
  """Blocks until every process is here."""
  if jax.process_count() > 1:
    # Not a collective of the devices: those give up after half a minute.
    multihost.sync_global_processes(
      f'bt4rec-{next(_barriers)}',
      timeout=_PATIENCE,
      processes=set(range(jax.process_count())),
    )


def arrays_of_first(tree: Any) -> Any:
  """The first process's arrays on all.

  Args:
    tree: Its arrays; those of the others give the shapes and types.

  Returns:
    The same tree, of NumPy arrays if there are several processes.
  """
  if jax.process_count() == 1:
    return tree
  wait_for_all()
  return multihost_utils.broadcast_one_to_all(jax.device_get(tree))


def value_of_first(value: Any) -> Any:
  """The first process's JSON value on all; what others give is not read."""
  if jax.process_count() == 1:
    return value
  text = np.frombuffer(json.dumps(value).encode(), np.uint8)
  size = int(arrays_of_first(np.int32(len(text))))
  if not is_first():
    text = np.zeros(size, np.uint8)
  return json.loads(arrays_of_first(text).tobytes())


def all_should_stop(step: int) -> bool:
  """Whether SIGTERM came to any process, the same answer at a step on all.

  With several processes only: JAX has a handler of its own then.
  """
  return multihost_utils.reached_preemption_sync_point(step)


def leave_if_joined(status: int) -> None:
  """Ends this process at once, so that the others notice and end too.

  The usual way out would wait for them, who wait for this one.
  """
  if jax.distributed.is_initialized():
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
