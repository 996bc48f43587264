"""What every page that foveal writes shares: its look, its notice, and how templates are rendered."""

from base64 import b64encode

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

NOTICE = "Research software. Not a medical device; not a diagnosis."


def page_environment(package: str) -> Environment:
    """Templates of a package, beside the shared `style.css`; text is escaped, a missing variable an error.

    Args:
        package: whose folder `templates` is used, such as "foveal.screening".
    """
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("foveal")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["notice"] = NOTICE
    return environment


def data_uri(content: bytes, kind: str) -> str:
    """`content` as a data URI of media type image/`kind`, for pages that hold their pictures."""
    return f"data:image/{kind};base64,{b64encode(content).decode('ascii')}"
