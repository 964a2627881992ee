"""How a report looks: light or dark as the reader's screen is, wide or narrow, on paper. No address is in it."""

from __future__ import annotations

STYLE = """
:root {
  --paper: #fcfbf8; --card: #ffffff; --ink: #1d2329; --quiet: #5d6672; --line: #e3dfd6;
  --a: #14708f; --b: #c4541a; --c: #7a6aa8; --good: #14708f; --bad: #c4541a; --code: #f3f0e9;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14171b; --card: #1b1f25; --ink: #e5e7ea; --quiet: #9aa4b0; --line: #2f363f;
    --a: #58bfdd; --b: #f0945a; --c: #b3a4e6; --good: #58bfdd; --bad: #f0945a; --code: #20252c;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
body {
  margin: 0 auto; padding: 2.5rem 1.25rem 4rem; max-width: 66rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif;
}
header { border-bottom: 1px solid var(--line); padding-bottom: 1.25rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .35rem; letter-spacing: -.015em; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.75rem 0 .75rem; letter-spacing: -.01em; }
h3 { font-size: .95rem; margin: 1.5rem 0 .5rem; }
p { margin: .5rem 0; max-width: 44rem; overflow-wrap: anywhere; }
.quiet, small { color: var(--quiet); }
a { color: var(--a); text-underline-offset: .15em; }
nav { display: flex; flex-wrap: wrap; gap: .25rem 1.1rem; margin-top: 1rem; font-size: .9rem; }
nav a { text-decoration: none; }
nav a:hover { text-decoration: underline; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: .75rem; margin: 1.25rem 0; }
.cards div { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: .7rem .9rem; }
.cards b { display: block; font-size: 1.35rem; font-weight: 600; letter-spacing: -.01em; overflow-wrap: anywhere; }
.cards span { display: block; font-size: .8rem; color: var(--quiet); }
b, td, th, dd { font-variant-numeric: tabular-nums; }
.notes { border-left: 3px solid var(--b); padding: .1rem 0 .1rem 1rem; margin: 1.25rem 0; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 19rem), 1fr)); gap: 1rem; }
figure { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: .9rem; }
figcaption { font-size: .85rem; color: var(--quiet); display: flex; flex-wrap: wrap; gap: .1rem 1rem; }
figcaption b { color: var(--ink); font-weight: 600; }
svg { display: block; width: 100%; height: auto; margin-top: .4rem; overflow: visible; }
svg text { fill: var(--quiet); font-size: 13px; font-family: inherit; font-variant-numeric: tabular-nums; }
svg .grid { stroke: var(--line); stroke-width: 1; }
svg .line { fill: none; stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
svg .thin { fill: none; stroke-width: 1; stroke-opacity: .45; }
svg .a { stroke: var(--a); } svg .b { stroke: var(--b); } svg .c { stroke: var(--c); }
svg .dot.a, svg .bar.a { fill: var(--a); stroke: none; } svg .dot.b, svg .bar.b { fill: var(--b); stroke: none; }
svg .dot.c, svg .bar.c { fill: var(--c); stroke: none; } svg .cloud { fill-opacity: .35; }
.key::before { content: ""; display: inline-block; width: .8rem; height: .2rem; margin-right: .4rem; }
.key::before { vertical-align: middle; border-radius: 1px; background: var(--a); }
.key.thin::before { opacity: .5; height: .1rem; }
.key.b::before { background: var(--b); } .key.c::before { background: var(--c); }
.scroll { overflow-x: auto; max-width: 100%; }
.scroll:focus-visible { outline: 2px solid var(--a); outline-offset: 2px; }
table { border-collapse: collapse; font-size: .9rem; }
th, td { text-align: left; padding: .32rem .9rem .32rem 0; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { font-weight: 600; color: var(--quiet); font-size: .82rem; }
th:last-child, td:last-child { padding-right: 0; }
th.n, td.n { text-align: right; }
.best td { font-weight: 600; }
.confusion { margin: .5rem 0; }
.confusion th, .confusion td { border: 0; padding: .3rem .5rem; text-align: center; min-width: 2.4rem; }
.confusion th:first-child { text-align: right; }
.confusion .name { max-width: min(14rem, 40vw); overflow: hidden; text-overflow: ellipsis; }
.confusion td { background: color-mix(in srgb, var(--tone) var(--share), var(--card)); border: 1px solid var(--paper); }
.confusion .hit { --tone: var(--good); } .confusion .miss { --tone: var(--bad); }
.s0 { --share: 0%; } .s1 { --share: 14%; } .s2 { --share: 20%; } .s3 { --share: 27%; } .s4 { --share: 34%; }
.s5 { --share: 41%; } .s6 { --share: 48%; } .s7 { --share: 53%; } .s8 { --share: 58%; }
.confusion .s0 { color: var(--quiet); }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); gap: .75rem; }
.pictures figure { padding: .6rem; }
.pictures figcaption { display: block; line-height: 1.4; margin-top: .4rem; overflow-wrap: anywhere; }
img { display: block; width: 100%; height: auto; image-rendering: pixelated; border-radius: .25rem; background: #000; }
.two { display: grid; grid-template-columns: 1fr 1fr; gap: .4rem; }
dl { margin: .5rem 0; display: grid; gap: 0 2rem; }
dl { grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); }
dl > div { display: grid; grid-template-columns: 9rem minmax(0, 1fr); gap: .75rem; padding: .3rem 0; }
dl > div { border-bottom: 1px solid var(--line); font-size: .9rem; }
dt { color: var(--quiet); } dd { margin: 0; overflow-wrap: anywhere; }
code, pre { font: .85em ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
pre { background: var(--code); border-radius: .5rem; padding: .9rem 1rem; overflow-x: auto; line-height: 1.45; }
pre { margin: .6rem 0; max-height: 32rem; overflow-y: auto; tab-size: 4; }
details { margin: .75rem 0; } summary { cursor: pointer; color: var(--a); font-size: .9rem; }
footer { margin-top: 3rem; border-top: 1px solid var(--line); padding-top: 1rem; }
footer { font-size: .85rem; color: var(--quiet); }
@media (max-width: 40rem) {
  body { padding-top: 1.5rem; } h1 { font-size: 1.5rem; } dl > div { grid-template-columns: 7rem minmax(0, 1fr); }
  .pictures { grid-template-columns: repeat(auto-fill, minmax(7.5rem, 1fr)); }
}
@media print {
  :root { --paper: #fff; --card: #fff; --ink: #000; --quiet: #444; --line: #ccc; --code: #f4f4f4; }
  body { max-width: none; padding: 0; font-size: 10pt; } nav { display: none; }
  figure, tr, dl > div { break-inside: avoid; } h2 { break-after: avoid; }
  pre { max-height: none; white-space: pre-wrap; } .scroll { overflow: visible; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""
