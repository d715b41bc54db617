"""Tests of bt4rec.pretext: what an objective compares with."""

import pytest

from bt4rec import pretext
from bt4rec.errors import InputError
from tests import tiny


@pytest.mark.parametrize(
  'objective, loss, expected',
  [
    ('barlow_twins', 'full', None),
    ('vicreg', 'full', None),
    # The rest of a batch of 16: its items; both views of its users.
    ('dual_encoder', 'full', 15),
    ('info_nce', 'full', 30),
    # Of 40 items.
    ('next_item', 'full', 39),
    ('next_item', 'sampled', 7),
    ('masked_item', 'bce', 7),
    ('barlow_twins+0.5*dual_encoder', 'full', 15),
    ('dual_encoder+2*masked_item', 'full', 39),
  ],
)
def test_number_of_negatives(objective, loss, expected):
  config = tiny.config(
    objective=objective, item_loss={'name': loss, 'num_negatives': 7}
  )
  assert pretext.num_negatives(config, 40) == expected


@pytest.mark.parametrize(
  'objective', ['barlow_twins', 'info_nce', 'dual_encoder', 'next_item+vicreg']
)
def test_a_batch_of_one_user_is_refused(objective):
  config = tiny.config(
    objective=objective, batch_size=1, encoder={'causal': True}
  )
  with pytest.raises(InputError, match='batch_size=1 leaves the objective'):
    pretext.make_model(config, tiny.dataset().catalogue, None)
  # Each position has the catalogue to be compared with.
  config.objective = 'next_item'
  pretext.make_model(config, tiny.dataset().catalogue, None)
