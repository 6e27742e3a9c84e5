"""Cut a classification data set to a long tail, beside a balanced meta set and a balanced test set."""

import dataclasses
import hashlib

import numpy as np
import tensorflow as tf

from keras_bikd.long_tail import exponential_counts


@dataclasses.dataclass(frozen=True)
class LongTailedData:
    """What `load` returns.

    Attributes:
        train: Long-tailed `tf.data.Dataset` of batches `(image, label)`, shuffled anew on every pass.
        meta: Balanced set for the weight network; shares no image with the others.
        test: Balanced test set, in fixed order, never augmented.
        class_counts: Training images per class, integer array of shape `(num_classes,)`.
        num_classes: Number of classes.
        manifest: Where the split came from, ready for JSON: name, version, rule, counts, seed, hash of the chosen ids.
    """

    train: tf.data.Dataset
    meta: tf.data.Dataset
    test: tf.data.Dataset
    class_counts: np.ndarray
    num_classes: int
    manifest: dict


def load(name, imbalance_factor, *, meta_size, batch_size=100, seed=0, augment=None, test_size=None, data_dir=None):
    """Load a tfds classification set, cut to a long tail.

    The balanced meta set is held out first, then class `c` keeps `n_max * imbalance_factor ** (-c / (C - 1))` images,
    `n_max` being what the smallest class has left. Images come as float32 in 0..1. The same seed gives the same
    split; splits of one seed at a larger factor are subsets of those at a smaller one.

    Args:
        name: Name of the tfds data set, or `"sklearn_digits"`, which needs no download.
        imbalance_factor: Largest class count over smallest, at least 1.
        meta_size: Images of the meta set, a multiple of the number of classes.
        batch_size: Images per batch, in all three sets.
        seed: Seed of the split, of the order and of the augmentation.
        augment: Function `(images, seed) -> images` of a batch, for the training and the meta images; see
            `keras_bikd.data.gaussian_noise`.
        test_size: Images of the test set if the data set has no split `test`; a multiple of the number of classes.
        data_dir: Where tfds keeps its data; by default its own place.

    Returns:
        A `LongTailedData`.

    Raises:
        ValueError: If a size does not fit the data set, or a class would be left empty.

    Example:
    >>> data = load("sklearn_digits", imbalance_factor=50, meta_size=100, test_size=500)
    >>> data.class_counts.tolist()
    [114, 73, 47, 30, 20, 12, 8, 5, 3, 2]
    """
    builder = _builder(name, data_dir)
    num_classes = builder.info.features[builder.info.supervised_keys[1]].num_classes
    labels = _labels(builder)
    has_test = "test" in builder.info.splits
    if not has_test and test_size is None:
        raise ValueError(f"The data set {name!r} has no test split. Pass `load(test_size=...)` to hold one out.")

    rest = _shuffled_ids_by_class(labels, num_classes, seed)
    test_ids, rest = ([], rest) if has_test else _take_balanced(rest, test_size, "test_size")
    meta_ids, rest = _take_balanced(rest, meta_size, "meta_size")
    counts = exponential_counts(min(len(ids) for ids in rest), imbalance_factor, num_classes)
    if counts.min() < 1:
        raise ValueError(
            f"{(counts < 1).sum()} of {num_classes} classes would have no training image. Received: "
            f"imbalance_factor={imbalance_factor!r}, with {counts[0]} images of the largest class. "
            f"Take a factor of at most {counts[0]}."
        )
    train_ids = np.concatenate([ids[:count] for ids, count in zip(rest, counts)])

    train = _shuffled_batches(_images(builder, "train", train_ids), len(train_ids), batch_size, seed, augment)
    meta = _shuffled_batches(_images(builder, "train", meta_ids), len(meta_ids), batch_size, seed + 1, augment)
    test = _images(builder, "test") if has_test else _images(builder, "train", test_ids)
    manifest = {
        "data_set": builder.info.name,
        "version": str(builder.info.version),
        "rule": "exponential, meta set held out first",
        "imbalance_factor": float(imbalance_factor),
        "class_counts": counts.tolist(),
        "meta_size": len(meta_ids),
        "test_size": len(test_ids) if not has_test else builder.info.splits["test"].num_examples,
        "seed": seed,
        "ids_sha256": _hash(train_ids, meta_ids, test_ids),
    }
    test = test.batch(batch_size).prefetch(tf.data.AUTOTUNE)
    return LongTailedData(train, meta, test, counts, num_classes, manifest)


def _builder(name, data_dir):
    import tensorflow_datasets as tfds

    from keras_bikd.data import digits  # noqa: F401 (registers `sklearn_digits`)

    tfds.disable_progress_bar()
    builder = tfds.builder(name, data_dir=data_dir)
    builder.download_and_prepare()
    return builder


def _records(builder, split):
    """Records in a fixed order, with their images still encoded."""
    import tensorflow_datasets as tfds

    image_key, _ = builder.info.supervised_keys
    return builder.as_dataset(
        split=split,
        shuffle_files=False,
        read_config=tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False),
        decoders={image_key: tfds.decode.SkipDecoding()},
    )


def _labels(builder):
    _, label_key = builder.info.supervised_keys
    labels = _records(builder, "train").map(lambda record: record[label_key])
    return np.fromiter(labels.as_numpy_iterator(), dtype="int64")


def _images(builder, split, ids=None):
    """`(image, label)` of the chosen records (all, if `ids` is None), decoded once and kept in memory."""
    image_key, label_key = builder.info.supervised_keys
    feature = builder.info.features[image_key]
    records = _records(builder, split)
    if ids is not None:
        chosen = np.zeros(builder.info.splits[split].num_examples, dtype=bool)
        chosen[ids] = True
        chosen = tf.constant(chosen)
        records = records.enumerate().filter(lambda i, _: chosen[i]).map(lambda _, record: record)
        records = records.apply(tf.data.experimental.assert_cardinality(len(ids)))

    def decode(record):
        image = feature.decode_example(record[image_key])
        return tf.image.convert_image_dtype(image, "float32"), record[label_key]

    return records.map(decode, num_parallel_calls=tf.data.AUTOTUNE).cache()


def _shuffled_batches(images, count, batch_size, seed, augment):
    batches = images.shuffle(count, seed=seed).batch(batch_size)
    if augment is not None:
        seeds = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True).batch(2)
        batches = tf.data.Dataset.zip((batches, seeds)).map(
            lambda batch, seed: (augment(batch[0], seed), batch[1]), num_parallel_calls=tf.data.AUTOTUNE
        )
    return batches.prefetch(tf.data.AUTOTUNE)


def _shuffled_ids_by_class(labels, num_classes, seed):
    generator = np.random.default_rng(seed)
    return [generator.permutation(np.where(labels == label)[0]) for label in range(num_classes)]


def _take_balanced(ids_by_class, size, argument):
    """Split off `size` ids, the same number of every class."""
    num_classes = len(ids_by_class)
    smallest = min(len(ids) for ids in ids_by_class)
    per_class, odd = divmod(size, num_classes)
    if size < num_classes or odd or per_class >= smallest:
        raise ValueError(
            f"`load({argument}=...)` takes a multiple of the number of classes ({num_classes}) that leaves images in "
            f"every class (the smallest has {smallest}). Received: {argument}={size!r}"
        )
    taken = np.concatenate([ids[:per_class] for ids in ids_by_class])
    return taken, [ids[per_class:] for ids in ids_by_class]


def _hash(*id_lists):
    digest = hashlib.sha256()
    for ids in id_lists:
        digest.update(np.sort(np.asarray(ids, dtype="<i8")).tobytes() + b"|")
    return digest.hexdigest()
