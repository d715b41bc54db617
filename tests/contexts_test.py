"""Tests of the contexts that are cut out of windows."""

import jax
import numpy as np
import pytest

from bt4rec import encoders, packing, pretext
from bt4rec.errors import InputError
from bt4rec.objectives import contexts
from configs import base
from tests import tiny


class TestDrawCuts:
  # Windows of 2, 4, 7 and 5 items.
  _ITEMS = np.array(
    [
      [8, 3, 0, 0, 0, 0, 0],
      [5, 9, 2, 7, 0, 0, 0],
      [1, 2, 3, 4, 5, 6, 7],
      [6, 4, 8, 1, 2, 0, 0],
    ],
    np.int32,
  )
  _LENGTHS = (2, 4, 7, 5)
  _INDEX = np.arange(4, dtype=np.int32)

  def _cuts(self, min_context, draws=200):
    """[draws, 4] sizes of the contexts."""
    split = jax.jit(
      jax.vmap(
        lambda key: contexts.draw_cuts(
          key, self._ITEMS, self._INDEX, min_context
        )
      )
    )
    return np.asarray(split(jax.random.split(jax.random.key(0), draws)))[..., 0]

  def test_every_context_occurs_and_none_is_empty(self):
    cuts = self._cuts(0.0)
    for row, length in enumerate(self._LENGTHS):
      assert set(cuts[:, row]) == set(range(1, length))

  def test_context_is_not_smaller_than_the_share(self):
    cuts = self._cuts(0.5)
    # Halves of the longest contexts 1, 3, 6 and 4, rounded up.
    for row, (least, most) in enumerate([(1, 1), (2, 3), (3, 6), (2, 4)]):
      assert set(cuts[:, row]) == set(range(least, most + 1))

  def test_share_of_one_predicts_the_last_item(self):
    assert set(map(tuple, self._cuts(1.0))) == {(1, 3, 6, 4)}

  def test_cut_depends_on_the_number_of_the_row_not_on_its_place(self):
    rng = jax.random.key(3)
    cuts = contexts.draw_cuts(rng, self._ITEMS, self._INDEX, 0.0, 3)
    order = np.array([2, 0, 3, 1])
    moved = contexts.draw_cuts(
      rng, self._ITEMS[order], self._INDEX[order], 0.0, 3
    )
    np.testing.assert_array_equal(moved, cuts[order])

  def test_several_of_a_window_are_drawn_each_for_itself(self):
    draw = jax.vmap(
      lambda key: contexts.draw_cuts(key, self._ITEMS, self._INDEX, 0.0, 2)
    )
    cuts = np.asarray(draw(jax.random.split(jax.random.key(0), 400)))
    # Of the third row, all 36 pairs.
    assert len(set(map(tuple, cuts[:, 2]))) == 36


def _encoder(**settings):
  return encoders.make_encoder(
    'transformer',
    vocabulary_size=11,
    max_length=7,
    dtype=np.float32,
    dim=8,
    num_layers=2,
    num_heads=2,
    mlp_ratio=2,
    dropout=0.0,
    **{'causal': True, 'pooling': 'last', 'positions': 'rotary', **settings},
  )


_BATCH = {
  'items': TestDrawCuts._ITEMS,
  'index': TestDrawCuts._INDEX,
  'layout': None,
}


def _embed(encoder, variables, batch=_BATCH, **settings):
  return encoder.apply(
    variables,
    method=lambda bound: contexts.embed_contexts(
      bound, batch, jax.random.key(5), False, min_context=0.0, **settings
    ),
  )


