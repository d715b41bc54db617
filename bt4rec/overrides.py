"""Overrides of a config that keep the number of users seen."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from bt4rec import workdir

# Numbers of steps that go with the batch size.
_STEPS = (
  'total_steps',
  'eval_every_steps',
  'keep_steps',
  'optimizer.warmup_steps',
)


def override(config: ConfigDict, values: Mapping[str, Any]) -> None:
  """Overrides settings of a pre-training.

  Another batch size takes as many more or fewer steps, so that rows of a table
  have seen as many users; steps among the values are taken as they are.

  Args:
    config: A whole config; changed.
    values: Field -> value, in groups as in the config.
  """
  before = config.batch_size
  config.update(values)
  if config.batch_size == before:
    return

  def scaled(steps):
    if not isinstance(steps, int):
      return tuple(map(scaled, steps))
    # No warm-up stays none.
    return steps and max(round(steps * before / config.batch_size), 1)

  given = workdir.flat(ConfigDict(values))
  now = workdir.flat(config)
  config.update_from_flattened_dict(
    {field: scaled(now[field]) for field in _STEPS if field not in given}
  )
