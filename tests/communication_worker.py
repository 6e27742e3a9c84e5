"""One step of plain distillation and of BiKD on four devices: `communication_worker.py DUMP`, on JAX.

XLA writes what it has compiled to DUMP. Prints the bytes of the trainable variables of student and weight network, and
what the devices exchange in each of the steps.
"""

import json
import math
import os
import pathlib
import re
import sys

BYTES = {"pred": 1, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8}
EXCHANGE = re.compile(r" = (.*?) (?:all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)(?:-start)?\(")


def main(folder):
    os.environ["XLA_FLAGS"] = (
        f"--xla_force_host_platform_device_count=4 --xla_dump_to={folder} --xla_dump_hlo_as_text"
        " --xla_dump_hlo_module_re=train_step"
    )
    os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"  # what is found there is not compiled
    import keras

    import keras_bikd as bikd
    import models

    keras.distribution.set_distribution(keras.distribution.DataParallel(auto_shard_dataset=False))
    train, meta = models.arrays(16), models.arrays(8, seed=1)
    plain = bikd.DistillationModel(models.perceptron(), models.perceptron(), bikd.objectives.KnowledgeDistillation())
    plain.compile(keras.optimizers.SGD(0.1))
    plain.fit(*train, batch_size=16, verbose=0)
    for form in ("exact", "forward_difference"):
        model = models.compiled(compile_arguments={**models.GRAPH, "hypergradient": form})
        model.fit(*train, meta_data=meta, batch_size=16, meta_batch_size=8, verbose=0)
    steps = sorted(pathlib.Path(folder).glob("*train_step*after_optimizations.txt"))
    theta, phi = (
        sum(4 * math.prod(variable.shape) for variable in part.trainable_variables)
        for part in (model.student, model.weight_net)
    )
    print(json.dumps({"theta": theta, "phi": phi, "exchanged": [exchanged(step.read_text()) for step in steps]}))


def exchanged(program):
    return sum(
        BYTES[dtype] * math.prod(int(length) for length in shape.split(",") if length)
        for outputs in EXCHANGE.findall(program)
        for dtype, shape in re.findall(r"(\w+)\[([\d,]*)\]", outputs)
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
