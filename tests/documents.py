"""Reads the commands out of a document, and runs them on tiny data.

One process each, forked from a server that has imported JAX and TensorFlow, so
that a command costs what it computes. Commands of one document share a folder,
in which the files they name have been generated.
"""

import gzip
import json
import multiprocessing
import os
import pathlib
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

ROOT = pathlib.Path(__file__).parents[1]
# What the documents call a folder of downloaded files.
_FOLDER = 'FOLDER'


class Block(NamedTuple):
  """A fenced block: its language, text and first line in the document."""

  language: str
  text: str
  line: int


def blocks(text: str) -> Iterator[Block]:
  """The fenced blocks of a document in Markdown, also those within a list."""
  opened: Block | None = None
  for number, line in enumerate(text.splitlines(), start=1):
    if line.strip().startswith('```'):
      if opened:
        yield opened
        opened = None
      else:
        opened = Block(line.strip()[3:], '', number + 1)
        indent = len(line) - len(line.lstrip())
    elif opened:
      opened = opened._replace(text=f'{opened.text}{line[indent:]}\n')


def commands(block: Block) -> Iterator[list[str]]:
  """The commands of a block of bash, as words; comments are left out.

  Raises:
    ValueError: If a quote is left open.
  """
  pending = ''
  for line in block.text.splitlines():
    pending += line + '\n'
    if line.endswith('\\'):
      pending = pending[:-2]
      continue
    try:
      words = _words(pending)
    except ValueError:
      continue  # A quote goes on in the next line.
    pending = ''
    command: list[str] = []
    for word in words:
      if set(word) <= set('();'):
        if command:
          yield command
        command = []
      else:
        command.append(word)
    if command:
      yield command
  if pending.strip():
    raise ValueError(f'line {block.line}: {pending!r} is not ended.')


def _words(text: str) -> list[str]:
  lexer = shlex.shlex(text, posix=True, punctuation_chars=True)
  lexer.whitespace_split = True
  return list(lexer)


# Settings of a training that takes a moment.
_TRAINING = {
  'max_length': 12,
  'batch_size': 16,
  'total_steps': 2,
  'eval_every_steps': 1,
  'log_every_steps': 1,
  'optimizer.warmup_steps': 1,
  'encoder.dim': 16,
  'encoder.num_layers': 1,
}
_PROTOCOLS = {
  f'study.protocols.{protocol}.{key}': _TRAINING[key]
  for protocol in ('probe', 'finetune', 'scratch')
  for key in (
    'batch_size',
    'total_steps',
    'eval_every_steps',
    'optimizer.warmup_steps',
  )
}
_CELLS = {
  **_TRAINING,
  **_PROTOCOLS,
  'study.tasks': ('next_category',),
  'study.label_fractions': (1.0,),
  'study.seeds': (0,),
}
_STUDY = {**_CELLS, 'barlow_twins.projector': (16, 16)}
# Config file, or with what follows the dataset in its argument -> what shrinks
# it. One that is not here is not known.
_SIZES = {
  'pretrain': _TRAINING,
  'reproduce': _TRAINING,
  'downstream': _TRAINING,
  'quickstart': {**_STUDY, 'study.rows': ('majority', 'barlow_twins')},
  'study': {**_STUDY, 'study.rows': ('random', 'barlow_twins')},
  'study,batches': {
    **_STUDY,
    # Half of them with its batch of 32.
    'total_steps': 4,
    'study.axes.batch_size.rows': ('barlow_twins',),
    'study.axes.batch_size.places': ('32',),
    'study.axes.batch_size.label_fractions': (1.0,),
  },
  # Each trial has a projector of its own.
  'tune': {**_CELLS, 'tune.num_trials': 1},
  # Each variant has a projector and steps of its own, 600.
  'ablation': {
    **{
      key: size
      for key, size in _CELLS.items()
      if key not in ('total_steps', 'eval_every_steps')
    },
    'study.rows': ('random', 'masks-plain-256'),
  },
  'ablation,leads': {**_STUDY, 'study.rows': ('random', 'base')},
  'ablation,options': {**_STUDY, 'study.rows': ('random', 'base')},
}
_WORLD = {
  'dataset.synthetic.num_users': 40,
  'dataset.synthetic.num_items': 30,
  'dataset.synthetic.num_categories': 4,
  'dataset.synthetic.min_events': 12,
  'dataset.synthetic.max_events': 14,
}
_BENCHMARK = (
  '--batch=8',
  '--steps=2',
  '--warmup=1',
  '--length=12',
  '--layers=1',
  '--dim=16',
  '--projector=16',
)
# Movies that a document names, and others.
_MOVIES = (1193, 661, 914, 3408, 2355, *range(1, 26))


