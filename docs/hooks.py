"""Hooks of the site: equations become MathML, and code blocks must fit the page.

Browsers render MathML natively, so the pages load nothing from elsewhere.
"""

import html
import re

CODE_COLUMNS = 80  # the theme cuts off longer lines

_EQUATION = re.compile(r'<(div|span) class="arithmatex">(.*?)</\1>', re.DOTALL)


def on_page_markdown(markdown, page, **kwargs):
    """Raise if a line of a code block is too long for the page."""
    check_code_columns(markdown, page.file.src_uri)


def check_code_columns(markdown, name):
    """Raise a `ValueError` for the lines of fenced code blocks that are longer than `CODE_COLUMNS`."""
    in_code, too_long = False, []
    for number, line in enumerate(markdown.splitlines(), start=1):
        if line.lstrip().startswith("```"):
            in_code = not in_code
        elif in_code and len(line) > CODE_COLUMNS:
            too_long.append(f"{name}:{number} has {len(line)} columns")
    if too_long:
        raise ValueError(
            f"Code blocks have at most {CODE_COLUMNS} columns, so that nothing is cut off. Break these lines: "
            + "; ".join(too_long)
        )


def on_page_content(content, **kwargs):
    """Replace what `pymdownx.arithmatex` has marked."""
    # Imported here because the tests, which use the check above, run without the packages of the site.
    from latex2mathml.converter import convert

    def rendered(match):
        block = match.group(1) == "div"
        latex = html.unescape(match.group(2)).strip()[2:-2]
        mathml = convert(latex, display="block" if block else "inline")
        # On a phone, a wide equation scrolls on its own and does not widen the page.
        return f'<div style="overflow: auto hidden; padding: 0.4em 0">{mathml}</div>' if block else mathml

    return _EQUATION.sub(rendered, content)
