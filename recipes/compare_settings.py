"""The settings of `compare.py`: data, networks and the length of a training."""

import dataclasses

import glyphs  # noqa: F401 (registers `glyphs`)
import keywords_data  # noqa: F401 (registers `python_keywords`)
from wrong_labels import WrongLabels

from keras_bikd import data
from keras_bikd.comparison import ByteConvNet, Call, CifarResNet, Perceptron, Setting

# The numbers are those of studies on these sets, or the paper's for CIFAR.
SETTINGS = {
    "digits-noise": Setting(
        name="sklearn_digits",
        imbalance_factors=(10.0, 50.0, 100.0),
        seeds=(0, 1, 2, 3, 4, 5),
        meta_size=100,
        test_size=500,
        steps=2000,
        learning_rate=0.05,
        student=Perceptron((12,)),
        teacher=Perceptron((128,)),
        augment=Call(data.gaussian_noise, 0.7),
    ),
    "glyphs/g100": Setting(
        name="glyphs/g100",
        imbalance_factors=(50.0,),
        seeds=(0, 1, 2),
        meta_size=500,
        passes=10,
        student=CifarResNet(8, (16, 16, 32, 64), stem_stride=2),
        teacher=CifarResNet(8, (32, 32, 64, 128), stem_stride=2),
        augment=Call(data.pad_crop_flip, 1, flip=False),
    ),
    "glyphs/h": Setting(
        name="glyphs/h",
        imbalance_factors=(100.0,),
        seeds=(0, 1, 2),
        meta_size=400,
        passes=12,
        student=CifarResNet(8, (8, 8, 16, 32), stem_stride=2),
        teacher=CifarResNet(8, (32, 32, 64, 128), stem_stride=2),
        augment=Call(data.pad_crop_flip, 1, flip=False),
    ),
    "keywords": Setting(
        name="python_keywords/small",
        imbalance_factors=(None,),
        seeds=(1, 2, 3, 4, 5, 6),  # the teacher was chosen on seed 0
        meta_size=350,
        batch_size=128,
        steps=1500,
        student=ByteConvNet(16, (16, 16)),
        teacher=ByteConvNet(16, (64, 64), dropout=0.1),
    ),
}
# As collected from the web: four labels of ten are wrong; five checked images per class. Seeds that chose nothing.
SETTINGS["glyphs/g100-wrong-labels"] = dataclasses.replace(
    SETTINGS["glyphs/g100"], alter=WrongLabels(0.4), seeds=tuple(range(100, 112))
)
# Characters that look alike, grouped by eye before any training; a wrong label is one of the same group.
LOOK_ALIKES = (
    "0CDGQθΘσ@",
    "38B&β",
    "εξζΞΣE",
    "17IJijTtτ!",
    "2Z?",
    "5S$§",
    "69bgqρPR¶",
    "dδ∂ea",
    "4AΔΛ",
    "HNMWmΠ",
    "nηhπΩω",
    "UVYγμ",
    "KkXχ*",
    "rfFΓ∫L√",
    "φΦψΨ%",
    "+±÷=≠#",
    "<>λ",
    "α∞",
)
SETTINGS["glyphs/g100-confusable-labels"] = dataclasses.replace(
    SETTINGS["glyphs/g100-wrong-labels"], alter=WrongLabels(0.4, LOOK_ALIKES), seeds=tuple(range(124, 130))
)
SETTINGS["digits"] = dataclasses.replace(
    SETTINGS["digits-noise"], augment=Call(data.gaussian_noise, 0.15), imbalance_factors=(50.0,)
)
PAPER = {
    name: Setting(
        name=name,
        imbalance_factors=(10.0, 50.0, 100.0),
        seeds=(0, 1, 2),
        meta_size=1000,
        batch_size=100,
        passes=120,
        student=CifarResNet(8, (32, 64, 128, 256)),
        teacher=CifarResNet(32, (32, 64, 128, 256)),
        augment=Call(data.pad_crop_flip, 4),
    )
    for name in ("cifar10", "cifar100")
}


def situations(kind, base, imbalance_factor, *, weak_steps, seeds):
    """What a user may have: a teacher that is good or bad, and labels that are right or wrong."""

    def at(factor, **changes):
        return dataclasses.replace(base, imbalance_factors=(factor,), seeds=seeds, **changes)

    as_it_is = at(imbalance_factor)
    yield f"{kind}/base", as_it_is
    short = {"steps": weak_steps, "passes": None}
    yield f"{kind}/weak-teacher", at(imbalance_factor, taught=dataclasses.replace(as_it_is, **short))
    misled = dataclasses.replace(as_it_is, alter=WrongLabels(0.5))
    yield f"{kind}/misled-teacher", at(imbalance_factor, taught=misled)
    yield f"{kind}/wrong-labels", at(imbalance_factor, alter=WrongLabels(0.3))
    if imbalance_factor is not None:
        balanced = at(1.0)
        yield f"{kind}/imbalance-10", at(10.0)
        yield f"{kind}/strong-teacher", at(imbalance_factor, taught=balanced)
        yield f"{kind}/wrong-labels-strong-teacher", at(imbalance_factor, taught=balanced, alter=WrongLabels(0.3))


# Seeds on which nothing was chosen.
FRESH = tuple(range(40, 46))
DIGITS = SETTINGS["digits-noise"]
SITUATIONS = {
    **dict(situations("digits", DIGITS, 50.0, weak_steps=60, seeds=FRESH)),
    "digits/imbalance-100": dataclasses.replace(DIGITS, imbalance_factors=(100.0,), seeds=FRESH),
    "digits/imbalance-10-wrong-labels": dataclasses.replace(
        DIGITS, imbalance_factors=(10.0,), seeds=FRESH, alter=WrongLabels(0.5)
    ),
    "digits/little-noise": dataclasses.replace(SETTINGS["digits"], seeds=FRESH),
    **dict(situations("glyphs", SETTINGS["glyphs/h"], 100.0, weak_steps=60, seeds=FRESH)),
    **dict(situations("keywords", SETTINGS["keywords"], None, weak_steps=100, seeds=FRESH)),
}
SETTINGS |= PAPER | SITUATIONS
