"""A policy is put in its place as a whole, and the one before it is never lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from evals.policies import publish
from gateway.cascade.policy import Policy
from gateway.errors import ConfigError

NOW = 1_800_000_000.0


def policy(name: str) -> Policy:
    rung = {"student": "small", "gain": {"one": 1.0}, "cost": {"one": 1.0}}
    return Policy.model_validate(
        {
            "name": name,
            "teacher": {"model": "big"},
            "worth": 0.5,
            "prefer": ["small"],
            "rungs": [rung],
            "evidence": {"questions": 120},
        }
    )


def test_replaced_policies_are_kept_by_number(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    assert publish(policy("first"), file, NOW) is None
    assert publish(policy("second"), file, NOW + 60) == tmp_path / "policy.1.yaml"
    assert publish(policy("third"), file, NOW + 120) == tmp_path / "policy.2.yaml"
    files = {each.name: Policy.load(each) for each in tmp_path.iterdir()}
    assert {name: each.name for name, each in files.items()} == {
        "policy.1.yaml": "first",
        "policy.2.yaml": "second",
        "policy.yaml": "third",
    }
    assert [files[name].evidence["revision"] for name in sorted(files)] == [1, 2, 3]
    assert files["policy.yaml"].evidence == {"revision": 3, "created": "2027-01-15T08:02:00Z", "questions": 120}


def test_nothing_that_is_kept_is_written_over(tmp_path: Path) -> None:
    file, mine = tmp_path / "policy.yaml", tmp_path / "policy.1.yaml"
    mine.write_text("my own notes")
    file.write_text("a policy by hand, with a comment")
    assert publish(policy("new"), file, NOW) == tmp_path / "policy.2.yaml"
    assert mine.read_text() == "my own notes"
    assert (tmp_path / "policy.2.yaml").read_text() == "a policy by hand, with a comment"
    assert Policy.load(file).evidence["revision"] == 3


def test_a_policy_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"policy\.yaml cannot be written"):
        publish(policy("new"), tmp_path / "nowhere" / "policy.yaml", NOW)
    file = tmp_path / "policy.yaml"
    file.mkdir()
    with pytest.raises(ConfigError, match=r"policy\.yaml cannot be written"):
        publish(policy("new"), file, NOW)
    assert [each.name for each in tmp_path.iterdir()] == ["policy.yaml"]
