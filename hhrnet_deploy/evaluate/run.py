"""Evaluating a model on a data set, alone or beside a reference."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from hhrnet_deploy.config import InferenceConfig
from hhrnet_deploy.data.coco import KeypointDataset, Sample, open_dataset
from hhrnet_deploy.errors import InputError
from hhrnet_deploy.evaluate.bootstrap import paired_interval
from hhrnet_deploy.evaluate.identity import Candidate, candidate_of, run_identity
from hhrnet_deploy.evaluate.partial import ImageRecord, PartialResults
from hhrnet_deploy.evaluate.report import EvaluationReport, ModelReport
from hhrnet_deploy.evaluate.results import write_results
from hhrnet_deploy.evaluate.tally import Tally
from hhrnet_deploy.targets.photos import PhotoPeople, check_fits, plan_photo, stream_photos
from hhrnet_deploy.targets.runner import Decoder, Runner

Advance = Callable[[int, str], None]
Model = Candidate | Runner | str | Path
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvaluationOptions:
    """How an evaluation runs; none of it changes the figures but ``limit``.

    Attributes:
        decoder: ``native`` or ``reference``.
        limit: evaluate only the first images of the data set.
        batch: most photos per batch.
        workers: threads that read and warp photos, per model.
        partial: file for the results so far, removed at the end; None keeps them in memory only.
        keep_partial: leave that file: both models' people, image by image.
        resume: continue from ``partial``; it has to be of the same models, data and settings.
        output: file for the subject's people in the official results format.
        resamples: of the bootstrap interval.
    """

    decoder: Decoder = "native"
    limit: int | None = None
    batch: int = 1
    workers: int = 2
    partial: Path | None = None
    keep_partial: bool = False
    resume: bool = False
    output: Path | None = None
    resamples: int = 1000


def evaluate(
    subject: Model,
    dataset: KeypointDataset | str | Path,
    *,
    reference: Model | None = None,
    config: InferenceConfig | None = None,
    options: EvaluationOptions = EvaluationOptions(),
    advance: Advance = lambda done, note: None,
) -> EvaluationReport:
    """AP of a model on a data set; with a reference also the drop, its interval and the agreement.

    Args:
        subject: an engine bundle, an ONNX file, a checkpoint, ``"default"``, a candidate, or a runner not yet open.
        dataset: a data set or the folder of one (split val2017).
        reference: the model the subject is held against, on the same photos with the same settings.
        config: sizes, scales and decode settings; by default the published ones with the subject's short side.
        options: limit, batches, files.
        advance: called with the number of images done and a note.

    Raises:
        InputError: the data set does not fit the models, photos are missing or do not fit a fixed-size engine, or the
            partial results are of another run.
    """
    data = (dataset if isinstance(dataset, KeypointDataset) else open_dataset(dataset))[: options.limit]
    models = [subject] if reference is None else [subject, reference]
    return _Evaluation(models, data, config, options).run(advance)


def check_data(runner: Runner, data: KeypointDataset) -> None:
    """Find before anything has run what `evaluate` would refuse: other joints, missing photos, bad annotations.

    Raises:
        InputError: with the first of them.
    """
    _Evaluation([runner], data, None, EvaluationOptions())


class _Evaluation:
    """One run: checked when made, then image by image."""

    def __init__(
        self,
        models: Sequence[Model],
        data: KeypointDataset,
        config: InferenceConfig | None,
        options: EvaluationOptions,
    ) -> None:
        if not len(data):
            raise InputError("There are no images to evaluate.", hint="Choose another --split or a larger --limit.")
        self.options = options
        self.data = data
        self._size_noted = False
        candidates = [candidate_of(model) for model in models]
        self.runners = [candidate.runner for candidate in candidates]
        self.config = config or InferenceConfig(short_side=self.runners[0].info.short_side)
        for runner in self.runners:
            _check_skeleton(runner, self.config, data)
        _check_photos(data, self.runners, self.config)
        self.tally = Tally(data, with_reference=len(models) > 1)
        fingerprints = [candidate.fingerprint for candidate in candidates]
        self.identity = run_identity(fingerprints, data, self.config, options.decoder)

    def run(self, advance: Advance) -> EvaluationReport:
        with ExitStack() as stack:
            partial = self._partial(stack)
            self._evaluate_images(partial, advance)
            report = self._report()
            if partial is not None and self.options.output is not None:
                people = ((record.image_id, record.subject) for record in partial.records())
                write_results(self.options.output, people, category_id=self.data.category_id)
        if partial is not None and not self.options.keep_partial:
            partial.remove()
        return report

    def _partial(self, stack: ExitStack) -> PartialResults | None:
        path = self.options.partial
        if path is None and self.options.output is not None:
            path = partial_path(self.options.output)
        if path is None:
            return None
        return stack.enter_context(PartialResults(path, self.identity, resume=self.options.resume))

    def _evaluate_images(self, partial: PartialResults | None, advance: Advance) -> None:
        if partial is not None and self.options.resume:
            for record in partial.records():
                self.tally.add(record)
        done = len(self.tally)
        advance(done, "continued" if done else "")
        for record in self._records(range(done, len(self.data))):
            if partial is not None:
                partial.append(record)
            self.tally.add(record)
            advance(len(self.tally), f"{self.tally.subject.found} people")

    def _records(self, numbers: range) -> Iterator[ImageRecord]:
        """The models' people image by image; the models run at the same time, each over photos of its own."""
        if not numbers:
            return
        with ExitStack() as stack:
            for runner in self.runners:
                stack.enter_context(runner)
            streams = [stack.enter_context(closing(self._stream(runner, numbers))) for runner in self.runners]
            for results in zip(*streams, strict=True):
                sample = self.data[results[0].key]
                self._note_size(sample, results[0].photo_size)
                yield ImageRecord(
                    image_id=sample.image_id,
                    network_scale=results[0].network_scale,
                    subject=results[0].people,
                    reference=results[1].people if len(results) > 1 else None,
                )

    def _note_size(self, sample: Sample, found: tuple[int, int]) -> None:
        """Warn, once, of a photo of another size than annotated: its joints would be looked for in other places."""
        if self._size_noted or not self.data.has_annotations or found == (sample.width, sample.height):
            return
        self._size_noted = True
        _log.warning(
            "%s is %dx%d, the annotation file has %dx%d: its joints are compared at the wrong places. "
            "`hhrnet data check` lists all such photos.",
            sample.path,
            *found,
            sample.width,
            sample.height,
        )

    def _stream(self, runner: Runner, numbers: range) -> Generator[PhotoPeople[int], None, None]:
        photos = ((number, self.data[number].path) for number in numbers)
        options = self.options
        return stream_photos(
            runner, photos, self.config, decoder=options.decoder, batch=options.batch, workers=options.workers
        )

    def _report(self) -> EvaluationReport:
        tally, interval = self.tally, None
        models = [model for model in (tally.subject, tally.reference) if model is not None]
        matches = [tally.matches(model) for model in models] if self.data.has_annotations else None
        if matches is not None and len(matches) > 1:
            interval = paired_interval(matches[1], matches[0], resamples=self.options.resamples)
        rows = [
            ModelReport(
                name=runner.info.name,
                kind=runner.info.kind,
                metrics={} if matches is None else tally.metrics(matches[number]),
                people=model.found,
                broken_people=model.broken,
            )
            for number, (runner, model) in enumerate(zip(self.runners, models, strict=True))
        ]
        return EvaluationReport(
            subject=rows[0],
            reference=rows[1] if len(rows) > 1 else None,
            interval=interval,
            agreement=tally.agreement(),
            images=len(tally),
            data=f"{self.data.split} of {self.data.root}",
            results_file=self.options.output,
        )


