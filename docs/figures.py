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
IMAGES = DOCS / "images"
GREY, BLUE, ORANGE, GREEN, RED, VIOLET = "#90a4ae", "#5c7cfa", "#f59f00", "#00897b", "#d9480f", "#b197fc"
INK, SOFT = "#263238", "#607d8b"


def table(page, heading, after=""):
    """The first table of a page below a heading, and below what comes `after` it: name of the row to its cells."""
    text = (DOCS / page).read_text()
    text = text[text.index(f"\n## {heading}\n") :]
    text = text[text.index(after) :]
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
    (IMAGES / name).write_text("\n  ".join([head, card, *parts]) + "\n</svg>\n")


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
    caption = "Test accuracy in per cent of a small student on digits,\n114 zeros to two nines. Mean of six seeds."
    parts = [
        *legend(methods.values(), 20, per_row=2),
        *bars(groups, series, top=98, base=288, left=20, right=440, largest=100),
        text(230, 350, caption, fill=SOFT, anchor="middle", size=13),
    ]
    svg("rare_classes.svg", 460, 378, "Test accuracy of frequent, medium and rare classes under four methods", parts)


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
    times = {name.replace("inner_steps=5, ", ""): time for name, time in times.items()}
    parts, y = [], 20
    scale = 200 / max(times.values())
    for name, time in {"plain distillation (KD)": 1.0, **times}.items():
        colour = GREY if time == 1.0 else RED if "naive" in name else GREEN if time < 1.3 else BLUE
        parts += [
            text(286, y + 17, name, anchor="end", size=13),
            box(296, y, time * scale, 24, colour),
            text(302 + time * scale, y + 17, f"{time:.2f}", size=14),
        ]
        y += 34
    parts.append(text(280, y + 14, "Time of a training step relative to plain distillation", SOFT, "middle", 13))
    svg("cost.svg", 560, y + 30, "Time of a training step relative to plain distillation", parts)


SETS = {
    "digits, imbalance 10": ("results-digits.md", "digits-noise, imbalance 10"),
    "digits, imbalance 50": ("results-digits.md", "digits-noise, imbalance 50"),
    "digits, imbalance 100": ("results-digits.md", "digits-noise, imbalance 100"),
    "hundred glyphs": ("results-glyphs.md", "glyphs/g100, imbalance 50"),
    "ten hard glyphs": ("results-glyphs.md", "glyphs/h, imbalance 100"),
}
METHODS = {
    "CE": ("cross-entropy", GREY),
    "KD": ("plain distillation (KD)", BLUE),
    "BiKD": ("BiKD as published", VIOLET),
    "balanced softmax": ("balanced softmax", ORANGE),
    "BiKD, class counts": ("BiKD with class counts", GREEN),
}


def overall(name, groups, about):
    """The accuracy of the methods on some of the data sets; `groups` has their names in the figure."""
    rows = [table(*SETS[group]) for group in groups]
    series = [(colour, [mean(row[method]["overall"]) for row in rows]) for method, (_, colour) in METHODS.items()]
    parts = [
        *legend(METHODS.values(), 20, per_row=2),
        *bars(list(groups.values()), series, top=120, base=292, left=14, right=546, largest=100),
        text(280, 346, f"Test accuracy in per cent, {about}", fill=SOFT, anchor="middle", size=13),
    ]
    svg(name, 560, 366, f"Test accuracy of five methods, {about}", parts)


def digits():
    """Five methods at three imbalances."""
    groups = {f"digits, {imbalance}": imbalance for imbalance in ("imbalance 10", "imbalance 50", "imbalance 100")}
    overall("digits.svg", groups, "digits, mean of six seeds")


def glyphs():
    """Five methods on a hundred classes, and on ten that are easily confused."""
    groups = {"hundred glyphs": "a hundred classes", "ten hard glyphs": "ten hard classes"}
    overall("glyphs.svg", groups, "glyphs, mean of three seeds")


