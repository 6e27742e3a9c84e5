"""Every number of the authors' code, through our public names. A to G are the cases of `golden/README.md`."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import golden
import keras_bikd as bikd
import models
from golden import assert_all_close, assert_close, tensors
from keras_bikd import long_tail, losses, networks, objectives

pytestmark = pytest.mark.backend

both_precisions = pytest.mark.parametrize("floatx", ["float64", "float32"], indirect=True)
float64 = pytest.mark.parametrize("floatx", ["float64"], indirect=True)


def tolerance(case, floatx):
    return 1e-9 if floatx == "float64" else golden.FLOAT32_TOLERANCE[case]


def weight_net(data, quantity="initial_phi"):
    net = bikd.MetaWeightNet(hidden_units=[int(units) for units in data["config.weight_net_hidden"]])
    net.set_weights(tensors(data, quantity))
    return net


def mlp_student(data):
    return golden.WithTeacherColumn(
        golden.mlp(data["config.student_layer_sizes"], data["config.hidden_activation"], tensors(data, "initial_theta"))
    )


def model_of(data, student, teacher=None, **kwargs):
    kwargs = {"temperature": float(data["config.temperature"]), **kwargs}
    model = bikd.BiKDModel(student, teacher or golden.TableTeacher(), weight_net(data), **kwargs)
    meta = float(data["config.meta_learning_rate"]) if "config.meta_learning_rate" in data else 1e-3
    model.compile(
        optimizer=keras.optimizers.SGD(float(data["config.learning_rate"])), meta_optimizer=keras.optimizers.SGD(meta)
    )
    return model


@both_precisions
def test_a_hypergradient_mlp(floatx):
    data, rtol = golden.load("hypergradient_mlp"), tolerance("mlp", floatx)
    batch, meta_batch = golden.batch(data, "train"), golden.batch(data, "val")
    model = model_of(data, mlp_student(data), inner_steps=1)
    exact = floatx == "float64"

    meta_loss, hypergradient = model.hypergradient(batch, meta_batch)
    assert_close(meta_loss, data["expected.val_loss"], rtol)
    assert_all_close(hypergradient, tensors(data, "expected_hypergradient"), rtol, elementwise=exact)
    logs = model.train_on_batch(batch, meta_batch, return_dict=True)
    assert_close(logs["loss"], data["expected.real_loss_after_meta_step"], max(rtol, 1e-6))
    assert_close(logs["meta_loss"], data["expected.val_loss"], max(rtol, 1e-6))
    assert_close(logs["hard_weight"], data["expected.weights_after_meta_step"][:, 0].mean(), max(rtol, 1e-6))
    assert_close(logs["soft_weight"], data["expected.weights_after_meta_step"][:, 1].mean(), max(rtol, 1e-6))
    assert_all_close(model.weight_net.get_weights(), tensors(data, "expected_phi_after_meta_step"), rtol, exact)
    assert_all_close(model.student.get_weights(), tensors(data, "expected_theta_after_real_step"), rtol, exact)


@both_precisions
@pytest.mark.parametrize(("meta_loss", "suffix"), [("mixed", "mix"), ("soft", "soft")])
def test_a_other_meta_losses(floatx, meta_loss, suffix):
    data, rtol = golden.load("hypergradient_mlp"), tolerance("mlp", floatx)
    model = model_of(data, mlp_student(data), meta_loss=meta_loss)
    value, hypergradient = model.hypergradient(golden.batch(data, "train"), golden.batch(data, "val"))
    assert_close(value, data[f"expected.val_loss_{suffix}"], rtol)
    assert_all_close(hypergradient, tensors(data, f"expected_hypergradient_{suffix}"), rtol)


@float64
def test_a_real_teacher(floatx):
    data = golden.load("hypergradient_mlp")
    sizes = data["config.teacher_layer_sizes"]
    teacher = golden.mlp(sizes, data["config.hidden_activation"], tensors(data, "teacher"))
    student = golden.mlp(
        data["config.student_layer_sizes"], data["config.hidden_activation"], tensors(data, "initial_theta")
    )
    model = model_of(data, student, teacher)
    pairs = [(data[f"input.{split}_inputs"], data[f"input.{split}_labels"]) for split in ("train", "val")]
    _, hypergradient = model.hypergradient(*pairs)
    assert_all_close(hypergradient, tensors(data, "expected_hypergradient"), 1e-9)


@pytest.mark.parametrize(
    "floatx",
    [
        "float64",
        pytest.param(
            "float32",
            marks=[
                pytest.mark.slow,
                pytest.mark.skipif(
                    keras.backend.backend() == "tensorflow",
                    reason="the authors' network is too narrow for oneDNN's filter gradient, see conftest.py",
                ),
            ],
        ),
    ],
    indirect=True,
)
def test_b_hypergradient_resnet(floatx):
    data, rtol = golden.load("hypergradient_resnet"), tolerance("resnet", floatx)
    classes = int(data["config.num_classes"])
    net = networks.cifar_resnet(8, [int(width) for width in data["config.widths"]], classes)

    def in_order(*quantities):
        values = {}
        for quantity in quantities:
            values.update(zip(golden.names(data, quantity), tensors(data, quantity)))
        return [values[f"{v.path.split('/')[-2]}.{v.name}"] for v in net.weights]

    net.set_weights(in_order("initial_theta", "initial_bn_stats"))
    images = data["input.val_images_nhwc"].astype(floatx)
    assert_close(net(images, training=False), data["expected.val_logits_inference_mode"], rtol)

    model = model_of(data, golden.WithTeacherColumn(net), inner_steps=1)
    pair = golden.batch(data, "train", "images_nhwc"), golden.batch(data, "val", "images_nhwc")
    value, hypergradient = model.hypergradient(*pair)
    assert_close(value, data["expected.val_loss"], rtol)
    assert_all_close(hypergradient, tensors(data, "expected_hypergradient"), rtol)
    assert_all_close(net.get_weights(), in_order("initial_theta", "initial_bn_stats"), 1e-7)  # nothing moved

    model.train_on_batch(*pair)
    after = in_order("expected_theta_after_real_step", "expected_bn_stats_after_real_step_keras_convention")
    assert_all_close(net.get_weights(), after, rtol)
    assert_all_close(model.weight_net.get_weights(), tensors(data, "expected_phi_after_meta_step"), rtol)


@float64
def test_c_trajectory_of_the_authors(floatx):
    """Mean over k, L2 in both gradients, counter and sum restarted each epoch: rebuilt here from public parts."""
    data = golden.load("trajectory_official_k3")
    config = {key.removeprefix("config."): data[key] for key in data if key.startswith("config.")}
    model = model_of(data, mlp_student(data))
    theta, phi = model.student.net.trainable_variables, model.weight_net.trainable_variables
    velocity = [np.zeros(v.shape) for v in theta]
    first, second, updates, step = [0.0] * len(phi), [0.0] * len(phi), 0, 0
    for epoch_steps in config["steps_per_epoch"]:
        total = [0.0] * len(phi)
        for count in range(1, epoch_steps + 1):
            batch = golden.batch(data, "train", step=step)
            value, hypergradient = model.hypergradient(batch, golden.batch(data, "val", step=step))
            assert_close(value, data["expected.val_loss"][step], 1e-9)
            expected = [tensor[step] for tensor in tensors(data, "expected_hypergradient")]
            assert_all_close(hypergradient, expected, 1e-9)

            total = [t + np.asarray(h) / config["k"] for t, h in zip(total, hypergradient)]
            if count % config["k"] == 0:
                updates += 1
                beta_1, beta_2 = config["meta_beta_1"], config["meta_beta_2"]
                for i, variable in enumerate(phi):
                    g = total[i] + config["meta_weight_decay"] * variable.numpy()
                    first[i] = beta_1 * first[i] + (1 - beta_1) * g
                    second[i] = beta_2 * second[i] + (1 - beta_2) * g**2
                    root = np.sqrt(second[i] / (1 - beta_2**updates)) + config["meta_epsilon"]
                    change = config["meta_learning_rate"] * first[i] / (1 - beta_1**updates) / root
                    variable.assign(variable.numpy() - change)
                total = [0.0] * len(phi)
            assert (count % config["k"] == 0) == data["expected.phi_updated"][step]

            x, labels = batch
            seen = [losses.hard_loss(labels, t) for t in (x["teacher_logits"], model.student(x, training=True))]
            weights = model.weight_net(keras.ops.stack(seen, axis=-1))

            def weighted_loss(x=x, labels=labels, weights=weights):
                logits = model.student(x, training=True)
                soft = losses.soft_loss(x["teacher_logits"], logits, float(config["temperature"]))
                return keras.ops.mean(weights[:, 0] * losses.hard_loss(labels, logits) + weights[:, 1] * soft)

            loss, gradient = models.value_and_gradients(weighted_loss, theta)
            assert_close(weights, data["expected.weights_real"][step], 1e-9)
            assert_close(loss, data["expected.train_loss_real"][step], 1e-9)
            for i, (variable, g) in enumerate(zip(theta, gradient)):
                decayed = np.asarray(g) + config["student_weight_decay"] * variable.numpy()
                velocity[i] = config["student_momentum"] * velocity[i] + decayed
                variable.assign(variable.numpy() - config["learning_rate"] * velocity[i])
            for variables, quantity in ((theta, "expected_theta_after_step"), (phi, "expected_phi_after_step")):
                expected = [tensor[step] for tensor in tensors(data, quantity)]
                assert_all_close([v.numpy() for v in variables], expected, 1e-9, what=f"{quantity}, step {step}")
            step += 1


@both_precisions
def test_d_trajectory_of_the_paper(floatx):
    data, rtol = golden.load("trajectory_paper_k3"), tolerance("trajectory", floatx)
    model = model_of(data, mlp_student(data), inner_steps=int(data["config.k"]))
    for step in range(len(data["input.train_labels"])):
        pair = golden.batch(data, "train", step=step), golden.batch(data, "val", step=step)
        value, hypergradient = model.hypergradient(*pair)
        assert_close(value, data["expected.val_loss"][step], rtol)
        assert_all_close(hypergradient, [t[step] for t in tensors(data, "expected_hypergradient")], rtol)
        logs = model.train_on_batch(*pair, return_dict=True)
        assert_close(logs["loss"], data["expected.train_loss_real"][step], max(rtol, 1e-6))
        for weights, quantity in (
            (model.student.get_weights(), "expected_theta_after_step"),
            (model.weight_net.get_weights(), "expected_phi_after_step"),
        ):
            assert_all_close(weights, [t[step] for t in tensors(data, quantity)], rtol, what=f"{quantity}, {step}")
        if not data["expected.phi_updated"][step]:
            expected = [t[step] for t in tensors(data, "expected_accumulated_hypergradient")]
            assert_all_close([v.numpy() for v in model.optimizer.hypergradients], expected, rtol)
    assert int(model.optimizer.iterations) == step + 1


@float64
def test_d_through_fit_in_two_epochs(floatx):
    """The counter and the sum run on over the end of an epoch, here in the middle of a window of three."""
    data = golden.load("trajectory_paper_k3")
    model = model_of(data, mlp_student(data), inner_steps=int(data["config.k"]))
    steps, start = len(data["input.train_labels"]), 0
    for epoch_steps in data["config.steps_per_epoch"]:
        sets = []
        for split in ("train", "val"):
            batches = [golden.batch(data, split, step=start + i) for i in range(epoch_steps)]
            stacked = keras.tree.map_structure(lambda *parts: np.stack(parts), *batches)
            sets.append(tf.data.Dataset.from_tensor_slices(stacked))
        model.fit(sets[0], meta_data=sets[1], verbose=0)
        start += epoch_steps
    assert start == steps
    assert_all_close(model.student.get_weights(), [t[-1] for t in tensors(data, "expected_theta_after_step")], 1e-9)
    assert_all_close(model.weight_net.get_weights(), [t[-1] for t in tensors(data, "expected_phi_after_step")], 1e-9)


@both_precisions
@pytest.mark.parametrize("net", ["h64_64", "h64"])
def test_e_weight_net(floatx, net):
    data = golden.load("weight_net")
    layer = bikd.MetaWeightNet([int(units) for units in data[f"config.{net}.weight_net_hidden"]])
    layer.set_weights(tensors(data, f"phi_{net}"))
    weights = layer(data["input.losses_teacher_student"].astype(floatx))
    assert_close(weights, data[f"expected.{net}.weights"], tolerance("weight_net", floatx))


GROUPS = ["c2", "c5", "c100", "extreme_c2", "extreme_c5", "equal_c10", "constant_c10"]


@both_precisions
@pytest.mark.parametrize("group", GROUPS)
def test_f_losses(floatx, group):
    data, rtol = golden.load("losses"), tolerance("losses", floatx)
    student, teacher = (data[f"input.{group}.{role}_logits"].astype(floatx) for role in ("student", "teacher"))
    labels = data[f"input.{group}.labels"]
    for given in (labels, np.eye(student.shape[1])[labels]):
        assert_close(losses.hard_loss(given, student), data[f"expected.{group}.hard_loss"], rtol)
    for temperature in (1, 4):
        expected = data[f"expected.{group}.tau_{temperature}.soft_loss"]
        assert_close(losses.soft_loss(teacher, student, float(temperature)), expected, rtol)


def objective_of(name, data, group, temperature):
    """The objective behind a golden total; alpha means another thing in each of the authors' losses."""
    counts, tau = data[f"input.{group}.class_counts"], {"temperature": float(temperature)}
    alpha = {key: float(data[f"config.alpha_{key}"]) for key in ("kd", "dive", "bkd", "wsl")}
    dive = {"class_counts": counts, "alpha": alpha["dive"], **tau}
    return {
        "kd": lambda: objectives.KnowledgeDistillation(hard_weight=alpha["kd"], soft_weight=1 - alpha["kd"], **tau),
        "dive_power_off": lambda: objectives.DistillingVirtualExamples(power=1.0, **dive),
        "dive_power_on": lambda: objectives.DistillingVirtualExamples(power=0.5, **dive),
        "bkd": lambda: objectives.BalancedKnowledgeDistillation(class_counts=counts, alpha=alpha["bkd"], **tau),
        "bkd_unweighted": lambda: objectives.KnowledgeDistillation(hard_weight=1.0, soft_weight=alpha["bkd"], **tau),
        "wsl": lambda: objectives.WeightedSoftLabels(alpha=alpha["wsl"], **tau),
    }[name]()


