"""bt4rec's Barlow Twins step against PyTorch's, on the same cores, in turn.

Prints the lines of both (see bt4rec.benchmark) as they come, and at the end a
table in Markdown: medians over the rounds, and how many times faster bt4rec is,
a ratio of neighbours in time, with the least and the greatest of the rounds.
Sequences count users; real tokens leave out the padding, and what packing cuts.
The defaults take some minutes a round on two cores.
"""

import argparse
import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable
from typing import NamedTuple, NoReturn

# Flag -> default; both rivals take them.
_SIZES = {
  'batch': 256,
  'length': 50,
  'dim': 128,
  'layers': 2,
  'heads': 2,
  'items': 3_706,
  'projector': 512,
  'dropout': 0.1,
  'dtype': 'float32',
  'steps': 10,
  'warmup': 3,
}
# As above, of bt4rec alone.
_OURS = {'attention': 'xla', 'steps_per_call': 1}
_LENGTHS = ('full', 'uniform', 'yelp')
_RIVALS = ('eager', 'compiled')


class Speed(NamedTuple):
  """What one line says."""

  sequences: float
  real_tokens: float


# (Lengths, what was measured) -> its speed. What: 'padded' and 'packed' of
# bt4rec, 'eager' and 'compiled' of PyTorch.
Round = dict[tuple[str, str], Speed]


def commands(args: argparse.Namespace) -> list[tuple[str, str, list[str]]]:
  """Lengths, rival ('' is bt4rec) and command of each process of a round."""
  pinned = ['taskset', '-c', args.cores] if args.cores else []
  sizes = [f'--{name}={getattr(args, name)}' for name in _SIZES]
  found = []
  for lengths in args.lengths:
    flags = [*sizes, f'--lengths={lengths}']
    ours = ['.venv/bin/python', '-m', 'bt4rec.benchmark']
    ours += ['--only=pretrain_step', *flags]
    ours += [f'--{name}={getattr(args, name)}' for name in _OURS]
    found.append((lengths, '', [*pinned, *ours]))
    for rival in _RIVALS:
      theirs = ['.venv-torch/bin/python', args.peer, *flags]
      theirs += [f'--device={args.device}']
      if args.cores:
        theirs += [f'--threads={len(args.cores.split(","))}']
      theirs += ['--compile'] * (rival == 'compiled')
      found.append((lengths, rival, [*pinned, *theirs]))
  return found


def read(lengths: str, rival: str, output: str) -> Round:
  """The speeds in what a process has printed.

  Raises:
    ValueError: If there are none.
  """
  found = {}
  for text in output.splitlines():
    if not text.startswith('{'):
      continue
    line = json.loads(text)
    if 'sequences_per_second' not in line:
      continue  # What the device can do at best.
    what = rival or ('packed' if line['packed'] else 'padded')
    found[lengths, what] = Speed(
      line['sequences_per_second'], line['real_tokens_per_second']
    )
  if not found:
    raise ValueError('it printed no line with sequences_per_second')
  return found


def table(rounds: Iterable[Round]) -> str:
  """The table in Markdown.

  Args:
    rounds: The speeds of each.
  """
  rounds = list(rounds)
  header = [
    'windows, sequences/s',
    'bt4rec',
    *(f'PyTorch {r}' for r in _RIVALS),
  ]
  for unit in ('sequences/s', 'real tokens/s'):
    header += [f'ratio to {rival}, {unit}' for rival in _RIVALS]
  rows = [header, ['---'] * len(header)]
  names = {'padded': 'one a row', 'packed': 'packed'}
  for lengths in dict.fromkeys(key[0] for key in rounds[0]):
    for what, name in names.items():
      if lengths == 'full' and what == 'packed':
        continue  # There is no room for a second window.
      ours = [r[lengths, what] for r in rounds]
      row = [f'{lengths}, {name}', _rate(ours)]
      theirs = {rival: [r[lengths, rival] for r in rounds] for rival in _RIVALS}
      row += [_rate(speeds) for speeds in theirs.values()]
      for field in Speed._fields:
        row += [_ratio(ours, speeds, field) for speeds in theirs.values()]
      rows.append(row)
  return '\n'.join(f'| {" | ".join(row)} |' for row in rows)


