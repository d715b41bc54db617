"""Options that the chosen dataset does not read are refused."""

import sys

import numpy as np
import pytest
from ml_collections import ConfigDict

from bt4rec import datasets
from bt4rec.datasets import options, sequences
from bt4rec.errors import InputError
from configs import base, presets

# An option of each kind, changed, and the datasets that read it.
_CHANGES = {
  'path': ('files', ('ml1m', 'ml20m', 'yelp', 'logs')),
  'expect_official': (False, ('ml1m', 'ml20m')),
  'k_core': (5, ('yelp', 'logs')),
  'yelp.generic_share': (0.2, ('yelp',)),
  'yelp.num_categories': (7, ('yelp',)),
  'columns.user': ('u', ('logs',)),
  'columns.rating': ('stars', ('logs',)),
  'timestamp_unit': ('ms', ('logs',)),
  'category_separator': ('|', ('logs',)),
  'item_table': ('items.csv', ('logs',)),
  'min_rating': (3.0, ('logs',)),
  'encoding': ('latin-1', ('logs',)),
  'delimiter': (';', ('logs',)),
  'bad_rows': ('drop', ('logs',)),
  'duplicates': ('drop', ('logs',)),
  'synthetic.num_users': (30, ('synthetic',)),
  'synthetic.seed': (1, ('synthetic',)),
}


def _config(name: str, **changes) -> ConfigDict:
  config = base.get_config().dataset
  config.name = name
  config.update_from_flattened_dict(changes)
  return config


def _check(config: ConfigDict) -> None:
  """The check that `datasets.load` begins with."""
  sources = datasets._SOURCES
  options.check(
    config,
    sources[config.name].reads,
    {name: source.reads for name, source in sources.items()},
  )


@pytest.mark.parametrize('name', presets.DATASETS)
@pytest.mark.parametrize('key', _CHANGES)
def test_an_option_is_refused_by_the_datasets_that_do_not_read_it(name, key):
  value, readers = _CHANGES[key]
  config = _config(name, **{key: value})
  if name in readers:
    _check(config)
    return
  with pytest.raises(InputError) as error:
    datasets.load(config)
  assert str(error.value) == (
    f'dataset.{key}={value!r} (read by {", ".join(readers)}) would be ignored '
    f'by dataset {name!r}; leave it out, or choose another dataset.'
  )


def test_every_field_of_the_config_is_tried_here():
  # A new field must be declared by the datasets that read it.
  everywhere = {'name', 'prepared', 'data_dir'}
  fields = set(base.get_config().dataset.keys())
  tried = {key.partition('.')[0] for key in _CHANGES}
  assert tried == fields - everywhere
  declared = {f for s in datasets._SOURCES.values() for f in s.reads}
  assert declared == tried


def test_several_are_told_together():
  config = _config('ml1m', k_core=5, **{'columns.item': 'i'})
  with pytest.raises(InputError) as error:
    datasets.load(config)
  assert str(error.value).startswith(
    "dataset.columns.item='i' (read by logs) and dataset.k_core=5 (read by "
    'yelp, logs) would be ignored'
  )


def test_a_value_equal_to_the_default_is_no_setting():
  _check(_config('ml1m', k_core=0, **{'columns.user': 'user'}))


class TestPrepared:
  @pytest.fixture
  def prepared(self, tmp_path) -> str:
    path = str(tmp_path / 'prepared')
    config = _config('synthetic', **{'synthetic.num_users': 30})
    sequences.save(datasets.load(config), path)
    return path

  @pytest.mark.parametrize('key', [k for k in _CHANGES if k[:9] != 'synthetic'])
  def test_arrays_are_made_already(self, key):
    value, readers = _CHANGES[key]
    config = _config(readers[0], prepared='arrays', **{key: value})
    with pytest.raises(InputError) as error:
      datasets.load(config)
    assert str(error.value) == (
      f'dataset.{key}={value!r} (read by {", ".join(readers)}) would be '
      f'ignored, because dataset.prepared names arrays that are made already; '
      f'leave it out, or clear dataset.prepared.'
    )

  def test_of_the_same_world_are_read(self, prepared):
    config = _config(
      'synthetic', prepared=prepared, **{'synthetic.num_users': 30}
    )
    dataset = datasets.load(config)
    assert dataset.num_users == 30
    truth = datasets.synthetic.make_truth(datasets.synthetic_world(config))
    assert len(truth) == dataset.num_events

  def test_of_another_world_are_refused(self, prepared):
    # Its oracle would know the interests of other users.
    with pytest.raises(InputError) as error:
      datasets.load(_config('synthetic', prepared=prepared))
    assert str(error.value) == (
      f'{prepared} was made with dataset.synthetic.num_users=30, the config '
      f'has 2000; give the same value.'
    )

  def test_that_do_not_know_their_world_are_read(self, prepared, tmp_path):
    dataset = sequences.load(prepared)
    dataset.origin.clear()
    sequences.save(dataset, str(tmp_path))
    loaded = datasets.load(_config('synthetic', prepared=str(tmp_path)))
    np.testing.assert_array_equal(loaded.items, dataset.items)


def test_files_without_tensorflow_get_one_sentence(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'tensorflow', None)
  monkeypatch.delitem(
    sys.modules, 'bt4rec.datasets.user_sequences', raising=False
  )
  monkeypatch.delattr(datasets, 'user_sequences', raising=False)
  path = tmp_path / 'log.csv'
  path.write_text('user,item,timestamp\n1,2,3\n')
  with pytest.raises(InputError, match=r'TensorFlow is missing .*prepared'):
    datasets.load(_config('logs', path=str(path)))
