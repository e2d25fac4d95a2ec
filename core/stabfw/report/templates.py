"""Templates that make pages: escaped, self-contained, with a policy that forbids the rest."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

from stabfw.errors import RunError
from stabfw.report import wording
from stabfw.report.thumbnails import data_uri

_HERE = Path(__file__).parent


def render(template: str, *, script: str, **context: Any) -> str:
    """Fill in a page template.

    Everything is escaped. The page's own script is allowed by its hash and nothing else is, so
    that a question cannot bring a script or a request of its own.

    Args:
        template: File name of the template, in this package.
        script: File name of the page's script.
        **context: What the template shows.

    Returns:
        The page.

    Raises:
        RunError: If jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
        from markupsafe import Markup
    except ImportError as error:
        raise RunError(
            "pages need jinja2: install it with `pip install 'stabfw[mlflow]'`"
        ) from error
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": wording.percent,
        "points": wording.points,
        "interval": wording.interval,
        "number": wording.number,
        "p_value": wording.p_value,
        "data_uri": data_uri,
    }
    code = (_HERE / script).read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    return environment.get_template(template).render(
        policy=policy,
        script=Markup(code),
        style=Markup((_HERE / "style.css").read_text(encoding="utf-8")),
        **context,
    )
