"""What is made for one attempt of an agent: a Secret that owns a Pod and a Service, and a claim that nobody owns.

The pod is bare (`restartPolicy: Never`), where the specification has a Deployment: an agent's workflow decides whether,
when and how often it is begun again, and a second owner of that decision would fight with it.
"""

import math
from typing import Any

from core.domain import environment as env
from core.domain.placement import RUNTIME_DEFAULT, ProfileClaim, Toleration
from core.domain.timings import Timings
from core.runtime.base import AgentSpec
from k8s import marks
from k8s.names import attempt_name, profile_name

Manifest = dict[str, Any]

API_PORT, VNC_PORT = 8080, 6080
TOKEN_KEY = "token"  # noqa: S105  the entry's name in the Secret, not a token
CONTAINER = "agent"
_MODEL_KEY = "llm-api-key"
_USER = 10001
_PROFILE_FOLDER = "/profile"
_WORK_FOLDER = "/tmp/agent"  # noqa: S108  the container's own /tmp
_SHM_SIZE = "256Mi"
_SCRATCH_SIZE = "1Gi"
# Beyond the deadline of the agent's workflow, which is to speak first.
_START_MARGIN_SECONDS = 15
_LIVENESS_SECONDS = 10


def secret(spec: AgentSpec, installation: str) -> Manifest:
    """Made first. Immutable: the token in force is the first one's, whoever tries again."""
    data = {TOKEN_KEY: spec.token.get_secret_value()}
    if spec.model is not None:
        data[_MODEL_KEY] = spec.model.api_key.get_secret_value()
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": _metadata(spec, installation),
        "type": "Opaque",
        "immutable": True,
        "stringData": data,
    }


def service(spec: AgentSpec, installation: str, owner: Manifest) -> Manifest:
    """Headless: its name leads to the pod's address without a rule for each agent on every node."""
    own = marks.labels(spec, installation)
    metadata = _metadata(spec, installation, owner)
    outside = spec.template.kubernetes.load_balancer
    if outside is None:
        reached: Manifest = {"clusterIP": "None"}
    else:
        reached = {
            "type": "LoadBalancer",
            "loadBalancerSourceRanges": [str(each) for each in outside.source_ranges],
        }
        # Ours are read back, so no template may put others in their place.
        metadata["annotations"] = outside.annotations | metadata["annotations"]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata,
        "spec": {
            **reached,
            # Whether the agent is usable is known over its channel, a second before its probe says so.
            "publishNotReadyAddresses": True,
            "selector": {key: own[key] for key in ("app", "agentId", "berth.dev/attempt", marks.INSTALLATION)},
            "ports": [
                {"name": "api", "port": API_PORT, "targetPort": "api"},
                {"name": "vnc", "port": VNC_PORT, "targetPort": "vnc"},
            ],
        },
    }


def claim(spec: AgentSpec, wanted: ProfileClaim, installation: str) -> Manifest:
    """The volume of a profile. Without an owner: it outlives every life of the user's project."""
    name = profile_name(installation, spec.user_id, spec.project_id)
    own = marks.labels(spec, installation)
    kept = {key: own[key] for key in ("userId", "projectId", marks.INSTALLATION, marks.PROFILE)}
    full = marks.annotations(spec)
    volume: Manifest = {
        "accessModes": [wanted.access_mode.value],
        "resources": {"requests": {"storage": wanted.size}},
    }
    if wanted.storage_class is not None:
        volume["storageClassName"] = wanted.storage_class
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {
            "name": name,
            "labels": {"app": "agent-profile", **kept},
            "annotations": {key: full[key] for key in ("berth.dev/user-id", "berth.dev/project-id")},
        },
        "spec": volume,
    }


