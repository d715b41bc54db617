"""What every command does alike: parse flags, fail with one sentence."""

import difflib
import errno
import functools
import importlib.util
import logging as python_logging
import os
import sys
from collections.abc import Callable, Iterator

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from bt4rec import help_text
from bt4rec.errors import (
  InputError,
  NonFiniteLossError,
  StorageError,
  UnfinishedError,
)

_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# A command is a process of its own, and the directory it is started in may
# have another package `configs`.
sys.path.insert(0, _ROOT)

_BAD_INPUT = 2
_FAILED = 1
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


def run(
  main: Callable[[list[str]], None], explain: Callable[[], str] = str
) -> None:
  """Runs a command's main; does not return.

  Exit status 0 is success alone. Bad input is one sentence on standard error
  and status 2; a training or a part of a study that failed is one sentence
  and status 1.

  Args:
    main: Takes the arguments that are not flags, the program's name first.
    explain: Gives what `--help` says besides the flags.
  """

  def guarded(argv: list[str]) -> None:
    try:
      main(argv)
    except InputError as error:
      _fail(str(error), _BAD_INPUT)
    except (NonFiniteLossError, StorageError, UnfinishedError) as error:
      _fail(str(error), _FAILED)
    except OSError as error:
      if error.errno not in _NO_ROOM:
        raise
      what = error.filename or 'the output'
      _fail(
        f'cannot write {what} ({error.strerror}); what was saved before is '
        f'whole: set that right, and the same command continues.',
        _FAILED,
      )
    except KeyboardInterrupt:
      _say('interrupted; the same command continues.')
      # Not by the interpreter's own end, which crashes where JAX compiles.
      sys.stdout.flush()
      sys.stderr.flush()
      os._exit(130)

  show_progress()
  app.run(guarded, flags_parser=functools.partial(_parse, explain=explain))


def show_progress() -> None:
  """Lets this package say on standard error what it does, and no other."""
  # A program has it from `app.run`, a notebook does not.
  logging.use_absl_handler()
  _quiet_libraries()
  logging.set_verbosity(logging.INFO)
  logging.set_stderrthreshold(logging.INFO)


def define_config(config: ConfigDict, text: str) -> None:
  """Defines the flags `--config.key=value` for a command without config file.

  Args:
    config: The fields there are, with their types.
    text: What they are for.
  """
  # The definition itself would fail, with a traceback.
  problem = _explain_overrides(sys.argv[1:], config)
  if problem:
    _fail(problem, _BAD_INPUT)
  config_flags.DEFINE_config_dict('config', config, text, lock_config=True)


def _say(sentence: str) -> None:
  logging.flush()
  print(f'bt4rec: {sentence}', file=sys.stderr)


def _fail(sentence: str, status: int) -> None:
  _say(sentence)
  # JAX takes seconds to import; a mistake in the flags comes before.
  if 'bt4rec.processes' in sys.modules:
    sys.modules['bt4rec.processes'].leave_if_joined(status)
  sys.exit(status)


def _quiet_libraries() -> None:
  """Leaves the screen to this package: Orbax and TFDS log every file."""
  package = os.path.dirname(os.path.abspath(__file__))

  def is_ours_or_grave(record) -> bool:
    path = os.path.abspath(record.pathname)
    # What Orbax logs as an error it raises too, and what its tasks fail of.
    is_grave = (
      record.levelno >= python_logging.ERROR
      and record.name != 'asyncio'
      and f'{os.sep}orbax{os.sep}' not in path
    )
    return is_grave or path.startswith(package)

  logging.get_absl_handler().addFilter(is_ours_or_grave)

  show = sys.unraisablehook

  def show_but_late_reports(report) -> None:
    # After a failed write TensorStore still reports to the event loop, which
    # Orbax has closed; the failure itself is raised besides.
    if str(report.exc_value) != 'Event loop is closed':
      show(report)

  sys.unraisablehook = show_but_late_reports
  # TensorFlow's C++ code reads them when it is loaded. It computes nothing
  # here, and without the second writes past the log, through a bar.
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
  os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '0')


_HELP = ('--help', '--helpshort', '--helpfull')


