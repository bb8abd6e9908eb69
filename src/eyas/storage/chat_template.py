"""Chat templates as text to text: as transformers renders them, without transformers, which takes seconds to import."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from eyas.errors import ModelError
from eyas.recipe import ThinkingSpec
from eyas.records import Example, Mode
from eyas.thinking import continued, prompt_messages, prompt_suffix, template_arguments

ONE_DAY = (
    "{%- macro strftime_now(form) -%}{{ form | replace('%d', '26') | replace('%b', 'Jul') | replace('%B', 'July')"
    " | replace('%m', '07') | replace('%Y', '2024') }}{%- endmacro -%}"
)
"""Stands in for the clock that transformers gives to templates; the day is the one Llama 3's name by themselves."""
FAULTS = (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError)
"""What a template raises: jinja2's own errors, and those of the expressions in it."""
TEMPLATE = "tokenizer.chat_template"
"""A GGUF's key."""
Render = Callable[[str, list[dict[str, str]], Mapping[str, Any]], str]
"""(template, messages, variables) -> text."""


class _Generation(Extension):
    """`{% generation %}` marks what is the assistant's for training, and writes nothing."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True)).set_lineno(line)


def render(template: str, messages: list[dict[str, str]], variables: Mapping[str, Any]) -> str:
    """The text that transformers' `apply_chat_template` makes of a template with these variables.

    Raises: jinja2.TemplateError, if the template is wrong or refuses the messages.
    """
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    given = {"messages": messages, "tools": None, "documents": None, **variables}
    return environment.from_string(template).render(**given)


def rendered_prompt(
    example: Example, mode: Mode, *, template: str, thinking: ThinkingSpec, render: Render, where: object
) -> str:
    """The prompt up to where the completion starts; a template that writes today's date gets one fixed day.

    Raises: ModelError, that names `where`, if the template refuses the messages.
    """
    variables: dict[str, Any] = {"add_generation_prompt": True, **template_arguments(mode, thinking=thinking)}
    messages = prompt_messages(example, mode, thinking=thinking)
    try:
        text = render(ONE_DAY + template if "strftime_now" in template else template, messages, variables)
    except FAULTS as error:
        roles = ", ".join(message["role"] for message in messages)
        raise ModelError(
            f"{where}: the chat template refuses messages of the roles {roles} ({error}). "
            "Leave out the system message, or use a tokenizer whose template takes it."
        ) from error
    return text + continued(text, prompt_suffix(mode, thinking=thinking), thinking=thinking)


def template_of(metadata: Mapping[str, Any], *, where: object) -> str:
    """The chat template in a GGUF's metadata.

    Raises: ModelError, if there is none.
    """
    template = metadata.get(TEMPLATE)
    if not isinstance(template, str) or not template:
        raise ModelError(
            f"{where}: no chat template inside ({TEMPLATE}), so it is unknown how to talk to this model. Export an "
            "instruction-tuned model, or one whose tokenizer has a template."
        )
    return template


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Not jinja2's own filter, which writes for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: str) -> str:
    raise TemplateError(message)
