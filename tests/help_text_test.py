"""What help lists: every config, every name, nothing heavy imported."""

import pathlib
import re
import subprocess
import sys

from bt4rec import help_text
from configs import presets

_ROOT = pathlib.Path(__file__).parents[1]


def test_every_config_that_can_be_run_is_listed():
  # Whatever has `get_config`, but for the one that others start from.
  files = {
    f'configs/{path.name}'
    for path in (_ROOT / 'configs').glob('*.py')
    if 'def get_config(' in path.read_text() and path.name != 'base.py'
  }
  found = help_text.config_files()
  assert set(found) == files
  assert found['configs/downstream.py'][0] == ':DATASET,TASK[,PROTOCOL]'
  assert found['configs/quickstart.py'][0] == ''
  assert all(what and 'configs/' not in what for _, what in found.values())


def test_everything_in_an_argument_has_names():
  wanted = {
    name
    for usage, _ in help_text.config_files().values()
    for name in re.findall('[A-Z]+', usage)
  }
  assert set(help_text.argument_names()) == wanted


def test_names_are_listed():
  text = ' '.join(help_text.jobs().split())
  for names in (presets.DATASETS, presets.TASKS, presets.PROTOCOLS):
    assert ', '.join(names) in text
  for name in presets.pretrainings():
    assert name in text


def test_lines_fit_a_terminal():
  lines = (help_text.jobs() + help_text.STATUSES).splitlines()
  # The last one of the jobs is a path of this machine.
  assert all(
    len(line) < 80 for line in lines if not line.startswith('  Here it is')
  )


def test_needs_neither_jax_nor_tensorflow():
  program = (
    'import sys; sys.modules.update(jax=None, tensorflow=None); '
    'from bt4rec import help_text; help_text.jobs()'
  )
  subprocess.run([sys.executable, '-c', program], cwd=_ROOT, check=True)
