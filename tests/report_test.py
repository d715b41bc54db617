"""Tests of the report: made-up results in, exact tables, files and page out."""

import base64
import builtins
import pathlib
import re
import subprocess
import sys
import types
from html.parser import HTMLParser

import numpy as np
import pytest

from bt4rec import (
  provenance,
  report,
  report_content,
  report_plots,
  result_lines,
)
from bt4rec.errors import InputError
from configs import study
from tests import report_results
from tests.report_results import line, write, write_outcomes

_ROOT = pathlib.Path(__file__).parents[1]


class TestTables:
  def test_mean_spread_and_gain(self, tmp_path):
    directory = write(
      tmp_path / 'a',
      [
        line('barlow_twins', 0.3, seed=0),
        line('barlow_twins', 0.5, seed=1),
        line('dual_encoder_tuned', 0.2, seed=0),
        line('barlow_twins', 0.6, seed=0, fraction=1.0),
        line('majority', 0.1, fraction=0.005, protocol='majority'),
      ],
    )
    text = report.make_report([directory])
    # Sample standard deviation of .3 and .5: .1 * sqrt(2).
    assert (
      '| next_item: recall@10 | seeds | 0.5% labels | 10% labels '
      '| 100% labels |\n'
      '| --- | --- | --- | --- | --- |\n'
      '| barlow_twins, probe | 1 to 2 |  | 0.400 ± 0.141 | 0.600 |\n'
      '| dual_encoder_tuned, probe | 1 |  | 0.200 |  |\n'
      '| majority | 1 | 0.100 |  |  |\n'
      # Of seed 0, which both have.
      '| gain over dual_encoder_tuned, probe |  |  | +50.0% |  |\n\n'
    ) in text
    assert 'over seeds [0, 1]. Pre' in text and 'all users' in text
    assert '2.50 h' in text
    # What the last row is of, also where it has no interval.
    assert 'of the means over the seeds that both have.\n' in text

  def test_the_better_of_plain_and_tuned_is_that_of_the_column(self, tmp_path):
    directory = write(
      tmp_path,
      [
        line('barlow_twins', 0.3),
        line('dual_encoder_plain', 0.1),
        line('dual_encoder_tuned', 0.2),
        line('barlow_twins', 0.6, fraction=1.0),
        line('dual_encoder_plain', 0.5, fraction=1.0),
        line('dual_encoder_tuned', 0.4, fraction=1.0),
      ],
    )
    text = report.make_report([directory])
    assert (
      '| gain over the better of plain and tuned, probe |  | +50.0% | +20.0% |'
    ) in text
    # One seed has no spread.
    assert '\nSeed 0. Pre-trained' in text and '±' not in text

  def test_several_workdirs_make_one_table(self, tmp_path):
    directories = [
      write(tmp_path / str(seed), [line('barlow_twins', 0.1, seed=seed)])
      for seed in range(3)
    ]
    text = report.make_report(directories)
    assert '| 3 | 0.100 ± 0.000 |' in text and 'Gain' not in text

  def test_variants_are_never_averaged(self, tmp_path):
    text = report.make_report([write(tmp_path, report_results.study())])
    main, variants = text.split('next_item: recall@10, variants')
    # .201 and .211, .21 and .22.
    assert '| barlow_twins, probe | 2 | 0.206 ± 0.007 | 0.215 ± 0.007' in main
    assert 'batch_size' not in main
    variants = variants.split('next_category')[0]
    assert variants.startswith(' | seeds | 10% labels |')
    # .2 - 1 / 16, .2 * 20 / 60.
    assert '| barlow_twins, probe, batch_size=16 | 2 | 0.138 ±' in variants
    assert '| barlow_twins, probe, step=20 | 2 | 0.067 ±' in variants
    # What they are compared with.
    assert '| barlow_twins, probe | 2 | 0.215 ±' in variants

  def test_short_inputs_have_a_table_beside_their_plot(self, tmp_path):
    text = report.make_report([write(tmp_path, report_results.study())])
    title = '| next_category: accuracy@1, 10% labels | seeds '
    table = text.partition(title)[2].split('\n\n')[0].split('\n')
    assert table[0] == '| newest 1 | newest 10 | newest 20 | whole input |'
    # .2 * 1 / 20, .2 * 10 / 20 and .2 with both seeds; .21 and .22.
    assert (
      '| barlow_twins, probe | 2 | 0.010 ± 0.000 | 0.100 ± 0.000 '
      '| 0.200 ± 0.000 | 0.215 ± 0.007 |'
    ) in table
    assert not any('=' in row for row in table)  # No variants.
    without = [line('random', 0.1), line('majority', 0.1)]
    for one, cut in zip(without, ({}, {'5': {'recall@10': 0.04}}), strict=True):
      one['cold_start'] = cut
    text = report.make_report([write(tmp_path / 'other', without)])
    table = text.partition('newest 5')[2]
    # One seed, of a row that was measured.
    assert '| majority, probe | 1 | 0.040 | 0.100 |' in table
    assert 'random' not in table.split('\n\n')[0]

  def test_a_gain_says_whose_it_is_where_one_of_several_is_fine_tuned(
    self, tmp_path
  ):
    directory = write(
      tmp_path,
      [
        line('barlow_twins', 0.3),
        line('barlow_twins_contexts', 0.3),
        line('barlow_twins_contexts', 0.4, protocol='finetune'),
        line('dual_encoder_tuned', 0.2, protocol='finetune'),
      ],
    )
    assert (
      '| gain of barlow_twins_contexts, finetune over dual_encoder_tuned, '
      'finetune |  | +100.0% |'
    ) in report.make_report([directory])

  def test_pre_trainings_that_differ_are_rows_of_their_own(self, tmp_path):
    directories = [
      write(
        tmp_path / f'{row}-{size}',
        [line(row, value, pretraining={'batch_size': size, 'step': size})],
      )
      for row, size, value in (
        ('barlow_twins', 32, 0.2),
        ('barlow_twins', 1024, 0.3),
        ('dual_encoder_tuned', 32, 0.1),
        ('dual_encoder_tuned', 1024, 0.2),
        ('dual_encoder_public_code', 16, 0.1),
      )
    ]
    text = report.make_report(directories)
    assert '| barlow_twins, probe, batch 32 | 1 | 0.200 |' in text
    assert '| barlow_twins, probe, batch 1,024 | 1 | 0.300 |' in text
    # The batch of 32 against that of 32, and all against the only one.
    gain = (
      '| gain of barlow_twins, probe, batch {} over dual_encoder_{} |  | {}'
    )
    for size, other, value in (
      ('32', 'tuned, probe, batch 32', '+100.0%'),
      ('1,024', 'tuned, probe, batch 1,024', '+50.0%'),
      ('1,024', 'public_code, probe', '+200.0%'),
    ):
      assert gain.format(size, other, value) in text

  def test_early_stopping_makes_no_rows(self, tmp_path):
    lines = [
      line(
        'barlow_twins',
        0.1,
        seed,
        pretraining={'batch_size': 32, 'step': 10 + seed},
      )
      for seed in range(3)
    ]
    # A line of an older version says nothing of its pre-training.
    directory = write(tmp_path, [*lines, line('barlow_twins', 0.1, seed=3)])
    assert '| barlow_twins, probe | 4 |' in report.make_report([directory])

  def test_without_a_test_the_table_is_of_validation(self, tmp_path):
    untested = {'metrics': {}, 'validation': {'recall@10': 0.7}}
    directory = write(tmp_path / 'a', [line('random', None, **untested)])
    assert (
      '| next_item: recall@10 on validation | seeds | 10% labels |\n'
      '| --- | --- | --- |\n'
      '| random, probe | 1 | 0.700 |\n'
    ) in report.make_report([directory])
    # A test result next to it would be compared with it.
    tested = line('random', 0.1, seed=1, validation={'recall@10': 0.7})
    other = write(tmp_path / 'b', [tested])
    assert 'validation' not in report.make_report([other])
    with pytest.raises(InputError, match='evaluate_test'):
      report.make_report([directory, other])


