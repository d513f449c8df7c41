"""A section of the configuration, and the words of its complaints."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, ClassVar, Final, LiteralString, Self

from pydantic import BaseModel, ConfigDict, ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ddslogd.config.yaml_positions import Location


SAID: Final = "said"
"""The type of an error that is in our words already."""
SAID_OF_KEY: Final = "said_of_key"
"""The same where the key is wrong and not its value."""


def complaint(text: str, kind: LiteralString = SAID) -> PydanticCustomError:
    """Make a complaint for pydantic to carry; the text is not formatted again."""
    return PydanticCustomError(kind, "{text}", {"text": text})


def guess(word: object, known: Iterable[str]) -> str:
    """Return `` (did you mean …)`` where something known looks like the word, else nothing."""
    close = get_close_matches(str(word), list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""


class Section(BaseModel):
    """One mapping of the file: unknown keys are refused, and what it holds does not change."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, use_attribute_docstrings=True)

    tagged: ClassVar[str] = ""
    """The field whose errors carry the name of a variant, which is no key of the file."""
    variants: ClassVar[frozenset[str]] = frozenset()
    """Names of variants that are in errors' places, and are no keys of the file."""

    @classmethod
    def rules(cls, raw: Mapping[str, Any]) -> Iterator[tuple[Location, str]]:  # noqa: ARG003 - sections with rules use it
        """Yield what is wrong between values that came: where in this section, and what."""
        yield from ()

    @model_validator(mode="wrap")
    @classmethod
    def _complain_at_once(cls, raw: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        broken = list(cls.rules(raw)) if isinstance(raw, Mapping) else []
        found: list[InitErrorDetails] = []
        try:
            section = handler(raw)
        except ValidationError as exc:
            found = [cls._told(error) for error in exc.errors(include_url=False) if not _is_echo(error)]
        else:
            if not broken:
                return section
        found += [InitErrorDetails(type=complaint(text), loc=where, input=None) for where, text in broken]
        raise ValidationError.from_exception_data(cls.__name__, found, hide_input=True)

    @classmethod
    def _told(cls, error: ErrorDetails) -> InitErrorDetails:
        """Put pydantic's error into our words, without what was in the file."""
        loc = tuple(part for part in error["loc"] if part not in cls.variants)
        if len(loc) > 1 and loc[0] == cls.tagged:
            loc = (loc[0], *loc[2:])
        if error["type"].startswith("union_tag"):
            loc = (*loc, error["ctx"]["discriminator"].strip("'"))
        if error["type"] == SAID_OF_KEY:
            told = complaint(error["msg"], SAID_OF_KEY)
        elif error["type"] == SAID:
            told = complaint(error["msg"])
        elif error["type"] == "extra_forbidden":
            told = complaint(f"unknown key{guess(loc[-1], cls.model_fields)}", SAID_OF_KEY)
        else:
            told = complaint(_words(error))
        if loc[-1:] == ("[key]",):
            loc, told = loc[:-1], complaint(told.message(), SAID_OF_KEY)
        return InitErrorDetails(type=told, loc=loc, input=None)


_WORDS: Final = {
    "model_type": "must be a mapping of keys to values",
    "model_attributes_type": "must be a mapping of keys to values",
    "dict_type": "must be a mapping of keys to values",
    "tuple_type": "must be a list",
    "string_type": "must be text (a number wants quotes)",
    "path_type": "must be an absolute path",
    "int_type": "must be a whole number",
    "too_short": "must have at least one entry",
}


def _is_echo(error: ErrorDetails) -> bool:
    """Return whether a list seems too short only because what is in it was refused."""
    return error["type"] == "too_short" and bool(error["input"])


def _words(error: ErrorDetails) -> str:
    """Return what pydantic found, in the operator's words."""
    context = error.get("ctx", {})
    match error["type"]:
        case "missing" | "union_tag_not_found":
            return "is missing"
        case _ if error["input"] is None:
            return "is empty: give a value, or leave the key out"
        case "greater_than_equal":
            return f"must be at least {context['ge']}"
        case "less_than_equal":
            return f"must be at most {context['le']}"
        case "union_tag_invalid":
            known = context["expected_tags"].replace("'", "").split(", ")
            return f"must be {', '.join(known[:-1])} or {known[-1]}{guess(context['tag'], known)}"
        case kind:
            return _WORDS.get(kind, error["msg"])


def raw_value(section: object, key: str) -> Any:
    """Look into a section that is still raw, or is a model already; None where it is neither, or has no such key."""
    return section.get(key) if isinstance(section, Mapping) else getattr(section, key, None)


def default_of(section: type[Section], name: str) -> Any:
    """Return the default of a section's field."""
    return section.model_fields[name].default
