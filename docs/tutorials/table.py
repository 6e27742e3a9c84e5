# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A skewed table, one sigmoid logit
#
# A table in which one row in twenty is positive, as in fraud or churn. The
# model is a binary classifier with a single output. The table is made by
# scikit-learn, so that nothing is downloaded; put your own arrays in its place.

# %% [markdown]
# ## The data
#
# Two thousand rows with twenty numbers each, 5 % of them positive. Two labels
# in a hundred are wrong.

# %%
import keras
import numpy as np
from sklearn.datasets import make_classification
from sklearn.model_selection import train_test_split

import keras_bikd as bikd

keras.utils.set_random_seed(0)
x, y = make_classification(
    4000,
    n_features=20,
    n_informative=8,
    weights=(0.95,),
    flip_y=0.02,
    class_sep=1.2,
    random_state=0,
)
x = x.astype("float32")
x, test_x, y, test_y = train_test_split(
    x, y, test_size=0.5, stratify=y, random_state=0
)
print(x.shape, np.bincount(y), np.bincount(test_y))

# %% [markdown]
# ## Models with one logit
#
# A single output without a sigmoid is the logit of class 1 against class 0. The
# first layer of each model learns the mean and the scale of every column.

# %%
mean, variance = x.mean(axis=0), x.var(axis=0)


def network(*units):
    hidden = [keras.layers.Dense(n, "relu") for n in units]
    return keras.Sequential(
        [
            keras.Input((20,)),
            keras.layers.Normalization(mean=mean, variance=variance),
            *hidden,
            keras.layers.Dense(1),
        ]
    )


# %% [markdown]
# ## One training
#
# BiKD needs a small set with as many rows of each class, which is held out from
# training: here twenty of each.

# %%
held_out = np.concatenate([np.flatnonzero(y == c)[:20] for c in (0, 1)])
kept = np.setdiff1d(np.arange(len(y)), held_out)

teacher = network(64, 64)
teacher.compile(
    keras.optimizers.Adam(2e-3),
    keras.losses.BinaryCrossentropy(from_logits=True),
)
teacher.fit(x[kept], y[kept], batch_size=64, epochs=10, verbose=0)

model = bikd.BiKDModel(network(8), teacher, class_counts=np.bincount(y[kept]))
model.compile(
    keras.optimizers.Adam(2e-3),
    metrics=[bikd.metrics.BalancedAccuracy(2)],
)
model.fit(
    x[kept],
    y[kept],
    meta_data=(x[held_out], y[held_out]),
    batch_size=64,
    epochs=10,
    verbose=0,
)
scores = model.evaluate(test_x, test_y, return_dict=True, verbose=0)
print(f"balanced accuracy: {100 * scores['balanced_accuracy']:.1f} %")

# %% [markdown]
# Plain accuracy would be misleading: a model that never says "positive" has
# about 95 %.
#
# ## Did it help?
#
# `compare` takes the arrays as they are. It holds out rows by itself, and the
# test rows choose nothing.

# %%
findings = bikd.compare(
    (x, y),
    student=lambda: network(8),
    teacher=lambda: network(64, 64),
    test_data=(test_x, test_y),
    folder="table",
    protocol=bikd.Protocol(
        methods=("cross-entropy", "balanced softmax", "BiKD with class counts"),
        seeds=(0, 1),
        steps=300,
    ),
)
print(findings.recommendation)

# %%
for row in findings.rows:
    print(row["method"], f"seed {row['seed']}", end=", ")
    print(f"validation {row['validation']:.1f} %, test {row['test']:.1f} %")
findings.report("table/report.html")

# %% [markdown]
# ## Probabilities
#
# A student that was trained with class counts predicts as if both classes were
# equally frequent. That is what balanced accuracy asks for. For a first
# estimate of the probability in data as skewed as the training rows, add the
# log of the ratio of the class counts to the logit. Calibrate it on held-out
# rows before you rely on it.

# %%
student = findings.student()
logits = student.predict(test_x, verbose=0)[:, 0]
print("predicted positive:", int((logits > 0).sum()), "of", len(logits))
if findings.recommendation.method != "cross-entropy":
    negative, positive = np.bincount(y)
    logits = logits + np.log(positive / negative)
probability = 1 / (1 + np.exp(-logits))
print(f"mean probability: {probability.mean():.3f}, share: {test_y.mean():.3f}")
