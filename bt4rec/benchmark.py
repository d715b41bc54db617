"""Speed, as JSON lines: python -m bt4rec.benchmark.

One line for each thing measured, rivals interleaved within one run: the input
pipeline by feed; the training step by objective, each with windows packed into
rows and with one window a row; making the views; embedding users; ranking the
whole catalogue, and recommending from it. A line has the sizes, the median over
the timed runs of `sequences_per_second` and `real_tokens_per_second` (padding
does not count), the share of real tokens among those computed on, and the peak
memory so far; of a step also its floating-point operations and the bytes that
it reads and writes (XLA's counts), and the seconds of the first run, which
compiles. A run is a call of `--steps_per_call` steps.

Two more lines are what the device can do: `matmul`, in operations a second,
and `copy`, in bytes a second, read and written. `matmul_share` of the other
lines is their rate over the first.

`--batch`, `--length`, `--dim`, `--layers` and `--items` take several values,
`--batch=128,256,512`: every combination is measured.
"""

import itertools
import json
import statistics
import time
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
from absl import flags

from bt4rec import benchmark_lines, command, encoders
from bt4rec.benchmark_lines import Sizes
from bt4rec.errors import InputError, choose

# Attribute of `Sizes` -> its values.
_VARIED = {
  name: flags.DEFINE_list(name, [str(value)], text)
  for name, value, text in (
    ('batch', 256, 'Sequences of a batch.'),
    ('length', 50, 'Events of a window at most.'),
    ('dim', 128, 'Width of the encoder.'),
    ('layers', 2, 'Blocks of the encoder.'),
    ('items', 3_706, 'Items of the catalogue.'),
  )
}
_HEADS = flags.DEFINE_integer('heads', 2, 'Attention heads.')
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
_ATTENTION = flags.DEFINE_string('attention', 'xla', 'xla or cudnn.')
_STEPS_PER_CALL = flags.DEFINE_integer(
  'steps_per_call', 1, 'Training steps of a call; a run is a call.'
)
_STEPS = flags.DEFINE_integer('steps', 20, 'Timed steps of each line.')
_WARMUP = flags.DEFINE_integer('warmup', 3, 'Steps before, after compiling.')
_ONLY = flags.DEFINE_list(
  'only', [], 'Names of the lines to measure; none given: all of them.'
)
_PROFILE = flags.DEFINE_bool(
  'profile', False, 'Whether to say where the time of the steps goes.'
)

# Width of the matrices, and floats copied, on a CPU and on other devices.
_MATMUL = {'cpu': 2_048}
_MATMUL_OF_OTHERS = 8_192
_COPY = {'cpu': 2**26}
_COPY_OF_OTHERS = 2**30


def _all_sizes() -> Iterator[Sizes]:
  """Every combination of the sizes of the flags."""
  for values in itertools.product(*map(_values, _VARIED)):
    yield Sizes(
      **dict(zip(_VARIED, values, strict=True)),
      heads=_HEADS.value,
      projector=_PROJECTOR.value,
      dropout=_DROPOUT.value,
      lengths=_LENGTHS.value,
      prepared=_PREPARED.value,
      dtype=_DTYPE.value,
      attention=_ATTENTION.value,
      steps_per_call=_STEPS_PER_CALL.value,
    )


def _values(name: str) -> list[int]:
  texts = _VARIED[name].value
  if not all(text.isdecimal() and int(text) for text in texts):
    raise InputError(
      f'--{name}={",".join(texts)} is not a whole number of 1 and more, or '
      f'several with commas between them.'
    )
  return [int(text) for text in texts]


def _ceilings(sizes: Sizes) -> Iterator[dict]:
  """What the device can do at best, measured in this run."""
  platform = jax.default_backend()
  config = sizes.config('barlow_twins', False, 'device')
  dtype = encoders.compute_dtype(config)
  width = _MATMUL.get(platform, _MATMUL_OF_OTHERS)
  square = jnp.full((width, width), 1 / width, dtype)
  multiply = jax.jit(lambda x: x @ x)
  seconds = _median_seconds(lambda: multiply(square))
  yield {
    'name': 'matmul',
    'width': width,
    'dtype': sizes.dtype,
    'device': jax.devices()[0].device_kind,
    'flops_per_second': round(2 * width**3 / seconds),
  }
  floats = jnp.zeros(_COPY.get(platform, _COPY_OF_OTHERS))
  add = jax.jit(lambda x: x + 1)
  seconds = _median_seconds(lambda: add(floats))
  yield {
    'name': 'copy',
    'bytes': floats.nbytes,
    'device': jax.devices()[0].device_kind,
    'bytes_per_second': round(2 * floats.nbytes / seconds),
  }


def _median_seconds(call: Callable) -> float:
  seconds = []
  for _ in range(1 + _STEPS.value):
    start = time.perf_counter()
    jax.block_until_ready(call())
    seconds.append(time.perf_counter() - start)
  return statistics.median(seconds[1:])


def main(argv: list[str]) -> None:
  """Prints the lines."""
  del argv
  lines = benchmark_lines.LINES
  wanted = [choose('only', name, lines) for name in _ONLY.value or lines]
  sizes_of_runs = list(_all_sizes())
  matmul_flops = 0.0
  for ceiling in _ceilings(sizes_of_runs[0]):
    matmul_flops = matmul_flops or ceiling['flops_per_second']
    print(json.dumps(ceiling), flush=True)
  for sizes in sizes_of_runs:
    dataset = sizes.dataset()
    for make_rivals in wanted:
      rivals = list(make_rivals(sizes, dataset))
      for _ in range(_WARMUP.value + _STEPS.value):
        for rival in rivals:
          rival.run()
      for rival in rivals:
        line = rival.describe(_WARMUP.value, matmul_flops)
        if _PROFILE.value and isinstance(rival, benchmark_lines.Step):
          line['time_shares'] = {
            part: round(share, 3) for part, share in rival.time_shares().items()
          }
        print(json.dumps(line), flush=True)


if __name__ == '__main__':
  command.run(main)
