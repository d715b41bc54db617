"""What every augmentation keeps, and how much it changes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bt4rec import augment
from bt4rec.errors import InputError

_MASK = 99
_LENGTH = 17
_OPS = {
  'mask': augment.mask,
  'segment_mask': augment.segment_mask,
  'permute': augment.permute,
  'crop': augment.crop,
  'slice': augment.random_slice,
}
_ALL = tuple((name, 0.4) for name in _OPS)
# Real tokens of each row; the others are padding.
_LENGTHS = (1, 2, 3, 10, 16, 17)

all_ops = pytest.mark.parametrize('name', _OPS)
all_lengths = pytest.mark.parametrize('length', _LENGTHS)


def _row(length: int) -> jax.Array:
  """`length` distinct items, in an order of no pattern, then padding."""
  items = np.random.default_rng(length).permutation(np.arange(1, 50))
  return jnp.asarray(np.pad(items[:length], (0, _LENGTH - length)), jnp.int32)


_NUM_DRAWS = 4_000


@functools.partial(jax.jit, static_argnames='name')
def _draws_of(name, row, ratio):
  keys = jax.random.split(jax.random.key(0), _NUM_DRAWS)
  return jax.vmap(lambda key: _OPS[name](key, row, ratio, _MASK))(keys)


def _draws(name: str, row, ratio: float) -> np.ndarray:
  """[_NUM_DRAWS, length], the row augmented under many keys."""
  return np.asarray(_draws_of(name, row, ratio))


@functools.partial(jax.jit, static_argnames='recipe')
def _augment(keys, row, recipe):
  view = functools.partial(augment.augment, recipe=recipe, mask_item=_MASK)
  return jax.vmap(lambda key: view(key, row))(keys)


_two_views = jax.jit(augment.two_views, static_argnums=(3, 4))


def _assert_mean(values: np.ndarray, expected: float) -> None:
  """The mean of independent draws, within five standard errors of it."""
  error = values.std() / np.sqrt(len(values))
  assert abs(values.mean() - expected) < 5 * error + 1e-9


class TestEachOperation:
  @all_ops
  @all_lengths
  @pytest.mark.parametrize('ratio', [0.3, 1.0])
  def test_padding_stays_at_the_end_and_no_item_is_invented(
    self, name, length, ratio
  ):
    row = _row(length)
    views = _draws(name, row, ratio)
    # Real tokens first, padding after them.
    assert (np.diff((views > 0).astype(int), axis=1) <= 0).all()
    assert not views[:, length:].any()
    # The row's items are distinct: each is there once at most, no other is.
    counts = [(views == item).sum(1) for item in np.asarray(row[:length])]
    assert np.max(counts) <= 1
    masked = (views == _MASK).sum(1)
    np.testing.assert_array_equal(
      np.sum(counts, axis=0) + masked, (views > 0).sum(1)
    )

  @all_ops
  @all_lengths
  def test_ratio_0_is_the_identity(self, name, length):
    row = _row(length)
    expected = np.tile(row, (_NUM_DRAWS, 1))
    np.testing.assert_array_equal(_draws(name, row, 0.0), expected)

  @all_ops
  def test_a_row_of_padding_stays_one(self, name):
    assert not _draws(name, _row(0), 0.5).any()

  @all_ops
  def test_same_key_same_row_and_another_key_another(self, name):
    row = _row(16)
    views = [
      np.asarray(_OPS[name](jax.random.key(seed), row, 0.5, _MASK))
      for seed in (3, 3, 4)
    ]
    np.testing.assert_array_equal(views[0], views[1])
    assert (views[0] != views[2]).any()

  @all_ops
  def test_jit_equals_no_jit(self, name):
    row = _row(10)
    for seed in range(5):
      key = jax.random.key(seed)
      compiled = jax.jit(_OPS[name], static_argnums=(2, 3))
      np.testing.assert_array_equal(
        compiled(key, row, 0.4, _MASK), _OPS[name](key, row, 0.4, _MASK)
      )

  def test_ratio_1_never_reaches_into_the_padding(self):
    # In float32, 65,536 + uniform rounds up to 65,537 once in 256 draws.
    length = 1 << 16
    row = jnp.arange(1, length + 3, dtype=jnp.int32).at[length:].set(0)

    def reaches(key):
      view = augment.segment_mask(key, row, 1.0, length + 2)
      return jnp.any(view[length:] > 0)

    keys = jax.random.split(jax.random.key(0), 2_000)
    assert not jax.lax.map(reaches, keys).any()


class TestRealisedRatio:
  """Of n tokens; the same in expectation for rows too short to divide."""

  @all_lengths
  @pytest.mark.parametrize('ratio', [0.15, 0.6])
  def test_mask_and_segment_mask(self, length, ratio):
    for name in ('mask', 'segment_mask'):
      views = _draws(name, _row(length), ratio)
      masked = (views == _MASK).sum(1) / length
      _assert_mean(masked, ratio)

  def test_each_token_is_masked_by_itself(self):
    views = _draws('mask', _row(16), 0.3)
    masked = views[:, :16] == _MASK
    variance = masked.sum(1).var()
    # Binomial; the bound is about five standard errors of a variance.
    assert abs(variance / (16 * 0.3 * 0.7) - 1) < 5 * np.sqrt(2 / _NUM_DRAWS)
    for position in range(16):
      _assert_mean(masked[:, position].astype(float), 0.3)

  def test_segment_mask_is_one_span_anywhere(self):
    views = _draws('segment_mask', _row(16), 0.25)
    masked = views == _MASK
    assert set(masked.sum(1)) == {4}
    assert (np.abs(np.diff(masked.astype(int), axis=1)).sum(1) <= 2).all()
    starts = np.bincount(masked.argmax(1), minlength=13)
    assert len(starts) == 13
    # Chi-squared with 12 degrees of freedom: above 40 once in 10,000.
    assert ((starts - _NUM_DRAWS / 13) ** 2 / (_NUM_DRAWS / 13)).sum() < 40

  @all_lengths
  @pytest.mark.parametrize('ratio', [0.15, 0.6])
  def test_crop_keeps_the_rest_in_one_piece(self, length, ratio):
    row = np.asarray(_row(length))
    views = _draws('crop', jnp.asarray(row), ratio)
    _assert_mean((views > 0).sum(1) / length, 1 - ratio)
    position = {item: place for place, item in enumerate(row[:length].tolist())}
    for view in views[:200]:
      places = [position[item] for item in view[view > 0].tolist()]
      assert places == list(range(places[0], places[-1] + 1)) if places else 1

  def test_slice_removes_up_to_the_ratio_uniformly(self):
    removed = 16 - (_draws('slice', _row(16), 0.5) > 0).sum(1)
    counts = np.bincount(removed, minlength=9)
    assert len(counts) == 9
    # Chi-squared with 8 degrees of freedom: above 32 once in 10,000.
    assert ((counts - _NUM_DRAWS / 9) ** 2 / (_NUM_DRAWS / 9)).sum() < 32

  def test_permute_shuffles_one_span_of_the_ratio(self):
    row = np.asarray(_row(16))
    views = _draws('permute', jnp.asarray(row), 0.25)
    assert (np.sort(views, 1) == np.sort(row)).all()
    moved = views != row
    first, last = moved.argmax(1), _LENGTH - moved[:, ::-1].argmax(1)
    assert (last - first <= 4)[moved.any(1)].all()
    # A random permutation of four has one fixed point in expectation.
    _assert_mean(moved.sum(1).astype(float), 3.0)
    orders = {tuple(v) for v in views[(first == 5) & (last == 9)].tolist()}
    # Of 24 orders of a span of four, 14 move both its ends.
    assert len(orders) == 14

  def test_permute_meets_the_ratio_of_a_short_row(self):
    # Two of three with probability .8, else one: half of the twos are swapped.
    views = _draws('permute', _row(3), 0.6)
    _assert_mean((views != np.asarray(_row(3))).any(1).astype(float), 0.4)


class TestAugment:
  @pytest.mark.parametrize(
    'recipe',
    [
      (('mask', 1.0),),
      (('mask', 0.8),),
      (('segment_mask', 0.8),),
      (('crop', 0.8),),
      (('slice', 1.0),),
      tuple((name, 0.8) for name in _OPS),
    ],
  )
  def test_at_least_one_real_item_is_left(self, recipe):
    keys = jax.random.split(jax.random.key(1), 300)
    for length in _LENGTHS:
      views = _augment(keys, _row(length), recipe)
      assert ((views > 0) & (views != _MASK)).any(1).all(), length

  def test_order_of_the_recipe_matters(self):
    crop_first = (('crop', 0.5), ('segment_mask', 0.5))
    keys = jax.random.split(jax.random.key(0), 300)

    def num_masked(recipe):
      views = _augment(keys, _row(16), recipe)
      return set((views == _MASK).sum(1).tolist())

    # Of 8 tokens left of 16, 4 are masked. The other way round a crop shows
    # any part of 8 masked ones; one that shows no other is not taken.
    assert num_masked(crop_first) == {4}
    assert num_masked(crop_first[::-1]) == set(range(9))

  def test_steps_of_a_recipe_draw_independently(self):
    # Two masks of a half each cover 3/4 of the tokens, not a half.
    keys = jax.random.split(jax.random.key(0), 2_000)
    views = _augment(keys, _row(16), (('mask', 0.5), ('mask', 0.5)))
    _assert_mean(np.asarray((views == _MASK).sum(1)) / 16, 0.75)

  def test_a_step_turned_off_does_not_change_the_others(self):
    key, row = jax.random.key(5), _row(16)
    np.testing.assert_array_equal(
      augment.augment(key, row, (('mask', 0.0), ('crop', 0.5)), _MASK),
      augment.augment(key, row, (('permute', 0.0), ('crop', 0.5)), _MASK),
    )


class TestTwoViews:
  _INDEX = np.arange(6, dtype=np.int32) + 4

  def _views(self, index=_INDEX, lengths=_LENGTHS, recipe=_ALL, rng=0):
    rows = jnp.stack([_row(length) for length in lengths])
    views = _two_views(
      jax.random.key(rng), rows, jnp.asarray(index), recipe, _MASK
    )
    return np.asarray(views)

  def test_shape_and_determinism(self):
    views = self._views()
    assert views.shape == (6, 2, _LENGTH)
    assert views.dtype == np.int32
    np.testing.assert_array_equal(views, self._views())
    assert (views != self._views(rng=1)).any()

  def test_do_not_depend_on_where_the_rows_lie(self):
    order = np.array([4, 0, 5, 2, 1, 3])
    lengths = np.array(_LENGTHS)[order]
    np.testing.assert_array_equal(
      self._views(index=self._INDEX[order], lengths=lengths),
      self._views()[order],
    )

  def test_a_part_of_the_batch_has_the_views_of_the_whole(self):
    part = np.array([3, 4] * 3)
    views = self._views(self._INDEX[part], np.array(_LENGTHS)[part])
    np.testing.assert_array_equal(views, self._views()[part])

  def test_jit_equals_no_jit(self):
    rows = jnp.stack([_row(length) for length in _LENGTHS])
    recipe = (('crop', 0.3), ('mask', 0.5))
    plain = augment.two_views(
      jax.random.key(0), rows, jnp.asarray(self._INDEX), recipe, _MASK
    )
    np.testing.assert_array_equal(plain, self._views(recipe=recipe))

  def test_two_views_and_two_rows_are_independent(self):
    # 16 tokens of 800 equal rows, each masked with probability 1/2.
    views = self._views(
      index=np.arange(800), lengths=(16,) * 800, recipe=(('mask', 0.5),)
    )
    masked = (views == _MASK)[:, :, :16]
    a, b = masked[:, 0], masked[:, 1]
    for other in (b, np.roll(a, 1, axis=0), np.roll(b, 1, axis=0)):
      # Agreement of independent fair coins.
      agree = (a == other).mean()
      assert abs(agree - 0.5) < 5 * 0.5 / np.sqrt(a.size)
    _assert_mean(a.mean(1), 0.5)
    _assert_mean(b.mean(1), 0.5)

  def test_a_view_by_one_step_takes_each_equally_often(self):
    rows = jnp.tile(_row(16), (800, 1))
    recipe = (('crop', 0.5), ('mask', 0.5))
    views = jax.jit(augment.two_views, static_argnums=(3, 4, 5))(
      jax.random.key(0), rows, jnp.arange(800), recipe, _MASK, True
    )
    cropped = np.asarray((views > 0).sum(-1) == 8)
    masked = np.asarray((views == _MASK).any(-1))
    assert (cropped != masked).all()
    _assert_mean(cropped.mean(1), 0.5)
    # The two views of a row draw their own.
    _assert_mean(cropped[:, 0] == cropped[:, 1], 0.5)


class TestMakeRecipe:
  def test_keeps_the_configured_order_and_ratios(self):
    ratios = {'mask': 0.2, 'crop': 0, 'permute': 1}
    assert augment.make_recipe(('permute', 'mask', 'crop'), ratios) == (
      ('permute', 1.0),
      ('mask', 0.2),
      ('crop', 0.0),
    )

  def test_unknown_name_lists_the_valid_ones(self):
    with pytest.raises(InputError, match=r"'swap'.*mask, segment_mask, perm"):
      augment.make_recipe(('swap',), {'swap': 0.1})

  @pytest.mark.parametrize('ratio', [-0.1, 1.5])
  def test_a_ratio_that_is_none_is_refused(self, ratio):
    with pytest.raises(InputError, match=rf'ratios\.mask={ratio} '):
      augment.make_recipe(('mask',), {'mask': ratio})
