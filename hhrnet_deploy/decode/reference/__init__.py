"""The readable specification of decoding, in NumPy: one module per step of the published inference.

aggregate -> project -> peaks -> grouping (assignment) -> adjust -> refine. The compiled decoders compute the same
bits; this one is for reading and comparing.
"""
