from __future__ import annotations
from tierllm import tiered
from typing import *
reveal_type(tiered)
@tiered
def no_prompt(text: str) -> int:
    return len(text)
@tiered
def gen(text: str) -> Iterator[str]:
    yield text
@tiered(sla="x")
def gen2(text: str) -> int:
    return 3
class A:
    @classmethod
    @tiered(sla="x")
    def make(cls, text: str) -> str:
        return text
    @tiered(sla="x")
    @classmethod
    def make2(cls, text: str) -> str:
        return text
    @property
    @tiered(sla="x")
    def p(self) -> str:
        return ""
reveal_type(A.make("x"))
reveal_type(A.make)
reveal_type(A.make2("x"))
reveal_type(A().p)
tiered.call(slaa="gold")
