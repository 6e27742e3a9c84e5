"""What the documentation shows is run: every Python block of a page, in order; every command names what exists."""

import functools
import importlib.util
import pathlib
import re
import runpy
import shlex

import keras
import numpy as np
import pytest

import keras_bikd as bikd
import models

ROOT = pathlib.Path(__file__).parents[1]
TUTORIALS = sorted((ROOT / "docs/tutorials").glob("*.py"))
# The pages of the tutorials are made from them by `make tutorial-pages`; `make tutorials` executes their code.
MADE = [source.with_suffix(".md") for source in TUTORIALS]
PAGES = [ROOT / "README.md", *sorted(page for page in (ROOT / "docs").rglob("*.md") if page not in MADE)]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks(page, language):
    """Code and first line of every block of a page in a language."""
    text = page.read_text()
    found = [(m.group(2), text[: m.start(2)].count("\n")) for m in BLOCK.finditer(text) if m.group(1) == language]
    assert text.count("```") == 2 * len(BLOCK.findall(text)), "a fence is not closed, or names no language"
    return found


@pytest.fixture
def briefly(monkeypatch):
    """Every training of a page ends after a few steps; a comparison has one seed."""
    fit, protocol = keras.Model.fit, bikd.Protocol.__init__

    @functools.wraps(fit)
    def brief_fit(self, *args, epochs=1, steps_per_epoch=None, **kwargs):
        steps_per_epoch = steps_per_epoch and min(steps_per_epoch, 4)
        return fit(self, *args, epochs=min(epochs, 2), steps_per_epoch=steps_per_epoch, **kwargs)

    def brief_protocol(self, *args, **kwargs):
        protocol(self, *args, **{**kwargs, "seeds": (0,), "steps": 10, "minutes": None})

    monkeypatch.setattr(keras.Model, "fit", brief_fit)
    monkeypatch.setattr(bikd.Protocol, "__init__", brief_protocol)


SLOW = ("scaling.md", "choosing-a-method.md", "from-distiller.md", "which-method.md")  # `make docs-code` runs them


