"""Pages from templates: each is one file that needs nothing beside itself.

What users may have written, names of layers and folders among it, is escaped by jinja2; the pages' own policy forbids any request.
"""

from __future__ import annotations

from importlib import resources
from typing import Any

from gngraph.report.drawing import Picture

WIDE = 7.0
"""Inches from which a figure has a line of the page to itself."""


def rendered(template: str, **values: Any) -> str:
    """A page as text, HTML.

    Args:
        template: a file of the folder `page`.
        values: what it shows; "title" among them.
    """
    from importlib.metadata import version

    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    own = resources.files("gngraph.report") / "page"
    environment = Environment(
        loader=PackageLoader("gngraph.report", "page"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    style, script = (Markup((own / name).read_text("utf-8")) for name in ("report.css", "report.js"))
    return environment.get_template(template).render(style=style, script=script, version=version("gngraph"), **values)


def chart_of(picture: Picture) -> dict[str, Any]:
    """A picture as templates show it.

    Args:
        picture: the picture.
    """
    wide = picture.figure.get_figwidth() > WIDE
    return {"title": picture.title, "svg": picture.svg(), "reading": picture.reading, "wide": wide}
