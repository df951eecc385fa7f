"""A report as one page of HTML with plots, which needs nothing else. Pure."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from html import escape
from typing import Any

from warmd.cli.plots import delays_plot, hours_plot, starts_plot
from warmd.cli.report import FROM_WARM, LEGEND, facts, heading
from warmd.cli.words import clean, warnings

_STYLE = """
:root { color-scheme: light dark; --ink: #222; --paper: #fff; --faint: #777; --line: #ddd;
  --hot: #d9480f; --asleep: #4263eb; --staged: #82c91e; --cold: #ced4da; --bar: #4263eb; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e6e6; --paper: #16181c; --faint: #9aa0a6;
  --line: #3a3f46; --hot: #ff8c4a; --asleep: #748ffc; --staged: #a9e34b; --cold: #495057;
  --bar: #748ffc; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h2 { border-top: 1px solid var(--line); padding-top: 1rem; }
dl { display: grid; grid-template-columns: 8rem 1fr; gap: .15rem 1rem; }
dt, .faint, figcaption { color: var(--faint); } dd { margin: 0; }
figure { margin: 1rem 0; overflow-x: auto; } svg text { font-size: 11px; fill: var(--faint); }
.advice { border-left: 4px solid var(--hot); padding-left: .8rem; }
.hot { fill: var(--hot); } .asleep { fill: var(--asleep); } .staged { fill: var(--staged); }
.cold { fill: var(--cold); } .not-known { fill: none; stroke: var(--line); }
.bar { fill: var(--bar); } .stage0 { fill: #868e96; } .stage1 { fill: #4263eb; }
.stage2 { fill: #12b886; } .stage3 { fill: #f59f00; } .stage4 { fill: #be4bdb; }
.stage5 { fill: #d9480f; }
i { display: inline-block; width: .8em; height: .8em; margin: 0 .3em 0 1em; }
i.hot { background: var(--hot); } i.asleep { background: var(--asleep); }
i.staged { background: var(--staged); } i.cold { background: var(--cold); }
"""


def page(answer: Mapping[str, Any], local: Callable[[float], time.struct_time]) -> str:
    """Return the page."""
    return "\n".join(_page(answer, local)) + "\n"


def _page(answer: Mapping[str, Any], local: Callable[[float], time.struct_time]) -> Iterator[str]:
    when = escape(heading(answer, local))
    yield '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width">'
    yield f"<title>warmd: {when}</title><style>{_STYLE}</style></head><body>"
    yield f"<h1>What warmth brought and cost</h1><p>{when}</p>"
    for warning in warnings(answer):
        yield f'<p class="advice">{escape(warning)}</p>'
    if not answer["models"]:
        yield "<p>The history has nothing yet.</p>"
    for name, model in answer["models"].items():
        yield f"<section><h2>{escape(name)}</h2>"
        if model["advice"]:
            yield f'<p class="advice">{escape(clean(model["advice"]))}</p>'
        yield "<dl>"
        for label, fact in facts(model):
            if label not in ("advice", "by hour"):
                yield f"<dt>{escape(label)}</dt><dd>{escape(clean(fact))}</dd>"
        yield "</dl>"
        yield from _plots(model, answer["delay_bounds"])
        yield "</section>"
    yield f'<p class="faint">{escape(LEGEND)}</p></body></html>'


def _plots(model: Mapping[str, Any], bounds: list[float]) -> Iterator[str]:
    if model["days"]:
        colours = "".join(f'<i class="{rung}"></i>{rung}' for rung in FROM_WARM)
        caption = f"where it stood, by the clock of {escape(model['zone'])}{colours}"
        yield _figure(hours_plot(model["days"]), caption)
    if model["first_delays"]:
        plot = delays_plot(bounds, model["first_delays"]["by_bound"])
        yield _figure(plot, "first delays, by how long they lasted")
    took = {f"from {r}": model["starts"][r] for r in FROM_WARM if r in model["starts"]}
    if model["wakes"]:
        took["wakes"] = model["wakes"]
    if took:
        yield _figure(starts_plot(took), "what starts and wakes were made of, median of each stage")


def _figure(plot: str, caption: str) -> str:
    return f"<figure>{plot}<figcaption>{caption}</figcaption></figure>"
