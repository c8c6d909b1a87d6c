"""A bidirectional LSTM that tags the words of a sentence: Graves, Schmidhuber, 2005; Huang, Xu, Yu, 2015."""

from torch import Tensor, nn


class Tagger(nn.Module):
    """Token ids [rows, words] to logits [rows, words, tags]."""

    def __init__(
        self, vocabulary: int = 5000, width: int = 128, hidden: int = 256, layers: int = 2, tags: int = 17
    ) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, width)
        self.lstm = nn.LSTM(width, hidden, layers, batch_first=True, bidirectional=True, dropout=0.3)
        self.head = nn.Linear(2 * hidden, tags)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.lstm(self.words(tokens))[0])
