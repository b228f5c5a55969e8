"""Keras: `keras.applications.ResNet50` and its deeper siblings, on TensorFlow or on JAX."""

from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np

from benchmarks.peers import CLASSES, Case, Contestant

MODELS = {50: "ResNet50", 101: "ResNet101", 152: "ResNet152"}


def make(name: str, case: Case) -> Contestant:
    """Builds the contestant, on the backend that the variable KERAS_BACKEND names.

    Raises:
        ValueError: Keras has no ResNet of this depth.
    """
    if case.depth not in MODELS:
        raise ValueError(f"keras.applications has no ResNet of depth {case.depth}")
    if case.dtype == "bfloat16":
        keras.mixed_precision.set_global_policy("mixed_bfloat16")
    model = getattr(keras.applications, MODELS[case.depth])(
        weights=None,
        input_shape=(case.image_size, case.image_size, 3),
        classes=CLASSES,
        classifier_activation=None,
    )
    parameters = sum(int(weight.size) for weight in map(_numpy, model.trainable_weights))
    return {"keras_tf": _on_tensorflow, "keras_jax": _on_jax}[name](case, model, parameters)


def _numpy(weight: keras.Variable) -> np.ndarray:
    return keras.ops.convert_to_numpy(weight)


def _loss_and_optimizer() -> tuple[keras.losses.Loss, keras.optimizers.Optimizer]:
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True), keras.optimizers.Adam(1e-3)


def _on_tensorflow(case: Case, model: keras.Model, parameters: int) -> Contestant:
    import tensorflow as tf

    # XLA pays on a GPU. On a CPU, TensorFlow's own kernels (oneDNN) are faster than XLA's convolutions.
    jit_compile = case.device == "gpu"
    images, labels = tf.constant(case.normalized_images()), tf.constant(case.labels())
    if case.task == "train":
        loss, optimizer = _loss_and_optimizer()
        model.compile(optimizer, loss, jit_compile=jit_compile)
        model.make_train_function()
        batches = iter(tf.data.Dataset.from_tensors((images, labels)).repeat())

        def run(steps: int) -> None:
            for _ in range(steps):
                logs = model.train_function(batches)
            tf.nest.map_structure(_numpy, logs)

    else:
        predict = tf.function(lambda images: model(images, training=False), jit_compile=jit_compile)

        def run(steps: int) -> None:
            for _ in range(steps):
                predict(images).numpy()

    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return Contestant(run, parameters, "cpu")
    name = tf.config.experimental.get_device_details(gpus[0])["device_name"]
    return Contestant(run, parameters, name, lambda: tf.config.experimental.get_memory_info("GPU:0")["peak"])


def _on_jax(case: Case, model: keras.Model, parameters: int) -> Contestant:
    """Returns Keras's documented stateless functions in one jitted step: `fit` without its book-keeping."""
    import jax

    from benchmarks.peers.ours import peak_device_memory

    images, labels = jax.device_put((case.normalized_images(), case.labels()))
    run = _jax_training(model, images, labels) if case.task == "train" else _jax_prediction(model, images)
    return Contestant(run, parameters, jax.devices()[0].device_kind, peak_device_memory)


def _jax_training(model: keras.Model, images: Any, labels: Any) -> Callable[[int], None]:
    import jax

    loss, optimizer = _loss_and_optimizer()
    optimizer.build(model.trainable_variables)

    def loss_of(trainable: list, others: list) -> tuple[Any, list]:
        logits, others = model.stateless_call(trainable, others, images, training=True)
        return loss(labels, logits), others

    def train_step(state: tuple[list, list, list]) -> tuple[Any, tuple[list, list, list]]:
        trainable, others, slots = state
        (value, others), gradients = jax.value_and_grad(loss_of, has_aux=True)(trainable, others)
        trainable, slots = optimizer.stateless_apply(slots, gradients, trainable)
        return value, (trainable, others, slots)

    # A copy, because the step donates its buffers and the variables of the model must keep theirs.
    state = jax.tree.map(lambda array: array.copy(), (*_values(model), _arrays(optimizer.variables)))
    train_step = jax.jit(train_step, donate_argnums=0)

    def run(steps: int) -> None:
        nonlocal state
        for _ in range(steps):
            value, state = train_step(state)
        jax.block_until_ready((value, state))

    return run


def _jax_prediction(model: keras.Model, images: Any) -> Callable[[int], None]:
    import jax

    trainable, others = _values(model)

    @jax.jit
    def predict(trainable: list, others: list, images: Any) -> Any:
        return model.stateless_call(trainable, others, images, training=False)[0]

    def run(steps: int) -> None:
        for _ in range(steps):
            predict(trainable, others, images).block_until_ready()

    return run


def _values(model: keras.Model) -> tuple[list, list]:
    """Returns the arrays of the trainable and of the other variables of `model`."""
    return _arrays(model.trainable_variables), _arrays(model.non_trainable_variables)


def _arrays(variables: Iterable[keras.Variable]) -> list:
    return [variable.value for variable in variables]