@pytest.mark.tensorflow
@pytest.mark.usefixtures("briefly")
@pytest.mark.parametrize(
    "page",
    [
        pytest.param(p, id=str(p.relative_to(ROOT)), marks=[pytest.mark.slow] if p.name in SLOW else [])
        for p in PAGES
        if blocks(p, "python")
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_python_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace: dict = {"__name__": "page"}
    try:
        for code, line in blocks(page, "python"):
            known = set(namespace)
            exec(compile("\n" * line + code, str(page), "exec"), namespace)  # noqa: S102
            assert set(namespace) > known or re.search(r"\.\w+\(", code), f"line {line}: a block that does nothing"
    finally:
        keras.config.set_dtype_policy("float32")


@pytest.mark.slow
@pytest.mark.tensorflow
@pytest.mark.usefixtures("briefly")
@pytest.mark.parametrize("source", TUTORIALS, ids=lambda source: source.stem)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_the_code_of_a_tutorial_runs(source, tmp_path, monkeypatch):
    """`make tutorials` trains as long as the pages say, in notebooks."""
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(source))


@pytest.mark.tensorflow
def test_the_nested_tapes_of_the_guide_are_the_step():
    code = next(code for code, _ in blocks(ROOT / "docs/guides/how-it-works.md", "python") if "GradientTape" in code)
    model, literal = (models.compiled(inner_steps=1) for _ in range(2))
    literal.set_weights(model.get_weights())
    literal.teacher.set_weights(model.teacher.get_weights())
    names = {"optimizer": literal.student_optimizer, "meta_optimizer": literal.meta_optimizer}
    page = {name: getattr(literal, name) for name in ("student", "teacher", "weight_net")} | names
    exec(code, page)  # noqa: S102
    for seed in range(3):
        batch, meta_batch = models.arrays(12, seed=seed), models.arrays(8, seed=seed + 9)
        logs = model.train_on_batch(batch, meta_batch, return_dict=True)
        model.reset_metrics()
        assert float(page["train_step"](*batch, *meta_batch)) == pytest.approx(float(logs["meta_loss"]), rel=1e-5)
    for ours, expected in zip(model.weights, literal.weights, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6, err_msg=ours.path)


@pytest.mark.parametrize("source", TUTORIALS, ids=lambda source: source.stem)
def test_the_page_of_a_tutorial_has_its_text_and_code(source):
    page = source.with_suffix(".md").read_text()
    for cell in re.split(r"^# %%", source.read_text(), flags=re.MULTILINE)[1:]:
        kind, _, content = cell.partition("\n")
        if "markdown" in kind:
            text = re.sub(r"^# ?", "", content, flags=re.MULTILINE).strip()
            assert text.partition("\n")[2].strip() in page, "run `make tutorial-pages`"
        else:
            assert f"```python\n{content.strip()}\n```" in page, "run `make tutorial-pages`"


COMMANDS = [
    (page.relative_to(ROOT), line)
    for page in PAGES
    for code, _ in blocks(page, "bash")
    for line in code.replace("\\\n", " ").splitlines()
    if line.strip()
]


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_commands_name_what_exists(page, command):
    words = [word for word in shlex.split(command, comments=True) if not re.match("[A-Z_]+=", word)]
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    elif words[0] in {"python", "torchrun"}:
        recipes = [ROOT / next(word for word in words if word.endswith(".py"))]
        recipes += [ROOT / "recipes/cifar10_lt.py"] if "import cifar10_lt" in recipes[0].read_text() else []
        source = "".join(recipe.read_text() for recipe in recipes)
        for word in words[words.index(str(recipes[0].relative_to(ROOT))) + 1 :]:
            if word.startswith("--"):
                assert f'"{word}"' in source, f"{recipes[0].name} knows no {word}"
    elif words[0] == "bikd":
        source = (ROOT / "keras_bikd_cli.py").read_text()
        for word in words[1:]:
            assert not word.startswith("--") or f'"{word}"' in source, f"bikd knows no {word}"
    else:
        assert words[0] in {"pip", "git"}


def test_every_link_of_the_readme_names_what_exists_also_on_a_package_index():
    check_dist = load("check_dist")
    readme = (ROOT / "README.md").read_text()
    here = [link for link in re.findall(r"\]\(([^)]+)\)", readme) if not link.startswith("https://")]
    assert here
    assert not [link for link in here if not (ROOT / link).exists()]
    on_index = check_dist.with_absolute_links(readme, "https://example.org/repository")
    assert "](https://example.org/repository/blob/main/CHANGELOG.md)" in on_index
    assert "](https://example.org/repository/raw/main/docs/images/digits_weight_map.png)" in on_index
    assert not [link for link in re.findall(r"\]\(([^)]+)\)", on_index) if not link.startswith("https://")]


def test_every_recipe_is_listed():
    index = (ROOT / "docs/recipes/index.md").read_text()
    recipes = [recipe for recipe in (ROOT / "recipes").glob("*.py") if "__main__" in recipe.read_text()]
    assert recipes
    assert not [recipe.name for recipe in recipes if f"`{recipe.name}`" not in index]


def load(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / f"docs/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_figures_show_the_tables_of_the_pages(monkeypatch, tmp_path):
    figures = load("figures")
    monkeypatch.setattr(figures, "IMAGES", tmp_path)
    for figure in figures.FIGURES:
        figure()
    drawn = {path.name: path.read_text() for path in tmp_path.iterdir()}
    kept = {name: (ROOT / "docs/images" / name).read_text() for name in drawn}
    assert drawn == kept, "run `python docs/figures.py`"


@pytest.fixture
def hooks():
    return load("hooks")


@pytest.mark.parametrize("language", ["python", "bash"])
def test_the_site_refuses_code_that_would_be_cut_off(hooks, language):
    fits, too_long = "x" * 80, "x" * 81
    hooks.check_code_columns(f"{too_long}\n```{language}\n{fits}\n```\n{too_long}\n", "page.md")
    with pytest.raises(ValueError, match=r"page\.md:3 has 81 columns"):
        hooks.check_code_columns(f"Text\n```{language}\n{too_long}\n{fits}\n```\n", "page.md")


def test_the_site_refuses_an_example_of_a_docstring_that_would_be_cut_off(hooks):
    hooks.check_rendered_columns(f"<pre><code>{'<b>x</b>' * 80}</code></pre>", "page.md")
    with pytest.raises(ValueError, match=r"page\.md: code has at most 80 columns"):
        hooks.check_rendered_columns(f"<pre><code>&gt;{'x' * 80}</code></pre>", "page.md")


def test_names_in_tables_break_between_their_words(hooks):
    page = type("Page", (), {"file": type("File", (), {"src_uri": "page.md"})})
    row = "<td><code>losses.HardLoss</code> HardLoss <code>BiKDModel</code></td>"
    expected = "<td><code>losses.<wbr>Hard<wbr>Loss</code> HardLoss <code>BiKDModel</code></td>"
    assert hooks.on_post_page(f"<code>HardLoss</code>{row}", page=page) == f"<code>HardLoss</code>{expected}"


def test_code_of_the_readme_fits_the_columns_of_the_site(hooks):
    hooks.check_code_columns((ROOT / "README.md").read_text(), "README.md")  # not a page of the site


def test_the_site_refuses_an_index_without_what_people_search_for(hooks):
    sections = [{"title": words, "text": ""} for words in hooks.SEARCHES]
    hooks.check_searches(sections)
    with pytest.raises(ValueError, match="no page for: class imbalance"):
        hooks.check_searches(sections[1:])
