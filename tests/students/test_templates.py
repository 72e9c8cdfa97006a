"""Chat templates: rendered by Jinja alone, and by the tokenizer of a model."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from jinja2 import TemplateSyntaxError

from students.errors import Refused, Unavailable
from students.openai_api import OpenAIApi
from students.rendering import STAND_IN
from students.spec import OpenAISpec
from students.templates import ChatTemplate, TokenizerTemplate
from tests import counting_model
from tests.fake_servers import CHATML

ASK = ({"role": "user", "content": "Count."},)
OPENED = "<|im_start|>user\nCount.<|im_end|>\n<|im_start|>assistant\n"


class TestChatTemplate:
    def test_it_renders_as_transformers_does(self) -> None:
        source = (
            "{{ bos_token }}{% for message in messages %}\n"
            "    {% if message.role == 'skip' %}{% continue %}{% endif %}\n"
            "    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' -}}\n"
            "{% endfor %}\n"
            "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}\n"
        )
        messages = [{"role": "skip", "content": "x"}, {"role": "user", "content": "<b> & 'ä'"}]
        assert ChatTemplate(source).render(messages, "so", {}) == (
            "<|im_start|>user\n<b> & 'ä'<|im_end|>\n<|im_start|>assistant\nso"
        )

    def test_it_is_told_more_but_nothing_of_what_makes_it_a_prompt(self) -> None:
        template = ChatTemplate("{{ thinking }}{{ add_generation_prompt }}{{ bos_token }}")
        assert template.render(ASK, "", {"thinking": 1, "add_generation_prompt": False, "bos_token": "<s>"}) == "1True"

    def test_tojson_does_not_escape(self) -> None:
        assert ChatTemplate("{{ messages[0] | tojson }}").render([{"a": "<ä>'"}], "", {}) == '{"a": "<ä>\'"}'

    def test_a_template_may_reject_the_messages(self) -> None:
        template = ChatTemplate("{{ raise_exception('roles must alternate') }}")
        with pytest.raises(Refused, match="roles must alternate"):
            template.render(ASK, "", {})

    def test_a_template_can_reach_nothing_outside(self) -> None:
        with pytest.raises(Refused):
            ChatTemplate("{{ messages.__class__.__mro__[1].__subclasses__() }}").render(ASK, "", {})
        with pytest.raises(Refused):
            ChatTemplate("{{ messages.append(1) }}").render(ASK, "", {})

    def test_a_broken_template_is_found_when_the_engine_is_built(self) -> None:
        with pytest.raises(TemplateSyntaxError):
            OpenAIApi("x", OpenAISpec(model="m", prefill="raw_completion", chat_template="{% if %}"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer that adds a beginning-of-text token, with a template that writes one too."""
    if find_spec("transformers") is None:
        pytest.skip("transformers is not installed")
    made = tmp_path_factory.mktemp("tokenizer")
    counting_model.make_tokenizer().save_pretrained(made)
    return made


def ids(folder: Path, text: str, *, bos: bool = True) -> list[int]:
    """What a server reads of a text."""
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    return list(tokenizer(text, add_special_tokens=bos).input_ids)


class TestTokenizerTemplate:
    def test_the_beginning_token_is_written_once(self, folder: Path) -> None:
        text = TokenizerTemplate(str(folder)).render(ASK, "1, 2", {})
        assert text == OPENED + "1, 2"
        read = ids(folder, text)
        assert read.count(read[0]) == 1

    def test_where_the_server_adds_none_it_is_left_in(self, folder: Path, tmp_path: Path) -> None:
        from tokenizers import processors

        tokenizer = counting_model.make_tokenizer()
        tokenizer.backend_tokenizer.post_processor = processors.Sequence([])
        tokenizer.save_pretrained(tmp_path)
        text = TokenizerTemplate(str(tmp_path)).render(ASK, "1, 2", {})
        assert text == "<s>" + OPENED + "1, 2"
        assert ids(tmp_path, text) == ids(folder, OPENED + "1, 2")

    @pytest.mark.parametrize("prefix", ["1, 2", "  indented", "ends in a line\n", "<|im_end|>", "", STAND_IN])
    def test_the_text_is_to_be_continued_to_the_letter(self, folder: Path, prefix: str) -> None:
        trims = CHATML.replace("{{ message.content }}", "{{ message.content | trim }}")
        for template in (CHATML, trims):
            assert TokenizerTemplate(str(folder), template).render(ASK, prefix, {}) == OPENED + prefix

    def test_an_unfinished_answer_is_written_as_the_template_writes_answers(self, folder: Path) -> None:
        """Qwen's opens a thought with the generation prompt; a given beginning of the answer is no thought."""
        thinks = (
            "{% for m in messages %}<|im_start|>{{ m.role }}\n"
            "{% if m.role == 'assistant' %}<think>\n</think>\n{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
            "{% if add_generation_prompt %}<|im_start|>assistant\n"
            "{% if enable_thinking %}<think>\n{% endif %}{% endif %}"
        )
        template = TokenizerTemplate(str(folder), thinks)
        assert template.render(ASK, "1, 2", {"enable_thinking": True}) == OPENED + "<think>\n</think>\n1, 2"
        assert template.render(ASK, "", {"enable_thinking": True}) == OPENED + "<think>\n"
        assert template.render(ASK, "", {"enable_thinking": False}) == OPENED

    def test_a_template_that_drops_answers_gets_the_text_behind_its_prompt(self, folder: Path) -> None:
        drops = CHATML.replace("{{ message.content }}", "{{ message.content if message.role == 'user' }}")
        assert TokenizerTemplate(str(folder), drops).render(ASK, "1, 2", {}) == OPENED + "1, 2"

    def test_texts_in_parts_are_one_and_other_members_reach_the_template(self, folder: Path) -> None:
        parts = [{"type": "text", "text": "1, "}, {"type": "text", "text": "2"}]
        named = TokenizerTemplate(str(folder), "{% for m in messages %}{{ m.name }}: {{ m.content }}{% endfor %}")
        assert named.render([{"role": "user", "name": "ada", "content": parts}], "", {}) == "ada: 1, 2"
        with pytest.raises(Refused, match="text only"):
            named.render([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}], "", {})

    def test_messages_that_the_template_rejects(self, folder: Path) -> None:
        template = TokenizerTemplate(str(folder), "{{ raise_exception('no') }}{{ messages[0].content }}")
        with pytest.raises(Refused, match="rejects these messages"):
            template.render(ASK, "1, 2", {})

    def test_what_is_not_at_hand_is_said(self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(Unavailable, match="cannot be loaded"):
            TokenizerTemplate(str(tmp_path))
        bare = counting_model.make_tokenizer()
        bare.chat_template = None
        bare.save_pretrained(tmp_path / "bare")
        with pytest.raises(Unavailable, match="no chat template: set chat_template"):
            TokenizerTemplate(str(tmp_path / "bare"))
        monkeypatch.setitem(__import__("sys").modules, "transformers", None)
        with pytest.raises(Unavailable, match=r"pip install 'gkt-gateway\[transformers\]'"):
            TokenizerTemplate(str(folder))

    def test_the_callers_messages_are_left_alone(self, folder: Path) -> None:
        messages = [dict(ASK[0])]
        TokenizerTemplate(str(folder)).render(messages, "1, 2", {})
        assert messages == list(ASK)
