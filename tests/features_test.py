"""Side features: codes by pencil, embeddings against NumPy, and the way."""

import dataclasses
import datetime
import functools
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow.parquet as pq
import pytest

import bt4rec
from bt4rec import (
  downstream,
  encoders,
  export,
  features,
  packing,
  pipeline,
  pretrain,
  protocols,
  supervised,
  workdir,
)
from bt4rec.datasets import sequences
from bt4rec.errors import InputError
from tests import tiny

_DIM = 12
_ALL = ('category', 'time_gap')


@pytest.fixture(scope='module')
def dataset():
  return tiny.dataset()


class TestGapCodes:
  @pytest.mark.parametrize(
    'gap, code',
    [
      (0, 1),
      (1, 2),
      (2, 3),
      (3, 3),
      (4, 4),
      (3_600, 13),  # 2^11 = 2,048 to 4,095.
      (86_400, 18),  # 2^16 = 65,536 to 131,071.
      (2**30 - 1, 31),
      (2**30, 32),
      (2**40, 32),
    ],
  )
  def test_by_hand(self, gap, code):
    codes = features.gap_codes(np.array([-5, gap - 5]), np.array([0, 2]))
    assert codes.tolist() == [0, code]
    assert codes.dtype == np.uint8
    assert codes.max() < features.EVENT_FEATURES['time_gap'].num_codes

  def test_the_first_event_of_each_sequence_is_unknown(self):
    times = np.array([100, 101, 7, 7, 7, 3, 1_000])
    # An empty sequence in between, and one at the end.
    offsets = np.array([0, 2, 2, 5, 7, 7])
    codes = features.gap_codes(times, offsets)
    assert codes.tolist() == [0, 2, 0, 1, 1, 0, 11]

  def test_blocks_join(self, monkeypatch):
    times = np.cumsum(np.random.default_rng(0).integers(0, 99, 50))
    whole = features.gap_codes(times, np.array([0, 20, 50]))
    monkeypatch.setattr(features, '_BLOCK', 7)
    blocks = features.gap_codes(times, np.array([0, 20, 50]))
    np.testing.assert_array_equal(blocks, whole)


class TestEventsOf:
  def test_are_made_once(self, dataset):
    events = features.events_of(dataset, _ALL)
    assert events['items'] is dataset.items
    assert set(events) == {'items', 'time_gap'}
    again = features.events_of(dataset, _ALL)
    assert again['time_gap'] is events['time_gap']
    assert set(features.events_of(dataset, ())) == {'items'}

  def test_of_another_dataset_are_others(self, dataset):
    features.events_of(dataset, _ALL)
    doubled = dataclasses.replace(dataset, timestamps=dataset.timestamps * 2)
    gaps = features.events_of(doubled, _ALL)['time_gap']
    known = gaps > 0
    before = features.events_of(dataset, _ALL)['time_gap']
    np.testing.assert_array_equal(gaps, before + known)

  def test_times_that_say_nothing_are_refused(self, dataset):
    still = dataclasses.replace(
      dataset, timestamps=np.zeros_like(dataset.timestamps)
    )
    with pytest.raises(
      InputError, match=r"time_gap, but the timestamps of 'sy"
    ):
      features.events_of(still, ('time_gap',))


class TestCheck:
  def test_refuses_what_there_is_not(self):
    with pytest.raises(InputError, match=r"'price'.*category, .*time_gap"):
      features.check(['price'])
    with pytest.raises(InputError, match='not their ratings'):
      features.check(('category', 'rating'))
    with pytest.raises(InputError, match='twice'):
      features.check(('time_gap', 'time_gap'))

  def test_an_encoder_without_categories_to_see_is_refused(self):
    bare = sequences.from_events(
      'bare', np.array([1, 1, 2]), np.array([5, 6, 5]), np.arange(3)
    )
    config = tiny.config()
    config.encoder.features = ('category',)
    with pytest.raises(InputError, match='no item of the dataset has one'):
      encoders.from_config(config, bare.catalogue)


