"""What tiers take away from calls under load, at work in a setup."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..admission.emergency import Emergencies
    from .setup import Setup

__all__ = ["sampled"]


def sampled(setup: Setup, before: Setup | None = None) -> Emergencies | None:
    """Have the tiers of ``setup`` take away what their sampling says; the emergencies that they heed.

    Those that ``before`` knows go on, and so do the steps of lines that it had already.
    """
    tiers, lines, caching = setup.tiers, setup.lines, setup.caching
    if not any(tier.sampling is not None for tier in tiers):
        return None
    from ..admission.emergency import Emergencies

    emergencies = None
    if any(tier.sampling is not None and tier.sampling.emergencies for tier in tiers):
        emergencies = None if before is None else before.emergencies
        emergencies = emergencies or Emergencies(
            setup.treasury.store,
            clock=setup.clock,
            wall=setup.wall,
            emit=setup.emit,
            soon=setup.host.soon,
        )
    consent = () if setup.service is None else setup.service.consents()
    old = None if caching is None else caching.old
    for line in lines.values():
        if line.sampling is not None:
            continue
        line.samples(stale=old, emergencies=emergencies, consent=consent)
    if caching is not None:
        caching.consents = {
            name: line.sampling.granted
            for name, line in lines.items()
            if line.sampling is not None and line.sampling.mode == "enforce"
        }
    return emergencies
