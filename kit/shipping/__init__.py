"""From trained folds to Kaggle: bundles, notebooks and rehearsals."""