def pod(spec: AgentSpec, installation: str, owner: Manifest, timings: Timings) -> Manifest:
    """The agent, hardened as the `restricted` level asks. `timings` are those of the template, or the general ones."""
    wanted = spec.template.kubernetes
    found: Manifest = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        # When the node tells it to go; Berth's own deletes bring their own.
        "terminationGracePeriodSeconds": math.ceil(timings.shutdown_seconds),
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _USER,
            "runAsGroup": _USER,
            "fsGroup": _USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": _seccomp(wanted.seccomp_profile),
        },
        "containers": [_container(spec, timings)],
        "volumes": [
            {"name": "tmp", "emptyDir": {"sizeLimit": _SCRATCH_SIZE}},
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": _SHM_SIZE}},
            {"name": "profile", **_profile(spec, installation)},
        ],
    }
    if wanted.node_selector:
        found["nodeSelector"] = wanted.node_selector
    if wanted.affinity or spec.away_from is not None:
        found["affinity"] = _affinity(wanted.affinity, spec.away_from)
    if wanted.tolerations:
        found["tolerations"] = [toleration(each) for each in wanted.tolerations]
    if wanted.priority_class is not None:
        found["priorityClassName"] = wanted.priority_class
    if wanted.runtime_class is not None:
        found["runtimeClassName"] = wanted.runtime_class
    if wanted.pull_secrets:
        found["imagePullSecrets"] = [{"name": name} for name in wanted.pull_secrets]
    if wanted.topology_spread is not None:
        found["topologySpreadConstraints"] = [
            {
                "maxSkew": wanted.topology_spread.max_skew,
                "topologyKey": wanted.topology_spread.topology_key,
                "whenUnsatisfiable": "DoNotSchedule" if wanted.topology_spread.hard else "ScheduleAnyway",
                "labelSelector": {"matchLabels": {"app": marks.APP, marks.INSTALLATION: installation}},
            }
        ]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": _metadata(spec, installation, owner), "spec": found}


def _affinity(wanted: Manifest, away_from: str | None) -> Manifest:
    """`wanted`, and never on the node `away_from`, which is added to each of its alternatives."""
    if away_from is None:
        return wanted
    not_there = {"key": "metadata.name", "operator": "NotIn", "values": [away_from]}
    of_nodes: Manifest = wanted.get("nodeAffinity") or {}
    required: Manifest = of_nodes.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    terms = required.get("nodeSelectorTerms") or [{}]
    held = [{**term, "matchFields": [*(term.get("matchFields") or ()), not_there]} for term in terms]
    whole = {**required, "nodeSelectorTerms": held}
    return {**wanted, "nodeAffinity": {**of_nodes, "requiredDuringSchedulingIgnoredDuringExecution": whole}}


def limits_of(cpu: float, memory_mib: int) -> Manifest:
    return {"cpu": _cores(cpu), "memory": f"{memory_mib}Mi"}


def toleration(wanted: Toleration) -> Manifest:
    found: Manifest = {"operator": wanted.operator.value}
    if wanted.key is not None:
        found["key"] = wanted.key
    if wanted.value is not None:
        found["value"] = wanted.value
    if wanted.effect is not None:
        found["effect"] = wanted.effect.value
    if wanted.toleration_seconds is not None:
        found["tolerationSeconds"] = wanted.toleration_seconds
    return found


def _container(spec: AgentSpec, timings: Timings) -> Manifest:
    asked = spec.template.resources
    return {
        "name": CONTAINER,
        "image": spec.template.image,
        "imagePullPolicy": spec.template.kubernetes.pull_policy.value,
        "env": _environment(spec),
        "ports": [{"name": "api", "containerPort": API_PORT}, {"name": "vnc", "containerPort": VNC_PORT}],
        "resources": {
            "requests": {"cpu": _cores(asked.cpu), "memory": f"{asked.memory_mib}Mi"},
            "limits": limits_of(asked.cpu_limit, asked.memory_limit_mib),
        },
        # Other limits come to a running agent: its browser goes on.
        "resizePolicy": [{"resourceName": each, "restartPolicy": "NotRequired"} for each in ("cpu", "memory")],
        **_probes(spec, timings),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        # The agent says why it ends in /dev/termination-log; where it could not, the end of its log stands there.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108  the container's own
            {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108  the container's own
            {"name": "profile", "mountPath": _PROFILE_FOLDER},
        ],
    }


