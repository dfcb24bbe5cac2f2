"""What finds and fills the HTML templates of this room: all text is escaped, and a name that is missing is an error."""

from jinja2 import Environment, PackageLoader, StrictUndefined


def environment() -> Environment:
    """The templates, by file name; the same values give the same bytes."""
    return Environment(
        loader=PackageLoader("bilstm_attention", "reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
