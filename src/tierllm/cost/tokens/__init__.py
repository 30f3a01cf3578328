"""How many tokens a request is: bounds at once, exact counts where they matter.

Nothing is downloaded, ever: the ranks of OpenAI's encodings lie in the package.
"""

from .correction import Correction
from .model import BIG, Bounds, ModelTokens, tokens_for

__all__ = ["BIG", "Bounds", "Correction", "ModelTokens", "tokens_for"]
