"""What the documentation's site has beside the pages in docs/: mkdocs calls these functions (its "hooks").

Pages from elsewhere in the tree (README, changelog, bench) are taken in, and links to files that are no pages become plain
text; the reference of the command is made from the option table, as the manual pages are.  The navigation takes in every page
of a directory by `NAME/*`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

TOP = Path(__file__).resolve().parent.parent
TAKEN = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md", "bench/README.md": "bench.md"}
LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]+)\)")


def on_config(config: Any) -> Any:
    """Fill in the navigation from the directories that it names, and what is in no other place."""
    config["nav"] = [_expanded(entry) for entry in config["nav"]]
    named = set(_pages(config["nav"]))
    rest = sorted(str(path.relative_to(TOP / "docs")) for path in (TOP / "docs").glob("*.md"))
    missing = [page for page in [*rest, "contributing.md"] if page not in named]
    config["nav"].append({"More": missing})
    return config


def _expanded(entry: Any) -> Any:
    if isinstance(entry, dict):
        return {title: _expanded(value) for title, value in entry.items()}
    if isinstance(entry, list):
        found: list[Any] = []
        for one in entry:
            made = _expanded(one)
            found += made if isinstance(one, str) and one.endswith("/*") else [made]
        return found
    if isinstance(entry, str) and entry.endswith("/*"):
        return sorted(str(path.relative_to(TOP / "docs")) for path in (TOP / "docs" / entry[:-2]).glob("*.md"))
    return entry


def _pages(entry: Any) -> list[str]:
    if isinstance(entry, str):
        return [entry]
    values = entry.values() if isinstance(entry, dict) else entry
    return [page for value in values for page in _pages(value)]


def on_files(files: Files, *, config: Any) -> Files:
    """Add the pages that are made or live elsewhere."""
    for source, page in TAKEN.items():
        files.append(File.generated(config, page, content=(TOP / source).read_text()))
    files.append(File.generated(config, "reference/command.md", content=command()))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Files) -> str:
    """Lead links to where the site has the page; a file that is no page is only named."""
    source = next((name for name, taken in TAKEN.items() if taken == page.file.src_uri), f"docs/{page.file.src_uri}")

    def lead(match: re.Match[str]) -> str:
        text, target = match[1], match[2]
        if "://" in target or target.startswith(("#", "mailto:")):
            return match[0]
        path, _, anchor = target.partition("#")
        place = (TOP / source).parent.joinpath(path).resolve()
        if not place.is_relative_to(TOP):
            return match[0]
        inside = str(place.relative_to(TOP))
        wanted = TAKEN.get(inside) or (inside.removeprefix("docs/") if inside.startswith("docs/") else "")
        if not wanted or files.get_file_from_path(wanted) is None:
            return text
        up = "../" * page.file.src_uri.count("/")
        return f"[{text}]({up}{wanted}{'#' + anchor if anchor else ''})"

    parts = re.split(r"(^```.*?^```$)", markdown, flags=re.M | re.S)  # code is left alone
    return "".join(part if part.startswith("```") else LINK.sub(lead, part) for part in parts)


def command() -> str:
    """The help of every verb, as the command prints it."""
    from pyrun.cli.help import overview, parser, visible

    lines = ["# The command", "", "```text", overview().strip(), "```", ""]
    for verb in visible():
        lines += [f"## {verb}", "", "```text", parser(verb).format_help().strip(), "```", ""]
    return "\n".join(lines)
