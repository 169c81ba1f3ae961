"""The chat template of a model: how the messages of a conversation are written as one text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator

from service.errors import Validation

ASSISTANT, SYSTEM, DEVELOPER = "assistant", "system", "developer"
MAX_ROLES, MAX_AFFIX_CHARACTERS, MAX_TEMPLATE_STOPS = 16, 1_024, 4
MAX_STOP_CHARACTERS = 256

Affix = Annotated[str, Field(max_length=MAX_AFFIX_CHARACTERS)]


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation."""

    role: str
    content: str


class MessageForm(BaseModel):
    """What stands before and after the content of a role's messages."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    prefix: Affix = ""
    suffix: Affix = ""


class ChatTemplate(BaseModel):
    """A text of `start`, then each message between its role's prefix and suffix, then `cue`.

    `cue` is after which the model writes its reply; by default the prefix of the role `assistant`,
    so that a reply that is sent back as a message gives the same text again. A reply ends at one
    of `stop`; by default at the suffix of `assistant`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    start: Affix = ""
    roles: dict[Annotated[str, Field(pattern=r"^[a-z_]{1,32}$")], MessageForm] = Field(
        min_length=1, max_length=MAX_ROLES
    )
    cue: Affix | None = None
    stop: list[Affix] | None = Field(None, max_length=MAX_TEMPLATE_STOPS)

    @field_validator("roles")
    @classmethod
    def _has_assistant(cls, roles: dict[str, MessageForm]) -> dict[str, MessageForm]:
        if ASSISTANT not in roles:
            raise ValueError(f"`roles` needs {ASSISTANT!r}, whose messages the model writes")
        return roles

    @field_validator("stop")
    @classmethod
    def _has_texts(cls, stop: list[str] | None) -> list[str] | None:
        for one in stop or ():
            if not 1 <= len(one) <= MAX_STOP_CHARACTERS:
                raise ValueError(
                    f"`stop` strings have 1 to {MAX_STOP_CHARACTERS} characters. Given: {len(one)}"
                )
        return stop

    @classmethod
    def of_lines(cls) -> Self:
        """Return the default: each message is a line `role: content`, and so is the reply."""
        roles = (SYSTEM, "user", ASSISTANT)
        return cls(roles={role: MessageForm(prefix=f"{role}: ", suffix="\n") for role in roles})

    @property
    def stops(self) -> list[str]:
        """The strings at which a reply ends."""
        suffix = self.roles[ASSISTANT].suffix
        if self.stop is not None:
            return list(self.stop)
        return [suffix] if 1 <= len(suffix) <= MAX_STOP_CHARACTERS else []

    def conversation(self, messages: Sequence[Message], *, has_cue: bool = True) -> str:
        """Return the text of a conversation from its start. Raises Validation as `turn`."""
        return self.start + self._lines(messages) + (self._cue if has_cue else "")

    def turn(self, messages: Sequence[Message], tail: str, *, has_cue: bool = True) -> str:
        """Return the text that messages add to one that ends with `tail`, after a reply.

        A reply that ended at its limit gets the suffix that it lacks. Raises Validation for a role
        that the template does not have.
        """
        suffix = self.roles[ASSISTANT].suffix
        opening = "" if tail.endswith(suffix) else suffix
        return opening + self._lines(messages) + (self._cue if has_cue else "")

    def open_reply(self, messages: Sequence[Message]) -> str:
        """Return the conversation whose last message, of `assistant`, goes on. Raises as `turn`."""
        *before, last = messages
        if last.role != ASSISTANT:
            raise Validation(
                f"`continue_final_message` continues a message of {ASSISTANT!r}; "
                f"the last one is of {last.role!r}"
            )
        return self.conversation(before, has_cue=False) + self._form(last).prefix + last.content

    @property
    def _cue(self) -> str:
        return self.roles[ASSISTANT].prefix if self.cue is None else self.cue

    def _lines(self, messages: Sequence[Message]) -> str:
        forms = [(self._form(message), message.content) for message in messages]
        return "".join(f"{form.prefix}{content}{form.suffix}" for form, content in forms)

    def _form(self, message: Message) -> MessageForm:
        role = message.role
        if role == DEVELOPER and role not in self.roles:
            role = SYSTEM  # what newer clients call it
        if role not in self.roles:
            raise Validation(
                f"a message has the role {message.role[:40]!r}; the model's chat template has "
                f"{', '.join(sorted(self.roles))}"
            )
        return self.roles[role]
