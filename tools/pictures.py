"""Draws the pictures of docs/pictures: boxes and arrows, as SVG that follows the reader's colours.

python tools/pictures.py DIRECTORY
"""

from __future__ import annotations

import sys
from html import escape
from pathlib import Path

STYLE = (
    "svg{font:14px sans-serif;color:#1a1a2e}"
    "@media(prefers-color-scheme:dark){svg{color:#e6e6f0}}"
    ".b{fill:none;stroke:currentColor;stroke-width:1.5}.z{fill:currentColor;opacity:.06}"
    ".t{fill:currentColor;text-anchor:middle}.s{fill:currentColor;text-anchor:middle;font-size:11px;opacity:.75}"
    ".a{stroke:currentColor;stroke-width:1.5;fill:none;marker-end:url(#h)}"
)
HEAD = (
    '<marker id="h" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
    '<path d="M0 0 8 4 0 8z" fill="currentColor"/></marker>'
)

Place = tuple[float, float]


class Picture:
    """A picture that grows."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self.parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">',
            f"<title>{escape(title)}</title><style>{STYLE}</style><defs>{HEAD}</defs>",
        ]

    def zone(self, x: int, y: int, width: int, height: int, title: str) -> None:
        """A shaded field with a title in its upper corner."""
        self.parts.append(f'<rect class="z" x="{x}" y="{y}" width="{width}" height="{height}" rx="8"/>')
        self.parts.append(f'<text class="s" style="text-anchor:start" x="{x + 10}" y="{y + 18}">{escape(title)}</text>')

    def box(self, x: int, y: int, title: str, *lines: str, width: int = 150) -> None:
        """A box around the place (x, y)."""
        height = 34 + 15 * len(lines)
        self.parts.append(f'<rect class="b" x="{x - width // 2}" y="{y - height // 2}" width="{width}" height="{height}" rx="6"/>')
        top = y - height // 2 + 22
        self.parts.append(f'<text class="t" x="{x}" y="{top}">{escape(title)}</text>')
        self.parts += [f'<text class="s" x="{x}" y="{top + 16 + 15 * i}">{escape(line)}</text>' for i, line in enumerate(lines)]

    def arrow(self, start: Place, end: Place, label: str = "", *, dx: int = 0, dy: int = -6) -> None:
        """An arrow, with a word at its middle."""
        self.parts.append(f'<path class="a" d="M{start[0]} {start[1]} {end[0]} {end[1]}"/>')
        if label:
            x, y = (start[0] + end[0]) / 2 + dx, (start[1] + end[1]) / 2 + dy
            self.parts.append(f'<text class="s" x="{x:g}" y="{y:g}">{escape(label)}</text>')

    def text(self) -> str:
        """The whole file."""
        return "\n".join([*self.parts, "</svg>", ""])


def stages() -> Picture:
    """Who decides, who does, who stays."""
    made = Picture(860, 300, "The three stages")
    made.zone(10, 10, 260, 280, "stage 0: Python, decides, then is gone")
    made.zone(290, 10, 330, 280, "stage 1: native, does, and stays")
    made.zone(640, 10, 210, 280, "stage 2: the container")
    made.box(140, 80, "flags and image", "run, prepare, import pyrun", width=200)
    made.box(140, 160, "Config", "every name resolved", width=200)
    made.box(140, 240, "Plan", "some eighty operations", width=200)
    made.box(455, 80, "supervisor", "host side: waits, cleans up", width=220)
    made.box(455, 220, "init", "process 1 of the pod:", "operations, then reaps", width=220)
    made.box(745, 220, "the app", "not trusted", width=150)
    made.arrow((140, 105), (140, 135))
    made.arrow((140, 185), (140, 215))
    made.arrow((240, 240), (344, 100), "sealed memfd", dx=54, dy=10)
    made.arrow((430, 105), (430, 187), "clone3", dx=-28)
    made.arrow((480, 187), (480, 105), "exit status", dx=38)
    made.arrow((565, 212), (669, 212), "execve")
    made.arrow((669, 232), (566, 232), "reaped", dy=16)
    return made


def states() -> Picture:
    """A pod's way."""
    made = Picture(860, 280, "States of a pod")
    for x, title, line in (
        (90, "preparing", "being made"),
        (260, "prepared", "waits for its start"),
        (430, "running", "locked by its supervisor"),
    ):
        made.box(x, 70, title, line, width=140)
    made.box(620, 70, "exited", "kept, to be looked at", width=140)
    made.box(620, 230, "garbage", "being deleted", width=140)
    made.box(430, 150, "paused", "every process stopped", width=140)
    made.arrow((160, 70), (189, 70))
    made.arrow((330, 70), (359, 70), "start")
    made.arrow((500, 70), (549, 70), "ends, keep")
    made.arrow((560, 95), (500, 95), "restart", dy=15)
    made.arrow((495, 95), (590, 204), "ends", dx=-6, dy=18)
    made.arrow((640, 95), (640, 204), "rm, gc", dx=26)
    made.arrow((90, 95), (549, 232), "its maker died", dx=-30, dy=28)
    made.arrow((410, 95), (410, 124), "pause", dx=-24, dy=4)
    made.arrow((450, 124), (450, 95), "resume", dx=24, dy=4)
    made.arrow((690, 230), (800, 230), "nothing is left")
    return made


def flow() -> Picture:
    """From bytes of strangers to system calls."""
    made = Picture(860, 320, "Where data flows")
    made.zone(10, 10, 400, 300, "whoever made the image")
    made.zone(430, 10, 420, 300, "whoever runs it")
    made.box(110, 70, "archive, signature", "file, server, registry", width=170)
    made.box(310, 70, "gpgv, cosign keys", "is it trusted?", width=150)
    made.box(310, 170, "unpack worker", "confined, no exec, no socket", width=180)
    made.box(110, 250, "store", "blobs, layers, by digest", width=170)
    made.box(540, 70, "flags, keywords", width=150)
    made.box(540, 170, "Config, Plan", "values, pure functions", width=160)
    made.box(740, 170, "helper", "checks every offset", width=150)
    made.box(740, 260, "kernel", "namespaces, mounts, limits", width=180)
    made.arrow((195, 70), (234, 70))
    made.arrow((310, 95), (310, 144), "only then", dx=34)
    made.arrow((240, 195), (190, 232))
    made.arrow((195, 250), (459, 180), "manifest, layers", dy=-10)
    made.arrow((540, 88), (540, 144))
    made.arrow((620, 170), (664, 170), "plan")
    made.arrow((740, 195), (740, 234))
    made.arrow((650, 258), (570, 196), "(operation, errno)", dx=-66, dy=16)
    return made


PICTURES = {"stages": stages, "states": states, "flow": flow}


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in PICTURES.items():
        (folder / f"{name}.svg").write_text(draw().text())


if __name__ == "__main__":
    main()
