"""What a command says at its end: what it wrote, and what is useful next."""

import os
from collections.abc import Mapping

# Name in a workdir -> what it is, in the order of interest.
_IN_WORKDIR = {
  'report.html': 'tables and plots, for the browser',
  'report.md': 'tables',
  'plots': 'plots as PNG',
  'README.md': 'model card: data, figures, how to load it',
  'trials.jsonl': 'trials of the search, one a line',
  'results.jsonl': 'results, one evaluation a line',
  'outcomes': 'outcome of every test example',
  'pretrain': 'workdirs of the pre-trainings',
  'cells': 'workdirs of the downstream runs',
  'checkpoints': 'latest and best state',
  'metrics.jsonl': 'numbers of every logged step',
  'tensorboard': 'the same as events, with histograms and points',
  'sessions.jsonl': 'commit, versions and device of each start',
  'config.json': 'the whole config',
}


def of_workdir(directory: str) -> dict[str, str]:
  """What a job left in its workdir: path -> what it is."""
  return {
    os.path.join(directory, name): what
    for name, what in _IN_WORKDIR.items()
    if os.path.exists(os.path.join(directory, name))
  }


def closing(written: Mapping[str, str], following: Mapping[str, str]) -> str:
  """The last words of a command.

  Args:
    written: Path -> what it is.
    following: What for -> a command that can be pasted into a shell.
  """
  lines = ['written:']
  lines += [f'  {path}  ({what})' for path, what in written.items()]
  if following:
    lines.append('next:')
  for what_for, command in following.items():
    lines += [f'  # {what_for}', f'  {command}']
  return '\n'.join(lines)
