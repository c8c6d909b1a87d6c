"""scikit-learn estimators, and boosted trees, by their own libraries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from modelkeep.errors import BadInput, ModelkeepError, NotReady, Unsupported, first_line
from modelkeep.model.formats import sklearn as sklearn_format
from modelkeep.types import Model, ServeConfig

if TYPE_CHECKING:
    from modelkeep.types import Array, Arrays


class SklearnRunner:
    """A fitted estimator; predicting only reads it, so ``run`` holds no lock."""

    def __init__(self, model: Model, threads: int | None) -> None:
        self.signature = model.signature
        self._model = model
        self._estimator: Any = sklearn_format.without_names(sklearn_format.load(model), model)
        if threads:
            _set_threads(self._estimator, threads)

    def run(self, inputs: Arrays) -> dict[str, Array]:
        """See Runner. Raises BadInput with the estimator's reason when it refuses the inputs, NotReady once closed."""
        estimator = self._estimator
        if estimator is None:
            raise NotReady("this model has been closed")
        self.signature.check(inputs)  # XGBoost itself takes rows that are too short, and answers something
        try:
            return sklearn_format.answers(estimator, inputs, self._model)
        except (ModelkeepError, MemoryError):
            raise
        except Exception as error:  # an estimator is made of many libraries, which share no error
            raise BadInput(f"the model cannot run these inputs: {first_line(error)}") from error

    def close(self) -> None:
        """See Runner."""
        self._estimator = None


def load(model: Model, config: ServeConfig) -> SklearnRunner:
    """See engines.load. ``config.threads`` becomes ``n_jobs`` of every estimator inside."""
    if config.precision is not None:
        raise Unsupported(
            f"engine 'sklearn' runs a model in its own precision, so precision '{config.precision}' cannot be set"
        )
    if config.device != "cpu":
        raise Unsupported(f"engine 'sklearn' runs on the cpu only, not on device '{config.device}'")
    return SklearnRunner(model, config.threads)


def _set_threads(estimator: Any, threads: int) -> None:
    if sklearn_format.is_booster(estimator):
        estimator.params["num_threads"] = threads
        return
    for part in sklearn_format.all_estimators(estimator):
        if hasattr(part, "n_jobs"):
            part.n_jobs = threads
