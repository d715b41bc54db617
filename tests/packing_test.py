"""Packed rows: where the windows lie, and that nothing depends on it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bt4rec import (
  encoders,
  packing,
  pipeline,
  plans,
  pretext,
  pretrain,
  pretrain_data,
  train,
  train_step,
)
from bt4rec.errors import InputError
from tests import tiny

_LENGTH = 7
_VOCABULARY = 20


def _assert_no_overlap(shape, lengths, kept, row, offset):
  """Every window has slots of its own, within its row."""
  assert kept.shape == row.shape == offset.shape == lengths.shape
  assert (kept <= lengths).all()
  assert (kept >= np.minimum(lengths, 2)).all()
  for batch in range(len(lengths)):
    taken = set()
    for number, length in enumerate(kept[batch]):
      group = number // shape.sequences_per_group
      first, where = offset[batch, number], row[batch, number]
      assert 0 <= where < shape.rows_per_group
      assert first + length + shape.reserved <= shape.row_length
      for slot in range(first, first + length + shape.reserved):
        assert (group, where, slot) not in taken
        taken.add((group, where, slot))


class TestShape:
  def test_by_hand(self):
    # Longest first: 7 fills row 0; 4 opens row 1; 3 completes it; 2 opens 2.
    shape = packing.Shape(row_length=7, rows_per_group=3, sequences_per_group=4)
    kept, row, offset = shape.fit(np.array([[3, 7, 2, 4]]))
    assert kept.tolist() == [[3, 7, 2, 4]]
    assert row.tolist() == [[1, 0, 2, 1]]
    assert offset.tolist() == [[4, 0, 0, 0]]

  def test_what_fits_nowhere_is_cut_to_the_largest_gap(self):
    # 5 and 5 open both rows of 7; the 4 finds a gap of 2.
    shape = packing.Shape(7, 2, 3)
    kept, row, offset = shape.fit(np.array([[4, 5, 5]]))
    assert kept.tolist() == [[2, 5, 5]]
    assert row.tolist() == [[0, 0, 1]]
    assert offset.tolist() == [[5, 0, 0]]

  def test_no_window_is_cut_below_two_events(self):
    # 7 and 6 leave gaps of 0 and 1. At 6 and 6 they are too small still; at 5
    # and 5 one has 2 slots.
    shape = packing.Shape(7, 2, 3)
    kept, _, _ = shape.fit(np.array([[7, 2, 6]]))
    assert kept.tolist() == [[5, 2, 5]]

  @pytest.mark.parametrize('reserved', [0, 1])
  @pytest.mark.parametrize('num_groups', [1, 4])
  @pytest.mark.parametrize('max_cut', [0.0, 0.05, 0.3])
  def test_windows_do_not_overlap(self, max_cut, num_groups, reserved):
    rng = np.random.default_rng(0)
    population = rng.choice([2, 2, 3, 4, 9, 15], 500)
    shape = packing.choose_shape(
      population,
      batch_size=24,
      max_length=15,
      max_cut=max_cut,
      num_groups=num_groups,
      reserved=reserved,
    )
    lengths = rng.choice(population, (40, 24))
    placed = shape.fit(lengths)
    _assert_no_overlap(shape, lengths, *placed)
    # The rows were chosen on other batches of the same windows.
    assert placed[0].sum() >= (1 - max_cut - 0.03) * lengths.sum()

  def test_fewer_rows_cut_more(self):
    lengths = np.random.default_rng(0).integers(2, 51, 1_000)
    choose = functools.partial(
      packing.choose_shape, lengths, batch_size=64, max_length=50
    )
    rows = [choose(max_cut=cut).rows_per_group for cut in (0.0, 0.05, 0.2)]
    assert 64 > rows[0] > rows[1] > rows[2]

  def test_full_windows_get_a_row_each(self):
    shape = packing.choose_shape(
      np.full(9, 5), batch_size=8, max_length=5, max_cut=0.0
    )
    assert (shape.rows_per_group, shape.slots_per_sequence) == (8, 5)

  def test_a_batch_is_packed_as_if_alone(self):
    lengths = np.random.default_rng(1).integers(2, 11, (6, 12))
    shape = packing.Shape(10, 6, 12)
    together = shape.fit(lengths)
    for number in range(6):
      alone = shape.fit(lengths[number : number + 1])
      for a, b in zip(alone, together, strict=True):
        np.testing.assert_array_equal(a[0], b[number])

  @pytest.mark.parametrize(
    ('options', 'sentence'),
    [
      ({'max_cut': 1.0}, r'packing.max_cut=1.0 must be at least 0 and below 1'),
      ({'num_groups': 3}, r'num_groups=3 does not divide batch_size=8'),
    ],
  )
  def test_bad_options(self, options, sentence):
    options = {'max_cut': 0.1, **options}
    with pytest.raises(InputError, match=sentence):
      packing.choose_shape(np.full(9, 5), batch_size=8, max_length=5, **options)


_LENGTHS = np.array([[3, 7, 2, 4, 2, 5, 1, 6]])


@functools.cache
def _windows():
  """[8, 7] items of the lengths above."""
  items = np.random.default_rng(0).integers(1, _VOCABULARY - 1, (8, _LENGTH))
  real = np.arange(_LENGTH) < _LENGTHS[0][:, None]
  return jnp.asarray(np.where(real, items, 0), jnp.int32)


def _layout(num_groups, reserved=0):
  sequences = 8 // num_groups
  shape = packing.Shape(_LENGTH + reserved, sequences, sequences, reserved)
  kept, row, offset = shape.fit(_LENGTHS)
  np.testing.assert_array_equal(kept, _LENGTHS)
  return packing.Layout(jnp.asarray(row[0]), jnp.asarray(offset[0]), shape)


def _encoder(pooling, causal, **block):
  """An encoder with random parameters, none of them without effect."""
  module = encoders.make_encoder(
    'transformer',
    vocabulary_size=_VOCABULARY,
    max_length=_LENGTH,
    dim=12,
    num_layers=2,
    num_heads=3,
    pooling=pooling,
    causal=causal,
    dtype=jnp.float32,
    **block,
  )
  params = jax.eval_shape(
    functools.partial(module.init, train=False), jax.random.key(0), _windows()
  )['params']
  leaves, tree = jax.tree.flatten(params)
  rng = np.random.default_rng(0)
  return module, jax.tree.unflatten(
    tree, [jnp.asarray(rng.normal(size=x.shape), jnp.float32) for x in leaves]
  )


class TestEncoder:
  @pytest.mark.parametrize('num_groups', [1, 4])
  @pytest.mark.parametrize('causal', [False, True])
  @pytest.mark.parametrize('pooling', ['mean', 'last', 'class_token'])
  def test_embeddings_do_not_depend_on_the_layout(
    self, pooling, causal, num_groups
  ):
    module, params = _encoder(pooling, causal)
    layout = _layout(num_groups, reserved=int(pooling == 'class_token'))
    apply = functools.partial(module.apply, {'params': params}, train=False)
    items = _windows()
    packed = jax.jit(apply)(items, layout=layout)
    np.testing.assert_allclose(packed, apply(items), rtol=2e-5, atol=2e-6)
    states = functools.partial(apply, method='states')
    real = (items > 0)[..., None]
    np.testing.assert_allclose(
      states(items, layout=layout) * real, states(items) * real, atol=2e-5
    )

  @pytest.mark.parametrize(
    'pooling, block',
    [
      ('mean', {'positions': 'rotary', 'norm': 'rms_norm', 'mlp': 'swiglu'}),
      ('class_token', {'positions': 'relative', 'mlp': 'geglu'}),
    ],
  )
  def test_other_blocks_do_not_either(self, pooling, block):
    """Values and gradients."""
    module, params = _encoder(pooling, causal=False, **block)
    params = jax.tree.map(lambda x: x / 3, params)
    layout = _layout(4, reserved=int(pooling == 'class_token'))
    items = _windows()

    @functools.partial(jax.jit, static_argnums=1)
    def h_and_grads(params, is_packed):
      def total(params):
        h = module.apply(
          {'params': params}, items, False, layout if is_packed else None
        )
        return (h**3).sum(), h

      return jax.value_and_grad(total, has_aux=True)(params)

    ((_, packed), of_packed), ((_, padded), of_padded) = (
      h_and_grads(params, is_packed) for is_packed in (True, False)
    )
    np.testing.assert_allclose(packed, padded, rtol=5e-5, atol=5e-6)
    for a, b in zip(*map(jax.tree.leaves, (of_packed, of_padded)), strict=True):
      scale = np.abs(b).max() + 1e-3
      np.testing.assert_allclose(a / scale, b / scale, atol=1e-4)

  def test_versions_lie_side_by_side(self):
    module, params = _encoder('mean', causal=False)
    apply = functools.partial(module.apply, {'params': params}, train=False)
    items = _windows()
    views = jnp.stack([items, jnp.where(items > 9, items, 5 * (items > 0))], 1)
    views = views.reshape(-1, _LENGTH)
    np.testing.assert_allclose(
      apply(views, layout=_layout(4).repeat(2)),
      apply(views),
      rtol=2e-5,
      atol=2e-6,
    )

  def test_fewer_tokens_are_computed_on(self):
    rows = packing.Packed(_windows() > 0, _layout(1))
    # 30 events in rows of 7: five rows, where there were eight.
    used = rows.arrange(_windows()).any(1).sum()
    assert (int(_LENGTHS.sum()), int(used)) == (30, 5)


def _packed_config(**overrides):
  config = tiny.config(**overrides)
  config.packing.enabled = True
  config.packing.num_groups = 8
  config.encoder.dropout = 0.0
  return config


@pytest.mark.parametrize('objective', ['barlow_twins', 'dual_encoder'])
class TestPretraining:
  @pytest.mark.parametrize('parallelism', ['jit', 'pmap'])
  def test_loss_and_gradient_equal_the_unpacked_ones(
    self, objective, parallelism
  ):
    config = _packed_config(objective=objective, parallelism=parallelism)
    job = pretrain.make_job(config, tiny.dataset())
    batch = next(job.feed(0))
    tables = jax.tree.map(np.asarray, job.tables)
    plain = pretext.make_model(config, tiny.dataset().catalogue, None)
    rng = jax.random.fold_in(job.state.rng, 0)
    (loss, _), gradient = jax.jit(
      jax.value_and_grad(pretrain.make_loss_fn(plain, None), has_aux=True)
    )(job.state.params, job.state.batch_stats, {**batch, **tables}, rng)
    norm = np.sqrt(sum((x**2).sum() for x in jax.tree.leaves(gradient)))
    _, metrics = job.step(
      job.step.replicate(job.state),
      {**job.step.place_batch(batch), **job.step.replicate(job.tables)},
    )
    first = {name: np.ravel(value)[0] for name, value in metrics.items()}
    np.testing.assert_allclose(first['loss'], loss, rtol=2e-5)
    np.testing.assert_allclose(first['gradient_norm'], norm, rtol=2e-4)

  def test_trains_with_one_trace(self, objective, tmp_path):
    config = _packed_config(objective=objective, feed='tf.data')
    job = pretrain.make_job(config, tiny.dataset())
    state, _ = train.fit(job, str(tmp_path))
    assert job.step.num_traces == 1
    assert np.isfinite(jax.tree.leaves(state.params)[0]).all()


class TestPlan:
  def _plan(self, seed=0):
    rng = np.random.default_rng(0)
    visible = rng.integers(2, 30, 50)
    shape = packing.choose_shape(
      np.minimum(visible, 9), batch_size=16, max_length=9, max_cut=0.05
    )
    offsets = np.concatenate([[0], np.cumsum(visible)])
    items = np.arange(1, offsets[-1] + 1, dtype=np.int32)
    plan = plans.PretrainPlan(
      offsets,
      visible,
      max_length=9,
      batch_size=16,
      seed=seed,
      packing_shape=shape,
    )
    return plan, items, offsets

  def test_feeds_agree_to_the_bit(self):
    plan, items, _ = self._plan()
    events = {'items': jnp.asarray(items)}
    feeds = [
      pipeline.feed(name, plan, {'items': items}, max_length=9, batch_size=16)
      for name in ('tf.data', 'device')
    ]
    # Across the border of a block of steps, too.
    for _ in range(40):
      host, device = (
        pipeline.materialize({**next(feed), 'events': events}, 9)
        for feed in feeds
      )
      for key in ('items', 'row', 'offset', 'index'):
        np.testing.assert_array_equal(host[key], device[key], key)

  def test_is_a_pure_function_of_seed_and_step(self):
    used, _, _ = self._plan()
    for step in (70, 3, 33, 31, 32):
      fresh, _, _ = self._plan()
      for key, value in fresh(step).items():
        np.testing.assert_array_equal(value, used(step)[key], key)

  def test_windows_stay_within_their_user(self):
    plan, _, offsets = self._plan()
    for step in range(50):
      rows = plan(step)
      user = np.searchsorted(offsets, rows['start'], side='right') - 1
      assert (rows['start'] + rows['length'] <= offsets[user + 1]).all()
      assert (rows['length'] >= 2).all()


def test_groups_must_divide_over_the_devices():
  config = _packed_config()
  config.packing.num_groups = 4
  with pytest.raises(InputError, match=r'num_groups=4 .* the 8 devices'):
    pretrain.make_job(config, tiny.dataset())


def test_groups_are_one_a_device_by_default():
  config = _packed_config()
  config.packing.num_groups = 0
  job = pretrain.make_job(config, tiny.dataset())
  assert isinstance(job.step, train_step.CompiledStep)
  # 16 windows in 8 groups of 2: their rows are numbered 0 and 1.
  assert next(job.feed(0))['row'].max() <= 1


def test_rows_are_as_long_as_the_longest_window():
  config = _packed_config(max_length=9)
  dataset = tiny.dataset()
  visible = np.full(dataset.num_users, 4)
  shape = pretrain_data.choose_shape(config, visible)
  # Two windows of 4 in each of 8 groups: a row each, and no slot is empty.
  assert (shape.row_length, shape.rows_per_group) == (4, 2)
