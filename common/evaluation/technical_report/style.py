"""The style of a report: a page to read and to print on A4, with fonts that machines have."""

STYLE = """\
:root { --ink: #1b1b1a; --soft: #66645f; --rule: #d8d4cb; --accent: #1f4e79; --own: #f3f0e8; }
@page { size: A4; margin: 19mm 17mm 20mm; }
* { box-sizing: border-box; }
html { font-size: 17px; }
body {
  margin: 0 auto; padding: 4rem 1.5rem 6rem; max-width: 54rem; color: var(--ink);
  background: #fffefb; line-height: 1.5; text-rendering: optimizeLegibility;
  font-family: "Source Serif 4", "Source Serif Pro", Charter, "Bitstream Charter", Georgia,
    "Liberation Serif", "DejaVu Serif", serif;
}
h1, h2, h3, nav, table, figcaption, .note, .files, code, pre {
  font-family: "Source Sans 3", "Source Sans Pro", "Helvetica Neue", Arial, "Liberation Sans",
    "DejaVu Sans", sans-serif;
}
header { border-bottom: 2px solid var(--ink); padding-bottom: 1.1rem; margin-bottom: 1.4rem; }
h1 { font-size: 2.3rem; line-height: 1.12; margin: 0 0 .5rem; letter-spacing: -.015em; }
header p { margin: 0; color: var(--soft); }
nav ol { list-style: none; margin: 0 0 2.5rem; padding: 0; columns: 2; column-gap: 2.5rem; }
nav li { break-inside: avoid; margin: 0; font-size: .88rem; line-height: 1.75; }
nav a { color: inherit; text-decoration: none; }
nav span, h2 span { display: inline-block; min-width: 1.9rem; padding-right: .6rem;
  color: var(--accent); }
section { margin-top: 3.2rem; }
h2 { font-size: 1.5rem; line-height: 1.2; margin: 0 0 1rem; padding-top: .7rem;
  border-top: 1px solid var(--rule); }
h3 { font-size: 1.02rem; margin: 2rem 0 .6rem; color: var(--accent); }
p, ul { margin: .6rem 0 .9rem; }
p { hyphens: auto; }
ul { padding-left: 1.15rem; }
li { margin: .22rem 0; }
li::marker { color: var(--soft); }
a { color: var(--accent); text-decoration-thickness: 1px; text-underline-offset: 2px; }
code, pre { font-family: "Source Code Pro", "SF Mono", Consolas, "Liberation Mono",
  "DejaVu Sans Mono", monospace; font-size: .8em; }
pre, p > code:only-child { white-space: pre-wrap; overflow-wrap: anywhere; }
figure { margin: 1.4rem 0 1.9rem; }
.sheet + figcaption { margin-top: .8rem; }
figure img { display: block; max-width: 100%; height: auto; margin: 0 auto .5rem; }
figcaption { font-size: .8rem; line-height: 1.4; color: var(--soft); }
figcaption b { color: var(--ink); }
figure.table figcaption { margin-bottom: .4rem; }
figure.table > div { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .8rem; line-height: 1.32;
  font-variant-numeric: tabular-nums lining-nums; border-top: 1.5px solid var(--ink);
  border-bottom: 1.5px solid var(--ink); }
table.small { font-size: .7rem; }
table.narrow { width: auto; min-width: 24rem; }
figure.short { break-inside: avoid; }
thead th { font-weight: 600; vertical-align: bottom; border-bottom: 1px solid var(--ink); }
th, td { padding: .3rem .45rem; }
th:first-child, td:first-child { padding-left: .2rem; }
th:last-child, td:last-child { padding-right: .2rem; }
tbody tr + tr td { border-top: 1px solid #ece8df; }
.word { text-align: left; }
.number { text-align: right; }
td.number { white-space: nowrap; }
td.word { overflow-wrap: anywhere; }
td:first-child.word { overflow-wrap: break-word; }
tr.own td { background: var(--own); font-weight: 600; }
.note { font-size: .72rem; color: var(--soft); margin: .35rem 0 0; line-height: 1.4; }
.note code { font-size: 1em; }
.missing { color: #a2542b; font-style: italic; font-size: .92em; }
.published { color: var(--soft); }
.figure { cursor: help; }
.marks { font-size: .68rem; color: var(--soft); white-space: nowrap; }
.marks a { color: inherit; text-decoration: none; }
.files { margin-top: -.5rem; }
.sheet { display: grid; grid-template-columns: repeat(4, 1fr); gap: 1rem .8rem; }
.card { font: .68rem/1.35 "Helvetica Neue", Arial, "Liberation Sans", sans-serif;
  break-inside: avoid; }
.card img { width: 100%; aspect-ratio: 1; object-fit: fill; margin: 0 0 .3rem; border-radius: 2px; }
.card img.picture { image-rendering: pixelated; }
.card p { margin: 0; hyphens: none; overflow-wrap: anywhere; }
.card .asked { color: var(--soft); }
.hit { color: #22682a; font-weight: 600; }
.miss { color: #a3281f; font-weight: 600; }
.file-list { font-size: .82rem; columns: 1; padding-left: 2rem; }
.file-list li::marker { font-variant-numeric: tabular-nums; }
@media print {
  html { font-size: 10.2pt; }
  body { max-width: none; padding: 0; background: none; }
  a { color: inherit; text-decoration: none; }
  section { margin-top: 1.6rem; }
  h2, h3, figure.table figcaption { break-after: avoid; }
  figure:not(.table), tr, li { break-inside: avoid; }
  figure img { max-height: 225mm; }
  thead { display: table-header-group; }
  p, li { orphans: 3; widows: 3; }
  figure.table > div { overflow: visible; }
}
"""
