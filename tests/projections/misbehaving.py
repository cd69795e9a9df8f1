"""Projections that do what a fold should not, in a module that other processes can import."""

import os
import sys
from typing import Any

from pydantic import BaseModel

from deployledger.projections.projection import Projection


class Count(BaseModel):
    n: int


def counted(row: Count | None) -> Count:
    return Count(n=(row.n if row else 0) + 1)


def prints(row: Count | None, event: Any) -> Count:
    print("hello")
    sys.stderr.write("x" * 200)
    return counted(row)


def exits(row: Count | None, event: Any) -> Count:
    raise SystemExit(0)


def tells(row: Count | None, event: Any) -> Count:
    raise ConnectionError("postgresql://ann:s3cr3tValue7@db.example refused password='s3cr3tValue7'")


def dies(row: Count | None, event: Any) -> Count:
    os._exit(0)


def clears_tags(row: Count | None, event: Any) -> Count:
    getattr(event, "tags", {}).clear()
    return counted(row)


PRINTS = Projection(name="prints", version=1, row_type=Count, apply=prints)
EXITS = Projection(name="exits", version=1, row_type=Count, apply=exits)
TELLS = Projection(name="tells", version=1, row_type=Count, apply=tells)
DIES = Projection(name="dies", version=1, row_type=Count, apply=dies)
A_CLEARS = Projection(name="a_clears", version=1, row_type=Count, apply=clears_tags)
