# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Text
#
# Which part of SciPy does a sentence of its documentation describe? The
# sentences come with the package, so nothing is downloaded, and their number is
# long-tailed by nature. The student that you keep takes strings.
#
# This tutorial needs the TensorFlow backend, as `TextVectorization` does.

# %% [markdown]
# ## The data
#
# A sentence is a sample, and the module it comes from is its class.

# %%
import importlib
import inspect
import re

import keras
import numpy as np

import keras_bikd as bikd

keras.utils.set_random_seed(0)
MODULES = [
    "special",
    "stats",
    "signal",
    "linalg",
    "optimize",
    "interpolate",
    "integrate",
    "fft",
]


def sentences(module):
    found = set()
    for name in module.__all__:
        text = inspect.getdoc(getattr(module, name)) or ""
        text = re.split(r"\n[A-Z]\w+\n---", text)[0]  # before the parameters
        for sentence in re.split(r"(?<=[.!?])\s+|\n\s*\n", text):
            sentence = " ".join(sentence.split())
            if len(sentence.split()) >= 5:
                found.add(sentence)
    return sorted(found)


texts, labels = [], []
for label, name in enumerate(MODULES):
    own = sentences(importlib.import_module(f"scipy.{name}"))
    texts += own
    labels += [label] * len(own)
x, y = np.array(texts), np.array(labels)
for name, count in zip(MODULES, np.bincount(y)):
    print(f"{name}: {count}")

# %% [markdown]
# ## From strings to numbers
#
# `TextVectorization` splits a string into words and gives each a number. It has
# nothing to learn after `adapt`, so it runs once, before the training, and
# joins the student at the end.

# %%
vectorize = keras.layers.TextVectorization(3000, output_sequence_length=24)
vectorize.adapt(x)
ids = keras.ops.convert_to_numpy(vectorize(x))
print(x[0], ids[0], sep="\n")

# %% [markdown]
# ## Teacher and student
#
# The teacher has wide layers, and the student narrow ones.

# %%


def network(units):
    return keras.Sequential(
        [
            keras.Input((24,), dtype="int64"),
            keras.layers.Embedding(vectorize.vocabulary_size(), units),
            keras.layers.Conv1D(units, 3, activation="relu"),
            keras.layers.GlobalMaxPooling1D(),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(len(MODULES)),
        ]
    )


# %% [markdown]
# ## Did it help?
#
# The comparison trains a teacher and the students for every seed, for 300 steps
# each. Take more steps for a result that counts.

# %%
findings = bikd.compare(
    (ids, y),
    student=lambda: network(8),
    teacher=lambda: network(64),
    folder="text",
    protocol=bikd.Protocol(
        methods=("cross-entropy", "balanced softmax", "BiKD with class counts"),
        seeds=(0, 1),
        steps=300,
    ),
)
print(findings.recommendation)

# %%
for method in findings.methods:
    accuracies = findings.class_accuracies(method)
    known = [f"{100 * accuracy.accuracy:.0f}" for accuracy in accuracies]
    print(f"{method:>24}:", *known)
findings.report("text/report.html")

# %% [markdown]
# ## A student that takes strings
#
# The recommended student, with the vocabulary in front of it, is one model. It
# can be saved and served.

# %%
student = keras.Sequential(
    [keras.Input((), dtype="string"), vectorize, findings.student()]
)
student.save("student.keras")
questions = np.array(
    [
        "Compute the singular value decomposition of a matrix.",
        "Integrate a system of ordinary differential equations.",
        "Design a digital low-pass filter.",
    ]
)
logits = keras.ops.convert_to_numpy(student(questions))
for question, row in zip(questions, logits):
    print(f"{MODULES[row.argmax()]}: {question}")

# %% [markdown]
# ## A pretrained model instead
#
# A classifier of [keras-hub](https://keras.io/keras_hub/) has a preprocessor of
# its own. Apply it to the data, and take it off the model; see
# [your own data](../guides/your-data.md). This notebook does without
# keras-hub, which installs 200 MB of further packages and would download
# weights.
