"""The interleaved run: all variants of one comparison as processes, taking turns on the same texts."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.encoders import gemm, models
from benchmarks.encoders.engines import Spec
from benchmarks.encoders.process import ROOT, Process, environment
from benchmarks.encoders.texts import TextSet, load_sets, write_sets
from benchmarks.encoders.variants import Variant

__all__ = ["Plan", "Workplace"]

CHECKED = 256
CHECKED_BATCH = 32
Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """One comparison: a model, a text set, a number of cores; ``sentences`` for each batch size and round."""

    model: str
    texts: str
    cores: int
    sentences: Mapping[int, int]
    rounds: int
    tried: int = 32
    """Texts, at least, by which the best way to give a peer its rows is looked for."""

    @property
    def clock(self) -> str:
        """One core: CPU seconds, which other processes do not change. Several: only the wall's say how long it took."""
        return "cpu" if self.cores == 1 else "wall"


class Workplace:
    """The folder of prepared files; ``peers_python`` has the peers, ``keras_python`` the Keras recipe's libraries."""

    def __init__(
        self, folder: Path, peers_python: str, keras_python: str | None, affinity: Sequence[int], say: Say
    ) -> None:
        self.folder = folder.resolve()
        self._keras_python = keras_python
        self._peers_python = peers_python
        self._affinity = affinity
        self.say = say
        self.folder.mkdir(parents=True, exist_ok=True)
        self._sets = self.folder / "sets.json"
        if not self._sets.exists():
            write_sets(self._sets, models.minilm() / "tokenizer.json")
        self.sets: Mapping[str, TextSet] = load_sets(self._sets)

    # files

    def model_folder(self, model: str) -> Path:
        target = self.folder / model
        target.mkdir(exist_ok=True)
        return target

    def source(self, model: str) -> Path:
        return models.source(model, self.model_folder(model))

    def _run(self, what: str, python: str, *arguments: str) -> str:
        self.say(what)
        done = subprocess.run(
            [python, "-m", *arguments], cwd=ROOT, env=environment(len(self._affinity)), capture_output=True, text=True
        )
        if done.returncode:
            raise SystemExit(f"{what} failed:\n{done.stderr[-3000:]}")
        return done.stdout

    def prepare(self, model: str, step: str) -> None:
        folder = self.model_folder(model)
        if step == "keras":
            if not (folder / "keras" / "saved_model.pb").exists():
                assert self._keras_python is not None
                recipe = ("benchmarks.encoders.keras_recipe", str(self.source(model)), str(folder / "keras"))
                self._run(f"{model}: making the Keras recipe's", self._keras_python, *recipe)
        elif not (folder / f"{step}.done").exists():
            arguments = (str(self.source(model)), str(folder), str(self._sets), step)
            self._run(f"{model}: making {step}", self._peers_python, "benchmarks.encoders.prepare", *arguments)

    def exported(self, model: str, precision: str) -> Path:
        """The artifact made by the toolkit as it is now; made again when any of its files changed."""
        digest = hashlib.sha256()
        for file in sorted((ROOT / "toolkit").rglob("*.py")):
            digest.update(file.read_bytes())
        models_dir = self.model_folder(model) / "exports" / digest.hexdigest()[:12]
        target = models_dir / precision / "1"
        if not target.exists():
            models_dir.mkdir(parents=True, exist_ok=True)
            arguments = (str(self.source(model)), str(models_dir), precision, precision)
            self._run(f"{model}: exporting {precision}", sys.executable, "benchmarks.encoders.export", *arguments)
        return target

    def _path(self, model: str, variant: Variant) -> Path:
        if variant.model == "source":
            return self.source(model)
        kind, _, precision = variant.model.partition(":")
        return self.exported(model, precision) if kind == "export" else self.model_folder(model) / variant.model

    def _make(self, model: str, variant: Variant) -> None:
        """The files that the variant needs."""
        if variant.step:
            self.prepare(model, variant.step)
        self._path(model, variant)

    def start(self, model: str, variant: Variant, cores: int, sets: Path | None = None) -> Process:
        """The variant's worker, for the texts of the file ``sets``, if not those of the folder; it is still loading."""
        self._make(model, variant)
        python = self._peers_python if variant.peers else sys.executable
        path = str(self._path(model, variant))
        spec = Spec(variant.engine, path, tuple(self._affinity[-cores:]), str(sets or self._sets), variant.options)
        return Process(variant.name, python, spec)

    # the run

    def compare(self, plan: Plan, variants: Sequence[Variant]) -> dict[str, Any]:
        """Results of all variants, as JSON can hold them: see `benchmarks.encoders.report`."""
        self.prepare(plan.model, "reference")
        processes: dict[str, Process] = {}
        try:
            for variant in variants:
                self._make(plan.model, variant)
            at_once = len(self._affinity)
            for at in range(0, len(variants), at_once):
                loading = variants[at : at + at_once]
                processes |= {v.name: self.start(plan.model, v, plan.cores) for v in loading}
                for variant in loading:
                    processes[variant.name].wait_until_loaded()
            self.say("  all loaded")
            results = {v.name: self._warm(plan, v, processes[v.name]) for v in variants}
            self._rounds(plan, variants, processes, results)
            for variant in variants:
                if variant.kind != "gemm":
                    results[variant.name]["error"] = self._error(plan, processes[variant.name])
        finally:
            for process in processes.values():
                process.close()
        return {"plan": {**asdict(plan), "clock": plan.clock}, "variants": results}

    def _warm(self, plan: Plan, variant: Variant, process: Process) -> dict[str, Any]:
        """Choose the best way for each batch size, or take that of an earlier run, and warm up."""
        file = self.model_folder(plan.model) / "ways.json"
        known: dict[str, str] = json.loads(file.read_text()) if file.exists() else {}
        ways = {}
        for batch, sentences in plan.sentences.items():
            key = f"{variant.name} {plan.texts} {plan.cores} {batch}"
            way = known.get(key) if variant.kind == "peer" else None
            count = batch if variant.kind == "gemm" else sentences
            answer = process.ask(
                "warm", texts=plan.texts, batch=batch, sentences=count, way=way, clock=plan.clock, tried=plan.tried
            )  # fmt: skip
            ways[str(batch)] = known[key] = answer["way"]
        if variant.kind == "peer":
            file.write_text(json.dumps(known, indent=1))
        self.say(f"  {variant.name}: warm" + (f" ({ways})" if variant.kind == "peer" else ""))
        return {**asdict(variant), "versions": process.ready["versions"], "ways": ways, "rounds": {}}

    def _rounds(
        self, plan: Plan, variants: Sequence[Variant], processes: Mapping[str, Process], results: dict[str, Any]
    ) -> None:
        shape = models.dimensions(self.source(plan.model))
        texts = self.sets[plan.texts]
        for number in range(plan.rounds):
            turn = list(variants) if number % 2 == 0 else list(reversed(variants))
            for batch, sentences in plan.sentences.items():
                start = number * sentences
                needed = models.flops(shape, texts.lengths[texts.rows(start, sentences)])
                for variant in turn:
                    product = variant.kind == "gemm"
                    count = batch if product else sentences
                    spent = processes[variant.name].ask(
                        "run", texts=plan.texts, batch=batch, start=start, sentences=count
                    )
                    measured = {**spent, "sentences": count, "flops": gemm.FLOPS if product else needed}
                    results[variant.name]["rounds"].setdefault(str(batch), []).append(measured)
            self.say(f"  round {number + 1} of {plan.rounds}")

    def _error(self, plan: Plan, process: Process) -> dict[str, float]:
        """Against the float64 reference: the largest difference of a component, mean and smallest cosine."""
        expected = np.load(self.model_folder(plan.model) / f"reference-{plan.texts}.npy")
        batch = min(plan.sentences, key=lambda size: abs(size - CHECKED_BATCH))
        count = min(CHECKED, len(expected)) // batch * batch
        file = self.folder / "vectors.npy"
        process.ask("vectors", texts=plan.texts, batch=batch, sentences=count, file=str(file))
        found = np.load(file).astype(np.float64)
        file.unlink()
        expected = expected[:count]
        lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
        cosine = np.sum(found * expected, 1) / lengths
        return {
            "max_abs": float(np.max(np.abs(found - expected))),
            "cosine_mean": float(np.mean(cosine)),
            "cosine_min": float(np.min(cosine)),
        }
