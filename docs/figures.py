"""Figures of the site whose numbers come from its own tables, and one that is trained.

    python docs/figures.py             # all but the trained one
    python docs/figures.py --collapse  # trains four students, a minute

They are SVG on a white card, so that they can be read on a light and on a dark page, and need no font or script.
"""

import argparse
import html
import pathlib
import re
import sys

DOCS = pathlib.Path(__file__).parent
GREY, BLUE, ORANGE, GREEN, RED = "#90a4ae", "#5c7cfa", "#f59f00", "#00897b", "#d9480f"
INK, SOFT = "#263238", "#607d8b"


def table(page, heading=None):
    """The first table of a page below a heading: name of the row to its cells."""
    text = (DOCS / page).read_text()
    text = text[text.index(f"\n## {heading}\n") :] if heading else text
    lines = [line for line in re.search(r"(^\|.*\n)+", text, re.MULTILINE).group().splitlines()]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: dict(zip(cells[0], row)) for row in cells[2:]}


def mean(cell):
    """The mean of a cell such as `68.4 ± 1.4`."""
    return float(cell.partition(" ")[0])


def svg(name, width, height, label, parts):
    """Write a figure."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="system-ui, sans-serif" '
        f'font-size="15" role="img" aria-label="{html.escape(label)}">'
    )
    card = f'<rect width="{width}" height="{height}" rx="10" fill="#ffffff"/>'
    (DOCS / "images" / name).write_text("\n  ".join([head, card, *parts]) + "\n</svg>\n")


def text(x, y, words, fill=INK, anchor="start", size=15, weight=400):
    """Words at a place; several lines are centred around it."""
    lines = words.split("\n")
    top = y - (len(lines) - 1) * size * 0.62
    return "".join(
        f'<text x="{x:.1f}" y="{top + i * size * 1.24:.1f}" fill="{fill}" text-anchor="{anchor}" font-size="{size}" '
        f'font-weight="{weight}">{html.escape(line)}</text>'
        for i, line in enumerate(lines)
    )


def box(x, y, width, height, fill, stroke="none"):
    """A rectangle."""
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="4" fill="{fill}" '
        f'stroke="{stroke}"/>'
    )


def legend(entries, y, x=24, per_row=9, step=26):
    """Colours and their names."""
    parts, start = [], x
    for i, (name, colour) in enumerate(entries):
        if i and i % per_row == 0:
            x, y = start, y + step
        parts += [box(x, y, 14, 14, colour), text(x + 20, y + 12, name)]
        x += 48 + 7.6 * len(name)
    return parts


def bars(groups, series, *, top, base, left, right, largest, number="{:.0f}"):
    """Groups of bars with their numbers; `series` is a list of colours and values."""
    parts, wide = [], (right - left) / len(groups)
    width = min(48, (wide - 30) / len(series) - 8)
    scale = (base - top) / largest
    for i, group in enumerate(groups):
        x = left + i * wide + (wide - len(series) * (width + 8)) / 2
        for colour, values in series:
            height = max(values[i], 0) * scale
            parts += [
                box(x, base - height, width, height, colour),
                text(x + width / 2, base - height - 6, number.format(values[i]), anchor="middle", size=14),
            ]
            x += width + 8
        parts.append(text(left + (i + 0.5) * wide, base + 24, group, anchor="middle", weight=600))
    return parts


def rare_classes():
    """Accuracy of groups of classes under four methods; the figure of the home page."""
    rows = table("results-digits.md", "digits-noise, imbalance 50")
    methods = {
        "CE": ("cross-entropy", GREY),
        "KD": ("plain distillation (KD)", BLUE),
        "balanced softmax": ("balanced softmax", ORANGE),
        "BiKD, class counts": ("BiKD with class counts", GREEN),
    }
    series = [(colour, [mean(rows[row][g]) for g in ("many", "medium", "few")]) for row, (_, colour) in methods.items()]
    groups = ("frequent classes", "in between", "rare classes")
    for name, width, per_row in (("rare_classes.svg", 860, 4), ("rare_classes_narrow.svg", 460, 2)):
        top, base = 24 + 26 * 4 // per_row + 22, 262 + 26 * (4 // per_row - 1)
        caption = "Test accuracy in per cent of a small student on digits,\n114 zeros to two nines. Mean of six seeds."
        parts = [
            *legend(methods.values(), 20, per_row=per_row),
            *bars(groups, series, top=top, base=base, left=20, right=width - 20, largest=100),
            text(width / 2, base + 62, caption, fill=SOFT, anchor="middle", size=13),
        ]
        svg(name, width, base + 90, "Test accuracy of frequent, medium and rare classes under four methods", parts)


def no_effect():
    """What methods gain over cross-entropy where the student fits its training set, and where it does not."""
    noisy, fitted = (table("results-digits.md", heading) for heading in ("digits-noise, imbalance 50", "Less noise"))

    def gains(method):
        return [mean(rows[method]["overall"]) - mean(rows["CE"]["overall"]) for rows in (fitted, noisy)]

    methods = {"BiKD": ("BiKD as published", BLUE), "BiKD, class counts": ("BiKD with class counts", GREEN)}
    series = [(colour, gains(row)) for row, (_, colour) in methods.items()]
    groups = ("student fits its data", "noise on every image")
    caption = "Points of test accuracy over cross-entropy, digits at imbalance 50, six seeds"
    parts = [
        *legend(methods.values(), 20),
        *bars(groups, series, top=74, base=230, left=20, right=540, largest=24, number="{:+.1f}"),
        text(280, 282, caption, fill=SOFT, anchor="middle", size=13),
    ]
    svg("no_effect.svg", 560, 300, "Gain over cross-entropy with and without noise on the images", parts)


def cost():
    """The time of a step relative to plain distillation, from the first table of the benchmarks."""
    rows = table("benchmarks.md", "A step")
    times = {name.replace("`", ""): float(row["time / KD"]) for name, row in rows.items()}
    parts, y = [], 20
    scale = 230 / max(times.values())
    for name, time in {"plain distillation (KD)": 1.0, **times}.items():
        colour = GREY if time == 1.0 else RED if "naive" in name else GREEN if time < 1.3 else BLUE
        parts += [
            text(246, y + 17, name, anchor="end", size=14),
            box(256, y, time * scale, 24, colour),
            text(262 + time * scale, y + 17, f"{time:.2f}", size=14),
        ]
        y += 34
    parts.append(text(280, y + 14, "Time of a training step relative to plain distillation", SOFT, "middle", 13))
    svg("cost.svg", 560, y + 30, "Time of a training step relative to plain distillation", parts)


def method_chart():
    """Which method to use, as questions with answers."""
    questions = [
        ("All classes about equally\nlarge, and labels right?", "yes", "Plain distillation (KD),\nwith any library"),
        ("Many labels wrong, and a few\nchecked samples per class?", "yes", "BiKD in two runs"),
        ("A trained teacher,\nor time to train one?", "no", "Balanced softmax"),
        ("A few samples per class\nto hold out?", "no", "Balanced softmax and\ncorrected teacher, 1 : 1"),
    ]
    parts = [
        '<defs><marker id="to" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" markerHeight="8" orient="auto">'
        f'<path d="M0 0 10 5 0 10z" fill="{SOFT}"/></marker></defs>'
    ]
    line = f'fill="none" stroke="{SOFT}" stroke-width="1.6" marker-end="url(#to)"'
    for i, (question, answer, method) in enumerate(questions):
        y = 20 + 100 * i
        other = "no" if answer == "yes" else "yes"
        parts += [
            box(14, y, 208, 62, "#e3f2fd", "#78909c"),
            text(118, y + 36, question, anchor="middle", size=13),
            f'<path d="M222 {y + 31}H266" {line}/>',
            text(243, y + 24, answer, SOFT, "middle", 14),
            box(268, y, 178, 62, "#e0f2f1", GREEN),
            text(357, y + 36, method, anchor="middle", size=13, weight=600),
            f'<path d="M118 {y + 62}V{y + 98}" {line}/>',
            text(128, y + 86, other, SOFT, size=14),
        ]
    y = 20 + 100 * len(questions)
    parts += [
        box(14, y, 208, 62, GREEN),
        text(118, y + 37, "BiKD with class counts,\nthe safe default", "#ffffff", "middle", 13, 600),
        box(268, y, 178, 62, "#fff8e1", ORANGE),
        text(357, y + 37, "In doubt?\nbikd.compare", anchor="middle", size=13, weight=600),
    ]
    svg("method_chart.svg", 460, y + 80, "Decision chart: which method to use", parts)


def collapse():
    """The sum of the two weights under three learning rates of the weight network, and with class counts."""
    sys.path.insert(0, str(DOCS.parent / "recipes"))
    import digits_lt
    import keras

    import keras_bikd as bikd

    steps, epochs = digits_lt.STEPS, 10
    data = digits_lt.load(50, 0)
    teacher = digits_lt.perceptron(128, 0)
    teacher.compile(digits_lt.sgd(steps), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    digits_lt.fit(teacher, data, steps)
    curves = []
    for rate, counts in ((1e-1, None), (1e-3, None), (1e-4, None), (1e-3, data.class_counts)):
        data = digits_lt.load(50, 0)
        model = bikd.BiKDModel(digits_lt.perceptron(12, 0), teacher, class_counts=counts)
        model.compile(
            digits_lt.sgd(steps),
            metrics=[bikd.metrics.BalancedAccuracy(10)],
            meta_optimizer=keras.optimizers.Adam(rate),
            steps_per_execution=digits_lt.STEPS_PER_EXECUTION,
        )
        logs = model.fit(
            data.train.repeat(), shuffle=False, steps_per_epoch=steps // epochs, epochs=epochs, meta_data=data.meta
        ).history
        accuracy = 100 * model.evaluate(data.test, return_dict=True)["balanced_accuracy"]
        sums = [sum(pair) for pair in zip(logs["hard_weight"], logs["soft_weight"])]
        print(f"rate {rate:g}, class counts {counts is not None}: {[round(s, 2) for s in sums]}, {accuracy:.1f} %")
        name = f"Adam({rate:g})" if counts is None else "class counts"
        curves.append((name, f"accuracy {accuracy:.1f} %", sums))
    _draw_collapse(curves, steps)


def _draw_collapse(curves, steps):
    left, right, top, base = 56, 396, 24, 230

    def height(value):
        return base - value * (base - top) / 2

    parts = []
    for value in (0, 1, 2):
        parts.append(f'<path d="M{left} {height(value):.1f}H{right}" stroke="#cfd8dc"/>')
        parts.append(text(left - 8, height(value) + 5, f"{value}", SOFT, "end", 13))
    for y, colour, (name, accuracy, sums) in zip((44, 96, 148, 200), (RED, ORANGE, BLUE, GREEN), curves):
        wide = (right - left) / len(sums)
        points = " ".join(f"{left + (i + 1) * wide:.1f},{height(value):.1f}" for i, value in enumerate(sums))
        parts += [
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="3"/>',
            box(414, y - 12, 14, 14, colour),
            text(434, y, name, size=14),
            text(434, y + 18, accuracy, SOFT, size=13),
        ]
    parts += [
        text((left + right) / 2, base + 24, f"training, {steps:,} steps", SOFT, "middle", 13),
        text(280, 282, "Sum of both weights, mean over the samples", SOFT, "middle", 13),
    ]
    svg("collapse.svg", 560, 300, "Sum of both weights at three meta learning rates, and with class counts", parts)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--collapse", action="store_true", help="train for the figure of collapsed weights")
    if parser.parse_args().collapse:
        collapse()
    else:
        for figure in (rare_classes, no_effect, cost, method_chart):
            figure()
