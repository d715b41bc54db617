"""Gradients to compare with: by differences, and of a split batch."""

import functools

import jax
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec


def gradient_by_differences(function, x, step=1e-5):
  """Central differences in float64."""
  gradient = np.empty(x.shape)
  for index in np.ndindex(x.shape):
    values = []
    for sign in (1, -1):
      moved = x.astype(np.float64)
      moved[index] += sign * step
      values.append(function(moved))
    gradient[index] = (values[0] - values[1]) / (2 * step)
  return gradient


def on_devices(parallelism, loss_fn, weight, batch):
  """Value and gradient by `weight` of a loss over a split batch.

  Args:
    parallelism: 'one', 'jit' or 'pmap'.
    loss_fn: (weight, batch, axis_name) -> scalar.
    weight: Tree of arrays the gradient is taken by.
    batch: Arrays with the batch as leading axis.
  """
  assert jax.device_count() == 8

  def value_and_grad(axis_name, weight, batch):
    return jax.value_and_grad(loss_fn)(weight, batch, axis_name)

  if parallelism == 'pmap':

    def share(weight, batch):
      loss, grad = value_and_grad('batch', weight, batch)
      return loss, lax.pmean(grad, 'batch')

    parts = jax.tree.map(lambda x: x.reshape(8, -1, *x.shape[1:]), batch)
    losses, grads = jax.pmap(share, 'batch', in_axes=(None, 0))(weight, parts)
    # Every device has the loss and the gradient of the global batch.
    np.testing.assert_array_equal(losses, np.repeat(losses[:1], 8))
    return losses[0], jax.tree.map(lambda grad: grad[0], grads)
  if parallelism == 'jit':
    mesh = Mesh(np.array(jax.devices()), ('batch',))
    batch = jax.device_put(batch, NamedSharding(mesh, PartitionSpec('batch')))
    weight = jax.device_put(weight, NamedSharding(mesh, PartitionSpec()))
  return jax.jit(functools.partial(value_and_grad, None))(weight, batch)
