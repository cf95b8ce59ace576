"""When a run goes on in a new one: its history is long, newer workers are there for it, or an operator said so.

The new run begins with the workers that are current, however the old one was held to its own; within a run no code
changes. Where workers have no versions that makes no difference.
"""

from temporalio import workflow
from temporalio.workflow import ContinueAsNewVersioningBehavior

ONTO_CURRENT = ContinueAsNewVersioningBehavior.AUTO_UPGRADE


class Onward:
    """Made in a run's first moment. `told` is for handlers: it is for this run alone."""

    def __init__(self, history_limit: int) -> None:
        self.told = False
        self._limit = history_limit
        # Told so from the first moment, as one might be that an operator's order holds to its workers. Runs inherit
        # such an order, so it would hand itself on for ever. (Temporal 1.32 does not tell a run that is held.)
        self._held = workflow.info().is_target_worker_deployment_version_changed()

    def due(self) -> bool:
        info = workflow.info()
        return (
            self.told
            or info.is_continue_as_new_suggested()
            or info.get_current_history_length() >= self._limit
            or (info.is_target_worker_deployment_version_changed() and not self._held)
        )
