"""What a step of BiKD costs relative to plain KD: time and peak memory.

    python recipes/benchmark_step.py
    KERAS_BACKEND=jax python recipes/benchmark_step.py

A resnet32x4 teaches a resnet8x4 on random 32x32x3 images, with batch size 100 and 100 classes, in graph mode or, on
JAX, jitted. Every variant runs in its own process, which reports its peak memory. The steps of the variants are timed
in turn, so that a machine that slows down affects all of them. The recipe prints the mean seconds per step, and the
ratios to plain KD.

`difference` is `compile(hypergradient="forward_difference")`; `meta / 4` has a quarter of the meta batch. With `stored
teacher`, batches bring the teacher's logits, as those of `data.precompute_teacher` do, and it never runs. `last layer`
is an approximation of the hypergradient. `naive` is BiKD written literally from Algorithm 1, with a
second forward and backward pass for the real step. This takes twelve minutes on two CPU cores. On JAX, which compiles
for longer, it takes six with `--batch-size 20`. On a GPU, the peak memory is the device's.
"""

import argparse
import multiprocessing
import os
import resource
import statistics
import time

BATCH_SIZE, CLASSES = 100, 100
VARIANTS = (
    "KD",
    "BiKD k=1",
    "BiKD k=5",
    "BiKD k=20",
    "BiKD k=5, difference",
    "BiKD k=5, difference, meta / 4",
    "KD, stored teacher",
    "BiKD k=5, difference, meta / 4, stored teacher",
    "BiKD k=5, last layer",
    "naive k=5",
)
COMPILE_ARGUMENTS = {
    "difference": {"hypergradient": "forward_difference"},
    "last layer": {"hypergradient_layers": 1},
}


def main(rounds=20, batch_size=BATCH_SIZE):
    # So that all variants fit on one GPU: by default JAX and TensorFlow take most of its memory for one process.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    context = multiprocessing.get_context("spawn")
    workers = {}
    for variant in VARIANTS:
        ours, theirs = context.Pipe()
        process = context.Process(target=serve, args=(variant, batch_size, theirs), daemon=True)
        process.start()
        workers[variant] = process, ours
    for _, pipe in workers.values():
        pipe.recv()  # built and warm
    seconds = {variant: [] for variant in VARIANTS}
    for _ in range(rounds):
        for variant, (_, pipe) in workers.items():
            pipe.send("step")
            seconds[variant].append(pipe.recv())
    memory = {}
    for variant, (process, pipe) in workers.items():
        pipe.send("stop")
        memory[variant] = pipe.recv()
        process.join()
    rows = [
        {
            "variant": variant,
            # The mean over whole windows of 20 steps has the right share of expensive steps; the median would not.
            "seconds": statistics.mean(seconds[variant]),
            "ratio": statistics.mean(seconds[variant]) / statistics.mean(seconds["KD"]),
            "memory": memory[variant],
            "memory_ratio": memory[variant] / memory["KD"],
        }
        for variant in VARIANTS
    ]
    print("| step | seconds | to KD | peak MiB | to KD |\n|---|---:|---:|---:|---:|")
    for row in rows:
        print("| {variant} | {seconds:.3f} | {ratio:.2f} | {memory:.0f} | {memory_ratio:.2f} |".format(**row))
    return rows


def serve(variant, batch_size, pipe):
    """Run single steps of one variant on request, and report the peak memory in MiB at the end."""
    import keras

    keras.utils.set_random_seed(0)
    images = keras.random.normal((2, batch_size, 32, 32, 3))
    labels = keras.random.randint((2, batch_size), 0, CLASSES)
    kind, *options = variant.split(", ")
    meta_size = batch_size // 4 if "meta / 4" in options else batch_size
    batch, meta_batch = (images[0], labels[0]), (images[1, :meta_size], labels[1, :meta_size])
    if "stored teacher" in options:
        batch = images[0], {"labels": labels[0], "teacher_logits": keras.random.normal((batch_size, CLASSES))}
    step = build(kind, options)
    for _ in range(2):
        step(batch, meta_batch)
    pipe.send("ready")
    while pipe.recv() == "step":
        start = time.perf_counter()
        step(batch, meta_batch)
        pipe.send(time.perf_counter() - start)
    pipe.send(peak_memory() / 2**20)


def peak_memory():
    """Peak memory in bytes: of the GPU if there is one, else of this process."""
    import keras

    if keras.backend.backend() == "jax":
        import jax

        on_device = jax.devices()[0].memory_stats()  # None on a CPU
        if on_device:
            return on_device["peak_bytes_in_use"]
    elif keras.backend.backend() == "torch":
        import torch

        if torch.cuda.is_available():
            return torch.cuda.max_memory_allocated()
    else:
        import tensorflow as tf

        if tf.config.list_physical_devices("GPU"):
            return tf.config.experimental.get_memory_info("GPU:0")["peak"]
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def build(kind, options):
    import keras

    import keras_bikd as bikd

    student = bikd.networks.resnet8x4(CLASSES)
    teacher = bikd.StoredTeacher() if "stored teacher" in options else bikd.networks.resnet32x4(CLASSES)
    if kind == "KD":
        model = bikd.DistillationModel(student, teacher, bikd.objectives.KnowledgeDistillation(temperature=4.0))
        model.compile(keras.optimizers.SGD(0.1, momentum=0.9))
        return lambda batch, meta_batch: model.train_on_batch(*batch)
    name, inner_steps = kind.split(" k=")
    model = (naive_model() if name == "naive" else bikd.BiKDModel)(student, teacher, inner_steps=int(inner_steps))
    arguments = [COMPILE_ARGUMENTS[option] for option in options if option in COMPILE_ARGUMENTS]
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), **(arguments[0] if arguments else {}))
    return model.train_on_batch


def naive_model():
    """BiKD that repeats the forward and the backward pass for the real step."""
    import keras_bikd as bikd
    from keras_bikd.backend import snapshot, vjp

    class NaiveBiKDModel(bikd.BiKDModel):
        def bilevel_step(self, batch, meta_batch):
            step = self.virtual_step(batch, meta_batch)
            self.optimizer.update_meta(self.optimizer.accumulate(step.hypergradient, self.inner_steps))
            theta, phi = snapshot(self.student.trainable_variables), snapshot(self.weight_net.trainable_variables)
            _, forward, pullback = vjp(self.problem.lower_level(batch).at, theta)
            weights = self.weigh(phi, forward)
            gradient = pullback(self.problem.batch_weights(weights, forward))
            self.optimizer.update_student(gradient, self.student.trainable_variables)
            self.problem.keep_state(forward)
            return self._logs(batch, meta_batch, step, weights)

    return NaiveBiKDModel


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=BATCH_SIZE)
    main(**vars(parser.parse_args()))
