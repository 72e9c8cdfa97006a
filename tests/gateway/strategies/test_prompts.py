"""The instructions: built in, added, replaced, and always behind what the caller wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gateway.config import Config
from gateway.errors import ConfigError
from gateway.strategies.prompts import BUILT_IN, Prompts, after
from students.scripted import Scripted


@pytest.fixture
def written(tmp_path: Path) -> Any:
    def write(text: str | bytes, name: str = "own.md") -> Path:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def test_the_built_in_ones() -> None:
    prompts = Prompts()
    assert prompts.guidance == ("concise", "hint")
    for name in BUILT_IN:
        assert prompts[name].name == name
        assert prompts[name].text == prompts[name].text.strip() != ""
        assert 0 < prompts[name].tokens < 100
    assert "{guidance}" in prompts["context"].text
    with pytest.raises(KeyError):
        prompts["nobody's"]


def test_a_file_adds_one(written: Any) -> None:
    prompts = Prompts({"terse": written("\n  Be terse – very.\n\n")})
    assert prompts["terse"].text == "Be terse – very."
    assert "terse" in prompts.guidance


def test_a_file_replaces_a_built_in_one(written: Any) -> None:
    prompts = Prompts({"hint": written("Just a hint.")})
    assert prompts["hint"].text == "Just a hint."
    assert prompts.guidance == ("concise", "hint")


def test_the_text_for_the_student_must_hold_the_guidance(written: Any) -> None:
    with pytest.raises(ConfigError, match=r"prompts\.context.*\{guidance\}"):
        Prompts({"context": written("Go on.")})
    assert Prompts({"context": written("Go on: {guidance}")})["context"].text == "Go on: {guidance}"


@pytest.mark.parametrize("name", ["concise", "own"])
def test_a_file_that_cannot_be_read(written: Any, tmp_path: Path, name: str) -> None:
    for path in (tmp_path / "nowhere.md", tmp_path, written(b"\xff\xfe\xfa", "latin.md")):
        with pytest.raises(ConfigError, match=rf"prompts\.{name}: cannot read"):
            Prompts({name: path})


@pytest.mark.anyio
async def test_a_custom_prompt_reaches_the_teacher(house: Any, written: Any) -> None:
    teacher, student = Scripted("teacher", "one two three"), Scripted("student", " four")
    path = written("Only the first step.")
    async with house(
        teacher=teacher, student=student, prompts={"first": str(path)}, route={"guidance_prompt": "first"}
    ) as home:
        await home.ask(guidance_tokens=2)
        await home.ask(guidance_prompt="concise", guidance_tokens=2, request_id="chatcmpl-2")
    first, second = (prompt.messages[-1]["content"] for prompt in teacher.prompts)
    assert first == "Why is the sky blue?\n\nOnly the first step."
    assert second.endswith(Prompts()["concise"].text)
    assert student.prompts[0].messages[-1]["content"] == "Why is the sky blue?", "the student never sees it"


@pytest.mark.anyio
async def test_a_route_with_a_prompt_that_there_is_not(house: Any) -> None:
    with pytest.raises(ConfigError, match="guidance_prompt 'lost' is not among: concise, hint"):
        async with house(student=Scripted(), route={"guidance_prompt": "lost"}):
            pytest.fail("it opened")


def test_file_names_are_relative_to_the_configuration(written: Any, tmp_path: Path) -> None:
    written("Mine.")
    config = Config.parse({"prompts": {"mine": "own.md"}}, base=tmp_path)
    assert Prompts(config.prompts)["mine"].text == "Mine."


class TestAfter:
    def test_the_end_of_the_last_user_message(self) -> None:
        messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "Why?", "name": "bob"}]
        told = after(messages, "Be brief.")
        assert told == [messages[0], {"role": "user", "content": "Why?\n\nBe brief.", "name": "bob"}]
        assert told[0] is messages[0]
        assert messages[1]["content"] == "Why?", "nothing is changed in place"

    def test_a_message_in_parts_gets_one_more(self) -> None:
        part = {"type": "text", "text": "Why?"}
        messages = [{"role": "user", "content": [part]}]
        told = after(messages, "Be brief.")
        assert told[0]["content"] == [part, {"type": "text", "text": "Be brief."}]
        assert messages[0]["content"] == [part]

    @pytest.mark.parametrize("messages", [[], [{"role": "assistant", "content": "So"}], [{"role": "user"}]])
    def test_else_a_message_of_its_own(self, messages: list[dict[str, str]]) -> None:
        assert after(messages, "Be brief.") == [*messages, {"role": "user", "content": "Be brief."}]
