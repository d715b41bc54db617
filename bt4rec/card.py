"""The dataset card: what one has to know about a dataset before training."""

import datetime

import numpy as np
from ml_collections import ConfigDict

from bt4rec import splits, tasks
from bt4rec.datasets import SequenceDataset
from bt4rec.errors import InputError

_PERCENTILES = (5, 25, 50, 75, 95, 99)
# Users and items with so few events, or fewer, are called cold.
_COLD = 5


def make_card(dataset: SequenceDataset, config: ConfigDict) -> dict:
  """Measures a dataset.

  Args:
    dataset: The dataset.
    config: A whole config; `seed`, `split_seed` and `pretrain_scope` count.

  Returns:
    Nested dict of JSON values; shares are in [0, 1].
  """
  lengths = dataset.lengths
  num_items = dataset.catalogue.num_items
  visible = splits.visible_lengths(config.pretrain_scope, lengths)
  too_short = lengths < splits.MIN_EVENTS_FOR_FAVORITE
  events_of_items = np.bincount(dataset.items, minlength=num_items + 1)[1:]
  return {
    'name': dataset.name,
    'origin': dataset.origin,
    'split_fingerprint': splits.fingerprint(dataset),
    'users': dataset.num_users,
    'items': num_items,
    'events': dataset.num_events,
    'density': dataset.num_events / (dataset.num_users * num_items),
    'events_per_user': _spread(lengths),
    'events_per_item': _spread(events_of_items),
    'time': _time_span(dataset.timestamps),
    'categories': _category_coverage(dataset),
    'ties': tie_report(dataset),
    'cold_start': {
      'most_events': _COLD,
      'users': _share(lengths <= _COLD),
      'items': _share(events_of_items <= _COLD),
    },
    'pretraining': {
      'scope': config.pretrain_scope,
      'events_seen': int(visible[visible >= 2].sum()),
      'users_with_fewer_than_2_such_events': int((visible < 2).sum()),
      'users_too_short_for_favorite_category': int(too_short.sum()),
    },
    'majority_class': {
      name: majority_accuracy(name, dataset, config)
      for name in tasks.TASKS
      if name != 'user_attribute' or config.user_attribute.label
    },
  }


def _share(flags: np.ndarray) -> float:
  return float(flags.mean())


def _spread(counts: np.ndarray) -> dict[str, float]:
  cuts = np.percentile(counts, _PERCENTILES)
  return {
    'min': int(counts.min()),
    **{f'p{p}': float(cut) for p, cut in zip(_PERCENTILES, cuts, strict=True)},
    'max': int(counts.max()),
    'mean': float(counts.mean()),
  }


def _time_span(timestamps: np.ndarray) -> dict:
  first, last = int(timestamps.min()), int(timestamps.max())
  return {
    'first': _as_date(first),
    'last': _as_date(last),
    'days': (last - first) / 86_400,
  }


def _as_date(seconds: int) -> str:
  try:
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
  except (OverflowError, ValueError, OSError):
    return f'{seconds} s'
  return moment.strftime('%Y-%m-%d %H:%M:%S')


def _category_coverage(dataset: SequenceDataset) -> dict:
  catalogue = dataset.catalogue
  counts = np.diff(catalogue.category_offsets)
  has_any = np.append(False, counts > 0)
  per_category = np.bincount(
    catalogue.category_values, minlength=len(catalogue.category_names)
  )
  most_frequent = np.argsort(-per_category, kind='stable')[:10]
  return {
    'number': len(catalogue.category_names),
    'items_with_one': _share(counts > 0),
    'events_with_one': _share(has_any[dataset.items]),
    'mean_per_item': float(counts.mean()),
    'most_frequent': {
      catalogue.category_names[i]: float(per_category[i] / len(counts))
      for i in most_frequent
    },
  }


def tie_report(dataset: SequenceDataset) -> dict[str, float]:
  """How far time alone fails to order the events.

  Returns:
    `events`: share of the events with the same second as another one of the
    same user. `users_with_undetermined_last_item`: share of the users among
    whose newest events, all of one second, there are different items.
  """
  offsets, lengths = dataset.offsets, dataset.lengths
  timestamps, items = dataset.timestamps, dataset.items
  equal = timestamps[1:] == timestamps[:-1]
  # The last event of a user and the first of the next are no tie.
  equal[offsets[1:-1] - 1] = False
  tied = np.append(equal, False) | np.append(False, equal)
  last = offsets[1:] - 1
  differs = (timestamps == np.repeat(timestamps[last], lengths)) & (
    items != np.repeat(items[last], lengths)
  )
  undetermined = np.bincount(
    np.repeat(np.arange(len(lengths)), lengths)[differs],
    minlength=len(lengths),
  )
  return {
    'events': _share(tied),
    'users_with_undetermined_last_item': _share(undetermined > 0),
  }


def majority_accuracy(
  name: str, dataset: SequenceDataset, config: ConfigDict
) -> dict:
  """How often the most frequent training label is right on validation.

  Validation, since the test labels are looked at by evaluations alone.

  Returns:
    `answer`, `accuracy`, the number of `examples`; or `not_possible`, why.
  """
  task_type = tasks.TASKS[name]
  catalogue = dataset.catalogue
  needs_category = task_type.asks_of_events and not task_type.is_ranking
  if needs_category and not catalogue.category_names:
    return {'not_possible': 'no item has a category'}
  try:
    task = tasks.make_task(name, dataset, config)
    train, validation = task.train_and_validation(1.0, config.seed)
  except InputError as error:
    return {'not_possible': str(error)}
  weights = task.label_weights
  if weights is None:
    answer = int(np.bincount(train.labels).argmax())
    right = validation.labels == answer
  else:
    counts = np.bincount(train.labels, minlength=len(weights))
    answer = int((counts @ weights).argmax())
    right = weights[validation.labels, answer] > 0
  if task.is_ranking:
    text = catalogue.titles[answer] or catalogue.item_ids[answer]
  else:
    text = task.class_names[answer]
  return {
    'answer': str(text),
    'accuracy': _share(right),
    'examples': len(validation),
  }
