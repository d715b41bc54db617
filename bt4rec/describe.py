"""Prints and saves the dataset card: `python -m bt4rec.describe --config=...`.

The output directory gets card.md, card.json, plots/*.png, and the prepared
arrays, which --config.dataset.prepared reads without TensorFlow.
"""

import json
import os
import sys

from absl import flags, logging
from ml_collections import ConfigDict, config_flags

from bt4rec import (
  card,
  card_plots,
  card_text,
  command,
  datasets,
  help_text,
  remote,
  summary,
  workdir,
)
from bt4rec.datasets import sequences
from bt4rec.errors import InputError


def describe(
  config: ConfigDict, directory: str, *, arrays: bool, plots: bool
) -> str:
  """Writes card, arrays and plots of a dataset.

  Args:
    config: A whole config.
    directory: The output directory; it is made.
    arrays: Whether to save the prepared arrays.
    plots: Whether to draw the plots.

  Returns:
    The card as text, and what was written.

  Raises:
    InputError: If the dataset or the directory are not valid.
  """
  with workdir.locked(directory):
    source = config.dataset.prepared
    if arrays and source and os.path.abspath(source) == directory:
      raise InputError(
        f'{directory} holds the prepared arrays that are read; choose another '
        f'--output, or pass --noarrays.'
      )
    dataset = datasets.load(config.dataset)
    measured = card.make_card(dataset, config)
    text = card_text.to_markdown(measured)
    paths = {
      name: os.path.join(directory, name) for name in ('card.md', 'card.json')
    }
    workdir.write_atomically(paths['card.md'], text)
    workdir.write_atomically(
      paths['card.json'], json.dumps(measured, indent=2) + '\n'
    )
    written = {
      paths['card.md']: 'the dataset card, above',
      paths['card.json']: 'the same for programs',
    }
    if plots:
      try:
        plot_paths = card_plots.save_plots(
          dataset, os.path.join(directory, 'plots')
        )
        written |= dict.fromkeys(plot_paths, 'plot')
      except ImportError:
        logging.warning(
          'no plots: matplotlib is not installed; %s -m pip install '
          'matplotlib, or pass --noplots.',
          sys.executable,
        )
    if arrays:
      sequences.save(dataset, directory)
      written[os.path.join(directory, 'dataset.json')] = 'prepared arrays'
  group = (
    datasets.prepared_config(config.dataset, directory)
    if arrays
    else config.dataset
  )
  following = {'pre-train an encoder': workdir.pretrain_command(group)}
  return f'{text}\n{summary.closing(written, following)}'


def main(argv: list[str]) -> None:
  """Runs the command of the flags."""
  if len(argv) > 1:
    raise InputError(f'unexpected argument {argv[1]!r}; flags start with --.')
  values = flags.FLAGS
  if values.config is None:
    raise InputError('--config is missing; name a config file.')
  name = f'card-{values.config.dataset.name}'
  output = remote.absolute(values.output or os.path.join('runs', name))
  with remote.output(output) as directory:
    text = describe(
      values.config, directory, arrays=values.arrays, plots=values.plots
    )
  print(text.replace(directory, output))


if __name__ == '__main__':
  # Here, so that importing the module defines no flags.
  config_flags.DEFINE_config_file(
    'config',
    None,
    'File with the config, and its argument after a colon, such as '
    'configs/pretrain.py:ml1m.',
    lock_config=True,
  )
  flags.DEFINE_string(
    'output', None, 'Output directory; default: runs/card-DATASET.'
  )
  flags.DEFINE_alias('workdir', 'output')
  flags.DEFINE_bool('arrays', True, 'Whether to save the prepared arrays.')
  flags.DEFINE_bool('plots', True, 'Whether to draw the plots.')
  command.run(main, help_text.jobs)
