"""The report as one HTML file that needs nothing else."""

import base64
import html
import re
import struct

from bt4rec.report_content import Picture, Section
from bt4rec.report_tables import Table

_STYLE = """
:root {
  color-scheme: light dark;
  --text: #1b1f24; --soft: #57606a; --line: #d0d7de; --back: #ffffff;
  --raised: #f6f8fa; --good: #0a6640; --bad: #a3300b;
}
@media (prefers-color-scheme: dark) {
  :root {
    --text: #e6e6e6; --soft: #9aa4af; --line: #3a424c; --back: #14181d;
    --raised: #1c2229; --good: #5fd39a; --bad: #ff9b78;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 1rem; max-width: 76rem; color: var(--text);
  background: var(--back); font: 16px/1.5 system-ui, sans-serif;
}
h1 { font-size: 1.6rem; line-height: 1.2; margin: 1rem 0; }
h2 { font-size: 1.3rem; margin: 2.5rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem; }
p { max-width: 46rem; }
nav a { margin-right: 1rem; }
a { color: inherit; }
.wide { overflow-x: auto; }
table {
  border-collapse: collapse; font-size: .8125rem;
  font-variant-numeric: tabular-nums;
}
th, td {
  padding: .3rem .5rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line);
}
thead th { border-bottom: 2px solid var(--line); vertical-align: bottom; }
th:first-child { text-align: left; }
tbody th {
  font-weight: normal; position: sticky; left: 0; background: var(--back);
}
.own > th { font-weight: 600; }
.gain > * { color: var(--soft); background: var(--raised); }
.gain .good { color: var(--good); font-weight: 600; }
.gain .bad { color: var(--bad); font-weight: 600; }
td small { display: block; font-size: .75rem; }
figure { margin: 1rem 0 2rem; }
figure img {
  display: block; max-width: 100%; height: auto; padding: .5rem;
  background: #ffffff; border: 1px solid var(--line); border-radius: .4rem;
}
figcaption, footer, .note { color: var(--soft); font-size: .875rem; }
dl {
  display: grid; grid-template-columns: max-content 1fr; gap: .3rem 1rem;
  font-size: .875rem;
}
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 40rem) {
  body { padding: .75rem; }
  tbody th:first-child { white-space: normal; min-width: 9rem; }
  dl { grid-template-columns: 1fr; gap: 0; }
  dd { margin-bottom: .5rem; }
}
@media print {
  :root {
    --text: #000; --soft: #333; --line: #999; --back: #fff; --raised: #eee;
    --good: #000; --bad: #000;
  }
  body { max-width: none; padding: 0; font-size: 10pt; }
  nav { display: none; }
  .wide { overflow: visible; }
  figure img { min-width: 0 !important; border: none; padding: 0; }
  table { font-size: 7.5pt; }
  th, td { padding: .15rem .35rem; }
  tbody th:first-child { white-space: normal; }
  h2, h3 { break-after: avoid; }
  figure, tr { break-inside: avoid; }
}
"""
# Pixels on the screen for one of a picture.
_SCALE = 0.78


def to_html(sections: list[Section], made_by: str) -> str:
  """Writes the report as one page: the plots inside, no script, no network.

  Args:
    sections: The content.
    made_by: The command that makes the report again.

  Returns:
    The text of an HTML file.
  """
  names = [html.escape(section.dataset) for section in sections]
  links = ''.join(
    f'<a href="#section-{i}">{name}</a>' for i, name in enumerate(names)
  )
  body = '\n'.join(_section(i, section) for i, section in enumerate(sections))
  return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>bt4rec: {', '.join(names)}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>bt4rec: what pre-training is worth</h1>
{f'<nav>{links}</nav>' if len(names) > 1 else ''}
{body}
<footer>Made by <code>{html.escape(made_by)}</code></footer>
</body>
</html>
"""


def _section(number: int, section: Section) -> str:
  notes = '\n'.join(
    f'<p class="note">{html.escape(note)}</p>' for note in section.notes
  )
  facts = ''.join(
    f'<dt>{html.escape(name)}</dt><dd>{html.escape(fact)}</dd>'
    for name, fact in section.provenance.items()
  )
  return '\n'.join(
    [
      '<section>',
      f'<h2 id="section-{number}">{html.escape(section.dataset)}</h2>',
      notes,
      *map(_table, section.tables),
      *(_figure(section.dataset, picture) for picture in section.pictures),
      *map(_table, section.details),
      f'<h3>Provenance</h3>\n<dl>{facts}</dl>',
      '</section>',
    ]
  )


def _table(table: Table) -> str:
  title, *columns = map(html.escape, table.header)
  head = ''.join(f'<th scope="col">{name}</th>' for name in ['', *columns])
  rows = []
  for name, *cells in table.rows:
    kind = _kind_of(name)
    body = ''.join(f'<td>{_cell(cell)}</td>' for cell in cells)
    rows.append(
      f'<tr{kind}><th scope="row">{html.escape(name)}</th>{body}</tr>'
    )
  return (
    f'<h3>{title}</h3>\n<div class="wide"><table>\n<thead><tr>{head}</tr>'
    f'</thead>\n<tbody>\n' + '\n'.join(rows) + '\n</tbody></table></div>'
  )


def _kind_of(name: str) -> str:
  """The class of a row: gains stand apart, Barlow Twins stands out."""
  if name.startswith('gain'):
    return ' class="gain"'
  return ' class="own"' if name.startswith('barlow_twins') else ''


def _cell(text: str) -> str:
  """A cell; a gain whose interval leaves out 0 says so by its colour."""
  interval = re.fullmatch(r'(\S+) (\[(\S+), (\S+)\])', text)
  if not interval:
    return html.escape(text)
  gain, whole, low, high = interval.groups()
  kind = 'good' if float(low) > 0 else 'bad' if float(high) < 0 else ''
  return f'<span class="{kind}">{gain}</span> <small>{whole}</small>'


def _figure(dataset: str, picture: Picture) -> str:
  data = base64.b64encode(picture.png).decode()
  title = html.escape(picture.title)
  alt = f'{title}, {html.escape(dataset)}'
  # The size as PNG files have it, after signature, length and name of a chunk.
  size = struct.unpack('>II', picture.png[16:24])
  # Letters as large as those of the text around; a narrow screen scrolls,
  # since shrunk further no label could be read.
  width, height = (round(_SCALE * pixels) for pixels in size)
  return (
    f'<figure>\n<h3>{title}</h3>\n<div class="wide"><img alt="{alt}" '
    f'width="{width}" height="{height}" style="min-width: {width // 28}rem" '
    f'src="data:image/png;base64,{data}"></div>\n'
    f'<figcaption>{html.escape(picture.caption)}</figcaption>\n</figure>'
  )
