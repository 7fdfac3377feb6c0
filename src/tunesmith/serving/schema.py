"""What may be sent: pydantic models of the bodies; unknown fields are refused, not ignored.

Bounds stand here so that they are checked before anything is tokenised or allocated. Source of
names and meanings: OpenAI's API reference; fields beyond it are the engine's (`top_k`, `min_p` …).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

MAX_CHOICES = 8
MAX_STOPS = 4
MAX_BEAMS = 16
MAX_TOP_LOGPROBS = 20
MAX_BATCH = 256
"""Prompts or inputs in one request."""

TokenId = Annotated[int, Field(ge=0, lt=2**31)]
Tokens = Annotated[list[TokenId], Field(min_length=1)]
StopText = Annotated[str, Field(min_length=1, max_length=256)]
Stops = StopText | Annotated[list[StopText], Field(max_length=MAX_STOPS)]
Bias = Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]


def _off(value: bool) -> bool:
    if value:
        raise ValueError("only false is supported")
    return value


Off = Annotated[bool, AfterValidator(_off), Field(json_schema_extra={"const": False})]
"""A switch that can't be on. (A Literal would take 0 for false.)"""


_BEAMS = "The `n` likeliest answers by beam search, as vLLM has it; greedy, not streamed."
_WIDTH = "How many beams go on at a time; default: `n`. Only with `use_beam_search`."
_PENALTY = "Of beams: their log-probability is divided by length^penalty; default 1."
_STOPPING = (
    "Of beams: true ends the search with as many answers as there are beams, false when a running "
    'one is worse at its present length, "never" when it could not get better at any; as '
    "transformers has it."
)


class Body(BaseModel):
    """A JSON object without unknown fields and without guessing of types."""

    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())


# ---------------------------------------------------------------- shared by both completions


class StreamOptions(Body):
    include_usage: bool | None = None


class SamplingFields(Body):
    """How tokens are chosen; what is not given is as the model's generation config says."""

    model: str | None = Field(default=None, max_length=256)
    temperature: float | None = Field(default=None, ge=0, le=2, allow_inf_nan=False)
    top_p: float | None = Field(default=None, ge=0, le=1, allow_inf_nan=False)
    top_k: int | None = Field(default=None, ge=0, lt=2**31)
    min_p: float | None = Field(default=None, ge=0, le=1, allow_inf_nan=False)
    typical_p: float | None = Field(default=None, gt=0, le=1, allow_inf_nan=False)
    repetition_penalty: float | None = Field(default=None, gt=0, le=10, allow_inf_nan=False)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2, allow_inf_nan=False)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2, allow_inf_nan=False)
    logit_bias: dict[Annotated[str, Field(pattern=r"^\d{1,9}$")], Bias] | None = Field(
        default=None, max_length=1024
    )
    max_tokens: int | None = Field(default=None, ge=0)
    n: int | None = Field(default=None, ge=1, le=MAX_CHOICES)
    use_beam_search: bool | None = Field(default=None, description=_BEAMS)
    best_of: int | None = Field(default=None, ge=1, le=MAX_BEAMS, description=_WIDTH)
    length_penalty: float | None = Field(
        default=None, ge=-10, le=10, allow_inf_nan=False, description=_PENALTY
    )
    early_stopping: bool | Literal["never"] | None = Field(default=None, description=_STOPPING)
    seed: Seed | None = None
    stop: Stops | None = None
    stop_token_ids: Annotated[list[TokenId], Field(max_length=64)] | None = None
    """Tokens that end an answer beside the model's own, as vLLM has them."""
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = Field(default=None, max_length=512)
    """Read and dropped: nothing is kept of who asks."""


# ---------------------------------------------------------------- chat


class TextPart(Body):
    type: Literal["text"]
    text: str


class CalledFunction(Body):
    name: str = Field(min_length=1, max_length=128)
    arguments: str


class CalledTool(Body):
    id: str = Field(default="", max_length=128)
    type: Literal["function"] = "function"
    function: CalledFunction
    index: int | None = None


