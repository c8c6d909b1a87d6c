"""AlexNet: Krizhevsky, Sutskever, Hinton, "ImageNet classification with deep convolutional neural networks", 2012.

Two groups where the paper's network lay on two GPUs, local response normalisation, overlapping pooling, dropout.
"""

from torch import Tensor, nn


class AlexNet(nn.Module):
    """Pictures [rows, 3, 227, 227] to ``classes`` logits; ``width`` 1.0 is the paper's. The size is fixed: its head is
    fully connected.
    """

    def __init__(self, classes: int = 1000, width: float = 1.0) -> None:
        super().__init__()
        a, b, c, head = (max(2, round(width * n / 2) * 2) for n in (96, 256, 384, 4096))
        self.features = nn.Sequential(
            nn.Conv2d(3, a, 11, stride=4),
            nn.ReLU(),
            nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=2),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(a, b, 5, padding=2, groups=2),
            nn.ReLU(),
            nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=2),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(b, c, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(c, c, 3, padding=1, groups=2),
            nn.ReLU(),
            nn.Conv2d(c, b, 3, padding=1, groups=2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
        )
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Dropout(0.5),
            nn.Linear(b * 6 * 6, head),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(head, head),
            nn.ReLU(),
            nn.Linear(head, classes),
        )
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")

    def forward(self, image: Tensor) -> Tensor:
        return self.classifier(self.features(image))
