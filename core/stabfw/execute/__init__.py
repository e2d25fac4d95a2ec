"""Cells to outcomes: in this process, or in one worker process a session."""

from stabfw.execute.executors import Executor, InlineExecutor, ProcessExecutor
from stabfw.execute.messages import Batch, Ended, Failed, Message, Started, Task, Todo

__all__ = [
    "Batch",
    "Ended",
    "Executor",
    "Failed",
    "InlineExecutor",
    "Message",
    "ProcessExecutor",
    "Started",
    "Task",
    "Todo",
]
