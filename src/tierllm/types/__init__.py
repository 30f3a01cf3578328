"""The values that travel through tierllm: what is asked, what is answered, what happened.

``Request`` is what the caller asked for and never changes. ``Call`` is the slim carrier that walks
down the pipeline; each level that changes something works on its own copy. ``Response`` and
``Chunk`` come back up. ``Trace`` is the account of one call in plain data.
"""

from .answered import Chunk, Response, ToolCall, Usage
from .asked import Call, Message, Request, Route, Turn, length_of, text_of
from .happened import Attempt, Candidate, Outcome, Trace, Waited
from .settings import Objective, Timeouts

__all__ = [
    "Attempt",
    "Call",
    "Candidate",
    "Chunk",
    "Message",
    "Objective",
    "Outcome",
    "Request",
    "Response",
    "Route",
    "Timeouts",
    "ToolCall",
    "Trace",
    "Turn",
    "Usage",
    "Waited",
    "length_of",
    "text_of",
]
