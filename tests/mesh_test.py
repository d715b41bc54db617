"""A table split over devices: placed, read, trained, saved, of a million."""

import dataclasses

import jax
import numpy as np
import pytest

from bt4rec import mesh, pretrain, train
from bt4rec.checkpoint import restore_model
from bt4rec.datasets import sequences, synthetic
from tests import tiny

_ROWS, _DIM = 30, 5


def _table():
  rng = np.random.default_rng(0)
  return rng.normal(size=(_ROWS, _DIM)).astype(np.float32)


@pytest.mark.parametrize('model_parallelism', [2, 4, 8])
class TestRowSharding:
  def _sharding(self, model_parallelism):
    return mesh.RowSharding(
      mesh.make_mesh(jax.devices(), model_parallelism), _ROWS
    )

  def test_each_device_has_its_rows_and_the_host_gets_all(
    self, model_parallelism
  ):
    sharding, table = self._sharding(model_parallelism), _table()
    placed = sharding.place(table)
    share = -(-_ROWS // model_parallelism)
    for shard in placed.addressable_shards:
      assert shard.data.shape == (share, _DIM)
      first = shard.index[0].start or 0
      rows = table[first : first + share]
      np.testing.assert_array_equal(shard.data[: len(rows)], rows)
      assert not shard.data[len(rows) :].any()
    np.testing.assert_array_equal(sharding.gather(placed), table)

  def test_takes_rows_and_their_gradient(self, model_parallelism):
    sharding, table = self._sharding(model_parallelism), _table()
    rng = np.random.default_rng(1)
    rows = rng.integers(0, _ROWS, (16, 3))
    factor = rng.normal(size=(16, 3, _DIM)).astype(np.float32)

    def total(table, is_split):
      found = sharding.take(table, rows, is_split)
      return (factor * found).sum(), found

    expected = np.zeros_like(table)
    for place in np.ndindex(rows.shape):
      expected[rows[place]] += factor[place]
    for is_split in (True, False):
      (_, found), gradient = jax.jit(
        jax.value_and_grad(total, has_aux=True), static_argnums=1
      )(sharding.place(table), is_split)
      np.testing.assert_array_equal(found, table[rows])
      np.testing.assert_allclose(
        sharding.gather(gradient), expected, rtol=1e-5, atol=1e-6
      )


def _job(model_parallelism):
  # No blocks: quick to compile.
  config = tiny.config(
    objective='dual_encoder',
    model_parallelism=model_parallelism,
    encoder={'name': 'bag_of_items'},
    optimizer={'item_table_rate': 0.5},
  )
  return pretrain.make_job(config, _dataset())


def _dataset():
  # With 33 tokens, which nothing divides.
  return synthetic.make_dataset(
    synthetic.World(**{**tiny.WORLD, 'num_items': 31})
  )


def _killed_at(job, killed_step):
  def feed(first_step):
    for step, batch in enumerate(job.feed(first_step), start=first_step):
      if step == killed_step:
        raise KeyboardInterrupt
      yield batch

  return dataclasses.replace(job, feed=feed)


def _leaves(state):
  return {
    jax.tree_util.keystr(path): np.asarray(leaf)
    for path, leaf in jax.tree_util.tree_leaves_with_path(
      state.replace(rng=jax.random.key_data(state.rng))
    )
  }


def test_resumes_to_the_bit_whoever_shares_the_table(tmp_path):
  job = _job(4)
  whole, _ = train.fit(job, str(tmp_path / 'whole'))
  for killed_step in (3, 6):
    with pytest.raises(KeyboardInterrupt):
      train.fit(_killed_at(job, killed_step), str(tmp_path / 'resumed'))
  resumed, _ = train.fit(job, str(tmp_path / 'resumed'))
  expected = _leaves(whole)
  for name, leaf in _leaves(resumed).items():
    np.testing.assert_array_equal(leaf, expected[name], name)
  # Nothing of it shows in what was saved: it is that of a whole table.
  tables = [name for name in expected if 'item_table' in name]
  assert len(tables) == 3
  rows = _dataset().catalogue.vocabulary_size
  assert rows == 33
  assert {expected[name].shape for name in tables} == {(rows, 12)}
  alone, _ = train.fit(_job(1), str(tmp_path / 'alone'))
  for name, leaf in _leaves(alone).items():
    np.testing.assert_allclose(leaf, expected[name], rtol=1e-3, atol=1e-5)
  saved = restore_model(str(tmp_path / 'whole')).params
  assert isinstance(saved['encoder']['item_table']['embedding'], jax.Array)
  continued, _ = train.fit(_job(2), str(tmp_path / 'whole'))
  assert int(continued.step) == int(whole.step)


def test_a_million_items_train_on_eight_devices():
  num_items, num_users = 1_000_000, 100_000
  dataset = sequences.from_indexed_events(
    'large',
    np.arange(num_users),
    np.repeat(np.arange(num_users), 10),
    np.arange(num_items),
    np.random.default_rng(0).permutation(num_items),
    np.arange(num_items),
  )
  config = tiny.config(
    objective='next_item',
    max_length=5,
    model_parallelism=8,
    encoder={'dim': 8, 'causal': True, 'num_heads': 1},
  )
  job = pretrain.make_job(config, dataset)
  state, tables = job.step.replicate((job.state, job.tables))
  batch = {**job.step.place_batch(next(job.feed(0))), **tables}
  program = job.step.lower(state, batch).compile().as_text()
  state, metrics = job.step(state, batch)
  # As good as a guess among them all.
  np.testing.assert_allclose(metrics['loss'], np.log(num_items), rtol=0.01)
  table = state.params['encoder']['item_table']['embedding']
  adam = state.opt_state[1][0]
  moments = [
    tree['encoder']['item_table']['embedding'] for tree in (adam.mu, adam.nu)
  ]
  rows = -(-(num_items + 2) // 8)
  for array in (table, *moments):
    assert len(array.addressable_shards) == 8
    for shard in array.addressable_shards:
      assert shard.data.shape == (rows, 8)
  # Nor has a device the whole of it within the step.
  assert f'[{rows},8]' in program
  assert f'[{8 * rows},8]' not in program
  assert f'[{num_items + 2},8]' not in program
  # The softmax reaches every item, and neither padding nor mask nor the rest.
  is_reached = np.asarray(moments[0]).any(1)
  assert is_reached[1 : num_items + 1].mean() > 0.99
  assert not is_reached[num_items + 1 :].any()
