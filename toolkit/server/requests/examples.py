"""Classify, Regress and MultiInference: signatures that take serialised ``tf.Example`` messages.

Models of this project have none, and the answer is then TF Serving's own error. For models that do, the checks, the
errors and the results are those of TF Serving's ``classifier.cc``, ``regressor.cc`` and ``multi_inference.cc``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from google.protobuf import text_format
from tensorflow.core.framework import types_pb2
from tensorflow_serving.apis import classification_pb2, inference_pb2, input_pb2, model_pb2, regression_pb2

from toolkit.server.models.servable import DEFAULT_SIGNATURE, Servable, Signature
from toolkit.server.requests.core import Core, ModelRef
from toolkit.server.requests.status import Code, ServingError, invalid
from toolkit.server.watching.metrics import Run

__all__ = ["CLASSIFY", "REGRESS", "classify", "model_ref", "multi_inference", "regress"]

Array = npt.NDArray[Any]

CLASSIFY = "tensorflow/serving/classify"
REGRESS = "tensorflow/serving/regress"


def model_ref(spec: model_pb2.ModelSpec) -> ModelRef:
    """The model that a ``ModelSpec`` names."""
    choice = spec.WhichOneof("version_choice")
    version = spec.version.value if choice == "version" else None
    return ModelRef(spec.name, version, spec.version_label if choice == "version_label" else None)


def model_spec(name: str, signature: str, version: int) -> model_pb2.ModelSpec:
    """The ``ModelSpec`` of an answer."""
    spec = model_pb2.ModelSpec(name=name, signature_name=signature)
    spec.version.value = version
    return spec


def classify(
    core: Core, request: classification_pb2.ClassificationRequest
) -> tuple[classification_pb2.ClassificationResponse, Run]:
    """``PredictionService.Classify``. Raises `ServingError`."""
    with core.leased(model_ref(request.model_spec)) as servable:
        signature = _find(servable, request.model_spec.signature_name)
        result, run = _classification(core, servable, signature, request.input)
        spec = model_spec(servable.name, signature.name, servable.version)
    return classification_pb2.ClassificationResponse(result=result, model_spec=spec), run


def regress(core: Core, request: regression_pb2.RegressionRequest) -> tuple[regression_pb2.RegressionResponse, Run]:
    """``PredictionService.Regress``. Raises `ServingError`."""
    with core.leased(model_ref(request.model_spec)) as servable:
        signature = _find(servable, request.model_spec.signature_name)
        result, run = _regression(core, servable, signature, request.input)
        spec = model_spec(servable.name, signature.name, servable.version)
    return regression_pb2.RegressionResponse(result=result, model_spec=spec), run


def multi_inference(
    core: Core, request: inference_pb2.MultiInferenceRequest
) -> tuple[inference_pb2.MultiInferenceResponse, Run | None]:
    """``PredictionService.MultiInference``. Raises `ServingError`."""
    first = request.tasks[0].model_spec if request.tasks else model_pb2.ModelSpec()
    response = inference_pb2.MultiInferenceResponse()
    run: Run | None = None
    with core.leased(model_ref(first)) as servable:
        seen: set[str] = set()
        for task in request.tasks:
            if not task.model_spec.name:
                raise invalid("Found ModelSpec with an empty model name.")
            if task.model_spec.name != first.name:
                raise invalid("All ModelSpecs in a MultiInferenceRequest must access the same model name.")
            name = task.model_spec.signature_name or DEFAULT_SIGNATURE
            if name in seen:
                raise invalid(f"Duplicate evaluation of signature: {name}")
            seen.add(name)
            if name not in servable.signatures:
                raise invalid(f"Requested signature not found in model graph: {name}")
            if task.method_name not in (CLASSIFY, REGRESS):
                raise ServingError(Code.UNIMPLEMENTED, f"Unsupported signature method_name: {task.method_name}")
            signature = servable.signatures[name]
            _ = _check_classify(signature) if task.method_name == CLASSIFY else _check_regress(signature)
        for task in request.tasks:
            signature = servable.signatures[task.model_spec.signature_name or DEFAULT_SIGNATURE]
            result = response.results.add(model_spec=model_spec(servable.name, signature.name, servable.version))
            if task.method_name == CLASSIFY:
                classes, run = _classification(core, servable, signature, request.input)
                result.classification_result.CopyFrom(classes)
            else:
                values, run = _regression(core, servable, signature, request.input)
                result.regression_result.CopyFrom(values)
    return response, run


def _find(servable: Servable, name: str) -> Signature:
    signature = servable.signature(name)
    if signature is None:
        raise invalid(f"No signature was found with the name: {name or DEFAULT_SIGNATURE}")
    return signature


def _debug(signature: Signature) -> str:
    return str(text_format.MessageToString(signature.definition))


def _check_classify(signature: Signature) -> tuple[str, ...]:
    if len(signature.inputs) != 1:
        raise invalid("Expected one input Tensor.")
    if len(signature.outputs) not in (1, 2):
        raise invalid(f"Expected one or two output Tensors, found {len(signature.outputs)}")
    if "inputs" not in signature.inputs:
        raise invalid(f"No classification inputs found in SignatureDef: {_debug(signature)}")
    found = tuple(alias for alias in ("classes", "scores") if alias in signature.outputs)
    if not found:
        raise invalid(
            'Expected classification signature outputs to contain at least one of "classes" or "scores". '
            f"Signature was: {_debug(signature)}"
        )
    return found


def _check_regress(signature: Signature) -> tuple[str, ...]:
    if len(signature.inputs) != 1:
        raise invalid("Expected one input Tensor.")
    if len(signature.outputs) != 1:
        raise invalid("Expected one output Tensor.")
    if "inputs" not in signature.inputs:
        raise invalid(f"No regression inputs found in SignatureDef: {_debug(signature)}")
    if "outputs" not in signature.outputs:
        raise invalid(f"No regression outputs found in SignatureDef: {_debug(signature)}")
    return ("outputs",)


def _serialized(given: input_pb2.Input) -> Array:
    """The request's examples as serialised bytes ``[batch]``; a context's features join those of each example."""
    match given.WhichOneof("kind"):
        case "example_list":
            values = [example.SerializeToString() for example in given.example_list.examples]
        case "example_list_with_context":
            values = []
            for example in given.example_list_with_context.examples:
                merged = type(example)()
                merged.CopyFrom(given.example_list_with_context.context)
                merged.MergeFrom(example)
                values.append(merged.SerializeToString())
        case _:
            raise invalid("Input is empty.")
    if not values:
        raise invalid("Input is empty.")
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def _classification(
    core: Core, servable: Servable, signature: Signature, given: input_pb2.Input
) -> tuple[classification_pb2.ClassificationResult, Run]:
    found = _check_classify(signature)
    examples = _serialized(given)
    answer = core.run(servable, signature, {"inputs": examples}, found)
    outputs = answer.outputs
    for alias, array in outputs.items():
        if array.ndim != 2:
            raise invalid(f"Expected Tensor shape: [batch_size num_classes] but got {list(array.shape)}")
        if array.shape[0] != len(examples):
            raise invalid(f"Expected {alias} output batch size of {len(examples)}. Got: {array.shape[0]}")
    if "classes" in outputs and signature.outputs["classes"].dtype != types_pb2.DT_STRING:
        raise invalid("Expected classes Tensor of DT_STRING.")
    result = classification_pb2.ClassificationResult()
    for row in range(len(examples)):
        classes = result.classifications.add()
        for column in range(next(iter(outputs.values())).shape[1]):
            item = classes.classes.add()
            if "classes" in outputs:
                item.label = outputs["classes"][row, column].decode("utf-8", "replace")
            if "scores" in outputs:
                item.score = float(outputs["scores"][row, column])
    return result, answer.run


def _regression(
    core: Core, servable: Servable, signature: Signature, given: input_pb2.Input
) -> tuple[regression_pb2.RegressionResult, Run]:
    found = _check_regress(signature)
    examples = _serialized(given)
    answer = core.run(servable, signature, {"inputs": examples}, found)
    array = answer.outputs["outputs"]
    if array.ndim not in (1, 2) or (array.ndim == 2 and array.shape[1] != 1):
        raise invalid(
            f"Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got {array.shape}"
        )
    if array.shape[0] != len(examples):
        raise invalid(f"Input batch size did not match output batch size: {len(examples)} vs. {array.shape[0]}")
    values = array.reshape(-1).tolist()
    return regression_pb2.RegressionResult(
        regressions=[regression_pb2.Regression(value=value) for value in values]
    ), answer.run
