"""What comes in: every body becomes a chat or a 400 that names the field, and nothing else."""

from __future__ import annotations

import string
from contextlib import suppress
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.api.params import PARAMETERS
from gateway.api.wire import OVERRIDES, new_id, parse
from gateway.chat import Overrides
from gateway.errors import BadRequest
from students.engine import Sampling

USER = {"role": "user", "content": "hi"}


def body(**fields: Any) -> bytes:
    return orjson.dumps({"model": "gkt", "messages": [USER], **fields})


def refused(request: bytes, headers: Any = ()) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        parse(request, headers)
    assert caught.value.http_status == 400
    return caught.value


def test_a_plain_chat() -> None:
    request = body(stream=True, stream_options={"include_usage": True}, temperature=0, stop="x", max_tokens=9, top_k=4)
    chat = parse(request)
    assert (chat.model, chat.messages, chat.stream, chat.stream_usage) == ("gkt", [USER], True, True)
    assert chat.sampling == Sampling(temperature=0, stop=("x",))
    assert (chat.max_tokens, chat.n, chat.needs, chat.size) == (9, 1, frozenset(), len(request))
    assert chat.options == {"top_k": 4}
    assert chat.overrides == Overrides()


def test_ids_are_fresh_and_safe_in_a_url() -> None:
    ids = {new_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(each.startswith("chatcmpl-") and len(each) >= 33 for each in ids)
    assert set("".join(ids)) <= set(string.ascii_letters + string.digits + "-_")
    assert parse(body(), id="chatcmpl-mine").id == "chatcmpl-mine"


@pytest.mark.parametrize(
    "request_body",
    [b"", b"{", b"hello", b"[]", b"3", b'"x"', b"null", b"\xff\xfe", b'{"model": NaN}', b"[" * 100_000],
    ids=repr,
)
def test_what_is_not_a_json_object(request_body: bytes) -> None:
    assert refused(request_body).code == "invalid_json"


def test_what_the_encoder_could_not_write_again_is_refused() -> None:
    deep: Any = []
    for _ in range(400):
        deep = [deep]
    nested = orjson.dumps({"model": "m", "messages": [USER]})[:-1]
    levels = b"[" * 400 + b"]" * 400
    assert "deeply" in str(refused(nested + b',"extra":' + levels + b"}"))
    inside = b'{"model":"m","messages":[{"role":"user","content":"x","extra":' + levels + b"}]}"
    assert "deeply" in str(refused(inside))


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"model": None}, "model", "missing_required_parameter"),
        ({"model": ""}, "model", "empty_string"),
        ({"model": "m" * 300}, "model", "string_above_max_length"),
        ({"messages": None}, "messages", "missing_required_parameter"),
        ({"messages": []}, "messages", "empty_array"),
        ({"messages": ["hi"]}, "messages[0]", "invalid_type"),
        ({"messages": [{"content": "hi"}]}, "messages[0].role", "missing_required_parameter"),
        ({"messages": [USER, {"role": ["user"], "content": "x"}]}, "messages[1].role", "invalid_type"),
        ({"messages": [{"role": "robot", "content": "hi"}]}, "messages[0].role", "invalid_value"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "invalid_type"),
        ({"messages": [{"role": "assistant", "content": None}]}, "messages[0].content", "invalid_type"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content", "invalid_type"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, "messages[0].content[0]", "invalid_type"),
        (
            {"messages": [{"role": "user", "content": [{}]}]},
            "messages[0].content[0].type",
            "missing_required_parameter",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
            "messages[0].content[0].text",
            "invalid_type",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "messages[0].content[0].image_url.url",
            "missing_required_parameter",
        ),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id", "missing_required_parameter"),
        ({"messages": [{"role": "user", "content": "x", "name": 3}]}, "messages[0].name", "invalid_type"),
        ({"messages": [{"role": "assistant", "content": ""}]}, "messages", "empty_array"),
        ({"temperature": 2.1}, "temperature", "decimal_above_max_value"),
        ({"temperature": -0.1}, "temperature", "decimal_below_min_value"),
        ({"temperature": True}, "temperature", "invalid_type"),
        ({"temperature": "1"}, "temperature", "invalid_type"),
        ({"top_p": 1.5}, "top_p", "decimal_above_max_value"),
        ({"n": 0}, "n", "integer_below_min_value"),
        ({"n": 129}, "n", "integer_above_max_value"),
        ({"n": 1.5}, "n", "invalid_type"),
        ({"seed": 2**63}, "seed", "integer_above_max_value"),
        ({"max_tokens": 0}, "max_tokens", "integer_below_min_value"),
        ({"max_tokens": 1, "max_completion_tokens": 1}, "max_tokens", "invalid_parameter_combination"),
        ({"stop": ""}, "stop", "empty_string"),
        ({"stop": ["a", ""]}, "stop[1]", "empty_string"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop", "array_above_max_length"),
        ({"stop": [1]}, "stop[0]", "invalid_type"),
        ({"top_logprobs": 2}, "top_logprobs", "invalid_parameter_combination"),
        ({"top_logprobs": 21, "logprobs": True}, "top_logprobs", "integer_above_max_value"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_parameter_combination"),
        ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage", "invalid_type"),
        ({"logit_bias": {"the": 1}}, "logit_bias", "invalid_value"),
        ({"logit_bias": {"1": 101}}, "logit_bias.1", "decimal_above_max_value"),
        ({"metadata": {"a": 1}}, "metadata.a", "invalid_type"),
        ({"metadata": {str(i): "" for i in range(17)}}, "metadata", "object_above_max_properties"),
        ({"response_format": {}}, "response_format.type", "missing_required_parameter"),
        ({"tools": [1]}, "tools[0]", "invalid_type"),
        ({"tool_choice": "required"}, "tool_choice", "invalid_parameter_combination"),
        ({"gkt": []}, "gkt", "invalid_type"),
        ({"gkt": {"strategy": "wing-it"}}, "gkt.strategy", "invalid_value"),
        ({"gkt": {"guidance_tokens": "40"}}, "gkt.guidance_tokens", "invalid_type"),
        ({"gkt": {"guidance_tokens": 0}}, "gkt.guidance_tokens", "integer_below_min_value"),
        ({"gkt": {"placement": "middle"}}, "gkt.placement", "invalid_value"),
    ],
    ids=lambda value: orjson.dumps(value).decode()[:60] if isinstance(value, dict) else None,
)
def test_a_fault_is_named(fields: dict[str, Any], param: str, code: str) -> None:
    error = refused(body(**fields))
    assert (error.param, error.code) == (param, code)
    assert param in str(error)


def test_a_fault_in_a_message_tells_nothing_of_its_text() -> None:
    secret = "my secret is 1234"
    messages = [{"role": "user", "content": [{"type": "text", "text": secret}, {"type": "text"}]}]
    assert secret not in str(refused(body(messages=messages)))


@pytest.mark.parametrize(
    ("messages", "needs"),
    [
        ([{"role": "user", "content": [{"type": "text", "text": "x"}]}], set()),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}], {"images"}),
        ([{"role": "user", "content": [{"type": "file", "file": {}}]}], {"images"}),
        ([{"role": "user", "content": [{"type": "video_url"}]}], {"images"}),
        ([{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}], {"audio"}),
        (
            [
                USER,
                {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
                {"role": "tool", "tool_call_id": "1", "content": "3"},
            ],
            {"tools"},
        ),
        ([USER, {"role": "assistant", "content": None, "audio": {"id": "a"}}, USER], {"audio"}),
        ([USER, {"role": "assistant", "content": "Well"}], {"prefix"}),
        ([USER, {"role": "assistant", "content": "Well"}, USER], set()),
    ],
)
def test_needs_of_messages(messages: list[dict[str, Any]], needs: set[str]) -> None:
    assert parse(body(messages=messages)).needs == needs


