"""Hooks of the site: equations become MathML, code blocks must fit the page, and the search must find what people seek.

Browsers render MathML natively, so the pages load nothing from elsewhere.
"""

import html
import json
import pathlib
import re

CODE_COLUMNS = 80  # the theme cuts off longer lines

_CELL = re.compile(r"<t([dh])\b.*?</t\1>", re.DOTALL)
_CODE = re.compile(r"(?<=<code>)[^<]+(?=</code>)")
_WORD_END = re.compile(r"(?<=[._/(=,])(?=\w)|(?<=[a-z])(?=[A-Z][a-z])")  # in `module.ClassName(argument=1)`

_EQUATION = re.compile(r'<(div|span) class="arithmatex">(.*?)</\1>', re.DOTALL)


def on_files(files, config, **kwargs):
    """Add every tutorial as a notebook without outputs, to be downloaded."""
    import jupytext
    from mkdocs.structure.files import File

    for source in sorted(pathlib.Path(config.docs_dir, "tutorials").glob("*.py")):
        notebook = jupytext.writes(jupytext.read(source), fmt="ipynb")
        files.append(File.generated(config, f"tutorials/{source.stem}.ipynb", content=notebook))
    return files


def on_page_markdown(markdown, page, **kwargs):
    """Raise if a line of a code block is too long for the page."""
    check_code_columns(markdown, page.file.src_uri)


def on_post_page(output, page, **kwargs):
    """Raise if an example of a docstring is too long for the page, and let code in tables break between its words."""
    check_rendered_columns(output, page.file.src_uri)
    return _CELL.sub(lambda cell: _CODE.sub(lambda code: _WORD_END.sub("<wbr>", code.group()), cell.group()), output)


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


def check_rendered_columns(output, name):
    """Raise a `ValueError` for the lines of code of a built page that are longer than `CODE_COLUMNS`."""
    code = "\n".join(re.findall(r"<pre>(.*?)</pre>", output, re.DOTALL))
    lines = [line for line in html.unescape(re.sub(r"<[^>]+>", "", code)).splitlines() if len(line) > CODE_COLUMNS]
    if lines:
        raise ValueError(f"{name}: code has at most {CODE_COLUMNS} columns. Break these lines:\n" + "\n".join(lines))


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


SEARCHES = ("class imbalance", "long tail", "label noise", "knowledge distillation Keras")
"""What people look for; the search of the site finds a page for each."""


def on_post_build(config, **kwargs):
    """Raise if the search has no section with all words of one of `SEARCHES`."""
    index = json.loads(pathlib.Path(config.site_dir, "search", "search_index.json").read_text())
    check_searches(index["docs"])


def check_searches(sections):
    """Raise a `ValueError` for the `SEARCHES` whose words are together in no section of the site."""
    texts = [f"{section['title']} {section['text']}".lower() for section in sections]
    missing = [words for words in SEARCHES if not any(_has_all(words.lower().split(), text) for text in texts)]
    if missing:
        raise ValueError(f"The search of the site finds no page for: {', '.join(missing)}. Write about it.")


def _has_all(words, text):
    return all(re.search(rf"\b{word}", text) for word in words)