class TestIntervals:
  @staticmethod
  def _pair(tmp_path, task='next_item', num_seeds=2):
    """Of 40 users Barlow Twins is right on 30, the tuned one on 20 of them."""
    lines = []
    for row, hits in (('barlow_twins', 30), ('dual_encoder_tuned', 20)):
      for seed in range(num_seeds):
        found = line(row, hits / 40, seed, task=task)
        is_hit = np.arange(40) < hits
        # The last rank that counts, and the first that does not.
        ranks = np.where(is_hit, 10, 10.5)
        outcomes = ranks if task == 'next_item' else is_hit
        write_outcomes(tmp_path, found, outcomes)
        lines.append(found)
    return write(tmp_path, lines)

  @pytest.mark.parametrize('task', ['next_item', 'next_category'])
  def test_is_of_the_outcomes(self, task, tmp_path):
    text = report.make_report([self._pair(tmp_path, task)])
    (found,) = re.findall(r'\| \+50\.0% \[(\S+), (\S+)\] \|', text)
    low, high = map(float, found)
    # The gain is the share of the 30 hits that the tuned one misses, over the
    # rest: to first order of standard error sqrt(1 / 20 + 1 / 10) * 10 / 20.
    assert 10 < low < 25 and 85 < high < 120
    assert 'paired bootstrap' in text

  def test_is_left_out_without_outcomes(self, tmp_path):
    directory = self._pair(tmp_path)
    next((tmp_path / 'outcomes').glob('*tuned*-1.npy')).unlink()
    assert '| +50.0% |' in report.make_report([directory])

  def test_is_of_the_seeds_that_both_have(self, tmp_path):
    own, rival = line('barlow_twins', 0.5), line('dual_encoder_tuned', 0.5)
    # A seed of which nobody is a hit would make it a loss that is certain.
    other = line('barlow_twins', 0.0, seed=1)
    half = np.where(np.arange(40) < 20, 1, 11)
    for found, ranks in ((own, half), (rival, half), (other, half * 0 + 11)):
      write_outcomes(tmp_path, found, ranks)
    directory = write(tmp_path, [own, rival, other])
    assert '| +0.0% [+0.0, +0.0] |' in report.make_report([directory])

  def test_needs_a_seed_that_both_have(self, tmp_path):
    lines = [line('barlow_twins', 0.5), line('dual_encoder_tuned', 0.2, seed=1)]
    text = report.make_report([write(tmp_path, lines)])
    assert '| gain over dual_encoder_tuned, probe |  |  |\n' in text

  def test_refuses_outcomes_of_another_run(self, tmp_path):
    directory = self._pair(tmp_path)
    path = next((tmp_path / 'outcomes').glob('*barlow*-1.npy'))
    np.save(path, np.ones(40))
    with pytest.raises(InputError, match=f'{path}.*1.000000.*0.750000'):
      report.make_report([directory])
    path.write_bytes(b'cut')
    with pytest.raises(InputError, match=f'cannot read {path}'):
      report.make_report([directory])

  def test_refuses_other_users(self, tmp_path):
    directory = self._pair(tmp_path, num_seeds=1)
    path = next((tmp_path / 'outcomes').glob('*barlow*.npy'))
    np.save(path, np.repeat(np.load(path), 2))
    with pytest.raises(InputError, match='80 and 40 test examples'):
      report.make_report([directory])