def test_the_callers_own_beginning() -> None:
    assert parse(body(messages=[USER, {"role": "assistant", "content": "So: "}])).prefix == "So: "
    parts = [{"type": "text", "text": "So"}, {"type": "text", "text": ": "}]
    chat = parse(body(messages=[USER, {"role": "assistant", "content": parts, "name": "a", "prefix": True}]))
    assert chat.prefix == "So: "
    assert chat.messages[-1] == {"role": "assistant", "content": "So: ", "name": "a", "prefix": True}


@pytest.mark.parametrize("empty", ["", " \n", [], [{"type": "text", "text": ""}]])
def test_an_assistant_that_says_nothing_is_dropped(empty: Any) -> None:
    silent = {"role": "assistant", "content": empty}
    assert parse(body(messages=[USER, silent])).messages == [USER]
    begun = {"role": "assistant", "content": "So"}
    assert parse(body(messages=[USER, begun, silent, silent])).prefix == "So"
    kept = parse(body(messages=[USER, silent, USER]))
    assert len(kept.messages) == 3


def test_audio_is_idle_while_only_text_is_asked_for() -> None:
    chat = parse(body(modalities=["text"], audio={"voice": "alloy"}))
    assert (chat.needs, chat.options) == (frozenset(), {})


def test_choices_of_tools_that_are_not_there_are_dropped() -> None:
    assert parse(body(tools=[], tool_choice="auto", parallel_tool_calls=True)).options == {}


def test_overrides_in_the_body() -> None:
    overrides = {"strategy": "hint", "guidance_tokens": 12, "teacher": "t", "student": "s", "guidance_prompt": "p"}
    assert parse(body(gkt={**overrides, "placement": "context"})).overrides == Overrides(
        strategy="hint", guidance_tokens=12, teacher="t", student="s", guidance_prompt="p", placement="context"
    )
    assert parse(body(gkt={"strategy": None})).overrides == Overrides()
    unknown = refused(body(gkt={"strateggy": "hint"}))
    assert all(name in str(unknown) for name in OVERRIDES)


