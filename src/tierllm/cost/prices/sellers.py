"""Other names of vendors, as libraries and configurations call them. Each was looked at by a person.

A name that only contains a vendor's (``my-openai-proxy``) says nothing about who is paid.
"""

from __future__ import annotations

from typing import Final

__all__ = ["SELLERS"]

_BY_VENDOR = {
    "anthropic": ("claude",),
    "aws": ("amazon", "amazon-bedrock", "aws-bedrock", "bedrock", "bedrock-converse", "bedrock-runtime"),
    "azure": ("azure-ai", "azure-ai-foundry", "azure-openai", "azureopenai", "microsoft-foundry"),
    "cohere": ("cohere-chat",),
    "fireworks": ("fireworks-ai", "fireworksai"),
    "github-copilot": ("copilot",),
    "google": (
        "anthropic-vertex",
        "gemini",
        "google-ai",
        "google-genai",
        "google-gla",
        "google-vertex",
        "google-vertex-ai",
        "googleai",
        "vertex",
        "vertex-ai",
        "vertex-anthropic",
        "vertexai",
    ),
    "mistral": ("mistral-ai", "mistralai"),
    "moonshotai": ("moonshot", "moonshot-ai"),
    "openai": ("openai-chat", "openai-responses"),
    "together": ("together-ai", "togetherai"),
    "voyageai": ("voyage", "voyage-ai"),
    "x-ai": ("xai",),
}
SELLERS: Final[dict[str, str]] = {name: vendor for vendor, names in _BY_VENDOR.items() for name in names}
"""The list's vendor by another name; ``_`` and a blank count as ``-``."""