class TestRefusals:
  @pytest.mark.parametrize(
    'key',
    [
      'split_fingerprint',
      'category_fingerprint',
      'attribute',
      'label_fingerprint',
      'split_seed',
      'exclude_seen',
      'inductive',
      'pretrain_scope',
    ],
  )
  def test_to_mix(self, key, tmp_path):
    lines = [
      line('random', 0.1, seed=seed, **{key: value})
      for seed, value in enumerate(('a', 'b'))
    ]
    directory = write(tmp_path, lines)
    with pytest.raises(InputError, match=f'{key} .a, b.'):
      report.make_report([directory])
    # An older version did not say.
    if key not in line('random', 0.1):
      del lines[1][key]
      report.make_report([write(tmp_path, lines)])

  def test_to_mix_fine_tunings_from_zeros_and_from_a_probe(self, tmp_path):
    # Before there was a field for it they started from zeros.
    before, now = {'batch_size': 8}, {'batch_size': 8, 'head.total_steps': 9}
    for protocol in ('finetune', 'probe'):
      lines = [
        line('a', 0.1, seed=seed, protocol=protocol, settings=settings)
        for seed, settings in enumerate((before, now))
      ]
      directory = write(tmp_path / protocol, lines)
      if protocol == 'probe':
        report.make_report([directory])
        continue
      with pytest.raises(InputError, match=r'head\.total_steps=0 with seed 0'):
        report.make_report([directory])

  def test_to_mix_scopes_of_encoders(self, tmp_path):
    lines = [
      line(row, 0.1, pretraining={'pretrain_scope': scope})
      for row, scope in (('a', 'shared'), ('b', 'leave_two_out'))
    ]
    with pytest.raises(
      InputError, match=r'pretrain_scope .leave_two_out, shar'
    ):
      report.make_report([write(tmp_path, lines)])
    text = report.make_report([write(tmp_path, lines[1:])])
    assert 'on all but the last two events of all users.' in text

  @pytest.mark.parametrize(
    'made',
    [
      lambda dim: {'pretraining': {'settings': {'encoder.dim': dim}}},
      lambda dim: {'settings': {'encoder.dim': dim}},
    ],
  )
  def test_other_settings_in_the_place_of_seeds(self, made, tmp_path):
    lines = [
      line('barlow_twins', 0.1, seed=seed, **made(dim))
      for seed, dim in enumerate((64, 64, 128))
    ]
    # Neither the seed itself nor an older version is another setting.
    for seed, one in enumerate(lines):
      one.get('settings', {})['seed'] = seed
    lines.append(line('barlow_twins', 0.1, seed=3))
    a = write(tmp_path / 'a', [*lines[:2], lines[3]])
    assert '| 3 | 0.100 ±' in report.make_report([a])
    b = write(tmp_path / 'b', lines[2:3])
    words = f'encoder.dim=64 with seed 0 in {a} and 128 with seed 2 in {b}'
    with pytest.raises(InputError, match=words):
      report.make_report([a, b])

  def test_one_evaluation_twice(self, tmp_path):
    a, b = (
      write(tmp_path / name, [line('random', 0.1, seed=3)]) for name in 'ab'
    )
    with pytest.raises(InputError, match=f'seed 3.*{a} and in {b}'):
      report.make_report([a, b])


