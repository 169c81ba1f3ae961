"""The states of a train job and every transition between them: one table, without clock or I/O."""

from enum import StrEnum


class JobStatus(StrEnum):
    """The status of a train job, as the API reports it."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class JobState(StrEnum):
    """The state of a train job as its record stores it; `status` maps it to the API's."""

    QUEUED = "queued"
    RUNNING = "running"
    CANCELLING = "cancelling"  # a user has cancelled it, its attempt has not stopped yet
    PUBLISH_REQUESTED = "publish_requested"  # a cancelled job waits for a worker to publish it
    PUBLISHING = "publishing"  # an attempt stores the best checkpoint as the model
    PUBLISHED = "published"  # the model is stored and not loaded yet
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def status(self) -> JobStatus:
        """The status that the API reports for this state."""
        return _REPORTED.get(self) or JobStatus(self)

    @property
    def is_waiting(self) -> bool:
        """Whether a worker may take the job."""
        return self in {JobState.QUEUED, JobState.PUBLISH_REQUESTED}

    @property
    def has_attempt(self) -> bool:
        """Whether an attempt owns the job and holds its lease."""
        return self in {JobState.RUNNING, JobState.CANCELLING, JobState.PUBLISHING}

    @property
    def is_over(self) -> bool:
        """Whether the job has ended. CANCELLED is not final: such a job can be published."""
        return self in {JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED}


_REPORTED = {
    JobState.CANCELLING: JobStatus.RUNNING,
    JobState.PUBLISH_REQUESTED: JobStatus.QUEUED,
    JobState.PUBLISHING: JobStatus.RUNNING,
    JobState.PUBLISHED: JobStatus.RUNNING,
}


class Transition(StrEnum):
    """What triggers a change of state. TRANSITIONS has each (state, transition) → new state."""

    CLAIM = "claim"  # an attempt begins
    START_FAILED = "start_failed"  # the attempt's process has ended before it claimed the job
    RELEASE = "release"  # an attempt stops gracefully
    LEASE_LOST = "lease_lost"  # an attempt has not renewed its lease
    MODEL_STORED = "store"  # an attempt has stored the model
    SUCCEED = "succeed"  # the model is loaded, where that was requested
    FAIL = "fail"
    CANCEL = "cancel"  # a user cancels the job
    PUBLISH = "publish"  # a user publishes the best checkpoint of a cancelled job


TRANSITIONS: dict[tuple[JobState, Transition], JobState] = {
    (JobState.QUEUED, Transition.CLAIM): JobState.RUNNING,
    (JobState.QUEUED, Transition.START_FAILED): JobState.QUEUED,
    (JobState.QUEUED, Transition.CANCEL): JobState.CANCELLED,
    (JobState.RUNNING, Transition.RELEASE): JobState.QUEUED,
    (JobState.RUNNING, Transition.LEASE_LOST): JobState.QUEUED,
    (JobState.RUNNING, Transition.MODEL_STORED): JobState.PUBLISHED,
    (JobState.RUNNING, Transition.FAIL): JobState.FAILED,
    (JobState.RUNNING, Transition.CANCEL): JobState.CANCELLING,
    (JobState.CANCELLING, Transition.RELEASE): JobState.CANCELLED,
    (JobState.CANCELLING, Transition.LEASE_LOST): JobState.CANCELLED,
    (JobState.CANCELLING, Transition.MODEL_STORED): JobState.PUBLISHED,  # the cancel came too late
    (JobState.CANCELLING, Transition.FAIL): JobState.FAILED,
    (JobState.PUBLISHED, Transition.SUCCEED): JobState.SUCCEEDED,
    (JobState.CANCELLED, Transition.PUBLISH): JobState.PUBLISH_REQUESTED,
    (JobState.PUBLISH_REQUESTED, Transition.CLAIM): JobState.PUBLISHING,
    (JobState.PUBLISH_REQUESTED, Transition.START_FAILED): JobState.PUBLISH_REQUESTED,
    (JobState.PUBLISH_REQUESTED, Transition.CANCEL): JobState.CANCELLED,
    (JobState.PUBLISHING, Transition.RELEASE): JobState.PUBLISH_REQUESTED,
    (JobState.PUBLISHING, Transition.LEASE_LOST): JobState.PUBLISH_REQUESTED,
    (JobState.PUBLISHING, Transition.MODEL_STORED): JobState.PUBLISHED,
    (JobState.PUBLISHING, Transition.FAIL): JobState.CANCELLED,  # the best checkpoint is kept
}


def targets(transition: Transition) -> dict[JobState, JobState]:
    """The state that a transition leads to, for each state that allows it."""
    return {state: to for (state, name), to in TRANSITIONS.items() if name is transition}


def diagram() -> str:
    """The table as a state diagram in Mermaid."""
    edges = [f"    [*] --> {JobState.QUEUED}"]
    edges += [f"    {state} --> {to}: {name}" for (state, name), to in TRANSITIONS.items()]
    edges += [f"    {state} --> [*]" for state in JobState if state.is_over]
    return "\n".join(["stateDiagram-v2", *edges])
