"""Every message by one import; the modules beside this one hold them by subject."""

from edgec.protocol.codec import MAX_PAYLOAD_BYTES, Message, decode, encode
from edgec.protocol.enrol import ENROLL_PATH, EnrollRequest, EnrollResponse, MqttAccess, RegistryAccess
from edgec.protocol.errors import InvalidTransition, ProtocolError, VersionConflict
from edgec.protocol.events import DetectionData, DetectionEvent, FrameRef, ModelRef, Phase
from edgec.protocol.jobs import (
    JOB_TRANSITIONS,
    CommandDocument,
    JobExecution,
    JobsGet,
    JobState,
    JobUpdate,
    JobUpdateAccepted,
    JobUpdateRejected,
    PendingJobs,
    UpdateDocument,
)
from edgec.protocol.samples import (
    MAX_PREDICTIONS,
    MAX_SAMPLE_BYTES,
    SAMPLES_PATH,
    Prediction,
    SampleMeta,
    SampleReason,
    SecondOpinion,
)
from edgec.protocol.shadow import (
    ShadowAccepted,
    ShadowDelta,
    ShadowDocument,
    ShadowRejected,
    ShadowState,
    ShadowUpdate,
)
from edgec.protocol.status import (
    Health,
    ModelHealth,
    OutboxHealth,
    Presence,
    SamplesHealth,
    StageLatency,
    Status,
    StreamHealth,
)

__all__ = [
    "ENROLL_PATH", "JOB_TRANSITIONS", "MAX_PAYLOAD_BYTES", "MAX_PREDICTIONS", "MAX_SAMPLE_BYTES",
    "SAMPLES_PATH", "CommandDocument", "DetectionData", "DetectionEvent", "EnrollRequest", "EnrollResponse",
    "FrameRef", "Health", "InvalidTransition", "JobExecution", "JobState", "JobUpdate", "JobUpdateAccepted",
    "JobUpdateRejected", "JobsGet", "Message", "ModelHealth", "ModelRef", "MqttAccess", "OutboxHealth",
    "PendingJobs", "Phase", "Prediction", "Presence", "ProtocolError", "RegistryAccess", "SampleMeta",
    "SampleReason", "SamplesHealth", "SecondOpinion", "ShadowAccepted", "ShadowDelta", "ShadowDocument",
    "ShadowRejected", "ShadowState", "ShadowUpdate", "StageLatency", "Status", "StreamHealth", "UpdateDocument",
    "VersionConflict", "decode", "encode",
]  # fmt: skip
