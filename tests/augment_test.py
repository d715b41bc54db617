"""What every augmentation keeps, and how much it changes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bt4rec import augment
from tests import rows

# A new one meets the claims of TestEachOperation too.
_OPS = augment.AUGMENTATIONS
_INVENTING = ('substitute', 'insert')
all_ops = pytest.mark.parametrize('name', _OPS)
all_lengths = pytest.mark.parametrize('length', rows.LENGTHS)


_NUM_DRAWS = 4_000


def _apply(name, key, row, ratio, vocabulary=rows.VOCABULARY):
  """An operation on a row of items alone."""
  return _OPS[name](key, {'items': row}, ratio, vocabulary)['items']


@functools.partial(jax.jit, static_argnames='name')
def _draws_of(name, row, ratio):
  keys = jax.random.split(jax.random.key(0), _NUM_DRAWS)
  return jax.vmap(lambda key: _apply(name, key, row, ratio))(keys)


def _draws(name: str, row, ratio: float) -> np.ndarray:
  """[_NUM_DRAWS, length], the row augmented under many keys."""
  return np.asarray(_draws_of(name, row, ratio))


class TestEachOperation:
  @all_ops
  @all_lengths
  @pytest.mark.parametrize('ratio', [0.3, 1.0])
  def test_padding_stays_at_the_end_and_no_item_is_invented(
    self, name, length, ratio
  ):
    row = rows.row(length)
    views = _draws(name, row, ratio)
    # Real tokens first, padding after them.
    assert (np.diff((views > 0).astype(int), axis=1) <= 0).all()
    assert not views[:, length:].any()
    if name in _INVENTING:
      return  # See TestCorrelated.
    # The row's items are distinct: each is there once at most, no other is.
    counts = [(views == item).sum(1) for item in np.asarray(row[:length])]
    assert np.max(counts) <= 1
    masked = (views == rows.MASK).sum(1)
    np.testing.assert_array_equal(
      np.sum(counts, axis=0) + masked, (views > 0).sum(1)
    )

  @all_ops
  @all_lengths
  def test_ratio_0_is_the_identity(self, name, length):
    row = rows.row(length)
    expected = np.tile(row, (_NUM_DRAWS, 1))
    np.testing.assert_array_equal(_draws(name, row, 0.0), expected)

  @all_ops
  def test_a_row_of_padding_stays_one(self, name):
    assert not _draws(name, rows.row(0), 0.5).any()

  @all_ops
  def test_same_key_same_row_and_another_key_another(self, name):
    row = rows.row(16)
    views = [
      np.asarray(_apply(name, jax.random.key(seed), row, 0.5))
      for seed in (3, 3, 4)
    ]
    np.testing.assert_array_equal(views[0], views[1])
    assert (views[0] != views[2]).any()

  @all_ops
  def test_jit_equals_no_jit(self, name):
    row = rows.row(10)
    for seed in range(5):
      key = jax.random.key(seed)
      compiled = jax.jit(_apply, static_argnums=(0, 3))
      np.testing.assert_array_equal(
        compiled(name, key, row, 0.4), _apply(name, key, row, 0.4)
      )

  def test_ratio_1_never_reaches_into_the_padding(self):
    # In float32, 65,536 + uniform rounds up to 65,537 once in 256 draws.
    length = 1 << 16
    row = jnp.arange(1, length + 3, dtype=jnp.int32).at[length:].set(0)

    def reaches(key):
      vocabulary = augment.Vocabulary(length + 2)
      view = _apply('segment_mask', key, row, 1.0, vocabulary)
      return jnp.any(view[length:] > 0)

    keys = jax.random.split(jax.random.key(0), 2_000)
    assert not jax.lax.map(reaches, keys).any()


class TestRealisedRatio:
  """Of n tokens; the same in expectation for rows too short to divide."""

  @all_lengths
  @pytest.mark.parametrize('ratio', [0.15, 0.6])
  def test_mask_and_segment_mask(self, length, ratio):
    for name in ('mask', 'segment_mask'):
      views = _draws(name, rows.row(length), ratio)
      masked = (views == rows.MASK).sum(1) / length
      rows.assert_mean(masked, ratio)

  def test_each_token_is_masked_by_itself(self):
    views = _draws('mask', rows.row(16), 0.3)
    masked = views[:, :16] == rows.MASK
    variance = masked.sum(1).var()
    # Binomial; the bound is about five standard errors of a variance.
    assert abs(variance / (16 * 0.3 * 0.7) - 1) < 5 * np.sqrt(2 / _NUM_DRAWS)
    for position in range(16):
      rows.assert_mean(masked[:, position].astype(float), 0.3)

  def test_segment_mask_is_one_span_anywhere(self):
    views = _draws('segment_mask', rows.row(16), 0.25)
    masked = views == rows.MASK
    assert set(masked.sum(1)) == {4}
    assert (np.abs(np.diff(masked.astype(int), axis=1)).sum(1) <= 2).all()
    starts = np.bincount(masked.argmax(1), minlength=13)
    assert len(starts) == 13
    # Chi-squared with 12 degrees of freedom: above 40 once in 10,000.
    assert ((starts - _NUM_DRAWS / 13) ** 2 / (_NUM_DRAWS / 13)).sum() < 40

  @all_lengths
  @pytest.mark.parametrize('ratio', [0.15, 0.6])
  def test_crop_keeps_the_rest_in_one_piece(self, length, ratio):
    row = np.asarray(rows.row(length))
    views = _draws('crop', jnp.asarray(row), ratio)
    rows.assert_mean((views > 0).sum(1) / length, 1 - ratio)
    position = {item: place for place, item in enumerate(row[:length].tolist())}
    for view in views[:200]:
      places = [position[item] for item in view[view > 0].tolist()]
      assert places == list(range(places[0], places[-1] + 1)) if places else 1

  def test_slice_removes_up_to_the_ratio_uniformly(self):
    removed = 16 - (_draws('slice', rows.row(16), 0.5) > 0).sum(1)
    counts = np.bincount(removed, minlength=9)
    assert len(counts) == 9
    # Chi-squared with 8 degrees of freedom: above 32 once in 10,000.
    assert ((counts - _NUM_DRAWS / 9) ** 2 / (_NUM_DRAWS / 9)).sum() < 32

  def test_permute_shuffles_one_span_of_the_ratio(self):
    row = np.asarray(rows.row(16))
    views = _draws('permute', jnp.asarray(row), 0.25)
    assert (np.sort(views, 1) == np.sort(row)).all()
    moved = views != row
    first, last = moved.argmax(1), rows.LENGTH - moved[:, ::-1].argmax(1)
    assert (last - first <= 4)[moved.any(1)].all()
    # A random permutation of four has one fixed point in expectation.
    rows.assert_mean(moved.sum(1).astype(float), 3.0)
    orders = {tuple(v) for v in views[(first == 5) & (last == 9)].tolist()}
    # Of 24 orders of a span of four, 14 move both its ends.
    assert len(orders) == 14

  def test_permute_meets_the_ratio_of_a_short_row(self):
    # Two of three with probability .8, else one: half of the twos are swapped.
    views = _draws('permute', rows.row(3), 0.6)
    rows.assert_mean(
      (views != np.asarray(rows.row(3))).any(1).astype(float), 0.4
    )


class TestCorrelated:
  """What `substitute` and `insert` put where."""

  @all_lengths
  @pytest.mark.parametrize('ratio', [0.15, 0.6, 1.0])
  def test_substitute_replaces_a_share_by_what_is_correlated(
    self, length, ratio
  ):
    row = np.asarray(rows.row(length))
    views = _draws('substitute', jnp.asarray(row), ratio)
    choices = np.stack([row, *rows.CORRELATED[row].T[:2]])  # [3, length]
    which = (views[:, None] == choices[None])[..., :length]
    assert (which.sum(1) == 1).all()
    replaced = ~which[:, 0]
    rows.assert_mean(replaced.mean(1), ratio)
    # Rounded up or down, not one coin for each item.
    assert np.ptp(replaced.sum(1)) <= 1
    # Each position, and each of the two, as often as any other.
    rows.assert_mean(replaced[:, -1].astype(float), ratio)
    rows.assert_mean(which[:, 1, 0][replaced[:, 0]].astype(float), 0.5)

  @all_lengths
  @pytest.mark.parametrize('ratio', [0.15, 0.6, 1.0])
  def test_insert_puts_what_is_correlated_before_and_drops_the_oldest(
    self, length, ratio
  ):
    row = np.asarray(rows.row(length))[:length]
    views = _draws('insert', rows.row(length), ratio)
    # Never longer than the window, nor shorter.
    assert ((views > 0).sum(1) == length).all()
    for view in views[:300, :length]:
      own = view[view < 100]
      np.testing.assert_array_equal(own, row[length - len(own) :])
      for place in np.flatnonzero(view >= 100):
        item = view[place + 1]
        assert view[place] in (100 + item, 150 + item)
    if length < 3:
      return
    # k inserted items drop k tokens at least, and half of the view at most
    # is inserted.
    num_inserted = (views >= 100).sum(1)
    assert num_inserted.max() <= min(np.ceil(ratio * length), length / 2)
    assert num_inserted.max() >= 1

  def test_insert_at_every_place(self):
    row = np.asarray(rows.row(16))[:16]
    views = _draws('insert', rows.row(16), 1.0)[:, :16]
    # The newest eight, each after one of its two.
    np.testing.assert_array_equal(
      views[:, 1::2], np.tile(row[8:], (len(views), 1))
    )
    assert np.isin(views[:, ::2] - row[None, 8:], (100, 150)).all()

  @pytest.mark.parametrize('name', _INVENTING)
  def test_nothing_stands_for_masks_and_items_that_occur_with_none(self, name):
    row = jnp.asarray([rows.MASK, 60, 70, rows.MASK, 0, 0], jnp.int32)
    views = np.asarray(_draws_of(name, row, 1.0))
    np.testing.assert_array_equal(views, np.tile(row, (len(views), 1)))

  @pytest.mark.parametrize('name', _INVENTING)
  def test_needs_the_table(self, name):
    with pytest.raises(ValueError, match='correlated'):
      _apply(
        name, jax.random.key(0), rows.row(3), 0.5, augment.Vocabulary(rows.MASK)
      )
