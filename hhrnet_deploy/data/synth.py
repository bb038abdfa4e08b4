"""Synthetic people: draw a set (:func:`synthesize`) or get a committed one (:func:`ensure_synthetic`).

The generator is fixed once released: any change of a pixel or a label raises :data:`GENERATOR_VERSION`.
"""

from __future__ import annotations

from hhrnet_deploy.data.synth_cache import cache_folder, ensure_synthetic
from hhrnet_deploy.data.synth_image import GENERATOR, GENERATOR_VERSION
from hhrnet_deploy.data.synth_writer import SynthResult, synthesize

__all__ = ["GENERATOR", "GENERATOR_VERSION", "SynthResult", "cache_folder", "ensure_synthetic", "synthesize"]
