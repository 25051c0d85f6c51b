"""Hooks of MkDocs: pages of the site that are files outside `docs/`, and links to such files."""

import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    "benchmarks.md": "benchmarks/README.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "seem_nano.md": "ssprompt_hf/assets/seem-nano/README.md",
    "seem_lite.md": "ssprompt_hf/assets/seem-lite/README.md",
}
"""Page of the site -> file of the repository."""

_LINK = re.compile(r"(\]\()([^)#:\s]+)(#[^)\s]*)?\)")


def on_files(files, config):
    """Adds the pages."""
    for page, source in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown, page, config, files):
    """Links of the repository become links of the site; those to files that are no pages become plain text."""
    own = PAGES.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    pages = {source: name for name, source in PAGES.items()}

    def link(match):
        target = posixpath.normpath(posixpath.join(posixpath.dirname(own), match[2]))
        if target in pages:
            name = pages[target]
        elif target.startswith("docs/"):
            name = target.removeprefix("docs/")
        elif (ROOT / target).exists():
            return f"]({_marked_as_file(target)})"
        else:
            return match[0]  # a broken link, of which MkDocs warns
        relative = posixpath.relpath(name, posixpath.dirname(page.file.src_uri) or ".")
        return f"]({relative}{match[3] or ''})"

    text = _LINK.sub(link, markdown)
    # a link to a file of the repository: its name is all that a site can say of it
    return re.sub(r"\[([^\]]+)\]\(file-of-the-repository:[^)]*\)", r"\1", text)


def _marked_as_file(target: str) -> str:
    return f"file-of-the-repository:{target}"
