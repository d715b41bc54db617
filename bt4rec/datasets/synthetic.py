"""A synthetic world whose generative truth, and so the best score, is known.

Each user has an interest in every category, which drifts: an autoregressive
process around the user's own mean. At each step the user takes one item not
taken before, with probability

  p(item) proportional to popularity(item) * exp(mean interest of its
  categories),

so the distribution every held-out event was drawn from is known exactly, and
with it the accuracy of a predictor that knows the interests: no model that
sees only events can be better in expectation.
"""

import dataclasses
import datetime

import numpy as np

from bt4rec.datasets import sequences
from bt4rec.errors import InputError

_START = int(datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC).timestamp())


@dataclasses.dataclass(frozen=True)
class World:
  """The parameters of a synthetic world.

  Attributes:
    num_users: Number of users.
    num_items: Number of items; more than `max_events`.
    num_categories: Number of categories; each item has one or two.
    min_events: Fewest events of a user.
    max_events: Most events of a user.
    interest_std: Standard deviation of the interests, in logits.
    drift: Share of an interest's deviation from its mean that is renewed at
      each event, in [0, 1].
    seed: Seed of everything drawn.
  """

  num_users: int = 2_000
  num_items: int = 400
  num_categories: int = 10
  min_events: int = 20
  max_events: int = 60
  interest_std: float = 2.0
  drift: float = 0.05
  seed: int = 0

  def __post_init__(self):
    if self.num_items <= self.max_events:
      raise InputError(
        f'dataset.synthetic.num_items={self.num_items} must be more than '
        f'max_events={self.max_events}: no user takes an item twice.'
      )


def make_dataset(world: World) -> sequences.SequenceDataset:
  """Returns the world's events; their origin has its parameters."""
  return dataclasses.replace(
    _simulate(world)[0], origin={'synthetic': dataclasses.asdict(world)}
  )


def make_truth(world: World) -> np.ndarray:
  """Returns the interests behind every event.

  Returns:
    [num_events, num_items] float32 log-weights, in the order of the dataset's
    events: before an event, the user's next item was distributed as the
    softmax of its row over the items not taken yet.
  """
  dataset, interests, weights, log_popularity = _simulate(world)
  # An item that nobody took is not in the catalogue.
  rows = dataset.catalogue.item_ids - 1
  logits = interests @ weights[rows].T + log_popularity[rows]
  return logits.astype(np.float32)


def _simulate(world: World):
  rng = np.random.default_rng(world.seed)
  memberships = _draw_categories(rng, world)
  log_popularity = rng.normal(0.0, 0.7, world.num_items)
  lengths = rng.integers(
    world.min_events, world.max_events + 1, world.num_users
  )
  mean = rng.normal(
    0.0, world.interest_std, (world.num_users, world.num_categories)
  )
  weights = memberships / memberships.sum(1, keepdims=True)
  interest = mean + rng.normal(0.0, world.interest_std / 2, mean.shape)
  taken = np.zeros((world.num_users, world.num_items), bool)
  items, interests = [], []
  # The stationary spread around the mean stays half of the mean's own.
  noise = world.interest_std / 2 * np.sqrt(1 - (1 - world.drift) ** 2)
  for _ in range(world.max_events):
    logits = interest @ weights.T + log_popularity
    # Gumbel-max: argmax(logits + gumbel) is a draw from the softmax.
    logits = np.where(taken, -np.inf, logits + rng.gumbel(size=logits.shape))
    item = logits.argmax(1)
    taken[np.arange(world.num_users), item] = True
    items.append(item)
    interests.append(interest)
    interest = mean + (1 - world.drift) * (interest - mean)
    interest = interest + rng.normal(0.0, noise, mean.shape)
  real = np.arange(world.max_events) < lengths[:, None]
  users = np.repeat(np.arange(1, world.num_users + 1), lengths)
  # An hour to a week between two events of a user.
  seconds = rng.integers(3_600, 604_800, real.shape).cumsum(axis=1) + _START
  dataset = sequences.from_events(
    'synthetic',
    users=users,
    items=np.stack(items, axis=1)[real] + 1,
    timestamps=seconds[real],
    titles={i + 1: f'Item {i + 1}' for i in range(world.num_items)},
    categories={
      i + 1: [f'category {c:02d}' for c in np.flatnonzero(memberships[i])]
      for i in range(world.num_items)
    },
  )
  return dataset, np.stack(interests, axis=1)[real], weights, log_popularity


def _draw_categories(rng: np.random.Generator, world: World) -> np.ndarray:
  """[num_items, num_categories] bool; every category has an item."""
  first = rng.permutation(np.arange(world.num_items) % world.num_categories)
  second = rng.integers(0, world.num_categories, world.num_items)
  has_second = rng.random(world.num_items) < 0.3
  memberships = np.zeros((world.num_items, world.num_categories), bool)
  rows = np.arange(world.num_items)
  memberships[rows, first] = True
  memberships[rows[has_second], second[has_second]] = True
  return memberships