class TestEmbedContexts:
  @pytest.mark.parametrize('pooling', ['last', 'mean'])
  @pytest.mark.parametrize('is_packed', [False, True])
  def test_each_is_what_the_encoder_makes_of_it_alone(self, pooling, is_packed):
    encoder = _encoder(pooling=pooling)
    items = TestDrawCuts._ITEMS
    variables = encoder.init(jax.random.key(0), items, False)
    batch = dict(_BATCH)
    if is_packed:
      # Windows of 2, 4, 7 and 5 items in three rows of seven.
      batch['layout'] = packing.Layout(
        np.array([0, 0, 1, 2]),
        np.array([0, 2, 0, 0]),
        packing.Shape(7, 3, 4),
      )
    h, target = _embed(encoder, variables, batch, count=3)
    cuts = contexts.draw_cuts(
      jax.random.key(5), items, TestDrawCuts._INDEX, 0.0, 3
    )
    assert h.shape == (12, 8)
    for number, (row, place) in enumerate(np.ndindex(4, 3)):
      cut = int(cuts[row, place])
      context = np.zeros((1, 7), np.int32)
      context[0, :cut] = items[row, :cut]
      alone = encoder.apply(variables, context, False)
      np.testing.assert_allclose(h[number], alone[0], rtol=1e-4, atol=1e-5)
      assert target[number, 0] == items[row, cut] > 0

  def test_one_goes_through_any_encoder(self):
    encoder = _encoder(causal=False, positions='learned')
    items = TestDrawCuts._ITEMS
    variables = encoder.init(jax.random.key(0), items, False)
    h, target = _embed(encoder, variables)
    cuts = np.asarray(
      contexts.draw_cuts(jax.random.key(5), items, TestDrawCuts._INDEX, 0.0)
    )[:, 0]
    context = np.where(np.arange(7) < cuts[:, None], items, 0)
    np.testing.assert_array_equal(h, encoder.apply(variables, context, False))
    np.testing.assert_array_equal(target[:, 0], items[np.arange(4), cuts])

  @pytest.mark.parametrize('count', [1, 3])
  def test_the_items_that_follow_end_with_the_window(self, count):
    encoder = _encoder()
    items = TestDrawCuts._ITEMS
    variables = encoder.init(jax.random.key(0), items, False)
    _, target = _embed(encoder, variables, count=count, horizon=3)
    cuts = contexts.draw_cuts(
      jax.random.key(5), items, TestDrawCuts._INDEX, 0.0, count
    )
    expected = [
      [*items[row, cut : cut + 3], 0, 0, 0][:3]
      for row, of_window in enumerate(np.asarray(cuts))
      for cut in of_window
    ]
    np.testing.assert_array_equal(target, expected)

  def test_the_item_after_the_context_is_not_seen(self):
    encoder = _encoder(positions='learned')
    items = TestDrawCuts._ITEMS
    variables = encoder.init(jax.random.key(0), items, False)
    h, _ = _embed(encoder, variables, count=2)
    cuts = contexts.draw_cuts(
      jax.random.key(5), items, TestDrawCuts._INDEX, 0.0, 2
    )
    # All items from the longest context on are others.
    later = np.arange(7) >= np.asarray(cuts).max(axis=1)[:, None]
    changed = np.where(later & (items > 0), 10, items)
    assert (changed != items).sum() >= 4
    moved, _ = _embed(encoder, variables, {**_BATCH, 'items': changed}, count=2)
    np.testing.assert_array_equal(moved, h)


@pytest.mark.parametrize('group', ['barlow_twins', 'dual_encoder'])
@pytest.mark.parametrize(
  'encoder, settings, sentence',
  [
    ({}, {'min_context': 5.0}, 'min_context=5.0 is a share'),
    ({}, {'min_context': -0.1}, 'a number from 0 to 1'),
    ({}, {'contexts': 0}, 'contexts=0 must be at least 1'),
    ({}, {'contexts': 2}, r'encoder\.causal=True'),
    (
      {'causal': True, 'pooling': 'class_token'},
      {'contexts': 2},
      'pooling mean or last',
    ),
    ({'name': 'bag_of_items'}, {'contexts': 2}, 'a causal transformer'),
  ],
)
def test_what_is_refused(group, encoder, settings, sentence):
  config = base.get_config()
  config.objective = group
  config.encoder.update(encoder)
  config[group].update(settings)
  with pytest.raises(InputError, match=sentence):
    pretext.make_model(config, tiny.dataset().catalogue, None)


def test_negatives_of_a_dual_encoder_are_the_other_contexts_items():
  config = base.get_config()
  config.objective = 'dual_encoder'
  config.dual_encoder.contexts = 4
  assert pretext.num_negatives(config, 100) == 4 * 128 - 1
