"""The output directory: its lock, its config, its line-by-line files."""

import contextlib
import fcntl
import functools
import importlib.util
import json
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from typing import Any

from absl import logging
from ml_collections import ConfigDict

from bt4rec.errors import InputError

# Changing these between two runs of one workdir does not change its result.
_FREE_KEYS = (
  'log_every_steps',
  'health_every_steps',
  'keep_checkpoints',
  'tensorboard',
  'feed',
  'parallelism',
  'steps_per_call',
  'encoder.attention',
  'dataset.path',
  'dataset.prepared',
  'dataset.data_dir',
  'dataset.item_table',
  'study',
  'tune',
)


@contextlib.contextmanager
def locked(workdir: str) -> Iterator[None]:
  """Makes the directory and keeps other jobs off it.

  Raises:
    InputError: If it cannot be written, or another job holds it.
  """
  path = os.path.join(workdir, 'lock')
  try:
    os.makedirs(workdir, exist_ok=True)
    lock = open(path, 'w')
  except OSError as error:
    raise InputError(
      f'cannot write to the workdir {workdir} ({error.strerror}); choose '
      f'another with --workdir.'
    ) from error
  with lock:
    try:
      # The system releases it when the process ends, however it ends.
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      raise InputError(
        f'another job is running in the workdir {workdir}; wait for it, or '
        f'choose another with --workdir.'
      ) from error
    yield


def write_atomically(path: str, text: str) -> None:
  """Writes a file so that it is there whole or not at all."""
  temporary = f'{path}.tmp'
  with open(temporary, 'w') as f:
    f.write(text)
    f.flush()
    os.fsync(f.fileno())
  os.replace(temporary, path)


def check_config(config: ConfigDict, workdir: str) -> None:
  """Records the config, or checks that it is the recorded one.

  Raises:
    InputError: If a checkpoint or a result was made with another config.
  """
  path = os.path.join(workdir, 'config.json')
  # What refused a job has a remedy, which often is another value.
  if os.path.exists(path) and _has_outcome(workdir):
    before = flat(read_config(workdir))
    given = {
      key: value
      for key, value in flat(config).items()
      if not is_free(key)
      and not _has_moved(key, before.get(key), value, workdir)
    }
    check_same({key: before.get(key) for key in given}, given, workdir)
  now = json.loads(config.to_json_best_effort())
  write_atomically(path, json.dumps(now, indent=2, sort_keys=True) + '\n')


def check_same(before: dict, now: dict, what: str) -> None:
  """Checks that what is there was made with the values of now.

  Args:
    before: Dotted field -> value it was made with.
    now: The same of this run; may have more fields.
    what: What is there, for the text.

  Raises:
    InputError: If a value differs.
  """
  changes = sorted(
    f'{field} was {value!r}, is {now.get(field)!r}'
    for field, value in before.items()
    if now.get(field) != value
  )
  if changes:
    raise InputError(
      f'{what} was made with another config: {"; ".join(changes)}; use the '
      f'same values, or another --workdir.'
    )


def _has_moved(key: str, before: Any, now: Any, workdir: str) -> bool:
  """Whether it is the encoder of the same study, in another place.

  As that of a study in a bucket, whose copies lie elsewhere on each machine.
  """
  if key != 'init_from' or not before or not now:
    return False
  study, cells = os.path.split(os.path.dirname(os.path.abspath(workdir)))
  inside = os.path.relpath(now, study)
  # Elsewhere two folders of one name may well be two encoders.
  return (
    cells == 'cells'
    and os.path.dirname(inside) == 'pretrain'
    and before.endswith(f'{os.sep}{inside}')
  )


def _has_outcome(workdir: str) -> bool:
  """Whether there is a checkpoint or a result, also in a cell of a study."""
  outcomes = {'checkpoints', 'results.jsonl', 'done'}
  return any(
    outcomes & {*folders, *files} for _, folders, files in os.walk(workdir)
  )


def read_config(workdir: str) -> ConfigDict:
  """Reads `config.json` of a workdir.

  A field that the version which wrote it did not have gets its default: what
  is added leaves everything as it was by default.

  Raises:
    InputError: If there is none.
  """
  path = os.path.join(workdir, 'config.json')
  try:
    with open(path) as f:
      return ConfigDict(_merge(_defaults(), json.load(f)))
  except (OSError, ValueError) as error:
    raise InputError(
      f'cannot read {path} ({error}); name a workdir in which a job has run.'
    ) from error


@functools.cache
def _defaults() -> dict:
  """The fields there are, as JSON has them: lists for tuples."""
  # By its path: whoever only loads an encoder may have another package
  # `configs`.
  root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
  spec = importlib.util.spec_from_file_location(
    'bt4rec_config_defaults', os.path.join(root, 'configs', 'base.py')
  )
  assert spec is not None and spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return json.loads(module.get_config().to_json_best_effort())


