"""From what a base model predicts to results: the same functions for prediction, evaluation and explanation."""
