"""Speed, as JSON lines: python -m bt4rec.benchmark.

One line for each thing measured, rivals interleaved within one run: the input
pipeline by feed, and the training step by objective, each with windows packed
into rows and with one window a row. A line has the sizes, the median over the
timed steps of `sequences_per_second` and `real_tokens_per_second` (padding does
not count), the share of real tokens among those computed on, and, for a step,
the time to compile and the peak memory.
"""

import json
import resource
import statistics
import time
from collections.abc import Iterator

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from bt4rec import command, pipeline, pretrain, pretrain_data
from bt4rec.datasets import SequenceDataset, sequences
from bt4rec.errors import choose
from configs import base

_BATCH = flags.DEFINE_integer('batch', 256, 'Sequences of a batch.')
_LENGTH = flags.DEFINE_integer('length', 50, 'Events of a window at most.')
_DIM = flags.DEFINE_integer('dim', 128, 'Width of the encoder.')
_LAYERS = flags.DEFINE_integer('layers', 2, 'Blocks of the encoder.')
_HEADS = flags.DEFINE_integer('heads', 2, 'Attention heads.')
_ITEMS = flags.DEFINE_integer('items', 3_706, 'Items of the catalogue.')
_PROJECTOR = flags.DEFINE_integer('projector', 512, 'Width of its layers.')
_DROPOUT = flags.DEFINE_float('dropout', 0.1, 'Dropout rate.')
_LENGTHS = flags.DEFINE_string(
  'lengths',
  'uniform',
  'Real events of a window: full, uniform (5 to the length), or yelp '
  '(geometric, as Yelp of 2019: median 7).',
)
_PREPARED = flags.DEFINE_string(
  'prepared', '', 'Folder of prepared arrays, in place of random items.'
)
_DTYPE = flags.DEFINE_string('dtype', 'float32', 'float32 or bfloat16.')
_STEPS = flags.DEFINE_integer('steps', 20, 'Timed steps of each line.')
_WARMUP = flags.DEFINE_integer('warmup', 3, 'Steps before, after compiling.')
_ONLY = flags.DEFINE_list(
  'only', [], 'Names of the lines to measure; none given: all of them.'
)

# Batches of the pipeline that are timed together: one takes too little time.
_PIPELINE_BATCHES = 64


def _full(rng: np.random.Generator, count: int, length: int) -> np.ndarray:
  del rng
  return np.full(count, length)


def _uniform(rng: np.random.Generator, count: int, length: int) -> np.ndarray:
  return rng.integers(min(5, length), length + 1, count)


def _yelp(rng: np.random.Generator, count: int, length: int) -> np.ndarray:
  # Five events at least, as after a 5-core filter.
  return np.minimum(4 + rng.geometric(0.16, count), length)


_DISTRIBUTIONS = {'full': _full, 'uniform': _uniform, 'yelp': _yelp}


def make_dataset() -> SequenceDataset:
  """Random items for users whose windows have the lengths asked for.

  With --prepared the arrays of that folder, mapped into memory.
  """
  if _PREPARED.value:
    return sequences.load(_PREPARED.value)
  rng = np.random.default_rng(0)
  draw = choose('lengths', _LENGTHS.value, _DISTRIBUTIONS)
  # Two events more are hidden from pre-training.
  lengths = 2 + draw(rng, max(32 * _BATCH.value, 6_040), _LENGTH.value)
  user = np.repeat(np.arange(len(lengths)), lengths)
  return sequences.from_indexed_events(
    'benchmark',
    np.arange(len(lengths)),
    user,
    np.arange(_ITEMS.value),
    # Every item occurs.
    np.resize(rng.permutation(_ITEMS.value), len(user)),
    np.arange(len(user)),
  )


def make_config(objective: str, is_packed: bool, feed: str) -> ConfigDict:
  """The config of a pre-training with the sizes of the flags."""
  config = base.get_config()
  config.objective = objective
  config.pretrain_scope = 'leave_two_out'
  config.max_length = _LENGTH.value
  config.batch_size = _BATCH.value
  config.compute_dtype = _DTYPE.value
  config.feed = feed
  config.packing.enabled = is_packed
  config.encoder.dim = _DIM.value
  config.encoder.num_layers = _LAYERS.value
  config.encoder.num_heads = _HEADS.value
  config.encoder.dropout = _DROPOUT.value
  config.barlow_twins.projector = (_PROJECTOR.value,) * 3
  return config


class _Measured:
  """One line: a thing that is run again and again, in turn with others."""

  def __init__(self, name: str, **settings):
    self.name, self.settings = name, settings
    self.seconds: list[float] = []
    self.tokens: list[int] = []
    self.share = 0.0

  def line(self, sequences_per_run: int) -> dict:
    """The line; rates are of the median run."""
    median = statistics.median(self.seconds[_WARMUP.value :])
    tokens = statistics.mean(self.tokens)
    return {
      'name': self.name,
      **self.settings,
      'batch': _BATCH.value,
      'length': _LENGTH.value,
      'lengths': _PREPARED.value or _LENGTHS.value,
      'median_seconds': round(median, 5),
      'sequences_per_second': round(sequences_per_run / median, 1),
      'real_tokens_per_second': round(tokens / median, 1),
      'real_token_share': round(self.share, 3),
      'peak_memory_bytes': _peak_memory_bytes(),
    }


