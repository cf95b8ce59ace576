"""What nobody owns: the kinds of things that the reaper finds, and removes once that is proven."""

from enum import StrEnum


class OrphanKind(StrEnum):
    OBJECT = "object"  # what a runtime has for an attempt that no living row stands for
    ROW = "row"  # a living agent that no workflow carries: its slot, its place in line
    WORKFLOW = "workflow"  # the run of a life whose row is over, or not there
    SCHEDULED_START = "scheduled_start"  # the run of a scheduled start whose row is over, or not there
    PROFILE = "profile"  # a browser profile that nothing used for as long as retention allows