class TestEncode:
  def _encode(self, times, names=_ALL, offsets=(0, 2, 3)):
    return features.encode(names, np.array(offsets), {'times': times})

  def test_seconds_and_datetimes(self):
    assert self._encode([[10, 12], [9]])['time_gap'].tolist() == [0, 3, 0]
    days = [np.array(['2020-01-01', '2020-01-02'], 'datetime64[D]')] * 2
    days[1] = days[1][:1]
    assert self._encode(days)['time_gap'].tolist() == [0, 18, 0]

  def test_none_are_unknown(self):
    assert self._encode(None) == {}

  @pytest.mark.parametrize(
    'times, problem',
    [
      ([[1, 2]], '1 sequences for the 2 of items'),
      ([[1, 2], [3, 4]], 'sequence 1 are 2 for 1 items'),
      ([[2, 1], [3]], 'sequence 0 descend'),
      ([[1.5, 2.5], [3.0]], 'sequence 0 must be integers'),
      ([[1, 2], [datetime.date(2020, 1, 1)]], 'sequence 1 must be integers'),
    ],
  )
  def test_refuses_what_does_not_go_with_the_items(self, times, problem):
    with pytest.raises(InputError, match=problem):
      self._encode(times)

  def test_refuses_what_the_encoder_has_no_use_for(self):
    with pytest.raises(InputError, match=r'features: category\. Leave'):
      self._encode([[1, 2], [3]], names=('category',))


def _encoder(dataset, **overrides):
  """An encoder with random parameters, none of them without effect."""
  config = tiny.config()
  config.encoder.update({'features': _ALL, **overrides})
  module = encoders.from_config(config, dataset.catalogue)
  shapes = jax.eval_shape(
    functools.partial(module.init, train=False),
    jax.random.key(0),
    jnp.ones((2, 9), jnp.int32),
  )['params']
  rng = np.random.default_rng(0)
  return module, jax.tree.map(
    lambda x: jnp.asarray(rng.normal(0.1, 0.4, x.shape), jnp.float32), shapes
  )


def _rows(dataset):
  """Six windows of items and codes; the third has a masked item."""
  events = features.events_of(dataset, _ALL)
  length = np.array([9, 4, 6, 1, 9, 2])
  real = np.arange(9) < length[:, None]
  index = dataset.offsets[:6, None] + 1 + np.arange(9)
  rows = {
    name: np.where(real, array[index], 0) for name, array in events.items()
  }
  rows['items'][2, 3] = dataset.catalogue.mask_item
  return {name: jnp.asarray(array) for name, array in rows.items()}


