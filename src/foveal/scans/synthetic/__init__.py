"""Synthetic eyes: fundus photographs with exact vessels, landmarks and lesions."""

from foveal.scans.synthetic.degradation import degrade
from foveal.scans.synthetic.eye import BranchPoint, OpticDisc, Segment, SyntheticEye, synthesize_eye
from foveal.scans.synthetic.lesions import LESION_KINDS

__all__ = ["LESION_KINDS", "BranchPoint", "OpticDisc", "Segment", "SyntheticEye", "degrade", "synthesize_eye"]
