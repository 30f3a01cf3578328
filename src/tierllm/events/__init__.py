"""What tierllm tells those who listen.

Events are frozen and hold no prompt text and no keys. A listener is any callable; it is called
outside all locks, in the thread or task of the call, and so should be quick. What it raises is
logged and otherwise ignored: an observer cannot fail a call.
"""

from .base import Event, Listener, emitter, log, log_failure
from .calls import (
    AttemptFailed,
    BreakerChanged,
    BreakerWarning,
    CacheDamaged,
    CacheRefreshed,
    CallFinished,
    CallHedged,
    ProviderMisconfigured,
    RetryScheduled,
    SteppedDown,
    StoreTrouble,
    TierRestored,
)
from .load import (
    CallDeferred,
    CallQueued,
    CallThrottled,
    ConcurrencyChanged,
    DegradationChanged,
    EmergencyChanged,
    PriorityLowered,
    TierCrowded,
)
from .money import (
    BudgetOverrun,
    BudgetPace,
    BudgetRefused,
    BudgetWarning,
    CallSettled,
    PriceUnknown,
)
from .service import (
    CascadeEscalated,
    ConfigRejected,
    ConfigReloaded,
    FeedbackReceived,
    ObjectiveBurning,
    ObjectiveRecovered,
    SessionMoved,
    ShadowCompared,
    ShiftChanged,
)

__all__ = [
    "AttemptFailed",
    "BreakerChanged",
    "BreakerWarning",
    "BudgetOverrun",
    "BudgetPace",
    "BudgetRefused",
    "BudgetWarning",
    "CacheDamaged",
    "CacheRefreshed",
    "CallDeferred",
    "CallFinished",
    "CallHedged",
    "CallQueued",
    "CallSettled",
    "CallThrottled",
    "CascadeEscalated",
    "ConcurrencyChanged",
    "ConfigRejected",
    "ConfigReloaded",
    "DegradationChanged",
    "EmergencyChanged",
    "Event",
    "FeedbackReceived",
    "Listener",
    "ObjectiveBurning",
    "ObjectiveRecovered",
    "PriceUnknown",
    "PriorityLowered",
    "ProviderMisconfigured",
    "RetryScheduled",
    "SessionMoved",
    "ShadowCompared",
    "ShiftChanged",
    "SteppedDown",
    "StoreTrouble",
    "TierCrowded",
    "TierRestored",
    "emitter",
    "log",
    "log_failure",
]
