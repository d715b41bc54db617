"""What `bt4rec.benchmark` measures: things that are run again and again."""

import dataclasses
import functools
import itertools
import resource
import statistics
import time
from collections.abc import Callable, Iterable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from bt4rec import (
  augment,
  encode,
  encoders,
  pipeline,
  pretext,
  pretrain,
  pretrain_data,
  ranking,
  step_profile,
  train,
  views,
)
from bt4rec.datasets import SequenceDataset, sequences
from bt4rec.errors import choose
from configs import base

# Batches of the pipeline that are timed together: one takes too little time.
_PIPELINE_BATCHES = 64
_RECOMMENDED = 10


def _full(rng: np.random.Generator, count: int, length: int) -> np.ndarray:
  del rng
  return np.full(count, length)


def _uniform(rng: np.random.Generator, count: int, length: int) -> np.ndarray:
  return rng.integers(min(5, length), length + 1, count)


def _yelp(rng: np.random.Generator, count: int, length: int) -> np.ndarray:
  # Five events at least, as after a 5-core filter.
  return np.minimum(4 + rng.geometric(0.16, count), length)


_DISTRIBUTIONS = {'full': _full, 'uniform': _uniform, 'yelp': _yelp}


@dataclasses.dataclass(frozen=True)
class Sizes:
  """Sizes of what is measured.

  Attributes:
    batch: Sequences of a batch.
    length: Events of a window at most.
    dim: Width of the encoder.
    layers: Its blocks.
    heads: Its attention heads.
    items: Items of the catalogue.
    projector: Width of the projector's layers.
    dropout: Dropout rate.
    lengths: Distribution of the real events of a window.
    prepared: Folder of prepared arrays, in place of random items; or ''.
    dtype: Type of the matrix products.
    attention: Who computes it, see `blocks.ATTENTIONS`.
    steps_per_call: Training steps of a call.
  """

  batch: int
  length: int
  dim: int
  layers: int
  heads: int
  items: int
  projector: int
  dropout: float
  lengths: str
  prepared: str
  dtype: str
  attention: str = 'xla'
  steps_per_call: int = 1

  def dataset(self) -> SequenceDataset:
    """Random items for users whose windows have the lengths asked for.

    With --prepared the arrays of that folder, mapped into memory.
    """
    if self.prepared:
      return sequences.load(self.prepared)
    rng = np.random.default_rng(0)
    draw = choose('lengths', self.lengths, _DISTRIBUTIONS)
    # Two events more are hidden from pre-training.
    lengths = 2 + draw(rng, max(32 * self.batch, 6_040), self.length)
    user = np.repeat(np.arange(len(lengths)), lengths)
    return sequences.from_indexed_events(
      'benchmark',
      np.arange(len(lengths)),
      user,
      np.arange(self.items),
      # Every item occurs.
      np.resize(rng.permutation(self.items), len(user)),
      np.arange(len(user)),
    )

  def config(self, objective: str, is_packed: bool, feed: str) -> ConfigDict:
    """The config of a pre-training with the sizes of the flags."""
    config = base.get_config()
    config.objective = objective
    config.pretrain_scope = 'leave_two_out'
    config.max_length = self.length
    config.batch_size = self.batch
    config.compute_dtype = self.dtype
    config.feed = feed
    config.packing.enabled = is_packed
    config.encoder.dim = self.dim
    config.encoder.num_layers = self.layers
    config.encoder.num_heads = self.heads
    config.encoder.dropout = self.dropout
    config.encoder.attention = self.attention
    config.steps_per_call = self.steps_per_call
    for name in train.STEPS_OF_EVENTS:
      config[name] *= self.steps_per_call
    config.barlow_twins.projector = (self.projector,) * 3
    return config


class _Measured:
  """One line: a thing that is run again and again, in turn with others."""

  def __init__(self, name: str, sizes: Sizes, **settings):
    self.name, self.sizes, self.settings = name, sizes, settings
    self.seconds: list[float] = []
    self.tokens: list[int] = []
    self.share = 0.0
    self.flops = 0.0
    self.sequences_per_run = sizes.batch

  def run(self) -> None:
    """Runs once, and notes the seconds and the real tokens."""
    raise NotImplementedError

  def describe(self, warmup: int, matmul_flops: float) -> dict:
    """The line; rates are of the median run.

    Args:
      warmup: Runs at the start that do not count.
      matmul_flops: Operations a second of the device's matrix product.
    """
    median = statistics.median(self.seconds[warmup:])
    tokens = statistics.mean(self.tokens)
    rate = self.flops / median
    counted = {
      'flops': self.flops,
      'flops_per_second': round(rate),
      'matmul_share': round(rate / matmul_flops, 3),
    }
    return {
      'name': self.name,
      **self.settings,
      'batch': self.sizes.batch,
      'length': self.sizes.length,
      'lengths': self.sizes.prepared or self.sizes.lengths,
      'num_devices': jax.device_count(),
      'median_seconds': round(median, 5),
      'sequences_per_second': round(self.sequences_per_run / median, 1),
      'real_tokens_per_second': round(tokens / median, 1),
      'real_token_share': round(self.share, 3),
      **(counted if self.flops else {}),
      'peak_memory_bytes': _peak_memory_bytes(),
    }