def _parse(argv: list[str], explain: Callable[[], str] = str) -> list[str]:
  """Parses flags; a mistake in them is one sentence, not a traceback."""
  argv = ['--help' if flag in ('-h', '-help') else flag for flag in argv]
  if any(flag in _HELP for flag in argv):
    main = sys.modules['__main__']
    parts = [main.__doc__, explain(), help_text.STATUSES]
    main.__doc__ = '\n'.join(part for part in parts if part)
  argv = _find_config(argv)
  try:
    return flags.FLAGS(argv)
  except SystemExit:
    # absl's help ends with 1, though it is what was asked for.
    sys.exit(0 if any(flag in _HELP for flag in argv) else _BAD_INPUT)
  except InputError as error:
    _fail(str(error), _BAD_INPUT)
  except flags.UnrecognizedFlagError as error:
    near = difflib.get_close_matches(error.flagname, list(flags.FLAGS), n=1)
    hint = f' (did you mean --{near[0]}?)' if near else ''
    sentence = f'unknown flag --{error.flagname}{hint}; see --help.'
    _fail(_explain_flag(argv) or sentence, _BAD_INPUT)
  except KeyError as error:
    _fail(_explain_flag(argv) or str(error.args[0]), _BAD_INPUT)
  except (
    flags.Error,
    AttributeError,
    ValueError,
    TypeError,
    OSError,
  ) as error:
    _fail(_explain_flag(argv) or f'{error}'.removesuffix('.') + '.', _BAD_INPUT)
  raise AssertionError('not reached')


def _find_config(argv: list[str]) -> list[str]:
  """Looks for the config file here, then beside the package."""
  value = _value_of(argv, 'config') or ''
  file, colon, argument = value.partition(':')
  # The flag itself would report a missing file only when its value is read.
  if not file or os.path.isfile(file):
    return argv
  installed = os.path.join(_ROOT, file)
  if not os.path.isfile(installed):
    _fail(
      f'config file {file!r} does not exist; the files are '
      f'{", ".join(help_text.config_files())}.',
      _BAD_INPUT,
    )
  found = f'{installed}{colon}{argument}'
  given = (value, f'-config={value}', f'--config={value}')
  return [
    flag.removesuffix(value) + found if flag in given else flag for flag in argv
  ]


def _explain_flag(argv: list[str]) -> str | None:
  """Finds the override that names no field, or gives it a wrong value."""
  file = _value_of(argv, 'config')
  if file is None:
    return None
  path, _, argument = file.partition(':')
  try:
    config = load_config(path, argument)
  except Exception as error:  # Whatever a config file may raise.
    return f'{path}: {error}'
  return _explain_overrides(argv, config)


def _explain_overrides(argv: list[str], config: ConfigDict) -> str | None:
  for flag in argv:
    if flag.lstrip('-').startswith('config.'):
      key = flag.lstrip('-').removeprefix('config.').partition('=')[0]
      problem = _explain_key(config, key)
      if problem:
        return problem
  return None


def _value_of(argv: list[str], name: str) -> str | None:
  for number, flag in enumerate(argv):
    key, equals, value = flag.lstrip('-').partition('=')
    if flag.startswith('-') and key == name:
      return value if equals else ''.join(argv[number + 1 : number + 2])
  return None


def load_config(path: str, argument: str) -> ConfigDict:
  """The config of a file, as it is written there."""
  spec = importlib.util.spec_from_file_location('config_file', path)
  assert spec is not None and spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_config(argument) if argument else module.get_config()


def _explain_key(config: ConfigDict, key: str) -> str | None:
  """Says which part of a dotted key is wrong, and lists what is valid."""
  node = config
  parts = key.split('.')
  for number, part in enumerate(parts):
    valid = sorted(node.keys()) if isinstance(node, ConfigDict) else []
    if part not in valid:
      group = '.'.join(parts[:number])
      near = ' or '.join(map(repr, _alike(config, part, valid)))
      hint = f' (did you mean {near}?)' if near else ''
      where = f'of {group!r} ' if group else ''
      return (
        f'unknown config key {key!r}{hint}; the valid keys {where}are: '
        f'{", ".join(valid)}.'
      )
    node = node[part]
  return None


def _alike(config: ConfigDict, part: str, valid: list[str]) -> list[str]:
  """What may have been meant by a part of a key: up to three."""
  typo = difflib.get_close_matches(part, valid, n=1, cutoff=0.8)
  if typo:
    return typo
  elsewhere = [k for k in _fields(config) if k.rpartition('.')[2] == part]
  if elsewhere:
    return elsewhere[:3]
  # Another word for the same thing, as `num_steps` for `total_steps`.
  ending = part.rpartition('_')[2]
  same = [name for name in valid if name.rpartition('_')[2] == ending]
  return difflib.get_close_matches(part, same or valid, n=3)


def _fields(group: ConfigDict, prefix: str = '') -> Iterator[str]:
  """Every dotted key."""
  for name, value in group.items():
    if isinstance(value, ConfigDict):
      yield from _fields(value, f'{prefix}{name}.')
    else:
      yield f'{prefix}{name}'
