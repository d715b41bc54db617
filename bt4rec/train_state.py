"""The state a training step maps to the next one."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax


class TrainState(flax.struct.PyTreeNode):
  """Everything a step reads and writes; replaced whole, never changed.

  Attributes:
    step: [] int32, number of finished updates.
    params: Trainable parameters.
    batch_stats: Running statistics of batch normalisation.
    opt_state: State of the optimizer.
    rng: Key; the key of a step is `fold_in(rng, step)`.
  """

  step: jax.Array
  params: Any
  batch_stats: Any
  opt_state: Any
  rng: jax.Array


def create_train_state(
  variables: dict, tx: optax.GradientTransformation, rng: jax.Array
) -> TrainState:
  """Returns the state before the first step.

  Args:
    variables: Flax collections `params` and, where there are any,
      `batch_stats`.
    tx: The optimizer.
    rng: Key of everything random in training.
  """
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=variables['params'],
    batch_stats=variables.get('batch_stats', {}),
    opt_state=tx.init(variables['params']),
    rng=rng,
  )