class _Pipeline(_Measured):
  """Order, windows, packing and gather on the host, to the step's door."""

  def __init__(
    self, feed: str, is_packed: bool, sizes: Sizes, dataset: SequenceDataset
  ):
    super().__init__('pipeline', sizes, feed=feed, packed=is_packed)
    self.sequences_per_run = _PIPELINE_BATCHES * sizes.batch
    config = sizes.config('barlow_twins', is_packed, feed)
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


class Step(_Measured):
  """A whole training step: views, encoder, loss, gradient and update."""

  def __init__(
    self,
    objective: str,
    is_packed: bool,
    sizes: Sizes,
    dataset: SequenceDataset,
  ):
    super().__init__(
      f'{_STEP_NAMES[objective]}_step',
      sizes,
      packed=is_packed,
      **_encoder_sizes(sizes, dataset),
      projector=sizes.projector,
      dropout=sizes.dropout,
      attention=sizes.attention,
      steps_per_call=sizes.steps_per_call,
    )
    self.sequences_per_run = sizes.steps_per_call * sizes.batch
    config = sizes.config(objective, is_packed, 'device')
    self._job = pretrain.make_job(config, dataset)
    self._state = self._job.step.replicate(self._job.state)
    self._tables = self._job.step.replicate(self._job.tables)
    self._batches = self._job.feed(0)
    shape = pretrain_data.choose_shape(
      config, pretrain_data.visible_events(dataset, config)
    )
    self._slots = shape.slots_per_sequence if shape else config.max_length
    batch, _ = self._next()
    start = time.perf_counter()
    lowered = self._job.step.lower(self._state, batch)
    self._program = lowered.compile()
    self._compile_seconds = time.perf_counter() - start + self._once()[0]
    wanted, done = lowered.cost_analysis(), self._program.cost_analysis()
    assert wanted is not None and done is not None  # On every platform.
    # Over all devices under 'jit'. The body of a loop, such as that over the
    # steps of a call, counts once.
    self.flops = sizes.steps_per_call * wanted['flops']
    self._bytes = sizes.steps_per_call * done['bytes accessed']

  def time_shares(self) -> dict[str, float]:
    """Where the time of a run goes; see `step_profile`."""
    program = self._program.as_text()
    assert program is not None  # It is, of a CPU, a GPU and a TPU.
    return step_profile.time_shares(program, self._once)

  def _next(self) -> tuple[dict, int]:
    """What the next call gets, and its real tokens."""
    step = self._job.step
    rows = list(itertools.islice(self._batches, step.steps_per_call))
    tokens = sum(int(batch['length'].sum()) for batch in rows)
    return {**step.place_batch(*rows), **self._tables}, tokens

  def _once(self) -> tuple[float, int]:
    batch, tokens = self._next()
    start = time.perf_counter()
    self._state, _ = self._program(self._state, batch)
    jax.block_until_ready(self._state)
    return time.perf_counter() - start, tokens

  def run(self) -> None:
    seconds, tokens = self._once()
    self.seconds.append(seconds)
    self.tokens.append(tokens)
    tokens_per_sequence = statistics.mean(self.tokens) / self.sequences_per_run
    self.share = tokens_per_sequence / self._slots

  def describe(self, warmup: int, matmul_flops: float) -> dict:
    """See `_Measured`; with memory traffic and the seconds to compile."""
    median = statistics.median(self.seconds[warmup:])
    return {
      **super().describe(warmup, matmul_flops),
      'bytes': self._bytes,
      'bytes_per_second': round(self._bytes / median),
      'first_step_seconds': round(self._compile_seconds, 2),
    }


class _Call(_Measured):
  """A function of a trained encoder for the newest windows of a batch."""

  def __init__(
    self, name: str, sizes: Sizes, call: Callable, tokens: int, **settings
  ):
    super().__init__(name, sizes, **settings)
    self._call, self._tokens = call, tokens
    self.share = tokens / sizes.batch / sizes.length
    jax.block_until_ready(call())

  def run(self) -> None:
    start = time.perf_counter()
    jax.block_until_ready(self._call())
    self.seconds.append(time.perf_counter() - start)
    self.tokens.append(self._tokens)


def _encoder_sizes(sizes: Sizes, dataset: SequenceDataset) -> dict:
  return {
    'dim': sizes.dim,
    'layers': sizes.layers,
    'heads': sizes.heads,
    'items': dataset.catalogue.num_items,
    'dtype': sizes.dtype,
    'device': jax.devices()[0].device_kind,
  }


