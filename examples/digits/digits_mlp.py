"""The seed model, as a user would write it: a small perceptron on scikit-learn's scanned digits."""

from torch import Tensor, nn


class MLP(nn.Module):
    """64 pixels (0 to 16, scaled inside) to ``classes`` logits through one hidden layer."""

    def __init__(self, hidden: int = 128, classes: int = 10) -> None:
        super().__init__()
        self.hidden = nn.Linear(64, hidden)
        self.head = nn.Linear(hidden, classes)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(self.hidden(pixels / 16.0).relu())


class Small(MLP):
    """A quarter of it: the student."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__(hidden=32, classes=classes)


class EightClasses(MLP):
    """The one that has never seen an 8 or a 9."""

    def __init__(self) -> None:
        super().__init__(classes=8)
