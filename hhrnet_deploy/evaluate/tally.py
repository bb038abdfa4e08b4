"""Gathering an evaluation image by image, in memory that holds people but no pixels."""

from __future__ import annotations

import numpy as np

from hhrnet_deploy.data.coco import KeypointDataset, Sample
from hhrnet_deploy.evaluate.agreement import MAX_PEOPLE as AGREEMENT_PEOPLE
from hhrnet_deploy.evaluate.agreement import Agreement, agreement_ap, same_people
from hhrnet_deploy.evaluate.matching import MAX_PEOPLE, ImageTruth, Matches, annotated, match
from hhrnet_deploy.evaluate.metrics import Metrics, coco_metrics, crowd_indices, crowdpose_metrics
from hhrnet_deploy.evaluate.partial import ImageRecord
from hhrnet_deploy.evaluate.results import finite
from hhrnet_deploy.people import People


class ModelTally:
    """The people of one model, as many per image as count."""

    def __init__(self, limit: int) -> None:
        self.people: list[People] = []
        self.found = 0
        self.broken = 0
        self._limit = limit

    def add(self, people: People) -> None:
        """Take the people of the next image."""
        clean, broken = finite(people)
        self.found += len(people)
        self.broken += broken
        kept = clean.highest(self._limit)
        # Copies without tags, so that nothing keeps the arrays of a whole batch alive.
        no_tags = np.zeros((len(kept), kept.num_joints, 0), np.float32)
        self.people.append(People(kept.keypoints.copy(), kept.scores.copy(), no_tags))


class Tally:
    """Everything the figures need: the annotations from the start, the people image by image in the data set's order.

    Raises:
        InputError: annotations are not usable; before any image is run.
    """

    def __init__(self, dataset: KeypointDataset, *, with_reference: bool) -> None:
        limit = AGREEMENT_PEOPLE if with_reference else MAX_PEOPLE
        self.subject = ModelTally(limit)
        self.reference = ModelTally(limit) if with_reference else None
        self._different = 0
        self._dataset = dataset
        self._truth = [self._truth_of(sample) for sample in dataset]
        scored_by_crowding = dataset.kind == "crowdpose" and dataset.has_annotations
        self._crowd_index = crowd_indices(dataset.annotation_file) if scored_by_crowding else None

    def __len__(self) -> int:
        return len(self.subject.people)

    def add(self, record: ImageRecord) -> None:
        """Take the next image of the data set."""
        expected = self._truth[len(self)].image_id
        assert record.image_id == expected, f"image {record.image_id} came where {expected} was due"
        self.subject.add(record.subject)
        if self.reference is not None and record.reference is not None:
            self.reference.add(record.reference)
            if not same_people(record.reference, record.subject, network_scale=record.network_scale):
                self._different += 1

    def matches(self, model: ModelTally) -> Matches:
        """A model's people matched with the annotations."""
        return match(self._truth, model.people, self._dataset.skeleton.sigmas)

    def metrics(self, matches: Matches) -> Metrics:
        """The data set's figures."""
        if self._crowd_index is not None:
            return crowdpose_metrics(matches, self._crowd_index)
        return coco_metrics(matches)

    def agreement(self) -> Agreement | None:
        """The subject against the reference."""
        if self.reference is None:
            return None
        image_ids = [truth.image_id for truth in self._truth]
        ap = agreement_ap(image_ids, self.reference.people, self.subject.people, self._dataset.skeleton)
        return Agreement(ap, self._different)

    def _truth_of(self, sample: Sample) -> ImageTruth:
        wanted = self._dataset.category_id
        people = [item for item in sample.annotations if item.get("category_id", wanted) == wanted]
        return annotated(sample.image_id, people, self._dataset.skeleton)