def wrong_labels():
    """Accuracy over the passes of all runs together."""
    rows = table("results-wrong-labels.md", "All rows")
    mix, learned = "constant 2/2 +meta, half", "BiKD, class counts, weights learned first, then +meta, half"
    curves = (
        ("constant mix, tuned", ORANGE, {10: mix, 20: f"{mix}, twice the steps", 30: f"{mix}, three times the steps"}),
        ("learned weights, in two runs", GREEN, {20: learned, 30: f"{learned}, twice the steps"}),
    )
    highest = {
        passes: max(mean(rows[row]["overall"]) for _, _, c in curves for p, row in c.items() if p == passes)
        for passes in (10, 20, 30)
    }
    parts = legend([(name, colour) for name, colour, _ in curves], 20)
    for _, colour, points in curves:
        accuracies = {passes: mean(rows[row]["overall"]) for passes, row in points.items()}
        places = {passes: (16 * passes - 60, 1114 - 12 * accuracy) for passes, accuracy in accuracies.items()}
        line = " ".join(f"{x},{y:.1f}" for x, y in places.values())
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="3"/>')
        for passes, (x, y) in places.items():
            above = accuracies[passes] == highest[passes]
            parts += [
                f'<circle cx="{x}" cy="{y:.1f}" r="5" fill="{colour}"/>',
                text(x, y - 12 if above else y + 22, f"{accuracies[passes]}", anchor="middle"),
            ]
    parts += [text(16 * passes - 60, 282, f"{passes} passes in all", SOFT, "middle", 14) for passes in highest]
    caption = "Test accuracy in per cent over the passes of all runs together,\nfour labels in ten wrong, twelve seeds"
    parts.append(text(260, 322, caption, SOFT, "middle", 13))
    svg("wrong_labels.svg", 520, 348, "Accuracy of learned weights and of a constant mix over the passes in all", parts)


def studies():
    """Accuracy under meta sets that are small, mislabelled or different."""
    rows = {}
    for heading in (
        "Size of the meta set",
        "Wrong labels in the meta set",
        "A meta set that differs from the test images",
    ):
        rows |= table("results-studies.md", heading, "All rows")
    altered = {
        "ten images per class": "10 meta images per class",
        "one image per class": "1 meta images per class",
        "40 % wrong labels": "40 % of meta labels wrong",
        "half the brightness": "meta shift: darker",
        "moved by a pixel": "meta shift: moved",
        "with training noise": "meta shift: noisier",
    }
    methods = {"BiKD": METHODS["BiKD"], "BiKD, class counts": METHODS["BiKD, class counts"]}
    parts, y = legend(methods.values(), 20), 62
    for words, row in altered.items():
        parts.append(text(160, y + 22, words, anchor="end", size=14))
        for method, (_, colour) in methods.items():
            accuracy = mean(rows[f"{method}, {row}"]["overall"])
            end = 172 + 3.1 * accuracy
            parts += [box(172, y, end - 172, 16, colour), text(end + 6, y + 13, f"{accuracy}", size=14)]
            y += 18
        y += 12
    caption = "Test accuracy in per cent with another meta set,\ndigits at imbalance 50, three seeds"
    parts.append(text(260, y + 24, caption, SOFT, "middle", 13))
    svg("studies.svg", 520, y + 50, "Test accuracy with meta sets that are small, mislabelled or different", parts)


def recommendations():
    """How far the recommended method is behind the best one, in every comparison."""
    rows = table("results-recommendations.md", "Points behind the best method")
    left, scale, y = 190, 68, 40
    height = 30 * len(rows)
    parts = [
        box(left, y - 14, scale, height, "#e0f2f1"),
        text(left + scale / 2, 18, "within a point", SOFT, "middle", 13),
    ]
    for situation, cells in rows.items():
        parts.append(text(left - 14, y + 5, situation, anchor="end", size=14))
        for points in sorted(float(cell) for heading, cell in cells.items() if heading.startswith("seed")):
            parts.append(f'<circle cx="{left + scale * points:.1f}" cy="{y}" r="6" fill="{GREEN}" fill-opacity="0.6"/>')
        y += 30
    for points in range(6):
        parts.append(text(left + scale * points, y + 8, f"{points}", SOFT, "middle", 13))
    caption = "Points of test accuracy behind the best method.\nOne dot per comparison; darker ones are several."
    parts.append(text(280, y + 40, caption, SOFT, "middle", 13))
    svg("recommendations.svg", 560, y + 66, "How far recommended methods are behind the best one", parts)


def safe_default():
    """Regret of learned weights and of every constant mix: the mean over the situations, and the worst."""
    rows = table("results-safe-default.md", "Regret")
    columns = ("worst regret", "mean regret")
    worst, average = ({name: mean(row[column]) for name, row in rows.items()} for column in columns)
    left, scale, y = 206, 5.2, 62
    parts = legend([("mean", GREEN), ("worst situation", "#b2dfdb")], 20)
    for name in sorted(rows, key=worst.__getitem__):
        solid, pale = (GREEN, "#b2dfdb") if name.startswith("BiKD") else (SOFT, "#cfd8dc")
        words = name.replace("BiKD, class counts, ", "BiKD, ").replace("BiKD, class counts", "BiKD with class counts")
        words = words.replace(", class counts", "")
        parts += [
            text(left - 12, y + 18, words, anchor="end", size=13),
            box(left, y, worst[name] * scale, 26, pale),
            box(left, y + 7, max(average[name], 0) * scale, 12, solid),
            text(left + 8 + worst[name] * scale, y + 18, f"{average[name]:.1f}, worst {worst[name]:.1f}", size=13),
        ]
        y += 36
    caption = (
        "Points of test accuracy behind the best constant mix of each situation.\n"
        "A constant 1/0.25 weighs the labels with 1, the teacher with 0.25."
    )
    parts.append(text(280, y + 22, caption, SOFT, "middle", 13))
    svg("safe_default.svg", 560, y + 48, "Regret of learned weights and of six constant mixes", parts)


