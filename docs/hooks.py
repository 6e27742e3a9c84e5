"""Equations become MathML while the site is built: browsers render it by themselves, and nothing is fetched."""

import html
import re

from latex2mathml.converter import convert

_EQUATION = re.compile(r'<(div|span) class="arithmatex">(.*?)</\1>', re.DOTALL)


def on_page_content(content, **kwargs):
    """Replace what `pymdownx.arithmatex` has marked."""

    def rendered(match):
        block = match.group(1) == "div"
        latex = html.unescape(match.group(2)).strip()[2:-2]
        mathml = convert(latex, display="block" if block else "inline")
        # Wide equations scroll by themselves instead of widening the page of a phone.
        return f'<div style="overflow: auto hidden; padding: 0.4em 0">{mathml}</div>' if block else mathml

    return _EQUATION.sub(rendered, content)
