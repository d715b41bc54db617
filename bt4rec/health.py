"""Is a representation healthy? Collapse as numbers and as a verdict."""

import jax
import jax.numpy as jnp
import numpy as np

# Share of the possible rank below which the embedding counts as collapsed.
_LOW_RANK = 0.1
# Spread around the mean, relative to the size, below which it is constant.
_NO_SPREAD = 0.01


@jax.jit
def spectrum(h: jax.Array) -> dict[str, jax.Array]:
  """Rank and spread of embeddings.

  The effective rank is the exponential of the entropy of the normalised
  singular values, RankMe, eq. (1) of Garrido et al. (2023),
  https://arxiv.org/abs/2210.02885, of the centred embeddings.

  Args:
    h: [num_users, dim] float.

  Returns:
    Scalars `effective_rank`, `embedding_std` (root of the mean variance of a
    dimension) and `relative_spread` (that over the root mean square).
  """
  h = h.astype(jnp.float32)
  centered = h - h.mean(0, keepdims=True)
  values = jnp.linalg.svd(centered, compute_uv=False)
  share = values / jnp.maximum(values.sum(), 1e-12)
  entropy = -jnp.sum(share * jnp.log(share + 1e-12))
  std = jnp.sqrt((centered**2).mean())
  return {
    'effective_rank': jnp.exp(entropy),
    'embedding_std': std,
    'relative_spread': std / jnp.maximum(jnp.sqrt((h**2).mean()), 1e-12),
  }


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


def report(h: np.ndarray) -> dict[str, float | str]:
  """The numbers of `spectrum` with the verdict under `health`."""
  numbers = {key: float(value) for key, value in spectrum(h).items()}
  return {**numbers, 'health': verdict(numbers, *h.shape)}