class TestSideFeatures:
  def test_embeddings_are_summed(self, dataset):
    """The bag of items, by NumPy: the mean of sums of tables."""
    module, params = _encoder(dataset, name='bag_of_items')
    rows = jax.tree.map(np.asarray, _rows(dataset))
    tables = params['side_features']
    catalogue = dataset.catalogue
    expected = []
    for items, codes in zip(rows['items'], rows['time_gap'], strict=True):
      vectors = []
      for item, code in zip(items[items > 0], codes, strict=False):
        masked = item == catalogue.mask_item
        of_item = slice(*catalogue.category_offsets[item - 1 :][:2])
        categories = 1 + catalogue.category_values[of_item]
        vectors.append(
          params['item_table']['embedding'][item]
          + tables['time_gap_embedding'][0 if masked else code]
          + (
            tables['category_embedding'][0]
            if masked
            else tables['category_embedding'][categories].mean(0)
          )
        )
      expected.append(np.mean(vectors, axis=0))
    given = module.apply(
      {'params': params}, rows['items'], False, codes=features.codes_of(rows)
    )
    np.testing.assert_allclose(given, expected, rtol=1e-5, atol=1e-6)

  @pytest.mark.parametrize('name', ['transformer', 'bag_of_items'])
  def test_a_masked_item_shows_nothing(self, dataset, name):
    module, params = _encoder(dataset, name=name)
    rows = _rows(dataset)
    embed = jax.jit(
      lambda items, codes: module.apply(
        {'params': params}, items, False, codes={'time_gap': codes}
      )
    )
    h = embed(rows['items'], rows['time_gap'])
    other = rows['time_gap'].at[2, 3].set(30)
    np.testing.assert_array_equal(embed(rows['items'], other), h)
    # Nor does padding.
    other = rows['time_gap'].at[1, 4:].set(30)
    np.testing.assert_array_equal(embed(rows['items'], other), h)
    # An item that is seen does, and its categories.
    other = rows['time_gap'].at[2, 2].set(30)
    changed = np.abs(embed(rows['items'], other) - h).max(1) > 1e-4
    assert changed.tolist() == [False, False, True, False, False, False]

  def test_what_is_missing_is_unknown(self, dataset):
    module, params = _encoder(dataset)
    items = _rows(dataset)['items']
    np.testing.assert_array_equal(
      module.apply({'params': params}, items, False),
      module.apply(
        {'params': params},
        items,
        False,
        codes={'time_gap': jnp.zeros(items.shape, jnp.uint8)},
      ),
    )

  @pytest.mark.parametrize('pooling', ['mean', 'class_token'])
  def test_packed_equals_padded(self, dataset, pooling):
    module, params = _encoder(dataset, pooling=pooling, positions='relative')
    rows = _rows(dataset)
    reserved = int(pooling == 'class_token')
    shape = packing.Shape(9 + reserved, 5, 6, reserved)
    lengths = np.asarray((rows['items'] > 0).sum(1))[None]
    kept, row, offset = shape.fit(lengths)
    np.testing.assert_array_equal(kept, lengths)
    layout = packing.Layout(jnp.asarray(row[0]), jnp.asarray(offset[0]), shape)

    @functools.partial(jax.jit, static_argnums=1)
    def h_and_grads(params, is_packed):
      def total(params):
        h = module.apply(
          {'params': params},
          rows['items'],
          False,
          layout if is_packed else None,
          features.codes_of(rows),
        )
        return (h**3).sum(), h

      return jax.value_and_grad(total, has_aux=True)(params)

    ((_, packed), of_packed), ((_, padded), of_padded) = (
      h_and_grads(params, is_packed) for is_packed in (True, False)
    )
    np.testing.assert_allclose(packed, padded, rtol=5e-5, atol=5e-6)
    for a, b in zip(*map(jax.tree.leaves, (of_packed, of_padded)), strict=True):
      np.testing.assert_allclose(a, b, atol=1e-4 * (np.abs(b).max() + 1e-3))

  def test_a_module_is_known_by_its_categories(self, dataset):
    first, second = (_encoder(dataset)[0] for _ in range(2))
    assert hash(first) == hash(second) and first == second
    names = dataset.catalogue.category_values[::-1].copy()
    other = dataclasses.replace(dataset.catalogue, category_values=names)
    assert features.ItemCategories(other) != first.categories


