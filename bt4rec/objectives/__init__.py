"""The pretext tasks: pure losses on arrays, and the modules that feed them.

An objective is a Flax module called as `objective(encoder, batch, rng, train)`
with the bound encoder; it returns the scalar loss and a dict of scalars to be
logged. What belongs to it alone, such as a projector, are its own parameters.

An objective that predicts items also has `query(encoder, rows)`, [batch, dim]
for histories that leave room for one item more (`items` and the codes that go
with them, see `features`), and `candidates(encoder)`, the `ranking.Candidates`
that queries are compared with.
"""

from bt4rec.objectives.barlow_twins import BarlowTwins, barlow_twins_loss
from bt4rec.objectives.dual_encoder import DualEncoder, in_batch_softmax_loss
from bt4rec.objectives.info_nce import InfoNCE, info_nce_loss
from bt4rec.objectives.item_loss import ItemLoss
from bt4rec.objectives.masked_item import MaskedItem
from bt4rec.objectives.next_item import NextItem
from bt4rec.objectives.two_views import TwoViews
from bt4rec.objectives.vicreg import VICReg, vicreg_loss
from bt4rec.objectives.weighted_sum import WeightedSum

__all__ = [
  'BarlowTwins',
  'DualEncoder',
  'InfoNCE',
  'ItemLoss',
  'MaskedItem',
  'NextItem',
  'TwoViews',
  'VICReg',
  'WeightedSum',
  'barlow_twins_loss',
  'in_batch_softmax_loss',
  'info_nce_loss',
  'vicreg_loss',
]
