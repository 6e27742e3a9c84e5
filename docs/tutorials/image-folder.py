# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A backbone and a folder of images
#
# Most image models start from a pretrained backbone. This notebook trains a
# small head on a frozen backbone, finds the right method in a minute, and then
# fine-tunes the whole student with it. The images are in a folder, one
# sub-folder per class.

# %% [markdown]
# ## The folder
#
# The notebook draws its own images, of characters that are easily confused, and
# writes them to `characters/`. Copy `recipes/glyphs.py`, which draws them, next
# to it. Five images of each class guide the training, ten are for the test. A
# hundred of the most frequent character are left, and eight of the rarest. Put
# your own folder in their place.

# %%
import pathlib

import keras
import numpy as np
from glyphs import TEN, Style, draw  # recipes/glyphs.py

import keras_bikd as bikd

keras.utils.set_random_seed(0)
SIZE = 32


def drawn(characters, counts, seed):
    labels = np.repeat(np.arange(len(characters)), counts)
    style = Style(characters=characters, level=0.5, distractors=0, noise=0.05)
    return draw(labels, style, seed, SIZE), labels


images, labels = drawn(TEN, np.geomspace(115, 23, 10).astype(int), seed=1)
for i, (image, label) in enumerate(zip(images, labels)):
    path = pathlib.Path("characters", TEN[label], f"{i}.png")
    path.parent.mkdir(parents=True, exist_ok=True)
    keras.utils.save_img(path, image, scale=False)

data = bikd.data.load(
    bikd.data.Folder("characters", image_size=(SIZE, SIZE)),
    meta_size=50,
    test_size=100,
    batch_size=32,
)
print(data.class_names, data.class_counts)

# %% [markdown]
# ## The backbone
#
# With `WEIGHTS = "imagenet"`, Keras downloads a MobileNet that was trained on
# ImageNet; take `SIZE = 96` or larger then. Without a download, the notebook
# trains the lower half of a small MobileNet for some seconds on other
# characters, which stands for ImageNet here.

# %%
WEIGHTS = None  # or "imagenet"


def backbone():
    net = keras.applications.MobileNet(
        input_shape=(SIZE, SIZE, 3),
        alpha=0.25,
        include_top=False,
        weights=WEIGHTS,
    )
    if WEIGHTS is None:  # small images need fewer layers
        net = keras.Model(net.input, net.get_layer("conv_pw_7_relu").output)
    return keras.Sequential(
        [
            keras.Input((SIZE, SIZE, 3)),
            # `load` has scaled the pixels from 0..255 to 0..1.
            keras.layers.Rescaling(2.0, -1.0),
            net,
            keras.layers.GlobalAveragePooling2D(),
        ],
        name="backbone",
    )


trunk = backbone()
if WEIGHTS is None:
    others = "ACDEFHJKLMNPRTUVWXY34791"
    other_images, other_labels = drawn(others, 100, seed=0)
    pretraining = keras.Sequential([trunk, keras.layers.Dense(len(others))])
    pretraining.compile(
        keras.optimizers.Adam(3e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    history = pretraining.fit(
        other_images / 255.0, other_labels, batch_size=32, epochs=8, verbose=0
    ).history
    print(f"accuracy on other characters: {history['accuracy'][-1]:.2f}")

# %% [markdown]
# ## Frozen: compare methods on features
#
# A frozen trunk gives the same features in every epoch. Run it once, and
# compare methods on its outputs: every training then takes seconds, whatever
# the size of the backbone.

# %%
trunk.trainable = False


def arrays(dataset):
    pairs = [tuple(map(keras.ops.convert_to_numpy, pair)) for pair in dataset]
    return tuple(np.concatenate(part) for part in zip(*pairs))


sets = {
    "train": arrays(data.train),
    "meta": arrays(data.meta),
    "test": arrays(data.test),
}
features = {
    name: (trunk.predict(x, verbose=0), y) for name, (x, y) in sets.items()
}
width = features["train"][0].shape[1]


def head(*units):
    hidden = [keras.layers.Dense(n, "relu") for n in units]
    return keras.Sequential(
        [
            keras.Input((width,)),
            keras.layers.BatchNormalization(),
            *hidden,
            keras.layers.Dense(10),
        ]
    )


findings = bikd.compare(
    features["train"],
    student=head,
    teacher=lambda: head(256),
    test_data=features["test"],
    folder="frozen",
    protocol=bikd.Protocol(
        methods=("cross-entropy", "balanced softmax", "BiKD with class counts"),
        seeds=(0, 1),
        steps=300,
        batch_size=32,
    ),
)
print(findings.recommendation)

# %% [markdown]
# ## Fine-tune the student
#
# Now the whole student is trained: the trunk with the recommended head on top,
# at a low learning rate. The teacher is a head on the frozen trunk. Three
# settings keep a large backbone affordable:
#
# - `hypergradient_layers=1`: the weights learn from the last layer only.
# - The batch normalisation of the trunk stays frozen, as is usual for
#   fine-tuning.
# - The meta batch is smaller than the training batch.

# %%
counts = data.class_counts
teacher_head = head(256)
teacher_head.compile(
    keras.optimizers.Adam(2e-3),
    keras.losses.SparseCategoricalCrossentropy(from_logits=True),
)
teacher_head.fit(*features["train"], batch_size=32, epochs=10, verbose=0)
teacher = keras.Sequential([trunk, teacher_head])

student_trunk = backbone()
student_trunk.set_weights(trunk.get_weights())
for layer in student_trunk.get_layer(index=1).layers:
    if isinstance(layer, keras.layers.BatchNormalization):
        layer.trainable = False
student = keras.Sequential([student_trunk, findings.student()])

metric = bikd.metrics.BalancedAccuracy(10)
student.compile(loss=bikd.losses.hard_loss, metrics=[metric])
before = student.evaluate(*sets["test"], return_dict=True, verbose=0)

model = bikd.BiKDModel(student, teacher, class_counts=counts)
model.compile(
    keras.optimizers.Adam(3e-4), metrics=[metric], hypergradient_layers=1
)
model.fit(
    *sets["train"],
    meta_data=sets["meta"],
    batch_size=32,
    meta_batch_size=16,
    epochs=5,
    verbose=0,
)
after = model.evaluate(*sets["test"], return_dict=True, verbose=0)
for name, scores in (("frozen", before), ("fine-tuned", after)):
    print(f"{name}: {100 * scores['balanced_accuracy']:.1f} %")

# %% [markdown]
# ## Did it help?
#
# The comparison above has answered it for the frozen trunk, on held-out images.
# Its report has every class and every curve.

# %%
findings.report("frozen/report.html")

# %% [markdown]
# To answer it for the fine-tuned student as well, pass the folder itself to
# `bikd.compare`, with functions that build the whole networks, and give it the
# time: `protocol=bikd.Protocol(minutes=60)`.

# %%
model.student.save("student.keras")
