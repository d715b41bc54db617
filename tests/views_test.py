"""What two views start from, and recipes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bt4rec import augment, views
from bt4rec.errors import InputError
from tests import rows

_ALL = views.Recipe(tuple((name, 0.4) for name in augment.AUGMENTATIONS))


@functools.partial(jax.jit, static_argnames='recipe')
def _augment(keys, row, recipe):
  view = functools.partial(
    views.apply_steps, steps=recipe, vocabulary=rows.VOCABULARY
  )
  return jax.vmap(lambda key: view(key, {'items': row})['items'])(keys)


def _plain_two_views(rng, items, index, recipe, vocabulary, other_items=None):
  """The views of rows of items alone."""
  others = None if other_items is None else {'items': other_items}
  return views.two_views(
    rng, {'items': items}, index, recipe, vocabulary, others
  )['items']


_two_views = jax.jit(_plain_two_views, static_argnums=3)


class TestApplySteps:
  @pytest.mark.parametrize(
    'recipe',
    [
      (('mask', 1.0),),
      (('mask', 0.8),),
      (('segment_mask', 0.8),),
      (('crop', 0.8),),
      (('slice', 1.0),),
      (('insert', 1.0), ('mask', 0.9)),
      tuple((name, 0.8) for name in augment.AUGMENTATIONS),
    ],
  )
  def test_at_least_one_real_item_is_left(self, recipe):
    keys = jax.random.split(jax.random.key(1), 300)
    for length in rows.LENGTHS:
      made = _augment(keys, rows.row(length), recipe)
      assert ((made > 0) & (made != rows.MASK)).any(1).all(), length

  def test_order_of_the_recipe_matters(self):
    crop_first = (('crop', 0.5), ('segment_mask', 0.5))
    keys = jax.random.split(jax.random.key(0), 300)

    def num_masked(recipe):
      made = _augment(keys, rows.row(16), recipe)
      return set((made == rows.MASK).sum(1).tolist())

    # Of 8 tokens left of 16, 4 are masked. The other way round a crop shows
    # any part of 8 masked ones; one that shows no other is not taken.
    assert num_masked(crop_first) == {4}
    assert num_masked(crop_first[::-1]) == set(range(9))

  def test_steps_of_a_recipe_draw_independently(self):
    # Two masks of a half each cover 3/4 of the tokens, not a half.
    keys = jax.random.split(jax.random.key(0), 2_000)
    made = _augment(keys, rows.row(16), (('mask', 0.5), ('mask', 0.5)))
    rows.assert_mean(np.asarray((made == rows.MASK).sum(1)) / 16, 0.75)

  def test_a_step_turned_off_does_not_change_the_others(self):
    key, row = jax.random.key(5), {'items': rows.row(16)}
    np.testing.assert_array_equal(
      views.apply_steps(
        key, row, (('mask', 0.0), ('crop', 0.5)), rows.VOCABULARY
      )['items'],
      views.apply_steps(
        key, row, (('permute', 0.0), ('crop', 0.5)), rows.VOCABULARY
      )['items'],
    )


class TestTwoViews:
  _INDEX = np.arange(6, dtype=np.int32) + 4

  def _views(self, index=_INDEX, lengths=rows.LENGTHS, recipe=_ALL, rng=0):
    windows = jnp.stack([rows.row(length) for length in lengths])
    made = _two_views(
      jax.random.key(rng), windows, jnp.asarray(index), recipe, rows.VOCABULARY
    )
    return np.asarray(made)

  def test_shape_and_determinism(self):
    made = self._views()
    assert made.shape == (6, 2, rows.LENGTH)
    assert made.dtype == np.int32
    np.testing.assert_array_equal(made, self._views())
    assert (made != self._views(rng=1)).any()

  def test_do_not_depend_on_where_the_rows_lie(self):
    order = np.array([4, 0, 5, 2, 1, 3])
    lengths = np.array(rows.LENGTHS)[order]
    np.testing.assert_array_equal(
      self._views(index=self._INDEX[order], lengths=lengths),
      self._views()[order],
    )

  def test_a_part_of_the_batch_has_the_views_of_the_whole(self):
    part = np.array([3, 4] * 3)
    made = self._views(self._INDEX[part], np.array(rows.LENGTHS)[part])
    np.testing.assert_array_equal(made, self._views()[part])

  def test_jit_equals_no_jit(self):
    windows = jnp.stack([rows.row(length) for length in rows.LENGTHS])
    recipe = views.Recipe((('crop', 0.3), ('mask', 0.5)))
    plain = _plain_two_views(
      jax.random.key(0),
      windows,
      jnp.asarray(self._INDEX),
      recipe,
      rows.VOCABULARY,
    )
    np.testing.assert_array_equal(plain, self._views(recipe=recipe))

  def test_two_views_and_two_rows_are_independent(self):
    # 16 tokens of 800 equal rows, each masked with probability 1/2.
    made = self._views(
      index=np.arange(800),
      lengths=(16,) * 800,
      recipe=views.Recipe((('mask', 0.5),)),
    )
    masked = (made == rows.MASK)[:, :, :16]
    a, b = masked[:, 0], masked[:, 1]
    for other in (b, np.roll(a, 1, axis=0), np.roll(b, 1, axis=0)):
      # Agreement of independent fair coins.
      agree = (a == other).mean()
      assert abs(agree - 0.5) < 5 * 0.5 / np.sqrt(a.size)
    rows.assert_mean(a.mean(1), 0.5)
    rows.assert_mean(b.mean(1), 0.5)


class TestDrawOne:
  def test_a_view_by_one_step_takes_each_equally_often(self):
    windows = jnp.tile(rows.row(16), (800, 1))
    made = _two_views(
      jax.random.key(0),
      windows,
      jnp.arange(800),
      views.Recipe((('crop', 0.5), ('mask', 0.5)), draw_one=True),
      rows.VOCABULARY,
    )
    cropped = np.asarray((made > 0).sum(-1) == 8)
    masked = np.asarray((made == rows.MASK).any(-1))
    assert (cropped != masked).all()
    rows.assert_mean(cropped.mean(1), 0.5)
    # The two views of a row draw their own.
    rows.assert_mean(cropped[:, 0] == cropped[:, 1], 0.5)

  def test_one_of_none_is_refused(self):
    with pytest.raises(InputError, match=r'draw_one=True .* empty'):
      views.make_recipe((), {}, draw_one=True)


class TestSplits:
  @staticmethod
  def _draws(split, length, draws=400):
    keys = jax.random.split(jax.random.key(0), draws)
    row = {'items': rows.row(length)}
    made = jax.vmap(lambda key: views._SPLITS[split](key, row)['items'])
    return np.asarray(jax.jit(made)(keys))

  @pytest.mark.parametrize('split', ['disjoint_halves', 'past_future'])
  @pytest.mark.parametrize('length', rows.LENGTHS[1:])
  def test_halves_share_the_row_and_keep_its_order(self, split, length):
    row = np.asarray(rows.row(length))
    place = {item: number for number, item in enumerate(row[:length].tolist())}
    sizes = set()
    for halves in self._draws(split, length):
      items = [half[half > 0].tolist() for half in halves]
      for half, kept in zip(halves, items, strict=True):
        assert kept
        # Padding is at the end, and the order is the row's.
        assert half[: len(kept)].tolist() == kept
        assert [place[item] for item in kept] == sorted(
          place[item] for item in kept
        )
      assert sorted(items[0] + items[1]) == sorted(place)
      if split == 'past_future':
        assert items[0] + items[1] == row[:length].tolist()
      sizes.add(len(items[0]))
    assert sizes == {length // 2, -(-length // 2)}

  def test_every_pair_is_dealt_apart_and_together(self):
    halves = self._draws('disjoint_halves', 16)
    row = np.asarray(rows.row(16))
    with_first = (halves[:, 0] == row[0]).any(1)
    with_last = (halves[:, 0] == row[15]).any(1)
    rows.assert_mean(with_first.astype(float), 0.5)
    # Seven of the fifteen others are in an item's half.
    rows.assert_mean((with_first == with_last).astype(float), 7 / 15)

  @pytest.mark.parametrize('split', ['disjoint_halves', 'past_future'])
  @pytest.mark.parametrize('length', [0, 1])
  def test_a_row_too_short_to_split_is_both(self, split, length):
    made = self._draws(split, length, 20)
    np.testing.assert_array_equal(
      made, np.broadcast_to(rows.row(length), made.shape)
    )

  def test_a_recipe_without_steps_is_the_split(self):
    windows = rows.row(10)[None]
    made = _two_views(
      jax.random.key(0),
      windows,
      jnp.arange(1),
      views.Recipe((), 'past_future'),
      rows.VOCABULARY,
    )
    assert not set(np.ravel(made[0, 0])) & set(np.ravel(made[0, 1])) - {0}

  def test_two_windows_are_augmented_each(self):
    windows, others = rows.row(10)[None], rows.row(16)[None]
    made = _plain_two_views(
      jax.random.key(0),
      windows,
      jnp.arange(1),
      views.Recipe((), 'two_windows'),
      rows.VOCABULARY,
      others,
    )
    np.testing.assert_array_equal(made[0], np.stack([windows[0], others[0]]))
    for split, other in (('two_windows', None), ('none', others)):
      with pytest.raises(ValueError, match='second window'):
        _plain_two_views(
          jax.random.key(0),
          windows,
          jnp.arange(1),
          views.Recipe((), split),
          rows.VOCABULARY,
          other,
        )

  def test_the_identity_leaves_both_views_the_row(self):
    windows = jnp.stack([rows.row(length) for length in rows.LENGTHS])
    index = jnp.arange(len(windows))
    for recipe in (views.Recipe(()), views.Recipe((('mask', 0.0),))):
      assert recipe.is_identity
      made = _two_views(
        jax.random.key(0), windows, index, recipe, rows.VOCABULARY
      )
      np.testing.assert_array_equal(made, np.stack([windows] * 2, axis=1))
    assert not views.Recipe((), 'past_future').is_identity
    assert not views.Recipe((('mask', 0.1),)).is_identity


class TestCodes:
  """What is known of an event stays with its item."""

  @pytest.mark.parametrize(
    'recipe',
    [
      *(views.Recipe(((name, 0.5),)) for name in sorted(augment.AUGMENTATIONS)),
      views.Recipe((('insert', 0.5), ('permute', 0.5)), 'disjoint_halves'),
      views.Recipe((('crop', 0.3), ('mask', 0.9)), 'past_future'),
      views.Recipe((('mask', 0.5), ('substitute', 0.5)), draw_one=True),
      views.Recipe((('mask', 0.3), ('permute', 1.0)), 'two_windows'),
    ],
  )
  def test_go_along(self, recipe):
    lengths = np.repeat(rows.LENGTHS, 3)
    windows, others = (
      jnp.stack([rows.row(length) for length in order])
      for order in (lengths, lengths[::-1])
    )

    def with_codes(items):
      return {'items': items, 'time_gap': jnp.asarray(rows.codes(items))}

    others = with_codes(others) if recipe.split == 'two_windows' else None
    made = jax.jit(views.two_views, static_argnums=3)(
      jax.random.key(0),
      with_codes(windows),
      jnp.arange(len(windows)),
      recipe,
      rows.VOCABULARY,
      others,
    )
    rows.assert_codes_go_along(made)
    alone = _two_views(
      jax.random.key(0),
      windows,
      jnp.arange(len(windows)),
      recipe,
      rows.VOCABULARY,
      others and others['items'],
    )
    # They change no draw.
    np.testing.assert_array_equal(made['items'], alone)


class TestMakeRecipe:
  def test_keeps_the_configured_order_and_ratios(self):
    ratios = {'mask': 0.2, 'crop': 0, 'permute': 1}
    recipe = views.make_recipe(('permute', 'mask', 'crop'), ratios)
    assert recipe.steps == (('permute', 1.0), ('mask', 0.2), ('crop', 0.0))
    assert recipe.split == 'none'
    assert not recipe.needs_correlated

  def test_tells_what_it_needs(self):
    for name in ('substitute', 'insert'):
      assert views.make_recipe((name,), {name: 0.1}).needs_correlated

  def test_unknown_split_lists_the_valid_ones(self):
    with pytest.raises(InputError, match=r"'half'.*disjoint_halves, past_fut"):
      views.make_recipe((), {}, 'half')

  def test_unknown_name_lists_the_valid_ones(self):
    with pytest.raises(InputError, match=r"'swap'.*mask, segment_mask, perm"):
      views.make_recipe(('swap',), {'swap': 0.1})

  @pytest.mark.parametrize('ratio', [-0.1, 1.5])
  def test_a_ratio_that_is_none_is_refused(self, ratio):
    with pytest.raises(InputError, match=rf'ratios\.mask={ratio} '):
      views.make_recipe(('mask',), {'mask': ratio})
