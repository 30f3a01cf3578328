"""The pipeline: policies composed once, driven in sync, async and virtual time.

``effects`` is what a policy may await, ``compose`` stacks policies, ``scope`` bounds one flow,
``tape`` lets several readers follow one. ``sync``, ``aio`` and ``virtual`` are the drivers: the
only code in tierllm that waits.
"""
