"""Rows to make views of, shared by the tests of views."""

import jax
import jax.numpy as jnp
import numpy as np

from bt4rec import augment

MASK = 99
# Item i occurs with 100 + i and 150 + i; no item of a row is one of those.
CORRELATED = np.zeros((200, 3), np.int32)
CORRELATED[1:50, 0] = np.arange(101, 150)
CORRELATED[1:50, 1] = np.arange(151, 200)
VOCABULARY = augment.Vocabulary(MASK, jnp.asarray(CORRELATED))
LENGTH = 17
# Real tokens of each row; the others are padding.
LENGTHS = (1, 2, 3, 10, 16, 17)


def row(length: int) -> jax.Array:
  """`length` distinct items, in an order of no pattern, then padding."""
  items = np.random.default_rng(length).permutation(np.arange(1, 50))
  return jnp.asarray(np.pad(items[:length], (0, LENGTH - length)), jnp.int32)


def codes(items) -> np.ndarray:
  """A code for each item of a row, another for each; 0 for padding."""
  return np.asarray(items).astype(np.uint8)


def assert_codes_go_along(made: dict) -> None:
  """Each item has the code it began with; what was put in has none."""
  items, found = np.asarray(made['items']), np.asarray(made['time_gap'])
  assert found.dtype == np.uint8
  np.testing.assert_array_equal(found, np.where(items < 50, codes(items), 0))


def assert_mean(values: np.ndarray, expected: float) -> None:
  """The mean of independent draws, within five standard errors of it."""
  error = values.std() / np.sqrt(len(values))
  assert abs(values.mean() - expected) < 5 * error + 1e-9