OBJECTIVES = ("kd", "dive_power_off", "dive_power_on", "bkd", "bkd_unweighted", "wsl")


@float64
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("temperature", [1, 4])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_f_objectives(floatx, group, temperature, name):
    data = golden.load("losses")
    objective = objective_of(name, data, group, temperature)
    labels, teacher = data[f"input.{group}.labels"], data[f"input.{group}.teacher_logits"]
    total, gradient = models.value_and_gradient(
        lambda student: keras.ops.mean(objective(labels, teacher, student)), data[f"input.{group}.student_logits"]
    )
    assert_close(total, data[f"expected.{group}.tau_{temperature}.{name}_total"], 1e-9)
    assert_close(gradient, data[f"expected.{group}.tau_{temperature}.{name}_gradient"], 1e-9)


@pytest.mark.parametrize("group", GROUPS)
def test_f_class_balanced_weights(group):
    data = golden.load("losses")
    weights = long_tail.class_balanced_weights(data[f"input.{group}.class_counts"], float(data["config.bkd_beta"]))
    np.testing.assert_allclose(weights, data[f"input.{group}.bkd_class_weights"], rtol=1e-12)


def test_g_long_tail_counts():
    data = golden.load("long_tail_counts")
    for n_max, classes in zip(data["config.n_max"], data["config.num_classes"]):
        for rho in data["config.rho"]:
            counts = long_tail.exponential_counts(int(n_max), float(rho), int(classes))
            key = [k for k in data if k.startswith(f"expected.nmax{n_max}_c{classes}_rho{rho:g}.counts")]
            assert len(key) == 1
            np.testing.assert_array_equal(counts, data[key[0]])
