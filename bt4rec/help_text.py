"""What `--help` lists besides the flags: configs, their arguments, statuses.

Everything comes from the config files and their visible dicts, which import
neither JAX nor TensorFlow, so that help is there at once.
"""

import ast
import os
import re
import textwrap
from collections.abc import Iterable

_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

STATUSES = """\
exit status:
  0    success
  1    the training failed (a loss that is not finite), or jobs of a study did;
       the disk is full; or a mistake of bt4rec
  2    bad input: one sentence on standard error says what and the remedy
  130  interrupted (Ctrl-C), 143 stopped by SIGTERM; the same command continues
"""


def config_files() -> dict[str, tuple[str, str]]:
  """The jobs there are: file -> (its arguments, what it does).

  They are read from the first lines of the files: 'What: configs/FILE:ARG.'
  """
  found = {}
  folder = os.path.join(_ROOT, 'configs')
  for name in sorted(os.listdir(folder)):
    if not name.endswith('.py'):
      continue
    with open(os.path.join(folder, name)) as f:
      text = ast.get_docstring(ast.parse(f.read())) or ''
    # A module that others build on is no job, and names no command.
    if not re.search(r'^Commands?:', text, re.MULTILINE):
      continue
    title = text.split('\n')[0].rstrip('.')
    what, _, usage = title.partition(f': configs/{name}')
    found[f'configs/{name}'] = (usage, what)
  return found


def argument_names() -> dict[str, Iterable[str]]:
  """What stands in a config's argument -> the valid names."""
  from configs import ablation, presets, reproduce, study

  return {
    'DATASET': presets.DATASETS,
    'OBJECTIVE': presets.pretrainings(),
    'TASK': presets.TASKS,
    'PROTOCOL': presets.PROTOCOLS,
    'MODEL': reproduce.MODELS,
    'BLOCK': presets.blocks(),
    'SET': ablation.SETS,
    'SIZE': study.SIZES,
  }


def jobs() -> str:
  """The configs with their arguments, and the names these can be."""
  lines = ['configs:']
  for file, (usage, what) in config_files().items():
    lines += [f'  {file}{usage}', f'      {what}']
  lines += ['names:']
  for kind, names in argument_names().items():
    lines += textwrap.wrap(
      f'{kind}: {", ".join(names)}',
      width=79,
      initial_indent='  ',
      subsequent_indent='      ',
    )
  lines += [
    'fields:',
    '  --config.key=value overrides a field; configs/base.py has all of them,',
    '  each with its comment, and a wrong key is answered with the valid ones.',
    f'  Here it is {os.path.join(_ROOT, "configs", "base.py")}.',
    '',
  ]
  return '\n'.join(lines)
