"""The last words of a command, and whether what they say can be pasted."""

import os
import shlex
import subprocess
import sys

import pytest

from bt4rec import datasets, summary, workdir
from tests import tiny


class TestClosing:
  def test_names_each_file_and_each_command(self):
    text = summary.closing(
      {'/a/b': 'a table'}, {'look at it': 'cat /a/b', 'leave': 'exit 0'}
    )
    assert text == (
      'written:\n'
      '  /a/b  (a table)\n'
      'next:\n'
      '  # look at it\n'
      '  cat /a/b\n'
      '  # leave\n'
      '  exit 0'
    )

  def test_the_whole_can_be_pasted_into_a_shell(self):
    _, following = summary.closing({}, {'a reason': 'echo done'}).split('next:')
    done = subprocess.run(
      ['sh', '-c', following], capture_output=True, text=True, check=True
    )
    assert done.stdout == 'done\n'

  def test_names_of_a_workdir_what_is_there(self, tmp_path):
    for name in ('metrics.jsonl', 'lock', 'config.json'):
      (tmp_path / name).write_text('')
    (tmp_path / 'checkpoints').mkdir()
    assert list(summary.of_workdir(str(tmp_path))) == [
      str(tmp_path / name)
      for name in ('checkpoints', 'metrics.jsonl', 'config.json')
    ]


class TestProgram:
  def test_in_the_checkout_is_the_script(self):
    # Tests are run from the root.
    command = workdir.program('bt4rec.main', '--workdir=my runs')
    assert command == "launch/run.sh '--workdir=my runs'"
    assert os.access('launch/run.sh', os.X_OK)

  def test_elsewhere_is_this_python(self, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('PATH', '/bin')
    assert workdir.program('bt4rec.main', '--workdir=a') == shlex.join(
      [sys.executable, '-m', 'bt4rec.main', '--workdir=a']
    )

  def test_is_as_short_as_the_path_allows(self, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    python = tmp_path / 'env' / 'bin' / 'python'
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, 'executable', str(python))
    monkeypatch.setenv('PATH', '/bin')
    assert workdir.program('m') == 'env/bin/python -m m'
    monkeypatch.setenv('PATH', str(python.parent))
    assert workdir.program('m') == 'python -m m'

  @pytest.mark.parametrize('text', ['it is done', 'a"b', '$HOME', '`id`', 'a!'])
  def test_python_code_is_one_argument(self, text):
    done = subprocess.run(
      workdir.python(f'print({text!r})'),
      shell=True,
      capture_output=True,
      text=True,
    )
    assert done.stdout == f'{text}\n'

  def test_python_code_is_easy_to_read(self):
    assert workdir.python("print('a')").endswith(''' -c "print('a')"''')


def test_prepared_arrays_need_no_option_that_made_them():
  config = tiny.config().dataset
  config.name, config.path, config.k_core = 'logs', '/a/log.csv', 5
  group = datasets.prepared_config(config, '/card')
  # Of the group only what arrays are read by; the check refuses the rest.
  datasets.check_options(group)
  command = workdir.pretrain_command(group)
  assert shlex.split(command)[1:] == [
    '--config=configs/pretrain.py:logs',
    '--config.dataset.prepared=/card',
    '--workdir=runs/logs',
  ]


def test_prepared_arrays_of_a_world_keep_what_its_oracle_needs():
  config = tiny.config().dataset
  config.synthetic.num_users = 77
  group = datasets.prepared_config(config, '/card')
  command = workdir.pretrain_command(group)
  assert '--config.dataset.synthetic.num_users=77' in command