def _merge(defaults: dict, given: dict) -> dict:
  merged = {**defaults, **given}
  for key in defaults.keys() & given.keys():
    if isinstance(defaults[key], dict) and isinstance(given[key], dict):
      merged[key] = _merge(defaults[key], given[key])
  return merged


def downstream_command(config: ConfigDict, init_from: str, task: str) -> str:
  """The command of a downstream run on a pre-trained encoder.

  Args:
    config: A whole config of the same data.
    init_from: Workdir of the encoder.
    task: The downstream task.
  """
  return program(
    'bt4rec.main',
    f'--config=configs/downstream.py:{config.dataset.name},{task}',
    *_dataset_flags(config.dataset),
    f'--config.init_from={init_from}',
    f'--workdir={init_from}-{task}',
  )


def pretrain_command(group: ConfigDict) -> str:
  """The command of a pre-training.

  Args:
    group: The group `dataset` of a config.
  """
  return program(
    'bt4rec.main',
    f'--config=configs/pretrain.py:{group.name}',
    *_dataset_flags(group),
    f'--workdir={os.path.join("runs", group.name)}',
  )


def _dataset_flags(group: ConfigDict) -> list[str]:
  """The flags for the fields of the group `dataset` that are no defaults."""
  from configs import base  # The defaults; nothing else here needs them.

  defaults = _flatten(base.get_config().dataset.to_dict())
  return [
    f'--config.dataset.{key}={value}'
    for key, value in _flatten(group.to_dict()).items()
    if key != 'name' and value != defaults.get(key)
  ]


def program(module: str, *flags: str) -> str:
  """A command line that works where this process was started.

  Args:
    module: Which command: 'bt4rec.main', 'bt4rec.export', ...
    *flags: Its flags.
  """
  here, root = os.getcwd(), os.path.dirname(os.path.dirname(__file__))
  script = os.path.join('launch', 'run.sh')
  is_checkout = os.path.realpath(here) == os.path.realpath(root)
  if module == 'bt4rec.main' and is_checkout and os.path.isfile(script):
    return shlex.join([script, *flags])
  return shlex.join([_interpreter(), '-m', module, *flags])


def python(code: str) -> str:
  """A command line that runs a line of Python."""
  # Code is full of single quotes, which shlex would write as '"'"'.
  plain = not set(code) & set('"$`\\!')
  quoted = f'"{code}"' if plain else shlex.quote(code)
  return f'{shlex.quote(_interpreter())} -c {quoted}'


def _interpreter() -> str:
  """How to call this Python from here, as short as it can be."""
  path, here = sys.executable, os.path.join(os.getcwd(), '')
  if shutil.which('python') == path:
    return 'python'
  return path.removeprefix(here)


def flat(config: ConfigDict) -> dict[str, Any]:
  """Dotted field -> value.

  Through JSON, so that a tuple compares equal to what is read back.
  """
  return _flatten(json.loads(config.to_json_best_effort()))


def _flatten(tree: dict, prefix: str = '') -> dict:
  flat = {}
  for key, value in tree.items():
    if isinstance(value, dict):
      flat.update(_flatten(value, f'{prefix}{key}.'))
    else:
      flat[prefix + key] = value
  return flat


def is_free(key: str) -> bool:
  """Whether no result depends on a field of the config."""
  return any(key == free or key.startswith(f'{free}.') for free in _FREE_KEYS)


def read_lines(path: str) -> list[dict]:
  """Reads a file of one JSON object a line; a line cut by a kill is skipped."""
  if not os.path.exists(path):
    return []
  lines = []
  with open(path) as f:
    for number, line in enumerate(f, start=1):
      try:
        lines.append(json.loads(line))
      except ValueError:
        logging.warning('%s, line %d is cut; it is left out.', path, number)
  return lines


def keep_lines(path: str, keep: Callable[[dict], bool]) -> None:
  """Rewrites a file of JSON objects with those to be kept."""
  kept = [json.dumps(line) + '\n' for line in read_lines(path) if keep(line)]
  write_atomically(path, ''.join(kept))


def append_line(path: str, line: dict) -> None:
  """Appends one JSON object; it is on disk when this returns."""
  with open(path, 'ab+') as f:
    if f.tell():
      f.seek(-1, os.SEEK_END)
      # A line cut by a kill must not swallow this one.
      if f.read(1) != b'\n':
        f.write(b'\n')
    f.write(json.dumps(line).encode() + b'\n')
    f.flush()
    os.fsync(f.fileno())
