"""Steps against their floors, from the lines that launch/gpu.sh measures."""

import json
import sys


def table(lines: list[dict]) -> str:
  """Markdown, and a sentence for each feed.

  Args:
    lines: Those of `bt4rec.benchmark`, of one or more runs.
  """
  matmul, copy = (
    max(line[key] for line in lines if line['name'] == name)
    for name, key in (
      ('matmul', 'flops_per_second'),
      ('copy', 'bytes_per_second'),
    )
  )
  # Windows of full length: there is no room for a second one in a row.
  padded = [line for line in lines if not line.get('packed', True)]
  rows = [
    'attention | steps a call | ms a step | of them matmul | of them memory |'
    ' over its floor',
    ' | '.join(['---'] * 6),
  ]
  steps = [line for line in padded if line['name'] == 'pretrain_step']
  for line in steps:
    count, seconds = line['steps_per_call'], _seconds_of_batch(line)
    floors = line['flops'] / count / matmul, line['bytes'] / count / copy
    rows.append(
      f'{line["attention"]} | {count} | {1e3 * seconds:.2f} | '
      + ' | '.join(f'{1e3 * floor:.2f}' for floor in floors)
      + f' | {seconds / max(floors):.2f}'
    )
  quickest = min(map(_seconds_of_batch, steps))
  feeds = [
    f'The {line["feed"]} feed takes {_seconds_of_batch(line) / quickest:.1%} '
    f'of the quickest step.'
    for line in padded
    if line['name'] == 'pipeline'
  ]
  return '\n'.join([*(f'| {row} |' for row in rows), '', *feeds])


def _seconds_of_batch(line: dict) -> float:
  return line['batch'] / line['sequences_per_second']


if __name__ == '__main__':
  with open(sys.argv[1]) as f:
    print(table([json.loads(text) for text in f]))
