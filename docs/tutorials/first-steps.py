# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # First steps
#
# A small network learns handwritten digits of which some are rare. You train a
# teacher and two students, see what happens to the rare digits, and let a
# comparison say which method to use. No data are downloaded.
#
# To run the notebook, install `keras_bikd` and Jupyter, in a clone:
# `pip install ".[tensorflow,viz]" notebook ipywidgets`.

# %% [markdown]
# ## The data
#
# `load` cuts scikit-learn's digits to a long tail: 114 zeros, and ever fewer of
# the other digits, down to two nines. It also holds out a *meta set* of ten
# images per class, which guides the training, and a balanced test set. Noise on
# the training images keeps the small network from learning them by heart.

# %%
import keras
import matplotlib.pyplot as plt

import keras_bikd as bikd

keras.utils.set_random_seed(0)
NOISE = bikd.data.gaussian_noise(0.7)


def load():
    return bikd.data.load(
        "sklearn_digits",
        imbalance_factor=50,
        meta_size=100,
        test_size=500,
        batch_size=64,
        augment=NOISE,
    )


data = load()
print(data.class_counts)

# %% [markdown]
# ## A teacher and a student
#
# Both end in logits, without a softmax. The teacher is trained as usual.

# %%
EPOCHS, STEPS = 5, 200


def network(units):
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(units, "relu"),
            keras.layers.Dense(10),
        ]
    )


def train(model, data, **kwargs):
    model.fit(
        data.train.repeat(),
        shuffle=False,
        epochs=EPOCHS,
        steps_per_epoch=STEPS,
        verbose=0,
        **kwargs,
    )


teacher = network(128)
teacher.compile(
    keras.optimizers.Adam(2e-3),
    keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    steps_per_execution=50,
)
train(teacher, data)

# %% [markdown]
# ## Two students
#
# The first one learns by plain distillation: labels and teacher, half and half,
# for every image. The second one is BiKD with class counts: for every image, a
# small network decides how much the label and how much the teacher counts.

# %%
accuracies = {}
metrics = [
    bikd.metrics.PerClassAccuracy(10),
    bikd.metrics.BalancedAccuracy(10),
]


def judged(name, model):
    scores = model.evaluate(data.test, return_dict=True, verbose=0)
    accuracies[name] = [100 * scores[f"accuracy_{i}"] for i in range(10)]
    print(f"{name}: {100 * scores['balanced_accuracy']:.1f} %")


plain = bikd.DistillationModel(
    network(12), teacher, bikd.objectives.KnowledgeDistillation()
)
plain.compile(
    keras.optimizers.Adam(2e-3), metrics=metrics, steps_per_execution=50
)
train(plain, load())
judged("plain distillation", plain)

model = bikd.BiKDModel(network(12), teacher, class_counts=data.class_counts)
model.compile(
    keras.optimizers.Adam(2e-3), metrics=metrics, steps_per_execution=50
)
train(model, load(), meta_data=data.meta)
judged("BiKD with class counts", model)

# %% [markdown]
# The mean over all classes hides where the difference is. Here is every class,
# from the most frequent to the rarest:

# %%
figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
for i, (name, values) in enumerate(accuracies.items()):
    axes.bar([c + 0.4 * i - 0.2 for c in range(10)], values, 0.4, label=name)
axes.set(xlabel="digit, most frequent first", ylabel="test accuracy (%)")
axes.set_xticks(range(10))
figure.legend(loc="outside upper center", ncols=2)
plt.show()

# %% [markdown]
# ## What the weights say
#
# The weights of every training image are at hand. These are their means per
# digit. A weight near zero switches a loss off: where the teacher knows little,
# the student learns from the labels.

# %%
seen = model.sample_weights(load().train)
for digit in range(10):
    label, taught = seen.weights[seen.labels == digit].mean(axis=0)
    print(f"digit {digit}: label {label:.2f}, teacher {taught:.2f}")

# %% [markdown]
# ## Did it help?
#
# One training with one seed says little. `compare` trains every method with
# several seeds, judges them on samples that it holds out, and recommends one.
# The test set chooses nothing. For your own data, leave out `methods`, `seeds`
# and `steps`: then it takes all methods, three seeds, and as many steps as the
# data ask for.

# %%
findings = bikd.compare(
    data,
    student=lambda: network(12),
    teacher=lambda: network(128),
    folder="digits",
    protocol=bikd.Protocol(
        methods=("cross-entropy", "balanced softmax", "BiKD with class counts"),
        seeds=(0, 1),
        steps=500,
        augment=NOISE,
    ),
)
print(findings.recommendation)

# %%
for row in findings.rows:
    print(f"{row['method']}, seed {row['seed']}: {row['validation']:.1f} %")

# %% [markdown]
# The report has the curves, the confusions and the accuracy of every class, in
# one file that opens in a browser.

# %%
findings.report("digits/report.html")

# %% [markdown]
# ## Keep the student
#
# The recommended student is an ordinary Keras model. Whoever uses it does not
# need `keras_bikd`.

# %%
student = findings.student()
student.save("student.keras")
images, labels = next(iter(data.test))
predicted = keras.saving.load_model("student.keras").predict(images, verbose=0)
print(predicted.argmax(axis=-1)[:10], keras.ops.convert_to_numpy(labels)[:10])

# %% [markdown]
# ## Next
#
# - [A backbone and a folder of images](image-folder.md)
# - [Choosing a method](../guides/choosing-a-method.md)
# - [How it works](../guides/how-it-works.md)