@pytest.fixture(scope='module')
def lines():
  """The lines of a study."""
  return report_results.study()


class TestPlots:
  @staticmethod
  def _series(figure, number=0):
    """Name -> [number of places, 2] of an axes."""
    axes = figure.axes[number]
    return {
      drawn.get_label(): drawn.get_xydata().tolist()
      for drawn in axes.get_lines()
    }

  def test_label_fraction(self, lines):
    figure = report_plots.accuracy_by_label_fraction(lines)
    assert [axes.get_title() for axes in figure.axes] == [
      'next_item',
      'next_category',
    ]
    axes = figure.axes[0]
    assert axes.get_xscale() == 'log'
    assert axes.get_xlabel() == 'labelled users (%)'
    assert axes.get_ylabel() == 'recall@10'
    series = self._series(figure)
    assert set(series) == {
      'majority',
      'barlow_twins, probe',
      'dual_encoder_tuned, probe',
    }
    np.testing.assert_allclose(
      series['barlow_twins, probe'], [[1, 0.206], [10, 0.215], [100, 0.305]]
    )
    # Mean ± standard deviation of x and x + .01.
    band = axes.collections[1].get_paths()[0].get_extents()
    spread = 0.01 / np.sqrt(2)
    np.testing.assert_allclose(
      [band.y0, band.y1], [0.206 - spread, 0.305 + spread]
    )

  def test_batch_size_with_the_main_grid_at_its_place(self, lines):
    figure = report_plots.accuracy_by_batch_size(lines)
    assert figure.axes[0].get_title() == 'next_item, 10% labels'
    series = self._series(figure)
    np.testing.assert_allclose(
      series['barlow_twins, probe'],
      [[16, 0.2 - 1 / 16], [32, 0.2 - 1 / 32], [128, 0.215]],
    )
    assert len(series) == 2

  def test_negatives_of_what_has_some(self, lines):
    series = self._series(report_plots.accuracy_by_negatives(lines))
    assert list(series) == ['dual_encoder_tuned, probe']
    x = np.array(series['dual_encoder_tuned, probe'])[:, 0]
    assert x.tolist() == [15, 31, 127]

  def test_step_without_those_of_early_stopping(self, lines):
    series = self._series(report_plots.accuracy_by_step(lines))
    np.testing.assert_allclose(
      series['barlow_twins, probe'], [[20, 0.2 / 3], [40, 0.4 / 3]]
    )

  def test_cold_start_ends_with_the_whole_input(self, lines):
    figure = report_plots.cold_start(lines)
    ticks = [tick.get_text() for tick in figure.axes[0].get_xticklabels()]
    assert ticks == ['1', '10', '20', 'all']
    np.testing.assert_allclose(
      self._series(figure, 1)['barlow_twins, probe'],
      [[0, 0.01], [1, 0.1], [2, 0.2], [3, 0.215]],
    )

  def test_cold_start_as_bars_from_zero_with_whiskers(self, lines):
    axes = report_plots.cold_start(lines, bars=True).axes[0]
    rows = {
      found.get_label(): found for found in axes.containers if len(found) == 4
    }
    assert set(rows) == {
      'majority',
      'barlow_twins, probe',
      'dual_encoder_tuned, probe',
    }
    bars = rows['barlow_twins, probe']
    assert [bar.get_y() for bar in bars] == [0] * 4
    np.testing.assert_allclose(
      [bar.get_height() for bar in bars], [0.01, 0.1, 0.2, 0.215]
    )
    # The seeds are 0.21 and 0.22 with the whole input, alike with the others.
    whiskers = np.array(bars.errorbar.lines[2][0].get_segments())[:, :, 1]
    np.testing.assert_allclose(
      whiskers[2:],
      [[0.2, 0.2], [0.215 - 0.5**0.5 / 100, 0.215 + 0.5**0.5 / 100]],
    )
    # Around the tick of their place, side by side.
    for place in range(4):
      left, right = np.array(
        sorted(
          (row[place].get_x(), row[place].get_x() + row[place].get_width())
          for row in rows.values()
        )
      ).T
      np.testing.assert_allclose(left[1:], right[:-1])
      np.testing.assert_allclose((left[0] + right[-1]) / 2, place, atol=1e-9)
    assert len({row[0].get_facecolor() for row in rows.values()}) == 3

  def test_rows_differ_in_colour_where_there_are_enough(self, lines):
    # The rows of a quickstart, one of which no other report has.
    names = ('oracle', 'majority', 'random', 'barlow_twins', 'scratch')
    rows = [{**lines[0], 'objective': name} for name in names]
    tuned = {**lines[0], 'objective': 'barlow_twins', 'protocol': 'finetune'}
    for drawn in (rows, [*rows, tuned], [*rows, {**tuned, 'objective': 'x'}]):
      figure = report_plots.cold_start(drawn)
      colors = [one.get_color() for one in figure.axes[0].get_lines()]
      assert len(set(colors)) == len(colors) == len(drawn)

  def test_what_is_trained_further_has_the_colour_of_its_encoder(self, lines):
    # All of a study, more than there are colours.
    config = study.get_config().study
    rows = [
      *((name, 'probe') for name in config.rows if name != 'scratch'),
      *((name, 'finetune') for name in config.finetune),
      ('scratch', 'scratch'),
    ]
    drawn = [
      {**lines[0], 'objective': name, 'protocol': protocol}
      for name, protocol in rows
    ]
    figure = report_plots.cold_start(drawn)
    looks = {
      one.get_label(): (one.get_color(), one.get_linestyle())
      for one in figure.axes[0].get_lines()
    }
    assert len(set(looks.values())) == len(drawn)
    pairs = [
      (f'{name}, finetune', f'{name}, probe') for name in config.finetune
    ]
    for one, of in [*pairs, ('scratch', 'random, probe')]:
      assert looks[one][0] == looks[of][0] and looks[one][1] == '--', one

  def test_bars_of_one_colour_differ_by_hatch(self, lines):
    other = [{**li, 'objective': li['objective'] + '_2'} for li in lines]
    tuned = [{**li, 'protocol': 'finetune'} for li in (*lines, *other)]
    figure = report_plots.cold_start([*lines, *other, *tuned], bars=True)
    looks = [
      (found[0].get_facecolor(), found[0].get_hatch())
      for found in figure.axes[0].containers
      if len(found) == 4
    ]
    assert len(set(looks)) == len(looks) == 12
    assert len({color for color, _ in looks}) == 8  # The palette.

  def test_popularity(self, lines):
    figure = report_plots.accuracy_by_popularity(lines)
    (axes,) = figure.axes
    ticks = [tick.get_text() for tick in axes.get_xticklabels()]
    assert ticks == ['≤ 3\n(1)', '≤ 30\n(9)']
    np.testing.assert_allclose(
      self._series(figure)['majority'], [[0, 0], [1, 0.1]]
    )

  def test_rows_differ_without_colour(self, lines):
    figure = report_plots.accuracy_by_label_fraction(
      [*lines, *({**li, 'protocol': 'finetune'} for li in lines)]
    )
    drawn = figure.axes[0].get_lines()
    styles = {(one.get_marker(), one.get_linestyle()) for one in drawn}
    assert len(styles) == len(drawn) == 6

  def test_nothing_to_show_is_no_figure(self):
    lines = [line('barlow_twins', 0.1)]
    for name, plot in report_plots.PLOTS.items():
      assert plot.draw(lines) is None, name
    assert report_plots.learning_curves({'a': [[{'step': 0}]]}) is None


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  """A study with results and pre-trainings, its report written."""
  path = tmp_path_factory.mktemp('study')
  found = report_results.study()
  # Names must not be markup.
  found[0]['device'] = found[0]['commit'] = '<b>&'
  write(path, found)
  for seed in (0, 1):
    report_results.write_metrics(
      path / 'pretrain' / f'barlow_twins-{seed}', seed
    )
  report_results.write_metrics(
    path / 'pretrain' / 'barlow_twins-0-batch_size=16',
    0,
    variant='batch_size=16',
  )
  text = report.write_report(str(path))
  assert text == report.make_report([str(path)])
  return path


