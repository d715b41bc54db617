"""Sums of objectives: their names, their losses, their scores."""

import jax
import numpy as np
import pytest

from bt4rec import pretext
from bt4rec.errors import InputError
from bt4rec.objectives import weighted_sum
from tests import tiny

_NAMES = ('barlow_twins', 'dual_encoder', 'next_item')


def _model(objective):
  config = tiny.config(objective=objective)
  config.encoder.causal = True
  return pretext.make_model(config, tiny.dataset().catalogue, None)


def _batch():
  items = np.random.default_rng(0).integers(1, 31, (4, 9)).astype(np.int32)
  items[1, 5:] = 0
  return {
    'items': items,
    'index': np.arange(4, dtype=np.int32),
    'log_q': np.zeros(32, np.float32),
  }


@pytest.mark.parametrize(
  'text, weights',
  [
    ('next_item', {'next_item': 1.0}),
    ('barlow_twins+0.5*next_item', {'barlow_twins': 1.0, 'next_item': 0.5}),
    ('2 * next_item + .1*dual_encoder', {'next_item': 2, 'dual_encoder': 0.1}),
  ],
)
def test_reads_names_and_weights_in_order(text, weights):
  parsed = weighted_sum.parse_sum(text, _NAMES)
  assert list(parsed.items()) == list(weights.items())


@pytest.mark.parametrize(
  'text, sentence',
  [
    ('barlow', r"'barlow' in .*barlow_twins, dual_encoder, next_item"),
    ('barlow_twins+', "unknown objective ''"),
    ('next_item*0.5', "unknown objective '0.5'"),
    ('next_item+2*next_item', "names 'next_item' twice"),
    ('0*next_item', "weight '0' of 'next_item'"),
    ('-1*next_item', "weight '-1'"),
    ('inf*next_item', "weight 'inf'"),
    ('half*next_item', "weight 'half'"),
  ],
)
def test_bad_sums_get_a_sentence(text, sentence):
  with pytest.raises(InputError, match=sentence):
    weighted_sum.parse_sum(text, _NAMES)


def test_is_the_weighted_sum_of_its_parts():
  objective = 'barlow_twins+0.5*next_item+3*dual_encoder'
  model, batch = _model(objective), _batch()
  rng = jax.random.key(3)
  variables = model.init(jax.random.key(0), batch, rng, False)
  total, metrics = model.apply(variables, batch, rng, False)
  expected = 0.0
  terms = [(1, 'barlow_twins'), (0.5, 'next_item'), (3, 'dual_encoder')]
  for number, (weight, name) in enumerate(terms):
    own = {
      kind: {
        'encoder': tree.get('encoder', {}),
        'objective': tree['objective'].get(f'parts_{name}', {}),
      }
      for kind, tree in variables.items()
    }
    loss, alone = _model(name).apply(
      own, batch, jax.random.fold_in(rng, number), False
    )
    expected += weight * loss
    alone = {'loss': loss, **alone}
    for key, value in alone.items():
      np.testing.assert_allclose(
        metrics.pop(f'{name}/{key}'), value, rtol=1e-5, atol=1e-6
      )
  assert not metrics
  np.testing.assert_allclose(total, expected, rtol=1e-6)


def test_scores_are_those_of_the_first_part_that_predicts_items():
  model, batch = _model('barlow_twins+next_item+dual_encoder'), _batch()
  rng = jax.random.key(3)
  variables = model.init(jax.random.key(0), batch, rng, False)
  alone = {'params': {'encoder': variables['params']['encoder']}}
  single = _model('next_item')
  assert model.predicts_items
  assert not _model('barlow_twins').predicts_items
  # A static argument of `jit`, as where many are scored.
  assert hash(model) == hash(_model('barlow_twins+next_item+dual_encoder'))
  for method, inputs in (('query', (batch,)), ('candidates', ())):
    jax.tree.map(
      np.testing.assert_array_equal,
      model.apply(variables, *inputs, method=method),
      single.apply(alone, *inputs, method=method),
    )


def test_a_part_makes_its_demands_on_the_whole():
  config = tiny.config(objective='barlow_twins+next_item')
  with pytest.raises(InputError, match=r'encoder\.causal=True'):
    pretext.make_model(config, tiny.dataset().catalogue, None)
  config.objective = 'masked_item+next_item'
  with pytest.raises(InputError, match='leave one of them out'):
    pretext.make_model(config, tiny.dataset().catalogue, None)
