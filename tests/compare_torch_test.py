"""The comparison with PyTorch: what is run, and what is made of the lines."""

import importlib.util
import json
import pathlib
import subprocess
import sys

import pytest

_ROOT = pathlib.Path(__file__).parents[1]
_PATH = _ROOT / 'launch' / 'compare_torch.py'


@pytest.fixture(name='compare')
def _compare():
  spec = importlib.util.spec_from_file_location('compare_torch', _PATH)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def _line(packed, sequences, tokens):
  return json.dumps(
    {
      'name': 'pretrain_step',
      'packed': packed,
      'sequences_per_second': sequences,
      'real_tokens_per_second': tokens,
    }
  )


def test_the_rivals_take_turns_on_the_same_cores():
  done = subprocess.run(
    [
      *('bash', 'launch/compare_torch.sh', '--dry_run', '--cores=0,1'),
      *('--lengths=full,yelp', '--batch=64', '--peer=tests/tiny.py'),
    ],
    cwd=_ROOT,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  sizes = (
    '--batch=64 --length=50 --dim=128 --layers=2 --heads=2 --items=3706 '
    '--projector=512 --dropout=0.1 --dtype=float32 --steps=10 --warmup=3'
  )
  ours = (
    f'taskset -c 0,1 .venv/bin/python -m bt4rec.benchmark '
    f'--only=pretrain_step {sizes}'
  )
  theirs = f'taskset -c 0,1 .venv-torch/bin/python tests/tiny.py {sizes}'
  own = '--attention=xla --steps_per_call=1'
  end = '--device=cpu --threads=2'
  assert done.stdout.splitlines() == [
    f'{ours} --lengths=full {own}',
    f'{theirs} --lengths=full {end}',
    f'{theirs} --lengths=full {end} --compile',
    f'{ours} --lengths=yelp {own}',
    f'{theirs} --lengths=yelp {end}',
    f'{theirs} --lengths=yelp {end} --compile',
  ]


@pytest.mark.parametrize(
  'flag, sentence',
  [
    ('--lenghts=full', 'unrecognized arguments: --lenghts=full'),
    ('--lengths=long', '--lengths=long is none of full, uniform, yelp'),
    ('--peer=nowhere.py', '--peer=nowhere.py is no file'),
    ('--cores=one', '--cores=one is no list of numbers'),
    ('--rounds=0', 'must be at least 1'),
    ('--batch=many', "invalid int value: 'many'"),
  ],
)
def test_bad_flags_are_one_sentence(
  compare, monkeypatch, capsys, flag, sentence
):
  monkeypatch.chdir(_ROOT)
  with pytest.raises(SystemExit) as stopped:
    compare.parse([flag])
  assert stopped.value.code == 2
  errors = capsys.readouterr().err
  assert sentence in errors and errors.count('\n') == 1


def test_lines_without_a_speed_are_no_rivals(compare):
  output = '\n'.join(
    [
      'a warning',
      json.dumps({'name': 'matmul', 'flops_per_second': 1}),
      _line(False, 10.0, 200.0),
      _line(True, 40.0, 700.0),
    ]
  )
  assert compare.read('yelp', '', output) == {
    ('yelp', 'padded'): (10.0, 200.0),
    ('yelp', 'packed'): (40.0, 700.0),
  }
  # Another program need not say whether it packs.
  line = '{"sequences_per_second": 5, "real_tokens_per_second": 90}'
  assert compare.read('full', 'eager', line) == {('full', 'eager'): (5, 90)}
  with pytest.raises(ValueError, match='no line'):
    compare.read('full', 'eager', 'a warning')


def test_ratios_are_those_of_neighbours_in_time(compare):
  def a_round(slowness):
    """Of a machine that is so many times slower than it could be."""
    speeds = {
      ('full', 'padded'): (3000, 150_000),
      ('full', 'packed'): (1, 1),
      ('full', 'eager'): (1500, 75_000),
      ('full', 'compiled'): (2000, 100_000),
      ('yelp', 'padded'): (4000, 40_000),
      ('yelp', 'packed'): (9000, 88_000),
      ('yelp', 'eager'): (2000, 20_000),
      ('yelp', 'compiled'): (2500, 25_000),
    }
    return {
      key: compare.Speed(*(value / slowness for value in speed))
      for key, speed in speeds.items()
    }

  # A machine that is disturbed in one of three rounds, all rivals alike.
  rounds = [a_round(1), a_round(2), a_round(1)]
  rounds[2]['yelp', 'eager'] = compare.Speed(1000, 10_000)
  text = compare.table(rounds)
  same = ' ({0} to {0})'.format
  assert text.splitlines()[2:] == [
    f'| full, one a row | 3,000 | 1,500 | 2,000 | 2.00{same("2.00")} | '
    f'1.50{same("1.50")} | 2.00{same("2.00")} | 1.50{same("1.50")} |',
    f'| yelp, one a row | 4,000 | 1,000 | 2,500 | 2.00 (2.00 to 4.00) | '
    f'1.60{same("1.60")} | 2.00 (2.00 to 4.00) | 1.60{same("1.60")} |',
    f'| yelp, packed | 9,000 | 1,000 | 2,500 | 4.50 (4.50 to 9.00) | '
    f'3.60{same("3.60")} | 4.40 (4.40 to 8.80) | 3.52{same("3.52")} |',
  ]
  widths = {line.count(' | ') for line in text.splitlines()}
  assert widths == {7}
  # One round has no spread.
  assert '| 2.00 | 1.50 |' in compare.table(rounds[:1])


def _printing(compare, monkeypatch, programs):
  """Runs the comparison with Python programs for rivals."""
  monkeypatch.chdir(_ROOT)
  planned = [
    ('full', rival, [sys.executable, '-c', code])
    for rival, code in programs.items()
  ]
  monkeypatch.setattr(compare, 'commands', lambda args: planned)
  compare.main(['--rounds=2'])


def test_the_lines_come_before_the_table(compare, monkeypatch, capfd):
  both = f'{_line(False, 30, 300)}\n{_line(True, 40, 400)}'
  programs = {
    '': f'print({both!r})',
    'eager': f'print({_line(False, 20, 200)!r})',
    'compiled': f'print({_line(False, 15, 150)!r})',
  }
  _printing(compare, monkeypatch, programs)
  printed, errors = capfd.readouterr()
  lines = printed.splitlines()
  assert [json.loads(line)['sequences_per_second'] for line in lines[:8]] == [
    *(30, 40, 20, 15),
    *(30, 40, 20, 15),
  ]
  assert lines[10].startswith('| full, one a row | 30 | 20 | 15 | 1.50 (')
  assert '6 of 6: PyTorch compiled, full' in errors


def test_a_rival_that_fails_is_named(compare, monkeypatch, capfd):
  programs = {'': f'print({_line(False, 30, 300)!r})', 'eager': 'exit(3)'}
  with pytest.raises(SystemExit) as stopped:
    _printing(compare, monkeypatch, programs)
  assert str(stopped.value) == (
    'bt4rec: PyTorch eager was not measured, since it ended with status 3.'
  )
  # What was measured is not lost.
  assert '"sequences_per_second": 30' in capfd.readouterr().out
