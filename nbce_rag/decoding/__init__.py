"""From requests to answers: rows, their keys and values, and the loop that decodes them in lock-step."""
