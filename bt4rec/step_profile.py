"""Where the time of a compiled program goes, by part of the model.

XLA names the operations of a program after the modules and functions they came
from, and a trace has the time of each.
"""

import collections
import glob
import gzip
import json
import os
import re
import tempfile
from collections.abc import Callable

import jax

# What the name of an operation contains -> its part; the first that fits.
_PARTS = (
  ('/drop/', 'dropout'),
  ('Dropout', 'dropout'),
  ('item_table', 'item table'),
  ('projector', 'projector'),
  ('norm', 'normalisation'),
  ('attention', 'attention'),
  ('/up/', 'MLP'),
  ('/gate/', 'MLP'),
  ('/down/', 'MLP'),
  ('/blocks_', 'MLP'),  # Its activation, and the sums around the parts.
)
_INSTRUCTION = re.compile(r'^\s+(?:ROOT )?%?([\w.\-]+) = (.*)$', re.MULTILINE)


def time_shares(program: str, call: Callable[[], object]) -> dict[str, float]:
  """Runs a program under the profiler.

  Args:
    program: Its text, as `jax.stages.Compiled.as_text` has it.
    call: Runs it.

  Returns:
    Part of the model, with 'matmul' for matrix products in it -> its share of
    the time of all operations, largest first.
  """
  parts = _parts_of(program)
  seconds: collections.Counter[str] = collections.Counter()
  with tempfile.TemporaryDirectory() as folder:
    with jax.profiler.trace(folder, create_perfetto_trace=True):
      jax.block_until_ready(call())
    pattern = os.path.join(folder, '**', 'perfetto_trace.json.gz')
    (path,) = glob.glob(pattern, recursive=True)
    with gzip.open(path) as f:
      trace = json.load(f)
  events = trace['traceEvents'] if isinstance(trace, dict) else trace
  for event in events:
    if event.get('ph') == 'X' and event['name'] in parts:
      seconds[parts[event['name']]] += event['dur']
  total = sum(seconds.values())
  return {part: time / total for part, time in seconds.most_common()}


def _parts_of(program: str) -> dict[str, str]:
  """Operation that a trace can name -> part of the model."""
  parts = {}
  for name, text in _INSTRUCTION.findall(program):
    found = re.search(r'op_name="([^"]*)"', text)
    source = found[1] if found else ''
    part = next((p for word, p in _PARTS if word in source), 'the rest')
    is_product = name.startswith('dot') or source.endswith('dot_general')
    parts[name] = f'{part}, matmul' if is_product else part
  return parts
