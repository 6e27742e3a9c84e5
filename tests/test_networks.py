"""The networks: sizes, where L2 applies, initialisation. Numbers are in `test_golden.py`, case B."""

import numpy as np
import pytest

import golden
from keras_bikd import networks

pytestmark = pytest.mark.tensorflow  # operations one by one, each of which JAX would compile


def test_sizes_of_the_papers_networks():
    assert networks.resnet8x4(100).count_params() == 1_233_540 + 2 * bn_channels(8)
    assert networks.resnet32x4(100).count_params() == 7_433_860 + 2 * bn_channels(32)


def bn_channels(depth):
    """Channels that carry moving statistics, which PyTorch does not count as parameters."""
    blocks = (depth - 2) // 6
    return 32 + sum((2 * blocks + 1) * width for width in (64, 128, 256))


@pytest.mark.parametrize(("depth", "convolutions"), [(8, 10), (14, 16), (20, 22)])
def test_depth_counts_layers(depth, convolutions):
    """Weighted layers on the main path, the shortcuts of three stages beside them."""
    model = networks.cifar_resnet(depth, (4, 8, 16, 32))
    kernels = [v for v in model.trainable_variables if v.name == "kernel"]
    assert len(kernels) - 1 == convolutions
    assert model.output_shape == (None, 10)


def test_l2_is_half_of_pytorchs_weight_decay_on_every_trainable_weight():
    model = networks.cifar_resnet(8, (4, 4, 8, 8), 5, l2=2.5e-4)
    squares = sum(float(np.sum(v.numpy() ** 2)) for v in model.trainable_variables)
    np.testing.assert_allclose(float(sum(model.losses)), 2.5e-4 * squares, rtol=1e-5)
    assert networks.cifar_resnet(8, (4, 4, 8, 8), 5).losses == []


def test_initial_scale():
    """Kaiming normal over the fan-out for convolutions, U(-1/sqrt(fan_in), 1/sqrt(fan_in)) for the classifier."""
    model = networks.resnet8x4(100)
    kernel = model.get_layer("stage3_block1_conv2").kernel.numpy()
    np.testing.assert_allclose(kernel.std(), np.sqrt(2 / (9 * 256)), rtol=0.01)
    classifier = model.get_layer("classifier").kernel.numpy()
    assert np.abs(classifier).max() <= 256**-0.5
    np.testing.assert_allclose(classifier.std(), 256**-0.5 / np.sqrt(3), rtol=0.02)


def checkpoint():
    """The authors' network of golden case B, under PyTorch's names."""
    data = golden.load("hypergradient_resnet")
    quantities = ("torch.initial_theta.", "torch.initial_bn_stats.")
    state = {k.removeprefix(q): data[k] for q in quantities for k in data if k.startswith(q)}
    return data, state


@pytest.mark.parametrize("prefix", ["", "module."])
def test_pytorch_weights(prefix):
    data, state = checkpoint()
    model = networks.cifar_resnet(8, [int(w) for w in data["config.widths"]], int(data["config.num_classes"]))
    state = {prefix + name: array for name, array in state.items()} | {f"{prefix}bn1.num_batches_tracked": np.array(3)}
    networks.load_pytorch_weights(model, state)
    logits = model(data["input.val_images_nhwc"].astype("float32"), training=False)
    golden.assert_close(logits, data["expected.val_logits_inference_mode"], 1e-4)


def test_pytorch_weights_of_another_network_change_nothing():
    data, state = checkpoint()
    model = networks.cifar_resnet(14, [int(w) for w in data["config.widths"]], 7)
    before = [w.copy() for w in model.get_weights()]
    with pytest.raises(ValueError, match=r"missing \[\('layer1.1.conv1.weight'.*left over \[\('fc.weight', \(8, 5\)\)"):
        networks.load_pytorch_weights(model, state)
    state["extra"] = np.zeros(3)
    with pytest.raises(ValueError, match=r"left over .*'extra', \(3,\)"):
        networks.load_pytorch_weights(model, state)
    for a, b in zip(before, model.get_weights()):
        np.testing.assert_array_equal(a, b)
