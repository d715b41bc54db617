"""The pretext tasks: pure losses on arrays, and the modules that feed them.

An objective is a Flax module called as `objective(encoder, batch, rng, train)`
with the bound encoder; it returns the scalar loss and a dict of scalars to be
logged. What belongs to it alone, such as a projector, are its own parameters.
"""

from bt4rec.objectives.barlow_twins import BarlowTwins, barlow_twins_loss
from bt4rec.objectives.dual_encoder import DualEncoder, in_batch_softmax_loss

__all__ = [
  'OBJECTIVES',
  'BarlowTwins',
  'DualEncoder',
  'barlow_twins_loss',
  'in_batch_softmax_loss',
]

# Name in the config -> module.
OBJECTIVES = {'barlow_twins': BarlowTwins, 'dual_encoder': DualEncoder}
