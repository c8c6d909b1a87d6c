"""What a person may ask of setup, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from modelkeep.errors import BadSettings
from modelkeep.monitor.prometheus.plan import Plan


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"targets": ()}, "there is no service to watch"),
        ({"targets": ("127.0.0.1:8080",)}, "'127.0.0.1:8080' is no address of a service; give it as http://HOST:PORT"),
        ({"targets": ("http://a:1/metrics",)}, "is no address of a service"),
        ({"targets": ("http://a:1", "https://b:1")}, "some targets are http and some https"),
        ({"availability": 1.0}, "leaves no budget"),
        ({"p99": 0.06}, "answers within 0.06 s cannot be counted; give one of these times: 0.0002s, 0.0005s"),
        ({"prometheus": "9090"}, "'9090' is not HOST:PORT"),
        ({"alertmanager": "127.0.0.1:99999"}, "is not HOST:PORT"),
        ({"key_file": "gone.key"}, "there is no file gone.key"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(given: dict[str, Any], said: str) -> None:
    with pytest.raises(BadSettings, match=said.replace("(", r"\(")):
        Plan(**given)


def test_it_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("mk_1")
    plan = Plan(("https://a:1/", "https://b:2"), 0.99, 0.05, str(key), prometheus="127.0.0.1:1")
    assert plan.targets == ("https://a:1", "https://b:2")
    assert Plan.from_json(plan.to_json()) == plan


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"targets": 3}', '{"targets": ["http://a:1"], "colour": "red"}'])
def test_another_file_is_no_plan(text: str) -> None:
    with pytest.raises(BadSettings, match="no plan of monitor setup"):
        Plan.from_json(text)
