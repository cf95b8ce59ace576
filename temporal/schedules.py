"""What must stand in a Temporal namespace before work begins: search attributes, and what happens every so often."""

from dataclasses import replace
from datetime import timedelta

from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, ListSearchAttributesRequest
from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleAlreadyRunningError,
    ScheduleIntervalSpec,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleSpec,
    ScheduleUpdate,
    ScheduleUpdateInput,
)

from workflows.options import CONTROL_QUEUE, SEARCH_ATTRIBUTES, TASK_TIMEOUT
from workflows.pressure import PressureWatch
from workflows.reaper import Reaper

REAPER_SCHEDULE = "berth-reaper"
PRESSURE_SCHEDULE = "berth-pressure"


async def ensure(client: Client, *, reap_seconds: float, pressure_seconds: float) -> None:
    """Idempotent; a changed interval is taken over, and what is paused stays paused."""
    await _ensure_search_attributes(client)
    reap = ScheduleActionStartWorkflow(
        Reaper.run,
        id="reaper",
        task_queue=CONTROL_QUEUE,
        task_timeout=TASK_TIMEOUT,
        execution_timeout=timedelta(minutes=5),
        static_summary="what exists against what is owned",
    )
    await _ensure_schedule(client, REAPER_SCHEDULE, reap, timedelta(seconds=reap_seconds))
    relieve = ScheduleActionStartWorkflow(
        PressureWatch.run,
        id="pressure",
        task_queue=CONTROL_QUEUE,
        task_timeout=TASK_TIMEOUT,
        execution_timeout=timedelta(minutes=5),
        static_summary="which machines run short, and who makes room",
    )
    await _ensure_schedule(client, PRESSURE_SCHEDULE, relieve, timedelta(seconds=pressure_seconds))


async def _ensure_search_attributes(client: Client) -> None:
    known = await client.operator_service.list_search_attributes(
        ListSearchAttributesRequest(namespace=client.namespace), timeout=timedelta(seconds=10)
    )
    missing = [key.name for key in SEARCH_ATTRIBUTES if key.name not in known.custom_attributes]
    if missing:
        await client.operator_service.add_search_attributes(
            AddSearchAttributesRequest(
                namespace=client.namespace,
                search_attributes=dict.fromkeys(missing, IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD),
            ),
            timeout=timedelta(seconds=10),
        )


async def _ensure_schedule(client: Client, name: str, action: ScheduleActionStartWorkflow, every: timedelta) -> None:
    schedule = Schedule(
        action=action,
        spec=ScheduleSpec(intervals=[ScheduleIntervalSpec(every=every)]),
        # A look that takes longer than the interval is enough; missed ones need no catching up.
        policy=SchedulePolicy(overlap=ScheduleOverlapPolicy.SKIP, catchup_window=timedelta(seconds=10)),
    )
    try:
        await client.create_schedule(name, schedule)
    except ScheduleAlreadyRunningError:

        async def renew(there: ScheduleUpdateInput) -> ScheduleUpdate:
            # One that an operator has paused stays so, whoever begins meanwhile.
            return ScheduleUpdate(schedule=replace(schedule, state=there.description.schedule.state))

        await client.get_schedule_handle(name).update(renew)
