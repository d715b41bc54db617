"""Speed of the input pipeline, as JSON lines: python -m bt4rec.benchmark.

One line a feed, with the median over repeats of windows per second: order,
random windows and gather on the host for `tf.data`; the same for `device`,
whose gather is compiled.
"""

import functools
import json
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from bt4rec import command, pipeline

_BATCH = flags.DEFINE_integer('batch', 256, 'Windows of a batch.')
_LENGTH = flags.DEFINE_integer('length', 50, 'Events of a window.')
_USERS = flags.DEFINE_integer('users', 6_040, 'Users, 20 to 300 events each.')
_STEPS = flags.DEFINE_integer('steps', 500, 'Batches of a repeat.')
_REPEATS = flags.DEFINE_integer('repeats', 5, 'Repeats, after a warm-up.')


def windows_per_second(feed: str) -> float:
  """Median rate at which a feed delivers windows to the device."""
  rng = np.random.default_rng(0)
  lengths = rng.integers(20, 301, _USERS.value)
  offsets = np.concatenate([[0], np.cumsum(lengths)])
  items = rng.integers(1, 3_707, offsets[-1]).astype(np.int32)
  plan = pipeline.PretrainPlan(
    offsets, lengths, max_length=_LENGTH.value, batch_size=_BATCH.value, seed=0
  )
  batches = pipeline.feed(
    feed, plan, items, max_length=_LENGTH.value, batch_size=_BATCH.value
  )
  events = jnp.asarray(items)
  gather = jax.jit(
    functools.partial(pipeline.materialize, max_length=_LENGTH.value)
  )

  def repeat() -> float:
    start = time.perf_counter()
    for _ in range(_STEPS.value):
      batch = gather({**next(batches), 'events': events})
    jax.block_until_ready(batch)
    return _STEPS.value * _BATCH.value / (time.perf_counter() - start)

  repeat()
  return statistics.median(repeat() for _ in range(_REPEATS.value))


def main(argv: list[str]) -> None:
  """Prints a line a feed."""
  del argv
  for feed in ('tf.data', 'device'):
    line = {
      'name': 'pipeline',
      'feed': feed,
      'batch': _BATCH.value,
      'length': _LENGTH.value,
      'users': _USERS.value,
      'windows_per_second': round(windows_per_second(feed)),
    }
    print(json.dumps(line), flush=True)


if __name__ == '__main__':
  command.run(main)