def _rate(speeds: list[Speed]) -> str:
  return f'{statistics.median(speed.sequences for speed in speeds):,.0f}'


def _ratio(ours: list[Speed], theirs: list[Speed], field: str) -> str:
  ratios = [
    getattr(a, field) / getattr(b, field)
    for a, b in zip(ours, theirs, strict=True)
  ]
  text = f'{statistics.median(ratios):.2f}'
  if len(ratios) > 1:
    text += f' ({min(ratios):.2f} to {max(ratios):.2f})'
  return text


class _Parser(argparse.ArgumentParser):
  def error(self, message: str) -> NoReturn:
    """One sentence; what argparse prints besides is in --help."""
    self.exit(2, f'bt4rec: {message}; see --help.\n')


def parse(argv: list[str]) -> argparse.Namespace:
  """The flags."""
  parser = _Parser(description=__doc__, allow_abbrev=False)
  for name, default in (_SIZES | _OURS).items():
    parser.add_argument(f'--{name}', type=type(default), default=default)
  parser.add_argument('--rounds', type=int, default=3)
  parser.add_argument(
    '--lengths',
    default=','.join(_LENGTHS),
    help='Real items of the windows, by comma: full, uniform or yelp.',
  )
  parser.add_argument(
    '--peer',
    default='launch/torch_step.py',
    help='A program in PyTorch with the flags of this one.',
  )
  parser.add_argument(
    '--device', default='cpu', help='Of PyTorch: cpu or cuda.'
  )
  allowed = getattr(os, 'sched_getaffinity', lambda _: ())(0)
  parser.add_argument(
    '--cores',
    default=','.join(map(str, sorted(allowed))) if _taskset() else '',
    help='Cores by comma, for both; all that may be used by default.',
  )
  parser.add_argument(
    '--dry_run', action='store_true', help='Print the commands of a round.'
  )
  args = parser.parse_args(argv)
  args.lengths = args.lengths.split(',')
  for lengths in args.lengths:
    if lengths not in _LENGTHS:
      parser.error(f'--lengths={lengths} is none of {", ".join(_LENGTHS)}')
  if args.rounds < 1 or args.steps < 1:
    parser.error('--rounds and --steps must be at least 1')
  if not os.path.isfile(args.peer):
    parser.error(f'--peer={args.peer} is no file')
  if args.cores and not all(c.isdigit() for c in args.cores.split(',')):
    parser.error(f'--cores={args.cores} is no list of numbers, such as 0,1')
  if args.cores and not _taskset():
    parser.error('--cores needs taskset, which is not installed')
  return args


def _taskset() -> str | None:
  return shutil.which('taskset')


def main(argv: list[str]) -> None:
  """Runs the rivals in turn."""
  args = parse(argv)
  planned = commands(args)
  if args.dry_run:
    for _, _, command in planned:
      print(shlex.join(command))
    return
  rounds: list[Round] = []
  start, done, total = time.monotonic(), 0, args.rounds * len(planned)
  for _ in range(args.rounds):
    rounds.append({})
    for lengths, rival, command in planned:
      left = (time.monotonic() - start) / done * (total - done) if done else 0
      name = f'PyTorch {rival}' if rival else 'bt4rec'
      print(
        f'bt4rec: {done + 1} of {total}: {name}, {lengths}'
        + (f' ({left / 60:.0f} min left)' if done else ''),
        file=sys.stderr,
      )
      process = subprocess.run(command, stdout=subprocess.PIPE, text=True)
      sys.stdout.write(process.stdout)
      sys.stdout.flush()
      try:
        if process.returncode:
          raise ValueError(f'it ended with status {process.returncode}')
        rounds[-1].update(read(lengths, rival, process.stdout))
      except ValueError as error:
        sys.exit(f'bt4rec: {name} was not measured, since {error}.')
      done += 1
  print(table(rounds))


if __name__ == '__main__':
  main(sys.argv[1:])
