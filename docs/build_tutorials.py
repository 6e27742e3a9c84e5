"""Execute the tutorials, which are notebooks written as Python with `# %%` cells, and write the pages of the site.

    python docs/build_tutorials.py                      # executes all of them
    python docs/build_tutorials.py first-steps --write  # writes the page of one

A page has the text, the code, and what the code has shown; the figures are in `docs/tutorials/images`.
"""

import argparse
import base64
import os
import pathlib
import re
import tempfile
import textwrap
import time

TUTORIALS = pathlib.Path(__file__).parent / "tutorials"
RECIPES = pathlib.Path(__file__).parents[1] / "recipes"
COLUMNS = 80


def main(names, write):
    for source in sorted(TUTORIALS.glob("*.py")):
        if names and source.stem not in names:
            continue
        start = time.perf_counter()
        notebook = executed(source)
        print(f"{source.stem}: {time.perf_counter() - start:.0f} s", flush=True)
        if write:
            write_page(source, notebook)


def executed(source):
    """The notebook of a source after a run in an empty folder."""
    import jupytext
    from nbclient import NotebookClient

    notebook = jupytext.read(source)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(RECIPES), os.environ.get("PYTHONPATH", "")])  # of the kernel
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(notebook, timeout=900, resources={"metadata": {"path": folder}}).execute()
    return notebook


def write_page(source, notebook):
    """Write the page and its figures."""
    images = TUTORIALS / "images"
    images.mkdir(exist_ok=True)
    for old in images.glob(f"{source.stem}-*.png"):
        old.unlink()
    parts = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
            if len(parts) == 1:  # below the title
                title, _, rest = cell.source.partition("\n")
                parts[0] = f"{title}\n\n[Download the notebook]({source.stem}.ipynb){{ .md-button }}\n{rest}"
            continue
        parts.append(f"```python\n{cell.source.strip()}\n```")
        parts += [part for output in joined(cell.outputs) if (part := shown(output, source.stem, images))]
    source.with_suffix(".md").write_text("\n\n".join(parts) + "\n")


def joined(outputs):
    """Outputs without errors and warnings; printed text that follows printed text is one output."""
    kept = []
    for output in outputs:
        if output.output_type == "stream" and output.name == "stderr":
            continue
        if kept and output.output_type == kept[-1].output_type == "stream":
            kept[-1].text += output.text
        else:
            kept.append(output)
    return kept


def shown(output, name, images):
    """An output as Markdown; `None` for what a page cannot show, such as a progress bar."""
    if output.output_type == "stream":
        return fenced(output.text)
    data = output.get("data", {})
    if any("widget" in kind for kind in data):
        return None
    if "image/png" in data:
        path = images / f"{name}-{len(list(images.glob(f'{name}-*.png'))) + 1}.png"
        path.write_bytes(base64.b64decode(data["image/png"]))
        return f"![Figure of the cell above](images/{path.name})"
    return fenced(data["text/plain"]) if "text/plain" in data else None


def fenced(text):
    """Text in a block, without colours and wrapped to the columns of the site."""
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).strip("\n")
    lines = [part for line in text.splitlines() for part in textwrap.wrap(line, COLUMNS) or [""]]
    return "```{ .text .no-copy }\n" + "\n".join(lines) + "\n```" if lines else None


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="tutorials to execute; by default all")
    parser.add_argument("--write", action="store_true", help="write the pages of the site")
    arguments = parser.parse_args()
    main(arguments.names, arguments.write)
