"""The pictures say in words and axes what the arrays hold."""

import numpy as np
import pytest

pytest.importorskip('matplotlib')

from bt4rec import analysis_plots, figures
from bt4rec.analysis import Plane


def _words(figure) -> str:
  """Every text of a figure."""
  import matplotlib.text

  return '\n'.join(t.get_text() for t in figure.findobj(matplotlib.text.Text))


def _is_drawn(figure) -> bool:
  return figures.png(figure).startswith(b'\x89PNG')


def test_correlations_are_on_one_scale_with_their_summary():
  c = np.full((5, 5), -0.5)
  np.fill_diagonal(c, 0.25)
  figure = analysis_plots.correlation_maps({'old': np.eye(4), 'new': c})
  assert _is_drawn(figure)
  assert 'old\nmean diagonal 1.00, rms of the rest 0.000' in _words(figure)
  assert 'new\nmean diagonal 0.25, rms of the rest 0.500' in _words(figure)
  images = [image for axes in figure.axes for image in axes.images]
  assert {image.get_clim() for image in images} == {(-1, 1)}
  # Rows are features of the first view.
  assert figure.axes[0].get_ylabel() == 'feature of view A'
  assert figure.axes[0].get_xlabel() == 'feature of view B'
  c[0, 1] = 1.0
  image = analysis_plots.correlation_maps({'new': c}).axes[0].images[0]
  np.testing.assert_array_equal(image.get_array(), c)


def test_spectra_have_the_effective_rank():
  # Two equal directions of three.
  h = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]]) @ np.eye(3)[:2]
  figure = analysis_plots.spectra({'flat': h + 5})
  assert _is_drawn(figure)
  assert 'flat: effective rank 2.0 of 3' in _words(figure)
  values = figure.axes[0].lines[0].get_ydata()
  np.testing.assert_allclose(values[:2], 1, rtol=1e-5)
  assert figure.axes[0].get_yscale() == 'log'
  # The third is none; its rounding error must not set the scale.
  assert values[2] < 1e-6 and figure.axes[0].get_ylim()[0] == 1e-4


def test_a_map_names_the_frequent_categories_and_counts_the_rest():
  labels = np.array([0] * 3 + [1] * 9 + [2, 2, 3, 3, 4, 4, 5, 5, 6, 7])
  points = np.arange(44.0).reshape(22, 2)
  plane = Plane(points, np.array([0.31, 0.12]))
  names = tuple('abcdefgh')
  figure = analysis_plots.user_maps({'map': plane}, labels, names)
  assert _is_drawn(figure)
  words = _words(figure)
  assert '1st component, 31% of the variance' in words
  assert '2nd component, 12% of the variance' in words
  for text in ('b (9)', 'a (3)', 'f (2)', 'others (2)'):
    assert text in words
  assert 'g (1)' not in words
  # The large marker of the first category is the mean of its users.
  means = [c.get_offsets() for c in figure.axes[0].collections]
  assert any(np.allclose(m, points[labels == 1].mean(0)) for m in means)


@pytest.mark.parametrize('prefix', ['', 'barlow_twins/'])
def test_health_has_the_rank_and_the_terms_of_the_objective(prefix):
  lines = [
    {'step': 0, 'validation_loss': 3.0},
    {'step': 5, f'{prefix}diagonal': 0.2, f'{prefix}off_diagonal_rms': 0.4},
    {'step': 9, 'effective_rank': 7.0, f'{prefix}diagonal': 0.8},
  ]
  figure = analysis_plots.health_curves(lines)
  assert _is_drawn(figure)
  rank, terms = figure.axes
  assert rank.lines[0].get_xydata().tolist() == [[9, 7]]
  bottom, top = rank.get_ylim()
  assert bottom == 0 and top > 7.5  # The marker is whole.
  assert terms.lines[0].get_xydata().tolist() == [[5, 0.2], [9, 0.8]]
  assert 'rms of the rest' in _words(figure)


def test_without_a_correlation_the_rank_stands_alone():
  lines = [{'step': 5, 'loss': 1.0, 'effective_rank': 7.0}]
  figure = analysis_plots.health_curves(lines)
  assert len(figure.axes) == 1 and _is_drawn(figure)