def test_overrides_in_headers_and_the_body_wins() -> None:
    headers = [(b"host", b"x"), (b"x-gkt-strategy", b"hint"), (b"x-gkt-guidance-tokens", b" 7 ")]
    assert parse(body(), headers).overrides == Overrides(strategy="hint", guidance_tokens=7)
    assert parse(body(gkt={"strategy": "teacher"}), headers).overrides == Overrides(
        strategy="teacher", guidance_tokens=7
    )


@pytest.mark.parametrize(
    "headers",
    [
        [(b"x-gkt-stratgy", b"hint")],
        [(b"x-gkt-strategy", b"wing-it")],
        [(b"x-gkt-guidance-tokens", b"many")],
        [(b"x-gkt-guidance-tokens", b"\xb2")],
        [(b"x-gkt-guidance-tokens", b"-1")],
        [(b"x-gkt-placement", b"")],
        [(b"x-gkt-teacher", b"")],
        [(b"x-gkt-strategy", b"hint"), (b"x-gkt-strategy", b"teacher")],
    ],
)
def test_a_wrong_header_is_named(headers: list[tuple[bytes, bytes]]) -> None:
    assert refused(body(), headers).param == headers[0][0].decode()


def test_a_refusal_lists_what_is_allowed() -> None:
    assert "x-gkt-guidance-tokens" in str(refused(body(), [(b"x-gkt-what", b"")]))
    assert "cut-off" in str(refused(body(gkt={"strategy": "x"})))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
messages = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "tool", "function", "system"]) | json_values},
        optional={
            "content": st.text(max_size=4)
            | st.lists(
                st.fixed_dictionaries(
                    {"type": st.sampled_from(["text", "image_url", "file", "refusal", "odd"]) | json_values},
                    optional={"text": st.text(max_size=3) | json_values, "image_url": json_values, "file": json_values},
                ),
                max_size=3,
            )
            | json_values,
            "tool_calls": json_values,
            "function_call": json_values,
            "audio": json_values,
            "refusal": json_values,
            "name": json_values,
            "tool_call_id": json_values,
        },
    ),
    max_size=3,
)


@given(json_values)
def test_any_json_is_a_chat_or_a_400(value: Any) -> None:
    with suppress(BadRequest):
        parse(orjson.dumps(value))


@given(st.binary(max_size=50))
def test_any_bytes_are_a_chat_or_a_400(request: bytes) -> None:
    with suppress(BadRequest):
        parse(request)


@given(
    messages=messages | json_values,
    fields=st.dictionaries(
        st.sampled_from([name for name in PARAMETERS if name != "messages"]), json_values, max_size=4
    ),
    overrides=st.dictionaries(st.sampled_from(list(OVERRIDES)), json_values, max_size=2),
)
def test_any_value_of_any_field_is_a_chat_or_a_400(
    messages: Any, fields: dict[str, Any], overrides: dict[str, Any]
) -> None:
    try:
        chat = parse(orjson.dumps({"model": "m", "gkt": overrides, **fields, "messages": messages}))
    except BadRequest as error:
        orjson.dumps(error.body)
        return
    assert chat.messages
    assert chat.prefix == "" or chat.messages[-1]["role"] == "assistant"
    assert ("prefix" in chat.needs) == bool(chat.prefix)


@given(st.lists(st.tuples(st.sampled_from([b"x-gkt-strategy", b"x-gkt-teacher", b"x-gkt-"]), st.binary(max_size=9))))
def test_any_header_is_a_chat_or_a_400(headers: list[tuple[bytes, bytes]]) -> None:
    try:
        parse(body(), headers)
    except BadRequest as error:
        orjson.dumps(error.body)


class TestACallersOwnKey:
    def test_it_is_kept_apart_from_the_overrides(self) -> None:
        chat = parse(body(), [(b"x-gkt-provider-key", b" sk-own-0123 "), (b"x-gkt-strategy", b"hint")])
        assert chat.provider_key == "sk-own-0123"
        assert chat.overrides.named() == ["strategy"]
        assert parse(body()).provider_key is None

    @pytest.mark.parametrize(
        "key", [b"", b"short", b"with a space", b"ctrl\x07ctrl\x07", b"caf\xe9caf\xe9", b"x" * 4097]
    )
    def test_one_that_cannot_be_sent_on_is_refused_without_it(self, key: bytes) -> None:
        fault = refused(body(), [(b"x-gkt-provider-key", key)])
        assert fault.param == "x-gkt-provider-key"
        assert not key or key.decode("latin-1") not in str(fault)

    def test_one_is_enough(self) -> None:
        twice = [(b"x-gkt-provider-key", b"sk-own-0123"), (b"x-gkt-provider-key", b"sk-own-4567")]
        assert "more than once" in str(refused(body(), twice))

    def test_it_is_no_field_of_the_body(self) -> None:
        assert "Unknown override" in str(refused(body(gkt={"provider_key": "sk-own-0123"})))
