"""Is a representation healthy? Collapse as numbers and as a verdict."""

import jax
import jax.numpy as jnp
import numpy as np

# Share of the possible rank below which the embedding counts as collapsed.
_LOW_RANK = 0.1
# Spread around the mean, relative to the size, below which it is constant.
_NO_SPREAD = 0.01


@jax.jit
def singular_values(h: jax.Array) -> jax.Array:
  """The singular values of centred embeddings, the largest first.

  Args:
    h: [num_users, dim] float.

  Returns:
    [min(num_users, dim)] float32.
  """
  h = h.astype(jnp.float32)
  return jnp.linalg.svd(h - h.mean(0, keepdims=True), compute_uv=False)


@jax.jit
def effective_rank(values: jax.Array) -> jax.Array:
  """How many directions singular values are spread over.

  The exponential of the entropy of their shares: RankMe, eq. (1) of Garrido
  et al. (2023), https://arxiv.org/abs/2210.02885.

  Args:
    values: [num_values] float, at least 0.

  Returns:
    [] float32, between 1 and the number of values.
  """
  share = values / jnp.maximum(values.sum(), 1e-12)
  return jnp.exp(-jnp.sum(share * jnp.log(share + 1e-12)))


@jax.jit
def spectrum(h: jax.Array) -> dict[str, jax.Array]:
  """Rank and spread of embeddings.

  Args:
    h: [num_users, dim] float.

  Returns:
    Scalars `effective_rank` (of the centred embeddings), `embedding_std`
    (root of the mean variance of a dimension) and `relative_spread` (that over
    the root mean square).
  """
  h = h.astype(jnp.float32)
  centered = h - h.mean(0, keepdims=True)
  std = jnp.sqrt((centered**2).mean())
  return {
    'effective_rank': effective_rank(singular_values(h)),
    'embedding_std': std,
    'relative_spread': std / jnp.maximum(jnp.sqrt((h**2).mean()), 1e-12),
  }


def _unit(x: jax.Array) -> jax.Array:
  x = x.astype(jnp.float32)
  return x / jnp.maximum(jnp.linalg.norm(x, axis=1, keepdims=True), 1e-12)


@jax.jit
def alignment(h_a: jax.Array, h_b: jax.Array) -> jax.Array:
  """Mean squared distance of two embeddings of a user, on the unit sphere.

  Eq. (1) of Wang and Isola (2020), https://arxiv.org/abs/2005.10242, with its
  alpha 2: between 0, equal, and 4, opposite; lower is better aligned.

  Args:
    h_a: [num_users, dim] float.
    h_b: [num_users, dim] float; row `i` of both belongs to the same user.
  """
  return ((_unit(h_a) - _unit(h_b)) ** 2).sum(1).mean()


@jax.jit
def uniformity(h: jax.Array) -> jax.Array:
  """Log of the mean Gaussian potential of two users, on the unit sphere.

  Eq. (2) of Wang and Isola (2020), https://arxiv.org/abs/2005.10242, with its
  t 2: between 0, all equal, and about -4, spread evenly; lower is more uniform.

  Args:
    h: [num_users, dim] float, of two different users at least.
  """
  unit = _unit(h)
  distance = jnp.maximum(2 - 2 * unit @ unit.T, 0.0)
  others = ~jnp.eye(len(h), dtype=bool)
  potential = jnp.where(others, jnp.exp(-2 * distance), 0.0)
  return jnp.log(potential.sum() / others.sum())


def verdict(numbers: dict[str, float], num_users: int, dim: int) -> str:
  """'healthy', 'dimensional collapse' or 'constant'.

  Args:
    numbers: What `spectrum` returned.
    num_users: Users it was computed from; a rank above `num_users - 1` is
      not possible.
    dim: Width of the embeddings.
  """
  if numbers['relative_spread'] < _NO_SPREAD:
    return 'constant'
  possible = min(num_users - 1, dim)
  if numbers['effective_rank'] < _LOW_RANK * possible:
    return 'dimensional collapse'
  return 'healthy'


def report(
  h: np.ndarray, h_a: np.ndarray, h_b: np.ndarray
) -> dict[str, float | str]:
  """Rank, spread, alignment and uniformity, with the verdict under `health`.

  Args:
    h: [num_users, dim] float, embeddings of different users.
    h_a: [num_users, dim] float, embeddings of a part of each user's events.
    h_b: [num_users, dim] float, of another part.
  """
  numbers = {
    **spectrum(h),
    'alignment': alignment(h_a, h_b),
    'uniformity': uniformity(h),
  }
  numbers = {key: float(value) for key, value in numbers.items()}
  return {**numbers, 'health': verdict(numbers, *h.shape)}