def partial_path(output: Path) -> Path:
    """Where the partial results of a results file lie."""
    return output.with_name(f"{output.stem}.partial.jsonl")


def _check_skeleton(runner: Runner, config: InferenceConfig, data: KeypointDataset) -> None:
    # A skeleton in the settings says what the joints of the model are, whatever it calls them itself.
    mine, theirs = config.decode.skeleton or runner.info.skeleton, data.skeleton
    if mine.joints != theirs.joints or mine.num_joints != runner.info.skeleton.num_joints:
        raise InputError(
            f"{runner.info.name} finds {runner.info.skeleton.num_joints} joints ({mine.name}), the data set "
            f"{data.root} has {theirs.num_joints} ({theirs.name}).",
            hint="Evaluate on a data set with the model's joints; --skeleton describes joints of your own.",
        )


def _check_photos(data: KeypointDataset, runners: Sequence[Runner], config: InferenceConfig) -> None:
    """Find before the first image what would otherwise stop the run after hours."""
    missing = [sample.path for sample in data if not sample.path.is_file()]
    if missing:
        raise InputError(
            f"{len(missing)} of {len(data)} photos are missing, the first is {missing[0]}.",
            hint="`hhrnet data check` lists them.",
        )
    misfits = [(sample.path, reason) for sample in data if (reason := _misfit(sample, runners, config)) is not None]
    if misfits:
        path, reason = misfits[0]
        raise InputError(
            f"{len(misfits)} of {len(data)} photos do not fit, the first is {path}: {reason.fact}", hint=reason.hint
        )


def _misfit(sample: Sample, runners: Sequence[Runner], config: InferenceConfig) -> InputError | None:
    size = (sample.width, sample.height)
    try:
        plan_photo(config, size)
        for runner in runners:
            check_fits(runner, config, size)
    except InputError as error:
        return error
    return None
