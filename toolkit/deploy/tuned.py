"""What `sentence-serving tune` found, as the files that a deployment reads."""

from __future__ import annotations

import re

from toolkit.deploy.render import RuntimeOptions, batching_config
from toolkit.errors import InputError
from toolkit.loadtest.tune import Candidate, Tried

__all__ = ["candidate_batching", "cpu_target", "tuned_files"]

_HEADER = "# Written by `sentence-serving tune`; tune again instead of editing.\n"
_MIB = 1 << 20
_MOST_REQUEST_ROWS = 1024
# Pods are added while there is still room: at this share of the CPU that the highest rate takes.
_HEADROOM = 0.8


def candidate_batching(candidate: Candidate) -> str:
    """The ``batching.config`` of a candidate that batches rows."""
    text = batching_config(
        RuntimeOptions(
            cpus=candidate.threads,
            max_batch_size=candidate.size,
            max_request_rows=max(_MOST_REQUEST_ROWS, candidate.size),
            batch_timeout_micros=candidate.wait_micros,
            # the queue has room for the largest request
            max_enqueued_batches=max(64, -(-_MOST_REQUEST_ROWS // candidate.size)),
        )
    )
    return re.sub(r"\A# Written by .*\n", _HEADER, text)


def cpu_target(tried: Tried, cpus: int) -> int | None:
    """Per cent of a replica's CPUs at which an autoscaler adds one: 80 % of what the highest rate takes, between 30 and
    90. ``None`` where the server does not say what it takes."""
    if tried.cpu is None:
        return None
    return min(90, max(30, int(100 * _HEADROOM * tried.cpu / cpus)))


def tuned_files(winner: Tried, model: str, size: int, cpus: int) -> dict[str, str]:
    """Relative path to text. ``size``: bytes of the model on disk; ``cpus``: of the server that was measured.

    Memory: what the server had resident at most, a quarter more, and the model twice (the version that replaces it, and
    the buffers in which it is read).
    """
    if winner.memory is None:
        raise InputError("nothing was measured that settings could be written from")
    need = winner.memory * 5 // 4 + 2 * size
    memory = -(-need // (256 * _MIB)) * 256
    files = {
        "serving/model.env": f"{_HEADER}# CPUs and memory of a replica, as measured; the probes' model.\n"
        f"MODEL_NAME={model}\nCPUS={cpus}\nMEMORY={memory}Mi\n",
        "k8s/components/tuned/kustomization.yaml": _component(winner, cpus),
    }
    if winner.candidate.batching == "rows":
        files["serving/batching.config"] = candidate_batching(winner.candidate)
    return files


def _component(winner: Tried, cpus: int) -> str:
    text = f"""{_HEADER}# List it after the autoscaler's component.
apiVersion: kustomize.config.k8s.io/v1alpha1
kind: Component
patches:
  - target: {{kind: Deployment, name: sentence-serving}}
    patch: |-
      - op: add
        path: /spec/template/spec/containers/0/env/-
        value: {{name: SERVING_THREADS, value: "{winner.candidate.threads}"}}
      - op: add
        path: /spec/template/spec/containers/0/env/-
        value: {{name: SERVING_THREADS_PER_OP, value: "{winner.candidate.threads_per_op}"}}
"""
    target = cpu_target(winner, cpus)
    if target is None:
        return text
    return f"""{text}  # {winner.cpu:.2f} of {cpus} CPUs work at the highest rate that holds; 80 % of it adds a replica.
  - target: {{kind: HorizontalPodAutoscaler, name: sentence-serving}}
    patch: |-
      - op: replace
        path: /spec/metrics/0/containerResource/target/averageUtilization
        value: {target}
  - target: {{kind: ScaledObject, name: sentence-serving}}
    patch: |-
      - op: replace
        path: /spec/triggers/0/metadata/value
        value: "{target}"
"""
