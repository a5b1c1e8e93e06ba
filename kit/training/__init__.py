"""Training at home: recipes, folds, cache, augmentation, the loop, runs and ensembles."""

from kit.training.recipe import Recipe

__all__ = ["Recipe"]
