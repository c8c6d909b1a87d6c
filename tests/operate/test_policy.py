"""The policy file: what is read, and the sentence for each way of getting it wrong."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from modelkeep.errors import BadSettings
from modelkeep.monitor.limits import Limits
from modelkeep.operate.policy import Policy, Rolling, Watching, read


def written(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "policy.toml"
    file.write_text(text)
    return file


def test_everything_but_the_model_may_be_left_out(tmp_path: Path) -> None:
    assert read(written(tmp_path, 'model = "digits"')) == Policy("digits")


def test_sections_are_read(tmp_path: Path) -> None:
    policy = read(
        written(
            tmp_path,
            'model = "digits"\n[watch]\nevery = 1\np99 = 0.1\n[update]\nepochs = 5\nreplay = 0\n'
            "[rollout]\nsteps = [0.2, 0.5]\nneeds_labels = false\n[budget]\ncooldown = 0",
        )
    )
    assert policy.watch == Watching(every=1, p99=0.1)
    assert policy.watch.limits() == {"p99": 0.1}
    assert policy.update.options() == {"epochs": 5, "replay": 0}
    assert policy.rollout == Rolling(steps=(0.2, 0.5), needs_labels=False)
    assert policy.budget.cooldown == 0


def test_all_that_monitor_holds_a_version_to_may_be_said(tmp_path: Path) -> None:
    """Each limit of monitor has its key, under the same name."""
    text = 'slo = 0.999\nsilence = 600\nmax_error = 3.5\nmin_accuracy = 0.9\nslices = ["hum"]\nignore = ["time"]'
    given = read(written(tmp_path, f'model = "bike"\n[watch]\n{text}')).watch.limits()
    numbers = {"slo": 0.999, "silence": 600, "max_error": 3.5, "min_accuracy": 0.9}
    assert given == {**numbers, "slices": ("hum",), "ignore": ("time",)}
    assert {field.name for field in fields(Limits)} == {field.name for field in fields(Watching)} - {"every"}


def test_the_policy_of_the_docs_is_readable(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "operate.md").read_text()
    example = page.split("```toml")[1].split("```")[0]
    assert read(written(tmp_path, example)).model == "digits"


def test_the_policy_of_the_example_is_readable() -> None:
    assert read(Path(__file__).parents[2] / "examples" / "digits" / "policy.toml").update.min_labels == 500


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", 'begin it with: model = "NAME"'),
        ("model = 3", 'begin it with: model = "NAME"'),
        ('model = "a b"', "does not name a model"),
        ("model = ", "is not a policy in TOML"),
        ('model = "m"\n[wach]\nevery = 1', "has [wach], which is no section; there are: watch"),
        ('model = "m"\nwatch = 3', "'watch' must be a section: [watch]"),
        ('model = "m"\n[watch]\nevry = 1', "[watch] has no 'evry'; there are: every"),
        ('model = "m"\n[watch]\nevery = "often"', "every = 'often' must be a number"),
        ('model = "m"\n[watch]\nevery = true', "every = True must be a number"),
        ('model = "m"\n[watch]\nevery = -1', "every = -1 must not be negative"),
        ('model = "m"\n[watch]\nevery = 0', "[watch] every is 0; give seconds, more than 0"),
        ('model = "m"\n[watch]\nevery = nan', "every = nan must be a number"),
        ('model = "m"\n[update]\nlr = inf', "lr = inf must be a number"),
        ('model = "m"\n[rollout]\nsteps = [0.5, 0.1]', "steps are (0.5, 0.1); give growing shares between 0 and 1"),
        ('model = "m"\n[rollout]\nalpha = 5', "alpha is 5; give a share between 0 and 1"),
        ('model = "m"\n[rollout]\ntolerance = 0', "tolerance is 0; give a share between 0 and 1"),
        ('model = "m"\n[watch]\nmin_accuracy = 1.0', "min_accuracy is 1.0; give a share from 0 up to, but not, 1"),
        ('model = "m"\n[watch]\nslo = 99.9', "[watch] slo is 99.9; give a share"),
        ('model = "m"\n[watch]\nsilence = 0', "[watch] silence is 0; give seconds, more than 0"),
        ('model = "m"\n[watch]\nslices = [1]', "slices = [1] must be a list of texts"),
        ('model = "m"\n[update]\nepochs = 1.5', "epochs = 1.5 must be a whole number"),
        (
            'model = "m"\n[update]\nmethod = "fintune"',
            "[update] method = 'fintune' is no way to update; there is: finetune",
        ),
        (
            'model = "m"\n[update]\nmethod = "transfer"',
            "so it is for a person: modelkeep update NAME --method transfer --classes A,B,…",
        ),
        ('model = "m"\n[rollout]\nneeds_labels = 1', "needs_labels = 1 must be true or false"),
        ('model = "m"\n[update]\nmethod = 1', "method = 1 must be a text"),
        ('model = "m"\n[rollout]\nsteps = []', "steps = [] must be a list of shares between 0 and 1"),
        (
            'model = "m"\n[rollout]\nsteps = [30, 50]',
            "steps = [30, 50] must be a list of shares between 0 and 1, such as [0.1, 0.5]",
        ),
    ],
)
def test_a_wrong_policy_is_refused_in_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(BadSettings) as refused:
        read(written(tmp_path, text))
    assert sentence in str(refused.value)
    assert "policy.toml" in str(refused.value)


def test_a_missing_policy_says_where_to_begin(tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match=r"there is no policy file .*gone\.toml; docs/operate\.md has one"):
        read(tmp_path / "gone.toml")
