"""Functional classes with an __init__ of their own, as libraries of networks and their users write them."""

import keras
from keras import layers as L
from keras import ops

from .surgery_keras_nets import randomised


def block(x, filters, name=None):
    """Convolution, norm, add: the layers have the names of Keras where they get none."""
    y = L.Conv2D(filters, 3, padding="same", name=name and f"{name}_conv")(x)
    y = L.BatchNormalization(name=name and f"{name}_bn")(y)
    return L.Add(name=name and f"{name}_add")([x, y])


@keras.saving.register_keras_serializable("tests")
class Backbone(keras.Model):
    """Makes its graph in __init__, and keeps tensors and layers of the graph as attributes."""

    def __init__(self, filters=4, blocks=2, name="backbone", **kwargs):
        inputs = keras.Input((8, 8, 3), name="image")
        stem = L.Conv2D(filters, 1, name="stem")
        x, levels = stem(inputs), {}
        for number in range(blocks):
            x = levels[f"P{number}"] = block(x, filters)
        super().__init__(inputs, x, name=name, **kwargs)
        self.filters, self.blocks = filters, blocks
        self.levels, self.stages = levels, [stem]

    def get_config(self):
        return {"filters": self.filters, "blocks": self.blocks, "name": self.name}


@keras.saving.register_keras_serializable("tests")
class Classifier(keras.Model):
    """Has a backbone, layers beside the graph and a train_step of its own."""

    def __init__(self, backbone, classes=2, rate=0.5, **kwargs):
        x = L.GlobalAveragePooling2D(name="pool")(backbone.output if rate is None else backbone(backbone.input))
        super().__init__(backbone.input, L.Dense(classes, name="head")(x), **kwargs)
        self.backbone = backbone
        self.preprocessor = L.Rescaling(2.0, name="preprocessor")
        self.classes, self.rate = classes, rate
        self.steps = keras.metrics.Sum(name="steps")

    def preprocess(self, x):
        return self.preprocessor(x)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return self.rate * ops.mean((y - y_pred) ** 2)  # what makes fit train in another way

    def get_config(self):
        backbone = keras.saving.serialize_keras_object(self.backbone)
        return {"backbone": backbone, "classes": self.classes, "rate": self.rate, "name": self.name}

    @classmethod
    def from_config(cls, config):
        return cls(**(config | {"backbone": keras.saving.deserialize_keras_object(config["backbone"])}))


class WithoutConfig(keras.Model):
    """Its arguments are no numbers, and it has no get_config: a plain one cannot be saved either."""

    def __init__(self, make):
        inputs = keras.Input((8, 8, 3), name="image")
        super().__init__(inputs, make(inputs), name="without_config")
        self.make = make


class Forgetful(Backbone):
    """Its config loses the number of blocks."""

    def get_config(self):
        return {"filters": self.filters, "name": self.name}


@keras.saving.register_keras_serializable("tests")
class Stack(keras.Sequential):
    def __init__(self, filters=4, name="stack"):
        super().__init__([keras.Input((8, 8, 3)), L.Conv2D(filters, 3, name="conv"), L.ReLU(name="relu")], name=name)
        self.filters = filters

    def get_config(self):
        return {"filters": self.filters, "name": self.name}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


def classifier(**options):
    return randomised(Classifier(Backbone(name="trunk"), name="classifier", **options))