QUESTIONS = [
    ("All classes about equally\nlarge, and labels right?", "yes", "Plain distillation (KD),\nwith any library"),
    ("Many labels wrong, and a few\nchecked samples per class?", "yes", "BiKD in two runs"),
    ("A trained teacher,\nor time to train one?", "no", "Balanced softmax"),
    ("A few samples per class\nto hold out?", "no", "Balanced softmax and\ncorrected teacher, 1 : 1"),
]


def decisions(name, label, ends, evidence=("", "", "", "")):
    """Questions with answers, and what the results say of each answer; `ends` are the two boxes below them."""
    parts = [
        '<defs><marker id="to" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" markerHeight="8" orient="auto">'
        f'<path d="M0 0 10 5 0 10z" fill="{SOFT}"/></marker></defs>'
    ]
    line = f'fill="none" stroke="{SOFT}" stroke-width="1.6" marker-end="url(#to)"'
    tall = 84 if any(evidence) else 62
    for i, ((question, answer, method), measured) in enumerate(zip(QUESTIONS, evidence)):
        y, middle = 20 + (tall + 38) * i, tall / 2
        parts += [
            box(14, y, 208, tall, "#e3f2fd", "#78909c"),
            text(118, y + middle + 5, question, anchor="middle", size=13),
            f'<path d="M222 {y + middle}H262" {line}/>',
            text(240, y + middle - 7, answer, SOFT, "middle", 14),
            box(264, y, 184, tall, "#e0f2f1", GREEN),
            *_answer(356, y + middle + 5, method, measured),
            f'<path d="M118 {y + tall}V{y + tall + 36}" {line}/>',
            text(128, y + tall + 24, "no" if answer == "yes" else "yes", SOFT, size=14),
        ]
    y = 20 + (tall + 38) * len(QUESTIONS)
    (last, measured), (other, other_measured) = ends
    parts += [
        box(14, y, 208, tall, GREEN),
        *_answer(118, y + tall / 2 + 5, last, measured, "#ffffff", "#ffffff"),
        box(264, y, 184, tall, "#fff8e1", ORANGE),
        *_answer(356, y + tall / 2 + 5, other, other_measured),
    ]
    svg(name, 460, y + tall + 18, label, parts)


def _answer(x, y, method, measured, fill=INK, soft=SOFT):
    """A method, and below it what was measured."""
    if not measured:
        return [text(x, y, method, fill, "middle", 13, 600)]
    lines = method.count("\n") + measured.count("\n") + 2
    top = y - 8 * (lines - 1)
    method_y = top + 8 * method.count("\n")
    measured_y = top + 16 * (method.count("\n") + 1) + 8 * measured.count("\n") + 1
    return [text(x, method_y, method, fill, "middle", 13, 600), text(x, measured_y, measured, soft, "middle", 12)]


def method_chart():
    """Which method to use."""
    ends = ("BiKD with class counts,\nthe safe default", ""), ("In doubt?\nbikd.compare", "")
    decisions("method_chart.svg", "Decision chart: which method to use", ends)


def results_chart():
    """Which method to use, and what it gained where it was measured."""
    paired = [table(page, heading, "Paired with") for page, heading in SETS.values()]
    two_runs = table("results-wrong-labels.md", "All rows", "Paired with")

    def ahead(method, sign=1):
        points = [sign * float(rows[method]["difference"]) for rows in paired]
        return f"{min(points):+.1f} to {max(points):+.1f} points"

    evidence = (
        "",
        f"{-float(two_runs['constant 2/2 +meta, half']['difference']):+.1f} points over a tuned mix,\n"
        "at equal steps of the student",
        f"{ahead('CE', -1)}\nover cross-entropy",
        f"{ahead('balanced softmax + KD, corrected teacher')}\nagainst balanced softmax",
    )
    ends = (
        ("BiKD with class counts", f"{ahead('BiKD, class counts')}\nagainst balanced softmax"),
        ("BiKD as published", f"{ahead('BiKD')}\nagainst balanced softmax"),
    )
    decisions("results_chart.svg", "Decision chart with the results: which method, and its gain", ends, evidence)


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


FIGURES = (
    rare_classes,
    no_effect,
    cost,
    method_chart,
    results_chart,
    digits,
    glyphs,
    wrong_labels,
    studies,
    recommendations,
    safe_default,
)

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--collapse", action="store_true", help="train for the figure of collapsed weights")
    if parser.parse_args().collapse:
        collapse()
    else:
        for figure in FIGURES:
            figure()