def _newest_windows(
  sizes: Sizes, dataset: SequenceDataset
) -> dict[str, np.ndarray]:
  """Start and length of the newest events of the first users of a batch."""
  users = np.arange(sizes.batch) % dataset.num_users
  length = np.minimum(dataset.lengths[users], sizes.length)
  start = dataset.offsets[users + 1] - length
  return {'start': start, 'length': length.astype(np.int32)}


def _augmentation(sizes: Sizes, dataset: SequenceDataset) -> _Call:
  config = sizes.config('barlow_twins', False, 'device')
  recipe = pretext.make_recipe(config)
  words = augment.Vocabulary(dataset.catalogue.mask_item)
  windows = _newest_windows(sizes, dataset)
  rows = jax.tree.map(
    jnp.asarray,
    pipeline.cut_windows(
      {'items': dataset.items}, **windows, max_length=sizes.length
    ),
  )
  make = jax.jit(
    lambda key, rows: views.two_views(
      key, rows, jnp.arange(sizes.batch), recipe, words
    )
  )
  key = jax.random.key(0)
  tokens = int(windows['length'].sum())
  return _Call('augmentation', sizes, lambda: make(key, rows), tokens)


def _embedding(sizes: Sizes, dataset: SequenceDataset) -> _Call:
  config = sizes.config('barlow_twins', False, 'device')
  module = encoders.from_config(config, dataset.catalogue)
  params = module.init(
    jax.random.key(0), jnp.ones((1, sizes.length), jnp.int32), train=False
  )['params']
  encoder = encode.Encoder(
    module, params, dataset.catalogue.item_ids, sizes.length, {}
  )
  windows = _newest_windows(sizes, dataset)
  return _Call(
    'embed',
    sizes,
    lambda: encoder.embed_windows({'items': dataset.items}, **windows),
    int(windows['length'].sum()),
    **_encoder_sizes(sizes, dataset),
  )


def _catalogue_call(name: str, sizes: Sizes, dataset: SequenceDataset) -> _Call:
  """Ranks a target of each user, or finds the best items; no encoder."""
  num_items = dataset.catalogue.num_items
  key = jax.random.key(0)
  queries = jax.random.normal(key, (sizes.batch, sizes.dim))
  table = jax.random.normal(key, (num_items, sizes.dim))
  candidates = ranking.Candidates(table, jnp.zeros(num_items))
  windows = _newest_windows(sizes, dataset)
  seen = ranking.seen_items(
    dataset.items, windows['start'], windows['start'] + windows['length']
  )
  targets = jnp.arange(sizes.batch) % num_items
  calls = {
    'full_ranking': lambda: ranking.rank_targets(
      queries, candidates, targets, seen
    ),
    'recommend': lambda: ranking.top_items(
      queries, candidates, seen, k=min(_RECOMMENDED, num_items)
    ),
  }
  measured = _Call(
    name,
    sizes,
    calls[name],
    int(windows['length'].sum()),
    items=num_items,
    dim=sizes.dim,
    device=jax.devices()[0].device_kind,
  )
  # Ranking goes twice over the table.
  passes = {'full_ranking': 2, 'recommend': 1}[name]
  measured.flops = 2.0 * passes * sizes.batch * num_items * sizes.dim
  return measured


# Objective -> what its step is called in the lines.
_STEP_NAMES = {'barlow_twins': 'pretrain', 'dual_encoder': 'dual_encoder'}


def _peak_memory_bytes() -> int:
  """Peak of the device, or of the process where the device is the host."""
  stats = jax.devices()[0].memory_stats() or {}
  if 'peak_bytes_in_use' in stats:
    return stats['peak_bytes_in_use']
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _pipelines(sizes: Sizes, dataset: SequenceDataset) -> Iterator[_Measured]:
  for is_packed in (False, True):
    for feed in ('tf.data', 'device'):
      yield _Pipeline(feed, is_packed, sizes, dataset)


def _steps(
  objective: str, sizes: Sizes, dataset: SequenceDataset
) -> Iterator[_Measured]:
  for is_packed in (False, True):
    yield Step(objective, is_packed, sizes, dataset)


# Name of the lines -> sizes and dataset -> the rivals measured in turn.
LINES: dict[str, Callable[[Sizes, SequenceDataset], Iterable[_Measured]]] = {
  'pipeline': _pipelines,
  **{
    f'{line}_step': functools.partial(_steps, objective)
    for objective, line in _STEP_NAMES.items()
  },
  'augmentation': lambda *setting: [_augmentation(*setting)],
  'embed': lambda *setting: [_embedding(*setting)],
  **{
    name: lambda *setting, name=name: [_catalogue_call(name, *setting)]
    for name in ('full_ranking', 'recommend')
  },
}