class Workspace:
  """A folder like a user's clone, with generated data, to run commands in."""

  def __init__(self, folder: pathlib.Path, cache: pathlib.Path):
    self.folder = folder
    # Of what XLA has compiled.
    self._cache = cache
    for name in ('bt4rec', 'configs', 'launch', 'tests'):
      (folder / name).symlink_to(ROOT / name)
    self._data = write_data(folder)

  def run(self, block: Block, words: list[str]) -> str:
    """Runs one command, or the whole block of Python.

    Returns:
      What it printed.

    Raises:
      LookupError: If it is no command that is known here.
      AssertionError: If it fails.
    """
    if block.language == 'python':
      return self._fork('', [], block.text)
    program, *arguments = words
    if '=' in program:  # A variable of the environment.
      return self.run(block, arguments)
    if program == 'ulimit':
      return ''  # A memory that tiny data do not need.
    if program == 'taskset':
      return self.run(block, arguments[2:])
    if program == 'launch/run.sh':
      # A bucket that is there as long as the command.
      arguments = [word.replace('gs://', 'memory://') for word in arguments]
      return self._module('bt4rec.main', arguments)
    if program == 'launch/prepare.sh':
      return self._prepare(arguments)
    if program == '.venv/bin/python' and arguments[0] == '-m':
      return self._module(arguments[1], arguments[2:])
    if program == '.venv/bin/python' and arguments[0] == '-c':
      return self._fork('', [], shrink_code(arguments[1]))
    if words[:3] == ['.venv/bin/python', 'tests/full_size.py', 'prepared']:
      return self._fork('tests/full_size.py', [*arguments[1:], '1000'])
    if program.startswith('launch/') and program.endswith('.sh'):
      return self._dry_run(words)
    raise LookupError(
      f'line {block.line}: nobody has said how to run {shlex.join(words)!r} '
      f'in a test; see tests/documents.py.'
    )

  def _module(self, module: str, arguments: list[str]) -> str:
    if module == 'bt4rec.benchmark':
      return self._fork(module, [*arguments, *_BENCHMARK])
    return self._fork(module, self._with_sizes(module, arguments))

  def _with_sizes(self, module: str, arguments: list[str]) -> list[str]:
    """The flags of a command with those that shrink it."""
    given = dict(word.partition('=')[::2] for word in arguments)
    chosen = given.get('--config', '')
    if not chosen and module == 'bt4rec.main':
      chosen = 'configs/quickstart.py'
    if not chosen:
      return arguments
    file, _, argument = chosen.partition(':')
    kind = pathlib.Path(file).stem
    if kind not in _SIZES:
      raise LookupError(f'nobody has said what shrinks {file}.')
    is_job = module == 'bt4rec.main'
    dataset, _, rest = argument.partition(',')
    sizes = _SIZES.get(f'{kind},{rest}', _SIZES[kind]) if is_job else {}
    sizes = dict(sizes)
    if kind == 'quickstart':
      dataset = 'synthetic'
    elif kind == 'reproduce':
      dataset = 'ml1m'
    if dataset == 'synthetic':
      sizes |= _WORLD
    else:
      sizes['dataset.data_dir'] = str(self.folder / 'records')
    is_prepared = '--config.dataset.prepared' in given
    if dataset in self._data and not is_prepared:
      sizes['dataset.path'] = str(self._data[dataset])
      if dataset.startswith('ml'):
        sizes['dataset.expect_official'] = False
    kept = [word for word in arguments if not word.endswith(f'={_FOLDER}')]
    flags = [f'--config.{key}={value}' for key, value in sizes.items()]
    # After the flags of the document, before those of another program.
    end = kept.index('--') if '--' in kept else len(kept)
    return [*kept[:end], *flags, *kept[end:]]

  def _prepare(self, arguments: list[str]) -> str:
    """Apache Beam has an environment of its own: its flags are parsed alone.

    What it would write is made in memory, so that the next command has it.
    """
    sized = self._with_sizes('bt4rec.prepare', arguments)
    try:
      return self._fork('bt4rec.prepare', sized)
    except AssertionError as error:
      if 'Apache Beam is missing' not in str(error):
        raise
    own = ('--min_item_events', '--events_per_shard', '--shards')
    flags = [word for word in sized if not word.startswith(own)]
    if '--' in flags:
      flags = flags[: flags.index('--')]
    # Of the files that the pattern means there is one.
    flags = [word.replace('*', '0') for word in flags]
    return self._fork('bt4rec.describe', [*flags, '--noplots'])

  def _dry_run(self, words: list[str]) -> str:
    """A command in a cloud: what it would do, printed."""
    done = subprocess.run(
      ['bash', words[0], '--dry_run', *words[1:]],
      cwd=self.folder,
      capture_output=True,
      text=True,
      timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout

  def _fork(self, program: str, arguments: list[str], code: str = '') -> str:
    """Runs a module, a file or code; returns what it printed."""
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(
      ['bt4rec.jobs', 'bt4rec.datasets.user_sequences', 'tensorflow_datasets']
    )
    log = self.folder / 'log.txt'
    task = (str(self.folder), str(self._cache), program, arguments, code)
    process = context.Process(target=_run, args=(str(log), *task))
    process.start()
    process.join(timeout=300)
    if process.is_alive():
      process.kill()
      raise AssertionError(f'{program} {arguments} is still running.')
    printed = log.read_text(errors='replace')
    assert process.exitcode == 0, (
      f'{shlex.join([program, *arguments])} ended with status '
      f'{process.exitcode}:\n{code}\n{printed[-3000:]}'
    )
    return printed


def shrink_code(code: str) -> str:
  """Code of a measurement on fewer things."""
  for large, small in {
    '100_000': '1_000',
    '2_000_000': '2_000',
    '1_000_001': '1_001',
  }.items():
    code = code.replace(large, small)
  return code


def _run(
  log: str,
  folder: str,
  cache: str,
  program: str,
  arguments: list[str],
  code: str,
) -> None:
  """In a process of its own: what the shell would do, in `folder`."""
  os.chdir(folder)
  # Text that C++ prints is part of it.
  descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
  for stream in (1, 2):
    os.dup2(descriptor, stream)
  sys.stdout = os.fdopen(1, 'w', buffering=1)
  sys.stderr = os.fdopen(2, 'w', buffering=1)
  os.environ['XLA_FLAGS'] = '--xla_backend_optimization_level=0'
  import jax

  jax.config.update('jax_compilation_cache_dir', cache)
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
  sys.argv = [program, *arguments]
  if code:
    _shrink_jobs()
    exec(compile(code, 'document', 'exec'), {'__name__': '__main__'})
  elif program.endswith('.py'):
    runpy.run_path(program, run_name='__main__')
  else:
    runpy.run_module(program, run_name='__main__', alter_sys=True)


def _shrink_jobs() -> None:
  """Jobs that code starts are shrunk as commands are."""
  from bt4rec import jobs

  run = jobs.run

  def run_tiny(config, directory):
    kind = 'study' if 'study' in config else 'pretrain'
    sizes = {k: v for k, v in _SIZES[kind].items() if k != 'study.rows'}
    if config.dataset.name == 'synthetic':
      sizes |= _WORLD
    config.update_from_flattened_dict(sizes)
    return run(config, directory)

  jobs.run = run_tiny


def write_data(folder: pathlib.Path) -> dict[str, pathlib.Path]:
  """Writes a tiny file of every kind that the documents name.

  Returns:
    Dataset -> the folder of its files.
  """
  rng = np.random.default_rng(0)
  num_users, num_items = 40, 30
  rows = [
    (user, item, 1_500_000_000 + 3_600 * place)
    for user in range(1, num_users + 1)
    for place, item in enumerate(rng.permutation(num_items)[:14] + 1)
  ]

  def csv(header, rows, ending='\n'):
    return ending.join([header, *(','.join(map(str, r)) for r in rows), ''])

  header = 'user,item,time,category'
  # Users are text, items are integers.
  events = [
    (f'u{user}', item, time, f'Kind {item % 4}') for user, item, time in rows
  ]
  (folder / 'events.csv').write_text(csv(header, events))
  (folder / 'new.csv').write_text(csv(header, events[:28]))
  plans = [(f'u{u}', ('free', 'paid')[u % 2]) for u in range(1, num_users + 1)]
  (folder / 'users.csv').write_text(csv('user,plan', plans))
  shop = [
    (f'c-{user}', f'A-{item:04}', f'{np.datetime64(time, "s")}', kind)
    for user, item, time, kind in events
  ]
  (folder / 'shop.csv').write_text(
    csv('customer_id,sku,event_time,department', shop)
  )
  (folder / 'logs').mkdir()
  with gzip.open(folder / 'logs' / '0.csv.gz', 'wt') as f:
    f.write(csv('user,item,timestamp', rows))
  genres = ('Drama', 'Comedy|Drama', 'Action', 'Comedy')

  ml1m = folder / 'ml-1m'
  ml1m.mkdir()
  (ml1m / 'ratings.dat').write_text(
    ''.join(
      f'{user}::{_MOVIES[item - 1]}::5::{time}\n' for user, item, time in rows
    )
  )
  (ml1m / 'movies.dat').write_text(
    ''.join(
      f'{movie}::Film {movie} (1999)::{genres[i % 4]}\n'
      for i, movie in enumerate(_MOVIES)
    )
  )
  (ml1m / 'users.dat').write_text(
    ''.join(f'{u}::F::25::1::00000\n' for u in range(1, num_users + 1))
  )

  ml20m = folder / 'ml-20m'
  ml20m.mkdir()
  (ml20m / 'ratings.csv').write_text(
    csv(
      'userId,movieId,rating,timestamp',
      [(user, item, 5.0, time) for user, item, time in rows],
    )
  )
  (ml20m / 'movies.csv').write_text(
    csv(
      'movieId,title,genres',
      [(i, f'Film {i}', genres[i % 4]) for i in range(1, num_items + 1)],
    )
  )

  yelp = folder / 'yelp'
  yelp.mkdir()
  with gzip.open(yelp / 'interactions.csv.gz', 'wt') as f:
    reviews = [(f'u{user}', f'b{item}', time) for user, item, time in rows]
    f.write(csv('user_id,business_id,timestamp', reviews))
  # Twelve names, so that none is generic.
  with gzip.open(yelp / 'business_categories.jsonl.gz', 'wt') as f:
    for i in range(1, num_items + 1):
      line = {'business_id': f'b{i}', 'categories': f'Kind {i % 12}'}
      f.write(json.dumps(line) + '\n')
  return {'ml1m': ml1m, 'ml20m': ml20m, 'yelp': yelp}
