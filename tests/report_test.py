"""Tests of bt4rec.report: fake results in, exact table out."""

import json

import pytest

from bt4rec import report
from bt4rec.errors import InputError


def _line(objective, value, seed=0, fraction=0.1, **overrides):
  return {
    'dataset': 'ml1m',
    'task': 'next_item',
    'objective': objective,
    'protocol': 'probe',
    'label_fraction': fraction,
    'seed': seed,
    'metrics': {'recall@10': value},
    'split_fingerprint': 'f',
    'inductive': False,
    'commit': 'abc',
    'device': '1 x cpu',
    'wall_seconds': 1800.0,
    **overrides,
  }


def _write(path, lines):
  path.mkdir(exist_ok=True)
  (path / 'results.jsonl').write_text(
    ''.join(json.dumps(line) + '\n' for line in lines)
  )
  return str(path)


def test_table_has_mean_spread_and_gain(tmp_path):
  directory = _write(
    tmp_path / 'a',
    [
      _line('barlow_twins', 0.3, seed=0),
      _line('barlow_twins', 0.5, seed=1),
      _line('dual_encoder_tuned', 0.2, seed=0),
      _line('barlow_twins', 0.6, seed=0, fraction=1.0),
    ],
  )
  text = report.make_report([directory])
  # Sample standard deviation of .3 and .5: .1 * sqrt(2).
  assert text.endswith(
    '| next_item: recall@10 | 10% labels | 100% labels |\n'
    '| --- | --- | --- |\n'
    '| barlow_twins, probe | 0.400 ± 0.141 | 0.600 |\n'
    '| dual_encoder_tuned, probe | 0.200 |  |\n'
    '| gain over dual_encoder_tuned, probe | +100.0% |  |\n'
  )
  assert 'seeds [0, 1]' in text and 'all users' in text and '2.00 h' in text


def test_several_workdirs_make_one_table(tmp_path):
  directories = [
    _write(tmp_path / str(seed), [_line('barlow_twins', 0.1, seed=seed)])
    for seed in range(3)
  ]
  assert '0.100 ± 0.000' in report.make_report(directories)


@pytest.mark.parametrize('key', ['split_fingerprint', 'inductive'])
def test_refuses_to_mix(key, tmp_path):
  directory = _write(
    tmp_path, [_line('random', 0.1), _line('random', 0.1, **{key: True})]
  )
  with pytest.raises(InputError, match=key):
    report.make_report([directory])


def test_without_a_test_the_table_is_of_validation(tmp_path):
  untested = {'metrics': {}, 'validation': {'recall@10': 0.7}}
  directory = _write(tmp_path / 'a', [_line('random', None, **untested)])
  assert report.make_report([directory]).endswith(
    '| next_item: recall@10 on validation | 10% labels |\n'
    '| --- | --- |\n'
    '| random, probe | 0.700 |\n'
  )
  # A test result next to it would be compared with it.
  tested = _line('random', 0.1, seed=1, validation={'recall@10': 0.7})
  other = _write(tmp_path / 'b', [tested])
  assert 'validation' not in report.make_report([other])
  with pytest.raises(InputError, match='evaluate_test'):
    report.make_report([directory, other])


def test_a_directory_without_results_is_named(tmp_path, capsys):
  assert report.main([str(tmp_path)]) == 2
  assert str(tmp_path) in capsys.readouterr().err
