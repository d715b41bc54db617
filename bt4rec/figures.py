"""The look of every picture: colours, lines and PNG files.

matplotlib, the extra `plots`, is imported by the functions: training does
without it.
"""

import io
import os

import numpy as np

# Okabe and Ito's palette, told apart by colour-blind readers, darkest first
# so that neighbours differ in grey too; https://jfly.uni-koeln.de/color/.
# Their black is followed by a grey, for what is none of a picture's subjects.
COLORS = (
  '#0072b2',
  '#d55e00',
  '#009e73',
  '#cc79a7',
  '#56b4e9',
  '#e69f00',
  '#000000',
  '#808080',
)
MARKERS = ('o', 's', '^', 'D', 'v', 'P', 'X', '*')
LINES = ('-', '--', '-.', ':')
HATCHES = ('', '///', '...', 'xxx')
_DPI = 150


def series_style(number: int) -> dict:
  """Colour, marker and dash of a series; no two of the first 32 are alike.

  Args:
    number: Place of the series among those of the picture, from 0.

  Returns:
    Keyword arguments of `Axes.plot`.
  """
  return {
    'color': COLORS[number % len(COLORS)],
    'marker': MARKERS[number % len(MARKERS)],
    'linestyle': LINES[number // len(COLORS) % len(LINES)],
  }


def bar_style(number: int) -> dict:
  """Colour and hatch of a series; no two of the first 32 are alike.

  Args:
    number: Place of the series among those of the picture, from 0.

  Returns:
    Keyword arguments of `Axes.bar`.
  """
  return {
    'color': COLORS[number % len(COLORS)],
    'hatch': HATCHES[number // len(COLORS) % len(HATCHES)],
    'edgecolor': 'white',
  }


def new_figure(
  columns: int = 1, *, rows: int = 1, width: float = 5.0, height: float = 3.2
):
  """An empty figure and its axes in a grid.

  Args:
    columns: Number of axes side by side.
    rows: Number of axes below each other.
    width: Of one axes, in inches.
    height: Of one axes, in inches.

  Returns:
    The figure and a list of its axes, row by row.
  """
  from matplotlib.figure import Figure

  figure = Figure((width * columns, height * rows), layout='constrained')
  axes = [
    figure.add_subplot(rows, columns, i + 1) for i in range(columns * rows)
  ]
  for one in axes:
    one.spines[['top', 'right']].set_visible(False)
  return figure, axes


def draw_band(axes, points: dict[float, list[float]], **style) -> None:
  """Draws means as a line, with a band of ± 1 standard deviation.

  Args:
    axes: Where.
    points: Place on the x axis -> values, such as one a seed; a single value
      has no band.
    **style: Keyword arguments of `Axes.plot`.
  """
  x, means, spreads = _summarise(points)
  axes.plot(x, means, **style)
  axes.fill_between(
    x,
    means - spreads,
    means + spreads,
    color=style['color'],
    alpha=0.18,
    linewidth=0,
  )


def draw_bars(
  axes, points: dict[float, list[float]], *, place: int, of: int, **style
) -> None:
  """Draws means as bars from zero, with a whisker of ± 1 standard deviation.

  Args:
    axes: Where.
    points: Place on the x axis, a whole number -> values, such as one a seed;
      a single value has no whisker.
    place: Which of the bars that stand together it is, from 0.
    of: Number of bars that stand together.
    **style: Keyword arguments of `Axes.bar`.
  """
  x, means, spreads = _summarise(points)
  width = 0.84 / of
  axes.bar(
    np.array(x) + (place - (of - 1) / 2) * width,
    means,
    width,
    yerr=spreads,
    error_kw={'elinewidth': 1, 'ecolor': '#606060'},
    **style,
  )


def _summarise(
  points: dict[float, list[float]],
) -> tuple[list[float], np.ndarray, np.ndarray]:
  """Places in order, with mean and standard deviation of their values."""
  x = sorted(points)
  means = np.array([np.mean(points[place]) for place in x])
  spreads = np.array(
    [
      np.std(points[place], ddof=1) if len(points[place]) > 1 else 0.0
      for place in x
    ]
  )
  return x, means, spreads


def add_legend(figure) -> None:
  """One legend below all axes: each label once, in the order it was drawn.

  The figure grows by it.
  """
  handles: dict = {}
  for axes in figure.axes:
    for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
      handles.setdefault(label, handle)
  # Widths of a letter and of the rest of an entry, height of a line, in inches.
  entry = 0.065 * max(map(len, handles)) + 0.6
  columns = min(max(1, int(figure.get_figwidth() / entry)), len(handles))
  lines = -(-len(handles) // columns)
  figure.set_figheight(figure.get_figheight() + 0.2 * lines + 0.1)
  figure.legend(
    handles.values(),
    handles.keys(),
    loc='outside lower center',
    ncols=columns,
    frameon=False,
    fontsize='small',
  )


def png(figure) -> bytes:
  """The figure as the bytes of a PNG file."""
  from matplotlib.backends.backend_agg import FigureCanvasAgg

  buffer = io.BytesIO()
  figure.set_dpi(_DPI)
  FigureCanvasAgg(figure).print_png(buffer)
  return buffer.getvalue()


def save(figure, path: str) -> str:
  """Writes the figure as a PNG file, its folder made; returns the path."""
  os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
  with open(path, 'wb') as f:
    f.write(png(figure))
  return path
