"""The four tasks, each a table of scikit-learn made into feature maps (N, C, *S), and their splits."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.model_selection import train_test_split


@dataclass(frozen=True)
class Task:
    """One classification task.

    about: What a sample is, in words for the page.
    read: Returns x of shape (N, C, *S) and the classes of shape (N,).
    epochs: Passes over the training half; the small tables need more of them.
    alike: Whether all positions are of one unit, as pixels are; a table's columns are not.
    """

    name: str
    about: str
    read: Callable[[], tuple[np.ndarray, np.ndarray]]
    epochs: int
    alike: bool


@dataclass(frozen=True)
class Split:
    """Half of the samples to train on, half to test on; both are standardised by the training half."""

    train_x: torch.Tensor
    train_y: torch.Tensor
    test_x: torch.Tensor
    test_y: torch.Tensor
    classes: int


def split(task: Task, seed: int) -> Split:
    """Split the samples, each class in halves. A seed gives the same halves to every kind of attention."""
    x, y = task.read()
    train_x, test_x, train_y, test_y = train_test_split(x, y, test_size=0.5, stratify=y, random_state=seed)
    over = None if task.alike else 0
    mean, spread = train_x.mean(over), train_x.std(over)
    as_x = [torch.tensor((part - mean) / spread, dtype=torch.float32) for part in (train_x, test_x)]
    as_y = [torch.tensor(part, dtype=torch.long) for part in (train_y, test_y)]
    return Split(as_x[0], as_y[0], as_x[1], as_y[1], len(np.unique(y)))


def _images() -> tuple[np.ndarray, np.ndarray]:
    images, classes = load_digits(return_X_y=True)
    return images.reshape(-1, 1, 8, 8), classes


def _sequences() -> tuple[np.ndarray, np.ndarray]:
    images, classes = load_digits(return_X_y=True)
    return images.reshape(-1, 1, 64), classes


def _wine() -> tuple[np.ndarray, np.ndarray]:
    table, classes = load_wine(return_X_y=True)
    return table[:, None, :], classes


def _cells() -> tuple[np.ndarray, np.ndarray]:
    table, classes = load_breast_cancer(return_X_y=True)
    return table.reshape(-1, 3, 10), classes  # the table's order: ten means, ten errors, ten worst values


TASKS = {
    task.name: task
    for task in (
        Task("digits, images", "a digit of 8 x 8 pixels, (1, 8, 8)", _images, 15, alike=True),
        Task("digits, sequences", "the same pixels one after the other, (1, 64)", _sequences, 15, alike=True),
        Task("wine", "13 chemical measurements in the table's order, (1, 13)", _wine, 60, alike=False),
        Task(
            "breast cancer", "10 properties of cell nuclei by mean, error and worst, (3, 10)", _cells, 40, alike=False
        ),
    )
}