def _probes(spec: AgentSpec, timings: Timings) -> Manifest:
    ask = {"httpGet": {"path": "/health", "port": "api"}}
    # Each look that comes too early is an event of its own in the cluster, so the second one is worth saving where
    # the channel says ready.
    period = 1 if spec.template.kubernetes.ready_by == "probe" else 2
    budget = timings.ready_deadline_seconds + _START_MARGIN_SECONDS
    # An agent that is saving before it leaves says that it is not well.
    patience = max(3, math.ceil(timings.shutdown_seconds / _LIVENESS_SECONDS) + 1)
    return {
        "startupProbe": {
            **ask,
            "periodSeconds": period,
            "timeoutSeconds": 2,
            "failureThreshold": math.ceil(budget / period),
        },
        "readinessProbe": {**ask, "periodSeconds": 2, "timeoutSeconds": 2, "failureThreshold": 2},
        "livenessProbe": {
            **ask,
            "periodSeconds": _LIVENESS_SECONDS,
            "timeoutSeconds": 5,
            "failureThreshold": patience,
            # What hangs would sit out the pod's whole grace.
            "terminationGracePeriodSeconds": 5,
        },
    }


def _environment(spec: AgentSpec) -> list[Manifest]:
    plain = dict(spec.template.environment)
    if spec.model is not None:
        plain[env.LLM_BASE_URL] = spec.model.base_url
        plain[env.LLM_MODEL] = spec.model.model
    plain |= {
        env.AGENT_ID: spec.agent_id,
        env.AGENT_ATTEMPT: str(spec.attempt),
        env.USER_ID: spec.user_id,
        env.PROJECT_ID: spec.project_id,
        env.MAIN_BACKEND_URL: spec.backend_url,
        env.AGENT_HOST: "0.0.0.0",  # noqa: S104  of the pod alone
        env.AGENT_PORT: str(API_PORT),
        env.NOVNC_PORT: str(VNC_PORT),
        env.AGENT_PROFILE: _PROFILE_FOLDER,
        env.AGENT_WORK: _WORK_FOLDER,
        env.AGENT_BROWSER: spec.template.browser.model_dump_json(),
        env.AGENT_HEARTBEAT_SECONDS: str(spec.heartbeat_seconds),
        env.AGENT_OWN_NETWORK: "1",
        "HOME": "/tmp",  # noqa: S108  a user without a name has no home; the root is read-only
    }
    secret_ = {env.AGENT_TOKEN: TOKEN_KEY} | ({env.LLM_API_KEY: _MODEL_KEY} if spec.model is not None else {})
    for name in secret_:
        plain.pop(name, None)
    name_of_secret = attempt_name(spec.agent_id, spec.attempt)
    return [
        # `$(NAME)` in a value is replaced by the cluster, so a user's id could fetch what is not its own.
        *({"name": name, "value": value.replace("$", "$$")} for name, value in plain.items()),
        *(
            {
                "name": name,
                "valueFrom": {
                    # The Secret may be of an earlier try, when there was no model yet.
                    "secretKeyRef": {"name": name_of_secret, "key": key, "optional": key != TOKEN_KEY}
                },
            }
            for name, key in secret_.items()
        ),
    ]


def _profile(spec: AgentSpec, installation: str) -> Manifest:
    if spec.template.kubernetes.profile is None:
        return {"emptyDir": {"sizeLimit": _SCRATCH_SIZE}}
    name = profile_name(installation, spec.user_id, spec.project_id)
    return {"persistentVolumeClaim": {"claimName": name}}


def _seccomp(profile: str) -> Manifest:
    if profile == RUNTIME_DEFAULT:
        return {"type": RUNTIME_DEFAULT}
    return {"type": "Localhost", "localhostProfile": profile}


def _metadata(spec: AgentSpec, installation: str, owner: Manifest | None = None) -> Manifest:
    found: Manifest = {
        "name": attempt_name(spec.agent_id, spec.attempt),
        "labels": marks.labels(spec, installation),
        "annotations": marks.annotations(spec),
    }
    if owner is not None:
        meta = owner["metadata"]
        found["ownerReferences"] = [
            {"apiVersion": "v1", "kind": owner["kind"], "name": meta["name"], "uid": meta["uid"]}
        ]
    return found


def _cores(value: float) -> str:
    return f"{math.ceil(round(value * 1000, 6))}m"
