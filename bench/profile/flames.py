"""A flame graph as one SVG file: no script from elsewhere, titles tell shares, a click zooms."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from xml.sax.saxutils import escape, quoteattr

from bench.profile.stacks import is_kernel

_WIDTH = 1200
_ROW = 17
_TOP = 44
_CHARACTER = 6.6
_NARROWEST = 0.8
"""Pixels below which a box is left out; its time is in the box below it."""

_SCRIPT = """
var all = document.querySelectorAll('g[data-x]'), W = %d;
function show(x, w) {
  all.forEach(function (g) {
    var gx = +g.dataset.x, gw = +g.dataset.w, r = g.querySelector('rect'), t = g.querySelector('text');
    var left = Math.max(0, (gx - x) / w * W), right = Math.min(W, (gx + gw - x) / w * W);
    g.style.display = right - left < 0.4 ? 'none' : '';
    r.setAttribute('x', left); r.setAttribute('width', Math.max(0, right - left));
    if (t) {
      var n = Math.floor((right - left - 6) / %s), s = g.dataset.n;
      t.setAttribute('x', left + 3); t.textContent = n < 3 ? '' : n < s.length ? s.slice(0, n - 1) + '\u2026' : s;
    }
  });
}
all.forEach(function (g) { g.onclick = function () { show(+g.dataset.x, +g.dataset.w); }; });
"""  # noqa: E501


@dataclass(slots=True)
class _Node:
    seconds: float = 0.0
    below: dict[str, _Node] = field(default_factory=dict)


def draw(stacks: Mapping[tuple[str, ...], float], title: str) -> str:
    """The text of the file: CPU seconds by stack, outermost first."""
    root = _Node()
    for stack, seconds in stacks.items():
        node = root
        node.seconds += seconds
        for frame in stack:
            node = node.below.setdefault(frame, _Node())
            node.seconds += seconds
    boxes = list(_boxes("all", root, 0, 0.0, root.seconds or 1.0))
    depth = max(level for _, _, level, _, _ in boxes) + 1
    height = _TOP + depth * _ROW + 10
    pieces = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        f'width="{_WIDTH}" height="{height}" font-family="monospace" font-size="11">',
        '<rect width="100%" height="100%" fill="#fdfdfb"/>',
        f'<text x="8" y="18" font-size="14">{escape(title)}</text>',
        '<text x="8" y="34" fill="#666">width: CPU time; blue: kernels; a click zooms, '
        "on the lowest box back</text>",
    ]
    for name, seconds, level, x, width in boxes:
        y = height - 10 - (level + 1) * _ROW
        share = 100 * seconds / (root.seconds or 1.0)
        shown = max(0, int((width - 6) / _CHARACTER))
        text = name if shown >= len(name) else name[: shown - 1] + "…" if shown >= 3 else ""
        pieces.append(
            f'<g data-x="{x:.2f}" data-w="{width:.2f}" data-n={quoteattr(name)}>'
            f"<title>{escape(name)}: {share:.1f} %, {seconds:.3f} s</title>"
            f'<rect x="{x:.2f}" y="{y}" width="{width:.2f}" height="{_ROW - 1}" rx="1" '
            f'fill="{_color(name)}"/>'
            f'<text x="{x + 3:.2f}" y="{y + 12}">{escape(text)}</text></g>'
        )
    script = _SCRIPT % (_WIDTH, _CHARACTER)
    pieces.append(f"<script><![CDATA[{script}]]></script></svg>")
    return "\n".join(pieces) + "\n"


def _boxes(
    name: str, node: _Node, level: int, x: float, total: float
) -> Iterator[tuple[str, float, int, float, float]]:
    """Name, seconds, level, left edge and width of a frame and of those above it."""
    width = node.seconds / total * _WIDTH
    if width < _NARROWEST:
        return
    yield name, node.seconds, level, x, width
    for above, child in sorted(node.below.items()):
        yield from _boxes(above, child, level + 1, x, total)
        x += child.seconds / total * _WIDTH


def _color(name: str) -> str:
    """Kernels blue, our code orange, libraries' yellow; a shade by name."""
    shade = zlib.crc32(name.encode()) % 40
    if is_kernel(name):
        return f"rgb({110 + shade},{160 + shade},230)"
    if "tsengine/" in name or "server/" in name:
        return f"rgb(240,{130 + shade},{70 + shade // 2})"
    return f"rgb(235,{200 + shade // 2},{110 + shade})"
