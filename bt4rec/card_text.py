"""The dataset card as text."""

import math


def to_markdown(card: dict) -> str:
  """Writes a card as Markdown.

  Args:
    card: What `card.make_card` returned.
  """
  lines = [
    f'# {card["name"]}',
    '',
    f'{card["users"]:,} users, {card["items"]:,} items, '
    f'{card["events"]:,} events; density {card["density"]:.2e}; split '
    f'fingerprint {card["split_fingerprint"]}.',
    '',
  ]
  lines += _origin_lines(card['origin'])
  names = list(card['events_per_user'])
  lines += [
    '| | ' + ' | '.join(names) + ' |',
    '| --- |' + ' ---: |' * len(names),
    _row('events per user', card['events_per_user']),
    _row('events per item', card['events_per_item']),
    '',
  ]
  time, ties, seen = card['time'], card['ties'], card['pretraining']
  lines += [
    f'- Time: {time["first"]} to {time["last"]} UTC, {time["days"]:,.1f} days.',
    f'- Ties: {ties["events"]:.1%} of the events share their second with '
    f'another one of the same user; for '
    f'{ties["users_with_undetermined_last_item"]:.1%} of the users the last '
    f'item is not determined by time. The order of the rows decides.',
    f'- Cold start: {card["cold_start"]["users"]:.1%} of the users and '
    f'{card["cold_start"]["items"]:.1%} of the items have at most '
    f'{card["cold_start"]["most_events"]} events.',
    f'- Pre-training (scope {seen["scope"]}) sees {seen["events_seen"]:,} '
    f'events; {seen["users_with_fewer_than_2_such_events"]:,} users have fewer '
    f'than 2 such events and are left out; '
    f'{seen["users_too_short_for_favorite_category"]:,} users are too short '
    f'for favorite_category.',
  ]
  lines += _category_lines(card['categories'])
  lines += ['', 'The most frequent training label, on validation:', '']
  lines += ['| task | answer | accuracy | examples |']
  lines += ['| --- | --- | ---: | ---: |']
  for name, result in card['majority_class'].items():
    if 'not_possible' in result:
      lines.append(f'| {name} | {result["not_possible"]} | | |')
    else:
      lines.append(
        f'| {name} | {result["answer"]} | {result["accuracy"]:.1%} | '
        f'{result["examples"]:,} |'
      )
  return '\n'.join(lines) + '\n'


def _row(name: str, spread: dict[str, float]) -> str:
  cells = (
    f'{value:,.0f}' if math.isclose(value, round(value)) else f'{value:,.1f}'
    for value in spread.values()
  )
  return f'| {name} | ' + ' | '.join(cells) + ' |'


def _origin_lines(origin: dict) -> list[str]:
  if 'rows_read' not in origin:
    return []
  lines = [
    f'- Source {origin["source"]}: {origin["rows_read"]:,} rows read, '
    f'{origin["events_kept"]:,} events kept.',
    *(f'- Left out: {n:,} {why}.' for why, n in origin['dropped'].items()),
    *(f'- Counted: {n:,} {what}.' for what, n in origin['notes'].items()),
  ]
  if 'published_snapshot' in origin:
    lines.append(
      f'- Published snapshot with these counts: {origin["published_snapshot"]}.'
    )
  return [*lines, '']


def _category_lines(categories: dict) -> list[str]:
  if not categories['number']:
    return ['- Categories: none.']
  frequent = ', '.join(
    f'{name} {share:.1%}' for name, share in categories['most_frequent'].items()
  )
  return [
    f'- Categories: {categories["number"]}; '
    f'{categories["items_with_one"]:.1%} of the items and '
    f'{categories["events_with_one"]:.1%} of the events have one, '
    f'{categories["mean_per_item"]:.2f} per item on average. Share of the '
    f'items: {frequent}.'
  ]
