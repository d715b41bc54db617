"""Positions by the distance of two tokens: rotation, or a bias of attention.

Both depend on differences of positions alone, and those of one sequence's
tokens are the differences of their slots in a row. So they are the same
however much padding follows and however windows are packed.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

# Of T5.
_NUM_BUCKETS = 32
_MAX_DISTANCE = 128
# Of RoFormer.
_LONGEST_WAVE = 10_000.0


def rotate(x: jax.Array) -> jax.Array:
  """Rotates pairs of features by angles in proportion to the position.

  Eq. (15) of Su et al. (2021), RoFormer, arXiv 2104.09864: the product of two
  rotated vectors depends on the difference of their positions alone. Feature
  `i` is paired with `i + head_dim / 2`, not with its neighbour, which names
  the features otherwise and changes nothing else.

  Args:
    x: [batch, length, num_heads, head_dim] float, `head_dim` even; queries or
      keys.

  Returns:
    The same shape and dtype; computed in float32.
  """
  length, half = x.shape[1], x.shape[-1] // 2
  frequency = _LONGEST_WAVE ** (-np.arange(half) / half)
  angle = np.arange(length)[:, None] * frequency
  cos, sin = (
    jnp.asarray(part[None, :, None], jnp.float32)
    for part in (np.cos(angle), np.sin(angle))
  )
  first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  rotated = [first * cos - second * sin, second * cos + first * sin]
  return jnp.concatenate(rotated, axis=-1).astype(x.dtype)


def relative_buckets(length: int, causal: bool) -> np.ndarray:
  """Buckets of the distances between the tokens of a row.

  As in T5, Raffel et al. (2020), arXiv 1910.10683, section 2.1: half of the
  buckets of a direction have one distance each, the others grow with its log,
  and the last has all from 128 on. There are 32, of which a bidirectional
  encoder uses half for each direction.

  Args:
    length: Slots of a row.
    causal: Whether an item attends only to earlier ones.

  Returns:
    [query, key] int32.
  """
  slot = np.arange(length)
  age = slot[:, None] - slot  # How much older than the query the key is.
  num_buckets = _NUM_BUCKETS if causal else _NUM_BUCKETS // 2
  distance = np.maximum(age, 0) if causal else np.abs(age)
  exact = num_buckets // 2
  ratio = np.log2(np.maximum(distance, exact) / exact)
  ratio /= np.log2(_MAX_DISTANCE / exact)
  far = exact + (ratio * (num_buckets - exact)).astype(np.int32)
  bucket = np.where(distance < exact, distance, far)
  bucket = np.minimum(bucket, num_buckets - 1)
  if not causal:
    bucket = np.where(age < 0, num_buckets + bucket, bucket)
  return bucket.astype(np.int32)


class RelativeBias(nn.Module):
  """A learned bias of the attention for each bucket of distances.

  T5 has one table for all blocks; here each block has its own, as in HSTU,
  Zhai et al. (2024), arXiv 2402.17152.

  Attributes:
    num_heads: Number of attention heads.
    causal: Whether an item attends only to earlier ones.
  """

  num_heads: int
  causal: bool

  @nn.compact
  def __call__(self, length: int) -> jax.Array:
    """[1, num_heads, query, key] float32, for a row of `length` slots."""
    table = self.param(
      'bias_embedding',
      nn.initializers.normal(stddev=0.02),
      (_NUM_BUCKETS, self.num_heads),
    )
    bias = table[relative_buckets(length, self.causal)]
    return bias.transpose(2, 0, 1)[None]
