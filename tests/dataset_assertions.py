"""Comparison of datasets, for the tests of every source."""

import dataclasses

import numpy as np


def assert_equal(a, b) -> None:
  """Equal in every field of the datasets and of their catalogues, and dtype."""
  for field in dataclasses.fields(a):
    x, y = getattr(a, field.name), getattr(b, field.name)
    if field.name == 'catalogue':
      assert_equal(x, y)
    elif isinstance(x, np.ndarray):
      np.testing.assert_array_equal(x, y, field.name, strict=True)
    else:
      assert x == y, (field.name, x, y)