class ChatMessage(Body):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Annotated[list[TextPart], Field(max_length=256)] | None = None
    name: str | None = Field(default=None, max_length=128)
    tool_calls: Annotated[list[CalledTool], Field(max_length=64)] | None = None
    tool_call_id: str | None = Field(default=None, max_length=128)
    reasoning_content: str | None = None
    refusal: None = None
    audio: None = None
    function_call: None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None


class Function(Body):
    name: str = Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9_.-]+$")
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Body):
    type: Literal["function"]
    function: Function


class NamedFunction(Body):
    name: str


class NamedTool(Body):
    type: Literal["function"]
    function: NamedFunction


class JsonSchema(Body):
    name: str = Field(min_length=1, max_length=128)
    description: str | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class TextFormat(Body):
    type: Literal["text"]


class JsonObjectFormat(Body):
    type: Literal["json_object"]


class JsonSchemaFormat(Body):
    type: Literal["json_schema"]
    json_schema: JsonSchema


class ChatBody(SamplingFields):
    """POST /v1/chat/completions"""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=4096)]
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=MAX_TOP_LOGPROBS)
    tools: Annotated[list[Tool], Field(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    response_format: (
        Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")]
        | None
    ) = None
    modalities: list[Literal["text"]] | None = None
    store: Off | None = None
    service_tier: Literal["auto", "default"] | None = None


# ---------------------------------------------------------------- the other routes


class CompletionBody(SamplingFields):
    """POST /v1/completions"""

    prompt: (
        str
        | Tokens
        | Annotated[list[str], Field(min_length=1, max_length=MAX_BATCH)]
        | Annotated[list[Tokens], Field(min_length=1, max_length=MAX_BATCH)]
    )
    echo: bool | None = None
    logprobs: int | None = Field(default=None, ge=0, le=MAX_TOP_LOGPROBS)
    suffix: None = None


Texts = (
    str
    | Tokens
    | Annotated[list[str], Field(min_length=1, max_length=MAX_BATCH)]
    | Annotated[list[Tokens], Field(min_length=1, max_length=MAX_BATCH)]
)


class EmbeddingBody(Body):
    """POST /v1/embeddings"""

    input: Texts
    model: str | None = Field(default=None, max_length=256)
    encoding_format: Literal["float", "base64"] | None = None
    user: str | None = Field(default=None, max_length=512)


class ScoreBody(Body):
    """POST /v1/score: `messages` is one conversation, `input` several."""

    model: str | None = Field(default=None, max_length=256)
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=4096)] | None = None
    input: (
        Annotated[
            list[Annotated[list[ChatMessage], Field(min_length=1, max_length=4096)]],
            Field(min_length=1, max_length=MAX_BATCH),
        ]
        | None
    ) = None


class TokenizeBody(Body):
    """POST /tokenize: a text, or the conversation whose next answer would be asked for."""

    model: str | None = Field(default=None, max_length=256)
    prompt: str | None = None
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=4096)] | None = None
    tools: Annotated[list[Tool], Field(max_length=128)] | None = None


class DetokenizeBody(Body):
    """POST /detokenize"""

    model: str | None = Field(default=None, max_length=256)
    tokens: Annotated[list[TokenId], Field(max_length=2**20)]


class OlderChatBody(Body):
    """POST /api/chat of PaddleNLP's flask server: the answer comes as lines of JSON."""

    context: str
    history: str = ""
    """JSON text of [{"role": "user" | "bot", "utterance": …}, …]; or empty."""
    top_k: int = Field(default=0, ge=0, lt=2**31)
    top_p: float = Field(default=0.7, gt=0, le=1, allow_inf_nan=False)
    temperature: float = Field(default=0.95, ge=0, le=2, allow_inf_nan=False)
    repetition_penalty: float = Field(default=1.2, gt=0, le=10, allow_inf_nan=False)
    max_length: int = Field(default=50, ge=1)
    src_length: int | None = Field(default=None, ge=1)
    min_length: int = Field(default=1, ge=0, le=1)
