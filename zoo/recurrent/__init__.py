"""Networks that read one step after the other."""

from zoo.row import Row

WRITE, FREE = "zoo.recurrent.write:bilstm", {"tokens": (1,)}
TINY = {"vocabulary": 100, "width": 16, "hidden": 16}

ROWS = (
    Row("bilstm", "recurrent", "two bidirectional LSTM layers of 256 that tag words", WRITE, free=FREE),
    Row("bilstm-small", "recurrent", "the same with 16 hidden units", WRITE, TINY, FREE, small=True),
)
