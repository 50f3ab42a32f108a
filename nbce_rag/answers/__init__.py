"""What comes back: answers, comparisons, scores of given choices."""
