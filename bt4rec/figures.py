"""The look of every picture: colours, lines and PNG files.

matplotlib, the extra `plots`, is imported by the functions: training does
without it.
"""

import io
import os

# Okabe and Ito's palette, told apart by colour-blind readers, darkest first
# so that neighbours differ in grey too; https://jfly.uni-koeln.de/color/.
COLORS = (
  '#0072b2',
  '#d55e00',
  '#009e73',
  '#cc79a7',
  '#56b4e9',
  '#e69f00',
  '#000000',
)
MARKERS = ('o', 's', '^', 'D', 'v', 'P', 'X')
LINES = ('-', '--', '-.', ':')
_DPI = 150


def series_style(number: int) -> dict:
  """Colour, marker and dash of a series; no two of the first 28 are alike.

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


def new_figure(columns: int = 1, *, width: float = 5.0, height: float = 3.2):
  """An empty figure and its axes side by side.

  Args:
    columns: Number of axes.
    width: Of one axes, in inches.
    height: In inches.

  Returns:
    The figure and a list of its axes.
  """
  from matplotlib.figure import Figure

  figure = Figure((width * columns, height), layout='constrained')
  axes = [figure.add_subplot(1, columns, i + 1) for i in range(columns)]
  for one in axes:
    one.spines[['top', 'right']].set_visible(False)
  return figure, axes


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
