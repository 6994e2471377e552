"""The ways to make a teacher, by `recipe`."""

from pretraining.classify import Classification
from pretraining.distil import Distillation
from pretraining.job import Job

RECIPES: dict[str, type[Job]] = {"classify": Classification, "distil": Distillation}