class TestFiles:
  _NAMES = (*report_plots.PLOTS, 'learning_curves')

  def test_markdown_links_every_plot(self, workdir):
    text = (workdir / 'report.md').read_text()
    links = re.findall(r'!\[.+\]\((.+)\)', text)
    assert links == [f'plots/ml1m-{name}.png' for name in self._NAMES]
    for link in links:
      assert (workdir / link).read_bytes().startswith(b'\x89PNG')
    assert '± 1 standard deviation' in text

  def test_page_needs_nothing_else_and_has_everything(self, workdir):
    text = (workdir / 'report.html').read_text()
    page = _Page()
    page.feed(text)
    assert page.references and all(
      ref.startswith(('data:', '#')) for ref in page.references
    )
    assert not re.search(r'url\(|@import|<script|<link', text)
    inside = [
      base64.b64decode(ref.partition('base64,')[2])
      for ref in page.references
      if ref.startswith('data:image/png')
    ]
    assert inside == [
      (workdir / 'plots' / f'ml1m-{name}.png').read_bytes()
      for name in self._NAMES
    ]
    assert len(page.alternatives) == len(inside) and all(page.alternatives)
    (section,) = report_content.make_sections(
      result_lines.read_results([str(workdir)]), with_plots=False
    )
    for table in section.tables + section.details:
      for row in table.rows:
        assert row[0] in page.cells
        assert set(filter(None, row)) <= set(page.cells)
    for fact in section.provenance.values():
      assert fact in page.cells
    assert '<b>' not in text

  def test_curves_are_of_the_main_grid_a_line_a_seed(self, workdir):
    lines = result_lines.read_results([str(workdir)])
    runs = report_content._runs(lines)
    assert {name: len(found) for name, found in runs.items()} == {
      'barlow_twins': 2
    }

  def test_curves_of_a_downstream_job_and_what_it_started_from(self, tmp_path):
    report_results.write_metrics(tmp_path / 'ml1m', 0)
    report_results.write_metrics(
      tmp_path / 'probe', 0, init_from=str(tmp_path / 'ml1m')
    )
    directory = write(tmp_path / 'probe', [line('barlow_twins', 0.1)])
    runs = report_content._runs(result_lines.read_results([directory]))
    assert list(runs) == ['ml1m', 'barlow_twins, probe\nnext_item']

  def test_without_matplotlib_there_are_tables_and_a_sentence(
    self, tmp_path, monkeypatch, caplog
  ):
    directory = write(tmp_path, report_results.study())
    real = builtins.__import__

    def without(name, *args, **kwargs):
      if name.startswith('matplotlib'):
        raise ImportError(name)
      return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, '__import__', without)
    text = report.write_report(directory)
    assert (tmp_path / 'report.md').read_text() == text
    assert not list((tmp_path / 'plots').iterdir())
    (record,) = caplog.records
    assert 'pip install matplotlib.' in record.getMessage()


