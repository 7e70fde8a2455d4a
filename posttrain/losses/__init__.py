"""The loss interface and its terms. Importing it registers every term."""

from posttrain.losses import policy
from posttrain.losses.api import Gate, Objective, Part, Term, View

__all__ = ["Gate", "Objective", "Part", "Term", "View", "policy"]