class _Pipeline(_Measured):
  """Order, windows, packing and gather on the host, to the step's door."""

  def __init__(self, feed: str, is_packed: bool, dataset: SequenceDataset):
    super().__init__('pipeline', feed=feed, packed=is_packed)
    config = make_config('barlow_twins', is_packed, feed)
    visible = pretrain_data.visible_events(dataset, config)
    shape = pretrain_data.choose_shape(config, visible)
    self._plan = pretrain_data.make_plan(config, dataset, visible, shape)
    self._slots = shape.slots_per_sequence if shape else config.max_length
    self._batches = pipeline.feed(
      feed,
      self._plan,
      {'items': dataset.items},
      max_length=config.max_length,
      batch_size=config.batch_size,
    )
    self._step = 0

  def run(self) -> None:
    start = time.perf_counter()
    for _ in range(_PIPELINE_BATCHES):
      jax.block_until_ready(jax.device_put(next(self._batches)))
    self.seconds.append(time.perf_counter() - start)
    first, self._step = self._step, self._step + _PIPELINE_BATCHES
    lengths = [self._plan(step)['length'] for step in range(first, self._step)]
    self.tokens.append(int(np.sum(lengths)))
    self.share = float(np.mean(lengths)) / self._slots

  def describe(self) -> dict:
    return self.line(_PIPELINE_BATCHES * _BATCH.value)


class _Step(_Measured):
  """A whole training step: views, encoder, loss, gradient and update."""

  def __init__(self, objective: str, is_packed: bool, dataset: SequenceDataset):
    super().__init__(
      f'{_STEP_NAMES[objective]}_step',
      packed=is_packed,
      dim=_DIM.value,
      layers=_LAYERS.value,
      heads=_HEADS.value,
      items=dataset.catalogue.num_items,
      projector=_PROJECTOR.value,
      dropout=_DROPOUT.value,
      dtype=_DTYPE.value,
      device=jax.devices()[0].device_kind,
    )
    config = make_config(objective, is_packed, 'device')
    self._job = pretrain.make_job(config, dataset)
    self._state = self._job.step.replicate(self._job.state)
    self._tables = self._job.step.replicate(self._job.tables)
    self._batches = self._job.feed(0)
    shape = pretrain_data.choose_shape(
      config, pretrain_data.visible_events(dataset, config)
    )
    self._slots = shape.slots_per_sequence if shape else config.max_length
    self._compile_seconds = self._once()[0]

  def _once(self) -> tuple[float, int]:
    rows = next(self._batches)
    batch = {**self._job.step.place_batch(rows), **self._tables}
    start = time.perf_counter()
    self._state, _ = self._job.step(self._state, batch)
    jax.block_until_ready(self._state)
    return time.perf_counter() - start, int(rows['length'].sum())

  def run(self) -> None:
    seconds, tokens = self._once()
    self.seconds.append(seconds)
    self.tokens.append(tokens)
    self.share = statistics.mean(self.tokens) / _BATCH.value / self._slots

  def describe(self) -> dict:
    return {
      **self.line(_BATCH.value),
      'first_step_seconds': round(self._compile_seconds, 2),
    }


# Objective -> what its step is called in the lines.
_STEP_NAMES = {'barlow_twins': 'pretrain', 'dual_encoder': 'dual_encoder'}


def _peak_memory_bytes() -> int:
  """Peak of the device, or of the process where the device is the host."""
  stats = jax.devices()[0].memory_stats() or {}
  if 'peak_bytes_in_use' in stats:
    return stats['peak_bytes_in_use']
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _rivals(name: str, dataset: SequenceDataset) -> Iterator[_Pipeline | _Step]:
  for is_packed in (False, True):
    if name == 'pipeline':
      for feed in ('tf.data', 'device'):
        yield _Pipeline(feed, is_packed, dataset)
    else:
      yield _Step(name, is_packed, dataset)


def main(argv: list[str]) -> None:
  """Prints the lines."""
  del argv
  names = {'pipeline': 'pipeline'} | {
    f'{line}_step': objective for objective, line in _STEP_NAMES.items()
  }
  wanted = [choose('only', name, names) for name in _ONLY.value or names]
  dataset = make_dataset()
  for name in wanted:
    rivals = list(_rivals(name, dataset))
    for _ in range(_WARMUP.value + _STEPS.value):
      for rival in rivals:
        rival.run()
    for rival in rivals:
      print(json.dumps(rival.describe()), flush=True)


if __name__ == '__main__':
  command.run(main)
