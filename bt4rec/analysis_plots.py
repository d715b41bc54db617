"""Pictures of representations, from arrays."""

import numpy as np

from bt4rec import figures, health
from bt4rec.analysis import Plane

# Categories with a colour of their own on a map; the others are grey.
_COLOURED = 6
# Number in the log -> what it is called.
_CORRELATION_TERMS = {
  'diagonal': 'mean of the diagonal',
  'off_diagonal_rms': 'rms of the rest',
}
_GREY = '#b0b0b0'
# Smaller singular values are none: a normalisation at the end of an encoder
# takes one direction, and a scale down to its rounding error hides the others.
_LEAST_SINGULAR_VALUE = 1e-4


def health_curves(lines: list[dict]):
  """Effective rank over the steps, and what was logged of a correlation.

  Args:
    lines: Lines of the `metrics.jsonl` of a pre-training.

  Returns:
    A figure; of objectives without a correlation it has the rank alone.
  """
  rank = _series(lines, 'effective_rank')
  # In a weighted sum the names carry that of the objective.
  terms = {
    label: found
    for name, label in _CORRELATION_TERMS.items()
    if (found := _series(lines, name))
  }
  figure, axes = figures.new_figure(1 + bool(terms), width=4.4)
  axes[0].plot(*zip(*rank, strict=True), **figures.series_style(0))
  # From zero, which alone shows how much of it is lost.
  axes[0].set(
    xlabel='step (updates)',
    ylabel='effective rank (dimensions)',
    ylim=(0, 1.1 * max((value for _, value in rank), default=1.0)),
  )
  for number, (label, found) in enumerate(terms.items()):
    style = figures.series_style(number)
    axes[1].plot(
      *zip(*found, strict=True), label=label, **{**style, 'marker': ''}
    )
  if terms:
    axes[1].set(
      xlabel='step (updates)', ylabel='correlation of the views', ylim=(0, 1)
    )
    axes[1].legend(frameon=False)
  return figure


def _series(lines: list[dict], name: str) -> list[tuple[int, float]]:
  """(step, value) of the numbers called so, also as part of a sum."""
  return [
    (line['step'], value)
    for line in lines
    for key, value in line.items()
    if key.rpartition('/')[2] == name
  ]


def correlation_maps(matrices: dict[str, np.ndarray]):
  """Cross-correlation matrices side by side, on one scale from -1 to 1.

  Args:
    matrices: Name -> [dim, dim] float, features of one view by those of the
      other.

  Returns:
    A figure.
  """
  figure, axes = figures.new_figure(len(matrices), width=4.0, height=3.8)
  image = None
  for one, (name, c) in zip(axes, matrices.items(), strict=True):
    diagonal = np.diag(c)
    rest = np.sqrt(((c - np.diag(diagonal)) ** 2).sum() / (c.size - len(c)))
    image = one.imshow(c, vmin=-1, vmax=1, cmap='RdBu_r')
    one.set_title(
      f'{name}\nmean diagonal {diagonal.mean():.2f}, '
      f'rms of the rest {rest:.3f}',
      fontsize='medium',
    )
    one.set(xlabel='feature of view B', ylabel='feature of view A')
    one.spines[:].set_visible(False)
  figure.colorbar(image, ax=axes, label='correlation', shrink=0.8)
  return figure


def spectra(embeddings: dict[str, np.ndarray]):
  """Singular values of embeddings, with their effective ranks.

  Args:
    embeddings: Name -> [num_users, dim] float; they may differ in width.

  Returns:
    A figure.
  """
  figure, (axes,) = figures.new_figure(width=5.5, height=3.4)
  for number, (name, h) in enumerate(embeddings.items()):
    values = np.asarray(health.singular_values(h))
    rank = float(health.effective_rank(values))
    style = figures.series_style(number)
    axes.plot(
      np.arange(1, len(values) + 1),
      values / max(values[0], 1e-12),
      label=f'{name}: effective rank {rank:.1f} of {len(values)}',
      markersize=3,
      **style,
    )
    axes.axvline(rank, color=style['color'], linestyle=':', linewidth=1)
  axes.set(
    xlabel='number of the singular value (dotted: effective rank)',
    ylabel='singular value / largest',
    yscale='log',
    ylim=(_LEAST_SINGULAR_VALUE, 2.0),
  )
  axes.legend(frameon=False, loc='lower left')
  return figure


def user_maps(
  planes: dict[str, Plane], labels: np.ndarray, names: tuple[str, ...]
):
  """Users on planes side by side, coloured by category.

  The most frequent categories have a colour and a marker, and at the mean of
  their users a large one.

  Args:
    planes: Name -> the plane.
    labels: [num_users] int, the category of each user.
    names: Names of the categories.

  Returns:
    A figure.
  """
  figure, axes = figures.new_figure(len(planes), width=4.4, height=4.6)
  counts = np.bincount(labels, minlength=len(names))
  frequent = np.argsort(-counts, kind='stable')[:_COLOURED]
  frequent = frequent[counts[frequent] > 0]
  others = ~np.isin(labels, frequent)
  for one, (name, plane) in zip(axes, planes.items(), strict=True):
    points = plane.points
    if others.any():
      one.scatter(
        *points[others].T,
        s=6,
        alpha=0.5,
        linewidths=0,
        color=_GREY,
      )
      # Large enough to be seen in the legend.
      one.scatter([], [], s=40, color=_GREY, label=f'others ({others.sum()})')
    for number, category in enumerate(frequent):
      style = figures.series_style(number)
      look = {'color': style['color'], 'marker': style['marker']}
      own = points[labels == category]
      one.scatter(*own.T, s=6, alpha=0.5, linewidths=0, **look)
      one.scatter(
        *own.mean(axis=0),
        s=90,
        edgecolors='white',
        linewidths=1.2,
        zorder=3,
        label=f'{names[category]} ({len(own)})',
        **look,
      )
    one.set_title(name, fontsize='medium')
    one.set(
      xlabel=f'1st component, {plane.explained[0]:.0%} of the variance',
      ylabel=f'2nd component, {plane.explained[1]:.0%} of the variance',
    )
    one.tick_params(labelleft=False, labelbottom=False, length=0)
  figures.add_legend(figure)
  return figure