def test_from_pretraining_to_use(dataset, tmp_path, monkeypatch):
  """Evaluation, fine-tuning, `embed`, `recommend`, Parquet and StableHLO."""
  source, tuned = (str(tmp_path / name) for name in ('source', 'tuned'))
  encoder = {**tiny.config().encoder.to_dict(), 'features': _ALL}
  settings = {'encoder': {**encoder, 'causal': True}, 'total_steps': 3}
  config = tiny.config(objective='next_item', **settings)
  config.dataset.synthetic.update(dataset.origin['synthetic'])
  os.makedirs(source)
  workdir.check_config(config, source)
  pretrain.run(config, source, dataset)
  loaded = bt4rec.load_encoder(source)
  assert loaded.features == _ALL
  # The table is learned by then.
  ids = dataset.catalogue.item_ids
  histories, times = (
    np.split(values, dataset.offsets[1:-1])
    for values in (ids[dataset.items - 1], dataset.timestamps)
  )
  h = loaded.embed(histories, times)
  assert np.abs(h - loaded.embed(histories)).max() > 1e-5
  # As the evaluation does: the gap before the window's first event is known.
  length = np.minimum(dataset.lengths, loaded.max_length).astype(np.int32)
  events = features.events_of(dataset, loaded.features)
  np.testing.assert_array_equal(
    h, loaded.embed_windows(events, dataset.offsets[1:] - length, length)
  )
  ranked = [
    loaded.recommend(histories, 30, times=given).scores
    for given in (times, None)
  ]
  is_left = np.isfinite(ranked[0])
  assert np.abs(ranked[0][is_left] - ranked[1][is_left]).max() > 0

  path, folder = str(tmp_path / 'users.parquet'), tmp_path / 'serving'
  export.export(source, output=path, serving=str(folder), platforms=['cpu'])
  vectors = pq.read_table(path)['embedding'].combine_chunks().flatten()
  np.testing.assert_allclose(
    vectors.to_numpy().reshape(h.shape), h, rtol=1e-5, atol=1e-6
  )
  manifest = json.loads((folder / 'manifest.json').read_text())
  assert [code['feature'] for code in manifest['codes']] == ['time_gap']
  program = jax.export.deserialize(
    bytearray((folder / 'encoder.stablehlo').read_bytes())
  )
  rows = pipeline.cut_windows(
    events, dataset.offsets[1:] - length, length, loaded.max_length
  )
  np.testing.assert_allclose(
    program.call(rows['items'], rows['time_gap']), h, rtol=1e-5, atol=1e-6
  )

  # Fine-tuning, without its loop: the tables have a gradient.
  config = tiny.config(task='next_item', protocol='finetune', init_from=source)
  models: list[supervised.Model] = []
  monkeypatch.setattr(
    protocols,
    'train_and_test',
    lambda _, model: (
      models.append(model) or supervised.Outcome({}, np.zeros(0), {}, 0)
    ),
  )
  os.makedirs(tuned)
  downstream.run(config, tuned, dataset)
  (model,) = models
  params = jax.tree.map(lambda x: x + 0.1, model.params)
  batch = {name: array[:64] for name, array in model.rows.items()}
  grads = jax.jit(jax.grad(model.loss_fn, has_aux=True))(
    params, model.batch_stats, {**batch, **model.tables}, jax.random.key(0)
  )[0]
  for name, grad in grads['encoder']['side_features'].items():
    assert (np.abs(grad[1:]).max(1) > 0).sum() > 3, name
  # Of other categories the same numbers would mean another thing.
  values = dataset.catalogue.category_values[::-1].copy()
  other = dataclasses.replace(
    dataset,
    catalogue=dataclasses.replace(dataset.catalogue, category_values=values),
  )
  with pytest.raises(InputError, match='other categories of the items'):
    downstream.run(config, tuned, other)


@pytest.mark.parametrize(
  'overrides',
  [
    {'objective': 'next_item', 'encoder': {'causal': True}, 'feed': 'tf.data'},
    {'objective': 'masked_item+0.5*dual_encoder'},
    {
      'objective': 'barlow_twins',
      'augment': {'split': 'two_windows', 'order': ('substitute', 'mask')},
      'parallelism': 'pmap',
    },
  ],
  ids=lambda overrides: overrides['objective'],
)
def test_a_step_learns_from_them(dataset, overrides):
  """Packed, on eight devices: one trace, and every table has a gradient."""
  config = tiny.config(packing={'enabled': True, 'max_cut': 0.2}, **overrides)
  config.encoder.features = _ALL
  config.encoder.dropout = 0.0
  config.optimizer.warmup_steps = 0
  job = pretrain.make_job(config, dataset)
  state, tables = job.step.replicate(job.state), job.step.replicate(job.tables)
  before = jax.tree.map(np.asarray, job.step.unreplicate(state).params)
  batches = job.feed(0)
  for _ in range(2):
    batch = {**job.step.place_batch(next(batches)), **tables}
    state, metrics = job.step(state, batch)
  assert job.step.num_traces == 1
  assert np.isfinite(np.asarray(metrics['loss'])).all()
  after = job.step.unreplicate(state).params['encoder']['side_features']
  for name, table in before['encoder']['side_features'].items():
    moved = np.abs(np.asarray(after[name]) - table).max(1) > 0
    assert moved[1:].sum() > 3, name
