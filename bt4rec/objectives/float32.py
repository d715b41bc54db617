"""Products of losses, in float32 wherever they run."""

import jax
import jax.numpy as jnp
from jax import lax


def product(a: jax.Array, b: jax.Array) -> jax.Array:
  """[m, k], [k, n] -> [m, n] float32.

  By default a GPU multiplies float32 as TF32 and a TPU as bfloat16: an error of
  some 4e-3 in a cosine, which a small temperature makes a tenth of a logit.
  """
  a, b = a.astype(jnp.float32), b.astype(jnp.float32)
  return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)