class _Page(HTMLParser):
  """What a page refers to, and the text of its elements."""

  def __init__(self):
    super().__init__()
    self.references, self.alternatives, self.cells = [], [], []
    self._open = 0

  def handle_starttag(self, tag, attrs):
    named = dict(attrs)
    self.references += [named[key] for key in ('src', 'href') if key in named]
    if tag == 'img':
      self.alternatives.append(named.get('alt'))
    if tag in ('td', 'th', 'dd'):
      self.cells.append('')
      self._open = True

  def handle_endtag(self, tag):
    if tag in ('td', 'th', 'dd'):
      self._open = False

  def handle_data(self, data):
    if self._open:
      self.cells[-1] += data


class TestCommand:
  def _run(self, *arguments):
    return subprocess.run(
      [sys.executable, '-m', 'bt4rec.report', *arguments],
      cwd=_ROOT,
      capture_output=True,
      text=True,
    )

  def test_prints_the_table_and_writes_beside_it(self, tmp_path):
    directory = write(tmp_path / 'a', [line('barlow_twins', 0.1)])
    done = self._run(directory)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(report.make_report([directory]))
    assert f'{directory}/report.html' in done.stdout
    # Two, with the flag behind: into the folder named.
    other = write(tmp_path / 'b', [line('barlow_twins', 0.3, seed=1)])
    output = tmp_path / 'new' / 'c'
    done = self._run(directory, other, f'--output={output}')
    assert done.returncode == 0, done.stderr
    text = (output / 'report.md').read_text()
    assert '0.200 ± 0.141' in text
    page = (output / 'report.html').read_text()
    assert f'python -m bt4rec.report {directory} {other}' in page

  def test_mistakes_get_a_sentence(self, tmp_path):
    done = self._run(str(tmp_path))
    assert done.returncode == 2
    assert str(tmp_path) in done.stderr and 'Traceback' not in done.stderr
    done = self._run()
    assert done.returncode == 2 and 'name the workdirs' in done.stderr

  def test_the_table_is_seen_where_nothing_can_be_written(self, tmp_path):
    directory = write(tmp_path / 'a', [line('barlow_twins', 0.1)])
    (tmp_path / 'file').write_text('')
    done = self._run(directory, f'--output={tmp_path / "file"}')
    assert done.returncode == 2
    assert '| barlow_twins, probe | 1 | 0.100 |' in done.stdout
    assert 'choose another folder with --output' in done.stderr


def test_a_line_says_how_its_process_was_started(monkeypatch):
  assert provenance.describe()['command'] == ''
  spec = types.SimpleNamespace(name='bt4rec.main')
  monkeypatch.setattr(sys.modules['__main__'], '__spec__', spec)
  monkeypatch.setattr(sys, 'argv', ['/x/main.py', '--config=a b', '--seed=1'])
  assert provenance.describe()['command'] == (
    "python -m bt4rec.main '--config=a b' --seed=1"
  )
